"""What signals ask of a server: its end, at once or after --drain, or newer certificates.

A signal that comes twice at once is one: `timeout` sends it to a process and to its group.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from scalesocket import POSIX

if TYPE_CHECKING:
    from scalesocket import Server

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


def handle_signals(server: Server) -> None:
    """Let signals stop or drain a server; SIGHUP may reload its certificates instead (tls.py).

    SIGHUP says that the terminal has been closed, too.
    """
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none

    # After `nohup`, SIGHUP is to be ignored. A handler does that: children would inherit SIG_IGN,
    # and `--pty` stops them by SIGHUP.
    is_ignored = hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN
    is_cut = False  # a second signal has come

    def on_signal(number: int, _frame: object) -> None:
        nonlocal is_cut
        is_reload = number == hangup and server.reload_certificates(is_ignored)
        is_noise = number == hangup and (is_ignored or server.stopping)  # shells send it twice
        if is_reload or is_noise or is_cut or server.has_ended:
            pass  # a third signal changes nothing
        elif server.stopping:  # a second one: no more patience
            is_cut = True
            raise KeyboardInterrupt
        else:
            server.stopping = True
            drain = server.drain if number != signal.SIGINT else None
            (drain.ask if drain is not None else server.stop)()

    handler = once(on_signal)
    for number in filter(None, (signal.SIGINT, signal.SIGTERM, hangup)):
        signal.signal(number, handler)


def ignore_signals() -> None:
    """Let nothing that comes from now on change the exit status; Python resets handlers as it ends.

    They are blocked first, as Python complains of one that comes just as it is ignored.
    """
    stop_signals = signal.SIGINT, signal.SIGTERM
    if POSIX:
        signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    for number in stop_signals:
        signal.signal(number, signal.SIG_IGN)
