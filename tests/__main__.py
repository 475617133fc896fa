"""The one test command: `python3 -m tests`.

Needs Python 3.11 and nothing else. It makes its own virtual environment, installs what is
pinned in `tests/requirements.txt`, and runs ruff, mypy and pytest. All other arguments go to
pytest:

    python3 -m tests --quick                    while developing
    python3 -m tests --quick -k frames
    python3 -m tests --no-lint tests/wire/test_frames.py
    python3 -m tests --only lint
    python3 -m tests --no-lint --python all     with every Python from 3.11 on that is found here

A Python without the interpreter lock may lack some packages, which cannot be installed for it yet:
what needs them is left out, and the last line says so. With any other one that is an error.

With CI set in the environment nothing may be skipped for a missing tool.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support import NODE_FOLDER, ROOT, TOOLS, find_tool

REQUIREMENTS = ROOT / "tests" / "requirements.txt"
ENVIRONMENT = ROOT / ".venv-tests"
NODE_PACKAGES = NODE_FOLDER / "node_modules"
PARTS = ("net", "game", "client")
OLDEST = (3, 11)
TIME_LIMIT = 900  # seconds for one installation
ASK_LIMIT = 30  # seconds for a Python to say which one it is
MOST_AT_ONCE = 4  # tests; more would only measure the machine

# What a Python without the interpreter lock may lack, and what is then left out. Each is compiled,
# and may have no wheels for it.
OPTIONAL = {
    "atheris": "the coverage-guided fuzzer",
    "kosoku": "the Autobahn cases",
    "ast_serialize": "ruff and mypy",
    "greenlet": "tests in a browser",
    "rpds-py": "what Kubernetes' schemas say",
}
LINTER = "ast_serialize"  # mypy imports it
# The last one without compiled parts.
REPLACED = {"hypothesis": "hypothesis==6.155.7"}


class PreparationError(Exception):
    """What the tests need could not be installed."""


class Interpreter(NamedTuple):
    """A Python that the tests run with."""

    path: str
    release: tuple[int, ...]  # (3, 13, 0)
    version: str  # all that `sys.version` says
    free: bool  # it has no interpreter lock

    @property
    def tag(self) -> str:
        """Which line of releases it is of: `3.13`, or `3.13t` without the interpreter lock."""
        return f"{self.release[0]}.{self.release[1]}{'t' if self.free else ''}"

    @property
    def environment(self) -> Path:
        """Its virtual environment."""
        if self.version == THIS.version:
            return ENVIRONMENT
        return ENVIRONMENT.with_name(f"{ENVIRONMENT.name}-{self.tag}")

    @property
    def python(self) -> Path:
        """The Python of its virtual environment."""
        return self.environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.release))}{'t' if self.free else ''}"


THIS = Interpreter(
    sys.executable,
    sys.version_info[:3],
    sys.version,
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
)
# What a Python is asked about itself. One that runs in a virtual environment names the one which
# that was made with, as environments can be made only from those that outlive them.
_WHO = """
import json, os, sys, sysconfig
path = getattr(sys, "_base_executable", None) or sys.executable
free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps([os.path.realpath(path), sys.version_info[:3], sys.version, free,
                  sys.implementation.name]))
"""


class Outcome(NamedTuple):
    """How a step ended."""

    name: str
    status: int
    seconds: float

    def __str__(self) -> str:
        word = "ok" if self.status == 0 else f"FAILED ({self.status})"
        return f"{self.name}: {word}, {self.seconds:.1f} s"


# ==== 1. The Pythons ======================================================


def identify(path: str) -> Interpreter | None:
    """Ask a Python which one it is; None if it is no CPython that the tests can run with."""
    try:
        done = subprocess.run(
            [path, "-Ic", _WHO], capture_output=True, text=True, timeout=ASK_LIMIT
        )
        real, release, version, free, kind = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    found = Interpreter(real, tuple(release), version, free)
    return found if kind == "cpython" and found.release >= OLDEST else None


def candidates() -> Iterator[str]:
    """Yield what may be a Python: on PATH, and what pyenv has installed."""
    places = [Path(place) for place in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places += sorted((pyenv / "versions").glob("*/bin"))
    for place in places:
        for path in sorted(place.glob("python3*")):
            if re.fullmatch(r"python3(\.\d+t?)?(\.exe)?", path.name):
                yield os.fspath(path)


def find_all() -> list[Interpreter]:
    """Return one Python of each line of releases, the latest; this one of its own line."""
    found = {THIS.tag: THIS}
    seen = set()
    for path in candidates():
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        other = identify(path)
        if other is None or other.tag == THIS.tag:
            continue
        if other.tag not in found or other.release > found[other.tag].release:
            found[other.tag] = other
    return sorted(found.values(), key=lambda python: (python.release, python.free))


def choose(wanted: Sequence[str]) -> list[Interpreter]:
    """Return the Pythons that `--python` names; this one if it names none.

    Raises:
        PreparationError: one of them is none, or is too old.
    """
    chosen: dict[str, Interpreter] = {}
    for name in wanted:
        for python in find_all() if name == "all" else [identify(name)]:
            if python is None:
                oldest = ".".join(map(str, OLDEST))
                raise PreparationError(f"--python {name} is no CPython {oldest} or later")
            chosen.setdefault(python.tag, python)
    return list(chosen.values()) or [THIS]


# ==== 2. What the tests need ==============================================
# Installed once for each Python. A stamp holds the hash of what was asked for; it is written last,
# so that an installation that was interrupted is begun again.


def prepare(interpreter: Interpreter) -> list[str]:
    """Install what is missing, and return the names of the packages that cannot be."""
    with one_at_a_time():
        wanted = fingerprint(REQUIREMENTS.read_bytes(), interpreter.version.encode())
        stamp = interpreter.environment / "stamp"
        found, *lacking = (read_stamp(stamp) or "").splitlines() or [""]
        if found != wanted:
            lacking = install_python_packages(interpreter)
            stamp.write_text("\n".join([wanted, *lacking]))
        if shutil.which("npm"):
            prepare_node()
    return lacking


def prepare_node() -> None:
    """Install the packages of `tests/node/package.json`."""
    wanted = fingerprint((NODE_FOLDER / "package.json").read_bytes())
    stamp = NODE_PACKAGES / "stamp"
    if read_stamp(stamp) == wanted:
        return
    heading("npm install")
    options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
    install(["npm", "install", *options], NODE_FOLDER, "the packages in tests/node/package.json")
    stamp.write_text(wanted)


def install_python_packages(interpreter: Interpreter) -> list[str]:
    """Make the virtual environment anew, and return the names of what it has to do without."""
    heading(f"pip install, {interpreter}")
    folder = os.fspath(interpreter.environment)
    shutil.rmtree(folder, ignore_errors=True)
    install([interpreter.path, "-m", "venv", folder], ROOT, "a virtual environment")
    pip = [os.fspath(interpreter.python), "-m", "pip", "--disable-pip-version-check", "install"]
    if interpreter.free:
        return install_what_there_is([*pip, "--quiet", "--no-deps"])
    packages = ["--quiet", "--requirement", os.fspath(REQUIREMENTS)]
    install([*pip, *packages], ROOT, "the packages in tests/requirements.txt")
    return []


def install_what_there_is(pip: Sequence[str]) -> list[str]:
    """Install one package after the other, and return the names of those that cannot be.

    Raises:
        PreparationError: it is none of `OPTIONAL`.
    """
    lacking = []
    for line in REQUIREMENTS.read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if not requirement:
            continue
        name = requirement.partition("==")[0]
        try:
            install([*pip, REPLACED.get(name, requirement)], ROOT, requirement)
        except PreparationError:
            if name not in OPTIONAL:
                raise
            lacking.append(name)
    return lacking


def install(command: Sequence[str], folder: Path, what: str) -> None:
    """Run one installer, quietly unless it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PreparationError(f"cannot install {what}: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
        cause = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise PreparationError(f"cannot install {what}: {cause.strip()}")


def fingerprint(*parts: bytes) -> str:
    """Return a hash of what an installation depends on."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_stamp(path: Path) -> str | None:
    """Return the fingerprint of what is installed."""
    return path.read_text() if path.exists() else None


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Make a second `python3 -m tests` wait while this one installs."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with REQUIREMENTS.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ==== 3. The steps ========================================================


def heading(text: str) -> None:
    """Announce a step."""
    print(f"\n==== {text} {'=' * (70 - len(text))}", flush=True)


def run_step(name: str, python: Path, arguments: Sequence[str], *, folder: Path = ROOT) -> Outcome:
    """Run `python -m ARGUMENTS...` in a folder, under a heading."""
    heading(name)
    start = time.monotonic()
    status = subprocess.run([python, "-m", *arguments], cwd=folder, stdin=subprocess.DEVNULL)
    outcome = Outcome(name, status.returncode, time.monotonic() - start)
    print(outcome, flush=True)
    return outcome


def lay_out_package(environment: Path) -> Path:
    """Return a folder in which mypy finds the package as it is imported: under one name.

    There `scalesocket.py` is the package itself, and the three folders are inside of it.
    """
    folder = environment / "typed"
    package = folder / "scalesocket"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").symlink_to(ROOT / "scalesocket.py")
    for name in PARTS:
        (package / name).symlink_to(ROOT / name)
    return folder


def run_lint(interpreter: Interpreter) -> list[Outcome]:
    """Hold the sources against the rules."""
    python, package = interpreter.python, lay_out_package(interpreter.environment)
    mypy = ["mypy", f"--config-file={ROOT / 'pyproject.toml'}", "--strict", "scalesocket"]
    return [
        run_step("ruff check", python, ["ruff", "check", "--output-format=concise", "."]),
        run_step("ruff format", python, ["ruff", "format", "--check", "."]),
        run_step("mypy", python, mypy, folder=package),
    ]


def run_pytest(name: str, python: Path, quick: bool, arguments: Sequence[str]) -> Outcome:
    """Run the tests; `-rs` makes pytest say what it skipped, and why.

    Most tests wait for servers and browsers most of their time: two at once leave almost half of
    two processors idle, so one more runs than there are processors.
    """
    at_once = ["-n", str(min((os.cpu_count() or 1) + 1, MOST_AT_ONCE)), "--dist", "worksteal"]
    chosen = ["-m", "not slow and not browser"] if quick else []
    return run_step(name, python, ["pytest", "-rs", *at_once, *chosen, *arguments])


# ==== 4. The command ======================================================


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what it does not know is pytest's."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests",
        usage="%(prog)s [--quick] [--no-lint | --only STEP] [--python PATH] [PYTEST ARGUMENTS...]",
        description="Run ruff, mypy and pytest in an environment made for them.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="leave out slow and browser tests")
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--only", choices=("lint", "tests"), help="run one half")
    steps.add_argument("--no-lint", dest="only", action="store_const", const="tests")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="test with this Python, each in its own environment; may repeat; "
        "`all`: one of each version from 3.11 on that is on PATH or that pyenv has",
    )
    return parser


def main() -> int:
    """Run what was asked for and return the worst exit status."""
    options, pytest_arguments = build_parser().parse_known_args()
    try:
        interpreters = choose(options.python)
        lacking = {interpreter: prepare(interpreter) for interpreter in interpreters}
    except PreparationError as error:
        print(f"tests: {error}", file=sys.stderr)
        return 1
    outcomes: list[Outcome] = []
    linters = [interpreter for interpreter in interpreters if LINTER not in lacking[interpreter]]
    if options.only != "tests" and linters:  # the rules are the same for every Python
        outcomes += run_lint(linters[0])
    if options.only != "lint":
        for interpreter in interpreters:
            step = f"pytest, {interpreter}" if options.python else "pytest"
            outcomes.append(run_pytest(step, interpreter.python, options.quick, pytest_arguments))
    return conclude(outcomes, left_out(options.quick, lacking), needs_tools=options.only != "lint")


def left_out(quick: bool, lacking: Mapping[Interpreter, Sequence[str]]) -> str:
    """Say which tests were not asked for, and which there is no package for."""
    parts = ["slow and browser tests (--quick)"] if quick else []
    for interpreter, names in lacking.items():
        needed = [f"{OPTIONAL[name]} ({name})" for name in names]
        if needed:
            parts.append(f"{', '.join(needed)}: cannot be installed for {interpreter}")
    return "; ".join(parts) or "nothing"


def conclude(outcomes: Sequence[Outcome], left_out: str, needs_tools: bool) -> int:
    """Say briefly how it went, so that pytest's own last line stays near the end."""
    missing = [name for name in TOOLS if find_tool(name) is None] if needs_tools else []
    print("\n" + "\n".join(map(str, outcomes)))
    print(f"left out: {left_out}; missing tools: {', '.join(missing) or 'none'}", flush=True)
    worst = max((abs(outcome.status) for outcome in outcomes), default=1)  # 1: nothing was run
    if missing and os.environ.get("CI"):
        print("tests: with CI set, no tool may be missing", file=sys.stderr)
        return max(worst, 1)
    return worst


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - says so instead of failing in the middle
        sys.exit("tests: Python 3.11 or later is needed")
    sys.exit(main())
