"""Fragments become messages: their order, their limits, and text checked as it arrives."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket import CloseCode, FrameParser, MessageAssembler, ProtocolError
from tests.support import BINARY, CONTINUATION, PING, TEXT, encode_client_frame


class Receiver:
    """A parser and an assembler, fed with bytes as one `recv` after the other brings them."""

    def __init__(self, max_message: int = 1 << 20) -> None:
        self.parser = FrameParser(masked=True, max_length=max_message)
        self.assembler = MessageAssembler(max_message)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that these bytes complete."""
        self.parser.feed(data)
        messages = []
        while (frame := self.parser.next_frame()) is not None:
            if frame.header.opcode < 8:
                message = self.assembler.add(frame)
                if message is not None:
                    messages.append(message)
        return messages

    def refuse(self, data: bytes) -> CloseCode:
        """Feed bytes that must be refused, and return the close code."""
        with pytest.raises(ProtocolError) as caught:
            self.feed(data)
        return CloseCode(caught.value.code)


def fragment(payload: bytes, opcode: int = CONTINUATION, fin: bool = False) -> bytes:
    return encode_client_frame(opcode, payload, fin=fin)


def fragments(parts: list[bytes], opcode: int = TEXT) -> list[bytes]:
    """Return the frames of a message in these parts."""
    last = len(parts) - 1
    return [
        fragment(part, CONTINUATION if index else opcode, fin=index == last)
        for index, part in enumerate(parts)
    ]


# ==== Joining =============================================================


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_are_joined_in_order(opcode: int) -> None:
    receiver = Receiver()
    assert receiver.feed(fragment(b"one ", opcode)) == []
    assert not receiver.assembler.idle
    assert receiver.feed(fragment(b"two ")) == []
    assert receiver.feed(fragment(b"three", fin=True)) == [b"one two three"]
    assert receiver.assembler.idle
    assert receiver.assembler.opcode == opcode


def test_control_frames_between_fragments_leave_the_message_whole() -> None:
    ping = encode_client_frame(PING, b"!")
    parts = fragments([b"a", b"b", b"c"])
    assert Receiver().feed(ping.join(parts)) == [b"abc"]


def test_a_message_may_be_all_empty_fragments() -> None:
    receiver = Receiver()
    assert receiver.feed(b"".join(fragments([b"", b"", b""]))) == [b""]
    assert receiver.feed(b"".join(fragments([b"next"]))) == [b"next"]


def test_nothing_of_one_message_leaks_into_the_next() -> None:
    receiver = Receiver(max_message=10)
    for number in range(50):  # 500 bytes in all: the sum of a message starts anew each time
        parts = [b"0123", b"%06d" % number]
        assert receiver.feed(b"".join(fragments(parts, BINARY))) == [b"".join(parts)]


def test_a_continuation_of_no_message_is_refused() -> None:
    assert Receiver().refuse(fragment(b"x")) == CloseCode.PROTOCOL_ERROR
    assert Receiver().refuse(fragment(b"x", fin=True)) == CloseCode.PROTOCOL_ERROR
    receiver = Receiver()
    receiver.feed(b"".join(fragments([b"a", b"b"])))
    assert receiver.refuse(fragment(b"c", fin=True)) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [False, True])
def test_a_new_message_inside_a_fragmented_one_is_refused(opcode: int, fin: bool) -> None:
    receiver = Receiver()
    receiver.feed(fragment(b"a", TEXT))
    assert receiver.refuse(fragment(b"b", opcode, fin)[:6]) == CloseCode.PROTOCOL_ERROR


# ==== Text ================================================================

FOX = "🦊".encode()  # four bytes


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_may_be_cut_by_fragments_and_by_reads(cut: int) -> None:
    wire = b"".join(fragments([b"a" + FOX[:cut], FOX[cut:] + b"z"]))
    receiver = Receiver()
    found = [message for byte in wire for message in receiver.feed(bytes((byte,)))]
    assert found == [b"a" + FOX + b"z"]


@given(st.text(max_size=20), st.lists(st.integers(0, 80), max_size=6), st.integers(1, 9))
def test_any_text_survives_any_fragmentation(text: str, cuts: list[int], step: int) -> None:
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    wire = b"".join(fragments(parts))
    receiver = Receiver()
    found = []
    for at in range(0, len(wire), step):
        found += receiver.feed(wire[at : at + step])
    assert found == [data]


BAD_TEXT = {
    "a lone continuation byte": (b"ok\x80", 3),
    "an overlong slash": (b"\xc0\xaf", 1),
    "an overlong of three bytes": (b"\xe0\x80\xaf", 2),
    "a surrogate": (b"\xed\xa0\x80", 3),  # the second is bad, but codecs waits for the third
    "beyond Unicode": (b"\xf4\x90\x80\x80", 2),
    "a byte that never occurs": (b"\xff", 1),
    "a character broken off by a letter": (b"\xf0\x9fx", 3),
}


@pytest.mark.parametrize("what", BAD_TEXT)
@pytest.mark.parametrize("split", ["one frame", "a frame for each byte"])
def test_text_fails_at_its_first_bad_byte(what: str, split: str) -> None:
    """Autobahn 6.4: at once, though the message would go on."""
    bad, position = BAD_TEXT[what]
    receiver = Receiver()
    if split == "one frame":
        wire = fragment(bad + bytes(100), TEXT)
        head = len(wire) - 100 - len(bad)
        receiver.feed(wire[: head + position - 1])
        code = receiver.refuse(wire[head + position - 1 : head + position])
    else:
        frames = fragments([bytes((byte,)) for byte in bad] + [b"more"])
        receiver.feed(b"".join(frames[: position - 1]))
        code = receiver.refuse(frames[position - 1])
    assert code == CloseCode.INVALID_DATA


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_text_that_ends_inside_a_character_is_refused(cut: int) -> None:
    assert Receiver().refuse(fragment(FOX[:cut], TEXT, fin=True)) == CloseCode.INVALID_DATA
    receiver = Receiver()
    receiver.feed(fragment(FOX[:cut], TEXT))
    assert receiver.refuse(fragment(b"", fin=True)) == CloseCode.INVALID_DATA


def test_a_cut_character_of_one_message_does_not_begin_the_next() -> None:
    receiver = Receiver()
    assert receiver.feed(b"".join(fragments([b"\xff\xfe"], BINARY))) == [b"\xff\xfe"]
    assert receiver.feed(b"".join(fragments([FOX]))) == [FOX]


def test_binary_messages_may_hold_any_bytes() -> None:
    data = bytes(range(256))
    assert Receiver().feed(b"".join(fragments([data[:129], data[129:]], BINARY))) == [data]


# ==== Limits ==============================================================


def test_a_message_over_the_limit_is_refused_from_its_header() -> None:
    wire = encode_client_frame(BINARY, bytes(101))
    receiver = Receiver(max_message=100)
    assert receiver.feed(wire[:5]) == []
    assert receiver.refuse(wire[5:6]) == CloseCode.MESSAGE_TOO_BIG
    assert Receiver(max_message=101).feed(wire) == [bytes(101)]


def test_a_length_beyond_all_memory_is_refused_from_its_header() -> None:
    head = b"\x82\xff\x7f" + b"\xff" * 7 + b"\0\0\0\0"
    assert Receiver().refuse(head) == CloseCode.MESSAGE_TOO_BIG


def test_the_fragments_of_a_message_count_together() -> None:
    receiver = Receiver(max_message=100)
    receiver.feed(fragment(bytes(60), BINARY) + fragment(bytes(40)))
    assert receiver.refuse(fragment(bytes(1))[:6]) == CloseCode.MESSAGE_TOO_BIG


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    receiver = Receiver(max_message=100)
    parts = [bytes(60), bytes(40), b""]
    assert receiver.feed(b"".join(fragments(parts, BINARY))) == [bytes(100)]


@pytest.mark.slow
def test_thousands_of_empty_fragments_cost_no_memory() -> None:
    receiver = Receiver(max_message=1000)
    receiver.feed(fragment(b"x", TEXT))
    empties = fragment(b"") * 1000
    receiver.feed(empties)
    tracemalloc.start()
    try:
        for _ in range(10):
            receiver.feed(empties)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000
    assert receiver.feed(fragment(b"y", fin=True)) == [b"xy"]


@pytest.mark.slow
def test_short_fragments_cost_about_their_bytes() -> None:
    receiver = Receiver(max_message=1 << 20)
    receiver.feed(fragment(b"", BINARY))
    wires = [b"".join(fragment(b"%02d" % (n % 100)) for n in range(1000)) for _ in range(3)]
    tracemalloc.start()
    try:
        for number in range(15):
            receiver.feed(wires[number % 3])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 5 * 15 * 2000
    (message,) = receiver.feed(fragment(b"!", fin=True))
    assert message == b"".join(b"%02d" % (n % 100) for n in range(1000)) * 15 + b"!"


def test_pieces_of_one_byte_make_a_whole_message() -> None:
    payload = bytes(range(256)) * 40
    receiver = Receiver()
    wire = encode_client_frame(BINARY, payload)
    found = [message for byte in wire for message in receiver.feed(bytes((byte,)))]
    assert found == [payload]
    assert type(found[0]) is bytes
