"""Several processes behind one port (`--workers`), each of which has some of the rooms.

All of them accept from the same listeners. A connection says only in its request whose it is, so
whoever accepted it reads that, and hands it on through the owner's channel: the descriptor, and
what has been read.

    client --connects, asks for a room--> any worker
                                            |  descriptor, address, bytes read
                                            v
                       channel (SOCK_SEQPACKET), which the parent holds open, too
                                            |
                                            v
                                   the worker that has the room --101--> client

Which worker has a room, a hash of its name says, the same in all of them; so two clients of a room
meet, and nobody has to keep a list. The parent holds the channels open, so what is handed to a
worker that has just crashed waits there for the next one.

The parent serves nobody. It forks workers before it has any thread, forks one anew in the place of
each that ends, and passes signals on; those that anybody else sends a worker are not heeded there.
It also holds a second descriptor of each client, so that those of a worker that has crashed get a
Close (1012), which nobody else could send any more. Linux leaves it the programs of such a worker,
and it stops them.

A connection under TLS cannot be handed over: its keys and sequence numbers are inside of the
OpenSSL of the process that shook hands, and before that handshake nobody can know the room.
"""

from __future__ import annotations

import array
import contextlib
import errno
import functools
import itertools
import json
import os
import re
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.parse
import zlib
from typing import TYPE_CHECKING, Any, NoReturn

from scalesocket import (
    MAX_HEAD,
    MIB,
    RECEIVE_SIZE,
    STOP_STEPS,
    CloseCode,
    Config,
    ConfigError,
    HandshakeError,
    Headers,
    HttpSession,
    Listener,
    Opcode,
    Request,
    Response,
    Session,
    Want,
    encode_close,
    encode_frame,
    error_response,
    json_response,
    log,
    parse_room_name,
    parser_of,
    refuse_if,
    report_shortage,
    start_thread,
)

from . import pages, pipes
from .children import choose_backend
from .descendants import adopt, list_orphans
from .lines import LINES, LineSession
from .logs import finish_log
from .signals import once
from .threads import return_memory

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Collection,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from types import FrameType

    from scalesocket import Endpoint, HttpSite, Life, Server

# What comes through a channel, and for how many seconds it waits until there is room. A question
# waits hardly: a worker that has so many before it gives no answer in time.
KINDS = {"http": 5.0, "lines": 5.0, "question": 0.1}
MAX_HANDED = MAX_HEAD + 2 * RECEIVE_SIZE + 4096  # bytes: request, what came with it, an address
ANSWER_TIMEOUT = 1.0  # seconds for all workers together
PEER_TIMEOUT = 0.4  # seconds, if another node asks: less than it waits (net/relay.py, net/peers.py)
MAX_ANSWER = 64 * MIB  # bytes of one worker
FAREWELL_TIMEOUT = 2.0  # seconds for a client to take its Close
RESTART_PAUSE = 1.0  # seconds between two starts of a worker
KILL_TIMEOUT = 5.0  # seconds that a worker has to end in, after a second signal
UNTOLD_PAUSE = 0.1  # seconds until the parent is told again what it did not take
NO_ANSWER = "the process that has this room does not answer"
CRASHED = "the process that had this room has ended"
OVER = b"over"  # of what a worker says to the parent: it takes no connection any more
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

parse_workers = parser_of(r"0*([1-9]\d?|1[01]\d|12[0-8])", "whole number from 1 to 128", int)
# fmt: off
OPTIONS = (
    ("--workers", "NUM", parse_workers,
     "processes to spread the rooms over (default 1; one for each core is a good number)"),
)
# fmt: on


def check_options(config: Config) -> None:
    """Refuse what cannot be done by several processes.

    Raises:
        ConfigError: one of the options asks for it.
    """
    refuse_if(not hasattr(socket, "send_fds"), "--workers needs a POSIX system")
    for name in ("oneshot", "pcap", "trace", "console"):
        if getattr(config, name) not in (False, "", None):
            raise ConfigError(f"--workers and --{name} exclude each other")
    if config.sslcert is not None:
        raise ConfigError(
            "--workers takes no --sslcert: a connection under TLS cannot be handed to the process "
            "that has its room; let a proxy speak TLS (--print-config nginx)"
        )
    ports = config.tcpports[1] - config.tcpports[0] + 1
    if config.tcp and ports < config.workers:
        raise ConfigError(f"--tcpports has {ports} ports for {config.workers} workers")


# ==== 1. A worker ========================================================================


class ChannelListener(Listener):
    """Takes what other workers hand over, as if it had been accepted here."""

    def accept(self) -> tuple[socket.socket, Endpoint, bytes]:
        """Return a socket, its peer's address, and what has been read from it already.

        It is looked at before it is taken: without a descriptor left for it here, it waits.

        Raises:
            BlockingIOError: nothing waits.
            OSError: this process may have no more descriptors.
        """
        space = socket.CMSG_LEN(array.array("i").itemsize)  # `recv_fds` would take no flags
        data, ancillary, _, _ = self._socket.recvmsg(MAX_HANDED, space, socket.MSG_PEEK)
        if not ancillary:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        (descriptor,) = array.array("i", ancillary[0][2])
        sock = socket.socket(fileno=descriptor)
        self._socket.recv(1)  # the rest of it goes, too, and so does its second descriptor
        sock.setblocking(True)  # its mode is that of the process which had it
        address, _, early = data.partition(b"\n")
        host, port = json.loads(address)
        return sock, (host, port), early


class Worker:
    """One of the processes, as its own server sees it.

    Args:
        index: from 0 on.
        channels: of all workers, by kind, each as its two ends: where to take from, and where to
            hand over.
        parent: a socket to it, on which it says what signals it passes on; at its end, that process
            is gone.
        first_client: the ID of the first client here; those of others lie between.
        client_ids: of many nodes, if there are (net/shared_rooms.py).
    """

    def __init__(
        self,
        index: int,
        channels: Sequence[dict[str, tuple[socket.socket, socket.socket]]],
        parent: socket.socket,
        first_client: int,
        client_ids: Iterator[int] | None,
    ) -> None:
        self._index = index
        self._insides = {kind: inside for kind, (inside, _) in channels[index].items()}
        self._outsides = [
            {kind: outside for kind, (_, outside) in pairs.items()} for pairs in channels
        ]
        self._others = [other for other in range(len(channels)) if other != index]
        self._parent = parent
        self._parent.setblocking(False)
        self._parent_pid = os.getppid()
        self._lock = threading.Lock()  # guards all below, and the order of what the parent is told
        # What it could not be told at once, each with a descriptor, or -1, by the client's number.
        self._untold: dict[int, tuple[bytes, int]] = {}
        self._is_timed = False  # it will be tried again
        self.client_ids = client_ids or itertools.count(first_client, len(channels))

    def join(self, server: Server) -> None:
        """Have a server be one of several that have the same listeners; before it runs."""
        server.worker, server.site.gather = self, self.gather
        server.say = log.debug  # the parent tells the operator
        server.takers.insert(0, self.take)
        server.registry.client_ids = self.client_ids
        if server.config.command and server.config.tcp:
            config = server.config.replace(tcpports=self.share_ports(server.config.tcpports))
            server.registry.make_backend = choose_backend(config)
        server.opened.pop_all()  # they are not its own to close, nor is the file
        server.before_end.insert(0, self._say_over)
        self._site, self._timer = server.site, server.poller

    def share_ports(self, ports: tuple[int, int]) -> tuple[int, int]:
        """Return this worker's part of a range of ports."""
        first, last = ports
        size = (last - first + 1) // len(self._outsides)
        begin = first + self._index * size
        return begin, max(begin, begin + size - 1)

    # -- connections --

    def find_owner(self, room: str) -> int:
        """Return the index of the worker that has a room; all of them say the same."""
        return zlib.crc32(room.encode()) % len(self._outsides)

    def owns(self, room: str) -> bool:
        """Whether this worker has a room."""
        return self.find_owner(room) == self._index

    def take(
        self, session: HttpSession, request: Request, _peer: Endpoint, *, secure: bool
    ) -> Generator[Want, Any, bool]:
        """Give a client to the worker that has its room; return False if that is this one.

        Raises:
            HandshakeError: 400, it names no room; or see `hand_over`.
        """
        came = b"".join((session.proxied, session.head, b"\r\n\r\n", session.rest))
        return (yield from self.hand_over(session, parse_room_name(request.path), came))

    def hand_over(self, session: Session, room: str, data: bytes) -> Generator[Want, Any, bool]:
        """Give a connection to the worker that has its room; return False if that is this one.

        Args:
            session: of the connection; it must not touch the socket any more, but to close it.
            room: its name.
            data: what has been read: a PROXY header, the request, and what is behind it.

        Raises:
            HandshakeError: 503, that worker takes none.
        """
        if self.owns(room):
            return False
        yield Want.HELPER
        self._pass(self.find_owner(room), session.KIND, session.sock, session.address, data)
        return True

    def _pass(
        self, owner: int, kind: str, sock: socket.socket, address: Endpoint, data: bytes
    ) -> None:
        message = json.dumps(address).encode() + b"\n" + data
        try:
            socket.send_fds(self._outsides[owner][kind], [message], [sock.fileno()])
        except OSError as error:
            report_shortage(f"worker {owner} takes no connection: {error}")
            raise HandshakeError(503, NO_ANSWER, ("Retry-After", "1")) from None

    def open_channels(self, server: Server) -> list[Listener]:
        """Return what takes connections and questions from other workers; stop with the parent."""
        self._watch_parent(server)
        kinds = {"http": HttpSession, "lines": LineSession, "question": QuestionSession}
        return [ChannelListener(self._insides[kind], server, kinds[kind]) for kind in KINDS]

    # -- the parent --

    def _watch_parent(self, server: Server) -> None:
        """Stop when the parent has ended, however it did: that is as good as a first signal."""
        end = select.poll()
        end.register(self._parent, 0)  # what it says meanwhile is for the signal handler

        def watch() -> None:
            end.poll()
            server.stopping = True
            server.stop()

        start_thread("parent", watch)

    def heed(self, handler: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
        """Return a signal handler that calls another one for what the parent passes on, only.

        Who stops all processes of a service or of a name (systemd, `pkill`) sends every worker a
        signal, too. With the parent's that would be two, and a second one cuts all off. So the
        parent says which it passes on, before it sends it.
        """
        handler = getattr(handler, "__wrapped__", handler)  # see `once`; of these there is no echo

        def on_signal(number: int, frame: FrameType | None) -> None:
            if os.getppid() != self._parent_pid:  # it is gone, or a game has forked this process
                handler(number, frame)
                return
            with contextlib.suppress(OSError):  # that was all
                while told := self._parent.recv(1, socket.MSG_DONTWAIT):
                    handler(told[0], frame)

        return on_signal

    def vouch(self, session: Session, number: int) -> None:
        """Have the parent say farewell to a client if this process ends before its session.

        Args:
            session: whose connection has been opened.
            number: of a client; the parent lets none come again that it has heard of.
        """
        connection = session.connection
        lines = connection.encoding is LINES  # it knows no Close frames
        close = encode_frame(Opcode.CLOSE, encode_close(CloseCode.SERVICE_RESTART, CRASHED))
        message = b"%d\n%b" % (number, b"" if lines else close)
        forget = functools.partial(self._tell_parent, number, b"%d" % number)
        session.at_end.append(forget)  # first, as there may be no memory for it
        self._tell_parent(number, message, connection.fileno())

    def _say_over(self) -> None:
        """Have nobody wait for this process, which has closed its listeners, but may end late."""
        self._tell_parent(0, OVER)

    def _tell_parent(self, number: int, message: bytes, descriptor: int = -1) -> None:
        """Tell the parent something of a client; if it takes nothing now, in a while.

        It may be stopped, or slow, and nobody waits for it here. Of who has left before it could
        be told of it, it hears nothing.
        """
        with self._lock:
            if self._untold.get(number, (b"", -1))[1] >= 0:
                os.close(self._untold.pop(number)[1])
            elif self._untold or not self._send_parent(message, descriptor):
                with contextlib.suppress(OSError):  # no descriptor is left: it is not to know
                    kept = os.dup(descriptor) if descriptor >= 0 else descriptor
                    self._untold[number] = message, kept
                    self._try_later()

    def _send_parent(self, message: bytes, descriptor: int) -> bool:
        """Return whether the parent has taken a message; the lock is held."""
        try:
            if descriptor < 0:
                self._parent.send(message)
            else:
                socket.send_fds(self._parent, [message], [descriptor])
        except BlockingIOError:
            return False
        except OSError:  # it has gone, and this process will
            pass
        return True

    def _try_later(self) -> None:
        if not self._is_timed:
            self._timer.call_later(UNTOLD_PAUSE, self._tell_rest)
            self._is_timed = True

    def _tell_rest(self) -> None:
        """Tell the parent what it could not be told before; on the poller's thread."""
        with self._lock:
            self._is_timed = False
            while self._untold:
                number, (message, descriptor) = next(iter(self._untold.items()))
                if not self._send_parent(message, descriptor):
                    self._try_later()
                    return
                del self._untold[number]
                if descriptor >= 0:
                    os.close(descriptor)

    # -- questions --

    def gather(self, request: Request) -> Response:
        """Answer for all workers what each knows of itself: metrics, or for the API.

        Another node, which does not wait for long, is answered before it takes this whole one for
        silent, because a single worker is: it would open the rooms of all the others, too.

        Raises:
            HandshakeError: there is no such room or metric, or its worker does not answer.
        """
        room = urllib.parse.unquote(request.path.removeprefix("/api/").partition("/")[0])
        if request.path.rstrip("/") == "/metrics":
            told = self._ask(self._others, request.target, ANSWER_TIMEOUT)
            told[self._index] = tell(self._site, request)
            text = merge_metrics({index: told[index].body.decode() for index in sorted(told)})
            return Response(200, text.encode(), content_type=told[self._index].content_type)
        if request.path.rstrip("/") == "/api/rooms":
            is_local = request.query.partition("=")[0] == "local"
            wanted = urllib.parse.parse_qs(request.query).get("room", [""])[0]
            timeout = PEER_TIMEOUT if is_local else ANSWER_TIMEOUT
            if is_local and wanted:  # a peer looks for it
                return self._ask_owner(wanted, request, timeout)
            question = request.target if is_local else "/api/rooms/?local"
            answers = self._ask(self._others, question, timeout)
            responses = [tell(self._site, request), *answers.values()]
            listings = [response.body.decode()[1:-1] for response in responses]
            return json_response(f"[{', '.join(filter(None, listings))}]")
        return self._ask_owner(room, request, ANSWER_TIMEOUT)

    def _ask_owner(self, room: str, request: Request, timeout: float) -> Response:
        """Return what the worker says that has a room; no room: this one."""
        owner = self.find_owner(room) if room else self._index
        if owner == self._index:
            return tell(self._site, request)
        if response := self._ask([owner], request.target, timeout).get(owner):
            return response
        raise HandshakeError(503, NO_ANSWER, ("Retry-After", "1"))

    def _ask(self, workers: Sequence[int], target: str, timeout: float) -> dict[int, Response]:
        """Return what each of these workers answers in time; none is waited for alone."""
        deadline = time.monotonic() + timeout
        answers = {}
        with contextlib.ExitStack() as open_sockets:
            for index in workers:
                here, there = socket.socketpair()
                open_sockets.enter_context(here)
                with there, contextlib.suppress(HandshakeError):
                    self._pass(index, "question", there, ("", 0), target.encode())
                    answers[index] = here
            told = {}
            for index, data in receive_answers(answers, deadline):
                with contextlib.suppress(ValueError):
                    told[index] = decode_answer(data)
        return told


class QuestionSession(Session):
    """A question of another worker, which comes with a socket for the answer."""

    KIND = "question"

    def live(self) -> Life:
        """Answer for this process alone."""
        try:
            yield Want.HELPER  # the other one need not take the answer at once
            self.sock.settimeout(ANSWER_TIMEOUT)
            try:
                request = Request("GET", self.rest.decode(), "HTTP/1.1", Headers())
                response = tell(self.server.site, request)
            except HandshakeError as error:
                response = error_response(error)
            self.sock.sendall(encode_answer(response))
        finally:
            self.end()


def tell(site: HttpSite, request: Request) -> Response:
    """Return what this process knows, of metrics or for the API.

    Raises:
        HandshakeError: 404, nothing.
    """
    if (part := site.find_part(request.path)) is None:
        raise HandshakeError(404, "nothing here")
    return part.respond(request)


def receive_answers(
    sockets: Mapping[int, socket.socket], deadline: float
) -> Iterator[tuple[int, bytes]]:
    """Yield what comes of each up to its end, if that is in time, and not too much."""
    answers = {index: bytearray() for index in sockets}
    with selectors.PollSelector() as selector:
        for index, sock in sockets.items():
            selector.register(sock, selectors.EVENT_READ, index)
        while selector.get_map() and (seconds := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(seconds):
                index, data = key.data, b""
                with contextlib.suppress(ConnectionError):
                    data = sockets[index].recv(RECEIVE_SIZE)
                answers[index] += data
                if not data or len(answers[index]) > MAX_ANSWER:
                    selector.unregister(sockets[index])
                if not data:
                    yield index, bytes(answers[index])


def encode_answer(response: Response) -> bytes:
    """Return what one worker sends another as an answer."""
    kind, body = response.content_type.encode(), response.body
    return b"%d %d %b\n%b" % (len(body), response.status, kind, body)


def decode_answer(data: bytes) -> Response:
    """Return the response in an answer.

    Raises:
        ValueError: it is cut off.
    """
    head, _, body = data.partition(b"\n")
    size, status, content_type = head.decode().split(" ", 2)
    if len(body) != int(size):  # that worker has ended, or it took too long
        raise ValueError(f"{len(body)} bytes of {size}")
    return Response(int(status), body, content_type=content_type)


def label_sample(line: str, worker: int) -> str:
    """Return a sample with a label `worker`, before those that it has."""
    name, mark, rest = re.split("([{ ])", line, maxsplit=1)
    return f'{name}{{worker="{worker}"{"," if mark == "{" else "} "}{rest}'


def merge_metrics(texts: dict[int, str]) -> str:
    """Return the metrics of all workers as one text, each sample with a label `worker`.

    They are not summed up: a counter that begins anew with its worker must be seen to.

    Args:
        texts: in the OpenMetrics text format, by worker.
    """
    families: dict[str, list[str]] = {}  # what stands above the samples, and these
    for worker, text in texts.items():
        for family in re.split(r"(?m)^(?=# TYPE )", text.removesuffix("# EOF\n"))[1:]:
            lines = family.splitlines()
            head = "\n".join(line for line in lines if line.startswith("#"))
            families.setdefault(head, []).extend(
                label_sample(line, worker) for line in lines if not line.startswith("#")
            )
    text = "".join("\n".join((head, *samples, "")) for head, samples in families.items())
    return f"{text}# EOF\n"


# ==== 2. The parent ======================================================================


def set_up(server: Server) -> None:
    """Have a server run as several processes.

    What a server loads late is loaded before the first of them is forked: they share its memory,
    and one that is forked after an upgrade has no modules of another version.
    """
    server.run_all = Supervisor(server, server.config.workers).run
    pages.load()
    if server.config.command:
        pipes.load()
    return_memory()


class WorkerProcess:
    """What the parent keeps of one worker, from its start to its end.

    Attributes:
        pid: of the process.
        line: what the worker says of its clients, and is told of signals. What a game has forked
            may hold it, too.
        started: when, on the monotonic clock.
        clients: of each client a second descriptor, and its farewell.
        is_over: it takes no connection any more.
    """

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self.line = line
        self.started = time.monotonic()
        self.clients: dict[int, tuple[socket.socket, bytes]] = {}
        self.is_over = False


class Supervisor:
    """Runs a server as several processes. It has one thread, so that it may fork at any time.

    Args:
        server: it has not listened yet. Each worker has a copy of it, which runs; this one only
            keeps the listeners open.
        count: of workers.

    Raises:
        ConfigError: the system has no sockets for that, or not so many.
    """

    def __init__(self, server: Server, count: int) -> None:
        self._server = server
        try:
            with contextlib.ExitStack() as opened:  # what can be had is known before it listens
                for _ in range(len(KINDS) * count + 4):  # all channels, and some for the rest
                    for sock in make_channel():
                        opened.enter_context(sock)
        except OSError as error:
            raise ConfigError(f"--workers cannot be had here: {error.strerror}") from None
        self._channels: list[dict[str, tuple[socket.socket, socket.socket]]] = []
        ids = server.registry.client_ids
        self._shared_ids = None if isinstance(ids, itertools.count) else ids  # those of many nodes
        first = 1 if self._shared_ids else next(ids)
        self._next_client = list(range(first, first + count))
        self._processes: dict[int, WorkerProcess] = {}  # by index
        self._due: dict[int, float] = {}  # when a worker is to be started, by index
        self._leaving: dict[socket.socket, float] = {}  # clients, and when patience with them ends
        self._adopts = False  # programs of a worker that has ended are left to this process
        self._orphans: dict[int, list[tuple[float, int]]] = {}  # those, and what is to be done
        self._steps: tuple[tuple[int, float], ...] = STOP_STEPS  # to stop them
        self._signals: list[int] = []  # to be passed on
        self._kill_at: float | None = None  # when workers that hang are killed
        self._stopping = False
        self._failed = False

    def run(self) -> int:
        """Serve until a signal comes, and all workers have ended; return the exit status."""
        self._channels = [make_channels() for _ in self._next_client]
        handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        woken, signal_end = socket.socketpair()
        signal_end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(woken, selectors.EVENT_READ, lambda: woken.recv(RECEIVE_SIZE))
        signal.set_wakeup_fd(signal_end.fileno(), warn_on_full_buffer=False)
        on_signal = once(lambda number, _frame: self._signals.append(number))
        for number in SIGNALS:
            if handlers[number] == handlers[signal.SIGTERM]:  # or it is ignored (`nohup`)
                signal.signal(number, on_signal)
        handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        if not self._server.stopping:  # a signal was faster
            self._due = dict.fromkeys(range(len(self._channels)), 0.0)
            log.info("%d workers share the rooms", len(self._channels))
        self._adopts = bool(self._server.config.command) and adopt()
        with woken, signal_end, self._selector:
            while self._processes or self._due or self._leaving or any(self._orphans.values()):
                self._start_due(handlers)
                for key, _ in self._selector.select(self._find_patience()):
                    key.data()
                if self._reap() or self._orphans:
                    self._stop_orphans()
                self._pass_signals()
                self._kill_hanging()
                self._forget_leaving()
            signal.set_wakeup_fd(-1)
        self._server.opened.close()
        self._close_channels(range(len(self._channels)))
        for pairs in self._channels:
            for _, outside in pairs.values():
                outside.close()
        log.info("stopped")
        return int(self._failed)

    def _find_patience(self) -> float | None:
        steps = [plan[0][0] for plan in self._orphans.values() if plan]
        kill = [self._kill_at] if self._kill_at is not None else []
        times = [*self._due.values(), *self._leaving.values(), *steps, *kill]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _pass_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if not self._stopping:
                self._stopping = True
                log.info("stopping")
                self._due.clear()
                self._refuse_for_ended()
            elif number != signal.SIGHUP:  # no more patience
                self._steps, self._orphans = STOP_STEPS[-1:], {}
                self._stop_orphans()
                self._kill_at = self._kill_at or time.monotonic() + KILL_TIMEOUT
            for process in self._processes.values():
                with contextlib.suppress(OSError):  # it ends, or has not heard of many
                    process.line.send(bytes([number]))
                os.kill(process.pid, number)  # it has not been waited for, so it is still this one

    def _kill_hanging(self) -> None:
        """Kill those that a second signal has not ended: they hang, and hear of none."""
        if self._kill_at is not None and self._kill_at <= time.monotonic():
            self._kill_at = None
            for index, process in self._processes.items():
                log.error("worker %d (process %d) hangs, and is killed", index, process.pid)
                os.kill(process.pid, signal.SIGKILL)

    # -- workers --

    def _start_due(self, handlers: Mapping[int, Any]) -> None:
        for index in [index for index, due in self._due.items() if due <= time.monotonic()]:
            try:
                self._start(index, handlers)
            except OSError as error:
                report_shortage(f"cannot start worker {index}: {error}")
                self._due[index] = time.monotonic() + RESTART_PAUSE
            else:
                del self._due[index]

    def _start(self, index: int, handlers: Mapping[int, Any]) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        # Until it has its own handlers, a signal must wait: ours would lose it.
        with there, blocked(SIGNALS):
            try:
                pid = os.fork()
            except OSError:
                here.close()
                raise
            if pid == 0:
                # ^C in a terminal goes to the parent alone, which passes it on. A group of its own
                # in the same session would be stopped as it logs (`stty tostop`).
                os.setsid()
                here.close()
                first = self._next_client[index]
                worker = Worker(index, self._channels, there, first, self._shared_ids)
                self._become(worker, index, handlers)
        process = self._processes[index] = WorkerProcess(pid, here)
        self._selector.register(here, selectors.EVENT_READ, lambda: self._listen(index, process))
        log.debug("worker %d is process %d", index, pid)

    def _become(self, worker: Worker, index: int, handlers: Mapping[int, Any]) -> NoReturn:
        """Be that worker, in a process that has just been forked."""
        status = 1
        try:
            self._close_all_but(index)
            for number, handler in handlers.items():
                is_passed = handler == handlers[signal.SIGTERM]
                signal.signal(number, worker.heed(handler) if is_passed else handler)
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                worker.join(self._server)
                self._server.run()
                status = 0
            except KeyboardInterrupt:  # a second signal
                self._server.kill()
        except BaseException:
            traceback.print_exc()
        finally:
            finish_log()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)  # the stack above is the parent's

    def _close_all_but(self, index: int) -> None:
        """Close what only the parent, or another worker, is to have."""
        self._close_channels(other for other in range(len(self._channels)) if other != index)
        for process in self._processes.values():
            process.line.close()
            for sock, _ in process.clients.values():
                sock.close()
        for sock in self._leaving:
            sock.close()
        self._selector.close()

    def _listen(self, index: int, process: WorkerProcess) -> None:
        """Note what a worker says: a client that has come or gone; that it is over."""
        try:
            data, descriptors, _, _ = socket.recv_fds(process.line, 256, 1)
        except ConnectionResetError:  # it has ended without hearing of a signal; its words follow
            return
        if not data:  # it is about to end
            self._hang_up(process)
            return
        if data == OVER:
            process.is_over = True
            self._refuse_for_ended()
            log.debug("worker %d takes no more connections", index)
            return
        number, _, farewell = data.partition(b"\n")
        client = int(number)
        if b"\n" in data:
            self._next_client[index] = max(self._next_client[index], client + len(self._channels))
        if descriptors:
            process.clients[client] = socket.socket(fileno=descriptors[0]), farewell
        elif client in process.clients:  # it is not if there was no descriptor left for it
            process.clients.pop(client)[0].close()

    def _hang_up(self, process: WorkerProcess) -> None:
        if process.line.fileno() >= 0:
            self._selector.unregister(process.line)
            process.line.close()

    def _reap(self) -> bool:
        """Go on without the workers that have ended; return whether any child has."""
        reaped = False
        with contextlib.suppress(ChildProcessError):  # there is none any more
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                reaped = True
                for index in [i for i, p in self._processes.items() if p.pid == ended[0]]:
                    self._bury(index, self._processes.pop(index), ended[1])
        return reaped

    def _stop_orphans(self) -> None:
        """Stop what workers that have ended left behind, step by step, as rooms stop programs.

        Each has a plan from when it is first seen: when to send it which signal. Who outlives that
        cannot be stopped, and is not waited for. There are new ones only after a child has ended.
        """
        now, grace = time.monotonic(), self._server.config.closegrace
        workers = {process.pid for process in self._processes.values()}
        before, self._orphans = self._orphans, {}
        for pid in set(list_orphans()) - workers if self._adopts else ():
            if (plan := before.get(pid)) is None:
                log.debug("process %d is left of a worker, and is stopped", pid)
                ends = itertools.accumulate((p + grace for _, p in self._steps), initial=now)
                plan = list(zip(ends, (*(number for number, _ in self._steps), 0), strict=True))
            while plan and plan[0][0] <= now:
                with contextlib.suppress(OSError):  # it is another user's
                    os.kill(pid, plan.pop(0)[1])
            self._orphans[pid] = plan

    def _bury(self, index: int, process: WorkerProcess, status: int) -> None:
        """Say farewell to the clients of a worker that has ended, and have it replaced."""
        with contextlib.suppress(BlockingIOError):  # nothing is left, though somebody holds it
            while process.line.fileno() >= 0:
                self._listen(index, process)
        self._hang_up(process)
        for sock, farewell in process.clients.values():
            self._dismiss(sock, farewell)
        if self._stopping:
            self._failed = self._failed or status != 0
            self._refuse_for_ended()
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"status {code}"
        log.error(
            "worker %d (process %d) has ended with %s; its rooms and %d clients start anew",
            index, process.pid, how, len(process.clients),
        )  # fmt: skip
        self._due[index] = process.started + RESTART_PAUSE

    def _refuse_for_ended(self) -> None:
        """While all end, close what nobody takes connections from: who comes there gets to know.

        Those are the channels of workers that take no more, and in the end the listeners.
        """
        if not self._stopping:  # the next worker will read them
            return
        taking = {index for index, process in self._processes.items() if not process.is_over}
        for index in set(range(len(self._channels))) - taking:
            for inside, _ in self._channels[index].values():
                with contextlib.suppress(OSError):  # it is closed already
                    inside.shutdown(socket.SHUT_RDWR)  # what a game has forked may hold it
            self._close_channels([index])
        if not taking:
            self._server.opened.close()

    def _close_channels(self, indices: Iterable[int]) -> None:
        for index in indices:
            for inside, _ in self._channels[index].values():
                inside.close()

    # -- clients whose worker has ended --

    def _dismiss(self, sock: socket.socket, farewell: bytes) -> None:
        """Send a client its Close, and wait until it ends the connection.

        What it has sent and nobody has read would make closing a reset, which might overtake the
        Close.
        """
        try:
            sock.setblocking(False)
            if farewell:
                sock.send(farewell)
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone, or takes nothing
            sock.close()
            return
        self._leaving[sock] = time.monotonic() + FAREWELL_TIMEOUT
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._drain(sock))

    def _drain(self, sock: socket.socket) -> None:
        try:
            if sock.recv(RECEIVE_SIZE):
                return
        except BlockingIOError:
            return
        except OSError:  # a reset, or its machine cannot be reached any more
            pass
        self._let_go(sock)

    def _forget_leaving(self) -> None:
        now = time.monotonic()
        for sock in [sock for sock, until in self._leaving.items() if until <= now]:
            self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._leaving[sock]
        sock.close()


def make_channels() -> dict[str, tuple[socket.socket, socket.socket]]:
    """Return a worker's channels, by kind."""
    channels = {kind: make_channel() for kind in KINDS}
    for kind, (_, outside) in channels.items():
        outside.settimeout(KINDS[kind])
    return channels


def make_channel() -> tuple[socket.socket, socket.socket]:
    """Return both ends of what connections go through, each with its descriptor: a channel.

    Messages stay whole, however many processes send at a time.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@contextlib.contextmanager
def blocked(signals: Collection[signal.Signals]) -> Iterator[None]:
    """Let signals wait within the context."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
