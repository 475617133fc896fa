"""permessage-deflate (RFC 7692): its negotiation, what is sent, what is taken, and its limits.

The other side is written down here from the RFC, with `zlib` and nothing of the server's own.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scalesocket.net.deflate import DEFLATE, MIN_COMPRESSED, RSV1, Deflate, negotiate
from scalesocket.net.extensions import decline
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import ClientConnection, connect

from scalesocket import (
    PLAIN,
    Closing,
    Control,
    Encoding,
    Event,
    GameRoom,
    HandshakeError,
    Messages,
    Opcode,
    Role,
    Route,
    WebSocketProtocol,
    answer_handshake,
    parse_request,
)
from tests.fake_room import make_room
from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NODE_FOLDER,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    encode_client_frame,
    require_tool,
    serve,
)

KIB = 1024
MIB = 1024 * KIB
TAIL = b"\x00\x00\xff\xff"  # 7.2.1: the end of a flush, which is not sent
OFFER = "permessage-deflate; client_max_window_bits"  # what browsers say
ENCODINGS: dict[int, Encoding] = {0: PLAIN, **DEFLATE}  # by bits of the window


def encode_message(message: str | bytes, bits: int = 0) -> bytes:
    """Return a message as the server sends it with such a window."""
    return ENCODINGS[bits].encode_message(message)


def deflate(payload: bytes, *, level: int = 6, bits: int = 15) -> bytes:
    """Return the payload of a compressed message (7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(TAIL)
    return data[:-4]


def final_block(payload: bytes) -> bytes:
    """Return DEFLATE data that ends in a block with BFINAL set (7.2.3.4)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH)


def inflate(data: bytes, bits: int = 15) -> bytes:
    """Return what the payload of a compressed message stands for (7.2.2), with that window.

    Within one call zlib looks back as far as its output goes, so the calls must be small for a
    reference beyond the window to be an error.
    """
    inflater = zlib.decompressobj(-bits)
    step = 64 if bits < 15 else 0  # bytes; 0: all at once
    parts = [inflater.decompress(data + TAIL, step)]
    while step and parts[-1]:
        parts.append(inflater.decompress(inflater.unconsumed_tail, step))
    assert not inflater.eof and not inflater.unconsumed_tail
    return b"".join(parts)


def zeros(size: int, step: int = 64 * MIB) -> bytes:
    """Return the compressed payload of so many zero bytes: about a thousandth of them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(step)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (block * (size // step))[:-4]


# ==== 1. Negotiation =======================================================


class Accepted(NamedTuple):
    """The server's side of an opening handshake."""

    response: bytes
    encoding: Encoding

    @property
    def extension(self) -> str:
        """What it names, and nothing if it names none."""
        found = re.findall(rb"\r\nSec-WebSocket-Extensions: (.*)\r\n", self.response)
        assert len(found) <= 1
        return found[0].decode() if found else ""


def handshake(*offers: str, compress: bool = True) -> Accepted:
    """Return what is answered to these Sec-WebSocket-Extensions headers."""
    lines = [
        "GET /room HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *(f"Sec-WebSocket-Extensions: {offer}" for offer in offers),
    ]
    request = parse_request("\r\n".join(lines).encode("latin-1"))
    return Accepted(*answer_handshake(request, negotiate=negotiate if compress else None))


def window_of(accepted: Accepted) -> int:
    """Return the bits of the window that was agreed on."""
    assert isinstance(accepted.encoding, Deflate)
    return accepted.encoding.window_bits


def answer_of(accepted: Accepted) -> dict[str, str]:
    """Return the parameters that the server agreed to; there must be just one extension."""
    name, *parameters = accepted.extension.split("; ")
    assert name == "permessage-deflate"
    found = [(key, value) for key, _, value in (text.partition("=") for text in parameters)]
    assert len(dict(found)) == len(found), f"a parameter twice: {accepted.extension}"
    return dict(found)


def legal_offers() -> Iterator[dict[str, str | None]]:
    """Yield every combination of parameters; None stands for a parameter without a value."""
    numbers = [str(number) for number in range(8, 16)]
    choices: dict[str, list[str | None]] = {  # "-": left out
        "server_no_context_takeover": ["-", None],
        "client_no_context_takeover": ["-", None],
        "server_max_window_bits": ["-", *numbers],
        "client_max_window_bits": ["-", None, *numbers],
    }
    for choice in itertools.product(*choices.values()):
        yield {name: value for name, value in zip(choices, choice, strict=True) if value != "-"}


def written(parameters: dict[str, str | None], quote: str = "") -> str:
    words = [k if v is None else f"{k}={quote}{v}{quote}" for k, v in parameters.items()]
    return "; ".join(["permessage-deflate", *words])


@pytest.mark.parametrize("quote", ["", '"'], ids=["token", "quoted"])
def test_the_answer_to_every_legal_offer_is_legal(quote: str) -> None:
    """7.1: what was asked of the server is granted; of the client, only what it can do."""
    for offer in legal_offers():
        accepted = handshake(written(offer, quote))
        asked = offer.get("server_max_window_bits")
        if asked == "8":
            continue  # zlib cannot make it: see below
        answer = answer_of(accepted)
        shown = (written(offer, quote), accepted.extension)
        assert answer["server_no_context_takeover"] == "", shown
        assert answer["client_no_context_takeover"] == "", shown
        if asked is not None:
            assert answer["server_max_window_bits"] == asked, shown
        assert window_of(accepted) == int(asked or "15"), shown
        window = answer.get("client_max_window_bits")
        if window is not None:
            assert "client_max_window_bits" in offer, shown
            assert re.fullmatch("[89]|1[0-5]", window), shown
        assert set(answer) <= {*offer, "server_no_context_takeover", "client_no_context_takeover"}


def test_the_clients_own_smaller_window_is_not_overruled() -> None:
    """7.1.2.2: with a value the client says what it will not go beyond; some check the answer."""
    for own, servers in itertools.product(range(8, 16), [None, *range(9, 16)]):
        offer = f"permessage-deflate; client_max_window_bits={own}"
        if servers is not None:
            offer += f"; server_max_window_bits={servers}"
        answer = answer_of(handshake(offer))
        assert int(answer.get("client_max_window_bits", "0")) <= own, (offer, answer)


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=8",  # zlib cannot make it
        "permessage-deflate; server_max_window_bits",  # 7.1.2.1: needs a value
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=1e1",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=-9",
        "permessage-deflate; server_no_context_takeover=1",  # 7.1.1.1: takes no value
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; something_new",
        "permessage-deflate; something_new=12",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-bzip2",
        "x-webkit-deflate-frame",
    ],
)
def test_an_offer_that_cannot_be_honoured_is_declined_and_the_next_one_taken(offer: str) -> None:
    declined = handshake(offer)
    assert (declined.encoding, declined.extension) == (PLAIN, "")
    assert b"Extensions" not in declined.response
    taken = handshake(f"{offer}, permessage-deflate; server_max_window_bits=11, {OFFER}")
    assert window_of(taken) == 11
    assert answer_of(taken)["server_max_window_bits"] == "11"
    taken = handshake(offer, OFFER)  # 9.1: several headers are as good as one
    assert window_of(taken) == 15


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate;server_max_window_bits=10;client_max_window_bits",
        "  permessage-deflate ;  server_max_window_bits = 10\t;\tclient_max_window_bits  ",
        ", ,permessage-deflate; server_max_window_bits=10; client_max_window_bits,,",
        'a, b; c; d=e; f="g", permessage-deflate; server_max_window_bits=10, permessage-deflate',
    ],
)
def test_spaces_empty_members_and_quotes_are_no_matter(offer: str) -> None:
    assert window_of(handshake(offer)) == 10


@pytest.mark.parametrize(
    "offer",
    [
        ";",
        "=",
        "permessage-deflate;",
        "permessage-deflate; ; server_no_context_takeover",
        "permessage-deflate; =10",
        "permessage deflate",
        '"permessage-deflate"',
        "permessage-deflate; server_max_window_bits=1 0",
        "permessage-deflate; server_max_window_bits=",
        'permessage-deflate; server_max_window_bits="10',
        'permessage-deflate; server_max_window_bits=10"',
        'permessage-deflate; server_max_window_bits=""10""',
        "permessage-deflate; client_max_window_bits=",
        'permessage-deflate; client_max_window_bits=""',
        "permessage-deflate; server_no_context_takeover=",
        'foo; bar="a b"',  # RFC 6455 9.1: without its quotes it must still be a token
        "foo; bar=(",
        "permessage-deflate; caf\xe9",
    ],
)
def test_malformed_headers_are_400(offer: str) -> None:
    for choose in (negotiate, decline):  # with --compress, and without
        with pytest.raises(HandshakeError) as refused:
            choose(offer)
        assert refused.value.status == 400
    with pytest.raises(HandshakeError):
        handshake(offer)


WORDS = st.sampled_from(
    ["permessage-deflate", "server_max_window_bits", "client_max_window_bits", "10", "8", "16"]
    + ["server_no_context_takeover", ";", ";", "; ", "=", "=", ",", ", ", '"', " ", "\\", "\t", "x"]
)


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=12).map("".join) | st.text('a;,=" 1\\\xff\x85', max_size=12))
def test_whatever_is_offered_is_answered_or_400(offer: str) -> None:
    try:
        accepted = handshake(offer)
    except HandshakeError as refused:
        assert refused.status == 400
        return
    if accepted.extension:
        assert 9 <= window_of(accepted) <= 15
        answer = answer_of(accepted)
        assert "permessage-deflate" in offer
        assert "client_max_window_bits" not in answer or "client_max_window_bits" in offer
        assert int(answer.get("server_max_window_bits", 15)) == window_of(accepted)
    else:
        assert accepted.encoding is PLAIN


def test_nothing_is_agreed_on_without_the_option_or_without_an_offer() -> None:
    for plain in (handshake(OFFER, compress=False), handshake()):
        assert (plain.encoding, plain.extension) == (PLAIN, "")
        assert b"extensions" not in plain.response.lower()


def test_the_answer_stands_in_the_response() -> None:
    response = handshake(OFFER).response
    assert response.count(b"Sec-WebSocket-Extensions: permessage-deflate;") == 1


# ==== 2. What is sent ======================================================


def read_server_frame(data: bytes) -> tuple[int, int, bytes]:
    """Return opcode, reserved bits and payload of one whole, unmasked frame."""
    assert data[0] & 0x80 and not data[1] & 0x80
    size = data[1]
    start = {126: 4, 127: 10}.get(size, 2)
    if start > 2:
        size = int.from_bytes(data[2:start], "big")
    assert len(data) == start + size
    return data[0] & 0xF, data[0] >> 4 & 7, data[start:]


REPETITIVE = st.builds(
    lambda piece, times: piece * times, st.binary(min_size=1, max_size=2000), st.integers(1, 40)
)
PAYLOADS = st.binary(max_size=300) | REPETITIVE
TEXTS = st.text(max_size=300) | st.builds(
    lambda piece, times: piece * times, st.text(min_size=1, max_size=20), st.integers(1, 300)
)


@settings(max_examples=150)
@given(PAYLOADS | TEXTS, st.integers(9, 15))
def test_what_is_sent_inflates_with_the_window_agreed_on(message: bytes | str, bits: int) -> None:
    opcode, rsv, payload = read_server_frame(encode_message(message, bits))
    raw = message.encode() if isinstance(message, str) else message
    assert opcode == (TEXT if isinstance(message, str) else BINARY)
    if rsv:
        assert rsv == RSV1
        assert inflate(payload, bits) == raw
        assert len(payload) < len(raw), "what does not get shorter is sent plain"
    else:
        assert payload == raw


@pytest.mark.parametrize("bits", range(9, 16))
def test_no_window_larger_than_agreed_is_used(bits: int) -> None:
    """The repetition lies just beyond the window, where only a larger one would find it."""
    numbers = random.Random(bits)
    payload = numbers.randbytes((1 << bits) + 100) * 2 + b"some that compresses" * 5000
    opcode, rsv, data = read_server_frame(encode_message(payload, bits))
    assert (opcode, rsv) == (BINARY, RSV1)
    assert inflate(data, bits) == payload
    near = numbers.randbytes((1 << (bits - 1)) - 40) * 2  # within it, the repetition is found
    assert len(read_server_frame(encode_message(near, bits))[2]) < len(near) * 3 // 4


def test_messages_that_do_not_get_shorter_are_sent_plain() -> None:
    noise = random.Random(1).randbytes(5000)
    for message in (b"", "", b"a" * (MIN_COMPRESSED - 1), "hello", noise, noise[:MIN_COMPRESSED]):
        assert read_server_frame(encode_message(message, 15))[1] == 0
    assert read_server_frame(encode_message("a" * MIN_COMPRESSED, 15))[1] == RSV1
    assert read_server_frame(encode_message("a" * 5000))[1] == 0, "with no window there is none"


def test_no_context_is_taken_over() -> None:
    """7.1.1.1: the same message twice is the same bytes twice, and so for every client."""
    message = "the same words again and again, " * 50
    assert encode_message(message, 15) == encode_message(message, 15)


# ==== 3. What is taken =====================================================


def protocol(*, max_message: int = MIB, compressed: bool = True) -> WebSocketProtocol:
    encoding = ENCODINGS[15 if compressed else 0]
    return WebSocketProtocol(Role.SERVER, max_message=max_message, encoding=encoding)


def flatten(events: Sequence[Event]) -> list[object]:
    """Return events with each message on its own, however they were batched."""
    found: list[object] = []
    for event in events:
        if isinstance(event, Messages):
            found += [(int(event.opcode), payload) for payload in event.payloads]
        elif isinstance(event, Closing) and event.failed:
            found.append(int(event.code))
        else:
            found.append(event)
    return found


def receive_all(receiver: WebSocketProtocol, data: bytes) -> list[Event]:
    """Return all events of some bytes, however many calls it takes to get them."""
    events = receiver.receive(data)
    while receiver.pending:
        events += receiver.receive(b"")
    return events


def take(*frames: bytes, max_message: int = MIB, compressed: bool = True) -> list[object]:
    """Return what frames amount to: messages as opcode and payload, a failure as its code."""
    receiver = protocol(max_message=max_message, compressed=compressed)
    return flatten(receive_all(receiver, b"".join(frames)))


def packed(data: bytes, opcode: int = TEXT, fin: bool = True) -> bytes:
    """Return a client's frame with RSV1."""
    return encode_client_frame(opcode, data, fin, RSV1)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut data in pieces, some of which may be empty."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


FrameParts = tuple[int, bytes, bool, int]  # opcode, payload, FIN, reserved bits
BETWEEN = (PING, b"between", True, 0)


@st.composite
def sent_messages(draw: st.DrawFn) -> tuple[list[object], list[FrameParts]]:
    """Return what should be received, and frames that say so: some compressed, some in parts."""
    expected: list[object] = []
    frames: list[FrameParts] = []
    for _ in range(draw(st.integers(1, 4))):
        message = draw(PAYLOADS | TEXTS)
        opcode = TEXT if isinstance(message, str) else BINARY
        raw = message.encode() if isinstance(message, str) else message
        rsv, data = 0, raw
        if draw(st.booleans()):
            rsv = RSV1
            data = deflate(raw, level=draw(st.integers(0, 9)), bits=draw(st.integers(9, 15)))
        pieces = cut(data, draw(st.lists(st.integers(0, 100_000), max_size=4)))
        for number, piece in enumerate(pieces, 1):
            last = number == len(pieces)
            first = number == 1
            frames.append((opcode if first else CONTINUATION, piece, last, rsv if first else 0))
            if last:
                expected.append((opcode, raw))
            if draw(st.integers(0, 3)) == 0:
                frames.append(BETWEEN)
                expected.append(Control(Opcode.PING, b"between"))
    return expected, frames


@pytest.mark.slow
@settings(max_examples=150)
@given(sent_messages(), st.lists(st.integers(0, 200_000), max_size=8))
def test_messages_come_whole_however_they_are_cut(
    sent: tuple[list[object], list[FrameParts]], places: list[int]
) -> None:
    expected, frames = sent
    wire = b"".join(encode_client_frame(*frame) for frame in frames)
    receiver = protocol()
    found: list[object] = []
    for data in cut(wire, places):
        found += flatten(receive_all(receiver, data))
    assert found == expected


@settings(max_examples=60)
@given(TEXTS | PAYLOADS, st.integers(9, 15), st.lists(st.integers(0, 100_000), max_size=4))
def test_a_client_of_our_own_takes_what_the_server_sends(
    message: str | bytes, bits: int, places: list[int]
) -> None:
    receiver = WebSocketProtocol(Role.CLIENT, max_message=MIB, encoding=DEFLATE[15])
    pieces = cut(encode_message(message, bits), places)
    events = [event for piece in pieces for event in receiver.receive(piece)]
    raw = message.encode() if isinstance(message, str) else message
    assert flatten(events) == [(TEXT if isinstance(message, str) else BINARY, raw)]


def test_one_byte_at_a_time_is_enough() -> None:
    message = "Ünïcödé, over and over. " * 40
    wire = packed(deflate(message.encode())) + encode_client_frame(TEXT, b"plain")
    receiver = protocol()
    found = [event for byte in wire for event in receiver.receive(bytes([byte]))]
    assert flatten(found) == [(TEXT, message.encode()), (TEXT, b"plain")]


def test_the_examples_of_the_rfc() -> None:
    """7.2.3.1 to 7.2.3.6."""
    hello = bytes.fromhex("f248cdc9c90700")
    assert take(packed(hello)) == [(TEXT, b"Hello")]
    parts = packed(hello[:3], fin=False) + encode_client_frame(CONTINUATION, hello[3:])
    assert take(parts) == [(TEXT, b"Hello")]
    assert take(packed(bytes.fromhex("000500faff48656c6c6f00"))) == [(TEXT, b"Hello")]
    assert take(packed(bytes.fromhex("f348cdc9c9070000"))) == [(TEXT, b"Hello")], "BFINAL"
    assert take(packed(bytes.fromhex("f24805000000ffffcac9c90700"))) == [(TEXT, b"Hello")]
    assert take(packed(b"\0")) == [(TEXT, b"")], "an empty message"


def test_an_empty_compressed_message_is_empty_in_any_shape() -> None:
    end = encode_client_frame(CONTINUATION, b"\0")
    assert take(packed(b"", fin=False), end) == [(TEXT, b"")]
    assert take(packed(b"\0", BINARY), packed(deflate(b""), BINARY)) == [(BINARY, b"")] * 2
    assert take(packed(final_block(b"") + b"\0")) == [(TEXT, b"")]


def test_a_fragment_may_end_in_a_flush() -> None:
    """7.2.1: only the last fragment leaves its tail out."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    pieces = []
    for word in (b"one ", b"two ", b"one two three"):
        pieces.append(compressor.compress(word) + compressor.flush(zlib.Z_SYNC_FLUSH))
    wire = packed(pieces[0], fin=False) + encode_client_frame(CONTINUATION, pieces[1], False)
    wire += encode_client_frame(CONTINUATION, pieces[2][:-4])
    assert take(wire) == [(TEXT, b"one two one two three")]


def test_a_client_takes_no_context_over() -> None:
    """What refers to the message before is damaged: there is nothing before."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    words = random.Random(2).randbytes(500)
    first, second = (
        (compressor.compress(words) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in "12"
    )
    assert take(packed(first, BINARY), packed(second, BINARY)) == [(BINARY, words), 1007]


@pytest.mark.parametrize("second", [final_block(b"World") + b"\0", deflate(b"World")])
def test_blocks_after_a_final_block_are_refused_and_not_lost(second: bytes) -> None:
    """7.2.1 would allow them, but nobody sends them; to drop them in silence would be worse."""
    first = final_block(b"Hello")
    assert take(packed(first + second)) == [1007]
    parts = packed(first, fin=False) + encode_client_frame(CONTINUATION, second)
    assert take(parts) == [1007]


def test_a_final_block_with_nothing_behind_it_ends_the_message() -> None:
    assert take(packed(final_block(b"Hello") + b"\0")) == [(TEXT, b"Hello")]
    parts = packed(final_block(b"Hello"), fin=False) + encode_client_frame(CONTINUATION, b"\0")
    assert take(parts + encode_client_frame(TEXT, b"next")) == [(TEXT, b"Hello"), (TEXT, b"next")]


def test_data_behind_a_final_block_that_is_no_deflate_is_damaged() -> None:
    """It must not vanish without a word."""
    assert take(packed(final_block(b"Hello") + b"\xff" * 9)) == [1007]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 20,  # the reserved type of block
        b"\x00\x05\x00\x00\x00hello",  # a stored block whose lengths disagree
        zlib.compress(b"with the header of zlib" * 5),
    ],
)
def test_damaged_data_is_1007(data: bytes) -> None:
    before = encode_client_frame(TEXT, b"before")
    assert take(before, packed(data), encode_client_frame(TEXT, b"after")) == [
        (TEXT, b"before"),
        1007,
    ]


def test_data_that_breaks_off_is_damaged() -> None:
    """What is left of it is not the message that was meant."""
    text = b"Hello world, how are you? Hello world, how are you? " + bytes(range(100))
    for level in (0, 1, 9):
        whole = deflate(text, level=level)
        assert take(packed(whole)) == [(TEXT, text)]
        for size in range(2, len(whole)):  # the first byte alone may be an empty message
            assert take(packed(whole[:size])) == [1007], (level, size)
    stored = b"\x00" + (100).to_bytes(2, "little") + (0xFFFF - 100).to_bytes(2, "little")
    assert take(packed(stored + b"x" * 50)) == [1007]


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([TEXT, BINARY]))
@example(b"\x03\x00", TEXT)
def test_no_data_is_anything_but_a_message_or_a_failure(data: bytes, opcode: int) -> None:
    found = take(packed(data, opcode), max_message=1000)
    assert len(found) == 1
    if isinstance(found[0], tuple):
        assert len(found[0][1]) <= 1000
    else:
        assert found[0] in (1007, 1009)


def test_text_is_checked_after_inflating() -> None:
    assert take(packed(deflate(b"\xff"))) == [1007]
    assert take(packed(deflate("é".encode()[:1]))) == [1007], "cut off in a character"
    assert take(packed(deflate(b"\xff"), BINARY)) == [(BINARY, b"\xff")]
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    start = compressor.compress(b"good \xff bad") + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert take(packed(start, fin=False)) == [1007], "at once, not at the end of the message"


def test_compressed_bytes_need_not_be_text() -> None:
    """A plain text message must be UTF-8 on the wire; a compressed one is not."""
    words = "日本語" * 100
    assert take(packed(deflate(words.encode()))) == [(TEXT, words.encode())]


def test_the_bit_where_it_has_no_meaning_is_1002() -> None:
    data = deflate(b"hello")
    assert take(packed(data), compressed=False) == [1002]
    for opcode, payload in ((PING, data), (PONG, data), (CLOSE, b"\x03\xe8")):
        assert take(packed(payload, opcode)) == [1002]
    start = packed(data[:2], fin=False)
    assert take(start, packed(data[2:], CONTINUATION)) == [1002]
    assert take(encode_client_frame(TEXT, b"plain", False), packed(b"", CONTINUATION)) == [1002]
    for rsv in (1, 2, 3, 5, 6, 7):
        assert take(encode_client_frame(TEXT, data, rsv=rsv)) == [1002], rsv


def test_control_frames_between_compressed_fragments_are_never_compressed() -> None:
    data = deflate(b"hello " * 20)
    wire = packed(data[:4], fin=False) + encode_client_frame(PING, b"plain")
    wire += encode_client_frame(CONTINUATION, data[4:])
    assert take(wire) == [Control(Opcode.PING, b"plain"), (TEXT, b"hello " * 20)]


def test_after_a_compressed_message_a_plain_one_is_plain() -> None:
    plain = encode_client_frame(TEXT, b"plain")
    parts = encode_client_frame(TEXT, b"pl", False) + encode_client_frame(CONTINUATION, b"ain")
    message = packed(deflate(b"packed"))
    assert take(message, plain, message, parts, message) == [
        (TEXT, text) for text in (b"packed", b"plain", b"packed", b"plain", b"packed")
    ]


# ==== 4. Limits ============================================================


@settings(max_examples=60)
@given(
    st.integers(1, 3000),
    st.booleans(),
    st.integers(0, 9),
    st.lists(st.integers(0, 4000), max_size=4),
)
def test_the_limit_counts_inflated_bytes(
    limit: int, noisy: bool, level: int, places: list[int]
) -> None:
    """Exactly the limit passes, one more does not, whatever the wire has of it."""
    source = random.Random(limit).randbytes(limit + 1) if noisy else b"a" * (limit + 1)
    for size, expected in ((limit, [(BINARY, source[:limit])]), (limit + 1, [1009])):
        pieces = cut(deflate(source[:size], level=level), places)
        frames = [packed(pieces[0], BINARY, fin=len(pieces) == 1)]
        for number, piece in enumerate(pieces[1:], 2):
            frames.append(encode_client_frame(CONTINUATION, piece, number == len(pieces)))
        assert take(*frames, max_message=limit) == expected


def test_an_incompressible_message_of_just_the_limit_passes() -> None:
    """DEFLATE makes it a little longer, and some clients compress whatever they send."""
    noise = random.Random(3).randbytes(MIB)
    data = deflate(noise)
    assert len(data) > MIB
    assert take(packed(data, BINARY)) == [(BINARY, noise)]


def test_data_that_inflates_to_nothing_has_a_limit_too() -> None:
    """Empty blocks without end would otherwise be a message without end."""
    empty = b"\x00" + TAIL
    start = packed(empty * 100, fin=False)
    more = encode_client_frame(CONTINUATION, empty * 1000, False)
    assert take(start, *[more] * 40, max_message=10_000) == [1009]


def test_one_call_gives_out_little_more_than_one_large_message() -> None:
    """64 KiB of bombs, each within the limit, must not be 64 MiB of memory."""
    receiver = protocol()
    data = packed(zeros(MIB, MIB), BINARY) * 60
    events = receiver.receive(data)
    count = 0
    while events:
        assert sum(event.size for event in events if isinstance(event, Messages)) < 2 * MIB
        count += len(flatten(events))
        assert receiver.pending or count == 60
        events = receiver.receive(b"")
    assert count == 60


def test_what_comes_while_messages_are_pending_keeps_its_place() -> None:
    receiver = protocol()
    large = packed(zeros(MIB, MIB), BINARY)
    one = encode_client_frame(TEXT, b"one")
    events = receiver.receive(large * 2 + one[:3])
    assert receiver.pending
    rest = [encode_client_frame(TEXT, b"two"), packed(deflate(b"packed"))]
    bad = encode_client_frame(TEXT, b"three", rsv=2)
    events += receive_all(receiver, b"".join((one[3:], *rest, bad)))
    assert flatten(events) == [
        *[(BINARY, bytes(MIB))] * 2,
        (TEXT, b"one"),
        (TEXT, b"two"),
        (TEXT, b"packed"),
        1002,
    ]


@pytest.mark.slow
def test_a_bomb_is_defused_at_the_limit() -> None:
    assert take(packed(zeros(64 * MIB), BINARY), max_message=MIB) == [1009]
    assert take(packed(zeros(MIB, MIB), BINARY), max_message=MIB - 1) == [1009]
    assert take(packed(zeros(MIB, MIB), BINARY), max_message=MIB) == [(BINARY, bytes(MIB))]
    sliced = packed(zeros(64 * MIB)[:1000], fin=False)
    assert take(sliced, max_message=64 * KIB) == [1009], "before its last fragment is there"


# ==== 5. Compressed once ===================================================


class Seat:
    """What a room sees of a client, with nothing behind it."""

    def __init__(self, client_id: int, encoding: Encoding) -> None:
        self.id = client_id
        self.connection = self
        self.encoding = encoding
        self.is_full = False
        self.sent = b""

    def send(self, data: bytes) -> bool:
        self.sent += data
        return True


@pytest.fixture
def windows_used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the windows of all compressors made during a test."""
    used: list[int] = []
    make: Callable[..., Any] = zlib.compressobj

    def counted(level: int = -1, method: int = zlib.DEFLATED, wbits: int = 15, *more: int) -> Any:
        used.append(-wbits)
        return make(level, method, wbits, *more)

    monkeypatch.setattr(zlib, "compressobj", counted)
    return used


LONG = "all work and no play makes a dull game. " * 10


def seats(*windows: int) -> dict[int, Any]:
    return {number: Seat(number, ENCODINGS[bits]) for number, bits in enumerate(windows, 1)}


def test_a_childs_message_is_compressed_once_for_each_window(windows_used: list[int]) -> None:
    room = make_room(SimpleNamespace(in_order=False))
    room.members._members = seats(15, 0, 15, 12, 15, 12, 0)
    room.deliver([Route(Opcode.TEXT, [LONG.encode(), b"short", LONG.encode()])])
    assert sorted(windows_used) == [12, 12, 15, 15], "two long messages, two windows"
    one, plain, two, small, *_ = (client.sent for client in room.members._members.values())
    assert one == two and len(small) < len(plain)
    assert plain == b"".join(map(encode_message, (LONG, "short", LONG)))
    assert small == b"".join(encode_message(text, 12) for text in (LONG, "short", LONG))


def test_a_childs_message_for_one_is_compressed_for_that_one(windows_used: list[int]) -> None:
    room = make_room(SimpleNamespace(in_order=False))
    room.members._members = seats(15, 0, 12)
    room.deliver([Route(Opcode.TEXT, [LONG.encode()], to=(2,))])
    assert windows_used == []
    room.deliver([Route(Opcode.TEXT, [LONG.encode()], to=(3,))])
    assert windows_used == [12]


def test_a_games_broadcast_is_compressed_once_for_each_window(windows_used: list[int]) -> None:
    inner = make_room(SimpleNamespace(in_order=False))
    room = GameRoom(inner, None)  # type: ignore[arg-type]
    room.clients = seats(15, 0, 15, 12, 15, 12, 0)
    room.broadcast(LONG)
    inner.flush()
    assert sorted(windows_used) == [12, 15]
    sent = [client.sent for client in room.clients.values()]
    assert sent[0] == sent[2] == sent[4] == encode_message(LONG, 15)
    assert sent[1] == sent[6] == encode_message(LONG)
    assert sent[3] == sent[5] == encode_message(LONG, 12)


def test_nothing_is_compressed_for_those_who_are_left_out(windows_used: list[int]) -> None:
    inner = make_room(SimpleNamespace(in_order=False))
    room = GameRoom(inner, None)  # type: ignore[arg-type]
    room.clients = seats(0, 12, 15)
    room.broadcast(LONG, exclude=[room.clients[2]])
    inner.flush()
    assert windows_used == [15]
    assert room.clients[2].sent == b""


# ==== 6. A real server =====================================================


@pytest.fixture(scope="module")
def echo() -> Iterator[ServerProcess]:
    with serve("--compress", "cat") as server:
        yield server


class DeflateClient:
    """A client that has agreed on permessage-deflate, or on nothing if it offers nothing."""

    def __init__(self, server: ServerProcess, room: str, offer: str = OFFER) -> None:
        headers = {"Sec-WebSocket-Extensions": offer} if offer else {}
        self.raw = RawClient.connect(server, room, headers)
        answer = self.raw.response.headers.get("sec-websocket-extensions", "")
        self.bits = 0
        if answer:
            found = re.search(r"server_max_window_bits=(\d+)", answer)
            self.bits = int(found[1]) if found else 15
            self.raw.allow_rsv = True
        self.compressed = 0  # messages that came with RSV1

    def send(self, message: str | bytes) -> None:
        """Send a message, compressed if that has been agreed on."""
        opcode = TEXT if isinstance(message, str) else BINARY
        raw = message.encode() if isinstance(message, str) else message
        if self.bits:
            self.raw.send_bytes(packed(deflate(raw), opcode))
        else:
            self.raw.send_bytes(encode_client_frame(opcode, raw))

    def receive(self, timeout: float = 20) -> str | bytes:
        """Return the next message, which the server must not have fragmented."""
        frame = self.raw.receive_frame(timeout)
        assert frame.fin and frame.opcode in (TEXT, BINARY), frame
        payload = frame.payload
        if frame.rsv:
            assert frame.rsv == RSV1 and self.bits, "RSV1 has not been agreed on"
            self.compressed += 1
            payload = inflate(payload, self.bits)
        return payload.decode() if frame.opcode == TEXT else payload

    def __enter__(self) -> DeflateClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.raw.__exit__(None, None, None)


WINDOWS = ("", OFFER, "permessage-deflate; server_max_window_bits=9", OFFER)


def test_a_room_of_many_windows_hears_the_same_in_the_same_order(echo: ServerProcess) -> None:
    clients = [DeflateClient(echo, "mixed", offer) for offer in (*WINDOWS, WINDOWS[2])]
    assert [client.bits for client in clients] == [0, 15, 9, 15, 9]
    noise = random.Random(4).randbytes(2000).hex()
    for number in range(40):
        for name, client in enumerate(clients):
            tail = ("", "words " * 30, noise, "é" * 3000)[number % 4]
            client.send(f"{number} of {name} {tail}")
    heard = [[client.receive() for _ in range(200)] for client in clients]
    assert all(messages == heard[0] for messages in heard)
    for name in range(len(clients)):
        mine = [m for m in heard[0] if isinstance(m, str) and m.split()[2] == str(name)]
        assert [m.split()[0] for m in map(str, mine)] == [str(number) for number in range(40)]
    assert clients[0].compressed == 0
    assert all(client.compressed >= 100 for client in clients[1:])
    for client in clients:
        assert client.raw.close() == (1000, "")


def test_many_small_compressed_messages_come_back_in_order(echo: ServerProcess) -> None:
    with DeflateClient(echo, "many") as client:
        texts = [f"message {number} {'x' * (number % 100)}" for number in range(5000)]
        client.raw.send_in_background(b"".join(packed(deflate(t.encode())) for t in texts))
        assert [client.receive() for _ in texts] == texts


def test_a_mebibyte_comes_back_compressed(echo: ServerProcess) -> None:
    with DeflateClient(echo, "large") as client:
        text = "0123456789abcdef" * (MIB // 16)
        client.send(text)
        assert client.receive(60) == text
        assert client.compressed == 1


def test_a_server_refuses_to_be_misled_and_others_go_on(echo: ServerProcess) -> None:
    with DeflateClient(echo, "misled") as witness:
        for frame, code in (
            (packed(b"\xff" * 20), 1007),
            (packed(deflate(b"\xff")), 1007),
            (packed(b"", PING), 1002),
            (packed(b"", CONTINUATION), 1002),
            (packed(zeros(2 * MIB, MIB)), 1009),
        ):
            with DeflateClient(echo, "misled") as client:
                client.raw.send_bytes(frame)
                assert client.raw.wait_close()[0] == code
        witness.send(LONG)
        assert witness.receive() == LONG


def test_without_the_option_nothing_is_agreed_on_and_the_bit_is_an_error() -> None:
    with serve("cat") as server, DeflateClient(server, "room") as client:
        assert client.bits == 0
        client.send(LONG)
        assert client.receive() == LONG
        client.raw.send_bytes(packed(deflate(b"hello")))
        assert client.raw.wait_close()[0] == 1002


def test_without_an_offer_the_bit_is_an_error_and_a_bad_offer_is_400(echo: ServerProcess) -> None:
    with DeflateClient(echo, "bare", offer="") as client:
        assert client.bits == 0
        client.raw.send_bytes(packed(deflate(b"hello")))
        assert client.raw.wait_close()[0] == 1002
    with pytest.raises(HandshakeRefused) as refused:
        DeflateClient(echo, "bare", offer="permessage-deflate;;")
    assert refused.value.status == 400


def test_history_is_the_same_for_all_who_come_later() -> None:
    texts = [f"{number} {LONG}" if number % 2 else f"{number}" for number in range(20)]
    with serve("--compress", "--cache", "8", "cat") as server:
        with DeflateClient(server, "room") as first:
            for text in texts:
                first.send(text)
            assert [first.receive() for _ in texts] == texts
            for offer in WINDOWS:
                with DeflateClient(server, "room", offer) as later:
                    assert [later.receive() for _ in range(8)] == texts[-8:]
                    later.send(f"now {offer} {LONG}")
                    assert later.receive() == first.receive() == f"now {offer} {LONG}"
                texts.append(f"now {offer} {LONG}")


def test_a_games_history_is_plain_for_those_who_agreed_on_nothing(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(GAME)
    with serve("--compress", "--cache", "4", "counting:Counting", cwd=tmp_path) as server:
        with DeflateClient(server, "room") as first:
            for message in (LONG, LONG.encode(), "short"):
                first.send(message)
                assert first.receive() == message
                first.receive()
            for offer in WINDOWS:
                with DeflateClient(server, "room", offer) as later:
                    assert [later.receive() for _ in range(3)] == [LONG, LONG.encode(), "short"]


def test_json_framing_routes_what_was_compressed() -> None:
    """`cat` gives back what it got, so a message that says `_to` goes to that client."""
    with serve("--compress", "--frame=json", "--clientroute", "cat") as server:
        clients = [DeflateClient(server, "room", offer) for offer in WINDOWS]
        with clients[0], clients[1], clients[2], clients[3]:
            ids: list[int] = []
            for client in clients:
                client.send(json.dumps({"who": LONG}))
                for other in clients:
                    found = json.loads(other.receive())
                    assert found["who"] == LONG
                ids.append(found["_from"])
            for to, client in zip(ids, clients, strict=True):
                clients[1].send(json.dumps({"_to": to, "text": LONG}))
                assert json.loads(client.receive())["text"] == LONG
            everyone_but = [i for i in ids if i != ids[1]]
            clients[0].send(json.dumps({"_to": everyone_but, "text": "last " + LONG}))
            for client in (clients[0], clients[2], clients[3]):
                assert json.loads(client.receive())["text"] == "last " + LONG
            clients[0].send(json.dumps({"text": "the end"}))
            assert json.loads(clients[1].receive())["text"] == "the end"


@pytest.mark.slow
def test_raw_bytes_pass_compressed_both_ways() -> None:
    payload = b"\x00\x01\xff\n" * 1000
    with serve("--compress", "--binary", "cat") as server:
        with DeflateClient(server, "room") as client, DeflateClient(server, "room", "") as plain:
            client.send(payload)
            for one in (client, plain):
                heard = b""
                while len(heard) < len(payload):
                    part = one.receive()
                    assert isinstance(part, bytes)
                    heard += part
                assert heard == payload
            assert client.compressed


def test_what_came_before_the_end_is_heard_though_it_inflates_to_much(echo: ServerProcess) -> None:
    """A few KiB of wire hold it all, the end of the connection included."""
    texts = [letter * (MIB - 1) for letter in "abcdef"]
    close = encode_client_frame(CLOSE, b"\x03\xe8")
    for ending in (close, b""):
        with DeflateClient(echo, "leaving") as witness:
            with DeflateClient(echo, "leaving") as client:
                wire = b"".join(packed(deflate(text.encode(), level=9)) for text in texts)
                client.raw.send_bytes(wire + ending)
                client.raw.sock.shutdown(socket.SHUT_WR)
                assert [witness.receive(60) for _ in texts] == texts


GAME = '''
import zlib

import scalesocket

made = []
make = zlib.compressobj


def counted(*arguments, **named):
    made.append(arguments)
    return make(*arguments, **named)


zlib.compressobj = counted


class Counting(scalesocket.Game):
    """Tells how many compressors a message has cost."""

    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        before = len(made)
        if message in ("one", b"one"):
            client.send(message * 100)
        elif message == "others":
            self.room.broadcast("others " * 100, exclude=[client])
        else:
            self.room.broadcast(message)
        client.send(f"{len(made) - before}")
'''


def test_a_game_sends_text_and_bytes_compressed_once(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(GAME)
    with serve("--compress", "counting:Counting", cwd=tmp_path) as server:
        clients = [DeflateClient(server, "room", offer) for offer in WINDOWS]
        with clients[0], clients[1], clients[2], clients[3]:
            for message in (LONG, LONG.encode()):
                clients[0].send(message)
                assert [client.receive() for client in clients] == [message] * 4
                assert clients[0].receive() == "2", "windows of 15 and of 9"
                for asked in ("one", b"one"):
                    clients[2].send(asked)
                    assert clients[2].receive() == asked * 100
                    assert clients[2].receive() == "1"
            clients[2].send("others")
            for client in (clients[0], clients[1], clients[3]):
                assert client.receive() == "others " * 100
            assert clients[2].receive() == "1", "the only window of 9 was left out"


# ---- memory


@pytest.mark.slow
def test_a_bomb_of_a_gibibyte_ends_one_client_and_costs_no_memory() -> None:
    bomb = packed(zeros(KIB * MIB), BINARY)
    assert len(bomb) < MIB, "its wire size alone is within the limit"
    with serve("--compress", "cat") as server:
        with DeflateClient(server, "room") as witness:
            witness.send(LONG)
            assert witness.receive() == LONG
            before = server.peak_rss()
            with DeflateClient(server, "room") as client:
                client.raw.send_in_background(bomb)
                code, reason = client.raw.wait_close(30)
                assert code == 1009 and str(MIB) in reason
            witness.send(LONG)
            assert witness.receive() == LONG
            grown = server.peak_rss() - before
    assert grown < 12 * MIB, f"{grown / MIB:.1f} MiB for a bomb"


def test_a_kibibyte_that_inflates_beyond_a_small_limit_is_1009() -> None:
    with serve("--compress", "--maxmsg", "64K", "cat") as server:
        with DeflateClient(server, "room") as client:
            client.send("x" * (64 * KIB))
            assert client.receive() == "x" * (64 * KIB)
            client.raw.send_bytes(packed(zeros(MIB, MIB)))
            assert client.raw.wait_close()[0] == 1009


@pytest.mark.slow
def test_many_small_bombs_in_one_read_do_not_fill_the_memory() -> None:
    """Each is within the limit, but 64 KiB of them are 64 MiB: the inbox's bound must hold."""
    bombs = packed(zeros(MIB, MIB), BINARY) * 120
    with serve("--compress", "--binary", "sh", "--", "-c", "cat >/dev/null") as server:
        with DeflateClient(server, "room") as client:
            client.raw.ping(b"before")
            assert client.raw.receive(20) == (PONG, b"before")
            before = server.peak_rss()
            client.raw.send_bytes(bombs + encode_client_frame(PING, b"behind"))
            assert client.raw.receive(60) == (PONG, b"behind")
            grown = server.peak_rss() - before
    assert grown < 24 * MIB, f"{len(bombs) // KIB} KiB of wire cost {grown / MIB:.1f} MiB"


# ==== 7. Clients that no one here wrote ====================================


def open_client(server: ServerProcess, room: str, **options: Any) -> ClientConnection:
    return connect(server.url(room), proxy=None, max_size=4 * MIB, **options)


def test_websockets_talks_compressed_both_ways(echo: ServerProcess) -> None:
    large = "".join(random.Random(5).choices("abcdefgh é", k=900_000))
    texts = ("hello", "", LONG, "日本語 🎮" * 1000, "y" * MIB, large[:700_000])
    with open_client(echo, "websockets") as client:
        assert [extension.name for extension in client.protocol.extensions] == [
            "permessage-deflate"
        ]
        for text in texts:
            client.send(text)
            assert client.recv(60) == text
        client.send(LONG[at : at + 7] for at in range(0, len(LONG), 7))
        assert client.recv(PATIENCE) == LONG


def test_websockets_sends_a_mebibyte_of_noise(tmp_path: Path) -> None:
    """It compresses whatever it sends, and so makes this one longer than --maxmsg."""
    (tmp_path / "counting.py").write_text(GAME)
    noise = random.Random(6).randbytes(MIB)
    with serve("--compress", "counting:Counting", cwd=tmp_path) as server:
        with open_client(server, "noise") as client:
            client.send(noise)
            assert client.recv(60) == noise


@pytest.mark.parametrize(
    "options",
    [
        {"server_max_window_bits": 9, "client_max_window_bits": 9},
        {"server_max_window_bits": 12, "client_max_window_bits": 10},
        {"server_max_window_bits": 10, "client_max_window_bits": 12},
        {"server_max_window_bits": 10},
        {"client_max_window_bits": 10},
        {"server_no_context_takeover": True, "client_no_context_takeover": True},
    ],
    ids=lambda options: ",".join(f"{k[:6]}={v}" for k, v in options.items()),
)
def test_websockets_with_windows_of_its_own(echo: ServerProcess, options: dict[str, Any]) -> None:
    factory = ClientPerMessageDeflateFactory(**options)
    with open_client(echo, "own", compression=None, extensions=[factory]) as client:
        assert client.protocol.extensions
        text = random.Random(7).randbytes(20_000).hex() * 2
        client.send(text)
        assert client.recv(PATIENCE) == text


NODE = """
const WebSocket = require('ws');
const [url, options] = process.argv.slice(-2);
const texts = ['hello', '', 'x'.repeat(1048576), 'words and more words '.repeat(5000)];
const client = new WebSocket(url, { perMessageDeflate: JSON.parse(options) });
const happened = [];
client.on('open', () => { happened.push(client.extensions); client.send(texts[0]); });
client.on('message', (data, isBinary) => {
  happened.push(!isBinary && data.toString() === texts.shift());
  if (texts.length) client.send(texts[0]); else client.close(3001);
});
client.on('error', (error) => happened.push(error.message));
client.on('close', (code) => console.log(JSON.stringify([...happened, code])));
"""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0, "serverNoContextTakeover": True, "clientNoContextTakeover": True},
        {"threshold": 0, "serverMaxWindowBits": 12, "clientMaxWindowBits": 10},
        {"threshold": 0, "serverMaxWindowBits": 9, "clientMaxWindowBits": True},
    ],
    ids=["default", "no context", "windows", "server's window"],
)
def test_nodes_ws_talks_compressed(echo: ServerProcess, options: dict[str, Any]) -> None:
    require_tool("ws")
    done = subprocess.run(
        [require_tool("node"), "-e", NODE, "--", echo.url("node"), json.dumps(options)],
        cwd=NODE_FOLDER,
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    extension, *happened = json.loads(done.stdout)
    assert extension.startswith("permessage-deflate"), extension
    assert happened == [True] * 4 + [3001]
