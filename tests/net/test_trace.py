"""The trace: frames drawn as they were on the wire, and a terminal that is never waited for."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.net.deflate import RSV1, Deflate, compress
from scalesocket.net.tap import Event
from scalesocket.net.trace import (
    KEPT_SIZE,
    MAX_PENDING,
    Filter,
    FrameReader,
    SeenFrame,
    TracedFlow,
    Tracer,
    draw_header,
    draw_text,
    escape,
    find_faults,
)

from scalesocket import Opcode, encode_frame
from tests.capture import KEY, MASK, Session, from_client
from tests.support import PATIENCE, ROOT, wait_until

DEFLATE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


class Trace:
    """A tracer that writes into a file."""

    def __init__(self, path: Path, words: Sequence[str]) -> None:
        self._path = path
        self._file = path.open("w", encoding="utf-8")
        self.tracer = Tracer(self._file, words)
        self.number = 0

    def open(self) -> Session:
        """Let a client connect."""
        self.number += 1
        return Session(self.tracer.open(("192.0.2.1", 50000 + self.number)))

    def finish(self) -> str:
        """Return all that was printed."""
        if not self._file.closed:
            self.tracer.close()
            self._file.close()
        return self._path.read_text(encoding="utf-8")

    def frames(self) -> list[str]:
        """Return what was printed for frames and ends, without times and addresses."""
        found = re.findall(r"^[\d:.]{15} #(\d+) \S+( /\S+)? (.*)$", self.finish(), re.MULTILINE)
        return [f"#{n} {what}" for n, _, what in found if "handshake" not in what]


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    trace = Trace(tmp_path / "trace", ())
    yield trace
    trace.finish()


# ==== 1. Frames ===========================================================


def test_a_frame_is_drawn_with_every_part_of_its_header(trace: Trace) -> None:
    session = trace.open()
    session.upgrade()
    session.receive(bytes.fromhex("818537fa213d7f9f4d5158"))  # RFC 6455 section 5.7
    text = trace.finish()
    heading, *lines = text[text.index("< text") :].splitlines()
    assert heading == "< text, 5 bytes"
    assert lines == [
        "    | FIN | RSV | opcode | MASK | length  | masking key |",
        "    | 1   | 000 | 0001   | 1    | 0000101 | 37 fa 21 3d |",
        "    | yes |     | text   | yes  | 5       |             |",
        '    "Hello"',
    ]


@pytest.mark.parametrize(
    ("size", "short", "meaning", "extended"),
    [
        (125, "1111101", "125", ""),
        (126, "1111110", "16 bits follow", "00 7e"),
        (65535, "1111110", "16 bits follow", "ff ff"),
        (65536, "1111111", "64 bits follow", "00 00 00 00 00 01 00 00"),
    ],
)
def test_each_form_of_length_is_drawn(size: int, short: str, meaning: str, extended: str) -> None:
    (frame,) = FrameReader().feed(encode_frame(Opcode.BINARY, bytes(size)))
    titles, wire, words = (line.split("|") for line in draw_header(frame, False))
    assert wire[5].strip() == short and words[5].strip() == meaning
    if extended:
        assert titles[6].strip() == "extended length"
        assert wire[6].strip() == extended and words[6].strip() == str(size)
    assert frame.length == size and len(frame.payload) == min(size, KEPT_SIZE)


@pytest.mark.parametrize("size", [5, 300, 70_000])
def test_the_table_of_a_header_fits_into_a_terminal_of_any_width(size: int) -> None:
    """At 80 columns each line of the table of a long message went on in the next one."""
    (frame,) = FrameReader().feed(from_client(Opcode.CONTINUATION, bytes(size)))

    def cells(lines: Sequence[str]) -> list[str]:
        return [cell.strip() for line in lines for cell in line.strip("|").split("|")]

    whole = draw_header(frame, False)
    assert len(whole) == 3
    for width in range(30, 200):
        lines = draw_header(frame, False, width)
        assert max(map(len, lines)) <= width
        rows = [cells(lines[n::3]) for n in range(3)]
        assert rows == [cells([line]) for line in whole]
        assert len(lines) == 3 or len(whole[0]) > width


def test_frames_are_found_however_the_bytes_are_cut(trace: Trace) -> None:
    session = trace.open()
    session.upgrade()
    data = from_client(Opcode.TEXT, b"one") + from_client(Opcode.BINARY, bytes(300))
    for byte in data:
        session.receive(bytes([byte]))
    session.send(encode_frame(Opcode.TEXT, b"a") + encode_frame(Opcode.PONG, b"b"))
    assert trace.frames() == [
        "#1 < text, 3 bytes",
        "#1 < binary, 300 bytes",
        "#1 > text, 1 bytes",
        "#1 > pong, 1 bytes",
    ]


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 7), st.binary(max_size=5000))),
    st.booleans(),
    st.integers(1, 3000),
)
def test_the_reader_gives_back_what_was_encoded(
    frames: list[tuple[int, int, bytes]], masked: bool, step: int
) -> None:
    key = MASK if masked else b""
    data = b"".join(encode_frame(op, p, rsv=rsv, masking_key=key) for op, rsv, p in frames)
    reader = FrameReader()
    found: list[SeenFrame] = []
    for start in range(0, len(data), step):
        found += reader.feed(data[start : start + step])
    assert [(f.opcode, f.rsv, bytes(f.payload), f.length, f.masked, f.key) for f in found] == [
        (op, rsv, p[:KEPT_SIZE], len(p), masked, key) for op, rsv, p in frames
    ]


def test_binary_is_shown_in_hex_and_letters_and_long_data_is_elided(trace: Trace) -> None:
    session = trace.open()
    session.upgrade()
    session.send(encode_frame(Opcode.BINARY, b"\x00\x01Hello \xff" + bytes(10_000)))
    text = trace.finish()
    assert "\n    00 01 48 65 6c 6c 6f 20 ff 00 00 00 00 00 00 00  ..Hello ........\n" in text
    assert text.endswith("    ... 9881 bytes more\n")
    assert len(text.splitlines()) < 40


def test_a_long_text_is_elided_with_a_count(trace: Trace) -> None:
    session = trace.open()
    session.upgrade()
    session.send(encode_frame(Opcode.TEXT, b"x" * 100_000))
    assert trace.finish().endswith('x" ... 99520 bytes more\n')


def test_what_is_left_out_of_a_text_that_is_not_utf_8_is_counted_in_bytes() -> None:
    """Of 200 such bytes "-280 bytes more" were said to be left out."""
    assert draw_text(b"\xff" * 100, 100) == ['"' + r"\xff" * 100 + '"']
    assert draw_text(b"\xff" * 500, 500) == ['"' + r"\xff" * 480 + '" ... 20 bytes more']


def test_a_fragment_is_shown_as_what_its_message_is(trace: Trace) -> None:
    session = trace.open()
    session.upgrade()
    session.receive(from_client(Opcode.TEXT, b"be", fin=False))
    session.receive(from_client(Opcode.PING, b"\0"))
    session.receive(from_client(Opcode.CONTINUATION, b"gun"))
    lines = trace.finish().splitlines()
    assert [line for line in lines if line.startswith('    "')] == ['    "be"', '    "gun"']
    assert "    | no  |     | text   | yes  | 2       |             |" in lines
    assert any(line.startswith("    00      ") for line in lines)


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", []),
        (b"\x03\xe8", ["03 e8 = 1000 NORMAL"]),
        (b"\x03\xf1too slow\x1b", ["03 f1 = 1009 MESSAGE_TOO_BIG", '"too slow\\x1b"']),
        (b"\x0f\xa0", ["0f a0 = 4000 an application's"]),
        (b"\x13\x88", ["13 88 = 5000 - must not be sent (7.4)"]),
        (b"\x03\xe8b\xffd", ["03 e8 = 1000 NORMAL", '"b\\xffd"', "! it is not UTF-8 (8.1)"]),
        (b"\x03\xee", ["03 ee = 1006 ABNORMAL - must not be sent (7.4)"]),
        (b"\x00", ["1 byte is no code: 00"]),
    ],
)
def test_a_close_is_shown_with_its_code_and_reason(
    trace: Trace, payload: bytes, shown: list[str]
) -> None:
    session = trace.open()
    session.upgrade()
    session.send(encode_frame(Opcode.CLOSE, payload))
    lines = trace.finish().splitlines()
    assert lines[-len(shown) - 1].startswith("    | yes")
    assert [line.strip() for line in lines[len(lines) - len(shown) :]] == shown


def test_what_was_compressed_is_shown_both_ways(trace: Trace) -> None:
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    session.send(Deflate(15).encode_message("again and " * 20))
    session.send(encode_frame(Opcode.TEXT, b"plain"))
    text = trace.finish()
    assert "    | yes | compressed | text   | no   |" in text
    assert compress(b"again and " * 20, 15)[:16].hex(" ") in text
    assert '    decompressed (200 bytes):\n    "again and again and ' in text
    assert text.endswith('    "plain"\n')


def test_a_compressed_message_in_fragments_is_decompressed_piece_by_piece(trace: Trace) -> None:
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = squeezer.compress(b"one ") + squeezer.flush(zlib.Z_SYNC_FLUSH)
    second = squeezer.compress(b"two") + squeezer.flush(zlib.Z_SYNC_FLUSH)
    session.receive(from_client(Opcode.TEXT, first, fin=False, rsv=RSV1))
    session.receive(from_client(Opcode.CONTINUATION, second[:-4]))
    session.receive(from_client(Opcode.TEXT, b"\xff\xff\xff", rsv=RSV1))
    text = trace.finish()
    assert '    decompressed (4 bytes):\n    "one "' in text
    assert '    decompressed (3 bytes):\n    "two"' in text
    assert "    ! it cannot be decompressed: " in text


def test_behind_what_was_not_decompressed_to_the_end_no_fault_is_shown(trace: Trace) -> None:
    """Fragments behind one that held more than is looked at were said to be corrupt."""
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    data = compress(os.urandom(2 * KEPT_SIZE).hex().encode(), 15)
    session.receive(from_client(Opcode.TEXT, data[:KEPT_SIZE], fin=False, rsv=RSV1))
    session.receive(from_client(Opcode.CONTINUATION, data[KEPT_SIZE:]))
    session.receive(from_client(Opcode.TEXT, compress(b"the next one", 15), rsv=RSV1))
    text = trace.finish()
    assert "cannot be decompressed" not in text
    assert "    ! it is not decompressed: what is before it was too much to look at" in text
    assert text.endswith('    "the next one"\n')


def test_what_decompresses_to_very_much_is_not_decompressed_to_the_end(trace: Trace) -> None:
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    session.receive(from_client(Opcode.BINARY, compress(bytes(3_000_000), 15), rsv=RSV1))
    text = trace.finish()
    assert f"decompressed ({KEPT_SIZE} bytes, or more):" in text
    assert len(text) < 5000


@pytest.mark.parametrize(
    ("data", "from_us", "fault"),
    [
        ("8100", False, "a client must mask, a server must not (5.1)"),
        ("818000000000", True, "a client must mask, a server must not (5.1)"),
        ("c100", True, "a reserved bit is set that no extension has given a meaning (5.2)"),
        ("8300", True, "the opcode is reserved (5.2)"),
        ("827e0001ff", True, "the length is not in its shortest form (5.2)"),
        ("827f0000000000000001ff", True, "the length is not in its shortest form (5.2)"),
        ("0900", True, "a control frame must not be fragmented (5.5)"),
        ("897e007e" + "00" * 126, True, "a control frame has at most 125 bytes (5.5)"),
    ],
)
def test_what_a_frame_must_not_be_is_said(data: str, from_us: bool, fault: str) -> None:
    (frame,) = FrameReader().feed(bytes.fromhex(data))
    assert list(find_faults(frame, from_client=not from_us, compression=False)) == [fault]


def test_a_length_beyond_all_that_are_allowed_is_a_fault() -> None:
    frame = SeenFrame(bytes.fromhex("827f8000000000000000"))
    (fault,) = find_faults(frame, from_client=False, compression=False)
    assert fault == "the first bit of a length must be 0 (5.2)"


def test_a_frame_out_of_place_is_a_fault_and_no_part_of_the_message_before(trace: Trace) -> None:
    """A frame that continued nothing was drawn as more of a message that had ended."""
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    session.receive(from_client(Opcode.TEXT, compress(b"whole", 15), rsv=RSV1))
    session.receive(from_client(Opcode.CONTINUATION, b"\0stray"))
    session.receive(from_client(Opcode.TEXT, b"begun", fin=False))
    session.receive(from_client(Opcode.TEXT, b"next"))
    lines = trace.finish().splitlines()
    found = [line.strip() for line in lines if line[4:5] in ("!", '"')]
    assert found == [
        '"whole"',
        "! there is no message that it continues (5.4)",
        '"begun"',
        "! the message before it is not finished (5.4)",
        '"next"',
    ]


def find_marks(trace: Trace) -> list[str]:
    lines = trace.finish().splitlines()
    return [line.strip() for line in lines if line.startswith(("    !", '    "'))]


BAD_TEXT = "! the text is not UTF-8 (8.1)"


def test_a_text_that_is_not_utf_8_is_a_fault_where_it_ceases_to_be(trace: Trace) -> None:
    """It was refused with 1007, and the trace did not say what was wrong."""
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    session.receive(from_client(Opcode.TEXT, b"\xc3", fin=False))
    session.receive(from_client(Opcode.CONTINUATION, b"\xa9", fin=False))
    session.receive(from_client(Opcode.CONTINUATION, b"\xc3"))
    session.receive(from_client(Opcode.TEXT, b"\xff", fin=False))
    session.receive(from_client(Opcode.CONTINUATION, b"\xff"))
    session.receive(from_client(Opcode.TEXT, compress(b"\xc3", 15), rsv=RSV1))
    session.receive(from_client(Opcode.BINARY, b"\xff"))
    assert find_marks(trace) == [
        '"\\xc3"',
        '"\\xa9"',
        BAD_TEXT,
        '"\\xc3"',
        BAD_TEXT,
        '"\\xff"',
        '"\\xff"',
        BAD_TEXT,
        '"\\xc3"',
    ]


@pytest.mark.parametrize("fin", [True, False])
def test_of_a_text_that_is_looked_at_in_part_no_more_is_said(trace: Trace, fin: bool) -> None:
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    long = "a" + "é" * KEPT_SIZE
    session.receive(from_client(Opcode.TEXT, long.encode(), fin=fin))
    session.receive(from_client(Opcode.CONTINUATION, b"\xa9") if not fin else b"")
    session.receive(from_client(Opcode.TEXT, compress(long.encode(), 15), fin=fin, rsv=RSV1))
    assert [mark for mark in find_marks(trace) if mark[0] == "!"] == []


def test_data_behind_a_close_is_a_fault_and_a_pong_is_none(trace: Trace) -> None:
    session = trace.open()
    session.upgrade()
    session.send(encode_frame(Opcode.CLOSE, b""))
    session.receive(from_client(Opcode.TEXT, b"late"))
    session.receive(from_client(Opcode.CLOSE, b""))
    session.receive(from_client(Opcode.PONG, b""))
    session.receive(from_client(Opcode.TEXT, b"too late"))
    assert find_marks(trace) == ['"late"', "! no data follows a Close (5.5.1)", '"too late"']


@pytest.mark.parametrize("opcode", [Opcode.CONTINUATION, Opcode.PING])
def test_only_the_first_frame_of_a_message_may_say_that_it_is_compressed(
    trace: Trace, opcode: Opcode
) -> None:
    """RFC 7692 section 6.1. It was refused, and the trace did not say what was wrong."""
    session = trace.open()
    session.upgrade(extensions=DEFLATE)
    session.receive(from_client(Opcode.TEXT, b"begun", fin=False))
    session.receive(from_client(opcode, b"x", rsv=RSV1))
    text = trace.finish()
    assert text.count("! a reserved bit is set that no extension has given a meaning (5.2)") == 1
    assert "compressed" not in text.partition('"begun"')[2]


def test_a_frame_with_nothing_wrong_has_no_faults() -> None:
    for opcode in Opcode:
        (frame,) = FrameReader().feed(from_client(opcode, b"x" * 100))
        assert list(find_faults(frame, from_client=True, compression=False)) == []


# ==== 2. The handshake ====================================================


def test_the_handshake_shows_how_the_accept_value_comes_about(trace: Trace) -> None:
    trace.open().upgrade("/lobby?name=Ann")
    text = trace.finish()
    assert " /lobby < opening handshake\n    GET /lobby?name=Ann HTTP/1.1\n    Host: test\n" in text
    assert " /lobby > opening handshake\n    HTTP/1.1 101 Switching Protocols\n" in text
    assert f"      the key         {KEY}\n" in text
    assert "      and the GUID    258EAFA5-E914-47DA-95CA-C5AB0DC85B11\n" in text
    sha = "b3 7a 4f 2c c0 62 4f 16 90 f6 46 06 cf 38 59 45 b2 be c4 ea"  # section 1.3
    assert f"      SHA-1 of both   {sha}\n" in text
    assert "      in base64       s3pPLMBiTxaQ9kYGzzhZRbK+xOo=, as answered\n" in text


def test_a_request_that_names_more_protocols_is_a_handshake_too(tmp_path: Path) -> None:
    """It was taken for plain HTTP, so that nothing of its room was shown."""
    trace = Trace(tmp_path / "trace", ["lobby"])
    session = trace.open()
    session.receive(b"GET /lobby HTTP/1.1\r\nUpgrade: h2c, WebSocket\r\n\r\n")
    session.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    session.send(encode_frame(Opcode.TEXT, b"hello"))
    assert trace.finish().count(" /lobby < opening handshake") == 1
    assert trace.frames() == ["#1 > text, 5 bytes"]


def test_a_wrong_accept_value_is_noticed(trace: Trace) -> None:
    session = trace.open()
    session.receive(b"GET /a HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n")
    session.send(b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: wrong\r\n\r\n")
    assert ", but the answer was wrong\n" in trace.finish()


def test_a_head_that_comes_in_pieces_is_shown_whole_and_frames_behind_it_are_found(
    trace: Trace,
) -> None:
    session = trace.open()
    head = b"GET /a HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
    for byte in head:
        session.receive(bytes([byte]))
    session.receive(from_client(Opcode.TEXT, b"early"))
    session.send(b"HTTP/1.1 101 x\r\n\r\n" + encode_frame(Opcode.TEXT, b"greeting"))
    assert trace.frames() == ["#1 > text, 8 bytes", "#1 < text, 5 bytes"]


def test_plain_requests_are_shown_without_their_bodies(trace: Trace) -> None:
    session = trace.open()
    session.receive(b"GET /a.js HTTP/1.1\r\nHost: x\r\n\r\nHEAD /b HTTP/1.1\r\n\r\n")
    session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nsecret\r\n\r\nsecret")
    session.send(b"secret secret " + b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n")
    session.upgrade("/c")
    text = trace.finish()
    assert re.findall(r" ([<>]) (.*)\n    (.*)\n", text) == [
        ("<", "HTTP", "GET /a.js HTTP/1.1"),
        ("<", "HTTP", "HEAD /b HTTP/1.1"),
        (">", "HTTP", "HTTP/1.1 200 OK"),
        (">", "HTTP", "HTTP/1.1 204 No Content"),
        ("<", "opening handshake", "GET /c HTTP/1.1"),
        (">", "opening handshake", "HTTP/1.1 101 Switching Protocols"),
    ]
    assert "secret" not in text


def test_each_of_many_requests_at_once_has_its_own_answer(trace: Trace) -> None:
    """Of more than 64 the first were forgotten: a HEAD was taken for a GET, and had a body."""
    session = trace.open()
    count = 3 * MAX_PENDING + 1
    session.receive(b"HEAD / HTTP/1.1\r\n\r\n" * (count - 1) + b"GET /last HTTP/1.1\r\n\r\n")
    session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" * (count - 1))
    session.send(b"HTTP/1.1 204 Done\r\n\r\n")
    heads = re.findall(r" [<>] HTTP\n    (\w+)", trace.finish())
    assert [heads.count(word) for word in ("HEAD", "GET", "HTTP")] == [count - 1, 1, count]


@pytest.mark.parametrize("field", ["Content-Length: 27", "Transfer-Encoding: chunked"])
def test_the_body_of_a_request_is_none(trace: Trace, field: str) -> None:
    """That of a POST, which the server refuses and does not read, was shown as a request."""
    session = trace.open()
    session.receive(f"POST /a HTTP/1.1\r\n{field}\r\n\r\nGET /sec".encode())
    session.receive(b"ret HTTP/1.1\r\n\r\n")
    session.send(b"HTTP/1.1 405 No\r\nConnection: close\r\n\r\n")
    session.receive(b"GET /secret HTTP/1.1\r\n\r\n")
    text = trace.finish()
    assert re.findall(r" ([<>]) HTTP\n    (\w+)", text) == [("<", "POST"), (">", "HTTP")]
    assert "secret" not in text


@pytest.mark.parametrize("base", ["", "/ws"])
def test_what_the_page_of_the_console_asks_all_the_time_is_left_out(
    trace: Trace, base: str
) -> None:
    """With --trace --console the terminal was full of the console's own polls."""
    session = trace.open()
    for path in ("/console/api", "/console/", "/console/api?x"):
        session.receive(f"GET {base}{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    tunnel = trace.open()
    tunnel.upgrade(f"{base}/console/tunnel")
    tunnel.receive(from_client(Opcode.BINARY, b"inside"))
    tunnel.close()
    said = trace.finish()
    assert re.findall(r"GET (\S+) HTTP", said) == [f"{base}/console/"]
    assert said.count("200 OK") == 1 and "inside" not in said and "#2" not in said


def test_what_is_no_http_is_not_traced(trace: Trace) -> None:
    session = trace.open()
    for _ in range(10):
        session.receive(bytes(4000))
    assert len(trace.finish().splitlines()) == 1


def test_ends_are_told(trace: Trace) -> None:
    session, other = trace.open(), trace.open()
    session.upgrade()
    session.close()
    other.flow.note(Event.PEER_RESET)
    other.flow.note(Event.RESET)
    assert trace.frames() == [
        "#1 < close, 2 bytes",
        "#1 > close, 2 bytes",
        "#1 = we have closed our side",
        "#1 = the peer has closed its side",
        "#2 = the peer has broken the connection off",
        "#2 = we have broken the connection off",
    ]


# ==== 3. Filters ==========================================================


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", ["a text", "a ping", "a binary", "b text", "b handshake", "- http"]),
        ("text", ["a text", "b text"]),
        ("a", ["a text", "a ping", "a binary"]),
        ("a,text", ["a text"]),
        ("b,a,text,ping", ["a text", "a ping", "b text"]),
        ("handshake,http", ["b handshake", "- http"]),
        ("/text", []),
    ],
)
def test_a_filter_takes_rooms_and_kinds(words: str, wanted: list[str]) -> None:
    wants = Filter(words.split(",")).wants
    given = [("a", "text"), ("a", "ping"), ("a", "binary"), ("b", "text"), ("b", "handshake")]
    shown = [f"{room} {kind}" for room, kind in given if wants(room, kind)]
    shown += ["- http"] if wants(None, "http") else []
    assert shown == wanted


def test_with_a_slash_a_room_may_be_called_like_a_kind() -> None:
    assert Filter(["/text"]).wants("text", "binary")
    assert not Filter(["text"]).wants("text", "binary")


def test_only_frames_of_the_wanted_rooms_and_kinds_are_printed(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace", ["caf\u00e9", "text"])
    for path in ("/lobby", "/caf%C3%A9"):
        session = trace.open()
        session.upgrade(path)
        session.receive(from_client(Opcode.TEXT, b"1", fin=False))
        session.receive(from_client(Opcode.CONTINUATION, b"2"))
        session.receive(from_client(Opcode.BINARY, b"3"))
        session.close()
    assert "handshake" not in trace.finish()
    assert trace.frames() == ["#2 < text, 1 bytes", "#2 < continuation, 1 bytes"]


# ==== 4. The terminal =====================================================


@given(st.text())
def test_nothing_that_is_shown_can_play_tricks_on_a_terminal(text: str) -> None:
    assert escape(text).isprintable()
    assert all(line.isprintable() for line in draw_text(text.encode(errors="replace"), 10))


def test_heads_of_requests_cannot_play_tricks_either(trace: Trace) -> None:
    session = trace.open()
    head = (
        "GET /%1b]0;x\x1b[2J HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: \x1b[1m\r\n\r\n"
    )
    session.receive(head.encode())
    session.send(b"HTTP/1.1 101 x\r\nX: \x9b1m\r\n\r\n")
    session.receive(from_client(Opcode.TEXT, b"\x1b[2Jhi"))
    session.send(encode_frame(Opcode.CLOSE, b"\x03\xe8\x1b[2J"))
    text = trace.finish()
    assert "[2Jhi" in text and text.replace("\n", "").isprintable()


def test_a_file_gets_no_colours(trace: Trace) -> None:
    trace.open().upgrade()
    assert "\x1b" not in trace.finish()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
@pytest.mark.parametrize("no_colour", ["", "1"])
def test_a_terminal_gets_colours_unless_it_wants_none(
    monkeypatch: pytest.MonkeyPatch, no_colour: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    screen, terminal = os.openpty()
    with open(terminal, "w", encoding="utf-8") as stream:
        tracer = Tracer(stream)
        Session(tracer.open(("192.0.2.1", 1))).receive(b"GET / HTTP/1.1\r\n\r\n")
        tracer.close()
        text = os.read(screen, 10_000).decode()
    os.close(screen)
    assert ("\x1b[36m" in text) == (not no_colour)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_it_is_as_wide_as_the_terminal_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    import termios

    monkeypatch.setenv("NO_COLOR", "1")
    screen, terminal = os.openpty()
    with open(terminal, "w", encoding="utf-8") as stream:
        drawn = []
        for width in (80, 120):
            termios.tcsetwinsize(terminal, (24, width))
            tracer = Tracer(stream)
            session = Session(tracer.open(("192.0.2.1", 1)))
            session.upgrade()
            session.receive(from_client(Opcode.TEXT, b"x" * 300))
            tracer.close()
            drawn += [os.read(screen, 10_000).decode().splitlines()]
    os.close(screen)
    tables = [[line for line in lines if line.startswith("    |")] for lines in drawn]
    assert [len(table) for table in tables] == [6, 3]
    assert max(map(len, tables[0])) <= 80 < len(tables[1][0])


def test_a_terminal_without_unicode_is_not_sent_any(tmp_path: Path) -> None:
    with (tmp_path / "trace").open("w", encoding="ascii") as file:
        tracer = Tracer(file)
        session = Session(tracer.open(("192.0.2.1", 1)))
        session.upgrade()
        session.send(encode_frame(Opcode.TEXT, "grüß".encode()))
        tracer.close()
    assert (tmp_path / "trace").read_bytes().endswith(b'"gr\\xfc\\xdf"\n')


def test_times_are_those_of_the_wall_clock(trace: Trace) -> None:
    import datetime

    before = datetime.datetime.now()
    trace.open().upgrade()
    found = datetime.datetime.strptime(trace.finish()[:15], "%H:%M:%S.%f").time()
    after = datetime.datetime.now()
    if before.date() == after.date():
        slack = datetime.timedelta(milliseconds=5)
        assert (before - slack).time() <= found <= (after + slack).time()


# ==== 5. When it is too much ==============================================


class Pipe:
    """A stream whose reader may take its time."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self.stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115  # closed by read_all
        self._found = io.BytesIO()

    def read_all(self, tracer: Tracer) -> str:
        """Close the tracer while what it prints is read."""
        thread = threading.Thread(target=self._drain)
        thread.start()
        tracer.close()
        self.stream.close()
        thread.join(PATIENCE)
        os.close(self._reader)
        return self._found.getvalue().decode()

    def _drain(self) -> None:
        while data := os.read(self._reader, 65536):
            self._found.write(data)


def test_a_terminal_that_does_not_keep_up_is_never_waited_for() -> None:
    pipe = Pipe()
    tracer = Tracer(pipe.stream, tape_size=400_000)
    session, other = (Session(tracer.open(("192.0.2.1", n))) for n in (1, 2))
    session.upgrade()
    for _ in range(3000):
        session.send(encode_frame(Opcode.TEXT, b"x" * 400))
    other.receive(b"GET / HTTP/1.1\r\n\r\n")
    text = pipe.read_all(tracer)
    assert re.search(r"#1 .* = \d+ bytes were missed; it is not traced any further", text) or (
        "frames are not shown; they came too fast" in text
    )
    assert len(text) < 2_000_000


def test_at_the_end_what_would_take_too_long_is_counted(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing told of it, and the log blamed whoever read the trace."""
    tracer, ending = trace.tracer, threading.Event()
    measure, stop = tracer._printer.measure, tracer._tape.stop
    monkeypatch.setattr("scalesocket.net.trace.LAST_TIME", 0.0)

    def measure_late() -> None:
        assert ending.wait(PATIENCE)
        measure()

    def begin_to_end() -> bool:
        ending.set()
        return stop()

    monkeypatch.setattr(tracer._printer, "measure", measure_late)
    monkeypatch.setattr(tracer._tape, "stop", begin_to_end)
    session = trace.open()
    session.upgrade()
    for _ in range(100):
        session.send(encode_frame(Opcode.TEXT, b"hello"))
    heads = 2  # of the handshake
    counted = f"= {100 + heads} frames are not shown; they came too fast"
    assert counted in trace.finish()
    assert trace.frames() == []


def test_an_output_that_does_not_wait_is_waited_for() -> None:
    """Who had started the server had made it so, and the trace ended as soon as it was full."""
    pipe = Pipe()
    os.set_blocking(pipe.stream.fileno(), False)
    tracer = Tracer(pipe.stream)
    session = Session(tracer.open(("192.0.2.1", 1)))
    session.upgrade()
    for _ in range(300):
        session.send(encode_frame(Opcode.TEXT, b"x" * 400))
    session.send(encode_frame(Opcode.TEXT, b"the last"))
    assert pipe.read_all(tracer).endswith('    "the last"\n')


def test_frames_that_come_too_fast_are_counted_and_what_follows_is_shown_again() -> None:
    pipe = Pipe()
    tracer = Tracer(pipe.stream, tape_size=1_000_000)
    session = Session(tracer.open(("192.0.2.1", 1)))
    session.upgrade()
    wait_until(lambda: tracer._tape._size == 0)
    session.send(encode_frame(Opcode.TEXT, b"x" * 100) * 6000)
    wait_until(lambda: tracer._tape._size == 0)
    session.send(encode_frame(Opcode.TEXT, b"the last"))
    text = pipe.read_all(tracer)
    assert "\n= 6000 frames are not shown; they came too fast\n" in text
    assert text.endswith('    "the last"\n')


def test_what_was_missed_ends_the_trace_of_that_connection_alone(trace: Trace) -> None:
    session, other = trace.open(), trace.open()
    session.upgrade()
    other.upgrade()
    session.flow.lost[Event.SENT] = (1, 77)  # as a full tape does
    session.send(b"the rest of something")
    session.send(encode_frame(Opcode.TEXT, b"unseen"))
    other.send(encode_frame(Opcode.TEXT, b"seen"))
    session.flow.note(Event.RESET)
    assert trace.frames() == [
        "#1 = 77 bytes were missed; it is not traced any further",
        "#2 > text, 4 bytes",
        "#1 = we have broken the connection off",
    ]


def test_when_the_reader_of_the_trace_has_gone_it_ends_and_that_is_said_once() -> None:
    program = (
        "import logging, sys, time\n"
        "logging.basicConfig()\n"
        "from net.trace import Tracer\n"
        "from tests.capture import Session\n"
        "tracer = Tracer(sys.stdout)\n"
        "session = Session(tracer.open(('192.0.2.1', 1)))\n"
        "session.upgrade()\n"
        "while not tracer._failed: session.send(b'\\x81\\x00'); time.sleep(0.001)\n"
        "tracer.close()"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as process:  # type: ignore
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 0
    assert told.count(b"\n") == 1 and b"the trace ends" in told


def test_without_memory_the_trace_ends_and_that_is_said(
    trace: Trace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread was gone, and nobody was told why nothing was shown any more."""
    session = trace.open()
    session.upgrade()
    with monkeypatch.context() as patch:
        patch.setattr(TracedFlow, "take", Mock(side_effect=MemoryError))
        session.send(encode_frame(Opcode.TEXT, b"not shown"))
        wait_until(lambda: trace.tracer._failed)
    session.send(encode_frame(Opcode.TEXT, b"nor this"))
    assert "shown" not in trace.finish()
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told == ["the trace ends: the system is out of memory"]


def test_no_bytes_stop_the_trace_of_others(trace: Trace) -> None:
    session, other = trace.open(), trace.open()
    session.upgrade(extensions=DEFLATE)
    other.upgrade()
    for size in range(200):
        session.receive(os.urandom(size))
        with contextlib.suppress(ValueError):
            session.send(os.urandom(size))
    other.send(encode_frame(Opcode.TEXT, b"still here"))
    assert trace.finish().endswith('    "still here"\n')
