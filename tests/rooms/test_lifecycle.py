"""Children, rooms and servers that end, well or badly, and what they must not leave behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import (
    PATIENCE,
    ROOT,
    SCRIPT,
    TEXT,
    Closed,
    RawClient,
    ServerProcess,
    encode_client_frame,
    http_request,
    is_alive,
    open_socket,
    run_cli,
    serve,
    settled,
    shell,
    wait_until,
    with_constants,
    with_constants_of,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

if not os.path.isdir("/proc/self"):
    pytest.skip("processes are looked up in /proc", allow_module_level=True)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_calm(server: ServerProcess) -> None:
    """Wait until it has used no CPU for a while: until all that can be buffered is."""

    def is_calm() -> bool:
        before = cpu_seconds(server.pid)
        time.sleep(0.3)
        return cpu_seconds(server.pid) == before

    wait_until(is_calm)


# ==== How a child is stopped ===============================================

STUBBORN = """
import signal, sys, time

path, gives_up_at = sys.argv[1:]

def happened(what):
    with open(path, "a") as file:
        file.write(what + "\\n")
    if what == gives_up_at:
        sys.exit()

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: happened(signal.Signals(number).name))
print("ready", flush=True)
sys.stdin.read()
happened("EOF")
while True:
    time.sleep(60)
"""
STEPS = ["EOF", "SIGINT", "SIGTERM"]


@pytest.fixture
def stubborn(tmp_path: Path) -> str:
    """A program that takes note of each request to stop, and ends at the one it is told."""
    path = tmp_path / "stubborn.py"
    path.write_text(STUBBORN)
    return os.fspath(path)


@pytest.mark.parametrize("gives_up_at", [*STEPS, "SIGKILL"])
def test_a_child_is_asked_to_stop_more_and_more_firmly(
    stubborn: str, tmp_path: Path, gives_up_at: str
) -> None:
    notes = tmp_path / "notes"
    steps = [*STEPS, "SIGKILL"]
    # Long enough for a slow machine to take note of one step before the next.
    with serve("--closegrace", "4", stubborn, "--", os.fspath(notes), gives_up_at) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "ready"
            (child,) = server.children()
        wait_until(lambda: not is_alive(child) and server.children() == [])
        wanted = steps[: steps.index(gives_up_at) + 1]
        assert lines_of(notes) == [step for step in wanted if step != "SIGKILL"]


def test_a_child_that_ends_at_eof_has_time_to_write_a_file(tmp_path: Path) -> None:
    file = tmp_path / "saved"
    script = 'cat > /dev/null; sleep 0.05; echo saved > "$1"'
    with serve("--closegrace", "5", *shell(script, os.fspath(file))) as server:
        with RawClient.connect(server):
            wait_until(lambda: server.children())
        wait_until(lambda: lines_of(file) == ["saved"])


def test_what_was_sent_before_the_last_client_left_still_reaches_the_child(tmp_path: Path) -> None:
    file = tmp_path / "saved"
    with serve("--closegrace", "5", *shell('cat > "$1"', os.fspath(file))) as server:
        with RawClient.connect(server) as client:
            client.send_bytes(encode_client_frame(TEXT, b"x" * 1000) * 500)
            assert client.close() == (1000, "")
        wait_until(lambda: lines_of(file) == ["x" * 1000] * 500)
        wait_until(lambda: server.children() == [])


@pytest.mark.slow
def test_what_the_child_started_is_stopped_with_it(tmp_path: Path) -> None:
    script = "sleep 1000 & echo $!; (trap '' INT TERM HUP; sleep 1001) & echo $!; cat"
    with serve(*shell(script)) as server:
        with RawClient.connect(server) as client:
            pids = [int(client.receive_text()) for _ in range(2)]
            assert all(map(is_alive, pids))
        wait_until(lambda: not any(map(is_alive, pids)))
        wait_until(lambda: server.children() == [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"), [("exit 0", 1000), ("exit 3", 1011), ("kill -9 $$", 1011)]
)
def test_what_the_child_left_behind_is_stopped_and_does_not_keep_the_room(
    end: str, code: int
) -> None:
    """The grandchild holds stdin, stdout and stderr open."""
    with serve(*shell(f"sleep 1000 & echo $!; read line; {end}")) as server:
        with RawClient.connect(server) as client:
            grandchild = int(client.receive_text())
            client.send_text("go")
            assert client.wait_close()[0] == code
        wait_until(lambda: not is_alive(grandchild))


@pytest.mark.slow
def test_a_grandchild_that_goes_on_talking_does_not_keep_the_room() -> None:
    """There is always more to read, so the end of the output never comes by itself."""
    patient = with_constants(CLOSE_TIMEOUT=PATIENCE)  # with a test that is slow to read a flood
    with serve(*shell("yes & echo $!; exit 3"), command=patient) as server:
        with RawClient.connect(server) as client:
            while (text := client.receive_text()) == "y":
                pass  # it may begin before its number has been told
            grandchild = int(text)
            assert client.wait_close()[0] == 1011
        wait_until(lambda: not is_alive(grandchild))


# ==== A child that exits ===================================================


@pytest.mark.parametrize(("status", "code"), [(0, 1000), (42, 1011)])
def test_all_output_is_delivered_before_the_room_closes(status: int, code: int) -> None:
    with serve(*shell(f"seq 100000; printf last; exit {status}")) as server:
        with RawClient.connect(server) as client:
            received = client.receive_many(100_001)
            assert received == [*(b"%d" % number for number in range(1, 100_001)), b"last"]
            assert client.wait_close()[0] == code


def test_the_next_client_of_a_room_that_ended_gets_a_fresh_child() -> None:
    with serve(*shell("echo $$; read line")) as server:
        pids = []
        for _ in range(3):
            with RawClient.connect(server) as client:
                pids.append(client.receive_text())
                client.send_text("go")
                assert client.wait_close()[0] == 1000
        assert len(set(pids)) == 3


def test_a_child_that_ends_closes_every_client_of_its_room_and_of_no_other() -> None:
    with serve(*shell("read line")) as server, ExitStack() as stack:
        rooms = {
            name: [stack.enter_context(RawClient.connect(server, name)) for _ in range(3)]
            for name in ("a", "b")
        }
        rooms["a"][0].send_text("go")
        for client in rooms["a"]:
            code, reason = client.wait_close()
            assert code == 1000
            assert reason
        for client in rooms["b"]:
            client.ping(b"?")
            assert client.receive() == (10, b"?")


def test_a_child_that_closed_its_stdin_goes_on_talking() -> None:
    """Nobody reads what clients send then, and nothing waits for it."""
    script = "exec 0<&-; echo closed; while sleep 0.05; do echo tick; done"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "closed"
        client.send_bytes(encode_client_frame(TEXT, b"x" * 100_000) * 50)
        for _ in range(5):
            assert client.receive_text() == "tick"
        assert client.close() == (1000, "")


def test_a_child_that_closed_its_stdout_is_over(tmp_path: Path) -> None:
    """It cannot say anything any more; its clients are told, and it is stopped."""
    with serve(*shell("echo bye; exec 1>&-; sleep 1000")) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "bye"
            (child,) = server.children()
            assert client.wait_close()[0] in (1000, 1011)
        wait_until(lambda: not is_alive(child))


def test_output_without_an_end_closes_the_room_and_not_the_server() -> None:
    script = 'if [ "$ROOM" = endless ]; then exec tr "\\0" x < /dev/zero; else exec cat; fi'
    with serve(*shell(script)) as server, RawClient.connect(server, "other") as other:
        with RawClient.connect(server, "endless") as client:
            code, reason = client.wait_close()
            assert code == 1011
            assert "delimiter" in reason
        server.wait_log(r"\[ERROR\].*without a delimiter.*endless")
        other.send_text("still here")
        assert other.receive_text() == "still here"
        assert server.peak_rss() < 96 * 1024 * 1024
        wait_until(lambda: len(server.children()) == 1)


def test_a_program_that_cannot_be_started_closes_the_room_with_1011(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with serve(os.fspath(program)) as server:
        for _ in range(2):
            with RawClient.connect(server) as client:
                code, reason = client.wait_close()
                assert code == 1011
                assert "cannot start" in reason
        server.wait_log(r"\[ERROR\] cannot start .*program")


# ==== Many rooms ===========================================================


def come_and_go(server: ServerProcess, rooms: int, at_once: int = 20) -> None:
    def visit(number: int) -> None:
        with RawClient.connect(server, f"room-{number}") as client:
            client.send_text(f"hello {number}")
            assert client.receive_text(60) == f"hello {number}"
            if number % 3:
                assert client.close(timeout=60) == (1000, "")
            elif number % 2:
                client.reset()

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(visit, range(rooms)))


def leaves_nothing(rooms: int) -> None:
    """Threads, descriptors, children and zombies are to be what they were."""
    with serve("--metrics", "cat") as server:
        come_and_go(server, 3)
        wait_until(lambda: server.children() == [])
        threads, descriptors = settled(lambda: (server.threads(), server.descriptors()))
        come_and_go(server, rooms)
        wait_until(lambda: server.children() == [])
        wait_until(lambda: server.threads() <= threads)
        wait_until(lambda: server.descriptors() <= descriptors)
        counted = (
            f"scalesocket_children_started_total {rooms + 3}\n",
            f"scalesocket_children_exited_total {rooms + 3}\n",
            "scalesocket_rooms 0\n",
        )

        def all_counted() -> bool:
            text = http_request(server, path="/metrics").body.decode()
            return all(line in text for line in counted)

        wait_until(all_counted)


def test_60_rooms_that_come_and_go_leave_nothing_behind() -> None:
    leaves_nothing(60)


@pytest.mark.slow
def test_1000_rooms_that_come_and_go_leave_nothing_behind() -> None:
    leaves_nothing(1000)


@pytest.mark.slow
def test_100_rooms_that_crash_at_once_are_not_noticed_by_another() -> None:
    script = 'if [ "$ROOM" = steady ]; then exec cat; fi; echo up; read line; kill -9 $$'
    with serve(*shell(script)) as server, ExitStack() as stack:
        steady = stack.enter_context(RawClient.connect(server, "steady"))
        others = [
            stack.enter_context(RawClient.connect(server, f"room-{number}"))
            for number in range(100)
        ]
        for client in others:
            assert client.receive_text(60) == "up"
        for client in others:
            client.send_text("go")
        for number in range(200):
            steady.send_text(f"message {number}")
            assert steady.receive_text() == f"message {number}"
        for client in others:
            assert client.wait_close(60)[0] == 1011
        assert steady.close() == (1000, "")
        wait_until(lambda: server.children() == [])


# ==== A server that ends ===================================================


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_every_room(tmp_path: Path, number: int) -> None:
    """All clients get Close 1001, all children see the end of their input, status is 0."""
    script = 'cat > /dev/null; echo EOF > "$1/$ROOM"'
    with (
        serve("--closegrace", "5", *shell(script, os.fspath(tmp_path))) as server,
        ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(RawClient.connect(server, f"room-{index % 5}"))
            for index in range(10)
        ]
        wait_until(lambda: len(server.children()) == 5)
        server.process.send_signal(number)
        for client in clients:
            code, reason = client.wait_close()
            assert code == 1001
            assert reason
        assert server.wait() == 0
        assert [lines_of(tmp_path / f"room-{index}") for index in range(5)] == [["EOF"]] * 5
        with pytest.raises(ConnectionRefusedError):
            open_socket(server)


def test_a_signal_stops_children_that_heed_nothing(stubborn: str, tmp_path: Path) -> None:
    options = ("--closegrace", "4")  # so that a slow machine has time to take note of each step
    lasting = with_constants(END_TIMEOUT=PATIENCE)  # that may take longer than a stop otherwise
    notes = os.fspath(tmp_path / "notes")
    with serve(*options, stubborn, "--", notes, "never", command=lasting) as server:
        with ExitStack() as stack:
            clients = []
            for index in range(3):
                client = stack.enter_context(RawClient.connect(server, f"room-{index}"))
                assert client.receive_text() == "ready"
                clients.append(client)
            server.process.send_signal(signal.SIGTERM)
            assert [client.wait_close()[0] for client in clients] == [1001] * 3
            assert server.wait() == 0
        wait_until(lambda: server.survivors() == [])
        assert sorted(lines_of(tmp_path / "notes")) == sorted(STEPS * 3)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_at_once_with_status_1(
    stubborn: str, tmp_path: Path, workers: str
) -> None:
    """The child ignores all but SIGKILL, and would be given an hour for each step (case 28)."""
    notes = tmp_path / "notes"
    options = ("--closegrace", "3600", "--workers", workers, stubborn, "--", os.fspath(notes))
    lasting = with_constants(END_TIMEOUT=3 * PATIENCE)  # the first signal alone would not do it
    with serve(*options, "never", command=lasting) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "ready"
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: lines_of(notes))  # a signal that is not yet heeded takes no second
            server.signal_again()
            assert client.wait_close()[0] == 1001
            assert server.wait() == 1
        wait_until(lambda: server.survivors() == [])


def test_a_second_signal_cuts_an_answer_off_that_nobody_takes(tmp_path: Path) -> None:
    """The server had "stopped", and let signals pass, while it waited for that."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(5 * 1024**3)  # more than any buffer takes
    lasting = with_constants(CLOSE_TIMEOUT=3 * PATIENCE)  # the first signal alone would not do it
    with (
        serve("--staticdir", os.fspath(tmp_path), "cat", command=lasting) as server,
        socket.create_connection((server.host, server.port), PATIENCE) as client,
    ):
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(1) == b"H"
        server.process.send_signal(signal.SIGTERM)
        server.wait_log("stopping")
        server.signal_again()
        assert server.wait() == 1


@pytest.mark.parametrize("options", [(), ("--workers=2",), ("--reload",)])
def test_a_signal_that_comes_twice_at_once_is_one(options: Sequence[str], tmp_path: Path) -> None:
    """`timeout` sends it to a process and to its group: all was killed, with status 1."""
    ends, go_on = tmp_path / "the input has ended", tmp_path / "go on"
    os.mkfifo(go_on)
    script = 'echo ready; cat; : > "$0"; cat "$1"'
    program = ("sh", "--", "-c", script, os.fspath(ends), os.fspath(go_on))
    lasting = with_constants_of({"scalesocket.net.signals": {"ECHO": 3 * PATIENCE}})
    with serve("--closegrace=3600", *options, *program, command=lasting) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "ready"
            server.process.send_signal(signal.SIGTERM)
            wait_until(ends.exists)
            server.process.send_signal(signal.SIGTERM)
            go_on.write_text("goodbye\n")
            assert client.receive_text() == "goodbye"
        assert server.wait() == 0


def test_signals_are_held_back_before_they_are_ignored_at_the_end() -> None:
    """Of one that came at that very moment Python told with a traceback."""
    code = """
import signal, unittest.mock, scalesocket

def note(number, handler, really=signal.signal):
    if handler == signal.SIG_IGN:
        print(number in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    return really(number, handler)

signal.signal = note
ended = unittest.mock.Mock(run_all=lambda: 0)
print(scalesocket.serve(scalesocket.Config(), lambda config: ended))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("True\nTrue\n0\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_server_that_has_stopped_is_not_its_status(number: int) -> None:
    """Python gives signals back to the system as it ends, and one more ended it: status -15."""
    for _ in range(5):
        with serve("cat") as server:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: any("] stopped" in line for line in server.log()))
            while server.process.poll() is None:
                server.process.send_signal(number)
            assert server.wait() == 0


def test_a_server_says_last_that_it_has_stopped() -> None:
    """With -v it told behind that whom it had cut off in the middle of a request."""
    with (
        serve("-v", "cat") as server,
        socket.create_connection((server.host, server.port), PATIENCE) as client,
    ):
        client.sendall(b"GET /den HTTP/1.1\r\n")
        assert http_request(server, path="/health").status == 200  # so that one is in, too
        assert server.stop() == 0
        *before, last = server.log()
        assert any("ended: the server ends" in line for line in before)
        assert last.endswith("] stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heeded_from_the_moment_it_says_that_it_runs(number: int) -> None:
    for _ in range(5):
        with serve("cat") as server:
            server.process.send_signal(number)
            assert server.wait() == 0


def half_a_handshake(server: ServerProcess, stack: ExitStack) -> None:
    for raw in (b"", b"GET /room HTTP/1.1\r\nHost: x\r\nUpgr"):
        stack.enter_context(open_socket(server)).sendall(raw)


def a_client_that_does_not_read(server: ServerProcess, stack: ExitStack) -> None:
    client = stack.enter_context(RawClient.connect(server, "yes"))
    assert client.receive_text() == "y"
    wait_until_calm(server)


def a_child_that_does_not_read(server: ServerProcess, stack: ExitStack) -> None:
    client = stack.enter_context(RawClient.connect(server, "sleep"))
    with pytest.raises(TimeoutError):
        client.send_bytes(encode_client_frame(TEXT, b"x" * 100_000) * 300, timeout=0.5)


def a_room_that_waits_to_respawn(server: ServerProcess, stack: ExitStack) -> None:
    stack.enter_context(RawClient.connect(server, "false"))
    server.wait_log(r"the program has ended with status 1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble",
    [
        half_a_handshake,
        a_client_that_does_not_read,
        a_child_that_does_not_read,
        a_room_that_waits_to_respawn,
    ],
)
def test_a_signal_ends_a_server_in_trouble(
    trouble: Callable[[ServerProcess, ExitStack], None],
) -> None:
    """The name of the room is the program that runs in it."""
    options = ("--stall", "600", "--respawn", "--verbose")
    soon = with_constants(END_TIMEOUT=2.0, CLOSE_TIMEOUT=1.0)
    script = 'if [ "$ROOM" = sleep ]; then exec sleep 1000; fi; exec "$ROOM"'
    with serve(*options, *shell(script), command=soon) as server, ExitStack() as stack:
        trouble(server, stack)
        assert server.stop() == 0
        wait_until(lambda: server.survivors() == [])


@pytest.mark.slow
def test_a_signal_ends_a_server_that_waits_for_its_child_to_listen() -> None:
    with (
        serve("--tcp", "--delay", "0", "sleep", "--", "1000") as server,
        RawClient.connect(server) as client,
    ):
        wait_until(lambda: server.children())
        server.process.send_signal(signal.SIGTERM)
        assert client.wait_close()[0] == 1001
        assert server.wait() == 0
        wait_until(lambda: server.survivors() == [])


@pytest.mark.slow
def test_a_client_that_comes_while_the_server_drains_is_not_let_in(
    stubborn: str, tmp_path: Path
) -> None:
    """The old room is still being stopped, and no new child may be started."""
    notes = tmp_path / "notes"
    with serve("--closegrace", "3600", stubborn, "--", os.fspath(notes), "never") as server:
        with RawClient.connect(server) as client, open_socket(server) as late:
            assert client.receive_text() == "ready"
            (child,) = server.children()
            # Half a handshake, so that it has been accepted before.
            late.sendall(b"GET /room HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: lines_of(notes))  # "stopping" is logged before rooms are closed
            late.sendall(
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            answer = b""
            while b"\x03\xe9" not in answer and (data := late.recv(4096)):  # Close 1001
                answer += data
            assert answer.startswith(b"HTTP/1.1 503") or b"\x03\xe9" in answer
            late.shutdown(socket.SHUT_WR)
            os.kill(child, signal.SIGKILL)
            assert client.wait_close()[0] == 1001
            assert server.wait() == 0
        assert lines_of(notes) == ["EOF"]


# ==== A server that cannot start ===========================================


def complaint(*arguments: str, status: int, cwd: Path | None = None) -> str:
    """Run a command line that cannot work, and return the one line that it prints."""
    done = run_cli(*arguments, cwd=cwd)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "Traceback" not in line
    return line


def test_a_port_in_use_is_one_line_and_status_1() -> None:
    with serve("cat") as server, RawClient.connect(server) as client:
        line = complaint("--addr", f"127.0.0.1:{server.port}", "cat", status=1)
        assert f"127.0.0.1:{server.port}" in line
        assert "in use" in line
        client.send_text("still here")
        assert client.receive_text() == "still here"


def test_an_address_that_is_not_ours_is_one_line_and_status_1() -> None:
    assert "192.0.2.1:0" in complaint("--addr", "192.0.2.1:0", "cat", status=1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such-program"], "no-such-program"),
        (["./no-such-file.py"], "no-such-file.py"),
        (["no_such_module:Game"], "no_such_module"),
        (["json:JSONDecoder"], "JSONDecoder is a class"),
        (["readme.txt"], "readme.txt"),
        (["folder"], "folder"),
        ([], "TARGET"),
        (["--staticdir", "no-such-folder", "cat"], "no-such-folder"),
        (["--staticdir", "readme.txt", "cat"], "readme.txt"),
        (["--no-such-option", "cat"], "--no-such-option"),
        (["--maxrooms", "many", "cat"], "many"),
        (["--maxrooms", "-1", "cat"], "--maxrooms"),
        (["--addr", "nowhere", "cat"], "nowhere"),
        (["--addr", "127.0.0.1:99999", "cat"], "99999"),
        (["--stall", "nan", "cat"], "nan"),
        (["--stall", "inf", "cat"], "inf"),
        (["--backlog", "1X", "cat"], "1X"),
        (["--cache", "0", "cat"], "--cache"),
        (["--tcpports", "5:4", "cat"], "5:4"),
        (["--log", "xml", "cat"], "xml"),
        (["--frame=xml", "cat"], "xml"),
        (["--binary", "--json", "cat"], "--binary"),
        (["--joinmsg"], "--joinmsg"),
    ],
)
def test_what_cannot_work_is_one_line_that_names_it_and_status_2(
    tmp_path: Path, arguments: list[str], named: str
) -> None:
    (tmp_path / "readme.txt").write_text("This is not a program.\n")
    (tmp_path / "folder").mkdir()
    assert named in complaint(*arguments, status=2, cwd=tmp_path)


@pytest.mark.parametrize("text", ["def broken(:\n", "raise ValueError('no luck')\n"])
def test_a_game_that_cannot_be_imported_says_where_it_is_wrong(tmp_path: Path, text: str) -> None:
    """It is the operator's own code, so its traceback may be shown, but none of ours alone."""
    (tmp_path / "broken.py").write_text(text)
    done = run_cli("broken:Game", cwd=tmp_path)
    assert done.returncode == 2
    assert "broken" in done.stderr.splitlines()[-1]
    assert re.search(r"^scalesocket: ", done.stderr, re.MULTILINE)


def test_a_folder_that_may_not_be_read_is_one_line_and_status_2(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    command = [sys.executable, os.fspath(SCRIPT), "--staticdir", os.fspath(folder), "cat"]
    if os.geteuid() == 0:  # root may read everything, unless it gives that up
        command[:0] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    (line,) = done.stderr.splitlines()
    assert "closed" in line
    assert done.returncode == 2


# ==== A server that has nothing to do ======================================


def assert_idle(server: ServerProcess) -> None:
    """Watch a server for two seconds in which it has nothing to do."""
    before = cpu_seconds(server.pid)
    time.sleep(2)  # the length of the look is the test
    spent = cpu_seconds(server.pid) - before
    assert spent < 0.1, f"{spent:.2f} s of CPU in 2 s with nothing to do"


def test_100_idle_clients_in_20_rooms_cost_nothing() -> None:
    with serve("cat") as server, ExitStack() as stack:
        clients = [
            stack.enter_context(RawClient.connect(server, f"room-{index % 20}"))
            for index in range(100)
        ]
        for client in clients[-20:]:
            client.send_text("hello")
        for client in clients:
            assert client.receive_text() == "hello"
        wait_until_calm(server)
        assert_idle(server)


@pytest.mark.slow
def test_clients_that_vanish_or_stop_half_way_cost_nothing() -> None:
    """Each way to stop half-way has made some server spin."""
    script = (
        "case $ROOM in deaf) exec sleep 1000;; mute) exec 1>&-; exec sleep 1000;;"
        " closed) exec 0<&-; exec sleep 1000;; yes) exec yes;; *) exec cat;; esac"
    )
    with serve("--stall", "600", *shell(script)) as server, ExitStack() as stack:
        connect = RawClient.connect
        for index in range(10):
            with connect(server, f"vanished-{index % 2}"):
                pass
            connect(server, "reset").reset()
        for index in range(10):
            client = stack.enter_context(connect(server, f"half-closed-{index % 2}"))
            client.sock.shutdown(socket.SHUT_WR)
            sock = stack.enter_context(open_socket(server))
            sock.sendall(b"GET /room HTTP/1.1\r\nHost: x\r\n"[: index * 5])
            sock = stack.enter_context(open_socket(server))
            sock.sendall(b"GET /room HTTP/1.1\r\nHost: x\r\n"[: index * 5])
            sock.shutdown(socket.SHUT_WR)
        deaf = stack.enter_context(connect(server, "deaf"))
        with pytest.raises(TimeoutError):
            deaf.send_bytes(encode_client_frame(TEXT, b"x" * 100_000) * 300, timeout=1)
        stack.enter_context(connect(server, "yes"))
        closed = stack.enter_context(connect(server, "closed"))
        closed.send_text("hello")
        with connect(server, "mute") as mute:
            mute.wait_close()
        wait_until_calm(server)
        assert_idle(server)


@pytest.mark.slow
def test_a_client_that_was_told_to_go_and_stays_costs_nothing() -> None:
    """It has been sent a Close frame and neither answers nor hangs up."""
    with serve(*shell("read line; exit 0")) as server, RawClient.connect(server) as client:
        client.send_text("go")
        with pytest.raises(Closed):
            client.receive_text()
        wait_until_calm(server)
        assert_idle(server)
