"""The lobby, the chat and the terminal, used in a real browser against the real server."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

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
    STRANGE,
    Visit,
    expect,
    hold,
    note,
    sticking_out,
    turned_around,
    wait_for,
    wait_for_note,
)
from tests.support import ROOT, RawClient, ServerProcess, free_port, serve, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

browser, visit = in_browser.browser, in_browser.visit

SITE = ("--staticdir", str(PAGES), "--api")
SHELL = ("--pty", "--passenv", "PATH,PS1,LANG", "bash", "--", "--norc", "--noprofile")
ROOM_PAGES = ("/chat/", "/talk/", "/terminal/")
POLICY = "Content-Security-Policy: default-src 'self'; base-uri 'none'; object-src 'none'"
TOUCH = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def texts(page: Page, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


@pytest.mark.parametrize(
    ("arguments", "path", "usual"),
    [
        (["snake"], "/snake/", "garden"),
        (["tictactoe"], "/tictactoe/", "parlour"),
        (["sandbox"], "/sandbox/", "island"),
        (["chat"], "/chat/", "lounge"),
        (["cat"], "/", "lobby"),
    ],
    ids=["snake", "tictactoe", "sandbox", "chat", "talk"],
)
def test_a_link_to_an_impossible_room_says_why_this_is_another(
    visit: Visit, arguments: list[str], path: str, usual: str
) -> None:
    """Only the meadow said so: elsewhere one waited for the others in the wrong room."""
    with serve(*arguments) as server:
        page = visit(server, f"{path}?room=a%2Fb")
        expect(page.get_by_text("A room’s name has no slash in it.")).to_be_attached()
        wait_for(page, "document.body.dataset.status === 'connected'")
        expect(page.locator("#room-name")).to_have_text(usual)


# ==== 1. The lobby =========================================================


def wait_for_rooms(page: Page, count: int) -> None:
    wait_for(page, "document.querySelectorAll('#rooms li').length === value", count)


def test_the_lobby_shows_what_is_served_and_who_is_where(visit: Visit) -> None:
    with serve("game.py") as server:
        first = visit(server)
        wait_for(first, "document.querySelector('#title').textContent === 'Meadow'")
        expect(first.locator("#sentence")).to_contain_text("bunny")
        expect(first.locator("#none")).to_be_visible()
        a, b = (visit(server, "/bunny/?room=pond") for _ in range(2))
        with RawClient.connect(server, "burrow"):
            wait_for_rooms(first, 2)
            wait_for(first, "document.querySelector('#summary').textContent.includes('3 players')")
            assert texts(first, "#rooms .name") == ["pond", "burrow"]
            assert texts(first, "#rooms .crowd") == ["2 players", "1 player"]
            expect(first.locator("#none")).to_be_hidden()
        for page in (a, b):
            page.close()
        wait_for_rooms(first, 0)


def test_the_lobby_does_not_say_again_and_again_that_it_is_live(visit: Visit) -> None:
    """With each look at the rooms a screen reader was given the word anew."""
    with serve(*SITE, "cat") as server:
        page = visit(server)
        expect(page.locator("#state")).to_have_text("Live")
        note(page.locator("#state"))
        looks = "performance.getEntriesByType('resource').filter(({ name }) => /rooms/.test(name))"
        before = page.evaluate(f"{looks}.length")
        wait_for(page, f"{looks}.length > value + 2", before)
        assert page.evaluate("noted") == []


def test_a_click_on_a_room_joins_it(visit: Visit) -> None:
    with serve("game.py") as server:
        a, b = visit(server, "/bunny/?room=pond"), visit(server)
        wait_for_rooms(b, 1)
        b.locator("#rooms a").click()
        wait_for(b, "window.game?.me !== null && document.body.dataset.players === '2'")
        wait_for(a, "document.body.dataset.players === '2'")
        b.get_by_role("link", name="All rooms").click()
        b.get_by_role("heading", name="Open a room").wait_for()
        wait_for(a, "document.body.dataset.players === '1'")


def test_a_room_has_a_name_before_one_thinks_of_any(visit: Visit) -> None:
    with serve("game.py") as server:
        page = visit(server)
        wait_for(page, "document.querySelector('#title').textContent === 'Meadow'")
        field = page.get_by_label("Name of the room")
        suggested = field.input_value()
        assert re.fullmatch(r"[a-z]+-[a-z]+", suggested)
        page.get_by_role("button", name="Another name").click()
        assert field.input_value() != suggested or page.locator("#suggest").click() is None
        name = field.input_value()
        expect(page.locator("#link")).to_have_text(server.http(f"/bunny/?room={name}"))
        field.press("Enter")
        page.wait_for_url(server.http(f"/bunny/?room={name}"))
        wait_for(page, "game.me !== null")


def test_a_room_that_is_typed_before_the_lobby_is_all_there_is_kept(visit: Visit) -> None:
    """Where the network is slow, the script put another name over it."""
    with serve("game.py") as server:
        page = visit(server, "/health")
        let_go = hold(page, "**/lobby/lobby.js")
        page.goto(server.http("/"), wait_until="commit")
        page.fill("#room", "den")
        let_go()
        wait_for(page, "document.querySelector('#title').textContent === 'Meadow'")
        assert page.input_value("#room") == "den"
        expect(page.locator("#link")).to_have_text(server.http("/bunny/?room=den"))


def test_who_enters_a_room_before_it_is_known_what_is_served_comes_to_its_page(
    visit: Visit,
) -> None:
    """It was the meadow's; the link to copy, and its code for phones, led there, too."""
    with serve("chat") as server:
        page = visit(server, "/health")
        let_go = hold(page, "**/api/")
        page.goto(server.http("/"))
        page.fill("#room", "den")
        link = server.http("/?room=den")
        expect(page.locator("#link")).to_have_text(link)
        page.press("#room", "Enter")
        page.wait_for_url(link)
        let_go()
        page.wait_for_url(server.http("/chat/?room=den"))


def test_the_link_to_share_contains_the_room(visit: Visit) -> None:
    with serve("game.py") as server:
        page = visit(server)
        wait_for(page, "document.querySelector('#title').textContent === 'Meadow'")
        page.get_by_label("Name of the room").fill("two words & more")
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
        link = server.http("/bunny/?room=two+words+%26+more")
        assert page.evaluate("copied") == link
        friend = visit(server, link.removeprefix(server.http("/")))
        wait_for(friend, "window.game?.room === 'two words & more' && game.me !== null")


@pytest.mark.parametrize(
    ("room", "words"), [("api", "taken by the server"), ("a/b", "no slash"), ("", "needs a name")]
)
def test_the_lobby_refuses_a_name_that_no_room_can_have(
    visit: Visit, room: str, words: str
) -> None:
    with serve("game.py") as server:
        page = visit(server)
        page.get_by_label("Name of the room").fill(room)
        page.get_by_role("button", name="Enter").click()
        expect(page.locator("#problem")).to_contain_text(words)
        assert page.url == server.http("/")
        expect(page.get_by_role("button", name="Copy link")).to_be_disabled()


def test_what_is_wrong_with_a_name_touches_neither_field_nor_button(visit: Visit) -> None:
    with serve("game.py") as server:
        for size in (DESKTOP, PHONE):
            page = visit(server, viewport=size)
            page.get_by_label("Name of the room").fill("a/b")
            boxes = [page.locator(part).bounding_box() for part in ("#room", "#problem", ".enter")]
            field, problem, button = [box for box in boxes if box]
            assert problem["y"] - (field["y"] + field["height"]) >= 3
            assert button["y"] - (problem["y"] + problem["height"]) >= 3


def test_a_link_with_a_room_leads_on_to_the_game(visit: Visit) -> None:
    with serve("game.py") as server:
        page = visit(server, "/?room=old+pond")
        page.wait_for_url(server.http("/bunny/?room=old+pond"))
        wait_for(page, "window.game?.room === 'old pond' && game.me !== null")
        lost = visit(server, "/?room=a%2Fb")
        wait_for(lost, "document.querySelector('#title').textContent === 'Meadow'")
        expect(lost.locator("#problem")).to_contain_text("no slash")


def test_names_of_rooms_are_shown_as_text(visit: Visit) -> None:
    with serve("game.py") as server, RawClient.connect(server, "%3Cimg%20src=x%3E"):
        page = visit(server)
        wait_for_rooms(page, 1)
        assert texts(page, "#rooms .name") == ["<img src=x>"]
        expect(page.locator("#rooms img")).to_have_count(0)
        page.get_by_label("Name of the room").fill(MARKUP)
        expect(page.locator("#link img")).to_have_count(0)
        page.locator("#rooms a").click()
        wait_for(page, "window.game?.room === '<img src=x>'")


@pytest.mark.parametrize(
    ("arguments", "folder", "title"),
    [
        (["cat"], "chat", "Chat"),
        (["--pty", "cat"], "terminal", "Terminal"),
        (["tr", "--", "a", "b"], "talk", "tr"),
    ],
)
def test_each_program_has_its_page(
    visit: Visit, arguments: list[str], folder: str, title: str
) -> None:
    with serve(*SITE, *arguments) as server:
        page = visit(server, "/?room=here")
        page.wait_for_url(server.http(f"/{folder}/?room=here"))
        wait_for(page, "document.body.dataset.status === 'connected'")
        lobby = visit(server)
        wait_for(lobby, "document.querySelector('#title').textContent === value", title)
        wait_for_rooms(lobby, 1)
        assert texts(lobby, "#rooms .crowd") == ["1 person"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"connections": 3, "metadata": None}, "3 players"),
        ({"connections": 3, "metadata": {"players": 2}}, "2 players, 1 watching"),
        ({"connections": 1, "metadata": {"players": 0, "spectators": 1}}, "1 watching"),
        ({"connections": 1, "metadata": {"players": "<b>"}}, "1 player"),
        ({"connections": 2, "metadata": [1]}, "2 players"),
        ({"connections": 0, "metadata": None}, "empty"),
    ],
)
def test_a_game_may_say_who_plays_and_who_watches(
    visit: Visit, facts: dict[str, object], words: str
) -> None:
    with serve("game.py") as server:
        page = visit(server)
        script = """async (facts) =>
            (await import("/lobby/catalogue.js")).describeCrowd(facts)"""
        assert page.evaluate(script, facts) == words


def test_a_server_with_no_list_of_rooms_explains_itself(visit: Visit) -> None:
    with serve("--staticdir", str(PAGES), "cat") as server:
        page = visit(server)
        page.get_by_text("This server was started without --api").wait_for()
        page.get_by_label("What is served here").select_option("Chat")
        expect(page.locator("#title")).to_have_text("Chat")
        page.get_by_label("Name of the room").fill("attic")
        page.get_by_role("button", name="Enter").click()
        page.wait_for_url(server.http("/chat/?room=attic"))
        wait_for(page, "document.body.dataset.status === 'connected'")


def test_who_comes_back_to_the_lobby_finds_the_name_of_the_room_there(visit: Visit) -> None:
    """Another was suggested, and so the link to copy led a friend into an empty room."""
    with serve("game.py") as server:
        page = visit(server)
        page.fill("#room", "den")
        page.press("#room", "Enter")
        page.wait_for_url("**/bunny/?room=den")
        page.go_back()
        wait_for(page, "document.querySelector('#link').textContent.endsWith('?room=den')")
        assert page.input_value("#room") == "den"


def test_the_lobby_says_when_the_server_is_gone_and_comes_back(visit: Visit) -> None:
    with serve("game.py", addr=f"127.0.0.1:{free_port()}") as server:
        page = visit(server)
        wait_for(page, "document.querySelector('#state').textContent === 'Live'")
    page.get_by_text("The server does not answer.").wait_for()
    wait_for(
        page,
        """/^Next try in \\d+ s\\.$/.test(document.querySelector("#countdown").textContent)
        && document.querySelector("#state").textContent === "Offline" """,
    )
    with serve(*SITE, "cat", addr=f"127.0.0.1:{server.port}"):
        page.get_by_role("button", name="Try now").click()
        wait_for(page, "document.querySelector('#title').textContent === 'Chat'")
        page.get_by_text("The server does not answer.").wait_for(state="hidden")
        expect(page.locator("#state")).to_have_text("Live")


@pytest.mark.parametrize("page_name", ["snake", "tictactoe", "sandbox", "chat", "terminal"])
def test_a_page_of_something_else_says_what_the_server_runs(visit: Visit, page_name: str) -> None:
    """It was "Connected", and empty, for ever; of the sandbox, "cannot be reached"."""
    with serve("game.py") as server:
        page = visit(server, f"/{page_name}/?room=old+pond")
        page.get_by_text("This server runs Meadow").wait_for()
        expect(page.locator("#join:visible, #compose:visible")).to_have_count(0)
        page.get_by_role("link", name="Go to Meadow").click()
        page.wait_for_url(server.http("/bunny/?room=old+pond"))
        wait_for(page, "window.game?.room === 'old pond' && game.me !== null")
        expect(page.locator(".elsewhere")).to_have_count(0)


def test_a_program_that_nobody_knows_may_speak_the_language_of_a_page(
    visit: Visit, tmp_path: Path
) -> None:
    silent, meadow = tmp_path / "silent.py", tmp_path / "mine.py"
    silent.write_text("import sys\nfor line in sys.stdin:\n    pass\n")
    source = (ROOT / "game" / "game.py").read_text(encoding="utf-8")
    meadow.write_text(source.replace("../client/web", str(PAGES)))
    with serve(*SITE, "--json", str(silent)) as server:
        page = visit(server, "/bunny/?room=pond")
        page.get_by_text("This server runs silent").wait_for()
        page.get_by_role("link", name="Go to silent").click()
        page.wait_for_url(server.http("/talk/?room=pond"))
        wait_for(page, "document.body.dataset.status === 'connected'")
    with serve(str(meadow)) as server:
        page = visit(server, "/bunny/?room=pond")
        wait_for(page, "window.game?.me !== null")
        page.evaluate("window.since = performance.now()")
        wait_for(page, "performance.now() - since > 3000")
        expect(page.locator(".elsewhere")).to_have_count(0)


# Connections that open and end by the test's hand.
BY_HAND = """
    window.opened = [];
    window.WebSocket = class {
        static OPEN = 1;
        readyState = 1;
        constructor() { opened.push(this); }
        close() {}
    };
"""


def test_a_page_is_not_given_up_before_it_could_hear_anything(visit: Visit, tmp_path: Path) -> None:
    """Over a slow network, or before a full room, it ended its attempts and led elsewhere."""
    (tmp_path / "mine.py").write_text("for line in open(0):\n    pass\n")
    with serve(*SITE, "--json", str(tmp_path / "mine.py")) as server:
        page = visit(server, "/health")
        page.clock.install()
        page.add_init_script(BY_HAND)
        page.goto(server.http("/tictactoe/?room=pond"))
        wait_for(page, "opened.length === 1")
        asked = 'import("/shared/share.js").then((share) => share.askWhatIsServed())'
        assert page.evaluate(asked)["target"] == "mine"
        page.clock.fast_forward(60_000)
        page.evaluate("opened[0].onopen(), opened[0].onclose({ code: 1013, reason: 'full' })")
        page.clock.fast_forward(1_000)
        wait_for(page, "opened.length === 2")
        page.clock.fast_forward(60_000)
        expect(page.locator(".elsewhere")).to_have_count(0)
        page.evaluate("opened[1].onopen()")
        page.clock.fast_forward(10_000)
        expect(page.locator(".elsewhere")).to_contain_text("This server runs mine")


def test_a_page_that_is_refused_does_not_say_that_nobody_is_there(visit: Visit) -> None:
    with serve("--staticdir", str(PAGES), "cat") as server:  # without --api nobody can tell
        page = visit(server, "/sandbox/?room=den")
        page.get_by_text("the server is there, but it refuses this page or this room").wait_for()


def readme_page(folder: Path) -> tuple[str, str]:
    """Write the program and the page of client/README.md; return their paths."""
    text = (ROOT / "client" / "README.md").read_text(encoding="utf-8")
    program = re.search(r"^```python dice\.py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    page = re.search(r"^```html\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert program and page
    (folder / "dice.py").write_text(program[1])
    (folder / "pages").mkdir()
    (folder / "pages" / "index.html").write_text(page[1])
    return str(folder / "dice.py"), str(folder / "pages")


def test_a_page_of_ones_own_includes_the_connection_by_one_line(
    visit: Visit, tmp_path: Path
) -> None:
    program, pages = readme_page(tmp_path)
    options = ("--json", "--staticdir", pages, program)
    with serve(*options, addr=f"127.0.0.1:{free_port()}") as server:
        ann = visit(server, "/?room=den&name=Ann")
        bob = visit(server, "/?room=den&name=Bob")
        for page in (ann, bob):
            wait_for(page, "state.textContent.trim() === 'connected'")
        ann.get_by_role("button", name="Roll").click()
        wait_for(bob, "/^Ann: [1-6]$/.test(rolls.textContent)")
        wait_for(bob, "/^Dice, \\d+ ms$/.test(document.title)")
    wait_for(bob, "state.textContent.startsWith('waiting ')")
    with serve(*options, addr=f"127.0.0.1:{server.port}"):
        for page in (ann, bob):
            wait_for(page, "state.textContent.startsWith('connected')")
        bob.get_by_role("button", name="Roll").click()
        wait_for(ann, "/Bob: [1-6]$/.test(rolls.textContent)")
        for page in (ann, bob):
            page.close()


# ==== 2. The chat ==========================================================


@pytest.fixture
def chat_server() -> Iterator[ServerProcess]:
    with serve(*SITE, "--cache", "100", "cat") as server:
        yield server


def enter_chat(visit: Visit, server: ServerProcess, name: str = "", **options: Any) -> Page:
    page = visit(server, "/chat/?room=attic", **options)
    wait_for(page, "document.body.dataset.status === 'connected'")
    if name:
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Join in").click()
    return page


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def wait_for_said(page: Page, count: int) -> None:
    """Wait until so many messages are there, and nothing is on its way any more."""
    wait_for(
        page,
        """document.querySelectorAll('.bubble').length === value
            && ![...document.querySelectorAll('.state')].some(({ textContent }) => textContent)""",
        count,
    )


def test_two_people_talk(visit: Visit, chat_server: ServerProcess) -> None:
    ada, grace = (enter_chat(visit, chat_server, name) for name in ("Ada", "Grace"))
    say(ada, "Hello!")
    wait_for_said(grace, 1)
    say(grace, "Hello, Ada.\nHow are you?")
    wait_for_said(ada, 2)
    for page, mine in ((ada, ["Hello!"]), (grace, ["Hello, Ada.\nHow are you?"])):
        assert texts(page, ".bubble") == ["Hello!", "Hello, Ada.\nHow are you?"]
        assert texts(page, ".mine .bubble") == mine
    assert texts(grace, "li.chat:not(.mine) .author") == ["Ada"]
    expect(grace.locator("time").first).to_have_text(re.compile(r"\d:\d\d"))
    own = grace.locator(".mine .bubble").bounding_box()
    other = grace.locator("li.chat:not(.mine) .bubble").bounding_box()
    assert own and other and own["x"] > other["x"] + other["width"]


def test_who_comes_later_reads_what_was_said(visit: Visit, chat_server: ServerProcess) -> None:
    ada = enter_chat(visit, chat_server, "Ada")
    for i in range(3):
        say(ada, f"number {i}")
    wait_for_said(ada, 3)
    late = enter_chat(visit, chat_server)
    wait_for_said(late, 3)
    assert texts(late, ".bubble") == ["number 0", "number 1", "number 2"]
    assert texts(late, ".author")[0] == "Ada"


def test_after_a_reload_one_is_the_same_person(visit: Visit, chat_server: ServerProcess) -> None:
    with RawClient.connect(chat_server, "attic"):  # keeps the room while nobody else is there
        ada = enter_chat(visit, chat_server, "Ada")
        say(ada, "mine")
        wait_for_said(ada, 1)
        ada.reload()
        wait_for_said(ada, 1)
        assert texts(ada, ".mine .bubble") == ["mine"]
        expect(ada.locator("#me")).to_have_text("Ada")


def test_what_strangers_send_is_text(visit: Visit, chat_server: ServerProcess) -> None:
    with RawClient.connect(chat_server, "attic") as stranger:
        page = enter_chat(visit, chat_server)
        foreign = [
            "plain words",
            "[1,2",
            MARKUP,
            '{"t":"chat","text":7}',
            "null",
            '{"t":"__proto__"}',
        ]
        for line in foreign:
            stranger.send_text(line)
        stranger.send_text('{"t":"chat","name":"<b>x</b>","text":"<i>y</i>","at":"never","id":{}}')
        wait_for_said(page, 7)
        assert texts(page, ".line .bubble") == foreign
        assert texts(page, ".author") == ["<b>x</b>"]
        assert texts(page, "li.chat .bubble") == ["<i>y</i>"]
        expect(page.locator("#messages :is(b, i, img)")).to_have_count(0)
        assert page.title() != "gotcha"


def test_only_web_addresses_become_links(visit: Visit, chat_server: ServerProcess) -> None:
    ada = enter_chat(visit, chat_server, "Ada")
    say(ada, 'see https://example.com/a?b=c, or javascript:alert(1) or http://x"onclick=y')
    wait_for_said(ada, 1)
    links = ada.locator(".bubble a")
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://example.com/a?b=c",
        "http://x",
    ]
    assert "noopener" in (links.first.get_attribute("rel") or "")


def test_who_reads_further_up_is_left_there_and_told_of_news(
    visit: Visit, chat_server: ServerProcess
) -> None:
    ada, grace = (enter_chat(visit, chat_server, name) for name in ("Ada", "Grace"))
    for i in range(30):
        say(grace, f"line {i}")
    wait_for_said(ada, 30)
    bottom = "log.scrollHeight - log.scrollTop - log.clientHeight < 5"
    wait_for(ada, f"(log => {bottom})(document.querySelector('#log'))")
    ada.evaluate("document.querySelector('#log').scrollTop = 0")
    ada.get_by_role("button", name="Latest").wait_for()
    say(grace, "news")
    jump = ada.get_by_role("button", name="1 new message")
    jump.wait_for()
    assert ada.evaluate("document.querySelector('#log').scrollTop") == 0
    assert ada.title() == "(1) attic · Chat"
    expect(ada.locator(".unread + li .bubble")).to_have_text("news")
    jump.click()
    wait_for(ada, "document.title === 'attic · Chat'")
    wait_for(ada, f"(log => {bottom})(document.querySelector('#log'))")
    expect(jump).to_be_hidden()


def test_messages_that_come_together_are_laid_out_together(
    visit: Visit, chat_server: ServerProcess
) -> None:
    """For each message all were laid out: where much was said the page stood still."""
    page = visit(chat_server, "/chat/?room=attic")
    looks = page.evaluate(
        """async () => {
            const { Log } = await import("./log.js");
            const [root, list] = [document.querySelector("#log"), messages];
            list.replaceChildren();
            const there = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
            let looks = 0;
            const get = () => (looks++, there.get.call(root));
            Object.defineProperty(root, "scrollHeight", { get });
            window.log = new Log({ root, list, jump });
            window.hear = (text, id = "") =>
                ({ kind: "chat", name: "Ada", text, at: Date.now(), id });
            log.addPending(hear("mine", "1"));
            looks = 0;
            for (let i = 0; i < 1200; i++) log.add(hear(`line ${i}`));
            return looks;
        }"""
    )
    assert looks == 0
    wait_for(page, "messages.children.length === 1000")
    assert texts(page, ".bubble")[-2:] == ["line 1199", "mine"]
    page.evaluate("log.confirm(hear('mine', '1')), log.add(hear('later'))")
    wait_for(page, "messages.lastElementChild.textContent.includes('later')")
    assert texts(page, ".bubble")[-3:] == ["line 1199", "mine", "later"]
    end = "(log) => log.scrollHeight - log.scrollTop - log.clientHeight"
    assert page.locator("#log").evaluate(end) < 40


def test_ones_own_words_are_put_on_the_page_once(visit: Visit, chat_server: ServerProcess) -> None:
    """They were moved when the room had heard them, and a screen reader read them out twice."""
    ada = enter_chat(visit, chat_server, "Ada")
    ada.evaluate(
        """() => {
            window.added = [];
            const note = (changes) => changes.forEach(({ addedNodes }) =>
                added.push(...[...addedNodes].map((item) => item.textContent)));
            new MutationObserver(note).observe(messages, { childList: true });
        }"""
    )
    for number in range(3):
        say(ada, f"word {number}")
        wait_for_said(ada, number + 1)
    wait_for(ada, "document.querySelectorAll('[data-state=done]').length === 3")
    added = ada.evaluate("added")
    assert [sum(f"word {i}" in text for text in added) for i in range(3)] == [1] * 3
    assert texts(ada, ".bubble") == ["word 0", "word 1", "word 2"]


def test_what_is_said_while_the_server_is_away_is_kept_and_sent_once(visit: Visit) -> None:
    address = f"127.0.0.1:{free_port()}"
    with serve(*SITE, "--cache", "100", "cat", addr=address) as server:
        ada, grace = (enter_chat(visit, server, name) for name in ("Ada", "Grace"))
        say(ada, "before")
        wait_for_said(grace, 1)
        with RawClient.connect(server, "attic") as stranger:
            stranger.send_text("a line")
            wait_for_said(ada, 2)
    wait_for(ada, "document.body.dataset.status === 'waiting'")
    ada.get_by_label("Message", exact=True).fill("half a sen")
    say(ada, "into the void")
    ada.get_by_label("Message", exact=True).fill("half a sentence")
    ada.get_by_text("Not sent yet.").wait_for()
    expect(ada.locator("[data-state=waiting] .bubble")).to_have_text("into the void")
    with serve(*SITE, "--cache", "100", "cat", addr=address):
        for page in (ada, grace):
            page.evaluate("document.querySelector('#retry').click()")
            wait_for_said(page, 3)
            assert texts(page, ".bubble") == ["before", "a line", "into the void"]
        assert ada.get_by_label("Message", exact=True).input_value() == "half a sentence"
        expect(ada.get_by_text("Not sent yet.")).to_be_hidden()
        for page in (ada, grace):
            page.close()


def test_after_a_short_loss_nothing_is_shown_twice(
    visit: Visit, chat_server: ServerProcess
) -> None:
    with RawClient.connect(chat_server, "attic") as stranger:
        ada = enter_chat(visit, chat_server, "Ada")
        for line in ("same", "same", "other"):
            stranger.send_text(line)
        say(ada, "mine")
        wait_for_said(ada, 4)
        ada.evaluate(  # what a lost network looks like to the page
            """() => new Promise((lost) => {
                const { body } = document;
                const look = () => body.dataset.status === "waiting" && lost();
                new MutationObserver(look).observe(body, { attributeFilter: ["data-status"] });
                const { send } = WebSocket.prototype;
                WebSocket.prototype.send = function () { this.close(); };
                document.querySelector("#text").value = "interrupted";
                document.querySelector("#compose").requestSubmit();
                WebSocket.prototype.send = send;
            })"""
        )
        stranger.send_text("same")
        ada.evaluate("document.querySelector('#retry').click()")
        wait_for_said(ada, 6)
        said = texts(ada, ".bubble")
        assert sorted(said) == ["interrupted", "mine", "other", "same", "same", "same"]
        assert said.index("mine") < said.index("interrupted")


@pytest.mark.parametrize("name", ["\u3164", "\u2800 \u115f", "\u200b\ufe0f", "\u0301"])
def test_nobody_in_a_chat_has_a_name_that_cannot_be_seen(
    visit: Visit, chat_server: ServerProcess, name: str
) -> None:
    page = visit(chat_server, "/chat/?room=attic")
    shown = page.evaluate(
        """async (name) => {
            const { read } = await import("./messages.js");
            return read(JSON.stringify({ t: "chat", name, text: "hi" })).name;
        }""",
        name,
    )
    assert shown == "Somebody"


SOCKETS = """
window.sockets = [];
window.WebSocket = class { constructor() { sockets.push(this); } send() {} close() {} };
window.hear = (text) => sockets.at(-1).onmessage({ data: text });
"""


@pytest.fixture
def cut_off(visit: Visit, chat_server: ServerProcess) -> Iterator[Page]:
    """A chat that has come back, having shown three lines and what Ada has said; time stands."""
    page = visit(chat_server, "/chat/?room=attic")
    page.add_init_script(SOCKETS)
    page.clock.install()
    page.reload()
    for number in (1, 2):
        wait_for(page, "sockets.length === value", number)
        page.evaluate("sockets.at(-1).onopen()")
        if number == 1:
            page.evaluate("value => value.forEach(hear)", ["a", "b", ADA, "c", "same", "same"])
            page.clock.run_for(5_000)
            assert texts(page, ".bubble") == ["a", "b", "hi", "c", "same", "same"]
            page.evaluate("sockets.at(-1).onclose({ code: 1006, reason: '' })")
            page.evaluate("document.querySelector('#retry').click()")
    yield page


ADA = json.dumps({"t": "chat", "name": "Ada", "text": "hi", "at": 1, "id": "x"})


def test_a_history_that_takes_long_to_come_is_not_shown_twice(cut_off: Page) -> None:
    """Lines without an ID that came over 1.5 s after the connection did were shown once more."""
    for text in ["a", "b", ADA, "c", "same"]:
        cut_off.clock.run_for(1_400)
        cut_off.evaluate("hear", text)
    cut_off.clock.run_for(1_600)  # nothing more is repeated
    cut_off.evaluate("value => value.forEach(hear)", ["same", "a"])
    cut_off.clock.run_for(100)
    assert texts(cut_off, ".bubble")[6:] == ["same", "a"]


def test_a_line_that_a_program_says_all_the_time_is_no_history(cut_off: Page) -> None:
    cut_off.evaluate("hear('same')")
    cut_off.clock.run_for(1_400)
    cut_off.evaluate("hear('same')")
    cut_off.clock.run_for(200)
    cut_off.evaluate("value => value.forEach(hear)", ["same", "c"])
    cut_off.clock.run_for(100)
    assert texts(cut_off, ".bubble")[6:] == ["same", "c"]


def test_what_is_said_after_a_seat_was_taken_back_is_no_history(
    visit: Visit, chat_server: ServerProcess
) -> None:
    """A loss in the moment in which the server may repeat itself made that moment last for ever."""
    page = visit(chat_server, "/chat/?room=attic")
    page.add_init_script(SOCKETS)
    page.route("**/lobby/about.json", lambda route: route.fulfill(json={"resume": 30}))
    page.clock.install()
    page.reload()
    for number, goes_on in enumerate([False, False, True], 1):
        wait_for(page, "sockets.length === value", number)
        page.evaluate("sockets.at(-1).onopen()")
        seat = {"token": "t", "id": 1, "taken": 0, "seen": 1, "resumed": goes_on}
        page.evaluate("hear", json.dumps({"_seat": seat}))
        wait_for(page, "document.body.dataset.status === 'connected'")
        if number == 1:
            page.evaluate("hear('a')")
            page.clock.run_for(5_000)
        if number < 3:
            page.evaluate("sockets.at(-1).onclose({ code: 1006, reason: '' })")
            page.evaluate("document.querySelector('#retry').click()")
    page.clock.run_for(5_000)
    page.evaluate("hear('a')")
    page.clock.run_for(100)
    assert texts(page, ".bubble") == ["a", "a"]


def test_a_chat_forgets_what_no_server_repeats_any_more(
    visit: Visit, chat_server: ServerProcess
) -> None:
    """The IDs and texts of all that was ever shown were kept, for weeks."""
    page = visit(chat_server, "/chat/?room=attic")
    known = page.evaluate(
        """async () => {
            const { Memory } = await import("./messages.js");
            const memory = new Memory({ repeats() {} });
            const said = (n) => [{ id: `${n}`, text: "" }, { id: "", kind: "line", text: `${n}` }];
            const knows = (n) => said(n).map((message) => memory.knows(message));
            const shown = 100_001;
            for (let n = 0; n < shown; n += 1) knows(n);
            memory.expectRepeats();
            const again = [];
            for (let n = shown - 50_000; n < shown; n += 1) again.push(...knows(n));
            return [...knows(0), again.filter(Boolean).length];
        }"""
    )
    assert known == [False, False, 100_000]


def test_ones_own_words_come_once_also_if_they_come_late_or_again(
    visit: Visit, tmp_path: Path
) -> None:
    """They are heard, or given up for heard, before the room says them once more."""
    program = "import sys\nfor line in sys.stdin:\n    print(line * 2, end='', flush=True)\n"
    (tmp_path / "twice.py").write_text(program)
    with serve(*SITE, "twice.py", cwd=tmp_path) as server:
        ada = enter_chat(visit, server, "Ada")
        ada.get_by_label("plain text").wait_for()
        ada.get_by_label("plain text").uncheck()
        say(ada, "one")
        say(ada, "two")
        wait_for_said(ada, 2)
        with RawClient.connect(server, "attic") as stranger:
            stranger.send_text("end")
            wait_for(ada, "[...document.querySelectorAll('.bubble')].at(-1).textContent === 'end'")
        assert [text for text in texts(ada, ".bubble") if text != "end"] == ["one", "two"]


def test_with_json_framing_the_server_vouches_for_the_sender(visit: Visit) -> None:
    with serve(*SITE, "--json", "cat") as server:
        ada = enter_chat(visit, server, "Ada")
        eve = enter_chat(visit, server, "Ada")  # says that she is Ada, but has another number
        ada.get_by_text("#2 came in").wait_for()
        say(eve, "trust me")
        wait_for_said(ada, 1)
        assert texts(ada, ".author") == ["Ada #2"]
        eve.close()
        ada.get_by_text("#2 left").wait_for()


def test_a_program_that_reads_lines_gets_lines(visit: Visit, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(
        'from sys import stdin\nfor line in stdin:\n    print(f"hello {line}", end="")\n'
    )
    with serve(*SITE, str(script)) as server:
        page = enter_chat(visit, server, "Ada")
        page.get_by_label("plain text").wait_for()
        expect(page.locator("h1")).to_have_text("example")
        say(page, "world")
        wait_for_said(page, 2)
        assert texts(page, ".bubble") == ["world", "hello world"]
        page.wait_for_timeout(4_000)  # the time after which a page that fits nothing says so
        expect(page.locator(".elsewhere")).to_have_count(0)
        say(page, "again")
        wait_for_said(page, 4)


def test_of_a_long_text_that_is_pasted_into_a_chat_nothing_is_lost(
    visit: Visit, chat_server: ServerProcess
) -> None:
    """What was beyond 8000 characters was cut off, and nobody was told."""
    page = enter_chat(visit, chat_server, "Ann")
    field = page.get_by_label("Message", exact=True)
    field.focus()
    pasted = "x" * 9_999 + "!"
    field.evaluate("(field, text) => document.execCommand('insertText', false, text)", pasted)
    field.press("Enter")
    problem = page.get_by_text("Too long: 10000 characters; 8000 are the most.")
    problem.wait_for()
    assert field.input_value() == pasted
    field.fill("short")
    assert problem.count() == 0
    field.press("Enter")
    wait_for_said(page, 1)
    assert texts(page, ".bubble") == ["short"]


def test_enter_sends_and_shift_enter_does_not(visit: Visit, chat_server: ServerProcess) -> None:
    page = enter_chat(visit, chat_server, "Ada")
    field = page.get_by_label("Message", exact=True)
    field.press_sequentially("one")
    field.press("Shift+Enter")
    field.press_sequentially("two")
    field.press("Enter")
    wait_for_said(page, 1)
    assert texts(page, ".bubble") == ["one\ntwo"]
    assert field.input_value() == ""
    field.press("Enter")  # nothing to say
    say(page, "🐢")
    wait_for_said(page, 2)
    expect(page.locator(".jumbo")).to_have_text("🐢")


@pytest.mark.parametrize("key", ["Enter", "a line break alone"])
def test_enter_on_a_phone_sends_as_its_key_says(
    visit: Visit, chat_server: ServerProcess, key: str
) -> None:
    page = enter_chat(visit, chat_server, "Ada", **TOUCH)
    field = page.get_by_label("Message", exact=True)
    assert field.get_attribute("enterkeyhint") == "send"
    field.press_sequentially("on my way")
    if key == "Enter":
        field.press("Enter")
    else:  # some keyboards say so of every key: they are composing, or have no code for it
        event = "new InputEvent('beforeinput', {inputType: 'insertLineBreak', cancelable: true})"
        assert field.evaluate(f"field => field.dispatchEvent({event})") is False
    wait_for_said(page, 1)
    assert texts(page, ".bubble") == ["on my way"]
    assert field.input_value() == ""


# ==== 3. The terminal ======================================================


@pytest.fixture
def shell_server() -> Iterator[ServerProcess]:
    with serve(*SITE, *SHELL, env={"PS1": "$ ", "LANG": "C.UTF-8"}) as server:
        yield server


def enter_terminal(visit: Visit, server: ServerProcess, **options: Any) -> Page:
    page = visit(server, "/terminal/?room=desk", **options)
    wait_for(page, "window.vt?.text.includes('$')")
    wait_for(page, "!/^80 × 24$/.test(document.querySelector('#size').textContent)")
    return page


def enter(page: Page, command: str) -> None:
    page.keyboard.type(command)
    page.keyboard.press("Enter")


def sleep_in(page: Page, server: ServerProcess) -> None:
    """Run `sleep` in a shell; a Ctrl-C before it runs may be the shell's.

    What is above it is drawn, and stays as it is: a selection there is lost by nothing.
    """
    enter(page, "echo begun; sleep 100")
    wait_until(lambda: any(process.command == "sleep" for process in server.survivors()))
    wait_for_screen(page, "^begun$")
    page.evaluate(
        "new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
    )


def wait_for_screen(page: Page, pattern: str) -> None:
    wait_for(page, "new RegExp(value, 'm').test(vt.text)", pattern)


def read_poem(page: Page, folder: Path) -> None:
    """Read 300 lines with `less`."""
    text = folder / "poem"
    text.write_text("".join(f"line {i}\n" for i in range(1, 301)))
    enter(page, f"less {text}")
    wait_for_screen(page, "^line 20$")


def test_two_people_share_one_terminal(visit: Visit, shell_server: ServerProcess) -> None:
    a, b = (enter_terminal(visit, shell_server) for _ in range(2))
    enter(a, "echo $((6*7)) żółw")
    wait_for_screen(b, "^42 żółw$")
    enter(b, "printf '\\e[1;38;5;208morange\\e[0m\\n'")
    wait_for_screen(a, "^orange$")
    drawn = a.locator("#grid span", has_text=re.compile("^orange$"))
    drawn.wait_for()
    assert drawn.evaluate("({ style, className }) => [style.color, className]") == [
        "rgb(255, 135, 0)",
        "bold",
    ]


def test_keys_reach_the_program(visit: Visit, shell_server: ServerProcess) -> None:
    page = enter_terminal(visit, shell_server)
    enter(page, "echo first")
    wait_for_screen(page, "^first$")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    page.keyboard.type("  ")
    page.keyboard.press("End")
    page.keyboard.press("Backspace")
    enter(page, "T2")
    wait_for_screen(page, "^firsT2$")
    sleep_in(page, shell_server)
    page.keyboard.press("Control+c")
    enter(page, "echo again")
    wait_for_screen(page, "^again$")


def test_the_first_sets_the_size_and_a_button_changes_it(
    visit: Visit, shell_server: ServerProcess
) -> None:
    wide = enter_terminal(visit, shell_server)
    size = wide.evaluate("vt.size")
    assert size[0] > 100
    enter(wide, "stty size")
    wait_for_screen(wide, f"^{size[1]} {size[0]}$")
    narrow = enter_terminal(visit, shell_server, viewport={"width": 600, "height": 500})
    wait_for(narrow, "String(vt.size) === value", f"{size[0]},{size[1]}")
    assert sticking_out(narrow) == []
    fit = narrow.get_by_role("button", name="Fit")
    fit.click()
    wait_for(wide, "vt.size[0] < 80")
    wait_until(lambda: wide.evaluate("vt.size") == narrow.evaluate("vt.size"))
    narrow.set_viewport_size({"width": 560, "height": 400})  # whose size it is, follows
    wait_for(wide, "vt.size[0] < 60")
    enter(narrow, "clear; stty size")
    wait_for(wide, "vt.text.includes(`${vt.size[1]} ${vt.size[0]}`)")
    expect(wide.get_by_role("button", name="Fit")).to_be_enabled()


def test_who_comes_late_sees_the_program_that_runs(
    visit: Visit, shell_server: ServerProcess, tmp_path: Path
) -> None:
    page = enter_terminal(visit, shell_server)
    size = page.evaluate("vt.size")
    read_poem(page, tmp_path)
    page.keyboard.press("PageDown")
    wait_for(page, "!/^line 1$/m.test(vt.text)")
    late = visit(shell_server, "/terminal/?room=desk")
    wait_for(late, "/^line \\d+$/m.test(window.vt?.text)")
    # A passing size made less draw; while it learns of the lasting one, it loses a key.

    def is_whole() -> bool:
        texts = [each.evaluate("vt.text").rstrip() for each in (page, late)]
        if any(len(text.split("\n")) != size[1] for text in texts):
            page.keyboard.press("r")  # it draws all anew
            return False
        return True

    wait_until(is_whole)
    shown = "[vt.size, vt.text]"
    wait_until(lambda: late.evaluate(shown) == [size, page.evaluate("vt.text")])
    late.keyboard.type("q")
    wait_for_screen(page, r"^\$ less ")  # the screen is again what it was
    enter(page, "echo out")
    wait_for_screen(late, "^out$")


def test_who_learns_of_the_size_late_sees_the_program_that_runs(
    visit: Visit, shell_server: ServerProcess, tmp_path: Path
) -> None:
    """On a busy machine a page took itself for the first: with the same window it stayed empty."""
    page = enter_terminal(visit, shell_server)
    read_poem(page, tmp_path)
    late = visit(shell_server, "/health")
    late.add_init_script(
        "const wait = setTimeout; setTimeout = (f, after) => wait(f, after === 300 ? 0 : after)"
    )
    late.goto(shell_server.http("/terminal/?room=desk"))
    wait_for_screen(late, "^line 20$")


def test_who_comes_late_to_a_shell_sees_what_was_on_the_screen(visit: Visit) -> None:
    """With the options that README names for a shared terminal; it was empty."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"`python3 scalesocket\.py (--staticdir .*) --pty bash`", readme)
    assert command
    options = command[1].replace("client/web", str(PAGES)).split()
    with serve(*options, *SHELL, env={"PS1": "$ ", "LANG": "C.UTF-8"}) as server:
        page = enter_terminal(visit, server)
        enter(page, "echo $((6*7)) was here")
        wait_for_screen(page, "^42 was here$")
        enter(page, r"printf '\e[6n'; read -rsd R a; echo asked ${#a}")
        wait_for_screen(page, r"^asked \d+$")
        enter(page, "printf '%090d\\n' 0")  # a page has 80 columns at first
        wait_for_screen(page, "^0{90}$")
        wait_for(page, "/\\$ *$/.test(vt.text.trimEnd())")
        before = page.evaluate("vt.text")
        late = visit(server, "/terminal/?room=desk")
        wait_for(late, "vt.text === value", before)
        enter(late, "echo out")
        # A shell that learns of a size as Enter comes draws its prompt once more, and what the
        # command prints goes over that: "outcho out".
        wait_for_screen(page, "^out")
        assert page.evaluate("vt.text").startswith(before.rstrip()), "nobody answers a second time"


def test_python_and_top_feel_at_home(visit: Visit, shell_server: ServerProcess) -> None:
    page = enter_terminal(visit, shell_server)
    enter(page, f"{sys.executable} -q")
    wait_for_screen(page, "^>>>")
    enter(page, "print('x' * 3)")
    wait_for_screen(page, "^xxx$")
    page.keyboard.press("Control+d")
    wait_for_screen(page, r"xxx\n>>> *\n?\$")
    enter(page, "top -d 1")
    wait_for_screen(page, r"PID\s+USER")
    page.locator("#grid span", has_text="COMMAND").first.wait_for()  # in reverse
    page.keyboard.press("q")
    wait_for_screen(page, r"^\$ *$")  # before that, top throws away what is typed
    enter(page, "echo back")
    wait_for_screen(page, "^back$")


def test_one_page_answers_for_all(visit: Visit, shell_server: ServerProcess) -> None:
    pages = [enter_terminal(visit, shell_server) for _ in range(3)]
    enter(pages[1], r"printf '\e[6n'; read -rsd R a; read -rsd R -t 1 b; echo ${#a} ${#b}.")
    wait_for_screen(pages[0], r"^\d+ \d+\.$")
    assert re.search(r"^[56] 0\.$", pages[0].evaluate("vt.text"), re.MULTILINE)


def paste(page: Page, text: str) -> None:
    page.evaluate(
        """(text) => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text", text);
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        text,
    )


def test_what_is_pasted_comes_in_brackets(visit: Visit, shell_server: ServerProcess) -> None:
    page = enter_terminal(visit, shell_server)
    paste(page, "echo pas\necho ted")
    wait_for_screen(page, "echo pas\necho ted$")  # shown as it stands, and not run yet
    page.keyboard.press("Enter")
    wait_for_screen(page, "^pas\nted$")


def test_what_is_pasted_may_be_longer_than_a_message(
    visit: Visit, shell_server: ServerProcess
) -> None:
    """A paste of more than --maxmsg closed the connection, and with it went the shell of whoever
    was alone in it (liftoff/GateOne#371, yudai/gotty#309)."""
    page = enter_terminal(visit, shell_server)
    enter(page, "stty -echo; echo rea''dy; cat | wc -c")
    wait_for_screen(page, "^ready$")
    paste(page, ("x" * 79 + "\n") * 20_000)
    page.keyboard.press("Control+d")
    wait_for_screen(page, "^1600000$")


def test_a_program_that_fails_is_not_started_again_by_itself(
    visit: Visit, shell_server: ServerProcess
) -> None:
    """A shell whose last command had failed was replaced by a new one, and what it had said was
    gone; a program that cannot run was started for ever (tsl0922/ttyd#50, #478)."""
    page = enter_terminal(visit, shell_server)
    enter(page, "exit 3")
    wait_for_screen(page, "^exit\n\nThe program has ended with status 3. Press Enter")
    assert page.evaluate("vt.state") == "closed"
    page.keyboard.press("Enter")
    wait_for(page, "vt.state === 'connected' && /^\\$/.test(vt.text)")
    enter(page, "kill -9 $$")
    wait_for_screen(page, "The program has ended with signal 9. Press Enter")


def test_a_program_that_has_ended_can_be_started_again(
    visit: Visit, shell_server: ServerProcess
) -> None:
    page = enter_terminal(visit, shell_server)
    enter(page, "exit")
    wait_for_screen(page, "The program has ended")
    page.keyboard.type("x")
    assert page.evaluate("vt.state") == "closed"
    page.keyboard.press("Enter")
    wait_for(page, "vt.state === 'connected' && /^\\$/.test(vt.text)")
    enter(page, "echo anew")
    wait_for_screen(page, "^anew$")


def test_the_terminal_scrolls_back_and_names_itself(
    visit: Visit, shell_server: ServerProcess
) -> None:
    page = enter_terminal(visit, shell_server)
    enter(page, r"seq 200; printf '\e]0;<b>title</b>\a'")
    wait_for(page, "document.title === '<b>title</b> · desk'")
    wait_for(page, "document.querySelectorAll('#history div').length > 100")
    assert texts(page, "#history div")[1] == "1"
    expect(page.locator("h1")).to_have_text("<b>title</b>")
    page.keyboard.press("Shift+PageUp")
    scroller = "document.querySelector('#scroller')"
    wait_for(
        page, f"{scroller}.scrollTop + {scroller}.clientHeight < {scroller}.scrollHeight - 100"
    )
    page.keyboard.type("x")  # whoever types wants to see it
    wait_for(page, f"{scroller}.scrollTop + {scroller}.clientHeight > {scroller}.scrollHeight - 2")


def test_a_program_that_floods_leaves_the_page_time_to_read_on(
    visit: Visit, shell_server: ServerProcess
) -> None:
    """`yes` drew 2,000 lines of history in each frame, so that a slow machine read nothing else
    for seconds; the server then gave it up as too slow, and the shell went with it (tsl0922/ttyd
    #1093)."""
    page = enter_terminal(visit, shell_server)
    enter(page, "same=shell")
    page.evaluate(
        """() => {
            window.drawn = 0;
            window.floodedAt = performance.now();
            const observer = new MutationObserver(() => (window.drawn += 1));
            observer.observe(document.querySelector("#history"), { childList: true });
        }"""
    )
    enter(page, "yes | head -c 3000000; echo still the $same")
    wait_for_screen(page, "^still the shell$")
    drawn, seconds = page.evaluate("[drawn, (performance.now() - floodedAt) / 1000]")
    assert drawn <= seconds + 5
    wait_for(page, "document.querySelectorAll('#history div').length > 1000")


def test_text_can_be_selected_and_copied(visit: Visit, shell_server: ServerProcess) -> None:
    page = enter_terminal(visit, shell_server)
    enter(page, "clear; seq 3")
    wait_for_screen(page, "^1\n2\n3\n")
    page.locator("#grid div", has_text=re.compile("^3$")).wait_for()
    selected = page.evaluate(
        """() => {
            const [first, , last] = document.querySelectorAll("#grid div");
            getSelection().setBaseAndExtent(first, 0, last, last.childNodes.length);
            return String(getSelection());
        }"""
    )
    assert selected == "1\n2\n3"


def test_a_line_that_was_too_long_for_the_screen_is_copied_as_one(
    visit: Visit, shell_server: ServerProcess
) -> None:
    """A long command or address that was copied had a line break in its middle
    (Eugeny/tabby#749, tmux/tmux#4995)."""
    page = enter_terminal(visit, shell_server)
    enter(page, "clear; printf 'x%.0s' $(seq 300); printf '\\n\\ntwo\\n'")
    wait_for_screen(page, "^two$")
    page.locator("#grid .continues").first.wait_for()
    copied = page.evaluate(
        """() => {
            const [first, , third, , fifth] = document.querySelectorAll("#grid div");
            getSelection().setBaseAndExtent(first, 0, fifth, fifth.childNodes.length);
            const clipboardData = new DataTransfer();
            document.dispatchEvent(new ClipboardEvent("copy", { clipboardData }));
            return clipboardData.getData("text/plain");
        }"""
    )
    assert copied == "x" * 300 + "\n\ntwo"


def test_ctrl_c_copies_once_and_then_interrupts(visit: Visit, shell_server: ServerProcess) -> None:
    """While anything was selected, Ctrl-C copied it again and again, and nothing ended `sleep`
    (tsl0922/ttyd#1537, lanoxx/tilda#486)."""
    page = enter_terminal(visit, shell_server)
    sleep_in(page, shell_server)
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#grid div'))")
    page.keyboard.press("Control+c")
    wait_for(page, "getSelection().isCollapsed")
    page.keyboard.press("Control+c")
    enter(page, "echo over")
    wait_for_screen(page, "^over$")


def test_the_enter_that_ends_a_composition_is_not_the_programs(
    visit: Visit, shell_server: ServerProcess
) -> None:
    """In Safari this key comes behind the composition: who had chosen a word, ran the command
    (mckaywrigley/chatbot-ui#718)."""
    page = enter_terminal(visit, shell_server)
    enter(page, "echo listening; read line")  # before that the Enter would be the shell's
    wait_for_screen(page, "^listening$")
    page.evaluate(
        """() => {
            const input = document.querySelector("#input");
            const enter = { key: "Enter", keyCode: 229, bubbles: true, cancelable: true };
            input.dispatchEvent(new CompositionEvent("compositionstart"));
            input.dispatchEvent(new CompositionEvent("compositionend", { data: "日本" }));
            input.dispatchEvent(new KeyboardEvent("keydown", enter));
        }"""
    )
    enter(page, "語")
    enter(page, "echo [$line]")
    wait_for_screen(page, r"^\[日本語\]$")


def test_a_phone_has_the_keys_that_its_keyboard_lacks(
    visit: Visit, shell_server: ServerProcess
) -> None:
    page = enter_terminal(visit, shell_server, **TOUCH)
    page.locator("#scroller").tap()
    page.keyboard.insert_text("echo tou")  # as a phone's keyboard does: no key is told
    page.keyboard.insert_text("ch")
    page.get_by_role("button", name="Tab").tap()
    page.keyboard.press("Enter")
    wait_for_screen(page, "^touch$")
    page.get_by_role("button", name="Up").tap()
    page.keyboard.press("Enter")
    wait_for_screen(page, "^touch\n(.|\n)*^touch$")
    enter(page, "clear; printf '\\e[999H'")  # to the last line: nothing is to be scrolled
    wait_for(page, "vt.terminal.screen.y === vt.size[1] - 1")
    wait_for(
        page,
        "(({ scrollHeight, clientHeight }) => scrollHeight <= clientHeight + 1)"
        "(document.querySelector('#scroller'))",
    )
    sleep_in(page, shell_server)
    page.get_by_role("button", name="Ctrl").tap()
    page.keyboard.insert_text("c")
    enter(page, "echo over")
    wait_for_screen(page, "^over$")


def test_the_names_of_the_keys_stay_on_them_on_the_narrowest_phone(
    visit: Visit, shell_server: ServerProcess
) -> None:
    page = enter_terminal(visit, shell_server, **{**TOUCH, "viewport": NARROWEST})
    for key in page.locator("#keys button").all():
        inner, name = key.evaluate("(key) => [key.clientWidth, key.scrollWidth]")
        assert name <= inner, key.inner_text()
    assert sticking_out(page) == []


def test_words_that_a_phone_composes_are_typed_letter_by_letter(
    visit: Visit, shell_server: ServerProcess
) -> None:
    page = enter_terminal(visit, shell_server, **TOUCH)
    page.locator("#scroller").tap()
    devtools = page.context.new_cdp_session(page)
    for word in ("e", "ec", "ecj", "ech", "echo"):
        position = {"selectionStart": len(word), "selectionEnd": len(word)}
        devtools.send("Input.imeSetComposition", {"text": word, **position})
    wait_for_screen(page, r"^\$ echo$")
    devtools.send("Input.insertText", {"text": "echo"})
    page.keyboard.insert_text(" composed")
    page.keyboard.press("Enter")
    wait_for_screen(page, "^composed$")


def test_lines_that_a_phones_keyboard_pastes_are_not_run_one_by_one(
    visit: Visit, shell_server: ServerProcess
) -> None:
    """Gboard types what it has in its clipboard, and tells of no "paste": the shell ran the first
    line before the second had come (open-webui/open-webui#21265, jesus2099/konami-command#947)."""
    page = enter_terminal(visit, shell_server, **TOUCH)
    page.locator("#scroller").tap()
    page.keyboard.insert_text("echo pas\necho ted")
    wait_for_screen(page, "echo pas\necho ted$")
    page.keyboard.press("Enter")
    wait_for_screen(page, "^pas\nted$")


def test_one_emoji_that_becomes_another_is_never_cut(
    visit: Visit, shell_server: ServerProcess
) -> None:
    """Both begin with the same half of a character; the other half alone was sent as U+FFFD."""
    page = enter_terminal(visit, shell_server, **TOUCH)
    page.locator("#scroller").tap()
    devtools = page.context.new_cdp_session(page)
    page.keyboard.insert_text("echo ")
    for face in ("😀", "😁"):
        position = {"selectionStart": 2, "selectionEnd": 2}
        devtools.send("Input.imeSetComposition", {"text": face, **position})
    devtools.send("Input.insertText", {"text": "😁"})
    page.keyboard.press("Enter")
    wait_for_screen(page, "^😁$")


def test_an_emoji_that_a_key_types_is_whole(visit: Visit, shell_server: ServerProcess) -> None:
    """Firefox tells of its halves one by one, and each was sent as U+FFFD."""
    page = enter_terminal(visit, shell_server)
    page.keyboard.insert_text("echo ")
    page.evaluate(
        """() => {
            const input = document.querySelector("#input");
            for (const data of "😀".split("")) {
                const half = { inputType: "insertText", data, cancelable: true };
                input.dispatchEvent(new InputEvent("beforeinput", half));
            }
        }"""
    )
    page.keyboard.press("Enter")
    wait_for_screen(page, "^😀$")


# ==== 4. Fit for all =======================================================


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/", ["cat"]),
        ("/chat/?room=x", ["cat"]),
        ("/terminal/?room=x", ["--pty", "cat"]),
        ("/bunny/?room=x", ["game.py"]),
        ("/snake/?room=x", ["cat"]),
    ],
)
def test_the_pages_work_under_a_strict_policy_and_ask_nobody_else(
    visit: Visit, browser: Browser, path: str, served: list[str]
) -> None:
    with (
        serve(*SITE, "--header", POLICY, *served) as server,
        browser.new_context() as context,
    ):
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda r: complaints.append(r.url) if r.status >= 400 else None)
        page.goto(server.http(path))
        ready = {
            "/": "document.body.dataset.state === 'listed'",
            "/snake/?room=x": "document.querySelector('.elsewhere') !== null",
        }
        wait_for(page, ready.get(path, "document.body.dataset.status === 'connected'"))
        assert complaints == []
        assert [url for url in asked if not url.startswith(server.http("/"))] == []
        page.goto("about:blank")


@pytest.mark.parametrize("size", [PHONE, PHONE_ON_ITS_SIDE, DESKTOP], ids=str)
def test_no_page_sticks_out_of_the_window(visit: Visit, size: dict[str, int]) -> None:
    long = "a-room-with-a-name-that-is-much-too-long-for-a-phone-in-anybodys-pocket"
    with serve(*SITE, "cat") as server, RawClient.connect(server, long) as client:
        chat = visit(server, f"/chat/?room={long}", viewport=size)
        chat.get_by_label("Your name").fill("W" * 24)
        chat.get_by_role("button", name="Join in").click()
        client.send_text("w" * 300)
        say(chat, "m" * 300)
        wait_for_said(chat, 2)
        lobby = visit(server, viewport=size)
        wait_for_rooms(lobby, 1)
        for page in (chat, lobby):
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            assert sticking_out(page) == []


def test_who_writes_from_right_to_left_sees_it_so_while_writing(visit: Visit) -> None:
    """In the field the end of a sentence stood at its beginning; in the chat it was right."""
    with serve(*SITE, "cat") as server:
        for path in ("/chat/", "/snake/", "/tictactoe/", "/sandbox/", "/talk/"):
            page = visit(server, path)
            found = page.evaluate(
                """() => [...document.querySelectorAll("#name, #text, #chat-text")].map((field) => {
                    field.value = "שלום!";
                    return getComputedStyle(field).direction;
                })"""
            )
            assert found and set(found) == {"rtl"}, path
            page.goto("about:blank")


def test_no_name_or_message_turns_around_what_stands_beside_it(visit: Visit) -> None:
    """A sign for "from right to left" in it went on to the end of the row."""
    with serve(*SITE, "--frame=json", "cat") as server:
        pages = {path: visit(server, f"{path}?room={quote(STRANGE)}") for path in ROOM_PAGES}
        for path in ("/chat/", "/talk/"):
            wait_for(pages[path], "document.body.dataset.status === 'connected'")
        with RawClient.connect(server, quote(STRANGE)) as stranger:
            stranger.send_text(
                json.dumps({"t": "chat", "name": STRANGE, "text": f"{STRANGE} http://x.com"})
            )
            wait_for_said(pages["/chat/"], 1)
            wait_for(pages["/talk/"], "document.querySelector('li.come pre') !== null")
            lobby = visit(server, "/lobby/")
            wait_for_rooms(lobby, 1)
        for path, page in {**pages, "/lobby/": lobby}.items():
            expect(page.get_by_text(STRANGE).first).to_be_visible()
            assert turned_around(page) == [], path


def test_a_line_of_a_program_stands_as_its_language_does(visit: Visit) -> None:
    """On the page for any program the end of a sentence stood at its beginning."""
    with serve(*SITE, "cat") as server, RawClient.connect(server, "x") as client:
        page = visit(server, "/talk/?room=x")
        wait_for(page, "document.body.dataset.status === 'connected'")
        for line in ("שלום!", "hello!", '["שלום"]'):
            client.send_text(line)
        lines = page.locator("li.come pre")
        expect(lines).to_have_count(3)
        found = lines.evaluate_all("(all) => all.map((one) => getComputedStyle(one).direction)")
        assert found == ["rtl", "ltr", "ltr"]


# What the server refuses, being full (--maxconns), when it has given the page itself.
REFUSED = {
    "/lobby/": "lobby/names.js",
    "/chat/": "chat/chat.css",
    "/talk/": "talk/talk.js",
    "/snake/": "shared/style.css",
    "/bunny/": "shared/stage.js",
    "/console/": "console.js",
    "/console/?room=x": "console.css",
}


def test_a_page_that_has_come_in_part_says_so(visit: Visit) -> None:
    """It stood there, with neither scripts nor style, and said nothing."""
    appear = "document.getAnimations().forEach((animation) => animation.finish())"
    with serve(*SITE, "--console", "cat") as server:
        page = visit(server)
        words = page.get_by_text("This page has not come as a whole")
        for path, refused in REFUSED.items():
            page.route(f"**/{refused}", lambda route: route.fulfill(status=503))
            page.goto(server.http(path))
            page.evaluate(appear)
            expect(words, path).to_be_visible()
            page.unroute_all()
            page.get_by_role("link", name="Load it again").click()
            expect(words, path).to_have_count(0)


def test_every_control_of_the_pages_has_a_name(visit: Visit) -> None:
    with serve(*SITE, "cat") as server:
        for path, names in {
            "/": {
                "button": ["Another name", "Enter", "Copy link"],
                "textbox": ["Name of the room"],
            },
            "/chat/?room=x": {"link": ["All rooms"], "log": ["Messages"], "textbox": ["Your name"]},
            "/terminal/?room=x": {"button": ["Fit", "Copy link"], "region": ["Terminal"]},
        }.items():
            page = visit(server, path)
            for role, wanted in names.items():
                for name in wanted:
                    found = page.get_by_role(cast(Any, role), name=re.compile(f"^{name}"))
                    expect(found, str((path, role, name))).to_have_count(1)
            assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("path", ["/", "/chat/?room=x", "/terminal/?room=x"])
def test_the_pages_have_a_day_and_a_night(visit: Visit, path: str) -> None:
    with serve(*SITE, "cat") as server:
        page = visit(server, path, color_scheme="light")
        brightness = """() => {
            const paper = getComputedStyle(document.body).backgroundColor;
            return Number(paper.match(/\\d+/)[0]);
        }"""
        assert page.evaluate(brightness) > 200
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(brightness) < 60
