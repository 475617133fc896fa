"""Whether a peer has ended its side, which the system knows though nobody reads from it."""

from __future__ import annotations

import select
import socket

from scalesocket import Connection

POLL_END = getattr(select, "POLLRDHUP", 0)  # the peer has closed its side (Linux)
POLL_BROKEN = getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)


def poll_end(sock: socket.socket | Connection) -> int:
    """Return the signs that a peer has ended its side or the connection; 0 where none show."""
    if not POLL_BROKEN:
        return 0
    poller = select.poll()
    poller.register(sock, POLL_END | POLL_BROKEN)
    return dict(poller.poll(0)).get(sock.fileno(), 0)


def has_ended(connection: Connection) -> bool:
    """Whether there is such a sign; under its lock, so that its socket is not closed meanwhile."""
    with connection.lock:
        return not connection.is_alive() or poll_end(connection) != 0
