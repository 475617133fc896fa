"""Raw bytes in place of lines, in both directions (`--binary`, and a terminal with `--pty`).

Nothing ends a message: a program reads what clients send as one stream, and each piece of what it
prints is a binary message.
"""

from __future__ import annotations

from scalesocket import Framing, Messages, Opcode, Output, Route


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
