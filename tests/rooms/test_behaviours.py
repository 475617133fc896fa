"""The 46 behaviours that users of such servers rely on, one test each, in the order of the list.

41 (origins) and 45 (Unix sockets) are in test_access.py, 43 (TLS) is all of test_tls.py. What
websocketd's own tests expect otherwise is in README's comparison.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    exchange,
    http_request,
    receive_bytes,
    run_cli,
    serve,
    shell,
    wait_until,
    with_constants,
)


def receive_lines(client: RawClient, count: int) -> list[str]:
    """Return the next text messages."""
    return [client.receive_text() for _ in range(count)]


def assert_echoes(server: ServerProcess, room: str = "still-here") -> None:
    """Show that the server serves another client as before."""
    with RawClient.connect(server, room) as client:
        client.send_text("are you there?")
        assert client.receive_text() == "are you there?"
        assert client.close()[0] == 1000


def wait_for_children(server: ServerProcess, count: int) -> None:
    """Wait until the server has so many child processes, ended ones that still count included."""
    wait_until(
        lambda: len(server.children()) == count, 15, f"{count} children, not {server.children()}"
    )


@pytest.fixture(scope="module")
def cat() -> Iterator[ServerProcess]:
    """One server whose rooms echo lines, for all tests that leave it as they found it."""
    with serve("--maxmsg", "4M", "cat") as server:
        yield server


@pytest.fixture(scope="module")
def raw_cat() -> Iterator[ServerProcess]:
    """The same for bytes."""
    with serve("--binary", "--maxmsg", "4M", "cat") as server:
        yield server


# ==== Messages ============================================================


def test_01_hello_comes_back_as_text(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "01") as client:
        client.send_text("hello")
        assert client.receive_message() == (TEXT, b"hello")


def test_02_ten_in_sequence_then_200_at_once_all_come_back_in_order(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "02") as client:
        for number in range(10):
            client.send_text(f"one {number}")
            assert client.receive_text() == f"one {number}"
        burst = [b"burst %d" % number for number in range(200)]
        client.send_bytes(encode_client_frames(burst))
        assert client.receive_many(200) == burst


def test_03_a_child_that_prints_1_to_5_makes_five_messages() -> None:
    with serve(*shell("seq 5; exec cat")) as server, RawClient.connect(server) as client:
        assert receive_lines(client, 5) == ["1", "2", "3", "4", "5"]


def test_04_an_empty_message_stays_empty(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "04") as client:
        client.send_text("")
        assert client.receive_text() == ""


def test_05_spaces_and_tabs_stay_as_they_are(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "05") as client:
        for text in (" ", "\t", "  between\t", " \t \t "):
            client.send_text(text)
            assert client.receive_text() == text


def test_06_the_line_end_of_windows_is_stripped_whole() -> None:
    script = r"printf 'one\r\ntwo\r\n\r\nfour\r'; sleep 0.2; printf '\nin\rside\n'; exec cat"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        assert receive_lines(client, 5) == ["one", "two", "", "four", "in\rside"]


def test_07_a_last_line_without_newline_is_delivered_at_exit() -> None:
    with serve(*shell(r"printf 'one\ntwo'")) as server, RawClient.connect(server) as client:
        assert receive_lines(client, 2) == ["one", "two"]
        assert client.wait_close()[0] == 1000


def test_08_newlines_inside_a_message_make_three_lines(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "08") as client:
        client.send_text("a\nb\nc")
        assert receive_lines(client, 3) == ["a", "b", "c"]


def test_09_every_script_of_the_world_stays_unchanged(cat: ServerProcess) -> None:
    texts = [
        "漢字かな交じり文 한국어",
        "Съешь же ещё",
        "🦊👩‍👩‍👧‍👦🏳️‍🌈",
        "é \u2028 \u0085 \ufeff",
        "\x00\x7f",
    ]
    with RawClient.connect(cat, "09") as client:
        for text in texts:
            client.send_text(text)
            assert client.receive_text() == text


def test_10_markup_and_shell_code_are_only_text(cat: ServerProcess, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    texts = ["<script>alert(1)</script>", "; rm -rf nothing", f"$(touch {mark})", f"`touch {mark}`"]
    with RawClient.connect(cat, "10") as client:
        for text in texts:
            client.send_text(text)
            assert client.receive_text() == text
    assert not mark.exists()


def test_11_lines_of_100_500_and_900_kb_stay_whole(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "11") as client:
        for size in (100_000, 500_000, 900_000):
            line = ("0123456789abcdefghijklmnop-漢" * (size // 29 + 1))[:size]
            client.send_in_background(encode_client_frame(TEXT, line.encode()))
            assert client.receive_text() == line


def test_12_binary_bytes_come_back_as_binary(raw_cat: ServerProcess) -> None:
    with RawClient.connect(raw_cat, "12") as client:
        client.send_binary(b"\x00\x01\x02\xff")
        assert client.receive_message() == (BINARY, b"\x00\x01\x02\xff")


def test_13_binary_of_1_to_10000_bytes_is_not_doubled(raw_cat: ServerProcess) -> None:
    with RawClient.connect(raw_cat, "13") as client:
        for size in (1, 2, 125, 126, 127, 1000, 4095, 4096, 4097, 10_000):
            payload = bytes(number * 7 & 0xFF for number in range(size))
            client.send_binary(payload)
            assert receive_bytes(client, size) == payload
        client.send_binary(b"last")
        assert client.receive_binary() == b"last"


def test_14_two_mib_of_binary_do_not_block_the_pipes(raw_cat: ServerProcess) -> None:
    payload = bytes(range(256)) * 8192
    with RawClient.connect(raw_cat, "14") as client:
        client.send_in_background(encode_client_frame(BINARY, payload))
        assert receive_bytes(client, len(payload)) == payload


@pytest.mark.slow
def test_15_a_line_printed_in_two_parts_is_one_message() -> None:
    script = r"printf 'first '; sleep 1; printf 'second\n'; exec cat"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "first second"


def test_16_what_the_child_prints_before_any_input_is_delivered() -> None:
    with serve(*shell("echo welcome; exec cat")) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "welcome"


# ==== The life of a child =================================================


def test_17_a_child_that_exits_with_0_gives_its_output_then_close_1000() -> None:
    with serve(*shell("read line; echo got $line")) as server, RawClient.connect(server) as client:
        client.send_text("it")
        assert client.receive_text() == "got it"
        assert client.wait_close()[0] == 1000
        wait_for_children(server, 0)


def test_18_a_child_that_exits_with_42_gives_its_output_then_close_and_the_server_lives() -> None:
    with serve(*shell("echo out; exit 42")) as server:
        for _ in range(2):
            with RawClient.connect(server) as client:
                assert client.receive_text() == "out"
                code, reason = client.wait_close()
                assert code == 1011
                assert "42" in reason
        assert http_request(server, path="/health").status == 200


def test_19_a_child_that_exits_silently_closes() -> None:
    with serve("true") as server, RawClient.connect(server) as client:
        assert client.receive()[0] == CLOSE


def test_20_sending_after_the_child_has_exited_breaks_nothing() -> None:
    with serve(*shell('[ "$ROOM" = gone ] || exec cat')) as server:
        with RawClient.connect(server, "gone") as client:
            opcode, payload = client.receive()
            assert (opcode, payload[:2]) == (CLOSE, (1000).to_bytes(2, "big"))
            for _ in range(100):  # as one who has not yet read the Close frame
                client.send_text("too late")
            assert client.close()[0] == 1006  # nothing but the end of TCP comes after a Close
        assert_echoes(server)


@pytest.mark.slow
def test_21_a_child_that_never_reads_does_not_harm_the_server() -> None:
    script = '[ "$ROOM" = deaf ] && exec sleep 1000; exec cat'
    with serve(*shell(script)) as server:
        with RawClient.connect(server, "deaf") as client:
            client.send_in_background(encode_client_frames([b"x" * 65536] * 200))
            wait_for_children(server, 1)
            assert_echoes(server)
            assert http_request(server, path="/health").status == 200
            client.reset()
        wait_for_children(server, 0)


@pytest.mark.slow
def test_22_a_ticking_child_ends_when_its_client_resets_tcp() -> None:
    with serve(*shell("while echo tick; do sleep 0.01; done")) as server:
        client = RawClient.connect(server)
        assert client.receive_text() == "tick"
        client.reset()
        wait_for_children(server, 0)
        with RawClient.connect(server) as client:
            assert client.receive_text() == "tick"


def test_23_a_close_of_1000_is_answered_and_the_child_is_gone() -> None:
    with serve("cat") as server, RawClient.connect(server) as client:
        client.send_text("here")
        assert client.receive_text() == "here"
        assert len(server.children()) == 1
        assert client.close(1000, "bye")[0] == 1000
        wait_for_children(server, 0)


@pytest.mark.slow
def test_24_what_is_sent_to_a_child_that_starts_slowly_waits_for_it() -> None:
    with serve(*shell("sleep 1; exec cat")) as server, RawClient.connect(server) as client:
        client.send_text("early")
        assert client.receive_text() == "early"


@pytest.mark.slow
def test_25_both_directions_go_at_once_without_each_other() -> None:
    script = "while echo tick; do sleep 0.01; done & exec cat"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        for number in range(20):
            client.send_text(str(number))
        found: list[str] = []
        while found.count("tick") < 10 or len(found) - found.count("tick") < 20:
            found.append(client.receive_text())
        assert [text for text in found if text != "tick"] == [str(n) for n in range(20)]


def test_26_twenty_quick_reconnects_and_twenty_at_once_leave_it_serving(
    cat: ServerProcess,
) -> None:
    for number in range(20):
        with RawClient.connect(cat, "26") as client:
            client.send_text(str(number))
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient.connect(cat, f"26-{n}")) for n in range(20)]
        for client in clients:
            client.send_text("all at once")
        assert [client.receive_text() for client in clients] == ["all at once"] * 20
    assert_echoes(cat, "26")


def test_27_fifty_connections_all_echo(cat: ServerProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient.connect(cat, f"27-{n}")) for n in range(50)]
        for number, client in enumerate(clients):
            client.send_text(f"from {number}")
        for number, client in enumerate(clients):
            assert client.receive_text() == f"from {number}"


def test_28_over_the_limit_is_refused_and_a_freed_slot_works_again() -> None:
    with serve("--maxforks", "2", "cat") as server:
        first, second = RawClient.connect(server, "a"), RawClient.connect(server, "b")
        with first, second, RawClient.connect(server, "c") as third:
            code, reason = third.wait_close()
            assert code == 1013
            assert "2" in reason
            first.close()
            assert_echoes(server, "c")
            second.send_text("untouched")
            assert second.receive_text() == "untouched"


def test_29_stderr_goes_to_the_log_only() -> None:
    script = "echo complaint >&2; echo message; exec cat"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        server.wait_log("complaint")
        assert client.receive_text() == "message"
        client.send_text("next")
        assert client.receive_text() == "next"


def test_30_arguments_reach_the_child() -> None:
    arguments = ["-v", "two words", "", "--addr", "$HOME", "*", "é"]
    code = "import json, sys; print(json.dumps(sys.argv[1:])); sys.stdin.read()"
    with serve(sys.executable, "--", "-c", code, *arguments) as server:
        with RawClient.connect(server) as client:
            assert client.receive_json() == arguments


# ==== The protocol ========================================================


def test_31_a_ping_is_answered_by_a_pong_of_the_same_payload(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "31") as client:
        for payload in (b"", b"are you there", b"\x00" * 125):
            client.ping(payload)
            assert client.receive() == (PONG, payload)


@pytest.mark.parametrize("connection", ["keep-alive, Upgrade", "UPGRADE", "upgrade,Keep-Alive"])
def test_32_the_connection_header_may_hold_more_in_any_case(
    cat: ServerProcess, connection: str
) -> None:
    headers = {"Connection": connection, "Upgrade": "WebSocket"}
    with RawClient.connect(cat, "32", headers=headers) as client:
        client.send_text("accepted")
        assert client.receive_text() == "accepted"


def test_33_another_version_or_no_key_is_refused(cat: ServerProcess) -> None:
    with pytest.raises(HandshakeRefused) as refused:
        RawClient.connect(cat, "33", headers={"Sec-WebSocket-Version": "8"})
    assert refused.value.status == 426
    assert refused.value.response.headers["sec-websocket-version"] == "13"
    head = "GET /33 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    no_key = f"{head}Sec-WebSocket-Version: 13\r\n\r\n".encode()
    assert http_request(cat, raw=no_key).status == 400


def test_34_fragments_are_joined_with_a_ping_between_them(cat: ServerProcess) -> None:
    with RawClient.connect(cat, "34") as client:
        whole = "in three pieces, cut inside the 漢 sign".encode()
        client.send_frame(TEXT, whole[:34], fin=False)
        client.send_frame(CONTINUATION, b"", fin=False)
        client.ping(b"between")
        client.send_frame(CONTINUATION, whole[34:])
        assert client.receive() == (PONG, b"between")
        assert client.receive_message() == (TEXT, whole)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        pytest.param(encode_client_frame(TEXT, b"plain", mask=False), 1002, id="not masked"),
        pytest.param(b"\x81\xfe\x00\x05\x00\x00\x00\x00hello", 1002, id="length not shortest"),
        pytest.param(b"\x81\xff" + b"\xff" * 12, 1002, id="length with its top bit"),
        pytest.param(b"\x81\xff\x00\x00\x7f" + b"\xff" * 9, 1009, id="length of 127 TB"),
        pytest.param(b"\x89\xfe\x00\x7e\x00\x00\x00\x00", 1002, id="ping too long"),
    ],
)
def test_35_a_wrong_mask_or_length_is_closed(cat: ServerProcess, wrong: bytes, code: int) -> None:
    with RawClient.connect(cat, "35") as client:
        client.send_bytes(wrong)
        assert client.wait_close()[0] == code
    assert_echoes(cat, "35")


@pytest.mark.slow
def test_36_a_silent_peer_is_dropped_and_one_that_answers_pings_stays() -> None:
    with serve("--ping", "2", "cat") as server:
        with RawClient.connect(server) as lively, RawClient.connect(server) as silent:
            frames = []
            while not frames or frames[-1][0] != CLOSE:
                with suppress(TimeoutError):
                    frames.append(silent.receive(0.05))
                with suppress(TimeoutError):
                    lively.receive_message(0.05)
            assert {opcode for opcode, _ in frames[:-1]} == {PING}
            assert frames[-1][1][:2] == (1011).to_bytes(2, "big")
            assert lively.pings
            lively.send_text("still here")
            assert lively.receive_text() == "still here"


@pytest.mark.slow
def test_37_a_handshake_that_is_never_finished_times_out() -> None:
    with serve("cat", command=with_constants(HEAD_TIMEOUT=2.0)) as server:
        answer = exchange(server, b"GET /37 HTTP/1.1\r\nHost: x\r\nUpgrade: webs")
    assert answer.startswith(b"HTTP/1.1 408 ")


# ==== HTTP and the environment ============================================


def test_38_files_and_websockets_share_one_port(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<h1>hello</h1>")
    with serve("--staticdir", str(tmp_path), "cat") as server:
        page = http_request(server, path="/page.html")
        assert (page.status, page.body) == (200, b"<h1>hello</h1>")
        assert page.headers["content-type"].startswith("text/html")
        assert http_request(server, path="/missing.html").status == 404
        assert_echoes(server, "page.html")


def test_39_nothing_outside_of_the_folder_is_served(tmp_path: Path) -> None:
    public = tmp_path / "public"
    (public / "sub").mkdir(parents=True)
    (public / "page.txt").write_text("page")
    (tmp_path / "secret.txt").write_text("secret")
    (public / "link.txt").symlink_to(tmp_path / "secret.txt")
    (public / "up").symlink_to(tmp_path)
    paths = [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/sub/%2E%2e/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..%5csecret.txt",
        "//secret.txt",
        "/./../secret.txt",
        f"/{tmp_path}/secret.txt",
        "/link.txt",
        "/up/secret.txt",
    ]
    with serve("--staticdir", str(public), "cat") as server:
        for path in paths:
            response = http_request(server, path=path)
            assert response.status in (400, 403, 404), path
            assert b"secret" not in response.body, path
        assert http_request(server, path="/page.txt").body == b"page"


def test_40_shell_code_in_the_path_and_query_is_never_executed(tmp_path: Path) -> None:
    script = r'printf "%s\n" "$ROOM" "$QUERY_STRING"; exec cat'
    with serve(*shell(script), cwd=tmp_path) as server:
        for room, query in ((";ls", ""), ("room", "$(touch${IFS}executed)"), ("`touch`", "a=;ls")):
            with RawClient.connect(server, path=f"/{room}?{query}") as client:
                assert receive_lines(client, 2) == [room, query]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_42_the_child_sees_no_variable_of_the_server_but_the_listed(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os, sys\nprint(json.dumps(dict(os.environ)))\nsys.stdin.read()\n"
    )
    secrets = {"API_TOKEN": "t0p", "GIVEN": "this", "EMPTY": "", "LD_LIBRARY_PATH": "/nowhere"}
    with serve(str(child), env=secrets) as server, RawClient.connect(server) as client:
        environment = client.receive_json()
        assert isinstance(environment, dict)
        assert environment["LD_LIBRARY_PATH"] == "/nowhere"
        assert "PATH" in environment
        assert not {"API_TOKEN", "GIVEN", "EMPTY", "USER"} & set(environment)
    listed = "GIVEN, EMPTY,ABSENT"
    with serve("--passenv", listed, str(child), env=secrets) as server:
        with RawClient.connect(server) as client:
            environment = client.receive_json()
            assert isinstance(environment, dict)
            assert (environment["GIVEN"], environment["EMPTY"]) == ("this", "")
            assert not {"API_TOKEN", "ABSENT", "PATH", "LD_LIBRARY_PATH"} & set(environment)


def test_44_a_port_in_use_is_one_clear_line_and_an_error_exit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cli("--addr", f"127.0.0.1:{port}", "cat")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(port) in line
    assert "in use" in line


@pytest.mark.slow
def test_46_each_room_has_its_own_unique_id_and_headers_become_variables() -> None:
    script = r'printf "%s\n" "$UNIQUE_ID" "$HTTP_X_CUSTOM_TEST"; exec cat'
    seen = set()
    with serve(*shell(script)) as server:
        for value in ("one", "two words", "a, b"):
            with RawClient.connect(server, headers={"X-Custom-Test": value}) as client:
                unique_id, custom = receive_lines(client, 2)
                assert custom == value
                seen.add(unique_id)
                client.close()
    assert len(seen) == 3
    assert "" not in seen
