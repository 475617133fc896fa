"""What the system refuses, and what nobody reads: one line says it, and no traceback."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest
from scalesocket.net import pages, pipes

import scalesocket
from scalesocket import Config, Headers, Server, net, parse_command_line
from tests.support import PATIENCE, ROOT, SCRIPT, RawClient, serve

PRINTING = [
    ["--help"],
    ["--version"],
    ["--print-config", "nginx", "a:1"],
    ["new", "--help"],
    ["new", "mine"],
]
BUFFERS = pytest.mark.parametrize("unbuffered", ["", "1"])


def run_with(
    words: list[str], cwd: Path, stdout: int, unbuffered: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, os.fspath(SCRIPT), *words],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.slow
@BUFFERS
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_what_nobody_reads_is_no_traceback(
    words: list[str], unbuffered: str, tmp_path: Path
) -> None:
    """As in `scalesocket --help | head -1`, if `head` is fast."""
    reader, writer = os.pipe()
    os.close(reader)
    done = run_with(words, tmp_path, writer, unbuffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, f"scalesocket: {os.strerror(errno.EPIPE)}\n")


@pytest.mark.slow
@BUFFERS
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_what_cannot_be_printed_is_said_in_a_line(
    words: list[str], unbuffered: str, tmp_path: Path
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = run_with(words, tmp_path, full, unbuffered)
    os.close(full)
    assert (done.returncode, done.stderr) == (1, f"scalesocket: {os.strerror(errno.ENOSPC)}\n")


@pytest.mark.parametrize("target", ["cat", "snake"])
def test_too_few_files_are_said_in_a_line(target: str) -> None:
    """It was a traceback, out of the selectors of Python."""
    command = [sys.executable, os.fspath(SCRIPT), "--addr=127.0.0.1:0", target]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 10; exec "$@"', "sh", *command],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0  # it may abort: to end a thread, the C library opens a file
    assert f"scalesocket: {os.strerror(errno.EMFILE)}" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


# ==== A working directory that is gone ===================================================

IN_NONE = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["snake"], ["--reload", "snake"], ["scalesocket.game.snake:Snake"]], ids=" ".join
)
def test_a_game_is_served_where_the_working_directory_is_gone(
    words: list[str], tmp_path: Path
) -> None:
    command = [*IN_NONE, sys.executable, os.fspath(SCRIPT)]
    with (
        serve(*words, cwd=tmp_path, command=command) as server,
        RawClient.connect(server, path="/x") as client,
    ):
        assert client.receive()


def test_a_module_is_not_found_where_the_working_directory_is_gone(tmp_path: Path) -> None:
    done = subprocess.run(
        [*IN_NONE, sys.executable, os.fspath(SCRIPT), "mine:Game"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    says = "scalesocket: cannot import mine:Game: there is no module 'mine' (try --help)"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, says)


@pytest.mark.slow
@pytest.mark.parametrize("before", [[], ["--reload"]], ids=" ".join)
@pytest.mark.parametrize(
    ("option", "says", "status"),
    [
        ("--store=rooms.db", f"cannot use --store rooms.db: {os.strerror(errno.ENOENT)}", 1),
        ("--pcap=x.pcap", f"--pcap x.pcap: {os.strerror(errno.ENOENT)}", 2),
        ("--unixsocket=door", f"cannot listen at door: {os.strerror(errno.ENOENT)}", 1),
        (
            "--staticdir=.",
            "argument --staticdir: '.' is no folder that can be read (try --help)",
            2,
        ),
    ],
)
def test_the_option_is_named_whose_path_leads_through_no_working_directory(
    option: str, says: str, status: int, before: list[str], tmp_path: Path
) -> None:
    """It was "cannot listen at None", of --store and --staticdir."""
    done = subprocess.run(
        [*IN_NONE, sys.executable, os.fspath(SCRIPT), *before, "--addr=127.0.0.1:0", option, "cat"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == status
    assert f"scalesocket: {says}" in done.stderr.splitlines()
    assert "None" not in done.stderr


def test_a_folder_of_pages_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A game that went to another folder had "talk" as its page, in place of its own."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "index.html").touch()
    monkeypatch.chdir(tmp_path)
    config = parse_command_line(["--staticdir=web", "cat"])
    monkeypatch.chdir("/")
    told = pages.make_files(config)._describe(Mock(headers=Headers(())))  # type: ignore[union-attr]
    assert told["page"] == ""


def refuse_files(_config: object) -> Server:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_what_the_system_refuses_before_it_listens_is_no_address(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It was "cannot listen at None", whatever it was."""
    assert scalesocket.serve(Config(), refuse_files) == 1
    assert capfd.readouterr().err == f"scalesocket: {os.strerror(errno.EMFILE)}\n"


def test_a_program_that_calls_main_can_print_after_it_could_not_listen() -> None:
    """Its stdout was closed, as of a server that could not print."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        program = f"import scalesocket; print(scalesocket.main(['--addr', '{address}', 'cat']))"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "1\n"
    assert f"cannot listen at {address}" in done.stderr


@pytest.mark.parametrize(("module", "name"), [(pages, "files"), (pipes, "linebuffer")])
def test_what_is_loaded_once_the_server_listens_may_wait_for_files(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without descriptors it was a traceback in the log, of "our own bug"."""
    finder = Mock()
    finder.find_spec.side_effect = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    monkeypatch.delitem(sys.modules, f"scalesocket.net.{name}", raising=False)
    monkeypatch.delattr(net, name, raising=False)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "meta_path", [finder])
        module.load()
        finder.find_spec.assert_called()
    module.load()
    assert f"scalesocket.net.{name}" in sys.modules
