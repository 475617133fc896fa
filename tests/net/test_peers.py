"""--peers: one node lists the rooms of all, whatever the others are or say."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scalesocket.client.websocket import connect
from scalesocket.net import peers
from scalesocket.net.peers import FRESH, Peer, Peers, parse_listing, take_body

from scalesocket import ConfigError
from tests.certificates import Certificates
from tests.support import (
    PATIENCE,
    SCRIPT,
    RawClient,
    ServerProcess,
    free_port,
    http_request,
    run_cli,
    serve,
    wait_until,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

Rooms = list[dict[str, object]]


def rooms_of(server: ServerProcess, query: str = "") -> Rooms:
    response = http_request(server, path=f"/api/rooms/{query}")
    assert response.status == 200
    found = json.loads(response.body)
    assert isinstance(found, list)
    return found


@contextlib.contextmanager
def stand_in(answer: bytes, *, rest: bytes = b"") -> Iterator[str]:
    """A peer that says what it is told to; with `rest`, that again and again and no end."""
    stop = threading.Event()

    def talk(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.recv(4096)
            sock.sendall(answer)
            while rest and not stop.is_set():
                sock.sendall(rest)
                stop.wait(0.02)

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                talk(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + body


# ==== What a peer says =====================================================


def test_a_room_is_taken_apart_and_put_together_again() -> None:
    said = [{"name": "a", "connections": 2, "metadata": {"x": [1]}, "node": "lie", "more": 1}]
    (room,) = parse_listing(json.dumps(said).encode(), "here:1")
    wanted = {"name": "a", "connections": 2, "node": "here:1", "metadata": {"x": [1]}}
    assert json.loads(room) == wanted


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000])
def test_numbers_that_python_cannot_hold_spoil_no_list(number: str) -> None:
    """`Infinity` is no JSON for a page; of a number that long, nothing of the peer was listed."""
    said = f'[{{"name":"a","connections":1,"metadata":{{"best":[{number},1.5,-7]}}}}]'.encode()
    (room,) = parse_listing(said, "here:1")
    assert '"best": [null, 1.5, -7]' in room


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "a"},
        {"connections": 1},
        {"name": 1, "connections": 1},
        {"name": "", "connections": 1},
        {"name": "a" * 129, "connections": 1},
        {"name": "a\nb", "connections": 1},
        {"name": "a/b", "connections": 1},
        {"name": "a", "connections": -1},
        {"name": "a", "connections": 1.5},
        {"name": "a", "connections": 10**30},
        ["a", 1],
        None,
    ],
)
def test_what_can_be_no_room_is_left_out(entry: object) -> None:
    good = {"name": "good", "connections": 1}
    (room,) = parse_listing(json.dumps([entry, good]).encode(), "x")
    assert json.loads(room)["name"] == "good"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[", b"\xff", b"[NaN]", b"[" * 100_000, b"9" * 5000, b'"rooms"']
)
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_listing(body, "x")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 404 No\r\n\r\n[]", b"HTTP/1.1 200 OK\r\n", b"x"]
)
def test_only_a_good_response_has_a_body(answer: bytes) -> None:
    with pytest.raises(ValueError):
        take_body(answer)
    assert take_body(ok(b"[]")) == b"[]"


def test_a_peer_is_a_url_or_a_host_and_port() -> None:
    for good in ("a:1", "[::1]:9000", "http://a", "https://a:1/games/"):
        assert Peer(good).name
    for bad in (
        "a",
        ":1",
        "a:b",
        "a:99999",
        "ftp://a:1",
        "http://",
        "http://u@a:1",
        "a:1/?x",
        "[:1",
        "a..b:1",
        "a" * 64 + ":1",
    ):
        with pytest.raises(ConfigError, match="--peers"):
            Peer(bad)


# ==== Asking peers ========================================================


def test_answers_are_used_again_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PATIENCE", PATIENCE)
    body = json.dumps([{"name": "a", "connections": 1}]).encode()
    with stand_in(ok(body)) as address:
        nodes = Peers([address], pytest.fail)
        assert len(nodes.rooms()) == 1
        threads = threading.active_count()
        began = time.monotonic()
        answers = [nodes.rooms() for _ in range(20)]
        assert all(len(rooms) == 1 for rooms in answers)
        assert threading.active_count() <= threads or time.monotonic() - began >= FRESH


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        (ok(b"nonsense"), b""),
        (ok(b"[" + b" " * 2_000_000 + b"]"), b""),
        (b"HTTP/1.1 500 Broken\r\n\r\n[]", b""),
        (b"", b""),
        (ok(b"["), b" "),
        (b"", b"x" * 100_000),
    ],
    ids=["no JSON", "too long", "an error", "nothing", "drips", "no end"],
)
def test_a_peer_that_misbehaves_costs_a_second_and_its_rooms(
    answer: bytes, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PATIENCE", 4.0)  # on a busy machine the good one answers late
    good = json.dumps([{"name": "good", "connections": 1}]).encode()
    complaints: list[str] = []
    with stand_in(answer, rest=rest) as bad, stand_in(ok(good)) as address:
        nodes = Peers([bad, address], complaints.append)
        assert [json.loads(room)["name"] for room in nodes.rooms()] == ["good"]
        wait_until(lambda: complaints)
        assert bad in complaints[0]
        wait_until(lambda: not any(one.asking for one in nodes._all))
        began = time.monotonic()
        nodes.rooms()  # nobody waits for it a second time
        assert not nodes._all[0].trusted
        wait_until(lambda: not any(one.asking for one in nodes._all))
        assert len(complaints) == 1 and time.monotonic() - began < 30


def test_nobody_waits_a_second_time_for_a_name_that_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system looks names up for as long as it likes."""
    found, lookups = threading.Event(), []

    def ask(self: Peer, asker: str) -> list[str]:
        lookups.append(self.name)
        assert found.wait(60)
        return ["late"]

    monkeypatch.setattr(Peer, "ask", ask)
    nodes = Peers(["slow:1"], pytest.fail)
    assert nodes.rooms() == []
    time.sleep(FRESH)  # the next call would ask again
    began = time.monotonic()
    calls = 50
    assert [nodes.rooms() for _ in range(calls)] == [[]] * calls
    assert time.monotonic() - began < calls * peers.PATIENCE / 2
    assert len(lookups) == 1  # never two threads for one peer
    found.set()
    wait_until(lambda: nodes.rooms() == ["late"])
    wait_until(lambda: not nodes._all[0].asking)


def test_a_peer_is_asked_again_after_memory_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken to be asked still, for as long as the server ran."""
    monkeypatch.setattr(peers, "FRESH", 0.0)
    warned: list[str] = []
    nodes = Peers(["127.0.0.1:1"], warned.append)
    (peer,) = nodes.all
    answers = iter([MemoryError(), ["a room"]])

    def ask(_asker: str) -> list[str]:
        answer = next(answers, ["a room"])
        if isinstance(answer, MemoryError):
            raise answer
        return answer

    monkeypatch.setattr(peer, "ask", ask)
    assert nodes.rooms() == []
    wait_until(lambda: nodes.rooms() == ["a room"])
    wait_until(lambda: warned == ["peer 127.0.0.1:1 does not tell its rooms"])


def test_what_a_peer_said_stands_for_a_while_after_its_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "PATIENCE", PATIENCE)
    body = json.dumps([{"name": "a", "connections": 1}]).encode()
    complaints: list[str] = []
    with stand_in(ok(body)) as address:
        nodes = Peers([address], complaints.append)
        assert len(nodes.rooms()) == 1

    def forgotten() -> bool:
        return nodes.rooms() == []

    wait_until(forgotten)
    assert complaints
    wait_until(lambda: not nodes._all[0].asking)


# ==== Real nodes ==========================================================


def test_each_node_lists_the_rooms_of_all() -> None:
    ports = [free_port(host) for host in ("127.0.0.2", "127.0.0.3")]
    nodes = [f"127.0.0.2:{ports[0]}", f"127.0.0.3:{ports[1]}"]
    dead = f"127.0.0.4:{free_port('127.0.0.4')}"
    everyone = ",".join([*nodes, dead])  # the same list for all, so each asks itself, too
    with (
        serve("--api", "--peers", everyone, "cat", addr=nodes[0]) as a,
        serve("--api", "--peers", everyone, "cat", addr=nodes[1]) as b,
        RawClient.connect(a, "on-a"),
        RawClient.connect(b, "on-b"),
    ):
        wait_until(lambda: len(rooms_of(a)) == len(rooms_of(b)) == 2)
        listed = {room["name"]: room.get("node") for room in rooms_of(a)}
        assert listed == {"on-a": None, "on-b": nodes[1]}
        listed = {room["name"]: room.get("node") for room in rooms_of(b)}
        assert listed == {"on-a": nodes[0], "on-b": None}
        assert [room["name"] for room in rooms_of(a, "?local")] == ["on-a"]
        assert [room["name"] for room in rooms_of(b, "?local=x")] == ["on-b"]
        a.wait_log(f"peer {dead} does not tell its rooms")


@pytest.mark.parametrize("option", [["--peers", "a:1", "--api"]])
def test_without_the_folder_net_it_says_so(tmp_path: Path, option: list[str]) -> None:
    shutil.copy(SCRIPT, tmp_path)
    done = subprocess.run(
        [sys.executable, os.fspath(tmp_path / "scalesocket.py"), *option, "cat"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    assert "net/" in line and done.returncode == 2


def test_addresses_that_can_be_none_are_named() -> None:
    done = run_cli("--api", "--peers", "nonsense", "cat")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'nonsense'" in done.stderr
    assert "--peers needs --api" in run_cli("--peers", "a:1", "cat").stderr


# ==== Over TLS ============================================================


@pytest.mark.parametrize("authority", ["authority", "stranger"])
def test_a_peer_over_https_is_believed_if_its_certificate_is_good(
    authority: str, certs: Certificates
) -> None:
    with (
        serve("--api", *certs.options(), "cat") as peer,
        connect(f"wss://localhost:{peer.port}/room", ssl_context=certs.trust()),
    ):
        options = ("--api", "--peers", f"https://localhost:{peer.port}", "cat")
        with serve(*options, env={"SSL_CERT_FILE": certs.cert(authority)}) as server:

            def names() -> list[object]:
                return [room["name"] for room in rooms_of(server)]

            if authority == "authority":
                wait_until(lambda: names() == ["room"])  # the first answer may come too late
            else:
                assert names() == []
                server.wait_log("certificate verify failed")
                assert names() == []
