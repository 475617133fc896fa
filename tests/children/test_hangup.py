"""SIGHUP: the terminal has been closed, or certificates are to be read again (case 11)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.certificates import Certificates
from tests.support import SCRIPT, RawClient, ServerProcess, serve, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a terminal is wanted")

# Opens a terminal as the leader of a session, whose controlling terminal it becomes.
IN_TERMINAL = (
    "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execvp(sys.argv[2], sys.argv[2:])"
)
PYTHON = [sys.executable, "-W", "always::ResourceWarning", str(SCRIPT)]


@contextmanager
def serve_in_terminal(
    *options: str, wrapper: tuple[str, ...] = ()
) -> Iterator[tuple[ServerProcess, int]]:
    """Serve, and give the descriptor that holds the terminal open."""
    master, slave = os.openpty()
    command = [*wrapper, sys.executable, "-c", IN_TERMINAL, os.ttyname(slave), *PYTHON]
    closed = False
    try:
        with serve(*options, command=command) as server:
            os.close(slave)
            closed = True
            yield server, master
    finally:
        if not closed:
            os.close(slave)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_closed_terminal_ends_the_server_as_sigterm_does(workers: str) -> None:
    """There was no Close, and the programs lived on."""
    with serve_in_terminal("--workers", workers, "cat") as (server, terminal):
        with RawClient.connect(server) as client:
            client.send_text("here")
            assert client.receive_text() == "here"
            os.close(terminal)
            assert client.wait_close()[0] == 1001
        assert server.wait() == 0
        wait_until(lambda: server.survivors() == [])


@pytest.mark.slow
def test_a_hangup_that_comes_twice_is_no_second_signal() -> None:
    """A shell sends to its jobs what the kernel has sent to them before; both mean the same."""
    slow = 'trap "" INT TERM; cat >/dev/null; sleep 1; echo ended >&2'
    with serve("--closegrace", "20", "sh", "--", "-c", f"echo up; {slow}") as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "up"
            server.process.send_signal(signal.SIGHUP)
            assert client.wait_close()[0] == 1001
            server.process.send_signal(signal.SIGHUP)
        assert server.wait() == 0
        server.wait_log("stderr: ended")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_nohup_the_server_outlives_its_terminal(workers: str) -> None:
    with serve_in_terminal("--workers", workers, "cat", wrapper=("nohup",)) as (server, terminal):
        with RawClient.connect(server) as client:
            os.close(terminal)
            client.send_text("still here")
            assert client.receive_text() == "still here"


@pytest.mark.slow
def test_with_certificates_it_reads_them_again(certs: Certificates) -> None:
    """Unless the terminal is gone: then nobody could read the log, or stop the server."""
    with serve_in_terminal(*certs.options(), "cat") as (server, terminal):
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("certificates read again")
        assert server.process.poll() is None
        os.close(terminal)
        assert server.wait() == 0


def test_drained_as_after_sigterm() -> None:
    with serve("--drain", "60", "cat") as server, RawClient.connect(server) as client:
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("draining")
        client.close()
        assert server.wait() == 0
