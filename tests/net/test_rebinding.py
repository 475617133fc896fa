"""Which web pages may use the server: rebinding, local pages, names, and what a proxy tells."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scalesocket.net.origins import make_guard

from scalesocket import Headers, Request, parse_command_line
from tests import browser as in_browser
from tests.support import (
    SCRIPT,
    HandshakeRefused,
    HttpResponse,
    RawClient,
    ServerProcess,
    http_request,
    run_cli,
    serve,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

browser = in_browser.browser


def knock(server: ServerProcess, host: str, origin: str | None, **more: str) -> HttpResponse | None:
    """Ask for a WebSocket; return how that is refused, None if it is not."""
    headers = {"Host": f"{host}:{server.port}", **more}
    headers |= {"Origin": origin} if origin is not None else {}
    try:
        RawClient.connect(server, "room", headers).sock.close()
    except HandshakeRefused as refusal:
        return refusal.response
    return None


def assert_refused(response: HttpResponse | None, *words: str) -> None:
    """The answer is 403, and names what is wrong and its cure."""
    assert response is not None, "it was let in"
    assert response.status == 403
    for word in words:
        assert word in response.body.decode()


# ==== Rebinding ===========================================================


@pytest.mark.parametrize(
    "options", [["--sameorigin"], ["--sameorigin", "--pty"], ["--pty"], [], ["--host", "a.example"]]
)
def test_case_2_a_page_whose_name_leads_here_by_now_gets_no_shell(options: list[str]) -> None:
    """`--sameorigin --pty bash`, Host and Origin `evil.example:9340`: 101 and a shell."""
    with serve(*options, "cat") as server:
        evil = f"http://evil.example:{server.port}"
        assert_refused(knock(server, "evil.example", evil), "evil.example")
        assert_refused(knock(server, "evil.example.", f"{evil}".replace(":9", ".:9")))
        server.wait_log("refused a page: .*evil.example")


def test_case_2_the_refusal_names_the_host_and_the_cure() -> None:
    with serve("--sameorigin", "cat") as server:
        response = knock(server, "game.example", f"http://game.example:{server.port}")
        assert_refused(response, "game.example is no name of this server", "--host game.example")


def test_case_2_loopback_names_addresses_and_the_machines_own_name_are_ours() -> None:
    with serve("--sameorigin", "cat") as server:
        for host in (
            "localhost", "LOCALHOST", "game.localhost", "127.0.0.1", "127.1.2.3", "[::1]",
            "192.0.2.7", "[2001:db8::1]", "0x7f.1", "2130706433", "localhost.",
            socket.gethostname(),
        ):  # fmt: skip
            assert knock(server, host, f"http://{host}:{server.port}") is None, host


def test_case_2_other_names_are_said_with_host() -> None:
    with serve("--sameorigin", "--host", "game.example,*.play.example", "cat") as server:
        for host in ("game.example", "GAME.example", "a.play.example", "a.b.play.example"):
            assert knock(server, host, f"http://{host}:{server.port}") is None
        for host in ("play.example", "xplay.example", "www.game.example", "evil.example"):
            assert_refused(knock(server, host, f"http://{host}:{server.port}"), host)
        assert_refused(knock(server, "game.example", "http://other.example"), "other.example")


def test_a_host_that_is_listed_is_asked_of_everybody_even_of_what_is_no_page() -> None:
    with serve("--host", "game.example", "cat", addr="0.0.0.0:0") as server:
        assert knock(server, "game.example", None) is None
        assert knock(server, "game.example", "http://elsewhere.example") is None
        assert_refused(knock(server, "evil.example", None))


@pytest.mark.parametrize("options", [[], ["--sameorigin"], ["--pty"]])
def test_case_44_what_else_is_served_is_not_for_a_rebound_page_either(
    tmp_path: Path, options: list[str]
) -> None:
    """A page could read the rooms, metrics and files of a server that only this machine reaches."""
    (tmp_path / "page.html").write_text("private")
    (tmp_path / "index.html").write_text("private")
    common = ("--api", "--metrics", "--staticdir", str(tmp_path), *options, "cat")
    with serve(*common) as server:
        forged = {"Host": f"evil.example:{server.port}", "X-Forwarded-Host": "localhost"}
        for path in ("/api/rooms/", "/api/", "/metrics", "/page.html", "/"):
            for method in ("GET", "HEAD"):
                assert http_request(server, method, path, forged).status == 403
            assert http_request(server, path=path).status == 200
        assert http_request(server, path="/health", headers=forged).status == 200


def test_case_44_what_a_page_forwards_to_itself_opens_nothing() -> None:
    """With `--trustproxy 127.0.0.1` the browser on this machine is such a peer, too."""
    with serve("--api", "--sameorigin", "--trustproxy", "127.0.0.1", "cat") as server:
        forged = {"Host": "evil.example", "X-Forwarded-Host": "localhost"}
        assert http_request(server, path="/api/rooms/", headers=forged).status == 403


def test_case_44_the_console_looks_at_the_host_whoever_asks() -> None:
    """`--console=10.0.0.0/8 --trustproxy 127.0.0.1`, a page of evil.example, X-Forwarded-For:
    10.0.0.7: it got /console/api and the tunnel."""
    with serve("--console=10.0.0.0/8", "--trustproxy", "127.0.0.1", "cat") as server:
        inside = {"X-Forwarded-For": "10.0.0.7"}
        evil = {"Host": f"evil.example:{server.port}", **inside}
        page = {"Origin": f"http://evil.example:{server.port}"}
        for path in ("/console/", "/console/api"):
            assert http_request(server, path=path, headers=evil).status == 403
            told = {"X-Forwarded-Host": "evil.example", **inside}
            assert http_request(server, path=path, headers=told).status == 403
            assert http_request(server, path=path, headers=inside).status == 200
        for more in ({}, {"X-Forwarded-Host": "localhost"}):
            with pytest.raises(HandshakeRefused) as caught:
                RawClient.connect(server, path="/console/tunnel", headers={**evil, **page, **more})
            assert caught.value.status == 403
        own = {"Origin": server.http().rstrip("/"), **inside}
        RawClient.connect(server, path="/console/tunnel", headers=own).sock.close()


def test_case_44_the_console_is_at_the_names_of_host() -> None:
    options = ("--console=10.0.0.0/8", "--trustproxy", "127.0.0.1", "--host", "*.corp.example")
    with serve(*options, "cat") as server:
        named = {"X-Forwarded-For": "10.0.0.7", "Host": "game.corp.example"}
        assert http_request(server, path="/console/api", headers=named).status == 200


# ==== Pages of this machine ===============================================


LOCAL_PAGES = (
    None, "http://localhost:3000", "http://127.0.0.1:5500", "https://localhost", "file://",
    "http://[::1]:8000", "http://app.localhost:8080", "http://0.0.0.0:8000",
)  # fmt: skip
FOREIGN_PAGES = (
    "https://evil.example", "http://evil.example", "null", "http://localhost.evil.example",
    "http://127.0.0.1.evil.example", "https://evillocalhost", "http://192.168.1.2:3000",
    "chrome-extension://localhost", "http://localhost@evil.example", "http://localhost, http://x",
    "file://evil.example", "nonsense",
)  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--pty"]])
def test_a_server_for_this_machine_alone_takes_its_pages_and_programs(options: list[str]) -> None:
    """Pages of development servers work without an option, and those from elsewhere do not.

    `--addr 127.0.0.1` alone is no protection against a page: any may open ws://127.0.0.1. One that
    is `null` may be a file, but also a frame that a page from elsewhere has put into a sandbox.
    """
    with serve(*options, "cat") as server:
        for origin in LOCAL_PAGES:
            assert knock(server, "127.0.0.1", origin) is None, origin
        for origin in FOREIGN_PAGES:
            assert_refused(knock(server, "127.0.0.1", origin), "--origin")


def test_origin_any_and_a_list_take_the_place_of_that_rule() -> None:
    with serve("--origin", "any", "cat") as server:
        for origin in ("https://evil.example", "null", "http://localhost:3000", None):
            assert knock(server, "evil.example", origin) is None
    with serve("--origin", "https://good.example", "cat") as server:
        assert knock(server, "good.example", "https://good.example") is None
        assert_refused(knock(server, "127.0.0.1", "http://localhost:3000"))
        assert http_request(server, path="/x", headers={"Host": "good.example"}).status == 404
        assert http_request(server, path="/x", headers={"Host": "evil.example"}).status == 403


def test_a_server_for_everybody_takes_every_page_but_not_into_a_shell() -> None:
    for options, refused in (([], False), (["--pty"], True)):
        with serve(*options, "cat", addr="0.0.0.0:0") as server:
            response = knock(server, "play.example", "https://other.example")
            assert (response is not None) == refused
            assert knock(server, "192.0.2.1", f"http://192.0.2.1:{server.port}") is None


def test_who_comes_from_elsewhere_through_a_proxy_is_not_this_machines_browser() -> None:
    """A proxy on the same machine needs no further option for the players that it forwards."""
    with serve("--trustproxy", "127.0.0.1", "cat") as server:
        page = "https://game.example"
        assert knock(server, "game.example", page, **{"X-Forwarded-For": "192.0.2.1"}) is None
        assert_refused(knock(server, "127.0.0.1", page))


def test_the_rule_holds_in_the_file_copied_alone(tmp_path: Path) -> None:
    alone = Path(shutil.copy(SCRIPT, tmp_path))
    with serve("cat", command=[sys.executable, str(alone)], cwd=tmp_path) as server:
        assert_refused(knock(server, "evil.example", f"http://evil.example:{server.port}"))
        assert_refused(knock(server, "localhost", "https://evil.example"))
        assert knock(server, "localhost", f"http://localhost:{server.port}") is None


# ==== Behind a proxy ======================================================


def test_case_20_sameorigin_knows_by_what_name_a_proxy_was_found() -> None:
    """A proxy that rewrites Host: every page was refused."""
    with serve("--sameorigin", "--trustproxy", "127.0.0.1", "cat") as server:
        told = {"X-Forwarded-Host": "evil.example, game.example"}
        assert knock(server, "127.0.0.1", "https://game.example", **told) is None
        assert_refused(knock(server, "127.0.0.1", "https://evil.example", **told))
        assert_refused(knock(server, "127.0.0.1", "https://other.example", **told))
    with serve("--sameorigin", "cat") as server:  # it is nobody's word
        assert_refused(knock(server, "127.0.0.1", "https://game.example", **told))


def test_with_names_listed_what_a_proxy_tells_must_be_among_them() -> None:
    options = ("--sameorigin", "--trustproxy", "127.0.0.1", "--host", "game.example")
    with serve(*options, "cat") as server:
        for name in ("game.example", "evil.example"):
            response = knock(server, "up.stream", f"https://{name}", **{"X-Forwarded-Host": name})
            assert (response is None) == (name == "game.example")


# ==== Options =============================================================


@pytest.mark.parametrize("value", ["", ",", "https://a.example", "a.example:80", "*", "a/b", "b c"])
def test_what_is_no_name_of_a_host_is_a_usage_error(value: str) -> None:
    done = run_cli("--host", value, "cat")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--host" in done.stderr


@pytest.mark.parametrize("pattern", ["*.example.com", ".example.com", "https://*.example.com"])
def test_case_20_a_pattern_is_every_name_below_and_not_that_name(pattern: str) -> None:
    """`.example.com` was accepted, and matched nothing."""
    with serve("--origin", pattern, "cat") as server:
        for origin in ("https://a.example.com", "https://a.b.example.com", "https://A.EXAMPLE.com"):
            assert knock(server, "127.0.0.1", origin) is None
        for origin in ("https://example.com", "https://xexample.com", "https://.example.com",
                       "https://a.example.com.evil.org", "null"):  # fmt: skip
            assert_refused(knock(server, "127.0.0.1", origin))


def test_case_20_a_file_may_be_listed() -> None:
    with serve("--origin", "file://,https://a.example", "cat") as server:
        assert knock(server, "127.0.0.1", "file://") is None
        assert_refused(knock(server, "127.0.0.1", "null"))
        assert_refused(knock(server, "127.0.0.1", "file://a.example"))


def test_a_flood_of_strange_origins_fills_no_log() -> None:
    config = parse_command_line(["--sameorigin", "cat"])
    guard = make_guard(config)
    for number in range(1000):
        fields = [("Host", "localhost"), ("Origin", f"https://{number}.example")]
        request = Request("GET", "/", "HTTP/1.1", Headers(fields))
        with pytest.raises(Exception, match="not allowed"):
            guard.check_page(request, ("127.0.0.1", 1), secure=False)
    assert len(guard._told._told) <= 100


# ==== In a real browser ===================================================

PAGE = """<script>
  const socket = new WebSocket(new URLSearchParams(location.search).get("at"));
  socket.onopen = () => { document.title = "open"; };
  socket.onerror = () => { document.title = "refused"; };
</script>"""


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[int]:
    """Serve `PAGE` at a port of its own, as a development server does; return that port."""
    (tmp_path / "page.html").write_text(PAGE)
    handler = functools.partial(QuietHandler, directory=os.fspath(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield httpd.server_address[1]
        httpd.shutdown()
        thread.join()


@pytest.mark.browser
def test_pages_in_a_real_browser(browser: Browser, site: int, tmp_path: Path) -> None:
    """A development server's page plays; one from elsewhere does not, at a server for us alone."""

    def outcome(page_url: str, at: str) -> str:
        tab = context.new_page()
        tab.goto(f"{page_url}?at={at}")
        tab.wait_for_function("document.title !== ''")
        title: str = tab.title()
        tab.close()
        return title

    def outcomes(server: ServerProcess) -> list[str]:
        us = f"ws://127.0.0.1:{server.port}/room"
        file = (tmp_path / "page.html").as_uri()
        return [outcome(page, us) for page in (f"http://localhost:{site}/page.html", file, evil)]

    evil = "https://evil.example/page.html"
    context = browser.new_context(permissions=["local-network-access"])
    context.route(f"{evil}**", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    with serve("cat") as server:
        assert outcomes(server) == ["open", "refused", "refused"]
        server.wait_log("refused a page: origin null .* --origin null")
        server.wait_log("refused a page: origin https://evil.example is not allowed")
    with serve("--origin", "null,localhost", "cat") as server:
        assert outcomes(server) == ["open", "open", "refused"]
    with serve("cat", addr="0.0.0.0:0") as server:
        assert outcomes(server) == ["open", "open", "open"]
    context.close()
