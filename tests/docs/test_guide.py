"""The guide in net/README.md, followed to the letter: every command is run, in one shell.

A block of `console` holds commands behind `$ ` and, below each, what it prints; `> ` continues a
command. In what is printed, `…` stands for anything within a line, and alone in a line for any
number of lines. White space counts only as such. A block of Python is written to the file that is
named behind its language.

Four things differ from what a reader does. The port is not 9000 but a free one. What servers in
the background log goes to a file. There is no window, so `wireshark` is a tshark that writes to a
file. And where the tests run as root, tshark runs as nobody, since it loads no Lua for root.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from tests.support import ROOT, SCRIPT, require_tool, wait_until

GUIDE = ROOT / "net" / "README.md"
TEXT = GUIDE.read_text(encoding="utf-8")
PORT = "9000"  # the one in the guide
PATIENCE = 30  # seconds for one command
LOG = "background.log"
WIRESHARK = "wireshark.txt"


# ==== 1. What is on the page ==============================================


class Step(NamedTuple):
    """A command, or a file to write."""

    line: int  # of the guide
    command: str
    expected: str
    file: str = ""  # if it is one, `command` is what is in it

    @property
    def title(self) -> str:
        """Say which step this is, for the names of tests."""
        words = " ".join(self.command.split())
        return f"line {self.line}: {self.file or words[:60]}"


def steps(text: str = TEXT) -> Iterator[Step]:
    """Return what the blocks of a page say, in order."""
    for match in re.finditer(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        language, name, body = match.groups()
        line = text.count("\n", 0, match.start()) + 2
        if language == "console":
            yield from read_console(body, line)
        elif name:
            yield Step(line, body, "", file=name)


def read_console(body: str, line: int) -> Iterator[Step]:
    """Return the commands of a block, each with what it prints."""
    assert body.startswith("$ "), f"line {line} is no command"
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, *rest = part.splitlines()
        while rest and rest[0].startswith("> "):
            command += "\n" + rest.pop(0)[2:]
        yield Step(line, command, "\n".join(rest))
        line += part.count("\n")


STEPS = list(steps())


def matches(expected: str, output: str) -> bool:
    """Whether a command has printed what the guide shows."""
    pattern = ""
    for line in expected.splitlines():
        words = " ".join(line.split())
        if words == "…":
            pattern += "(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part.strip()) for part in words.split("…"))
            pattern = pattern + "\n"
    lines = [" ".join(line.split()) for line in output.strip().splitlines()]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


# ==== 2. Doing what it says ===============================================


class Shell:
    """A bash that runs the guide's commands, one after another, in a folder of its own."""

    def __init__(self, folder: Path, port: str) -> None:
        self.folder = folder
        self.port = port
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=make_environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """Run one command; return what it prints.

        Raises:
            AssertionError: it takes too long.
        """
        command = self.with_port(command)
        serves = "scalesocket.py" in command and command.endswith("&")
        if command.endswith("&"):
            command = f"exec 2>>{LOG}\n{command}\nexec 2>&1"
        mark = f"done-{random.getrandbits(64):x}"
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\necho; echo {mark}\n".encode())
        self._process.stdin.flush()
        output = self._read_to(f"\n{mark}\n")
        if serves:
            wait_until(lambda: is_served(int(self.port)), timeout=PATIENCE, message=command)
        return re.sub(rf"\b{self.port}\b", PORT, output)

    def with_port(self, text: str) -> str:
        """Return a text of the guide with the port that is used here."""
        return re.sub(rf"\b{PORT}\b", self.port, text)

    def _read_to(self, mark: str) -> str:
        assert self._process.stdout is not None
        data = b""
        descriptor = self._process.stdout.fileno()
        os.set_blocking(descriptor, False)
        deadline = time.monotonic() + PATIENCE
        while not data.endswith(mark.encode()):
            assert time.monotonic() < deadline, f"it hangs, having said {data!r}"
            try:
                chunk = os.read(descriptor, 65536)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            assert chunk, f"the shell has ended, having said {data!r}"
            data += chunk
        return data.decode().removesuffix(mark)

    def close(self) -> None:
        """End the shell and all that it has started."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=PATIENCE)


def make_environment(folder: Path) -> dict[str, str]:
    """Return the environment of the guide's shell, in which its commands are found."""
    tools = folder / "tools"
    home = folder / "home"
    tools.mkdir()
    home.mkdir()
    home.chmod(0o777)
    become = "" if os.geteuid() else "runuser -u nobody -- "
    tshark = f'chmod -f a+r *.pcapng *.log\nexec {become}{require_tool("tshark")} "$@"'
    window = f'[ $1 = -k ] && shift || set -- -r "$@"\nexec tshark -l "$@" >> {WIRESHARK}'
    python = f'exec {shlex.quote(sys.executable)} "$@"'
    for name, text in {"tshark": tshark, "wireshark": window, "python3": python}.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    path = os.pathsep.join((str(tools), os.environ["PATH"]))
    own = {"PATH": path, "HOME": str(home), "WIRESHARK_CONFIG_DIR": str(home), "LC_ALL": "C.UTF-8"}
    own["PYTHONDONTWRITEBYTECODE"] = "1"
    return {**os.environ, **own}


def is_served(port: int) -> bool:
    """Whether somebody listens; a connection would be seen in the captures."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def find_port() -> str:
    """Return a port of four digits; no system gives one of these to who asks for any port."""
    return next(str(n) for n in random.sample(range(6100, 7900), 100) if not is_served(n))


def require_openssl() -> None:
    """Skip the test without the command, or fail it when CI is set."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("missing tool: openssl")
        pytest.skip("missing tool: openssl")


class Run(NamedTuple):
    """The guide as it was followed."""

    shell: Shell
    outputs: dict[Step, str]  # after a command that hangs there are no more


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    require_tool("nc")
    require_tool("tshark")
    require_openssl()
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(SCRIPT, folder)
        unwanted = shutil.ignore_patterns("__pycache__")
        for part in ("net", "game", "client"):
            shutil.copytree(ROOT / part, folder / part, ignore=unwanted)
        shell = Shell(folder, find_port())
        try:
            yield Run(shell, follow(shell))
        finally:
            shell.close()


def follow(shell: Shell) -> dict[Step, str]:
    """Do all steps; return what each has printed."""
    found: dict[Step, str] = {}
    for step in STEPS:
        if step.file:
            (shell.folder / step.file).write_text(shell.with_port(step.command))
            continue
        try:
            found[step] = shell.run(step.command)
        except AssertionError as error:
            found[step] = str(error)
            break
    return found


# ==== 3. What it says is so ===============================================

COMMANDS = [step for step in STEPS if not step.file]


@pytest.mark.slow
@pytest.mark.parametrize("step", COMMANDS, ids=[step.title for step in COMMANDS])
def test_a_command_prints_what_the_guide_shows(run: Run, step: Step) -> None:
    assert step in run.outputs, "a command before it hangs"
    output = run.outputs[step]
    assert matches(step.expected, output), f"{step.command}\nprints\n{output}"


@pytest.mark.slow
def test_the_servers_in_the_background_have_nothing_to_complain_about(run: Run) -> None:
    log = (run.shell.folder / LOG).read_text()
    assert log.count("running at") == log.count("stopped") >= 8
    assert [line for line in log.splitlines() if re.search("Traceback|WARN|ERROR|bug", line)] == []


@pytest.mark.slow
def test_wireshark_is_shown_each_capture(run: Run) -> None:
    shown = (run.shell.folder / WIRESHARK).read_text()
    wanted = [step for step in COMMANDS if "wireshark " in step.command]
    assert shown.count("GET /lobby") == len(wanted) == 2
    assert shown.count("WebSocket Connection Close [FIN] [MASKED]") == len(wanted)


def filters() -> list[tuple[str, int]]:
    """Return the filters of the table, and how many packets each finds."""
    table = TEXT.partition("| filter | finds in `talk.pcapng` | packets |")[2].partition("\n\n")[0]
    return [(name, int(count)) for name, count in re.findall(r"\| `(.+?)` .* (\d+) \|", table)]


@pytest.mark.slow
def test_the_filters_find_as_many_packets_as_the_guide_says(run: Run) -> None:
    assert len(filters()) >= 12
    names = ",".join(name for name, _ in filters())
    output = run.shell.run(f"tshark -q -r talk.pcapng -z io,stat,0,{shlex.quote(names)}")
    (line,) = re.findall(r"^\|.*<>(.*)\|$", output, re.MULTILINE)
    counts = [int(number) for number in line.split("|")[1::2] if number.strip()]
    assert counts == [count for _, count in filters()]


# ==== 4. What needs no shell ==============================================


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("", "", True),
        ("", "x\n", False),
        ("a", "a\n", True),
        ("a", "b\n", False),
        ("a", "a\nb\n", False),
        ("a\nb", "a\n", False),
        ("a  b", " a b\r\n", True),
        ("a … c", "a b c", True),
        ("a … c", "a b d", False),
        ("a…", "a", True),
        ("a…", "a\nb", False),
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a\n…\nd", "a\nd", True),
        ("a\n…", "a\nb\nc", True),
        ("a\n…\nd", "b\nd", False),
        ("1.2", "1x2", False),
    ],
)
def test_output_is_compared_but_for_white_space_and_what_varies(
    expected: str, output: str, same: bool
) -> None:
    assert matches(expected, output) is same


def test_no_block_is_overlooked() -> None:
    fences = re.findall(r"^```(.*)$", TEXT, re.MULTILINE)
    assert fences[1::2] == [""] * (len(fences) // 2)
    assert set(fences[::2]) == {"text", "console", "python play.py"}
    assert len(COMMANDS) == len(re.findall(r"^\$ ", TEXT, re.MULTILINE)) > 70


def test_the_contents_are_the_headings() -> None:
    headings = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    listed = re.findall(r"^- \[(.*)\]\(#(.*)\)$", TEXT, re.MULTILINE)
    assert [title for title, _ in listed] == headings
    for title, anchor in listed:
        assert anchor == re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_the_frame_is_drawn_as_in_the_source() -> None:
    source = SCRIPT.read_text(encoding="utf-8")
    (drawing,) = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert drawing == re.sub(r"^#     ", "", drawn_lines(source), flags=re.MULTILINE)


def drawn_lines(source: str) -> str:
    """Return the comment lines that draw a frame."""
    return source[
        source.index("#      0               1") : source.index("#\n# From the server `81")
    ]


def test_the_packets_are_those_of_the_sandbox() -> None:
    packets = pytest.importorskip("net.sandbox_packets")
    assert packets.describe_packets().replace("## ", "### ") in TEXT
