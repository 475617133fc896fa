"""A room that is open on another node is found there (`--peers`), whatever came first."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from scalesocket.client.websocket import connect
from scalesocket.net import relay
from scalesocket.net.peers import Peer, Peers
from scalesocket.net.proxies import TrustedProxies
from scalesocket.net.relay import Frames, Opening, Relays, Seeker, encode_request, parse_state

from scalesocket import (
    MAX_HEAD,
    MAX_HEADERS,
    UNIX_PEER,
    HandshakeError,
    Headers,
    Opcode,
    Request,
    ShortageError,
    encode_close,
    encode_frame,
    parse_request,
)
from tests.capture import find_faults, read_fields
from tests.certificates import Certificates
from tests.net.test_peers import ok, stand_in
from tests.net.test_proxies_real import make_machines
from tests.support import (
    PATIENCE,
    ROOT,
    HandshakeRefused,
    HttpResponse,
    RawClient,
    ServerProcess,
    encode_client_frames,
    free_port,
    http_request,
    open_files,
    open_socket,
    request_head,
    serve,
    wait_until,
    with_constants_of,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

# A busy machine answers late; a node that is not there refuses at once.
PATIENT = with_constants_of(
    {
        "scalesocket.net.relay": {"ASK_TIMEOUT": PATIENCE, "AGREE_TIMEOUT": PATIENCE},
        "scalesocket.net.workers": {"PEER_TIMEOUT": PATIENCE},
        "scalesocket.net.auth": {"AUTH_TIMEOUT": 3 * PATIENCE},
    }
)


@contextlib.contextmanager
def cluster(
    *options: str, count: int = 2, peers: Sequence[str] = (), same: bool = True
) -> Iterator[list[ServerProcess]]:
    """Run nodes that know each other, each of which says in its handshakes who it is.

    Args:
        peers: more of them.
        same: each has itself in its list, as all got the same one.
    """
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    with contextlib.ExitStack() as stack:
        nodes = []
        for number, address in enumerate(addresses):
            others = [one for one in addresses if same or one != address]
            listed = ("--api", "--metrics", "--peers", ",".join([*others, *peers]))
            name = ("--header", f"X-Node: {number}", "--trustproxy", "127.0.0.1")
            node = serve(*name, *listed, *options, addr=address, command=PATIENT)
            nodes.append(stack.enter_context(node))
        yield nodes


def node_of(client: RawClient) -> str:
    assert client.response is not None
    return client.response.headers["x-node"]


def exchange(client: RawClient, text: str) -> None:
    """Send a message to a room of `cat` and wait until it has come back."""
    client.send_text(text)
    while client.receive_text() != text:
        pass


def metric(node: ServerProcess, name: str) -> int:
    body = http_request(node, path="/metrics").body.decode()
    (line,) = [line for line in body.splitlines() if line.startswith(f"scalesocket_{name} ")]
    return int(line.split()[1])


# ==== Found there =========================================================


def test_a_room_that_is_open_elsewhere_is_found_there() -> None:
    """Case 23: a proxy that had forgotten a room sent late-comers to a node that opened another."""
    with cluster("cat") as (one, two):
        with RawClient.connect(one, "lobby") as ann, RawClient.connect(two, "lobby") as bob:
            assert node_of(ann) == node_of(bob) == "0"
            exchange(bob, "hello")
            assert ann.receive_text() == "hello"
            long = "x" * 900_000
            ann.send_text(long)
            assert bob.receive_text() == ann.receive_text() == long
            assert metric(two, "relayed_connections_total") == 1
            assert metric(two, "relayed_connections_open") == 1
            assert bob.close(1000, "bye") == (1000, "")
            wait_until(lambda: metric(two, "relayed_connections_open") == 0)
        wait_until(lambda: http_request(one, path="/api/lobby/").status == 404)
        with RawClient.connect(two, "lobby") as again:  # it starts where it is asked for
            wait_until(lambda: metric(two, "rooms") == 1)
            assert node_of(again) == "1"


def test_what_came_behind_the_request_is_passed_on() -> None:
    with cluster("cat") as (one, two), RawClient.connect(one, "lobby") as ann:
        exchange(ann, "first")
        with RawClient(open_socket(two)) as bob:
            head = request_head(
                "GET",
                "/lobby",
                {
                    "Host": "x",
                    "Upgrade": "websocket",
                    "Connection": "Upgrade",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                },
            )
            bob.sock.sendall(head + encode_client_frames([b"early"]))
            assert ann.receive_text() == "early"


@pytest.mark.parametrize(
    "headers",
    [
        {f"X-{number}": "1" for number in range(MAX_HEADERS - 4 - 5 + 1)},
        {"X-Long": "x" * (MAX_HEAD - 1024 - 100)},
    ],
)
def test_a_request_that_is_too_large_is_refused_by_every_node(headers: dict[str, str]) -> None:
    """The node that had its room let it in; through another, which adds fields, it was 431."""
    fitting = dict(list(headers.items())[1:]) or {"X-Long": headers["X-Long"][:-300]}
    with cluster("cat") as (one, two), RawClient.connect(one, "lobby") as ann:
        exchange(ann, "first")
        for node in (one, two):
            with RawClient.connect(node, "lobby", headers=fitting) as client:
                assert node_of(client) == "0"
            with pytest.raises(HandshakeRefused) as refused:
                RawClient.connect(node, "lobby", headers=headers)
            assert refused.value.status == 431


def test_the_client_keeps_its_address_where_the_node_is_trusted() -> None:
    with cluster("--joinmsg", "#REMOTE_ADDR", "cat") as (one, two):
        with RawClient.connect(one, "lobby") as ann:
            assert ann.receive_text() == "127.0.0.1"
            sock = socket.create_connection((two.host, two.port), source_address=("127.0.0.9", 0))
            with RawClient(sock) as bob:
                bob.upgrade("localhost", "/lobby", {})
                assert bob.receive_text() == "127.0.0.9"


def test_with_authall_nodes_find_rooms_and_nobody_else_does() -> None:
    """Asked for a name and a password, a node would have found no room, and opened a second one."""
    auth = ("--auth", "sh -c 'test -n \"$ROOM\"'", "--authall")
    with cluster(*auth, "cat") as (one, two), RawClient.connect(one, "lobby") as ann:
        with RawClient.connect(two, "lobby") as bob:
            exchange(bob, "hello")
            assert ann.receive_text() == "hello"
            assert node_of(bob) == "0"
        target = "/api/rooms/?local=x&room=lobby"
        assert http_request(one, path="/api/rooms/").status == 401
        behind = {"X-Forwarded-For": "192.0.2.1"}  # somebody, through a proxy that is believed
        assert http_request(one, path=target, headers=behind).status == 401
        assert http_request(one, path=target).status == 200


def test_the_api_tells_of_a_room_wherever_it_is() -> None:
    """Case 23: an ingress that hashes the whole path asks another node for /api/<room>/."""
    program = ("sh", "--", "-c", """echo '{"_meta":true,"map":"hills"}'; exec cat""")
    with cluster("--json", *program) as (one, two), RawClient.connect(one, "lobby"):
        wait_until(lambda: http_request(one, path="/api/lobby/metadata").body != b"null")

        def ask(path: str) -> HttpResponse:
            return http_request(two, path=path)

        wait_until(lambda: ask("/api/lobby/").status == 200)
        wait_until(lambda: b"hills" in ask("/api/lobby/").body)
        assert json.loads(ask("/api/lobby/").body)["node"] == f"{one.host}:{one.port}"
        assert json.loads(ask("/api/lobby/metadata").body)["map"] == "hills"
        assert ask("/api/lobby/connections").body == b"1"
        assert ask("/api/lobby/more").status == ask("/api/other/").status == 404


def test_below_a_base_path_rooms_are_found_too() -> None:
    with cluster("--basepath", "/ws", "cat") as (one, two):
        with (
            RawClient.connect(one, path="/ws/lobby") as ann,
            RawClient.connect(two, path="/ws/lobby") as bob,
        ):
            assert node_of(ann) == node_of(bob) == "0"
            exchange(bob, "hello")


@pytest.mark.parametrize("first", ["tls", "plain"])
def test_rooms_are_found_on_nodes_that_speak_tls_and_by_them(
    first: str, certs: Certificates
) -> None:
    ports = free_port(), free_port()
    peers = ("--api", "--peers", f"https://localhost:{ports[0]},127.0.0.1:{ports[1]}")
    addresses = [f"127.0.0.1:{port}" for port in ports]
    env = {"SSL_CERT_FILE": certs.cert("authority")}
    with (
        serve(
            *certs.options(), *peers, "cat", addr=addresses[0], env=env, command=PATIENT
        ) as secure,
        serve(*peers, "cat", addr=addresses[1], env=env, command=PATIENT) as plain,
    ):
        ways = [
            functools.partial(
                connect, f"wss://localhost:{secure.port}/lobby", ssl_context=certs.trust()
            ),
            functools.partial(connect, plain.url("lobby")),
        ]
        if first == "plain":
            ways.reverse()
        long = "x" * 500_000
        with ways[0]() as ann:
            ann.send("first")
            assert ann.receive() == "first"
            with ways[1]() as bob:
                for text in ("hello", long):
                    bob.send(text)
                    assert bob.receive() == ann.receive() == text
                ann.send(long[1:])
                assert bob.receive() == ann.receive() == long[1:]


def test_a_node_that_is_in_its_own_list_asks_itself_but_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "ASK_TIMEOUT", PATIENCE)
    with cluster("cat", count=1) as (one,):
        with RawClient.connect(one, "first"), RawClient.connect(one, "second"):
            assert metric(one, "rooms") == 2
    peers = Peers(["127.0.0.1:1", "127.0.0.1:2"], lambda line: None)
    seeker = Seeker(peers, lambda name: False)
    own = json.loads(seeker.describe("lobby", peers.id))
    assert own == {"name": "lobby", "state": "none", "node": peers.id}
    itself, other = peers.all
    body = json.dumps([own]).encode()
    itself.fetch = lambda target, timeout: ok(body)  # type: ignore[method-assign]
    asked: list[str] = []
    other.fetch = lambda target, timeout: asked.append(target) or ok(b"[]")  # type: ignore[method-assign,func-returns-value]
    for _ in range(3):
        assert isinstance(seeker.seek("lobby"), Opening)
    assert seeker._self == {itself} and len(asked) == 3


def test_lines_of_text_are_told_where_the_room_is() -> None:
    port = free_port()
    with cluster("cat", count=1) as (one,):
        listed = ("--api", "--peers", f"{one.host}:{one.port}", "--tcplisten", f"127.0.0.1:{port}")
        with serve(*listed, "cat", command=PATIENT), RawClient.connect(one, "lobby"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                sock.sendall(b"lobby\n")
                answer = json.loads(sock.makefile().readline())
                where = f"the room is on another node, {one.host}:{one.port}"
                assert answer == {"error": where}


def test_what_is_passed_through_is_recorded_as_its_client_sees_it(tmp_path: Path) -> None:
    file = tmp_path / "play.pcapng"
    with cluster("cat", count=1) as (one,), RawClient.connect(one, "lobby") as ann:
        options = ("--api", "--peers", f"{one.host}:{one.port}", "--pcap", str(file), "cat")
        with serve(*options, command=PATIENT) as two, RawClient.connect(two, "lobby") as bob:
            exchange(bob, "through")
            assert ann.receive_text() == "through"
            bob.close()
    assert find_faults(file) == []
    assert read_fields(file, "websocket.payload.text") == ["through", "through"]


# ==== At the same moment ==================================================


def join_at_once(
    begin: threading.Barrier, node: ServerProcess, name: str, found: list[RawClient]
) -> None:
    begin.wait()
    found.append(RawClient.connect(node, name))


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_nodes_that_are_asked_for_a_room_at_the_same_moment_open_it_once(
    options: tuple[str, ...],
) -> None:
    with cluster(*options, "cat", count=3) as nodes:
        for number in range(40):
            found: list[RawClient] = []
            begin = threading.Barrier(6)
            name = f"room-{number}"
            threads = [
                threading.Thread(target=join_at_once, args=(begin, node, name, found))
                for node in (*nodes, *nodes)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(found) == 6
            assert len({node_of(client) for client in found}) == 1, name
            for client in found:
                client.reset()


def state_of(node: ServerProcess, name: str) -> str:
    """Return what another node would be told of a room."""
    (said,) = json.loads(http_request(node, path=f"/api/rooms/?local=x&room={name}").body)
    return str(said["state"])


def test_who_asks_for_a_seat_and_says_nothing_keeps_no_room_shut() -> None:
    """A connection to /lobby?_seat kept all others out of that room, at every other node."""
    with cluster("--resume", "60", "cat") as (one, two):
        with RawClient.connect(one, path="/lobby?_seat") as late:
            assert state_of(one, "lobby") == "none"
            with RawClient.connect(two, "lobby") as ann:
                assert node_of(ann) == "1"
                exchange(ann, "in")
                late.send_text('{"_seat":{}}')
                code, reason = late.wait_close()
                assert code == 1013 and reason.startswith("the room is on another node")
                with RawClient.connect(one, path="/lobby?_seat") as again:
                    assert node_of(again) == "1"
        wait_until(lambda: metric(two, "rooms") == 0)
        with RawClient.connect(one, path="/lobby?_seat") as late:
            late.send_text('{"_seat":{}}')
            assert json.loads(late.receive_text())["_seat"]["resumed"] is False
            with RawClient.connect(two, "lobby") as bob:
                assert node_of(late) == node_of(bob) == "0"


def test_whom_auth_takes_long_to_let_in_keeps_no_room_shut(tmp_path: Path) -> None:
    """While --auth looked at one client, be it to refuse it, all others got 503 elsewhere."""
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    os.mkfifo(gate)
    look = f'test "$QUERY_STRING" != slow || {{ touch {begun}; read answer < {gate}; }}'
    with cluster("--auth", shlex.join(["sh", "-c", look]), "cat") as (one, two):
        refusals: list[str] = []

        def come_slowly() -> None:
            with RawClient(open_socket(one)) as client:
                try:
                    client.upgrade("localhost", "/lobby?slow", {})
                except HandshakeRefused as refusal:
                    refusals.append(str(refusal))

        slow = threading.Thread(target=come_slowly)
        slow.start()
        wait_until(begun.exists)
        assert state_of(one, "lobby") == "none"
        with RawClient.connect(two, "lobby") as ann:
            assert node_of(ann) == "1"
            exchange(ann, "in")
            gate.write_text("yes\n")
            slow.join(PATIENCE)
            (refusal,) = refusals
            assert "503" in refusal and "on another node" in refusal


def test_whose_handshake_is_refused_keeps_no_room_shut() -> None:
    """Who did not take the refusal, or went on sending, kept the room shut for many seconds."""
    with cluster("cat") as (one, _), open_socket(one) as sock:
        fields = {"Host": "x", "Upgrade": "websocket", "Connection": "Upgrade"}
        sock.sendall(request_head("GET", "/lobby", fields | {"Sec-WebSocket-Version": "8"}))
        assert sock.recv(100).startswith(b"HTTP/1.1 4")
        assert state_of(one, "lobby") == "none"


# ==== Nodes that end ======================================================


def test_a_room_on_a_node_that_drains_is_still_found_there() -> None:
    with cluster("--drain", "600", "cat") as (one, two):
        with RawClient.connect(one, "lobby") as ann:
            exchange(ann, "before")
            one.process.send_signal(signal.SIGTERM)
            one.wait_log("draining")
            with RawClient.connect(two, "lobby") as bob:
                assert node_of(bob) == "0"
                exchange(bob, "late")
            ann.close()
        assert one.wait() == 0
        with RawClient.connect(two, "lobby") as again:
            exchange(again, "anew")
            assert node_of(again) == "1"


def test_a_node_that_passes_clients_through_drains_until_they_have_gone() -> None:
    with cluster("--drain", "600", "cat") as (one, two):
        with RawClient.connect(one, "lobby") as ann, RawClient.connect(two, "lobby") as bob:
            exchange(bob, "before")
            two.process.send_signal(signal.SIGTERM)
            two.wait_log("draining")
            exchange(bob, "meanwhile")
            assert ann.receive_text() == "before"
            bob.close()
        assert two.wait() == 0


def test_when_a_node_stops_those_whom_it_passes_through_are_told() -> None:
    with cluster("cat") as (one, two):
        with RawClient.connect(one, "lobby") as ann, RawClient.connect(two, "lobby") as bob:
            exchange(bob, "before")
            two.process.send_signal(signal.SIGTERM)
            assert bob.wait_close() == (1012, "the server restarts")
            assert two.wait() == 0
            exchange(ann, "goes on")


def test_when_the_node_that_has_a_room_is_killed_its_late_comers_are_told() -> None:
    with cluster("cat") as (one, two):
        with RawClient.connect(one, "lobby") as ann, RawClient.connect(two, "lobby") as bob:
            exchange(bob, "before")
            one.kill()
            assert bob.wait_close() == (1012, "the node that has this room has ended")
            with RawClient.connect(two, "lobby") as again:
                exchange(again, "anew")
                assert node_of(again) == "1"
            del ann


def test_a_room_that_nodes_opened_twice_is_one_again_once_either_of_the_two_has_emptied() -> None:
    """While one cannot reach the other, both open it; nobody who is in is moved or cut off."""
    address = f"127.0.0.1:{free_port()}"

    def nodes_of_lobby(node: ServerProcess) -> list[str | None]:
        rooms = json.loads(http_request(node, path="/api/rooms/").body)
        return [room.get("node") for room in rooms if room["name"] == "lobby"]

    with serve("--api", "--peers", address, "cat", command=PATIENT) as near:
        ann = RawClient.connect(near, "lobby")
        exchange(ann, "the other one cannot be reached")
        with serve("--api", "cat", addr=address) as far, RawClient.connect(far, "lobby") as bob:
            exchange(bob, "nor does it know of the first one")
            wait_until(lambda: nodes_of_lobby(near) == [None, address])
            with RawClient.connect(near, "lobby") as late:
                exchange(late, "met ann alone")
                assert ann.receive_text() == "met ann alone"
                late.close()
            ann.close()
            wait_until(lambda: nodes_of_lobby(near) == [address])
            with RawClient.connect(near, "lobby") as late:
                exchange(late, "met bob")
                assert bob.receive_text() == "met bob"


def test_when_the_node_that_has_a_room_hangs_its_late_comers_are_told() -> None:
    """The system beneath it took what they sent, so nobody noticed: they sat there for ever."""
    one, two = (f"127.0.0.1:{free_port()}" for _ in range(2))
    options = ("--api", "--metrics", "--resume", "600", "cat")
    with (
        serve("--peers", two, "--ping", "0", *options, addr=one, command=PATIENT) as far,
        serve("--peers", one, "--ping", "2", *options, addr=two, command=PATIENT) as near,
        RawClient.connect(far, "lobby") as ann,
        contextlib.closing(open_socket(near)) as sock,
    ):
        bob = RawClient(sock)
        bob.upgrade("localhost", "/lobby?_seat", {})
        bob.send_text('{"_seat":{}}')
        token = json.loads(bob.receive_text())["_seat"]["token"]
        exchange(bob, "before")
        far.process.send_signal(signal.SIGSTOP)
        try:
            bob.send_text("deaf")
            near.wait_log("does not answer; its clients are to come again")
            assert bob.wait_close() == (1012, relay.SILENT)
            bob.sock.close()
            wait_until(lambda: metric(near, "relayed_connections_open") == 0)
        finally:
            far.process.send_signal(signal.SIGCONT)
        with RawClient.connect(near, path="/lobby?_seat") as again:
            again.send_text(json.dumps({"_seat": {"token": token, "seen": 1}}))
            assert json.loads(again.receive_text())["_seat"]["resumed"] is True
            exchange(again, "after")
            assert [ann.receive_text() for _ in range(3)] == ["before", "deaf", "after"]
            (room,) = json.loads(http_request(far, path="/api/rooms/?local=x").body)
            assert room["connections"] == 2


def probers() -> int:
    return sum(thread.name.startswith("peer 127.0.0.1:") for thread in threading.enumerate())


def test_one_thread_sees_whether_a_node_answers_while_clients_are_passed_through_to_it() -> None:
    with stand_in(ok(b"[]")) as address:
        (peer,) = (peers := Peers([address], lambda line: None)).all
        relays = Relays(peers, lambda name: None, 0.1)
        running: dict[Any, Peer] = {object(): peer, object(): peer}
        relays._running.update(running)
        relays._watch(peer)
        relays._watch(peer)
        assert probers() == 1
        relays._running.popitem()
        relays._watch(peer)
        assert probers() == 1
        relays._running.popitem()
        wait_until(lambda: not probers())
        relays._running.update(running)
        relays._watch(peer)
        assert probers() == 1
        relays._stopped.set()
        wait_until(lambda: not probers())


def test_a_node_is_asked_on_whether_it_answers_though_memory_ran_out_meanwhile() -> None:
    """Its thread ended, and no other one began, as it counted as watched."""
    with stand_in(ok(b"[]")) as address:
        (peer,) = (peers := Peers([address], lambda line: None)).all
        relays = Relays(peers, lambda name: None, 0.1)
        relays._running[object()] = peer  # type: ignore[index]
        found = relays._lead_to
        short = [MemoryError]
        looked = []

        def find(peer: Peer) -> list[Any]:
            if short:
                raise short.pop()
            looked.append(peer)
            return found(peer)

        relays._lead_to = find  # type: ignore[method-assign]
        relays._watch(peer)
        wait_until(lambda: len(looked) > 1)
        relays._running.clear()
        wait_until(lambda: not probers())


def test_with_ping_0_no_node_is_asked_whether_it_answers() -> None:
    relays = Relays(Peers(["127.0.0.1:9"], lambda line: None), lambda name: None, 0)
    (peer,) = relays._seeker._peers.all
    relays._running[object()] = peer  # type: ignore[index]
    relays._watch(peer)
    assert not probers()


# ==== Peers that misbehave ================================================


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        (b"", b""),
        (b"nonsense", b""),
        (b"HTTP/1.1 500 No\r\n\r\n", b""),
        (ok(b"[" * 100_000), b""),
        (ok(b"[1]"), b""),
        (ok(b'[{"name":"lobby","state":1,"node":2}]'), b""),
        (ok(b"["), b" " * 10_000),
        (b"HTTP/1.1 200", b"."),
    ],
)
def test_a_peer_that_misbehaves_costs_a_room_half_a_second_once(answer: bytes, rest: bytes) -> None:
    with stand_in(answer, rest=rest) as address:
        peers = Peers([address], lambda line: None)
        seeker = Seeker(peers, lambda name: False)
        for _ in range(3):
            found = seeker.seek("lobby")
            assert isinstance(found, Opening)
            found.end()
        assert seeker._openings == {}


def test_a_peer_that_is_silent_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "ASK_TIMEOUT", 0.2)
    monkeypatch.setattr(relay, "LEFT_OUT", 1000.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peers = Peers([f"127.0.0.1:{silent.getsockname()[1]}"], lambda line: None)
        seeker = Seeker(peers, lambda name: False)
        begin = time.monotonic()
        for number in range(200):  # with a wait for each of them this would take 40 s
            assert isinstance(seeker.seek(f"room-{number}"), Opening)
        assert time.monotonic() - begin < 20
        seeker.describe("x", "unknown")  # a node that has just come asks for something
        assert seeker._left_out == {}


def test_a_peer_that_asks_is_asked_again_and_the_others_are_not() -> None:
    seeker = Seeker(Peers(["192.0.2.1:1", "192.0.2.2:1"], lambda line: None), lambda name: False)
    asks, silent = seeker._peers.all
    seeker._know("its ID", asks)
    for peer in (asks, silent):
        seeker.leave_out(peer)
    seeker.describe("lobby", "its ID")
    assert list(seeker._left_out) == [silent]


def test_a_peer_that_says_opening_for_ever_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "ASK_TIMEOUT", PATIENCE)
    monkeypatch.setattr(relay, "AGREE_TIMEOUT", 0.2)
    body = json.dumps([{"name": "lobby", "state": "opening", "node": ""}]).encode()
    with stand_in(ok(body)) as address:
        seeker = Seeker(Peers([address], lambda line: None), lambda name: False)
        with pytest.raises(HandshakeError, match="another node is opening"):
            seeker.seek("lobby")
        assert seeker._openings == {}


def test_a_peer_that_has_a_room_and_lets_nobody_in_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "ASK_TIMEOUT", PATIENCE)
    body = json.dumps([{"name": "lobby", "connections": 1}]).encode()
    with stand_in(ok(body)) as address, contextlib.ExitStack() as stack:
        relays = Relays(Peers([address], lambda line: None), lambda name: False, 0)
        assert relays._seeker.seek("lobby") is relays._seeker._peers.all[0]
        stack.close()
    assert isinstance(relays._find("lobby"), Opening)  # nobody is there any more


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "none left"), OSError(errno.ENOBUFS, "none"), MemoryError()]
)
def test_who_lacks_what_it_needs_to_ask_a_peer_opens_no_room(error: Exception) -> None:
    """A node that was out of descriptors opened rooms that were open on another one."""
    seeker = Seeker(Peers(["127.0.0.1:1"], lambda line: None), lambda name: False)
    (peer,) = seeker._peers.all

    def fail(target: str, timeout: float) -> bytes:
        raise error

    peer.fetch = fail  # type: ignore[method-assign]
    with pytest.raises(HandshakeError, match="cannot reach the others") as refusal:
        seeker.seek("lobby")
    assert refusal.value.status == 503
    assert seeker._openings == seeker._left_out == {}


def test_who_has_no_thread_to_ask_a_peer_opens_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_none(*_arguments: object) -> None:
        raise ShortageError("no thread")

    seeker = Seeker(Peers(["127.0.0.1:1"], lambda line: None), lambda name: False)
    monkeypatch.setattr(relay, "start_thread", start_none)
    with pytest.raises(HandshakeError, match="cannot reach the others"):
        seeker.seek("lobby")
    assert seeker._openings == {}


def test_who_lacks_a_descriptor_to_pass_a_client_through_opens_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "ASK_TIMEOUT", PATIENCE)
    body = json.dumps([{"name": "lobby", "connections": 1}]).encode()
    with stand_in(ok(body)) as address:
        relays = Relays(Peers([address], lambda line: None), lambda name: False, 0)
        (peer,) = relays._seeker._peers.all
        assert relays._seeker.seek("lobby") is peer

        def fail(timeout: float) -> socket.socket:
            raise OSError(errno.EMFILE, "none left")

        found: Iterator[Peer | Opening] = iter([peer, Opening(lambda: None)])
        peer.connect = fail  # type: ignore[method-assign]
        relays._seeker.seek = lambda name: next(found)  # type: ignore[method-assign]
        with pytest.raises(HandshakeError, match="cannot reach the others"):
            relays._find("lobby")
        assert relays._seeker._left_out == {}


def count_selectors(node: ServerProcess) -> int:
    """Return how many descriptors it has that are no sockets, but wait for them."""
    return open_files(node.pid).count("anon_inode:[eventpoll]")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_client_that_is_passed_through_takes_no_descriptor_but_its_two_sockets() -> None:
    """It took three, and a node that passed many on was out of them before --maxconns."""
    with cluster("cat") as (one, two), RawClient.connect(one, "lobby"):
        before = count_selectors(two)
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                exchange(stack.enter_context(RawClient.connect(two, "lobby")), "in")
            assert count_selectors(two) == before > 0


def test_a_client_is_passed_through_but_once() -> None:
    """Two nodes that each say the other has it would pass a client on for ever."""
    with cluster("cat") as (one, two), RawClient.connect(one, "lobby"):
        with RawClient(open_socket(two)) as client, pytest.raises(Exception, match="503"):
            client.upgrade("localhost", "/lobby", {"X-ScaleSocket-Relayed": "1"})


def test_the_benchmark_of_what_finding_costs_runs() -> None:
    command = [sys.executable, "-m", "tests.bench.joins", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 13


# ==== What is said ========================================================


class Ends:
    """Both ends of what is passed through, as those beyond see it; either may be told gone.

    Args:
        before: called with the node's end before anything is passed on.
        ping: as of `Relay`.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        before: Callable[[socket.socket], object] = lambda _node: None,
        ping: float = 0.1,
    ) -> None:
        ours_client, self.client = socket.socketpair()
        ours_node, self.node = socket.socketpair()
        self.ours = {"client": ours_client, "node": ours_node}
        self.gone: set[socket.socket] = set()
        monkeypatch.setattr(relay, "is_gone", lambda sock, _interval: sock in self.gone)
        for sock in (self.client, self.node):
            sock.settimeout(PATIENCE)
        before(self.node)
        sides = relay.Side(ours_client), relay.Side(ours_node)
        self.relay = relay.Relay(*sides, b"GET / HTTP/1.1\r\n\r\n", ping)
        self.thread = threading.Thread(target=self.relay.run, daemon=True)
        self.thread.start()

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.abort()
        self.thread.join(PATIENCE)
        for sock in (self.client, self.node, *self.ours.values()):
            sock.close()
        assert not self.thread.is_alive()

    def fill(self) -> int:
        """Have the node send until nothing more is taken, as the client does not read."""
        self.node.setblocking(False)
        sent = 0
        while select.select((), (self.node,), (), 0.3)[1] or not self.relay._client.is_busy:
            with contextlib.suppress(BlockingIOError):
                sent += self.node.send(bytes(65536))
        self.node.settimeout(PATIENCE)
        return sent


ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_node_that_vanishes_is_given_up_and_its_client_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the client had sent something, TCP alone tried for a quarter of an hour."""
    with Ends(monkeypatch) as ends:
        ends.node.sendall(ACCEPTED)
        assert ends.client.recv(65536) == ACCEPTED
        ends.gone.add(ends.ours["node"])
        assert read_all(ends.client) == encode_frame(Opcode.CLOSE, encode_close(1012, relay.SILENT))


def test_to_who_is_given_up_the_system_sends_nothing_more() -> None:
    """It would have tried for minutes, with all that waits there in its memory."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    relay.Side(ours).cut()
    ours.close()
    with peer, pytest.raises(ConnectionResetError):
        peer.recv(1)


def test_what_a_node_has_sent_counts_though_it_takes_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request that could not be sent was taken for the end of all that the node says."""

    def accept_and_end(node: socket.socket) -> None:
        node.sendall(ACCEPTED)
        node.close()

    with Ends(monkeypatch, accept_and_end) as ends:
        close = encode_frame(Opcode.CLOSE, encode_close(1012, relay.GONE))
        assert read_all(ends.client) == ACCEPTED + close


def test_a_node_that_ends_before_it_answers_is_told_as_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its client saw a connection end, without a word."""
    with Ends(monkeypatch, socket.socket.close) as ends:
        head, _, body = read_all(ends.client).decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
        assert "Retry-After: 1" in head.split("\r\n")
        assert body == relay.GONE + "\n"


@pytest.mark.parametrize("ping", [0.0, 0.1])
def test_a_node_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, ping: float
) -> None:
    """Its process had been stopped just after it said that it has the room: nobody ended that."""
    monkeypatch.setattr(relay, "ANSWER_TIMEOUT", 0.5)
    with Ends(monkeypatch, ping=ping) as ends:
        head, _, body = read_all(ends.client).decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
        assert body == relay.SILENT + "\n"
        ends.client.close()
        ends.thread.join(PATIENCE)
        assert not ends.thread.is_alive()


def test_who_is_passed_on_just_as_the_server_stops_is_told_and_nothing_stays_open() -> None:
    """It was not yet among those who are told, and nobody would have ended it."""
    relays = Relays(Peers([], lambda line: None), lambda name: False, 0.0)
    relays.stop(0.0)
    (ours, client), (ours_node, node) = socket.socketpair(), socket.socketpair()
    client.settimeout(PATIENCE)
    session: Any = SimpleNamespace(sock=ours, tls=None)
    passed_on = (session, Mock(), ours_node, b"GET /")
    threading.Thread(target=relays._carry, args=passed_on, daemon=True).start()
    with client, node:
        assert read_all(client).endswith(f"\r\n\r\n{relay.RESTARTING}\n".encode())
    wait_until(lambda: not relays.count)
    assert ours.fileno() == ours_node.fileno() == -1


def test_who_takes_nothing_more_is_cut_off_when_the_time_to_stop_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "CLOSE_TIMEOUT", 3 * PATIENCE)
    monkeypatch.setattr(relay, "ABORT_TIMEOUT", PATIENCE)
    relays = Relays(Peers([], lambda line: None), lambda name: False, 0.0)
    (ours, client), (ours_node, node) = socket.socketpair(), socket.socketpair()
    session: Any = SimpleNamespace(sock=ours, tls=None)
    passed_on = (session, Mock(), ours_node, b"GET /")
    threading.Thread(target=relays._carry, args=passed_on, daemon=True).start()
    wait_until(lambda: relays.count)
    (running,) = relays._running
    node.setblocking(False)

    def fill() -> bool:
        with contextlib.suppress(BlockingIOError):
            node.send(bytes(65536))
        return running._client.is_busy

    with client, node:
        wait_until(fill)
        relays.stop(0.0)
        assert not relays.count


def test_a_node_that_has_answered_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "ANSWER_TIMEOUT", 0.1)
    with Ends(monkeypatch, lambda node: node.sendall(ACCEPTED)) as ends:
        assert ends.client.recv(65536) == ACCEPTED
        wait_until(lambda: time.monotonic() > ends.relay._answer_by + 0.2)
        ends.node.sendall(b"more")
        assert ends.client.recv(65536) == b"more"


def test_a_client_that_talks_on_after_its_close_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had a thread and two descriptors for as long as it liked."""
    monkeypatch.setattr(relay, "CLOSE_TIMEOUT", 0.5)
    with Ends(monkeypatch) as ends:
        ends.node.sendall(ACCEPTED)
        ends.node.close()
        assert read_all(ends.client).endswith(encode_close(1012, relay.GONE))

        def talk() -> bool:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                ends.client.sendall(b"more")
            return not ends.thread.is_alive()

        assert wait_until(talk)


def test_a_client_that_vanishes_while_it_is_sent_much_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node that has its room could not tell: what it sent was not read any more."""
    with Ends(monkeypatch) as ends:
        ends.fill()
        ends.gone.add(ends.ours["client"])
        assert read_all(ends.node) == b"GET / HTTP/1.1\r\n\r\n"


def test_who_takes_nothing_is_let_go_when_the_node_has_given_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is read from the node meanwhile, so its reset was not noticed."""
    monkeypatch.setattr(relay, "CLOSE_TIMEOUT", 0.5)
    with Ends(monkeypatch) as ends:
        ends.fill()
        ends.node.close()  # the request has not been read: a reset
        ends.thread.join(PATIENCE)
        assert not ends.thread.is_alive()


def test_who_reads_on_gets_what_was_sent_before_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CLOSE_TIMEOUT", PATIENCE)
    with Ends(monkeypatch) as ends:
        sent = ends.fill()
        ends.node.close()
        wait_until(lambda: ends.relay._is_broken)
        assert len(read_all(ends.client)) == sent


def test_a_node_whose_machine_vanishes_is_noticed_while_something_is_on_its_way() -> None:
    with make_machines(8) as (machine,):
        address = f"{machine.ours}:{free_port()}"
        options = ("--api", "--ping=1", "--peers", f"{machine.host}:9000", "cat")
        with serve(*options, addr=address, command=PATIENT) as near:
            # Its own pings come seldom: they are answered only by who reads.
            with machine.server("--api", "--peers", address, "cat") as far:
                with RawClient.connect(far, "lobby"), RawClient.connect(near, "lobby") as late:
                    assert node_of(late) == machine.host
                    exchange(late, "hello")
                    machine.vanish()
                    late.send_text("is anybody there?")
                    assert late.wait_close() == (1012, relay.SILENT)  # it runs on, unreachable


def test_what_a_peer_says_of_a_room_is_read_with_care() -> None:
    def said(*entries: object) -> tuple[str, str]:
        return parse_state(json.dumps(entries).encode(), "a")

    assert said() == ("none", "")
    assert said({"name": "a", "state": "open", "node": "x"}) == ("open", "x")
    assert said({"name": "a", "state": "none", "node": "x"}) == ("none", "x")
    assert said({"name": "b", "state": "open", "node": "x"}) == ("none", "")
    assert said({"name": "a", "connections": 1, "metadata": None}) == ("open", "")
    assert said({"name": "a", "state": "shut", "node": "x"}, 1, None, []) == ("none", "")
    for bad in (b"", b"{}", b"[", b"[" * 100_000):
        with pytest.raises(ValueError):
            parse_state(bad, "a")


def test_a_request_is_of_the_version_that_it_came_in() -> None:
    """With HTTP/1.0 there is no WebSocket, but through another node there was one."""
    request = Request("GET", "/r", "HTTP/1.0", Headers())
    said = encode_request(request, "", UNIX_PEER, host="", secure=False)
    assert said.startswith(b"GET /r HTTP/1.0\r\n")


def test_a_request_says_who_the_client_is_whatever_it_says_itself() -> None:
    fields = [("Host", "a"), ("x-forwarded-FOR", "1.2.3.4"), ("X-ScaleSocket-Relayed", "2")]
    fields.append(("X-Forwarded-Host", "evil.example"))
    request = Request("GET", "/r?q=1", "HTTP/1.1", Headers([*fields, ("Cookie", "c")]))
    said = encode_request(request, "/base", ("::1", 7), host="", secure=True)
    assert said.decode().split("\r\n") == [
        "GET /base/r?q=1 HTTP/1.1",
        "Host: a",
        "Cookie: c",
        "X-Forwarded-Proto: https",
        "X-ScaleSocket-Relayed: 1",
        "X-Forwarded-For: [::1]:7",
        "",
        "",
    ]


def test_a_client_of_this_link_is_one_for_the_other_node_too() -> None:
    """Its zone means nothing there: of `fe80::1%eth0` it was told the address of this node."""
    request = Request("GET", "/r", "HTTP/1.1", Headers([("Host", "a")]))
    said = encode_request(request, "", ("fe80::1%eth0", 7), host="", secure=False)
    headers = parse_request(said.removesuffix(b"\r\n\r\n")).headers
    believed = TrustedProxies([ip_network("192.0.2.1")])
    assert believed.find_client(("192.0.2.1", 1), headers) == ("fe80::1", 7)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 1 << 20])
def test_a_close_is_put_only_where_a_frame_ends(size: int) -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n"
    payloads = [b"", b"x", b"y" * 125, b"z" * 126, b"a" * 65536]
    parts = [head, *(encode_frame(Opcode.BINARY, payload) for payload in payloads)]
    ends = {sum(map(len, parts[: count + 1])) for count in range(len(parts))}
    data = b"".join(parts)
    frames = Frames()
    for at in range(0, len(data), size):
        frames.feed(data[at : at + size])
        assert frames.may_be_closed == (min(at + size, len(data)) in ends)
    frames.feed(encode_frame(Opcode.CLOSE, encode_close(1000)))
    assert not frames.may_be_closed


def test_no_close_follows_an_answer_that_is_no_handshake() -> None:
    frames = Frames()
    frames.feed(b"HTTP/1.1 503 No\r\n\r\nsorry")
    assert not frames.may_be_closed
