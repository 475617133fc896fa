"""What crosses the pipe: lines, JSON with sender and receiver, gwsocket's headers."""

from __future__ import annotations

import functools
import json
import re
import struct
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scalesocket.net.binary import BinaryFraming
from scalesocket.net.delimiters import set_delimiters
from scalesocket.net.gwsocket import GwsocketFraming
from scalesocket.net.json_fields import IdFraming
from scalesocket.net.threads import small_stack

import scalesocket
from scalesocket import (
    BackendError,
    Framing,
    Headers,
    JsonFraming,
    Kick,
    Messages,
    Metadata,
    Opcode,
    Request,
    Route,
    expand_template,
)


@dataclass
class Reports:
    """Collects what a framing had to drop."""

    found: list[tuple[int | None, str]] = field(default_factory=list)

    def __call__(self, client: int | None, text: str) -> None:
        self.found.append((client, text))


@pytest.fixture
def reports() -> Reports:
    return Reports()


def texts(*payloads: bytes) -> Messages:
    return Messages(Opcode.TEXT, list(payloads), sum(map(len, payloads)))


def lines_framing(delimiters: bytes = b"\n", report: Reports | None = None) -> Framing:
    framing = Framing(report=report or Reports())
    if delimiters != b"\n":
        set_delimiters(framing, delimiters)
    return framing


def json_framing(
    id_field: str = "", report: Reports | None = None, *, strip: bool = False
) -> JsonFraming:
    kind = functools.partial(IdFraming, id_field=id_field) if id_field else JsonFraming
    return kind(report=report or Reports(), strip=strip)


def broadcasts(outputs: list[Any]) -> list[bytes]:
    """Return the payloads of outputs that must all go to everyone."""
    found = []
    for output in outputs:
        assert isinstance(output, Route)
        assert (output.to, output.exclude) == (None, ())
        found += output.payloads
    return found


def feed_bytewise(framing: Framing, data: bytes) -> list[Any]:
    return [output for byte in data for output in framing.feed(bytes((byte,)))]


# ==== Lines ===============================================================


def test_each_message_is_a_line_for_the_child() -> None:
    framing = lines_framing()
    assert framing.encode(7, texts(b"a", b"", b"b c")) == b"a\n\nb c\n"
    assert framing.encode(7, Messages(Opcode.BINARY, [b"\xff"], 1)) == b"\xff\n"
    assert framing.announce(7, "joined é") == "joined é\n".encode()


@pytest.mark.parametrize(
    ("payloads", "lines"),
    [
        ([b"hello\n"], b"hello\n"),
        ([b"hello\r\n"], b"hello\n"),
        ([b"\n"], b"\n"),
        ([b""], b"\n"),
        ([b"a\n\n"], b"a\n\n"),
        ([b"a\nb\nc"], b"a\nb\nc\n"),
        ([b"a\n\nb"], b"a\n\nb\n"),
        ([b"a\n", b"", b"b\r", b"c\n"], b"a\n\nb\r\nc\n"),
    ],
)
def test_one_line_break_at_the_end_of_a_message_is_the_end_of_its_line(
    payloads: list[bytes], lines: bytes
) -> None:
    r"""Who sent `hello\n`, as people type it, gave the program an empty line, too (case 19)."""
    assert lines_framing().encode(7, texts(*payloads)) == lines


@pytest.mark.parametrize("broken", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\u2028", "\x85"])
def test_beside_join_messages_a_client_writes_one_line(broken: str) -> None:
    """`hello\\nLEAVE 7` reached the program as two lines, the second like its own (case 41)."""
    framing = Framing(report=Reports(), one_line=True)
    message = f"hello{broken}LEAVE 7{broken}{broken}".encode()
    line = framing.encode(3, texts(message)).decode()
    assert line.endswith("\n") and len(line.splitlines()) == 1
    assert line.split() == ["hello", "LEAVE", "7"]
    assert framing.encode(3, texts(b"hi\n", b"", b"there")) == b"hi\n\nthere\n"
    assert (
        framing.announce(3, "JOIN 3\nof the operator's own") == b"JOIN 3\nof the operator's own\n"
    )


def test_each_line_of_the_child_is_a_text_for_everyone() -> None:
    framing = lines_framing()
    (output,) = framing.feed(b"one\ntwo\n\nthree")
    assert output == Route(Opcode.TEXT, [b"one", b"two", b""])
    assert broadcasts(framing.feed(b"!\n")) == [b"three!"]


@pytest.mark.parametrize("text", [b"", b" ", b"\t", b"  a  ", b"<script>", b"; rm -rf /"])
def test_a_line_stays_as_it_is(text: bytes) -> None:
    assert broadcasts(lines_framing().feed(text + b"\n")) == [text]


def test_the_last_line_needs_no_newline() -> None:
    framing = lines_framing()
    assert framing.feed(b"the e") == []
    assert framing.feed(b"nd") == []
    assert broadcasts(framing.finish()) == [b"the end"]
    assert lines_framing().finish() == []


@pytest.mark.parametrize("delimiters", [b"\n", b"\n;", b";\n"])
def test_a_carriage_return_before_the_newline_is_stripped(delimiters: bytes) -> None:
    data = b"a\r\nb\rc\r\n\r\nd\n"
    expected = [b"a", b"b\rc", b"", b"d"]
    assert broadcasts(lines_framing(delimiters).feed(data)) == expected
    assert broadcasts(feed_bytewise(lines_framing(delimiters), data)) == expected


def test_a_carriage_return_that_is_a_delimiter_itself_ends_an_item() -> None:
    assert broadcasts(lines_framing(b"\n\r").feed(b"a\rb\r\r\n\n")) == [b"a", b"b", b"", b""]


@pytest.mark.parametrize("delimiters", [b"\r\n", b"\n\r;"])
def test_both_line_ends_together_end_one_item(delimiters: bytes) -> None:
    r"""`--delimiters $'\r\n'`, for progress bars, gave an empty message for each CRLF (case 19)."""
    data = b"10%\r20%\rdone\r\n\r\n\nnext\n\rlast\r\n"
    expected = [b"10%", b"20%", b"done", b"", b"", b"next", b"", b"last"]
    assert broadcasts(lines_framing(delimiters).feed(data)) == expected
    assert broadcasts(feed_bytewise(lines_framing(delimiters), data)) == expected


def test_any_of_several_delimiters_ends_an_item() -> None:
    data = b"a;b\nc\0d;;e"
    expected = [b"a", b"b", b"c", b"d", b""]
    assert broadcasts(lines_framing(b";\n\0").feed(data)) == expected
    assert broadcasts(feed_bytewise(lines_framing(b";\n\0"), data)) == expected


def test_with_null_alone_an_item_may_have_several_lines() -> None:
    assert broadcasts(lines_framing(b"\0").feed(b"a\r\nb\n\0c\0")) == [b"a\r\nb\n", b"c"]


@settings(max_examples=60)
@given(st.lists(st.text(st.sampled_from("aé🦊\r;"), max_size=5), max_size=6), st.integers(1, 9))
def test_lines_are_the_same_however_reads_cut_them(items: list[str], step: int) -> None:
    data = b"".join(item.encode() + b"\n" for item in items) + b"rest"
    framing = lines_framing()
    found = []
    for at in range(0, len(data), step):
        found += broadcasts(framing.feed(data[at : at + step]))
    found += broadcasts(framing.finish())
    assert found == [item.encode().removesuffix(b"\r") for item in items] + [b"rest"]


def test_output_that_is_not_utf8_is_repaired_and_reported(reports: Reports) -> None:
    framing = lines_framing(report=reports)
    found = broadcasts(framing.feed(b"good\nb\xffd\n" + "é\n".encode()))
    assert found == [b"good", "b\ufffdd".encode(), "é".encode()]
    assert len(reports.found) == 1
    assert reports.found[0][0] is None


def test_a_line_that_does_not_end_fails_at_the_limit() -> None:
    framing = lines_framing()
    chunk = b"x" * (1 << 20)
    for _ in range(scalesocket.MAX_OUTPUT_ITEM // len(chunk)):
        assert framing.feed(chunk) == []
    assert framing.error is None
    assert framing.feed(b"x") == []
    assert isinstance(framing.error, BackendError)
    assert str(scalesocket.MAX_OUTPUT_ITEM) in str(framing.error)


def test_many_lines_together_may_be_longer_than_the_limit() -> None:
    framing = lines_framing()
    half = scalesocket.MAX_OUTPUT_ITEM // 2 + 1
    for _ in range(4):
        assert framing.feed(b"x" * half) == []
        (line,) = broadcasts(framing.feed(b"\n"))
        assert len(line) == half


def test_binary_passes_bytes_both_ways() -> None:
    framing = BinaryFraming(report=Reports())
    assert framing.encode(1, Messages(Opcode.BINARY, [b"\0\n", b"\xff"], 3)) == b"\0\n\xff"
    assert framing.encode(1, texts(b"a", b"b")) == b"ab"
    assert framing.feed(b"\0\n\xff") == [Route(Opcode.BINARY, [b"\0\n\xff"])]
    assert framing.finish() == []


# ==== JSON: what the child reads ==========================================

GENERATIONS = {"": "_from", "id": "id"}
Generation = pytest.mark.parametrize("id_field", GENERATIONS)


def tag(payload: bytes | str, sender: int = 7, id_field: str = "", *, strip: bool = False) -> bytes:
    """Return the child's line for a message that must not be dropped."""
    reports = Reports()
    data = payload.encode() if isinstance(payload, str) else payload
    line = json_framing(id_field, reports, strip=strip).encode(sender, texts(data))
    assert not reports.found
    return line


@Generation
def test_the_sender_is_put_in_front_and_nothing_else_changes(id_field: str) -> None:
    name = GENERATIONS[id_field]
    message = '{"b": 1.50, "a":[1e400,-0, 10000000000000000000000.0] ,"u":"\\u00e9é\\/"}'
    expected = f'{{"{name}":7,{message[1:]}\n'
    assert tag(message, id_field=id_field) == expected.encode()


@Generation
@pytest.mark.parametrize("empty", ["{}", "{ }", " {\n} ", "\t{\r\n}\n"])
def test_an_empty_object_has_only_a_sender(empty: str, id_field: str) -> None:
    line = tag(empty, id_field=id_field)
    assert json.loads(line) == {GENERATIONS[id_field]: 7}
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


FORGED = {
    "": [
        '{"_from":1}',
        '{ "_from" : 1 }',
        '{"_from":{"_from":[1,{"}":"{"}]}}',
        '{"_fro\\u006d":1}',
        '{"\\u005f\\u0066\\u0072\\u006f\\u006d":1}',
        '{"_from":1,"_from":2,"\\u005ffrom":3}',
        '{"_from":null,"_from":"x\\"y,_from"}',
    ],
    "id": ['{"id":1}', '{"\\u0069d":1}', '{"id":1,"i\\u0064":[2],"id":"3"}'],
}


@pytest.mark.parametrize(
    ("id_field", "forged"), [(id_field, text) for id_field in FORGED for text in FORGED[id_field]]
)
@pytest.mark.parametrize("place", ["alone", "first", "last", "between"])
def test_a_forged_sender_is_removed(id_field: str, forged: str, place: str) -> None:
    inner = forged.strip()[1:-1]
    text = {
        "alone": forged,
        "first": f'{{{inner},"x":"_from"}}',
        "last": f'{{"x":"_from",{inner}}}',
        "between": f'{{"x":"_from",{inner},"y":{{"_from":1,"id":2}}}}',
    }[place]
    line = tag(text, id_field=id_field)
    pairs = json.loads(line, object_pairs_hook=list)
    name = GENERATIONS[id_field]
    assert [pair for pair in pairs if pair[0] == name] == [[name, 7]] or [
        tuple(pair) for pair in pairs if pair[0] == name
    ] == [(name, 7)]
    value = json.loads(line)
    if place != "alone":
        assert value["x"] == "_from"
    if place == "between":
        assert value["y"] == {"_from": 1, "id": 2}


def test_a_forged_sender_is_removed_and_the_rest_keeps_its_bytes() -> None:
    line = tag('{"a": 1.0,  "_from": 2 , "b" :[1,  2]}')
    assert line.startswith(b'{"_from":7,')
    assert b'"a": 1.0' in line
    assert b'"b" :[1,  2]' in line


def test_the_field_of_the_other_generation_is_an_ordinary_key() -> None:
    assert tag('{"id":3,"_to":4}') == b'{"_from":7,"id":3,"_to":4}\n'
    assert tag('{"_from":3}', id_field="id") == b'{"id":7,"_from":3}\n'


# What some parser takes for `_from`, and for `id`: ignoring case (of ASCII, or of Unicode, as Go
# and Java do), trimming, leaving out what cannot be seen, normalizing, ending at a null character.
SPELLINGS = {
    "": [
        *(
            "_From",
            "_FROM",
            "_FrOm",
            " _from",
            "_from ",
            "\t_from\r\n",
            "\xa0_from\u3000",
            "_from\0",
        ),
        *(
            "_from\0x",
            "\0_from",
            "\ufeff_from",
            "_\u200bfrom",
            "_from\u200d",
            "_fr\xadom",
            "_from\ufe0f",
        ),
        *(
            "＿ｆｒｏｍ",
            "_ＦＲＯＭ",
            "\ufe33from",
            "_𝐟𝐫𝐨𝐦",
            "_from\ud800",
            "\udfff_From",
            "_fro\u2098",
        ),
        *(
            "\u2028_from",
            "\x85_from",
            "\x1f_from\x7f",
            "_from\u034f",
            "\u2066_from\u2069",
        ),
    ],
    "id": [
        "ID",
        "Id",
        "iD",
        "ıd",
        "İd",
        " id",
        "id\0",
        "ｉｄ",
        "i\u200dd",
        "\ufeffid",
        "ⅰd",
        "𝒾𝒹",
        "id\ud83d",
    ],
    "link": ["LINK", "lin\u212a", "Lin\u212a ", "ℓink"],
    "sides": ["\u017fides", "SIDE\u017f", "ſide\u017f"],
    "offer": ["oﬀer", "OﬀER"],
}
ORDINARY = [
    "from",
    "_fro",
    "_fromm",
    "__from",
    "from_",
    "_to",
    "video",
    "idx",
    "i_d",
    "_\u0444rom",
    "x_from",
]


@pytest.mark.parametrize(
    ("id_field", "key"), [(id_field, key) for id_field, keys in SPELLINGS.items() for key in keys]
)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_another_spelling_of_the_sender_is_removed_like_the_field_itself(
    id_field: str, key: str, ensure_ascii: bool
) -> None:
    """`{"t":"Leave","_From":1}` of client 2 was a leave of 1 for a program in Go (case 1)."""
    alone = any(0xD800 <= ord(c) < 0xE000 for c in key)  # half a pair has no other form
    name = json.dumps(key, ensure_ascii=ensure_ascii or alone)
    field = id_field or "_from"
    line = tag(f'{{"t":"Leave",{name}:1, "x" : {{{name}:2,{name}:3}} }}', 2, id_field)
    pairs = decode_pairs(line)
    assert [pair for pair in pairs if pair[0] in (key, field)] == [(field, 2)]
    if key[0] not in "\u2028\x85":  # which are always escaped
        assert f'"x" : {{{name}:2,{name}:3}}'.encode() in line, "what is inside stays, repeated too"
    assert decode_pairs(tag(f"{{{name}:1,{name}:[{name}]}}", 2, id_field)) == [(field, 2)]


@pytest.mark.parametrize("key", ORDINARY)
@Generation
def test_a_key_that_no_parser_takes_for_the_sender_stays(key: str, id_field: str) -> None:
    message = json.dumps({key: 1, "a": 2}, ensure_ascii=False)
    assert tag(message, id_field=id_field).endswith(message[1:].encode() + b"\n")


ROUTED = ["_to", "_except", "_meta", "_cache", "_close"]


@pytest.mark.parametrize("name", [*ROUTED, "_TO", "_to ", "\ufeff_close", "＿ｍｅｔａ", "_Cache\0"])
def test_what_routes_is_taken_out_of_what_clients_say(name: str) -> None:
    """With `--json cat` any client closed all others by `{"_close":true}` (case 4)."""
    key = json.dumps(name)
    assert tag(f'{{"a":1,{key}:true, "b":{{{key}:1}}}}', strip=True) == (
        f'{{"_from":7,"a":1,"b":{{{key}:1}}}}\n'.encode()
    )
    kept = f'{{"a":1,{key}:true}}'
    assert tag(kept) == f'{{"_from":7,{kept[1:]}\n'.encode()


def test_in_the_older_generation_other_fields_route() -> None:
    text = '{"_to":1,"_from":2,"ID":3,"_except":4,"_CLOSE":true}'
    assert tag(text, id_field="id", strip=True) == b'{"id":7,"_to":1,"_from":2}\n'


def test_a_message_of_many_strange_keys_costs_no_more_than_a_few_times_its_parsing() -> None:
    """Normalizing may take long: many combining marks, or one character that is eighteen."""
    for key in ("a\u0300\u0327" * 20_000, "\ufdfa" * 20_000, "\u0300" * 60_000, "_" * 60_000):
        assert tag(json.dumps({key: 1}, ensure_ascii=False)).startswith(b'{"_from":7,"')
    many = json.dumps({f"_\ufdfa{n}": n for n in range(20_000)}, ensure_ascii=False)
    assert tag(many).endswith(many[1:].encode() + b"\n")


def test_line_breaks_between_tokens_become_spaces() -> None:
    line = tag('\n{\r\n"a"\n:\n[1\r,\n2]\n}\n')
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    assert json.loads(line) == {"_from": 7, "a": [1, 2]}


def test_line_breaks_in_strings_stay_escaped() -> None:
    assert tag('{"a":"x\\ny\\u000a"}') == b'{"_from":7,"a":"x\\ny\\u000a"}\n'


def test_the_characters_that_only_some_take_for_line_breaks_are_escaped() -> None:
    text = '{"a":"\u2028\u2029\x85"}'
    assert json.loads(tag(text)) == {"_from": 7, "a": "\u2028\u2029\x85"}


NOT_OBJECTS = [
    b"",
    b" ",
    b"hello",
    b"[]",
    b'[{"a":1}]',
    b"1",
    b'"{}"',
    b"null",
    b"true",
    b"{",
    b"}",
    b"{}{}",
    b'{"a":1} x',
    b"{'a':1}",
    b"{a:1}",
    b'{"a":1,}',
    b'{"a" 1}',
    b'{"a":01}',
    b'{"a":.5}',
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":[-Infinity]}',
    b'{"a":"tab\tinside"}',
    b'{"a":"line\nbreak"}',
    b'{"a":"\\x"}',
    b'{"a":"\\u12"}',
    b'\xef\xbb\xbf{"a":1}',
    b'\x0b{"a":1}',
    b'{"_from":1,"a":NaN}',
    b"{" + b'"a":[' * 200_000,
    b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
]


@pytest.mark.parametrize("payload", NOT_OBJECTS, ids=lambda payload: repr(payload[:20]))
@Generation
def test_what_is_no_json_object_is_dropped_and_reported(
    payload: bytes, id_field: str, reports: Reports
) -> None:
    framing = json_framing(id_field, reports)
    line = framing.encode(3, texts(b'{"n":1}', payload, b'{"n":2}'))
    assert [json.loads(part)["n"] for part in line.splitlines()] == [1, 2]
    ((client, _),) = reports.found
    assert client == 3


def test_binary_messages_that_are_not_utf8_are_dropped(reports: Reports) -> None:
    framing = json_framing(report=reports)
    assert framing.encode(3, Messages(Opcode.BINARY, [b'{"a":"\xff"}'], 10)) == b""
    assert len(reports.found) == 1


def in_small_thread(function: Callable[[], object]) -> None:
    """Run in a thread with the stack that the server gives its threads; raise what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    with small_stack():
        thread = threading.Thread(target=run)
        thread.start()
    thread.join(60)
    if errors:
        raise errors[0]


DEEP = {
    "lists": lambda n: b'{"x":' + b"[" * n + b"]" * n + b"}",
    "objects": lambda n: b'{"x":' * n + b"1" + b"}" * n,
    "unfinished": lambda n: b'{"_from":1,"_to":1,"x":' + b"[" * n,
}


@pytest.mark.parametrize(
    "message",
    [
        '{"n":NUMBER}',
        '{"a":[{"b":NUMBER}]}',
        '{"n":-NUMBER}',
        '{"n":0.NUMBER}',
        '{"n":1NUMBERe5}',
    ],
)
def test_a_number_that_a_programs_parser_may_choke_on_is_dropped(message: str) -> None:
    """Seen: 5,000 digits ended README's own example, as Python's `json.loads` takes 4,300."""
    assert tag(message.replace("NUMBER", "7" * 900))
    reports = Reports()
    framing = json_framing(report=reports)
    assert framing.encode(1, texts(message.replace("NUMBER", "7" * 5000).encode())) == b""
    assert "digits; 1000 is the most" in reports.found[0][1]


def test_many_digits_in_a_string_are_no_number() -> None:
    message = f'{{"bits":"{"01" * 4000}","n":{"9" * 1000}}}'
    assert json.loads(tag(message)) == {"_from": 7, **json.loads(message)}


@pytest.mark.parametrize("shape", DEEP)
@pytest.mark.parametrize("depth", [100, 500, 900, 950, 980, 990, 1000, 100_000])
def test_deep_nesting_never_crashes_a_thread(shape: str, depth: int) -> None:
    """Near the recursion limit, and beyond, each of them is taken or dropped."""
    data = DEEP[shape](depth)

    def check() -> None:
        reports = Reports()
        line = json_framing(report=reports).encode(1, texts(data))
        assert bool(line) != bool(reports.found)
        for extra in (b'"_to":1,', b'"_meta":true,', b'"_close":true,'):
            json_framing(report=reports).route([b"{" + extra + data[1:]])

    in_small_thread(check)


def test_nesting_is_handled_at_every_depth_near_the_limit() -> None:
    """No depth may fit one step and not the next."""

    def check() -> None:
        for depth in range(930, 1005):
            data = DEEP["lists"](depth)
            forged = b'{"_from":1,' + data[1:]
            reports = Reports()
            line = json_framing(report=reports).encode(1, texts(forged))
            assert bool(line) != bool(reports.found)
            json_framing(report=reports).route([b'{"_meta":true,' + data[1:]])

    in_small_thread(check)


keys = st.one_of(
    st.sampled_from(
        ["_from", "id", "_to", "a", "", "_from ", "_From", '"', "\\", "é", "ID", "_ﬁ\0"]
    ),
    st.text(max_size=4),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(['"_from":1', "}", "{", "\\", '\\"', "\n", "_from"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
spaces = st.text(st.sampled_from(" \t\r\n"), max_size=2)


@st.composite
def json_strings(draw: st.DrawFn, text: str) -> str:
    """Return a JSON string, with some of its characters escaped for no reason."""
    parts = []
    for character in text:
        if ord(character) < 0x10000 and draw(st.integers(0, 3)) == 0:
            parts.append(f"\\u{ord(character):04{draw(st.sampled_from('xX'))}}")
        else:
            parts.append(json.dumps(character, ensure_ascii=draw(st.booleans()))[1:-1])
    return '"' + "".join(parts) + '"'


@st.composite
def json_objects(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], str]:
    """Return the members of an object, repeated keys included, and one way to write it."""
    pairs = draw(st.lists(st.tuples(keys, values), max_size=5))
    members = []
    for key, value in pairs:
        text = json.dumps(value, indent=draw(st.sampled_from([None, 1])))
        name = draw(json_strings(key))
        members.append(f"{draw(spaces)}{name}{draw(spaces)}:{draw(spaces)}{text}{draw(spaces)}")
    body = ",".join(members) or draw(spaces)
    return pairs, f"{draw(spaces)}{{{body}}}{draw(spaces)}"


@pytest.mark.slow
@settings(max_examples=80)
@given(json_objects(), st.sampled_from(["", "id", "a"]), st.integers(1, 2**32 - 1))
def test_any_object_reaches_the_child_as_one_line_with_its_true_sender(
    written: tuple[list[tuple[str, Any]], str], id_field: str, sender: int
) -> None:
    pairs, text = written
    line = tag(text, sender, id_field)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    name = id_field or "_from"
    found = decode_pairs(line)
    assert found == [(name, sender), *(pair for pair in pairs if not is_spelled(pair[0], name))]


def is_spelled(key: str, name: str) -> bool:
    """Whether some parser may take a key for a field."""

    def see(text: str) -> str:
        hidden = ("Cc", "Cf", "Cs", "Mn", "Mc", "Me", "Zs", "Zl", "Zp")
        return "".join(c for c in text if unicodedata.category(c) not in hidden)

    forms = (unicodedata.normalize("NFKC", see(part)) for part in (key, key.partition("\0")[0]))
    return any(see(form.upper().casefold()) == name for form in forms)


def decode_pairs(line: bytes) -> list[tuple[str, Any]]:
    """Return the members of a line's outermost object, in order, repeated ones too."""
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # objects are finished from the inside out
        return dict(pairs)

    json.loads(line, object_pairs_hook=keep)
    return outermost


@settings(max_examples=60)
@given(st.lists(st.one_of(st.binary(max_size=12), st.sampled_from(NOT_OBJECTS[:-2])), max_size=4))
def test_any_message_is_one_line_or_one_report(payloads: list[bytes]) -> None:
    reports = Reports()
    data = json_framing(report=reports).encode(5, texts(*payloads))
    lines = data.splitlines(keepends=True)
    assert len(lines) + len(reports.found) == len(payloads)
    assert all(json.loads(line)["_from"] == 5 for line in lines)


def test_join_and_leave_messages_carry_no_tag() -> None:
    assert json_framing().announce(7, '{"t":"Join","_from":7}') == b'{"t":"Join","_from":7}\n'
    assert json_framing().announce(7, "hello") == b"hello\n"


# ==== JSON: what the child prints =========================================


def route_one(line: bytes | str, id_field: str = "", report: Reports | None = None) -> Any:
    """Return the one output of one line."""
    data = line.encode() if isinstance(line, str) else line
    (output,) = json_framing(id_field, report).feed(data + b"\n")
    return output


@pytest.mark.parametrize(
    ("line", "to", "exclude"),
    [
        ('{"a":1}', None, ()),
        ('{"_to":5}', (5,), ()),
        ('{"a":1, "_to" : 5 }', (5,), ()),
        ('{"_to":[5,6]}', (5, 6), ()),
        ('{"_to":[]}', (), ()),
        ('{"_to":null}', None, ()),
        ('{"_to":4294967295}', (4294967295,), ()),
        ('{"_except":5}', None, (5,)),
        ('{"_except":[5,6],"_to":[5,7]}', (5, 7), (5, 6)),
        ('{"_except":null}', None, ()),
        ('{"_except":[]}', None, ()),
        ('{"\\u005fto":5}', (5,), ()),
        ('{"\\u005Fto":5}', (5,), ()),
        ('{"_t\\u006f":5}', (5,), ()),
        ('{"_\\u0074o":5}', (5,), ()),
        ('{"_e\\u0078cept":5}', None, (5,)),
        ('{"a":{"_to":5}}', None, ()),
        ('{"a":"_to"}', None, ()),
        ('{"a":"\\"_to\\":5"}', None, ()),
        ('{"_to":1,"_to":2}', (2,), ()),
        ('{"id":5}', None, ()),
    ],
)
def test_a_message_goes_where_its_fields_say(
    line: str, to: tuple[int, ...] | None, exclude: tuple[int, ...]
) -> None:
    output = route_one(line)
    assert isinstance(output, Route)
    assert (output.to, output.exclude, output.payloads) == (to, exclude, [line.encode()])


@pytest.mark.parametrize(
    "line",
    [
        '{"_to":true}',
        '{"_to":false}',
        '{"_to":{}}',
        '{"_to":[true]}',
        '{"_to":[[1]]}',
        '{"_to":[null]}',
        '{"_except":true}',
        '{"_except":[1.5]}',
        '{"_to":"x"}',
        '{"_to":""}',
        '{"_to":"1.0"}',
        '{"_to":" 1"}',
        '{"_to":"١"}',
        '{"_to":"-1"}',
        '{"_to":1.5}',
        '{"_to":1e400}',
        '{"_to":[1,"2",[]]}',
        '{"_except":"all"}',
        '{"_to":5,"_except":"x"}',
        '{"_to":"' + "9" * 5000 + '"}',
        '{"_to":' + "9" * 5000 + "}",
    ],
)
def test_a_receiver_that_is_no_id_is_reported_and_the_message_not_sent(
    line: str, reports: Reports
) -> None:
    """It was meant for somebody; everybody must not get it."""
    assert json_framing(report=reports).feed(line.encode() + b"\n") == []
    ((client, text),) = reports.found
    assert client is None
    assert len(text) < 300


@pytest.mark.parametrize("value", ["1", "1.0", '"1"', "1e0", "[1.0]", '["1"]', "10e-1", '"01"'])
def test_an_id_may_be_a_float_or_a_text_as_some_languages_write_it(value: str) -> None:
    """Lua's and PHP's `"_to":1.0` and `"_to":"1"` went to nobody (case 19)."""
    assert route_one(f'{{"_to":{value}}}').to == (1,)
    assert route_one(f'{{"_except":{value}}}').exclude == (1,)
    assert route_one(f'{{"_to":[2,{value.strip("[]")}]}}').to == (2, 1)


@pytest.mark.parametrize("extra", ["9" * 5000, "-" + "9" * 5000, "1" * 4301])
def test_a_private_message_stays_private_with_a_number_of_any_length(extra: str) -> None:
    assert route_one(f'{{"_to":1,"n":{extra}}}').to == (1,)
    assert route_one(f'{{"id":1,"n":{extra}}}', "id").to == (1,)


def test_a_private_message_that_is_nested_too_deeply_reaches_nobody_else(
    reports: Reports,
) -> None:
    line = b'{"_to":1,"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    for output in json_framing(report=reports).feed(line):
        assert output == Route(Opcode.TEXT, [line[:-1]], (1,), cached=False)


@pytest.mark.parametrize(
    ("line", "to"),
    [
        ('{"id":5}', (5,)),
        ('{"t":"x", "id" : 5}', (5,)),
        ('{"id":[5,6]}', (5, 6)),
        ('{"id":5.0}', (5,)),  # went to everybody
        ('{"id":[5e0,6]}', (5, 6)),
        ('{"\\u0069d":5}', (5,)),
        ('{"i\\u0064":5}', (5,)),
        ('{"id":null}', None),
        ('{"id":"abc"}', None),
        ('{"id":true}', None),
        ('{"id":1.5}', None),
        ('{"id":{"x":1}}', None),
        ('{"a":{"id":5}}', None),
        ('{"_to":5}', None),
        ("{}", None),
    ],
)
def test_the_older_generation_routes_by_its_one_field(
    line: str, to: tuple[int, ...] | None
) -> None:
    output = route_one(line, "id")
    assert (output.to, output.payloads) == (to, [line.encode()])


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("to", '{"to":5}'),
        ("player_2", '{"player_2":5}'),
        ("player_2", '{"player\\u005F2":5}'),
        ("player_2", '{"player_\\u0032":5}'),
        ("Z", '{"\\u005a":5}'),
    ],
)
def test_an_id_field_may_have_any_plain_name(name: str, line: str) -> None:
    assert route_one(line, name).to == (5,)
    assert json.loads(tag(line, id_field=name)) == {name: 7}


@pytest.mark.parametrize(
    ("line", "cached"),
    [
        ('{"_cache":true}', True),
        ('{"_cache":true,"_to":1}', True),
        ('{"_cache":false}', False),
        ('{"_cache":1}', False),
        ('{"_cache":"true"}', False),
        ('{"\\u005fcache":true}', True),
        ('{"a":{"_cache":true}}', False),
        ('{"a":1}', False),
        ("plain", False),
    ],
)
def test_a_message_is_marked_for_the_cache_by_true_alone(line: str, cached: bool) -> None:
    assert route_one(line).cached is cached


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"_meta":true,"name":"Den","_to":5}', {"name": "Den", "_to": 5}),
        ('{"_meta":true}', {}),
        ('{"\\u005fmeta":true, "a": [1] }', {"a": [1]}),
        ('{"a":{"_meta":true},"_meta":true}', {"a": {"_meta": True}}),
        ('{"_meta":false,"_meta":true,"x":"\\ud83e\\udd8a é"}', {"x": "🦊 é"}),
        ('{"_meta":true,"_close":true,"_except":"x"}', {"_close": True, "_except": "x"}),
    ],
)
def test_metadata_is_stored_and_not_sent(line: str, value: object) -> None:
    output = route_one(line)
    assert isinstance(output, Metadata)
    assert json.loads(output.text) == value


def test_metadata_keeps_its_numbers_as_the_child_wrote_them() -> None:
    output = route_one('{"_meta":true,"x":[1.50,' + "9" * 5000 + "]}")
    assert output == Metadata('{"x":[1.50,' + "9" * 5000 + "]}")


@pytest.mark.parametrize("line", ['{"_meta":false}', '{"_meta":1}', '{"_meta":null,"a":1}'])
def test_metadata_needs_true(line: str) -> None:
    assert broadcasts([route_one(line)]) == [line.encode()]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_metadata_is_always_json_that_the_api_can_show(number: str, reports: Reports) -> None:
    line = f'{{"_meta":true,"x":{number}}}\n'.encode()
    for output in json_framing(report=reports).feed(line):
        if isinstance(output, Metadata):
            assert number not in ("NaN", "Infinity", "-Infinity")
            assert number in output.text


@pytest.mark.parametrize(
    ("line", "kick"),
    [
        ('{"_to":5,"_close":true}', Kick((5,), (), 1000, "")),
        ('{"_to":[5,6],"_close":{}}', Kick((5, 6), (), 1000, "")),
        ('{"_to":5,"_close":{"code":4000}}', Kick((5,), (), 4000, "")),
        ('{"_to":5,"_close":{"reason":"bye é"}}', Kick((5,), (), 1000, "bye é")),
        ('{"_to":5,"_close":{"code":1008,"reason":"x"}}', Kick((5,), (), 1008, "x")),
        ('{"_close":true,"_except":5}', Kick(None, (5,), 1000, "")),
        ('{"_to":5,"\\u005fclose":true}', Kick((5,), (), 1000, "")),
        ('{"_to":5,"_close":{"reason":null}}', Kick((5,), (), 1000, "")),
    ],
)
def test_a_child_may_close_clients(line: str, kick: Kick) -> None:
    assert route_one(line) == kick


@pytest.mark.parametrize(
    "code",
    [
        *("0", "999", "1004", "1006", "1015", "2000", "5000", "65536", "-1", "1e3", '"1000"'),
        *("4000.5", "1e400"),
    ],
)
@pytest.mark.parametrize("more", ["", ',"reason":"why"'])
def test_a_close_code_that_must_not_be_sent_becomes_1000(code: str, more: str) -> None:
    output = route_one(f'{{"_to":5,"_close":{{"code":{code}{more}}}}}')
    assert isinstance(output, Kick)
    assert output.code == 1000


@pytest.mark.parametrize("code", ["true", "null", "[]", "{}", "1.5", "1005.0", "9" * 30])
def test_a_close_code_of_any_type_can_be_encoded(code: str) -> None:
    output = route_one(f'{{"_to":5,"_close":{{"code":{code}}}}}')
    assert isinstance(output, Kick)
    scalesocket.parse_close(scalesocket.encode_close(output.code, output.reason))


@pytest.mark.parametrize("reason", ['"\\ud800"', '"' + "é" * 500 + '"', "5", "[]", "null"])
def test_a_close_reason_of_any_kind_can_be_encoded(reason: str) -> None:
    output = route_one(f'{{"_to":5,"_close":{{"reason":{reason}}}}}')
    assert isinstance(output, Kick)
    scalesocket.parse_close(scalesocket.encode_close(output.code, output.reason))


@pytest.mark.parametrize("value", ["false", "null"])
def test_a_close_that_is_not_wanted_is_a_message(value: str) -> None:
    line = f'{{"_to":5,"_close":{value}}}'
    assert route_one(line) == Route(Opcode.TEXT, [line.encode()], (5,), cached=False)


@pytest.mark.parametrize(
    "line",
    [
        *("hello", "", "null", "5", "[1, 2]", "[]", '"hi"', "{", "{smiles}", "'tis", '{"a":1,}'),
        *("write _to, _except or _close", 'send {"_to":1}', "data: {'_to':1}", "(_to)", "_to"),
        *('{"access_token":1,}', "{goes_to:1}", "[12:30] my_to goes_to _token", '{"__to__":1,}'),
        *("[12:30] what is your id?", "{id}", '[{"id":5},{"id":6}]', '"id: 5"', "{hidden: 1}"),
    ],
)
@Generation
def test_a_line_that_is_no_json_object_goes_to_everyone(line: str, id_field: str) -> None:
    assert broadcasts([route_one(line, id_field)]) == [line.encode()]


UNREADABLE = [
    '\ufeff{"s":1,"F":1}',
    ' \ufeff {"s":1,"F":1}',
    '\0{"s":1,"F":1}',
    '\x1e{"s":1,"F":1}',
    '\u200b{"s":1,"F":1}',
    '{"s":1,"F":1,}',
    '{"F":[1,],"s":1}',
    "{'s':1,'F':1}",
    "{s:1,F:1}",
    "{ F : 1, s: 1 }",
    '{"s":1,"F":1',
    '{"s":1,"F"',
    '{"s":"x,"F":1}',
    '{"s":NaN,"F":1}',
    '{"s":Infinity,"F":1}',
    '{"F":[-Infinity]}',
    '{"s":1, /* for */ "F":1}',
    '{"s":1,"F":1} // for one',
    '{"s":1,"F":1}{"t":1}',
    '{"t":1} {"s":1,"F":1}',
    '{"s":1;"F":1}',
    '{"s":1 "F":1}',
    '{"s":01,"F":1}',
    '{"s":"\t","F":1}',
    '{"s":"\\x","F":1}',
    '"F":1}',
    '  "F": 1',
    '"{\\"s\\":1,\\"F\\":1}',
    "{\"s\":1,'F':1}",
]
OF_UNDERSCORES = [
    '[{"s":1,"F":1}]',
    '["s",{"x":{"F":1}}]',
    '"{\\"s\\":1,\\"F\\":1}"',
    '{"s":1,"\\u005fto":1,}',
    '{"s":1,"_t\\u006f":1,}',
    "{'s':1,'_TO':1}",
    '["F", 1]',
    '"F"',
]


@pytest.mark.parametrize(
    ("id_field", "field", "line"),
    [
        *(("", field, line) for field in ROUTED for line in UNREADABLE + OF_UNDERSCORES),
        *(("id", field, line) for field in ("id", "_except") for line in UNREADABLE),
    ],
)
def test_a_private_line_that_cannot_be_read_goes_to_nobody(
    id_field: str, field: str, line: str, reports: Reports
) -> None:
    """A program printed `{"secret":2,"_to":1,}`, or a byte order mark: all got it (case 3)."""
    framing = json_framing(id_field, reports)
    line = line.replace("F", field)
    outputs = framing.feed(f'{{"n":1}}\n{line}\n{{"n":2}}\n'.encode())
    assert broadcasts(outputs) == [b'{"n":1}', b'{"n":2}']
    ((client, text),) = reports.found
    assert client is None and len(text) < 300


@pytest.mark.parametrize("name", ["_TO", "_To", "_Except", "_CLOSE", "_Meta", "_Cache", "_Save"])
def test_a_field_that_routes_in_another_case_is_told_and_goes_to_nobody(
    name: str, reports: Reports
) -> None:
    """What a program printed for one client alone, as `{"_To":1}`, was sent to all."""
    framing = json_framing("", reports)
    inside = f'{{"n":1,"in":{{"{name}":1}},"of":"{name}"}}'
    assert broadcasts(framing.feed(f'{{"{name}":1}}\n{inside}\n'.encode())) == [inside.encode()]
    assert [text for _, text in reports.found] == [
        f"message of the child was not sent: {name} says nothing; {name.lower()} does"
    ]


def test_outputs_keep_the_order_of_lines_and_broadcasts_stay_in_runs() -> None:
    data = b'{"n":1}\n{"n":2}\n{"n":3,"_to":1}\nplain\n{"_to":1,"_close":true}\n{"n":4}\n'
    assert json_framing().feed(data) == [
        Route(Opcode.TEXT, [b'{"n":1}', b'{"n":2}'], cached=False),
        Route(Opcode.TEXT, [b'{"n":3,"_to":1}'], (1,), cached=False),
        Route(Opcode.TEXT, [b"plain"], cached=False),
        Kick((1,), (), 1000, ""),
        Route(Opcode.TEXT, [b'{"n":4}'], cached=False),
    ]
    bytewise = feed_bytewise(json_framing(), data)
    assert [type(output) for output in bytewise] == [Route, Route, Route, Route, Kick, Route]


def test_the_last_json_line_needs_no_newline_to_be_routed() -> None:
    framing = json_framing()
    assert framing.feed(b'{"_to":5,') == []
    framing.feed(b'"a":1}')
    assert framing.finish() == [Route(Opcode.TEXT, [b'{"_to":5,"a":1}'], (5,), cached=False)]


@pytest.mark.slow
@settings(max_examples=60)
@given(json_objects(), st.sampled_from([None, "_to", "_except", "_close", "_meta"]))
@example(([("_to", 1)], '{"_to":1}'), None)
@example(([("_to", 0.0)], '{"_to":0.0}'), None)
@example(([("_to", "1")], '{"_to":"1"}'), None)
def test_any_object_of_the_child_is_routed_as_its_parsed_fields_say(
    written: tuple[list[tuple[str, Any]], str], extra: str | None
) -> None:
    pairs, text = written
    text = text.replace("\n", " ").replace("\r", " ")
    if extra:
        text = text[: text.rindex("}")] + ("," if pairs else "") + f'"{extra}":true}}'
    value = json.loads(text)
    outputs = json_framing().feed(text.encode() + b"\n")
    if value.get("_meta") is True:
        assert all(isinstance(output, Metadata) for output in outputs)
        return
    if extra == "_close":
        assert not any(isinstance(output, Route) for output in outputs)
        return
    to = value.get("_to")
    ids = to if isinstance(to, list) else [to]
    for output in outputs:
        assert isinstance(output, Route)
        assert output.payloads == [text.encode()]
        assert output.to == (None if to is None else tuple(map(int, ids)))
    assert not outputs or to is None or all(map(is_id, ids))


def is_id(value: Any) -> bool:
    """Return whether this is an ID, or what a language has made of one (case 19)."""
    if isinstance(value, str):
        return re.fullmatch("[0-9]{1,10}", value) is not None
    return type(value) is int or (isinstance(value, float) and value.is_integer())


@settings(max_examples=60)
@given(st.binary(max_size=60), st.sampled_from(["", "id"]), st.integers(1, 20))
def test_any_output_of_a_child_becomes_valid_messages(
    data: bytes, id_field: str, step: int
) -> None:
    framing = json_framing(id_field)
    outputs = []
    for at in range(0, len(data), step):
        outputs += framing.feed(data[at : at + step])
    for output in outputs + framing.finish():
        if isinstance(output, Route):
            for payload in output.payloads:
                payload.decode()


# ==== gwsocket ============================================================


def gw(client: int, kind: int, payload: bytes) -> bytes:
    return struct.pack("!III", client, kind, len(payload)) + payload


def gw_framing(report: Reports | None = None, order: str = "big") -> GwsocketFraming:
    return GwsocketFraming(report=report or Reports(), order=order)


def test_a_header_may_be_little_endian_as_scalesocket_reads_it() -> None:
    """A program written for ScaleSocket 0.2.4 ended its room with its first message (case 26)."""
    data = struct.pack("<III", 258, 1, 2) + b"hi"
    assert gw_framing(order="little").feed(data) == [Route(Opcode.TEXT, [b"hi"], (258,))]
    assert gw_framing(order="little").encode(258, texts(b"hi")) == data
    assert gw_framing(order="little").announce(258, "hi") == data


def test_a_gwsocket_child_reads_a_header_in_network_byte_order() -> None:
    data = gw_framing().encode(258, texts(b"hi", b""))
    assert data == bytes.fromhex("000001020000000100000002") + b"hi" + gw(258, 1, b"")
    binary = Messages(Opcode.BINARY, [b"\0\xff"], 2)
    assert gw_framing().encode(2**32 - 1, binary) == gw(2**32 - 1, 2, b"\0\xff")


def test_join_and_leave_messages_have_a_gwsocket_header_too() -> None:
    assert gw_framing().announce(9, "hé") == gw(9, 1, "hé".encode())


GW_STREAM = gw(0, 1, b"all") + gw(5, 2, b"\xff\0") + gw(2**32 - 1, 1, b"") + gw(0, 2, bytes(300))
GW_OUTPUTS = [
    Route(Opcode.TEXT, [b"all"]),
    Route(Opcode.BINARY, [b"\xff\0"], (5,)),
    Route(Opcode.TEXT, [b""], (2**32 - 1,)),
    Route(Opcode.BINARY, [bytes(300)]),
]


@pytest.mark.parametrize("step", [1, 2, 5, 11, 12, 13, 100, 1000])
def test_gwsocket_messages_are_whole_however_reads_cut_them(step: int) -> None:
    framing = gw_framing()
    found = []
    for at in range(0, len(GW_STREAM), step):
        found += framing.feed(GW_STREAM[at : at + step])
    assert found == GW_OUTPUTS
    assert framing.finish() == []


@pytest.mark.parametrize("kind", [0, 3, 8, 0x01000000, 2**32 - 1])
def test_a_gwsocket_header_of_an_unknown_type_ends_the_child(kind: int) -> None:
    """What the child had said by then is delivered, as with any other end of a child."""
    framing = gw_framing()
    assert framing.feed(gw(0, 1, b"ok") + gw(0, kind, b"")) == [Route(Opcode.TEXT, [b"ok"])]
    assert isinstance(framing.error, BackendError)
    assert str(kind) in str(framing.error)


def test_a_gwsocket_header_with_an_absurd_length_ends_the_child() -> None:
    length = scalesocket.MAX_OUTPUT_ITEM + 1
    for header in (struct.pack("!III", 0, 1, length), struct.pack("<III", 0, 1, 5)):
        framing = gw_framing()
        assert framing.feed(header[:-1]) == []
        assert framing.error is None
        assert framing.feed(header[-1:]) == []
        assert isinstance(framing.error, BackendError)


def test_gwsocket_text_that_is_not_utf8_is_repaired_and_reported(reports: Reports) -> None:
    (output,) = gw_framing(reports).feed(gw(0, 1, b"a\xff"))
    assert output == Route(Opcode.TEXT, ["a\ufffd".encode()])
    assert len(reports.found) == 1


def test_an_unfinished_gwsocket_message_is_reported(reports: Reports) -> None:
    framing = gw_framing(reports)
    assert framing.feed(gw(0, 1, b"abc")[:-1]) == []
    assert framing.finish() == []
    assert len(reports.found) == 1


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=20)), max_size=5))
def test_what_one_gwsocket_end_writes_the_other_reads(parts: list[tuple[int, bytes]]) -> None:
    runs = [(client, Messages(Opcode.BINARY, [payload], 1)) for client, payload in parts]
    data = b"".join(gw_framing().encode(client, run) for client, run in runs)
    expected = [Route(2, [payload], (client,) if client else None) for client, payload in parts]
    assert gw_framing().feed(data) == expected


# ==== Join and leave messages =============================================


def client(room: str = "den", query: str = "", address: str = "10.0.0.9") -> scalesocket.Client:
    """Return a client that is connected by nothing."""
    target = "/den" + (f"?{query}" if query else "")
    request = Request("GET", target, "HTTP/1.1", Headers([("Host", "h")]))
    connection: Any = None
    return scalesocket.Client(
        12, room, request, connection, peer=(address, 5555), local=("127.0.0.1", 9000)
    )


@pytest.mark.parametrize(
    ("template", "expanded"),
    [
        ("#ID", "12"),
        ('{"t":"Join","_from":#ID}', '{"t":"Join","_from":12}'),
        ("#ROOM at #REMOTE_ADDR", "den at 10.0.0.9"),
        ("#QUERY_STRING", "name=a%20b&x=1&NAME=late&empty=&flag&plus=a+%2bb&%61=%22}%0a/"),
        ("#QUERY_NAME", "a%20b"),
        ("#QUERY_name", "a%20b"),
        ("#QUERY_X #QUERY_X", "1 1"),
        ("#QUERY_PLUS", "a%20%2Bb"),
        ("#QUERY_A", "%22%7D%0A%2F"),
        ("#QUERY_EMPTY|#QUERY_FLAG|#QUERY_NONE|", "|||"),
        ("#TEXT_NAME|#TEXT_PLUS|#TEXT_NONE", "a b|a +b|"),
        ('{"a":#JSON_A,"none":#JSON_NONE}', '{"a":"\\"}\\n/","none":""}'),
        ("#JSON #TEXT", "#JSON #TEXT"),
        ("#id #Room # ## #UNKNOWN", "#id #Room # ## #UNKNOWN"),
        ("no variable", "no variable"),
    ],
)
def test_variables_are_filled_in(template: str, expanded: str) -> None:
    someone = client(query="name=a%20b&x=1&NAME=late&empty=&flag&plus=a+%2bb&%61=%22}%0a/")
    assert expand_template(template, someone) == expanded


def test_without_a_query_its_variables_are_empty() -> None:
    assert expand_template("[#QUERY_STRING][#QUERY_X]", client()) == "[][]"


def test_a_value_is_not_expanded_again() -> None:
    someone = client(room="#ID", query="a=#ROOM")
    assert expand_template("#ROOM #QUERY_A #QUERY_STRING", someone) == "#ID %23ROOM a=#ROOM"


@pytest.mark.parametrize("template", ["JOIN #ROOM #QUERY_A", "JOIN #QUERY_STRING", "#REMOTE_ADDR"])
def test_no_value_breaks_a_line(template: str) -> None:
    """A room named `x<U+2028>LEAVE 7` was two lines for a program in Node (case 41)."""
    nasty = "x\u2028LEAVE\u20297\x85\n\r\v\fy"
    text = expand_template(template, client(nasty, f"a={nasty}", nasty))
    assert len(text.splitlines()) == 1


nasty = st.text(st.one_of(st.sampled_from('"\\#{}/é\u2028🦊'), st.characters(codec="utf-8")))


@settings(max_examples=60)
@given(nasty, nasty, nasty)
@example('","_from":1,"x":"', "a=\\", "::1%eth0")
def test_no_value_breaks_out_of_a_json_string(room: str, query: str, address: str) -> None:
    template = '{"room":"#ROOM","query":"#QUERY_STRING","a":"#QUERY_A","ip":"#REMOTE_ADDR"}'
    someone = client(room, query, address)
    text = expand_template(template, someone)
    assert "\n" not in text
    value = json.loads(text)
    assert set(value) == {"room", "query", "a", "ip"}
    assert (value["room"], value["query"], value["ip"]) == (
        room,
        someone.request.query,
        address,
    )


def test_a_last_message_that_breaks_off_is_sent_to_nobody() -> None:
    """It may have been meant for one client only; what is no object at all is text as ever."""
    for rest, delivered in (
        (b'{"secret":1,"_to":[5', []),
        (b' {"secret":"', []),
        (b'{"whole":1}', [b'{"whole":1}']),
        (b"plain text", [b"plain text"]),
        (b"[1, 2", [b"[1, 2"]),
    ):
        reports: list[str] = []
        framing = JsonFraming(report=lambda _, what, to=reports: to.append(what))
        assert framing.feed(rest) == []
        routes = framing.finish()
        assert [p for r in routes if isinstance(r, Route) for p in r.payloads] == delivered
        assert len(reports) == (not delivered)
