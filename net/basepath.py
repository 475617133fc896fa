"""A server below a path of its own, as behind a proxy that others share (`--basepath`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from scalesocket import HandshakeError, parser_of

if TYPE_CHECKING:
    from scalesocket import Request, Server

SEGMENT = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"  # of a path, and no hidden one

parse_basepath = parser_of(rf"/|(/{SEGMENT})+/?", "path such as /ws", lambda s: s.rstrip("/"))
# fmt: off
OPTIONS = (
    ("--basepath", "PATH", parse_basepath,
     "serve everything below PATH, such as /ws: rooms at ws://HOST:PORT/ws/<room>"),
)
# fmt: on


def enter_base(request: Request, base: str) -> Request:
    """Return a request as it is below a path; `/health` may stand above it, `*` has no path.

    Raises:
        HandshakeError: 301, only its last slash is missing; 404, it is for what is not below it.
    """
    if request.path.rstrip("/") == "/health" and not request.is_upgrade:
        return request
    if request.target == "*":  # the server as such (RFC 9112 section 3.2.4)
        return request
    if request.path == base:
        target = f"{base}/{request.target.removeprefix(base)}"
        raise HandshakeError(301, "a slash is missing", ("Location", target))
    if not request.path.startswith(f"{base}/"):
        raise HandshakeError(404, f"nothing here; all is below {base}/")
    return request._replace(target=request.target.removeprefix(base), base=base)


def set_up(server: Server) -> None:
    """Have a server look below the path only."""
    server.enter_base = functools.partial(enter_base, base=server.config.basepath)
