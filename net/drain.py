"""A server that is told to end lets its rooms finish first (`--drain`).

SIGTERM begins it: no more rooms are made, those that are there may go on for so many seconds, and
the server ends when the last client has gone. Then, or when the time is over, all ends as ever.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from scalesocket import Backend, Called, CloseCode, GameBackend, HandshakeError, parse_seconds

from .rooms import RESTARTING, PatientRooms

if TYPE_CHECKING:
    from scalesocket import Server

# fmt: off
OPTIONS = (
    ("--drain", "SECONDS", parse_seconds,
     "after SIGTERM, refuse new rooms and let the others finish for so long (default 0)"),
)
# fmt: on


def set_up(server: Server) -> None:
    """Have a server drain on SIGTERM."""
    server.drain = Drain(server)


class Drain:
    """Ends a server once its rooms are empty, or its time is over.

    Args:
        server: that is to end.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._seconds = server.config.drain  # that its rooms may go on at the most
        self._until = 0.0
        self.asked = False

    def ask(self) -> None:
        """Have it begin. For a signal handler: it takes no lock, and `look` does the rest."""
        self.asked = True

    def look(self) -> None:
        """Begin, if that has been asked for; on the main thread, which may lock."""
        registry = self._server.registry
        assert isinstance(registry, PatientRooms)
        if not self.asked or registry.draining:
            return
        self._server.farewell = (CloseCode.SERVICE_RESTART, RESTARTING)
        self._server.site.health = (503, "draining")
        self._let_in, self._server.check_room = self._server.check_room, self._check_room
        registry.refuse_new_rooms()
        self._server.say("draining for %g s at the most", self._seconds)  # and it does
        for room in registry.listing():
            room.inbox.put(Called(functools.partial(self._tell, room.backend)))
        self._until = time.monotonic() + self._seconds
        self._check_rooms()

    def _check_room(self, name: str) -> None:
        """Refuse a room that would have to be made: whoever asks may find it elsewhere.

        Raises:
            HandshakeError: 503.
        """
        self._let_in(name)
        if self._server.registry.find(name) is None:
            raise HandshakeError(503, RESTARTING, ("Retry-After", "1"))

    def _tell(self, backend: Backend) -> None:  # on the room's thread
        assert isinstance(backend, GameBackend)  # others call nothing: they are only woken
        backend.game.on_drain(self._seconds)

    def _check_rooms(self) -> None:
        """Stop if there is nobody left to wait for, or no time."""
        if self._is_empty() or time.monotonic() >= self._until:
            self._server.stop()
        else:
            self._server.poller.call_later(0.1, self._check_rooms)

    def _is_empty(self) -> bool:
        """Whether no client is in any room, here or through here; one may linger."""
        relays = self._server.registry.relays
        if relays is not None and relays.count:
            return False
        return not any(room.clients for room in self._server.registry.running.copy())
