"""What a second core brings: two busy rooms in one process, and on two workers.

    python3 -m tests.bench.workers [--rounds 5] [--quick]
    python3 -m tests.bench.workers --free PYTHON    in one process of a Python without the GIL

In each room, one client pours messages, and reads meanwhile what comes back: through `cat`, with
and without JSON framing, and through an in-process game that reads and writes JSON. Each round
starts a fresh server for each setting, in turn. The table gives medians over the rounds: messages
per second of both rooms together, how many times as many that is on two workers, or without the
interpreter lock, and the cores that server and programs kept busy, and + the load generator.

It exits with 1 if a message was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any, NamedTuple

from scalesocket import Client, Game, GameRoom
from tests.bench.overhead import connect, receive
from tests.bench.processes import children_cpu_seconds, cpu_seconds
from tests.support import ROOT, SCRIPT, encode_client_frames, serve

ROOMS = ("room-0", "room-4")  # each belongs to another of two workers
LOADS = {  # messages in each room, and the server's options
    "`cat`": (400_000, "cat"),
    "`cat`, JSON framing": (200_000, "--frame=json", "cat"),
    "in-process game, JSON": (100_000, "tests.bench.workers:Counter"),
}


class Counter(Game):
    """Says back what it is told, and how often it has been told something."""

    def on_create(self, room: GameRoom) -> None:
        """Begin to count."""
        self._room = room
        self._count = 0

    def on_message(self, client: Client, message: str | bytes) -> None:
        """Read, count, and write."""
        told: dict[str, Any] = json.loads(message)
        self._count += 1
        self._room.broadcast(json.dumps({"from": client.id % 10, "even": self._count % 2, **told}))


class Figures(NamedTuple):
    """What one server did."""

    rate: float  # messages per second, of both rooms together
    cores: float  # processors that server and programs kept busy
    load: float  # and the load generator
    lost: int  # messages


def make_frames(count: int) -> bytes:
    """Return numbered messages of 64 bytes as frames."""
    text = b"x" * 38
    return encode_client_frames(b'{"n":"%08d","text":"%b"}' % (n, text) for n in range(count))


class Poured(NamedTuple):
    """What a room has carried."""

    ended: float  # on the monotonic clock, which all processes share
    cpu: float  # seconds of this process
    lost: int  # messages


def pour(address: tuple[str, int], room: str, count: int, begin: float) -> Poured:
    """Send messages to a room from a time on, and read what comes."""
    frames = make_frames(count)
    with connect(address, room) as sock:
        sock.sendall(make_frames(1))
        size = len(sock.recv(1 << 16))  # all of them will come back as long
        time.sleep(max(0.0, begin - time.monotonic()))
        used = time.process_time()
        sender = threading.Thread(target=sock.sendall, args=(frames,))
        sender.start()
        data = receive(sock, size * count)
        ended, used = time.monotonic(), time.process_time() - used
        sender.join()
    numbers = re.findall(rb'"n": ?"(\d{8})"', data)
    return Poured(ended, used, count - len(set(numbers)))


def measure(
    pool: ProcessPoolExecutor, options: Sequence[str], count: int, python: str = sys.executable
) -> Figures:
    """Start a server with options, and pour into both rooms at the same time."""
    with serve(*options, cwd=ROOT, command=(python, os.fspath(SCRIPT))) as server:
        begin = time.monotonic() + 1.0 + count / 200_000
        address = (server.host, server.port)
        futures = [pool.submit(pour, address, room, count, begin) for room in ROOMS]
        time.sleep(begin - time.monotonic())
        used = cpu_seconds(server.pid) + children_cpu_seconds(server.pid)
        poured = [future.result() for future in futures]
        used = cpu_seconds(server.pid) + children_cpu_seconds(server.pid) - used
    seconds = max(room.ended for room in poured) - begin
    return Figures(
        count * len(ROOMS) / seconds,
        used / seconds,
        sum(room.cpu for room in poured) / seconds,
        sum(room.lost for room in poured),
    )


def report(name: str, one: Sequence[Figures], two: Sequence[Figures]) -> None:
    """Print a line for a load."""
    before, after = (Figures(*map(median, zip(*found, strict=True))) for found in (one, two))
    ratios = [b.rate / a.rate for a, b in zip(one, two, strict=True)]
    lost = sum(figures.lost for figures in (*one, *two))
    cores = " | ".join(f"{figures.cores:.1f} + {figures.load:.1f}" for figures in (before, after))
    print(
        f"| {name} | {before.rate:,.0f} | {after.rate:,.0f} | ×{median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) | {cores} | {lost} |"
    )


def main() -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="does it work? its figures mean nothing"
    )
    parser.add_argument("--free", metavar="PYTHON", help="compare with one process of this Python")
    arguments = parser.parse_args()
    rounds, divisor = (1, 100) if arguments.quick else (arguments.rounds, 1)
    other = "without the GIL" if arguments.free else "two workers"
    print(f"| two rooms, msg/s | one process | {other} | ratio | its cores | theirs | lost |")
    print("| --- " + "| ---: " * 6 + "|")
    lost = 0
    with ProcessPoolExecutor(len(ROOMS)) as pool:
        for name, (count, *options) in LOADS.items():
            one, two = [], []
            for _ in range(rounds):
                one.append(measure(pool, options, count // divisor))
                if arguments.free:
                    two.append(measure(pool, options, count // divisor, arguments.free))
                else:
                    two.append(measure(pool, ["--workers=2", *options], count // divisor))
            report(name, one, two)
            lost += sum(figures.lost for figures in (*one, *two))
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
