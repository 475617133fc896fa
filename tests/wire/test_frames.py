"""Frames as bytes: to the wire and back, and what is refused from a header alone."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import scalesocket
from scalesocket import CloseCode, Frame, FrameParser, Opcode, ProtocolError
from tests.support import encode_client_frame, masked

MAX = 100_000  # bytes of payload, where a test does not say otherwise

KEY = bytes.fromhex("37fa213d")
HELLO = bytes.fromhex("810548656c6c6f")
HELLO_MASKED = bytes.fromhex("818537fa213d7f9f4d5158")


def server_parser(max_length: int = MAX) -> FrameParser:
    """Return the parser of a server: what comes is masked."""
    return FrameParser(masked=True, max_length=max_length)


def client_parser(max_length: int = MAX) -> FrameParser:
    """Return the parser of a client: what comes is not masked."""
    return FrameParser(masked=False, max_length=max_length)


def take_all(parser: FrameParser) -> list[Frame]:
    """Return what `next_frame` gives for what has been fed."""
    frames = []
    while (frame := parser.next_frame()) is not None:
        frames.append(frame)
    return frames


def parse(parser: FrameParser, *chunks: bytes) -> list[Frame]:
    """Feed chunks one after the other, and return all frames and pieces of frames."""
    frames = []
    for chunk in chunks:
        parser.feed(chunk)
        frames += take_all(parser)
    return frames


def header(first: int, length: int, form: int = 0, mask: bool = True) -> bytes:
    """Return a header and its masking key; `form` 126 or 127 forces a longer length."""
    bit = 0x80 if mask else 0
    form = form or (length if length < 126 else 126 if length < 65536 else 127)
    head = bytes((first, bit | form))
    if form == 126:
        head += struct.pack("!H", length)
    if form == 127:
        head += struct.pack("!Q", length)
    return head + (KEY if mask else b"")


# ==== Vectors of RFC 6455 section 5.7 =====================================


def test_the_unmasked_text_of_the_rfc() -> None:
    assert scalesocket.encode_frame(Opcode.TEXT, b"Hello") == HELLO
    (frame,) = parse(client_parser(), HELLO)
    assert (frame.header.fin, frame.header.opcode, frame.payload) == (True, 1, b"Hello")


def test_the_masked_text_of_the_rfc() -> None:
    assert scalesocket.encode_frame(Opcode.TEXT, b"Hello", masking_key=KEY) == HELLO_MASKED
    (frame,) = parse(server_parser(), HELLO_MASKED)
    assert frame.payload == b"Hello"
    assert frame.header.masking_key == KEY


def test_the_fragmented_text_of_the_rfc() -> None:
    first = scalesocket.encode_frame(Opcode.TEXT, b"Hel", fin=False)
    second = scalesocket.encode_frame(Opcode.CONTINUATION, b"lo")
    assert first.hex() == "010348656c"
    assert second.hex() == "80026c6f"
    frames = parse(client_parser(), first + second)
    assert [(f.header.fin, f.header.opcode, f.payload) for f in frames] == [
        (False, 1, b"Hel"),
        (True, 0, b"lo"),
    ]


def test_the_ping_and_the_pong_of_the_rfc() -> None:
    assert scalesocket.encode_frame(Opcode.PING, b"Hello").hex() == "890548656c6c6f"
    pong = bytes.fromhex("8a8537fa213d7f9f4d5158")
    (frame,) = parse(server_parser(), pong)
    assert (frame.header.opcode, frame.payload) == (Opcode.PONG, b"Hello")


@pytest.mark.parametrize(("size", "head"), [(256, "827e0100"), (65536, "827f0000000000010000")])
def test_the_long_binary_messages_of_the_rfc(size: int, head: str) -> None:
    payload = random.randbytes(size)
    wire = scalesocket.encode_frame(Opcode.BINARY, payload)
    assert wire == bytes.fromhex(head) + payload
    (frame,) = parse(client_parser(), wire)
    assert frame.payload == payload


# ==== Masking =============================================================


def naive_mask(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


@pytest.mark.slow
@given(
    st.binary(max_size=300) | st.binary(min_size=500, max_size=700),
    st.binary(min_size=4, max_size=4),
)
def test_masking_is_the_loop_of_the_rfc_and_its_own_inverse(payload: bytes, key: bytes) -> None:
    once = scalesocket.apply_mask(payload, key)
    assert once == naive_mask(payload, key)
    assert scalesocket.apply_mask(once, key) == payload


def test_masking_with_zeros_changes_nothing() -> None:
    assert scalesocket.apply_mask(b"abc\0\0", bytes(4)) == b"abc\0\0"


# ==== Lengths =============================================================

BORDERS = (0, 1, 4, 125, 126, 127, 65535, 65536, 70000)


@pytest.mark.parametrize("size", BORDERS)
def test_a_length_is_written_in_its_shortest_form(size: int) -> None:
    wire = scalesocket.encode_frame(Opcode.BINARY, bytes(size))
    assert wire[: len(wire) - size] == header(0x82, size, mask=False)
    assert scalesocket.encode_messages(Opcode.BINARY, [bytes(size)]) == wire
    assert scalesocket.PLAIN.encode_message(bytes(size)) == wire


@pytest.mark.parametrize("size", BORDERS)
@pytest.mark.parametrize("step", [0, 1, 3, 4096])
def test_a_frame_of_any_length_comes_back_however_it_is_cut(size: int, step: int) -> None:
    payload = random.randbytes(size)
    wire = encode_client_frame(Opcode.BINARY, payload)
    step = max(step, size // 500) if step else len(wire)
    chunks = [wire[at : at + step] for at in range(0, len(wire), step)]
    frames = parse(server_parser(), *chunks)
    assert b"".join(frame.payload for frame in frames) == payload
    assert [frame.first for frame in frames] == [True] + [False] * (len(frames) - 1)
    assert [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert {frame.header for frame in frames} == {frames[0].header}


@pytest.mark.parametrize("size", BORDERS)
def test_the_fast_path_takes_whole_messages_of_any_length(size: int) -> None:
    parser = server_parser()
    payload = random.randbytes(size)
    wire = encode_client_frame(Opcode.TEXT, payload)
    parser.feed(wire * 3)
    opcode, payloads, taken = parser.take_run()
    found = payloads + [frame.payload for frame in take_all(parser)]
    assert found == [payload] * 3
    if size < 65536:
        assert (opcode, len(payloads), taken) == (Opcode.TEXT, 3, 3 * len(wire))


@given(st.lists(st.binary(max_size=140), max_size=5))
def test_a_batch_is_encoded_as_its_messages_one_by_one(payloads: list[bytes]) -> None:
    expected = [scalesocket.encode_frame(Opcode.TEXT, payload) for payload in payloads]
    assert scalesocket.encode_messages(Opcode.TEXT, payloads) == b"".join(expected)


@pytest.mark.parametrize(
    ("length", "form"),
    [(0, 126), (125, 126), (0, 127), (125, 127), (126, 127), (65535, 127)],
)
def test_a_length_in_a_longer_form_than_it_needs_is_refused(length: int, form: int) -> None:
    for mask, parser in ((True, server_parser()), (False, client_parser())):
        parser.feed(header(0x82, length, form, mask) + bytes(length))
        assert parser.take_run()[1] == []
        with pytest.raises(ProtocolError) as caught:
            take_all(parser)
        assert caught.value.code == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1])
def test_a_length_with_its_top_bit_set_is_refused(length: int) -> None:
    parser = server_parser(max_length=1 << 70)
    parser.feed(header(0x82, length)[:10])  # the masking key is not even there
    with pytest.raises(ProtocolError) as caught:
        parser.next_frame()
    assert caught.value.code == CloseCode.PROTOCOL_ERROR


# ==== What is refused from the header alone ===============================


def fails_at(wire: bytes, parser: FrameParser) -> int:
    """Feed byte after byte and return how many it took to be refused, 0 if it never was."""
    for count in range(1, len(wire) + 1):
        parser.feed(wire[count - 1 : count])
        try:
            if not parser.take_run()[1]:
                take_all(parser)
        except ProtocolError as error:
            assert error.code == CloseCode.PROTOCOL_ERROR
            return count
    return 0


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
def test_a_reserved_opcode_is_refused_by_the_second_byte(opcode: int) -> None:
    assert fails_at(header(0x80 | opcode, 5), server_parser()) == 2


@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
@pytest.mark.parametrize("rsv", range(1, 8))
def test_a_reserved_bit_is_refused_by_the_second_byte(opcode: int, rsv: int) -> None:
    assert fails_at(header(0x80 | rsv << 4 | opcode, 5), server_parser()) == 2


@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
def test_an_unmasked_frame_of_a_client_is_refused_by_the_second_byte(opcode: int) -> None:
    assert fails_at(header(0x80 | opcode, 5, mask=False), server_parser()) == 2


@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
def test_a_masked_frame_of_a_server_is_refused_by_the_second_byte(opcode: int) -> None:
    assert fails_at(header(0x80 | opcode, 5), client_parser()) == 2


@pytest.mark.parametrize("opcode", [8, 9, 10])
def test_a_long_or_fragmented_control_frame_is_refused_by_the_second_byte(opcode: int) -> None:
    assert fails_at(header(0x80 | opcode, 126), server_parser()) == 2
    assert fails_at(header(0x80 | opcode, 70000), server_parser()) == 2
    assert fails_at(header(opcode, 5), server_parser()) == 2
    assert fails_at(header(0x80 | opcode, 125) + bytes(125), server_parser()) == 0


def test_a_length_that_is_not_minimal_is_refused_before_the_masking_key() -> None:
    assert fails_at(header(0x82, 125, 126), server_parser()) == 4
    assert fails_at(header(0x82, 65535, 127), server_parser()) == 10


def test_a_reserved_bit_is_allowed_in_data_frames_to_an_extension_that_uses_it() -> None:
    parser = FrameParser(masked=True, max_length=MAX, allowed_rsv=0b100)
    (frame,) = parse(parser, encode_client_frame(Opcode.TEXT, b"x", rsv=0b100))
    assert (frame.header.rsv, frame.payload) == (0b100, b"x")
    for bad in (header(0xA1, 1), header(0xC9, 1), header(0xC0, 1)):
        parser = FrameParser(masked=True, max_length=MAX, allowed_rsv=0b100)
        assert fails_at(bad, parser) == 2


def test_the_fast_path_leaves_a_message_over_the_limit_for_the_general_one() -> None:
    parser = server_parser(max_length=10)
    parser.feed(encode_client_frame(Opcode.TEXT, bytes(10)) + encode_client_frame(1, bytes(11)))
    assert parser.take_run()[1] == [bytes(10)]
    assert parser.take_run()[1] == []
    frame = parser.next_frame()
    assert frame is not None
    assert (frame.header.length, frame.first) == (11, True)


def test_the_header_of_a_long_frame_is_given_out_before_its_payload() -> None:
    parser = server_parser()
    (frame,) = parse(parser, header(0x82, 5000))
    assert (frame.header.length, frame.payload, frame.first, frame.last) == (5000, b"", True, False)
    assert parser.next_frame() is None


def test_a_control_frame_comes_in_one_piece() -> None:
    wire = encode_client_frame(Opcode.PING, b"0123456789")
    parser = server_parser()
    assert parse(parser, *[wire[at : at + 1] for at in range(len(wire) - 1)]) == []
    (frame,) = parse(parser, wire[-1:])
    assert frame.payload == b"0123456789"


# ==== Both paths, any stream, any cuts ====================================
# What a parser makes of a stream: data frames joined to whole ones, and how it ended.

Outcome = tuple[list[tuple[bool, int, bytes]], str]


def outcome(chunks: list[bytes], *, fast: bool, role_masked: bool = True) -> Outcome:
    """Parse chunks with or without `take_run`; any error but ProtocolError fails the test."""
    parser = FrameParser(masked=role_masked, max_length=300)
    found: list[tuple[bool, int, bytes]] = []
    parts: list[bytes] = []
    try:
        for chunk in chunks:
            parser.feed(chunk)
            while True:
                opcode, payloads, size = parser.take_run() if fast and not parts else (0, [], 0)
                found += [(True, opcode, payload) for payload in payloads]
                assert (size > 0) == bool(payloads)
                if payloads:
                    continue
                frame = parser.next_frame()
                if frame is None:
                    break
                parts.append(frame.payload)
                if frame.last:
                    found.append((frame.header.fin, frame.header.opcode, b"".join(parts)))
                    parts.clear()
    except ProtocolError as error:
        return found, f"{error.code} {error.reason}"
    return found, f"{b''.join(parts)!r} is left"


@st.composite
def wire_frames(draw: st.DrawFn) -> bytes:
    """One frame, mostly a valid one of a client."""
    valid = draw(st.integers(0, 3)) > 0
    opcode = draw(st.sampled_from([1, 1, 1, 2, 2, 0, 8, 9, 10]) if valid else st.integers(0, 15))
    fin = draw(st.sampled_from([True, True, True, False]))
    rsv = 0 if valid else draw(st.sampled_from([0, 0, 1, 4]))
    mask = valid or draw(st.booleans())
    sizes = st.one_of(st.binary(max_size=8), st.sampled_from([125, 126, 300, 301]).map(bytes))
    payload = draw(sizes)
    head = header(fin << 7 | rsv << 4 | opcode, len(payload), mask=mask)
    return head + (masked(payload, KEY) if mask else payload)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """A stream of frames, at times corrupted, in chunks of any size."""
    parts = draw(st.lists(wire_frames(), max_size=8))
    data = bytearray(b"".join(parts))
    if data and draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        data[at] ^= draw(st.integers(1, 255))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *cuts, len(data)]
    return [bytes(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


@pytest.mark.slow
@settings(max_examples=70)
@given(streams())
@example([b"\x81", b"\xfe\0", b"\x7d" + KEY + bytes(125)])
def test_fast_and_general_path_agree_on_any_stream_however_it_is_cut(chunks: list[bytes]) -> None:
    whole = outcome([b"".join(chunks)], fast=True)
    assert outcome(chunks, fast=True) == whole
    assert outcome(chunks, fast=False) == whole
    assert outcome([bytes((byte,)) for byte in b"".join(chunks)], fast=True) == whole


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=20), max_size=6), st.booleans())
def test_bytes_of_any_kind_raise_nothing_but_protocol_errors(
    chunks: list[bytes], role_masked: bool
) -> None:
    whole = outcome([b"".join(chunks)], fast=True, role_masked=role_masked)
    assert outcome(chunks, fast=True, role_masked=role_masked) == whole


def test_unmasking_goes_on_at_the_right_byte_of_the_key_in_every_piece() -> None:
    payload = random.randbytes(64)
    wire = header(0x82, 64) + masked(payload, KEY)
    for size in range(1, 13):
        chunks = [wire[at : at + size] for at in range(0, len(wire), size)]
        pieces = parse(server_parser(), *chunks)
        assert b"".join(piece.payload for piece in pieces) == payload


# ==== The payload of a Close ==============================================

VALID_CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", VALID_CODES)
def test_a_close_code_that_may_be_sent_is_read(code: int) -> None:
    payload = struct.pack("!H", code) + "grüße".encode()
    assert scalesocket.parse_close(payload) == (code, "grüße")
    assert scalesocket.encode_close(code, "grüße") == payload


@pytest.mark.parametrize("code", INVALID_CODES)
def test_a_close_code_that_must_not_be_sent_is_refused(code: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        scalesocket.parse_close(struct.pack("!H", code))
    assert caught.value.code == CloseCode.PROTOCOL_ERROR


def test_every_close_code_is_either_allowed_or_refused_as_the_ranges_say() -> None:
    def allowed(code: int) -> bool:
        try:
            return scalesocket.parse_close(struct.pack("!H", code)) == (code, "")
        except ProtocolError:
            return False

    found = {code for code in range(65536) if allowed(code)}
    assert found == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_a_close_payload_may_be_empty_but_not_one_byte() -> None:
    assert scalesocket.parse_close(b"") == (CloseCode.NO_STATUS, "")
    assert scalesocket.encode_close(CloseCode.NO_STATUS, "ignored") == b""
    with pytest.raises(ProtocolError) as caught:
        scalesocket.parse_close(b"\x03")
    assert caught.value.code == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("reason", [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_a_close_reason_that_is_not_utf8_is_refused(reason: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        scalesocket.parse_close(struct.pack("!H", 1000) + reason)
    assert caught.value.code == CloseCode.INVALID_DATA


@given(st.text(max_size=140))
@example("x" * 122 + "é")
@example("x" * 121 + "é")
@example("🦊" * 31)
def test_a_long_reason_is_cut_between_two_characters(reason: str) -> None:
    payload = scalesocket.encode_close(4000, reason)
    assert len(payload) <= 125
    code, sent = scalesocket.parse_close(payload)
    assert code == 4000
    assert reason.startswith(sent)
    rest = reason[len(sent) :]
    assert not rest or len((sent + rest[0]).encode()) > 123


def test_a_reason_with_half_a_surrogate_pair_can_be_sent() -> None:
    """A child may print one as a JSON escape; it must not take the pump down."""
    payload = scalesocket.encode_close(4000, "a\ud800b")
    code, reason = scalesocket.parse_close(payload)
    assert code == 4000
    assert (reason[0], reason[-1]) == ("a", "b")


# ==== Text in a batch =====================================================


@given(st.lists(st.one_of(st.binary(max_size=6), st.text(max_size=4).map(str.encode)), max_size=6))
@example([b"\xc3", b"\xa9"])
def test_valid_texts_are_counted_up_to_the_first_bad_one(payloads: list[bytes]) -> None:
    def is_text(payload: bytes) -> bool:
        return payload.decode(errors="replace").encode() == payload

    count = scalesocket.valid_text_count(payloads)
    assert all(map(is_text, payloads[:count]))
    assert count == len(payloads) or not is_text(payloads[count])


def test_a_message_is_text_or_binary_as_its_type_says() -> None:
    assert scalesocket.PLAIN.encode_message("hé") == b"\x81\x03h\xc3\xa9"
    assert scalesocket.PLAIN.encode_message(b"\xff") == b"\x82\x01\xff"
