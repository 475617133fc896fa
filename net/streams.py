"""Clients hear a program's stderr, too, and each message says which stream it is from.

That is `--passstderr`. What is quoted stays quoted, so neither stream can pass for the other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scalesocket import FLAG, Route, refuse_if

if TYPE_CHECKING:
    from scalesocket import Config, Output

# fmt: off
OPTIONS = (
    ("--passstderr", "", FLAG, 'send stderr too, as {"stream":"stderr","data":...}'),
)
# fmt: on


def check_options(config: Config) -> None:
    """Refuse what is no lines of text.

    Raises:
        ConfigError: another option is in the way.
    """
    binary = config.binary and not config.pty  # which net/children.py refuses
    refuse_if(binary, "--binary and --passstderr exclude each other")
    for_gwsocket = config.serverframe == "gwsocket"
    refuse_if(for_gwsocket, "--passstderr and --serverframe=gwsocket exclude each other")


def name_stream(stream: str, outputs: list[Output]) -> list[Output]:
    """Return what a program has printed as JSON objects that name the stream."""
    return [
        output._replace(payloads=[_wrap(stream, line) for line in output.payloads])
        if isinstance(output, Route)
        else output
        for output in outputs
    ]


def _wrap(stream: str, line: bytes) -> bytes:
    return json.dumps({"stream": stream, "data": line.decode()}, ensure_ascii=False).encode()
