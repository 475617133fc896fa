"""A Python file that is to run as a program: is it one, and are the packages there that it lists?

What is wrong with it is said by mistakes.py, which is loaded only then: a program that is right
need not wait for that.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from pathlib import Path

from scalesocket import ConfigError

from .script_options import read_script_block

_TABLE = re.compile(rb"^#[ \t]*\[tool\.scalesocket\]", re.MULTILINE)
_UNREAD = (OSError, SyntaxError, ValueError, RecursionError, MemoryError)


def read_program(path: Path) -> tuple[bytes, list[ast.stmt]]:
    """Return the bytes of a Python file, and its statements."""
    source = path.read_bytes()
    with warnings.catch_warnings(action="ignore"):  # Python says them when it runs the file
        return source, ast.parse(source, str(path)).body


def check_program(path: Path) -> None:
    """See that a file which is to run as a program is Python, and no `Game` to be named.

    Raises:
        ConfigError: it is no Python, or lacks a package that it lists (PEP 723), and would end as
            soon as somebody came; or it is a `Game`.
    """
    try:
        _, body = read_program(path)
    except SyntaxError as error:
        from .mistakes import explain_import

        raise ConfigError(f"cannot run {path}: {explain_import(error, path.stem)}") from None
    except _UNREAD:
        return  # it is Python's to say
    names = names_of_game(body)
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            if bases & names and not calls_main(body, names):
                from .mistakes import place

                lost = find_lost_block(path)  # it may have said just that
                raise ConfigError(
                    lost
                    or f"{place(str(path), node.lineno)}: {node.name} is a Game, not a program: "
                    f'serve {path.stem}:{node.name}, or have game = "{node.name}" in a '
                    f"[tool.scalesocket] block"
                )
    if find_dependencies(str(path)):
        check_imports(path, body)


def find_lost_block(path: Path) -> str:
    """Return what to say of a block of options that is none (PEP 723), but a comment; or ""."""
    try:
        match = _TABLE.search(path.read_bytes())
        if match is None or read_script_block(path):
            return ""
        source, body = read_program(path)
    except _UNREAD:
        return ""
    line = source.count(b"\n", 0, match.start()) + 1
    texts = [part for node in body for part in ast.walk(node) if isinstance(part, ast.Constant)]
    if any(text.lineno <= line <= (text.end_lineno or 0) for text in texts):
        return ""  # it is an example in a text
    from .mistakes import place

    return (
        f"{place(str(path), line)}: this is read only between a line `# /// script` and a line "
        "`# ///`, where each line begins with `# `"
    )


def names_of_game(body: list[ast.stmt]) -> set[str]:
    """Return by which names a module knows `scalesocket.Game`; a `Game` of its own is another."""
    names = {"Game", "scalesocket.Game"}
    for node in body:
        if isinstance(node, ast.ClassDef):
            names.discard(node.name)
        elif isinstance(node, ast.Import):
            known = [alias for alias in node.names if alias.name == "scalesocket"]
            names |= {f"{alias.asname or alias.name}.Game" for alias in known}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                is_ours = node.module == "scalesocket" and alias.name == "Game"
                (names.add if is_ours else names.discard)(alias.asname or alias.name)
    return names


def check_imports(path: Path, body: list[ast.stmt]) -> None:
    """See that the modules are there that a program imports before it does anything else.

    Raises:
        ConfigError: one of them is not.
    """
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    from .mistakes import explain_absence, place

    folder = str(path.resolve().parent)  # which Python searches first
    for node in body:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module and not node.level else []
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return  # other code may see to it that they are found, or can be done without
        for name in names:
            top = name.partition(".")[0]
            if not (top in sys.modules or find_spec(top) or PathFinder.find_spec(top, [folder])):
                what = f"there is no module {name!r}{explain_absence(name, str(path))}"
                raise ConfigError(f"cannot run {path}: {place(str(path), node.lineno)}: {what}")


def calls_main(body: list[ast.stmt], games: set[str]) -> bool:
    """Whether a module does something by itself when it is run: asks or tells, or begins to.

    Tables that are filled and a generator of chance that is seeded are a game's, too.

    Args:
        body: of the module.
        games: what its games are made of.
    """
    own, kinds = {"main", "input"}, set(games)
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.ClassDef):
            is_game = not kinds.isdisjoint(map(ast.unparse, node.bases))
            (kinds if is_game else own).add(node.name)
    for node in body:
        if isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Expr):
            text = ast.unparse(node)
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if names & own or re.search(r"\bstdin\b|\bopen\(0|\bwhile True:", text):
                return True
    return False


def find_dependencies(file: str) -> list[str]:
    """Return the packages that a script lists in its inline metadata (PEP 723)."""
    try:
        block = read_script_block(Path(file))
        if not block:
            return []
        import tomllib

        found = tomllib.loads(block).get("dependencies", [])
    except (OSError, ValueError):
        return []
    return [str(name) for name in found] if isinstance(found, list) else []
