"""The sandbox's packets: bytes to values and back, and what is refused, and with which words."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.net import sandbox_packets as packets
from scalesocket.net.sandbox_packets import (
    MAX_ANGLE,
    PACKETS,
    Angle,
    Direction,
    Flag,
    Kind,
    Many,
    OrNull,
    Packet,
    PacketError,
    PacketType,
    RowPacket,
    Table,
    Text,
    Whole,
    decode_from_client,
    decode_from_server,
    describe_packets,
    encode,
)

DECODE: dict[Direction, Callable[[bytes], Packet]] = {
    Direction.TO_SERVER: decode_from_client,
    Direction.TO_CLIENT: decode_from_server,
}
FROM_CLIENT = [kind for kind in PACKETS if kind.direction == Direction.TO_SERVER]


def values(kind: Kind) -> st.SearchStrategy[object]:
    """Return all Python values that a kind allows."""
    match kind:
        case Whole(low, high):
            return st.integers(low, high)
        case Angle():
            return st.floats(-MAX_ANGLE, MAX_ANGLE)
        case Text(most):
            return st.text(max_size=most)
        case Flag():
            return st.booleans()
        case OrNull(inner):
            return st.none() | values(inner)
        case Many(inner):
            return st.lists(values(inner), max_size=4).map(tuple)
        case Table(shape=shape) as table:
            assert isinstance(table, Table)
            row = st.tuples(*(values(c.kind) for c in table.columns)).map(table.row._make)
            return st.lists(row, max_size=4).map(tuple) if shape == "rows" else row
    raise AssertionError(f"no values for {kind}")


def packets_of(kind: PacketType) -> st.SearchStrategy[Packet]:
    """Return all packets of a type."""
    return st.builds(kind.cls, *(values(column.kind) for column in kind.columns))


ANY_PACKET = st.sampled_from(PACKETS).flatmap(
    lambda kind: packets_of(kind).map(lambda p: (kind, p))
)


# ==== 1. There and back =====================================================


@pytest.mark.slow
@pytest.mark.parametrize("kind", PACKETS, ids=lambda kind: kind.name)
@given(data=st.data())
def test_a_packet_survives_the_wire(kind: PacketType, data: st.DataObject) -> None:
    packet = data.draw(packets_of(kind))
    assert DECODE[kind.direction](encode(packet)) == packet


def test_a_packet_has_the_bytes_that_the_documentation_shows() -> None:
    wire = bytes.fromhex("92 a2 33 33 91 cb 3f f8 00 00 00 00 00 00")
    assert encode(packets.Move(1.5)) == wire
    assert packets.__doc__ is not None and "92 a2 33 33 91 cb 3f f8 00 00 00 00 00 00" in (
        packets.__doc__
    )


def test_rows_are_sent_flat() -> None:
    rows = (packets.MapRow(1, 20, 30), packets.MapRow(2, 40, 50))
    assert msgpack.unpackb(encode(packets.Minimap(rows))) == ["mm", [[1, 20, 30, 2, 40, 50]]]


def test_a_profile_is_sent_as_a_map() -> None:
    wire = msgpack.unpackb(encode(packets.Spawn(packets.Profile("ann", 3))))
    assert wire == ["sp", [{"name": "ann", "skin": 3}]]


def test_an_angle_may_come_as_an_integer() -> None:
    assert decode_from_client(msgpack.packb(["33", [0]])) == packets.Move(0.0)


def test_the_keys_of_a_profile_may_come_in_any_order() -> None:
    wire = msgpack.packb(["sp", [{"skin": 1, "name": "bob"}]])
    assert decode_from_client(wire) == packets.Spawn(packets.Profile("bob", 1))


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 5042, 5043, 22000])
def test_a_packet_joined_from_packed_rows_is_the_packet_encoded_whole(count: int) -> None:
    rows = [packets.PlayerRow(n, n, 7, 0.5, None, 2, 0, None, 0, 1, 0, 0, 0) for n in range(count)]
    packer = RowPacket(packets.Players)
    joined = packer.join([packer.pack_row(row) for row in rows])
    assert joined == encode(packets.Players(tuple(rows)))


@pytest.mark.parametrize("count", [1, 2, 8191, 8192])  # 8 values each: around the headers' limits
def test_the_header_of_joined_rows_is_the_shortest_there_is(count: int) -> None:
    rows = [packets.ObjectRow(n, n, 7, 0.5, 60, None, 5, 1) for n in range(count)]
    packer = RowPacket(packets.Objects)
    joined = packer.join([packer.pack_row(row) for row in rows])
    assert joined == encode(packets.Objects(tuple(rows)))


# ==== 2. The table ==========================================================


@pytest.mark.parametrize("direction", Direction)
def test_a_code_means_one_packet_in_each_direction(direction: Direction) -> None:
    codes = [kind.code for kind in PACKETS if kind.direction == direction]
    assert len(set(codes)) == len(codes)


def test_every_packet_has_a_class_of_its_own_that_says_what_it_means() -> None:
    assert len({kind.cls for kind in PACKETS}) == len(PACKETS)
    assert all(kind.cls.__doc__ and "(" not in kind.cls.__doc__[:8] for kind in PACKETS)


def test_the_documentation_names_every_packet_and_every_argument() -> None:
    text = describe_packets()
    for kind in PACKETS:
        line = next(line for line in text.splitlines() if f"| `{kind.name}` |" in line)
        assert line.startswith(f"| `{kind.code}` |")
        assert all(f"`{column.name}`" in line for column in kind.columns)


# ==== 3. What is refused ====================================================


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            ["33", [math.nan]],
            "Move: angle is nan; an angle from -2 pi to 2 pi is allowed, and null",
        ),
        (
            ["33", [math.inf]],
            "Move: angle is inf; an angle from -2 pi to 2 pi is allowed, and null",
        ),
        (["2", [-6.3]], "Aim: angle is -6.3; an angle from -2 pi to 2 pi is allowed"),
        (["2", [10**15]], "Aim: angle is 1000000000000000; an angle from -2 pi to 2 pi is allowed"),
        (["2", [True]], "Aim: angle is True; an angle from -2 pi to 2 pi is allowed"),
        (["2", [None]], "Aim: angle is None; an angle from -2 pi to 2 pi is allowed"),
        (["2", ["1"]], "Aim: angle is '1'; an angle from -2 pi to 2 pi is allowed"),
        (["2", []], "Aim: has 0 values; 1 are wanted"),
        (["2", [1, 2]], "Aim: has 2 values; 1 are wanted"),
        (["c", [2, None]], "Attack: active is 2; 0 or 1 is allowed"),
        (["c", [True, None]], "Attack: active is True; 0 or 1 is allowed"),
        (["5", [256]], "SelectItem: id is 256; an integer from 0 to 255 is allowed"),
        (["5", [-1]], "SelectItem: id is -1; an integer from 0 to 255 is allowed"),
        (["5", [1.0]], "SelectItem: id is 1.0; an integer from 0 to 255 is allowed"),
        (["ch", ["x" * 61]], "Chat: text has 61 characters; 60 is the most"),
        (["ch", [b"x"]], "Chat: text is b'x'; a text of up to 60 characters is allowed"),
        (
            ["sp", [{"name": "x" * 17, "skin": 0}]],
            "Spawn: profile name has 17 characters; 16 is the most",
        ),
        (
            ["sp", [{"name": "x", "skin": 8}]],
            "Spawn: profile skin is 8; an integer from 0 to 7 is allowed",
        ),
        (
            ["sp", [{"name": "x"}]],
            "Spawn: profile has the keys ['name']; ['name', 'skin'] are wanted",
        ),
        (["sp", [["x", 0]]], "Spawn: profile is ['x', 0]; a map of (name, skin) is allowed"),
        (["sp", [{"name": "x", "skin": 0, b"z": 1}]], "Spawn: profile has the keys "),
        (["33", None], "Move: the arguments are None; a list is wanted"),
        (["33", {}], "Move: the arguments are {}; a list is wanted"),
        (["zz", []], "there is no packet 'zz' from client to server"),
        (["io-init", [1]], "there is no packet 'io-init' from client to server"),
        ([33, [1]], "there is no packet 33 from client to server"),
        ([["33"], [1]], "there is no packet ['33'] from client to server"),
        (["33"], "packet is ['33']; [code, [argument, ...]] is wanted"),
        (["33", [1], 2], "packet is ['33', [1], 2]; [code, [argument, ...]] is wanted"),
        ({"33": [1]}, "packet is {'33': [1]}; [code, [argument, ...]] is wanted"),
        (None, "packet is None; [code, [argument, ...]] is wanted"),
        (["2", [msgpack.ExtType(5, b"x")]], "msgpack extension 5; none is allowed"),
        (["2", [msgpack.Timestamp(1)]], "Aim: angle is Timestamp("),
    ],
    ids=str,
)
def test_a_value_that_is_no_packet_is_refused_with_value_and_limit(
    value: object, reason: str
) -> None:
    with pytest.raises(PacketError) as caught:
        decode_from_client(msgpack.packb(value))
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\xc1",  # never used
        b"\x92\xa2\x33",  # ends early
        encode(packets.Ping()) + b"\x00",  # one byte too many
        encode(packets.Ping()) * 2,
        b"\xdd\xff\xff\xff\xff",  # promises 4,294,967,295 items
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 1000,  # a thousand lists in one another
        b"\x81\xc0\xc0",  # a map with null as a key
        b"\x81\x90\xc0",  # and with a list
        b"\x92\xa2ch\x91\xa2\xff\xfe",  # no UTF-8
        b"\x92\xa2ch\x91\xa3\xed\xa0\x80",  # half of a surrogate pair
        b"\x92\xa12\x91\xd6\xff\x00\x00\x00\x01",  # a timestamp
        b"\x92\xa12\x91\xc7\x03\xff\x00\x00\x00",  # a timestamp of a wrong length
        b"\x92\xa12\x91\xc7\x0c\xff\xff\xff\xff\xff" + bytes(8),  # of too many nanoseconds
    ],
    ids=lambda wire: wire[:12].hex(" "),
)
def test_bytes_that_are_no_single_msgpack_value_are_refused(wire: bytes) -> None:
    with pytest.raises(PacketError):
        decode_from_client(wire)


def test_a_packet_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(PacketError, match=r"packet of 1025 bytes; 1024 is the most"):
        decode_from_client(b"\xc1" * 1025)


def test_rows_that_do_not_come_out_even_are_refused() -> None:
    with pytest.raises(PacketError, match=r"Minimap: rows has 4 values; rows of 3 are wanted"):
        decode_from_server(msgpack.packb(["mm", [[1, 2, 3, 4]]]))


def test_a_reason_stays_short_however_long_the_value_is() -> None:
    with pytest.raises(PacketError) as caught:
        decode_from_client(msgpack.packb(["5", ["\u202e" * 300]]))
    assert len(str(caught.value).encode()) <= 123


# ==== 4. Whatever comes =====================================================

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
CODES = st.sampled_from([kind.code for kind in FROM_CLIENT])


def refuse_or_read(wire: bytes) -> None:
    """Read a packet; only a PacketError may come of it. What was read can be sent again."""
    try:
        packet = decode_from_client(wire)
    except PacketError as error:
        assert str(error)
        return
    assert decode_from_client(encode(packet)) == packet


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(wire: bytes) -> None:
    refuse_or_read(wire)


@pytest.mark.slow
@given(VALUES | st.tuples(CODES, VALUES) | st.tuples(CODES, st.lists(VALUES, max_size=3)))
def test_random_values_are_read_or_refused(value: object) -> None:
    refuse_or_read(msgpack.packb(value))


@given(ANY_PACKET, st.data())
def test_a_packet_with_a_few_bytes_changed_is_read_or_refused(
    typed: tuple[PacketType, Packet], data: st.DataObject
) -> None:
    wire = bytearray(encode(typed[1]))
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    refuse_or_read(bytes(wire))


@given(ANY_PACKET, st.data())
def test_no_packet_is_another_one_cut_short(
    typed: tuple[PacketType, Packet], data: st.DataObject
) -> None:
    kind, packet = typed
    wire = encode(packet)
    with pytest.raises(PacketError):
        DECODE[kind.direction](wire[: data.draw(st.integers(0, len(wire) - 1))])


def test_a_float_of_four_bytes_is_an_angle_too() -> None:
    wire = b"\x92\xa12\x91\xca" + struct.pack(">f", 0.5)
    assert decode_from_client(wire) == packets.Aim(0.5)
