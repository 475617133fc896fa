"""The small things with locks in them: inbox, history, timer, the pool of ports."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
from scalesocket.net import children, patience
from scalesocket.net.children import PortPool
from scalesocket.net.direct import MAX_QUIET, DirectInbox
from scalesocket.net.history import Archive, LongHistory
from scalesocket.net.linebuffer import PipeBackend
from scalesocket.net.lines import LINES
from scalesocket.net.origins import MAX_TOLD, ToldOnce

import scalesocket
from scalesocket import (
    PLAIN,
    BackendError,
    ConnectionClosed,
    Exited,
    Framing,
    Inbox,
    Left,
    Messages,
    Opcode,
    Poller,
    Role,
    Route,
    ShortageError,
    Unwritten,
    WebSocketProtocol,
    parse_command_line,
)
from tests.fake_room import make_room
from tests.support import free_port, wait_until

PATIENCE = 30  # seconds that a wait may take on a busy machine


class Worker:
    """A thread whose result is asked for, and whose error is the test's."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.result = function(*arguments)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    @property
    def busy(self) -> bool:
        return self.thread.is_alive()

    def join(self) -> Any:
        """Return the function's result, or raise its error."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.result


def event(*what: object) -> Any:
    """Return something to put: an inbox does not look into what is no message."""
    return what


def messages(size: int, client: Any = None, what: bytes = b"x") -> Messages:
    """Return messages of a client that take so many bytes."""
    client = client or SimpleNamespace(departed=False, seat=None)
    run = Messages(Opcode.TEXT, [what], size)
    run.client = client
    return run


# ==== Inbox ===============================================================


def test_all_that_waits_is_taken_at_once_in_order() -> None:
    inbox = Inbox(100)
    batch = [messages(number) for number in range(5)]
    inbox.put_messages(batch[:3])
    inbox.put(event("between"))
    inbox.put_messages(batch[3:])
    assert inbox.size == 10
    assert inbox.take() == [*batch[:3], event("between"), *batch[3:]]
    assert inbox.size == 0
    assert inbox.take(0) == []


def test_taking_waits_for_something_to_come() -> None:
    inbox = Inbox()
    taker = Worker(inbox.take)
    wait_until(lambda: inbox._asleep)
    inbox.put(event("late"))
    assert taker.join() == [event("late")]


@pytest.mark.parametrize("rest", [None, Unwritten(event(), b"rest", whole=False)])
def test_what_comes_while_a_reader_has_the_rooms_place_wakes_the_room_when_it_is_back(
    rest: Unwritten | None,
) -> None:
    inbox, client = DirectInbox(), messages(1).client
    taker = Worker(inbox.take)
    wait_until(lambda: inbox._asleep)
    assert inbox.claim(client) and not inbox.claim(client)
    inbox.put(event("meanwhile"))
    assert taker.busy
    inbox.release(rest)
    assert taker.join() == [*([rest] if rest else []), event("meanwhile")]


def test_what_is_not_urgent_wakes_nobody_until_there_is_much_of_it() -> None:
    """Clients that come and go are not to add up where the program need not hear of them."""
    inbox = DirectInbox()
    taker = Worker(inbox.take)
    wait_until(lambda: inbox._asleep)
    for number in range(MAX_QUIET):
        inbox.put_quietly(event(number))
    assert inbox._asleep
    inbox.put_quietly(event("one more"))
    assert len(taker.join()) == MAX_QUIET + 1


def test_it_is_full_from_its_limit_on_until_it_is_emptied() -> None:
    inbox = Inbox(10)
    inbox.put_messages([messages(4)])
    assert not inbox.is_full
    inbox.put_messages([messages(6)])
    assert inbox.is_full
    inbox.take()
    assert not inbox.is_full


def test_what_came_in_one_read_is_never_cut() -> None:
    """It has been taken from the socket, so there is no way back."""
    inbox = Inbox(10)
    batch = [messages(1000), messages(1000)]
    inbox.put_messages(batch)
    assert inbox.is_full
    assert inbox.take() == batch


def test_events_without_bytes_come_into_a_full_inbox() -> None:
    """A client that leaves must get through to a room that is full."""
    inbox = Inbox(10)
    full = messages(11)
    inbox.put_messages([full])
    assert inbox.put(event("left"))
    assert inbox.take() == [full, event("left")]


def test_who_waits_for_room_is_told_once() -> None:
    inbox = Inbox(10)
    told: list[int] = []
    inbox.when_freed(lambda: told.append(0))
    assert told == [0], "there was room"
    inbox.put_messages([messages(10)])
    for number in (1, 2):
        inbox.when_freed(lambda number=number: told.append(number))  # type: ignore[misc]
    inbox.put_messages([messages(10)])
    assert told == [0]
    inbox.take()
    assert sorted(told) == [0, 1, 2]
    inbox.put_messages([messages(10)])
    inbox.take()
    assert len(told) == 3


def test_closing_tells_those_who_wait_for_room() -> None:
    inbox = Inbox(10)
    told: list[str] = []
    inbox.put_messages([full := messages(10)])
    inbox.when_freed(lambda: told.append("freed"))
    inbox.close()
    assert told == ["freed"]
    inbox.when_freed(lambda: told.append("at once"))
    assert told == ["freed", "at once"]
    assert inbox.take() == [full]


def test_closing_wakes_the_one_who_waits_to_take() -> None:
    inbox = Inbox()
    taker = Worker(inbox.take)
    wait_until(lambda: inbox._asleep)
    inbox.close()
    assert taker.join() == []


def test_a_closed_inbox_takes_nothing() -> None:
    inbox = Inbox()
    inbox.put(event(1))
    inbox.close()
    inbox.close()
    assert inbox.put(event(2)) is False
    inbox.put_messages([messages(3)])
    assert inbox.take() == [event(1)]
    assert inbox.take(0) == []


def test_many_writers_lose_nothing_keep_their_order_and_stay_near_the_limit() -> None:
    """Each puts no more while it is full, as a reader does."""
    inbox = Inbox(100)
    writers, count = 4, 2000
    clients = [SimpleNamespace(departed=False, seat=None, name=name) for name in range(writers)]
    sizes = [random.Random(seed) for seed in range(writers)]

    def write(name: int) -> None:
        for number in range(count):
            freed = threading.Event()
            inbox.when_freed(freed.set)
            assert freed.wait(PATIENCE), "nobody has taken anything"
            size = sizes[name].randint(1, 60)
            inbox.put_messages([messages(size, clients[name], b"%d" % number)])

    threads = [Worker(write, name) for name in range(writers)]
    found: list[Any] = []
    while len(found) < writers * count:
        batch = inbox.take(PATIENCE)
        assert batch, "a writer hangs"
        assert sum(e.size for e in batch if isinstance(e, Messages)) < 100 + writers * 60
        found += batch
    for thread in threads:
        thread.join()
    for client in clients:
        numbers = [int(e.payloads[0]) for e in found if e.client is client]
        assert numbers == list(range(count))
    assert inbox.size == 0


def in_rounds(count: int, *jobs: Callable[[int], None], check: Callable[[int], None]) -> None:
    """Run the jobs at the same moment, each on its thread, `count` times, and check each time."""
    barrier = threading.Barrier(len(jobs) + 1)

    def repeat(job: Callable[[int], None]) -> None:
        for number in range(count):
            barrier.wait(PATIENCE)
            job(number)
            barrier.wait(PATIENCE)

    workers = [Worker(repeat, job) for job in jobs]
    try:
        for number in range(count):
            barrier.wait(PATIENCE)
            barrier.wait(PATIENCE)
            check(number)
    except threading.BrokenBarrierError:
        pass  # the worker that broke it says why
    except BaseException:
        barrier.abort()
        raise
    for worker in workers:
        if not isinstance(worker.error, threading.BrokenBarrierError):
            worker.join()


@pytest.mark.slow
def test_whatever_was_put_before_the_end_is_found_before_the_end() -> None:
    rounds = 1500
    inboxes = [Inbox(20) for _ in range(rounds)]
    accepted: list[list[int]] = [[0, 0] for _ in range(rounds)]
    found: list[list[Any]] = [[] for _ in range(rounds)]

    def write(number: int, who: int) -> None:
        while inboxes[number].put(event(who)):
            accepted[number][who] += 1

    def take(number: int) -> None:
        while not inboxes[number].closed.is_set() or inboxes[number].events:
            found[number] += inboxes[number].take()

    def check(number: int) -> None:
        for who in (0, 1):
            assert found[number].count(event(who)) == accepted[number][who]
        assert inboxes[number].take(0) == []

    jobs = [lambda n: write(n, 0), lambda n: write(n, 1), take, lambda n: inboxes[n].close()]
    in_rounds(rounds, *jobs, check=check)


def test_nothing_comes_from_a_client_that_has_left() -> None:
    """It was kicked while what it had said was on its way from its reader."""
    inbox = Inbox(100)
    client: Any = SimpleNamespace(departed=False, seat=None)
    inbox.put_messages([messages(90, client)])
    client.departed = True
    inbox.put(Left(client, 1000))
    inbox.put_messages([messages(90, client), other := messages(1)])
    assert [type(found) for found in inbox.take()] == [Messages, Left, Messages]
    assert inbox.take(0) == []
    inbox.put_messages([other])
    assert inbox.take() == [other]


# ==== LongHistory =============================================================


def route(to: tuple[int, ...] | None = None, cached: bool | None = None) -> Route:
    return Route(Opcode.TEXT, [b"x"], to, cached=cached)


def replay(history: LongHistory) -> list[bytes]:
    """Return the messages that a newcomer would get, however it takes them."""
    (frames,) = [history.replay(PLAIN)]
    protocol = WebSocketProtocol(Role.CLIENT, max_message=100)
    found = [p for e in protocol.receive(frames) if isinstance(e, Messages) for p in e.payloads]
    assert history.replay(LINES).split(b"\n")[:-1] in (found, found[:-1])  # binary is no line
    return found


def test_a_history_keeps_the_last_messages_in_order() -> None:
    history = LongHistory(3, tagged=False, archive=Archive())
    assert replay(history) == []
    history.add(Opcode.TEXT, [b"1", b"2"])
    assert replay(history) == [b"1", b"2"]
    history.add(Opcode.TEXT, [b"3", b"4", b"5"])
    assert replay(history) == [b"3", b"4", b"5"]


def test_a_history_keeps_what_everyone_may_see() -> None:
    history = LongHistory(1, tagged=False, archive=Archive())
    assert history.wants(route())
    assert history.wants(route(cached=False))
    assert history.wants(route(cached=True))
    assert not history.wants(route(to=(1,)))
    assert not history.wants(route(to=()))
    assert not history.wants(route(to=(1,), cached=True))


def test_a_tagged_history_keeps_what_is_marked() -> None:
    history = LongHistory(1, tagged=True, archive=Archive())
    assert history.wants(route(cached=True))
    assert not history.wants(route(cached=False))
    assert not history.wants(route())
    assert not history.wants(route(to=(1,), cached=True))


# ==== Timer ===============================================================


def test_calls_come_in_the_order_of_their_times(
    timer: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    done = threading.Event()
    real = scalesocket.time.monotonic
    now = real()
    monkeypatch.setattr(scalesocket.time, "monotonic", lambda: now)  # all are asked for at once
    for seconds, name in ((0.15, "late"), (0.05, "early"), (0.1, "between"), (0.0, "at once")):
        timer.call_later(seconds, lambda name=name: called.append(name))
    timer.call_later(0.2, done.set)
    monkeypatch.setattr(scalesocket.time, "monotonic", real)
    assert done.wait(PATIENCE)
    assert called == ["at once", "early", "between", "late"]


def test_calls_of_the_same_time_keep_their_order(
    timer: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    real = scalesocket.time.monotonic
    now = real()
    monkeypatch.setattr(scalesocket.time, "monotonic", lambda: now)
    for number in range(20):
        timer.call_later(0.01, lambda number=number: called.append(number))
    monkeypatch.setattr(scalesocket.time, "monotonic", real)
    wait_until(lambda: len(called) == 20, PATIENCE)
    assert called == list(range(20))


def test_an_earlier_call_overtakes_the_one_that_is_waited_for(timer: Poller) -> None:
    called = threading.Event()
    timer.call_later(3600, lambda: None)
    timer.call_later(0, called.set)
    assert called.wait(PATIENCE)


def test_a_call_may_ask_for_the_next(timer: Poller) -> None:
    done = threading.Event()

    def count(left: int) -> None:
        if not left:
            done.set()
            return
        timer.call_later(0, lambda: count(left - 1))

    count(100)
    assert done.wait(PATIENCE)


def test_a_call_that_fails_takes_no_other_along(
    timer: Poller, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("scalesocket"), "propagate", True)
    called = threading.Event()
    timer.call_later(0, lambda: 1 // 0)
    timer.call_later(0, called.set)
    assert called.wait(PATIENCE)
    assert "ZeroDivisionError" in caplog.text


def test_a_shortage_that_a_call_meets_is_told_once_and_is_no_bug(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("scalesocket"), "propagate", True)

    def run_out() -> None:
        raise ShortageError("no thread left")

    poller = Poller("poller")
    with caplog.at_level(logging.INFO, "scalesocket"):
        assert poller._do(run_out) and poller._do(run_out)
    assert caplog.messages == ["no thread left"]


@pytest.mark.parametrize("what", ["start_thread", "selectors.DefaultSelector"])
def test_a_poller_that_cannot_start_says_so_and_keeps_no_socket(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Its caller reads the client elsewhere."""

    def run_out(*_: object) -> NoReturn:
        raise ShortageError("nothing left")

    monkeypatch.setattr(f"scalesocket.{what}", run_out)
    poller = Poller("poller")
    with pytest.raises(ShortageError):
        poller.start()
    assert poller._wake_up.fileno() == poller._waker.fileno() == -1


def test_a_stopped_timer_calls_nothing_and_ends() -> None:
    timer = Poller("timer")
    timer.start()
    called: list[int] = []
    timer.call_later(2 * PATIENCE, lambda: called.append(1))
    timer.stop()
    timer.call_later(0, lambda: called.append(2))
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "timer"], PATIENCE)
    assert called == []


# ==== Ports ===============================================================


def test_each_port_is_given_to_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "ROOM_TIMEOUT", 0.05)
    port = free_port()
    pool = PortPool(port, port)
    assert pool.take() == port
    with pytest.raises(ConnectionClosed, match=str(port)) as caught:
        pool.take()
    assert caught.value.code == 1013
    pool.give_back(port)
    assert pool.take() == port


def test_a_port_that_someone_else_listens_on_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "ROOM_TIMEOUT", 0.05)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        pool = PortPool(port, port)
        with pytest.raises(ConnectionClosed):
            pool.take()
        assert len(pool) == 1
    assert pool.take() == port


def test_the_port_that_was_used_last_comes_last() -> None:
    """So that a new child does not meet the connections of the one before."""
    first = free_port()
    pool = PortPool(first, min(first + 20, 65535))
    port = pool.take()
    pool.give_back(port)
    assert pool.take() != port


def test_one_who_waits_gets_the_port_that_comes_back() -> None:
    port = free_port()
    pool = PortPool(port, port)
    pool.take()
    waiter = Worker(pool.take)
    wait_until(lambda: pool._changed._waiters)
    pool.give_back(port)
    assert waiter.join() == port


def test_one_who_waits_goes_on_waiting_when_another_is_quicker() -> None:
    port = free_port()
    pool = PortPool(port, port)
    pool.take()
    waiter = Worker(pool.take)
    wait_until(lambda: pool._changed._waiters)
    with pool._changed:  # the waiter is woken, but cannot look before the port has gone again
        pool.give_back(port)
        assert pool.take() == port
    wait_until(lambda: pool._changed._waiters or not waiter.busy)
    pool.give_back(port)
    assert waiter.join() == port


def test_ports_are_never_shared_and_always_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """More takers than ports: each waits for its turn, and none is refused while some come back."""
    monkeypatch.setattr(children, "ROOM_TIMEOUT", 20.0)
    monkeypatch.setattr(PortPool, "_is_usable", staticmethod(lambda port: True))
    pool = PortPool(5000, 5002)
    taken: set[int] = set()
    lock = threading.Lock()

    def use() -> None:
        for _ in range(500):
            port = pool.take()
            with lock:
                assert port not in taken
                taken.add(port)
            with lock:
                taken.remove(port)
            pool.give_back(port)

    for worker in [Worker(use) for _ in range(8)]:
        worker.join()
    assert len(pool) == 3
    assert {pool.take() for _ in range(3)} == {5000, 5001, 5002}


# ==== What a reader hands over ============================================


def test_the_next_child_gets_what_the_last_had_not_begun_to_read() -> None:
    backend: Any = PipeBackend(parse_command_line(["--respawn", "cat"]))
    here: Any = SimpleNamespace(id=1)
    gone: Any = SimpleNamespace(id=2)
    written: list[bytes] = []
    backend._present = {1: here}
    backend._after_exit = lambda: None
    backend._write = written.append
    backend.handle(
        [
            Unwritten(here, b"whole\n", whole=True),
            Unwritten(here, b"lf of one\n", whole=False),
            Unwritten(gone, b"of one who left\n", whole=True),
            Exited(),
        ]
    )
    assert written == [b"whole\n"]


def test_nothing_is_written_while_no_program_can_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The descriptor of the last one's stdin may be a client's socket by now."""
    monkeypatch.setattr(scalesocket, "build_environment", lambda *_: {})
    backend: Any = PipeBackend(parse_command_line(["--respawn", "cat"]))
    here: Any = SimpleNamespace(id=1)
    backend._present = {1: here}
    backend._room, backend._opener = Mock(ending=threading.Event()), here
    backend._room.log.warning = lambda *_: backend._room.ending.set()
    backend._from_child = Framing(report=lambda *_: None)
    backend._start_child = Mock(side_effect=BackendError("Text file busy"))
    backend._child = Mock(popen=Mock(returncode=0), stop=lambda end_input: end_input())
    reader, backend._input = os.pipe()
    os.set_blocking(reader, False)
    backend.handle([Unwritten(here, b"hello\n", whole=True), Exited()])
    assert backend._start_child.call_count == 1
    with pytest.raises(BlockingIOError):
        os.read(reader, 100)
    os.close(reader)
    os.close(backend._input)


def test_a_program_that_often_exits_may_fail_to_start_once_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the pause had come to ten seconds, one start that failed ended the room: its file was
    being replaced."""
    monkeypatch.setattr(scalesocket, "build_environment", lambda *_: {})
    backend: Any = PipeBackend(parse_command_line(["--respawn", "cat"]))
    backend._backoff, backend._started_at = patience.RESPAWN_LAST, time.monotonic()
    waits = Mock(side_effect=[False, False, True])  # the room is closing
    backend._room, backend._opener = Mock(ending=Mock(wait=waits)), Mock()
    backend._from_child = Framing(report=lambda *_: None)
    backend._start_child = Mock(side_effect=BackendError("Text file busy"))
    backend._child = Mock(popen=Mock(returncode=0), stop=lambda end_input: end_input())
    reader, backend._input = os.pipe()
    backend.handle([Exited()])
    assert waits.call_count == 3 and backend._start_child.call_count == 2
    os.close(reader)
    os.close(backend._input)


def test_what_the_child_does_not_take_is_left_and_says_how_much_was() -> None:
    backend: Any = PipeBackend(parse_command_line(["cat"]))
    backend._to_child = Framing(report=lambda *_: None)
    client: Any = SimpleNamespace(id=1)
    reader, backend._input = os.pipe()
    os.set_blocking(backend._input, False)
    long = messages(1_000_000, client, b"x" * 1_000_000)
    part = backend.hand_over(long)
    assert 0 < len(part.data) < 1_000_001 and not part.whole
    assert backend.hand_over(long) == Unwritten(client, b"x" * 1_000_000 + b"\n", whole=True)
    os.close(reader)
    assert backend.hand_over(long).whole
    backend._input_closed = True
    assert backend.hand_over(long) is None
    os.close(backend._input)


# ==== A child that is killed ==============================================


def test_a_child_that_ends_just_as_the_server_kills_it_ends_nothing_else() -> None:
    """The children of other rooms were not killed, and the server ended with a traceback."""
    killed: list[int] = []

    class Ending(PipeBackend):
        """The room's thread is done with the child as soon as the main thread has seen it."""

        @property
        def _child(self) -> Any:
            child, self.child = self.child, None
            return child

        @_child.setter
        def _child(self, child: Any) -> None:
            self.child = child

    backend = Ending(parse_command_line(["cat"]))
    backend.child = SimpleNamespace(signal_group=killed.append)
    backend.kill()
    backend.kill()
    assert killed == [signal.SIGKILL]


# ==== What is logged ======================================================


def test_mistakes_of_strangers_are_logged_once_each_and_not_without_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("scalesocket"), "propagate", True)
    told = ToldOnce()
    mistakes = [f"mistake {number}" for number in range(MAX_TOLD)]
    for text in [mistakes[0], *mistakes, "one more"]:
        told.warn(text)
    assert caplog.messages == mistakes


def test_what_a_room_had_to_drop_is_a_warning_once_for_each_client_and_not_without_end() -> None:
    room: Any = make_room(Mock())
    room.log = Mock()
    for number in [0, *range(1001)]:
        room.report(number, f"no JSON: {number}")
    levels = [call.args[0] for call in room.log.log.call_args_list]
    assert levels == [logging.WARNING, logging.DEBUG, *[logging.WARNING] * 999, logging.DEBUG]
    assert room.traffic.dropped == 1002


# ==== Who leaves ==========================================================


def test_who_leaves_hears_nothing_more_before_the_room_is_told_of_it() -> None:
    """Or a room that echoes at once would tell it of its own leaving."""
    told: list[str] = []
    member: Any = Mock(departed=False)
    member.room = SimpleNamespace(
        clients={member, object()},
        inbox=SimpleNamespace(put=lambda left: told.append("the room")),
        members=SimpleNamespace(remove=lambda client: told.append("the members")),
    )
    registry = scalesocket.RoomRegistry(parse_command_line(["cat"]), Poller("timer"))
    assert registry.release(member, scalesocket.Left(member, 1000))
    assert told[:2] == ["the members", "the room"]
    assert not registry.release(member, scalesocket.Left(member, 1000))
    assert told.count("the room") == 1
