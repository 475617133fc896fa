"""The console: its WebSocket in JavaScript, its page in a real browser, and who may see it."""

from __future__ import annotations

import functools
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalesocket import (
    Closing,
    FrameParser,
    Opcode,
    Role,
    WebSocketProtocol,
    accept_key,
    encode_frame,
)
from tests import browser as in_browser
from tests.browser import (
    MARKUP,
    NARROWEST,
    PATIENCE,
    PHONE,
    OpenTab,
    Visit,
    expect,
    hold,
    note,
    sticking_out,
)
from tests.support import (
    ROOT,
    Call,
    RawClient,
    ServerProcess,
    free_port,
    http_request,
    run_node,
    serve,
    settled,
    wait_until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

browser, open_tab, visit = in_browser.browser, in_browser.open_tab, in_browser.visit

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # and what is made of it: RFC 6455 section 1.3
TOUCH = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


# ==== 1. The codec ==========================================================
# It is JavaScript with nothing of a browser in it, so it runs in Node: one process for all tests,
# a line of JSON in and a line out. What it should give, the server's own code says.

SCRIPT = """
import readline from "node:readline";
import * as bytes from "FOLDER/bytes.js";
import * as explain from "FOLDER/explain.js";
import * as frames from "FOLDER/frames.js";
import * as handshake from "FOLDER/handshake.js";

const hex = (data) => Buffer.from(data).toString("hex");
const unhex = (text) => Uint8Array.from(Buffer.from(text, "hex"));

function encode(spec) {
  const key = spec.key ? unhex(spec.key) : null;
  return hex(frames.encodeFrame({ ...spec, key, payload: unhex(spec.payload) }));
}

function read(pieces, kept) {
  const reader = new frames.FrameReader(kept);
  return pieces.flatMap((piece) => reader.feed(unhex(piece))).map((frame) => ({
    ...frame, payload: hex(frame.payload), key: frame.key && hex(frame.key),
    header: hex(frame.header),
  }));
}

function faults(data, way) {
  const [frame] = new frames.FrameReader().feed(unhex(data));
  return explain.faultsOf(frame, way, false).map(({ text }) => text);
}

function parse(text) {
  try {
    return hex(bytes.parseHex(text));
  } catch (error) {
    return error.message;
  }
}

function cut(payload, count) {
  return frames.fragment(1, unhex(payload), count)
    .map(({ payload, ...spec }) => ({ ...spec, payload: hex(payload) }));
}

const actions = {
  encode, read, faults, parse, cut, accept: handshake.acceptSteps, request: handshake.buildRequest,
  path: handshake.roomPath, fields: (data) => {
    const [frame] = new frames.FrameReader().feed(unhex(data));
    return explain.headerFields(frame);
  },
};
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  console.log(JSON.stringify(actions[name](...values)));
}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Call]:
    """Call a function of `SCRIPT` with JSON values."""
    program = SCRIPT.replace("FOLDER", (ROOT / "client" / "console").as_posix())
    with run_node(program) as call:
        yield call


lengths = st.integers(0, 300) | st.sampled_from([125, 126, 65535, 65536])
payloads = lengths.map(lambda length: bytes(i * 7 % 256 for i in range(length)))
keys = st.just(b"") | st.binary(min_size=4, max_size=4)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the arguments of `encode_frame`."""
    return {
        "fin": draw(st.booleans()),
        "rsv": draw(st.integers(0, 7)),
        "opcode": draw(st.integers(0, 15)),
        "masking_key": draw(keys),
        "payload": draw(payloads),
    }


@settings(max_examples=60)
@given(spec=specs())
def test_frames_are_written_as_the_server_writes_them(node: Call, spec: dict[str, Any]) -> None:
    payload, key = spec["payload"].hex(), spec["masking_key"].hex()
    plain = {name: spec[name] for name in ("fin", "rsv", "opcode")}
    written = node("encode", {**plain, "payload": payload, "key": key})
    assert written == encode_frame(**spec).hex()


@settings(max_examples=40)
@given(sent=st.lists(specs(), min_size=1, max_size=4), data=st.data())
def test_frames_are_read_however_they_are_cut(
    node: Call, sent: list[dict[str, Any]], data: st.DataObject
) -> None:
    stream = b"".join(encode_frame(**spec) for spec in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b].hex() for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = [
        {
            **{name: frame[name] for name in ("fin", "rsv", "opcode")},
            "masking_key": bytes.fromhex(frame["key"] or ""),
            "payload": bytes.fromhex(frame["payload"]),
        }
        for frame in node("read", pieces, 100_000)
    ]
    assert found == sent


def test_the_rest_of_a_long_payload_is_counted_and_not_kept(node: Call) -> None:
    long, short = encode_frame(2, bytes(5000)), encode_frame(1, b"next")
    first, second = node("read", [(long + short).hex()], 100)
    assert first["length"] == 5000
    assert first["payload"] == bytes(100).hex()
    assert second["payload"] == b"next".hex()


@pytest.mark.parametrize(
    ("form", "header"), [(7, "81 05"), (16, "81 7e 0005"), (64, "81 7f 0000000000000005")]
)
def test_a_length_may_be_written_in_more_bits_than_it_needs(
    node: Call, form: int, header: str
) -> None:
    written = node("encode", {"opcode": 1, "form": form, "payload": b"Hello".hex()})
    assert bytes.fromhex(written) == bytes.fromhex(header) + b"Hello"


@settings(max_examples=30)
@given(payload=st.binary(max_size=60), count=st.integers(1, 20))
def test_fragments_are_one_message_to_the_server(node: Call, payload: bytes, count: int) -> None:
    parser = FrameParser(masked=False, max_length=1000)
    for piece in node("cut", payload.hex(), count):
        parser.feed(bytes.fromhex(node("encode", piece)))
    frames = list(iter(parser.next_frame, None))
    assert b"".join(frame.payload for frame in frames) == payload
    assert [frame.header.fin for frame in frames] == [False] * (count - 1) + [True]
    assert [frame.header.opcode for frame in frames] == [Opcode.TEXT] + [0] * (count - 1)


def test_the_accept_value_is_the_servers(node: Call) -> None:
    assert node("accept", KEY)["accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    for size in range(0, 130):  # SHA-1 takes one, two or three blocks
        assert node("accept", "k" * size)["accept"] == accept_key("k" * size)


@settings(max_examples=150)
@given(
    spec=specs(),
    payload=st.sampled_from(
        [b"", b"a", b"\x03", b"\x03\xe8", b"\x03\xed", b"\x03\xe8\xff", b"\xff"]
    )
    | st.binary(max_size=130),
)
def test_what_is_called_wrong_is_what_the_server_refuses(
    node: Call, spec: dict[str, Any], payload: bytes
) -> None:
    data = encode_frame(**{**spec, "payload": payload})
    protocol = WebSocketProtocol(Role.SERVER, max_message=1_000_000)
    events = protocol.receive(data)
    refused = any(isinstance(event, Closing) and event.failed for event in events)
    faults = node("faults", data.hex(), "sent")
    incomplete = spec["opcode"] == Opcode.TEXT and not spec["fin"]
    if not incomplete:  # the server also sees the first bad byte of a fragment
        assert bool(faults) == refused, faults


@pytest.mark.parametrize("form", [16, 64])
def test_a_length_not_in_its_shortest_form_is_called_wrong(node: Call, form: int) -> None:
    spec = {"opcode": 1, "form": form, "payload": "41", "key": "00000000"}
    assert node("faults", node("encode", spec), "sent") == [
        "The length is not in its shortest form."
    ]


@settings(max_examples=30)
@given(spec=specs())
def test_the_drawn_fields_are_the_bits_of_the_header(node: Call, spec: dict[str, Any]) -> None:
    data = encode_frame(**spec)
    size = len(data) - len(spec["payload"])
    drawn = "".join(field["bits"].replace(" ", "") for field in node("fields", data.hex()))
    assert drawn == "".join(f"{byte:08b}" for byte in data[:size])


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("48 65", "4865"),
        ("0x48,0X65:6c", "48656c"),
        ("48\n656C", "48656c"),
        ("0x1 0X2,0xf:10", "01020f10"),
        ("", ""),
        ("4", "1 digits: each byte needs two"),
        ("zz", "“z” is no hexadecimal digit (0–9, a–f)"),
        ("４８", "“４” is no hexadecimal digit (0–9, a–f)"),
    ],
)
def test_hex_is_read_as_people_write_it(node: Call, text: str, result: str) -> None:
    assert node("parse", text) == result


def test_fields_of_the_request_can_be_changed_added_and_taken_away(node: Call) -> None:
    fields = {"host": "h", "origin": "o", "path": "/a", "protocols": ["x", "y"], "key": KEY}
    extra = "sec-websocket-version: 12\n\nX-Team: red: 1\nOrigin:\n"
    request = node("request", {**fields, "extra": extra})
    assert request.split("\r\n") == [
        "GET /a HTTP/1.1",
        "Host: h",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 12",
        "Sec-WebSocket-Protocol: x, y",
        "X-Team: red: 1",
        "",
        "",
    ]


def test_a_room_and_a_query_cannot_leave_the_request_line(node: Call) -> None:
    path = node("path", "a/b c?\r\n", "x=1 2\r\nHost: y#z")
    assert path == "/a%2Fb%20c%3F%0D%0A?x=1%202%0D%0AHost:%20y%23z"


# ==== 2. Who may see it =======================================================


def test_the_api_tells_of_rooms_and_clients() -> None:
    with serve("--console", "cat") as server, RawClient.connect(server, "pond") as client:
        client.send_text("hi")
        client.receive_text()
        response = http_request(server, path="/console/api")
        facts = json.loads(response.body)
        assert facts["target"] == "cat"
        assert facts["kind"] == "program"
        (room,) = facts["rooms"]
        assert (room["name"], room["messages_in"], room["messages_out"]) == ("pond", 1, 1)
        (seat,) = room["clients"]
        assert (seat["address"], seat["coding"], seat["backlog"]) == ("127.0.0.1", "plain", 0)
        assert facts["totals"]["connections"] == 1


@pytest.mark.parametrize("number", ["1e999", "9" * 5000])
def test_a_number_that_python_cannot_hold_spoils_nothing(number: str) -> None:
    """One room's metadata took all rooms from the console: `Infinity` is no JSON for a page."""
    script = f'echo \'{{"_meta":true,"best":{number}}}\'; exec cat'
    with (
        serve("--console", "--serverframe=json", "sh", "--", "-c", script) as server,
        RawClient.connect(server, "pond") as client,
    ):
        client.send_text("hi")
        assert client.receive_text() == "hi"  # and what was printed before that has been read
        response = http_request(server, path="/console/api")
        assert b"Infinity" not in response.body
        assert [room["metadata"] for room in json.loads(response.body)["rooms"]] == [{"best": None}]


def test_without_the_option_there_is_no_console(tmp_path: Path) -> None:
    """Case 28: `game.py` served the page as a file of its folder, and it could do nothing."""
    for target in ("cat", "game.py"):
        with serve(target) as server:
            for path in ("/console/", "/console", "/console/console.js", "/console/api"):
                assert http_request(server, path=path).status == 404
    (tmp_path / "console").mkdir()
    (tmp_path / "console" / "index.html").write_text("a page of the user's own")
    with serve("--staticdir", str(tmp_path), "cat") as server:
        assert http_request(server, path="/console/").body == b"a page of the user's own"


@pytest.mark.parametrize("path", ["/console/", "/console/api", "/console/console.js"])
def test_other_networks_and_other_names_are_refused(path: str) -> None:
    with serve("--console", "cat") as server:
        assert http_request(server, path=path).status == 200
        assert http_request(server, path=path, headers={"Host": "evil.example"}).status == 403
        assert http_request(server, path=path, headers={"Host": "localhost:1"}).status == 200
    with serve("--console=10.0.0.0/8", "cat") as server:
        assert http_request(server, path=path).status == 403


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        (["--console"], {"Host": "evil.example"}),
        (["--console"], {"Origin": "http://evil.example"}),
        (["--console"], {"X-Forwarded-For": "192.0.2.1"}),
        (["--console=10.0.0.0/8"], {}),
    ],
)
def test_a_tunnel_is_for_the_consoles_own_page(options: list[str], headers: dict[str, str]) -> None:
    asked = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    with serve(*options, "cat") as server:
        asked["Origin"] = server.http().rstrip("/")
        response = http_request(server, path="/console/tunnel", headers={**asked, **headers})
        assert response.status == 403


def dig(server: ServerProcess, path: str) -> RawClient:
    """Return a tunnel in which a room, or another path, has been asked for."""
    own = {"Origin": server.http().rstrip("/")}
    page = RawClient.connect(server, path="/console/tunnel", headers=own)
    page.send_binary(
        b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
        % (path.encode(), KEY.encode())
    )
    return page


@pytest.mark.parametrize("end", ["closes", "vanishes", "is told of the end"])
def test_a_tunnel_leaves_nothing_open_however_it_ends(end: str) -> None:
    with serve("--console", "--ping=0", "cat") as server:

        def count() -> int:
            return server.threads() + server.descriptors()

        def be_there() -> None:
            with dig(server, "/room") as page:
                assert page.receive_binary().startswith(b"HTTP/1.1 101 ")
                if end == "vanishes":
                    page.reset()
                elif end == "closes":
                    page.close()
                else:
                    page.send_binary(encode_frame(Opcode.TEXT, b"not masked"))
                    assert page.wait_close() == (1000, "the connection has ended")

        be_there()  # something may be loaded for the first one
        before = settled(count)
        be_there()
        wait_until(lambda: count() <= before)


def test_who_reads_nothing_of_a_tunnel_is_let_go() -> None:
    """Of what a room says there, no more waits than for any other client."""
    with serve("--console", "--stall=0.5", "--linger=0", "yes") as server:
        with dig(server, "/room") as page:
            wait_until(server.children)
            wait_until(lambda: not server.children())
            assert page.wait_close()[0] == 1008


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    with serve("--console", "cat") as server:
        policy = http_request(server, path="/console/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy


# ==== 3. Frames by hand ======================================================
# The policy of the page forbids `eval`, which waiting for an expression needs, so these tests wait
# for elements.


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One server for all tests of a page, which leave its rooms when they end."""
    with serve("--console", "cat") as running:
        yield running


def connect(open_tab: OpenTab, room: str = "lobby", **options: Any) -> Page:
    page = open_tab("/console/", **options)
    page.get_by_label("Room", exact=True).fill(room)
    page.get_by_role("button", name="Connect", exact=True).click()
    page.locator("body[data-state=open]").wait_for()
    return page


def await_entries(page: Page, way: str, kind: str, count: int = 1) -> None:
    """Wait until so many frames of a kind are in the list."""
    entries = page.locator(f"#log .{way}", has=page.locator(".kind", has_text=kind))
    entries.nth(count - 1).wait_for()


def await_drawn(page: Page, title: str) -> None:
    page.locator("#drawn-title", has_text=title).wait_for()


def await_said(page: Page, words: str) -> None:
    page.locator("#log").get_by_text(words).wait_for()


def entries(page: Page, way: str) -> list[tuple[str, str]]:
    """Return kind and preview of all that was sent, or received, after the handshake."""
    script = """(found) => found.map((entry) =>
        [".kind", ".preview"].map((part) => entry.querySelector(part).textContent))"""
    found = page.locator(f"#log .{way}").evaluate_all(script)
    return [(kind, preview) for kind, preview in found if kind != "handshake"]


def choose(page: Page, way: str, kind: str) -> None:
    page.locator(f"#log .{way}", has=page.locator(".kind", has_text=kind)).first.click()
    heads = {"sent": "request", "received": "response"}
    await_drawn(page, f"{way.title()}: {heads[way] if kind == 'handshake' else kind}")


def drawn_fields(page: Page) -> dict[str, str]:
    """Return the bits, or else the value, of each field that is drawn."""
    script = """(rows) => rows.map((row) => [
        row.querySelector("th").textContent,
        row.querySelector(".value").firstElementChild.textContent])"""
    found = page.locator("#drawing .fields tr").evaluate_all(script)
    return dict(cast("list[tuple[str, str]]", found))


def drawn_bytes(page: Page) -> bytes:
    """Return the bytes of the header, as they are drawn bit by bit."""
    bits = "".join(page.locator("#drawing .bit").all_text_contents())
    written = "".join(page.locator("#drawing .byte .hex").all_text_contents())
    assert int(bits, 2) == int(written, 16)
    return bytes.fromhex(written)


def drawn_payload(page: Page, row: int) -> str:
    """Return a row of the payload: 0 is the wire; the last is text."""
    found = page.locator("#drawing .column:not(.names)")
    script = "(columns, row) => columns.map((column) => column.children.item(row).textContent)"
    return " ".join(found.evaluate_all(script, row))


def send_text(page: Page, text: str, pieces: int = 1, times: int = 1) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Frames", exact=True).fill(str(pieces))
    page.get_by_label("Times", exact=True).fill(str(times))
    page.get_by_role("button", name="Send message").click()


def send_text_only(page: Page, text: str) -> None:
    """Send a message in a way that cannot be in several frames."""
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send message").click()


def edit_frame(page: Page, example: str) -> None:
    page.get_by_role("button", name="Frame", exact=True).click()
    page.get_by_label("Begin with").select_option(example)
    await_drawn(page, "To be sent")


def test_the_handshake_is_drawn_and_its_accept_value_worked_out(open_tab: OpenTab) -> None:
    page = connect(open_tab, "two words")
    await_drawn(page, "Received: response")
    answered = drawn_fields(page)
    assert answered["status"] == "HTTP/1.1 101 Switching Protocols"
    assert answered["in base64"] == answered["Sec-WebSocket-Accept"]
    expect(page.locator("#drawing")).to_contain_text("✓")
    choose(page, "sent", "handshake")
    asked = drawn_fields(page)
    assert asked["GET"] == "GET /two%20words HTTP/1.1"
    assert accept_key(asked["Sec-WebSocket-Key"]) == answered["in base64"]
    links = page.locator("#drawing a").evaluate_all("(found) => found.map(({ href }) => href)")
    assert "https://www.rfc-editor.org/rfc/rfc6455#section-4.1" in links


def test_what_is_typed_before_the_page_is_all_there_is_kept(
    visit: Visit, server: ServerProcess
) -> None:
    """ "Connect" loaded the page anew, without it; and the address's room came in its place."""
    page = visit(server, "/health")
    let_go = hold(page, "**/console/console.js")
    page.goto(server.http("/console/?room=attic"), wait_until="commit")
    room = page.get_by_label("Room", exact=True)
    room.fill("cellar")
    page.get_by_label("Message", exact=True).fill("hello")
    for name in ("Connect", "Send message", "Ping", "Close"):
        page.get_by_role("button", name=name, exact=True).click()
    let_go()
    page.locator("body[data-server=live]").wait_for()
    assert page.url == server.http("/console/?room=attic")
    assert room.input_value() == "cellar"
    assert page.get_by_label("Message", exact=True).input_value() == "hello"
    page.get_by_role("button", name="Connect", exact=True).click()
    page.locator("body[data-state=open]").wait_for()
    choose(page, "sent", "handshake")
    assert drawn_fields(page)["GET"] == "GET /cellar HTTP/1.1"


def test_hello_goes_out_as_the_bytes_of_the_rfc_and_comes_back(open_tab: OpenTab) -> None:
    page = connect(open_tab)
    edit_frame(page, "“Hello”, as in § 5.7")
    assert drawn_bytes(page) == bytes.fromhex("81 85 37 fa 21 3d")
    assert drawn_payload(page, 0) == "7f 9f 4d 51 58"
    assert drawn_payload(page, 1) == "37 fa 21 3d 37"
    assert drawn_payload(page, 2) == "48 65 6c 6c 6f"
    assert drawn_payload(page, 3) == "H e l l o"
    page.get_by_role("button", name="Send frame").click()
    await_drawn(page, "Received: text frame, 5 bytes")
    assert drawn_bytes(page) == bytes.fromhex("81 05")
    assert drawn_payload(page, 0) == "48 65 6c 6c 6f"
    fields = drawn_fields(page)
    assert (fields["FIN"], fields["opcode"], fields["MASK"]) == ("1", "0001", "0")


def test_a_message_in_three_frames_is_one_for_the_room(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    page = connect(open_tab)
    with RawClient.connect(server, "lobby") as other:
        send_text(page, "Grüße aus dem Garten", pieces=3)
        assert other.receive_text() == "Grüße aus dem Garten"
    await_entries(page, "received", "text")
    sent = [kind for kind, _ in entries(page, "sent")]
    assert sent == ["text", "continuation", "continuation"]
    choose(page, "sent", "text")
    assert drawn_bytes(page)[0] == 0x01
    choose(page, "sent", "continuation")
    assert drawn_bytes(page)[0] == 0x00
    assert entries(page, "received") == [("text", "Grüße aus dem Garten")]


def test_bytes_are_sent_from_hex_and_nonsense_is_refused(open_tab: OpenTab) -> None:
    page = connect(open_tab)
    page.locator("#type").select_option("hex")
    send_text(page, "c3 28 0")
    expect(page.locator("#message-problem")).to_contain_text("5 digits")
    assert entries(page, "sent") == []
    send_text(page, "c3 28 00 0a")
    await_entries(page, "sent", "binary")
    choose(page, "sent", "binary")
    assert drawn_payload(page, 2) == "c3 28 00 0a"


def test_a_message_may_be_sent_many_times(open_tab: OpenTab) -> None:
    page = connect(open_tab)
    send_text(page, "again", times=20)
    await_entries(page, "received", "text", 20)
    assert entries(page, "sent") == [("text", "again")] * 20


def test_a_ping_is_answered_by_a_pong_with_the_same_payload(open_tab: OpenTab) -> None:
    page = connect(open_tab)
    page.get_by_label("Payload of a Ping").fill("are you there?")
    page.get_by_role("button", name="Ping", exact=True).click()
    await_drawn(page, "Received: pong frame")
    assert entries(page, "received") == [("pong", "are you there?")]


def test_a_ping_of_the_server_is_answered_unless_one_says_no(visit: Visit) -> None:
    with serve("--console", "--ping", "3", "cat") as server:  # a busy browser has 6 s to answer
        page = connect(functools.partial(visit, server))
        await_entries(page, "received", "ping", 1)
        await_entries(page, "sent", "pong", 1)
        page.locator("summary", has_text="More").click()
        page.get_by_label("Answer Pings").uncheck()
        page.locator("body[data-state=closing], body[data-state=closed]").wait_for()


def test_a_close_is_answered_and_ends_the_connection(open_tab: OpenTab) -> None:
    page = connect(open_tab)
    page.get_by_label("Code", exact=True).fill("4001")
    page.get_by_label("Reason", exact=True).fill("enough")
    page.get_by_role("button", name="Close", exact=True).click()
    page.locator("body[data-state=closed]").wait_for()
    await_said(page, "after a closing handshake")
    assert entries(page, "sent") == [("close", "4001 enough")]
    assert [preview[:4] for _, preview in entries(page, "received")] == ["4001"]


@pytest.mark.parametrize(
    ("example", "code", "section"),
    [
        ("Wrong: not masked", 1002, "5.1"),
        ("Wrong: a reserved opcode", 1002, "5.2"),
        ("Wrong: RSV1, with no extension", 1002, "5.2"),
        ("Wrong: a Ping of 126 bytes", 1002, "5.5"),
        ("Wrong: half a Ping", 1002, "5.5"),
        ("Wrong: 5 bytes, length in 16 bits", 1002, "5.2"),
        ("Wrong: continues nothing", 1002, "5.4"),
        ("Wrong: text that is not UTF-8", 1007, "8.1"),
        ("Wrong: Close with code 1005", 1002, "7.4"),
    ],
)
def test_wrong_frames_are_answered_by_a_close(
    open_tab: OpenTab, example: str, code: int, section: str
) -> None:
    page = connect(open_tab)
    edit_frame(page, example)
    page.get_by_role("button", name="Send frame").click()
    page.locator("body[data-state=closed]").wait_for()
    await_drawn(page, "Received: close frame")
    assert drawn_bytes(page)[0] == 0x88
    expect(page.locator("#drawing .fields")).to_contain_text(f"code {code}")
    page.locator("#log .sent:has(.wrong)").first.click()
    await_drawn(page, "Sent")
    assert page.locator("#drawing .faults a").all_text_contents() == [f"§ {section}"]
    expect(page.locator("#answer")).to_contain_text(f"{code}")


def test_the_request_can_be_spoilt_to_see_the_refusal(open_tab: OpenTab) -> None:
    page = open_tab("/console/")
    page.locator("summary", has_text="More").click()
    page.get_by_label("Header fields").fill("Sec-WebSocket-Version: 12")
    page.get_by_role("button", name="Connect", exact=True).click()
    await_said(page, "Handshake failed: the server answers 426, not 101.")
    await_drawn(page, "Received: response")
    assert drawn_fields(page)["Sec-WebSocket-Version"] == "13"
    expect(page.locator("#drawing pre").first).to_contain_text("version 13")


def test_a_subprotocol_and_a_query_reach_the_program(visit: Visit) -> None:
    with serve(
        "--console", "--subprotocol", "tea,milk", "printenv", "--", "QUERY_STRING"
    ) as server:
        page = visit(server, "/console/")
        page.locator("summary", has_text="More").click()
        page.get_by_label("Query", exact=True).fill("name=Ada L")
        page.get_by_label("Subprotocols").fill("coffee, milk")
        page.get_by_role("button", name="Connect", exact=True).click()
        await_entries(page, "received", "text")
        assert ("text", "name=Ada%20L") in entries(page, "received")
        choose(page, "received", "handshake")
        assert drawn_fields(page)["Sec-WebSocket-Protocol"] == "milk"


def test_a_compressed_message_is_shown_as_it_was(visit: Visit) -> None:
    with serve("--console", "--compress", "cat") as server:
        page = visit(server, "/console/")
        page.locator("summary", has_text="More").click()
        page.get_by_label("Offer compression").check()
        page.get_by_role("button", name="Connect", exact=True).click()
        page.locator("body[data-state=open]").wait_for()
        send_text(page, "fish and " * 30 + "chips")
        await_drawn(page, "Received: text frame")
        assert drawn_bytes(page)[0] == 0xC1
        expect(page.locator("#drawing .faults")).to_have_count(0)
        page.locator("#drawing pre", has_text="fish and chips").wait_for()


def test_a_message_over_the_limit_is_answered_by_1009(visit: Visit) -> None:
    with serve("--console", "--maxmsg", "100", "cat") as server:
        page = connect(functools.partial(visit, server))
        send_text(page, "x" * 101)
        await_drawn(page, "Received: close frame")
        expect(page.locator("#drawing .fields")).to_contain_text("code 1009")


def test_dropping_the_connection_is_no_closing_handshake(open_tab: OpenTab) -> None:
    page = connect(open_tab)
    page.get_by_role("button", name="Drop").click()
    page.locator("body[data-state=closed]").wait_for()
    await_said(page, "with no closing handshake")
    expect(page.get_by_role("button", name="Send message")).to_be_disabled()


def test_a_server_that_stops_says_so_with_a_close(visit: Visit) -> None:
    with serve("--console", "cat") as server:
        page = connect(functools.partial(visit, server))
        server.stop()
        await_drawn(page, "Received: close frame")
        expect(page.locator("#drawing .fields")).to_contain_text("1001")


def test_the_browsers_own_websocket_shows_messages_only(open_tab: OpenTab) -> None:
    page = open_tab("/console/")
    page.locator("summary", has_text="More").click()
    page.locator("#how").select_option("browser")
    assert page.get_by_label("Address", exact=True).input_value().endswith("/lobby")
    page.get_by_role("button", name="Connect", exact=True).click()
    page.locator("body[data-state=open]").wait_for()
    expect(page.get_by_role("button", name="Ping", exact=True)).to_be_disabled()
    expect(page.get_by_label("Frames", exact=True)).to_be_disabled()
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_role("button", name="Send message").click()
    await_drawn(page, "Received: text message, 5 bytes")
    page.get_by_label("Code", exact=True).fill("1002")
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.locator("#close-problem")).to_contain_text("1000")  # what else a browser may send
    page.get_by_label("Code", exact=True).fill("3999")
    page.get_by_role("button", name="Close", exact=True).click()
    await_said(page, "code 3999")


def test_the_browsers_own_websocket_goes_to_the_room_that_was_typed_last(open_tab: OpenTab) -> None:
    """It went to the room of the first time, and the field said another."""
    page = open_tab("/console/")
    page.locator("summary", has_text="More").click()
    how, room = page.locator("#how"), page.get_by_label("Room", exact=True)
    address = page.get_by_label("Address", exact=True)
    how.select_option("browser")
    how.select_option("wire")
    room.fill("attic")
    how.select_option("browser")
    expect(address).to_have_value(re.compile("/attic$"))
    address.fill("wss://example.com/")
    how.select_option("wire")
    how.select_option("browser")
    expect(address).to_have_value("wss://example.com/")


@pytest.mark.parametrize("address", ["", "localhost/lobby"])
def test_an_address_without_a_scheme_is_no_part_of_the_pages_own(
    open_tab: OpenTab, address: str
) -> None:
    """The browser took it as one: an empty address led to a room of this server."""
    page = open_tab("/console/")
    page.locator("summary", has_text="More").click()
    page.locator("#how").select_option("browser")
    page.get_by_label("Address", exact=True).fill(address)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#connect-problem")).to_contain_text("ws://")
    expect(page.locator("body")).to_have_attribute("data-state", "closed")


def test_what_the_browser_would_discard_is_not_listed_as_sent(open_tab: OpenTab) -> None:
    """After "Close", while the other side had not answered, a message was said to be sent."""
    page = open_tab("/console/")
    page.locator("summary", has_text="More").click()
    page.locator("#how").select_option("browser")
    with socket.create_server(("127.0.0.1", 0)) as listener:  # never answers a Close
        listener.settimeout(PATIENCE / 1000)
        address = "ws://{}:{}/".format(*listener.getsockname())
        page.get_by_label("Address", exact=True).fill(address)
        page.get_by_role("button", name="Connect", exact=True).click()
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(PATIENCE / 1000)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += peer.recv(4096)
            key = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
            assert key
            peer.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
                % accept_key(key[1].decode()).encode()
            )
            page.locator("body[data-state=open]").wait_for()
            send_text_only(page, "before")
            await_entries(page, "sent", "text")
            page.get_by_role("button", name="Close", exact=True).click()
            page.locator("body[data-state=closing]").wait_for()
            send_text_only(page, "after")
            expect(page.locator("#message-problem")).to_contain_text("sends nothing more")
            assert entries(page, "sent") == [("text", "before")]


def test_what_is_dropped_before_it_is_open_was_given_up(open_tab: OpenTab) -> None:
    """It said that the server lends no tunnel."""
    page = open_tab("/console/")
    page.evaluate(
        """() => {
            for (const id of ["open", "drop"]) document.getElementById(id).click();
        }"""
    )
    await_said(page, "Given up")
    expect(page.locator("body")).to_have_attribute("data-state", "closed")


@pytest.mark.parametrize("length", [160, 70_000], ids=["in the list", "in what is kept"])
def test_a_long_text_is_shown_as_text_wherever_it_is_cut(open_tab: OpenTab, length: int) -> None:
    """One that happened to be cut within a character was shown as bytes, and never found."""
    page = connect(open_tab)
    for start in ("", "x", "xy"):
        text = f"{start}{'漢' * length}"
        send_text(page, text)
        await_drawn(page, f"Received: text frame, {len(text.encode()):,} bytes")
        page.get_by_role("heading", name="As text").wait_for()
    found = [preview[:5] for _, preview in entries(page, "sent")]
    assert found == ["漢漢漢漢漢", "x漢漢漢漢", "xy漢漢漢"]
    page.get_by_label("Search in payloads").fill("漢漢漢")
    assert len(shown_entries(page)) == 6


def test_a_large_size_does_not_cover_what_is_said(open_tab: OpenTab) -> None:
    page = connect(open_tab)
    send_text(page, "x" * 1_000_000)
    await_drawn(page, "Received: text frame")
    sizes = page.locator("#log .size").evaluate_all(
        "(found) => found.map(({ textContent, scrollWidth, clientWidth }) => "
        "[textContent, scrollWidth <= clientWidth])"
    )
    assert sizes[-2:] == [["1,000,000", True]] * 2
    assert all(fits for _, fits in sizes)


def test_on_the_narrowest_page_the_state_is_seen_whole(open_tab: OpenTab) -> None:
    page = open_tab("/console/", viewport=NARROWEST)
    assert sticking_out(page) == []


def test_what_comes_over_the_wire_is_never_markup(open_tab: OpenTab, server: ServerProcess) -> None:
    page = connect(open_tab, MARKUP)
    send_text(page, MARKUP)
    await_drawn(page, "Received: text frame")
    assert entries(page, "received") == [("text", MARKUP)]
    page.get_by_role("link", name="Rooms").click()
    page.locator("#room-rows button").click()
    expect(page.locator("#detail-title")).to_have_text(f"Clients of {MARKUP}")
    expect(page.locator("main img")).to_have_count(0)
    assert page.title() == "Console · ScaleSocket"


def test_a_flood_keeps_the_newest_entries(open_tab: OpenTab, server: ServerProcess) -> None:
    page = connect(open_tab)
    with RawClient.connect(server, "lobby") as other:
        for number in range(700):
            other.send_text(f"message {number}")
        page.locator("#log").get_by_text("message 699", exact=True).wait_for()
    expect(page.locator("#log li")).to_have_count(500)
    expect(page.locator("#passed")).to_contain_text("older ones are gone")
    expect(page.get_by_text("every frame gets a line above")).to_have_count(0)
    page.get_by_role("button", name="Clear").click()
    page.locator("#drawn-title", has_text="Nothing yet").wait_for()
    page.get_by_text("every frame gets a line above").wait_for()
    expect(page.locator("#log li")).to_have_count(0)


def shown_entries(page: Page) -> list[str]:
    return page.locator("#log li:not([hidden]) .preview").all_text_contents()


def test_a_game_that_ticks_can_be_held_and_looked_through(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    page = connect(open_tab)
    with RawClient.connect(server, "lobby") as other:
        for number in range(20):
            other.send_json({"t": "delta", "tick": number})
        page.locator("#log").get_by_text('"tick":19').or_(
            page.locator("#log").get_by_text('"tick": 19')
        ).wait_for()
        page.get_by_role("button", name="Pause").click()
        other.send_json({"t": "full", "world": {"width": 12345678901234567890, "empty": []}})
        page.get_by_role("button", name="Go on (1 more)").wait_for()
        assert not any("full" in preview for preview in shown_entries(page))
        page.get_by_role("button", name="Go on (1 more)").click()
        page.locator("#log").get_by_text("12345678901234567890").wait_for()
        search = page.get_by_label("Search in payloads")
        search.fill("WORLD")
        page.locator("#log li:not([hidden])").nth(1).wait_for(state="detached")
        assert len(shown_entries(page)) == 1
        other.send_json({"t": "delta", "tick": 20})
        other.send_json({"t": "world"})
        page.locator("#log li:not([hidden])").nth(1).wait_for()
        page.locator("#log li:not([hidden])").first.click(position={"x": 5, "y": 5})
        await_drawn(page, "Received: text frame")  # also the newest is one, drawn before
        expect(page.locator("#drawing pre").first).to_contain_text("full")
        indented = page.locator("#drawing pre").first.inner_text()
        assert indented.splitlines() == [
            "{",
            '  "t": "full",',
            '  "world": {',
            '    "width": 12345678901234567890,',
            '    "empty": []',
            "  }",
            "}",
        ]
        search.fill("")
        page.get_by_label("Show", exact=True).select_option("handshakes")
        assert all("HTTP/1.1" in preview for preview in shown_entries(page))
        page.get_by_label("Show", exact=True).select_option("everything")
        assert len(shown_entries(page)) > 20


def test_what_was_said_is_in_view_without_scrolling(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    page = connect(open_tab, viewport={"width": 1280, "height": 800})
    with RawClient.connect(server, "lobby") as other:
        other.send_json({"t": "hello"})
        await_drawn(page, "Received: text frame")
        page.get_by_role("heading", name="As JSON").wait_for()
        box = page.locator("#drawing pre").first.bounding_box()
        assert box and box["y"] + box["height"] < 800


def test_it_is_used_by_keyboard_alone(open_tab: OpenTab) -> None:
    page = open_tab("/console/")
    page.get_by_label("Room", exact=True).press("Enter")
    page.locator("body[data-state=open]").wait_for()
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_label("Message", exact=True).press("Enter")
    await_drawn(page, "Received: text frame")
    page.locator("#log").press("ArrowUp")
    await_drawn(page, "Sent: text frame")
    page.keyboard.press("ArrowUp")
    await_drawn(page, "Received: response")
    page.keyboard.press("ArrowDown")
    await_drawn(page, "Sent: text frame")


# ==== 4. The rooms, live ======================================================


def room_rows(page: Page) -> dict[str, list[str]]:
    """Return the cells of each room's row, by the name of the room."""
    script = """(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))"""
    found = page.locator("#room-rows tr").evaluate_all(script)
    return {name: cells for name, *cells in found}


def ink_of(page: Page, canvas: str) -> int:
    """Return how many pixels of a chart are drawn."""
    script = """(canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, i) => i % 4 === 3 && value).length;
    }"""
    return cast(int, page.locator(canvas).evaluate(script))


def test_rooms_clients_and_rates_are_shown_as_they_change(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    page = open_tab("/console/#rooms")
    page.get_by_text("There is no room").wait_for()
    empty = ink_of(page, "#messages-chart")
    with RawClient.connect(server, "pond") as one, RawClient.connect(server, "pond"):
        page.locator("#room-rows tr").wait_for()
        page.get_by_role("button", name="pond").click()
        page.locator("#client-rows tr").nth(1).wait_for()

        def shows_both_and_more_out_than_in() -> bool:
            one.send_text("hello")
            one.receive_text()
            page.wait_for_timeout(50)  # a pace, not a wait: a rate needs time to be one
            clients, rate_in, rate_out, *_ = room_rows(page)["pond"]
            return clients == "2" and float(rate_out) > float(rate_in) > 1

        wait_until(shows_both_and_more_out_than_in)
        wait_until(lambda: ink_of(page, "#messages-chart") > empty)
        expect(page.locator("#messages-now")).to_contain_text("in ")
        expect(page.locator("#client-rows")).to_contain_text("127.0.0.1:")
    page.get_by_text("There is no room").wait_for()
    expect(page.locator("#room-detail")).to_be_hidden()


def test_a_room_of_the_list_can_be_joined(open_tab: OpenTab, server: ServerProcess) -> None:
    page = open_tab("/console/#rooms")
    with RawClient.connect(server, "two%20words") as other:
        page.locator("#room-rows td").nth(4).click()  # anywhere on the row
        page.get_by_role("button", name="Connect to it").click()
        page.locator("body[data-state=open]").wait_for()
        other.send_text("welcome")
        await_drawn(page, "Received: text frame, 7 bytes")


def test_a_row_that_is_pressed_stays_until_it_is_let_go_of(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    page = open_tab("/console/#rooms")
    with RawClient.connect(server, "pond"):
        page.locator("#room-rows td").nth(4).hover()
        page.mouse.down()
        for _ in range(2):  # what would draw it anew
            page.wait_for_event("response", lambda answer: answer.url.endswith("/console/api"))
        page.mouse.up()
        page.get_by_role("button", name="Connect to it").wait_for()


def test_a_long_table_leaves_the_clients_of_a_room_and_the_page_where_they_are_seen(
    visit: Visit,
) -> None:
    """They were below the table, out of sight; and who looked elsewhere was taken back each second,
    to the row that had been pressed."""
    with serve("--console", "cat") as server, ExitStack() as stack:
        for number in range(40):
            stack.enter_context(RawClient.connect(server, f"room-{number:02}"))
        page = visit(server, "/console/#rooms")
        last = page.locator("#room-rows button", has_text="room-39")
        last.click()
        for part in (page.locator("#room-detail"), last):
            expect(part).to_be_in_viewport(ratio=1)
        page.get_by_role("button", name="room-00").click()
        expect(page.locator("#detail-title")).to_have_text("Clients of room-00")
        expect(page.locator("#room-detail")).to_be_in_viewport(ratio=1)
        last.focus()
        note(page.locator("#room-rows"))
        page.evaluate("document.querySelector('#rooms-view .scroll').scrollTop = 0; scrollTo(0, 0)")
        wait_until(lambda: page.evaluate("noted.length") >= 2)  # it has been drawn anew
        assert page.evaluate("document.activeElement.dataset.room") == "room-39"
        assert page.evaluate("document.querySelector('#rooms-view .scroll').scrollTop") == 0
        assert page.evaluate("scrollY") == 0


def test_it_says_when_there_is_no_news_and_asks_again(visit: Visit) -> None:
    with serve("--console", "cat", addr=f"127.0.0.1:{free_port()}") as server:
        page = visit(server, "/console/#rooms")
        page.get_by_text("There is no room").wait_for()
    page.get_by_text("The server does not tell: it cannot be reached.").wait_for()
    page.locator("#countdown", has_text="Next try in").wait_for()
    with serve("--console", "cat", addr=f"127.0.0.1:{server.port}"):
        page.locator("body[data-server=live]").wait_for()
        expect(page.locator("#silence")).to_be_hidden()


def test_nothing_is_asked_while_nobody_looks(open_tab: OpenTab) -> None:
    page = open_tab("/console/#rooms")
    page.locator("body[data-server=live]").wait_for()
    asked: list[str] = []
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: true, configurable: true });
        }"""
    )
    page.wait_for_timeout(1500)  # the last question is over by then
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)  # two and a half times as long as it waits else
    assert asked == []
    with page.expect_request("**/console/api"):
        page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", { value: false });
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )


# ==== 5. How it looks =========================================================


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out(open_tab: OpenTab, scheme: str) -> None:
    page = connect(open_tab, "x" * 128, color_scheme=scheme, **TOUCH)
    send_text(page, "Hello " * 40)
    await_drawn(page, "Received: text frame")
    edit_frame(page, "“Hello”, as in § 5.7")
    assert sticking_out(page) == []
    page.get_by_role("link", name="Rooms").click()
    page.locator("#room-rows tr").wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == PHONE["width"]
