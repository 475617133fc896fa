"""A crowd that talks: players who all send, and a state that all are sent at each tick.

    python3 -m tests.bench.crowd                       200, 500, 1,000, 2,000 in one room; 900 in 45
    python3 -m tests.bench.crowd 1000 900/20           these: CLIENTS, or CLIENTS/ROOM_SIZE
    python3 -m tests.bench.crowd 1000 --peers seats    what seats cost (--resume)
    python3 -m tests.bench.crowd 1000/1 --ticks 1 --inputs 1 --seconds 30 --peers store
                                                       what 1,000 rooms cost that save 10 KB each
    python3 -m tests.bench.crowd --quick --peers none  does it work? its figures mean nothing

Each round starts every server afresh, in turn. The load generator is `crowd.c`, built with the
machine's compiler; a result in which it was itself busy is marked with `!`. The peers are Node's
`ws`, `picows` on uvloop, and `websockets`; one that cannot be had is left out with a line that says
why. Linux only. It exits with 1 if this server lost a state or an input.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.bench.processes import (
    PEERS,
    BenchError,
    Peer,
    Program,
    from_pip,
    memory,
    run_installer,
    running,
)
from tests.bench.report import BUSY, shown
from tests.bench.scenarios import MIB, Result, compare, medians
from tests.support import SCRIPT, find_tool

SOURCE = Path(__file__).with_name("crowd.c")
DEFAULT = ("200", "500", "1000", "2000", "900/20")
LIMIT = 120.0  # seconds for one measurement


class Scenario(NamedTuple):
    """How many players, and how many of them to a room; 0: all in one."""

    clients: int
    room_size: int

    def __str__(self) -> str:
        where = f"in rooms of {self.room_size}" if self.room_size else "in one room"
        return f"{self.clients:,} {where}"


# ==== 1. Who takes part ===================================================

THIS = Peer(
    "this", "this", ("--addr", "127.0.0.1:{port}", "--maxrooms", "0", "crowd_game:Crowd"), modes={}
)
SEATS = replace(THIS, name="seats", title="this, with seats", form=("--resume", "30", *THIS.form))
STORE = replace(
    THIS, name="store", title="this, which saves", form=("--store", "{port}.sqlite", *THIS.form)
)
VARIANTS = (SEATS, STORE)  # of this server: only when they are asked for
NODE = Peer(
    "ws",
    "ws (Node)",
    ("crowd_ws.mjs", "{port}"),
    modes={},
    installs=("npm install --silent --no-audit --no-fund --prefix . ws",),
)
OTHERS = (
    NODE,
    *(
        Peer(
            name,
            f"{name} (Python)",
            (os.fspath(PEERS / "crowd_asyncio.py"), name, "{port}"),
            modes={},
            installs=(from_pip(packages),),
        )
        for name, packages in (("picows", "picows uvloop"), ("websockets", "websockets"))
    ),
)


def find_program(peer: Peer, folder: Path, install: bool) -> Program:
    """Find a peer, or install it.

    Raises:
        BenchError: it is neither there nor can it be installed.
    """
    if peer is THIS or peer in VARIANTS:
        return Program(peer, (sys.executable, os.fspath(SCRIPT)), "")
    reason = "it is not installed"
    for installer in ("", *(peer.installs if install else ())):
        reason = run_installer(installer, folder) if installer else reason
        version = find_version(peer, folder)
        if version:
            # Node looks for packages beside the script that wants them.
            shutil.copy(PEERS / "crowd_ws.js", folder / "crowd_ws.mjs")
            return Program(peer, interpreter(peer, folder), version)
    raise BenchError(reason)


def interpreter(peer: Peer, folder: Path) -> Sequence[str]:
    """Return what runs a peer's script."""
    return ("node",) if peer is NODE else (os.fspath(folder / "venv" / "bin" / "python"),)


def find_version(peer: Peer, folder: Path) -> str:
    """Return the version of a peer's package, or an empty string if it is not there."""
    if peer is NODE:
        manifest = folder / "node_modules" / "ws" / "package.json"
        there = manifest.exists() and shutil.which("node")
        return f"ws {json.loads(manifest.read_text())['version']}" if there else ""
    [python] = interpreter(peer, folder)
    code = (
        f"from importlib.metadata import version; import {peer.name}; print(version({peer.name!r}))"
    )
    if not os.path.exists(python):
        return ""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    return f"{peer.name} {done.stdout.strip()}" if done.returncode == 0 else ""


def build_generator(folder: Path) -> Path:
    """Compile the load generator, unless that has been done.

    Raises:
        BenchError: there is no compiler, or it fails.
    """
    target = folder / "bin" / "crowd"
    if target.exists() and target.stat().st_mtime > SOURCE.stat().st_mtime:
        return target
    compiler = find_tool("cc")
    if compiler is None:
        raise BenchError("no C compiler (cc, gcc or clang) is there to build the load generator")
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", os.fspath(target), os.fspath(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise BenchError(f"{compiler}: {done.stderr.strip()[-300:]}")
    return target


# ==== 2. Measuring ========================================================


def measure(
    scenario: Scenario, program: Program, generator: Path, options: argparse.Namespace
) -> Result:
    """Measure once; a server that fails, stops or hangs gets a note, and no exception."""
    try:
        with running(program, (), (), options.cache) as server:
            words = (server.port, server.pid, *scenario, options.inputs, options.input_size)
            words += (options.ticks, options.warm_up, options.seconds, int(program.peer == SEATS))
            command = [os.fspath(generator), *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
            if done.returncode != 0:
                return {"note": f"failed: {done.stderr.strip()[-200:]}"}
            return evaluate(json.loads(done.stdout)) | {"memory": memory(server.pid)}
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return {"note": f"failed: {error}"}
    finally:
        for path in options.cache.glob("*.sqlite*"):
            path.unlink()


def evaluate(result: Result) -> Result:
    """Add what the tables show; see `crowd.c` for what there is."""
    lost = result["gaps"] + result["sent"] - result["heard"] + result["broken"]
    return result | {"delivered": result["states"] / result["expected"], "lost": lost}


# ==== 3. The report =======================================================

COLUMNS = ("delivered", "p50 ms", "p99 ms", "max ms", "CPU", "MiB", "connect s", "lost", "gen.")
TARGETS: tuple[tuple[str, str, str, float, str], ...] = (  # scenario, who, figure, the most, peer
    ("1000", "this", "p99", 0.075, ""),
    ("1000", "this", "server_cpu", 0.9, "ws"),
    ("1000", "seats", "server_cpu", 1.15, "this"),
    ("2000", "this", "p99", 1.0, "ws"),
    ("2000", "this", "server_cpu", 1.0, "ws"),
    ("900/20", "this", "p99", 0.080, ""),
    ("900/20", "this", "server_cpu", 1.0, "ws"),
    ("200", "this", "server_cpu", 1.1, "ws"),
)
LEAST_DELIVERED = 0.99


def make_row(title: str, rounds: Sequence[Result]) -> str:
    """Return a server's line of a table, in Markdown."""
    middle = medians(rounds)
    busy = middle.get("generator")
    cells = (
        shown(middle.get("delivered"), ".1%"),
        *(shown(middle.get(name), ".0f", 1000) for name in ("p50", "p99", "max")),
        shown(middle.get("server_cpu"), ".2f"),
        shown(middle.get("memory"), ".0f", 1 / MIB),
        shown(middle.get("connect"), ".2f"),
        shown(sum(result.get("lost", 0) for result in rounds)),
        shown(busy, ".0%") + ("!" if busy is not None and busy > BUSY else ""),
    )
    noted = "; ".join(dict.fromkeys(r["note"] for r in rounds if "note" in r))
    return f"| {' | '.join((title, *cells))} |{noted and ' ' + noted}"


def judge(results: Mapping[str, Mapping[str, Sequence[Result]]]) -> list[str]:
    """Return a line for each target of a scenario that was measured."""
    lines = []
    for name, peers in results.items():
        ours = peers["this"]
        delivered = min((result.get("delivered", 0.0) for result in ours), default=0.0)
        word = "met" if delivered >= LEAST_DELIVERED else "NOT MET"
        lines.append(f"  {word:8} {name}: delivered ≥ {LEAST_DELIVERED:.0%}: {delivered:.1%}")
        for scenario, who, figure, most, peer in TARGETS:
            if scenario != name or who not in peers or (peer and peer not in peers):
                continue
            mine = peers[who]
            value = compare(figure, mine, peers[peer]) if peer else medians(mine).get(figure, 0.0)
            word = "met" if 0 < value <= most else "NOT MET"
            limit = f"{most:g} × {peer}" if peer else f"{most * 1000:.0f} ms"
            told = f"{value:.2f} ×" if peer else f"{value * 1000:.0f} ms"
            of = "" if who == "this" else f"{who}: "
            lines.append(f"  {word:8} {name}: {of}{figure} ≤ {limit}: {told}")
    return lines


# ==== 4. The command ======================================================


def parse_scenario(text: str) -> Scenario:
    """Return CLIENTS, or CLIENTS/ROOM_SIZE."""
    match = re.fullmatch(r"(\d{1,5})(?:/(\d{1,4}))?", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no CLIENTS or CLIENTS/ROOM_SIZE")
    return Scenario(int(match[1]), int(match[2] or 0))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    names = [peer.name for peer in OTHERS]
    home = os.environ.get("SCALESOCKET_BENCH") or Path.home() / ".cache" / "scalesocket-bench"
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.bench.crowd",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="CLIENTS[/ROOM_SIZE]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inputs", type=float, default=10.0, help="a second from each client")
    parser.add_argument("--input-size", type=int, default=20, help="bytes of one, 125 at the most")
    parser.add_argument("--ticks", type=float, default=20.0, help="states a second")
    parser.add_argument("--state-size", type=int, default=400, help="bytes of one")
    parser.add_argument("--save-size", type=int, default=10_000, help="bytes of a saved room")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=10.0, help="that are measured")
    parser.add_argument("--quick", action="store_true", help="tiny crowds for a second")
    also = ", ".join(peer.name for peer in VARIANTS)
    parser.add_argument(
        "--peers", default=",".join(names), help=f"of %(default)s, or none; also {also}"
    )
    parser.add_argument("--cache", type=Path, default=home, help="folder for peers (%(default)s)")
    parser.add_argument(
        "--no-install", dest="install", action="store_false", help="only peers that are there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.warm_up, options.seconds = 1, 0.5, 1.0
        options.scenarios = options.scenarios or ["20", "40/20"]
    options.peers = [name for name in options.peers.split(",") if name not in ("", "none")]
    names += [peer.name for peer in VARIANTS]
    unknown = [name for name in options.peers if name not in names]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(names)}")
    try:
        chosen = options.scenarios or DEFAULT
        options.scenarios = {name: parse_scenario(name) for name in chosen}
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    return options


def find_programs(options: argparse.Namespace) -> list[Program]:
    """Return the servers that are there, and print a line for each that is not."""
    programs = [find_program(THIS, options.cache, options.install)]
    for peer in (*VARIANTS, *OTHERS):
        if peer.name in options.peers:
            try:
                programs.append(find_program(peer, options.cache, options.install))
            except (BenchError, OSError, subprocess.TimeoutExpired) as error:
                print(f"{peer.name} is left out: {error}")
    return programs


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; return 1 if this server lost a state or an input, or failed."""
    options = parse_arguments(arguments)
    options.cache.mkdir(parents=True, exist_ok=True)
    try:
        generator = build_generator(options.cache)
    except BenchError as error:
        print(f"tests.bench.crowd: {error}", file=sys.stderr)
        return 1
    os.environ["PYTHONPATH"] = os.fspath(PEERS)  # where this server finds the game
    os.environ["CROWD_RATE"], os.environ["CROWD_SIZE"] = str(options.ticks), str(options.state_size)
    os.environ["CROWD_SAVED"] = str(options.save_size)
    programs = find_programs(options)
    print(*(program.version for program in programs if program.version), sep=", ")
    results: dict[str, dict[str, list[Result]]] = {}
    for name, scenario in options.scenarios.items():
        mine = results[name] = {program.peer.name: [] for program in programs}
        for _ in range(options.rounds):
            for program in programs:
                mine[program.peer.name].append(measure(scenario, program, generator, options))
        print(f"\n| {scenario} | {' | '.join(COLUMNS)} |\n| --- {'| ---: ' * len(COLUMNS)}|")
        for program in programs:
            print(make_row(program.peer.title, mine[program.peer.name]), flush=True)
    print("\ntargets:", *judge(results), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    ours = [result for peers in results.values() for result in peers["this"]]
    return int(any(result.get("lost", 1) for result in ours))


if __name__ == "__main__":
    sys.exit(main())
