"""Programs are started with the file limit that the server was given, and leave nothing behind.

`subprocess.Popen` asks for memory once more when the program is there already. Where there is none,
nobody would know of that program: it is ended. One that is stopped reads what is left in its stdin
first (last_read.py), and takes along what it has started (descendants.py). That it has exited is
known at once, while what it has started may still hold its output open.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from scalesocket import (
    OUT_OF_MEMORY,
    POSIX,
    RECEIVE_SIZE,
    STOP_STEPS,
    ChildProcess,
    ShortageError,
    insist,
    is_memory_error,
)

from .descendants import stop_orphans
from .file_limit import restore_file_limit
from .last_read import close_input

ASK_INTERVAL = 0.2  # seconds after which one that never pauses is asked whether it has exited


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
        self._pidfd = -1  # becomes readable when the child exits
        with contextlib.suppress(AttributeError, OSError, MemoryError):  # it is not everywhere
            self._pidfd = os.pidfd_open(self.pid)

    def read(self, descriptor: int) -> Iterator[bytes]:
        """Yield what the child writes to a descriptor until the child closes it or exits.

        Between two reads it costs no system call, while there is more to read.
        """
        if not POSIX:
            yield from super().read(descriptor)
            return
        os.set_blocking(descriptor, False)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if self._pidfd >= 0:
            poller.register(self._pidfd, select.POLLIN)
        emptied = False  # nothing was left when it was last read: no need to try
        asked_at = time.monotonic()
        while True:
            ready = [descriptor]
            if emptied:
                ready = [fd for fd, _ in poller.poll(None if self._pidfd >= 0 else 200)]
            # A child of the child may never pause, so it is also asked now and then.
            if ready != [descriptor] or time.monotonic() - asked_at >= ASK_INTERVAL:
                if self._has_exited():
                    break
                asked_at = time.monotonic()
            try:
                data = os.read(descriptor, RECEIVE_SIZE)
            except BlockingIOError:
                emptied = True
                continue
            except OSError:  # EIO: the end of a pseudo-terminal
                return
            if not data:
                return
            yield data
            emptied = len(data) < select.PIPE_BUF
        yield from self._read_rest(descriptor)

    def _has_exited(self) -> bool:
        """Whether the child has exited; it stays unreaped, so that its number stays taken."""
        if not hasattr(os, "waitid"):  # macOS
            return self.popen.poll() is not None
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, options) is not None
        except ChildProcessError:  # reaped already
            return True

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

    def _stop_group(self) -> None:
        """Stop what it has left behind in its group, and wait no longer than for that."""
        for signal_number, patience in STOP_STEPS[2:]:
            if not self.signal_group(signal_number):
                return
            deadline = time.monotonic() + patience + self._grace
            while time.monotonic() < deadline:
                if not self.signal_group(0):
                    return
                time.sleep(0.01)

    def close(self) -> None:
        """Close our ends of the pipes; no thread may be reading from them."""
        super().close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
