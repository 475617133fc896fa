"""--store redis://: rooms in Redis, which is stopped, killed, frozen and started in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from scalesocket.net import redis_store
from scalesocket.net.redis_store import RedisDatabase, decode, encode, parse_url
from scalesocket.net.seats import digest
from scalesocket.net.store import NOTHING, ONE_REDIS, Record, StoredSeat

from scalesocket import ConfigError
from tests.certificates import Certificates
from tests.redis_server import RedisServer, running_redis
from tests.rooms.test_store import (
    NOTES_LATE,
    ask,
    crash_between_saves,
    metric,
    say,
    sit,
    take_and_give_back_seats,
    wait_closed,
)
from tests.support import (
    RawClient,
    ServerProcess,
    free_port,
    require_tool,
    run_cli,
    serve,
    wait_until,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out


@contextlib.contextmanager
def stored(
    folder: Path, store: RedisServer, target: str, *options: str, query: str = "", **more: Any
) -> Iterator[ServerProcess]:
    """Run a server with its rooms in Redis."""
    with serve("--store", store.url + query, *options, target, cwd=folder, **more) as server:
        yield server


def rooms(store: RedisServer) -> list[str]:
    """Return the names of the rooms that are stored, or open."""
    found = [store.ask("ZRANGE", f"scalesocket:{key}", "0", "-1") for key in ("rooms", "kept")]
    return sorted(found[0] + found[1])


def state(store: RedisServer, room: str) -> str:
    """Return what is stored of a game."""
    return store.ask("HGET", f"scalesocket:room:{room}", "state") or ""


# ==== Records =============================================================================


@pytest.mark.parametrize("state", [None, "", '{"é":1}', b"", bytes(range(256))])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_record_comes_back_as_it_was(state: str | bytes | None, count: int) -> None:
    seats = tuple(
        StoredSeat(number, f'{{"name":"a,]{number}"}}', bytes([number, 10, 0]) * number)
        for number in range(count)
    )
    for whole in (False, True):
        record = Record(whole, not whole, state, '{"a":"é"}', b"\x81\x01\n", seats)
        parts = encode(record)
        assert parts[::2] == [name.encode() for name in redis_store.FIELDS]
        assert decode(list(parts[1::2]), []) == record


def test_seats_that_came_after_a_save_are_added_and_of_others_only_the_tokens() -> None:
    old = StoredSeat(1, '{"keys":["a"],"taken":5}', b"missed")
    record = Record(False, False, "1", "null", b"", (old,))
    latest = [b"1", b'{"keys":["b"],"taken":0}', b"2", b'{"keys":["c"],"taken":0}']
    found = decode(list(encode(record)[1::2]), latest)
    assert found is not None
    assert [(seat.id, json.loads(seat.facts), seat.missed) for seat in found.seats] == [
        (1, {"keys": ["b"], "taken": 5}, b"missed"),
        (2, {"keys": ["c"], "taken": 0}, b""),
    ]
    nothing: list[bytes | None] = [None] * 8
    alone = decode(nothing, latest[2:])
    assert alone == NOTHING._replace(seats=(StoredSeat(2, latest[3].decode(), b""),))
    assert decode(nothing, []) is None


@pytest.mark.parametrize("late", [[], [b"1", b"[]"]])
def test_a_damaged_seat_is_a_damaged_record(
    monkeypatch: pytest.MonkeyPatch, late: list[bytes]
) -> None:
    """It ended the thread that asks Redis: nothing was saved any more, and no room came back."""
    record = Record(False, False, "1", "null", b"", (StoredSeat(1, '{"keys":[]}', b""),))
    database = RedisDatabase("redis://nowhere")
    answer = [b"ok", 7, late, *encode(record)[1::2]]
    monkeypatch.setattr(database, "_client", None, raising=False)
    monkeypatch.setattr(database, "_call", lambda *_: answer)
    with pytest.raises(ValueError, match="what is stored of a? ?seat"):
        database.read("den")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", ("host", 6379, 0, None, None, False)),
        ("redis://host:1/2", ("host", 1, 2, None, None, False)),
        ("valkey://host/", ("host", 6379, 0, None, None, False)),
        ("rediss://ann:a%40b@[::1]:7/3", ("::1", 7, 3, "ann", "a@b", True)),
        ("valkeys://:secret@host", ("host", 6379, 0, None, "secret", True)),
    ],
)
def test_a_url_says_where_redis_is_and_is_shown_without_who_asks(
    url: str, expected: tuple[object, ...]
) -> None:
    place = parse_url(url)
    assert place[:6] == expected and place[6:9] == ("scalesocket", 3, False)
    assert "@" not in place.shown and "secret" not in place.shown
    more = parse_url(f"{url}?prefix=a&nodes=1&lease=1.5")
    assert more[6:] == ("a", 1.5, True, f"{place.shown}?prefix=a")


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://:secret@host/x",
        "redis://u:secret@host:x/0",
        "redis://u:secret@[::1/0",
        "redis://u:secret@a..b/0",
        "redis://u:secret@host/0?x=1",
        "redis://u:secret@host/0?prefix",
        "redis://u:secret@host/0#x",
        "redis://u:secret@host/0?nodes=2",
        "redis://u:secret@host/0?lease=0",
        "redis://u:secret@host/0?lease=nan",
        "redis://u:secret@host/0?lease=x",
    ],
)
def test_a_url_that_says_something_else_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="HOST") as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)


# ==== A stop, and a crash =================================================================


def test_a_stop_keeps_room_and_seats_and_a_crash_what_was_saved(
    folder: Path, store: RedisServer
) -> None:
    options = ("--resume", "60", "--saveevery", "0.05")
    with stored(folder, store, "games:Tally", *options) as server:
        ann, seat = sit(server, "den")
        assert ann.receive_text() == f"joined {seat['id']} 0"
        say(ann, seat, "one")
        assert server.stop() == 0
        assert wait_closed(ann) == 1012
    store.stop()
    store.start()
    with stored(folder, store, "games:Tally", *options) as server:
        ann, again = sit(server, "den", seat["token"], 2)
        assert again["resumed"] and again["id"] == seat["id"] and again["taken"] == 1
        heard: Any = ann.receive_json()
        assert heard["restored"] is False
        say(ann, seat, "two")
        wait_until(lambda: "two" in state(store, "den"))
        server.kill()
        ann.sock.close()
    with stored(folder, store, "games:Tally", *options) as server:  # waits until it is forgotten
        ann, last = sit(server, "den", again["token"], 99)
        assert last["resumed"] and last["id"] == seat["id"] and last["taken"] == 2
        heard = ann.receive_json()
        assert heard["restored"] is True
        assert ask(ann)["said"] == ["one", "two"]
        newcomer = RawClient.connect(server, "den")
        assert int(newcomer.receive_text().split()[1]) > seat["id"]
        newcomer.close()
        ann.close()
        wait_until(lambda: not rooms(store))  # its record has gone with its last seat


def test_a_crash_between_two_saves_leaves_everybody_the_seat(
    folder: Path, store: RedisServer
) -> None:
    def wait_known(token: str) -> None:
        wait_until(lambda: digest(token).hex() in find_seats())
        assert token not in find_seats()

    def find_seats() -> str:
        key = "scalesocket:room:den"
        names = [name for name in store.ask("HKEYS", key) if name.startswith("seat")]
        return str([store.ask("HGET", key, name) for name in names])

    options = ("--resume", "60", "--saveevery", "0")
    crash_between_saves(lambda: stored(folder, store, "games:Tally", *options), wait_known)
    wait_until(lambda: not rooms(store))  # it has gone with its last seat


def test_a_token_given_as_its_room_fails_finds_the_seat_again(
    folder: Path, store: RedisServer
) -> None:
    """Its client had it, and it was noted when the room was nobody's: it was not stored."""
    options = ("--resume", "60", "--saveevery", "0.05")
    more: Any = {"command": [sys.executable, "-c", NOTES_LATE], "allow_traceback": True}
    with stored(folder, store, "games:Kept", *options, query="?lease=30", **more) as server:
        bob, _ = sit(server, "den")
        bob.receive_text()
        ann, seat = sit(server, "den")
        say(bob, {"id": 1}, "one")
        wait_until(lambda: "one" in state(store, "den"))
        ann.sock.close()
        (folder / "hold").touch()
        ann, again = sit(server, "den", seat["token"])
        bob.send_text("fail")
        assert wait_closed(ann) == wait_closed(bob) == 1011
        wait_until(lambda: not store.ask("HGET", "scalesocket:room:den", "owner"))
        (folder / "hold").unlink()
        key, found = digest(again["token"]).hex(), f"seat:{seat['id']}"
        wait_until(lambda: key in (store.ask("HGET", "scalesocket:room:den", found) or ""))
        wait_until(lambda: not store.ask("HGET", "scalesocket:room:den", "owner"))
        ann, last = sit(server, "den", again["token"])
        assert last["resumed"] and last["id"] == seat["id"]
        ann.close()


def test_who_gives_a_seat_back_leaves_nothing_in_the_store(
    folder: Path, store: RedisServer
) -> None:
    def count_stored() -> int:
        names = store.ask("HKEYS", "scalesocket:room:den")
        return sum(name.startswith("seat:") for name in names)

    with stored(folder, store, "games:Tally", "--resume", "60", "--saveevery", "0") as server:
        take_and_give_back_seats(server, count_stored)


def test_who_removes_a_record_that_makes_its_room_fail_has_it_begin_anew(
    folder: Path, store: RedisServer
) -> None:
    with stored(folder, store, "games:Kept", "--resume", "60") as server:
        client, _ = sit(server, "den")
        client.receive_text()
        client.send_text("one")
        client.receive_text()
        assert server.stop() == 0
        assert wait_closed(client) == 1012
    with stored(folder, store, "games:Picky", allow_traceback=True) as server:
        assert wait_closed(RawClient.connect(server, "den")) == 1011
        store.ask("DEL", "scalesocket:room:den")  # as README says
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 0")
        client.close()


def test_a_program_and_a_history_come_back_too(folder: Path, store: RedisServer) -> None:
    options = ("--json", "--cache", "3", "--cachepersist")
    for turn in range(2):
        with stored(folder, store, "program.py", *options) as server:
            client = RawClient.connect(server, "den")
            client.send_json({"add": 5})
            while client.receive_json() != {"t": "total", "total": 5 * turn + 5}:
                pass
            client.close()
        assert rooms(store) == ["den"]


def test_kill_9_at_any_moment_never_leaves_half_of_a_save(folder: Path, store: RedisServer) -> None:
    port, least = free_port(), 0
    for _ in range(6):
        options = ("--saveevery", "0.01", "--resume", "60")
        with stored(folder, store, "games:Ticking", *options, addr=f"127.0.0.1:{port}") as server:
            client = RawClient.connect(server, "den")
            count = int(client.receive_text())  # the game looks whether what it has got is whole
            assert count >= least
            least = count
            begin = state(store, "den")
            wait_until(lambda begin=begin: state(store, "den") != begin)  # type: ignore[misc]
            time.sleep(random.uniform(0, 0.03))
            server.kill()
            client.sock.close()
    assert rooms(store) == ["den"] and least > 0


def test_workers_share_it_and_one_that_is_killed_has_its_rooms_back(
    folder: Path, store: RedisServer
) -> None:
    options = ("--workers", "2", "--resume", "60", "--saveevery", "0.05")
    with stored(folder, store, "games:Tally", *options) as server:
        seats = {}
        for name in ("a", "b", "c", "d"):
            client, seat = sit(server, name)
            client.receive_text()
            say(client, seat, "one")
            seats[name] = client, seat
        wait_until(lambda: all("one" in state(store, name) for name in seats))
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        for name, (client, seat) in seats.items():
            client.sock.close()
            client, again = sit(server, name, seat["token"], 2)
            assert again["id"] == seat["id"]
            heard: Any = client.receive_json()
            assert heard["restored"] is True
            assert ask(client)["said"] == ["one"]
            client.close()
        wait_until(lambda: not rooms(store))


# ==== A store that does not work ==========================================================


def refused(folder: Path, url: str) -> tuple[int, str]:
    """Return the exit status of a server with that store, and the one line that it says."""
    done = run_cli("--addr", "127.0.0.1:0", "--store", url, "cat", cwd=folder)
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr.removeprefix("scalesocket: ").strip()


def test_what_is_no_store_is_refused_in_one_line(folder: Path, store: RedisServer) -> None:
    nobody = f"redis://ann:secret@127.0.0.1:{free_port()}/0"
    status, said = refused(folder, nobody)
    assert status == 1 and said.startswith("cannot use --store redis://127.0.0.1:")
    assert said.endswith("/0: Connection refused") and "secret" not in said
    status, said = refused(folder, "redis://u:secret@host/x")
    assert status == 2 and "is wanted" in said and "secret" not in said
    store.ask("SET", "scalesocket:about", "a diary")
    strange = (2, f"--store {store.url} has keys of something else")
    assert refused(folder, store.url) == strange
    assert store.ask("GET", "scalesocket:about") == "a diary"
    store.ask("DEL", "scalesocket:about")
    store.ask("SADD", "scalesocket:rooms", "bath")
    assert refused(folder, store.url) == strange
    store.ask("SADD", "scalesocket:about", "x")
    assert refused(folder, store.url) == strange
    store.ask("FLUSHALL")
    store.ask("SET", "scalesocket:about", "scalesocket 2")
    later = (2, f"--store {store.url} is of a later version of this server")
    assert refused(folder, store.url) == later
    store.ask("CONFIG", "SET", "maxmemory", "1")
    status, said = refused(folder, f"{store.url}?prefix=other")
    full = "command not allowed when used memory > 'maxmemory'"
    assert (status, said) == (1, f"cannot use --store {store.url}?prefix=other: {full}")


@pytest.mark.parametrize("scheme", ["redis+sentinel", "rediss+cluster", "redis-sentinel"])
def test_a_url_of_sentinels_or_a_cluster_is_refused_with_what_will_do(
    folder: Path, scheme: str
) -> None:
    status, said = refused(folder, f"{scheme}://u:secret@one:26379,two:26379/play")
    assert status == 2 and said.startswith(f"argument --store: {scheme}://…: {ONE_REDIS}")


@pytest.mark.parametrize("has_slots", [False, True])
def test_a_node_of_a_cluster_is_refused_with_what_will_do(folder: Path, has_slots: bool) -> None:
    with running_redis(folder / "redis", "", ("--cluster-enabled", "yes")) as node:
        if has_slots:
            node.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            wait_until(lambda: "cluster_state:ok" in str(node.ask("CLUSTER", "INFO")))
        assert refused(folder, node.url) == (2, f"--store {node.url}: {ONE_REDIS}")


def test_a_sentinel_is_refused_with_what_will_do(folder: Path) -> None:
    port = free_port()
    settings = folder / "sentinel.conf"
    settings.write_text(f"port {port}\nbind 127.0.0.1\nlogfile {folder / 'sentinel.log'}\n")
    command = [require_tool("redis-server"), os.fspath(settings), "--sentinel"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: listens(port))
            url = f"redis://127.0.0.1:{port}/0"
            assert refused(folder, url) == (2, f"--store {url}: {ONE_REDIS}")
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_wrong_password_is_one_line_without_it(folder: Path) -> None:
    with running_redis(folder / "redis", "right") as store:
        for who in ("", ":wrong@", "ann:wrong@"):
            url = store.url.replace("//", f"//{who}")
            said = f"cannot use --store {store.url}: it wants another user or password"
            assert refused(folder, url) == (1, said)
        url = store.url.replace("//", "//:right@")
        with serve("-vv", "--store", url, "cat", cwd=folder) as server:
            with RawClient.connect(server, "den") as client:
                client.send_text("hello")
                assert client.receive_text() == "hello"
                client.close()
        assert "right" not in "\n".join(server.log())


def test_over_tls_only_a_certificate_that_is_trusted_will_do(
    folder: Path, certs: Certificates
) -> None:
    port = free_port()
    files = ("--tls-cert-file", certs.cert("server"), "--tls-key-file", certs.key("server"))
    more = ("--tls-ca-cert-file", certs.cert("authority"), "--tls-auth-clients", "no")
    with running_redis(folder / "redis", "", ("--tls-port", str(port), *files, *more)):
        url = f"rediss://127.0.0.1:{port}/0"
        status, said = refused(folder, url)
        assert status == 1 and said.startswith(f"cannot use --store {url}: ")
        assert "certificate" in said
        trust = {"SSL_CERT_FILE": certs.cert("authority")}
        with serve("--store", url, "cat", cwd=folder, env=trust) as server:
            with RawClient.connect(server, "den") as client:
                client.send_text("hello")
                assert client.receive_text() == "hello"
                client.close()


def test_a_record_that_is_none_keeps_nobody_out_and_stays(folder: Path, store: RedisServer) -> None:
    store.ask("HSET", "scalesocket:room:den", "whole", "1", "kept", "x")
    with stored(folder, store, "games:Kept") as server:
        with RawClient.connect(server, "den") as client:
            assert client.receive_text().endswith(" 0")
            server.wait_log("room den: a field is missing")
            client.close()
        server.wait_log("room closed")
        assert store.ask("HGET", "scalesocket:room:den", "kept") == "x"


def test_what_is_no_redis_is_refused(folder: Path) -> None:
    with serve("cat") as other:
        status, said = refused(folder, f"redis://127.0.0.1:{other.port}/0")
        assert status == 1 and said.startswith("cannot use --store redis://127.0.0.1:")


def test_without_the_package_one_line_says_how_to_get_it(folder: Path) -> None:
    (folder / "redis.py").write_text("raise ImportError('as if it were not there')")
    done = run_cli(
        "--store=redis://127.0.0.1", "cat", cwd=folder, env={"PYTHONPATH": os.fspath(folder)}
    )
    assert done.returncode == 2 and done.stderr == (
        "scalesocket: --store with Redis needs the package redis, which is missing: "
        "pip install redis\n"
    )


@pytest.mark.parametrize("how", ["stop", "freeze"])
def test_play_goes_on_while_redis_is_away_and_is_saved_afterwards(
    folder: Path, store: RedisServer, how: str
) -> None:
    options = ("--saveevery", "0.05", "--metrics")
    with stored(folder, store, "games:Kept", *options, query="?nodes=1") as server:
        client = RawClient.connect(server, "den")
        number = int(client.receive_text().split()[1])
        store.stop() if how == "stop" else store.freeze()
        client.send_text("one")
        assert client.receive_text() == f"{number}:one"
        server.wait_log("rooms cannot be saved, and play goes on: Redis: ")
        wait_until(lambda: metric(server, "store_failures_total") >= 2)
        client.send_text("two")
        assert client.receive_text() == f"{number}:two"
        store.start() if how == "stop" else store.thaw()
        server.wait_log("rooms are saved again")
        wait_until(lambda: "two" in state(store, "den"))
        assert len([line for line in server.log() if "cannot be saved" in line]) == 1
        client.close()
    with stored(folder, store, "games:Kept") as server:
        client = RawClient.connect(server, "den")
        assert client.receive_text().endswith(" 2")
        client.close()


def test_rooms_begin_and_go_on_while_redis_is_away_from_a_node_that_is_alone(
    folder: Path, store: RedisServer
) -> None:
    """A new room ended the thread that writes: from then on nothing was saved or read."""
    with stored(folder, store, "games:Kept", query="?nodes=1") as server:
        client = RawClient.connect(server, "den")
        number = int(client.receive_text().split()[1])
        store.stop()
        client.send_text("one")
        assert client.receive_text() == f"{number}:one"
        client.close()
        server.wait_log("rooms cannot be saved, and play goes on: Redis: ")
        with RawClient.connect(server, "den") as client:  # its record waits in memory
            assert client.receive_text().endswith(" 1")
            client.close()
        with RawClient.connect(server, "new") as client:
            assert client.receive_text().endswith(" 0")
            server.wait_log("room new begins anew and is not saved")
            client.close()
        store.start()
        server.wait_log("rooms are saved again")
        with RawClient.connect(server, "next") as client:
            client.receive_text()
            client.close()
        wait_until(lambda: rooms(store) == ["den", "next"] and "one" in state(store, "den"))


def test_a_node_that_wants_to_be_alone_is_let_in_once_the_other_one_has_ended(
    folder: Path, store: RedisServer
) -> None:
    alone = "?nodes=1&lease=20"
    with stored(folder, store, "cat", query="?lease=20") as server:
        said = f"another server uses --store {store.url}"
        assert refused(folder, store.url + alone) == (1, said)
        with stored(folder, store, "cat", query=f"{alone}&prefix=other"):
            pass
        server.stop()
        with stored(folder, store, "cat", query=alone):
            pass
    with stored(folder, store, "cat", query="?lease=2") as server:
        server.kill()
    with stored(folder, store, "cat", query="?nodes=1"):
        pass


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        ([("REPLICAOF", "127.0.0.1", "1")], "You can't write against a read only replica"),
        (
            [("CONFIG", "SET", "requirepass", "x"), ("CLIENT", "KILL", "SKIPME", "no")],
            "it wants another user or password",
        ),
    ],
)
def test_why_redis_saves_nothing_is_said_without_what_it_was_asked(
    store: RedisServer, commands: list[tuple[str, ...]], why: str
) -> None:
    """The line began with the script; of a password that had changed it said "multibulk length"."""
    database = RedisDatabase(store.url)
    database.claim()
    database.open()
    database.begin()
    database.renew()
    database.read("den")
    with redis.Redis(port=store.port, protocol=2) as client:
        for command in commands:
            client.execute_command(*command)
    with pytest.raises(OSError, match=f"^Redis: {re.escape(why)}$"):
        database.write({"den": NOTHING}, 0, {})
    database.close()


def test_a_room_that_cannot_be_read_as_redis_is_full_says_so(store: RedisServer) -> None:
    """It said no more than that the node was not known to be alive."""
    database = RedisDatabase(f"{store.url}?lease=1&nodes=1")
    database.claim()
    database.open()
    database.begin()
    store.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(OSError, match="used memory > 'maxmemory'"):
        database.renew()
    alive = "ZCOUNT", "scalesocket:nodes"
    wait_until(lambda: store.ask(*alive, str(int(time.time() * 1000)), "+inf") == 0)
    with pytest.raises(OSError, match="that it is alive: Redis: .* used memory > 'maxmemory'$"):
        database.read("den")
    store.ask("CONFIG", "SET", "maxmemory", "0")
    database.renew()
    assert database.read("den") is None
    database.close()


# ==== Who may read it =====================================================================


def test_redis_has_no_token_and_no_header(folder: Path, store: RedisServer) -> None:
    with stored(folder, store, "games:Tally", "--resume", "60", "--saveevery", "0.05") as server:
        client = RawClient.connect(server, "den?_seat", {"Cookie": "id=a-secret-of-a-cookie"})
        client.send_json({"_seat": {}})
        answer: Any = client.receive_json()
        client.receive_text()
        wait_until(lambda: store.ask("HGET", "scalesocket:room:den", "seats"))
        found = str(store.ask("HGETALL", "scalesocket:room:den"))
        assert answer["_seat"]["token"] not in found and "secret" not in found
        assert "keys" in found
        client.close()
