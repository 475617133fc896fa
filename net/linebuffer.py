"""Programs on pipes: how one that is not Python prints line by line (`--linebuffer`).

A program that prints into a pipe keeps what it has printed until some kilobytes have come
together. What helps against that depends on the kind of program:

    Perl, mawk      a switch of their own
    the C library   coreutils' libstdbuf.so, preloaded: it sets stdio's buffers to lines, and
                    programs that do not use stdio do not notice
    others          a pseudo-terminal in raw mode for stdout alone: programs with buffers of
                    their own write line by line if isatty() says so. Input stays a pipe, so
                    nothing is echoed, and nothing changes on the way

Go, Java, Node and Rust write each line at once anyway, and the server runs Python unbuffered.

All of these programs may also be waited for (`--delay`), and have clients hear their stderr
(`--passstderr`, see streams.py).
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from scalesocket import (
    KIB,
    POSIX,
    BackendError,
    ChildProcess,
    Config,
    Output,
)

from .patience import PatientBackend
from .streams import name_stream

PROMPT_TIME = 1.0  # seconds
_FLUSH_IN_PERL = "-MXSLoader;$|++"  # `use XSLoader;$|++;`, a module that every Perl has loaded
_NO_COLOURS = {"TERM": "dumb", "NO_COLOR": "1"}  # for programs that take stdout for a person


def find_command(name: str) -> Path | None:
    """Return where on PATH a command is, if it is there."""
    found = shutil.which(name)
    return Path(found) if found is not None else None


def is_wanted(config: Config) -> bool:
    """Whether a program is to print line by line, as far as it is made to here."""
    return config.linebuffer != "off" and not config.binary and POSIX


class PipeBackend(PatientBackend):
    """A child on pipes, also with --delay and --passstderr.

    Of one that cannot be started, or asks for an answer, it is said why.
    """

    _is_watched = False  # whether it asks; for ever, once that has been said

    def _start_child(
        self, command: Sequence[str], environment: dict[str, str], streams: tuple[int, int, int]
    ) -> ChildProcess:
        try:
            return super()._start_child(command, environment, streams)
        except BackendError as error:
            raise BackendError(f"{error}{explain_start(command[0])}") from None

    def _attach(self, environment: dict[str, str]) -> None:
        super()._attach(environment)
        self._room.ending.wait(self._config.delay)

    def _take_stderr(self, outputs: list[Output]) -> None:
        super()._take_stderr(outputs)
        if self._config.passstderr:
            super()._deliver(name_stream("stderr", outputs))

    def _deliver(self, outputs: list[Output]) -> None:
        super()._deliver(name_stream("stdout", outputs) if self._config.passstderr else outputs)
        self._watch()

    def _watch(self) -> None:
        """Have the poller look whether a line that has not ended stays so, as a prompt does."""
        rest = self._from_child.rest
        if rest and not self._is_watched:
            self._is_watched = True
            look = functools.partial(self._find_prompt, rest, len(rest))
            self._room.registry.timer.call_later(PROMPT_TIME, look)

    def _find_prompt(self, rest: bytearray, size: int) -> None:
        if rest is self._from_child.rest and len(rest) == size:
            text = rest.decode(errors="replace")[-60:]
            self._room.log.warning("clients do not get %r before its line has ended", text)
        else:
            self._is_watched = False
            self._watch()


class LineBufferedBackend(PipeBackend):
    """A child on pipes that prints line by line, some of them to a pseudo-terminal."""

    _terminal = -1

    def _attach(self, environment: dict[str, str]) -> None:
        self._command, more, open_output = plan_launch(self._config, environment)
        environment |= more
        if open_output is None:
            super()._attach(environment)
            return
        self._terminal, output = open_output()
        streams = (subprocess.PIPE, output, subprocess.PIPE)
        try:
            child = self._start_child(self._command, environment, streams)
        finally:
            os.close(output)
        assert child.popen.stdin is not None
        self._input, self._output = child.popen.stdin.fileno(), self._terminal
        os.set_blocking(self._input, False)
        self._room.ending.wait(self._config.delay)

    def _detach(self) -> None:
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1


def make_backend(config: Config) -> PipeBackend:
    """Return the backend of a room whose program is on pipes; it prints line by line if it can."""
    return (LineBufferedBackend if is_wanted(config) else PipeBackend)(config)


class Launch(NamedTuple):
    """How a program is started so that each line it prints comes at once."""

    command: tuple[str, ...]
    variables: Mapping[str, str] = MappingProxyType({})
    open_output: Callable[[], tuple[int, int]] | None = None  # gives both ends of its stdout


def plan_launch(config: Config, environment: Mapping[str, str]) -> Launch:
    """Return how to start the program.

    Args:
        config: which program, and how it is connected.
        environment: what it gets beside the variables of the plan.
    """
    command = config.command
    perl = f"{environment.get('PERL5OPT', '')} {_FLUSH_IN_PERL}".strip()
    variables = {"PERL5OPT": perl}
    spelled = spell_interpreter(command)
    program = os.path.basename(os.path.realpath(spelled[0]))
    if program == "mawk":
        command = (spelled[0], "-W", "interactive", *spelled[1:])
    how = "terminal" if config.linebuffer == "on" else choose_line_buffer(spelled[0], program)
    if how == "terminal":
        opens = None if config.tcp else open_output_terminal
        return Launch(command, variables | _NO_COLOURS, opens)
    if how:
        preloaded = f"{environment.get('LD_PRELOAD', '')} {how}".strip()
        ends_lines = b"\n" in config.delimiters and config.serverframe != "gwsocket"
        variables |= {"LD_PRELOAD": preloaded, "_STDBUF_O": "L" if ends_lines else "0"}
        # With AddressSanitizer a program refuses to start if anything was loaded before that.
        sanitizer = f"{environment.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0".strip(":")
        variables["ASAN_OPTIONS"] = sanitizer
    return Launch(command, variables)


def spell_interpreter(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command with the interpreter before a script that names one in its first line."""
    line, newline, _ = read_start(command[0]).partition(b"\n")
    if not (line.startswith(b"#!") and newline and line[2:].strip()):
        return command
    words = os.fsdecode(line[2:].strip()).split(maxsplit=1)  # as the system does (execve(2))
    if os.path.basename(words[0]) == "env":
        words = [word for word in " ".join(words[1:]).split() if word != "-S"]
        found = find_command(words[0]) if words else None
        if found is None:
            return command
        words[0] = str(found)
    return (*words, *command)


def explain_start(path: str) -> str:
    """Return what is wrong with the first line of a script that cannot be started, if that is."""
    line = read_start(path).partition(b"\n")[0]
    if not (POSIX and os.access(path, os.R_OK)) or b"\0" in line:  # it is gone, or is no script
        return ""
    if not line.startswith(b"#!"):
        return "; its first line must name what runs it, as in #!/bin/sh"
    if line.endswith(b"\r"):
        return "; its lines end with \\r\\n, as on Windows"
    interpreter = os.fsdecode(line[2:].strip()).partition(" ")[0]
    if not os.path.exists(interpreter):
        return f"; its first line names {interpreter}, which is not there"
    return ""


def choose_line_buffer(path: str, program: str) -> str:
    """Return the library to preload, or `terminal`, or nothing if the program needs neither.

    Args:
        path: of the program, or of a script's interpreter.
        program: what it is really called, links resolved.
    """
    head, library = read_start(path), find_stdbuf()
    if sys.platform != "linux" or not head.startswith(b"\x7fELF") or program.startswith("python"):
        return ""
    if re.fullmatch(r"(guile|ruby|runghc|runhaskell|tclsh)[\d.]*", program):
        return "terminal"
    kind = read_start(library)
    same_machine = head[4:6] + head[18:20] == kind[4:6] + kind[18:20]
    is_glibc = re.search(rb"/ld-linux|/ld64\.so", head) is not None  # its loader
    if same_machine and is_glibc and not is_privileged(path):
        return library
    return "" if b"Go\0\0" in head else "terminal"


def is_privileged(path: str) -> bool:
    """Whether a program runs as its owner or group (setuid, setgid): nothing is preloaded there."""
    return bool(os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID))


@functools.cache
def find_stdbuf() -> str:
    """Return the path of coreutils' libstdbuf.so, or nothing where there is none."""
    stdbuf = find_command("stdbuf") or Path("/usr/bin/stdbuf")
    for folder in ("libexec", "lib"):
        path = str(stdbuf.resolve().parent.parent / folder / "coreutils" / "libstdbuf.so")
        if os.path.isfile(path) and not re.search(r"[\s:]", path):  # which would be two
            return path
    return ""


def read_start(path: str) -> bytes:
    """Return the first 8 KiB of a file, or nothing if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(8 * KIB)
    except OSError:
        return b""


def open_output_terminal() -> tuple[int, int]:
    """Return both ends of a pseudo-terminal that changes nothing of what is printed to it."""
    import tty

    master, slave = os.openpty()
    try:
        tty.setraw(slave)  # no echo, no \r before \n, no character that means anything
    except BaseException:  # nobody else would close them
        os.close(master)
        os.close(slave)
        raise
    return master, slave
