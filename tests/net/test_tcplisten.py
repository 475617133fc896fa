"""--tcplisten: a line of text in, a line out, for clients that know no WebSocket."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.net import lines
from scalesocket.net.lines import (
    LINES,
    TCP_RTO_MAX_MS,
    LineConnection,
    LineProtocol,
    LineSession,
    is_gone,
    is_unanswered,
    keep_alive,
)
from scalesocket.net.pings import check_peer

from scalesocket import MAX_ROOM_NAME, Closing, Event, HandshakeError, Messages, Want
from tests.net.test_proxies_real import make_machines
from tests.support import (
    PATIENCE,
    RawClient,
    ServerProcess,
    http_request,
    open_socket,
    require_tool,
    run_cli,
    serve,
    wait_until,
    with_constants,
)


def line_port(server: ServerProcess) -> int:
    found = server.wait_log(r"lines of text at \S+ on port (\d+)")
    return int(found[1])


class LineClient:
    """What a beginner writes: a socket, `sendall`, and reading up to the next newline."""

    def __init__(self, server: ServerProcess, room: str | bytes = "room", end: str = "\n") -> None:
        self.sock = socket.create_connection(("127.0.0.1", line_port(server)), timeout=PATIENCE)
        self.file = self.sock.makefile("rb")
        self.send(room + end.encode() if isinstance(room, bytes) else room + end)

    def __enter__(self) -> LineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, text: str | bytes) -> None:
        self.sock.sendall(text if isinstance(text, bytes) else text.encode())

    def line(self) -> str:
        """Return the next line; it is empty at the end."""
        return self.file.readline().decode()


@pytest.fixture
def echo() -> Iterator[ServerProcess]:
    with serve("--tcplisten", "127.0.0.1:0", "--api", "cat") as server:
        yield server


# ==== Bytes ================================================================


def take(protocol: LineProtocol, data: bytes) -> tuple[list[bytes], Closing | None]:
    """Return the lines and the closing that bytes amount to."""
    return sort(protocol.receive(data))


def sort(events: list[Event]) -> tuple[list[bytes], Closing | None]:
    lines = [p for event in events if isinstance(event, Messages) for p in event.payloads]
    closing = [event for event in events if isinstance(event, Closing)]
    assert len(closing) <= 1 and events[-1:] == (closing or events[-1:])
    return lines, closing[0] if closing else None


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"))), st.data())
def test_lines_are_the_same_however_they_are_cut(texts: list[str], data: st.DataObject) -> None:
    wire = "".join(f"{text}\n" for text in texts).encode()
    whole, _ = take(LineProtocol(max_message=10_000), wire)
    protocol, found, position = LineProtocol(max_message=10_000), [], 0
    while position < len(wire):
        size = data.draw(st.integers(1, len(wire) - position))
        lines, closing = take(protocol, wire[position : position + size])
        assert closing is None
        found += lines
        position += size
    assert found == whole == [text.encode() for text in texts]


def test_a_carriage_return_before_the_newline_is_part_of_it() -> None:
    assert take(LineProtocol(max_message=10), b"a\r\n\r\nb\rc\r\n") == ([b"a", b"", b"b\rc"], None)


def test_the_last_line_needs_no_end_and_the_end_is_a_normal_close() -> None:
    protocol = LineProtocol(max_message=10)
    assert take(protocol, b"a\nrest") == ([b"a"], None)
    assert sort(protocol.finish() or []) == ([b"rest"], None)
    assert sort(protocol.finish() or []) == ([], Closing(1000, "", failed=False))


def test_the_last_line_may_be_as_long_as_any_other_with_its_carriage_return() -> None:
    """It was taken, and then the client told that its line was a byte too long."""
    protocol = LineProtocol(max_message=4)
    assert take(protocol, b"abcd\r") == ([], None)
    assert sort(protocol.finish() or []) == ([b"abcd"], None)


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n", b"a\n" + b"x" * 11])
def test_a_line_too_long_fails_before_it_is_whole(data: bytes) -> None:
    lines, closing = take(LineProtocol(max_message=10), data)
    assert lines == ([b"a"] if data.startswith(b"a") else [])
    assert closing == Closing(1009, "line of 11 bytes; 10 is the most", failed=True)


def test_lines_before_one_that_is_not_utf_8_are_still_taken() -> None:
    lines, closing = take(LineProtocol(max_message=10), b"a\n\xff\nb\n")
    assert lines == [b"a"] and closing is not None and closing.code == 1007


@given(st.lists(st.binary()))
def test_a_message_is_always_one_line(payloads: list[bytes]) -> None:
    assert LINES.encode_run(1, payloads).count(b"\n") == len(payloads)


# ==== Rooms ================================================================


@pytest.mark.slow
def test_lines_and_websockets_meet_in_one_room(echo: ServerProcess) -> None:
    with LineClient(echo, "den") as plain, RawClient.connect(echo, "den") as web:
        plain.send("hello\r\n")
        assert plain.line() == "hello\n"
        assert web.receive_text() == "hello"
        web.send_text("grüße 😀")
        assert plain.line() == "grüße 😀\n"
        assert web.receive_text() == "grüße 😀"
        assert json.loads(http_request(echo, path="/api/den/connections").body) == 2
    wait_until(lambda: json.loads(http_request(echo, path="/api/rooms/").body) == [])


def test_a_client_is_tagged_and_routed_like_any(tmp_path: Path) -> None:
    options = ("--tcplisten", "127.0.0.1:0", "--json", "--clientroute", "--cache", "10")
    with serve(*options, "cat") as server:
        with LineClient(server) as one:
            assert json.loads(one.line()) == {"t": "Join", "_from": 1}
            one.send('{"_from": 99, "a": 1}\nno json\n')
            assert json.loads(one.line()) == {"_from": 1, "a": 1}
            with LineClient(server) as two:  # it gets the history first
                assert [json.loads(two.line())["_from"] for _ in range(3)] == [1, 1, 2]
                one.line()
                two.send('{"_to": 1, "secret": true}\n{"b": 2}\n')
                assert json.loads(one.line())["secret"] is True
                assert json.loads(two.line()) == {"_from": 2, "b": 2}


def test_ten_thousand_lines_come_back_whole_and_in_order(echo: ServerProcess) -> None:
    lines = [f"{number} {'x' * (number % 300)}\n" for number in range(10_000)]
    with LineClient(echo) as client:
        sender = threading.Thread(target=client.send, args=("".join(lines),))
        sender.start()
        assert [client.line() for _ in lines] == lines
        sender.join()


def test_netcat_is_a_client(echo: ServerProcess) -> None:
    netcat = require_tool("nc")
    with subprocess.Popen(
        [netcat, "127.0.0.1", str(line_port(echo))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write("lobby\nhello\n")
        process.stdin.flush()
        assert process.stdout.readline() == "hello\n"
        process.kill()


def test_a_game_plays_with_lines_and_its_binary_messages_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text(
        "from scalesocket import Game\n"
        "class Both(Game):\n"
        "    def on_create(self, room):\n"
        "        self.room = room\n"
        "    def on_message(self, client, message):\n"
        "        client.send(b'bytes')\n"
        "        self.room.broadcast(b'more')\n"
        "        self.room.broadcast(f'{message}!\\nsecond')\n"
    )
    with serve("--tcplisten", "127.0.0.1:0", "both:Both", cwd=tmp_path) as server:
        with LineClient(server) as plain, RawClient.connect(server) as web:
            plain.send("hello\n")
            assert plain.line() == "hello! second\n"
            assert web.receive_binary() == b"more"
            assert web.receive_text() == "hello!\nsecond"
            server.wait_log("a binary message was not sent: it is no line of text")


# ==== Ends =================================================================


def test_the_end_of_a_room_is_told_in_a_last_line() -> None:
    with serve("--tcplisten", "127.0.0.1:0", "sh", "--", "-c", "read x; exit 3") as server:
        with LineClient(server) as client:
            client.send("\n")
            expected = {"closed": 1011, "reason": "the program has ended with status 3"}
            assert json.loads(client.line()) == expected
            assert client.line() == ""


@pytest.mark.parametrize("ping", ["0.1", "86400"])
def test_any_interval_of_pings_lets_lines_in(ping: str) -> None:
    """Beyond nine hours the system refuses it, and so every client was cut off at once."""
    with serve("--tcplisten", "127.0.0.1:0", "--ping", ping, "cat") as server:
        with LineClient(server) as client:
            client.send("hello\n")
            assert client.line() == "hello\n"


@pytest.mark.slow
def test_a_client_that_leaves_gives_its_seat_back(echo: ServerProcess) -> None:
    for _ in range(20):
        with LineClient(echo, "den") as client:
            client.send("hello\n")
            assert client.line() == "hello\n"
    wait_until(lambda: not echo.children())
    with LineClient(echo, "den") as client:
        client.send("last words")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.line() in ("", "last words\n")  # cat may be slower than our leaving


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "reason"),
    [
        ("", "a room is wanted"),
        ("a/b", "one path segment"),
        ("api", "reserved"),
        ("x" * 129, "128 characters at the most, not 129"),
        (b"\xff", "not UTF-8"),
        ("a\x1b[31m", "control characters"),
        ("GET / HTTP/1.1", "one path segment"),
        ("POST /x HTTP/1.1", "one path segment"),
    ],
)
def test_a_first_line_that_names_no_room_is_answered(
    echo: ServerProcess, room: str | bytes, reason: str
) -> None:
    """Also what a web page could make a browser send: it must reach no room."""
    with LineClient(echo, room) as client:
        assert reason in json.loads(client.line())["error"]
        assert client.line() == ""
    assert echo.children() == []


@pytest.mark.parametrize("size", [2000, 4_000_000])
def test_who_is_refused_reads_why_to_its_end_whatever_else_it_has_sent(
    echo: ServerProcess, size: int
) -> None:
    """What it had sent and nobody had read made a reset of the end, which may take the answer."""
    with LineClient(echo, "a/b\n" + "hello\n" * size) as client:
        assert "one path segment" in json.loads(client.line())["error"]
        assert client.line() == ""


def test_all_that_who_is_refused_still_says_is_read() -> None:
    """Whether any of it was, was up to the system's buffers: the wait was over as it began."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        session = LineSession.__new__(LineSession)
        session.sock = session.layer = ours
        theirs.sendall(b"hello\n")
        theirs.shutdown(socket.SHUT_WR)
        session.refuse(HandshakeError(400, "no such room"))
        assert json.loads(theirs.recv(1000)) == {"error": "no such room"}
        assert ours.recv(1000) == b""


def test_a_first_line_without_an_end_is_answered(echo: ServerProcess) -> None:
    """It said that the line must name a room, and it might have been one."""
    with LineClient(echo, "x" * 600, end="") as client:
        assert json.loads(client.line())["error"] == (
            "the first line must be the name of a room: 600 bytes and no end; 519 is the most"
        )


def test_the_longest_name_with_a_wish_for_a_seat_is_no_line_too_long() -> None:
    """It was refused, if its newline came a little later."""
    session = LineSession.__new__(LineSession)
    session.rest = ("🎲" * MAX_ROOM_NAME + "?_seat\r").encode()
    reading = session.read_room_line()
    assert next(reading) is Want.BYTES
    with pytest.raises(StopIteration) as found:
        reading.send(b"\n")
    assert found.value.value == "🎲" * MAX_ROOM_NAME + "?_seat"


def test_limits_hold_for_lines_too() -> None:
    options = ("--maxmsg", "10", "--maxclients", "1", "--rooms", "a,b")
    with serve("--tcplisten", "127.0.0.1:0", *options, "cat") as server:
        with LineClient(server, "c") as client:
            assert "there is no room 'c'" in json.loads(client.line())["error"]
        with LineClient(server, "a") as client:
            client.send("x" * 10 + "\n")
            assert client.line() == "x" * 10 + "\n"
            with LineClient(server, "a") as other:
                assert json.loads(other.line())["closed"] == 1013
            client.send("x" * 11 + "\n")
            assert json.loads(client.line())["closed"] == 1009
            assert client.line() == ""


def test_auth_is_asked_about_lines_too(tmp_path: Path) -> None:
    command = tmp_path / "auth.sh"
    command.write_text('#!/bin/sh\ntest "$ROOM" = open && test "$SERVER_PROTOCOL" = TCP\n')
    command.chmod(0o755)
    with serve("--tcplisten", "127.0.0.1:0", "--auth", str(command), "cat") as server:
        with LineClient(server, "open") as client:
            client.send("hello\n")
            assert client.line() == "hello\n"
        with LineClient(server, "shut") as client:
            assert json.loads(client.line()) == {"error": "you may not come in"}


@pytest.mark.slow
def test_one_too_many_is_told_so() -> None:
    with serve("--tcplisten", "127.0.0.1:0", "--maxconns", "1", "cat") as server:
        with LineClient(server) as client:
            client.send("hello\n")
            assert client.line() == "hello\n"
            with LineClient(server) as other:
                assert "all 1 connections" in json.loads(other.line())["error"]


@pytest.mark.slow
def test_a_client_that_does_not_read_is_let_go_and_others_play_on() -> None:
    options = ("--backlog", "64K", "--stall", "1")
    with serve("--tcplisten", "127.0.0.1:0", *options, "cat") as server:
        with LineClient(server) as deaf, RawClient.connect(server) as web:
            deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(200):
                web.send_text("x" * 100_000)
                assert len(web.receive_text()) == 100_000
            server.wait_log("does not read")
            web.send_text("still here")
            assert web.receive_text() == "still here"


# ==== Who has vanished =====================================================


def tcp_info(*, resent: int = 0, probes: int = 0, on_the_way: int = 0, answered: int = 0) -> bytes:
    """Return a `struct tcp_info` of Linux; `answered` milliseconds ago."""
    info = bytearray(b"\xff" * 104)  # nothing else counts
    info[2], info[3] = resent, probes
    info[24:28], info[56:60] = struct.pack("=I", on_the_way), struct.pack("=I", answered)
    return bytes(info)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"on_the_way": 1, "resent": 3, "answered": 2000}, True),
        ({"on_the_way": 1, "resent": 9, "answered": 1999}, False),  # it may come back
        ({"on_the_way": 1, "resent": 2, "answered": 9000}, False),  # sent a moment ago, after long
        ({"on_the_way": 1, "probes": 9, "answered": 9000}, False),
        ({"probes": 3, "answered": 2000}, True),  # it had no room for more when it vanished
        ({"probes": 9, "answered": 1999}, False),
        ({"probes": 2, "answered": 9000}, False),  # two are those of `keep_alive`, too
        ({"resent": 9, "answered": 9000}, False),  # all has been acknowledged
        ({"answered": 2**32 - 1}, False),
    ],
)
def test_a_peer_is_gone_whose_system_answers_no_more(facts: dict[str, int], expected: bool) -> None:
    info = tcp_info(**facts)
    assert is_unanswered(info, 2.0) is expected
    assert is_unanswered(info[:60], 2.0) is expected
    assert not is_unanswered(info[:59], 2.0)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's TCP_INFO")
def test_who_does_not_read_is_not_gone() -> None:
    """Its system answers each probe, of which none is left unanswered however long it takes."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        keep_alive(ours, 1.0)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(65536))

        def seen() -> bytes:
            return ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)

        wait_until(lambda: seen()[4] >= 4)  # the backoff, which grows with each probe
        assert not is_unanswered(seen(), 0.0)
        assert not is_gone(ours, 1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="the number means that on Linux")
@pytest.mark.parametrize(
    ("interval", "most"), [(0.2, 1000), (20.0, 20_000), (120.0, 120_000), (1e6, 120_000)]
)
def test_a_peer_without_room_is_asked_in_each_interval(interval: float, most: int) -> None:
    """Every two minutes was too seldom to tell within a few intervals that it is gone."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        try:
            assert ours.getsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS) == 120_000
        except OSError:
            pytest.skip("this system has no TCP_RTO_MAX_MS")
        keep_alive(ours, interval)
        assert ours.getsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS) == most


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's TCP_INFO")
def test_what_tells_a_peer_gone_is_read_from_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tcp_pair()
    asked = []

    def find(info: bytes, seconds: float) -> bool:
        asked.append((len(info), seconds))
        return True

    monkeypatch.setattr(lines, "is_unanswered", find)
    with ours, theirs:
        assert is_gone(ours, 20.0) and is_gone(ours, 0.2) and not is_gone(ours, 0.0)
        assert asked == [(60, 40.0), (60, 2.0)]
        monkeypatch.setattr(lines, "TCP_INFO", None)  # as on other systems
        assert not is_gone(ours, 20.0)


def test_a_socket_without_tcp_is_never_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert not is_gone(ours, 1.0)
        ours.close()
        assert not is_gone(ours, 1.0)


def test_who_is_gone_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    gone: list[float] = []
    monkeypatch.setattr(lines, "is_gone", lambda _sock, interval: interval in gone)
    nothing: dict[str, Any] = {"poller": None, "max_backlog": 1000}
    connection = LineConnection(ours, LineProtocol(max_message=1000), **nothing)
    with theirs:
        check_peer(connection, 7.0, time.monotonic() + 60)
        assert connection.is_alive()  # nobody can be asked to answer in lines
        gone.append(7.0)
        check_peer(connection, 7.0, time.monotonic())
        assert not connection.is_alive() and theirs.recv(1) == b""
        connection.dispose()


CLIENT = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(b"room\\n")
while sock.recv(65536):
    pass
"""


@pytest.mark.slow
def test_who_vanishes_while_something_is_on_the_way_is_noticed() -> None:
    """TCP alone tried for a quarter of an hour."""
    with make_machines(7) as (machine,):
        options = ("--tcplisten", f"{machine.ours}:0", "--ping=1", "-v")
        tick = "while sleep 0.1; do echo tick; done"
        with serve(*options, "sh", "--", "-c", tick) as server:
            inside = ("ip", "netns", "exec", machine.space)
            words = (sys.executable, "-c", CLIENT, machine.ours, str(line_port(server)))
            client = subprocess.Popen([*inside, *words])
            try:
                server.wait_log("joined from")
                machine.vanish()
                server.wait_log("has not answered for two intervals")
                server.wait_log("left with")
            finally:
                client.kill()
                client.wait()


# ==== The option ===========================================================


@pytest.mark.parametrize(
    "options",
    [("--binary",), ("--pty",), ("--frame=gwsocket",), ("--serverframe=gwsocket",)],
)
def test_what_sends_binary_messages_excludes_it(options: tuple[str, ...]) -> None:
    done = run_cli("--tcplisten", ":9001", *options, "cat")
    assert done.returncode == 2 and "--tcplisten takes no binary messages" in done.stderr


def test_a_port_in_use_is_said_in_one_line(echo: ServerProcess) -> None:
    port = line_port(echo)
    done = run_cli("--addr", "127.0.0.1:0", "--tcplisten", f"127.0.0.1:{port}", "cat")
    assert done.returncode == 1
    assert re.fullmatch(rf"scalesocket: cannot listen at 127\.0\.0\.1:{port}: .+\n", done.stderr)


# ==== Who has only half-closed =============================================


UNHURRIED = with_constants("scalesocket.net.lines", ANSWER_PAUSE=4.0)  # on a busy machine, too


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_has_said_all_still_hears_the_answers(workers: str) -> None:
    """`printf 'lobby\\nhi\\n' | nc localhost 9001` printed nothing (case 13)."""
    options = ("--tcplisten", "127.0.0.1:0", "--workers", workers)
    program = ("sh", "--", "-c", "sleep 0.5; exec cat")
    with serve(*options, *program, command=UNHURRIED) as server:
        with LineClient(server) as client:
            client.send("one\ntwo")
            client.sock.shutdown(socket.SHUT_WR)
            assert [client.line() for _ in range(3)] == ["one\n", "two\n", ""]


@pytest.mark.slow
def test_nc_prints_the_answer() -> None:
    nc = require_tool("nc")
    with serve("--tcplisten", "127.0.0.1:0", "cat", command=UNHURRIED) as server:
        done = subprocess.run(
            [nc, "-N", "127.0.0.1", str(line_port(server))],
            input="lobby\nhi\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.stdout == "hi\n"


@pytest.mark.slow
def test_it_hears_the_others_for_as_long_as_they_talk_but_not_for_ever() -> None:
    """It is a member of its room until then, and leaves it as others do."""
    soon = with_constants("scalesocket.net.lines", ANSWER_PAUSE=3.0, ANSWER_TIMEOUT=5.0)
    tick = "while sleep 0.1; do echo tick; done & cat"
    options = ("--tcplisten", "127.0.0.1:0", "--leavemsg", "left #ID")
    with serve(*options, "sh", "--", "-c", tick, command=soon) as server:
        with RawClient.connect(server) as other, LineClient(server) as client:
            assert client.line() == "tick\n"  # its program has begun
            client.sock.shutdown(socket.SHUT_WR)
            lines = list(iter(client.line, ""))
            assert 2 <= lines.count("tick\n")
            while other.receive_text() != "left 2":
                pass


@pytest.mark.slow
def test_the_end_of_its_room_is_not_waited_for() -> None:
    slow = with_constants("scalesocket.net.lines", ANSWER_PAUSE=600.0, ANSWER_TIMEOUT=600.0)
    options = ("--tcplisten", "127.0.0.1:0", "sh", "--", "-c")
    with serve(*options, "read x; echo $x", command=slow) as server:
        with LineClient(server) as client:
            client.send("said\n")
            client.sock.shutdown(socket.SHUT_WR)
            assert client.line() == "said\n"
            assert json.loads(client.line())["closed"] == 1000
            assert client.line() == ""
    with serve(*options, "exec cat", command=slow) as server:
        with LineClient(server) as client:
            client.send("said\n")
            assert client.line() == "said\n"
            client.sock.shutdown(socket.SHUT_WR)
            assert server.stop() == 0


@pytest.mark.slow
def test_who_has_gone_altogether_does_not_stay() -> None:
    slow = with_constants("scalesocket.net.lines", ANSWER_PAUSE=600.0, ANSWER_TIMEOUT=600.0)
    tick = "while sleep 0.1; do echo tick; done & cat"
    options = ("--tcplisten", "127.0.0.1:0", "--leavemsg", "left #ID")
    with serve(*options, "sh", "--", "-c", tick, command=slow) as server:
        with RawClient.connect(server) as other:
            with LineClient(server) as client:
                assert client.line() == "tick\n"
            while other.receive_text() != "left 2":
                pass


@pytest.mark.slow
def test_behind_a_trusted_proxy_a_person_has_time_to_type_the_first_line_too() -> None:
    """The PROXY header, which need not come, was waited for as long as a head of HTTP."""
    options = ("--trustproxy", "127.0.0.1", "--tcplisten", "127.0.0.1:0")
    with serve(*options, "cat", command=with_constants(HEAD_TIMEOUT=0.5)) as server:
        with LineClient(server, "", "") as person, open_socket(server) as later:
            assert later.recv(1) == b""  # its time is over, and it came last
            person.send("den\nhello\n")
            assert person.line() == "hello\n"
