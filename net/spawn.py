"""Programs are started with the file limit that the server was given, and never left unknown.

`subprocess.Popen` asks for memory once more when the program is there already. Where there is none,
nobody would know of that program: it is ended.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

from scalesocket import OUT_OF_MEMORY, ShortageError, insist, is_memory_error

from .file_limit import restore_file_limit


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program, as `subprocess.Popen` does.

    Raises:
        OSError: it cannot be started.
        ShortageError: there is no memory for it.
    """
    process: subprocess.Popen[bytes] = subprocess.Popen.__new__(subprocess.Popen)
    try:
        process.__init__(command, **options)  # type: ignore[misc]  # it may fail with a program
        restore_file_limit(process.pid)
    except (MemoryError, RuntimeError) as error:
        if getattr(process, "pid", None):
            insist(end, process)
        if not is_memory_error(error):
            raise
        raise ShortageError(f"cannot start {command[0]}: {OUT_OF_MEMORY}") from None
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program of which nobody will know; may be called again if memory runs out in here."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
