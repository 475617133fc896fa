"""Who may come in, and by which door: origins, subprotocols, headers, sockets, the limit."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scalesocket.net.origins import make_guard, split_origin

from scalesocket import (
    Config,
    ConfigError,
    HandshakeError,
    Headers,
    Request,
    Response,
    parse_command_line,
    parse_request,
)
from tests.support import (
    PATIENCE,
    SCRIPT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    http_request,
    open_files,
    open_socket,
    run_cli,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out


def is_allowed(
    origin: str | None,
    *allowed: str,
    same: bool = False,
    host: str = "game.example",
    secure: bool = False,
) -> bool:
    """Tell whether an upgrade request with this Origin header passes the check."""
    fields = [("Host", host), *([("Origin", origin)] if origin is not None else [])]
    request = Request("GET", "/room", "HTTP/1.1", Headers(fields))
    ours = ((split_origin(host)[1], 9000),)  # so that it is a name of this server
    config = Config(command=("cat",), addr=ours, origin=allowed, sameorigin=same)
    try:
        make_guard(config).check_page(request, ("192.0.2.1", 5), secure=secure)
    except HandshakeError as error:
        assert error.status == 403
        return False
    return True


def refused_status(server: ServerProcess, headers: dict[str, str], room: str = "room") -> int:
    """Return the status that an opening handshake is refused with; 101 if it is not."""
    try:
        with RawClient.connect(server, room, headers):
            return 101
    except HandshakeRefused as refusal:
        return refusal.status


def assert_echoes(client: RawClient, text: str = "hello") -> None:
    """Send a message to `cat` and wait until it is back."""
    client.send_text(text)
    assert client.receive_text() == text


# ==== --origin ============================================================


def test_an_origin_has_scheme_host_and_port() -> None:
    assert split_origin("https://example.com:8443") == ("https", "example.com", 8443)
    assert split_origin("HTTP://Example.COM") == ("http", "example.com", 80)
    assert split_origin("https://[2001:DB8::1]") == ("https", "[2001:db8::1]", 443)
    assert split_origin("https://[::1]:9000") == ("https", "[::1]", 9000)
    assert split_origin("example.com:81") == ("", "example.com", 81)
    assert split_origin("null") == ("", "null", 0)


def test_without_the_options_every_origin_and_none_at_all_may_come_in() -> None:
    assert is_allowed("https://anywhere.example")
    assert is_allowed("null")
    assert is_allowed(None)
    assert is_allowed("%%%")


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:8080", "http://example.com:8080"),
        ("HTTPS://Example.COM", "https://example.com"),
        ("https://example.com", "https://EXAMPLE.com"),
        ("example.com", "https://example.com"),
        ("example.com", "http://example.com:8080"),
        ("example.com:8080", "https://example.com:8080"),
        ("example.com:443", "https://example.com"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("[::1]", "https://[::1]:444"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("null", "null"),
    ],
)
def test_41_a_listed_origin_may_come_in(allowed: str, origin: str) -> None:
    assert is_allowed(origin, allowed)


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://example.com", "http://example.com"),
        ("https://example.com", "https://example.com:8443"),
        ("https://example.com:8443", "https://example.com"),
        ("example.com:8080", "https://example.com"),
        ("http://example.com:80", "http://example.com:8080"),
        ("https://example.com", "https://www.example.com"),
        ("example.com", "https://evil-example.com"),
        ("example.com", "https://evilexample.com"),
        ("example.com", "https://example.com.evil.org"),
        ("example.com", "https://example.com@evil.org"),
        ("example.com", "https://example.com:80@evil.org"),
        ("example.com", "https://evil.org@example.com"),
        ("example.com", "https://evil.org?example.com"),
        ("example.com", "https://evil.org#example.com"),
        ("example.com", "https://evil.org/example.com"),
        ("example.com", "https://evil.org\\example.com"),
        ("[::1]", "https://[::1].evil.org"),
        ("[::1]", "https://[::2]"),
        ("[::1]", "https://::1"),
        ("127.0.0.1", "https://127.0.0.1.evil.org"),
        ("127.0.0.1", "https://127.0.0.11"),
        ("example.com", "null"),
        ("null", "https://example.com"),
        ("null", ""),
        ("example.com", ""),
        ("example.com", "https://"),
        ("example.com", "://"),
        ("example.com", "https://example.com:port"),
        ("example.com", "https://example.com:-1"),
    ],
)
def test_41_an_origin_that_is_not_listed_is_refused(allowed: str, origin: str) -> None:
    assert not is_allowed(origin, allowed)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.org/://example.com",
        "https://evil.org://example.com",
        "evil.org, https://example.com",
        "https://evil.org, https://example.com",
        "https://example.com, https://example.com",
        "://example.com",
        "ht tp://example.com",
        "https://example.com\xa0",
        "https://example.com:",
    ],
)
def test_41_what_is_no_origin_is_refused_though_it_ends_like_a_listed_one(origin: str) -> None:
    """RFC 6454 section 6: an origin is `scheme://host[:port]` or `null`, and there is one."""
    assert not is_allowed(origin, "example.com")


def test_41_two_origin_headers_are_refused() -> None:
    """RFC 6454 section 7.3: there is one at the most, so nobody sent both in good faith."""
    head = b"GET / HTTP/1.1\r\nHost: h\r\nOrigin: https://evil.org\r\nOrigin: https://example.com"
    with pytest.raises(HandshakeError) as caught:
        guard = make_guard(Config(command=("cat",), origin=("example.com",)))
        guard.check_page(parse_request(head), ("192.0.2.1", 5), secure=False)
    assert caught.value.status == 403


def test_41_each_of_several_listed_origins_may_come_in() -> None:
    listed = ("https://one.example", "two.example:8080", "null")
    assert is_allowed("https://one.example", *listed)
    assert is_allowed("http://two.example:8080", *listed)
    assert is_allowed("null", *listed)
    assert not is_allowed("https://two.example", *listed)
    assert not is_allowed("https://three.example", *listed)


def test_41_a_host_of_the_name_null_is_not_what_null_means() -> None:
    assert not is_allowed("https://null", "null")


def test_a_client_that_names_no_origin_is_refused_when_there_is_a_check() -> None:
    assert not is_allowed(None, "example.com")
    assert not is_allowed(None, "null")
    assert not is_allowed(None, same=True)


# ==== --sameorigin ========================================================


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://game.example", "game.example"),
        ("http://game.example", "game.example:80"),
        ("http://game.example:80", "game.example"),
        ("http://game.example:9000", "game.example:9000"),
        ("http://GAME.example:9000", "game.EXAMPLE:9000"),
        ("http://[::1]:9000", "[::1]:9000"),
        ("http://[::1]", "[::1]"),
        ("http://127.0.0.1:9000", "127.0.0.1:9000"),
        ("https://game.example", "game.example"),  # a proxy speaks TLS in our stead
        ("https://game.example:8443", "game.example:8443"),
        ("https://[::1]", "[::1]"),
    ],
)
def test_a_page_of_the_same_host_and_port_may_come_in(origin: str, host: str) -> None:
    assert is_allowed(origin, same=True, host=host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://game.example", "game.example:9000"),
        ("http://game.example:9000", "game.example"),
        ("http://game.example:9001", "game.example:9000"),
        ("https://game.example", "game.example:9000"),
        ("http://evil.example:9000", "game.example:9000"),
        ("http://game.example.evil.org", "game.example"),
        ("http://game.example@evil.org", "game.example"),
        ("http://[::2]:9000", "[::1]:9000"),
        ("http://localhost:9000", "127.0.0.1:9000"),
        ("null", "null"),
        ("null", "game.example"),
        ("", "game.example"),
        ("game.example", "game.example"),
        ("file://", "game.example"),
        ("ftp://game.example:80", "game.example:80"),
        ("chrome-extension://game.example", "game.example"),
    ],
)
def test_a_page_of_another_host_or_port_is_refused(origin: str, host: str) -> None:
    assert not is_allowed(origin, same=True, host=host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [("http://", ""), ("https://", ""), ("http://a/b", "c/d"), ("http://:80", ""), ("", "")],
)
def test_two_unreadable_names_are_not_the_same_host(origin: str, host: str) -> None:
    assert not is_allowed(origin, same=True, host=host)


def test_behind_tls_a_host_without_a_port_means_443() -> None:
    assert is_allowed("https://game.example", same=True, secure=True)
    assert is_allowed("https://game.example:443", same=True, secure=True)
    assert not is_allowed("http://game.example", same=True, secure=True)


def test_with_both_options_either_is_enough() -> None:
    assert is_allowed("http://game.example", "https://other.example", same=True)
    assert is_allowed("https://other.example", "https://other.example", same=True)
    assert not is_allowed("https://third.example", "https://other.example", same=True)


# ==== Origins of any kind =================================================

header_values = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]))
pieces = st.lists(
    st.sampled_from(["http", "https", "://", ":", "//", "/", "@", "[", "]", "::1", "example.com",
                     "null", ".", "evil", "80", "443", "99999", " ", ",", "%", "?", "#", "\xe9"])
).map("".join)  # fmt: skip


@given(st.text() | pieces)
@example("https://[::ffff:1.2.3.4]:00443")
@example("x://y:99999")
def test_no_text_at_all_breaks_the_reading_of_an_origin(text: str) -> None:
    scheme, host, port = split_origin(text)
    assert (type(scheme), type(host), type(port)) == (str, str, int)
    assert 0 <= port <= 99999
    assert "/" not in host


@given(origin=header_values | pieces, host=header_values | pieces, same=st.booleans())
def test_a_strange_origin_or_host_is_refused_and_nothing_else_happens(
    origin: str, host: str, same: bool
) -> None:
    if is_allowed(origin.strip(), "game.test", same=same, host=host.strip()):
        assert same, f"{origin!r} was never listed"
        assert origin.strip().lower().startswith(("http://", "https://"))


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.from_regex(r"[a-z]{1,8}(\.[a-z]{2,4})?", fullmatch=True),
    port=st.integers(0, 65535),
    shout=st.booleans(),
)
@settings(max_examples=50)
def test_what_is_listed_may_come_in_and_its_neighbours_may_not(
    scheme: str, host: str, port: int, shout: bool
) -> None:
    port = port or {"http": 80, "https": 443}[scheme]
    origin = f"{scheme}://{host}:{port}"
    given_origin = origin.upper() if shout else origin
    assert is_allowed(given_origin, origin)
    assert is_allowed(given_origin, same=True, host=f"{host}:{port}")
    assert not is_allowed(f"{scheme}://{host}:{port % 65535 + 1}", origin)
    assert not is_allowed(f"{scheme}://x{host}:{port}", origin)
    assert not is_allowed(f"{scheme}://{host}.x:{port}", origin)


@pytest.mark.parametrize(
    "value",
    [
        "https://",
        "https://example.com/path",
        "https://example.com/",
        "https://[::1",
        "https://::1",
        "https://example.com:port",
        "https://example.com:99999",
        "https://example.com:",
        "https://user@example.com",
        "https://exam ple.com",
        "https://example.com?x",
        "good.example,https://",
        "*",
        "*.",
        "a.*.example.com",
        "*.*.example.com",
        "https://*",
        "*.0.0.1",
        "..example.com",
        "any,https://example.com",
        "bad scheme://example.com",
        "http://a://b",
    ],
)
def test_an_option_that_names_no_origin_is_a_usage_error(value: str) -> None:
    """What can match nothing is a mistake: it would lock every page out without a word."""
    with pytest.raises(ConfigError, match="origin"):
        parse_command_line(["--origin", value, "cat"])


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_an_empty_list_of_origins_does_not_let_everybody_in(value: str) -> None:
    """`--origin "$ALLOWED"` with the variable unset must not fail open."""
    with pytest.raises(ConfigError, match="origin"):
        parse_command_line(["--origin", value, "cat"])


# ==== Origins, over the wire ==============================================


@pytest.fixture(scope="module")
def guarded() -> Iterator[ServerProcess]:
    """A server with both checks."""
    with serve("--origin", "https://good.example,null", "--sameorigin", "--api", "cat") as server:
        yield server


def test_41_pages_of_listed_origins_and_our_own_play_and_others_are_told_403(
    guarded: ServerProcess,
) -> None:
    own = f"http://127.0.0.1:{guarded.port}"
    for origin in ("https://good.example", "null", own):
        with RawClient.connect(guarded, "41", {"Origin": origin}) as client:
            assert_echoes(client)
    for origin in ("https://evil.example", "http://127.0.0.1", f"{own}0", "https://good.example.x"):
        assert refused_status(guarded, {"Origin": origin}) == 403
    assert refused_status(guarded, {}) == 403


def test_a_refused_page_reaches_no_room(guarded: ServerProcess) -> None:
    assert refused_status(guarded, {"Origin": "https://evil.example"}, "ghost") == 403
    assert b"ghost" not in http_request(guarded, path="/api/rooms/").body


def test_the_check_does_not_touch_plain_http(guarded: ServerProcess) -> None:
    for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        assert http_request(guarded, path="/health", headers=headers).status == 200


def test_a_refused_origin_cannot_forge_a_line_of_the_answer_or_the_log() -> None:
    with serve("-v", "--sameorigin", "cat") as server:
        assert refused_status(server, {"Origin": "https://\x9bevil\x85[ERROR] x"}) == 403
        server.wait_log("refused with 403")
        assert not any("\x9b" in line or "\x85" in line for line in server.log())


# ==== --subprotocol =======================================================

GAME = """
# /// script
# [tool.scalesocket]
# game = "Echo"
# ///
import scalesocket

class Echo(scalesocket.Game):
    subprotocols = ("games.v1", "both")

    def on_message(self, client, message):
        client.send(message)
"""


def test_the_first_of_the_clients_order_that_is_spoken_is_chosen() -> None:
    with serve("--subprotocol", "one, two", "cat") as server:
        offers = {("two", "one"): "two", ("x", "one", "two"): "one", ("ONE", "two"): "two"}
        for offered, chosen in offers.items():
            with RawClient.connect(server, subprotocols=offered) as client:
                assert client.subprotocol == chosen
                assert_echoes(client)


def test_with_none_in_common_the_connection_goes_on_and_no_subprotocol_is_named() -> None:
    with serve("--subprotocol", "one", "cat") as server:
        for offered in (("two",), ("One", "on", "one2"), ()):
            with RawClient.connect(server, subprotocols=offered) as client:
                assert "sec-websocket-protocol" not in client.response.headers
                assert_echoes(client)


def test_without_the_option_none_is_named() -> None:
    with serve("cat") as server, RawClient.connect(server, subprotocols=("x",)) as client:
        assert client.subprotocol is None


def test_offers_over_several_header_lines_are_one_list() -> None:
    with serve("--subprotocol", "one,two", "cat") as server:
        headers = {"sec-websocket-protocol": "x", "Sec-WebSocket-Protocol": "two, one"}
        with open_socket(server) as sock, RawClient(sock) as client:
            client.upgrade("h", "/room", headers, subprotocols=("two",))
            assert client.subprotocol == "two"


def test_a_game_names_its_subprotocols_and_the_option_wins_over_them(tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(GAME)
    with serve(str(script)) as server:
        with RawClient.connect(server, subprotocols=("x", "both", "games.v1")) as client:
            assert client.subprotocol == "both"
    with serve("--subprotocol", "mine,both", str(script)) as server:
        with RawClient.connect(server, subprotocols=("games.v1", "mine")) as client:
            assert client.subprotocol == "mine"
        with RawClient.connect(server, subprotocols=("games.v1",)) as client:
            assert client.subprotocol is None


@pytest.mark.parametrize("value", ["a b", "a;b", "a/b", "é", "a\r\nX: y", '"a"'])
def test_a_subprotocol_that_is_no_token_is_a_usage_error(value: str) -> None:
    with pytest.raises(ConfigError, match="subprotocol"):
        parse_command_line(["--subprotocol", value, "cat"])


# ==== --header ============================================================


def test_the_headers_are_on_every_answer(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("hello")
    options = ["--header", "X-One: 1", "--header", "x-two:two, and : more", "--maxconns", "20"]
    options += ["--staticdir", str(tmp_path), "--origin", "null"]
    with ExitStack() as stack:
        server = stack.enter_context(serve(*options, "cat"))

        def check(status: int, got: int, headers: dict[str, str]) -> None:
            assert got == status
            assert (headers["x-one"], headers["x-two"]) == ("1", "two, and : more"), status

        page = http_request(server, path="/page.html")
        check(200, page.status, page.headers)
        tag = {"If-None-Match": page.headers["etag"]}
        for status, path, headers in (
            (200, "/health", {}),
            (404, "/nothing", {}),
            (304, "/page.html", tag),
            (206, "/page.html", {"Range": "bytes=0-1"}),
            (416, "/page.html", {"Range": "bytes=9-"}),
        ):
            answer = http_request(server, path=path, headers=headers)
            check(status, answer.status, answer.headers)
        for status, raw in (
            (400, b"nonsense\r\n\r\n"),
            (405, b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
            (431, b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20000 + b"\r\n\r\n"),
            (505, b"GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
        ):
            answer = http_request(server, raw=raw)
            check(status, answer.status, answer.headers)
        with pytest.raises(HandshakeRefused) as refusal:
            RawClient.connect(server)
        check(403, refusal.value.status, refusal.value.response.headers)
        for _ in range(20):
            client = stack.enter_context(connect_soon(server, headers={"Origin": "null"}))
            check(101, client.response.status, client.response.headers)
        with pytest.raises(HandshakeRefused) as refusal:
            RawClient.connect(server)
        check(503, refusal.value.status, refusal.value.response.headers)


def test_a_header_takes_the_place_of_ours_and_vary_adds_to_it() -> None:
    """`X-Content-Type-Options` stood there twice. A cache that had not been told that a file is
    packed only for some gave it to all."""
    ours = (("Vary", "Accept-Encoding"), ("Cache-Control", "no-cache"))
    added = (("vary", "Origin"), ("cache-control", "no-store"), ("X-Content-Type-Options", "none"))
    head = Response(200, headers=ours).encode_head(keep_alive=True, extra=added).decode()
    for name, values in (
        ("vary", ["Accept-Encoding", "Origin"]),
        ("cache-control", ["no-store"]),
        ("x-content-type-options", ["none"]),
    ):
        assert re.findall(rf"(?im)^{name}: (\S+)\r$", head) == values


@pytest.mark.parametrize(
    "name",
    ["Connection", "UPGRADE", "date", "Content-Length", "Content-Type", "Transfer-Encoding",
     "Sec-WebSocket-Accept", "sec-websocket-protocol", "Sec-WebSocket-Extensions"],
)  # fmt: skip
def test_a_header_that_the_server_itself_sets_is_a_usage_error(name: str) -> None:
    with pytest.raises(ConfigError, match="(?i)" + name):
        parse_command_line(["--header", f"{name}: x", "cat"])


@pytest.mark.parametrize(
    "value",
    ["X", "", ":", ": x", "X Y: z", "X : y", "X: a\r\nY: b", "X: a\nY: b", "X: a\r", "X\n: a",
     "X: \0", "X: \x7f", "X: ☃", "É: x"],
)  # fmt: skip
def test_what_is_no_header_line_is_a_usage_error(value: str) -> None:
    with pytest.raises(ConfigError, match="header"):
        parse_command_line(["--header", value, "cat"])


# ==== --unixsocket ========================================================


@pytest.fixture
def door(tmp_path: Path) -> Path:
    """Where a server may put its socket."""
    return tmp_path / "door"


@contextmanager
def knock(path: Path) -> Iterator[socket.socket]:
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        yield sock


def assert_echoes_at(path: Path, headers: dict[str, str] | None = None) -> None:
    """Open a WebSocket through a Unix socket and let it echo."""
    with knock(path) as sock, RawClient(sock) as client:
        client.upgrade("localhost", "/room", headers or {})
        assert_echoes(client, "through the socket")


def identity(path: Path) -> tuple[int, int]:
    """Return what tells a file from another of the same name."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def assert_refused_in_one_line(*options: str, because: str) -> None:
    """Start a server that cannot listen: exit status 1, and one line that says why."""
    result = run_cli("--addr", "127.0.0.1:0", *options, "cat")
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1, result.stderr
    assert because in lines[0], lines[0]
    assert "None" not in lines[0], lines[0]


def test_a_unix_socket_serves_websockets_and_http_beside_the_port(door: Path) -> None:
    with serve("--unixsocket", str(door), "cat") as server:
        server.wait_log(f"running at {door}")
        assert_echoes_at(door)
        with knock(door) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b'{"status": "ok"}')
        with RawClient.connect(server) as client:
            assert_echoes(client)


def test_both_doors_lead_to_the_same_room(door: Path) -> None:
    with serve("--unixsocket", str(door), "cat") as server:
        with RawClient.connect(server) as one, knock(door) as sock, RawClient(sock) as two:
            two.upgrade("localhost", "/room", {})
            two.send_text("hello")
            assert one.receive_text() == two.receive_text() == "hello"


def test_a_peer_at_the_unix_socket_has_the_address_unix(door: Path, tmp_path: Path) -> None:
    names = "REMOTE_ADDR REMOTE_HOST REMOTE_PORT SERVER_NAME SERVER_PORT".split()
    script = tmp_path / "tell.py"
    script.write_text(f"import os\nprint(*map(os.environ.get, {names}))\ninput()\n")
    options = ["--unixsocket", str(door), "--joinmsg", "#REMOTE_ADDR", "cat"]
    with serve("--unixsocket", str(door), str(script)), knock(door) as sock:
        with RawClient(sock) as client:
            client.upgrade("localhost", "/room", {})
            assert client.receive_text() == "unix unix 0 localhost 0"
            client.send_text("done")
            client.wait_close()
    with serve(*options), knock(door) as sock, RawClient(sock) as client:
        client.upgrade("localhost", "/room", {})
        assert client.receive_text() == "unix"


@pytest.mark.parametrize("mode", ["600", "660", "0666", "777"])
def test_the_unix_socket_has_the_mode_that_was_asked_for(door: Path, mode: str) -> None:
    with serve("--unixsocket", str(door), "--unixmode", mode, "cat"):
        assert stat.S_IMODE(door.stat().st_mode) == int(mode, 8)


def test_the_mode_is_660_by_default_whatever_the_umask_and_files_are_made_as_before(
    door: Path, tmp_path: Path
) -> None:
    program = ["sh", "-c", 'umask 0; exec "$@"', "sh", sys.executable, str(SCRIPT)]
    made = tmp_path / "made"
    child = ["sh", "--", "-c", f"touch {made}; echo ok; exec cat"]
    with serve("--unixsocket", str(door), *child, command=program) as server:
        assert stat.S_IMODE(door.stat().st_mode) == 0o660
        with RawClient.connect(server) as client:
            assert client.receive_text() == "ok"
        assert stat.S_IMODE(made.stat().st_mode) == 0o666


@pytest.mark.parametrize("mode", ["", "rw", "888", "66", "-660", "0o660", "77777", "6 60"])
def test_a_mode_that_is_not_octal_is_a_usage_error(mode: str) -> None:
    with pytest.raises(ConfigError, match="unixmode"):
        parse_command_line([f"--unixmode={mode}", "--unixsocket", "x", "cat"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_socket_is_gone_when_the_server_is(door: Path, number: signal.Signals) -> None:
    with serve("--unixsocket", str(door), "cat") as server:
        assert door.is_socket()
        server.process.send_signal(number)
        assert server.wait() == 0
        assert not door.exists()


def test_45_a_stale_socket_of_a_killed_server_is_taken_over(door: Path) -> None:
    with serve("--unixsocket", str(door), "cat") as server:
        server.process.kill()
        server.wait()
    assert door.is_socket()
    with serve("--unixsocket", str(door), "--unixmode", "600", "cat"):
        assert_echoes_at(door)
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
    assert not door.exists()


def test_45_a_live_servers_socket_is_refused_and_left_serving(door: Path) -> None:
    with serve("--unixsocket", str(door), "cat"), knock(door) as sock, RawClient(sock) as client:
        client.upgrade("localhost", "/room", {})
        before = identity(door)
        assert_refused_in_one_line("--unixsocket", str(door), because=str(door))
        assert identity(door) == before
        assert_echoes(client)
        assert_echoes_at(door)


def test_45_a_live_socket_that_is_too_busy_to_accept_is_not_stolen(door: Path) -> None:
    with ExitStack() as stack:
        live = stack.enter_context(socket.socket(socket.AF_UNIX))
        live.bind(str(door))
        live.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(door))
        before = identity(door)
        assert_refused_in_one_line("--unixsocket", str(door), because=str(door))
        assert identity(door) == before


# Several processes try to take over the same stale socket at the same moment, in 40 rounds; it
# prints how many had the socket at the end of each.
RACE = """
import contextlib, os, pathlib, socket, sys
sys.path.insert(0, sys.argv[1])
from scalesocket.net.sockets import open_unix_listener

path = pathlib.Path(sys.argv[2])
for _ in range(40):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    start, starter = os.pipe()
    result, teller = os.pipe()
    finish, finisher = os.pipe()
    children = []
    for _ in range(4):
        children.append(os.fork())
        if not children[-1]:
            os.close(starter), os.close(finisher)
            os.read(start, 1)
            try:
                listener = open_unix_listener(contextlib.ExitStack(), path, 0o600)
                os.write(teller, b"1")
            except OSError:
                os.write(teller, b"0")
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os.write(teller, b"9")
            os.read(finish, 1)
            os._exit(0)
    os.close(starter)
    print(sum(int(os.read(result, 1)) for _ in children))
    os.close(finisher)
    for child in children:
        os.waitpid(child, 0)
    for descriptor in (start, result, teller, finish):
        os.close(descriptor)
    path.unlink()
"""


def test_45_of_servers_that_find_a_stale_socket_at_once_only_one_takes_it(door: Path) -> None:
    program = [sys.executable, "-c", RACE, str(SCRIPT.parent), str(door)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["1"] * 40, done.stderr


def test_a_regular_file_in_its_place_is_not_touched(door: Path) -> None:
    door.write_text("precious")
    before = identity(door)
    assert_refused_in_one_line("--unixsocket", str(door), because="no socket")
    assert (door.read_text(), identity(door)) == ("precious", before)


def test_a_folder_or_a_link_in_its_place_is_not_touched(door: Path, tmp_path: Path) -> None:
    assert_refused_in_one_line("--unixsocket", str(tmp_path), because=str(tmp_path))
    precious = tmp_path / "precious"
    door.symlink_to(precious)
    assert_refused_in_one_line("--unixsocket", str(door), because=str(door))
    precious.write_text("here")
    assert_refused_in_one_line("--unixsocket", str(door), because=str(door))
    assert (precious.read_text(), door.is_symlink()) == ("here", True)


def test_a_datagram_socket_in_its_place_is_not_touched(door: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(door))
        assert_refused_in_one_line("--unixsocket", str(door), because=str(door))
        assert door.is_socket()


def test_a_path_too_long_is_said_in_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 120))
    assert_refused_in_one_line("--unixsocket", path, because="too long")


def test_a_missing_folder_is_said_in_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "door")
    assert_refused_in_one_line("--unixsocket", path, because=f"{path}: No such file")


@pytest.mark.parametrize("what", ["file", "folder", "socket"])
def test_45_what_has_taken_the_sockets_place_is_left_alone_at_the_end(
    door: Path, what: str
) -> None:
    """The folder was cleaned meanwhile, and the name is someone else's now."""
    with ExitStack() as stack, serve("--unixsocket", str(door), "cat") as server:
        door.unlink()
        if what == "file":
            door.write_text("precious")
        elif what == "folder":
            door.mkdir()
        else:
            stack.enter_context(serve("--unixsocket", str(door), "cat"))
        before = identity(door)
        assert server.stop() == 0
        assert identity(door) == before
        if what == "socket":
            assert_echoes_at(door)


def test_a_socket_that_somebody_removed_does_not_keep_the_server_from_ending(door: Path) -> None:
    with serve("--unixsocket", str(door), "cat") as server, RawClient.connect(server) as client:
        assert_echoes(client)
        door.unlink()
        server.process.send_signal(signal.SIGTERM)
        assert client.wait_close()[0] == 1001
        assert server.wait() == 0


def test_a_unix_socket_page_passes_the_origin_check_like_any(door: Path) -> None:
    with serve("--unixsocket", str(door), "--sameorigin", "cat"):
        assert_echoes_at(door, {"Origin": "https://localhost"})
        with knock(door) as sock, pytest.raises(HandshakeRefused) as refusal:
            RawClient(sock).upgrade("localhost", "/room", {"Origin": "https://evil.example"})
        assert refusal.value.status == 403


# ==== LISTEN_FDS ==========================================================

# Does what systemd does between fork and exec: argv is where to fetch the descriptor, LISTEN_FDS,
# LISTEN_PID ("own": as it should be), and the program.
LAUNCHER = """
import os, socket, sys

gate, count, pid, *program = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
sock.connect(gate)
_, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
os.dup2(descriptors[0], 3)  # which may be `sock`; it is not used any more
os.closerange(4, 64)
os.environ["LISTEN_FDS"] = count
os.environ["LISTEN_PID"] = str(os.getpid()) if pid == "own" else pid
os.execv(program[0], program)
"""


@contextmanager
def serve_activated(
    passed: socket.socket,
    folder: Path,
    *arguments: str,
    count: str = "1",
    pid: str = "own",
    ready: bool = True,
    warn: bool = True,
) -> Iterator[ServerProcess]:
    """Run a server that finds `passed` as its descriptor 3.

    Args:
        count, pid: LISTEN_FDS and LISTEN_PID; "own" stands for the server's.
        ready: wait until it listens.
        warn: let Python warn of what was not closed, as `serve` does. A server that gives up
            before it listens leaves that to its end.
    """
    path = folder / "gate"
    path.unlink(missing_ok=True)
    warnings = ["-W", "always::ResourceWarning"] if warn else []
    python = [sys.executable, *warnings, os.fspath(SCRIPT)]
    command = [sys.executable, "-c", LAUNCHER, str(path), count, pid, *python]
    with socket.socket(socket.AF_UNIX) as gate:
        gate.bind(str(path))
        gate.listen(1)
        gate.settimeout(PATIENCE)
        with serve(*arguments, command=command, ready=False) as server:
            connection, _ = gate.accept()
            with connection:
                socket.send_fds(connection, [b"x"], [passed.fileno()])
            if ready:
                server.wait_ready()
            yield server


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A listening socket, such as systemd would hold."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener


def test_a_passed_socket_is_served_and_addr_is_not(
    listening: socket.socket, tmp_path: Path
) -> None:
    with serve_activated(listening, tmp_path, "cat") as server:
        assert server.port == listening.getsockname()[1]
        assert sum("running at" in line for line in server.log()) == 1
        with RawClient.connect(server) as client:
            assert_echoes(client)


def test_a_passed_unix_socket_is_served(tmp_path: Path, door: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(door))
        listener.listen(10)
        with serve_activated(listener, tmp_path, "cat", ready=False) as server:
            server.wait_log(f"running at {door}")
            assert_echoes_at(door)
        assert door.is_socket(), "it is systemd's, not ours to remove"


def test_a_passed_socket_does_not_reach_the_children(
    listening: socket.socket, tmp_path: Path
) -> None:
    inode = f"socket:[{os.fstat(listening.fileno()).st_ino}]"

    variables = "LISTEN_FDS,LISTEN_PID"
    script = tmp_path / "tell.py"
    script.write_text(
        "import os, sys\n"
        f"print([os.environ.get(name) for name in {variables.split(',')}])\n"
        "sys.stdin.read()\n"
    )
    passed = ["--passenv", f"PATH,{variables}", str(script)]
    with serve_activated(listening, tmp_path, *passed) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "[None, None]"
            (child,) = server.children()
            assert inode in open_files(server.pid) and inode not in open_files(child)


def test_clients_that_wait_through_a_restart_are_served_by_the_next(
    listening: socket.socket, tmp_path: Path
) -> None:
    with serve_activated(listening, tmp_path, "cat") as server:
        with RawClient.connect(server) as client:
            assert_echoes(client)
        assert server.stop() == 0
    with ExitStack() as stack:
        address = listening.getsockname()
        waiting = [stack.enter_context(open_socket(address)) for _ in range(5)]
        with serve_activated(listening, tmp_path, "cat"):
            for number, sock in enumerate(waiting):
                with RawClient(sock) as client:
                    client.upgrade("localhost", f"/room{number}", {})
                    assert_echoes(client)


@pytest.mark.slow
def test_restart_after_restart_nobody_is_refused(listening: socket.socket, tmp_path: Path) -> None:
    """Clients that come all the time; who is in a room when its server stops is told 1001."""
    address = listening.getsockname()
    outcomes: list[str] = []
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            try:
                with RawClient.connect(address) as client:
                    assert_echoes(client)
                    outcomes.append("played")
            except Closed as closed:
                outcomes.append(f"told {closed.code}")
            except Exception as error:
                outcomes.append(f"{type(error).__name__}: {error}")

    clients = [threading.Thread(target=come_and_go) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for _ in range(4):
            with serve_activated(listening, tmp_path, "cat") as server:
                played = outcomes.count("played")
                wait_until(lambda played=played: outcomes.count("played") > played + 20)
                assert server.stop() == 0
        with serve_activated(listening, tmp_path, "cat"):
            stop.set()  # whoever waits is served
            for client in clients:
                client.join()
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(outcomes) <= {"played", "told 1001"}


@pytest.mark.parametrize(
    ("count", "pid"), [("1", "1"), ("1", ""), ("1", "x"), ("0", "own"), ("", "own"), ("x", "own")]
)
def test_sockets_that_are_meant_for_another_process_are_ignored(
    listening: socket.socket, tmp_path: Path, count: str, pid: str
) -> None:
    with serve_activated(listening, tmp_path, "cat", count=count, pid=pid) as server:
        assert server.port != listening.getsockname()[1]
        with RawClient.connect(server) as client:
            assert_echoes(client)


def test_a_passed_descriptor_that_is_no_listening_socket_is_said_in_one_line(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with serve_activated(datagrams, tmp_path, "cat", ready=False, warn=False) as server:
            assert server.wait() == 1
            assert len(server.log()) == 1
            assert "descriptor 3" in server.log()[0]


def test_more_descriptors_announced_than_passed_is_said_in_one_line(
    listening: socket.socket, tmp_path: Path
) -> None:
    with serve_activated(listening, tmp_path, "cat", count="2", ready=False, warn=False) as server:
        assert server.wait() == 1
        assert len(server.log()) == 1
        assert "descriptor 4" in server.log()[0]


# ==== --maxconns ==========================================================


def connect_soon(
    server: ServerProcess,
    room: str = "room",
    headers: dict[str, str] | None = None,
    timeout: float = PATIENCE,
) -> RawClient:
    """Connect; a place may take a moment to become free."""

    def attempt() -> RawClient | None:
        try:
            return RawClient.connect(server, room, headers)
        except (HandshakeRefused, ConnectionError, EOFError) as error:
            assert getattr(error, "status", 503) == 503
            return None

    client = wait_until(attempt, timeout, "no place becomes free")
    assert client is not None
    return client


def fill(
    stack: ExitStack, server: ServerProcess, count: int, room: str = "full"
) -> list[RawClient]:
    """Take so many places."""
    return [stack.enter_context(connect_soon(server, room)) for _ in range(count)]


def assert_all_echo(clients: Sequence[RawClient], text: str) -> None:
    """Let the first say something in a room of `cat`, which all of them hear."""
    clients[0].send_text(text)
    assert [client.receive_text() for client in clients] == [text] * len(clients)


@pytest.fixture(scope="module")
def small() -> Iterator[ServerProcess]:
    """A server for four."""
    with serve("--maxconns", "4", "cat") as server:
        yield server


def test_one_too_many_is_told_503_and_when_to_come_back(small: ServerProcess) -> None:
    with ExitStack() as stack:
        clients = fill(stack, small, 4)
        with pytest.raises(HandshakeRefused) as refusal:
            RawClient.connect(small)
        assert refusal.value.status == 503
        assert refusal.value.response.headers["retry-after"].isdigit()
        assert b"4" in refusal.value.response.body
        assert_all_echo(clients, "undisturbed")


def test_plain_http_beyond_the_limit_is_told_503_too(small: ServerProcess) -> None:
    with ExitStack() as stack:
        clients = fill(stack, small, 4)
        answer = http_request(small, path="/health")
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        answer = http_request(small, "HEAD", path="/health")  # which must have no body
        assert answer.status == 503
        assert_all_echo(clients, "undisturbed")
    wait_until(lambda: http_request(small, path="/health").status == 200)


def test_28_a_freed_place_works_again_and_again(small: ServerProcess) -> None:
    with ExitStack() as stack:
        others = fill(stack, small, 3)
        for turn in range(15):
            with connect_soon(small, "full") as client:
                assert refused_status(small, {}) == 503
                assert_all_echo([client, *others], f"turn {turn}")
                if turn % 3 == 0:
                    client.reset()
                elif turn % 3 == 1:
                    client.close()


def test_28_a_place_is_free_also_while_one_who_was_refused_still_lingers() -> None:
    """Else whoever opens 65 silent connections keeps everybody out of places that are free."""
    lasting = with_constants(HEAD_TIMEOUT=3 * PATIENCE)
    with serve("--maxconns", "4", "cat", command=lasting) as server, ExitStack() as stack:
        clients = fill(stack, server, 4)
        for _ in range(3):
            stack.enter_context(open_socket(server))  # says nothing, so its refusal waits
        assert refused_status(server, {}) == 503  # so the three have been accepted before it
        clients.pop().close()
        stack.enter_context(connect_soon(server, "full"))
        assert_all_echo(clients, "here")


def test_far_over_the_limit_those_inside_go_on_and_it_recovers(small: ServerProcess) -> None:
    with ExitStack() as stack:
        clients = fill(stack, small, 4)
        assert_all_echo(clients, "before")
        wait_until(lambda: small.threads() <= 4 + 10)
        threads, descriptors = small.threads(), small.descriptors()
        with ExitStack() as crowd:
            for _ in range(200):
                crowd.enter_context(open_socket(small))
            small.wait_log("cannot accept")
            assert_all_echo(clients, "meanwhile")
        wait_until(lambda: small.descriptors() <= descriptors, message="descriptors leak")
        wait_until(lambda: small.threads() <= threads, message="threads leak")
        assert sum("cannot accept" in line for line in small.log()) == 1
        assert_all_echo(clients, "after")
        assert refused_status(small, {}) == 503, "once more it is said, not only done"
        clients.pop().close()
        stack.enter_context(connect_soon(small, "full"))


def test_a_limit_comes_from_the_file_limit_by_default() -> None:
    """Half of 64 files: so the 33rd is told so, in place of nothing."""
    with limited_serve(64, "cat") as server, ExitStack() as stack:
        clients = fill(stack, server, 32)
        assert refused_status(server, {}) == 503
        assert_all_echo(clients, "everyone")


# ==== Out of descriptors ==================================================


@contextmanager
def limited_serve(files: int, *arguments: str) -> Iterator[ServerProcess]:
    """Run a server that may open so many files, and waits long for those who say nothing."""
    limit = ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash"]
    python = with_constants(HEAD_TIMEOUT=3 * PATIENCE)
    with serve(*arguments, command=[*limit, *python]) as server:
        yield server


def cpu_seconds(pid: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_without_descriptors_it_says_so_once_idles_and_recovers() -> None:
    with limited_serve(40, "--maxconns", "1000", "cat") as server:
        with RawClient.connect(server, "lasting") as client, ExitStack() as crowd:
            assert_echoes(client)
            descriptors = server.descriptors()
            for _ in range(60):
                crowd.enter_context(open_socket(server))
            server.wait_log("cannot accept.*open files")
            computed, start = cpu_seconds(server.pid), time.monotonic()
            wait_until(lambda: time.monotonic() >= start + 2)
            assert cpu_seconds(server.pid) - computed < 0.5
            assert sum("cannot accept" in line for line in server.log()) == 1
            assert_echoes(client, "still here")
            crowd.close()
            wait_until(lambda: server.descriptors() <= descriptors, message="descriptors leak")
            with connect_soon(server, "another") as another:
                assert_echoes(another)
            assert_echoes(client, "to the end")


@pytest.mark.slow
def test_a_room_that_finds_no_descriptors_for_its_child_is_refused_and_others_go_on() -> None:
    with limited_serve(40, "--maxconns", "1000", "cat") as server:
        with RawClient.connect(server, "lasting") as client, ExitStack() as crowd:
            assert_echoes(client)
            while server.descriptors() < 38:
                before = server.descriptors()
                crowd.enter_context(open_socket(server))
                wait_until(lambda before=before: server.descriptors() > before)
            with RawClient.connect(server, "unlucky") as unlucky:
                assert unlucky.wait_close()[0] in (1011, 1013)
            assert_echoes(client, "still here")
            crowd.close()
            with connect_soon(server, "lucky") as lucky:
                assert_echoes(lucky)


def test_a_header_for_handshakes_and_one_for_all_other_responses() -> None:
    """Asked for, and there in websocketd: a cookie for WebSockets, CORS for files."""
    options = ["--header=X-Both: 1", "--header-ws=X-Ws: 2", "--header-http=X-Http: 3"]
    with serve(*options, "cat") as server:
        with RawClient.connect(server) as client:
            given = client.response.headers
            assert (given["x-both"], given["x-ws"]) == ("1", "2") and "x-http" not in given
        for path in ("/health", "/nothing"):
            given = http_request(server, path=path).headers
            assert (given["x-both"], given["x-http"]) == ("1", "3") and "x-ws" not in given
        with pytest.raises(HandshakeRefused) as refused:
            RawClient.connect(server, "api")
        assert refused.value.response.headers["x-http"] == "3"
