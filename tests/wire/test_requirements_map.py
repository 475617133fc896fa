"""The tables of requirements in net/README.md name functions and tests that exist.

What no other file shows of RFC 6455's requirements on a server is shown here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.net import pings, presence
from scalesocket.net.deflate import DEFLATE, RSV1

from scalesocket import (
    PLAIN,
    CloseCode,
    Encoding,
    HandshakeError,
    JsonFraming,
    Kick,
    Opcode,
    WebSocketProtocol,
    answer_handshake,
    check_close_code,
    encode_frame,
    encode_messages,
    parse_request,
)
from tests.support import CLOSE, PING, PONG, ROOT, RawClient, serve

GUIDE = (ROOT / "net" / "README.md").read_text(encoding="utf-8")
MAPPED = ["4.2.1", "4.2.2", "4.4", "5.1", "5.2", "5.3", "5.4", "5.5", "5.5.1", "5.5.2", "5.5.3"]
MAPPED += ["5.6", "5.8", "6.1", "6.2", "7.1.1", "7.1.2", "7.1.5", "7.1.7", "7.4.1", "7.4.2", "8.1"]
MAPPED += ["9.1", "10.4", "10.7", "11.3.1", "11.3.3", "11.3.4", "11.3.5"]
MAPPED_OF_DEFLATE = ["5.1", "6.1", "6.2", "7.1", "7.1.1.1", "7.1.1.2", "7.1.2.1", "7.1.2.2"]
MAPPED_OF_DEFLATE += ["7.2.1", "7.2.2", "7.2.3.4", "8"]


# ==== 1. The tables =======================================================


class Row(NamedTuple):
    """A requirement: its sections, what it is, the function, and the test."""

    sections: str
    duty: str
    function: str
    test: str


def read_tables() -> list[list[Row]]:
    """Return the rows of RFC 6455's table, and of RFC 7692's."""
    heading = "| section | a server | does it in | shown by |\n| --- | --- | --- | --- |\n"
    tables = []
    for part in GUIDE.split(heading)[1:]:
        lines = part.partition("\n\n")[0].splitlines()
        tables.append([Row(*line.strip("| ").split(" | ")) for line in lines])
    return tables


TABLES = read_tables()
ROWS = [row for table in TABLES for row in table]


@cache
def functions_of(name: str) -> set[str]:
    """Return the names of the tests in a file of that name, in a folder of `tests/`."""
    [path] = (ROOT / "tests").rglob(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_section_that_asks_something_of_a_server_is_mapped() -> None:
    found = [{name for row in rows for name in row.sections.split(", ")} for rows in TABLES]
    assert found == [set(MAPPED), set(MAPPED_OF_DEFLATE)]


@pytest.mark.parametrize("name", sorted({row.function for row in ROWS}))
def test_every_function_exists(name: str) -> None:
    path = name.strip("`").split(".")
    home = "scalesocket"
    if path[0] == "net":
        home = ".".join((home, *path[:2]))
        path = path[2:]
    found: object = importlib.import_module(home)
    for part in path:
        found = getattr(found, part)
    found = found.fget if isinstance(found, property) else found
    assert inspect.isfunction(found) or inspect.isclass(found)
    assert found.__module__ == home


@pytest.mark.parametrize("name", sorted({row.test for row in ROWS}))
def test_every_test_exists(name: str) -> None:
    match = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", name)
    assert match and match[2] in functions_of(match[1])


# ==== 2. What no other test shows =========================================

HEAD = [
    "GET /lobby HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


@pytest.mark.parametrize(("line", "status"), [(HEAD[4], 426), (HEAD[5], 400)])
def test_a_key_or_a_version_that_is_said_twice_is_refused(line: str, status: int) -> None:
    answer_handshake(parse_request("\r\n".join(HEAD).encode()))
    request = parse_request("\r\n".join([*HEAD, line]).encode())
    with pytest.raises(HandshakeError) as caught:
        answer_handshake(request)
    assert caught.value.status == status


def encode_all(payload: bytes, encoding: Encoding) -> list[bytes]:
    """Return every kind of frame that a server sends, with a payload if it fits in."""
    frames = [encoding.encode_run(opcode, [payload]) for opcode in (Opcode.TEXT, Opcode.BINARY)]
    frames.append(encode_messages(Opcode.BINARY, [payload]))
    frames.append(encoding.encode_message(payload))
    frames.append(encode_frame(Opcode.PONG, payload[:125]))
    frames.append(WebSocketProtocol.encode_close(1000, payload.decode("latin-1")))
    return [*frames, pings.PING, presence.PONG]


payloads = st.binary(max_size=70_000) | st.integers(0, 70_000).map(bytes)


@pytest.mark.slow
@given(payloads, st.sampled_from([PLAIN, DEFLATE[9], DEFLATE[15]]))
def test_no_frame_of_a_server_is_masked(payload: bytes, encoding: Encoding) -> None:
    assert [frame for frame in encode_all(payload, encoding) if frame[1] >= 0x80] == []


@given(payloads, st.sampled_from([PLAIN, DEFLATE[9], DEFLATE[15]]))
def test_no_reserved_bit_is_set_that_was_not_agreed_on(payload: bytes, encoding: Encoding) -> None:
    assert [
        frame for frame in encode_all(payload, encoding) if frame[0] >> 4 & 7 & ~encoding.rsv
    ] == []


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536])
def test_no_program_can_make_the_server_send_a_forbidden_code(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):  # what a game's `close` does
        check_close_code(code)
    framing = JsonFraming(report=lambda client, what: None)
    (wish,) = framing.route([b'{"_close":{"code":%d}}' % code])  # what a child asks for
    assert isinstance(wish, Kick) and wish.code == CloseCode.NORMAL


def test_pongs_and_closes_are_never_compressed() -> None:
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    text = b"a" * 120
    with serve("--compress", "cat") as server:
        with RawClient.connect(server, headers=offer) as client:
            client.allow_rsv = True
            client.send_text(text)
            assert client.receive_frame().rsv == RSV1
            client.send_frame(PING, text)
            pong = client.receive_frame()
            assert (pong.opcode, pong.rsv, pong.payload) == (PONG, 0, text)
            client.send_close(CloseCode.NORMAL)
            close = client.receive_frame()
            assert (close.opcode, close.rsv) == (CLOSE, 0)


def test_every_section_of_the_map_is_cited_in_the_source() -> None:
    source = (ROOT / "scalesocket.py").read_text(encoding="utf-8")
    text = source[source.index("# ==== 3.") : source.index("# ==== 8.")]
    text += (ROOT / "net" / "deflate.py").read_text(encoding="utf-8")
    general = {"5.8", "10.7", "11.3.3", "11.3.4"}  # no one line is about these
    for name in {*MAPPED, *MAPPED_OF_DEFLATE} - general:
        assert re.search(rf"(?<![\d.]){re.escape(name)}(?!\d|\.\d)", text), name
