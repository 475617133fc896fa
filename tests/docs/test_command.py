"""The test command itself: which Pythons it finds, and what it does with them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import tests.__main__ as command
from tests.__main__ import THIS, Interpreter, PreparationError, choose, find_all, identify

pytestmark = pytest.mark.skipif(os.name != "posix", reason="programs here are shell scripts")


def python_of(release: tuple[int, int, int], *, free: bool = False) -> Interpreter:
    return Interpreter(f"/opt/{release}", release, f"{release} (made up)", free)


def pretend(folder: Path, name: str, script: str) -> Path:
    """Put a program into a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def answers(release: str, *, kind: str = "cpython", free: bool = False) -> str:
    """Return what a shell script says to be taken for such a Python."""
    return f"""echo '["'"$0"'", [{release}], "{release}", {str(free).lower()}, "{kind}"]'"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have nothing on PATH and in pyenv's folder but what is put there."""
    monkeypatch.setenv("PATH", os.fspath(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", os.fspath(tmp_path / "pyenv"))
    return tmp_path


def test_the_running_python_has_the_environment_that_it_always_had() -> None:
    assert THIS.environment == command.ROOT / ".venv-tests"
    assert identify(sys.executable) is not None
    assert choose([]) == [THIS]


def test_another_python_has_an_environment_of_its_own() -> None:
    assert python_of((3, 77, 1)).environment.name == ".venv-tests-3.77"
    assert python_of((3, 77, 1), free=True).environment.name == ".venv-tests-3.77t"
    ignored = (command.ROOT / ".gitignore").read_text().splitlines()
    assert "/.venv-tests*/" in ignored


def test_all_are_those_on_path_and_those_that_pyenv_has(places: Path) -> None:
    pretend(places, "bin/python3.78", answers("3, 78, 2"))
    pretend(places, "pyenv/versions/3.79.0/bin/python3", answers("3, 79, 0"))
    pretend(places, "pyenv/versions/3.79.0t/bin/python3.79t", answers("3, 79, 0", free=True))
    assert [str(python) for python in find_all()] == [
        str(THIS),
        "Python 3.78.2",
        "Python 3.79.0",
        "Python 3.79.0t",
    ]


def test_of_each_version_the_latest_is_taken(places: Path) -> None:
    pretend(places, "bin/python3.78", answers("3, 78, 2"))
    latest = pretend(places, "pyenv/versions/3.78.11/bin/python3", answers("3, 78, 11"))
    pretend(places, "pyenv/versions/3.78.3/bin/python3", answers("3, 78, 3"))
    assert [python.path for python in find_all()] == [THIS.path, os.fspath(latest)]


def test_what_cannot_run_the_tests_is_left_out(places: Path) -> None:
    """A shim of pyenv for a version that is not chosen exits with 127 and says nothing."""
    pretend(places, "bin/python3.80", "exit 127")
    pretend(places, "bin/python3.10", answers("3, 10, 13"))
    pretend(places, "bin/python3", answers("3, 81, 0", kind="pypy"))
    pretend(places, "bin/python3-config", answers("3, 82, 0"))
    assert find_all() == [THIS]


def test_one_that_is_named_must_be_there_and_new_enough(places: Path) -> None:
    old = pretend(places, "bin/python3.10", answers("3, 10, 13"))
    for name in (os.fspath(old), os.fspath(places / "nothing")):
        with pytest.raises(PreparationError, match=f"^--python {name} is no CPython 3.11 or later"):
            choose([name])


def test_each_python_is_named_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [python_of((3, 78, 0)), python_of((3, 79, 1))]
    monkeypatch.setattr(command, "choose", lambda names: others if names == ["all"] else [THIS])
    monkeypatch.setattr(command, "prepare", lambda interpreter: [])
    monkeypatch.setattr(
        command,
        "run_step",
        lambda name, python, _arguments: command.Outcome(name, int("3.79" in str(python)), 1.0),
    )
    monkeypatch.setattr(command, "TOOLS", {})
    monkeypatch.setattr(sys, "argv", ["tests", "--no-lint", "--python", "all", "-k", "frames"])
    assert command.main() == 1
    assert capsys.readouterr().out == (
        "\npytest, Python 3.78.0: ok, 1.0 s\npytest, Python 3.79.1: FAILED (1), 1.0 s\n"
        "left out: nothing; missing tools: none\n"
    )


def test_one_without_the_interpreter_lock_does_without_some_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing could be tested with it: one that could not be installed was the end."""
    asked: list[str] = []
    refused = {"atheris", "kosoku"}

    def install(arguments: list[str], folder: Path, what: str) -> None:
        asked.append(arguments[-1])
        if arguments[-1].partition("==")[0] in refused:
            raise PreparationError(f"cannot install {what}")

    free, locked = python_of((3, 78, 0), free=True), python_of((3, 78, 0))
    monkeypatch.setattr(command, "install", install)
    monkeypatch.setattr(command, "ENVIRONMENT", tmp_path / "environment")
    assert command.install_python_packages(free) == ["atheris", "kosoku"]
    assert command.REPLACED["hypothesis"] in asked
    names = {line.partition("==")[0] for line in asked}
    assert names >= {*command.OPTIONAL, "pytest"}
    refused.add("pytest")
    with pytest.raises(PreparationError, match="cannot install pytest=="):
        command.install_python_packages(free)
    asked.clear()
    command.install_python_packages(locked)
    assert asked[-1] == os.fspath(command.REQUIREMENTS), "all at once, or none"


def test_what_is_left_out_for_a_python_is_said_each_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    free = python_of((3, 78, 0), free=True)
    installed: list[Interpreter] = []

    def install(interpreter: Interpreter) -> list[str]:
        interpreter.environment.mkdir()
        installed.append(interpreter)
        return ["ast_serialize", "greenlet"]

    steps: list[str] = []

    def run_step(name: str, *_: object) -> command.Outcome:
        steps.append(name)
        return command.Outcome(name, 0, 1.0)

    monkeypatch.setattr(command, "install_python_packages", install)
    monkeypatch.setattr(command, "prepare_node", lambda: None)
    monkeypatch.setattr(command, "ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setattr(command, "choose", lambda names: [free])
    monkeypatch.setattr(command, "run_step", run_step)
    monkeypatch.setattr(command, "TOOLS", {})
    monkeypatch.setattr(sys, "argv", ["tests", "--python", "python3.78t"])
    for _ in range(2):
        assert command.main() == 0
        assert capsys.readouterr().out.splitlines()[-1] == (
            "left out: ruff and mypy (ast_serialize), tests in a browser (greenlet): "
            "cannot be installed for Python 3.78.0t; missing tools: none"
        )
    assert installed == [free]
    assert steps == ["pytest, Python 3.78.0t"] * 2
