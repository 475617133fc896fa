"""Plain HTTP where TLS is spoken, and TLS where it is not: both are told what is wrong."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.certificates import Certificates
from tests.support import (
    PATIENCE,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    http_request,
    open_socket,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def secure(certs: Certificates) -> Iterator[ServerProcess]:
    """A server that speaks TLS."""
    with serve(*certs.options(), "--api", "cat") as server:
        yield server


def test_case_20_plain_http_at_a_port_with_tls_is_told_where_to_go(secure: ServerProcess) -> None:
    """A browser at http:// instead of https:// showed "connection reset", or nothing."""
    headers = {"Host": f"game.example:{secure.port}"}
    response = http_request(secure, path="/api/rooms/?x=1", headers=headers)
    assert response.status == 400
    assert response.headers["content-type"].startswith("text/plain")
    where = f"https://game.example:{secure.port}/api/rooms/?x=1"
    assert response.body.decode() == f"this port speaks TLS: use {where}\n"
    secure.wait_log("plain HTTP from 127.0.0.1: this port speaks TLS")


def test_a_plain_websocket_at_a_port_with_tls_too(secure: ServerProcess) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        RawClient.connect(secure, "room")
    assert caught.value.status == 400
    assert f"wss://127.0.0.1:{secure.port}/room" in caught.value.response.body.decode()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
def test_however_the_request_begins_and_however_it_is_cut(
    secure: ServerProcess, method: str
) -> None:
    request = f"{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()
    for cut in (1, 3, 5, 9, len(request)):
        with open_socket(secure) as sock:
            sock.sendall(request[:cut])
            sock.sendall(request[cut:])
            answer = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert (b"https://a.example/" in answer) == (method != "HEAD")


@pytest.mark.parametrize("host", ["a b", "<script>", "a.example/x", ""])
def test_a_strange_host_is_not_repeated(secure: ServerProcess, host: str) -> None:
    response = http_request(secure, headers={"Host": host})
    assert response.status == 400
    assert response.body == b"this port speaks TLS: use https:// and wss://\n"


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_who_takes_its_time_with_plain_http_keeps_nobody_else_waiting(certs: Certificates) -> None:
    """It was told where to go on the thread that accepts all, and could keep that for 10 s."""
    times = with_constants(HELPER_PATIENCE=0.01, HEAD_TIMEOUT=3 * PATIENCE)
    with serve(*certs.options(), "cat", command=times) as server, ExitStack() as stack:
        slow = stack.enter_context(open_socket(server))
        slow.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n")
        server.wait_log("plain HTTP from 127.0.0.1")
        wait_until(lambda: server.threads() == 3)  # no helper waits for the rest
        slow.sendall(b"\r\n")
        while b"https://a.example/" not in slow.recv(65536):
            pass
        over = threading.Event()
        talk = stack.enter_context(ThreadPoolExecutor()).submit(talk_on, slow, over)
        try:
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
                certs.trust().wrap_socket(sock, server_hostname="localhost").close()
        finally:
            over.set()
        talk.result()


def talk_on(sock: socket.socket, over: threading.Event) -> None:
    """Send a byte now and then, and never end."""
    while not over.wait(0.1):
        with contextlib.suppress(ConnectionError):
            sock.send(b"x")


def test_what_is_neither_gets_an_alert_as_before(secure: ServerProcess) -> None:
    with open_socket(secure) as sock:
        sock.sendall(b"\x00\x01\x02\x03\x04\x05\x06\x07")
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = sock.recv(100)
    assert not answer.startswith(b"HTTP")


def test_case_20_tls_at_a_plain_port_is_in_the_log_and_ends_at_once() -> None:
    """wss:// to a server without --sslcert: 10 s of nothing, and not a word in the log."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with serve("cat") as server:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(sock)
        server.wait_log("TLS from 127.0.0.1: this port speaks no TLS .*--sslcert")
        assert sum("speaks no TLS" in line for line in server.log()) == 1, "once is enough"
        with RawClient.connect(server) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"
