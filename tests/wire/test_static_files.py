"""Files over HTTP as web builds have them: packed, in `.well-known`, oddly named, one for all."""

from __future__ import annotations

import errno
import gzip
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scalesocket.net.files import WebFiles, guess_coded_type, parse_date

import scalesocket
from tests import browser as in_browser
from tests.support import (
    ROOT,
    HttpResponse,
    RawClient,
    ServerProcess,
    http_request,
    run_cli,
    serve,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

browser = in_browser.browser

SCRIPT_TEXT = b"console.log('hello');\n" * 50
NAVIGATION = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like one that a bundler writes."""
    root = tmp_path_factory.mktemp("site")
    (root / "index.html").write_bytes(b"<title>app</title>")
    (root / "other.html").write_bytes(b"<title>other</title>")
    (root / "g").mkdir()
    (root / "g" / "index.html").write_bytes(b"game")
    (root / "app.js.gz").write_bytes(gzip.compress(SCRIPT_TEXT))
    for name in (
        "APP.JS.GZ",
        "build.data.gz",
        "code.wasm.br",
        "data.json.zst",
        "drawing.svgz",
        "files.tar.gz",
        "files.tgz",
        "notes.js.bz2",
        "unknown.gz",
        "latin1.xml",
    ):
        (root / name).write_bytes(b"x" * 20)
    (root / ".well-known" / "acme-challenge").mkdir(parents=True)
    (root / ".well-known" / "index.html").write_bytes(b"known")
    (root / ".well-known" / "acme-challenge" / "token").write_bytes(b"token")
    (root / ".well-known" / ".secret").write_bytes(b"hidden")
    (root / "g" / ".well-known").mkdir()
    (root / "g" / ".well-known" / "token").write_bytes(b"hidden")
    (root / ".env").write_bytes(b"hidden")
    for name in ("what?.txt", "a#b.txt", "a b.txt", "a+b&c;d.txt", "100%25.txt", "é.txt"):
        (root / name).write_bytes(name.encode())
    (root / "empty.txt").write_bytes(b"")
    with (root / "huge.bin").open("wb") as file:
        file.truncate(5 * 1024**3)
    return root


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[ServerProcess]:
    with serve("--api", "--staticdir", os.fspath(folder), "cat") as server:
        yield server


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[ServerProcess]:
    """The same folder, for an app that has one page."""
    with serve("--staticdir", os.fspath(folder), "--spa", "cat") as server:
        yield server


def get(server: ServerProcess, path: str, **headers: str) -> HttpResponse:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return http_request(server, path=path, headers=fields)


# ==== Folders ==============================================================


@pytest.mark.parametrize(
    ("number", "status"), [(errno.EMFILE, 503), (errno.EACCES, 403), (errno.ENOENT, 404)]
)
def test_where_files_run_out_or_may_not_be_read_no_page_is_said_not_to_exist(
    folder: Path, number: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a 404, which pages and caches remember, and --spa had its one page sent instead."""

    def fail(*_: object) -> None:
        raise OSError(number, "none")

    monkeypatch.setattr(Path, "open", fail)
    request = scalesocket.Request("GET", "/other.html", "HTTP/1.1", scalesocket.Headers())
    with pytest.raises(scalesocket.HandshakeError) as caught:
        WebFiles(folder).respond(request)
    assert caught.value.status == status


def test_the_redirect_of_a_folder_keeps_the_query(site: ServerProcess) -> None:
    """Case 18: a link `/g?room=7` led to the game, but to no room: its query was gone."""
    for query in ("?room=7", "?a=1&b=%2F?c", "?"):
        assert get(site, f"/g{query}").headers["location"] == f"/g/{query}"
    assert get(site, "/g").headers["location"] == "/g/"
    assert get(site, "/g/?room=7").body == b"game"


@pytest.mark.parametrize(
    "target", ["//g?x", "//evil.example/g", "//evil.example/%2e%2e", "/\\evil.example/g?x", "///g"]
)
def test_no_redirect_leads_to_another_host(site: ServerProcess, target: str) -> None:
    answer = http_request(site, raw=f"GET {target} HTTP/1.0\r\n\r\n".encode())
    assert answer.status == 404
    assert "location" not in answer.headers


# ==== Packed files =========================================================


@pytest.mark.parametrize(
    ("name", "kind", "coding"),
    [
        ("app.js.gz", "text/javascript; charset=utf-8", "gzip"),
        ("APP.JS.GZ", "text/javascript; charset=utf-8", "gzip"),
        ("build.data.gz", "application/octet-stream", "gzip"),
        ("code.wasm.br", "application/wasm", "br"),
        ("data.json.zst", "application/json", "zstd"),
        ("drawing.svgz", "image/svg+xml", "gzip"),
    ],
)
def test_a_packed_file_is_sent_as_its_content(
    site: ServerProcess, name: str, kind: str, coding: str
) -> None:
    """Case 18: browsers got `app.js.gz` as JavaScript, and a syntax error in its first byte."""
    for accepted in ("gzip, br, zstd", f"identity;q=0.5, {coding};q=0.1", "*"):
        answer = get(site, f"/{name}", Accept_Encoding=accepted)
        assert answer.headers["content-encoding"] == coding
        assert answer.headers["content-type"] == kind
        assert answer.headers["vary"] == "Accept-Encoding"
    assert get(site, f"/{name}").headers["content-encoding"] == coding  # nothing is refused


@pytest.mark.parametrize(
    "accepted", ["identity", "", "deflate", "gzip;q=0", "*;q=0.0", "gzip;q=0,*"]
)
def test_who_cannot_unpack_gets_the_packed_file_as_such(site: ServerProcess, accepted: str) -> None:
    answer = get(site, "/app.js.gz", Accept_Encoding=accepted)
    assert answer.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(answer.body) == SCRIPT_TEXT


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("files.tar.gz", "application/gzip"),
        ("files.tgz", "application/gzip"),
        ("unknown.gz", "application/gzip"),
        ("notes.js.bz2", "application/x-bzip2"),  # no browser can undo that
    ],
)
def test_an_archive_stays_one(site: ServerProcess, name: str, kind: str) -> None:
    """A browser that saved `files.tar.gz` would save the bare tar under that name."""
    answer = get(site, f"/{name}", Accept_Encoding="gzip, br")
    assert answer.headers["content-type"] == kind
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


@pytest.mark.browser
def test_a_browser_runs_and_draws_what_is_packed(browser: Browser, tmp_path: Path) -> None:
    page = '<title>no</title><img src="/a.svgz"><script src="/app.js.gz"></script>'
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "app.js.gz").write_bytes(gzip.compress(b"document.title = location.pathname"))
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="7" height="9"/>'
    (tmp_path / "a.svgz").write_bytes(gzip.compress(drawing))
    with (
        serve("--staticdir", os.fspath(tmp_path), "--spa", "cat") as server,
        browser.new_context() as context,
    ):
        tab = context.new_page()
        tab.goto(server.http("/players/7"))
        assert tab.title() == "/players/7"
        size = "[document.images[0].naturalWidth, document.images[0].naturalHeight]"
        assert tab.evaluate(size) == [7, 9]
        tab.goto("about:blank")


def test_parts_and_checks_are_of_the_packed_bytes(site: ServerProcess) -> None:
    """RFC 9110: a range is one of the coded bytes, and each coding has an ETag of its own."""
    packed = get(site, "/app.js.gz", Accept_Encoding="gzip")
    plain = get(site, "/app.js.gz", Accept_Encoding="identity")
    assert packed.headers["etag"] != plain.headers["etag"]
    same = packed.headers["etag"]
    answer = get(site, "/app.js.gz", Accept_Encoding="gzip", If_None_Match=same)
    assert (answer.status, answer.headers["vary"]) == (304, "Accept-Encoding")
    assert get(site, "/app.js.gz", Accept_Encoding="identity", If_None_Match=same).status == 200
    part = get(site, "/app.js.gz", Accept_Encoding="gzip", Range="bytes=0-1", If_Range=same)
    assert (part.status, part.body) == (206, b"\x1f\x8b")
    assert part.headers["content-encoding"] == "gzip"
    other = get(site, "/app.js.gz", Accept_Encoding="identity", Range="bytes=0-1", If_Range=same)
    assert other.status == 200
    head = http_request(site, "HEAD", "/app.js.gz", {"Accept-Encoding": "gzip"})
    assert head.headers["content-encoding"] == "gzip"
    assert head.headers["content-length"] == packed.headers["content-length"]


def test_types_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Windows registry, or a package's table, can call JavaScript plain text."""
    import mimetypes

    monkeypatch.setattr(mimetypes, "guess_type", lambda _name: ("text/plain", None))
    assert guess_coded_type("a.js")[0] == "text/javascript; charset=utf-8"
    assert guess_coded_type("a.png")[0] == "image/png"
    assert guess_coded_type("a.woff2")[0] == "font/woff2"
    assert guess_coded_type("a.known-to-the-machine-alone")[0] == "text/plain; charset=utf-8"


def test_xml_names_its_encoding_itself(site: ServerProcess) -> None:
    """A charset in the header would overrule it."""
    assert get(site, "/latin1.xml").headers["content-type"] == "application/xml"


# ==== Names ================================================================


def test_well_known_is_served_and_no_other_dotfile(site: ServerProcess) -> None:
    """Case 18: the certificate authority's question was answered with 404."""
    assert get(site, "/.well-known/acme-challenge/token").body == b"token"
    assert get(site, "/.well-known/").body == b"known"
    assert get(site, "/.well-known").headers["location"] == "/.well-known/"
    for path in (
        "/.env",
        "/.well-known/.secret",
        "/g/.well-known/token",
        "/.well-known/../.env",
        "/.well-known/%2e%2e/.env",
        "/.WELL-KNOWN/index.html",
        "/.well-known2",
    ):
        assert get(site, path).status == 404, path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/what%3F.txt", "what?.txt"),
        ("/a%23b.txt", "a#b.txt"),
        ("/a%20b.txt?a", "a b.txt"),
        ("/a+b&c;d.txt", "a+b&c;d.txt"),
        ("/100%2525.txt", "100%25.txt"),
        ("/%C3%A9.txt", "é.txt"),
    ],
)
def test_any_name_can_be_asked_for(site: ServerProcess, path: str, name: str) -> None:
    assert get(site, path).body == name.encode()


# ==== What is sent =========================================================


def test_a_part_behind_4_gib_is_that_part(site: ServerProcess) -> None:
    answer = get(site, "/huge.bin", Range=f"bytes={5 * 1024**3 - 3}-")
    assert (answer.status, answer.body) == (206, bytes(3))
    head = http_request(site, "HEAD", "/huge.bin")
    assert head.headers["content-length"] == str(5 * 1024**3)


def test_an_answer_is_all_of_one_file_though_it_is_replaced(tmp_path: Path) -> None:
    """Deployed between the look at it and its opening, a longer file came cut, as if whole."""
    path = tmp_path / "app.js"
    path.write_bytes(b"old")
    files = WebFiles(tmp_path)
    request = scalesocket.Request("GET", "/app.js", "HTTP/1.1", scalesocket.Headers())
    response = files.respond(request)
    (tmp_path / "new").write_bytes(b"new and longer")
    (tmp_path / "new").replace(path)
    assert response.file is not None
    with response.file as file:
        assert (file.read(), response.length) == (b"old", 3)


def test_a_file_that_grows_adds_nothing_to_an_empty_answer(tmp_path: Path) -> None:
    """What came behind `Content-Length: 0` would be read as the next answer."""
    path = tmp_path / "log.txt"
    path.write_bytes(b"")
    files = WebFiles(tmp_path)
    request = scalesocket.Request("GET", "/log.txt", "HTTP/1.1", scalesocket.Headers())
    response = files.respond(request)
    path.write_bytes(b"HTTP/1.1 200 OK\r\n")
    ours, theirs = scalesocket.socket.socketpair()
    with ours, theirs:
        server = scalesocket.Server(scalesocket.parse_command_line(["cat"]))
        session = scalesocket.HttpSession(server, ours, scalesocket.UNIX_PEER)
        assert session.send(response, keep_alive=True)
        ours.shutdown(scalesocket.socket.SHUT_WR)
        assert theirs.makefile("rb").read().endswith(b"\r\n\r\n")
    assert response.file is not None and response.file.closed


# ==== One page for all paths (--spa) =======================================


def test_an_app_has_one_page_for_all_its_paths(app: ServerProcess) -> None:
    """Case 20: who reloaded `/players/7` in an app with one page got 404."""
    for path in ("/players/7", "/lobby", "/jane.doe?tab=2", "/g/none/"):
        answer = get(app, path, Accept=NAVIGATION)
        assert (answer.status, answer.body) == (200, b"<title>app</title>"), path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["vary"] == "Accept"
        same = get(app, path, Accept=NAVIGATION, If_None_Match=answer.headers["etag"])
        assert same.status == 304
    assert http_request(app, "HEAD", "/players/7", {"Accept": NAVIGATION}).status == 200
    assert get(app, "/g/", Accept=NAVIGATION).body == b"game"


def test_only_who_wants_a_page_gets_it(app: ServerProcess) -> None:
    """A script that is missing must not come as HTML with status 200."""
    for accepted in ("*/*", "application/json", "image/avif,image/webp,*/*;q=0.8", ""):
        assert get(app, "/assets/old.js", Accept=accepted).status == 404
    assert get(app, "/assets/old.js").status == 404
    for path in (
        "/api/rooms/",
        "/api/",
        "/metrics",
        "/static/x",
        "/favicon.ico",
        "/.env",
        "/%61pi/",
    ):
        assert get(app, path, Accept=NAVIGATION).status == 404, path
    assert get(app, "/health", Accept=NAVIGATION).body == b'{"status": "ok"}'
    with RawClient.connect(app, "lobby") as client:  # the room that the page is about
        client.send_text("hello")
        assert client.receive_text() == "hello"


def test_another_page_may_be_the_one(folder: Path) -> None:
    with serve("--staticdir", os.fspath(folder), "--spa=other.html", "cat") as server:
        assert get(server, "/any", Accept=NAVIGATION).body == b"<title>other</title>"


@pytest.mark.slow
def test_a_page_that_cannot_be_served_is_said_at_the_start(folder: Path) -> None:
    for options, complaint in (
        (["--spa"], "--spa needs --staticdir"),
        (["--spa=none.html", "--staticdir", os.fspath(folder)], "there is no page none.html"),
        (["--spa=../x", "--staticdir", os.fspath(folder)], "'../x' is no page"),
        (["--spa=.env", "--staticdir", os.fspath(folder)], "'.env' is no page"),
    ):
        done = run_cli(*options, "cat")
        assert done.returncode == 2
        assert complaint in done.stderr


def test_a_folder_without_the_module_for_pages_has_that_of_the_pages_here(tmp_path: Path) -> None:
    wanted = (ROOT / "client" / "web" / "shared" / "connection.js").read_bytes()
    (tmp_path / "index.html").write_text("an app")
    with serve("--staticdir", str(tmp_path), "--spa", "cat") as server:
        found = http_request(server, path="/shared/connection.js")
        assert (found.status, found.body) == (200, wanted)
        assert http_request(server, path="/shared/nothing.js").status == 404
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "connection.js").write_text("one's own")
        assert http_request(server, path="/shared/connection.js").body == b"one's own"


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_each_of_the_three_forms_of_a_date_is_utc(
    monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    """RFC 9110 section 5.6.7; the third was taken for the server's own time of day."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_date(date) == 784111777
    finally:
        monkeypatch.undo()
        time.tzset()
