"""What the benchmark says: tables of text, and a picture of the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tests.bench.processes import OTHERS, THIS
from tests.bench.scenarios import (
    MIB,
    MISTAKES,
    SCENARIOS,
    Result,
    Results,
    Rounds,
    Scenario,
    Verdict,
    is_figure,
    is_lossless,
    medians,
    spread,
)

BUSY = 0.8  # of a core: a generator that works harder may be what limits a result
TITLES = {peer.name: peer.title for peer in (THIS, *OTHERS)}


# ==== 1. Text =============================================================

COLUMNS = ("", "per s", "least – most", "p50 ms", "p99 ms", "lost", "twice", "late", "bad") + (
    ("CPU µs", "child µs", "MiB", "gen.")
)
LEGEND = f"""\
per s: median of the rounds; CPU: of the server alone, for each message; child: of what it started;
lost, twice, late (out of order), bad (altered): messages in all rounds; MiB: peak resident memory;
gen.: how busy the load generator was; !: over {BUSY:.0%}, it may be what limits the result"""


def title(entrant: str) -> str:
    """Return an entrant as the tables call it."""
    name, _, modes = entrant.partition(" ")
    return f"{TITLES.get(name, name)}{', ' if modes else ''}{modes}"


def shown(value: object, form: str = ",.0f", scale: float = 1.0) -> str:
    """Return a figure as text, or a dash if there is none."""
    return format(value * scale, form) if isinstance(value, int | float) else "–"


def format_result(result: Result, unit: str) -> str:
    """Return one round in a line."""
    parts = [f"{shown(result['rate'])} {unit}"] if is_figure(result.get("rate")) else []
    for name in ("p50", "p99"):
        if is_figure(result.get(name)):
            parts.append(f"{name} {shown(result[name], '.3f', 1000)} ms")
    parts += [f"{result[name]:,} {name}" for name in MISTAKES if result.get(name)]
    parts += [] if result.get("complete") else ["STOPPED"]
    parts += [result["note"]] if result.get("note") else []
    return "; ".join(parts)


def format_scenario(scenario: Scenario, entrants: Mapping[str, Rounds]) -> str:
    """Return the table of a scenario."""
    rows = [COLUMNS, *(make_row(name, rounds) for name, rounds in entrants.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    unit = f" ({scenario.unit})" if scenario.unit else ""
    lines = [f"\n{scenario.name}: {scenario.title}{unit}"]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join((row[0].ljust(widths[0]), *cells)).rstrip())
    lines += [f"  {title(name)}: {note}" for name, r in entrants.items() for note in notes(r)]
    return "\n".join(lines)


def make_row(name: str, rounds: Rounds) -> tuple[str, ...]:
    """Return the cells of an entrant."""
    middle = medians(rounds)
    low_high = "–"
    if "rate" in middle:
        low_high = " – ".join(shown(value) for value in spread(rounds, "rate"))
    mistakes = [shown(sum(r[name] for r in rounds if name in r)) for name in MISTAKES]
    busy = middle.get("generator")
    return (
        title(name),
        shown(middle.get("rate")),
        low_high,
        *(shown(middle.get(name), ".3f", 1000) for name in ("p50", "p99")),
        *mistakes,
        *(shown(middle.get(name), ".2f", 1e6) for name in ("cpu", "children_cpu")),
        shown(middle.get("memory"), ".1f", 1 / MIB),
        shown(busy, ".0%") + ("!" if busy is not None and busy > BUSY else ""),
    )


def notes(rounds: Rounds) -> Iterator[str]:
    """Say what the table does not: what stopped, what failed, what a load has noticed."""
    stopped = [result for result in rounds if not result.get("complete")]
    if stopped:
        came = ", ".join(shown(result.get("received")) for result in stopped)
        yield f"stopped in {len(stopped)} of {len(rounds)} rounds; messages that came: {came}"
    idle = medians(rounds).get("idle_client")
    if idle is not None:
        yield f"{idle / 1024:.1f} KiB for each idle client"
    yield from dict.fromkeys(result["note"] for result in rounds if result.get("note"))


def format_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Return the section about the targets."""
    words = {True: "met", False: "NOT MET", None: "not judged"}
    rows = [(words[verdict.met], *describe(verdict)) for verdict in verdicts]
    width = max((len(row[1]) for row in rows), default=0)
    lines = (f"  {word:10}  {target:{width}}  {value}" for word, target, value in rows)
    return "\n".join(["", LEGEND, "", "targets:", *lines])


def describe(verdict: Verdict) -> tuple[str, str]:
    """Return a target in words, and what was measured."""
    target, sign = verdict.target, "≥" if verdict.target.at_least else "≤"
    units = {"memory": (1 / MIB, "MiB"), "idle_client": (1 / 1024, "KiB")}
    scale, unit = (1.0, "×") if target.peer else units.get(target.figure, (1000, "ms"))
    rival = "the best lossless peer" if target.peer == "best" else target.peer
    where = f" in {target.other}" if target.other else ""
    limit = f"{target.limit * scale:.4g} {unit} {rival}{where}".rstrip()
    value = f"{verdict.value * scale:.4g} {unit} {verdict.peer}".rstrip()
    reason = f" ({verdict.reason})" if verdict.met is False and verdict.reason else ""
    shown_value = verdict.reason if verdict.met is None else value + reason
    return f"{target.scenario}: {target.figure} {sign} {limit}", shown_value


# ==== 2. A picture ========================================================
# Colours of middle brightness on no background, so that a light and a dark page both will do.

CHARTED = (  # scenario, figure
    *((name, "rate") for name in ("firehose", "burst", "closed-200", "rooms", "storm", "spawn")),
    *((name, "p99") for name in ("echo", "neighbour")),
)
INK, OURS, THEIRS, FAULTY = "#768390", "#2f81f7", "#8b949e", "#d29922"
WIDTH, LEFT, BAR, STEP = 760, 170, 380, 22  # pixels


def draw(results: Results, machine: Mapping[str, str]) -> str:
    """Return an SVG picture: a group of bars for each scenario that was run."""
    parts: list[str] = []
    y = 24
    for name, figure in CHARTED:
        entrants = results.get(name, {})
        if not entrants:
            continue
        scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
        unit = scenario.unit if figure == "rate" else f"{figure} in ms; less is better"
        parts.append(text(0, y, f"{scenario.title} ({unit})", "font-weight='600'"))
        most = max((medians(r).get(figure, 0.0) for r in entrants.values()), default=0.0)
        for entrant, rounds in entrants.items():
            y += STEP
            parts += draw_bar(y, entrant, rounds, figure, most)
        y += STEP + 14
    facts = (machine.get(name, "") for name in ("cpu", "cores", "kernel", "python", "date"))
    parts.append(text(0, y, "{} × {}, {}, Python {}, {}".format(*reorder(facts)), "font-size='11'"))
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {y + 12}'"
    style = f"font-family='system-ui,sans-serif' font-size='13' fill='{INK}'"
    return "\n".join([f"{head} width='{WIDTH}' {style}>", *parts, "</svg>", ""])


def reorder(facts: Iterator[str]) -> tuple[str, ...]:
    """Put the number of cores before their name."""
    cpu, cores, *rest = facts
    return (cores, cpu, *rest)


def draw_bar(y: int, entrant: str, rounds: Rounds, figure: str, most: float) -> list[str]:
    """Return one bar, its label and its value."""
    value = medians(rounds).get(figure)
    label = text(LEFT - 10, y, title(entrant), "text-anchor='end'")
    if value is None:
        return [label, text(LEFT, y, "–" + describe_fault(rounds))]
    faulty = not is_lossless(rounds)
    colour = FAULTY if faulty else OURS if entrant.startswith("this") else THEIRS
    length = max(1.0, BAR * value / most) if most else 1.0
    bar = f"<rect x='{LEFT}' y='{y - 11}' width='{length:.1f}' height='14' rx='2' fill='{colour}'/>"
    number = shown(value, ".2f", 1000) if figure in ("p50", "p99") else shown(value)
    return [
        label,
        bar,
        text(LEFT + length + 8, y, number + (describe_fault(rounds) if faulty else "")),
    ]


def describe_fault(rounds: Rounds) -> str:
    """Say what is wrong with a result."""
    lost = sum(result.get("lost", 0) for result in rounds)
    sent = lost + sum(result.get("received", 0) for result in rounds)
    stopped = sum(not result.get("complete") for result in rounds)
    parts = [f"lost {lost / sent:.1%}"] if lost else ["with faults"]
    parts += [f"stopped in {stopped} of {len(rounds)} rounds"] if stopped else []
    return ", ".join(["", *parts])


def text(x: float, y: float, content: str, more: str = "") -> str:
    """Return a line of text."""
    return f"<text x='{x:.0f}' y='{y}' {more}>{escape(content)}</text>"
