"""Whether a peer is still there, which the system knows though nobody reads from it."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING

from scalesocket import ABANDON_TIMEOUT, Connection, Opcode, encode_frame

if TYPE_CHECKING:
    from scalesocket import Client, Room

POLL_END = getattr(select, "POLLRDHUP", 0)  # the peer has closed its side (Linux)
POLL_BROKEN = getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)
PONG = encode_frame(Opcode.PONG, b"")  # asks for nothing


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


def is_behind(connection: Connection) -> bool:
    """Whether bytes wait for the kernel to take them; those that a replay holds back do not."""
    return connection._backlog.size > 0


def probe(connection: Connection) -> bool:
    """Return whether a peer is still there, though nothing is read from it.

    A peer that has gone may have left more than we have room to read, and its end comes only
    behind that. It answers a Pong (RFC 6455 section 5.5.3: nobody asked for it) with a reset, which
    ends the connection; its own end may be seen before that.
    """
    silence = time.monotonic() - connection.silent_since
    if connection.is_reading or silence < ABANDON_TIMEOUT:
        return True
    if not is_behind(connection):
        connection.send_control(PONG)
    return not has_ended(connection)


def is_deserted(room: Room) -> bool:
    """Whether no client of a room is left, though their readers may not know it yet."""
    with room.registry.lock:
        clients = list(room.clients)
    return not any([_may_be_there(client) for client in clients])


def _may_be_there(client: Client) -> bool:
    return probe(client.connection) if client.seat is None else client.seat.probe()
