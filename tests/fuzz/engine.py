"""Targets under atheris, in a process of their own: `python -m tests.fuzz.engine FOLDER ...`.

Only `runner` calls this, after it has put seeds and dictionary of each target into the folder.
Loading takes seconds, so it is done once, and each target gets a fork.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import atheris

# What these modules execute is what the fuzzer sees of an input.
with atheris.instrument_imports(include=["scalesocket", "json", "tomllib", "email._parseaddr"]):
    from tests.fuzz.targets import TARGETS


def main(arguments: Sequence[str]) -> None:
    """Fuzz the targets, as many at a time as there are processors.

    Args:
        arguments: the folder, targets, and options of libFuzzer.
    """
    logging.disable()
    folder, *words = arguments
    flags = [word for word in words if word.startswith("-")]
    running: dict[int, Path] = {}
    for name in [word for word in words if word not in flags]:
        if len(running) == (os.cpu_count() or 1):
            reap(running)
        process = os.fork()
        if process == 0:
            fuzz(name, Path(folder) / name, flags)
        running[process] = Path(folder) / name
    while running:
        reap(running)


def reap(running: dict[int, Path]) -> None:
    """Wait for one of the processes, and note how it has ended."""
    process, status = os.waitpid(-1, 0)
    with (running.pop(process) / "output").open("a") as output:
        print(f"the process has ended with {os.waitstatus_to_exitcode(status)}", file=output)


def fuzz(name: str, folder: Path, flags: Sequence[str]) -> NoReturn:
    """Let libFuzzer take over this process, and write what it says into a file."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)

    def check(data: bytes) -> None:
        try:
            TARGETS[name].check(data)
        except Exception:
            (folder / "crash").write_bytes(data)  # whatever becomes of this process
            raise

    places = [f"-dict={folder / 'words'}", f"-exact_artifact_path={folder / 'crash'}"]
    corpora = [str(folder / "kept"), str(folder / "begin")]
    atheris.Setup([sys.argv[0], *flags, *places, *corpora], check)
    atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
