"""What the server says on stderr: for people, for machines, and never what strangers dictate."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from scalesocket import escape_controls
from tests.support import (
    PATIENCE,
    SCRIPT,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    http_request,
    serve,
    wait_until,
)

LINE = re.compile(r"\[(TRACE|DEBUG|INFO|WARN|ERROR)\] \S.*")


def well_formed(lines: list[str]) -> list[str]:
    """Return lines after checking that each is one entry in the house's form."""
    for line in lines:
        assert LINE.fullmatch(line), f"{line!r} is no log line"
        assert line.isprintable(), f"{line!r} holds control characters"
    return lines


def chat(server: ServerProcess, room: str = "lobby") -> None:
    with RawClient.connect(server, room) as client:
        client.send_text("a secret word")
        assert client.receive_text() == "a secret word"
        client.close()
    wait_until(lambda: not server.children())


# ==== Levels ===============================================================


def test_the_first_lines_say_where_it_runs_and_what_to_open() -> None:
    with serve("cat", addr="0.0.0.0:0") as server:
        first, second = server.log()[:2] if len(server.log()) > 1 else (server.log()[0], "")
        assert first == f"[INFO] running at 0.0.0.0 on port {server.port}"
        second = second or server.wait_log("open ").string
        assert second == f"[INFO] open http://localhost:{server.port}/"
        assert server.output() == []


def test_with_pages_the_address_to_open_is_a_page(tmp_path: Path) -> None:
    with serve("--staticdir", os.fspath(tmp_path), "cat") as server:
        server.wait_log(rf"\[INFO\] open http://127\.0\.0\.1:{server.port}/$")


def test_by_default_no_client_and_no_message_is_logged() -> None:
    with serve("cat") as server:
        chat(server)
        http_request(server, path="/health")
        server.stop()
        text = "\n".join(well_formed(server.log()))
        assert "DEBUG" not in text and "TRACE" not in text
        assert "127.0.0.1 " not in text.replace("running at 127.0.0.1 on", "")
        assert "secret" not in text
        assert "client=" not in text


def test_v_logs_clients_with_their_room_and_not_their_messages() -> None:
    with serve("-v", "cat") as server:
        chat(server)
        http_request(server, path="/health")
        server.stop()
        lines = well_formed(server.log())
        assert any(
            "joined from 127.0.0.1" in line and "room=lobby client=1" in line for line in lines
        )
        assert any("left with 1000" in line and "room=lobby client=1" in line for line in lines)
        assert any("/health" in line for line in lines)
        assert "secret" not in "\n".join(lines)


def test_vv_logs_messages_in_and_out() -> None:
    """As websockets does: `<` received, `>` sent."""
    with serve("-vv", "cat") as server:
        chat(server)
        server.stop()
        lines = [line for line in well_formed(server.log()) if "a secret word" in line]
        assert any("<" in line and "room=lobby client=1" in line for line in lines)
        assert any(">" in line and "room=lobby" in line for line in lines)


def test_vv_shortens_long_messages() -> None:
    with serve("-v", "-v", "cat") as server, RawClient.connect(server) as client:
        client.send_text("x" * 500_000)
        client.receive_text()
        server.wait_log("xxxx")
        assert max(map(len, server.log())) < 1000


def test_stderr_of_a_child_is_logged_with_its_room() -> None:
    script = "echo one >&2; echo two >&2; printf last >&2"
    with serve("sh", "--", "-c", script) as server:
        with RawClient.connect(server, "attic") as client:
            client.wait_close()
        for word in ("one", "two", "last"):
            assert "room=attic" in server.wait_log(rf"\[INFO\] stderr: {word}\b").string
        well_formed(server.log())


def test_a_client_that_sends_nonsense_cannot_flood_the_log() -> None:
    with serve("--json", "cat") as server, RawClient.connect(server) as client:
        client.receive_text()
        for _ in range(500):
            client.send_text("no json")
        client.send_text("{}")
        client.receive_text()
        server.wait_log("JSON")
        complaints = [line for line in server.log() if "JSON" in line]
        assert len(complaints) == 1
        assert complaints[0].startswith("[WARN]")
        assert "client=1" in complaints[0]


# ==== For machines =========================================================


def entries(server: ServerProcess) -> list[dict[str, object]]:
    found = [json.loads(line) for line in server.log()]
    assert all(isinstance(entry, dict) for entry in found)
    return found


def test_json_logs_are_one_object_per_line() -> None:
    with serve("--log", "json", "-vv", "sh", "--", "-c", "echo 'a \"b\" \\' >&2; cat") as server:
        chat(server, "%22%5C%E4%B8%AD")
        server.stop()
        found = entries(server)
        assert {entry["level"] for entry in found} >= {"info", "debug"}
        for entry in found:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(entry["time"]))
            assert isinstance(entry["message"], str)
        (joined,) = [entry for entry in found if str(entry["message"]).startswith("joined from")]
        assert joined["room"] == '"\\中'
        assert joined["client"] == 1
        assert any(entry["message"] == 'stderr: a "b" \\' for entry in found)


def test_a_json_log_is_utf_8_whatever_the_locale_is() -> None:
    """`\\xfc` stood in it, which no parser of JSON takes."""
    locale = {"PYTHONIOENCODING": "ascii"}
    with serve("--log", "json", "cat", env=locale) as server:
        chat(server, "%C3%BC%E4%B8%AD")
        server.stop()
        assert {entry.get("room") for entry in entries(server)} >= {"ü中"}


def test_a_traceback_in_a_json_log_is_part_of_its_entry(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from scalesocket import Game\n"
        "class Bad(Game):\n"
        "    def on_message(self, client, message):\n"
        "        raise ValueError('out of luck')\n"
    )
    options = ("--log", "json")
    with serve(*options, "bad:Bad", cwd=tmp_path, allow_traceback=True) as server:
        with RawClient.connect(server) as client:
            client.send_text("x")
            assert client.wait_close()[0] == 1011
        server.wait_log("out of luck")
        server.stop()
        (entry,) = [entry for entry in entries(server) if "out of luck" in str(entry)]
        assert entry["level"] == "error"
        assert "line 4, in on_message" in str(entry)


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_thread_of_a_games_own_that_fails_is_logged_as_all_else_is(
    tmp_path: Path, kind: str
) -> None:
    """Python wrote its traceback among the lines: no JSON, and as a client liked them."""
    (tmp_path / "bad.py").write_text(
        "import threading\n"
        "from scalesocket import Game\n"
        "class Bad(Game):\n"
        "    def on_message(self, client, message):\n"
        "        threading.Thread(name='t', target=self.think, args=(message,)).start()\n"
        "    def think(self, message):\n"
        "        raise ValueError(message)\n"
    )
    options = ("--log", kind)
    with serve(*options, "bad:Bad", cwd=tmp_path, allow_traceback=True) as server:
        with RawClient.connect(server) as client:
            client.send_text("x\n[ERROR] forged\x1b[2J")
            server.wait_log("forged")
            client.close()
        server.stop()
        said = "thread t has failed: bad.py, line 7: ValueError: x\n[ERROR] forged\x1b[2J"
        if kind == "json":
            assert said in [entry["message"] for entry in entries(server)]
        else:
            log = server.log()
            assert f"[ERROR] {escape_controls(said)}" in log
            assert all(line.startswith(("[INFO]", "[ERROR] thread", "  | ")) for line in log)


def test_a_thread_that_fails_is_told_of_when_no_more_files_can_be_opened() -> None:
    """What says more of it is read from a file, and a program's server has not read it yet."""
    pytest.importorskip("resource")
    program = (
        "import resource, sys, threading, scalesocket\n"
        "def fail(): raise ValueError('no more')\n"
        "def run(server):\n"
        "    assert 'scalesocket.net.mistakes' not in sys.modules\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 4096))\n"
        "    thread = threading.Thread(name='t', target=fail)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "scalesocket.Server.run = run\n"
        "sys.exit(scalesocket.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--addr", "127.0.0.1:0", "cat"],
        cwd=SCRIPT.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and "[ERROR] thread t has failed" in lines
    assert lines[-1] == "  | ValueError: no more"


# ==== Colour ===============================================================


def test_a_json_log_escapes_what_a_terminal_or_a_reader_of_lines_would_obey() -> None:
    text = "a\u0085b\u2028c\u009bd\x7fe\u202ef é 中 😀"
    command = ("sh", "--", "-c", "printf '%s\\n' \"$1\" >&2; cat", "sh", text)
    with serve("--log", "json", *command) as server, RawClient.connect(server):
        server.wait_log("stderr")
        (line,) = [line for line in server.log() if "stderr" in line]
        assert line.isprintable()
        assert "é 中 😀" in line
        assert json.loads(line)["message"] == f"stderr: {text}"


def log_on_a_terminal(*options: str, env: Mapping[str, str]) -> bytes:
    """Run a server whose stderr is a terminal, until it has said where it runs."""
    master, slave = pty.openpty()
    environment = {name: text for name, text in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--addr", "127.0.0.1:0", *options, "cat"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**environment, **env},
    )
    os.close(slave)
    text = b""
    try:
        while b"open http://" not in text:
            text += os.read(master, 4096)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(master)
    return text


def test_a_terminal_gets_colour() -> None:
    text = log_on_a_terminal(env={"TERM": "xterm"})
    assert re.search(rb"\x1b\[\d+m\[INFO\]\x1b\[0m running at", text)


@pytest.mark.parametrize(
    ("options", "env"), [((), {"NO_COLOR": "1"}), (("--log", "json"), {"TERM": "xterm"})]
)
def test_a_terminal_gets_no_colour_where_it_is_not_wanted(
    options: tuple[str, ...], env: dict[str, str]
) -> None:
    assert b"\x1b" not in log_on_a_terminal(*options, env=env)


@pytest.mark.slow
def test_a_file_or_pipe_gets_no_colour() -> None:
    with serve("-vv", "cat") as server:
        chat(server)
        assert "\x1b" not in "\n".join(server.log())


# ==== Forgery ==============================================================

EVIL = [
    "\x1b[2J\x1b[31m[ERROR] forged",
    "x\r[ERROR] forged",
    "x\x0b[ERROR] forged",
    "x\x85[ERROR] forged",
    "x\u2028[ERROR] forged",
    "x\u202e[ERROR] forged",
    "x\x08\x08\x08[ERROR] forged",
    "x\x00[ERROR] forged",
    "x\x9b2J",
]


def test_stderr_of_a_child_cannot_forge_or_hide_a_line(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("\n".join(EVIL) + "\n", encoding="utf-8")
    with open(tmp_path / "evil", "ab") as file:
        file.write(b"not UTF-8: \xff\xfe\x80\n")
    with serve("sh", "--", "-c", "cat evil >&2; echo done >&2", cwd=tmp_path) as server:
        with RawClient.connect(server) as client:
            client.wait_close()
        server.wait_log("stderr: done")
        lines = well_formed(server.log())
        assert sum("stderr: " in line for line in lines) == len(EVIL) + 2
        assert not any(line.startswith("[ERROR]") for line in lines)


@pytest.mark.slow
def test_room_names_paths_and_messages_cannot_forge_a_line() -> None:
    with serve("-vv", "--json", "cat") as server:
        for text in EVIL:
            quoted = "".join(f"%{byte:02X}" for byte in text.encode())
            http_request(server, path=f"/{quoted}?{quoted}")
            http_request(server, raw=b"GET /" + text.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                with RawClient.connect(server, quoted) as client:
                    client.send_text(text)
                    client.send_text("two\n[ERROR] forged")
                    client.send_json({"x": text})
                    client.receive_text()
            except HandshakeRefused as refused:  # not every such name is a room
                assert refused.status == 400
        server.stop()
        lines = well_formed(server.log())
        assert not any(line.startswith("[ERROR] forged") for line in lines)


def test_an_error_of_a_game_cannot_forge_a_line(tmp_path: Path) -> None:
    """Its text may come from a client; whatever is shown of it must not begin a line."""
    (tmp_path / "bad.py").write_text(
        "from scalesocket import Game\n"
        "class Bad(Game):\n"
        "    def on_message(self, client, message):\n"
        "        raise ValueError(message)\n"
    )
    with serve("bad:Bad", cwd=tmp_path, allow_traceback=True) as server:
        with RawClient.connect(server) as client:
            client.send_text("x\n[ERROR] forged\x1b[2J")
            assert client.wait_close()[0] == 1011
        server.wait_log("forged")
        server.stop()
        for line in server.log():
            assert not line.startswith("[ERROR] forged")
            assert "\x1b" not in line
