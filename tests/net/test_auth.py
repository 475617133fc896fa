"""--auth and `Game.on_auth`: who may come in, asked before anything is made for a client."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from scalesocket.net import auth

import scalesocket
from scalesocket import UNIX_PEER, HandshakeError, parse_command_line, parse_request
from tests.support import (
    PATIENCE,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    http_request,
    run_cli,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands here are for sh")


def script(folder: Path, body: str, name: str = "auth.sh") -> str:
    """Write an executable shell script and return its path."""
    path = folder / name
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return str(path)


def refusal(server: ServerProcess, room: str = "room", **headers: str) -> tuple[int, bytes]:
    with pytest.raises(HandshakeRefused) as caught:
        RawClient.connect(server, room, headers).sock.close()
    return caught.value.response.status, caught.value.response.body


@pytest.mark.slow
def test_status_0_lets_in_and_anything_else_is_401(tmp_path: Path) -> None:
    command = script(tmp_path, 'test "$HTTP_X_TOKEN" = sesame || exit "${HTTP_X_STATUS:-1}"\n')
    with serve("--auth", command, "--api", "cat") as server:
        with RawClient.connect(server, headers={"X-Token": "sesame"}) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"
        wait_until(lambda: not server.children())
        for status in ("1", "2", "255"):
            assert refusal(server, **{"X-Status": status}) == (401, b"you may not come in\n")
        assert server.children() == []
        assert json.loads(http_request(server, path="/api/rooms/").body) == []


def test_a_401_says_how_one_may_identify_oneself() -> None:
    """RFC 9110 section 15.5.2 demands the header."""
    with serve("--auth", "false", "cat") as server:
        with pytest.raises(HandshakeRefused) as caught:
            RawClient.connect(server).sock.close()
        assert caught.value.response.headers["www-authenticate"] == 'Basic realm="rooms"'


def test_the_command_sees_the_request_as_a_child_does(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with serve(
        "--auth", script(tmp_path, f"env > {seen}; if read line; then exit 3; fi\n"), "cat"
    ) as server:
        headers = {"Authorization": "Basic YTpi", "Cookie": "a=b", "Proxy": "http://evil/"}
        with RawClient.connect(server, path="/the%20room?user=ann&x=$(id)", headers=headers):
            pass
        found = dict(line.split("=", 1) for line in seen.read_text().splitlines())
        assert found["ROOM"] == "the room"
        assert found["QUERY_STRING"] == "user=ann&x=$(id)"
        assert found["REMOTE_ADDR"] == "127.0.0.1"
        assert found["HTTP_AUTHORIZATION"] == "Basic YTpi"
        assert found["HTTP_COOKIE"] == "a=b"
        assert "HTTP_PROXY" not in found and "USER" not in found


def test_arguments_are_split_as_a_shell_would_but_by_no_shell(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    command = script(tmp_path, f'printf "%s\\n" "$@" > {seen}\n', name="with space.sh")
    with serve("--auth", f"'{command}' 'a b' $HOME ;", "cat") as server:
        with RawClient.connect(server):
            assert seen.read_text() == "a b\n$HOME\n;\n"


def test_a_python_script_needs_no_mode_and_is_found_beside_the_game(tmp_path: Path) -> None:
    (tmp_path / "doorman.py").write_text("import sys\nsys.exit(sys.argv[1:] != ['x y'])\n")
    game = tmp_path / "game.py"
    game.write_text(
        "# /// script\n# [tool.scalesocket]\n# auth = \"doorman.py 'x y'\"\n# ///\n"
        "for line in __import__('sys').stdin: print(line.strip())\n"
    )
    with serve(str(game), cwd="/") as server, RawClient.connect(server) as client:
        client.send_text("hello")
        assert client.receive_text() == "hello"


def test_stderr_of_the_command_is_logged_and_cannot_forge_a_line(tmp_path: Path) -> None:
    body = 'printf "no: %s\\n\\033[31mred" "$QUERY_STRING" >&2; echo stdout; exit 1\n'
    with serve("--auth", script(tmp_path, body), "cat") as server:
        with pytest.raises(HandshakeRefused):
            RawClient.connect(server, path="/room?who").sock.close()
        server.wait_log("auth: no: who")
        server.wait_log(re.escape("auth: \\x1b[31mred"))
        assert not any("stdout" in line for line in server.log())


def test_a_command_that_cannot_run_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text("#!/nonexistent/interpreter\n")
    path.chmod(0o755)
    with serve("--auth", str(path), "cat") as server:
        assert refusal(server)[0] == 401
        server.wait_log("--auth: cannot start")


@pytest.mark.slow
@pytest.mark.parametrize("value", ["", "  ", "no-such-command-here", "'open quote", "/etc"])
def test_what_is_no_command_is_a_usage_error(value: str) -> None:
    done = run_cli("--auth", value, "cat")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--auth" in done.stderr


def test_a_bad_handshake_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    options = ("--origin", "good.example", "--rooms", "a", "--auth")
    with serve(*options, script(tmp_path, f"touch {asked}\n"), "cat") as server:
        origin = {"Origin": "http://good.example"}
        assert refusal(server, "a", Origin="http://evil.example")[0] == 403
        assert refusal(server, "b", **origin)[0] == 404
        assert http_request(server, path="/health").status == 200
        assert not asked.exists()
        with RawClient.connect(server, "a", origin):
            assert asked.exists()


# ==== Bounds ===============================================================


@pytest.mark.slow
def test_a_command_that_hangs_is_stopped_with_all_it_has_started(tmp_path: Path) -> None:
    command = script(tmp_path, "exec 2>&-; trap '' TERM INT; sleep 12345 & sleep 12345\n")
    soon = with_constants(auth.__name__, AUTH_TIMEOUT=2.0)
    with serve("--auth", command, "cat", command=soon) as server:
        assert refusal(server)[0] == 401
        server.wait_log("--auth took over 2 s")
        wait_until(lambda: server.survivors() == [])


@pytest.mark.slow
def test_what_a_command_leaves_behind_is_stopped_and_not_waited_for(tmp_path: Path) -> None:
    with serve("--auth", script(tmp_path, "sleep 12345 &\n"), "cat") as server:
        with RawClient.connect(server) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"
            wait_until(lambda: len(server.survivors()) == 1)  # cat


@pytest.mark.slow
def test_no_more_than_16_run_at_once_and_all_get_their_turn(tmp_path: Path) -> None:
    folder = tmp_path / "running"
    folder.mkdir()
    body = f"touch {folder}/$$; ls {folder} | wc -l >> {tmp_path}/counts; sleep 0.2; rm {folder}/$$"
    lasting = with_constants(auth.__name__, AUTH_TIMEOUT=3 * PATIENCE)
    with serve("--auth", script(tmp_path, body + "\n"), "cat", command=lasting) as server:
        with ThreadPoolExecutor(60) as pool:
            clients = list(pool.map(lambda _: RawClient.connect(server), range(60)))
        for client in clients:
            client.close()
        counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
        assert len(counts) == 60
        assert 1 < max(counts) <= auth.MAX_AUTH


def make_client() -> scalesocket.Client:
    request = parse_request(b"GET /room HTTP/1.1\r\nHost: x")
    nobody = cast(Any, None)  # no connection is needed to ask
    return scalesocket.Client(
        1, "room", request, nobody, peer=("127.0.0.1", 1), local=("127.0.0.1", 2)
    )


class Scarce(Counter[str]):
    """Counts, but not at first."""

    failures = 1

    def __setitem__(self, name: str, number: int) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise MemoryError
        super().__setitem__(name, number)


class ScarceTimer(scalesocket.Poller):
    """Calls nothing, and at first cannot even remember that it should."""

    failures = 1

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise MemoryError
        self.last = function


def test_a_turn_for_which_there_is_no_memory_is_not_taken() -> None:
    """After 16 of these nobody was let in any more."""
    config = parse_command_line(["--auth", "true", "cat"])
    command = auth.AuthCommand(config, ScarceTimer("timer"))
    command._taken_by = Scarce()
    with pytest.raises(MemoryError):
        command.ask(make_client())
    assert command._taken == 0


def test_a_turn_is_given_back_also_if_there_is_no_memory_for_it_at_first() -> None:
    """After 4 of these an address was refused for ever."""
    config = parse_command_line(["--auth", "false", "cat"])
    command = auth.AuthCommand(config, timer := ScarceTimer("timer"))
    assert command._take_turn("192.0.2.1")
    command._end_turn("192.0.2.1", let_in=False)
    timer.last()
    assert not command._taken_by


def test_a_command_that_cannot_be_timed_is_ended() -> None:
    """It ran on, for ever if it hung, and the server kept its pipes."""
    config = parse_command_line(["--auth", "sleep 12345", "cat"])
    command = auth.AuthCommand(config, ScarceTimer("timer"))
    with pytest.raises(MemoryError):
        command.ask(make_client())
    left = set(command._running)
    command.stop()
    assert not left


@pytest.mark.slow
def test_who_waits_too_long_for_a_turn_is_told_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "AUTH_TIMEOUT", 1.0)
    monkeypatch.setattr(auth, "MAX_AUTH", 1)
    timer = scalesocket.Poller("timer")
    timer.start()
    config = parse_command_line(["--auth", "sleep 12345", "cat"])
    command = auth.AuthCommand(config, timer)
    client = make_client()

    def ask() -> int:
        try:
            return 200 if command.ask(client) else 401
        except HandshakeError as error:
            return error.status

    with ThreadPoolExecutor(5) as pool:
        statuses = sorted(pool.map(lambda _: ask(), range(5)))
    timer.stop()
    assert set(statuses) == {401, 503} and statuses.count(401) <= 2


@pytest.mark.parametrize(("address", "turns"), [("192.0.2.1", 4), (UNIX_PEER[0], 16)])
def test_one_address_has_few_turns_but_all_behind_a_unix_socket_have_one(
    address: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "AUTH_TIMEOUT", 0.0)
    command = auth.AuthCommand(parse_command_line(["--auth", "true", "cat"]), ScarceTimer("timer"))
    assert [command._take_turn(address) for _ in range(20)].count(True) == turns


@pytest.mark.parametrize(
    ("bound", "waits"), [("MAX_AUTH", "192.0.2.9"), ("MAX_AUTH_OF_ONE", "::1")]
)
def test_who_waits_for_a_turn_has_it_as_soon_as_it_is_free(
    bound: str, waits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another address may begin at once after a no, the same one when its penalty is over."""
    monkeypatch.setattr(auth, "AUTH_TIMEOUT", 3 * PATIENCE)
    monkeypatch.setattr(auth, bound, 1)
    timer = ScarceTimer("timer")
    command = auth.AuthCommand(parse_command_line(["--auth", "false", "cat"]), timer)
    assert command._take_turn("::1")
    with ThreadPoolExecutor(1) as pool:
        turn = pool.submit(command._take_turn, waits)
        wait_until(lambda: command._turns._waiters)  # type: ignore[attr-defined]
        command._end_turn("::1", let_in=False)
        if waits == "::1":
            wait_until(lambda: command._turns._waiters)  # type: ignore[attr-defined]
            timer.last()
        wait_until(turn.done)


def test_a_command_that_has_ended_is_not_stopped_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then another process may have its number."""
    timer = ScarceTimer("timer")
    timer.failures = 0
    command = auth.AuthCommand(parse_command_line(["--auth", "true", "cat"]), timer)
    assert command.ask(make_client())
    monkeypatch.setattr(os, "killpg", kill := Mock())
    timer.last()
    kill.assert_not_called()


def test_a_command_that_takes_long_to_start_is_waited_for_by_its_client_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where its program lay on a disk that hung, the timer hung, and the server did not end."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(auth.TidyChild):
        def __init__(self, *args: Any, **options: Any) -> None:
            begun.set()
            go_on.wait(PATIENCE)
            super().__init__(*args, **options)

    monkeypatch.setattr(auth, "TidyChild", Slow)
    timer = ScarceTimer("timer")
    timer.failures = 0
    command = auth.AuthCommand(parse_command_line(["--auth", "sleep 60", "cat"]), timer)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(command.ask, make_client())
        try:
            begun.wait(PATIENCE)
            stop = pool.submit(command.stop)
            wait_until(stop.done)
        finally:
            go_on.set()
        with pytest.raises(HandshakeError, match="ending"):
            answer.result()
        begun.clear()
        with pytest.raises(HandshakeError, match="ending"):
            command.ask(make_client())
    assert not begun.is_set()  # no more is started
    assert not command._running


def test_stopping_the_server_stops_the_commands_and_tells_clients_to_come_again() -> None:
    """With 401, which they got, a client gives up."""
    with serve("--auth", "sleep 12345", "cat") as server, ThreadPoolExecutor(1) as pool:
        told = pool.submit(refusal, server)
        wait_until(lambda: server.survivors())
        assert server.stop() == 0
        assert told.result(PATIENCE) == (503, b"the server is ending\n")


def test_who_waits_for_a_turn_as_the_server_ends_need_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "AUTH_TIMEOUT", 3 * PATIENCE)
    monkeypatch.setattr(auth, "MAX_AUTH", 0)
    command = auth.AuthCommand(parse_command_line(["--auth", "true", "cat"]), ScarceTimer("timer"))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(command.ask, make_client())
        wait_until(lambda: command._turns._waiters)  # type: ignore[attr-defined]
        command.stop()
        with pytest.raises(HandshakeError, match="ending"):
            answer.result(PATIENCE)


# ==== Games ================================================================

GAME = """
from scalesocket import Game

class Club(Game):
    @classmethod
    def on_auth(cls, request):
        name = request.query
        if name == "crash":
            raise ValueError("a bug in on_auth")
        return name == "member"

    def on_join(self, client):
        client.send("welcome")
"""


def test_a_game_lets_in_whom_it_likes(tmp_path: Path) -> None:
    """A hook that raises lets nobody in: 401 as documented, where there was 500 (case 6)."""
    (tmp_path / "club.py").write_text(GAME)
    with serve("club:Club", cwd=tmp_path, allow_traceback=True) as server:
        for _ in range(3):
            with RawClient.connect(server, path="/room?member") as client:
                assert client.receive_text() == "welcome"
        for query, status in (("stranger", 401), ("", 401), ("crash", 401)):
            with pytest.raises(HandshakeRefused) as caught:
                RawClient.connect(server, path=f"/room?{query}").sock.close()
            assert caught.value.response.status == status
        server.wait_log("a bug in on_auth")
        with RawClient.connect(server, path="/room?member") as client:
            assert client.receive_text() == "welcome"


NAMES = """
from scalesocket import Game

class Names(Game):
    @classmethod
    def on_auth(cls, request):
        name = request.parameters["name"]
        return 1 if name == "one" else name

    def on_join(self, client):
        client.send(client.user)
"""


def test_a_game_lets_in_who_has_a_name_that_can_be_seen(tmp_path: Path) -> None:
    """Of blanks alone nothing was left, and several were in as the same nobody."""
    (tmp_path / "names.py").write_text(NAMES)
    with serve("names:Names", cwd=tmp_path, allow_traceback=True) as server:
        with RawClient.connect(server, path="/room?name=%20ann%0A") as client:
            assert client.receive_text() == "ann"
        for name in ("", "%20", "%E2%80%8B", "%00"):
            with pytest.raises(HandshakeRefused) as caught:
                RawClient.connect(server, path=f"/room?name={name}").sock.close()
            assert caught.value.response.status == 401
        assert not any("failed" in line for line in server.log())


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("name=one", "line 5: TypeError: on_auth returns True, False or text, not 1"),
        ("", "line 7: KeyError: 'name'"),
    ],
)
def test_the_log_says_in_which_line_on_auth_has_failed(
    tmp_path: Path, query: str, told: str
) -> None:
    (tmp_path / "names.py").write_text(NAMES)
    with serve("names:Names", cwd=tmp_path, allow_traceback=True) as server:
        with pytest.raises(HandshakeRefused):
            RawClient.connect(server, path=f"/room?{query}").sock.close()
        server.wait_log(re.escape(f"the game failed in on_auth: names.py, {told}"))


def test_a_game_and_a_command_must_both_agree(tmp_path: Path) -> None:
    (tmp_path / "club.py").write_text(GAME)
    command = script(tmp_path, 'test "$HTTP_X_TOKEN" = sesame\n')
    with serve("--auth", command, "club:Club", cwd=tmp_path) as server:
        for query, token, welcome in (
            ("member", "sesame", True),
            ("member", "", False),
            ("stranger", "sesame", False),
        ):
            headers = {"X-Token": token}
            if welcome:
                with RawClient.connect(server, path=f"/r?{query}", headers=headers) as client:
                    assert client.receive_text() == "welcome"
            else:
                with pytest.raises(HandshakeRefused):
                    RawClient.connect(server, path=f"/r?{query}", headers=headers).sock.close()


# ==== Who it is ============================================================

SHOW = """
import os, sys
print({name: value for name, value in os.environ.items() if "USER" in name or "AUTH" in name})
for line in sys.stdin:
    print(line.strip())
"""


@pytest.mark.parametrize(
    ("printed", "user", "claims"),
    [
        ("ann", "ann", {}),
        ("ann\nteam=red\nlevel = 3\nnonsense\n", "ann", {"team": "red", "level": "3"}),
        ("user=a=b\nteam=", "a=b", {"team": ""}),
        ("ann\r\nteam=red\r\n", "ann", {"team": "red"}),
        ("user=a\xe2\x80\xa8x=1\xc2\x85x=2\x1cx=3\vx=4\rx=5\nteam=b\fx=6", "a x=1 x=2 x=3 x=4 x=5",
         {"team": "b x=6"}),
        ('{"user": "ann", "level": 3, "tags": ["a"], "no": null}', "ann",
         {"level": "3", "tags": '["a"]'}),
        ("", "", {}),
        ('{"user": ', "", {}),
        ("{" * 4096, "", {}),
        ('{"user": "ann", "deep": %s}' % ("[" * 600 + "]" * 600), "", {}),
        ("  ann\x1b[31m\r", "ann [31m", {}),
        ('{"user": "a\\nb\\u2028c\\u0000d\\ud800"}', "a b c d?", {}),
        ('{"LD-PRELOAD": "x", "1a": 2, "": 3, "a": true}', "", {"a": "true"}),
        ("\xff", "\ufffd", {}),
    ],
)  # fmt: skip
def test_what_the_command_prints_is_the_user(
    printed: str, user: str, claims: dict[str, str]
) -> None:
    assert auth.read_identity(printed.encode("latin-1")) == (user, claims)


@pytest.mark.parametrize(
    ("body", "claims"),
    [
        ("echo a=1; head -c 4096 /dev/zero; echo; echo b=2", ["a"]),
        ("for n in $(seq 40); do echo a$n=1; done", [f"a{n}" for n in range(1, 32)]),
    ],
)
def test_of_a_command_that_prints_much_not_all_is_kept(
    body: str, claims: list[str], tmp_path: Path
) -> None:
    config = parse_command_line(["--auth", script(tmp_path, f"echo ann; {body}\n"), "cat"])
    timer = ScarceTimer("timer")
    timer.failures = 0
    client = make_client()
    assert auth.AuthCommand(config, timer).ask(client)
    assert client.user == "ann" and list(client.claims) == claims


def test_who_was_let_in_is_told_to_the_program_and_in_join_messages(tmp_path: Path) -> None:
    """Whom --auth had let in nobody could find out: what it printed was thrown away."""
    (tmp_path / "show.py").write_text(SHOW)
    command = script(tmp_path, "printf 'a\"nn\\nteam=red\\n'; yes | head -c 300000; exit 0\n")
    join = '{"t":"Join","_from":#ID,"user":"#USER","team":"#USER_TEAM","x":"#USER_X"}'
    options = ("--auth", command, "--frame", "--joinmsg", join, "-v", str(tmp_path / "show.py"))
    with serve(*options) as server:
        headers = {"Authorization": "Bearer x"}
        with RawClient.connect(server, headers=headers) as client:
            environment = client.receive_text()
            assert "'REMOTE_USER': 'a\"nn'" in environment
            assert "'REMOTE_USER_TEAM': 'red'" in environment
            assert "'AUTH_TYPE': 'Bearer'" in environment
            assert json.loads(client.receive_text()) == {
                "t": "Join", "_from": 1, "user": 'a"nn', "team": "red", "x": ""
            }  # fmt: skip
        server.wait_log('joined from 127.0.0.1 as a"nn')


def test_each_clients_query_is_in_its_join_message() -> None:
    """A program knew the query of its room's first client alone, or each parameter by its name."""
    join = '{"t":"Join","_from":#ID,"query":#QUERY}'
    with serve("--frame", "--joinmsg", join, "cat") as server:
        path = "/room?name=ann%20%22b%22&a=1&a=2&empty&_from=7&%0A=%0A#"
        with RawClient.connect(server, path=path.rstrip("#")) as client:
            assert json.loads(client.receive_text())["query"] == {
                "name": 'ann "b"', "a": "1", "empty": "", "_from": "7", "\n": "\n"
            }  # fmt: skip


@pytest.mark.parametrize("answer", ["b'ann'", "7", "('ann', 1)"])
def test_what_a_game_answers_is_text_or_yes_or_no(answer: str, tmp_path: Path) -> None:
    """Who it was about came in, and was nobody."""
    (tmp_path / "club.py").write_text(
        "from scalesocket import Game\n"
        "class Club(Game):\n"
        "    @classmethod\n"
        "    def on_auth(cls, request):\n"
        f"        return {answer}\n"
    )
    with serve("club:Club", cwd=tmp_path, allow_traceback=True) as server:
        assert refusal(server)[0] == 401
        said = f"TypeError: on_auth returns True, False or text, not {answer}"
        wait_until(lambda: any(said in line for line in server.log()))


@pytest.mark.slow
def test_a_game_names_its_user_or_learns_what_the_command_has_said(tmp_path: Path) -> None:
    (tmp_path / "club.py").write_text(
        "from scalesocket import Game\n"
        "class Club(Game):\n"
        "    @classmethod\n"
        "    def on_auth(cls, request):\n"
        "        return request.query\n"
        "    def on_join(self, client):\n"
        "        client.send(f'{client.user} {dict(client.claims)}')\n"
    )
    with serve("club:Club", cwd=tmp_path) as server:
        with RawClient.connect(server, path="/room?ann") as client:
            assert client.receive_text() == "ann {}"
        assert refusal(server)[0] == 401
    command = script(tmp_path, 'echo \'{"user": "bob", "team": "red"}\'\n')
    with serve("--auth", command, "club:Club", cwd=tmp_path) as server:
        with RawClient.connect(server, path="/room?ann") as client:
            assert client.receive_text() == "bob {'team': 'red'}"
