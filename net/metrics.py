"""Numbers for whoever watches the server (`--metrics`), in the OpenMetrics text format 1.0."""

from __future__ import annotations

import bisect
import copy
import functools
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from scalesocket import (
    FLAG,
    Game,
    Request,
    Response,
    Room,
    RoomRegistry,
    Server,
    Traffic,
    log,
)

from .history import MAX_REMEMBERED_ROOMS, HistoryMembers
from .mistakes import CheckedGame
from .rooms import PatientRooms

LATE_TICK = 0.01  # seconds after its time, from which a tick counts as late

OPTIONS = (("--metrics", "", FLAG, "OpenMetrics at /metrics"),)


class Histogram:
    """How often a value has fallen below each of some bounds, as OpenMetrics counts it."""

    BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, math.inf)  # seconds

    def __init__(self) -> None:
        self.counts = [0] * len(self.BOUNDS)  # of values up to each bound, and over the last
        self.total = 0.0

    def __add__(self, other: Histogram) -> Histogram:
        both = Histogram()
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.BOUNDS, value)] += 1
        self.total += value


class Ticks:
    """How punctual games have been."""

    late = 0
    skipped = 0

    def __init__(self) -> None:
        self.times = Histogram()  # how long `on_tick` took
        self.lateness = Histogram()  # how late it began

    def __add__(self, other: Ticks) -> Ticks:
        both = Ticks()
        both.times = self.times + other.times
        both.lateness = self.lateness + other.lateness
        both.late = self.late + other.late
        both.skipped = self.skipped + other.skipped
        return both


class MeasuredGame(CheckedGame):
    """A game whose ticks are timed."""

    def __init__(self, game: type[Game]) -> None:
        super().__init__(game)
        self.ticks = Ticks()

    def _tick(self, now: float) -> None:
        due = self._next_tick
        super()._tick(now)
        self.ticks.times.observe(time.monotonic() - now)
        self.ticks.lateness.observe(now - due)
        self.ticks.late += now - due > LATE_TICK
        self.ticks.skipped += round((self._next_tick - due) / self._interval) - 1


class Totals:
    """What rooms have had since the server has started, also those that are gone.

    Args:
        registry: theirs, whose lock guards all of this.
    """

    def __init__(self, registry: RoomRegistry) -> None:
        self._registry = registry
        self._past = Traffic()  # of rooms that are gone
        self._visits: dict[str, int] = {}  # of rooms that are gone, by name; the latest
        self._ticks = Ticks()  # of games that are gone

    def keep(self, room: Room) -> None:
        """Add what a room has had that is done: all of it, or nothing, if memory runs out.

        The lock is held.
        """
        past, visits = copy.copy(self._past), self._visits.copy()
        add_traffic(past, room.traffic)
        visits[room.name] = visits.pop(room.name, 0) + room.visits
        if len(visits) > MAX_REMEMBERED_ROOMS:
            visits.pop(next(iter(visits)))
        self._past, self._visits, self._ticks = past, visits, add_ticks(self._ticks, room)

    def add_up(self) -> tuple[Traffic, dict[str, int]]:
        """Return all traffic so far, and how many clients have come, by room."""
        with self._registry.lock:
            traffic, visits = copy.copy(self._past), Counter(self._visits)
            for room in self._registry.running:
                add_traffic(traffic, room.traffic)
                visits[room.name] += room.visits
            return traffic, visits

    def add_up_ticks(self) -> Ticks:
        """Return how punctual all games have been."""
        with self._registry.lock:
            return functools.reduce(add_ticks, self._registry.running, self._ticks)


def add_ticks(total: Ticks, room: Room) -> Ticks:
    """Return the ticks of a room's game added to others."""
    game = room.backend
    return total + game.ticks if isinstance(game, MeasuredGame) else total


def add_traffic(total: Traffic, traffic: Traffic) -> None:
    """Add a room's numbers to others."""
    for name in Traffic.__annotations__:
        setattr(total, name, getattr(total, name) + getattr(traffic, name))


def find_totals(registry: RoomRegistry) -> Totals:
    """Return the totals of a registry; they are made when they are first asked for."""
    assert isinstance(registry, PatientRooms)
    if registry.totals is None:
        registry.totals = Totals(registry)
    return registry.totals


class Metrics:
    """The answer to `/metrics`.

    Args:
        registry: what is counted.
    """

    CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    def __init__(self, registry: RoomRegistry) -> None:
        self._registry = registry
        self._totals = find_totals(registry)

    def respond(self, _request: Request) -> Response:
        """Return all metrics."""
        text = "".join(self._families()) + "# EOF\n"
        return Response(200, text.encode(), content_type=self.CONTENT_TYPE)

    def _families(self) -> Iterator[str]:
        (traffic, visits), rooms = self._totals.add_up(), self._registry.running.copy()
        counts = self._registry.counts
        seats: Counter[str] = Counter()
        for room in rooms:
            seats[room.name] += len(room.clients)
        connections = [client.connection for room in rooms for client in list(room.clients)]
        name = "websocket_connections"
        yield self._family(name, "counter", "Clients that have joined.", visits)
        yield self._family(f"{name}_open", "gauge", "Clients that are there.", seats)
        dropped_seats = sum(client.dropped for room in rooms for client in list(room.clients))
        text = "Clients without a connection that may come back."
        yield self._family("seats_dropped", "gauge", text, dropped_seats)
        yield self._family("messages_received", "counter", "From clients.", traffic.messages_in)
        yield self._family("messages_sent", "counter", "To clients.", traffic.messages_out)
        yield self._family("received_bytes", "counter", "From clients.", traffic.bytes_in, "bytes")
        yield self._family("sent_bytes", "counter", "To clients.", traffic.bytes_out, "bytes")
        yield self._family(
            "messages_dropped", "counter", "Messages that could not be used.", traffic.dropped
        )
        yield self._family(
            "slow_clients_closed", "counter", "Clients that did not read.", traffic.slow_closed
        )
        text = "Connections over --maxperaddr."
        yield self._family("address_refusals", "counter", text, counts["refused_by_address"])
        text = "Times that a client had to wait for --maxrate."
        yield self._family("rate_waits", "counter", text, counts["slowed_down"])
        yield self._family("rooms", "gauge", "Rooms that are running.", len(rooms))
        if (relays := self._registry.relays) is not None:
            name, text = "relayed_connections", "Clients passed through to other nodes"
            yield self._family(name, "counter", f"{text}.", relays.total)
            yield self._family(f"{name}_open", "gauge", f"{text}, now.", relays.count)
        for verb in ("started", "exited"):
            number = counts[f"children_{verb}"]
            yield self._family(f"children_{verb}", "counter", f"Children {verb}.", number)
        text = "Records of rooms that were written (--store)."
        yield self._family("rooms_saved", "counter", text, counts["rooms_saved"])
        text = "Times that the store could not be used."
        yield self._family("store_failures", "counter", text, counts["store_failures"])
        inbox = sum(room.inbox.size for room in rooms)
        yield self._family("inbox_bytes", "gauge", "Waiting for backends.", inbox, "bytes")
        backlog = sum(connection.backlog_size for connection in connections)
        yield self._family("backlog_bytes", "gauge", "Waiting for clients.", backlog, "bytes")
        yield from self._describe_history(rooms)
        dropped = sum(getattr(handler, "dropped", 0) for handler in log.handlers)
        text = "Lines of the log that nobody read in time."
        yield self._family("log_lines_dropped", "counter", text, dropped)
        yield from self._describe_ticks(self._totals.add_up_ticks())

    def _describe_history(self, rooms: set[Room]) -> Iterator[str]:
        """Yield what is kept for newcomers, and what they are yet to get of it."""
        assert isinstance(self._registry, PatientRooms)
        histories = self._registry.histories
        archive = None if histories is None else histories.archive
        size, dropped = (archive.size, archive.dropped) if archive is not None else (0, 0)
        told = [room.members for room in rooms if isinstance(room.members, HistoryMembers)]
        left = sum(replay.left for some in told for replay in some.newcomers.copy().values())
        yield self._family("history_bytes", "gauge", "Kept for newcomers.", size, "bytes")
        yield self._family("replay_bytes", "gauge", "Yet to be replayed.", left, "bytes")
        text = "Messages of histories that outgrew --cachebytes."
        yield self._family("history_messages_dropped", "counter", text, dropped)

    def _describe_ticks(self, ticks: Ticks) -> Iterator[str]:
        """Yield how punctual in-process games are."""
        yield self._histogram("tick_seconds", "How long a tick took.", ticks.times)
        yield self._histogram("tick_lateness_seconds", "How late a tick began.", ticks.lateness)
        late = f"Ticks over {LATE_TICK} s late."
        yield self._family("ticks_late", "counter", late, ticks.late)
        skipped = "Ticks left out after a delay."
        yield self._family("ticks_skipped", "counter", skipped, ticks.skipped)

    @staticmethod
    def _histogram(name: str, text: str, histogram: Histogram) -> str:
        name = f"scalesocket_{name}"
        lines = [f"# TYPE {name} histogram", f"# UNIT {name} seconds", f"# HELP {name} {text}"]
        below = 0
        for bound, count in zip(histogram.BOUNDS, histogram.counts, strict=True):
            below += count
            label = "+Inf" if bound == math.inf else bound
            lines.append(f'{name}_bucket{{le="{label}"}} {below}')
        lines += [f"{name}_count {below}", f"{name}_sum {histogram.total}"]
        return "\n".join(lines) + "\n"

    @staticmethod
    def _family(
        name: str, kind: str, text: str, value: int | Mapping[str, int], unit: str = ""
    ) -> str:
        name = f"scalesocket_{name}"
        lines = [f"# TYPE {name} {kind}", *([f"# UNIT {name} {unit}"] if unit else [])]
        lines.append(f"# HELP {name} {text}")
        sample = f"{name}_total" if kind == "counter" else name
        if isinstance(value, int):
            lines.append(f"{sample} {value}")
        else:
            for room, number in sorted(value.items()):
                label = room.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
                lines.append(f'{sample}{{room="{label}"}} {number}')
        return "\n".join(lines) + "\n"


def set_up(server: Server) -> None:
    """Have a server answer `/metrics`, and time the ticks of its game, if it is one."""
    server.site.metrics = Metrics(server.registry)
    if server.config.game is not None:
        server.registry.make_backend = functools.partial(MeasuredGame, server.config.game)
