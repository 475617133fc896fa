"""`scalesocket new NAME`: a folder with a game of one's own that runs, to begin with.

Its files are those of `game/new/`, which run there as they stand, with another name.
"""

from __future__ import annotations

import builtins
import keyword
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalesocket import HERE, ConfigError, OptionParser

from .spelling import did_you_mean

TEMPLATES = HERE / "game" / "new"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
COMMAND = "scalesocket mygame.py"  # in the templates' README
# Packages that run a game or its tests, or that it may want, and would find its file in their
# place: it stands in a folder that Python searches first.
PACKAGES = frozenset(
    ("pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "colorama", "msgpack", "redis")
)
# Modules of which unittest or pytest takes any for one with tests; pytest reads `conftest` first.
TESTS = re.compile(r"test.*|.*_test|conftest")


class Parser(OptionParser):
    """Reads what stands behind `new`, and has a help of its own."""

    def print_help(self, file: Any = None) -> None:
        """Print how a folder is made."""
        print(self.format_help(), end="", file=file, flush=True)


def create(arguments: Sequence[str]) -> int:
    """Make the folder that a command line asks for, say how to go on, and return the exit status.

    Raises:
        ConfigError: the name cannot be one, or the folder is there already.
        SystemExit: help was asked for, and printed.
    """
    command = shlex.join([*own_command(Path()), "new"])
    parser = Parser(
        prog=command,
        usage=f"{command} [--program] NAME",
        description="Make a folder NAME with a game, its page, a test and a README.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="letters, digits, - and _; a letter first")
    kind = "a program that reads lines and prints lines, in place of a Game inside the server"
    parser.add_argument("--program", action="store_true", help=kind)
    options, unknown = parser.parse_known_args(arguments)
    for word in sorted(unknown, key=lambda word: not word.startswith("-")):
        if word.startswith("-"):
            hint = did_you_mean(word, ["--program", "--help"])
            raise ConfigError(f"`{command}` has no option {word}{hint}")
        raise ConfigError(f"{options.name!r} is the NAME; {word!r} is one more")
    words = words_for(options.name)
    write_files(options.name, "program" if options.program else "game", words)
    print(
        f"{options.name}/ has a game, its page, a test and a README. Run it, and open the address:"
    )
    print(f"  cd {options.name}\n  {words[COMMAND]}", flush=True)
    return 0


def words_for(name: str) -> dict[str, str]:
    """Return what stands in a new folder in place of the templates' words.

    Raises:
        ConfigError: the name can be none of a folder, a module and a class.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a game: 1 to 40 letters, digits, - and _, a letter first"
        )
    words = re.sub("([a-z0-9])([A-Z])", r"\1 \2", re.sub("[-_]+", " ", name)).split()
    module = re.sub("-", "_", name).lower()
    class_name = "".join(word[0].upper() + word[1:] for word in words)
    taken = {"scalesocket", *sys.stdlib_module_names, *keyword.kwlist}
    if module in taken or class_name in {"RuleError", *taken, *dir(builtins)}:
        raise ConfigError(f"{name!r} is no name for a game: Python means something else by it")
    if module in PACKAGES:
        raise ConfigError(f"{name!r} is no name for a game: {module}.py would hide a package")
    if TESTS.fullmatch(module):
        raise ConfigError(f"{name!r} is no name for a game: {module}.py would be taken for a test")
    title = " ".join(words)
    return {
        COMMAND: shlex.join([*own_command(Path(name)), f"{module}.py"]),
        "MyGame": class_name,
        "mygame": module,
        "My game": title[0].upper() + title[1:],
        "my game": title,
    }


def own_command(folder: Path) -> list[str]:
    """Return how one runs this server in a folder: as it has been run here."""
    script = Path(sys.argv[0])
    if script.suffix != ".py":
        return ["scalesocket"]
    return ["python3", str(script) if script.is_absolute() else os.path.relpath(script, folder)]


def write_files(name: str, kind: str, words: dict[str, str]) -> None:
    """Make the folder.

    Args:
        kind: which templates.
        words: see `words_for`.

    Raises:
        ConfigError: it is there already, or cannot be made.
    """
    pattern = re.compile("|".join(map(re.escape, words)))
    try:
        os.mkdir(name)
        os.mkdir(f"{name}/pages")
        for source, target in ((TEMPLATES / kind, name), (TEMPLATES / "pages", f"{name}/pages")):
            for path in filter(Path.is_file, source.iterdir()):
                text = pattern.sub(lambda found: words[found[0]], path.read_text("utf-8"))
                file = Path(target, path.name.replace("mygame", words["mygame"]))
                file.write_text(text, "utf-8")
    except FileExistsError:
        raise ConfigError(f"{name} is there already; nothing was written") from None
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from None
