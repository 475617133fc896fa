"""Listening in on connections, for the recorder (`net/pcapng.py`) and the tracer (`net/trace.py`).

A tapped connection is served through a `TappedSocket`, and with TLS through a `TappedTls`: the
same classes as always, which also put what passes on a tape. Putting it there is all that a
reader or a room ever does for it; a thread of the tape's own makes packets or text of it.

    reader, room ... --> TappedSocket --> kernel
                              | Flow.received, Flow.sent: one append
                              v
                            Tape ----------- own thread -----------> consume(records)
                  bounded; when it is full: wait, or count             file or terminal

On a tape everything stands in the order in which it happened: a socket notes what it has sent
before anyone can note the answer to that, and the time of a record is when it is put there.

What comes faster than it is consumed is lost, and counted, or who brings it waits (`--pcapfull`):
under whatever locks it has, as consuming takes none of them, so that all play slows down to the
pace of the disk. A disk that takes nothing at all for `PATIENCE` seconds is waited for no longer.

A connection that is not tapped costs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from scalesocket import (
    KIB,
    Config,
    ConfigError,
    __version__,
    is_memory_error,
    parse_size,
    parser_of,
    refuse_if,
    wait_writable,
)

from .config import parse_list
from .tls import TlsTransport

if TYPE_CHECKING:
    import ssl

    from _typeshed import ReadableBuffer

    from scalesocket import Server

    from .pcapng import Recorder
    from .trace import Tracer

TAPE_SIZE = 16 * 1024 * 1024  # bytes that may wait to be consumed
RECORD_SIZE = 200  # bytes that a record costs beside its data, about
SLICE_SIZE = 256 * 1024  # bytes that are consumed at a time, and make room
PATIENCE = 2.0  # seconds to wait for a disk that takes nothing; below the usual --stall
GATHER_TIME = 0.02  # seconds; waking the thread for each record would slow down the game
STOP_TIMEOUT = 5.0  # seconds for what is on a tape to be consumed at the end
CHUNK_SIZE = 64 * 1024  # bytes of a file sent at once
# Whether to close with bytes unread resets a connection, as RFC 1122 section 4.2.2.13 asks.
RESETS_UNREAD = sys.platform == "linux"

Address: TypeAlias = tuple[str, int]


def parse_capture_size(text: str) -> int:
    """Return the size of a capture file: 0, or enough for the longest packet."""
    size = parse_size(text)
    if 0 < size < 64 * KIB:
        raise argparse.ArgumentTypeError(f"{text!r} is too small for a packet; 64K is the least")
    return size


parse_file = parser_of(r"(?s:.+)", "FILE", str)
parse_positive = parser_of(r"0*[1-9]\d{0,5}", "whole number from 1 on", int)
# fmt: off
OPTIONS = (
    ("--pcap", "FILE", parse_file, "record all traffic, for Wireshark; - is standard output"),
    ("--pcapsize", "SIZE", parse_capture_size, "most bytes of a file (default 0: any number)"),
    ("--pcapfiles", "NUM", parse_positive,
     "files to keep, the newest is FILE (default 1: recording ends when it is full)"),
    ("--pcapfull", "HOW", ("wait", "drop"),
     "if more comes than can be recorded: wait (default) slows play down, drop leaves packets out"),
    ("--trace", "[=LIST]", parse_list,
     "draw every frame in the terminal; LIST: only of these rooms and kinds (text, binary, "
     "continuation, close, ping, pong, handshake, http)"),
)
# fmt: on


def check_options(config: Config) -> None:
    """Refuse what is said about captures where there are none.

    Raises:
        ConfigError: there are none.
    """
    refuse_if(
        (config.pcapsize or config.pcapfiles > 1) and config.pcap in ("", "-"),
        "--pcapsize and --pcapfiles need --pcap with a FILE",
    )
    refuse_if(config.pcapfiles > 1 and not config.pcapsize, "--pcapfiles needs --pcapsize")
    refuse_if(config.pcapfull != "wait" and not config.pcap, "--pcapfull needs --pcap")


def write_patiently(descriptor: int, data: ReadableBuffer) -> int:
    """Write some of the data, and return how much that was.

    Standard output waits for its reader, also if whoever started us has made it non-blocking.
    """
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            wait_writable(descriptor, PATIENCE)


class Event(enum.Enum):
    """What happened to a connection."""

    OPENED = enum.auto()
    SECURED = enum.auto()  # its TLS handshake is over
    RECEIVED = enum.auto()
    SENT = enum.auto()
    PEER_ENDED = enum.auto()  # the peer sends nothing more
    PEER_RESET = enum.auto()
    ENDED = enum.auto()  # we send nothing more
    RESET = enum.auto()  # closed, and what was under way dropped
    CLOSED = enum.auto()


_RECEIVED, _SENT = Event.RECEIVED, Event.SENT

# What was lost because the tape was full: records and bytes, by kind of event.
Lost: TypeAlias = dict[Event, tuple[int, int]]
# Nanoseconds of the monotonic clock, whose connection, what, and its data; then what was lost of
# that connection just before.
Record: TypeAlias = "tuple[int, Flow, Event, bytes, Lost]"
_NOTHING: Lost = {}


class Tape:
    """What has been heard and is yet to be consumed.

    Args:
        name: of the thread.
        consume: takes records in the order of their times; on the tape's thread.
        limit: bytes that may wait.
        patience: seconds that a record which does not fit waits for room, as long as nothing is
            consumed meanwhile; then it is lost, and counted. 0: at once.
    """

    def __init__(
        self,
        name: str,
        consume: Callable[[list[Record]], None],
        *,
        limit: int = TAPE_SIZE,
        patience: float = 0.0,
    ) -> None:
        self._consume = consume
        self._limit = limit
        self._patience = patience
        self._lock = threading.Lock()  # guards all below, and `Flow.lost`
        self._changed = threading.Condition(self._lock)  # there are records, or it is over
        self._drained = threading.Condition(self._lock)  # it is half empty again, or it is over
        self._records: deque[Record] = deque()
        self._size = 0  # bytes that wait or are being consumed
        self._moved_at = 0.0  # when some were consumed, or there began to be some
        self._stopping = False
        self.lost_records = 0
        self.lost_bytes = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_behind(self) -> bool:
        """Whether the tape is half full."""
        return self._size > self._limit // 2

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, flow: Flow, event: Event, data: bytes) -> None:
        """Put a record on the tape, with the time, if there is room for it."""
        size = len(data) + RECORD_SIZE
        with self._lock:
            if not self._has_room(size, event):
                self._wait_for_room(size, event)
                if not self._has_room(size, event):
                    self._lose(flow, event, len(data))
                    return
            if self._stopping:
                return
            lost = _NOTHING
            if flow.lost:
                lost, flow.lost = flow.lost, {}
            if not self._size:
                self._moved_at = time.monotonic()
            self._records.append((time.monotonic_ns(), flow, event, data, lost))
            self._size += size
            if len(self._records) == 1:
                self._changed.notify()

    def miss(self, flow: Flow, event: Event, size: int) -> None:
        """Count a record of so many bytes as lost, for which there is no memory."""
        with self._lock:
            if not self._stopping:
                self._lose(flow, event, size)

    def stop(self) -> bool:
        """Take no more; return whether all that waited was consumed, in good time."""
        with self._lock:
            self._stopping = True
            self._changed.notify()
            self._drained.notify_all()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT)
        return not self._thread.is_alive()

    # -- under the lock --

    def _has_room(self, size: int, event: Event) -> bool:
        """Whether so much fits. What happened without data always does, almost: it is small."""
        limit = self._limit if event in (_RECEIVED, _SENT) else 2 * self._limit
        alone = not self._size and self._patience > 0  # waiting would bring no more room
        return self._size + size <= limit or alone or self._stopping

    def _wait_for_room(self, size: int, event: Event) -> None:
        while not self._has_room(size, event):
            patience = self._moved_at + self._patience - time.monotonic()
            if patience <= 0 or self._thread is threading.current_thread():
                return
            self._drained.wait(patience)

    def _lose(self, flow: Flow, event: Event, size: int) -> None:
        self.lost_records += 1
        self.lost_bytes += size
        records, bytes_ = flow.lost.get(event, (0, 0))
        flow.lost[event] = records + 1, bytes_ + size

    # -- its thread --

    def _run(self) -> None:
        while records := self._take():
            while records:
                piece, size = take_piece(records)
                self._consume(piece)
                with self._lock:
                    self._size -= size
                    self._moved_at = time.monotonic()
                    if not self.is_behind:
                        self._drained.notify_all()

    def _take(self) -> deque[Record]:
        """Wait for records, and a little for more; none: it is over."""
        with self._lock:
            while not self._records and not self._stopping:
                self._changed.wait()
            if not self._stopping:
                self._changed.wait(GATHER_TIME)
            records, self._records = self._records, deque()
        return records


def take_piece(records: deque[Record]) -> tuple[list[Record], int]:
    """Take about SLICE_SIZE bytes from the front, at least one record; return them and their size.

    They are let go of piece by piece, so that no more memory is held than counts.
    """
    piece, size = [], 0
    while records and size < SLICE_SIZE:
        record = records.popleft()
        piece.append(record)
        size += len(record[3]) + RECORD_SIZE
    return piece, size


class Flow:
    """What one connection puts on a tape. Its subclass holds what becomes of that.

    Args:
        tape: where to.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.lost: Lost = {}  # since the last record; guarded by the tape

    def received(self, data: bytes) -> None:
        """Note what has come, before anything is made of it."""
        self._tape.put(self, _RECEIVED, data)

    def sent(self, data: bytes) -> None:
        """Note what has been sent, before anything is made of an answer to it."""
        self._tape.put(self, _SENT, data)

    def note(self, event: Event) -> None:
        """Note any other event."""
        self._tape.put(self, event, b"")

    def miss(self, event: Event, size: int) -> None:
        """Count so many bytes as lost, which cannot be noted."""
        self._tape.miss(self, event, size)


class TappedSocket(socket.socket):
    """A socket that puts what passes through it on tapes, once `listen_in` has been called.

    Args:
        sock: connected; it is taken over, and must not be used any more.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self._flows: Sequence[Flow] = ()
        self._watchers: Sequence[Flow] = ()
        self._deaf = False  # what looks like the peer's end is none: we shut it, or it was a reset
        self._noted: set[Event] = set()  # but for bytes; each happens once
        # Held from before a `send` until that is noted, and while other things are: an answer,
        # which another thread may receive at once, is noted behind what it answers.
        self._order = threading.Lock()

    def listen_in(self, flows: Sequence[Flow], watchers: Sequence[Flow], early: bytes) -> None:
        """Begin.

        Args:
            flows: get every byte and every event.
            watchers: get the events only.
            early: what has been received already.
        """
        self._flows = flows
        self._watchers = (*flows, *watchers)
        if early:
            self._note_received(early)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive as a socket does."""
        try:
            data = super().recv(size, flags)
        except ConnectionResetError:
            with self._order:
                self._note_reset()
            raise
        if data:
            self._note_received(data)
        elif not self._deaf:
            with self._order:
                self._note(Event.PEER_ENDED)
        return data

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send as a socket does."""
        with self._in_order():
            count = super().send(data, flags)
            if count:
                self._note_sent((data,), count)
        return count

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send as a socket does. If that fails, it is not known how much of it has been sent."""
        with self._in_order():
            super().sendall(data, flags)
            self._note_sent((data,), memoryview(data).nbytes)

    def sendmsg(  # type: ignore[override]  # no ancillary data, no address: it is a stream
        self, buffers: Iterable[ReadableBuffer], ancillary: tuple[()] = (), flags: int = 0, /
    ) -> int:
        """Send several pieces as a socket does."""
        pieces = list(buffers)
        with self._in_order():
            count = super().sendmsg(pieces, ancillary, flags)
            if count:
                self._note_sent(pieces, count)
        return count

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a part of a file through this process, which the kernel could do alone."""
        file.seek(offset)
        sent = 0
        while count is None or sent < count:
            wanted = CHUNK_SIZE if count is None else min(CHUNK_SIZE, count - sent)
            data = file.read(wanted)
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    def shutdown(self, how: int, /) -> None:
        """Shut one side or both as a socket does."""
        if how != socket.SHUT_WR:
            self._deaf = True
        if how == socket.SHUT_RD:  # nothing to note, and nobody to wait for who is sending
            super().shutdown(how)
            return
        with self._order:
            try:
                super().shutdown(how)
            except OSError:  # so the kernel tells of a reset that nobody has heard of
                if Event.ENDED not in self._noted:
                    self._note_reset()
                raise
            self._note(Event.ENDED)

    def close(self) -> None:
        """Close as a socket does."""
        if self.fileno() >= 0:
            unread = bool(self._watchers) and not self._deaf and self._look_once_more()
            linger = self.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
            resets = linger == struct.pack("ii", 1, 0) or (unread and RESETS_UNREAD)
            self._note(Event.RESET if resets and not self._is_over() else Event.CLOSED)
        super().close()

    def _is_over(self) -> bool:
        """Whether there is nothing left to reset: both sides have ended, or the peer has reset."""
        both = {Event.PEER_ENDED, Event.ENDED} <= self._noted
        return both or Event.PEER_RESET in self._noted

    def _look_once_more(self) -> bool:
        """Note how the peer has ended, if nobody has heard of it; return whether bytes wait."""
        self.settimeout(0)
        error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        try:
            waiting = super().recv(1, socket.MSG_PEEK)
        except OSError:
            waiting = None
        if waiting == b"" and error != errno.ECONNRESET:
            self._note(Event.PEER_ENDED)
        if error in (errno.ECONNRESET, errno.EPIPE):  # EPIPE: behind the peer's end
            self._note_reset()
        return bool(waiting)

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        """Send; the first who uses a connection learns that the peer has reset it, and no other."""
        with self._order:
            try:
                yield
            except ConnectionResetError:
                self._note_reset()
                raise
            except BrokenPipeError:  # so the kernel tells of a reset behind the peer's end
                if Event.ENDED not in self._noted:
                    self._note_reset()
                raise

    def _note(self, event: Event) -> None:
        if event not in self._noted:
            self._noted.add(event)
            for flow in self._watchers:
                flow.note(event)

    def _note_reset(self) -> None:
        self._deaf = True
        self._note(Event.PEER_RESET)

    def _note_received(self, data: bytes) -> None:
        with self._order:
            for flow in self._flows:
                flow.received(data)

    def _note_sent(self, pieces: Sequence[ReadableBuffer], size: int) -> None:
        """Note the bytes that pieces begin with.

        They are on their way: an error would have them sent once more. So if there is no memory for
        a record, it is lost, and counted.
        """
        for flow in self._flows:
            try:
                flow.sent(take_start(pieces, size))
            except (MemoryError, RuntimeError) as error:
                if not is_memory_error(error):
                    raise
                flow.miss(_SENT, size)


def take_start(pieces: Sequence[ReadableBuffer], size: int) -> bytes:
    """Return so many bytes from the front of pieces; of whole `bytes` this makes no copy."""
    start = []
    for piece in pieces:
        if size <= 0:
            break
        start.append((piece if isinstance(piece, bytes) else memoryview(piece))[:size])
        size -= len(start[-1])
    return b"".join(start)


class TappedTls(TlsTransport):
    """TLS that puts what it encrypts and decrypts on tapes.

    Args:
        context: with the server's certificate.
        flows: get the plain bytes.
        watchers: only learn when the TLS handshake is over.
    """

    def __init__(
        self, context: ssl.SSLContext, flows: Sequence[Flow], watchers: Sequence[Flow]
    ) -> None:
        super().__init__(context)
        self._flows = flows
        self._watchers = (*flows, *watchers)

    def advance_handshake(self, data: bytes) -> tuple[bool, bytes]:
        """Take a step of the TLS handshake."""
        done, reply = super().advance_handshake(data)
        if done:
            for flow in self._watchers:
                flow.note(Event.SECURED)
        return done, reply

    def encrypt(self, data: bytes) -> bytes:
        """Return what is to be sent for data."""
        for flow in self._flows:
            flow.sent(data)
        return super().encrypt(data)

    def decrypt(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what received bytes hold, and what is to be sent because of them."""
        plain, reply = super().decrypt(data)
        if plain:
            for flow in self._flows:
                flow.received(plain)
        return plain, reply


class Taps:
    """All that listens in on a server's connections.

    Args:
        recorder: writes what crosses the wire into a file.
        tracer: prints what it means.
    """

    def __init__(self, *, recorder: Recorder | None = None, tracer: Tracer | None = None) -> None:
        self._recorder = recorder
        self._tracer = tracer

    def watch(self, context: ssl.SSLContext) -> None:
        """Have the keys of connections with this context recorded; call it before there are any.

        Raises:
            OSError: that cannot be done here.
        """
        if self._recorder is not None:
            self._recorder.log_keys(context)

    @staticmethod
    def wrap(sock: socket.socket) -> TappedSocket:
        """Return what a connection is to be served through, in place of its socket.

        Args:
            sock: just accepted; it must not be used any more, nor closed.
        """
        return TappedSocket(sock)

    def begin(
        self,
        sock: socket.socket,
        peer: Address,
        context: ssl.SSLContext | None = None,
        *,
        early: bytes = b"",
        lines: bool = False,
    ) -> TlsTransport | None:
        """Listen in from now on; return what encrypts, if anything does.

        Args:
            sock: from `wrap`; nothing has been sent.
            peer: its address and port.
            context: of TLS; None: it is not used.
            early: what has been received already.
            lines: it speaks lines of text, which are recorded, but not traced.
        """
        assert isinstance(sock, TappedSocket)
        wire: list[Flow] = []
        plain: list[Flow] = []
        if self._recorder is not None:
            name = sock.getsockname()
            local = name[:2] if isinstance(name, tuple) else None
            wire.append(self._recorder.open(peer, local, tls=context is not None))
        if self._tracer is not None and not lines:
            plain.append(self._tracer.open(peer))
        if context is None:
            sock.listen_in(wire + plain, (), early)
            return None
        sock.listen_in(wire, plain, early)
        return TappedTls(context, plain, wire)

    def close(self) -> None:
        """Have what has been heard written out, and end."""
        for listener in (self._recorder, self._tracer):
            if listener is not None:
                listener.close()


def set_up(server: Server) -> None:
    """Have a server listen in on its connections from when it listens for them."""
    server.make_taps = lambda: make_taps(server.config, server.tls_context)


def make_taps(config: Config, context: ssl.SSLContext | None) -> Taps:
    """Return what listens in on connections (--pcap, --trace), and records the keys of TLS.

    Raises:
        ConfigError: it cannot.
    """
    recorder = tracer = None
    try:
        if config.pcap:
            from .pcapng import Recorder

            if config.pcap == "-" and sys.stdout.isatty():
                raise ConfigError("--pcap - writes bytes, and not to a terminal")
            recorder = Recorder(
                config.pcap,
                max_size=config.pcapsize,
                max_files=config.pcapfiles,
                waits=config.pcapfull == "wait",
                software=f"ScaleSocket {__version__}",
            )
        if config.trace is not None:
            from .trace import Tracer

            stream = sys.stderr if config.pcap == "-" else sys.stdout
            tracer = Tracer(stream, config.trace, base=config.basepath)
    except OSError as error:
        raise ConfigError(f"--pcap {config.pcap}: {error.strerror or error}") from None
    taps = Taps(recorder=recorder, tracer=tracer)
    try:
        if context is not None:
            taps.watch(context)
    except OSError as error:
        raise ConfigError(f"cannot record the keys of TLS here: {error}") from None
    return taps
