"""Who reads: the first few clients have a thread each, a crowd shares one, and nothing is lost.

Most tests here let nobody have a reader of its own, or few, so that the shared one has it all.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from scalesocket.net import threads
from scalesocket.net.direct import DirectInbox

import scalesocket
from scalesocket import (
    CROWD,
    NO_TURN,
    TURN,
    UNIX_PEER,
    Inbox,
    Joined,
    Poller,
    Readers,
    Want,
    parse_command_line,
    take_turn,
)
from tests.certificates import Certificates
from tests.support import (
    PATIENCE,
    TEXT,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    open_socket,
    serve,
    wait_until,
    with_constants,
)
from tests.wire.test_tls import join as join_securely

ROUNDS = 400
UPGRADE = (
    b"GET /den HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
THREADS = 3  # of a server with no clients: main, acceptor, poller
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closing is a reset
SHARED = with_constants(OWN_READERS=1)  # which the first client has; all others share one


def connect(server: ServerProcess, room: str, trust: ssl.SSLContext | None) -> RawClient:
    return join_securely(server, trust, room) if trust else RawClient.connect(server, room)


# ==== Threads =============================================================


def test_the_first_clients_have_a_reader_each_and_all_others_share_one() -> None:
    room = 3  # its own thread, and those that read the program's output and its errors
    with serve("cat", command=with_constants(OWN_READERS=5)) as server, ExitStack() as stack:
        crowd = [stack.enter_context(RawClient.connect(server)) for _ in range(50)]
        for number, client in enumerate(crowd):
            client.send_text(str(number))
        for client in crowd:
            assert sorted(map(int, client.receive_many(50))) == list(range(50))
        wait_until(lambda: server.threads() == THREADS + room + 5)
        for client in crowd[:5]:
            client.close()
        wait_until(lambda: server.threads() == THREADS + room)
        late = [stack.enter_context(RawClient.connect(server)) for _ in range(9)]
        wait_until(lambda: server.threads() == THREADS + room + 5)
        late[-1].send_text("again")
        assert {client.receive_text() for client in (*crowd[5:], *late)} == {"again"}


@pytest.mark.slow
def test_connections_that_never_say_anything_cost_no_thread_and_are_ended() -> None:
    with serve("cat", command=with_constants(HEAD_TIMEOUT=4.0)) as server, ExitStack() as stack:
        silent = []
        for _ in range(30):
            silent.append(stack.enter_context(open_socket(server)))
            time.sleep(0.02)  # they end one after the other, too
        wait_until(lambda: server.threads() == THREADS)
        with RawClient.connect(server) as client:
            for sock in silent:
                sock.settimeout(30)
                assert sock.recv(100) == b""
            client.send_text("still here")
            assert client.receive_text() == "still here"


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_connections_kept_alive_cost_no_thread_while_nothing_is_asked(
    secure: bool, certs: Certificates
) -> None:
    """Each of them held a thread for 15 s."""
    trust, options = (certs.trust(), certs.options()) if secure else (None, ())
    patient = with_constants(IDLE_TIMEOUT=3600.0)
    with serve(*options, "cat", command=patient) as server, ExitStack() as stack:
        connections: list[HTTPConnection] = []
        for _ in range(30):
            if trust:
                connections.append(HTTPSConnection(server.host, server.port, context=trust))
            else:
                connections.append(HTTPConnection(server.host, server.port))
            stack.callback(connections[-1].close)
        for _ in range(3):
            for connection in connections:
                connection.request("GET", "/health")
            for connection in connections:
                assert connection.getresponse().read() == b'{"status": "ok"}'
            wait_until(lambda: server.threads() == THREADS)


def test_however_many_come_and_speak_one_timed_call_waits_for_those_who_do_not() -> None:
    reader = Readers().shared
    reader._selector = Mock()
    for _ in range(50):
        session = Mock(want=Want.BYTES, deadline=0.0, descriptor=1)
        reader.start_reading(session)
        session.want = Want.END
        reader.attend(session)
    assert len(reader._calls) == 1
    reader._calls.clear()  # it is called
    reader._check_waiting()
    session.want = Want.BYTES
    reader.start_reading(session)
    assert len(reader._calls) == 1


@pytest.mark.parametrize("head", [b"", b"GET / HTTP"], ids=["nothing", "half a head"])
def test_what_comes_just_as_the_time_is_over_comes_too_late(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round of the shared reader then had both: it went on with a session that had ended, or
    that a helper was running; three of them at once ended the thread that reads all."""
    bug = Mock()
    monkeypatch.setattr(scalesocket, "report_failure", bug)
    server = scalesocket.Server(parse_command_line(["cat"]))
    reader = server.readers.shared
    with monkeypatch.context() as without_thread:
        without_thread.setattr(scalesocket, "start_thread", Mock())
        reader.start()
    with ExitStack() as stack:
        peers = []
        for _ in range(scalesocket.CROWD):
            ours, theirs = socket.socketpair()
            peers.append(stack.enter_context(theirs))
            theirs.settimeout(PATIENCE)
            theirs.sendall(head)
            server.serve(scalesocket.HttpSession, ours, UNIX_PEER, b"")
        if head:
            reader._do_round()
        reader.call_soon(lambda: None)
        reader._do_round()  # the selector forgets who was ready before
        assert len(reader._opening) == len(peers)
        for session in reader._opening:
            session.deadline = 0.0
        reader.call_soon(reader._check_waiting)
        for theirs in peers:
            theirs.sendall(b"/1.1\r\n")
        reader._call_due()
        reader.call_soon(lambda: None)  # so that this round does not wait
        reader._do_round()
        for theirs in peers:
            with contextlib.suppress(ConnectionResetError):  # it was closed with bytes unread
                assert theirs.recv(1000).startswith(b"HTTP/1.1 408 " if head else b"")
        assert not reader._ready and not reader._opening
    wait_until(lambda: not server.limits._served)
    reader._close()
    assert not bug.called


@pytest.mark.skipif(sys.platform != "linux", reason="epoll tells of copies")
def test_who_has_the_number_of_one_that_ended_is_read_once_in_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program that starts just as a connection ends has a copy of its socket for a moment, of
    which epoll tells by its number, that of the next connection: this was run by two threads."""
    bug = Mock()
    monkeypatch.setattr(scalesocket, "report_failure", bug)
    server = scalesocket.Server(parse_command_line(["cat"]))
    server.readers.help = Mock()  # type: ignore[method-assign]  # it has a session from then on
    reader = server.readers.shared
    with monkeypatch.context() as without_thread:
        without_thread.setattr(scalesocket, "start_thread", Mock())
        reader.start()
    (before, left), (other, peer) = socket.socketpair(), socket.socketpair()
    copy, number = os.dup(before.fileno()), before.fileno()
    server.serve(scalesocket.HttpSession, before, UNIX_PEER, b"")
    left.close()
    while before.fileno() >= 0:
        reader._do_round()
    with other, peer, socket.socket(fileno=os.dup2(other.fileno(), number)) as after:
        server.serve(scalesocket.HttpSession, after, UNIX_PEER, b"")
        reader._do_round()
        peer.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert [key.fd for key, _ in reader._selector.select(0)] == [number, number]
        reader._do_round()
        assert server.readers.help.call_count == 1
        assert not bug.called
    os.close(copy)
    reader._close()


@pytest.mark.parametrize("own", [1, 0], ids=["own reader", "shared reader"])
def test_a_server_that_ends_leaves_no_reader_of_a_client_that_does_not_end(
    own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket was closed while its reader had it in its selector. Whoever was not quick enough
    to see the end of it before waited for ever: of 12 servers in one program, two left a thread."""
    monkeypatch.setattr(scalesocket, "OWN_READERS", own)
    monkeypatch.setattr(scalesocket, "CLOSE_TIMEOUT", 0.0)
    monkeypatch.setattr(scalesocket, "ABANDON_TIMEOUT", PATIENCE if not own else 0.0)
    readers: list[scalesocket.Reader] = []

    class Noted(scalesocket.Reader):
        def start(self) -> None:
            readers.append(self)
            super().start()

    monkeypatch.setattr(Readers, "kind", Noted)
    server = scalesocket.Server(parse_command_line(["--maxconns=9", "cat"]))
    for poller in (server.poller, shared := server.readers.shared):
        poller.start()
    ours, theirs = socket.socketpair()
    serve_it = partial(server.serve, scalesocket.HttpSession, ours, UNIX_PEER, b"")
    shared.call_soon(serve_it)
    is_over = threading.Event()
    with RawClient(theirs) as client:
        client.upgrade("localhost", "/den", {})
        client.send_text("hello")
        assert client.receive_text() == "hello"
        if own:
            readers[1].call_soon(is_over.wait)  # it is not quick
            wait_until(lambda: not readers[1]._woken)
        server._end()
        is_over.set()
        wait_until(lambda: ours.fileno() == -1)
        shared.stop()
        wait_until(lambda: not any(reader._thread.is_alive() for reader in readers))
    assert not server.limits._served


@pytest.fixture
def last_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[scalesocket.Server, Any, Any]]:
    """A server, and both ends of a connection to it that is its last one."""
    for constant in ("HELPER_PATIENCE", "HEAD_TIMEOUT", "IDLE_TIMEOUT", "CLOSE_TIMEOUT"):
        monkeypatch.setattr(scalesocket, constant, 3 * PATIENCE)
    server = scalesocket.Server(parse_command_line(["--maxconns=9", "cat"]))
    server.readers.shared.start()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(PATIENCE)
        serve_it = partial(server.serve, scalesocket.HttpSession, ours, UNIX_PEER, b"")
        server.readers.shared.call_soon(serve_it)
        yield server, ours, theirs
    assert ours.fileno() == -1 and not server.limits._served


def test_a_request_that_is_being_answered_as_the_server_ends_gets_its_answer(
    last_one: tuple[scalesocket.Server, Any, Any],
) -> None:
    server, ours, theirs = last_one
    respond, is_asked = server.site.respond, threading.Event()

    def respond_late(*args: Any) -> scalesocket.Response:
        is_asked.set()
        ours.recv(1)  # until nothing more is read
        return respond(*args)

    server.site.respond = respond_late  # type: ignore[method-assign]
    theirs.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert is_asked.wait(PATIENCE)
    server.readers.finish(time.monotonic() + PATIENCE)
    server.readers.shared.stop()
    theirs.setblocking(False)
    assert theirs.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert theirs.recv(4096) == b""


def test_a_request_that_is_answered_while_the_last_helper_goes_is_waited_for_at_the_end(
    last_one: tuple[scalesocket.Server, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper of the request before took the next one's out of the list as it went."""
    monkeypatch.setattr(scalesocket, "HELPER_PATIENCE", 0.0)
    server, ours, theirs = last_one
    readers, shared = server.readers, server.readers.shared
    respond, call_soon, run = server.site.respond, shared.call_soon, readers.run
    is_asked, has_gone = threading.Event(), threading.Event()

    def respond_late(*args: Any) -> scalesocket.Response:
        is_asked.set()
        ours.recv(1)  # until nothing more is read
        return respond(*args)

    def call_soon_and_pause(function: Any) -> None:
        call_soon(function)
        if threading.get_ident() != shared._thread.ident:
            assert is_asked.wait(PATIENCE)

    def run_and_tell(session: scalesocket.Session) -> None:
        run(session)
        has_gone.set()

    monkeypatch.setattr(shared, "call_soon", call_soon_and_pause)
    monkeypatch.setattr(readers, "run", run_and_tell)
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    theirs.sendall(request)
    assert theirs.recv(4096).startswith(b"HTTP/1.1 200 ")
    server.site.respond = respond_late  # type: ignore[method-assign]
    theirs.sendall(request)
    assert is_asked.wait(PATIENCE)
    assert has_gone.wait(PATIENCE)
    readers.finish(time.monotonic() + PATIENCE)
    shared.stop()
    theirs.setblocking(False)
    assert theirs.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_whom_a_helper_has_no_memory_to_read_is_let_go_at_once(
    last_one: tuple[scalesocket.Server, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of those who are being helped kept it, and its place, until the server's end."""
    server, _, theirs = last_one
    failing, report = Mock(side_effect=MemoryError), Mock()
    monkeypatch.setattr(scalesocket.Session, "receive", failing)
    monkeypatch.setattr(scalesocket, "report_failure", report)
    theirs.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert theirs.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert theirs.recv(4096) == b""
    wait_until(lambda: not server.limits._served)
    assert failing.call_count == report.call_count == 1
    server.readers.finish(time.monotonic() + PATIENCE)
    server.readers.shared.stop()


def test_who_may_ask_for_more_as_the_server_ends_is_waited_for_no_longer(
    last_one: tuple[scalesocket.Server, Any, Any],
) -> None:
    """A helper waited for its next request, and nobody closed its socket after that."""
    server, _, theirs = last_one
    theirs.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert theirs.recv(4096).startswith(b"HTTP/1.1 200 ")
    server.readers.finish(time.monotonic() + PATIENCE)
    server.readers.shared.stop()
    assert theirs.recv(4096) == b""


def test_who_does_not_end_as_the_server_ends_has_one_time_for_that(
    last_one: tuple[scalesocket.Server, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download had as long once more as a client of a room had had before it."""
    server, ours, theirs = last_one
    respond, is_told, goes_on = server.site.respond, threading.Event(), threading.Event()
    is_asked = threading.Event()

    def respond_late(*args: Any) -> scalesocket.Response:
        is_asked.set()
        ours.recv(1)  # until nothing more is read
        is_told.set()
        assert goes_on.wait(PATIENCE)
        return respond(*args)

    server.site.respond = respond_late  # type: ignore[method-assign]
    theirs.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert is_asked.wait(PATIENCE)
    server.poller.start()
    slow = Mock(backlog_size=0, lock=threading.Lock(), _die=Mock())
    slow._die.side_effect = server.connections.clear
    server.connections.add(slow)
    monkeypatch.setattr(scalesocket, "CLOSE_TIMEOUT", 0.0)
    monkeypatch.setattr(threads, "time", Mock(wraps=time))
    server._end()
    threads.time.sleep.assert_not_called()
    slow._die.assert_called_once_with()
    assert is_told.wait(PATIENCE)
    goes_on.set()
    wait_until(lambda: not server.limits._served)
    server.readers.shared.stop()


def test_a_request_for_which_there_is_no_memory_at_first_is_answered(
    last_one: tuple[scalesocket.Server, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader let go of the connection, and nobody had it any more."""
    server, _, theirs = last_one
    help_it, failures = server.readers.help, [MemoryError()]

    def scarce(session: scalesocket.Session) -> None:
        if failures:
            raise failures.pop()
        help_it(session)

    monkeypatch.setattr(scalesocket, "report_failure", Mock())
    monkeypatch.setattr(server.readers, "help", scarce)
    theirs.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert theirs.recv(4096).startswith(b"HTTP/1.1 200 ")
    server.readers.finish(time.monotonic() + PATIENCE)
    server.readers.shared.stop()


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_who_cannot_be_served_is_let_go_and_counts_no_more(error: type[Exception]) -> None:
    """A server that had been short of something so often would have refused all others."""
    server = scalesocket.Server(parse_command_line(["--maxconns=9", "cat"]))
    ours, theirs = socket.socketpair()
    kind: Any = Mock(side_effect=error)
    server.serve(kind, ours, scalesocket.UNIX_PEER, b"")
    assert ours.fileno() == -1
    assert not server.limits._served
    theirs.close()


def test_who_is_gone_before_it_is_accepted_holds_nobody_up() -> None:
    """That is no shortage, for which the next ones would wait a while."""
    server: Any = scalesocket.Server(parse_command_line(["cat"]))
    server.serve = Mock()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener: Any = scalesocket.Listener(sock, server, scalesocket.HttpSession)
        next_one = (Mock(), ("192.0.2.1", 1), b"")
        listener.accept = Mock(side_effect=[ConnectionAbortedError, next_one, BlockingIOError])
        listener._accept_all()
    server.serve.assert_called_once_with(scalesocket.HttpSession, *next_one)


# ==== Where memory runs out ===============================================


def make_scarce(function: Any, first: int) -> Any:
    """Return a function for which there is no memory at its `first` call (from 0) and the next."""
    numbers = itertools.count()
    failures = {first: MemoryError(), first + 1: RuntimeError("can't allocate lock")}

    def scarce(*args: Any, **options: Any) -> Any:
        if (failure := failures.get(next(numbers))) is not None:
            raise failure
        return function(*args, **options)

    return scarce


@pytest.fixture(name="asking")
def _asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[scalesocket.Server]:
    """A server that asks on a helper who may come in; then each client has a reader of its own."""
    monkeypatch.setattr(scalesocket, "report_failure", Mock())
    monkeypatch.setattr(scalesocket, "OUT_OF_MEMORY_PAUSE", 0.0)
    server = scalesocket.Server(parse_command_line(["--maxconns=9", "cat"]))
    server.registry.make_backend = lambda: scalesocket.GameBackend(scalesocket.Game)
    server.askers.append(lambda _client: True)
    server.poller.start()
    server.readers.shared.start()
    yield server
    server.registry.end_all(1001, "")
    assert server.registry.wait_until_idle(PATIENCE)
    server.readers.shared.stop()
    server.poller.stop()


STEPS = [
    (scalesocket, "report_shortage"),
    (scalesocket.functools, "partial"),
    (scalesocket.Session, "resume"),
    (scalesocket.Session, "fail"),
    (Poller, "start"),
    (Poller, "call_soon"),
    (Poller, "watch"),
    (Readers, "help"),
    (Readers, "start_own"),
    (scalesocket.Reader, "_unwatch"),
    (scalesocket.Reader, "_watch_over"),
    (scalesocket.Reader, "start_reading"),
    (scalesocket.Reader, "attend"),
]


@pytest.mark.parametrize("has_helpers", [True, False])
@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=lambda it: it if type(it) is str else "")
def test_whoever_comes_is_let_go_again_wherever_memory_runs_out(
    asking: scalesocket.Server,
    owner: Any,
    name: str,
    first: int,
    has_helpers: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody had such a connection any more: its socket, its place among those of --maxconns, or
    the thread that was to read it stayed."""
    readers, before = asking.readers, set(threading.enumerate())
    spare, helpers = readers.spare._value, readers.finish.__self__
    if not has_helpers:
        monkeypatch.setattr(readers, "start_helper", Mock(side_effect=RuntimeError))
        monkeypatch.setattr(scalesocket.Session, "receive", Mock(side_effect=MemoryError))
    ours, theirs = socket.socketpair()
    scarce: Any = make_scarce(getattr(owner, name), first)
    if owner is scalesocket.functools:  # for the server alone
        owner, name, scarce = scalesocket, "functools", Mock(wraps=owner, partial=scarce)
    with theirs, monkeypatch.context() as patched:
        theirs.settimeout(PATIENCE)
        theirs.sendall(UPGRADE)
        theirs.shutdown(socket.SHUT_WR)
        serve_it = partial(asking.serve, scalesocket.HttpSession, ours, UNIX_PEER, b"")
        patched.setattr(owner, name, scarce)
        Poller.call_later(readers.shared, 0, serve_it)
        wait_until(lambda: ours.fileno() == -1)
        wait_until(lambda: not (asking.limits._served or helpers._calls or asking.connections))
    wait_until(lambda: not [t for t in threading.enumerate() if t not in before])
    wait_until(lambda: len(readers.shared._selector.get_map()) == 1)
    assert readers.spare._value == spare


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_thread_that_one_has_no_memory_to_wait_for_works_or_is_given_up(
    error: type[Exception], has_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever started it took it for one that had not begun, and it began: two did its work."""
    beginning = threads.Beginning()

    def fail(_timeout: float) -> bool:
        if has_begun:
            assert beginning._decision.acquire(blocking=False)
        raise error

    monkeypatch.setattr(beginning._cond, "wait", fail)
    if has_begun:
        assert beginning.wait()
        return
    with pytest.raises(RuntimeError, match=scalesocket.OUT_OF_THREADS):
        beginning.wait()
    assert not beginning.begin()


def test_a_bug_as_a_connection_is_taken_up_is_told_of(asking: scalesocket.Server) -> None:
    """It was taken for memory that had run out, and the connection closed without a word."""
    kind = Mock(side_effect=RuntimeError("a bug"))
    ours, theirs = socket.socketpair()
    with theirs:
        asking.serve(kind, ours, UNIX_PEER, b"")
        assert ours.fileno() == -1 and not asking.limits._served
    scalesocket.report_failure.assert_called_once_with()  # type: ignore[attr-defined]


def test_a_bug_in_a_reader_of_its_own_is_told_of(
    asking: scalesocket.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise; the shared reader reads its client."""
    readers, session = asking.readers, Mock(want=scalesocket.Want.MESSAGES)
    monkeypatch.setattr(readers, "kind", Mock(side_effect=RuntimeError("a bug")))
    monkeypatch.setattr(readers.shared, "start_reading", Mock())
    spare = readers.spare._value
    readers.shared.attend(session)
    assert readers.spare._value == spare
    readers.shared.start_reading.assert_called_once_with(session)  # type: ignore[attr-defined]
    scalesocket.report_failure.assert_called_once_with()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (scalesocket.Reader, "_unwatch"),
        (scalesocket.Reader, "_watch_over"),
        (scalesocket.Reader, "_wait_for"),
        (scalesocket.Connection, "set_reading"),
        (Inbox, "when_freed"),
    ],
    ids=lambda it: it if type(it) is str else "",
)
def test_who_has_to_wait_for_a_full_room_is_heard_wherever_memory_runs_out(
    asking: scalesocket.Server, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader had let go of it, and no list had it: what it had said was lost, and so was it."""
    shared, heard = asking.readers.shared, threading.Event()
    game = type("Hearing", (scalesocket.Game,), {"on_message": lambda *_: heard.set()})
    asking.registry.make_backend = lambda: scalesocket.GameBackend(game)
    while asking.readers.spare.acquire(blocking=False):
        pass
    ours, theirs = socket.socketpair()
    shared.call_soon(partial(asking.serve, scalesocket.HttpSession, ours, UNIX_PEER, b""))
    with RawClient(theirs) as client:
        client.upgrade("localhost", "/den", {})
        room = asking.registry.find("den")
        assert room is not None
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, make_scarce(getattr(owner, name), 0))
            with room.inbox.lock:
                room.inbox.size = 2 * scalesocket.INBOX_SIZE  # until its thread takes something
            client.send_text("hello")
            wait_until(lambda: room in shared._paused and shared._paused[room])
        room.inbox.put(scalesocket.Called(int))
        assert heard.wait(PATIENCE)
    wait_until(lambda: ours.fileno() == -1)


# ==== Nothing is lost =====================================================


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_many_talk_at_once_and_hear_every_word_back(secure: bool, certs: Certificates) -> None:
    """Some in pieces, thousands of times, most of them read by the same thread."""
    trust, options = (certs.trust(), certs.options()) if secure else (None, ())
    problems: list[str] = []

    def talk(number: int) -> None:
        chance = random.Random(number)
        with connect(server, f"room{number % 3}x{number}", trust) as client:
            for count in range(ROUNDS):
                text = f"{count}:" + "x" * chance.choice((0, 10, 2000))
                client.send_text(text)
                if (heard := client.receive_text()) != text:
                    problems.append(f"{text[:20]!r} came back as {heard[:20]!r}")

    with serve(*options, "cat", command=SHARED) as server:
        threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
    assert not problems


def test_a_frame_may_stop_anywhere() -> None:
    with serve("cat", command=SHARED) as server, RawClient.connect(server) as first:
        with RawClient.connect(server) as client:
            frame = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")  # RFC 6455 section 5.7
            for cut in range(len(frame)):
                client.send_bytes(frame[:cut])
                first.send_text("meanwhile")
                assert client.receive_text() == first.receive_text() == "meanwhile"
                client.send_bytes(frame[cut:])
                assert client.receive_text() == first.receive_text() == "Hello"


def test_clients_that_leave_in_any_way_are_missed_at_once() -> None:
    options = ("--clientframe=json", '--joinmsg={"t":"+"}', '--leavemsg={"t":"-"}', "cat")
    with serve(*options, command=SHARED) as server, RawClient.connect(server) as witness:
        assert "+" in witness.receive_text()
        for number in range(90):
            client = RawClient.connect(server)
            assert "+" in witness.receive_text()
            if number % 3 == 0:
                client.reset()
            elif number % 3 == 1:
                client.sock.close()
            else:
                client.receive_text()
                assert client.close() == (1000, "")
            assert "-" in witness.receive_text()
        wait_until(lambda: server.descriptors() < 40)


def test_a_slow_close_is_waited_for() -> None:
    """Closing with unread bytes would be a reset, and the client would lose what it was told."""
    program = ("sh", "--", "-c", "read line; echo last words")
    with serve(*program, command=SHARED) as server, RawClient.connect(server, "another"):
        with RawClient.connect(server) as client:
            client.send_text("go")
            assert client.receive_text() == "last words"
            client.send_binary(b"x" * 1000)  # the server's Close has come, and is not answered yet
            assert client.wait_close()[0] == 1000


@pytest.mark.slow
def test_thousands_leave_at_once_and_nothing_is_left() -> None:
    with serve("--ping=0", "--joinmsg=+", "--leavemsg=-", "cat") as server:
        with RawClient.connect(server) as witness:
            for _ in range(2):
                crowd = [RawClient.connect(server) for _ in range(1000)]
                for client in crowd:
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.sock.close()
            signs = [message for message in witness.receive_many(4001) if message in (b"+", b"-")]
            assert (signs.count(b"+"), signs.count(b"-")) == (2001, 2000)
            witness.send_text("still here")
            assert witness.receive_text() == "still here"
        wait_until(lambda: server.threads() == THREADS)


# ==== A room that takes nothing ===========================================

ROUTER = 'case "$ROOM" in deaf) exec sleep 1000;; slow) sleep 1; exec cat;; *) exec cat;; esac'
SMALL = with_constants(OWN_READERS=1, INBOX_SIZE=20_000, ABANDON_TIMEOUT=0.2)


def fill(clients: Sequence[RawClient]) -> list[threading.Thread]:
    """Have clients send more than their room and all sockets between take; return who does.

    Of a connection, the kernel alone may hold tens of megabytes (tcp(7), tcp_rmem and tcp_wmem).
    """
    frames = encode_client_frame(TEXT, b"x" * 1000) * 1000
    return [client.send_in_background(frames, times=1000) for client in clients]


@pytest.mark.slow
def test_a_full_room_slows_its_own_clients_down_and_no_others() -> None:
    """The reader that they share with others waits for none of them."""
    with serve("--rooms=deaf,cat", "sh", "--", "-c", ROUTER, command=SMALL) as server:
        with ExitStack() as stack:
            loud = [stack.enter_context(RawClient.connect(server, "deaf")) for _ in range(5)]
            other = stack.enter_context(RawClient.connect(server, "cat"))
            threads = fill(loud)
            for number in range(200):
                other.send_text(str(number))
                assert other.receive_text() == str(number)
            assert all(thread.is_alive() for thread in threads), "nobody was slowed down"
            assert server.rss() < 100 << 20
            for client in loud:
                client.reset()


@pytest.mark.slow
def test_who_was_slowed_down_loses_nothing() -> None:
    """The program begins to read after a second: all that was sent comes back, in order."""
    count = 3000
    with serve("sh", "--", "-c", ROUTER, command=SMALL) as server, ExitStack() as stack:
        crowd = [stack.enter_context(RawClient.connect(server, "slow")) for _ in range(4)]
        for name, client in enumerate(crowd):
            frames = encode_client_frames(f"{name} {n} {'x' * 200}" for n in range(count))
            client.send_in_background(frames)
        for client in crowd:
            heard = [text.split()[:2] for text in client.receive_many(4 * count)]
            for name in range(4):
                numbers = [int(n) for who, n in heard if int(who) == name]
                assert numbers == list(range(count))


@pytest.mark.slow
def test_clients_of_a_full_room_may_go_in_any_way_and_so_may_the_room() -> None:
    """Hundreds of times: a client that waits resets, closes or just ends, or its room is over."""
    command = with_constants(OWN_READERS=1, INBOX_SIZE=2000, ABANDON_TIMEOUT=0.0, CLOSE_TIMEOUT=0.2)
    options = ("--closegrace=0", "sh", "--", "-c", "read line; exec sleep 0.05")
    with serve(*options, command=command) as server:
        with RawClient.connect(server, "witness"):
            for number in range(150):
                room = f"room{number % 5}"
                with ExitStack() as stack:
                    crowd = [RawClient.connect(server, room) for _ in range(3)]
                    for client in crowd:
                        stack.callback(client.sock.close)
                        client.sock.setblocking(False)
                        with contextlib.suppress(BlockingIOError, ConnectionError):
                            client.sock.send(encode_client_frame(TEXT, b"x" * 1000) * 200)
                    if number % 3 == 0:
                        crowd[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    if number % 3 == 1:
                        with contextlib.suppress(OSError):
                            crowd[1].sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: server.threads() == THREADS)
        wait_until(lambda: server.descriptors() < 40)


@pytest.mark.slow
def test_a_signal_ends_a_server_whose_rooms_are_full() -> None:
    with serve("sleep", "--", "1000", command=SMALL) as server, ExitStack() as stack:
        crowd = [stack.enter_context(RawClient.connect(server, str(n % 3))) for n in range(9)]
        threads = fill(crowd)
        wait_until(lambda: server.rss() > 0)
        assert server.stop() == 0
        for thread in threads:
            thread.join(PATIENCE)


# ==== A game and its crowd ================================================

BLOCKER = """
import os, time
from scalesocket import Game

class Blocker(Game):
    tick_rate = 50

    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        while self.room.id == "stuck" and not os.path.exists("free again"):
            time.sleep(0.01)
        client.send(message)
"""


def test_a_hook_that_blocks_holds_up_its_own_room_alone(tmp_path: Path) -> None:
    (tmp_path / "blocker.py").write_text(BLOCKER)
    with serve("--metrics", "blocker:Blocker", cwd=tmp_path, command=SHARED) as server:
        with (
            RawClient.connect(server, "stuck") as first,
            RawClient.connect(server, "stuck") as stuck,
        ):
            with RawClient.connect(server, "free") as free:
                stuck.send_text("long")
                for number in range(300):
                    free.send_text(str(number))
                    assert free.receive_text() == str(number)
                with pytest.raises(BlockingIOError):
                    stuck.sock.recv(1)
                (tmp_path / "free again").touch()
                assert stuck.receive_text() == "long"
            first.close()


QUIET = """
from scalesocket import Game

class Quiet(Game):
    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        if message == "all":
            self.room.broadcast("for all", exclude=[client])
        client.send(message)
        if message == "bye":
            client.close(4000, "as asked")
"""


@pytest.mark.slow
def test_only_those_whom_a_game_says_something_hear_it_and_each_hears_it_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "quiet.py").write_text(QUIET)
    with serve("quiet:Quiet", cwd=tmp_path) as server, ExitStack() as stack:
        crowd = [stack.enter_context(RawClient.connect(server)) for _ in range(40)]
        for number, client in enumerate(crowd[1:20]):
            client.send_text(f"{number}")
            assert client.receive_text() == f"{number}"
        crowd[0].send_text("all")
        assert crowd[0].receive_text() == "all"
        assert [client.receive_text() for client in crowd[1:]] == ["for all"] * 39
        crowd[5].send_text("bye")
        assert crowd[5].receive_text() == "bye"
        assert crowd[5].wait_close() == (4000, "as asked")
        crowd[1].send_text("all")
        assert crowd[2].receive_text() == "for all"


# ==== Who is let in without a thread ======================================

GOOD = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
REQUESTS = {
    "plain": {},
    "subprotocol": {"Sec-WebSocket-Protocol": "chat, b, a"},
    "compressed": {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"},
    "wrong version": {"Sec-WebSocket-Version": "12"},
    "no key": {"Sec-WebSocket-Key": ""},
    "no upgrade": {"Upgrade": "", "Connection": "close"},
    "no host": {"Host": ""},
    "foreign": {"Origin": "http://elsewhere.example"},
    "bad field": {"Bad Name": "x"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("path", ["/room", "/a/b", "/", "/api", "/%ff", "/r?name=x"])
def test_an_answer_does_not_depend_on_how_the_request_was_cut(
    name: str, path: str, answers: ServerProcess
) -> None:
    """In one piece it is for the acceptor to answer, if it can; in two it is for a thread."""
    fields = {key: value for key, value in (GOOD | REQUESTS[name]).items() if value}
    lines = [f"GET {path} HTTP/1.1", *(f"{key}: {value}" for key, value in fields.items())]
    request = "\r\n".join([*lines, "", ""]).encode()
    whole = ask(answers, request)
    assert whole.startswith(b"HTTP/1.1 ")
    assert [ask(answers, request, cut) for cut in (1, 30, len(request) - 1)] == [whole] * 3


@pytest.fixture(scope="module", name="answers")
def _answers() -> Iterator[ServerProcess]:
    options = ("--subprotocol=a,b", "--compress", "--origin=localhost", "--header=X-Own: yes")
    with serve(*options, "cat") as server:
        yield server


def ask(server: ServerProcess, request: bytes, cut: int = 0) -> bytes:
    """Return the head of what a request is answered with, but for its date."""
    with open_socket(server) as sock:
        sock.settimeout(30)
        if cut:
            sock.sendall(request[:cut])
            time.sleep(0.02)
        sock.sendall(request[cut:])
        data = b""
        while b"\r\n\r\n" not in data and (piece := sock.recv(4096)):
            data += piece
    lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"Date:"))


@pytest.mark.slow
def test_frames_that_come_with_the_request_are_heard() -> None:
    frame = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
    with serve("cat") as server:
        for number in range(50):
            with open_socket(server) as sock:
                client = RawClient(sock)
                client.upgrade("localhost", f"/room{number % 7}", {}, behind=frame * 2)
                assert client.receive_many(2) == [b"Hello", b"Hello"]


def test_a_crowd_comes_in_at_once_and_all_hear_the_same() -> None:
    """They are let in while the room is told things."""
    with serve("--joinmsg=#ID", "cat") as server, ExitStack() as stack:
        clients = [stack.enter_context(RawClient.connect(server)) for _ in range(200)]
        clients[0].send_text("end")
        for client in clients:
            lines = []
            while (line := client.receive_text()) != "end":
                lines.append(line)
            numbers = [int(line) for line in lines if line]
            assert numbers == list(range(numbers[0], 201))


def test_a_room_that_is_full_says_so_whoever_lets_in() -> None:
    with serve("--maxclients=2", "--maxrooms=1", "cat") as server, ExitStack() as stack:
        first, _ = (stack.enter_context(RawClient.connect(server)) for _ in range(2))
        for room, words in (
            ("room", "the room is full: 2 at most"),
            ("another", "no room left: 1 at most"),  # it was "all 1 rooms are in use"
        ):
            with RawClient.connect(server, room) as extra:
                assert extra.wait_close(timeout=30) == (1013, words)
        first.send_text("hello")
        assert first.receive_text() == "hello"


def test_who_has_to_be_asked_is_not_asked_on_the_acceptor_s_thread(tmp_path: Path) -> None:
    """A game that takes long to answer for one keeps nobody else waiting."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import os, time\n"
        "import scalesocket\n"
        "class Slow(scalesocket.Game):\n"
        "    @classmethod\n"
        "    def on_auth(cls, request):\n"
        "        while 'slow' in request.query and not os.path.exists('decided'):\n"
        "            time.sleep(0.01)\n"
        "        return 'bad' not in request.query\n"
    )
    with serve("slow:Slow", cwd=tmp_path) as server, ExitStack() as stack:
        slow = stack.enter_context(open_socket(server))
        lines = ["GET /room?slow HTTP/1.1", *(f"{key}: {value}" for key, value in GOOD.items())]
        slow.sendall("\r\n".join([*lines, "", ""]).encode())
        stack.enter_context(RawClient.connect(server))
        with pytest.raises(HandshakeRefused, match="401"):
            RawClient.connect(server, path="/room?bad")
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)
        (tmp_path / "decided").touch()
        slow.settimeout(30)
        assert slow.recv(100).startswith(b"HTTP/1.1 101 ")


def test_a_session_is_let_go_though_memory_ran_out_in_the_middle_of_that() -> None:
    """Once, "95 is not registered" was in the log."""
    reader = scalesocket.Reader("reader", Mock())
    left, right = socket.socketpair()
    with left, right, selectors.DefaultSelector() as selector:
        selector.register(left, selectors.EVENT_READ)
        session = Mock(descriptor=left.fileno())
        reader._selector = selector
        with patch.object(selector, "_selector", Mock(unregister=Mock(side_effect=MemoryError))):
            assert not reader._do(lambda: reader._unwatch(session))  # it is tried again
        assert reader._do(lambda: reader._unwatch(session))
        assert session.descriptor == -1
        assert not selector.get_map()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_a_session_is_read_though_the_system_could_not_watch_it_at_first(number: int) -> None:
    """It was dropped, and its client cut off in the middle."""
    reader = scalesocket.Reader("reader", Mock())
    left, right = socket.socketpair()
    with left, right, selectors.DefaultSelector() as selector:
        session = Mock(sock=left, descriptor=-1, want=scalesocket.Want.BYTES)
        reader._selector = selector
        refused = OSError(number, os.strerror(number))
        with patch.object(selector, "_selector", Mock(register=Mock(side_effect=refused))):
            assert not reader._do(lambda: reader.start_reading(session))  # it is tried again
        assert reader._do(lambda: reader.start_reading(session))
        assert session.descriptor == left.fileno()


def test_who_comes_is_heard_though_the_system_could_not_watch_its_socket_at_first() -> None:
    """It was dropped as soon as it had been accepted, and nothing told it so."""
    server = scalesocket.Server(parse_command_line(["cat"]))
    server.readers.help = Mock()  # type: ignore[method-assign]
    reader = server.readers.shared
    ours, theirs = socket.socketpair()
    refused = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with ours, theirs, selectors.DefaultSelector() as selector:
        reader._selector = selector
        with patch.object(selector, "_selector", Mock(register=Mock(side_effect=refused))):
            reader._do(partial(server.serve, scalesocket.HttpSession, ours, UNIX_PEER, b""))
            reader._call_due()
        theirs.sendall(b"GET /health HTTP/1.1\r\n\r\n")

        def is_heard() -> bool:
            reader.call_soon(lambda: None)  # so that this round does not wait
            reader._do_round()
            return server.readers.help.called

        wait_until(is_heard)


def test_a_time_limit_holds_though_memory_ran_out_as_it_was_set() -> None:
    """No client of that reader had one any more."""
    reader = scalesocket.Reader("reader", Mock())
    with patch.object(scalesocket.heapq, "heappush", side_effect=MemoryError):
        assert not reader._calls
        with pytest.raises(MemoryError):
            reader._watch_over()
    reader._watch_over()
    assert len(reader._calls) == 1


# ==== What a room need not know at once ===================================


def test_a_thread_that_waits_for_years_still_does_what_comes() -> None:
    """As the timer does with --linger and --ping 0: no system waits for so long in one piece."""
    poller, done = Poller("timer"), threading.Event()
    poller.call_later(999_999_999, done.clear)
    poller.start()
    try:
        poller.call_soon(done.set)
        assert done.wait(PATIENCE)
    finally:
        poller.stop()


def test_events_without_hurry_wait_for_the_next_but_not_for_ever() -> None:
    inbox, taken = DirectInbox(), []
    thread = threading.Thread(target=lambda: taken.append(inbox.take()))
    thread.start()
    wait_until(lambda: inbox._asleep)
    joined = Joined(None)  # type: ignore[arg-type]  # nobody looks at who it is
    for _ in range(100):
        inbox.put_quietly(joined)
    thread.join(0.2)
    assert not taken
    inbox.put_quietly(joined)
    thread.join(30)
    assert [len(events) for events in taken] == [101]


# ==== Turns ==================================================================


def test_only_a_fan_out_to_several_clients_takes_turns() -> None:
    """One for few would wait for all that a flood is sent."""
    one, crowd = [object()], [object()] * CROWD
    for items in ([], [(one, b"x")], [(one, b"x"), (one, b"y")]):
        assert take_turn(items) is NO_TURN
    for items in ([(crowd, b"x")], [(one, b"x")] * CROWD, [(one, b"x"), (crowd, b"y")]):
        assert take_turn(items) is TURN


def test_a_session_that_can_do_without_a_helper_goes_on() -> None:
    """One that wanted to wait for its answers, as at --tcplisten, has its end all the same."""

    class Unhurried(scalesocket.Session):
        def __init__(self) -> None:
            self._life = self.live()

        def live(self) -> scalesocket.Life:
            with contextlib.suppress(scalesocket.ShortageError):
                yield Want.HELPER
            yield Want.END

    readers, session = Readers(), Unhurried()
    readers.start_helper = Mock(side_effect=RuntimeError)
    assert session.resume() is Want.HELPER
    readers.help(session)
    assert session.want is Want.END
    assert len(readers.shared._calls) == 1  # to attend to it
