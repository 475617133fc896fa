"""Every sentence of README's "What to expect" and of SECURITY.md is held by a test that exists.

`promises.md` names the tests, sentence by sentence. Whoever changes a sentence has to say there
which test holds the new one; a test that is renamed or removed leaves its promise behind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

TESTS = ROOT / "tests"
PROMISES = TESTS / "promises.md"
SURVIVAL = "net/SCALING.md", "What survives what"  # file and heading


def plain(text: str) -> str:
    """Return text on one line."""
    return " ".join(text.split())


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a paragraph; code may hold full stops."""
    return re.split(r"(?<=[.!?:])\s+(?=[A-Z`*(])(?<!: )", plain(text)) if text.strip() else []


def bullets(text: str) -> Iterator[str]:
    """Yield what the bullets of a list say, without their heading in bold."""
    for item in re.findall(r"^- ((?:.*\n)(?:  .*\n)*)", text, re.MULTILINE):
        yield re.sub(r"^\*\*[^*]+\*\*\s*", "", item)


def section(name: str, heading: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0] + "\n"


def promised() -> list[str]:
    """Return every sentence that promises something."""
    expected = section("README.md", "What to expect")
    found = [s for bullet in bullets(expected) for s in split_sentences(bullet)]
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| .* \|$", security, re.MULTILINE)
    found += [plain(row) for row in rows if row not in ("promise", "---")]
    not_promised = section("SECURITY.md", "What is not promised")
    return found + [s for bullet in bullets(not_promised) for s in split_sentences(bullet)]


@cache
def held() -> dict[str, list[str]]:
    """Return the tests that hold each promise."""
    found = {}
    text = PROMISES.read_text(encoding="utf-8")
    for promise, tests in re.findall(r"^- (.*)\n((?:  `.*\n)+)", text, re.MULTILINE):
        assert promise not in found, f"twice: {promise}"
        found[promise] = re.findall(r"`([^`]+)`", tests)
    return found


@cache
def existing() -> set[str]:
    """Return all tests, as `file.py::test_name`."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.name}::{node.name}")
    return found


def test_every_promise_is_held_by_a_test() -> None:
    missing = [sentence for sentence in promised() if sentence not in held()]
    assert missing == [], f"promises.md does not say which test holds: {missing}"


def test_nothing_is_held_that_is_not_promised() -> None:
    assert [promise for promise in held() if promise not in promised()] == []


@pytest.mark.slow
def test_the_tests_that_hold_promises_exist() -> None:
    named = {name for tests in held().values() for name in tests} - {"advice"}
    assert sorted(named - existing()) == []


def test_each_row_of_what_survives_what_is_held_by_a_test() -> None:
    rows = re.findall(r"^\| (?!---|what ends)(.+) \|$", section(*SURVIVAL), re.MULTILINE)
    named = [row.rpartition(" | ")[2].strip("`") for row in rows]
    assert len(rows) > 8 and sorted(set(named) - existing()) == []


def test_what_security_md_names_exists() -> None:
    """Its tables name files; its commands are modules."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert [*TESTS.rglob(name)], name
    for module in re.findall(r"`python3 -m (tests[\w.]*)", text):
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_sentences_are_told_apart() -> None:
    text = "One `a.b` is. Two, e.g. this: it counts. `Three` too! (Four.)"
    assert split_sentences(text) == [
        "One `a.b` is.",
        "Two, e.g. this: it counts.",
        "`Three` too!",
        "(Four.)",
    ]
