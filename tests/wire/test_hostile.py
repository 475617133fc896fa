"""Clients that mean harm, or that broke: the server serves the others as if they were not there."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Closed,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    http_request,
    open_socket,
    serve,
    wait_until,
    with_constants,
)

MIB = 1024 * 1024
HANDSHAKE = (
    b"GET /room HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One server for all that must not hurt it."""
    with serve("--metrics", "cat") as running:
        yield running


def assert_serves(server: ServerProcess, room: str = "check") -> None:
    with RawClient.connect(server, room) as client:
        client.send_text("still here")
        assert client.receive_text() == "still here"
        assert client.close() == (1000, "")


def read_to_end(sock: socket.socket, timeout: float = PATIENCE) -> bytes:
    """Return all that comes until the server has closed."""
    sock.settimeout(timeout)
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return received


def resting_descriptors(server: ServerProcess) -> int:
    """Return how many descriptors a server has open with nobody connected."""
    assert http_request(server, path="/health").status == 200
    seen: list[int] = []

    def is_steady() -> bool:
        seen.append(server.descriptors())
        return len(seen) > 30 and len(set(seen[-30:])) == 1

    wait_until(is_steady)
    return seen[-1]


# ==== Handshakes ===========================================================


@pytest.mark.slow
def test_200_handshakes_byte_by_byte_do_not_keep_a_client_out() -> None:
    command = with_constants(HEAD_TIMEOUT=3 * PATIENCE)  # however long 8,000 bytes take
    with serve("cat", command=command) as server, ExitStack() as stack:
        dribblers = [stack.enter_context(open_socket(server)) for _ in range(200)]
        for byte in HANDSHAKE[:40]:
            for sock in dribblers:
                sock.sendall(bytes((byte,)))
            if byte == ord(" "):
                assert_serves(server)
        for sock in dribblers[:20]:  # and they are served when they are done
            sock.sendall(HANDSHAKE[40:])
            assert sock.recv(1000).startswith(b"HTTP/1.1 101 ")


@pytest.mark.slow
def test_a_handshake_that_takes_too_long_is_ended() -> None:
    """However it is kept alive: by silence, by a half, byte by byte, by empty lines."""
    dribbled = {b"GET / HTTP/1.1\r\nX: ": b"x", b"\r\n": b"\r\n", b"G": b"E"}
    soon = with_constants(HEAD_TIMEOUT=5.0)  # in which all must have begun
    with serve("cat", command=soon) as server, ExitStack() as stack:
        silent = [stack.enter_context(open_socket(server)) for _ in range(2)]
        silent[1].sendall(b"GET / HTTP/1.1\r\nHost:")
        going = {}
        for begin, more in dribbled.items():
            sock = stack.enter_context(open_socket(server))
            sock.sendall(begin)
            going[sock] = more
        deadline = time.monotonic() + PATIENCE
        ended: list[socket.socket] = []
        while going and time.monotonic() < deadline:
            for sock, more in list(going.items()):
                sock.settimeout(0.05)
                try:
                    sock.sendall(more)
                    answer = sock.recv(1000)
                    assert answer == b"" or b" 408 " in answer
                    ended.append(going.pop(sock) and sock)
                except TimeoutError:
                    continue
                except ConnectionError:
                    del going[sock]
            time.sleep(0.2)  # the pace of the dribble
        assert not going, f"still open after {PATIENCE} s: dribbling {list(going.values())}"
        assert read_to_end(silent[0]) == b""
        assert b" 408 " in read_to_end(silent[1])


def test_1000_connections_that_come_and_go_leave_nothing(server: ServerProcess) -> None:
    assert_serves(server)
    wait_until(lambda: not server.children())
    threads, descriptors = server.threads(), server.descriptors()

    def touch(number: int) -> None:
        with open_socket(server) as sock:
            if number % 4:
                sock.sendall(HANDSHAKE[: number % len(HANDSHAKE)])
            if number % 4 == 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(touch, range(1000)))
    assert_serves(server)
    wait_until(lambda: not server.children())
    wait_until(lambda: server.threads() <= threads)
    wait_until(lambda: server.descriptors() <= descriptors)


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=300))
def test_garbage_instead_of_a_request_is_answered_or_dropped(
    server: ServerProcess, garbage: bytes
) -> None:
    with open_socket(server) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(garbage)
        sock.shutdown(socket.SHUT_WR)
        answer = read_to_end(sock)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4") or b" 505 " in answer


# ==== Frames ===============================================================


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=200))
def test_garbage_instead_of_frames_ends_that_connection_alone(
    server: ServerProcess, garbage: bytes
) -> None:
    with RawClient.connect(server, "garbage") as client:
        with contextlib.suppress(ConnectionError):
            client.send_bytes(garbage)
            client.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:  # what comes back are well-formed frames, or the parser complains
                opcode, payload = client.receive()
                if opcode == CLOSE and payload:
                    assert int.from_bytes(payload[:2], "big") >= 1000


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 15), st.binary(max_size=130), st.booleans(), st.sampled_from([0, 0, 4])
        ),
        max_size=12,
    )
)
def test_any_sequence_of_frames_gets_well_formed_frames_back(
    server: ServerProcess, frames: list[tuple[int, bytes, bool, int]]
) -> None:
    raw = b"".join(encode_client_frame(op, body, fin, rsv) for op, body, fin, rsv in frames)
    with RawClient.connect(server, "frames") as client:
        with contextlib.suppress(ConnectionError):
            client.send_bytes(raw)
            client.sock.shutdown(socket.SHUT_WR)
        closes = 0
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                closes += client.receive()[0] == CLOSE
                assert closes <= 1, "5.5.1: never more than one Close frame"


def test_the_server_serves_after_all_that_garbage(server: ServerProcess) -> None:
    assert_serves(server)
    assert_serves(server, "garbage")


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 3, 6, 100, 70_000])
def test_a_reset_in_the_middle_of_a_frame_is_a_leave_and_no_message(
    tmp_path: Path, cut: int
) -> None:
    whole = encode_client_frame(TEXT, b"x" * 100_000)
    with serve("--json", "cat") as server, RawClient.connect(server) as witness:
        assert witness.receive_json() == {"t": "Join", "_from": 1}
        with RawClient.connect(server) as client:
            assert witness.receive_json() == {"t": "Join", "_from": 2}
            client.send_bytes(whole[:cut])
            client.reset()
        assert witness.receive_json() == {"t": "Leave", "_from": 2}


def test_a_header_that_promises_too_much_is_refused_at_once(server: ServerProcess) -> None:
    """1009 from the header alone: nothing of the payload is waited for."""
    for size in (MIB + 1, 1 << 32, (1 << 63) - 1):
        with RawClient.connect(server, "big") as client:
            client.send_bytes(b"\x82\xff" + size.to_bytes(8, "big") + b"\0\0\0\0")
            assert client.wait_close()[0] == 1009


def test_fragments_that_never_end_are_refused_at_the_limit(server: ServerProcess) -> None:
    with RawClient.connect(server, "endless") as client:
        client.send_frame(BINARY, b"x" * 1000, fin=False)
        more = encode_client_frame(CONTINUATION, b"x" * 1000, fin=False)
        client.send_bytes(more * 1047)
        client.ping(b"not yet")
        assert client.receive() == (PONG, b"not yet")
        with contextlib.suppress(ConnectionError):
            client.send_bytes(more * 2)
        assert client.wait_close()[0] == 1009


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_smallest_fragments_do_not_fill_the_memory(size: int) -> None:
    """A message within --maxmsg must not cost thirty times its size while it arrives."""
    with serve("cat") as server, RawClient.connect(server) as client:
        client.ping()
        client.receive()
        before = server.rss()
        client.send_frame(BINARY, b"", fin=False)
        more = encode_client_frame(CONTINUATION, b"xyz"[:size], fin=False)
        client.send_bytes(more * 250_000)
        client.ping(b"all read")
        assert client.receive() == (PONG, b"all read")
        assert server.rss() - before < 8 * MIB
        client.send_frame(CONTINUATION, b"\n")
        client.receive_message()


def test_pings_without_reading_are_answered_or_passed_over(server: ServerProcess) -> None:
    """5.5.3 lets the server answer only the latest of several; the last must be answered."""
    count = 20_000
    with RawClient.connect(server, "pings") as client:
        client.send_bytes(b"".join(encode_client_frame(PING, b"%d" % n) for n in range(count)))
        answered = [-1]
        while answered[-1] != count - 1:
            opcode, payload = client.receive()
            assert opcode == PONG
            assert int(payload) > answered[-1]
            answered.append(int(payload))
        client.send_text("hello")
        assert client.receive_text() == "hello"


def test_what_comes_behind_a_close_frame_is_ignored(server: ServerProcess) -> None:
    with (
        RawClient.connect(server, "behind") as witness,
        RawClient.connect(server, "behind") as client,
    ):
        behind = encode_client_frames([b"ghost"] * 100) + encode_client_frame(PING, b"ghost")
        with contextlib.suppress(ConnectionError):
            client.send_bytes(encode_client_frame(CLOSE, b"\x03\xe8") + behind + b"\xff" * 5000)
        assert client.receive() == (CLOSE, b"\x03\xe8")
        with pytest.raises((EOFError, ConnectionError)):
            client.receive()
        witness.send_text("real")
        assert witness.receive_text() == "real"


def test_frames_in_the_same_packet_as_the_handshake_are_heard(server: ServerProcess) -> None:
    with open_socket(server) as sock:
        sock.sendall(HANDSHAKE + encode_client_frames([b"early"] * 5000))
        with RawClient(sock) as client:
            head = client._read_handshake()
            assert head.status == 101
            assert client.receive_many(5000) == [b"early"] * 5000


@pytest.mark.slow
def test_json_as_deep_as_a_message_can_be_is_dropped_and_not_a_crash() -> None:
    deep = [b"[" * MIB, b'{"a":' * (MIB // 5), b'{"_from":' + b"[" * 900_000, b'{"_to":' * 100_000]
    with serve("--json", "--metrics", "cat") as server, RawClient.connect(server) as client:
        client.receive_text()
        for payload in deep:
            client.send_bytes(encode_client_frame(TEXT, payload))
        client.send_json({"fine": 1})
        assert client.receive_json() == {"_from": 1, "fine": 1}


# ==== Ends =================================================================


@pytest.mark.slow
def test_a_client_that_never_answers_a_close_is_cut_off() -> None:
    soon = with_constants(CLOSE_TIMEOUT=1.0)
    with serve("sh", "--", "-c", "read line; exit 3", command=soon) as server:
        before = resting_descriptors(server)
        with RawClient.connect(server) as client:
            client.send_text("go")
            with pytest.raises(Closed) as closed:
                client.receive_text()
            assert closed.value.code == 1011
            with pytest.raises((EOFError, ConnectionError)):
                client.receive()
            wait_until(lambda: server.descriptors() <= before)


@pytest.mark.slow
def test_a_client_that_floods_instead_of_answering_a_close_is_let_go() -> None:
    soon = with_constants(CLOSE_TIMEOUT=1.0)
    with serve("sh", "--", "-c", "read line; exit 3", command=soon) as server:
        before = resting_descriptors(server)
        with RawClient.connect(server) as client:
            client.send_text("go")
            with pytest.raises(Closed):
                client.receive_text()
            client.send_in_background(encode_client_frames([b"x" * 1000] * 200_000))
            wait_until(lambda: server.descriptors() <= before)
        assert server.peak_rss() < 64 * MIB


def test_what_a_half_closing_client_sent_before_still_counts(tmp_path: Path) -> None:
    """It will send no more, not even a Close; that ends it, but not what it had sent."""
    file = tmp_path / "heard"
    with serve("sh", "--", "-c", 'cat > "$1"', "sh", os.fspath(file)) as server:
        with RawClient.connect(server) as client:
            client.send_bytes(encode_client_frames([b"line"] * 1000))
            client.sock.shutdown(socket.SHUT_WR)
            assert client.wait_close()[0] in (1000, 1005, 1006)
        wait_until(lambda: file.exists() and file.read_text() == "line\n" * 1000)


@pytest.mark.slow
def test_a_client_that_does_not_read_a_file_is_cut_off(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50 * MIB)
    soon = with_constants(HEAD_TIMEOUT=5.0)  # in which the request must have come
    with serve("--staticdir", os.fspath(tmp_path), "cat", command=soon) as server:
        before = resting_descriptors(server)
        with open_socket(server) as sock:
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            wait_until(lambda: server.descriptors() <= before)


@pytest.mark.slow
def test_a_crowd_that_behaves_badly_in_every_way_at_once_is_not_noticed() -> None:
    """Half of all connections are up to something; the others' messages all come back."""

    def misbehave(number: int) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, EOFError):
            with RawClient.connect(server, f"room-{number % 7}") as client:
                kind = number % 6
                if kind == 0:
                    client.reset()
                elif kind == 1:
                    client.send_bytes(os.urandom(2000))
                elif kind == 2:
                    client.send_bytes(encode_client_frame(TEXT, b"\xff\xfe"))
                    client.receive()
                elif kind == 3:
                    client.send_bytes(encode_client_frame(TEXT, b"x" * 100_000)[:50_000])
                elif kind == 4:
                    client.sock.shutdown(socket.SHUT_WR)
                else:
                    client.send_bytes(encode_client_frame(PING, b"x" * 125) * 500)

    def behave(number: int) -> None:
        with RawClient.connect(server, f"good-{number % 5}") as client:
            for index in range(20):
                text = f"{number} {index}"
                client.send_text(text)
                while client.receive_text(60) != text:
                    pass

    with serve("cat") as server, ThreadPoolExecutor(12) as pool:
        bad = pool.map(misbehave, range(300))
        good = pool.map(behave, range(60))
        list(good)
        list(bad)
        wait_until(lambda: not server.children())
