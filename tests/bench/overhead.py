"""What --pcap and --trace cost: two loads with neither, either and both of them.

    python3 -m tests.bench.overhead [--rounds 5] [--quick]

Through `cat`, one client at first pours messages of 64 bytes and reads them meanwhile (the
firehose), and then sends one message at a time and waits for it (echo). Each round starts a fresh
server for each setting, in turn, so that whatever else the machine does meets them all. The trace
goes to /dev/null. The table gives medians over the rounds, and how many times as much (or as fast)
that is as with nothing.

It exits with 1 if a message was lost. What the recorder could not keep up with is no fault, but is
counted; the trace counts frames that came too fast instead of drawing them.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from tests.bench.processes import cpu_seconds
from tests.support import (
    SCRIPT,
    TEXT,
    Address,
    RawClient,
    encode_client_frame,
    encode_client_frames,
    serve,
)

SIZE = 64  # bytes of a message
WARM_UP = 50  # round trips that are not counted
PATIENCE = 20  # seconds without a byte: the rest is lost
RECORDED = ("--pcap", "play.pcapng")
SETTINGS = {
    "nothing": (),
    "--pcap": RECORDED,
    "--trace": ("--trace",),
    "both": (*RECORDED, "--trace"),
}
SILENT = ["sh", "-c", 'exec "$@" >/dev/null', "sh", sys.executable, str(SCRIPT)]


class Figures(NamedTuple):
    """What one server did."""

    rate: float  # messages per second of the firehose
    cpu: float  # seconds that the server used for each of them
    p50: float  # seconds from sending a message to having it back, half of the time
    p99: float  # and 99 times of 100
    lost: int  # messages
    unrecorded: int  # records that the recorder did not keep up with


def make_payloads(count: int) -> list[bytes]:
    """Return numbered messages."""
    return [b"%08d " % number + b"x" * (SIZE - 9) for number in range(count)]


def receive(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes, or fewer if no more come."""
    data = bytearray()
    try:
        while len(data) < size and (piece := sock.recv(min(1 << 18, size - len(data)))):
            data += piece
    except TimeoutError:
        pass  # what is missing will be counted
    return bytes(data)


def pour(sock: socket.socket, count: int) -> tuple[float, int]:
    """Send messages without waiting and read what comes; return seconds, and how many are lost."""
    payloads = make_payloads(count)
    frames = encode_client_frames(payloads)
    expected = [encode_client_frame(TEXT, payload, mask=False) for payload in payloads]
    size = len(expected[0])
    sender = threading.Thread(target=sock.sendall, args=(frames,))
    started = time.perf_counter()
    sender.start()
    data = receive(sock, size * count)
    seconds = time.perf_counter() - started
    sender.join()
    found = {data[at : at + size] for at in range(0, len(data), size)}
    return seconds, count - len(found.intersection(expected))


def echo(sock: socket.socket, trips: int) -> tuple[list[float], int]:
    """Send one message at a time; return the seconds that each took, and how many are lost."""
    times, lost = [], 0
    for payload in make_payloads(WARM_UP + trips):
        frame = encode_client_frame(TEXT, payload)
        expected = encode_client_frame(TEXT, payload, mask=False)
        started = time.perf_counter()
        sock.sendall(frame)
        lost += receive(sock, len(expected)) != expected
        times.append(time.perf_counter() - started)
    return times[WARM_UP:], lost


def connect(server: Address, room: str) -> socket.socket:
    """Enter a room; return the socket, which waits for what it receives."""
    sock = RawClient.connect(server, room).sock
    sock.settimeout(PATIENCE)
    return sock


def measure(options: Sequence[str], count: int, trips: int) -> Figures:
    """Start a server with options, and put both loads on it."""
    with tempfile.TemporaryDirectory() as folder:
        with serve(*options, "cat", command=SILENT, cwd=folder) as server:
            with connect(server, "firehose") as sock:
                before = cpu_seconds(server.pid)
                seconds, lost = pour(sock, count)
                used = cpu_seconds(server.pid) - before
            with connect(server, "echo") as sock:
                times, more_lost = echo(sock, trips)
            server.stop()
            found = re.search(r"recording: (\d+) records", "\n".join(server.log()))
        unrecorded = int(found[1]) if found else 0
        assert ("--pcap" in options) == Path(folder, RECORDED[1]).exists()
    p50, p99 = quantiles(times, n=100)[49::49]
    return Figures(count / seconds, used / count, p50, p99, lost + more_lost, unrecorded)


def report(results: dict[str, list[Figures]]) -> None:
    """Print a line for each setting."""
    print("| | firehose, msg/s | CPU, µs/msg | echo p50, µs | echo p99, µs | lost | not recorded |")
    print("| --- " + "| ---: " * 6 + "|")
    base = [median(column) for column in zip(*results["nothing"], strict=True)]
    for name, rounds in results.items():
        values = [median(column) for column in zip(*rounds, strict=True)][:4]
        scales = (1, 1e6, 1e6, 1e6)
        shown = [
            f"{value * scale:,.{scale > 1:d}f} (×{value / normal:.2f})"
            for value, scale, normal in zip(values, scales, base, strict=False)
        ]
        sums = [str(sum(figures[at] for figures in rounds)) for at in (4, 5)]
        print(f"| {name} |", " | ".join([*shown, *sums]), "|")


def main() -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="does it work? its figures mean nothing"
    )
    arguments = parser.parse_args()
    rounds, count, trips = (
        (1, 5_000, 200) if arguments.quick else (arguments.rounds, 200_000, 2_000)
    )
    results: dict[str, list[Figures]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, options in SETTINGS.items():
            results[name].append(measure(options, count, trips))
    report(results)
    return int(any(figures.lost for found in results.values() for figures in found))


if __name__ == "__main__":
    sys.exit(main())
