"""The rules of tic-tac-toe: a board, and a table with two seats. No socket, thread or clock.

table = Table(grace=15)
table.enter("ann")
table.enter("bob")
table.move("ann", 4)
table.leave("bob", now=100.0)  # bob's seat is kept until 115.0
"""

from __future__ import annotations

import math
from typing import Any

from .messages import RuleError

MARKS = ("X", "O")
EMPTY = "."
LINES = (
    *((row, row + 1, row + 2) for row in (0, 3, 6)),
    *((column, column + 3, column + 6) for column in (0, 1, 2)),
    (0, 4, 8),
    (2, 4, 6),
)


def other(mark: str) -> str:
    """Return the opponent's mark."""
    return MARKS[1 - MARKS.index(mark)]


def is_same(cells: str, line: tuple[int, ...]) -> bool:
    """Whether all cells of a line are alike."""
    return len({cells[at] for at in line}) == 1


class Board:
    """Nine cells, and whose turn it is."""

    def __init__(self) -> None:
        self.cells = EMPTY * 9
        self.turn = MARKS[0]
        self.line: tuple[int, ...] | None = None  # the cells that won
        self.is_full = False

    def place(self, mark: str, cell: object) -> None:
        """Put a mark into a cell; the other has the next turn.

        Raises:
            RuleError: it may not go there now.
        """
        if mark != self.turn:
            raise RuleError(f"it is {self.turn}'s turn")
        if type(cell) is not int or not 0 <= cell < 9:  # `True` is an int, but no cell
            raise RuleError("a cell is a number from 0 to 8")
        if self.cells[cell] != EMPTY:
            raise RuleError(f"cell {cell} is taken by {self.cells[cell]}")
        self.show(self.cells[:cell] + mark + self.cells[cell + 1 :])
        self.turn = other(mark)

    def show(self, cells: str) -> None:
        """Have these in the cells; see what that means."""
        self.cells = cells
        self.is_full = EMPTY not in cells
        won = (line for line in LINES if cells[line[0]] != EMPTY and is_same(cells, line))
        self.line = next(won, None)


class Table:
    """A game between whoever sits there, one after the other.

    Names are taken as they are: that no two who are here or away have the same, and that only the
    one who was away comes back, is for the caller to see.

    Args:
        grace: seconds for which the seat of a player who left in the middle of a game is kept.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.board = Board()
        self.seats: dict[str, str] = {}  # the name on each mark's seat
        self.waiting: list[str] = []  # names of spectators who want one, the first to come first
        self.away: dict[str, float] = {}  # until when a mark's seat is kept, the first to go first
        self.dropped: set[str] = set()  # names of those who have no connection, but have not left
        self.result: str | None = None  # "X", "O" or "draw" after the end
        self.forfeit = False
        self.rematch: set[str] = set()  # the marks that have asked for one

    def save(self, now: float) -> dict[str, object]:
        """Return all of it, as JSON can hold it; see `restore`."""
        return {
            "cells": self.board.cells,
            "turn": self.board.turn,
            "seats": self.seats,
            "waiting": self.waiting,
            "away": {mark: until - now for mark, until in self.away.items()},  # seconds left
            "dropped": sorted(self.dropped),
            "result": self.result,
            "forfeit": self.forfeit,
            "rematch": sorted(self.rematch),
        }

    def restore(self, state: dict[str, Any], now: float) -> None:
        """Be as the table was that was saved, with as much time left for those who are away."""
        self.board.turn = state["turn"]
        self.board.show(state["cells"])
        self.seats, self.waiting = state["seats"], state["waiting"]
        self.away = {mark: now + left for mark, left in state["away"].items()}
        self.result, self.forfeit = state["result"], state["forfeit"]
        self.rematch, self.dropped = set(state["rematch"]), set(state["dropped"])

    @property
    def is_running(self) -> bool:
        """Whether moves are wanted: two sit there, and the game has not ended."""
        return len(self.seats) == 2 and self.result is None

    def seat_of(self, name: str) -> str | None:
        """Return the mark of a player who is here or away."""
        return next((mark for mark, sitting in self.seats.items() if sitting == name), None)

    def enter(self, name: str) -> None:
        """Let someone new sit down on a free seat, or wait for one."""
        self.waiting.append(name)
        self._fill_seats()

    def come_back(self, name: str) -> None:
        """Let a player back to the seat that is kept, if it is."""
        self.dropped.discard(name)
        mark = self.seat_of(name)
        if mark is not None:
            self.away.pop(mark, None)
        self._fill_seats()

    def drop(self, name: str) -> None:
        """Keep the seat of a player who has lost the connection; `miss` says how long."""
        self.dropped.add(name)

    def miss(self, until: float) -> bool:
        """In a game that runs, keep the seats of those without a connection only so long.

        That of one who had none when the game began, too.

        Returns:
            Whether one more is away.
        """
        seats = self.seats.items() if self.is_running else ()
        lost = [mark for mark, name in seats if name in self.dropped and mark not in self.away]
        self.away |= dict.fromkeys(lost, until)
        return bool(lost)

    def leave(self, name: str, now: float) -> None:
        """Keep the player's seat for a while if the game is running; give it up otherwise."""
        self.dropped.discard(name)
        mark = self.seat_of(name)
        if mark is None:
            self.waiting.remove(name)
        elif self.is_running:
            self.away.setdefault(mark, now + self.grace)
        else:
            self._vacate(mark)

    def expire(self, now: float) -> bool:
        """End the game if a seat has been kept for long enough; return whether it has been."""
        late = [mark for mark, until in self.away.items() if until <= now]
        if not late:
            return False
        self.result, self.forfeit = other(late[0]), True
        for mark in list(self.away):  # both, if the winner has gone as well
            self._vacate(mark)
        return True

    def move(self, name: str, cell: object) -> None:
        """Make a player's move.

        Raises:
            RuleError: it is not allowed.
        """
        mark = self._seat_of_player(name)
        if self.result is not None:
            raise RuleError("the game is over")
        if len(self.seats) < 2:
            raise RuleError("there is no opponent yet")
        self.board.place(mark, cell)
        if self.board.line:
            self.result = mark
        elif self.board.is_full:
            self.result = "draw"
        if self.result:
            for absent in list(self.away):
                if self.seats[absent] not in self.dropped:
                    self._vacate(absent)
            self.away.clear()

    def ask_rematch(self, name: str) -> None:
        """Note that a player wants another game; begin it, with marks swapped, if both do.

        Raises:
            RuleError: the game is not over, the name has no seat, or has asked already.
        """
        mark = self._seat_of_player(name)
        if self.result is None:
            raise RuleError("the game is not over yet")
        if mark in self.rematch:
            raise RuleError("you have asked for a rematch already")
        self.rematch.add(mark)
        self._begin_if_wanted()

    def describe(self, now: float) -> dict[str, object]:
        """Return what everybody may know (see `game/tictactoe.py`)."""
        away = next(iter(self.away), None)
        left = self.away[away] - now if away else 0
        return {
            "board": self.board.cells,
            "turn": self.board.turn if self.is_running else None,
            "players": {mark: self.seats.get(mark) for mark in MARKS},
            "result": self.result,
            "line": self.board.line,
            "forfeit": self.forfeit,
            "away": away,
            "grace": math.ceil(max(0, left)),
            "rematch": sorted(self.rematch),
        }

    def _seat_of_player(self, name: str) -> str:
        mark = self.seat_of(name)
        if mark is None:
            raise RuleError("you are a spectator")
        return mark

    def _vacate(self, mark: str) -> None:
        """Empty a seat, for who has waited longest; who had it and is still here waits now."""
        name = self.seats.pop(mark)
        if name in self.dropped:
            self.waiting.append(name)
        self.away.pop(mark, None)
        self.rematch.discard(mark)
        if not self.seats:
            self._begin()
        self._fill_seats()

    def _fill_seats(self) -> None:
        for mark in MARKS:
            present = [name for name in self.waiting if name not in self.dropped]
            if present and mark not in self.seats:
                self.seats[mark] = present[0]
                self.waiting.remove(present[0])
                if self.result is not None:  # who sits down wants to play
                    self.rematch.add(mark)
                    self._begin_if_wanted()

    def _begin_if_wanted(self) -> None:
        if len(self.rematch) == 2:
            self.seats = {other(mark): name for mark, name in self.seats.items()}
            self._begin()

    def _begin(self) -> None:
        self.board = Board()
        self.result, self.forfeit = None, False
        self.rematch.clear()
