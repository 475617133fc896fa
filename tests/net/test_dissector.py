"""The Wireshark dissector, in a real tshark: every packet, every field, and any bytes at all."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
from scalesocket.net import sandbox_packets as moo
from scalesocket.net.deflate import DEFLATE
from scalesocket.net.pcapng import Recorder

from scalesocket import Opcode, encode_frame, encode_messages
from tests.capture import (
    LUA_FILE,
    Session,
    find_faults,
    from_client,
    open_session,
    read_fields,
    recording,
    run_tshark,
)

pytestmark = pytest.mark.slow  # tshark takes a second to start

SEED = 20261121
PROTOCOL = "moo.v1"


# ==== 1. The table of packets =============================================


def describe_kind(kind: moo.Kind) -> str:
    """Return what an argument may be, as the dissector's table says it."""
    if isinstance(kind, moo.OrNull):
        return describe_kind(kind.kind) + "?"
    if isinstance(kind, moo.Many):
        return describe_kind(kind.kind) + "*"
    if isinstance(kind, moo.Whole):
        return f"{kind.low}..{kind.high}"
    if isinstance(kind, moo.Text):
        return f"text{kind.most}"
    if isinstance(kind, moo.Table):
        return kind.row.__name__ + {"rows": "[]", "row": "()", "map": "{}"}[kind.shape]
    return {moo.Angle: "angle", moo.Flag: "flag"}[type(kind)]


def describe_columns(columns: Iterable[moo.Column]) -> str:
    return "".join(f" {column.name}:{describe_kind(column.kind)}" for column in columns)


def describe_protocol() -> list[str]:
    """Return the table that the dissector must have."""
    lines = []
    tables: dict[str, moo.Table] = {}
    for kind in moo.PACKETS:
        mark = ">" if kind.direction is moo.Direction.TO_SERVER else "<"
        lines.append(f"{mark} {kind.code} {kind.name}{describe_columns(kind.columns)}")
        for column in kind.columns:
            if isinstance(column.kind, moo.Table):
                tables.setdefault(column.kind.row.__name__, column.kind)
    rows = [f"= {name}{describe_columns(table.columns)}" for name, table in tables.items()]
    return lines + rows


def test_the_dissector_knows_exactly_the_packets_that_there_are() -> None:
    match = re.search(r"local PROTOCOL = \[\[\n(.*?)\n\]\]", LUA_FILE.read_text(), re.DOTALL)
    assert match is not None
    wanted = describe_protocol()
    assert match[1].split("\n") == wanted, "\n".join(wanted)


# ==== 2. Packets ==========================================================


def make_value(kind: moo.Kind, chance: random.Random) -> Any:
    """Return a value that a kind allows, as it stands on the wire."""
    if isinstance(kind, moo.OrNull):
        return chance.choice([None, make_value(kind.kind, chance)])
    if isinstance(kind, moo.Many):
        return [make_value(kind.kind, chance) for _ in range(chance.choice([0, 1, 20]))]
    if isinstance(kind, moo.Whole):
        return chance.choice([kind.low, kind.high, chance.randint(kind.low, kind.high)])
    if isinstance(kind, moo.Text):
        return "".join(chance.choice('aé漢🎈 %"{}') for _ in range(chance.randint(0, kind.most)))
    if isinstance(kind, moo.Flag):
        return chance.randint(0, 1)
    if isinstance(kind, moo.Table):
        return make_rows(kind, chance)
    assert isinstance(kind, moo.Angle)
    return chance.choice([0, 3, -3, 1.5, -6.25])


def make_rows(table: moo.Table, chance: random.Random) -> Any:
    rows = [
        [make_value(column.kind, chance) for column in table.columns]
        for _ in range(chance.choice([0, 1, 2, 30]) if table.shape == "rows" else 1)
    ]
    if table.shape == "map":
        return dict(zip([column.name for column in table.columns], rows[0], strict=True))
    return [value for row in rows for value in row]


def make_message(kind: moo.PacketType, chance: random.Random) -> bytes:
    message: bytes = msgpack.packb(
        [kind.code, [make_value(column.kind, chance) for column in kind.columns]],
        use_single_float=chance.random() < 0.5,
    )
    return message


def pass_on(session: Session, direction: moo.Direction, message: bytes) -> None:
    if direction is moo.Direction.TO_SERVER:
        session.receive(from_client(Opcode.BINARY, message))
    else:
        session.send(encode_frame(Opcode.BINARY, message))


def record_game(path: Path, messages: list[tuple[moo.Direction, bytes]]) -> Path:
    """Record a session that speaks the sandbox's protocol."""
    with recording(path) as recorder:
        session = open_session(recorder)
        session.upgrade(protocol=PROTOCOL)
        for direction, message in messages:
            pass_on(session, direction, message)
        session.close()
    return path


def test_every_packet_is_named_and_none_is_found_to_be_malformed(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    kinds = [kind for kind in moo.PACKETS for _ in range(6)]
    path = record_game(
        tmp_path / "play.pcapng", [(kind.direction, make_message(kind, chance)) for kind in kinds]
    )
    assert find_faults(path, lua=True) == []
    found = read_fields(path, "moo.code", "moo.name", wanted="moo", lua=True)
    assert found == [f"{kind.code}|{kind.name}" for kind in kinds]


def test_every_column_is_a_field_to_filter_by(tmp_path: Path) -> None:
    player = moo.PlayerRow(3, 10, 20, 1.5, None, 7, 0, "red", 1, 1, 2, 4, 5)
    path = record_game(
        tmp_path / "play.pcapng",
        [
            (moo.TO_SERVER, moo.encode(moo.Spawn(moo.Profile("Ann", 2)))),
            (moo.TO_SERVER, moo.encode(moo.Move(1.5))),
            (moo.TO_CLIENT, moo.encode(moo.Players((player, player._replace(sid=70_000))))),
            (moo.TO_CLIENT, moo.encode(moo.Said(9, "grüß dich"))),
            (moo.TO_CLIENT, moo.encode(moo.Items((1, 2, 255), True))),
        ],
    )
    columns = ("sid", "x", "y", "dir", "weapon", "team", "leader", "skin", "tail", "icon", "z")
    fields = [f"moo.player.{column}" for column in columns]
    found = read_fields(path, *fields, wanted="moo.player.sid == 70000", lua=True)
    assert found == ["3;70000|10;10|20;20|1.5;1.5|7;7|red;red|1;1|1;1|2;2|4;4|5;5"]
    fields = ["moo.profile.name", "moo.profile.skin", "moo.move.angle", "moo.said.text"]
    fields += ["moo.items.ids", "moo.sid"]
    assert read_fields(path, *fields, lua=True) == [
        "Ann|2||||",
        "||1.5|||",
        "|||||3;70000",
        "|||grüß dich||9",
        "||||1;2;255|",
    ]


def test_the_info_column_reads_like_a_script(tmp_path: Path) -> None:
    ann = moo.PlayerInfo(7, 3, "Ann", 10, 20, 0.5, 100, 100, 35, 2)
    messages = [
        (moo.TO_CLIENT, moo.encode(moo.Hello(7))),
        (moo.TO_SERVER, moo.encode(moo.Spawn(moo.Profile("Ann", 2)))),
        (moo.TO_CLIENT, moo.encode(moo.PlayerAdd(ann, True))),
        (moo.TO_SERVER, moo.encode(moo.Move(1.571))),
        (moo.TO_SERVER, moo.encode(moo.Move(None))),
        (moo.TO_CLIENT, moo.encode(moo.Health(3, 80))),
        (moo.TO_SERVER, moo.encode(moo.Chat("hi\n{text}"))),
        (moo.TO_CLIENT, moo.encode(moo.Minimap(tuple(moo.MapRow(n, n, n) for n in range(9))))),
        (moo.TO_CLIENT, moo.encode(moo.Death())),
    ]
    path = record_game(tmp_path / "play.pcapng", messages)
    found = read_fields(path, "_ws.col.Info", wanted="moo", lua=True)
    assert [line.rstrip() for line in found] == [
        "< Hello client 7",
        '> Spawn as "Ann"',
        '< PlayerAdd #3 "Ann" (10,20)',
        "> Move 1.57",
        "> Move null",
        "< Health #3 80",
        '> Chat "hi.{text}"',
        "< Minimap #0 (0,0), #1 (1,1), #2 (2,2), #3 (3,3), #4 (4,4), #5 (5,5) and 3 more",
        "< Death",
    ]


def test_messages_in_one_segment_are_all_told(tmp_path: Path) -> None:
    messages = [moo.encode(moo.Hello(7)), moo.encode(moo.Spawned(3)), moo.encode(moo.Pong())]
    with recording(tmp_path / "play.pcapng") as recorder:
        session = open_session(recorder)
        session.upgrade(protocol=PROTOCOL)
        session.send(encode_messages(Opcode.BINARY, messages))
    found = read_fields(tmp_path / "play.pcapng", "_ws.col.Info", wanted="moo", lua=True)
    assert found == ["< Hello client 7  < Spawned as #3  < Pong  "]


FLAWED = [
    (moo.TO_CLIENT, b"\xc1", "not one msgpack value: byte 0xc1 begins no value"),
    (moo.TO_CLIENT, b"\x92\xa1h", "not one msgpack value: it breaks off"),
    (moo.TO_CLIENT, msgpack.packb(["pp", []]) + b"\0", "not one msgpack value: 1 bytes follow it"),
    (moo.TO_CLIENT, b"\x91" * 100, "not one msgpack value: it is nested too deeply"),
    (moo.TO_CLIENT, b"\xdd\xff\xff\xff\xff", "not one msgpack value: it breaks off"),
    (moo.TO_CLIENT, msgpack.packb(7), "it is 7; [code, [argument, ...]] is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h"]), "it is array of 1; [code, [argument, ...]] is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["rmd", []]), 'there is no packet "rmd" in this direction'),
    (moo.TO_CLIENT, msgpack.packb(["h", [1]]), "Health has 1 values; 2 are wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h", [1, 2, 3]]), "Health has 3 values; 2 are wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h", ["x", 1]]), "sid: 0 to 4294967295 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h", [2**32, 1]]), "sid: 0 to 4294967295 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h", [1, 2**63]]), "value: 0 to 4294967295 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h", [1, -(2**63)]]), "value: 0 to 4294967295 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h", [1, 1.5]]), "value: 0 to 4294967295 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["h", [1, None]]), "value: 0 to 4294967295 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["7", [1, 2, 0]]), "hit: 0 to 1 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["mm", [[1, 2]]]), "2 values; rows of 3 are wanted"),
    (moo.TO_CLIENT, msgpack.packb(["mm", [{}]]), "rows is map of 0; a array of MapRow is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["17", [7, 1]]), "ids is 7; a list is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["17", [[300], 1]]), "ids: 0 to 255 is wanted"),
    (moo.TO_CLIENT, msgpack.packb(["2", [[1], 1]]), "PlayerInfo has 1 values; 10 are wanted"),
    (moo.TO_CLIENT, msgpack.packb(["2", [[], 1]]), "PlayerInfo has 0 values; 10 are wanted"),
    (moo.TO_SERVER, msgpack.packb(["33", [7]]), "angle: an angle from -2 pi to 2 pi is wanted"),
    (
        moo.TO_SERVER,
        msgpack.packb(["33", [float("nan")]]),
        "angle: an angle from -2 pi to 2 pi is wanted",
    ),
    (moo.TO_SERVER, msgpack.packb(["ch", [b"x"]]), "text: a text of up to 60 characters is wanted"),
    (
        moo.TO_SERVER,
        msgpack.packb(["ch", ["é" * 61]]),
        "text: a text of up to 60 characters is wanted",
    ),
    (
        moo.TO_SERVER,
        msgpack.packb(["sp", [{"name": "Ann"}]]),
        "profile is map of 1; a map of Profile is wanted",
    ),
    (
        moo.TO_SERVER,
        msgpack.packb(["sp", [{"name": "Ann", 1: 1}]]),
        "profile is map of 2; a map of Profile is wanted",
    ),
    (
        moo.TO_SERVER,
        msgpack.packb(["sp", [{float("nan"): 1}]]),
        "profile is map of 1; a map of Profile is wanted",
    ),
]


def test_each_malformed_packet_is_flagged_with_what_is_wrong(tmp_path: Path) -> None:
    messages = [(direction, message) for direction, message, _ in FLAWED]
    path = record_game(tmp_path / "play.pcapng", messages)
    found = read_fields(path, "_ws.expert.message", wanted="moo", lua=True)
    assert found == [reason for _, _, reason in FLAWED]


def test_a_text_of_exactly_as_many_characters_as_it_may_have_is_fine(tmp_path: Path) -> None:
    message = moo.encode(moo.Chat("é" * 60))
    assert (
        find_faults(record_game(tmp_path / "a.pcapng", [(moo.TO_SERVER, message)]), lua=True) == []
    )


def test_every_format_of_msgpack_is_read(tmp_path: Path) -> None:
    """Numbers in every width, and values that no packet has."""
    heads = [b"\x07", b"\xcc\x07", b"\xcd\0\x07", b"\xce\0\0\0\x07", b"\xcf" + bytes(7) + b"\x07"]
    heads += [b"\xd0\x07", b"\xd1\0\x07", b"\xd2\0\0\0\x07", b"\xd3" + bytes(7) + b"\x07"]
    heads += [b"\xca" + struct.pack("!f", 7.0), b"\xcb" + struct.pack("!d", 7.0)]
    messages = [(moo.TO_CLIENT, b"\x92\xa1h\x92\x01" + head) for head in heads]
    for text in (b"\xd9\x02hi", b"\xda\0\x02hi", b"\xdb\0\0\0\x02hi", b"\xa2hi"):
        messages.append((moo.TO_SERVER, b"\x92\xa2ch\xdc\0\x01" + text))
        messages.append((moo.TO_SERVER, b"\xdc\0\x02\xd9\x02ch\xdd\0\0\0\x01" + text))
    for profile in (b"\x82", b"\xde\0\x02", b"\xdf\0\0\0\x02"):
        body = profile + b"\xa4skin\x02\xa4name\xa3Ann"
        messages.append((moo.TO_SERVER, b"\x92\xa2sp\x91" + body))
    path = record_game(tmp_path / "play.pcapng", messages)
    assert find_faults(path, lua=True) == []
    fields = ("moo.health.value", "moo.chat.text", "moo.profile.name", "moo.profile.skin")
    wanted = ["7|||"] * len(heads) + ["|hi||"] * 8 + ["||Ann|2"] * 3
    assert read_fields(path, *fields, wanted="moo", lua=True) == wanted


def test_what_is_no_number_is_shown_for_what_it_is(tmp_path: Path) -> None:
    values = [b"\xe0", b"\xd0\x80", b"\xc2", b"\xc3", b"\xc0", b"\xc4\x03abc", b"\xc5\0\x01a"]
    values += [b"\xc6\0\0\0\0", b"\xd4\x01a", b"\xd8\x01" + bytes(16), b"\xc7\x02\x01ab"]
    values += [b"\xc8\0\x01\x01a", b"\xc9\0\0\0\0\x01", b"\x81\x01\x02", b"\x90", b"\xd9\0"]
    messages = [(moo.TO_CLIENT, b"\x92\xa1h\x92\x01" + value) for value in values]
    path = record_game(tmp_path / "play.pcapng", messages)
    found = read_fields(path, "_ws.col.Info", wanted="moo", lua=True)
    shown = "-32 -128 false true null,3 bytes,1 bytes,0 bytes".replace(" ", ",", 4).split(",")
    shown += ["extension"] * 5 + ["map of 1", "array of 0", '""']
    assert [line.rstrip() for line in found] == [f"< Health #1 {text}" for text in shown]
    assert len(read_fields(path, "moo.malformed", wanted="moo.malformed", lua=True)) == len(values)


# ==== 3. Framing ==========================================================


def record_texts(
    path: Path, sent: list[bytes], received: Sequence[bytes] = (), port: int = 8123
) -> Path:
    with recording(path) as recorder:
        session = open_session(recorder, server=("192.0.2.2", port))
        session.upgrade()
        for text in sent:
            session.send(encode_frame(Opcode.TEXT, text))
        for text in received:
            session.receive(from_client(Opcode.TEXT, text))
    return path


ROUTING = ("type", "from", "to", "except", "id", "meta", "cache", "close")


def test_routing_fields_of_json_are_fields_to_filter_by(tmp_path: Path) -> None:
    path = record_texts(
        tmp_path / "play.pcapng",
        [
            b'{"t":"Join","_from":4}',
            b' { "t" : "Say" , "_to" : [ 1, 22 ,333 ] , "_except":5,"x":{"_to":9,"a":["}"]}}\r\n',
            b'{"_meta":true,"n":2}',
            b'{"_cache":true,"_to":null,"t":7}',
            b'{"_to":3,"_close":{"code":4000}}',
            b'{"t":"x","id":12}',
            b'{"_to":["7", 8.0],"_except":"9"}',
        ],
        [b'{"t":"M\\u00f6\\"ve","_to":4294967295}'],
    )
    assert find_faults(path, lua=True) == []
    fields = [f"scalesocket.{name}" for name in ROUTING]
    assert read_fields(path, *fields, wanted="scalesocket", lua=True) == [
        "Join|4||||||",
        "Say||1;22;333|5||||",
        "|||||true||",
        "7||||||true|",
        '||3|||||{"code":4000}',
        "x||||12|||",
        "||7;8|9||||",
        'M\\u00f6\\"ve||4294967295|||||',
    ]
    assert read_fields(path, "_ws.col.Info", wanted="scalesocket.to == 22", lua=True) == [
        "< JSON type=Say to=[ 1, 22 ,333 ] except=5  "
    ]


def test_a_filter_points_at_the_bytes_of_a_routing_field(tmp_path: Path) -> None:
    path = record_texts(tmp_path / "play.pcapng", [b'{"t":"a","_to":[17, 4]}'])
    lines = "\n".join(run_tshark(path, "-T", "pdml", lua=True))
    values = re.findall(r'name="scalesocket\.(\w+)" .*? value="(\w+)"', lines)
    assert [(name, bytes.fromhex(value)) for name, value in values if name != "framing"] == [
        ("type", b'"a"'),
        ("to", b"17"),
        ("to", b"4"),
    ]


def test_routing_that_is_no_id_is_flagged(tmp_path: Path) -> None:
    flawed = [
        b'{"_to":"x"}',
        b'{"_to":-1}',
        b'{"_from":{"a":1}}',
        b'{"_except":[1,"b"]}',
        b'{"_to":1.5}',
    ]
    path = record_texts(tmp_path / "play.pcapng", flawed)
    found = read_fields(path, "_ws.expert.message", wanted="scalesocket", lua=True)
    names = ("to", "to", "from", "except", "to")
    assert found == [f"{name} is no client's ID, nor a list of IDs" for name in names]


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    others = [
        b"plain",
        b"{}",
        b'{"x":1}',
        b"[1]",
        b'{"t":',
        b'{"t":1} {',
        b'{"id":1}',
        b"7",
        b'"t"',
    ]
    path = record_texts(tmp_path / "play.pcapng", others)
    assert read_fields(path, "frame.number", wanted="scalesocket or moo", lua=True) == []
    assert len(read_fields(path, "websocket.payload.text", lua=True)) == len(others)


def test_on_the_port_of_the_preference_everything_is_ours(tmp_path: Path) -> None:
    path = record_texts(tmp_path / "play.pcapng", [b"plain", b'{"x":1}'], [b"ABC"], port=9000)
    found = read_fields(path, "scalesocket.payload", "_ws.col.Info", wanted="scalesocket", lua=True)
    assert found == ["plain|< plain  ", '{"x":1}|< {"x":1}  ', "ABC|> ABC  "]
    other = ("-o", "scalesocket.port:9001", "-Y", "scalesocket")
    assert run_tshark(path, *other, lua=True) == []


def test_nothing_in_the_info_column_can_play_tricks_on_a_terminal(tmp_path: Path) -> None:
    """Some terminals take U+009B for an escape sequence; U+202E turns what follows around."""
    controls = [*range(1, 32), *range(127, 160), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F)]
    controls += range(0x2066, 0x206A)
    texts = [f"a{chr(code)}b".encode() for code in controls] + ["\u00a0\u2027\u2030é".encode()]
    path = record_texts(tmp_path / "play.pcapng", texts, port=9000)
    found = read_fields(path, "_ws.col.Info", wanted="scalesocket", lua=True)
    assert found == ["< a.b  "] * len(controls) + ["< \u00a0\u2027\u2030é  "]


def test_the_header_of_gwsocket_is_read(tmp_path: Path) -> None:
    header = struct.Struct("!III")
    path = tmp_path / "play.pcapng"
    with recording(path) as recorder:
        session = open_session(recorder, server=("192.0.2.2", 8123))
        session.upgrade()
        for client, kind, payload in ((0, 1, b"to all"), (7, 2, b"\0\1")):
            message = header.pack(client, kind, len(payload)) + payload
            session.send(encode_frame(Opcode.BINARY, message))
            session.receive(from_client(Opcode.BINARY, message))
        for wrong in (header.pack(7, 3, 0), header.pack(7, 1, 1), header.pack(7, 1, 0)[:-1]):
            session.send(encode_frame(Opcode.BINARY, wrong))
    fields = [
        f"scalesocket.{name}" for name in ("framing", "from", "to", "type", "length", "payload")
    ]
    assert read_fields(path, *fields, wanted="scalesocket", lua=True) == [
        "gwsocket||0|text|6|to all",
        "gwsocket|0||text|6|to all",
        "gwsocket||7|binary|2|",
        "gwsocket|7||binary|2|",
    ]
    infos = read_fields(path, "_ws.col.Info", wanted="scalesocket.to", lua=True)
    assert infos == ["< gwsocket text of 6, everyone  ", "< gwsocket binary of 2, client 7  "]


def test_the_sandbox_is_recognized_without_its_subprotocol(tmp_path: Path) -> None:
    path = tmp_path / "play.pcapng"
    with recording(path) as recorder:
        session = open_session(recorder, server=("192.0.2.2", 8123))
        session.upgrade()
        session.receive(from_client(Opcode.BINARY, moo.encode(moo.Move(1.5))))
        session.send(encode_frame(Opcode.BINARY, moo.encode(moo.Health(1, 2))))
    assert read_fields(path, "moo.name", lua=True) == ["Move", "Health"]


def test_fragments_and_compressed_messages_are_read_when_they_are_whole(tmp_path: Path) -> None:
    said = moo.encode(moo.Said(3, "so " * 40))
    path = tmp_path / "play.pcapng"
    with recording(path) as recorder:
        session = open_session(recorder)
        both = "server_no_context_takeover; client_no_context_takeover"
        session.upgrade(protocol=PROTOCOL, extensions=f"permessage-deflate; {both}")
        move = moo.encode(moo.Move(1.5))
        session.receive(from_client(Opcode.BINARY, move[:4], fin=False))
        session.receive(from_client(Opcode.PING, b""))
        session.receive(from_client(Opcode.CONTINUATION, move[4:]))
        frame = DEFLATE[15].encode_message(said)
        assert frame[0] == 0xC2
        session.send(frame)
    assert read_fields(path, "moo.name", lua=True) == ["Move", "Said"]
    assert find_faults(path, lua=True) == []


# ==== 4. Any bytes at all =================================================


def spoil(message: bytes, chance: random.Random) -> bytes:
    """Return a message with something wrong about it, most likely."""
    data = bytearray(message)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        way = chance.randrange(4)
        if way == 0:
            data[at:] = b""
        elif way == 1:
            data[at:at] = bytes([chance.randrange(256)])
        elif way == 2 and at < len(data):
            data[at] = chance.randrange(256)
        else:
            data[at : at + 1] = chance.randbytes(3)
    return bytes(data)


def record_rubbish(recorder: Recorder, session: Session, chance: random.Random) -> None:
    samples = [make_message(kind, chance)[:300] for kind in moo.PACKETS]
    samples += [b'{"t":"a","_to":[1,2],"_close":{"code":1}}', struct.pack("!III", 1, 2, 2) + b"hi"]
    for _ in range(700):
        message = spoil(chance.choice(samples), chance)
        if chance.random() < 0.2:
            message = chance.randbytes(chance.randrange(40))
        opcode = chance.choice([Opcode.TEXT, Opcode.BINARY])
        if chance.random() < 0.5:
            session.receive(from_client(opcode, message))
        else:
            session.send(encode_frame(opcode, message))


@pytest.mark.parametrize(("protocol", "port"), [(PROTOCOL, 9000), ("", 9000), ("", 8123)])
def test_no_bytes_make_the_dissector_fail(tmp_path: Path, protocol: str, port: int) -> None:
    path = tmp_path / "play.pcapng"
    chance = random.Random(SEED + port + len(protocol))
    with recording(path) as recorder:
        session = open_session(recorder, server=("192.0.2.2", port))
        session.upgrade(protocol=protocol)
        record_rubbish(recorder, session, chance)
    lines = run_tshark(path, "-V", lua=True)
    assert len(lines) > 5000
    assert [line for line in lines if "Lua Error" in line or "exception" in line] == []
