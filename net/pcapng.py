"""Recording the server's own traffic, so that Wireshark opens it as if it had been sniffed.

`Recorder` writes a pcapng file (draft-ietf-opsawg-pcapng): a sequence of blocks, each of

    +---------------+---------------+------------------------+---------------+
    | type          | length of all | body, padded to 4      | length again  |
    +---------------+---------------+------------------------+---------------+

    Section Header         once: byte order and version
    Interface Description  once: the packets are bare IP, their times are nanoseconds
    Enhanced Packet        for each packet: time, length, bytes, direction, maybe a comment
    Decryption Secrets     the keys of a TLS connection, before that connection's packets
    Interface Statistics   last: how much was lost, or that the file was full

The server sees streams, not packets, so the packets are made up: `TcpStream` writes what a TCP
that is never hindered would have sent for those streams (RFC 9293). Addresses, ports, bytes, order
and times are the real ones; retransmissions and the sizes of segments are not to be had.

Packets stand in the file in the order in which things happened, and their times with them. There
is one exception: TLS 1.3 can be decrypted only if its keys stand before its ServerHello. The
packets of a TLS connection are therefore held back until its handshake is over, and stand behind
those of others that came meanwhile (`reordercap` moves them).

Where something is missing, the next packet of that connection says so: in a comment, in its drop
count, and by a gap in its sequence numbers.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import ipaddress
import itertools
import os
import random
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

from scalesocket import OUT_OF_MEMORY, log

from .tap import (
    PATIENCE,
    TAPE_SIZE,
    Address,
    Event,
    Flow,
    Lost,
    Record,
    Tape,
    write_patiently,
)

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

if TYPE_CHECKING:
    import ssl

WRITE_SIZE = 256 * 1024  # bytes of blocks that are written at once
MIN_FILE_SIZE = 64 * 1024  # bytes; smaller files could not hold one full packet
LOCK_TIMEOUT = 0.1  # seconds in which a server that may not have a file lets go of it again
TRAILER_SIZE = 256  # bytes kept free for the last block
MAX_HELD = 256 * 1024  # bytes of one TLS handshake that are held back
MAX_HELD_TOGETHER = 8 * 1024 * 1024  # bytes, of all connections
KEYS_SIZE = 1024 * 1024  # bytes of the key log after which it is emptied, when that is safe
RANDOM = slice(11, 43)  # of the first record of a client: what names its keys (RFC 8446, 4.1.2)
MAX_KEYS = 1000  # connections whose keys are there, while their handshake is yet to be recorded
PUNCH_HOLE = 3  # fallocate(2): give back a part of a file, and let it keep its length

UNIX_ADDRESS = "127.0.0.2"  # stands for a peer that came through a Unix socket
UNIX_LOCAL = ("127.0.0.1", 9000)
UNIX_PORTS = range(1024, 65536)


# ==== 1. Blocks ==========================================================================

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
DECRYPTION_SECRETS = 0x0A

LINKTYPE_RAW = 101  # IPv4 or IPv6, with nothing before it
TLS_KEY_LOG = 0x544C534B  # "TLSK"

OPT_COMMENT = 1
SHB_USERAPPL = 4
IF_NAME = 2
IF_TSRESOL = 9
EPB_FLAGS = 2
EPB_DROPCOUNT = 4
ISB_IFDROP = 5

PADDING = b"\0\0\0"


class Direction(enum.IntEnum):
    """Which way a packet went, as bits 0 and 1 of `epb_flags` say it."""

    INBOUND = 1
    OUTBOUND = 2


INBOUND, OUTBOUND = Direction.INBOUND, Direction.OUTBOUND

Packet: TypeAlias = tuple[Direction, bytes]


def pad(data: bytes) -> bytes:
    """Return data filled up to a multiple of 4 bytes."""
    return data + PADDING[: -len(data) % 4]


def encode_block(kind: int, body: bytes) -> bytes:
    """Return a block; its body must be padded."""
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def encode_options(*options: tuple[int, bytes]) -> bytes:
    """Return options and their end mark."""
    parts = [struct.pack("<HH", code, len(value)) + pad(value) for code, value in options]
    return b"".join(parts) + bytes(4)


def encode_file_header(software: str) -> bytes:
    """Return the two blocks that a file begins with."""
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    section += encode_options((SHB_USERAPPL, software.encode()))
    interface = struct.pack("<HHI", LINKTYPE_RAW, 0, 0)
    interface += encode_options((IF_NAME, b"scalesocket"), (IF_TSRESOL, b"\x09"))
    return encode_block(SECTION_HEADER, section) + encode_block(INTERFACE_DESCRIPTION, interface)


def encode_packet(packet: Packet, time_ns: int, comment: str = "", *, dropped: int = 0) -> bytes:
    """Return the block of a packet.

    Args:
        time_ns: nanoseconds since 1970.
        dropped: how many are missing before it.
    """
    direction, data = packet
    length = len(data)
    head = struct.pack("<IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, length, length)
    options = [(EPB_FLAGS, direction.to_bytes(4, "little"))]
    if dropped:
        options.append((EPB_DROPCOUNT, dropped.to_bytes(8, "little")))
    if comment:
        options.append((OPT_COMMENT, comment.encode()))
    return encode_block(ENHANCED_PACKET, head + pad(data) + encode_options(*options))


def encode_secrets(lines: bytes) -> bytes:
    """Return the block that holds lines of a TLS key log."""
    return encode_block(
        DECRYPTION_SECRETS, struct.pack("<II", TLS_KEY_LOG, len(lines)) + pad(lines)
    )


def encode_statistics(time_ns: int, dropped: int, comment: str) -> bytes:
    """Return the block that says how many packets are missing."""
    head = struct.pack("<III", 0, time_ns >> 32, time_ns & 0xFFFFFFFF)
    options = encode_options(
        (OPT_COMMENT, comment.encode()), (ISB_IFDROP, dropped.to_bytes(8, "little"))
    )
    return encode_block(INTERFACE_STATISTICS, head + options)


# ==== 2. Packets =========================================================================

MAX_SEGMENT = 64_000  # bytes: what IP can carry, and the smallest file can hold
WINDOW_SHIFT = 14  # RFC 7323: a window of 1 GiB, which nothing here fills
ACK_AFTER = 64 * 1024  # bytes that are acknowledged without waiting for data to go back

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

IPV4_MAPPED = bytes(10) + b"\xff\xff"

SYN_OPTIONS = struct.pack("!BBHBBBB", 2, 4, MAX_SEGMENT, 3, 3, WINDOW_SHIFT, 1)


def sum_words(data: bytes) -> int:
    """Return a number that is the sum of all 16-bit words modulo 65535 (RFC 1071).

    65536 is 1 modulo 65535, so the words of a long integer need not be added one by one.
    """
    number = int.from_bytes(data, "big")
    return (number << 8 if len(data) % 2 else number) % 0xFFFF


def pack_addresses(*texts: str) -> list[bytes]:
    """Return IP addresses as bytes, all of one version.

    IPv4 in IPv6 clothing (`::ffff:192.0.2.1`) is undressed, unless another is IPv6 in truth.
    """
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in texts]
    addresses = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    packed = [address.packed for address in addresses]
    if len({len(item) for item in packed}) > 1:
        packed = [item if len(item) == 16 else IPV4_MAPPED + item for item in packed]
    return packed


class TcpStream:
    """Makes the packets of one TCP connection.

    Args:
        client, server: address and port.
        first: the initial sequence numbers of both.
    """

    def __init__(self, client: Address, server: Address, first: tuple[int, int]) -> None:
        self._next = {INBOUND: first[0], OUTBOUND: first[1]}  # sequence numbers
        self._unacknowledged = {INBOUND: 0, OUTBOUND: 0}  # bytes
        self._ended: set[Direction] = set()
        source, target = pack_addresses(client[0], server[0])
        self._is_ipv6 = len(source) == 16
        self._ports = {INBOUND: (client[1], server[1]), OUTBOUND: (server[1], client[1])}
        self._addresses = {
            INBOUND: source + target,
            OUTBOUND: target + source,
        }
        self._address_sum = sum_words(source + target) + 6

    @property
    def is_over(self) -> bool:
        """Whether neither side sends any more."""
        return len(self._ended) == 2

    def open(self) -> Iterator[Packet]:
        """Return the handshake: SYN, SYN and ACK, ACK."""
        yield self._make(INBOUND, SYN, options=SYN_OPTIONS)
        self._next[INBOUND] += 1
        yield self._make(OUTBOUND, SYN | ACK, options=SYN_OPTIONS)
        self._next[OUTBOUND] += 1
        yield self._make(INBOUND, ACK)

    def skip(self, direction: Direction, size: int) -> None:
        """Go on behind bytes that are not known."""
        self._next[direction] += size

    def send(self, direction: Direction, data: bytes) -> Iterator[Packet]:
        """Return the packets that carry data, and an ACK if one is due."""
        if direction in self._ended:
            return
        for start in range(0, len(data), MAX_SEGMENT):
            segment = data[start : start + MAX_SEGMENT]
            last = start + MAX_SEGMENT >= len(data)
            yield self._make(direction, ACK | PSH if last else ACK, segment)
            self._next[direction] += len(segment)
            self._unacknowledged[direction] += len(segment)
        if self._unacknowledged[direction] >= ACK_AFTER:
            yield self._make(self._other(direction), ACK)

    def end(self, direction: Direction) -> Iterator[Packet]:
        """Return the FIN of one side, and the other's ACK if it has none of its own to send."""
        if direction in self._ended:
            return
        yield self._make(direction, FIN | ACK)
        self._next[direction] += 1
        self._ended.add(direction)
        if self.is_over:
            yield self._make(self._other(direction), ACK)

    def reset(self, direction: Direction) -> Iterator[Packet]:
        """Return a RST, unless all is over already."""
        if not self.is_over:
            yield self._make(direction, RST | ACK)
        self._ended |= {INBOUND, OUTBOUND}

    @staticmethod
    def _other(direction: Direction) -> Direction:
        return OUTBOUND if direction is INBOUND else INBOUND

    def _make(
        self, direction: Direction, flags: int, data: bytes = b"", options: bytes = b""
    ) -> Packet:
        other = self._other(direction)
        number = self._next[direction] & 0xFFFFFFFF
        answer = self._next[other] & 0xFFFFFFFF if flags & ACK else 0
        if flags & ACK:
            self._unacknowledged[other] = 0
        ports = self._ports[direction]
        words = (20 + len(options)) // 4 << 12 | flags
        window = 0xFFFF
        length = 20 + len(options) + len(data)
        begin = struct.pack("!HHIIHH", *ports, number, answer, words, window) + bytes(4)
        total = self._address_sum + length + sum_words(begin + options) + sum_words(data)
        checksum = struct.pack("!H", -total % 0xFFFF)
        segment = begin[:16] + checksum + begin[18:] + options + data
        return direction, self._ip_header(direction, length) + segment

    def _ip_header(self, direction: Direction, length: int) -> bytes:
        """Return the header of IPv4 (RFC 791) or IPv6 (RFC 8200); TCP is protocol 6."""
        addresses = self._addresses[direction]
        if self._is_ipv6:
            return struct.pack("!IHBB", 6 << 28, length, 6, 64) + addresses
        begin = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, 0x4000, 64, 6)  # 0x4000: whole
        return begin + struct.pack("!H", -sum_words(begin + addresses) % 0xFFFF) + addresses


# ==== 3. The file ========================================================================


IN_USE = "another server records into this file"
NO_CAPTURE = "it is a file of something else"  # an option's value may be a script by mistake


class CaptureFull(Exception):
    """The file has the size that it may have, and there are to be no more files."""


class CaptureFile:
    """Writes whole blocks into one file, or round and round into several.

    `play.pcapng` is the newest, `play.1.pcapng` the one before, and so on. They are locked, so that
    no two servers write into one file or turn one over.

    Args:
        path: of the file, or `-` for standard output.
        header: blocks that every file begins with.
        max_size: bytes of a file; 0: no limit.
        max_files: how many are kept; with 1 the recording ends when it is full.

    Raises:
        OSError: it cannot be opened, another server records into it, it holds something else, or it
            is to be turned over and is a pipe or a device, which a file would replace.
    """

    def __init__(self, path: str, header: bytes, *, max_size: int = 0, max_files: int = 1) -> None:
        self._path = Path(os.path.realpath(path))  # files stand beside what a link leads to
        self._to_output = path == "-"
        self._header = header
        self._max_size = max(max_size, MIN_FILE_SIZE) - TRAILER_SIZE if max_size else 0
        self._max_files = max_files
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._check_older()
        self._open()

    def _open(self) -> None:
        if self._to_output:
            self._descriptor = os.dup(1)
            os.dup2(2, 1)  # what a game prints must not get between the blocks
        else:
            self._descriptor = open_capture(self._path)
        if self._max_files > 1 and not self._is_regular():
            self.close()
            raise OSError(errno.EINVAL, "only a file can be turned over (--pcapfiles)")
        self._begin_file()

    def _begin_file(self) -> None:
        self._size = 0  # bytes in the file
        self._add(self._header)

    def _older_ones(self) -> list[Path]:
        """Return the older files that are there without a gap, the newest first."""
        names = map(self._older, range(1, self._max_files))
        return list(itertools.takewhile(os.path.lexists, names))

    def _check_older(self) -> None:
        """Raise an OSError if another server records into a file that is to be turned over."""
        for path in self._older_ones():
            try:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            except OSError:  # it is not there, or may not be read, so it is nothing of ours
                continue
            try:
                lock(descriptor, LOCK_TIMEOUT)
            finally:
                os.close(descriptor)

    def write(self, blocks: bytes) -> None:
        """Write blocks that belong together, into one file.

        Raises:
            CaptureFull: see `max_files`.
            OSError: they cannot be written.
        """
        after = self._size + self._waiting_size + len(blocks)
        if self._max_size and after > self._max_size:
            self.flush()
            self._rotate()
        self._add(blocks)
        if self._waiting_size >= WRITE_SIZE:
            self.flush()

    def write_trailer(self, block: bytes) -> None:
        """Write the last block, for which there is always room."""
        self._add(block)
        self.flush()

    def _add(self, blocks: bytes) -> None:
        self._waiting.append(blocks)
        self._waiting_size += len(blocks)

    def flush(self) -> None:
        """Hand what waits to the system in one piece.

        A kill in the middle of that may cut the last block off. Wireshark shows all before it.
        """
        blocks, self._waiting = self._waiting, []
        data = memoryview(b"".join(blocks))
        self._waiting_size = 0
        written = 0
        try:
            while written < len(data):  # a pipe may take it in parts
                written += write_patiently(self._descriptor, data[written:])
        except (OSError, MemoryError):
            if written and self._is_regular():
                ends = itertools.accumulate(map(len, blocks))
                whole = max((end for end in ends if end <= written), default=0)
                os.ftruncate(self._descriptor, self._size + whole)
            raise
        self._size += written

    def _is_regular(self) -> bool:
        return stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def _rotate(self) -> None:
        if self._max_files < 2:
            raise CaptureFull(f"{self._path} has reached its size")
        self._check_older()
        full, fresh = self._descriptor, self._older(0)
        self._descriptor = open_capture(fresh)
        for age in range(min(len(self._older_ones()), self._max_files - 2), 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._older(age).replace(self._older(age + 1))
        # Its name always leads to a file that we have locked, so that nobody else can take it.
        self._older(1).unlink(missing_ok=True)
        try:
            os.link(self._path, self._older(1))
        except OSError:  # this disk knows no second name for a file, or somebody removed it
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(self._older(1))
        fresh.replace(self._path)
        self._begin_file()
        os.close(full)  # locked until then

    def _older(self, age: int) -> Path:
        return self._path.with_suffix(f".{age}{self._path.suffix}")

    def close(self) -> None:
        """Close the file; what has not been flushed is lost."""
        os.close(self._descriptor)


def open_capture(path: Path) -> int:
    """Open a file to record into, empty and for us alone; return its descriptor.

    Raises:
        OSError: it cannot be opened, another server records into it, or it holds something else.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
    # A pipe that nobody reads is an error; else opening it would wait for a reader.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)  # it may hold keys
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            lock(descriptor)
            # Whoever had it may have turned it over before letting go: then this is an older one.
            if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                raise OSError(errno.EBUSY, IN_USE)
            if not is_capture(path):
                raise OSError(errno.EEXIST, NO_CAPTURE)
            os.ftruncate(descriptor, 0)
        os.set_blocking(descriptor, True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_capture(path: Path) -> bool:
    """Whether a file begins as a capture does, or is empty."""
    with path.open("rb") as file:
        return file.read(4) in (b"", struct.pack("!I", SECTION_HEADER))


def lock(descriptor: int, patience: float = 0.0) -> None:
    """Lock a file until it is closed, where the system and its disk know locks.

    Args:
        descriptor: of the file.
        patience: seconds to wait for one who has locked it only to find that it is not his.

    Raises:
        OSError: another server has locked it.
    """
    if not HAS_LOCKS:
        return
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(errno.EBUSY, IN_USE) from None
            time.sleep(0.002)
        except OSError as error:  # NFS, for one, may have none
            log.debug("a capture cannot be locked: %s", error)
            return
        else:
            return


# ==== 4. Keys ============================================================================


class KeyLog:
    """Gets the keys of TLS connections from OpenSSL, through a file that has no name.

    Its lines are in NSS key log format, as in the file of SSLKEYLOGFILE, which gets them, too.
    Nothing of it is left behind, however the server ends.

    Raises:
        OSError: there is no such way here.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("ab+", buffering=0)  # noqa: SIM115  # closed by close
        self._lock = threading.Lock()  # guards all below
        self._taken = 0  # bytes
        self._freed = 0  # of these, bytes that the disk has back
        self._left = False  # nobody takes lines any more, but for the copy
        self._under_way = 0  # connections that may yet write
        self._copy: IO[bytes] | None = None

    def watch(self, context: ssl.SSLContext) -> None:
        """Have the keys of this context's connections logged from now on."""
        copy = context.keylog_filename  # set from SSLKEYLOGFILE
        context.keylog_filename = f"/dev/fd/{self._file.fileno()}"
        if copy and self._copy is None:
            self._copy = open(copy, "ab", buffering=0)  # noqa: SIM115  # closed by close

    def begin(self) -> None:
        """Note that a connection begins its handshake."""
        with self._lock:
            self._under_way += 1

    def end(self) -> None:
        """Note that a handshake is over, or given up."""
        with self._lock:
            self._under_way -= 1
        if self._left:
            self.take()

    def leave(self) -> None:
        """Have all lines go to SSLKEYLOGFILE alone, as the recording has ended."""
        self._left = True
        self.take()

    def take(self) -> bytes:
        """Return the lines that have been added since the last time."""
        with self._lock:
            size = os.fstat(self._file.fileno()).st_size
            data = os.pread(self._file.fileno(), size - self._taken, self._taken)
            data = data[: data.rfind(b"\n") + 1]
            self._taken += len(data)
            if self._taken - self._freed >= KEYS_SIZE or not self._under_way:
                self._free()
            lines = [line for line in data.splitlines(True) if not line.startswith(b"#")]
            return self._pass_on(b"".join(lines))

    def _free(self) -> None:
        """Give the disk back what has been taken; while others write only Linux can do that."""
        if not self._under_way:
            if self._taken >= KEYS_SIZE:
                os.ftruncate(self._file.fileno(), 0)
                self._taken = self._freed = 0
        elif sys.platform == "linux":
            self._freed = self._taken
            with contextlib.suppress(ImportError, AttributeError):  # Python or libc without it
                import ctypes

                size = ctypes.c_long(self._taken)
                ctypes.CDLL(None).fallocate(self._file.fileno(), PUNCH_HOLE, ctypes.c_long(0), size)

    def _pass_on(self, lines: bytes) -> bytes:
        if self._copy is not None and lines:
            try:
                self._copy.write(lines)
            except OSError as error:
                log.error("keys are no longer written to SSLKEYLOGFILE: %s", error)
                self._copy.close()
                self._copy = None
        return lines

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        if self._copy is not None:
            self._copy.close()


# ==== 5. The recorder ====================================================================


class CapturedFlow(Flow):
    """One connection that is recorded.

    Args:
        tape: where to.
        stream: makes its packets; the tape's thread has it for itself.
        keys: of its TLS; None: it is not TLS.
        remark: for a comment on its first packet.
    """

    def __init__(self, tape: Tape, stream: TcpStream, keys: KeyLog | None, remark: str) -> None:
        super().__init__(tape)
        self.stream = stream
        self.remark = remark
        self.missing = (0, 0)  # records and bytes that its next packet is to tell of
        self.is_tls = keys is not None
        self.hello = b""  # the first bytes of TLS that have come
        self._keys = keys  # until the TLS handshake is over
        if keys is not None:
            keys.begin()
        self.note(Event.OPENED)

    def note(self, event: Event) -> None:
        """Note an event."""
        if self._keys is not None and event in _HANDSHAKE_OVER:
            self._keys.end()
            self._keys = None
        super().note(event)


_HANDSHAKE_OVER = (Event.SECURED, Event.CLOSED, Event.RESET)


class Recorder:
    """Records connections into a capture file, on a thread of its own.

    Args:
        path: of the file, or `-` for standard output.
        max_size: bytes of a file; 0: no limit.
        max_files: how many are kept; with 1 the recording ends when it is full.
        software: who writes the file.
        waits: who brings more than can be written waits for the disk, unless that takes nothing
            any more; or it is lost.
        tape_size: bytes that may wait to be written.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        path: str,
        *,
        max_size: int = 0,
        max_files: int = 1,
        software: str = "ScaleSocket",
        waits: bool = True,
        tape_size: int = TAPE_SIZE,
    ) -> None:
        header = encode_file_header(software)
        self._file = CaptureFile(path, header, max_size=max_size, max_files=max_files)
        self._keys: KeyLog | None = None
        self._unix_ports = itertools.cycle(UNIX_PORTS)  # `next` on it is atomic
        patience = PATIENCE if waits else 0.0
        self._tape = Tape("recorder", self._consume, limit=tape_size, patience=patience)
        # The thread has these for itself, until it has ended.
        self._held: dict[CapturedFlow, list[bytes]] = {}  # TLS handshakes, as blocks
        self._held_size = 0
        self._lines: dict[str, bytes] = {}  # of the key log, not written yet; by what names them
        self._offset = 0  # from the monotonic clock to the wall's, in nanoseconds
        self._last = 0  # the time of the last packet
        self._failed = False
        self._tape.start()

    def log_keys(self, context: ssl.SSLContext) -> None:
        """Put the keys of this context's connections into the file; before there are any.

        Raises:
            OSError: that cannot be done here.
        """
        if self._keys is None:
            self._keys = KeyLog()
        self._keys.watch(context)

    def open(self, peer: Address, local: Address | None, *, tls: bool = False) -> CapturedFlow:
        """Return where to tell what a new connection receives and sends.

        Args:
            peer: address and port of the client.
            local: those that it connected to; None: it came through a Unix socket, and gets
                addresses of its own.
            tls: it is encrypted.
        """
        remark = ""
        if local is None:
            peer, local = (UNIX_ADDRESS, next(self._unix_ports)), UNIX_LOCAL
            remark = "It came through a Unix socket; addresses and ports are made up."
        first = (random.getrandbits(32), random.getrandbits(32))
        stream = TcpStream(peer, local, first)
        return CapturedFlow(self._tape, stream, self._keys if tls else None, remark)

    def close(self) -> None:
        """Write what is left, say what was lost, and close the file."""
        finished = self._tape.stop()
        lost = self._tape.lost_records
        told = f"{lost} records of {self._tape.lost_bytes} bytes were lost; they came too fast"
        if lost:
            log.warning("recording: %s", told)
        if not finished:
            log.error("the recording breaks off: whoever takes it has stopped doing so")
            return
        try:
            if not self._failed:
                for flow in list(self._held):
                    self._release(flow)
                if self._lines:
                    self._file.write(encode_secrets(b"".join(self._lines.values())))
                self._finish(told if lost else "Nothing was lost.")
        except (CaptureFull, OSError) as error:
            log.error("the recording breaks off: %s", error)
            self._tell_full(error)
        self._file.close()
        if self._keys is not None:
            self._keys.close()

    def _finish(self, comment: str) -> None:
        statistics = encode_statistics(time.time_ns(), self._tape.lost_records, comment)
        self._file.write_trailer(statistics)

    def _tell_full(self, error: Exception) -> None:
        if isinstance(error, CaptureFull):
            with contextlib.suppress(OSError):
                self._finish("The file is full: the recording ends here, the traffic did not.")

    # -- the recorder's thread --

    def _consume(self, records: list[Record]) -> None:
        if self._failed:
            return
        self._set_clock()
        try:
            for record in records:
                self._record(record)
            self._file.flush()
        except (CaptureFull, OSError, MemoryError) as error:
            self._failed = True
            self._tape.stop()
            log.error("the recording ends: %s", str(error) or OUT_OF_MEMORY)
            if self._keys is not None:
                self._keys.leave()
            self._tell_full(error)

    def _set_clock(self) -> None:
        """Follow the wall's clock, so that packets get its time, but go back only if it was set."""
        offset = time.time_ns() - time.monotonic_ns()
        if abs(offset - self._offset) > 1_000_000:  # less is only noise
            if offset < self._offset - 1_000_000_000:
                self._last = 0
            self._offset = offset

    def _record(self, record: Record) -> None:
        at, flow, event, data, lost = record
        assert isinstance(flow, CapturedFlow)
        if lost:
            self._skip(flow, lost)
        self._last = max(self._last, at + self._offset)
        blocks = []
        for packet in make_packets(flow.stream, event, data):
            comment, dropped = self._tell(flow)
            blocks.append(encode_packet(packet, self._last, comment, dropped=dropped))
        if event is Event.OPENED and flow.is_tls:
            self._held[flow] = []
        if flow.is_tls and event is Event.RECEIVED and len(flow.hello) < RANDOM.stop:
            flow.hello += data[: RANDOM.stop]
        if flow in self._held:
            self._hold(flow, b"".join(blocks), event)
        else:
            if event is Event.SECURED:  # its packets could not wait for its keys
                self._write_with_keys(flow, b"")
            for block in blocks:
                self._file.write(block)

    @staticmethod
    def _skip(flow: CapturedFlow, lost: Lost) -> None:
        """Leave a gap for what is missing."""
        flow.stream.skip(INBOUND, lost.get(Event.RECEIVED, (0, 0))[1])
        flow.stream.skip(OUTBOUND, lost.get(Event.SENT, (0, 0))[1])
        records, size = flow.missing
        records += sum(count for count, _ in lost.values())
        flow.missing = records, size + sum(size for _, size in lost.values())

    @staticmethod
    def _tell(flow: CapturedFlow) -> tuple[str, int]:
        """Return a comment for the next packet of a connection, and what is missing before it."""
        comment, dropped = flow.remark, flow.missing[0]
        if dropped:
            comment = f"{flow.missing[1]} bytes before this packet were lost. {comment}".rstrip()
        flow.remark, flow.missing = "", (0, 0)
        return comment, dropped

    def _hold(self, flow: CapturedFlow, blocks: bytes, event: Event) -> None:
        """Hold packets back until the keys are there; but not for ever, and not too many."""
        held = self._held[flow]
        held.append(blocks)
        self._held_size += len(blocks)
        too_many = sum(map(len, held)) > MAX_HELD or self._held_size > MAX_HELD_TOGETHER
        if event in _HANDSHAKE_OVER or too_many:
            self._release(flow)

    def _release(self, flow: CapturedFlow) -> None:
        blocks = b"".join(self._held.pop(flow))
        self._held_size -= len(blocks)
        self._write_with_keys(flow, blocks)

    def _write_with_keys(self, flow: CapturedFlow, blocks: bytes) -> None:
        """Write packets behind the keys of their connection, into the same file.

        The keys of others are there, too. They wait for their own packets, but not for ever.
        """
        for line in self._keys.take().splitlines(True) if self._keys is not None else ():
            name = line.decode().partition(" ")[2][:64]
            self._lines[name] = self._lines.get(name, b"") + line
        lines = self._lines.pop(flow.hello[RANDOM].hex(), b"")
        while len(self._lines) > MAX_KEYS:
            lines += self._lines.pop(next(iter(self._lines)))
        self._file.write((encode_secrets(lines) if lines else b"") + blocks)


def make_packets(stream: TcpStream, event: Event, data: bytes) -> Iterable[Packet]:
    """Return the packets that an event amounts to."""
    if event is Event.RECEIVED:
        return stream.send(INBOUND, data)
    if event is Event.SENT:
        return stream.send(OUTBOUND, data)
    if event is Event.OPENED:
        return stream.open()
    if event is Event.PEER_ENDED:
        return stream.end(INBOUND)
    if event is Event.PEER_RESET:
        return stream.reset(INBOUND)
    if event is Event.RESET:
        return stream.reset(OUTBOUND)
    if event in (Event.ENDED, Event.CLOSED):
        return stream.end(OUTBOUND)
    return ()
