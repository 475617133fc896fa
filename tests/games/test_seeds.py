"""The command lines and program excerpts of the documents this project was made from.

They stand here word for word. A `scalesocket` on PATH stands for `python3 scalesocket.py`, and
everything is run as a reader would: by a shell, on port 5000.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from tests.support import SCRIPT, RawClient, ServerProcess, http_request, serve, wait_until

PORT = 5000

# ==== 1. The multiplayer game: command and excerpts ========================

GAME_COMMAND = r"""scalesocket --addr 0.0.0.0:5000\
    --staticdir /var/www/public/ \
    --frame=json \
    --joinmsg '{"t":"Join","id":#ID}'\
    --leavemsg '{"t":"Leave","id":#ID}'\
    game.py"""

GAME_INPUT = """\
from sys import stdin

def parse_json(data: str):
    with suppress(JSONDecodeError):
        return loads(data)
    return None

stdin_events = map(parse_json, stdin)

for event in stdin_events:
    # do something with the event
    # in our case the frontend sends
    # {"t": "Input", "data": {"x": 123, "y": 456}}
    # ...
"""

GAME_OUTPUT = """\
from json import dumps

# ...

print(dumps({"t": t, "data": data, "id": to_id}))
"""

# A whole program: what comes before the excerpts, the second of them as the body of a function,
# then the first, whose loop is given something to do.
GAME_PROGRAM = f"""\
from contextlib import suppress
from json import loads
from json.decoder import JSONDecodeError

def send(t, data, to_id=None):
{"".join(f"    {line}" for line in GAME_OUTPUT.splitlines(keepends=True))}
state = {{}}

{GAME_INPUT}
    match event:
        case {{"t": "Join", "id": who}}:
            state[str(who)] = None
            send("Welcome", who, who)
        case {{"t": "Input", "id": who, "data": data}}:
            state[str(who)] = data
        case {{"t": "Leave", "id": who}}:
            del state[str(who)]
        case _:
            continue
    send("State", state)
"""

# ==== 2. The echo server in three lines ====================================

EXAMPLE_PROGRAM = """\
from sys import stdin

for message in stdin:
    print(f"hello {message}")
"""

EXAMPLE_COMMAND = "scalesocket --addr 0.0.0.0:5000 ./example.py"
EXAMPLE_LOG = "[INFO] running at 0.0.0.0 on port 5000"


# ==== 3. Running them =====================================================


def port_is_free() -> bool:
    """Tell whether the documents' port can be had."""
    try:
        socket.create_server(("0.0.0.0", PORT)).close()
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Let no other of these tests run: port and folder are the same for all of them."""
    with (Path(tempfile.gettempdir()) / "scalesocket-test-seeds").open("w") as file:

        def locked() -> bool:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        wait_until(locked, 120, "the other tests of the documents' commands")
        yield


@contextmanager
def run_command(command: str, folder: Path) -> Iterator[ServerProcess]:
    """Run a document's command line in a folder, with `scalesocket` on PATH.

    Raises:
        AssertionError: the documents' port stays in use for two minutes.
    """
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    script = tools / "scalesocket"
    script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(SCRIPT)])} "$@"\n')
    script.chmod(0o755)
    wait_until(port_is_free, 120, f"port {PORT}, which the documents name, is in use")
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    with serve(
        addr=None, command=["bash", "-c", command], cwd=folder, env={"PATH": path}
    ) as server:
        yield server


@pytest.fixture
def public_folder(alone: None) -> Iterator[Path]:
    """The folder that the game's command names; made if it is missing, and then removed."""
    folder = Path("/var/www/public")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
    page = folder / f"scalesocket-test-{os.getpid()}.txt"
    try:
        page.write_text("a file of the game")
        yield page
    finally:
        page.unlink(missing_ok=True)
        for path in missing:
            with suppress(OSError):  # somebody else has put something there meanwhile
                path.rmdir()


def receive_object(client: RawClient) -> dict[str, object]:
    """Return the next message, a JSON object."""
    value = client.receive_json()
    assert isinstance(value, dict)
    return cast("dict[str, object]", value)


def join(server: ServerProcess, room: str) -> tuple[RawClient, int]:
    """Connect; return the client and the ID that the game welcomes it by."""
    client = RawClient.connect(server, room)
    while (welcome := receive_object(client))["t"] != "Welcome":
        assert welcome["t"] == "State"  # sent to all, just before the game hears of the newcomer
    return client, cast(int, welcome["id"])


# ==== 4. The multiplayer game =============================================


def test_the_command_serves_a_game_that_is_made_of_the_excerpts(
    tmp_path: Path, public_folder: Path
) -> None:
    (tmp_path / "game.py").write_text(GAME_PROGRAM)
    with run_command(GAME_COMMAND, tmp_path) as server:
        assert server.port == PORT

        first, one = join(server, "meadow")
        assert first.receive_json() == {"t": "State", "data": {str(one): None}, "id": None}
        second, two = join(server, "meadow")
        assert one != two
        both = {str(one): None, str(two): None}
        for client in (first, second):  # the Welcome of the second went to the second alone
            assert client.receive_json() == {"t": "State", "data": both, "id": None}

        place = {"x": 123, "y": 456}
        first.send_text('{"t": "Input", "data": {"x": 123, "y": 456}}')
        for client in (first, second):
            assert receive_object(client)["data"] == {**both, str(one): place}

        stranger, three = join(server, "elsewhere")
        assert receive_object(stranger)["data"] == {str(three): None}
        first.close()
        assert receive_object(second)["data"] == {str(two): None}
        for client in (second, stranger):
            client.close()


def test_nobody_can_play_for_somebody_else(tmp_path: Path, public_folder: Path) -> None:
    (tmp_path / "game.py").write_text(GAME_PROGRAM)
    with run_command(GAME_COMMAND, tmp_path) as server:
        first, one = join(server, "meadow")
        second, two = join(server, "meadow")
        with first, second:
            receive_object(second)
            second.send_text(f'{{"id":{one},"t":"Input","data":1,"\\u0069d":{one}}}')
            assert receive_object(second)["data"] == {str(one): None, str(two): 1}


def test_the_command_serves_the_bundled_game_and_the_folder(
    tmp_path: Path, public_folder: Path
) -> None:
    with run_command(GAME_COMMAND, tmp_path) as server:
        page = http_request(server, path=f"/{public_folder.name}")
        assert (page.status, page.body) == (200, b"a file of the game")
        assert http_request(server, path="/game.js").status == 404, "of the bundled page's folder"

        first, one = join(server, "meadow")
        assert receive_object(first)["t"] == "Player"
        second, two = join(server, "meadow")
        for client in (first, second):
            player = receive_object(client)
            assert player["t"] == "Player"
            assert cast("dict[str, object]", player["data"])["id"] == two

        first.send_text('{"t": "Input", "data": {"x": 123, "y": 456}}')
        moved = {"t": "Player", "data": {"id": one, "x": 123, "y": 456}, "id": None}
        assert first.receive_json() == second.receive_json() == moved

        first.close()
        assert second.receive_json() == {"t": "Gone", "data": {"id": one}, "id": None}
        second.close()


# ==== 5. The echo server ==================================================


def play_example(server: ServerProcess) -> None:
    """Two clients share a room, a third has another; `print` adds an empty line to each."""
    assert EXAMPLE_LOG in server.log()
    with (
        RawClient.connect(server, "exampleroom") as first,
        RawClient.connect(server, "exampleroom") as second,
        RawClient.connect(server, "other") as third,
    ):
        third.send_text("other room")
        first.send_text("from the first")
        for client in (first, second):
            assert [client.receive_text(), client.receive_text()] == ["hello from the first", ""]
        second.send_text("from the second")
        for client in (first, second):
            assert [client.receive_text(), client.receive_text()] == ["hello from the second", ""]
        assert [third.receive_text(), third.receive_text()] == ["hello other room", ""]
        for client in (first, second, third):
            with pytest.raises(TimeoutError):
                client.receive(0.05)


def test_three_lines_of_python_are_an_echo_server(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLE_PROGRAM)
    with run_command(EXAMPLE_COMMAND, tmp_path) as server:
        play_example(server)


@pytest.mark.slow
def test_the_same_lines_as_an_executable_script(tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(f"#!/usr/bin/env python3\n{EXAMPLE_PROGRAM}")
    example.chmod(0o755)
    with run_command(EXAMPLE_COMMAND, tmp_path) as server:
        play_example(server)


def test_the_excerpts_are_in_the_program_as_they_stand() -> None:
    assert GAME_INPUT in GAME_PROGRAM
    inside = [line.removeprefix("    ") for line in GAME_PROGRAM.splitlines()]
    assert "\n".join(inside).find(GAME_OUTPUT) > 0
    assert GAME_COMMAND.count("\\\n") == 5
