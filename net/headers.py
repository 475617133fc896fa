"""What the operator adds to the heads of responses (`--header`, `--subprotocol`)."""

from __future__ import annotations

import argparse
import re

from scalesocket import TOKEN, HandshakeError, parse_field_line

from .config import parse_names

_OWN_FIELDS = re.compile(
    "accept-ranges|allow|connection|content-(encoding|length|range|type)|date|etag|host|"
    "last-modified|"
    "location|retry-after|sec-websocket-.*|transfer-encoding|upgrade",
    re.IGNORECASE,
)


def parse_subprotocols(text: str) -> tuple[str, ...]:
    """Return names of subprotocols, which are HTTP tokens (RFC 6455 section 4.1)."""
    names = parse_names(text)
    for name in names:
        if not TOKEN.fullmatch(name):
            raise argparse.ArgumentTypeError(f"{name!r} is no name of a subprotocol")
    return names


def parse_header(text: str) -> tuple[str, str]:
    """Return name and value of a header field that does not meddle with HTTP itself."""
    try:
        name, value = parse_field_line(text)
    except HandshakeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no 'Name: value'") from None
    if _OWN_FIELDS.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{name} is set by the server itself")
    return name, value


# fmt: off
OPTIONS = (
    ("--subprotocol", "LIST", parse_subprotocols,
     "negotiate one of these, the first that a client lists"),
    ("--header", "FIELD", parse_header, "add 'Name: value' to every response, may repeat"),
    ("--header-ws", "FIELD", parse_header, "likewise, to the handshakes of WebSockets alone"),
    ("--header-http", "FIELD", parse_header, "likewise, to all other responses"),
)
# fmt: on
