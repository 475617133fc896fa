"""The page of the bundled game, played in a real browser against the real server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests import browser as in_browser
from tests.browser import (
    DESKTOP,
    MARKUP,
    NARROWEST,
    PAGES,
    PATIENCE,
    PHONE,
    PHONE_ON_ITS_SIDE,
    SPY_ON_TEXTS,
    OpenTab,
    expect,
    note,
    sticking_out,
    wait_for,
    wait_for_note,
)
from tests.pages.picture import PICTURE, take_picture
from tests.support import ROOT, ServerProcess, free_port, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

browser = in_browser.browser
open_tab_at = in_browser.open_tab


# ==== 1. A browser and its tabs ============================================


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """Serve the bundled game just as the README says: with no options at all."""
    with serve("game.py") as running:
        yield running


@pytest.fixture
def open_tab(open_tab_at: OpenTab) -> OpenTab:
    """Open the game's page in a room."""
    return lambda room="meadow", **options: open_tab_at(f"/bunny/?room={room}", **options)


def wait_for_players(page: Page, count: int) -> None:
    wait_for(page, "game.me !== null && document.body.dataset.players === String(value)", count)


def me(page: Page) -> str:
    return str(page.evaluate("game.me"))


def place_of(page: Page, player: str) -> dict[str, float]:
    place: dict[str, float] = page.evaluate("(id) => game.players[id]", player)
    return place


def click_at(page: Page, x: float, y: float) -> None:
    """Click on the game, at fractions of its width and height."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def go_to_room(page: Page, room: str) -> None:
    page.get_by_label("Go to another room").fill(room)
    page.get_by_role("button", name="Go", exact=True).click()


# ==== 2. Playing together ==================================================


def test_two_tabs_see_two_players(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    wait_for_players(a, 2)
    wait_for_players(b, 2)
    assert me(a) != me(b)
    assert a.evaluate("game.players") == b.evaluate("game.players")
    assert set(a.evaluate("game.players")) == {me(a), me(b)}
    expect(a.locator("#status")).to_have_text("Connected")
    expect(a.locator("#headcount")).to_have_text("with 1 more.")


def test_when_one_clicks_the_other_sees_it_hop_there(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    wait_for_players(a, 2)
    wait_for_players(b, 2)
    before = place_of(b, me(a))
    still = place_of(b, me(b))
    click_at(a, 0.5, 0.5)
    wait_for(b, "game.players[value[0]].x !== value[1]", [me(a), before["x"]])
    after = place_of(b, me(a))
    here = "game.players[game.me].x === value.x && game.players[game.me].y === value.y"
    wait_for(a, here, after)
    assert after["x"] == pytest.approx(600, abs=2)  # the middle of the world
    assert 300 < after["y"] < 500
    wait_for(
        b,
        "game.sprites.some(({ id, x, y }) => id == value.id && x === value.x && y === value.y)",
        {"id": me(a), **after},
    )
    assert place_of(a, me(b)) == still


def test_a_click_beyond_the_fence_ends_at_the_edge_of_the_world(open_tab: OpenTab) -> None:
    page = open_tab()
    wait_for_players(page, 1)
    click_at(page, 0.99, 0.03)
    wait_for(page, "game.players[game.me].y === 0")
    assert place_of(page, me(page)) == {"x": 1200, "y": 0}


def test_a_finger_will_do(open_tab: OpenTab) -> None:
    page = open_tab(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    wait_for_players(page, 1)
    before = place_of(page, me(page))
    page.locator("#stage").tap()
    wait_for(page, "game.players[game.me].x !== value", before["x"])
    assert place_of(page, me(page))["x"] == pytest.approx(600, abs=5)


@pytest.mark.parametrize(("key", "axis", "sign"), [("ArrowRight", "x", 1), ("w", "y", -1)])
def test_keys_will_do(open_tab: OpenTab, key: str, axis: str, sign: int) -> None:
    page = open_tab()
    wait_for_players(page, 1)
    came = place_of(page, me(page))
    click_at(page, 0.5, 0.5)
    wait_for(page, "game.players[game.me].y !== value", came["y"])
    before = place_of(page, me(page))
    page.keyboard.down(key)
    wait_for(page, f"(game.players[game.me].{axis} - value) * {sign} > 50", before[axis])
    page.keyboard.up(key)
    other = "y" if axis == "x" else "x"
    assert place_of(page, me(page))[other] == before[other]


def test_keys_typed_into_a_field_move_nobody(open_tab: OpenTab) -> None:
    page = open_tab()
    wait_for_players(page, 1)
    before = place_of(page, me(page))
    page.get_by_label("Go to another room").press_sequentially("wasd")
    click_at(page, 0.5, 0.5)  # what was sent before this would have arrived before it
    wait_for(page, "game.players[game.me].x > 590 && game.players[game.me].x < 610")
    assert before["x"] != place_of(page, me(page))["x"]
    assert page.evaluate("document.querySelector('#room').value") == "wasd"


def test_who_closes_the_tab_is_gone(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    wait_for_players(a, 2)
    wait_for_players(b, 2)
    a.close()
    wait_for_players(b, 1)
    wait_for(b, "game.sprites.length === 1")
    assert list(b.evaluate("game.players")) == [me(b)]
    expect(b.locator("#headcount")).to_have_text("all alone.")


def test_the_canvas_shows_a_picture_that_moves(open_tab: OpenTab) -> None:
    page = open_tab()
    wait_for_players(page, 1)
    wait_for(
        page,
        """(() => {
            const canvas = document.getElementById("stage");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size > 500;
        })()""",
    )
    before = page.locator("#stage").screenshot()
    click_at(page, 0.3, 0.6)
    wait_for(page, "game.sprites[0].x === game.players[game.me].x && game.sprites[0].x < 500")
    assert page.locator("#stage").screenshot() != before


# ==== 3. Rooms =============================================================


def test_another_room_is_another_meadow(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    wait_for_players(a, 2)
    wait_for_players(b, 2)
    go_to_room(b, "burrow")
    wait_for_players(a, 1)
    wait_for_players(b, 1)
    assert b.evaluate("game.room") == "burrow"
    assert b.url.endswith("/bunny/?room=burrow")
    expect(b.locator("[data-room-name]")).to_have_text("burrow")
    b.go_back()
    wait_for_players(a, 2)
    wait_for_players(b, 2)
    assert b.evaluate("game.room") == "meadow"


def test_live_rooms_are_listed_with_their_players(open_tab: OpenTab) -> None:
    a, b, c = open_tab("pond"), open_tab("pond"), open_tab("burrow")
    for page, count in ((a, 2), (b, 2), (c, 1)):
        wait_for_players(page, count)
    rooms = "[...document.querySelectorAll('[data-rooms] li')].map(item => item.innerText)"
    wait_for(c, f"{rooms}.join() === 'pond\\n2\\n2 players,burrow\\n1\\n1 player'")
    assert c.locator("[data-rooms] [aria-current]").get_attribute("data-room") == "burrow"
    c.locator("[data-rooms] a", has_text="pond").hover()
    c.mouse.down()
    for _ in range(2):  # the list is looked up anew while the button is down
        c.wait_for_event("response", lambda answer: answer.url.endswith("/api/rooms/"))
    c.mouse.up()
    wait_for_players(a, 3)
    wait_for_players(c, 3)


@pytest.mark.parametrize("room", [MARKUP, "a b?c#d%41&e+f", "żółw 🐢", "x" * 128])
def test_a_room_may_have_any_name_and_it_is_shown_as_text(open_tab: OpenTab, room: str) -> None:
    a, b = open_tab(), open_tab()
    wait_for_players(a, 2)
    go_to_room(a, room)
    wait_for_players(b, 1)
    wait_for(a, "game.room === value && game.me !== null", room)
    b.goto(a.url)  # the link leads to the same room
    wait_for_players(b, 2)
    wait_for(b, "document.querySelector('[data-rooms] [aria-current]') !== null")
    expect(b.locator("[data-room-name]")).to_have_text(room)
    expect(b.locator("[data-rooms] [aria-current] span").first).to_have_text(room)
    expect(b.locator("aside img")).to_have_count(0)
    assert b.title() != "gotcha"


@pytest.mark.parametrize(
    ("room", "words"),
    [
        ("api", "taken by the server"),
        ("..", "taken by the server"),
        ("a/b", "no slash"),
        ("a\u0085b", "control character"),
        ("", "needs a name"),
    ],
)
def test_a_name_that_no_room_can_have_is_refused_in_words(
    open_tab: OpenTab, room: str, words: str
) -> None:
    page = open_tab()
    wait_for_players(page, 1)
    go_to_room(page, room)
    expect(page.get_by_role("alert")).to_contain_text(words)
    assert page.evaluate("game.room") == "meadow"
    assert page.evaluate("game.state") == "connected"


def test_a_link_to_an_impossible_room_leads_to_the_usual_one_and_says_why(
    open_tab: OpenTab,
) -> None:
    page = open_tab("a/b")
    wait_for_players(page, 1)
    assert page.evaluate("game.room") == "meadow"
    expect(page.get_by_role("alert")).to_contain_text("no slash")


def test_the_link_is_copied_also_where_browsers_hide_the_clipboard(open_tab: OpenTab) -> None:
    page = open_tab("pond")
    wait_for_players(page, 1)
    page.evaluate(
        """() => {
            Object.defineProperty(navigator, "clipboard", { value: undefined });
            document.addEventListener("copy", () => (window.copied = String(getSelection())));
        }"""
    )
    button = page.get_by_role("button", name="Copy link")
    note(button)
    button.click()
    wait_for_note(page, ">Copied!<")
    assert page.evaluate("copied") == page.url
    button.wait_for()


def test_the_command_line_of_scalesocket_works_and_so_does_the_page_with_no_list_of_rooms(
    browser: Browser, tmp_path: Path
) -> None:
    script = (ROOT / "game" / "game.py").read_text()
    (tmp_path / "game.py").write_text(script.split("# ///\n", 1)[1])  # without options of its own
    shutil.copytree(PAGES, tmp_path / "public")
    options = [
        *("--staticdir", "public/"),
        "--frame=json",
        *("--joinmsg", '{"t":"Join","id":#ID}'),
        *("--leavemsg", '{"t":"Leave","id":#ID}'),
    ]
    with serve(*options, "game.py", cwd=tmp_path) as server, browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        a, b = context.new_page(), context.new_page()
        a.goto(server.http("/bunny/"))
        b.goto(server.http("/bunny/"))
        wait_for_players(a, 2)
        wait_for_players(b, 2)
        note = a.locator("[data-rooms-note]")
        wait_for(a, "document.querySelector('[data-rooms-note]').textContent !== ''")
        expect(note).to_have_text("This server keeps its list of rooms to itself.")
        go_to_room(a, "burrow")
        wait_for_players(a, 1)


def test_rooms_are_known_again_as_soon_as_the_network_is_back(open_tab: OpenTab) -> None:
    """They were "Not known right now." for up to 3 s more, below "Back again"."""
    page = open_tab("/bunny/?room=burrow")
    wait_for(page, "document.querySelectorAll('[data-rooms] li').length === 1")
    page.route("**/api/rooms/", lambda route: route.abort())
    page.evaluate(  # what is due in a second or later never comes; then it looks at once
        """() => {
          const later = window.setTimeout;
          window.setTimeout = (call, delay) => later(call, delay < 1_000 ? delay : 2 ** 30);
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    page.get_by_text("Not known right now.").wait_for()
    page.unroute("**/api/rooms/")
    page.evaluate("window.dispatchEvent(new Event('online'))")
    page.locator("[data-rooms] li").wait_for()


def test_the_name_of_a_room_that_the_lobby_suggests_is_not_cut_off(open_tab: OpenTab) -> None:
    """It was `quiet-fal…`, in a window of 1280 by 800."""
    for size in ({"width": 1280, "height": 800}, {"width": 844, "height": 390}):
        page = open_tab("gentle-hedgehog", viewport=size)
        wait_for_players(page, 1)
        name = page.locator("[data-room-name]", has_text="gentle-hedgehog")
        name.wait_for()
        assert name.evaluate("(name) => name.scrollWidth <= name.clientWidth")
        assert name.evaluate("(name) => name.scrollHeight <= name.clientHeight")
        page.close()


# ==== 4. When the connection breaks ========================================


def test_after_a_restart_the_page_comes_back_by_itself_and_says_so(browser: Browser) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        with serve("game.py", addr=f"127.0.0.1:{free_port()}") as server:
            page.goto(server.http("/bunny/?room=pond"))
            wait_for_players(page, 1)
            expect(page.locator("#note")).to_be_hidden()
        wait_for(page, "document.body.dataset.status === 'waiting'")
        # All at one moment: it tries again from time to time.
        wait_for(
            page,
            """/^No connection: ./.test(document.querySelector("#note-text").textContent)
            && document.querySelector("#status").textContent === "Offline"
            && /^Next try in \\d+ s\\.$/.test(document.querySelector("#countdown").textContent)""",
        )
        expect(page.locator("#note")).to_be_visible()
        assert page.evaluate("Object.keys(game.players).length") == 1, "the last picture stays"
        with serve("game.py", addr=f"127.0.0.1:{server.port}"):
            wait_for(
                page, "document.querySelector('#note-text').textContent === 'Connected again.'"
            )
            wait_for_players(page, 1)
            expect(page.locator("#status")).to_have_text("Connected")
            assert page.evaluate("game.room") == "pond"
            page.locator("#note").wait_for(state="hidden")
            page.goto("about:blank")


# What is due in a fifth of a second or later never comes.
NO_ATTEMPT_BY_ITSELF = """
    const later = window.setTimeout;
    window.setTimeout = (call, delay) => later(call, delay < 200 ? delay : 2 ** 30);
"""


def test_the_reason_that_the_server_gives_is_shown(browser: Browser) -> None:
    with serve("--maxclients", "1", "game.py") as server, browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        first, second = context.new_page(), context.new_page()
        first.goto(server.http("/bunny/?room=pond"))
        wait_for_players(first, 1)
        second.add_init_script(NO_ATTEMPT_BY_ITSELF)
        second.goto(server.http("/bunny/?room=pond"))
        wait_for(second, "document.body.dataset.status === 'waiting'")
        reason = second.evaluate(
            """(url) => new Promise((resolve) => {
                new WebSocket(url).onclose = ({ reason }) => resolve(reason);
            })""",
            server.url("pond"),
        )
        assert reason
        wait_for(second, "document.querySelector('#note-text').textContent.includes(value)", reason)
        first.close()
        # Again and again: the server may not know yet that there is room.
        click = "document.querySelector('#retry').click()"
        wait_for(
            second,
            f"game.state === 'connected' || (game.state === 'waiting' && ({click}, false))",
        )
        wait_for_players(second, 1)


def test_attempts_become_rarer_up_to_a_limit_and_never_keep_step(open_tab: OpenTab) -> None:
    page = open_tab()
    delays = page.evaluate(
        """async () => {
            const { backoff } = await import("/shared/connection.js");
            const attempts = [...Array(12).keys()];
            return [0, 0.999].map((chance) => attempts.map((n) => backoff(n, () => chance)));
        }"""
    )
    shortest, longest = delays
    assert longest[:5] == pytest.approx([500, 1000, 2000, 4000, 8000], rel=0.01)
    assert max(longest) == pytest.approx(15_000, rel=0.01)
    assert shortest == pytest.approx([delay / 2 for delay in longest], rel=0.01)


# ==== 5. Fit for all =======================================================


@pytest.mark.parametrize("size", [PHONE, PHONE_ON_ITS_SIDE, DESKTOP], ids=str)
def test_nothing_sticks_out_of_the_window(open_tab: OpenTab, size: dict[str, int]) -> None:
    page = open_tab("a-room-with-a-name-that-is-much-too-long-for-a-phone", viewport=size)
    wait_for_players(page, 1)
    wait_for(page, "document.querySelectorAll('[data-rooms] li').length === 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert sticking_out(page) == []
    box = page.locator("#stage").bounding_box()
    assert box and box["height"] >= 250 and box["width"] >= 350


def test_the_narrowest_page_shows_how_the_connection_is(open_tab: OpenTab) -> None:
    """It was cut off."""
    page = open_tab(viewport=NARROWEST)
    wait_for_players(page, 1)
    assert sticking_out(page) == []


@pytest.mark.parametrize("size", [{"width": 320, "height": 200}, {"width": 426, "height": 266}])
def test_at_400_percent_the_rooms_lie_on_nothing(open_tab: OpenTab, size: dict[str, int]) -> None:
    """They lay beside the game, as in any window that is broad, and on how the connection is."""
    page = open_tab(viewport=size)
    wait_for_players(page, 1)
    lower = "document.querySelector('aside').getBoundingClientRect().top"
    upper = "document.querySelector('header').getBoundingClientRect().bottom"
    assert page.evaluate(f"{lower} >= {upper}")
    assert not sticking_out(page)


def test_a_name_tag_is_seen_whole_after_many_visitors(browser: Browser, tmp_path: Path) -> None:
    """At the edge of a phone the number of who came late was cut off."""
    player = {"id": 123_456, "x": 1200, "y": 400}
    world = {"width": 1200, "height": 800}
    welcome = {"t": "Welcome", "data": {"you": 123_456, "world": world, "players": [player]}}
    (tmp_path / "late.py").write_text(f"for _ in open(0):\n    print({json.dumps(welcome)!r})\n")
    options = ("--json", "--staticdir", str(PAGES), str(tmp_path / "late.py"))
    with serve(*options) as server, browser.new_context(viewport=PHONE) as context:
        page = context.new_page()
        page.add_init_script(SPY_ON_TEXTS)
        page.goto(server.http("/bunny/"))
        wait_for(page, "texts['You · Clover 123456']")
        left, right = page.evaluate("texts['You · Clover 123456']")
        assert 0 < left < right < 1


def test_words_that_change_move_nothing(open_tab: OpenTab) -> None:
    page = open_tab()
    wait_for_players(page, 1)
    measure = """() => ["#stage", "#status", "form", ".live"].map((name) => {
        const { x, y, height } = document.querySelector(name).getBoundingClientRect();
        return [x, y, height];
    })"""
    wait_for(page, "document.querySelectorAll('[data-rooms] li').length === 1")
    before = page.evaluate(measure)
    page.evaluate("document.querySelector('#status').textContent = 'Connecting…'")
    page.evaluate("document.querySelector('[data-problem]').textContent = 'A room needs a name.'")
    page.evaluate("document.querySelector('#note').classList.add('shown')")
    assert page.evaluate(measure) == before


def test_there_is_a_day_and_a_night(open_tab: OpenTab) -> None:
    brightness = """() => {
        const stage = document.getElementById("stage");
        const { data } = stage.getContext("2d").getImageData(0, stage.height / 2, 300, 40);
        const paper = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
        const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
        return [mean(data.filter((_, i) => i % 4 < 3)), mean(paper)];
    }"""
    page = open_tab(color_scheme="light")
    wait_for_players(page, 1)
    wait_for(page, f"({brightness})()[0] > 100")
    assert page.evaluate(brightness)[1] > 200
    page.emulate_media(color_scheme="dark")
    wait_for(page, f"({brightness})()[0] < 80")
    assert page.evaluate(brightness)[1] < 60


def test_the_page_asks_nobody_but_its_own_server(browser: Browser, server: ServerProcess) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
        page.goto(server.http("/bunny/"))
        wait_for_players(page, 1)
        own = f"{server.host}:{server.port}/"
        assert len(asked) > 5
        assert [url for url in asked if url.split("://")[1].startswith(own) is False] == []
        assert failed == []


def test_every_control_has_a_name(open_tab: OpenTab) -> None:
    page = open_tab()
    wait_for_players(page, 1)
    for role, name in [
        ("application", "The meadow"),
        ("textbox", "Go to another room"),
        ("button", "Go"),
        ("button", "Copy link"),
        ("list", "Rooms right now"),
        ("complementary", "Rooms"),
        ("heading", "Meadow"),
    ]:
        found = page.get_by_role(cast(Any, role), name=re.compile(f"^{name}"))
        expect(found, str((role, name))).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"


def test_the_picture_of_the_readme_can_be_taken_again(browser: Browser) -> None:
    taken, kept = take_picture(browser), PICTURE.read_bytes()
    assert taken.startswith(b"\xff\xd8\xff") and kept.startswith(b"\xff\xd8\xff")  # JPEG
    assert len(kept) / 2 < len(taken) < len(kept) * 2, "it shows something else"
