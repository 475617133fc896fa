"""Runs the public Autobahn cases against `scalesocket.py`, and judges the results.

    with serve_echo(compress=False) as server:
        run = run_cases(kosoku, server, select(["1.*"]))
        assert not run.complaints

Autobahn is the test suite that the authors of WebSocket servers hold them against. Its cases
come here with kosoku, a program of PyPI that plays the client of each and writes a report.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import PATIENCE, ROOT, ServerProcess, find_python_with, serve

# ==== 1. The cases ========================================================
# Listed here, so that a case which silently did not run is noticed.

CASES_IN_GROUP = {
    # 1: text and binary messages; 2: pings; 3: reserved bits; 4: reserved opcodes
    "1.1": 8, "1.2": 8, "2": 11, "3": 7, "4.1": 5, "4.2": 5,
    # 5: fragments
    "5": 20,
    # 6: UTF-8
    "6.1": 3, "6.2": 4, "6.3": 2, "6.4": 4, "6.5": 5, "6.6": 11, "6.7": 4, "6.8": 2,
    "6.9": 4, "6.10": 3, "6.11": 5, "6.12": 8, "6.13": 5, "6.14": 10, "6.15": 1, "6.16": 3,
    "6.17": 5, "6.18": 5, "6.19": 5, "6.20": 7, "6.21": 8, "6.22": 34, "6.23": 7,
    # 7: closing
    "7.1": 6, "7.3": 6, "7.5": 1, "7.7": 13, "7.9": 9, "7.13": 2,
    # 9: large messages and many; 10: a message in many fragments
    "9.1": 6, "9.2": 6, "9.3": 9, "9.4": 9, "9.5": 6, "9.6": 6, "9.7": 6, "9.8": 6, "10.1": 1,
    # 12: permessage-deflate with all kinds of content; 13: with all kinds of offers
    "12.1": 18, "12.2": 18, "12.3": 18, "12.4": 18, "12.5": 18,
    "13.1": 18, "13.2": 18, "13.3": 18, "13.4": 18, "13.5": 18, "13.6": 18, "13.7": 18,
}  # fmt: skip

ALL = [f"{group}.{number + 1}" for group, size in CASES_IN_GROUP.items() for number in range(size)]
FAST = ["[1-7].*", "10.*"]  # patterns of what takes seconds

# Of each group of 12 and 13, which differ in the size of their 1,000 messages: those of 16 bytes
# to 4 KiB, and those of 64 KiB in fragments of 256 bytes. The whole takes many minutes.
SAMPLE = ["1[23].*.[1-5]", "1[23].*.14"]


def select(patterns: Iterable[str]) -> list[str]:
    """Return the cases that match any of the patterns, in their order.

    Args:
        patterns: names of cases, in which `*`, `?` and `[...]` stand for what they do in a shell.

    Raises:
        ValueError: a pattern matches nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {case for case in ALL if fnmatchcase(case, pattern)}
        if not matching:
            raise ValueError(f"no case matches {pattern!r}")
        chosen |= matching
    return [case for case in ALL if case in chosen]


def section(case: str) -> str:
    """Return the first number of a case's name."""
    return case.partition(".")[0]


def needs_compression(case: str) -> bool:
    """Tell whether a case is about permessage-deflate."""
    return section(case) in ("12", "13")


# ==== 2. Running them =====================================================


class Verdict(NamedTuple):
    """What kosoku says about one case."""

    case: str
    behavior: str  # of the messages: "OK", "NON-STRICT", "FAILED" ...
    behavior_close: str  # of the closing handshake
    explanation: str

    @property
    def is_good(self) -> bool:
        """Whether the server did what the case wants, or the case wants nothing."""
        return {self.behavior, self.behavior_close} <= {"OK", "INFORMATIONAL"}

    def __str__(self) -> str:
        return f"{self.case}: {self.behavior}, close {self.behavior_close}: {self.explanation}"


class Run(NamedTuple):
    """What came out of one run of kosoku."""

    verdicts: list[Verdict]
    complaints: list[str]  # one line each; none: every case ran, and was good


def find_kosoku() -> str | None:
    """Return a Python that has kosoku."""
    return find_python_with("kosoku")


def serve_echo(*, compress: bool) -> AbstractContextManager[ServerProcess]:
    """Run a server that echoes; the largest messages of section 9 have 16 MiB."""
    options = ["--maxmsg", "32M", *(["--compress"] if compress else [])]
    return serve(*options, "tests.conformance.echo:Echo", cwd=ROOT)


def run_cases(
    kosoku: str,
    server: ServerProcess,
    cases: Sequence[str],
    *,
    at_once: int = 2,
    patience: float = PATIENCE,
    timeout: float = 240,
) -> Run:
    """Run cases against a server.

    Args:
        kosoku: a Python that has it.
        cases: names, not patterns.
        at_once: how many cases run side by side.
        patience: seconds that the server has in each, if the case itself does not give it more.
        timeout: seconds for all of them.
    """
    chosen = [argument for case in cases for argument in ("-i", case)]
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        command = [kosoku, "-m", "tests.conformance.patient", str(patience)]
        command += ["-m", "fuzzingclient", *chosen, "-p", str(at_once), "-o", folder]
        address = f"{server.host}:{server.port}/room"
        try:
            done = subprocess.run(
                [*command, address],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return Run([], [f"kosoku has not finished {len(cases)} cases within {timeout:g} s"])
        verdicts = read_reports(Path(folder))
    complaints = judge(cases, verdicts)
    # kosoku 0.1.0 aborts now and then on its way out, when everything has been said and written.
    is_over = done.returncode == -signal.SIGABRT and f"{len(cases)} cases passed" in done.stdout
    if done.returncode != 0 and not is_over and not complaints:
        complaints.append(f"kosoku ended with status {done.returncode}")
    if complaints and len(verdicts) != len(cases):  # it did not get as far as its reports
        complaints += done.stderr.strip().splitlines()[-1:]
    return Run(verdicts, complaints)


def read_reports(folder: Path) -> list[Verdict]:
    """Return the verdicts that kosoku has written into a folder."""
    reports = [json.loads(path.read_text()) for path in folder.glob("*_case_*.json")]
    return [
        Verdict(report["id"], report["behavior"], report["behaviorClose"], explain(report))
        for report in reports
    ]


def explain(report: Mapping[str, Any]) -> str:
    """Return what kosoku says about a case, and how the server has closed."""
    words = [report["result"], report["resultClose"]]
    code, reason = report.get("remoteCloseCode"), report.get("remoteCloseReason")
    if code is not None:
        words.append(f"its Close: {code} {reason or ''}")
    return "; ".join(word.strip(" .") for word in words if word)


def judge(cases: Sequence[str], verdicts: Sequence[Verdict]) -> list[str]:
    """Return what is wrong: verdicts that are not good, and cases that did not run as asked."""
    position = {case: index for index, case in enumerate(ALL)}
    ordered = sorted(verdicts, key=lambda verdict: position.get(verdict.case, -1))
    complaints = [str(verdict) for verdict in ordered if not verdict.is_good]
    wanted, ran = Counter(cases), Counter(verdict.case for verdict in verdicts)
    if not wanted:
        complaints.append("no case was selected")
    for what, which in (("did not run", wanted - ran), ("ran unasked", ran - wanted)):
        if which:
            names = " ".join(list(which)[:10]) + (" ..." if len(which) > 10 else "")
            complaints.append(f"{which.total()} of {len(cases)} cases {what}: {names}")
    return complaints
