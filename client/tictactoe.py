"""Tic-tac-toe in a terminal, for `python3 scalesocket.py tictactoe`.

    python3 -m client.tictactoe [ADDRESS] [--name NAME] [--room ROOM]

1 to 9 put a mark, or arrows (WASD) and Enter; r asks for a rematch, q quits. The messages are
described in game/tictactoe.py; each brings the whole state, so there is little to remember here.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import NamedTuple

from .terminal import Canvas, GameView, Json, Style, main, shorten, text_width

MIN_COLUMNS, MIN_ROWS = 28, 8  # below there is one row more
HEAD_ROWS = 3  # above the board

# ==== 1. What is known ===================================================================


@dataclass(frozen=True, slots=True)
class Table:
    """The state as the server has told it; game/tictactoe.py says what is what."""

    board: str
    turn: str | None
    players: dict[str, str | None]
    you: str | None
    name: str | None
    spectators: int
    result: str | None
    line: frozenset[int]
    forfeit: bool
    away: str | None
    grace: float  # seconds at `received`
    rematch: frozenset[str]
    received: float

    @staticmethod
    def read(event: Json, now: float) -> Table:
        """Return what a message says."""
        board = str(event["board"])
        if len(board) != 9:
            raise ValueError(f"a board of {len(board)} cells")
        return Table(
            board=board,
            turn=event["turn"],
            players={"X": event["players"]["X"], "O": event["players"]["O"]},
            you=event["you"],
            name=event["name"],
            spectators=int(event["spectators"]),
            result=event["result"],
            line=frozenset(event["line"] or ()),
            forfeit=bool(event["forfeit"]),
            away=event["away"],
            grace=float(event["grace"]),
            rematch=frozenset(event["rematch"]),
            received=now,
        )

    def name_of(self, mark: str) -> str:
        """Return a player's name, or the mark while the seat is empty."""
        return self.players[mark] or mark

    @property
    def opponent(self) -> str:
        """The mark that is not ours."""
        return "O" if self.you == "X" else "X"


def headline(table: Table) -> str:
    """Return what is going on: whose turn it is, or how it has ended."""
    if table.result == "draw":
        return "A draw."
    if table.result is not None:
        return ending(table, table.result)
    if table.turn is None:
        return "Waiting for another player."
    if table.turn == table.you:
        return f"Your turn, {table.turn}."
    return f"{table.name_of(table.turn)}'s turn."


def ending(table: Table, winner: str) -> str:
    """Return who has won, and how."""
    won = table.you == winner
    if table.forfeit:
        return "The other one has left: you win!" if won else "The other one has left."
    return "You win!" if won else f"{table.name_of(winner)} wins."


def detail(table: Table, now: float) -> str:
    """Return what else is to be known: who is away, and how it goes on."""
    if table.away is not None:
        left = max(0, math.ceil(table.grace - (now - table.received)))
        return f"{table.name_of(table.away)} lost the connection: {left} s to come back"
    if table.you is None:
        return "You are watching." if table.name else ""
    if table.result is None:
        return ""
    if table.you in table.rematch:
        return f"Waiting for {table.players[table.opponent] or 'another player'} ..."
    if table.opponent in table.rematch:
        return f"{table.name_of(table.opponent)} wants a rematch: press r"
    return "r asks for a rematch"


# ==== 2. How it looks ====================================================================


class Look(NamedTuple):
    """One size of a cell, and the marks in it."""

    width: int
    height: int
    marks: dict[str, tuple[str, ...]]


LARGE_X, LARGE_O = ("##  ##", "  ##  ", "##  ##"), ("######", "##  ##", "######")
LOOKS = {  # by whether there is Unicode; the largest first
    True: (
        Look(10, 5, {"X": LARGE_X, "O": LARGE_O}),
        Look(7, 3, {"X": ("╲ ╱", " ╳ ", "╱ ╲"), "O": ("╭─╮", "│ │", "╰─╯")}),
        Look(5, 1, {"X": ("X",), "O": ("O",)}),
    ),
    False: (
        Look(10, 5, {"X": LARGE_X, "O": LARGE_O}),
        Look(7, 3, {"X": ("\\ /", " X ", "/ \\"), "O": ("/-\\", "| |", "\\-/")}),
        Look(5, 1, {"X": ("X",), "O": ("O",)}),
    ),
}


class Board(Canvas):
    """The nine cells, as large as there is room for.

    Args:
        table: what is drawn.
        cursor: the cell that Enter would take, or None.
        columns, rows: the room that there is.
    """

    def __init__(
        self, table: Table, cursor: int | None, columns: int, rows: int, *, unicode: bool
    ) -> None:
        for look in LOOKS[unicode]:
            width, height = look.width * 3 + 2, look.height * 3 + 2
            if width <= columns and height <= rows:
                break
        super().__init__(width, height, unicode=unicode)
        self._look = look
        self._draw_lines()
        for cell, mark in enumerate(table.board):
            self._draw_cell(cell, mark, won=cell in table.line, cursor=cell == cursor)

    def _draw_lines(self) -> None:
        across, down, cross = ("─", "│", "┼") if self.unicode else ("-", "|", "+")
        width, height = self._look.width, self._look.height
        line = cross.join([across * width] * 3)
        for y in range(self.rows):
            if y % (height + 1) == height:
                self.put(0, y, line, Style.DIM)
            else:
                self.put(width, y, down, Style.DIM)
                self.put(2 * width + 1, y, down, Style.DIM)

    def _draw_cell(self, cell: int, mark: str, *, won: bool, cursor: bool) -> None:
        width, height, marks = self._look
        x, y = cell % 3 * (width + 1), cell // 3 * (height + 1)
        middle = y + height // 2
        style = {"X": Style.OWN, "O": Style.RIVAL_2}.get(mark, Style.DIM)
        for above in range(height if won or cursor else 0):
            self.put(x, y + above, " " * width, Style.WIN if won else Style.CURSOR)
        style = Style.WIN if won else Style.CURSOR if cursor else style
        if mark not in marks:
            self.put(x + (width - 1) // 2, middle, str(cell + 1), style)
        for above, text in enumerate(marks.get(mark, ())):
            text = text.replace("#", "█" if self.unicode else mark)
            self.put(
                x + (width - len(text)) // 2,
                y + (height - 1) // 2 - len(marks[mark]) // 2 + above,
                text,
                style,
            )
        if cursor:
            self.put(x, middle, "[", style)
            self.put(x + width - 1, middle, "]", style)


def draw(
    table: Table | None,
    canvas: Canvas,
    now: float,
    *,
    cursor: int = 4,
    notice: str = "",
    is_live: bool = True,
) -> None:
    """Draw everything.

    Args:
        table: what is known, if anything.
        canvas: empty.
        now: on the clock of `table.received`.
        cursor: the cell that Enter would take.
        notice: what the server did not like.
        is_live: there is a connection, over which one hears how it goes on.
    """
    if canvas.is_too_small(MIN_COLUMNS, MIN_ROWS):
        return
    if table is None:
        canvas.center(canvas.rows // 2, "Waiting for the table ...")
        return
    draw_players(table, canvas)
    if is_live:
        canvas.center(1, headline(table), Style.TITLE)
    if notice:
        canvas.center(2, f" {notice} ", Style.ERROR)
    elif is_live:
        canvas.center(2, detail(table, now))
    free = canvas.rows - HEAD_ROWS
    shown = cursor if table.you and table.turn == table.you else None
    board = Board(table, shown, canvas.columns, free, unicode=canvas.unicode)
    canvas.paste((canvas.columns - board.columns) // 2, HEAD_ROWS + (free - board.rows) // 2, board)


def draw_players(table: Table, canvas: Canvas) -> None:
    """Draw who plays with which mark, and how many watch if there is room for that."""
    half = canvas.columns // 2
    for x, mark, style in ((0, "X", Style.OWN), (half, "O", Style.RIVAL_2)):
        own = " (you)" if mark == table.you else ""
        turn = ">" if mark == table.turn else " "
        room = half - len(own) - 4
        name = shorten(table.players[mark] or "-", room, unicode=canvas.unicode)
        shown = f"{turn}{mark} {name}{own}"
        canvas.put(x, 0, shown, style)
    watching = f" {table.spectators} watching "
    if table.spectators and half + text_width(shown) + len(watching) <= canvas.columns:
        canvas.right(0, watching, Style.DIM)


# ==== 3. Playing =========================================================================

STEPS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


class TicTacToeView(GameView):
    """Tic-tac-toe at one terminal."""

    program = "tictactoe"
    hint = "1-9 or arrows+Enter  r rematch  q quits"

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.table: Table | None = None
        self.cursor = 4
        self._token: str | None = None  # with which we come back to our seat
        self._is_live = True

    def lost(self) -> None:
        """Nobody knows whose turn it is."""
        self._is_live = False

    def resumed(self, lost: int) -> None:
        """Nothing was missed."""
        self._is_live = True

    def opened(self) -> Json:
        """Give our name, and prove that the seat is ours if we have had one."""
        self._is_live = True
        return {**(super().opened() or {}), **({"token": self._token} if self._token else {})}

    def receive(self, event: Json, now: float) -> Json | None:
        """Take a message."""
        if event["t"] == "error":
            named = self.table is not None and self.table.name is not None
            return self.refused(str(event["error"]), named=named)
        if event["t"] == "moved":
            self._token = None
            self.notice = "You play on elsewhere."
        elif event["t"] == "state":
            self.table = Table.read(event, now)
            self._token = event["token"] or self._token
            self.notice = self.notice if self.table.name is None else ""
        elif self.table is None:
            raise ValueError(f"it begins with {event['t']}")
        return None

    def press(self, key: str) -> Json | None:
        """Move the cursor, put a mark, or ask for a rematch."""
        self.notice = ""
        if key in STEPS:
            across, down = STEPS[key]
            x = min(2, max(0, self.cursor % 3 + across))
            y = min(2, max(0, self.cursor // 3 + down))
            self.cursor = y * 3 + x
            return None
        if key == "r":
            return {"t": "rematch"}
        if key != "enter" and not key.isdecimal():
            return None
        cell = self.cursor if key == "enter" else int(key) - 1
        return {"t": "move", "cell": cell}

    def draw(self, canvas: Canvas, now: float) -> None:
        """Draw everything."""
        draw(
            self.table,
            canvas,
            now,
            cursor=self.cursor,
            notice=self.notice,
            is_live=self._is_live,
        )


if __name__ == "__main__":
    sys.exit(main(TicTacToeView))
