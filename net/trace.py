"""Printing every frame that crosses the wire, drawn as RFC 6455 section 5.2 draws it.

    12:30:01.250117 #1 127.0.0.1:50412 /lobby < text, 5 bytes
        | FIN | RSV | opcode | MASK | length  | masking key |
        | 1   | 000 | 0001   | 1    | 0000101 | 37 fa 21 3d |
        | yes |     | text   | yes  | 5       |             |
        "Hello"

`<` was received, `>` was sent, `=` is what happened to the connection. The tracer listens in on
what the server reads and writes (`net/tap.py`) and has a parser of its own, so it also shows
what the server refuses. It prints from a thread of its own; when that or the terminal cannot keep
up, frames are counted instead of shown.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import hashlib
import itertools
import math
import os
import time
import urllib.parse
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from scalesocket import (
    ACCEPT_GUID,
    MAX_HEAD,
    OUT_OF_MEMORY,
    CloseCode,
    Opcode,
    apply_mask,
    log,
    may_be_sent,
)

from .deflate import RSV1
from .tap import Address, Event, Flow, Record, Tape, write_patiently

TAPE_SIZE = 4 * 1024 * 1024  # bytes that may wait to be printed
LAST_TIME = 3.0  # seconds at the end in which frames are drawn; to count the rest takes few more
KEPT_SIZE = 4096  # bytes of a payload that are looked at
SHOWN_TEXT = 480  # characters of a text
SHOWN_BYTES = 128  # bytes of what is no text
MAX_PENDING = 64  # requests of a connection that are looked at before they are answered
INDENT = "    "
WIDEST = 1000  # columns, of a file or a pipe
TAIL = b"\x00\x00\xff\xff"  # what RFC 7692 section 7.2.1 leaves out at the end

OPCODES = {opcode.value: opcode.name.lower() for opcode in Opcode}
UTF8 = codecs.getincrementaldecoder("utf-8")
KINDS = frozenset((*OPCODES.values(), "handshake", "http"))


# ==== 1. What is wanted ==================================================================


class Filter:
    """Which rooms and kinds of frames are shown.

    Args:
        words: kinds (`text`, `binary`, `continuation`, `close`, `ping`, `pong`, `handshake`,
            `http`) and names of rooms; with a `/` before it anything is a room. Nothing of one
            sort: all of that sort.
    """

    def __init__(self, words: Iterable[str]) -> None:
        words = [word for word in words if word]
        self._kinds = {word for word in words if word in KINDS}
        self._rooms = {word.removeprefix("/") for word in words if word not in KINDS}

    def wants(self, room: str | None, *kinds: str) -> bool:
        """Whether something in a room is shown that is of these kinds.

        Args:
            room: its name; None: it is in none.
            kinds: one is enough; a continuation frame is also of its message's kind.
        """
        if self._rooms and room not in self._rooms:
            return False
        return not self._kinds or not self._kinds.isdisjoint(kinds)


# ==== 2. Reading frames ==================================================================
# `scalesocket.FrameParser` stops at the first fault. This reader goes on, to show it.


@dataclass(slots=True)
class SeenFrame:
    """A frame as it was on the wire."""

    header: bytes  # all that comes before the payload
    payload: bytearray = field(default_factory=bytearray)  # unmasked; KEPT_SIZE bytes at most

    @property
    def fin(self) -> bool:
        """Whether it ends its message."""
        return self.header[0] >= 0x80

    @property
    def rsv(self) -> int:
        """The three reserved bits, RSV1 highest."""
        return self.header[0] >> 4 & 7

    @property
    def opcode(self) -> int:
        """What it carries."""
        return self.header[0] & 0xF

    @property
    def begins_message(self) -> bool:
        """Whether a message begins with it, which alone may be marked as compressed."""
        return Opcode.CONTINUATION < self.opcode < Opcode.CLOSE

    @property
    def masked(self) -> bool:
        """Whether there is a masking key."""
        return self.header[1] >= 0x80

    @property
    def key(self) -> bytes:
        """The masking key, or nothing."""
        return self.header[-4:] if self.masked else b""

    @property
    def extended(self) -> bytes:
        """The bytes of a length that does not fit into 7 bits."""
        return self.header[2 : len(self.header) - len(self.key)]

    @property
    def length(self) -> int:
        """Bytes of payload."""
        return int.from_bytes(self.extended, "big") if self.extended else self.header[1] & 0x7F

    @property
    def kind(self) -> str:
        """The opcode's name."""
        return OPCODES.get(self.opcode, f"opcode {self.opcode}")


class FrameReader:
    """Cuts one direction of a connection into frames, whatever they are."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._frame: SeenFrame | None = None  # whose payload is arriving
        self._missing = 0  # bytes of it

    def feed(self, data: bytes) -> Iterator[SeenFrame]:
        """Take bytes; return the frames that they complete."""
        self._data += data
        while self._frame is not None or self._begin():
            assert self._frame is not None
            self._take_payload(self._frame)
            if self._missing:
                return
            frame, self._frame = self._frame, None
            yield frame

    def _begin(self) -> bool:
        """Take the next header, if all of it is there."""
        if len(self._data) < 2:
            return False
        second = self._data[1]
        size = 2 + {126: 2, 127: 8}.get(second & 0x7F, 0) + (4 if second >= 0x80 else 0)
        if len(self._data) < size:
            return False
        self._frame = SeenFrame(bytes(self._data[:size]))
        self._missing = self._frame.length
        del self._data[:size]
        return True

    def _take_payload(self, frame: SeenFrame) -> None:
        count = min(self._missing, len(self._data))
        piece = bytes(self._data[: min(count, KEPT_SIZE - len(frame.payload))])
        del self._data[:count]
        self._missing -= count
        if frame.masked:
            shift = len(frame.payload) % 4
            piece = apply_mask(piece, frame.key[shift:] + frame.key[:shift])
        frame.payload += piece


class MessageReader:
    """Follows the messages of one direction, to tell what a fragment belongs to."""

    def __init__(self) -> None:
        self.compression = False  # has been negotiated
        self.opcode = Opcode.CONTINUATION.value  # of the message under way
        self._inflater: zlib._Decompress | None = None  # of a compressed message
        self._cut = False  # not all of it has been looked at, which what follows would need
        self._under_way = False
        self._closed = False
        self._decoder: codecs.IncrementalDecoder | None = None  # of a text with no fault so far

    def find_disorder(self, frame: SeenFrame) -> Iterator[str]:
        """Return what RFC 6455 forbids about the place of a frame that is taken next."""
        if frame.opcode == Opcode.CONTINUATION and not self._under_way:
            yield "there is no message that it continues (5.4)"
        if frame.begins_message and self._under_way:
            yield "the message before it is not finished (5.4)"
        if frame.opcode < Opcode.CLOSE and self._closed:
            yield "no data follows a Close (5.5.1)"
        self._closed |= frame.opcode == Opcode.CLOSE

    def take(self, frame: SeenFrame) -> bytes | str | None:
        """Follow a data frame.

        Returns:
            What it decompresses to, up to KEPT_SIZE bytes; None if it is not compressed; a text
            that says why it cannot be done.
        """
        if frame.begins_message or not self._under_way:
            self.opcode = frame.opcode
            compressed = self.compression and frame.begins_message and frame.rsv & RSV1
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if compressed else None
            self._cut = False
            self._decoder = UTF8() if self.opcode == Opcode.TEXT else None
        self._under_way = not frame.fin
        data = bytes(frame.payload)
        whole = len(data) == frame.length
        if self._inflater is None:
            self._cut |= not whole
            return None
        if self._cut:
            return "it is not decompressed: what is before it was too much to look at"
        try:
            plain = self._inflater.decompress(
                data + (TAIL if frame.fin and whole else b""), KEPT_SIZE
            )
        except zlib.error as error:
            return f"it cannot be decompressed: {error}"
        self._cut = not whole or bool(self._inflater.unconsumed_tail)
        return plain

    def find_bad_text(self, frame: SeenFrame, plain: bytes | str | None) -> Iterator[str]:
        """Return what is wrong with the text in a frame; `plain`: what `take` returned for it."""
        data = bytes(frame.payload) if plain is None else plain
        if self._decoder is not None and isinstance(data, bytes):
            try:
                self._decoder.decode(data, frame.fin and not self._cut)
            except UnicodeDecodeError:
                yield "the text is not UTF-8 (8.1)"
                self._decoder = None
        if self._cut:
            self._decoder = None


def find_faults(frame: SeenFrame, *, from_client: bool, compression: bool) -> Iterator[str]:
    """Return what RFC 6455 forbids about a frame's header."""
    control = frame.opcode >= Opcode.CLOSE
    if frame.masked != from_client:
        yield "a client must mask, a server must not (5.1)"
    if frame.rsv & ~(RSV1 if compression and frame.begins_message else 0):
        yield "a reserved bit is set that no extension has given a meaning (5.2)"
    if frame.opcode not in OPCODES:
        yield "the opcode is reserved (5.2)"
    if frame.extended and frame.length < (126 if len(frame.extended) == 2 else 65536):
        yield "the length is not in its shortest form (5.2)"
    if frame.length >= 1 << 63:
        yield "the first bit of a length must be 0 (5.2)"
    if control and not frame.fin:
        yield "a control frame must not be fragmented (5.5)"
    if control and frame.length > 125:
        yield "a control frame has at most 125 bytes (5.5)"


# ==== 3. Drawing =========================================================================


def escape(text: str) -> str:
    """Return a text in which nothing can play tricks on a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def dump(data: bytes) -> str:
    """Return bytes as on a page of hex."""
    return data.hex(" ")


def draw_table(columns: Sequence[tuple[str, str, str]], width: int) -> list[str]:
    """Return three lines: the columns' titles, what is on the wire, and what that means.

    Columns for which a terminal of that width has no space stand below the others.
    """
    widths = [max(map(len, column)) for column in columns]
    ends = list(itertools.accumulate((w + 3 for w in widths), initial=1))
    count = max(1, sum(end <= width for end in ends[1:]))
    rows = zip(*columns[:count], strict=True)
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths[:count], strict=True)) + " |"
        for row in rows
    ]
    return lines + draw_table(columns[count:], width) if columns[count:] else lines


def draw_header(frame: SeenFrame, compressed: bool, width: int = WIDEST) -> list[str]:
    """Return a frame's header as a table, or as some if it is wider than that."""
    short = frame.header[1] & 0x7F
    follow = {126: "16 bits follow", 127: "64 bits follow"}.get(short, str(frame.length))
    columns = [
        ("FIN", f"{frame.fin:b}", "yes" if frame.fin else "no"),
        ("RSV", f"{frame.rsv:03b}", "compressed" if compressed else ""),
        ("opcode", f"{frame.opcode:04b}", frame.kind),
        ("MASK", f"{frame.masked:b}", "yes" if frame.masked else "no"),
        ("length", f"{short:07b}", follow),
    ]
    if frame.extended:
        columns.append(("extended length", dump(frame.extended), str(frame.length)))
    if frame.masked:
        columns.append(("masking key", dump(frame.key), ""))
    return draw_table(columns, width)


def draw_bytes(data: bytes, length: int) -> list[str]:
    """Return bytes as hex and letters, 16 in a line; `length`: how many there were."""
    lines = []
    for start in range(0, min(len(data), SHOWN_BYTES), 16):
        row = data[start : start + 16]
        letters = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{dump(row):<47}  {letters}")
    if length > SHOWN_BYTES:
        lines.append(f"... {length - SHOWN_BYTES} bytes more")
    return lines


def draw_text(data: bytes, length: int) -> list[str]:
    """Return a text in quotation marks; `length`: how many bytes there were."""
    begin = data.decode(errors="surrogateescape")[:SHOWN_TEXT]
    shown = begin.encode(errors="surrogateescape")
    elided = f" ... {length - len(shown)} bytes more" if length > len(shown) else ""
    return [f'"{escape(shown.decode(errors="backslashreplace"))}"{elided}']


def draw_close(payload: bytes) -> list[str]:
    """Return the code and the reason in a Close frame."""
    if len(payload) < 2:
        return ["no code" if not payload else f"1 byte is no code: {dump(payload)}"]
    code = int.from_bytes(payload[:2], "big")
    names = {member.value: member.name for member in CloseCode}
    name = names.get(code, "an application's" if 3000 <= code <= 4999 else "")
    remark = "" if may_be_sent(code) else " - must not be sent (7.4)"
    line = f"{dump(payload[:2])} = {code} {name}".rstrip() + remark
    lines = [line, *draw_text(payload[2:], len(payload) - 2)] if payload[2:] else [line]
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        lines.append("! it is not UTF-8 (8.1)")
    return lines


def draw_payload(frame: SeenFrame, opcode: int) -> list[str]:
    """Return a payload in lines; `opcode`: of the message that it belongs to."""
    data = bytes(frame.payload)
    if not frame.length:
        return []
    if frame.opcode == Opcode.CLOSE:
        return draw_close(data)
    if frame.opcode >= Opcode.CLOSE:
        is_text = data.isascii() and data.decode().isprintable()
    else:
        is_text = opcode == Opcode.TEXT
    if is_text:
        return draw_text(data, frame.length)
    return draw_bytes(data, frame.length)


def draw_inflated(plain: bytes | str, opcode: int) -> list[str]:
    """Return in lines what a compressed payload holds."""
    if isinstance(plain, str):
        return [f"! {plain}"]
    draw = draw_text if opcode == Opcode.TEXT else draw_bytes
    lines = draw(plain, len(plain)) or ["nothing"]
    more = ", or more" if len(plain) >= KEPT_SIZE else ""
    return [f"decompressed ({len(plain)} bytes{more}):", *lines]


def draw_accept(key: str, answer: str) -> list[str]:
    """Return how the answer to a Sec-WebSocket-Key comes about (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key.encode() + ACCEPT_GUID).digest()
    accept = base64.b64encode(digest).decode()
    verdict = "as answered" if accept == answer else f"but the answer was {answer or 'none'}"
    return [
        "Sec-WebSocket-Accept comes about so (section 4.2.2):",
        f"  the key         {key}",
        f"  and the GUID    {ACCEPT_GUID.decode()}",
        f"  SHA-1 of both   {dump(digest)}",
        f"  in base64       {accept}, {verdict}",
    ]


# ==== 4. A connection ====================================================================


class Head:
    """The first line and the headers of a request or a response."""

    def __init__(self, data: bytes) -> None:
        self.lines = data.decode("latin-1").split("\r\n")
        self.words = [*self.lines[0].split(" "), "", "", ""]
        fields = (line.partition(":") for line in self.lines[1:])
        self.fields = {name.strip().lower(): value.strip() for name, _, value in fields}

    @property
    def is_upgrade(self) -> bool:
        """Whether a request asks for a WebSocket."""
        protocols = self.fields.get("upgrade", "").lower().split(",")
        return "websocket" in map(str.strip, protocols)

    @property
    def is_last(self) -> bool:
        """Whether no request follows: frames may, or its body, which the server does not read."""
        size, coding = (self.fields.get(n) for n in ("content-length", "transfer-encoding"))
        return self.is_upgrade or bool(coding) or size not in (None, "", "0")

    @property
    def is_of_console(self) -> bool:
        """Whether a request is one that the console's page makes all the time (`--console`).

        Names of rooms have no slash, so it is no room's.
        """
        return self.words[1].partition("?")[0].endswith(("/console/api", "/console/tunnel"))

    @property
    def length(self) -> int:
        """Bytes of the body."""
        text = self.fields.get("content-length", "")
        return int(text) if text.isdecimal() and text.isascii() else 0


class TracedFlow(Flow):
    """One connection that is traced: HTTP until a response with 101, then frames.

    Args:
        tape: where to.
        number: the connection's, for the headings.
        peer: its address and port.
        printer: what prints.
        base: what stands before a room in a path (--basepath).
    """

    def __init__(
        self, tape: Tape, number: int, peer: Address, printer: Printer, base: str = ""
    ) -> None:
        super().__init__(tape)
        self._base = base
        self._name = f"#{number} {peer[0]}:{peer[1]}"
        self._printer = printer
        self._room: str | None = None
        self._at = 0
        self._requests: deque[Head] = deque()  # that are not answered yet; MAX_PENDING at most
        self._had_last = False  # of them
        self._received, self._sent = bytearray(), bytearray()  # begun heads
        self._body = 0  # bytes of a response's body that are yet to come
        self._open = False  # for frames
        self._hidden = False  # what comes belongs to the console, which would fill the screen
        self._blind = False  # something was lost, and all that follows makes no sense
        self._frames = {"<": FrameReader(), ">": FrameReader()}
        self._messages = {"<": MessageReader(), ">": MessageReader()}

    def take(self, record: Record) -> None:
        """Show what has happened; on the tape's thread."""
        self._at, _, event, data, lost = record
        if lost and not self._blind:
            self._blind = True
            missed = sum(size for _, size in lost.values())
            reason = f"{missed} bytes were missed; it is not traced any further"
            self._tell("=", reason, "close", urgent=True)
        if event in _ENDS:
            self._tell("=", _ENDS[event], "close")
        elif self._blind:
            return
        elif event is Event.RECEIVED:
            self._take_received(data)
        elif event is Event.SENT:
            self._take_sent(data)

    # -- the opening handshake, and other requests --

    def _take_received(self, data: bytes) -> None:
        if self._open:
            self._show_frames("<", data)
            return
        self._received += data
        self._take_requests()

    def _take_requests(self) -> None:
        """Show the requests that have come; some only when others have been answered."""
        while not self._had_last and len(self._requests) < MAX_PENDING:
            head = self._take_head(self._received)
            if head is None:
                return
            self._requests.append(head)
            self._had_last = head.is_last
            if head.is_upgrade:
                path = head.words[1].partition("?")[0].removeprefix(self._base)
                self._room = urllib.parse.unquote(path).strip("/")
            self._hidden = head.is_of_console
            self._show_head("<", head, head.is_upgrade)

    def _take_sent(self, data: bytes) -> None:
        if self._open:
            self._show_frames(">", data)
            return
        skipped = min(self._body, len(data))
        self._body -= skipped
        self._sent += data[skipped:]
        while not self._body and (head := self._take_head(self._sent)) is not None:
            request = self._requests.popleft() if self._requests else head
            self._hidden = request.is_of_console
            self._show_head(">", head, request.is_upgrade, request.fields.get("sec-websocket-key"))
            if head.words[1] == "101":
                self._begin_frames(head)
                return
            if request.words[0] != "HEAD" and head.words[1] != "304":
                self._body = head.length
            skipped = min(self._body, len(self._sent))
            self._body -= skipped
            del self._sent[:skipped]
            self._take_requests()

    def _take_head(self, data: bytearray) -> Head | None:
        """Take a head from the front of what has come, if it is whole."""
        while data[:2] == b"\r\n":
            del data[:2]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD:
                self._blind = True
                self._tell("=", f"no HTTP head in {len(data)} bytes; it is not traced", "http")
                data.clear()
            return None
        head = Head(bytes(data[:end]))
        del data[: end + 4]
        return head

    def _show_head(self, way: str, head: Head, upgrade: bool, key: str | None = None) -> None:
        lines = [escape(line) for line in head.lines]
        if key and head.words[1] == "101":
            lines += draw_accept(escape(key), escape(head.fields.get("sec-websocket-accept", "")))
        kind = "handshake" if upgrade else "http"
        self._tell(way, "opening handshake" if upgrade else "HTTP", kind, lines=lines)

    def _begin_frames(self, head: Head) -> None:
        self._open = True
        if "permessage-deflate" in head.fields.get("sec-websocket-extensions", ""):
            for messages in self._messages.values():
                messages.compression = True
        received, sent = bytes(self._received), bytes(self._sent)
        self._received.clear()
        self._sent.clear()
        self._show_frames(">", sent)
        self._show_frames("<", received)

    # -- frames --

    def _show_frames(self, way: str, data: bytes) -> None:
        for frame in self._frames[way].feed(data):
            messages = self._messages[way]
            control = frame.opcode >= Opcode.CLOSE
            faults = list(messages.find_disorder(frame))
            plain = None
            if not control:
                plain = messages.take(frame)
                faults += messages.find_bad_text(frame, plain)
            kinds = [frame.kind] if control else [frame.kind, OPCODES.get(messages.opcode, "")]
            if self._hidden or not self._printer.wants(self._room, *kinds):
                continue
            compression = messages.compression
            compressed = compression and frame.begins_message and frame.rsv & RSV1
            lines = draw_header(frame, bool(compressed), self._printer.width - len(INDENT))
            faults += find_faults(frame, from_client=way == "<", compression=compression)
            lines += [f"! {fault}" for fault in faults]
            if plain is None:
                lines += draw_payload(frame, messages.opcode)
            else:
                lines += draw_bytes(bytes(frame.payload), frame.length)
                lines += draw_inflated(plain, messages.opcode)
            self._print(way, f"{frame.kind}, {frame.length} bytes", lines)

    def _tell(
        self, way: str, what: str, *kinds: str, lines: Sequence[str] = (), urgent: bool = False
    ) -> None:
        if self._hidden and not urgent:
            return
        if self._printer.wants(self._room, *kinds, urgent=urgent):
            self._print(way, what, lines)

    def _print(self, way: str, what: str, lines: Sequence[str]) -> None:
        room = f" /{escape(self._room)}" if self._room is not None else ""
        self._printer.print(self._at, f"{self._name}{room}", way, what, lines)


_ENDS = {
    Event.PEER_ENDED: "the peer has closed its side",
    Event.PEER_RESET: "the peer has broken the connection off",
    Event.ENDED: "we have closed our side",
    Event.RESET: "we have broken the connection off",
}


# ==== 5. The tracer ======================================================================


class Printer:
    """Puts headings and lines together, and writes them.

    Args:
        stream: a file or a terminal.
        wanted: what is to be shown.
    """

    COLOURS = {"<": 36, ">": 32, "=": 33}

    def __init__(self, stream: TextIO, wanted: Filter) -> None:
        self._stream = stream  # kept open: its descriptor is written to
        self._encoding = stream.encoding or "utf-8"
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._wanted = wanted
        self._waiting: list[str] = []
        self._offset = 0.0  # from the monotonic clock to the wall's, in seconds
        self._hidden = 0
        self.hurried = False  # there is too much to show
        self.width = WIDEST  # columns

    def wants(self, room: str | None, *kinds: str, urgent: bool = False) -> bool:
        """Whether something is to be shown now; if it would be, but for the hurry, count it.

        Args:
            room: see `Filter`.
            kinds: see `Filter`.
            urgent: there is no hurry in which it is not shown.
        """
        if not self._wanted.wants(room, *kinds):
            return False
        if self.hurried and not urgent:
            self._hidden += 1
        return urgent or not self.hurried

    def print(self, at: int, name: str, way: str, what: str, lines: Sequence[str]) -> None:
        """Print a heading, and lines below it.

        Args:
            at: nanoseconds of the monotonic clock.
            name: of the connection.
            way: `<`, `>` or `=`.
            what: has happened.
        """
        self._tell_hidden()
        seconds = at / 1e9 + self._offset
        clock = time.strftime("%H:%M:%S", time.localtime(seconds))
        heading = f"{clock}.{int(seconds % 1 * 1e6):06} {name} {way} {what}"
        if self._colour:
            heading = f"\x1b[{self.COLOURS[way]}m{heading}\x1b[0m"
        self._waiting.append(heading)
        self._waiting += [INDENT + self._paint(line) for line in lines]

    def _paint(self, line: str) -> str:
        if not self._colour or line[:1] not in "|!":
            return line
        return f"\x1b[{2 if line[0] == '|' else 31}m{line}\x1b[0m"

    def _tell_hidden(self) -> None:
        if self._hidden:
            self._waiting.append(f"= {self._hidden} frames are not shown; they came too fast")
            self._hidden = 0

    def set_clock(self) -> None:
        """Take the time of day from the system's clock again."""
        self._offset = time.time() - time.monotonic()

    def measure(self) -> None:
        """Ask a terminal how wide it is now."""
        with contextlib.suppress(OSError):  # it is none
            self.width = os.get_terminal_size(self._stream.fileno()).columns or WIDEST

    def flush(self, *, last: bool = False) -> None:
        """Write what waits.

        Raises:
            OSError: it cannot be written.
        """
        if last:
            self._tell_hidden()
        text = "".join(f"{line}\n" for line in self._waiting)
        self._waiting.clear()
        data = memoryview(text.encode(self._encoding, "backslashreplace"))
        while data:
            data = data[write_patiently(self._stream.fileno(), data) :]


class Tracer:
    """Prints what connections receive and send, on a thread of its own.

    Args:
        stream: a file or a terminal; it must have a descriptor.
        words: of the `Filter`.
        base: what stands before a room in a path (--basepath).
        tape_size: bytes that may wait to be printed.
    """

    def __init__(
        self,
        stream: TextIO,
        words: Iterable[str] = (),
        *,
        base: str = "",
        tape_size: int = TAPE_SIZE,
    ) -> None:
        self._base = base
        self._numbers = itertools.count(1)  # `next` on it is atomic
        self._printer = Printer(stream, Filter(words))
        self._failed = False
        self._hurried_from = math.inf  # on the monotonic clock: the server ends
        self._tape = Tape("tracer", self._consume, limit=tape_size)
        self._tape.start()

    def open(self, peer: Address) -> TracedFlow:
        """Return where to tell what a new connection receives and sends."""
        return TracedFlow(self._tape, next(self._numbers), peer, self._printer, self._base)

    def close(self) -> None:
        """Print what is left, and count what would take too long."""
        self._hurried_from = time.monotonic() + LAST_TIME
        if not self._tape.stop():
            log.error("the trace breaks off: whoever takes it has stopped doing so")
            return
        if self._failed:
            return
        self._printer.hurried = False
        try:
            self._printer.flush(last=True)
        except OSError as error:
            self._fail(error)

    def _consume(self, records: list[Record]) -> None:
        if self._failed:
            return
        self._printer.hurried = self._tape.is_behind
        self._printer.set_clock()
        self._printer.measure()
        try:
            for record in records:
                flow = record[1]
                assert isinstance(flow, TracedFlow)
                if time.monotonic() >= self._hurried_from:
                    self._printer.hurried = True
                flow.take(record)
            self._printer.flush()
        except (OSError, MemoryError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._tape.stop()
        log.error("the trace ends: %s", str(error) or OUT_OF_MEMORY)
