"""Turn any program into a multiplayer WebSocket server.

    python3 scalesocket.py game.py

serves `game.py` at `ws://host:9000/<room>`. All clients of a room share one backend: a child
process that reads stdin and prints to stdout, or a Python `Game` inside this server. The file
needs nothing but the standard library. Most options have their code in net/; a copy of this
file alone works without it, and refuses those options. Read it from top to bottom: first bytes,
then messages, then threads, then rooms.

The way of the data:

    client --TCP--> reader thread --batch--> room's inbox --> room thread --> child's stdin
                    recv, parse, unmask      bounded in       joins all       ProcessBackend
                    Reader, Connection       bytes: Inbox     that waits      or GameBackend
    client <--send-- pump thread <-- child's stdout           (a Game answers from the room thread)
                    Framing splits and routes, Members encodes once, Connection sends

Everything moves in batches of whatever is there: one `recv` makes one item in the inbox, all items
that wait make one write, one read of the child's output makes one send for each client. Nothing
waits to make a batch bigger, but a crowd that talks is read only every few milliseconds. The first
few clients have a reader each; all others share one, which takes a `recv` from each that is ready.

A message passes `Connection.receive`, `Reader._dispatch`, `Room.receive`, `Room.run` and
`ProcessBackend.handle`; back, `ProcessBackend._run_pump`, `Room.deliver`, `Members.send` and
`Connection.send`. A client that goes passes `Session.leave` and `Room.leave`; `Connection.dispose`
closes its socket. An option of this file is a row of `OPTIONS`, and a field of `Config`.

    thread      how many         what it does                            it ends when
    main        1                options, listeners, signals             the server has ended
    acceptor    1                accepts, opens WebSockets, reads        the server has ended
                                 all clients without a reader
    reader      1 for each of    recv, parse, unmask, into the           its client has gone
                the first 4      room's inbox
    helper      on demand        what the acceptor would have to wait    the client is in, has gone,
                                 for: TLS, --auth, plain HTTP            or asks for nothing
    room        1 per room       feeds the backend; runs a Game's ticks  the room has ended
    pump        1 per child      child's output to the clients           the child has ended
    stderr      1 per child      child's stderr to the log               the child has ended
    poller      1                writes what sockets could not take;     the server has ended
                                 close timeouts, lingering rooms; pings (net/pings)

More threads, and with `--workers` more such processes, are those of options, in net/.

Locks are taken in the order registry, room (`Members`), TURN (chapter 7), connection, histories,
`Inbox`; none is held while waiting for a peer, a child or a disk. Every queue is bounded: in bytes,
but joins and leaves in number. A client with something for a full inbox is not read, so TCP slows
it down; a full backlog makes the pump wait, which slows the child down. Nobody waits for a newcomer
that is still being sent a long history (net/history.py).

Chapters:

     1. Vocabulary
     2. Errors
     3. Frames
     4. Messages
     5. HTTP and the opening handshake
     6. Protocol
     7. Connection
     8. Framing and routing
     9. Environment of the child
    10. Backends
    11. Rooms
    12. Plain HTTP
    13. Sessions and readers
    14. Server
    15. Command line
"""

from __future__ import annotations

import _thread
import argparse
import base64
import codecs
import contextlib
import enum
import errno
import fnmatch
import functools
import heapq
import importlib
import itertools
import json
import logging
import math
import os
import re
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import types
import urllib.parse
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:  # imported only where they are used: it keeps the start short
    import ssl
    from typing import BinaryIO, ClassVar, NoReturn, TypeAlias

    from scalesocket.net.config import NetConfig
    from scalesocket.net.console import Console
    from scalesocket.net.descendants import Orphans
    from scalesocket.net.drain import Drain
    from scalesocket.net.history import Archive
    from scalesocket.net.lines import LineProtocol
    from scalesocket.net.metrics import Metrics
    from scalesocket.net.proxies import TrustedProxies
    from scalesocket.net.relay import Relays
    from scalesocket.net.seats import Seat, Seats
    from scalesocket.net.store import StoredRooms
    from scalesocket.net.tap import Taps
    from scalesocket.net.tls import TlsSocket, TlsTransport
    from scalesocket.net.workers import Worker

# A game that imports `scalesocket` gets this module, also when it runs as a script. What lies in
# net/, game/ and client/ is imported below this name, as in `scalesocket.net.pcapng`: a game's
# developer may have folders of those names, too. Where this is installed, they lie in a folder
# `scalesocket` beside this file. A net/ that holds no scalesocket.lua is somebody else's.
sys.modules.setdefault("scalesocket", sys.modules[__name__])
_here = os.path.dirname(os.path.realpath(__file__))
_homes = (os.path.join(_here, "scalesocket"), _here)
_ours = [home for home in _homes if os.path.isfile(os.path.join(home, "net", "scalesocket.lua"))]
__path__ = _ours[:1] or [_here]

# ==== 1. Vocabulary ======================================================================
# Names and limits that all chapters below use.

__version__ = "0.1.0"

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

KIB = 1024
MIB = 1024 * KIB

FIRST_RECEIVE_SIZE = 4 * KIB  # bytes taken from a socket at first, which most requests fit into
RECEIVE_SIZE = 64 * KIB  # bytes taken from a socket or a pipe at once
MAX_NESTING = 512  # levels of JSON
MAX_HEAD = 16 * KIB  # bytes of a request's line and headers
MAX_HEADERS = 100  # of a request
MAX_CONTROL_PAYLOAD = 125  # bytes, RFC 6455 section 5.5
MAX_ROOM_NAME = 128  # characters
MAX_OUTPUT_ITEM = 16 * MIB  # bytes that a child may print without a delimiter
MAX_DIGITS = 1000  # of a number in a client's JSON message
MAX_LOG_LINE = 64 * KIB  # bytes of a line of a child's stderr that are logged
JOINED_SIZE = 64 * KIB  # bytes up to which short frames of a backlog are joined
EVENTS_SIZE = 256 * KIB  # bytes of messages from which on the rest waits for the next `receive`
INBOX_SIZE = 1 * MIB  # bytes that clients have sent and the backend has not taken
MAX_DEPARTED = 4096  # clients that have gone and the backend does not know of, in a room
HEAD_TIMEOUT = 10.0  # seconds for a whole request head
OWN_READERS = 4  # clients that have a reader each; all others share one
CROWD = 3  # so many clients, read or written to in one go, are a crowd (Reader, take_turn)
ROUND_TIME = 0.005  # seconds between two rounds in which a crowd is read
IDLE_TIMEOUT = 15.0  # seconds between two requests on a kept-alive connection
HELPER_PATIENCE = 1.0  # seconds that a helper waits for a slow peer; then the acceptor does
CLOSE_TIMEOUT = 5.0  # seconds for the peer's Close after ours
RESPAWN_PAUSE = 1.0  # seconds before an exited child is started again
MAX_TICK_TIME = 0.25  # seconds; after a pause a game goes on as if no more had passed
OUT_OF_THREADS = "the system is out of threads"
OUT_OF_MEMORY = "the system is out of memory"
GAME_BACKLOGS = 8  # times --backlog: what a game has sent and a client has not taken, at most
MESSAGE_COST = 64  # bytes of memory that a message takes beside its content, or about that
HISTORIES_SIZE = 256 * MIB  # bytes that the histories of all rooms have together, at the most
CALL_SIZE = KIB  # bytes of an inbox that a `GameRoom.call_soon` counts as: 1024 fill it
END_TIMEOUT = 10.0  # seconds for all rooms and connections to end at shutdown
ABANDON_TIMEOUT = 1.0  # seconds a child may ignore stdin after its last client has gone

OUT_OF_MEMORY_PAUSE = 0.05  # seconds until the next try: others may free some memory
SHORTAGE_PAUSE = 10.0  # seconds without a failure, after which the next is an error in the log
_SHORTAGES = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)  # they pass

SWITCH_INTERVAL = 0.0001  # seconds after which a thread may be interrupted
MAX_REFUSED = 64  # connections beyond --maxconns that are answered with 503
AF_UNIX = getattr(socket, "AF_UNIX", None)  # Windows has none
UNIX_PEER = ("unix", 0)  # address and port of a peer that came through a Unix socket
IPV4_IN_IPV6 = re.compile(r"^::ffff:(?=[\d.]+$)")  # IPv4 on a dual-stack socket

RESERVED_ROOMS = frozenset("api metrics health static upload robots.txt favicon.ico".split())

POSIX = os.name == "posix"
HERE = Path(__path__[0])  # where net/, game/ and client/ are

log = logging.getLogger("scalesocket")
TRACE = 5  # a log level below DEBUG, for -vv
logging.addLevelName(TRACE, "TRACE")

T = TypeVar("T")
write_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode  # in one line
JsonValue = Any  # what `json.loads` returns; no narrower type would be true


# ==== 2. Errors ==========================================================================
# Each error says who erred, and carries what is needed to answer: a close code, a status.


class ScaleSocketError(Exception):
    """Base of all errors that this module raises on purpose."""


class CodedError(ScaleSocketError):
    """Base of the two errors that end a connection with a close code and reason (RFC 6455, 7.4)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class ProtocolError(CodedError):
    """The peer broke RFC 6455; the connection is failed with this close code (7.1.7)."""


class HandshakeError(ScaleSocketError):
    """The peer's HTTP request cannot be served; it is answered with this status."""

    def __init__(self, status: int, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(f"{reason} ({status})")
        self.status = status
        self.reason = reason
        self.headers = headers


class ConnectionClosed(CodedError):
    """The room refuses or ends this connection, with a close code and a reason."""


class BackendError(ScaleSocketError):
    """The child or game of a room failed; the room ends with close code 1011."""


class ShortageError(ScaleSocketError):
    """The system is out of threads, processes or descriptors; it will pass."""


class ConfigError(ScaleSocketError):
    """The operator's options cannot work; the program ends with this status."""

    status = 2


def find_feature(name: str) -> Any:
    """Return a module of `net/`, or None if this file has been copied alone."""
    return importlib.import_module(f"scalesocket.net.{name}") if _ours else None


def load_feature(name: str, option: str) -> Any:
    """Return the module of `net/` that an option needs.

    Raises:
        ConfigError: it is not there.
    """
    module = find_feature(name)
    if module is None:
        raise ConfigError(f"{option} needs the folder net/ beside scalesocket.py")
    return module


# ==== 3. Frames ==========================================================================
# A message crosses the wire as one or more frames (RFC 6455 section 5.2):
#
#      0               1               2               3
#      0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7
#     +-+-+-+-+-------+-+-------------+-------------------------------+
#     |F|R|R|R| opcode|M| length      | 126: 16 bits of length follow |
#     |I|S|S|S| (4)   |A| (7)         | 127: 64 bits of length follow |
#     |N|V|V|V|       |S|             |                               |
#     | |1|2|3|       |K|             |                               |
#     +-+-+-+-+-------+-+-------------+-------------------------------+
#     | masking key, 4 bytes, in frames from the client only          |
#     +---------------------------------------------------------------+
#     | payload; from the client: byte i XOR masking key byte i mod 4 |
#     +---------------------------------------------------------------+
#
# From the server `81 05 48 65 6c 6c 6f` is the text "Hello"; from a client with the masking key
# 37 fa 21 3d it is `81 85 37 fa 21 3d 7f 9f 4d 51 58` (both in section 5.7).
# This chapter turns frames into bytes and back; it never opens a socket.


class Opcode(enum.IntEnum):
    """What a frame carries (RFC 6455 section 5.2)."""

    CONTINUATION = 0x0  # the next fragment of a message
    TEXT = 0x1  # UTF-8
    BINARY = 0x2  # any bytes
    CLOSE = 0x8  # a code and a reason, or nothing
    PING = 0x9  # to be answered with the same payload
    PONG = 0xA  # the answer to a ping, or a heartbeat


class CloseCode(enum.IntEnum):
    """Why a connection ends (RFC 6455 section 7.4.1, and the IANA registry)."""

    NORMAL = 1000  # done
    GOING_AWAY = 1001  # the server stops, or the page was left
    PROTOCOL_ERROR = 1002  # the peer broke RFC 6455
    UNSUPPORTED_DATA = 1003  # binary where text is wanted, or the reverse
    NO_STATUS = 1005  # never sent: a Close without a code arrived
    ABNORMAL = 1006  # never sent: the connection ended without a Close
    INVALID_DATA = 1007  # a text message that was not UTF-8
    POLICY_VIOLATION = 1008  # here: too slow a reader
    MESSAGE_TOO_BIG = 1009  # over --maxmsg
    MANDATORY_EXTENSION = 1010  # only a client sends it
    INTERNAL_ERROR = 1011  # the child or the game failed
    SERVICE_RESTART = 1012  # come back: the server restarts
    TRY_AGAIN_LATER = 1013  # no room left, for now
    BAD_GATEWAY = 1014  # a proxy got a bad answer


class FrameHeader(NamedTuple):
    """The part of a frame that comes before its payload (RFC 6455 section 5.2)."""

    fin: bool  # the last fragment of its message
    rsv: int  # the three reserved bits, RSV1 highest
    opcode: int
    length: int  # bytes of payload
    masking_key: bytes  # 4 bytes, or none


class Frame(NamedTuple):
    """A frame, or the piece of one that has arrived.

    The pieces of a frame carry the same header; control frames come in one piece.
    """

    header: FrameHeader
    payload: bytes  # unmasked
    first: bool = True  # this piece begins the frame
    last: bool = True  # this piece ends the frame


@functools.cache
def _masked_by(key_byte: int) -> bytes:
    """Return a table for `bytes.translate`: each byte XOR one byte of the key."""
    return bytes(byte ^ key_byte for byte in range(256))


def apply_mask(payload: bytes, masking_key: bytes) -> bytes:
    """Mask or unmask a payload: the same operation (RFC 6455 section 5.3).

    A loop over bytes takes up to 60 times as long. A short payload and its mask become two integers
    for one XOR. In a longer one, each byte of the key masks every fourth byte by one `translate`.
    """
    length = len(payload)
    if length < 512:
        mask = (masking_key * (length // 4 + 1))[:length]
        number = int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")
        return number.to_bytes(length, "little")
    masked = bytearray(payload)
    for start, key_byte in enumerate(masking_key):
        masked[start::4] = masked[start::4].translate(_masked_by(key_byte))
    return bytes(masked)


def encode_header(first_byte: int, length: int, mask_bit: int = 0) -> bytes:
    """Return the header of a frame, without its masking key, in the shortest form (5.2)."""
    if length < 126:
        return bytes((first_byte, mask_bit | length))
    if length < 0x10000:
        return struct.pack("!BBH", first_byte, mask_bit | 126, length)
    return struct.pack("!BBQ", first_byte, mask_bit | 127, length)


def encode_frame(
    opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, masking_key: bytes = b""
) -> bytes:
    """Return one frame as bytes.

    Args:
        opcode: an `Opcode`.
        payload: any bytes; text must be UTF-8.
        fin: False for all but the last fragment of a message.
        rsv: the three reserved bits, RSV1 highest.
        masking_key: 4 bytes in a client's frame, none in a server's.
    """
    first_byte = fin << 7 | rsv << 4 | opcode
    if not masking_key:
        return encode_header(first_byte, len(payload)) + payload
    header = encode_header(first_byte, len(payload), 0x80)
    return header + masking_key + apply_mask(payload, masking_key)


# Headers of short unfragmented messages, by length: framing one costs a look-up, not a `bytes`.
_SHORT_HEADERS: dict[int, tuple[bytes, ...]] = {
    opcode: tuple(encode_header(0x80 | opcode, length) for length in range(126))
    for opcode in (Opcode.TEXT, Opcode.BINARY)
}


def encode_messages(opcode: int, payloads: Sequence[bytes]) -> bytes:
    """Return unmasked, unfragmented frames, one for each message."""
    headers = _SHORT_HEADERS[opcode]
    pieces: list[bytes] = []
    for payload in payloads:
        length = len(payload)
        pieces += headers[length] if length < 126 else encode_header(0x80 | opcode, length), payload
    return b"".join(pieces)


def may_be_sent(code: int) -> bool:
    """Whether a close code may stand in a Close frame (7.4.1, 7.4.2)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def encode_close(code: int, reason: str = "") -> bytes:
    """Return the payload of a Close frame (5.5.1); NO_STATUS stands for an empty one."""
    if code == CloseCode.NO_STATUS:
        return b""
    text = reason.encode(errors="replace")[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore")
    return struct.pack("!H", code) + text.encode()


def check_close_code(code: int, reason: str = "") -> None:
    """Raise ValueError if a Close frame must not say that (7.4): that is the caller's fault."""
    if not (isinstance(code, int) and may_be_sent(code)):
        raise ValueError(f"close code {code} must not be sent; 1000 and 3000 to 4999 are safe")
    if not isinstance(reason, str):
        raise ValueError(f"the reason of a close is str, not {type(reason).__name__}")


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a Close frame's payload (5.5.1, 7.4).

    Raises:
        ProtocolError: one byte, a code that must not be sent, a reason that is not UTF-8.
    """
    if not payload:
        return CloseCode.NO_STATUS, ""  # 7.1.5
    if len(payload) == 1:
        reason = "close payload of 1 byte; 0 or 2 is the least"
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, reason)
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"close code {code} must not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(CloseCode.INVALID_DATA, "close reason is not UTF-8") from None


# By payload length: the factor that repeats a 32-bit key over it, and the largest number it holds.
_REPEAT = tuple(sum(1 << 32 * i for i in range(-(-length // 4))) for length in range(126))
_LARGEST = tuple((1 << 8 * length) - 1 for length in range(126))


class FrameParser:
    """Cuts a stream of bytes into frames (RFC 6455 sections 5.2 and 6.2).

    `take_run` is the hot path: it takes whole, unfragmented data messages in one loop.
    `next_frame` takes anything, one frame or piece of a frame at a time. Both give the same
    results where both apply.

    Args:
        masked: frames must be masked (they come from a client) or must not be (5.1).
        max_length: bytes of payload; longer frames are left to `next_frame`.
        allowed_rsv: reserved bits that an extension has given a meaning.
    """

    def __init__(self, *, masked: bool, max_length: int, allowed_rsv: int = 0) -> None:
        self._masked = masked
        self._max_length = max_length
        self._allowed_rsv = allowed_rsv
        self._data = b""
        self._position = 0
        self._header: FrameHeader | None = None  # of the frame whose payload is arriving
        self._taken = 0  # bytes of its payload already given out

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived; of those before, only what could not be taken yet is kept."""
        rest = self._data[self._position :]
        self._data = rest + data if rest else data
        self._position = 0

    def take_run(self) -> tuple[int, list[bytes], int]:
        """Take all whole, masked, unfragmented messages of one type that come next.

        This loop sees nearly every message that a server ever gets, so it makes no object but
        the payload. Whatever it does not understand it leaves in place for `next_frame`.

        Returns:
            Opcode, payloads, and the number of bytes that they took on the wire.
        """
        data, position, end = self._data, self._position, len(self._data)
        payloads: list[bytes] = []
        first_byte = data[position] if position < end else 0
        if self._header is not None or not self._masked or first_byte not in (0x81, 0x82):
            return 0, payloads, 0
        from_bytes = int.from_bytes
        while position + 6 <= end and data[position] == first_byte:
            length = data[position + 1] - 0x80
            if 0 <= length < 126:
                stop = position + 6 + length
                if stop > end or length > self._max_length:
                    break
                # Key and payload as one number: each of 500 frames takes 0.51 µs in all, and 0.58
                # with `apply_mask` (python3 -m tests.bench.parts).
                number = from_bytes(data[position + 2 : stop], "little")
                mask = (number & 0xFFFFFFFF) * _REPEAT[length] & _LARGEST[length]
                payloads.append((number >> 32 ^ mask).to_bytes(length, "little"))
            elif length == 126:
                length = data[position + 2] << 8 | data[position + 3]
                stop = position + 8 + length
                if length < 126 or stop > end or length > self._max_length:
                    break
                key = data[position + 4 : position + 8]
                payloads.append(apply_mask(data[position + 8 : stop], key))
            else:
                break
            position = stop
        size = position - self._position
        self._position = position
        return first_byte & 0xF, payloads, size

    def next_frame(self) -> Frame | None:
        """Return the next frame, or piece of a data frame; None until more bytes arrive.

        Raises:
            ProtocolError: as soon as the bytes of the header show it.
        """
        first = self._header is None
        if first:
            self._header = self._take_header()
        header = self._header
        if header is None:
            return None
        missing = header.length - self._taken
        piece = self._data[self._position : self._position + missing]
        last = len(piece) == missing
        if not (piece or last or first):
            return None
        self._position += len(piece)
        if key := header.masking_key:
            shift = self._taken % 4
            piece = apply_mask(piece, key[shift:] + key[:shift])
        self._taken += len(piece)
        if last:
            self._header = None
            self._taken = 0
        return Frame(header, piece, first, last)

    def _take_header(self) -> FrameHeader | None:
        """Return the next header if it is all there; that of a control frame, if the frame is."""
        data, start = self._data, self._position
        available = len(data) - start
        if available < 2:
            return None
        first_byte, second_byte = data[start], data[start + 1]
        fin, rsv, opcode = first_byte >= 0x80, first_byte >> 4 & 0x7, first_byte & 0xF
        length = second_byte & 0x7F
        self._check_header(first_byte, second_byte)
        extended = {126: 2, 127: 8}.get(length, 0)
        key_at = start + 2 + extended
        size = 2 + extended + (4 if self._masked else 0)
        if available < 2 + extended:
            return None
        if extended:
            length = int.from_bytes(data[start + 2 : key_at], "big")
            self._check_length(length, extended)
        if available < size + (length if opcode >= Opcode.CLOSE else 0):
            return None
        self._position = start + size
        return FrameHeader(fin, rsv, opcode, length, data[key_at : start + size])

    def _check_header(self, first_byte: int, second_byte: int) -> None:
        rsv, opcode = first_byte >> 4 & 0x7, first_byte & 0xF
        # 5.2: no reserved bit or opcode; RFC 7692 section 6.1: RSV1 only where a message begins
        if rsv & ~self._allowed_rsv or (rsv and opcode != Opcode.TEXT and opcode != Opcode.BINARY):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"reserved bits {rsv:03b} are set")
        if opcode not in (0x0, 0x1, 0x2, 0x8, 0x9, 0xA):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        if (second_byte >= 0x80) != self._masked:  # 5.1: a client masks, a server does not
            what = "not masked" if self._masked else "masked"
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"frame is {what}")
        if opcode < Opcode.CLOSE:
            return
        if first_byte < 0x80:  # 5.5: control frames are never fragmented
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "control frame is fragmented")
        if second_byte & 0x7F > MAX_CONTROL_PAYLOAD:
            reason = f"control frame over the {MAX_CONTROL_PAYLOAD} bytes that it may have"
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, reason)

    @staticmethod
    def _check_length(length: int, extended: int) -> None:
        if length < (126 if extended == 2 else 0x10000):  # 5.2: the shortest form is a must
            reason = f"length {length} in {extended} bytes is not minimal"
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, reason)
        if length >= 1 << 63:  # 5.2, too
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "length has its top bit set")


# ==== 4. Messages ========================================================================
# Fragments become messages again here, and text is checked as it arrives: a bad byte fails
# the connection at once, not when the message is complete (RFC 6455 sections 5.4 and 8.1).


class MessageAssembler:
    """Joins frames into messages (RFC 6455 sections 5.4 and 5.6).

    Args:
        max_message: bytes; a longer message fails with 1009, from its header alone (10.4).
    """

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self._limit = max_message  # bytes of payload; of what is compressed, see net/deflate.py
        self.opcode = 0  # of the message under way
        self._message = bytearray()  # so far; tiny fragments would weigh more one by one
        self._size = 0  # bytes that the headers so far have promised
        self._decoder: codecs.IncrementalDecoder | None = None  # checks text, keeps nothing
        self.idle = True  # the next data frame begins a new message

    def add(self, frame: Frame) -> bytes | None:
        """Take a data frame or piece of one; return the message when it is complete.

        Raises:
            ProtocolError: fragments out of order, not UTF-8, too long.
        """
        if frame.first:
            self._begin(frame.header)
        return self._take(frame.payload, frame.last and frame.header.fin)

    def _take(self, piece: bytes, complete: bool) -> bytes | None:
        if self._decoder is not None:
            try:
                self._decoder.decode(piece, complete)
            except UnicodeDecodeError:
                raise ProtocolError(CloseCode.INVALID_DATA, "text is not UTF-8") from None
        if not complete or self._message:
            self._message += piece
        if not complete:
            return None
        message = bytes(self._message) if self._message else piece
        self._message.clear()
        self._size = 0
        self.idle = True
        return message

    def _begin(self, header: FrameHeader) -> None:
        continued = header.opcode == Opcode.CONTINUATION
        if continued and self.idle:  # 5.4: fragments are in order, and not interleaved
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "continuation of no message")
        if not (continued or self.idle):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "new message inside a fragmented one")
        if not continued:
            self.idle = False
            self.opcode = header.opcode
            is_text = header.opcode == Opcode.TEXT
            self._decoder = codecs.getincrementaldecoder("utf-8")() if is_text else None
        self._size += header.length
        if self._size > self._limit:
            self._fail_as_too_big(str(self._size))

    def _fail_as_too_big(self, size: str) -> NoReturn:
        reason = f"message of {size} bytes; {self.max_message} is the most"
        raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, reason)


def to_payload(message: object) -> tuple[int, bytes]:
    """Return opcode and payload: `str` is text, in which half a surrogate pair becomes `?`.

    Raises:
        TypeError: it is neither text nor bytes.
    """
    if isinstance(message, str):
        return Opcode.TEXT, message.encode(errors="replace")
    if isinstance(message, bytes | bytearray | memoryview):
        return Opcode.BINARY, bytes(message)
    kind = type(message).__name__
    raise TypeError(f"a message is str or bytes, not {kind}: send_json or broadcast_json")


class Encoding:
    """How messages are written on a connection: as plain frames, unless a subclass says otherwise.

    Connections that take the same bytes share one object, so a broadcast is encoded once for each
    of these objects, of which there are few.
    """

    name = "plain"  # what the API calls it
    rsv = 0  # the reserved bits that mark a compressed message (5.2)
    is_costly = False  # encoding takes so long that the result is worth keeping

    def encode_run(self, opcode: int, payloads: Sequence[bytes]) -> bytes:
        """Return messages of one type, without those that cannot be expressed."""
        return encode_messages(opcode, payloads)

    def encode_message(self, message: object) -> bytes:
        """Return one message; see `to_payload`."""
        opcode, payload = to_payload(message)
        return self.encode_run(opcode, (payload,))

    def make_assembler(self, max_message: int) -> MessageAssembler:
        """Return what joins the frames of a peer that writes like this, too."""
        return MessageAssembler(max_message)


PLAIN = Encoding()


def valid_text_count(payloads: Sequence[bytes]) -> int:
    """Return how many payloads, from the first on, are UTF-8 (8.1).

    One check covers a whole batch of ASCII, which most traffic is.
    """
    if b"".join(payloads).isascii():
        return len(payloads)
    for index, payload in enumerate(payloads):
        try:
            payload.decode()
        except UnicodeDecodeError:
            return index
    return len(payloads)


# ==== 5. HTTP and the opening handshake ==================================================
# A WebSocket begins as an HTTP/1.1 GET that asks for an upgrade (RFC 6455 section 4):
#
#     GET /lobby HTTP/1.1
#     Host: localhost:9000                            HTTP/1.1 101 Switching Protocols
#     Upgrade: websocket                       -->    Upgrade: websocket
#     Connection: Upgrade                             Connection: Upgrade
#     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYG…
#     Sec-WebSocket-Version: 13
#
# The accept value is the SHA-1 of key and GUID: it proves that the server speaks WebSocket and
# is no cache or mail server that merely echoes.

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_REQUEST_LINE = re.compile(rf"({TOKEN.pattern}) ([\x21-\x7e]+) (HTTP/\d\.\d)")


class Headers:
    """Header fields in their order; names compare without case (RFC 9110 section 5)."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.fields = list(fields)
        self._values: dict[str, list[str]] = {}
        for name, value in self.fields:
            self._values.setdefault(name.lower(), []).append(value)

    def get_all(self, name: str) -> list[str]:
        """Return every value of a field, in order."""
        return self._values.get(name.lower(), [])

    def get(self, name: str) -> str:
        """Return a field's values joined with `, ` (5.2), or an empty string."""
        return ", ".join(self.get_all(name))

    def tokens(self, name: str) -> list[str]:
        """Return the members of a comma-separated field in lower case."""
        return [token.strip().lower() for token in self.get(name).split(",") if token.strip()]


class Request(NamedTuple):
    """The head of an HTTP request."""

    method: str
    target: str  # as it came
    version: str  # "HTTP/1.1"
    headers: Headers
    base: str = ""  # the prefix that was taken off the target (--basepath)
    from_here: bool = False  # its client is on this machine; set for plain HTTP only

    @property
    def path(self) -> str:
        """The path, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the first `?`, still percent-encoded."""
        return self.target.partition("?")[2]

    @property
    def parameters(self) -> dict[str, str]:
        """What the query says, decoded; of two of a name the first counts."""
        return dict(reversed(urllib.parse.parse_qsl(self.query, keep_blank_values=True)))

    @property
    def is_upgrade(self) -> bool:
        """Whether it asks for a WebSocket."""
        return "websocket" in self.headers.tokens("Upgrade")

    @property
    def has_body(self) -> bool:
        """Something follows the head that belongs to the request; nobody here reads it."""
        length = self.headers.get("Content-Length")
        return length not in ("", "0") or bool(self.headers.get_all("Transfer-Encoding"))

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may serve another request (RFC 9112 section 9.3)."""
        options = self.headers.tokens("Connection")
        return "keep-alive" in options if self.version == "HTTP/1.0" else "close" not in options


class Response(NamedTuple):
    """An HTTP response; an open `file` is sent after the head, from `start`, `length` bytes of it.

    Who sends the response closes the file.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "text/plain; charset=utf-8"
    file: BinaryIO | None = None
    start: int = 0
    length: int = 0

    def encode_head(self, *, keep_alive: bool, extra: Collection[tuple[str, str]] = ()) -> bytes:
        """Return status line and headers as bytes, with `extra` fields."""
        replaced = {name.lower() for name, _ in extra} - {"vary"}  # each adds to the others
        own = (*self.headers, ("X-Content-Type-Options", "nosniff"))  # no browser guesses a type
        fields = [("Connection", "keep-alive" if keep_alive else "close")]
        fields += [*(item for item in own if item[0].lower() not in replaced), *extra]
        # RFC 9110 sections 8.6 and 15.4.5: what has no body says nothing about one.
        if self.status not in (204, 304):
            length = self.length if self.file else len(self.body)
            fields += [("Content-Length", str(length)), ("Content-Type", self.content_type)]
        fields.append(("Date", format_date()))
        return encode_head(self.status, fields)


def format_date(seconds: float | None = None) -> str:
    """Return a point in Unix time, or now, as HTTP writes it (RFC 9110 section 5.6.7)."""
    from email.utils import formatdate

    return formatdate(seconds, usegmt=True)


def encode_head(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of a response as bytes."""
    from http import HTTPStatus

    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def parse_request(head: bytes) -> Request:
    """Parse a request head, without its final empty line (RFC 9112 sections 3 and 5).

    Raises:
        HandshakeError: 400 if it is malformed, 431 if it has too many fields, 505 if it is
            not HTTP/1.
    """
    line, *field_lines = head.decode("latin-1").split("\r\n")
    if (match := _REQUEST_LINE.fullmatch(line)) is None:
        raise HandshakeError(400, "malformed request line")
    method, target, version = match.groups()
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise HandshakeError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if len(field_lines) > MAX_HEADERS:
        raise HandshakeError(431, f"{len(field_lines)} header fields; {MAX_HEADERS} is the most")
    headers = Headers(map(parse_field_line, field_lines))
    if absolute := re.match(r"https?://([^/?]+)", target, re.IGNORECASE):  # as to a proxy (3.2.2)
        fields = ((k, absolute[1] if k.lower() == "host" else v) for k, v in headers.fields)
        path, headers = target[absolute.end() :], Headers(fields)
        target = path if path.startswith("/") else "/" + path
    host, hosts = headers.get("Host"), headers.get_all("Host")  # two are joined by ", " (3.2)
    if re.search(r"[\s/?#@]", host) or not (hosts or version == "HTTP/1.0"):
        raise HandshakeError(400, "exactly one Host header is needed, with a name and a port")
    if not all(map(str.isdecimal, headers.get_all("Content-Length"))):  # 6.3
        raise HandshakeError(400, "malformed Content-Length header")
    if not target.startswith("/") and (method, target) != ("OPTIONS", "*"):  # 3.2.4
        raise HandshakeError(400, "the request target must be a path")
    return Request(method, target, version, headers)


def parse_field_line(line: str) -> tuple[str, str]:
    """Return name and value of a header field (RFC 9112 section 5); 400 if it is malformed."""
    name, colon, value = line.partition(":")
    value = value.strip(" \t")
    if not colon or not TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
        raise HandshakeError(400, "malformed header field")
    return name, value


Negotiate = Callable[[str], tuple[Encoding, str]]  # what is offered -> what is chosen, the answer
Endpoint = tuple[str, int]  # address and port


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own, or that of a Unix socket."""
    return address in (UNIX_PEER[0], "::1") or IPV4_IN_IPV6.sub("", address).startswith("127.")


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    from hashlib import sha1

    return base64.b64encode(sha1(key.encode() + ACCEPT_GUID).digest()).decode()


def answer_handshake(
    request: Request,
    *,
    subprotocols: Sequence[str] = (),
    negotiate: Negotiate | None = None,
    extra: Iterable[tuple[str, str]] = (),
) -> tuple[bytes, Encoding]:
    """Return the response that opens a WebSocket, and how its messages are written (4.2.2).

    Args:
        request: the client's side of the opening handshake.
        subprotocols: what the server speaks; the first of the client's list that is among
            them is chosen.
        negotiate: accepts one of the extensions that are offered, if the server has any (9.1);
            see `negotiate` in net/deflate.py.
        extra: header fields of the response.

    Raises:
        HandshakeError: the request is no valid opening handshake.
    """
    if request.method != "GET":  # what a request must have, and how it is refused: 4.2.1
        raise HandshakeError(405, "a WebSocket begins with GET", ("Allow", "GET"))
    if request.version != "HTTP/1.1":
        raise HandshakeError(400, "a WebSocket needs HTTP/1.1")
    if request.has_body:  # which would be taken for frames
        raise HandshakeError(400, "a request for a WebSocket has no body")
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    if "upgrade" not in request.headers.tokens("Connection"):
        raise HandshakeError(400, "the Connection header must say Upgrade")
    if request.headers.get_all("Sec-WebSocket-Version") != ["13"]:  # 4.4, 11.3.5
        version = ("Sec-WebSocket-Version", "13")  # with `fields`: RFC 9110 section 15.5.22
        raise HandshakeError(426, "WebSocket version 13 is spoken here", version, *fields)
    key = request.headers.get("Sec-WebSocket-Key")
    if not re.fullmatch(r"[A-Za-z0-9+/]{22}==", key):  # nor two keys, or none (11.3.1)
        raise HandshakeError(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    fields.append(("Sec-WebSocket-Accept", accept_key(key)))
    offered = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol").split(",")]
    if chosen := next((p for p in offered if p in subprotocols), ""):  # 4.2.2
        fields.append(("Sec-WebSocket-Protocol", chosen))
    offers = request.headers.get("Sec-WebSocket-Extensions")
    encoding, extension = negotiate(offers) if negotiate else (PLAIN, "")
    if extension:
        fields.append(("Sec-WebSocket-Extensions", extension))
    return encode_head(101, [*fields, *extra]), encoding


# ==== 6. Protocol ========================================================================
# Bytes in, events out: the rules of RFC 6455 with no socket, thread or clock. The receiving
# half belongs to the reader thread alone; what is sent is made by the functions of chapter 3.


class Role(enum.Enum):
    """Which end of the connection this is; a client masks, a server does not (5.1)."""

    SERVER = "server"
    CLIENT = "client"


class Messages:
    """A run of complete data messages of one type, in order; text has been checked as UTF-8."""

    __slots__ = ("client", "opcode", "payloads", "size", "source")  # there is one for each batch
    client: Client  # whom they are from, once their reader has seen that

    def __init__(self, opcode: int, payloads: list[bytes], size: int) -> None:
        self.opcode = opcode  # TEXT or BINARY
        self.payloads = payloads
        self.size = size  # bytes of memory or wire that they took, for accounting
        self.source: Connection | None = None  # what they came by, if that matters (net/seats.py)


class Control(NamedTuple):
    """A ping, which is to be answered with a pong of the same payload, or a pong (5.5.2, 5.5.3)."""

    opcode: int
    payload: bytes


class Closing(NamedTuple):
    """The last event: the peer sent Close (5.5.1), or broke the protocol and is owed one (7.1.7).

    `code` is the peer's (NO_STATUS if it gave none), or the one to fail the connection with.
    """

    code: int
    reason: str
    failed: bool  # the peer broke the protocol

    @property
    def reply(self) -> tuple[int, str]:
        """Code and reason of the Close to answer with: an echo of the code, or the failure."""
        return self.code, self.reason if self.failed else ""


Event = Messages | Control | Closing


class WebSocketProtocol:
    """The receiving half of a WebSocket, for either role.

    Args:
        role: which end this is.
        max_message: bytes; longer messages fail with 1009. The decompressed size counts.
        encoding: of messages both ways, as negotiated.
    """

    answers_close = True  # the peer sends a Close, too, before the connection is over

    def __init__(self, role: Role, *, max_message: int, encoding: Encoding = PLAIN) -> None:
        self.encoding = encoding
        self.is_open = True  # until their Close or their error: then nothing is read (7.1.7)
        self.pending = False  # `receive` has more to give from what it has got
        self._parser = FrameParser(
            masked=role is Role.SERVER, max_length=max_message, allowed_rsv=encoding.rsv
        )
        self._assembler = encoding.make_assembler(max_message)
        self._given = 0  # bytes of messages in this call's events

    def receive(self, data: bytes) -> list[Event]:
        """Take the bytes of one `recv`; return what they amount to, in order.

        A protocol error is an event, `Closing` with `failed`, so that it keeps its place after
        the messages that came before it. Beyond EVENTS_SIZE, which compressed messages can reach,
        the rest is `pending` until the next call, which may bring no bytes.
        """
        events: list[Event] = []
        if not self.is_open:
            return events
        self._given = 0
        self._parser.feed(data)
        try:
            while self._advance(events):
                pass
        except ProtocolError as error:
            self.is_open = False
            events.append(Closing(error.code, error.reason, failed=True))
        self.pending = self._given >= EVENTS_SIZE and self.is_open
        return events

    def _advance(self, events: list[Event]) -> bool:
        """Take the next run of messages, or the next frame; return whether to go on."""
        if self._assembler.idle:
            opcode, payloads, size = self._parser.take_run()
            if payloads:
                valid = valid_text_count(payloads) if opcode == Opcode.TEXT else len(payloads)
                if valid:
                    events.append(Messages(opcode, payloads[:valid], size))
                if valid < len(payloads):
                    raise ProtocolError(CloseCode.INVALID_DATA, "text is not UTF-8")
                return True
        frame = self._parser.next_frame()
        if frame is None:
            return False
        if frame.header.opcode >= Opcode.CLOSE:  # 5.4: it may stand inside a message
            self._take_control(frame, events)
            return self.is_open
        message = self._assembler.add(frame)
        if message is not None:
            size = len(message) + MESSAGE_COST
            self._given += size
            events.append(Messages(self._assembler.opcode, [message], size))
        return self._given < EVENTS_SIZE

    def _take_control(self, frame: Frame, events: list[Event]) -> None:
        if frame.header.opcode != Opcode.CLOSE:
            events.append(Control(frame.header.opcode, frame.payload))
            return
        code, reason = parse_close(frame.payload)
        self.is_open = False
        events.append(Closing(code, reason, failed=False))

    def finish(self) -> list[Event] | None:
        """Return the events of the stream's end, None if a Close is missing; free the buffers."""
        self._parser.feed(b"")
        self._assembler = self.encoding.make_assembler(0)
        return None

    @staticmethod
    def encode_close(code: int, reason: str) -> bytes:
        """Return what says that nothing more is sent, and why."""
        return encode_frame(Opcode.CLOSE, encode_close(code, reason))


# ==== 7. Connection ======================================================================
# The first threads. A connection is read by its reader, and written by whichever thread has a
# message; neither waits for the peer. What the kernel does not take at once goes to the backlog of
# the connection, and the one poller thread finishes it. In a fan-out no client costs a thread, a
# queue or a hand-over, and no byte is written out of order or by two threads.

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


def start_thread(name: str, target: Callable[..., None], *args: object) -> threading.Thread:
    """Start a daemon thread; whoever started it must see to its end.

    Raises:
        ShortageError: there is no thread left, or no memory for one (net/threads.py sees that).
    """
    try:
        threads = find_feature("threads")
        kind: type[threading.Thread] = threads.Thread if threads else threading.Thread
        thread = kind(name=name, target=target, args=args, daemon=True)
        thread.start()
    except (RuntimeError, MemoryError):
        raise ShortageError(OUT_OF_THREADS) from None
    return thread


_reported: dict[str, float] = {}  # when each was; with no lock, as a line too many does no harm


def report_shortage(what: str) -> None:
    """Log that something has run out: as an error if that is new, at DEBUG while it lasts."""
    now = time.monotonic()
    fresh = now - _reported.get(what, -math.inf) > SHORTAGE_PAUSE
    _reported[what] = now
    log.log(logging.ERROR if fresh else logging.DEBUG, "%s", what)


def is_memory_error(error: BaseException | None) -> bool:
    """Whether memory has run out; for lack of it for a lock, Python raises a RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and str(error).startswith("can't allocate")
    )


def report_failure(logger: logging.Logger | RoomLog = log) -> str:
    """Log what has just been raised; return what has run out, or "" if it is a bug of ours.

    No thread of the server ends because of either.
    """
    error = sys.exception()
    shortage = OUT_OF_MEMORY if is_memory_error(error) else ""
    try:
        if isinstance(error, ShortageError):
            shortage = str(error)
        if shortage:
            report_shortage(shortage)
        else:
            logger.exception("our own bug")
    except (MemoryError, RuntimeError) as another:  # not even enough to say so
        if not is_memory_error(another):
            raise
    return shortage


def insist(function: Callable[..., T], *args: Any) -> T:
    """Call a function, and again while it fails for lack of memory: it must not be left undone.

    What the caller makes for this call needs memory, too: even the method of an object does. So
    it is given as that of its class where nothing may fail, as in `insist(Session.end, session)`.
    """
    while True:
        try:
            return function(*args)
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            report_failure()
            time.sleep(OUT_OF_MEMORY_PAUSE)


# Each `recv` and `send` lets go of the interpreter lock, and another thread takes it: a fan-out to
# a thousand clients would lose it a thousand times. So a round of `recv`s or a fan-out of `send`s,
# none of which blocks, first takes TURN and holds it to its end; other threads that want TURN sleep
# in the kernel meanwhile. TURN is taken after the locks of registry and room, and before that of a
# connection. A Python without the interpreter lock needs no turns.
NO_TURN: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
TURN = threading.Lock() if getattr(sys, "_is_gil_enabled", lambda: True)() else NO_TURN


def take_turn(items: Sequence[Addressed]) -> contextlib.AbstractContextManager[object]:
    """Return TURN for a fan-out to a crowd; one to a few clients does not wait for its turn."""
    return TURN if len(items) >= CROWD or any(len(to) >= CROWD for to, _ in items) else NO_TURN


class Poller:
    """One thread that waits for sockets and for points in time, and then calls functions.

    None of them may block. What one of them raises is logged, and ends no other.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()  # guards the heap
        self._calls: list[tuple[float, int, Callable[[], None]]] = []  # a heap, the next one first
        self._order = itertools.count()  # calls of the same time keep their order
        self._woken = True  # a wake-up byte is on its way; or the thread has not started
        self._stopped = False

    def start(self) -> None:
        """Start the thread.

        Raises:
            OSError, ShortageError: the system is out of descriptors or threads.
        """
        self._wake_up, self._waker = socket.socketpair()
        try:
            self._wake_up.setblocking(False)
            self._waker.setblocking(False)
            self._selector = selectors.DefaultSelector()  # touched by the thread alone
            self._selector.register(self._wake_up, selectors.EVENT_READ, self._empty_wake_up)
            self._wake()  # for what came before
            self._thread = start_thread(self._name, self._run)
        except BaseException:  # also when there is not even memory for a ShortageError
            self._wake_up.close()
            self._waker.close()
            raise

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have the thread call a function, soon and once."""
        self.call_later(0.0, function)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Have the thread call a function once, after that many seconds."""
        call = (time.monotonic() + seconds, next(self._order), function)
        with self._lock:
            heapq.heappush(self._calls, call)
            is_first = self._calls[0] is call
        if is_first and not self._woken:  # else it will look for an earlier one anyhow
            self._wake()

    def stop(self) -> None:
        """End the thread, from another one; what it has not called by then will not be."""
        self._stopped = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        self._woken = True
        try:  # this needs no memory: a call that is there must not be asked for again
            self._waker.send(b"\0")
        except OSError:  # full: a wake-up is under way already; closed: the server has stopped
            pass

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._do_round()
            except BaseException:  # memory, or our bug
                report_failure()
                time.sleep(OUT_OF_MEMORY_PAUSE)
        self._close()

    def _do_round(self) -> None:
        """Wait for something to be ready, or until a call is due, and see to both."""
        for key, _ in self._select():
            self._do(key.data)
        self._call_due()

    def _select(self, *, wait: bool = True) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; wait for that, but not beyond when a call is due."""
        with self._lock:
            due = self._calls[0][0] if self._calls else math.inf
        patience = max(0.0, min(due - time.monotonic(), 3600.0))  # epoll takes no 25 days
        return self._selector.select(patience if wait else 0.0)

    def _call_due(self) -> None:
        now = time.monotonic()  # `call_soon` by one of these functions: that is for the next round
        while not self._stopped:
            with self._lock:
                if not self._calls or self._calls[0][0] > now:
                    return
                function = heapq.heappop(self._calls)[2]
            if not self._do(function):  # it must not be forgotten
                insist(Poller.call_later, self, OUT_OF_MEMORY_PAUSE, function)

    def _close(self) -> None:
        self._selector.close()
        self._wake_up.close()
        self._waker.close()

    def _empty_wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_up.recv(4096):
                pass
        self._woken = False  # before it looks what is due: a call that comes now wakes it again

    def _do(self, function: Callable[[], None]) -> bool:
        """Call a function; return False if there was no memory for it."""
        try:
            function()
        except BaseException as error:
            report_failure()
            if is_memory_error(error):
                time.sleep(OUT_OF_MEMORY_PAUSE)
                return False
        return True

    # -- its thread: for the functions that it calls --

    def watch(self, sock: socket.socket, events: int, data: Callable[[], None] | Session) -> None:
        """Call a function whenever the socket is ready, until `unwatch`."""
        try:
            self._selector.register(sock, events, data)
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENOSPC):  # ENOSPC: too many for its user
                raise MemoryError("no memory to watch a socket") from None
            raise

    def unwatch(self, sock: socket.socket) -> None:
        """Watch a socket no longer: before it is closed, and before another thread watches it."""
        self._selector.unregister(sock)


class Backlog:
    """Whole frames that wait for a socket; a part of the first piece may have been sent already."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._pieces: list[bytes | bytearray] = []  # each client has one; an empty deque is 0.6 KiB
        self._offset = 0  # bytes of the first piece that have been sent

    def add(self, data: bytes, sent: int = 0) -> None:
        """Add frames; `sent` bytes of them are on the wire, if they come first.

        Short ones are joined, as their objects would outweigh them; but not with the first
        piece, so that `discard` has something to keep.
        """
        last = self._pieces[-1] if len(self._pieces) > 1 else b""
        if not self._pieces:
            self._pieces.append(data)
            self._offset = sent
        elif isinstance(last, bytearray) and len(last) + len(data) <= JOINED_SIZE:
            last += data
        else:
            short = len(data) < JOINED_SIZE // 4
            self._pieces.append(bytearray(data) if short else data)
        self.size += len(data) - sent  # last: there may have been no memory for the data

    def buffers(self) -> list[memoryview | bytes | bytearray]:
        """Return what is to be sent next."""
        return [memoryview(self._pieces[0])[self._offset :], *self._pieces[1:64]]

    def advance(self, sent: int) -> None:
        """Note that so many bytes have been sent."""
        self.size -= sent
        self._offset += sent
        while self._pieces and self._offset >= len(self._pieces[0]):
            self._offset -= len(self._pieces.pop(0))

    def discard(self) -> None:
        """Drop all but the first piece, which may be on the wire in part."""
        while len(self._pieces) > 1:
            self.size -= len(self._pieces.pop())

    def take(self) -> bytes:
        """Return all, of which nothing has been sent, and have nothing any more."""
        data = b"".join(self._pieces)
        self.clear()
        return data

    def clear(self) -> None:
        """Drop everything."""
        self._pieces.clear()
        self.size = 0


class Connection:
    """One WebSocket: the socket, the protocol, and the closing handshake (RFC 6455 section 7).

    Any thread may write to it, and none waits for the peer. What is under "the reader's side" is
    for the one thread that has its session (chapter 13): its reader, or a helper.

    Args:
        sock: a connected stream socket; the opening handshake has been read from it. `dispose`
            gives it back.
        protocol: the receiving half; it also makes our Close frame.
        poller: finishes what the socket does not take at once; what is left when it stops is lost.
            It also ends a closing handshake that the peer does not finish.
        max_backlog: bytes that may wait before the connection counts as full.
        early: what has been read already, behind the opening handshake.
        response: of the opening handshake, if `open` is to send it; all else waits for that.
    """

    IS_DIRECT: ClassVar[bool] = bool(_DONT_WAIT)  # frames go to the socket as they are

    def __init__(
        self,
        sock: socket.socket,
        protocol: WebSocketProtocol | LineProtocol,
        *,
        poller: Poller,
        max_backlog: int,
        early: bytes = b"",
        response: bytes = b"",
    ) -> None:
        self._socket = sock
        self.protocol = protocol
        self.encoding = protocol.encoding
        self._poller = poller
        self._max_backlog = max_backlog
        self._early = early
        self.is_reading = not response  # False: it is not open yet, or its reader has paused it
        self.silent_since = time.monotonic()  # its last bytes, or a change of `is_reading`
        self._leaving = False  # what comes is dropped
        self._disposed = False  # the reader is done with it
        self.lock = threading.Lock()  # guards all below, and the order of bytes on the wire
        self._is_open = not response  # if not, the response is the first in the backlog
        self._is_direct = self.IS_DIRECT  # … now, too: `send` itself may write to it
        self._backlog = Backlog()
        self.is_full = False  # as many bytes wait as may
        self.progress_at = 0.0  # when the kernel last took a byte of the backlog
        self._freed: threading.Event | None = None  # set when the backlog is no longer full
        self._with_poller = False  # the poller has the socket, and closes it if it is disposed
        self._dead = False  # no byte can be sent any more
        self._close_sent = False
        self._close_received = not protocol.answers_close  # or none is awaited from it
        if sock.gettimeout() != (patience := None if _DONT_WAIT else 3600.0):
            sock.settimeout(patience)
        if response:
            self.transmit(response)

    # -- the reader's side --

    def open(self) -> None:
        """Send the response of the opening handshake, then what has been sent meanwhile."""
        with self.lock:
            self.set_reading(True)  # while --auth was asked, the peer was not silent
            if not self._is_open:  # that of --tcplisten has been from the start
                self._is_open = True
                self.transmit(self._backlog.take())

    @property
    def has_more(self) -> bool:
        """Whether `receive` has something to give though no more bytes come."""
        return bool(self._early or self.protocol.pending)

    def receive(self) -> list[Event] | None:
        """Take what has come, without waiting; return its events, or None when that was all.

        Pings are answered here (5.5.2).
        """
        data, self._early = self._early, b""
        if not (data or self.protocol.pending):
            try:
                data = self._take_bytes()
            except BlockingIOError:
                return []
            self.silent_since = time.monotonic()
            if not data:
                return self.protocol.finish()
        events = self.protocol.receive(data)
        for event in events:
            # A peer that pings and does not read gets no pongs: 5.5.3 lets us skip some.
            if isinstance(event, Control) and event.opcode == Opcode.PING and not self.is_full:
                self.send_control(encode_frame(Opcode.PONG, event.payload))
        return events

    def set_reading(self, is_reading: bool) -> None:
        """Note whether the peer is being read; its silence counts only then (net/pings.py)."""
        self.is_reading, self.silent_since = is_reading, time.monotonic()

    def drop_input(self) -> bool:
        """Take what has come and drop it; return whether more may come.

        Closing a socket with unread bytes in it would reset the connection, and the peer would
        lose our Close frame (7.1.1). After CLOSE_TIMEOUT it is cut off.
        """
        if not self._leaving:
            self._leaving, self._early = True, b""
            self._poller.call_later(CLOSE_TIMEOUT, self._give_up)
        try:
            return bool(self._take_bytes())
        except BlockingIOError:
            return True

    def _take_bytes(self) -> bytes:
        """Return what has come, and no bytes at the end.

        Raises:
            BlockingIOError: nothing has.
        """
        try:
            return self._socket.recv(RECEIVE_SIZE, _DONT_WAIT)
        except BlockingIOError:
            raise
        except OSError:  # a reset, which is an end like any other
            return b""

    def dispose(self) -> None:
        """Give the socket back to the system, once the poller does not use it either."""
        with self.lock:
            self._disposed = True
            self._die()
            if not self._with_poller:
                self._socket.close()

    # -- any thread --

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def is_alive(self) -> bool:
        """Whether bytes can still be sent."""
        return not self._dead

    @property
    def is_closing(self) -> bool:
        """Whether a Close frame has been sent, or the connection has ended."""
        return self._close_sent or self._dead

    def send(self, data: bytes) -> bool:
        """Send whole frames, in order with all else; return False if they were dropped.

        They are dropped only if a Close frame has been sent (5.5.1), or the connection has ended.
        """
        with self.lock:
            if self._close_sent or self._dead:  # as `is_closing`
                return False
            if self._is_direct and not self._backlog.size:  # as `_push`, without its calls
                try:
                    sent = self._socket.send(data, _DONT_WAIT)
                except OSError:  # for `_push` to see which
                    sent = 0
                if sent == len(data):
                    return True
                data = data[sent:]
            self._push(data)
            return True

    def send_control(self, frame: bytes) -> None:
        """Send a control frame, before what a replay still holds back (5.5)."""
        with self.lock:
            if not self.is_closing:
                self.transmit(frame)

    def close(self, code: int, reason: str = "", *, discard: bool = False) -> None:
        """Send a Close frame (7.1.2), unless one has been sent, and see the connection to its end.

        Args:
            code: the close code.
            reason: at most 123 bytes of it are sent.
            discard: drop the backlog but for its first part, which may be on the wire in part.
        """
        with self.lock:
            if discard and not self.is_closing:
                self._discard()
            self._close(code, reason)

    def answer(self, closing: Closing) -> None:
        """Send the Close frame that the peer's Close, or its error, asks for (5.5.1, 7.1.7)."""
        if closing.code == CloseCode.ABNORMAL:
            self.abort()
            return
        with self.lock:
            self._close_received = True
            self._close(*closing.reply)

    def abort(self) -> None:
        """End the connection now, by a reset if bytes are under way; the reader wakes up."""
        with self.lock:
            with contextlib.suppress(OSError):  # or it would try for minutes to send what is left
                linger = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._die()

    def _give_up(self) -> None:
        """End the connection, unless the peer is still taking what was sent before the Close."""
        rest = self.progress_at + CLOSE_TIMEOUT - time.monotonic()
        if rest > 0 and not self._dead:
            self._poller.call_later(rest, self._give_up)
        elif not self._dead:
            self.abort()

    # -- what waits for the peer --

    @property
    def backlog_size(self) -> int:
        """Bytes that wait for the peer."""
        return self._backlog.size

    def wait_while_full(self, stall: float) -> bool:
        """Wait until the backlog is no longer full; False if it makes no progress for `stall` s.

        The pump calls it, and so slows its child down to the pace of the slowest client.
        """
        while True:
            with self.lock:
                if not self.is_full:
                    return True
                self._freed = self._freed or threading.Event()
                self._freed.clear()
                patience = self.progress_at + stall - time.monotonic()
            if patience <= 0:
                return False
            self._freed.wait(patience)

    def overflows(self, size: int) -> bool:
        """Whether it is full, and `size` bytes more are more than even a game may send it."""
        return self.is_full and self._backlog.size + size > GAME_BACKLOGS * self._max_backlog

    def has_stalled(self, stall: float) -> bool:
        """Whether bytes wait, and the kernel has taken none of them for so many seconds."""
        with self.lock:
            waits = self._is_open and self._backlog.size > 0
            return waits and time.monotonic() - self.progress_at >= stall

    # -- under the lock --

    def _close(self, code: int, reason: str) -> None:
        if not self.is_closing:
            self._push(self.protocol.encode_close(code, reason))
            self._close_sent = True
            self._poller.call_later(CLOSE_TIMEOUT, self._give_up)
        self._end_if_closed()

    def _push(self, data: bytes) -> None:
        """Send what comes behind all else; see net/history.py."""
        self.transmit(data)

    def transmit(self, data: bytes) -> None:
        """Hand bytes to the kernel; what it does not take goes to the backlog."""
        sent = 0
        if self._is_open and not self._backlog.size:
            sent = self._write((data,))
            self.progress_at = time.monotonic()
            if sent == len(data) or self._dead:
                return
        self._backlog.add(data, sent)
        if self._is_open:
            self.is_full = self.backlog_size >= self._max_backlog
            if not self._with_poller:
                self._with_poller = True
                self._poller.call_soon(self.watch_backlog)

    def _write(self, buffers: Sequence[memoryview | bytes | bytearray]) -> int:
        """Hand bytes to the kernel; return how many it took, 0 if it has no room now."""
        try:
            if _DONT_WAIT:
                return self._socket.sendmsg(buffers, (), _DONT_WAIT)
            can_write = select.select((), (self._socket,), (), 0)[1]  # Windows has no `sendmsg`
            return self._socket.send(buffers[0]) if can_write else 0
        except BlockingIOError:
            return 0
        except OSError:
            self._die()
            return 0

    def _discard(self) -> None:
        """Drop what waits, but for the first part of it, which may be on the wire in part."""
        self._backlog.discard()
        self._on_shrunk()

    def _on_shrunk(self) -> None:
        """See whether the backlog is no longer full, and wake who waits for that."""
        self.is_full = self.backlog_size >= self._max_backlog
        if self._freed is not None and not self.is_full:
            self._freed.set()

    def _end_if_closed(self) -> None:
        """End our side when both Closes have passed; the server goes first (7.1.1)."""
        both = self._close_sent and self._close_received
        if both and not (self._backlog.size or self._dead):
            self._end_sending()

    def _end_sending(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _die(self) -> None:
        if self._dead:
            return
        self._dead = True
        self._backlog.clear()
        self._on_shrunk()
        with contextlib.suppress(OSError):  # it may be unconnected already
            self._socket.shutdown(socket.SHUT_RDWR)

    # -- the poller's thread --

    def watch_backlog(self) -> None:
        """Have the rest written as the socket becomes writable; once for each backlog."""
        with self.lock:
            if self._dead:
                self._leave_poller()
            else:
                self._poller.watch(self._socket, selectors.EVENT_WRITE, self._flush)

    def _flush(self) -> None:
        """Write what the socket takes; stop watching it when nothing is left.

        Under the lock, so that no descriptor is closed, and used again, while the poller knows it.
        """
        with self.lock:
            if self._backlog.size and (sent := self._write(self._backlog.buffers())):
                self.progress_at = time.monotonic()
                self._backlog.advance(sent)
                self._on_shrunk()
            if not self._backlog.size:
                self._poller.unwatch(self._socket)
                self._leave_poller()
                self._end_if_closed()

    def _leave_poller(self) -> None:
        self._with_poller = False
        if self._disposed:
            self._socket.close()


_LINE_BREAKING = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_BLANK = "[\\s\u00ad\u115f\u1160\u200b-\u200f\u2060\u2800\u3164\ufeff\uffa0]*"


def clean_name(text: str) -> str:
    """Return a user's name, or a fact about one, as one line; "" if nothing of it can be seen."""
    line = re.sub(_LINE_BREAKING, " ", text.encode(errors="replace").decode()).strip()
    return "" if re.fullmatch(_BLANK, line) else line


class Client:
    """A member of a room: messages come from one, and go to one.

    It is not the socket: with --resume a client outlives its connection. In-process games
    get this object in their hooks; `id`, `request`, `data`, `send` and `close` are theirs.
    """

    user = ""  # as --auth or `on_auth` has named it
    room: Room | None = None  # set when it joins
    seat: Seat | None = None  # with --resume: outlives the socket, and is `connection`, too
    dropped = False  # its seat has no connection now
    restored = False  # it came back, and has kept nothing of what it had been sent
    kicked = False  # its backend has ended it: what it has said counts no more
    departed = False  # then: it is out of its room; guarded by the registry's lock
    left = False  # then: its game has been told

    def __init__(
        self,
        number: int,
        room_name: str,
        request: Request,
        connection: Connection,
        *,
        peer: Endpoint,
        local: Endpoint,
        secure: bool = False,
    ) -> None:
        self.id = number  # unique in this server, from 1 on
        self.room_name = room_name  # the room asked for
        self.request = request  # for an upgrade
        self.connection = connection  # what it is connected by
        self.peer = peer  # its address and port
        self.local = local  # address and port of ours that it connected to
        self.secure = secure  # it came over TLS
        self.claims: Mapping[str, str] = {}  # what else --auth has said of the user
        self.since = time.monotonic()
        self.data: dict[str, Any] = {}  # the game's own

    @property
    def address(self) -> str:
        """Its address, without the port."""
        return self.peer[0]

    @functools.cached_property
    def name(self) -> str:
        """Its user, or else the `name` in its query, or `player 7`; a game may give another."""
        asked = clean_name(self.request.parameters.get("name", "")[:32])
        return self.user or asked or f"player {self.id}"

    def send(self, message: str | bytes) -> None:
        """Send a text or binary message; for in-process games, on the room's thread.

        Raises:
            RuntimeError: this is another thread; see `GameRoom.call_soon`.
        """
        assert self.room is not None
        self.room.check_thread("client.send")
        if not self.left:
            if self.room.log.traces:
                self.room.log.trace(">", [message], self.id)
            self.room.post((self,), self.connection.encoding.encode_message(message))

    def send_json(self, value: JsonValue) -> None:
        """Send a value as JSON, in one line of text; see `send`."""
        self.send(write_json(value))

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection after what was sent before; for in-process games.

        Raises:
            ValueError: the code must not be sent, or the reason is no text.
            RuntimeError: this is another thread; see `GameRoom.call_soon`.
        """
        assert self.room is not None
        self.room.check_thread("client.close")
        check_close_code(code, reason)
        self.room.flush()
        self.room.kick(self, code, reason)


# ==== 8. Framing and routing =============================================================
# What crosses the pipe between the server and a child. Without framing a client's message is a
# line for the child, and a line from the child a message for everyone. JSON framing adds who
# sent a message, and reads whom one is for. (Raw bytes: net/binary.py; gwsocket: net/gwsocket.py.)


class Route(NamedTuple):
    """A run of messages from the child that go the same way."""

    opcode: int
    payloads: list[bytes]
    to: tuple[int, ...] | None = None  # client IDs; None: everyone
    exclude: tuple[int, ...] = ()  # but not these
    cached: bool | None = None  # `_cache`; None: the framing has no such mark


class Kick(NamedTuple):
    """The child's wish to end connections."""

    to: tuple[int, ...] | None
    exclude: tuple[int, ...]
    code: int
    reason: str


class Metadata(NamedTuple):
    """What the child wants to be kept of its room: for the API to show, or for its next process."""

    text: str  # JSON
    name: str = "metadata"  # or "saved"


Output = Route | Kick | Metadata
Report = Callable[[int | None, str], None]  # client ID, what was dropped and why


# U+2028, U+2029 and U+0085: some take them for line breaks. Each with its escape in JSON.
RARE_BREAKS = tuple((c.encode(), f"\\u{ord(c):04x}".encode()) for c in "\u2028\u2029\x85")
# What Python's `splitlines` takes for a line break beside those.
_BREAKS_TO_SPACES = bytes.maketrans(b"\n\r\v\f\x1c\x1d\x1e", b" " * 7)


class Framing:
    """Lines: the base of the framings, and the one by default.

    One object serves one direction of one child: the client's side through `encode` and
    `announce`, or the child's side through `feed` and `finish`.

    Args:
        report: is told what had to be dropped.
        one_line: line breaks in a client's message become spaces, so that it cannot write a line
            that looks like a join or leave message.
    """

    delimiter = b"\n"  # ends a message from the child; net/delimiters.py has others

    def __init__(self, *, report: Report, one_line: bool = False) -> None:
        self._report = report
        self._one_line = one_line
        self.rest = bytearray()  # of an item that has not ended; another object for each item
        self.error: BackendError | None = None  # why nothing more can be read

    def encode(self, sender: int, run: Messages) -> bytes:
        """Return what the child reads for a run of messages from one client."""
        whole = b"".join(run.payloads)
        if self._one_line or b"\n" in whole:
            return b"\n".join(map(self._to_line, run.payloads)) + b"\n"
        return b"\n".join(run.payloads) + b"\n"

    def _to_line(self, payload: bytes) -> bytes:
        """Return a message without the line break that people end it with."""
        if payload.endswith(b"\n"):
            payload = payload[: -2 if payload.endswith(b"\r\n") else -1]
        if self._one_line:
            payload = payload.translate(_BREAKS_TO_SPACES)
            for separator, _ in () if payload.isascii() else RARE_BREAKS:
                payload = payload.replace(separator, b" ")
        return payload

    def announce(self, sender: int, message: str) -> bytes:
        """Return what the child reads for a join or leave message."""
        return message.encode() + b"\n"

    def feed(self, data: bytes) -> list[Output]:
        """Take what the child printed; return what it amounts to.

        An item that does not end sets `error`.
        """
        head, found, tail = data.rpartition(self.delimiter)
        if found and self.rest:
            head, self.rest = bytes(self.rest) + head, bytearray()
        if tail:
            self.rest += tail
            if len(self.rest) > MAX_OUTPUT_ITEM:
                printed = f"the child printed {len(self.rest)} bytes without a delimiter"
                self.error = BackendError(f"{printed}; {MAX_OUTPUT_ITEM} is the most")
        if not found:
            return []
        if self.delimiter == b"\n" and b"\r" in head:
            head = head.replace(b"\r\n", b"\n").removesuffix(b"\r")
        items = head.split(self.delimiter)
        if not head.isascii():
            items = [self._to_text(item) for item in items]
        return self.route(items)

    def finish(self) -> list[Output]:
        """Return what is left when the child has ended: its last line may have no newline."""
        return self.feed(self.delimiter) if self.rest else []

    def route(self, items: list[bytes]) -> list[Output]:
        """Say where items go; here, to everyone."""
        return [Route(Opcode.TEXT, items)]

    def _to_text(self, item: bytes) -> bytes:
        """Return an item as valid UTF-8, as a text message must be."""
        try:
            item.decode()
        except UnicodeDecodeError:
            self._report(None, "output that is not UTF-8 was repaired; --binary sends it as it is")
            return item.decode(errors="replace").encode()
        return item


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# A program may read JSON in other ways than we do. If a client could spell `_from` or `_to` so that
# the program knew it and we did not, it could speak for another client; so all spellings count. And
# a long number ends a program whose parser refuses it: Python's takes 4,300 digits, Java's Jackson
# 1,000. A run of digits is found by making all digits the same.
_DIGITS = bytes.maketrans(b"012345678.", b"9" * 10)
_TOO_LONG = b"9" * (MAX_DIGITS + 1)
_LONG_NUMBER = re.compile(rb"(?<![0-9.])[0-9.]{%d,}" % len(_TOO_LONG))
# Checks JSON without converting its numbers: a message keeps its bytes.
json_checker = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_reject_constant)
# Reads the child's; what has more digits than int() takes (CVE-2020-10735) stays text.
_json_reader = json.JSONDecoder(parse_constant=_reject_constant)
_long_json_reader = json.JSONDecoder(
    parse_int=lambda digits: int(digits) if len(digits) <= 4300 else digits,
    parse_constant=_reject_constant,
)
_JSON_BEGIN = r"""[\s\0-\x20\x7f\ufeff\u200b-\u200f\u2060]*[{\["']"""
_ESCAPE = r"\\+u([0-9A-Fa-f]{4})"
_ESCAPED_LETTER = re.compile(rb"\\u00[2-7]")  # it may hide a name
_TO_ALL = Route(Opcode.TEXT, [], cached=False)  # the route of a line that names nobody
ROUTING_FIELDS = ("_to", "_except", "_meta", "_cache", "_close")


def name_fields(names: Iterable[str]) -> str:
    """Return a pattern for fields that route, and for `_save`, in upper or lower case."""
    return rf"_(?i:save|{'|'.join(name[1:] for name in names)})(?!\w)"


# A string, also one without an end. Brackets outside of strings are those of lists and objects.
_JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_nesting(text: str) -> None:
    """Refuse JSON that is nested deeper than MAX_NESTING, before a parser sees it.

    The parser recurses in C, once for each level. Some versions of Python let it go 10,000 levels
    deep, for which the stack of our threads is too small.

    Raises:
        RecursionError: it is, or it is no JSON.
    """
    if len(text) <= MAX_NESTING or text.count("[") + text.count("{") <= MAX_NESTING:
        return
    brackets = _JSON_STRING.sub(b"", text.encode(errors="replace"))
    brackets = brackets.translate(_TO_SQUARE, _NO_BRACKETS)
    depth = 4
    for _ in range(depth):  # each takes off the innermost level; most JSON has no more
        brackets = brackets.replace(b"[]", b"")
    for start in range(0, len(brackets), 4 * KIB):
        steps = [1 if bracket == 0x5B else -1 for bracket in brackets[start : start + 4 * KIB]]
        depths = list(itertools.accumulate(steps, initial=depth))
        if max(depths) > MAX_NESTING:
            raise RecursionError(f"nested deeper than {MAX_NESTING} levels")
        depth = depths[-1]


def decode_json(decoder: json.JSONDecoder, text: str) -> JsonValue:
    """Do what `decoder.decode` does, in half the time where no white space surrounds the value.

    Raises:
        ValueError: it is no JSON.
        RecursionError: see `check_nesting`.
    """
    if len(text) > MAX_NESTING:
        check_nesting(text)
    try:
        value, end = decoder.scan_once(text, 0)  # type: ignore[attr-defined]  # typeshed lacks it
    except StopIteration:
        end = -1
    return value if end == len(text) else decoder.decode(text)


def remove_members(text: str, names: Collection[str]) -> str:
    """Return a JSON object without its top-level members of those names; it must be valid.

    All else keeps its bytes with net/framings.py; alone, numbers may be spelled in another way.
    """
    if (framings := find_feature("framings")) is not None:
        return str(framings.remove_members(text, names))
    value = json.loads(text)
    return write_json({name: value[name] for name in value if name not in names})


@functools.lru_cache(4096)  # more than there are characters that cannot be seen
def fold_character(character: str) -> str:
    """Return what a lenient parser may make of a character in a name; see `FieldNames`."""
    import unicodedata

    folded = unicodedata.normalize("NFKC", character).upper().casefold()
    unseen = ("Cc", "Cf", "Cs", "Mn", "Mc", "Me", "Zs", "Zl", "Zp")
    return "".join(c for c in folded if unicodedata.category(c) not in unseen)


class FieldNames:
    """Names of JSON fields, in every spelling that some parser takes for one of them.

    Go, C# and Java can ignore case (Unicode's, in which U+017F is an s), others trim white space,
    leave out what cannot be seen, normalize, or end a name at a null character.

    Args:
        names: of ASCII letters, digits and underscores; each begins with an underscore.
    """

    def __init__(self, *names: str) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._longest = max(map(len, names))

    def find(self, keys: Iterable[str]) -> list[str]:
        """Return which of an object's keys some parser may take for one of these names."""
        quoted = '"' + '"'.join(keys) + '"'
        if quoted.isascii() and quoted.isprintable() and " " not in quoted and '"_' not in quoted:
            return []  # nearly always
        return [key for key in keys if self._is_spelled(key)]

    def _is_spelled(self, key: str) -> bool:
        return any(self._fold(it) in self._names for it in {key, key.partition("\0")[0]})

    def _fold(self, key: str) -> str:
        folded = ""
        for character in key:
            folded += fold_character(character)
            if len(folded) > self._longest:  # no need to look at all of a long key
                break
        return folded


class JsonFraming(Framing):
    """JSON lines with a field that says who sent a message, and one that says whom it is for.

    Args:
        strip: take the fields that route out of what clients send, so that a child which prints
            it again says whom it is for, and nobody else.
    """

    sender_field = "_from"
    routing_fields: Sequence[str] = ROUTING_FIELDS
    names_type: type[FieldNames] = FieldNames
    _marked = True  # the names of all of these begin with an underscore

    def __init__(self, *, report: Report, strip: bool = False) -> None:
        super().__init__(report=report)
        # Fields that only the program or only the server may write: a client's are taken out.
        routing = self.routing_fields if strip else ()
        self._own = self.names_type(self.sender_field, "_save", "_restore", *routing)
        names = name_fields(self.routing_fields)
        self._routing = re.compile(names.encode())
        self._named = re.compile(rf"(?<!\w){names}")

    def encode(self, sender: int, run: Messages) -> bytes:
        """Tag messages with their sender; drop what is not a JSON object."""
        prefix = f"{{{json.dumps(self.sender_field)}:{sender}".encode()
        lines = []
        for payload in run.payloads:
            try:
                lines.append(self._tag(prefix, payload))
            except (ValueError, RecursionError) as error:
                self._report(sender, f"message is not a JSON object: {error}")
        return b"".join(lines)

    def _tag(self, prefix: bytes, payload: bytes) -> bytes:
        """Splice the sender in front, and keep every other byte as it came."""
        text = payload.decode()
        value = decode_json(json_checker, text)
        if not isinstance(value, dict):
            raise ValueError(f"it is of type {type(value).__name__}")
        if len(payload) > MAX_DIGITS and _TOO_LONG in payload.translate(_DIGITS):
            # What looks like a number may stand in a string.
            if (number := _LONG_NUMBER.search(_JSON_STRING.sub(b"", payload))) is not None:
                raise ValueError(f"a number of {len(number[0])} digits; {MAX_DIGITS} is the most")
        plain = payload.isascii()
        # Without an underscore, an escape or a character beyond ASCII nothing can be our own.
        if not (plain and self._marked and b"_" not in payload and b"\\" not in payload):
            if own := self._own.find(value):
                payload = self._strip(text, own)
                for name in own:
                    del value[name]
        # A line break in JSON stands only between tokens; the child must see one line.
        if b"\n" in payload or b"\r" in payload:
            payload = payload.replace(b"\n", b" ").replace(b"\r", b" ")
        if not plain:  # Node and Python take these for line breaks, too
            for separator, escape in RARE_BREAKS:
                payload = payload.replace(separator, escape)
        rest = payload[payload.index(b"{") + 1 :]
        return prefix + (b"," if value else b"") + rest + b"\n"

    def _strip(self, text: str, names: list[str]) -> bytes:
        """Return a message without the members `names`."""
        return remove_members(text, names).encode()

    def route(self, items: list[bytes]) -> list[Output]:
        """Read whom items are for; those that go the same way, one after the other, are one run."""
        outputs: list[Output] = []
        run: list[bytes] = []
        last: Output | None = None
        for item in items:
            try:
                output = self._read_route(item) if self._is_marked(item) else _TO_ALL
            except (ValueError, RecursionError) as error:  # nobody gets it
                self._report(None, f"message of the child was not sent: {error}")
                continue
            if not isinstance(output, Route):
                outputs.append(output)
            elif output == last:
                run.append(item)
            else:
                run = [item]
                outputs.append(output._replace(payloads=run))
            last = output
        return outputs

    def finish(self) -> list[Output]:
        """Drop a last line that breaks off: it may have been meant for one client only."""
        rest = self.rest.strip().removeprefix(codecs.BOM_UTF8)
        if rest.startswith(b"{"):
            try:
                decode_json(json_checker, rest.decode())
            except (ValueError, RecursionError):
                self.rest.clear()
                self._report(None, f"{len(rest)} bytes of an unfinished message")
        return super().finish()

    def _is_marked(self, item: bytes) -> bool:
        """Whether an item may say whom it is for; most do not, and need not be parsed."""
        if b"_" in item and self._routing.search(item) is not None:
            return True
        return b"\\u00" in item and _ESCAPED_LETTER.search(item) is not None

    def _read_route(self, item: bytes) -> Output:
        text = item.decode()
        try:
            reader = _json_reader if len(text) <= MAX_DIGITS else _long_json_reader
            value = decode_json(reader, text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            text = re.sub(_ESCAPE, lambda match: chr(int(match[1], 16)), text)
            if re.match(_JSON_BEGIN, text) is not None and self._is_addressed(text, value):
                raise ValueError("it names a field that routes, and is no JSON object")
            return _TO_ALL
        if odd := [key for key in value if key != key.lower() and self._named.fullmatch(key)]:
            raise ValueError(f"{odd[0]} says nothing; {odd[0].lower()} does")
        if value.get("_meta") is True:
            json_checker.decode(text)  # stricter, as the API must be able to show it
            return Metadata(remove_members(text, ("_meta",)))
        if "_save" in value:
            return Metadata(write_json(value["_save"]), "saved")
        to = self._read_to(value)
        exclude = _read_ids("_except", value.get("_except")) or ()
        close = value.get("_close")
        if close is True or isinstance(close, dict):
            return Kick(to, exclude, *_read_close(close))
        return Route(Opcode.TEXT, [], to, exclude, value.get("_cache") is True)

    def _is_addressed(self, text: str, value: JsonValue) -> bool:
        """Whether a line that is no JSON object names a field that routes.

        It begins as JSON, or as what some take for JSON (`{'_to':1}`): it was meant for somebody.
        `value` is what it says; None: it is no JSON.
        """
        return self._named.search(text) is not None

    def _read_to(self, value: JsonValue) -> tuple[int, ...] | None:
        return _read_ids("_to", value.get("_to"))


def _read_ids(name: str, value: JsonValue) -> tuple[int, ...] | None:
    """Return IDs, also those that a language has made a float (`1.0`) or a text (`"1"`)."""
    if value is None:
        return None
    ids = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and item.is_integer():
            item = int(item)
        elif isinstance(item, str) and re.fullmatch(r"[0-9]{1,10}", item):
            item = int(item)
        if type(item) is not int:
            raise ValueError(f"{name} must be an ID or a list of IDs, not {json.dumps(value)[:80]}")
        ids.append(item)
    return tuple(ids)


def _read_close(value: JsonValue) -> tuple[int, str]:
    if not isinstance(value, dict):
        return CloseCode.NORMAL, ""
    code = value.get("code", CloseCode.NORMAL)
    code = int(code) if isinstance(code, float) and code.is_integer() else code  # as of `_to`
    if not (isinstance(code, int) and may_be_sent(code)):
        log.warning("the child asked for close code %r, which must not be sent; 1000 is", code)
        code = CloseCode.NORMAL
    reason = value.get("reason")
    return code, reason if isinstance(reason, str) else ""


def make_framing(
    config: Config, mode: str, report: Report, json_type: Callable[..., Framing] = JsonFraming
) -> Framing:
    """Return the framing of one direction, JSON or lines; net/framings.py has others, too."""
    if mode == "json":
        strip = config.serverframe == "json" and not config.clientroute
        return json_type(report=report, strip=strip)
    one_line = bool(config.joinmsg or config.leavemsg) and not config.multiline
    return Framing(report=report, one_line=one_line)


def expand_template(template: str, client: Client) -> str:
    """Fill in a join or leave message: `#ID`, and with net/templates.py many more."""
    if (templates := find_feature("templates")) is not None:
        return str(templates.fill_in(template, client))
    return template.replace("#ID", str(client.id))


# ==== 9. Environment of the child ========================================================
# A child learns about the request that opened its room as a CGI program does (RFC 3875
# section 4.1). It gets nothing of the server's own environment but what --passenv lists.

# What a program needs to find others and its files, and to write the operator's language. Python
# itself has put LC_CTYPE=C.UTF-8 there if it was started with no locale (PEP 538).
PASSED = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("LANG", "LANGUAGE", "LC_*", "TZ", "HOME"),
)


def build_environment(client: Client, passed: Collection[str]) -> dict[str, str]:
    """Return the environment of a child that is started because of a client.

    Args:
        client: its request has opened the room.
        passed: names of variables to hand through; `*` stands for anything.
    """
    request = client.request
    host = re.sub(r":\d+$", "", request.headers.get("Host"))
    names = list(os.environ)
    environment = {n: os.environ[n] for pattern in passed for n in fnmatch.filter(names, pattern)}
    environment |= {
        "PYTHONUNBUFFERED": "1",  # so that three lines with print() work as they stand
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": f"scalesocket/{__version__}",
        "SERVER_PROTOCOL": request.version,
        "SERVER_NAME": host or IPV4_IN_IPV6.sub("", client.local[0]),
        "SERVER_PORT": str(client.local[1]),
        "REQUEST_METHOD": request.method,
        "REQUEST_URI": request.base + request.target,
        "SCRIPT_NAME": request.base,
        "PATH_INFO": as_variable(urllib.parse.unquote_to_bytes(request.path)),
        "QUERY_STRING": request.query,
        "REMOTE_ADDR": client.address,
        "REMOTE_HOST": client.address,
        "REMOTE_PORT": str(client.peer[1]),
        "UNIQUE_ID": os.urandom(16).hex(),
        "ROOM": as_variable(client.room_name.encode()),
    }
    if client.secure:
        environment["HTTPS"] = "on"
    # RFC 3875 section 4.1.18. `Proxy` would become HTTP_PROXY, which many programs obey
    # ("httpoxy"), and `X_Name` would pass for `X-Name`: neither is handed on.
    for name in {name.lower() for name, _ in request.headers.fields}:
        if name != "proxy" and re.fullmatch(r"[a-z0-9-]+", name):
            value = as_variable(request.headers.get(name).encode("latin-1"))
            environment["HTTP_" + name.upper().replace("-", "_")] = value
    if client.user or client.claims:  # only --auth says that of a program's client
        environment |= load_feature("auth", "--auth").describe_user(client)
    return {key: value.replace("\0", " ") for key, value in environment.items()}


def as_variable(data: bytes) -> str:
    """Return the text that gives a program just these bytes."""
    return os.fsdecode(data) if POSIX else data.decode(errors="replace")


# ==== 10. Backends =======================================================================
# What a room's clients talk to: a child on pipes, or a Python `Game`. (Children that listen on a
# port, and children in a terminal, are in net/children.py.)
# A backend lives on its room's thread: it is started, fed and stopped there. A child's output
# comes on a second thread, the pump, so that writing to it never waits for reading from it.
# Most events are named tuples, whose classes Python makes faster than dataclasses.


class Joined(NamedTuple):
    """A client has come."""

    client: Client


class Unwritten(NamedTuple):
    """What the child is still to read; of some modules of net/."""

    client: Client
    data: bytes  # as the child reads it
    whole: bool  # nothing of it has been written


class Left(NamedTuple):
    """A client has gone; `reply`: its Close or error, which still has to be answered."""

    client: Client
    code: int
    reply: Closing | None = None


class Exited(NamedTuple):
    """The child has no more output, or what it prints cannot be read any more."""


class Called(NamedTuple):
    """Another thread wants a function to be called on the room's, for its game."""

    function: Callable[[], object]


RoomEvent = Joined | Messages | Unwritten | Left | Exited | Called


class Backend:
    """What a room's clients talk to; on the room's thread, but for `kill`."""

    # Whether it answers while it handles an event. If so, a client becomes a member, and its Close
    # is answered, when that event is handled; if not, the reader does both at once.
    in_order = False
    explain = staticmethod(lambda _error: "")  # why it failed, for the log (net/mistakes.py)

    def start(self, room: Room, opener: Client) -> None:
        """Begin. `opener` is the client for whom the room was made.

        Raises:
            BackendError: it cannot.
            ShortageError: not now.
        """

    def handle(self, events: list[RoomEvent]) -> None:
        """Take events in their order; none if `wait_time` ran out.

        Raises:
            ConnectionClosed: the room is to end, with this code and reason for its clients.
            BackendError: the same with 1011.
        """
        raise NotImplementedError

    def wait_time(self) -> float | None:
        """Return the seconds until `handle` is wanted even without events, or None."""
        return None

    def stop(self) -> None:
        """End, and leave nothing behind."""

    def kill(self) -> None:
        """End at once; called by the main thread when there is no time to `stop`."""


EXIT_TIME = 2.0  # seconds a child has to exit in, once it has closed its output
STOP_STEPS = (  # how a child is stopped, and the seconds it is given each time
    (0, 0.1),  # its stdin is closed
    (signal.SIGINT, 0.25),
    (signal.SIGTERM, 0.5),
    (getattr(signal, "SIGKILL", signal.SIGTERM), 1.0),
)


class ChildProcess:
    """A child that leads a process group of its own; net/spawn.py does more for one.

    Args:
        command: program and arguments.
        environment: all of its environment variables.
        streams: its stdin, stdout and stderr, as `subprocess.Popen` takes them.
        grace: seconds added to each step of stopping it.

    Raises:
        BackendError: the program cannot be started.
        ShortageError: not now.
    """

    spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        streams: tuple[int, int, int],
        *,
        grace: float,
    ) -> None:
        self._grace = grace
        stdin, stdout, stderr = streams
        try:
            self.popen = self.spawn(
                command,
                env=environment,
                bufsize=0,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=POSIX,
            )
        except OSError as error:
            kind = ShortageError if error.errno in _SHORTAGES else BackendError
            raise kind(f"cannot start {command[0]}: {error.strerror}") from None
        self.pid = self.popen.pid

    def read(self, descriptor: int) -> Iterator[bytes]:
        """Yield what the child writes to a descriptor until the child closes it or exits.

        A child's own children may hold the descriptor open for longer; what the child itself
        wrote before it exited is all there by then, so nobody waits for them.
        """
        if not POSIX:
            yield from iter(lambda: os.read(descriptor, RECEIVE_SIZE), b"")
            return
        os.set_blocking(descriptor, False)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while self.popen.poll() is None:
            if poller.poll(200):  # milliseconds, until it looks again whether the child has exited
                if not (data := os.read(descriptor, RECEIVE_SIZE)):
                    return
                yield data
        yield from self._read_rest(descriptor)

    @staticmethod
    def _read_rest(descriptor: int) -> Iterator[bytes]:
        with contextlib.suppress(OSError):  # nothing is left
            for _ in range(16):  # 1 MiB: more does not fit into a pipe
                if not (data := os.read(descriptor, RECEIVE_SIZE)):
                    return
                yield data

    def wait(self, timeout: float) -> bool:
        """Wait for the child to exit; return whether it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout)
        return self.popen.returncode is not None

    def stop(self, end_input: Callable[[], None]) -> None:
        """Stop the child, gently first, and what it has started (STOP_STEPS)."""
        end_input()
        for signal_number, patience in STOP_STEPS:
            if signal_number:
                self.signal_group(signal_number)
            if self.wait(patience + self._grace):
                break
        self._stop_group()

    def end_input(self) -> None:
        """Close its stdin."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def close(self) -> None:
        """Close our ends of the pipes; no thread may be reading from them."""
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()

    def signal_group(self, signal_number: int) -> bool:
        """Signal the whole process group; return False if there is none left."""
        if not POSIX:
            if self.popen.poll() is None:
                self.popen.kill()
            return False
        try:
            os.killpg(self.pid, signal_number)
        except (ProcessLookupError, PermissionError):  # macOS: all that is left are zombies
            return False
        return True

    def _stop_group(self) -> None:
        """Stop what the child has left behind in its group, which keeps the number reserved."""
        if self.signal_group(signal.SIGTERM):
            time.sleep(STOP_STEPS[2][1] + self._grace)
            self.signal_group(STOP_STEPS[-1][0])


def count_spare_files() -> int:
    """Return how many connections the limit of open files has room for, beside what rooms need."""
    return os.sysconf("SC_OPEN_MAX") // 2 if POSIX else 500


class ProcessBackend(Backend):
    """A child that reads stdin and writes stdout."""

    child_type: type[ChildProcess] = ChildProcess
    make_framing: Callable[[Config, str, Report], Framing] = staticmethod(make_framing)

    def __init__(self, config: Config) -> None:
        self._config = config
        self._command = config.command
        self._input = -1  # descriptor that the child reads
        self._output = -1  # descriptor that the child writes
        self._input_closed = False
        self._pump: threading.Thread | None = None
        self._stderr: threading.Thread | None = None
        self._child: ChildProcess | None = None
        self._present: dict[int, Client] = {}  # who the child knows of

    # -- the room's thread --

    def start(self, room: Room, opener: Client) -> None:
        """Start the child and the two threads that read it."""
        self._room = room
        self._opener = opener
        self._to_child = self.make_framing(self._config, self._config.clientframe, room.report)
        self._launch()

    def handle(self, events: list[RoomEvent]) -> None:
        """Write everything that waits to the child at once."""
        has_exited = False
        for event in events:
            if isinstance(event, Joined):
                self._present[event.client.id] = event.client
            elif isinstance(event, Left):
                self._present.pop(event.client.id, None)
            elif isinstance(event, Exited):
                has_exited = True
        if has_exited:
            self._after_exit()
            # The next child has been told who is there; it also gets what the last one did not.
            events = [e for e in events if self._is_for_next(e)]
        self._write(b"".join(map(self._encode, events)))

    def _is_for_next(self, event: RoomEvent) -> bool:
        """Whether an event is a present client's message that no child has begun to read."""
        if not isinstance(event, Messages | Unwritten) or event.client.id not in self._present:
            return False
        return isinstance(event, Messages) or event.whole

    def stop(self) -> None:
        """Stop the child, wait for its threads, close what was open."""
        if self._child is not None:
            self._child.stop(self._end_input)
            for thread in (self._pump, self._stderr):
                if thread is not None:
                    thread.join()
            self._child.close()
            self._child = None
            self._room.registry.count("children_exited")
        self._detach()

    def kill(self) -> None:
        """Kill the child and whatever it has started."""
        if (child := self._child) is not None:  # the room's thread may be done with it by now
            child.signal_group(STOP_STEPS[-1][0])

    def _launch(self) -> None:
        config = self._config
        environment = build_environment(self._opener, config.passenv)
        self._from_child = self.make_framing(config, config.serverframe, self._room.report)
        try:
            self._attach(environment)
        except OSError as error:  # there is no pipe, terminal or socket to be had
            raise ShortageError(f"cannot start the program: {error.strerror}") from None
        self._input_closed = False
        self._pump = start_thread(f"pump {self._room.name}", self._run_pump)
        if self._room.saved:
            self._write(f'{{"_restore":{self._room.saved}}}\n'.encode())

    def _after_exit(self) -> None:
        """End the room, which stops what is left of the child, or start the next one."""
        assert self._child is not None
        by_itself = self._child.wait(EXIT_TIME + self._config.closegrace)
        if by_itself and self._stderr is not None:
            self._stderr.join()  # its last words come before the Close frame, too
        error = self._from_child.error
        ending = error or describe_exit(self._child.popen.returncode if by_itself else None)
        if not self._config.respawn or error is not None:
            raise ending
        self._room.log.info("%s", ending)
        self.stop()
        self._respawn()

    def _respawn(self) -> None:
        """Start the next child, unless the room ends; net/patience.py tries it more than once."""
        if not self._room.ending.wait(RESPAWN_PAUSE):
            self._launch()
            self._write(b"".join(map(self._encode, map(Joined, self._present.values()))))

    def _encode(self, event: RoomEvent) -> bytes:
        """Return what the child reads for an event."""
        if isinstance(event, Messages):
            return self._to_child.encode(event.client.id, event)
        if isinstance(event, Joined):
            return self._announce(self._config.joinmsg, event.client)
        if isinstance(event, Left):
            return self._announce(self._config.leavemsg, event.client)
        return event.data if isinstance(event, Unwritten) else b""

    def _announce(self, template: str, client: Client) -> bytes:
        if not template:
            return b""
        return self._to_child.announce(client.id, expand_template(template, client))

    def _write(self, data: bytes) -> None:
        """Write to the child, at its pace.

        The pipe does not block, so that a child that never reads cannot hold this thread for
        ever: it is given up when it has exited, when the room ends, or when no client is left.
        """
        rest = memoryview(data)
        blocked_since = 0.0
        while rest and not self._input_closed:
            try:
                rest = rest[os.write(self._input, rest) :]
                blocked_since = 0.0
            except BlockingIOError:
                blocked_since = blocked_since or time.monotonic()
                if not wait_writable(self._input, 0.5) and self._should_abandon(blocked_since):
                    self._room.log.warning("the child took no input; what it was sent is dropped")
                    self._input_closed = True
            except OSError:
                self._room.log.debug("the child has closed its stdin")
                self._input_closed = True

    def _should_abandon(self, blocked_since: float) -> bool:
        if time.monotonic() - blocked_since < ABANDON_TIMEOUT:
            return False
        room, pump = self._room, self._pump
        has_ended = pump is not None and not pump.is_alive()
        return has_ended or room.ending.is_set() or self._is_deserted()

    def _is_deserted(self) -> bool:
        """Whether all clients have gone, though the end of one that waits for us is not read.

        Its system answers a Pong (5.5.3: nobody asked for it) with a reset, which is seen the next
        time. net/presence.py sees more.
        """
        connections = [client.connection for client in self._room.clients.copy()]
        for connection in connections:
            if not connection.backlog_size:
                connection.send_control(encode_frame(Opcode.PONG, b""))
        return not any([connection.is_alive() for connection in connections])

    # -- how the child is connected: net/children.py and net/linebuffer.py have other ways --

    def _attach(self, environment: dict[str, str]) -> None:
        """Start the child, and open the ways to it."""
        pipe = subprocess.PIPE
        popen = self._start_child(self._command, environment, (pipe, pipe, pipe)).popen
        assert popen.stdin is not None and popen.stdout is not None
        self._input, self._output = popen.stdin.fileno(), popen.stdout.fileno()
        if POSIX:
            os.set_blocking(self._input, False)

    def _start_child(
        self, command: Sequence[str], environment: dict[str, str], streams: tuple[int, int, int]
    ) -> ChildProcess:
        """Start the child, and the thread that reads what it says for the log."""
        self._child = self.child_type(command, environment, streams, grace=self._config.closegrace)
        self._room.registry.count("children_started")
        self._room.log.debug("child %d started", self._child.pid)
        said = self._child.popen.stderr or self._child.popen.stdout
        if said is not None:
            name = f"stderr {self._room.name}"
            self._stderr = start_thread(name, insist, self._log_stderr, self._child, said.fileno())
        return self._child

    def _end_input(self) -> None:
        assert self._child is not None
        self._input_closed = True
        self._child.end_input()

    def _detach(self) -> None:
        """Close what `_attach` opened beside pipes; also called when it failed."""

    # -- the pump and the stderr thread --

    def _run_pump(self) -> None:
        child, framing, inbox, last = self._child, self._from_child, self._room.inbox, Exited()
        assert child is not None
        try:
            for data in child.read(self._output):
                self._deliver(framing.feed(data))
                if framing.error:
                    break
            else:
                self._deliver(framing.finish())
        except MemoryError:
            framing.error = BackendError(OUT_OF_MEMORY)
        finally:
            insist(type(inbox).put, inbox, last)

    def _log_stderr(self, child: ChildProcess, descriptor: int) -> None:
        lines = Framing(report=self._room.report)
        for data in child.read(descriptor):
            self._take_stderr(lines.feed(data))
            if lines.error:
                self._room.report(None, f"stderr: {lines.error}")
                lines = Framing(report=self._room.report)
        self._take_stderr(lines.finish())

    def _take_stderr(self, outputs: list[Output]) -> None:
        for output in outputs:
            assert isinstance(output, Route)
            for line in output.payloads:
                self._room.log.info("stderr: %s", line[:MAX_LOG_LINE].decode(errors="replace"))

    def _deliver(self, outputs: list[Output]) -> None:
        self._room.deliver(outputs)


def describe_exit(status: int | None) -> ConnectionClosed | BackendError:
    """Return what ends the room of a child that exited; None: it has only closed its output."""
    if status is None:
        return ConnectionClosed(CloseCode.NORMAL, "the program has closed its output")
    how = f"signal {-status}" if status < 0 else f"status {status}"
    text = f"the program has ended with {how}"
    return BackendError(text) if status else ConnectionClosed(CloseCode.NORMAL, text)


def wait_writable(descriptor: int, timeout: float) -> bool:
    """Wait until a descriptor takes bytes; return False after that many seconds."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(timeout * 1000))


class Game:
    """A backend in Python: subclass it, and fill in the hooks that are needed.

    Every room has an object of its own. All hooks of a room run on its thread, one at a time,
    but for `on_auth`, which is asked before there is a room. A hook that raises, whatever it is,
    ends its room with 1011; other rooms go on.
    """

    tick_rate: float = 0  # calls of `on_tick` per second; 0: driven by messages alone
    keep = False  # what is saved of a room outlives its last seat (--store)
    max_clients: int = 0  # in a room; 0: the server's limit
    max_rate: int = 0  # messages a second of one client; 0: the server's limit
    subprotocols: Sequence[str] = ()  # offered in the opening handshake

    @classmethod
    def on_auth(cls, request: Request) -> bool | str:
        """Whether to let a client in; False is 401. Several threads may ask at the same time.

        Text lets it in, too, and is its `user` then.
        """
        return True

    def on_create(self, room: GameRoom) -> None:
        """The room has been made; keep it, to send and to set timers by."""

    def on_join(self, client: Client) -> None:
        """A client has come; it is among `room.clients` from now on."""

    def on_message(self, client: Client, message: str | bytes) -> None:
        """A client has sent a text or a binary message."""

    def on_drop(self, client: Client) -> None:
        """A client has lost its connection; it stays in the room for --resume seconds."""

    def on_resume(self, client: Client) -> None:
        """A client is back, and gets what it missed; if `client.restored`, it needs everything."""

    def on_leave(self, client: Client, code: int) -> None:
        """A client has gone, with a close code (1006: without one)."""

    def on_tick(self, dt: float) -> None:
        """Time has passed: seconds since the last tick, at most `MAX_TICK_TIME`."""

    def on_drain(self, seconds: float) -> None:
        """The server will end; this room may go on for so long at the most (--drain)."""

    def on_save(self) -> JsonValue | bytes:
        """Return what `on_restore` needs: bytes or what JSON can hold; None: nothing (--store)."""

    def on_restore(self, state: JsonValue | bytes) -> None:
        """Go on from `state`, after `on_create`; `room.clients` are those that may come back."""

    def on_dispose(self) -> None:
        """The room ends; clients that are still there get no `on_leave`."""


class GameRoom:
    """A room as its game sees it; all but `call_soon` is for the room's thread only."""

    def __init__(self, room: Room, request: Request) -> None:
        self.id = room.name
        self.request = request  # that has opened it
        self.clients: dict[int, Client] = {}  # by ID, in the order they came
        self.closing: ConnectionClosed | None = None
        self._room = room
        self._calls: list[list[Any]] = []  # a heap: when, in which order, what, and how often
        self._order = itertools.count()
        self._groups: dict[Encoding, list[Client]] = {}  # its clients, as `broadcast` needs them

    @property
    def metadata(self) -> JsonValue:
        """What the API shows of this room; any value that JSON can hold."""
        return json.loads(self._room.metadata)

    @metadata.setter
    def metadata(self, value: JsonValue) -> None:
        text = json.dumps(value, allow_nan=False)
        check_nesting(text)  # others must be able to read it
        self._room.metadata = text

    def broadcast(self, message: str | bytes, exclude: Iterable[Client] = ()) -> None:
        """Send a message to every client but the excluded; it is encoded once.

        Raises:
            RuntimeError: this is another thread; see `call_soon`.
        """
        self._room.check_thread("room.broadcast")
        excluded = {client.id for client in exclude}
        if self._room.log.traces:
            self._room.log.trace(">", [message], f"all but {excluded}" if excluded else "all")
        if not excluded:  # only what is for everyone is also for those who come later
            told = self._room.members.remember(message, self._room.flush)
            excluded = {client.id for client in told}
        if excluded:
            groups = group(c for c in self.clients.values() if c.id not in excluded)
        else:
            groups = self._groups = self._groups or group(self.clients.values())
        for encoding, clients in groups.items():
            self._room.post(clients, encoding.encode_message(message))

    def broadcast_json(self, value: JsonValue, exclude: Iterable[Client] = ()) -> None:
        """Send a value as JSON, in one line of text; see `broadcast`."""
        self.broadcast(write_json(value), exclude)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the room when the hook returns; its clients get this code and reason.

        Raises:
            ValueError: the code must not be sent, or the reason is no text.
            RuntimeError: this is another thread; see `call_soon`.
        """
        self._room.check_thread("room.close")
        check_close_code(code, reason)
        self.closing = ConnectionClosed(code, reason)

    def call_later(
        self, seconds: float, function: Callable[[], None], *, repeat: bool = False
    ) -> Callable[[], None]:
        """Call a function on the room's thread after so many seconds, once or again and again.

        The function that this returns cancels it.

        Raises:
            RuntimeError: this is another thread; see `call_soon`.
        """
        self._room.check_thread("room.call_later")
        period = max(0.001, seconds) if repeat else 0.0
        call = [time.monotonic() + max(0.0, seconds), next(self._order), function, period]
        heapq.heappush(self._calls, call)
        return functools.partial(self._cancel, call)

    def _cancel(self, call: list[Any]) -> None:
        self._room.check_thread("what room.call_later returned")
        if call in self._calls:  # it has not been made
            self._calls.remove(call)
            heapq.heapify(self._calls)

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function once, on the room's thread, soon; for a game's own threads.

        The calls of a thread come in their order, before or behind what clients send. If a
        thousand wait already, the thread waits for space; so no hook may wait for that thread.

        Raises:
            RuntimeError: the room has ended, and the function will not be called.
        """
        inbox, call = self._room.inbox, Called(functools.partial(function, *arguments))
        if threading.get_ident() != self._room.thread:
            freed = threading.Event()
            inbox.when_freed(freed.set)
            freed.wait()
        if not inbox.put(call, CALL_SIZE):
            raise RuntimeError(f"room {self.id} has ended; nothing can be called there any more")

    def add(self, client: Client) -> None:
        """Count a client among those that are there."""
        self.clients[client.id] = client
        self._groups = {}

    def remove(self, client: Client) -> None:
        """Count it no longer."""
        self.clients.pop(client.id, None)
        self._groups = {}

    @property
    def next_call(self) -> float:
        """When the earliest call is due, in monotonic seconds."""
        return self._calls[0][0] if self._calls else math.inf

    def run_due_calls(self, now: float) -> None:
        """Make the calls that are due."""
        while self.next_call <= now and self.closing is None:
            due, _, function, period = call = heapq.heappop(self._calls)
            if period:  # what was missed is left out
                call[0] = (due if due + period > now else now) + period
                heapq.heappush(self._calls, call)
            function()


class GameBackend(Backend):
    """Runs a `Game` on its room's thread.

    Ticks come at absolute deadlines, so that they do not drift; ticks that were missed are
    skipped, not made up for. What hooks send is collected and goes out once they have
    returned, in one piece for each client.
    """

    in_order = True
    room_type: type[GameRoom] = GameRoom

    def __init__(self, game: type[Game]) -> None:
        self._factory = game
        self.game = Game()  # whose hooks do nothing, until there is a real one

    def start(self, room: Room, opener: Client) -> None:
        """Make the game."""
        self._room = room
        self.game_room = self.room_type(room, opener.request)
        self._guard(self._begin)

    def handle(self, events: list[RoomEvent]) -> None:
        """Call the hooks for what happened; ticks and timed calls come between as they are due."""
        try:
            self._guard(self._handle, events)
        finally:
            self._room.flush()

    def wait_time(self) -> float | None:
        """Return the seconds until the next tick or timed call."""
        rest = min(self._next_tick, self.game_room.next_call) - time.monotonic()
        return min(max(0.0, rest), threading.TIMEOUT_MAX) if rest < math.inf else None

    def stop(self) -> None:
        """Tell the game that the room ends; clients still there get what `on_dispose` sends."""
        try:
            self.game.on_dispose()
            self._room.flush()
        except BaseException:
            self._room.log.exception("the game failed to dispose of itself")

    def _begin(self) -> None:
        self.game = self._factory()
        self.game.on_create(self.game_room)
        self._room.restore()
        rate = self.game.tick_rate
        self._interval = 1 / rate if 0 < rate < math.inf else math.inf
        self._last_tick = time.monotonic()
        self._next_tick = self._last_tick + self._interval

    def _handle(self, events: list[RoomEvent]) -> None:
        self._run_due()
        for event in events:
            if isinstance(event, Messages):
                self._hear(event)
            else:
                self._handle_one(event)
                self._run_due()

    def _hear(self, run: Messages) -> None:
        is_text = run.opcode == Opcode.TEXT
        for payload in run.payloads:
            if run.client.kicked:
                return
            self.game.on_message(run.client, payload.decode() if is_text else payload)
            self._run_due()

    def _handle_one(self, event: RoomEvent) -> None:
        if isinstance(event, Joined):
            self._room.add_member(event.client)
            self.game_room.add(event.client)
            self.game.on_join(event.client)
        elif isinstance(event, Left):
            self.game_room.remove(event.client)
            event.client.left = True
            self.game.on_leave(event.client, event.code)
        elif isinstance(event, Called):
            event.function()

    def _run_due(self) -> None:
        """Make the timed calls and the tick that are due; end the room if a hook asked for it.

        What they send goes out at once, however many messages of clients still wait.
        """
        room, now = self.game_room, time.monotonic()
        is_due = now >= self._next_tick or now >= room.next_call
        if is_due:
            room.run_due_calls(now)
            if now >= self._next_tick and room.closing is None:
                self._tick(now)
        if room.closing is not None:
            raise room.closing
        if is_due:
            self._room.flush()

    def _tick(self, now: float) -> None:
        dt = min(now - self._last_tick, MAX_TICK_TIME)
        self._last_tick = now
        self.game.on_tick(dt)
        # The next tick comes at the first point in time after the end of this one that is a whole
        # number of intervals away, so that some time is left for messages in any case.
        skipped = int((time.monotonic() - self._next_tick) / self._interval)
        self._next_tick += self._interval * (skipped + 1)

    def _guard(self, call: Callable[..., None], *arguments: object) -> None:
        """End the room if a hook raises anything; the operator sees its traceback in the log."""
        try:
            call(*arguments)
        except (ConnectionClosed, BackendError):
            raise
        except BaseException as error:  # `sys.exit()` ends its room, too, not its thread alone
            raise BackendError("the game failed") from error


# ==== 11. Rooms ==========================================================================
# A room is one order of events. What its clients do is put into one inbox and taken out by one
# thread; what its backend says goes to its members under one lock, together with the history
# that newcomers get, so that between history and what follows there is no gap and no repeat.
# A client is one of the room's `clients` from when it joins until it leaves; with the last one the
# room ends. It is a member while it is sent what the backend says.


class Inbox:
    """A queue of room events, bounded in bytes; the clients that would overfill it are not read.

    Args:
        limit: bytes of messages that may wait; what comes in one `recv` may go beyond it.
    """

    def __init__(self, limit: int = INBOX_SIZE) -> None:
        self._limit = limit
        self.lock = threading.Lock()  # guards all below
        self._bell = threading.Lock()  # wakes the room's thread, as a condition would, in less time
        self._bell.acquire()
        self.events: list[RoomEvent] = []
        self.size = 0  # bytes of messages that wait
        self.departed = 0  # clients whose leaving waits
        self._on_freed: list[Callable[[], None]] = []  # called when it is no longer full
        self.closed = threading.Event()  # it takes nothing more, as the room is to end
        self._asleep = False  # the room's thread waits, not rung yet

    @property
    def is_full(self) -> bool:
        """Whether whoever has bytes for it is to wait; when it is closed, nobody is."""
        return self.size >= self._limit and not self.closed.is_set()

    def put(self, event: RoomEvent, size: int = 0) -> bool:
        """Add an event; return False if the room is over.

        Args:
            event: what happened.
            size: bytes that it counts as; if there are any, look at `is_full` before.
        """
        with self.lock:
            if self.closed.is_set():
                return False
            self.events.append(event)
            self.size += size
            self.departed += isinstance(event, Left)
            self._ring()
            return True

    def put_messages(self, runs: Iterable[Messages]) -> None:
        """Add what clients have sent, but for those who have left; look at `is_full` before."""
        with self.lock:
            if self.closed.is_set():
                return
            for run in runs:
                client = run.client  # who was kicked says no more
                if not client.departed and (client.seat is None or client.seat.takes(run)):
                    self.events.append(run)
                    self.size += run.size
            self._ring()

    def when_freed(self, function: Callable[[], None]) -> None:
        """Call a function, which must not block, once it is not full; at once if it is not."""
        with self.lock:
            if self.is_full:
                self._on_freed.append(function)
                return
        function()

    def take(self, timeout: float | None = None) -> list[RoomEvent]:
        """Wait for events and return all; none after that many seconds, or when it is closed."""
        if not self.events:
            self._wait(timeout)
        with self.lock:
            events, self.events = self.events, []
            self.size = self.departed = 0
            self._free()
            return events

    def close(self) -> None:
        """Let nothing more in, and the room end once its thread has handled what is there."""
        with self.lock:
            self.closed.set()
            self._ring()
            self._free()

    def _wait(self, timeout: float | None) -> None:
        with self.lock:
            if self.events or self.closed.is_set():
                return
            self._asleep = True
        if not self._bell.acquire(timeout=-1 if timeout is None else timeout):
            with self.lock:
                rung = not self._asleep  # just now
                self._asleep = False
            if rung:
                self._bell.acquire()

    # -- under the lock --

    def _ring(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.release()

    def _free(self) -> None:
        while self._on_freed:
            self._on_freed.pop()()


class Traffic:
    """What has passed through a room; each number is written by one thread at a time."""

    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    dropped: int = 0  # messages that could not be used; this and the next: see net/rooms.py
    slow_closed: int = 0  # clients closed because they did not read

    def count_received(self, run: Messages) -> None:
        """Count messages from a client."""
        self.messages_in += len(run.payloads)
        self.bytes_in += run.size


class RoomLog(logging.LoggerAdapter[logging.Logger]):
    """Says in every line which room it is about, and which client if `client=` is given."""

    def __init__(self, room: str) -> None:
        super().__init__(log, {"room": room})
        self.traces = log.isEnabledFor(TRACE)  # asked once: it is looked at for every message

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Add both to the record (see `logging.LoggerAdapter`)."""
        kwargs["extra"] = {**(self.extra or {}), "client": kwargs.pop("client", None)}
        return msg, kwargs

    def trace(self, way: str, payloads: Sequence[str | bytes], client: object) -> None:
        """Log messages as they pass, `<` from a client and `>` to it (-vv)."""
        for payload in payloads:
            self.log(TRACE, "%s %.200r", way, payload, client=client)


def group(clients: Iterable[Client]) -> dict[Encoding, list[Client]]:
    """Return clients by their encoding; most often there is only one."""
    groups: dict[Encoding, list[Client]] = {}
    for client in clients:
        groups.setdefault(client.connection.encoding, []).append(client)
    return groups


Addressed: TypeAlias = "tuple[Sequence[Client], bytes]"  # who is sent something, and that


def join_pieces(items: Sequence[Addressed]) -> list[Addressed]:
    """Return what clients are to be sent, in one piece for each of them; there is something.

    Where all is for the same clients (the very same list, as in a row of broadcasts), it is joined
    once for all of them.
    """
    clients, _ = items[0]
    if all(to is clients for to, _ in items):
        return [(clients, b"".join([data for _, data in items]))]
    pieces: defaultdict[Client, list[bytes]] = defaultdict(list)
    for to, data in items:
        for client in to:
            pieces[client].append(data)
    return [((client,), b"".join(some)) for client, some in pieces.items()]


class History:
    """The latest messages of a room that everyone may see, for newcomers (--cache).

    A newcomer is sent all of it at once, so it is no longer than half a backlog. net/history.py has
    one that may be longer, and may outlive its room.
    """

    def __init__(self, size: int, tagged: bool, limit: float) -> None:
        self.size = size  # messages; 0: none are kept
        self.limit = limit  # bytes
        self.bytes = 0
        self._tagged = tagged  # only those that are marked `_cache` are kept
        self._messages: deque[tuple[int, bytes]] = deque()  # opcode and payload

    def wants(self, route: Route) -> bool:
        """Whether messages of this route are kept: only what everyone may see is."""
        is_for_all = self.size > 0 and route.to is None and not route.exclude
        return is_for_all and (route.cached is True or not self._tagged)

    def add(self, opcode: int, payloads: Sequence[bytes]) -> None:
        """Keep messages; the oldest make room."""
        for payload in payloads[-self.size :]:
            self._messages.append((opcode, payload))
            self.bytes += len(payload) + MESSAGE_COST
        while len(self._messages) > self.size or self.bytes > self.limit:
            self.bytes -= len(self._messages.popleft()[1]) + MESSAGE_COST

    def replay(self, encoding: Encoding) -> bytes:
        """Return all messages that are kept, in order, as a connection takes them."""
        runs = itertools.groupby(self._messages, lambda message: message[0])
        return b"".join([encoding.encode_run(kind, [it for _, it in run]) for kind, run in runs])


class Members:
    """The clients that are sent what a room's backend says; newcomers get its history first."""

    def __init__(self, room: Room) -> None:
        config = room.registry.config
        self._traffic = room.traffic
        self._log = room.log
        self._lock = threading.Lock()  # guards all below, and so the order of a fan-out
        limit = min(config.backlog // 2, HISTORIES_SIZE // (config.maxrooms or 1024))
        self.history = History(*config.cache, limit)
        self._members: dict[int, Client] = {}

    def add(self, client: Client) -> bool:
        """Make a client a member; return whether it is still being told the past."""
        with self._lock:
            if not client.departed:
                self._members[client.id] = client
                if past := self.history.replay(client.connection.encoding):
                    client.connection.send(past)
        return False

    def remove(self, client: Client) -> None:
        """Take a client off the members; it has left the room."""
        with self._lock:
            self._members.pop(client.id, None)

    def remember(self, message: str | bytes, flush: Callable[[], None]) -> Collection[Client]:
        """Keep what a game has broadcast, once all before is sent; return who gets it there."""
        if self.history.wants(_TO_ALL):
            with self._lock:
                opcode, payload = to_payload(message)
                self.history.add(opcode, [payload])
        return ()

    def send(self, outputs: Sequence[Output]) -> list[Client]:
        """Send messages to those they are for; return whose backlog is full now."""
        full = []
        with self._lock, take_turn(items := self._address(outputs)):
            for clients, data in items:
                for client in clients:
                    connection = client.connection
                    connection.send(data)
                    if connection.is_full:
                        full.append(client)
        return full

    def find(self, to: tuple[int, ...] | None, exclude: tuple[int, ...]) -> list[Client]:
        """Return the members of these IDs, None for all, but for the excluded."""
        with self._lock:
            return self._find(to, exclude)

    # -- under the lock --

    def _address(self, outputs: Sequence[Output]) -> list[Addressed]:
        """Return what clients are to be sent; each of them is there once."""
        routes = [output for output in outputs if isinstance(output, Route)]
        items = [item for route in routes for item in self._encode(route)]
        return join_pieces(items) if len(routes) > 1 and items else items

    def _encode(self, route: Route) -> Iterable[Addressed]:
        """Encode a run of messages, once for each encoding; most often there is but one."""
        clients = self._find_hearers(route)
        if self._log.traces:
            self._log.trace(">", route.payloads, route.to)
        for encoding, some in group(clients).items():
            data = encoding.encode_run(route.opcode, route.payloads)
            self._traffic.bytes_out += len(data) * len(some)
            self._traffic.messages_out += len(route.payloads) * len(some)
            yield some, data

    def _find_hearers(self, route: Route) -> list[Client]:
        """Return who is sent messages now, and keep those that newcomers are to get, too."""
        if self.history.wants(route):
            self.history.add(route.opcode, route.payloads)
        return self._find(route.to, route.exclude)

    def _find(self, to: tuple[int, ...] | None, exclude: tuple[int, ...]) -> list[Client]:
        members = self._members
        if to is not None:
            return [members[i] for i in dict.fromkeys(to) if i in members and i not in exclude]
        if exclude:
            return [client for i, client in members.items() if i not in exclude]
        return list(members.values())


class Room:
    """Clients and the backend that they share.

    Args:
        registry: where it is listed while newcomers may join; its lock is held.
        opener: the client for whom it is made, who has named it.
    """

    inbox_type: type[Inbox] = Inbox

    def __init__(self, registry: RoomRegistry, opener: Client) -> None:
        self.name = name = opener.room_name
        self.registry = registry
        self.inbox = self.inbox_type()
        self.metadata = "null"  # JSON
        self.saved = ""  # JSON that a child has left for the next child (`_save`)
        self.traffic = Traffic()
        self.log = RoomLog(name)
        self.ending = self.inbox.closed  # set when the end has been decided
        self.clients: set[Client] = set()  # who have joined; guarded by the registry's lock
        self.visits = 0  # how many clients have joined; guarded by that lock, too
        self.since = self.empty_since = time.monotonic()  # empty_since: also guarded by that lock
        self.is_timed = False  # also guarded by it: `RoomRegistry._collect` will be called
        self.thread = threading.get_ident()  # its own, once that runs
        self.backend = registry.make_backend()  # not started yet
        self._opener = opener
        self.stall = registry.config.stall  # seconds that a full backlog may make no progress
        self._outbox: list[Addressed] = []  # what a game has said since its hook was called
        self._complained: set[tuple[int | None, str]] = set()  # what `report` has logged
        self.is_abandoned = False  # it ends because its last client has left
        self.farewell: tuple[int, str] | None = None  # code and reason of its end, for clients
        self._backend_stopped = False
        self.members = registry.make_members(self)

    # -- a reader's thread, or a helper's --

    def join(self, client: Client) -> None:
        """Let a client in that is counted already; the registry's lock is held.

        The client is a member before the backend hears of it, or it could miss the answer. An
        in-order backend makes it one itself.
        """
        if not self.backend.in_order:
            self.add_member(client)
        self.inbox.put(Joined(client))

    def receive(self, runs: list[Messages]) -> None:
        """Take what clients have sent, in its order."""
        if self.log.traces:
            for run in runs:
                self.log.trace("<", run.payloads, run.client.id)
        self.inbox.put_messages(runs)

    def leave(self, client: Client, closing: Closing) -> None:
        """Let a client go after it closed, failed or vanished."""
        reply = closing if self.backend.in_order else None
        if self.registry.release(client, Left(client, closing.code, reply)):
            self.log.debug("left with %d", closing.code, client=client.id)
            if reply is not None:
                return
        client.connection.answer(closing)

    # -- any thread --

    def add_member(self, client: Client) -> None:
        """Make a client a member."""
        if self.members.add(client):
            self.watch(client)

    def watch(self, client: Client) -> None:
        """Look after a client while it lags behind, also if nobody sends to it; net/rooms.py."""

    def kick(self, client: Client, code: int, reason: str, *, discard: bool = False) -> None:
        """Close a client's connection; it is a member no longer."""
        client.kicked = True
        if self.registry.release(client, Left(client, code)):
            client.connection.close(code, reason, discard=discard)

    def drop_slow(self, client: Client) -> None:
        """Let a client go that does not read."""
        reason = f"too slow: {client.connection.backlog_size} bytes waited"
        self.log.warning("does not read; %s", reason, client=client.id)
        self.kick(client, CloseCode.POLICY_VIOLATION, reason, discard=True)

    def check_thread(self, call: str) -> None:
        """Check that a game calls from the room's thread: from another, messages could get lost.

        Raises:
            RuntimeError: it does not.
        """
        if threading.get_ident() != self.thread:
            own = "is for the room's own thread; from any other say"
            raise RuntimeError(f"{call} {own} room.call_soon({call}, ...)")

    def report(self, client_id: int | None, what: str) -> None:
        """Log what had to be dropped: the first of its kind from each client, as a warning."""
        kind = (client_id, what.partition(":")[0])
        first = kind not in self._complained and len(self._complained) < 1000
        if first:
            self._complained.add(kind)
        self.log.log(logging.WARNING if first else logging.DEBUG, "%s", what, client=client_id)

    def end(self, code: int, reason: str, *, last_words: bool = False) -> None:
        """End the room for clients, who hear its `farewell` if it has one; then for its backend."""
        clients = self.registry.vacate(self)
        self.inbox.close()
        if last_words:  # a game's come before the Close, if it does not take too long over them
            close = functools.partial(self._close_all, clients, code, reason)
            self.registry.timer.call_later(CLOSE_TIMEOUT, close)
            self._stop_backend()
        self._close_all(clients, code, reason)

    def _close_all(self, clients: Iterable[Client], code: int, reason: str) -> None:
        for client in clients:
            self.members.remove(client)
            client.connection.close(*(self.farewell or (code, reason)))

    def deliver(self, outputs: list[Output]) -> None:
        """Send what the child said to those it is for, then wait for who cannot keep up.

        Called by the child's pump. Under the lock nothing blocks: each client gets one `send`,
        and what its socket does not take is its backlog, which drains while the pump waits.
        """
        full: list[Client] = []
        for output in outputs:
            if isinstance(output, Metadata):
                setattr(self, output.name, output.text)
        for is_kick, some in itertools.groupby(outputs, lambda output: type(output) is Kick):
            if is_kick:
                for kick in some:
                    assert isinstance(kick, Kick)
                    for client in self.members.find(kick.to, kick.exclude):
                        self.kick(client, kick.code, kick.reason)
            else:
                full += self.members.send(list(some))
        for client in full:
            if not client.connection.wait_while_full(self.stall):
                self.drop_slow(client)

    # -- the room's thread --

    def restore(self) -> None:
        """Bring a game back to where it was (net/store.py does)."""

    def post(self, clients: Sequence[Client], data: bytes) -> None:
        """Keep an encoded message of a game for some clients until its hook returns."""
        self.traffic.messages_out += len(clients)
        self._outbox.append((clients, data))

    def flush(self) -> None:
        """Send what a game has said to those it is for; nobody else is looked at.

        Nobody is waited for: while a client reads, GAME_BACKLOGS times --backlog may wait for it.
        """
        if not self._outbox:
            return
        slow = []
        items = join_pieces(self._outbox)
        self._outbox.clear()
        with take_turn(items):
            for clients, data in items:
                self.traffic.bytes_out += len(data) * len(clients)
                for client in clients:
                    connection = client.connection
                    if connection.is_full and (
                        connection.overflows(len(data)) or connection.has_stalled(self.stall)
                    ):
                        slow.append(client)
                        continue
                    connection.send(data)
                    if connection.is_full:
                        self.watch(client)
        for client in [it for it in slow if not it.departed]:  # or it is closed already
            self.drop_slow(client)

    def run(self) -> None:
        """Feed the backend until the room is over; on a thread of its own."""
        self.thread = threading.get_ident()
        self.log.info("room opened")
        try:
            self.backend.start(self, self._opener)
            while not self._handle(self.inbox.take(self.backend.wait_time())):
                pass
            if self.farewell is not None:
                self._stop_backend()
            self.end(CloseCode.NORMAL, "the room has ended")
        except ConnectionClosed as over:
            self.log.info("%s", over.reason or "the game has closed the room")
            self.end(over.code, over.reason, last_words=self.backend.in_order)
        except BackendError as error:
            self.log.error("%s%s", error, self.backend.explain(error), exc_info=error.__cause__)
            self.end(CloseCode.INTERNAL_ERROR, str(error))
        except BaseException:
            shortage = report_failure(self.log)
            code = CloseCode.TRY_AGAIN_LATER if shortage else CloseCode.INTERNAL_ERROR
            insist(type(self).end, self, code, shortage or "internal error")
        finally:
            insist(type(self)._close, self)

    def _handle(self, events: list[RoomEvent]) -> bool:
        """Pass events on; return whether they were the last that there will be."""
        for event in events:
            if isinstance(event, Messages):
                self.traffic.count_received(event)
        try:
            self.backend.handle(events)
        finally:
            insist(self._answer, events)
        return self.ending.is_set() and not self.inbox.events

    @staticmethod
    def _answer(events: list[RoomEvent]) -> None:
        """Answer those who have left, behind what the backend had to say to them."""
        for event in events:
            if isinstance(event, Left) and event.reply is not None:
                event.client.connection.answer(event.reply)

    def _close(self) -> None:
        self._answer(self.inbox.take(0))
        try:
            self._stop_backend()
        finally:
            self.registry.forget(self)
            self.log.info("room closed")

    def _stop_backend(self) -> None:
        if not self._backend_stopped:
            self._backend_stopped = True
            insist(type(self.backend).stop, self.backend)


class RoomRegistry:
    """The rooms, the clients in them, and what outlives them."""

    room_type: type[Room] = Room

    def __init__(self, config: Config, timer: Poller) -> None:
        self.config = config
        self.timer = timer
        # What a room runs; of programs, net/linebuffer.py and net/children.py have other kinds.
        self.make_backend: Callable[[], Backend] = functools.partial(ProcessBackend, config)
        if config.game is not None:
            self.make_backend = functools.partial(GameBackend, config.game)
        self.client_ids: Iterator[int] = itertools.count(1)  # `next` on it is atomic
        self.make_members: Callable[[Room], Members] = Members  # net/history.py has others
        self.lock = threading.Lock()  # guards all below, and each room's clients
        self._idle = threading.Condition(self.lock)  # told when a room has closed
        self._rooms: dict[str, Room] = {}  # those that may be joined
        # Those whose thread has not finished, too. Its methods are atomic; copy it to iterate.
        self.running: set[Room] = set()
        self.counts: Counter[str] = Counter()  # of what happens rarely
        self._refusal: ConnectionClosed | None = None  # set when the server stops
        self.relays: Relays | None = None  # finds rooms on other nodes (--peers)

    def join(self, client: Client) -> Room:
        """Let a client into its room, which is made if need be.

        Raises:
            ConnectionClosed: there are too many rooms, or clients in it (1013).
        """
        name = client.room_name
        made: Room | None = None
        try:
            with self.lock:
                room = self._find_place(name)
                if room is None:
                    room = made = self._make_room(client)
                self._check_place(room)
                client.room = room  # first: `leave` needs it, should memory run out below
                room.clients.add(client)
                room.visits += 1
                room.join(client)
        finally:
            if made is not None:  # also then: a room that never runs would never end
                self._start(made)
        known = f" as {client.user}" if client.user else ""
        room.log.debug("joined from %s%s", client.address, known, client=client.id)
        return room

    def may_wait(self, name: str) -> bool:
        """Whether to `join` a room may take long; net/rooms.py waits for a place."""
        return False

    def release(self, client: Client, left: Left) -> bool:
        """Take a client out of its room; return False if that was done before.

        The room hears that the client `left`. If nobody else is in it, it ends, at once or
        after --linger; all in one step, so that the next to join finds either this room alive
        or a fresh one.
        """
        room = client.room
        assert room is not None
        room.members.remove(client)  # before the room can tell it of its own leaving
        with self.lock:
            if client.departed:
                return False
            heard = room.inbox.put(left)  # first, as there may be no memory for it
            client.departed = True
            room.clients.discard(client)
            if not room.clients:
                room.empty_since = time.monotonic()
                self._let_go(room)
        if not heard and left.reply is not None:  # the room is about to end, and answers nobody
            client.connection.answer(left.reply)
        room.members.remove(client)  # if it was only just let in
        return True

    def vacate(self, room: Room) -> list[Client]:
        """Take all clients out, and let newcomers have a fresh room; return who was there."""
        with self.lock:
            self._remove(room)
            clients = list(room.clients)
            room.clients.clear()
            for client in clients:
                client.departed = True
        return clients

    def forget(self, room: Room) -> None:
        """Note that a room's thread is done."""
        with self.lock:
            self._remove(room)
            self.running.discard(room)
            self._idle.notify_all()

    def end_all(self, code: int, reason: str) -> None:
        """End every room, with this close code for its clients, and let no more be made."""
        with self.lock:
            self._refusal = ConnectionClosed(code, reason)
            rooms = list(self.running)
        for room in rooms:
            room.farewell = (code, reason)
            room.inbox.close()

    def cut_short(self, kill: Callable[[], None]) -> None:
        """Kill what has not ended in time; its clients get what that still brings, then Close."""
        kill()
        for room in self.running.copy():
            room.end(CloseCode.GOING_AWAY, "")

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until every room has closed; False after that many seconds."""
        with self.lock:
            return self._idle.wait_for(lambda: not self.running, timeout)

    def count(self, name: str, number: int = 1) -> None:
        """Count something that happens rarely."""
        with self.lock:
            self.counts[name] += number

    def listing(self) -> list[Room]:
        """Return the rooms that may be joined, by name."""
        with self.lock:
            return [self._rooms[name] for name in sorted(self._rooms)]

    def find(self, name: str) -> Room | None:
        """Return the room of that name, if it is open; takes no lock."""
        return self._rooms.get(name)

    def _start(self, room: Room) -> None:
        try:
            start_thread(f"room {room.name}", room.run)
        except ShortageError as error:
            room.end(CloseCode.TRY_AGAIN_LATER, str(error))
            self.forget(room)
            report_shortage(f"cannot start a room: {error}")

    # -- under the lock --

    def _find_place(self, name: str) -> Room | None:
        """Return the room of that name, or None if there is place to make it."""
        if self._refusal is not None:
            raise self._refusal
        room = self._rooms.get(name)
        limit = self.config.maxrooms
        if room is None and 0 < limit <= len(self.running):
            raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, f"no room left: {limit} at most")
        return room

    def _make_room(self, opener: Client) -> Room:
        self.running.add(room := self.room_type(self, opener))  # first, as memory may run out
        self._rooms[room.name] = room
        return room

    def _check_place(self, room: Room) -> None:
        game = self.config.game
        limits = self.config.maxclients, game.max_clients if game else 0
        limit = min((n for n in limits if n), default=0)
        if limit and len(room.clients) >= limit:
            raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, f"the room is full: {limit} at most")
        if room.inbox.departed >= MAX_DEPARTED:  # its backend hangs: who comes and goes adds up
            raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, "the room does not get on")

    def _remove(self, room: Room) -> None:
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]

    def _let_go(self, room: Room) -> None:
        """End an empty room, now or when it has been empty for --linger seconds."""
        rest = room.empty_since + self.config.linger - time.monotonic()
        if rest <= 0:
            room.is_abandoned = True
            self._remove(room)
            room.inbox.close()
        elif not room.is_timed:
            self.timer.call_later(rest, lambda: self._collect(room))
            room.is_timed = True

    # -- the poller --

    def _collect(self, room: Room) -> None:
        """Look again at a room that was empty; somebody may have been there meanwhile."""
        with self.lock:
            room.is_timed = False
            if not (room.clients or room.ending.is_set()):
                self._let_go(room)


# ==== 12. Plain HTTP =====================================================================
# The same port answers ordinary requests: files of --staticdir, the rooms for a lobby, health
# for whoever runs it. Each is a function from a request to a response.


def json_response(text: str, status: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(status, text.encode(), content_type="application/json")


def error_response(error: HandshakeError) -> Response:
    """Return the response that tells a peer what was wrong with its request."""
    return Response(error.status, f"{error.reason}\n".encode(), error.headers)


def guess_type(name: str) -> str:
    """Return the content type of a file by its name; net/files.py knows more of them."""
    import mimetypes

    kind, packed = mimetypes.MimeTypes().guess_type(name.lower())
    if kind is None or packed:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


class StaticFiles:
    """The files below a folder (--staticdir).

    Nothing outside of the folder is served, by `..` or by link, and nothing whose name begins
    with a dot, but what lies in `/.well-known/` (RFC 8615). net/files.py, where it is there, also
    sends parts of files, packed files, and 304 for a file that has not changed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def respond(self, request: Request) -> Response:
        """Return the file that a request asks for.

        Raises:
            HandshakeError: there is none (404), or it may not be read (403).
        """
        path = self._locate(request.path)
        if os.path.isdir(path):
            if not request.path.endswith("/"):
                target = f"{request.base}{request.path}/{request.target.removeprefix(request.path)}"
                return Response(301, headers=(("Location", target),))
            path = self._inside(path / "index.html")
        elif request.path.endswith("/"):
            raise HandshakeError(404, "no such folder")
        if not os.path.isfile(path):
            raise HandshakeError(404, "no such file")
        try:
            file = path.open("rb")
        except PermissionError:
            raise HandshakeError(403, "this file may not be read") from None
        except OSError as error:
            if error.errno in _SHORTAGES:  # that will pass
                raise HandshakeError(503, "too many files are open", ("Retry-After", "1")) from None
            raise HandshakeError(404, "no such file") from None  # it has gone just now
        return self._respond_with(file, path.name, request)  # who sends it closes it

    def _locate(self, path: str) -> Path:
        try:
            segments = urllib.parse.unquote(path, errors="strict").split("/")[1:]
        except UnicodeDecodeError:
            raise HandshakeError(400, "the path is not UTF-8") from None
        decoded = segments[:-1] + [s for s in segments[-1:] if s]
        bad = re.compile(r"|\..*|.*[\\\0:].*", re.DOTALL)
        visible = decoded[1:] if decoded[:1] == [".well-known"] else decoded
        if path.lower().count("%2f") or any(bad.fullmatch(segment) for segment in visible):
            raise HandshakeError(404, "no such file")
        return self._inside(self._root.joinpath(*decoded))

    def _inside(self, path: Path) -> Path:
        with contextlib.suppress(OSError, RuntimeError):  # a name too long, a loop of links
            resolved = path.resolve()
            if resolved.is_relative_to(self._root):
                return resolved
        raise HandshakeError(404, "no such file")

    def _respond_with(self, file: BinaryIO, name: str, _request: Request) -> Response:
        """Return the response for an open file, so that all it says is of the same bytes."""
        facts = os.fstat(file.fileno())
        fields = (("Last-Modified", format_date(facts.st_mtime)), ("Cache-Control", "no-cache"))
        return Response(200, b"", fields, guess_type(name), file, 0, facts.st_size)


class RoomsApi:
    """What a lobby asks for: the server, the rooms, one room, one metric of it (--api)."""

    def __init__(self, registry: RoomRegistry, config: Config) -> None:
        self._registry = registry
        kind = "game" if config.game else "terminal" if config.pty else "program"
        self._about = {"version": __version__, "target": config.target, "kind": kind}
        self._config = config
        self._addresses = find_feature("addresses")

    def respond(self, request: Request) -> Response:
        """Answer `/api/`, `/api/rooms/`, `/api/<ROOM>/` or `/api/<ROOM>/<METRIC>`.

        Raises:
            HandshakeError: 404, there is no such room or metric.
        """
        if request.path == "/api/":
            told = self._addresses.tell_addresses(self._config, request) if self._addresses else {}
            return json_response(json.dumps({**self._about, **told}))
        name, _, metric = map(urllib.parse.unquote, request.path.strip("/")[4:].partition("/"))
        if (name, metric) == ("rooms", ""):
            return json_response(f"[{', '.join(self.list_rooms(request.query))}]")
        if not (metrics := self.describe(name)):
            raise HandshakeError(404, "no such room")
        if metric not in metrics:
            raise HandshakeError(404, "the metrics of a room are connections and metadata")
        return json_response(metrics[metric])

    def list_rooms(self, query: str) -> list[str]:
        """Return the rooms, each as a JSON object; `query` is the request's."""
        return [self._to_json(room) for room in self._registry.listing()]

    def describe(self, name: str) -> dict[str, str]:
        """Return the metrics of a room, "" for all together; nothing if there is no such room."""
        room = self._registry.find(name)
        if room is None:
            return {}
        connections = str(len(room.clients))
        return {"": self._to_json(room), "metadata": room.metadata, "connections": connections}

    @staticmethod
    def _to_json(room: Room) -> str:
        facts = {"name": room.name, "connections": len(room.clients)}
        if dropped := sum(client.dropped for client in list(room.clients)):
            facts["dropped"] = dropped
        return f'{json.dumps(facts)[:-1]}, "metadata": {room.metadata}}}'


WELCOME = """\
This is a WebSocket server; its rooms are at ws://<this address>/<room>. In a browser's console:

  s = new WebSocket(location.href.replace("http", "ws") + "lobby")
  s.onmessage = (event) => console.log(event.data)
  s.send("hello")
"""


class HttpSite:
    """Everything that is answered without a WebSocket."""

    def __init__(self, config: Config, registry: RoomRegistry) -> None:
        self.health = (200, "ok")
        self.files = StaticFiles(config.staticdir) if config.staticdir else None
        self.api = RoomsApi(registry, config) if config.api else None
        self.metrics: Metrics | None = None
        self.console: Console | None = None
        self.gather: Callable[[Request], Response] | None = None  # asks all of --workers

    def respond(self, request: Request, peer: Endpoint) -> Response:
        """Return the response to a request of a peer.

        Raises:
            HandshakeError: there is nothing of that name (404), the method is not GET or HEAD
                (405), or what the responsible part says.
        """
        if request.method not in ("GET", "HEAD"):
            raise HandshakeError(405, "only GET and HEAD are answered", ("Allow", "GET, HEAD"))
        request = request._replace(from_here=is_loopback(peer[0]))
        path = request.path
        if path.rstrip("/") == "/health":
            status, word = self.health
            return json_response(f'{{"status": "{word}"}}', status)
        if (part := self.find_part(path)) is not None:
            return (self.gather or part.respond)(request)
        if self.console and self.console.covers(path):
            return self.console.respond(request, peer)
        if self.files:
            return self.files.respond(request)
        if path == "/":
            return Response(200, WELCOME.encode())
        raise HandshakeError(404, f"nothing here; rooms are at ws://…{request.base}/<room>")

    def find_part(self, path: str) -> RoomsApi | Metrics | None:
        """Return the part that answers at a path by what this process knows, if there is one."""
        if path.rstrip("/") == "/metrics":
            return self.metrics
        return self.api if path.startswith("/api/") else None


# ==== 13. Sessions and readers ===========================================================
# The life of a connection is one generator, from the first byte of its request to its last. Readers
# are the threads that run such lives, thousands of them on one thread if need be. That of a client,
# with the thread that resumes it, and what that gives it (see `Want`):
#
#     acceptor  nothing      it wants a request: yield BYTES
#     acceptor  the request  it has shaken hands, and has joined its room: yield MESSAGES
#     reader    `Closing`    it has left the room, and has sent its Close: yield END
#     reader    nothing      the peer has gone, too: it closes the socket


def parse_room_name(path: str) -> str:
    """Return the room that the path of an upgrade request names.

    Raises:
        HandshakeError: 400, it is no single path segment of 1 to 128 characters without
            control characters, or it is reserved.
    """
    try:
        name = urllib.parse.unquote(path[1:].removesuffix("/"), errors="strict")
    except UnicodeDecodeError:
        raise HandshakeError(400, "the room's name is not UTF-8") from None
    if not name:
        raise HandshakeError(400, "a room is wanted, as in ws://…/<room>")
    if len(name) > MAX_ROOM_NAME:
        reason = f"a room's name has {MAX_ROOM_NAME} characters at the most, not {len(name)}"
        raise HandshakeError(400, reason)
    if "/" in name or re.search(_LINE_BREAKING, name):
        raise HandshakeError(400, "a room is one path segment without control characters")
    if name in RESERVED_ROOMS:
        raise HandshakeError(400, f"{name!r} is reserved")
    return name


class Want(enum.Enum):
    """What a session waits for -> what `resume` then gives it (a `yield` returns that)."""

    BYTES = enum.auto()  # bytes from the peer -> them; b"" at the end
    HELPER = enum.auto()  # to run on a thread that may block -> None
    MESSAGES = enum.auto()  # its reader passes messages to the room until the end -> `Closing`
    END = enum.auto()  # the reader drops what still comes, until the end -> None


Life: TypeAlias = Generator[Want, Any, None]
Opened: TypeAlias = "Generator[Want, Any, Client | None]"


class Session:
    """A connection, from its first byte to its last.

    Its life is the generator `live`. Where it must wait, it yields a `Want`, and a `Reader`, or a
    thread that may wait (a helper), resumes it. Only one thread at a time has a session.

    Args:
        early: what has been read from it already.
        over_limit: why it is refused (see `ConnectionLimits.enter`), or ""; None: not counted.

    Raises:
        OSError: it has ended.
    """

    KIND: ClassVar[str]  # what another worker knows it by
    connection: Connection  # what writes to it, once it has been admitted

    def __init__(
        self,
        server: Server,
        sock: socket.socket,
        address: Endpoint,
        early: bytes = b"",
        *,
        over_limit: str | None = None,
    ) -> None:
        if sock.family != AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server = server
        self.sock = sock = sock if server.taps is None else server.taps.wrap(sock)
        self.layer: socket.socket | TlsSocket = sock  # TLS's, if there is TLS
        self.address = address
        self.local: Endpoint = UNIX_PEER if sock.family == AF_UNIX else sock.getsockname()[:2]
        self.peer = address  # or the client that a trusted proxy names (PROXY protocol)
        self.proxied = b""  # the PROXY header as it came, if there was one
        self.rest = early  # bytes that were read and not used yet
        self.deadline = time.monotonic() + HEAD_TIMEOUT  # of what it waits for
        self.want: Want | None = Want.HELPER
        self.descriptor = -1  # by which its reader watches it
        self.held: list[Messages] = []  # until its room's inbox has space
        self._over_limit = over_limit
        self.client: Client | None = None  # from when it wants MESSAGES
        self.at_end: list[Callable[[], None]] = []  # each gives something back
        if over_limit is not None:
            self.at_end.append(functools.partial(server.limits.leave, address[0], over_limit))
        # Tell other nodes that this one opens the room, and that it is done (net/relay.py).
        self.begin_opening: Callable[[], None] = lambda: None
        self.end_opening: Callable[[], None] = lambda: None
        self._life = self.live()

    # -- its life --

    def live(self) -> Life:
        """Open, be in a room, leave it, and give back what was held."""
        try:
            client = yield from self.open()
            if client is not None:
                seats = self.server.seats
                if seats is None or not (yield from seats.stay(self, client)):
                    yield from self.join(client)
                    closing = yield Want.MESSAGES
                    yield from self.leave(client, closing)
                yield Want.END
        except HandshakeError as refusal:
            self.end_opening()
            yield Want.HELPER
            self.refuse(refusal)
        finally:
            self.end()

    def open(self) -> Opened:
        """Read what comes before messages; return the client, None if the peer becomes none.

        Raises:
            HandshakeError: it is refused.
        """
        raise NotImplementedError

    def refuse(self, refusal: HandshakeError) -> None:
        """Tell the peer that it may not come in; may wait."""
        raise NotImplementedError

    def admit(
        self,
        name: str,
        request: Request,
        connection: Connection,
        peer: Endpoint,
        *,
        secure: bool = False,
    ) -> Generator[Want, Any, Client]:
        """Return the client of a connection, if it may come in; the arguments are as of `Client`.

        Raises:
            HandshakeError: it may not.
        """
        server = self.server
        if peer[0] != self.address[0]:
            server.enter_behind(self, peer[0])
        server.check_room(name)
        number, local = next(server.registry.client_ids), self.local
        client = Client(number, name, request, connection, peer=peer, local=local, secure=secure)
        if server.askers:
            yield Want.HELPER
            load_feature("auth", "--auth").authenticate(server, client)
        server.check_last(self)
        self.connection = connection  # it has the socket from now on; `end` disposes of it
        server.connections.add(connection)
        return client

    def join(self, client: Client) -> Life:
        """Let a client into its room, or refuse it, and send the response of the handshake."""
        registry, worker = self.server.registry, self.server.worker
        if registry.may_wait(client.room_name):
            yield Want.HELPER
            self.begin_opening()
        self.client = client
        try:
            registry.join(client)
        except ConnectionClosed as refusal:
            log.warning("room %s refused a client: %s", client.room_name, refusal.reason)
            client.connection.close(refusal.code, refusal.reason)
        self.end_opening()
        client.connection.open()
        if worker is not None:  # not before: a Close must not come before the response
            worker.vouch(self, client.id)

    def leave(self, client: Client, closing: Closing) -> Life:
        """Leave the room, if it is in one, and answer how the connection has ended."""
        if client.room is None:
            client.connection.answer(closing)
        else:
            client.room.leave(client, closing)
        yield from ()  # nothing is waited for; see net/lines.py

    def end(self) -> None:
        """Give back what it has held, also where memory has run out."""
        try:
            insist(Session._dismiss, self)
        finally:
            for give_back in self.at_end:
                insist(give_back)

    def _dismiss(self) -> None:
        """Leave the room, and give back the socket; may be done again."""
        server, client = self.server, self.client
        self.end_opening()
        if client is not None and client.room is not None and not client.departed:
            client.room.leave(client, Closing(CloseCode.ABNORMAL, "our own bug", failed=False))
        if hasattr(self, "connection"):
            self.connection.dispose()
            self.connection.protocol.finish()  # a timed call may have hold of it for a while
            server.connections.discard(self.connection)
        else:
            self.layer.close()

    # -- for whoever runs it --

    def resume(self, value: Any = None) -> Want | None:
        """Send in what it waited for; return what it wants next, or None at its end."""
        return self._step(self._life.send, value)

    def fail(self, error: Exception) -> Want | None:
        """Have what it waited for fail; return what it wants next, or None at its end."""
        return self._step(self._life.throw, error)

    def _step(self, step: Callable[[Any], Want], value: Any) -> Want | None:
        self.want = None
        try:
            self.want = step(value)
        except StopIteration:
            pass
        except (OSError, ShortageError) as error:
            log.debug("connection from %s ended: %s", self.address[0], error)
        except BaseException:
            report_failure()
        return self.want

    def read(self, receive: Callable[..., bytes], *args: Any) -> bool:
        """Receive bytes that it wants, and send them in; return False if there are none yet."""
        try:
            data = receive(*args)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:  # a reset, which is an end like any other
            data = b""
        self.resume(data)
        return True

    def receive(self, until: float) -> bytes:
        """Return what comes by then, or by its deadline; no bytes at its end.

        Raises:
            TimeoutError: nothing has come.
        """
        if (patience := min(self.deadline, until) - time.monotonic()) <= 0:
            raise TimeoutError("it took too long")
        self.layer.settimeout(patience)
        return self.layer.recv(RECEIVE_SIZE)


class HttpSession(Session):
    """A connection that speaks HTTP: requests are answered until one asks for a WebSocket."""

    KIND = "http"
    tls: TlsTransport | None = None
    head = b""  # of the latest request, without its empty line
    request: Request | None = None  # that one, if it can be read

    def open(self) -> Opened:
        """Answer requests, until one asks for a WebSocket; shake hands (RFC 6455 section 4.2)."""
        server = self.server
        yield from server.read_header(self)
        if server.tls_context is not None or server.taps is not None:
            if not (yield from load_feature("tls", "--sslcert").begin(self)):
                return None
        request = yield from self._serve_requests()
        if request is None:
            return None
        secure = bool(self.tls) or server.speaks_tls(self.peer, request.headers, self.proxied)
        peer = server.find_client(self.peer, request.headers)
        for take in server.takers:
            if (yield from take(self, request, peer, secure=secure)):
                return None
        connection = self.shake_hands(request, server.config.maxmsg)
        server.guard.check(request, self.peer, secure=secure)
        name = parse_room_name(request.path)
        return (yield from self.admit(name, request, connection, peer, secure=secure))

    def refuse(self, refusal: HandshakeError) -> None:
        """Answer with an error."""
        log.debug("refused with %d: %s", refusal.status, refusal.reason)
        with contextlib.suppress(OSError):
            self.send(error_response(refusal), keep_alive=False)

    # -- HTTP --

    def _serve_requests(self) -> Generator[Want, Any, Request | None]:
        """Answer requests until one asks for a WebSocket, which is returned, or there are none."""
        server, patience = self.server, HEAD_TIMEOUT
        while (yield from self.read_head(patience)):
            self.request = parse_request(self.head)
            self.request = request = server.enter_base(self.request)
            if self._over_limit:
                raise HandshakeError(503, self._over_limit, ("Retry-After", "1"))
            if log.isEnabledFor(logging.DEBUG):
                address, _ = server.find_client(self.peer, request.headers)
                log.debug("%s %s%s from %s", request.method, request.base, request.target, address)
            if request.is_upgrade:
                return request
            yield Want.HELPER  # it reads files, and waits for the peer to take them
            if not self._answer(request):
                break
            patience = IDLE_TIMEOUT
        return None

    def read_head(self, patience: float) -> Generator[Want, Any, bool]:
        """Read the head of the next request; return False if the peer has no more.

        Args:
            patience: seconds to wait for the first byte; the rest has HEAD_TIMEOUT.

        Raises:
            HandshakeError: 400 if it is TLS, 408 if it takes too long, 431 if it is too large.
        """
        self.head, self.request = b"", None
        self.rest = self.rest.lstrip(b"\r\n")  # RFC 9112 section 2.2 lets empty lines pass
        self.deadline = time.monotonic() + (HEAD_TIMEOUT if self.rest else patience)
        while (end := self.rest.find(b"\r\n\r\n")) < 0 and len(self.rest) <= MAX_HEAD:
            if self.rest.startswith(b"\x16\x03"):  # the record of a ClientHello
                reason = "this port speaks no TLS (there is no --sslcert): use http:// and ws://"
                self.server.warn_once(f"TLS from {self.peer[0]}: {reason}")
                raise HandshakeError(400, reason)
            try:
                data = yield Want.BYTES
            except TimeoutError:
                if self.rest:
                    reason = f"request head took over {HEAD_TIMEOUT:g} s"
                    raise HandshakeError(408, reason) from None
                return False
            if not data:
                return False
            if not self.rest and (data := data.lstrip(b"\r\n")):
                self.deadline = time.monotonic() + HEAD_TIMEOUT
            self.rest += data
        if not 0 <= end <= MAX_HEAD:
            raise HandshakeError(431, f"request head over {MAX_HEAD} bytes")
        self.head, self.rest = self.rest[:end], self.rest[end + 4 :]
        return True

    def send(self, response: Response, *, keep_alive: bool) -> bool:
        """Send a response, and close its file; return whether another request may follow."""
        response = self.server.mark(self.request, response) if self.request else response
        sock, extra = self.layer, self.server.config.header + self.server.config.header_http
        with response.file or contextlib.nullcontext() as file:
            sock.settimeout(HEAD_TIMEOUT)
            head = response.encode_head(keep_alive=keep_alive, extra=extra)
            is_bare = response.status == 304 or (self.head or self.rest).startswith(b"HEAD ")
            data = head if is_bare else head + response.body
            for at in range(0, len(data), RECEIVE_SIZE):  # the time is for each of these
                sock.sendall(data[at : at + RECEIVE_SIZE])
            if file is not None and response.length and not is_bare:
                sent = sock.sendfile(file, response.start, response.length)
                keep_alive = keep_alive and sent == response.length
        if not keep_alive:  # read what comes, or closing would reset what was sent (RFC 9112, 9.6)
            sock.shutdown(socket.SHUT_WR)
            self.deadline = time.monotonic() + HEAD_TIMEOUT
            while self.receive(time.monotonic() + 1.0):
                pass
        return keep_alive

    def _answer(self, request: Request) -> bool:
        """Answer a request, if it may have an answer; return whether another may follow."""
        server = self.server
        keep_alive = request.keeps_alive and not (request.has_body or server.is_ending)
        client = server.find_client(self.peer, request.headers)
        try:
            if request.path.rstrip("/") != "/health":  # that tells nothing, and probes ask anyhow
                server.guard.check(request, self.peer)
                server.check_all(self, request, client)
            response = server.site.respond(request, client)
        except HandshakeError as error:
            response = error_response(error)
        return self.send(response, keep_alive=keep_alive)

    # -- WebSocket --

    def shake_hands(self, request: Request, max_message: int) -> Connection:
        """Check the opening handshake; return the connection, which has yet to answer it.

        Raises:
            HandshakeError: it is wrong.
        """
        config = self.server.config
        connect = self.server.connect if self.tls is None else self.tls.through(self.server.connect)
        subprotocols = config.subprotocol or (config.game.subprotocols if config.game else ())
        response, encoding = answer_handshake(
            request,
            subprotocols=subprotocols,
            negotiate=self.server.negotiate,
            extra=config.header + config.header_ws,
        )
        protocol = WebSocketProtocol(Role.SERVER, max_message=max_message, encoding=encoding)
        return connect(self.sock, protocol, early=self.rest, response=response)


class Reader(Poller):
    """A thread that reads one connection (`only`), or all that have no such thread.

    In each round it takes one `recv` from every connection that is ready, and gives each room what
    has come for it as one batch. It waits for nothing but its selector. A session with something
    for a full inbox is left out of the selector until the inbox has space: TCP slows its client.

    When a crowd talks, rounds are ROUND_TIME apart: each round wakes rooms, whose threads then want
    the interpreter lock, too. This saves a third of the processor time for 200 clients in a room.

    Args:
        readers: has threads for sessions that are not for this one.
        only: the session with which it ends.
    """

    def __init__(self, name: str, readers: Readers, only: Session | None = None) -> None:
        super().__init__(name)
        self._readers = readers
        self._only = only
        # These are its thread's alone.
        self._ready: dict[Session, None] = {}  # in the order in which they are to be read
        self._paused: dict[Room, deque[Session]] = {}  # their room's inbox is full
        self._opening: dict[Session, None] = {}  # those that have a deadline
        self._is_timed = False  # `_check_waiting` will be called

    # -- its thread --

    def attend(self, session: Session) -> None:
        """Have a session get what it wants, here or on another thread.

        Without memory for some of it, all of it is to be done again: at once, or by a timed call.
        """
        want = session.want
        self._opening.pop(session, None)
        if want is Want.MESSAGES and self._only is None and self._readers.start_own(session):
            return
        if want is None or want is Want.HELPER:
            self._unwatch(session)
            if self._only is session and not self._stopped:
                self._stopped = True
                self._readers.spare.release()
            if want is Want.HELPER:
                self._readers.help(session)
        else:
            self.start_reading(session)

    def start_reading(self, session: Session) -> None:
        """Read a session from now on."""
        if session.want is Want.BYTES:
            self._opening[session] = None
            self._watch_over()
        elif session.want is Want.END or session.connection.has_more:
            self._ready[session] = None
        if session.descriptor < 0:  # last: from then on it may go on to another thread
            descriptor = session.sock.fileno()
            self.watch(session.sock, selectors.EVENT_READ, session)
            session.descriptor = descriptor

    def _unwatch(self, session: Session) -> None:
        if session.descriptor >= 0:  # its socket may be closed already
            with contextlib.suppress(KeyError):  # memory has run out in the middle of it before
                self._selector.unregister(session.descriptor)
            session.descriptor = -1

    def _do_round(self) -> None:
        # Some stand there twice: a starting child has a copy of a closed socket of that number.
        for session in dict.fromkeys(key.data for key, _ in self._select(wait=not self._ready)):
            if not isinstance(session, Session):
                self._do(session)
            elif session.want is Want.BYTES:
                self._do(functools.partial(self._read_opening, session))
            else:
                self._ready[session] = None
        self._call_due()
        sessions, self._ready = self._ready, {}
        began = time.monotonic()
        is_crowd = self._is_crowd(sessions, began)
        try:
            if sessions:
                self._read_round(sessions)
        except BaseException:  # what some have said may be lost: they must not go on
            for session in sessions:
                session.connection.abort()
            raise
        if is_crowd:  # let more of them come together
            time.sleep(max(0.0, began + ROUND_TIME - time.monotonic()))

    @staticmethod
    def _is_crowd(sessions: Iterable[Session], now: float) -> bool:
        """Whether CROWD or more speak, and the first CROWD of them did not a moment ago.

        One that did may be one that speaks as soon as it is answered: a pause would slow it.
        """
        some = list(itertools.islice(sessions, CROWD))
        before = now - 2 * ROUND_TIME
        return len(some) == CROWD and all(s.connection.silent_since < before for s in some)

    def _close(self) -> None:
        for session in self._opening:
            session.fail(ConnectionAbortedError("the server ends"))
        super()._close()

    def _watch_over(self) -> None:
        """Look after those who wait, once a second as long as there are any."""
        if not self._is_timed:
            self.call_later(1.0, self._check_waiting)
            self._is_timed = True

    def _check_waiting(self) -> None:
        """End who takes too long, and read on from those who have gone while they were paused."""
        now = time.monotonic()
        for session in [session for session in self._opening if session.deadline <= now]:
            session.fail(TimeoutError("it took too long"))
            self._do(functools.partial(insist, self.attend, session))
        for room, paused in self._paused.items():
            for session in [s for s in paused if not self._is_there(s)]:
                self._unpause(session, room)
                paused.remove(session)
        self._is_timed = False
        if self._opening or self._paused:
            self._watch_over()

    # -- sessions that open --

    def _read_opening(self, session: Session) -> None:
        if session.read(session.layer.recv, FIRST_RECEIVE_SIZE, _DONT_WAIT):
            insist(type(self).attend, self, session)

    # -- sessions in a room --

    def _read_round(self, sessions: Collection[Session]) -> None:
        with TURN if len(sessions) >= CROWD else NO_TURN:
            heard = [(session, self._receive(session)) for session in sessions]
        batches: dict[Room, list[Messages]] = {}
        for session, events in heard:
            try:
                self._dispatch(session, events, batches)
            except BaseException:  # our bug ends one client, not the thread that reads all
                report_failure()
                session.connection.abort()
        for room, runs in batches.items():
            room.receive(runs)

    def _receive(self, session: Session) -> list[Event] | None:
        """Take what has come from a client; None: that was all."""
        try:
            if session.want is Want.MESSAGES:
                return session.connection.receive()
            return [] if session.connection.drop_input() else None
        except BaseException:
            report_failure()
            return None

    def _dispatch(
        self, session: Session, events: list[Event] | None, batches: dict[Room, list[Messages]]
    ) -> None:
        """Put messages into the batch of their room, or pause the session; tell it of its end."""
        if session.want is not Want.MESSAGES:
            if events is None:
                session.resume()
                insist(type(self).attend, self, session)
            return
        client = session.client
        assert client is not None
        if events is None:
            events = [Closing(CloseCode.ABNORMAL, "connection lost", failed=False)]
        runs = [event for event in events if isinstance(event, Messages)]
        closing = events[-1] if events and isinstance(events[-1], Closing) else None
        room = client.room
        if runs and room is not None:
            for run in runs:
                run.client = client
            if room.inbox.is_full and closing is None and self._is_there(session):
                insist(Reader._pause, self, session, room, runs)
                return
            batches.setdefault(room, []).extend(runs)
        if closing is not None:
            if room in batches:  # it leaves behind all that it has said
                room.receive(batches.pop(room))
            session.resume(closing)
            insist(type(self).attend, self, session)
        elif session.connection.has_more:
            self._ready[session] = None

    @staticmethod
    def _is_there(session: Session) -> bool:
        client = session.client
        return client is not None and not client.departed and session.connection.is_alive()

    def _pause(self, session: Session, room: Room, runs: list[Messages]) -> None:
        self._unwatch(session)
        session.held = runs
        session.connection.set_reading(False)
        if not (paused := self._paused.setdefault(room, deque())):
            self._watch_over()
            self._wait_for(room)
        paused.append(session)  # last: without memory for all of this, it is done again

    def _wait_for(self, room: Room) -> None:
        room.inbox.when_freed(lambda: self.call_soon(lambda: self._unpause_all(room)))

    def _unpause_all(self, room: Room) -> None:
        """Let who waits for a room go on, as long as there is room in its inbox."""
        paused = self._paused.setdefault(room, deque())
        while paused and not room.inbox.is_full:
            self._unpause(paused[0], room)
            paused.popleft()  # not before: without memory for that, it is tried again
        if paused:
            self._wait_for(room)
        else:
            del self._paused[room]

    def _unpause(self, session: Session, room: Room) -> None:
        runs, session.held = session.held, []
        try:
            if runs:
                room.receive(runs)
        except BaseException:  # what it has said may be lost: it must not go on
            session.connection.abort()
            raise
        session.connection.set_reading(True)
        self.start_reading(session)


class Readers:
    """The threads that run sessions.

    One reader, `shared` (thread "acceptor"), accepts all, and reads all but those with a reader of
    their own: the first OWN_READERS clients in rooms. A step that may block runs on a helper.
    """

    kind: type[Reader] = Reader  # net/rate.py has another

    def __init__(self) -> None:
        self.shared = self.kind("acceptor", self)
        # As many more readers may be started; each takes three descriptors.
        self.spare = threading.BoundedSemaphore(min(OWN_READERS, count_spare_files() // 32))
        # Not `start_thread`, which waits until the thread has begun: nobody joins a helper.
        self.start_helper: Callable[..., object] = _thread.start_new_thread  # see net/threads.py
        self.finish: Callable[[float], None] = lambda _deadline: None  # ends helpers; likewise

    def start_own(self, session: Session) -> bool:
        """Give a session a reader of its own, if there may be one more; return whether it has."""
        if not self.spare.acquire(False):
            return False
        try:
            reader = self.kind(f"reader {session.client and session.client.id}", self, session)
            reader.start()
        except (ShortageError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError):  # no memory for a lock, or a bug of ours
                report_failure()
            self.spare.release()
            return False
        insist(Reader._unwatch, self.shared, session)
        insist(Readers.hand_over, self, session, reader)
        return True

    def help(self, session: Session) -> None:
        """Have a session go on in a thread that may wait; if there is none, it fails."""
        try:
            self.start_helper(self.run, (session,))
        except (RuntimeError, MemoryError, ShortageError) as error:
            cause = error if isinstance(error, ShortageError) else OUT_OF_THREADS
            shortage = ShortageError(f"cannot start a thread: {cause}")
            if session.fail(shortage) is None:
                report_shortage(str(shortage))
            insist(Readers.hand_over, self, session, self.shared)

    def run(self, session: Session) -> None:
        """Run a session until it only waits for its peer, or ends; on a thread that may wait."""
        try:
            until = time.monotonic() + HELPER_PATIENCE
            while session.want is Want.HELPER or session.want is Want.BYTES:
                if session.want is Want.HELPER:
                    session.resume()
                elif not session.read(session.receive, until):
                    session.sock.settimeout(None)  # its reader waits on, and sees to the deadline
                    break
        except Exception as error:  # memory, or our bug
            insist(Session.fail, session, error)
        insist(Readers.hand_over, self, session, self.shared)

    def hand_over(self, session: Session, reader: Reader) -> None:
        """Have a reader attend to a session from now on."""
        reader.call_soon(functools.partial(reader.attend, session))


# ==== 14. Server =========================================================================
# Listens, and holds what sessions use: who may come in, how many, and how it all ends.


def open_listeners(
    opened: contextlib.ExitStack, config: Config
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Listen at --addr; net/addresses.py elsewhere, too, also for lines of text (--tcplisten).

    Args:
        opened: closes what listens, unless it is taken from it.

    Returns:
        What is for HTTP and WebSockets, and what is for lines of text.

    Raises:
        OSError: one cannot be had: see `strerror`.
    """
    if (addresses := find_feature("addresses")) is not None:
        listeners, lines = addresses.open_listeners(opened, config)
        return listeners, lines
    if os.environ.get("LISTEN_PID") == str(os.getpid()):  # sd_listen_fds(3)
        load_feature("sockets", "LISTEN_FDS")  # which is not there
    listeners = []
    for host, port in config.addr:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = host == "::" and len(config.addr) == 1 and socket.has_dualstack_ipv6()
        try:
            listener = socket.create_server(
                (host, port), family=family, backlog=4096, dualstack_ipv6=both
            )
        except OSError as error:
            error.strerror = f"cannot listen at {host}:{port}: {error.strerror}"
            raise
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # for whom it accepts, too
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
            if hasattr(socket, name):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), 20)  # seconds
        listeners.append(opened.enter_context(listener))
    return listeners, []


# An Origin or a Host of this machine.
_LOCAL = r"(?:https?://)?(?:(?:.+\.)?localhost\.?|127(?:\.\d+){3}|0\.0\.0\.0|\[::1\])(?::\d+)?"


class LocalPages:
    """Lets only pages of this machine in, if only this machine reaches the server.

    A browser tells where a page is from, in Origin, and by what name it has found us, in Host. A
    page whose own name leads here by now (DNS rebinding) is of our origin, as far as its browser
    can tell; but that name is not ours. (net/origins.py has a guard that knows more of our names,
    and of proxies.)
    """

    is_local = False  # only this machine reaches us, so only pages from here should

    def check(self, request: Request, peer: Endpoint, *, secure: bool = False) -> None:
        """Refuse what a strange page asks for, or what seeks a name that is not ours.

        A name without a dot passes: it leads nowhere but within one's own network, where
        containers know each other by it. `peer`, a client or a proxy, has sent the request;
        `secure`: over TLS.

        Raises:
            HandshakeError: 403.
        """
        named, origin = (request.headers.get(name).lower() for name in ("Host", "Origin"))
        if self.is_local and "." in named and not re.fullmatch(_LOCAL, named):
            raise HandshakeError(403, f"{named} is no name of this server")
        if self.is_local and origin not in ("", "file://") and not re.fullmatch(_LOCAL, origin):
            raise HandshakeError(403, f"origin {origin} is not allowed")


def asks_game(game: type[Game] | None) -> bool:
    """Whether a game decides who may come in."""
    inherited = Game.__dict__["on_auth"].__func__  # asks nobody
    return game is not None and getattr(game.on_auth, "__func__", None) is not inherited


class ConnectionLimits:
    """Counts connections of any kind against --maxconns.

    Where net/per_address.py is there, its `AddressLimits` takes its place (--maxperaddr).
    """

    def __init__(self, config: Config) -> None:
        self._limit = config.maxconns or count_spare_files()
        self._lock = threading.Lock()  # guards the count
        self._taken = 0  # of those that are being refused, too

    def enter(self, address: str) -> str:
        """Count one more; return "", or, if it is one too many, the words to refuse it with.

        Raises:
            ShortageError: too many are being refused already; close it without an answer.
            ConnectionAbortedError: the same, for its address (--maxperaddr).
        """
        with self._lock:
            if self._taken >= self._limit + MAX_REFUSED:
                raise ShortageError(f"far over the {self._limit} connections of --maxconns")
            self._taken += 1
            is_over = self._taken > self._limit
        return f"all {self._limit} connections are in use" if is_over else ""

    def leave(self, address: str, over_limit: str) -> None:
        """Count one less; `over_limit` is what `enter` has returned for it."""
        with self._lock:
            self._taken -= 1


class Listener:
    """Accepts at one socket; its methods are for the thread of the shared reader.

    Args:
        sock: listens; does not block from now on, and is closed at the end.
        kind: of session that they become.
    """

    def __init__(self, sock: socket.socket, server: Server, kind: type[Session]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._server = server
        self._kind = kind
        self._reader = server.readers.shared
        self._watch_later = functools.partial(self._reader.call_later, 0.1, self.watch)

    def watch(self) -> None:
        """Accept from now on."""
        if self._socket.fileno() >= 0:  # it may have been closed meanwhile
            self._reader.watch(self._socket, selectors.EVENT_READ, self._accept_all)

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(KeyError):  # it is not watched for a moment
            self._reader.unwatch(self._socket)
        self._socket.close()

    def _accept_all(self) -> None:
        """Accept whoever waits, but let those that are there have their turn after so many.

        Raises:
            ShortageError: something has run out; it is tried again a little later.
        """
        for _ in range(64):
            try:
                self._server.serve(self._kind, *self.accept())
            except BlockingIOError:
                return
            except ConnectionError as error:  # gone again, or one of too many from its address
                log.debug("not accepted: %s", error)
            except (OSError, ShortageError) as error:
                self._reader.unwatch(self._socket)
                insist(self._watch_later)  # for others to end
                raise ShortageError(f"cannot accept: {error}") from None

    def accept(self) -> tuple[socket.socket, Endpoint, bytes]:
        """Return who waits, its address, and what has been read from it already.

        Raises:
            BlockingIOError: nobody does.
        """
        sock, address = self._socket.accept()  # of IPv6 with more than a port
        host, port = address[:2] if isinstance(address, tuple) else UNIX_PEER
        return sock, (IPV4_IN_IPV6.sub("", host), port), b""


class Server:
    """The rooms, the listeners, and what sessions use; it starts threads only in `run`.

    Raises:
        ConfigError: the certificates cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.poller = Poller("poller")
        rooms = load_feature("store", "--store") if config.store else find_feature("rooms")
        make_rooms = rooms.make_rooms if rooms is not None else RoomRegistry
        self.registry: RoomRegistry = make_rooms(config, self.poller)
        self.limits = ConnectionLimits(config)
        self.site = HttpSite(config, self.registry)
        self.connections: set[Connection] = set()  # its methods are atomic; copy it to iterate
        self.stopping = False  # a signal has told it to end, at once or after --drain
        self.is_ending = False  # at once: `run` ends rooms and connections
        self.has_ended = False  # it has ended them all
        self.farewell = (CloseCode.GOING_AWAY, "the server is going away")  # for its clients
        self._listeners: list[tuple[socket.socket, type[Session]]] = []
        self.opened = contextlib.ExitStack()  # closes them, and removes the file of --unixsocket
        self._waker: socket.socket | None = None  # while `run` waits for `stop`
        self.taps: Taps | None = None  # set by `prepare`
        # What follows is set by modules of net/, nearly all of it by their `set_up`. What each is
        # for stands in net/README.md ("A new option").
        self.proxies: TrustedProxies | tuple[()] = ()  # who may say for whom they speak
        self.read_header: Callable[[Session], Iterable[Want]] = lambda _session: ()
        self.find_client: Callable[[Endpoint, Headers], Endpoint] = lambda peer, _headers: peer
        self.speaks_tls: Callable[[Endpoint, Headers, bytes], bool] = lambda *_: False
        self.guard = LocalPages()
        self.warn_once: Callable[[str], None] = log.debug  # what strangers do wrong, each kind once
        self.askers: list[Callable[[Client], bool]] = []  # who may come in? Each may take long
        self.enter_behind: Callable[[Session, str], None] = lambda *_: None
        self.check_room: Callable[[str], None] = lambda _name: None  # may anybody enter it?
        self.check_last: Callable[[Session], None] = lambda _session: None
        self.check_all: Callable[[HttpSession, Request, Endpoint], None] = lambda *_: None
        self.takers: list[Callable[..., Generator[Want, Any, bool]]] = []
        self.services: list[Archive | Orphans | StoredRooms] = []  # from `run` to its end
        self.before_end: list[Callable[[], None]] = []  # is called when it begins to end
        self.mark: Callable[[Request, Response], Response] = lambda _request, response: response
        self.enter_base: Callable[[Request], Request] = lambda request: request
        self.negotiate: Negotiate | None = None
        self.find_kind: Callable[..., type[Connection]] = lambda kind: kind
        self.seats: Seats | None = None
        self.drain: Drain | None = None
        self.make_taps: Callable[[], Taps | None] = lambda: None  # they hear all traffic
        self.tls_context: ssl.SSLContext | None = None
        self.reload_certificates: Callable[[bool], bool] = lambda _anyhow: False
        self.run_all: Callable[[], int | None] = self.run  # or several processes (--workers)
        self.worker: Worker | None = None  # which one this is, then
        self.say: Callable[..., None] = log.info  # what one process does; of several, their parent
        game = config.game
        if asks_game(game):
            ask_game = load_feature("auth", "on_auth of a game").ask_game
            self.askers.append(functools.partial(ask_game, game))
        rated = config.maxrate or (game and game.max_rate)
        rate = load_feature("rate", "--maxrate, or max_rate of a game,") if rated else None
        self.readers = (rate.limit(config, self.registry) if rate else Readers)()
        config.call_features("set_up", self)

    def listen(self) -> None:
        """Open the listening sockets, and then the files of --pcap and --trace.

        Raises:
            OSError: see `open_listeners`. None stays open.
            ConfigError: a file of --pcap cannot be written, or a module of net/ is not there.
        """
        with contextlib.ExitStack() as opened:
            listeners, lines = open_listeners(opened, self.config)
            self.prepare(listeners, lines)
            self.opened = opened.pop_all()
        if (addresses := find_feature("addresses")) is not None:
            addresses.tell_operator(listeners, lines, self.config)
            return
        for listener in listeners:
            log.info("running at %s on port %d", *listener.getsockname()[:2])
        if listeners[0].family == socket.AF_INET:
            host, port = listeners[0].getsockname()
            log.info("open http://%s:%d/", host.replace("0.0.0.0", "localhost"), port)

    def prepare(self, listeners: Sequence[socket.socket], lines: Sequence[socket.socket]) -> None:
        """Do what is to be done between listening and `run`; see `listen`."""
        self.taps = self.make_taps()
        tcp = [x.getsockname()[0] for x in listeners if x.family != AF_UNIX]
        self.guard.is_local = all(map(is_loopback, tcp))
        self._listeners = [(listener, HttpSession) for listener in listeners]
        self._listeners += [(x, load_feature("lines", "--tcplisten").LineSession) for x in lines]

    def run(self) -> None:
        """Serve until `stop` is called, then end all rooms."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self.poller.start()
        for service in self.services:
            service.start()
        self.readers.shared.start()
        wake_up, self._waker = socket.socketpair()
        with wake_up, self._waker:
            listeners = [Listener(sock, self, kind) for sock, kind in self._listeners]
            if self.worker is not None:
                listeners += self.worker.open_channels(self)
            for listener in listeners:
                self.readers.shared.call_soon(listener.watch)
            accept_key("")  # loads what the first client would have to wait for
            self._wait_for_stop(wake_up, self._waker)
            for listener in listeners:
                self.readers.shared.call_soon(listener.close)
            closed = threading.Event()
            self.readers.shared.call_soon(closed.set)
            closed.wait()
        self.opened.close()
        self._end()
        self.readers.shared.stop()
        self.say("stopped")

    def _wait_for_stop(self, wake_up: socket.socket, waker: socket.socket) -> None:
        """Wait until `stop` is called, and let signals have their handlers run.

        Python runs handlers on the main thread only, when it is between two calls; a signal that
        comes just before a blocking call, or to another thread, would not end that call. The byte
        that is written for it does.
        """
        waker.setblocking(False)
        on_main = threading.current_thread() is threading.main_thread()
        if on_main:
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            while not self.is_ending:
                if self.drain is not None:
                    self.drain.look()
                insist(wake_up.recv, 64)
        finally:
            if on_main:
                signal.set_wakeup_fd(-1)

    # -- for sessions and listeners --

    def serve(
        self, kind: type[Session], sock: socket.socket, address: Endpoint, early: bytes
    ) -> None:
        """Serve a connection that has been accepted (see `Session`); on the shared reader's thread.

        Raises:
            ShortageError, ConnectionAbortedError: see `ConnectionLimits.enter`; it has been closed.
        """
        over_limit = None
        try:
            over_limit = self.limits.enter(address[0])
            session = kind(self, sock, address, early, over_limit=over_limit)
        except (OSError, MemoryError, RuntimeError, ShortageError) as error:
            sock.close()
            if over_limit is None:
                raise
            insist(type(self.limits).leave, self.limits, address[0], over_limit)
            if isinstance(error, RuntimeError):  # no memory for a lock, or a bug of ours
                report_failure()
            return
        insist(Session.resume, session)
        insist(Readers.hand_over, self.readers, session, self.readers.shared)

    def connect(
        self,
        sock: socket.socket,
        protocol: WebSocketProtocol | LineProtocol,
        kind: type[Connection] = Connection,
        **options: Any,
    ) -> Connection:
        """Return a connection of a kind; its options are those of `Connection`."""
        return self.find_kind(kind)(
            sock, protocol, poller=self.poller, max_backlog=self.config.backlog, **options
        )

    # -- its end --

    def stop(self) -> None:
        """Make `run` end; may be called by any thread, and by a signal handler."""
        self.is_ending = True
        with contextlib.suppress(OSError):  # closed already, or full of such bytes
            if self._waker is not None:  # an Event would take a lock, as no handler may
                self._waker.send(b"\0")

    def kill(self) -> None:
        """End all children at once; their rooms have a moment to tell clients, and to close."""
        self.registry.end_all(*self.farewell)  # nor is one started again
        for room in self.registry.running.copy():
            room.backend.kill()
        if (descendants := find_feature("descendants")) is not None:
            descendants.kill_orphans()
        self.registry.wait_until_idle(ABANDON_TIMEOUT)

    def _end(self) -> None:
        """Close every client, end every room, and wait for both (7.1.1)."""
        self.say("stopping")
        for stop in self.before_end:
            stop()
        self.registry.end_all(*self.farewell)
        deadline = time.monotonic() + END_TIMEOUT
        while not self.registry.wait_until_idle(0.2) and time.monotonic() < deadline:
            pass  # in short waits, after each of which a second signal can be heeded
        deadline = time.monotonic() + CLOSE_TIMEOUT
        if not self.registry.wait_until_idle(0):
            self.registry.cut_short(self.kill)
        if self.registry.relays is not None:
            self.registry.relays.stop(CLOSE_TIMEOUT)
        while self.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        if lost := [size for c in self.connections.copy() if (size := c.backlog_size)]:
            log.warning("lost: %d bytes that %d of the clients had not taken", sum(lost), len(lost))
        for connection in self.connections.copy():  # their time is over; their readers close them
            with connection.lock:
                connection._die()
        while self.connections and time.monotonic() < deadline + CLOSE_TIMEOUT:
            time.sleep(0.01)
        self.readers.finish(deadline)
        for service in self.services:
            service.stop()
        self.poller.stop()
        if self.taps is not None:
            self.taps.close()
        self.has_ended = True


# ==== 15. Command line ===================================================================
# Options come from three places, and a later one wins: the defaults here, the script's own
# inline metadata (PEP 723, `[tool.scalesocket]`), and the command line.


class NoNetConfig(types.SimpleNamespace):
    """Stands for the options of net/, where this file has been copied alone: all are empty."""

    def __getattr__(self, name: str) -> Any:
        return object.__getattribute__(self, name) if name.startswith("__") else ()

    def call_features(self, function: str, argument: object) -> None:
        """Call nothing; `NetConfig` calls its modules."""


if not TYPE_CHECKING:
    NetConfig = getattr(find_feature("config"), "NetConfig", NoNetConfig)


class Config(NetConfig):
    """The options of this file, with their defaults; those of net/ are in net/config.py."""

    target: str = ""  # its name, for a lobby to show
    command: tuple[str, ...] = ()  # program and arguments, unless `game` is set
    game: type[Game] | None = None
    addr: tuple[tuple[str, int], ...] = (("0.0.0.0", 9000),)
    staticdir: Path | None = None
    api: bool = False
    maxrooms: int = 1024
    maxclients: int = 0
    maxconns: int = 0  # 0: from the file limit
    maxmsg: int = 1 * MIB  # bytes
    backlog: int = 4 * MIB  # bytes
    stall: float = 5.0  # seconds
    linger: float = 0.0  # seconds
    cache: tuple[int, bool] = (0, False)  # messages, and whether only those that are marked
    binary: bool = False
    clientframe: str = ""  # "", "json" or "gwsocket"
    serverframe: str = ""
    joinmsg: str = ""
    leavemsg: str = ""
    passenv: tuple[str, ...] = PASSED  # this and `closegrace`: others with net/pipes.py
    respawn: bool = False
    closegrace: float = 0.1  # seconds
    verbose: int = 0


class OptionParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line."""

    def parse_options(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the options that words give, by name, with `--json` spelled out.

        Raises:
            ConfigError: they are none, or their values cannot work.
        """
        known, unknown = self.parse_known_args(words)
        for word in sorted(unknown, key=lambda word: not word.startswith("-")):
            hint = near.suggest_word(word, words) if (near := find_feature("spelling")) else ""
            if word.startswith("-"):
                alone = " without the folder net/ beside scalesocket.py"
                raise ConfigError(f"there is no option {word}{hint or alone}")
            raise ConfigError(f"{word!r} is a second TARGET{hint}; arguments stand behind --")
        for name, value in vars(known).items():
            if isinstance(value, list) and [] in (value, *value):  # `--` is argparse's
                raise ConfigError(f"argument --{name}: its value cannot be '--'")
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(known).items()}
        return JSON_SPELLED_OUT | options if options.pop("json", False) else options

    def print_help(self, file: Any = None) -> None:
        """Print what all options mean."""
        text = re.sub(r" (\[=\w+\])", r"\1 ", build_parser().format_help())  # no space in it
        examples = find_feature("examples")
        self._print_message(examples.complete_help(text) if examples else text, file)

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file, flush=True)  # argparse would hide its failure

    def error(self, message: str) -> NoReturn:
        """Raise as ConfigError what argparse would print."""
        raise ConfigError(message.replace("ignored explicit argument", "it takes no value such as"))


def parse_size(text: str) -> int:
    """Return a number of bytes from `4096`, `64K`, `4M` or `1G`."""
    match = re.fullmatch(r"(\d{1,15})([KMG]?)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 4096, 64K, 4M or 1G")
    return int(match[1]) * {"": 1, "K": KIB, "M": MIB, "G": KIB * MIB}[match[2]]


def parser_of(pattern: str, what: str, read: Callable[[str], T]) -> Callable[[str], T]:
    """Return what reads an option's value; text of another pattern "is no" such thing (`what`)."""

    def parse(text: str) -> T:
        if re.fullmatch(pattern, text) is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return read(text)

    return parse


parse_seconds = parser_of(r"\d{1,9}(\.\d*)?|\.\d+", "number of seconds", float)
parse_count = parser_of(r"\d{1,9}", "whole number", int)
parse_text = parser_of(r"[^\ud800-\udfff]*", "UTF-8", str)  # Python reads other bytes as those
parse_cache = parser_of(
    r"((all|tagged):)?(?=\d*[1-9])\d{1,6}",
    "SIZE, all:SIZE or tagged:SIZE",
    lambda text: (int(text.rpartition(":")[2]), text.startswith("tagged")),
)


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port from `host:port`, `[ipv6]:port` or `:port`."""
    part, ipv6 = r"[^][:.]{1,63}", r"(?!\.|.*\.\.)[0-9A-Fa-f:.%]{1,63}"  # others raise UnicodeError
    match = re.fullmatch(rf"(?:\[({ipv6})\]|((?:{part}\.)*(?:{part})?)):(\d{{1,5}})", text)
    if match is None or int(match[3]) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT with a port up to 65535")
    return match[1] or match[2] or "0.0.0.0", int(match[3])


def parse_folder(text: str) -> Path:
    """Return a folder that can be read."""
    if os.path.isdir(text) and os.access(text, os.R_OK | os.X_OK):
        with contextlib.suppress(FileNotFoundError):  # the working directory has been deleted
            return Path(text).absolute()
    raise argparse.ArgumentTypeError(f"{text!r} is no folder that can be read")


DESCRIPTION = """\
Turn any program into a multiplayer WebSocket server.

Clients connect to rooms, ws://HOST:PORT/<room>. All clients of a room share one
TARGET, which reads what they send from stdin; what it prints goes to them all."""

EPILOG = """\
TARGET is a Python class (module:Class), a file, or a command. Options may also stand
behind it; what follows -- is its arguments. SIZE takes K, M and G. Exit status: 0 done,
1 failed, 2 wrong options.

  python3 scalesocket.py --json ./chat.py     your program, told who says what
  python3 scalesocket.py cat -- -u            any command, with arguments"""


MODES = ("json", "gwsocket")
JSON_MESSAGES = {"joinmsg": '{"t":"Join","_from":#ID}', "leavemsg": '{"t":"Leave","_from":#ID}'}
JSON_SPELLED_OUT = {"frame": "json"} | JSON_MESSAGES
FLAG = {"action": "store_true"}  # as argparse calls it
# Options that may stand without a value, and what they mean then.
BARE = {"--frame": "--frame=json"} | getattr(find_feature("config"), "BARE", {})
REPEATABLE = ("--addr", *getattr(find_feature("config"), "REPEATABLE", ()))

Option = tuple[str, str, Any, str]  # names, value, how that is read, and help


# Those of this file, by group. net/config.py has the places of all others among them.
# fmt: off
OPTIONS: dict[str, tuple[Option, ...]] = {
    "server": (
        ("--addr", "ADDR", parse_address, "interface and port, may repeat (default 0.0.0.0:9000)"),
        ("--staticdir", "DIR", parse_folder, "serve files from DIR over HTTP"),
        ("--api", "", FLAG,
         "what is served and the rooms, as JSON: /api/, /api/rooms/, /api/<ROOM>/[<METRIC>]"),
    ),
    "rooms and limits": (
        ("--maxrooms --maxforks", "NUM", parse_count,
         "rooms at the same time (default 1024; 0: any number)"),
        ("--maxclients", "NUM", parse_count, "clients in one room (default 0: any number)"),
        ("--maxconns", "NUM", parse_count,
         "connections of any kind; beyond it 503 (default from the limit of open files)"),
        ("--maxmsg", "SIZE", parse_size, "longest message of a client (default 1M)"),
        ("--backlog", "SIZE", parse_size, "bytes that may wait for one client (default 4M)"),
        ("--stall", "SECONDS", parse_seconds,
         "close a client that takes nothing of a full backlog for so long (default 5)"),
        ("--linger", "SECONDS", parse_seconds, "keep an empty room for so long (default 0)"),
        ("--cache", "[TYPE:]SIZE", parse_cache,
         "replay the last SIZE messages to newcomers; TYPE is all or tagged (_cache)"),
    ),
    "messages": (
        ("--json", "", FLAG, "--frame=json, with default join and leave messages"),
        ("--frame", "[=MODE]", MODES,
         "tag what clients send, route what TARGET prints: json (default) or gwsocket"),
        ("--clientframe", "MODE", MODES, "only tag what clients send"),
        ("--serverframe", "MODE", MODES, "only route what TARGET prints"),
        ("--joinmsg", "MSG", parse_text,
         "written to TARGET when a client comes; #ID, #ROOM, #REMOTE_ADDR, #QUERY_STRING, #QUERY, "
         "#QUERY_XYZ, #TEXT_XYZ, #JSON_XYZ, #USER and #USER_XYZ are filled in (see README)"),
        ("--leavemsg", "MSG", parse_text, "likewise when it goes"),
        ("-b --binary", "", FLAG, "raw bytes both ways, no lines"),
    ),
    "child": (
        ("--respawn", "", FLAG, "start TARGET again when it exits, for the same clients"),
    ),
    "packet analysis": (),
    "general": (
        ("-v --verbose", "", {"action": "count"},
         "log clients and requests too; -vv: messages, too"),
        ("-h --help", "", {"action": "help"}, "show this and exit"),
        ("-V --version", "", {"action": "version", "version": f"scalesocket {__version__}"},
         "show the version and exit"),
    ),
}
# fmt: on


def list_options(words: Collection[str] | None = None) -> Mapping[str, Sequence[Option]]:
    """Return the options by group; those of net/ only if words name them, or all without words."""
    config = find_feature("config")
    return config.list_options(words) if config else OPTIONS


def build_parser(words: Collection[str] | None = None) -> OptionParser:
    """Return the parser of the command line, and of a script's own options; see `list_options`."""
    parser = OptionParser(
        prog="scalesocket",
        usage="scalesocket.py [OPTIONS] TARGET [-- ARGS...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 26, 88),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("target", metavar="TARGET", nargs="?", help=argparse.SUPPRESS)
    for title, options in list_options(words).items():
        group = parser.add_argument_group(title)
        for names, metavar, kind, text in options:
            group.add_argument(*names.split(), help=text, **argument_for(names, metavar, kind))
    return parser


def argument_for(names: str, metavar: str, kind: Any) -> dict[str, Any]:
    """Return how `add_argument` is to read the value of an option."""
    if isinstance(kind, dict):  # it says so itself
        return kind
    if isinstance(kind, tuple):
        return {"choices": kind, "metavar": metavar}
    action = "append" if names in REPEATABLE else "store"
    return {"type": kind, "metavar": metavar, "action": action}


def parse_command_line(arguments: Sequence[str]) -> Config:
    """Return the options that a command line amounts to.

    Raises:
        ConfigError: they cannot work.
        SystemExit: help or version was asked for, and printed.
    """
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    target_arguments = words[at + 1 :]
    words = [BARE.get(word, word) for word in words[:at]]  # a bare one never takes the next word
    given = build_parser(words).parse_options(words)
    target = given.pop("target", None)
    if target is None:
        refuse_if(not target_arguments, "a TARGET is wanted, such as game.py or cat")
        target, *target_arguments = target_arguments
    what = find_target(target)
    if isinstance(what, str):
        return combine_options({}, given | {"target": what}, (), load_game(what))
    own, game = read_script(what) if what.suffix == ".py" else ({}, None)
    command = () if game else (*command_for(what), *target_arguments)
    return combine_options(own, given | {"target": what.stem}, command, game)


def combine_options(
    own: dict[str, Any], given: dict[str, Any], command: tuple[str, ...], game: type[Game] | None
) -> Config:
    """Put a script's own options under those of the command line, and check them together.

    Raises:
        ConfigError: they contradict each other, or the module of one is not there.
    """
    options = own | given
    options = dict.fromkeys(("clientframe", "serverframe"), options.pop("frame", "")) | options
    framings = options["clientframe"], options["serverframe"]
    is_json = "json" in framings
    if is_json and re.search(r'"id"\s*:\s*"?#ID\b', options.get("joinmsg", "")):
        load_feature("json_fields", "--idfield")
        options.setdefault("idfield", "id")
    if (net := find_feature("config")) is not None:
        net.call_features(options, "complete_options", options)
    config = Config(command=command, game=game, **options)
    config.call_features("check_options", config)
    is_tagged = config.cache[1] and config.serverframe != "json"
    refuse_if(is_tagged, "--cache=tagged needs JSON framing of what TARGET prints")
    if "gwsocket" in framings:
        load_feature("gwsocket", "--frame=gwsocket")
    if config.binary:
        load_feature("binary", "--binary").check_options(config)
    if "#" in (config.joinmsg + config.leavemsg).replace("#ID", ""):
        load_feature("templates", "more than #ID in --joinmsg or --leavemsg")
    return config


def refuse_if(applies: object, text: str) -> None:
    """Raise ConfigError with this text, if options that contradict each other are given."""
    if applies:
        raise ConfigError(text)


# -- what is to be served --


def find_target(target: str) -> Path | str:
    """Return what TARGET means: a file as a path, or `module:Class`.

    Raises:
        ConfigError: nothing of that name.
    """
    import shutil

    path = Path(target)
    if re.fullmatch(r"[\w.]+:\w+", target) and not os.path.exists(target):
        return target
    if is_program(path):
        return path
    examples = find_feature("examples")
    if examples is not None and (example := examples.find_example(target)):
        return Path(example)
    if (command := shutil.which(target)) is not None:
        return Path(command)
    hint = near.suggest_target(target) if (near := find_feature("spelling")) else ""
    refuse_if(os.path.isfile(path), f"{target} is not executable{hint}")
    raise ConfigError(f"there is no class, file, example or command {target!r}{hint}")


def is_program(path: Path) -> bool:
    """Whether a path is a Python script, or a file that may be executed."""
    return os.path.isfile(path) and (path.suffix == ".py" or os.access(path, os.X_OK))


def read_script(path: Path) -> tuple[dict[str, Any], type[Game] | None]:
    """Return the options that a Python script carries itself, and the `Game` that it names, if any.

    They stand in its inline metadata (PEP 723), which net/script_options.py reads.

    Raises:
        ConfigError: they cannot work, or the file cannot be read.
    """
    if (module := find_feature("script_options")) is not None:
        own, game = module.read_script(path)
        return own, game
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if b"# /// script" in source and b"scalesocket" in source:
        load_feature("script_options", f"[tool.scalesocket] in {path}")  # which is not there
    return {}, None


def command_for(path: Path) -> tuple[str, ...]:
    """Return the command that runs a file: this interpreter, unbuffered, for Python."""
    if path.suffix == ".py":
        return sys.executable, "-u", str(path)
    return (str(path) if path.is_absolute() else os.path.join(".", path),)


def load_game(target: str) -> type[Game]:
    """Import `module:Class`, looking in the working directory first.

    Raises:
        ConfigError: it cannot be imported, or is no `Game`; net/mistakes.py says in which line.
    """
    module_name, _, class_name = target.partition(":")
    with contextlib.suppress(FileNotFoundError):  # it has been deleted
        sys.path.insert(0, os.getcwd())
    load = functools.partial(importlib.import_module, module_name)
    if (mistakes := find_feature("mistakes")) is not None:
        game: type[Game] = mistakes.import_game(load, class_name, target)
        return game
    try:
        found = getattr(load(), class_name, None)
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
        raise ConfigError(f"cannot import {target}: {text}") from None
    if not (isinstance(found, type) and issubclass(found, Game)):
        raise ConfigError(f"{target} is no subclass of scalesocket.Game")
    return found


# -- what the operator sees --


def escape_controls(text: str) -> str:
    """Escape control characters, so that no name can forge or hide a log line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TextFormatter(logging.Formatter):
    """`[INFO] joined from 127.0.0.1  room=lobby client=7`; net/logs.py has it in colour."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record, and its traceback if it has one."""
        level = {"WARNING": "WARN"}.get(record.levelname, record.levelname)
        known = [(name, getattr(record, name, None)) for name in ("room", "client")]
        where = "".join(f" {name}={value}" for name, value in known if value is not None)
        where = " " + escape_controls(where) if where else ""
        line = self.join(level, escape_controls(record.getMessage()), where)
        if record.exc_info:
            for more in self.formatException(record.exc_info).split("\n"):
                line += f"\n  | {escape_controls(more)}"  # indented, as it may quote a client
        return line

    def join(self, level: str, message: str, where: str) -> str:
        """Return the line that these parts make."""
        return f"[{level}] {message}{where}"


def set_up_logging(config: Config) -> None:
    """Log to stderr as the options say; with net/logs.py nobody waits for whoever reads it."""
    logs = find_feature("logs")
    handler = logs.make_handler(sys.stderr) if logs else logging.StreamHandler()
    handler.setFormatter(logs.make_formatter(config.log) if logs else TextFormatter())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel((logging.INFO, logging.DEBUG, TRACE)[min(config.verbose, 2)])


def handle_signals(server: Server) -> None:
    """Let a signal stop a server, and a second one end all at once; see net/signals.py, too."""
    if (signals := find_feature("signals")) is not None:
        signals.handle_signals(server)
        return

    def on_signal(number: int, _frame: object) -> None:
        if server.stopping:
            signal.signal(number, signal.SIG_IGN)  # a third changes nothing
            raise KeyboardInterrupt
        server.stopping = True
        server.stop()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, signal.SIGTERM)  # Windows has no SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN:  # as after `nohup`
            signal.signal(number, on_signal)


def serve(config: Config, make: Callable[[Config], Server]) -> int:
    """Serve until a signal comes; return the exit status."""
    try:
        server = make(config)
        handle_signals(server)
        server.listen()
        for name in ("ast", "tokenize"):  # of tracebacks, while files can still be opened
            importlib.import_module(name)
    except (ConfigError, OSError) as error:  # the system may refuse to listen, or to open a file
        print(f"scalesocket: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return getattr(error, "status", 1)
    try:
        return server.run_all() or 0
    except KeyboardInterrupt:
        server.kill()
        return 1
    finally:
        if (signals := find_feature("signals")) is not None:
            signals.ignore_signals()


def run(arguments: Sequence[str]) -> int:
    """Serve, or make a `new` game, as a command line says; return the exit status."""
    try:
        if arguments[:1] == ["new"]:
            sys.exit(load_feature("new", "scalesocket new").create(arguments[1:]))
        config = parse_command_line(arguments)
    except ConfigError as error:
        print(f"scalesocket: {escape_controls(str(error))} (try --help)", file=sys.stderr)
        return 2
    set_up_logging(config)
    if (options := find_feature("idle_options")) is not None:
        options.warn_of_options(config, arguments)
    if (file_limit := find_feature("file_limit")) is not None:
        file_limit.raise_file_limit()
    try:
        if config.reload:
            load_feature("reload", "--reload").oversee(config, arguments)  # never comes back
        return serve(config, Server)
    finally:
        if (logs := find_feature("logs")) is not None:
            logs.finish_log()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    if (streams := find_feature("standard_streams")) is not None:
        streams.open_standard_streams()
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before there was anything to end
        return 130
    except OSError as error:  # no more files can be opened, or nobody takes what is printed
        with contextlib.suppress(OSError):
            sys.stdout.close()  # or Python would say so, too
        print(f"scalesocket: {error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
