# /// script
# requires-python = ">=3.11"
#
# [tool.scalesocket]
# game = "Snake"
# staticdir = "../client/web"
# api = true
# resume = 30
# ///
"""Snake for any number of players in one world: an in-process game.

    python3 scalesocket.py snake

Who joins a room watches; who gives a name plays. The server moves all snakes at once, 8 times a
second, and tells everybody what has changed. Messages are JSON objects in text.

From a client:

    {"t": "name", "name": "ann"}    once, at any time; {"username": "ann"} means the same
    {"t": "turn", "dir": "up"}      or "down", "left", "right"

A name is made of 1 to 16 printable characters: others are left out, and so is what is too long.
It must differ from every other name in the room, and not only in case. Of the turns that come in
a burst the first three are kept, and one is made at each tick; a turn to where the snake already
goes, or straight back, and a turn of a dead snake have no effect. A newborn snake stands still for
10 seconds at the most, until its first turn, which may also be straight on.

To a client that joins, these two, in this order:

    {"t": "welcome",
     "id": 7,                               this client's, and its snake's once it plays
     "name": null,                          its own, if it has come back and has kept nothing
     "width": 60, "height": 20,             of the world; the walls are outside
     "rate": 8}                             ticks per second
    {"t": "full",
     "tick": 120,
     "players": [                           in the order they came
       {"id": 7, "name": "ann",
        "body": [[3, 4], [2, 4], [1, 4]],   [x, y] of each cell, head first; [] while dead;
        "dir": "right",                     (0, 0) is the top left corner of the world
        "score": 0,                         food eaten in this life, or in the last while dead
        "best": 2,                          the highest score so far
        "respawn": null,                    the earliest tick of its next life, while dead
        "waits": null}],                    the tick that sets it going, while it stands still
     "food": [[9, 9], [40, 2]]}             no snake is on any of it

To every client at every tick, what has changed since the one before. A key whose list is empty is
left out. Applied to the full state in this order, it gives the full state of this tick:

    {"t": "delta",
     "tick": 121,                           always one more than the last
     "left": [5],                           players who are gone, and their snakes
     "joined": [{...}],                     players as above, still dead, to be added at the end
     "halted": [[8, 201]],                  is back: as a newborn it waits until this tick
     "died": [{"id": 9, "dir": "up",        this body is now []; dir is where it would have gone
               "cause": "snake",            or "wall", "self"; "head": two heads met
               "by": 7,                     whose body or head it was; null: "wall", "self"
               "respawn": 137}],
     "moved": [[7, 4, 4, "right"]],         id, x and y of the new head, and dir; waits is now null
     "grew": [7],                           these have eaten: the last cell of the body stays;
                                            of all others that moved, it goes
     "eaten": [[4, 4]],                     food that is gone
     "born": [{"id": 3, "body": [...],      respawn is now null
               "dir": "up", "waits": 201}],
     "food": [[1, 1]],                      new food, of which dead snakes leave some
     "scores": [[7, 1, 2]]}                 id, score and best

The leaderboard is the players by best, then by score, then by who came first.

To one client, whose message could not be used; nothing else has happened then:

    {"t": "error", "error": "the name 'ann' is taken"}

With `--resume` the snake of a client that has lost its connection stands still, and is no worse off
when that is back. A client that has kept nothing gets both messages again.
"""

from __future__ import annotations

import random
from typing import Any

from scalesocket import Client, Game, GameRoom

from .messages import RuleError, new_name, read_object
from .snake_rules import World

WIDTH, HEIGHT = 60, 20  # with a leaderboard beside it, it fits into a terminal of 80 by 24
RATE = 8  # ticks per second


class Snake(Game):
    """One world in one room."""

    tick_rate = RATE

    def on_create(self, room: GameRoom) -> None:
        """Make an empty world."""
        self.room = room
        self.world = World(WIDTH, HEIGHT, random.Random())

    def on_join(self, client: Client) -> None:
        """Show a spectator the whole world; from now on it gets the deltas."""
        self._introduce(client)
        self._tell_lobby()

    def on_drop(self, client: Client) -> None:
        """Let the client's snake, if it has one, stand still until somebody steers it again."""
        if "name" in client.data:
            self.world.halt(client.id)

    def on_resume(self, client: Client) -> None:
        """Let it go on; a page that was loaded anew has to see the world first."""
        self.world.go_on(client.id)
        if client.restored:
            self._introduce(client)

    def on_message(self, client: Client, message: str | bytes) -> None:
        """Do what a client asks for, or tell it why not."""
        try:
            self._obey(client, read_object(message))
        except RuleError as error:
            client.send_json({"t": "error", "error": str(error)})

    def on_leave(self, client: Client, code: int) -> None:
        """Take the client's snake out of the world."""
        if "name" in client.data:
            self.world.leave(client.id)
        self._tell_lobby()

    def on_tick(self, dt: float) -> None:
        """Let all snakes move at once."""
        delta = self.world.step()
        self.room.broadcast_json({"t": "delta", **delta.describe()})
        if delta.left or delta.joined or delta.scores:
            self._tell_lobby()

    def on_save(self) -> dict[str, object]:
        """Return the world."""
        return self.world.save()

    def on_restore(self, state: Any) -> None:
        """Go on with that world; the snakes of those who will not come back leave it."""
        self.world.restore(state)
        for player_id, name in self.world.names().items():
            if player_id in self.room.clients:
                self.room.clients[player_id].data["name"] = name
            else:
                self.world.leave(player_id)

    def _obey(self, client: Client, event: dict[str, object]) -> None:
        match event:
            case {"t": "name"} | {"username": _}:
                self._name(client, event)
            case {"t": "turn"} if "name" not in client.data:
                raise RuleError("give your name first")
            case {"t": "turn"}:
                self.world.turn(client.id, event.get("dir"))
            case _:
                raise RuleError("t is name or turn")

    def _name(self, client: Client, event: dict[str, object]) -> None:
        if "name" in client.data:
            raise RuleError(f"you are {client.data['name']} already")
        others = (other.data.get("name") for other in self.room.clients.values())
        client.data["name"] = new_name(event, filter(None, others))
        self.world.join(client.id, client.data["name"])

    def _introduce(self, client: Client) -> None:
        about = {"id": client.id, "name": client.data.get("name")}
        size = {"width": WIDTH, "height": HEIGHT, "rate": RATE}
        client.send_json({"t": "welcome", **about, **size})
        client.send_json({"t": "full", **self.world.describe()})

    def _tell_lobby(self) -> None:
        """Let the API show who is here, and who is the best of them."""
        names = [other.data.get("name") for other in self.room.clients.values()]
        players = sum(name is not None for name in names)
        leaders = self.world.leaderboard()[:1]
        self.room.metadata = {
            "players": players,
            "spectators": len(names) - players,
            "best": {"name": leaders[0].name, "score": leaders[0].best} if leaders else None,
        }
