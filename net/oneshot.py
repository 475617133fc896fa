"""A server for one client, with which it ends (`--oneshot`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalesocket import FLAG, HandshakeError

if TYPE_CHECKING:
    from scalesocket import Server, Session

OPTIONS = (("--oneshot", "", FLAG, "serve one client, then exit"),)


def set_up(server: Server) -> None:
    """Have a server let in one client, and stop when it has gone."""
    only: dict[str, Session] = {}  # `setdefault` is atomic

    def check(session: Session) -> None:
        if only.setdefault("it", session) is not session:
            raise HandshakeError(503, "one client has been served already (--oneshot)")
        session.at_end.append(server.stop)

    server.check_last = check
