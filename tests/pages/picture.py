"""README's picture: one meadow in two browsers, and the terminal that serves it.

    python3 -m tests.pages.picture          writes tests/pages/meadow.jpg

Nothing in it is drawn: these are the pages as Chromium shows them, and the lines that the server
has said. It wants what the tests of pages want, which `python3 -m tests` installs.
"""

from __future__ import annotations

import base64
import html
import sys
import time
from typing import TYPE_CHECKING

from tests.browser import ARGUMENTS, PAGES
from tests.support import find_tool, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PICTURE = PAGES.parent.parent / "tests" / "pages" / "meadow.jpg"
DESKTOP = {"width": 850, "height": 470}
PHONE = {"width": 340, "height": 640}
SHEET = {"width": 1200, "height": 640}

LAYOUT = """
<style>
  body { margin: 0; position: relative; background: #e9eee2; font: 15px/1.5 "DejaVu Sans Mono" }
  img, pre { position: absolute; margin: 0; box-shadow: 0 8px 28px #23331f55 }
  #desktop { left: 28px; top: 24px; width: 800px; border-radius: 12px }
  #phone { right: 28px; top: 24px; width: 300px; border-radius: 26px; border: 7px solid #1d2420 }
  pre { left: 28px; width: 760px; bottom: 26px; padding: 12px 20px; border-radius: 12px;
        background: #1d2420; color: #d9e4d3 }
</style>
<img id="desktop" src="data:image/png;base64,{desktop}">
<img id="phone" src="data:image/png;base64,{phone}">
<pre>$ python3 scalesocket.py game.py
{said}</pre>
"""


def take_picture(browser: Browser) -> bytes:
    """Return the picture as JPEG."""
    with serve("game.py") as server:
        desktop, phone = (
            browser.new_page(viewport=size, color_scheme="light", device_scale_factor=1)
            for size in (DESKTOP, PHONE)
        )
        for page in (desktop, phone):
            page.goto(server.http("/?room=meadow"))
            page.wait_for_function("document.body.dataset.status === 'connected'")
        hop(desktop, 0.45, 0.62)
        hop(phone, 0.70, 0.45)
        desktop.wait_for_function("document.body.dataset.players === '2'")
        time.sleep(4)  # for both to get where they hop to, and for the hint to fade
        shots = {name: encode(page) for name, page in (("desktop", desktop), ("phone", phone))}
        said = server.log()
        for page in (desktop, phone):
            page.close()
    words = "\n".join(said).replace(f"127.0.0.1 on port {server.port}", "0.0.0.0 on port 9000")
    words = words.replace(f"127.0.0.1:{server.port}", "localhost:9000")
    text = LAYOUT.replace("{said}", html.escape(words))
    for name, data in shots.items():
        text = text.replace(f"{{{name}}}", data)
    sheet = browser.new_page(viewport=SHEET)
    sheet.set_content(text)
    picture = sheet.screenshot(type="jpeg", quality=82)
    sheet.close()
    return picture


def hop(page: Page, x: float, y: float) -> None:
    """Click at a point of the meadow, in parts of its width and height."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def encode(page: Page) -> str:
    """Return what a page shows, as PNG in base64."""
    return base64.b64encode(page.screenshot()).decode()


def main() -> int:
    """Write the picture; return the exit status."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_tool("chromium"), args=ARGUMENTS)
        PICTURE.write_bytes(take_picture(browser))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
