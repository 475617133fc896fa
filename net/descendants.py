"""What a child has left behind: processes in sessions of their own.

A program may start another in a session of its own, and no signal to the program's process group
reaches that one. When its parent ends, Linux leaves such a process to us, as if we were the first
of all processes (PR_SET_CHILD_SUBREAPER). We tell whose it is by the variable UNIQUE_ID, which it
has inherited from its child.

This is used whenever it is there. On other systems than Linux it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scalesocket import _SHORTAGES, POSIX, STOP_STEPS, Poller

if TYPE_CHECKING:
    from scalesocket import Server

REAP_INTERVAL = 1.0  # seconds between two looks for orphans that have ended

_lock = threading.Lock()  # who holds it may reap and signal orphans: their numbers stay theirs
_elder: frozenset[int] | None = None  # children that we had before; None: we adopt nobody


def adopt() -> bool:
    """Have what children leave behind left to us; return whether that can be had."""
    global _elder
    if sys.platform == "linux" and POSIX:
        with contextlib.suppress(ImportError, OSError, AttributeError):  # Python or libc without it
            import ctypes

            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
            _elder = frozenset(list_orphans())
    return _elder is not None


def list_orphans() -> list[int]:
    """Return the children of the main thread, which starts none: what is there was left to us."""
    try:
        return read_orphans()
    except OSError:  # a kernel that does not say
        return []


def read_orphans() -> list[int]:
    """Return the same.

    Raises:
        OSError: that cannot be read here, or not now.
    """
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [pid for pid in map(int, file.read().split()) if pid not in (_elder or ())]


def reap_orphans() -> None:
    """Reap orphans that have ended. Nobody is waited for: who holds the lock reaps them as well.

    Usually none has, and one question tells, however many there are.
    """
    if _elder is None or not _lock.acquire(blocking=False):
        return
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            for pid in list_orphans():
                with contextlib.suppress(OSError):  # reaped elsewhere
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:  # there is no process at all
        pass
    finally:
        _lock.release()


def signal_orphans(marker: bytes, signal_number: int, told: set[int]) -> bool:
    """Reap orphans that have ended, and signal those with a marker in their environment, but each
    one once: those in `told`, to which they are added, have had their signal.

    Return whether there may be any left with that marker, as there may while the system is out of
    descriptors.
    """
    found = False
    with _lock:
        try:
            pids = read_orphans() if _elder is not None else []
        except OSError as error:
            return error.errno in _SHORTAGES
        for pid in pids:
            try:
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None:
                    found = True  # what it had started may have been left to us since the list
                elif (environment := read_environment(pid)) is None:
                    found = True
                elif marker in b"\0" + environment:
                    found = True
                    if pid not in told:
                        told.add(pid)
                        os.kill(pid, signal_number)
            except OSError as error:  # of another user, or reaped elsewhere
                found = found or error.errno in _SHORTAGES
    return found


def read_environment(pid: int) -> bytes | None:
    """Return the environment of a child; None if it is about to become another program, or to end.

    Such a process has none, though it may have been marked and what it has started still is: the
    last address in /proc/PID/stat is 0 (proc(5)), or the kernel says that there is no process.
    """
    environ = Path(f"/proc/{pid}/environ")
    try:
        if environment := environ.read_bytes():
            return environment
        if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[48] == b"0":
            return None
        return environ.read_bytes()  # it may have become the other program in between
    except ProcessLookupError:
        return None


def kill_orphans() -> None:
    """Kill all orphans, and those that become orphans by that."""
    for _ in range(10 if _elder is not None else 0):
        signal_orphans(b"", STOP_STEPS[-1][0], set())
        time.sleep(0.01)


def stop_orphans(marker: bytes, grace: float) -> None:
    """Stop orphans with a marker in their environment, by the last two of STOP_STEPS.

    None are left when two looks in a row find none: Linux leaves some out of the list while
    others end.
    """
    for signal_number, patience in STOP_STEPS[2:]:
        deadline = time.monotonic() + patience + grace
        told: set[int] = set()
        clear = 0
        while time.monotonic() < deadline:
            clear = 0 if signal_orphans(marker, signal_number, told) else clear + 1
            if clear == 2:
                return
            time.sleep(0.01)


class Orphans:
    """Those of a server, as long as it runs.

    Args:
        timer: reaps them.
        grace: seconds added to each step of stopping them.
    """

    def __init__(self, timer: Poller, grace: float) -> None:
        self._timer = timer
        self._grace = grace

    def start(self) -> None:
        """Have what children leave behind left to us, and reap it from now on."""
        if adopt():
            self._reap()

    def stop(self) -> None:
        """Stop all that are left, also those that have dropped the marker."""
        stop_orphans(b"", self._grace)

    def _reap(self) -> None:
        self._timer.call_later(REAP_INTERVAL, self._reap)
        reap_orphans()


def set_up(server: Server) -> None:
    """Have a server look after what its programs leave behind."""
    if server.config.command:
        server.services.append(Orphans(server.poller, server.config.closegrace))
