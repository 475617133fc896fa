"""Rooms that outlive their node: many nodes, one Redis (`--store redis://HOST:PORT/0`).

Before a node makes a room it asks Redis for it, and takes possession of it in the same step:

    nobody has it                          it begins here, or goes on from what is stored
    a node has it that is alive            Close 1013, so that the client comes again, unless
                                           --peers has found it before that
    a node has it that says nothing more   wait until its lease runs out: 3 s at the most

A node says every half second that it is alive, on the thread "lease". If Redis does not answer for
two thirds of the lease, its rooms end while they are its own: their clients get Close 1012 and come
back, to where the rooms go on. What was to be saved last waits in memory, and is saved if no other
node has taken the room until Redis is back.

With `?nodes=1` no other node is let in, and play goes on however long Redis is away.
Otherwise each of `--workers` is a node here: who wants a room of one that has crashed waits, too.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any

from scalesocket import (
    CloseCode,
    ConnectionClosed,
    HandshakeError,
    log,
    report_failure,
    start_thread,
)

from .redis_store import RENEWALS, HeldError, RedisDatabase
from .rooms import RESTARTING
from .store import (
    BEGINS_ANEW,
    MAX_DORMANT,
    NOT_NOW,
    NOTHING,
    DamageError,
    Question,
    Record,
    Store,
    StoredRoom,
    StoredRooms,
    StoreError,
)

if TYPE_CHECKING:
    from scalesocket import Config, Poller

    from .seats import Seat

ELSEWHERE = "the room goes on elsewhere"
SWEEP_PAUSE = 10.0  # seconds until it is looked again for rooms that nobody comes back to
MOST_RELEASED = MAX_DORMANT  # rooms that wait to be released, while Redis is away
CUT_MARGIN = 0.1  # seconds of the lease that are left when clients are cut off at the latest


class ClientIds:
    """IDs of clients that no other node gives out; `next` on it is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._next = self._end = 0
        self._later: list[range] = []

    @property
    def is_low(self) -> bool:
        """Whether it is time for more of them."""
        return not self._later

    def add(self, ids: range) -> None:
        """Give these out, too."""
        with self._lock:
            self._later.append(ids)

    def __iter__(self) -> ClientIds:
        return self

    def __next__(self) -> int:
        """Return another ID.

        Raises:
            HandshakeError: 503, there is none, as Redis is away.
        """
        with self._lock:
            if self._next == self._end:
                if not self._later:
                    raise HandshakeError(503, "the store is away", ("Retry-After", "1"))
                ids = self._later.pop(0)
                self._next, self._end = ids.start, ids.stop
            self._next += 1
            return self._next - 1


class SharedStore(Store):
    """Writes records, and reads them, as `Store` does; a room that is read is this node's.

    So is one that is damaged. One that another node has raises `HeldError`.
    """

    def __init__(self, database: RedisDatabase, count: Any) -> None:
        super().__init__(database, count)
        self._shared = database
        self._released: set[str] = set()  # guarded by `_changed`

    def release(self, room: str) -> None:
        """Let others have a room, once what waits of it has been written."""
        with self._changed:
            self._note_released(room)
            self._hurry()
            self._changed.notify()

    def _note_released(self, room: str) -> None:
        """Note a room that others may have; to a node that is alone it matters little."""
        if not self._is_full() or not self._shared.alone:
            self._released.add(room)

    def _is_full(self) -> bool:
        return len(self._released) >= MOST_RELEASED

    def _waits(self) -> bool:
        return super()._waits() or bool(self._released)

    # -- its thread --

    def _do_round(self) -> bool:
        goes_on = super()._do_round()
        with self._changed:
            waiting = self._pending.keys() | self._given.keys()
            names = [name for name in self._released if name not in waiting]
            self._released.difference_update(names)
        if names:
            try:
                self._shared.release(names)
            except (OSError, MemoryError) as error:
                self._fail(error)
                with self._changed:
                    self._released.update(names)
        return goes_on

    def _answer(self, question: Question) -> None:
        name = question.room
        with self._changed:
            if question.given_up:
                return
            # What waits of it is written first: then it is clear whether it still counts.
            if name in self._pending and not self._failing and not self._is_stopping():
                self._questions.append(question)
                self._hurry()
                return
            waits = name in self._pending
            # Each room that Redis may have given to this node, though nobody was told, is to be
            # released. Anybody can name rooms: while Redis is away there may be any number.
            if self._failing and self._is_full() and not waits and name not in self._released:
                self._conclude(question)
                return
            self._released.discard(name)
        if waits and self._shared.alone:  # then nobody else has written of it
            super()._answer(question)
            return
        is_clear = False  # whose it is
        try:
            if not waits:
                question.record = self._database.read(name)
                question.error, is_clear = None, True
        except HeldError as error:
            question.error, is_clear = error, True
        except ValueError as error:
            self._note_damage(question, error)
            is_clear = True
        except (OSError, MemoryError) as error:
            self._fail(error)
        finally:
            with self._changed:
                if question.given_up or not is_clear:
                    self._note_released(name)  # Redis may have given it to this node
                self._conclude(question)


class SharedRooms(StoredRooms):
    """The rooms of one of many nodes; see `StoredRooms`."""

    _store: SharedStore

    def __init__(self, config: Config, timer: Poller) -> None:
        super().__init__(config, timer)
        self.client_ids = self._ids = ClientIds()
        self._ending = threading.Event()
        # The lease, as this node knows it, and since when Redis has been asked to renew it, if it
        # is now; written by the thread "lease".
        self._valid_until = 0.0
        self._asked_at: float | None = None
        # These are that thread's alone.
        self._is_known = False  # it has said that it is alive, and nothing since was in vain
        self._sweep_at = 0.0

    def open_store(self, place: str) -> Store:
        """Return what writes to Redis."""
        self._database = RedisDatabase(place)
        self._database.claim()
        self._database.refuse = self._lose
        self.ending_time = self._database.lease + 2
        return SharedStore(self._database, self.count)

    def start(self) -> None:
        """Start the writer and the thread that says that this node is alive."""
        self._store.start()
        self._database.begin()
        self._sweep_at = time.monotonic() + SWEEP_PAUSE
        for _ in range(RENEWALS):  # it was there a moment ago
            self._keep()
            if self._is_known:
                break
        self._keeper = start_thread("lease", self._run)
        self._watch()

    def stop(self) -> None:
        """Write all that waits, and let others have the rooms."""
        super().stop()
        self._ending.set()
        self._keeper.join(self._database.lease)
        if not self._keeper.is_alive():  # or Redis still answers it
            self._database.leave()

    # -- rooms, and who has them; see `StoredRooms` --

    def must_be_read(self, name: str) -> bool:
        """Whether a room is not this node's."""
        return name not in self._owners

    def read(self, name: str) -> tuple[Record | None, bool]:
        """Take a room, and return its record; wait until who has it is known to be dead."""
        lease = self._database.lease
        deadline = time.monotonic() + lease + 1
        seen: object = None
        while True:
            try:
                return self._take(name)
            except HeldError as held:
                if (seen is not None and held.lease != seen) or time.monotonic() > deadline:
                    raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, str(held)) from None
                seen = held.lease  # if it is alive, it will soon have another one
                pause = min(held.left + 0.02, 1.2 * lease / RENEWALS)
            time.sleep(pause)

    def _take(self, name: str) -> tuple[Record | None, bool]:
        """Take a room that no other node has, and return what `read` does.

        Raises:
            HeldError: another one has it.
            ConnectionClosed: see `StoredRooms.read`.
        """
        try:
            record, is_lost = self._store.read(name), False
        except DamageError:
            record, is_lost = None, True
        except StoreError:
            if not self._database.alone:
                raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, NOT_NOW) from None
            log.error(BEGINS_ANEW, name)
            return None, True
        if self._is_late():  # rooms end just now
            self.put_back(name, record)
            raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, NOT_NOW)
        if is_lost:
            log.error(BEGINS_ANEW, name)
        return record, is_lost

    def put_back(self, name: str, record: Record | None) -> None:
        """Let others have a room again."""
        super().put_back(name, record)
        self._store.release(name)

    def begin_anew(self, name: str) -> None:
        """Forget what is stored of a room that stays this node's."""
        self._store.put(name, NOTHING)

    def note_token(self, seat: Seat) -> None:
        """Have a token written; see `StoredRooms`. A room that is done stays nobody's."""
        super().note_token(seat)
        room = seat.client.room
        assert isinstance(room, StoredRoom)
        name = room.name
        with self.lock:
            is_asleep = room.is_left and self.must_be_read(name) and name not in self._recalled
            if is_asleep and not room.is_lost and not seat.has_left:
                self._store.put_token(name, seat)
                self._store.release(name)

    def note_end(self, room: StoredRoom) -> None:
        """Let others have a room that is done."""
        self._store.release(room.name)

    def remove(self, room: StoredRoom) -> None:
        """Have what is stored of a room removed, if only whose it is."""
        with self.lock:
            if self._owners.get(room.name) is room:
                self._store.put(room.name, None)

    def _is_ending(self, name: str) -> bool:
        room = self._owners.get(name)
        return room is not None and (room.is_needed or room.farewell is not None)

    # -- the lease --

    def _run(self) -> None:
        while not self._ending.wait(self._database.lease / RENEWALS):
            try:
                self._keep()
            except BaseException:  # the lease depends on this thread; see `_watch`
                self._is_known = False
                report_failure()

    def _watch(self, suspected: float | None = None) -> None:
        """End rooms in time also if Redis, or the name of its host, is asked without end; a timer.

        That is seen twice, as a node that has been frozen may have its rooms still.

        Args:
            suspected: since when that seemed so the last time.
        """
        pause = self._database.lease / RENEWALS
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() < asked_at + 2 * pause:
            asked_at = None
        if not self._ending.is_set():
            self.timer.call_later(pause, functools.partial(self._watch, asked_at))
        if asked_at is not None and asked_at == suspected:
            self._end_in_time("it takes too long")

    def _keep(self) -> None:
        """Say that this node is alive, and look after what depends on it."""
        if self._asked_at is None:  # or the last time has raised what nobody expects
            self._asked_at = time.monotonic()
        try:
            was_alive = self._renew()
            if not was_alive or not self._is_known:
                self._give_up_lost()
            self._is_known = True
            if self._ids.is_low:
                self._ids.add(self._database.take_ids())
            if time.monotonic() > self._sweep_at:
                self._sweep_at = time.monotonic() + SWEEP_PAUSE
                self._database.sweep(self._patience, MAX_DORMANT)
        except OSError as error:
            self.count("store_failures")
            self._is_known = False
            self._end_in_time(str(error))
        self._asked_at = None

    def _renew(self) -> bool:
        """Renew the lease; return whether others have thought all the time that this is alive."""
        sent = time.monotonic()
        try:
            was_alive = self._database.renew()
        except OSError:
            sent = time.monotonic()
            was_alive = self._database.renew(again=True)
        # Redis may have said before that the lease had run out, in an answer that was lost.
        is_in_time = sent < self._valid_until
        self._valid_until = sent + self._database.lease
        return was_alive and is_in_time

    def _is_late(self) -> bool:
        """Whether so little of the lease is left that no room may be here."""
        lease = self._database.lease
        return not self._database.alone and time.monotonic() > self._valid_until - lease / 3

    def _give_up_lost(self) -> None:
        """End the rooms that others have taken while this node was not known to be alive."""
        with self.lock:
            names = list(self._owners)
        for name in self._database.find_lost(names):
            self._lose(name)
        with self.lock:  # one that has ended meanwhile may have been taken back
            for name in names:
                if self.must_be_read(name) and name not in self._recalled:
                    self._store.release(name)

    def _end_in_time(self, why: str) -> None:
        """End all rooms before others may have them."""
        if not self._is_late():
            return
        with self.lock:
            rooms = [room for room in self._owners.values() if room.farewell is None]
        if rooms:
            what = "1 room ends" if len(rooms) == 1 else f"{len(rooms)} rooms end"
            log.error("%s here, so as to go on elsewhere: %s", what, why)
        for room in rooms:
            self._end(room, RESTARTING, self._valid_until - CUT_MARGIN)

    def _lose(self, name: str) -> None:
        """End a room that another node has taken; nothing of it is saved."""
        with self.lock:
            room = self._owners.get(name)
        log.warning("room %s is not saved from here: another node has it", name)
        if room is not None and (room.farewell is None or room.farewell[1] != ELSEWHERE):
            room.is_lost = True
            self._end(room, ELSEWHERE, time.monotonic())

    def _end(self, room: StoredRoom, reason: str, deadline: float) -> None:
        """End a room; by then it has ended for its clients, whatever its program does."""
        with self.lock:
            self._remove(room)
        room.farewell = (CloseCode.SERVICE_RESTART, reason)
        room.inbox.close()
        self.timer.call_later(max(deadline - time.monotonic(), 0.0), room.cut)
