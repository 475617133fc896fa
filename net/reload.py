"""New code while people play (`--reload`): for who is writing a game.

The first process keeps the listening sockets and looks after the files; it serves nobody. Who
serves is a child of it, a new one for each version of the code:

    a file changes --> a new process loads the code ---it fails----> the log tells why, and the
                                   |                                 old process goes on
                                   | it is ready
                                   v
                       the old one is told to stop: it saves its rooms, and ends
                                   |
                                   v
                       the new one accepts at the same sockets, and rooms come back from the store

Who runs what, and until when:

    process      thread    is woken by                               ends
    the first    main      what a child says, signals, a child's     with the child that serves
                           end, and each 0.25 s for the files
    a child      main      see the server's own map                  by a signal of the first one
                 reload    what the first one says, and each         with the line to that; it then
                           second for what has been imported         ends the process, too

Nobody is refused between the two: who connects waits in the queue of the listening socket. Two
clocks are enough: four times a second each file is looked at, which takes microseconds and works
on every system and file system (the standard library knows no events of files); and a change counts
once the files have been left alone from one look to the next, so that an editor's writing in two
steps, or a `git checkout`, is one change.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import importlib.util
import itertools
import json
import math
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import scalesocket
from scalesocket import (
    FLAG,
    POSIX,
    RECEIVE_SIZE,
    Config,
    ConfigError,
    HttpSession,
    Server,
    log,
    parse_command_line,
    refuse_if,
    serve,
    set_up_logging,
    start_thread,
)

from .file_limit import raise_file_limit, restore_file_limit
from .logs import finish_log
from .mistakes import place
from .signals import once
from .standard_streams import open_standard_streams

# fmt: off
OPTIONS = (
    ("--reload", "", FLAG,
     "load TARGET anew when a file of it changes, and let everybody play on; for developing"),
)
# fmt: on
POLL = 0.25  # seconds between two looks at the files
LOOK_FOR_MODULES = 1.0  # seconds between two looks at what a game has imported
SEATS = 30.0  # seconds of --resume, unless that is given
CLOCK_STEP = 20_000_000  # nanoseconds that the times of files may be behind the clock
LOAD_TIME = 10.0  # seconds to load the code before that is told of
TRY_AGAIN = 1.0  # seconds until a process is started that could not be
KILL_AFTER = 3.0  # seconds for a process to end that has nothing more to do
SIGNALS = (signal.SIGINT, signal.SIGTERM)
BEGIN = (
    "import sys; {0!r} in sys.path or sys.path.insert(0, {0!r}); "
    "from scalesocket.net.reload import {1} as begin; "
    "sys.exit(begin())"
)


def check_options(config: Config) -> None:
    """Refuse what makes no sense while developing.

    Raises:
        ConfigError: another option contradicts.
    """
    refuse_if(config.reload and not POSIX, "--reload needs a POSIX system")
    refuse_if(config.workers > 1, "--reload and --workers exclude each other")
    refuse_if(config.oneshot, "--reload and --oneshot exclude each other")


# ==== 1. The files ======================================================================


class Stamp(NamedTuple):
    """What changes when a file does."""

    modified: int  # nanoseconds
    size: int
    inode: int  # another one has taken its name
    mode: int  # a program that is no program yet


def read_stamp(path: str) -> Stamp | None:
    """Return a file's, or None if it is not there."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return Stamp(facts.st_mtime_ns, facts.st_size, facts.st_ino, facts.st_mode)


def find_sources(config: Config) -> set[str]:
    """Return the files that TARGET is made of, as far as they are its own.

    Raises:
        ConfigError: one of a program's is no Python.
    """
    return find_modules(config) if config.game else find_program(config.command)


def find_modules(config: Config) -> set[str]:
    """Return a game's file, and what has been imported from its folder, or below."""
    assert config.game is not None
    module = sys.modules[config.game.__module__]
    named = sys.modules.get(config.target.partition(":")[0], module)  # which may only import it
    folders = {os.path.dirname(file) for file in map(file_of, (module, named)) if file}
    found = filter(None, map(file_of, list(sys.modules.values())))
    return {file for file in found if any(is_inside(file, folder) for folder in folders)}


def file_of(module: object) -> str:
    """Return the file of a module, or "" if it has none."""
    try:
        file = getattr(module, "__file__", None)
    except Exception:  # one that is loaded only when it is used, and cannot be
        return ""
    return os.path.realpath(file) if isinstance(file, str) else ""


def is_inside(file: str, folder: str) -> bool:
    """Whether a file is one of a project's own."""
    return file.startswith(os.path.join(folder, "")) and "site-packages" not in file


def find_program(command: Sequence[str]) -> set[str]:
    """Return the file of a program, and what it imports from its own folder if it is Python.

    What an interpreter is given is the first of its arguments that is a file; other files may be
    what the program writes.

    Raises:
        ConfigError: one of them is no Python.
    """
    program, *arguments = command
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if program == sys.executable or os.path.dirname(program) in folders:
        program = next(filter(os.path.isfile, arguments), program)
    found: set[str] = set()
    waiting = [os.path.realpath(program)]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            if file.endswith(".py"):
                waiting += find_imports(file, os.path.dirname(os.path.realpath(program)))
    return found


def find_imports(file: str, folder: str) -> list[str]:
    """Return which files of a program's folder, or of its own, a file of Python imports.

    Raises:
        ConfigError: it is no Python.
    """
    try:
        tree = ast.parse(Path(file).read_bytes(), file)
    except SyntaxError as error:
        where = place(file, error.lineno)
        raise ConfigError(f"cannot run {where}: {error.msg}") from None
    except (OSError, ValueError, RecursionError, MemoryError):
        return []  # it is Python's to say
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            before = f"{node.module}." if node.module else ""
            names += [f"{before}{alias.name}" for alias in node.names]
    parts = {tuple(name.split(".")[:depth]) for name in names for depth in range(1, 9)}
    folders = {folder, os.path.dirname(file)}
    bases = [os.path.join(folder, *part) for folder in folders for part in parts]
    paths = [path for base in bases for path in (f"{base}.py", os.path.join(base, "__init__.py"))]
    return [os.path.realpath(path) for path in paths if os.path.isfile(path)]


def name_files(paths: Collection[str]) -> str:
    """Return some files for the log."""
    names = sorted(place(path, None) for path in paths)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Files:
    """Knows when files change.

    What is known of a file is what it was before the code was loaded: a file that changes while
    that goes on is a change.
    """

    def __init__(self) -> None:
        self._known: dict[str, Stamp | None] = {}
        self._before: dict[str, Stamp | None] = {}  # at the last look
        self._looked_at = 0.0
        self._folders: set[str] = set()  # in which any Python is looked after

    def add(self, paths: Iterable[str], loaded_from: int) -> None:
        """Look after more files.

        Args:
            paths: where they are.
            loaded_from: since when they have been read, in nanoseconds of the clock that files
                have; what is younger may have been written after that.
        """
        for path in paths:
            if path not in self._known:
                stamp = read_stamp(path)
                is_older = stamp is not None and stamp.modified < loaded_from - CLOCK_STEP
                self._known[path] = stamp if is_older else None

    def add_neighbours(self, loaded_from: int) -> None:
        """Look after all Python in their folders, as one may be missing, or the one that is wrong.

        Args:
            loaded_from: see `add`.
        """
        self._folders = {os.path.dirname(path) for path in self._known if path.endswith(".py")}
        self.add(self._find_neighbours(), loaded_from)

    def forget_neighbours(self) -> None:
        """Look after none that is not there yet."""
        self._folders.clear()

    def _find_neighbours(self) -> list[str]:
        found: list[str] = []
        for folder in self._folders:
            with contextlib.suppress(OSError):  # there is no descriptor left; later there may be
                found += map(str, Path(folder).glob("*.py"))
        return found

    def look(self) -> set[str]:
        """Return what has changed, once that has come to an end; it is known from then on."""
        if time.monotonic() < self._looked_at + POLL:
            return set()
        self._looked_at = time.monotonic()
        for path in self._find_neighbours():
            self._known.setdefault(path, None)
        now = {path: read_stamp(path) for path in self._known}
        changed = {path for path, stamp in now.items() if stamp and stamp != self._known[path]}
        if now != self._before:
            self._before = now
            return set()
        for path in changed:
            self._known[path] = now[path]
            forget_compiled(path)
        return changed


def forget_compiled(path: str) -> None:
    """Remove what Python has kept of a file: it looks at whole seconds, and the size."""
    if path.endswith(".py"):
        with contextlib.suppress(OSError):
            os.unlink(importlib.util.cache_from_source(path))


# ==== 2. The process that serves ========================================================


class Line:
    """One end of what the two processes tell each other: JSON objects, one a line."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def tell(self, **facts: object) -> None:
        """Say something, unless nobody is there any more."""
        with contextlib.suppress(OSError):
            self.sock.sendall(json.dumps(facts).encode() + b"\n")

    def hear(self) -> list[dict[str, Any]] | None:
        """Return what has come, or None at the end.

        Raises:
            TimeoutError, BlockingIOError: nothing has, in as long as the socket waits.
        """
        try:
            data = self.sock.recv(RECEIVE_SIZE)
        except ConnectionError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None


class Ear:
    """Hears what the first process says, on a thread of its own; without it, this one ends.

    Attributes:
        line: to the first process.
        go: set once the process before has ended.
        server: what serves, from then on.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.go = threading.Event()
        self.server: Successor | None = None
        self._told: set[str] = set()
        self._signals: deque[int] = deque()  # that the first process has passed on
        self._parent_pid = os.getppid()
        self._is_over = False
        self._thread = start_thread("reload", self._run)

    def stop(self) -> None:
        """Say and hear nothing more: this process ends."""
        self._is_over = True
        with contextlib.suppress(OSError):
            self.line.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def heed(self, handler: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
        """Return a signal handler that calls another one only for what the first process passes on.

        Who stops all processes of a name (`pkill`) sends one to this process, too. With the first
        one's that would be two, and a second one cuts all off.
        """
        handler = getattr(handler, "__wrapped__", handler)  # see `once`; of these there is no echo

        def on_signal(number: int, frame: FrameType | None) -> None:
            if os.getppid() != self._parent_pid:  # it is gone, or a game has forked this process
                handler(number, frame)
                return
            while self._signals:
                handler(self._signals.popleft(), frame)

        return on_signal

    def _run(self) -> None:
        self.line.sock.settimeout(LOOK_FOR_MODULES)
        while (messages := self._hear()) is not None:
            for message in messages:
                if "go" in message:
                    self.go.set()
                elif "signal" in message:
                    self._signals.append(message["signal"])
                    os.kill(os.getpid(), message["signal"])
                elif self.server is not None and self.server.site.console is not None:
                    self.server.site.console.problem = message["problem"]
        if self.server is not None:
            self.server.stopping = True  # as by a signal: one that comes now is the second
            self.server.stop()
        elif not self._is_over:  # the code is being loaded, which may never end
            os._exit(0)

    def _hear(self) -> list[dict[str, Any]] | None:
        try:
            return self.line.hear()
        except TimeoutError:
            if self.server is not None and self.server.config.game:
                more = find_sources(self.server.config) - self._told  # it may have imported some
                if more:
                    self._told |= more
                    self.line.tell(files=sorted(more))
            return []


class Successor(Server):
    """A server that takes over sockets.

    Args:
        ear: hears the first process.
        listeners, line_listeners: the sockets.
        is_anew: there was a server before it.
        config: the options.
    """

    def __init__(
        self,
        ear: Ear,
        listeners: list[socket.socket],
        line_listeners: list[socket.socket],
        is_anew: bool,
        config: Config,
    ) -> None:
        super().__init__(config)
        self._ear = ear
        self._is_anew = is_anew
        self._taken = listeners, line_listeners
        self.say = log.debug  # the first process, which has not ended, tells the operator

    def listen(self) -> None:
        """Take what is listened at already, and heed the first process."""
        for number in (*SIGNALS, signal.SIGHUP):
            handler: Any = signal.getsignal(number)
            signal.signal(number, self._ear.heed(handler))
        for sock in itertools.chain(*self._taken):
            self.opened.enter_context(sock)
        self.prepare(*self._taken)
        if self._is_anew:
            log.info("the new code runs")


def succeed() -> int:
    """Load the code, say so, and serve when the process before has ended; return the exit status.

    The command line is that of the server, behind what it takes over, as JSON.
    """
    open_standard_streams()
    raise_file_limit()
    facts = json.loads(sys.argv.pop(1))
    for number in SIGNALS:  # until the server heeds them
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    with contextlib.ExitStack() as opened:
        line, *listeners = [
            opened.enter_context(socket.socket(fileno=number))
            for number in (facts["line"], *facts["listeners"])
        ]
        for sock in (line, *listeners):
            sock.set_inheritable(False)
        ear = Ear(Line(line))
        opened.callback(ear.stop)
        count = len(listeners) - facts["lines"]
        return take_over(ear, listeners[:count], listeners[count:], facts, sys.argv[1:])


def take_over(
    ear: Ear,
    listeners: list[socket.socket],
    line_listeners: list[socket.socket],
    facts: dict[str, Any],
    arguments: Sequence[str],
) -> int:
    """Do what `succeed` says.

    Args:
        ear: hears the first process.
        listeners, line_listeners: the sockets.
        facts: the file of a store, and whether there was a server before.
        arguments: the command line.
    """
    try:
        config = parse_command_line(arguments)
        resume, store = config.resume or SEATS, config.store or facts["store"]
        config = config.replace(resume=resume, store=store)
        files = find_sources(config)
        Server(config.replace(store=""))  # whether it can be made; it has opened nothing yet
    except (ConfigError, OSError) as error:  # the system may refuse it, too
        ear.line.tell(failed=getattr(error, "strerror", None) or str(error))
        return 2
    ear.line.tell(files=sorted(files), places=describe_places(config))
    ear.go.wait()
    set_up_logging(config)

    def make(config: Config) -> Server:
        ear.server = Successor(ear, listeners, line_listeners, facts["anew"], config)
        return ear.server

    try:
        return serve(config, make)
    except OSError as error:  # as in `main`: no more files can be opened
        print(f"scalesocket: {error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        finish_log()


def describe_places(config: Config) -> str:
    """Return where a server listens."""
    return repr((config.addr, config.tcplisten, str(config.unixsocket), config.unixmode))


# ==== 3. The first process ==============================================================


class Version:
    """A process with the code as it was when it was started.

    Attributes:
        process: of a session of its own, so that ^C in a terminal goes to the first one alone.
        line: to it.
        started: when, in nanoseconds of the clock that files have.
        deadline: until when it should have loaded the code, on the monotonic clock.
        is_ready: it has, and waits for the one before to end.
        has_failed: it could not, and that has been told.
        quiet_since: when it closed its line, on the monotonic clock; it is about to end.
        is_cut: it did not, though there was nothing more to do.
    """

    def __init__(self, process: subprocess.Popen[bytes], line: Line, started: int) -> None:
        self.process = process
        self.line = line
        self.started = started
        self.deadline = time.monotonic() + LOAD_TIME
        self.is_ready = False
        self.has_failed = False
        self.quiet_since: float | None = None
        self.is_cut = False

    def end(self) -> None:
        """End it at once, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Overseer(Server):
    """The first process: has the sockets, and a child that serves.

    Args:
        arguments: of the command line, for its children.
        config: the options.
    """

    def __init__(self, arguments: Sequence[str], config: Config) -> None:
        super().__init__(config)
        self._arguments = arguments
        self._places = describe_places(config)
        self._files = Files()
        self._current: Version | None = None  # what serves
        self._next: Version | None = None  # what is to serve
        self._is_changing = False  # the current one has been told to stop, for the next one
        self._due = math.inf  # when to start a process that could not be started
        self._wanted: list[int] = []  # signals that have come
        self._starts = 0

    def run(self) -> None:
        """Have children serve until a signal comes.

        Raises:
            SystemExit: its status is that of the last child.
        """
        woken, signal_end = socket.socketpair()
        woken.setblocking(False)
        signal_end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        with woken, signal_end, self._selector, tempfile.TemporaryDirectory() as folder:
            self._store = os.path.join(folder, "rooms.sqlite")
            self._selector.register(woken, selectors.EVENT_READ, lambda: woken.recv(RECEIVE_SIZE))
            before = self._take_signals(signal_end)
            try:
                status = self._oversee()
            finally:
                signal.set_wakeup_fd(-1)
                for version in filter(None, (self._current, self._next)):
                    version.end()
                for number, handler in before.items():
                    signal.signal(number, handler)
                self.opened.close()
        log.info("stopped")
        sys.exit(status)

    def _take_signals(self, signal_end: socket.socket) -> dict[int, Any]:
        """Have signals noted, and wake this process up; return the handlers before."""
        hangup = signal.getsignal(signal.SIGHUP)
        heeded = hangup == signal.getsignal(signal.SIGTERM) or self.config.sslcert
        numbers = (*SIGNALS, signal.SIGHUP) if heeded else SIGNALS
        before: dict[int, Any] = {n: signal.getsignal(n) for n in (*numbers, signal.SIGCHLD)}
        signal.set_wakeup_fd(signal_end.fileno(), warn_on_full_buffer=False)
        on_signal = once(lambda number, _frame: self._wanted.append(number))
        for number in numbers:
            signal.signal(number, on_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return before

    def _oversee(self) -> int:
        """Return the exit status when it is all over."""
        status = 0
        if not self.stopping:  # a signal was faster
            self._begin()
        while self._current or self._next or self._due < math.inf:
            for key, _ in self._selector.select(POLL):
                key.data()
            self._heed_signals()
            for version in filter(None, (self._current, self._next)):
                if self._has_ended(version):
                    status = self._bury(version)
            self._tell_if_late()
            if not self.stopping and not self._is_changing:
                if changed := self._files.look():
                    log.info("changed: %s", name_files(changed))
                if changed or self._due <= time.monotonic():
                    self._begin()
        return status

    # -- children --

    def _begin(self) -> None:
        """Start a process with the code as it is now, in place of one that has not got to serve.

        If something has run out for that, it is tried again.
        """
        self._drop_next()
        try:
            self._start()
        except OSError as error:
            if self._due == math.inf:  # the first time
                self._report(f"cannot start a process: {error.strerror}")
            self._due = time.monotonic() + TRY_AGAIN
        else:
            self._due = math.inf

    def _start(self) -> None:
        here, there = socket.socketpair()
        listeners = [sock.fileno() for sock, _ in self._listeners]  # those of lines come last
        facts = {
            "line": there.fileno(),
            "listeners": listeners,
            "lines": sum(kind is not HttpSession for _, kind in self._listeners),
            "store": self._store,
            "anew": self._starts > 0,
        }
        words = [*words_for("succeed"), json.dumps(facts), *self._arguments]
        started = time.time_ns()
        with there:
            try:
                process = subprocess.Popen(
                    [sys.executable, *words],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[there.fileno(), *listeners],
                    start_new_session=True,  # or `stty tostop` would stop it
                )
            except OSError:
                here.close()
                raise
        version = self._next = Version(process, Line(here), started)
        self._selector.register(here, selectors.EVENT_READ, lambda: self._hear(version))
        self._starts += 1

    def _drop_next(self) -> None:
        if self._next is not None:
            self._next.end()
            self._close(self._next)
            self._next = None

    def _hear(self, version: Version) -> None:
        """Take what a process has to say."""
        messages = version.line.hear()
        if messages is None:
            self._close(version)
        for message in messages or ():
            if "failed" in message:
                self._fail(version, message["failed"])
                continue
            started = version.started if version is self._next else time.time_ns() + CLOCK_STEP * 2
            self._files.add(message["files"], started)
            if "places" in message:
                self._change_to(version, message["places"])

    def _change_to(self, version: Version, places: str) -> None:
        """Have a process that is ready serve, as soon as nobody else does."""
        version.is_ready = True
        if places != self._places:
            log.warning("where to listen is changed by a new start only")
        if self._current is None:
            self._promote()
        else:
            self._is_changing = True
            self._pass(signal.SIGINT)  # which --drain does not delay

    def _promote(self) -> None:
        assert self._next is not None
        self._current, self._next = self._next, None
        self._is_changing = False
        self._files.forget_neighbours()
        self._current.line.tell(go=True)

    def _close(self, version: Version) -> None:
        """Hear nothing more of a process, which is about to end."""
        if version.quiet_since is None:
            version.quiet_since = time.monotonic()
            self._selector.unregister(version.line.sock)
            version.line.sock.close()

    def _has_ended(self, version: Version) -> bool:
        """Whether a process has ended; one that cannot, with nothing left to do, is killed."""
        if version.process.poll() is not None:
            return True
        quiet = version.quiet_since
        if quiet is not None and time.monotonic() > quiet + KILL_AFTER:
            why = "is a thread of the game no daemon?"
            log.warning("process %d does not end, and is killed: %s", version.process.pid, why)
            version.end()
            version.is_cut = True
            return True
        return False

    def _tell_if_late(self) -> None:
        """Say once that code takes long to load: it may wait for something, or never end."""
        version = self._next
        if version is not None and not version.is_ready and time.monotonic() > version.deadline:
            version.deadline = math.inf
            self._report(f"the new code is not loaded after {LOAD_TIME:g} s")

    def _bury(self, version: Version) -> int:
        """Go on without a process that has ended; return its status as this one's own."""
        if version.quiet_since is None:
            version.line.sock.setblocking(False)  # what it has forked may have the other end
            with contextlib.suppress(BlockingIOError):
                while version.quiet_since is None:  # its last words
                    self._hear(version)
        self._close(version)
        code = 0 if version.is_cut else version.process.returncode
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"status {code}"
        if version is self._next:
            self._next = None
            if not version.has_failed:
                self._fail(version, f"the new code ended with {how} as it was loaded")
            return 2
        self._current = None
        if self._is_changing and not self.stopping:
            self._is_changing = False
            if code:
                log.warning("the old code ended with %s", how)
            if self._next is None:  # it has died meanwhile
                self._begin()
            elif self._next.is_ready:
                self._promote()
        else:
            if not self.stopping and code:
                log.error("the server has ended with %s", how)
            self._drop_next()
        return code if code >= 0 else 1

    def _fail(self, version: Version, failure: str) -> None:
        """Say why a process cannot serve, and look for what may mend it."""
        version.has_failed = True
        self._report(failure)
        self._files.add_neighbours(version.started)

    def _report(self, failure: str) -> None:
        """Say why there is no new code."""
        if self._current is None:
            log.error("%s", failure)
            return
        log.error("the old code goes on: %s", failure)
        self._current.line.tell(problem=failure)

    # -- signals --

    def _heed_signals(self) -> None:
        while self._wanted:
            number = self._wanted.pop(0)
            if number == signal.SIGHUP and self.config.sslcert:
                self._pass(number)
                continue
            is_first, self.stopping = not self.stopping, True
            if is_first:
                log.info("stopping")
                self._due = math.inf
                self._drop_next()
            if not (is_first and self._is_changing):  # or it has been told
                self._pass(number)

    def _pass(self, number: int) -> None:
        if self._current is not None:
            self._current.line.tell(signal=number)


def oversee(config: Config, arguments: Sequence[str]) -> NoReturn:
    """Serve by children until a signal comes, in this process.

    It begins anew, without what the game has done as it was loaded (a thread, a port): that is the
    children's. What it has to know comes with its command line.
    """
    finish_log()
    own = vars(config) | {"game": None, "store": "", "pcap": "", "trace": None, "drain": 0.0}
    facts = base64.b64encode(pickle.dumps(own)).decode()
    restore_file_limit(os.getpid())  # or a child would take the raised one for what it was given
    os.execv(sys.executable, [sys.executable, *words_for("lead"), facts, *arguments])


def words_for(function: str) -> list[str]:
    """Return how Python is told to call a function of this module."""
    home = os.path.dirname(os.path.realpath(scalesocket.__file__))
    return [
        *(f"-W{option}" for option in sys.warnoptions),
        "-P",
        "-c",
        BEGIN.format(home, function),
    ]


def lead() -> int:
    """Be the first process; return the exit status."""
    config = Config(**pickle.loads(base64.b64decode(sys.argv.pop(1))))
    set_up_logging(config)
    try:
        return serve(config, functools.partial(Overseer, sys.argv[1:]))
    except KeyboardInterrupt:  # before there was anything to end
        return 130
    finally:
        finish_log()
