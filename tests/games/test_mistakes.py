"""What people get wrong in a game of their own, or on the command line: one line says it."""

from __future__ import annotations

import errno
import inspect
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from scalesocket.net import examples, idle_options, linebuffer, mistakes
from scalesocket.net.hung import HungHooks

import scalesocket
from scalesocket import HERE, PLAIN, ConfigError, Game, GameBackend, parse_command_line
from tests.support import (
    FREE,
    PATIENCE,
    RawClient,
    run_cli,
    serve,
    wait_until,
    with_constants,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own; what a test imports from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def complaint(*words: str) -> str:
    """Return the line that a command line ends with, which is one."""
    with pytest.raises(ConfigError) as caught:
        parse_command_line(words)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


# ==== Hooks ==============================================================================

HOOKS = [
    (
        "def on_mesage(self, client, message): pass",
        "nothing calls on_mesage; did you mean on_messa",
    ),
    ("def onMessage(self, client, message): pass", "did you mean on_message?"),
    ("def on_joined(self, client): pass", "did you mean on_join?"),
    ("tickrate = 4", "did you mean tick_rate?"),
    ("async def on_join(self, client): pass", "on_join is `async def`"),
    ("async def on_join(self, client): yield", "on_join is `async def`"),
    ("def on_join(self, client): yield", "on_join has a `yield`"),
    (
        "def on_leave(self, client): pass",
        "on_leave(self, client) must be on_leave(self, client, co",
    ),
    (
        "def on_leave(self, client: int, *, code: int): pass",
        "on_leave(self, client, *, code) must be on_leave(self, client, code)",
    ),
    ("def on_create(room): pass", "on_create(room) must be on_create(self, room)"),
    ("def on_auth(self, request): return True", "@classmethod"),
    (
        "@classmethod\n    def on_auth(cls, request): request.query == 'key=sesame'",
        "on_auth returns nothing, so that nobody could come in",
    ),
    ("on_tick = 4", "on_tick is a hook, and no int"),
    (
        "def on_join(self, client): self.room.call_soon(self.go)\n    def go(self): yield",
        "room.call_soon calls go, which does nothing: it has a `yield`",
    ),
    (
        "def on_join(self, client): self.room.call_later(1, self.go)\n    async def go(self): pass",
        "room.call_later calls a plain `def`; go is `async def`",
    ),
    (
        "def on_join(self, client): self.room.metadata['n'] = 1",
        "room.metadata is a copy: assign the whole of it",
    ),
    ("def on_join(self, client): self.room.metadata['a']['b'] += 1", "room.metadata is a copy"),
    ("def on_join(self, client): self.room.metadata.update(n=1)", "room.metadata is a copy"),
    ("def on_join(self, client): self.room.metadata['a'].append(1)", "room.metadata is a copy"),
    ("def on_message(self, client, message): return 'pong'", "nobody gets what on_message returns"),
    ("def on_join(self, client): return f'{client.name}'", "nobody gets what on_join returns"),
    (
        "def on_message(self, client, message): return {'pong': message}",
        "nobody gets what on_message returns; say client.send or room.broadcast",
    ),
    ("def __init__(self, room): pass", "G() is called without arguments"),
    ("def on_connect(self, client): pass", "nothing calls on_connect; did you mean on_join?"),
    ("def onClose(self, client): pass", "nothing calls onClose; did you mean on_leave?"),
    ("def on_tick(self, dt): pass", "nothing calls on_tick without a tick_rate"),
    ("tick_rate = '20'", "tick_rate is a number from 0 on, not '20'"),
    ("tick_rate = -1", "tick_rate is a number from 0 on, not -1"),
    ("tick_rate = float('inf')", "tick_rate is a number from 0 on, not inf"),
    ("max_clients = '5'", "max_clients is a whole number from 0 on, not '5'"),
    ("max_rate = 2.5", "max_rate is a whole number from 0 on, not 2.5"),
    ("subprotocols = 'chat'", "subprotocols is a list of names, not 'chat'"),
    ("subprotocols = None", "subprotocols is a list of names, not None"),
    ("subprotocols = [b'chat']", "subprotocols is a list of names, not [b'chat']"),
    ("subprotocols = ['a b']", "subprotocols is of names without spaces, not ['a b']"),
    ("subprotocols = ['chat', '']", "subprotocols is of names without spaces, not ['chat', '']"),
]


@pytest.mark.parametrize(("line", "said"), HOOKS, ids=[line for line, _ in HOOKS])
def test_a_hook_that_could_not_be_called_is_named_with_its_line(
    here: Path, line: str, said: str
) -> None:
    (here / "own.py").write_text(f"import scalesocket\n\nclass G(scalesocket.Game):\n    {line}\n")
    text = complaint("own:G")
    assert said in text
    assert re.match(r"own.py, line [34]: ", text)


WRAPPED = """
import scalesocket

def keep(_name):
    return lambda kind: kind

class Hall:
    @keep(
        "it"
    )
    @keep("too")
    class G(scalesocket.Game):
        class G:
            def on_join(self, client): return "hello"

        def on_join(self, client):
            return "hello"

class G(scalesocket.Game):
    def on_join(self, client): return "hello"

G = Hall.G
"""


def test_a_class_is_looked_at_wherever_it_stands_and_nothing_else_of_its_file(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was looked for among tokens, which took half of a game's start."""
    monkeypatch.setattr(inspect, "getblock", None)
    (here / "own.py").write_text(WRAPPED)
    assert complaint("own:G").startswith("own.py, line 17: nobody gets what on_join returns")


@pytest.mark.parametrize(
    "code",
    [
        "class G(Game):\n    def __new__(cls, room): return super().__new__(cls)",
        "class K(type):\n    def __call__(cls, room): pass\nclass G(Game, metaclass=K): pass",
    ],
)
def test_a_game_that_cannot_be_made_without_more_is_refused(here: Path, code: str) -> None:
    """Python's own ways take no more, and are not asked."""
    (here / "own.py").write_text(f"from scalesocket import Game\n{code}\n")
    assert "G() is called without arguments" in complaint("own:G")


LATE = """
from scalesocket import Game

class G(Game):
    tick_rate = 0
    def on_create(self, room): self.begin()
    def begin(self): self.tick_rate = 5
    def on_tick(self, dt): pass
    def on_message(self, client, message):
        if message:
            self.tick_rate = 20
"""


def test_a_tick_rate_that_is_changed_too_late_is_named_with_its_line(here: Path) -> None:
    """There were no ticks, or as many as before, and no word of it."""
    (here / "own.py").write_text(LATE)
    said = "own.py, line 11: tick_rate is looked at when on_create has returned, and never again"
    assert complaint("own:G") == said


def test_a_game_whose_init_python_has_written_is_named_with_its_line(here: Path) -> None:
    """It was "<string>, line 2"."""
    (here / "own.py").write_text(
        "import dataclasses\nimport scalesocket\n\n"
        "@dataclasses.dataclass\nclass G(scalesocket.Game):\n    size: int\n"
    )
    assert re.match(r"own.py, line [45]: G\(\) is called without arguments", complaint("own:G"))


def test_a_base_of_ones_own_is_looked_at_too(here: Path) -> None:
    (here / "base.py").write_text(
        "from scalesocket import Game\n\nclass Base(Game):\n    def on_jion(self, client): pass\n"
    )
    (here / "own.py").write_text("from base import Base\n\nclass G(Base):\n    pass\n")
    assert complaint("own:G").startswith("base.py, line 4: nothing calls on_jion")


def test_a_class_that_is_abstract_is_told_what_it_lacks(here: Path) -> None:
    """It was served, and failed as soon as somebody came."""
    (here / "own.py").write_text(
        "import abc\nimport scalesocket\n\nclass Base(scalesocket.Game, abc.ABC):\n"
        "    @abc.abstractmethod\n    def score(self): ...\n"
        "    @abc.abstractmethod\n    def move(self): ...\n\n"
        "class G(Base):\n    def move(self): pass\n\n"
        "class Whole(G):\n    def score(self): pass\n"
    )
    assert complaint("own:G") == "own.py, line 10: G is abstract, as it has no score"
    assert complaint("own:Base") == "own.py, line 4: Base is abstract, as it has no move, score"
    assert parse_command_line(["own:Whole"]).game is not None


RIGHT = """
import functools
from scalesocket import Game

def set_up(game): game.begin_slowly() or Setting(game)

class Setting:
    def __init__(self, game): game.begin_fast()

class Mixin:
    def on_message(self, *arguments): self.on_joined()

class G(Mixin, Game):
    tick_rate = 2
    on_tick = None or (lambda self, dt: None)
    def on_message(self, client, message):
        def name():
            return "ann"
        return self.on_joined() or [name(), lambda: "bob"] and None
    on_click = None
    def __init__(self, size=3): self.on_ticks = size
    def on_join(self, client, *, quiet=False): [self.on_tickk() for _ in ()]
    def on_tickk(self): pass
    def on_joined(self): pass
    def on_joins(self): pass
    def on_open(self, chest): pass
    def on_create(self, room):
        self.metadata = {}
        self.metadata["n"] = 1
        room.metadata = self.metadata
        room.call_later(1, self.on_joins)
        room.call_soon(*[self.on_joins])
        def later():
            self.tick_rate = 3
        later()
        room.call_later(self.number, self.on_joins)
        set_up(self)
        self.bot = self.Bot()
    def number(self): yield 1
    def begin_slowly(self): self.tick_rate = 1
    def begin_fast(self): self.tick_rate = 9
    def look_round(self):
        for room in self.places:
            room.metadata["seen"] = True
    class Bot:
        def on_message(self, text): return "what it says to the game"
        def hurry(self): self.tick_rate = 3
        def enter(self): self.room.metadata["seen"] = True
    on_auth = staticmethod(lambda request: True)
    on_leave = staticmethod(lambda client, code: None)
"""


def test_whatever_can_be_called_is_right(here: Path) -> None:
    (here / "own.py").write_text(RIGHT)
    assert parse_command_line(["own:G"]).game is not None


@pytest.mark.parametrize(
    "hook",
    [
        "on_auth = classmethod(lambda cls, request: True)",
        "def on_auth(cls, request): raise PermissionError('closed for today')",
        "def on_auth(cls, request): return None if request.query else 'ann'",
        "def on_auth(cls, request): pass\nclass G(G):\n    on_auth = classmethod(bool)",
    ],
)
def test_who_says_no_to_some_or_on_purpose_may_do_so(here: Path, hook: str) -> None:
    method = "@classmethod\n    " if hook.startswith("def") else ""
    code = f"from scalesocket import Game\n\nclass G(Game):\n    {method}{hook}\n"
    (here / "own.py").write_text(code)
    assert parse_command_line(["own:G"]).game is not None


TICKS = (
    "tick_rate = 5",
    "tick_rate = 0",
    "tick_rate = property(lambda self: 5)",
    "def on_create(self, room): self.tick_rate = 5",
    "def __init__(self, rate=5): self.tick_rate = rate",
)


@pytest.mark.parametrize("rate", TICKS)
def test_a_tick_rate_may_be_said_anywhere(here: Path, rate: str) -> None:
    (here / "base.py").write_text(
        f"from scalesocket import Game\n\nclass Base(Game):\n    {rate}\n"
    )
    (here / "own.py").write_text(
        "from base import Base\n\nclass G(Base):\n    def on_tick(self, dt): pass\n"
    )
    assert parse_command_line(["own:G"]).game is not None


# ==== Classes and modules that are not there =============================================

GAME = "from scalesocket import Game\n\nclass Treasure(Game):\n    pass\n"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("treasure:Treasur", "treasure.py has no class Treasur; did you mean Treasure?"),
        ("treasure:Chest", "treasure.py has no class Chest; it has Treasure"),
        ("treasur:Treasure", "there is no module 'treasur'; did you mean treasure?"),
        ("treasure.py:Treasure", "say treasure:CLASS"),
        ("treasure:x", "treasure.py: x is of type int, but no subclass of scalesocket.Game"),
        ("treasure:Plain", "treasure.py: Plain is a class, but no subclass of scalesocket.Game"),
        ("sys:Game", "sys has no class Game"),  # a module that comes from no file
        ("treasure.py", "treasure.py, line 3: Treasure is a Game, not a program: serve treasure:T"),
        ("treasure.yp", "did you mean treasure.py?"),
        ("treasure", "'treasure'; did you mean treasure.py?"),  # not "treasure?", which it was
        ("./treasure", "'./treasure'; did you mean ./treasure.py?"),
        ("treasur", "'treasur'; did you mean treasure.py?"),
        ("gmae.py", "did you mean game.py?"),
        ("snak", "did you mean snake?"),
        ("nothing-like-it", "command 'nothing-like-it'"),
    ],
)
def test_a_target_that_is_not_there_is_told_what_is(here: Path, target: str, said: str) -> None:
    (here / "treasure.py").write_text(GAME + "x = 1\nclass Plain: pass\n")
    text = complaint(target)
    assert said in text
    assert ("did you mean" in text) == ("did you mean" in said)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("pk/treasure.py:Treasure", "'; did you mean pk.treasure:Treasure?"),
        ("./pk/treasure:Treasure", "'; did you mean pk.treasure:Treasure?"),
        ("../{here}/pk/treasure.py:Treasure", "'; did you mean pk.treasure:Treasure?"),
        ("../other.py:Other", "'; in .. it is other:Other"),
        ("pk/chest.py:Treasure", "command 'pk/chest.py:Treasure'"),
        ("pk/:Treasure", "command 'pk/:Treasure'"),
        (f"{'x' * 300}/a:Treasure", "/a:Treasure'"),
    ],
)
def test_a_class_that_is_named_with_its_file_is_told_how(
    here: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    """`pk/treasure.py:Treasure` was not there, and the file was."""
    (here / "in" / "pk").mkdir(parents=True)
    (here / "in" / "pk" / "treasure.py").write_text(GAME)
    (here / "other.py").write_text(GAME)
    monkeypatch.chdir(here / "in")
    assert complaint(target.format(here="in")).endswith(said)


def test_a_module_of_a_package_is_told_where_it_is_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "pk").mkdir()
    (here / "pk" / "rules.py").write_text("X = 1\n")
    (here / "pk" / "own.py").write_text(f"from .rules import X\n{GAME}")
    (here / "pk" / "wrong.py").write_text(f"from .ruels import X\n{GAME}")
    assert ", line 1: there is no module 'pk.ruels'; did you mean rules?" in complaint("pk.wrong:G")
    assert parse_command_line(["pk.own:Treasure"]).game is not None
    monkeypatch.chdir(here / "pk")
    text = complaint("own:Treasure")
    assert text.endswith("package; it has one if you serve pk.own:CLASS in the folder above")


@pytest.mark.parametrize("name", ["json", "types", "scalesocket"])
def test_a_file_with_the_name_of_another_module_is_told_of(here: Path, name: str) -> None:
    """The server had that one already, and its file "has no class" was all that one heard."""
    (here / f"{name}.py").write_text(GAME)
    text = complaint(f"{name}:Treasure")
    assert " has no class Treasure; it is not " in text and f"it is not {name}.py here" in text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nfor line in\n", "own.py, line 2: "),
        ("print('hello'\n", "own.py, line 1: "),
        ("if 1:\nprint()\n", "own.py, line 2: "),
        ("x = '\xe9'\n".encode("latin-1"), "own.py"),
    ],
)
def test_a_program_that_is_no_python_is_named_with_its_line(
    here: Path, code: str | bytes, said: str
) -> None:
    """It was served, and ended with 1011 as soon as somebody came."""
    (here / "own.py").write_bytes(code if isinstance(code, bytes) else code.encode())
    text = complaint("./own.py")
    assert text.startswith("cannot run own.py: ") and said in text


BLOCK = "# /// script\n# [tool.scalesocket]\n# json = true\n# ///\n"


def test_a_program_with_options_of_its_own_is_looked_at_too(here: Path) -> None:
    """With a block of options, what is no Python or is a game was served all the same."""
    (here / "own.py").write_text(BLOCK + "for line in\n")
    assert complaint("own.py").startswith("cannot run own.py: own.py, line 5: ")
    (here / "own.py").write_text(BLOCK + GAME)
    assert complaint("own.py").startswith("own.py, line 7: Treasure is a Game, not a program")


def test_a_block_of_options_may_be_the_first_after_a_byte_order_mark(here: Path) -> None:
    """Some editors write one. The options went unheard."""
    (here / "own.py").write_bytes(b"\xef\xbb\xbf" + BLOCK.encode())
    assert parse_command_line(["own.py"]).clientframe == "json"


def test_whatever_python_runs_is_run(here: Path, recwarn: pytest.WarningsRecorder) -> None:
    for code in (b"", b"\xef\xbb\xbfx = 1\n", b"# coding: latin-1\nx = '\xe9'\n", b"x = '\\d'\n"):
        (here / "own.py").write_bytes(code)
        assert parse_command_line(["./own.py"]).command[-1].endswith("own.py")
    assert not recwarn.list


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere the first line means nothing")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("#!/nowhere/python\n", "; its first line names /nowhere/python, which is not there"),
        ("#!/bin/sh\r\ncat\r\n", "; its lines end with \\r\\n, as on Windows"),
        ("cat\n", "; its first line must name what runs it, as in #!/bin/sh"),
        ("", "; its first line must name what runs it, as in #!/bin/sh"),
    ],
)
def test_a_script_that_cannot_be_started_is_told_why(here: Path, code: str, said: str) -> None:
    """It was "No such file or directory", of a file that is there."""
    (here / "own").write_bytes(code.encode())
    (here / "own").chmod(0o755)
    with serve("./own", cwd=here) as server, RawClient.connect(server) as client:
        code_sent, reason = client.wait_close()
        assert code_sent == 1011
        assert reason.startswith("cannot start ./own: ") and reason.endswith(said)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere the first line means nothing")
@pytest.mark.parametrize("option", ["--linebuffer=off", "--binary", "--tcp", "--pty"])
def test_it_is_told_however_it_is_connected(here: Path, option: str) -> None:
    """With --pty players saw a traceback of the server's own, and the log said "status 1"."""
    (here / "own").write_bytes(b"#!/bin/sh\r\ncat\r\n")
    (here / "own").chmod(0o755)
    with serve(option, "./own", cwd=here) as server, RawClient.connect(server) as client:
        assert client.wait_close()[0] == 1011
        server.wait_log(r"cannot start ./own: .*; its lines end with \\r\\n, as on Windows")


def test_of_a_program_that_is_no_script_nothing_is_said(here: Path) -> None:
    (here / "binary").write_bytes(b"\x7fELF\x02\x01\0\n")
    for name in (here / "binary", here / "gone", "/bin/sh"):
        assert linebuffer.explain_start(str(name)) == ""


def test_where_the_first_line_means_nothing_none_is_blamed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "own.bat").write_text("echo hello\r\n")
    monkeypatch.setattr(linebuffer, "POSIX", False)
    assert linebuffer.explain_start("own.bat") == ""


def test_a_program_that_has_a_game_too_is_run(here: Path) -> None:
    (here / "both.py").write_text(GAME + "for line in open(0):\n    print(line)\n")
    (here / "guarded.py").write_text(GAME + "if __name__ == '__main__':\n    main()\n")
    (here / "own.py").write_text(GAME + "def play(): print('hi')\nplay()\n")
    (here / "loop.py").write_text(GAME + "import sys\nwhile x := sys.stdin.readline(): pass\n")
    (here / "other.py").write_text(
        "# scalesocket\nclass Game: pass\nclass Mine(Game): pass\nmain()\n"
    )
    (here / "console.py").write_text(GAME + "class Console: pass\nConsole().cmdloop()\n")
    (here / "later.py").write_text(GAME + "async def go(): pass\nasyncio.run(go())\n")
    for name in ("both", "guarded", "own", "loop", "other", "console", "later"):
        assert parse_command_line([f"{name}.py"]).game is None


@pytest.mark.parametrize(
    "code",
    [
        "class Game: pass\nclass Chess(Game): pass\nif __name__ == '__main__': Chess().play()\n",
        "class Game: pass\nclass Chess(Game): pass\ngame = Chess()\ngame.play()\n",
        "from engine import Game\nclass Chess(Game): pass\ngame = Chess()\ngame.play()\n",
    ],
)
def test_a_program_with_a_game_that_is_not_of_this_server_is_run(here: Path, code: str) -> None:
    """Whatever was called `Game` was taken for that of this server: it was refused."""
    (here / "chess.py").write_text(code)
    assert parse_command_line(["chess.py"]).game is None


@pytest.mark.parametrize(
    "code",
    [
        "import scalesocket as ss\nclass G(ss.Game): pass\n",
        "from scalesocket import Game as Base\nclass G(Base): pass\n",
        "from scalesocket import Game\nclass G(Game): pass\nrandom.seed(1)\n",
        "from scalesocket import Game\nclass G(Game): pass\nfor n in range(9): WORDS.append(n)\n",
        "from scalesocket import Game\nclass G(Game): pass\nif __name__ == '__main__': G().run()\n",
        "from scalesocket import Game\nclass G(Game): pass\nclass H(G): pass\nH.words.clear()\n",
    ],
)
def test_a_game_that_is_named_as_a_program_is_told_however_it_is_written(
    here: Path, code: str
) -> None:
    """It was run as a program, which ended at once or found no module `scalesocket`."""
    (here / "own.py").write_text(code)
    assert complaint("own.py").startswith("own.py, line 2: G is a Game, not a program: serve own:G")


BLOCKS = {
    "no spaces": "#/// script\n#[tool.scalesocket]\n#json = true\n#///\n",
    "no end": "# /// script\n# [tool.scalesocket]\n# json = true\n",
    "a gap": "# /// script\n# [tool.scalesocket]\n\n# json = true\n# ///\n",
    "another word": "# /// Script\n# [tool.scalesocket]\n# json = true\n# ///\n",
}


LOST = "own.py, line 2: this is read only between a line `# /// script` and a line `# ///`"


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_of_options_that_is_none_is_told_of(
    here: Path, caplog: pytest.LogCaptureFixture, block: str
) -> None:
    """It was a comment, and the program was served without its options."""
    (here / "own.py").write_text(f"{block}print('hi')\n")
    idle_options.warn_of_options(parse_command_line(["own.py"]), ["own.py"])
    assert [record.getMessage()[: len(LOST)] for record in caplog.records] == [LOST]


def test_an_interpreter_without_a_program_is_served(caplog: pytest.LogCaptureFixture) -> None:
    """It ended with a traceback: the program's block of options was looked for."""
    words = [sys.executable, "--", "-u"]
    idle_options.warn_of_options(parse_command_line(words), words)
    assert not caplog.records


def test_a_game_whose_block_of_options_is_none_is_told_of_that(here: Path) -> None:
    """It was told to have the block that it has."""
    code = "from scalesocket import Game\nclass G(Game): pass\n"
    (here / "own.py").write_text(BLOCKS["no end"].replace("json = true", 'game = "G"') + code)
    assert complaint("own.py").startswith(LOST)


def test_a_block_of_options_in_a_text_is_none(here: Path) -> None:
    (here / "own.py").write_text(f'"""Begin with\n{BLOCKS["no end"]}"""\nprint("hi")\n')
    assert parse_command_line(["own.py"]).clientframe == ""


def test_a_command_of_many_megabytes_is_not_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of `node` was read at the start, to see whether it is a game."""
    (here / "binary").write_bytes(b"#!/bin/sh\n")
    (here / "binary").chmod(0o755)
    with monkeypatch.context() as closed:
        closed.setattr(Path, "read_bytes", Mock(side_effect=AssertionError("it was read")))
        assert parse_command_line(["./binary"]).command == ("./binary",)


IMPORTS = [
    ("x = 1\ndef f(:\n", "own.py, line 2: invalid syntax: def f(:"),
    ("x = 1\n  y = 2\n", "own.py, line 2: unexpected indent: y = 2"),
    ("import randm\n", "own.py, line 1: there is no module 'randm'; did you mean random?"),
    ("from scalesockets import Game\n", "'scalesockets'; did you mean scalesocket?"),
    ("import own_rule\n", "did you mean own_rules?"),
    ("import nowhere_at_all\n", f"for {sys.executable}; is it installed?"),
    ("from scalesocket import Gme\n", "scalesocket has no Gme; did you mean Game?"),
    ("import json\n\njson.loads('x')\n", "own.py, line 3: json.decoder.JSONDecodeError"),
    ("x = 1\nx.y()\n", "own.py, line 2: AttributeError: 'int' object"),
    ("import own_rules\n", "own_rules.py, line 1: ZeroDivisionError"),
    ("raise SystemExit('no')\n", "own.py, line 1: SystemExit: no"),
    (
        '# /// script\n# dependencies = ["chess>=1", "x"]\n# ///\nimport chess_\n',
        "own.py, line 4: there is no module 'chess_': pip install 'chess>=1' x",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "said"), IMPORTS, ids=[said for _, said in IMPORTS])
def test_an_import_that_fails_is_named_with_its_line(here: Path, code: str, said: str) -> None:
    (here / "own_rules.py").write_text("1 / 0\n")
    (here / "own.py").write_text(code)
    text = complaint("own:G")
    assert text.startswith("cannot import own:G: ")
    assert said in text


LISTED = '"""A program."""\n# /// script\n# dependencies = ["chess>=1", "x"]\n# ///\n'


def test_an_import_of_a_file_with_null_bytes_is_named_once(here: Path) -> None:
    """Python does not say where they are: there were two colons with nothing in between."""
    (here / "own.py").write_bytes(b"x\0y")
    assert re.fullmatch(
        r"cannot import own:G: (own\.py, line 1: )?source code.* null bytes.*", complaint("own:G")
    )


SLOW = """import sys, time
from scalesocket import Game

class G(Game): pass

for _ in range(3000):
    if "own.py" in sys.stderr.getvalue(): break
    time.sleep(0.01)
"""


def test_an_import_that_takes_long_is_told_with_its_line(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was said, and nothing was served."""
    (here / "own.py").write_text(SLOW)
    monkeypatch.setattr(mistakes, "SLOW_IMPORT", 0.05)
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    assert parse_command_line(["own:G"]).game is not None
    assert re.fullmatch(
        r"scalesocket: still importing own:G: own\.py, line [678]\n", said.getvalue()
    )


@pytest.mark.slow
def test_what_would_tell_of_a_slow_import_is_gone_once_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--workers forks, which must not happen beside another thread."""
    timers: list[threading.Timer] = []
    returned = threading.Event()

    class Slow(threading.Timer):
        def run(self) -> None:
            timers.append(self)
            super().run()
            returned.wait(1)

    monkeypatch.setattr(threading, "Timer", Slow)
    assert mistakes.load_patiently(lambda: "module", "own") == "module"
    alive = [timer for timer in timers if timer.is_alive()]
    returned.set()
    assert timers and not alive


def test_a_relative_import_in_a_file_is_told_the_cure(here: Path) -> None:
    """ "serve project./srv/project/own.py:CLASS in the folder above" was the hint."""
    block = '# /// script\n# [tool.scalesocket]\n# game = "G"\n# ///\n'
    (here / "own.py").write_text(f"{block}from .rules import X\n")
    assert complaint("own.py").endswith("without the dot, or have an __init__.py in the folder")


def test_a_program_without_its_packages_is_told_how_to_come_by_them(here: Path) -> None:
    """It was served, and its traceback was all there was, once somebody had come."""
    (here / "own_rules.py").write_text("")
    begin = f"{LISTED}import sys, email.message, own_rules, pytest\n"
    (here / "own.py").write_text(f"{begin}from chess_.moves import pawn\n")
    said = "own.py, line 6: there is no module 'chess_.moves': pip install 'chess>=1' x"
    assert complaint("own.py") == f"cannot run own.py: {said}"


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    import chess_\nexcept ImportError:\n    pass\n",
        "def later():\n    import chess_\n",
        "import sys\nsys.path.append('elsewhere')\nimport chess_\n",
        "from . import chess_\n",
        "import __main__\n",
    ],
)
def test_a_module_that_a_program_may_find_or_do_without_is_not_missed(
    here: Path, code: str
) -> None:
    (here / "own.py").write_text(f"{LISTED}{code}")
    assert parse_command_line(["own.py"]).game is None


def test_what_an_example_needs_is_named_with_its_command(tmp_path: Path) -> None:
    hidden = "import scalesocket, sys; sys.modules['msgpack'] = None; sys.exit(scalesocket.main())"
    ended = subprocess.run(
        [sys.executable, "-c", hidden, "sandbox"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.fspath(HERE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "pip install msgpack" in ended.stderr
    assert ended.stderr.count("sandbox.py") == 1
    assert len(ended.stderr.splitlines()) == 1
    assert ended.returncode != 0


# ==== Options ============================================================================


def test_an_option_that_is_not_there_is_told_which_is(here: Path) -> None:
    assert complaint("--drian=5", "cat") == "there is no option --drian=5; did you mean --drain?"
    assert complaint("--port=80", "cat") == "there is no option --port=80; did you mean --addr?"
    assert complaint("-p", "80", "cat") == "there is no option -p; did you mean --addr?"
    behind = "; those of the program stand behind --"
    assert complaint("--zzz", "cat") == f"there is no option --zzz{behind}"
    assert complaint("cat", "-u") == f"there is no option -u{behind}"
    behind = "; arguments stand behind --"
    value = "'json' the first: a value of --frame would be --frame=json"
    assert complaint("--frame", "json", "cat") == f"'cat' is a second TARGET, {value}{behind}"
    assert complaint("cat", "--trace", "-v", "game.py") == f"'game.py' is a second TARGET{behind}"
    block = "# /// script\n# [tool.scalesocket]\n# stticdir = 'x'\n# ///\n"
    (here / "own.py").write_text(block)
    assert "did you mean staticdir?" in complaint("own.py")
    (here / "own.py").write_text(block.replace("stticdir", "zzz"))
    assert "zzz" in complaint("own.py") and "behind --" not in complaint("own.py")


@pytest.mark.parametrize("option", ["--addr", "--tcplisten", "--header"])
def test_two_dashes_are_no_value(option: str) -> None:
    """The server ended with a traceback, or did without that header field."""
    for words in ([f"{option}=--"], ["--header=A: b", "--addr=:0", f"{option}=--"]):
        assert complaint(*words, "cat").startswith(f"argument {option}: ")


@pytest.mark.parametrize("entry", ["delimiters = [';', '|']", "joinmsg = ['a', 'b']"])
def test_a_list_in_a_block_is_refused_where_one_value_is_wanted(here: Path, entry: str) -> None:
    """Its members were joined by commas, and a comma became a delimiter, too."""
    (here / "own.py").write_text(f"# /// script\n# [tool.scalesocket]\n# {entry}\n# ///\n")
    name, _, value = entry.partition(" = ")
    assert complaint("own.py").endswith(f"{name} must be one value, not the list {value}")


def test_a_folder_is_told_which_script_in_it_may_be_meant(here: Path) -> None:
    """It was "did you mean game?", to who had just made the folder mygame."""
    (here / "mygame").mkdir()
    assert complaint("mygame").endswith("command 'mygame': it is a folder")
    (here / "mygame" / "mygame.py").write_text("")
    script = os.path.join("mygame", "mygame.py")
    for target in ("mygame", "./mygame", "mygame/"):
        assert complaint(target).endswith(f": it is a folder; did you mean {script}?")


@pytest.mark.parametrize("option", ["--addr", "--tcplisten"])
def test_a_port_in_use_is_told_how_to_take_another(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [option, f"127.0.0.1:{port}", "cat"]
        words += ["--addr", "127.0.0.1:0"] if option == "--tcplisten" else []
        ended = run_cli(*words)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"scalesocket: cannot listen at 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}; "
        f"another port: {option} 127.0.0.1:{port % 65535 + 1}\n"  # not open to more than was asked
    )


@pytest.mark.parametrize(
    ("called", "shown"),
    [("bin/scalesocket", "scalesocket"), ("x/scalesocket.py", "python3 scalesocket.py")],
)
def test_help_shows_the_command_that_was_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], called: str, shown: str
) -> None:
    """Who has installed it has no scalesocket.py in the folder."""
    monkeypatch.setattr(sys, "argv", [called, "--help"])
    with pytest.raises(SystemExit):
        scalesocket.main()
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {shown.removeprefix('python3 ')} [OPTIONS] TARGET")
    assert f"\n  {shown} new mygame  " in text
    assert ("scalesocket.py" in text) == shown.endswith(".py")


def test_help_lists_the_examples() -> None:
    listed = re.search(r"^Bundled examples: (.*)\.$", examples.BUNDLED, re.MULTILINE)
    assert listed is not None
    files = filter(examples.is_example, (HERE / "game").glob("*.py"))
    names = sorted(word.removesuffix(".py") for word in listed[1].split(", "))
    assert names == sorted(path.stem for path in files)


# ==== What is found only when a hook is called ===========================================


@pytest.mark.parametrize("message", [{"a": 1}, 5, None, ["a"]])
def test_a_message_is_text_or_bytes(message: object) -> None:
    kind = type(message).__name__
    with pytest.raises(TypeError, match=f"not {kind}: send_json"):
        PLAIN.encode_message(message)


SENDING = """
from scalesocket import Game

class G(Game):
    def on_join(self, client):
        client.send_json({"n": [1, "é"]})
    def on_message(self, client, message):
        self.answer(client)
    def answer(self, client):
        client.send({"a": 1})
"""


def test_a_hook_that_fails_is_one_line_with_its_place(here: Path) -> None:
    (here / "own.py").write_text(SENDING)
    with (
        serve("own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.receive_text() == '{"n":[1,"\\u00e9"]}'
        client.send_text("go")
        code, reason = client.wait_close()
        assert (code, reason) == (1011, "the game failed")  # no path is a stranger's business
        line = "the game failed: own.py, line 10: TypeError: a message is str or bytes, not dict"
        wait_until(lambda: any(line in logged for logged in server.log()))


def test_a_failure_of_our_client_is_told_with_the_line_that_has_called_it(here: Path) -> None:
    """The log named the client's own line: a game may be a client of another server."""
    (here / "own.py").write_text(
        "from scalesocket import Game\n"
        "from scalesocket.client.websocket import connect\n"
        "class G(Game):\n"
        "    def on_join(self, client):\n"
        "        connect('http://localhost/up')\n"
    )
    with (
        serve("own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.wait_close() == (1011, "the game failed")
        server.wait_log(r"the game failed: own\.py, line 5: .*InvalidURL")


@pytest.mark.parametrize(
    ("file", "own"),
    [
        (str(HERE / "network.py"), True),  # it was taken for the folder net/
        (str(HERE / "net" / "rooms.py"), False),
        (str(HERE / "client" / "websocket.py"), False),
        ("/usr/lib/python3/dist-packages/msgpack/fallback.py", False),
        (os.__file__, False),
    ],
)
def test_what_code_is_the_users_own(file: str, own: bool) -> None:
    assert mistakes.is_own(file) is own


MISUSED = [
    (
        "def on_create(self, room): room.call_later(0, self.step)\n    def step(self, dt): pass",
        "the game failed: own.py, line 4: TypeError: G.step() missing 1 required",
    ),
    (
        "def on_create(self, room): room.call_soon(self.step, 1)\n    def step(self): pass",
        "the game failed: own.py, line 4: TypeError: G.step() takes 1 positional argument but 2",
    ),
    (
        "tick_rate = property(lambda self: '20')",
        "the game failed: own.py, line 2: tick_rate is a number from 0 on, not '20'",
    ),
    (
        "def __init__(self): self.tick_rate = None",
        "the game failed: own.py, line 2: tick_rate is a number from 0 on, not None",
    ),
    (
        "def __init__(self): self.on_join = lambda: None",
        "the game failed: own.py, line 3: TypeError: G.__init__.<locals>.<lambda>() takes 0",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "said"), MISUSED, ids=[line for line, _ in MISUSED])
def test_what_a_game_gives_the_server_and_it_cannot_use_is_told_too(
    here: Path, line: str, said: str
) -> None:
    """No line of the game's own has failed; "the game failed" was all that was said."""
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {line}\n")
    with (
        serve("own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.wait_close() == (1011, "the game failed")
        wait_until(lambda: any(said in logged for logged in server.log()))


ATTRIBUTES = [
    ("self.room.send('x')", "no attribute 'send'; did you mean room.broadcast?"),
    ("client.broadcast('x')", "no attribute 'broadcast'; did you mean room.broadcast?"),
    ("client.parameters", "'parameters'; did you mean client.request.parameters?"),
    ("[it.send('x') for it in self.room.clients]", "it may be an ID: room.clients[ID] is a client"),
    ("self.room.broadcast('x', exclude=[client.id])", "room.clients.values() are all"),
    ("self.room.broadcast('x', exclude=client)", "exclude is a list: exclude=[client]"),
    ("client.room.broadcast('x')", "the server's own: use the room of on_create(self, room)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "said"), ATTRIBUTES, ids=[line for line, _ in ATTRIBUTES])
def test_what_a_client_or_a_room_has_not_is_told_where_it_is(
    here: Path, line: str, said: str
) -> None:
    hooks = f"def on_create(self, room): self.room = room\n    def on_join(self, client): {line}"
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hooks}\n")
    with (
        serve("own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.wait_close() == (1011, "the game failed")
        wait_until(lambda: any(said in logged for logged in server.log()))


ODD = """
from scalesocket import Game

class OddError(TypeError):
    def __str__(self): return self.nothing

class Odd:
    __class__ = property(lambda self: 1 / 0)
    def __dir__(self): return 1 / 0

class G(Game):
    def on_message(self, client, message):
        if message == "text":
            raise OddError()
        Odd().nothing
"""


@pytest.mark.slow
@pytest.mark.parametrize("message", ["text", "attribute"])
def test_what_cannot_be_described_ends_its_room_as_any_other_failure(
    here: Path, message: str
) -> None:
    """What asked for it failed, too: the room never ended, and its clients waited for ever."""
    (here / "own.py").write_text(ODD)
    with (
        serve("own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        client.send_text(message)
        assert client.wait_close() == (1011, "the game failed")


@pytest.mark.slow
def test_a_game_that_has_not_kept_its_room_is_told_how(here: Path) -> None:
    hook = "def on_join(self, client): self.room.broadcast('x')"
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    with (
        serve("own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.wait_close() == (1011, "the game failed")
        said = "no attribute 'room'; keep it: def on_create(self, room): self.room = room"
        wait_until(lambda: any(said in logged for logged in server.log()))


UNAWAITED = [
    "def on_join(self, client): self.go()\n    async def go(self): pass",
    "def on_create(self, room): room.call_later(0, lambda: self.go())\n"
    "    async def go(self): pass",
    "def on_create(self, room): self.on_join = self.go\n    async def go(self, client): pass",
]


@pytest.mark.slow
@pytest.mark.parametrize("hook", UNAWAITED)
def test_an_async_function_that_nobody_awaits_is_a_line_of_the_log(here: Path, hook: str) -> None:
    """Python wrote a warning among the lines, with a line of this server in it."""
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    with serve("own:G", cwd=here) as server, RawClient.connect(server, path="/x"):
        said = "[ERROR] coroutine 'G.go' was never awaited, so it did nothing: "
        wait_until(lambda: any(logged.startswith(said) for logged in server.log()))
        assert not any("RuntimeWarning" in logged for logged in server.log())


@pytest.mark.slow
def test_a_hook_that_never_ends_is_told_when_the_server_does(here: Path) -> None:
    """The room was named, and not what it was waiting for."""
    hook = (
        "def on_message(self, client, message):\n"
        "        print('it begins', flush=True)\n        while True: pass"
    )
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    words = with_constants(END_TIMEOUT=0.1)
    with (
        serve("own:G", cwd=here, command=words) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        client.send_text("go")
        wait_until(lambda: "it begins" in server.output())
        server.process.send_signal(signal.SIGINT)
        server.wait_log(r"did not end within .*: x \(its game is at own\.py, line 5\)")
        client.sock.close()
        assert server.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ("def on_join(self, client)", "  room=x$"),
        ("@classmethod\n    def on_auth(cls, request)", "$"),
    ],
)
@pytest.mark.skipif(FREE, reason="without the interpreter lock nobody looks at a running hook")
def test_a_hook_that_does_not_return_is_told_of_while_it_hangs(
    here: Path, hook: str, where: str
) -> None:
    """The room stood still, or nobody was let in, and until the server's end nothing was said."""
    head = f"import os\nfrom scalesocket import Game\nclass G(Game):\n    {hook}:\n"
    body = "        while not os.path.exists('go'): pass\n        return True\n"
    (here / "own.py").write_text(head + body)
    name, line = re.findall(r"on_\w+", hook)[0], head.count("\n") + 1
    words = with_constants("scalesocket.net.hung", HUNG_TIME=0.05)
    with (
        serve("own:G", cwd=here, command=words) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        client = pool.submit(RawClient.connect, server, path="/x")
        said = rf"^\[WARN\] G\.{name} has not returned for more than 0\.05 s: it is at "
        try:
            server.wait_log(rf"{said}own\.py, line {line}{where}")
        finally:
            (here / "go").touch()
        with client.result() as come:
            come.close()


def test_a_hook_that_does_not_return_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each call of one is another: a hook that is often called does not hang."""
    goes_on, begun = threading.Event(), threading.Semaphore(0)

    class Own(Game):
        def on_dispose(self) -> None:
            begun.release()
            goes_on.wait()

    def call() -> threading.Thread:
        thread = threading.Thread(target=backend.stop)
        thread.start()
        assert begun.acquire(timeout=PATIENCE)
        return thread

    backend: Any = GameBackend(Own)
    backend.game, backend._room = Own(), Mock()
    server: Any = Mock(is_ending=True)
    server.registry.running = set()
    hooks, said = HungHooks(server), list[int]()
    for _ in range(2):
        thread = call()
        try:
            for _ in range(3):
                hooks.look()
                said.append(caplog.text.count("Own.on_dispose has not returned"))
        finally:
            goes_on.set()
            thread.join()
            goes_on.clear()
    assert said == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("room.call_later(1.0)", "GameRoom.call_later() missing"),
        ("room.brodcast('x')", "'GameRoom' object has no attribute 'brodcast'"),
    ],
)
def test_errors_call_a_room_by_the_name_that_a_game_imports(
    here: Path, call: str, said: str
) -> None:
    """They spoke of a class that stands in no documentation."""
    hook = f"def on_create(self, room): {call}"
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    with (
        serve("own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.wait_close()[0] == 1011
        server.wait_log(re.escape(said))


@pytest.mark.slow
def test_a_room_that_a_game_closes_without_a_reason_has_one_in_the_log(here: Path) -> None:
    """There was an empty line."""
    hook = "def on_create(self, room): room.close()"
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    with (
        serve("own:G", cwd=here) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.wait_close() == (1000, "")
        server.wait_log(r"\[INFO\] the game has closed the room  room=x")


def test_what_fails_in_a_package_is_told_as_it_is(here: Path) -> None:
    """One of its numbers was called `rate`, as the server calls one: there was a second error."""
    names: dict[str, Any] = {}
    exec(compile("def measure(rate): rate / 0", "/site-packages/p.py", "exec"), names)
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(names["measure"], 3).exception()
    assert error is not None
    assert mistakes.explain_failure(error) == ": ZeroDivisionError: division by zero"


@pytest.mark.parametrize("rate", ["-5", "nan", "inf"])
def test_a_tick_rate_of_which_come_no_ticks_is_told(here: Path, rate: str) -> None:
    """One that a game gives itself is not seen at the start; it was 0, without a word."""
    hook = f"def on_create(self, room): self.tick_rate = float('{rate}')"
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    with serve("own:G", cwd=here) as server, RawClient.connect(server, path="/x"):
        said = f"[WARN] no ticks: tick_rate is a number from 0 on, not {float(rate)}  room=x"
        wait_until(lambda: said in server.log())


@pytest.mark.slow
@pytest.mark.parametrize("state", ["{1, 2}", "[float('nan')]", "{b'a': 1}"])
def test_what_cannot_be_saved_is_told_with_its_place(here: Path, state: str) -> None:
    """ "Object of type set is not JSON serializable" was all, and no word of `on_save`."""
    hook = f"def on_save(self): return {state}"
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    with (
        serve("--store=own.db", "own:G", cwd=here, allow_traceback=True) as server,
        RawClient.connect(server, path="/x"),
    ):
        server.stop()
        said = "failed: own.py, line 3: TypeError: on_save returned what JSON cannot hold: "
        wait_until(lambda: any(said in logged for logged in server.log()))


USELESS = "means nothing to a Game, only to a program: "


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--json", "own:G", "--closegrace=1"], "--json, --closegrace"),
        (["-b", "own:G", "--", "--fast"], "-b, -- ARGS"),
        (["--auth", "cat", "--passenv=A", "--tcp", "own:G"], "--tcp"),
        (["--frame", "own.py"], "--json, --tcp, --frame"),
    ],
)
def test_options_for_programs_are_named_if_there_is_a_game(
    here: Path, words: list[str], named: str
) -> None:
    """Those of a script's own block, too; a module has none."""
    block = BLOCK.replace("json = true", 'json = true\n# tcp = true\n# api = true\n# game = "G"')
    (here / "own.py").write_text(f"{block}from scalesocket import Game\nclass G(Game): pass\n")
    with serve(*words, cwd=here) as server:
        server.stop()
        said = [line.partition(USELESS)[2] for line in server.log() if USELESS in line]
        assert said == [named]


@pytest.mark.parametrize("words", [["--pty"], ["--tcp"], ["--tcp", "--workers=2"]])
def test_options_for_programs_leave_a_game_what_it_is(here: Path, words: list[str]) -> None:
    """Its rooms were to run a program without a name, and nobody came in."""
    hook = 'def on_join(self, client): client.send("hello")'
    (here / "own.py").write_text(f"from scalesocket import Game\nclass G(Game):\n    {hook}\n")
    with serve(*words, "own:G", cwd=here) as server:
        with RawClient.connect(server, path="/x") as client:
            assert client.receive_text() == "hello"
        server.stop()
        assert any(USELESS + words[0] in line for line in server.log())


@pytest.mark.parametrize("words", [["--", "own:G"], ["--api", "own:G", "--"], ["--json", "cat"]])
def test_where_all_words_mean_something_none_is_named(here: Path, words: list[str]) -> None:
    (here / "own.py").write_text(GAME.replace("Treasure", "G"))
    with serve(*words, cwd=here) as server:
        server.stop()
        assert not any(USELESS in line for line in server.log())


@pytest.mark.parametrize(
    ("words", "warns"),
    [(["17M", "cat"], True), (["16M", "cat"], False), (["17M", "own:G"], False)],
)
def test_a_message_that_no_program_can_print_back_is_warned_of(
    here: Path, words: list[str], warns: bool
) -> None:
    """It was let in, `cat` printed it, and the room ended for all with 1011."""
    (here / "own.py").write_text(GAME.replace("Treasure", "G"))
    with serve("--maxmsg", *words, cwd=here) as server:
        server.stop()
        assert any("--maxmsg is over 16777216 bytes" in line for line in server.log()) is warns


# ==== Values =============================================================================


@pytest.mark.parametrize("name", ["api", "a/b", "/", "x" * 129, "a\tb", "\udcff", "favicon.ico"])
def test_a_room_that_nobody_could_enter_is_refused(name: str) -> None:
    """It was taken, and everyone who came was refused."""
    assert f"nobody could enter {name!r} of --rooms: " in complaint("--rooms", f"a,{name}", "cat")


def test_whatever_a_room_may_be_called_may_be_allowed() -> None:
    names = ("café", "a b", "50%", "API", "x" * 128, "?", "a#b")
    assert parse_command_line(["--rooms", ",".join(names), "cat"]).rooms == names


@pytest.mark.parametrize("words", [["--api=1"], ["--spa", "--qr=yes"]])
def test_a_value_of_what_takes_none_is_refused_and_not_ignored(words: list[str]) -> None:
    option, _, value = words[-1].partition("=")
    text = complaint(*words, "cat")
    assert option in text and text.endswith(f": it takes no value such as {value!r}")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--json", "--idfield", "who"], "who"),
        (["--json", "--joinmsg", '{"id":#ID}'], "id"),
        (["--json"], "_from"),
    ],
)
def test_the_messages_of_json_name_a_client_as_all_others_do(words: list[str], field: str) -> None:
    """A program that reads `who` failed at the join message, which said `_from`."""
    assert parse_command_line([*words, "cat"]).leavemsg == f'{{"t":"Leave","{field}":#ID}}'


def test_the_field_may_be_named_in_the_script_and_json_asked_for_elsewhere(here: Path) -> None:
    (here / "own.py").write_text(BLOCK.replace("json = true", 'idfield = "who"') + "print()\n")
    assert parse_command_line(["--json", "own.py"]).joinmsg == '{"t":"Join","who":#ID}'


def test_the_bundled_games_have_no_mistakes() -> None:
    mistakes = scalesocket.load_feature("mistakes", "a test")
    for name in ("snake:Snake", "tictactoe:TicTacToe"):
        mistakes.check_hooks(scalesocket.load_game(f"scalesocket.game.{name}"))
    mistakes.check_hooks(Game)


def test_what_python_has_warned_of_is_not_said_again(here: Path) -> None:
    """It came once more for each look at the source, from a file called <unknown>."""
    (here / "slash.py").write_text(
        'import scalesocket\nX = "\\d"\n\nclass Slash(scalesocket.Game):\n    Y = "\\w"\n'
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert parse_command_line(["slash:Slash"]).game is not None
    assert [warning.filename for warning in told if "escape" in str(warning.message)] == [
        str(here / "slash.py")
    ] * 2
