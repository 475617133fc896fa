"""--workers: rooms spread over processes, behind one port."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import math
import os
import random
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from scalesocket.net import peers, relay
from scalesocket.net.workers import (
    PEER_TIMEOUT,
    RESTART_PAUSE,
    ChannelListener,
    Supervisor,
    Worker,
    decode_answer,
    encode_answer,
    make_channel,
    make_channels,
    merge_metrics,
)

from scalesocket import HttpSession, Server, json_response, parse_command_line
from tests.children.test_tcp import free_ports, spell
from tests.support import (
    PATIENCE,
    SCRIPT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    drain,
    encode_client_frames,
    free_port,
    http_request,
    open_socket,
    read_process,
    run_cli,
    serve,
    settled,
    wait_until,
    with_constants,
    with_constants_of,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

CRASHED = (1012, "the process that had this room has ended")


def owner(room: str, count: int = 2) -> int:
    """Return the index of the worker that has a room."""
    return zlib.crc32(room.encode()) % count


def room_of(worker: int, number: int = 0, count: int = 2) -> str:
    """Return the name of a room that a worker has; another one for each number."""
    found = (name for name in (f"room-{i}" for i in range(10_000)) if owner(name, count) == worker)
    return next(name for at, name in enumerate(found) if at == number)


def workers_of(server: ServerProcess) -> dict[int, int]:
    """Return the processes of the workers, by index: the last that was started for each."""
    found = (re.search(r"worker (\d+) is process (\d+)", line) for line in server.log())
    return {int(match[1]): int(match[2]) for match in found if match}


@contextlib.contextmanager
def spread(*options: str, count: int = 2, **more: Any) -> Iterator[ServerProcess]:
    with serve(f"--workers={count}", "-v", *options, **more) as server:
        wait_until(lambda: len(workers_of(server)) == count)
        yield server


def crash(server: ServerProcess, worker: int) -> None:
    """Kill a worker, and wait for the one in its place."""
    pid = workers_of(server)[worker]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: workers_of(server)[worker] != pid)


def is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process have heeded SIGSTOP."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks} == {"T"}


def say(client: RawClient, text: str) -> None:
    client.send_text(text)
    assert client.receive_text() == text


# ==== 1. Rooms ===========================================================================


def test_all_clients_of_a_room_meet_whoever_has_accepted_them() -> None:
    with spread("cat", count=3) as server, contextlib.ExitStack() as opened:
        for number in range(24):
            pair = [
                opened.enter_context(RawClient.connect(server, f"room-{number}")) for _ in range(2)
            ]
            pair[0].send_text(f"hello {number}")
            assert [client.receive_text() for client in pair] == [f"hello {number}"] * 2


def test_a_room_is_in_the_process_that_the_hash_of_its_name_says() -> None:
    # The game's parent is the worker that has its room.
    with spread("sh", "--", "-c", "echo $PPID; cat", "--linger=5") as server:
        for name in ("lobby", "späti", "a b", "x" * 128):
            path = "/" + "".join(f"%{byte:02x}" for byte in name.encode())
            with RawClient.connect(server, path=path) as client:
                assert int(client.receive_text()) == workers_of(server)[owner(name)]


def test_what_comes_right_behind_the_request_is_handed_over_with_it() -> None:
    messages = ["one", "x" * 30_000, "three"]
    with spread("cat") as server:
        for number in range(20):
            with RawClient(open_socket(server)) as client:
                frames = encode_client_frames(messages)
                client.upgrade("localhost", f"/room-{number}", {}, behind=frames)
                assert [client.receive_text() for _ in messages] == messages


def test_a_connection_that_has_had_answers_may_still_become_a_client() -> None:
    with spread("cat", "--api") as server:
        for number in range(10):
            http = HTTPConnection(server.host, server.port)
            for _ in range(3):
                http.request("GET", "/api/")
                assert json.loads(http.getresponse().read())["target"] == "cat"
            with RawClient(http.sock) as client:
                client.upgrade("localhost", f"/room-{number}", {})
                say(client, "still here")


def test_ids_are_unique_over_all_workers_and_their_replacements() -> None:
    script = 'while read -r line; do echo "$line"; done'
    with spread("--joinmsg=#ID", "sh", "--", "-c", script, count=3) as server:
        seen = []
        for turn in range(3):
            for number in range(12):
                with RawClient.connect(server, f"room-{turn}-{number}") as client:
                    seen.append(int(client.receive_text()))
            crash(server, turn)
        assert len(set(seen)) == len(seen) == 36
        assert min(seen) >= 1


def test_lines_of_text_meet_websockets() -> None:
    with spread("--tcplisten=127.0.0.1:0", "cat") as server:
        match = server.wait_log(r"lines of text at (\S+) on port (\d+)")
        for number in range(12):
            name = f"room-{number}"
            with (
                RawClient.connect(server, name) as client,
                socket.create_connection((match[1], int(match[2])), 10) as line,
            ):
                line.sendall(f"{name}\nfirst\n".encode())
                assert client.receive_text() == "first"
                assert line.recv(100) == b"first\n"


def test_a_proxys_word_about_the_client_is_handed_over() -> None:
    with spread("--trustproxy=127.0.0.1", "--joinmsg=#REMOTE_ADDR", "cat") as server:
        for number in range(10):
            with RawClient(open_socket(server)) as client:
                client.send_bytes(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n")
                client.upgrade("localhost", f"/room-{number}", {})
                assert client.receive_text() == "192.0.2.7"


def test_a_unix_socket_is_served_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with spread(f"--unixsocket={path}", "cat") as server:
        for number in range(10):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(os.fspath(path))
            with RawClient(sock) as client:
                client.upgrade("localhost", f"/room-{number}", {})
                say(client, "hello")
        crash(server, 0)
        assert path.exists()
    assert not path.exists()


def test_each_worker_has_its_own_ports_for_children() -> None:
    program = (
        "import os, socket\n"
        "port = int(os.environ['PORT'])\n"
        "sock, _ = socket.create_server(('127.0.0.1', port)).accept()\n"
        "sock.sendall(b'%d\\n' % port)\n"
        "sock.recv(1)\n"
    )
    ports = free_ports(20)
    options = ("--tcp", "--delay=0", "--tcpports", spell(ports), "python3", "--", "-c", program)
    with spread(*options) as server, contextlib.ExitStack() as opened:
        for number in range(8):
            client = opened.enter_context(RawClient.connect(server, f"room-{number}"))
            first = ports[0] + 10 * owner(f"room-{number}")
            assert first <= int(client.receive_text()) < first + 10


# ==== 2. One answer for all ==============================================================


def test_the_api_and_the_metrics_answer_for_all_workers() -> None:
    patient = with_constants("scalesocket.net.workers", ANSWER_TIMEOUT=PATIENCE)
    with (
        spread("--api", "--metrics", "cat", count=3, command=patient) as server,
        contextlib.ExitStack() as opened,
    ):
        names = {f"room-{number}" for number in range(9)}
        for name in names:
            say(opened.enter_context(RawClient.connect(server, name)), "hello")
        for _ in range(12):  # whoever answers
            listing = json.loads(http_request(server, path="/api/rooms/").body)
            assert {room["name"] for room in listing} == names
            assert len(listing) == len(names)
            for name in names:
                about = json.loads(http_request(server, path=f"/api/{name}/").body)
                assert about == {"name": name, "connections": 1, "metadata": None}
            metrics = http_request(server, path="/metrics").body.decode()
            rooms = re.findall(r'scalesocket_rooms\{worker="(\d)"\} (\d+)', metrics)
            assert [index for index, _ in rooms] == ["0", "1", "2"]
            assert sum(int(number) for _, number in rooms) == len(names)
            assert metrics.count("# TYPE scalesocket_rooms gauge") == 1
            assert metrics.endswith("\n# EOF\n")
        assert http_request(server, path="/api/nowhere/").status == 404
        assert http_request(server, path="/api/room-1/nothing").status == 404
        assert http_request(server, path="/health").status == 200


def test_a_worker_that_does_not_answer_is_left_out() -> None:
    """Stopped by a debugger, or by a swapping machine: the others' rooms are still told."""
    with spread("--api", "--metrics", "cat") as server, contextlib.ExitStack() as opened:
        for worker in range(2):
            say(opened.enter_context(RawClient.connect(server, room_of(worker))), "hello")
        pid = workers_of(server)[1]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(pid))  # until then it may accept what is asked below
        try:
            for _ in range(2):
                listing = json.loads(http_request(server, path="/api/rooms/").body)
                assert [room["name"] for room in listing] == [room_of(0)]
                assert http_request(server, path=f"/api/{room_of(1)}/").status == 503
                assert 'worker="1"' not in http_request(server, path="/metrics").body.decode()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert wait_until(
            lambda: len(json.loads(http_request(server, path="/api/rooms/").body)) == 2
        )


def test_who_does_not_answer_takes_no_answer_away_from_others() -> None:
    """They were read one after the other, so that one took all the time that there was."""
    channels = [make_channels() for _ in range(3)]
    here, there = socket.socketpair()

    def answer() -> None:
        _, (descriptor,), _, _ = socket.recv_fds(channels[2]["question"][0], 1000, 1)
        with socket.socket(fileno=descriptor) as sock:
            sock.sendall(encode_answer(json_response("[]")))

    with contextlib.ExitStack() as opened:
        for end in (here, there, *(end for pairs in channels for x in pairs.values() for end in x)):
            opened.enter_context(end)
        thread = threading.Thread(target=answer)
        thread.start()
        worker = Worker(0, channels, there, 1, None)
        # The first takes the question, and no more.
        told = worker._ask([1, 2], "/api/rooms/?local", 3.0)
        thread.join()
    assert {index: response.body for index, response in told.items()} == {2: b"[]"}


def test_a_node_is_not_taken_for_silent_because_one_of_its_workers_is() -> None:
    """Others left it out for 5 s: they opened rooms of its other workers, too, and listed none."""
    assert PEER_TIMEOUT < relay.ASK_TIMEOUT
    assert PEER_TIMEOUT < peers.PATIENCE
    one, two = (f"127.0.0.1:{free_port()}" for _ in range(2))
    endless = with_constants("scalesocket.net.workers", ANSWER_TIMEOUT=3600)
    patient = with_constants_of(
        {
            "scalesocket.net.relay": {"ASK_TIMEOUT": PATIENCE, "LEFT_OUT": 3600},
            "scalesocket.net.peers": {"PATIENCE": PATIENCE},
        }
    )
    options = ("--api", "--metrics", "cat")
    with (
        spread("--peers", two, *options, addr=one, command=endless) as node,
        serve("--peers", one, *options, addr=two, command=patient) as asker,
        RawClient.connect(node, room_of(0)) as ann,
    ):
        say(ann, "hello")
        pid = workers_of(node)[1]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(pid))
        try:
            with RawClient.connect(asker, room_of(1)) as bob:
                say(bob, "nobody answers for this room")
            with RawClient.connect(asker, room_of(0)) as cid:
                cid.send_text("to the one that is open")
                assert ann.receive_text() == "to the one that is open"
            listing = json.loads(http_request(asker, path="/api/rooms/").body)
            assert room_of(0) in {room["name"] for room in listing}
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_worker_that_has_too_many_questions_before_it_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each further one waited 5 s until there was room, and wrote a line into the log."""
    monkeypatch.setattr("scalesocket._reported", {})  # another test may just have had it told
    channels = [make_channels() for _ in range(2)]
    here, there = socket.socketpair()
    outside = channels[1]["question"][1]
    assert (outside.gettimeout() or 0) < PEER_TIMEOUT
    with contextlib.ExitStack() as opened:
        for end in (here, there, *(end for pairs in channels for x in pairs.values() for end in x)):
            opened.enter_context(end)
        worker = Worker(0, channels, there, 1, None)
        with pytest.raises(TimeoutError):
            while True:
                outside.send(b"?")
        for _ in range(2):
            assert worker._ask([1], "/metrics", 3600) == {}
    told = [record.levelname for record in caplog.records if "takes no" in record.message]
    assert told.count("ERROR") == 1


def test_what_is_handed_over_waits_until_there_is_a_descriptor_for_it() -> None:
    """It was taken without its descriptor: the client was cut off, and nobody told it why."""
    inside, outside = make_channel()
    client, served = socket.socketpair()
    most, ceiling = resource.getrlimit(resource.RLIMIT_NOFILE)
    with inside, outside, client:
        for word in (b"one", b"two"):
            socket.send_fds(outside, [b'["::1", 7]\n' + word], [served.fileno()])
        served.close()
        listener = ChannelListener(inside, Mock(), HttpSession)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, ceiling))
        try:
            for _ in range(2):
                with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                    listener.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, ceiling))
        for word in (b"one", b"two"):
            sock, address, early = listener.accept()
            assert (address, early) == (("::1", 7), word)
            sock.sendall(word)
            sock.close()
        with pytest.raises(BlockingIOError):
            listener.accept()
        client.settimeout(PATIENCE)
        heard = b"".join(iter(functools.partial(client.recv, 10), b""))
        assert heard == b"onetwo"  # and that is the end: nobody has kept it open


def test_an_answer_that_is_cut_off_is_none() -> None:
    """What a worker had said before it crashed spoilt the list of all others."""
    answer = encode_answer(json_response('[{"name": "a"}, {"name": "b"}]'))
    assert decode_answer(answer).body == b'[{"name": "a"}, {"name": "b"}]'
    for size in range(len(answer)):
        with pytest.raises(ValueError):
            decode_answer(answer[:size])


def test_merged_metrics_keep_families_together() -> None:
    texts = {
        0: '# TYPE a counter\n# HELP a A.\na_total 1\n# TYPE b gauge\nb{room="{} 1\\""} 2\n# EOF\n',
        2: "# TYPE a counter\n# HELP a A.\na_total 3\n# TYPE b gauge\n# EOF\n",
    }
    assert merge_metrics(texts) == (
        '# TYPE a counter\n# HELP a A.\na_total{worker="0"} 1\na_total{worker="2"} 3\n'
        '# TYPE b gauge\nb{worker="0",room="{} 1\\""} 2\n# EOF\n'
    )


def test_a_merged_sample_keeps_its_labels_as_they_are() -> None:
    """A room `a,}` was told of as `a}`, which may be another one: a sample that is there twice."""
    text = '# TYPE b gauge\nb{room="a,}"} 1\nb{room="a}"} 2\nb{room=",} 3"} 4\n# EOF\n'
    assert merge_metrics({5: text}) == text.replace("{room", '{worker="5",room')


# ==== 3. Crashes =========================================================================


def test_a_crashed_worker_is_replaced_and_its_clients_are_told_and_others_do_not_notice() -> None:
    with spread("cat") as server, contextlib.ExitStack() as opened:
        mine = [opened.enter_context(RawClient.connect(server, room_of(0, n))) for n in range(5)]
        others = [opened.enter_context(RawClient.connect(server, room_of(1, n))) for n in range(5)]
        for client in mine + others:
            say(client, "before")
        mine[0].send_bytes(b"\x81")  # unread, or half a frame: the Close must arrive all the same
        crash(server, 0)
        assert [client.wait_close() for client in mine] == [CRASHED] * 5
        for client in others:
            say(client, "after")
        for number in range(5):
            with RawClient.connect(server, room_of(0, number)) as client:
                say(client, "anew")
        assert server.wait_log(r"worker 0 \(process \d+\) has ended with signal 9 ")


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ECONNRESET])
def test_a_client_whose_machine_is_gone_ends_nobody_but_itself(number: int) -> None:
    """What TCP says of one that had its Close was an error of the parent, and ended the server."""

    class Lost(socket.socket):
        def recv(self, *_args: Any) -> bytes:
            raise OSError(number, os.strerror(number))

    supervisor = Supervisor(Server(parse_command_line(["--workers=2", "cat"])), 2)
    here, there = socket.socketpair()
    with here, selectors.DefaultSelector() as supervisor._selector:
        sock = Lost(fileno=there.detach())
        supervisor._dismiss(sock, b"farewell")
        here.sendall(b"x")  # wakes it up
        for key, _ in supervisor._selector.select(PATIENCE):
            key.data()
        assert here.recv(100) == b"farewell"
        assert (supervisor._leaving, sock.fileno()) == ({}, -1)


def test_what_comes_while_a_worker_is_replaced_waits_for_the_next() -> None:
    with spread("cat") as server:
        for _ in range(3):
            pid = workers_of(server)[0]
            os.kill(pid, signal.SIGKILL)
            wait_until(functools.partial(is_gone, pid))
            with RawClient.connect(server, room_of(0)) as client:
                say(client, "hello")
            wait_until(lambda pid=pid: workers_of(server)[0] != pid)  # it may serve before that


def test_a_worker_that_crashes_again_and_again_is_not_started_without_pause() -> None:
    with spread("cat") as server:
        began = time.monotonic()
        for _ in range(3):  # the first of them had been there for a while
            crash(server, 0)
        assert time.monotonic() - began >= 2 * RESTART_PAUSE


def test_descriptors_and_processes_are_back_where_they_began() -> None:
    with spread("cat") as server:
        with RawClient.connect(server, room_of(0)) as client:
            say(client, "warm")
        before = settled(server.descriptors)
        for turn in range(200):
            with RawClient.connect(server, f"room-{turn}") as client:
                say(client, "hello")
        wait_until(lambda: server.descriptors() <= before)
        crash(server, 0)
        crash(server, 1)
        wait_until(lambda: server.descriptors() <= before)


def test_a_new_worker_has_no_descriptor_of_what_only_others_are_to_have() -> None:
    """Neither clients of another worker nor those of the one that has crashed."""

    def count() -> int:
        return len(os.listdir(f"/proc/{workers_of(server)[0]}/fd"))

    def visit() -> None:
        with RawClient.connect(server, room_of(0)) as client:
            say(client, "hello")

    with spread("cat") as server, contextlib.ExitStack() as opened:
        visit()
        before = settled(count)
        for index, number in itertools.product((0, 1), range(5)):
            client = opened.enter_context(RawClient.connect(server, room_of(index, number)))
            say(client, "hello")
        crash(server, 0)
        visit()
        wait_until(lambda: count() <= before)


def test_clients_of_crashing_workers_get_back_and_nothing_is_mixed_up() -> None:
    """Twenty clients play on while workers are killed at random moments."""
    stop = threading.Event()
    trouble: list[str] = []
    counts = [0] * 20

    def play(number: int) -> None:
        while not stop.is_set():
            try:
                with RawClient.connect(server, f"room-{number}") as client:
                    while not stop.is_set():
                        text = f"{number} {counts[number]}"
                        client.send_text(text)
                        got = client.receive_text()
                        if got != text:
                            trouble.append(f"{number} got {got!r} for {text!r}")
                        counts[number] += 1
            except Closed as closed:
                if (closed.code, closed.reason) != CRASHED:
                    trouble.append(f"{number} was closed with {closed}")
            except (OSError, EOFError, HandshakeRefused):  # cut in the middle of its handshake
                time.sleep(0.01)

    with spread("cat") as server:
        threads = [threading.Thread(target=play, args=(n,)) for n in range(len(counts))]
        for thread in threads:
            thread.start()
        chance = random.Random(7)
        for _ in range(6):
            time.sleep(chance.uniform(0.5, 1.0))
            once_more = [count + 1 for count in counts]
            crash(server, chance.randrange(2))
            wait_until(functools.partial(all_greater, counts, once_more))
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
    assert not trouble
    assert min(counts) > 10


def all_greater(these: list[int], those: list[int]) -> bool:
    return all(this > that for this, that in zip(these, those, strict=True))


def test_programs_of_a_crashed_worker_are_stopped() -> None:
    """Those that do not heed the end of their stdin ran on, also after the server had ended."""
    script = "trap '' INT TERM; echo $$; sleep 1000"
    with spread("sh", "--", "-c", script) as server:
        with RawClient.connect(server, room_of(0)) as client:
            pid = int(client.receive_text())
            crash(server, 0)
            wait_until(lambda: is_gone(pid))
            assert client.wait_close() == CRASHED
        with RawClient.connect(server, room_of(1)) as client:
            pid = int(client.receive_text())
            os.kill(server.pid, signal.SIGTERM)
            os.kill(workers_of(server)[1], signal.SIGKILL)
            wait_until(lambda: server.process.poll() is not None)
            assert is_gone(pid)


def test_a_second_signal_ends_what_crashed_workers_have_left_at_once() -> None:
    script = "trap '' INT TERM; echo $$; sleep 1000"
    with spread("--closegrace=1000", "sh", "--", "-c", script) as server:
        with RawClient.connect(server, room_of(0)) as client:
            pid = int(client.receive_text())
            crash(server, 0)
            server.wait_log(f"process {pid} is left of a worker, and is stopped")
            os.kill(server.pid, signal.SIGTERM)
            server.wait_log(r"\] stopping")
            server.signal_again()
            wait_until(lambda: server.process.poll() is not None)
            assert is_gone(pid)


def test_a_second_signal_just_as_a_worker_starts_ends_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where it came as signals were let through, the worker ended with a traceback."""

    def be_told(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scalesocket.net.workers.signal.pthread_sigmask", be_told)
    monkeypatch.setattr("scalesocket.net.workers.os._exit", sys.exit)
    server = Mock()
    supervisor = Supervisor(server, 2)
    supervisor._channels, supervisor._selector = [], Mock()
    with pytest.raises(SystemExit, match="1"):
        supervisor._become(Mock(), 0, {})
    server.kill.assert_called_once_with()
    assert capfd.readouterr().err == ""


FORKS = """
import os
import time
from scalesocket import Game

class Forks(Game):
    def on_create(self, room):
        self.room = room
        if os.fork() == 0:
            while not os.path.exists("gate"):
                time.sleep(0.01)
            os._exit(0)

    def on_message(self, client, message):
        self.room.broadcast(message)
"""


def test_what_a_game_has_forked_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It holds all that its worker had open, so its crash, and its end, were not noticed."""
    (tmp_path / "forks.py").write_text(FORKS)
    with spread("--drain=100", "forks:Forks", cwd=tmp_path) as server:
        clients = [RawClient.connect(server, room_of(n)) for n in range(2)]
        say(clients[0], "hello")
        crash(server, 0)
        assert clients[0].wait_close() == CRASHED
        clients[0] = RawClient.connect(server, room_of(0))
        say(clients[0], "hello again")
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: http_request(server, path="/health").status == 503)
        clients[0].reset()  # it has the connections, too, so the server cannot end them
        pid = workers_of(server)[0]
        wait_until(lambda: is_gone(pid))
        with pytest.raises(HandshakeRefused, match="503"):
            RawClient.connect(server, room_of(0))
        say(clients[1], "alone")
        clients[1].reset()
        wait_until(lambda: server.process.poll() == 0)
        (tmp_path / "gate").touch()


# ==== 4. The end =========================================================================

WAITS = """
import os
import time
from scalesocket import Game

class Waits(Game):
    def on_dispose(self):
        while not os.path.exists("gate"):
            time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_workers_and_their_clients_are_told(number: signal.Signals) -> None:
    with spread("cat") as server, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(RawClient.connect(server, f"room-{n}")) for n in range(8)]
        os.kill(server.pid, number)
        assert {client.wait_close()[0] for client in clients} == {1001}
        assert server.wait() == 0


def signal_all(server: ServerProcess, number: signal.Signals) -> None:
    """Send a signal to the workers, and then to their parent, as systemd and `pkill` do.

    Each worker has got its own before the parent's.
    """
    for pid in workers_of(server).values():
        os.kill(pid, number)
        wait_until(functools.partial(has_taken, pid, number))
    server.signal_again(number)


def has_taken(pid: int, number: signal.Signals) -> bool:
    """Whether no such signal waits for a process any more."""
    text = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"(?m)^(?:SigPnd|ShdPnd):\t(\w+)$", text)
    return not any(int(mask, 16) & 1 << number - 1 for mask in masks)


@contextlib.contextmanager
def rooms_that_wait(folder: Path) -> Iterator[tuple[ServerProcess, list[RawClient]]]:
    """Serve a room in each of two workers; they end when there is a file "gate", or are cut off."""
    (folder / "waits.py").write_text(WAITS)
    command = with_constants("scalesocket", END_TIMEOUT=1000.0)
    with spread("waits:Waits", cwd=folder, command=command) as server:
        with contextlib.ExitStack() as opened:
            connect = functools.partial(RawClient.connect, server)
            yield server, [opened.enter_context(connect(room_of(n))) for n in range(2)]


def wait_until_over(server: ServerProcess) -> None:
    """Wait until both workers have begun to stop, which their parent has told them by then."""
    for number in range(2):
        server.wait_log(f"worker {number} takes no more connections")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_at_once_is_one_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A worker counted its own and its parent's, and a second one cuts all off."""
    (tmp_path / "waits.py").write_text(WAITS)
    with rooms_that_wait(tmp_path) as (server, clients):
        signal_all(server, number)
        wait_until_over(server)
        (tmp_path / "gate").touch()
        assert [client.wait_close()[0] for client in clients] == [1001, 1001]
        assert server.wait() == 0
        assert not any("has ended with" in line for line in server.log())


def test_a_second_signal_to_all_processes_ends_them_at_once(tmp_path: Path) -> None:
    with rooms_that_wait(tmp_path) as (server, _):
        signal_all(server, signal.SIGTERM)
        wait_until_over(server)
        signal_all(server, signal.SIGTERM)
        assert server.wait() == 1  # though the gate is shut


def test_a_second_signal_ends_a_worker_that_hangs_too() -> None:
    """Its parent waited for it without end: the server could only be killed, worker by worker."""
    with spread("cat") as server, RawClient.connect(server, room_of(1)) as client:
        say(client, "hello")
        pid = workers_of(server)[1]
        os.kill(pid, signal.SIGSTOP)  # as code in C does that keeps the interpreter lock
        try:
            os.kill(server.pid, signal.SIGTERM)
            server.wait_log(r"\] stopping")
            server.signal_again()
            assert client.wait_close() == CRASHED
            assert server.wait() == 1
            assert is_gone(pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        assert f"[ERROR] worker 1 (process {pid}) hangs, and is killed" in server.log()


def test_workers_drain_when_all_processes_get_the_signal_at_once() -> None:
    with spread("--drain=600", "cat") as server, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(RawClient.connect(server, room_of(n))) for n in range(2)]
        signal_all(server, signal.SIGTERM)
        wait_until(lambda: sum("draining for" in line for line in server.log()) == 2)
        for client in clients:
            say(client, "still playing")
            client.close()
        assert server.wait() == 0


def test_a_worker_alone_does_not_heed_signals_until_its_parent_is_gone() -> None:
    """Its parent would take it for crashed."""
    with spread("cat") as server, RawClient.connect(server, room_of(0)) as client:
        pid = workers_of(server)[0]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
            wait_until(functools.partial(has_taken, pid, number))
        say(client, "hello")
        assert workers_of(server)[0] == pid


def test_orphaned_workers_heed_a_second_signal(tmp_path: Path) -> None:
    """They stop by themselves, which takes its time."""
    with rooms_that_wait(tmp_path) as (server, _):
        pids = workers_of(server).values()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: sum("] stopping" in line for line in server.log()) == 2)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: all(map(is_gone, pids)))  # though the gate is shut


def test_a_worker_that_crashes_before_it_hears_of_a_signal_stops_nobody(tmp_path: Path) -> None:
    """What it has not read resets the line to its parent, which goes on."""
    with rooms_that_wait(tmp_path) as (server, clients):
        pid = workers_of(server)[0]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(pid))
        os.kill(server.pid, signal.SIGTERM)
        server.wait_log("worker 1 takes no more connections")  # so the other has been told, too
        os.kill(pid, signal.SIGKILL)
        assert clients[0].wait_close() == CRASHED
        (tmp_path / "gate").touch()
        assert server.wait() == 1  # as one has failed


def test_a_signal_at_any_moment_of_the_start_ends_it() -> None:
    for number in range(20):
        with serve("--workers=3", "cat", ready=False) as server:
            if number:
                server.wait_ready()
                time.sleep(number / 2000)
            else:
                server.wait_log("running at")
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait() == 0


def test_all_workers_drain() -> None:
    with spread("--drain=600", "cat") as server, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(RawClient.connect(server, room_of(n))) for n in range(2)]
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: sum("draining for" in line for line in server.log()) == 2)
        wait_until(lambda: http_request(server, path="/health").status == 503)
        for client in clients:
            say(client, "still playing")
        for worker in range(2):
            with pytest.raises(HandshakeRefused, match="503"):
                RawClient.connect(server, room_of(worker, 5))
        clients[0].close()  # its worker has no rooms left, and ends; the other one goes on
        pid = workers_of(server)[0]
        wait_until(lambda: is_gone(pid))
        say(clients[1], "alone")
        with pytest.raises(HandshakeRefused, match="503"):
            RawClient.connect(server, room_of(0))
        with RawClient.connect(server, room_of(1)) as late:
            say(late, "there is room")
            clients[1].close()
        assert server.wait() == 0


def test_a_unix_socket_can_be_joined_while_workers_drain(tmp_path: Path) -> None:
    """Its file was removed when that began."""
    path = tmp_path / "socket"
    with spread("--drain=100", f"--unixsocket={path}", "cat") as server:
        clients = [RawClient.connect(server, room_of(n)) for n in range(2)]
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: http_request(server, path="/health").status == 503)
        for number in range(2):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(os.fspath(path))
            with RawClient(sock) as late:
                late.upgrade("localhost", f"/{room_of(number)}", {})
                say(late, "there is room")
        for number in range(2):
            clients[number].close()
            server.wait_log(f"worker {number} takes no more connections")
        wait_until(lambda: not path.exists())
        assert server.wait() == 0


def test_who_comes_for_a_worker_that_waits_to_be_started_again_is_refused_at_the_end() -> None:
    """It waited in the channel of a worker that was never started."""
    command = with_constants("scalesocket.net.workers", RESTART_PAUSE=1000.0)
    with spread("--drain=100", "cat", command=command) as server:
        with RawClient.connect(server, room_of(1)) as client:
            say(client, "hello")
            os.kill(workers_of(server)[0], signal.SIGKILL)
            server.wait_log("worker 0 .* has ended with signal 9")
            os.kill(server.pid, signal.SIGTERM)
            wait_until(lambda: http_request(server, path="/health").status == 503)
            with pytest.raises(HandshakeRefused, match="503"):
                RawClient.connect(server, room_of(0))
        assert server.wait() == 0


def test_who_comes_for_a_worker_that_has_drained_but_not_ended_is_refused(tmp_path: Path) -> None:
    """It waited in the channel until the last room of that worker had been disposed of."""
    (tmp_path / "waits.py").write_text(WAITS)
    with spread("--drain=100", "waits:Waits", cwd=tmp_path) as server:
        clients = [RawClient.connect(server, room_of(n)) for n in range(2)]
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: http_request(server, path="/health").status == 503)
        clients[0].close()
        server.wait_log("worker 0 takes no more connections")
        with pytest.raises(HandshakeRefused, match="503"):
            RawClient.connect(server, room_of(0))
        (tmp_path / "gate").touch()
        clients[1].close()
        assert server.wait() == 0


def test_a_parent_that_stands_still_holds_nobody_up() -> None:
    """Workers stood still, too, once it had not heard of some 280 who had come or gone."""
    with spread("cat") as server, contextlib.ExitStack() as opened:
        room, before = room_of(0), server.descriptors()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: is_stopped(server.pid))
            clients = [opened.enter_context(RawClient.connect(server, room))]
            for _ in range(300):
                with RawClient.connect(server, room):
                    pass
            for _ in range(20):  # so many visitors it never knows at a time
                clients.append(opened.enter_context(RawClient.connect(server, room)))
            clients[0].send_text("hello")
            assert [client.receive_text() for client in clients] == ["hello"] * 21
        finally:
            os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: server.descriptors() == before + len(clients))
        crash(server, 0)
        for client in clients:
            assert client.wait_close() == CRASHED


def test_whom_a_worker_named_just_before_it_crashed_is_told() -> None:
    with spread("cat") as server, contextlib.ExitStack() as opened:
        worker = workers_of(server)[0]
        os.kill(server.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: is_stopped(server.pid))
            rooms = [room_of(0, number) for number in range(5)]
            clients = [opened.enter_context(RawClient.connect(server, room)) for room in rooms]
            for client in clients:
                say(client, "hello")
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: (it := read_process(worker)) and it.state == "Z")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert [client.wait_close() for client in clients] == [CRASHED] * 5


def test_what_a_parent_did_not_take_it_is_told_in_order_and_no_descriptor_is_left() -> None:
    """A client that was back would have been taken for one that has gone, and heard no farewell."""
    ours, parents = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parents.setblocking(False)
    worker = Worker(0, [{}], ours, 1, None)
    worker._timer = Mock()
    before, last = len(os.listdir("/dev/fd")), 0
    told: list[bytes] = []

    def hear(count: float = math.inf) -> None:
        with contextlib.suppress(BlockingIOError):
            while count > 0:
                count -= 1
                data, descriptors, _, _ = socket.recv_fds(parents, 256, 1)
                told.append(data)
                for descriptor in descriptors:
                    os.close(descriptor)

    while not worker._untold:
        last += 1
        worker._tell_parent(last, b"%d\n" % last, ours.fileno())
    worker._tell_parent(1, b"1")  # has gone
    hear(2)
    worker._tell_parent(1, b"1\n", ours.fileno())  # and is back
    worker._tell_parent(2, b"2")
    worker._tell_parent(last + 1, b"%d\n" % (last + 1), ours.fileno())
    worker._tell_parent(last + 1, b"%d" % (last + 1))  # it need not hear of this one at all
    hear()
    worker._tell_rest()
    hear()
    assert told[last - 1 :] == [b"%d\n" % last, b"1\n", b"2"]
    assert len(os.listdir("/dev/fd")) == before
    for sock in (ours, parents):
        sock.close()


def test_workers_end_when_their_parent_is_killed() -> None:
    with serve("--workers=2", "-v", "cat") as server:
        wait_until(lambda: len(workers_of(server)) == 2)
        with RawClient.connect(server, "room") as client:
            say(client, "hello")
            pids = workers_of(server).values()
            os.kill(server.pid, signal.SIGKILL)
            assert client.wait_close() == (1001, "the server is going away")
        wait_until(lambda: all(map(is_gone, pids)))


# Logs on a terminal that stops what is in the background and writes, as the leader of its session.
IN_TERMINAL = """
import os, sys, termios
terminal = os.open(sys.argv[1], os.O_RDWR)
modes = termios.tcgetattr(terminal)
modes[3] |= termios.TOSTOP
termios.tcsetattr(terminal, termios.TCSANOW, modes)
os.dup2(terminal, 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_workers_are_in_no_background_of_a_terminal_and_get_no_ctrl_c() -> None:
    """With `stty tostop` they were stopped at their first line of the log."""
    screen, terminal = os.openpty()
    server = [sys.executable, str(SCRIPT), "--addr=127.0.0.1:0", "--workers=2", "-v", "cat"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, os.ttyname(terminal), *server], start_new_session=True
    )
    try:
        log = ""
        while "worker 1 is process" not in log:
            log += os.read(screen, 4096).decode()
        match = re.search(r"running at (\S+) on port (\d+)", log)
        assert match
        address = (match[1], int(match[2]))
        clients = [RawClient.connect(address, room_of(number)) for number in range(2)]
        for client in clients:
            say(client, "hello")
        os.write(screen, b"\x03")  # ^C
        assert [client.wait_close()[0] for client in clients] == [1001, 1001]
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(screen)


# ==== 5. Options =========================================================================


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers=0"], "'0' is no whole number from 1 to 128"),
        (["--workers=129"], "'129' is no whole number from 1 to 128"),
        (["--workers=two"], "'two' is no whole number from 1 to 128"),
        (["--workers=2", "--oneshot"], "--workers and --oneshot exclude each other"),
        (["--workers=2", "--pcap=x"], "--workers and --pcap exclude each other"),
        (["--workers=2", "--trace"], "--workers and --trace exclude each other"),
        (["--workers=2", "--console"], "--workers and --console exclude each other"),
        (["--workers=2", "--sslcert=x"], "let a proxy speak TLS"),
        (["--workers=4", "--tcp", "--tcpports=9001:9003"], "has 3 ports for 4 workers"),
    ],
)
def test_options_that_workers_cannot_have(options: list[str], says: str) -> None:
    done = run_cli(*options, "cat")
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line_and_nothing_stays_open() -> None:
    with serve("cat") as server:
        address = f"{server.host}:{server.port}"
        command = [
            sys.executable,
            "-X",
            "dev",
            str(SCRIPT),
            "--workers=2",
            "--addr",
            address,
            "cat",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    hint = f"another port: --addr {server.host}:{server.port % 65535 + 1}"
    says = f"scalesocket: cannot listen at {address}: Address already in use; {hint}\n"
    assert done.stderr == says


def test_more_workers_than_there_are_descriptors_for_are_one_line() -> None:
    options = ["--addr=127.0.0.1:0", "--workers=40", "cat"]
    command = ["sh", "-c", 'ulimit -n 100; exec "$@"', "sh", sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr == "scalesocket: --workers cannot be had here: Too many open files\n"


# ==== A crash in the middle of a handshake ===============================================

LINGERS = """
import time
from scalesocket import Game

class Lingers(Game):
    def on_dispose(self):
        time.sleep(1000)
"""


def count_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_who_is_in_its_handshake_when_a_worker_crashes_gets_no_frame(tmp_path: Path) -> None:
    """Case 24: it got a raw Close frame in the place of a response.

    A room that does not end keeps the next client of the same room waiting for its place.
    """
    (tmp_path / "lingers.py").write_text(LINGERS)
    options = ("--workers=2", "-vv", "--maxrooms=1", "lingers:Lingers")
    constants = {"OWN_READERS": 0}  # a client costs no thread
    patient = {"ROOM_TIMEOUT": 1000.0}
    command = with_constants_of({"scalesocket": constants, "scalesocket.net.rooms": patient})
    with serve(*options, cwd=tmp_path, command=command) as server:
        wait_until(lambda: len(workers_of(server)) == 2)
        for number in range(3):
            name, pid = room_of(1, number), workers_of(server)[1]
            with RawClient.connect(server, name) as client:
                client.ping()
                client.receive()
            server.wait_log(rf"left with .*room={name}\b")
            count = settled(lambda pid=pid: count_threads(pid))  # its room is one of them
            with open_socket(server) as sock:
                sock.sendall(
                    b"GET /%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % name.encode()
                )
                wait_until(lambda count=count, pid=pid: count_threads(pid) == count + 1)
                crash(server, 1)
                answer = drain(sock)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 503 "), answer


def test_what_a_server_loads_late_is_there_before_workers_are_forked() -> None:
    """Each had it for itself, and one forked after an upgrade had some of another version."""
    code = (
        "import sys; from scalesocket import Server, parse_command_line;"
        "Server(parse_command_line(['--workers=2', 'cat']));"
        "print([n for n in ('net.files', 'net.linebuffer') if f'scalesocket.{n}' in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, cwd=Path(SCRIPT).parent
    )
    assert done.stdout == "['net.files', 'net.linebuffer']\n", done.stderr
