"""A page whose node is killed: the game goes on at another one, from what Redis has (--store)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser as in_browser
from tests.browser import OpenTab, expect, wait_for
from tests.pages.test_page_games import AUTOPILOT
from tests.pages.test_page_seats import BACK, MINE, STATE, play_snake
from tests.proxies import proxy
from tests.redis_server import RedisServer, running_redis
from tests.support import (
    PATIENCE,
    ServerProcess,
    free_port,
    http_request,
    serve,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.browser

browser, open_tab = in_browser.browser, in_browser.open_tab


class Nodes:
    """Two of them with one Redis, behind HAProxy."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.store: RedisServer = stack.enter_context(running_redis(folder / "redis"))
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        stored = ("--store", self.store.url, "--saveevery", "0.1")
        known = ("--peers", ",".join(addresses), "--trustproxy", "127.0.0.1")
        patient = with_constants("scalesocket.net.relay", ASK_TIMEOUT=PATIENCE)
        self.nodes: list[ServerProcess] = [
            stack.enter_context(serve(*stored, *known, "snake", addr=address, command=patient))
            for address in addresses
        ]
        for node in self.nodes:
            assert http_request(node, path="/health").status == 200
        self._front = stack.enter_context(proxy("haproxy", folder, addresses))

    def http(self, path: str) -> str:
        host, port = self._front
        return f"http://{host}:{port}{path}"

    def find(self, room: str) -> ServerProcess:
        """Return the node that has a room."""
        opened = f"room opened  room={room}"
        (node,) = [node for node in self.nodes if any(opened in line for line in node.log())]
        return node

    def state(self, room: str) -> str:
        """Return what is stored of a game."""
        return self.store.ask("HGET", f"scalesocket:room:{room}", "state") or ""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        yield Nodes(stack, tmp_path)


def test_a_snake_goes_on_at_another_node_when_its_own_is_killed(
    open_tab: OpenTab, server: Nodes
) -> None:
    page = open_tab("/snake/?room=garden")
    me = play_snake(page)
    page.evaluate(AUTOPILOT)

    def saved_best() -> int:
        state = json.loads(server.state("garden") or '{"players": []}')
        return max((player["best"] for player in state["players"]), default=0)

    best = wait_until(lambda: saved_best() if saved_best() >= 2 else None)
    doomed = server.find("garden")
    server.nodes.remove(doomed)
    page.evaluate("window.wasLoadedOnce = true")
    doomed.kill()
    (other,) = server.nodes
    other.wait_log("room opened  room=garden")
    wait_for(
        page,
        f"{STATE} === 'connected' && {BACK} && {MINE}?.name === 'Ann' && {MINE}.best >= value",
        best,
    )
    assert page.evaluate("game.me") == me
    assert page.evaluate("window.wasLoadedOnce"), "it is the same page"
    expect(page.get_by_label("Your name")).to_be_hidden()
