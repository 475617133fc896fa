"""Nothing lost, nothing stuck: floods, slow readers, children that do not read.

The room of one `cat` is the plainest there is, so whatever a test sends into it must come back
from it: all of it, in order, byte for byte, while the server's memory stays small.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import (
    FREE,
    PATIENCE,
    PONG,
    TEXT,
    Closed,
    RawClient,
    ServerProcess,
    address_text,
    encode_client_frame,
    encode_client_frames,
    http_request,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

# The most that a server of one room may ever hold, in bytes. A Python without the interpreter lock
# keeps a heap for each thread, and gives less of it back.
MEMORY = (192 if FREE else 64) * 1024 * 1024
# For a test that reads late why it was closed: it has more time than a client has otherwise.
PATIENT = with_constants(CLOSE_TIMEOUT=PATIENCE)


def numbered(count: int, size: int) -> list[bytes]:
    """Return messages of `size` bytes of which no two are the same."""
    fill = b"abcdefghijklmnopqrstuvwxyz" * (size // 26 + 1)
    return [(b"%010d" % index + fill)[:size] for index in range(count)]


def assert_same(received: list[bytes], sent: list[bytes]) -> None:
    """Compare without showing megabytes when they differ."""
    for index, (got, wanted) in enumerate(zip(received, sent, strict=True)):
        assert got == wanted, f"message {index}: {got[:80]!r} instead of {wanted[:80]!r}"


def metric(server: ServerProcess, name: str) -> int:
    """Return one number that has no labels from `/metrics`."""
    text = http_request(server, path="/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return int(line.split()[1])


@contextmanager
def deaf_client(server: ServerProcess, room: str = "room") -> Iterator[RawClient]:
    """Connect a client for which the kernels will hold as little as they can."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect((server.host, server.port))
    with RawClient(sock) as client:
        client.upgrade(address_text(server), f"/{room}", {})
        yield client


def receive_together(clients: Sequence[RawClient], count: int) -> list[list[bytes]]:
    """Let several clients read at the same time, and return what each received."""
    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(lambda client: client.receive_many(count), clients))


# ==== A room of one ========================================================


@pytest.mark.parametrize(
    ("count", "size"), [(20_000, 64), (2_000, 1024), (6, 900_000)], ids=["64 B", "1 KiB", "900 KB"]
)
def test_a_short_flood_comes_back_whole(count: int, size: int) -> None:
    messages = numbered(count, size)
    with serve("cat") as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames(messages))
        assert_same(client.receive_many(count), messages)
        assert client.close() == (1000, "")


@pytest.mark.parametrize("pause", [0, 3], ids=["reads at once", "sleeps first"])
@pytest.mark.parametrize(
    ("count", "size"),
    [(200_000, 64), (50_000, 1024), (100, 900_000)],
    ids=["200,000 of 64 B", "50,000 of 1 KiB", "100 of 900 KB"],
)
def test_a_flood_comes_back_whole_and_memory_stays_small(
    count: int, size: int, pause: float
) -> None:
    messages = numbered(count, size)
    with serve("cat") as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames(messages))
        time.sleep(pause)  # a client that is busy with something else is what this is about
        assert_same(client.receive_many(count, timeout=90), messages)
        assert client.close() == (1000, "")
        assert server.peak_rss() < MEMORY


def test_one_huge_pipeline_of_empty_messages_comes_back_whole() -> None:
    """The shortest frames are the most that a read can bring."""
    count = 30_000
    with serve("cat") as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames([b""] * count))
        assert client.receive_many(count) == [b""] * count
        assert server.peak_rss() < MEMORY


def test_a_binary_room_returns_every_byte_in_order() -> None:
    payload = b"".join(index.to_bytes(4, "big") for index in range(500_000))
    parts = [payload[at : at + 5000] for at in range(0, len(payload), 5000)]
    with serve("--binary", "cat") as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames(parts, opcode=2))
        received = bytearray()
        while len(received) < len(payload):
            received += client.receive_binary()
        assert received == payload


def test_messages_of_every_length_around_the_header_sizes_come_back() -> None:
    """125, 126, 65535 and 65536 bytes are where a frame's header changes its form."""
    sizes = [0, 1, 124, 125, 126, 127, 128, 4095, 65535, 65536, 65537, 1_048_576]
    messages = [(b"x" * size) for size in sizes]
    with serve("cat") as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames(messages * 3))
        assert_same(client.receive_many(len(messages) * 3), messages * 3)


# ==== Many clients =========================================================


def burst_into_a_room(clients: int, messages: list[bytes]) -> None:
    with serve("cat") as server, ExitStack() as stack:
        everyone = [stack.enter_context(RawClient.connect(server, "arena")) for _ in range(clients)]
        everyone[0].send_in_background(encode_client_frames(messages))
        for client in everyone:
            assert_same(client.receive_many(len(messages)), messages)
        assert server.peak_rss() < MEMORY


def test_every_one_of_50_clients_gets_all_of_a_burst() -> None:
    burst_into_a_room(50, numbered(500, 64))


def test_every_one_of_200_clients_gets_all_of_a_burst_of_500() -> None:
    burst_into_a_room(200, numbered(500, 200))


def test_two_senders_at_once_are_heard_in_one_order_by_all() -> None:
    count = 3000
    with serve("cat") as server, ExitStack() as stack:
        listeners = [stack.enter_context(RawClient.connect(server)) for _ in range(10)]
        senders = [stack.enter_context(RawClient.connect(server)) for _ in range(2)]
        for name, sender in zip(b"AB", senders, strict=True):
            messages = [b"%c %d" % (name, index) for index in range(count)]
            sender.send_in_background(encode_client_frames(messages))
        orders = [client.receive_many(2 * count) for client in (*listeners, *senders)]
        for order in orders[1:]:
            assert_same(order, orders[0])
        for name in b"AB":
            own = [line for line in orders[0] if line[0] == name]
            assert_same(own, [b"%c %d" % (name, index) for index in range(count)])


def test_clients_that_come_during_a_flood_miss_nothing_that_follows() -> None:
    """From its first message on, a newcomer gets the same run as everyone else."""
    messages = numbered(20_000, 64)
    with serve("cat") as server, RawClient.connect(server) as sender, ExitStack() as stack:
        sender.send_in_background(encode_client_frames(messages))
        newcomers = [stack.enter_context(RawClient.connect(server)) for _ in range(5)]
        assert_same(sender.receive_many(len(messages)), messages)
        sender.send_text("the end")
        for client in newcomers:
            received: list[bytes] = []
            while not received or received[-1] != b"the end":
                received += client.receive_many(1)
            missed = len(messages) + 1 - len(received)
            assert_same(received, [*messages, b"the end"][missed:])


# ==== Readers that stop ====================================================


def test_a_client_that_stops_reading_is_closed_and_the_others_lose_nothing() -> None:
    messages = numbered(16_000, 1024)
    options = ("--stall", "4", "--backlog", "256K", "--metrics")  # nobody else pauses for so long
    with (
        serve(*options, "cat", command=PATIENT) as server,
        RawClient.connect(server) as sender,
        RawClient.connect(server) as other,
        deaf_client(server) as stopped,
    ):
        sender.send_in_background(encode_client_frames(messages))
        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(receive_together, [sender, other], len(messages))
            wait_until(lambda: metric(server, "scalesocket_slow_clients_closed_total"))
            # It reads again before it is cut off: whole frames from the first on, then why.
            received: list[bytes] = []
            with pytest.raises(Closed) as closed:
                while True:
                    received.append(stopped.receive_message()[1])
            for whole in others.result():
                assert_same(whole, messages)
        assert metric(server, "scalesocket_slow_clients_closed_total") == 1
        assert_same(received, messages[: len(received)])
        assert 0 < len(received) < len(messages)
        assert closed.value.code == 1008
        assert closed.value.reason


def test_a_client_that_stops_reading_for_good_is_cut_off() -> None:
    messages = numbered(16_000, 1024)
    soon = with_constants(CLOSE_TIMEOUT=1.0)
    with (
        serve("--stall", "4", "--backlog", "256K", "cat", command=soon) as server,
        RawClient.connect(server) as sender,
    ):
        sender.send_text("ready")
        assert sender.receive_text() == "ready"
        before = server.descriptors()
        with deaf_client(server):
            wait_until(lambda: server.descriptors() > before)
            sender.send_in_background(encode_client_frames(messages))
            assert_same(sender.receive_many(len(messages)), messages)
            wait_until(lambda: server.descriptors() == before)
        sender.send_text("still here")
        assert sender.receive_text() == "still here"


def test_a_reader_slower_than_the_stall_time_in_all_but_never_stopped_is_kept() -> None:
    """What counts is progress, not being behind."""
    messages = numbered(4_000, 2048)
    with (
        serve("--stall", "4", "--backlog", "64K", "cat") as server,
        RawClient.connect(server) as sender,
        deaf_client(server) as slow,
    ):
        sender.send_in_background(encode_client_frames(messages))
        for received in receive_together([sender, slow], len(messages)):
            assert_same(received, messages)


def test_with_stall_0_a_full_backlog_closes_at_once() -> None:
    chunk = numbered(64, 4096)
    options = ("--stall", "0", "--backlog", "1M", "--metrics")
    with (
        serve(*options, "cat", command=PATIENT) as server,
        RawClient.connect(server) as sender,
        deaf_client(server) as stopped,
    ):
        for _ in range(200):
            sender.send_bytes(encode_client_frames(chunk))
            assert_same(sender.receive_many(len(chunk)), chunk)
            if metric(server, "scalesocket_slow_clients_closed_total"):
                break
        assert metric(server, "scalesocket_slow_clients_closed_total") == 1
        code, reason = stopped.wait_close()
        assert code == 1008
        assert reason
        sender.send_text("still here")
        assert sender.receive_text() == "still here"


def test_many_stopped_clients_cost_the_room_one_stall_and_not_one_each() -> None:
    """Their time runs out together; one after the other it would take 160 s."""
    messages = numbered(10_000, 1024)
    with (
        serve("--stall", "4", "--backlog", "64K", "cat") as server,
        RawClient.connect(server) as sender,
        ExitStack() as stack,
    ):
        for _ in range(40):
            stack.enter_context(deaf_client(server))
        sender.send_in_background(encode_client_frames(messages))
        assert_same(sender.receive_many(len(messages), timeout=60), messages)


def test_a_client_that_pings_and_never_reads_does_not_fill_the_memory() -> None:
    """A pong of two bytes must not cost hundreds in a backlog that is counted in bytes."""
    pings = encode_client_frame(9, b"") * 500_000
    with serve("cat") as server, deaf_client(server) as client:
        for _ in range(3):
            try:
                client.send_bytes(pings, timeout=3)
            except (TimeoutError, ConnectionError):
                break  # slowed down or cut off: either is an answer
        assert server.peak_rss() < MEMORY
        with RawClient.connect(server) as other:
            other.send_text("still here")
            assert other.receive_text() == "still here"


def test_small_messages_for_a_client_that_does_not_read_wait_in_order_and_cheaply() -> None:
    """One short line at a time: each could be an object of its own in the backlog."""
    large, small = numbered(110, 60_000), numbered(5000, 10)
    with (
        serve("--stall", "60", "cat") as server,
        RawClient.connect(server) as sender,
        deaf_client(server) as stopped,
    ):
        for message in large:  # first fill what the kernel holds
            sender.send_text(message)
            sender.receive_many(1)
        before = server.rss()
        for message in small:
            sender.send_text(message)
            sender.receive_many(1)
        # 60,000 bytes on the wire; some hundred bytes more for each would be over a megabyte.
        assert server.rss() - before < 1024 * 1024
        assert_same(stopped.receive_many(len(large + small)), large + small)


# ==== Children that do not read ============================================

DEAF = """
import os, sys
if os.environ["ROOM"].startswith("deaf"):
    os.execvp("sleep", ["sleep", "1000"])
for line in sys.stdin:
    print(line, end="")
"""


@pytest.fixture
def deaf_program(tmp_path: Path) -> str:
    path = tmp_path / "deaf.py"
    path.write_text(DEAF)
    return os.fspath(path)


def flood(client: RawClient, size: int = 40_000_000) -> None:
    """Send until the server takes no more; it must not take it all."""
    message = encode_client_frame(TEXT, b"x" * 1000)
    with pytest.raises(TimeoutError):
        client.send_bytes(message * (size // len(message)), timeout=1)


def test_a_child_that_never_reads_slows_its_senders_and_nobody_else(deaf_program: str) -> None:
    with serve("--api", deaf_program) as server, RawClient.connect(server, "deaf") as sender:
        flood(sender)
        assert server.peak_rss() < MEMORY
        with RawClient.connect(server, "other") as other:
            messages = numbered(5000, 64)
            other.send_in_background(encode_client_frames(messages))
            assert_same(other.receive_many(5000), messages)
        with RawClient.connect(server, "deaf") as visitor:
            visitor.ping(b"here?")
            assert visitor.receive() == (PONG, b"here?")
            assert visitor.close() == (1000, "")

        def rooms() -> list[str]:
            listing = json.loads(http_request(server, path="/api/rooms/").body)
            return [room["name"] for room in listing]

        wait_until(lambda: rooms() == ["deaf"])  # the other one ends a moment after its client


def test_a_room_whose_child_never_reads_ends_when_its_clients_have_gone(
    deaf_program: str,
) -> None:
    with serve("--api", deaf_program) as server:
        with RawClient.connect(server, "deaf") as idle, RawClient.connect(server, "deaf") as sender:
            flood(sender)
            assert idle.close() == (1000, "")
            (child,) = server.children()
        wait_until(lambda: server.children() == [])
        assert json.loads(http_request(server, path="/api/rooms/").body) == []
        with RawClient.connect(server, "deaf"):
            wait_until(lambda: server.children() not in ([], [child]))


def test_a_sender_that_vanished_is_no_member_of_a_deaf_room(deaf_program: str) -> None:
    """Another client is still there, so the room stays; the lobby must count it right."""
    with serve("--api", deaf_program) as server, RawClient.connect(server, "deaf") as idle:
        with RawClient.connect(server, "deaf") as sender:
            flood(sender)

        def count() -> object:
            return json.loads(http_request(server, path="/api/deaf/connections").body)

        wait_until(lambda: count() == 1)
        idle.ping(b"!")
        assert idle.receive() == (PONG, b"!")


def test_sigterm_ends_a_server_whose_child_never_reads(deaf_program: str) -> None:
    soon = with_constants(CLOSE_TIMEOUT=1.0)
    with (
        serve(deaf_program, command=soon) as server,
        RawClient.connect(server, "deaf") as sender,
    ):
        flood(sender)
        assert server.stop() == 0


def test_a_child_that_reads_slowly_gets_everything_in_order(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        "import sys, time, hashlib\n"
        "digest, count = hashlib.sha1(), 0\n"
        "while data := sys.stdin.buffer.read1(200_000):\n"
        "    time.sleep(0.01)\n"
        "    digest.update(data)\n"
        "    count += data.count(b'\\n')\n"
        "    if count == 5000:\n"
        "        print(digest.hexdigest(), flush=True)\n"
    )
    messages = numbered(5000, 1000)
    with serve(os.fspath(program)) as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames(messages))
        wanted = hashlib.sha1(b"".join(message + b"\n" for message in messages))
        assert client.receive_text(60) == wanted.hexdigest()
        assert server.peak_rss() < MEMORY


def test_a_child_that_only_talks_is_slowed_to_its_reader() -> None:
    """`yes` prints gigabytes a second; what its client does not take must not be kept."""
    with serve("--stall", "60", "yes") as server, deaf_client(server) as client:
        (child,) = wait_until(lambda: server.children())

        def spent() -> int:
            return int(Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].split()[11])

        def is_blocked() -> bool:
            before = spent()
            time.sleep(0.3)  # it runs or it does not: that takes a while to see
            return spent() == before

        wait_until(is_blocked)
        assert client.receive_many(100_000) == [b"y"] * 100_000
        assert server.peak_rss() < MEMORY


# ==== Games ================================================================

FLOOD_GAME = """
from scalesocket import Game

class Flood(Game):
    tick_rate = 20

    def on_create(self, room):
        self.room = room
        self.number = 0
        self.left = []

    def on_leave(self, client, code):
        self.left.append(int(code))

    def on_tick(self, dt):
        self.number += 1
        self.room.broadcast(f"{self.number} {self.left} " + "x" * 200_000)
"""


def test_a_slow_client_of_a_game_is_closed_and_never_slows_a_tick(tmp_path: Path) -> None:
    """With an hour of --stall, a tick that waited for it would not come within this test."""
    (tmp_path / "flood.py").write_text(FLOOD_GAME)
    options = ("--stall", "3600", "--backlog", "2M", "--metrics")  # 4 s of ticks for the watcher
    with (
        serve(*options, "flood:Flood", cwd=tmp_path, command=PATIENT) as server,
        RawClient.connect(server) as watcher,
        deaf_client(server) as stopped,
    ):
        previous = 0
        for _ in range(500):
            number, left = watcher.receive_text()[:100].split(" x")[0].split(" ", 1)
            assert previous in (0, int(number) - 1), "a tick was lost"
            previous = int(number)
            if left != "[]":
                break
        assert left == "[1008]"
        wait_until(lambda: metric(server, "scalesocket_slow_clients_closed_total") == 1)
        code, reason = stopped.wait_close()
        assert code == 1008
        assert reason


def test_a_game_answers_a_flood_completely(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "from scalesocket import Game\n"
        "class Echo(Game):\n"
        "    def on_message(self, client, message):\n"
        "        client.send(message)\n"
    )
    messages = numbered(20_000, 64)
    with (
        serve("echo:Echo", cwd=tmp_path) as server,
        RawClient.connect(server) as client,
    ):
        client.send_in_background(encode_client_frames(messages))
        assert_same(client.receive_many(len(messages)), messages)
        assert server.peak_rss() < MEMORY


def test_a_game_loses_nothing_to_a_client_that_reads_late(tmp_path: Path) -> None:
    """What is under the backlog's limit is kept, however late it is read."""
    (tmp_path / "burst.py").write_text(
        "from scalesocket import Game\n"
        "class Burst(Game):\n"
        "    def on_message(self, client, message):\n"
        "        for number in range(3000):\n"
        "            client.send(f'{number:06}' + 'x' * 1000)\n"
    )
    with (
        serve("burst:Burst", cwd=tmp_path) as server,
        deaf_client(server) as client,
        RawClient.connect(server) as other,
    ):
        client.send_text("go")
        wait_until(lambda: server.rss() > 0)
        other.send_text("go")
        assert len(other.receive_many(3000)) == 3000
        received = client.receive_many(3000)
        assert_same(received, [b"%06d" % number + b"x" * 1000 for number in range(3000)])


if sys.platform != "linux":
    pytest.skip("memory and children are read from /proc", allow_module_level=True)
