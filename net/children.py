"""Children that are not on pipes: on a TCP port (`--tcp`), or in a terminal (`--pty`).

Both are a `ProcessBackend` that is connected to its program in another way.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import errno
import functools
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from scalesocket import (
    _SHORTAGES,
    ABANDON_TIMEOUT,
    FLAG,
    PASSED,
    POSIX,
    BackendError,
    ChildProcess,
    CloseCode,
    Config,
    ConnectionClosed,
    Joined,
    Messages,
    Opcode,
    ProcessBackend,
    RoomEvent,
    Route,
    Server,
    refuse_if,
)

from .linebuffer import PipeBackend, explain_start, is_wanted, plan_launch
from .patience import PatientBackend
from .rooms import ROOM_TIMEOUT

TCP_CONNECT_TIMEOUT = 10.0  # seconds for a child to listen, after --delay
PASSED_TO_TERMINALS = ("USER", "LOGNAME", "SHELL")  # what a login has set


def parse_ports(text: str) -> tuple[int, int]:
    """Return both ends of a range `START:END`."""
    match = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no range START:END of ports up to 65535")
    return int(match[1]), int(match[2])


OPTIONS = (
    ("--tcp", "", FLAG, "connect to TARGET at the port in its variable PORT"),
    ("--tcpports", "START:END", parse_ports, "ports for that (default 9001:9999)"),
    ("--pty", "", FLAG, "run TARGET in a pseudo-terminal, in binary"),
)


def complete_options(options: dict[str, Any]) -> None:
    """Add what goes with a terminal, and the time in which most programs listen."""
    if options.get("pty"):
        options["binary"] = True
        names = options.get("passenv", PASSED)
        if names[: len(PASSED)] == PASSED:  # the default, or more than that
            options["passenv"] = names + PASSED_TO_TERMINALS
    if options.get("tcp"):
        options.setdefault("delay", 1.0)


def check_options(config: Config) -> None:
    """Refuse what such a child cannot do.

    Raises:
        ConfigError: an option asks for it.
    """
    framed = config.clientframe or config.serverframe
    refuse_if(config.pty and config.tcp, "--pty and --tcp exclude each other")
    refuse_if(config.pty and framed, "--pty takes no framing")
    refuse_if(config.pty and config.passstderr, "--pty and --passstderr exclude each other")
    refuse_if(config.pty and not POSIX, "--pty needs a POSIX system")


def choose_backend(config: Config) -> Callable[[], ProcessBackend]:
    """Return what makes the backend of a room, for --tcp or --pty."""
    if config.pty:
        return functools.partial(PtyBackend, config)
    return functools.partial(TcpBackend, config, ports=PortPool(*config.tcpports))


def set_up(server: Server) -> None:
    """Have a server's rooms run such programs; to a game these options mean nothing."""
    config = server.config
    if config.command and (config.tcp or config.pty):
        server.registry.make_backend = choose_backend(config)


class TcpBackend(PipeBackend):
    """A child that listens on the TCP port in its variable PORT.

    Args:
        config: how to start it, and how to speak with it.
        ports: where the port comes from, and goes back to.
    """

    def __init__(self, config: Config, ports: PortPool) -> None:
        super().__init__(config)
        self._ports = ports
        self._port = 0
        self._socket: socket.socket | None = None
        self._closing_since = 0.0

    def _attach(self, environment: dict[str, str]) -> None:
        self._port = self._ports.take()
        if is_wanted(self._config):
            self._command, more, _ = plan_launch(self._config, environment)
            environment |= more
        environment["PORT"] = str(self._port)
        streams = (subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT)
        child = self._start_child(self._command, environment, streams)
        self._room.ending.wait(self._config.delay)
        deadline = time.monotonic() + TCP_CONNECT_TIMEOUT
        while self._socket is None:
            self._socket = self._connect()
            if self._socket is None:
                self._check_patience(child, deadline)
        self._input = self._output = self._socket.fileno()

    def _connect(self) -> socket.socket | None:
        """Return a connection to the child, or None if it does not listen yet.

        Raises:
            OSError: this server lacks something for that.
        """
        try:
            sock = dial(self._port)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            return None
        try:
            peer = sock.getpeername()
        except OSError:  # the child has ended before it took the connection
            peer = sock.getsockname()
        if sock.getsockname() == peer:  # TCP can connect a port to itself
            sock.close()
            return None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _check_patience(self, child: ChildProcess, deadline: float) -> None:
        """Wait a little for the child to listen.

        Raises:
            BackendError: it has ended, or its time is over.
            ConnectionClosed: the room has ended meanwhile.
        """
        if child.wait(0.05):
            raise BackendError(f"the program ended before it listened on port {self._port}")
        if self._room.ending.is_set() and not self._closing_since:
            self._closing_since = time.monotonic()
        if self._closing_since and time.monotonic() > self._closing_since + ABANDON_TIMEOUT:
            raise ConnectionClosed(CloseCode.NORMAL, "the room has ended")
        if time.monotonic() > deadline:
            raise BackendError(f"nothing listens on port {self._port}")

    def _end_input(self) -> None:
        self._input_closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _detach(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._port:
            self._ports.give_back(self._port)
            self._port = 0


def dial(port: int) -> socket.socket:
    """Return a connection to a port of this machine: "localhost" is ::1 alone to some (Node)."""
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=1.0)
    except ConnectionRefusedError:
        return socket.create_connection(("::1", port), timeout=1.0)


class PortPool:
    """The ports of --tcpports, each for one child at a time.

    Args:
        first, last: the range, both included.
    """

    def __init__(self, first: int, last: int) -> None:
        self._range = f"{first}:{last}"
        self._changed = threading.Condition()  # guards the queue; a used port comes last
        self._free = deque(range(first, last + 1))

    def take(self) -> int:
        """Return a port on which nothing listens; wait a little for one to come back.

        Raises:
            ConnectionClosed: there is none (1013).
        """
        deadline = time.monotonic() + ROOM_TIMEOUT
        with self._changed:
            while (port := self._find()) is None:
                if not self._changed.wait(deadline - time.monotonic()):
                    reason = f"no port of {self._range} is free"
                    raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, reason)
        return port

    def _find(self) -> int | None:
        for _ in range(len(self._free)):
            port = self._free[0]
            self._free.rotate(-1)
            if self._is_usable(port):
                return self._free.pop()
        return None

    def give_back(self, port: int) -> None:
        """Return a port to the pool."""
        with self._changed:
            self._free.append(port)
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._free)

    @staticmethod
    def _is_usable(port: int) -> bool:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                probe = socket.socket(family)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # nobody can listen there
                    continue
                raise
            with probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    if error.errno != errno.EADDRNOTAVAIL:  # likewise
                        return False
        return True


_RESIZE = re.compile(rb'\s*\{\s*"resize"\s*:\s*\[([^][{}"]*)\]\s*\}\s*')
_WHOLE = rb"\s*([1-9]\d{0,2})(?:\.0+)?\s*"  # 80.0 from clients whose numbers are all fractions
_TERMINAL_SIZE = re.compile(_WHOLE + rb"," + _WHOLE)
_IUTF8 = 0x4000  # Linux, macOS; Python has no name for it: backspace deletes whole characters

# Takes its stdin as the terminal that controls its session, then becomes the program. It is a
# Python of its own, as Python code between fork and exec could deadlock in a process with threads.
# Signals that this server ignores (SIGPIPE), or whoever started it, have their usual effect again.
# What keeps it from that is the operator's to see: its stderr is the log until it is the program.
_LAUNCHER = """
import fcntl, os, signal, sys, termios
hint, *command = sys.argv[1:]
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
ignored = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
[signal.signal(n, signal.SIG_DFL) for n in ignored]
log = os.fdopen(os.dup(2), "w")  # which the program does not inherit
os.dup2(0, 2)
try:
    os.execvp(command[0], command)
except OSError as error:
    print(f"cannot start {command[0]}: {error.strerror}{hint}", file=log)
    sys.exit(1)
"""


class PtyBackend(PatientBackend):
    """A child in a pseudo-terminal: clients send keys, and get what it draws as binary messages.

    A client sets the terminal's size with a text message, `{"resize":[columns,rows]}`. All clients
    share the terminal, so the server sends that message on to all of them.
    """

    _size = b""  # the last message that has set it
    _columns, _rows = 80, 24  # until then: with 0 × 0 programs draw nothing, or fail
    hears_joins = True  # it tells newcomers the size

    def _attach(self, environment: dict[str, str]) -> None:
        import pty  # POSIX only
        import termios

        master, slave = pty.openpty()
        self._input = self._output = master
        try:
            self._set_size()
            modes = termios.tcgetattr(slave)
            modes[0] |= _IUTF8
            termios.tcsetattr(slave, termios.TCSANOW, modes)
            environment.setdefault("TERM", "xterm-256color")
            hint = explain_start(self._config.command[0])
            command = [sys.executable, "-IS", "-c", _LAUNCHER, hint, *self._config.command]
            self._start_child(command, environment, (slave, slave, subprocess.PIPE))
        finally:
            os.close(slave)
        os.set_blocking(master, False)
        self._room.ending.wait(self._config.delay)

    def _encode(self, event: RoomEvent) -> bytes:
        if isinstance(event, Joined) and self._size:
            self._tell_size((event.client.id,))
        if isinstance(event, Messages) and event.opcode == Opcode.TEXT:
            sender, messages = event.client.id, event.payloads
            event = copy.copy(event)
            event.payloads = [keys for keys in messages if not self._resize(sender, keys)]
        return super()._encode(event)

    def _resize(self, sender: int, payload: bytes) -> bool:
        """Set the terminal's size if a message asks for that; return whether it does.

        A message with an impossible size is dropped, as it was not meant for the program.
        """
        wish = _RESIZE.fullmatch(payload)
        if wish is None:
            return False
        match = _TERMINAL_SIZE.fullmatch(wish[1])
        if match is None:
            self._room.report(sender, "resize takes two numbers from 1 to 999: ignored")
            return True
        self._columns, self._rows = int(match[1]), int(match[2])
        message = b'{"resize":[%d,%d]}' % (self._columns, self._rows)
        if message != self._size:
            self._size = message
            self._set_size()
            self._tell_size(tuple(self._present))
        return True

    def _tell_size(self, to: tuple[int, ...]) -> None:
        """Tell clients the terminal's size. Nobody is waited for: see `Room.flush`."""
        room = self._room
        for client in room.members.send([Route(Opcode.TEXT, [self._size], to)]):
            if client.connection.overflows(0) or client.connection.has_stalled(room.stall):
                room.drop_slow(client)
            else:
                room.watch(client)

    def _set_size(self) -> None:
        import fcntl
        import termios

        size = struct.pack("HHHH", self._rows, self._columns, 0, 0)
        fcntl.ioctl(self._input, termios.TIOCSWINSZ, size)

    def _end_input(self) -> None:
        assert self._child is not None
        self._input_closed = True
        self._child.signal_group(signal.SIGHUP)  # as when a terminal's window is closed

    def _detach(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = self._output = -1
