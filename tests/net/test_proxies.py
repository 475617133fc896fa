"""--trustproxy: who the client is, by the word of a proxy, and only of a listed one."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scalesocket.net.proxies import TrustedProxies, parse_proxy_header, tells_tls

from scalesocket import Headers
from tests.certificates import Certificates
from tests.support import (
    HandshakeRefused,
    RawClient,
    ServerProcess,
    address_text,
    encode_client_frame,
    exchange,
    http_request,
    open_socket,
    run_cli,
    serve,
    wait_until,
)

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int = 0x21, family: int = 0x11, body: bytes = b"") -> bytes:
    return V2 + struct.pack("!BBH", command, family, len(body)) + body


def v2_of(source: str, port: int, extra: bytes = b"") -> bytes:
    """Return a version 2 header for TCP over IPv4 or IPv6."""
    packed = ipaddress.ip_address(source).packed
    family = 0x11 if len(packed) == 4 else 0x21
    return v2(0x21, family, packed + packed + struct.pack("!HH", port, 80) + extra)


# ==== The header of the PROXY protocol, as bytes ===========================


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n", ("192.0.2.1", 5000)),
        (b"PROXY TCP6 2001:db8::1 2001:DB8::2 65535 443\r\n", ("2001:db8::1", 65535)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 5000 80\r\n", ("192.0.2.1", 5000)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        (v2_of("192.0.2.1", 5000), ("192.0.2.1", 5000)),
        (v2_of("2001:db8::1", 1), ("2001:db8::1", 1)),
        (v2_of("::ffff:192.0.2.1", 5000), ("192.0.2.1", 5000)),
        (v2_of("192.0.2.1", 5000, b"\x04\x00\x03abc"), ("192.0.2.1", 5000)),
        (v2(0x20), None),
        (v2(0x20, 0x00, b"health"), None),
        (v2(0x21, 0x31, b"\0" * 216), None),
        (v2(0x21, 0x00), None),
        (b"", None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"\x16\x03\x01", None),
        (b"\r\nGET / HTTP/1.1\r\n", None),
        (b"POST / HTTP/1.1\r\n", None),
    ],
)
def test_a_header_is_read_however_it_is_cut(header: bytes, client: object) -> None:
    is_header = header.startswith((b"PROXY ", V2))
    data = header + b"GET"
    for length in range(len(data) + 1):
        found = parse_proxy_header(data[:length])
        if is_header and length >= len(header):
            assert found == (len(header), client)
        elif is_header:
            assert found is None
        else:
            assert found in (None, (0, None))
    assert parse_proxy_header(data) == (len(header) if is_header else 0, client)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 5000 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.2 5000 80\r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 5000 80\r\n",
        b"PROXY TCP4 2001:db8::zz 192.0.2.2 5000 80\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 5000 80\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 5000 80\r\n",
        b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
        b"PROXY " + b"x" * 101,
        v2(0x11),
        v2(0x22),
        v2(0x21, 0x11, b"\0" * 11),
        v2(0x21, 0x21, b"\0" * 35),
        V2 + b"\x21\x11\xff\xff",
    ],
)
def test_a_malformed_header_is_an_error(header: bytes) -> None:
    with pytest.raises(ValueError):
        parse_proxy_header(header)


@pytest.mark.parametrize("header", [b"PROXY " + b"x" * 200, b"PROXY xxx\r\n" + b"x" * 200])
def test_a_malformed_line_is_shown(header: bytes) -> None:
    """Of one that was too long the log said: malformed line b''."""
    with pytest.raises(ValueError, match="malformed line b'PROXY xxx"):
        parse_proxy_header(header)


@given(st.binary(max_size=64), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2, V2 + b"\x21"]))
@example(b"1\xb2 1 1 1\r\n", b"PROXY TCP4 ")
def test_no_bytes_at_all_break_the_reading(data: bytes, prefix: bytes) -> None:
    try:
        found = parse_proxy_header(prefix + data)
    except ValueError:
        return
    assert found is None or 0 <= found[0] <= len(prefix + data)


TLS = b"\x20\x00\x05\x01\x00\x00\x00\x00"  # of the client, as HAProxy's `send-proxy-v2-ssl` says


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (v2_of("192.0.2.1", 5000, TLS), True),
        (v2_of("2001:db8::1", 5000, TLS), True),
        (v2_of("192.0.2.1", 5000, b"\x04\x00\x03abc" + TLS), True),
        (v2_of("192.0.2.1", 5000, b"\x20\x00\x0c\x07\0\0\0\0\x21\x00\x04v1.3"), True),
        (v2(0x21, 0x31, b"\0" * 216 + TLS), True),
        (v2(0x21, 0x00, TLS), True),
        (v2_of("192.0.2.1", 5000, b"\x20\x00\x05\x06\0\0\0\0"), False),
        (v2_of("192.0.2.1", 5000, b"\x20\x00\x04\x01\0\0\0"), False),
        (v2_of("192.0.2.1", 5000, b"\x20\x00\x06\x01\0\0\0\0"), False),
        (v2_of("192.0.2.1", 5000, b"\x04\xff\xff" + TLS), False),
        (v2_of("192.0.2.1", 5000, b"\x04\x00\x08" + TLS), False),
        (v2_of("192.0.2.1", 5000, TLS[:-1]), False),
        (v2_of("192.0.2.1", 5000, b"\x20\x00"), False),
        (v2_of("192.0.2.1", 5000), False),
        (v2(0x20, 0x11, b"\0" * 12 + TLS), False),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n", False),
        (b"", False),
    ],
)
def test_what_a_header_says_of_tls(header: bytes, told: bool) -> None:
    assert tells_tls(header) is told


# ==== X-Forwarded-For ======================================================

PROXIES = TrustedProxies(
    [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"), "unix"]
)


@pytest.mark.parametrize(
    ("peer", "value", "client"),
    [
        ("10.0.0.1", "192.0.2.7", ("192.0.2.7", 0)),
        ("10.0.0.1", "192.0.2.7:1234", ("192.0.2.7", 1234)),
        ("10.0.0.1", "[2001:db9::7]:1234", ("2001:db9::7", 1234)),
        ("10.0.0.1", "2001:db9::7", ("2001:db9::7", 0)),
        ("10.0.0.1", "192.0.2.7, 10.1.1.1", ("192.0.2.7", 0)),
        ("10.0.0.1", "6.6.6.6, 192.0.2.7", ("192.0.2.7", 0)),
        ("10.0.0.1", "6.6.6.6, 192.0.2.7, 2001:db8::5", ("192.0.2.7", 0)),
        ("10.0.0.1", "10.2.2.2, 10.1.1.1", ("10.2.2.2", 0)),
        ("10.0.0.1", "", ("10.0.0.1", 80)),
        ("10.0.0.1", "unknown", ("10.0.0.1", 80)),
        ("10.0.0.1", "192.0.2.7, _hidden", ("10.0.0.1", 80)),
        ("10.0.0.1", "192.0.2.7, 10.1.1.1:99999", ("10.0.0.1", 80)),
        ("10.0.0.1", "192.0.2.7,", ("10.0.0.1", 80)),
        ("10.0.0.1", "[fe80::1%a b]", ("10.0.0.1", 80)),
        ("::ffff:10.0.0.1", "192.0.2.7", ("192.0.2.7", 0)),
        ("10.0.0.1", "::ffff:192.0.2.7", ("192.0.2.7", 0)),
        ("10.0.0.1", "[::FFFF:192.0.2.7]:80", ("192.0.2.7", 80)),
        ("2001:db8::1", "192.0.2.7", ("192.0.2.7", 0)),
        ("unix", "192.0.2.7", ("192.0.2.7", 0)),
        ("192.0.2.1", "6.6.6.6", ("192.0.2.1", 80)),
        ("2001:db9::1", "6.6.6.6", ("2001:db9::1", 80)),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_stands_for(
    peer: str, value: str, client: tuple[str, int]
) -> None:
    headers = Headers([("X-Forwarded-For", value)])
    assert PROXIES.find_client((peer, 80), headers) == client


def test_several_header_lines_are_one_list() -> None:
    headers = Headers([("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")])
    assert PROXIES.find_client(("10.0.0.1", 80), headers) == ("192.0.2.7", 0)


def test_with_nobody_listed_nobody_is_believed() -> None:
    nobody = TrustedProxies([])
    headers = Headers([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https")])
    for peer in (("10.0.0.1", 80), ("unix", 0), ("::1", 80)):
        assert nobody.find_client(peer, headers) == peer
        assert not nobody.speaks_tls(peer, headers)


@given(st.text(max_size=60))
def test_no_text_at_all_breaks_the_reading_of_a_chain(text: str) -> None:
    address, port = PROXIES.find_client(("10.0.0.1", 80), Headers([("X-Forwarded-For", text)]))
    ipaddress.ip_address(address)
    assert 0 <= port <= 65535


# ==== A real server ========================================================


@pytest.fixture
def reporter(tmp_path: Path) -> Path:
    """A program that says who opened its room."""
    names = "REMOTE_ADDR REMOTE_PORT HTTPS SERVER_PORT"
    program = tmp_path / "report.py"
    program.write_text(
        "import json, os, sys\n"
        f"print(json.dumps({{n: os.environ.get(n, '') for n in {names.split()}}}))\n"
        "sys.stdin.read()\n"
    )
    return program


def opener(client: RawClient) -> dict[str, str]:
    found: dict[str, str] = json.loads(client.receive_text())
    return found


def connect_behind(server: ServerProcess, header: bytes, room: str, **headers: str) -> RawClient:
    """Connect as a proxy does that sends the PROXY protocol."""
    sock = open_socket(server)
    sock.sendall(header)
    client = RawClient(sock)
    client.upgrade(address_text(server), f"/{room}", headers)
    return client


def test_a_listed_proxy_is_believed(reporter: Path) -> None:
    with serve("--trustproxy", "127.0.0.0/8,::1", str(reporter)) as server:
        forwarded = {"X-Forwarded-For": "6.6.6.6, 192.0.2.7", "X-Forwarded-Proto": "https"}
        with RawClient.connect(server, "forwarded", headers=forwarded) as client:
            found = opener(client)
            assert (found["REMOTE_ADDR"], found["REMOTE_PORT"]) == ("192.0.2.7", "0")
            assert found["HTTPS"] == "on"
        v1 = b"PROXY TCP4 192.0.2.8 127.0.0.1 5000 9000\r\n"
        for name, header in (("v1", v1), ("v2", v2_of("192.0.2.8", 5000))):
            with connect_behind(server, header, name) as client:
                found = opener(client)
                assert (found["REMOTE_ADDR"], found["REMOTE_PORT"]) == ("192.0.2.8", "5000")
                assert found["HTTPS"] == "" and found["SERVER_PORT"] == str(server.port)
        with connect_behind(server, v2(0x20), "local") as client:
            assert opener(client)["REMOTE_ADDR"] == "127.0.0.1"
        with RawClient.connect(server, "bare") as client:
            assert opener(client)["REMOTE_ADDR"] == "127.0.0.1"


def test_a_page_is_let_in_whose_proxy_says_in_front_that_it_came_over_tls() -> None:
    """Its origin has no port, which means 443, and the server took the request's for 80."""
    page = {"Host": "game.example", "Origin": "https://game.example"}
    with serve("--trustproxy", "127.0.0.1", "cat") as server:
        with connect_behind(server, v2_of("192.0.2.8", 5000, TLS), "room", **page) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"


def test_a_client_of_this_machine_is_one_also_behind_a_proxy_of_both_families() -> None:
    """Such a proxy writes ::ffff:127.0.0.1, and any page was let into a server for this machine."""
    with serve("--trustproxy", "127.0.0.1", "cat") as server:
        headers = {"Origin": "https://evil.example", "X-Forwarded-For": "::ffff:127.0.0.1"}
        with pytest.raises(HandshakeRefused) as refused:
            RawClient.connect(server, headers=headers)
        assert refused.value.status == 403


def test_a_proxy_behind_a_proxy_is_believed_if_it_is_listed_too(reporter: Path) -> None:
    with serve("--trustproxy", "127.0.0.1,10.0.0.0/8", str(reporter)) as server:
        header = v2_of("10.1.1.1", 5000)
        with connect_behind(server, header, "a", **{"X-Forwarded-For": "192.0.2.7"}) as client:
            assert opener(client)["REMOTE_ADDR"] == "192.0.2.7"
        header = v2_of("192.0.2.9", 5000)
        with connect_behind(server, header, "b", **{"X-Forwarded-For": "6.6.6.6"}) as client:
            assert opener(client)["REMOTE_ADDR"] == "192.0.2.9"


@pytest.mark.parametrize("options", [(), ("--trustproxy", "10.0.0.0/8,unix")])
def test_nobody_else_is_believed(reporter: Path, options: tuple[str, ...]) -> None:
    with serve(*options, str(reporter)) as server:
        lie = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"}
        with RawClient.connect(server, headers=lie) as client:
            found = opener(client)
            assert (found["REMOTE_ADDR"], found["HTTPS"]) == ("127.0.0.1", "")
        answer = exchange(server, b"PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\nGET / HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        answer = exchange(server, v2_of("6.6.6.6", 1) + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_header_that_dribbles_in_is_read_too(reporter: Path) -> None:
    with serve("--trustproxy", "127.0.0.1", str(reporter)) as server:
        sock = open_socket(server)
        for byte in v2_of("192.0.2.8", 5000):
            sock.sendall(bytes([byte]))
        with RawClient(sock) as client:
            client.upgrade(address_text(server), "/room", {})
            assert opener(client)["REMOTE_ADDR"] == "192.0.2.8"


def test_plain_http_and_what_follows_the_header_at_once_are_served() -> None:
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with serve("--trustproxy", "127.0.0.1", "cat") as server:
        for header in (b"", b"\r\n", b"PROXY UNKNOWN\r\n", v2_of("::1", 3)):
            assert exchange(server, header + request).startswith(b"HTTP/1.1 200 ")
        assert http_request(server, path="/health").status == 200


def test_a_malformed_header_is_logged_once_and_ends_the_connection() -> None:
    with serve("--trustproxy", "127.0.0.1", "cat") as server:
        assert exchange(server, b"PROXY TCP4 nonsense\x1b[31m\r\n") == b""
        server.wait_log("bad PROXY header")
        (line,) = [line for line in server.log() if "PROXY" in line]
        assert "127.0.0.1" in line and "\x1b" not in line
        with open_socket(server) as sock:  # it breaks off
            sock.sendall(b"PROX")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        assert http_request(server, path="/health").status == 200


def test_clients_of_the_unix_socket_are_believed_if_it_is_listed(
    reporter: Path, tmp_path: Path
) -> None:
    door = tmp_path / "door"
    options = ("--unixsocket", str(door), "--trustproxy", "unix")
    with serve(*options, str(reporter)) as server:
        for name, header, expected in (
            ("a", b"", "unix"),
            ("b", v2_of("192.0.2.8", 5000), "192.0.2.8"),
        ):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(door))
            sock.sendall(header)
            with RawClient(sock) as client:
                client.upgrade("localhost", f"/{name}", {})
                assert opener(client)["REMOTE_ADDR"] == expected
        lie = {"X-Forwarded-For": "6.6.6.6"}
        with RawClient.connect(server, "c", headers=lie) as client:
            assert opener(client)["REMOTE_ADDR"] == "127.0.0.1"


def test_the_log_names_the_client_and_not_the_proxy() -> None:
    with serve("-v", "--trustproxy", "127.0.0.1", "cat") as server:
        with connect_behind(server, v2_of("192.0.2.8", 5000), "room"):
            server.wait_log("joined from 192.0.2.8")
        assert not any("joined from 127.0.0.1" in line for line in server.log())


@pytest.mark.parametrize("value", ["", ",", "example.com", "10.0.0.0/33", "1.2.3", "10.0.0.1:80"])
def test_what_is_no_network_is_a_usage_error(value: str) -> None:
    done = run_cli("--trustproxy", value, "cat")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--trustproxy" in done.stderr


def test_a_header_stands_before_tls(certs: Certificates) -> None:
    """As when a proxy passes TLS through (HAProxy's `send-proxy`)."""
    with serve("-v", "--trustproxy", "127.0.0.1", *certs.options(), "cat") as server:
        raw = open_socket(server)
        raw.sendall(v2_of("192.0.2.8", 5000))
        with certs.trust().wrap_socket(raw, server_hostname="localhost") as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
        server.wait_log("GET /health from 192.0.2.8")


def test_a_proxy_that_says_nothing_holds_up_nobody() -> None:
    with serve("--trustproxy", "127.0.0.1", "cat") as server:
        silent = [open_socket(server) for _ in range(50)]
        for sock in silent:
            sock.sendall(b"PROXY TCP")
        with RawClient.connect(server) as client:
            client.send_bytes(encode_client_frame(1, b"hello"))
            assert client.receive_text() == "hello"
        for sock in silent:
            sock.close()
        wait_until(lambda: http_request(server, path="/health").status == 200)
