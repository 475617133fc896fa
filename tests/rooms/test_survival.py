"""What one client or one program may do without ending, or deafening, the server for all others.

The room `steady` echoes; what goes wrong goes wrong in the others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.net.logs import MAX_LOG_WAITING, LogHandler
from scalesocket.net.peers import parse_listing
from scalesocket.net.spawn import TidyChild
from scalesocket.net.threads import Headroom

import scalesocket
from scalesocket import check_nesting
from tests.rooms.test_framing import in_small_thread
from tests.support import (
    CONTINUATION,
    PATIENCE,
    ROOT,
    TEXT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    http_request,
    serve,
    wait_until,
    with_constants,
)

if sys.platform != "linux":
    pytest.skip("memory and threads are read from /proc", allow_module_level=True)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

GAME = """
import asyncio
import functools

from scalesocket import Game


def plain(x):
    return plain(x)

def total(x):
    return sum(map(total, [x]))

class Getattr:
    def __getattr__(self, name):
        return getattr(self, name + "x")

class Format:
    def __format__(self, spec):
        return f"{self}"

class Repr:
    def __repr__(self):
        return repr([self])

class Equal:
    def __eq__(self, other):
        return [self] == [other]

def by_key(x):
    return sorted([x], key=by_key)

def reduced(a, b):
    return functools.reduce(reduced, [a, b])

def stop(kind):
    raise kind("enough")

def fail(what):
    match what:
        case "plain": plain(1)
        case "sum": total(1)
        case "getattr": Getattr().x
        case "format": f"{Format()}"
        case "repr": repr(Repr())
        case "eq": Equal() == Equal()
        case "sorted": by_key(1)
        case "reduce": reduced(1, 2)
        case "exit": stop(SystemExit)
        case "interrupt": stop(KeyboardInterrupt)
        case "cancelled": stop(asyncio.CancelledError)
        case "generator": stop(GeneratorExit)
        case "base": stop(BaseException)


class Faulty(Game):
    tick_rate = 100
    hook = what = ""
    joined = False

    @classmethod
    def on_auth(cls, request):
        hook, _, what = request.path[1:].partition("-")
        if hook == "on_auth":
            fail(what)
        return True

    def at(self, hook):
        if self.hook == hook:
            fail(self.what)

    def on_create(self, room):
        self.room = room
        self.hook, _, self.what = room.id.partition("-")
        self.at("on_create")

    def on_join(self, client):
        self.joined = True
        client.send("welcome")
        self.at("on_join")
        if self.hook == "call_later":
            self.room.call_later(0, lambda: self.at("call_later"))
        if self.hook == "on_dispose" and len(self.room.clients) > 1:
            self.room.close(4000, "over")

    def on_message(self, client, message):
        self.at("on_message")
        client.send(message)

    def on_leave(self, client, code):
        self.at("on_leave")

    def on_tick(self, dt):
        if self.joined:
            self.at("on_tick")

    def on_drain(self, seconds):
        self.at("on_drain")

    def on_dispose(self):
        self.at("on_dispose")
"""
RECURSIONS = ("plain", "sum", "getattr", "format", "repr", "eq", "sorted", "reduce")
RAISED = {
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "cancelled": "CancelledError",
    "generator": "GeneratorExit",
    "base": "BaseException",
} | dict.fromkeys(RECURSIONS, "RecursionError")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "faulty.py").write_text(GAME)
    return tmp_path


def end_of(client: RawClient) -> int:
    """Return the close code that a client gets, whatever comes before it."""
    with pytest.raises(Closed) as closed:
        while True:
            client.receive_text()
    return closed.value.code


def provoke(server: ServerProcess, room: str, hook: str) -> int:
    """Make a hook of a room run; return the close code of a client who is there."""
    with RawClient.connect(server, room) as client:
        if hook == "on_message":
            client.send_text("hello")
        elif hook in ("on_leave", "on_dispose"):
            assert client.receive_text() == "welcome"
            with RawClient.connect(server, room) as other:
                if hook == "on_leave":
                    other.close()
        return end_of(client)


HOOKS = (
    "on_create", "on_join", "on_message", "on_leave", "on_tick", "on_dispose", "call_later",
)  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_whatever_a_hook_raises_it_ends_its_own_room_and_no_other(folder: Path, hook: str) -> None:
    """Cases 30 and 31: a hook that called itself without end was the end of the process, and after
    `sys.exit()` in one the clients of its room stayed, unanswered, and SIGTERM was not heard."""
    with (
        serve("faulty:Faulty", cwd=folder, allow_traceback=True) as server,
        RawClient.connect(server, "steady") as steady,
    ):
        assert steady.receive_text() == "welcome"
        for what, error in RAISED.items():
            before = len(server.log())
            code = provoke(server, f"{hook}-{what}", hook)
            assert code == (4000 if hook == "on_dispose" else 1011), what
            server.wait_log(f"{error}\\b", since=before)
            steady.send_text(what)
            assert steady.receive_text() == what
        assert not any("our own bug" in line for line in server.log())
        server.process.send_signal(signal.SIGTERM)
        assert end_of(steady) == 1001
        assert server.wait() == 0


def test_whatever_on_auth_raises_nobody_comes_in_and_others_do(folder: Path) -> None:
    """Cases 30 and 31, on the thread of a reader."""
    with serve("faulty:Faulty", cwd=folder, allow_traceback=True) as server:
        for what, error in RAISED.items():
            before = len(server.log())
            with pytest.raises(HandshakeRefused) as refused:
                RawClient.connect(server, f"on_auth-{what}")
            assert refused.value.response.status == 401, what
            server.wait_log(f"{error}\\b", since=before)
        with RawClient.connect(server, "steady") as steady:
            assert steady.receive_text() == "welcome"


def test_whatever_on_drain_raises_it_ends_its_own_room_and_no_other(folder: Path) -> None:
    """Cases 30 and 31, while the server drains."""
    with (
        serve("--drain", "60", "faulty:Faulty", cwd=folder, allow_traceback=True) as server,
        RawClient.connect(server, "steady") as steady,
    ):
        assert steady.receive_text() == "welcome"
        clients = [RawClient.connect(server, f"on_drain-{what}") for what in RAISED]
        for client in clients:
            assert client.receive_text() == "welcome"
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            with client:
                assert end_of(client) == 1011
        steady.send_text("still")
        assert steady.receive_text() == "still"
        steady.close()
        assert server.wait() == 0


# ==== 2. What is nested deeply ============================================

DEEP = [
    shape % ("[" * levels + "]" * levels)
    for levels in (900, 4500, 6000, 100_000)
    for shape in ("%s", '{"t":"join","name":%s}', '{"_to":1,"_meta":true,"x":%s}')
] + ["[" * 500_000, '{"a":' * 50_000, '"' + "[" * 100_000, '{"x":"' + "[" * 100_000 + '"}']


@pytest.mark.parametrize("options", [("--json", "cat"), ("--frame=json", "--api", "cat")])
def test_brackets_of_a_client_end_nothing(options: tuple[str, ...]) -> None:
    """Case 30: 9 KB of brackets from any client ended the process, with Python 3.13."""
    with serve(*options) as server, RawClient.connect(server) as client:
        for text in DEEP:
            client.send_text(text)
        client.send_text('{"last":true}')
        while "last" not in client.receive_text():
            pass
        assert http_request(server, "GET", "/health").status == 200


@pytest.mark.parametrize("game", ["snake", "tictactoe", "game.py", "chat"])
def test_brackets_of_a_client_do_not_end_a_game(game: str) -> None:
    """Case 30: so did 6,000 levels, where the game itself reads JSON."""
    with serve(game) as server, RawClient.connect(server) as client:
        for text in DEEP:
            client.send_text(text)
        client.ping(b"there?")
        while client.receive()[1] != b"there?":
            pass
        assert not any("failed" in line for line in server.log())


PRINTS_DEEP = """
import sys
for line in sys.stdin:
    levels = int(line)
    deep = "[" * levels + "]" * levels
    print('{"_to":1,"x":%s}' % deep)
    print('{"_meta":true,"x":%s}' % deep)
    print('{"_to":%s}' % deep)
    print('{"_to":1,"x":' + "[" * levels)
    print(levels, flush=True)
"""


def test_brackets_of_a_program_end_nothing(tmp_path: Path) -> None:
    """Case 30: so did a program that printed such a line."""
    (tmp_path / "deep.py").write_text(PRINTS_DEEP)
    options = ("--serverframe=json", "--api", "--console")
    with (
        serve(*options, "deep.py", cwd=tmp_path) as server,
        RawClient.connect(server) as client,
    ):
        for levels in (100, 510, 900, 4500, 100_000):
            client.send_text(str(levels))
            while client.receive_text() != str(levels):
                pass
            for path in ("/api/rooms/", "/api/room/metadata", "/console/api"):
                assert http_request(server, "GET", path).status == 200


def test_brackets_of_another_node_end_nothing() -> None:
    """Case 30: so did a node of `--peers` that lied."""
    for text in DEEP:
        with contextlib.suppress(ValueError):
            in_small_thread(lambda text=text: parse_listing(text.encode(), "http://other:9000"))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("[" * 512 + "]" * 512, True),
        ("[" * 513 + "]" * 513, False),
        ('[{"a":' * 256 + "1" + "}]" * 256, True),
        ('[{"a":' * 257 + "1" + "}]" * 257, False),
        ("[" + "[[[]],{}]," * 20_000 + "0]", True),
        ("[" + "[]," * 9000 + "[" * 512 + "]" * 512 + "]", False),
        ('["' + "[" * 9000 + '"]', True),
        ('["\\"' + "[" * 9000 + '"]', True),
        ('["\\\\"' + ",[" * 9000, False),
        ("[" * 9000, False),
        ("[}" * 9000 + "[" * 600, False),
        ('"' * 9001 + "[" * 600, True),
    ],
)
def test_the_depth_of_json_is_known_before_it_is_parsed(text: str, fits: bool) -> None:
    if fits:
        check_nesting(text)
    else:
        with pytest.raises(RecursionError, match="nested deeper than 512 levels"):
            check_nesting(text)


@given(st.recursive(st.text('"\\[]{}', max_size=3), lambda inner: st.lists(inner, max_size=3)))
def test_the_depth_of_json_is_what_a_parser_finds(value: object) -> None:
    """The limit is moved to either side of the depth that the value has."""

    def depth(value: object) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    levels = depth(value)
    text = json.dumps(value) + " " * 600
    wrapped = "[" * (512 - levels) + text + "]" * (512 - levels)
    check_nesting(wrapped)
    with pytest.raises(RecursionError):
        check_nesting(f"[{wrapped}]")


# ==== 3. A log that nobody reads ==========================================

TALK = """
from scalesocket import Game

class Talk(Game):
    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        client.send(message)
"""


class Unread:
    """A server whose log is read up to where it says its port, and then no more until `rest`.

    Its end waits for the log to be read for so many seconds.
    """

    def __init__(self, folder: Path, *options: str, patience: float = 1.0) -> None:
        (folder / "talk.py").write_text(TALK)
        command = with_constants("scalesocket.net.logs", LOG_PATIENCE=patience)
        command += ["--addr", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(
            [*command, "talk:Talk"], cwd=folder, stderr=subprocess.PIPE, start_new_session=True
        )
        self.host, self.port, self.pid = "127.0.0.1", 0, self.process.pid
        assert self.process.stderr is not None
        self._log = self.process.stderr
        while not self.port:
            found = re.search(rb" on port (\d+)", self._log.readline())
            self.port = int(found[1]) if found else 0

    def fill(self) -> None:
        """Have it log some 4 MB: more than its pipe, and the server, keep (with -vv)."""
        with RawClient.connect(self, "loud") as client:
            client.send_in_background(encode_client_frames(["x" * 200] * 10_000))
            assert len(client.receive_many(10_000)) == 10_000

    def rest(self) -> Iterator[str]:
        """Read the log to its end."""
        return (line.decode().rstrip("\n") for line in self._log)

    def __enter__(self) -> Unread:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()


def dropped_lines(server: Unread) -> int:
    """Return what the metrics say of the log."""
    text = http_request(server, "GET", "/metrics").body.decode()
    found = re.findall(r"^scalesocket_log_lines_dropped_total\S* (\d+)", text, re.MULTILINE)
    return sum(map(int, found))


@pytest.mark.parametrize("options", [(), ("--log", "json"), ("--workers", "2")])
def test_a_log_that_nobody_reads_holds_up_neither_play_nor_signals(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Cases 10 and 34: after 256 rooms with long names there was no new room, no `/health`, and
    three SIGTERMs were not heard."""
    with Unread(tmp_path, "-vv", "--metrics", *options) as server:
        server.fill()
        for number in range(20):
            with RawClient.connect(server, f"room-{number}-{'n' * 100}") as client:
                client.send_text("hello")
                assert client.receive_text() == "hello"
        assert http_request(server, "GET", "/health").status == 200
        wait_until(lambda: dropped_lines(server) > 0)  # a worker may be too late to tell
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("options", [(), ("--log", "json")])
def test_what_is_missing_in_the_log_is_said_where_it_is_missing(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with Unread(tmp_path, "-vv", "--metrics", *options, patience=PATIENCE) as server:
        server.fill()
        missing = dropped_lines(server)
        assert missing > 0
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(server.rest()))
        reader.start()

        def is_read() -> bool:
            with RawClient.connect(server, "late") as client:
                client.send_text("the log is read again")
                client.receive_text()
            return any("the log is read again" in line for line in lines.copy())

        wait_until(is_read)
        is_read()  # nothing is in its way any more
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        reader.join()
    if options:
        lines = [json.loads(line)["message"] for line in lines]
    told = [re.search(r"(\d+) lines of the log were dropped here", line) for line in lines]
    assert sum(int(found[1]) for found in told if found) >= missing
    at = max(index for index, found in enumerate(told) if found)
    assert any("the log is read again" in line for line in lines[at:])
    assert "stopped" in lines[-1]


def test_a_log_whose_reader_has_gone_holds_up_nothing(tmp_path: Path) -> None:
    with Unread(tmp_path, "-vv") as server:
        server._log.close()
        server.fill()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_a_log_that_is_read_is_complete_and_in_order() -> None:
    """However it comes: in lines, in one piece of 1 MB, and behind what had to wait; and though it
    is more than may wait, all in all."""
    inside, outside = os.pipe()
    handler = LogHandler(outside, "utf-8")
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for _ in range(4):
        wanted = []
        for number in range(400):
            text = f"{number} " + "x" * (100_000 if number in (3, 7) else 500)
            wanted.append(text)
            logger.warning("%s", text)
        assert handler.dropped == 0
        data = b""
        while data.count(b"\n") < len(wanted):
            data += os.read(inside, 65536)
        handler.finish()
        assert data.decode().splitlines() == wanted
    for descriptor in (inside, outside):
        os.close(descriptor)


def test_a_line_that_is_longer_than_all_that_may_wait_is_whole() -> None:
    """What a pipe has not taken of it at once may wait: half a line would be worse than none."""
    inside, outside = os.pipe()
    handler = LogHandler(outside, "utf-8")
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("%s", "x" * 2 * MAX_LOG_WAITING)
    assert not handler.dropped
    size = 0
    while size < 2 * MAX_LOG_WAITING + 1:
        size += len(os.read(inside, 65536))
    for descriptor in (inside, outside):
        os.close(descriptor)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "never at once"])
def test_nothing_waits_for_a_reader_of_the_log_that_has_gone(at_once: bool) -> None:
    inside, outside = os.pipe()
    handler = LogHandler(outside, "utf-8")
    if not at_once:  # as on systems that have no way to do that
        handler._write_now = None
    logger = logging.Logger("test")
    logger.addHandler(handler)
    os.close(inside)
    logger.warning("to nobody")
    wait_until(lambda: not handler._waiting and not handler._has_thread)
    os.close(outside)


def test_a_worker_writes_its_own_lines_and_not_those_that_wait_in_its_parent() -> None:
    inside, outside = os.pipe()
    os.set_blocking(inside, False)
    handler = LogHandler(outside, "utf-8")
    logger = logging.Logger("test")
    logger.addHandler(handler)
    handler._process = -1  # it was another one, whose thread is not here
    handler._has_thread = True
    handler._waiting.append(b"of the parent\n")
    handler._size = handler._missing = 10 * MAX_LOG_WAITING
    logger.warning("of the worker")
    assert os.read(inside, 65536) == b"of the worker\n"
    assert (handler._size, handler._missing, handler._has_thread) == (0, 0, False)
    for descriptor in (inside, outside):
        os.close(descriptor)


def test_a_line_for_which_there_is_no_memory_is_missed_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody was told of it, unless the log got so long that some of it had to wait."""
    inside, outside = os.pipe()
    handler = LogHandler(outside, "utf-8")
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("one")
    with monkeypatch.context() as patch:
        patch.setattr(handler, "_encode", Mock(side_effect=MemoryError))
        logger.warning("two")
    logger.warning("three")
    data = b""
    while b"three\n" not in data:
        data += os.read(inside, 65536)
    told = "1 lines of the log were dropped here: nobody read them, or there was no memory"
    assert data.decode().splitlines() == ["one", told, "three"]
    for descriptor in (inside, outside):
        os.close(descriptor)


def test_a_log_whose_thread_finds_no_memory_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes what waits ended, no other was started, and the log was silent from
    then on, for as long as the server ran."""
    inside, outside = os.pipe()
    handler = LogHandler(outside, "utf-8")
    logger = logging.Logger("test")
    logger.addHandler(handler)
    failures = {"_first": 1, "_write_patiently": 2, "_advance": 1}
    for name in list(failures):
        inner = getattr(handler, name)

        def fail_first(*args: Any, name: str = name, inner: Callable[..., Any] = inner) -> Any:
            failures[name] -= 1
            if failures[name] >= 0:
                raise MemoryError
            return inner(*args)

        monkeypatch.setattr(handler, name, fail_first)
    wanted = [f"{number} " + "x" * 500 for number in range(400)]
    for line in wanted:
        logger.warning("%s", line)
    data = b""
    while data.count(b"\n") < len(wanted):
        data += os.read(inside, 65536)
    assert data.decode().splitlines() == wanted
    assert max(failures.values()) < 0, "it has not failed"
    for descriptor in (inside, outside):
        os.close(descriptor)


# ==== 4. Time that stands still ===========================================


def test_a_stop_of_the_machine_closes_nobody_who_was_sending() -> None:
    """Case 38: after SIGSTOP for longer than two pings 26 of 30 clients that had sent all the time
    were closed as silent."""
    with serve("--ping", "2", "cat") as server, contextlib.ExitStack() as stack:
        rooms = [f"room{number}" for number in range(10)]
        clients = [stack.enter_context(RawClient.connect(server, room)) for room in rooms]
        for _ in range(3):
            for client in clients:
                client.send_text("before")
                assert client.receive_text() == "before"
            server.process.send_signal(signal.SIGSTOP)
            begin = time.monotonic()
            wait_until(lambda begin=begin: time.monotonic() > begin + 5.0)
            server.process.send_signal(signal.SIGCONT)
            for client in clients:
                client.send_text("after")
                assert client.receive_text() == "after"
        assert not any("silent" in line for line in server.log())


# ==== 5. Out of memory =====================================================

POOR = f"""
import sys
sys.path.insert(0, {os.fspath(ROOT)!r})
import scalesocket

receive = scalesocket.WebSocketProtocol.receive

def receive_or_fail(self, data):
    if len(data) > 5000:
        raise MemoryError
    return receive(self, data)

scalesocket.WebSocketProtocol.receive = receive_or_fail
sys.exit(scalesocket.main())
"""


def test_who_finds_no_memory_is_let_go_and_the_others_are_heard() -> None:
    """Case 32: a thread that ran out of memory was gone, and with it all that it read."""
    with serve("cat", command=[sys.executable, "-c", POOR]) as server:
        with RawClient.connect(server) as other:
            for _ in range(30):  # some with a reader of their own, some with the shared one
                with RawClient.connect(server) as client:
                    client.send_text("x" * 6000)
                    with pytest.raises(EOFError):
                        client.receive()
                other.send_text("still here")
                assert other.receive_text() == "still here"
        assert sum("out of memory" in line for line in server.log()) == 1


def test_no_thread_ends_because_memory_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    done = threading.Event()
    timer = scalesocket.Poller("timer")
    timer.start()
    timer.call_later(0, fail)
    timer.call_later(0, done.set)
    assert done.wait(PATIENCE)
    timer.stop()

    done.clear()
    poller = scalesocket.Poller("poller")
    poller.start()
    select = poller._selector.select
    failures = iter([True] * 3)

    def select_or_fail(timeout: float | None = None) -> object:
        if next(failures, False):
            raise MemoryError
        return select(timeout)

    monkeypatch.setattr(poller._selector, "select", select_or_fail)
    poller.call_soon(fail)
    poller.call_soon(done.set)
    assert done.wait(PATIENCE)
    poller.stop()


def test_a_listener_goes_on_though_memory_ran_out_as_it_was_opened_or_paused() -> None:
    """The server went on with those who were there, and never accepted anybody again."""
    server, sock = Mock(), Mock()
    sock.fileno.return_value = 3
    listener = scalesocket.Listener(sock, server, scalesocket.HttpSession)
    watch = server.readers.shared.watch
    watch.side_effect = [MemoryError, None]
    poller = scalesocket.Poller("poller")
    assert not poller._do(listener.watch)  # it is tried again
    assert poller._do(listener.watch)
    assert watch.call_count == 2

    sock.accept.return_value = (Mock(), ("192.0.2.1", 1))
    server.serve.side_effect = scalesocket.ShortageError("none left")
    server.readers.shared.call_later.side_effect = [MemoryError, None]
    with pytest.raises(scalesocket.ShortageError):
        listener._accept_all()
    # The second time, it will be opened again.
    assert server.readers.shared.call_later.call_count == 2


def test_who_waits_for_a_room_is_not_forgotten_though_memory_runs_out_as_it_goes_on() -> None:
    """What it had said was lost, and it was never read again, not even its end."""
    reader = scalesocket.Readers().shared
    reader._selector = Mock()
    room, session = Mock(), Mock(want=scalesocket.Want.MESSAGES, descriptor=-1, held=["said"])
    room.inbox.is_full = session.connection.has_more = False
    room.receive.side_effect = MemoryError
    reader._paused[room] = deque([session])
    assert not reader._do(lambda: reader._unpause_all(room))  # it is tried again
    assert session.connection.abort.called
    assert reader._do(lambda: reader._unpause_all(room))
    assert room.receive.call_count == 1  # the rest of it may have arrived
    assert reader._selector.register.called and not reader._paused


def test_a_bug_of_ours_ends_no_thread_that_reads_or_writes_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what a room raised when it took messages, only memory was survived."""
    failures = iter([KeyError("a bug"), RuntimeError("can't allocate lock")])

    def fail_twice(sessions: object) -> None:
        for error in failures:
            raise error

    reader = scalesocket.Reader("reader", Mock())
    monkeypatch.setattr(reader, "_read_round", fail_twice)
    done = [threading.Event(), threading.Event()]
    sessions = [Mock(), Mock()]
    reader.start()
    try:
        for session, event in zip(sessions, done, strict=True):
            reader.call_soon(lambda session=session: reader._ready.update({session: None}))
            wait_until(lambda session=session: session.connection.abort.called)
            reader.call_soon(event.set)
            assert event.wait(PATIENCE)
    finally:
        reader.stop()


def test_a_room_whose_first_client_finds_no_memory_comes_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It never ran, so it kept its place in --maxrooms, and the server waited for it to end."""

    class Quiet(scalesocket.Game):
        pass

    def run_out(room: scalesocket.Room, client: scalesocket.Client) -> None:
        raise MemoryError

    timer = scalesocket.Poller("timer")
    registry = scalesocket.RoomRegistry(scalesocket.Config(game=Quiet), timer)
    request = scalesocket.Request("GET", "/lobby", "HTTP/1.1", scalesocket.Headers())
    peer = ("192.0.2.1", 1)
    client = scalesocket.Client(1, "lobby", request, Mock(), peer=peer, local=peer)
    monkeypatch.setattr(scalesocket.Room, "join", run_out)
    with pytest.raises(MemoryError):
        registry.join(client)
    assert client.room is not None
    client.room.leave(client, scalesocket.Closing(1006, "", failed=False))  # as its session does
    assert registry.wait_until_idle(PATIENCE)


def test_a_program_is_not_left_behind_when_its_end_finds_no_memory() -> None:
    """It was a zombie for as long as the server ran, and its pipes stayed open."""
    code = f"""if True:
        import sys
        sys.path.insert(0, {os.fspath(ROOT)!r})
        import scalesocket

        def fail_once(pipe, failures=[MemoryError(), RuntimeError("can't allocate lock")]):
            if failures:
                raise failures.pop()
            return 0

        import scalesocket.net.last_read
        scalesocket.net.last_read.count_unread = fail_once
        sys.exit(scalesocket.main())
    """
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    with serve("cat", command=command) as server:
        for room in ("one", "two", "three"):
            with RawClient.connect(server, room) as client:
                client.send_text("hello")
                assert client.receive_text() == "hello"
            server.wait_log(f"room closed  room={room}")
            assert server.children() == []
        assert sum("room closed" in line for line in server.log()) == 3


def test_a_program_that_started_when_memory_had_run_out_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`Popen` asks for memory once more when the program is there already: nobody knew of it."""
    started: list[subprocess.Popen[bytes]] = []

    def run_out(process: subprocess.Popen[bytes], *arguments: object) -> None:
        execute(process, *arguments)
        started.append(process)
        raise MemoryError

    execute = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    monkeypatch.setattr(subprocess.Popen, "_execute_child", run_out)
    with pytest.raises(scalesocket.ShortageError, match="out of memory"):
        TidyChild(["sleep", "60"], os.environ, (subprocess.PIPE,) * 3, grace=0.0)
    [process] = started
    assert process.returncode == -signal.SIGKILL


def test_likewise_if_there_is_no_memory_to_end_it_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ran on, with nobody to end it, and its pipes stayed open."""
    started: list[subprocess.Popen[bytes]] = []
    failures = [RuntimeError("can't allocate lock"), MemoryError()]

    def run_out(process: subprocess.Popen[bytes], *arguments: object) -> None:
        execute(process, *arguments)
        started.append(process)
        raise MemoryError

    def find_stderr(process: subprocess.Popen[bytes]) -> object:
        if started and failures:
            raise failures.pop()
        return process.__dict__["stderr"]

    def keep_stderr(process: subprocess.Popen[bytes], pipe: object) -> None:
        process.__dict__["stderr"] = pipe

    execute = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    monkeypatch.setattr(subprocess.Popen, "_execute_child", run_out)
    monkeypatch.setattr(subprocess.Popen, "stderr", property(find_stderr, keep_stderr), False)
    with pytest.raises(scalesocket.ShortageError, match="out of memory"):
        TidyChild(["sleep", "60"], os.environ, (subprocess.PIPE,) * 3, grace=0.0)
    [process] = started
    assert process.returncode == -signal.SIGKILL
    assert all(pipe and pipe.closed for pipe in (process.stdin, process.stdout, process.stderr))


def test_memory_is_looked_for_once_for_many_threads_and_for_each_where_it_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was looked for at each start: a third of the time that it takes to open 1,000 rooms."""
    free = 1 << 40
    looked: list[int] = []
    monkeypatch.setattr("scalesocket.net.threads.CHECK_AGE", math.inf)
    monkeypatch.setattr(
        "scalesocket.net.threads.fits", lambda size: looked.append(size) or size <= free
    )
    headroom = Headroom()
    for _ in range(32):
        headroom.check()
    assert len(looked) == 2
    one = looked.pop() // 16
    free = 2 * one
    headroom.check()
    headroom.check()
    assert looked[1:] == [16 * one, one] * 2
    free = 0
    with pytest.raises(scalesocket.ShortageError, match="out of memory"):
        headroom.check()
    free = 1 << 40
    headroom.check()
    monkeypatch.setattr(headroom, "_until", 0.0)
    looked.clear()
    headroom.check()
    assert looked == [16 * one], "what was seen long ago is seen to again"


PACE = """
import sys
from scalesocket import Game

class Pace(Game):
    def on_message(self, client, message):
        client.send(str(sys.getswitchinterval()))
"""


def test_the_more_rooms_there_are_the_longer_a_thread_goes_on(tmp_path: Path) -> None:
    """When 1,000 rooms came back at once, each that waited for its turn looked 10,000 times a
    second whether it had come: they did little else, and some took 13 s."""
    (tmp_path / "pace.py").write_text(PACE)
    with serve("pace:Pace", cwd=tmp_path) as server, RawClient.connect(server) as client:

        def ask() -> float:
            client.send_text("how long?")
            return float(client.receive_text())

        assert ask() == pytest.approx(scalesocket.SWITCH_INTERVAL)
        with contextlib.ExitStack() as crowd:
            for room in range(60):
                other = crowd.enter_context(RawClient.connect(server, f"room-{room}"))
                other.send_text("are you there?")
                other.receive_text()
            assert 3 * scalesocket.SWITCH_INTERVAL <= ask() <= 0.005
        wait_until(lambda: ask() == pytest.approx(scalesocket.SWITCH_INTERVAL))


@pytest.mark.parametrize("extra", [10, 60, 100])  # MiB
@pytest.mark.parametrize("rooms", [1, 40])
def test_without_address_space_it_sheds_and_recovers(rooms: int, extra: int) -> None:
    """Case 32: with 60 MiB more than it had, and 40 rooms with 200 KB unfinished messages each, it
    did not recover when all that was gone: a thread that was being started had found no memory for
    its first steps, and was waited for without end."""
    with serve("cat") as server, RawClient.connect(server, "old") as old:
        old.send_text("before")
        assert old.receive_text() == "before"
        limit = server._status("VmSize") + extra * 2**20
        resource.prlimit(server.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        with contextlib.ExitStack() as stack:
            for number in range(80):
                with contextlib.suppress(OSError, EOFError, HandshakeRefused):
                    client = RawClient.connect(server, f"room{number % rooms}")
                    stack.enter_context(contextlib.suppress(OSError, EOFError, Closed))
                    stack.callback(client.sock.close)
                    client.send_bytes(encode_client_frame(TEXT, b"x" * 1000, fin=False), 1)
                    for _ in range(20 if rooms > 1 else 100):
                        piece = encode_client_frame(CONTINUATION, b"x" * 10_000, fin=False)
                        client.send_bytes(piece, 1)
        nothing = resource.RLIM_INFINITY
        resource.prlimit(server.pid, resource.RLIMIT_AS, (nothing, nothing))
        assert http_request(server, "GET", "/health").status == 200
        old.send_text("after")
        assert old.receive_text() == "after"
        with RawClient.connect(server, "new") as new:
            new.send_text("hello")
            assert new.receive_text() == "hello"
        errors = [line for line in server.log() if line.startswith("[ERROR]")]
        assert len(errors) <= 4, "each shortage is told once"
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_room_that_finds_no_place_in_memory_is_not_there_for_the_next_client() -> None:
    """It was listed and never ran: whoever came to a room of that name was never heard."""

    class Full(set[scalesocket.Room]):
        failures = [MemoryError()]

        def add(self, room: scalesocket.Room) -> None:
            if self.failures:
                raise self.failures.pop()
            super().add(room)

    registry = scalesocket.RoomRegistry(
        scalesocket.Config(game=scalesocket.Game), scalesocket.Poller("timer")
    )
    registry.running = Full()
    request = scalesocket.Request("GET", "/lobby", "HTTP/1.1", scalesocket.Headers())
    peer = ("192.0.2.1", 1)
    first, second = (
        scalesocket.Client(number, "lobby", request, Mock(), peer=peer, local=peer)
        for number in (1, 2)
    )
    with pytest.raises(MemoryError):
        registry.join(first)
    assert registry.find("lobby") is None
    room = registry.join(second)
    wait_until(lambda: 2 in room.members._members)  # its game has heard of the client
    room.leave(second, scalesocket.Closing(1006, "", failed=False))
    assert registry.wait_until_idle(PATIENCE)
