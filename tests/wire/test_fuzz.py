"""Bad input by the thousand, and proof that it would be noticed."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.fuzz.__main__ as command
from tests.fuzz import targets
from tests.fuzz.__main__ import describe, is_good, main
from tests.fuzz.mutate import Finding, check_input, inputs, shrink
from tests.fuzz.runner import Run, find_python, fuzz
from tests.fuzz.targets import CORPUS, TARGETS, Target, cut
from tests.support import ROOT, SCRIPT

every_target = pytest.mark.parametrize("name", TARGETS)

# ==== 1. The targets ======================================================


@pytest.mark.parametrize(
    "path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_what_was_once_found_stays_mended(path: Path) -> None:
    check_input(TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.slow
@every_target
def test_holds_for_2000_inputs(name: str) -> None:
    for data in inputs(TARGETS[name], 2000):
        check_input(TARGETS[name], data)


@pytest.mark.slow
@every_target
def test_holds_for_5000_other_inputs(name: str) -> None:
    for data in inputs(TARGETS[name], 5_000, seed=1):
        check_input(TARGETS[name], data)


# ==== 2. Would it be noticed? =============================================
# Each target must find a bug that is planted into a copy of the server's source.

PLANTED = {  # what goes wrong: target, source, and what is planted in its place
    "a header's value may hold a line break": (
        "requests",
        r'_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")',
        '_FIELD_VALUE = re.compile(r"[^\\0]*")',
    ),
    "the Proxy header becomes HTTP_PROXY": (
        "environments",
        'if name != "proxy" and',
        "if",
    ),
    "a room's name may hold a line separator": (
        "rooms",
        r"\x7f-\x9f\u2028\u2029]",
        r"\x7f-\x84]",
    ),
    "an origin that only begins like a listed one is let in": (
        "origins",
        "match = re.fullmatch(_ORIGIN, text.lower())",
        "match = re.match(_ORIGIN, text.lower())",
    ),
    "a window of 8 bits, which zlib cannot make": ("extensions", "range(9, 16)}", "range(8, 16)}"),
    "line breaks at the start of a read are dropped": (
        "heads",
        r'if not self.rest and (data := data.lstrip(b"\r\n")):',
        r'if (data := data.lstrip(b"\r\n")) and not self.rest:',
    ),
    "a zone is part of an address": ("proxies", 'or "%" in address', "or False"),
    "a control frame that was cut is taken before it is whole": (
        "frames",
        "if available < size + (length if opcode >= Opcode.CLOSE else 0):",
        "if available < size:",
    ),
    "text may end inside a character": (
        "frames",
        "self._decoder.decode(piece, complete)",
        "self._decoder.decode(piece, False)",
    ),
    "what is pending is forgotten": (
        "frames",
        "self.pending = self._given >= EVENTS_SIZE and self.is_open",
        "self.pending = False",
    ),
    "decompression has no limit": (
        "frames",
        "space = self.max_message - len(self._message) + 1",
        "space = 1 << 30",
    ),
    "the mask begins anew with each piece": (
        "conversations",
        "shift = self._taken % 4",
        "shift = 0",
    ),
    "a sender that is spelled with escapes stays": (
        "json_from_clients",
        r"""and b"_" not in payload and b"\\" not in payload""",
        """and b"_" not in payload""",
    ),
    "a sender in another case stays": (
        "json_from_clients",
        "            folded += fold_character(character)",
        "            folded += character",
    ),
    "an unreadable line with a receiver goes to everyone": (
        "json_from_child",
        "return self._named.search(text) is not None",
        "return False",
    ),
    "a carriage return between tokens stays": (
        "json_from_clients",
        r'.replace(b"\n", b" ").replace(b"\r", b" ")',
        r'.replace(b"\n", b" ")',
    ),
    "a receiver that is spelled with escapes is not seen": (
        "json_from_child",
        r"""re.compile(rb"\\u00[2-7]")""",
        r"""re.compile(rb"\\u00[8-9]")""",
    ),
    "a line separator in a string stays": (
        "json_from_clients",
        "if not plain:  #",
        "if False:  #",
    ),
    "a client's line that was cut loses its begin": (
        "text_lines",
        """b"".join((*self._rest, head)).split(b"\\n")""",
        """head.split(b"\\n")""",
    ),
    "a carriage return that was cut off from its newline stays": (
        "lines",
        r'.replace(b"\r\n", b"\n").removesuffix(b"\r")',
        r'.replace(b"\r\n", b"\n")',
    ),
    "the begin of the next message is dropped": (
        "gwsocket",
        "del self._data[:position]",
        "self._data.clear()",
    ),
    "a value breaks out of its string": (
        "templates",
        "text = json.dumps(value, ensure_ascii=False)",
        "text = f'\"{value}\"'",
    ),
    "a link leads out of the folder": (
        "files",
        "if resolved.is_relative_to(self._root):",
        "if resolved:",
    ),
    "a range goes beyond the end": (
        "ranges",
        "stop = min(int(last) + 1, size)",
        "stop = max(int(last) + 1, size)",
    ),
    "an empty list is an IndexError": (
        "options",
        "if not (names := parse_list(text)):",
        "if not (names := parse_list(text))[0]:",
    ),
    "a block that is no TOML is an error of its own": (
        "scripts",
        "except (OSError, ValueError, RecursionError) as error:",
        "except OSError as error:",
    ),
    "a log line holds what a stranger wrote": (
        "log_lines",
        "escape_controls(record.getMessage())",
        "record.getMessage()",
    ),
}


def plant(name: str, folder: Path) -> Target:
    """Copy the server into a folder, with a planted bug; return the target that must find it."""
    target, old, new = PLANTED[name]
    found = 0
    for path in (SCRIPT, *(ROOT / "net").glob("*.py"), *(ROOT / "net").glob("*.lua")):
        source = path.read_text(encoding="utf-8")
        found += source.count(old)
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(source.replace(old, new), encoding="utf-8")
    assert found == 1, f"{old!r} is no longer there once: plant another bug"
    return TARGETS[target]


def our_modules() -> set[str]:
    """Return the names of the server's modules that have been imported."""
    return {name for name in sys.modules if name.partition(".")[0] == "scalesocket"}


@pytest.fixture
def wrong_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """Let the targets run against a server with a planted bug; return the one to find it."""
    target = plant(request.param, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        names = our_modules()
        for name in names:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(tmp_path)
        for name in sorted(names):
            if not name.startswith(("scalesocket.game", "scalesocket.client")):
                importlib.import_module(name)
        patch.setattr(targets, "scalesocket", sys.modules["scalesocket"])
        yield target
        for name in our_modules() - names:
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("wrong_server", PLANTED, indirect=True)
def test_a_planted_bug_is_found(wrong_server: Target) -> None:
    with pytest.raises(Finding):
        for data in inputs(wrong_server, 2000):
            check_input(wrong_server, data)


def test_every_target_has_a_planted_bug_to_find() -> None:
    assert {name for name, _, _ in PLANTED.values()} == set(TARGETS)


def test_every_corpus_belongs_to_a_target() -> None:
    assert {path.parent.name for path in CORPUS.glob("*/*")} <= set(TARGETS)


# ==== 3. atheris ==========================================================


@pytest.fixture(scope="module")
def python() -> str:
    """Return a Python that has atheris."""
    if sys.version_info >= (3, 14):
        pytest.skip(f"atheris has no wheels for Python {sys.version_info[0]}.{sys.version_info[1]}")
    path = find_python()
    if path is None and os.environ.get("CI"):
        pytest.fail("missing tool: atheris")
    if path is None:
        pytest.skip("missing tool: atheris")
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_coverage_guided_fuzzer_finds_nothing_in_1000_inputs_for_each_target(python: str) -> None:
    found = [
        describe(target, run)
        for target, run in fuzz(python, [*TARGETS.values()], seconds=300, inputs=1000)
        if not is_good(run) or run.inputs < 1000
    ]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_coverage_guided_fuzzer_finds_a_planted_bug(python: str, tmp_path: Path) -> None:
    """The input that it fails on is handed back."""
    target = plant("text may end inside a character", tmp_path)
    shutil.copytree(CORPUS.parent, tmp_path / "tests" / "fuzz")
    (tmp_path / "tests" / "__init__.py").touch()
    ((_, run),) = fuzz(python, [target], seconds=30, root=tmp_path, seed=1)
    assert run.crash is not None, run.output
    assert "UnicodeDecodeError" in run.output or "AssertionError" in run.output
    assert f"frames: FAILED on {run.crash!r}" in describe(target, run)


# ==== 4. What these tests stand on ========================================


def crash_on_two_letters(data: bytes) -> None:
    assert not (b"a" in data and b"z" in data), "both"


TOY = Target("toy", crash_on_two_letters, (b"the quick brown fox", b"jumps over the lazy dog"), ())


def test_a_failing_input_is_made_as_small_as_it_gets() -> None:
    with pytest.raises(Finding, match=r"^toy fails on b'az': AssertionError: both") as found:
        check_input(TOY, b"jumps over the lazy dog")
    assert found.value.data == b"az"
    assert shrink(b"x" * 1000, lambda data: len(data) > 2) == b"xxx"


def test_inputs_are_the_same_in_every_run_and_differ_by_seed() -> None:
    first, again, other = (list(inputs(TARGETS["lines"], 300, seed=n)) for n in (0, 0, 1))
    assert first == again != other
    assert first[: len(TARGETS["lines"].seeds)] == list(TARGETS["lines"].seeds)
    assert len(set(first)) > 250


@pytest.mark.parametrize("how", range(5))
def test_pieces_are_the_whole(how: int) -> None:
    data = bytes(range(200))
    pieces = list(cut(data, how))
    assert b"".join(pieces) == data
    assert len(pieces) == 200 if how == 0 else 1 < len(pieces) < 200


def test_the_command_says_what_was_found_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_python", lambda: "python")
    monkeypatch.setattr(command, "TARGETS", {"toy": TOY})
    runs = {1: Run(10, b"jumps over the lazy dog", ""), 0: Run(10, None, "")}
    for status, run in runs.items():
        monkeypatch.setattr(command, "fuzz", lambda *_, run=run, **__: [(TOY, run)])
        assert main(["toy"]) == status
    assert describe(TOY, runs[1]).endswith("FAILED after 10 inputs\n" + str(finding(b"az")))
    assert describe(TOY, runs[0]) == "toy: 10 inputs, ok"
    assert "FAILED to run\nno such option" in describe(TOY, Run(0, None, "no such option"))


def finding(data: bytes) -> Finding:
    with pytest.raises(Finding) as found:
        check_input(TOY, data)
    return found.value


def test_without_atheris_or_with_an_unknown_target_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fraems"]) == 2
    assert capsys.readouterr().err.startswith("fuzz: no target 'fraems'; there are requests, ")
    monkeypatch.setattr(command, "find_python", lambda: None)
    assert main([]) == 2
    assert capsys.readouterr().err == ("fuzz: atheris is missing; `python3 -m tests` installs it\n")
