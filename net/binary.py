"""Raw bytes in place of lines, in both directions (`--binary`, and a terminal with `--pty`).

Nothing ends a message: a program reads what clients send as one stream, and each piece of what it
prints is a binary message.
"""

from __future__ import annotations

from scalesocket import Config, Framing, Messages, Opcode, Output, Route, refuse_if


def check_options(config: Config) -> None:
    """Refuse to tag raw bytes, or to route by what they say.

    Raises:
        ConfigError: JSON framing is wanted, too.
    """
    is_json = "json" in (config.clientframe, config.serverframe)
    refuse_if(is_json, "--binary and JSON framing exclude each other")


class BinaryFraming(Framing):
    """Bytes as they come."""

    def encode(self, sender: int, run: Messages) -> bytes:
        """Return what the child reads for a run of messages from one client."""
        return b"".join(run.payloads)

    def announce(self, sender: int, message: str) -> bytes:
        """Return a join or leave message; only what is in it ends it."""
        return message.encode()

    def feed(self, data: bytes) -> list[Output]:
        """Return what the child printed."""
        return [Route(Opcode.BINARY, [data])]
