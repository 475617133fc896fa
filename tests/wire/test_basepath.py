"""--basepath: everything that is served lies below a path that the server shares with others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser as in_browser
from tests.browser import PAGES, OpenTab, wait_for
from tests.support import (
    PATIENCE,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    exchange,
    http_request,
    run_cli,
    serve,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.browser]  # both are left out by --quick

browser, open_tab = in_browser.browser, in_browser.open_tab
SITE = ("--basepath", "/ws", "--staticdir", os.fspath(PAGES), "--api", "--metrics", "--console")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve(*SITE, "--json", "cat") as server:
        yield server


def test_rooms_are_below_it_and_nowhere_else(server: ServerProcess) -> None:
    """Case 20: behind a proxy that owns the root, `/ws/lobby` was a room of two segments: 400."""
    with RawClient.connect(server, path="/ws/lobby?x=1") as client:
        assert client.receive_json() == {"t": "Join", "_from": 1}
    for path in ("/lobby", "/wslobby", "/WS/lobby", "/", "/other/lobby", "//ws/lobby"):
        with pytest.raises(HandshakeRefused) as refused:
            RawClient.connect(server, path=path)
        assert refused.value.status == 404, path
    for path in ("/ws/", "/ws/api", "/ws/a/b"):
        with pytest.raises(HandshakeRefused) as refused:
            RawClient.connect(server, path=path)
        assert refused.value.status == 400, path
    with RawClient.connect(server, path="/ws/ws") as client:  # a room may have the same name
        client.receive_json()


def test_what_is_answered_over_http_is_below_it_too(server: ServerProcess) -> None:
    for path in ("/ws/", "/ws/chat/", "/ws/api/", "/ws/api/rooms/", "/ws/metrics", "/ws/console/"):
        assert http_request(server, path=path).status == 200, path
    for path in ("/", "/chat/", "/api/", "/metrics", "/console/", "/ws/../chat/", "/ws//chat/"):
        assert http_request(server, path=path).status == 404, path
    for path in ("/health", "/ws/health", "/health/"):  # whoever watches a server knows no rooms
        assert http_request(server, path=path).body == b'{"status": "ok"}'


def test_an_answer_to_head_has_no_body_there_either(server: ServerProcess) -> None:
    for path in ("/elsewhere", "/ws", "/ws/elsewhere/"):
        answer = exchange(server, f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        assert answer.endswith(b"\r\n\r\n"), path


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/ws", "/ws/"),
        ("/ws?room=a", "/ws/?room=a"),
        ("/ws/chat?room=a", "/ws/chat/?room=a"),
        ("/ws/console", "/ws/console/"),
    ],
)
def test_redirects_stay_below_it(server: ServerProcess, path: str, target: str) -> None:
    answer = http_request(server, path=path)
    assert (answer.status, answer.headers["location"]) == (301, target)


def test_a_program_learns_of_it_as_from_cgi() -> None:
    names = ["SCRIPT_NAME", "PATH_INFO", "REQUEST_URI", "ROOM"]
    with serve("--basepath", "/a/b/", "printenv", "--", *names) as server:
        with RawClient.connect(server, path="/a/b/lobby?x") as client:
            told = [client.receive_text() for _ in names]
    assert told == ["/a/b", "/lobby", "/a/b/lobby?x", "lobby"]


def test_a_room_is_found_with_workers_too() -> None:
    with serve("--basepath", "/ws", "--workers", "2", "--api", "cat") as server:
        clients = [RawClient.connect(server, path=f"/ws/room{n}") for n in range(6)]
        for client in clients:
            client.send_text("hello")
            assert client.receive_text() == "hello"

        def rooms() -> list[object]:  # those of a worker that takes its time are not among them
            return list(json.loads(http_request(server, path="/ws/api/rooms/").body))

        wait_until(lambda: len(rooms()) == 6)
        for client in clients:
            client.sock.close()


def test_it_says_what_to_open(tmp_path: Path) -> None:
    with serve("--basepath", "/ws", "cat") as server:
        server.wait_log(rf"open http://127.0.0.1:{server.port}/ws/")
    for value in ("ws", "/ws/../x", "/a b", "//", "/ws?x", "", "/.git", "http://x/ws"):
        done = run_cli(f"--basepath={value}", "cat")
        assert (done.returncode, "no path such as /ws" in done.stderr) == (2, True), value


# ==== The pages, in a real browser =========================================


def test_the_lobby_lists_and_leads_to_rooms_below_it(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    with RawClient.connect(server, path="/ws/pond") as client:
        client.receive_json()
        page = open_tab("/ws/")
        wait_for(page, "document.body.dataset.state === 'listed'")
        page.get_by_text("pond").first.wait_for()
        page.get_by_text("pond").first.click()
        wait_for(page, "document.body.dataset.status === 'connected'")
        assert page.url.startswith(server.http("/ws/"))
        rooms = json.loads(http_request(server, path="/ws/api/rooms/").body)
        assert [(room["name"], room["connections"]) for room in rooms] == [("pond", 2)]


@pytest.mark.parametrize("name", ["bunny", "chat", "snake", "tictactoe", "sandbox", "terminal"])
def test_every_page_connects_below_it(open_tab: OpenTab, server: ServerProcess, name: str) -> None:
    """This server runs no game; nobody tells the page, or it might not even connect."""
    page = open_tab("/ws/lobby/")
    page.route("**/ws/api/", lambda route: route.fulfill(status=404))
    with page.expect_websocket(timeout=1000 * PATIENCE) as opened:
        page.goto(f"http://127.0.0.1:{server.port}/ws/{name}/?room=of-{name}")
    assert opened.value.url.partition("?")[0].endswith(f":{server.port}/ws/of-{name}")
    page.goto("about:blank")


def test_the_console_has_its_tunnel_below_it(open_tab: OpenTab, server: ServerProcess) -> None:
    page = open_tab("/ws/console/")
    page.get_by_label("Room", exact=True).fill("lobby")
    page.get_by_role("button", name="Connect", exact=True).click()
    page.locator("body[data-state=open]").wait_for()
    page.locator("summary", has_text="More").click()
    page.locator("#how").select_option("browser")  # it offers the same room, for its own WebSocket
    assert page.locator("#address").input_value() == server.url("ws/lobby")
