"""README's comparison, cell by cell: a small probe for each row, tried on each server.

    python3 -m tests.bench.compare                  every row, with every peer that can be had
    python3 -m tests.bench.compare 'stops*'         some of them
    python3 -m tests.bench.compare --peers none     this server alone

It prints the table as README has it. Peers are found or installed as `python3 -m tests.bench` does
it. Where a row is about an option, the probe is whether the server's own --help names it.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from tests.bench.processes import (
    CACHE,
    OTHERS,
    THIS,
    BenchError,
    Program,
    find_program,
    running,
)
from tests.support import (
    CLOSE,
    HandshakeRefused,
    RawClient,
    encode_client_frames,
    http_request,
    read_process,
    wait_until,
)

NO = "–"
YES = "yes"
PEERS = ("scalesocket", "websocketd")
SOON = 3.0  # seconds in which what is going to happen does
LONG = 30.0  # … also if it is much
PYTHON = (sys.executable, "-u", "-c")
Address = tuple[str, int]


class Lacks(Exception):
    """A server has nothing of the kind."""


class Contender:
    """A server that is compared.

    Args:
        program: the server.
        folder: where it may leave something.
    """

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.name = program.peer.name
        self.folder = folder

    @cached_property
    def help(self) -> str:
        """What it says about its options."""
        command = [*self.program.command, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
        return done.stdout + done.stderr

    @contextmanager
    def serve(self, *backend: str, **options: Sequence[str]) -> Iterator[Address]:
        """Run it for the length of a `with` block, in front of a program.

        Args:
            options: the options for each server, by its name; who is not named has none for it.

        Raises:
            Lacks: it is not named.
            BenchError: it does not take the options.
        """
        if options and self.name not in options:
            raise Lacks
        peer = replace(self.program.peer, modes={"probe": tuple(options.get(self.name, ()))})
        program = replace(self.program, peer=peer)
        with running(program, ["probe"], backend, self.folder) as server:
            yield "127.0.0.1", server.port

    def note(self) -> Path:
        """Return the path of a file that is not there yet, for a program to write to."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / "note"


Probe = Callable[[Contender], str]


def has(*options: str) -> Probe:
    """Return a probe: does --help name all of these, or one of the ways to say each (`a|b`)?"""

    def look(server: Contender) -> str:
        ways = [option.split("|") for option in options]
        return YES if all(any(way in server.help for way in each) for each in ways) else NO

    return look


# ==== 1. Programs =========================================================


def share(server: Contender) -> str:
    """Let one client of a path see whether it hears the other."""
    with server.serve("cat") as address:
        with RawClient.connect(address) as one, RawClient.connect(address) as two:
            two.send_text("hello")
            try:
                one.receive_text(SOON)
            except TimeoutError:
                return "nobody: one for each client"
            return "a room"


def need(server: Contender) -> str:
    """Look at what is run."""
    if Path(server.program.command[-1]).read_bytes()[:4] == b"\x7fELF":
        return "a binary"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    return "Python " + str(project["requires-python"]).removeprefix(">=")


STUBBORN = """
import signal, subprocess, sys, time
note = open(sys.argv[1], "a", buffering=1)
def heed(number, frame): note.write(signal.Signals(number).name[3:] + "\\n")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, heed)
child = subprocess.Popen(["sleep", "100"])
note.write(f"{child.pid}\\n")
print("ready")
while sys.stdin.read(1): pass
note.write("stdin\\n")
while True: time.sleep(0.1)
"""


def stop_steps(server: Contender) -> str:
    """Let the last client leave a program that takes no hint, and has a child."""
    note = server.note()
    with server.serve(*PYTHON, STUBBORN, os.fspath(note)) as address:
        with RawClient.connect(address) as client:
            client.receive_text(LONG)
            child = int(note.read_text().split()[0])
            parent = read_process(child)
            assert parent is not None
            client.send_close()
        wait_until(lambda: not is_running(parent.parent), LONG, "the program goes on")
        steps = [*note.read_text().split()[1:], "KILL"]
        time.sleep(0.5)
        alone = is_running(child)
        if alone:
            os.kill(child, signal.SIGKILL)
    return ", ".join(steps) + ("" if alone else ", to its whole group")


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    process = read_process(pid)
    return process is not None and process.state != "Z"


def program_exits(server: Contender) -> str:
    """Look at what a client is told when its program has ended, well or badly."""
    ends = []
    for status in (0, 3):
        with server.serve("sh", "-c", f"echo bye; exit {status}") as address:
            with RawClient.connect(address) as client:
                client.receive_text(SOON)
                ends.append(end_of(client))
    return " or ".join(dict.fromkeys(ends))


def end_of(client: RawClient) -> str:
    """Return how a connection ends, if nothing else comes."""
    count, end = read_messages(client, 1)
    assert not count
    return end


def read_messages(client: RawClient, wanted: int) -> tuple[int, str]:
    """Read while messages come; return how many of what is wanted, and how it ended if sooner."""
    for count in range(wanted):
        try:
            opcode, payload = client.receive(SOON)
        except TimeoutError:
            return count, "nothing"
        except (EOFError, ConnectionError):
            return count, "a cut, with no Close"
        if opcode == CLOSE:
            code = struct.unpack("!H", payload[:2])[0] if payload else "with no code"
            return count, f"Close {code}"
    return wanted, ""


# ==== 2. Messages =========================================================

MANY = 100_000
FLOOD = """
import sys
sys.stdin.readline()
line = "x" * 1000
for number in range(40_000): sys.stdout.write(f"{number} {line}\\n")
sys.stdout.flush()
open(sys.argv[1], "w").close()
sys.stdin.read()
"""


def slow_client(server: Contender) -> str:
    """Let a client read nothing for a second, and another one nothing at all."""
    note = server.note()
    with server.serve(*PYTHON, FLOOD, os.fspath(note)) as address:
        with RawClient.connect(address) as client:
            client.send_text("go")
            time.sleep(1)
            held = not note.exists()
            count, _ = read_messages(client, 40_000)
    if count < 40_000:
        return "loses messages"
    words = "slows its program down" if held else "gets all later"
    options = {"this": ["--stall", "1"], "scalesocket": [], "websocketd": []}
    with server.serve(*PYTHON, FLOOD, os.fspath(server.note()), **options) as address:
        with RawClient.connect(address) as client:
            client.send_text("go")
            time.sleep(5)
            _, end = read_messages(client, 40_000)
    return words + (", then is closed with a reason" if end == "Close 1008" else "")


def buffered(server: Contender) -> str:
    """Talk to a program that says nothing before its buffer is full, unless it is helped."""
    with server.serve("tr", "a-z", "A-Z") as address, RawClient.connect(address) as client:
        client.send_text("hello")
        try:
            return YES if client.receive_text(SOON) == "HELLO" else NO
        except TimeoutError:
            return "when its buffer is full"


def many_at_once(server: Contender) -> str:
    """Send many messages through `cat` without waiting for any, and read what comes back."""
    with server.serve("cat") as address, RawClient.connect(address) as client:
        raw = encode_client_frames(["x" * 64] * MANY)

        def send() -> None:
            with contextlib.suppress(OSError, TimeoutError):
                client.send_bytes(raw, timeout=LONG)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        count, _ = read_messages(client, MANY)
        client.sock.close()
        sender.join()
    return "all arrive" if count == MANY else "the program's output stops"


def not_json(server: Contender) -> str:
    """Send what is no JSON, and then what is."""
    with server.serve("cat", this=["--json"], scalesocket=["--json"]) as address:
        with RawClient.connect(address) as client:
            client.receive_text(SOON)
            client.send_text("hello")
            try:
                client.send_text('{"t":"hello"}')
                client.receive_text(SOON)
            except (EOFError, ConnectionError):
                return "ends the connection"
            return "dropped, logged"


def history(server: Contender) -> str:
    """Try sizes, and whether a newcomer gets what was said before."""
    taken = []
    for size in (1, 5, 8, 64, 1000):
        options = ["--cache", f"all:{size}"]
        with (
            contextlib.suppress(BenchError),
            server.serve("cat", this=options, scalesocket=options) as address,
            RawClient.connect(address) as one,
        ):
            one.send_text("hello")
            one.receive_text(SOON)
            with RawClient.connect(address) as two:
                assert two.receive_text(SOON) == "hello"
            taken.append(str(size))
    return "any size" if len(taken) == 5 else f"{', '.join(taken[:-1])} or {taken[-1]}"


SAY = """
import struct, sys
sys.stdout.buffer.write(struct.pack(sys.argv[1] + "III", 0, 1, 5) + b"hello")
sys.stdout.flush()
sys.stdin.read()
"""
HEAR = """
import sys
with open(sys.argv[1], "wb", buffering=0) as note: note.write(sys.stdin.buffer.read(17))
sys.stdin.read()
"""


def gwsocket(server: Contender) -> str:
    """Look for gwsocket's header, in both byte orders, from a program and to it."""
    orders = {">": "network byte order", "<": "little-endian"}
    said, heard = [], b""
    frame = ["--serverframe=gwsocket"]
    for order in orders:
        with server.serve(
            *PYTHON, SAY, order, this=frame, scalesocket=["--binary", *frame]
        ) as address:
            with RawClient.connect(address) as client, contextlib.suppress(OSError, EOFError):
                if client.receive(SOON)[1] == b"hello":
                    said.append(order)
    note, frame = server.note(), ["--clientframe=gwsocket"]
    with server.serve(*PYTHON, HEAR, os.fspath(note), this=frame, scalesocket=frame) as address:
        with RawClient.connect(address) as client, contextlib.suppress(AssertionError):
            client.send_text("hello")
            wait_until(lambda: note.exists() and note.stat().st_size, SOON)
            heard = note.read_bytes()
    both = heard in [struct.pack(order + "III", 1, 1, 5) + b"hello" for order in orders]
    return f"{'both ways' if both else 'from the program'}, {' or '.join(map(orders.get, said))}"


# ==== 3. The wire =========================================================


def pings(server: Contender) -> str:
    """Be silent."""
    options = {"this": ["--ping", "0.5"], "scalesocket": [], "websocketd": []}
    with server.serve("cat", **options) as address, RawClient.connect(address) as client:
        with contextlib.suppress(TimeoutError):
            return YES if client.receive_frame(SOON).opcode == 0x9 else NO
    return NO


def compression(server: Contender) -> str:
    """Offer it."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    options = {"this": ["--compress"], "scalesocket": [], "websocketd": []}
    with (
        server.serve("cat", **options) as address,
        RawClient.connect(address, headers=offer) as client,
    ):
        return YES if "sec-websocket-extensions" in client.response.headers else NO


def deep_paths(server: Contender) -> str:
    """Connect to one."""
    with server.serve("cat") as address:
        try:
            RawClient.connect(address, path="/a/b").sock.close()
        except HandshakeRefused:
            return NO
        return YES


def console(server: Contender) -> str:
    """Look where it is."""
    with server.serve("cat", this=["--console"], websocketd=["--devconsole"]) as address:
        pages = [http_request(address, path=path).status for path in ("/any/where", "/console/")]
    return {(200, 200): "at any path", (404, 200): "at `/console/`"}[pages[0], pages[1]]


ROWS: dict[str, Probe] = {
    "one process is shared by": share,
    "needs": need,
    "a client that reads too slowly": slow_client,
    f"{MANY:,} messages sent at once": many_at_once,
    "lines of `tr` come as they are written": buffered,
    "a message that is not JSON, with JSON framing": not_json,
    "a program exits": program_exits,
    "stops a program with": stop_steps,
    "history for newcomers": history,
    "gwsocket framing": gwsocket,
    "list of rooms, metrics": has("--api", "--metrics"),
    "in-process games, pseudo-terminal, respawn, linger": has(
        "module:Class", "--pty", "--respawn", "--linger"
    ),
    "records its own traffic for Wireshark, draws frames": has("--pcap", "--trace"),
    "pings silent clients": pings,
    "limit for the size of a message": has("--maxmsg|--maxframesize"),
    "checks origins": has("--origin"),
    "Unix sockets": has("--unixsocket"),
    "TLS": has("--sslcert"),
    "asks before it lets in, believes listed proxies, plain TCP clients": has(
        "--auth", "--trustproxy", "--tcplisten"
    ),
    "compression": compression,
    "static files": has("--staticdir"),
    "header fields of one's own": has("--header"),
    "a base path, one page for all paths": has("--basepath", "--spa"),
    "a console": console,
    "paths of several segments": deep_paths,
    "a program for each file of a folder, CGI scripts": has("--dir=", "--cgidir"),
    "redirects http to https": has("--redirport"),
    "looks up clients' names in DNS": has("--reverselookup"),
}


# ==== 4. The table ========================================================


def fill(server: Contender, row: str) -> str:
    """Return the cell of a server in a row."""
    try:
        return ROWS[row](server)
    except Lacks:
        return NO


def format_table(cells: dict[str, list[str]], titles: Sequence[str]) -> str:
    """Return the table as README has it."""
    lines = [["", *titles], ["---"] * (len(titles) + 1)]
    lines += [[row, *values] for row, values in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines) + "\n"


def find_contenders(wanted: str, cache: Path, folder: Path) -> Iterator[Contender]:
    """Yield this server and the peers that are wanted and can be had."""
    yield Contender(find_program(THIS, cache), folder)
    for peer in OTHERS:
        if peer.name in PEERS and wanted in ("all", peer.name):
            try:
                yield Contender(find_program(peer, cache), folder)
            except BenchError as error:
                print(f"left out: {peer.title}: {error}", file=sys.stderr)


def main() -> int:
    """Compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.bench.compare", description=__doc__)
    parser.add_argument("rows", nargs="*", default=["*"], help="patterns of names of rows")
    parser.add_argument("--peers", choices=("all", "none", *PEERS), default="all")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for peers")
    options = parser.parse_args()
    cells: dict[str, list[str]] = {
        row: [] for row in ROWS if any(fnmatch.fnmatch(row, wanted) for wanted in options.rows)
    }
    titles = []
    with tempfile.TemporaryDirectory() as folder:
        for server in find_contenders(options.peers, options.cache, Path(folder)):
            titles.append(server.program.peer.title)
            print(f"{titles[-1]}: {server.program.version or 'as it is here'}", file=sys.stderr)
            for row, values in cells.items():
                values.append(fill(server, row))
    print(format_table(cells, titles), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
