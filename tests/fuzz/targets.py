"""What must hold for any bytes at all: one function for each parser that strangers can reach.

A target takes bytes, makes of them what it needs, and asserts. It passes over the errors that
the parser is documented to raise; any other exception is a finding. A target is deterministic,
and fast: some thousand inputs per second.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import itertools
import json
import logging
import os
import random
import re
import shutil
import struct
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import quote, unquote_plus

import scalesocket.net.deflate
import scalesocket.net.delimiters
import scalesocket.net.extensions
import scalesocket.net.files
import scalesocket.net.gwsocket
import scalesocket.net.json_fields
import scalesocket.net.lines
import scalesocket.net.logs
import scalesocket.net.origins
import scalesocket.net.proxies
import scalesocket.net.script_options

import scalesocket

T = TypeVar("T")
Check = Callable[[bytes], None]
CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """A check, and what to begin with."""

    name: str
    check: Check
    seeds: tuple[bytes, ...]  # inputs that get far
    words: tuple[bytes, ...]  # pieces that a random generator would hardly hit upon

    def inputs(self) -> list[bytes]:
        """Return the seeds, and what has once been found."""
        files = sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())
        return [*self.seeds, *(path.read_bytes() for path in files)]


TARGETS: dict[str, Target] = {}


def target(seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> Callable[[Check], Check]:
    """Register a function as the target of its name."""

    def register(check: Check) -> Check:
        TARGETS[check.__name__] = Target(check.__name__, check, tuple(seeds), tuple(words))
        return check

    return register


# ==== 1. From bytes to arguments ==========================================


def take(data: bytes, count: int) -> tuple[bytes, bytes]:
    """Return the first bytes, filled up with zeros, and the rest: knobs, then content."""
    return data[:count].ljust(count, b"\0"), data[count:]


def cut(data: bytes, how: int) -> Iterator[bytes]:
    """Yield the pieces of data, as reads may cut it: byte by byte for 0, else by that seed."""
    sizes = random.Random(how)
    start = 0
    while start < len(data):
        size = sizes.choice((1, 1, 2, 3, 5, 8, 40)) if how else 1
        yield data[start : start + size]
        start += size


def flag(knob: int, bit: int) -> bool:
    """Whether a bit of a knob is set."""
    return bool(knob >> bit & 1)


class Source:
    """Takes numbers and bytes from an input; zeros when it has ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def byte(self) -> int:
        """Return the next byte."""
        return (self.chunk(1) or b"\0")[0]

    def chunk(self, size: int) -> bytes:
        """Return up to so many bytes."""
        self._position += size
        return self._data[self._position - size : self._position]

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of several values."""
        return choices[self.byte() % len(choices)]


def new_folder() -> Path:
    """Return a folder that is gone when this process ends."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@contextlib.contextmanager
def replaced(holder: Any, **values: object) -> Iterator[None]:
    """Set attributes for a while."""
    before = {name: getattr(holder, name) for name in values}
    try:
        for name, value in values.items():
            setattr(holder, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)


@dataclass
class Reports:
    """Counts what a framing had to drop."""

    found: list[str] = field(default_factory=list)

    def __call__(self, client: int | None, text: str) -> None:
        self.found.append(text)


# ==== 2. Requests =========================================================

UPGRADE = (
    b"GET /lobby?name=Ann%20B HTTP/1.1\r\nHost: localhost:9000\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nOrigin: https://example.com\r\n"
    b"Sec-WebSocket-Protocol: v2, chat\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
)
FILE = b'GET /sub/index.html HTTP/1.1\r\nHost: x\r\nRange: bytes=2-5\r\nIf-None-Match: W/"x", *'
HEAD_WORDS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\t", b": ", b"\x85", b"\xe2\x80\xa8", b"%0d%0a", b"%00", b"%2e",
    b"%2F", b"%5c", b"%ED%A0%80", b"%E2%80%A8", b"../", b"//", b"http://x", b"HTTP/1.0", b"HEAD",
    b"Proxy: x", b"X_Real_Ip: x", b"Host: ", b"null", b"[::1]:80", b"https://example.com:443",
    b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: ", b"; ", b"=\"15\"",
    b"server_max_window_bits=10", b"client_max_window_bits=8", b"permessage-deflate",
)  # fmt: skip
_HEAD_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*")


def check_response_head(head: bytes) -> None:
    """Assert that the head of a response is one head: nothing in it has split a line."""
    first, *lines, empty, rest = head.split(b"\r\n")
    assert re.fullmatch(rb"HTTP/1\.1 \d{3} [A-Za-z -]+", first), first
    assert empty == rest == b"", head
    for line in lines:
        assert _HEAD_LINE.fullmatch(line), line


def read_request(data: bytes) -> scalesocket.Request | None:
    """Return the request that bytes are, if they are one."""
    try:
        return scalesocket.parse_request(data)
    except scalesocket.HandshakeError as error:
        assert error.status in (400, 431, 505)
        check_response_head(scalesocket.error_response(error).encode_head(keep_alive=False))
        return None


@target([UPGRADE, FILE, b"GET http://h:80/%C3%A9?a=b HTTP/1.0"], HEAD_WORDS)
def requests(data: bytes) -> None:
    """A request head is a well-formed request or refused; so is an opening handshake."""
    request = read_request(data)
    if request is None:
        return
    assert re.fullmatch(r"/[!-~]*", request.target)
    assert request.target in (request.path, f"{request.path}?{request.query}")
    for name, value in request.headers.fields:
        assert re.fullmatch(r"[!-~]+", name) and ":" not in name
        assert not set("\r\n\0") & set(value)
    try:
        response, _ = scalesocket.answer_handshake(
            request,
            subprotocols=("chat", "v2"),
            negotiate=scalesocket.net.deflate.negotiate,
            extra=[("X-A", "b")],
        )
    except scalesocket.HandshakeError as error:
        assert error.status in (400, 405, 426)
        assert (error.status == 426) == (("Sec-WebSocket-Version", "13") in error.headers)
        return
    assert request.method == "GET" and request.version == "HTTP/1.1"
    chosen = re.findall(rb"\r\nSec-WebSocket-Protocol: (.*)\r\n", response)
    assert chosen in ([], [b"chat"], [b"v2"])
    check_response_head(response)


@target(
    [b"/lobby", b"/caf%C3%A9/", b"/a%20b%25", b"/" + b"x" * 128],
    [b"%0A", b"%00", b"%7f", b"%c2%85", b"%E2%80%A8", b"%E2%80%A9", b"%2F", b"%", b"/",
     b"%ED%A0%80"],
)  # fmt: skip
def rooms(data: bytes) -> None:
    """A room's name can go into a log line, a label, a message and a variable, or is refused."""
    try:
        name = scalesocket.parse_room_name(data.decode("ascii", "ignore"))
    except scalesocket.HandshakeError as error:
        assert error.status == 400
        return
    assert 1 <= len(name) <= 128 and "/" not in name
    assert len(name.splitlines()) == 1 and not re.search("[\0-\x1f\x7f-\x9f]", name)
    name.encode()


@target(
    [b"https://example.com\nlocalhost:9000", b"http://[::1]:9000\n[::1]:9000", b"null\nnull"],
    [b"https://", b"http://", b"example.com", b":443", b":80", b":", b"\n", b".", b"null", b"[::1]",
     b"@", b"/", b"localhost", b"\xe9", b" ", b"EXAMPLE.com", b"65536"],
)  # fmt: skip
def origins(data: bytes) -> None:
    """Only the listed origin comes in, or the page's own, as read by simpler rules."""
    origin, _, host = data.decode("latin-1").partition("\n")
    headers = scalesocket.Headers([("Host", host), ("Origin", origin)])
    request = scalesocket.Request("GET", "/", "HTTP/1.1", headers)
    listed = passes(request, allowed=("https://example.com",), same=False)
    assert listed == bool(re.fullmatch(r"https://example\.com(:0*443)?", origin, re.I | re.A))
    if passes(request, allowed=(), same=True):
        bare = re.sub(r":[0-9]+$", "", host.lower())
        assert bare and re.fullmatch(rf"https?://{re.escape(bare)}(:[0-9]+)?", origin.lower())


def passes(request: scalesocket.Request, *, allowed: Sequence[str], same: bool) -> bool:
    """Whether a request's origin may come in."""
    ours = scalesocket.net.origins.split_origin(request.headers.get("Host"))[1]
    config = scalesocket.Config(addr=((ours, 9000),), origin=allowed, sameorigin=same)
    try:
        guard = scalesocket.net.origins.ListedPages(config)
        guard.check_page(request, ("192.0.2.1", 5), secure=False)
    except scalesocket.HandshakeError as error:
        assert error.status == 403
        return False
    return True


@target(
    [b"/a%20b?x=1\nUser-Agent: x", b"/r\nProxy-Connection: x\r\nX-Real-Ip: 1\r\nX_Real_Ip: 2"],
    [b"\r\nProxy: x", b"\r\nPROXY: x", b"\r\n", b": ", b"X_A: x", b"%00", b"%0a", b"=", b"\xe9",
     b"\r\nRemote-Addr: x", b"\r\nContent-Length: 0", b"?", b"\r\nPath: x", b"-"],
)  # fmt: skip
def environments(data: bytes) -> None:
    """A child gets the variables of CGI and of well-named headers, and no others."""
    path, _, fields = data.partition(b"\n")
    request = read_request(b"GET %b HTTP/1.1\r\nHost: x\r\n%b" % (path, fields))
    if request is None:
        return
    peer, local = ("192.0.2.1", 5), ("192.0.2.2", 80)
    nobody: Any = None  # it has no connection
    client = scalesocket.Client(1, "r", request, nobody, peer=peer, local=local)
    made = scalesocket.build_environment(client, ())
    names = [name for name, _ in request.headers.fields]
    given = {name.upper().replace("-", "_") for name in names if "_" not in name}
    assert made.keys() <= CGI | {f"HTTP_{name}" for name in given - {"PROXY"}}
    for name, value in made.items():
        assert re.fullmatch("[A-Z0-9_]+", name), name
        assert "\0" not in value
        os.fsencode(value)
    assert (made["REMOTE_ADDR"], made["ROOM"]) == ("192.0.2.1", "r")


CGI = frozenset(
    "GATEWAY_INTERFACE PATH_INFO PYTHONUNBUFFERED QUERY_STRING REMOTE_ADDR REMOTE_HOST REMOTE_PORT "
    "REQUEST_METHOD REQUEST_URI ROOM SCRIPT_NAME SERVER_NAME SERVER_PORT SERVER_PROTOCOL "
    "SERVER_SOFTWARE UNIQUE_ID".split()
)


@target(
    [
        b"permessage-deflate; client_max_window_bits; server_max_window_bits=10",
        b"x; a=1, permessage-deflate; server_no_context_takeover; client_max_window_bits=\"9\"",
    ],
    [b"permessage-deflate", b"server_no_context_takeover", b"client_no_context_takeover", b"; ",
     b"client_max_window_bits", b"server_max_window_bits=", b"8", b"15", b"=", b", ", b'"', b"9",
     b"permessage-deflate; server_max_window_bits=8"],
)  # fmt: skip
def extensions(data: bytes) -> None:
    """An offer is honoured within what it allows, or passed over (RFC 7692 section 7.1)."""
    try:
        offers = scalesocket.net.extensions.parse_extensions(data.decode("latin-1"))
    except scalesocket.HandshakeError as error:
        assert error.status == 400
        return
    for _, offered in offers:
        accepted = scalesocket.net.deflate.accept_deflate(offered)
        if accepted is None:
            continue
        bits, answer = accepted[0].window_bits, accepted[1]
        assert 9 <= bits <= int(offered.get("server_max_window_bits") or 15)
        ((name, agreed),) = scalesocket.net.extensions.parse_extensions(answer)
        assert name == "permessage-deflate"
        assert int(agreed.get("server_max_window_bits", 15)) == bits
        if "client_max_window_bits" in agreed:  # 7.1.2.2: only if the client has named it
            most = int(offered["client_max_window_bits"] or 15)
            assert 8 <= int(agreed["client_max_window_bits"]) <= most


@target([b"\x00\r\n" + FILE + b"\r\n\r\n" + UPGRADE + b"\r\n\r\n\x81\x80\0\0\0\0"], HEAD_WORDS)
def heads(data: bytes) -> None:
    """A connection's requests are the same wherever reads cut it, and nothing behind is lost."""
    (how,), stream = take(data[: scalesocket.MAX_HEAD], 1)

    def read(pieces: Iterator[bytes]) -> tuple[list[bytes], bytes]:
        server: Any = SimpleNamespace(taps=None)
        sock: Any = SimpleNamespace(family=scalesocket.AF_UNIX)
        session = scalesocket.HttpSession(server, sock, scalesocket.UNIX_PEER)
        found = []
        while read_head(session, pieces):
            found.append(session.head)
        return found, session.rest + b"".join(pieces)

    whole, parts = read(iter([stream])), read(cut(stream, how))
    assert whole == parts
    assert all(head and b"\r\n\r\n" not in head for head in whole[0])
    assert whole[1] == b"" or stream.endswith(whole[1])


def read_head(session: scalesocket.HttpSession, pieces: Iterator[bytes]) -> bool:
    """Send a session what it wants; return whether that was one more head."""
    life = session.read_head(1.0)
    try:
        next(life)
        while True:
            life.send(next(pieces, b""))
    except StopIteration as end:
        return bool(end.value)


PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x12\x34\0\x50"
ADDRESS = re.compile(r"[0-9a-f:.]{2,39}")


@target(
    [
        b"\x00PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\nGET",
        b"\x00PROXY UNKNOWN\r\n",
        b"\x00" + PROXY_V2 + b"GET",
        b"\x01[2001:db8::1]:80, 192.0.2.7, 10.0.0.1",
    ],
    [b"PROXY ", b"TCP6 ", b"::1", b"::ffff:10.0.0.1", b"[::1]:1", b"%eth0", b"10.0.0.2", b", ",
     b"65535", b"65536", b"\r\n", b"\n", b"\r\n\r\n\0\r\nQUIT\n", b"\x20\0\0\0", b"\x21\x21\0\x24"],
)  # fmt: skip
def proxies(data: bytes) -> None:
    """What a proxy says of its client is an address and a port, or it is not believed."""
    (kind,), content = take(data, 1)
    if kind:
        headers = scalesocket.Headers([("X-Forwarded-For", content.decode("latin-1"))])
        trusted = scalesocket.net.proxies.TrustedProxies(
            scalesocket.net.proxies.parse_proxies("10.0.0.0/8")
        )
        address, port = trusted.find_client(("10.0.0.9", 1), headers)
        assert ADDRESS.fullmatch(address) and 0 <= port <= 65535
        assert trusted.find_client(("192.0.2.9", 1), headers) == ("192.0.2.9", 1)
        return
    whole = read_proxy_header(content)
    for size in range(len(content)):
        part = read_proxy_header(content[:size])
        assert part is None or part == whole or isinstance(part, str) == isinstance(whole, str)
    if isinstance(whole, tuple):
        size, named = whole
        assert 0 <= size <= len(content)
        assert named is None or (ADDRESS.fullmatch(named[0]) and 0 <= named[1] <= 65535)


def read_proxy_header(data: bytes) -> tuple[int, tuple[str, int] | None] | str | None:
    """Return what a PROXY header says; a text if it is malformed."""
    try:
        return scalesocket.net.proxies.parse_proxy_header(data)
    except ValueError as error:
        return str(error)


# ==== 3. Frames ===========================================================


def client_frame(first: int, payload: bytes, key: bytes = b"\0\0\0\0") -> bytes:
    """Return a masked frame; with a key of zeros the payload stands in it as it is."""
    return scalesocket.encode_frame(
        first & 15, payload, fin=first > 127, rsv=first >> 4 & 7, masking_key=key
    )


DEFLATED = scalesocket.net.deflate.compress(b"a" * 300 + b"bcd" * 20, 15)
FRAME_SEEDS = (
    b"\0\0" + client_frame(0x81, b"Hello") * 2 + client_frame(0x82, bytes(130), b"abcd"),
    b"\0\3" + client_frame(0x01, "né".encode()[:2]) + client_frame(0x89, b"ping")
    + client_frame(0x00, b"") + client_frame(0x80, "né".encode()[2:]) + client_frame(0x8A, b""),
    b"\x0c\1" + client_frame(0x82, bytes(60)) * 4 + client_frame(0x88, b"\x03\xe8bye"),
    b"\2\0" + client_frame(0xC1, DEFLATED) + client_frame(0xC2, b"") + client_frame(0x81, b"x"),
    b"\6\2" + client_frame(0x41, DEFLATED[:3]) + client_frame(0x80, DEFLATED[3:]),
    b"\1\0\x81\5Hello\x02\2ab\x89\0\x80\x7e\0\x80" + bytes(128) + b"\x88\2\x03\xe8",
)  # fmt: skip
FRAME_WORDS = (
    b"\x81\x80\0\0\0\0", b"\x82\x81\0\0\0\0x", b"\x01\x81\0\0\0\0\xc3", b"\x80\x81\0\0\0\0\xa9",
    b"\x88\x82\0\0\0\0\x03\xe8", b"\x89\x80\0\0\0\0", b"\xc1\x81\0\0\0\0\0", b"\xfe\0\x7e",
    b"\xff\0\0\0\0\0\1\0\0", b"\xff", b"\xfe", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x03\0",
)  # fmt: skip
Flat = list[object]


@target(FRAME_SEEDS, FRAME_WORDS)
def frames(data: bytes) -> None:
    """Any bytes, cut anywhere, give the same events, and no more of them than is allowed."""
    (knobs, how), stream = take(data, 2)
    role = scalesocket.Role.CLIENT if flag(knobs, 0) else scalesocket.Role.SERVER
    compressed = flag(knobs, 1)
    most = 64 if flag(knobs, 2) else 4096
    with replaced(scalesocket, EVENTS_SIZE=32 if flag(knobs, 3) else 1024):
        whole, parts = (
            receive_all(role, pieces, most=most, compressed=compressed)
            for pieces in ([stream], [*cut(stream, how)])
        )
    if compressed:  # damage, length and bad UTF-8 in one message: any of them may be seen first
        whole, parts = (
            [e.failed if isinstance(e, scalesocket.Closing) and e.failed else e for e in events]
            for events in (whole, parts)
        )
    assert whole == parts, (whole, parts)


def receive_all(
    role: scalesocket.Role, pieces: Sequence[bytes], *, most: int, compressed: bool
) -> Flat:
    """Return all events of a stream, each message on its own."""
    encoding = scalesocket.net.deflate.DEFLATE[15] if compressed else scalesocket.PLAIN
    protocol = scalesocket.WebSocketProtocol(role, max_message=most, encoding=encoding)
    found: Flat = []
    for piece in pieces:
        found += flatten(protocol.receive(piece), most, len(piece))
        while protocol.pending:
            more = protocol.receive(b"")
            assert more or not protocol.pending
            found += flatten(more, most, 0)
    closings = [event for event in found if isinstance(event, scalesocket.Closing)]
    assert closings == (found[-1:] if not protocol.is_open else [])
    for closing in closings:
        assert scalesocket.may_be_sent(closing.code) or closing.code == 1005
        assert len(scalesocket.encode_close(closing.code, closing.reason)) <= 125
    return found


def flatten(events: Sequence[scalesocket.Event], most: int, received: int) -> Flat:
    """Return the events of one call, after checking how much they are, and what."""
    found: Flat = []
    total = 0
    for event in events:
        if not isinstance(event, scalesocket.Messages):
            found.append(event)
            continue
        for payload in event.payloads:
            assert len(payload) <= most
            total += len(payload)
            if event.opcode == scalesocket.Opcode.TEXT:
                payload.decode()
            found.append((event.opcode, payload))
    assert total <= scalesocket.EVENTS_SIZE + 2 * most + received, f"{total} bytes in one call"
    return found


@target([bytes(range(60)), b"\x07\x03" + b"\x01\x05hello\x01\x03\x02xyz" * 4])
def conversations(data: bytes) -> None:
    """What one end encodes the other understands: masked, fragmented, compressed, cut anywhere."""
    source = Source(data)
    knobs, how = source.byte(), source.byte()
    masked, compressed = flag(knobs, 0), flag(knobs, 1)
    wire, expected = b"", []
    for _ in range(20):
        if not source:
            break
        key = source.chunk(4).ljust(4, b"\0") if masked else b""
        if source.byte() % 4 == 0:
            payload = source.chunk(source.byte() % 126)
            wire += scalesocket.encode_frame(0x9, payload, masking_key=key)
            expected.append(scalesocket.Control(scalesocket.Opcode.PING, payload))
            continue
        opcode = source.pick((scalesocket.Opcode.TEXT, scalesocket.Opcode.BINARY))
        message = source.chunk(source.byte()) * source.pick((1, 1, 2, 300))
        if opcode == scalesocket.Opcode.TEXT:
            message = message.decode("latin-1").encode()
        rsv = 0x4 if compressed and source.byte() % 2 else 0
        payload = (
            scalesocket.net.deflate.compress(message, source.pick(range(9, 16))) if rsv else message
        )
        wire += b"".join(fragments(source, opcode, payload, rsv, key))
        expected.append((opcode, message))
    role = scalesocket.Role.SERVER if masked else scalesocket.Role.CLIENT
    found = receive_all(role, [*cut(wire, how)], most=1 << 20, compressed=compressed)
    assert found == expected


def fragments(source: Source, opcode: int, payload: bytes, rsv: int, key: bytes) -> Iterator[bytes]:
    """Yield the frames of a message."""
    cuts = sorted(source.byte() * len(payload) // 255 for _ in range(source.byte() % 4))
    edges = [0, *cuts, len(payload)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        first = number == 0
        yield scalesocket.encode_frame(
            opcode if first else 0,
            payload[start:stop],
            fin=number == len(edges) - 2,
            rsv=rsv if first else 0,
            masking_key=key,
        )


@target(
    [b"\0hello\r\nw\xc3\xb6rld\n\nlast", b"\3" + b"x" * 64 + b"\n" + b"y" * 65 + b"\nz\n"],
    [b"\r\n", b"\n", b"\r", b"\xff", b"\xc3", b"x" * 64, b"\xe2\x80\xa8"],
)
def text_lines(data: bytes) -> None:
    """A client's lines (--tcplisten) are the same wherever reads cut them, up to a bad one."""
    (how,), stream = take(data, 1)
    whole, parts = (read_lines(pieces) for pieces in ([stream], [*cut(stream, how)]))
    assert whole == parts, (whole, parts)
    for line in whole[:-1]:
        assert isinstance(line, bytes) and b"\n" not in line and len(line) <= 64
        line.decode()


def read_lines(pieces: Sequence[bytes]) -> list[bytes | int]:
    """Return the lines of a stream, and the close code that ends it."""
    protocol = scalesocket.net.lines.LineProtocol(max_message=64)
    found: list[bytes | int] = []
    for events in itertools.chain(map(protocol.receive, pieces), iter(protocol.finish, None)):
        for event in events:
            if isinstance(event, scalesocket.Closing):
                return [*found, event.code]
            assert isinstance(event, scalesocket.Messages)
            found += event.payloads
    return found


# ==== 4. Framing ==========================================================

JSON_WORDS = (
    b'"_from":', b'"id":', b'"_to":', b'"_except":', b'"_meta":true', b'"_cache":true', b'{"a":1}',
    b'"_close":{"code":1000,"reason":"x"}', b"\\u005f", b"\\u0066", b"_fro\\u006d", b"\\ud800",
    b"\\u0000", b"\\n", b"\\\"", b"\r\n", b"\n", b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbb\xbf",
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 1500, b'{"a":' * 1500, b"]", b"}", b"null",
    b"true", b"[1,2]", b"-1", b"\0", b"\xff", b"\t", b'"_From":', b'"ID ":', b"\\u0000",
    b"\xe2\x80\x8b", b"\xc5\xbf", b"\xe2\x84\xaa", b"\xef\xbc\xbf", b"\xef\xbd\x86", b"\xcc\x80",
    b"{'_to':1}", b"1.0", b'"1"',
)  # fmt: skip
FIELDS = ("_to", "_except", "_meta", "_cache", "_close")


def spells(key: str, names: Sequence[str]) -> bool:
    """Whether some parser may take a key for one of these names: read as a whole, step by step."""

    def see(text: str) -> str:
        hidden = ("Cc", "Cf", "Cs", "Mn", "Mc", "Me", "Zs", "Zl", "Zp")
        return "".join(c for c in text if unicodedata.category(c) not in hidden)

    parts = (see(part)[:100] for part in (key, key.partition("\0")[0]))
    folded = (see(unicodedata.normalize("NFKC", part).upper().casefold()) for part in parts)
    return any(name in names for name in folded)


class PlainDecoder(json.JSONDecoder):
    """JSON as the standard library reads it where it has no C: the branches of that can be seen.

    Numbers keep their digits, and an object is a list of its members, repeated ones too.
    """

    def __init__(self) -> None:
        super().__init__(
            object_pairs_hook=Object, parse_int=Digits, parse_float=str, parse_constant=refuse
        )
        self.parse_string = scan_string
        self.scan_once = json.scanner.py_make_scanner(self)


def scan_string(text: str, begin: int, strict: bool) -> tuple[str, int]:
    r"""Read the string whose opening quote stands before `begin`; return it and where it ends.

    The one without C reads `\u +12` as `int` does; the other holds to RFC 8259, section 7.
    """
    found: tuple[str, int] = json.decoder.py_scanstring(text, begin, strict)
    json.decoder.scanstring(text, begin, strict)
    return found


class Object(list[tuple[str, Any]]):
    """The members of a JSON object."""


class Digits(str):
    """A whole number."""


def refuse(name: str) -> None:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(name)


def read_object(text: bytes) -> Object | None:
    """Return the members of a JSON object; None if it is none, or nested deeply."""
    try:
        value = PlainDecoder().decode(text.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Object) else None


def json_framing(
    name: str, report: scalesocket.Report, *, strip: bool = False
) -> scalesocket.JsonFraming:
    """Return the framing whose field has that name, or has the usual ones."""
    kind = scalesocket.JsonFraming
    if name:
        kind = functools.partial(scalesocket.net.json_fields.IdFraming, id_field=name)
    return kind(report=report, strip=strip)


@target(
    [
        b'\0{"a": 1.50, "_from":3, "b":{"_from":[1,"}"]},"_fro\\u006d":null}',
        b'\1\n{\r\n"i\\u0064" : 5,\n "x":"\\n"}\n',
        b"\0{ }",
        b'\2{"_To":1,"a":{"_to":2},"_Close":true,"\xef\xbc\xbffrom":3,"_from\\u0000":4,"_\xc5\xbf":5}',
        b'\3{"_meta ":true,"\xc4\xb1d":1,"video":"id\xe2\x80\xa8"}',
        b'\0{"\\u005ffrom":1}',
    ],
    JSON_WORDS,
)
def json_from_clients(data: bytes) -> None:
    """A message is one line that begins with its true sender, the only one, or it is dropped."""
    (knobs,), payload = take(data, 1)
    name, strip = "id" if flag(knobs, 0) else "_from", flag(knobs, 1)
    own = [name, *(FIELDS[name == "id" :] if strip else ())]
    reports = Reports()
    framing = json_framing("id" if name == "id" else "", reports, strip=strip)
    run = scalesocket.Messages(scalesocket.Opcode.TEXT, [b'{"n":1}', payload, b'{"n":2}'], 0)
    before, *lines, after, end = framing.encode(7, run).split(b"\n")
    tag = f'{{"{name}":7'.encode()
    assert (before, after, end) == (tag + b',"n":1}', tag + b',"n":2}', b"")
    assert len(lines) + len(reports.found) == 1, lines
    given = read_object(payload)
    if lines and payload.count(b"[") + payload.count(b"{") < 100:
        assert given is not None
    if given is not None:
        (line,) = lines
        assert line.startswith(tag) and len(line.decode().splitlines()) == 1
        rest = [pair for pair in given if not spells(pair[0], own)]
        assert read_object(line) == [(name, "7"), *rest]


@target(
    [
        b'\0\3{"_to":1,"a":2}\n{"b":1}\nplain\n{"_meta":true,"c":[1]}\n{"_close":true,"_to":[1,2]}',
        b'\1\0{"id":4,"_except":[1]}\r\n{"_cache":true}\n\xff\xfe\n{"\\u0069d":2}\n',
        b'\0\1{"_to":null,"_close":{"code":4000,"reason":"\xc3\xa9\\ud800"}}\n',
        b'\1\0{"\\u0069d":{}}',
    ],
    JSON_WORDS,
)
def json_from_child(data: bytes) -> None:
    """What a child prints is routed alike however it is cut, and nothing private gets public."""
    (knobs, how), printed = take(data, 2)
    name = "id" if flag(knobs, 0) else ""

    def framing() -> tuple[scalesocket.Framing, Reports]:
        reports = Reports()
        return json_framing(name, reports), reports

    outputs = feed_alike(framing, printed, how)
    for output in outputs:
        if isinstance(output, scalesocket.Metadata):
            json.loads(output.text, parse_int=str)
        elif isinstance(output, scalesocket.Kick):
            assert len(scalesocket.encode_close(output.code, output.reason)) <= 125
            assert scalesocket.may_be_sent(output.code)
        elif output.to is None:
            for payload in output.payloads:
                assert not is_private(payload, name or "_to"), payload


def is_private(line: bytes, name: str) -> bool:
    """Whether a line of a child names receivers, as another JSON parser reads it, or ought to."""
    members = read_object(line)
    if members is None:  # so deep that only this parser gives up, or no object
        begin = line.lstrip(b" \t\r\n\0\xef\xbb\xbf")[:1]
        shallow = max(line.count(b"["), line.count(b"{")) < 100
        return shallow and begin == b"{" and f'"{name}"'.encode() in line
    wanted = dict(members).get(name)
    if name == "_to":
        return wanted is not None  # what is no ID goes to nobody
    if isinstance(wanted, Object):
        return False  # a message's own member that happens to have the name
    many = wanted if isinstance(wanted, list) else [wanted]
    return wanted is not None and all(
        isinstance(item, Digits) and len(item) < 4300 for item in many
    )


Outputs = list[Any]  # Route, each of one payload; Kick; Metadata


def feed_alike(
    make: Callable[[], tuple[scalesocket.Framing, Reports]], printed: bytes, how: int
) -> Outputs:
    """Feed a child's output whole and in pieces; return what it amounts to in both cases."""
    results = []
    for pieces in ([printed], [*cut(printed, how)]):
        framing, reports = make()
        outputs: Outputs = []
        for piece in pieces:
            outputs += framing.feed(piece)
            if framing.error is not None:
                break
        else:
            outputs += framing.finish()
        # Repairs of a whole batch are reported first.
        dropped = sorted(reports.found)
        results.append(([*split_runs(outputs)], dropped, str(framing.error)))
    whole, parts = results
    assert whole == parts, (whole, parts)
    return whole[0]


def split_runs(outputs: Outputs) -> Iterator[Any]:
    """Yield outputs, with one route for each message; text is valid."""
    for output in outputs:
        if not isinstance(output, scalesocket.Route):
            yield output
            continue
        for payload in output.payloads:
            if output.opcode == scalesocket.Opcode.TEXT:
                payload.decode()
            yield output._replace(payloads=[payload])


@target(
    [b"\0\0one\r\ntwo\n\nthree\r", b"\1\0a\0b\r\0c\r\n\n", b"\2\0a;b\r;", b"\3\2x\xffy\nz\xc3\xa9"],
    [b"\r\n", b"\r", b"\n", b"\0", b";", b"\xc3", b"\xa9"],
)
def lines(data: bytes) -> None:
    """Lines are the same wherever reads cut them, and what a plain split makes of them."""
    (knobs, how), printed = take(data, 2)
    delimiters = (b"\n", b"\n\0", b";", b"\r\n")[knobs % 4]

    def framing() -> tuple[scalesocket.Framing, Reports]:
        reports = Reports()
        cut = scalesocket.Framing(report=reports)
        if delimiters != b"\n":
            scalesocket.net.delimiters.set_delimiters(cut, delimiters)
        return cut, reports

    found = [output.payloads[0] for output in feed_alike(framing, printed, how)]
    pair = b"\r\n|" if set(b"\r\n") <= set(delimiters) else b""
    expected = re.split(pair + b"[" + re.escape(delimiters) + b"]", printed)
    expected = expected if expected[-1] else expected[:-1]
    if b"\n" in delimiters and b"\r" not in delimiters:
        expected = [item.removesuffix(b"\r") for item in expected]
    assert found == [item.decode(errors="replace").encode() for item in expected]


@target(
    [
        b"\0" + b"\0\0\0\0\0\0\0\1\0\0\0\2hi" + b"\0\0\0\7\0\0\0\2\0\0\0\3\xff\0\n",
        b"\1" + b"\0\0\0\0\0\0\0\1\0\0\0\1\xff" + b"\0\0\0\0\0\0\0\3\0\0\0\0",
    ],
    [b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\0\0\0\0\1\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0"],
)
def gwsocket(data: bytes) -> None:
    """Messages with a header are the same wherever reads cut them, and so is a bad header."""
    (how,), printed = take(data, 1)

    def framing() -> tuple[scalesocket.Framing, Reports]:
        reports = Reports()
        return scalesocket.net.gwsocket.GwsocketFraming(report=reports), reports

    rebuilt = b""
    for output in feed_alike(framing, printed, how):
        (payload,) = output.payloads
        receiver = output.to[0] if output.to else 0
        rebuilt += struct.pack("!III", receiver, output.opcode, len(payload))
        rebuilt += payload
    if printed.isascii():  # else text may have been repaired
        assert printed.startswith(rebuilt)


TEMPLATE = '{"room":"#ROOM","all":"#QUERY_STRING","a":"#QUERY_A","ip":"#REMOTE_ADDR","id":#ID}'


@target(
    [b'GET /%22%5C%0A%23ID?a=%22&A="}\\&b=#ROOM HTTP/1.1\r\nHost: x'],
    [b"%0a", b"%22", b"%5C", b"\\", b'"', b"}", b"#ID", b"#QUERY_A", b"?a=", b"&a=", b"%E2%80%A8"],
)
def templates(data: bytes) -> None:
    """A join message is one line of JSON with the values in it, whatever room and query are."""
    request = read_request(data)
    with contextlib.suppress(scalesocket.HandshakeError, UnicodeDecodeError):
        if request is not None:
            check_template(scalesocket.parse_room_name(request.path), request, "192.0.2.1")
        text = data.decode()  # and also what could never be a room's name
        anyone = scalesocket.Request("GET", f"/?{text}", "HTTP/1.1", scalesocket.Headers())
        check_template(text, anyone, text)


def check_template(room: str, request: scalesocket.Request, address: str) -> None:
    """Assert that no value breaks out of its string."""
    connection: Any = None
    client = scalesocket.Client(
        12, room, request, connection, peer=(address, 5), local=("192.0.2.2", 80)
    )
    text = scalesocket.expand_template(TEMPLATE, client)
    assert not set("\r\n\0") & set(text)
    value = json.loads(text)
    parameters = [part.partition("=") for part in request.query.split("&")]
    found = (
        unquote_plus(value) for name, _, value in parameters if unquote_plus(name).upper() == "A"
    )
    first = quote(next(found, ""), safe="")
    expected = {"room": room, "all": request.query, "a": first, "ip": address, "id": 12}
    assert value == expected


# ==== 5. Files ============================================================


@functools.cache
def folder() -> Path:
    """Return a folder to serve; beside it stands what must never be."""
    top = new_folder()
    root = top / "root"
    (root / "sub").mkdir(parents=True)
    (top / "secret").write_text("secret")
    (root / ".hidden").write_text("secret")
    for name in ("a.txt", "index.html", "sub/index.html"):
        (root / name).write_text("0123456789")
    (root / "out").symlink_to(top)
    (root / "secret").symlink_to(top / "secret")
    (root / "loop").symlink_to(root / "loop")
    return root


@target(
    [
        FILE,
        b"GET /sub HTTP/1.1\r\nHost: x\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
        b"HEAD /out/%2e%2e/a.txt HTTP/1.1\r\nHost: x\r\nIf-Range: \"x\"\r\nRange: bytes=-3",
        b"GET /out/secret HTTP/1.0",
        b"GET /a.txt HTTP/1.1\r\nHost: x\r\nIf-Match: \"x\"",
    ],
    [*HEAD_WORDS, b"/out", b"/secret", b"/loop", b"/.hidden", b"/sub", b"/a.txt", b"/" + b"a" * 300,
     b"If-Modified-Since: ", b"Thu, 01 Jan 1970 00:00:00 GMT", b"Range: bytes=", b"If-Range: ",
     b"01:02:03", b" -2400", b" +9999", b"Feb ", b"99999999999"],
)  # fmt: skip
def files(data: bytes) -> None:
    """No request reaches a file outside of the folder, or one that is hidden."""
    request = read_request(data)
    if request is None:
        return
    root = folder()
    try:
        response = scalesocket.net.files.WebFiles(root).respond(request)
    except scalesocket.HandshakeError as error:
        response = scalesocket.error_response(error)
        assert error.status in (400, 403, 404, 412, 416)
    check_response_head(response.encode_head(keep_alive=True, extra=[("X-A", "b")]))
    if response.status == 301:
        (location,) = (value for name, value in response.headers if name == "Location")
        assert re.fullmatch(r"/[!-.0-[\]-~][!->@-~]*/(\?[!-~]*)?", location), location
    if response.file is not None:
        response.file.close()
        path = Path(response.file.name).resolve()
        assert path.is_relative_to(root) and path.is_file()
        assert not any(part.startswith(".") for part in path.relative_to(root).parts)
        assert 0 <= response.start <= response.start + response.length <= path.stat().st_size


@target(
    [b"\x0a\0bytes=0-3", b"\x0a\0bytes=5-", b"\x0a\0bytes=-3", b"\0\0bytes=-1"],
    [b"bytes=", b"-", b"0", b"9" * 18, b"9" * 19, b",", b" ", b"\xb2"],
)
def ranges(data: bytes) -> None:
    """A range lies within the file and is the one asked for (RFC 9110 section 14.1.2)."""
    (low, high), text = take(data, 2)
    size = low | high << 8
    value = text.decode("latin-1")
    wanted = re.fullmatch(r"\s*bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))\s*", value)
    try:
        found = scalesocket.net.files.parse_range(value, size)
    except scalesocket.HandshakeError as error:
        assert error.status == 416 and wanted is not None
        assert int(wanted[1]) >= size if wanted[1] else size == 0 or int(wanted[3]) == 0
        return
    if found is None:
        return
    assert wanted is not None
    start, length = found
    assert start >= 0 and length > 0 and start + length <= size
    if wanted[1]:
        last = min(int(wanted[2] or size), size - 1)
        assert (start, start + length - 1) == (int(wanted[1]), last)
    else:
        assert (start + length, length) == (size, min(int(wanted[3]), size))


# ==== 6. What the operator writes =========================================

OPTION_WORDS = tuple(
    name.encode()
    for rows in scalesocket.list_options().values()
    for row in rows
    for name in row[0].split()
)
VALUES = (
    b"json", b"gwsocket", b"1", b"0", b"64K", b"9" * 16, b".5", b"nan", b"127.0.0.1:80", b"[::1]:1",
    b"tagged:3", b"9001:9002", b"X: y", b"https://x", b"--", b"=", b"#ID", b"\xff", b"\0", b"660",
    b".", b"/" + b"a" * 300, b"cat", b"'", b"10.0.0.0/8", b"unix", b"true", b"[", b"]", b"{}",
)  # fmt: skip


def refuse_to_load(*_: object) -> None:
    """Stand in for what would run code."""
    raise scalesocket.ConfigError("not here")


@functools.cache
def parser_of(module: ModuleType) -> Any:
    """Return the parser of the command line; making it takes longer than using it."""
    return module.build_parser()


@target(
    [
        b"--json\n--addr=[::1]:80\n--cache\ntagged:3\ncat\n--\n-u",
        b'-vv\n--frame\n--joinmsg={"id":#ID}\n--header=X: y\ncat',
        b"--origin=https://x,null\n--trustproxy=10.0.0.0/8\n--maxmsg=64K\n--auth=cat 'a b'\ncat",
        b"game:Class",
    ],
    [*OPTION_WORDS, *VALUES, b"\n"],
)
def options(data: bytes) -> None:
    """Any command line gives options or one clear error."""
    words = data.decode("utf-8", "surrogateescape").split("\n")
    files = scalesocket.find_feature("script_options")
    parser = parser_of(scalesocket)
    with (
        replaced(scalesocket, build_parser=lambda *_: parser, load_game=refuse_to_load),
        replaced(files, load_game_file=refuse_to_load),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            config = scalesocket.parse_command_line(words)
        except scalesocket.ConfigError as error:
            assert str(error)
            return
        except SystemExit as ending:
            assert ending.code == 0
            return
    assert config.command and config.target


@functools.cache
def script() -> Path:
    """Return a file to write scripts into."""
    return new_folder() / "script.py"


@target(
    [
        b'# /// script\n# [tool.scalesocket]\n# json = true\n# cache = "tagged:3"\n# ///\n',
        b'x = 1\n# /// script\r\n# [tool.scalesocket]\r\n# game = "X"\r\n# addr = ["[::1]:1"]\r\n'
        b'# staticdir = "."\n# ///\n',
        b'# /// script\n# [tool]\n# scalesocket = {maxmsg = 9, header = ["X: y"]}\n# ///\n',
    ],
    [*(word.lstrip(b"-") for word in OPTION_WORDS), *VALUES, b"# /// script\n", b"# ///\n",
     b"\n# ", b"#\n", b"[tool.scalesocket]", b" = ", b'"""', b"'''", b"[[", b"1979-05-27",
     b"0x" + b"f" * 5000, b"[" * 1500, b"inf", b"\\u0000", b"\\ud800", b'"'],
)  # fmt: skip
def scripts(data: bytes) -> None:
    """Any block of inline metadata gives options or one clear error, and runs nothing."""
    path = script()
    path.write_bytes(data)
    parser = parser_of(scalesocket)
    try:
        with replaced(scalesocket.net.script_options, build_parser=lambda *_: parser):
            own, class_name = scalesocket.net.script_options.read_script_options(path)
        assert isinstance(class_name, str)
        config = scalesocket.combine_options(own, {}, ("cat",), None)
        assert isinstance(config, scalesocket.Config)
    except scalesocket.ConfigError as error:
        assert str(error)


# ==== 7. What the operator reads ==========================================


@target(
    [b"hello", "x\r\n[ERROR] forged\x85\u2028\u202e\x9b2J\x1b[31m\x7f\0".encode()],
    [b"\n", b"\r", b"\x1b[2J", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xff", b"\x7f"],
)
def log_lines(data: bytes) -> None:
    """Whatever is logged is one line of printable characters; a traceback is indented."""
    text = data.decode("utf-8", "surrogateescape")
    record = logging.LogRecord("scalesocket", logging.INFO, "", 0, "%s", (text,), None)
    record.room, record.client = text, 7
    line = scalesocket.TextFormatter().format(record)
    assert line.isprintable() and line.startswith("[INFO] ")
    entry = scalesocket.net.logs.JsonFormatter().format(record)
    assert entry.isprintable(), ascii(entry)
    found = json.loads(entry)
    assert (found["message"], found["room"], found["client"]) == (text, text, 7)
    try:
        raise ValueError(text)
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    first, *more = scalesocket.TextFormatter().format(record).split("\n")
    assert first == line
    assert all(part.startswith("  | ") and part.isprintable() for part in more)
    assert scalesocket.net.logs.JsonFormatter().format(record).isprintable()
