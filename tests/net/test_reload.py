"""--reload: code that changes while people play; rooms, seats and messages stay."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from scalesocket.net.reload import Ear, Files, Line, file_of, find_program

from scalesocket import ConfigError
from tests.net.test_workers import has_taken
from tests.rooms.test_store import Player, sit, wait_closed, wait_for_players
from tests.support import (
    ROOT,
    SCRIPT,
    Closed,
    RawClient,
    ServerProcess,
    http_request,
    read_process,
    run_cli,
    serve,
    wait_until,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

NEW_CODE = "the new code runs"
GAME = '''
import helper
from scalesocket import Game

VERSION = "game 1"


class Tally(Game):
    """Repeats to all what each says, and counts it."""

    def on_create(self, room):
        self.room, self.count = room, 0

    def on_save(self):
        return self.count

    def on_restore(self, state):
        self.count = state

    def on_message(self, client, message):
        if message == "about":
            client.send_json(
                {"game": VERSION, "helper": helper.VERSION, "count": self.count,
                 "clients": sorted(self.room.clients)}
            )
        else:
            self.count += 1
            self.room.broadcast(f"{client.id}:{message}")


class Plain(Game):
    """Saves nothing, and says who has come."""

    def on_join(self, client):
        client.send(f"{VERSION}: joined {client.id}")

    def on_resume(self, client):
        client.send(f"{VERSION}: back {client.id}")
'''
PROGRAM = """
import json, sys
import helper

VERSION = "program 1"
count = 0
for line in sys.stdin:
    said = json.loads(line)
    if "_restore" in said:
        count = said["_restore"]
    elif said["t"] == "add":
        count += 1
        print(json.dumps({"_save": count}))
    elif said["t"] == "about":
        print(json.dumps({"program": VERSION, "helper": helper.VERSION, "count": count}))
"""
TARGETS = {"game": ["games:Tally"], "program": ["--json", "./program.py"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "games.py").write_text(GAME)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text('VERSION = "helper 1"\n')
    return tmp_path


@contextlib.contextmanager
def reloading(folder: Path, *arguments: str, **more: Any) -> Iterator[ServerProcess]:
    """Run a server, and wait until its first child has loaded the code."""
    with serve("--reload", *arguments, cwd=folder, **more) as server:
        assert http_request(server, path="/health").status == 200
        yield server


def change(file: Path, old: str, new: str) -> None:
    """Write a file anew with other text in it, as an editor does that saves in place."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def reload(server: ServerProcess, file: Path, old: str, new: str) -> None:
    """Change a file, and wait until its code runs."""
    before = len(server.log())
    change(file, old, new)
    server.wait_log(NEW_CODE, since=before)


def times(server: ServerProcess, text: str) -> int:
    return sum(text in line for line in server.log())


def about(server: ServerProcess, room: str = "den") -> Any:
    with RawClient.connect(server, room) as client:
        client.send_text('{"t":"about"}' if "--json" in server.process.args else "about")
        answer = client.receive_json()
        client.close()
        return answer


# ==== What stays ======================================================================


def test_two_players_lose_no_message_and_keep_their_ids(folder: Path) -> None:
    step, changes = 20, 3
    with reloading(folder, "games:Tally") as server:
        players = [Player((server.host, server.port), step * changes, 2) for _ in range(2)]
        wait_for_players(players, lambda p: bool(p.id), all)  # who comes later misses something
        for number in range(changes):
            for player in players:
                player.allowed += step // 2
            wait_for_players(players, lambda p, n=number: len(p.heard) > n * 2 * step, all)
            for player in players:
                player.allowed += step // 2  # which they say while the code changes
            reload(server, folder / "games.py", f"game {number + 1}", f"game {number + 2}")
        wait_for_players(players, lambda p: len(p.heard) == p.wanted, all)
        for player in players:
            player.thread.join()
            assert player.error is None
            assert player.heard == players[0].heard
            own = [text for text in player.heard if text.startswith(f"{player.id}:")]
            assert own == [f"{player.id}:{n}" for n in player.numbers]
        assert sorted(player.id for player in players) == [1, 2]
        assert all(player.resumed for player in players)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("keeps", [[], ["--store", "play.sqlite"]])
def test_state_and_seat_outlive_the_code_also_a_helper_s(
    folder: Path, kind: str, keeps: list[str]
) -> None:
    file = {"game": "games.py", "program": "program.py"}[kind]
    is_json = kind == "program"

    def ask(client: RawClient) -> Any:
        client.send_text('{"t":"about"}' if is_json else "about")
        return client.receive_json()

    with reloading(folder, *keeps, *TARGETS[kind]) as server:
        ann, seat = sit(server, "den")
        ann.send_text('{"t":"add"}')
        assert is_json or ann.receive_text()
        assert ask(ann)[kind] == f"{kind} 1"
        seen = 1 if is_json else 2
        for changed, old, new in (
            (file, f"{kind} 1", f"{kind} 2"),
            ("helper.py", "helper 1", "helper 2"),
        ):
            before = len(server.log())
            change(folder / changed, old, new)
            assert wait_closed(ann) == 1012
            ann, again = sit(server, "den", seat["token"], seen)
            assert (again["resumed"], again["id"]) == (True, seat["id"])
            seat = again
            told = ask(ann)
            seen += 1
            assert new in (told[kind], told["helper"]) and told["count"] == 1
            server.wait_log(NEW_CODE, since=before)
        ann.close()
    assert (folder / "play.sqlite").exists() == bool(keeps)


def test_a_game_that_saves_nothing_sees_its_clients_join_again(folder: Path) -> None:
    with reloading(folder, "games:Plain") as server:
        ann, seat = sit(server, "den")
        assert ann.receive_text() == "game 1: joined 1"
        without_seat = RawClient.connect(server, "den")
        assert without_seat.receive_text() == "game 1: joined 2"
        change(folder / "games.py", "game 1", "game 2")
        assert wait_closed(ann) == wait_closed(without_seat) == 1012
        ann, seat = sit(server, "den", seat["token"], 1)
        assert (seat["id"], seat["resumed"]) == (1, True)
        assert [ann.receive_text(), ann.receive_text()] == ["game 2: joined 1", "game 2: back 1"]
        ann.close()


def test_whoever_connects_meanwhile_waits_and_is_never_refused(folder: Path) -> None:
    over, refused, answered = threading.Event(), [], []

    def knock(server: ServerProcess) -> None:
        while not over.is_set():
            try:
                with socket.create_connection((server.host, server.port)) as sock:
                    sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                    answered.append(b"ok" in sock.recv(1000))
            except ConnectionRefusedError as error:
                refused.append(error)
            except ConnectionError:  # the old server has just ended
                pass

    with reloading(folder, "games:Tally") as server:
        thread = threading.Thread(target=knock, args=(server,))
        thread.start()
        try:
            for number in (1, 2):
                reload(server, folder / "games.py", f"game {number}", f"game {number + 1}")
                seen = len(answered)
                wait_until(lambda seen=seen: any(answered[seen:]))
        finally:
            over.set()
            thread.join()
        assert not refused
        assert about(server)["game"] == "game 3"


def test_unix_sockets_and_lines_of_text_stay_open_too(folder: Path) -> None:
    options = ["--unixsocket", "s", "--tcplisten", "127.0.0.1:0"]
    with reloading(folder, *options, "games:Tally") as server:
        port = int(server.wait_log(r"lines of text at 127\.0\.0\.1 on port (\d+)")[1])
        reload(server, folder / "games.py", "game 1", "game 2")
        for kind, address in ((socket.AF_UNIX, str(folder / "s")), (None, ("127.0.0.1", port))):
            if kind is None:
                with socket.create_connection(address) as sock, sock.makefile("rw") as lines:
                    print("den\nabout", file=lines, flush=True)
                    assert json.loads(lines.readline())["game"] == "game 2"
            else:
                with socket.socket(kind) as sock:
                    sock.connect(address)
                    client = RawClient(sock)
                    client.upgrade("localhost", "/den", {})
                    client.send_text("about")
                    told: Any = client.receive_json()
                    assert told["game"] == "game 2"
                    client.close()
        assert server.stop() == 0
    assert not (folder / "s").exists()


# ==== Code that is wrong ==============================================================


def console_problem(server: ServerProcess) -> str:
    facts = json.loads(http_request(server, path="/console/api").body)
    return str(facts["problem"])


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("which", ["target", "helper"])
def test_with_a_syntax_error_the_old_code_goes_on_until_it_is_mended(
    folder: Path, kind: str, which: str
) -> None:
    own = {"game": "games.py", "program": "program.py"}[kind]
    file = folder / (own if which == "target" else "helper.py")
    before = file.read_text()
    with reloading(folder, "--console", *TARGETS[kind]) as server:
        ann, seat = sit(server, "den")
        ann.send_text('{"t":"about"}' if kind == "program" else "about")
        assert ann.receive_json()  # a program has been read by now
        change(file, "VERSION = ", "VERSION = = ")
        line = before.partition("VERSION = ")[0].count("\n") + 1
        server.wait_log(rf"ERROR\] the old code goes on: .*{file.name}, line {line}: ")
        assert wait_until(lambda: console_problem(server)).startswith("cannot ")
        assert about(server)[kind] == f"{kind} 1"
        ann.send_text('{"t":"about"}' if kind == "program" else "about")
        assert ann.receive_json()
        assert times(server, NEW_CODE) == 0
        file.write_text(before.replace("1", "2"))
        server.wait_log(NEW_CODE)
        assert wait_closed(ann) == 1012
        assert about(server)[kind if which == "target" else "helper"].endswith("2")
        assert console_problem(server) == ""


def test_the_log_is_what_readme_shows(tmp_path: Path) -> None:
    """It showed a mistake in a script in the words for a module."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = "$ python3 scalesocket.py --reload treasure.py\n"
    shown = readme.partition(command)[2].partition("```")[0].splitlines()[2:]
    block = '# /// script\n# [tool.scalesocket]\n# game = "Treasure"\n# ///\n'
    game = "from scalesocket import Game\n\n\nclass Treasure(Game):\n"
    file = tmp_path / "treasure.py"
    file.write_text(f"{block}{game}    def on_join(self, client):\n        pass\n")
    with reloading(tmp_path, "./treasure.py") as server:
        before = len(server.log())
        ann, seat = sit(server, "island")
        server.wait_log("room opened")
        change(file, "pass", "return")
        assert wait_closed(ann) == 1012
        server.wait_log("room is stored")
        again, _ = sit(server, "island", seat["token"], 0)
        wait_until(lambda: times(server, "room opened") == 2)
        change(file, "def on_join(self, client):", "def on_join(:")
        server.wait_log("the old code goes on")
        told = [line for line in server.log()[before:] if line.startswith("[")]
        ann.sock.close()
        again.sock.close()
    assert len(shown) == 8
    for line, true in zip(shown, told, strict=False):
        assert re.fullmatch(re.escape(line).replace("…", ".*"), true), (line, true)


def test_a_missing_module_that_comes_into_being_is_noticed(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        change(folder / "games.py", "import helper\n", "import helper\nimport later\n")
        server.wait_log("the old code goes on: .*there is no module 'later'")
        (folder / "later.py").write_text("")
        server.wait_log(NEW_CODE)


def test_what_cannot_be_loaded_at_first_is_an_error_as_ever(folder: Path) -> None:
    change(folder / "games.py", "VERSION = ", "VERSION = = ")
    done = run_cli("--reload", "games:Tally", cwd=folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "games.py, line 5" in done.stderr


def test_a_room_that_new_code_cannot_restore_is_back_once_that_is_mended(folder: Path) -> None:
    with reloading(folder, "games:Tally", allow_traceback=True) as server:
        ann, seat = sit(server, "den")
        ann.send_text("one")
        assert ann.receive_text() == "1:one"
        reload(server, folder / "games.py", "self.count = state", "self.count = state['x']")
        assert wait_closed(ann) == 1012
        ann = RawClient.connect(server, "den?_seat&name=ann")
        ann.send_json({"_seat": {"token": seat["token"], "seen": 1}})
        assert wait_closed(ann) == 1011  # behind an answer, if she comes before the room has failed
        reload(server, folder / "games.py", "state['x']", "state")
        assert about(server)["count"] == 1


def test_code_that_ends_its_process_while_it_loads_is_told_of(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        change(folder / "helper.py", "VERSION", "import os; os._exit(9)  # VERSION")
        server.wait_log("the old code goes on: the new code ended with status 9 as it was loaded")
        assert about(server)["game"] == "game 1"


def test_code_of_which_no_server_can_be_made_is_told_of(folder: Path) -> None:
    """It was a traceback, and "the new code ended with status 1"."""
    lacking = "import os, scalesocket\ndef lack(): raise OSError(24, os.strerror(24))\n"
    with reloading(folder, "games:Tally") as server:
        before = (folder / "helper.py").read_text()
        (folder / "helper.py").write_text(
            f"{lacking}scalesocket.count_spare_files = lack\n{before}"
        )
        server.wait_log(f"the old code goes on: {os.strerror(24)}")
        assert about(server)["game"] == "game 1"
        assert times(server, "Traceback") == 0


def test_a_server_that_lacks_files_as_it_starts_says_so_in_one_line(folder: Path) -> None:
    lacking = "import os, selectors\ndef lack(): raise OSError(24, os.strerror(24))\n"
    helper = folder / "helper.py"
    helper.write_text(f"{lacking}selectors.DefaultSelector = lack\n{helper.read_text()}")
    done = run_cli("--reload", "--addr", "127.0.0.1:0", "games:Tally", cwd=folder)
    assert f"scalesocket: {os.strerror(24)}\n" in done.stderr
    assert "the server has ended with status 1" in done.stderr
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_code_that_fails_and_does_not_end_is_told_of_before_it_is_killed(folder: Path) -> None:
    endless = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    with reloading(folder, "games:Tally") as server:
        (folder / "helper.py").write_text(f"{endless}1 / 0\n")
        server.wait_log("does not end, and is killed")
        told = [
            number for number, line in enumerate(server.log()) if "the old code goes on" in line
        ]
        assert len(told) == 1 and "does not end" not in " ".join(server.log()[: told[0]])
        (folder / "helper.py").write_text('VERSION = "helper 2"\n')
        server.wait_log(NEW_CODE)
        assert about(server)["helper"] == "helper 2"


def test_code_that_takes_long_to_load_is_told_of_once(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        (folder / "gate").touch()
        (folder / "helper.py").write_text(f'{GATE}VERSION = "helper 2"\n')
        server.wait_log("the old code goes on: the new code is not loaded after 10 s")
        assert about(server)["helper"] == "helper 1"
        (folder / "gate").unlink()
        server.wait_log(NEW_CODE)
        assert about(server)["helper"] == "helper 2"
        assert times(server, "is not loaded") == 1


def test_a_server_that_ends_by_itself_ends_it_all(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        (child,) = server.children()
        os.kill(child, signal.SIGKILL)
        assert server.wait() == 1
        server.wait_log(r"the server has ended with signal 9 \(Killed\)")


# ==== When there is a change ==========================================================


def test_a_file_that_is_deleted_and_written_anew_is_one_change(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        file = folder / "games.py"
        text = file.read_text()
        file.unlink()
        assert about(server)["game"] == "game 1"
        file.write_text(text.replace("game 1", "game 2"))
        server.wait_log(NEW_CODE)
        assert about(server)["game"] == "game 2"
        other = folder / "games.py~"
        other.write_text(text.replace("game 1", "game 3"))
        before = len(server.log())
        other.replace(file)
        server.wait_log(NEW_CODE, since=before)
        assert about(server)["game"] == "game 3"
        assert times(server, "changed: games.py") == times(server, NEW_CODE) == 2


@contextlib.contextmanager
def halted(server: ServerProcess) -> Iterator[None]:
    """Have the first process see nothing for a while, so that all that happens is at once."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_several_changes_at_once_are_one(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        with halted(server):
            for number in range(1, 4):
                change(folder / "games.py", f"game {number}", f"game {number + 1}")
            change(folder / "helper.py", "helper 1", "helper 2")
        server.wait_log("changed: games.py, helper.py$")
        server.wait_log(NEW_CODE)
        told = about(server)
        assert (told["game"], told["helper"]) == ("game 4", "helper 2")
        reload(server, folder / "games.py", "game 4", "game 5")
        assert times(server, NEW_CODE) == 2


# Code that waits while it is loaded, and lets it be seen that it does.
GATE = (
    "import os, time\nopen('read', 'w').close()\nwhile os.path.exists('gate'): time.sleep(0.01)\n"
)


def test_a_change_while_new_code_loads_is_loaded_in_its_place(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        (folder / "gate").touch()
        (folder / "helper.py").write_text(f'{GATE}VERSION = "helper 2"\n')
        wait_until((folder / "read").exists)
        (folder / "helper.py").write_text('VERSION = "helper 3"\n')
        server.wait_log(NEW_CODE)
        assert about(server)["helper"] == "helper 3"
        assert (times(server, "changed:"), times(server, NEW_CODE)) == (2, 1)
        wait_until(lambda: len(server.children()) == 1)  # the other one has not been left to wait


def test_a_change_while_the_old_code_saves_is_loaded_afterwards(folder: Path) -> None:
    change(
        folder / "games.py",
        "return self.count",
        "open('saving', 'w').close()\n        "
        + ("while os.path.exists('gate'): pass\n        return self.count"),
    )
    change(folder / "games.py", "import helper", "import os\nimport helper")
    with reloading(folder, "--saveevery", "0", "--store", "s", "games:Tally") as server:
        ann, _ = sit(server, "den")
        ann.send_text("one")
        assert ann.receive_text()
        (folder / "gate").touch()
        change(folder / "games.py", "game 1", "game 2")
        wait_until((folder / "saving").exists)
        change(folder / "games.py", "game 2", "game 3")
        (folder / "gate").unlink()
        wait_until(lambda: times(server, NEW_CODE) == 2)
        assert wait_closed(ann) == 1012
        told = about(server)
        assert (told["game"], told["count"]) == ("game 3", 1)


def test_what_a_game_imports_later_is_looked_after_too(folder: Path) -> None:
    change(folder / "games.py", "if message == ", "import lazy\n        if message == ")
    (folder / "lazy.py").write_text("")
    with reloading(folder, "games:Tally") as server:
        assert about(server)["game"] == "game 1"

        def is_noticed() -> bool:
            file = folder / "lazy.py"  # it is known a second later at most
            if time.time() - file.stat().st_mtime > 1:  # and has to be left alone for a moment
                file.write_text("# changed\n")
            return times(server, "changed: lazy.py") > 0

        wait_until(is_noticed)
        server.wait_log(NEW_CODE)


def test_where_to_listen_stays_and_that_is_said(folder: Path) -> None:
    block = (
        '# /// script\n# [tool.scalesocket]\n# game = "Tally"\n# tcplisten = "127.0.0.1:0"\n# ///\n'
    )
    (folder / "games.py").write_text(block + GAME)
    with reloading(folder, "games.py") as server:
        change(folder / "games.py", '# tcplisten = "127.0.0.1:0"\n', "# api = true\n")
        server.wait_log("where to listen is changed by a new start only")
        server.wait_log(NEW_CODE)
        assert http_request(server, path="/api/rooms/").status == 200


# ==== Its end =========================================================================


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_it(folder: Path, number: int) -> None:
    with reloading(folder, "games:Tally") as server:
        reload(server, folder / "games.py", "game 1", "game 2")
        client = RawClient.connect(server, "den")
        server.process.send_signal(number)
        assert server.wait() == 0
        assert not server.survivors()
        assert wait_closed(client) == 1012
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port))


def test_a_signal_while_new_code_loads_ends_that_too(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        (folder / "gate").touch()
        (folder / "helper.py").write_text(GATE)
        wait_until((folder / "read").exists)
        assert len(server.children()) == 2
        assert server.stop() == 0


def test_without_the_first_process_the_others_end(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        client = RawClient.connect(server, "den")
        (child,) = server.children()
        server.process.kill()
        assert wait_closed(client) == 1012
        wait_until(lambda: read_process(child) is None or not server.survivors())


def test_without_the_first_process_code_that_never_loads_ends_too(folder: Path) -> None:
    with reloading(folder, "games:Tally") as server:
        (folder / "gate").touch()
        (folder / "helper.py").write_text(GATE)
        wait_until((folder / "read").exists)
        server.process.kill()
        wait_until(lambda: not server.survivors())


def test_a_second_signal_waits_for_nothing(folder: Path) -> None:
    waits = "import os\nimport time\nopen('saving', 'w').close()\n"
    waits += "while os.path.exists('gate'):\n    time.sleep(0.01)\nreturn self.count"
    change(folder / "games.py", "return self.count", waits.replace("\n", "\n        "))
    (folder / "gate").touch()
    with reloading(folder, "--saveevery", "0", "--store", "s", "games:Tally") as server:
        ann, _ = sit(server, "den")
        ann.send_text("one")
        assert ann.receive_text()
        server.process.send_signal(signal.SIGINT)
        wait_until((folder / "saving").exists)
        server.signal_again(signal.SIGINT)
        assert server.wait() == 1
        (folder / "gate").unlink()
        ann.sock.close()


def test_the_end_of_the_first_process_is_as_good_as_a_first_signal() -> None:
    """Who serves stops by itself then, which takes its time: one signal ends it at once."""
    first, here = socket.socketpair()
    with here:
        ear = Ear(Line(here))
        server = ear.server = Mock(stopping=False)
        first.close()
        wait_until(lambda: server.stop.called)
        assert server.stopping is True
        ear.stop()


def test_a_signal_to_all_processes_at_once_is_one_signal(folder: Path) -> None:
    """Who serves counted its own and the first one's: all was cut off, and nothing saved."""
    waits = "import os\nimport time\nopen('saving', 'w').close()\n"
    waits += "while os.path.exists('gate'):\n    time.sleep(0.01)\nreturn self.count"
    change(folder / "games.py", "return self.count", waits.replace("\n", "\n        "))
    (folder / "gate").touch()
    with reloading(folder, "--saveevery", "0", "--store", "s", "games:Tally") as server:
        ann, _ = sit(server, "den")
        ann.send_text("one")
        assert ann.receive_text()
        (child,) = server.children()
        os.kill(child, signal.SIGTERM)
        wait_until(lambda: has_taken(child, signal.SIGTERM))
        server.process.send_signal(signal.SIGTERM)
        wait_until((folder / "saving").exists)
        server.wait_log("stopping")
        os.kill(child, signal.SIGTERM)
        wait_until(lambda: has_taken(child, signal.SIGTERM))
        (folder / "gate").unlink()
        assert wait_closed(ann) == 1012
        assert server.wait() == 0
    with reloading(folder, "--store", "s", "games:Tally") as server:
        assert about(server)["count"] == 1


def test_what_a_game_has_forked_keeps_nobody_waiting(folder: Path) -> None:
    """It has all descriptors, also the one by which the two processes talk."""
    forks = "import os\nimport time\nif os.getenv('FORK') and not os.fork():\n"
    forks += "    while os.path.exists('gate'):\n        time.sleep(0.01)\n    os._exit(0)\n"
    (folder / "helper.py").write_text(f"{forks}VERSION = 'helper 1'\n")
    (folder / "gate").touch()
    with reloading(folder, "games:Tally", env={"FORK": "1"}) as server:
        child = next(pid for pid in server.children() if is_serving(pid))
        os.kill(child, signal.SIGKILL)
        assert server.wait() == 1
        (folder / "gate").unlink()


def is_serving(pid: int) -> bool:
    """Whether a process is what the first one has started, and not what it has forked."""
    return b"import succeed" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_process_that_cannot_be_started_is_tried_again(folder: Path) -> None:
    """The server ended when a file changed, and there was no descriptor left to start another."""
    import resource

    with reloading(folder, "games:Tally") as server:
        ann, _ = sit(server, "den")
        limit = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limit[1]))
        change(folder / "games.py", "game 1", "game 2")
        server.wait_log("the old code goes on: cannot start a process: Too many open files")
        ann.send_text("about")
        told: Any = ann.receive_json()
        assert told["game"] == "game 1"
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limit)
        assert wait_closed(ann) == 1012
        server.wait_log(NEW_CODE)
        assert times(server, "cannot start") == 1
        assert about(server)["game"] == "game 2"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_missing_modules_are_looked_for_also_after_descriptors_have_run_out(folder: Path) -> None:
    import resource

    with reloading(folder, "games:Tally") as server:
        change(folder / "games.py", "import helper\n", "import helper, absent\n")
        server.wait_log("the old code goes on: .*absent")
        limit = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limit[1]))
        change(folder / "games.py", "game 1", "game 2")
        server.wait_log("the old code goes on: cannot start a process: Too many open files")
        (folder / "absent.py").touch()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limit)
        server.wait_log(NEW_CODE)


def test_what_cannot_end_is_killed_and_new_code_runs(folder: Path) -> None:
    """Also if that is a thread of the game's own, and the first process has loaded the game."""
    endless = "import threading; threading.Thread(target=threading.Event().wait).start()\n"
    change(folder / "games.py", "import helper\n", f"import helper\n{endless}")
    with reloading(folder, "games:Tally") as server:
        change(folder / "games.py", endless, "")
        server.wait_log("does not end, and is killed")
        server.wait_log(NEW_CODE)


def test_a_program_gets_no_socket_of_the_server_s(folder: Path) -> None:
    (folder / "list.sh").write_text("#!/bin/sh\nread x\nls -l /proc/self/fd\n")
    (folder / "list.sh").chmod(0o755)
    with reloading(folder, "./list.sh") as server, RawClient.connect(server, "den") as client:
        client.send_text("")
        lines = []
        with pytest.raises(Closed, match="1000"):
            while True:
                lines.append(client.receive_text())
        assert len(lines) > 3 and not any("socket" in line for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a program gets the server's limit")
def test_a_program_gets_the_file_limit_that_the_server_was_given(folder: Path) -> None:
    """It got the one that the server has raised for itself; select() takes no more than 1024."""
    limited = ["sh", "-c", 'ulimit -S -n 512; exec "$@"', "sh"]
    program = ["sh", "--", "-c", "while read line; do ulimit -n; done"]
    command = [*limited, sys.executable, str(SCRIPT)]
    with reloading(folder, *program, command=command) as server:
        with RawClient.connect(server, "den") as client:
            client.send_text("how many?")
            assert client.receive_text() == "512"
        child = next(pid for pid in server.children() if is_serving(pid))
        match = re.search(r"Max open files +(\d+)", Path(f"/proc/{child}/limits").read_text())
        assert match and int(match[1]) > 512


# ==== What is looked after ============================================================


def test_a_program_s_files_are_its_own_and_not_what_it_writes(folder: Path) -> None:
    (folder / "data.json").write_text("{}")
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("from . import inner\n")
    (folder / "pack" / "inner.py").write_text("import helper, json\n")
    (folder / "program.py").write_text("from pack import inner as x\n")
    script, data = str(folder / "program.py"), str(folder / "data.json")

    def names(*command: str) -> set[str]:
        return {str(Path(path).relative_to(folder)) for path in find_program(command)}

    own = {"program.py", "pack/__init__.py", "pack/inner.py", "helper.py"}
    assert names(sys.executable, "-u", script, data) == own
    assert names(script, data) == own
    assert names("/bin/sh", "-e", data) == {"data.json"}
    (folder / "helper.py").write_text("def")
    with pytest.raises(ConfigError, match=r"helper\.py, line 1"):
        find_program([sys.executable, "-u", script])


def test_a_module_that_cannot_even_be_asked_has_no_file() -> None:
    """One that is loaded only when it is used, and is not installed, ended the server at once."""

    class Lazy:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(f"{name}: it cannot be loaded")

    assert file_of(Lazy()) == ""
    assert file_of(sys.modules[__name__]) == os.path.realpath(__file__)


def test_a_file_that_was_written_while_it_was_read_has_changed(tmp_path: Path) -> None:
    old, young = tmp_path / "old.py", tmp_path / "young.py"
    old.touch()
    young.touch()
    os.utime(old, ns=(10**18, 10**18))
    os.utime(young, ns=(3 * 10**18, 3 * 10**18))
    files = Files()
    files.add([str(old), str(young)], 2 * 10**18)
    assert wait_until(files.look) == {str(young)}


def test_what_makes_no_sense_with_it_is_refused(folder: Path) -> None:
    for option in (["--workers", "2"], ["--oneshot"]):
        done = run_cli("--reload", *option, "games:Tally", cwd=folder)
        assert done.returncode == 2
        assert f"--reload and {option[0]} exclude each other" in done.stderr
