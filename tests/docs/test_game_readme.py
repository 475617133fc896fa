"""The tutorial in game/README.md, followed to the letter.

A block of Python is written to the file that is named behind its language. A command is run; one
that starts a server replaces the server of before. A conversation is played with it.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

import scalesocket
from tests.support import (
    ROOT,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    http_request,
    serve,
    wait_until,
)

README = ROOT / "game" / "README.md"
TEXT = README.read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block of the page."""

    language: str
    name: str  # of the file that it is
    body: str


def blocks() -> Iterator[Block]:
    for match in re.finditer(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", TEXT, re.MULTILINE):
        yield Block(*match.groups())


class Reader:
    """Does what the page says, block by block, in a folder of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.running = stack.enter_context(ExitStack())  # a server and its players
        self.server: ServerProcess | None = None
        self.players: dict[str, RawClient] = {}
        self.refused: dict[str, int] = {}

    def read(self, block: Block) -> None:
        match block.language:
            case "python":
                (self.folder / block.name).write_text(block.body)
            case "console":
                self.run(block.body)
            case "text":
                for line in block.body.splitlines():
                    self.talk(line)
            case _:
                raise AssertionError(f"what is to be done with {block}?")

    def run(self, body: str) -> None:
        command, *output = body.splitlines()
        program, *arguments = shlex.split(command.removeprefix("$ "))
        if program == "curl":
            self.ask(arguments[0], "\n".join(output))
        elif arguments[0] == "scalesocket.py":
            self.serve(arguments[1:])
        else:
            assert program == "python3"
            subprocess.run([sys.executable, *arguments], cwd=self.folder, check=True, timeout=60)

    def serve(self, arguments: list[str]) -> None:
        self.running.close()
        self.players.clear()
        server = serve(*arguments, cwd=self.folder, allow_traceback=True)
        self.server = self.running.enter_context(server)

    def ask(self, url: str, answer: str) -> None:
        assert self.server is not None
        path = url.removeprefix("http://localhost:9000")
        response = http_request(self.server, path=path)
        assert json.loads(response.body) == json.loads(answer)

    def talk(self, line: str) -> None:
        """Play one line of a conversation."""
        match = re.fullmatch(r"(\w+) (opens|>|<|leaves|is closed with|is refused with) ?(.*)", line)
        assert match, f"who says what? {line!r}"
        name, what, words = match.groups()
        if what == "opens":
            self.open(name, words.removeprefix("ws://localhost:9000"))
            return
        if what == "is refused with":
            assert self.refused.pop(name) == int(words)
            return
        player = self.players[name]
        if what == ">":
            player.send_text(words)
        elif what == "<":
            wait_until(lambda: is_same(player.receive_text(), words), message=line)
        elif what == "is closed with":
            assert player.wait_close()[0] == int(words), line
        else:
            player.close()

    def open(self, name: str, path: str) -> None:
        assert self.server is not None
        try:
            client = RawClient.connect(self.server, path=path)
        except HandshakeRefused as refusal:
            self.refused[name] = refusal.status
            return
        self.players[name] = self.running.enter_context(client)


def is_same(message: str, words: str) -> bool:
    """Whether a message is the one that the page shows; white space in JSON does not count."""
    if words.startswith("{"):
        return bool(json.loads(message) == json.loads(words))
    return message == words


@pytest.mark.slow
def test_everything_on_the_page_works_as_it_stands_there(tmp_path: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        for block in blocks():
            reader.read(block)
        assert reader.refused == {}


def test_no_block_is_overlooked() -> None:
    found = [*blocks()]
    assert 2 * len(found) == len(re.findall("^```", TEXT, re.MULTILINE))
    assert {block.language for block in found} == {"python", "console", "text"}
    assert all(block.name for block in found if block.language == "python")


def rows(heading: str) -> list[str]:
    """Return the first cells of a table, without what is in parentheses."""
    table = TEXT.partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([\w.]+)", table, re.MULTILINE)


def test_all_hooks_and_settings_of_a_game_are_explained() -> None:
    members = {name for name in vars(scalesocket.Game) if not name.startswith("_")}
    hooks = {name for name in members if name.startswith("on_")}
    assert set(rows("hook")) == hooks
    assert set(rows("of the class")) == members - hooks


def test_what_is_said_of_a_room_exists() -> None:
    named = {name.removeprefix("room.") for name in rows("room")}
    room = scalesocket.GameRoom.__new__(scalesocket.GameRoom)
    room.__init__(type("Room", (), {"name": "x"})(), None)  # type: ignore[misc]
    public = {name for name in {*vars(room), *vars(type(room))} if not name.startswith("_")}
    assert named == public - {"add", "remove", "closing", "next_call", "run_due_calls"}


@pytest.mark.parametrize("target", re.findall(r"^\| [\w-]+(?: \w+)? \| `(\S+)`", TEXT, re.M))
def test_every_game_of_the_table_can_be_started(target: str) -> None:
    path = scalesocket.find_target(target)
    assert isinstance(path, Path) and path.parent == ROOT / "game"


def test_the_table_names_files_that_exist() -> None:
    table = TEXT.partition("| --- |")[2].partition("\n\n")[0]
    names = re.findall(r"`([\w*]+\.py)`", table)
    assert len(names) >= 7
    for name in names:
        assert [*(ROOT / "game").glob(name)], name
