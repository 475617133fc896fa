"""What a program prints arrives line by line, in whatever language it is written (--linebuffer)."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from scalesocket.net import linebuffer
from scalesocket.net.children import PtyBackend
from scalesocket.net.linebuffer import (
    Launch,
    LineBufferedBackend,
    PipeBackend,
    find_stdbuf,
    open_output_terminal,
    plan_launch,
)

from scalesocket import Config, Framing, parse_command_line
from tests.support import TEXT, RawClient, encode_client_frame, serve, wait_until

pytestmark = [
    pytest.mark.slow,  # many servers are started here; --quick leaves them out
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere `auto` knows fewer ways"),
]

C_ECHO = """
#include <stdio.h>
int main(void) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) printf("c %s", line);
    return 0;
}
"""
CPP_ECHO = r"""
#include <iostream>
#include <string>
int main() {
    std::string line;
    while (std::getline(std::cin, line)) std::cout << "c++ " << line << '\n';
}
"""
GO_ECHO = """
package main
import ("bufio"; "fmt"; "os")
func main() {
    lines := bufio.NewScanner(os.Stdin)
    for lines.Scan() { fmt.Println("go " + lines.Text()) }
}
"""
RUST_ECHO = """
use std::io::{self, BufRead};
fn main() { for line in io::stdin().lock().lines() { println!("rust {}", line.unwrap()); } }
"""
JAVA_ECHO = """
import java.util.Scanner;
class Echo {
    public static void main(String[] arguments) {
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) System.out.println("java " + lines.nextLine());
    }
}
"""
NODE_ECHO = (
    "require('readline').createInterface({input: process.stdin})"
    ".on('line', line => console.log('node', line))"
)
RUBY_ECHO = 'while line = gets; print "ruby #{line}"; end'
TCL_ECHO = 'while {[gets stdin line] >= 0} {puts "tcl $line"}'


def find(*tools: str) -> None:
    """Skip the test where one of these is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def compile_one(folder: Path, name: str, source: str, *command: str) -> str:
    """Compile a program; `command` ends where its source's name is wanted."""
    find(command[0])
    (folder / name).write_text(source)
    done = subprocess.run([*command, name], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"{' '.join(command)} cannot compile here: {done.stderr.strip()[:100]}")
    return str(folder / "echo")


def script(folder: Path, text: str) -> str:
    """Write an executable file."""
    path = folder / "script"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


Target = Callable[[Path], list[str]]
PROGRAMS: dict[str, tuple[str, Target]] = {  # what comes back for "hello", and the command
    "perl": ("perl hello", lambda _: ["perl", "--", "-ne", 'print "perl $_"']),
    "gawk": ("gawk hello", lambda _: ["gawk", "--", '{print "gawk " $0}']),
    "mawk": ("mawk hello", lambda _: ["mawk", "--", '{print "mawk " $0}']),
    "awk": ("awk hello", lambda _: ["awk", "--", '{print "awk " $0}']),
    "sed": ("sed hello", lambda _: ["sed", "--", "s/^/sed /"]),
    "grep": ("hello", lambda _: ["grep", "--", "hello"]),
    "tr": ("HELLO", lambda _: ["tr", "--", "a-z", "A-Z"]),
    "cut": ("hel", lambda _: ["cut", "--", "-c1-3"]),
    "sh": ("HELLO", lambda _: ["sh", "--", "-c", "grep l | tr a-z A-Z"]),
    "node": ("node hello", lambda _: ["node", "--", "-e", NODE_ECHO]),
    "tclsh": ("tcl hello", lambda f: ["tclsh", "--", _written(f, "echo.tcl", TCL_ECHO)]),
    "ruby": ("ruby hello", lambda _: ["ruby", "--", "-e", RUBY_ECHO]),
    "c": ("c hello", lambda f: [compile_one(f, "e.c", C_ECHO, "cc", "-o", "echo")]),
    "static c": (
        "c hello",
        lambda f: [compile_one(f, "e.c", C_ECHO, "cc", "-static", "-o", "echo")],
    ),
    "c with address sanitizer": (
        "c hello",
        lambda f: [compile_one(f, "e.c", C_ECHO, "cc", "-fsanitize=address", "-o", "echo")],
    ),
    "c++": ("c++ hello", lambda f: [compile_one(f, "e.cc", CPP_ECHO, "c++", "-o", "echo")]),
    "go": ("go hello", lambda f: [compile_one(f, "e.go", GO_ECHO, "go", "build", "-o", "echo")]),
    "rust": ("rust hello", lambda f: [compile_one(f, "e.rs", RUST_ECHO, "rustc", "-o", "echo")]),
    "java": ("java hello", lambda f: _java(f, "Echo", JAVA_ECHO)),
    "a perl script": (
        "perl hello",
        lambda f: [script(f, "#!/usr/bin/env perl\nwhile (<>) { print 'perl ', $_ }\n")],
    ),
    "an awk script": (
        "awk hello",
        lambda f: [script(f, f'#!{shutil.which("mawk")} -f\n{{print "awk " $0}}\n')],
    ),
    "an awk script through env": (
        "awk hello",
        lambda f: [script(f, '#!/usr/bin/env -S mawk -f\n{print "awk " $0}\n')],
    ),
    "a python script without .py": (
        "py hello",
        lambda f: [
            script(
                f,
                "#!/usr/bin/env python3\nimport sys\nfor x in sys.stdin: print('py', x, end='')\n",
            )
        ],
    ),
}


def _written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def _java(folder: Path, name: str, source: str) -> list[str]:
    find("javac", "java")
    path = _written(folder, f"{name}.java", source)
    subprocess.run(["javac", "-d", str(folder), path], check=True)
    return ["java", "--", "-cp", str(folder), name]


def needs(name: str) -> str:
    """Return the command that a program of the list is run by, if it is one."""
    words = {"an awk script": "mawk", "an awk script through env": "mawk", "a perl script": "perl"}
    return words.get(name, name if name.isalpha() and len(name) > 1 else "sh")


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_line_is_answered_before_the_next_is_sent(name: str, tmp_path: Path) -> None:
    """`S perl -- -ne 'print "hello $_"'` printed nothing until it ended (case 15)."""
    if name != "rust":
        find(needs(name))
    answer, command = PROGRAMS[name]
    with serve(*command(tmp_path)) as server, RawClient.connect(server) as client:
        for _ in range(2):
            client.send_text("hello")
            assert client.receive_text() == answer


@pytest.mark.parametrize("name", ["c", "static c", "perl", "tclsh", "mawk", "ruby"])
def test_a_terminal_for_its_output_does_for_any(name: str, tmp_path: Path) -> None:
    find(needs(name))
    answer, command = PROGRAMS[name]
    with serve("--linebuffer=on", *command(tmp_path)) as server:
        with RawClient.connect(server) as client:
            for _ in range(2):
                client.send_text("hello")
                assert client.receive_text() == answer


@pytest.mark.parametrize("when", ["auto", "on"])
def test_nothing_is_echoed_or_changed_on_the_way(when: str) -> None:
    """A terminal would echo, end lines with CR LF, and take ^C, ^D and tabs for commands."""
    odd = "\x01\x03\x04\x08\t\x11\x13\x15\x1a\x1b[31m\x7f é 漢"
    with serve("--linebuffer", when, "--delimiters", "\n", "cat") as server:
        with RawClient.connect(server) as client:
            for text in (odd, "", "x" * 200_000, "in\rside", "last"):
                client.send_in_background(encode_client_frame(TEXT, text.encode()))
                assert client.receive_text() == text


@pytest.mark.parametrize("when", ["auto", "on"])
def test_programs_draw_no_colours(when: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    command = "grep --color=auto hel; ls --color=auto -F -1"
    with serve("--linebuffer", when, "sh", "--", "-c", f"ls --color=auto -1; {command}",
               cwd=tmp_path) as server:  # fmt: skip
        with RawClient.connect(server) as client:
            assert client.receive_text() == "folder"
            client.send_text("hello")
            assert client.receive_text() == "hello"


@pytest.mark.parametrize("when", ["auto", "on"])
def test_all_that_was_printed_before_the_end_arrives_before_the_close(when: str) -> None:
    """Repeated, as the end of a terminal and what is left in it race each other."""
    count = 3000
    with serve("--linebuffer", when, "sh", "--", "-c", f"seq {count}; printf last") as server:
        for index in range(20):
            with RawClient.connect(server, f"room-{index}") as client:
                found = client.receive_many(count + 1)
                assert found == [b"%d" % n for n in range(1, count + 1)] + [b"last"]
                assert client.wait_close()[0] == 1000


def test_rooms_whose_output_is_a_terminal_leave_none_behind() -> None:
    with serve("--linebuffer=on", "cat") as server:
        before = None
        for index in range(5):
            with RawClient.connect(server, f"room-{index}") as client:
                client.send_text("x")
                assert client.receive_text() == "x"
            wait_until(lambda: not server.children())
            before = before or server.descriptors()
        wait_until(lambda: server.descriptors() <= (before or 0))


def test_a_terminal_is_closed_but_once() -> None:
    """If there is none for the next program, its number may be somebody's socket by then."""
    backend = LineBufferedBackend(parse_command_line(["--linebuffer=on", "cat"]))
    backend._terminal, output = open_output_terminal()
    os.close(output)
    backend._detach()
    backend._detach()


def test_a_terminal_that_cannot_be_set_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its ends stayed open for as long as the server ran."""
    ends = os.pipe()  # the two ends of anything
    monkeypatch.setattr(os, "openpty", lambda: ends)
    with pytest.raises(termios.error):
        open_output_terminal()
    assert not any(map(is_open, ends))


def test_likewise_a_terminal_for_all_three_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = os.pipe()
    monkeypatch.setattr(pty, "openpty", lambda: ends)
    backend = PtyBackend(parse_command_line(["--pty", "cat"]))
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        backend._attach({})
    backend._detach()
    assert not any(map(is_open, ends))


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_with_null_bytes_between_messages_no_newline_is_waited_for(tmp_path: Path) -> None:
    source = C_ECHO.replace('"c %s", line', '"%c%c", line[0], 0')
    program = compile_one(tmp_path, "e.c", source, "cc", "-o", "echo")
    with serve("--null", program) as server, RawClient.connect(server) as client:
        for letter in "ab":
            client.send_text(letter)
            assert client.receive_text() == letter


TELL = '[ -t 1 ]; echo "$? [$LD_PRELOAD] [$_STDBUF_O] [$PERL5OPT]"; exec cat'


@pytest.mark.parametrize("options", [("--binary",), ("--linebuffer=off",)])
def test_off_and_binary_leave_a_program_alone(options: tuple[str, ...]) -> None:
    with serve(*options, "bash", "--", "-c", TELL) as server:
        with RawClient.connect(server) as client:
            found = client.receive_message()[1].decode().strip()
    assert found == "1 [] [] []"


def test_off_waits_as_the_program_does(tmp_path: Path) -> None:
    program = compile_one(tmp_path, "e.c", C_ECHO, "cc", "-o", "echo")
    with serve("--linebuffer=off", program) as server, RawClient.connect(server) as client:
        client.send_text("hello")
        with pytest.raises(TimeoutError):
            client.receive_text(0.5)


def test_what_the_operator_preloads_stays() -> None:
    own = {"LD_PRELOAD": "/nowhere/own.so", "PERL5OPT": "-w"}
    options = ("--passenv", "+LD_PRELOAD,PERL5OPT")
    with serve(*options, "bash", "--", "-c", TELL, env=own) as server:
        with RawClient.connect(server) as client:
            found = client.receive_text()
    assert "[/nowhere/own.so " in found
    assert found.endswith("[-w -MXSLoader;$|++]")


# ==== How it is chosen =====================================================


def plan(command: str, **options: object) -> Launch:
    """Return how a command would be started."""
    return plan_launch(Config(command=(command,)).replace(**options), {})


def binary(folder: Path, *pieces: bytes, machine: bytes = b"\xff\xff") -> str:
    """Write what looks like the beginning of a program of another kind."""
    path = folder / "program"
    path.write_bytes(b"\x7fELF\x02\x01".ljust(18, b"\0") + machine + b"\0" * 40 + b"".join(pieces))
    return str(path)


def test_programs_that_cannot_take_the_library_get_a_terminal(tmp_path: Path) -> None:
    assert plan(binary(tmp_path, b"nothing")).open_output
    assert plan(binary(tmp_path, b"/lib/ld-musl-x86_64.so.1\0")).open_output
    assert plan(binary(tmp_path, b"/lib/ld-linux.so.2\0")).open_output  # of another machine


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
def test_a_program_that_runs_as_its_owner_or_group_gets_a_terminal(
    mode: int, tmp_path: Path
) -> None:
    """As games with a common list of scores do. The loader preloads nothing there: clients got its
    lines when some kilobytes had come together."""
    program = tmp_path / "game"
    shutil.copy(shutil.which("cat") or "", program)
    program.chmod(0o755)
    if plan(str(program)).open_output:
        pytest.skip("there is no library for it")
    program.chmod(mode)
    assert plan(str(program)).open_output


def test_go_needs_nothing(tmp_path: Path) -> None:
    launch = plan(binary(tmp_path, b"\4\0\0\0Go\0\0buildid"))
    assert not launch.open_output
    assert "LD_PRELOAD" not in launch.variables


def test_where_there_is_no_library_a_terminal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linebuffer, "find_stdbuf", lambda: "")
    assert plan(shutil.which("cat") or "").open_output
    assert not plan(sys.executable).open_output


def test_the_library_of_the_machine_is_found() -> None:
    if not os.path.exists("/usr/bin/stdbuf"):
        pytest.skip("stdbuf is not installed")
    assert os.path.isfile(find_stdbuf())


# ==== Letters of the whole world ===========================================


@pytest.mark.parametrize("locale", [{"LANG": "C.UTF-8"}, {"LANG": ""}])
@pytest.mark.parametrize("language", ["java", "perl"])
def test_letters_are_printed_as_they_came(
    language: str, locale: dict[str, str], tmp_path: Path
) -> None:
    """Without LANG, which was not passed on, Java and Perl print `?` (case 16)."""
    find(language)
    if language == "java":
        command = _java(tmp_path, "Echo", JAVA_ECHO)
    else:
        command = ["perl", "--", "-e", 'use open ":std", ":locale"; print "perl $_" while <>']
    own = {"LC_ALL": "", "LC_CTYPE": "", **locale}
    with serve(*command, env=own) as server, RawClient.connect(server) as client:
        client.send_text("é漢🦊")
        assert client.receive_text() == f"{language} é漢🦊"


# ==== A prompt ===========================================================================


@pytest.mark.parametrize("options", [(), ("--linebuffer=off",), ("--serverframe=json",)])
def test_a_prompt_that_nobody_gets_is_told_of(options: tuple[str, ...], tmp_path: Path) -> None:
    """Clients saw nothing, the program waited for their answer, and the log said nothing."""
    (tmp_path / "own.py").write_text("print('welcome')\nname = input('Your name? ')\n")
    with serve(*options, str(tmp_path / "own.py")) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "welcome"
        hint = "[WARN] clients do not get 'Your name? ' before its line has ended  room="
        wait_until(lambda: any(hint in line for line in server.log()))
        client.send_text("ann")
        assert client.receive_text() == "Your name? "


def test_a_line_that_goes_on_is_no_prompt_and_one_prompt_is_told_of() -> None:
    backend, room = PipeBackend(Config(command=("cat",))), Mock()
    framing = Framing(report=Mock())
    backend._room, backend._from_child = room, framing

    def print_to_it(data: bytes) -> int:
        backend._deliver(framing.feed(data))
        return room.registry.timer.call_later.call_count

    def look() -> int:
        room.registry.timer.call_later.call_args[0][1]()
        return room.log.warning.call_count

    assert print_to_it(b"one\n") == 0
    assert print_to_it(b"two\nthr") == print_to_it(b"ee") == print_to_it(b"!") == 1
    assert look() == 0 and room.registry.timer.call_later.call_count == 2  # it has grown: again
    assert print_to_it(b"\n") == 2
    assert look() == 0 and room.registry.timer.call_later.call_count == 2  # it has ended
    assert print_to_it(b"Name? ") == 3
    assert look() == 1
    assert print_to_it(b"\nAge? ") == 3  # that once for a room will do
