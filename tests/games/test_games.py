"""Games in Python: their hooks, ticks and timed calls, and how rooms of them begin and end.

`tests/rooms/test_rooms.py` plays with the same API from a client's side; here are time, order and
faults.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.net.metrics import MeasuredGame

import scalesocket
from scalesocket import (
    MAX_TICK_TIME,
    PLAIN,
    BackendError,
    Client,
    ConnectionClosed,
    Game,
    GameRoom,
    Joined,
    Left,
    Messages,
    Opcode,
    RoomEvent,
)
from tests.fake_room import make_room
from tests.support import (
    BINARY,
    TEXT,
    Closed,
    RawClient,
    ServerProcess,
    encode_client_frames,
    http_request,
    serve,
    wait_until,
)

# ==== 1. A backend whose clock the test winds ==============================


class Note(tuple[Any, ...]):
    """The name of a hook and its arguments, and when it was called."""

    at: float


class Recorder(Game):
    """Notes every call of a hook."""

    tick_rate = 10

    def on_create(self, room: GameRoom) -> None:
        self.room = room
        self.diary: list[Note] = []

    def note(self, *what: Any) -> None:
        note = Note(what)
        note.at = scalesocket.time.monotonic()
        self.diary.append(note)

    def on_join(self, client: Client) -> None:
        self.note("join", client.id)

    def on_message(self, client: Client, message: str | bytes) -> None:
        self.note("message", client.id, message)

    def on_leave(self, client: Client, code: int) -> None:
        self.note("leave", client.id, code)

    def on_tick(self, dt: float) -> None:
        self.note("tick", dt)

    def on_dispose(self) -> None:
        self.note("dispose")


class Stage:
    """A game's backend with a room and clients that are made up, and a clock that stands still.

    `scalesocket` reads that clock for as long as the `with` block lasts.
    """

    def __init__(self, game: type[Game] = Recorder) -> None:
        self.now = self.start = 1000.0
        self.backend = MeasuredGame(game)
        self.room = make_room(self.backend)
        self.sent: list[tuple[float, bytes]] = []  # when something was sent to a client
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        self._clock = mock.patch.object(scalesocket, "time", clock)

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._clock)
            self.backend.start(self.room, self.client(0))
            self.game: Any = self.backend.game
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def client(self, number: int) -> Client:
        def send(data: bytes) -> None:
            self.sent.append((self.now, data))

        connection: Any = SimpleNamespace(encoding=PLAIN, is_full=False, send=send)
        request: Any = None
        nowhere = ("", 0)
        client = Client(number, "room", request, connection, peer=nowhere, local=nowhere)
        client.room = self.room
        return client

    def handle(self, *events: RoomEvent) -> None:
        self.backend.handle([*events])

    def wake(self, late: float = 0.0) -> None:
        """Let time pass to what is due next, and that much more."""
        wait = self.backend.wait_time()
        assert wait is not None
        self.now += wait + late
        self.handle()

    def diary(self, *hooks: str) -> list[Any]:
        """Return what the game has noted of these hooks."""
        return [note for note in self.game.diary if note[0] in hooks]

    def times(self, hook: str) -> list[float]:
        """Return when that hook was called, in seconds from the start."""
        return [note.at - self.start for note in self.diary(hook)]


def received(client: Client, *messages: str | bytes) -> Messages:
    opcode = Opcode.TEXT if isinstance(messages[0], str) else Opcode.BINARY
    payloads = [m.encode() if isinstance(m, str) else m for m in messages]
    run = Messages(opcode, payloads, sum(map(len, payloads)))
    run.client = client
    return run


# ---- ticks


@pytest.mark.slow
@given(st.lists(st.floats(0, 0.099), min_size=10, max_size=200))
def test_ticks_do_not_drift_however_late_each_of_them_is(delays: list[float]) -> None:
    with Stage() as stage:
        for late in delays:
            stage.wake(late)
        expected = [number * 0.1 + late for number, late in enumerate(delays, 1)]
        assert stage.times("tick") == pytest.approx(expected, abs=1e-6)
        assert stage.backend.ticks.skipped == 0


def test_a_tick_tells_the_time_since_the_last() -> None:
    with Stage() as stage:
        for late in (0.0, 0.05, 0.0, 0.02):
            stage.wake(late)
        steps = [dt for _, dt in stage.diary("tick")]
        assert steps == pytest.approx([0.1, 0.15, 0.05, 0.12])


def test_no_tick_comes_before_its_time() -> None:
    with Stage() as stage:
        stage.now += 0.0999
        stage.handle()
        assert stage.diary("tick") == []
        stage.now += 0.0002
        stage.handle()
        stage.handle()
        assert len(stage.diary("tick")) == 1


@pytest.mark.parametrize(("pause", "skipped"), [(0.1, 0), (0.25, 1), (1.04, 9), (3600.0, 35999)])
def test_ticks_that_were_missed_are_skipped_and_the_step_is_cut(pause: float, skipped: int) -> None:
    with Stage() as stage:
        stage.now += pause + 1e-6
        stage.handle()
        stage.handle()
        ((_, dt),) = stage.diary("tick")
        assert dt == pytest.approx(min(pause, MAX_TICK_TIME), abs=1e-5)
        assert stage.backend.ticks.skipped == skipped
        stage.wake()
        after = stage.times("tick")[-1]
        assert after == pytest.approx((skipped + 2) * 0.1, abs=1e-5), "back in the old rhythm"


def test_ticks_that_take_too_long_leave_time_for_messages() -> None:
    class Overloaded(Recorder):
        def on_tick(self, dt: float) -> None:
            super().on_tick(dt)
            stage.now += 0.35

        def on_message(self, client: Client, message: str | bytes) -> None:
            super().on_message(client, message)
            stage.now += 0.01

    with Stage(Overloaded) as stage:
        stage.wake()
        stage.handle(*(received(stage.client(n), str(n)) for n in range(100)))
        ticks = stage.times("tick")
        assert ticks[:3] == pytest.approx([0.1, 0.5, 0.9], abs=0.01 + 1e-6)
        assert 100 / 6 < len(ticks) <= 100 / 4 + 1, "about five messages for each tick"
        assert stage.backend.ticks.skipped == 3 * len(ticks)


def test_a_tick_rate_may_be_less_than_one() -> None:
    class Slow(Recorder):
        tick_rate = 0.5

    with Stage(Slow) as stage:
        stage.wake()
        stage.wake()
        assert stage.times("tick") == [2.0, 4.0]
        assert [dt for _, dt in stage.diary("tick")] == [MAX_TICK_TIME] * 2


def test_without_a_tick_rate_nothing_is_waited_for() -> None:
    class Still(Recorder):
        tick_rate = 0

    with Stage(Still) as stage:
        assert stage.backend.wait_time() is None
        stage.now += 1000
        stage.handle()
        assert stage.game.diary == []
        stage.game.room.call_later(2.5, lambda: None)
        assert stage.backend.wait_time() == 2.5
        stage.now += 3
        assert stage.backend.wait_time() == 0, "what is overdue is never waited for"


@pytest.mark.parametrize("rate", [-5, 1e-11, 1e-320, math.nan, math.inf])
def test_any_tick_rate_is_a_time_that_a_thread_can_wait(rate: float) -> None:
    """A negative one was made up for without end; for a very small one the room ended."""

    class Odd(Recorder):
        tick_rate = rate

    with Stage(Odd) as stage:
        for _ in range(3):
            stage.now += 1
            stage.handle()
        wait = stage.backend.wait_time()
        assert wait is None or 0 <= wait <= threading.TIMEOUT_MAX
        assert stage.diary("tick") == []


def test_a_tick_rate_that_is_no_number_is_the_games_mistake() -> None:
    """It was logged as our own bug."""

    class Wrong(Recorder):
        def on_create(self, room: GameRoom) -> None:
            self.tick_rate: Any = "20"

    with pytest.raises(BackendError, match="the game failed"), Stage(Wrong):
        pass


# ---- order


def test_what_has_happened_is_handled_in_its_order() -> None:
    with Stage() as stage:
        ann, bob = stage.client(1), stage.client(2)
        stage.handle(
            Joined(ann),
            received(ann, "a", "b"),
            Joined(bob),
            received(bob, b"\x00", b"\xff"),
            received(ann, "c"),
            Left(ann, 1001),
            received(bob, "d"),
        )
        assert stage.game.diary == [
            ("join", 1),
            ("message", 1, "a"),
            ("message", 1, "b"),
            ("join", 2),
            ("message", 2, b"\x00"),
            ("message", 2, b"\xff"),
            ("message", 1, "c"),
            ("leave", 1, 1001),
            ("message", 2, "d"),
        ]


class Busy(Recorder):
    """Takes its time for each message, and says something at each tick and timed call."""

    def on_create(self, room: GameRoom) -> None:
        super().on_create(room)
        room.call_later(0.05, lambda: room.broadcast("called"))

    def on_message(self, client: Client, message: str | bytes) -> None:
        super().on_message(client, message)
        scalesocket.time.sleep(0.03)

    def on_tick(self, dt: float) -> None:
        super().on_tick(dt)
        self.room.broadcast("tick")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_flood_of_messages_does_not_hold_up_ticks_and_calls(size: int) -> None:
    """Neither the hooks nor what they send, whether it comes in one piece or in many."""
    with Stage(Busy) as stage:
        clients = [stage.client(number) for number in range(3)]
        texts = [str(number) for number in range(100)]
        runs = [texts[at : at + size] for at in range(0, 100, size)]
        stage.handle(Joined(clients[0]))
        stage.handle(*(received(clients[n % 3], *run) for n, run in enumerate(runs)))
        assert [text for _, _, text in stage.diary("message")] == texts
        ticks = stage.times("tick")
        assert len(ticks) >= 29
        assert all(0 <= at - 0.1 * n < 0.03 + 1e-6 for n, at in enumerate(ticks, 1))
        sent = [at - stage.start for at, _ in stage.sent]
        assert sent == pytest.approx([0.06, *ticks], abs=1e-6)


def test_what_is_sent_to_one_who_has_left_is_not_kept() -> None:
    with Stage() as stage:
        client = stage.client(1)
        stage.handle(Joined(client), Left(client, 1000))
        client.send("are you there?")
        stage.game.room.broadcast("is anybody?")
        assert stage.sent == []


def test_calls_are_made_in_the_order_of_their_time_and_then_of_their_making() -> None:
    with Stage() as stage:
        made: list[tuple[str, float]] = []
        for name, seconds in (("c", 0.3), ("a", 0.1), ("d", 0.3), ("b", 0.2), ("now", 0)):
            stage.game.room.call_later(
                seconds, lambda name=name: made.append((name, stage.now - stage.start))
            )
        stage.handle()
        assert made == [("now", 0.0)]
        while len(made) < 5:
            stage.wake()
        assert [name for name, _ in made] == ["now", "a", "b", "c", "d"]
        assert [at for _, at in made] == pytest.approx([0, 0.1, 0.2, 0.3, 0.3], abs=1e-6)
        stage.now += 10
        stage.handle()
        assert len(made) == 5, "a call is made once"


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_however_late_they_are_calls_keep_their_order(seconds: list[int]) -> None:
    with Stage() as stage:
        made: list[tuple[int, int]] = []
        for number, delay in enumerate(seconds):
            stage.game.room.call_later(delay, lambda call=(delay, number): made.append(call))
        stage.now += 100
        stage.handle()
        assert made == sorted(made)
        assert len(made) == len(seconds)


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("seconds", [math.nan, -1.0, -math.inf])
def test_what_is_no_time_to_come_is_now(seconds: float, repeat: bool) -> None:
    """NaN held up all calls that were made later, or were there already."""
    with Stage() as stage:
        made: list[str] = []
        stage.game.room.call_later(seconds, lambda: made.append("odd"), repeat=repeat)
        stage.game.room.call_later(0.05, lambda: made.append("even"))
        stage.handle()
        assert made == ["odd"]
        stage.now += 0.05
        stage.handle()
        assert made == ["odd", *(["odd"] * repeat), "even"]


def test_a_call_without_time_that_asks_for_itself_holds_nobody_up() -> None:
    with Stage() as stage:
        room, times = stage.game.room, list(range(100))

        def again() -> None:
            stage.now += 0.0001  # it takes some time
            if times:
                times.pop()
                room.call_later(-1.0, again)

        again()
        stage.now += 0.001
        room.call_later(0.0, lambda: room.close(4000, "over"))
        with pytest.raises(ConnectionClosed):
            stage.handle()
        assert times


@pytest.mark.parametrize("call", ["call_later", "call_soon"])
def test_what_is_no_function_is_refused_where_it_is_said(call: str) -> None:
    """`self.step()` for `self.step`: the room ended later, and no line was named."""
    with Stage() as stage:
        arguments = [0.5] if call == "call_later" else []
        with pytest.raises(TypeError, match=f"room.{call} wants a function, not None"):
            getattr(stage.game.room, call)(*arguments, None)


def test_a_call_may_be_as_far_away_as_one_likes() -> None:
    """The room ended, as no thread can wait that long."""
    with Stage() as stage:
        stage.game.tick_rate = stage.backend._next_tick = math.inf
        stage.game.room.call_later(1e18, lambda: None)
        assert stage.backend.wait_time() == threading.TIMEOUT_MAX
        assert threading.Lock().acquire(timeout=threading.TIMEOUT_MAX)


def test_a_call_may_ask_for_another() -> None:
    with Stage() as stage:
        times: list[float] = []

        def again() -> None:
            times.append(stage.now - stage.start)
            if len(times) < 5:
                stage.game.room.call_later(0.25, again)

        again()
        while len(times) < 5:
            stage.wake()
        assert times == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])


# ---- ends


def test_what_a_hook_raises_is_the_cause_of_the_rooms_end() -> None:
    class Faulty(Recorder):
        def on_tick(self, dt: float) -> None:
            raise LookupError("lost")

    with Stage(Faulty) as stage, pytest.raises(BackendError, match="the game failed") as caught:
        stage.wake()
    assert isinstance(caught.value.__cause__, LookupError)


def test_after_a_room_has_been_closed_no_hook_but_the_last_is_called() -> None:
    class Ending(Recorder):
        def on_message(self, client: Client, message: str | bytes) -> None:
            super().on_message(client, message)
            self.room.close(4000, "over")

    with Stage(Ending) as stage:
        ann = stage.client(1)
        with pytest.raises(ConnectionClosed) as caught:
            stage.handle(received(ann, "one", "two"), received(ann, "three"), Left(ann, 1000))
        assert (caught.value.code, caught.value.reason) == (4000, "over")
        stage.backend.stop()
        assert stage.game.diary == [("message", 1, "one"), ("dispose",)]


def test_after_a_timed_call_has_closed_the_room_no_other_is_made_and_no_tick() -> None:
    with Stage() as stage:
        room, made = stage.game.room, []
        room.call_later(0.05, lambda: room.close(4000, "over"))
        room.call_later(0.06, lambda: made.append("call"))
        stage.now += 0.2
        with pytest.raises(ConnectionClosed, match="over"):
            stage.handle()
        stage.backend.stop()
        assert (made, stage.game.diary) == ([], [("dispose",)])


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000, -1])
def test_a_code_that_must_not_be_sent_is_the_games_mistake(code: int) -> None:
    with Stage() as stage:
        with pytest.raises(ValueError):
            stage.game.room.close(code)
        with pytest.raises(ValueError):
            stage.client(1).close(code)
        assert stage.game.room.closing is None


@pytest.mark.parametrize(
    ("code", "reason"), [(4000.0, ""), ("4000", ""), (None, ""), (4000, None), (4000, b"bye")]
)
def test_what_no_close_frame_can_hold_is_the_games_mistake(code: Any, reason: Any) -> None:
    """The client, or all of the room, was let go and left waiting, with no Close frame."""
    with Stage() as stage:
        stage.room.thread = threading.get_ident()
        with pytest.raises(ValueError):
            stage.game.room.close(code, reason)
        with pytest.raises(ValueError):
            stage.client(1).close(code, reason)
        assert stage.game.room.closing is None


def test_metadata_is_any_json_and_nothing_else() -> None:
    with Stage() as stage:
        room = stage.game.room
        assert room.metadata is None
        for value in ({"a": [1, 2.5, None, True, "é"]}, [], "text", 0, None):
            room.metadata = value
            assert room.metadata == value
        for wrong in ({1, 2}, float("nan"), object()):
            with pytest.raises((TypeError, ValueError)):
                room.metadata = wrong
        assert room.metadata is None


# ==== 2. A real server =====================================================

GAMES = r'''
import itertools
import contextlib
import json
import sys
import time

from scalesocket import Game


class Faulty(Game):
    """Fails in the hook that its room is named after."""

    tick_rate = 20

    def on_create(self, room):
        self.room = room
        self.fail("create")

    def fail(self, hook):
        if self.room.id == hook:
            raise ArithmeticError(f"cannot {hook}")

    def on_join(self, client):
        if len(self.room.clients) == 2:
            self.fail("join")

    def on_message(self, client, message):
        if message == "call":
            self.room.call_later(0.01, lambda: self.fail("call"))
        elif message == "close":
            self.room.close(4001, "asked to")
        else:
            self.fail("message")
        self.room.broadcast(message)

    def on_leave(self, client, code):
        self.fail("leave")
        self.room.broadcast("left")

    def on_tick(self, dt):
        if len(self.room.clients) == 2:
            self.fail("tick")

    def on_dispose(self):
        sys.stderr.write(f"disposed of {self.room.id}\n")
        self.fail("dispose")


class Metronome(Game):
    tick_rate = 50

    def on_create(self, room):
        self.room = room
        self.start = time.monotonic()

    def on_tick(self, dt):
        self.room.broadcast(json.dumps(time.monotonic() - self.start))


class Order(Game):
    """Says what came, at a tick."""

    tick_rate = 100

    def on_create(self, room):
        self.room = room
        self.heard = []

    def on_message(self, client, message):
        self.heard.append([client.id, int(message)])

    def on_tick(self, dt):
        if self.heard:
            self.room.broadcast(json.dumps(self.heard))
            self.heard = []


class Inn(Game):
    """Knows whether it is open, and who is in."""

    tick_rate = 100
    numbers = itertools.count(1)

    def on_create(self, room):
        self.number = next(Inn.numbers)
        self.room = room
        self.guests = set()
        self.closed = False

    def on_join(self, client):
        assert not self.closed, "a guest in a closed inn"
        self.guests.add(client.id)
        assert set(self.room.clients) == self.guests
        client.send(f"{self.number}")

    def on_message(self, client, message):
        assert not self.closed and client.id in self.guests
        client.send(f"{self.number} {message}")

    def on_leave(self, client, code):
        assert not self.closed
        self.guests.remove(client.id)

    def on_tick(self, dt):
        assert not self.closed

    def on_dispose(self):
        assert not self.closed
        self.closed = True
        sys.stderr.write(f"inn {self.number} has closed with {len(self.guests)}\n")


class Pair(Game):
    max_clients = 2

    def on_message(self, client, message):
        client.send(message)


class Sizes(Game):
    def on_message(self, client, message):
        client.send(message)
        client.send("" if isinstance(message, str) else b"")
        client.send(f"{type(message).__name__} {len(message)}")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of games in it."""
    folder = tmp_path_factory.mktemp("games")
    (folder / "parlour.py").write_text(GAMES)
    return folder


@pytest.fixture(scope="module")
def faulty(folder: Path) -> Iterator[ServerProcess]:
    with serve("--api", "parlour:Faulty", cwd=folder, allow_traceback=True) as server:
        yield server


def members(server: ServerProcess, room: str) -> object:
    """Return how many clients a room has."""
    return json.loads(http_request(server, path=f"/api/{room}/connections").body)


@pytest.mark.parametrize("hook", ["join", "message", "leave", "tick", "call"])
def test_a_fault_in_any_hook_ends_its_room_alone(faulty: ServerProcess, hook: str) -> None:
    lines = len(faulty.log())
    with (
        RawClient.connect(faulty, hook) as first,
        RawClient.connect(faulty, f"not-{hook}") as other,
    ):
        wait_until(lambda: members(faulty, hook) == 1)
        with RawClient.connect(faulty, hook) as second:
            if hook == "leave":
                second.close()
            elif hook in ("message", "call"):
                second.send_text(hook)
            code, reason = first.wait_close()
            assert (code, reason) == (1011, "the game failed")
            if hook != "leave":
                assert second.wait_close()[0] == 1011
        faulty.wait_log(f"ArithmeticError: cannot {hook}$", since=lines)
        faulty.wait_log("Traceback", since=lines)
        faulty.wait_log(f"disposed of {hook}$", since=lines)
        other.send_text("still here")
        assert other.receive_text() == "still here"


def test_a_fault_while_a_game_begins_or_ends_is_logged_too(faulty: ServerProcess) -> None:
    with RawClient.connect(faulty, "create") as client:
        assert client.wait_close() == (1011, "the game failed")
    faulty.wait_log("ArithmeticError: cannot create$")
    with RawClient.connect(faulty, "dispose") as client:
        client.send_text("hi")
        assert client.receive_text() == "hi"
        assert client.close()[0] == 1000
    faulty.wait_log("ArithmeticError: cannot dispose$")
    with RawClient.connect(faulty, "dispose") as client:
        client.send_text("again")
        assert client.receive_text() == "again"


def test_who_comes_after_a_room_was_closed_gets_a_fresh_one(faulty: ServerProcess) -> None:
    for _ in range(20):
        with RawClient.connect(faulty, "again") as client:
            client.send_text("close")
            assert client.receive_text() == "close"
            assert client.wait_close() == (4001, "asked to")


@pytest.mark.slow
def test_a_hundred_ticks_of_a_real_clock_do_not_drift(folder: Path) -> None:
    with serve("parlour:Metronome", cwd=folder) as server, RawClient.connect(server) as client:
        times = [float(client.receive_text()) for _ in range(120)]
    assert all(before < after for before, after in zip(times, times[1:], strict=False))
    phases = [at % 0.02 for at in times]
    # On a busy machine some are late; the most punctual of forty are not, if nothing drifts.
    assert min(phases[-40:]) < min(phases[:40]) + 0.005
    assert max(times[n] // 0.02 for n in range(120)) >= 119


def test_messages_of_many_arrive_between_ticks_each_in_its_order(folder: Path) -> None:
    count = 3000
    with serve("parlour:Order", cwd=folder) as server, RawClient.connect(server) as watcher:
        clients = [RawClient.connect(server) for _ in range(4)]
        for client in clients:
            client.send_in_background(encode_client_frames(str(n) for n in range(count)))
        heard: dict[int, list[int]] = {}
        while sum(map(len, heard.values())) < 4 * count:
            for number, value in json.loads(watcher.receive_text()):
                heard.setdefault(number, []).append(value)
        assert [*heard.values()] == [[*range(count)]] * 4
        for client in clients:
            client.sock.close()


PARROT = """
import contextlib
import json
from scalesocket import Game

class Parrot(Game):
    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        if isinstance(message, bytes):
            for kind in (bytes, bytearray, memoryview):
                self.room.broadcast(kind(message))
        else:
            self.room.broadcast(json.loads(message)["text"])
            client.send(json.loads(message)["text"])
"""


@pytest.mark.parametrize("options", [(), ("--cache=10",)])
def test_no_text_that_a_game_has_from_a_client_ends_the_room(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """JSON can hold half of a surrogate pair; one client ended the room of all by it."""
    (tmp_path / "parrot.py").write_text(PARROT)
    with (
        serve("parrot:Parrot", *options, cwd=tmp_path) as server,
        RawClient.connect(server) as client,
    ):
        client.send_text(r'{"text":"a\ud800b"}')
        assert [client.receive_text(), client.receive_text()] == ["a?b", "a?b"]
        client.send_binary(b"\xff")  # with --cache only `bytes` could be sent to all
        assert [client.receive_binary() for _ in range(3)] == [b"\xff"] * 3
        with RawClient.connect(server) as late:
            if options:
                assert late.receive_text() == "a?b"
                assert [late.receive_binary() for _ in range(3)] == [b"\xff"] * 3


@pytest.mark.parametrize("options", [(), ("--cache=10",)])
def test_what_is_neither_text_nor_bytes_is_not_sent_to_all(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "parrot.py").write_text(PARROT)
    with (
        serve("parrot:Parrot", *options, cwd=tmp_path, allow_traceback=True) as server,
        RawClient.connect(server) as client,
    ):
        client.send_json({"text": 5})
        assert client.wait_close() == (1011, "the game failed")
        server.wait_log("TypeError: ")


def visit(server: ServerProcess, room: str, rounds: int, seed: int) -> list[str]:
    """Come and go that often, in every way there is; return the rooms that were found."""
    chance = random.Random(seed)
    found = []
    for number in range(rounds):
        with RawClient.connect(server, room) as client:
            client.send_text(str(number))
            inn = client.receive_text()
            assert client.receive_text() == f"{inn} {number}"
            found.append(inn)
            match chance.randrange(4):
                case 0:
                    client.close()
                case 1:
                    client.send_close()
                case 2:
                    client.reset()
    return found


@pytest.mark.slow
def test_who_joins_while_a_room_is_disposed_of_gets_a_fresh_one(folder: Path) -> None:
    """A hook of a game that has ended, or a guest nobody answers, would fail this."""
    with serve("parlour:Inn", cwd=folder) as server:
        found: list[str] = []
        faults: list[BaseException] = []

        def guest(seed: int) -> None:
            try:
                found.extend(visit(server, f"inn-{seed % 2}", 150, seed))
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=guest, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert faults == []
        assert len(found) == 600
        inns = len(set(found))
        assert inns > 20, "rooms ended all the time"
        wait_until(lambda: sum("has closed with 0" in line for line in server.log()) == inns)


@pytest.mark.slow
def test_a_guest_who_returns_at_once_is_never_lost(folder: Path) -> None:
    with serve("parlour:Inn", cwd=folder) as server:
        found = visit(server, "alone", 200, 0)
        assert len(found) == 200


@pytest.mark.slow
def test_the_last_hook_comes_once_when_the_server_stops(folder: Path) -> None:
    with serve("parlour:Inn", cwd=folder) as server:
        with RawClient.connect(server, "one") as first, RawClient.connect(server, "two") as second:
            assert {first.receive_text(), second.receive_text()} == {"1", "2"}
            server.process.terminate()
            assert first.wait_close()[0] == second.wait_close()[0] == 1001
            assert server.wait() == 0
        ended = sorted(line for line in server.log() if "has closed with" in line)
        assert ended == ["inn 1 has closed with 1", "inn 2 has closed with 1"]


@pytest.mark.slow
def test_a_seat_that_was_left_is_free(folder: Path) -> None:
    with serve("parlour:Pair", cwd=folder) as server, RawClient.connect(server) as first:
        for number in range(30):
            with RawClient.connect(server) as second, RawClient.connect(server) as third:
                second.send_text(str(number))
                assert second.receive_text() == str(number)
                with pytest.raises(Closed) as refused:
                    third.receive_text()
                assert refused.value.code == 1013
                second.close()
        first.send_text("still")
        assert first.receive_text() == "still"


def test_the_operator_may_let_in_fewer_than_the_game_would(folder: Path) -> None:
    with serve("--maxclients", "1", "parlour:Pair", cwd=folder) as server:
        with RawClient.connect(server) as first, RawClient.connect(server) as second:
            assert second.wait_close()[0] == 1013
            first.send_text("alone")
            assert first.receive_text() == "alone"


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1_000_000])
def test_text_and_bytes_of_any_length_pass_both_ways(folder: Path, size: int) -> None:
    with serve("parlour:Sizes", cwd=folder) as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames(["x" * size]))
        assert client.receive_message() == (TEXT, b"x" * size)
        assert client.receive_message() == (TEXT, b"")
        assert client.receive_text() == f"str {size}"
        client.send_in_background(encode_client_frames([b"\xff" * size], BINARY))
        assert client.receive_message() == (BINARY, b"\xff" * size)
        assert client.receive_message() == (BINARY, b"")
        assert client.receive_text() == f"bytes {size}"


# ==== What every game needs ===============================================


class Counter(Game):
    """Counts by timed calls; what is in a client's query says when to stop."""

    def on_create(self, room: GameRoom) -> None:
        self.room = room
        self.count = 0
        self.stop = room.call_later(1.0, self.tick, repeat=True)
        self.never = room.call_later(1.5, self.tick)
        self.never()

    def tick(self) -> None:
        self.count += 1
        if self.count == 3:
            self.stop()


def test_a_timed_call_can_repeat_and_be_cancelled() -> None:
    with Stage(Counter) as stage:
        for seconds, count in ((0.9, 0), (0.1, 1), (0.9, 1), (0.1, 2), (0.5, 2), (2.0, 3), (5, 3)):
            stage.now += seconds
            stage.backend.handle([])
            assert stage.game.count == count


def test_a_repeated_call_leaves_out_what_was_missed() -> None:
    with Stage(Counter) as stage:
        stage.now += 2.5
        stage.backend.handle([])
        assert stage.game.count == 1
        wait = stage.backend.wait_time()
        assert wait is not None and wait == pytest.approx(1.0)


def test_calls_that_were_cancelled_are_not_kept() -> None:
    """Who moved a time limit with each message kept all the old ones until they were due."""
    with Stage(Counter) as stage:
        room = stage.game.room
        for _ in range(1000):
            cancel = room.call_later(3600.0, stage.game.tick)
            cancel()
            cancel()  # once more does nothing
        assert len(room._calls) == 1
        stage.game.stop()
        assert room.next_call == math.inf
        room.call_later(0.5, lambda: room.call_later(0.0, stage.game.tick)())
        stage.now += 1.0
        stage.backend.handle([])
        assert stage.game.count == 0 and stage.backend.wait_time() is None


NAMES = """
from scalesocket import Game

class Names(Game):
    @classmethod
    def on_auth(cls, request):
        return request.parameters.get("user", "") or True

    def on_create(self, room):
        self.room = room
        self.level = room.request.parameters.get("level", "none")

    def on_join(self, client):
        client.send_json({"name": client.name, "level": self.level})

    def on_message(self, client, message):
        client.name = message
        self.room.broadcast_json([client.name])
"""


@pytest.mark.slow
def test_a_client_has_a_name_and_a_room_the_request_that_opened_it(tmp_path: Path) -> None:
    (tmp_path / "names.py").write_text(NAMES)
    with serve("-vv", "names:Names", cwd=tmp_path) as server:
        first = RawClient.connect(server, path="/x?name=Zo%C3%AB%0A&level=7&level=8")
        with first, RawClient.connect(server, path="/x?level=9") as second:
            assert json.loads(first.receive_text()) == {"name": "Zo\u00eb", "level": "7"}
            assert json.loads(second.receive_text()) == {"name": "player 2", "level": "7"}
            with RawClient.connect(server, path="/x?user=ann&name=bob") as third:
                assert json.loads(third.receive_text())["name"] == "ann"
            for unseen in ("%E3%85%A4", "%E2%80%8B", "%E2%A0%80+%00"):
                with RawClient.connect(server, path=f"/y?name={unseen}") as fourth:
                    assert "player" in json.loads(fourth.receive_text())["name"]
            first.send_text("Max")
            assert second.receive_text() == '["Max"]'
        for line in (""" > '["Max"]'  room=x client=all""", "player 2"):
            wait_until(lambda line=line: any(line in logged for logged in server.log()))
