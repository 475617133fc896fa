"""The server stops: what programs had printed arrives before the Close, as at any other time."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rooms.test_lossless import deaf_client, metric
from tests.support import PATIENCE, Closed, RawClient, serve, wait_until, with_constants

pytestmark = pytest.mark.slow

# It prints numbers, and counts them up to the moment at which it is told to end.
COUNTER = """
import signal, sys, threading, time
PAUSE = float(sys.argv[1])
ended = threading.Event()
signal.signal(signal.SIGINT, lambda *_: ended.set())
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
number = 0
while not ended.is_set():
    print(number, "x" * 100, flush=PAUSE > 0)
    number += 1
    if PAUSE:
        time.sleep(PAUSE)
print("last", number, flush=True)
"""


@pytest.fixture
def counter(tmp_path: Path) -> str:
    path = tmp_path / "counter.py"
    path.write_text(COUNTER)
    return os.fspath(path)


def read_to_the_end(client: RawClient) -> tuple[list[str], int]:
    """Return the messages up to the Close, and its code."""
    found = []
    try:
        while True:
            found.append(client.receive_text())
    except Closed as closed:
        return found, closed.code


def assert_whole(found: list[str]) -> None:
    """See that there is everything that the program has printed, from the first of these on."""
    numbers = [int(line.split()[0]) for line in found[:-1]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert found[-1] == f"last {numbers[-1] + 1}"


@pytest.mark.parametrize("pause", ["0.005", "0"], ids=["200 a second", "flood"])
def test_sigterm_loses_nothing_that_a_program_had_printed(counter: str, pause: str) -> None:
    """Case 25: 0 to 2 messages of each room were dropped without a word, 600 under flood."""
    options = ("--closegrace", f"{PATIENCE}", counter, "--", pause)
    lasting = with_constants(END_TIMEOUT=PATIENCE)  # a busy machine reads a flood slowly
    with serve(*options, command=lasting) as server, ExitStack() as stack:
        clients = [
            stack.enter_context(RawClient.connect(server, f"room{n}"))
            for n in range(4)
            for _ in range(2)
        ]
        firsts = [client.receive_text() for client in clients]
        with ThreadPoolExecutor(len(clients)) as pool:
            ends = [pool.submit(read_to_the_end, client) for client in clients]
            server.process.send_signal(signal.SIGTERM)
            for first, end in zip(firsts, ends, strict=True):
                found, code = end.result()
                assert code == 1001
                assert_whole([first, *found])
        assert server.wait() == 0


def test_the_end_of_a_drain_loses_nothing_either(counter: str) -> None:
    options = ("--drain", "0.5", "--closegrace", f"{PATIENCE}", counter, "--", "0.005")
    with serve(*options) as server, RawClient.connect(server) as client:
        first = client.receive_text()
        server.process.send_signal(signal.SIGTERM)
        found, code = read_to_the_end(client)
        assert code == 1012
        assert_whole([first, *found])
        assert server.wait() == 0


def test_what_a_game_says_in_on_dispose_arrives(tmp_path: Path) -> None:
    (tmp_path / "polite.py").write_text(
        "from scalesocket import Game\n"
        "class Polite(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_join(self, client):\n"
        "        client.send('welcome')\n"
        "    def on_dispose(self):\n"
        "        self.room.broadcast('farewell')\n"
    )
    with serve("polite:Polite", cwd=tmp_path) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "welcome"
        server.process.send_signal(signal.SIGTERM)
        assert read_to_the_end(client) == (["farewell"], 1001)
        assert server.wait() == 0


def test_what_a_game_says_in_on_dispose_arrives_also_if_it_has_closed_its_room(
    tmp_path: Path,
) -> None:
    """Its threads have heard by then that the room is over: on_dispose may wait for them."""
    (tmp_path / "closing.py").write_text(
        "from scalesocket import Game\n"
        "class Closing(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_message(self, client, message):\n"
        "        client.send('over')\n"
        "        self.room.close(4000, 'game over')\n"
        "    def on_dispose(self):\n"
        "        try:\n"
        "            self.room.call_soon(print)\n"
        "        except RuntimeError:\n"
        "            self.room.broadcast('farewell')\n"
    )
    with serve("closing:Closing", cwd=tmp_path) as server, RawClient.connect(server) as client:
        client.send_text("end")
        assert read_to_the_end(client) == (["over", "farewell"], 4000)


def test_on_dispose_that_never_returns_keeps_no_client_of_a_room_that_was_closed(
    tmp_path: Path,
) -> None:
    (tmp_path / "hanging.py").write_text(
        "import os, time\n"
        "from scalesocket import Game\n"
        "class Hanging(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_message(self, client, message):\n"
        "        self.room.close(4000, 'game over')\n"
        "    def on_dispose(self):\n"
        "        self.room.broadcast('farewell')\n"
        "        while not os.path.exists('go'):\n"
        "            time.sleep(0.01)\n"
    )
    command = with_constants("scalesocket", CLOSE_TIMEOUT=0.5)
    with serve("hanging:Hanging", cwd=tmp_path, command=command) as server:
        with RawClient.connect(server) as client:
            client.send_text("end")
            assert client.wait_close() == (4000, "game over")
        (tmp_path / "go").touch()


def test_who_leaves_while_the_server_stops_is_answered(tmp_path: Path) -> None:
    """Its room takes no more events by then."""
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from scalesocket import Game\n"
        "class Slow(Game):\n"
        "    def on_dispose(self):\n"
        "        print('disposing', flush=True)\n"
        "        while not os.path.exists('answered'):\n"
        "            time.sleep(0.01)\n"
    )
    lasting = with_constants(END_TIMEOUT=2 * PATIENCE)
    with (
        serve("slow:Slow", cwd=tmp_path, command=lasting) as server,
        RawClient.connect(server) as client,
    ):
        client.ping()
        client.receive()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.output() == ["disposing"])
        assert client.close(4001) == (4001, "")
        (tmp_path / "answered").touch()
        assert server.wait() == 0


def hang(folder: Path) -> None:
    (folder / "hang.py").write_text(
        "import time\n"
        "from scalesocket import Game\n"
        "class Hang(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_message(self, client, message):\n"
        "        if message == 'hang':\n"
        "            while True:\n"
        "                time.sleep(1)\n"
        "        self.room.broadcast(message)\n"
    )


def echo(client: RawClient, text: str) -> str:
    client.send_text(text)
    return client.receive_text()


def test_a_hook_that_hangs_holds_up_its_own_room_alone(tmp_path: Path) -> None:
    """Item 3 of the issue: not the acceptor, other rooms, timed calls, /health, nor shutdown."""
    hang(tmp_path)
    soon = with_constants(END_TIMEOUT=5.0, CLOSE_TIMEOUT=1.0)
    options = ("--ping", "3", "--linger", "0.1", "--api", "--metrics", "hang:Hang")
    with (
        serve(*options, cwd=tmp_path, command=soon) as server,
        RawClient.connect(server, "other") as other,
    ):
        with RawClient.connect(server, "bad") as first, RawClient.connect(server, "bad") as second:
            first.send_text("hang")
            second.send_in_background(b"")
            for number in range(50):
                assert echo(other, str(number)) == str(number)
            with RawClient.connect(server, "bad"), RawClient.connect(server, "third") as third:
                assert echo(third, "x") == "x"
            first.reset()
            second.send_close()
            for number in range(50):
                assert echo(other, str(number)) == str(number)
        server.process.send_signal(signal.SIGTERM)
        found, code = read_to_the_end(other)
        assert (found, code) == ([], 1001)
        at = r"\(its game is at hang\.py, line 9\)"
        server.wait_log(rf"rooms that did not end within 5 s: bad {at}$")
        assert server.wait() == 0


def test_the_clients_of_a_room_that_hangs_get_their_close_when_time_is_over(tmp_path: Path) -> None:
    hang(tmp_path)
    soon = with_constants(END_TIMEOUT=1.0, ABANDON_TIMEOUT=0.2)
    with (
        serve("hang:Hang", cwd=tmp_path, command=soon) as server,
        RawClient.connect(server, "bad") as client,
    ):
        client.send_text("hang")
        server.process.send_signal(signal.SIGTERM)
        assert client.wait_close()[0] == 1001
        assert server.wait() == 0


def test_what_is_lost_because_a_client_does_not_take_it_in_time_is_counted(counter: str) -> None:
    soon = with_constants(END_TIMEOUT=8.0, CLOSE_TIMEOUT=1.0, ABANDON_TIMEOUT=0.5)
    options = ("--stall", "60", "--backlog", "64K", "--metrics", counter, "--", "0")
    with serve(*options, command=soon) as server, deaf_client(server, "deaf"):
        wait_until(lambda: metric(server, "scalesocket_backlog_bytes") > 64 * 1024)
        with RawClient.connect(server, "other") as other:
            first = other.receive_text()
            with ThreadPoolExecutor(1) as pool:
                end = pool.submit(read_to_the_end, other)
                server.process.send_signal(signal.SIGTERM)
                found, code = end.result()
            assert code == 1001
            numbers = [int(line.split()[0]) for line in (first, *found) if line[:4] != "last"]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert server.wait() == 0
        server.wait_log(r"rooms that did not end within 8 s: deaf$")
        server.wait_log(r"lost: \d+ bytes that 1 of the clients had not taken")
