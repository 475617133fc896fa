"""What the tests of rooms share: threads, and what outlives its process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scalesocket import Poller

if TYPE_CHECKING:
    from tests.redis_server import RedisServer


@pytest.fixture
def poller() -> Iterator[Poller]:
    running = Poller("poller")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def timer() -> Iterator[Poller]:
    running = Poller("timer")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where a server runs: it has games there, a program, and place for its store."""
    from tests.rooms.test_store import GAMES, PROGRAM

    (tmp_path / "games.py").write_text(GAMES)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[RedisServer]:
    """Run a Redis, or skip the test where there is none."""
    from tests.redis_server import running_redis

    with running_redis(folder / "redis") as server:
        yield server
