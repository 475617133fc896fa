"""Rooms that wait: for the place of one that is ending, and for a program that does not end.

A room whose program is about to end still takes a place of --maxrooms: whoever wants a new room
waits for that. At the server's end it is said which rooms did not end in time, and how much of what
their programs still printed came too late for their clients.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from scalesocket import (
    END_TIMEOUT,
    Client,
    CloseCode,
    ConnectionClosed,
    Output,
    Room,
    RoomRegistry,
    Route,
    find_feature,
    log,
)

from .direct import DirectRoom

if TYPE_CHECKING:
    from scalesocket import Config, Poller

    from .history import Histories
    from .metrics import Totals

RESTARTING = "the server restarts"  # the reason that clients are told after --drain
ROOM_TIMEOUT = 3.0  # seconds for a room that is ending to make place for a new one


def make_rooms(config: Config, timer: Poller) -> PatientRooms:
    """Return the rooms of a server that stores none; see `Server`."""
    return PatientRooms(config, timer)


class LateRoom(DirectRoom):
    """A room that may end for its clients before its backend has ended.

    It also looks after clients that lag behind while nobody sends to them.
    """

    _is_cut = False  # nobody hears any more what its backend says
    _lost = 0  # messages from the backend since then

    def __init__(self, registry: RoomRegistry, opener: Client) -> None:
        super().__init__(registry, opener)
        self._watched: set[Client] = set()  # its methods are atomic
        self._count_lock = threading.Lock()  # guards the numbers of what went wrong

    def watch(self, client: Client) -> None:
        """Look after a client while it lags behind: one that takes nothing is closed."""
        if client not in self._watched:
            self._watched.add(client)
            period = min(max(self.stall, 0.1), 1.0)  # seconds
            self.registry.timer.call_later(period, functools.partial(self._check_lagging, client))

    def _check_lagging(self, client: Client) -> None:  # on the poller's thread
        self._watched.discard(client)  # first: what changes from now on calls `watch` again
        connection = client.connection
        if client.departed or not getattr(connection, "lags", connection.is_full):
            return
        if connection.has_stalled(self.stall):
            self.drop_slow(client)
        else:
            self.watch(client)

    def cut(self) -> None:
        """End the room for its clients now, though its backend has not ended."""
        if self.farewell is not None:
            self._is_cut = True
            self.end(*self.farewell)

    def deliver(self, outputs: list[Output]) -> None:
        """Send what the child said; see `Room`."""
        if self._is_cut:
            self._lost += sum(len(it.payloads) for it in outputs if isinstance(it, Route))
        super().deliver(outputs)

    def post(self, clients: Sequence[Client], data: bytes) -> None:
        """Keep a message of a game; see `Room`. One that cannot be expressed has no bytes."""
        if data:
            super().post(clients, data)
            return
        for client in clients:
            self.report(client.id, "a binary message was not sent: it is no line of text")

    def report(self, client_id: int | None, what: str) -> None:
        """Count and log what had to be dropped; see `Room`."""
        with self._count_lock:
            self.traffic.dropped += 1
        super().report(client_id, what)

    def drop_slow(self, client: Client) -> None:
        """Count a client that does not read, and let it go."""
        with self._count_lock:
            self.traffic.slow_closed += 1
        super().drop_slow(client)

    def check_thread(self, call: str) -> None:
        """Check that a game calls from the room's thread; see `Room`.

        The log says if it does not: what is raised may be heard by nobody, as in a pool of threads.
        """
        try:
            super().check_thread(call)
        except RuntimeError as error:
            from .mistakes import find_thread  # not above: a program's server does without it

            at = find_thread(threading.get_ident())
            super().report(None, f"{at}: {error}" if at else str(error))
            raise

    def report_lost(self) -> None:
        """Say how much nobody has heard."""
        if self._lost:
            self.report(None, f"{self._lost} messages that came too late for the end were lost")


class PatientRooms(RoomRegistry):
    """The rooms; see `RoomRegistry`."""

    room_type = LateRoom
    draining = False  # no more rooms are made (see drain.py)
    totals: Totals | None = None  # what rooms have had, also those that are gone
    histories: Histories | None = None  # what newcomers get (--cache)

    def may_wait(self, name: str) -> bool:
        """Whether `join` may have to wait: for a lock, for a place, or to ask where the room is.

        A good guess, as it takes no lock.
        """
        room = self._rooms.get(name)
        if room is not None:
            return self.lock.locked() or room.members._lock.locked()
        is_full = 0 < self.config.maxrooms <= len(self.running)
        return self.lock.locked() or is_full or self.relays is not None

    def forget(self, room: Room) -> None:
        """Note that a room's thread is done; see `RoomRegistry`."""
        assert isinstance(room, LateRoom)
        room.report_lost()
        with self.lock:
            if room in self.running:  # if not, this is done again, as memory has run out
                if self.totals is not None:
                    self.totals.keep(room)
                self.running.remove(room)  # in the same step: what it has had must not count twice
            if self.histories is not None:
                self.histories.close(room)
        super().forget(room)

    def refuse_new_rooms(self) -> None:
        """Let no more rooms be made, while those that are there go on (see drain.py)."""
        with self.lock:
            self.draining = True

    def cut_short(self, kill: Callable[[], None]) -> None:
        """Kill what has not ended in time; its clients get what that still brings, then Close."""
        rooms = self.running.copy()
        mistakes = find_feature("mistakes") if self.config.game else None
        name = getattr(mistakes, "name_room", lambda room: room.name)
        names = ", ".join(map(name, sorted(rooms, key=lambda room: room.name)[:10]))
        more = f" and {len(rooms) - 10} more" if len(rooms) > 10 else ""
        log.warning("rooms that did not end within %g s: %s%s", END_TIMEOUT, names, more)
        kill()
        for room in self.running.copy():
            assert isinstance(room, LateRoom)
            room.cut()

    # -- under the lock --

    def _find_place(self, name: str) -> Room | None:
        """Return the room of that name, or None if there is place to make it.

        A room whose child is about to end still takes a place: that is waited for.
        """
        deadline = time.monotonic() + ROOM_TIMEOUT
        while self._may_get_place(name) and (patience := deadline - time.monotonic()) > 0:
            self._idle.wait(patience)
        if self.draining and name not in self._rooms:  # it has ended since the session looked
            raise ConnectionClosed(CloseCode.SERVICE_RESTART, RESTARTING)
        return super()._find_place(name)

    def _may_get_place(self, name: str) -> bool:
        """Whether there is no place for a room, but that of one that is ending."""
        is_wanted = name not in self._rooms and self._refusal is None and not self.draining
        return is_wanted and len(self._rooms) < self.config.maxrooms <= len(self.running)
