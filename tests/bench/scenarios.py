"""What is measured, and the targets: tables, and the few lines that read them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from tests.bench.processes import PEERS

Result = dict[str, Any]  # of one round; see `load.conclude`
Rounds = Sequence[Result]
Results = Mapping[str, Mapping[str, Rounds]]  # scenario, entrant

MISTAKES = ("lost", "duplicated", "reordered", "damaged")
CAT = ("cat",)
CENSUS = (sys.executable, str(PEERS / "census.py"))
KIB, MIB, MS = 1024, 1 << 20, 0.001


# ==== 1. Scenarios ========================================================


@dataclass(frozen=True)
class Scenario:
    """One thing to measure.

    Attributes:
        load: a function of `load.py`; `start` and `ticks` are measured without it.
        sizes: fields of its `Job`; `quick` replaces some of them.
        modes: what every server must be told.
        variants: more modes; each server that has them takes part once more for each.
        rooms: only for servers whose clients share a program.
        alone: only for this server.
    """

    name: str
    title: str
    load: str
    sizes: Mapping[str, float] = field(default_factory=dict)
    quick: Mapping[str, float] = field(default_factory=dict)
    unit: str = "msg/s"
    modes: Sequence[str] = ()
    variants: Sequence[Sequence[str]] = ((),)
    rooms: bool = False
    alone: bool = False
    backend: Sequence[str] = CAT


def _pour(name: str, title: str, count: int, size: int = 64, **more: Any) -> Scenario:
    sizes, quick = {"count": count, "size": size}, {"count": max(20, count // 100)}
    return Scenario(name, title, "pour", sizes, quick, **more)


def _room(name: str, title: str, load: str, sizes: Result, quick: Result, **more: Any) -> Scenario:
    more = {"unit": "deliveries/s", **more}
    return Scenario(name, title, load, sizes, quick, rooms=True, **more)


def _loop(clients: int, count: int) -> Scenario:
    title = f"broadcast to {clients:,}, the next when all have it"
    sizes = {"clients": clients, "count": count}
    quick = {"clients": max(2, clients // 10), "count": 20}
    return _room(f"closed-{clients}", title, "closed_loop", sizes, quick)


def _idle(clients: int) -> Scenario:
    title = f"{clients:,} idle clients, then all answer a call"
    sizes, quick = {"clients": clients, "quiet": 10.0}, {"clients": clients // 50}
    more = {"unit": "clients/s", "backend": CENSUS}
    return _room(f"idle-{clients}", title, "idle", sizes, quick, **more)


_TRIPS = {"count": 2000}, {"count": 100}
_BURST = {"clients": 200, "count": 500}, {"clients": 20, "count": 50}
_PACED = {"clients": 100, "count": 200}, {"clients": 10, "count": 25}
_ROOMS = {"rooms": 50, "clients": 4, "count": 500}, {"rooms": 5, "count": 50}
_CHATS = {"clients": 50, "count": 200, "size": KIB}, {"clients": 5, "count": 20}
_CROWD = {"players": 200, "seconds": 20}, {"players": 10, "seconds": 2}
_TLS: Result = {"variants": ((), ("tls",)), "alone": True}

SCENARIOS = (
    Scenario("echo", "echo, one message at a time", "closed_loop", *_TRIPS),
    _pour("firehose", "firehose, 200,000 of 64 B", 200_000),
    _pour("firehose-1k", "firehose, 50,000 of 1 KiB", 50_000, KIB),
    _pour("firehose-64k", "firehose, 1,000 of 64 KiB", 1_000, 64 * KIB),
    _pour("firehose-binary", "firehose, 200,000 of 64 B, binary", 200_000, modes=("binary",)),
    Scenario(
        "late-reader",
        "200,000 of 64 B, of which nothing is read before no more can be sent",
        "pour",
        {"count": 200_000, "late": True},
        {"count": 2000},
    ),
    _room("burst", "burst of 500 messages to 200 clients", "pour", *_BURST),
    _loop(clients=10, count=2000),
    _loop(clients=200, count=250),
    _loop(clients=1000, count=50),
    _room("paced", "broadcast to 100, 50 times a second", "paced", *_PACED),
    _room("rooms", "50 rooms of 4 clients at once, bursts of 500", "pour", *_ROOMS),
    _room(
        "storm",
        "1,000 clients enter one room",
        "storm",
        {"clients": 1000},
        {"clients": 50},
        unit="clients/s",
    ),
    Scenario(
        "spawn",
        "200 clients each start a program",
        "spawn",
        {"rooms": 200},
        {"rooms": 10},
        unit="clients/s",
    ),
    _idle(1000),
    _idle(10_000),
    Scenario("neighbour", "echo beside a room that is flooded", "neighbour", *_TRIPS),
    _room(
        "json",
        "firehose of 200,000 JSON messages, tagged and routed",
        "tagged",
        {"count": 200_000},
        {"count": 2000},
        unit="msg/s",
        modes=("json",),
    ),
    Scenario("tls-echo", "echo, plain and over TLS", "closed_loop", *_TRIPS, **_TLS),
    _pour("tls-firehose", "firehose, plain and over TLS", 200_000, **_TLS),
    _room(
        "compress",
        "burst of 200 messages of 1 KiB to 50 clients, plain and compressed",
        "pour",
        *_CHATS,
        variants=((), ("compress",)),
    ),
    Scenario(
        "start",
        "start to listening, as a script and as an installed command",
        "start",
        {"count": 10},
        {"count": 3},
        unit="",
        variants=((), ("installed",)),
    ),
    Scenario("ticks", "200 players in the sandbox", "ticks", *_CROWD, "packets/s", alone=True),
)


# ==== 2. Statistics =======================================================


def medians(rounds: Rounds) -> dict[str, float]:
    """Return the median of each figure over the rounds that have it."""
    names = {name for result in rounds for name, value in result.items() if is_figure(value)}
    columns = {name: [r[name] for r in rounds if is_figure(r.get(name))] for name in names}
    return {name: float(median(values)) for name, values in columns.items()}


def is_figure(value: object) -> bool:
    """Tell numbers from notes, flags and what was not measured."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def spread(rounds: Rounds, name: str) -> tuple[float, float]:
    """Return the least and the most of a figure."""
    values = [result[name] for result in rounds if is_figure(result.get(name))]
    return min(values), max(values)


def is_lossless(rounds: Rounds) -> bool:
    """Tell whether every round was complete and had no mistake in it."""
    return bool(rounds) and all(
        result.get("complete", False) and not any(result.get(name, 0) for name in MISTAKES)
        for result in rounds
    )


# ==== 3. Targets ==========================================================


@dataclass(frozen=True)
class Target:
    """What this server is to reach, as a ratio to a peer in the same run, or by itself.

    Attributes:
        figure: a name in the results, such as `rate`, or `p99` in seconds.
        limit: of the ratio, or of the figure.
        peer: the entrant that it is divided by; `best` is the lossless peer with the best figure.
        at_least: more is better; otherwise the limit is the most.
        other: the scenario of the peer, unless it is the same.
    """

    scenario: str
    figure: str
    limit: float
    peer: str = ""
    at_least: bool = False
    other: str = ""


def _faster(scenario: str, limit: float, peer: str, other: str = "") -> Target:
    return Target(scenario, "rate", limit, peer, at_least=True, other=other)


TARGETS = (
    _faster("firehose", 8, "websocketd"),
    _faster("firehose", 2.5, "best"),
    _faster("firehose-1k", 2.5, "websocketd"),
    _faster("firehose-64k", 1, "best"),
    _faster("firehose-binary", 1, "best"),
    _faster("json", 3, "websocketd", "firehose"),
    _faster("burst", 15, "best"),
    _faster("closed-200", 1.5, "scalesocket"),
    Target("closed-200", "cpu", 0.75, "scalesocket"),
    _faster("closed-1000", 1.5, "scalesocket"),
    Target("closed-1000", "cpu", 0.75, "scalesocket"),
    Target("echo", "p50", 0.9, "scalesocket"),
    Target("echo", "p99", 0.6, "scalesocket"),
    _faster("storm", 1.3, "scalesocket"),
    _faster("spawn", 1.5, "websocketd"),
    Target("idle-1000", "idle_client", 16 * KIB),
    Target("idle-10000", "idle_client", 16 * KIB),
    Target("idle-10000", "memory", 250 * MIB),
    Target("neighbour", "p99", 3 * MS),
    Target("start", "p50", 80 * MS),
)


class Verdict(NamedTuple):
    """How a target stands; `met` is None where it cannot be judged, and `reason` says why."""

    target: Target
    peer: str
    value: float
    met: bool | None
    reason: str


def judge(target: Target, results: Results) -> Verdict:
    """Hold a target against the results of one run."""
    entrants = results.get(target.scenario, {})
    ours = entrants.get("this", ())
    figures = [result.get(target.figure) for result in ours]
    if not any(map(is_figure, figures)):
        return Verdict(target, target.peer, 0.0, None, "not measured")
    others = results.get(target.other or target.scenario, {})
    peer = best_peer(others, target) if target.peer == "best" else target.peer
    if target.peer and not any(
        map(is_figure, (r.get(target.figure) for r in others.get(peer, ())))
    ):
        return Verdict(target, peer, 0.0, None, f"no result of {peer or 'a lossless peer'}")
    value = compare(target.figure, ours, others[peer]) if peer else medians(ours)[target.figure]
    enough = value >= target.limit if target.at_least else value <= target.limit
    lossless = is_lossless(ours)
    return Verdict(target, peer, value, enough and lossless, "" if lossless else "not lossless")


def best_peer(entrants: Mapping[str, Rounds], target: Target) -> str:
    """Return the lossless peer with the best median; an empty string if there is none."""
    figures = {
        name: medians(rounds)[target.figure]
        for name, rounds in entrants.items()
        if name.split()[0] != "this" and is_lossless(rounds)
    }
    pick = max if target.at_least else min
    return pick(figures, key=lambda name: figures[name], default="")


def compare(figure: str, ours: Rounds, theirs: Rounds) -> float:
    """Return the median ratio of a figure; rounds are paired, for they were run in turn."""
    pairs = [(our.get(figure), their.get(figure)) for our, their in zip(ours, theirs, strict=False)]
    ratios = [our / their for our, their in pairs if is_figure(our) and is_figure(their) and their]
    return median(ratios) if ratios else 0.0
