"""Snake in a terminal, for `python3 scalesocket.py snake`.

    python3 -m client.snake [ADDRESS] [--name NAME] [--room ROOM]

Arrows or WASD steer, q quits. The messages are described in game/snake.py; `World` applies them,
and `SnakeView` draws. A world that is larger than the terminal scrolls with the snake.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass, field
from typing import NamedTuple

from .terminal import RIVALS, Canvas, GameView, Json, Style, fit, fit_parts, main, text_width

Cell = tuple[int, int]  # x, y; (0, 0) is the top left corner

SIDE = 18  # columns of the leaderboard, and of the gap before it
MIN_COLUMNS, MIN_ROWS = 20, 7  # below the board there is one row more


class Glyphs(NamedTuple):
    """What a cell of the world looks like: one column wide, or two where there is room."""

    horizontal: str  # the wall above and below
    left: str  # the wall at the left, and so on
    right: str
    corners: tuple[str, str, str, str]  # top left, top right, bottom left, bottom right
    heads: dict[str, str]
    own: str
    rival: str
    food: str


def directions(up: str, down: str, left: str, right: str) -> dict[str, str]:
    """Name four things."""
    return {"up": up, "down": down, "left": left, "right": right}


GLYPHS = {  # by whether there is Unicode, and by columns
    (True, 1): Glyphs(
        *("─", "│", "│", ("┌", "┐", "└", "┘")), directions("▲", "▼", "◀", "▶"), "█", "▓", "●"
    ),
    (True, 2): Glyphs(
        *("──", " │", "│ ", (" ┌", "┐ ", " └", "┘ ")),
        *(directions("▟▙", "▜▛", "◀█", "█▶"), "██", "▓▓", "◖◗"),
    ),
    (False, 1): Glyphs(
        *("-", "|", "|", ("+", "+", "+", "+")), directions("^", "v", "<", ">"), "O", "x", "*"
    ),
    (False, 2): Glyphs(
        *("--", " |", "| ", (" +", "+ ", " +", "+ ")),
        *(directions("/\\", "\\/", "<O", "O>"), "OO", "xx", "()"),
    ),
}

CAUSES = {
    "wall": "You ran into the wall.",
    "self": "You bit yourself.",
    "snake": "You ran into {by}.",
    "head": "You and {by} met head to head.",
}


# ==== 1. What is known ===================================================================


@dataclass(slots=True)
class Player:
    """One player, alive while there is a body."""

    id: int
    name: str
    body: list[Cell]  # head first
    direction: str
    score: int
    best: int
    respawn: int | None  # the tick of the next life, while dead
    waits: int | None = None  # the tick that sets it going, while it is newborn and stands still

    @staticmethod
    def read(event: Json) -> Player:
        """Return a player as the server describes it."""
        return Player(
            int(event["id"]),
            str(event["name"]),
            read_cells(event["body"]),
            str(event["dir"]),
            int(event["score"]),
            int(event["best"]),
            event["respawn"],
            event.get("waits"),
        )


def read_cells(value: list[list[int]]) -> list[Cell]:
    """Return the cells in a list of [x, y]."""
    return [(int(x), int(y)) for x, y in value]


@dataclass(slots=True)
class World:
    """The world as the server has told it."""

    id: int = 0  # our own player's, once we play
    width: int = 0
    height: int = 0
    rate: float = 8.0
    tick: int = 0
    players: dict[int, Player] = field(default_factory=dict)
    food: set[Cell] = field(default_factory=set)
    farewell: str = ""  # how our own snake has died
    focus: Cell = (0, 0)  # where our own head is, or was

    @property
    def own(self) -> Player | None:
        """Our own player, or None while we only watch."""
        return self.players.get(self.id)

    def apply(self, event: Json) -> None:
        """Take a welcome, a full state or a delta."""
        match event["t"]:
            case "welcome":
                self.id, self.rate = int(event["id"]), float(event["rate"])
                self.width, self.height = int(event["width"]), int(event["height"])
                self.focus = (self.width // 2, self.height // 2)
            case "full":
                self.tick = int(event["tick"])
                self.players = {int(item["id"]): Player.read(item) for item in event["players"]}
                self.food = set(read_cells(event["food"]))
            case "delta":
                self.tick = int(event["tick"])
                self._apply_players(event)
                self._apply_moves(event)
                self._apply_food(event)
        own = self.own
        if own is not None and own.body:
            self.focus = own.body[0]

    def _apply_players(self, event: Json) -> None:
        for number in event.get("left", ()):
            self.players.pop(number, None)
        for item in event.get("joined", ()):
            self.players[int(item["id"])] = Player.read(item)
        for number, waits in event.get("halted", ()):
            self.players[number].waits = int(waits)
        for death in event.get("died", ()):
            player = self.players[death["id"]]
            player.body = []
            player.respawn, player.waits = death["respawn"], None
            if player.id == self.id:
                killer = self.players.get(death["by"])
                by = killer.name if killer else "someone"
                self.farewell = CAUSES.get(death["cause"], "You died.").format(by=by)

    def _apply_moves(self, event: Json) -> None:
        grown = set(event.get("grew", ()))
        for number, x, y, direction in event.get("moved", ()):
            player = self.players[number]
            player.body.insert(0, (int(x), int(y)))
            player.direction, player.waits = str(direction), None
            if number not in grown:
                player.body.pop()
        for birth in event.get("born", ()):
            player = self.players[birth["id"]]
            player.body = read_cells(birth["body"])
            player.direction = str(birth["dir"])
            player.respawn, player.waits = None, birth.get("waits")
        for number, score, best in event.get("scores", ()):
            self.players[number].score, self.players[number].best = int(score), int(best)

    def _apply_food(self, event: Json) -> None:
        self.food.difference_update(read_cells(event.get("eaten", [])))
        self.food.update(read_cells(event.get("food", [])))

    def leaderboard(self) -> list[Player]:
        """Return the players, the best first."""
        return sorted(self.players.values(), key=lambda player: (-player.best, -player.score))

    def style_of(self, player: Player) -> Style:
        """Return the style of a player's snake and name."""
        return Style.OWN if player.id == self.id else RIVALS[player.id % len(RIVALS)]


# ==== 2. How it looks ====================================================================


class Board(Canvas):
    """The part of the world that is around a place, drawn cell by cell.

    Args:
        world: what is drawn.
        columns, rows: of the terminal; the board is not larger than the world and its walls.
    """

    def __init__(self, world: World, columns: int, rows: int, *, unicode: bool) -> None:
        full_width, full_height = world.width + 2, world.height + 2
        self.scale = 2 if columns >= 2 * full_width else 1
        self.across = min(columns // self.scale, full_width)  # cells
        super().__init__(self.across * self.scale, min(rows, full_height), unicode=unicode)
        self.glyphs = GLYPHS[unicode, self.scale]
        self.left = scroll(world.focus[0], self.across, world.width)
        self.top = scroll(world.focus[1], self.rows, world.height)

    def cell(self, x: int, y: int, glyph: str, style: Style) -> None:
        """Draw one cell of the world, if it is within the board."""
        self.put((x - self.left) * self.scale, y - self.top, glyph, style)

    def walls(self, width: int, height: int) -> None:
        """Draw the four walls and their corners."""
        for x in range(width):
            self.cell(x, -1, self.glyphs.horizontal, Style.DIM)
            self.cell(x, height, self.glyphs.horizontal, Style.DIM)
        for y in range(height):
            self.cell(-1, y, self.glyphs.left, Style.DIM)
            self.cell(width, y, self.glyphs.right, Style.DIM)
        corners = ((-1, -1), (width, -1), (-1, height), (width, height))
        for (x, y), glyph in zip(corners, self.glyphs.corners, strict=True):
            self.cell(x, y, glyph, Style.DIM)

    def snake(self, player: Player, body: str, style: Style) -> None:
        """Draw a snake, its head last."""
        for x, y in player.body[1:]:
            self.cell(x, y, body, style)
        for x, y in player.body[:1]:
            self.cell(x, y, self.glyphs.heads[player.direction], style)


def scroll(place: int, size: int, world_size: int) -> int:
    """Return the first coordinate that is shown; that of the wall before the world is -1."""
    return max(-1, min(place - size // 2, world_size + 1 - size))


def draw(world: World, canvas: Canvas, notice: str = "") -> None:
    """Draw everything.

    Args:
        world: what is known.
        canvas: empty.
        notice: what the server did not like.
    """
    if canvas.is_too_small(MIN_COLUMNS, MIN_ROWS):
        return
    if not world.width:
        canvas.center(canvas.rows // 2, "Waiting for the world ...")
        return
    side = SIDE if canvas.columns >= SIDE + 40 else 0
    board = Board(world, canvas.columns - side, canvas.rows - 1, unicode=canvas.unicode)
    board.walls(world.width, world.height)
    for x, y in world.food:
        board.cell(x, y, board.glyphs.food, Style.FOOD)
    for player in world.players.values():
        if player is not world.own:
            board.snake(player, board.glyphs.rival, world.style_of(player))
    if world.own is not None:
        board.snake(world.own, board.glyphs.own, Style.OWN)
    draw_banner(world, board)
    canvas.paste(0, 1, board)
    draw_title(world, canvas, notice)
    if side:
        draw_leaderboard(world, canvas, board.columns + 1)


def draw_title(world: World, canvas: Canvas, notice: str) -> None:
    """Draw the first line: who we are and how we do, or what is wrong."""
    own = world.own
    if notice:
        canvas.put(0, 0, fit(f" {notice}", canvas.columns), Style.ERROR)
    elif own is None:
        canvas.put(1, 0, "SNAKE", Style.TITLE)
        canvas.put(8, 0, "watching", Style.TEXT)
    else:
        place = world.leaderboard().index(own) + 1
        name = fit(own.name, 16).rstrip()
        canvas.put(1, 0, name, Style.OWN)
        places = f"place {place} of {len(world.players)}"
        numbers = [f"score {own.score}", f"best {own.best}", places]
        room = canvas.columns - text_width(name) - 4
        canvas.right(0, f"{fit_parts(numbers, room)} ", Style.TITLE)


def draw_banner(world: World, board: Board) -> None:
    """Say how we have died, when we live again, and how to set out; not over our own head."""
    own = world.own
    if own is None or (own.body and own.waits is None):
        return
    texts = [world.farewell or f"Welcome, {own.name}!"]
    if own.waits is not None:
        left = max(0, own.waits - world.tick) / world.rate
        texts = ["Arrows or WASD: off you go!", f"By itself in {left:.0f} s"]
    elif own.respawn is not None:
        left = max(0, own.respawn - world.tick) / world.rate
        texts.append(f"You start in {left:.1f} s" if left else "Here you come ...")
    head_is_above = bool(own.body) and own.body[0][1] - board.top < board.rows // 2
    y = board.rows * (3 if head_is_above else 1) // 4 if own.body else board.rows // 2
    lines = [line for text in texts for line in textwrap.wrap(text, max(board.columns - 2, 1))]
    board.banner(board.columns // 2, y, lines, Style.CURSOR)


def draw_leaderboard(world: World, canvas: Canvas, x: int) -> None:
    """Draw the names in the colours of their snakes, with score and best."""
    canvas.put(x, 1, "         now best", Style.DIM)
    for y, player in enumerate(world.leaderboard()[: canvas.rows - 2], 2):
        text = f"{fit(player.name, 9)}{player.score:>3} {player.best:>4}"
        canvas.put(x, y, text, world.style_of(player))


# ==== 3. Playing =========================================================================


class SnakeView(GameView):
    """Snake at one terminal."""

    program = "snake"
    hint = "arrows or WASD steer   q quits"

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.world, self._is_told = World(), False

    def opened(self) -> Json | None:
        """Forget the world that was."""
        self.world, self._is_told = World(), False
        return super().opened()

    def receive(self, event: Json, now: float) -> Json | None:
        """Take a message; the clock is the server's ticks."""
        if event["t"] == "error":
            return self.refused(str(event["error"]), named=self.world.own is not None)
        self._is_told |= event["t"] == "full"
        if event["t"] == "delta" and not self._is_told:
            return None  # a seat that is back hears of ticks before it is told all anew
        if not self.world.width and event["t"] != "welcome":
            raise ValueError(f"it begins with {event['t']}")
        self.world.apply(event)
        return None

    def press(self, key: str) -> Json | None:
        """Steer."""
        self.notice = ""
        return {"t": "turn", "dir": key} if key in ("up", "down", "left", "right") else None

    def draw(self, canvas: Canvas, now: float) -> None:
        """Draw everything."""
        draw(self.world, canvas, self.notice)


if __name__ == "__main__":
    sys.exit(main(SnakeView))
