"""Clients that say nothing cost no thread, and lose nothing by it.

A reader ends when nothing has come for READER_PATIENCE, and begins again with the next byte. Most
tests here make that time short, so that it happens often, and at any moment.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest

from scalesocket import Inbox, Joined, Lobby, Turnstile, Visit
from tests.certificates import Certificates
from tests.support import (
    HandshakeRefused,
    RawClient,
    ServerProcess,
    open_socket,
    serve,
    wait_until,
    with_constants,
)
from tests.test_tls import join as join_securely

SHORT = 0.004  # seconds, a tick of many kernels
ROUNDS = 400
THREADS = 5  # of a server with no clients: main, acceptor, substitute, sender, timer


def connect(server: ServerProcess, room: str, trust: ssl.SSLContext | None) -> RawClient:
    return join_securely(server, trust, room) if trust else RawClient.connect(server, room)


# ==== Threads =============================================================


def test_only_clients_that_speak_cost_a_thread() -> None:
    with serve("cat", command=with_constants(READER_PATIENCE=0.3)) as server, ExitStack() as stack:
        crowd = [stack.enter_context(RawClient.connect(server)) for _ in range(50)]
        room = 3  # its own, and those that read the program's output and its errors
        wait_until(lambda: server.threads() <= THREADS + room)
        for number, client in enumerate(crowd):
            client.send_text(str(number))
        for client in crowd:
            assert sorted(map(int, client.receive_many(50))) == list(range(50))
        wait_until(lambda: server.threads() <= THREADS + room)
        crowd[7].send_text("again")
        assert {client.receive_text() for client in crowd} == {"again"}


def test_connections_that_never_say_anything_cost_no_thread_and_are_ended() -> None:
    with serve("cat", command=with_constants(HEAD_TIMEOUT=1.0)) as server, ExitStack() as stack:
        silent = []
        for _ in range(30):
            silent.append(stack.enter_context(open_socket(server)))
            time.sleep(0.02)  # they end one after the other, too
        assert server.threads() == THREADS
        with RawClient.connect(server) as client:
            for sock in silent:
                sock.settimeout(30)
                assert sock.recv(100) == b""
            client.send_text("still here")
            assert client.receive_text() == "still here"


def test_however_many_come_and_speak_one_timed_call_waits_for_those_who_do_not() -> None:
    timer = Mock()
    lobby = Lobby(Turnstile(1000), timer)
    lobby.poller = Mock()
    for _ in range(50):
        visit = Visit(Mock(), ("127.0.0.1", 1), Mock())
        lobby._expect(visit)
        del lobby._unheard[visit]
    assert timer.call_later.call_count == 1
    lobby._turn_out()
    lobby._expect(visit)
    assert timer.call_later.call_count == 2


# ==== Nothing is lost =====================================================


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_what_comes_as_a_reader_ends_is_not_lost(secure: bool, certs: Certificates) -> None:
    """Messages come about when the reader has lost patience, some in pieces, a thousand times."""
    trust, options = (certs.trust(), certs.options()) if secure else (None, ())
    command = with_constants(READER_PATIENCE=SHORT)
    problems: list[str] = []

    def talk(number: int) -> None:
        chance = random.Random(number)
        with connect(server, f"room{number}", trust) as client:
            for count in range(ROUNDS):
                text = f"{count}:" + "x" * chance.choice((0, 10, 2000))
                client.send_text(text)
                if (heard := client.receive_text()) != text:
                    problems.append(f"{text[:20]!r} came back as {heard[:20]!r}")
                time.sleep(chance.uniform(0, 2 * SHORT))

    with serve(*options, "cat", command=command) as server:
        threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
    assert not problems


def test_a_frame_may_stop_anywhere_for_longer_than_a_reader_waits() -> None:
    with serve("cat", command=with_constants(READER_PATIENCE=SHORT)) as server:
        with RawClient.connect(server) as client:
            frame = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")  # RFC 6455 section 5.7
            for cut in range(len(frame)):
                client.send_bytes(frame[:cut])
                time.sleep(5 * SHORT)
                client.send_bytes(frame[cut:])
                assert client.receive_text() == "Hello"


def test_clients_that_leave_while_nobody_reads_them_are_missed_at_once() -> None:
    command = with_constants(READER_PATIENCE=SHORT)
    options = ("--clientframe=json", '--joinmsg={"t":"+"}', '--leavemsg={"t":"-"}', "cat")
    with serve(*options, command=command) as server, RawClient.connect(server) as witness:
        assert "+" in witness.receive_text()
        for number in range(60):
            client = RawClient.connect(server)
            assert "+" in witness.receive_text()
            time.sleep(SHORT * (number % 3))
            if number % 3 == 0:
                client.reset()
            elif number % 3 == 1:
                client.sock.close()
            else:
                client.receive_text()
                assert client.close() == (1000, "")
            assert "-" in witness.receive_text()
        wait_until(lambda: server.descriptors() < 40)


def test_a_slow_close_is_waited_for_however_short_a_reader_s_patience() -> None:
    """Closing with unread bytes would be a reset, and the client would lose what it was told."""
    program = ("sh", "--", "-c", "read line; echo last words")
    with serve(*program, command=with_constants(READER_PATIENCE=SHORT)) as server:
        with RawClient.connect(server) as client:
            client.send_text("go")
            assert client.receive_text() == "last words"
            time.sleep(20 * SHORT)  # the server's Close has come, and is not answered yet
            client.send_binary(b"x" * 1000)
            assert client.wait_close()[0] == 1000


# ==== Who is let in without a reader ======================================

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


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("path", ["/room", "/a/b", "/", "/api", "/%ff", "/r?name=x"])
def test_an_answer_does_not_depend_on_how_the_request_was_cut(
    name: str, path: str, answers: ServerProcess
) -> None:
    """In one piece it is for the acceptor to answer, if it can; in two it is for a reader."""
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


def test_frames_that_come_with_the_request_are_heard() -> None:
    frame = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
    with serve("cat") as server:
        for number in range(50):
            with open_socket(server) as sock:
                client = RawClient(sock)
                client.upgrade("localhost", f"/room{number % 7}", {}, behind=frame * 2)
                assert client.receive_many(2) == [b"Hello", b"Hello"]


def test_a_crowd_comes_in_at_once_and_all_hear_the_same() -> None:
    """Some are let in by the acceptor, some by readers, while the room is told things."""
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
        for room in ("room", "another"):
            with RawClient.connect(server, room) as extra:
                assert extra.wait_close(timeout=30)[0] == 1013
        first.send_text("hello")
        assert first.receive_text() == "hello"


def test_who_has_to_be_asked_is_not_asked_on_the_acceptor_s_thread(tmp_path: Path) -> None:
    """A game that takes long to answer for one keeps nobody else waiting."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import time\n"
        "import scalesocket\n"
        "class Slow(scalesocket.Game):\n"
        "    @classmethod\n"
        "    def on_auth(cls, request):\n"
        "        time.sleep(3 if 'slow' in request.query else 0)\n"
        "        return 'bad' not in request.query\n"
    )
    with serve("slow:Slow", cwd=tmp_path) as server, ExitStack() as stack:
        slow = stack.enter_context(open_socket(server))
        lines = ["GET /room?slow HTTP/1.1", *(f"{key}: {value}" for key, value in GOOD.items())]
        slow.sendall("\r\n".join([*lines, "", ""]).encode())
        begin = time.monotonic()
        stack.enter_context(RawClient.connect(server))
        with pytest.raises(HandshakeRefused, match="401"):
            RawClient.connect(server, path="/room?bad")
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)
        assert time.monotonic() - begin < 3
        slow.settimeout(30)
        assert slow.recv(100).startswith(b"HTTP/1.1 101 ")


# ==== What a room need not know at once ===================================


def test_events_without_hurry_wait_for_the_next_but_not_for_ever() -> None:
    inbox, taken = Inbox(), []
    thread = threading.Thread(target=lambda: taken.append(inbox.take()))
    thread.start()
    wait_until(lambda: inbox._idle)
    joined = Joined(None)  # type: ignore[arg-type]  # nobody looks at who it is
    for _ in range(100):
        inbox.put(joined, urgent=False)
    thread.join(0.2)
    assert not taken
    inbox.put(joined, urgent=False)
    thread.join(30)
    assert [len(events) for events in taken] == [101]
