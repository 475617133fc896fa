"""Seats (--resume) where they may end, be asked for late, or be kept by another process."""

from __future__ import annotations

import collections
import random
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificates, certs
from tests.rooms.test_seats import (
    Player,
    game,
    say,
    sit,
    wait_closed,
)
from tests.support import (
    PATIENCE,
    Closed,
    RawClient,
    ServerProcess,
    open_socket,
    serve,
    slowness,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

__all__ = ["certs", "game"]  # fixtures


# ==== Ends ==================================================================


def test_a_seat_that_expires_while_it_is_taken_back_is_one_or_the_other(game: Path) -> None:
    """So often, at about the same moment; the room is told the same as the client.

    Who came too late waits less the next time, and who did not, longer.
    """
    seconds = pause = 0.006 * slowness()
    with serve("--resume", f"{seconds:.4f}", "--ping", "0", "echo:Echo", cwd=game) as server:
        with RawClient.connect(server, "race") as watcher:
            say(watcher, "here")
            expected: collections.Counter[tuple[int, str]] = collections.Counter()
            token, name, resumed, rounds = "", 0, 0, 0
            until = time.monotonic() + 20
            while rounds < 1500 and time.monotonic() < until:
                rounds += 1
                time.sleep(pause)
                client, seat = sit(server, "race", token)
                step = random.uniform(0, seconds / 4)
                pause = pause + step if seat["resumed"] else max(0.0, pause - step)
                assert seat["resumed"] == (seat["id"] == name)
                if seat["resumed"]:
                    resumed += 1
                    expected[name, "resume"] += 1
                elif name:
                    expected[name, "leave"] += 1
                token, name = seat["token"], seat["id"]
                client.reset()
            client, seat = sit(server, "race", token)
            if not seat["resumed"]:
                expected[name, "leave"] += 1
            else:
                expected[name, "resume"] += 1
            client.send_text("last")
            told: collections.Counter[tuple[int, str]] = collections.Counter()
            client.close()
            gone: set[int] = set()
            while seat["id"] not in gone:
                kind, number, *_ = watcher.receive_text().split()
                assert int(number) not in gone, "nothing is told of who has left"
                told[int(number), kind] += 1
                if kind == "leave":
                    gone.add(int(number))
            expected[seat["id"], "leave"] += 1
            told = collections.Counter({k: v for k, v in told.items() if k[1] != "drop"})
            assert told == expected
            assert 1 / 60 < resumed / rounds < 59 / 60, "both must happen, or this shows nothing"


def test_a_room_may_end_while_a_seat_in_it_is_taken_back(server: ServerProcess) -> None:
    for number in range(150):
        room = f"ends{number}"
        other, _ = sit(server, room)
        client, seat = sit(server, room)
        client.reset()
        other.send_text("end")
        try:
            client, again = sit(server, room, seat["token"], 0)
        except Closed as closed:
            assert closed.code in (4321, 1013)
        else:
            if again["resumed"]:
                assert wait_closed(client)[0] == 4321
            else:
                assert again["id"] != seat["id"]
                try:
                    say(client, "in the next one")
                    client.close()
                except Closed as closed:  # in the last one
                    assert closed.code == 4321
                    client.reset()
        assert wait_closed(other)[0] == 4321


def test_a_room_that_lingers_takes_newcomers_when_its_seats_are_over(game: Path) -> None:
    with serve("--resume", "0.05", "--linger", "30", "echo:Echo", cwd=game) as server:
        client, seat = sit(server, "lingers")
        say(client, "one")
        client.reset()
        wait_until(lambda: not take_back(server, seat))
        client, again = sit(server, "lingers", str(seat["token"]), 1)
        say(client, "two")
        client.close()
        assert sum("room opened" in line for line in server.log()) == 1


def take_back(server: ServerProcess, seat: dict[str, object]) -> bool:
    """Return whether a seat can still be taken back."""
    time.sleep(0.2)  # if it is, its time begins anew
    client, again = sit(server, "lingers", str(seat["token"]))
    seat["token"] = again["token"]
    client.reset()
    return bool(again["resumed"])


def test_seats_outlive_a_program_that_is_started_again(tmp_path: Path) -> None:
    """--respawn keeps the clients; those without a connection are kept, too."""
    program = tmp_path / "once.py"
    program.write_text(
        "import sys\n"
        "print('born', flush=True)\n"
        "for line in sys.stdin:\n"
        "    if 'die' in line: sys.exit(3)\n"
        "    print(line, end='', flush=True)\n"
    )
    with serve("--resume", "60", "--respawn", str(program)) as server:
        other, _ = sit(server, "phoenix")
        assert other.receive_text() == "born"
        client, seat = sit(server, "phoenix")
        say(other, "before")
        assert client.receive_text() == "before"
        client.reset()
        other.send_text("die")
        assert other.receive_text() == "born"
        back, again = sit(server, "phoenix", seat["token"], 1)
        assert again["resumed"] and again["id"] == seat["id"]
        assert back.receive_text() == "born", "it was said meanwhile"
        say(other, "after")
        assert back.receive_text() == "after"
        back.close()
        other.close()


# ==== Late ==================================================================


@pytest.fixture(scope="module")
def server(game: Path) -> Iterator[ServerProcess]:
    with serve("--resume", "120", "echo:Echo", cwd=game) as running:
        yield running


def test_an_opening_that_is_heard_late_takes_nothing_from_who_came_after(
    server: ServerProcess,
) -> None:
    """It was cut off before its first message was read. The newer one was told to stop (4001)."""
    first, seat = sit(server, "late")
    say(first, "one")
    first.reset()
    early = RawClient.connect(server, "late?_seat&who=")
    client = RawClient.connect(server, "late?_seat")
    client.send_json({"_seat": {"token": seat["token"], "seen": 1}})
    again = client.receive_json()
    assert again["_seat"]["resumed"]
    early.send_json({"_seat": {"token": seat["token"], "seen": 1}})
    assert wait_closed(early) == (4001, "resumed elsewhere")
    say(client, "two")
    client.close()


def test_a_seat_that_nobody_may_have_heard_of_is_not_kept_for_long(game: Path) -> None:
    """A client whose answer was lost asks for a new seat; the first one was a ghost in the room."""
    command = with_constants("scalesocket.net.seats", NEWEST_PATIENCE=0.3)
    with serve("--resume", "600", "echo:Echo", cwd=game, command=command) as server:
        with RawClient.connect(server, "ghost") as watcher:
            say(watcher, "here")
            client = RawClient.connect(server, "ghost?_seat")
            client.send_json({"_seat": {}})
            client.reset()
            lines = [watcher.receive_text().split() for _ in range(2)]
            assert [words[0] for words in lines] == ["drop", "leave"]
            assert lines[0][1] == lines[1][1]
            client, seat = sit(server, "ghost")
            client.send_text("I am here")
            client.reset()
            assert watcher.receive_text() == f"drop {seat['id']}"
            say(watcher, "nothing else comes")
            back, again = sit(server, "ghost", seat["token"])
            assert again["resumed"]
            back.close()


def test_who_has_shown_its_token_has_heard_of_its_seat(game: Path) -> None:
    """One that only listened, and was cut off before its Pong came, lost its seat all the same."""
    command = with_constants("scalesocket.net.seats", NEWEST_PATIENCE=0.3)
    with serve("--resume", "600", "echo:Echo", cwd=game, command=command) as server:
        with RawClient.connect(server, "quiet") as watcher:
            say(watcher, "here")
            wish: dict[str, object] = {}
            clients = []
            for _ in range(2):  # the second one takes the seat of the first
                client = RawClient.connect(server, "quiet?_seat")
                client.send_json({"_seat": wish})
                answer: Any = client.receive_json()
                wish = {"token": answer["_seat"]["token"], "seen": 0}
                clients.append(client)
            number = answer["_seat"]["id"]
            assert watcher.receive_text() == f"resume {number} False"
            clients[1].reset()
            assert watcher.receive_text() == f"drop {number}"
            ghost = RawClient.connect(server, "quiet?_seat")
            ghost.send_json({"_seat": {}})
            ghost.reset()
            lines = [watcher.receive_text().split() for _ in range(2)]
            assert [words[0] for words in lines] == ["drop", "leave"]
            assert lines[0][1] == lines[1][1], "whose token nobody has shown"
            back, again = sit(server, "quiet", str(wish["token"]))
            assert again["resumed"]
            for client in (back, clients[0]):
                client.sock.close()


# ==== By another process ====================================================


class SecurePlayer(Player):
    """The same over TLS."""

    context: ssl.SSLContext

    def connect(self) -> socket.socket:
        return self.context.wrap_socket(open_socket(self.address), server_hostname="localhost")


def cut_often(player: Player, *, step: int = 1) -> None:
    """Cut a player off behind every few bytes, out and in."""
    assert player.play(3)
    for direction in ("out", "into"):
        for size in range(1, 1500, step):
            if player.play(3, **{direction: float(size)}):
                break
            if size % 4 == 0:
                wait_until(lambda: player.play(0))
    wait_until(lambda: player.play(0))
    assert player.heard == player.said and player.resumed > 10


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_over_tls_nothing_is_lost_and_nothing_comes_twice(game: Path, certs: Certificates) -> None:
    with serve("--resume", "120", *certs.options(), "echo:Echo", cwd=game) as server:
        player = SecurePlayer(server, "tls")
        player.context = certs.trust()
        cut_often(player, step=7)


def test_with_workers_a_seat_is_found_whichever_of_them_hears(game: Path) -> None:
    with serve("--resume", "120", "--workers", "2", "echo:Echo", cwd=game) as server:
        for room in ("one", "two", "three"):
            cut_often(Player(server, room), step=11)


def test_a_seat_on_another_node_is_taken_back_through_this_one(game: Path) -> None:
    patient = with_constants("scalesocket.net.relay", ASK_TIMEOUT=PATIENCE)
    with serve("--resume", "120", "echo:Echo", "--api", cwd=game) as other:
        peers = ("--peers", f"127.0.0.1:{other.port}")
        with serve(
            "--resume", "120", "--api", *peers, "echo:Echo", cwd=game, command=patient
        ) as here:
            with RawClient.connect(other, "far") as client:
                say(client, "the room is open there")
                cut_often(Player(here, "far"), step=11)
