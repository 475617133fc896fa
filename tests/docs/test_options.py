"""The command line, a script's own options, and what TARGET means."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
import types
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import scalesocket.net.config as net_config
import scalesocket.net.idle_options as idle_options
import scalesocket.net.script_options as script_options
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import scalesocket
from scalesocket import Config, ConfigError, Game, parse_command_line
from tests.support import ROOT, run_cli


def parse(*arguments: str) -> Config:
    return parse_command_line(arguments)


def refusal(*arguments: str) -> str:
    """Return what an operator is told of options that cannot work."""
    with pytest.raises(ConfigError) as caught:
        parse_command_line(arguments)
    return str(caught.value)


# ==== Every option ========================================================

DEFAULTS: dict[str, object] = {
    "addr": (("0.0.0.0", 9000),),
    "staticdir": None,
    "api": False,
    "metrics": False,
    "ping": 20,
    "drain": 0,
    "rooms": (),
    "maxrooms": 1024,
    "maxclients": 0,
    "maxmsg": 1 << 20,
    "backlog": 4 << 20,
    "stall": 5,
    "linger": 0,
    "resume": 0,
    "oneshot": False,
    "cache": (0, False),
    "cachepersist": False,
    "cachebytes": 64 << 20,
    "binary": False,
    "delimiters": b"\n",
    "clientframe": "",
    "serverframe": "",
    "idfield": "",
    "joinmsg": "",
    "leavemsg": "",
    "dropmsg": "",
    "resumemsg": "",
    "passstderr": False,
    "tcp": False,
    "tcpports": (9001, 9999),
    "pty": False,
    "linebuffer": "auto",
    "delay": 0,
    "respawn": False,
    "closegrace": 0.1,
    "log": "text",
    "verbose": 0,
}


def test_the_defaults_are_as_documented() -> None:
    config = parse("cat")
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    libraries = {"DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH"}
    assert {"PATH", "LANG", "LANGUAGE", "LC_*", "TZ", "HOME", *libraries} == set(config.passenv)


EXAMPLES: list[tuple[list[str], dict[str, object]]] = [
    (["--addr", "127.0.0.1:80"], {"addr": (("127.0.0.1", 80),)}),
    (["--addr", "[::1]:80"], {"addr": (("::1", 80),)}),
    (["--addr=:80"], {"addr": (("0.0.0.0", 80),)}),
    (["--addr", "localhost:0"], {"addr": (("localhost", 0),)}),
    (["--addr=a:1", "--addr", "[::]:2"], {"addr": (("a", 1), ("::", 2))}),
    (["--tcplisten", "[::1]:9001"], {"tcplisten": (("::1", 9001),)}),
    (["--staticdir", str(ROOT / "client" / "web"), "--spa"], {"spa": "index.html"}),
    (
        ["--staticdir", str(ROOT / "client" / "web"), "--spa=chat/index.html"],
        {"spa": "chat/index.html"},
    ),
    (["--api"], {"api": True}),
    (["--qr"], {"qr": True}),
    (["--pcap", "a.pcapng", "--pcapsize=1M"], {"pcap": "a.pcapng", "pcapsize": 1 << 20}),
    (["--pcapfiles", "3", "--pcap=x", "--pcapsize=1M"], {"pcapfiles": 3, "pcapsize": 1 << 20}),
    (["--pcapfull", "drop", "--pcap=x"], {"pcapfull": "drop"}),
    (["--trace"], {"trace": ()}),
    (["--console=10.0.0.0/8"], {"console": (ip_network("10.0.0.0/8"),)}),
    (
        ["--console"],
        {"console": (ip_network("127.0.0.0/8"), ip_network("::1/128"), "unix")},
    ),
    (["--trace=lobby,text"], {"trace": ("lobby", "text")}),
    (["--api", "--peers", "a:1,https://b/c"], {"peers": ("a:1", "https://b/c")}),
    (["--metrics"], {"metrics": True}),
    (["--compress"], {"compress": True}),
    (["--origin", "a.example, https://b:8443"], {"origin": ("a.example", "https://b:8443")}),
    (["--sameorigin"], {"sameorigin": True}),
    (["--host", "Game.example,.play.example"], {"host": ("game.example", ".play.example")}),
    (["--origin", "any"], {"origin": ("any",)}),
    (
        ["--trustproxy", "10.1.2.3/8, ::1,unix"],
        {"trustproxy": (ip_network("10.0.0.0/8"), ip_network("::1/128"), "unix")},
    ),
    (["--auth", "true 'a b'"], {"auth": (shutil.which("true"), "a b")}),
    (["--subprotocol", "moo.v1,json"], {"subprotocol": ("moo.v1", "json")}),
    (["--header", "X-A: 1", "--header=X-B:2"], {"header": (("X-A", "1"), ("X-B", "2"))}),
    (["--header-ws", "X-A: 1", "--header-ws=X-B:2"], {"header_ws": (("X-A", "1"), ("X-B", "2"))}),
    (["--header-http", "X-A: 1"], {"header_http": (("X-A", "1"),)}),
    (["--basepath", "/ws"], {"basepath": "/ws"}),
    (["--basepath=/games/v1.0/"], {"basepath": "/games/v1.0"}),
    (["--basepath=/"], {"basepath": ""}),
    (["--unixmode", "0600"], {"unixmode": 0o600}),
    (["--maxconns", "7"], {"maxconns": 7}),
    (["--cors", "https://a.example,null"], {"cors": ("https://a.example", "null")}),
    (["--auth", "true", "--authall"], {"authall": True}),
    (["--maxperaddr", "5"], {"maxperaddr": 5}),
    (["--maxrate", "50"], {"maxrate": 50}),
    (["--ping", "0"], {"ping": 0}),
    (["--ping=2.5"], {"ping": 2.5}),
    (["--drain", "30"], {"drain": 30}),
    (["--workers", "4"], {"workers": 4}),
    (["--reload"], {"reload": True}),
    (["--rooms", "a,b c, d ,"], {"rooms": ("a", "b c", "d")}),
    (["--maxrooms", "3"], {"maxrooms": 3}),
    (["--maxforks", "3"], {"maxrooms": 3}),
    (["--maxclients", "3"], {"maxclients": 3}),
    (["--maxmsg", "100"], {"maxmsg": 100}),
    (["--maxmsg", "64K"], {"maxmsg": 65536}),
    (["--maxmsg", "2m"], {"maxmsg": 2 << 20}),
    (["--backlog", "1G"], {"backlog": 1 << 30}),
    (["--stall", "0"], {"stall": 0}),
    (["--linger", "30"], {"linger": 30}),
    (["--resume", "30"], {"resume": 30}),
    (["--store", "play.sqlite", "--saveevery=.5"], {"store": "play.sqlite", "saveevery": 0.5}),
    (
        ["--json", "--resume=1", "--dropmsg=a", "--resumemsg=b"],
        {"dropmsg": "a", "resumemsg": "b", "resume": 1},
    ),
    (["--oneshot"], {"oneshot": True}),
    (["--cache", "8"], {"cache": (8, False)}),
    (["--cache", "all:64"], {"cache": (64, False)}),
    (["--cache", "tagged:1", "--json"], {"cache": (1, True)}),
    (["--cache=1000", "--cachepersist"], {"cache": (1000, False), "cachepersist": True}),
    (["--cache=8", "--cachebytes", "4K"], {"cache": (8, False), "cachebytes": 4096}),
    (["-b"], {"binary": True}),
    (["--binary"], {"binary": True}),
    (["--delimiters=;"], {"delimiters": b";"}),
    (["--delimiters", ";,\t"], {"delimiters": b";,\t"}),
    (["--delimiters=;;"], {"delimiters": b";"}),
    (["--frame"], {"clientframe": "json", "serverframe": "json"}),
    (["--frame=json"], {"clientframe": "json", "serverframe": "json"}),
    (["--frame=gwsocket"], {"clientframe": "gwsocket", "serverframe": "gwsocket"}),
    (["--clientframe=json"], {"clientframe": "json", "serverframe": ""}),
    (["--serverframe=gwsocket"], {"clientframe": "", "serverframe": "gwsocket"}),
    (["--frame", "--serverframe=gwsocket"], {"clientframe": "json", "serverframe": "gwsocket"}),
    (["--joinmsg", "#ID came", "--leavemsg=-"], {"joinmsg": "#ID came", "leavemsg": "-"}),
    (["--joinmsg="], {"joinmsg": ""}),
    (["--json", "--idfield", "who"], {"idfield": "who"}),
    (["--json", "--clientroute"], {"clientroute": True}),
    (["--frame=gwsocket", "--byteorder", "little"], {"byteorder": "little"}),
    (["--leavemsg=-#ID", "--multiline"], {"multiline": True}),
    (["--passenv", "A,B"], {"passenv": ("A", "B")}),
    (["--passenv="], {"passenv": ()}),
    (["--passenv=+A, LC_*"], {"passenv": (*scalesocket.PASSED, "A", "LC_*")}),
    (["--passenv=+"], {"passenv": scalesocket.PASSED}),
    (["--passstderr"], {"passstderr": True}),
    (["--tcp"], {"tcp": True, "delay": 1}),
    (["--tcp", "--delay", "0"], {"tcp": True, "delay": 0}),
    (["--tcp", "--tcpports", "5000:5000"], {"tcpports": (5000, 5000)}),
    (["--delay", ".5"], {"delay": 0.5, "tcp": False}),
    (["--pty"], {"pty": True, "binary": True}),
    (["--linebuffer", "off"], {"linebuffer": "off"}),
    (["--linebuffer=on"], {"linebuffer": "on"}),
    (["--respawn"], {"respawn": True}),
    (["--closegrace", "0"], {"closegrace": 0}),
    (["--log", "json"], {"log": "json"}),
    (["-v"], {"verbose": 1}),
    (["-vv"], {"verbose": 2}),
    (["--verbose", "-v", "-v"], {"verbose": 3}),
]


@pytest.mark.parametrize(("arguments", "expected"), EXAMPLES, ids=lambda item: str(item)[:40])
def test_an_option_means_what_it_says_before_and_behind_the_target(
    arguments: list[str], expected: dict[str, object]
) -> None:
    for config in (parse(*arguments, "cat"), parse("cat", *arguments)):
        assert {name: getattr(config, name) for name in expected} == expected
        assert len(config.command) == 1


def test_no_option_is_left_without_an_example() -> None:
    used = {word.partition("=")[0] for arguments, _ in EXAMPLES for word in arguments}
    known = {
        name for rows in scalesocket.list_options().values() for row in rows for name in [row[0]]
    }
    elsewhere = {"-h --help", "-V --version", "--staticdir", "--null", "--json", "--unixsocket"}
    elsewhere |= {"--print-config", "--qr", "--sslcert", "--sslkey", "--sslca"}
    untested = [
        names for names in known if not used & set(names.split()) and names not in elsewhere
    ]
    assert untested == []


def test_the_table_names_all_options_of_each_module() -> None:
    """One that it misspells would not exist, and be told as the cure of itself."""
    named: dict[str, set[str]] = {}
    for rows in net_config.PLACES.values():
        for row in rows:
            named.setdefault(row.module, set()).update(row.names.split())
    for path in (ROOT / "net").glob("*.py"):
        module = scalesocket.find_feature(path.stem)
        if path.stem != "spelling":  # which looks at those of scalesocket.py
            options = {name for row in getattr(module, "OPTIONS", ()) for name in row[0].split()}
            assert named.get(path.stem, set()) == options, path.name


def test_each_place_in_the_table_is_one_that_help_has() -> None:
    """What stands behind an option that has been renamed would be in no --help."""
    own = {row[0] for rows in scalesocket.OPTIONS.values() for row in rows}
    assert set(net_config.PLACES) - own - set(scalesocket.OPTIONS) == set()


def test_each_option_has_a_default_by_its_name() -> None:
    fields = {*Config.__annotations__, *net_config.NetConfig.__annotations__}
    shorthands = {"null", "frame", "json", "print_config", "help", "version"}
    rows = [row for rows in scalesocket.list_options().values() for row in rows]
    names = {row[0].split()[0 if row[0].startswith("--") else -1] for row in rows}
    assert {name[2:].replace("-", "_") for name in names} - fields == shorthands


def test_a_file_in_a_scripts_own_options_is_relative_to_it() -> None:
    rows = [row for rows in scalesocket.list_options().values() for row in rows]
    files = {row[0][2:] for row in rows if row[2] in (Path, scalesocket.parse_folder)}
    assert files <= script_options._PATH_OPTIONS


REFERENCE = """--addr --binary --cache --cachepersist --delay --delimiters --null --joinmsg
    --leavemsg --json --frame --clientframe --serverframe --log --metrics --api --oneshot --passenv
    --rooms --maxrooms --maxforks --staticdir --tcp --tcpports --help --version -b -v -h -V"""


def test_the_original_scalesocket_has_no_option_that_is_missing_here() -> None:
    known = {
        n for rows in scalesocket.list_options().values() for row in rows for n in row[0].split()
    }
    assert set(REFERENCE.split()) <= known


def test_a_folder_of_files_must_be_there(tmp_path: Path) -> None:
    assert parse("--staticdir", str(tmp_path), "cat").staticdir == tmp_path
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "missing", ""):  # as of a variable that is not set
        assert str(bad) in refusal("--staticdir", str(bad), "cat")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--addr", ["9000", "a", "a:", "a:b", "a:65536", "a:-1", "::1:80", "[::1]", "[x]:1", ""]),
        ("--ping", ["", "x", "-1", "1s", "1e3", "inf", "nan", "1,5", "1 2", ".", "9" * 20]),
        ("--stall", ["-5"]),
        ("--maxmsg", ["", "x", "-1", "1T", "1KB", "K", "1.5M", "0x10", "9" * 20]),
        ("--maxrooms", ["", "x", "-1", "1.5", "1K", "9" * 20]),
        ("--cachebytes", ["", "0", "4095", "x", "-1"]),
        ("--cache", ["", "0", "-1", "x", "some:8", "tagged:", "tagged:0", ":8", "8:all", "1.5"]),
        ("--delimiters", ["", "é", "🦊"]),
        ("--tcpports", ["", "1", "1:", ":1", "2:1", "0:5", "1:65536", "a:b", "1:2:3", "1-2"]),
        ("--frame", ["xml", "", "JSON"]),
        ("--clientframe", ["xml"]),
        ("--log", ["xml", ""]),
        ("--idfield", ["é", 'a"b', "a b", "1a", "\udcff"]),
        ("--joinmsg", ["\udcff"]),
        ("--leavemsg", ["a\udcffb"]),
    ],
)
def test_a_bad_value_is_named(option: str, values: Sequence[str]) -> None:
    for value in values:
        text = refusal(f"{option}={value}", "cat")
        assert option in text
        assert repr(value) in text or value in text or ascii(value) in text


def test_an_empty_id_field_is_none_or_refused() -> None:
    try:
        assert parse("--idfield=", "cat").idfield == ""
    except ConfigError as error:
        assert "--idfield" in str(error)


@pytest.mark.parametrize("word", ["--nonsense", "--js", "--maxroom=3", "-x", "--no-api"])
def test_an_unknown_or_shortened_option_is_named(word: str) -> None:
    assert word.partition("=")[0] in refusal(word, "cat")
    assert word.partition("=")[0] in refusal("cat", word)


def test_an_option_without_its_value_is_named() -> None:
    assert "--cache" in refusal("cat", "--cache")
    assert "--joinmsg" in refusal("--joinmsg", "--api", "cat")
    assert "--api" in refusal("--api=yes", "cat")


def test_a_second_target_is_refused() -> None:
    assert "second" in refusal("cat", "second")


def test_a_target_is_wanted() -> None:
    assert "TARGET" in refusal()
    assert "TARGET" in refusal("--api")
    assert "TARGET" in refusal("--")


# ==== Arguments of the target =============================================


@pytest.mark.parametrize(
    ("words", "arguments", "api"),
    [
        (["cat", "--", "-u"], ("-u",), False),
        (["cat", "--api", "--", "--api", "--", "x"], ("--api", "--", "x"), True),
        (["--api", "cat", "--"], (), True),
        (["--", "cat", "-u", "--frame"], ("-u", "--frame"), False),
        (["--api", "--", "cat", "-u"], ("-u",), True),
        (["cat", "--", ""], ("",), False),
    ],
)
def test_what_follows_two_dashes_is_the_targets(
    words: list[str], arguments: tuple[str, ...], api: bool
) -> None:
    config = parse(*words)
    assert os.path.basename(config.command[0]) == "cat"
    assert config.command[1:] == arguments
    assert config.api is api
    assert config.clientframe == ""


def test_a_bare_frame_takes_no_word_after_it() -> None:
    for words in (["--frame", "cat"], ["cat", "--frame"], ["--frame", "--api", "cat"]):
        assert parse(*words).serverframe == "json"
    assert "gwsocket" in refusal("--frame", "gwsocket")  # taken for TARGET


# ==== Shorthands ==========================================================


def test_json_is_a_shorthand() -> None:
    config = parse("--json", "cat")
    assert (config.clientframe, config.serverframe, config.idfield) == ("json", "json", "")
    assert config.joinmsg == '{"t":"Join","_from":#ID}'
    assert config.leavemsg == '{"t":"Leave","_from":#ID}'


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_said_in_full_goes_before_the_shorthand(order: int) -> None:
    words = ["--json", "--joinmsg=x", "--frame=gwsocket"][::order]
    config = parse(*words, "cat")
    assert (config.joinmsg, config.leavemsg) == ("x", '{"t":"Leave","_from":#ID}')
    assert (config.clientframe, config.serverframe) == ("gwsocket", "gwsocket")
    assert parse("--json", "--leavemsg=", "cat").leavemsg == ""


def test_null_is_added_to_the_delimiters() -> None:
    assert b"\0" in parse("--null", "cat").delimiters
    assert set(parse("--null", "--delimiters=;", "cat").delimiters) == set(b";\0")
    assert set(parse("--delimiters=;,", "--null", "cat").delimiters) == set(b";,\0")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--joinmsg", '{"t":"Join","id":#ID}'], "id"),
        (["--joinmsg", '{ "id" : #ID }'], "id"),
        (["--joinmsg", '{"id":"#ID"}'], "id"),
        (["--json", "--joinmsg", '{"id":#ID}'], "id"),
        (["--joinmsg", '{"t":"Join","_from":#ID}'], ""),
        (["--joinmsg", '{"userid":#ID}'], ""),
        (["--joinmsg", '{"id":"#IDX"}'], ""),
        (["--joinmsg", '{"id":1,"x":#ID}'], ""),
        (["--leavemsg", '{"id":#ID}'], ""),
        (["--joinmsg", '{"id":#ID}', "--idfield", "who"], "who"),
        (["--json"], ""),
    ],
)
def test_the_id_field_follows_the_join_message(words: list[str], field: str) -> None:
    assert parse("--frame", *words, "cat").idfield == field


@pytest.mark.parametrize(
    "words",
    [
        ["--pty", "--tcp"],
        ["--pty", "--json"],
        ["--pty", "--frame=gwsocket"],
        ["--binary", "--json"],
        ["--binary", "--clientframe=json"],
        ["--binary", "--passstderr"],
        ["--pty", "--passstderr"],
        ["--passstderr", "--serverframe=gwsocket"],
        ["--linebuffer=on", "--binary"],
        ["--linebuffer=on", "--pty"],
        ["--linebuffer=on", "--tcp"],
        ["--cache=tagged:8"],
        ["--resume=1", "--dropmsg=x"],
        ["--resumemsg=x", "--json"],
        ["--resume=1", "--oneshot"],
        ["--store=x", "--oneshot"],
        ["--pcapfiles=3", "--pcap=x"],
        ["--store="],
        ["--store=mysql://localhost"],
        ["--saveevery=1"],
        ["--clientroute"],
        ["--clientroute", "--serverframe=json"],
        ["--byteorder=little", "--json"],
        ["--multiline"],
        ["--multiline", "--json"],
        ["--multiline", "--joinmsg=x", "--clientframe=gwsocket"],
        ["--idfield=who"],
        ["--idfield=who", "--joinmsg=x", "--frame=gwsocket"],
    ],
)
def test_options_that_contradict_each_other_are_named(words: list[str]) -> None:
    text = refusal(*words, "cat")
    assert words[0].partition("=")[0] in text


@pytest.mark.parametrize("raw", ["--binary", "--pty"])
def test_what_is_in_the_way_of_lines_is_named(raw: str) -> None:
    """It was told to need a join message, which it had, and no framing, of which it had none."""
    text = refusal("--multiline", "--joinmsg=x", raw, "cat")
    assert text == f"{raw} and --multiline exclude each other"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--null", "--binary"], "--delimiters and --null mean nothing with --binary"),
        (["--delimiters=;", "--pty"], "--delimiters and --null mean nothing with --pty"),
        (["--null", "--frame=gwsocket"], "--delimiters and --null mean nothing with gwsocket"),
        (["--tcpports=5000:5001"], "--tcpports means nothing without --tcp"),
        (["--null", "--clientframe=gwsocket"], ""),
        (["--tcp", "--tcpports=5000:5001"], ""),
        (["--binary"], ""),
    ],
)
def test_what_means_nothing_is_told_though_it_is_taken(
    words: list[str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """ScaleSocket takes these pairs; here they were taken without a word."""
    idle_options.warn_of_options(parse(*words, "cat"), [*words, "cat"])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(told) and "".join(said).startswith(told)


# ==== A script's own options ==============================================


def write_script(path: Path, *lines: str, code: str = "print(1)\n") -> str:
    """Write a Python script with these lines of TOML in its inline metadata."""
    block = "".join(f"# {line}\n" if line else "#\n" for line in lines)
    path.write_text(f"#!/usr/bin/env python3\n# /// script\n{block}# ///\n\n{code}")
    return str(path)


def own(path: Path, *lines: str) -> Config:
    """Return what a script with these lines in its table amounts to."""
    return parse(write_script(path / "own.py", "[tool.scalesocket]", *lines))


def test_a_script_carries_its_own_options(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    config = own(
        tmp_path,
        "json = true",
        "api = false",
        'staticdir = "web"',
        'addr = ["127.0.0.1:1", "[::1]:2"]',
        'rooms = ["a", "b"]',
        "cache = 8",
        "ping = 2.5",
        "maxclients = 4",
        'maxmsg = "64K"',
        "backlog = 1000",
        'leavemsg = \'{"gone": "#ID and all"}\'',
        'tcpports = "5000:5001"',
        "",
        'passenv = "HOME"',
    )
    assert config.staticdir is not None
    assert config.staticdir.resolve() == (tmp_path / "web").resolve()
    expected = {
        "serverframe": "json",
        "api": False,
        "addr": (("127.0.0.1", 1), ("::1", 2)),
        "rooms": ("a", "b"),
        "cache": (8, False),
        "ping": 2.5,
        "maxclients": 4,
        "maxmsg": 65536,
        "backlog": 1000,
        "joinmsg": '{"t":"Join","_from":#ID}',
        "leavemsg": '{"gone": "#ID and all"}',
        "tcpports": (5000, 5001),
        "passenv": ("HOME",),
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.command == (sys.executable, "-u", str(tmp_path / "own.py"))


def test_a_file_that_rooms_are_saved_in_is_beside_the_script(tmp_path: Path) -> None:
    """It was where the server had been started, and so all was new when that was elsewhere."""
    assert own(tmp_path, 'store = "rooms.db"').store == str(tmp_path / "rooms.db")
    assert own(tmp_path, 'store = "redis://host/0"').store == "redis://host/0"
    assert "no file" in refusal(write_script(tmp_path / "s.py", "[tool.scalesocket]", 'store = ""'))
    script = write_script(tmp_path / "t.py", "[tool.scalesocket]", 'store = "rooms.db"')
    assert parse("--store=own.db", script).store == "own.db"


def test_the_command_line_wins_over_the_script(tmp_path: Path) -> None:
    script = write_script(
        tmp_path / "s.py",
        "[tool.scalesocket]",
        "json = true",
        "joinmsg = 'own'",
        "ping = 3",
        'addr = ["a:1", "b:2"]',
    )
    config = parse("--joinmsg=given", "--addr=c:3", script)
    assert (config.joinmsg, config.ping, config.addr) == ("given", 3, (("c", 3),))
    assert config.clientframe == "json"
    assert parse(script, "--frame=gwsocket").serverframe == "gwsocket"


def test_a_bare_frame_works_in_a_script(tmp_path: Path) -> None:
    assert own(tmp_path, "frame = true").serverframe == "json"
    assert own(tmp_path, "frame = false").serverframe == ""
    assert own(tmp_path, 'frame = "gwsocket"').serverframe == "gwsocket"


def test_the_block_may_hold_what_is_for_other_tools(tmp_path: Path) -> None:
    lines = ['requires-python = ">=3.11"', 'dependencies = ["x"]', "[tool.other]", "a = 1"]
    script = write_script(tmp_path / "s.py", *lines, "[tool.scalesocket]", "api = true")
    assert parse(script).api
    assert not parse(write_script(tmp_path / "t.py", *lines)).api


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print(1)\n",
        "# /// script\n# [tool.scalesocket]\n# api = true\nprint(1)\n",
        "# /// other\n# [tool.scalesocket]\n# api = true\n# ///\n",
        "#/// script\n#[tool.scalesocket]\n#api = true\n#///\n",
        'x = """\n  # /// script\n  # [tool.scalesocket]\n  # api = true\n  # ///\n"""\n',
        "# -*- coding: latin-1 -*-\nprint('\xe9')\n",
    ],
)
def test_a_script_without_a_block_has_no_options(tmp_path: Path, text: str) -> None:
    script = tmp_path / "plain.py"
    script.write_bytes(text.encode("latin-1"))
    config = parse(str(script))
    assert not config.api


def test_a_block_may_have_the_line_ends_of_windows(tmp_path: Path) -> None:
    script = tmp_path / "dos.py"
    write_script(script, "[tool.scalesocket]", "api = true")
    script.write_bytes(script.read_bytes().replace(b"\n", b"\r\n"))
    assert parse(str(script)).api


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["[tool.scalesocket"], "s.py"),
        (["x = [[[["], "s.py"),
        (["x = " + "[" * 3000], "s.py"),
        (["[tool.scalesocket]", "api = true", "api = true"], "s.py"),
        (["tool = 5"], "s.py"),
        (["[tool]", "scalesocket = 5"], "s.py"),
        (["[tool]", 'scalesocket = "text"'], "s.py"),
        (["[tool]", 'scalesocket = [["api", true]]'], "s.py"),
        (["[[tool.scalesocket]]", "api = true"], "s.py"),
        (["[tool.scalesocket]", "bogus = true"], "bogus"),
        (["[tool.scalesocket]", "bogus = false"], "bogus"),
        (["[tool.scalesocket]", "bogus = 1"], "bogus"),
        (["[tool.scalesocket]", 'joinmesg = "two words"'], "joinmesg"),
        (["[tool.scalesocket]", "bogus = [1]"], "bogus"),
        (["[tool.scalesocket]", "help = true"], "help"),
        (["[tool.scalesocket]", "version = true"], "version"),
        (["[tool.scalesocket]", 'target = "cat"'], "target"),
        (["[tool.scalesocket]", "verb = true"], "verb"),
        (["[tool.scalesocket]", '"" = true'], "s.py"),
        (["[tool.scalesocket]", '"addr=:1" = true'], "addr=:1"),
        (["[tool.scalesocket]", '"a b" = 1'], "a b"),
        (["[tool.scalesocket]", "b = true"], "b"),
        (["[tool.scalesocket]", 'api = "yes"'], "api"),
        (["[tool.scalesocket]", "api = 1"], "api"),
        (["[tool.scalesocket]", "api = []"], "api"),
        (["[tool.scalesocket]", "joinmsg = true"], "joinmsg"),
        (["[tool.scalesocket]", "joinmsg = false"], "joinmsg"),
        (["[tool.scalesocket]", "joinmsg = {a = 1}"], "joinmsg"),
        (["[tool.scalesocket]", "rooms = [{a = 1}]"], "rooms"),
        (["[tool.scalesocket]", "rooms = [true]"], "rooms"),
        (["[tool.scalesocket]", "ping = -1"], "ping"),
        (["[tool.scalesocket]", "ping = inf"], "ping"),
        (["[tool.scalesocket]", "ping = 2020-01-01"], "ping"),
        (["[tool.scalesocket]", "ping = true"], "ping"),
        (["[tool.scalesocket]", "maxrooms = 1.5"], "maxrooms"),
        (["[tool.scalesocket]", 'addr = "nowhere"'], "nowhere"),
        (["[tool.scalesocket]", 'addr = ["a:1", "nowhere"]'], "nowhere"),
        (["[tool.scalesocket]", 'staticdir = "missing"'], "missing"),
        (["[tool.scalesocket]", "staticdir = true"], "staticdir"),
        (["[tool.scalesocket]", 'staticdir = "a\\u0000b"'], "staticdir"),
        (["[tool.scalesocket]", 'log = "xml"'], "xml"),
        (["[tool.scalesocket]", "game = 5"], "game"),
        (["[tool.scalesocket]", "game = true"], "game"),
        (["[tool.scalesocket]", 'game = "Missing"'], "Missing"),
        (["[tool.scalesocket]", "binary = true", "json = true"], "--binary"),
    ],
    ids=lambda item: "; ".join(item)[-50:] if isinstance(item, list) else item,
)
def test_a_block_that_cannot_work_is_refused(tmp_path: Path, lines: list[str], named: str) -> None:
    text = refusal(write_script(tmp_path / "s.py", *lines))
    assert named in text


def test_two_blocks_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    write_script(script, "[tool.scalesocket]", "api = true")
    script.write_text(script.read_text() + "# /// script\n# dependencies = []\n# ///\n")
    assert "two.py" in refusal(str(script))


def test_an_error_of_a_script_names_the_script(tmp_path: Path) -> None:
    for lines in (["ping = -1"], ["bogus = 1"], ["joinmsg = {}"]):
        script = write_script(tmp_path / "faulty.py", "[tool.scalesocket]", *lines)
        assert "faulty.py" in refusal(script)


toml_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(10**6), 10**12),
        st.floats(),
        st.text(max_size=8).map(json.dumps),
        st.sampled_from(['"json"', '"64K"', '"a:1"', '"8"', '"#ID"', '"."', "1979-05-27"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(map(str, items))}]"),
        inner.map(lambda item: f"{{a = {item}}}"),
    ),
    max_leaves=3,
).map(lambda value: str(value).lower() if isinstance(value, bool | float) else str(value))
option_names = [
    name.removeprefix("--")
    for rows in scalesocket.list_options().values()
    for row in rows
    for name in row[0].split()
]
toml_keys = st.one_of(
    st.sampled_from([name for name in option_names if not name.startswith("-")]),
    st.sampled_from(["game", "target", "command", '""', '"-h"', '"a b"', "no-api", "cache_size"]),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(toml_keys, toml_values), max_size=3), st.text(max_size=6))
@example([("help", "true")], "")
def test_any_block_gives_options_or_a_config_error(
    tmp_path: Path, entries: list[tuple[str, str]], junk: str
) -> None:
    lines = [f"{key} = {value}" for key, value in entries]
    script = tmp_path / "any.py"
    block = "".join(f"# {line}\n" for line in [*lines, *junk.splitlines()])
    text = f"# /// script\n# [tool.scalesocket]\n{block}# ///\n"
    script.write_text(text, encoding="utf-8", newline="")
    try:
        config = parse(str(script))
    except ConfigError as error:
        assert str(error)
    else:
        assert isinstance(config, Config)


option_values = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["json", "1", "1K", "a:1", "[::1]:80", "1:2", "tagged:8", "٣", "²", "--", "-"]),
)


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.sampled_from([f"--{name}" for name in option_names]), option_values),
        min_size=1,
        max_size=3,
    ).filter(lambda pairs: not {"--help", "--version", "---h", "---V"} & {p[0] for p in pairs})
)
def test_any_values_give_options_or_a_config_error(pairs: list[tuple[str, str]]) -> None:
    words = [f"{name}={value}" for name, value in pairs]
    try:
        parse(*words, "cat")
    except ConfigError as error:
        assert str(error)


# ==== What TARGET means ===================================================


def executable(path: Path, text: str = "#!/bin/sh\nexec cat\n") -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own; what a test imports from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_a_python_file_runs_with_this_interpreter_unbuffered(here: Path) -> None:
    (here / "game1.py").write_text("print(1)\n")
    assert parse("game1.py", "--", "a").command == (sys.executable, "-u", "game1.py", "a")
    assert not os.access(here / "game1.py", os.X_OK)


def test_a_file_goes_before_an_example_and_a_command(here: Path) -> None:
    (here / "game.py").write_text("print('mine')\n")
    executable(here / "cat")
    assert parse("game.py").command == (sys.executable, "-u", "game.py")
    assert not parse("game.py").api
    assert parse("cat").command == (os.path.join(".", "cat"),)


def test_an_example_is_found_from_any_directory(here: Path) -> None:
    config = parse("game.py")
    assert config.command == (sys.executable, "-u", str(ROOT / "game" / "game.py"))
    assert parse("game").command == config.command
    assert config.staticdir is not None
    assert (config.staticdir / "index.html").is_file()


@pytest.mark.parametrize("target", ["__init__", "__init__.py", "..", ".", "../scalesocket"])
def test_what_is_no_example_is_not_taken_for_one(here: Path, target: str) -> None:
    assert repr(target) in refusal(target)


def test_a_command_is_found_on_the_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "bin"
    folder.mkdir()
    executable(folder / "mytool")
    monkeypatch.setenv("PATH", str(folder))
    assert parse("mytool", "--", "-x").command == (str(folder / "mytool"), "-x")
    assert "cat" in refusal("cat")


def test_a_path_to_a_program_is_run_as_it_stands(here: Path) -> None:
    tool = executable(here / "tool")
    assert parse(str(tool)).command == (str(tool),)
    assert parse("./tool").command[0] in ("./tool", os.path.join(".", "tool"))
    (here / "sub").mkdir()
    executable(here / "sub" / "tool")
    assert Path(parse("sub/tool").command[0]) == Path("sub/tool")


@pytest.mark.skipif(os.name != "posix", reason="there is no executable bit")
def test_a_file_that_is_not_executable_is_told_its_cure(here: Path) -> None:
    (here / "notes.txt").write_text("hello")
    text = refusal("./notes.txt")
    assert "notes.txt" in text
    assert "chmod +x" in text


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="nobody tells how a disk is mounted")
def test_where_nothing_can_be_executed_chmod_is_no_cure(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executable script on a disk that is mounted noexec was told to be made executable."""
    executable(here / "tool")
    mounted = types.SimpleNamespace(f_flag=os.ST_NOEXEC)
    monkeypatch.setattr(os, "statvfs", lambda path: mounted)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    text = refusal("./tool")
    assert "noexec" in text and "sh -- ./tool" in text and "chmod" not in text


@pytest.mark.skipif(os.name != "posix", reason="there is no executable bit")
def test_what_only_others_may_execute_is_told_with_its_mode(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(here / "tool")
    (here / "tool").chmod(0o740)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert refusal("./tool").endswith("not executable for this user: its mode is -rwxr-----")


def test_a_target_that_is_nowhere_is_named(here: Path) -> None:
    for target in ("no-such-program", "no/such/file.py", "", "a\nb", "x" * 5000):
        assert repr(target) in refusal(target) or target[:50] in refusal(target)


def test_a_folder_is_no_target(here: Path) -> None:
    (here / "folder.py").mkdir()
    assert "folder.py" in refusal("folder.py")
    assert "folder.py" in refusal("./folder.py")


GAME_CODE = "import scalesocket\nclass Mine(scalesocket.Game):\n    pass\nOther = 5\n"


def test_a_module_and_a_class_are_a_game_in_this_process(here: Path) -> None:
    (here / "rules1.py").write_text(GAME_CODE)
    config = parse("rules1:Mine", "--api")
    assert config.game is not None
    assert issubclass(config.game, Game)
    assert (config.game.__name__, config.command, config.api) == ("Mine", (), True)


def test_a_script_may_name_its_game(here: Path) -> None:
    table = ["[tool.scalesocket]", 'game = "Mine"', "ping = 7"]
    script = write_script(here / "rules2.py", *table, code=GAME_CODE)
    config = parse(script)
    assert config.game is not None
    assert (config.game.__name__, config.ping, config.command) == ("Mine", 7, ())


@pytest.mark.parametrize(
    "target", ["rules3:Other", "rules3:Missing", "nowhere3:Mine", ".rules3:Mine", "..:x", "a..b:C"]
)
def test_a_class_that_is_no_game_is_named(here: Path, target: str) -> None:
    (here / "rules3.py").write_text(GAME_CODE)
    module, _, name = target.partition(":")
    text = refusal(target)
    assert module in text or name in text


@pytest.mark.parametrize(
    "code", ["class Broken(\n", "1 / 0\n", "import no_such_module_anywhere\n", "raise ValueError\n"]
)
def test_a_game_that_cannot_be_imported_is_one_clear_line(here: Path, code: str) -> None:
    (here / "rules4.py").write_text(code)
    assert "rules4" in refusal("rules4:Mine")
    script = write_script(here / "rules5.py", "[tool.scalesocket]", 'game = "Mine"', code=code)
    assert "rules5" in refusal(script)


# ==== The program itself ==================================================


@pytest.mark.slow
def test_help_names_every_option() -> None:
    done = run_cli("-h")
    assert (done.returncode, done.stderr) == (0, "")
    words = set(re.findall(r"(?<![\w-])--?[A-Za-z][A-Za-z-]*", done.stdout))
    for rows in scalesocket.list_options().values():
        for row in rows:
            assert set(row[0].split()) <= words
            assert row[1] in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    for title in scalesocket.OPTIONS:
        assert f"\n{title}:\n" in done.stdout


def test_the_version_is_shown() -> None:
    done = run_cli("-V")
    assert (done.returncode, done.stderr) == (0, "")
    assert scalesocket.__version__ in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--nonsense", "cat"],
        ["--ping=x", "cat"],
        ["--two\nlines", "cat"],
        ["--joinmsg=\udcff", "cat"],
        ["no-such-program"],
        [".x:Y"],
        [],
    ],
    ids=ascii,
)
def test_bad_options_are_one_line_and_status_2(words: list[str]) -> None:
    done = run_cli(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_faulty_script_is_one_line_and_status_2(tmp_path: Path) -> None:
    script = write_script(tmp_path / "s.py", "[tool.scalesocket]", "help = true")
    done = run_cli(script)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "s.py" in done.stderr


words = st.text(max_size=5).filter(lambda text: text != "help").map(lambda text: f"--{text}")
lines_of_words = st.lists(words, max_size=3)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines_of_words)
@example(["--bo\ngus", "--\x85", "--\u2028"])
def test_whatever_is_wrong_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    exit_status: Any = scalesocket.main([*words, "--nonsense", "cat"])
    captured = capsys.readouterr()
    assert (exit_status, captured.out) == (2, "")
    assert len(captured.err.splitlines()) == 1
