"""What it costs to find a room: a join, by where the room is open, with and without --peers.

    python3 -m tests.bench.joins [--rounds 3] [--quick]

Joins one after the other, from the connection to the response of the handshake, to rooms of a game
inside the server, so that no program has to start; then messages and their echoes, in a room of the
node and in one that it passes its client through to. CPU is that of the nodes together.
The table gives medians over the rounds. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.bench.processes import cpu_seconds
from tests.support import RawClient, ServerProcess, serve

ECHO = """\
from scalesocket import Game


class Echo(Game):
    def on_message(self, client, message):
        client.send(message)
"""


class Figures(NamedTuple):
    """What one round has shown of one kind of join or message."""

    seconds: float  # the median
    cpu: float  # seconds of all nodes, each


@contextlib.contextmanager
def nodes(count: int, *more: str) -> Iterator[list[ServerProcess]]:
    """Run nodes that know each other; one alone knows none."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        Path(folder, "echo_game.py").write_text(ECHO)
        ports = [free_port() for _ in range(count)]
        listed = ",".join([*(f"127.0.0.1:{port}" for port in ports), *more])
        peers = ("--api", "--peers", listed) if count > 1 or more else ()
        options = (*peers, "--metrics", "echo_game:Echo")
        yield [
            stack.enter_context(serve(*options, addr=f"127.0.0.1:{port}", cwd=folder))
            for port in ports
        ]


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def measure(servers: list[ServerProcess], count: int, act: Callable[[int], None]) -> Figures:
    """Do something so many times."""
    before = sum(cpu_seconds(server.pid) for server in servers)
    times = []
    for number in range(count):
        began = time.perf_counter()
        act(number)
        times.append(time.perf_counter() - began)
    used = sum(cpu_seconds(server.pid) for server in servers) - before
    return Figures(median(times), used / count)


class Crowd:
    """Clients that stay until `leave`."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def join(self, server: ServerProcess, room: str) -> RawClient:
        """Let one more come."""
        return self._stack.enter_context(RawClient.connect(server, room))

    def measure_joins(
        self, servers: list[ServerProcess], count: int, name: Callable[[int], str]
    ) -> Figures:
        """Let so many come to the first server, to rooms of these names."""

        def come(number: int) -> None:
            self.join(servers[0], name(number))

        return measure(servers, count, come)

    def leave(self) -> None:
        """Let all go."""
        self._stack.close()


def run_round(count: int) -> dict[str, Figures]:
    """Measure all kinds once."""
    found = {}
    for size in (1, 3, 9):
        name = "no --peers" if size == 1 else f"{size} nodes"
        with nodes(size) as servers:
            crowd = Crowd()
            crowd.join(servers[0], "here")
            found[f"a new room, {name}"] = crowd.measure_joins(servers, count, "new-{}".format)
            found[f"a room that is open here, {name}"] = crowd.measure_joins(
                servers, count, lambda _: "here"
            )
            if size == 3:
                crowd.join(servers[1], "there")
                found["a room that is open on another of 3 nodes"] = crowd.measure_joins(
                    servers, count, lambda _: "there"
                )
                for where, room in (("here", "here"), ("on another node", "there")):
                    client = crowd.join(servers[0], room)
                    found[f"a message and its echo, {where}"] = echo(servers, client, 5 * count)
            crowd.leave()
    found |= run_beside_silence(count)
    return found


def run_beside_silence(count: int) -> dict[str, Figures]:
    """Measure what a peer costs that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with nodes(2, f"127.0.0.1:{silent.getsockname()[1]}") as servers:
            crowd = Crowd()
            first = crowd.measure_joins(servers, 1, "first-{}".format)
            later = crowd.measure_joins(servers, count, "later-{}".format)
            crowd.leave()
    return {"the first new room beside a silent peer": first, "… and the next ones": later}


def echo(servers: list[ServerProcess], client: RawClient, count: int) -> Figures:
    """Say something and wait until it is heard."""

    def say(number: int) -> None:
        text = f"bench {number}"
        client.send_text(text)
        assert client.receive_text() == text

    return measure(servers, count, say)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench.joins")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny counts")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    results = [run_round(10 if options.quick else 200) for _ in range(rounds)]
    print("| what | ms | nodes' CPU, µs each |")
    print("| --- | ---: | ---: |")
    for name in results[0]:
        seconds = median(result[name].seconds for result in results)
        cpu = median(result[name].cpu for result in results)
        print(f"| {name} | {seconds * 1e3:.2f} | {cpu * 1e6:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
