"""The Autobahn cases: what other people's servers are held against."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock, call

import pytest

import tests.conformance.__main__ as command
from tests.conformance.__main__ import main
from tests.conformance.patient import Patient
from tests.conformance.runner import (
    CASES_IN_GROUP,
    SAMPLE,
    Verdict,
    find_kosoku,
    judge,
    needs_compression,
    run_cases,
    select,
    serve_echo,
)
from tests.support import ServerProcess, serve


@pytest.fixture(scope="module")
def kosoku() -> str:
    """Return a Python that has kosoku."""
    path = find_kosoku()
    if path is None and os.environ.get("CI"):
        pytest.fail("missing tool: kosoku")
    if path is None:
        pytest.skip("missing tool: kosoku")
    return path


@pytest.fixture(scope="module")
def echo() -> Iterator[ServerProcess]:
    """Serve an echo."""
    with serve_echo(compress=False) as server:
        yield server


@pytest.fixture(scope="module")
def compressed_echo() -> Iterator[ServerProcess]:
    """Serve an echo with --compress."""
    with serve_echo(compress=True) as server:
        yield server


def check(kosoku: str, server: ServerProcess, cases: Sequence[str]) -> None:
    """Run cases; fail with one line for each that is not good."""
    complaints = run_cases(kosoku, server, cases).complaints
    assert not complaints, "\n".join(complaints)


# ==== 1. The server =======================================================

FAST_SECTIONS = {
    "1.*": "text and binary messages",
    "2.*": "pings and pongs",
    "3.*": "reserved bits",
    "4.*": "reserved opcodes",
    "5.*": "fragments",
    "6.*": "UTF-8",
    "7.*": "closing",
    "10.*": "a message in many fragments",
}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", FAST_SECTIONS, ids=FAST_SECTIONS.values())
def test_conforms(kosoku: str, echo: ServerProcess, pattern: str) -> None:
    check(kosoku, echo, select([pattern]))


@pytest.mark.slow
def test_conforms_with_large_messages_and_many(kosoku: str, echo: ServerProcess) -> None:
    check(kosoku, echo, select(["9.*"]))


@pytest.mark.slow
@pytest.mark.parametrize("group", [*filter(needs_compression, CASES_IN_GROUP)])
def test_conforms_with_compression(kosoku: str, compressed_echo: ServerProcess, group: str) -> None:
    cases = [case for case in select(SAMPLE) if case.startswith(f"{group}.")]
    check(kosoku, compressed_echo, cases)


# ==== 2. The judge ========================================================


def verdict(case: str = "1.1.1", behavior: str = "OK", behavior_close: str = "OK") -> Verdict:
    return Verdict(case, behavior, behavior_close, "")


def test_all_cases_of_autobahn_are_known() -> None:
    assert len(select(["*"])) == 517
    assert sum(map(needs_compression, select(["*"]))) == 216
    assert select([*FAST_SECTIONS, "9.*", "1[23].*"]) == select(["*"])
    assert len(select(SAMPLE)) == 12 * 6


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="'8.*'"):
        select(["1.*", "8.*"])


@pytest.mark.parametrize("word", ["OK", "INFORMATIONAL"])
def test_good_verdicts(word: str) -> None:
    assert judge(["1.1.1"], [verdict(behavior=word)]) == []
    assert judge(["1.1.1"], [verdict(behavior_close=word)]) == []


@pytest.mark.parametrize("word", ["NON-STRICT", "UNIMPLEMENTED", "FAILED", "ERROR", "UNCLEAN"])
def test_bad_verdicts(word: str) -> None:
    assert judge(["1.1.1"], [verdict(behavior=word)])
    assert judge(["1.1.1"], [verdict(behavior_close=word)])


def test_a_case_that_does_not_run_is_a_failure() -> None:
    assert judge([], [])
    assert judge(["1.1.1", "1.1.2"], [verdict("1.1.1")])
    assert judge(["1.1.1"], [verdict("1.1.1"), verdict("1.1.2")])


WRONG_ECHO = """
import scalesocket

class Echo(scalesocket.Game):
    def on_message(self, client, message):
        client.send("something else")
"""


@pytest.mark.slow
def test_a_wrong_echo_is_found_out(kosoku: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG_ECHO)
    with serve("wrong:Echo", cwd=tmp_path) as server:
        run = run_cases(kosoku, server, ["1.1.1"], patience=1)  # which are waited in vain
    assert [verdict.behavior for verdict in run.verdicts] == ["FAILED"]
    assert len(run.complaints) == 1 and "1.1.1: FAILED" in run.complaints[0]


def test_what_the_server_does_not_implement_is_found_out(kosoku: str, echo: ServerProcess) -> None:
    run = run_cases(kosoku, echo, ["12.1.1"])
    assert [verdict.behavior for verdict in run.verdicts] == ["UNIMPLEMENTED"]
    assert len(run.complaints) == 1 and "12.1.1: UNIMPLEMENTED" in run.complaints[0]


@pytest.mark.slow
def test_a_case_that_kosoku_does_not_know_is_found_out(kosoku: str, echo: ServerProcess) -> None:
    run = run_cases(kosoku, echo, ["8.1.1"])
    assert "1 of 1 cases did not run: 8.1.1" in run.complaints


def test_kosoku_must_finish_in_time(kosoku: str, echo: ServerProcess) -> None:
    run = run_cases(kosoku, echo, ["1.1.1"], timeout=0.001)
    assert run.complaints == ["kosoku has not finished 1 cases within 0.001 s"]


SLOW_ECHO = """
import time
import scalesocket

class Echo(scalesocket.Game):
    def on_message(self, client, message):
        time.sleep(1.2)
        client.send(message)
"""


@pytest.mark.slow
def test_a_server_may_be_slow(kosoku: str, tmp_path: Path) -> None:
    """On a busy machine 6.7.4, which gives it 0.5 s, failed now and then."""
    (tmp_path / "slow.py").write_text(SLOW_ECHO)
    with serve("slow:Echo", cwd=tmp_path) as server:
        check(kosoku, server, ["1.1.2", "6.2.1", "6.7.4"])


def test_what_a_case_waits_for_in_vain_is_waited_for_longer() -> None:
    """Not what it pauses for, and no less than it says itself."""
    connection = Mock(wasClean=True)
    patient = Patient(connection, 40)
    patient.killAfter(0.5)
    patient.closeAfter(1)
    patient.continueLater(1, print, "A")
    patient.continueLater(1, print, "B")
    patient.continueLater(1, print)
    patient.killAfter(100)
    patient.localCloseReason = "over"
    assert connection.mock_calls == [
        call.killAfter(40),
        call.closeAfter(40),
        call.continueLater(1, print, "A"),
        call.continueLater(40, print, "B"),
        call.continueLater(1, print),
        call.killAfter(100),
    ]
    assert patient.wasClean and connection.localCloseReason == "over"


# ==== 3. The command ======================================================


@pytest.mark.slow
def test_the_command_runs_what_it_is_told(kosoku: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-i", "1.1.[12]", "-i", "2.1"]) == 0
    section_1, section_2, last = capsys.readouterr().out.splitlines()
    assert section_1.startswith("section 1: 2 of 2 good")
    assert section_2.startswith("section 2: 1 of 1 good")
    assert last == "3 cases: ok"


def test_without_kosoku_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_kosoku", lambda: None)
    assert main([]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "conformance: kosoku is missing; `python3 -m tests` installs it"
    ]


def test_the_command_refuses_a_pattern_that_matches_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["-i", "8.*"]) == 2
    assert capsys.readouterr().err == "conformance: no case matches '8.*'\n"
