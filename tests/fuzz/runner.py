"""Lets atheris look for inputs that make targets fail: `fuzz(python, targets, seconds=10)`.

atheris drives libFuzzer: it keeps the inputs that reach new branches, and mutates those.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.mutate import MAX_SIZE
from tests.fuzz.targets import Target
from tests.support import find_python_with

ROOT = Path(__file__).resolve().parent.parent.parent
STARTUP = 60.0  # seconds for atheris to load, on a busy machine
SEEDS_TIME = 20.0  # seconds for a target to try its seeds, and to end
INPUT_TIMEOUT = 10  # seconds for one input; all take milliseconds
MEMORY = 1024  # MiB


class Run(NamedTuple):
    """How fuzzing a target went."""

    inputs: int  # how many were tried
    crash: bytes | None  # the one that the target failed on
    output: str  # what atheris said


def find_python() -> str | None:
    """Return a Python that has atheris."""
    return find_python_with("atheris")


def fuzz(
    python: str,
    targets: Sequence[Target],
    *,
    seconds: float,
    inputs: int = -1,
    keep: Path | None = None,
    root: Path = ROOT,
    seed: int = 0,
) -> Iterator[tuple[Target, Run]]:
    """Fuzz targets, each until it fails or has had enough, and yield how each went.

    Args:
        python: a Python that has atheris.
        targets: their seeds and corpora are what is begun with.
        seconds: how long, for each.
        inputs: how many, for each; -1 is any number.
        keep: a folder for the inputs that reached something new, to go on from another time.
        root: where `scalesocket.py` and `tests` are.
        seed: of the random generator; 0 is a new one each time.
    """
    options = {
        "max_total_time": max(1, round(seconds)),
        "runs": inputs,
        "timeout": INPUT_TIMEOUT,
        "rss_limit_mb": MEMORY,
        "max_len": MAX_SIZE,
        "seed": seed,
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-"))
        folders = {target: prepare(Path(scratch), target, keep) for target in targets}
        names = [target.name for target in targets]
        said = run_engine(
            [python, "-m", "tests.fuzz.engine", scratch, *names, *flags],
            root,
            Path(scratch),
            STARTUP + len(names) * (seconds + SEEDS_TIME),
        )
        for target, folder in folders.items():
            yield target, read_run(folder, said)


def prepare(scratch: Path, target: Target, keep: Path | None) -> Path:
    """Make the folder of a target: what to begin with, and its dictionary."""
    folder = scratch / target.name
    (folder / "begin").mkdir(parents=True)
    for number, data in enumerate(target.inputs()):
        (folder / "begin" / str(number)).write_bytes(data)
    words = target.words or (b"\0",)  # there must be one
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
    (folder / "words").write_text("".join(f'"{line}"\n' for line in lines))
    kept = keep / target.name if keep else folder / "own"
    kept.mkdir(parents=True, exist_ok=True)
    (folder / "kept").symlink_to(kept.resolve(), target_is_directory=True)
    return folder


def run_engine(command: Sequence[str], root: Path, scratch: Path, timeout: float) -> str:
    """Run the engine to its end and return what it said; libFuzzer leaves its files behind."""
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "TMPDIR": os.fspath(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    return done.stdout


def read_run(folder: Path, said: str) -> Run:
    """Return how a target went; what the engine said counts if libFuzzer did not come to speak."""
    output, crash = folder / "output", folder / "crash"
    text = output.read_text(errors="replace") if output.exists() else said
    tried = re.search(r"stat::number_of_executed_units: (\d+)", text)
    data = crash.read_bytes() if crash.exists() else None
    return Run(int(tried[1]) if tried else 0, data, text)
