"""A program reads what is left in its stdin, before it is stopped.

What clients have said last may still be in the pipe when the room ends. Linux tells how much that
is, at another reading end of the same pipe; for as long as it becomes less, the program is given
time. Elsewhere it has as long as each step of stopping it takes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import IO

from scalesocket import POSIX, STOP_STEPS

with contextlib.suppress(ImportError):  # POSIX
    import fcntl
    import termios

FIRST_READ_TIMEOUT = 3.0  # seconds after its start in which it may still have to begin
LAST_READ_TIMEOUT = 5.0  # seconds for all that is left


def close_input(
    stdin: IO[bytes], wait: Callable[[float], bool], *, since: float, grace: float
) -> None:
    """Close the stdin of a program, and let it read what is left there, for as long as it reads on.

    Args:
        stdin: our end of it.
        wait: waits so many seconds for the program to exit, and returns whether it has.
        since: when it was started; it may still have to begin.
        grace: seconds added to each time that it is given.
    """
    pipe = open_other_end(stdin.fileno())
    stdin.close()
    if pipe is not None:
        try:
            await_last_read(pipe, wait, since, grace)
        finally:
            os.close(pipe)


def await_last_read(pipe: int, wait: Callable[[float], bool], since: float, grace: float) -> None:
    """Wait until nothing is left in a pipe, or less of it is read no longer."""
    patience = STOP_STEPS[0][1] + grace
    end = time.monotonic() + LAST_READ_TIMEOUT + grace
    until = max(time.monotonic() + patience, since + FIRST_READ_TIMEOUT)
    left = count_unread(pipe)
    while left and time.monotonic() < min(until, end) and not wait(0.02):
        rest = count_unread(pipe)
        if rest < left:
            until = max(until, time.monotonic() + patience)
        left = rest


def open_other_end(pipe: int) -> int | None:
    """Return another reading end of a pipe, which tells what is left in it; Linux has such."""
    if not POSIX:
        return None
    try:
        return os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None


def count_unread(pipe: int) -> int:
    """Return how many bytes nobody has read from a pipe yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
