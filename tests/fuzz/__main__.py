"""The fuzzer as a command.

python3 -m tests.fuzz                               every target, 60 seconds each
python3 -m tests.fuzz frames lines --seconds 600
python3 -m tests.fuzz --keep ~/inputs               go on from what was reached the last time

An input that a target fails on is printed as small as it gets. Put it into
`tests/fuzz/corpus/<target>/`, from where every test run tries it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.mutate import Finding, check_input
from tests.fuzz.runner import Run, find_python, fuzz
from tests.fuzz.targets import TARGETS, Target


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.fuzz",
        description="Let atheris look for inputs that the parsers of scalesocket.py fail on.",
        epilog="targets: " + ", ".join(TARGETS),
        allow_abbrev=False,
    )
    parser.add_argument("target", metavar="TARGET", nargs="*", help="by default all")
    parser.add_argument(
        "--seconds", metavar="NUM", type=float, default=60.0, help="for each target (60)"
    )
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="keep the inputs that reach something new"
    )
    return parser


def is_good(run: Run) -> bool:
    """Whether inputs were tried, and all were passed."""
    return run.crash is None and run.inputs > 0


def describe(target: Target, run: Run) -> str:
    """Say how a target went; of a failure all that is needed to repeat it."""
    if is_good(run):
        return f"{target.name}: {run.inputs} inputs, ok"
    if run.crash is None:
        return f"{target.name}: FAILED to run\n{run.output[-2000:]}"
    try:
        check_input(target, run.crash)
    except Finding as finding:
        return f"{target.name}: FAILED after {run.inputs} inputs\n{finding}"
    return f"{target.name}: FAILED on {run.crash!r}, but not again\n{run.output[-2000:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; return 0 if nothing was found, 1 if something was, 2 if it could not run."""
    options = build_parser().parse_args(arguments)
    unknown = [name for name in options.target if name not in TARGETS]
    python = find_python()
    if unknown or python is None:
        why = f"no target {unknown[0]!r}" if unknown else "atheris is missing"
        cure = f"there are {', '.join(TARGETS)}" if unknown else "`python3 -m tests` installs it"
        print(f"fuzz: {why}; {cure}", file=sys.stderr)
        return 2
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    found = False
    for target in chosen:  # one at a time, so that each is heard of when it is done
        for _, run in fuzz(python, [target], seconds=options.seconds, keep=options.keep):
            print(describe(target, run), flush=True)
            found |= not is_good(run)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
