"""Many moving players in one room of the sandbox: are its ticks on time?

    python3 -m tests.bench.ticks --players 200 --seconds 20

A real server runs in one process and a cheap crowd in another. Each player walks and aims, in a
new direction at each message; the crowd reads everything the server sends and takes note of when
each client got its `Players` packets, and of how many rows were in them.

The server says itself how late its ticks began (/metrics); one that was left out counts as late.
Where other work keeps the cores busy a tick waits for one, however short it is: the last line says
how much of that there was (Linux).

It prints what it measured, and exits with 1 if fewer than 95 % of the ticks were less than 10 ms
late, or if a client was not shown its surroundings.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import re
import selectors
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import quantiles

from scalesocket.net.sandbox_packets import (
    SUBPROTOCOL,
    Aim,
    AutoAttack,
    Death,
    Move,
    PlayerRow,
    Profile,
    Spawn,
    encode,
)

from tests.support import (
    BINARY,
    ROOT,
    ServerProcess,
    encode_client_frame,
    http_request,
    serve,
)

WANTED = 0.95  # of the ticks
ON_TIME = 0.01  # seconds; a bound of the server's histogram
TICK_RATE = 20
PLAYERS_HEAD = b"\x92\xa233\x91"  # [ "33", [
DEATH = encode(Death())


# ==== 1. The crowd ========================================================
# Runs in a process of its own, and so cheaply that it is the server that is measured: frames are
# built beforehand, and of what comes only the heads are looked at.


def connect(address: tuple[str, int]) -> tuple[socket.socket, bytes]:
    """Perform the opening handshake; return the socket, and what has come behind the answer."""
    sock = socket.create_connection(address)
    fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}")
    head = ("GET /bench HTTP/1.1", f"Host: {address[0]}", *fields, *key, "", "")
    sock.sendall("\r\n".join(head).encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(4096)
    answer, _, rest = data.partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return sock, rest


class Member:
    """A client that walks about, is born again when it has died, and counts what it is sent."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self.sock, self._rest = connect(address)
        self.messages = 0
        self.size = 0  # bytes
        self.rows = 0  # in all `Players` packets
        self.seen_at = array("d")  # when they came
        self._birth = encode_client_frame(BINARY, encode(Spawn(Profile("bench", number % 8))))
        self._chance = random.Random(number)
        self.sock.send(self._birth)

    def speak(self, frames: Sequence[bytes]) -> None:
        """Send one of some frames."""
        self.sock.send(self._chance.choice(frames))

    def hear(self) -> None:
        """Read what has come.

        Raises:
            EOFError: the server has closed the connection.
        """
        data = self.sock.recv(1 << 18)
        if not data:
            raise EOFError("the server has closed a connection")
        self.size += len(data)
        data = self._rest + data
        start, have = 0, len(data)
        while have - start >= 4:
            size, body = data[start + 1], start + 2
            if size == 126:
                size, body = int.from_bytes(data[start + 2 : start + 4], "big"), start + 4
            assert data[start] == 0x82 and data[start + 1] < 127, data[start : start + 60]
            if body + size > have:
                break
            self._count(data, body)
            start = body + size
        self._rest = data[start:]

    def _count(self, data: bytes, body: int) -> None:
        self.messages += 1
        if data.startswith(PLAYERS_HEAD, body):
            self.seen_at.append(time.monotonic())
            at = body + len(PLAYERS_HEAD)
            long = data[at] == 0xDC  # a list of up to 15 items has its length in the first byte
            count = int.from_bytes(data[at + 1 : at + 3], "big") if long else data[at] & 15
            self.rows += count // len(PlayerRow._fields)
        elif data.startswith(DEATH, body):
            self.sock.send(self._birth)


def roam(members: list[Member], seconds: float, rate: float) -> None:
    """Let everyone send `rate` messages per second, evenly spread, and hear what comes."""
    turns = [math.tau * n / 64 - math.pi for n in range(64)]
    packets = [kind(turn) for turn in turns for kind in (Move, Aim)]
    frames = [encode_client_frame(BINARY, encode(packet)) for packet in packets]
    selector = selectors.DefaultSelector()
    now = time.monotonic()
    ends = now + seconds
    due = [(now + n / len(members) / rate, n) for n in range(len(members))]  # a heap
    for member in members:
        selector.register(member.sock, selectors.EVENT_READ, member)
    while (now := time.monotonic()) < ends:
        while due[0][0] <= now:
            at, number = heapq.heappop(due)
            members[number].speak(frames)
            heapq.heappush(due, (at + 1 / rate, number))
        for key, _ in selector.select(max(0.0, min(due[0][0], ends) - time.monotonic())):
            key.data.hear()
    selector.close()


def run_crowd(host: str, port: int, options: argparse.Namespace) -> dict[str, float]:
    """Play, and return what the crowd has seen between the two lines it prints."""
    members = [Member((host, port), number) for number in range(options.players)]
    if options.fight:
        for member in members:
            member.sock.send(encode_client_frame(BINARY, encode(AutoAttack())))
    roam(members, 2.0, options.rate)  # until everyone knows the scenery
    for member in members:
        member.messages = member.size = member.rows = 0
        del member.seen_at[:]
    print("begin", flush=True)
    roam(members, options.seconds, options.rate)
    print("end", flush=True)
    gaps = [b - a for m in members for a, b in zip(m.seen_at, m.seen_at[1:], strict=False)]
    shown = [len(member.seen_at) for member in members]
    return {
        "messages": sum(member.messages for member in members) / options.seconds,
        "bytes": sum(member.size for member in members) / options.seconds,
        "least": min(shown) / options.seconds,
        "most": max(shown) / options.seconds,
        "visible": sum(member.rows for member in members) / max(1, sum(shown)),
        "p99_gap": quantiles(gaps, n=100)[98] if len(gaps) > 1 else math.inf,
        "worst_gap": max(gaps, default=math.inf),
    }


# ==== 2. The server =======================================================


def read_metrics(server: ServerProcess) -> dict[str, float]:
    """Return what the server counts, and the processor time it has used."""
    text = http_request(server, path="/metrics").body.decode()
    found = dict(re.findall(r"^scalesocket_(\S+) (\S+)$", text, re.MULTILINE))
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    numbers = {name: float(value) for name, value in found.items()}
    return numbers | {"used": used, "waited": read_waiting(server.pid), "time": time.monotonic()}


def read_waiting(pid: int) -> float:
    """Return the seconds that the room's thread, the busiest, was ready but had no core."""
    threads = []
    tasks = Path(f"/proc/{pid}/task")
    for task in set(tasks.iterdir()) - {tasks / str(pid)}:  # the main thread only starts up
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            ran, waited, _ = map(int, (task / "schedstat").read_text().split())
            threads.append((ran, waited))
    return max(threads)[1] / 1e9


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Run a server and a crowd; return what both have counted meanwhile."""
    with serve("sandbox", "--metrics") as server:
        crowd = [sys.executable, "-m", "tests.bench.ticks", "--crowd", f"{server.port}"]
        crowd += [f"--{name}={getattr(options, name)}" for name in ("players", "seconds", "rate")]
        crowd += ["--fight"] if options.fight else []
        with subprocess.Popen(crowd, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                wait_for_line(process, "begin")
                before = read_metrics(server)
                wait_for_line(process, "end")
                after = read_metrics(server)
                seen = json.loads(process.stdout.readline())
            finally:
                process.kill()
    counted = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return counted | {f"crowd_{name}": value for name, value in seen.items()}


def wait_for_line(process: subprocess.Popen[str], wanted: str) -> None:
    """Wait for a line of the crowd.

    Raises:
        RuntimeError: it ended without it.
    """
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != wanted:
        raise RuntimeError(f"the crowd said {line!r} instead of {wanted!r}")


def report(options: argparse.Namespace, got: dict[str, float]) -> bool:
    """Print the results; return whether they are good enough."""
    ticks = got["tick_lateness_seconds_count"] + got["ticks_skipped_total"]
    on_time = got[f'tick_lateness_seconds_bucket{{le="{ON_TIME}"}}'] / max(1, ticks)
    mean_tick = got["tick_seconds_sum"] / max(1, got["tick_seconds_count"])
    print(f"{options.players} players, {options.rate:g} messages/s from each")
    print(f"ticks: {ticks:.0f}, of them {on_time:.1%} less than {ON_TIME * 1000:g} ms late", end="")
    print(f", {got['ticks_skipped_total']:.0f} left out; a tick takes {mean_tick * 1000:.1f} ms")
    print(f"each client was shown its surroundings {got['crowd_least']:.1f}", end="")
    print(f" to {got['crowd_most']:.1f} times/s, {got['crowd_visible']:.1f} players at a time")
    print(f"between two of these: p99 {got['crowd_p99_gap'] * 1000:.0f} ms", end="")
    print(f", worst {got['crowd_worst_gap'] * 1000:.0f} ms")
    print(f"delivered: {got['crowd_messages']:,.0f} packets/s", end="")
    print(f", {got['crowd_bytes'] / 1e6:.2f} MB/s")
    used, waited = (got[name] / got["time"] for name in ("used", "waited"))
    print(f"the server used {used:.0%} of one core", end="")
    print(f"; its room was ready but other processes had the cores {waited:.0%} of the time")
    return on_time >= WANTED and got["crowd_least"] >= WANTED * TICK_RATE


def main() -> int:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--players", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=5.0, help="messages per second from each")
    parser.add_argument("--fight", action="store_true", help="everyone attacks all the time")
    parser.add_argument("--crowd", type=int, help=argparse.SUPPRESS)  # the port; used by itself
    options = parser.parse_args()
    if options.crowd:
        print(json.dumps(run_crowd("127.0.0.1", options.crowd, options)), flush=True)
        return 0
    return 0 if report(options, measure(options)) else 1


if __name__ == "__main__":
    sys.exit(main())
