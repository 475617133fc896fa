"""--store: rooms and seats that outlive their process, with an account of every message."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from scalesocket.client.seat import Seat as ClientSeat
from scalesocket.client.seat import name_seat
from scalesocket.client.websocket import ConnectionClosed, WebSocket, connect
from scalesocket.net.seats import digest
from scalesocket.net.store import (
    NOTHING,
    BusyError,
    Dormant,
    Record,
    SqliteFile,
    Store,
    StoredRooms,
    StoredSeat,
    StoreError,
    check_seats,
    merge_facts,
)

from scalesocket import Poller, insist, parse_command_line
from tests.support import (
    PATIENCE,
    PONG,
    ROOT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    free_port,
    http_request,
    run_cli,
    serve,
    settled,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

GAMES = '''
import os
import time
from scalesocket import Game


class Tally(Game):
    """Repeats to all what each says; knows all that has been said."""

    def on_create(self, room):
        self.room, self.said, self.dropped = room, [], []

    def on_save(self):
        return self.said

    def on_restore(self, state):
        self.said = state

    def on_join(self, client):
        client.send(f"joined {client.id} {len(self.said)}")

    def on_message(self, client, message):
        if message == "state":
            client.send_json({"said": self.said, "clients": sorted(self.room.clients)})
        elif message == "fail":
            raise ValueError("as asked")
        elif message == "end":
            self.room.close(4321, "it is over")
        elif message == "meta":
            self.room.metadata = {"a": 1}
        else:
            self.said.append([client.id, message])
            self.room.broadcast(f"{client.id}:{message}")

    def on_drop(self, client):
        self.dropped.append(client.id)

    def on_resume(self, client):
        back = {"restored": client.restored, "name": client.name, "user": client.user}
        client.send_json({"dropped": self.dropped, **back})

    def on_leave(self, client, code):
        self.room.broadcast(f"left {client.id}")


class Quiet(Tally):
    """Likewise, but does not say who is back: nothing is to be heard but what was said."""

    def on_join(self, client):
        pass

    def on_resume(self, client):
        assert not client.restored


class Kept(Tally):
    keep = True


class Bytes(Tally):
    keep = True

    def on_save(self):
        return "\\n".join(text for _, text in self.said).encode() + bytes([0, 255])

    def on_restore(self, state):
        assert state[-2:] == bytes([0, 255])
        self.said = [[0, text] for text in state[:-2].decode().split("\\n")]


class Forgetful(Tally):
    """Saves nothing."""

    def on_save(self):
        return None


class Unsavable(Tally):
    def on_save(self):
        return {1, 2}


class Long(Kept):
    """Saves more than there may be, while the last thing said is long."""

    def on_save(self):
        return super().on_save() if self.said[-1:] != [[1, "long"]] else bytes(17 << 20)


class Failing(Kept):
    """Cannot be saved while there is a file."""

    def on_save(self):
        return {1, 2} if os.path.exists("fails") else super().on_save()


class Telling(Tally):
    """Says that it is saved, and ends once that is done with the last thing said."""

    def on_save(self):
        self.room.broadcast("saved")
        if self.said:
            self.room.close(4321, "it is over")
        return self.said


class Late(Tally):
    """Ends so late that it is cut."""

    def on_dispose(self):
        self.room._room.cut()


class Slow(Tally):
    """Takes its time to save."""

    def on_save(self):
        open("saving", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
        return super().on_save()


class SlowKept(Slow):
    keep = True


class Picky(Tally):
    """Cannot go on from what it has saved."""

    def on_restore(self, state):
        raise KeyError("what the older version did not have")


class Thorough(Tally):
    """Takes its time to end."""

    def on_dispose(self):
        time.sleep(1)


class Strict(Tally):
    """Begins when it is let, and knows all of whom it hears."""

    def on_create(self, room):
        super().on_create(room)
        self.players = set()
        while not os.path.exists("begin"):
            time.sleep(0.01)

    def on_restore(self, state):
        super().on_restore(state)
        self.players.update(self.room.clients)

    def on_join(self, client):
        self.players.add(client.id)
        super().on_join(client)

    def on_leave(self, client, code):
        self.players.remove(client.id)
        super().on_leave(client, code)


class Ticking(Tally):
    """What it saves is large, and whole or not."""

    tick_rate = 50
    count = 0

    def on_tick(self, dt):
        self.count += 1

    def on_save(self):
        return {"first": self.count, "many": [self.count] * 20000, "last": self.count}

    def on_restore(self, state):
        assert state["first"] == state["last"] and set(state["many"]) == {state["first"]}
        self.count = state["first"]

    def on_join(self, client):
        client.send(str(self.count))
'''
PROGRAM = """
import json, sys

def say(value):
    print(json.dumps(value), flush=True)

total = 0
for line in sys.stdin:
    said = json.loads(line)
    if "_restore" in said and "_from" not in said:
        total = said["_restore"]["total"]
        say({"t": "restored", "total": total})
    elif "add" in said:
        total += said["add"]
        say({"t": "total", "total": total})
        if said.get("save"):
            say({"_save": {"total": total}})
    elif said["t"] == "exit":
        sys.exit(3)
    else:
        say({"t": "heard", "line": said})
say({"_save": {"total": total}})
"""


@contextlib.contextmanager
def stored(folder: Path, target: str, *options: str, **more: Any) -> Iterator[ServerProcess]:
    """Run a server with a store in the folder."""
    with serve("--store", "play.sqlite", *options, target, cwd=folder, **more) as server:
        yield server


def sit(
    server: ServerProcess | tuple[str, int], room: str, token: str = "", seen: int | None = None
) -> tuple[RawClient, dict[str, Any]]:
    """Return a client that has asked for a seat, and the answer."""
    client = RawClient.connect(server, f"{room}?_seat&name=ann")
    wish: dict[str, object] = {"token": token} if token else {}
    if seen is not None:
        wish["seen"] = seen
    try:
        client.send_json({"_seat": wish})
        answer: Any = client.receive_json()
    except BaseException:
        client.sock.close()
        raise
    return client, answer["_seat"]


def say(client: RawClient, seat: dict[str, Any], text: str) -> None:
    client.send_text(text)
    assert client.receive_text() == f"{seat['id']}:{text}"


def ask(client: RawClient) -> dict[str, Any]:
    client.send_text("state")
    answer: Any = client.receive_json()
    return {"said": [text for _, text in answer["said"]], "clients": answer["clients"]}


def wait_closed(client: RawClient) -> int:
    """Return with which code the server closes a connection, after whatever it still sends."""
    with client, pytest.raises(Closed) as closed:
        while True:
            client.receive_message()
    return closed.value.code


def take(seat: ClientSeat, server: ServerProcess) -> WebSocket:
    """Return a connection on which a client of ours has its seat, for the first time or again."""
    ws = connect(name_seat(server.url("den")))
    is_first = not seat.is_taken
    assert seat.take(ws, PATIENCE) is not is_first
    return ws


def hear(seat: ClientSeat, ws: WebSocket) -> Any:
    message = ws.receive(PATIENCE)
    seat.count()
    return message


def stop(server: ServerProcess, client: RawClient) -> int:
    """Stop a server, and return with which code it closes its client, which does as it is told."""
    server.process.send_signal(signal.SIGTERM)
    code = wait_closed(client)
    assert server.wait() == 0
    return code


def read(folder: Path, query: str) -> list[Any]:
    """Return rows of the file."""
    with contextlib.closing(sqlite3.connect(folder / "play.sqlite", timeout=10)) as db:
        return db.execute(query).fetchall()


def wait_saved(folder: Path, text: str) -> None:
    """Wait until a room has saved that it has heard a text."""
    query = "SELECT state FROM rooms"  # which is nothing in a first record
    wait_until(lambda: any(text in (state or "") for (state,) in read(folder, query)))


def rooms(folder: Path) -> list[str]:
    return sorted(name for (name,) in read(folder, "SELECT name FROM rooms"))


def metric(server: ServerProcess, name: str) -> int:
    text = http_request(server, "GET", "/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"scalesocket_{name}")]
    return int(line.rpartition(" ")[2])


# ==== A stop ==============================================================================


def test_a_stop_keeps_room_and_seats_and_clients_go_on_where_they_were(folder: Path) -> None:
    with stored(folder, "games:Tally", "--resume", "60", "--metrics") as server:
        ann, seat = sit(server, "den")
        assert ann.receive_text() == f"joined {seat['id']} 0"
        say(ann, seat, "one")
        ann.send_text("meta")
        lost, lost_seat = sit(server, "den")
        assert lost.receive_text() == f"joined {lost_seat['id']} 1"
        lost.reset()
        wait_until(lambda: metric(server, "seats_dropped") == 1)
        say(ann, seat, "two")
        assert stop(server, ann) == 1012
    with stored(folder, "games:Tally", "--resume", "60", "--api") as server:
        newcomer = RawClient.connect(server, "den")  # brings the room back
        text = newcomer.receive_text()
        assert text.endswith(" 2") and int(text.split()[1]) > lost_seat["id"]
        ann, again = sit(server, "den", seat["token"], 3)
        assert again["resumed"] and again["id"] == seat["id"] and again["taken"] == 3
        heard = ann.receive_json()
        both = sorted((seat["id"], lost_seat["id"]))
        assert heard == {"dropped": [seat["id"]], "restored": False, "name": "ann", "user": ""}
        state = ask(newcomer)
        assert state["said"] == ["one", "two"] and state["clients"][:2] == both
        other, again = sit(server, "den", lost_seat["token"], 1)
        assert again["id"] == lost_seat["id"]
        assert other.receive_text() == f"{seat['id']}:two"  # which it has missed
        listed = json.loads(http_request(server, "GET", "/api/den/").body)
        assert listed["metadata"] == {"a": 1}
        for client in (newcomer, ann, other):
            client.close()


def test_a_room_that_all_have_left_is_not_back_because_the_server_stopped_just_then(
    folder: Path,
) -> None:
    """A worker's room was, about once in fifty runs of its test."""
    with stored(folder, "games:Thorough") as server:
        ann = RawClient.connect(server, "den")
        ann.receive_text()
        ann.close()
    assert rooms(folder) == []


def test_who_comes_back_and_leaves_before_his_room_is_there_again_ends_it_for_nobody(
    folder: Path,
) -> None:
    """A game was told that somebody had left of whom it had never heard: 1011 for all."""
    begin = folder / "begin"
    begin.touch()
    with stored(folder, "games:Strict", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        bob, other = sit(server, "den")
        ann.receive_text()
        server.process.send_signal(signal.SIGTERM)
        assert wait_closed(ann) == wait_closed(bob) == 1012
        assert server.wait() == 0
    begin.unlink()
    with stored(folder, "games:Strict", "--resume", "60", "--api") as server:
        ann, again = sit(server, "den", seat["token"], 1)
        bob, _ = sit(server, "den", other["token"], 1)
        bob.send_close(1000)
        wait_until(lambda: http_request(server, "GET", "/api/den/connections").body == b"1")
        begin.touch()
        assert again["resumed"] and ann.receive_json()["restored"] is False  # type: ignore[call-overload,index]
        assert ann.receive_text() == f"left {other['id']}"
        say(ann, seat, "still here")
        bob.wait_close()
        ann.close()


def test_a_stop_while_a_program_waits_to_be_started_again_keeps_what_it_has_saved(
    folder: Path,
) -> None:
    """The record and all seats were removed, as if the room had ended by itself."""
    (folder / "failing.py").write_text(
        "import json, os, sys\n"
        "if os.path.exists('broken'): sys.exit(3)\n"
        "for line in sys.stdin:\n"
        "    if 'save' in line: print(json.dumps({'_save': 42}), flush=True)\n"
        "    if 'fail' in line: open('broken', 'w'), sys.exit(3)\n"
    )
    options = ("--json", "--respawn", "--resume", "60", "--saveevery", "0.1", "failing.py")
    with stored(folder, *options) as server:
        client, seat = sit(server, "den")
        client.send_json({"save": True})
        wait_saved(folder, "42")
        client.send_json({"fail": True})
        wait_until(lambda: sum("status 3" in line for line in server.log()) >= 4)
        assert stop(server, client) == 1012
    assert [state for (state,) in read(folder, "SELECT state FROM rooms")] == ["42"]
    (folder / "broken").unlink()
    with stored(folder, *options) as server:
        client, again = sit(server, "den", seat["token"])
        assert again["resumed"] and again["id"] == seat["id"]
        client.close()


def test_what_is_said_while_there_is_no_program_is_said_again_after_a_stop(folder: Path) -> None:
    """The server had taken it, and nobody had heard it: it was lost."""
    program, away = folder / "program", folder / "away"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    if 'exit' in line: sys.exit(3)\n"
        "    print(json.dumps({'_save': 'there'}), flush=True)\n"
        "    print(json.dumps({'heard': json.loads(line)}), flush=True)\n"
    )
    program.chmod(0o755)
    options = ("--json", "--joinmsg", "", "--respawn", "--resume", "60", "./program")
    with stored(folder, *options) as server:
        client, seat = sit(server, "den")
        client.send_json({"n": 1})
        client.receive_json()
        program.rename(away)
        client.send_json({"exit": 2})
        server.wait_log("cannot start")
        client.send_json({"n": 3})
        client.ping(b"heard")
        wait_until(lambda: client.receive() == (PONG, b"heard"))
        assert stop(server, client) == 1012
    away.rename(program)
    with stored(folder, *options) as server:
        client, again = sit(server, "den", seat["token"], 1)
        assert again["resumed"] and again["taken"] == 2
        client.close()


def test_what_had_been_taken_as_there_was_no_program_is_said_again_after_a_stop(
    folder: Path,
) -> None:
    """Who had come back in that pause had forgotten it, as the server had told that it has it."""
    program, away = folder / "program", folder / "away"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "for line in sys.stdin:\n"
        "    if 'exit' in line: sys.exit(3)\n"
        "    print(line, end='', flush=True)\n"
    )
    program.chmod(0o755)
    options = ("--json", "--joinmsg", "", "--leavemsg", "", "--respawn", "--resume", "60")
    seat = ClientSeat()
    with stored(folder, "./program", *options) as server:
        with take(seat, server) as ws:
            seat.send('{"n":1}')
            assert '"n":1' in hear(seat, ws)
            program.rename(away)
            seat.send('{"exit":2}')
            server.wait_log("cannot start")
            seat.send('{"n":3}')
            ws.ping()
            while ws.latency is None:
                with contextlib.suppress(TimeoutError):
                    ws.receive(0.05)
            ws.abort()
        seat.lose()
        with take(seat, server) as ws:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                ws.receive(PATIENCE)
        seat.lose()
        assert server.wait() == 0
    away.rename(program)
    with stored(folder, "./program", *options) as server:
        with take(seat, server) as ws:
            assert seat.lost == 0
            assert '"n":3' in hear(seat, ws)


def test_the_last_save_is_tried_again_for_a_while() -> None:
    """A file that was locked at the moment of a SIGTERM lost all since the save before."""
    tries = []

    def write(batch: object, _highest: int, _latest: object) -> None:
        tries.append(batch)
        if len(tries) < 3:
            raise sqlite3.OperationalError("database is locked")

    store = Store(Mock(open=dict, write=write), Mock())
    store.start()
    store.put("den", None)
    store.stop()
    assert tries == [{"den": None}] * 3


def is_busy(store: Store, room: str) -> bool:
    """Whether a room is to be asked for again."""
    with contextlib.suppress(BusyError):
        store.read(room)
        return False
    return True


def test_a_record_that_nobody_waits_for_any_more_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was whole no longer: when its room was back, all clients were told everything anew."""
    monkeypatch.setattr("scalesocket.net.store.LOAD_TIMEOUT", 0.01)
    asked, answers, rooms = threading.Event(), threading.Event(), []

    def read(room: str) -> None:
        rooms.append(room)
        asked.set()
        assert answers.wait(PATIENCE)

    store = Store(Mock(open=dict, read=read), Mock())
    store.start()

    # Again, where the thread comes to it only when nobody waits any more: it is not read then.
    wait_until(lambda: is_busy(store, "den") and asked.is_set())
    assert is_busy(store, "pit")
    answers.set()
    store.stop()
    assert rooms == ["den"]


def test_a_record_that_is_read_for_nobody_any_more_is_as_whole_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk had it at last when its client had begun anew: when the room was back after that,
    all clients were told everything anew."""
    monkeypatch.setattr("scalesocket.net.store.LOAD_TIMEOUT", 0.01)
    asked, answers, written = threading.Event(), threading.Event(), {}
    whole = NOTHING._replace(whole=True)

    def read(_room: str) -> Record:
        asked.set()
        assert answers.wait(PATIENCE)
        return whole

    def write(batch: dict[str, Record | None], *_: object) -> None:
        written.update(batch)

    store = Store(Mock(open=dict, read=read, write=write), Mock())
    store.start()
    wait_until(lambda: is_busy(store, "den") and asked.is_set())
    answers.set()
    store.stop()
    assert written == {"den": whole}


def test_a_token_that_is_given_during_the_last_save_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its client began anew."""
    monkeypatch.setattr("scalesocket.net.store.describe_client", lambda _client: {})
    seat: Any = Mock(has_left=False, is_stored=False, in_store=False)
    seat.describe_token.return_value = {"keys": []}
    written: list[tuple[object, object]] = []

    def write(batch: object, _highest: int, latest: dict[str, object]) -> None:
        if not written:
            store.put_token("den", seat)
        written.append((batch, [*latest]))

    store = Store(Mock(open=dict, write=write), Mock())
    store.start()
    with store._changed:  # both at once
        store._give_up_at = time.monotonic() + PATIENCE
        store.put("attic", None)
    store.stop()
    assert written == [({"attic": None}, []), ({}, ["den"])]


def test_a_slow_store_is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("scalesocket"), "propagate", True)
    monkeypatch.setattr("scalesocket.net.store.SLOW_WRITE", -1.0)
    write = Mock()
    store = Store(Mock(open=dict, write=write), Mock())
    store.start()
    for number in (1, 2):
        store.put("den", NOTHING)
        wait_until(lambda number=number: write.call_count == number)  # type: ignore[misc]
    store.stop()
    assert caplog.text.count("the store is slow: 1 rooms took") == 1


def test_a_store_that_does_not_answer_at_the_end_is_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log said "0 rooms could not be saved", as what was being written did not count."""
    monkeypatch.setattr(logging.getLogger("scalesocket"), "propagate", True)
    monkeypatch.setattr("scalesocket.net.store.END_TIMEOUT", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    def write(*_: object) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    store = Store(Mock(open=dict, write=write), Mock())
    store.start()
    store.put("den", NOTHING)
    assert begun.wait(PATIENCE)
    store.stop()
    go_on.set()
    store._thread.join(PATIENCE)
    assert "the store does not answer at the end" in caplog.text
    assert "0 rooms" not in caplog.text


def test_without_a_store_a_stop_is_1001_as_before(folder: Path) -> None:
    with serve("games:Tally", cwd=folder) as server:
        client = RawClient.connect(server, "den")
        assert stop(server, client) == 1001


class Player:
    """Says numbers, and hears what all say, whatever becomes of server and connection."""

    def __init__(self, address: tuple[str, int], count: int, everybody: int) -> None:
        self.address = address
        self.numbers = [str(number) for number in range(count)]
        self.allowed = 0  # of these may be said by now
        self.wanted = count * everybody
        self.heard: list[str] = []
        self.token = ""
        self.id = 0
        self.resumed = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while len(self.heard) < self.wanted:
                with contextlib.suppress(OSError, EOFError, Closed, HandshakeRefused):
                    self._play()
        except BaseException as error:
            self.error = error

    def _play(self) -> None:
        client, seat = sit(self.address, "den", self.token, len(self.heard))
        with client:
            assert seat["resumed"] == bool(self.token), seat
            assert self.id in (0, seat["id"])
            self.resumed += seat["resumed"]
            self.token, self.id = seat["token"], seat["id"]
            said = seat["taken"]
            while len(self.heard) < self.wanted:
                if said < self.allowed:
                    client.send_text(self.numbers[said])
                    said += 1
                with contextlib.suppress(TimeoutError):
                    self.heard.append(client.receive_text(timeout=0.05))


def wait_for_players(players: list[Player], reached: Any, how: Any) -> None:
    wait_until(lambda: how(reached(player) or player.error for player in players))


@pytest.mark.parametrize(
    ("everybody", "step", "lives", "workers"),
    [(12, 30, 6, "1"), (12, 30, 6, "2"), pytest.param(200, 1, 3, "1", marks=pytest.mark.slow)],
)
def test_stops_under_many_clients_lose_nothing_and_double_nothing(
    folder: Path, everybody: int, step: int, lives: int, workers: str
) -> None:
    port = free_port()
    players: list[Player] = []
    for life in range(lives + 1):
        options = ("--resume", "60", "--workers", workers)
        with stored(folder, "games:Quiet", *options, addr=f"127.0.0.1:{port}"):
            if not players:
                address = "127.0.0.1", port
                players = [Player(address, step * lives, everybody) for _ in range(everybody)]
                wait_for_players(players, lambda player: bool(player.id), all)
            for player in players:
                player.allowed = min(life + 1, lives) * step
            enough = step * everybody * life + random.randrange(step * everybody)
            enough = enough if life < lives else step * everybody * lives
            wait_for_players(players, lambda p, enough=enough: len(p.heard) >= enough, any)
            if life == lives:
                for player in players:
                    player.thread.join(60)
    assert [player.error for player in players] == [None] * everybody
    assert sum(player.resumed for player in players) > everybody
    first = players[0].heard
    assert all(player.heard == first for player in players)  # one order of events
    for player in players:
        own = [text.partition(":")[2] for text in first if text.startswith(f"{player.id}:")]
        assert own == player.numbers


HOLDS = f"""
import os, sys, time
sys.path.insert(0, {os.fspath(ROOT)!r})
import scalesocket
from scalesocket.net.store import StoredRooms

save = StoredRooms.save

def save_and_wait(self, room, record):
    save(self, room, record)
    if record.whole:
        open("saved", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)

StoredRooms.save = save_and_wait
sys.exit(scalesocket.main())
"""


def test_nobody_takes_a_seat_back_that_has_been_stored(folder: Path) -> None:
    """The token that was given then was never heard of again: 37 of 200 players began anew."""
    command = [sys.executable, "-c", HOLDS]
    with stored(folder, "games:Quiet", "--resume", "60", command=command) as server:
        ann, seat = sit(server, "den")
        say(ann, seat, "one")
        ann.reset()
        late = RawClient.connect(server, "den?_seat&name=ann")
        server.process.send_signal(signal.SIGTERM)
        wait_until((folder / "saved").exists)
        late.send_json({"_seat": {"token": seat["token"], "seen": 1}})
        with late, pytest.raises(Closed, match="1012"):
            late.receive_message()
        (folder / "go").touch()
        assert server.wait() == 0
    with stored(folder, "games:Quiet", "--resume", "60") as server:
        ann, again = sit(server, "den", seat["token"], 1)
        assert again["resumed"] and again["id"] == seat["id"]
        ann.close()


def test_a_game_is_told_after_a_stop_what_has_become_of_seats_as_it_saved(folder: Path) -> None:
    """Of whom it lost then it never heard, and of whom had come back it heard a second time."""
    with stored(folder, "games:Slow", "--resume", "60", "--saveevery", "0", "-v") as server:
        ann, ann_seat = sit(server, "den")
        bob, bob_seat = sit(server, "den")
        assert bob.receive_text() == f"joined {bob_seat['id']} 0"
        bob.reset()
        server.wait_log("dropped with")
        back = RawClient.connect(server, "den?_seat")
        server.process.send_signal(signal.SIGTERM)
        wait_until((folder / "saving").exists)
        back.send_json({"_seat": {"token": bob_seat["token"], "seen": 1}})
        answer: Any = back.receive_json()
        assert answer["_seat"]["resumed"]
        ann.reset()
        wait_until(lambda: sum("dropped with" in line for line in server.log()) == 2)
        (folder / "go").touch()
        assert wait_closed(back) == 1012
        assert server.wait() == 0
    with stored(folder, "games:Slow", "--resume", "60") as server:
        ann, again = sit(server, "den", ann_seat["token"])
        assert again["resumed"]
        heard: Any = ann.receive_json()
        assert heard["dropped"] == [ann_seat["id"]]
        ann.close()


def test_who_lacks_too_much_as_its_room_is_saved_joins_the_next_one(folder: Path) -> None:
    """It was given a seat, and no game ever heard `on_join` of it."""
    with stored(folder, "games:Slow", "--resume", "60", "--saveevery", "0") as server:
        ann, seat = sit(server, "den")
        assert ann.receive_text() == f"joined {seat['id']} 0"
        back = RawClient.connect(server, "den?_seat")
        server.process.send_signal(signal.SIGTERM)
        wait_until((folder / "saving").exists)
        back.send_json({"_seat": {"token": seat["token"], "seen": 1000}})
        with back, pytest.raises(Closed, match="1012"):
            back.receive_message()
        (folder / "go").touch()
        assert wait_closed(ann) == 4001
        assert server.wait() == 0
    with stored(folder, "games:Slow", "--resume", "60") as server:
        bob, again = sit(server, "den", seat["token"], 1)
        assert not again["resumed"] and again["id"] != seat["id"]
        assert bob.receive_text() == f"joined {again['id']} 0"
        bob.close()


def test_a_room_that_is_cut_as_it_takes_too_long_to_end_is_saved_with_its_seats(
    folder: Path,
) -> None:
    """They had been taken back by then, and everybody began anew in it."""
    with stored(folder, "games:Late", "--resume", "60", "--saveevery", "0") as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        assert stop(server, ann) == 1012
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["resumed"] and again["id"] == seat["id"] and again["taken"] == 1
        heard: Any = ann.receive_json()
        assert heard["restored"] is True and heard["dropped"] == [seat["id"]]
        assert ask(ann)["said"] == ["one"]
        ann.close()


def test_a_game_that_saves_nothing_begins_anew_with_its_seats(folder: Path) -> None:
    with stored(folder, "games:Forgetful", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        stop(server, ann)
    with stored(folder, "games:Forgetful", "--resume", "60") as server:
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["id"] == seat["id"]
        assert ann.receive_text() == f"joined {seat['id']} 0"
        assert ann.receive_json() == {
            "dropped": [seat["id"]], "restored": False, "name": "ann", "user": ""
        }  # fmt: skip
        ann.close()


def test_a_second_stop_keeps_rooms_to_which_nobody_has_come_between(folder: Path) -> None:
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        stop(server, ann)
    with stored(folder, "games:Tally", "--resume", "60") as server:
        other, _ = sit(server, "elsewhere")
        other.receive_text()
        other.close()
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["id"] == seat["id"] and again["resumed"]
        ann.receive_json()
        assert ask(ann)["said"] == ["one"]
        ann.close()


# ==== Programs ============================================================================


def test_a_program_gets_what_the_last_one_saved(folder: Path) -> None:
    options = ("--json", "--resume", "60", "--dropmsg", '{"t":"Drop","_from":#ID}')
    with stored(folder, "program.py", *options) as server:
        ann, seat = sit(server, "den")
        assert ann.receive_json() == {"t": "heard", "line": {"t": "Join", "_from": seat["id"]}}
        for number in range(3):
            ann.send_json({"add": number, "_save": {"total": 99}, "_RESTORE": {"total": 98}})
            total = sum(range(number + 1))
            assert ann.receive_json() == {"t": "total", "total": total}
        assert stop(server, ann) == 1012
    with stored(folder, "program.py", *options) as server:
        ann, again = sit(server, "den", seat["token"], 4)
        assert again["id"] == seat["id"] and again["taken"] == 3
        assert ann.receive_json() == {"t": "restored", "total": 3}
        for kind in ("Join", "Drop"):
            assert ann.receive_json() == {"t": "heard", "line": {"t": kind, "_from": seat["id"]}}
        ann.close()
        wait_until(lambda: not rooms(folder))  # its record has gone with its last seat


def test_a_program_is_saved_as_the_server_begins_to_drain(folder: Path) -> None:
    """Seen: only games were; what a program had said to save was lost if it was killed then."""
    options = ("--frame=json", "--resume", "60", "--saveevery", "0", "--drain", "600")
    with stored(folder, "program.py", *options) as server:
        ann, _ = sit(server, "den")
        ann.send_json({"add": 3, "save": True})
        ann.send_json({"t": "still there"})
        assert ann.receive_json() == {"t": "total", "total": 3}
        ann.receive_json()  # what stands before this is known
        server.process.send_signal(signal.SIGTERM)
        wait_saved(folder, "3")
        ann.close()
        assert server.wait() == 0


SAVES_ALL = """
import json, sys

for line in sys.stdin:
    said = json.loads(line)
    restored = "_restore" in said and "_from" not in said
    print(line.replace("_restore", "restored") if restored else json.dumps({"_save": said["save"]}))
"""


@pytest.mark.parametrize("text", ["1", '"1"', "1.0", "123456789012345678901234567890", "[1]", "0"])
def test_what_a_program_saves_comes_back_as_it_was(folder: Path, text: str) -> None:
    (folder / "all.py").write_text(SAVES_ALL)
    with stored(folder, "all.py", "--frame=json", "--cachepersist") as server:
        client = RawClient.connect(server, "den")
        client.send_text(f'{{"save":{text}}}')
        client.close()
        wait_until(lambda: rooms(folder))
    with stored(folder, "all.py", "--frame=json") as server:
        with RawClient.connect(server, "den") as client:
            assert client.receive_text() == f'{{"restored":{text}}}'
            client.close()


def test_a_program_that_is_started_again_gets_it_too(folder: Path) -> None:
    with serve("--json", "--respawn", "program.py", cwd=folder, allow_traceback=True) as server:
        client = RawClient.connect(server, "den")
        client.receive_json()
        client.send_json({"add": 5, "save": 1})
        assert client.receive_json() == {"t": "total", "total": 5}
        client.send_json({"t": "exit"})
        assert client.receive_json() == {"t": "restored", "total": 5}
        client.close()


@pytest.mark.parametrize("clientroute", [(), ("--clientroute",)])
@pytest.mark.parametrize(
    "name", ["_save", "_Restore", "_re\\u0073tore", "_SAVE\\u200b", "_\u017fave"]
)
def test_no_client_says_what_is_saved_or_restored(
    folder: Path, name: str, clientroute: tuple[str, ...]
) -> None:
    with serve("--frame=json", *clientroute, "cat") as server:
        client = RawClient.connect(server, "den")
        client.send_text(f'{{"{name}":{{"total":7}},"x":1}}')
        assert client.receive_json() == {"_from": 1, "x": 1}
        client.close()


def test_a_history_comes_back_and_so_does_a_program_that_cachepersist_keeps(folder: Path) -> None:
    options = ("--cache", "3", "--cachepersist")
    for turn in range(2):
        with stored(folder, "cat", *options) as server:
            for number in range(4):
                client = RawClient.connect(server, "den")
                known = list(range(4 * turn + number))[-3:]
                assert [client.receive_text() for _ in known] == [f"é{n}" for n in known]
                text = f"é{4 * turn + number}"
                client.send_text(text)
                assert client.receive_text() == text
                client.close()
    assert rooms(folder) == ["den"]


def test_what_a_game_does_as_it_is_saved_is_done_at_once(folder: Path) -> None:
    """It waited for the next message: what `on_save` had sent, and that it had closed the room."""
    with (
        stored(folder, "games:Telling", "--saveevery", "0.1") as server,
        RawClient.connect(server, "den") as ann,
    ):
        assert ann.receive_text() == "joined 1 0"
        assert ann.receive_text() == "saved"
        ann.send_text("last")
        assert wait_closed(ann) == 4321
    assert rooms(folder) == []


# ==== A crash =============================================================================


def test_after_a_crash_everybody_is_told_all_anew(folder: Path) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    with stored(folder, "games:Tally", *options) as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        for number in range(3):
            say(ann, seat, str(number))
        wait_until(lambda: read(folder, "SELECT state FROM rooms") == [
            (json.dumps([[seat["id"], str(n)] for n in range(3)], separators=(",", ":")),)
        ])  # fmt: skip
        server.kill()
        ann.sock.close()
    with stored(folder, "games:Tally", *options) as server:
        ann, again = sit(server, "den", seat["token"], 17)
        assert again["resumed"] and again["id"] == seat["id"] and again["taken"] == 3
        heard: Any = ann.receive_json()
        assert heard["restored"] is True
        assert ask(ann)["said"] == ["0", "1", "2"]
        ann.reset()
        ann, again = sit(server, "den", again["token"], 19)  # counted on from what it said
        heard = ann.receive_json()
        assert heard["restored"] is False and again["taken"] == 4
        ann.close()


def test_what_was_said_before_a_reconnection_and_a_crash_is_said_again(folder: Path) -> None:
    """The client had forgotten it, as the server had told that it has it."""
    options = ("--resume", "60", "--saveevery", "3600")
    seat = ClientSeat()
    with stored(folder, "games:Tally", *options) as server:
        with take(seat, server) as ws:
            seat.send("one")
            while not hear(seat, ws).endswith(":one"):
                pass
            ws.abort()
        seat.lose()
        with take(seat, server) as ws:
            key = digest(seat._token).hex()
            wait_until(lambda: key in str(read(folder, "SELECT facts FROM seats")))
            server.kill()
            ws.abort()
        seat.lose()
    with stored(folder, "games:Tally", *options) as server:
        with take(seat, server) as ws:
            assert seat.lost == 0
            while not hear(seat, ws).endswith(":one"):
                pass


class LineClient:
    """A client of --tcplisten that has asked for a seat; `seat` is the answer."""

    def __init__(self, server: ServerProcess, room: str, **wish: object) -> None:
        port = int(server.wait_log(r"lines of text at .* port (\d+)")[1])
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self.sock.makefile("r", encoding="utf-8")
        self.say(f"{room}?_seat")
        self.say(json.dumps({"_seat": wish}))
        self.seat: dict[str, Any] = json.loads(self.hear())["_seat"]

    def say(self, text: str) -> None:
        self.sock.sendall(f"{text}\n".encode())

    def hear(self) -> str:
        """Return the next line, "" at the end."""
        return self._file.readline().rstrip("\n")

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def test_a_seat_of_lines_outlives_a_stop_and_a_crash(folder: Path) -> None:
    options = ("--resume", "60", "--saveevery", "0.05", "--tcplisten", "127.0.0.1:0")
    with stored(folder, "games:Tally", *options) as server:
        ann = LineClient(server, "den")
        number = ann.seat["id"]
        assert ann.hear() == f"joined {number} 0"
        ann.say("one")
        assert ann.hear() == f"{number}:one"
        with RawClient.connect(server, "den") as other:
            assert other.receive_text().endswith(" 1"), (
                "it is the same room, with a seat or without"
            )
            other.close()
        assert ann.hear() == f"left {number + 1}"
        server.process.send_signal(signal.SIGTERM)
        assert json.loads(ann.hear())["closed"] == 1012
        assert ann.hear() == ""
        ann.close()
        assert server.wait() == 0
    with stored(folder, "games:Tally", *options) as server:
        ann = LineClient(server, "den", token=ann.seat["token"], seen=2)
        facts = [ann.seat[name] for name in ("id", "resumed", "taken")]
        assert facts == [number, True, 1]
        assert ann.hear() == f"left {number + 1}", "it had not seen that"
        assert json.loads(ann.hear())["restored"] is False
        ann.say("two")
        wait_saved(folder, "two")
        server.kill()
        ann.close()
    with stored(folder, "games:Tally", *options) as server:
        ann = LineClient(server, "den", token=ann.seat["token"], seen=5)
        facts = [ann.seat[name] for name in ("id", "resumed", "taken")]
        assert facts == [number, True, 2]
        assert json.loads(ann.hear())["restored"] is True
        ann.close()


def crash_between_saves(
    start: Callable[[], AbstractContextManager[ServerProcess]], wait_known: Callable[[str], None]
) -> None:
    """Kill servers that save at their end alone, when tokens that were given since are stored."""

    def crash(server: ServerProcess, *clients: RawClient) -> None:
        server.kill()
        for client in clients:
            client.sock.close()

    with start() as server:  # nothing was saved before
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "gone")
        wait_known(seat["token"])
        crash(server, ann)
    with start() as server:
        ann, seat = sit(server, "den", seat["token"], 2)
        assert seat["resumed"] and seat["taken"] == 0, "it may say again what was lost"
        assert ann.receive_text() == f"joined {seat['id']} 0"
        heard: Any = ann.receive_json()
        assert heard == {"dropped": [seat["id"]], "restored": True, "name": "ann", "user": ""}
        say(ann, seat, "one")
        stop(server, ann)
    with start() as server:  # something was, by which bob had not come
        ann, again = sit(server, "den", seat["token"], 5)
        assert again["resumed"]
        ann.receive_json()
        bob, other = sit(server, "den")
        assert bob.receive_text() == f"joined {other['id']} 1"
        say(bob, other, "two")
        wait_known(again["token"])
        wait_known(other["token"])
        crash(server, ann, bob)
    with start() as server:
        bob, last = sit(server, "den", other["token"], 2)
        assert last["resumed"] and last["id"] == other["id"] and last["taken"] == 0
        heard = bob.receive_text()
        assert heard == f"joined {other['id']} 1", "the game had never heard of him"
        heard = bob.receive_json()
        assert heard["restored"] is True and sorted(heard["dropped"]) == [seat["id"], other["id"]]
        ann, last = sit(server, "den", again["token"], 7)
        assert last["resumed"] and last["id"] == seat["id"] and last["taken"] == again["taken"]
        heard = ann.receive_json()
        assert heard["restored"] is True
        assert ask(ann) == {"said": ["one"], "clients": [seat["id"], other["id"]]}
        third, newest = sit(server, "den")
        assert newest["id"] > other["id"], "no ID is given out twice"
        for client in (ann, bob, third):
            client.close()


def test_a_crash_between_two_saves_leaves_everybody_the_seat(folder: Path) -> None:
    def wait_known(token: str) -> None:
        wait_until(lambda: digest(token).hex() in str(read(folder, "SELECT facts FROM seats")))
        assert all(token.encode() not in path.read_bytes() for path in folder.glob("play.sqlite*"))

    crash_between_saves(
        lambda: stored(folder, "games:Tally", "--resume", "60", "--saveevery", "0"), wait_known
    )
    wait_until(lambda: rooms(folder) == [])  # it has gone with its last seat


def take_and_give_back_seats(server: ServerProcess, count_stored: Callable[[], int]) -> None:
    """Have many come and go while one stays: by then only that one's seat is stored."""
    ann, _ = sit(server, "den")
    wait_until(lambda: count_stored() == 1)
    for _ in range(20):
        visitors = [sit(server, "den")[0] for _ in range(5)]
        for visitor in visitors:
            visitor.close()
    bob, _ = sit(server, "den")
    wait_until(lambda: count_stored() == 2)  # so all before that has been written
    bob.close()
    wait_until(lambda: count_stored() == 1)
    server.kill()
    ann.sock.close()


def test_who_gives_a_seat_back_leaves_nothing_in_the_store(folder: Path) -> None:
    def count_stored() -> int:
        return len(read(folder, "SELECT * FROM seats"))

    with stored(folder, "games:Tally", "--resume", "60", "--saveevery", "0") as server:
        take_and_give_back_seats(server, count_stored)


def test_a_store_that_cannot_be_written_keeps_nothing_of_who_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scalesocket.net.store.RETRY_PAUSE", 600.0)
    tries: list[object] = []
    recovered = threading.Event()

    def write(_batch: object, _highest: int, latest: object) -> None:
        tries.append(latest)
        if not recovered.is_set():
            raise OSError("no space left on device")

    store = Store(Mock(open=dict, write=write), Mock())
    store.start()
    never = SimpleNamespace(has_left=True, is_stored=False, in_store=False)
    stored_before = SimpleNamespace(has_left=True, is_stored=False, in_store=True)
    with store._changed:  # both at once
        store._expect()
        store._given["den"] = cast(Any, {1: never, 2: stored_before})
        store._given["attic"] = cast(Any, {3: never})
    wait_until(lambda: list(store._given) == ["den"])  # nor a name of a room without a seat
    recovered.set()
    store.stop()
    assert tries[0] == {"den": {1: None, 2: None}, "attic": {3: None}}
    assert tries[-1] == {"den": {2: None}}, "what was never written need not be removed"


@pytest.mark.parametrize("removal", [None, NOTHING])
def test_tokens_that_could_not_be_written_do_not_outlive_their_room(
    monkeypatch: pytest.MonkeyPatch, removal: Any
) -> None:
    monkeypatch.setattr("scalesocket.net.store.RETRY_PAUSE", 0.0)
    monkeypatch.setattr("scalesocket.net.store.describe_client", lambda _client: {})
    seat: Any = Mock(has_left=False, is_stored=False, in_store=False)
    seat.describe_token.return_value = {"keys": []}
    written: list[tuple[object, object]] = []

    def write(batch: object, _highest: int, latest: dict[str, dict[int, object]]) -> None:
        if not written:
            store.put("den", removal)  # it ends meanwhile
        written.append((batch, {room: len(said) for room, said in latest.items()}))
        if len(written) == 1:
            raise OSError("no space left on device")

    store = Store(Mock(open=dict, write=write), Mock())
    store.start()
    with store._changed:  # both at once
        store.put_token("den", seat)
        store.put_token("attic", seat)
    wait_until(lambda: len(written) == 2)
    store.stop()
    assert written == [({}, {"den": 1, "attic": 1}), ({"den": removal}, {"attic": 1})]


def test_rooms_that_come_and_go_while_nothing_can_be_written_leave_no_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was kept as one to be removed, though nothing of it had been stored."""
    monkeypatch.setattr("scalesocket.net.store.RETRY_PAUSE", 0.05)
    monkeypatch.setattr("scalesocket.net.store.BUSY_TIMEOUT", 0.0)
    file = SqliteFile(str(folder / "play.sqlite"))
    file.claim()
    counted: Counter[str] = Counter()
    store = Store(file, lambda name, number=1: counted.update({name: number}))
    store.start()
    for name in ("gone", "again", "stays"):
        store.put(name, NOTHING)
    wait_until(lambda: rooms(folder) == ["again", "gone", "stays"])
    other = sqlite3.connect(folder / "play.sqlite", isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        for name in ("gone", "again"):
            store.put(name, None)
        passing = [f"room {number}" for number in range(100)]
        for name in [*passing, "again", "fresh"]:
            store.put(name, NOTHING._replace(state="7"))
        tried = counted["store_failures"]
        wait_until(lambda: counted["store_failures"] > tried + 1)
        for name in passing:
            store.put(name, None)
        wait_until(lambda: store._pending.keys() == {"gone", "again", "fresh"})
        other.execute("ROLLBACK")
    store.stop()
    os.close(file._lock_file)
    states = dict(read(folder, "SELECT name, state FROM rooms"))
    assert states == {"again": "7", "fresh": "7", "stays": None}


def test_who_leaves_after_a_save_comes_back_with_it_if_the_server_crashes(folder: Path) -> None:
    options = ("--resume", "60", "--saveevery", "0")
    with stored(folder, "games:Tally", *options) as server:
        ann, seat = sit(server, "den")
        bob, other = sit(server, "den")
        server.process.send_signal(signal.SIGTERM)
        assert wait_closed(ann) == wait_closed(bob) == 1012
        assert server.wait() == 0
    with stored(folder, "games:Tally", *options) as server:
        ann, seat = sit(server, "den", seat["token"])
        bob, _ = sit(server, "den", other["token"])
        bob.close()
        while ann.receive_message()[1] != f"left {other['id']}".encode():
            pass
        carl, _ = sit(server, "den")
        wait_until(lambda: len(read(folder, "SELECT * FROM seats")) == 3)  # all has been written
        server.kill()
        ann.sock.close()
        carl.sock.close()
    with stored(folder, "games:Tally", *options) as server:  # its game is as of that save
        ann, seat = sit(server, "den", seat["token"])
        ann.receive_json()
        assert other["id"] in ask(ann)["clients"]
        ann.close()


def test_kill_9_at_any_moment_never_leaves_half_of_a_save(folder: Path) -> None:
    port, least = free_port(), 0
    for _ in range(25):
        options = ("--saveevery", "0.01", "--resume", "60")
        with stored(folder, "games:Ticking", *options, addr=f"127.0.0.1:{port}") as server:
            client = RawClient.connect(server, "den")
            count = int(client.receive_text())
            assert count >= least
            least = count
            begin = read(folder, "SELECT max(saved) FROM rooms")
            wait_until(lambda begin=begin: read(  # type: ignore[misc]
                folder, "SELECT max(saved) FROM rooms"
            ) != begin)  # fmt: skip
            time.sleep(random.uniform(0, 0.03))
            server.kill()
            assert "Traceback" not in "\n".join(server.log())
            client.sock.close()
    assert least > 20
    assert read(folder, "PRAGMA integrity_check") == [("ok",)]
    assert rooms(folder) == ["den"]


def test_clients_with_seats_are_told_of_the_end_of_their_worker_and_their_numbers_stay_theirs(
    folder: Path,
) -> None:
    """They saw a cut; newcomers got their numbers, and with two of one no save was possible."""
    options = ("--workers", "2", "--resume", "60", "--saveevery", "0.05")
    with stored(folder, "games:Tally", *options) as server:
        ann, seat = sit(server, "den")
        bob, other = sit(server, "den")
        assert ann.receive_text() == f"joined {seat['id']} 0"
        say(ann, seat, "one")
        wait_saved(folder, "one")
        wait_until(lambda: len(read(folder, "SELECT id FROM seats")) == 2)
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        assert wait_closed(ann) == wait_closed(bob) == 1012
        for one, token in ((seat, seat["token"]), (other, other["token"])):
            with sit(server, "den", token, 2)[0]:
                newcomer, new = sit(server, "den")
                assert new["id"] > max(seat["id"], other["id"]), one
                newcomer.close()


def test_rooms_of_a_worker_that_is_killed_come_back_in_the_next(folder: Path) -> None:
    options = ("--workers", "2", "--resume", "60", "--saveevery", "0.05")
    with stored(folder, "games:Tally", *options) as server:
        seats = {}
        for name in ("a", "b", "c", "d"):
            client, seat = sit(server, name)
            client.receive_text()
            say(client, seat, "one")
            seats[name] = client, seat
        wait_until(lambda: rooms(folder) == ["a", "b", "c", "d"])
        wait_until(lambda: all(
            "one" in (state or "") for (state,) in read(folder, "SELECT state FROM rooms")
        ))  # fmt: skip
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        for name, (client, seat) in seats.items():
            with client, contextlib.suppress(OSError, EOFError, Closed):
                while True:
                    client.receive_message()
            client, again = sit(server, name, seat["token"], 2)
            assert again["id"] == seat["id"]
            assert client.receive_json()["restored"] is True  # type: ignore[call-overload,index]
            assert ask(client)["said"] == ["one"]
            client.close()
    assert rooms(folder) == []


# ==== How long a record stays =============================================================


def test_a_room_that_has_emptied_leaves_nothing_unless_its_game_keeps_it(folder: Path) -> None:
    for name, left in (("Tally", []), ("Kept", ["den"]), ("Bytes", ["den"])):
        with stored(folder, f"games:{name}", "--saveevery", "0.05") as server:
            client = RawClient.connect(server, "den")
            number = int(client.receive_text().split()[1])
            client.send_text("one")
            assert client.receive_text() == f"{number}:one"
            wait_until(lambda: rooms(folder) == ["den"])
            client.close()
            server.wait_log("room closed")
            client = RawClient.connect(server, "den")  # in the same process
            assert client.receive_text().endswith(" 1" if left else " 0")
            client.close()
        assert rooms(folder) == left
        if left:
            with stored(folder, f"games:{name}") as server:
                client = RawClient.connect(server, "den")
                assert client.receive_text().endswith(" 1")
                client.send_text("end")  # on purpose
                assert wait_closed(client) == 4321
            assert rooms(folder) == []


def test_who_comes_while_a_kept_room_ends_finds_it_as_it_was(folder: Path) -> None:
    with stored(folder, "games:Kept") as server:
        for number in range(60):
            client = RawClient.connect(server, "den")
            assert client.receive_text().endswith(f" {number}")
            client.send_text(str(number))
            client.receive_text()
            client.close()


def test_of_two_who_wait_for_a_place_for_a_stored_room_one_brings_it_back(folder: Path) -> None:
    """Each did: the room of the first was ended for it, with 1013, as the second failed to."""
    (folder / "go").touch()
    with stored(folder, "games:SlowKept") as server:
        client = RawClient.connect(server, "den")
        client.send_text("one")
        client.receive_many(2)
        stop(server, client)
    (folder / "go").unlink()
    (folder / "saving").unlink()
    command = with_constants("scalesocket.net.rooms", ROOM_TIMEOUT=PATIENCE)
    with stored(folder, "games:SlowKept", "--maxrooms", "1", command=command) as server:
        RawClient.connect(server, "other").close()
        wait_until((folder / "saving").exists)
        before = settled(server.threads)
        with ThreadPoolExecutor(2) as pool:
            coming = [pool.submit(RawClient.connect, server, "den") for _ in range(2)]
            wait_until(lambda: server.threads() == before + 2)
            (folder / "go").touch()
            both = [each.result() for each in coming]
        for client in both:
            assert client.receive_text().endswith(" 1")
        both[0].send_text("two")
        assert [client.receive_text()[-4:] for client in both] == [":two"] * 2
        for client in both:
            client.close()


def test_rooms_to_which_nobody_comes_back_are_removed(folder: Path) -> None:
    for name in ("Tally", "Kept"):
        with stored(folder, f"games:{name}") as server:
            client = RawClient.connect(server, name)
            client.receive_text()
            stop(server, client)
    assert rooms(folder) == ["Kept", "Tally"]
    command = with_constants("scalesocket.net.store", RETURN_TIME=0.1)
    with stored(folder, "games:Tally", command=command):
        wait_until(lambda: rooms(folder) == ["Kept"])


def test_a_room_that_has_ended_is_not_held_until_it_would_be_saved_again(folder: Path) -> None:
    """With --saveevery 600, 150 rooms of 1 MB that had come and gone took 150 MiB."""
    path = os.fspath(folder / "play.sqlite")
    timer = Poller("timer")  # which calls nothing
    config = parse_command_line(["--store", path, "--saveevery", "600", "cat"])
    rooms: Any = StoredRooms(config, timer)
    try:
        room = rooms._make_room(SimpleNamespace(room_name="den"))
        rooms.forget(room)
        there = weakref.ref(room)
        del room
        gc.collect()
        assert timer._calls and there() is None
    finally:
        os.close(rooms._store._database._lock_file)


def test_of_too_many_kept_rooms_the_longest_unused_goes(folder: Path) -> None:
    command = with_constants("scalesocket.net.store", MAX_DORMANT=2)
    with stored(folder, "games:Kept", command=command) as server:
        for room in ("a", "b", "a", "c", "d"):
            since = len(server.log())
            client = RawClient.connect(server, room)
            client.receive_text()
            client.close()
            server.wait_log(f"room closed  room={room}", since=since)
    assert rooms(folder) == ["c", "d"]


def test_a_room_is_known_to_be_stored_though_memory_runs_out_as_it_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody read it: who came found a new room, and what was stored was lost."""
    path = os.fspath(folder / "play.sqlite")
    rooms: Any = StoredRooms(parse_command_line(["--store", path, "cat"]), Poller("timer"))
    failures = [MemoryError()]

    def fail_once(*, kept: bool) -> Dormant:
        if failures:
            raise failures.pop()
        return Dormant(kept=kept)

    monkeypatch.setattr("scalesocket.net.store.Dormant", fail_once)
    try:
        room = rooms._make_room(SimpleNamespace(room_name="den"))
        room.is_left = True
        insist(StoredRooms.forget, rooms, room)
        assert not failures
        assert list(rooms._dormant) == ["den"] and not rooms._owners
    finally:
        os.close(rooms._store._database._lock_file)


def test_a_room_that_somebody_wanted_back_in_vain_is_given_up_later(folder: Path) -> None:
    """It was read just when its time was over, and stayed in the store until the next start."""
    path = os.fspath(folder / "play.sqlite")
    rooms: Any = StoredRooms(parse_command_line(["--store", path, "cat"]), Poller("timer"))
    calls: list[Callable[[], None]] = []
    rooms.timer.call_later = lambda _seconds, function: calls.append(function)
    rooms._patience = 60
    try:
        first = Dormant(kept=False)
        rooms._dormant, rooms._recalled = {"den": first}, {"den"}
        rooms._give_up([("den", first)])
        assert list(rooms._dormant) == ["den"] and not rooms._store._pending
        rooms._recalled.clear()
        calls.pop()()
        assert not rooms._dormant and rooms._store._pending == {"den": None}
        assert not calls
    finally:
        os.close(rooms._store._database._lock_file)


def test_a_kept_room_that_somebody_comes_back_to_is_not_the_one_too_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored of it was removed while it was played in: a crash lost all of it."""
    monkeypatch.setattr("scalesocket.net.store.MAX_DORMANT", 2)
    path = os.fspath(folder / "play.sqlite")
    config = parse_command_line(["--store", path, "cat"])
    rooms: Any = StoredRooms(config, Poller("timer"))
    try:
        rooms._dormant = {name: Dormant(kept=True) for name in ("back", "oldest")}
        rooms._recalled = {"back"}
        room = rooms._make_room(SimpleNamespace(room_name="latest"))
        room.is_left = True
        rooms.forget(room)
        assert list(rooms._dormant) == ["back", "latest"]
        assert rooms._store._pending == {"oldest": None}
    finally:
        os.close(rooms._store._database._lock_file)


def test_a_room_that_fails_is_gone_but_not_what_it_could_not_go_on_from(folder: Path) -> None:
    with stored(folder, "games:Tally", "--saveevery", "0.05", allow_traceback=True) as server:
        client = RawClient.connect(server, "den")
        client.receive_text()
        client.send_text("one")
        wait_until(lambda: rooms(folder) == ["den"])
        client.send_text("fail")
        assert wait_closed(client) == 1011
        wait_until(lambda: rooms(folder) == [])
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 0")
        client.send_text("two")
        client.receive_text()
        stop(server, client)
    with stored(folder, "games:Picky", allow_traceback=True) as server:
        for _ in range(3):
            assert wait_closed(RawClient.connect(server, "den")) == 1011
        server.wait_log("it failed with what is stored, which stays until one does not; README.md")
    assert rooms(folder) == ["den"]
    with stored(folder, "games:Tally") as server:
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 1")
        client.close()


FAILS_FIRST = f"""
import sys, time
sys.path.insert(0, {os.fspath(ROOT)!r})
import scalesocket
from scalesocket.net.store import StoredRooms

recall = StoredRooms.recall

def recall_and_wait(self, opener):
    room = recall(self, opener)
    while self.find(opener.room_name):
        time.sleep(0.01)
    return room

StoredRooms.recall = recall_and_wait
sys.exit(scalesocket.main())
"""


def test_a_room_that_fails_as_somebody_brings_it_back_is_not_made_again_for_the_same_client(
    folder: Path,
) -> None:
    """It failed again and again, as long as it did so before the client was given its seat."""
    with stored(folder, "games:Kept", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        stop(server, ann)
    command = [sys.executable, "-c", FAILS_FIRST]
    options = ("--resume", "60")
    with stored(folder, "games:Picky", *options, command=command, allow_traceback=True) as server:
        for token in (seat["token"], "another"):
            back = RawClient.connect(server, "den?_seat")
            back.send_json({"_seat": {"token": token}})
            assert back.wait_close() == (1011, "the game failed")
            back.sock.close()
        with RawClient.connect(server, "den") as client:
            assert client.wait_close() == (1011, "the game failed")
        assert server.stop() == 0
        assert sum("room opened" in line for line in server.log()) == 3


def test_who_removes_a_record_that_makes_its_room_fail_has_it_begin_anew(folder: Path) -> None:
    with stored(folder, "games:Kept") as server:
        client = RawClient.connect(server, "den")
        client.receive_text()
        client.send_text("one")
        client.receive_text()
        stop(server, client)
    with stored(folder, "games:Picky", allow_traceback=True) as server:
        assert wait_closed(RawClient.connect(server, "den")) == 1011
        with contextlib.closing(sqlite3.connect(folder / "play.sqlite", timeout=10)) as db, db:
            db.execute("DELETE FROM rooms WHERE name = 'den'")  # as README says
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 0")
        client.close()


def test_a_seat_ends_with_a_room_that_fails_unless_that_is_kept(folder: Path) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    for target, is_kept in (("games:Tally", False), ("games:Kept", True)):
        with stored(folder, target, *options, allow_traceback=True) as server:
            ann, seat = sit(server, "den")
            ann.receive_text()
            say(ann, seat, "one")
            wait_saved(folder, "one")
            ann.send_text("fail")
            assert wait_closed(ann) == 1011
            server.wait_log("room closed")
            ann, again = sit(server, "den", seat["token"], 2)
            assert (again["resumed"], again["id"] == seat["id"]) == (is_kept, is_kept)
            if is_kept:
                heard: Any = ann.receive_json()
                assert heard["restored"] is True
            else:
                assert ann.receive_text() == f"joined {again['id']} 0"
            ann.close()
            what = "the next one goes on from what this one has saved last"
            assert any(what in line for line in server.log()) == is_kept


LONG_AFTER = f"""
import os, sys, time, types
sys.path.insert(0, {os.fspath(ROOT)!r})
import scalesocket
from scalesocket.net import store

def monotonic():
    return time.monotonic() + 1000 * os.path.exists("later")

store.time = types.SimpleNamespace(sleep=time.sleep, time=time.time, monotonic=monotonic)
sys.exit(scalesocket.main())
"""


def test_a_kept_room_that_fails_long_after_the_start_has_its_seats_back(folder: Path) -> None:
    """From a minute after the start on everybody began anew, though all had just been saved."""
    options, command = ("--resume", "60", "--saveevery", "0.05"), [sys.executable, "-c", LONG_AFTER]
    with stored(folder, "games:Kept", *options) as server:
        ann, seat = sit(server, "den")
        stop(server, ann)
    with stored(folder, "games:Kept", *options, command=command, allow_traceback=True) as server:
        server.wait_log("1 room is stored")
        (folder / "later").touch()
        ann, other = sit(server, "den", seat["token"])
        assert not other["resumed"], "nobody has come for so long"
        assert ann.receive_text() == f"joined {other['id']} 0"
        say(ann, other, "one")
        wait_saved(folder, "one")
        ann.send_text("fail")
        assert wait_closed(ann) == 1011
        server.wait_log("room closed")
        ann, again = sit(server, "den", other["token"], 2)
        assert again["resumed"] and again["id"] == other["id"]
        ann.close()


def test_a_token_given_just_before_its_room_fails_finds_the_seat_again(folder: Path) -> None:
    """It was not stored any more, nor looked for: whoever had it began anew."""
    options = ("--resume", "60", "--saveevery", "0.05")
    with stored(folder, "games:Kept", *options, allow_traceback=True) as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        wait_saved(folder, "one")
        ann.sock.close()
        for _ in range(3):
            ann, again = sit(server, "den", seat["token"])
            bob, other = sit(server, "den")
            ann.send_text("fail")
            assert wait_closed(ann) == wait_closed(bob) == 1011
            ann, seat = sit(server, "den", again["token"])
            assert seat["resumed"] and seat["id"] == again["id"]
            bob, last = sit(server, "den", other["token"])
            assert last["resumed"] and last["id"] == other["id"]
            bob.close()
            ann.sock.close()


NOTES_LATE = f"""
import os, sys, time
sys.path.insert(0, {os.fspath(ROOT)!r})
import scalesocket
from scalesocket.net.store import StoredRooms

usual = StoredRooms.note_token

def note_token(self, seat):
    while os.path.exists("hold"):
        time.sleep(0.01)
    usual(self, seat)

StoredRooms.note_token = note_token
sys.exit(scalesocket.main())
"""


def test_a_token_given_as_its_room_fails_finds_the_seat_again(folder: Path) -> None:
    """Its client had it, and it was noted when the room was no more: it was not stored."""
    options = ("--resume", "60", "--saveevery", "0.05")
    command = [sys.executable, "-c", NOTES_LATE]
    with stored(folder, "games:Kept", *options, command=command, allow_traceback=True) as server:
        bob, _ = sit(server, "den")
        bob.receive_text()
        ann, seat = sit(server, "den")
        say(bob, {"id": 1}, "one")
        wait_saved(folder, "one")
        ann.sock.close()
        (folder / "hold").touch()
        ann, again = sit(server, "den", seat["token"])
        bob.send_text("fail")
        assert wait_closed(ann) == wait_closed(bob) == 1011
        server.wait_log("room closed")
        (folder / "hold").unlink()
        found = f"id = {seat['id']} AND facts LIKE '%{digest(again['token']).hex()}%'"
        wait_until(lambda: read(folder, f"SELECT * FROM seats WHERE {found}"))
        ann, last = sit(server, "den", again["token"])
        assert last["resumed"] and last["id"] == seat["id"]
        ann.close()


def test_a_room_that_has_failed_leaves_no_seat_though_it_got_a_token_just_before(
    folder: Path,
) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    with stored(folder, "games:Tally", *options, allow_traceback=True) as server:
        for _ in range(3):
            ann, seat = sit(server, "den")
            ann.receive_text()
            say(ann, seat, "one")
            wait_saved(folder, "one")
            bob, _ = sit(server, "den")
            ann.send_text("fail")
            assert wait_closed(ann) == wait_closed(bob) == 1011
            wait_until(lambda: rooms(folder) == [])
    assert rooms(folder) == read(folder, "SELECT * FROM seats") == []


def test_a_kept_room_that_fails_goes_on_as_last_saved(folder: Path) -> None:
    with stored(folder, "games:Kept", "--saveevery", "0.05", allow_traceback=True) as server:
        client = RawClient.connect(server, "den")
        client.receive_text()
        client.send_text("one")
        wait_saved(folder, "one")
        client.send_text("fail")
        assert wait_closed(client) == 1011
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 1")
        client.close()


def test_a_room_that_fails_as_the_server_stops_goes_on_as_last_saved(folder: Path) -> None:
    """All that had been saved of it was removed."""
    options = ("--resume", "60", "--saveevery", "0.05")
    with stored(folder, "games:Failing", *options, allow_traceback=True) as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        wait_saved(folder, "one")
        (folder / "fails").touch()
        assert stop(server, ann) == 1012
        server.wait_log("set is not JSON serializable")
        server.wait_log("the next one goes on from what this one has saved last")
    (folder / "fails").unlink()
    with stored(folder, "games:Failing", *options) as server:
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["resumed"] and again["id"] == seat["id"]
        heard: Any = ann.receive_json()
        assert heard["restored"] is True
        assert ask(ann)["said"] == ["one"]
        ann.close()


def test_what_cannot_be_saved_ends_its_room_with_a_reason(folder: Path) -> None:
    with stored(folder, "games:Unsavable", "--saveevery", "0.05", allow_traceback=True) as server:
        client = RawClient.connect(server, "den")
        assert wait_closed(client) == 1011
        server.wait_log("set is not JSON serializable")


def test_what_is_too_long_to_be_saved_leaves_the_save_before(folder: Path) -> None:
    options = ("--saveevery", "0.05", "--metrics")
    with stored(folder, "games:Long", *options) as server:
        client = RawClient.connect(server, "den")
        number = int(client.receive_text().split()[1])
        for text in ("one", "two"):
            say(client, {"id": number}, text)
            wait_saved(folder, text)
            say(client, {"id": number}, "long")  # and play goes on
            server.wait_log("17825792 bytes are too many to save, and 16777216 the most")
        wait_until(lambda: metric(server, "store_failures_total") == 2)
        assert stop(server, client) == 1012
    with stored(folder, "games:Long") as server:
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 3")
        client.close()


# ==== A store that does not work ==========================================================


def limit_files(server: ServerProcess, size: int) -> None:
    """Let a process make no file longer than that."""
    hard = resource.RLIM_INFINITY
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size if size else hard, hard))


def test_play_goes_on_while_the_disk_takes_nothing_and_is_saved_afterwards(folder: Path) -> None:
    options = ("--saveevery", "0.05", "--metrics")
    with stored(folder, "games:Kept", *options) as server:
        client = RawClient.connect(server, "den")
        number = int(client.receive_text().split()[1])
        limit_files(server, 1)
        client.send_text("one")
        assert client.receive_text() == f"{number}:one"
        server.wait_log("rooms cannot be saved, and play goes on")
        wait_until(lambda: metric(server, "store_failures_total") >= 2)
        client.send_text("two")
        assert client.receive_text() == f"{number}:two"
        client.close()
        client = RawClient.connect(server, "den")  # it waits in memory
        assert client.receive_text().endswith(" 2")
        client.close()
        limit_files(server, 0)
        server.wait_log("rooms are saved again")
        said = [line for line in server.log() if "cannot be saved" in line]
        assert len(said) == 1
    with stored(folder, "games:Kept") as server:
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 2")
        client.close()


def test_a_transaction_of_another_program_is_waited_for_and_play_is_not(folder: Path) -> None:
    with stored(folder, "games:Kept", "--saveevery", "0.05", "--metrics") as server:
        client = RawClient.connect(server, "den")
        number = int(client.receive_text().split()[1])
        with contextlib.closing(sqlite3.connect(folder / "play.sqlite", timeout=10)) as db:
            db.execute("BEGIN IMMEDIATE")
            client.send_text("one")
            assert client.receive_text() == f"{number}:one"
            wait_until(lambda: metric(server, "store_failures_total"))
            client.send_text("two")
            assert client.receive_text() == f"{number}:two"
            db.rollback()
        server.wait_log("rooms are saved again")
        client.close()


def test_who_comes_back_while_another_program_has_the_store_finds_room_and_seat_afterwards(
    folder: Path,
) -> None:
    """After 2 s their room began anew: seats were gone, and of what followed nothing was saved."""
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        stop(server, ann)
    command = with_constants("scalesocket.net.store", BUSY_TIMEOUT=0.0)
    with stored(folder, "games:Tally", "--resume", "60", command=command) as server:
        server.wait_log("1 room is stored")
        with contextlib.closing(sqlite3.connect(folder / "play.sqlite", timeout=10)) as db:
            db.execute("BEGIN EXCLUSIVE")
            with pytest.raises(Closed, match="1013"):
                sit(server, "den", seat["token"], 2)
            bob, _ = sit(server, "another")  # of which nothing is stored
            assert bob.receive_text().endswith(" 0")
            db.rollback()
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["resumed"] and again["id"] == seat["id"]
        ann.close()
        bob.close()


def test_a_record_that_cannot_be_read_stays(folder: Path) -> None:
    with stored(folder, "games:Kept") as server:
        client = RawClient.connect(server, "den")
        client.receive_text()
        client.send_text("one")
        client.receive_text()
        client.close()
    with stored(folder, "games:Kept") as server:
        server.wait_log("1 room is stored")
        limit_files(server, 1)
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 0")
        server.wait_log("room den begins anew and is not saved")
        client.close()
        limit_files(server, 0)
    with stored(folder, "games:Kept") as server:
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 1")
        client.close()


OPENS_LATE = f"""
import os, sqlite3, sys
sys.path.insert(0, {os.fspath(ROOT)!r})
import scalesocket
from scalesocket.net import store

open_now = store.SqliteFile.open

def open_late(self):
    if not os.path.exists("go"):
        raise sqlite3.OperationalError("unable to open database file")
    return open_now(self)

store.SqliteFile.open = open_late
store.RETRY_PAUSE = 0.05
sys.exit(scalesocket.main())
"""


def test_a_store_that_cannot_be_opened_at_first_loses_no_room_and_no_seat(folder: Path) -> None:
    """Stored rooms were taken for absent: each began anew, and its record was overwritten."""
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        stop(server, ann)
    command = [sys.executable, "-c", OPENS_LATE]
    with stored(folder, "games:Tally", "--resume", "60", command=command) as server:
        for room in ("den", "another"):
            with pytest.raises(Closed, match="1013"):
                sit(server, room, seat["token"], 2)
        (folder / "go").touch()
        server.wait_log("1 room is stored")
        answers: list[tuple[RawClient, dict[str, Any]]] = []

        def is_let_in() -> bool:
            with contextlib.suppress(Closed):
                answers.append(sit(server, "den", seat["token"], 2))
            return bool(answers)

        wait_until(is_let_in)
        ann, again = answers[0]
        assert again["resumed"] and again["id"] == seat["id"]
        ann.receive_json()
        say(ann, seat, "two")
        stop(server, ann)
    assert "two" in read(folder, "SELECT state FROM rooms")[0][0]


@pytest.mark.parametrize("error", [MemoryError, KeyError])
def test_neither_a_lack_of_memory_nor_a_bug_ends_the_writer(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Nothing was saved any more, nobody was told, and who wanted a room waited for 10 s."""
    monkeypatch.setattr("scalesocket.net.store.RETRY_PAUSE", 0.0)
    monkeypatch.setattr("scalesocket.net.store.describe_client", lambda _client: {})
    describe, find = Mock(side_effect=[error, {"keys": []}]), Mock(side_effect=[error, NOTHING])
    write = Mock()
    store = Store(Mock(open=dict, write=write, read=find), Mock())
    store.start()
    client = SimpleNamespace(id=1)
    seat = SimpleNamespace(
        client=client, has_left=False, is_stored=False, in_store=False, describe_token=describe
    )
    with store._changed:  # both at once
        store.put_token("den", cast(Any, seat))
        store.put("attic", NOTHING)
    wait_until(lambda: write.call_args)
    with pytest.raises(StoreError):
        store.read("cellar")
    assert store.read("cellar") == NOTHING
    store.stop()
    (batch, _, latest), _ = write.call_args
    assert batch == {"attic": NOTHING} and set(latest) == {"den"}


FAILS_ONCE = f"""
import sys
sys.path.insert(0, {os.fspath(ROOT)!r})
import scalesocket
from scalesocket.net import seats, store

def fail_once(owner, name):
    function = getattr(owner, name)

    def fail(*args, **more):
        setattr(owner, name, function)
        function(*args, **more)
        raise MemoryError

    setattr(owner, name, fail)

fail_once(store.Store, "read")
fail_once(store.StoredRooms, "_make_own_room")
fail_once(seats.Seats, "revive")
sys.exit(scalesocket.main())
"""


def test_a_room_comes_back_also_if_there_was_no_memory_for_it_before(folder: Path) -> None:
    """It was "being saved" for ever, or open with nobody who ran it, and the stop took 15 s."""
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        stop(server, ann)
    command = [sys.executable, "-c", FAILS_ONCE]
    with stored(folder, "games:Tally", "--resume", "60", "--api", command=command) as server:
        for _ in range(3):
            with pytest.raises(EOFError):
                sit(server, "den", seat["token"], 2)
            assert json.loads(http_request(server, "GET", "/api/rooms/").body) == []
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["resumed"] and again["id"] == seat["id"]
        ann.receive_json()
        assert ask(ann) == {"said": ["one"], "clients": [seat["id"]]}
        assert stop(server, ann) == 1012


def write_facts(folder: Path, facts: str) -> None:
    """Have every seat stored so."""
    with contextlib.closing(sqlite3.connect(folder / "play.sqlite", timeout=10)) as db, db:
        db.execute("UPDATE seats SET facts = ?", (facts,))


def test_a_damaged_seat_counts_as_a_record_that_cannot_be_read_and_stays(folder: Path) -> None:
    """Its room was listed, and let clients in, but nothing ran it."""
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, seat = sit(server, "den")
        ann.receive_text()
        say(ann, seat, "one")
        stop(server, ann)
    ((whole,),) = read(folder, "SELECT facts FROM seats")
    damaged = whole.replace('"claims"', '"something"')
    write_facts(folder, damaged)
    with stored(folder, "games:Tally", "--resume", "60") as server:
        for _ in range(2):
            since = len(server.log())
            client = RawClient.connect(server, "den")
            assert client.receive_text().endswith(" 0")
            what = f"room den: what is stored of seat {seat['id']} is damaged: claims"
            server.wait_log(what, since=since)
            server.wait_log("room den begins anew and is not saved", since=since)
            client.close()
            server.wait_log("room closed", since=since)
    assert read(folder, "SELECT facts FROM seats") == [(damaged,)]
    write_facts(folder, whole)
    with stored(folder, "games:Tally", "--resume", "60") as server:
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["resumed"] and again["id"] == seat["id"]
        heard: Any = ann.receive_json()
        assert heard["restored"] is False, "its record is as whole as it was"
        ann.close()


@pytest.mark.parametrize("damage", ["{", "[]", "1", '{"keys": 1'])
@pytest.mark.parametrize("token", ['{"keys": []}', None])
def test_a_seat_that_is_damaged_meanwhile_keeps_no_other_room_from_being_saved(
    folder: Path, damage: str, token: str | None
) -> None:
    """A token for it was tried again for ever, together with all that came after."""
    file = SqliteFile(str(folder / "play.sqlite"))
    file.claim()
    file.open()
    damaged = StoredSeat(1, damage, b"missed")
    file.write({"den": NOTHING._replace(seats=(damaged,))}, 1, {})
    file.write({"other": NOTHING}, 1, {"den": {1: token}})
    file.close()
    assert rooms(folder) == ["den", "other"]
    assert read(folder, "SELECT id, facts, missed FROM seats") == [damaged]


@pytest.mark.parametrize(
    ("column", "value"),
    [("history", b"\x81"), ("history", b"\x81\x05He"), ("metadata", "{")],
    ids=["header", "payload", "metadata"],
)
def test_a_history_or_metadata_that_is_damaged_keeps_nobody_out(
    folder: Path, column: str, value: object
) -> None:
    """All who came were cut off, without a word; or the list of rooms was no JSON any more."""
    options = ("games:Kept", "--cache", "all:5", "--api")
    with stored(folder, *options) as server:
        client = RawClient.connect(server, "den")
        client.receive_text()
        client.send_text("one")
        client.receive_text()
        stop(server, client)
    with contextlib.closing(sqlite3.connect(folder / "play.sqlite", timeout=10)) as db, db:
        db.execute(f"UPDATE rooms SET {column} = ?", (value,))
    with stored(folder, *options) as server:
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 0")
        server.wait_log(f"room den: what is stored of its {column} is damaged")
        server.wait_log("room den begins anew and is not saved")
        assert json.loads(http_request(server, "GET", "/api/rooms/").body)
        client.close()
    assert read(folder, f"SELECT {column} FROM rooms") == [(value,)]


FACTS = {
    "kind": "http", "keys": ["0a"], "sent": 1, "pieces": [[3, 1]], "stale": False, "dropped": False,
    "taken": 0, "user": "", "claims": {}, "name": None, "target": "/den", "base": "",
    "peer": ["::1", 1], "local": ["::1", 2], "secure": False,
}  # fmt: skip


def test_of_a_seat_that_is_stored_nothing_may_be_missing() -> None:
    good, missed = json.dumps(FACTS), b"\x81\x01a"
    check_seats([StoredSeat(1, good, missed)])
    cut: Any
    for cut in (missed[:-1], b"", missed + missed, None):  # whoever has the seat got half a frame
        with pytest.raises(ValueError, match="what is stored of seat 1 is damaged"):
            check_seats([StoredSeat(1, good, cut)])
    wrong: list[object] = [{**FACTS, "keys": [1]}, {**FACTS, "pieces": [3]}, [], 7, None]
    wrong += [{**FACTS, "keys": ["x"]}, {**FACTS, "pieces": [["3", 1]]}]
    wrong += [{**FACTS, name: None} for name in FACTS if name != "name"]
    wrong += [{key: value for key, value in FACTS.items() if key != name} for name in FACTS]
    texts: list[Any] = [json.dumps(facts) for facts in wrong]
    for facts in [*texts, "", "{", None]:
        with pytest.raises(ValueError, match="what is stored of seat 1 is damaged"):
            check_seats([StoredSeat(1, facts, missed)])
    for facts in ("[]", "7", "{"):
        with pytest.raises(ValueError):
            merge_facts(facts, '{"keys":[]}')


def refused(folder: Path, path: str) -> tuple[int, str]:
    """Return the exit status of a server with that store, and what it says."""
    done = run_cli("--addr", "127.0.0.1:0", "--store", path, "cat", cwd=folder)
    assert done.stdout == "" and done.stderr.count("\n") == 1
    return done.returncode, done.stderr.removeprefix("scalesocket: ").strip()


def test_what_is_no_store_is_refused_in_one_line_and_left_alone(folder: Path) -> None:
    (folder / "text").write_text("some notes\n")
    with contextlib.closing(sqlite3.connect(folder / "other.sqlite")) as db:
        db.execute("CREATE TABLE rooms (name TEXT)")
        db.commit()
    before = [(folder / name).read_bytes() for name in ("text", "other.sqlite")]
    for name in ("text", "other.sqlite"):
        assert refused(folder, name) == (2, f"--store {name} is a file of something else")
    assert before == [(folder / name).read_bytes() for name in ("text", "other.sqlite")]
    status, said = refused(folder, "mysql://ann:secret@localhost")
    assert status == 2 and "mysql://… is no file (SQLite), and no redis://HOST" in said
    assert "secret" not in said
    status, said = refused(folder, "nowhere/play.sqlite")
    assert (status, said) == (
        1,
        "cannot use --store nowhere/play.sqlite: No such file or directory",
    )
    assert refused(folder, ".")[0] == 1
    with stored(folder, "cat"):
        pass
    whole = (folder / "play.sqlite").read_bytes()
    (folder / "play.sqlite").write_bytes(whole[:4096] + b"x" * (len(whole) - 4096))
    status, said = refused(folder, "play.sqlite")
    assert status == 1 and said.startswith("cannot use --store play.sqlite: ")
    (folder / "play.sqlite").write_bytes(whole)
    with contextlib.closing(sqlite3.connect(folder / "play.sqlite")) as db:
        db.execute("PRAGMA user_version = 2")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    status, said = refused(folder, "play.sqlite")
    assert (status, said) == (2, "--store play.sqlite is of a later version of this server")


@pytest.mark.parametrize("table", ["rooms", "seats", "sqlite_autoindex_seats_1"])
def test_a_damaged_file_is_refused_with_the_cure_and_left_alone(folder: Path, table: str) -> None:
    """It was opened: nobody was let into any room, or no room was saved."""
    path = folder / "play.sqlite"
    with stored(folder, "cat"):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        where = "FROM sqlite_master WHERE name = ?"
        (page,) = db.execute(f"SELECT rootpage {where}", (table,)).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    data = path.read_bytes()
    damaged = data[: (page - 1) * size] + b"x" * size + data[page * size :]
    path.write_bytes(damaged)
    cure = "put a backup in place of play.sqlite*, or move them away to begin anew"
    said = f"cannot use --store play.sqlite: database disk image is malformed; {cure}"
    assert refused(folder, "play.sqlite") == (1, said)
    assert path.read_bytes() == damaged
    for each in folder.glob("play.sqlite*"):
        each.rename(folder / f"old-{each.name}")
    with stored(folder, "cat"):
        pass


def test_a_file_of_another_user_is_refused_with_the_cure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said no more than "Operation not permitted"."""

    def forbid(_descriptor: int, _mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path = folder / "play.sqlite"
    cure = rf"; user {os.geteuid()} must own {path}\* and be able to write to its folder$"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fchmod", forbid)
        with pytest.raises(StoreError, match=f"{os.strerror(errno.EPERM)}{cure}"):
            SqliteFile(str(path)).claim()
    (folder / "play.sqlite-journal").mkdir()  # as one that a run as root has left behind
    with pytest.raises(StoreError, match=f"unable to open database file{cure}"):
        SqliteFile(str(path)).claim()


def test_two_servers_never_share_a_store(folder: Path) -> None:
    with stored(folder, "cat"):
        said = "another server uses --store play.sqlite"
        assert refused(folder, "play.sqlite") == (1, said)
    with contextlib.closing(sqlite3.connect(folder / "play.sqlite")) as db:
        db.execute("BEGIN IMMEDIATE")
        said = "cannot use --store play.sqlite: database is locked"
        assert refused(folder, "play.sqlite") == (1, said)
    with stored(folder, "cat"):
        pass


def test_two_servers_never_share_a_store_that_has_two_names(folder: Path) -> None:
    """The lock had the name that was given, so each of them had its own."""
    (folder / "link.sqlite").symlink_to("play.sqlite")
    with stored(folder, "cat"):
        said = "another server uses --store link.sqlite"
        assert refused(folder, "link.sqlite") == (1, said)


def test_a_file_may_be_called_as_sqlite_calls_memory(folder: Path) -> None:
    """It was claimed as a file, and opened as another thing: nobody was let in."""
    for count in (0, 1):
        with serve("--store", ":memory:", "games:Kept", cwd=folder) as server:
            with RawClient.connect(server, "den") as client:
                assert client.receive_text().endswith(f" {count}")
                client.send_text("one")
                client.receive_text()
                client.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_taken_away_is_told_of_and_goes_on_when_it_is_back(
    folder: Path, replaced: bool
) -> None:
    """All was written to a file without a name, and gone with the server."""
    path, away = folder / "play.sqlite", folder / "away.sqlite"
    with stored(folder, "games:Kept", "--saveevery", "0.05", "--metrics") as server:
        client = RawClient.connect(server, "den")
        client.receive_text()
        client.send_text("one")
        wait_saved(folder, "one")
        path.rename(away)
        if replaced:
            path.touch()
        client.send_text("two")
        server.wait_log("cannot be saved, and play goes on: play.sqlite has been removed or repl")
        wait_until(lambda: metric(server, "store_failures_total") >= 2)
        away.rename(path)
        server.wait_log("rooms are saved again")
        client.sock.close()
    with stored(folder, "games:Kept") as server, RawClient.connect(server, "den") as client:
        assert client.receive_text().endswith(" 2")
        client.close()


def test_a_worker_makes_no_other_file_in_place_of_one_that_was_taken_away(folder: Path) -> None:
    """SQLite made an empty one for it."""
    path = folder / "play.sqlite"
    file = SqliteFile(str(path))
    file.claim()
    path.rename(folder / "away.sqlite")
    with pytest.raises(OSError, match="removed or replaced"):
        file.open()
    assert not path.exists()
    (folder / "away.sqlite").rename(path)
    assert file.open() == {}
    file.close()


def test_a_full_disk_at_the_start_is_one_line(folder: Path) -> None:
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("missing tool: prlimit")
    with serve("--store", "play.sqlite", "cat", cwd=folder, ready=False, command=[
        prlimit, "--fsize=1000", *with_constants(),
    ]) as server:  # fmt: skip
        assert server.wait() == 1
        (line,) = server.log()
        assert line.startswith("scalesocket: cannot use --store play.sqlite: ")


# ==== Who may read it =====================================================================


def test_the_file_is_for_its_user_alone_and_has_no_token_and_no_header(folder: Path) -> None:
    before = os.umask(0)
    try:
        (folder / "play.sqlite").touch(mode=0o666)
        with stored(folder, "games:Tally", "--resume", "60", "--saveevery", "0.05") as server:
            client = RawClient.connect(server, "den?_seat", {"Cookie": "id=a-secret-of-a-cookie"})
            client.send_json({"_seat": {}})
            answer: Any = client.receive_json()
            client.receive_text()
            wait_until(lambda: read(folder, "SELECT * FROM seats"))
            files = list(folder.glob("play.sqlite*"))
            assert len(files) == 4
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
            stop(server, client)
    finally:
        os.umask(before)
    stored_bytes = b"".join(path.read_bytes() for path in folder.glob("play.sqlite*"))
    assert answer["_seat"]["token"].encode() not in stored_bytes
    assert b"secret" not in stored_bytes and b"den" in stored_bytes


def test_options_that_do_not_go_together(folder: Path) -> None:
    done = run_cli("--saveevery", "5", "cat")
    assert done.returncode == 2 and "--saveevery needs --store FILE" in done.stderr
    done = run_cli("--store", "x.sqlite", "--oneshot", "cat", cwd=folder)
    assert done.returncode == 2 and "--store does not go with --oneshot" in done.stderr
