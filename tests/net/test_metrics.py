"""`/metrics`: valid OpenMetrics, and numbers that move as they should.

The parser here is written from the OpenMetrics 1.0 text format and is stricter than most.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalesocket.net.metrics import Metrics, Ticks, add_ticks, find_totals
from scalesocket.net.rooms import PatientRooms

from scalesocket import Config, Poller, Room, insist
from tests.support import (
    RawClient,
    ServerProcess,
    address_text,
    encode_client_frame,
    encode_client_frames,
    http_request,
    serve,
    wait_until,
)

# ==== A strict parser ======================================================

Labels = frozenset[tuple[str, str]]
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
UNESCAPE = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
SUFFIXES = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
}


@dataclass
class Family:
    """A metric family: what its comments said, and its samples."""

    kind: str = "unknown"
    unit: str = ""
    text: str = ""
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


def parse_openmetrics(text: str) -> dict[str, Family]:
    """Parse an exposition; every rule that is broken is an AssertionError."""
    assert text.endswith("# EOF\n"), "it must end with # EOF and a line feed"
    lines = text.removesuffix("# EOF\n").split("\n")
    assert lines.pop() == "", "the line before # EOF is not whole"
    families: dict[str, Family] = {}
    name = ""
    for line in lines:
        assert line and line == line.strip(), f"empty or padded line: {line!r}"
        assert "\r" not in line
        if line.startswith("#"):
            name = parse_comment(line, families, name)
        else:
            parse_sample(line, families[name], name)
    return families


def parse_comment(line: str, families: dict[str, Family], name: str) -> str:
    found = re.fullmatch(rf"# (TYPE|UNIT|HELP) ({NAME}) ?(.*)", line)
    assert found, f"no comment may look like this: {line!r}"
    kind, of, rest = found.groups()
    if of != name:
        assert of not in families, f"{of} comes in two places"
        families[of] = Family()
    family = families[of]
    assert not family.samples, f"{kind} of {of} comes behind its samples"
    if kind == "TYPE":
        assert family.kind == "unknown" and rest in SUFFIXES, line
        family.kind = rest
    elif kind == "UNIT":
        assert not family.unit and of.endswith(f"_{rest}"), f"{of} does not end in its unit {rest}"
        family.unit = rest
    else:
        assert not family.text and rest, line
        assert not re.search(r'\\(?![\\n"])', rest), f"bad escape: {line!r}"
        family.text = rest
    return of


def parse_sample(line: str, family: Family, name: str) -> None:
    found = re.fullmatch(rf"({NAME})(?:\{{(.*)\}})? (\S+)", line)
    assert found, f"no sample: {line!r}"
    sample, inside, value = found.groups()
    endings = SUFFIXES[family.kind]
    assert sample in {name + ending for ending in endings}, f"{sample} is no sample of {name}"
    pairs = re.findall(LABEL, inside or "")
    assert ",".join(f'{key}="{text}"' for key, text in pairs) == (inside or ""), line
    assert len({key for key, _ in pairs}) == len(pairs), f"a label comes twice: {line!r}"
    labels = frozenset((k, re.sub(r"\\.", lambda m: UNESCAPE[m[0]], v)) for k, v in pairs)
    assert (sample, labels) not in family.samples, f"the same sample twice: {line!r}"
    number = float(value)
    assert number >= 0 or family.kind != "counter", line
    family.samples[sample, labels] = number


def test_the_parser_of_these_tests_accepts_the_examples_of_the_standard() -> None:
    families = parse_openmetrics(
        '# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Some \\"text\\".\n'
        'a_seconds_total{x="1",y="a\\"b\\\\c\\nd"} 5\na_seconds_total{x="2",y=""} 1e3\n'
        "# TYPE b gauge\nb -1\n# EOF\n"
    )
    key = ("a_seconds_total", frozenset({("x", "1"), ("y", 'a"b\\c\nd')}))
    assert families["a_seconds"].samples[key] == 5
    assert families["b"].samples["b", frozenset()] == -1


@pytest.mark.parametrize(
    "text",
    [
        "a 1\n",
        "# TYPE a counter\na 1\n# EOF\n",
        "# TYPE a gauge\na 1\n# EOF",
        "# TYPE a gauge\na 1\n# EOF\n# EOF\n",
        "# TYPE a gauge\n\na 1\n# EOF\n",
        '# TYPE a gauge\na{x="1"} 1\na{x="1"} 2\n# EOF\n',
        '# TYPE a gauge\na{x="1\\q"} 1\n# EOF\n',
        '# TYPE a gauge\na{x="a"b"} 1\n# EOF\n',
        "# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\n# EOF\n",
        "# TYPE a gauge\n# UNIT a bytes\na 1\n# EOF\n",
        "# TYPE a counter\na_total -1\n# EOF\n",
    ],
)
def test_the_parser_of_these_tests_rejects_what_is_wrong(text: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        parse_openmetrics(text)


# ==== What the server says =================================================


def scrape(server: ServerProcess) -> dict[str, Family]:
    answer = http_request(server, path="/metrics")
    assert answer.status == 200
    return parse_openmetrics(answer.body.decode())


def value(families: Mapping[str, Family], sample: str, **labels: str) -> float:
    """Return one sample, by its full name; 0 where a room is not listed."""
    (family,) = [
        family
        for name, family in families.items()
        if sample in {name + ending for ending in SUFFIXES[family.kind]}
    ]
    key = (sample, frozenset(labels.items()))
    return family.samples.get(key, 0) if labels else family.samples[key]


def read(server: ServerProcess, name: str, **labels: str) -> float:
    return value(scrape(server), f"scalesocket_{name}", **labels)


def test_metrics_are_openmetrics_from_the_start() -> None:
    with serve("--metrics", "cat") as server:
        answer = http_request(server, path="/metrics")
        kind = answer.headers["content-type"]
        assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        families = parse_openmetrics(answer.body.decode())
        assert all(family.text for family in families.values())
        assert all(name.startswith("scalesocket_") for name in families)
        for name, kind in {
            "websocket_connections": "counter",
            "websocket_connections_open": "gauge",
            "messages_received": "counter",
            "messages_sent": "counter",
            "received_bytes": "counter",
            "sent_bytes": "counter",
            "messages_dropped": "counter",
            "slow_clients_closed": "counter",
            "rooms": "gauge",
            "children_started": "counter",
            "children_exited": "counter",
            "inbox_bytes": "gauge",
            "backlog_bytes": "gauge",
            "history_bytes": "gauge",
            "replay_bytes": "gauge",
            "log_lines_dropped": "counter",
            "history_messages_dropped": "counter",
            "tick_seconds": "histogram",
            "tick_lateness_seconds": "histogram",
            "ticks_late": "counter",
            "ticks_skipped": "counter",
        }.items():
            assert families[f"scalesocket_{name}"].kind == kind
        assert http_request(server, "HEAD", "/metrics").status == 200


def test_connections_are_counted_by_room() -> None:
    """The names are ScaleSocket's own."""
    with serve("--metrics", "cat") as server:
        with RawClient.connect(server, "a"), RawClient.connect(server, "a") as second:
            with RawClient.connect(server, "b") as other:
                other.send_text("x")
                other.receive_text()
                families = scrape(server)
                for room, number in (("a", 2), ("b", 1)):
                    name = "scalesocket_websocket_connections"
                    assert value(families, f"{name}_total", room=room) == number
                    assert value(families, f"{name}_open", room=room) == number
                assert value(families, "scalesocket_rooms") == 2
                # Nobody has heard from the child of the first room yet.
                wait_until(lambda: read(server, "children_started_total") == 2)
            assert second.close() == (1000, "")
            wait_until(lambda: read(server, "websocket_connections_open", room="a") == 1)
            assert read(server, "websocket_connections_total", room="a") == 2
        wait_until(lambda: read(server, "rooms") == 0)
        wait_until(lambda: read(server, "children_exited_total") == 2)
        families = scrape(server)
        assert value(families, "scalesocket_websocket_connections_open", room="a") == 0
        assert value(families, "scalesocket_websocket_connections_total", room="b") == 1


@pytest.mark.slow
def test_messages_and_bytes_are_counted_in_and_out() -> None:
    with serve("--metrics", "cat") as server:
        with RawClient.connect(server) as sender, RawClient.connect(server) as other:
            sender.send_bytes(encode_client_frames([b"x" * 100] * 50))
            sender.receive_many(50)
            other.receive_many(50)
            wait_until(lambda: read(server, "messages_sent_total") == 100)
            families = scrape(server)
            assert value(families, "scalesocket_messages_received_total") == 50
            bytes_in = value(families, "scalesocket_received_bytes_total")
            bytes_out = value(families, "scalesocket_sent_bytes_total")
            assert 50 * 100 <= bytes_in <= 50 * 120
            assert 100 * 100 <= bytes_out <= 100 * 120
            sender.send_bytes(encode_client_frame(1, b"y" * 100_000))
            sender.receive_many(1)
            families = scrape(server)
            assert 100_000 <= value(families, "scalesocket_received_bytes_total") - bytes_in
        wait_until(lambda: read(server, "rooms") == 0)
        # What a room counted is not lost with the room.
        assert read(server, "messages_received_total") == 51
        assert read(server, "messages_sent_total") >= 101


@pytest.mark.slow
def test_a_counter_never_goes_back_while_rooms_come_and_go() -> None:
    with serve("--metrics", "cat") as server:
        previous: dict[tuple[str, Labels], float] = {}
        for number in range(20):
            with RawClient.connect(server, f"room-{number % 3}") as client:
                client.send_text("hello")
                client.receive_text()
            for family in (f for f in scrape(server).values() if f.kind == "counter"):
                for key, now in family.samples.items():
                    assert now >= previous.get(key, 0), key
                    previous[key] = now
        assert previous["scalesocket_messages_received_total", frozenset()] == 20


def test_a_room_counts_once_though_memory_runs_out_as_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What had been added when memory ran out was added again."""
    registry = PatientRooms(Config(command=("cat",)), Poller("timer"))
    totals = find_totals(registry)
    opener: Any = SimpleNamespace(room_name="room")
    with registry.lock:
        room = registry._make_room(opener)
    room.traffic.messages_in, room.visits = 3, 2
    failures = [MemoryError()]

    def fail_once(total: Ticks, room: Room) -> Ticks:
        if failures:
            raise failures.pop()
        return add_ticks(total, room)

    monkeypatch.setattr("scalesocket.net.metrics.add_ticks", fail_once)
    insist(PatientRooms.forget, registry, room)
    assert not failures
    traffic, visits = totals.add_up()
    assert (traffic.messages_in, visits) == (3, {"room": 2})


@pytest.mark.slow
def test_dropped_messages_are_counted() -> None:
    with serve("--metrics", "--json", "cat") as server, RawClient.connect(server) as client:
        client.receive_text()
        for text in ("[1]", "not json", "5", '{"fine":1}'):
            client.send_text(text)
        client.receive_text()
        assert read(server, "messages_dropped_total") == 3


@pytest.mark.slow
def test_a_game_is_counted_as_a_child_process_is(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "from scalesocket import Game\n"
        "class Echo(Game):\n"
        "    def on_message(self, client, message):\n"
        "        client.send(message)\n"
        "        client.send(message)\n"
    )
    with serve("--metrics", "echo:Echo", cwd=tmp_path) as server:
        with RawClient.connect(server) as client:
            client.send_bytes(encode_client_frames([b"x" * 100] * 10))
            client.receive_many(20)
            wait_until(lambda: read(server, "messages_sent_total") == 20)
            families = scrape(server)
            assert value(families, "scalesocket_messages_received_total") == 10
            assert 2000 <= value(families, "scalesocket_sent_bytes_total") <= 2400
            assert value(families, "scalesocket_children_started_total") == 0


@pytest.mark.slow
def test_the_ticks_of_games_are_timed(tmp_path: Path) -> None:
    (tmp_path / "clock.py").write_text(
        "import time\n"
        "from scalesocket import Game\n"
        "class Clock(Game):\n"
        "    tick_rate = 100\n"
        "    ticks = 0\n"
        "    def on_join(self, client):\n"
        "        time.sleep(0.06)\n"
        "    def on_tick(self, dt):\n"
        "        self.ticks += 1\n"
        "        if self.ticks == 20:\n"
        "            time.sleep(0.06)\n"
    )
    with serve("--metrics", "clock:Clock", cwd=tmp_path) as server:
        with RawClient.connect(server):
            wait_until(lambda: read(server, "tick_seconds_count") >= 40)
        wait_until(lambda: read(server, "rooms") == 0)
        families = scrape(server)
        for name in ("tick_seconds", "tick_lateness_seconds"):
            samples = families[f"scalesocket_{name}"].samples
            buckets = [n for (sample, _), n in samples.items() if sample.endswith("_bucket")]
            assert buckets == sorted(buckets) and len(buckets) == 9
            assert buckets[-1] == value(families, f"scalesocket_{name}_count")
        assert value(families, "scalesocket_tick_seconds_sum") >= 0.06
        long = frozenset({("le", "0.05")})
        samples = families["scalesocket_tick_seconds"].samples
        assert samples["scalesocket_tick_seconds_bucket", long] < buckets[-1]
        # The tick of 60 ms left no time for at least four others; the hook made one late.
        assert value(families, "scalesocket_ticks_skipped_total") >= 4
        assert value(families, "scalesocket_ticks_late_total") >= 1


@pytest.mark.slow
def test_the_inbox_fills_when_the_child_does_not_read() -> None:
    with serve("--metrics", "sleep", "--", "1000") as server:
        with RawClient.connect(server) as client:
            frames = encode_client_frame(1, b"x" * 10_000) * 100
            sender = client.send_in_background(frames, timeout=1, times=1000)
            sender.join()  # nothing has been taken for a second
            assert 100_000 < read(server, "inbox_bytes") < 8 * 1024 * 1024


@pytest.mark.slow
def test_the_backlog_fills_and_empties_with_a_client_that_reads_late() -> None:
    with serve("--metrics", "--stall", "60", "cat") as server, socket.socket() as sock:
        assert read(server, "backlog_bytes") == 0
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((server.host, server.port))
        with RawClient(sock) as client:
            client.upgrade(address_text(server), "/room", {})
            client.send_in_background(encode_client_frames([b"x" * 1000] * 9000))
            wait_until(lambda: read(server, "backlog_bytes") > 1024 * 1024)
            client.receive_many(9000)
            wait_until(lambda: read(server, "backlog_bytes") == 0)
            assert read(server, "slow_clients_closed_total") == 0


@pytest.mark.parametrize("target", ["cat", "flood:Echo"])
def test_a_slow_client_is_counted_once(tmp_path: Path, target: str) -> None:
    (tmp_path / "flood.py").write_text(
        "from scalesocket import Game\n"
        "class Echo(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_message(self, client, message):\n"
        "        self.room.broadcast(message)\n"
    )
    options = ("--metrics", "--stall", "0", "--backlog", "64K")
    with (
        serve(*options, target, cwd=tmp_path) as server,
        RawClient.connect(server) as sender,
        socket.socket() as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((server.host, server.port))
        with RawClient(sock) as stopped:
            stopped.upgrade(address_text(server), "/room", {})
            # Three of them are far less than the kernel holds for the sender, who reads.
            message = encode_client_frame(1, b"x" * 60_000)
            for _ in range(300):
                sender.send_bytes(message)
                sender.receive_many(1)
                if read(server, "slow_clients_closed_total"):
                    break
            for _ in range(5):
                sender.send_bytes(message * 3)
                sender.receive_many(3)
            assert read(server, "slow_clients_closed_total") == 1


# ==== Names from strangers =================================================

HOSTILE = ['a"b', "a\\b", 'a\\"b', "a{b}", "a=b,c", "# EOF", "a b", "é中😀", '",room="x', "\\n"]


def percent(name: str) -> str:
    return "".join(f"%{byte:02X}" for byte in name.encode())


def test_a_room_name_cannot_break_out_of_its_label() -> None:
    with serve("--metrics", "cat") as server:
        for name in HOSTILE:
            with RawClient.connect(server, percent(name)) as client:
                client.send_text("x")
                client.receive_text()
                families = scrape(server)
                for sample in ("connections_total", "connections_open"):
                    assert value(families, f"scalesocket_websocket_{sample}", room=name) == 1


@settings(max_examples=40)
@given(
    st.text(
        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"),
        min_size=1,
        max_size=20,
    )
)
def test_any_room_name_is_a_label(name: str) -> None:
    """No server is needed: the text is made by one function."""
    text = Metrics._family("x", "gauge", "Help.", {name: 1})
    (family,) = parse_openmetrics(text + "# EOF\n").values()
    assert family.samples == {("scalesocket_x", frozenset({("room", name)})): 1}
