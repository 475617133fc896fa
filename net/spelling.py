"""Which word may have been meant, where one is not known."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from scalesocket import BARE, HERE, OPTIONS, POSIX, is_program

from .config import PLACES
from .examples import is_example

# What other servers call it, where that is like another option here, or none.
ELSEWHERE = {
    "--port": "--addr",
    "-p": "--addr",
    "--listen": "--addr",
    "--bind": "--addr",
    "--loglevel": "--verbose",
    "--debug": "--verbose",
    "--ssl": "--sslcert",
    "--tls": "--sslcert",
    "--ratelimit": "--maxrate",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most like this one, if any is."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), 1, 0.7)
    return f"; did you mean {found[0]}?" if found else ""


def suggest_target(target: str) -> str:
    """Return a hint at the file here, or the bundled example, that TARGET may mean.

    Of a file that cannot be executed, it is what helps.
    """
    if os.path.isfile(target):
        return suggest_cure(target)
    if os.path.isdir(target):
        inside = Path(target, f"{Path(target).name}.py")
        return f": it is a folder{f'; did you mean {inside}?' if is_program(inside) else ''}"
    file, _, name = target.rpartition(":")
    source = Path(file).with_suffix(".py") if Path(file).name else Path()
    if os.path.isfile(source) and name.isidentifier():
        module = os.path.relpath(source.with_suffix(""))
        if module.startswith(os.pardir):
            return f"; in {source.parent} it is {source.stem}:{name}"
        return f"; did you mean {module.replace(os.sep, '.')}:{name}?"
    if is_program(Path(f"{target}.py")):
        return f"; did you mean {target}.py?"
    names = [path.name for path in Path().glob("*") if is_program(path)]
    games = filter(is_example, (HERE / "game").glob("*.py"))
    return did_you_mean(target, names + [name for path in games for name in (path.name, path.stem)])


def suggest_cure(path: str) -> str:
    """Return what helps if a file cannot be executed."""
    if POSIX and os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0):  # not everywhere
        cure = f"move it, or name what runs it, as in sh -- {path}"
        return f": nothing is on its file system, which is mounted noexec; {cure}"
    mode = os.stat(path).st_mode
    if mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH):
        return f" for this user: its mode is {stat.filemode(mode)}"
    return f": chmod +x {path}"


def suggest_word(word: str, words: Sequence[str]) -> str:
    """Return a hint at what a word of the command line may mean that is one too many."""
    if word.startswith("-"):
        return suggest_option(word)
    for option, target in itertools.pairwise(words):
        if option in BARE.values() and not target.startswith("-"):
            name = option.partition("=")[0]
            return f", {target!r} the first: a value of {name} would be {name}={target}"
    return ""


def suggest_option(word: str) -> str:
    """Return a hint at the option that a word of the command line may mean."""
    name = word.partition("=")[0]
    hint = did_you_mean(ELSEWHERE.get(name, name), list_names())
    return hint or "; those of the program stand behind --"


def list_names() -> list[str]:
    """Return the names of all options, without importing what has them."""
    own = [option[0] for rows in OPTIONS.values() for option in rows]
    names = own + [of.names for place in PLACES.values() for of in place]
    return " ".join(names).split()
