"""The conformance cases as a command.

python3 -m tests.conformance                    all but the slow ones of 12 and 13
python3 -m tests.conformance -i '7.*' -i 1.1.1
python3 -m tests.conformance --all
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence

from tests.conformance.runner import (
    FAST,
    SAMPLE,
    find_kosoku,
    needs_compression,
    run_cases,
    section,
    select,
    serve_echo,
)

CASE_TIMEOUT = 120.0  # seconds for a case on average; most take milliseconds


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.conformance",
        description="Run the Autobahn cases against scalesocket.py; without an option, all of "
        "sections 1 to 10, and a sample of 12 and 13.",
        allow_abbrev=False,
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="also all of 12 and 13: many minutes")
    chosen.add_argument("-i", metavar="PATTERN", action="append", help="such as 1.1.1 or '7.*'")
    parser.add_argument("-p", metavar="NUM", type=int, default=2, help="cases at once (2)")
    return parser


def run_all(kosoku: str, cases: Sequence[str], at_once: int) -> list[str]:
    """Run cases section by section, say how each went, and return what is wrong."""
    complaints: list[str] = []
    for compress, group in itertools.groupby(cases, needs_compression):
        with serve_echo(compress=compress) as server:
            for name, members in itertools.groupby(group, section):
                part = list(members)
                start = time.monotonic()
                timeout = CASE_TIMEOUT * len(part)
                run = run_cases(kosoku, server, part, at_once=at_once, timeout=timeout)
                good = sum(verdict.is_good for verdict in run.verdicts)
                seconds = time.monotonic() - start
                print(f"section {name}: {good} of {len(part)} good, {seconds:.1f} s", flush=True)
                for line in run.complaints:
                    print(f"  {line}", flush=True)
                complaints += run.complaints
    return complaints


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 0 if all is well, 1 if not, 2 if it could not run."""
    options = build_parser().parse_args(arguments)
    default = ["*"] if options.all else [*FAST, "9.*", *SAMPLE]
    try:
        cases = select(options.i or default)
    except ValueError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    kosoku = find_kosoku()
    if kosoku is None:
        print("conformance: kosoku is missing; `python3 -m tests` installs it", file=sys.stderr)
        return 2
    complaints = run_all(kosoku, cases, options.p)
    print(f"{len(cases)} cases: " + ("FAILED" if complaints else "ok"))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
