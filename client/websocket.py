"""A small WebSocket client that blocks: connect, send, receive, close.

    from scalesocket.client.websocket import connect

    with connect("ws://localhost:9000/lobby") as ws:
        ws.send("hello")
        print(ws.receive())

It needs the standard library and `scalesocket.py`, whose protocol core (frames, messages, the
rules of RFC 6455) it drives in the client's role. `str` is a text message, `bytes` a binary one.

One thread may receive while others send, ping or close. Pings are answered, and a Close is
noticed, while somebody receives.

What comes back after it is lost is in `reconnecting.py`; `python3 -m client.websocket` is
`websocket_command.py`.

Chapters: 1. Errors  2. Addresses  3. The opening handshake  4. Stream  5. WebSocket
"""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import selectors
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from scalesocket.net.deflate import DEFLATE, shorten
from scalesocket.net.extensions import parse_extensions

from scalesocket import (
    MIB,
    PLAIN,
    CloseCode,
    Closing,
    Control,
    Event,
    Headers,
    Messages,
    Opcode,
    Role,
    ScaleSocketError,
    WebSocketProtocol,
    accept_key,
    check_close_code,
    encode_close,
    encode_frame,
)

OPEN_TIMEOUT = 10.0  # seconds for TCP, TLS and the opening handshake together
CLOSE_TIMEOUT = 5.0  # seconds for the peer's Close after ours, or for the end of TCP after both
MAX_MESSAGE = 16 * MIB  # bytes
MAX_HEAD = 16 * 1024  # bytes of the server's answer to the opening handshake
CHUNK = 64 * 1024  # bytes given to or taken from the socket at once
DEFAULT_ROOM = "lobby"
GOOD_ENDS = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS)

# ==== 1. Errors ==========================================================================
# What goes wrong below HTTP is an OSError, as everywhere in Python: a refused connection, a
# host that nobody knows, TLS that fails (`ssl.SSLError`), and a TimeoutError.


class InvalidURL(ValueError):
    """The address is not that of a WebSocket."""


class InvalidHandshake(ScaleSocketError):
    """The server answered, but did not open a WebSocket.

    Attributes:
        status: of the HTTP response; 0 if the answer was no HTTP.
        reason: one line that says what was wrong, with the first line of the response's body.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class StreamLost(ScaleSocketError):
    """This program's own input cannot be read, or its output cannot be written."""


class ConnectionClosed(ScaleSocketError):
    """The WebSocket is closed.

    Attributes:
        code: the peer's close code; 1005 if it gave none, 1006 if the connection was lost
            without a Close, and the one that was sent if the peer broke the protocol.
        reason: the peer's, or what was lost or broken.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


def explain(error: Exception, url: str) -> str:
    """Return one line for a person about an error of `connect` or of a connection."""
    place = urllib.parse.urlsplit(url).netloc if "://" in url else url
    match error:
        case ConnectionRefusedError():
            return f"nothing listens at {place}"
        case socket.gaierror():
            return f"there is no host {place}"
        case TimeoutError():
            return f"{place} did not answer in time"
        case ssl.SSLCertVerificationError():
            return f"the certificate of {place} is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"no TLS with {place}: {error.reason or error}"
        case OSError():
            return f"no connection to {place}: {error.strerror or error}"
    return escaped(str(error))


def escaped(text: str, but: str = "") -> str:
    """Return a text with escapes in place of all that could steer a terminal, `but` for some."""
    return "".join(c if c.isprintable() or c in but else repr(c)[1:-1] for c in text)


# ==== 2. Addresses =======================================================================


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a WebSocket's URL (RFC 6455 section 3)."""

    secure: bool
    host: str
    port: int
    target: str  # path and query, percent-encoded

    @property
    def authority(self) -> str:
        """What the Host header says: the port is left out if it is the scheme's own.

        So is the zone of an IPv6 address, which means something on this machine only (RFC 6874).
        """
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def own_command(program: str) -> str:
    """Return how a person starts a client of this folder: as it has been started now.

    Args:
        program: the client's module, such as `snake`.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = spec.name if spec is not None else ""
    name = f"client.{program}"
    return f"python3 -m {started if started.endswith(f'.{name}') else name}"


def make_url(address: str, room: str) -> str:
    """Return the address of a room.

    Args:
        address: such as `localhost:9000`, `[::1]:9000` or `wss://example.com`; without a port
            it is 9000, and a path stands in place of `room`. The link of a page will do, too:
            `http://localhost:9000/chat/?room=den`.

    Raises:
        InvalidURL: it cannot be read.
    """
    try:
        return _complete(address, urllib.parse.quote(room, safe="", errors="surrogateescape"))
    except ValueError as error:  # UnicodeError is one
        raise InvalidURL(f"{address!r} is no address: {error}") from None


def _complete(address: str, room: str) -> str:
    if address.startswith(("http://", "https://")):
        page = urllib.parse.urlsplit(address)
        rooms = urllib.parse.parse_qs(page.query).get("room", [])
        folder = page.path.rstrip("/").rpartition("/")[0] if rooms else page.path
        named = "".join(f"/{urllib.parse.quote(name, safe='')}" for name in rooms[:1])
        address = f"ws{page.scheme[4:]}://{page.netloc}{folder}{named}"
    if "://" not in address:
        bare_ipv6 = address.count(":") > 1 and not address.startswith("[")
        address = f"ws://[{address}]" if bare_ipv6 else f"ws://{address}"
        authority, slash, path = address.removeprefix("ws://").partition("/")
        if ":" not in authority.rpartition("]")[2]:
            authority += ":9000"
        address = f"ws://{authority}{slash}{path}"
    parts = urllib.parse.urlsplit(address)
    if parts.path in ("", "/"):
        return parts._replace(path=f"/{room}").geturl()
    return address


def parse_url(url: str) -> Address:
    """Return the parts of a `ws://` or `wss://` address.

    Raises:
        InvalidURL: it is no such address.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
        plain, _, zone = host.partition("%25")  # how a URL spells the % before one (RFC 6874)
        host = f"{plain}%{zone}" if ":" in plain and zone else host
    except ValueError as error:  # UnicodeError is one
        raise InvalidURL(f"{url!r} is no address: {error}") from None
    if parts.scheme not in ("ws", "wss") or not host:
        raise InvalidURL(f"{url!r} is no address such as ws://localhost:9000/room")
    if parts.username is not None:
        raise InvalidURL(f"{url!r} holds a user name, which does not belong into an address")
    if "#" in url:  # section 3: it has no meaning here
        raise InvalidURL(f"{url!r} has a fragment; write %23 for a # in a room's name")
    secure = parts.scheme == "wss"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = urllib.parse.quote(target, safe="!$%&'()*+,/:;=?@~")
    if port is None:
        port = 443 if secure else 80
    return Address(secure, host, port, target)


# ==== 3. The opening handshake ===========================================================
# The client's side of RFC 6455 section 4.1: a GET that asks for an upgrade, and what the answer
# must be like. Redirects are not followed: whoever asks for one server should not end at another.

_STATUS_LINE = re.compile(r"HTTP/1\.1 (\d{3})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_DEFLATE = "permessage-deflate"
_NO_TAKEOVER = ("server_no_context_takeover", "client_no_context_takeover")


class ClientHandshake:
    """Writes the request and judges the answer.

    Args:
        address: whom to ask.
        subprotocols: in the order of preference.
        headers: more fields for the request, such as `("Cookie", "…")`; a Host replaces ours.
        offers_deflate: offer permessage-deflate.

    Attributes:
        subprotocol: what the server has chosen, or an empty string.
        compressed: whether it has accepted permessage-deflate.

    Raises:
        ValueError: a field that is not the caller's to set, or that breaks the line.
    """

    def __init__(
        self,
        address: Address,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        offers_deflate: bool = False,
    ) -> None:
        self.address = address
        self.subprotocol = ""
        self.compressed = False
        self._key = base64.b64encode(secrets.token_bytes(16)).decode()
        self._offered = subprotocols
        self._offers_deflate = offers_deflate
        fields = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", "13"),
        ]
        if subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        if offers_deflate:
            fields.append(("Sec-WebSocket-Extensions", "; ".join((_DEFLATE, *_NO_TAKEOVER))))
        given = {name.lower() for name, _ in headers}
        repeated = given.intersection(name.lower() for name, _ in fields)
        if repeated:
            raise ValueError(f"the handshake itself sets {', '.join(sorted(repeated))}")
        if "host" not in given:
            fields.insert(0, ("Host", address.authority))
        lines = [encode_field(name, value) for name, value in (*fields, *headers)]
        self.request = "\r\n".join([f"GET {address.target} HTTP/1.1", *lines, "", ""]).encode(
            "latin-1"
        )

    def accept(self, head: bytes) -> None:
        """Judge the head of the answer, without its empty line.

        Raises:
            InvalidHandshake: it does not open a WebSocket.
        """
        status, phrase, headers = parse_response(head)
        if status != 101:
            where = headers.get("Location")
            hint = f", and points to {where}; redirects are not followed" if where else ""
            raise InvalidHandshake(status, f"the server answered {status} {phrase}".strip() + hint)
        if "websocket" not in headers.tokens("Upgrade"):
            raise InvalidHandshake(status, "the answer does not upgrade to websocket")
        if "upgrade" not in headers.tokens("Connection"):
            raise InvalidHandshake(status, "the answer's Connection header does not say Upgrade")
        if headers.get_all("Sec-WebSocket-Accept") != [accept_key(self._key)]:
            raise InvalidHandshake(status, "the answer's Sec-WebSocket-Accept is not for our key")
        self._check_subprotocol(headers.get_all("Sec-WebSocket-Protocol"))
        self._check_extensions(headers.get("Sec-WebSocket-Extensions"))

    def _check_subprotocol(self, chosen: list[str]) -> None:
        if not chosen:
            return
        if len(chosen) > 1 or chosen[0] not in self._offered:
            raise InvalidHandshake(101, f"subprotocol {', '.join(chosen)} has not been offered")
        self.subprotocol = chosen[0]

    def _check_extensions(self, value: str) -> None:
        """Let the server accept compression, if offered, with no context taken over.

        Its own window may have any size; without one taken over, ours is always large enough.
        """
        try:
            accepted = parse_extensions(value)
        except ScaleSocketError:
            raise InvalidHandshake(101, f"malformed extensions: {value}") from None
        if not accepted and not value:
            return
        known = {*_NO_TAKEOVER, "server_max_window_bits"}
        name, parameters = accepted[0] if len(accepted) == 1 else ("", {})
        is_ours = name == _DEFLATE and self._offers_deflate and parameters.keys() <= known
        if not is_ours or _NO_TAKEOVER[0] not in parameters:
            raise InvalidHandshake(101, f"extensions that have not been offered: {value}")
        self.compressed = True


def encode_field(name: str, value: str) -> str:
    """Return a line of a header. Raises ValueError if it would be none."""
    line = f"{name}: {value}"
    if not _FIELD.fullmatch(line):
        raise ValueError(f"{line!r} is no header field")
    return line


def parse_response(head: bytes) -> tuple[int, str, Headers]:
    """Return status, phrase and headers of an HTTP response (RFC 9112 section 4).

    Raises:
        InvalidHandshake: it is no HTTP/1.1.
    """
    line, *fields = head.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(line)
    matches = [_FIELD.fullmatch(field) for field in fields]
    if match is None or None in matches:
        raise InvalidHandshake(0, f"the answer is no HTTP/1.1: {line[:60]!r}")
    pairs = ((m[1], m[2].rstrip(" \t")) for m in matches if m is not None)
    return int(match[1]), match[2] or "", Headers(pairs)


# ==== 4. Stream ==========================================================================
# Bytes in and out of a non-blocking socket, so that a thread that waits never holds the lock
# that another one needs; with TLS one OpenSSL object serves both directions, one at a time.

Deadline = float | None  # on the clock of `time.monotonic`; None: never

# `select` alone cannot wait for a file descriptor of 1024 or more.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def deadline_after(seconds: float | None) -> Deadline:
    """Return the moment that is so many seconds away."""
    return None if seconds is None else time.monotonic() + seconds


def time_left(deadline: Deadline) -> float | None:
    """Return the seconds until a deadline, or None if there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


@contextlib.contextmanager
def held(lock: threading.Lock, deadline: Deadline) -> Iterator[None]:
    """Hold a lock. Raises TimeoutError if another thread keeps it beyond the deadline."""
    left = time_left(deadline)
    if not lock.acquire(timeout=-1 if left is None else left):
        raise TimeoutError("another thread was busy with the connection for too long")
    try:
        yield
    finally:
        lock.release()


class Stream:
    """A socket, plain or TLS, that one thread may read while others write.

    Args:
        sock: connected; the stream owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.broken = False  # nothing can be sent any more
        self.moved_at = 0.0  # when the peer has last made room for what waited to be sent
        self._socket = sock
        # Guards all of these and every call on the socket, none of which waits.
        self._lock = threading.Condition(threading.Lock())
        self._outgoing = bytearray()  # to be sent, whole frames
        self._answer = b""  # to be sent as soon as nothing else is
        self._sent = 0  # bytes, ever
        self._held = 0  # of the next ones, what TLS has taken in, and keeps until it is sent
        self._ended = False  # nothing may be added to `_outgoing`
        self._is_full = False  # the kernel has last taken nothing
        self._waiting = 0  # threads that wait for the socket

    def send(self, data: bytes, deadline: Deadline, *, last: bool = False) -> None:
        """Send bytes, and wait until the kernel has them.

        Args:
            data: kept whole, whatever other threads send.
            deadline: when to stop waiting.
            last: nothing can be sent after this.

        Raises:
            TimeoutError: nothing has been sent; or some of it, and the rest goes out while
                someone sends or receives.
            ConnectionError: the connection is broken, or the last has been sent.
        """
        with self._lock:
            if self._ended:
                raise ConnectionError("nothing can be sent any more")
            self._ended = last
            self._outgoing += data
            goal = self._sent + len(self._outgoing)
            try:
                while (wanted := self._send_some()) and self._sent < goal:
                    self._wait(wanted, deadline)
            except TimeoutError:
                self._take_back(data, goal)
                raise
            if self.broken:
                raise ConnectionError("the connection is broken")

    def _take_back(self, data: bytes, goal: int) -> None:
        """Do not send what nobody waits for any more, unless some of it has been sent.

        It would come much too late, and such messages would pile up.
        """
        if self._ended or self._sent + len(self._outgoing) != goal:  # others have come behind it
            return
        if self._sent + self._held <= goal - len(data):
            del self._outgoing[-len(data) :]

    def answer(self, data: bytes) -> None:
        """Send a pong without waiting; until it can be sent, a newer one takes its place.

        So a peer that pings and does not read can neither block us nor fill our memory.
        """
        with self._lock:
            self._answer = data
            self._send_some()

    def receive(self, deadline: Deadline) -> bytes:
        """Return bytes once some have come; none at the end, also when it was abrupt.

        Raises:
            TimeoutError: none came in time.
        """
        with self._lock:
            while True:
                data, wanted = self._receive_some()
                if data is not None:
                    return data
                self._wait(wanted | self._send_some(), deadline)

    def close(self) -> None:
        """End the connection; threads that wait for it wake up and find it so."""
        with self._lock:
            self.broken = True
            with contextlib.suppress(OSError):  # it has ended already
                # An SSLSocket's own method would make it a plain one, under a reader's eyes.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            self._lock.wait_for(lambda: not self._waiting)  # the kernel may use its number again
            self._socket.close()

    def _wait(self, wanted: int, deadline: Deadline) -> None:
        """Wait for the socket, without the lock, which the caller holds."""
        left = time_left(deadline)
        self._waiting += 1
        self._lock.release()
        try:
            with _Selector() as selector:
                selector.register(self._socket, wanted)
                if not selector.select(left) and left is not None:
                    raise TimeoutError("nothing happened in time")
        finally:
            self._lock.acquire()
            self._waiting -= 1
            self._lock.notify_all()

    def _send_some(self) -> int:
        """Give the kernel what it takes; return what to wait for, 0 when all is sent."""
        while not self.broken:
            if not self._outgoing and not self._ended:
                self._outgoing += self._answer
                self._answer = b""
            if not self._outgoing:
                return 0
            try:
                sent = self._socket.send(self._outgoing[:CHUNK])
            except BlockingIOError:
                self._is_full = True
                return _WRITE
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                self._held = self._held or len(self._outgoing[:CHUNK])
                if isinstance(error, ssl.SSLWantReadError):
                    return _READ
                self._is_full = True
                return _WRITE
            except OSError:
                self.broken = True
            else:
                if self._is_full:
                    self._is_full, self.moved_at = False, time.monotonic()
                self._sent += sent
                self._held = 0
                del self._outgoing[:sent]
        self._outgoing.clear()
        return 0

    def _receive_some(self) -> tuple[bytes | None, int]:
        """Return what has come, or None and what to wait for."""
        try:
            return self._socket.recv(CHUNK), 0
        except (BlockingIOError, ssl.SSLWantReadError):
            return None, _READ
        except ssl.SSLWantWriteError:
            return None, _WRITE
        except OSError:  # reset by the peer, TLS broken, closed by us
            return b"", 0


# ==== 5. WebSocket =======================================================================


class WebSocket:
    """An open WebSocket. Made by `connect`.

    Two locks: `_receive_lock` is held by the one thread that receives, also while it waits, and
    guards what that knows; the stream has its own, which nobody holds while waiting.

    Attributes:
        subprotocol: what the server has chosen, or an empty string.
        close_code, close_reason: as in `ConnectionClosed`; None and empty while it is open.
        latency: seconds between the last `ping` and its pong; None before the first.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        subprotocol: str = "",
        compressed: bool = False,
        max_message: int = MAX_MESSAGE,
        close_timeout: float = CLOSE_TIMEOUT,
        received: bytes = b"",
    ) -> None:
        self.subprotocol = subprotocol
        self.close_code: int | None = None
        self.close_reason = ""
        self.latency: float | None = None
        self._stream = stream
        self._compressed = compressed
        self._close_timeout = close_timeout
        self._protocol = WebSocketProtocol(
            Role.CLIENT, max_message=max_message, encoding=DEFLATE[15] if compressed else PLAIN
        )
        self._receive_lock = threading.Lock()
        self._messages: deque[str | bytes] = deque()  # come in one batch, not yet received
        self._pinged = (b"", 0.0)  # the last ping's payload, and when
        self._heard_at = time.monotonic()
        self._take(self._protocol.receive(received))

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000, or with 1001 when an error ends the block."""
        self.close(CloseCode.NORMAL if kind is None else CloseCode.GOING_AWAY)

    def __iter__(self) -> Iterator[str | bytes]:
        """Give out messages until the peer closes with 1000, 1001 or no code.

        Raises:
            ConnectionClosed: it closed with another code, or was lost.
        """
        try:
            while True:
                yield self.receive()
        except ConnectionClosed as closed:
            if closed.code not in GOOD_ENDS:
                raise

    @property
    def silence(self) -> float:
        """Seconds since anything came, a pong for example; known only while someone receives.

        Or since the peer made room for what waited to be sent: who takes that is there.
        """
        return time.monotonic() - max(self._heard_at, self._stream.moved_at)

    # ---- sending

    def send(self, message: str | bytes, timeout: float | None = None) -> None:
        """Send a message: `str` as text, `bytes` as binary.

        Args:
            message: the whole of it.
            timeout: seconds to wait for a peer that does not read; None: for ever.

        Raises:
            ConnectionClosed: the WebSocket is closed.
            TimeoutError: nothing of it has been sent; or the kernel has the beginning, and the
                rest goes out while someone sends or receives.
            TypeError: it is neither `str` nor `bytes`.
        """
        if isinstance(message, str):
            opcode, payload = Opcode.TEXT, message.encode()
        elif isinstance(message, bytes | bytearray | memoryview):
            opcode, payload = Opcode.BINARY, bytes(message)
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        rsv = 0
        if self._compressed:
            rsv, payload = shorten(payload, 15)
        self._send_frame(opcode, payload, deadline_after(timeout), rsv=rsv)

    def ping(self, payload: bytes = b"", timeout: float | None = None) -> None:
        """Send a ping; its pong is noticed, and `latency` set, while someone receives.

        Args:
            payload: up to 125 bytes; random if empty.
            timeout: as of `send`.

        Raises:
            ConnectionClosed: the WebSocket is closed.
            TimeoutError: as of `send`.
            ValueError: the payload is too long.
        """
        payload = payload or secrets.token_bytes(4)
        if len(payload) > 125:
            raise ValueError(f"ping of {len(payload)} bytes; 125 is the most")
        self._pinged = (payload, time.monotonic())
        self._send_frame(Opcode.PING, payload, deadline_after(timeout))

    def _send_frame(self, opcode: int, payload: bytes, deadline: Deadline, *, rsv: int = 0) -> None:
        try:
            self._stream.send(self._encode(opcode, payload, rsv=rsv), deadline)
        except ConnectionError:
            self._find_end()
            raise self._closed() from None

    def _encode(self, opcode: int, payload: bytes, *, rsv: int = 0) -> bytes:
        """Return a frame with a fresh masking key, which nobody can foresee (5.3)."""
        return encode_frame(opcode, payload, rsv=rsv, masking_key=secrets.token_bytes(4))

    def _find_end(self) -> None:
        """Learn why nothing can be sent: the peer's Close may still be on the way in."""
        deadline = deadline_after(self._close_timeout)
        with contextlib.suppress(TimeoutError), held(self._receive_lock, deadline):
            while self.close_code is None and time_left(deadline):
                self._read(deadline)
        self._end(CloseCode.ABNORMAL, "the connection was lost")

    # ---- receiving

    def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message.

        Args:
            timeout: seconds; 0 takes only what has come already; None waits for ever.

        Raises:
            ConnectionClosed: there will be none.
            TimeoutError: there was none in time.
        """
        deadline = deadline_after(timeout)
        with held(self._receive_lock, deadline):
            while not self._messages:
                if self.close_code is not None:
                    self._await_end()
                    raise self._closed()
                self._read(deadline)
            return self._messages.popleft()

    def _read(self, deadline: Deadline) -> None:
        """Take one batch from the stream. The caller holds `_receive_lock`."""
        data = b""
        if not self._protocol.pending:
            data = self._stream.receive(deadline)
            if not data:
                self._end(CloseCode.ABNORMAL, "the connection was lost")
                return
            self._heard_at = time.monotonic()
        self._take(self._protocol.receive(data))

    def _take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Messages(opcode=Opcode.TEXT):
                    self._messages.extend(payload.decode() for payload in event.payloads)
                case Messages():
                    self._messages.extend(event.payloads)
                case Control(opcode=Opcode.PING):
                    self._stream.answer(self._encode(Opcode.PONG, event.payload))
                case Control() if event.payload == self._pinged[0]:
                    self.latency = time.monotonic() - self._pinged[1]
                case Closing():
                    self._end(event.code, event.reason)
                    reply = encode_close(event.code, event.reason if event.failed else "")
                    self._send_close(reply, deadline_after(self._close_timeout))

    # ---- closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Perform the closing handshake and end the connection, at the latest after a while.

        Messages that have not been received are lost. To close twice has no effect.

        Args:
            code: 1000 or 3000 to 4999; some others are allowed (RFC 6455 section 7.4).
            reason: up to 123 bytes in UTF-8; the rest is cut off.

        Raises:
            ValueError: the code must not be sent.
        """
        check_close_code(code)
        deadline = deadline_after(self._close_timeout)
        self._send_close(encode_close(code, reason), deadline)
        with contextlib.suppress(TimeoutError), held(self._receive_lock, deadline):
            while self.close_code is None and time_left(deadline):
                self._read(deadline)
                self._messages.clear()
            self._await_end()
        self._end(CloseCode.ABNORMAL, "no answer to our Close")
        self._stream.close()

    def abort(self) -> None:
        """End the connection at once, without a Close; whoever receives finds it lost."""
        self._stream.close()

    def _send_close(self, payload: bytes, deadline: Deadline) -> None:
        """Send a Close, unless that has been done; nothing is sent after it (5.5.1)."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            self._stream.send(self._encode(Opcode.CLOSE, payload), deadline, last=True)

    def _await_end(self) -> None:
        """Let the server close TCP first (7.1.1). The caller holds `_receive_lock`."""
        deadline = deadline_after(self._close_timeout)
        with contextlib.suppress(TimeoutError):
            while time_left(deadline) and not self._stream.broken:
                if not self._stream.receive(deadline):
                    break
        self._stream.close()

    def _end(self, code: int, reason: str) -> None:
        """Note why the WebSocket has ended; the first cause is the one that counts."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason

    def _closed(self) -> ConnectionClosed:
        code = CloseCode.ABNORMAL if self.close_code is None else self.close_code
        return ConnectionClosed(code, self.close_reason)


def connect(
    url: str,
    *,
    timeout: float | None = OPEN_TIMEOUT,
    subprotocols: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    ssl_context: ssl.SSLContext | None = None,
    compression: bool = False,
    max_message: int = MAX_MESSAGE,
    close_timeout: float = CLOSE_TIMEOUT,
    unix_path: str | None = None,
) -> WebSocket:
    """Open a WebSocket.

    Args:
        url: such as `ws://localhost:9000/room`, or `wss://…` for TLS.
        timeout: seconds for everything until it is open.
        subprotocols: to offer, in the order of preference.
        headers: more fields for the request.
        ssl_context: for `wss://`; without one the system's authorities are trusted.
        compression: offer permessage-deflate (RFC 7692).
        max_message: bytes; a longer message that comes closes the WebSocket with 1009.
        close_timeout: seconds for each step of closing.
        unix_path: connect to this Unix socket in place of the address's host.

    Raises:
        InvalidURL, InvalidHandshake: the address is wrong; the server opens no WebSocket there.
        OSError: there is no connection, or no TLS, or not in time (TimeoutError).
    """
    handshake = ClientHandshake(parse_url(url), subprotocols, tuple(headers), compression)
    deadline = deadline_after(timeout)
    stream, received = open_stream(handshake, unix_path, ssl_context, deadline)
    return WebSocket(
        stream,
        subprotocol=handshake.subprotocol,
        compressed=handshake.compressed,
        max_message=max_message,
        close_timeout=close_timeout,
        received=received,
    )


def open_stream(
    handshake: ClientHandshake,
    unix_path: str | None,
    context: ssl.SSLContext | None,
    deadline: Deadline,
) -> tuple[Stream, bytes]:
    """Connect and perform the opening handshake; return also what has come behind it."""
    stream = Stream(open_socket(handshake.address, unix_path, context, deadline))
    try:
        return stream, shake_hands(stream, handshake, deadline)
    except BaseException:
        stream.close()
        raise


def open_socket(
    address: Address, unix_path: str | None, context: ssl.SSLContext | None, deadline: Deadline
) -> socket.socket:
    """Connect, and agree on TLS where the address asks for it."""
    if unix_path is None:
        sock = connect_any(address.host, address.port, deadline)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(patience(deadline))
        if unix_path is not None:
            sock.connect(unix_path)
        if address.secure:
            context = context or ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=address.host.partition("%")[0])
    except BaseException:
        sock.close()
        raise
    return sock


def connect_any(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address of a host that answers; each has its share of the time."""
    failed = OSError("the host has no address")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, (family, kind, protocol, _, place) in enumerate(found):
        left = patience(deadline)
        share = None if left is None else left / (len(found) - index)
        try:
            return connect_one(socket.socket(family, kind, protocol), place, share)
        except OSError as error:
            failed = error
    raise failed


def connect_one(sock: socket.socket, place: Any, timeout: float | None) -> socket.socket:
    """Connect a socket; it is closed if that fails."""
    try:
        sock.settimeout(timeout)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def patience(deadline: Deadline) -> float | None:
    """Return a socket's time-out until a deadline; none is 0, which means not to wait."""
    left = time_left(deadline)
    return None if left is None else max(0.001, left)


def shake_hands(stream: Stream, handshake: ClientHandshake, deadline: Deadline) -> bytes:
    """Perform the opening handshake; return what the server has sent behind it.

    Raises:
        InvalidHandshake: the server does not open a WebSocket.
        TimeoutError: it takes too long.
    """
    with contextlib.suppress(ConnectionError):  # then it has answered, or ended
        stream.send(handshake.request, deadline)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = stream.receive(deadline)
        answer += data
        if not data and not answer:
            raise InvalidHandshake(0, "the server closed the connection without an answer")
        if not data or len(answer) > MAX_HEAD:
            raise InvalidHandshake(0, f"the answer is no HTTP/1.1: {answer[:60]!r}")
    head, _, rest = answer.partition(b"\r\n\r\n")
    try:
        handshake.accept(head)
    except InvalidHandshake as error:
        if error.status in (0, 101):
            raise
        line = read_line(stream, rest, deadline)
        raise InvalidHandshake(error.status, f"{error.reason}: {line}".rstrip(": ")) from None
    return rest


def read_line(stream: Stream, body: bytes, deadline: Deadline) -> str:
    """Return the first line of a response's body, to tell a person what it says."""
    with contextlib.suppress(TimeoutError):
        while b"\n" not in body and len(body) < 200 and (data := stream.receive(deadline)):
            body += data
    line = body.strip().partition(b"\n")[0][:200].decode(errors="replace")
    return "".join(character for character in line if character.isprintable())


if __name__ == "__main__":
    from .websocket_command import main

    sys.exit(main())
