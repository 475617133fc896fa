"""WebSocket clients by the thousand in one thread, cheap enough to measure servers with.

All frames are built beforehand. What comes is held against the bytes that must come, in one
comparison for each read, so that nothing needs to be parsed while the clock runs; only where
bytes differ, or cannot be foretold, are the frames walked and every message accounted for.
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.bench.processes import BenchError
from tests.support import BINARY, TEXT, encode_client_frame

WINDOW = 64  # handshakes at a time
SOURCES = 16  # addresses, 127.0.0.1 and on, so that ports do not run out
BIND_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # the kernel picks it on connecting
BUFFER = bytearray(1 << 18)
VIEW = memoryview(BUFFER)

clock = time.perf_counter


@dataclass(frozen=True)
class Job:
    """What the generator is to do; each load uses some of these."""

    load: str
    port: int
    pid: int  # of the server
    modes: Sequence[str] = ()
    ending: str = ""  # what this server puts behind each message
    quiet: float = 3.0  # seconds in which nothing moves: the server has stopped
    limit: float = 60.0  # seconds for the whole
    size: int = 64  # bytes of a message
    count: int = 0  # messages from each sender
    clients: int = 1  # of a room
    rooms: int = 1
    rate: float = 50.0  # messages per second
    late: bool = False  # begin to read when nobody takes more


# ==== 1. Messages =========================================================
# Each begins with its number. The rest is text that compresses about as well as a chat does.

_WORDS = "the a quick brown fox jumps over lazy dog room client says hello score left right 42 7"
FILLER = " ".join(random.Random(6).choices(_WORDS.split(), k=20_000)).encode()


def make_payloads(count: int, size: int) -> list[bytes]:
    """Return numbered messages of `size` bytes."""
    fill = size - 9
    assert 0 <= fill <= len(FILLER) - 997
    return [b"%08d " % n + FILLER[n % 997 : n % 997 + fill] for n in range(count)]


def make_json_payloads(count: int, size: int, to: int) -> list[bytes]:
    """Return numbered JSON objects of about `size` bytes, for one client."""
    bare = len('{"_to":1,"n":"00000000","pad":""}')
    return [
        b'{"_to":%d,"n":"%08d","pad":"%s"}' % (to, n, b"x" * (size - bare)) for n in range(count)
    ]


def server_frames(job: Job, payloads: Iterable[bytes]) -> bytes:
    """Return the frames that must come back."""
    whole = [payload + job.ending.encode() for payload in payloads]
    return b"".join([encode_client_frame(TEXT, payload, mask=False) for payload in whole])


def client_frames(job: Job, payloads: Iterable[bytes]) -> bytes:
    """Return the frames to be sent."""
    if "compress" in job.modes:
        shrunk = map(deflate, payloads)
        return b"".join([encode_client_frame(TEXT, payload, rsv=4) for payload in shrunk])
    opcode = BINARY if "binary" in job.modes else TEXT
    return b"".join([encode_client_frame(opcode, payload) for payload in payloads])


def deflate(payload: bytes) -> bytes:
    """Return a message as permessage-deflate sends it, without context (RFC 7692)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Account(NamedTuple):
    """What became of messages that must come once each, and in order."""

    received: int = 0  # different ones
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0  # came after one with a higher number
    damaged: int = 0  # nothing that was sent: altered, merged, cut

    def __add__(self, other: Account) -> Account:  # type: ignore[override]
        return Account(*map(sum, zip(self, other, strict=True)))


def account(expected: int, numbers: Iterable[int | None]) -> Account:
    """Account for messages 0 to `expected` - 1, given the numbers that came; None is damaged."""
    seen: set[int] = set()
    duplicated = reordered = damaged = 0
    highest = -1
    for number in numbers:
        if number is None:
            damaged += 1
        elif number in seen:
            duplicated += 1
        else:
            reordered += number < highest
            highest = max(highest, number)
            seen.add(number)
    return Account(len(seen), expected - len(seen), duplicated, reordered, damaged)


def identify(payload: bytes, payloads: Sequence[bytes]) -> int | None:
    """Return the number of a message that came, or None if it is not what was sent."""
    found = re.match(rb'\d{8}|\{.*?"n": ?"(\d{8})"', payload)
    number = int(found[1] or found[0]) if found else len(payloads)
    if number >= len(payloads):
        return None
    if payload.startswith(b"{"):  # the server has put the sender's ID into it
        return number if has_pad_of(payload, payloads[number]) else None
    return number if payload.removesuffix(b"\n") == payloads[number] else None


def has_pad_of(payload: bytes, sent: bytes) -> bool:
    """Tell whether a message is a JSON object with the same `pad` as the one that was sent."""
    try:
        return bool(json.loads(payload)["pad"] == json.loads(sent)["pad"])
    except (ValueError, KeyError):
        return False


# ==== 2. Readers ==========================================================
# What one client has got. `progress` grows until it reaches what is to come.


class ExactReader:
    """Compares what comes with the very bytes that must come. `progress` is in bytes."""

    __slots__ = ("_expected", "_rest", "progress")

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._rest: list[bytes] = []  # all that came since something differed
        self.progress = 0

    def take(self, data: memoryview) -> None:
        if not self._rest and self._expected.startswith(data, self.progress):
            self.progress += len(data)
            return
        if not self._rest:
            self._rest.append(self._expected[: self.progress])
        self._rest.append(bytes(data))
        self.progress += len(data)

    def account(self, payloads: Sequence[bytes]) -> Account:
        """Account for the messages."""
        if not self._rest and self.progress == len(self._expected):
            return Account(received=len(payloads))
        walker = FrameReader()
        whole = b"".join(self._rest) or self._expected[: self.progress]
        walker.take(memoryview(whole))
        return walker.account(payloads)


class FrameReader:
    """Walks the frames. `progress` is in messages, or in bytes of payload with `by_bytes`."""

    def __init__(self, by_bytes: bool = False) -> None:
        self._by_bytes = by_bytes
        self._rest = b""
        self.frames: list[tuple[int, bytes]] = []  # first byte, payload
        self.progress = 0
        self.size = 0  # bytes on the wire

    def take(self, data: memoryview) -> None:
        self.size += len(data)
        text = self._rest + bytes(data)
        start, have = 0, len(text)
        while have - start >= 2:
            size, body = text[start + 1], start + 2
            if size >= 126:
                body += 2 if size == 126 else 8
                if body > have:
                    break
                size = int.from_bytes(text[start + 2 : body], "big")
            end = body + size
            if end > have:
                break
            first = text[start]
            if first & 0xF < 8:  # no control frame
                self.frames.append((first, text[body:end]))
                self.progress += size if self._by_bytes else 1
            start = end
        self._rest = text[start:]

    def payloads(self) -> list[bytes]:
        """Return all messages, those decompressed that were compressed."""
        return [inflate(data) if first & 0x40 else data for first, data in self.frames]

    def account(self, payloads: Sequence[bytes]) -> Account:
        """Account for the messages."""
        if not self._by_bytes:
            numbers = (identify(payload, payloads) for payload in self.payloads())
            return account(len(payloads), numbers)
        # In binary the messages are cut anew; only their bytes are to be the same.
        size, stream = len(payloads[0]), b"".join(self.payloads())
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
        return account(len(payloads), (identify(part, payloads) for part in parts))


def inflate(data: bytes) -> bytes:
    """Undo `deflate`."""
    return zlib.decompressobj(wbits=-15).decompress(data + b"\0\0\xff\xff")


Reader = ExactReader | FrameReader


# ==== 3. Clients ==========================================================


class Client:
    """One connection, after its handshake."""

    def __init__(self, sock: socket.socket, early: bytes) -> None:
        self.sock = sock
        self.outbox = memoryview(b"")
        self.reader: Reader = FrameReader()
        self._early = early  # what came behind the answer to the handshake

    def expect(self, reader: Reader) -> None:
        """Say who takes what comes from now on."""
        self.reader = reader
        if self._early:
            reader.take(memoryview(self._early))
            self._early = b""

    def send_some(self) -> None:
        """Send what the kernel takes."""
        try:
            self.outbox = self.outbox[self.sock.send(self.outbox[: 1 << 20]) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            return
        except ConnectionError:  # it will be read, too
            self.outbox = memoryview(b"")

    def hear(self) -> bool:
        """Read what has come; return False if the connection has ended."""
        try:
            size = self.sock.recv_into(BUFFER)
        except ConnectionError:
            return False
        self.reader.take(VIEW[:size])
        return size > 0


Note = Callable[[int, int], None]  # is told a client's progress before and after a read


class Crowd:
    """Many clients, and what is under way between them and the server."""

    def __init__(self, job: Job, clients: Sequence[Client]) -> None:
        self.clients = clients
        self.moved_at = clock()
        self._quiet = job.quiet
        self._deadline = clock() + job.limit
        self._poll = select.epoll()
        self._by_descriptor = {client.sock.fileno(): client for client in clients}
        for descriptor in self._by_descriptor:
            self._poll.register(descriptor, select.EPOLLIN)

    def send(self, client: Client, frames: bytes | memoryview) -> None:
        """Begin to send; `pump` goes on with what the kernel does not take at once."""
        client.outbox = memoryview(frames)
        client.send_some()
        if client.outbox:
            self._poll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def pump(self, goal: int, until: float | None = None, note: Note | None = None) -> bool:
        """Send and read until every client's progress has reached the goal.

        Args:
            goal: in the unit of the clients' readers.
            until: return earlier, at this time.
            note: is called for every read.

        Returns:
            Whether they have all reached it; otherwise it is time, or nothing moves any more.
        """
        missing = sum(client.reader.progress < goal for client in self.clients)
        while missing > 0 and clock() < self._deadline:
            wait = self._quiet if until is None else until - clock()
            events = self._poll.poll(max(0.0, wait)) if wait > 0 else []
            if not events:
                return False
            for descriptor, event in events:
                missing -= self._serve(self._by_descriptor[descriptor], event, goal, note)
            self.moved_at = clock()
        return missing == 0

    def account(self, payloads: Sequence[bytes]) -> Account:
        """Hear for a moment what comes although nothing should; account for all messages."""
        self.pump(1 << 62, until=clock() + 0.05)
        return sum((client.reader.account(payloads) for client in self.clients), Account())

    def _serve(self, client: Client, event: int, goal: int, note: Note | None) -> bool:
        """Do what a socket is ready for; return whether its client has reached the goal by it."""
        if event & select.EPOLLOUT:
            client.send_some()
            if not client.outbox:
                self._poll.modify(client.sock.fileno(), select.EPOLLIN)
        if not event & ~select.EPOLLOUT:
            return False
        before = client.reader.progress
        try:
            alive = client.hear()
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        if not alive:
            self._poll.unregister(client.sock.fileno())
        after = client.reader.progress
        if note is not None:
            note(before, after)
        return before < goal <= after


# ==== 4. The opening handshake ============================================


def make_request(job: Job, path: str) -> bytes:
    """Return the request of an opening handshake."""
    offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    fields += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    fields += [f"Sec-WebSocket-Extensions: {offer}"] if "compress" in job.modes else []
    return "\r\n".join(
        [f"GET /{path} HTTP/1.1", f"Host: 127.0.0.1:{job.port}", *fields, "", ""]
    ).encode()


def dial(job: Job, number: int) -> socket.socket:
    """Begin to connect; with TLS, be connected."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A connection that is reset at its end does not keep its port for a minute.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.setsockopt(socket.SOL_IP, BIND_NO_PORT, 1)
    sock.bind((f"127.0.0.{1 + number % SOURCES}", 0))
    sock.setblocking("tls" in job.modes)
    sock.connect_ex(("127.0.0.1", job.port))
    if "tls" in job.modes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is the benchmark's own
        sock = context.wrap_socket(sock)
        sock.setblocking(False)
    return sock


class Opening:
    """A handshake that is under way.

    Args:
        number: which client this is.
        hello: frames to send as soon as the server lets it in.
        answer: bytes that must come back for them.
    """

    def __init__(self, job: Job, number: int, hello: bytes, answer: int) -> None:
        self.number = number
        self.started = clock()
        self.sock = dial(job, number)
        self._received = b""
        self._hello = hello
        self._answer = answer

    def advance(self) -> Client | None:
        """Read some; return the client once it is in, and has its answer.

        Raises:
            BenchError: the server refuses.
        """
        try:
            data = self.sock.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ConnectionError as error:
            raise BenchError(f"handshake {self.number}: {error}") from error
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not data or (end and not head.startswith(b"HTTP/1.1 101 ")):
            raise BenchError(f"handshake {self.number} is refused: {head[:80]!r}")
        if end and self._hello:
            self.sock.send(self._hello)
            self._hello = b""
        return Client(self.sock, rest) if end and len(rest) >= self._answer else None


def open_clients(
    job: Job, paths: Sequence[str], hello: bytes = b"", answer: int = 0
) -> tuple[list[Client], list[float]]:
    """Connect a client to each path, some at a time; return them, and how long each has taken.

    Raises:
        BenchError: one was refused, or not answered.
    """
    clients: dict[int, Client] = {}
    times = [0.0] * len(paths)
    under_way: dict[int, Opening] = {}  # by file descriptor
    ahead = iter(enumerate(paths))
    with select.epoll() as poll:
        while len(clients) < len(paths):
            while len(under_way) < WINDOW and (item := next(ahead, None)):
                opening = Opening(job, item[0], hello, answer)
                under_way[opening.sock.fileno()] = opening
                poll.register(opening.sock, select.EPOLLOUT)
            events = poll.poll(job.quiet)
            if not events:
                raise BenchError(f"{len(clients)} of {len(paths)} handshakes were answered")
            for descriptor, event in events:
                opening = under_way[descriptor]
                if event & select.EPOLLOUT:  # connected
                    opening.sock.send(make_request(job, paths[opening.number]))
                    poll.modify(descriptor, select.EPOLLIN)
                elif client := opening.advance():
                    times[opening.number] = clock() - opening.started
                    clients[opening.number] = client
                    poll.unregister(descriptor)
                    del under_way[descriptor]
    return [clients[number] for number in range(len(paths))], times
