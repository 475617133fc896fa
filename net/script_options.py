"""The options that a Python script carries itself, as inline metadata (PEP 723).

    # /// script
    # [tool.scalesocket]
    # json = true
    # staticdir = "pages"
    # ///

An entry is a long option without its dashes. It is spelled as it would stand on a command line, and
read by the same parser. `game` names the script's `Game` class. Paths are relative to the script.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from scalesocket import (
    BARE,
    HERE,
    REPEATABLE,
    ConfigError,
    Game,
    JsonValue,
    build_parser,
    is_program,
    list_options,
)

# The block of PEP 723: comment lines of TOML between `# /// script` and `# ///`.
_SCRIPT_BLOCK = re.compile(r"^# /// script$\s(?P<content>(?:^#(?:| .*)$\s)+?)^# ///$", re.MULTILINE)
_PATH_OPTIONS = frozenset(("staticdir", "unixsocket", "sslcert", "sslkey", "sslca", "pcap"))


def read_script(path: Path) -> tuple[dict[str, Any], type[Game] | None]:
    """Return the options in a script's inline metadata, and the `Game` that it names, if any.

    Raises:
        ConfigError: see `read_script_options` and `load_game_file`; or the file cannot be read, or
            is no program.
    """
    from .programs import check_program  # not above: it reads scripts, too

    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    own: dict[str, Any] = {}
    game = None
    if b"# /// script" in source:
        own, class_name = read_script_options(path)
        game = load_game_file(path, class_name) if class_name else None
    if game is None:
        check_program(path)
    return own, game


def read_script_options(path: Path) -> tuple[dict[str, Any], str]:
    """Return the options in a script's inline metadata, and the name of its `Game` class.

    Raises:
        ConfigError: the block is no TOML, or its options cannot work.
    """
    try:
        table = read_script_table(path)
        class_name = table.pop("game", "")
        if not isinstance(class_name, str):
            raise ConfigError(f"game must be the name of a class, not {class_name!r}")
        about = read_about(table, path.parent)
        words = [word for item in table.items() for word in spell_option(*item, path.parent)]
        return {**build_parser(words).parse_options(words), **about}, class_name
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot read its inline metadata: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: [tool.scalesocket]: {error}") from None


def read_about(table: dict[str, JsonValue], folder: Path) -> dict[str, dict[str, str]]:
    """Take what the lobby is to show (`title`, `text`, `picture`) out of a script's table.

    Raises:
        ConfigError: it is no text, or there is no such picture.
    """
    names = [name for name in ("title", "text", "picture") if name in table]
    about: dict[str, str] = {name: table.pop(name) for name in names}
    for name, value in about.items():
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be text, not {value!r}")
    if "picture" in about:
        picture = folder / about["picture"]
        if not picture.is_file():
            raise ConfigError(f"picture: there is no file {picture}")
        about["picture"] = str(picture)
    return {"about": about} if about else {}


def read_script_table(path: Path) -> dict[str, JsonValue]:
    """Return the table `[tool.scalesocket]` of a script's inline metadata.

    Raises:
        ValueError: it is no TOML, no table, or there are several blocks.
    """
    import tomllib

    tool = tomllib.loads(read_script_block(path)).get("tool", {})
    table = tool.get("scalesocket", {}) if isinstance(tool, dict) else tool
    if not isinstance(table, dict):
        raise ValueError("[tool.scalesocket] is no table")
    return dict(table)


def read_script_block(path: Path) -> str:
    """Return the TOML of a script's inline metadata, empty if it has none.

    Raises:
        ValueError: there are several blocks.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
    blocks = [match["content"] for match in _SCRIPT_BLOCK.finditer(text)]
    if len(blocks) > 1:  # PEP 723 makes this an error
        raise ValueError(f"there are {len(blocks)} script blocks; one is the most")
    return "\n".join(line[2:] for block in blocks for line in block.splitlines())


def spell_option(name: str, value: JsonValue, folder: Path) -> list[str]:
    """Return an entry of a script's table as it would stand on a command line.

    Raises:
        ConfigError: there is no such option, or its value is of the wrong type.
    """
    option = f"--{name}"
    rows = [row for rows in list_options([option]).values() for row in rows]
    metavar, kind = next((row[1:3] for row in rows if option in row[0].split()), ("", None))
    if kind is None or name in ("help", "version", "print-config"):
        from .spelling import did_you_mean, list_names

        hint = did_you_mean(name, [flag.lstrip("-") for flag in list_names()])
        raise ConfigError(f"there is no option {name!r}{hint}")
    if isinstance(kind, dict) or (option in BARE and isinstance(value, bool)):
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, not {value!r}")
        return [BARE.get(option, option)] if value else []
    if isinstance(value, list) and not ("LIST" in metavar or option in REPEATABLE):
        raise ConfigError(f"{name} must be one value, not the list {value!r}")
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
        raise ConfigError(f"{name} must be text or a number, not {value!r}")
    if name in _PATH_OPTIONS and value != "-":
        values = [folder / str(v) for v in values]
    if name == "store":  # which may be a Redis
        values = [v if "://" in str(v) or not v else folder / str(v) for v in values]
    if name == "auth":
        values = [relocate_command(str(v), folder) for v in values]
    if option in REPEATABLE:
        return [f"{option}={v}" for v in values]
    return [f"{option}={','.join(map(str, values))}"]


def relocate_command(command: str, folder: Path) -> str:
    """Return a command line whose program is looked for in a folder first."""
    import shlex

    program, _, arguments = command.partition(" ")
    if not is_program(folder / program):
        return command
    return f"{shlex.quote(str(folder / program))} {arguments}"


def load_game_file(path: Path, class_name: str) -> type[Game]:
    """Import the class of a script that names it in its inline metadata.

    Raises:
        ConfigError: it cannot be imported, or is no `Game`.
    """
    from .mistakes import import_game  # not above: only a game needs it

    path = path.resolve()
    if path.parent == HERE / "game":
        name = f"scalesocket.game.{path.stem}"
        return import_game(lambda: importlib.import_module(name), class_name, str(path))
    if (path.parent / "__init__.py").exists():
        return load_packaged_game(path, class_name)
    sys.path.insert(0, str(path.parent))
    name = f"{path.stem} (game)"  # which no standard module has
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    loader, module = spec.loader, importlib.util.module_from_spec(spec)
    sys.modules[name] = module

    def load() -> object:
        loader.exec_module(module)
        return module

    return import_game(load, class_name, str(path))


def load_packaged_game(path: Path, class_name: str) -> type[Game]:
    """Import the class of a file that belongs to a package, so that it may import its siblings.

    Raises:
        ConfigError: it cannot be imported, or is no `Game`.
    """
    from .mistakes import import_game

    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    return import_game(lambda: importlib.import_module(".".join(names)), class_name, str(path))
