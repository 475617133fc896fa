"""The packets of the sandbox game (subprotocol `moo.v1`): what they are, and their bytes.

Every packet is one binary WebSocket message that holds one msgpack value:

    [code, [argument, ...]]          92 a2 33 33 91 cb 3f f8 00 00 00 00 00 00
                                     array of 2, "33" (move), array of 1, the float 1.5

The code is a short text that is easy to find in a capture; the two directions have codes of
their own. Lists of entities are flat: a row's columns stand in the list one after another, and
the next row follows without a bracket of its own.

`PACKETS` at the end is the whole protocol as data: `python3 -m net.sandbox_packets` prints it as a
table.

Units and numbers, in all packets:

- Positions and lengths are whole world units. x grows to the right, y grows downwards, and both
  go from 0 to the `world` of `Init`. One unit is about a pixel when the page is not zoomed.
- Angles are radians, as `Math.atan2(dy, dx)` gives them: 0 points right, pi/2 points down. They
  may be integers or floats; the server rounds to hundredths what it sends.
- A `sid` (short ID) names a player, a piece of scenery or a building in its world. No two things
  ever have the same one, and none is used again. 0 is the world itself, or nobody.
- A flag is the integer 0 or 1.

The course of a game:

1. The server says `Hello` and `Init` once. The client may watch, and sends `Spawn` to be born.
2. `Spawned`, `PlayerAdd` of oneself, and what one owns: `ResourceCount`, `Items`, `Age`.
3. Each tick brings one `Players`: everyone in view, oneself included. Who is missing from it is
   out of view. A player is introduced by `PlayerAdd` before being listed for the first time.
   `Objects` brings what comes into view for the first time; it stays until it is removed. Keep
   it when it is out of view: it is not sent a second time.
4. After `Death` one is no longer listed; `Players` goes on around the place of death. `Spawn`
   again starts anew.

A packet about a sid that is not known, such as the blow of someone who has just died, is to be
passed over.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, NoReturn, TypeAlias, get_type_hints

try:
    import msgpack  # type: ignore[import-untyped]
except ImportError:
    raise ImportError("packets need msgpack, which is missing: pip install msgpack") from None

SUBPROTOCOL = "moo.v1"

MAX_PACKET_SIZE = 1024  # bytes, from a client
MAX_NAME = 16  # characters
MAX_CHAT = 60  # characters
SKINS = 8  # colours of a player, 0 to 7
MAX_ANGLE = 2 * math.pi
MAX_SID = 2**32 - 1
MAX_UNITS = 65535


class PacketError(ValueError):
    """Bytes that are no packet of this protocol: the peer's fault. It names value and limit."""


def show(value: object) -> str:
    """Return a value as an error message quotes it: not longer than it helps."""
    text = ascii(value)
    return text if len(text) <= 24 else text[:21] + "..."


# ==== 1. Kinds of arguments =================================================
# A kind checks what comes from the wire, and says in the documentation what is allowed.


class Kind:
    """What an argument may be."""

    def read(self, value: object) -> Any:
        """Return what stands on the wire, in its Python form.

        Raises:
            PacketError: it is not allowed.
        """
        raise NotImplementedError

    def write(self, value: Any) -> object:
        """Return a Python value as it stands on the wire."""
        return value

    def describe(self) -> str:
        """Return what is allowed, in words."""
        raise NotImplementedError

    def refuse(self, value: object) -> NoReturn:
        """Raise the error that names the value and what is allowed."""
        raise PacketError(f"is {show(value)}; {self.describe()} is allowed")


@dataclass(frozen=True)
class Whole(Kind):
    """An integer between two limits, both allowed."""

    low: int
    high: int

    def read(self, value: object) -> int:
        """Return the integer; a boolean is none."""
        if type(value) is not int or not self.low <= value <= self.high:
            self.refuse(value)
        return value

    def describe(self) -> str:
        """Return the limits."""
        return f"an integer from {self.low} to {self.high}"


@dataclass(frozen=True)
class Angle(Kind):
    """A finite number of radians; one turn either way is the most."""

    def read(self, value: object) -> float:
        """Return the angle as a float."""
        if type(value) is int or type(value) is float:
            if abs(value) <= MAX_ANGLE:  # a NaN is not
                return float(value)
        self.refuse(value)

    def describe(self) -> str:
        """Return the limits."""
        return "an angle from -2 pi to 2 pi"


@dataclass(frozen=True)
class Text(Kind):
    """A text with at most so many characters."""

    most: int

    def read(self, value: object) -> str:
        """Return the text."""
        if not isinstance(value, str):
            self.refuse(value)
        if len(value) > self.most:
            raise PacketError(f"has {len(value)} characters; {self.most} is the most")
        return value

    def describe(self) -> str:
        """Return the limit."""
        return f"a text of up to {self.most} characters"


@dataclass(frozen=True)
class Flag(Kind):
    """A truth value, which is 0 or 1 on the wire."""

    def read(self, value: object) -> bool:
        """Return whether it is 1."""
        if type(value) is not int or value not in (0, 1):
            self.refuse(value)
        return value == 1

    def write(self, value: bool) -> int:
        """Return 0 or 1."""
        return int(value)

    def describe(self) -> str:
        """Return both values."""
        return "0 or 1"


@dataclass(frozen=True)
class OrNull(Kind):
    """What another kind allows, or null."""

    kind: Kind

    def read(self, value: object) -> Any:
        """Return None, or what the other kind makes of the value."""
        if value is None:
            return None
        try:
            return self.kind.read(value)
        except PacketError as error:
            raise PacketError(f"{error}, and null") from None

    def write(self, value: Any) -> object:
        """Return None, or what the other kind writes."""
        return None if value is None else self.kind.write(value)

    def describe(self) -> str:
        """Return both choices."""
        return f"{self.kind.describe()}, or null"


@dataclass(frozen=True)
class Many(Kind):
    """A list of values of one kind."""

    kind: Kind

    def read(self, value: object) -> tuple[Any, ...]:
        """Return the values."""
        if not isinstance(value, list):
            self.refuse(value)
        return tuple(self.kind.read(item) for item in value)

    def write(self, value: Sequence[Any]) -> object:
        """Return the values as a list."""
        return [self.kind.write(item) for item in value]

    def describe(self) -> str:
        """Return what the list holds."""
        return f"a list, each item {self.kind.describe()}"


class Column(NamedTuple):
    """An argument of a packet, or a column of a row: its name, kind and meaning."""

    name: str
    kind: Kind
    doc: str

    def read(self, value: object) -> Any:
        """Return what stands on the wire, in its Python form; an error names the column."""
        try:
            return self.kind.read(value)
        except PacketError as error:
            raise PacketError(f"{self.name} {error}") from None


def columns_of(owner: type) -> tuple[Column, ...]:
    """Return the columns that the annotations of a class define, in order."""
    hints = get_type_hints(owner, include_extras=True)
    return tuple(Column(name, *hint.__metadata__) for name, hint in hints.items())


def read_columns(columns: Sequence[Column], values: Sequence[object]) -> list[Any]:
    """Return one value for each column.

    Raises:
        PacketError: there are more or fewer, or one of them is not allowed.
    """
    if len(values) != len(columns):
        raise PacketError(f"has {len(values)} values; {len(columns)} are wanted")
    return [column.read(value) for column, value in zip(columns, values, strict=True)]


class Table(Kind):
    """Rows of one class.

    Args:
        row: a named tuple whose annotations define the columns.
        shape: "rows", any number of them in one flat list; "row", one of them as a list;
            "map", one of them as a map from names to values.
    """

    def __init__(self, row: type[Any], shape: str = "rows") -> None:
        self.row = row
        self.shape = shape
        self.columns = columns_of(row)

    def read(self, value: object) -> Any:
        """Return one row, or all rows as a tuple."""
        wanted: type = dict if self.shape == "map" else list
        if not isinstance(value, wanted):
            self.refuse(value)
        if isinstance(value, dict):
            return self.row(*read_columns(self.columns, self._order(value)))
        assert isinstance(value, list)
        if self.shape == "row":
            return self.row(*read_columns(self.columns, value))
        return self._read_rows(value)

    def _order(self, value: Mapping[object, object]) -> list[object]:
        names = [column.name for column in self.columns]
        if set(value) != set(names):
            raise PacketError(f"has the keys {show(sorted(map(str, value)))}; {names} are wanted")
        return [value[name] for name in names]

    def _read_rows(self, value: list[object]) -> tuple[Any, ...]:
        width = len(self.columns)
        if len(value) % width:
            raise PacketError(f"has {len(value)} values; rows of {width} are wanted")
        starts = range(0, len(value), width)
        return tuple(self.row(*read_columns(self.columns, value[i : i + width])) for i in starts)

    def write(self, value: Any) -> object:
        """Return a row, or the rows one after another, as they stand on the wire."""
        if self.shape == "rows":
            return [item for row in value for item in self._write_row(row)]
        row = self._write_row(value)
        names = (column.name for column in self.columns)
        return row if self.shape == "row" else dict(zip(names, row, strict=True))

    def _write_row(self, row: Sequence[Any]) -> list[object]:
        return [c.kind.write(item) for c, item in zip(self.columns, row, strict=True)]

    def describe(self) -> str:
        """Return the shape and the columns."""
        names = ", ".join(column.name for column in self.columns)
        shape = {"rows": "a flat list of rows", "row": "a list", "map": "a map"}[self.shape]
        return f"{shape} of ({names})"


Sid: TypeAlias = Annotated[int, Whole(0, MAX_SID)]
Units: TypeAlias = Annotated[int, Whole(0, MAX_UNITS)]
Radians: TypeAlias = Annotated[float, Angle()]
Byte: TypeAlias = Annotated[int, Whole(0, 255)]
ByteOrNull: TypeAlias = Annotated[int | None, OrNull(Whole(0, 255))]
Count: TypeAlias = Annotated[int, Whole(0, MAX_SID)]
Truth: TypeAlias = Annotated[bool, Flag()]
Name: TypeAlias = Annotated[str, Text(MAX_NAME)]


# ==== 2. Rows ===============================================================
# What stands in the lists of entities. The annotations are the wire format.


class Profile(NamedTuple):
    """Who wants to play."""

    name: Annotated[Name, "control characters are dropped; an empty name is replaced"]
    skin: Annotated[int, Whole(0, SKINS - 1), "the colour of the player"]


class ItemRow(NamedTuple):
    """What a player can hold: its numbers do not change while the server runs."""

    id: Annotated[Byte, "what `SelectItem`, `Items`, `PlayerRow` and `ObjectRow` call it"]
    name: Annotated[Name, "such as axe"]
    kind: Annotated[Name, "weapon, food or building"]
    scale: Annotated[Units, "radius of a building; 0 otherwise"]
    reach: Annotated[
        Units, "from the holder's centre: a weapon to a target's rim, a building's centre"
    ]
    cooldown: Annotated[Count, "milliseconds from one use to the next"]
    power: Annotated[Count, "damage of a weapon or spike; health that food gives"]
    gather: Annotated[Byte, "how much of a resource one hit of a weapon brings"]
    health: Annotated[Count, "damage that a building stands; 0 otherwise"]
    limit: Annotated[Byte, "how many a player may have standing; 0: not a building"]
    wood: Annotated[Count, "price in wood"]
    food: Annotated[Count, "price in food"]
    stone: Annotated[Count, "price in stone"]
    gold: Annotated[Count, "price in gold"]


class PlayerInfo(NamedTuple):
    """What is told of a player once."""

    id: Annotated[Sid, "the `id` of that client's `Hello`"]
    sid: Annotated[Sid, "names the player in all other packets"]
    name: Annotated[Name, "not unique"]
    x: Annotated[Units, "position"]
    y: Annotated[Units, "position"]
    dir: Annotated[Radians, "where the player looks"]
    health: Annotated[Count, "now"]
    max_health: Annotated[Count, "at the most"]
    scale: Annotated[Units, "radius"]
    skin: Annotated[Byte, "colour"]


class PlayerRow(NamedTuple):
    """What is told of a player in view at each tick."""

    sid: Annotated[Sid, "who"]
    x: Annotated[Units, "position"]
    y: Annotated[Units, "position"]
    dir: Annotated[Radians, "where the player looks"]
    build: Annotated[ByteOrNull, "ID of the building or food in hand; null: the weapon is"]
    weapon: Annotated[Byte, "ID of the weapon"]
    variant: Annotated[Byte, "always 0 here"]
    team: Annotated[str | None, OrNull(Text(MAX_NAME)), "always null here: there are no clans"]
    leader: Annotated[Byte, "always 0 here"]
    skin: Annotated[Byte, "colour"]
    tail: Annotated[Byte, "always 0 here"]
    icon: Annotated[Byte, "always 0 here"]
    z: Annotated[Byte, "always 0 here"]


class ScoreRow(NamedTuple):
    """A line of the leaderboard; the best comes first."""

    sid: Annotated[Sid, "who"]
    name: Annotated[Name, "the player's name"]
    score: Annotated[Count, "points"]


class ObjectRow(NamedTuple):
    """Scenery that can be gathered from, or a building."""

    sid: Annotated[Sid, "which"]
    x: Annotated[Units, "position"]
    y: Annotated[Units, "position"]
    dir: Annotated[Radians, "which way it is turned"]
    scale: Annotated[Units, "radius"]
    resource: Annotated[ByteOrNull, "index in `Init.resources` of scenery; null: a building"]
    type: Annotated[ByteOrNull, "item ID of a building; null: scenery"]
    owner: Annotated[Sid, "who built it; 0: nobody"]


class MapRow(NamedTuple):
    """A dot on the minimap."""

    sid: Annotated[Sid, "who"]
    x: Annotated[Units, "position"]
    y: Annotated[Units, "position"]


# ==== 3. Packets to the server ==============================================


@dataclass(frozen=True, slots=True)
class Spawn:
    """Be born at a random place. Ignored while alive."""

    profile: Annotated[Profile, Table(Profile, "map"), "who"]


@dataclass(frozen=True, slots=True)
class Move:
    """Walk in a direction until told otherwise."""

    angle: Annotated[float | None, OrNull(Angle()), "which way; null: stand still"]


@dataclass(frozen=True, slots=True)
class StopMove:
    """Stand still, as `Move` with null does."""


@dataclass(frozen=True, slots=True)
class Aim:
    """Look in a direction. At most one a tick is of use."""

    angle: Annotated[Radians, "which way"]


@dataclass(frozen=True, slots=True)
class Attack:
    """Press or let go of the attack button; while pressed, what is in hand is used.

    A weapon swings again and again, as often as its cooldown allows. Food is eaten and a
    building is placed once for each press, and then the weapon is in hand again.
    """

    active: Annotated[Truth, "1: pressed, 0: let go"]
    angle: Annotated[float | None, OrNull(Angle()), "where to look first; null: as before"]


@dataclass(frozen=True, slots=True)
class AutoAttack:
    """Begin to attack without the button, or stop doing so."""


@dataclass(frozen=True, slots=True)
class SelectItem:
    """Take an item into the hand; food or a building that is in hand already is put away."""

    id: Annotated[Byte, "one of those listed in `Items`"]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Spend a point that `Upgrades` has told of on a new weapon."""

    id: Annotated[Byte, "a weapon"]


@dataclass(frozen=True, slots=True)
class Store:
    """Buy or wear a hat. This world has no store: the answer is a `Said` of the world."""

    buy: Annotated[Truth, "1: buy, 0: wear"]
    id: Annotated[Byte, "which"]
    kind: Annotated[Byte, "0: hat, 1: tail"]


@dataclass(frozen=True, slots=True)
class Chat:
    """Say something to all who have one in view; a few lines in a row are the most."""

    text: Annotated[str, Text(MAX_CHAT), "control characters are dropped; empty: nothing is said"]


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for a `Pong`."""


@dataclass(frozen=True, slots=True)
class MapPing:
    """Show one's place to one's clan. There are no clans: the answer is a `Said` of the world."""


@dataclass(frozen=True, slots=True)
class ClanCreate:
    """Found a clan. There are no clans: the answer is a `Said` of the world."""

    name: Annotated[Name, "of the clan"]


@dataclass(frozen=True, slots=True)
class ClanLeave:
    """Leave one's clan. There are no clans: the answer is a `Said` of the world."""


@dataclass(frozen=True, slots=True)
class ClanJoin:
    """Ask to join a clan. There are no clans: the answer is a `Said` of the world."""

    name: Annotated[Name, "of the clan"]


@dataclass(frozen=True, slots=True)
class ClanAccept:
    """Answer one who asks to join. There are no clans: the answer is a `Said` of the world."""

    sid: Annotated[Sid, "who asked"]
    accepted: Annotated[Truth, "1: welcome"]


@dataclass(frozen=True, slots=True)
class ClanKick:
    """Send a member away. There are no clans: the answer is a `Said` of the world."""

    sid: Annotated[Sid, "who"]


# ==== 4. Packets to the client ==============================================


@dataclass(frozen=True, slots=True)
class Hello:
    """The first packet."""

    id: Annotated[Sid, "of this client, for as long as it is connected"]


@dataclass(frozen=True, slots=True)
class Init:
    """The second packet: the numbers of this world that do not change."""

    world: Annotated[Units, "length of each side"]
    view: Annotated[Units, "a thing is in view if x and y differ from one's own by this at most"]
    tick_rate: Annotated[Byte, "`Players` per second"]
    player_scale: Annotated[Units, "radius of a player"]
    speed: Annotated[Units, "of a walking player, in units per second"]
    arc: Annotated[Radians, "a swing hits what is up to this far to the left or right of `dir`"]
    resources: Annotated[tuple[str, ...], Many(Text(MAX_NAME)), "names, in the order of indices"]
    items: Annotated[tuple[ItemRow, ...], Table(ItemRow), "all there are"]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The last packet: why the server closes the connection."""

    reason: Annotated[str, Text(123), "for the user to read"]


@dataclass(frozen=True, slots=True)
class Spawned:
    """One is alive."""

    sid: Annotated[Sid, "one's own; new for each life"]


@dataclass(frozen=True, slots=True)
class PlayerAdd:
    """Someone is in view for the first time."""

    player: Annotated[PlayerInfo, Table(PlayerInfo, "row"), "who"]
    is_self: Annotated[Truth, "1: it is oneself"]


@dataclass(frozen=True, slots=True)
class PlayerRemove:
    """Someone that `PlayerAdd` has told of has died or left; the sid will not come again."""

    sid: Annotated[Sid, "who"]


@dataclass(frozen=True, slots=True)
class Players:
    """Everyone in view, at each tick."""

    rows: Annotated[tuple[PlayerRow, ...], Table(PlayerRow), "one for each"]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The best players of this world, once a second if it has changed; to everyone."""

    rows: Annotated[tuple[ScoreRow, ...], Table(ScoreRow), "at most 10"]


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects that are in view for the first time."""

    rows: Annotated[tuple[ObjectRow, ...], Table(ObjectRow), "one for each"]


@dataclass(frozen=True, slots=True)
class Swing:
    """Someone in view has swung the weapon."""

    sid: Annotated[Sid, "who"]
    hit: Annotated[Truth, "1: something was hit"]
    index: Annotated[Byte, "item ID of the weapon"]


@dataclass(frozen=True, slots=True)
class ObjectHit:
    """An object in view was hit, for it to shake."""

    dir: Annotated[Radians, "the direction of the blow"]
    sid: Annotated[Sid, "which object"]


@dataclass(frozen=True, slots=True)
class ResourceCount:
    """How much of a resource one has."""

    name: Annotated[Name, "one of `Init.resources`, or points"]
    value: Annotated[Count, "in all"]
    show: Annotated[Truth, "1: it has grown, which is worth showing"]


@dataclass(frozen=True, slots=True)
class Health:
    """The health of someone that `PlayerAdd` has told of has changed, in view or not."""

    sid: Annotated[Sid, "who"]
    value: Annotated[Count, "now"]


@dataclass(frozen=True, slots=True)
class Death:
    """One has died; `Spawn` to live again. One's buildings are gone."""


@dataclass(frozen=True, slots=True)
class ObjectRemove:
    """An object that `Objects` has told of is gone."""

    sid: Annotated[Sid, "which"]


@dataclass(frozen=True, slots=True)
class ObjectsRemove:
    """All buildings of a player are gone, as the player is."""

    owner: Annotated[Sid, "whose"]


@dataclass(frozen=True, slots=True)
class ItemCount:
    """How many of a building one has standing."""

    item: Annotated[Byte, "its item ID"]
    count: Annotated[Byte, "now; `ItemRow.limit` is the most"]


@dataclass(frozen=True, slots=True)
class Age:
    """How far one has come."""

    xp: Annotated[Count, "experience since this age began"]
    max_xp: Annotated[Count, "experience that ends this age"]
    age: Annotated[Byte, "from 1 on"]


@dataclass(frozen=True, slots=True)
class Upgrades:
    """One may choose weapons with `Upgrade`, any that `Items` does not list; 0: no longer."""

    points: Annotated[Byte, "how many"]
    age: Annotated[Byte, "one's age"]


@dataclass(frozen=True, slots=True)
class Items:
    """What one can take into the hand."""

    ids: Annotated[tuple[int, ...], Many(Whole(0, 255)), "the items, in the order of the bar"]
    weapons: Annotated[Truth, "1: these are the weapons, 0: food and buildings"]


@dataclass(frozen=True, slots=True)
class Said:
    """Someone in view says something, or the world does (to everyone)."""

    sid: Annotated[Sid, "who; 0: the world"]
    text: Annotated[str, Text(123), "what"]


@dataclass(frozen=True, slots=True)
class Minimap:
    """Where everyone is, once a second; to everyone."""

    rows: Annotated[tuple[MapRow, ...], Table(MapRow), "one for each that is alive"]


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `Ping`."""


@dataclass(frozen=True, slots=True)
class ShutdownNotice:
    """The server will end, and the world with it: it drains (`--drain`)."""

    countdown: Annotated[Count, "seconds until then"]


# ==== 5. The table ==========================================================


class Direction(enum.Enum):
    """Who sends a packet."""

    TO_SERVER = "client to server"
    TO_CLIENT = "server to client"


Packet: TypeAlias = Any  # an object of one of the classes in `PACKETS`


class PacketType:
    """A packet of the protocol: which way it goes, its code, and its class."""

    def __init__(self, direction: Direction, code: str, cls: type[Packet]) -> None:
        self.direction = direction
        self.code = code
        self.cls = cls
        self.columns = columns_of(cls)

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.cls.__name__


TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT

PACKETS: tuple[PacketType, ...] = (
    PacketType(TO_SERVER, "sp", Spawn),
    PacketType(TO_SERVER, "33", Move),
    PacketType(TO_SERVER, "rmd", StopMove),
    PacketType(TO_SERVER, "2", Aim),
    PacketType(TO_SERVER, "c", Attack),
    PacketType(TO_SERVER, "7", AutoAttack),
    PacketType(TO_SERVER, "5", SelectItem),
    PacketType(TO_SERVER, "6", Upgrade),
    PacketType(TO_SERVER, "13c", Store),
    PacketType(TO_SERVER, "ch", Chat),
    PacketType(TO_SERVER, "pp", Ping),
    PacketType(TO_SERVER, "14", MapPing),
    PacketType(TO_SERVER, "8", ClanCreate),
    PacketType(TO_SERVER, "9", ClanLeave),
    PacketType(TO_SERVER, "10", ClanJoin),
    PacketType(TO_SERVER, "11", ClanAccept),
    PacketType(TO_SERVER, "12", ClanKick),
    PacketType(TO_CLIENT, "io-init", Hello),
    PacketType(TO_CLIENT, "id", Init),
    PacketType(TO_CLIENT, "d", Disconnect),
    PacketType(TO_CLIENT, "1", Spawned),
    PacketType(TO_CLIENT, "2", PlayerAdd),
    PacketType(TO_CLIENT, "4", PlayerRemove),
    PacketType(TO_CLIENT, "33", Players),
    PacketType(TO_CLIENT, "5", Leaderboard),
    PacketType(TO_CLIENT, "6", Objects),
    PacketType(TO_CLIENT, "7", Swing),
    PacketType(TO_CLIENT, "8", ObjectHit),
    PacketType(TO_CLIENT, "9", ResourceCount),
    PacketType(TO_CLIENT, "h", Health),
    PacketType(TO_CLIENT, "11", Death),
    PacketType(TO_CLIENT, "12", ObjectRemove),
    PacketType(TO_CLIENT, "13", ObjectsRemove),
    PacketType(TO_CLIENT, "14", ItemCount),
    PacketType(TO_CLIENT, "15", Age),
    PacketType(TO_CLIENT, "16", Upgrades),
    PacketType(TO_CLIENT, "17", Items),
    PacketType(TO_CLIENT, "ch", Said),
    PacketType(TO_CLIENT, "mm", Minimap),
    PacketType(TO_CLIENT, "pp", Pong),
    PacketType(TO_CLIENT, "20", ShutdownNotice),
)

_BY_CLASS = {kind.cls: kind for kind in PACKETS}
_BY_CODE = {(kind.direction, kind.code): kind for kind in PACKETS}


# ==== 6. Bytes ==============================================================


def encode(packet: Packet) -> bytes:
    """Return the message that carries a packet. Its values are the caller's care."""
    kind = _BY_CLASS[type(packet)]
    arguments = [c.kind.write(getattr(packet, c.name)) for c in kind.columns]
    message: bytes = msgpack.packb([kind.code, arguments])
    return message


def decode_from_client(message: bytes) -> Packet:
    """Return the packet in a client's message.

    Raises:
        PacketError: it is not exactly one packet that a client may send.
    """
    if len(message) > MAX_PACKET_SIZE:
        raise PacketError(f"packet of {len(message)} bytes; {MAX_PACKET_SIZE} is the most")
    return _decode(message, TO_SERVER)


def decode_from_server(message: bytes) -> Packet:
    """Return the packet in a message of the server.

    Raises:
        PacketError: it is not exactly one packet that a server may send.
    """
    return _decode(message, TO_CLIENT)


def _decode(message: bytes, direction: Direction) -> Packet:
    value = _unpack(message)
    if not isinstance(value, list) or len(value) != 2:
        raise PacketError(f"packet is {show(value)}; [code, [argument, ...]] is wanted")
    code, arguments = value
    kind = _BY_CODE.get((direction, code)) if isinstance(code, str) else None
    if kind is None:
        raise PacketError(f"there is no packet {show(code)} from {direction.value}")
    if not isinstance(arguments, list):
        raise PacketError(f"{kind.name}: the arguments are {show(arguments)}; a list is wanted")
    try:
        return kind.cls(*read_columns(kind.columns, arguments))
    except PacketError as error:
        raise PacketError(f"{kind.name}: {error}") from None


def _unpack(message: bytes) -> object:
    try:
        return msgpack.unpackb(message, ext_hook=_refuse_extension)
    except PacketError:
        raise
    except (ValueError, RecursionError) as error:  # msgpack's own errors are ValueErrors
        raise PacketError(f"not one msgpack value: {error or type(error).__name__}") from None


def _refuse_extension(code: int, data: bytes) -> object:
    raise PacketError(f"msgpack extension {code}; none is allowed")


class RowPacket:
    """Builds packets of one class that hold a list of rows, from rows that are packed already.

    msgpack puts nothing between the items of a list, so a row that is packed once may be sent
    to many, each with a different choice of rows.
    """

    def __init__(self, cls: type[Packet]) -> None:
        kind = _BY_CLASS[cls]
        assert len(kind.columns) == 1
        table = kind.columns[0].kind
        assert isinstance(table, Table)
        self._width = len(table.columns)
        assert self._width < 16
        self._head = b"\x92" + msgpack.packb(kind.code) + b"\x91"

    def pack_row(self, row: Sequence[object]) -> bytes:
        """Return the bytes of one row, given as its columns stand on the wire."""
        packed: bytes = msgpack.packb(row)
        return packed[1:]  # without the header of the list, which is one byte up to 15 items

    def join(self, rows: Sequence[bytes]) -> bytes:
        """Return the packet with these rows."""
        count = len(rows) * self._width
        if count < 16:
            header = bytes((0x90 | count,))
        elif count < 65536:
            header = b"\xdc" + count.to_bytes(2, "big")
        else:
            header = b"\xdd" + count.to_bytes(4, "big")
        return b"".join((self._head, header, *rows))


# ==== 7. The documentation ==================================================


def describe_packets() -> str:
    """Return the protocol as Markdown: a table for each direction, and one for the rows."""
    parts = []
    for direction in Direction:
        parts += [f"## From {direction.value}", "", "| code | packet | arguments | meaning |"]
        parts.append("| --- | --- | --- | --- |")
        parts += [_describe_one(kind) for kind in PACKETS if kind.direction == direction]
        parts.append("")
    parts += ["## Rows", "", "| row | column | allowed | meaning |", "| --- | --- | --- | --- |"]
    for row in _row_classes():
        parts += [f"| `{row.__name__}` | {_describe_column(c, ' | ')} |" for c in columns_of(row)]
    return "\n".join(parts) + "\n"


def _describe_one(kind: PacketType) -> str:
    arguments = "<br>".join(_describe_column(column, ": ") for column in kind.columns)
    meaning = " ".join((kind.cls.__doc__ or "").split())
    return f"| `{kind.code}` | `{kind.name}` | {arguments or 'none'} | {meaning} |"


def _describe_column(column: Column, separator: str) -> str:
    return separator.join((f"`{column.name}`", column.kind.describe(), column.doc))


def _row_classes() -> list[type[Any]]:
    tables = (column.kind for kind in PACKETS for column in kind.columns)
    return [table.row for table in tables if isinstance(table, Table)]


if __name__ == "__main__":
    print(describe_packets(), end="")
