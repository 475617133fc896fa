"""A connection and its poller over a socket pair: order, backlog, the end, and what is left."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from scalesocket.net import presence
from scalesocket.net.console import wait_for
from scalesocket.net.pings import check_peer
from scalesocket.net.presence import POLL_END, probe

import scalesocket
from scalesocket import (
    PLAIN,
    CloseCode,
    Closing,
    Connection,
    Control,
    Event,
    Messages,
    Poller,
    Role,
    WebSocketProtocol,
)
from tests.rooms.test_inbox import PATIENCE, Worker, in_rounds
from tests.support import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawClient,
    encode_client_frame,
    wait_until,
)

encode_message = PLAIN.encode_message

KIB = 1024
BIG = 8 << 20  # bytes: more than any socket's buffers take at once


@dataclass
class Engine:
    """What connections share in a server."""

    poller: Poller

    def waiting(self) -> int:
        """Return how many connections wait for the poller to know them."""
        functions = [function for _, _, function in list(self.poller._calls)]
        return sum(function.__name__ == "watch_backlog" for function in functions)

    def watched(self) -> int:
        """Return how many connections the poller knows, or will know soon."""
        return len(self.poller._selector.get_map()) - 1 + self.waiting()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A poller, which must know nothing any more when the test is over."""
    running = Engine(Poller("poller"))
    running.poller.start()
    yield running
    try:
        wait_until(lambda: running.watched() == 0, PATIENCE, "the poller still watches a socket")
    finally:
        running.poller.stop()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


@contextlib.contextmanager
def connected(
    engine: Engine,
    *,
    tcp: bool = False,
    max_backlog: int = 1 << 20,
    early: bytes = b"",
    response: bytes = b"",
) -> Iterator[tuple[Connection, RawClient]]:
    """Connect a connection and a client that is not ours; both have ended afterwards."""
    ours, theirs = tcp_pair() if tcp else socket.socketpair()
    if not tcp:  # where it would make the peer's delayed acknowledgements felt
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
    connection = Connection(
        ours,
        WebSocketProtocol(Role.SERVER, max_message=1 << 20),
        poller=engine.poller,
        max_backlog=max_backlog,
        early=early,
        response=response,
    )
    client = RawClient(theirs)
    try:
        yield connection, client
    finally:
        connection.dispose()
        theirs.close()
        wait_until(lambda: ours.fileno() == -1, PATIENCE, "the socket has not been closed")


def receive(connection: Connection) -> list[Event] | None:
    """Wait for what comes next, as a thread does that has one connection."""
    while (events := connection.receive()) == []:
        wait_for(connection)
    return events


def drop_the_rest(connection: Connection) -> None:
    """Drop what comes until the connection has ended."""
    while connection.drop_input():
        wait_for(connection)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


# ==== Receiving ===========================================================


def test_what_arrives_becomes_events(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        client.send_text("hello")
        events = connection.receive()
        assert events is not None
        (event,) = events
        assert isinstance(event, Messages)
        assert (event.opcode, event.payloads) == (TEXT, [b"hello"])


def test_what_came_behind_the_handshake_is_read_first(engine: Engine) -> None:
    frame = encode_client_frame(TEXT, b"early")
    with connected(engine, early=frame[:-1]) as (connection, client):
        assert connection.receive() == []
        client.send_bytes(frame[-1:] + encode_client_frame(TEXT, b"late"))
        events = connection.receive()
        assert events is not None
        payloads = [p for e in events if isinstance(e, Messages) for p in e.payloads]
        assert payloads == [b"early", b"late"]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_a_backlog_is_written_though_the_system_could_not_watch_its_socket_at_first(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The system has memory for so many, and each user may watch so many (`max_user_watches`)."""
    selector, failed = engine.poller._selector, []
    register = selector.register

    def fail_once(*args: Any) -> Any:
        if not failed:
            failed.append(args)
            raise OSError(number, os.strerror(number))
        return register(*args)

    monkeypatch.setattr(selector, "register", fail_once)
    with connected(engine) as (connection, client):
        connection.send(bytes(BIG))
        client.sock.settimeout(PATIENCE)
        left = BIG
        while left:
            left -= len(client.sock.recv(64 * KIB))
        assert failed


def test_a_message_for_which_there_is_no_memory_does_not_count_as_waiting(engine: Engine) -> None:
    """The poller looked for it for ever: a busy loop, and a traceback in each round."""

    class Full(list[bytes | bytearray]):
        failures = [MemoryError()]

        def append(self, piece: bytes | bytearray) -> None:
            if self.failures:
                raise self.failures.pop()
            super().append(piece)

    with connected(engine) as (connection, client):
        connection.send(bytes(BIG))
        with connection.lock:
            left = connection.backlog_size
            assert left
            connection._backlog._pieces = Full(connection._backlog._pieces)
            with pytest.raises(MemoryError):
                connection.transmit(b"lost")
            assert connection.backlog_size == left
        client.sock.settimeout(PATIENCE)
        left = BIG
        while left:
            left -= len(client.sock.recv(64 * KIB))
        wait_until(lambda: engine.watched() == 0, PATIENCE, "the poller still watches the socket")
        assert connection.backlog_size == 0


def test_a_peer_that_is_not_read_is_not_taken_for_silent(engine: Engine) -> None:
    """Its room's inbox is full; when it is read again, its silence begins anew."""
    with connected(engine) as (connection, client):
        connection.set_reading(False)
        check_peer(connection, 20.0, time.monotonic() + 3600)
        connection.send(encode_message("still here"))
        assert client.receive_text() == "still here"


def test_a_silent_peer_is_sent_a_ping_and_then_a_close(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        for silence in (20, 30, 40, 41):
            check_peer(connection, 20.0, connection.silent_since + silence)
        assert [client.receive()[0] for _ in range(3)] == [PING, PING, CLOSE]


def test_a_slow_peer_that_takes_what_it_is_sent_is_not_taken_for_silent(engine: Engine) -> None:
    """Who only listens was cut off after two intervals of --ping while there was a backlog."""
    with connected(engine) as (connection, client):
        client.sock.settimeout(PATIENCE)
        connection.send(bytes(BIG))
        left, waiting = BIG, connection.backlog_size
        connection.silent_since -= 60
        while connection.backlog_size == waiting:
            left -= len(client.sock.recv(64 * KIB))
        check_peer(connection, 20.0, time.monotonic())
        assert connection.is_full and not connection.is_closing
        while left:
            left -= len(client.sock.recv(64 * KIB))
        wait_until(lambda: not connection.backlog_size)
        check_peer(connection, 20.0, time.monotonic())
        assert not connection.is_closing
        check_peer(connection, 20.0, time.monotonic() + 60)
        assert connection.is_closing  # it was silent, and nothing waited for it


def test_a_peer_that_waits_for_our_response_is_not_taken_for_silent(engine: Engine) -> None:
    """It may wait for --auth for longer than two intervals of --ping."""
    with connected(engine, response=b"101\r\n\r\n") as (connection, _):
        connection.silent_since -= 60
        check_peer(connection, 20.0, time.monotonic())
        assert not connection.is_closing
        connection.open()
        check_peer(connection, 20.0, time.monotonic())
        assert not connection.is_closing
        check_peer(connection, 20.0, time.monotonic() + 60)
        assert connection.is_closing


def test_a_ping_is_answered_with_its_payload(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        client.ping(b"abc")
        assert connection.receive() == [Control(PING, b"abc")]
        assert client.receive() == (PONG, b"abc")


def test_a_peer_that_pings_and_does_not_read_costs_no_memory(engine: Engine) -> None:
    with connected(engine, max_backlog=1000) as (connection, client):
        connection.send(bytes(BIG))
        size = connection.backlog_size
        for _ in range(100):
            client.ping(bytes(125))
            connection.receive()
        assert connection.backlog_size <= size


def test_the_end_of_the_peer_is_the_end_of_receiving(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        client.sock.close()
        assert connection.receive() is None


def test_nothing_is_waited_for(engine: Engine) -> None:
    """One thread reads many: whoever has sent nothing must not hold up the others."""
    with connected(engine) as (connection, _):
        assert connection.receive() == []
        assert connection.drop_input()


def test_an_abort_wakes_the_reader(engine: Engine) -> None:
    with connected(engine) as (connection, _):
        reader = Worker(receive, connection)
        connection.abort()
        assert reader.join() is None
        assert connection.send(b"x") is False


# ==== Sending =============================================================


@pytest.mark.parametrize("tcp", [False, True])
def test_many_threads_write_whole_frames_in_their_own_order(engine: Engine, tcp: bool) -> None:
    """A frame that another thread's bytes got into would not parse."""
    writers, count = 6, 60

    def write(connection: Connection, name: int) -> None:
        for number in range(count):
            size = (0, 3, 120, 130, 3000, 70_000)[(name + number) % 6]
            text = f"{name} {number} " + "x" * size
            if number % 5 == 0:  # a batch, as a fan-out sends it
                assert connection.send(encode_message(text) + encode_message(f"{name} also"))
            else:
                assert connection.send(encode_message(text))

    with connected(engine, tcp=tcp, max_backlog=1 << 30) as (connection, client):
        threads = [Worker(write, connection, name) for name in range(writers)]
        total = writers * (count + count // 5)
        messages = [m.decode().split(" ") for m in client.receive_many(total)]
        for thread in threads:
            thread.join()
        for name in range(writers):
            own = [message for message in messages if message[0] == str(name)]
            numbers = [message[1] for message in own if message[1] != "also"]
            assert numbers == [str(number) for number in range(count)]
            assert all(
                later[1] == "also"
                for first, later in zip(own, own[1:], strict=False)
                if first[1] != "also" and int(first[1]) % 5 == 0
            )
        wait_until(lambda: connection.backlog_size == 0)
        wait_until(lambda: engine.watched() == 0)


def test_what_the_socket_does_not_take_waits_and_is_sent_later(engine: Engine) -> None:
    payload = os.urandom(BIG)
    with connected(engine) as (connection, client):
        assert connection.send(encode_message(payload))
        assert connection.send(encode_message("after"))
        assert BIG > connection.backlog_size > BIG - (4 << 20)
        assert connection.is_full
        assert client.receive_message(PATIENCE) == (BINARY, payload)
        assert client.receive_text() == "after"
        wait_until(lambda: connection.backlog_size == 0)
        assert not connection.is_full


def test_a_connection_returns_to_the_poller_as_often_as_it_must(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        for number in range(20):
            connection.send(encode_message(bytes([number]) * (1 << 20)))
            opcode, payload = client.receive_message(PATIENCE)
            assert payload == bytes([number]) * (1 << 20)


def test_nothing_is_sent_before_the_response_of_the_handshake(engine: Engine) -> None:
    """A room may have something for a client as soon as it has its seat."""
    with connected(engine, response=b"101\r\n\r\n") as (connection, client):
        assert connection.send(encode_message("early"))
        assert connection.send(encode_message("x" * 200_000))
        connection.close(4000, "full")
        assert connection.send(encode_message("late")) is False
        client.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.sock.recv(1)
        connection.open()
        client.sock.settimeout(PATIENCE)
        assert client.sock.recv(7) == b"101\r\n\r\n"
        client.sock.setblocking(False)
        assert client.receive_text() == "early"
        assert client.receive_text() == "x" * 200_000
        assert client.receive() == (CLOSE, struct.pack("!H", 4000) + b"full")


def test_what_is_sent_before_a_connection_without_a_response_opens_is_sent_once(
    engine: Engine,
) -> None:
    """A room may have much for a client of --tcplisten as soon as it has its seat."""
    data = os.urandom(BIG)
    with connected(engine) as (connection, client):
        connection.send(data)
        waiting = connection.backlog_size
        client.sock.settimeout(PATIENCE)
        with client.sock.makefile("rb") as stream:
            assert stream.read(64 * KIB) == data[: 64 * KIB]
            wait_until(lambda: connection.backlog_size < waiting, PATIENCE)  # it has gone on
            connection.open()
            assert stream.read(BIG - 64 * KIB) == data[64 * KIB :]


def test_a_connection_that_ends_before_its_response_opens_quietly(engine: Engine) -> None:
    with connected(engine, response=b"101\r\n\r\n") as (connection, client):
        connection.send(encode_message("early"))
        connection.abort()
        connection.open()
        assert connection.send(b"x") is False
        assert connection.receive() is None


@pytest.mark.parametrize("tcp", [False, True])
def test_a_backlog_of_messages_of_all_sizes_is_sent_as_it_came(engine: Engine, tcp: bool) -> None:
    sizes = [1, 0, 100, 16_000, 16_500, 3, 70_000, 65_530, 5, 0, 1] * 40
    frames = [encode_message(bytes([n % 256]) * size) for n, size in enumerate(sizes)]
    with connected(engine, tcp=tcp) as (connection, client):
        connection.send(encode_message(bytes(BIG)))
        before = connection.backlog_size
        for frame in frames[:100]:
            connection.send(frame)
        assert connection.backlog_size <= before + sum(map(len, frames[:100]))
        assert client.receive_message(PATIENCE) == (BINARY, bytes(BIG))
        for frame in frames[100:]:
            connection.send(frame)
        found = client.receive_many(len(frames))
        assert found == [bytes([n % 256]) * size for n, size in enumerate(sizes)]
        wait_until(lambda: connection.backlog_size == 0)


@pytest.mark.slow
def test_many_short_frames_in_a_backlog_cost_about_their_bytes(engine: Engine) -> None:
    with connected(engine, max_backlog=1 << 30) as (connection, _):
        connection.send(bytes(BIG))
        frame = encode_message("tick")
        tracemalloc.start()
        try:
            for _ in range(100_000):
                connection.send(frame)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 3 * 100_000 * len(frame)


def test_a_slow_client_does_not_hold_up_another(engine: Engine) -> None:
    with connected(engine) as (slow, _), connected(engine) as (quick, client):
        slow.send(bytes(BIG))
        for number in range(20):
            quick.send(encode_message(bytes([number]) * (1 << 20)))
            assert client.receive_message(PATIENCE)[1][0] == number
        assert slow.backlog_size > 0


# ==== Waiting for a slow client ===========================================


def test_one_who_waits_is_woken_when_the_client_has_read_enough(engine: Engine) -> None:
    with connected(engine, max_backlog=1000) as (connection, client):
        connection.send(encode_message(bytes(BIG)))
        waiter = Worker(connection.wait_while_full, 3600.0)
        wait_until(lambda: connection._freed is not None)
        assert waiter.busy
        client.receive_message(PATIENCE)
        assert waiter.join() is True


def test_nobody_waits_for_a_client_that_keeps_up(engine: Engine) -> None:
    with connected(engine, max_backlog=1000) as (connection, _):
        assert connection.wait_while_full(0) is True


@pytest.mark.parametrize("stall", [0, 0.1])
def test_a_client_that_takes_nothing_is_given_up(engine: Engine, stall: float) -> None:
    with connected(engine, max_backlog=1000) as (connection, _):
        connection.send(bytes(BIG))
        assert connection.wait_while_full(stall) is False


def test_nobody_is_given_up_before_our_response(engine: Engine) -> None:
    """A newcomer with a history is looked after from when it has its seat."""
    with connected(engine, response=b"101\r\n\r\n") as (connection, _):
        connection.send(bytes(BIG))
        assert connection.has_stalled(0) is False
        connection.open()
        assert connection.has_stalled(0) is True


def test_several_may_wait_for_one_client(engine: Engine) -> None:
    """The pump and the stderr thread may, with --passstderr."""
    with connected(engine, max_backlog=1000) as (connection, client):
        connection.send(encode_message(bytes(BIG)))
        waiters = [Worker(connection.wait_while_full, 3600.0) for _ in range(3)]
        client.receive_message(PATIENCE)
        assert [waiter.join() for waiter in waiters] == [True] * 3


@pytest.mark.parametrize("end", ["abort", "dispose", "close and discard", "end of the peer"])
def test_one_who_waits_is_woken_when_there_is_nothing_left_to_wait_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(scalesocket, "CLOSE_TIMEOUT", 3600.0)
    with connected(engine, max_backlog=100_000) as (connection, client):
        while not connection.is_full:  # in small parts, of which a close may leave one
            connection.send(encode_message("x" * 1000))
        waiter = Worker(connection.wait_while_full, 3600.0)
        wait_until(lambda: connection._freed is not None)
        if end == "abort":
            connection.abort()
        elif end == "dispose":
            connection.dispose()
        elif end == "end of the peer":
            client.sock.close()
        else:
            connection.close(1008, "too slow", discard=True)
            assert connection.backlog_size < 100_000
        try:
            wait_until(lambda: not waiter.busy, message="the waiter still waits")
            assert waiter.join() is True
        finally:
            connection.abort()
            waiter.join()


# ==== Closing =============================================================


def test_a_close_has_its_code_and_reason_and_nothing_follows_it(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        connection.send(encode_message("last"))
        connection.close(4000, "why")
        assert connection.send(encode_message("late")) is False
        connection.close(4001, "again")
        client.ping(b"late")
        assert receive(connection) == [Control(PING, b"late")]  # which gets no pong
        assert client.receive_text() == "last"
        assert client.receive() == (CLOSE, struct.pack("!H", 4000) + b"why")
        client.send_close(4000)
        (closing,) = receive(connection) or []
        assert closing == Closing(4000, "", failed=False)
        connection.answer(closing)
        with pytest.raises(EOFError):
            client.receive()


def test_a_close_of_the_peer_is_answered_with_its_code_and_the_server_hangs_up_first(
    engine: Engine,
) -> None:
    with connected(engine) as (connection, client):
        client.send_close(4321, "bye")
        (closing,) = receive(connection) or []
        assert isinstance(closing, Closing)
        connection.answer(closing)
        assert client.receive() == (CLOSE, struct.pack("!H", 4321))
        with pytest.raises(EOFError):
            client.receive()


def test_a_peer_that_broke_the_protocol_gets_everything_before_its_close(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        payload = os.urandom(1 << 20)
        connection.send(encode_message(payload))
        client.send_frame(TEXT, b"\xff")
        (closing,) = receive(connection) or []
        assert isinstance(closing, Closing)
        connection.answer(closing)
        assert client.receive_message(PATIENCE) == (BINARY, payload)
        assert client.receive()[1][:2] == struct.pack("!H", CloseCode.INVALID_DATA)
        with pytest.raises(EOFError):
            client.receive()


def read_to_the_end(connection: Connection) -> None:
    """Do what a reader thread does: receive, answer the Close, drain."""
    while (events := receive(connection)) is not None:
        for event in events:
            if isinstance(event, Closing):
                connection.answer(event)
                drop_the_rest(connection)
                return


def test_a_close_comes_after_the_whole_backlog(engine: Engine) -> None:
    payload = os.urandom(BIG)
    with connected(engine) as (connection, client):
        connection.send(encode_message(payload))
        for number in range(100):
            connection.send(encode_message(f"{number}"))
        connection.close(1000)
        assert client.receive_message(PATIENCE) == (BINARY, payload)
        assert [client.receive_text() for _ in range(100)] == [str(n) for n in range(100)]
        reader = Worker(read_to_the_end, connection)
        assert client.wait_close() == (1000, "")
        reader.join()


def test_a_close_that_discards_leaves_whole_frames(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        first = os.urandom(BIG)
        connection.send(encode_message(first))
        for _ in range(1000):
            connection.send(encode_message("dropped"))
        connection.close(1008, "too slow", discard=True)
        assert connection.backlog_size < BIG + 100
        assert client.receive_message(PATIENCE) == (BINARY, first)
        assert client.receive() == (CLOSE, struct.pack("!H", 1008) + b"too slow")


def test_an_abnormal_end_is_not_answered(engine: Engine) -> None:
    with connected(engine) as (connection, client):
        connection.answer(Closing(CloseCode.ABNORMAL, "connection lost", failed=False))
        with pytest.raises(EOFError):
            client.receive()


def test_a_peer_that_never_answers_a_close_is_cut_off(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalesocket, "CLOSE_TIMEOUT", 0.1)
    with connected(engine) as (connection, client):
        connection.close(1001)
        assert receive(connection) is None
        assert client.receive()[0] == CLOSE
        with pytest.raises(EOFError):
            client.receive()


def test_what_is_dropped_at_the_end_is_dropped_for_a_while_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalesocket, "CLOSE_TIMEOUT", 0.1)
    with connected(engine) as (connection, client):
        client.send_text("dropped")
        drop_the_rest(connection)
        assert connection.send(b"x") is False


def test_a_peer_that_sends_for_ever_after_a_close_is_cut_off(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalesocket, "CLOSE_TIMEOUT", 0.1)
    with connected(engine) as (connection, client):
        client.send_close()
        (closing,) = receive(connection) or []
        assert isinstance(closing, Closing)
        connection.answer(closing)
        client.send_in_background(encode_client_frame(BINARY, bytes(1000)) * 100_000)
        drop_the_rest(connection)
        assert connection.send(b"x") is False
        client._end()


# ==== Races ===============================================================


def receive_all(client: RawClient) -> list[tuple[int, bytes]]:
    """Return every frame until the end of the stream, which must come between two frames."""
    frames = []
    try:
        while True:
            frames.append(client.receive(PATIENCE))
    except EOFError as error:
        assert "; 0 bytes were left over" in str(error)
    return frames


def race_to_close(
    engine: Engine, rounds: int, prepare: Callable[[Connection], None], discard: bool
) -> None:
    """Close, answer, send and close again at once; whoever wins, one Close is the last frame."""
    pairs: list[tuple[Connection, RawClient]] = []
    sent = [0]
    ours: list[socket.socket] = []

    def setup() -> None:
        mine, theirs = socket.socketpair()
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * KIB)
        protocol = WebSocketProtocol(Role.SERVER, max_message=100)
        connection = Connection(mine, protocol, poller=engine.poller, max_backlog=1 << 20)
        prepare(connection)
        ours[:] = [mine]
        pairs[:] = [(connection, RawClient(theirs))]
        sent[0] = 0

    def send(_: int) -> None:
        for _ in range(4):
            sent[0] += pairs[0][0].send(encode_message("text"))

    def check(_: int) -> None:
        connection, client = pairs[0]
        frames = receive_all(client)
        codes = [payload[:2] for opcode, payload in frames if opcode == CLOSE]
        assert len(codes) == 1
        assert frames[-1][0] == CLOSE
        assert struct.unpack("!H", codes[0])[0] in (1001, 1000, 1008)
        texts = frames.count((TEXT, b"text"))
        assert texts <= sent[0] if discard else texts == sent[0]
        connection.dispose()
        client.sock.close()
        wait_until(lambda: ours[0].fileno() == -1)
        setup()

    setup()
    in_rounds(
        rounds,
        lambda _: pairs[0][0].close(1001),
        lambda _: pairs[0][0].answer(Closing(1000, "", failed=False)),
        lambda _: pairs[0][0].close(1008, "slow", discard=discard),
        send,
        check=check,
    )
    connection, client = pairs[0]
    connection.dispose()
    client.sock.close()


@pytest.mark.slow
def test_one_close_is_sent_whoever_wants_to_close(engine: Engine) -> None:
    race_to_close(engine, 1500, lambda connection: None, False)


@pytest.mark.parametrize("discard", [False, True])
def test_one_close_is_sent_after_a_backlog_too(engine: Engine, discard: bool) -> None:
    def fill(connection: Connection) -> None:
        frame = encode_message("x" * 1000)
        while connection.backlog_size < 20_000:
            connection.send(frame)

    race_to_close(engine, 200, fill, discard)


def test_a_socket_is_disposed_of_while_the_poller_holds_it(engine: Engine) -> None:
    """Neither the selector nor the descriptor may outlive the connection."""
    before = descriptors()
    for number in range(80):
        with connected(engine, tcp=number % 2 == 0) as (connection, client):
            connection.send(encode_message("x" * 1_000_000))
            if number % 3 == 0:
                client.reset()
            if number % 5 == 0:
                wait_until(lambda: not engine.waiting())
    wait_until(lambda: descriptors() <= before)  # a socket has no number just before it is closed


@pytest.mark.slow
def test_descriptors_that_are_used_again_get_nobody_elses_bytes(engine: Engine) -> None:
    """Writers go on while their connection is disposed of and its number is given to the next."""
    current: list[Connection] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for connection in list(current):
                mark = str(id(connection))
                connection.send(encode_message(mark * 200))

    writers = [Worker(write) for _ in range(3)]
    try:
        for number in range(60):
            with connected(engine, tcp=number % 2 == 0) as (connection, client):
                current[:] = [connection]
                mark = str(id(connection)).encode()
                for _ in range(3):
                    assert client.receive_message(PATIENCE) == (TEXT, mark * 200)
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_a_peer_may_reset_the_connection_at_any_moment(engine: Engine) -> None:
    frame = encode_message("x" * 5000)

    def write(connection: Connection) -> None:
        for _ in range(100_000):
            if not connection.send(frame):
                return
            connection.wait_while_full(PATIENCE)
        raise AssertionError("the connection did not end")

    for number in range(40):
        with connected(engine, tcp=True, max_backlog=50_000) as (connection, client):
            writers = [Worker(write, connection) for _ in range(2)]
            reader = Worker(receive, connection)
            for _ in range(number % 4):
                client.receive_message(PATIENCE)
            client.reset()
            assert reader.join() is None
            for writer in writers:
                writer.join()
            assert connection.backlog_size == 0


def test_after_the_poller_has_stopped_sending_raises_nothing() -> None:
    """At shutdown a pump may be in the middle of a fan-out."""
    engine = Engine(Poller("poller"))
    engine.poller.start()
    ours, theirs = socket.socketpair()
    protocol = WebSocketProtocol(Role.SERVER, max_message=100)
    connection = Connection(ours, protocol, poller=engine.poller, max_backlog=1000)
    engine.poller.stop()
    try:
        connection.send(bytes(BIG))
        connection.close(1001)
    finally:
        connection.dispose()
        ours.close()
        theirs.close()


# ==== Is the peer still there? ============================================


def test_a_peer_that_is_there_is_not_disturbed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "ABANDON_TIMEOUT", 0.0)  # at once, not after a while
    with connected(engine, tcp=True) as (connection, client):
        client.send_text("read")
        assert receive(connection)
        connection.set_reading(False)
        for _ in range(3):
            assert probe(connection)
        connection.send(encode_message("x"))
        assert client.receive_text() == "x"  # a pong on the way is passed over


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "not shown"])
def test_a_peer_that_has_gone_is_noticed_though_nobody_reads(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    """Its connection ends, too, so that its reader learns of it, and it leaves its room."""
    monkeypatch.setattr(presence, "ABANDON_TIMEOUT", 0.0)  # at once, not after a while
    with connected(engine, tcp=True) as (connection, client):
        client.send_text("read")
        assert receive(connection)
        connection.set_reading(False)
        client.send_text("unread")
        if not shown:  # by the system: then only the reset that answers a Pong tells
            monkeypatch.setattr(presence, "POLL_BROKEN", 0)
        assert probe(connection)
        client.sock.close()
        wait_until(lambda: not probe(connection), PATIENCE)
        wait_until(lambda: not (probe(connection) or connection.is_alive()), PATIENCE)


@pytest.mark.skipif(not POLL_END, reason="this system does not show it")
def test_a_peer_that_has_ended_its_side_counts_as_gone_though_nobody_reads(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "ABANDON_TIMEOUT", 0.0)
    with connected(engine, tcp=True) as (connection, client):
        connection.set_reading(False)
        client.send_text("unread")
        assert probe(connection)
        client.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: not probe(connection), PATIENCE)
        assert connection.is_alive()  # it may still be sent what waits


def test_a_peer_that_is_listened_to_needs_no_probe(engine: Engine) -> None:
    with connected(engine, tcp=True) as (connection, client):
        assert probe(connection)
        client.send_frame(PING, b"first")
        assert receive(connection) == [Control(PING, b"first")]
        assert client.receive() == (PONG, b"first")
