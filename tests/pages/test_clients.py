"""Clients that no one here wrote: `websockets`, Node's `ws`, Node's own, and `curl`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support import NODE_FOLDER, PATIENCE, ServerProcess, require_tool, serve

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out


MIB = 1024 * 1024


@pytest.fixture(scope="module")
def echo() -> Iterator[ServerProcess]:
    with serve("cat") as server:
        yield server


@pytest.fixture(scope="module")
def binary_echo() -> Iterator[ServerProcess]:
    with serve("--binary", "cat") as server:
        yield server


# ==== The websockets package ===============================================


def open_client(server: ServerProcess, room: str = "room", **options: Any) -> ClientConnection:
    options.setdefault("max_size", 4 * MIB)
    return connect(server.url(room), proxy=None, **options)


def test_websockets_exchanges_text(echo: ServerProcess) -> None:
    with open_client(echo) as client:
        for text in ("hello", "", " ", "\t", "日本語 Кириллица 🎮", "<script>", "x" * 70_000):
            client.send(text)
            assert client.recv(PATIENCE) == text


def test_websockets_exchanges_a_mebibyte(echo: ServerProcess) -> None:
    """The limit of --maxmsg is 1 MiB, and a message of just that is within it."""
    with open_client(echo) as client:
        text = "0123456789abcdef" * (MIB // 16)
        client.send(text)
        assert client.recv(PATIENCE) == text


def test_websockets_exchanges_binary(binary_echo: ServerProcess) -> None:
    with open_client(binary_echo) as client:
        payload = bytes(range(256)) * 512
        client.send(payload)
        received = b""
        while len(received) < len(payload):
            part = client.recv(PATIENCE)
            assert isinstance(part, bytes)
            received += part
        assert received == payload


def test_websockets_sends_fragments(echo: ServerProcess) -> None:
    """One letter of two bytes may be cut in two by a fragment's end."""
    whole = "über" * 1000
    with open_client(echo) as client:
        client.send(whole[at : at + 7] for at in range(0, len(whole), 7))
        assert client.recv(PATIENCE) == whole


def test_websockets_offers_compression_and_goes_on_without(echo: ServerProcess) -> None:
    with open_client(echo, compression="deflate") as client:
        client.send("hello" * 1000)
        assert client.recv(PATIENCE) == "hello" * 1000


def test_websockets_gets_a_pong(echo: ServerProcess) -> None:
    with open_client(echo) as client:
        assert client.ping().wait(PATIENCE)
        assert client.ping(b"payload").wait(PATIENCE)


def test_websockets_closes_with_any_code_and_gets_it_back(echo: ServerProcess) -> None:
    for code, reason in ((1000, ""), (1001, "bye"), (3000, "ü" * 60), (4999, "private")):
        with open_client(echo) as client:
            client.close(code, reason)
        assert client.protocol.close_rcvd is not None
        assert client.protocol.close_rcvd.code == code
        assert client.protocol.close_rcvd_then_sent is False


def test_websockets_learns_why_the_server_closed() -> None:
    with serve("--maxmsg", "1K", "sh", "--", "-c", "read line; exit $line") as server:
        with open_client(server, "good") as client:
            client.send("0")
            with pytest.raises(ConnectionClosedOK) as fine:
                client.recv(PATIENCE)
            assert fine.value.rcvd is not None and fine.value.rcvd.code == 1000
        with open_client(server, "bad") as client:
            client.send("42")
            with pytest.raises(ConnectionClosedError) as failed:
                client.recv(PATIENCE)
            assert failed.value.rcvd is not None and failed.value.rcvd.code == 1011
        with open_client(server, "big") as client:
            client.send("x" * 1025)
            with pytest.raises(ConnectionClosedError) as big:
                client.recv(PATIENCE)
            assert big.value.rcvd is not None and big.value.rcvd.code == 1009
            assert "1025" in big.value.rcvd.reason and "1024" in big.value.rcvd.reason


def test_websockets_is_refused_with_a_status(echo: ServerProcess) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_client(echo, "health")
    assert refused.value.response.status_code == 400


def test_two_websockets_share_a_room(echo: ServerProcess) -> None:
    with open_client(echo, "shared") as one, open_client(echo, "shared") as two:
        for number in range(100):
            one.send(f"message {number}")
        for client in (one, two):
            assert [client.recv(PATIENCE) for _ in range(100)] == [
                f"message {n}" for n in range(100)
            ]


# ==== Node =================================================================

# What both of Node's clients do. `open` makes a client; what happened is printed as JSON.
PLAY = """
const happened = [];
function play(server, binary, done) {
  const client = open(server);
  client.binaryType = 'arraybuffer';
  const text = ['hello', '', '日本語 🎮', 'x'.repeat(70000), 'y'.repeat(1048576)];
  const send = () => client.send(binary ? new Uint8Array([0, 1, 2, 255]) : text[0]);
  client.onopen = send;
  client.onmessage = ({ data }) => {
    if (binary) {
      happened.push(Array.from(new Uint8Array(data)));
    } else {
      happened.push(data === text[0]);
      text.shift();
    }
    if (binary || !text.length) client.close(3001, 'done'); else send();
  };
  client.onerror = (event) => happened.push('error ' + event.message);
  client.onclose = ({ code, reason, wasClean }) => {
    happened.push([code, reason, wasClean]);
    done();
  };
}
const [text, binary] = process.argv.slice(-2);
play(text, false, () => play(binary, true, () => console.log(JSON.stringify(happened))));
"""
CLOSED = [3001, "", True]  # the server gives back the code; the reason was for it
PLAYED = [*[True] * 5, CLOSED, [0, 1, 2, 255], CLOSED]


def run_node(script: str, *arguments: str, flags: tuple[str, ...] = ()) -> Any:
    done = subprocess.run(
        [require_tool("node"), *flags, "-e", script, "--", *arguments],
        cwd=NODE_FOLDER,
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_nodes_ws_exchanges_text_and_binary(
    echo: ServerProcess, binary_echo: ServerProcess
) -> None:
    require_tool("ws")
    script = "const WebSocket = require('ws'); const open = (url) => new WebSocket(url);" + PLAY
    assert run_node(script, echo.url("ws"), binary_echo.url("ws")) == PLAYED


def test_nodes_own_websocket_exchanges_text_and_binary(
    echo: ServerProcess, binary_echo: ServerProcess
) -> None:
    script = "const open = (url) => new WebSocket(url);" + PLAY
    flags = ("--experimental-websocket",)  # Node 20 has it behind this, later ones without
    assert run_node(script, echo.url("node"), binary_echo.url("node"), flags=flags) == PLAYED


def test_nodes_ws_pings_and_gets_its_pong(echo: ServerProcess) -> None:
    require_tool("ws")
    script = """
    const WebSocket = require('ws');
    const client = new WebSocket(process.argv.at(-1));
    client.on('open', () => client.ping('are you there'));
    client.on('pong', (data) => { console.log(JSON.stringify(data.toString())); client.close(); });
    """
    assert run_node(script, echo.url("ws")) == "are you there"


def test_nodes_ws_sees_why_an_upgrade_was_refused(echo: ServerProcess) -> None:
    require_tool("ws")
    script = """
    const WebSocket = require('ws');
    const client = new WebSocket(process.argv.at(-1));
    client.on('error', (error) => console.log(JSON.stringify(error.message)));
    """
    assert run_node(script, echo.url("health")) == "Unexpected server response: 400"


# ==== curl =================================================================


def curl(*arguments: str) -> str:
    done = subprocess.run(
        [require_tool("curl"), "--silent", "--show-error", "--noproxy", "*", *arguments],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_curl_reads_health_and_keeps_its_connection(echo: ServerProcess) -> None:
    url = echo.http("/health")
    assert json.loads(curl(url)) == {"status": "ok"}
    talk = curl("--verbose", "--stderr", "-", url, url)
    assert "Re-using existing connection" in talk
    assert talk.count("200 OK") == 2


def test_curl_upgrades_by_hand_and_sees_a_frame() -> None:
    """The key and the answer to it are the example of RFC 6455 section 1.3."""
    headers = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    fields = [word for header in headers for word in ("--header", header)]
    with serve("sh", "--", "-c", "echo Hello; cat") as server:
        command = [require_tool("curl"), "--silent", "--noproxy", "*", "--http1.1", "-iN", *fields]
        with subprocess.Popen([*command, server.http("/room")], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                lines = [process.stdout.readline().strip().lower() for _ in range(4)]
                while process.stdout.readline().strip():
                    pass
                frame = process.stdout.read(7)
            finally:
                process.kill()
        assert lines[0] == b"http/1.1 101 switching protocols"
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in lines
        assert frame == b"\x81\x05Hello"


def test_curl_is_told_what_is_wrong(echo: ServerProcess) -> None:
    answer = curl("--include", "--request", "POST", "--data", "x=1", echo.http("/room"))
    assert answer.startswith("HTTP/1.1 405")
    assert "\r\nAllow: GET, HEAD\r\n" in answer
    answer = curl("--include", "--http1.1", "-H", "Upgrade: websocket", echo.http("/room"))
    assert answer.startswith("HTTP/1.1 400")
