"""Many nodes, one Redis: each room is on one of them, and goes on elsewhere when that one ends."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call, patch

import pytest
from scalesocket.net.redis_store import LEASE, HeldError, RedisDatabase
from scalesocket.net.shared_rooms import (
    NOTHING,
    ClientIds,
    Question,
    SharedRooms,
    SharedStore,
)
from scalesocket.net.store import Record, StoredRooms

from scalesocket import ConnectionClosed, HandshakeError
from tests.net.test_workers import crash, room_of, workers_of
from tests.proxies import proxy
from tests.redis_server import RedisServer, running_redis
from tests.rooms.test_redis_store import rooms, state
from tests.rooms.test_store import (
    Player,
    ask,
    is_busy,
    metric,
    say,
    sit,
    stop,
    wait_closed,
    wait_for_players,
)
from tests.support import (
    PATIENCE,
    ROOT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    free_port,
    http_request,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

STEADY = "?lease=30"  # for nodes that are to keep their rooms, on however busy a machine
# A busy machine answers late; a node that is not there refuses at once.
PATIENT = with_constants("scalesocket.net.relay", ASK_TIMEOUT=PATIENCE, AGREE_TIMEOUT=PATIENCE)


@contextlib.contextmanager
def cluster(
    folder: Path,
    store: RedisServer,
    target: str,
    *options: str,
    query: str = "",
    count: int = 2,
    peers: bool = False,
) -> Iterator[list[ServerProcess]]:
    """Run nodes with one Redis, each of which says in its handshakes who it is."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    listed = ("--api", "--peers", ",".join(addresses), "--trustproxy", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        nodes = []
        for number, address in enumerate(addresses):
            name = ("--header", f"X-Node: {number}", *(listed if peers else ()))
            where = ("--store", store.url + query, "--metrics", *name, *options, target)
            node = serve(*where, cwd=folder, addr=address, command=PATIENT)
            nodes.append(stack.enter_context(node))
        for node in nodes:  # it has said that it listens, but not yet that it is alive
            assert http_request(node, path="/health").status == 200
        yield nodes


def come(
    node: ServerProcess | tuple[str, int], room: str, token: str = "", seen: int | None = None
) -> Any:
    """Return a client with a seat, and the answer; try until it is let in."""

    def attempt() -> Any:
        with contextlib.suppress(OSError, EOFError, Closed, HandshakeRefused):
            return sit(node, room, token, seen)
        return None

    return wait_until(attempt)


def owner(store: RedisServer, room: str) -> str:
    return store.ask("HGET", f"scalesocket:room:{room}", "owner") or ""


def stored_seats(store: RedisServer, room: str) -> str:
    return str(store.ask("HGETALL", f"scalesocket:room:{room}"))


# ==== Leases, without a server ============================================================


@contextlib.contextmanager
def nodes(store: RedisServer, *leases: float) -> Iterator[list[RedisDatabase]]:
    """Yield nodes with these leases, each alive, as they were asked to say so once."""
    found = []
    for lease in leases:
        database = RedisDatabase(f"{store.url}?lease={lease}")
        database.claim()
        database.open()
        database.begin()
        found.append(database)
    yield found
    for database in found:
        database.leave()
        database.close()


def record(text: str, *, whole: bool = False, kept: bool = False) -> Record:
    return NOTHING._replace(state=text, whole=whole, kept=kept)


def test_a_room_is_of_whoever_reads_it_first_until_that_one_ends_it(store: RedisServer) -> None:
    with nodes(store, 60, 60) as (one, two):
        assert one.read("den") is None
        with pytest.raises(HeldError) as held:
            two.read("den")
        assert 0 < held.value.left <= 60
        one.write({"den": record("a")}, 0, {})
        with pytest.raises(HeldError):
            two.read("den")
        one.write({"den": record("b", whole=True)}, 0, {})
        assert two.read("den") == record("b", whole=True)
        with pytest.raises(HeldError):
            one.read("den")
        two.release(["den"])
        assert one.read("den") == record("b")  # somebody has had it since, and it is not whole
        one.write({"den": None}, 0, {})
        assert store.ask("KEYS", "*den*") == [] and rooms(store) == []
        assert two.read("den") is None


def test_a_node_whose_lease_ran_out_writes_nothing_of_what_another_has_taken(
    store: RedisServer,
) -> None:
    with nodes(store, 60, 60) as (one, two):
        refused: list[str] = []
        one.refuse = refused.append
        for name in ("den", "pit"):
            assert one.read(name) is None
        one.write({"den": record("a"), "pit": record("p")}, 0, {})

        with pytest.raises(HeldError):
            two.read("den")
        store.ask("ZADD", "scalesocket:nodes", "1", one._node)  # it has run out since
        assert two.read("den") == record("a")
        one.write({"den": record("lost"), "pit": record("q")}, 0, {})
        assert refused == ["den"]  # the other one is still its own: nobody has wanted it
        two.write({"den": None}, 0, {})
        one.write({"den": record("lost")}, 0, {})
        assert refused == ["den", "den"] and state(store, "den") == ""
        with pytest.raises(OSError, match="alive"):
            one.read("new")  # it would be nobody's
        assert not one.renew() and one.renew()
        assert one.find_lost(["den", "pit"]) == ["den"]
        assert one.read("new") is None
        assert state(store, "pit") == "q"


def test_a_last_save_that_is_tried_again_changes_nothing_of_what_another_node_has_saved_since(
    store: RedisServer,
) -> None:
    """The first answer had been lost, and the room went back to what it was before."""
    with nodes(store, 60, 60) as (one, two):
        refused: list[str] = []
        one.refuse = refused.append
        one.read("den")
        one.write({"den": record("old", whole=True, kept=True)}, 0, {})
        one.write({"den": record("old", whole=True, kept=True)}, 0, {})
        assert refused == []  # nobody has had it
        assert two.read("den") == record("old", whole=True, kept=True)
        two.write({"den": record("new", whole=True, kept=True)}, 0, {})
        one.write({"den": record("old", whole=True, kept=True)}, 0, {})
        assert refused == ["den"] == one.find_lost(["den"]) and state(store, "den") == "new"
        one.release(["den"])
        assert one.read("den") == record("new", whole=True, kept=True)
        one.write({"den": record("newer")}, 0, {})
        assert state(store, "den") == "newer"


def test_a_node_that_was_frozen_until_its_room_was_given_up_writes_nothing_of_the_next_one(
    store: RedisServer,
) -> None:
    """Nobody had taken it from that node, so it was not known to have lost it."""
    with nodes(store, 60, 60) as (one, two):
        refused: list[str] = []
        one.refuse = refused.append
        one.read("den")
        one.write({"den": record("old")}, 0, {})
        store.ask("ZADD", "scalesocket:nodes", "1", owner(store, "den"))  # its lease is over
        two.sweep(0, 10)
        assert owner(store, "den") == ""
        assert two.read("den") == record("old")
        two.write({"den": record("new", whole=True)}, 0, {})
        one.write({"den": record("old")}, 0, {})
        assert refused == ["den"] and state(store, "den") == "new"
        two.read("den")
        two.write({"den": None}, 0, {})
        one.write({"den": record("old")}, 0, {})
        assert refused == ["den", "den"] and rooms(store) == []


class Way:
    """The way to a Redis, on which what is sent may be kept, and passed on when nobody waits.

    So does a network that loses a packet, or a proxy, though the connection has been given up.
    """

    def __init__(self, port: int) -> None:
        self.port = port  # to which it leads
        self.is_free = threading.Event()  # what connections that are there now send is passed on
        self.is_free.set()
        self.answers = 0  # of Redis, whether anybody waits for them or not
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0?lease=60"
        threading.Thread(target=self._accept, daemon=True).start()

    def keep(self) -> threading.Event:
        """Keep what is sent from now on by connections that are there; return what ends that."""
        kept, self.is_free = self.is_free, threading.Event()
        self.is_free.set()
        kept.clear()
        return kept

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                for function in (self._pass, self._answer):
                    gate = self.is_free
                    threading.Thread(target=function, args=(near, far, gate), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket, is_free: threading.Event) -> None:
        with near, contextlib.suppress(OSError):
            while data := near.recv(65536):
                assert is_free.wait(10 * PATIENCE)
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _answer(self, near: socket.socket, far: socket.socket, _gate: threading.Event) -> None:
        with far:
            while data := far.recv(65536):
                self.answers += 1
                with contextlib.suppress(OSError):
                    near.sendall(data)


@contextlib.contextmanager
def node_behind(way: Way) -> Iterator[RedisDatabase]:
    database = RedisDatabase(way.url)
    database.claim()
    database.open()
    database.begin()
    try:
        yield database
    finally:
        database.leave()
        database.close()
        way.close()


@pytest.mark.parametrize("last", [record("new", whole=True, kept=True), None], ids=["new", "gone"])
def test_a_save_that_comes_late_changes_nothing_of_what_was_saved_since(
    store: RedisServer, last: Record | None
) -> None:
    """The network had kept the first try: the room went back to it, and was the node's again."""
    way = Way(store.port)
    with node_behind(way) as one:
        one.read("den")
        kept = way.keep()
        with pytest.raises(OSError, match="does not answer"):
            one.write({"den": record("old")}, 0, {})
        one.write({"den": last}, 0, {})
        one.release(["den"])
        before, answers = store.ask("HGETALL", "scalesocket:room:den"), way.answers
        kept.set()
        wait_until(lambda: way.answers > answers)
        assert store.ask("HGETALL", "scalesocket:room:den") == before
        assert owner(store, "den") == "" and state(store, "den") == ("new" if last else "")


def test_a_redis_that_has_become_a_replica_is_left_for_whoever_has_its_name(
    folder: Path, store: RedisServer
) -> None:
    """The connection to it stayed, and the node was without a store until it was started anew."""
    way = Way(store.port)
    with running_redis(folder / "other") as other, node_behind(way) as one:
        one.read("den")
        one.renew()
        store.ask("REPLICAOF", "127.0.0.1", "1")  # which copies nothing: there is none
        way.port = other.port
        for function in (one.renew, lambda: one.write({"den": record("a")}, 0, {})):
            with pytest.raises(OSError, match="read only"):
                function()
        one.renew()
        one.write({"den": record("a")}, 0, {})
        assert state(other, "den") == "a"


def test_what_redis_has_lost_is_not_given_out_twice(store: RedisServer) -> None:
    """A replica that had not heard of it took its place: two clients, or turns, had one number."""
    with nodes(store, 60, 60) as (one, two):
        ids = [one.take_ids(), two.take_ids()]
        one.read("den")
        two.read("pit")
        store.ask("FLUSHALL")
        one.renew()
        two.renew()
        ids += [one.take_ids(), two.take_ids()]
        assert len({number for block in ids for number in block}) == sum(map(len, ids))
        one.read("new")
        assert int(store.ask("HGET", "scalesocket:room:new", "turn")) > 2


def test_if_redis_loses_all_the_nodes_that_have_rooms_still_have_them(store: RedisServer) -> None:
    with nodes(store, 60, 60) as (one, two):
        one.read("den")
        two.read("pit")
        store.ask("FLUSHALL")
        assert not one.renew() and not two.renew()
        assert one.find_lost(["den"]) == two.find_lost(["pit"]) == []
        one.write({"den": record("a")}, 0, {})
        with pytest.raises(HeldError):
            two.read("den")
        assert store.ask("GET", "scalesocket:about") == "scalesocket 1"


def test_rooms_that_nobody_wants_go_and_those_of_a_node_that_is_alive_stay(
    store: RedisServer,
) -> None:
    with nodes(store, 60) as (one,):
        for name in ("open", "left", "kept", "stub"):
            one.read(name)
        one.write({
            "open": record("a"),
            "left": record("b", whole=True),
            "kept": record("c", whole=True, kept=True),
        }, 0, {})  # fmt: skip
        one.sweep(60, 10)
        assert rooms(store) == ["kept", "left", "open", "stub"]
        wait_until(lambda: (one.sweep(0.001, 10), rooms(store) == ["kept", "open", "stub"])[1])
        one.write({name: record("d", whole=True, kept=True) for name in ("open", "stub")}, 0, {})
        one.sweep(60, 2)
        assert rooms(store) == ["open", "stub"]


def test_a_room_that_ends_while_it_is_asked_whether_it_was_lost_stays_nobodys(
    store: RedisServer,
) -> None:
    """It was taken once more, and no other node had it until this one ended."""
    with nodes(store, 60) as (one,):
        found: Any = SharedRooms.__new__(SharedRooms)
        found._store = SimpleNamespace(release=lambda name: one.release([name]))
        found._database = one
        found.lock, found._recalled = threading.RLock(), {"new"}
        found._owners = dict.fromkeys(("left", "gone", "open"))
        for name in (*found._owners, "new"):
            one.read(name)
        find_lost = one.find_lost

        def end_meanwhile(names: list[str]) -> list[str]:
            one.write({"left": record("a", whole=True), "gone": None}, 0, {})
            del found._owners["left"], found._owners["gone"]
            return find_lost(names)

        one.find_lost = end_meanwhile  # type: ignore[method-assign,assignment]
        found._give_up_lost()
        assert owner(store, "left") == "" and state(store, "left") == "a"
        assert rooms(store) == ["left", "new", "open"] and store.ask("KEYS", "*gone*") == []
        assert owner(store, "new") == owner(store, "open") != ""


def test_no_two_nodes_give_out_the_same_id(store: RedisServer) -> None:
    with nodes(store, 60, 60) as found:
        blocks = [set(node.take_ids()) for node in found * 2]
        assert len(set().union(*blocks)) == sum(map(len, blocks))
    ids = ClientIds()
    with pytest.raises(HandshakeError):
        next(ids)
    ids.add(range(1, 3))
    ids.add(range(8, 9))
    assert not ids.is_low and [next(ids) for _ in range(3)] == [1, 2, 8] and ids.is_low


# ==== One place ===========================================================================


def test_a_room_that_another_node_has_is_refused_until_that_one_ends(
    folder: Path, store: RedisServer
) -> None:
    with cluster(folder, store, "games:Tally", "--resume", "60", query=STEADY) as (one, two):
        ann, seat = sit(one, "den")
        ann.receive_text()
        say(ann, seat, "one")
        assert wait_closed(RawClient.connect(two, "den")) == 1013
        bob, other = sit(two, "pit")
        assert other["id"] != seat["id"]
        assert one.stop() == 0
        assert wait_closed(ann) == 1012
        began = time.monotonic()
        ann, again = sit(two, "den", seat["token"], 2)  # at once: nothing has to run out
        assert time.monotonic() - began < 20
        assert again["id"] == seat["id"] and again["resumed"]
        heard: Any = ann.receive_json()
        assert heard["restored"] is False and ask(ann)["said"] == ["one"]
        for client in (ann, bob):
            client.close()
    assert rooms(store) == []


def test_a_room_that_a_node_has_given_back_is_its_own_no_more(
    folder: Path, store: RedisServer
) -> None:
    """It would have gone on at two nodes."""
    with cluster(folder, store, "games:Tally", query=STEADY) as (one, two):
        for node in (one, two):
            wait_until(lambda: not owner(store, "den"))
            client = RawClient.connect(node, "den")
            wait_until(lambda: owner(store, "den"))
            if node is two:
                assert wait_closed(RawClient.connect(one, "den")) == 1013
            client.close()


@pytest.mark.parametrize("peers", [False, True], ids=["alone", "peers"])
def test_nodes_that_start_a_room_at_the_same_moment_agree_on_one(
    folder: Path, store: RedisServer, peers: bool
) -> None:
    options: dict[str, Any] = {"query": STEADY, "count": 3, "peers": peers}
    with cluster(folder, store, "games:Tally", **options) as found:
        for turn in range(5):
            gate = threading.Barrier(len(found))
            came: list[RawClient] = []

            def join(node: ServerProcess, room: str, gate: Any = gate, came: Any = came) -> None:
                gate.wait(PATIENCE)
                with contextlib.suppress(Closed, HandshakeRefused):
                    client = RawClient.connect(node, room)
                    try:
                        client.receive_text()
                    except Closed:
                        client.sock.close()
                        raise
                    came.append(client)

            threads = [threading.Thread(target=join, args=(node, f"den-{turn}")) for node in found]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            homes = {client.response.headers["x-node"] for client in came if client.response}
            assert len(homes) == 1 and len(came) == (3 if peers else 1)
            came[0].send_text("state")
            message: Any = None
            while not isinstance(message, dict):
                with contextlib.suppress(ValueError):
                    message = came[0].receive_json()
            assert len(message["clients"]) == len(came)
            for client in came:
                client.sock.close()


def test_with_peers_a_room_is_passed_through_to_whoever_has_it(
    folder: Path, store: RedisServer
) -> None:
    options: dict[str, Any] = {"query": STEADY, "peers": True}
    with cluster(folder, store, "games:Tally", "--resume", "60", **options) as (one, two):
        ann, seat = sit(one, "den")
        ann.receive_text()
        bob, _ = sit(two, "den")
        bob.receive_text()
        say(ann, seat, "one")
        assert bob.receive_text() == f"{seat['id']}:one"
        assert metric(two, "relayed_connections_total") == 1
        for client in (ann, bob):
            client.close()


# ==== A node that ends ====================================================================


def test_a_node_that_is_killed_has_its_rooms_go_on_elsewhere_with_their_seats(
    folder: Path, store: RedisServer
) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    with cluster(folder, store, "games:Tally", *options, count=3) as (one, two, three):
        seats = {}
        for name in ("a", "b", "c", "d"):
            client, seat = come(one, name)
            client.receive_text()
            say(client, seat, "one")
            seats[name] = client, seat
        wait_until(lambda: all("one" in state(store, name) for name in seats))
        one.kill()
        began = time.monotonic()
        for name, (client, seat) in seats.items():
            client.sock.close()
            client, again = come(two if name < "c" else three, name, seat["token"], 2)
            print(f"{name} is back after {time.monotonic() - began:.2f} s")
            assert again["resumed"] and again["id"] == seat["id"] and again["taken"] == 1
            heard: Any = client.receive_json()
            assert heard["restored"] is True and ask(client)["said"] == ["one"]
            client.close()
        wait_until(lambda: rooms(store) == [])
    assert LEASE + 1 < 5  # on a machine that has time


def test_a_node_that_was_frozen_beyond_its_lease_ends_its_room_and_writes_nothing(
    folder: Path, store: RedisServer
) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    with cluster(folder, store, "games:Tally", *options) as (one, two):
        ann, seat = come(one, "den")
        ann.receive_text()
        say(ann, seat, "one")
        wait_until(lambda: "one" in state(store, "den"))
        one.process.send_signal(signal.SIGSTOP)
        try:
            ann.send_text("never heard of")
            ann_again, again = come(two, "den", seat["token"], 2)
            heard: Any = ann_again.receive_json()
            assert heard["restored"] is True
            say(ann_again, seat, "two")
            wait_until(lambda: "two" in state(store, "den"))
        finally:
            one.process.send_signal(signal.SIGCONT)
        assert wait_closed(ann) == 1012
        one.wait_log("room den is not saved from here: another node has it")
        say(ann_again, seat, "three")
        wait_until(lambda: "three" in state(store, "den"))
        assert ask(ann_again)["said"] == ["one", "two", "three"]
        assert "never" not in state(store, "den")
        bob, _ = come(one, "pit")  # the node is well
        bob.close()
        ann_again.close()


def test_a_node_that_was_frozen_keeps_the_rooms_that_nobody_wanted(
    folder: Path, store: RedisServer
) -> None:
    with cluster(folder, store, "games:Kept", "--saveevery", "0.05", count=1) as (one,):
        ann = RawClient.connect(one, "den")
        number = int(ann.receive_text().split()[1])
        one.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not alive(store))
        one.process.send_signal(signal.SIGCONT)
        wait_until(lambda: alive(store))
        ann.send_text("one")
        assert ann.receive_text() == f"{number}:one"
        wait_until(lambda: "one" in state(store, "den"))
        ann.close()


def alive(store: RedisServer) -> bool:
    """Whether a node has a lease that has not run out."""
    seconds, micros = store.ask("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    return bool(store.ask("ZRANGEBYSCORE", "scalesocket:nodes", str(now), "+inf"))


def test_three_nodes_behind_haproxy_one_is_killed_and_its_rooms_go_on_with_their_seats(
    folder: Path, store: RedisServer
) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    names = [f"room-{number}" for number in range(12)]
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(
            cluster(folder, store, "games:Tally", *options, count=3, peers=True)
        )
        by_number = {str(number): node for number, node in enumerate(found)}
        addresses = [f"{node.host}:{node.port}" for node in found]
        front = stack.enter_context(proxy("haproxy", folder, addresses))
        players = {name: [Seated(front, name) for _ in range(2)] for name in names}
        for pair in players.values():
            for player in pair:
                player.say("before")
        everybody = [player for pair in players.values() for player in pair]
        assert all(one.home == other.home for one, other in players.values())
        wait_until(lambda: all(state(store, name).count("before") == 2 for name in names))
        doomed = max(by_number, key=[player.home for player in everybody].count)
        by_number[doomed].kill()
        began = time.monotonic()
        cut_off = [player for player in everybody if player.home == doomed]
        threads = [threading.Thread(target=player.come_back) for player in cut_off]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        print(f"{len(cut_off)} are back after {time.monotonic() - began:.2f} s")
        for pair in players.values():
            for player in pair:
                player.say("after")
            assert pair[0].home == pair[1].home != doomed
            assert pair[0].ask().count("before") == 2
        for player in everybody:
            player.client.close()


class Seated:
    """A client with a seat behind a proxy."""

    def __init__(self, front: tuple[str, int], room: str) -> None:
        self._front, self._room = front, room
        self.client, self.seat = come(front, room)

    @property
    def home(self) -> str:
        """The node that its room is on."""
        assert self.client.response is not None
        return str(self.client.response.headers["x-node"])

    def come_back(self) -> None:
        self.client.sock.close()
        before = self.seat
        self.client, self.seat = come(self._front, self._room, before["token"], 99)
        assert self.seat["resumed"] and self.seat["id"] == before["id"]

    def ask(self) -> str:
        """Return what its room knows."""
        self.client.send_text("state")
        while '"said"' not in (text := str(self.client.receive_text())):
            pass
        return text

    def say(self, text: str) -> None:
        """Say something, and wait until it is heard, behind whatever else is."""
        self.client.send_text(text)
        while self.client.receive_text() != f"{self.seat['id']}:{text}":
            pass


@contextlib.contextmanager
def two_nodes_with_workers(
    folder: Path, store: RedisServer
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Run them; of the first one it is known which processes there are."""
    options = ("--resume", "60", "--saveevery", "0.05", "--workers", "2", "-v")
    with cluster(folder, store, "games:Tally", *options) as (one, two):
        wait_until(lambda: len(workers_of(one)) == 2)
        yield one, two


def test_all_workers_of_a_node_that_was_frozen_end_what_another_one_has_taken(
    folder: Path, store: RedisServer
) -> None:
    """The second one that woke heard that the node was alive: the first one had just said so."""
    names = [room_of(worker) for worker in (0, 1)]
    with two_nodes_with_workers(folder, store) as (one, two):
        before = [come(one, name) for name in names]
        wait_until(lambda: all("keys" in stored_seats(store, name) for name in names))
        pids = [one.pid, *workers_of(one).values()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            after = [
                come(two, name, seat["token"], 99)
                for name, (_, seat) in zip(names, before, strict=True)
            ]
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        for (client, seat), (_, again) in zip(before, after, strict=True):
            assert wait_closed(client) == 1012 and again["id"] == seat["id"]
        for client, _ in after:
            client.close()


def test_rooms_of_a_worker_that_is_killed_go_on_at_another_node(
    folder: Path, store: RedisServer
) -> None:
    """The other workers kept the lease, and so the room from everybody."""
    with two_nodes_with_workers(folder, store) as (one, two):
        client, seat = come(one, room_of(1))
        wait_until(lambda: "keys" in stored_seats(store, room_of(1)))
        crash(one, 1)
        assert wait_closed(client) == 1012
        client, again = come(two, room_of(1), seat["token"], 99)
        assert again["resumed"] and again["id"] == seat["id"]
        client.close()


def test_a_lease_that_ran_out_is_noticed_also_if_the_answer_that_says_so_is_lost() -> None:
    class Lossy:
        lease = 60.0

        def renew(self, *, again: bool = False) -> bool:
            if not again:
                raise OSError("the answer was lost")
            return True  # as it has just been renewed

    found: Any = SharedRooms.__new__(SharedRooms)
    found._database, found._valid_until = Lossy(), time.monotonic()
    assert not found._renew()
    assert found._renew()


# ==== Redis that ends =====================================================================


@pytest.mark.parametrize("how", ["stop", "freeze"])
def test_rooms_end_before_the_lease_does_and_go_on_when_redis_is_back_with_nothing_lost(
    folder: Path, store: RedisServer, how: str
) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    lease = "?lease=8"  # in which "two" is said, also if the machine is busy meanwhile
    with cluster(folder, store, "games:Tally", *options, query=lease) as (one, two):
        ann, seat = come(one, "den")
        ann.receive_text()
        say(ann, seat, "one")
        store.stop() if how == "stop" else store.freeze()
        say(ann, seat, "two")  # play does not wait
        assert wait_closed(ann) == 1012
        one.wait_log("1 room ends here, so as to go on elsewhere: (Redis: |it takes too long)")
        for node in (one, two):
            assert wait_closed(RawClient.connect(node, "den")) == 1013
            assert http_request(node, path="/health").status == 200
        store.start() if how == "stop" else store.thaw()
        one.wait_log("rooms are saved again")
        ann, again = come(two, "den", seat["token"], 3)
        assert again["resumed"] and again["id"] == seat["id"] and again["taken"] == 2
        heard: Any = ann.receive_json()
        assert heard["restored"] is False and ask(ann)["said"] == ["one", "two"]
        ann.close()


def test_a_room_that_redis_gave_away_too_late_is_nobodys(folder: Path, store: RedisServer) -> None:
    """The node that had asked for it let no other one have it, and did not run it."""
    with cluster(folder, store, "games:Tally", "--resume", "60", query=STEADY) as (one, two):
        ann, _ = come(one, "pit")  # it has a connection to Redis
        store.freeze()
        assert wait_closed(RawClient.connect(one, "den")) == 1013
        store.thaw()
        bob, _ = come(two, "den")
        for client in (ann, bob):
            client.close()


@pytest.mark.parametrize("query", [STEADY, "?nodes=1"])
def test_a_damaged_record_is_named_and_stays_and_its_room_begins_anew(
    folder: Path, store: RedisServer, query: str
) -> None:
    """It was tried again and again, as if Redis were away: nobody came into the room any more."""
    key, options = "scalesocket:room:den", ("--resume", "60")
    with cluster(folder, store, "games:Kept", *options, query=query, count=1) as (node,):
        ann, seat = come(node, "den")
        ann.receive_text()
        say(ann, seat, "one")
        stop(node, ann)
    seats = store.ask("HGET", key, "seats")
    damaged = seats.replace('"claims"', '"something"')
    store.ask("HSET", key, "seats", damaged)
    with cluster(folder, store, "games:Kept", *options, query=query, count=1) as (node,):
        for _ in range(2):
            since = len(node.log())
            client = RawClient.connect(node, "den")
            assert client.receive_text().endswith(" 0")
            what = f"room den: what is stored of seat {seat['id']} is damaged: claims"
            node.wait_log(what, since=since)
            node.wait_log("room den begins anew and is not saved", since=since)
            assert owner(store, "den"), "no other node may have it meanwhile"
            client.close()
            node.wait_log("room closed", since=since)
            wait_until(lambda: not owner(store, "den"))
        assert not any("rooms cannot be saved" in line for line in node.log())
    assert store.ask("HGET", key, "seats") == damaged
    store.ask("HSET", key, "seats", seats)
    with cluster(folder, store, "games:Kept", *options, query=query, count=1) as (node,):
        ann, again = come(node, "den", seat["token"], 2)
        assert again["resumed"] and again["id"] == seat["id"]
        assert ann.receive_json()["restored"] is False, "its record is as whole as it was"
        ann.close()


WHOLE = NOTHING._replace(whole=True)


class SlowDatabase:
    """Has a room read when a test says so."""

    alone = False

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()
        self.read_rooms: list[str] = []
        self.done: list[object] = []

    def open(self) -> dict[str, bool]:
        return {}

    def read(self, room: str) -> Record | None:
        self.asked.set()
        assert self.answers.wait(PATIENCE)
        self.read_rooms.append(room)
        return WHOLE

    def write(self, batch: dict[str, Record | None], *_: object) -> None:
        self.done.append(batch)

    def release(self, names: list[str]) -> None:
        self.done.append(names)

    def close(self) -> None:
        pass


def test_a_room_that_was_read_for_somebody_who_waits_no_longer_is_released_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its record was whole no longer: wherever it went on, its clients were told all anew."""
    monkeypatch.setattr("scalesocket.net.store.LOAD_TIMEOUT", 0.01)
    database: Any = SlowDatabase()
    store = SharedStore(database, lambda _name, _number=1: None)
    store.start()
    # Again, where the thread comes to it only when nobody waits any more: it is not read then.
    wait_until(lambda: is_busy(store, "den") and database.asked.is_set())
    assert is_busy(store, "pit")
    database.answers.set()
    wait_until(lambda: database.done == [{"den": WHOLE}, ["den"]])
    store.stop()
    assert database.read_rooms == ["den"]


class AwayDatabase(SlowDatabase):
    """Cannot be reached until a test says so."""

    is_away = True

    def _reach(self) -> None:
        if self.is_away:
            raise OSError("away")

    def read(self, room: str) -> Record | None:
        self.read_rooms.append(room)
        self._reach()
        return WHOLE

    def release(self, names: list[str]) -> None:
        self._reach()
        super().release(names)


@pytest.mark.parametrize("alone", [False, True])
def test_names_of_rooms_that_are_asked_for_while_redis_is_away_are_bounded(
    monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """All were kept, so as to be released later: whoever made names up filled the memory."""
    monkeypatch.setattr("scalesocket.net.shared_rooms.MOST_RELEASED", 3)
    database: Any = AwayDatabase()
    database.alone = alone
    store = SharedStore(database, lambda _name, _number=1: None)
    store._tell = lambda _rooms: None

    def ask(name: str) -> Question:
        question = Question(name)
        store._questions.append(question)
        store._do_round()
        assert question.answered.is_set()
        return question

    for number in range(6):
        assert ask(f"room {number}").error
        if alone:  # there the room begins anew, and ends
            store.release(f"room {number}")
    first = ["room 0", "room 1", "room 2"]
    assert store._released == set(first)
    assert database.read_rooms == first
    assert ask("room 1").error  # one of those is asked for as ever
    assert database.read_rooms == [*first, "room 1"]
    database.is_away = False
    assert ask("room 1").record == WHOLE
    assert sorted(database.done[-1]) == ["room 0", "room 2"]
    assert ask("room 5").record == WHOLE


def test_a_room_that_is_wanted_again_before_it_was_given_back_is_kept() -> None:
    """Redis would have given it to another node while it went on here."""
    database: Any = SlowDatabase()
    database.answers.set()
    store = SharedStore(database, lambda _name, _number=1: None)
    store.is_open = True
    store.release("den")
    store.release("pit")
    question = Question("den")
    store._questions.append(question)
    store._do_round()
    assert question.record == WHOLE and database.done == [["pit"]]


@pytest.mark.parametrize("kind", [StoredRooms, SharedRooms])
def test_of_two_rooms_of_a_name_only_the_later_one_is_saved_or_removed(kind: Any) -> None:
    """The other one is at its end, and may take long for that."""
    found = kind.__new__(kind)
    found.lock, found._store = threading.RLock(), Mock()
    old, new = (SimpleNamespace(name="den", is_stored=True) for _ in range(2))
    found._owners = {"den": new}
    for room in (old, new):
        found.save(room, WHOLE)
        found.remove(room)
    assert found._store.put.mock_calls == [call("den", WHOLE), call("den", None)]


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_which_rooms_were_lost_with_a_lease_is_asked_until_there_is_an_answer(
    error: type[Exception],
) -> None:
    """By then the lease is valid again, but what others have taken meanwhile went on here, too."""
    found: Any = SharedRooms.__new__(SharedRooms)
    found.lock, found._owners = threading.RLock(), {"den": None}
    found._renew = Mock(side_effect=[False, True])
    found._database = SimpleNamespace(lease=3.0, find_lost=Mock(side_effect=[error, ["den"]]))
    found._ending = SimpleNamespace(wait=Mock(side_effect=[False, False, True]))
    found._is_known, found._asked_at, found._sweep_at = True, None, math.inf
    found._ids = SimpleNamespace(is_low=False)
    for name in ("count", "_end_in_time", "_lose"):
        setattr(found, name, Mock())
    found._run()
    found._lose.assert_called_once_with("den")


def test_who_comes_back_while_its_room_ends_here_waits_for_the_last_save() -> None:
    """If Redis was back by then, it began with what was saved before, and the rest was lost."""
    found: Any = SharedRooms.__new__(SharedRooms)
    found.lock, found._recalled, found._rooms = threading.RLock(), set(), {}
    found._owners = {"den": SimpleNamespace(is_needed=False, farewell=(1012, "restarts"))}
    found.ending_time = 0.0
    with pytest.raises(ConnectionClosed, match="being saved"):
        found._begin_recall("den")


def test_a_room_that_could_not_be_given_back_is_given_back_later() -> None:
    """No other node could have had it for as long as this one ran."""
    database: Any = SlowDatabase()
    store = SharedStore(database, lambda _name, _number=1: None)
    store.is_open = True
    store.release("den")
    with patch.object(database, "release", side_effect=OSError):
        store._do_round()
    assert store._released == {"den"}
    store._write_at = 0.0
    store._do_round()
    assert database.done == [["den"]]


class Dripper:
    """Stands between a node and Redis; told to, it answers drop by drop, and without end."""

    def __init__(self, store: RedisServer) -> None:
        self._store = store
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.drips = False
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._store.port))
                self._sockets += [near, far]
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(near, far), daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)

    def _answer(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                near.sendall(b"+" if self.drips else data)
                while self.drips:
                    near.sendall(b"x")
                    time.sleep(0.05)

    def close(self) -> None:
        self.drips = False
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def test_rooms_end_in_time_also_if_redis_never_gets_to_the_end_of_an_answer(
    folder: Path, store: RedisServer
) -> None:
    with contextlib.closing(Dripper(store)) as dripper:
        url = f"redis://127.0.0.1:{dripper.port}/0"
        with serve("--store", url, "games:Tally", cwd=folder) as server:
            client = RawClient.connect(server, "den")
            client.receive_text()
            dripper.drips = True
            assert wait_closed(client) == 1012
            server.wait_log("1 room ends here, so as to go on elsewhere")  # or a drip came late
            dripper.close()


def test_a_node_that_is_out_of_memory_ends_its_rooms_in_time_and_has_a_lease_again_later(
    folder: Path, store: RedisServer
) -> None:
    """One such moment ended its lease, and another node took rooms that it played on in."""
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); import scalesocket\n"
        "from scalesocket.net.redis_store import RedisDatabase\n"
        "def renew(self, *, again=False):\n"
        "    if os.path.exists('short'):\n"
        "        raise MemoryError\n"
        "    return usual(self, again=again)\n"
        "usual, RedisDatabase.renew = RedisDatabase.renew, renew\n"
        "sys.exit(scalesocket.main())"
    )
    command = [sys.executable, "-c", code]
    options = ("--store", store.url, "--resume", "60", "games:Tally")
    with serve(*options, cwd=folder, command=command) as server:
        client, _ = come(server, "den")
        client.receive_text()
        (folder / "short").touch()
        server.wait_log("the system is out of memory")
        assert wait_closed(client) == 1012
        wait_until(lambda: not owner(store, "den"))
        (folder / "short").unlink()
        wait_until(lambda: alive(store))
        client, _ = come(server, "den")
        client.close()


def test_a_program_that_takes_its_time_keeps_no_client_beyond_the_lease(
    folder: Path, store: RedisServer
) -> None:
    (folder / "slow.sh").write_text("trap '' TERM HUP INT\nwhile true; do read -r _; done\n")
    options = ("--closegrace", "5", "sh")
    with serve("--store", store.url, *options, "--", "slow.sh", cwd=folder) as server:
        client = RawClient.connect(server, "den")
        wait_until(lambda: owner(store, "den"))
        store.stop()
        assert wait_closed(client) == 1012
        assert server.children()  # which plays on for nobody
        store.start()


@pytest.mark.parametrize("how", ["one after the other", "both"])
def test_nodes_that_stop_under_a_dozen_clients_lose_nothing_and_double_nothing(
    folder: Path, store: RedisServer, how: str
) -> None:
    """Clients go to the node that is there, as a proxy would send them."""
    step, lives, everybody = 20, 4, 8
    ports = [free_port(), free_port()]
    players: list[Player] = []

    def node(number: int) -> Any:
        options = ("--resume", "60", "--store", store.url + STEADY, "games:Quiet")
        return serve(*options, cwd=folder, addr=f"127.0.0.1:{ports[number]}")

    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(node(number)) for number in (0, 1)]
        players = [
            Player(("127.0.0.1", ports[0]), step * lives, everybody) for _ in range(everybody)
        ]
        wait_for_players(players, lambda player: bool(player.id), all)
        for life in range(lives):
            here, there = life % 2, 1 - life % 2
            for player in players:
                player.allowed = (life + 1) * step
            enough = step * everybody * life + random.randrange(step * everybody)
            wait_for_players(players, lambda p, enough=enough: len(p.heard) >= enough, any)
            if how == "both":
                nodes[there].stop()
            nodes[here].stop()
            for player in players:
                player.address = "127.0.0.1", ports[there]
            for number in (there, here):
                if nodes[number].process.poll() is not None:
                    nodes[number] = stack.enter_context(node(number))
        for player in players:
            player.thread.join(2 * PATIENCE)
    assert [player.error for player in players] == [None] * everybody
    assert sum(player.resumed for player in players) > everybody
    first = players[0].heard
    assert len(first) == step * lives * everybody
    assert all(player.heard == first for player in players)  # one order of events
    for player in players:
        own = [text.partition(":")[2] for text in first if text.startswith(f"{player.id}:")]
        assert own == player.numbers


def test_a_short_absence_of_redis_is_not_noticed(folder: Path, store: RedisServer) -> None:
    with cluster(folder, store, "games:Kept", query=STEADY, count=1) as (one,):
        ann = RawClient.connect(one, "den")
        number = int(ann.receive_text().split()[1])
        store.stop(signal.SIGKILL)
        store.start()
        ann.send_text("one")
        assert ann.receive_text() == f"{number}:one"
        ann.close()
        wait_until(lambda: "one" in state(store, "den") and not owner(store, "den"))
