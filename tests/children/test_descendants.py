"""What programs have started themselves, and what becomes of it (cases 14, 40, 45)."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scalesocket.net.last_read import count_unread
from scalesocket.net.spawn import TidyChild

from scalesocket import RECEIVE_SIZE
from tests.support import (
    PATIENCE,
    ROOT,
    SCRIPT,
    RawClient,
    ServerProcess,
    descendants,
    is_alive,
    processes,
    read_process,
    serve,
    shell,
    wait_until,
    with_constants,
)

DESCENDANTS = "scalesocket.net.descendants"

pytestmark = [
    pytest.mark.slow,  # many servers are started here; --quick leaves them out
    pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tell"),
]


def zombies(pid: int) -> list[int]:
    return [process.pid for process in descendants(pid, processes()) if process.state == "Z"]


# ==== What has left the program's session ===================================

ESCAPES = {
    "setsid": "setsid sleep 1000 & echo $!",
    "a daemon, whose parent has ended": "(setsid sh -c 'echo $$; exec sleep 1000' &)",
    "with children": "setsid sh -c 'sleep 1000 & echo $!; sleep 1001'&",
    "with no other variable": "env -i UNIQUE_ID=$UNIQUE_ID setsid sleep 1000 & echo $!",
    "that ignores SIGTERM": "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' &",
}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("escape", ESCAPES)
def test_what_has_a_session_of_its_own_ends_with_its_room(escape: str, workers: str) -> None:
    """`setsid sleep &` in a program outlived its room, against README (case 45)."""
    with serve("--workers", workers, *shell(f"{ESCAPES[escape]}\ncat")) as server:
        with RawClient.connect(server, "other") as other:
            stays = int(other.receive_text())
            with RawClient.connect(server) as client:
                leaves = int(client.receive_text())
                assert is_alive(leaves)
            wait_until(lambda: not is_alive(leaves))
            assert is_alive(stays)  # it is of another room
            other.send_text("here")
            assert other.receive_text() == "here"
        wait_until(lambda: not is_alive(stays))


def test_who_takes_its_time_to_end_is_asked_but_once(tmp_path: Path) -> None:
    """A second signal would interrupt what it does to end."""
    asked = f"echo asked >> {tmp_path}/count; asked=1"
    takes_its_time = "while test -z \\$asked; do sleep 0.01; done; sleep 0.5"
    program = f"setsid sh -c \"trap '{asked}' TERM; echo \\$\\$; {takes_its_time}\" & cat"
    with serve("--closegrace", "3600", *shell(program)) as server:
        with RawClient.connect(server) as client:
            pid = int(client.receive_text())
        wait_until(lambda: not is_alive(pid))
    assert (tmp_path / "count").read_text() == "asked\n"


STOP_WHAT_BEGINS = """
import os, subprocess, threading
from scalesocket.net import descendants

def stop_each():
    for number in range(60):
        name = f"UNIQUE_ID={number}"
        script = ["setsid sleep 1000 &", "setsid sh -c 'sleep 1000 & sleep 1001' &"][number % 2]
        subprocess.run(["env", name, "sh", "-c", script], start_new_session=True)
        descendants.stop_orphans(f"\\0{name}\\0".encode(), 0.1)
        descendants.signal_orphans(b"\\0", 0, set())  # reaps
        left = descendants.list_orphans()
        assert not left, (number, [open(f"/proc/{pid}/status").read()[:200] for pid in left])
    print("none is left")

descendants.adopt()
thread = threading.Thread(target=stop_each)  # the main thread starts none
thread.start()
thread.join()
descendants.kill_orphans()
"""


def test_what_is_about_to_become_another_program_is_found_too() -> None:
    """It has no environment at that moment, and stayed."""
    command = [sys.executable, "-c", STOP_WHAT_BEGINS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout == "none is left\n", done.stderr


def test_what_has_dropped_its_variables_ends_with_the_server() -> None:
    """Nobody can tell whose it is, but that it is some room's."""
    with serve(*shell("env -i setsid sh -c 'echo $$; exec sleep 1000' & cat")) as server:
        with RawClient.connect(server) as client:
            pid = int(client.receive_text())
        wait_until(lambda: read_process(pid) and server.pid == read_process(pid).parent)  # type: ignore[union-attr]
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        wait_until(lambda: not is_alive(pid))


def test_a_second_signal_kills_it_too(tmp_path: Path) -> None:
    ends = tmp_path / "the input has ended"
    script = "trap '' INT TERM; setsid sleep 1000 & echo $!"
    script += '; cat; touch "$1"; while :; do sleep 1; done'
    lasting = with_constants(END_TIMEOUT=3 * PATIENCE)  # the first signal alone would not do it
    with serve("--closegrace", "3600", *shell(script, str(ends)), command=lasting) as server:
        with RawClient.connect(server) as client:
            pid = int(client.receive_text())
            server.process.send_signal(signal.SIGTERM)
            wait_until(ends.exists)
            server.signal_again()
            assert client.wait_close()[0] == 1001
            assert server.wait() == 1
        wait_until(lambda: not is_alive(pid))


def test_a_child_that_the_server_had_before_is_not_touched(tmp_path: Path) -> None:
    """As that of a shell script which ends in `exec scalesocket`."""
    note = tmp_path / "pid"
    exec_it = ("sh", "-c", f'sleep 1000 > /dev/null 2>&1 & echo $! > {note}; exec "$@"', "sh")
    with serve(*shell("echo up"), command=[*exec_it, sys.executable, str(SCRIPT)]) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "up"
            assert client.wait_close()[0] == 1000
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        pid = int(note.read_text())
        assert is_alive(pid)
        os.kill(pid, signal.SIGKILL)


# ==== Zombies ==============================================================

LITTER = "for i in 1 2 3; do (setsid sh -c 'exec sleep 0.1' &); done; echo done; exec cat"


def test_what_a_program_leaves_behind_is_reaped_while_it_runs() -> None:
    with serve(*shell(LITTER), command=with_constants(DESCENDANTS, REAP_INTERVAL=0.1)) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "done"
            wait_until(lambda: len(server.children()) == 1)
            wait_until(lambda: not zombies(server.pid))
            client.send_text("still here")
            assert client.receive_text() == "still here"


def test_exit_statuses_are_not_stolen() -> None:
    """Repeated, as the one who waits for a program and the one who reaps could race."""
    script = f"{LITTER.partition('echo')[0]} exit 7"
    with serve(*shell(script), command=with_constants(DESCENDANTS, REAP_INTERVAL=0.001)) as server:
        for index in range(30):
            with RawClient.connect(server, f"room-{index}") as client:
                code, reason = client.wait_close()
                assert (code, "status 7" in reason) == (1011, True)


MANY = """
import os, subprocess, sys, threading
sys.path.insert(0, {root!r})
import scalesocket
from scalesocket.net import descendants

class Timer:
    def call_later(self, seconds, function):
        pass

orphans = descendants.Orphans(Timer(), 0)
orphans.start()
subprocess.run(["sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 &"])
while not descendants.list_orphans():
    pass
list_them, descendants.read_orphans = descendants.read_orphans, None
orphans._reap()
print("each is not asked after")
descendants.read_orphans = list_them
with descendants._lock:
    reaping = threading.Thread(target=orphans._reap, daemon=True)
    reaping.start()
    reaping.join({patience})
    print("waiting" if reaping.is_alive() else "nobody is waited for")
descendants.kill_orphans()
"""


def test_what_never_pauses_does_not_hide_that_its_program_has_exited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That was asked at each 64th read: its room was open while 4 MiB of lines were logged."""
    monkeypatch.setattr("scalesocket.net.spawn.ASK_INTERVAL", 0.0)  # as if each took so long
    child = TidyChild(
        ["sh", "-c", "yes >&2 &"],
        os.environ,
        (subprocess.DEVNULL, subprocess.DEVNULL, subprocess.PIPE),
        grace=0.0,
    )
    try:
        stderr = child.popen.stderr
        assert stderr is not None
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert select.select([stderr], [], [], PATIENCE)[0]
        taken: list[bytes] = []
        for piece in child.read(stderr.fileno()):  # as slowly as it is written into a log
            taken.append(piece)
            wait_until(lambda: count_unread(stderr.fileno()) >= RECEIVE_SIZE // 2)
        assert 1 <= len(taken) <= 16  # 1 MiB: what was in the pipe, and some of what comes later
    finally:
        child.signal_group(signal.SIGKILL)
        child.wait(PATIENCE)
        child.close()


def test_however_many_live_on_the_one_thread_that_serves_all_is_not_held_up() -> None:
    """5,000 of them took half a second of each, in which no ping and no backlog was sent; and it
    waited for a room that was stopping its own."""
    program = MANY.format(root=os.fspath(ROOT), patience=PATIENCE)
    run = [sys.executable, "-c", program]
    told = subprocess.run(run, capture_output=True, text=True, timeout=3 * PATIENCE, check=True)
    assert told.stdout == "each is not asked after\nnobody is waited for\n"


STARVED = """
import errno, os, subprocess, sys
sys.path.insert(0, {root!r})
import scalesocket
from scalesocket.net import descendants

assert descendants.adopt()
environment = {{**os.environ, "UNIQUE_ID": "mine"}}
command = ["sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 &"]
subprocess.run(command, env=environment)
while not descendants.list_orphans():
    pass
failures, inner = 20, getattr(descendants, sys.argv[1])

def read_later(*args):
    global failures
    failures -= 1
    if failures >= 0:
        raise OSError(errno.EMFILE, "Too many open files")
    return inner(*args)

setattr(descendants, sys.argv[1], read_later)
descendants.stop_orphans(b"\\0UNIQUE_ID=mine\\0", 60)
print(descendants.list_orphans(), failures < 0)
descendants.kill_orphans()
"""


@pytest.mark.parametrize("function", ["read_orphans", "read_environment"])
def test_what_cannot_be_looked_at_for_want_of_descriptors_is_not_left_behind(function: str) -> None:
    """A look that failed passed for one that had found nothing, and it ran on with nobody to end
    it before the server did."""
    program = STARVED.format(root=os.fspath(ROOT))
    run = [sys.executable, "-c", program, function]
    told = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert told.stdout == "[] True\n"


def test_as_the_first_process_of_a_container_it_leaves_no_zombies() -> None:
    """Case 14: nobody else would reap them there."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if os.geteuid() == 0:
        unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"]).returncode != 0:
        pytest.skip("no process may have a table of its own here")
    command = [*unshare, *with_constants(DESCENDANTS, REAP_INTERVAL=0.1)]
    with serve(*shell(LITTER), command=command) as server:
        (first,) = server.children()
        with RawClient.connect(server) as client:
            assert client.receive_text() == "done"
            wait_until(lambda: len(descendants(first, processes())) == 1)
        wait_until(lambda: descendants(first, processes()) == [])
        os.kill(first, signal.SIGTERM)
        assert server.wait() == 0


# ==== What is left in a program's stdin ====================================

RECORDER = """
import sys, time
time.sleep(float(sys.argv[2]))
print("up", flush=True)
lines = sys.stdin.readlines()
open(sys.argv[1], "w").writelines(lines)
"""


# A busy machine starts a program slowly; nobody waits for so long in vain.
PATIENT = {"FIRST_READ_TIMEOUT": 30.0, "LAST_READ_TIMEOUT": 30.0}


def wait_until_room_closed(server: ServerProcess) -> None:
    """Wait for the end of its program, which may begin only when its client has gone."""
    server.wait_log("room closed")
    assert server.children() == []


def recorded(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_program_that_starts_slowly_reads_all_before_it_is_stopped(tmp_path: Path) -> None:
    """It was interrupted 0.2 s after its client had gone, with all messages unread (case 40)."""
    (tmp_path / "recorder.py").write_text(RECORDER)
    notes = tmp_path / "notes"
    messages = [f"message {number}" for number in range(9)]
    command = (str(tmp_path / "recorder.py"), "--", str(notes), "0.5")
    with serve(*command, command=with_constants("scalesocket.net.last_read", **PATIENT)) as server:
        with RawClient.connect(server) as client:
            for message in messages:
                client.send_text(message)
            assert client.close()[0] == 1000
        wait_until_room_closed(server)
    assert recorded(notes) == messages


def test_likewise_if_it_was_sent_more_than_a_pipe_holds(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    late = ("--closegrace", "3", *shell('sleep 1.5; exec cat > "$1"', str(notes)))
    with serve(*late, command=with_constants("scalesocket.net.last_read", **PATIENT)) as server:
        with RawClient.connect(server) as client:
            for number in range(300):
                client.send_text(f"{number} " + "x" * 1000)
            assert client.close()[0] == 1000
        wait_until_room_closed(server)
    assert [line.split()[0] for line in recorded(notes)] == [str(n) for n in range(300)]


def test_likewise_if_it_has_closed_its_stdout(tmp_path: Path) -> None:
    """Its output had ended, so all but what its pipe held was dropped while it began to read."""
    notes, sent = tmp_path / "notes", tmp_path / "sent"
    script = 'while ! [ -e "$2" ]; do sleep 0.05; done; exec > "$1"; sleep 0.8; exec cat'
    silent = ("--closegrace", "3", *shell(script, str(notes), str(sent)))
    with serve(*silent, command=with_constants("scalesocket.net.last_read", **PATIENT)) as server:
        with RawClient.connect(server) as client:
            for number in range(300):
                client.send_text(f"{number} " + "x" * 1000)
            assert client.close()[0] == 1000
        sent.touch()
        wait_until(notes.exists)
        wait_until(lambda: server.children() == [])
    assert [line.split()[0] for line in recorded(notes)] == [str(n) for n in range(300)]


def test_who_reads_slowly_is_not_interrupted_while_reading(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    slow = 'while read line; do echo "$line" >> "$1"; sleep 0.1; done'
    options = ("--closegrace", "2")
    with serve(
        *options,
        *shell(slow, str(notes)),
        command=with_constants("scalesocket.net.last_read", **PATIENT),
    ) as server:
        with RawClient.connect(server) as client:
            for number in range(20):
                client.send_text(f"{number} " + "x" * 400)  # `read` takes byte by byte
            assert client.close()[0] == 1000
        wait_until_room_closed(server)
    assert [line.split()[0] for line in recorded(notes)] == [str(n) for n in range(20)]


@pytest.mark.parametrize("script", ["echo up; exec cat", "echo up; exec sleep 1000"])
def test_others_are_stopped_as_soon_as_ever(script: str) -> None:
    """Who ends at the end of input ends at once; who never reads gets the short steps."""
    times = {"FIRST_READ_TIMEOUT": 0.0, "LAST_READ_TIMEOUT": 10.0 * PATIENCE}  # the longer is not
    soon = with_constants("scalesocket.net.last_read", **times)
    with serve(*shell(script), command=soon) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "up"
            client.send_text("perhaps unread")
        wait_until(lambda: server.children() == [])
