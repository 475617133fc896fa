"""The bundled games go on where they were saved: what JSON makes of it is the same game."""

from __future__ import annotations

import contextlib
import json
import random
import signal
from pathlib import Path
from typing import Any, cast

import pytest
from scalesocket.game.sandbox import Sandbox
from scalesocket.game.sandbox_rules import World
from scalesocket.game.snake import Snake
from scalesocket.game.tictactoe import TicTacToe
from scalesocket.net import sandbox_packets as packets

from scalesocket import Game
from tests.fake_room import FakeClient, FakeRoom
from tests.support import Closed, RawClient, serve


def over_the_wire(value: object) -> Any:
    return json.loads(json.dumps(value))


def bring_back(room: FakeRoom, game: Game, gone: tuple[int, ...] = ()) -> FakeRoom:
    """Return a room of another process with what was saved of one, and who has a seat there."""
    state = over_the_wire(room.game.on_save())
    other = FakeRoom(game)
    for number, client in room.clients.items():
        if number not in gone:
            other.clients[number] = type(client)(number)
    game.on_restore(state)
    return other


@pytest.mark.parametrize("seed", range(20))
def test_snakes_are_where_they_were(seed: int) -> None:
    chance, game = random.Random(seed), Snake()
    room = FakeRoom(game)
    for name in ("ann", "bob", "cat", None):
        room.join(name)
    for _ in range(chance.randrange(200)):
        room.say(room.clients[1], {"t": "turn", "dir": chance.choice(["up", "down", "left"])})
        game.on_tick(0.125)
    room.join("new, and not yet born")
    after = Snake()
    bring_back(room, after)
    assert over_the_wire(after.world.describe()) == over_the_wire(game.world.describe())
    for world in (game.world, after.world):  # the same calls and chance: the same world
        world._rng = random.Random(seed)
        for _ in range(50):
            world.step()
    assert after.world.describe() == game.world.describe()
    assert after.room.clients[2].data["name"] == "bob"


def test_a_snake_whose_player_does_not_come_back_leaves_and_its_name_is_free() -> None:
    game = Snake()
    room = FakeRoom(game)
    for name in ("ann", "bob"):
        room.join(name)
    game.on_tick(0.125)
    after = Snake()
    other = bring_back(room, after, gone=(2,))
    after.on_tick(0.125)
    assert [player.name for player in after.world.players.values()] == ["ann"]
    other._last_id = 2
    other.join("bob")
    after.on_tick(0.125)
    assert [player.name for player in after.world.players.values()] == ["ann", "bob"]


def test_a_snake_whose_player_was_away_when_it_was_saved_still_stands() -> None:
    """It set out by itself after the restart, and had died before its player was back."""
    game = Snake()
    room = FakeRoom(game)
    ann = room.join("ann")
    game.on_tick(0.125)
    room.say(ann, {"t": "turn", "dir": game.world.players[1].direction})
    game.on_tick(0.125)
    room.drop(ann)
    after = Snake()
    other = bring_back(room, after)  # the server says only of others that they are away
    body = [*after.world.players[1].body]
    for _ in range(100):
        after.on_tick(0.125)
    assert after.world.players[1].body == body
    other.resume(other.clients[1])
    after.on_tick(0.125)
    assert after.world.players[1].waits is not None


def test_a_snake_that_an_older_version_has_saved_comes_back() -> None:
    game, after = Snake(), Snake()
    room = FakeRoom(game)
    room.join("ann")
    game.on_tick(0.125)
    state = game.world.save()
    del state["away"], state["back"]
    FakeRoom(after)
    after.world.restore(over_the_wire(state))
    assert over_the_wire(after.world.describe()) == over_the_wire(game.world.describe())


def test_spectators_who_have_gone_leave_nothing_in_the_world() -> None:
    game = Snake()
    room = FakeRoom(game)
    for _ in range(3):
        watcher = room.join()
        room.drop(watcher)
        room.leave(watcher)
    assert not game.world._away


@pytest.mark.parametrize("moves", range(10))
def test_a_table_is_as_it_was(moves: int) -> None:
    game = TicTacToe()
    room = FakeRoom(game)
    for name in ("ann", "bob", "cat", None):
        room.join(name)
    for number, cell in enumerate([4, 0, 8, 2, 6, 1][:moves]):
        room.say(room.clients[1 + number % 2], {"t": "move", "cell": cell})
    if moves == 7:
        room.say(room.clients[1], {"t": "rematch"})
    if moves == 3:
        room.leave(room.clients[2])
    for client in room.clients.values():
        client.take()
    game._tell()
    other = bring_back(room, TicTacToe())
    for number, client in room.clients.items():
        assert other.clients[number].take() == client.take()


def test_who_has_no_seat_of_the_server_comes_back_to_a_table_with_the_token() -> None:
    game = TicTacToe()
    room = FakeRoom(game)
    ann, _ = room.join("ann"), room.join("bob")
    token = ann.take()[-1]["token"]
    other = bring_back(room, TicTacToe(), gone=(1,))
    assert other.clients[2].take()[-1]["away"] == "X"
    other._last_id = 2
    back = other.join()
    other.say(back, {"t": "name", "name": "ann", "token": token})
    assert back.take()[-1]["you"] == "X"


def test_a_sandbox_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeClient, "send", lambda client, message: None)  # no text, here
    game = Sandbox()
    monkeypatch.setattr(game, "make_world", lambda: World(7))  # where there is space to build
    room = FakeRoom(game)
    for _ in range(3):
        room.join()
    for number, client in room.clients.items():
        room.say(client, packets.encode(packets.Spawn(packets.Profile(f"p{number}", 0))))
    ann = game.viewers[1].player
    assert ann is not None
    for resource in range(3):
        game.world.grant(ann, resource, 500)
    for item in (3, 4, 5, 6, 7, 8, 9):
        game.world.select(ann, item)
        game.world.press(ann, True)
        game.world.walk(ann, item / 3)
        for _ in range(30):
            game.on_tick(0.05)
    assert ann.buildings
    after = Sandbox()
    bring_back(room, after, gone=(3,))
    assert game.viewers[3].player is not None
    game.world.leave(game.viewers[3].player)
    game.on_tick(0)
    before, now = game.on_save(), after.on_save()
    del before["viewers"][2]
    for state in (before, now):
        state["world"]["sid"] = 0
        state["world"]["structures"].sort(key=lambda facts: facts["sid"])
    assert over_the_wire(now["world"]) == over_the_wire(before["world"])
    players = [[view["player"] for view in state["viewers"]] for state in (before, now)]
    assert players[0] == players[1]
    assert after.viewers[1].known >= set(cast(Any, after.viewers[1].player).buildings)


# ==== With a server ========================================================================


def sit(server: Any, token: str = "", seen: int = 0) -> tuple[RawClient, dict[str, Any]]:
    client = RawClient.connect(server, "den?_seat")
    client.send_json({"_seat": {"token": token, "seen": seen} if token else {}})
    answer: Any = client.receive_json()
    return client, answer["_seat"]


@pytest.mark.slow
def test_an_evening_of_snake_survives_a_deployment_in_the_middle(tmp_path: Path) -> None:
    options = ("--store", "play.sqlite", "--resume", "60", "snake")
    heard: list[Any] = []
    token = ""
    for life in range(3):
        with serve(*options, cwd=tmp_path) as server:
            client, seat = sit(server, token, len(heard))
            assert seat["resumed"] == bool(life)
            token = seat["token"]
            if not life:
                client.send_json({"t": "name", "name": "ann"})
            ticks = len(heard) + 8
            while len(heard) < ticks:
                heard.append(client.receive_json())
            server.process.send_signal(signal.SIGTERM)
            with client, contextlib.suppress(Closed, EOFError, OSError):  # to the end
                while True:
                    heard.append(client.receive_json())
            assert server.wait() == 0
    deltas = [message for message in heard if message["t"] == "delta"]
    ticks_heard = [delta["tick"] for delta in deltas]
    assert ticks_heard == list(range(ticks_heard[0], ticks_heard[0] + len(deltas)))
    born = [one for delta in deltas for one in delta.get("born", []) if one["id"] == seat["id"]]
    left = [one for delta in deltas for one in delta.get("left", [])]
    assert born and not left
    assert sum(message["t"] in ("welcome", "full") for message in heard) == 2  # of the beginning


@pytest.mark.slow
def test_a_chat_survives_a_deployment_with_what_was_said(tmp_path: Path) -> None:
    options = ("--store", "play.sqlite", "chat")
    for life in range(2):
        with serve(*options, cwd=tmp_path) as server:
            client = RawClient.connect(server, "den")
            if life:
                assert client.receive_text() == "hello"
            client.send_text("hello")
            assert client.receive_text() == "hello"
            if not life:
                server.process.send_signal(signal.SIGTERM)
                with pytest.raises(Closed):
                    client.receive_text()
            client.sock.close()
            assert life or server.wait() == 0
