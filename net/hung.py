"""A hook that does not return is told of while it hangs, and not only as the server ends.

Calling a hook costs nothing more for that: now and then it is looked where all threads are, and a
call that was there the last time, too, hangs.
"""

from __future__ import annotations

import itertools
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from scalesocket import NO_TURN, TURN, log

from .mistakes import find_thread, is_of_server, is_own

if TYPE_CHECKING:
    from scalesocket import Server

HUNG_TIME = 5.0  # seconds that a hook takes before it is told of; twice as many, at the most


def watch(server: Server) -> None:
    """Have hooks that hang told of, unless threads run while they are looked at."""
    if TURN is not NO_TURN:
        server.poller.call_later(HUNG_TIME, HungHooks(server).look)


class HungHooks:
    """Finds hooks that do not return; on the poller's thread.

    Args:
        server: whose game they are of.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._calls: dict[int, FrameType] = {}  # that were there the last time, by thread
        self._hung: set[int] = set()  # threads of those that have been told of

    def look(self) -> None:
        """Tell of each hook that has not returned since the last time; once."""
        if not self._server.is_ending:
            self._server.poller.call_later(HUNG_TIME, self.look)
        calls = dict(find_calls())
        hung = {thread for thread, call in calls.items() if self._calls.get(thread) is call}
        for thread in hung - self._hung:
            self._tell(thread, calls[thread])
        self._calls, self._hung = calls, hung

    def _tell(self, thread: int, call: FrameType) -> None:
        rooms = {room.thread: room for room in self._server.registry.running.copy()}
        logger = rooms[thread].log if thread in rooms else log
        text = "%s has not returned for more than %g s: it is at %s"
        logger.warning(text, call.f_code.co_qualname, HUNG_TIME, find_thread(thread))


def find_calls() -> Iterator[tuple[int, FrameType]]:
    """Return the calls of the user's own code by the server that have not returned, by thread."""
    for thread, frame in sys._current_frames().items():
        frames = [at for at, _ in traceback.walk_stack(frame)]
        for call, caller in itertools.pairwise(frames):
            if is_own(call.f_code.co_filename) and is_of_server(caller.f_code.co_filename):
                yield thread, call
                break
