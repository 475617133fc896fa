"""The synchronous WebSocket client: against sockets that say anything, and against servers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.client import reconnecting, websocket_command
from scalesocket.client.reconnecting import Backoff, Lost, Opened, Received, Reconnecting
from scalesocket.client.websocket import (
    ClientHandshake,
    ConnectionClosed,
    InvalidHandshake,
    InvalidURL,
    Stream,
    WebSocket,
    connect,
    explain,
    parse_url,
)
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websockets

from tests.certificates import Certificates
from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PATIENCE,
    PING,
    PONG,
    ROOT,
    TEXT,
    ServerProcess,
    require_tool,
    serve,
    wait_until,
)

MIB = 1024 * 1024


# ==== The other end =======================================================
# Frames written and read here, not by the core, so that both cannot be wrong together.


def server_frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    size = len(payload)
    first = fin << 7 | rsv << 4 | opcode
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


class Peer:
    """A server's end of a connection, which says what it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.keys: list[bytes] = []  # the masking keys that came
        self._buffer = b""
        sock.settimeout(PATIENCE)

    def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        self.sock.sendall(server_frame(opcode, payload, **options))

    def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the client's next frame, which must be masked."""
        first, second = self._take(2)
        assert second & 0x80, "5.1: a client masks its frames"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        key = self._take(4)
        self.keys.append(key)
        masked = self._take(size)
        assert first & 0x80 and first >> 4 & 7 in (0, 4)
        long_key = key * (size // 4 + 1)
        return first & 0xF, bytes(a ^ b for a, b in zip(masked, long_key, strict=False))

    def rest(self) -> bytes:
        """Return all that comes until the client closes the connection."""
        with contextlib.suppress(EOFError):
            self._take(1 << 30)
        return self._buffer

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the client closed the connection")
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


@contextlib.contextmanager
def pair(**options: Any) -> Iterator[tuple[WebSocket, Peer]]:
    """Connect a client and a peer, with the opening handshake left out."""
    ours, theirs = socket.socketpair()
    options.setdefault("close_timeout", 0.2)
    with contextlib.closing(WebSocket(Stream(ours), **options)) as ws, theirs:
        yield ws, Peer(theirs)


def in_thread(function: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


@contextlib.contextmanager
def scripted(answer: Callable[[str], bytes], *, hang: bool = False) -> Iterator[str]:
    """Serve one connection that answers a request as told; give its URL.

    Args:
        answer: takes the client's Sec-WebSocket-Key.
        hang: keep the connection open after the answer until the test is over.
    """
    over = threading.Event()

    def run(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            key = re.search(rb"Sec-WebSocket-Key: (\S+)\r\n", head)
            assert key
            connection.sendall(answer(key[1].decode()))
            if hang:
                over.wait(PATIENCE)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = in_thread(run, listener)
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}/room"
        finally:
            over.set()
            thread.join(PATIENCE)


def accept_value(key: str) -> str:
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()


def upgrade(key: str, *more: str, leave_out: str = "-") -> bytes:
    lines = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_value(key)}",
        *more,
    ]
    kept = [line for line in lines if not line.startswith(leave_out)]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *kept, "", ""]).encode()


# ==== Messages ============================================================


def test_str_is_a_text_message_and_bytes_are_a_binary_one() -> None:
    with pair() as (ws, peer):
        ws.send("grüße")
        ws.send(b"\0\xff")
        ws.send(bytearray(b"ab"))
        assert [peer.receive() for _ in range(3)] == [
            (TEXT, "grüße".encode()),
            (BINARY, b"\0\xff"),
            (BINARY, b"ab"),
        ]
        peer.send(TEXT, "zurück".encode())
        peer.send(BINARY, b"\x80")
        assert (ws.receive(PATIENCE), ws.receive(PATIENCE)) == ("zurück", b"\x80")


def test_every_frame_has_a_fresh_masking_key() -> None:
    with pair() as (ws, peer):
        for _ in range(50):
            ws.send("the same")
            assert peer.receive() == (TEXT, b"the same")
        assert len(set(peer.keys)) == 50


def test_a_message_is_nothing_but_str_or_bytes() -> None:
    with pair() as (ws, _), pytest.raises(TypeError, match="not int"):
        ws.send(7)  # type: ignore[arg-type]


messages = st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300)), max_size=8)


@given(messages)
def test_messages_are_sent_as_they_are(sent: list[str | bytes]) -> None:
    with pair() as (ws, peer):
        for message in sent:
            ws.send(message)
        for message in sent:
            if isinstance(message, str):
                assert peer.receive() == (TEXT, message.encode())
            else:
                assert peer.receive() == (BINARY, message)


@given(messages, st.data())
def test_messages_arrive_however_they_are_cut(sent: list[str | bytes], data: st.DataObject) -> None:
    """In fragments, with pings in between, and in pieces of TCP that end anywhere."""
    stream = b""
    pings = 0
    for message in sent:
        payload = message.encode() if isinstance(message, str) else message
        cuts = data.draw(st.lists(st.integers(0, len(payload)), max_size=3).map(sorted))
        edges = [0, *cuts, len(payload)]
        for index, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            kind = TEXT if isinstance(message, str) else BINARY
            opcode = kind if index == 0 else CONTINUATION
            stream += server_frame(opcode, payload[start:stop], fin=index == len(cuts))
            if data.draw(st.booleans()):
                stream += server_frame(PING, bytes([pings]))
                pings += 1
    edges = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    with pair() as (ws, peer):
        for start, stop in zip([0, *edges], [*edges, len(stream)], strict=True):
            peer.sock.sendall(stream[start:stop])
        assert [ws.receive(PATIENCE) for _ in sent] == sent
        peer.send(TEXT, b"last")
        assert ws.receive(PATIENCE) == "last"
        assert [peer.receive() for _ in range(pings)] == [(PONG, bytes([i])) for i in range(pings)]


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 3 * MIB])
def test_messages_of_every_length_go_both_ways(size: int) -> None:
    payload = os.urandom(size)
    with pair() as (ws, peer):

        def echo() -> None:
            peer.send(*peer.receive())

        thread = in_thread(echo)
        ws.send(payload)
        assert ws.receive(PATIENCE) == payload
        thread.join(PATIENCE)


def test_a_message_over_the_limit_closes_with_1009() -> None:
    with pair(max_message=100) as (ws, peer):
        peer.send(TEXT, b"x" * 101)
        with pytest.raises(ConnectionClosed, match="101 bytes; 100 is the most") as caught:
            ws.receive(PATIENCE)
        assert caught.value.code == 1009
        assert peer.receive()[1][:2] == struct.pack("!H", 1009)


def test_receiving_gives_up_in_time_and_can_go_on() -> None:
    with pair() as (ws, peer):
        peer.sock.sendall(server_frame(TEXT, b"hello")[:4])
        with pytest.raises(TimeoutError):
            ws.receive(0.05)
        peer.sock.sendall(server_frame(TEXT, b"hello")[4:])
        assert ws.receive(PATIENCE) == "hello"


def test_a_time_out_of_0_takes_what_has_come() -> None:
    with pair() as (ws, peer):
        peer.send(TEXT, b"here")
        assert ws.receive(0) == "here"
        with pytest.raises(TimeoutError):
            ws.receive(0)


def test_sending_to_a_peer_that_does_not_read_gives_up_in_time_and_goes_on_later() -> None:
    with pair() as (ws, peer):
        message = os.urandom(4 * MIB)
        with pytest.raises(TimeoutError):
            ws.send(message, timeout=0.05)
        received: list[tuple[int, bytes]] = []

        def read() -> None:
            received.extend(peer.receive() for _ in range(2))

        thread = in_thread(read)
        ws.send("after it", timeout=PATIENCE)
        thread.join(PATIENCE)
        assert received == [(BINARY, message), (TEXT, b"after it")]


def test_what_nobody_waits_for_any_more_does_not_come_later() -> None:
    """It would come much too late, and such messages would pile up (socket.io#4318)."""
    with pair() as (ws, peer):
        message = os.urandom(4 * MIB)
        for text in (message, "late", "later"):
            with pytest.raises(TimeoutError):
                ws.send(text, timeout=0.05)
        received: list[tuple[int, bytes]] = []
        thread = in_thread(lambda: received.extend(peer.receive() for _ in range(2)))
        ws.send("in time", timeout=PATIENCE)
        thread.join(PATIENCE)
        assert received == [(BINARY, message), (TEXT, b"in time")]


def test_messages_from_many_threads_are_not_torn() -> None:
    with pair() as (ws, peer):
        texts = [str(i) * 50_000 for i in range(8)]
        threads = [in_thread(ws.send, text) for text in texts]
        received = [peer.receive()[1].decode() for _ in texts]
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(received) == sorted(texts)


def test_one_thread_sends_while_another_waits_for_a_message() -> None:
    with pair() as (ws, peer):
        received: list[str | bytes] = []
        thread = in_thread(lambda: received.append(ws.receive(PATIENCE)))
        ws.send("go")
        assert peer.receive() == (TEXT, b"go")
        peer.send(TEXT, b"went")
        thread.join(PATIENCE)
        assert received == ["went"]


# ==== Pings ===============================================================


def test_a_ping_is_answered_while_receiving() -> None:
    with pair() as (ws, peer):
        peer.send(PING, b"are you there?")
        with pytest.raises(TimeoutError):
            ws.receive(0)
        assert peer.receive() == (PONG, b"are you there?")


def test_the_round_trip_of_a_ping_is_measured() -> None:
    with pair() as (ws, peer):
        assert ws.latency is None
        ws.ping()
        opcode, payload = peer.receive()
        assert opcode == PING and payload
        peer.send(PONG, b"another")
        peer.send(TEXT, b"not yet")
        ws.receive(PATIENCE)
        assert ws.latency is None
        peer.send(PONG, payload)
        peer.send(TEXT, b"now")
        ws.receive(PATIENCE)
        assert ws.latency is not None and 0 < ws.latency < 10


def test_a_ping_may_not_be_longer_than_125_bytes() -> None:
    with pair() as (ws, _), pytest.raises(ValueError, match="125 is the most"):
        ws.ping(b"x" * 126)


def test_pings_of_a_peer_that_does_not_read_are_answered_by_one_pong_once_it_does() -> None:
    """The answers neither block the one who receives nor pile up."""
    with pair() as (ws, peer):
        block = os.urandom(4 * MIB)
        with pytest.raises(TimeoutError):
            ws.send(block, timeout=0)
        pings = (server_frame(PING, b"%d" % number) for number in range(1000))
        peer.sock.sendall(b"".join(pings))
        peer.send(TEXT, b"all sent")
        assert ws.receive(PATIENCE) == "all sent"
        frames: list[tuple[int, bytes]] = []

        def read() -> None:
            frames.extend(peer.receive() for _ in range(3))

        thread = in_thread(read)
        wait_until(lambda: pump(ws) or len(frames) > 1)
        ws.send("end")
        thread.join(PATIENCE)
        assert frames == [(BINARY, block), (PONG, b"999"), (TEXT, b"end")]


def pump(ws: WebSocket) -> bool:
    """Let a client do what it does while it waits for a message."""
    with contextlib.suppress(TimeoutError):
        ws.receive(0.01)
    return False


# ==== The end =============================================================


def test_a_close_is_answered_with_its_code_and_ends_both_directions() -> None:
    with pair() as (ws, peer):
        peer.send(TEXT, b"before")
        peer.send(CLOSE, struct.pack("!H", 4321) + b"that is all")
        assert ws.receive(PATIENCE) == "before"
        assert peer.receive() == (CLOSE, struct.pack("!H", 4321))
        peer.sock.close()
        for action in (lambda: ws.receive(PATIENCE), lambda: ws.send("late"), ws.ping):
            with pytest.raises(ConnectionClosed, match="that is all") as caught:
                action()
            assert caught.value.code == 4321
        assert (ws.close_code, ws.close_reason) == (4321, "that is all")


def answer_end(peer: Peer) -> None:
    """Answer a Close, after a message that crosses it, and end TCP, as a server does."""
    peer.send(TEXT, b"crossing it")
    opcode, payload = peer.receive()
    assert opcode == CLOSE
    peer.send(CLOSE, payload)
    peer.sock.shutdown(socket.SHUT_WR)


def test_closing_performs_the_closing_handshake() -> None:
    with pair(close_timeout=PATIENCE) as (ws, peer):
        thread = in_thread(answer_end, peer)
        ws.close(4000, "bye")
        thread.join(PATIENCE)
        assert (ws.close_code, ws.close_reason) == (4000, "bye")
        assert peer.rest() == b""


def test_a_peer_that_does_not_answer_a_close_is_left_after_a_while() -> None:
    with pair(close_timeout=0.1) as (ws, peer):
        peer.send(TEXT, b"x" * 1000)
        ws.close()
        assert (ws.close_code, ws.close_reason) == (1006, "no answer to our Close")


def test_a_peer_that_never_stops_sending_cannot_hold_up_a_close() -> None:
    with pair(close_timeout=0.2) as (ws, peer):
        frames = server_frame(TEXT, b"more") * 100_000

        def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer.sock.sendall(frames)

        thread = in_thread(flood)
        ws.close()
        peer.sock.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        assert ws.close_code == 1006


def test_closing_wakes_the_thread_that_receives() -> None:
    with pair(close_timeout=0.1) as (ws, _):
        caught: list[ConnectionClosed] = []

        def wait_for_a_message() -> None:
            try:
                ws.receive()
            except ConnectionClosed as error:
                caught.append(error)

        thread = in_thread(wait_for_a_message)
        wait_until(ws._receive_lock.locked)
        ws.close()
        thread.join(PATIENCE)
        assert [error.code for error in caught] == [1006]


def test_closing_wakes_a_thread_that_cannot_send() -> None:
    with pair(close_timeout=0.1) as (ws, _):
        caught: list[ConnectionClosed] = []

        def send() -> None:
            try:
                ws.send(bytes(4 * MIB))
            except ConnectionClosed as error:
                caught.append(error)

        thread = in_thread(send)
        wait_until(lambda: ws._stream._waiting)
        ws.close()
        thread.join(PATIENCE)
        assert len(caught) == 1


def test_nothing_is_sent_after_a_close() -> None:
    with pair() as (ws, peer):
        peer.send(PING, b"a late one")
        ws.close()
        with pytest.raises(ConnectionClosed):
            ws.send("late")
        assert peer.receive()[0] == CLOSE
        assert peer.rest() == b""


def test_a_close_code_that_must_not_be_sent_is_the_callers_fault() -> None:
    with pair() as (ws, _), pytest.raises(ValueError, match="1006 must not be sent"):
        ws.close(1006)


def test_leaving_the_block_closes_with_1000_and_by_an_error_with_1001() -> None:
    for error, code in ((None, 1000), (KeyError("x"), 1001)):
        with pair() as (ws, peer):
            with contextlib.suppress(KeyError), ws:
                if error:
                    raise error
            assert peer.receive() == (CLOSE, struct.pack("!H", code))


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 1002),  # a masked "Hello"
        (server_frame(3, b""), 1002),
        (server_frame(TEXT, b"", rsv=4), 1002),  # compressed, and not negotiated
        (server_frame(CONTINUATION, b"of nothing"), 1002),
        (server_frame(TEXT, b"\xff"), 1007),
        (server_frame(CLOSE, b"\x03\xee"), 1002),  # 1006 is never sent
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_so(frame: bytes, code: int) -> None:
    with pair() as (ws, peer):
        peer.send(TEXT, b"before")
        peer.sock.sendall(frame)
        assert ws.receive(PATIENCE) == "before"
        with pytest.raises(ConnectionClosed) as caught:
            ws.receive(PATIENCE)
        assert caught.value.code == code
        opcode, payload = peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))


def test_a_connection_that_just_ends_is_closed_with_1006() -> None:
    with pair() as (ws, peer):
        peer.sock.sendall(server_frame(TEXT, b"whole") + server_frame(TEXT, b"torn")[:3])
        peer.sock.close()
        assert ws.receive(PATIENCE) == "whole"
        with pytest.raises(ConnectionClosed, match="the connection was lost") as caught:
            ws.receive(PATIENCE)
        assert caught.value.code == 1006
        with pytest.raises(ConnectionClosed):
            ws.send("late")


def test_who_sends_to_a_peer_that_has_gone_learns_its_close_code() -> None:
    with pair() as (ws, peer):
        peer.send(TEXT, b"before")
        peer.send(CLOSE, struct.pack("!H", 4001) + b"enough")
        peer.sock.close()
        with pytest.raises(ConnectionClosed, match="enough") as caught:
            ws.send("too late")
        assert caught.value.code == 4001
        assert ws.receive(PATIENCE) == "before"


def test_iteration_ends_with_a_normal_close_and_fails_with_another() -> None:
    for code in (1000, 1001):
        with pair() as (ws, peer):
            peer.send(TEXT, b"a")
            peer.send(BINARY, b"b")
            peer.send(CLOSE, struct.pack("!H", code))
            peer.sock.close()
            assert list(ws) == ["a", b"b"]
    with pair() as (ws, peer):
        peer.send(CLOSE, struct.pack("!H", 1011))
        peer.sock.close()
        with pytest.raises(ConnectionClosed):
            list(ws)


# ==== Compression =========================================================


def test_a_compressed_message_is_understood_only_if_negotiated() -> None:
    hello = bytes.fromhex("f248cdc9c90700")  # RFC 7692 section 7.2.3.1
    with pair(compressed=True) as (ws, peer):
        peer.send(TEXT, hello, rsv=4)
        assert ws.receive(PATIENCE) == "Hello"


def test_short_data_that_decompresses_to_much_is_all_received() -> None:
    """The core gives out a quarter of a megabyte at a time, and has more to give then."""
    message = b"0" * 60_000
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    with pair(compressed=True) as (ws, peer):
        peer.sock.sendall(server_frame(BINARY, data.removesuffix(b"\0\0\xff\xff"), rsv=4) * 20)
        assert [ws.receive(PATIENCE) for _ in range(20)] == [message] * 20


def test_compression_that_takes_context_over_is_refused() -> None:
    """The core decompresses each message on its own."""
    answer = "Sec-WebSocket-Extensions: permessage-deflate"
    with (
        scripted(lambda key: upgrade(key, answer)) as url,
        pytest.raises(InvalidHandshake, match="not been offered: permessage-deflate"),
    ):
        connect(url, compression=True)


# ==== Addresses ===========================================================


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("ws://localhost:9000/room", "localhost", 9000, "localhost:9000", "/room"),
        ("ws://Example.com", "example.com", 80, "example.com", "/"),
        ("wss://example.com/a?b=c&d", "example.com", 443, "example.com", "/a?b=c&d"),
        ("wss://example.com:80/", "example.com", 80, "example.com:80", "/"),
        ("ws://[::1]:9000/x", "::1", 9000, "[::1]:9000", "/x"),
        ("ws://[fe80::1%eth0]:9000/x", "fe80::1%eth0", 9000, "[fe80::1]:9000", "/x"),
        ("ws://[fe80::1%25eth0]:9000/x", "fe80::1%eth0", 9000, "[fe80::1]:9000", "/x"),
        ("ws://[fe80::1%25]:9000/x", "fe80::1%25", 9000, "[fe80::1]:9000", "/x"),
        ("ws://bücher.example/grüß dich%21", "xn--bcher-kva.example", 80, None, None),
    ],
)
def test_an_address_has_parts(
    url: str, host: str, port: int, authority: str | None, target: str | None
) -> None:
    address = parse_url(url)
    assert (address.host, address.port) == (host, port)
    assert address.authority == (authority or host)
    assert address.target == (target or "/gr%C3%BC%C3%9F%20dich%21")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:9000/room",
        "http://localhost/",
        "ws://",
        "ws:///room",
        "ws://localhost:99999/",
        "ws://localhost:nine/",
        "ws://[::1/",
        "ws://ann:secret@localhost/",
        "ws://localhost/room#part",
        f"ws://{'a' * 64}.example/",
        "",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidURL):
        connect(url)


# ==== The opening handshake ===============================================


def test_what_comes_with_the_answer_is_the_first_message() -> None:
    with (
        scripted(lambda key: upgrade(key) + server_frame(TEXT, b"welcome")) as url,
        connect(url, close_timeout=0.2) as ws,
    ):
        assert ws.receive(PATIENCE) == "welcome"


def wrong_answers() -> list[tuple[str, Callable[[str], bytes], str]]:
    """Return names, answers, and what the error must say."""
    return [
        ("no accept", lambda key: upgrade(key, leave_out="Sec-WebSocket-Accept"), "Accept"),
        ("a wrong accept", lambda key: upgrade("other" + key), "Accept"),
        (
            "two accepts",
            lambda key: upgrade(key, f"Sec-WebSocket-Accept: {accept_value(key)}"),
            "Accept",
        ),
        ("no upgrade", lambda key: upgrade(key, leave_out="Upgrade"), "upgrade to websocket"),
        ("no connection", lambda key: upgrade(key, leave_out="Connection"), "Connection header"),
        ("a subprotocol", lambda key: upgrade(key, "Sec-WebSocket-Protocol: x"), "subprotocol x"),
        (
            "an extension",
            lambda key: upgrade(key, "Sec-WebSocket-Extensions: permessage-deflate"),
            "extensions that have not been offered",
        ),
        ("malformed extensions", lambda key: upgrade(key, "Sec-WebSocket-Extensions: ;"), "exten"),
        ("another program", lambda key: b"SSH-2.0-OpenSSH_9.2p1\r\n", "no HTTP/1.1: b'SSH-2.0-"),
        ("HTTP/1.0", lambda key: upgrade(key).replace(b"/1.1", b"/1.0"), "no HTTP/1.1"),
        ("a bad header", lambda key: upgrade(key, "No colon"), "no HTTP/1.1"),
        ("nothing", lambda key: b"", "without an answer"),
        ("half an answer", lambda key: upgrade(key)[:50], "no HTTP/1.1"),
        ("no end", lambda key: upgrade(key, "X: " + "x" * 20_000), "no HTTP/1.1"),
        (
            "200",
            lambda key: b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhome",
            "the server answered 200 OK: home",
        ),
        (
            "404",
            lambda key: b"HTTP/1.1 404 Not Found\r\n\r\n\r\nno \x1b[2Jsuch room\r\nmore",
            r"the server answered 404 Not Found: no \[2Jsuch room$",
        ),
        (
            "a redirect",
            lambda key: b"HTTP/1.1 301 Moved\r\nLocation: ws://elsewhere/\r\n\r\n",
            "301 Moved, and points to ws://elsewhere/; redirects are not followed$",
        ),
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [pytest.param(answer, message, id=name) for name, answer, message in wrong_answers()],
)
def test_a_wrong_answer_opens_nothing(answer: Callable[[str], bytes], message: str) -> None:
    with scripted(answer) as url, pytest.raises(InvalidHandshake, match=message):
        connect(url)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 101 Swi"])
def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_the_time_out(
    part: bytes,
) -> None:
    with scripted(lambda key: part, hang=True) as url, pytest.raises(TimeoutError):
        connect(url, timeout=0.1)


def test_an_address_that_does_not_answer_leaves_time_for_the_next_one(
    cat: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As IPv6 may, where a router drops it. The first one had all the time, and nobody came in."""
    patiences: list[float | None] = []

    class Socket(socket.socket):
        def connect(self, place: Any) -> None:
            patiences.append(self.gettimeout())
            if place[0] == "192.0.2.1":  # nobody's (RFC 5737)
                raise TimeoutError("timed out")
            super().connect(place)

    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, cat.port))
        for host in ("192.0.2.1", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
    monkeypatch.setattr(socket, "socket", Socket)
    with connect(f"ws://many.example:{cat.port}/room", timeout=PATIENCE) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"
    first, second = patiences
    assert first is not None and second is not None and first <= PATIENCE / 2 < second


@pytest.mark.slow
def test_a_body_that_does_not_come_is_not_waited_for_longer_than_the_time_out() -> None:
    with scripted(lambda key: b"HTTP/1.1 403 Forbidden\r\n\r\n", hang=True) as url:
        with pytest.raises(InvalidHandshake, match="403 Forbidden$") as caught:
            connect(url, timeout=3.0)  # enough for the head
        assert caught.value.status == 403


@pytest.mark.parametrize(
    "field", [("X", "a\r\nY: b"), ("X\n", "a"), ("", "a"), ("X", "✓"), ("Upgrade", "h2c")]
)
def test_a_header_that_breaks_the_request_is_the_callers_fault(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError):
        connect("ws://127.0.0.1:9/", headers=[field])


# ==== Servers that no one here wrote ======================================


@contextlib.contextmanager
def websockets_server(handler: Callable[[ServerConnection], None], **options: Any) -> Iterator[str]:
    """Run a server of the `websockets` package; give its URL."""
    with serve_websockets(handler, "127.0.0.1", 0, **options) as server:
        thread = in_thread(server.serve_forever)
        try:
            scheme = "wss" if "ssl" in options else "ws"
            yield f"{scheme}://localhost:{server.socket.getsockname()[1]}/room"
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@pytest.mark.parametrize("compression", [False, True])
def test_the_websockets_package_echoes(compression: bool) -> None:
    with (
        websockets_server(echo, compression="deflate", max_size=4 * MIB) as url,
        connect(url, compression=compression) as ws,
    ):
        for message in ("", "grüße" * 50, b"\0" * 70_000, os.urandom(3 * MIB)):
            ws.send(message)
            assert ws.receive(PATIENCE) == message
    assert ws.close_code == 1000


def test_the_websockets_package_sends_fragments_and_pings() -> None:
    def handler(connection: ServerConnection) -> None:
        pong = connection.ping()
        connection.send(["in ", "three ", "parts"])
        if pong.wait(PATIENCE):
            connection.close(4002, "done")

    with websockets_server(handler) as url, connect(url) as ws:
        assert ws.receive(PATIENCE) == "in three parts"
        with pytest.raises(ConnectionClosed, match="4002: done"):
            ws.receive(PATIENCE)


def test_the_server_chooses_a_subprotocol_and_sees_our_headers() -> None:
    def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        connection.send(connection.request.headers["X-Game"])

    with (
        websockets_server(handler, subprotocols=["b", "c"]) as url,
        connect(url, subprotocols=["a", "b"], headers=[("X-Game", "snake")]) as ws,
    ):
        assert ws.subprotocol == "b"
        assert ws.receive(PATIENCE) == "snake"


# ==== Our own server ======================================================


@pytest.fixture(scope="module")
def cat() -> Iterator[ServerProcess]:
    with serve("--compress", "--subprotocol", "moo.v1", "cat") as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("compression", [False, True])
def test_our_server_echoes(cat: ServerProcess, compression: bool) -> None:
    with connect(cat.url("our room"), compression=compression, subprotocols=["moo.v1"]) as ws:
        assert ws.subprotocol == "moo.v1"
        for text in ("hello", "日本語" * 1000, "x" * 1_000_000):
            ws.send(text)
            assert ws.receive(PATIENCE) == text
    assert ws.close_code == 1000


@pytest.mark.slow
def test_a_room_name_that_is_refused_is_said_in_one_line(cat: ServerProcess) -> None:
    with pytest.raises(InvalidHandshake, match="400 Bad Request: a room is one path") as caught:
        connect(cat.url("two/segments"))
    assert caught.value.status == 400


@pytest.mark.slow
def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with serve("--unixsocket", path, "cat"):
        with connect("ws://localhost/room", unix_path=path) as ws:
            ws.send("hello")
            assert ws.receive(PATIENCE) == "hello"


@pytest.mark.slow
def test_ipv6_is_spoken() -> None:
    with serve("cat", addr="[::1]:0") as server, connect(server.url("room")) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"


# ==== TLS =================================================================


@pytest.mark.slow
def test_both_directions_of_tls_are_used_at_once(certs: Certificates) -> None:
    with serve(*certs.options(), "cat") as server:
        url = server.url("room").replace("ws://", "wss://")
        with connect(url, ssl_context=certs.trust()) as ws:
            texts = [f"{number} {'x' * 20_000}" for number in range(300)]

            def send() -> None:
                for text in texts:
                    ws.send(text)

            thread = in_thread(send)
            assert [ws.receive(PATIENCE) for _ in texts] == texts
            thread.join(PATIENCE)
        assert ws.close_code == 1000


@contextlib.contextmanager
def tls_pair(certs: Certificates) -> Iterator[tuple[WebSocket, Peer]]:
    """Connect a client and a peer by TLS, with the opening handshake left out."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certs.cert("server"), certs.key("server"))
    ours, theirs = socket.socketpair()
    accepted: list[ssl.SSLSocket] = []
    thread = in_thread(lambda: accepted.append(server.wrap_socket(theirs, server_side=True)))
    client = certs.trust().wrap_socket(ours, server_hostname="localhost")
    thread.join(PATIENCE)
    with contextlib.closing(WebSocket(Stream(client), close_timeout=0.2)) as ws, accepted[0]:
        yield ws, Peer(accepted[0])


@pytest.mark.slow
def test_what_tls_has_taken_in_is_sent_before_anything_else(certs: Certificates) -> None:
    """OpenSSL keeps what the kernel would not take, and does not let go of it: what came in its
    place would lose its beginning."""
    with tls_pair(certs) as (ws, peer):
        number = 0
        with pytest.raises(TimeoutError):
            while True:
                number += 1
                ws.send(f"{number:01000}", timeout=0)
        with pytest.raises(TimeoutError):
            ws.send("late", timeout=0)
        received: list[bytes] = []
        thread = in_thread(lambda: received.extend(peer.receive()[1] for _ in range(number + 1)))
        ws.send("in time", timeout=PATIENCE)
        thread.join(PATIENCE)
        numbers = [b"%01000d" % each for each in range(1, number + 1)]
        assert received == [*numbers, b"in time"]


@pytest.mark.slow
def test_a_certificate_that_nobody_vouches_for_is_refused(certs: Certificates) -> None:
    with serve(*certs.options(), "cat") as server:
        url = server.url("room").replace("ws://", "wss://")
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            connect(url)
        assert "is not trusted: " in explain(caught.value, url)


def test_tls_with_a_server_that_speaks_none_is_said_in_one_line() -> None:
    with websockets_server(echo) as url:
        with pytest.raises(ssl.SSLError) as caught:
            connect(url.replace("ws://", "wss://"))
        assert explain(caught.value, url).startswith("no TLS with localhost:")


# ==== Coming back =========================================================


def test_delays_double_up_to_the_last_and_differ_by_chance() -> None:
    backoff = Backoff(first=1, last=8)
    for expected in (1, 2, 4, 8, 8):
        assert expected / 2 <= backoff.next_delay() <= expected
    backoff.reset()
    assert backoff.next_delay() <= 1
    eternal = Backoff(first=1, last=8)
    delays = {eternal.next_delay() for _ in range(2000)}
    assert len(delays) > 1000 and max(delays) <= 8


@pytest.mark.parametrize("code", [1001, 1012])
def test_a_connection_that_is_lost_comes_back(code: int) -> None:
    greetings = iter(["first", "second"])

    def handler(connection: ServerConnection) -> None:
        connection.send(next(greetings))
        connection.close(code, "restarting")

    with websockets_server(handler) as url:
        link = Reconnecting(lambda: connect(url), backoff=Backoff(0.01))
        seen: list[object] = []
        for event in link.events():
            seen.append(event)
            if len(seen) == 5:
                link.stop()
    assert [type(event) for event in seen] == [Opened, Received, Lost, Opened, Received]
    assert [event.message for event in seen if isinstance(event, Received)] == ["first", "second"]
    lost = seen[2]
    assert isinstance(lost, Lost) and "restarting" in str(lost.error) and lost.delay <= 0.01


def delays_of_eight_losses() -> list[float]:
    """Return how long a client waits for a server that greets it, and then ends."""

    def handler(connection: ServerConnection) -> None:
        connection.send("hello")
        connection.close(1012)

    with websockets_server(handler) as url:
        link = Reconnecting(lambda: connect(url), backoff=Backoff(0.002))
        delays: list[float] = []
        for event in link.events():
            if isinstance(event, Lost):
                delays.append(event.delay)
            if len(delays) == 8:
                link.stop()
    return delays


def test_delays_begin_anew_after_a_good_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "STEADY_AFTER", 0.0)
    assert max(delays_of_eight_losses()) <= 0.002


def test_a_server_that_greets_and_then_ends_is_asked_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its greeting counted as a success: each client came back every half second, for ever."""
    monkeypatch.setattr(reconnecting, "STEADY_AFTER", 3600.0)
    for number, delay in enumerate(delays_of_eight_losses()):
        assert 0.002 * 2**number / 2 <= delay <= 0.002 * 2**number


def test_a_connection_that_is_closed_for_good_does_not_come_back() -> None:
    with websockets_server(lambda connection: connection.close(4000, "banned")) as url:
        events = Reconnecting(lambda: connect(url)).events()
        assert isinstance(next(events), Opened)
        with pytest.raises(ConnectionClosed, match="banned"):
            next(events)


def test_a_first_attempt_that_fails_is_the_only_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        next(Reconnecting(lambda: connect(f"ws://127.0.0.1:{port}/")).events())


def test_a_later_attempt_that_fails_is_followed_by_another() -> None:
    attempts = iter([True, False, False, True])

    def open_connection() -> WebSocket:
        if not next(attempts):
            raise ConnectionRefusedError("nobody there")
        ours, theirs = socket.socketpair()
        theirs.close()
        return WebSocket(Stream(ours))

    events = Reconnecting(open_connection, backoff=Backoff(0.001)).events()
    kinds = [type(next(events)) for _ in range(5)]
    assert kinds == [Opened, Lost, Lost, Lost, Opened]
    events.close()  # type: ignore[attr-defined]


def test_a_peer_that_falls_silent_is_pinged_and_then_given_up() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        peer = Peer(theirs)
        link = Reconnecting(lambda: WebSocket(Stream(ours), close_timeout=0.1), probe_after=0.1)
        events = link.events()
        assert isinstance(next(events), Opened)
        lost = next(events)
        assert isinstance(lost, Lost) and "does not answer a ping" in str(lost.error)
        assert peer.receive()[0] == PING
        link.stop()
        assert list(events) == []


def test_a_peer_that_does_not_read_is_given_up_while_another_thread_sends() -> None:
    """The ping waited behind what was sent, for as long as that: nobody came back."""
    ours, theirs = socket.socketpair()
    with theirs:
        link = Reconnecting(lambda: WebSocket(Stream(ours), close_timeout=0.1), probe_after=0.1)
        events = link.events()
        opened = next(events)
        assert isinstance(opened, Opened)
        sent: list[bool] = []
        thread = in_thread(lambda: sent.append(link.send(b"x" * 4_000_000)))
        wait_until(lambda: opened.ws._stream._waiting)
        lost = next(events)
        assert isinstance(lost, Lost) and "does not answer a ping" in str(lost.error)
        thread.join(PATIENCE)
        assert sent == [False]
        link.stop()
        assert list(events) == []


def test_a_peer_that_takes_what_is_sent_is_not_silent() -> None:
    """It may take minutes to send much over a slow network, and nobody answers before the end."""
    ours, theirs = socket.socketpair()
    with theirs:
        ws = WebSocket(Stream(ours), close_timeout=0.1)
        thread = in_thread(lambda: ws.send(b"x" * 4_000_000))
        wait_until(lambda: ws._stream._is_full)
        before = time.monotonic()
        received = 0
        while received < 4_000_000:
            received += len(theirs.recv(1 << 20))
        thread.join(PATIENCE)
        assert ws._stream.moved_at > before and ws.silence < time.monotonic() - before
        ws.abort()


@pytest.mark.slow
def test_a_peer_that_answers_pings_is_kept() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        peer = Peer(theirs)
        connections = iter([WebSocket(Stream(ours))])
        link = Reconnecting(lambda: next(connections), probe_after=3.0)  # and to answer within

        def answer_two() -> None:
            for _ in range(2):
                opcode, payload = peer.receive()
                assert opcode == PING
                peer.send(PONG, payload)
            link.stop()
            peer.send(*peer.receive())  # the Close, with which it stops
            peer.sock.shutdown(socket.SHUT_WR)

        events = link.events()
        opened = next(events)
        thread = in_thread(answer_two)
        assert list(events) == []
        thread.join(PATIENCE)
        assert isinstance(opened, Opened) and opened.ws.latency is not None


# ==== The command line ====================================================

UNHURRIED = "--wait=3"  # a busy machine takes longer than usual to answer


def run_client(*arguments: str, lines: str = "", timeout: float = PATIENCE) -> tuple[int, str, str]:
    """Run `python3 -m client.websocket`; return exit status, output, errors."""
    done = subprocess.run(
        [sys.executable, "-m", "client.websocket", *arguments],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_lines_go_in_and_messages_come_out(cat: ServerProcess) -> None:
    status, out, err = run_client(cat.url("cli"), UNHURRIED, lines="hello\ngrüße")
    assert (status, out) == (0, "hello\ngrüße\n")
    assert err.splitlines()[-1] == "closed with 1000"


@pytest.mark.slow
def test_binary_messages_are_printed_in_hexadecimal() -> None:
    with serve("--binary", "cat") as server:
        status, out, _ = run_client(server.url("cli"), UNHURRIED, lines="AB\n")
    assert (status, out) == (0, "<2 bytes> 41 42\n")


@pytest.mark.slow
def test_the_end_of_the_server_is_the_end_of_the_program() -> None:
    def handler(connection: ServerConnection) -> None:
        connection.recv()
        connection.close(1011, "broken")

    with websockets_server(handler) as url:
        status, _, err = run_client(url, "--wait", "20", lines="go\n")
    assert status == 1
    assert err.splitlines()[-1] == "client.websocket: closed with 1011: broken"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("ws://127.0.0.1:1/",), 1, "client.websocket: nothing listens at 127.0.0.1:1"),
        (("ftp://localhost",), 2, "is no address such as ws://localhost:9000/room"),
        (("ws://localhost/", "--header", ": x"), 2, "is no header field"),
        (("wss://localhost/", "--cafile", "/nowhere"), 2, "/nowhere holds no certificate"),
        ((), 2, "required: URL"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    arguments: tuple[str, ...], status: int, message: str
) -> None:
    found, out, err = run_client(*arguments)
    assert (found, out) == (status, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_closes_and_exits_with_130(cat: ServerProcess) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "client.websocket", cat.url("cli")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr and process.stderr.readline().startswith("connected to")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed by a POSIX shell")
@pytest.mark.parametrize(
    ("closed", "out"), [("0<&-", ""), ("1>&-", ""), ("2>&-", "hello\n"), ("0<&- 1>&- 2>&-", "")]
)
def test_a_stream_that_is_closed_is_no_place_for_the_websocket(
    cat: ServerProcess, closed: str, out: str
) -> None:
    """Started with its stdin closed, as services and crontabs do, it read the WebSocket's own
    bytes as its input and never ended (vi/websocat#212); without stdout it was a traceback."""
    client = [sys.executable, "-m", "client.websocket", cat.url("cli"), UNHURRIED]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *client],
        cwd=ROOT,
        input="hello\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, out)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["-1", "nan", "1e30", "soon", "-inf"])
def test_a_wait_that_nobody_can_wait_is_refused(cat: ServerProcess, seconds: str) -> None:
    """`--wait -1` never ended (vi/websocat#245, where `nc -q -1` is the model)."""
    status, out, err = run_client(cat.url("cli"), f"--wait={seconds}", lines="hello\n")
    assert (status, out) == (2, "")
    assert f"'{seconds}' is no number of seconds, 0 or more, or inf" in err.splitlines()[-1]


@pytest.mark.slow
def test_who_waits_for_ever_gets_every_answer_until_the_server_closes() -> None:
    """What is piped in ended the connection before the answers had come (vi/websocat#245)."""
    with serve("sh", "--", "-c", "read x; sleep 1; echo late $x") as server:
        status, out, err = run_client(server.url("cli"), "--wait=inf", lines="hello\n")
    assert (status, out) == (0, "late hello\n")
    said, end = err.splitlines()  # and no more: the thread that waits could not sleep for so long
    assert said.startswith("connected to ")
    assert end == "closed with 1000 the program has ended with status 0"


@pytest.mark.slow
def test_answers_that_have_come_when_the_wait_is_over_are_all_printed(cat: ServerProcess) -> None:
    """Of 300,000 lines through an echo 168,000 came back, and it said that the connection was lost
    (vi/websocat#245)."""
    lines = "".join(f"line {i}\n" for i in range(200_000))
    status, out, err = run_client(cat.url("cli"), lines=lines, timeout=120)
    assert (status, err.splitlines()[-1]) == (0, "closed with 1000")
    assert out == lines


@pytest.mark.slow
def test_a_server_that_never_pauses_does_not_keep_it() -> None:
    with serve("sh", "--", "-c", "while sleep 0.1; do echo tick; done") as server:
        status, out, _ = run_client(server.url("cli"), UNHURRIED, lines="hello\n")
    assert status == 0 and "tick\n" in out


@pytest.mark.slow
def test_a_server_that_is_gone_without_a_word_is_noticed() -> None:
    """A cable that is pulled, a machine that is switched off: it waited for ever, and said nothing
    (vi/websocat#116, #237)."""
    with scripted(upgrade, hang=True) as url:
        status, out, err = run_client(url, "--ping=0.1", "--wait=inf")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].endswith("closed with 1006: the server does not answer a ping")


@pytest.mark.slow
def test_a_server_that_closes_at_once_ends_it_though_the_input_stays_open() -> None:
    """A program hung after a Close until somebody pressed Ctrl-D (vi/websocat#63)."""

    def handler(connection: ServerConnection) -> None:
        connection.close(1008, "not you")

    with websockets_server(handler) as url:
        with subprocess.Popen(
            [sys.executable, "-m", "client.websocket", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.wait(PATIENCE) == 1
            assert process.stderr
            assert process.stderr.read().splitlines()[-1].endswith("closed with 1008: not you")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the shell and its devices are POSIX")
def test_an_input_that_would_block_is_waited_for(cat: ServerProcess) -> None:
    """Another program on the same terminal may make it non-blocking: it was a traceback, and
    then nothing that was typed was sent any more."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    client = [sys.executable, "-m", "client.websocket", cat.url("cli"), UNHURRIED]
    with subprocess.Popen(
        client, cwd=ROOT, stdin=read_end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(read_end)
        assert process.stderr and process.stderr.readline().startswith("connected to")
        os.write(write_end, b"hello\n")
        os.close(write_end)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "hello\n", "closed with 1000\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_no_fault_of_the_connection(cat: ServerProcess) -> None:
    """It said "no connection to localhost:9000: No space left on device"."""
    client = [sys.executable, "-m", "client.websocket", cat.url("cli"), UNHURRIED]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            client,
            cwd=ROOT,
            input="hello\n",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "client.websocket: the output cannot be written: No space left on device"
    ]


@pytest.mark.slow
def test_letters_that_the_locale_does_not_have_are_written_as_escapes(
    cat: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message from a stranger ended it with its usage and status 2 (vi/websocat#296)."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    client = [sys.executable, "-m", "client.websocket", cat.url("cli"), UNHURRIED]
    done = subprocess.run(
        client, cwd=ROOT, input="grüße\n".encode(), capture_output=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, [rb"gr\xfc\xdfe"])


def test_control_characters_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert websocket_command.printable("a\x1b[2J\tß\x9b") == "a\\x1b[2J\tß\\x9b"


@pytest.mark.slow
@pytest.mark.parametrize("code", [1000, 4000])
def test_the_reason_of_a_close_steers_no_terminal(code: int) -> None:
    """What a server gives as its reason went to the terminal as it was."""
    with websockets_server(lambda ws: ws.close(code, "\x1b[2J\x07bye")) as url:
        _, _, err = run_client(url)
    assert err.splitlines()[-1].endswith("\\x1b[2J\\x07bye")


def test_the_status_line_of_a_refusal_steers_no_terminal() -> None:
    with pytest.raises(InvalidHandshake) as caught:
        ClientHandshake(parse_url("ws://host/")).accept(b"HTTP/1.1 404 \x9b2J")
    assert explain(caught.value, "ws://host/").endswith(" 404 \\x9b2J")


# ==== The README ==========================================================


def readme_blocks(language: str) -> list[str]:
    text = (ROOT / "client" / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_block(command: list[str], block: str, server: ServerProcess) -> str:
    """Run a block of the README against a server; return its output."""
    block = block.replace("localhost:9000", f"{server.host}:{server.port}")
    done = subprocess.run(
        [*command, block], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_examples_print_what_the_readme_says(cat: ServerProcess) -> None:
    blocks = [block for block in readme_blocks("python") if "# prints: " in block]
    assert len(blocks) == 4
    for block in blocks:
        expected = [re.sub(", (?!')", "\n", text) for text in re.findall("# prints: (.*)", block)]
        printed = run_block([sys.executable, "-c"], block, cat)
        assert printed == "\n".join(expected) + "\n"


@pytest.mark.slow
def test_the_readmes_command_line_and_page_work(cat: ServerProcess) -> None:
    (pipe,) = [block for block in readme_blocks("sh") if "|" in block]
    pipe = pipe.replace("python3", sys.executable)
    assert run_block(["sh", "-c"], pipe, cat) == "hello\nworld\n"
    (page,) = readme_blocks("js")
    node = [require_tool("node"), "--no-warnings", "--experimental-websocket", "-e"]
    assert run_block(node, page, cat) == "hello\n"


@pytest.mark.slow
def test_two_of_the_readmes_bots_play_each_other() -> None:
    (block,) = [block for block in readme_blocks("python") if "/bots" in block]
    printed: list[str] = []
    with serve("tictactoe") as server:

        def play() -> None:
            printed.append(run_block([sys.executable, "-c"], block, server))

        threads = [in_thread(play), in_thread(play)]
        for thread in threads:
            thread.join(PATIENCE)
    assert len(printed) == 2 and printed[0] == printed[1]
    assert printed[0] in ("X wins\n", "O wins\n", "draw\n")
