"""Lines of text in place of WebSockets (`--tcplisten`): `nc localhost 9001` is a client.

The first line of a connection names its room, each further one is a message, and so is each line
that comes back.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
import urllib.parse
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from scalesocket import (
    AF_UNIX,
    HEAD_TIMEOUT,
    MAX_ROOM_NAME,
    CloseCode,
    Closing,
    Connection,
    Encoding,
    HandshakeError,
    Headers,
    Messages,
    Opcode,
    Request,
    Session,
    ShortageError,
    Want,
    log,
    parse_address,
    parse_room_name,
    refuse_if,
    valid_text_count,
)

from .last_read import FIRST_READ_TIMEOUT
from .pings import check_peer
from .presence import probe

if TYPE_CHECKING:
    from scalesocket import Client, Config, Event, Life, Opened

SEAT_MARK = "?_seat"
MAX_ROOM_LINE = 4 * MAX_ROOM_NAME + len(SEAT_MARK + "\r")  # bytes before its newline
# fmt: off
OPTIONS = (
    ("--tcplisten", "ADDR", parse_address,
     "lines of text there, for clients without WebSockets; the first line is the room"),
)
# fmt: on
ANSWER_PAUSE = 1.0  # seconds without an answer, after which who has only half-closed is let go
ANSWER_TIMEOUT = 10.0  # … or after this
ROOM_LINE_TIMEOUT = 60.0  # seconds for the first line at --tcplisten, which a person may type
MAX_KEEP_ALIVE = 32767  # seconds; Linux takes no more
UNANSWERED = 3  # attempts without an answer, before which no peer counts as gone
# Of Linux's `struct tcp_info`, which other systems lay out in other ways: how often the oldest
# bytes were sent again; probes of a peer that takes nothing (both: since an answer); segments on
# their way; milliseconds since the last acknowledgement.
TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_INFO = struct.Struct("=2xBB20xI28xI")
TCP_RTO_MAX_MS = 44  # the most between two attempts, since Linux 6.15; Python has no name for it
RTO_LIMITS = (1000, 120_000)  # milliseconds that it takes; the latter is what there is without it


def check_options(config: Config) -> None:
    """Refuse binary messages, which no line can hold.

    Raises:
        ConfigError: an option asks for them.
    """
    refuse_if(
        config.binary or config.serverframe == "gwsocket",
        "--tcplisten takes no binary messages: no --pty, --binary, --serverframe=gwsocket",
    )


def keep_alive(sock: socket.socket, interval: float) -> None:
    """Let the system find out whether a silent peer is still there, after `interval` s; 0: never.

    For peers whose protocol has no ping. While bytes are on their way, the system does not ask,
    but sends them again, or asks whether there is room for them: see `is_gone`. A peer that has had
    no room for long is asked so every two minutes, if not told otherwise.
    """
    if not interval or sock.family == AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = count_seconds(interval)
    for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", seconds), ("TCP_KEEPCNT", 2)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if TCP_INFO is not None:
        least, most = RTO_LIMITS
        with contextlib.suppress(OSError):  # this Linux is older
            milliseconds = min(max(least, 1000 * seconds), most)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, milliseconds)


def count_seconds(interval: float) -> int:
    """Return the interval in seconds, as the system takes it to ask a silent peer."""
    return min(max(1, round(interval)), MAX_KEEP_ALIVE)


def is_gone(sock: socket.socket, interval: float) -> bool:
    """Whether bytes are on their way, of which the peer has said nothing for two intervals.

    TCP alone would try for a quarter of an hour. Its TCP_USER_TIMEOUT is no help, as that also
    ends connections with who does not read for so long. On other systems than Linux nobody is
    found to be gone here.

    Args:
        sock: of a connection; with `keep_alive`, or its last answer may be old by right.
        interval: as for `keep_alive`; 0: never.
    """
    if TCP_INFO is None or not interval:
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, _TCP_INFO.size)
    except OSError:  # it is no TCP, or closed
        return False
    return is_unanswered(info, 2 * count_seconds(interval))


def is_unanswered(info: bytes, seconds: float) -> bool:
    """Whether a peer's system has not answered for so long what we have sent again and again.

    That of a peer which does not read goes on answering: that it has no room. It may have said so
    of bytes that were on their way already, and then they stay unacknowledged, but no attempt to
    send them counts.

    Args:
        info: a `struct tcp_info`, or its beginning.
    """
    if len(info) < _TCP_INFO.size:  # another system that only looks like Linux
        return False
    resent, probes, on_the_way, milliseconds = _TCP_INFO.unpack_from(info)
    attempts = resent if on_the_way else probes
    return bool(attempts >= UNANSWERED and milliseconds >= 1000 * seconds)


class LineEncoding(Encoding):
    """Messages as lines of text; no line can hold a binary message, so those are left out."""

    name = "lines"
    _ONE_LINE = bytes.maketrans(b"\r\n", b"  ")

    def encode_run(self, opcode: int, payloads: Sequence[bytes]) -> bytes:
        """Return texts, each as one line."""
        lines = payloads if opcode == Opcode.TEXT else ()
        return b"".join([line.translate(self._ONE_LINE) + b"\n" for line in lines])


LINES = LineEncoding()


class LineProtocol:
    """Lines of text in place of a WebSocket (--tcplisten): a line is a text message.

    The methods are those of `WebSocketProtocol`. There is no Close: the end of the bytes is one.

    Args:
        max_message: bytes of a line; a longer one fails with 1009.
    """

    encoding = LINES
    pending = False
    answers_close = False

    def __init__(self, *, max_message: int) -> None:
        self._max_message = max_message
        self._rest: list[bytes] = []  # of a line that has not ended
        self._rest_size = 0

    def receive(self, data: bytes) -> list[Event]:
        """Take the bytes of one `recv`; return the lines that they end."""
        head, newline, tail = data.rpartition(b"\n")
        lines: list[bytes] = []
        if newline:
            lines = b"".join((*self._rest, head)).split(b"\n")
            self._rest.clear()
            self._rest_size = 0
        if tail:
            self._rest.append(tail)
            self._rest_size += len(tail)
        return self._take(lines, len(data))

    def finish(self) -> list[Event] | None:
        """Return the last line, though it has no end, and that the peer has closed."""
        rest = b"".join(self._rest)
        self._rest.clear()
        self._rest_size = 0
        events = self._take([rest], len(rest)) if rest else []
        return events or [Closing(CloseCode.NORMAL, "", failed=False)]

    def _take(self, lines: list[bytes], size: int) -> list[Event]:
        lines = [line.removesuffix(b"\r") for line in lines]
        open_line = self._rest_size - b"".join(self._rest[-1:]).endswith(b"\r")
        lengths = [*map(len, lines), open_line]
        short = next((i for i, n in enumerate(lengths) if n > self._max_message), len(lengths))
        valid = valid_text_count(lines[:short])
        events: list[Event] = []
        if valid:
            events.append(Messages(Opcode.TEXT, lines[:valid], size))
        if valid < min(short, len(lines)):
            events.append(Closing(CloseCode.INVALID_DATA, "line is not UTF-8", failed=True))
        elif short < len(lengths):
            reason = f"line of {lengths[short]} bytes; {self._max_message} is the most"
            events.append(Closing(CloseCode.MESSAGE_TOO_BIG, reason, failed=True))
        return events

    @staticmethod
    def encode_close(code: int, reason: str) -> bytes:
        """Return a last line that tells why, if there is something to tell."""
        if not reason:
            return b""
        return json.dumps({"closed": code, "reason": reason}).encode() + b"\n"


class LineConnection(Connection):
    """A connection that knows when it was last sent something, and whose peer cannot be pinged."""

    sent_at = 0.0  # in monotonic seconds

    def send(self, data: bytes) -> bool:
        """Send lines; see `Connection`."""
        if data:
            self.sent_at = time.monotonic()
        return super().send(data)

    def send_control(self, frame: bytes) -> None:
        """Send nothing, as lines have no control frames; that the peer has gone is still seen."""
        super().send_control(b"")

    def check_system(self, interval: float, now: float, deaf: float = 0.0) -> None:
        """End the connection if the peer's system does not answer any more; see `check_peer`."""
        if not self.is_reading:
            probe(self)
        if self.is_alive() and is_gone(self._socket, interval):
            log.debug("a peer has not answered for two intervals, and is cut off")
            self.abort()

    def await_answers(self, since: float) -> None:
        """Wait until no answer has come for a moment; on a thread that may wait.

        Whoever has only half-closed a connection has asked all, and not heard all
        (`printf 'lobby\\nhi\\n' | nc localhost 9001`).

        Args:
            since: when the room began, whose program may have to start.
        """
        now = time.monotonic()
        end = now + ANSWER_TIMEOUT
        self.sent_at, first = 0.0, max(now + ANSWER_PAUSE, since + FIRST_READ_TIMEOUT)
        while not self.is_closing and now < end:
            if now >= (self.sent_at + ANSWER_PAUSE if self.sent_at else first):
                break
            time.sleep(0.02)
            now = time.monotonic()


check_peer.register(LineConnection, LineConnection.check_system)


class LineSession(Session):
    """A connection that speaks lines of text, of which the first names its room (--tcplisten)."""

    KIND = "lines"

    def open(self) -> Opened:
        """Read the line that names the room."""
        server = self.server
        self.deadline = time.monotonic() + ROOM_LINE_TIMEOUT
        yield from server.read_header(self)
        keep_alive(self.sock, server.config.ping)
        if server.taps is not None:
            server.taps.begin(self.sock, self.peer, early=self.rest, lines=True)
        if self._over_limit:
            raise HandshakeError(503, self._over_limit)
        line = yield from self.read_room_line()
        if line is None:
            return None
        # With --resume `lobby?_seat` asks for a seat; without it that is the name of a room.
        mark = SEAT_MARK if server.config.resume and line.endswith(SEAT_MARK) else ""
        path = "/" + urllib.parse.quote(line.removesuffix(mark))
        target, name = path + mark, parse_room_name(path)
        came = b"".join((self.proxied, line.encode(), b"\n", self.rest))
        if server.worker is not None and (yield from server.worker.hand_over(self, name, came)):
            return None
        relays = server.registry.relays
        if relays is not None:
            opening = None
            if relays.may_find(name, server):
                yield Want.HELPER
                opening = relays.claim(name)
            relays.entrust(self, name, opening)
        protocol = LineProtocol(max_message=server.config.maxmsg)
        connection = server.connect(self.sock, protocol, LineConnection, early=self.rest)
        request = Request("GET", target, "TCP", Headers())
        return (yield from self.admit(name, request, connection, self.peer))

    def leave(self, client: Client, closing: Closing) -> Life:
        """Let a peer that has ended its side hear the answers first, then give back the seat."""
        connection, room = client.connection, client.room
        if closing.code == CloseCode.NORMAL and room is not None:
            assert isinstance(connection, LineConnection)
            with contextlib.suppress(ShortageError):  # no thread: then it hears no more
                yield Want.HELPER
                connection.await_answers(room.since)
        yield from super().leave(client, closing)

    def read_room_line(self) -> Generator[Want, Any, str | None]:
        """Return the first line; None if the peer leaves before its end.

        Raises:
            HandshakeError: the line is too long, not UTF-8, or does not come.
        """
        while b"\n" not in self.rest:
            if (size := len(self.rest)) > MAX_ROOM_LINE:
                reason = f"{size} bytes and no end; {MAX_ROOM_LINE} is the most"
                raise HandshakeError(400, f"the first line must be the name of a room: {reason}")
            try:
                data = yield Want.BYTES
            except TimeoutError:
                reason = "the first line must be the name of a room"
                raise HandshakeError(408, reason) from None
            if not data:
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        try:
            return line.decode().strip()
        except UnicodeDecodeError:
            raise HandshakeError(400, "the room's name is not UTF-8") from None

    def refuse(self, refusal: HandshakeError) -> None:
        """Say why in a line of JSON."""
        log.debug("refused: %s", refusal.reason)
        self.sock.settimeout(HEAD_TIMEOUT)
        self.sock.sendall(json.dumps({"error": refusal.reason}).encode() + b"\n")
        self.sock.shutdown(socket.SHUT_WR)
        self.deadline = time.monotonic() + HEAD_TIMEOUT
        while self.receive(time.monotonic() + 1.0):
            pass  # what it says meanwhile; unread, it would reset what was sent
