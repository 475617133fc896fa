"""The page for any program, and the lobby beside pages of one's own."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import scalesocket
from scalesocket import ConfigError, parse_command_line
from tests import browser as in_browser
from tests.browser import (
    DESKTOP,
    MARKUP,
    PAGES,
    PATIENCE,
    PHONE,
    Visit,
    expect,
    hold,
    note,
    overlapping,
    wait_for,
)
from tests.support import (
    ROOT,
    RawClient,
    ServerProcess,
    free_port,
    http_request,
    serve,
    wait_until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

browser, visit = in_browser.browser, in_browser.visit

ECHO = "from sys import stdin\nfor line in stdin:\n    print('it is', line, end='')\n"


def get(server: ServerProcess, path: str) -> tuple[int, str]:
    response = http_request(server, path=path)
    return response.status, response.body.decode()


def linked(html: str, at: str) -> set[str]:
    """Return the paths that a page's links and scripts lead to."""
    paths = re.findall(r'(?:href|src)="([^"#]+)"', html)
    up = {path for path in paths if path.startswith("../")}
    assert not up or at.count("/") == 2, "nothing is above the server's address"
    return {f"/{path.removeprefix('../')}" for path in paths}


# ==== 1. What is where ===================================================================


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, a game with pages of its own, and a picture."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "program.py").write_text(ECHO)
    (folder / "page").mkdir()
    (folder / "page" / "index.html").write_text("<title>mine</title>")
    (folder / "chest.svg").write_text("<svg/>")
    table = 'staticdir = "page"\n# title = "Treasure"\n# text = "Dig!"\n# picture = "chest.svg"'
    block = f"# /// script\n# [tool.scalesocket]\n# {table}\n# ///\n"
    (folder / "treasure.py").write_text(block + ECHO)
    return folder


def test_without_files_of_ones_own_the_address_is_a_page(folder: Path) -> None:
    with serve("program.py", cwd=folder) as server:
        server.wait_log(rf"open http://127\.0\.0\.1:{server.port}/$")
        status, html = get(server, "/?room=x")
        assert status == 200
        paths = linked(html, "/")
        assert {"/talk/talk.js", "/shared/style.css", "/lobby/"} <= paths
        for path in paths | {"/talk/", "/lobby/", "/chat/", "/snake/snake.js"}:
            assert get(server, path)[0] == 200, path
        assert get(server, "/nothing")[0] == 404
        assert get(server, "/../scalesocket.py")[0] == 404
        about = json.loads(get(server, "/lobby/about.json")[1])
        assert about == {"addresses": [], "json": False, "api": False, "page": "talk/"}


def test_with_files_of_ones_own_the_lobby_is_beside_them(folder: Path) -> None:
    with serve("treasure.py", "--basepath", "/ws", cwd=folder) as server:
        assert get(server, "/ws/") == (200, "<title>mine</title>")
        status, html = get(server, "/ws/lobby/")
        assert status == 200
        for path in linked(html, "/lobby/"):
            assert get(server, f"/ws{path}")[0] == 200, path
        assert get(server, "/ws/talk/")[0] == 200
        assert get(server, "/ws/lobby")[0] == 301
        assert get(server, "/ws/snake/")[0] == 404, "nobody has asked for that"
        about = json.loads(get(server, "/ws/lobby/about.json")[1])
        assert (about["title"], about["text"], about["page"]) == ("Treasure", "Dig!", "")
        assert get(server, f"/ws/{about['picture']}") == (200, "<svg/>")


@pytest.mark.slow
def test_a_file_of_ones_own_goes_first_and_one_page_takes_all(folder: Path) -> None:
    (folder / "mine" / "lobby").mkdir(parents=True)
    (folder / "mine" / "lobby" / "index.html").write_text("my lobby")
    (folder / "mine" / "app.html").write_text("app")
    with serve("--staticdir", "mine", "program.py", cwd=folder) as server:
        assert get(server, "/lobby/") == (200, "my lobby")
        assert "talk/talk.js" in get(server, "/")[1], "there is no page of one's own"
        assert json.loads(get(server, "/lobby/about.json")[1])["page"] == "talk/"
    with serve("--staticdir", "mine", "--spa=app.html", "program.py", cwd=folder) as server:
        (folder / "mine" / "lobby" / "index.html").unlink()
        for path in ("/", "/talk/", "/lobby/"):
            response = http_request(server, path=path, headers={"Accept": "text/html"})
            assert response.body == b"app"
        assert json.loads(get(server, "/lobby/about.json")[1])["page"] == "talk/"


def test_a_shared_terminal_has_its_page(folder: Path) -> None:
    with serve("--pty", "cat", cwd=folder) as server:
        assert "terminal/terminal.js" in get(server, "/")[1]


def test_copied_alone_a_few_lines_say_how_to_connect(tmp_path: Path) -> None:
    command = [sys.executable, str(shutil.copy(ROOT / "scalesocket.py", tmp_path))]
    with serve("cat", cwd=tmp_path, command=command) as server:
        server.wait_log(rf"open http://127\.0\.0\.1:{server.port}/$")
        status, text = get(server, "/")
        assert status == 200
        assert "new WebSocket(" in text
        assert get(server, "/x")[0] == 404


@pytest.mark.parametrize(
    ("line", "said"),
    [("title = 4", "title must be text"), ('picture = "no.svg"', "picture: there is no file")],
)
def test_what_the_lobby_cannot_show_is_refused(tmp_path: Path, line: str, said: str) -> None:
    script = tmp_path / "own.py"
    script.write_text(f"# /// script\n# [tool.scalesocket]\n# {line}\n# ///\n")
    with pytest.raises(ConfigError, match=said):
        parse_command_line([str(script)])


def test_the_first_example_of_readme_answers_once(tmp_path: Path) -> None:
    """It sent an empty message after each answer."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = readme.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "example.py").write_text(code)
    with serve("./example.py", cwd=tmp_path) as server, RawClient.connect(server) as client:
        client.send_text("world")
        client.send_text("moon")
        assert [client.receive_text(), client.receive_text()] == ["hello world", "hello moon"]


# ==== 2. In a browser ====================================================================


@pytest.fixture
def tabs(visit: Visit) -> Visit:
    """Open pages, and wait until they are connected."""

    def open_one(server: ServerProcess, path: str, **options: Any) -> Page:
        page = visit(server, path, **options)
        wait_for(page, "document.body.dataset.status === 'connected'")
        return page

    return open_one


def lines(page: Page, way: str) -> list[str]:
    return [text.strip() for text in page.locator(f"#messages .{way} pre").all_inner_texts()]


@pytest.mark.browser
@pytest.mark.slow
def test_two_talk_to_a_program_in_text_and_json(folder: Path, tabs: Any) -> None:
    join = ("--joinmsg", '{"name":"#QUERY_NAME"}', "--cache", "9", "--api")
    with serve(*join, sys.executable, "--", "-u", "program.py", cwd=folder) as server:
        ann = tabs(server, "/?name=ann")
        wait_until(lambda: lines(ann, "come") == ['it is {"name":"ann"}'])
        ann.fill("#text", MARKUP)
        ann.press("#text", "Enter")
        wait_until(lambda: lines(ann, "come")[1:] == [f"it is {MARKUP}"])
        assert lines(ann, "sent") == [MARKUP]
        ann.get_by_label("JSON").check()
        ann.fill("#text", '{"to": [1,\n 2]')
        ann.press("#text", "Enter")
        ann.get_by_text("That is no JSON").wait_for()
        ann.fill("#text", '{"to": [1,\n 2]}')
        ann.press("#text", "Enter")
        wait_until(lambda: lines(ann, "come")[2:] == ['it is {"to":[1,2]}'])
        ann.get_by_text("Invite").click()
        expect(ann.locator("#link")).to_contain_text("room=lobby")
        expect(ann.locator("#socket")).to_have_text(f"ws://127.0.0.1:{server.port}/lobby")
        bob = tabs(server, "/")  # who comes later sees what was said
        wait_until(lambda: lines(bob, "come")[:3] == lines(ann, "come")[:3])
        ann.fill("#room", "a/b")
        ann.press("#room", "Enter")
        ann.get_by_text("has no slash in it").wait_for()
        ann.fill("#room", "attic")
        ann.press("#room", "Enter")
        wait_for(ann, "document.body.dataset.room === 'attic'")
        wait_until(lambda: lines(ann, "come") == ['it is {"name":"ann"}'])
        assert ann.url.endswith("/?room=attic&name=ann")


@pytest.mark.browser
@pytest.mark.slow
def test_lists_in_lists_are_not_made_longer_than_they_are(tabs: Any) -> None:
    """Each line of 8 KB of brackets was indented: 32 MB, on the page of everybody in the room."""
    said = ["[" * 4000 + "]" * 4000, f"{'[' * 40}{'1,' * 9900}1{']' * 40}", '{"a": [1]}']
    with serve("cat") as server, RawClient.connect(server, "lobby") as stranger:
        page = tabs(server, "/")
        for text in said:
            stranger.send_text(text)
        wait_until(lambda: len(page.locator("#messages .come").all()) == len(said))
        shown = page.locator("#messages .come pre").all_text_contents()
        assert shown == said


@pytest.mark.browser
@pytest.mark.slow
def test_an_attempt_that_fails_again_is_no_news(tabs: Any) -> None:
    """Every attempt was told: after hours without a server nothing else was on the page."""
    with serve("cat") as server:
        page = tabs(server, "/")
    page.evaluate(
        """() => new Promise((done) => {
            const [retry, { body }] = [document.querySelector("#retry"), document];
            let attempts = 0;
            const look = () => {
                if (body.dataset.status !== "waiting") return;
                attempts += 1;
                if (attempts > 4) done();
                else retry.click();
            };
            new MutationObserver(look).observe(body, { attributeFilter: ["data-status"] });
            look();
        })"""
    )
    news = page.locator("#messages .news").all_inner_texts()
    assert sum("cannot be reached" in line for line in news) == 1


@pytest.mark.browser
@pytest.mark.slow
def test_who_waits_before_a_full_room_is_not_said_to_be_in_it(tabs: Any) -> None:
    """Each attempt told that one is in the room, and that the connection has ended.

    Above it "Connected again." came and went.
    """
    with serve("--maxclients", "1", "cat") as server:
        with RawClient.connect(server, "full"):
            page = tabs(server, "/?room=free")
            expect(page.locator("#messages .news")).to_have_text("You are in “free”.")
            page.evaluate(
                """() => {
                    window.attempts = 0;
                    const look = () => (attempts += document.body.dataset.status === "waiting");
                    const filter = { attributeFilter: ["data-status"] };
                    new MutationObserver(look).observe(document.body, filter);
                }"""
            )
            note(page.locator("#note-text"))
            page.fill("#room", "full")
            page.press("#room", "Enter")
            wait_for(page, "attempts > 2")
            assert not page.evaluate("noted.some((html) => html.includes('Connected again'))")
            told = page.locator("#messages .news").all_inner_texts()
            assert len(told) == 1, told
            assert "has ended" in told[0]
        expect(page.locator("#messages .news").last).to_have_text("You are in “full”.")
        expect(page.locator("#note-text")).to_have_text("Connected again.")


@pytest.mark.browser
@pytest.mark.slow
def test_what_was_said_to_a_server_that_was_started_again_has_not_arrived(tabs: Any) -> None:
    """It was shown as sent, and no more was heard of it."""
    with serve("--resume", "60", "cat", addr=f"127.0.0.1:{free_port()}") as first:
        page = tabs(first, "/")
    wait_for(page, "document.body.dataset.status === 'waiting'")
    page.fill("#text", "hello")
    page.press("#text", "Enter")
    assert lines(page, "sent") == ["hello"]
    with serve("--resume", "60", "cat", addr=f"127.0.0.1:{first.port}"):
        told = page.locator("#messages .news").last
        expect(told).to_have_text("Not all that you have said has arrived.")
        assert lines(page, "come") == []
        page.goto("about:blank")


@pytest.mark.browser
@pytest.mark.slow
def test_a_phone_has_room_name_and_invitation_in_a_row_and_is_told_what_comes_here(
    folder: Path, tabs: Any
) -> None:
    with serve(sys.executable, "--", "-u", "program.py", cwd=folder) as server:
        page = tabs(server, "/", viewport=PHONE)
        shown = [page.locator(f".where {part}").bounding_box() for part in ("#room", "summary")]
        assert shown[0]["y"] < shown[1]["y"] + shown[1]["height"] / 2 < bottom_of(shown[0])
        hint = page.get_by_text("What you send goes to the program")
        expect(hint).to_be_visible()
        page.fill("#text", "hello")
        page.press("#text", "Enter")
        wait_until(lambda: lines(page, "sent") == ["hello"])
        expect(hint).to_be_hidden()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("size", [PHONE, {"width": 568, "height": 320}], ids=str)
def test_what_is_said_of_a_room_does_not_lie_over_what_is_said_of_the_page(
    tabs: Any, size: dict[str, int]
) -> None:
    """On a phone's side the long name of a room covered what comes here."""
    with serve("cat") as server:
        page = tabs(server, f"/?room={'x' * 128}", viewport=size)
        expect(page.locator(".news")).to_contain_text("You are in")
        assert overlapping(page, [".empty", ".news"]) == []


@pytest.mark.browser
@pytest.mark.slow
def test_who_is_let_into_no_room_can_go_to_another(tabs: Any) -> None:
    """What said so lay over the fields for the room, and over the button."""
    with (
        serve("--maxclients", "1", "cat") as server,
        RawClient.connect(server, "full"),
    ):
        page = tabs(server, "/?room=free", viewport=PHONE)
        page.fill("#room", "full")
        page.press("#room", "Enter")
        wait_for(page, "document.querySelector('#note.shown')")
        note, field = (page.locator(part).bounding_box() for part in ("#note", "#room"))
        assert bottom_of(field) <= note["y"]
        page.fill("#room", "free")
        page.get_by_role("button", name="Go").click()
        wait_for(page, "document.body.dataset.room === 'free'")


@pytest.mark.browser
@pytest.mark.slow
def test_what_was_not_sent_can_be_once_there_is_a_connection(tabs: Any) -> None:
    """Beside "Connected" stood "Not sent: there is no connection."."""
    with serve("cat", addr=f"127.0.0.1:{free_port()}") as first:
        page = tabs(first, "/")
    wait_for(page, "document.body.dataset.status === 'waiting'")
    page.fill("#text", "hello")
    page.press("#text", "Enter")
    problem = page.locator("#text-problem")
    expect(problem).to_have_text("Not sent: there is no connection.")
    with serve("cat", addr=f"127.0.0.1:{first.port}"):
        wait_for(page, "document.body.dataset.status === 'connected'")
        assert problem.text_content() == ""
        page.press("#text", "Enter")
        wait_until(lambda: lines(page, "come") == ["hello"])
        page.goto("about:blank")


@pytest.mark.browser
@pytest.mark.slow
def test_the_arrow_that_brings_back_what_was_sent_loses_nothing(tabs: Any) -> None:
    """What one was writing was gone, and of two lines that came back no arrow led on."""
    with serve("cat") as server:
        page = tabs(server, "/")
        field = page.locator("#text")
        for text in ("one", "two\nlines"):
            field.fill(text)
            field.press("Enter")
        field.fill("a draft")
        for key, shown in [
            ("ArrowUp", "two\nlines"),
            ("ArrowDown", "a draft"),
            ("ArrowDown", "a draft"),
            ("ArrowUp", "two\nlines"),
            ("ArrowUp", "two\nlines"),  # to its first line
            ("ArrowUp", "one"),
            ("ArrowUp", "one"),
            ("ArrowDown", "two\nlines"),
            ("ArrowDown", "a draft"),
        ]:
            field.press(key)
            assert field.input_value() == shown, key


@pytest.mark.browser
@pytest.mark.slow
def test_what_is_typed_before_the_page_is_all_there_is_kept(visit: Visit) -> None:
    """The script put the old room and name over it; "Send" loaded another room's page."""
    with serve("cat") as server:
        page = visit(server, "/health")
        let_go = hold(page, "**/talk/talk.js")
        page.goto(server.http("/?room=attic&name=Ann"), wait_until="commit")
        typed = {"#room": "cellar", "#name": "Bea", "#text": "hello"}
        for field, text in typed.items():
            page.fill(field, text)
        page.get_by_role("button", name="Send").click()
        let_go()
        wait_for(page, "document.body.dataset.status === 'connected'")
        assert page.evaluate("document.body.dataset.room") == "attic"
        assert {field: page.input_value(field) for field in typed} == typed
        page.press("#room", "Enter")
        wait_for(page, "document.body.dataset.room === 'cellar'")
        assert page.url == server.http("/?room=cellar&name=Bea")


@pytest.mark.browser
@pytest.mark.slow
def test_what_the_server_says_of_itself_late_changes_nothing_that_was_typed(visit: Visit) -> None:
    with serve("--api", "cat") as server:
        page = visit(server, "/health")
        let_go = hold(page, "**/api/")
        page.goto(server.http("/?room=attic&name=Ann"))
        page.fill("#room", "cellar")
        page.fill("#name", "Bea")
        let_go()
        expect(page.locator("#heading")).to_have_text("cat")
        assert [page.input_value(field) for field in ("#room", "#name")] == ["cellar", "Bea"]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("chosen", [["JSON", "text"], ["text"], ["JSON"], []], ids=str)
def test_what_the_server_says_of_itself_late_leaves_alone_how_it_is_sent(
    visit: Visit, chosen: list[str]
) -> None:
    """It was set to JSON, whatever one had chosen, and what was wrong with a text was gone."""
    with serve("--frame=json", "--api", "cat") as server:
        page = visit(server, "/health")
        let_go = hold(page, "**/api/")
        page.goto(server.http("/"))
        for label in chosen:
            page.get_by_label(label, exact=True).click()
        page.fill("#text", "{")
        if chosen[-1:] == ["JSON"]:
            page.press("#text", "Enter")
        problem = page.locator("#text-problem")
        told = problem.text_content()
        let_go()
        expect(page.locator("#heading")).to_have_text("cat")
        assert page.get_by_label("text", exact=True).is_checked() == (chosen[-1:] == ["text"])
        assert problem.text_content() == told
        assert bool(told) == (chosen[-1:] == ["JSON"])


@pytest.mark.browser
@pytest.mark.slow
def test_lines_that_come_together_are_laid_out_together(tabs: Any) -> None:
    """For each line all were laid out: of a program that talks much the page stood still."""
    with serve("cat") as server:
        page = tabs(server, "/")
        wait_for(page, "messages.textContent.includes('You are in')")  # the page's own last line
        looks = page.evaluate(
            """async () => {
                const { Log } = await import("/talk/log.js");
                const [root, list] = [document.querySelector("#log"), messages];
                window.log = new Log({ root, list });
                const there = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
                let looks = 0;
                const get = () => (looks++, there.get.call(root));
                Object.defineProperty(root, "scrollHeight", { get });
                for (let i = 0; i < 1200; i++) log.add("come", `line ${i}`);
                return looks;
            }"""
        )
        assert looks == 0
        last = "messages.lastElementChild.textContent"
        wait_for(page, f"{last}.includes('line 1199')")
        assert page.evaluate("messages.children.length") == 1000
        root = page.locator("#log")
        end = "(log) => log.scrollHeight - log.scrollTop - log.clientHeight"
        assert root.evaluate(end) < 40
        root.evaluate("(log) => (log.onscroll = () => (window.scrolled = true), log.scrollTop = 0)")
        wait_for(page, "window.scrolled")
        page.evaluate("log.add('come', 'one more')")
        wait_for(page, f"{last}.includes('one more')")
        assert root.evaluate(end) > 400, "who reads further up is left there"
        page.evaluate("log.add('sent', 'mine')")
        assert root.evaluate(end) < 40


def bottom_of(box: dict[str, float]) -> float:
    """Return where a box ends below."""
    return box["y"] + box["height"]


@pytest.mark.browser
@pytest.mark.slow
def test_the_lobby_of_ones_own_game_leads_to_its_page(folder: Path, browser: Browser) -> None:
    with serve("treasure.py", "--api", cwd=folder) as server, RawClient.connect(server, "cave"):
        context = browser.new_context(viewport=DESKTOP)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(server.http("/lobby/"))
        wait_for(page, "document.querySelector('#title').textContent === 'Treasure'")
        expect(page.locator("#sentence")).to_have_text("Dig!")
        wait_for(page, "document.querySelectorAll('#rooms li').length === 1")
        page.locator("#rooms a").click()
        page.wait_for_url(server.http("/?room=cave"))
        context.close()


def test_the_pages_here_are_those_that_are_served() -> None:
    pages = scalesocket.load_feature("pages", "a test")
    assert pages.PAGES == PAGES.resolve()
    assert all((PAGES / name).is_dir() for name in pages.ALWAYS)
