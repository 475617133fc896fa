"""Compression of messages: permessage-deflate (RFC 7692; --compress).

The payload of a compressed message is DEFLATE data without its last four bytes, and RSV1 of its
first frame says that it is compressed. Neither side refers back to earlier messages (it "takes no
context over"). So a broadcast is compressed once and serves every client; and Wireshark 4.0, which
reads both directions by the server's parameters, can show what the client has sent.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

from scalesocket import (
    FLAG,
    KIB,
    PLAIN,
    CloseCode,
    Encoding,
    FrameHeader,
    MessageAssembler,
    Opcode,
    ProtocolError,
    Server,
    encode_frame,
)

from .extensions import parse_extensions

OPTIONS = (("--compress", "", FLAG, "permessage-deflate for clients that offer it"),)
MIN_COMPRESSED = 64  # bytes; shorter messages are sent plain
RSV1 = 0x4  # of `rsv`: the message is compressed (section 6)
_TAIL = b"\x00\x00\xff\xff"  # the end of every flush, not sent (section 7.2.1)
_LAST_BLOCK = b"\x03\x00"  # an empty one with BFINAL set


def compress(payload: bytes, window_bits: int) -> bytes:
    """Return a payload as DEFLATE data that needs no other message to be read (7.2.1).

    Args:
        payload: any bytes.
        window_bits: 9 to 15, as negotiated.
    """
    compressor = zlib.compressobj(4, zlib.DEFLATED, -window_bits)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(_TAIL)


def shorten(payload: bytes, window_bits: int) -> tuple[int, bytes]:
    """Return RSV1 and the compressed payload; 0 and the payload itself if that is no longer."""
    if len(payload) >= MIN_COMPRESSED:
        data = compress(payload, window_bits)
        if len(data) < len(payload):
            return RSV1, data
    return 0, payload


class Deflate(Encoding):
    """Frames that are compressed if they get shorter by it (section 6.1).

    Args:
        window_bits: 9 to 15: how far back the data may refer, as a power of two.
    """

    name = "deflate"
    rsv = RSV1
    is_costly = True

    def __init__(self, window_bits: int) -> None:
        self.window_bits = window_bits

    def encode_run(self, opcode: int, payloads: Sequence[bytes]) -> bytes:
        """Return messages of one type, each of them compressed on its own."""
        frames = []
        for payload in payloads:
            rsv, data = shorten(payload, self.window_bits)
            frames.append(encode_frame(opcode, data, rsv=rsv))
        return b"".join(frames)

    def make_assembler(self, max_message: int) -> MessageAssembler:
        """Return what joins frames, and decompresses messages that have the bit RSV1."""
        return InflatingAssembler(max_message)


DEFLATE = {bits: Deflate(bits) for bits in range(9, 16)}  # zlib cannot make a window of 8 bits


def negotiate(offers: str) -> tuple[Encoding, str]:
    """Accept the first offer that can be honoured (section 5.1).

    Args:
        offers: the header that has them.

    Returns:
        How messages are sent from now on, and the answer; PLAIN and no answer if there is none.

    Raises:
        HandshakeError: 400, the header is malformed.
    """
    for name, parameters in parse_extensions(offers):
        accepted = accept_deflate(parameters) if name == "permessage-deflate" else None
        if accepted is not None:
            return accepted
    return PLAIN, ""


def accept_deflate(parameters: dict[str, str]) -> tuple[Deflate, str] | None:
    """Return the encoding and the answer for an offer; None if it cannot be honoured (7.1)."""
    known = {"server_no_context_takeover", "client_no_context_takeover"}  # 7.1.1.1, 7.1.1.2
    windows = {"server_max_window_bits", "client_max_window_bits"}  # 7.1.2.1, 7.1.2.2
    answer = ["permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"]
    for name, value in parameters.items():
        bits_left_out = name == "client_max_window_bits" and not value
        if name in known and not value or bits_left_out:
            continue
        if name not in windows or not re.fullmatch(r"[89]|1[0-5]", value):
            return None
    bits = int(parameters.get("server_max_window_bits", "15"))
    if bits not in DEFLATE:
        return None
    if "server_max_window_bits" in parameters:
        answer.append(f"server_max_window_bits={bits}")
        if "client_max_window_bits" in parameters:
            most = int(parameters["client_max_window_bits"] or bits)
            answer.append(f"client_max_window_bits={min(bits, most)}")
    return DEFLATE[bits], "; ".join(answer)


class Inflater:
    """Decompresses one message, a piece at a time (section 7.2.2)."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._fed = False

    def feed(self, data: bytes, room: int, *, complete: bool) -> bytes:
        """Return what a piece decompresses to, but no more than `room` bytes (section 8).

        Args:
            data: the piece.
            room: if so many bytes are returned, there may be more, and the message is too long.
            complete: it is the last piece.

        Raises:
            ProtocolError: it is no DEFLATE data, or the last piece does not end it.
        """
        try:
            piece = self._inflate(data, room)
            if complete and len(piece) < room:
                self._finish()
        except zlib.error as error:
            reason = f"compressed data is damaged: {error}"
            raise ProtocolError(CloseCode.INVALID_DATA, reason) from None
        return piece

    def _inflate(self, data: bytes, room: int) -> bytes:
        self._fed = self._fed or bool(data)
        piece = b""
        if not self._stream.eof:
            piece = self._stream.decompress(data, room)
            data = self._stream.unused_data
        # 7.2.3.4: only an empty block may come behind a last block.
        if self._stream.eof and data.strip(b"\0"):
            raise zlib.error("it goes on behind its last block")
        return piece

    def _finish(self) -> None:
        if self._fed and not self._stream.eof:
            # With the tail and an empty last block it must come to its end, and add nothing.
            extra = self._stream.decompress(_TAIL + _LAST_BLOCK)
            if extra or not self._stream.eof:
                raise zlib.error("it breaks off")


class InflatingAssembler(MessageAssembler):
    """Joins frames into messages, some of which are compressed (section 6.2)."""

    _inflater: Inflater | None = None  # of the message under way, if it is compressed

    def _begin(self, header: FrameHeader) -> None:
        if header.opcode != Opcode.CONTINUATION:
            self._inflater = Inflater() if header.rsv else None
            # Compressing what cannot be compressed makes it a little longer.
            self._limit = self.max_message + (self.max_message // 8 + KIB if header.rsv else 0)
        super()._begin(header)

    def _take(self, piece: bytes, complete: bool) -> bytes | None:
        if self._inflater is not None:
            space = self.max_message - len(self._message) + 1  # one byte more shows: too big
            piece = self._inflater.feed(piece, space, complete=complete)
            if len(piece) == space:
                self._fail_as_too_big(f"over {self.max_message}")
        return super()._take(piece, complete)


def set_up(server: Server) -> None:
    """Have a server accept the extension."""
    server.negotiate = negotiate
