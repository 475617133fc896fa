"""In-process games: clients that read slowly, and threads of the game's own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from scalesocket import GAME_BACKLOGS, Called, GameRoom, Inbox
from tests.rooms.test_inbox import Worker
from tests.rooms.test_lossless import deaf_client, metric
from tests.support import RawClient, serve, wait_until

pytestmark = pytest.mark.slow

# What `on_join` sends is 20 messages of a size that the room's name says, but to a client named
# `other` none; then there are ticks.
WORLD = """
from scalesocket import Game

class World(Game):
    tick_rate = 20

    def on_create(self, room):
        self.room = room
        self.number = 0

    def on_join(self, client):
        for number in range(20 if client.name != "other" else 0):
            client.send(f"part {number:02} " + "x" * int(self.room.id))

    def on_tick(self, dt):
        self.number += 1
        self.room.broadcast(f"tick {self.number:06}")
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "world.py").write_text(WORLD)
    return tmp_path


# ==== 1. Who reads, stays ==================================================


@pytest.mark.parametrize("size", [600_000, 1_000_000], ids=["12 MB", "20 MB"])
def test_a_client_that_reads_what_a_game_sends_is_not_closed_however_much_it_is(
    world: Path, size: int
) -> None:
    """Cases 8 and 37: 12 MB in `on_join`, and the next tick closed the client with 1008."""
    options = ("--stall", "30", "--metrics", "world:World")
    with serve(*options, cwd=world) as server, RawClient.connect(server, str(size)) as other:
        assert len(other.receive_many(20)) == 20
        with deaf_client(server, str(size)) as client:
            for _ in range(5):  # ticks pass, while nothing is read
                tick = other.receive_text()
                assert tick.startswith("tick")
            parts = [client.receive_text() for _ in range(20)]
            assert [part[:7] for part in parts] == [f"part {number:02}" for number in range(20)]
            ticks = [int(client.receive_text()[5:]) for _ in range(10)]
            assert ticks == list(range(ticks[0], ticks[0] + 10))
        assert metric(server, "scalesocket_slow_clients_closed_total") == 0


def test_a_client_that_reads_nothing_of_what_a_game_sends_is_closed_after_the_stall(
    world: Path,
) -> None:
    """Case 37: it is `--stall` that decides, and a game need not send more for that."""
    options = ("--stall", "1", "--metrics", "world:World")
    with (
        serve(*options, cwd=world) as server,
        deaf_client(server, "600000") as stopped,
        RawClient.connect(server, "600000?name=other") as other,
    ):
        wait_until(lambda: metric(server, "scalesocket_slow_clients_closed_total") == 1)
        previous = 0
        for _ in range(20):  # nobody else has noticed
            number = int(other.receive_text()[5:])
            assert previous in (0, number - 1)
            previous = number
        code, reason = stopped.wait_close()
        assert code == 1008
        assert reason.startswith("too slow")


def test_a_client_is_closed_if_a_game_that_says_nothing_more_has_filled_its_backlog(
    tmp_path: Path,
) -> None:
    (tmp_path / "once.py").write_text(WORLD.replace("tick_rate = 20", "tick_rate = 0"))
    options = ("--stall", "1", "--metrics", "once:World")
    with serve(*options, cwd=tmp_path) as server, deaf_client(server, "600000") as stopped:
        wait_until(lambda: metric(server, "scalesocket_slow_clients_closed_total") == 1)
        assert stopped.wait_close()[0] == 1008


KICKER = """
from scalesocket import Game

class Kicker(Game):
    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        for other in list(self.room.clients.values()):
            if other is not client:
                other.send("x" * 20_000_000)
                other.close(4000, "bye")
        self.room.broadcast("said")
"""


def test_whom_a_game_has_closed_is_not_called_too_slow(tmp_path: Path) -> None:
    """It was counted, and the log said that it did not read, as the game spoke to all."""
    (tmp_path / "kicker.py").write_text(KICKER)
    options = ("--stall", "0", "--metrics", "kicker:Kicker")
    with (
        serve(*options, cwd=tmp_path) as server,
        deaf_client(server) as closed,
        RawClient.connect(server) as other,
    ):
        other.send_text("go")
        assert other.receive_text() == "said"
        assert len(closed.receive_text()) == 20_000_000
        assert closed.wait_close() == (4000, "bye")
        assert metric(server, "scalesocket_slow_clients_closed_total") == 0
        assert not any("does not read" in line for line in server.log())


def test_what_a_game_may_send_to_a_slow_reader_is_bounded(tmp_path: Path) -> None:
    """It trickles for ever, so it makes progress; its backlog must not grow for as long."""
    assert GAME_BACKLOGS == 8, "README says so"
    fill = 'f"tick {self.number:06}"'
    text = WORLD.replace(fill, fill + ' + "x" * 100_000')
    (tmp_path / "endless.py").write_text(text)
    options = ("--stall", "3600", "--backlog", "256K", "--metrics", "endless:World")
    stopped = threading.Event()
    with (
        serve(*options, cwd=tmp_path) as server,
        RawClient.connect(server, "1") as other,
        deaf_client(server, "1") as slow,
    ):
        reading = Worker(lambda: [other.receive_many(1) for _ in iter(stopped.is_set, True)])
        most = 0
        while not metric(server, "scalesocket_slow_clients_closed_total"):
            most = max(most, metric(server, "scalesocket_backlog_bytes"))
        stopped.set()
        reading.join()
        assert 2 * 256 * 1024 < most <= 8 * 256 * 1024 + 200_000
        assert slow.wait_close()[0] == 1008


# ==== 2. A game's own threads ==============================================

CLOCK = """
import threading
from scalesocket import Game

class Clock(Game):
    def on_create(self, room):
        self.room = room
        self.stopped = threading.Event()
        self.number = 0
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(4)]
        for thread in self.threads:
            thread.start()

    def run(self, name):
        number = 0
        try:
            while not self.stopped.wait(0.001):  # or it would be more than anyone can read
                self.room.call_soon(self.tell, name, number)
                number += 1
        except RuntimeError as error:
            assert "has ended" in str(error), error

    def tell(self, name, number):
        self.room.broadcast(f"{name} {number}")

    def on_message(self, client, message):
        self.room.broadcast(message)

    def on_dispose(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
"""


def test_what_a_games_own_threads_broadcast_by_call_soon_arrives_in_order(tmp_path: Path) -> None:
    """Case 43: `broadcast` from a thread lost messages silently, whenever a hook sent as well."""
    (tmp_path / "clock.py").write_text(CLOCK)
    with (
        serve("clock:Clock", cwd=tmp_path) as server,
        RawClient.connect(server) as first,
        RawClient.connect(server) as second,
    ):
        for number in range(200):
            first.send_text(f"said {number}")
        for client in (first, second):
            told: dict[str, list[int]] = {}
            while len(told.get("said", [])) < 200 or len(told) < 5:
                name, number_text = client.receive_text().split()
                told.setdefault(name, []).append(int(number_text))
            for numbers in told.values():
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


WRONG = """
import threading
from scalesocket import Game

class Wrong(Game):
    def on_join(self, client):
        self.client = client

    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        calls = {
            "room.broadcast": lambda: self.room.broadcast("x"),
            "room.call_later": lambda: self.room.call_later(1, print),
            "what room.call_later returned": self.room.call_later(1000, print),
            "room.close": lambda: self.room.close(),
            "client.send": lambda: client.send("x"),
            "client.close": lambda: client.close(),
        }
        for name, call in calls.items():
            thread = threading.Thread(target=self.try_it, args=(name, call))
            thread.start()
            thread.join()

    def try_it(self, name, call):
        try:
            call()
        except RuntimeError as error:
            self.room.call_soon(self.client.send, f"{name}: {error}")
"""


def test_other_calls_from_a_thread_of_the_games_raise_and_say_what_to_call(tmp_path: Path) -> None:
    """Case 43: they seemed to work."""
    (tmp_path / "wrong.py").write_text(WRONG)
    with serve("wrong:Wrong", cwd=tmp_path) as server, RawClient.connect(server) as client:
        client.send_text("go")
        for name in (
            "room.broadcast",
            "room.call_later",
            "what room.call_later returned",
            "room.close",
            "client.send",
            "client.close",
        ):
            text = client.receive_text()
            assert text.startswith(f"{name}: {name} is for the room's own thread")
            assert f"room.call_soon({name}, ...)" in text
        client.ping(b"still here")
        assert client.receive()[1] == b"still here"


POOL = """
import concurrent.futures
from scalesocket import Game

class Pool(Game):
    pool = concurrent.futures.ThreadPoolExecutor(1)

    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        self.pool.submit(self.say, client, "early").exception()
        if message == "last":
            self.room.broadcast("done")

    def say(self, client, text):
        client.send(text)
"""


def test_the_log_says_in_which_line_a_pool_of_threads_has_called_what_it_may_not(
    tmp_path: Path,
) -> None:
    """A pool, and likewise asyncio, keeps what its functions raise: nothing arrived, untold."""
    (tmp_path / "pool.py").write_text(POOL)
    with serve("pool:Pool", cwd=tmp_path) as server, RawClient.connect(server, "lake") as client:
        for text in ("first", "second", "last"):
            client.send_text(text)
        assert client.receive_text() == "done"
        server.wait_log(
            r"\[WARN\] pool\.py, line 17: client\.send is for the room's own thread; .*room=lake"
        )
    assert sum("client.send is for" in line for line in server.log()) == 1


def test_call_soon_wakes_a_room_that_has_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text(
        "import threading\n"
        "from scalesocket import Game\n"
        "class Later(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_message(self, client, message):\n"
        "        soon = self.room.call_soon\n"
        "        threading.Thread(target=soon, args=(client.send, message)).start()\n"
    )
    with serve("later:Later", cwd=tmp_path) as server, RawClient.connect(server) as client:
        for number in range(50):
            client.send_text(str(number))
            assert client.receive_text() == str(number)


def test_a_function_of_call_soon_that_raises_ends_its_room(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from scalesocket import Game\n"
        "class Bad(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_message(self, client, message):\n"
        "        self.room.call_soon(int, message)\n"
    )
    with (
        serve("bad:Bad", cwd=tmp_path, allow_traceback=True) as server,
        RawClient.connect(server) as client,
    ):
        client.send_text("north")
        assert client.wait_close() == (1011, "the game failed")


class FakeRoom:
    """The room that a `GameRoom` needs for `call_soon`."""

    def __init__(self) -> None:
        self.name = "room"
        self.thread = threading.get_ident()
        self.inbox = Inbox()


def test_calls_that_wait_are_bounded_and_after_the_end_a_thread_is_told() -> None:
    fake = FakeRoom()
    room = GameRoom(fake, None)  # type: ignore[arg-type]
    done: list[int] = []

    def run() -> None:
        for number in range(5000):
            room.call_soon(done.append, number)

    calling = Worker(run)
    wait_until(lambda: fake.inbox._on_freed)
    assert len(fake.inbox.events) == 1024
    room.call_soon(done.append, -1)  # a hook's own never waits
    for event in fake.inbox.take(0):
        assert isinstance(event, Called)
        event.function()
    assert done == [*range(1024), -1]
    wait_until(lambda: fake.inbox._on_freed)
    fake.inbox.close()
    with pytest.raises(RuntimeError, match="room room has ended"):
        calling.join()
    with pytest.raises(RuntimeError, match="room room has ended"):
        room.call_soon(print)
