"""A page whose game's code changes while it is played (--reload), in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser as in_browser
from tests.browser import OpenTab, expect, wait_for
from tests.support import ServerProcess, http_request, run_cli, serve

pytestmark = pytest.mark.browser

browser, open_tab = in_browser.browser, in_browser.open_tab

# Of both kinds of game that `scalesocket new` makes: who moves in the new code has a point.
FILES = {"game": "mygame_rules.py", "program": "mygame.py"}
CHANGE = "REACH = 0.04", "REACH = 2"
LEFT = "parseFloat(document.querySelector('.me').style.left)"
SCORE = "parseInt(document.querySelector('#scores').textContent.split(': ')[1])"


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of a game that has just been made."""
    option = ["--program"] if request.param == "program" else []
    assert run_cli("new", "mygame", *option, cwd=tmp_path).returncode == 0
    return tmp_path / "mygame" / FILES[request.param]


@pytest.fixture
def server(file: Path) -> Iterator[ServerProcess]:
    with serve("--reload", "--console", "mygame.py", cwd=file.parent) as running:
        assert http_request(running, path="/health").status == 200
        yield running


def test_a_page_goes_on_through_new_code_and_the_console_tells_of_wrong_code(
    open_tab: OpenTab, server: ServerProcess, file: Path
) -> None:
    page = open_tab("/?room=den&name=Ann")
    page.get_by_text("Ann: 0").wait_for()
    field = page.locator("#field")
    for _ in range(20):  # the program's players hop, and do not walk on
        field.click(position={"x": 30, "y": 30})
    wait_for(page, f"{LEFT} < 20")
    page.evaluate("window.isTheSame = true")
    console = open_tab("/console/")
    console.locator("body[data-server=live]").wait_for()
    told = console.locator("#old-code")
    expect(told).to_be_hidden()

    good = file.read_text()
    file.write_text(f"{good}def wrong(:\n")
    told.get_by_text(f"{file.name}, line {good.count(chr(10)) + 1}").wait_for()
    assert page.evaluate("document.getElementById('state').textContent") == "connected"

    before = page.evaluate(SCORE)
    assert CHANGE[0] in good
    file.write_text(good.replace(*CHANGE))
    server.wait_log("the new code runs")
    wait_for(page, "document.getElementById('state').textContent === 'connected'")
    assert page.evaluate(f"window.isTheSame && {LEFT} < 20")  # it has begun nowhere anew
    field.click(position={"x": 30, "y": 30})
    wait_for(page, f"{SCORE} > value", before)
    expect(page.locator("#scores")).to_contain_text("Ann: ")
    told.wait_for(state="hidden")
