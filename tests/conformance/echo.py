"""The game that the conformance cases talk to: it says back whatever it is told."""

from __future__ import annotations

from scalesocket.net.deflate import RSV1, Deflate, compress

import scalesocket


class Echo(scalesocket.Game):
    """Echoes every message to the client it came from.

    With `--compress` it sends every message compressed, however short. The server itself sends
    messages plain that compression would make no shorter, as RFC 7692 section 6 allows; but
    kosoku 0.1.0 handles a plain message as `str` once compression is negotiated, and ends its
    cases of 16 bytes (12.x.1, 13.x.1) with "Strings must be encoded before hashing".
    """

    def on_message(self, client: scalesocket.Client, message: str | bytes) -> None:
        """Send it back."""
        encoding = client.connection.encoding
        frame = encoding.encode_message(message)
        if isinstance(encoding, Deflate) and not frame[0] >> 4 & RSV1:
            frame = compressed_frame(message, encoding.window_bits)
        assert client.room is not None
        client.room.post((client,), frame)


def compressed_frame(message: str | bytes, window_bits: int) -> bytes:
    """Return a message as one compressed frame, though it may be the longer for it."""
    opcode = scalesocket.Opcode.TEXT if isinstance(message, str) else scalesocket.Opcode.BINARY
    payload = message.encode() if isinstance(message, str) else message
    data = compress(payload, window_bits)
    return scalesocket.encode_frame(opcode, data, rsv=RSV1)
