"""What lives and stands in the sandbox world, and how the world tells of what happened."""

from __future__ import annotations

from dataclasses import dataclass

from scalesocket.net.sandbox_packets import ObjectRow, Packet, PlayerInfo, PlayerRow

from .grid import Thing
from .sandbox_items import (
    HAMMER,
    ITEMS,
    PLAYER_HEALTH,
    PLAYER_SCALE,
    RESOURCES,
    Item,
    age_length,
)

WEAPONS = tuple(item for item in ITEMS if item.kind == "weapon")
GOODS = tuple(item for item in ITEMS if item.kind != "weapon")


class Player(Thing):
    """Someone who is, or was, alive: one life, with a sid of its own."""

    __slots__ = (
        "age",
        "alive",
        "asleep",
        "auto",
        "buildings",
        "clicked",
        "client_id",
        "dir",
        "health",
        "in_hand",
        "name",
        "points",
        "pressed",
        "pricked_at",
        "ready_at",
        "resources",
        "skin",
        "upgrades",
        "walk",
        "weapon",
        "weapons",
        "xp",
    )

    def __init__(
        self, sid: int, x: float, y: float, *, client_id: int, name: str, skin: int
    ) -> None:
        super().__init__(sid, x, y, PLAYER_SCALE)
        self.client_id = client_id
        self.name = name
        self.skin = skin
        self.alive = True
        self.asleep = False  # nobody is there to play: does nothing, and cannot be hurt
        self.health = PLAYER_HEALTH
        self.dir = 0.0
        self.walk: tuple[float, float] | None = None  # a direction, of length 1
        self.pressed = False  # the attack button is
        self.clicked = False  # it has been since it was last of use
        self.auto = False
        self.weapon = HAMMER
        self.weapons = [HAMMER]
        self.in_hand: Item | None = None  # food or a building; None: the weapon
        self.ready_at = 0.0  # when something can be used again
        self.pricked_at = -1.0  # when a spike has last hurt
        self.resources = [0] * len(RESOURCES)
        self.buildings: dict[Structure, None] = {}
        self.points = 0
        self.xp = 0  # points since this age began
        self.age = 1
        self.upgrades = 0  # weapons to be chosen

    @property
    def max_xp(self) -> int:
        """Points that end this age."""
        return age_length(self.age)

    def count(self, item: Item) -> int:
        """Return how many of a building stand."""
        return sum(building.item is item for building in self.buildings)

    def info(self) -> PlayerInfo:
        """Return what is told of a player once."""
        return PlayerInfo(
            self.client_id,
            self.sid,
            self.name,
            round(self.x),
            round(self.y),
            self.dir,
            self.health,
            PLAYER_HEALTH,
            self.scale,
            self.skin,
        )

    def row(self) -> PlayerRow:
        """Return what is told of a player at each tick."""
        build = self.in_hand.id if self.in_hand else None
        x, y = round(self.x), round(self.y)
        weapon, skin = self.weapon.id, self.skin
        return PlayerRow(self.sid, x, y, self.dir, build, weapon, 0, None, 0, skin, 0, 0, 0)


class Structure(Thing):
    """What stands still: scenery, which has a resource, or a building, which has an item."""

    __slots__ = ("dir", "health", "item", "owner", "resource")

    def __init__(
        self,
        sid: int,
        x: float,
        y: float,
        scale: int,
        *,
        dir: float = 0.0,
        resource: int | None = None,
        item: Item | None = None,
        owner: Player | None = None,
    ) -> None:
        super().__init__(sid, x, y, scale)
        self.dir = dir
        self.resource = resource
        self.item = item
        self.owner = owner
        self.health = item.health if item else 0

    def row(self) -> ObjectRow:
        """Return what is told of it."""
        x, y = round(self.x), round(self.y)
        kind = self.item.id if self.item else None
        owner = self.owner.sid if self.owner else 0
        return ObjectRow(self.sid, x, y, self.dir, self.scale, self.resource, kind, owner)


@dataclass(frozen=True, slots=True)
class Notice:
    """A packet about what has happened, and whom it is for.

    It is for one player, or for those who have a place in view, or for those who have been told
    of a thing, or of things that are gone now; for everyone if none of these is given.
    """

    packet: Packet
    to: Player | None = None
    near: tuple[float, float] | None = None
    known: Thing | None = None
    gone: tuple[Thing, ...] = ()


class Notices:
    """What has happened and is to be told, in order."""

    def __init__(self) -> None:
        self._waiting: list[Notice] = []

    def to(self, player: Player, *packets: Packet) -> None:
        """Tell one player."""
        self._waiting += [Notice(packet, to=player) for packet in packets]

    def near(self, thing: Thing, packet: Packet) -> None:
        """Tell those who have a thing's place in view."""
        self._waiting.append(Notice(packet, near=(thing.x, thing.y)))

    def known(self, thing: Thing, packet: Packet) -> None:
        """Tell those who have been told of a thing, wherever they are."""
        self._waiting.append(Notice(packet, known=thing))

    def gone(self, packet: Packet, *things: Thing) -> None:
        """Tell those who have been told of one of some things that are gone now."""
        self._waiting.append(Notice(packet, gone=things))

    def everyone(self, packet: Packet) -> None:
        """Tell everyone."""
        self._waiting.append(Notice(packet))

    def take(self) -> list[Notice]:
        """Return what is waiting, and forget it."""
        notices, self._waiting = self._waiting, []
        return notices
