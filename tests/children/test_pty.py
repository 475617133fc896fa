"""Children in a pseudo-terminal (--pty)."""

from __future__ import annotations

import random
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import (
    BINARY,
    SCRIPT,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    processes,
    run_cli,
    serve,
    shell,
    wait_until,
)

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX"),
    pytest.mark.slow,  # many servers are started here; --quick leaves them out
]


class Screen:
    """All that a terminal has sent to a client: binary messages, and its size as text."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.text = ""
        self.sizes: list[str] = []

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Receive until a pattern is found, and return it; what stands up to it is forgotten."""
        while not (found := re.search(pattern, self.text)):
            opcode, payload = self.client.receive_message()
            if opcode == BINARY:
                self.text += payload.decode("latin-1")
            else:
                self.sizes.append(payload.decode())
        self.text = self.text[found.end() :]
        return found

    def type(self, keys: str) -> None:
        """Send keys."""
        self.client.send_text(keys)


def commands(server: ServerProcess) -> list[str]:
    """Return the names of the living programs that came from the server."""
    return sorted(process.command for process in server.survivors())


@pytest.fixture
def bare_shell() -> Iterator[tuple[ServerProcess, Screen]]:
    """A shell on a terminal, with `$` for a prompt."""
    with serve("--pty", *shell("PS1='$ ' exec sh -i")) as server:
        with RawClient.connect(server) as client:
            screen = Screen(client)
            screen.wait_for(r"\$ ")
            yield server, screen


def test_the_child_has_a_terminal_for_all_three_streams() -> None:
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo three; echo $TERM; exec cat"
    with serve("--pty", *shell(script)) as server, RawClient.connect(server) as client:
        screen = Screen(client)
        screen.wait_for(r"/dev/(pts/|tty)\w+\r\n")
        screen.wait_for(r"three\r\n")
        screen.wait_for(r"xterm-256color\r\n")


def test_the_terminal_is_the_childs_controlling_one() -> None:
    script = "echo through /dev/tty >/dev/tty; ps -o tty= -p $$; exec cat"
    with serve("--pty", *shell(script)) as server, RawClient.connect(server) as client:
        screen = Screen(client)
        screen.wait_for("through /dev/tty\r\n")
        screen.wait_for(r"(pts/|tty)\w+\s*\r\n")


def test_input_is_echoed_and_output_is_binary() -> None:
    with serve("--pty", "cat") as server, RawClient.connect(server) as client:
        screen = Screen(client)
        client.send_text("hello\r")
        screen.wait_for("^hello\r\nhello\r\n$")
        client.send_binary(b"bytes\n")
        screen.wait_for("^bytes\r\nbytes\r\n$")


def test_bytes_pass_unchanged_through_a_raw_terminal() -> None:
    payload = random.randbytes(300_000)
    script = "stty raw -echo; echo ready; exec cat"
    with serve("--pty", *shell(script)) as server, RawClient.connect(server) as client:
        Screen(client).wait_for("ready\n")
        client.send_in_background(encode_client_frame(BINARY, payload))
        found = b""
        while len(found) < len(payload):
            found += client.receive_binary()
        assert found == payload


def test_a_resize_changes_the_size_and_tells_the_program(
    bare_shell: tuple[ServerProcess, Screen],
) -> None:
    _, screen = bare_shell
    for text, size in (('{"resize":[100,30]}', "30 100"), ('{"resize": [81, 25]}', "25 81")):
        screen.type(text)
        screen.type(text)
        screen.type("stty size\n")
        screen.wait_for(rf"stty size\r\n{size}\r\n")
        screen.wait_for(r"\$ ")
    assert screen.sizes == ['{"resize":[100,30]}', '{"resize":[81,25]}']
    screen.type("trap 'echo changed' WINCH\n")
    screen.wait_for(r"WINCH\r\n.*\$ ")
    screen.type('{"resize":[10,20]}')
    screen.type("echo\n")
    screen.wait_for(r"changed\r\n")


def test_a_terminal_whose_size_nobody_has_set_has_the_usual_one() -> None:
    """It had 0 columns and 0 rows, with which `less` and others draw nothing (gliderlabs/ssh#138,
    tsl0922/ttyd#1414)."""
    with serve("--pty", *shell("stty size; cat")) as server:
        with RawClient.connect(server) as client:
            Screen(client).wait_for("24 80\r\n")


def test_a_program_that_is_started_again_finds_the_size_that_was_set() -> None:
    """With --respawn the next program had 0 columns, while all pages showed what had been set."""
    with serve("--pty", "--respawn", *shell("stty size; read line")) as server:
        with RawClient.connect(server) as client:
            screen = Screen(client)
            screen.wait_for("24 80\r\n")
            screen.type('{"resize":[120,40]}')
            screen.type("\r")
            screen.wait_for("40 120\r\n")


def test_no_signal_is_ignored_in_a_terminal() -> None:
    """`yes | head -1` said "Broken pipe" in it, as SIGPIPE was ignored for all that was started
    there (kovidgoyal/kitty#5500, jupyter/terminado#91); and where the server itself had been
    started by `&` in a script, Ctrl-\\ did nothing."""
    command = ["bash", "-c", "trap '' QUIT; exec \"$@\"", "bash", sys.executable, str(SCRIPT)]
    program = shell("yes | head -1; sh -c 'kill -QUIT $$'; echo status $?; cat")
    with serve("--pty", *program, command=command) as server:
        with RawClient.connect(server) as client:
            screen = Screen(client)
            screen.wait_for(r"^y\r\n")
            screen.wait_for(f"status {128 + signal.SIGQUIT}\r\n")


def test_backspace_deletes_whole_characters() -> None:
    """Where the program leaves editing to the terminal, as `cat` does, backspace took one byte of
    a character and left the others: the program got what is no UTF-8 (creack/pty#138)."""
    with serve("--pty", *shell("stty -echo; echo ready; cat")) as server:
        with RawClient.connect(server) as client:
            screen = Screen(client)
            screen.wait_for("ready\r\n")
            screen.type("aé日👍\x7f\x7f\x7f\r")
            screen.wait_for(r"^a\r\n")


def test_everyone_in_the_room_is_told_the_size() -> None:
    with serve("--pty", "cat") as server, RawClient.connect(server) as first:
        first.send_text('{"resize":[90,20]}')
        assert first.receive_text() == '{"resize":[90,20]}'
        with RawClient.connect(server) as second:
            assert second.receive_text() == '{"resize":[90,20]}'
            second.send_text('{ "resize" : [ 70 , 10 ] }')
            for client in (first, second):
                assert client.receive_text() == '{"resize":[70,10]}'


def test_who_does_not_read_the_sizes_that_others_set_is_let_go(tmp_path: Path) -> None:
    """What waited for such a client grew without end."""
    path, sizes = tmp_path / "socket", [f'{{"resize":[{80 + n % 2},24]}}' for n in range(500)]
    options = ("--pty", "--backlog=16K", "--stall=1000", f"--unixsocket={path}")
    with serve(*options, *shell("stty -echo; exec sleep 1000")) as server:
        sock = socket.socket(socket.AF_UNIX)  # which takes but a few hundred messages
        sock.connect(str(path))
        with RawClient(sock) as deaf, RawClient.connect(server) as other:
            deaf.upgrade("localhost", "/room", {})
            for _ in range(20):
                other.send_bytes(encode_client_frames(sizes))
                other.receive_many(len(sizes))
            server.wait_log("does not read")


@pytest.mark.parametrize("text", ['{"resize":', '{"resize":' + "[" * 100_000, '{"resize":[1,1,'])
def test_what_is_nested_or_breaks_off_is_input_like_any_other(text: str) -> None:
    script = "stty raw -echo; echo ready; exec cat"
    with serve("--pty", *shell(script)) as server, RawClient.connect(server) as client:
        screen = Screen(client)
        screen.wait_for("ready\n")
        client.send_text(text + "|")
        screen.wait_for(r"\|")


@pytest.mark.parametrize(
    "size", ["0,0", "1", "-1,5", "1000,1", "0,5", "5.5,5", "", "1,2,3", "null"]
)
def test_a_size_that_cannot_be_is_not_typed_into_the_program(size: str) -> None:
    """A page in a hidden tab sends `{"resize":[0,0]}`: the shell got it as a command (case 19)."""
    with serve("--pty", "cat") as server, RawClient.connect(server) as client:
        screen = Screen(client)
        client.send_text(f'{{"resize":[{size}]}}')
        client.send_text(f'{{ "resize" : [ {size} ] }}\n')
        client.send_text("end\n")
        screen.wait_for(r"^end\r\nend\r\n")
        assert screen.sizes == []
        server.wait_log("resize takes two numbers from 1 to 999")


@pytest.mark.parametrize("size", ["100.0,30.0", "100,30.00"])
def test_a_size_may_come_from_a_client_whose_numbers_are_all_fractions(size: str) -> None:
    """Godot's `JSON.stringify` writes 80.0; an ID in `_to` may be 1.0, too (case 19)."""
    with serve("--pty", "cat") as server, RawClient.connect(server) as client:
        client.send_text(f'{{"resize":[{size}]}}')
        assert client.receive_text() == '{"resize":[100,30]}'


def test_what_is_no_whole_resize_is_input() -> None:
    messages = ['{"resize"', "{}", '{"resize":[5,5],"x":1}', '{"resize":["5",5]}', '[{"resize":1}]']
    with serve("--pty", "cat") as server, RawClient.connect(server) as client:
        screen = Screen(client)
        for message in messages:
            client.send_text(message + "\n")
            screen.wait_for(re.escape(message) + "\r\n" + re.escape(message) + "\r\n")


def test_a_resize_in_binary_is_input() -> None:
    with serve("--pty", "cat") as server, RawClient.connect(server) as client:
        client.send_binary(b'{"resize":[9,9]}\n')
        Screen(client).wait_for(r'(\{"resize":\[9,9\]\}\r\n){2}')


def test_ctrl_c_interrupts_a_sleep_and_not_the_shell(
    bare_shell: tuple[ServerProcess, Screen],
) -> None:
    server, screen = bare_shell
    screen.type("sleep 1000\n")
    wait_until(lambda: "sleep" in commands(server))
    screen.type("\x03")
    wait_until(lambda: "sleep" not in commands(server))
    screen.type("echo still $((40 + 2))\n")
    screen.wait_for("still 42\r\n")


def test_ctrl_d_ends_the_program() -> None:
    with serve("--pty", "cat") as server, RawClient.connect(server) as client:
        client.send_text("last\n\x04")
        Screen(client).wait_for("last\r\nlast\r\n")
        assert client.wait_close()[0] == 1000


def test_leaving_hangs_the_program_up(tmp_path: Path) -> None:
    note = tmp_path / "note"
    script = f"trap 'echo hung up >{note}; exit' HUP; echo up; while :; do sleep 0.05; done"
    for end in (RawClient.close, RawClient.reset):
        with serve("--pty", "--closegrace", "5", *shell(script)) as server:
            with RawClient.connect(server) as client:
                Screen(client).wait_for("up\r\n")
                end(client)
            wait_until(lambda s=server: not s.survivors())
        assert note.read_text() == "hung up\n"
        note.unlink()


def test_a_server_that_hang_ups_do_not_end_hangs_its_programs_up_all_the_same(
    tmp_path: Path,
) -> None:
    """`nohup` makes it ignore SIGHUP, and what is ignored is inherited."""
    note = tmp_path / "note"
    script = f"trap 'echo hung up >{note}; exit' HUP; echo up; while :; do sleep 0.05; done"
    command = ["bash", "-c", "trap '' HUP; exec \"$@\"", "bash", sys.executable, str(SCRIPT)]
    with serve("--pty", "--closegrace", "5", *shell(script), command=command) as server:
        server.process.send_signal(signal.SIGHUP)
        with RawClient.connect(server) as client:
            Screen(client).wait_for("up\r\n")
            client.close()
        wait_until(note.exists)


@pytest.mark.slow
def test_a_program_that_ignores_the_hang_up_is_killed() -> None:
    script = "trap '' HUP INT TERM; echo up; while :; do sleep 0.05; done"
    with serve("--pty", *shell(script)) as server:
        with RawClient.connect(server) as client:
            Screen(client).wait_for("up\r\n")
            client.close()
        wait_until(lambda: not server.survivors())


def test_a_shell_with_jobs_leaves_nothing_behind() -> None:
    with serve("--pty", "bash", "--", "--norc", "-i") as server:
        with RawClient.connect(server) as client:
            screen = Screen(client)
            screen.wait_for(r"\$ |# ")
            screen.type("sleep 1001 & sleep 1002 | sleep 1003 & (sleep 1004; true) &\n")
            wait_until(lambda: commands(server).count("sleep") == 4)
            screen.type("bash --norc -i\n")
            wait_until(lambda: commands(server).count("bash") == 3)
            screen.type("sleep 1005\n")
            wait_until(lambda: commands(server).count("sleep") == 5)
            client.close()
        wait_until(lambda: not server.survivors(), message="what the shell has started")


def test_all_clients_share_one_terminal_and_a_newcomer_sees_its_history() -> None:
    with serve("--pty", "--cache", "64", "cat") as server:
        with RawClient.connect(server) as first:
            first.send_text("one\n")
            Screen(first).wait_for("one\r\none\r\n")
            with RawClient.connect(server) as second:
                screen = Screen(second)
                screen.wait_for("one\r\none\r\n")
                second.send_text("two\n")
                screen.wait_for("two\r\ntwo\r\n")
                second.close()
            Screen(first).wait_for("two\r\ntwo\r\n")
            assert len(server.children()) == 1


@pytest.mark.parametrize(("status", "code"), [(0, 1000), (3, 1011)])
def test_the_last_output_comes_before_the_close(status: int, code: int) -> None:
    script = f"seq 3000; printf last; exit {status}"
    with serve("--pty", *shell(script)) as server, RawClient.connect(server) as client:
        screen = Screen(client)
        screen.wait_for(r"^1\r\n2\r\n(\d+\r\n)*3000\r\nlast$")
        assert client.wait_close()[0] == code


def test_many_terminals_leave_no_descriptor_behind() -> None:
    with serve("--pty", "cat") as server:
        counts = []
        for number in range(12):
            with RawClient.connect(server, f"room{number}") as client:
                client.send_text("x\n")
                Screen(client).wait_for("x\r\nx\r\n")
                client.close()
            wait_until(lambda: not server.children())
            counts.append(wait_until(server.descriptors))
        wait_until(lambda: server.descriptors() <= counts[0], message=f"descriptors: {counts}")
        pids = {process.pid for process in processes()}
        assert server.pid in pids


@pytest.mark.parametrize("other", ["--tcp", "--json", "--frame=gwsocket", "--passstderr"])
def test_options_that_contradict_a_terminal_are_refused(other: str) -> None:
    done = run_cli("--pty", other, "cat")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--pty" in line
