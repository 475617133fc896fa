"""How many messages a second one client may send (--maxrate, `Game.max_rate`).

A second's worth may come at once. Whoever sends more is read at that pace: nothing is lost, TCP
slows the client down, and nobody else waits. Its room gets what it may have, in order, and the rest
waits with the reader: what has come in one `recv`, and nothing beyond it.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scalesocket import Messages, Reader, Readers, Want, parse_count

if TYPE_CHECKING:
    from scalesocket import Config, Event, Room, RoomRegistry, Session

# fmt: off
OPTIONS = (
    ("--maxrate", "NUM", parse_count,
     "messages a second of one client; one that sends more is read no faster (default 0: any "
     "number)"),
)
# fmt: on
MIN_PAUSE = 0.02  # seconds
MAX_PAUSE = 0.5  # seconds after which it is looked whether the client is still there


def find_rate(config: Config) -> int:
    """Return how many messages a second one client may send; 0: any number."""
    limits = config.maxrate, config.game.max_rate if config.game else 0
    return min((limit for limit in limits if limit), default=0)


def limit(config: Config, registry: RoomRegistry) -> type[Readers]:
    """Return readers that hold clients to the rate."""

    class LimitedReader(RateReader):
        rate = find_rate(config)
        count = registry.count

    class LimitedReaders(Readers):
        kind = LimitedReader

    return LimitedReaders


def split(run: Messages, count: int) -> tuple[Messages, Messages]:
    """Return the first so many messages of a run, and the others."""
    first, rest = copy.copy(run), copy.copy(run)
    first.payloads, rest.payloads = run.payloads[:count], run.payloads[count:]
    first.size = run.size * count // len(run.payloads)
    rest.size -= first.size
    return first, rest


def take_first(events: list[Event], count: int) -> tuple[list[Event], list[Event], int]:
    """Return events up to so many messages, those behind them, and how many messages are left."""
    for at, event in enumerate(events):
        if not isinstance(event, Messages):
            continue
        if len(event.payloads) > count:
            first, rest = split(event, count)
            return [*events[:at], *([first] if count else [])], [rest, *events[at + 1 :]], 0
        count -= len(event.payloads)
    return events, [], count


class RateReader(Reader):
    """A reader that passes on so many messages a second of each client, and keeps the rest."""

    rate: int  # messages a second
    count: Callable[[str], None]  # is told how often a client had to wait

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # These are its thread's alone.
        self._spent: dict[Session, float] = {}  # when it may send a second's worth again
        self._kept: dict[Session, list[Event]] = {}  # what has come, and may not be passed on yet
        self._timed: set[Session] = set()  # `_continue` will be called
        self._slowed: set[Session] = set()  # the log has told of it

    def attend(self, session: Session) -> None:
        """Have a session get what it wants; it may be that it is in a room no longer."""
        self._spent.pop(session, None)
        self._slowed.discard(session)
        super().attend(session)

    def start_reading(self, session: Session) -> None:
        """Read a session from now on, or once what is kept of it has been passed on."""
        if session in self._kept:  # its room's inbox was full, and is no longer
            self._go_on(session)
        else:
            super().start_reading(session)

    def _dispatch(
        self, session: Session, events: list[Event] | None, batches: dict[Room, list[Messages]]
    ) -> None:
        """Pass on what a client may say now, and keep the rest."""
        if not events or session.want is not Want.MESSAGES:
            super()._dispatch(session, events, batches)
            return
        client = session.client
        assert client is not None
        if not self._is_there(session):  # it says nothing more, and its end is to be heard
            super()._dispatch(session, events, batches)
            return
        now = time.monotonic()
        spent = max(now, self._spent.get(session, now))
        allowed = int((now + 1.0 - spent) * self.rate + 1e-6)
        first, rest, left = take_first(events, allowed)
        spent += (allowed - left) / self.rate
        self._spent[session] = spent
        if rest:
            self._wait(session, rest, spent - 1.0 + 1 / self.rate - now)
        if first or not rest:
            super()._dispatch(session, first, batches)
        if rest:
            self._ready.pop(session, None)

    def _wait(self, session: Session, rest: list[Event], seconds: float) -> None:
        """Keep what a client has said, and read no more of it for so long."""
        if session not in self._timed:  # first, as there may be no memory for it
            pause = min(max(seconds, MIN_PAUSE), MAX_PAUSE)
            self.call_later(pause, functools.partial(self._continue, session))
            self._timed.add(session)
        self._kept[session] = rest
        if session.connection.is_reading:
            self._unwatch(session)
            session.connection.set_reading(False)
            self.count("slowed_down")
            if session not in self._slowed and session.client and session.client.room:
                self._slowed.add(session)
                text = "sends more than %d messages a second; it is read no faster (--maxrate)"
                session.client.room.log.warning(text, self.rate, client=session.client.id)

    def _continue(self, session: Session) -> None:
        self._timed.discard(session)
        if session in self._kept and not session.held:  # else `_unpause` will do it
            self._go_on(session)

    def _go_on(self, session: Session) -> None:
        """Pass on what may be passed on by now, and read on if that is all."""
        batches: dict[Room, list[Messages]] = {}
        try:
            self._dispatch(session, self._kept.pop(session, []), batches)
            for room, runs in batches.items():
                room.receive(runs)
        except BaseException:  # what it has said may be lost: it must not go on
            session.connection.abort()
            raise
        finally:
            is_over = session.want is not Want.MESSAGES
            if not (is_over or session in self._kept or session.held):
                session.connection.set_reading(True)
                super().start_reading(session)
