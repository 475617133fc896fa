"""gwsocket's framing (`--frame=gwsocket`): a header of three 32-bit numbers before each message.

The numbers are: client ID (from the child, 0 is everyone), type (1 text, 2 binary), and the length
of the payload in bytes. They are in network byte order, as in gwsocket's strict mode.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scalesocket import (
    MAX_OUTPUT_ITEM,
    BackendError,
    Framing,
    Messages,
    Opcode,
    Output,
    Report,
    Route,
    refuse_if,
)

if TYPE_CHECKING:
    from scalesocket import Config

# fmt: off
OPTIONS = (
    ("--byteorder", "ORDER", ("big", "little"),
     "byte order of gwsocket's headers: big (default), or little as in ScaleSocket 0.2"),
)
# fmt: on


def check_options(config: Config) -> None:
    """Refuse an order of bytes that no header has.

    Raises:
        ConfigError: there are no headers.
    """
    framings = (config.clientframe, config.serverframe)
    refuse_if("gwsocket" not in framings, "--byteorder needs gwsocket framing")


class GwsocketFraming(Framing):
    """Binary messages with a header, in both directions.

    Args:
        report: is told what had to be dropped.
        order: of the bytes of a header: `big`, or `little` as ScaleSocket 0.2 reads them.
    """

    def __init__(self, *, report: Report, order: str = "big") -> None:
        super().__init__(report=report)
        self.header = struct.Struct(">III" if order == "big" else "<III")
        self._data = bytearray()

    def encode(self, sender: int, run: Messages) -> bytes:
        """Put the header before each message."""
        pack = self.header.pack
        parts = [pack(sender, run.opcode, len(payload)) + payload for payload in run.payloads]
        return b"".join(parts)

    def announce(self, sender: int, message: str) -> bytes:
        """Put the header before a join or leave message, too."""
        return self.encode(sender, Messages(Opcode.TEXT, [message.encode()], 0))

    def feed(self, data: bytes) -> list[Output]:
        """Return all whole messages, wherever the reads have cut them.

        A header that cannot be right sets `error`, as the next one cannot be found.
        """
        self._data += data
        outputs: list[Output] = []
        position = 0
        while len(self._data) - position >= self.header.size:
            client_id, kind, length = self.header.unpack_from(self._data, position)
            if kind not in (Opcode.TEXT, Opcode.BINARY) or length > MAX_OUTPUT_ITEM:
                self.error = BackendError(
                    f"gwsocket header with type {kind} and length {length}; types are 1 and 2, "
                    f"{MAX_OUTPUT_ITEM} is the longest (see --byteorder)"
                )
                break
            start = position + self.header.size
            if len(self._data) < start + length:
                break
            position = start + length
            payload = bytes(self._data[start:position])
            if kind == Opcode.TEXT and not payload.isascii():
                payload = self._to_text(payload)
            outputs.append(Route(kind, [payload], (client_id,) if client_id else None))
        del self._data[:position]
        return outputs

    def finish(self) -> list[Output]:
        """Drop a message that has not ended."""
        if self._data:
            self._report(None, f"{len(self._data)} bytes of an unfinished gwsocket message")
        return []
