"""Peers that have gone without a word are noticed (`--ping`).

Who has been silent for an interval is sent a ping, which its WebSocket answers (RFC 6455 section
5.5.2); who has been for two is closed. A protocol that has no ping has another way: see lines.py.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from scalesocket import CloseCode, Connection, Opcode, encode_frame, parse_seconds

from .presence import is_behind, probe

if TYPE_CHECKING:
    from scalesocket import Server

# fmt: off
OPTIONS = (
    ("--ping", "SECONDS", parse_seconds,
     "ping a client silent for so long, close it after twice as long (default 20; 0: never)"),
)
# fmt: on
PING = encode_frame(Opcode.PING, b"")  # asks the peer for a sign of life


def set_up(server: Server) -> None:
    """Have a server look after silent peers."""
    if server.config.ping:
        server.poller.call_soon(Pings(server).start)


class Pings:
    """Checks all peers, four times in an interval; on the poller's thread.

    Args:
        server: whose peers they are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._interval = server.config.ping  # seconds
        self._checked_at = 0.0  # in monotonic seconds

    def start(self) -> None:
        """Begin, as soon as the server runs."""
        self._checked_at = time.monotonic()
        self._check_later()

    def check_all(self) -> None:
        """Check each peer."""
        now = time.monotonic()
        late = now - self._checked_at - self._interval / 4
        self._checked_at = now
        deaf = late if late > self._interval / 4 else 0.0  # a laptop slept, or it was a SIGSTOP
        for connection in self._server.connections.copy():
            check_peer(connection, self._interval, now, deaf)
        if not self._server.is_ending:
            self._check_later()

    def _check_later(self) -> None:
        self._server.poller.call_later(self._interval / 4, self.check_all)


@functools.singledispatch
def check_peer(connection: Connection, interval: float, now: float, deaf: float = 0.0) -> None:
    """Ping a peer silent for `interval` s, close it after two of them.

    Args:
        connection: the peer's. lines.py registers what is done for its own kind.
        interval: seconds.
        now: in monotonic seconds.
        deaf: seconds before `now` in which the whole process stood still, and heard nobody.
    """
    # What it takes of a backlog shows that it is there: a ping would have to wait behind that.
    progress_at = connection.progress_at if is_behind(connection) else 0.0
    connection.silent_since = min(max(connection.silent_since, progress_at) + deaf, now)
    silence = now - connection.silent_since
    if not connection.is_reading:
        probe(connection)
    elif silence > 2 * interval:
        connection.close(CloseCode.INTERNAL_ERROR, f"silent for {silence:.0f} s")
    elif silence > interval and not connection.is_full:
        connection.send_control(PING)
