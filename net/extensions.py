"""What clients offer in Sec-WebSocket-Extensions (RFC 6455 section 9.1)."""

from __future__ import annotations

import re

from scalesocket import PLAIN, TOKEN, Encoding, HandshakeError, Server

Offer = tuple[str, dict[str, str]]  # an extension's name, and its parameters
_PARAMETER = rf"({TOKEN.pattern})(?:\s*=\s*(?:({TOKEN.pattern})|\"({TOKEN.pattern})\"))?"


def parse_extensions(value: str) -> list[Offer]:
    """Return the offers of a Sec-WebSocket-Extensions header in their order (9.1).

    An offer is a name and its parameters; a parameter without a value has an empty one. An
    offer that has a parameter twice is left out: it is invalid (RFC 7692 section 7).

    Raises:
        HandshakeError: 400, it is malformed.
    """
    offers = []
    for text in filter(None, (part.strip() for part in value.split(","))):
        name, *parameters = (part.strip() for part in text.split(";"))
        matches = [re.fullmatch(_PARAMETER, parameter) for parameter in parameters]
        if not TOKEN.fullmatch(name) or None in matches:
            raise HandshakeError(400, "malformed Sec-WebSocket-Extensions header")
        pairs = [(m[1], m[2] or m[3] or "") for m in matches if m is not None]
        if len(dict(pairs)) == len(pairs):
            offers.append((name, dict(pairs)))
    return offers


def decline(value: str) -> tuple[Encoding, str]:
    """Accept no offer, but refuse a header that is malformed."""
    parse_extensions(value)
    return PLAIN, ""


def set_up(server: Server) -> None:
    """Have a server read what is offered; net/deflate.py accepts some of it."""
    server.negotiate = decline
