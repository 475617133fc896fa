"""The request head and the opening handshake, as bytes."""

from __future__ import annotations

import base64
from http import HTTPStatus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import scalesocket
from scalesocket import HandshakeError, Headers, Request, Response, answer_handshake, parse_request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def head(*lines: str, first: str = "GET /room HTTP/1.1", host: str = "Host: h") -> bytes:
    """Return a request head without its empty line."""
    return "\r\n".join([first, *([host] if host else []), *lines]).encode("latin-1")


def refusal(data: bytes) -> int:
    """Return the status that a head is refused with."""
    with pytest.raises(HandshakeError) as caught:
        parse_request(data)
    assert caught.value.reason
    return caught.value.status


# ==== Reading a request ===================================================


def test_a_request_is_read() -> None:
    request = parse_request(head("X-A: 1", "x-b:  two words\t", first="GET /r%20m?a=1?b HTTP/1.1"))
    assert (request.method, request.target, request.version) == ("GET", "/r%20m?a=1?b", "HTTP/1.1")
    assert (request.path, request.query) == ("/r%20m", "a=1?b")
    assert request.headers.fields == [("Host", "h"), ("X-A", "1"), ("x-b", "two words")]


def test_header_names_compare_without_case_and_repeated_ones_are_joined() -> None:
    headers = Headers([("Accept", "a"), ("X", "y"), ("aCCept", "b, C")])
    assert headers.get("ACCEPT") == "a, b, C"
    assert headers.get_all("accept") == ["a", "b, C"]
    assert headers.tokens("Accept") == ["a", "b", "c"]
    assert (headers.get("None"), headers.get_all("None"), headers.tokens("None")) == ("", [], [])


@pytest.mark.parametrize(
    "value", ["", "a:b:c", '"quoted, text"', "\xe9\xff", "tab\tinside", "~!@#$%^&*()"]
)
def test_a_header_may_have_any_printable_value(value: str) -> None:
    assert parse_request(head(f"X: {value}")).headers.get("x") == value


@pytest.mark.parametrize(
    "line",
    [
        "",
        "GET",
        "GET /",
        "GET / ",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET / HTTP/1",
        "GET / HTTP/11",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "GET / XTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\x00 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET room HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ?a HTTP/1.1",
        "CONNECT h:80 HTTP/1.1",
        "\x16\x03\x01\x02\x00",  # a TLS client that took the port for HTTPS
    ],
)
def test_a_malformed_request_line_is_400(line: str) -> None:
    assert refusal(head(first=line)) == 400


@pytest.mark.parametrize(
    "line",
    [
        "no colon",
        ": no name",
        "Name : space before the colon",
        "Name\t: tab before the colon",
        " folded: line",
        "\tfolded: line",
        "Na me: x",
        "Näme: x",
        "Name(: x",
        "X: null\x00byte",
        "X: bell\x07",
        "X: delete\x7f",
        "X: bare\nline feed",
        "X: bare\rcarriage return",
        "",
    ],
)
def test_a_malformed_header_is_400(line: str) -> None:
    assert refusal(head(line, "Y: z")) == 400


def test_an_obsolete_folded_header_is_400() -> None:
    assert refusal(head("X: one", " two")) == 400


@pytest.mark.parametrize("separator", ["\n", "\r", "\n\n"])
def test_lines_that_end_without_cr_lf_are_400(separator: str) -> None:
    assert refusal(f"GET / HTTP/1.1{separator}Host: h".encode()) == 400
    assert refusal(f"GET / HTTP/1.1\r\nHost: h{separator}X: y".encode()) == 400


def test_http_1_1_needs_exactly_one_host() -> None:
    assert refusal(head(host="")) == 400
    assert refusal(head("Host: h")) == 400
    assert refusal(head("hOST: other")) == 400
    assert parse_request(head(host="HOST: h")).headers.get("host") == "h"


def test_http_1_0_needs_no_host_and_has_no_two() -> None:
    assert parse_request(head(first="GET / HTTP/1.0", host="")).version == "HTTP/1.0"
    assert refusal(head("Host: h", first="GET / HTTP/1.0")) == 400


@pytest.mark.parametrize("host", ["a b", "a/b", "a?b", "a#b", "me@a", "http://a", "a\tb"])
def test_a_host_that_is_none_is_400(host: str) -> None:
    """RFC 9112 section 3.2: it was handed on to programs as SERVER_NAME."""
    assert refusal(head(host=f"Host: {host}")) == 400


@pytest.mark.parametrize("host", ["", "a", "a.b:9000", "[::1]", "[::1]:9000", "a_b", "%61", "a:"])
def test_a_host_may_be_a_name_or_an_address_and_a_port(host: str) -> None:
    assert parse_request(head(host=f"Host: {host}")).headers.get("Host") == host


@pytest.mark.parametrize("length", ["", "abc", "-1", "+1", "0, 5", "1 2", "0x1", "\xb2"])
def test_a_content_length_that_is_no_number_is_400(length: str) -> None:
    """RFC 9112 section 6.3: nobody knows where such a request ends."""
    assert refusal(head(f"Content-Length: {length}")) == 400
    assert refusal(head("Content-Length: 0", f"Content-Length: {length}")) == 400


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"])
def test_other_versions_are_505(version: str) -> None:
    assert refusal(head(first=f"GET / {version}")) == 505


def test_the_preface_of_http_2_is_refused() -> None:
    assert refusal(b"PRI * HTTP/2.0") in (400, 505)


def test_too_many_headers_are_431() -> None:
    most = [f"X-{n}: {n}" for n in range(scalesocket.MAX_HEADERS - 1)]
    assert len(parse_request(head(*most)).headers.fields) == scalesocket.MAX_HEADERS
    assert refusal(head(*most, "Y: one too many")) == 431


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("http://h/a/b?c=d", "/a/b?c=d"),
        ("http://h:9000/a", "/a"),
        ("http://h", "/"),
        ("http://h?x=1", "/?x=1"),
        ("HTTP://h/a", "/a"),
    ],
)
def test_the_absolute_form_means_its_path(target: str, meant: str) -> None:
    request = parse_request(head(first=f"GET {target} HTTP/1.1"))
    assert request.path + ("?" + request.query if request.query else "") == meant


def test_the_absolute_form_names_the_host() -> None:
    """RFC 9112 section 3.2.2: it counts, whatever the Host header says."""
    request = parse_request(head("X: h", first="GET http://other:80/a HTTP/1.1"))
    assert request.headers.fields == [("Host", "other:80"), ("X", "h")]
    assert refusal(head(first="GET http://me@h/a HTTP/1.1")) == 400


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        ("HTTP/1.1", "", True),
        ("HTTP/1.1", "Close", False),
        ("HTTP/1.1", "x, CLOSE", False),
        ("HTTP/1.0", "", False),
        ("HTTP/1.0", "Keep-Alive", True),
    ],
)
def test_a_connection_is_kept_as_version_and_header_say(
    version: str, connection: str, keeps: bool
) -> None:
    lines = [f"Connection: {connection}"] if connection else []
    assert parse_request(head(*lines, first=f"GET / {version}")).keeps_alive is keeps


# ==== The opening handshake ===============================================


def upgrade(**changes: str | None) -> Request:
    """Return an upgrade request; `Sec_WebSocket_Key="x"` changes a header, None removes it."""
    fields = {
        "Host": "h",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    wanted: dict[str, str | None] = {**fields}
    wanted |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in wanted.items() if value is not None]
    return parse_request(head(*lines, host=""))


def refused(request: Request) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        answer_handshake(request)
    return caught.value


def is_accepted(request: Request) -> bool:
    """Whether the answer to a request is the one that its key asks for."""
    response, _ = answer_handshake(request)
    return f"\r\nSec-WebSocket-Accept: {ACCEPT}\r\n".encode() in response


def test_the_accept_key_of_the_rfc() -> None:
    assert scalesocket.accept_key(KEY) == ACCEPT


def test_the_response_opens_the_websocket() -> None:
    response, _ = answer_handshake(upgrade())
    assert response.endswith(b"\r\n\r\n")
    status, *lines = response.decode().removesuffix("\r\n\r\n").split("\r\n")
    assert status == "HTTP/1.1 101 Switching Protocols"
    fields = dict(line.split(": ") for line in lines)
    assert fields == {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": ACCEPT,
    }


@pytest.mark.parametrize("value", ["Upgrade", "upgrade", "keep-alive, Upgrade", "UPGRADE ,x"])
def test_connection_may_say_upgrade_among_others_in_any_case(value: str) -> None:
    assert is_accepted(upgrade(Connection=value))


@pytest.mark.parametrize("value", ["websocket", "WebSocket", "WEBSOCKET", "h2c, websocket"])
def test_upgrade_may_say_websocket_in_any_case(value: str) -> None:
    assert upgrade(Upgrade=value).is_upgrade


@pytest.mark.parametrize("value", [None, "", "h2c", "websockets", "web socket", "websocket/13"])
def test_other_upgrades_are_none_of_ours(value: str | None) -> None:
    assert not upgrade(Upgrade=value).is_upgrade


def test_the_upgrade_header_may_be_repeated() -> None:
    lines = ["Upgrade: h2c", "Upgrade: websocket", "Connection: a", "Connection: upgrade"]
    key = [f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]
    request = parse_request(head(*lines, *key))
    assert request.is_upgrade
    assert is_accepted(request)


@pytest.mark.parametrize("value", [None, "", "close", "keep-alive", "upgraded", "up grade"])
def test_a_connection_header_without_upgrade_is_400(value: str | None) -> None:
    assert refused(upgrade(Connection=value)).status == 400


@pytest.mark.parametrize("value", [None, "", "8", "12", "14", "013", "13, 8", "x", "13.0"])
def test_other_versions_of_the_protocol_are_426_and_learn_ours(value: str | None) -> None:
    error = refused(upgrade(Sec_WebSocket_Version=value))
    assert error.status == 426
    assert dict(error.headers) == {
        "Sec-WebSocket-Version": "13",
        "Upgrade": "websocket",  # RFC 9110 section 15.5.22
        "Connection": "Upgrade",
    }


BAD_KEYS = [
    None,
    "",
    "x",
    "dGhlIHNhbXBsZSBub25jZQ",  # without its padding
    "dGhlIHNhbXBsZSBub25jZQ==x",
    "dGhlIHNh bXBsZSBub25jZQ==",
    base64.b64encode(bytes(15)).decode(),
    base64.b64encode(bytes(17)).decode(),
    f"{KEY}, {KEY}",
    "\xe9" * 24,
]


@pytest.mark.parametrize("value", BAD_KEYS)
def test_a_key_that_is_not_16_bytes_in_base64_is_400(value: str | None) -> None:
    assert refused(upgrade(Sec_WebSocket_Key=value)).status == 400


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "get"])
def test_another_method_is_405_and_learns_the_right_one(method: str) -> None:
    request = upgrade()
    error = refused(Request(method, request.target, request.version, request.headers))
    assert error.status == 405
    assert dict(error.headers) == {"Allow": "GET"}


@pytest.mark.parametrize("field", [{"Content_Length": "5"}, {"Transfer_Encoding": "chunked"}])
def test_a_request_with_a_body_opens_no_websocket(field: dict[str, str]) -> None:
    """The body was taken for frames: 101, and then 1002 (issue 13, item 6)."""
    assert refused(upgrade(**field)).status == 400


def test_a_body_of_no_bytes_is_none() -> None:
    """Devices send `Content-Length: 0` with it (python-websockets/websockets#1616)."""
    assert is_accepted(upgrade(Content_Length="0"))


def test_http_1_0_cannot_become_a_websocket() -> None:
    request = upgrade()
    error = refused(Request("GET", request.target, "HTTP/1.0", request.headers))
    assert error.status == 400


@pytest.mark.parametrize(
    ("offered", "spoken", "chosen"),
    [
        ("moo.v1", ("moo.v1",), "moo.v1"),
        ("b, a", ("a", "b"), "b"),
        ("x,y , a,b", ("b", "a"), "a"),
        ("A", ("a",), ""),
        ("x", ("a",), ""),
        ("", ("a",), ""),
        (None, ("a",), ""),
        ("a", (), ""),
        (" , ,", ("a",), ""),
    ],
)
def test_the_first_subprotocol_of_the_client_that_we_speak_is_chosen(
    offered: str | None, spoken: tuple[str, ...], chosen: str
) -> None:
    request = upgrade(Sec_WebSocket_Protocol=offered)
    response, _ = answer_handshake(request, subprotocols=spoken)
    line = f"\r\nSec-WebSocket-Protocol: {chosen}\r\n".encode()
    assert (line in response) == bool(chosen)
    assert (b"Sec-WebSocket-Protocol" in response) == bool(chosen)


def test_subprotocols_may_be_offered_in_several_headers() -> None:
    lines = ["Sec-WebSocket-Protocol: x", "sec-websocket-protocol: a, b"]
    fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    request = parse_request(head(*lines, *fields, f"Sec-WebSocket-Key: {KEY}"))
    response, _ = answer_handshake(request, subprotocols=("b", "a"))
    assert b"\r\nSec-WebSocket-Protocol: a\r\n" in response


# ==== Whatever comes ======================================================

names = st.sampled_from(
    ["Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "X", "a b", ""]
)
values = st.one_of(
    st.sampled_from(["websocket", "Upgrade", "13", KEY, "h", "\xe9" * 24, "=" * 24, "A===", "é"]),
    st.text(st.characters(max_codepoint=255), max_size=30),
)
request_lines = st.one_of(
    st.sampled_from(["GET / HTTP/1.1", "GET /a?b HTTP/1.0", "GET http:// HTTP/1.1"]),
    st.text(st.characters(max_codepoint=255), max_size=30),
)
heads = st.builds(
    lambda line, fields: "\r\n".join([line, *(f"{k}: {v}" for k, v in fields)]).encode("latin-1"),
    request_lines,
    st.lists(st.tuples(names, values), max_size=6),
)


@settings(max_examples=150)
@given(st.one_of(heads, heads, st.binary(max_size=60)))
@example(head("Connection: upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: \xe9"))
def test_any_bytes_are_a_request_or_a_handshake_error(data: bytes) -> None:
    try:
        request = parse_request(data)
        assert request.target.startswith("/")
        for _, value in request.headers.fields:
            assert not set("\r\n\0") & set(value)
        answer_handshake(request, subprotocols=("a",))
    except HandshakeError as error:
        assert HTTPStatus(error.status).phrase


# ==== Responses ===========================================================


def test_a_response_says_how_long_its_body_is() -> None:
    text = Response(200, b"hello").encode_head(keep_alive=True).decode()
    assert text.startswith("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n")
    assert "\r\nContent-Length: 5\r\n" in text
    assert "\r\nContent-Type: text/plain; charset=utf-8\r\n" in text
    assert text.endswith("\r\n\r\n")
    assert text.count("\r\n\r\n") == 1


def test_a_response_that_ends_its_connection_says_so() -> None:
    head_bytes = Response(404, b"").encode_head(keep_alive=False)
    assert b"\r\nConnection: close\r\n" in head_bytes
    assert b"\r\nContent-Length: 0\r\n" in head_bytes


def test_not_modified_says_nothing_about_a_body() -> None:
    text = Response(304, headers=(("ETag", '"x"'),)).encode_head(keep_alive=True)
    assert b'\r\nETag: "x"\r\n' in text
    assert b"\r\nContent-" not in text
