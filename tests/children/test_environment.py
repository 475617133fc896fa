"""What a child learns from its environment variables, and what it must not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalesocket
from scalesocket import Client, HandshakeError, Request, build_environment, parse_request
from tests.support import RawClient, serve

FIELDS = ("Host: example.org:9000", "User-Agent: tester/1", "X-Custom-Test: yes")
LOCAL = ("192.0.2.1", 9000)
PEER = ("198.51.100.7", 50123)

# RFC 3875 section 4.1, with what websocketd adds to it; PATH and HTTP_* come on top.
CGI = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "PATH_INFO": "/a room",
    "QUERY_STRING": "x=1&y=%20;$(whoami)",
    "REMOTE_ADDR": "198.51.100.7",
    "REMOTE_HOST": "198.51.100.7",
    "REMOTE_PORT": "50123",
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/a%20room?x=1&y=%20;$(whoami)",
    "SCRIPT_NAME": "",
    "SERVER_NAME": "example.org",
    "SERVER_PORT": "9000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_SOFTWARE": f"scalesocket/{scalesocket.__version__}",
    "ROOM": "a room",
    "HTTP_HOST": "example.org:9000",
    "HTTP_USER_AGENT": "tester/1",
    "HTTP_X_CUSTOM_TEST": "yes",
    "PYTHONUNBUFFERED": "1",
}


def client(request: Request, room: str, local: tuple[str, int] = LOCAL) -> Client:
    nobody: Any = None  # it has no connection
    return Client(1, room, request, nobody, peer=PEER, local=local)


def environment(
    *fields: str,
    target: str = "/a%20room?x=1&y=%20;$(whoami)",
    room: str = "a room",
    passed: Iterable[str] = (),
    local: tuple[str, int] = LOCAL,
) -> dict[str, str]:
    """Return the environment for a request with these header lines."""
    head = "\r\n".join([f"GET {target} HTTP/1.1", *(fields or FIELDS)]).encode("latin-1")
    request = parse_request(head)
    return build_environment(client(request, room, local), tuple(passed))


def test_the_request_is_described_as_to_a_cgi_program() -> None:
    found = environment()
    assert len(found.pop("UNIQUE_ID")) >= 16
    assert found == CGI


def test_unique_ids_are_unique() -> None:
    assert len({environment()["UNIQUE_ID"] for _ in range(1000)}) == 1000


def test_without_a_query_its_variable_is_there_and_empty() -> None:
    assert environment(target="/r")["QUERY_STRING"] == ""
    assert environment(target="/r?")["QUERY_STRING"] == ""


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("h", "h"),
        ("h:80", "h"),
        ("[::1]:9000", "[::1]"),
        ("[::1]", "[::1]"),
        ("", "192.0.2.1"),
    ],
)
def test_the_servers_name_is_what_the_client_called_it(host: str, name: str) -> None:
    found = environment(f"Host: {host}")
    assert found["SERVER_NAME"] == name
    assert found["SERVER_PORT"] == "9000"


def test_repeated_headers_are_joined() -> None:
    found = environment("Host: h", "X-A: 1", "x-b: 2", "x-a: 3, 4")
    assert found["HTTP_X_A"] == "1, 3, 4"
    assert found["HTTP_X_B"] == "2"


@pytest.mark.parametrize("name", ["Proxy", "PROXY", "proxy"])
def test_no_client_sets_http_proxy(name: str) -> None:
    """The "httpoxy" hole: many programs take HTTP_PROXY for a setting of their own."""
    assert "HTTP_PROXY" not in environment("Host: h", f"{name}: http://evil.example")
    assert environment("Host: h", "Proxy-Connection: x")["HTTP_PROXY_CONNECTION"] == "x"


def test_a_header_with_an_underscore_does_not_pass_for_one_with_a_hyphen() -> None:
    found = environment("Host: h", "X_Real_Ip: forged", "X-Real-Ip: true")
    assert found["HTTP_X_REAL_IP"] == "true"
    assert "HTTP_X_REAL_IP" not in environment("Host: h", "X_Real_Ip: forged")


def test_no_header_replaces_a_variable_that_is_not_its_own() -> None:
    found = environment("Host: h", "Remote-Addr: 1.2.3.4", "Room: x", "Path: /evil", target="/r")
    assert (found["REMOTE_ADDR"], found["ROOM"]) == (PEER[0], "a room")
    assert "PATH" not in found
    assert (found["HTTP_ROOM"], found["HTTP_PATH"]) == ("x", "/evil")


def test_only_listed_variables_of_our_own_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("WANTED", "ünd")
    monkeypatch.delenv("MISSING", raising=False)
    found = environment(passed=["WANTED", "MISSING", ""])
    assert found["WANTED"] == "ünd"
    assert "MISSING" not in found
    assert "s3cret" not in "".join(found.values())


def test_a_passed_variable_does_not_replace_what_describes_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REMOTE_ADDR", "of the parent")
    monkeypatch.setenv("QUERY_STRING", "of the parent")
    found = environment(passed=["REMOTE_ADDR", "QUERY_STRING"], target="/r")
    assert (found["REMOTE_ADDR"], found["QUERY_STRING"]) == (PEER[0], "")


def test_what_a_request_carries_is_not_recoded() -> None:
    """A header in UTF-8 reached the program twice encoded, `%ff` as U+FFFD (case 17)."""
    head = b"GET /a%C3%A9%ff%0a?q=%C3%A9&r=%FF HTTP/1.1\r\nHost: h\r\nX-A: \xc3\xa9 \xff"
    found = build_environment(client(parse_request(head), "a"), ())
    assert os.fsencode(found["HTTP_X_A"]) == b"\xc3\xa9 \xff"
    assert os.fsencode(found["PATH_INFO"]) == b"/a\xc3\xa9\xff\n"
    assert found["QUERY_STRING"] == "q=%C3%A9&r=%FF"
    assert found["REQUEST_URI"] == "/a%C3%A9%ff%0a?q=%C3%A9&r=%FF"


def test_a_program_reads_the_bytes_that_a_client_sent() -> None:
    """Likewise, through a real process."""
    script = """printf '%s|%s' "$HTTP_X_A" "$PATH_INFO" | od -An -v -tx1 | tr -d ' \\n'; exec cat"""
    value = "aé漢".encode()
    headers = {"X-A": value.decode("latin-1")}
    with serve("--binary", "sh", "--", "-c", script) as server:
        with RawClient.connect(server, path="/r%C3%A9", headers=headers) as client:
            found = b""
            wanted = (value + b"|/r\xc3\xa9").hex().encode()
            while len(found) < len(wanted):
                found += client.receive_binary()
            assert found == wanted


def test_a_star_stands_for_the_rest_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GAME_MAP", "GAME_MODE", "LC_MESSAGES", "ENDGAME_X"):
        monkeypatch.setenv(name, "1")
    found = environment(passed=["GAME_*", "LC_M*"])
    assert {"GAME_MAP", "GAME_MODE", "LC_MESSAGES"} <= found.keys()
    assert "ENDGAME_X" not in found


OWN = {"LANG": "de_DE.UTF-8", "LC_TIME": "C", "TZ": "Europe/Berlin", "HOME": "/h", "API_KEY": "s"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        ((), {"LANG", "LC_TIME", "TZ", "HOME"}, {"API_KEY", "SHELL"}),
        (("--passenv", "+API_*"), {"LANG", "LC_TIME", "TZ", "HOME", "API_KEY"}, {"SHELL"}),
        (("--passenv", "API_KEY"), {"API_KEY"}, {"LANG", "LC_TIME", "TZ", "HOME", "SHELL"}),
        (("--pty",), {"LANG", "HOME", "SHELL", "USER", "LOGNAME", "TERM"}, {"API_KEY"}),
    ],
)
def test_locale_time_zone_and_home_go_along_and_secrets_do_not(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], there: set[str], not_there: set[str]
) -> None:
    """Java and Perl printed `?`, as LANG was not passed on (case 16)."""
    script = "env | sort | tr '\\n' ' '; echo end; exec cat"
    own = {**OWN, "SHELL": "/bin/sh", "USER": "u", "LOGNAME": "u"}
    with serve(*options, "sh", "--", "-c", script, env=own) as server:
        with RawClient.connect(server) as client:
            text = ""
            while "end" not in text:
                text += client.receive_message()[1].decode()
    found = dict(item.partition("=")[::2] for item in text.split() if "=" in item)
    assert {name: own.get(name) for name in there - {"TERM"}} == {
        name: found.get(name) for name in there - {"TERM"}
    }
    assert "TERM" in found or "TERM" not in there
    assert not not_there & found.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no C.UTF-8")
@pytest.mark.parametrize("locale", [{"LANG": ""}, {"LANG": "C"}, {"LANG": "xx_XX.UTF-8"}])
def test_a_server_without_a_locale_gives_its_programs_utf_8(locale: dict[str, str]) -> None:
    """A container has no LANG, or one that is not installed; messages are UTF-8 all the same."""
    own = {"LC_ALL": "", "LC_CTYPE": "", **locale}
    with serve("sh", "--", "-c", "locale charmap; exec cat", env=own) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "UTF-8"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an environment is text")
def test_a_name_comes_in_utf_8_whatever_the_locale_of_the_server(tmp_path: Path) -> None:
    """One that the locale could not hold ended its room as by our own bug."""
    auth = tmp_path / "auth"
    auth.write_text("#!/bin/sh\nprintf 'user=J\\303\\266rg\\ncity=K\\303\\266ln\\n'\n")
    auth.chmod(0o755)
    own = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    show = 'echo "$ROOM $PATH_INFO $REMOTE_USER $REMOTE_USER_CITY"; exec cat'
    with (
        serve(f"--auth={auth}", "sh", "--", "-c", show, env=own) as server,
        RawClient.connect(server, "caf%C3%A9-%E6%97%A5") as client,
    ):
        assert client.receive_text() == "café-日 /café-日 Jörg Köln"


@settings(max_examples=100)
@given(
    st.text(st.characters(max_codepoint=255), max_size=20),
    st.text(st.characters(max_codepoint=255), max_size=20),
    st.text(max_size=10),
)
def test_every_environment_can_be_given_to_a_process(target: str, value: str, room: str) -> None:
    try:
        found = environment("Host: h", f"X-A: {value}", target=f"/{target}", room=room)
    except HandshakeError:
        return
    for name, text in found.items():
        assert name
        assert not set("=\0") & set(name)
        assert "\0" not in text
        os.fsencode(text)
        assert name.startswith("HTTP_") or name in {*CGI, "UNIQUE_ID"}
    assert not set("\r\n") & set(found.get("HTTP_X_A", ""))


def test_a_child_sees_just_that(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a real child; the parent's secret stays the parent's, what is listed arrives."""
    script = tmp_path_factory.mktemp("environment") / "show.py"
    show = "print(json.dumps(dict(os.environ)))"
    script.write_text(f"import json, os, sys\n{show}\nsys.stdin.read()\n")
    secrets = {"SECRET_TOKEN": "s3cret", "WANTED": "1"}
    arguments = ("--passenv", "PATH,WANTED", str(script))
    with serve(*arguments, env=secrets) as server:
        headers = {"X-Custom-Test": "é"}
        with RawClient.connect(server, headers=headers, path="/den%20?a=%20b;$(whoami)") as client:
            found = client.receive_json()
    assert isinstance(found, dict)
    assert found["WANTED"] == "1"
    assert "s3cret" not in str(found)
    assert found["QUERY_STRING"] == "a=%20b;$(whoami)"
    assert (found["ROOM"], found["PATH_INFO"]) == ("den ", "/den ")
    assert found["HTTP_X_CUSTOM_TEST"] == os.fsdecode(b"\xe9")
    assert found["REMOTE_ADDR"] == "127.0.0.1"
    if sys.platform == "linux":  # elsewhere the system adds variables of its own
        allowed = {*CGI, "UNIQUE_ID", "PATH", "WANTED", "LC_CTYPE"}  # Python sets LC_CTYPE
        allowed.add("PERL5OPT")  # of --linebuffer
        assert {name for name in found if not name.startswith("HTTP_")} <= allowed
