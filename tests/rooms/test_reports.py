"""What users of programs of this kind have reported, and what was right here when it was tried.

Each docstring names the public report. What was wrong here is tested where its subject is.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.support import (
    BINARY,
    TEXT,
    Closed,
    RawClient,
    http_request,
    serve,
    shell,
    wait_until,
)

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the programs are POSIX shell"),
    pytest.mark.slow,  # many servers are started here; --quick leaves them out
]


def message(client: int, kind: int, payload: bytes) -> bytes:
    """Return a message as gwsocket's strict mode has it."""
    return struct.pack("!III", client, kind, len(payload)) + payload


def receive_all(client: RawClient) -> tuple[bytes, int]:
    """Receive until the server closes; return what came, and the close code."""
    received = b""
    while True:
        try:
            received += client.receive_message()[1]
        except Closed as closed:
            return received, closed.code


# ==== ttyd =================================================================


def test_a_program_that_ends_at_once_is_heard_each_time() -> None:
    """`ttyd cat test.txt` showed the text in half of all cases (tsl0922/ttyd#1429)."""
    with serve("--pty", *shell("echo hello")) as server:
        for room in range(20):
            with RawClient.connect(server, f"room{room}") as client:
                assert receive_all(client) == (b"hello\r\n", 1000)


def test_a_server_for_one_client_hangs_its_program_up_before_it_ends(tmp_path: Path) -> None:
    """With --exit-no-conn the program was not told, and wrote nothing (tsl0922/ttyd#1461)."""
    note = tmp_path / "note"
    script = (
        f"trap 'sleep 0.3; echo saved >{note}; exit' HUP; echo up; while :; do sleep 0.05; done"
    )
    with serve("--oneshot", "--pty", "--closegrace", "5", *shell(script)) as server:
        with RawClient.connect(server) as client:
            assert client.receive_message() == (BINARY, b"up\r\n")
        assert server.wait() == 0
    assert note.read_text() == "saved\n"


def test_a_program_that_is_killed_is_told_by_a_code_that_may_be_sent() -> None:
    """1006 was sent for an exit status other than 0, and proxies broke off (tsl0922/ttyd#1395)."""
    with serve("--pty", *shell("kill -9 $$")) as server, RawClient.connect(server) as client:
        assert client.wait_close() == (1011, f"the program has ended with signal {signal.SIGKILL}")


# ==== websocketd ===========================================================


def test_a_program_without_stderr_goes_on() -> None:
    """Its connection was ended when it closed its stderr (joewalnes/websocketd#183)."""
    script = "exec 2>&-; while read x; do echo got $x; done"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        for i in range(3):
            client.send_text(str(i))
            assert client.receive_text() == f"got {i}"


def test_a_long_line_does_not_end_the_connection() -> None:
    """One of 80,000 characters came, the next line did not (joewalnes/websocketd#88)."""
    script = "head -c 80000 /dev/zero | tr '\\0' a; echo; echo Success"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "a" * 80_000
        assert client.receive_text() == "Success"


def test_a_pipeline_in_the_background_ends_with_its_client() -> None:
    """The chat of the manual left `tail` and `grep` behind (joewalnes/websocketd#361, #159)."""
    script = "tail -f /dev/null | grep --line-buffered x & echo up; cat"
    with serve(*shell(script)) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "up"
        wait_until(lambda: server.survivors() == [])


@pytest.mark.parametrize("path", ["//folder", "//evil.example", "/%2fevil.example", "/.//folder"])
def test_a_path_with_two_slashes_leads_to_no_other_host(tmp_path: Path, path: str) -> None:
    """`//folder` is not what `/folder` is (joewalnes/websocketd#49); a redirect to `//folder/`
    would lead to a host of that name."""
    for name in ("folder", "evil.example"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("page")
    with serve("--staticdir", str(tmp_path), "cat") as server:
        response = http_request(server, path=path)
        assert (response.status, response.headers.get("location")) == (404, None)


# ==== gwsocket =============================================================


def test_peers_that_vanish_from_tls_leave_nothing_open(certs: Certificates) -> None:
    """Sockets stayed in CLOSE_WAIT, with TLS only (allinurl/gwsocket#15)."""
    trust = certs.trust()
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    lines = ["GET /room HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    request = "\r\n".join([*lines, "Sec-WebSocket-Version: 13", key, "", ""]).encode()

    def visit(says: bytes, *, reset: bool) -> None:
        """Open TLS, say something, and end TCP with nothing of TLS or WebSocket before it."""
        sock = socket.create_connection((server.host, server.port))
        client = trust.wrap_socket(sock, server_hostname="localhost")
        if says:
            client.sendall(says)
            assert client.recv(100).startswith(b"HTTP/1.1 101 ")
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(client.detach())

    with serve(*certs.options(), "cat") as server:
        visit(request, reset=False)
        wait_until(lambda: server.children() == [])
        before = server.descriptors()
        for says in (b"", request):
            for reset in (False, True, False, True):
                visit(says, reset=reset)
        wait_until(lambda: server.children() == [] and server.descriptors() <= before)


def test_who_comes_while_a_program_prints_gets_what_follows() -> None:
    """What was written before anybody had come, and all after it, was lost
    (allinurl/gwsocket#51)."""
    script = "i=0; while sleep 0.05; do i=$((i+1)); echo $i; done"
    with serve("--linger", "30", *shell(script)) as server:
        with RawClient.connect(server) as client:
            first = int(client.receive_text())
        with RawClient.connect(server) as client:
            numbers = [int(client.receive_text()) for _ in range(3)]
    assert numbers[0] > first
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_a_private_message_that_is_no_utf8_is_repaired_and_stays_private() -> None:
    """Such a message broke the connection of whoever got it (allinurl/goaccess#656)."""
    script = r"""read x; printf '{"_to":1,"x":"\377"}\n{"x":2}\n'; cat"""
    with serve("--frame", *shell(script)) as server:
        with RawClient.connect(server) as one, RawClient.connect(server) as two:
            one.send_text("{}")
            assert one.receive_text() == '{"_to":1,"x":"\ufffd"}'
            assert one.receive_text() == two.receive_text() == '{"x":2}'


def test_strict_mode_addresses_whom_it_says_also_who_has_left(tmp_path: Path) -> None:
    """A message for a client that had gone ended the server (allinurl/goaccess#574)."""
    output = tmp_path / "output"
    output.write_bytes(
        message(2, 1, b"to who has left")
        + message(42, 1, b"to nobody")
        + message(1, 2, b"\x00\xff")
        + message(1, 1, b"")
        + message(0, 1, "grüße".encode())
    )
    script = f"head -c 13 >/dev/null; dd if={output} bs=7 2>/dev/null; cat >/dev/null"
    with serve("--frame=gwsocket", *shell(script)) as server:
        with RawClient.connect(server) as client:
            with RawClient.connect(server):
                pass
            client.send_text("x")
            assert client.receive_message() == (BINARY, b"\x00\xff")
            assert client.receive_message() == (TEXT, b"")
            assert client.receive_text() == "grüße"


def test_a_message_in_fragments_is_one_for_the_program_also_if_a_letter_is_cut() -> None:
    """Letters were cut where a buffer ended (vi/websocat#12)."""
    script = "head -c 17 | tail -c 5; echo; cat >/dev/null"
    with serve("--clientframe=gwsocket", *shell(script)) as server:
        with RawClient.connect(server) as client:
            word = "héé".encode()
            client.send_frame(TEXT, word[:2], fin=False)
            client.ping(b"between")
            client.send_frame(0, word[2:])
            assert client.receive_text() == "héé"
