"""Programs on pipes and in terminals get all the time that they need, and no more.

With `--respawn` one that exits is started again after a pause, which grows while it exits soon. Its
file may be missing just then, as somebody replaces it. One that does not read yet may still begin
to; and of a line on its stderr that is too long, nothing is said twice.
"""

from __future__ import annotations

import time

from scalesocket import (
    BackendError,
    ChildProcess,
    Framing,
    Joined,
    ShortageError,
)

from .direct import DirectBackend
from .framings import make_framing
from .last_read import FIRST_READ_TIMEOUT
from .presence import is_deserted
from .spawn import TidyChild

RESPAWN_FIRST = 0.1  # seconds before an exited program is started again; doubled each time
RESPAWN_LAST = 10.0  # … up to this; one that lived for longer has RESPAWN_FIRST again


class PatientBackend(DirectBackend):
    """A program that is started, read and written to with more patience.

    It has what this folder does for all programs.
    """

    child_type = TidyChild
    make_framing = staticmethod(make_framing)
    _started_at = 0.0
    _exited_at = 0.0
    _backoff = RESPAWN_FIRST

    def _launch(self) -> None:
        self._started_at = time.monotonic()
        super()._launch()

    def _after_exit(self) -> None:
        self._exited_at = time.monotonic()
        super()._after_exit()

    def _respawn(self) -> None:
        """Start the program again; one that cannot be started may be in a while."""
        since = self._exited_at
        if since > self._started_at + RESPAWN_LAST:
            self._backoff = RESPAWN_FIRST
        while not self._room.ending.wait(self._backoff):
            self._backoff = min(self._backoff * 2, RESPAWN_LAST)
            try:
                self._launch()
            except (BackendError, ShortageError) as error:  # its file is being replaced, perhaps
                if time.monotonic() > since + 2 * RESPAWN_LAST:
                    raise
                self._room.log.warning("%s", error)
                self.stop()
            else:
                self._write(b"".join(map(self._encode, map(Joined, self._present.values()))))
                return

    def _should_abandon(self, blocked_since: float) -> bool:
        if self._pump is not None and not self._pump.is_alive():
            if self._child is not None and self._child.wait(0):
                return True
        if time.monotonic() < self._started_at + FIRST_READ_TIMEOUT:
            return False
        return super()._should_abandon(blocked_since)

    def _is_deserted(self) -> bool:
        return is_deserted(self._room)

    def _log_stderr(self, child: ChildProcess, descriptor: int) -> None:
        lines = Framing(report=self._room.report)
        skipping = False  # what is left of a line that was too long
        for data in child.read(descriptor):
            if skipping:
                _, newline, data = data.partition(b"\n")
                skipping = not newline
            self._take_stderr(lines.feed(data))
            if lines.error:
                self._room.report(None, f"stderr: {lines.error}")
                lines = Framing(report=self._room.report)
                skipping = True
        self._take_stderr(lines.finish())
