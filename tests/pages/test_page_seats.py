"""Pages whose network goes away and comes back, in a real browser: nothing is lost (--resume)."""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from scalesocket.net import sandbox_packets as packets
from scalesocket.net.sandbox_packets import PACKETS

from tests import browser as in_browser
from tests.browser import PAGES, OpenTab, expect, note, wait_for, wait_for_note
from tests.support import ServerProcess, free_port, serve, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

browser, open_tab = in_browser.browser, in_browser.open_tab

STATE = "document.body.dataset.status"
NOTE = "document.querySelector('#note-text').textContent"
BACK = f"{NOTE} === 'Back again, nothing missed.'"
MINE = "game.world.players.find(({ id }) => id === game.me)"


class Wire:
    """A network that can be cut and mended: a TCP proxy in front of a server.

    Args:
        port: of the server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = free_port()
        self.swallows = False  # what clients send
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()  # guards `_ends`
        self.mend()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def mend(self) -> None:
        """Let connections through (again)."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """End all connections, and take none."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or `accept` would go on to wait
        self._listener.close()
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here = listener.accept()[0]
                there = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._ends += [here, there]
                for ends in ((here, there), (there, here)):
                    passing = (*ends, ends[0] is here)
                    threading.Thread(target=self._pass_on, args=passing, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, of_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not (of_client and self.swallows):
                    target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        source.close()


def keep_little(seat: str) -> str:
    """Return the script of a seat as one of which a few messages are more than it keeps."""
    assert "MOST_KEPT = 2 ** 20" in seat
    return seat.replace("MOST_KEPT = 2 ** 20", "MOST_KEPT = 10")


# Notes the code of each packet that the page sends, and loses it on the way until told otherwise.
LOSE = """async () => {
    const { decode } = await import("/sandbox/msgpack.js");
    const send = WebSocket.prototype.send;
    window.sent = [];
    window.loses = true;
    WebSocket.prototype.send = function (data) {
        if (typeof data !== "string") sent.push(decode(data)[0]); // not the seat
        if (!loses) send.call(this, data);
    };
}"""


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """Serve the game that a test is about, just as the README says: with no options at all."""
    games = ("snake", "tictactoe", "sandbox", "chat", "game.py")
    game = next(game for game in games if game.partition(".")[0] in request.node.name)
    with serve(game) as running:
        yield running


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[Wire]:
    wire = Wire(server.port)
    yield wire
    wire.cut()


def visit(open_tab: OpenTab, wire: Wire, path: str) -> Page:
    page = open_tab()
    page.goto(wire.url(path))
    return page


def lose_and_find(page: Page, wire: Wire, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Cut a page off, do something, and let it come back."""
    wire.cut()
    wait_for(page, f"{STATE} === 'waiting'")
    meanwhile()
    wire.mend()
    wait_for(page, BACK)


def give_name(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Play").click()


# ==== 1. The games =========================================================


def play_snake(page: Page) -> int:
    wait_for(page, "game.world.width === 60")
    give_name(page, "Ann")
    wait_for(page, f"{MINE}?.body.length >= 3")
    return int(page.evaluate("game.me"))


def test_a_snake_stands_still_while_its_player_is_away(open_tab: OpenTab, wire: Wire) -> None:
    page = visit(open_tab, wire, "/snake/?room=garden")
    watcher = open_tab("/snake/?room=garden")
    wait_for(watcher, "game.me !== null")
    me = play_snake(page)  # last, as it soon sets out
    wait_for(watcher, "game.world.players.length === 1")
    body, waits = page.evaluate(f"[{MINE}.body, {MINE}.waits]")

    def watch() -> None:
        wait_for(watcher, "game.world.tick > value + 8", waits)  # it would have set out by itself
        assert watcher.evaluate("game.world.players[0].body") == body

    lose_and_find(page, wire, watch)
    assert page.evaluate("game.me") == me
    wait_for(page, f"typeof {MINE}.waits === 'number'")
    assert page.evaluate("JSON.stringify(game.world.players[0].body)") == watcher.evaluate(
        "JSON.stringify(game.world.players[0].body)"
    )
    expect(page.get_by_label("Your name")).to_be_hidden()


def test_a_snake_outlives_the_reload_of_its_page(open_tab: OpenTab) -> None:
    page = open_tab("/snake/?room=garden")
    me = play_snake(page)
    page.reload()
    wait_for(page, f"{MINE}?.name === 'Ann' && {MINE}.body.length >= 3")
    assert page.evaluate("game.me") == me
    expect(page.get_by_label("Your name")).to_be_hidden()
    expect(page.locator("#name-problem")).to_have_text("")


TICK_FIRST = """
const Plain = WebSocket;
window.WebSocket = class extends Plain {
    set onmessage(handle) {
        let first = true;
        super.onmessage = (event) => {
            handle(event); // the seat
            if (first) handle(new MessageEvent("message", { data: '{"t":"delta","tick":1000}' }));
            first = false;
        };
    }
};
"""


def test_a_tick_before_the_welcome_does_not_cost_a_snake_its_seat(open_tab: OpenTab) -> None:
    """The page took it for one that it had missed, gave the seat back, and the snake was gone."""
    page = open_tab("/snake/?room=garden")
    me = play_snake(page)
    page.add_init_script(TICK_FIRST)
    page.reload()
    wait_for(page, f"{MINE}?.name === 'Ann' && {MINE}.body.length >= 3")
    assert page.evaluate("game.me") == me


def sit_down(page: Page, name: str) -> None:
    wait_for(page, "game.table !== null")
    give_name(page, name)
    wait_for(page, "game.table?.name === value", name)


def test_a_tictactoe_player_comes_back_to_the_game(open_tab: OpenTab, wire: Wire) -> None:
    ann = visit(open_tab, wire, "/tictactoe/?room=parlour")
    sit_down(ann, "Ann")
    bob = open_tab("/tictactoe/?room=parlour")
    sit_down(bob, "Bob")
    ann.locator(".cell").nth(4).click()
    wait_for(bob, "game.table.board === '....X....'")  # or it would be hers to move, and he waits

    def move() -> None:
        wait_for(bob, "game.table.away === 'X' && game.table.grace > 15")
        bob.locator(".cell").nth(0).click()
        wait_for(bob, "game.table.board === 'O...X....'")

    lose_and_find(ann, wire, move)
    wait_for(ann, "game.table.board === 'O...X....' && game.table.you === 'X'")
    wait_for(bob, "game.table.away === null")
    ann.reload()
    wait_for(ann, "game.table?.you === 'X' && game.table.name === 'Ann'")
    ann.locator(".cell").nth(8).click()
    wait_for(bob, "game.table.board === 'O...X...X' && game.table.away === null")
    lose_and_find(ann, wire)  # also a page that was loaded anew knows how much has come
    wait_for(ann, "game.table.you === 'X' && game.table.name === 'Ann'")


def test_a_life_in_the_sandbox_outlives_connection_and_page(open_tab: OpenTab, wire: Wire) -> None:
    page = visit(open_tab, wire, "/sandbox/?room=island")
    wait_for(page, "game.size > 1")
    give_name(page, "Ann")
    wait_for(page, "game.me !== null && game.players[game.me]?.at !== undefined")
    me, amounts = page.evaluate("[game.me, game.amounts]")
    lose_and_find(page, wire)
    assert page.evaluate("[game.me, game.amounts]") == [me, amounts]
    place = "[game.players[game.me].x, game.players[game.me].y]"
    before = page.evaluate(place)
    keys = itertools.cycle("dsaw")  # a tree, or the end of the world, may be in the way

    def has_walked() -> bool:
        page.keyboard.press(next(keys), delay=300)
        return math.dist(before, page.evaluate(place)) > 20

    wait_until(has_walked)
    page.reload()
    wait_for(page, "game.me === value && game.players[game.me]?.at !== undefined", me)
    wait_for(page, "game.amounts.wood === value", amounts["wood"])
    expect(page.get_by_label("Your name")).to_be_hidden()


def test_in_the_sandbox_the_time_of_an_answer_is_told_also_after_a_ping_was_lost(
    open_tab: OpenTab, wire: Wire
) -> None:
    """The page waited for the answer for ever, and showed how long the one before had taken."""
    page = open_tab()
    seat = (PAGES / "shared" / "seat.js").read_text()
    script = {"body": keep_little(seat), "content_type": "text/javascript"}
    page.route("**/seat.js", lambda route: route.fulfill(**script))
    page.goto(wire.url("/sandbox/?room=island"))
    wait_for(page, "document.querySelector('#ping').textContent !== ''")
    give_name(page, "Ann")
    wait_for(page, "game.me !== null")
    page.evaluate(LOSE)
    ping = next(kind.code for kind in PACKETS if kind.cls is packets.Ping)
    wait_for(page, "sent.includes(value)", ping)
    page.keyboard.press("d")
    wait_for(page, "sent.at(-1) !== value", ping)
    wire.cut()
    wait_for(page, f"{STATE} === 'waiting'")
    page.evaluate("loses = false")
    note(page.locator("#ping"))
    wire.mend()
    wait_for(page, f"{NOTE} === 'Back again, but not all that you did has arrived.'")
    wait_for_note(page, r"\d+ ms")


def test_a_bunny_of_game_py_stays_while_its_connection_is_lost(
    open_tab: OpenTab, wire: Wire
) -> None:
    page = visit(open_tab, wire, "/bunny/?room=pond")
    wait_for(page, "game.me !== null")
    me = page.evaluate("game.me")
    other = open_tab("/bunny/?room=pond")
    wait_for(other, "Object.keys(game.players).length === 2")
    lose_and_find(page, wire)
    assert page.evaluate("game.me") == me
    assert other.evaluate("Object.keys(game.players).length") == 2


def chat_as(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.locator("#join button").click()


def say(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def test_in_a_chat_both_sides_hear_what_was_said_meanwhile_once(
    open_tab: OpenTab, wire: Wire
) -> None:
    ann = visit(open_tab, wire, "/chat/?room=lounge")
    chat_as(ann, "Ann")
    bob = open_tab("/chat/?room=lounge")
    chat_as(bob, "Bob")
    say(ann, "before")
    bob.get_by_text("before").wait_for()

    def talk() -> None:
        say(bob, "from Bob")
        say(ann, "from Ann")

    lose_and_find(ann, wire, talk)
    say(bob, "the end")
    for page in (ann, bob):
        page.get_by_text("the end").wait_for()
        page.get_by_text("from Ann").wait_for()
        text = page.locator("#messages").inner_text()
        parts = ("before", "from Bob", "from Ann", "the end")
        assert [text.count(part) for part in parts] == [1] * 4
    wait_for(ann, "document.querySelector('#unsent').textContent === ''")


@pytest.mark.parametrize("status", [401, 403, 429])
def test_in_a_chat_who_is_refused_for_once_keeps_the_seat(
    open_tab: OpenTab, wire: Wire, status: int
) -> None:
    """Who had to log in anew (--authall, a proxy) was taken for one of a server without seats."""
    ann = visit(open_tab, wire, "/chat/?room=lounge")
    chat_as(ann, "Ann")
    say(ann, "before")
    ann.locator("#messages", has_text="before").wait_for()
    refused: list[Route] = []

    def refuse_once(route: Route) -> None:
        if refused:
            return route.fallback()
        refused.append(route)
        route.fulfill(status=status)

    ann.route("**/lobby/about.json", refuse_once)
    wire.cut()
    wait_for(ann, f"{STATE} === 'waiting'")
    wire.mend()
    said = ann.wait_for_function(f"/^(Back|Connected) again/.test({NOTE}) && {NOTE}")
    assert refused and said.json_value() == "Back again, nothing missed."


def test_in_a_chat_what_a_seat_could_not_keep_is_said_again(open_tab: OpenTab, wire: Wire) -> None:
    """It was shown as sent, and nobody had it: more than a seat keeps was on its way.

    Then it was said again, below a note that not all has arrived.
    """
    ann = visit(open_tab, wire, "/chat/?room=lounge")
    chat_as(ann, "Ann")
    bob = open_tab("/chat/?room=lounge")
    chat_as(bob, "Bob")
    say(ann, "before")
    bob.get_by_text("before").wait_for()
    wire.swallows = True
    count = 2**20 // 7_900 + 10
    ann.clock.install()
    ann.clock.pause_at(time.time() + 60)  # what has no echo for 5 s counts as said
    ann.evaluate(
        """(count) => {
            for (let i = 0; i < count; i++) {
                document.querySelector("#text").value = `lost ${i} ${"x".repeat(7_900)}`;
                document.querySelector("#compose").requestSubmit();
            }
        }""",
        count,
    )
    wire.cut()
    wait_for(ann, f"{STATE} === 'waiting'")
    wire.swallows = False
    wire.mend()
    ann.clock.resume()
    wait_for(ann, BACK)
    wait_for(ann, "document.querySelectorAll('[data-state=sent]').length === 0")
    say(ann, "the end")
    for page in (ann, bob):
        page.get_by_text("the end").wait_for()
        text = page.locator("#messages").inner_text()
        assert [text.count(f"lost {number} ") for number in range(count)] == [1] * count


def test_in_a_chat_it_is_said_that_words_were_lost_which_it_does_not_say_again(
    open_tab: OpenTab,
) -> None:
    page = open_tab("/chat/?room=lounge")
    has_all = page.evaluate(
        """async () => {
            const { Outbox } = await import("./outbox.js");
            const { StatusView } = await import("../shared/status.js");
            const told = [];
            const outbox = new Outbox({ send: () => true, changed: () => {} });
            const tell = () => told.push(outbox.hasAll);
            outbox.add("heard", "", { echoed: true });
            outbox.heard("heard");
            tell();
            outbox.add("plain", "", { echoed: false });
            tell();
            const connection = new EventTarget();
            const made = () => document.createElement("p");
            const parts = { word: made(), note: made(), text: made(), countdown: made() };
            parts.retry = made();
            const lost = { state: "connected", reason: "x", resumed: true, lost: 1 };
            new StatusView(Object.assign(connection, lost), parts, () => outbox.hasAll);
            connection.dispatchEvent(new Event("settled"));
            return [...told, parts.text.textContent];
        }"""
    )
    assert has_all == [True, False, "Back again, but not all that you did has arrived."]


def test_beside_a_chat_the_page_for_any_program_tells_what_has_not_arrived(
    open_tab: OpenTab, wire: Wire
) -> None:
    """It said that nothing was missed, and showed as sent what nobody had."""
    page = visit(open_tab, wire, "/talk/?room=lounge")
    wait_for(page, f"{STATE} === 'connected'")
    wire.swallows = True
    for _ in range(4):
        say(page, "x" * 400_000)
    wire.cut()
    wait_for(page, f"{STATE} === 'waiting'")
    wire.swallows = False
    wire.mend()
    page.get_by_text("You are back, and have missed nothing.").wait_for()
    told = page.locator("#messages .news").all_inner_texts()
    assert told[-1] == "Not all that you have said has arrived."


# ==== 2. The connection ====================================================


def duplicate(page: Page) -> Page:
    """Return what a browser makes of a tab that is duplicated."""
    again = page.context.new_page()
    again.goto(page.url.partition("/snake")[0] + "/health")
    stored = page.evaluate("JSON.stringify(sessionStorage)")
    again.evaluate("all => Object.assign(sessionStorage, JSON.parse(all))", stored)
    again.goto(page.url)
    return again


ELSEWHERE = f"{STATE} === 'closed' && {NOTE} === 'You go on in another window.'"


def test_of_two_tabs_of_a_snake_player_the_first_one_stops_and_says_so(open_tab: OpenTab) -> None:
    page = open_tab("/snake/?room=garden")
    me = play_snake(page)
    again = duplicate(page)
    wait_for(again, "game.me === value", me)
    wait_for(page, ELSEWHERE)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    again.evaluate("new Promise((done) => setTimeout(done, 2000))")
    assert page.evaluate("game.state") == "closed"
    assert again.evaluate("game.state") == "connected"


def go_on_here(page: Page, me: int) -> None:
    page.get_by_role("button", name="Go on here").click()
    wait_for(page, f"game.state === 'connected' && game.me === value && {MINE}?.name === 'Ann'", me)
    expect(page.get_by_label("Your name")).to_be_hidden()


def test_a_snake_player_goes_on_in_whichever_tab_she_likes(open_tab: OpenTab) -> None:
    """A tab that was left for another joined anew, and found its own old name taken."""
    page = open_tab("/snake/?room=garden")
    me = play_snake(page)
    again = duplicate(page)
    wait_for(page, ELSEWHERE)
    go_on_here(page, me)
    wait_for(again, ELSEWHERE)
    go_on_here(again, me)
    wait_for(page, ELSEWHERE)
    again.close()
    go_on_here(page, me)
    wait_for(page, "game.world.players.length === 1")


def test_a_snake_player_goes_on_in_the_tab_that_she_loads_anew(open_tab: OpenTab) -> None:
    """It had forgotten its seat, joined anew, and found its own name taken."""
    page = open_tab("/snake/?room=garden")
    me = play_snake(page)
    again = duplicate(page)
    for left, loaded in ((page, again), (again, page), (page, again)):
        wait_for(left, ELSEWHERE)
        left.reload()
        wait_for(left, f"game.me === value && {MINE}?.name === 'Ann'", me)
        expect(left.get_by_label("Your name")).to_be_hidden()
        wait_for(loaded, ELSEWHERE)


SPEAK = """async (room) => {
    const { Connection, roomUrl } = await import("/shared/connection.js");
    window.link = new Connection(roomUrl(room));
    window.heard = [];
    window.said = 0;
    window.states = [];
    link.addEventListener("message", ({ detail }) => heard.push(detail));
    link.addEventListener("state", () => states.push([link.state, link.resumed]));
    const say = () => (said < 400 && link.send(said) ? (said += 1) : 0);
    window.saying = setInterval(say, 5);
    link.open();
}"""


def test_a_page_of_chat_loses_and_doubles_nothing_however_often_it_is_cut(
    open_tab: OpenTab, wire: Wire
) -> None:
    page = visit(open_tab, wire, "/lobby/")
    page.evaluate(SPEAK, "count")
    for number in range(1, 5):
        wait_for(page, "link.state === 'connected' && heard.length > value * 40", number)
        wire.cut()
        wait_for(page, "link.state === 'waiting'")
        wire.mend()
        page.evaluate("link.retryNow()")
    wait_for(page, "link.state === 'connected' && said === 400 && heard.length >= 400")
    assert page.evaluate("heard") == list(range(400))
    resumed = [state for state in page.evaluate("states") if state[0] == "connected"]
    assert resumed == [["connected", False], *[["connected", True]] * 4]
    page.evaluate("link.close()")
    assert page.evaluate("link.send(1)") is False


def test_a_page_of_chat_has_no_seat_where_none_are_kept(open_tab: OpenTab) -> None:
    with serve("--staticdir", str(PAGES), "--api", "cat") as plain:
        page = open_tab()
        requests: list[str] = []
        page.on("websocket", lambda opened: requests.append(opened.url))
        page.goto(plain.http("/lobby/"))
        page.evaluate(SPEAK, "count")
        wait_for(page, "heard.length >= 10")
        assert page.evaluate("heard.slice(0, 10)") == list(range(10))
        assert requests and not any("_seat" in url for url in requests)
        page.goto("about:blank")


def test_a_page_of_chat_that_goes_gives_its_seat_back(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    page = open_tab("/lobby/")
    page.evaluate(SPEAK, "left")
    wait_for(page, "link.state === 'connected'")
    page.goto(server.http("/health"))
    wait_until(lambda: any("room left" in line or "room closed" in line for line in server.log()))
