"""What a proxy in front of the nodes costs: its CPU for each delivery, its memory for each client.

    python3 -m tests.bench.proxies [--rounds 3] [--quick]

A room of `cat` with 200 clients, the next message when all have it, directly and through HAProxy
and nginx as --print-config configures them (one worker of nginx; HAProxy has a thread for each
core); then 1,000 clients that only stay. The table gives medians over the rounds. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.bench.overhead import connect, receive
from tests.bench.processes import cpu_seconds, memory
from tests.proxies import running_proxy
from tests.support import TEXT, ServerProcess, descendants, encode_client_frame, processes, serve

KINDS = ("none", "haproxy", "nginx")
SIZE = 64  # bytes of a message


class Figures(NamedTuple):
    """What one round has shown."""

    rate: float  # deliveries per second
    proxy_cpu: float  # seconds of the proxy for each of them
    node_cpu: float  # and of the node
    memory: float  # bytes of the proxy for each client that only stays
    descriptors: float  # of the proxy for each of them


@contextlib.contextmanager
def front(kind: str, server: ServerProcess) -> Iterator[tuple[list[int], tuple[str, int]]]:
    """Run a proxy in front of a server; yield its processes and its address."""
    if kind == "none":
        yield [], (server.host, server.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        node = f"{server.host}:{server.port}"
        with running_proxy(kind, Path(folder), [node]) as (process, address):
            family = [child.pid for child in descendants(process.pid, processes())]
            yield [process.pid, *family], address


def count_descriptors(pids: list[int]) -> int:
    """Return how many descriptors processes have open."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def measure(kind: str, clients: int, messages: int, idle: int) -> Figures:
    """Put both loads on a node, through a proxy.

    Raises:
        AssertionError: a message was lost.
    """
    frame = encode_client_frame(TEXT, b"x" * SIZE)
    size = len(encode_client_frame(TEXT, b"x" * SIZE, mask=False))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serve("--ping", "0", "cat"))
        pids, address = stack.enter_context(front(kind, server))

        def used() -> float:
            return sum(map(cpu_seconds, pids))

        crowd = [stack.enter_context(connect(address, "room")) for _ in range(clients)]
        began, of_proxy, of_node = time.perf_counter(), used(), cpu_seconds(server.pid)
        for _ in range(messages):
            crowd[0].sendall(frame)
            assert all(len(receive(sock, size)) == size for sock in crowd), "a message is lost"
        seconds = time.perf_counter() - began
        deliveries = clients * messages
        of_proxy, of_node = used() - of_proxy, cpu_seconds(server.pid) - of_node
        before, open_before = sum(memory(p, "VmRSS") for p in pids), count_descriptors(pids)
        quiet: list[socket.socket] = []
        for number in range(idle):
            quiet.append(stack.enter_context(connect(address, f"quiet-{number % 20}")))
        grown = sum(memory(p, "VmRSS") for p in pids) - before
        opened = count_descriptors(pids) - open_before
    kept, opened = grown / idle, opened / idle
    return Figures(deliveries / seconds, of_proxy / deliveries, of_node / deliveries, kept, opened)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench.proxies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny counts")
    options = parser.parse_args()
    sizes = (10, 20, 20) if options.quick else (200, 250, 1000)
    rounds = 1 if options.quick else options.rounds
    results: dict[str, list[Figures]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            results[kind].append(measure(kind, *sizes))
    print("| proxy | deliveries/s | its CPU, µs each | node's CPU, µs | KiB/client | fds/client |")
    print("| --- " + "| ---: " * 5 + "|")
    for kind, found in results.items():
        rate, proxy, node, kept, opened = (median(column) for column in zip(*found, strict=True))
        figures = f"{rate:,.0f} | {proxy * 1e6:.2f} | {node * 1e6:.2f} | {kept / 1024:.1f}"
        print(f"| {kind} | {figures} | {opened:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
