"""What the tests of web pages share: one browser, its tabs, and ways to wait.

A test file gives the fixtures the names that it likes, and says what is served:

    from tests import browser as in_browser

    browser, open_tab = in_browser.browser, in_browser.open_tab

    @pytest.fixture
    def server() -> Iterator[ServerProcess]:
        with serve("game.py") as running:
            yield running

    def test_it_opens(open_tab: OpenTab) -> None:
        wait_for(open_tab("/bunny/?room=pond"), "game.me !== null")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.support import ROOT, ServerProcess, require_package, require_tool

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, LocatorAssertions, Page, Route

PAGES = ROOT / "client" / "web"
PATIENCE = 40_000  # milliseconds that a test waits for a condition
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 640}
NARROWEST = {"width": 320, "height": 568}  # also a desktop's page at 400 %
PHONE_ON_ITS_SIDE = {"width": 640, "height": 360}
MARKUP = "<img src=x onerror=document.title='gotcha'>"  # as the name of a room or a player

Visit = Callable[..., "Page"]  # visit(server, path="/", **options of a Playwright context)
OpenTab = Callable[..., "Page"]  # open_tab(path="/", **the same)


def expect(found: Locator, message: str | None = None) -> LocatorAssertions:
    """Wait until something holds of an element; for what has not come, or has just changed."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    return expect(found, message)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a file; each tab gets a profile of its own."""
    executable = require_tool("chromium")
    sync_playwright = require_package("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def tabs(browser: Browser) -> Iterator[Visit]:
    """Open pages of servers in tabs; at the end, no script in any of them may have failed."""
    errors: list[str] = []
    with ExitStack() as stack:

        def open_one(server: ServerProcess, path: str = "/", **options: Any) -> Page:
            context = browser.new_context(**{"viewport": DESKTOP, **options})
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(server.http(path))
            return page

        yield open_one
    assert errors == []


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open pages of any server in tabs; see `tabs`."""
    with tabs(browser) as visit:
        yield visit


@pytest.fixture
def open_tab(browser: Browser, server: ServerProcess) -> Iterator[OpenTab]:
    """Open pages of `server` in tabs; see `tabs`."""
    with tabs(browser) as visit:
        yield partial(visit, server)


def wait_for(page: Page, condition: str, value: object = None) -> None:
    """Wait until a JavaScript expression is true; in it, `value` is the argument."""
    page.wait_for_function(f"(value) => {condition}", arg=value)


def hold(page: Page, pattern: str) -> Callable[[], None]:
    """Have a page wait for what matches, as on a slow network, until what is returned is called."""
    held: list[Route] = []
    is_free = False
    page.route(pattern, lambda route: route.continue_() if is_free else held.append(route))

    def let_go() -> None:
        nonlocal is_free
        is_free = True
        for route in held:
            route.continue_()

    return let_go


def note(element: Locator) -> None:
    """Have a page note all that an element shows from now on, be it for a moment; for a page."""
    element.evaluate(
        """(element) => {
            window.noted = [];
            const note = () => noted.push(element.outerHTML);
            new MutationObserver(note).observe(element, { childList: true });
        }"""
    )


def wait_for_note(page: Page, pattern: str) -> None:
    """Wait until what is noted of an element has been as a regular expression says."""
    wait_for(page, "noted.some((html) => RegExp(value).test(html))", pattern)


# Has a page get no frames, as where nobody sees it, from `hide()` to `show()`.
HIDING = """
    const { requestAnimationFrame: ask } = window;
    const held = [];
    let isHidden = false;
    window.requestAnimationFrame = (frame) => (isHidden ? held.push(frame) : ask(frame));
    window.hide = () => (isHidden = true);
    window.show = () => {
        isHidden = false;
        held.splice(0).forEach((frame) => ask(frame));
    };"""

# Notes in `drawn` the texts of the first picture that shows all of those, in their order.
SPY_ON_ORDER = """(wanted) => {
    const { requestAnimationFrame: ask } = window;
    let texts = [];
    window.requestAnimationFrame = (frame) => ask((time) => {
        texts = [];
        frame(time);
        const found = texts.filter((text) => wanted.includes(text));
        if (new Set(found).size === wanted.length) window.drawn ??= found;
    });
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
        texts.push(text);
        fillText.call(this, text, ...more);
    };
}"""


def overlapping(page: Page, names: list[str]) -> list[str]:
    """Return the pairs of those elements, given by selectors, that cover each other."""
    script = """(names) => {
        const boxes = names.map((name) =>
            [name, document.querySelector(name).getBoundingClientRect()]);
        const apart = (a, b) => a.right <= b.left || b.right <= a.left ||
            a.bottom <= b.top || b.bottom <= a.top;
        return boxes.flatMap(([one, a], i) => boxes.slice(i + 1)
            .filter(([, b]) => !apart(a, b)).map(([other]) => `${one} ${other}`));
    }"""
    return cast("list[str]", page.evaluate(script, names))


# Notes from where to where, as parts of its width, a canvas shows each text.
SPY_ON_TEXTS = """
    window.texts = {};
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        const half = this.measureText(text).width / 2;
        const at = (x) => this.getTransform().transformPoint({ x, y }).x / this.canvas.width;
        texts[text] = [at(x - half), at(x + half)];
        fillText.call(this, text, x, y);
    };"""


def sticking_out(page: Page) -> list[str]:
    """Return the beginnings of those elements that reach beyond the left or right edge."""
    script = """() => [...document.querySelectorAll("body *")]
        .filter((element) => {
            const { left, right } = element.getBoundingClientRect();
            return left < 0 || right > innerWidth;
        })
        .map((element) => element.outerHTML.slice(0, 80))"""
    return cast("list[str]", page.evaluate(script))


STRANGE = "\u2069\u202eevil"  # ends an isolated part, and turns around what follows


def turned_around(page: Page) -> list[str]:
    """Return those texts of a page that stand backwards in it beside what is `STRANGE`."""
    script = """(strange) => {
        const stands = (node, i) => {
            const range = document.createRange();
            range.setStart(node, i);
            range.setEnd(node, i + 1);
            return range.getBoundingClientRect();
        };
        const isBackwards = (node) => {
            const own = node.data.replaceAll(strange, " ".repeat(strange.length));
            const places = [...own.matchAll(/\\S/g)].map(({ index }) => stands(node, index));
            return places.some((place, i) => i && place.width && place.left < places[i - 1].left
                && place.top < places[i - 1].bottom);
        };
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const found = [];
        while (texts.nextNode()) {
            const node = texts.currentNode;
            if (isBackwards(node) && !node.parentElement.closest(".unseen")) found.push(node.data);
        }
        return found;
    }"""
    return cast("list[str]", page.evaluate(script, STRANGE))
