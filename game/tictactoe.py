# /// script
# requires-python = ">=3.11"
#
# [tool.scalesocket]
# game = "TicTacToe"
# staticdir = "../client/web"
# api = true
# linger = 15
# resume = 30
# ///
"""Tic-tac-toe for two, with as many spectators as come: an in-process game.

    python3 scalesocket.py tictactoe

Who joins a room is a spectator. Who gives a name sits down if a seat is free, and is the next to
get one if not. X begins. Messages are JSON objects in text.

From a client:

    {"t": "name", "name": "ann"}    once, at any time; {"username": "ann"} means the same; with
                                    "token", who had that token comes back, and plays on
    {"t": "move", "cell": 4}        0 to 8, line by line from the top left
    {"t": "rematch"}                after the end; once both have asked, marks swap

A name is made of 1 to 16 printable characters: others are left out, and so is what is too long.
It must differ from every other name in the room, and not only in case, and from those of players
who are away.

To every client when it joins and after every change, the whole state:

    {"t": "state",
     "board": "X.O......",                  nine cells, "." is empty
     "turn": "X",                           whose turn it is; null while nobody may move
     "players": {"X": "ann", "O": "bob"},   null for an empty seat
     "you": "X",                            this client's own seat; null for a spectator
     "name": "ann",                         this client's own name; null until it has one
     "token": "pVx…",                       a secret, to come back with; null without a name
     "spectators": 2,                       how many clients have no seat
     "result": null,                        "X", "O" or "draw" after the end
     "line": null,                          the three cells that won, such as [0, 4, 8]
     "forfeit": false,                      whether the loser of this result has left
     "away": null,                          "X" or "O": that player's connection is lost, and
     "grace": 0,                            this many whole seconds are left to come back
     "rematch": []}                         the marks that have asked for a rematch

To one client, whose message could not be used; nothing else has happened then:

    {"t": "error", "error": "it is O's turn"}

To a client whose token another one has come back with; it is a spectator without a name now:

    {"t": "moved"}

Who leaves in the middle of a game may come back to the seat within 15 seconds, with the token, and
forfeits otherwise; the other may move meanwhile. A name alone takes nobody's seat, and a token does
at once, even if the old connection is still thought to be alive. At any other time who leaves just
leaves an empty seat. It goes to the spectator who gave a name first, or else to the next to give
one. Who sits down after the end of a game has thereby asked for the next. When both seats are
empty, the board is, too.

With `--resume` who has lost the connection is "away" as well, with more time: 30 seconds. Such a
client is still here, and has its seat again when it is back, unless it has forfeited.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from scalesocket import Client, Game, GameRoom

from .messages import RuleError, new_name, read_object
from .tictactoe_rules import Table


class TicTacToe(Game):
    """One table in one room."""

    grace: float = 15  # seconds in which a player who has left may come back
    patience: float = 30  # seconds for one whose connection is lost, and who has not left

    def on_create(self, room: GameRoom) -> None:
        """Put up an empty table."""
        self.room = room
        self.table = Table(self.grace)
        self._tokens: dict[str, str] = {}  # of all names that are here, or away
        self._tell()

    def on_join(self, client: Client) -> None:
        """Let a spectator in."""
        self._tell()

    def on_message(self, client: Client, message: str | bytes) -> None:
        """Do what a client asks for, or tell it why not."""
        try:
            self._obey(client, read_object(message))
        except RuleError as error:
            client.send_json({"t": "error", "error": str(error)})
        else:
            self._tell()

    def on_leave(self, client: Client, code: int) -> None:
        """Keep the client's seat for a while, or let someone else have it."""
        name = name_of(client)
        if name is not None:
            self.table.leave(name, time.monotonic())
            self.room.call_later(self.grace, self._expire)
        self._tell()

    def on_drop(self, client: Client) -> None:
        """Give a player who has lost the connection some time to come back."""
        name = name_of(client)
        if name is not None:
            self.table.drop(name)
        self._tell()

    def on_resume(self, client: Client) -> None:
        """Let the player go on; everybody sees it."""
        name = name_of(client)
        if name is not None:
            self.table.come_back(name)
        self._tell()

    def on_save(self) -> dict[str, object]:
        """Return the table, and who is who."""
        names = [[client.id, name_of(client)] for client in self.room.clients.values()]
        table = self.table.save(time.monotonic())
        return {"table": table, "tokens": self._tokens, "names": names}

    def on_restore(self, state: Any) -> None:
        """Go on at that table; who will not come back by a seat of the server may by a token."""
        now = time.monotonic()
        self.table.restore(state["table"], now)
        self._tokens = state["tokens"]
        for client_id, name in state["names"]:
            if client_id in self.room.clients and name is not None:
                self.room.clients[client_id].data["name"] = name
            elif name is not None:
                self.table.leave(name, now)
        self.room.call_later(max(self.grace, self.patience), self._expire)
        self._tell()

    def _obey(self, client: Client, event: dict[str, object]) -> None:
        match event:
            case {"t": "name"} | {"username": _}:
                self._name(client, event)
            case {"t": "move" | "rematch"} if name_of(client) is None:
                raise RuleError("give your name first")
            case {"t": "move"}:
                self.table.move(client.data["name"], event.get("cell"))
            case {"t": "rematch"}:
                self.table.ask_rematch(client.data["name"])
            case _:
                raise RuleError("t is name, move or rematch")

    def _name(self, client: Client, event: dict[str, object]) -> None:
        if name_of(client) is not None:
            raise RuleError(f"you are {client.data['name']} already")
        self._forget_the_gone()
        name = self._find_name(event.get("token"))
        if name is not None:
            self._come_back(client, name)
            return
        client.data["name"] = name = new_name(event, self._tokens)
        self._tokens[name] = secrets.token_urlsafe(16)
        self.table.enter(name)

    def _find_name(self, token: object) -> str | None:
        """Return whose token that is."""
        return next((name for name, known in self._tokens.items() if known == token), None)

    def _come_back(self, client: Client, name: str) -> None:
        """Let a client be who it was; a connection that it had before has lost that name."""
        for other in self.room.clients.values():
            if name_of(other) == name:
                del other.data["name"]
                other.send_json({"t": "moved"})
        client.data["name"] = name
        self.table.come_back(name)

    def _forget_the_gone(self) -> None:
        """Keep the tokens of those who are here, and of those who may come back."""
        here = {name_of(client) for client in self.room.clients.values()}
        self._tokens = {
            name: token
            for name, token in self._tokens.items()
            if name in here or self.table.seat_of(name)
        }

    def _expire(self) -> None:
        if self.table.expire(time.monotonic()):
            self._tell()

    def _tell(self) -> None:
        """Send everyone the whole state; the lobby gets what it shows."""
        now = time.monotonic()
        if self.table.miss(now + self.patience):
            self.room.call_later(self.patience, self._expire)
        state = self.table.describe(now)
        clients = self.room.clients.values()
        names = [name_of(client) for client in clients]
        players = [name for name in names if name and self.table.seat_of(name)]
        spectators = len(names) - len(players)
        for client, name in zip(clients, names, strict=True):
            own = {
                "you": name and self.table.seat_of(name),
                "name": name,
                "token": name and self._tokens[name],
            }
            client.send_json({"t": "state", **state, **own, "spectators": spectators})
        self.room.metadata = {"players": len(players), "spectators": spectators}


def name_of(client: Client) -> str | None:
    """Return the name that a client has given itself."""
    name: str | None = client.data.get("name")
    return name
