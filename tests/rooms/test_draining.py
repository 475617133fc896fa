"""--drain: a server that is told to end lets its rooms finish, and says so."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from scalesocket.net import sandbox_packets as packets

from tests.support import (
    ROOT,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    exchange,
    http_request,
    serve,
    wait_for_none,
    wait_until,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

LONG = "600"  # seconds of --drain that no test waits for


def health(server: ServerProcess) -> tuple[int, object]:
    response = http_request(server, path="/health")
    return response.status, json.loads(response.body)


def begin_to_drain(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.wait_log("draining for")
    wait_until(lambda: health(server) == (503, {"status": "draining"}))


def test_a_server_that_drains_says_so_and_keeps_its_rooms() -> None:
    with serve("--drain", LONG, "cat") as server, RawClient.connect(server, "old") as client:
        assert health(server) == (200, {"status": "ok"})
        begin_to_drain(server)
        client.send_text("still here")
        assert client.receive_text() == "still here"
        with RawClient.connect(server, "old") as friend:  # the room may be joined again
            friend.send_text("me too")
            assert client.receive_text() == friend.receive_text() == "me too"
        with pytest.raises(HandshakeRefused) as refused:
            RawClient.connect(server, "new")
        assert refused.value.response.status == 503
        assert refused.value.response.headers["retry-after"] == "1"
        client.close()
        assert server.wait() == 0  # as soon as the last has left


def test_a_game_is_told_for_how_long_it_may_go_on(tmp_path: Path) -> None:
    (tmp_path / "farewell.py").write_text(
        "from scalesocket import Game\n\n\nclass Farewell(Game):\n"
        "    def on_create(self, room):\n        self.room = room\n\n"
        "    def on_drain(self, seconds):\n        self.room.broadcast(f'{seconds:g} s left')\n"
    )
    with serve("--drain", LONG, "farewell:Farewell", cwd=tmp_path) as server:
        with RawClient.connect(server) as client, RawClient.connect(server, "other") as other:
            begin_to_drain(server)
            assert client.receive_text() == other.receive_text() == f"{LONG} s left"
            client.close()
            other.close()
        assert server.wait() == 0


def test_the_sandbox_counts_down() -> None:
    with serve("--drain", LONG, "sandbox") as server, RawClient.connect(server) as client:
        client.receive_binary()
        begin_to_drain(server)
        notice = packets.encode(packets.ShutdownNotice(int(LONG)))
        wait_until(lambda: client.receive_binary() == notice)
        client.close()
        assert server.wait() == 0


def test_a_server_without_rooms_ends_at_once() -> None:
    with serve("--drain", LONG, "cat") as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_an_empty_room_that_lingers_is_not_waited_for() -> None:
    with serve("--drain", LONG, "--linger", LONG, "cat") as server:
        with RawClient.connect(server) as client:
            client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_when_the_time_is_over_clients_are_told_to_come_back() -> None:
    with serve("--drain", "0.3", "cat") as server, RawClient.connect(server) as client:
        server.process.send_signal(signal.SIGTERM)
        assert client.wait_close() == (1012, "the server restarts")
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("options", "number"), [((), signal.SIGTERM), (("--drain", LONG), signal.SIGINT)]
)
def test_without_it_and_for_ctrl_c_the_server_ends_at_once(
    options: tuple[str, ...], number: int
) -> None:
    with serve(*options, "cat") as server, RawClient.connect(server) as client:
        server.process.send_signal(number)
        assert client.wait_close()[0] == 1001
        assert server.wait() == 0


# A server whose rooms end half a second after their programs, as on a busy machine.
LATE_END = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {os.fspath(ROOT)!r}); import scalesocket, time; "
    "end = scalesocket.Room.end; "
    "scalesocket.Room.end = lambda *args, **more: time.sleep(0.5) or end(*args, **more); "
    "sys.exit(scalesocket.main())",
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_server_that_drains(number: int) -> None:
    """Its programs are killed, and were started again; its clients got no Close, or a wrong one."""
    with serve("--drain", LONG, "--respawn", "cat", command=LATE_END) as server:
        with RawClient.connect(server) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"
            begin_to_drain(server)
            server.signal_again(number)
            assert client.wait_close()[0] == 1012
            assert server.process.wait(40) == 1
        assert sum("room opened" in line for line in server.log()) == 1
    assert wait_for_none(server.survivors) == []


def test_every_message_that_was_accepted_reaches_the_program(tmp_path: Path) -> None:
    """The program is slow, so that most of them wait when the time is over."""
    file = tmp_path / "received"
    script = 'while read -r line; do echo "$line" >> "$1"; done'
    command = ("sh", "--", "-c", script, "sh", os.fspath(file))
    with serve("--drain", "0.2", "--closegrace", "20", *command) as server:
        with RawClient.connect(server) as client:
            for number in range(2000):
                client.send_text(str(number))
            client.send_frame(0x9, b"read")  # answered when all before it has been accepted
            while client.receive()[0] != 0xA:
                pass
            server.process.send_signal(signal.SIGTERM)
            assert client.wait_close()[0] == 1012
        assert server.wait() == 0
    assert file.read_text().split() == [str(number) for number in range(2000)]


def test_clients_of_plain_tcp_are_told_why_they_get_no_room() -> None:
    with serve("--drain", LONG, "--tcplisten", "127.0.0.1:0", "cat") as server:
        port = int(server.wait_log(r"lines of text at \S+ on port (\d+)")[1])
        with RawClient.connect(server, "old"):
            begin_to_drain(server)
            answer = exchange(("127.0.0.1", port), b"new\n")
            assert json.loads(answer) == {"error": "the server restarts"}
            server.signal_again()
            assert server.process.wait(40) == 1
