"""A program's room whose thread is not woken for what can be done without it.

While the room has nothing to do, a reader writes to the program itself, which saves up to a third
of an echo's time. Who joins is told to the program with the next message, if it is told at all,
which saves a fifth of the time of a connection storm.
"""

from __future__ import annotations

import os

from scalesocket import POSIX, Client, Inbox, Joined, Messages, ProcessBackend, Room, Unwritten

MAX_QUIET = 100  # events in an inbox; one more wakes the room's thread in any case


class DirectInbox(Inbox):
    """An inbox whose thread may be another one for a moment."""

    def put_quietly(self, event: Joined) -> None:
        """Add an event for which the room's thread is not woken, unless many wait (MAX_QUIET)."""
        with self.lock:
            if not self.closed.is_set():
                self.events.append(event)
                if len(self.events) > MAX_QUIET:
                    self._ring()

    def claim(self, client: Client) -> bool:
        """Take the place of the room's thread if that is idle; `release` gives it back.

        Only for a room whose thread waits without a timeout, as it does for a program.
        """
        with self.lock:
            is_free = self._asleep and not self.events
            if not is_free or self.closed.is_set() or client.departed:
                return False
            self._asleep = False  # so that nobody wakes it
            return True

    def release(self, rest: Unwritten | None) -> None:
        """Let the room's thread go on, with what is left to write before all else."""
        with self.lock:
            self._asleep = True
            if rest is not None:
                self.events.insert(0, rest)
                self.size += len(rest.data)
            if self.events or self.closed.is_set():
                self._ring()


class DirectBackend(ProcessBackend):
    """A child that a reader may write to."""

    takes_directly = POSIX  # elsewhere writing to a pipe blocks

    @property
    def hears_joins(self) -> bool:
        """Whether it does more about a join than take note of it."""
        return bool(self._config.joinmsg)

    def hand_over(self, run: Messages) -> Unwritten | None:
        """Write what the child takes at once; return the rest. On a reader's thread."""
        data = self._encode(run)
        try:
            size = os.write(self._input, data) if not self._input_closed else len(data)
        except OSError:  # it takes nothing now, or nothing any more: `_write` will see which
            size = 0
        return Unwritten(run.client, data[size:], size == 0) if size < len(data) else None


class DirectRoom(Room):
    """A room whose thread a reader may stand in for."""

    inbox: DirectInbox
    inbox_type = DirectInbox

    def join(self, client: Client) -> None:
        """Let a client in; see `Room`."""
        if isinstance(self.backend, DirectBackend) and not self.backend.hears_joins:
            self.add_member(client)
            self.inbox.put_quietly(Joined(client))
        else:
            super().join(client)

    def receive(self, runs: list[Messages]) -> None:
        """Take what clients have sent; see `Room`."""
        first, backend = runs[0], self.backend
        if (
            isinstance(backend, DirectBackend)
            and backend.takes_directly
            and len(runs) == 1
            and first.client.seat is None
            and self.inbox.claim(first.client)
        ):
            self._hand_over(backend, first)
        else:
            super().receive(runs)

    def _hand_over(self, backend: DirectBackend, run: Messages) -> None:
        rest = None
        try:
            if self.log.traces:
                self.log.trace("<", run.payloads, run.client.id)
            self.traffic.count_received(run)
            rest = backend.hand_over(run)
        finally:
            self.inbox.release(rest)
