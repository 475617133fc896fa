"""The sandbox in a terminal, for `python3 scalesocket.py sandbox`.

    pip install msgpack
    python3 -m client.sandbox [ADDRESS] [--name NAME] [--room ROOM]

The keys are those of the page (client/web/sandbox), and `?` shows them: arrows or WASD walk, Home,
End, Page Up and Page Down walk diagonally. The space bar uses what is in hand, 0 keeps at it; 1 to
9 take something of the bar in hand, + takes a better weapon when there is one to choose. Enter or t
talks. A terminal does not tell when a key is let go, so here one walks on until x, and q quits if
it is pressed twice. Other letters do nothing, so that who begins to talk without Enter loses
nothing. The packets are described in net/sandbox_packets.py; `World` applies them, and `draw` shows
what is around one's place.
"""

from __future__ import annotations

import math
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .chat import wrap
from .terminal import (
    RIVALS,
    Canvas,
    GameView,
    Style,
    WrongGame,
    fit,
    fit_parts,
    main,
    text_width,
)

try:
    from scalesocket.net import sandbox_packets as packets
except ImportError as error:  # it says what to install
    if __name__ == "__main__":
        sys.exit(f"client.sandbox: {error}")
    raise

X_UNITS, Y_UNITS = 30, 60  # of the world, to one column and one row: about square
GRID = 300  # units from one dot on the ground to the next
SIDE = 20  # columns of the leaderboard, and of the gap before it
MIN_COLUMNS, MIN_ROWS = 30, 9  # below the board there is one row more
SAID_LINES = 3  # of chat, over the board
SAID_TIME = 8.0  # seconds that a line is shown

Glyph = tuple[str, Style]


class Glyphs(NamedTuple):
    """What things look like: one character for each column that they cover."""

    resources: tuple[Glyph, ...]  # by index: wood, food, stone, gold
    buildings: dict[str, str]
    other: str  # anything that is not known here
    player: str
    arrows: str  # from the right on, clockwise
    ground: str
    outside: str
    full: str  # of a bar
    empty: str


STYLES = (Style.OWN, Style.FOOD, Style.DIM, Style.CURSOR)  # of the resources


GLYPHS = {  # by whether there is Unicode
    True: Glyphs(
        tuple(zip("♣%▲$", STYLES, strict=True)),
        {"wall": "█", "spike": "✱", "windmill": "✚"},
        *("?", "@", "→↘↓↙←↖↑↗", "·", "░", "█", "░"),
    ),
    False: Glyphs(
        tuple(zip("&%^$", STYLES, strict=True)),
        {"wall": "#", "spike": "*", "windmill": "+"},
        *("?", "@", "-\\|/-\\|/", ".", ":", "#", "-"),
    ),
}

HELP = (
    ("arrows, WASD", "walk, on and on"),
    ("x", "stop"),
    ("Space", "use what is in hand"),
    ("0", "keep on using it"),
    ("1 to 9", "take in hand"),
    ("+", "a better weapon"),
    ("Enter or t", "talk"),
    ("?", "show this, or hide it"),
    ("q q", "quit"),
)
TALKS = "Enter talks, ? shows the keys."
QUITS = "Once more q, and you quit."

EIGHTH = math.pi / 4
DIRECTIONS = {  # key: angle, clockwise from the right
    "right": 0.0,
    "page down": EIGHTH,
    "down": 2 * EIGHTH,
    "end": 3 * EIGHTH,
    "left": 4 * EIGHTH,
    "home": -3 * EIGHTH,
    "up": -2 * EIGHTH,
    "page up": -EIGHTH,
}


# ==== 1. What is known ===================================================================


@dataclass(slots=True)
class World:
    """The world as far as the server has told of it."""

    init: packets.Init | None = None
    sid: int = 0  # our own player's, the last one; 0 before the first life
    alive: bool = False
    infos: dict[int, packets.PlayerInfo] = field(default_factory=dict)
    health: dict[int, int] = field(default_factory=dict)
    rows: dict[int, packets.PlayerRow] = field(default_factory=dict)  # who is in view
    objects: dict[int, packets.ObjectRow] = field(default_factory=dict)
    leaders: tuple[packets.ScoreRow, ...] = ()
    resources: dict[str, int] = field(default_factory=dict)
    weapons: tuple[int, ...] = ()
    goods: tuple[int, ...] = ()
    upgrades: int = 0
    age: int = 1
    said: list[tuple[float, str]] = field(default_factory=list)  # when, and what
    farewell: str = ""  # why the server has closed
    focus: tuple[float, float] = (0.0, 0.0)  # our own place, or where it was

    @property
    def own(self) -> packets.PlayerRow | None:
        """Our own player, while alive."""
        return self.rows.get(self.sid) if self.alive else None

    @property
    def bar(self) -> tuple[int, ...]:
        """What can be taken in hand, in the order of the keys; one place is for all weapons."""
        if self.own is None:
            return ()
        return (self.own.weapon, *self.goods)

    def choose(self, key: int) -> int | None:
        """Return the item that a key takes in hand: for the weapon in hand, the next one."""
        if key > len(self.bar) or self.own is None:
            return None
        if key > 1 or self.own.build is not None or self.own.weapon not in self.weapons:
            return self.bar[key - 1]
        return self.weapons[(self.weapons.index(self.own.weapon) + 1) % len(self.weapons)]

    def item(self, item_id: int) -> packets.ItemRow | None:
        """Return what is known of an item."""
        items = self.init.items if self.init else ()
        return next((item for item in items if item.id == item_id), None)

    def next_weapon(self) -> packets.ItemRow | None:
        """Return the weapon that an upgrade would bring."""
        items = self.init.items if self.init and self.upgrades else ()
        return next((i for i in items if i.kind == "weapon" and i.id not in self.weapons), None)

    def apply(self, packet: packets.Packet, now: float) -> None:
        """Take a packet."""
        if not (self._apply_life(packet) or self._apply_things(packet)):
            self._apply_own(packet, now)

    def _apply_life(self, packet: packets.Packet) -> bool:
        match packet:
            case packets.Init(world=size):
                self.init = packet
                self.focus = (size / 2, size / 2)
            case packets.Spawned(sid):
                self.sid, self.alive = sid, True
            case packets.Death():
                self.alive = False
                self.resources, self.weapons, self.goods = {}, (), ()
                self.upgrades, self.age = 0, 1
            case packets.Disconnect(reason):
                self.farewell = reason
            case _:
                return False
        return True

    def _apply_things(self, packet: packets.Packet) -> bool:
        match packet:
            case packets.PlayerAdd(info):
                self.infos[info.sid] = info
                self.health[info.sid] = info.health
            case packets.PlayerRemove(sid):
                self.infos.pop(sid, None)
                self.health.pop(sid, None)
            case packets.Players(rows):
                self.rows = {row.sid: row for row in rows}
                if self.own is not None:
                    self.focus = (self.own.x, self.own.y)
            case packets.Health(sid, value):
                self.health[sid] = value
            case packets.Objects(rows):
                self.objects.update({row.sid: row for row in rows})
            case packets.ObjectRemove(sid):
                self.objects.pop(sid, None)
            case packets.ObjectsRemove(owner):
                rest = self.objects.items()
                self.objects = {sid: row for sid, row in rest if row.owner != owner}
            case _:
                return False
        return True

    def _apply_own(self, packet: packets.Packet, now: float) -> None:
        match packet:
            case packets.Leaderboard(rows):
                self.leaders = rows
            case packets.ResourceCount(name, value):
                self.resources[name] = value
            case packets.Items(ids, weapons):
                if weapons:
                    self.weapons = ids
                else:
                    self.goods = ids
            case packets.Upgrades(points):
                self.upgrades = points
            case packets.Age(age=age):
                self.age = age
            case packets.Said(sid, text):
                who = self.infos[sid].name if sid in self.infos else ""
                self._hear(f"{who}: {text}" if who else text, now)
            case packets.ShutdownNotice(countdown):
                self._hear(f"The server ends in {countdown} s at the latest.", now)

    def _hear(self, line: str, now: float) -> None:
        self.said.append((now, line))
        del self.said[:-SAID_LINES]

    def style_of(self, sid: int) -> Style:
        """Return the style of a player and its name."""
        return Style.OWN if sid == self.sid else RIVALS[sid % len(RIVALS)]


# ==== 2. How it looks ====================================================================


class Board(Canvas):
    """The part of the world that is around our place.

    Args:
        world: what is drawn; `init` has come.
        columns, rows: its size; a larger one than what is in view is not made.
    """

    def __init__(self, world: World, columns: int, rows: int, *, unicode: bool) -> None:
        assert world.init is not None
        view = 2 * world.init.view
        super().__init__(min(columns, view // X_UNITS), min(rows, view // Y_UNITS), unicode=unicode)
        self.glyphs = GLYPHS[unicode]
        self._size = world.init.world
        self._left = world.focus[0] - self.columns / 2 * X_UNITS
        self._top = world.focus[1] - self.rows / 2 * Y_UNITS

    def place(self, x: float, y: float) -> tuple[int, int]:
        """Return the cell of a point of the world."""
        return math.floor((x - self._left) / X_UNITS), math.floor((y - self._top) / Y_UNITS)

    def ground(self) -> None:
        """Draw the ground with dots that show how one moves, and what is outside the world."""
        for row in range(self.rows):
            for column in range(self.columns):
                x, y = self._left + (column + 0.5) * X_UNITS, self._top + (row + 0.5) * Y_UNITS
                if not (0 <= x < self._size and 0 <= y < self._size):
                    self.put(column, row, self.glyphs.outside, Style.DIM)
                elif x % GRID < X_UNITS and y % GRID < Y_UNITS:
                    self.put(column, row, self.glyphs.ground, Style.DIM)

    def disc(self, x: float, y: float, radius: float, glyph: str, style: Style) -> None:
        """Draw what is round, as the cells whose middle it covers; at least one."""
        self.put(*self.place(x, y), glyph, style)
        left, top = self.place(x - radius, y - radius)
        right, bottom = self.place(x + radius, y + radius)
        for row in range(max(top, 0), min(bottom + 1, self.rows)):
            for column in range(max(left, 0), min(right + 1, self.columns)):
                across = self._left + (column + 0.5) * X_UNITS - x
                down = self._top + (row + 0.5) * Y_UNITS - y
                if math.hypot(across, down) <= radius:
                    self.put(column, row, glyph, style)

    def player(self, row: packets.PlayerRow, name: str, style: Style) -> None:
        """Draw a player, where it looks, and its name."""
        column, line = self.place(row.x, row.y)
        across, down = round(2 * math.cos(row.dir)), round(math.sin(row.dir))
        arrow = self.glyphs.arrows[round(row.dir / EIGHTH) % 8]
        self.put(column + across, line + down, arrow, style)
        self.put(column, line, self.glyphs.player, style)
        above = line - 2 if down < 0 else line - 1
        self.put(column - len(name) // 2, above, name, style)


def draw(world: World, canvas: Canvas, now: float, typing: str | None = None) -> None:
    """Draw everything.

    Args:
        world: what is known.
        canvas: empty.
        now: seconds, on the clock of what was said.
        typing: what the player is writing.
    """
    if canvas.is_too_small(MIN_COLUMNS, MIN_ROWS):
        return
    if world.init is None:
        canvas.center(canvas.rows // 2, "Waiting for the world ...")
        return
    side = SIDE if canvas.columns >= SIDE + 50 else 0
    board = Board(world, canvas.columns - side, canvas.rows - 2, unicode=canvas.unicode)
    draw_things(world, board)
    draw_said(world, board, now, typing)
    draw_farewell(world, board)
    canvas.paste(0, 1, board)
    draw_title(world, canvas)
    draw_bar(world, canvas)
    if side:
        draw_leaderboard(world, canvas, canvas.columns - side + 1)


def draw_things(world: World, board: Board) -> None:
    """Draw the ground, what stands on it, and who walks there; ourselves last."""
    board.ground()
    for thing in world.objects.values():
        glyph, style = look_of(world, thing, board.glyphs)
        board.disc(thing.x, thing.y, thing.scale, glyph, style)
    for sid, row in sorted(world.rows.items(), key=lambda item: item[0] == world.sid):
        info = world.infos.get(sid)
        name = info.name if info else "?"
        health, most = world.health.get(sid, 0), info.max_health if info else 0
        if sid != world.sid and health < most:
            name = f"{name} {health}"
        board.player(row, name, world.style_of(sid))


def look_of(world: World, thing: packets.ObjectRow, glyphs: Glyphs) -> Glyph:
    """Return how scenery or a building looks."""
    if thing.resource is not None:
        known = thing.resource < len(glyphs.resources)
        return glyphs.resources[thing.resource] if known else (glyphs.other, Style.TEXT)
    item = world.item(thing.type) if thing.type is not None else None
    style = world.style_of(thing.owner) if thing.owner else Style.TEXT
    return glyphs.buildings.get(item.name if item else "", glyphs.other), style


def draw_title(world: World, canvas: Canvas) -> None:
    """Draw the first line: who we are, how we are, and what we have."""
    if world.farewell:
        canvas.put(0, 0, fit(f" {world.farewell}", canvas.columns), Style.ERROR)
        return
    info = world.infos.get(world.sid)
    if info is None or not world.alive:
        canvas.put(1, 0, "SANDBOX", Style.TITLE)
        canvas.put(10, 0, "watching", Style.TEXT)
        return
    glyphs, health = GLYPHS[canvas.unicode], world.health.get(world.sid, 0)
    filled = math.ceil(10 * health / max(1, info.max_health))
    canvas.put(1, 0, fit(info.name, 9), Style.OWN)
    bar = glyphs.full * filled + glyphs.empty * (10 - filled)
    canvas.put(11, 0, bar, Style.OWN if filled > 3 else Style.FOOD)
    canvas.put(22, 0, str(health), Style.TITLE)
    numbers = [f"{name} {value}" for name, value in world.resources.items()]
    text = fit_parts([*numbers, f"age {world.age}"], canvas.columns - 28)
    canvas.put(27, 0, text, Style.TEXT)


def draw_bar(world: World, canvas: Canvas) -> None:
    """Draw the last line: what can be taken in hand, and the choice of a weapon."""
    x, y = 1, canvas.rows - 1
    weapon = world.next_weapon()
    if weapon is not None:
        text = f"+ {weapon.name}"
        canvas.put(x, y, text, Style.WIN)
        x += len(text) + 2
    own = world.own
    held = () if own is None else (own.weapon if own.build is None else own.build,)
    for key, item_id in enumerate(world.bar[:9], 1):
        item = world.item(item_id)
        text = f"{key} {item.name}{describe_price(item)}" if item else f"{key} ?"
        if x + len(text) > canvas.columns:
            break
        canvas.put(x, y, text, Style.CURSOR if item_id in held else Style.DIM)
        x += len(text) + 2


def describe_price(item: packets.ItemRow) -> str:
    """Return what an item costs: `(10w)`; nothing if it is free."""
    prices = zip((item.wood, item.food, item.stone, item.gold), "wfsg", strict=True)
    parts = [f"{price}{letter}" for price, letter in prices if price]
    return f"({' '.join(parts)})" if parts else ""


def draw_said(world: World, board: Board, now: float, typing: str | None) -> None:
    """Draw what was said lately, and what is being written, in the corner of the board."""
    said = [(text, Style.TEXT) for at, text in world.said if now - at < SAID_TIME]
    if typing is not None:
        said.append((f"say: {typing}_", Style.CURSOR))
    lines = [(line, style) for text, style in said for line in wrap(text, board.columns - 4)]
    for y, (line, style) in enumerate(reversed(lines)):
        board.put(1, board.rows - 1 - y, f" {line} ", style)


def draw_farewell(world: World, board: Board) -> None:
    """Say what to do while there is no life."""
    if not world.alive:
        texts = ["You died." if world.sid else "Welcome!", "Press Enter to play."]
        board.banner(board.columns // 2, board.rows // 2, texts, Style.CURSOR)


def draw_help(canvas: Canvas) -> None:
    """Draw the keys in a box between the first and the last line; few rows show the first ones."""
    texts = [f"  {keys:<14}{what}  " for keys, what in HELP][: canvas.rows - 2]
    if canvas.rows > len(texts) + 4:
        texts = ["", *texts, ""]
    width = min(max(map(text_width, texts)), canvas.columns)
    left, top = (canvas.columns - width) // 2, (canvas.rows - len(texts)) // 2
    for y, text in enumerate(texts, top):
        canvas.put(left, y, fit(text, width), Style.CURSOR)


def draw_leaderboard(world: World, canvas: Canvas, x: int) -> None:
    """Draw the names in the colours of their players, with their points."""
    canvas.put(x, 1, "Leaderboard", Style.DIM)
    for y, leader in enumerate(world.leaders[: canvas.rows - 4], 2):
        text = f"{fit(leader.name, 11)}{leader.score:>6}"
        canvas.put(x, y, text, world.style_of(leader.sid))


# ==== 3. Playing =========================================================================


class SandboxView(GameView):
    """The sandbox at one terminal."""

    program = "sandbox"
    hint = "? keys   Enter talks   q q quits"
    letters = "".join(set(string.ascii_lowercase) - set("wasd")) + "0+? \x1b"
    subprotocols = (packets.SUBPROTOCOL,)

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.world = World()
        self.help = True  # until a key is pressed

    def decode(self, message: str | bytes) -> packets.Packet:
        """Return the packet in a message."""
        if isinstance(message, str):
            raise WrongGame(f"what it sends is {message[:30]!r}")
        return packets.decode_from_server(message)

    @staticmethod
    def encode(message: packets.Packet) -> bytes:
        """Return the bytes of a packet."""
        return packets.encode(message)

    def opened(self) -> None:
        """Forget the world that was; the server speaks first."""
        self.world = World()
        self.typing = None

    def receive(self, event: packets.Packet, now: float) -> packets.Packet | None:
        """Take a packet; when the world is known, be born in it."""
        self.world.apply(event, now)
        return self._spawn() if isinstance(event, packets.Init) else None

    def press(self, key: str) -> list[packets.Packet]:
        """Walk, use what is in hand, choose, talk."""
        if self.typing is not None:
            return list(self._type(self.typing, key))
        self.done = key == "q" and self.notice == QUITS
        self.notice = QUITS if key == "q" else ""
        self.help = key == "?" and not self.help
        if not self.world.alive:
            return [self._spawn()] if key in ("enter", " ") and self.world.init else []
        if key in ("enter", "t"):
            self.typing = ""
            return []
        return list(self._act(key))

    def draw(self, canvas: Canvas, now: float) -> None:
        """Draw everything."""
        draw(self.world, canvas, now, self.typing)
        if self.help and canvas.columns >= MIN_COLUMNS and self.world.init:
            draw_help(canvas)
        elif self.notice:
            canvas.put(1, canvas.rows - 2, f" {self.notice} ", Style.CURSOR)

    def _spawn(self) -> packets.Spawn:
        name = self.wanted[: packets.MAX_NAME]
        return packets.Spawn(packets.Profile(name, sum(name.encode()) % packets.SKINS))

    def _act(self, key: str) -> Iterator[Any]:
        weapon = self.world.next_weapon()
        if key in DIRECTIONS:
            yield packets.Move(DIRECTIONS[key])
            yield packets.Aim(DIRECTIONS[key])
        elif key == "x":
            yield packets.StopMove()
        elif key == " ":
            yield packets.Attack(True, None)  # a click: the world swings once for it
            yield packets.Attack(False, None)
        elif key == "0":
            yield packets.AutoAttack()
        elif key == "+" and weapon is not None:
            yield packets.Upgrade(weapon.id)
        elif key.isdecimal():
            item = self.world.choose(int(key))
            if item is not None:
                yield packets.SelectItem(item)
        elif key.isalpha() and len(key) == 1 and key != "q":
            self.notice = TALKS

    def _type(self, text: str, key: str) -> Iterator[Any]:
        if key == "enter":
            self.typing = None
            if text.strip():
                yield packets.Chat(text)
        elif key == "escape":
            self.typing = None
        elif key == "backspace":
            self.typing = text[:-1]
        elif len(key) == 1:
            self.typing = (text + key)[: packets.MAX_CHAT]


if __name__ == "__main__":
    sys.exit(main(SandboxView))
