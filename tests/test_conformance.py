"""The Autobahn cases: what other people's servers are held against."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.conformance.runner import (
    SAMPLE,
    Verdict,
    find_kosoku,
    judge,
    needs_compression,
    run_cases,
    select,
    serve_echo,
)
from tests.support import ServerProcess


@pytest.fixture(scope="module")
def kosoku() -> str:
    """Return the path of kosoku."""
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


@pytest.mark.parametrize("pattern", FAST_SECTIONS, ids=FAST_SECTIONS.values())
def test_conforms(kosoku: str, echo: ServerProcess, pattern: str) -> None:
    check(kosoku, echo, select([pattern]))


@pytest.mark.slow
def test_conforms_with_large_messages_and_many(kosoku: str, echo: ServerProcess) -> None:
    check(kosoku, echo, select(["9.*"]))


@pytest.mark.slow
@pytest.mark.parametrize("group", [*(f"12.{n}" for n in range(1, 6)), *(f"13.{n}" for n in range(1, 8))])
def test_conforms_with_compression(kosoku: str, compressed_echo: ServerProcess, group: str) -> None:
    cases = [case for case in select(SAMPLE) if case.startswith(f"{group}.")]
    check(kosoku, compressed_echo, cases)


# ==== 2. The judge ========================================================


def verdict(case: str = "1.1.1", behavior: str = "OK", behavior_close: str = "OK") -> Verdict:
    return Verdict(case, behavior, behavior_close, "")


def test_all_cases_of_autobahn_are_known() -> None:
    assert len(select(["*"])) == 517
    assert sum(map(needs_compression, select(["*"]))) == 216
    assert {case.split(".")[0] for case in select([*FAST_SECTIONS, "9.*", "1[23].*"])} == {
        case.split(".")[0] for case in select(["*"])
    }


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


@pytest.mark.slow
def test_a_server_that_breaks_the_protocol_is_found_out(kosoku: str, tmp_path: object) -> None:
    raise NotImplementedError
