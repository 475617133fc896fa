"""What the tests share: a server in its own process, and a client that is not our own.

    with serve("cat") as server, RawClient.connect(server, "lobby") as client:
        client.send_text("hello")
        assert client.receive_text() == "hello"

`serve` starts the real `scalesocket.py` on a port the kernel picks, and fails the test that
leaves something behind: a traceback, an unclosed socket, a child process.

`RawClient` writes and reads frames by itself and imports nothing from `scalesocket`, so that
the server and its tests cannot be wrong together. It also says what a good client never would.

Nothing here is imported from outside the standard library, except `pytest` when a test is
skipped, because `python3 -m tests` reads this file before it has installed anything.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, NoReturn, TypeVar
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scalesocket.py"
NODE_FOLDER = ROOT / "tests" / "node"  # Node resolves packages for the scripts in it

T = TypeVar("T")


# ==== 1. Waiting ==========================================================
# A test waits for a condition, never for a length of time.

ECHO = 0.1  # seconds in which a signal that comes twice is one; see net/signals.py
FREE = not getattr(sys, "_is_gil_enabled", lambda: True)()  # no interpreter lock
PATIENCE = 40  # seconds; a wait that is in vain takes so long, every other one as long as it must


def wait_until(condition: Callable[[], T], timeout: float = PATIENCE, message: str = "") -> T:
    """Poll `condition` until it returns something true, and return that.

    Raises:
        AssertionError: `timeout` seconds have passed.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain: {message or condition}")
        time.sleep(0.01)


def worker_number() -> int:
    """Return which of the processes this is that run tests side by side, from 0 on."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


QUIET = 0.25  # seconds of a usual machine for the work of `slowness`, undisturbed


def slowness() -> float:
    """Return how many times slower than that this machine is just now, and never less than 1.

    A limit in seconds that is multiplied by it means the same on a machine that others use.
    """
    begin = time.monotonic()
    for _ in range(20):
        sum(range(1_000_000))
        time.sleep(0.001)  # how soon one is woken counts, too
    return max(1.0, (time.monotonic() - begin) / QUIET)


_ports = itertools.count(random.randrange(1000))


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens at, below those that the kernel gives out itself.

    One of those may be somebody else's by the time that it is listened at, or is so again.
    Browsers open pages at all of these: of those above 10,000, 10080 alone is barred (WHATWG Fetch
    section 2.9).
    """
    begin = 11_000 + worker_number() % 9 * 1000
    for _ in range(1000):
        port = begin + next(_ports) % 1000
        with suppress(OSError), socket.create_server((host, port)):
            return port
    raise AssertionError(f"no free port was found on {host}")


# ==== 2. Tools of other people =============================================
# Some tests drive programs that pip cannot install.

TOOLS: dict[str, tuple[str, ...]] = {  # what a test asks for: where it may be found
    "chromium": ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"),
    "node": ("node",),
    "ws": (str(NODE_FOLDER / "node_modules" / "ws" / "package.json"),),  # Node's `ws` package
    "curl": ("curl",),
    "tmux": ("tmux",),
    "nc": ("nc",),
    "cc": ("cc", "gcc", "clang"),
    "tshark": ("tshark",),
    "haproxy": ("haproxy", "/usr/sbin/haproxy"),  # Debian's; not on everybody's PATH
    "nginx": ("nginx", "/usr/sbin/nginx"),
    "redis-server": ("redis-server", "valkey-server"),
}


def find_tool(name: str) -> str | None:
    """Return the path of one of `TOOLS`, or None where it is not installed."""
    for candidate in TOOLS[name]:
        if os.path.isabs(candidate) and os.path.exists(candidate):
            return candidate
        found = shutil.which(candidate)
        if found:
            return found
    return None


def find_python_with(package: str) -> str | None:
    """Return a Python that has a package: this one, or that of the tests' environment."""
    if importlib.util.find_spec(package):
        return sys.executable
    folder = ROOT / ".venv-tests"
    if any(folder.glob(f"lib/*/site-packages/{package}")):
        return shutil.which("python", path=folder / "bin")
    return None


def require_tool(name: str) -> str:
    """Return the path of one of `TOOLS`; skip the test without it, or fail it when CI is set."""
    import pytest

    path = find_tool(name)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"missing tool: {name}")
    if path is None:
        pytest.skip(f"missing tool: {name}")
    return path


def require_package(name: str) -> Any:
    """Import a package that not every Python has; skip the test without it, or fail it with CI."""
    import pytest

    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("CI"):
            pytest.fail(f"missing package: {error.name}")
        pytest.skip(f"missing package: {error.name}")


Call = Callable[..., Any]


@contextmanager
def run_node(program: str) -> Iterator[Call]:
    """Run a module in Node that takes a function's name and JSON values in a line, and answers."""
    command = [require_tool("node"), "--input-type=module", "-e", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def call(name: str, *values: Any) -> Any:
            stdin.write(json.dumps([name, *values]).encode() + b"\n")
            stdin.flush()
            answer = stdout.readline()
            assert answer, f"{name} has failed"
            return json.loads(answer)

        yield call
        stdin.close()
        process.wait(PATIENCE)


# ==== 3. The process table ================================================
# Read from Linux's /proc; elsewhere nothing is found and nothing is claimed.


class Process(NamedTuple):
    """One line of the process table. A PID may be used again; with `started` it is unique."""

    pid: int
    parent: int
    session: int
    state: str  # "Z": ended, but its parent has not yet asked for its exit status
    started: int
    command: str


def processes() -> list[Process]:
    """Return every process of this machine."""
    folders = [name for name in os.listdir("/proc") if name.isdigit()]
    found = (read_process(int(name)) for name in folders)
    return [process for process in found if process]


def read_process(pid: int) -> Process | None:
    """Return one process, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command stands in parentheses and may hold any character, so split behind it.
    command, _, rest = text.partition("(")[2].rpartition(") ")
    field = rest.split()
    return Process(pid, int(field[1]), int(field[3]), field[0], int(field[19]), command)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and has not ended."""
    process = read_process(pid)
    return process is not None and process.state != "Z"


def descendants(pid: int, table: Sequence[Process]) -> list[Process]:
    """Return the children of a process, and theirs."""
    found = [process for process in table if process.parent == pid]
    for process in found:  # grows while it is walked
        found += [child for child in table if child.parent == process.pid]
    return found


def open_files(pid: int) -> list[str]:
    """Return what a process has open, such as `socket:[INODE]`, one for each descriptor."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def has_in_environment(pid: int, marker: str) -> bool:
    """Tell whether a process was started with `marker` somewhere in its environment."""
    try:
        return marker.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


# ==== 4. A server in its own process ======================================


def shell(script: str, *arguments: str) -> tuple[str, ...]:
    """Return TARGET and arguments that run a shell script; its `$1` is the first argument."""
    return ("sh", "--", "-c", script, "sh", *arguments)


RUNNING = re.compile(r"running at (?P<host>\S+) on port (?P<port>\d+)")
TROUBLE = re.compile(r"Traceback \(most recent call last\)|ResourceWarning|Exception ignored in")


class ServerProcess:
    """A running `scalesocket.py`. Made by `serve`.

    Attributes:
        host, port: where it listens, as it said itself; port 0 until it has said so.
        process, pid: the process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        # The server hands PATH to its children, so a folder that does not exist marks them all:
        # also those that have left the server's session or have lost their parent.
        self._marker = f"/scalesocket-test-{uuid4().hex}"
        environment = {**os.environ, **(env or {})}
        environment["PATH"] = environment.get("PATH", os.defpath) + os.pathsep + self._marker
        # A forgotten socket or child process then says so in the log, where `serve` looks for it.
        python = [sys.executable, "-W", "always::ResourceWarning", os.fspath(SCRIPT)]
        self.process = subprocess.Popen(
            [*(command or python), *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self._family: set[Process] = set()
        self._changed = threading.Condition()  # guards the three lists below
        self._log: list[str] = []
        self._output: list[str] = []
        self._ended: list[str] = []  # names of the streams that have reached their end
        self._readers = [
            self._start_reader("stderr", self.process.stderr, self._log),
            self._start_reader("stdout", self.process.stdout, self._output),
        ]

    def _start_reader(
        self, name: str, stream: IO[bytes] | None, lines: list[str]
    ) -> threading.Thread:
        assert stream is not None
        thread = threading.Thread(
            target=self._read, args=(name, stream, lines), name=f"{name} of {self.pid}", daemon=True
        )
        thread.start()
        return thread

    def _read(self, name: str, stream: IO[bytes], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    lines.append(line.decode(errors="replace").rstrip("\r\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended.append(name)
            self._changed.notify_all()

    # ---- where it is

    def url(self, room: str, query: str = "") -> str:
        """Return the `ws://` address of a room; both arguments as they stand in a URL."""
        return f"ws://{self._authority()}/{room}" + (f"?{query}" if query else "")

    def http(self, path: str = "/") -> str:
        """Return the `http://` address of a path."""
        return f"http://{self._authority()}/{path.removeprefix('/')}"

    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    # ---- what it says

    def log(self) -> list[str]:
        """Return the lines it has written to stderr so far."""
        with self._changed:
            return list(self._log)

    def output(self) -> list[str]:
        """Return the lines it has written to stdout so far."""
        with self._changed:
            return list(self._output)

    def wait_log(self, pattern: str, timeout: float = PATIENCE, since: int = 0) -> re.Match[str]:
        """Wait for a line of the log in which `pattern` is found.

        Args:
            since: the number of lines to pass over, such as `len(server.log())` of before.

        Raises:
            AssertionError: no such line came in time, or the server ended without it.
        """
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self._log[since:]:
                    found = expression.search(line)
                    if found:
                        return found
                since = max(since, len(self._log))
                left = deadline - time.monotonic()
                if left <= 0 or "stderr" in self._ended:
                    break
                self._changed.wait(left)
        self.fail(f"no line of the log matches {pattern!r}")

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        """Wait until it says where it listens; since it says so itself, it is no other server."""
        found = self.wait_log(RUNNING.pattern, timeout)
        host = found["host"].strip("[]")
        self.host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.port = int(found["port"])

    def fail(self, message: str) -> NoReturn:
        """Raise an AssertionError that shows the log."""
        status = self.process.poll()
        life = "is running" if status is None else f"exited with status {status}"
        lines = self.log()
        shown = "\n".join(f"  | {line[:500]}" for line in lines[-60:]) or "  (nothing)"
        raise AssertionError(f"{message}\nThe server {life}; its log ({len(lines)}):\n{shown}")

    # ---- what it holds (Linux only)

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def descriptors(self) -> int:
        """Return how many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self) -> list[int]:
        """Return the PIDs of its child processes, also of those it has not waited for."""
        return [process.pid for process in processes() if process.parent == self.pid]

    def rss(self) -> int:
        """Return its resident memory in bytes."""
        return self._status("VmRSS")

    def peak_rss(self) -> int:
        """Return the most resident memory it has had, in bytes."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
        assert found, f"{name} is not in /proc/{self.pid}/status"
        return int(found[1]) * 1024

    # ---- how it ends

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait until it ends by itself, and return its exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.fail(f"the server has not ended within {timeout} s")
        self._join()
        return status

    def signal_again(self, number: int = signal.SIGTERM) -> None:
        """Send a signal that the server has taken note of before, so that it waits for nothing."""
        time.sleep(ECHO)  # one that comes sooner says nothing new
        self.process.send_signal(number)

    def stop(self, timeout: float = PATIENCE) -> int:
        """Send SIGTERM and return the exit status.

        Raises:
            AssertionError: it had to be killed.
        """
        if self.process.poll() is None:
            self._family |= set(self.survivors())
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except AssertionError:
            self.kill()
            raise

    def kill(self) -> None:
        """End it and all that it started at once."""
        victims = self.survivors()
        self.process.kill()
        self.process.wait()
        for process in {*victims, *self.survivors()}:
            if read_process(process.pid) and process.state != "Z":
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(process.pid, signal.SIGKILL)
        self._join()

    def _join(self) -> None:
        # A stream stays open while any process holds it, so a leaked child must not hang a test.
        for thread in self._readers:
            thread.join(10)

    def survivors(self) -> list[Process]:
        """Return the living processes that came from this server, except itself."""
        if not os.path.isdir("/proc/self"):
            return []
        table = processes()
        running = self.process.poll() is None
        family = set(descendants(self.pid, table)) if running else set()
        known = {(process.pid, process.started) for process in self._family}
        for process in table:
            if (process.pid, process.started) in known or process.session == self.pid:
                family.add(process)
            elif has_in_environment(process.pid, self._marker):
                family.add(process)
        return [process for process in family if process.pid != self.pid and process.state != "Z"]


@contextmanager
def serve(
    *arguments: str,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    ready: bool = True,
    addr: str | None = "127.0.0.1:0",
    allow_traceback: bool = False,
    command: Sequence[str] | None = None,
) -> Iterator[ServerProcess]:
    """Run `scalesocket.py --addr ADDR ARGUMENTS...` for the length of a `with` block.

    At the end it gets SIGTERM, unless it has ended already, and must then exit with 0.

    Args:
        cwd: its working directory.
        env: variables set in its environment, beside those of this process.
        ready: wait until it listens. With False the test waits itself (`wait`, `wait_ready`).
        addr: the value of `--addr`, or None to leave the option out.
        allow_traceback: tracebacks, also those of a child, and resource warnings may be logged.
        command: what to run in place of this Python and this folder's `scalesocket.py`.

    Raises:
        AssertionError: it did not start, did not end by itself, logged a traceback or a
            resource warning, or left a process behind.
    """
    server = ServerProcess([*(("--addr", addr) if addr else ()), *arguments], cwd, env, command)
    try:
        if ready:
            server.wait_ready()
        yield server
    except BaseException:
        server.kill()
        print(f"log of the server {arguments}:", *server.log()[-200:], sep="\n  | ")
        raise
    ended_before = server.process.poll() is not None
    status = server.stop()
    left = wait_for_none(server.survivors)
    if left:
        server.kill()
        server.fail(f"the server has left processes behind: {left}")
    if status != 0 and not ended_before:
        server.fail(f"the server answered SIGTERM with exit status {status}")
    log = server.log()
    trouble = next((at for at, line in enumerate(log) if TROUBLE.search(line)), None)
    if trouble is not None and not allow_traceback:
        shown = "\n".join(log[max(0, trouble - 3) : trouble + 40])
        server.fail(f"the log holds a traceback or a resource warning:\n{shown}\n")


def settled(look: Callable[[], T]) -> T:
    """Return what `look` returns once it has returned the same for half a second."""
    seen: list[T] = []

    def is_steady() -> bool:
        seen.append(look())
        return len(seen) > 50 and all(one == seen[-1] for one in seen[-50:])

    wait_until(is_steady)
    return seen[-1]


def with_constants(module: str = "scalesocket", /, **values: float) -> list[str]:
    """Return a command for `serve` that gives constants of a module other values.

    So a test need not be done within HEAD_TIMEOUT, and another one need not wait for so long.
    """
    return with_constants_of({module: values})


def with_constants_of(modules: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what `with_constants` does, for constants of several modules."""
    settings = "".join(
        f"import {module}; assert {module}.{name}; {module}.{name} = {value!r}; "
        for module, values in modules.items()
        for name, value in values.items()
    )
    path = f"sys.path.insert(0, {os.fspath(ROOT)!r})"
    code = f"import sys; {path}; import scalesocket; {settings}sys.exit(scalesocket.main())"
    return [sys.executable, "-W", "always::ResourceWarning", "-c", code]


def wait_for_none(find: Callable[[], list[Process]], timeout: float = PATIENCE) -> list[Process]:
    """Give what has been killed a moment to go, and return what stays."""
    try:
        wait_until(lambda: not find(), timeout)
    except AssertionError:
        return find()
    return []


def run_cli(
    *arguments: str,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run `scalesocket.py ARGUMENTS...` to its end: `--help`, wrong options, a port in use."""
    return subprocess.run(
        [sys.executable, os.fspath(SCRIPT), *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


# ==== 5. A WebSocket client, written down from RFC 6455 ====================

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NO_STATUS = 1005  # a close frame came, with no code in it
ABNORMAL = 1006  # no close frame came
RECEIVE_SIZE = 256 * 1024

Address = ServerProcess | tuple[str, int]


class Closed(Exception):
    """The server sent a close frame while the test waited for a message."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed by the server: {code} {reason!r}")
        self.code = code
        self.reason = reason


class HandshakeRefused(Exception):
    """The server did not answer 101; `response` is what it answered instead."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(f"{response.status} {response.body[:200]!r}")
        self.response = response
        self.status = response.status


class WireFrame(NamedTuple):
    """A frame as it came from the server."""

    fin: bool
    rsv: int
    opcode: int
    payload: bytes


def masked(payload: bytes, key: bytes) -> bytes:
    """Exclusive-or the payload with the repeated key (5.3), as two long integers."""
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")
    return number.to_bytes(size, "little")


def encode_client_frame(
    opcode: int, payload: bytes, fin: bool = True, rsv: int = 0, mask: bool = True
) -> bytes:
    """Return one frame; nothing stops it from being a wrong one.

    Args:
        rsv: the three reserved bits, as a number from 0 to 7; RSV1 is 4.
    """
    first = fin << 7 | rsv << 4 | opcode
    bit = mask << 7
    size = len(payload)
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not mask:
        return head + payload
    key = random.randbytes(4)
    return head + key + masked(payload, key)


def encode_client_frames(payloads: Iterable[bytes | str], opcode: int = TEXT) -> bytes:
    """Return one masked frame per payload, all in one piece, to be sent in a pipeline."""
    whole = (item.encode() if isinstance(item, str) else item for item in payloads)
    return b"".join(encode_client_frame(opcode, payload) for payload in whole)


class RawClient:
    """The client's end of a WebSocket connection, over any connected stream socket.

    `connect` is the usual way in; `RawClient(sock)` and `upgrade` serve other kinds of socket.
    One thread may send while another receives. Every `timeout` is in seconds, for the whole call.

    Attributes:
        response: the server's answer to the opening handshake.
        pings: payloads of the pings that were answered on the way to a message.
        allow_rsv: reserved bits in the server's frames are no mistake (an extension is on).
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.response = HttpResponse(0, {}, b"")
        self.pings: list[bytes] = []
        self.allow_rsv = False
        self._buffer = bytearray()
        self._start = 0  # what stands before it in the buffer has been parsed
        self._background: list[threading.Thread] = []
        self._ending = False  # tells a background sender to give up

    @classmethod
    def connect(
        cls,
        server: Address,
        room: str = "room",
        headers: Mapping[str, str] | None = None,
        path: str | None = None,
        subprotocols: Sequence[str] = (),
    ) -> RawClient:
        """Connect and perform the opening handshake.

        Args:
            headers: added to the request, or put in the place of a header of the same name.
            path: the whole request target; by default `/` and the room.

        Raises:
            HandshakeRefused: the server answered something else than 101.
        """
        client = cls(open_socket(server))
        try:
            client.upgrade(address_text(server), path or f"/{room}", headers or {}, subprotocols)
        except BaseException:
            client.sock.close()
            raise
        return client

    def upgrade(
        self,
        host: str,
        path: str,
        headers: Mapping[str, str],
        subprotocols: Sequence[str] = (),
        behind: bytes = b"",
    ) -> None:
        """Perform the opening handshake on a connected socket (4.1).

        Args:
            behind: sent in one piece with the request.
        """
        key = base64.b64encode(random.randbytes(16)).decode()
        fields = {
            "Host": host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        if subprotocols:
            fields["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
        self.send_bytes(request_head("GET", path, merge_headers(fields, headers)) + behind)
        self.response = self._read_handshake()
        if self.response.status != 101:
            raise HandshakeRefused(self.response)
        got = self.response.headers
        digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert got["sec-websocket-accept"] == base64.b64encode(digest).decode()
        assert got["upgrade"].lower() == "websocket"
        assert "upgrade" in got["connection"].lower()
        chosen = got.get("sec-websocket-protocol")
        assert chosen is None or chosen in subprotocols, f"{chosen} was not offered"

    def _read_handshake(self) -> HttpResponse:
        deadline = time.monotonic() + PATIENCE
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._receive_some(deadline)
        status, headers = parse_response_head(bytes(self._buffer[:end]))
        self._start = end + 4
        if status == 101:
            return HttpResponse(status, headers, b"")
        size = int(headers.get("content-length", "0"))
        while len(self._buffer) < self._start + size:
            self._receive_some(deadline)
        return HttpResponse(status, headers, bytes(self._buffer[end + 4 : end + 4 + size]))

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose."""
        return self.response.headers.get("sec-websocket-protocol")

    # ---- sending

    def send_text(self, text: str | bytes) -> None:
        """Send one text message; given as bytes it may be no UTF-8 at all."""
        payload = text.encode() if isinstance(text, str) else text
        self.send_bytes(encode_client_frame(TEXT, payload))

    def send_json(self, value: object) -> None:
        """Send a value as a text message in JSON."""
        self.send_text(json.dumps(value))

    def send_binary(self, payload: bytes) -> None:
        """Send one binary message."""
        self.send_bytes(encode_client_frame(BINARY, payload))

    def send_frame(
        self, opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, mask: bool = True
    ) -> None:
        """Send one frame of any kind, also a forbidden one."""
        self.send_bytes(encode_client_frame(opcode, payload, fin, rsv, mask))

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; its pong is received as a frame."""
        self.send_frame(PING, payload)

    def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a close frame and do not wait for the answer."""
        body = b"" if code is None else struct.pack("!H", code) + reason.encode()
        self.send_frame(CLOSE, body)

    def send_bytes(self, raw: bytes, timeout: float = 60) -> None:
        """Send bytes as they are, and wait while the server does not take them.

        Raises:
            TimeoutError: the server has not taken them all in time.
            ConnectionError: the server has closed the connection.
        """
        deadline = time.monotonic() + timeout
        view = memoryview(raw)
        while view:
            self._wait(select.POLLOUT, deadline, f"{len(view)} bytes are still to be sent")
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                continue

    def send_in_background(
        self, raw: bytes, timeout: float = 110, *, times: int = 1
    ) -> threading.Thread:
        """Send bytes so many times from another thread, so that this one can receive meanwhile.

        A connection that ends meanwhile is no error here: what was received shows it.
        """
        thread = threading.Thread(
            target=self._send_quietly,
            args=(raw, timeout, times),
            name="background sender",
            daemon=True,
        )
        self._background.append(thread)
        thread.start()
        return thread

    def _send_quietly(self, raw: bytes, timeout: float, times: int) -> None:
        try:
            for _ in range(times):
                self.send_bytes(raw, timeout)
        except OSError:  # among them TimeoutError, and the socket closed by the test
            return

    # ---- receiving

    def receive(self, timeout: float = PATIENCE) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame, of whatever kind.

        Raises:
            TimeoutError: no whole frame came in time.
            EOFError, ConnectionResetError: the server closed the TCP connection.
        """
        frame = self.receive_frame(timeout)
        return frame.opcode, frame.payload

    def receive_frame(self, timeout: float = PATIENCE) -> WireFrame:
        """Return the next frame with its FIN and reserved bits. Raises as `receive` does."""
        deadline = time.monotonic() + timeout
        while (frame := self._parse()) is None:
            self._receive_some(deadline)
        return frame

    def receive_message(self, timeout: float = PATIENCE) -> tuple[int, bytes]:
        """Return opcode and payload of the next message, put together from its frames.

        A ping on the way is answered, a pong passed over.

        Raises:
            Closed: the server sent a close frame instead.
        """
        deadline = time.monotonic() + timeout
        kind = CONTINUATION
        parts: list[bytes] = []
        while True:
            frame = self.receive_frame(deadline - time.monotonic())
            if frame.opcode >= CLOSE:
                self._answer(frame)
                continue
            first = not parts
            assert (frame.opcode != CONTINUATION) == first, f"out of order: {frame.opcode}"
            kind = frame.opcode if first else kind
            parts.append(frame.payload)
            if frame.fin:
                return kind, b"".join(parts)

    def receive_text(self, timeout: float = PATIENCE) -> str:
        """Return the next message, which must be text in UTF-8."""
        opcode, payload = self.receive_message(timeout)
        assert opcode == TEXT, f"opcode {opcode} instead of text: {payload[:100]!r}"
        return payload.decode()

    def receive_json(self, timeout: float = PATIENCE) -> object:
        """Return the value in the next message, which must be JSON."""
        return json.loads(self.receive_text(timeout))

    def receive_binary(self, timeout: float = PATIENCE) -> bytes:
        """Return the next message, which must be binary."""
        opcode, payload = self.receive_message(timeout)
        assert opcode == BINARY, f"opcode {opcode} instead of binary: {payload[:100]!r}"
        return payload

    def receive_many(self, count: int, timeout: float = 60) -> list[bytes]:
        """Return the payloads of the next `count` messages: `receive_message` for a flood."""
        deadline = time.monotonic() + timeout
        found: list[bytes] = []
        while len(found) < count:
            self._parse_run(found, count)
            if len(found) < count:
                left = deadline - time.monotonic()
                try:
                    found.append(self.receive_message(left)[1])
                except (TimeoutError, EOFError, OSError, Closed) as error:
                    error.add_note(f"{len(found)} of {count} messages had come")
                    raise
        return found

    def _parse_run(self, found: list[bytes], count: int) -> None:
        """Move whole, unfragmented, short messages from the buffer, as many as there are."""
        buffer, start, end = self._buffer, self._start, len(self._buffer)
        while len(found) < count and end - start >= 4:
            first, size = buffer[start], buffer[start + 1]
            body = start + 2
            if size == 126:
                size = buffer[start + 2] << 8 | buffer[start + 3]
                body = start + 4
                if size < 126:
                    break  # for `_parse` to complain about
            elif size > 126:
                break
            if (first != 0x81 and first != 0x82) or body + size > end:
                break
            start = body + size
            found.append(bytes(buffer[body:start]))
        self._start = start

    def _parse(self) -> WireFrame | None:
        """Take one frame from the buffer, or return None when it is not whole yet."""
        buffer, start = self._buffer, self._start
        have = len(buffer) - start
        if have < 2:
            return None
        first, size = buffer[start], buffer[start + 1]
        fin, rsv, opcode = bool(first & 0x80), first >> 4 & 7, first & 0xF
        assert size < 128, "5.1: a server must not mask its frames"
        assert self.allow_rsv or rsv == 0, f"reserved bits {rsv:03b} with no extension"
        assert opcode in (0, 1, 2, 8, 9, 10), f"opcode {opcode} is reserved"
        assert opcode < CLOSE or (fin and size < 126), "5.5: a control frame is short and whole"
        extra = {126: 2, 127: 8}.get(size, 0)
        if have < 2 + extra:
            return None
        body = start + 2 + extra
        if extra:
            size = int.from_bytes(buffer[start + 2 : body], "big")
            assert size > (125 if extra == 2 else 65535), "5.2: the shortest length must be used"
        if len(buffer) < body + size:
            return None
        self._start = body + size
        return WireFrame(fin, rsv, opcode, bytes(buffer[body : body + size]))

    def _receive_some(self, deadline: float) -> None:
        """Wait for more bytes and append them to the buffer."""
        if self._start > len(self._buffer) // 2:  # each byte is moved a few times at the most
            del self._buffer[: self._start]
            self._start = 0
        have = len(self._buffer) - self._start
        while True:
            self._wait(select.POLLIN, deadline, f"{have} bytes of an unfinished frame are here")
            try:
                data = self.sock.recv(RECEIVE_SIZE)
                break
            except BlockingIOError:
                continue
        if not data:
            raise EOFError(f"the server closed the TCP connection; {have} bytes were left over")
        self._buffer += data

    def _wait(self, event: int, deadline: float, message: str) -> None:
        poll = select.poll()
        poll.register(self.sock, event)
        left = deadline - time.monotonic()
        while not poll.poll(min(max(left, 0), 0.1) * 1000):
            left = deadline - time.monotonic()
            if self._ending:
                raise ConnectionAbortedError("the test has ended this connection")
            if left <= 0:
                raise TimeoutError(f"nothing happened in time; {message}")

    def _answer(self, frame: WireFrame) -> None:
        """Answer a control frame on the way to a message."""
        if frame.opcode == PING:
            self.pings.append(frame.payload)
            self.send_frame(PONG, frame.payload)
        if frame.opcode == CLOSE:
            raise Closed(*close_status(frame.payload))

    # ---- ending

    def close(
        self, code: int | None = 1000, reason: str = "", timeout: float = PATIENCE
    ) -> tuple[int, str]:
        """Perform the closing handshake and return the code and reason that the server sent."""
        try:
            self.send_close(code, reason)
        except ConnectionError:
            pass  # the server has gone first; what it sent is still to be read
        return self._finish(timeout, reply=False)

    def wait_close(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Read past all data to the close frame, answer it, and return its code and reason.

        The code is 1005 when the frame had none, 1006 when TCP ended without a close frame.
        """
        return self._finish(timeout, reply=True)

    def _finish(self, timeout: float, reply: bool) -> tuple[int, str]:
        deadline = time.monotonic() + timeout
        try:
            while True:
                frame = self.receive_frame(deadline - time.monotonic())
                if frame.opcode == PING and reply:
                    self._answer(frame)
                if frame.opcode == CLOSE:
                    break
        except (EOFError, ConnectionError):
            self._end()
            return ABNORMAL, ""
        status = close_status(frame.payload)
        self._start = len(self._buffer)
        if reply:
            self._reply_close(frame.payload[:2])
        self._expect_end(deadline)
        return status

    def _reply_close(self, body: bytes) -> None:
        try:
            self.send_frame(CLOSE, body)
        except ConnectionError:
            pass  # it did not wait for the answer, as after an error

    def _expect_end(self, deadline: float) -> None:
        """7.1.1: the server closes the TCP connection, with nothing after its close frame."""
        try:
            self._receive_some(deadline)
        except (EOFError, ConnectionError):
            self._end()
            return
        raise AssertionError(f"{bytes(self._buffer[self._start :][:100])!r} after a close frame")

    def reset(self) -> None:
        """End the TCP connection with RST, as a client that crashed."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end()

    def _end(self) -> None:
        # The kernel keeps a socket open for as long as a thread waits for it.
        self._ending = True
        for thread in self._background:
            thread.join(5)
        self.sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the TCP connection, with no closing handshake."""
        self._end()


def receive_bytes(client: RawClient, size: int) -> bytes:
    """Return the bytes of binary messages until there are at least so many."""
    found = b""
    while len(found) < size:
        found += client.receive_binary()
    return found


def close_status(payload: bytes) -> tuple[int, str]:
    """Read the body of a close frame (5.5.1)."""
    if not payload:
        return NO_STATUS, ""
    assert len(payload) >= 2, "5.5.1: the body of a close frame begins with two bytes of code"
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


# ==== 6. Plain HTTP =======================================================


class HttpResponse(NamedTuple):
    """An answer. Header names are in lower case; repeated headers are joined by a comma."""

    status: int
    headers: dict[str, str]
    body: bytes


def open_socket(server: Address, timeout: float = PATIENCE) -> socket.socket:
    """Open a TCP connection to a server or to a `(host, port)`."""
    address = server if isinstance(server, tuple) else (server.host, server.port)
    sock = socket.create_connection(address, timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def address_text(server: Address) -> str:
    """Return what the Host header says."""
    host, port = server if isinstance(server, tuple) else (server.host, server.port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def merge_headers(fields: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Return all headers; `more` wins, however its names are written."""
    names = {name.lower() for name in more}
    return {**{k: v for k, v in fields.items() if k.lower() not in names}, **more}


def request_head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request, up to its empty line."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def parse_response_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Return status and headers. Stricter than a browser: a test wants to see mistakes."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.[01] (\d{3}) [^\r\n]*", status_line)
    assert found, f"no status line: {status_line!r}"
    headers: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*", line)
        assert match, f"no header line: {line!r}"
        name, value = match[1].lower(), match[2]
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(found[1]), headers


def http_request(
    server: Address,
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    raw: bytes | None = None,
    timeout: float = PATIENCE,
) -> HttpResponse:
    """Make one request on a connection of its own, and return the answer.

    The request asks for `Connection: close`, and the server must then close. For keep-alive and
    pipelines there are `http.client` and `exchange`.

    Args:
        raw: sent in place of the request, byte for byte. `method` still says whether the
            answer to it has a body.

    Raises:
        AssertionError: the answer is malformed, or has more or less body than it promises.
        TimeoutError: the server has neither answered nor closed in time.
    """
    fields = {"Host": address_text(server), "Connection": "close"}
    if body:
        fields["Content-Length"] = str(len(body))
    if raw is None:
        raw = request_head(method, path, merge_headers(fields, headers or {})) + body
    answer = exchange(server, raw, timeout)
    head, end, content = answer.partition(b"\r\n\r\n")
    assert end, f"no whole response: {answer[:200]!r}"
    status, found = parse_response_head(head)
    assert "transfer-encoding" not in found, "the harness does not read chunked bodies"
    size = int(found.get("content-length", len(content)))
    if method == "HEAD" or status in (101, 204, 304):
        size = 0
    assert len(content) == size, f"{size} bytes of body promised, {len(content)} sent"
    return HttpResponse(status, found, content)


def exchange(server: Address, raw: bytes, timeout: float = PATIENCE) -> bytes:
    """Send bytes on a connection of their own, and return all that comes until it is closed."""
    deadline = time.monotonic() + timeout
    parts: list[bytes] = []
    with open_socket(server, timeout) as sock:
        try:
            sock.sendall(raw)
            while True:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                parts.append(sock.recv(RECEIVE_SIZE))
                if not parts[-1]:
                    break
        except ConnectionError:  # it answered and closed before it had read everything
            parts.append(drain(sock))
        except TimeoutError as error:
            got = b"".join(parts)
            raise TimeoutError(f"still open after {timeout} s; received {got[:200]!r}") from error
    return b"".join(parts)


def drain(sock: socket.socket) -> bytes:
    """Return what the kernel still holds of a connection that was reset."""
    try:
        return sock.recv(RECEIVE_SIZE)
    except OSError:
        return b""
