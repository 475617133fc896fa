"""TLS: `wss://` and `https://`, certificates of both sides, and peers that break off or lie."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalesocket.net.tls import TlsConnection, TlsTransport, load_certificates, make_reloader
from websockets.sync.client import ClientConnection, connect

import scalesocket
from scalesocket import parse_command_line
from tests.certificates import Certificates, run_openssl
from tests.support import (
    ABNORMAL,
    BINARY,
    CLOSE,
    PATIENCE,
    RECEIVE_SIZE,
    TEXT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    open_socket,
    request_head,
    require_tool,
    run_cli,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out


MIB = 1024 * 1024


# ==== A client's end ======================================================


class TlsEnd:
    """A client's TLS over a socket, with the socket's methods that `RawClient` uses.

    It can also say what no TLS library would: `raw` is the socket below. One thread may send
    while another receives.
    """

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        self.raw = raw
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.notified = False  # the server has said that nothing more comes from it
        self.lock = threading.Lock()  # guards the TLS object
        self.setblocking = raw.setblocking
        self.setsockopt = raw.setsockopt
        self.fileno = raw.fileno

    def handshake(self) -> bytes:
        """Shake hands; return the last of it, which has not been sent yet."""
        while True:
            try:
                self.tls.do_handshake()
                return self.outgoing.read()
            except ssl.SSLWantReadError:
                self.raw.sendall(self.outgoing.read())
                data = self.raw.recv(RECEIVE_SIZE)
                if not data:
                    raise EOFError("the server left during the TLS handshake") from None
                self.incoming.write(data)

    def encrypt(self, data: bytes) -> bytes:
        """Return records that are to be sent, in this order."""
        with self.lock:
            self.tls.write(data)
            return self.outgoing.read()

    def send(self, data: bytes | memoryview) -> int:
        piece = bytes(data[: 64 * 1024])
        self.send_raw(self.encrypt(piece))
        return len(piece)

    def send_raw(self, data: bytes, timeout: float = 60) -> None:
        """Send bytes below TLS, whether the socket blocks or not."""
        deadline = time.monotonic() + timeout
        while data:
            try:
                data = data[self.raw.send(data) :]
            except BlockingIOError:
                if self.raw.fileno() < 0 or time.monotonic() > deadline:
                    raise TimeoutError("the server does not take it") from None
                select.select([], [self.raw], [], 0.1)

    def recv(self, size: int) -> bytes:
        """Return what has come; no bytes at an end that was announced."""
        data = self.raw.recv(size)
        if not data and not self.notified:
            raise ConnectionResetError("the server has closed TCP without a close notice")
        pieces: list[bytes] = []
        with self.lock:
            self.incoming.write(data)
            try:
                while not self.notified:
                    pieces.append(self.tls.read(RECEIVE_SIZE))
                    self.notified = not pieces[-1]
            except ssl.SSLZeroReturnError:
                self.notified = True
            except ssl.SSLWantReadError:
                if not pieces:
                    raise BlockingIOError from None
        return b"".join(pieces)

    def close(self) -> None:
        self.raw.close()


def end_of(client: RawClient) -> TlsEnd:
    assert isinstance(client.sock, TlsEnd)
    return client.sock


def open_tls(server: ServerProcess, context: ssl.SSLContext) -> TlsEnd:
    """Connect and shake hands."""
    end = TlsEnd(open_socket(server), context)
    try:
        end.raw.sendall(end.handshake())
    except BaseException:
        end.close()
        raise
    return end


def join(
    server: ServerProcess,
    context: ssl.SSLContext,
    room: str = "room",
    headers: dict[str, str] | None = None,
) -> RawClient:
    """Enter a room over TLS."""
    client = RawClient(open_tls(server, context))  # type: ignore[arg-type]
    try:
        client.upgrade(f"localhost:{server.port}", f"/{room}", headers or {})
    except BaseException:
        client.sock.close()
        raise
    return client


def assert_echoes(client: RawClient, text: str = "hello") -> None:
    client.send_text(text)
    assert client.receive_text() == text


def wss(
    server: ServerProcess, context: ssl.SSLContext, room: str = "room", **options: Any
) -> ClientConnection:
    """Enter a room with somebody else's client; its context is this client's alone.

    It reads and writes on two threads, for which Python's ssl is not made: what was said while it
    read the session tickets of TLS 1.3 was lost now and then. In TLS 1.2 none come then.
    """
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    url = f"wss://localhost:{server.port}/{room}"
    address = socket.create_connection((server.host, server.port), 20)
    address.settimeout(None)
    return connect(url, sock=address, ssl=context, max_size=4 * MIB, proxy=None, **options)


@pytest.fixture(scope="module")
def trust(certs: Certificates) -> ssl.SSLContext:
    return certs.trust()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<title>home</title>")
    (folder / "big.bin").write_bytes(bytes(range(256)) * 4096)
    return folder


@pytest.fixture(scope="module")
def echo(certs: Certificates, site: Path) -> Iterator[ServerProcess]:
    with serve(*certs.options(), "--staticdir", str(site), "cat") as server:
        yield server


# ==== Bytes ===============================================================


def make_ends(
    certs: Certificates, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> tuple[TlsTransport, TlsEnd]:
    """Return a server's end, and a client's whose socket is not used."""
    config = parse_command_line([*certs.options(), "cat"])
    context = load_certificates(config)
    assert context is not None
    trust = certs.trust()
    trust.maximum_version = version
    with socket.socket() as unused:
        return TlsTransport(context), TlsEnd(unused, trust)


def shake_hands(server: TlsTransport, client: TlsEnd, size: int = 1 << 20) -> None:
    """Let both ends agree; each piece that passes has `size` bytes at the most."""
    done = False
    for _ in range(10):
        try:
            client.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        data = client.outgoing.read()
        for at in range(0, len(data), size):
            assert not done, "the server was done before the client had said all"
            done, reply = server.advance_handshake(data[at : at + size])
            for back in range(0, len(reply), size):
                client.incoming.write(reply[back : back + size])
                try:
                    client.tls.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        if done:
            client.tls.do_handshake()
            return
    raise AssertionError("no agreement")


def read_all(client: TlsEnd, data: bytes) -> bytes:
    """Return what the client finds in bytes of the server."""
    client.incoming.write(data)
    pieces = []
    try:
        while piece := client.tls.read(RECEIVE_SIZE):
            pieces.append(piece)
    except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
        pass
    return b"".join(pieces)


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


@both_versions
@pytest.mark.parametrize("size", [1, 2, 5, 7, 100, 1 << 20])
def test_the_handshake_may_come_in_pieces_of_any_size(
    certs: Certificates, version: ssl.TLSVersion, size: int
) -> None:
    server, client = make_ends(certs, version)
    shake_hands(server, client, size)
    assert client.tls.version() == version.name.replace("_", ".")
    assert read_all(client, server.encrypt(b"hello")) == b"hello"


@both_versions
@settings(max_examples=15)
@given(
    messages=st.lists(
        st.binary(min_size=1, max_size=40) | st.just(b"x" * 17_000), min_size=1, max_size=5
    ),
    cuts=st.lists(st.integers(1, 30_000) | st.integers(1, 30), min_size=1, max_size=5),
)
def test_data_may_be_cut_anywhere(
    certs: Certificates, version: ssl.TLSVersion, messages: list[bytes], cuts: list[int]
) -> None:
    server, client = make_ends(certs, version)
    shake_hands(server, client)
    data, got, sizes = b"".join(map(client.encrypt, messages)), b"", itertools.cycle(cuts)
    while data:
        size = next(sizes)
        plain, reply = server.decrypt(data[:size])
        assert not reply
        data, got = data[size:], got + plain
    assert got == b"".join(messages)
    data, got = b"".join(map(server.encrypt, messages)), b""
    while data:
        size = next(sizes)
        data, got = data[size:], got + read_all(client, data[:size])
    assert got == b"".join(messages)


def test_what_is_longer_than_many_records_is_encrypted_whole(certs: Certificates) -> None:
    server, client = make_ends(certs)
    shake_hands(server, client)
    data = os.urandom(5 * MIB)
    assert read_all(client, server.encrypt(data)) == data
    plain, _ = server.decrypt(client.encrypt(data))
    assert plain == data


@both_versions
def test_a_close_notice_is_the_end(certs: Certificates, version: ssl.TLSVersion) -> None:
    server, client = make_ends(certs, version)
    shake_hands(server, client)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    with pytest.raises(EOFError):
        server.decrypt(client.outgoing.read())


@both_versions
def test_what_came_before_a_close_notice_is_not_lost(
    certs: Certificates, version: ssl.TLSVersion
) -> None:
    server, client = make_ends(certs, version)
    shake_hands(server, client)
    data = client.encrypt(b"last ") + client.encrypt(b"words")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    plain, _ = server.decrypt(data + client.outgoing.read())
    assert plain == b"last words"
    for _ in range(2):
        with pytest.raises(EOFError):
            server.decrypt(b"")


def damaged(record: bytes) -> bytes:
    return record[:-1] + bytes([record[-1] ^ 1])


@both_versions
def test_a_damaged_record_is_the_end(certs: Certificates, version: ssl.TLSVersion) -> None:
    server, client = make_ends(certs, version)
    shake_hands(server, client)
    data = client.encrypt(b"good") + damaged(client.encrypt(b"bad"))
    plain, _ = server.decrypt(data)
    assert plain == b"good"
    for more in (b"", client.encrypt(b"more")):
        with pytest.raises(EOFError):
            server.decrypt(more)


def test_no_byte_of_a_record_may_be_changed(certs: Certificates) -> None:
    """The length, too: then the record is not whole yet, or the next one is broken."""
    for at in range(30):
        server, client = make_ends(certs)
        shake_hands(server, client)
        record = bytearray(client.encrypt(b"x" * 8))
        record[at % len(record)] ^= 0x40
        try:
            plain, _ = server.decrypt(bytes(record))
        except EOFError:
            continue
        assert plain == b""


def test_the_client_understands_the_close_notice(certs: Certificates) -> None:
    server, client = make_ends(certs)
    shake_hands(server, client)
    assert read_all(client, server.encrypt(b"bye") + server.close()) == b"bye"
    with pytest.raises(ssl.SSLZeroReturnError):
        client.tls.unwrap()
        client.tls.read(1)
    assert server.close() is not None, "a second notice is no error"


def test_what_is_no_tls_is_no_handshake(certs: Certificates) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\x16\x03\x01\x00\x05hello"):
        server, _ = make_ends(certs)
        with pytest.raises(ssl.SSLError):
            server.advance_handshake(garbage)


def test_a_record_that_is_dribbled_does_not_outlast_the_time_for_a_head(
    certs: Certificates,
) -> None:
    """Each byte of it is no new beginning: the deadline is one for the whole head."""
    brief = with_constants(HEAD_TIMEOUT=5.0)  # which the handshake must not take
    with serve(*certs.options(), "cat", command=brief) as server, open_socket(server) as sock:
        end = TlsEnd(sock, certs.trust())
        sock.sendall(end.handshake())
        sock.settimeout(0.05)
        for byte in end.encrypt(b"GET / HTTP/1.1\r\n" + b"x" * 500):
            try:
                sock.sendall(bytes([byte]))
                if not sock.recv(RECEIVE_SIZE):
                    break
            except TimeoutError:
                pass
            except ConnectionError:
                break
        else:
            pytest.fail("it was heard to its end, for 26 s")


def keep_begun(end: TlsEnd) -> bytes:
    """Send nothing; return what begins a handshake."""
    with contextlib.suppress(ssl.SSLWantReadError):
        end.tls.do_handshake()
    return end.outgoing.read()


def keep_answered(end: TlsEnd) -> bytes:
    """Be in the middle of a handshake; return the rest of it."""
    return end.handshake()


def keep_agreed(end: TlsEnd) -> bytes:
    """Have made the handshake; return a request."""
    end.raw.sendall(end.handshake())
    return end.encrypt(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")


def send_all(ends: list[TlsEnd], pieces: list[bytes]) -> None:
    for end, piece in zip(ends, pieces, strict=True):
        end.raw.sendall(piece)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("keep", [keep_begun, keep_answered, keep_agreed])
def test_a_crowd_that_takes_its_time_with_tls_costs_no_threads(
    certs: Certificates, keep: Callable[[TlsEnd], bytes]
) -> None:
    """Each of them kept a thread, until the time for a head was over."""
    long = with_constants(HEAD_TIMEOUT=3 * PATIENCE)
    trust = certs.trust()
    trust.minimum_version = ssl.TLSVersion.TLSv1_3  # its client speaks last in the handshake
    with serve(*certs.options(), "cat", command=long) as server, ExitStack() as stack:
        quiet = server.threads()
        ends = [TlsEnd(stack.enter_context(open_socket(server)), trust) for _ in range(60)]
        rests = [keep(end) for end in ends]
        send_all(ends, [rest[:20] for rest in rests])
        open_tls(server, trust).close()  # so that all have been heard
        wait_until(lambda: server.threads() < quiet + 30)  # a helper waits for more, but not long
        for at in range(20, 40):
            send_all(ends, [rest[at : at + 1] for rest in rests])
            assert server.threads() < quiet + 30
        send_all(ends, [rest[40:] for rest in rests])
        for end in ends:
            if keep is keep_agreed:
                answer = b""
                end.raw.settimeout(PATIENCE)
                while b"\r\n\r\n" not in answer:
                    with contextlib.suppress(BlockingIOError):  # a part of a record
                        answer += end.recv(RECEIVE_SIZE)
                assert answer.startswith(b"HTTP/1.1 200 ")
            elif keep is keep_begun:
                assert end.raw.recv(1) == b"\x16"


# ==== Rooms ===============================================================


def test_websockets_exchanges_text(echo: ServerProcess, certs: Certificates) -> None:
    with wss(echo, certs.trust()) as client:
        for text in ("hello", "", "日本語 🎮", "x" * 70_000, "0123456789abcdef" * (MIB // 16)):
            client.send(text)
            assert client.recv(PATIENCE) == text


def test_websockets_exchanges_binary(certs: Certificates) -> None:
    with serve(*certs.options(), "--binary", "cat") as server, wss(server, certs.trust()) as client:
        payload = os.urandom(MIB)
        client.send(payload)
        received = b""
        while len(received) < len(payload):
            part = client.recv(PATIENCE)
            assert isinstance(part, bytes)
            received += part
        assert received == payload


def test_all_see_one_order(echo: ServerProcess, trust: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(join(echo, trust, "order")) for _ in range(5)]
        texts = [[f"{who} {number}" for number in range(200)] for who in range(5)]
        for client, own in zip(clients, texts, strict=True):
            client.send_in_background(encode_client_frames(own))
        seen = [client.receive_many(1000) for client in clients]
    assert all(view == seen[0] for view in seen)
    for who, own in enumerate(texts):
        assert [item.decode() for item in seen[0] if item.startswith(b"%d " % who)] == own


def test_a_pipeline_comes_back_in_order(echo: ServerProcess, trust: ssl.SSLContext) -> None:
    texts = [f"{number} {'x' * (number % 97)}" for number in range(5000)]
    with join(echo, trust, "pipeline") as client:
        client.send_in_background(encode_client_frames(texts))
        assert client.receive_many(5000) == [text.encode() for text in texts]


def test_what_comes_with_the_end_of_the_handshake_is_read(
    echo: ServerProcess, trust: ssl.SSLContext
) -> None:
    """Finished, the upgrade request, two messages and a Close, all in one segment."""
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    fields = {"Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", **key}
    frames = encode_client_frames(["one", "two"])
    with open_socket(echo) as raw:
        end = TlsEnd(raw, trust)
        data = end.handshake()
        data += end.encrypt(request_head("GET", "/early", fields)) + end.encrypt(frames)
        raw.sendall(data)
        client = RawClient(end)  # type: ignore[arg-type]
        assert client._read_handshake().status == 101
        assert [client.receive_text(), client.receive_text()] == ["one", "two"]
        assert client.close() == (1000, "")


def test_records_cut_anywhere_are_put_together(echo: ServerProcess, trust: ssl.SSLContext) -> None:
    with join(echo, trust, "cut") as client:
        end = end_of(client)
        data = end.encrypt(encode_client_frame(TEXT, b"first"))
        data += end.encrypt(encode_client_frame(TEXT, b"second"))
        for at in range(len(data)):
            end.send_raw(data[at : at + 1])
        assert [client.receive_text(), client.receive_text()] == ["first", "second"]


def test_the_child_and_the_log_know_of_it(certs: Certificates, trust: ssl.SSLContext) -> None:
    with serve(*certs.options(), "sh", "--", "-c", 'echo "HTTPS=$HTTPS"; exec cat') as server:
        server.wait_log(r"open https://127\.0\.0\.1:\d+/")
        with join(server, trust) as client:
            assert client.receive_text() == "HTTPS=on"


def test_a_host_without_a_port_means_443(certs: Certificates, trust: ssl.SSLContext) -> None:
    options = ("--sameorigin", "--host", "game.example")
    with serve(*certs.options(), *options, "cat") as server:
        host = {"Host": "game.example"}
        for origin in ("https://game.example", "https://game.example:443"):
            with join(server, trust, "room", {**host, "Origin": origin}) as client:
                assert_echoes(client)
        for origin in ("http://game.example", "https://game.example:80", "https://evil.example"):
            with pytest.raises(HandshakeRefused) as refusal:
                join(server, trust, "room", {**host, "Origin": origin}).sock.close()
            assert refusal.value.status == 403


# ==== HTTP ================================================================


def curl(server: ServerProcess, certs: Certificates, *arguments: str) -> bytes:
    """Return what curl prints for paths of the server."""
    trusted = (
        "--cacert",
        certs.cert("authority"),
        "--resolve",
        f"localhost:{server.port}:127.0.0.1",
    )
    command = [require_tool("curl"), "-sS", "--noproxy", "*", "--max-time", "30", *trusted]
    done = subprocess.run([*command, *arguments], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_gets_pages_and_ranges(echo: ServerProcess, certs: Certificates, site: Path) -> None:
    echo.wait_log(r"open https://127\.0\.0\.1:\d+/$")
    base = f"https://localhost:{echo.port}"
    code = ("-o", os.devnull, "-w", "%{http_code}")
    assert curl(echo, certs, *code, f"{base}/health") == b"200"
    assert b"home" in curl(echo, certs, f"{base}/")
    whole = (site / "big.bin").read_bytes()
    assert curl(echo, certs, f"{base}/big.bin") == whole
    assert curl(echo, certs, "-r", "1000-200999", f"{base}/big.bin") == whole[1000:201_000]
    assert curl(echo, certs, "-r", "-5", f"{base}/big.bin") == whole[-5:]
    assert curl(echo, certs, "-I", f"{base}/big.bin").startswith(b"HTTP/1.1 200 ")
    assert curl(echo, certs, *code, f"{base}/none") == b"404"


def test_curl_keeps_the_connection(echo: ServerProcess, certs: Certificates) -> None:
    base = f"https://localhost:{echo.port}"
    count = ("-w", "%{num_connects} ", "-o", os.devnull)
    paths = (f"{base}/", *count, f"{base}/big.bin", *count, f"{base}/health")
    assert curl(echo, certs, *count, *paths).split() == [b"1", b"0", b"0"]


def test_the_last_answer_ends_with_a_close_notice(
    echo: ServerProcess, trust: ssl.SSLContext
) -> None:
    """Else a client could not tell the end of an answer from a cut (RFC 8446 6.1)."""
    with socket.create_connection((echo.host, echo.port), 20) as sock:
        with trust.wrap_socket(
            sock, server_hostname="localhost", suppress_ragged_eofs=False
        ) as client:
            fields = {"Host": "localhost", "Connection": "close"}
            client.sendall(request_head("GET", "/health", fields))
            answer = b"".join(iter(lambda: client.recv(RECEIVE_SIZE), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")


@both_versions
@pytest.mark.parametrize("leaves", [True, False])
def test_a_kept_connection_ends_with_a_close_notice(
    certs: Certificates, version: ssl.TLSVersion, leaves: bool
) -> None:
    """Whoever ends it: an end without one looks like a cut, and clients said so as an error."""
    trust = certs.trust()
    trust.minimum_version = trust.maximum_version = version
    times = with_constants(IDLE_TIMEOUT=3 * PATIENCE if leaves else 1.0)
    with serve(*certs.options(), "cat", command=times) as server:
        end = open_tls(server, trust)
        end.raw.settimeout(PATIENCE)
        with contextlib.closing(end):
            end.send(request_head("GET", "/health", {"Host": "localhost"}))
            answer = b""
            while not answer.endswith(b'{"status": "ok"}'):
                with contextlib.suppress(BlockingIOError):  # a part of a record
                    answer += end.recv(RECEIVE_SIZE)
            if leaves:
                with pytest.raises(ssl.SSLWantReadError):
                    end.tls.unwrap()
                end.send_raw(end.outgoing.read())
                end.incoming.write(read_to_end(end.raw))
                end.tls.unwrap()  # it raises an error if no notice has come
            else:
                assert end.recv(RECEIVE_SIZE) == b""
                assert end.raw.recv(1) == b""


def test_alpn_chooses_http_1(echo: ServerProcess, certs: Certificates) -> None:
    trust = certs.trust()
    trust.set_alpn_protocols(["h2", "http/1.1"])
    end = open_tls(echo, trust)
    assert end.tls.selected_alpn_protocol() == "http/1.1"
    end.close()


def test_too_many_are_told_so_over_tls(certs: Certificates, trust: ssl.SSLContext) -> None:
    with serve(*certs.options(), "--maxconns", "1", "cat") as server:
        with join(server, trust) as client:
            with pytest.raises(HandshakeRefused) as refusal:
                join(server, trust).sock.close()
            assert refusal.value.status == 503
            assert_echoes(client)


@pytest.mark.parametrize(
    ("room", "headers", "status"),
    [
        ("two/segments", {}, 400),
        ("elsewhere", {}, 404),
        ("room", {"Origin": "https://evil.example"}, 403),
        ("room", {}, 401),
    ],
)
def test_who_is_refused_after_a_good_handshake_can_read_why(
    certs: Certificates,
    trust: ssl.SSLContext,
    room: str,
    headers: dict[str, str],
    status: int,
) -> None:
    """A response that was encrypted and not sent would make a gap, which no TLS forgives."""
    options = ("--rooms", "room", "--auth", "false", "--origin", "https://good.example")
    with serve(*certs.options(), *options, "cat") as server:
        with pytest.raises(HandshakeRefused) as refusal:
            join(server, trust, room, {"Origin": "https://good.example"} | headers).sock.close()
        assert refusal.value.status == status


# ==== Versions, and who speaks something else ==============================


@both_versions
def test_versions_from_1_2_on_are_spoken(
    echo: ServerProcess, certs: Certificates, version: ssl.TLSVersion
) -> None:
    trust = certs.trust()
    trust.minimum_version = trust.maximum_version = version
    with join(echo, trust, version.name) as client:
        assert end_of(client).tls.version() == version.name.replace("_", ".")
        assert_echoes(client)
        assert client.close() == (1000, "")


def test_an_older_version_is_refused_with_a_word(echo: ServerProcess, certs: Certificates) -> None:
    """RFC 8446 6.2: before it closes, it says why."""
    trust = certs.trust()
    trust.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="(?i)alert.protocol.version"):
        open_tls(echo, trust).close()


def read_to_end(sock: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    parts = []
    try:
        while data := sock.recv(RECEIVE_SIZE):
            parts.append(data)
    except ConnectionError:
        pass
    return b"".join(parts)


def test_whoever_does_not_speak_tls_is_let_go(echo: ServerProcess, trust: ssl.SSLContext) -> None:
    with join(echo, trust, "unharmed") as client:
        heads = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(2000), b"\x16\x03\x01\xff\xff")
        for garbage in (*heads, b"\0" * 100, b"\x16\x03\x01\x00\x05hello"):
            with open_socket(echo) as sock:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                assert b"HTTP/1.1 200" not in read_to_end(sock)
            assert_echoes(client)


@pytest.mark.slow
def test_a_client_that_says_nothing_is_let_go(certs: Certificates, trust: ssl.SSLContext) -> None:
    """Others come in meanwhile."""
    soon = with_constants(HEAD_TIMEOUT=4.0)
    with serve(*certs.options(), "cat", command=soon) as server, ExitStack() as stack:
        silent = [stack.enter_context(open_socket(server)) for _ in range(20)]
        silent[0].sendall(b"\x16\x03")  # it begins, and stops
        with join(server, trust, "meanwhile") as client:
            assert_echoes(client)
        for sock in silent:
            assert read_to_end(sock) == b""


def test_a_client_that_leaves_during_the_handshake_harms_nobody(
    echo: ServerProcess, trust: ssl.SSLContext
) -> None:
    with join(echo, trust, "leaver") as client:
        for abrupt in (False, True):
            with open_socket(echo) as sock:
                end = TlsEnd(sock, trust)
                with pytest.raises(ssl.SSLWantReadError):
                    end.tls.do_handshake()
                hello = end.outgoing.read()
                sock.sendall(hello[:-10] if abrupt else hello)
                if abrupt:
                    reset(sock)
            assert_echoes(client)


def reset(sock: socket.socket) -> None:
    """End TCP with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


# ==== Peers that break off ================================================


def test_a_reset_in_the_middle_of_a_record_harms_nobody(
    echo: ServerProcess, trust: ssl.SSLContext
) -> None:
    with join(echo, trust, "reset") as client, join(echo, trust, "reset") as broken:
        end = end_of(broken)
        data = end.encrypt(encode_client_frame(TEXT, b"never whole" * 100))
        end.send_raw(data[: len(data) // 2])
        reset(end.raw)
        assert_echoes(client)


def test_a_damaged_record_ends_its_connection_alone(
    certs: Certificates, trust: ssl.SSLContext
) -> None:
    """What came before it, in the same bytes, is everyone's; and the room goes on for others."""
    with serve(*certs.options(), "cat") as server:
        with join(server, trust) as client, join(server, trust) as broken:
            end = end_of(broken)
            data = end.encrypt(encode_client_frame(TEXT, b"good"))
            data += damaged(end.encrypt(encode_client_frame(TEXT, b"bad")))
            end.send_raw(data)  # and the connection stays open
            assert client.receive_text() == "good"
            for number in range(20):
                assert_echoes(client, f"still here {number}")
            assert ends_soon(broken), "the broken connection is still open"


@both_versions
def test_sending_to_a_peer_whose_tls_has_failed_raises_nothing(
    certs: Certificates, version: ssl.TLSVersion
) -> None:
    """The sender is a room's thread: it serves others, and has no part in the failure."""
    tls, client = make_ends(certs, version)
    shake_hands(tls, client)
    ours, theirs = socket.socketpair()
    poller = scalesocket.Poller("poller")
    poller.start()
    protocol = scalesocket.WebSocketProtocol(scalesocket.Role.SERVER, max_message=1000)
    connection = TlsConnection(ours, protocol, tls=tls, poller=poller, max_backlog=MIB)
    try:
        good = client.encrypt(encode_client_frame(TEXT, b"good"))
        theirs.sendall(good + damaged(client.encrypt(b"bad")))
        connection.receive()
        for _ in range(3):
            connection.send(b"\x81\x01x")
        connection.close(1000)
        theirs.settimeout(PATIENCE)
        assert connection.receive() is None
    finally:
        connection.dispose()
        theirs.close()
        poller.stop()


def ends_soon(client: RawClient, timeout: float = 10) -> bool:
    """Read past whatever comes until TCP ends."""
    deadline = time.monotonic() + timeout
    raw = end_of(client).raw
    raw.setblocking(True)
    while time.monotonic() < deadline:
        raw.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            if not raw.recv(RECEIVE_SIZE):
                return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True
    return False


@both_versions
@pytest.mark.parametrize("with_message", [False, True])
def test_a_close_notice_without_a_close_frame_ends_the_connection(
    certs: Certificates, version: ssl.TLSVersion, with_message: bool
) -> None:
    """As TCP's end does; its own TCP connection may stay open."""
    trust = certs.trust()
    trust.maximum_version = version
    leave = ("--leavemsg", "gone #ID")
    with serve(*certs.options(), *leave, "cat") as server:
        with join(server, trust) as client, join(server, trust) as leaver:
            end = end_of(leaver)
            data = end.encrypt(encode_client_frame(TEXT, b"last words")) if with_message else b""
            with pytest.raises(ssl.SSLWantReadError):
                end.tls.unwrap()
            end.send_raw(data + end.outgoing.read())
            if with_message:
                assert client.receive_text() == "last words"
            assert client.receive_text() == "gone 2"
            assert ends_soon(leaver)
            assert_echoes(client)


# ==== Certificates of clients =============================================


@both_versions
def test_only_clients_with_a_certificate_come_in(
    certs: Certificates, version: ssl.TLSVersion
) -> None:
    """Who has none, or one of somebody else's, is told so by an alert (RFC 8446 6.2)."""
    with serve(*certs.options(), "--sslca", certs.cert("authority"), "cat") as server:
        good = certs.trust("client")
        good.maximum_version = version
        with join(server, good) as client:
            assert_echoes(client)
            for name in (None, "intruder", "server"):
                bad = certs.trust(name)
                bad.maximum_version = version
                refusals = (ssl.SSLError, OSError, EOFError)
                with pytest.raises(refusals):
                    join(server, bad).sock.close()
                assert_echoes(client)
            for _ in range(2):
                with join(server, good) as another:
                    assert_echoes(client, "again")
                    assert another.receive_text() == "again"


@both_versions
@pytest.mark.parametrize("name", [None, "intruder"])
def test_a_refused_client_is_told_why(
    certs: Certificates, version: ssl.TLSVersion, name: str | None
) -> None:
    """RFC 8446 6.2, 4.4.2.4: with an alert, before it closes."""
    with serve(*certs.options(), "--sslca", certs.cert("authority"), "cat") as server:
        trust = certs.trust(name)
        trust.maximum_version = version
        with pytest.raises(ssl.SSLError, match="(?i)alert"):
            join(server, trust).sock.close()


# ==== A slow peer =========================================================


@pytest.mark.slow
def test_a_client_that_stops_reading_does_not_hold_up_others(
    certs: Certificates, trust: ssl.SSLContext
) -> None:
    """20 MB for everyone; who takes nothing for a while is closed, the others lose nothing."""
    count, line = 20_000, b"x" * 1000
    with serve(*certs.options(), "--stall", "4", "cat") as server:
        with join(server, trust) as slow, join(server, trust) as client:
            assert_echoes(client)
            assert slow.receive_text() == "hello"
            end_of(slow).raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            before = server.rss()
            sender = client.send_in_background(
                encode_client_frames(b"%06d " % n + line for n in range(count))
            )
            got = client.receive_many(count, 90)
            sender.join(PATIENCE)
            assert got == [b"%06d " % n + line for n in range(count)]
            assert server.peak_rss() - before < 60 * MIB
            assert_echoes(client, "after")
            try:
                code, _ = slow.wait_close()
            except ssl.SSLError as error:
                pytest.fail(f"what it got before its end is no TLS: {error}")
            assert code in (1008, ABNORMAL)


def test_who_is_closed_for_being_slow_can_read_what_it_has_got(
    certs: Certificates, trust: ssl.SSLContext
) -> None:
    """No record is missing before its end, or it would be a broken connection to the client."""
    script = "read x; seq -f %0400.0f 100001 150000; exec cat"
    with serve(*certs.options(), "--stall", "4", "sh", "--", "-c", script) as server:
        with join(server, trust) as slow, join(server, trust) as client:
            client.send_text("go")
            assert int(client.receive_many(50_000)[-1]) == 150_000
            got: list[bytes] = []
            with pytest.raises((Closed, ConnectionError, EOFError)) as ending:
                while True:
                    got += slow.receive_many(1)
            assert [int(item) for item in got] == list(range(100_001, 100_001 + len(got)))
            assert len(got) < 50_000
            if isinstance(ending.value, Closed):
                assert ending.value.code == 1008
            assert_echoes(client)


# ==== New certificates ====================================================


def serial(server: ServerProcess, trust: ssl.SSLContext) -> str:
    """Return the number of the certificate that newcomers see."""
    end = open_tls(server, trust)
    end.close()
    found = end.tls.getpeercert()
    assert found
    number = found["serialNumber"]
    assert isinstance(number, str)
    return number


def install(certs: Certificates, name: str, folder: Path) -> None:
    shutil.copy(certs.cert(name), folder / "site.pem")
    shutil.copy(certs.key(name), folder / "site.key")


def test_certificates_are_read_again_at_sighup(
    certs: Certificates, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    install(certs, "server", tmp_path)
    files = ("--sslcert", str(tmp_path / "site.pem"), "--sslkey", str(tmp_path / "site.key"))
    with serve(*files, "cat") as server, join(server, trust) as client:
        old = serial(server, trust)
        install(certs, "renewed", tmp_path)
        assert serial(server, trust) == old, "it was read before it was to be"
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("certificates read again")
        new = serial(server, trust)
        assert new != old
        assert_echoes(client, "the old connection goes on")
        with join(server, trust) as newcomer:
            assert_echoes(newcomer, "both in one room")
            assert client.receive_text() == "both in one room"
        # Broken in three ways: each is logged, and the certificate stays.
        for name, broken in (("site.pem", b"no PEM"), ("site.key", b""), ("site.pem", None)):
            since = len(server.log())
            path = tmp_path / name
            path.unlink() if broken is None else path.write_bytes(broken)
            server.process.send_signal(signal.SIGHUP)
            server.wait_log(r"ERROR.*the old certificates stay: .*site\.pem", since=since)
            assert serial(server, trust) == new
            install(certs, "renewed", tmp_path)
        assert_echoes(client, "and on")
        install(certs, "server", tmp_path)
        since = len(server.log())
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("certificates read again", since=since)
        assert serial(server, trust) == old


def test_new_certificates_whose_keys_cannot_be_recorded_leave_the_old_ones(
    certs: Certificates,
) -> None:
    """With --pcap and no descriptor left, SIGHUP ended the server with a traceback."""
    server = scalesocket.Server(parse_command_line([*certs.options(), "cat"]))
    before, server.taps = server.tls_context, Mock()
    server.taps.watch.side_effect = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert make_reloader(server)(True)
    assert server.tls_context is before


def test_many_signals_while_clients_come(certs: Certificates, trust: ssl.SSLContext) -> None:
    with serve(*certs.options(), "cat") as server, join(server, trust) as client:
        for _ in range(30):
            server.process.send_signal(signal.SIGHUP)
            with join(server, trust) as other:
                assert_echoes(client)
                assert other.receive_text() == "hello"


# ==== Files that cannot be used ===========================================


def assert_one_line(arguments: list[str], *mentioned: str) -> None:
    """The server must end with status 2, one line, and no socket left open."""
    with serve(*arguments, "cat", ready=False) as server:
        assert server.wait() == 2
    assert len(server.log()) == 1, server.log()
    assert server.log()[0].startswith("scalesocket: ")
    for name in mentioned:
        assert name in server.log()[0], server.log()


def test_wrong_files_are_said_in_one_line(certs: Certificates, tmp_path: Path) -> None:
    cert, key = certs.cert("server"), certs.key("server")
    nothing = str(tmp_path / "nothing.pem")
    (tmp_path / "garbage.pem").write_bytes(os.urandom(500))
    garbage = str(tmp_path / "garbage.pem")
    assert_one_line(["--sslcert", nothing], nothing)
    assert_one_line(["--sslcert", garbage], garbage)
    assert_one_line(["--sslcert", str(tmp_path)], str(tmp_path))
    assert_one_line(["--sslcert", cert], cert)
    assert_one_line(["--sslcert", cert, "--sslkey", nothing], nothing)
    assert_one_line(["--sslcert", cert, "--sslkey", certs.key("client")], cert)
    assert_one_line(["--sslcert", cert, "--sslkey", key, "--sslca", nothing], nothing)
    assert_one_line(["--sslcert", cert, "--sslkey", key, "--sslca", garbage], garbage)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--sslcert {cert}", "a certificate and its private key are wanted, both in PEM form"),
        ("--sslcert {key}", "a certificate and its private key are wanted, both in PEM form"),
        ("--sslcert {cert} --sslkey {other}", "the private key is that of another certificate"),
        (
            "--sslcert {cert} --sslkey {key} --sslca {key}",
            "the authority's file has no certificate in PEM form",
        ),
    ],
)
def test_what_is_wrong_with_files_is_said_in_words(
    certs: Certificates, options: str, words: str
) -> None:
    """The line said "[SSL] PEM lib (_ssl.c:3905)"."""
    cert, key, other = certs.cert("server"), certs.key("server"), certs.key("client")
    files = {"cert": cert, "key": key, "other": other}
    done = run_cli(*(part.format_map(files) for part in options.split()), "cat")
    assert done.returncode == 2
    assert done.stderr.endswith(f": {words}\n")


@pytest.mark.parametrize("option", ["--sslkey", "--sslca"])
def test_options_that_need_a_certificate(certs: Certificates, option: str) -> None:
    done = run_cli(option, certs.key("server"), "cat")
    assert done.returncode == 2
    assert "--sslcert" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_key_that_asks_for_a_password_is_refused(certs: Certificates, tmp_path: Path) -> None:
    """Nobody is there to type it, least of all at SIGHUP."""
    locked = tmp_path / "locked.key"
    aes = ("-aes256", "-passout", "pass:secret")
    run_openssl(certs.folder, "ec", "-in", "server.key", *aes, "-out", str(locked))
    assert_one_line(["--sslcert", certs.cert("server"), "--sslkey", str(locked)], str(locked))


def test_one_file_may_hold_both(certs: Certificates, trust: ssl.SSLContext, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(Path(certs.cert("server")).read_text() + Path(certs.key("server")).read_text())
    with serve("--sslcert", str(both), "cat") as server, join(server, trust) as client:
        assert_echoes(client)


# ==== Closing =============================================================


@both_versions
def test_the_client_closes(
    echo: ServerProcess, certs: Certificates, version: ssl.TLSVersion
) -> None:
    """A Close for a Close, a close notice, and then the end of TCP."""
    trust = certs.trust()
    trust.maximum_version = version
    client = join(echo, trust, "closing")
    assert_echoes(client)
    assert client.close(4321, "bye") == (4321, "")
    assert end_of(client).notified


def test_the_child_ends(certs: Certificates, trust: ssl.SSLContext) -> None:
    """Its last words and then the Close, whatever their size."""
    script = "read code; head -c 3000000 /dev/zero | tr '\\0' x | fold -w 999; echo; exit $code"
    with serve(*certs.options(), "sh", "--", "-c", script) as server:
        for number, expected in ((0, 1000), (3, 1011)):
            client = join(server, trust, f"room{number}")
            client.send_text(str(number))
            payloads = client.receive_many(3_000_000 // 999)
            assert all(payload == b"x" * 999 for payload in payloads)
            assert client.wait_close()[0] == expected
            assert end_of(client).notified


def test_the_server_goes_away(certs: Certificates, trust: ssl.SSLContext) -> None:
    with serve(*certs.options(), "cat") as server:
        clients = [join(server, trust, f"room{number}") for number in range(3)]
        for client in clients:
            assert_echoes(client)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            assert client.wait_close()[0] == 1001
            assert end_of(client).notified
        assert server.wait() == 0


def test_broken_frames_are_answered_with_a_close(
    echo: ServerProcess, trust: ssl.SSLContext
) -> None:
    client = join(echo, trust, "broken")
    client.send_frame(TEXT, b"\xff")
    assert client.wait_close()[0] == 1007
    client = join(echo, trust, "broken")
    client.send_frame(BINARY, b"x", mask=False)
    assert client.wait_close()[0] == 1002


def test_nothing_is_left_of_many_connections(certs: Certificates, trust: ssl.SSLContext) -> None:
    with serve(*certs.options(), "cat") as server, join(server, trust) as client:
        assert_echoes(client)
        threads, files = server.threads(), server.descriptors()  # or they may yet be fewer
        for number in range(30):
            with join(server, trust) as other:
                if number % 3 == 0:
                    other.send_frame(CLOSE, b"\x03\xe8")
                if number % 3 == 1:
                    reset(end_of(other).raw)
            with open_socket(server) as sock:
                sock.sendall(b"garbage")
        wait_until(lambda: server.threads() <= threads and server.descriptors() <= files)
        assert_echoes(client)


# ==== Beside TLS ==========================================================


def test_a_unix_socket_stays_plain(
    certs: Certificates, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    path = tmp_path / "door"
    script = 'echo "HTTPS=$HTTPS"; exec cat'
    door = ("--unixsocket", str(path))
    with serve(*certs.options(), *door, "sh", "--", "-c", script) as server:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        with RawClient(sock) as plain:
            plain.upgrade("localhost", "/plain", {})
            assert plain.receive_text() == "HTTPS="
            assert_echoes(plain)
            with join(server, trust, "plain") as client:
                assert_echoes(client, "from TLS")
                assert plain.receive_text() == "from TLS"
