"""A signal that comes twice at once is one: `timeout` sends it to a process and to its group."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from types import FrameType

ECHO = 0.1  # seconds in which the same signal again says nothing new; nobody presses a key so fast

Handler = Callable[[int, FrameType | None], object]


def once(handler: Handler) -> Handler:
    """Return a signal handler that calls another one, but not for the echo of SIGINT or SIGTERM.

    A second signal asks for the end at once, which loses what a moment's patience would not. Of
    SIGHUP each one counts: it may have newer certificates read.
    """
    heard: dict[int, float] = {}

    @functools.wraps(handler)
    def on_signal(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number in (signal.SIGINT, signal.SIGTERM):
            if now - heard.get(number, -ECHO) < ECHO:
                return
            heard[number] = now
        handler(number, frame)

    return on_signal
