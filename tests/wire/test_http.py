"""Ordinary HTTP on the same port: health, the rooms API, files, and everything refused."""

from __future__ import annotations

import email.utils
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

import scalesocket
from tests.support import (
    PATIENCE,
    HandshakeRefused,
    HttpResponse,
    RawClient,
    ServerProcess,
    exchange,
    http_request,
    open_socket,
    serve,
    wait_until,
    with_constants,
)

PAGE = b"<!doctype html><title>Hello</title>\n"
DIGITS = b"0123456789"
RESERVED = ["api", "metrics", "health", "static", "upload", "robots.txt", "favicon.ico"]
SPARSE = 50 * 1024 * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, with a secret beside it."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("secret")
    root = outside / "site"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty-folder").mkdir()
    (root / "index.html").write_bytes(PAGE)
    (root / "sub" / "index.html").write_bytes(b"sub")
    (root / "digits.txt").write_bytes(DIGITS)
    (root / "empty.txt").write_bytes(b"")
    (root / "a b ü.txt").write_bytes(b"name")
    (root / "100%.txt").write_bytes(b"percent")
    (root / ".hidden").write_bytes(b"hidden")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(b"hidden")
    for name in ("app.js", "app.mjs", "page.css", "data.json", "image.svg", "code.wasm"):
        (root / name).write_bytes(b"x")
    for name in ("image.png", "noise.unknown-kind", "noise"):
        (root / name).write_bytes(b"x")
    (root / "escape.txt").symlink_to(outside / "secret.txt")
    (root / "escape").symlink_to(outside, target_is_directory=True)
    (root / "inner.txt").symlink_to(root / "digits.txt")
    (root / "inner").symlink_to(root / "sub", target_is_directory=True)
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(root / "nothing")
    (root / "zero").symlink_to("/dev/zero")
    os.mkfifo(root / "fifo")
    with (root / "large.bin").open("wb") as file:
        file.truncate(SPARSE)
    return root


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[ServerProcess]:
    with serve("--api", "--metrics", "--staticdir", os.fspath(folder), "cat") as server:
        yield server


@pytest.fixture(scope="module")
def bare() -> Iterator[ServerProcess]:
    """A server with none of the options for HTTP."""
    with serve("cat") as server:
        yield server


def get(server: ServerProcess, path: str, **headers: str) -> HttpResponse:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return http_request(server, path=path, headers=fields)


# ==== Health and the API ===================================================


def test_health_is_ok_with_and_without_other_options(
    site: ServerProcess, bare: ServerProcess
) -> None:
    for server in (site, bare):
        answer = get(server, "/health")
        assert answer.status == 200
        assert json.loads(answer.body) == {"status": "ok"}
        assert answer.headers["content-type"] == "application/json"
        assert http_request(server, "HEAD", "/health").status == 200


def test_a_query_changes_nothing(site: ServerProcess) -> None:
    assert get(site, "/health?x=/../..").status == 200
    assert get(site, "/digits.txt?v=2").body == DIGITS


def test_the_api_says_what_is_served(site: ServerProcess) -> None:
    about = json.loads(get(site, "/api/").body)
    what = {"version": scalesocket.__version__, "target": "cat", "kind": "program"}
    assert about == what | {"addresses": []}  # it listens at loopback alone


def test_the_api_lists_rooms_with_their_connections(site: ServerProcess) -> None:
    with (
        RawClient.connect(site, "b-room") as one,
        RawClient.connect(site, "b-room"),
        RawClient.connect(site, "a%20room%2541"),
    ):
        one.send_text("hello")
        one.receive_text()
        wanted = [
            {"name": "a room%41", "connections": 1, "metadata": None},
            {"name": "b-room", "connections": 2, "metadata": None},
        ]
        assert json.loads(get(site, "/api/rooms/").body) == wanted
        assert json.loads(get(site, "/api/rooms").body) == wanted
        assert json.loads(get(site, "/api/b-room/").body) == wanted[1]
        assert json.loads(get(site, "/api/a%20room%2541/").body) == wanted[0]
        assert json.loads(get(site, "/api/a%20room%2541/connections").body) == 1
        assert json.loads(get(site, "/api/b-room/connections").body) == 2
        assert json.loads(get(site, "/api/b-room/metadata").body) is None
        for path in ("/api/none/", "/api/none/connections", "/api/b-room/secrets"):
            assert get(site, path).status == 404
        for path in ("/api/b-room/connections/more", "/api//", "/api/b-room//metadata"):
            assert get(site, path).status == 404
    wait_until(lambda: json.loads(get(site, "/api/rooms/").body) == [])
    assert get(site, "/api/b-room/").status == 404


def test_the_api_shows_the_metadata_that_the_child_gave(tmp_path: Path) -> None:
    line = '{"_meta":true,"name":"<Ünder>","level":3}'
    with serve("--api", "--json", "sh", "--", "-c", f"echo '{line}'; cat") as server:
        with RawClient.connect(server, "x") as client:

            def metadata() -> object:
                return json.loads(get(server, "/api/x/metadata").body)

            wait_until(lambda: metadata() is not None)
            assert metadata() == {"name": "<Ünder>", "level": 3}
            assert json.loads(get(server, "/api/rooms/").body)[0]["metadata"]["level"] == 3
            assert json.loads(client.receive_text())["t"] == "Join"


def test_what_is_switched_off_is_not_there(bare: ServerProcess) -> None:
    for path in ("/api/rooms/", "/metrics", "/room", "/page.html", "/favicon.ico"):
        assert get(bare, path).status == 404


def test_a_plain_request_for_a_room_is_404_and_opens_none(site: ServerProcess) -> None:
    assert get(site, "/some-room").status == 404
    assert json.loads(get(site, "/api/rooms/").body) == []
    assert site.children() == []


# ==== Files ================================================================


def test_a_folder_is_its_index(site: ServerProcess) -> None:
    answer = get(site, "/")
    assert (answer.status, answer.body) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")
    assert get(site, "/sub/").body == b"sub"
    assert get(site, "/empty-folder/").status == 404


def test_a_folder_without_its_slash_redirects(site: ServerProcess) -> None:
    answer = get(site, "/sub")
    assert answer.status in (301, 308)
    assert answer.headers["location"] == "/sub/"


def test_a_redirect_cannot_lead_to_another_host(site: ServerProcess) -> None:
    """`Location: //host/` would be another host's address."""
    for path in ("//sub", "//example.com", "///sub", "/\\sub", "/%2fsub", "//sub/.."):
        answer = http_request(site, raw=f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert not answer.headers.get("location", "").startswith(("//", "/\\", "http"))


def test_a_file_with_a_slash_behind_it_is_404(site: ServerProcess) -> None:
    """Relative links in it would lead astray."""
    assert get(site, "/index.html/").status == 404


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("app.mjs", "text/javascript; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("data.json", "application/json"),
        ("image.svg", "image/svg+xml"),
        ("image.png", "image/png"),
        ("code.wasm", "application/wasm"),
        ("digits.txt", "text/plain; charset=utf-8"),
        ("noise", "application/octet-stream"),
        ("noise.unknown-kind", "application/octet-stream"),
    ],
)
def test_files_have_the_types_that_browsers_want(site: ServerProcess, name: str, kind: str) -> None:
    assert get(site, f"/{name}").headers["content-type"] == kind


def test_names_are_percent_decoded_once(site: ServerProcess) -> None:
    assert get(site, "/a%20b%20%C3%BC.txt").body == b"name"
    assert get(site, "/%64igits.txt").body == DIGITS
    assert get(site, "/100%25.txt").body == b"percent"
    assert get(site, "/%2564igits.txt").status == 404
    assert get(site, "/%FF.txt").status in (400, 404)


def test_head_has_the_same_headers_and_no_body(site: ServerProcess) -> None:
    full, head = get(site, "/digits.txt"), http_request(site, "HEAD", "/digits.txt")
    assert head.status == 200
    for name in ("content-length", "content-type", "etag", "last-modified"):
        assert head.headers[name] == full.headers[name]
    assert exchange(site, b"HEAD /digits.txt HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")
    assert http_request(site, "HEAD", "/nothing").status == 404


@pytest.mark.parametrize("before", [b"", b"GET /digits.txt HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize(
    "rest",
    [
        b"/ HTTP/1.1\r\n\r\n",
        b" / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"/ HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"/ HTTP/2.0\r\nHost: x\r\n\r\n",
        b"/ HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n",
        b"/" + b"x" * 20_000,
    ],
)
def test_what_is_wrong_with_a_head_request_is_told_without_a_body(
    site: ServerProcess, before: bytes, rest: bytes
) -> None:
    """RFC 9110 section 9.3.2; who had asked so took a body for the next answer, or for garbage."""
    answer = exchange(site, before + b"HEAD " + rest)
    _, _, last = answer.rpartition(b"HTTP/1.1 ")
    assert last[:1] in (b"4", b"5")
    assert last.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("rest", [b"GET /" + b"x" * 20_000, b"\x16\x03\x01\x02\0"])
def test_what_is_wrong_with_what_follows_a_head_request_is_told(
    site: ServerProcess, rest: bytes
) -> None:
    """Its reason was left out, though its length was promised, as that of a HEAD request is."""
    answer = exchange(site, b"HEAD /digits.txt HTTP/1.1\r\nHost: x\r\n\r\n" + rest)
    _, _, last = answer.rpartition(b"\r\n\r\n")
    assert last.startswith((b"request head over ", b"this port speaks no TLS"))


def test_an_empty_file_has_no_bytes(site: ServerProcess) -> None:
    answer = get(site, "/empty.txt")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == "0"
    assert get(site, "/empty.txt", Range="bytes=0-").status == 416


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-2", 0, 3),
        ("bytes=3-6", 3, 7),
        ("bytes=7-", 7, 10),
        ("bytes=-3", 7, 10),
        ("bytes=0-0", 0, 1),
        ("bytes=9-9", 9, 10),
        ("bytes=5-1000", 5, 10),
        ("bytes=-1000", 0, 10),
    ],
)
def test_a_range_is_that_part(site: ServerProcess, wanted: str, start: int, stop: int) -> None:
    answer = get(site, "/digits.txt", Range=wanted)
    assert (answer.status, answer.body) == (206, DIGITS[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/10"


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999-"])
def test_a_range_beyond_the_end_is_416(site: ServerProcess, wanted: str) -> None:
    answer = get(site, "/digits.txt", Range=wanted)
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize(
    "wanted",
    ["bytes=0-1,3-4", "bytes=5-3", "bytes=-", "bytes=a-b", "lines=0-1", "0-1", "bytes=1--2", "=,-"],
)
def test_a_range_that_is_malformed_or_several_is_ignored(site: ServerProcess, wanted: str) -> None:
    answer = get(site, "/digits.txt", Range=wanted)
    assert (answer.status, answer.body) == (200, DIGITS)


def test_a_range_in_a_head_request_is_ignored(site: ServerProcess) -> None:
    """RFC 9110 section 14.2: Range has a meaning for GET alone."""
    answer = http_request(site, "HEAD", "/digits.txt", {"Range": "bytes=0-1"})
    assert answer.status == 200
    assert answer.headers["content-length"] == "10"


def test_if_range_gives_the_part_only_of_the_same_file(site: ServerProcess) -> None:
    facts = get(site, "/digits.txt").headers
    for same in (facts["etag"], facts["last-modified"]):
        assert get(site, "/digits.txt", Range="bytes=0-1", If_Range=same).status == 206
    for other in ('"other"', "W/" + facts["etag"], "Thu, 01 Jan 1970 00:00:00 GMT"):
        answer = get(site, "/digits.txt", Range="bytes=0-1", If_Range=other)
        assert (answer.status, answer.body) == (200, DIGITS)


def test_the_rest_of_a_file_that_has_changed_is_412(site: ServerProcess) -> None:
    """Firefox asks so for the rest of a download; it got that of another file (13.1.1, 13.1.4)."""
    head = http_request(site, path="/digits.txt").headers
    etag, modified = head["etag"], head["last-modified"]
    same = ({"If-Match": etag}, {"If-Match": f'"x", {etag}'}, {"If-Match": "*"})
    for fields in (*same, {"If-Unmodified-Since": modified}, {"If-Unmodified-Since": "yesterday"}):
        response = http_request(site, path="/digits.txt", headers={"Range": "bytes=2-", **fields})
        assert response.status == 206
    before = "Mon, 01 Jan 2001 00:00:00 GMT"
    for fields in ({"If-Match": '"x"'}, {"If-Match": f"W/{etag}"}, {"If-Unmodified-Since": before}):
        response = http_request(site, path="/digits.txt", headers={"Range": "bytes=2-", **fields})
        assert (response.status, response.headers["etag"]) == (412, etag)
    fields = {"If-Match": etag, "If-Unmodified-Since": before}  # the former alone counts
    assert http_request(site, path="/digits.txt", headers=fields).status == 200


def test_an_unchanged_file_is_304(site: ServerProcess) -> None:
    facts = get(site, "/digits.txt").headers
    etag, modified = facts["etag"], facts["last-modified"]
    assert etag.startswith('"')
    for tags in (etag, f"W/{etag}", f'"other", {etag}', f'"other",W/{etag} , "x"', "*"):
        answer = get(site, "/digits.txt", If_None_Match=tags)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == etag
    assert get(site, "/digits.txt", If_Modified_Since=modified).status == 304
    later = email.utils.formatdate(time.time() + 86400, usegmt=True)
    assert get(site, "/digits.txt", If_Modified_Since=later).status == 304


def test_a_changed_file_is_200(site: ServerProcess) -> None:
    modified = get(site, "/digits.txt").headers["last-modified"]
    for tags in ('"other"', 'W/"other"', "other"):
        assert get(site, "/digits.txt", If_None_Match=tags).status == 200
    for date in ("Thu, 01 Jan 1970 00:00:00 GMT", "nonsense", "Thu, 99 Foo 1970"):
        assert get(site, "/digits.txt", If_Modified_Since=date).status == 200
    # RFC 9110 section 13.1.3: where there is an If-None-Match, it alone counts.
    answer = get(site, "/digits.txt", If_None_Match='"other"', If_Modified_Since=modified)
    assert answer.status == 200


def test_the_etag_changes_with_the_file(site: ServerProcess, folder: Path) -> None:
    file = folder / "changing.txt"
    file.write_text("one")
    first = get(site, "/changing.txt").headers["etag"]
    file.write_text("two")
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1000))
    second = get(site, "/changing.txt", If_None_Match=first)
    assert (second.status, second.body) == (200, b"two")
    assert second.headers["etag"] != first


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2E%2E/secret.txt",
        "/.%2e/secret.txt",
        "/..%2fsecret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/sub/..\\..\\secret.txt",
        "/%252e%252e/secret.txt",
        "/%c0%ae%c0%ae/secret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "//%2fetc%2fpasswd",
        "/digits.txt%00.html",
        "/%00",
        "/escape.txt",
        "/escape/secret.txt",
        "/escape/",
        "/.hidden",
        "/%2ehidden",
        "/.git/config",
        "/.",
        "/..",
        "/sub/..",
        "/sub/./index.html",
        "/loop",
        "/dangling",
        "/fifo",
        "/zero",
        "/" + "a" * 300,
        "/" + "a" * 5000,
        "/sub/" + "deep/" * 800,
        "/digits.txt/digits.txt",
    ],
)
def test_what_is_outside_hidden_or_no_file_is_refused(site: ServerProcess, path: str) -> None:
    raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    answer = http_request(site, raw=raw)
    assert answer.status in (400, 404)
    assert b"secret" not in answer.body.replace(path.encode(), b"")
    assert b"root:" not in answer.body


def test_links_inside_of_the_folder_are_followed(site: ServerProcess) -> None:
    assert get(site, "/inner.txt").body == DIGITS
    assert get(site, "/inner/").body == b"sub"


def test_nothing_is_written_executed_or_listed(site: ServerProcess, folder: Path) -> None:
    before = sorted(os.listdir(folder))
    for path in ("/;ls", "/$(touch%20x)", "/?$(touch%20x)", "/`id`", "/|ls", "/sub/deep/"):
        assert get(site, path).status in (200, 404)
    assert sorted(os.listdir(folder)) == before


def test_a_large_file_comes_whole_and_costs_no_memory(site: ServerProcess) -> None:
    before = site.rss()
    with closing(HTTPConnection(site.host, site.port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/large.bin")
        response = connection.getresponse()
        size = 0
        while data := response.read(1 << 20):
            assert not any(data[:: 1 << 16])
            size += len(data)
        assert size == SPARSE
        connection.request("GET", "/large.bin", headers={"Range": "bytes=-10"})
        assert connection.getresponse().read() == bytes(10)
    assert site.rss() - before < 16 * 1024 * 1024  # of 50


def test_a_client_that_leaves_in_the_middle_of_a_file_is_forgotten(site: ServerProcess) -> None:
    before = wait_until(site.descriptors)
    for reset in (True, False):
        with open_socket(site) as sock:
            sock.sendall(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: site.descriptors() <= before)
    assert get(site, "/digits.txt").body == DIGITS


# ==== Connections ==========================================================


def test_one_connection_serves_many_requests(site: ServerProcess) -> None:
    with closing(HTTPConnection(site.host, site.port, timeout=PATIENCE)) as connection:
        connection.connect()
        sock = connection.sock
        for method, path, status, body in (
            ("GET", "/digits.txt", 200, DIGITS),
            ("HEAD", "/digits.txt", 200, b""),
            ("GET", "/nothing", 404, None),
            ("GET", "/health", 200, None),
            ("GET", "/sub", 301, None),
            ("GET", "/empty.txt", 200, b""),
            ("GET", "/", 200, PAGE),
        ):
            connection.request(method, path)
            response = connection.getresponse()
            content = response.read()
            assert response.status == status
            assert body in (None, content)
            assert connection.sock is sock, "the connection was closed"


def test_pipelined_requests_are_answered_in_order(site: ServerProcess) -> None:
    one = b"GET /digits.txt HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /sub/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = exchange(site, one * 20 + last)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 21
    assert answers.count(DIGITS + b"HTTP/1.1") == 20
    assert answers.endswith(b"\r\n\r\nsub")


def test_empty_lines_before_a_request_are_passed_over(site: ServerProcess) -> None:
    """RFC 9112 section 2.2, for clients that send one too many behind a body."""
    one = b"GET /digits.txt HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /digits.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for raw in (b"\r\n" + last, one + b"\r\n" + last):
        answers = exchange(site, raw)
        assert b" 400 " not in answers
        assert answers.endswith(DIGITS)


def test_a_request_that_comes_byte_by_byte_is_answered(site: ServerProcess) -> None:
    with open_socket(site) as sock:
        for byte in b"GET /digits.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            sock.sendall(bytes((byte,)))
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert answer.endswith(DIGITS)


def test_connection_close_closes(site: ServerProcess) -> None:
    answer = exchange(site, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_http_1_0_closes_unless_asked_to_stay(site: ServerProcess) -> None:
    assert exchange(site, b"GET /digits.txt HTTP/1.0\r\n\r\n").endswith(DIGITS)
    stay = b"GET /digits.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answers = exchange(site, stay + b"GET /sub/ HTTP/1.0\r\n\r\n")
    assert answers.count(b" 200 OK\r\n") == 2
    assert b"\r\nconnection: keep-alive\r\n" in answers.lower()


def test_the_head_of_a_response_is_well_formed(site: ServerProcess) -> None:
    answer = get(site, "/digits.txt")
    assert email.utils.parsedate_to_datetime(answer.headers["date"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "," not in answer.headers["content-length"]


# ==== Refusals =============================================================


def test_a_question_about_the_server_itself_is_told_what_is_allowed(site: ServerProcess) -> None:
    """`OPTIONS *` (RFC 9112 section 3.2.4) was a malformed request; of other methods it is."""
    answer = http_request(site, "OPTIONS", "*")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert get(site, "*").status == 400


def test_who_would_send_a_body_is_told_at_once_that_it_need_not(site: ServerProcess) -> None:
    """A client that expects 100 would wait for it; the answer tells it more (RFC 9110, 10.1.1)."""
    head = "POST /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    answer = http_request(site, raw=head.encode())
    assert (answer.status, answer.headers["connection"]) == (405, "close")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_other_methods_are_405_and_say_what_is_allowed(site: ServerProcess, method: str) -> None:
    for path in ("/", "/health", "/metrics", "/api/rooms/", "/nothing"):
        answer = http_request(site, method, path)
        assert answer.status == 405
        assert {word.strip() for word in answer.headers["allow"].split(",")} == {"GET", "HEAD"}


def test_the_body_of_a_request_is_never_taken_for_a_request(site: ServerProcess) -> None:
    """Or someone behind the same proxy could be answered with what another asked for."""
    hidden = b"GET /digits.txt HTTP/1.1\r\nHost: x\r\n\r\n"
    for method in (b"POST", b"GET"):
        for framing in (
            b"Content-Length: %d" % len(hidden),
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding:",  # whatever who has passed it on takes that for
        ):
            raw = method + b" /health HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + hidden
            answer = exchange(site, raw)
            assert answer.count(b"HTTP/1.1 ") == 1
            assert DIGITS not in answer


def test_a_large_body_is_refused_with_an_answer(site: ServerProcess) -> None:
    answer = http_request(site, "POST", "/upload", body=b"x" * 500_000)
    assert answer.status == 405


def test_a_body_that_is_refused_can_be_sent_to_its_end(site: ServerProcess) -> None:
    """A proxy that sends all of it before it reads was cut off, and told its client 502."""
    body = bytes(20_000_000)
    with open_socket(site) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        sock.sendall(body)
        assert sock.recv(1000).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"GET / http/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/x\r\nHost: x\r\n\r\n",
        b"G\xc3\xabT / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET nothing HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nName : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nc: d\r\n\r\n",
        b"GET /\t HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_a_malformed_request_is_400(site: ServerProcess, raw: bytes) -> None:
    assert http_request(site, raw=raw).status == 400


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"])
def test_another_version_of_http_is_505(site: ServerProcess, version: str) -> None:
    raw = f"GET / {version}\r\nHost: x\r\n\r\n".encode()
    assert http_request(site, raw=raw).status == 505


def test_a_head_that_is_too_long_is_431(site: ServerProcess) -> None:
    for fields in ({"X": "x" * 17_000}, {f"X-{n}": "x" for n in range(101)}):
        assert http_request(site, headers=fields).status == 431
    assert http_request(site, path="/" + "x" * 20_000).status == 431
    assert http_request(site, raw=b"GET /" + b"x" * 100_000).status == 431
    assert http_request(site, path="/health", headers={"X": "x" * 10_000}).status == 200


def upgrade(server: ServerProcess, path: str = "/room", **headers: str | None) -> HttpResponse:
    """Make a handshake that is refused; a header of None is left out."""
    fields: dict[str, str | None] = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    raw = "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")
    return http_request(server, raw=raw)


@pytest.mark.parametrize(
    "key", [None, "", "short", "dGhlIHNhbXBsZSBub25jZQ", "*" * 24, "dGhlIHNhbXBsZSBub25jZTE="]
)
def test_an_upgrade_with_a_bad_key_is_400(site: ServerProcess, key: str | None) -> None:
    assert upgrade(site, Sec_WebSocket_Key=key).status == 400


@pytest.mark.parametrize("version", [None, "8", "12", "14", "130", "13, 8", "x", ""])
def test_another_version_of_websocket_is_426(site: ServerProcess, version: str | None) -> None:
    """RFC 6455 section 4.4: the answer says which version is spoken; RFC 9110 section 15.5.22."""
    answer = upgrade(site, Sec_WebSocket_Version=version)
    assert answer.status == 426
    assert answer.headers["sec-websocket-version"] == "13"
    assert answer.headers["upgrade"] == "websocket"


def test_an_upgrade_without_connection_upgrade_is_400(site: ServerProcess) -> None:
    assert upgrade(site, Connection="keep-alive").status == 400
    assert upgrade(site, Connection=None).status == 400


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
def test_an_upgrade_by_another_method_is_405(site: ServerProcess, method: str) -> None:
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    answer = http_request(site, method, "/room", fields)
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{name}" for name in RESERVED),
        *(f"/{name}/" for name in RESERVED),
        "/%61pi",
        "/",
        "//",
        "/a/b",
        "/a%2Fb",
        "/%00",
        "/a%0Ab",
        "/a%7Fb",
        "/a%C2%85b",
        "/%FF",
        "/%ED%A0%80",
        "/" + "x" * 129,
    ],
)
def test_an_upgrade_for_what_is_no_room_is_400(site: ServerProcess, path: str) -> None:
    assert upgrade(site, path).status == 400
    assert site.children() == []


@pytest.mark.parametrize(
    "path",
    [
        "x" * 128,
        "%E4%B8%AD%E6%96%87",
        "%F0%9F%98%80",
        "%F0%9F%91%A8%E2%80%8D%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7",  # a family: three, joined
        "a%E3%80%80b",  # a wide space, as Japanese has it
        "a%20b",
        "a%25b",
        "..",
        "a%5Cb",
        "API",
        "<b>",
        "a;b",
        "(%22'$",
    ],
)
def test_any_other_name_is_a_room(site: ServerProcess, path: str) -> None:
    """1 to 128 characters, no control characters, one segment, not reserved."""
    with RawClient.connect(site, path) as client:
        client.send_text("hello")
        assert client.receive_text() == "hello"
        assert client.close() == (1000, "")


def test_the_connection_header_may_say_more_in_any_case(site: ServerProcess) -> None:
    headers = {"Connection": "keep-alive, UPGRADE", "Upgrade": "WebSocket"}
    with RawClient.connect(site, headers=headers) as client:
        client.send_text("hello")
        assert client.receive_text() == "hello"


def test_an_upgrade_after_other_requests_on_the_same_connection(site: ServerProcess) -> None:
    client = RawClient(open_socket(site))
    with client:
        client.send_bytes(b"GET /digits.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n" + DIGITS):
            client._wait(1, time.monotonic() + PATIENCE, "the file")
            head += client.sock.recv(4096)
        client.upgrade("x", "/room", {})
        client.send_text("hello")
        assert client.receive_text() == "hello"


def test_a_refused_upgrade_says_why_in_its_body(site: ServerProcess) -> None:
    with pytest.raises(HandshakeRefused) as refused:
        RawClient.connect(site, "health")
    assert refused.value.status == 400
    assert b"health" in refused.value.response.body
    assert refused.value.response.headers["content-type"].startswith("text/plain")


def test_a_peer_that_comes_over_ipv6_is_served() -> None:
    with serve("cat", addr="[::1]:0") as server:
        assert get(server, "/health").status == 200
        with RawClient.connect(server) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"


def test_a_peer_of_ipv4_has_its_own_address_where_both_families_come_in() -> None:
    """It was ::ffff:127.0.0.1 for programs and in the log."""
    both = "[::ffff:127.0.0.1]:0"  # a socket of IPv6, and yet no other machine reaches it
    tell = "echo $REMOTE_ADDR $SERVER_NAME; cat"
    with serve("--tcplisten", both, "sh", "--", "-c", tell, addr=both) as server:
        with RawClient.connect(("127.0.0.1", server.port)) as client:
            assert client.receive_text() == "127.0.0.1 127.0.0.1"
        port = int(server.wait_log(r"lines of text at \S+ on port (\d+)")[1])
        with open_socket(("127.0.0.1", port)) as sock:
            sock.sendall(b"other\n")
            assert sock.makefile().readline() == "127.0.0.1 127.0.0.1\n"


@pytest.mark.slow
def test_a_slow_client_gets_a_long_answer_whole(tmp_path: Path) -> None:
    """What was no file had to be taken in HEAD_TIMEOUT, however long it was."""
    size, patience, door = 12 << 20, 2.0, str(tmp_path / "door")
    program = f"head -c {size} /dev/zero | tr '\\0' a; echo '\"}}'; cat"
    program = """printf '{"_meta":true,"x":"'; """ + program
    options = ("--unixsocket", door, "--addr", "127.0.0.1:0", "--api", "--json", "sh")
    brief = with_constants(HEAD_TIMEOUT=patience)
    with serve(*options, "--", "-c", program, command=brief) as server:
        with RawClient.connect(server, "room"), socket.socket(socket.AF_UNIX) as sock:
            wait_until(lambda: len(http_request(server, path="/api/room/metadata").body) > size)
            sock.connect(door)
            sock.settimeout(PATIENCE)
            sock.sendall(b"GET /api/room/metadata HTTP/1.0\r\n\r\n")
            began, pieces = time.monotonic(), []
            while data := sock.recv(32 * 1024):
                pieces.append(data)
                if time.monotonic() < began + 2 * patience:
                    time.sleep(0.02)  # it is slow
            answer = b"".join(pieces)
            assert answer.endswith(b'a"}') and len(answer) > size
