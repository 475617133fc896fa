"""The benchmark: this server beside others of its kind, in one run on one machine.

    python3 -m tests.bench                        everything, with every peer that can be had
    python3 -m tests.bench echo 'firehose*'       some of it
    python3 -m tests.bench --quick --peers none   does it work? its figures mean nothing

Each scenario is measured in rounds, and in each round every server in turn, started afresh. Peers
are found on PATH or installed, with the package client of their language, into a folder for them;
one that cannot be had is left out, and the report says why. Linux only.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.bench.processes import (
    CACHE,
    INSTALLED,
    OTHERS,
    THIS,
    BenchError,
    Program,
    cpu_seconds,
    find_program,
    from_pip,
    make_certificate,
    memory,
    run_installer,
    running,
)
from tests.bench.report import draw, format_result, format_scenario, format_verdicts
from tests.bench.scenarios import (
    SCENARIOS,
    TARGETS,
    Result,
    Scenario,
    is_lossless,
    judge,
    medians,
)
from tests.support import ROOT

FILES = 65_536  # descriptors, where the system allows so many
LIMIT = 60.0  # seconds for one measurement


class Entrant(NamedTuple):
    """A server in a mode."""

    name: str
    program: Program
    modes: tuple[str, ...]


# ==== 1. One measurement ==================================================


def entrants(scenario: Scenario, programs: Sequence[Program]) -> Iterator[Entrant]:
    """Return who takes part."""
    for program in programs:
        peer = program.peer
        for variant in scenario.variants:
            modes = (*scenario.modes, *variant)
            able = set(modes) <= set(peer.modes) and (peer.rooms or not scenario.rooms)
            if able and (peer is THIS or not scenario.alone):
                yield Entrant(" ".join((peer.name, *variant)), program, modes)


def measure(scenario: Scenario, entrant: Entrant, options: argparse.Namespace) -> Result:
    """Measure once; a server that fails, stops or hangs gets a note, and no exception."""
    sizes = {**scenario.sizes, **(scenario.quick if options.quick else {})}
    try:
        if scenario.load == "ticks":
            return measure_ticks(sizes, options.cache)
        if scenario.load == "start":
            return measure_start(entrant, int(sizes["count"]), options.cache)
        if "tls" in entrant.modes:
            make_certificate(options.cache)
        with running(entrant.program, entrant.modes, scenario.backend, options.cache) as server:
            job = {"load": scenario.load, "port": server.port, "pid": server.pid, **sizes}
            job |= {"modes": entrant.modes, "ending": entrant.program.peer.ending, "limit": LIMIT}
            result = generate(job)
            return {**result, "memory": memory(server.pid)}
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return {"complete": False, "note": f"failed: {error}"}


def generate(job: Mapping[str, object]) -> Result:
    """Run the load generator."""
    command = [sys.executable, "-m", "tests.bench.load", json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * LIMIT)
    if done.returncode != 0 or not done.stdout:
        raise BenchError(f"the load generator: {done.stderr.strip()[-200:]}")
    result: Result = json.loads(done.stdout)
    return result


def measure_start(entrant: Entrant, count: int, folder: Path) -> Result:
    """Start a server some times, and measure until it listens."""
    rounds, program = [], entrant.program
    if "installed" in entrant.modes:
        program = replace(program, command=(sys.executable, "-c", INSTALLED))
    for _ in range(count):
        with running(program, entrant.modes, ("cat",), folder) as server:
            used = {"cpu": cpu_seconds(server.pid), "memory": memory(server.pid)}
            rounds.append({"p50": server.seconds_to_listen, **used})
    return {**medians(rounds), "complete": True}


def measure_ticks(sizes: Mapping[str, float], folder: Path) -> Result:
    """Run `tests.bench.ticks`, in an environment that has msgpack."""
    python = find_msgpack(folder)
    arguments = [f"--{name}={value}" for name, value in sizes.items()]
    command = [python, "-m", "tests.bench.ticks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * LIMIT)
    on_time = re.search(r"ticks: .*", done.stdout)
    rate = re.search(r"([\d,]+) packets/s", done.stdout)
    if on_time is None or rate is None:
        raise BenchError(done.stderr.strip()[-200:])
    return {"rate": float(rate[1].replace(",", "")), "complete": True, "note": on_time[0]}


def find_msgpack(folder: Path) -> str:
    """Return a Python that has msgpack, which the sandbox needs."""
    own = folder / "venv" / "bin" / "python"
    for python in (sys.executable, os.fspath(own)):
        if os.path.exists(python) and has_msgpack(python):
            return python
    reason = run_installer(from_pip("msgpack"), folder)
    if reason:
        raise BenchError(f"no msgpack: {reason}")
    return os.fspath(own)


def has_msgpack(python: str) -> bool:
    """Tell whether a Python can import msgpack."""
    return subprocess.run([python, "-c", "import msgpack"], capture_output=True).returncode == 0


# ==== 2. The run ==========================================================


def find_programs(options: argparse.Namespace) -> tuple[list[Program], list[str]]:
    """Return the servers that are there, and a line for each that is not."""
    programs = [find_program(THIS, options.cache)]
    left_out = []
    for peer in OTHERS:
        if peer.name not in options.peers:
            continue
        try:
            programs.append(find_program(peer, options.cache, options.install))
        except (BenchError, OSError, subprocess.TimeoutExpired) as error:
            left_out.append(f"{peer.name} is left out: {error}")
    return programs, left_out


def run(
    chosen: Sequence[Scenario], programs: Sequence[Program], options: argparse.Namespace
) -> dict[str, dict[str, list[Result]]]:
    """Measure every scenario; with Ctrl-C return what is there."""
    results: dict[str, dict[str, list[Result]]] = {}
    try:
        for scenario in chosen:
            mine = results[scenario.name] = {}
            for number in range(options.rounds):
                for entrant in entrants(scenario, programs):
                    result = measure(scenario, entrant, options)
                    mine.setdefault(entrant.name, []).append(result)
                    head = f"{scenario.name} {number + 1}/{options.rounds} {entrant.name}"
                    line = f"{head}: {format_result(result, scenario.unit)}"
                    print(line, file=sys.stderr, flush=True)
            print(format_scenario(scenario, mine), flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return results


def describe_machine(programs: Sequence[Program]) -> dict[str, str]:
    """Return what the figures depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    command = ["git", "-C", os.fspath(ROOT), "describe", "--always", "--dirty"]
    ours = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "this": ours or "no git commit",
    } | {program.peer.title: program.version for program in programs if program.version}


def raise_file_limit() -> None:
    """Allow this process, and what it starts, as many descriptors as may be."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, FILES), most))


# ==== 3. The command ======================================================


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    names = [peer.name for peer in OTHERS]
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.bench",
        description=summary,
        epilog=rest + "\nscenarios: " + ", ".join(scenario.name for scenario in SCENARIOS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="names or patterns")
    parser.add_argument("--rounds", type=int, help="of each scenario (5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="tiny counts")
    parser.add_argument("--peers", default=",".join(names), help="of %(default)s, or none")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for peers (%(default)s)")
    parser.add_argument(
        "--no-install", dest="install", action="store_false", help="only peers that are there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture there")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.peers = [name for name in options.peers.split(",") if name not in ("", "none")]
    unknown = [name for name in options.peers if name not in names]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(names)}")
    if not choose(options.scenarios):
        parser.error(f"no such scenario: {' '.join(options.scenarios)}")
    return options


def choose(patterns: Sequence[str]) -> list[Scenario]:
    """Return the scenarios that match any pattern; all without one."""
    return [
        scenario
        for scenario in SCENARIOS
        if not patterns or any(fnmatch.fnmatch(scenario.name, pattern) for pattern in patterns)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; return 1 if this server failed or lost anything."""
    options = parse_arguments(arguments)
    raise_file_limit()
    options.cache.mkdir(parents=True, exist_ok=True)
    programs, left_out = find_programs(options)
    machine = describe_machine(programs)
    if options.quick:
        machine["quick"] = "counts are tiny, and figures mean nothing"
    print(*(f"{name}: {value}" for name, value in machine.items()), *left_out, sep="\n", flush=True)
    results = run(choose(options.scenarios), programs, options)
    verdicts = [judge(target, results) for target in TARGETS if target.scenario in results]
    print(format_verdicts(verdicts))
    if options.json:
        targets = [verdict._asdict() | {"target": vars(verdict.target)} for verdict in verdicts]
        whole = {"machine": machine, "left_out": left_out, "results": results, "targets": targets}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(draw(results, machine))
    ours = [rounds["this"] for rounds in results.values() if rounds]
    return 0 if all(map(is_lossless, ours)) else 1


if __name__ == "__main__":
    if not sys.platform.startswith("linux"):
        sys.exit("tests.bench: Linux is needed, for it reads /proc")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    sys.exit(main())
