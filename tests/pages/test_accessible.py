"""What axe has to say about the pages, by day on a desk and by night on a phone: nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests import browser as in_browser
from tests.browser import DESKTOP, NARROWEST, PAGES, PATIENCE, expect, wait_for
from tests.support import ServerProcess, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

browser = in_browser.browser

# Without motion: what is still fading in has no contrast yet.
DESK_BY_DAY: dict[str, Any] = {
    "viewport": DESKTOP,
    "color_scheme": "light",
    "reduced_motion": "reduce",
}
PHONE_BY_NIGHT: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "color_scheme": "dark",
    "reduced_motion": "reduce",
}
# What a page shows of a server that seems silent, it shows faded. A busy machine only seems so.
NEVER_LATE = "AbortSignal.timeout = () => new AbortController().signal;"
SHELL = ("--staticdir", str(PAGES), "--api", "--pty", "cat")

Step = Callable[["Page"], None]


def complaints(page: Page) -> list[str]:
    """Return what axe finds, as `rule: elements`."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("missing package: axe-playwright-python")
        pytest.skip("missing package: axe-playwright-python")
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{v['id']}: {[node['target'] for node in v['nodes']]}" for v in found]


@pytest.fixture(params=[DESK_BY_DAY, PHONE_BY_NIGHT], ids=["desk by day", "phone by night"])
def open_page(
    browser: Browser, request: pytest.FixtureRequest
) -> Iterator[Callable[[ServerProcess, str], Page]]:
    contexts = []

    def open_one(server: ServerProcess, path: str) -> Page:
        context = browser.new_context(**request.param)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(NEVER_LATE)
        page = context.new_page()
        page.goto(server.http(path))
        return page

    yield open_one
    for context in contexts:
        context.close()


def play(page: Page) -> None:
    page.get_by_label("Your name").fill("Ann")
    page.get_by_role("button", name=re.compile("Play|Join in|Wait")).click()
    page.locator("#join").wait_for(state="hidden")


def test_axe_finds_nothing_in_a_console_that_shows_something(
    open_page: Callable[[ServerProcess, str], Page],
) -> None:
    with serve("--console", "snake") as server:
        page = open_page(server, "/console/")
        page.get_by_role("button", name="Connect", exact=True).click()
        page.locator("#log .preview", has_text="delta").first.wait_for()
        page.get_by_role("button", name="Pause", exact=True).click()  # and it stays selected
        assert complaints(page) == []
        page.get_by_role("link", name="Rooms").click()
        page.locator("#room-rows td").first.click()
        page.locator("#client-rows td").first.wait_for()
        assert complaints(page) == []


def lose(server: ServerProcess) -> Step:
    def step(page: Page) -> None:
        server.kill()
        wait_for(page, "document.body.dataset.status === 'waiting'")

    return step


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["snake"], "/snake/?room=den"),
        (["tictactoe"], "/tictactoe/?room=den"),
        (["sandbox"], "/sandbox/?room=den"),
        (["chat"], "/chat/?room=den"),
    ],
    ids=["snake", "tictactoe", "sandbox", "chat"],
)
def test_axe_finds_nothing_in_the_games(
    open_page: Callable[[ServerProcess, str], Page], arguments: list[str], path: str
) -> None:
    with serve(*arguments) as server:
        page = open_page(server, path)
        page.locator("#join:not([hidden])").wait_for()
        assert complaints(page) == []
        play(page)
        assert complaints(page) == []
        lose(server)(page)
        assert complaints(page) == []


@pytest.mark.parametrize(
    ("arguments", "path", "ready"),
    [
        (["game.py"], "/", "document.querySelector('#title').textContent === 'Meadow'"),
        (["game.py"], "/bunny/?room=den", "document.querySelector('[data-rooms] a')"),
        (SHELL, "/terminal/?room=den", "document.body.dataset.status === 'connected'"),
        (["cat"], "/?room=den", "document.querySelector('#messages li')"),
        (["--console", "cat"], "/console/", "document.readyState === 'complete'"),
    ],
    ids=["lobby", "meadow", "terminal", "talk", "console"],
)
def test_axe_finds_nothing_in_the_other_pages(
    open_page: Callable[[ServerProcess, str], Page], arguments: list[str], path: str, ready: str
) -> None:
    with serve(*arguments) as server:
        page = open_page(server, path)
        wait_for(page, ready)
        assert complaints(page) == []


# The buttons that are seen, and how wide their borders are; the pressed ones by themselves.
BORDERS = """() => {
    const all = [...document.querySelectorAll("button:not(.link, .entry)")];
    const seen = all.filter((button) => button.checkVisibility());
    const width = (button) => parseFloat(getComputedStyle(button).borderTopWidth);
    const isPressed = (button) => button.ariaPressed === "true";
    return [seen.filter(isPressed), seen].map((buttons) => buttons.map(width));
}"""


@pytest.mark.parametrize(
    ("arguments", "path", "count"),
    [(["tictactoe"], "/tictactoe/", 9), (["--console", "cat"], "/console/", 7)],
    ids=["tictactoe", "console"],
)
def test_where_the_reader_chooses_all_colours_buttons_are_seen(
    browser: Browser, arguments: list[str], path: str, count: int
) -> None:
    """They were told apart by their colour alone: a board had no fields."""
    with (
        serve(*arguments) as server,
        browser.new_context(viewport=DESKTOP, forced_colors="active") as context,
    ):
        page = context.new_page()
        page.goto(server.http(path))
        page.locator("button:visible").nth(count).wait_for()
        pressed, widths = page.evaluate(BORDERS)
        assert len(widths) > count and min(widths) >= 1
        assert min(pressed, default=3) >= 3


# The colours of what is painted, and what it is painted on.
PAINTED = """(parts) => [...document.querySelectorAll(parts)].map(
    (part) => getComputedStyle(part).backgroundColor)"""


@pytest.mark.parametrize(
    ("arguments", "path", "parts", "count"),
    [
        (["cat"], "/chat/", ".status, .lamp", 2),
        (["sandbox"], "/sandbox/", ".skins input", 8),
        (["snake"], "/snake/", "body, #scores i", 2),
        (["--pty", "cat"], "/terminal/", "#box, #cursor", 2),
    ],
    ids=["lamp", "skins", "snakes", "cursor"],
)
def test_where_the_reader_chooses_all_colours_what_a_colour_tells_is_seen(
    browser: Browser, arguments: list[str], path: str, parts: str, count: int
) -> None:
    """All coats were one, and a terminal had no cursor."""
    with (
        serve("--staticdir", str(PAGES), *arguments) as server,
        browser.new_context(viewport=NARROWEST, forced_colors="active") as context,
    ):
        page = context.new_page()
        page.goto(server.http(f"{path}?room=den&name=Ann"))
        expect(page.locator("#status")).to_have_text("Connected")
        if path == "/snake/":
            page.locator("form input").press("Enter")
        if path == "/terminal/":
            page.locator("#input").focus()
        wait_for(page, "document.querySelectorAll(value[0]).length >= value[1]", [parts, count])
        assert len(set(page.evaluate(PAINTED, parts))) == count
