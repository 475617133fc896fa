"""What newcomers are sent of the past (--cache): all of it, for nobody else's account, bounded.

A history under SMALL_HISTORY is sent while the newcomer is let in; a longer one comes piece by
piece from the thread "replay", as the newcomer's socket drains. Most tests here are about that.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from scalesocket.net import deflate
from scalesocket.net.history import (
    Archive,
    Histories,
    HistoryMembers,
    HoldingConnection,
    LongHistory,
)
from scalesocket.net.lines import LINES
from scalesocket.net.pings import PING, check_peer
from scalesocket.net.presence import PONG, probe
from scalesocket.net.rooms import PatientRooms

import scalesocket
from scalesocket import (
    CloseCode,
    Opcode,
    Poller,
    Role,
    Route,
    WebSocketProtocol,
    encode_frame,
)
from tests.certificates import Certificates
from tests.fake_room import make_room
from tests.rooms.test_inbox import Worker
from tests.rooms.test_lossless import PATIENT, assert_same, deaf_client, metric, numbered
from tests.support import (
    PATIENCE,
    Closed,
    RawClient,
    open_socket,
    serve,
    wait_until,
)
from tests.wire.test_tls import join

pytestmark = pytest.mark.slow

PAST = [message.decode() for message in numbered(130, 60_000)]  # 7.8 MB: no socket takes it


def program(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(text)
    return os.fspath(path)


# It prints PAST when it is started, then what it is sent, with what it has to say about it.
TALKER = f"""
import json, sys
for number in range({len(PAST)}):
    print(json.dumps({{"n": number, "fill": "x" * 60000}}), flush=True)
print('{{"ready":true}}', flush=True)
for line in sys.stdin:
    event = json.loads(line)
    if event.get("t") == "Join":
        who = event["_from"]
        print(json.dumps({{"welcome": who, "_to": who}}))
        print(json.dumps({{"here": who}}))
        print(json.dumps({{"again": who, "_to": [who]}}))
        print(json.dumps({{"others": who, "_except": who}}), flush=True)
    elif event.get("t") == "kick":
        print(json.dumps({{"bye": True}}))
        print(json.dumps({{"_close": {{"code": 4000, "reason": "kicked"}}, "_to": event["who"]}}))
        sys.stdout.flush()
    elif event.get("t") == "say":
        for number in range(event.get("times", 1)):
            print(json.dumps({{"said": number, **event.get("with", {{}})}}))
        sys.stdout.flush()
"""


@pytest.fixture
def talker(tmp_path: Path) -> str:
    return program(tmp_path, TALKER)


def read_until(client: RawClient, last: str) -> list[dict[str, Any]]:
    """Return what comes, up to the first message that has this member."""
    found: list[dict[str, Any]] = []
    while not found or last not in found[-1]:
        found.append(json.loads(client.receive_text()))
    return found


def outline(events: list[dict[str, Any]]) -> list[str]:
    """Return the first member's name of each event but those of the past, which must be whole."""
    numbers = [event["n"] for event in events if "n" in event]
    assert numbers == list(range(len(PAST))), "something is missing, twice, or out of order"
    return [next(iter(event)) for event in events if "n" not in event]


# ==== 1. Who may see what ==================================================


def test_what_was_not_for_someone_is_not_read_later_by_reconnecting() -> None:
    """Case 42: who was left out with `_except` came back, and found the secret in the history."""
    lines = ['{"n":1}', '{"secret":true,"_except":2}', '{"s":1,"_except":[2],"_cache":true}']
    for cache in ("all:9", "tagged:9"):
        with (
            serve("--serverframe=json", "--cache", cache, "cat") as server,
            RawClient.connect(server) as insider,
        ):
            with RawClient.connect(server) as outsider:
                outsider.ping()
                outsider.receive()
                for line in (*lines, '{"end":true,"_cache":true}'):
                    insider.send_text(line)
                assert outsider.receive_text() == lines[0]
                assert json.loads(outsider.receive_text())["end"]
                assert [insider.receive_text() for _ in lines] == lines
            with RawClient.connect(server) as again:
                found = [json.loads(again.receive_text())]
                while "end" not in found[-1]:
                    found.append(json.loads(again.receive_text()))
                assert not any("_except" in message for message in found)


GAME = """
from scalesocket import Game

class Secret(Game):
    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        self.room.broadcast("open " + message)
        self.room.broadcast("secret " + message, exclude=[client])
"""


def test_what_a_game_broadcasts_to_some_is_not_read_later_by_the_others(tmp_path: Path) -> None:
    """Case 42, for games: `broadcast(…, exclude=…)` went into the history like all else."""
    (tmp_path / "secret.py").write_text(GAME)
    with (
        serve("--cache", "9", "secret:Secret", cwd=tmp_path) as server,
        RawClient.connect(server) as insider,
    ):
        with RawClient.connect(server) as outsider:
            outsider.send_text("1")
            assert outsider.receive_text() == "open 1"
            assert [insider.receive_text() for _ in range(2)] == ["open 1", "secret 1"]
        with RawClient.connect(server) as again:
            again.send_text("2")
            assert [again.receive_text() for _ in range(2)] == ["open 1", "open 2"]


# ==== 2. A room's end and its next beginning ===============================


@pytest.mark.parametrize("more", [(), ("--linger", "0.02")], ids=["ends", "lingers"])
def test_a_persistent_history_has_what_a_program_said_when_nobody_was_left(
    more: tuple[str, ...],
) -> None:
    """Case 39: of 600 messages, each room's last client gone at once, the history had 243."""
    sent = []
    with serve("--cache", "all:100000", "--cachepersist", *more, "cat") as server:
        for number in range(60):
            with RawClient.connect(server) as client:
                for letter in "abc":
                    client.send_text(f"{number:03}{letter}")
                    sent.append(b"%03d%c" % (number, ord(letter)))
                assert client.close() == (1000, "")
        with RawClient.connect(server) as client:
            assert sorted(client.receive_many(len(sent))) == sent


def test_a_new_rooms_clients_get_the_last_words_of_the_old_rooms_program(tmp_path: Path) -> None:
    """Case 39: they come when the new room is there already; nobody misses them, or has them twice.

    Two generations of one room print at the same time. A client of the younger one must get each
    line once, and in the order in which a later newcomer gets them.
    """
    lives = program(
        tmp_path,
        "import os, sys, time\n"
        "name = os.environ['QUERY_STRING']\n"
        "for line in sys.stdin:\n"
        "    print(name, line, end='', flush=True)\n"
        "for number in range(5):\n"
        "    time.sleep(0.02)\n"
        "    print(name, 'last', number, flush=True)\n",
    )
    options = ("--cache", "all:1000", "--cachepersist", "--closegrace", "5")
    with serve(*options, lives) as server:
        with RawClient.connect(server, path="/room?old") as old:
            old.send_text("hello")
            assert old.receive_text() == "old hello"
            old.close()
        with RawClient.connect(server, path="/room?new") as new:
            new.send_text("hello")
            found = [new.receive_text() for _ in range(7)]
            assert sorted(found) == sorted(
                ["old hello", "new hello", *(f"old last {n}" for n in range(5))]
            )
            with RawClient.connect(server, path="/room?other") as other:
                assert [other.receive_text() for _ in found] == found
            new.send_text("more")  # the old program has ended: as any member, at once
            assert new.receive_text() == "new more"


def test_a_history_goes_on_when_a_program_is_started_again(tmp_path: Path) -> None:
    """Case 39, a relative: with --respawn the last words of each life are in it, in their order."""
    lives = program(
        tmp_path,
        "import os\n"
        "for number in range(300):\n"
        "    print(os.getpid(), number, 'x' * 100)\n"
        "print('end')\n",
    )
    with (
        serve("--cache", "9999", "--respawn", lives) as server,
        RawClient.connect(server) as client,
    ):
        told = [client.receive_text() for _ in range(3 * 301)]
        assert told.count("end") == 3
        with RawClient.connect(server) as newcomer:
            assert [newcomer.receive_text() for _ in told] == told


def make_room_with(histories: Histories, name: str) -> Any:
    """Return what a history needs to know of a room, with its history."""
    room: Any = Mock()
    room.name = name
    room.members.history = histories.open(room)
    return room


def test_an_empty_history_is_not_remembered() -> None:
    """Names that strangers make up would push out those that hold something."""
    histories = Histories(scalesocket.Config(cache=(5, False), cachepersist=True))
    full, empty = make_room_with(histories, "full"), make_room_with(histories, "empty")
    full.members.history.add(Opcode.TEXT, [b"x"])
    histories.close(full)
    histories.close(empty)
    assert list(histories._kept) == ["full"]
    assert make_room_with(histories, "full").members.history is full.members.history


def test_histories_in_use_are_not_forgotten_and_the_longest_unused_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scalesocket.net.history, "MAX_REMEMBERED_ROOMS", 2)
    histories = Histories(scalesocket.Config(cache=(5, False), cachepersist=True))
    rooms = {name: make_room_with(histories, name) for name in "abc"}
    kept = {name: room.members.history for name, room in rooms.items()}
    for name in "cba":
        kept[name].add(Opcode.TEXT, [b"x" * 100])
        histories.close(rooms[name])
    used = make_room_with(histories, "b").members.history
    make_room_with(histories, "d")
    assert used is kept["b"]
    assert "b" in histories._kept
    assert kept["a"].bytes == 0, "what is forgotten is not counted any more"
    assert histories.archive.size == sum(history.bytes for history in kept.values())


# ==== 3. Bytes =============================================================


def texts(history: LongHistory) -> list[bytes]:
    return history.replay(LINES).split(b"\n")[:-1]


def test_a_history_has_a_bound_in_bytes_and_the_oldest_goes_first() -> None:
    """Case 9: `--cache 100` of messages of 1 MB were 100 MB, in every room."""
    archive = Archive()
    history = LongHistory(1000, tagged=False, limit=10_000, archive=archive)
    for number in range(100):
        history.add(Opcode.TEXT, [b"%03d" % number + b"x" * 933])  # 1,000 with what it costs
        assert history.bytes <= 10_000
    assert [text[:3] for text in texts(history)] == [b"%03d" % n for n in range(90, 100)]
    assert archive.dropped == 90
    history.add(Opcode.TEXT, [b"%04d" % number for number in range(2000)])  # all in one piece
    kept = texts(history)
    assert kept == [b"%04d" % number for number in range(2000)][-len(kept) :]
    assert 0.7 * 10_000 < history.bytes <= 10_000
    history.add(Opcode.TEXT, [b"x" * 20_000])
    assert (texts(history), history.bytes, archive.size) == ([], 0, 0)
    history.add(Opcode.TEXT, [b"y"])
    assert texts(history) == [b"y"]


def test_all_histories_together_have_a_bound_and_the_longest_silent_room_loses_first() -> None:
    """Case 36: 10 messages of 1 MiB in each of 100 rooms that are gone were 1 GiB, for ever."""
    archive = Archive(limit=3000)
    rooms = [LongHistory(9, tagged=False, archive=archive) for _ in range(3)]
    for history in rooms:
        for text in (b"1", b"2"):
            history.add(Opcode.TEXT, [text + b"x" * 399])
    rooms[0].add(Opcode.TEXT, [b"3" + b"x" * 399])
    kept = [[text[:1] for text in texts(history)] for history in rooms]
    assert kept == [[b"1", b"2", b"3"], [b"2"], [b"1", b"2"]]
    assert archive.size == sum(history.bytes for history in rooms) <= 3000
    assert archive.dropped == 1


@pytest.mark.parametrize("seats", [(), ("--resume", "60"), ("--store", "rooms.db")])
def test_the_histories_of_a_server_have_a_bound_together_whatever_its_rooms_are(
    seats: tuple[str, ...],
) -> None:
    """With --resume or --store each room's had one, and all together had none."""
    options = ("--cache", "1000", "--cachepersist", "--cachebytes", "64K", *seats, "cat")
    histories = Histories(scalesocket.parse_command_line(options))
    rooms = [make_room_with(histories, f"room{n}").members.history for n in range(10)]
    for room in rooms:
        room.add(Opcode.TEXT, [b"x" * 1000] * 55)
    sizes = [room.bytes for room in rooms]
    assert histories.archive.size == sum(sizes) <= 4 * 64 * 1024
    assert sizes[0] == 0 and sizes[-1] > 55_000  # who was silent for longest loses first
    assert len(texts(rooms[-1])) == 55


def test_a_history_that_nobody_can_ask_for_is_not_counted() -> None:
    archive = Archive()
    history = LongHistory(9, tagged=False, archive=archive)
    history.open(room := make_room(Mock()))
    history.add(Opcode.TEXT, [b"x"])
    history.close(room)
    assert (history.bytes, archive.size) == (0, 0)


@pytest.mark.parametrize("name", ["_settle", "drop"])
def test_a_history_is_given_back_once_though_memory_runs_out_as_its_room_ends(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It was closed twice, as if a room still added to it: its bytes counted for ever."""
    registry = PatientRooms(scalesocket.Config(command=("cat",), cache=(9, False)), Poller("timer"))
    registry.histories = histories = Histories(registry.config)
    registry.make_members = histories.make_members
    opener: Any = SimpleNamespace(room_name="room")
    with registry.lock:
        room = registry._make_room(opener)
    room.members.history.add(Opcode.TEXT, [b"x"])
    function, failures = getattr(LongHistory, name), [MemoryError()]

    def fail_once(history: LongHistory) -> Any:
        if failures:
            raise failures.pop()
        return function(history)

    monkeypatch.setattr(LongHistory, name, fail_once)
    scalesocket.insist(PatientRooms.forget, registry, room)
    assert not failures
    assert histories.archive.size == 0
    assert not registry.running


def test_histories_of_rooms_that_are_gone_are_bounded_too() -> None:
    """Case 36, on a real server, and /metrics tells."""
    options = ("--cache", "all:10", "--cachepersist", "--cachebytes", "100K", "--metrics")
    with serve(*options, "cat") as server:
        for room in range(12):
            with RawClient.connect(server, f"room{room}") as client:
                client.send_in_background(b"")
                for message in numbered(10, 20_000):
                    client.send_text(message)
                client.receive_many(10)
        size = metric(server, "scalesocket_history_bytes")
        assert 300_000 < size <= 4 * 100 * 1024
        wait_until(lambda: metric(server, "scalesocket_rooms") == 0)
        assert metric(server, "scalesocket_history_messages_dropped_total") >= 12 * 5
        with RawClient.connect(server, "room11") as client:
            assert_same(client.receive_many(5), numbered(10, 20_000)[-5:])


# ==== 4. Nobody waits for a newcomer =======================================


def test_the_others_play_on_while_a_newcomer_reads_nothing_of_a_long_history(
    talker: str,
) -> None:
    """Case 7: one who read 12 MB of history slowly silenced the room for 5.7 s (11 s, 38 s)."""
    options = ("--json", "--cache", "200", "--stall", "3600", "--metrics")
    with serve(*options, talker) as server, RawClient.connect(server) as first:
        read_until(first, "again")
        with deaf_client(server) as slow:
            wait_until(lambda: metric(server, "scalesocket_replay_bytes"))
            for _ in range(50):
                first.send_json({"t": "say"})
                assert "said" in read_until(first, "said")[-1]
            assert metric(server, "scalesocket_replay_bytes") > 0, "it is still behind"
            events = []
            while sum("said" in event for event in events) < 50:
                events.append(json.loads(slow.receive_text()))
            expected = ["ready", "here", "welcome", "here", "again", *["said"] * 50]
            assert outline(events) == expected
        wait_until(lambda: metric(server, "scalesocket_replay_bytes") == 0)


def test_a_newcomer_that_reads_nothing_at_all_is_closed_and_bounded(tmp_path: Path) -> None:
    """Case 35: 20 that answered pings and read nothing held 50 MiB each, for ever."""
    options = ("--cache", "all:50", "--backlog", "1M", "--stall", "2", "--metrics", "cat")
    with serve(*options, command=PATIENT) as server, RawClient.connect(server) as first:
        for message in numbered(50, 1_000_000):
            first.send_text(message)
            first.receive_many(1)
        before = server.peak_rss()
        with ExitStack() as stack:
            deaf = [stack.enter_context(deaf_client(server)) for _ in range(20)]
            wait_until(lambda: metric(server, "scalesocket_slow_clients_closed_total") == 20)
            assert server.peak_rss() - before < 20 * 4 << 20
            for client in deaf[:3]:
                code, reason = client.wait_close()
                assert code == 1008
                assert reason.startswith("too slow")
        first.send_text("still here")
        assert first.receive_text() == "still here"


def test_the_others_do_not_wait_for_a_newcomer_whose_messages_are_longer_than_its_backlog() -> None:
    """What it has of the past fills its backlog by itself; that is for nobody to wait for."""
    long = ("--maxmsg", "12M")  # longer than what a kernel takes of it
    options = ("--cache", "all:4", "--backlog", "256K", "--stall", "3600", "--metrics", *long)
    with serve(*options, "cat") as server, RawClient.connect(server) as first:
        messages = numbered(4, 12_000_000)
        for message in messages:
            first.send_text(message)
            first.receive_many(1)
        with deaf_client(server) as slow:
            wait_until(lambda: metric(server, "scalesocket_backlog_bytes") > 256 * 1024)
            for number in range(20):
                first.send_text(f"tick {number}")
                assert first.receive_text() == f"tick {number}"
            assert metric(server, "scalesocket_replay_bytes") > 0
            assert_same(slow.receive_many(4), messages)
            assert slow.receive_text() == "tick 0"


def test_a_newcomer_that_reads_steadily_gets_all_of_a_history_over_the_backlog(
    talker: str,
) -> None:
    """Case 35: the bound is on what waits for it, not on what it gets."""
    options = ("--json", "--cache", "200", "--backlog", "100K", "--stall", "5")
    with serve(*options, talker) as server, RawClient.connect(server) as first:
        read_until(first, "again")
        with deaf_client(server) as slow:
            expected = ["ready", "here", "welcome", "here", "again"]
            assert outline(read_until(slow, "again")) == expected


def test_what_is_kept_for_a_newcomer_alone_is_bounded_by_the_backlog(talker: str) -> None:
    """And nobody waits for that: it could last for as long as its history takes."""
    options = ("--json", "--cache", "tagged:9", "--backlog", "1M", "--stall", "3600", "--metrics")
    with (
        serve(*options, talker, command=PATIENT) as server,
        RawClient.connect(server) as first,
    ):
        read_until(first, "again")
        fill = {"_cache": True, "fill": "x" * 900_000}
        first.send_json({"t": "say", "with": fill, "times": 9})
        for _ in range(9):
            read_until(first, "said")
        with deaf_client(server) as slow:
            wait_until(lambda: metric(server, "scalesocket_replay_bytes"))
            for _ in range(20):
                first.send_json({"t": "say", "with": {"fill": "y" * 100_000}})
                read_until(first, "said")
            code, reason = slow.wait_close()
            assert code == 1008
            assert reason.startswith("too slow")
        assert metric(server, "scalesocket_slow_clients_closed_total") == 1


def test_a_newcomer_that_falls_too_far_behind_is_closed(tmp_path: Path) -> None:
    """One that trickles would otherwise hold fast all that the room ever said."""
    options = ("--cache", "50", "--cachebytes", "1M", "--stall", "1", "--metrics")
    with serve(*options, "cat") as server, RawClient.connect(server) as first:
        messages = numbered(50, 20_000)
        for message in messages:
            first.send_text(message)
            first.receive_many(1)
        with deaf_client(server) as slow, ExitStack() as stack:
            stop = threading.Event()
            stack.callback(stop.set)

            def trickle() -> None:
                while not stop.wait(0.2):
                    slow.sock.setblocking(True)
                    slow.sock.recv(2048)

            trickling = Worker(trickle)
            while not metric(server, "scalesocket_slow_clients_closed_total"):
                first.send_text(messages[0])
                first.receive_many(1)
            stop.set()
            trickling.join()


def test_a_program_waits_for_its_only_newcomer(tmp_path: Path) -> None:
    """Where nobody else is held up, a flood is slowed down to the newcomer, who loses nothing."""
    flood = program(
        tmp_path,
        "import itertools, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "for number in itertools.count():\n"
        "    print(f'{number:08}' + 'x' * 400)\n",
    )
    options = ("--cache", "99999", "--cachebytes", "8M", "--backlog", "256K", "--metrics")
    with serve(*options, flood) as server, RawClient.connect(server) as first:
        first.receive_many(30_000)
        with deaf_client(server) as second:
            wait_until(lambda: metric(server, "scalesocket_replay_bytes"))
            first.close()
            count_up(second, 60_000)
        assert metric(server, "scalesocket_slow_clients_closed_total") == 0


# ==== 5. In order ==========================================================


def test_a_kicked_newcomer_gets_the_past_and_then_its_close(talker: str) -> None:
    with (
        serve("--json", "--cache", "200", talker) as server,
        RawClient.connect(server) as first,
    ):
        read_until(first, "again")
        with deaf_client(server) as slow:
            assert "here" in read_until(first, "here")[-1]
            first.send_json({"t": "kick", "who": 2})
            read_until(first, "bye")
            events = []
            with pytest.raises(Closed) as closed:
                while True:
                    events.append(json.loads(slow.receive_text()))
            assert (closed.value.code, closed.value.reason) == (4000, "kicked")
            assert outline(events)[:6] == ["ready", "here", "welcome", "here", "again", "bye"]


def test_a_kicked_newcomer_that_closes_at_the_same_time_gets_its_close_too(talker: str) -> None:
    """What it had asked for by then is on its way, and the Close is behind that."""
    with (
        serve("--json", "--cache", "200", talker) as server,
        RawClient.connect(server) as first,
    ):
        read_until(first, "again")
        with deaf_client(server) as slow:
            assert "here" in read_until(first, "here")[-1]
            first.send_json({"t": "kick", "who": 2})
            first.send_json({"t": "say"})
            read_until(first, "said")  # so it has been kicked
            assert slow.close() == (4000, "kicked")


def test_when_the_program_ends_a_newcomer_gets_the_past_and_then_its_close(tmp_path: Path) -> None:
    text = f"""
for number in range({len(PAST)}):
    print(f"{{number:06}}" + "x" * 60000, flush=True)
input()
print("the end", flush=True)
"""
    with (
        serve("--cache", "200", program(tmp_path, text)) as server,
        RawClient.connect(server) as first,
    ):
        first.receive_many(len(PAST))
        with deaf_client(server) as slow:
            first.send_text("go on")
            assert first.receive_text() == "the end"
            assert first.wait_close() == (1000, "the program has ended with status 0")
            found = slow.receive_many(len(PAST) + 1)
            assert [int(text[:6]) for text in found[:-1]] == list(range(len(PAST)))
            assert found[-1] == b"the end"
            assert slow.wait_close()[0] == 1000


def test_a_newcomer_can_leave_before_it_has_all(talker: str) -> None:
    options = ("--json", "--cache", "200", "--metrics")
    with serve(*options, talker) as server, RawClient.connect(server) as first:
        read_until(first, "again")
        for _ in range(3):
            with deaf_client(server) as slow:
                wait_until(lambda: metric(server, "scalesocket_replay_bytes"))
                slow.ping(b"a pong need not wait")
                slow.close()
            wait_until(lambda: metric(server, "scalesocket_replay_bytes") == 0)
            with deaf_client(server) as slow:
                wait_until(lambda: metric(server, "scalesocket_replay_bytes"))
                slow.reset()
            wait_until(lambda: metric(server, "scalesocket_replay_bytes") == 0)


def count_up(client: RawClient, size: int) -> int:
    """Read lines that begin with numbers; return the first of them. None may be missing."""
    numbers = [int(payload[:8]) for payload in client.receive_many(size)]
    assert numbers == list(range(numbers[0], numbers[0] + size))
    return numbers[0]


COUNTING = """
import itertools, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
for number in itertools.count():
    print(f"{number:08}" + "x" * 400, flush=number % 7 == 0)
    if number > 3000 and number % 50 == 0:
        time.sleep(0.002)
"""


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_no_gap_and_no_repeat_with_a_history_that_takes_a_while(
    tmp_path: Path, certs: Certificates, secure: bool
) -> None:
    """The moment at which a newcomer has caught up is a race: 25 newcomers run it."""
    text = program(tmp_path, COUNTING)
    trust = certs.trust()
    with (
        serve("--cache", "2000", *(certs.options() if secure else ()), text) as server,
        ExitStack() as stack,
    ):

        def connect() -> RawClient:
            return join(server, trust) if secure else RawClient.connect(server)

        first = stack.enter_context(connect())
        first.receive_many(3000)
        stop = threading.Event()
        reader = Worker(lambda: [first.receive_many(1) for _ in iter(stop.is_set, True)])
        stack.callback(stop.set)
        for _ in range(25):
            with connect() as client:
                count_up(client, 2600)
        stop.set()
        reader.join()


def test_newcomers_without_websockets_get_a_long_history_too(tmp_path: Path) -> None:
    text = program(tmp_path, COUNTING)
    options = ("--cache", "2000", "--tcplisten", "127.0.0.1:0", "--linger", "60")
    with serve(*options, text) as server:
        with RawClient.connect(server) as first:
            first.receive_many(3000)
        port = int(server.wait_log(r"lines of text at .*port (\d+)")[1])
        for _ in range(5):
            with open_socket(("127.0.0.1", port)) as sock, sock.makefile("rb") as lines:
                sock.sendall(b"room\n")
                numbers = [int(lines.readline()[:8]) for _ in range(2600)]
                assert numbers == list(range(numbers[0], numbers[0] + 2600))


GAME_WITH_PAST = """
from scalesocket import Game

class Past(Game):
    tick_rate = 50

    def on_create(self, room):
        self.room = room
        self.number = 0
        for _ in range(100):
            self.say()

    def say(self):
        self.room.broadcast(f"{self.number:08}" + "x" * 40000)
        self.number += 1

    def on_join(self, client):
        client.send(f"welcome {self.number}")
        self.say()
        client.send("welcome again")

    def on_tick(self, dt):
        self.say()
"""


def test_a_games_newcomers_get_the_past_and_all_else_in_order(tmp_path: Path) -> None:
    """The tick that comes while a newcomer is behind is in the history; its welcome is not."""
    (tmp_path / "past.py").write_text(GAME_WITH_PAST)
    with serve("--cache", "100", "past:Past", cwd=tmp_path) as server:
        for _ in range(10):
            with RawClient.connect(server) as client:
                found = client.receive_many(140)
                at = next(i for i, text in enumerate(found) if text.startswith(b"welcome "))
                assert found[at + 2] == b"welcome again"
                assert found[at] == b"welcome " + str(int(found[at + 1][:8])).encode()
                assert at == 100
                del found[at + 2], found[at]
                first = int(found[0][:8])
                assert [int(text[:8]) for text in found] == list(range(first, first + 138))


# ==== 6. In one process: who is held up ====================================


class Seat:
    """What a room sees of a client."""

    departed = False

    def __init__(self, client_id: int, connection: HoldingConnection) -> None:
        self.id = client_id
        self.connection = connection


def test_a_history_is_compressed_by_no_thread_that_others_wait_for_and_once(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 33: one upgrade with permessage-deflate held up all joins and /health for 2.8 s.

    The history was compressed on the acceptor's thread, under the registry's lock and the room's.
    """
    threads: list[str] = []
    may_go_on = threading.Event()
    really_compress = deflate.compress

    def compress(payload: bytes, window_bits: int) -> bytes:
        threads.append(threading.current_thread().name)
        assert may_go_on.wait(PATIENCE)
        return really_compress(payload, window_bits)

    monkeypatch.setattr(deflate, "compress", compress)
    archive = Archive()
    archive.start()
    history = LongHistory(100, tagged=False, archive=archive)
    members = HistoryMembers(history, make_room(Mock()))
    for number in range(50):
        history.add(Opcode.TEXT, [b"%02d" % number + b"x" * 20_000])
    pairs = []
    for number in range(3):
        ours, theirs = socket.socketpair()
        connection = HoldingConnection(
            ours,
            WebSocketProtocol(Role.SERVER, max_message=1 << 20, encoding=deflate.DEFLATE[15]),
            poller=poller,
            max_backlog=1 << 20,
        )
        client: Any = Seat(number, connection)
        assert members.add(client), "it returned, though nothing can be compressed yet"
        pairs.append((connection, RawClient(theirs)))
    assert members.send([Route(Opcode.TEXT, [b"meanwhile"])]) == []
    may_go_on.set()
    for connection, theirs in pairs:
        theirs.allow_rsv = True
        assert len(theirs.receive_many(51)) == 51
        connection.dispose()
        theirs.sock.close()
    archive.stop()
    assert set(threads) == {"replay"}
    assert len(threads) == 50, "each message once, for all three"


def test_a_newcomer_that_is_kicked_as_it_has_caught_up_gets_the_last_words(poller: Poller) -> None:
    """They were said, and it was off the members, before it was made one like the others."""
    archive = Archive()  # its thread does not run: this one does what that would
    history = LongHistory(100, tagged=False, archive=archive)
    members: Any = HistoryMembers(history, make_room(Mock()))
    history.open(make_room(Mock()))
    history.add(Opcode.TEXT, [b"x" * 20_000])
    ours, theirs = socket.socketpair()
    protocol = WebSocketProtocol(Role.SERVER, max_message=1 << 20)
    connection = HoldingConnection(ours, protocol, poller=poller, max_backlog=1 << 20)
    client: Any = Seat(1, connection)
    assert members.add(client)
    replay = members.newcomers[client]
    replay.advance()
    assert replay.has_caught_up()
    promote = members.promote

    def promote_late(*who: Any) -> bool:
        members.promote = promote
        members.send([Route(Opcode.TEXT, [b"last words"])])
        members.remove(client)
        return bool(promote(*who))

    members.promote = promote_late
    replay.advance()
    connection.close(4000, "kicked")
    while connection.replay is not None:
        replay.advance()
    with RawClient(theirs) as newcomer:
        assert newcomer.receive_text() == "x" * 20_000
        assert newcomer.receive_text() == "last words"
        with pytest.raises(Closed, match="4000"):
            newcomer.receive_text()
    connection.dispose()
    assert not history.followers


class LockWithGap:
    """A lock of which something is done as soon as it is released, once."""

    def __init__(self, lock: threading.Lock, gap: Callable[[], None]) -> None:
        self._lock = lock
        self._gaps = [gap]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._gaps:
            self._gaps.pop()()


def test_nobody_waits_for_a_newcomer_that_is_sent_more_of_the_past_as_it_is_asked(
    poller: Poller,
) -> None:
    """It was not full, and then it was: a room waited for it, or closed it as too slow."""
    archive = Archive()  # its thread does not run: this one does what that would
    history = LongHistory(100, tagged=False, archive=archive)
    members: Any = HistoryMembers(history, make_room(Mock()))
    history.open(make_room(Mock()))
    history.add(Opcode.TEXT, [b"x" * (4 << 20)])
    ours, theirs = socket.socketpair()
    protocol = WebSocketProtocol(Role.SERVER, max_message=1 << 20)
    connection = HoldingConnection(ours, protocol, poller=poller, max_backlog=1 << 20)
    client: Any = Seat(1, connection)
    assert members.add(client)
    connection.lock = cast(Any, LockWithGap(connection.lock, members.newcomers[client].advance))
    assert connection.wait_while_full(0)
    assert connection.is_full
    connection.dispose()
    wait_until(lambda: connection.fileno() < 0)  # the poller closes it
    theirs.close()


def newcomer_to_a_long_past(
    poller: Poller,
) -> tuple[LongHistory, Any, HoldingConnection, socket.socket]:
    """Return a history, its members with one newcomer, and that one's connection at both ends."""
    archive = Archive()  # its thread does not run: this one does what that would
    history = LongHistory(100, tagged=False, archive=archive, limit=64 * 1024)
    members: Any = HistoryMembers(history, make_room(Mock()))
    history.open(make_room(Mock()))
    history.add(Opcode.TEXT, [b"x" * 20_000])
    ours, theirs = socket.socketpair()
    protocol = WebSocketProtocol(Role.SERVER, max_message=1 << 20)
    connection = HoldingConnection(ours, protocol, poller=poller, max_backlog=1 << 20)
    client: Any = Seat(1, connection)
    assert members.add(client)
    return history, members, connection, theirs


def test_who_has_left_and_is_too_far_behind_for_its_last_words_is_cut_off(poller: Poller) -> None:
    history, members, connection, theirs = newcomer_to_a_long_past(poller)
    [client] = members.newcomers
    replay = members.newcomers[client]
    client.departed = True  # kicked: its Close waits behind the past
    connection.close(CloseCode.NORMAL)
    for _ in range(10):
        history.add(Opcode.TEXT, [b"x" * 20_000])
    assert connection.is_alive() and replay.is_lost
    replay.advance()
    assert not connection.is_alive()
    assert not history.followers
    connection.dispose()
    theirs.close()


def test_who_has_left_after_its_replay_is_not_cut_off_as_the_history_goes_on(
    poller: Poller,
) -> None:
    """The archive's thread often has it once more: it took its old place for a loss by then."""
    history, members, connection, theirs = newcomer_to_a_long_past(poller)
    [client] = members.newcomers
    replay = members.newcomers[client]
    while connection.replay is not None:
        replay.advance()
    for _ in range(10):
        history.add(Opcode.TEXT, [b"x" * 20_000])
    client.departed = True  # kicked: its Close is under way
    connection.close(4000, "kicked")
    replay.advance()
    with RawClient(theirs) as member:
        assert member.receive_text() == "x" * 20_000
        with pytest.raises(Closed, match="4000"):
            member.receive_text()
    assert connection.is_alive()
    connection.dispose()


def test_whether_a_newcomer_is_there_does_not_depend_on_what_is_held_back_for_it(
    poller: Poller,
) -> None:
    """While an earlier room might still say something, a ping counted as an answer to itself."""
    _, _, connection, theirs = newcomer_to_a_long_past(poller)
    connection.send(encode_frame(Opcode.TEXT, b"for it alone"))
    connection.set_reading(False)
    connection.silent_since -= 60
    assert probe(connection)
    theirs.settimeout(PATIENCE)
    assert theirs.recv(64) == PONG
    connection.set_reading(True)
    for is_closing in (False, True):
        connection.silent_since -= 30
        check_peer(connection, 20.0, time.monotonic())
        assert connection.is_closing == is_closing
    assert theirs.recv(64) == PING
    connection.dispose()
    theirs.close()


if sys.platform != "linux":
    pytest.skip("memory and children are read from /proc", allow_module_level=True)
