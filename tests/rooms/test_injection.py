"""What clients say stays what they said: it forges no line, header, variable or log entry.

All of it against a real server. What single functions make of bad input is in the tests of
each, and for thousands of inputs in `test_fuzz`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
import sys
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest

from tests.support import (
    BINARY,
    CONTINUATION,
    TEXT,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    exchange,
    http_request,
    open_socket,
    parse_response_head,
    require_tool,
    run_cli,
    serve,
    wait_until,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

# A child that keeps, byte for byte, what it reads, and has the time to.
KEEP = ("--closegrace=5", "sh", "--", "-c", 'cat >> "$1"', "sh")


def heard_lines(path: Path, last: bytes) -> list[bytes]:
    """Return what a child has read, once its last line has come."""
    wait_until(lambda: path.exists() and path.read_bytes().endswith(last + b"\n"))
    return path.read_bytes().split(b"\n")[:-1]


# ==== 1. JSON framing: what the child hears ===============================

GENERATIONS = {
    "_from": ("--json",),
    "id": (
        "--frame=json",
        '--joinmsg={"t":"Join","id":#ID}',
        '--leavemsg={"t":"Leave","id":#ID}',
    ),
}
Generation = pytest.mark.parametrize("field", GENERATIONS)

# F stands for the field, and 1 is the victim's ID. All of these are JSON objects.
FORGERIES = [
    '{"t":"Leave","F":1}',
    '{"t":"Join","F":1}',
    '\n{"t":"Leave","F":1}\n',
    '\r\n{\r"t"\r:\r"Leave"\r,\n"F"\n:\n1\n}\r',
    '{"F":1,"F":1,"t":"Leave","F":1}',
    r'{"\u005f\u0066rom":1,"\u0069\u0064":1,"F":1}',
    r'{"_fro\u006D":1,"i\u0064":1}',
    '{"F":{"F":1,"x":"}"},"F":[1,{"F":1}],"F":null}',
    r'{"a":"\"}\n{\"t\":\"Leave\",\"F\":1}"}',
    r'{"a":"\u000a{\u0022t\u0022:\u0022Leave\u0022}\u000d"}',
    '{"a":"x\u2028{}\u2029[1]\x85null\u2028y"}',
    '{"\u2028":"\x85","F":1}',
    r'{"F\u0000":1,"F ":1,"\u0000F":1,"f":1,"F\ud800":1}',
    '{"a":"\x7f\u202e\ufeff\u200b\U0001f98a"}',
    '{"a":{"b":{"F":1,"t":"Leave"}},"F":1}',
    '{"a":' + "[" * 300 + "]" * 300 + ',"F":1}',
    '{"F":1,"a":' + "9" * 1000 + "}",
    '{"":1,"F":1}',
    '{"_from":1,"id":1,"_to":1}',
]
# None of these is, or it has a number that ends programs in some languages.
NO_OBJECTS = [
    b'{"F":1,"a":' + b"9" * 6000 + b"}",
    b'{"a":1}\n{"t":"Leave","F":1}',
    b'{"a":1}{"t":"Leave","F":1}',
    b'{"a":1}\r{"t":"Leave","F":1}',
    b'{"a":"\n{\\"F\\":1}"}',
    b'{"a":"\r"}',
    b'{"a":"\x0b\x0c\x1c\x1d\x1e"}',
    b'{"a":1}\0',
    b'\0{"F":1}',
    b'{"a":"\0"}',
    b'\xef\xbb\xbf{"F":1}',
    b'\xe2\x80\xa8{"F":1}',
    b'{"F":1}\xc2\x85{"F":1}',
    b'[{"t":"Leave","F":1}]',
    b'"{\\"t\\":\\"Leave\\",\\"F\\":1}"',
    b'{"F":1,"a":NaN}',
    b'{"F":1,}',
    b"{'F':1}",
    b'{"F":1} // {"F":1}',
    b'{"F":1,"a":' + b"[" * 200_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"",
    b"\n",
    b"\r\n\r\n",
]


def send_hostile(client: RawClient, field: str) -> None:
    """Send all of it: as text, in fragments that cut every name, and as binary."""
    for forgery in FORGERIES:
        payload = forgery.replace("F", field).encode()
        client.send_text(payload)
        step = 3 + len(payload) // 40
        for at in range(0, len(payload), step):
            piece, fin = payload[at : at + step], at + step >= len(payload)
            client.send_frame(CONTINUATION if at else TEXT, piece, fin=fin)
        client.send_binary(payload)
    for wrong in NO_OBJECTS:
        client.send_text(wrong.replace(b"F", field.encode()))
        client.send_binary(wrong.replace(b"F", field.encode()))
    client.send_binary(b'{"\xff":1,"%b":1}' % field.encode())
    client.send_binary(b'{"%b\xc0\x80":1}' % field.encode())
    client.send_text('{"last":1}')


def members(line: bytes) -> list[tuple[str, Any]]:
    """Return the members of a line's outermost object, repeated ones too."""
    found: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        found[:] = pairs  # objects are finished from the inside out

    json.loads(line, object_pairs_hook=keep, parse_int=str)
    return found


@Generation
def test_a_child_hears_nothing_but_announcements_and_lines_of_true_senders(
    field: str, tmp_path: Path
) -> None:
    heard = tmp_path / "heard"
    name = field.encode()
    with serve("--compress", *GENERATIONS[field], *KEEP, str(heard)) as server:
        with RawClient.connect(server) as victim, RawClient.connect(server) as attacker:
            send_hostile(attacker, field)
            heard_lines(heard, b'{"%b":2,"last":1}' % name)
            attacker.close()
            heard_lines(heard, b'{"t":"Leave","%b":2}' % name)
            victim.close()
        lines = heard_lines(heard, b'{"t":"Leave","%b":1}' % name)
    assert lines[:2] == [b'{"t":"Join","%b":1}' % name, b'{"t":"Join","%b":2}' % name]
    assert lines[-2:] == [b'{"t":"Leave","%b":2}' % name, b'{"t":"Leave","%b":1}' % name]
    said = lines[2:-2]
    assert len(said) == 3 * len(FORGERIES) + 1
    for line in said:
        assert re.match(rb'\{"%b":2[,}]' % name, line)
        assert [value for key, value in members(line) if key == field] == ["2"]
        assert len(line.decode().splitlines()) == 1  # of what any language takes for a line


@Generation
def test_a_compressed_forgery_is_one_like_any_other(field: str, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    name = field.encode()
    headers = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    with serve("--compress", *GENERATIONS[field], *KEEP, str(heard)) as server:
        with RawClient.connect(server, headers=headers) as client:
            for payload in (b'{"%b":9,"x":1}\n' % name, b'{"last":1}'):
                deflate = zlib.compressobj(wbits=-15)
                data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
                client.send_frame(TEXT, data[:-4], rsv=4)
            lines = heard_lines(heard, b'{"%b":1,"last":1}' % name)
    assert lines[1:-1] == [b'{"%b":1,"x":1}' % name]


def test_a_client_may_say_leave_but_only_of_itself_and_in_its_own_name(tmp_path: Path) -> None:
    """What a message says is the client's affair; whose it is stands in front."""
    heard = tmp_path / "heard"
    with serve("--json", *KEEP, str(heard)) as server, RawClient.connect(server) as client:
        client.send_text('{"t":"Leave","_from":1}')
        lines = heard_lines(heard, b'{"_from":1,"t":"Leave"}')
    assert lines == [b'{"t":"Join","_from":1}', b'{"_from":1,"t":"Leave"}']


READERS = {
    "python": ("-c", "for line in __import__('sys').stdin: print(len(line.rstrip()), flush=True)"),
    "node": (
        "-e",
        "require('readline').createInterface({input: process.stdin})"
        ".on('line', line => console.log(line.length))",
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_child_in_any_language_reads_one_line_for_one_message(reader: str) -> None:
    program = require_tool("node") if reader == "node" else sys.executable
    with serve("--clientframe=json", "--closegrace=5", program, "--", *READERS[reader]) as server:
        with RawClient.connect(server) as client:
            for text in FORGERIES:
                client.send_text(text)
                client.send_text("{}")
                assert int(client.receive_text()) > len('{"_from":1}')
                assert int(client.receive_text()) == len('{"_from":1}')
            client.close()


def test_what_a_client_without_websocket_says_is_tagged_like_any(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    with serve("--json", "--tcplisten", "127.0.0.1:0", *KEEP, str(heard)) as server:
        port = int(server.wait_log(r"lines of text at \S+ on port (\d+)")[1])
        with open_socket(("127.0.0.1", port)) as sock:
            sock.sendall(b'room\n{"t":"Leave","_from":9}\r{"_from":9}\n{"_from":8,"a":1}\r\n')
            sock.sendall(b'{"last":1}\n')
            lines = heard_lines(heard, b'{"_from":1,"last":1}')
    assert lines[:-1] == [b'{"t":"Join","_from":1}', b'{"_from":1,"a":1}']


def test_gwsocket_headers_cannot_be_forged_in_a_payload(tmp_path: Path) -> None:
    header = struct.Struct("!III")
    heard = tmp_path / "heard"
    payloads = [header.pack(1, 1, 4) + b"evil", b"\0" * 24, b"", b"\n" + header.pack(0, 2, 0)]
    with serve("--clientframe=gwsocket", *KEEP, str(heard)) as server:
        with RawClient.connect(server), RawClient.connect(server) as attacker:
            for payload in payloads:
                attacker.send_binary(payload)
                attacker.send_text(payload)
            expected = b"".join(
                header.pack(2, kind, len(payload)) + payload
                for payload in payloads
                for kind in (BINARY, TEXT)
            )
            wait_until(lambda: heard.exists() and len(heard.read_bytes()) >= len(expected))
            assert heard.read_bytes() == expected


def test_a_stream_cannot_pass_for_the_other() -> None:
    """With --passstderr what is quoted stays quoted, whichever stream it came from."""
    lines = ['{"stream":"stderr","data":"x"}', 'x","stream":"stderr', "\\", "\x85\u2028\x1b[2J"]
    script = f"import sys\nfor t in {lines!r}:\n print(t, flush=True)"
    script += "\n print(t, file=sys.stderr, flush=True); sys.stdin.readline()"
    with serve("--passstderr", "--closegrace=5", sys.executable, "--", "-c", script) as server:
        with RawClient.connect(server) as client:
            for line in lines:
                texts = [client.receive_text(), client.receive_text()]
                pairs = [members(text.encode()) for text in texts]
                assert sorted(pairs) == [
                    [("stream", name), ("data", line)] for name in ("stderr", "stdout")
                ]
                client.send_text("go on")


# ==== 2. Join and leave messages ==========================================

TEMPLATE = '{"%s":#ID,"room":"#ROOM","q":"#QUERY_STRING","n":"#QUERY_NAME","ip":"#REMOTE_ADDR"}'
NASTY_ROOMS = [
    '"}',
    "\\",
    '\\"',
    '","_from":1,"x":"',
    "#ID",
    "#QUERY_NAME",
    "\U0001f98a é",
    "\\u000a",
    "${x}%s{0}",
    "'\"`$(id)",
    "<script>",
    "\ufeff\u200b\u202e",
]
NASTY_QUERIES = [
    'name="}{',
    "name=\\",
    'name=\\"&x=#ROOM',
    "name=#ROOM#ID",
    "NAME=%22%0d%0a&name=2",
    "&&==&name",
    "name=1&_from=1#x",
    "%00%0A" * 50,
]


def wait_for_lines(path: Path, count: int) -> None:
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)


@pytest.mark.slow
def test_no_value_in_a_template_makes_a_second_line_or_member(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    options = (f"--joinmsg={TEMPLATE % 'join'}", f"--leavemsg={TEMPLATE % 'leave'}")
    expected = []
    with serve(*options, *KEEP, str(heard)) as server:
        cases = [(room, query) for room in NASTY_ROOMS for query in NASTY_QUERIES[:2]]
        cases += [("room", query) for query in NASTY_QUERIES]
        for number, (room, query) in enumerate(cases, 1):
            with RawClient.connect(server, path=f"/{quote(room, safe='')}?{query}") as client:
                client.close()
            parts = [part.partition("=") for part in query.split("&")]
            named = (unquote_plus(value) for key, _, value in parts if key.upper() == "NAME")
            name = quote(next(named, ""), safe="")
            rest = [("room", room), ("q", query), ("n", name), ("ip", "127.0.0.1")]
            expected += [[("join", str(number)), *rest], [("leave", str(number)), *rest]]
            wait_for_lines(heard, len(expected))  # of one program, before the next writes there
    lines = heard.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [members(line) for line in lines] == expected


def test_a_forwarded_address_that_is_none_is_not_filled_in() -> None:
    """Only a trusted proxy is asked, but it may hand on what its own client wrote."""
    wrong = ('1.2.3.4","x":"', "::1%\x85\\", "#ID", "a" * 3000, '[::1%"}]', "1.2.3.4\t5")
    with serve("--trustproxy=127.0.0.0/8", "--joinmsg=#REMOTE_ADDR", "cat") as server:
        for address, meant in {**dict.fromkeys(wrong, "127.0.0.1"), "::ffff:1": "::ffff:1"}.items():
            with RawClient.connect(server, headers={"X-Forwarded-For": address}) as client:
                assert client.receive_text() == meant
                client.close()


# ==== 3. Responses ========================================================

SPLITS = [
    "%0d%0aX-Injected",
    "%0d%0aX-Injected:%20x",
    "%0aX-Injected:x",
    "%0d",
    "%E5%98%8A%E5%98%8D",
    "%00",
    "%C4%8D%C4%8A",
]


TARGETS = [
    "/subSPLIT",
    "/subSPLIT/",
    "/sub?SPLIT",
    "/aSPLIT.txt",
    "/SPLIT",
    "/api/SPLIT/",
    "/api/rooms/?SPLIT",
    "http://x/subSPLIT",
]
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def assert_one_head(answer: bytes) -> None:
    """Check each response of a connection, strictly, and that no header was smuggled in."""
    while answer:
        head, end, answer = answer.partition(b"\r\n\r\n")
        assert end, head
        _, headers = parse_response_head(head)
        assert "x-injected" not in headers
        answer = answer[int(headers.get("content-length", "0")) :]


def test_nothing_of_a_request_begins_a_line_of_the_response(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "sub\r\nX-Injected").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "a\r\nX-Injected.txt").write_text("x")
    options = ("--staticdir", str(folder), "--api", "--rooms=one", "--subprotocol=v1")
    with serve(*options, "cat") as server:
        for split in SPLITS:
            for target in TARGETS:
                for more in ("", f"{UPGRADE}Sec-WebSocket-Protocol: v1{split}\r\n"):
                    line = f"GET {target.replace('SPLIT', split)} HTTP/1.1"
                    head = f"{line}\r\nHost: x\r\nConnection: close\r\n{more}\r\n"
                    assert_one_head(exchange(server, head.encode()))
            offers = (f"v1{split}", "v1")
            with RawClient.connect(server, path=f"/one?{split}", subprotocols=offers) as client:
                assert "x-injected" not in client.response.headers
                assert client.subprotocol == "v1"
        answer = http_request(server, path="/sub%0d%0aX-Injected")  # such a folder is there
        assert (answer.status, answer.headers["location"]) == (301, "/sub%0d%0aX-Injected/")
        assert http_request(server, path="/a%0d%0aX-Injected.txt").body == b"x"


def test_a_bare_or_folded_line_end_in_a_header_is_no_line_end() -> None:
    """400, or part of the value; never a header of its own."""
    with serve("--subprotocol=v1", "cat") as server:
        for line_end in ("\n", "\r", "\r\n ", "\r\n\t", "\0\r\n", "\x0b", "\x85"):
            raw = f"GET /r HTTP/1.1\r\nHost: x\r\n{UPGRADE}X-A: b{line_end}X-Injected: x\r\n\r\n"
            with open_socket(server) as sock:
                sock.sendall(raw.encode("latin-1"))
                answer = sock.recv(4096)
            assert answer.startswith(b"HTTP/1.1 101 " if line_end == "\x85" else b"HTTP/1.1 400 ")
            assert b"njected" not in answer


def test_an_error_page_is_text_that_no_browser_runs() -> None:
    """A refusal may quote what was asked for; it is never HTML."""
    with serve("--rooms=one", "cat") as server:
        with pytest.raises(HandshakeRefused) as refused:
            RawClient.connect(server, "%3Cscript%3Ealert(1)")
        response = refused.value.response
        assert response.status == 404 and b"<script>" in response.body
        assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.slow
def test_a_scripts_own_header_cannot_hold_a_second_one(tmp_path: Path) -> None:
    for value in (r"X-A: b\r\nX-Injected: c", r"X-A: b\nX-Injected: c", r"X-A\u0000: b"):
        script = tmp_path / "game.py"
        script.write_text(f'# /// script\n# [tool.scalesocket]\n# header = "{value}"\n# ///\n')
        done = run_cli("--addr", "127.0.0.1:0", str(script))
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_any_room_name_is_a_json_string_of_the_api() -> None:
    with serve("--api", "cat") as server:
        for room in NASTY_ROOMS:
            with RawClient.connect(server, quote(room, safe="")) as client:
                client.send_text("x")
                client.receive_text()
                listed = json.loads(http_request(server, path="/api/rooms/").body)
                assert room in [entry["name"] for entry in listed]
                one = http_request(server, path=f"/api/{quote(room, safe='')}/")
                assert json.loads(one.body)["name"] == room
                client.close()


# ==== 4. Log lines ========================================================

EVIL = [
    "\x1b[2J\x1b[31m[ERROR] forged",
    'x\r[ERROR] forged","level":"error',
    "x\x0b\x0c\x85[ERROR] forged",
    "x\u2028{}\u2029[ERROR] forged",
    "x\u202e\ufeff\x9b2J\x7f\x08[ERROR] forged",
    'x\\n\\"}\\',
]


ECHO = """
import json, sys
for line in sys.stdin:
    print(json.loads(line).get("say", ""), file=sys.stderr, flush=True)
    print(line, end="", flush=True)
"""


def provoke(server: ServerProcess) -> None:
    """Let all who may be quoted in the log say evil things: clients, a proxy, and the child."""
    for text in EVIL:
        quoted = quote(text, safe="")
        latin = "".join(c for c in text.encode().decode("latin-1") if c >= " " and c != "\x7f")
        http_request(server, path=f"/{quoted}?{quoted}", headers={"X-Forwarded-For": latin})
        exchange(server, b"GET /" + text.encode() + b" HTTP/1.0\r\n\r\n")
        exchange(server, b"PROXY " + text.encode() + b"\r\n")
        with pytest.raises(HandshakeRefused):
            RawClient.connect(server, headers={"Origin": f"https://{latin}"})
        talk(server, quoted, text)


def talk(server: ServerProcess, room: str, text: str) -> None:
    """Say evil things in a room of an evil name, or in another if there cannot be such a room."""
    origin = {"Origin": "https://x"}
    try:
        client = RawClient.connect(server, room, headers=origin)
    except HandshakeRefused as refused:
        assert refused.status == 400
        client = RawClient.connect(server, headers=origin)
    with client:
        client.send_text(text)
        client.send_text("[ERROR] forged\n[ERROR] forged")
        client.send_json({"_to": text})
        client.send_json({"_to": 0, "_close": {"code": text, "reason": text}})
        client.send_json({"say": text})
        assert members(client.receive_text().encode())[-1] == ("say", text)
        client.close(4000, text)


@pytest.fixture
def talkative(tmp_path: Path) -> list[str]:
    """Return options of a server that logs all it can, whose child echoes on both streams."""
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    options = [
        "-vv",
        "--frame=json",
        "--clientroute",
        "--trustproxy=127.0.0.1",
        "--origin=https://x",
    ]
    return [*options, "--closegrace=5", str(script)]


def test_whoever_is_quoted_a_text_log_has_only_the_servers_own_lines(talkative: list[str]) -> None:
    with serve(*talkative) as server:
        provoke(server)
        server.stop()
        for line in server.log():
            assert re.match(r"\[(TRACE|DEBUG|INFO|WARN)\] [^\[]", line), ascii(line)
            assert line.isprintable(), ascii(line)
        assert sum("forged" in line for line in server.log()) > 5 * len(EVIL)


def test_whoever_is_quoted_a_json_log_has_only_the_servers_own_objects(
    talkative: list[str],
) -> None:
    with serve("--log=json", *talkative) as server:
        provoke(server)
        server.stop()
        said = []
        for line in server.log():
            assert line.isprintable(), ascii(line)
            names = [name for name, _ in members(line.encode())]
            assert names[:3] == ["time", "level", "message"]
            assert names[3:] in ([], ["room"], ["room", "client"])
            entry = json.loads(line)
            assert entry["level"] in ("trace", "debug", "info", "warning")
            said.append(entry["message"])
        for text in EVIL:  # as it was, for whoever reads it with a JSON parser
            assert f"stderr: {text}" in said


# ==== 5. The environment ==================================================

CGI = frozenset(
    "GATEWAY_INTERFACE PATH_INFO PYTHONUNBUFFERED QUERY_STRING REMOTE_ADDR REMOTE_HOST REMOTE_PORT "
    "REQUEST_METHOD REQUEST_URI ROOM SCRIPT_NAME SERVER_NAME SERVER_PORT SERVER_PROTOCOL "
    "SERVER_SOFTWARE UNIQUE_ID HTTP_HOST HTTP_UPGRADE HTTP_CONNECTION HTTP_SEC_WEBSOCKET_KEY "
    "HTTP_SEC_WEBSOCKET_VERSION PATH LD_LIBRARY_PATH DYLD_LIBRARY_PATH".split()
)
PASSED = frozenset(("LANG", "LANGUAGE", "TZ", "HOME"))  # and LC_*
FOR_LINES = frozenset(("PERL5OPT", "LD_PRELOAD", "_STDBUF_O", "ASAN_OPTIONS"))  # --linebuffer
OF_THE_SHELL = frozenset(("PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"))
DUMP = 'cat /proc/$$/environ > "$0.part"; mv "$0.part" "$0"'
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def read_environment(path: Path) -> dict[str, str]:
    """Return the environment that a child has written down, as the kernel has it."""
    wait_until(path.exists)
    variables = path.read_bytes().decode("latin-1").rstrip("\0").split("\0")
    return dict(variable.split("=", 1) for variable in variables)


@linux_only
@pytest.mark.parametrize("kind", ["pipes", "pty", "tcp", "auth"])
def test_a_child_of_any_kind_gets_the_listed_variables_and_no_others(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "environment"
    command = f"sh -c {shlex.quote(DUMP)} {shlex.quote(str(file))}"
    extra = {"pipes": set(), "pty": {"TERM"}, "tcp": {"PORT"}, "auth": set()}[kind]
    options = [f"--{kind}"] if kind in ("pty", "tcp") else []
    target = ("cat",) if kind == "auth" else ("sh", "--", *shlex.split(command)[1:])
    options += [f"--auth={command}"] if kind == "auth" else []
    secrets = {"API_TOKEN": "s3cret", "HTTP_PROXY": "http://evil", "BASH_ENV": "/evil"}
    headers = {
        "Proxy": "http://evil",
        "PROXY": "http://evil",
        "X-Real-Ip": "true",
        "X_Real_Ip": "evil",  # behind the true one, over which it would be written
        "Ld-Preload": "/evil.so",
        "Path": "/evil",
        "Remote-Addr": "evil",
        "X.Dot": "evil",
        "X!": "evil",
    }
    with serve(*options, *target, env=secrets) as server:
        with RawClient.connect(server, headers=headers):
            found = read_environment(file)
    allowed = CGI | PASSED | OF_THE_SHELL | extra
    allowed |= FOR_LINES if kind in ("pipes", "tcp") else frozenset()
    allowed |= {"USER", "LOGNAME", "SHELL"} if kind == "pty" else set()
    allowed |= {"HTTP_X_REAL_IP", "HTTP_LD_PRELOAD", "HTTP_PATH", "HTTP_REMOTE_ADDR"}
    assert {name for name in found if not name.startswith("LC_")} <= allowed
    assert "evil" not in found.get("LD_PRELOAD", "")
    assert extra <= set(found)
    assert found["HTTP_X_REAL_IP"] == "true"
    assert found["REMOTE_ADDR"] == "127.0.0.1"
    assert "evil" not in found["PATH"] and "s3cret" not in "".join(found.values())


@pytest.mark.slow
@linux_only
def test_the_largest_head_reaches_a_child_and_harms_nobody(tmp_path: Path) -> None:
    """One header of 15 KB, and nearly a hundred of them; with bytes that are no ASCII."""
    file = tmp_path / "environment"
    long = "() { :;}; touch evil \xff\x85" + "x" * 14_000
    many = {f"X-{n}": "=" * 50 for n in range(90)}
    for headers in ({"X-Long": long}, many):
        file.unlink(missing_ok=True)
        with serve("sh", "--", "-c", DUMP, str(file), cwd=tmp_path) as server:
            with RawClient.connect(server, headers=headers):
                found = read_environment(file)
        given = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
        assert given.items() <= found.items()
    assert os.listdir(tmp_path) == [file.name]


def test_no_null_byte_gets_as_far_as_an_environment() -> None:
    with serve("cat") as server:
        for target in ("/r%00", "/r?a=\0", "/\0", "/r\0?x"):
            raw = f"GET {target} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode()
            assert exchange(server, raw).startswith(b"HTTP/1.1 400 ")
        assert server.children() == []


@pytest.mark.slow
def test_a_room_name_is_never_an_argument_or_a_path(tmp_path: Path) -> None:
    """Whatever it looks like, the child is started as the operator wrote it."""
    script = 'printf "%s\\n" "$#" "$ROOM"; exec cat'
    names = ["..", "-rf", "--help", "$(touch evil)", "; touch evil", "|cat", "~", "*", "C:\\x"]
    with serve("sh", "--", "-c", script, "sh", cwd=tmp_path) as server:
        for name in names:
            with RawClient.connect(server, quote(name, safe="")) as client:
                assert [client.receive_text(), client.receive_text()] == ["0", name]
    assert os.listdir(tmp_path) == []
