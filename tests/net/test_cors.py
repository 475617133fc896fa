"""Pages from elsewhere that read files and the API (--cors); pages behind --auth (--authall)."""

from __future__ import annotations

import base64
import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import browser as in_browser
from tests.support import (
    HandshakeRefused,
    HttpResponse,
    RawClient,
    ServerProcess,
    free_port,
    http_request,
    run_cli,
    serve,
    wait_until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

browser = in_browser.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of files to serve."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "a.json").write_text("[1]")
    return folder


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[ServerProcess]:
    """A server that shares with some origins."""
    options = ("--api", "--metrics", "--staticdir", str(folder), "--console")
    allowed = "https://good.example,*.play.example,null"
    with serve(*options, "--cors", allowed, "cat") as server:
        yield server


def ask(server: ServerProcess, path: str, origin: str, method: str = "GET") -> HttpResponse:
    """Make a request as a page of that origin does."""
    return http_request(server, method, path, {"Origin": origin})


def allowed_origin(response: HttpResponse) -> str | None:
    """Return which origin's pages may read a response."""
    return response.headers.get("access-control-allow-origin")


def test_case_20_listed_pages_may_read_files_and_the_api(shared: ServerProcess) -> None:
    """A lobby on another host could not list the rooms: its browser hid the answers."""
    for origin in ("https://good.example", "https://eu.play.example"):
        for path in ("/api/", "/api/rooms/", "/a.json", "/health", "/metrics"):
            response = ask(shared, path, origin)
            assert response.status == 200
            assert allowed_origin(response) == origin
            assert response.headers["access-control-allow-credentials"] == "true"
            assert "Origin" in response.headers["vary"]
        missing = ask(shared, "/api/nowhere/", origin)
        assert (missing.status, allowed_origin(missing)) == (404, origin)
    sandbox = ask(shared, "/api/", "null")
    assert allowed_origin(sandbox) == "null"
    assert "access-control-allow-credentials" not in sandbox.headers


def test_listed_pages_are_told_that_the_server_is_full() -> None:
    """Their browser said "network error", as if there were no server."""
    options = ("--api", "--cors", "https://good.example", "--basepath", "/games")
    with serve(*options, "--maxconns", "1", "cat") as server:
        with RawClient.connect(server, path="/games/room"):
            full = ask(server, "/games/api/", "https://good.example")
            assert (full.status, allowed_origin(full)) == (503, "https://good.example")
            assert allowed_origin(ask(server, "/games/api/", "https://bad.example")) is None
            outside = ask(server, "/api/", "https://good.example")
        wait_until(lambda: ask(server, "/games/api/", "https://good.example").status == 200)
    assert allowed_origin(outside) == "https://good.example"


def test_only_the_consoles_own_paths_are_its(folder: Path, shared: ServerProcess) -> None:
    """A page `console-art.html`, or a folder `console` without --console, was not shared."""
    (folder / "console-art.html").write_text("art")
    (folder / "console").mkdir(exist_ok=True)
    (folder / "console" / "a.json").write_text("[1]")
    origin = "https://good.example"
    assert allowed_origin(ask(shared, "/console-art.html", origin)) == origin
    assert allowed_origin(ask(shared, "/console/", origin)) is None
    with serve("--staticdir", str(folder), "--cors", origin, "cat") as server:
        assert allowed_origin(ask(server, "/console/a.json", origin)) == origin


def test_other_pages_may_not_and_caches_know_it(shared: ServerProcess) -> None:
    for origin in (
        "https://evil.example",
        "http://good.example",
        "https://play.example",
        "file://",
    ):
        response = ask(shared, "/api/rooms/", origin)
        assert allowed_origin(response) is None
        assert "Origin" in response.headers["vary"]


def test_nobodys_page_may_read_the_console(shared: ServerProcess) -> None:
    assert allowed_origin(ask(shared, "/console/api", "https://good.example")) is None


def test_a_preflight_is_answered(shared: ServerProcess) -> None:
    headers = {
        "Origin": "https://good.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization, x-token",
    }
    for path in ("/api/rooms/", "/a.json"):
        response = http_request(shared, "OPTIONS", path, headers)
        assert response.status == 204
        assert allowed_origin(response) == "https://good.example"
        assert "GET" in response.headers["access-control-allow-methods"]
        assert response.headers["access-control-allow-headers"] == "authorization, x-token"
        assert "content-length" not in response.headers
    evil = http_request(shared, "OPTIONS", "/api/", {**headers, "Origin": "https://evil.example"})
    assert allowed_origin(evil) is None
    odd = {**headers, "Access-Control-Request-Headers": "x: y"}
    assert "access-control-allow-headers" not in http_request(shared, "OPTIONS", "/", odd).headers


def test_the_server_as_such_is_asked_below_a_base_path_too() -> None:
    """`OPTIONS *` (RFC 9112 section 3.2.4) has no path, and was told 404 for it."""
    with serve("--cors", "any", "--basepath", "/games", "cat") as server:
        answer = http_request(server, "OPTIONS", "*")
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", ["/api/", "/console/api"])
def test_who_uses_another_method_is_told_that_options_is_answered(
    shared: ServerProcess, path: str
) -> None:
    """`Allow` names all methods that there are (RFC 9110 section 15.5.6)."""
    assert http_request(shared, "OPTIONS", path).status == 204
    answer = http_request(shared, "POST", path)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_any_page_may_read_with_any_but_as_nobody() -> None:
    with serve("--api", "--cors", "any", "cat") as server:
        response = ask(server, "/api/rooms/", "https://anywhere.example")
        assert allowed_origin(response) == "*"
        assert "access-control-allow-credentials" not in response.headers


def test_without_the_option_no_page_from_elsewhere_may() -> None:
    with serve("--api", "cat") as server:
        assert allowed_origin(ask(server, "/api/", "http://localhost:3000")) is None
        assert ask(server, "/api/", "http://localhost:3000", "OPTIONS").status == 405


@pytest.mark.parametrize("value", ["", "*", "https://a.example/path", "any,https://a.example"])
def test_what_is_no_origin_is_a_usage_error(value: str) -> None:
    done = run_cli("--cors", value, "cat")
    assert done.returncode == 2 and "--cors" in done.stderr


@pytest.mark.browser
def test_in_a_real_browser(browser: Browser, tmp_path: Path) -> None:
    """A page of another port asks with a header of its own, so that its browser asks first."""
    (tmp_path / "page.html").write_text("""<script>
      fetch(new URLSearchParams(location.search).get("at"), {headers: {"X-Token": "1"}})
        .then((response) => response.text())
        .then((text) => { document.title = "read " + text; })
        .catch(() => { document.title = "refused"; });
    </script>""")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=os.fspath(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        elsewhere = f"http://127.0.0.1:{httpd.server_address[1]}"

        def outcome(server: ServerProcess) -> str:
            tab = browser.new_page()
            tab.goto(f"{elsewhere}/page.html?at={server.http('/api/rooms/')}")
            tab.wait_for_function("document.title !== ''")
            title: str = tab.title()
            tab.close()
            return title

        with serve("--api", "--cors", elsewhere, "cat") as server:
            assert outcome(server) == "read []"
        with serve("--api", "--cors", "https://good.example", "cat") as server:
            assert outcome(server) == "refused"
        httpd.shutdown()
        thread.join()


# ==== --authall ===========================================================


def test_case_20_pages_and_the_api_may_be_behind_auth_too(tmp_path: Path, folder: Path) -> None:
    """--auth was about rooms alone: files, rooms and metrics were for everybody."""
    command = tmp_path / "auth.sh"
    command.write_text(
        '#!/bin/sh\necho "$ROOM $PATH_INFO" >> "$0.log"\n'
        'test "$HTTP_AUTHORIZATION" = "Basic YW5uOnNlc2FtZQ=="\n'
    )
    command.chmod(0o755)
    ann = {"Authorization": "Basic " + base64.b64encode(b"ann:sesame").decode()}
    options = ("--auth", str(command), "--authall", "--api", "--metrics", "--console")
    with serve(*options, "--cors", "any", "--staticdir", str(folder), "cat") as server:
        assert http_request(server, path="/health").status == 200
        assert http_request(server, "OPTIONS", "/api/", {"Origin": "https://x.y"}).status == 204
        assert not Path(f"{command}.log").exists()
        for path in ("/a.json", "/api/rooms/", "/metrics", "/console/api", "/nothing"):
            response = http_request(server, path=path)
            assert response.status == 401
            assert response.headers["www-authenticate"] == 'Basic realm="rooms"'
            assert response.body == b"you may not come in\n"
            expected = 404 if path == "/nothing" else 200
            assert http_request(server, path=path, headers=ann).status == expected
        own = {"Origin": server.http().rstrip("/")}
        for path, headers in (("/room", {}), ("/console/tunnel", own)):
            with pytest.raises(HandshakeRefused) as caught:
                RawClient.connect(server, path=path, headers=headers)
            assert caught.value.status == 401
            RawClient.connect(server, path=path, headers={**headers, **ann}).sock.close()
        asked = Path(f"{command}.log").read_text().splitlines()
        assert " /a.json" in asked and "room /room" in asked


def test_authall_lets_a_trusted_address_ask_as_a_node_only_where_there_are_nodes(
    folder: Path,
) -> None:
    """`?local=` went around --authall, at any path, for all of a network in --trustproxy."""
    nodes = ("--peers", f"127.0.0.1:{free_port()}")
    trusted, strangers = ("--trustproxy", "127.0.0.0/8"), ("--trustproxy", "192.0.2.0/24")
    behind = {"X-Forwarded-For": "127.0.0.9"}  # in that network, but through a proxy
    options = ("--auth", "false", "--authall", "--api", "--metrics", "--staticdir", str(folder))
    for more, headers, expected in (
        (trusted, {}, 401),
        ((*trusted, *nodes), {}, 200),
        ((*trusted, *nodes), behind, 401),
        ((*strangers, *nodes), {}, 401),
    ):
        with serve(*options, *more, "cat") as server:
            for path in ("/a.json?local=x", "/metrics?local=x", "/api/?local=x"):
                assert http_request(server, path=path).status == 401
            asked = http_request(server, path="/api/rooms/?local=x", headers=headers)
            assert asked.status == expected


def test_without_authall_only_rooms_are_behind_auth(folder: Path) -> None:
    with serve("--auth", "false", "--api", "--staticdir", str(folder), "cat") as server:
        assert http_request(server, path="/api/rooms/").status == 200
        assert http_request(server, path="/a.json").status == 200


def test_authall_needs_somebody_to_ask(tmp_path: Path) -> None:
    done = run_cli("--authall", "cat")
    assert done.returncode == 2 and "--authall needs --auth" in done.stderr
