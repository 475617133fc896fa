"""What pytest does around every test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import hypothesis
import pytest

from tests.support import wait_until

# A busy machine is no reason to fail, so no example has a deadline of its own.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread running in this process."""
    before = set(threading.enumerate())
    yield

    def leaked() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not leaked(), timeout=5)
    names = [thread.name for thread in leaked()]
    assert not names, f"threads left behind: {names}"
