"""One room, several kinds of player: a browser, a terminal, and a plain socket."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser as in_browser
from tests.browser import OpenTab, wait_for
from tests.net.test_tcplisten import LineClient
from tests.pages import test_terminal_clients as in_terminal
from tests.pages.test_page_games import give_name
from tests.pages.test_page_sandbox import ISLAND, SMALL_ISLAND, spawn
from tests.pages.test_terminal_clients import Terminal, client
from tests.support import ServerProcess, serve

pytestmark = [pytest.mark.browser, pytest.mark.slow]

browser, open_tab = in_browser.browser, in_browser.open_tab
open_terminal = in_terminal.open_terminal
OpenTerminal = Callable[[], Terminal]


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """Serve the game that the test's name tells of; of the sandbox an island, where all meet."""
    words = request.node.name.split("_")
    games = {"snakes": "snake", "tictactoe": "tictactoe", "meadow": "game.py", "chat": "chat"}
    game = next((games[word] for word in words if word in games), str(tmp_path / "island.py"))
    (tmp_path / "island.py").write_text(SMALL_ISLAND)
    lines = ["--tcplisten", "127.0.0.1:0"] if game in ("snake", "tictactoe") else []
    with serve(*lines, game) as running:
        yield running


def read_until(plain: LineClient, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first message that is wanted; a line is a JSON object, as beginners read them."""
    for _ in range(1000):
        message: dict[str, Any] = json.loads(plain.line())
        if wanted(message):
            return message
    raise AssertionError("it did not come within 1,000 lines")


def test_a_terminal_and_a_browser_play_tictactoe_and_a_socket_watches(
    server: ServerProcess, open_tab: OpenTab, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal()
    terminal.start(*client("tictactoe", server, "ann", "hall"))
    terminal.wait_for("ann")
    with LineClient(server, "hall") as plain:
        read_until(plain, lambda m: m.get("t") == "state" and m["players"]["X"] == "ann")
        page = open_tab("/tictactoe/?room=hall")
        wait_for(page, "game.table !== null")
        give_name(page, "Bob")
        wait_for(page, "game.table?.name === value", "Bob")
        for count, (key, cell) in enumerate((("5", 0), ("3", 1), ("7", None))):
            wait_for(page, "game.table.board.replaceAll('.', '').length === value", 2 * count)
            terminal.keys(key)
            wait_for(page, "game.table.board.replaceAll('.', '').length === value", 2 * count + 1)
            if cell is not None:
                page.locator(".cell").nth(cell).click()
        state = read_until(plain, lambda m: m.get("result") is not None)
        assert (state["result"], state["board"]) == ("X", "OOX.X.X..")
        assert (state["you"], state["spectators"]) == (None, 1)
        wait_for(page, "document.querySelector('#verdict').textContent === value", "ann wins.")
        terminal.wait_for("(?i)you win|you have won")


def test_a_terminal_a_browser_and_a_socket_are_snakes_in_one_world(
    server: ServerProcess, open_tab: OpenTab, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal()
    terminal.start(*client("snake", server, "ann", "den"))
    page = open_tab("/snake/?room=den")
    page.get_by_label("Your name").wait_for()
    give_name(page, "Bob")
    with LineClient(server, "den") as plain:
        plain.send('{"username": "cy"}\n')  # as the tutorial's client begins
        for name in ("ann", "Bob", "cy"):
            terminal.wait_for(name)
            page.get_by_text(name, exact=True).first.wait_for()
        full = read_until(plain, lambda m: m.get("t") == "full")
        plain.send('{"t": "turn", "dir": "up"}\n')
        delta = read_until(plain, lambda m: m.get("t") == "delta" and m["tick"] > full["tick"])
        assert "error" not in delta


def test_a_terminal_and_a_browser_meet_on_an_island_of_the_sandbox(
    server: ServerProcess, open_tab: OpenTab, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal()
    terminal.start(*client("sandbox", server, "ann", "island"))
    terminal.wait_for("^ ann .*wood 20")
    page = open_tab(ISLAND)
    spawn(page, "Bob")
    wait_for(page, "Object.values(game.players).some(({ name }) => name === value)", "ann")
    terminal.wait_for("^(?! ann).*Bob")  # where he stands, and on the leaderboard
    where = "Object.values(game.players).find(({ name }) => name === 'ann').y"
    before = page.evaluate(where)
    terminal.keys("s" if before < 450 else "w")
    wait_for(page, f"Math.abs({where} - value) > 20", before)
    terminal.keys("x", "t")
    terminal.type("over here!")
    terminal.wait_for(r"say: over here!_")
    terminal.keys("Enter")
    terminal.wait_for("ann: over here!")
    page.get_by_text("over here!").first.wait_for()
    page.close()
    terminal.wait_for(r"(?s)\A(?!.*Bob)")  # whoever leaves is gone from field and leaderboard


def line_client(server: ServerProcess, room: str) -> list[str]:
    return [sys.executable, "-m", "client.websocket", server.url(room)]


def test_a_terminal_and_a_browser_chat(
    server: ServerProcess, open_tab: OpenTab, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal()
    terminal.start(*line_client(server, "den"))
    page = open_tab("/chat/?room=den")
    page.get_by_label("Your name").fill("Bob")
    page.get_by_role("button", name="Join in").click()
    page.get_by_label("Message", exact=True).fill("is anybody there?")
    page.get_by_role("button", name="Send").click()
    terminal.wait_for("is anybody there")
    terminal.type("I am, at a terminal\n")
    page.get_by_text("I am, at a terminal").wait_for()


def test_a_terminal_and_a_browser_are_bunnies_in_one_meadow(
    server: ServerProcess, open_tab: OpenTab, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal()
    terminal.start(*line_client(server, "glade"), size=(200, 24))
    own = terminal.wait_for(r'"you": ?(\d+)')[1]
    page = open_tab("/bunny/?room=glade")
    wait_for(page, "game.me !== null && document.body.dataset.players === '2'")
    terminal.type('{"t":"Input","data":{"x":321,"y":123}}\n')
    wait_for(page, "game.players[value].x === 321 && game.players[value].y === 123", own)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    terminal.wait_for(rf'"id": ?{page.evaluate("game.me")}, ?"x": ?(599|600|601)\b')
