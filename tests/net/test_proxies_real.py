"""Three nodes behind the real HAProxy and nginx, configured by --print-config."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from scalesocket.client.reconnecting import Backoff, Lost, Opened, Received, Reconnecting
from scalesocket.client.websocket import connect

from tests.certificates import Certificates
from tests.proxies import PROXY, find, proxy
from tests.support import (
    PATIENCE,
    ROOT,
    SCRIPT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    free_port,
    http_request,
    open_socket,
    serve,
    slowness,
    wait_until,
    worker_number,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

KINDS = ["haproxy", "nginx"]
HOSTS = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
RETURN = 3.0  # seconds in which the median client is back, on a machine that nobody else uses


TLS_IN_FRONT = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend players
    bind 127.0.0.1:{port} ssl crt {certificate} alpn http/1.1
    default_backend rooms
backend rooms
    server one {node} {says}
"""


# ==== Proxies and nodes ===================================================


def node(
    host: str,
    *options: str,
    port: int = 0,
    front: str = PROXY,
    command: Sequence[str] | None = None,
) -> contextlib.AbstractContextManager[ServerProcess]:
    """Return a server that says in each handshake which node it is.

    Args:
        front: where the proxy comes from.
        command: what to run it by.
    """
    name = ("--header", f"X-Node: {host}", "--trustproxy", front)
    return serve(*name, *options, addr=f"{host}:{port}", command=command)


class Nodes(NamedTuple):
    """Three servers, each at an address of its own."""

    servers: dict[str, ServerProcess]  # by host

    @property
    def addresses(self) -> list[str]:
        return [f"{server.host}:{server.port}" for server in self.servers.values()]


@contextlib.contextmanager
def three_nodes(*options: str) -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        yield Nodes({host: stack.enter_context(node(host, *options)) for host in HOSTS})


def node_of(client: RawClient) -> str:
    assert client.response is not None
    return client.response.headers["x-node"]


class Machine(NamedTuple):
    """A network namespace, and the cable to it."""

    space: str
    cable: str  # our end of it
    ours: str  # the address of that
    host: str  # the address of the other end

    def server(self, *options: str) -> contextlib.AbstractContextManager[ServerProcess]:
        """Return a node in there."""
        command = ["ip", "netns", "exec", self.space, sys.executable, os.fspath(SCRIPT)]
        return node(self.host, *options, port=9000, front=self.ours, command=command)

    def pull_the_plug(self) -> None:
        run_ip("link", "set", self.cable, "down")

    def vanish(self) -> None:
        """Answer nothing any more, which nobody notices here."""
        run_ip("-n", self.space, "address", "flush", "dev", "eth0")


def run_ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def remove_leftovers(name: str) -> None:
    """Remove a machine that a run before this one had no time to remove: it was killed.

    It answers at the same addresses, and refuses whoever connects.
    """
    if Path("/run/netns", name).exists():
        with contextlib.suppress(OSError):  # our end has gone with the other one
            run_ip("link", "delete", name)
        run_ip("netns", "delete", name)


@contextlib.contextmanager
def machine(number: int) -> Iterator[Machine]:
    """Make a machine, of a range of addresses that is meant for tests (RFC 2544)."""
    number += 10 * worker_number() % 250
    name, net = f"node{number}", f"198.18.{number}"
    made = Machine(name, name, f"{net}.1", f"{net}.2")
    with contextlib.ExitStack() as stack:
        remove_leftovers(name)
        run_ip("netns", "add", name)
        stack.callback(run_ip, "netns", "delete", name)
        run_ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        stack.callback(run_ip, "link", "delete", made.cable)
        run_ip("address", "add", f"{made.ours}/24", "dev", made.cable)
        run_ip("link", "set", made.cable, "up")
        run_ip("-n", name, "address", "add", f"{made.host}/24", "dev", "eth0")
        run_ip("-n", name, "link", "set", "eth0", "up")
        yield made


@contextlib.contextmanager
def make_machines(*numbers: int) -> Iterator[list[Machine]]:
    """Make machines, where this one may have them; a test is skipped where it may not."""
    with contextlib.ExitStack() as stack:
        try:
            made = [stack.enter_context(machine(number)) for number in numbers]
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield made


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    with make_machines(0, 1, 2) as made:
        yield made


def find_rooms(front: tuple[str, int], host: str, count: int) -> list[str]:
    """Return names of rooms that a proxy sends to a node."""
    found: list[str] = []
    for number in range(300):
        with RawClient.connect(front, f"find-{number}") as client:
            if node_of(client) == host:
                found.append(f"find-{number}")
            client.close()
        if len(found) == count:
            return found
    raise AssertionError(f"of 300 rooms only {found} are on {host}")


def exchange_text(client: RawClient, text: str) -> None:
    """Send a message to a room of `cat` and wait until it has come back."""
    client.send_text(text)
    while client.receive_text() != text:
        pass


def test_a_machine_that_a_killed_run_has_left_is_in_nobodys_way() -> None:
    killed = f"import os, {__name__} as tests\nwith tests.machine(9): os._exit(0)"
    if subprocess.run([sys.executable, "-c", killed], cwd=ROOT, timeout=PATIENCE).returncode:
        pytest.skip("no network namespaces here")
    with machine(9) as made, made.server("cat") as server:
        with RawClient.connect(server, "lobby") as client:
            exchange_text(client, "hello")


# ==== All clients of a room meet ==========================================


@pytest.mark.parametrize("kind", KINDS)
def test_all_clients_of_a_room_meet_in_one_process(kind: str, tmp_path: Path) -> None:
    spellings = ["/room-%d", "/room-%d/", "/%%72oom-%d?who=b", "/room%%2D%d"]
    with three_nodes("--api", "cat") as nodes, proxy(kind, tmp_path, nodes.addresses) as front:
        used = set()
        for number in range(12):
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(RawClient.connect(front, path=spelling % number))
                    for spelling in spellings
                ]
                hosts = {node_of(client) for client in clients}
                assert len(hosts) == 1, f"room {number} is on {hosts}"
                used |= hosts
                clients[0].send_text("hello")
                assert [client.receive_text() for client in clients] == ["hello"] * 4
                facts = http_request(front, path=f"/api/room-{number}/connections")
                assert (facts.status, facts.body) == (200, b"4")
        assert len(used) >= 2


@pytest.mark.parametrize("kind", [*KINDS, "v2"])
def test_the_address_of_the_client_arrives(kind: str, tmp_path: Path) -> None:
    options = ("--joinmsg", "#REMOTE_ADDR", "cat")
    with three_nodes(*options) as nodes, proxy(kind, tmp_path, nodes.addresses) as front:
        sock = socket.create_connection(front, PATIENCE, source_address=("127.0.0.9", 0))
        with RawClient(sock) as client:
            forged = {"X-Forwarded-For": "203.0.113.1"}
            client.upgrade("localhost", "/room", forged)
            assert client.receive_text() == "127.0.0.9"


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_the_name_that_the_proxy_has_are_of_the_same_origin(
    kind: str, tmp_path: Path
) -> None:
    """With --sameorigin the nodes know a name that only the proxy has: X-Forwarded-Host."""
    options = ("--sameorigin", "cat")
    with three_nodes(*options) as nodes, proxy(kind, tmp_path, nodes.addresses) as front:
        named = {"Host": "game.example", "X-Forwarded-Host": "evil.example"}
        with RawClient.connect(front, headers={**named, "Origin": "http://game.example"}) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"
        with pytest.raises(HandshakeRefused) as caught:
            RawClient.connect(front, headers={**named, "Origin": "http://evil.example"})
        assert caught.value.status == 403


# ==== A node that is killed ===============================================


class Player:
    """A client of `client/` that talks to its room, is cut off, and comes back."""

    def __init__(self, front: tuple[str, int], room: str) -> None:
        self._url = f"ws://{front[0]}:{front[1]}/{room}"
        self._link = Reconnecting(lambda: connect(self._url), backoff=Backoff())
        self.played_at: list[float] = []  # when it had an answer, for each connection
        self.lost_at: list[float] = []
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        answered = False
        for event in self._link.events():
            if isinstance(event, Opened):
                answered = False
                with contextlib.suppress(Exception):  # then it is lost, and comes back
                    event.ws.send("play")
            elif isinstance(event, Received) and not answered:
                answered = True
                self.played_at.append(time.monotonic())
            elif isinstance(event, Lost):
                self.lost_at.append(time.monotonic())

    def stop(self) -> None:
        self._link.stop()

    def join(self) -> None:
        self._thread.join()


@pytest.mark.parametrize("end", ["killed", "told to end", "drained"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_ends_moves_its_own_rooms_only(kind: str, end: str, tmp_path: Path) -> None:
    options = ("--drain", "0.2") if end == "drained" else ()
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(three_nodes(*options, "cat"))
        front = stack.enter_context(proxy(kind, tmp_path, nodes.addresses))
        victim = nodes.servers[HOSTS[1]]
        doomed = find_rooms(front, HOSTS[1], 3)
        others = find_rooms(front, HOSTS[0], 2) + find_rooms(front, HOSTS[2], 2)
        players = {room: [Player(front, room) for _ in range(2)] for room in doomed + others}
        everyone = [player for pair in players.values() for player in pair]
        for player in everyone:
            stack.callback(player.join)
        for player in everyone:
            stack.callback(player.stop)
        wait_until(lambda: all(player.played_at for player in everyone))
        slow = slowness()
        ended_at = time.monotonic()
        if end == "killed":
            victim.kill()
        else:
            assert victim.stop() == 0  # its clients are told 1001, or 1012
        # The median over six players: on a busy machine one may be late.
        moved = [player for room in doomed for player in players[room]]
        wait_until(lambda: all(len(player.played_at) > 1 for player in moved))
        back = [player.played_at[-1] - ended_at for player in moved]
        slow = max(slow, slowness())  # it may have become busy since
        assert statistics.median(back) < RETURN * slow, back
        for room in others:
            assert [player.lost_at for player in players[room]] == [[], []]
        for room in doomed:  # and they have met again
            with contextlib.ExitStack() as pair:
                two = [pair.enter_context(RawClient.connect(front, room)) for _ in range(2)]
                assert node_of(two[0]) == node_of(two[1]) != HOSTS[1]


@pytest.mark.parametrize("kind", KINDS)
def test_all_clients_of_a_room_meet_on_one_of_three_machines(
    kind: str, machines: list[Machine], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        options = ("--joinmsg", "#REMOTE_ADDR", "cat")
        servers = [stack.enter_context(made.server(*options)) for made in machines]
        nodes = [f"{server.host}:{server.port}" for server in servers]
        front = stack.enter_context(proxy(kind, tmp_path, nodes))
        used = set()
        for number in range(12):
            with (
                RawClient.connect(front, f"room-{number}") as one,
                RawClient.connect(front, f"room-{number}") as other,
            ):
                assert one.receive_text() == other.receive_text() == "127.0.0.1"
                exchange_text(one, "hello")
                while other.receive_text() != "hello":
                    pass
                assert node_of(one) == node_of(other)
                used.add(node_of(one))
        assert len(used) >= 2


def test_a_machine_whose_cable_is_pulled_moves_its_own_rooms_only(
    machines: list[Machine], tmp_path: Path
) -> None:
    """Nothing is told to anybody; HAProxy notices, and cuts off who plays there."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(made.server("cat")) for made in machines]
        nodes = [f"{server.host}:{server.port}" for server in servers]
        front = stack.enter_context(proxy("haproxy", tmp_path, nodes))
        doomed = find_rooms(front, machines[1].host, 2)
        others = find_rooms(front, machines[0].host, 1) + find_rooms(front, machines[2].host, 1)
        players = {room: Player(front, room) for room in doomed + others}
        for player in players.values():
            stack.callback(player.join)
        for player in players.values():
            stack.callback(player.stop)
        wait_until(lambda: all(player.played_at for player in players.values()))
        machines[1].pull_the_plug()
        wait_until(lambda: all(len(players[room].played_at) > 1 for room in doomed))
        assert [players[room].lost_at for room in others] == [[], []]
        for room in doomed:
            with RawClient.connect(front, room) as client:
                assert node_of(client) != machines[1].host


# ==== A node that drains ==================================================


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_drains_finishes_its_rooms_and_opens_none(kind: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(three_nodes("--drain", "600", "cat"))
        front = stack.enter_context(proxy(kind, tmp_path, nodes.addresses))
        drained = nodes.servers[HOSTS[0]]
        old, new = find_rooms(front, HOSTS[0], 2)
        client = stack.enter_context(RawClient.connect(front, old))
        exchange_text(client, "before")
        drained.process.send_signal(signal.SIGTERM)
        drained.wait_log("draining")
        for attempt in range(3):
            exchange_text(client, f"meanwhile {attempt}")
            with RawClient.connect(front, new) as newcomer:  # refused there, opened elsewhere
                assert node_of(newcomer) != HOSTS[0]
                exchange_text(newcomer, "new")
            with RawClient.connect(front, old) as friend:
                assert node_of(friend) == HOSTS[0]
                exchange_text(friend, "old")
        client.close()
        assert drained.wait() == 0
        with RawClient.connect(front, old) as again:
            assert node_of(again) != HOSTS[0]
            exchange_text(again, "next")


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_drains_loses_no_message_that_it_accepted(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "accepted"
    program = ("sh", "--", "-c", 'exec tee -a "$1"', "sh", os.fspath(file))
    options = ("--drain", "1", "--closegrace", "20")
    with three_nodes(*options, *program) as nodes, proxy(kind, tmp_path, nodes.addresses) as front:
        (room,) = find_rooms(front, HOSTS[2], 1)
        sent, answered = 0, -1
        with RawClient.connect(front, room) as client:
            nodes.servers[HOSTS[2]].process.send_signal(signal.SIGTERM)
            with pytest.raises(Closed) as closed:
                while True:
                    for number in range(sent, sent + 20):
                        client.send_text(str(number))
                    sent += 20
                    while answered < sent - 1:
                        answered = int(client.receive_text())
            assert closed.value.code == 1012
        assert nodes.servers[HOSTS[2]].wait() == 0
        accepted = [int(line) for line in file.read_text().split()]
        assert accepted == list(range(len(accepted)))  # none is lost in the middle
        assert len(accepted) > answered


# ==== A node that is added ================================================


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_node_takes_its_share_of_the_rooms_and_no_other_moves(
    kind: str, tmp_path: Path
) -> None:
    rooms = [f"share-{number}" for number in range(150)]

    def look(front: tuple[str, int]) -> dict[str, str]:
        found = {}
        for room in rooms:
            with RawClient.connect(front, room) as client:
                found[room] = node_of(client)
        return found

    with three_nodes("cat") as nodes:
        with proxy(kind, tmp_path, nodes.addresses[:2]) as front:
            before = look(front)
        with proxy(kind, tmp_path, nodes.addresses) as front:
            after = look(front)
    moved = [room for room in rooms if before[room] != after[room]]
    assert {after[room] for room in moved} == {HOSTS[2]}
    assert set(before.values()) == set(HOSTS[:2])
    # 50 of 150 on the average; how even a ring is depends on the addresses.
    assert 20 <= len(moved) <= 85, f"{len(moved)} of {len(rooms)} rooms moved"


def test_behind_haproxy_a_room_moves_to_a_new_node_only_when_it_starts_anew(tmp_path: Path) -> None:
    port = free_port(HOSTS[2])
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(node(host, "cat")) for host in HOSTS[:2]]
        addresses = [f"{server.host}:{server.port}" for server in first] + [f"{HOSTS[2]}:{port}"]
        front = stack.enter_context(proxy("haproxy", tmp_path, addresses))
        clients = {
            f"play-{number}": stack.enter_context(RawClient.connect(front, f"play-{number}"))
            for number in range(40)  # of which each node takes a third
        }
        stack.enter_context(node(HOSTS[2], "cat", port=port))

        def is_used() -> bool:
            with RawClient.connect(front, f"probe-{time.monotonic_ns()}") as probe:
                return node_of(probe) == HOSTS[2]

        wait_until(is_used)  # from now on it is on the ring
        for room, client in clients.items():
            with RawClient.connect(front, room) as newcomer:
                assert node_of(newcomer) == node_of(client)
        for client in clients.values():
            client.close()

        def have_moved() -> bool:
            hosts = set()
            for room in clients:
                with RawClient.connect(front, room) as client:
                    hosts.add(node_of(client))
            time.sleep(1.5)  # for the table to forget
            return HOSTS[2] in hosts

        wait_until(have_moved)


def test_a_proxy_asks_the_next_node_for_a_page(tmp_path: Path) -> None:
    with three_nodes("--api", "cat") as nodes:
        with proxy("haproxy", tmp_path, nodes.addresses) as front:
            nodes.servers[HOSTS[0]].kill()
            for _ in range(6):
                assert http_request(front, path="/api/").status == 200
            with open_socket(front):
                pass


@pytest.mark.parametrize("kind", ["haproxy", "nginx", "v2"])
def test_a_proxy_needs_no_host_in_http_1_0(kind: str, tmp_path: Path) -> None:
    """A balancer in front of nginx that asks so for /health was told 400, and left it out."""
    with node(HOSTS[0], "cat") as server:
        with proxy(kind, tmp_path, [f"{server.host}:{server.port}"]) as front:
            for target in ("/health", "/"):
                old = f"GET {target} HTTP/1.0\r\n\r\n".encode()
                assert http_request(front, raw=old).status == 200
            assert http_request(front, path="/").status == 200


def test_the_benchmark_of_proxies_runs() -> None:
    command = [sys.executable, "-m", "tests.bench.proxies", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]]
    assert rows == ["none", "haproxy", "nginx"]


# ==== TLS in front =========================================================


@pytest.mark.parametrize(("says", "https"), [("send-proxy-v2-ssl", "on"), ("send-proxy-v2", "")])
def test_haproxy_says_in_front_of_a_connection_that_it_came_over_tls(
    tmp_path: Path, certs: Certificates, says: str, https: str
) -> None:
    certificate = tmp_path / "both.pem"
    certificate.write_text(Path(certs.cert("server")).read_text())
    with certificate.open("a") as file:
        file.write(Path(certs.key("server")).read_text())
    port = free_port()
    program = ("sh", "--", "-c", 'echo "$HTTPS,$REMOTE_ADDR"; exec cat')
    with serve("--trustproxy", "127.0.0.1", *program) as server:
        node = f"127.0.0.1:{server.port}"
        text = TLS_IN_FRONT.format(port=port, certificate=certificate, node=node, says=says)
        (tmp_path / "haproxy.cfg").write_text(text)
        command = [find("haproxy"), "-db", "-f", os.fspath(tmp_path / "haproxy.cfg")]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: is_open(port))
            with connect(f"wss://localhost:{port}/room", ssl_context=certs.trust()) as ws:
                assert ws.receive(PATIENCE) == f"{https},127.0.0.1"
        finally:
            process.kill()
            process.wait()


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False
