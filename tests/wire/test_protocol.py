"""Two protocols back to back: bytes in, events out, for both roles."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalesocket
from scalesocket import (
    CloseCode,
    Closing,
    Control,
    Event,
    Messages,
    Opcode,
    Role,
    WebSocketProtocol,
)

KEY = b"\x01\x02\x03\x04"
ROLES = [Role.SERVER, Role.CLIENT]


def receiver(role: Role = Role.SERVER, max_message: int = 1 << 20) -> WebSocketProtocol:
    return WebSocketProtocol(role, max_message=max_message)


def frame_for(
    role: Role, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0
) -> bytes:
    """Return a frame as the other end of that role sends it."""
    key = KEY if role is Role.SERVER else b""
    return scalesocket.encode_frame(opcode, payload, fin=fin, rsv=rsv, masking_key=key)


def flatten(events: list[Event]) -> list[object]:
    """Return events with each message on its own, however they were batched."""
    found: list[object] = []
    for event in events:
        if isinstance(event, Messages):
            assert event.payloads, "an empty run is no event"
            found += [(int(event.opcode), payload) for payload in event.payloads]
        else:
            found.append(event)
    return found


# ==== Events in their order ===============================================


@pytest.mark.parametrize("role", ROLES)
def test_messages_pings_and_pongs_come_in_the_order_of_the_wire(role: Role) -> None:
    wire = b"".join(
        (
            frame_for(role, Opcode.TEXT, b"one"),
            frame_for(role, Opcode.TEXT, b"two"),
            frame_for(role, Opcode.PING, b"p"),
            frame_for(role, Opcode.BINARY, b"\xff"),
            frame_for(role, Opcode.TEXT, b"th", fin=False),
            frame_for(role, Opcode.PONG, b"q"),
            frame_for(role, Opcode.CONTINUATION, b"ree"),
            frame_for(role, Opcode.TEXT, b"four"),
            frame_for(role, Opcode.CLOSE, struct.pack("!H", 1000) + b"bye"),
        )
    )
    expected = [
        (1, b"one"),
        (1, b"two"),
        Control(Opcode.PING, b"p"),
        (2, b"\xff"),
        Control(Opcode.PONG, b"q"),
        (1, b"three"),
        (1, b"four"),
        Closing(1000, "bye", failed=False),
    ]
    assert flatten(receiver(role).receive(wire)) == expected
    protocol = receiver(role)
    bytewise = [e for byte in wire for e in flatten(protocol.receive(bytes((byte,))))]
    assert bytewise == expected


def test_a_run_of_messages_is_one_event() -> None:
    wire = b"".join(frame_for(Role.SERVER, Opcode.TEXT, b"%d" % n) for n in range(100))
    (event,) = receiver().receive(wire)
    assert isinstance(event, Messages)
    assert event.payloads == [b"%d" % n for n in range(100)]


def test_a_run_says_how_many_bytes_it_took() -> None:
    wire = frame_for(Role.SERVER, Opcode.BINARY, bytes(100)) * 3
    (event,) = receiver().receive(wire)
    assert isinstance(event, Messages)
    assert event.size >= 300
    halves = [frame_for(Role.SERVER, 2, bytes(5000), fin=False), frame_for(Role.SERVER, 0, b"")]
    (event,) = receiver().receive(b"".join(halves))
    assert isinstance(event, Messages)
    assert event.size >= 5000


def test_an_empty_message_still_counts_for_something() -> None:
    """So that an inbox full of empty messages is full."""
    for fragmented in (False, True):
        wire = frame_for(Role.SERVER, 1, b"", fin=not fragmented)
        wire += frame_for(Role.SERVER, 0, b"") if fragmented else b""
        (event,) = receiver().receive(wire)
        assert isinstance(event, Messages)
        assert event.size > 0


def test_what_one_end_encodes_the_other_understands() -> None:
    """The same functions, once with a masking key and once without."""
    payloads = [b"", b"x", bytes(125), bytes(126), bytes(65535), bytes(65536)]
    to_client = scalesocket.encode_messages(Opcode.BINARY, payloads)
    to_server = b"".join(
        scalesocket.encode_frame(Opcode.BINARY, payload, masking_key=KEY) for payload in payloads
    )
    expected = [(2, payload) for payload in payloads]
    assert flatten(receiver(Role.CLIENT).receive(to_client)) == expected
    assert flatten(receiver(Role.SERVER).receive(to_server)) == expected


@pytest.mark.parametrize("role", ROLES)
def test_each_role_refuses_the_frames_of_its_own_kind(role: Role) -> None:
    other = Role.CLIENT if role is Role.SERVER else Role.SERVER
    (event,) = receiver(role).receive(frame_for(other, Opcode.TEXT, b"x"))
    assert isinstance(event, Closing)
    assert (event.code, event.failed) == (CloseCode.PROTOCOL_ERROR, True)


# ==== The end =============================================================

FAILURES = {
    "reserved bits": (lambda role: frame_for(role, 1, b"x", rsv=4), 1002),
    "a reserved opcode": (lambda role: frame_for(role, 3, b"x"), 1002),
    "a continuation of nothing": (lambda role: frame_for(role, 0, b"x"), 1002),
    "a message inside another": (
        lambda role: frame_for(role, 1, b"x", fin=False) + frame_for(role, 1, b"y"),
        1002,
    ),
    "a fragmented ping": (lambda role: frame_for(role, 9, b"x", fin=False), 1002),
    "a close payload of one byte": (lambda role: frame_for(role, 8, b"\x03"), 1002),
    "a forbidden close code": (lambda role: frame_for(role, 8, struct.pack("!H", 1005)), 1002),
    "a close reason that is no text": (lambda role: frame_for(role, 8, b"\x03\xe8\xff"), 1007),
    "text that is none": (lambda role: frame_for(role, 1, b"\xff"), 1007),
    "a message too big": (lambda role: frame_for(role, 2, bytes(2000)), 1009),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_is_the_last_event_after_all_good_messages(what: str, role: Role) -> None:
    make, code = FAILURES[what]
    good = frame_for(role, Opcode.TEXT, b"good") * 3 + frame_for(role, Opcode.PING, b"")
    protocol = receiver(role, max_message=1000)
    events = flatten(protocol.receive(good + make(role) + good))
    assert events[:-1] == [(1, b"good")] * 3 + [Control(Opcode.PING, b"")]
    last = events[-1]
    assert isinstance(last, Closing)
    assert (last.code, last.failed) == (code, True)
    assert last.reason
    assert not protocol.is_open
    assert protocol.receive(good) == []


@pytest.mark.parametrize("role", ROLES)
def test_nothing_comes_after_a_close(role: Role) -> None:
    protocol = receiver(role)
    close = frame_for(role, Opcode.CLOSE, struct.pack("!H", 1001))
    text = frame_for(role, Opcode.TEXT, b"late")
    assert flatten(protocol.receive(text + close + text + close)) == [
        (1, b"late"),
        Closing(1001, "", failed=False),
    ]
    assert protocol.receive(text) == []
    assert protocol.receive(close + b"\xff\xff\xff") == []


def test_messages_before_bad_text_in_the_same_run_are_given_out() -> None:
    texts = [b"a", b"b", b"\xc3", b"\xa9", b"c"]
    wire = b"".join(frame_for(Role.SERVER, Opcode.TEXT, text) for text in texts)
    events = flatten(receiver().receive(wire))
    assert events[:2] == [(1, b"a"), (1, b"b")]
    assert [type(event) for event in events[2:]] == [Closing]


def test_a_message_too_big_is_refused_before_its_payload_came() -> None:
    head = frame_for(Role.SERVER, 2, bytes(2000))[:8]
    (event,) = receiver(max_message=1000).receive(head)
    assert isinstance(event, Closing)
    assert event.code == CloseCode.MESSAGE_TOO_BIG
    assert "2000" in event.reason
    assert "1000" in event.reason


@pytest.mark.parametrize(
    ("closing", "reply"),
    [
        (Closing(1000, "bye", failed=False), b"\x88\x02" + struct.pack("!H", 1000)),
        (Closing(4321, "x", failed=False), b"\x88\x02" + struct.pack("!H", 4321)),
        (Closing(CloseCode.NO_STATUS, "", failed=False), b"\x88\x00"),
        (Closing(1002, "why", failed=True), b"\x88\x05" + struct.pack("!H", 1002) + b"why"),
    ],
)
def test_a_close_is_answered_with_its_code_and_a_failure_with_its_reason(
    closing: Closing, reply: bytes
) -> None:
    assert WebSocketProtocol.encode_close(*closing.reply) == reply


def test_the_reply_to_every_failure_is_itself_a_valid_close() -> None:
    for make, code in FAILURES.values():
        last = receiver(max_message=1000).receive(make(Role.SERVER))[-1]
        assert isinstance(last, Closing)
        (answer,) = receiver(Role.CLIENT).receive(WebSocketProtocol.encode_close(*last.reply))
        assert answer == Closing(code, last.reason, failed=False)


# ==== Any stream ==========================================================

messages = st.one_of(
    st.tuples(st.just(1), st.text(max_size=6).map(str.encode)),
    st.tuples(st.just(2), st.binary(max_size=6)),
    st.tuples(st.sampled_from([1, 2]), st.sampled_from([b"a" * 126, b"b" * 130])),
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[object], Role, bytes]:
    """What is to be understood, by whom, and its frames, fragmented with pings in between."""
    role = draw(st.sampled_from(ROLES))
    expected: list[object] = []
    wire = b""
    for opcode, payload in draw(st.lists(messages, max_size=6)):
        edges = draw(st.lists(st.integers(0, len(payload)), max_size=2).map(sorted))
        parts = [payload[a:b] for a, b in zip([0, *edges], [*edges, len(payload)], strict=True)]
        for index, part in enumerate(parts):
            if draw(st.integers(0, 4)) == 0:
                expected.append(Control(Opcode.PING, b"%d" % index))
                wire += frame_for(role, Opcode.PING, b"%d" % index)
            fin = index == len(parts) - 1
            wire += frame_for(role, opcode if index == 0 else 0, part, fin=fin)
        expected.append((opcode, payload))
    return expected, role, wire


@settings(max_examples=70)
@given(conversations(), st.integers(1, 40))
def test_any_conversation_is_understood_however_it_is_cut(
    conversation: tuple[list[object], Role, bytes], step: int
) -> None:
    expected, role, wire = conversation
    assert flatten(receiver(role).receive(wire)) == expected
    protocol = receiver(role)
    found = []
    for at in range(0, len(wire), step):
        found += flatten(protocol.receive(wire[at : at + step]))
    assert found == expected


@settings(max_examples=70)
@given(st.sampled_from(ROLES), st.lists(st.binary(max_size=30), max_size=5))
def test_bytes_of_any_kind_become_events(role: Role, chunks: list[bytes]) -> None:
    whole = flatten(receiver(role, 64).receive(b"".join(chunks)))
    protocol = receiver(role, 64)
    found = [event for chunk in chunks for event in flatten(protocol.receive(chunk))]
    assert found == whole
    closings = [event for event in found if isinstance(event, Closing)]
    assert closings == found[-1:] or not closings
