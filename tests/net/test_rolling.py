"""Nodes that come, go and are updated behind the real HAProxy and nginx split no room.

Case 23: with 60 open rooms, a fourth node and a reload of HAProxy left 13 rooms in two places, a
reload after the restart of a node 25, and the rolling update of the README behind nginx 15.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.test_proxies_real import node_of
from tests.proxies import PROXY, running_proxy, write_haproxy
from tests.support import (
    PATIENCE,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    free_port,
    open_files,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

# A busy machine answers late; a node that is not there refuses at once.
PATIENT = with_constants("scalesocket.net.relay", ASK_TIMEOUT=PATIENCE, AGREE_TIMEOUT=PATIENCE)
HOSTS = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"]
ROOMS = [f"play-{number}" for number in range(60)]


class Farm:
    """Nodes that all have the same list of peers, and may be started again."""

    def __init__(self, stack: contextlib.ExitStack, hosts: list[str]) -> None:
        self.addresses = [f"{host}:{free_port(host)}" for host in hosts]
        self._stack = stack
        self.nodes: dict[str, ServerProcess] = {}

    def start(self, address: str) -> None:
        host = address.partition(":")[0]
        options = ("--header", f"X-Node: {host}", "--trustproxy", PROXY, "--drain", "1")
        peers = ("--api", "--peers", ",".join(self.addresses))
        self.nodes[address] = self._stack.enter_context(
            serve(*options, *peers, "cat", addr=address, command=PATIENT)
        )


class Residents:
    """Who plays in the rooms. Whoever is cut off comes back at once."""

    def __init__(self, front: tuple[str, int]) -> None:
        self._front = front
        self.clients: dict[str, list[RawClient]] = {room: [] for room in ROOMS}

    def join(self) -> None:
        """Let one more come to each room."""
        for room, clients in self.clients.items():
            clients.append(self._come(room))

    def _come(self, room: str) -> RawClient:
        def try_it() -> RawClient | None:
            with contextlib.suppress(OSError, EOFError, HandshakeRefused):
                return RawClient.connect(self._front, room)
            return None

        client = wait_until(try_it)
        assert client is not None
        return client

    def come_back(self) -> None:
        """Let those come again whose connection has ended, all at the same time."""

        def look(room: str, at: int) -> None:
            client = self.clients[room][at]
            try:
                client.ping(b"?")
                while client.receive() != (0xA, b"?"):
                    pass
            except (Closed, OSError, EOFError, AssertionError):
                client.reset()
                self.clients[room][at] = self._come(room)

        threads = [
            threading.Thread(target=look, args=(room, at))
            for room, clients in self.clients.items()
            for at in range(len(clients))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def see_out(self, node: ServerProcess) -> None:
        """Wait for the end of a node, which closes its clients; they come back elsewhere."""

        def has_ended() -> bool:
            self.come_back()
            return node.process.poll() is not None

        wait_until(has_ended)
        assert node.wait() == 0
        self.come_back()

    def apart(self) -> list[str]:
        """Return the rooms that are in several places."""
        places = {room: {node_of(one) for one in some} for room, some in self.clients.items()}
        return [room for room, nodes in places.items() if len(nodes) > 1]

    def leave(self) -> None:
        for clients in self.clients.values():
            while clients:
                clients.pop().reset()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def reload_haproxy(
    stack: contextlib.ExitStack,
    old: subprocess.Popen[bytes],
    folder: Path,
    nodes: list[str],
    port: int,
) -> subprocess.Popen[bytes]:
    """Have a new process take over, as `systemctl reload haproxy` does; the old one sees its
    connections out."""
    command = [*write_haproxy(folder, nodes, port), "-sf", str(old.pid)]
    with (folder / "haproxy.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def end() -> None:
        process.terminate()
        process.wait(PATIENCE)

    stack.callback(end)
    wait_until(lambda: listens(process.pid, port) and not listens(old.pid, port))
    return process


def listens(pid: int, port: int) -> bool:
    """Whether a process has a listening socket at a port."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in table]
    inodes = {row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
    held: list[str] = []
    with contextlib.suppress(OSError):  # it has ended
        held = open_files(pid)
    return any(f"socket:[{inode}]" in held for inode in inodes)


def test_a_node_more_and_a_reload_of_haproxy_split_no_room(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    farm = Farm(stack, HOSTS)
    for address in farm.addresses[:3]:
        farm.start(address)
    process, front = stack.enter_context(running_proxy("haproxy", tmp_path, farm.addresses[:3]))
    residents = Residents(front)
    stack.callback(residents.leave)
    residents.join()
    farm.start(farm.addresses[3])
    process = reload_haproxy(stack, process, tmp_path, farm.addresses, front[1])
    residents.join()
    assert residents.apart() == []
    last = farm.addresses[1]
    farm.nodes[last].process.send_signal(signal.SIGTERM)
    residents.see_out(farm.nodes[last])
    assert residents.apart() == []
    farm.start(last)
    reload_haproxy(stack, process, tmp_path, farm.addresses, front[1])
    residents.join()
    assert residents.apart() == []
    residents.leave()


def test_a_rolling_update_behind_nginx_splits_no_room(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    farm = Farm(stack, HOSTS[:3])
    for address in farm.addresses:
        farm.start(address)
    _, front = stack.enter_context(running_proxy("nginx", tmp_path, farm.addresses))
    residents = Residents(front)
    stack.callback(residents.leave)
    residents.join()
    for address in farm.addresses:
        node = farm.nodes[address]
        node.process.send_signal(signal.SIGTERM)
        node.wait_log("draining")
        residents.join()
        residents.see_out(node)
        assert residents.apart() == []
        farm.start(address)
        residents.join()
        assert residents.apart() == []
    residents.leave()
