"""Programs are started with the file limit that the server was given, and leave nothing behind.

`subprocess.Popen` asks for memory once more when the program is there already. Where there is none,
nobody would know of that program: it is ended. One that is stopped reads what is left in its stdin
first (last_read.py), and takes along what it has started (descendants.py).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scalesocket import OUT_OF_MEMORY, ChildProcess, ShortageError, insist, is_memory_error

from .descendants import stop_orphans
from .file_limit import restore_file_limit
from .last_read import close_input


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


class TidyChild(ChildProcess):
    """A child that reads all that was meant for it, and of which nothing is left in the end."""

    spawn = staticmethod(start)

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *args: Any, **options: Any
    ) -> None:
        self._marker = f"\0UNIQUE_ID={environment.get('UNIQUE_ID')}\0".encode()
        self._since = time.monotonic()
        super().__init__(command, environment, *args, **options)

    def end_input(self) -> None:
        """Close its stdin, and give it time to read what is left there."""
        stdin = self.popen.stdin
        assert stdin is not None
        if not stdin.closed:  # or memory had run out when this was first tried
            close_input(stdin, self.wait, since=self._since, grace=self._grace)

    def stop(self, end_input: Callable[[], None]) -> None:
        """Stop it, what it has started, and of that also what has left its process group."""
        super().stop(end_input)
        stop_orphans(self._marker, self._grace)
