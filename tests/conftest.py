"""What pytest does around every test."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import hypothesis
import pytest

from tests.certificates import certs
from tests.support import PATIENCE, wait_until

__all__ = ["certs", "no_thread_is_left_behind"]

# A busy machine is no reason to fail, so no example has a deadline of its own. CI takes the same
# examples each time, as it does of the fuzzers' inputs: what it says is of the change alone.
IN_CI = bool(os.environ.get("CI"))
hypothesis.settings.register_profile("house", deadline=None, derandomize=IN_CI)
hypothesis.settings.load_profile("house")

# Tests that run side by side are told a size, which a program in its own terminal would believe.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# What `nohup` or a shell's `&` made this process ignore, every program of a test would ignore, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread running in this process.

    Readers are bare threads, which have no names: those can only be counted.
    """
    before, count = set(threading.enumerate()), _thread._count()
    yield

    def leaked() -> list[str]:
        names = [thread.name for thread in threading.enumerate() if thread not in before]
        return names or ["a reader"] * (_thread._count() - count)

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not leaked(), timeout=PATIENCE)
    assert not leaked(), f"threads left behind: {leaked()}"
