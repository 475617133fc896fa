"""--trace: what a real server draws of its traffic, and where it draws it."""

from __future__ import annotations

import base64
import hashlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.capture import read_packets
from tests.certificates import Certificates
from tests.net.test_recording import Pipe, into
from tests.support import (
    CONTINUATION,
    PATIENCE,
    PONG,
    SCRIPT,
    TEXT,
    RawClient,
    ServerProcess,
    encode_client_frames,
    http_request,
    open_socket,
    serve,
    wait_until,
)
from tests.wire.test_tls import join as join_securely

pytestmark = pytest.mark.slow  # many servers are started here

HEADING = re.compile(r"(?P<time>[\d:]{8}\.\d{6}) #\d+ (?P<peer>\S+) (?P<what>.*)")


def echo(client: RawClient, text: str) -> None:
    client.send_text(text)
    assert client.receive_text() == text


def headings(server: ServerProcess) -> list[str]:
    """Return what was traced, without times, addresses and drawings."""
    found = map(HEADING.fullmatch, server.output())
    return [match["what"] for match in found if match]


def below(server: ServerProcess, what: str) -> list[str]:
    """Return the lines below the only heading that ends in `what`."""
    lines = server.output()
    (at,) = [n for n, line in enumerate(lines) if line.endswith(what) and HEADING.fullmatch(line)]
    found = []
    for line in lines[at + 1 :]:
        if not line.startswith("    "):
            break
        found.append(line[4:])
    return found


# ==== 1. What is drawn ====================================================


def test_a_handshake_is_shown_with_how_the_answer_comes_about() -> None:
    key = base64.b64encode(bytes(range(16))).decode()
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    with serve("--trace", "cat") as server:
        sent = (
            f"GET /lobby HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        with open_socket(server) as sock:
            sock.sendall(sent.encode())
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        server.stop()
    assert below(server, "/lobby < opening handshake") == sent.split("\r\n")[:-2]
    answer = below(server, "/lobby > opening handshake")
    accept = base64.b64encode(digest).decode()
    assert f"Sec-WebSocket-Accept: {accept}" in answer
    assert answer[-5:] == [
        "Sec-WebSocket-Accept comes about so (section 4.2.2):",
        f"  the key         {key}",
        "  and the GUID    258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
        f"  SHA-1 of both   {digest.hex(' ')}",
        f"  in base64       {accept}, as answered",
    ]


def test_every_frame_of_a_session_is_drawn() -> None:
    with serve("--trace", "cat") as server:
        with RawClient.connect(server, "lobby") as client:
            peer = "{}:{}".format(*client.sock.getsockname())
            client.send_frame(TEXT, b"in ", fin=False)
            client.ping(b"?!")
            assert client.receive() == (PONG, b"?!")
            client.send_frame(CONTINUATION, b"two")
            assert client.receive_text() == "in two"
            client.close(3000, "bye")
        server.stop()
    assert headings(server)[2:] == [
        "/lobby < text, 3 bytes",
        "/lobby < ping, 2 bytes",
        "/lobby > pong, 2 bytes",
        "/lobby < continuation, 3 bytes",
        "/lobby > text, 6 bytes",
        "/lobby < close, 5 bytes",
        "/lobby > close, 2 bytes",
        "/lobby = we have closed our side",
        "/lobby = the peer has closed its side",
    ]
    assert {match["peer"] for line in server.output() if (match := HEADING.match(line))} == {peer}
    title, bits, meaning, payload = below(server, "< text, 3 bytes")
    assert title == "| FIN | RSV | opcode | MASK | length  | masking key |"
    assert re.fullmatch(r"\| 0   \| 000 \| 0001   \| 1    \| 0000011 \| (.. ){3}.. \|", bits)
    assert meaning == "| no  |     | text   | yes  | 3       |             |"
    assert payload == '"in "'
    assert below(server, "< close, 5 bytes")[-2:] == ["0b b8 = 3000 an application's", '"bye"']


def test_what_the_server_refuses_is_drawn_with_its_fault() -> None:
    with serve("--trace", "cat") as server:
        with RawClient.connect(server, "lobby") as client:
            client.send_frame(TEXT, b"bare", mask=False)
            assert client.wait_close()[0] == 1002
        server.stop()
    assert "! a client must mask, a server must not (5.1)" in below(server, "< text, 4 bytes")
    (answer,) = [line for line in headings(server) if " > close" in line]
    assert below(server, answer)[3].startswith("03 ea = 1002 PROTOCOL_ERROR")


def test_a_client_that_leaves_without_a_close_frame_is_not_said_to_be_broken_off() -> None:
    """The server drops what is under way to such a client; where nothing is, it breaks nothing."""
    with serve("--trace", "cat") as server:
        with RawClient.connect(server, "lobby") as client:
            echo(client, "hello")
            client.sock.close()
        wait_until(lambda: any("we have closed our side" in line for line in headings(server)))
        wait_until(lambda: not server.children())  # its room is over, so its socket is closed
        server.stop()
    ends = [what.partition(" = ")[2] for what in headings(server) if " = " in what]
    assert ends == ["the peer has closed its side", "we have closed our side"]


def test_plain_requests_are_shown_too() -> None:
    with serve("--trace", "cat") as server:
        assert http_request(server, path="/health").status == 200
        server.stop()
    assert below(server, "< HTTP")[0] == "GET /health HTTP/1.1"
    assert below(server, "> HTTP")[0] == "HTTP/1.1 200 OK"


def test_compressed_messages_are_shown_both_ways() -> None:
    with serve("--trace=text", "--compress", "cat") as server:
        with connect(server.url("lobby"), proxy=None) as client:
            client.send("so " * 200)
            assert client.recv(PATIENCE) == "so " * 200
        server.stop()
    assert len(headings(server)) == 2
    text = "\n".join(server.output())
    assert text.count("decompressed (600 bytes):") == 2
    assert text.count("so so so ") > 2 * 100 // 3 and "| compressed |" in text


def test_tls_is_traced_in_plain_text(certs: Certificates) -> None:
    with serve("--trace=text", *certs.options(), "cat") as server:
        with join_securely(server, certs.trust(), "lobby") as client:
            client.send_text("hidden")
            assert client.receive_text() == "hidden"
        server.stop()
    assert headings(server) == ["/lobby < text, 6 bytes", "/lobby > text, 6 bytes"]
    assert server.output().count('    "hidden"') == 2


EVIL = "\x1b[2J\r\x9b31m\u202e\u2028\x00"


def test_nothing_that_strangers_send_reaches_the_terminal_as_it_is() -> None:
    with serve("--trace", "cat") as server:
        with RawClient.connect(server, "%e2%80%ae", {"User-Agent": "\x9b31m"}) as client:
            client.send_text(EVIL)
            assert client.receive_text() == EVIL
            client.close(3000, EVIL)
        raw = b"GET /\x1b[2J HTTP/1.1\r\nHost: \x85\r\n\r\n"
        assert http_request(server, raw=raw).status == 400
        server.stop()
    assert [line for line in server.output() if not line.isprintable()] == []
    assert r"    User-Agent: \x9b31m" in server.output()
    assert r"    GET /\x1b[2J HTTP/1.1" in server.output()
    shown = r'"\x1b[2J\r\x9b31m\u202e\u2028\x00"'
    assert [line[4:] for line in server.output() if "u2028" in line] == [shown] * 3
    assert rf"/\u202e < text, {len(EVIL.encode())} bytes" in headings(server)


# ==== 2. Filters ==========================================================


def play(server: ServerProcess) -> None:
    """Say something in two rooms, and leave."""
    for room in ("lobby", "attic"):
        with RawClient.connect(server, room) as client:
            echo(client, room)
            client.ping()
            assert client.receive() == (PONG, b"")
            client.close()
    server.stop()


TEXTS = [f"/{room} {way} text, 5 bytes" for room in ("lobby", "attic") for way in "<>"]
CLOSES = [f"/attic {way} close, 2 bytes" for way in "<>"] + ["/attic = we have closed our side"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("text", TEXTS),
        ("lobby,text", TEXTS[:2]),
        ("/lobby,text,ping", [TEXTS[0], TEXTS[1], "/lobby < ping, 0 bytes"]),
        ("cellar", []),
    ],
)
def test_only_what_is_wanted_is_shown(words: str, wanted: list[str]) -> None:
    with serve(f"--trace={words}", "cat") as server:
        play(server)
    assert headings(server) == wanted


def test_of_a_room_everything_is_shown() -> None:
    with serve("--trace=attic", "cat") as server:
        play(server)
    found = headings(server)
    assert found[0] == "/attic < opening handshake"
    assert all(line.startswith("/attic ") for line in found)
    assert len(found) == 10


def test_a_room_is_called_what_it_is_called_also_below_a_base() -> None:
    with serve("--trace=lobby,text", "--basepath", "/ws", "cat") as server:
        with RawClient.connect(server, path="/ws/lobby") as client:
            echo(client, "hello")
    assert headings(server) == ["/lobby < text, 5 bytes", "/lobby > text, 5 bytes"]


def test_a_room_and_a_kind_are_shown_together() -> None:
    with serve("--trace=attic,close", "cat") as server:
        play(server)
    assert headings(server)[:3] == CLOSES


@pytest.mark.parametrize(
    ("value", "wanted"), [("true", None), ('"lobby,text"', TEXTS[:2]), ("false", [])]
)
def test_a_script_says_what_is_traced(tmp_path: Path, value: str, wanted: list[str] | None) -> None:
    script = tmp_path / "echo.py"
    block = ["# /// script", "# [tool.scalesocket]", f"# trace = {value}", "# ///"]
    code = ["import sys", "for line in sys.stdin:", "    print(line, end='', flush=True)", ""]
    script.write_text("\n".join([*block, *code]))
    with serve(str(script)) as server:
        play(server)
    found = headings(server)
    assert len(found) == 20 if wanted is None else found == wanted


# ==== 3. Where it is drawn ================================================


def test_into_a_pipe_it_is_drawn_without_colours() -> None:
    with serve("--trace", "cat") as server:
        play(server)
    assert len(headings(server)) == 20
    assert "\x1b" not in "".join(server.output())


def trace_on_a_terminal(**env: str) -> str:
    """Return what a server draws of a session on a terminal."""
    master, slave = pty.openpty()
    environment = {name: text for name, text in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--addr", "127.0.0.1:0", "--trace", "cat"],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.PIPE,
        env={**environment, **env},
    )
    os.close(slave)
    text = b""
    try:
        assert process.stderr is not None
        found = re.search(rb"on port (\d+)", process.stderr.readline())
        assert found is not None
        with RawClient.connect(("127.0.0.1", int(found[1]))) as client:
            echo(client, "hello")
        while text.count(b'"hello"') < 2:
            text += os.read(master, 65536)
    finally:
        process.kill()
        process.communicate()
        os.close(master)
    return text.decode()


def test_on_a_terminal_it_is_drawn_in_colour() -> None:
    text = trace_on_a_terminal(TERM="xterm")
    assert re.search(r"\x1b\[36m[\d:.]{15} #1 127\S+ /room < text, 5 bytes\x1b\[0m\r\n", text)
    assert re.search(r"\x1b\[32m[\d:.]{15} #1 127\S+ /room > text, 5 bytes\x1b\[0m\r\n", text)


def test_on_a_terminal_it_is_drawn_without_colour_where_none_is_wanted() -> None:
    text = trace_on_a_terminal(TERM="xterm", NO_COLOR="1")
    assert re.search(r"^[\d:.]{15} #1 127\S+ /room < text, 5 bytes\r\n", text, re.MULTILINE)
    assert "\x1b" not in text


def test_a_capture_on_standard_output_sends_the_trace_to_standard_error(tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    with serve("--pcap", "-", "--trace=text", "cat", command=into(out)) as server:
        play(server)
    found = [match["what"] for match in map(HEADING.fullmatch, server.log()) if match]
    assert found == TEXTS
    assert sum(packet.payload.endswith(b"lobby") for packet in read_packets(out)) == 1


# ==== 4. When nobody reads it =============================================


def test_a_terminal_that_has_stopped_does_not_stop_the_game(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    payloads = [b"%05d" % number for number in range(20_000)]
    with serve("--trace", "cat", command=into(pipe.path)) as server:
        with RawClient.connect(server) as client:
            client.send_in_background(encode_client_frames(payloads))
            assert client.receive_many(len(payloads)) == payloads
            echo(client, "still here")
            client.close()
        assert server.stop() == 0
        server.wait_log("the trace breaks off: whoever takes it has stopped")
    pipe.finish()


def test_a_terminal_that_goes_on_is_told_of_what_it_has_missed(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    with serve("--trace", "cat", command=into(pipe.path)) as server:
        with RawClient.connect(server, "flood") as client:
            for size in [400] * 200 + [1_000_000] * 4:  # fills the pipe, then the tape
                echo(client, "x" * size)
            pipe.drain()
            wait_until(lambda: echo(client, "more") or b"were missed" in pipe.found())
            client.close()
        with RawClient.connect(server, "quiet") as client:
            echo(client, "seen again")
            client.close()
        server.stop()
    text = pipe.finish().decode()
    assert re.search("/flood = [0-9]+ bytes were missed; it is not traced any further", text)
    assert text.count('    "seen again"\n') == 2


def test_who_takes_no_more_of_it_ends_the_trace_and_not_the_game(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    with serve("--trace", "cat", command=into(pipe.path)) as server:
        pipe.finish()
        with RawClient.connect(server) as client:
            echo(client, "x")
            server.wait_log("the trace ends: .*Broken pipe")
            echo(client, "still here")
            client.close()
        server.stop()
        assert len([line for line in server.log() if "trace" in line]) == 1
