"""A Redis, or Valkey, that tests start, stop and freeze."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from tests.support import free_port, require_tool, wait_until


class RedisServer:
    """One that keeps what it has over a stop, and over a crash what it had a second before.

    Args:
        folder: for its files; made if need be.
        password: that it wants.
        options: more of them, as on its command line.
    """

    def __init__(self, folder: Path, password: str = "", options: Sequence[str] = ()) -> None:
        self._folder, self._options = folder, options
        self.port = free_port()
        self.password = password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        tool = require_tool("redis-server")
        self._folder.mkdir(exist_ok=True)
        kept = ("--appendonly", "yes", "--save", "", "--dir", str(self._folder))
        where = ("--bind", "127.0.0.1", "--port", str(self.port), "--loglevel", "warning")
        command = [tool, *where, *kept, "--requirepass", self.password, *self._options]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **quiet)
        wait_until(self._answers)
        assert self._process.poll() is None  # it is this one that answers

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
            return bool(self.ask("PING"))
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it, or kill it with another signal."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Have it answer nothing, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: str) -> Any:
        """Return its answer to a command."""
        options: dict[str, Any] = {"password": self.password} if self.password else {}
        with redis.Redis(port=self.port, decode_responses=True, protocol=2, **options) as client:
            return client.execute_command(*command)


@contextlib.contextmanager
def running_redis(
    folder: Path, password: str = "", options: Sequence[str] = ()
) -> Iterator[RedisServer]:
    """Run one for the length of a `with` block; skip the test where none is installed."""
    server = RedisServer(folder, password, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
