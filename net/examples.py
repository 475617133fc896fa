"""The games that come with the server, and what --help says of them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from scalesocket import HERE

BUNDLED = """\
  python3 scalesocket.py game.py              a bundled example, with its page
  python3 scalesocket.py new mygame           a folder with a game of yours to begin with

Bundled examples: game.py, snake, tictactoe, sandbox, chat.
A Python script may carry its own options in a "# /// script" block (see README).
"""


def complete_help(text: str) -> str:
    """Return what --help says, with these games, and with the command as it has been called."""
    command = r"\g<0>" if sys.argv[0].endswith(".py") else "scalesocket"
    return re.sub(r"(python3 )?scalesocket\.py", command, text + BUNDLED)


def find_example(target: str) -> Path | None:
    """Return the bundled example that TARGET means, if it means one."""
    for path in (HERE / "game" / target, HERE / "game" / f"{target}.py"):
        if os.sep not in target and is_example(path):
            return path
    return None


def is_example(path: Path) -> bool:
    """Whether a file of the bundled folder is to be served, and is no part of another."""
    return path.suffix == ".py" and os.path.isfile(path) and b"# /// script" in path.read_bytes()
