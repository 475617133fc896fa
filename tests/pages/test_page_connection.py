"""The pages' own connection, in a real browser, against servers that do what few servers do."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from scalesocket import accept_key
from tests import browser as in_browser
from tests.browser import PAGES, PATIENCE, OpenTab, wait_for
from tests.support import ServerProcess, serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser]

browser = in_browser.browser
open_tab = in_browser.open_tab

GOING_AWAY = b"\x88\x02\x03\xe9"
HELLO = b"\x81\x03[1]"
SEATED = b'\x81\x42{"_seat":{"token":"Zx","id":7,"taken":0,"seen":0,"resumed":false}}'


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Serve the pages; what they connect to is another."""
    with serve("--staticdir", str(PAGES), "cat") as running:
        yield running


class Listener:
    """A port at which WebSockets are opened by hand."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._socket = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._socket.settimeout(PATIENCE / 1000)
        self.url = f"ws://127.0.0.1:{self._socket.getsockname()[1]}/room"

    def accept(self, behind: bytes = b"") -> socket.socket:
        """Open a WebSocket, and send more in one piece with that; nobody reads what comes."""
        sock = self._stack.enter_context(self._socket.accept()[0])
        sock.settimeout(PATIENCE / 1000)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
        assert key is not None
        answer = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(key[1].decode())}",
        ]
        sock.sendall("\r\n".join([*answer, "", ""]).encode() + behind)
        return sock

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with contextlib.closing(Listener()) as listener:
        yield listener


def read_all(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(1 << 20):
            pass


def texts(sock: socket.socket, count: int) -> list[object]:
    """Return the first short messages that come."""
    data = b""
    found: list[object] = []
    while len(found) < count:
        data += sock.recv(4096)
        while len(data) >= 6 and len(data) >= 6 + (data[1] & 0x7F):
            size, key = data[1] & 0x7F, data[2:6]
            payload = bytes(byte ^ key[at % 4] for at, byte in enumerate(data[6 : 6 + size]))
            found.append(json.loads(payload))
            data = data[6 + size :]
    return found


def open_link(page: Page, listener: Listener, options: str = "{}") -> None:
    """Have the page open a connection, `link`, and note what happens."""
    page.evaluate(
        f"""async (url) => {{
            const {{ Connection }} = await import("/shared/connection.js");
            window.link = new Connection(url, {options});
            window.happened = [];
            link.addEventListener("message", (event) => happened.push(event.detail));
            link.addEventListener("state", () => happened.push(link.state));
            link.open();
        }}""",
        listener.url,
    )


def connect(
    page: Page, listener: Listener, options: str = "{}", behind: bytes = b""
) -> socket.socket:
    """Have the page open a connection, `link`; return the other end of it."""
    open_link(page, listener, options)
    sock = listener.accept(behind)
    wait_for(page, "link.state === 'connected'")
    return sock


def test_nothing_is_sent_on_a_connection_that_has_begun_to_close(
    open_tab: OpenTab, listener: Listener
) -> None:
    """A browser takes what is sent then, and drops it; the page said that it was sent
    (websockets/ws#492 is of the bytes that wait)."""
    page = open_tab()
    page.evaluate(  # shows what a connection keeps to itself
        """() => {
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) {
                window.socket = this;
                send.call(this, data);
            };
        }"""
    )
    sock = connect(page, listener)
    assert page.evaluate("link.send('before')")
    page.evaluate(  # at that moment: a browser waits for 2 s for the end of the connection
        """() => {
            const look = () => {
                if (socket.readyState === WebSocket.OPEN) setTimeout(look);
                else window.found = [socket.readyState, link.state, link.send("after")];
            };
            look();
        }"""
    )
    sock.sendall(GOING_AWAY)
    wait_for(page, "window.found")
    assert page.evaluate("found") == [page.evaluate("WebSocket.CLOSING"), "connected", False]


def test_what_waits_to_go_out_has_a_bound_and_it_is_said_when_more_may_come(
    open_tab: OpenTab, listener: Listener
) -> None:
    page = open_tab()
    sock = connect(page, listener)
    taken = page.evaluate(
        """() => {
            window.drained = false;
            link.addEventListener("drain", () => (window.drained = true));
            const text = "x".repeat(100_000);
            let sent = 0;
            while (sent < 1_000 && link.send(text)) sent += 1;
            return sent;
        }"""
    )
    assert 10 <= taken < 1_000
    reader = threading.Thread(target=read_all, args=(sock,), daemon=True)
    reader.start()
    wait_for(page, "drained")
    assert page.evaluate("link.send('more')")


def test_who_waits_to_say_more_is_told_so_also_when_the_connection_was_lost_meanwhile(
    open_tab: OpenTab,
) -> None:
    """What was pasted stopped in its middle: nobody said that the connection takes more again."""
    page = open_tab()
    page.clock.install()
    said = page.evaluate(
        """async (seated) => {
            const { Connection } = await import("/shared/connection.js");
            const opened = [];
            window.WebSocket = class {
                static OPEN = 1;
                readyState = 1;
                bufferedAmount = 0;
                constructor() { opened.push(this); }
                send() { this.bufferedAmount = 2 ** 21; }
                close() {}
            };
            const sit = (answer) => {
                opened.at(-1).onopen();
                opened.at(-1).onmessage({ data: answer });
            };
            const link = new Connection("ws://127.0.0.1:1/room", { seat: true });
            window.drained = 0;
            link.addEventListener("drain", () => (drained += 1));
            link.open();
            sit(seated);
            const said = [link.send("more")];
            window.lose = () => opened[0].onclose({ code: 1006, reason: "" });
            window.comeBack = () => {
                link.retryNow();
                sit(seated.replace("false", "true"));
                opened[1].bufferedAmount = 0;
            };
            return said;
        }""",
        SEATED[2:].decode(),
    )
    assert said == [False]
    page.evaluate("lose()")
    page.clock.run_for(200)
    assert page.evaluate("drained") == 0
    page.evaluate("comeBack()")
    page.clock.run_for(200)
    assert page.evaluate("drained") == 1


def test_a_connection_of_which_nothing_comes_any_more_is_given_up(
    open_tab: OpenTab, listener: Listener
) -> None:
    """Half-open: the network is gone, and the browser goes on to say that it is connected
    (socketio/socket.io#2421)."""
    page = open_tab()
    sock = connect(page, listener, "{ silence: 1_500 }")
    sock.sendall(HELLO)
    listener.accept().sendall(HELLO)
    # It may have been given up once more by now: nothing else comes.
    wait_for(page, "happened.filter((what) => what === 'connected').length === 2")
    assert page.evaluate("link.reason") == "nothing has come any more"


def test_what_has_never_said_anything_may_be_silent(open_tab: OpenTab, listener: Listener) -> None:
    page = open_tab()
    page.clock.install()
    connect(page, listener, "{ silence: 1 }")
    page.clock.run_for(10_000)
    assert page.evaluate("link.state") == "connected"


def test_a_server_that_does_not_say_which_seat_a_page_has_is_given_up(
    open_tab: OpenTab, listener: Listener
) -> None:
    """The page waited for ever if whoever had taken its connection said nothing."""
    page = open_tab()
    page.clock.install()
    open_link(page, listener, "{ seat: true }")
    assert texts(listener.accept(), 1) == [{"_seat": {}}]
    assert page.evaluate("link.state") == "connecting"
    page.clock.run_for(10_000)
    wait_for(page, "happened.includes('waiting')")
    assert page.evaluate("link.reason") == "the server does not answer"
    page.clock.run_for(500)
    sock = listener.accept()
    assert texts(sock, 1) == [{"_seat": {}}]
    sock.sendall(SEATED)
    wait_for(page, "link.state === 'connected'")
    page.clock.run_for(60_000)
    assert page.evaluate("happened") == ["connecting", "waiting", "connecting", "connected"]


def test_a_page_that_has_left_waits_for_no_seat(open_tab: OpenTab, listener: Listener) -> None:
    page = open_tab()
    page.clock.install()
    open_link(page, listener, "{ seat: true }")
    assert texts(listener.accept(), 1) == [{"_seat": {}}]
    page.evaluate("link.close()")
    page.clock.run_for(60_000)
    assert page.evaluate("happened") == ["connecting", "closed"]


def test_a_page_knows_that_it_is_connected_before_it_gets_a_message(
    open_tab: OpenTab, listener: Listener
) -> None:
    """What a server said at once came before anybody listened (colyseus/colyseus#927)."""
    page = open_tab()
    connect(page, listener, behind=HELLO)
    wait_for(page, "happened.length === 3")
    assert page.evaluate("happened") == ["connecting", "connected", [1]]


def test_who_has_left_does_not_come_back_by_itself(open_tab: OpenTab, listener: Listener) -> None:
    """A client reconnected after its own `disconnect()` (socketio/socket.io-client#167)."""
    page = open_tab()
    page.clock.install()
    sock = connect(page, listener)
    page.evaluate("link.close()")
    sock.sendall(GOING_AWAY)
    page.evaluate("window.dispatchEvent(new Event('online')), link.retryNow()")
    page.clock.run_for(60_000)
    assert page.evaluate("[link.state, ...happened]") == [
        "closed", "connecting", "connected", "closed"
    ]  # fmt: skip


def test_who_gives_up_when_an_attempt_begins_is_not_connected_by_it(
    open_tab: OpenTab, listener: Listener
) -> None:
    """The attempt went on, and the page was connected though it had closed."""
    page = open_tab()
    page.evaluate(
        """async (url) => {
            const { Connection } = await import("/shared/connection.js");
            const made = [];
            const Native = WebSocket;
            window.WebSocket = class extends Native {
                constructor(...all) { super(...all); made.push(this); }
            };
            Object.assign(window, { link: new Connection(url), made });
            link.addEventListener("state", () => link.state === "connecting" && link.close());
            link.open();
        }""",
        listener.url,
    )
    assert page.evaluate("[link.state, made.length]") == ["closed", 0]


def test_who_moves_and_is_asked_to_open_again_is_at_the_new_address(
    open_tab: OpenTab, listener: Listener
) -> None:
    """A page that opened what it was told is closed stayed at the address that it had left."""
    page = open_tab()
    connect(page, listener)
    gone = page.evaluate(
        """() => {
            const gone = [];
            const Native = WebSocket;
            window.WebSocket = class extends Native {
                constructor(...all) { super(...all); gone.push(all[0]); }
            };
            link.addEventListener("state", () => link.state === "closed" && link.open());
            link.moveTo("ws://127.0.0.1:1/elsewhere");
            return gone;
        }"""
    )
    assert gone == ["ws://127.0.0.1:1/elsewhere"]


@pytest.mark.parametrize("answer", ["<html>Hello</html>", "null"])
def test_who_had_a_seat_comes_back_where_another_server_answers(
    open_tab: OpenTab, answer: str
) -> None:
    """It tried for ever: 200 and a page for whatever is asked is what many servers have to say."""
    page = open_tab()
    about = '{"resume": 30}'
    page.route("**/lobby/about.json", lambda route: route.fulfill(body=about))
    page.evaluate(
        """async () => {
            const { Connection, roomUrl } = await import("/shared/connection.js");
            const Native = WebSocket;
            window.opened = [];
            window.WebSocket = class extends EventTarget {
                constructor(url) { super(); opened.push([url, this]); }
                send() {}
                close() {}
            };
            window.link = new Connection(roomUrl("room"));
            link.open();
        }"""
    )
    wait_for(page, "opened.length === 1")
    page.evaluate(
        """(seat) => {
            const [, socket] = opened[0];
            socket.onopen();
            socket.onmessage({ data: seat });
        }""",
        SEATED[2:].decode(),
    )
    assert page.evaluate("link.state") == "connected"
    about = answer
    page.evaluate("opened[0][1].onclose({ code: 1006, reason: '' }), link.retryNow()")
    wait_for(page, "opened.length === 2")
    assert "_seat" not in page.evaluate("opened[1][0]")


def test_what_was_refused_while_away_is_not_sent_on_coming_back(
    open_tab: OpenTab, listener: Listener
) -> None:
    """What was said while there was no connection came in a burst, before the client had said who
    it is, or twice (socketio/socket.io-client#305, #1499, #1358)."""
    page = open_tab()
    page.clock.install()
    connect(page, listener).close()
    wait_for(page, "link.state !== 'connected'")  # soon it comes back by itself
    page.evaluate("link.addEventListener('state', () => link.send('first'))")
    assert page.evaluate("[link.send('a'), link.send('b')]") == [False, False]
    page.evaluate("link.retryNow()")
    sock = listener.accept()
    wait_for(page, "link.state === 'connected'")
    assert page.evaluate("link.send('last')")
    assert texts(sock, 2) == ["first", "last"]


def test_who_has_come_back_hears_each_message_once(open_tab: OpenTab, listener: Listener) -> None:
    """After a reconnection by hand, each was heard twice (socketio/socket.io#1635)."""
    page = open_tab()
    connect(page, listener).close()
    for times in (1, 2):
        wait_for(page, "link.state !== 'connected'")
        page.evaluate("link.retryNow(), link.retryNow()")  # it may have done so by itself
        sock = listener.accept(behind=HELLO)
        wait_for(page, "happened.filter(Array.isArray).length >= value", times)
        assert page.evaluate("happened.filter(Array.isArray)") == [[1]] * times
        sock.close()


# What a page says again whose server has taken 3 messages, and after a crash but 1.
CRASH = """async () => {
    const { Seat } = await import("/shared/seat.js");
    const seat = new Seat("ws://localhost/room", false);
    const take = (taken, resumed) => seat.take({ token: "t", id: 1, taken, seen: 0, resumed });
    take(0, false);
    for (const word of ["one", "two", "three"]) seat.say(word);
    const first = take(3, true);
    seat.keep("four");
    return [first.again, take(1, true)];
}"""


def test_what_a_server_had_taken_before_it_crashed_is_said_again(
    open_tab: OpenTab, listener: Listener
) -> None:
    """A page that had come back since the last save had forgotten it by then."""
    before, after = open_tab().evaluate(CRASH)
    assert before == []
    assert after == {"again": ["two", "three", "four"], "goesOn": True, "lost": 0}


def test_a_late_word_on_an_earlier_loss_leaves_alone_what_is_said_of_the_next(
    open_tab: OpenTab,
) -> None:
    """Instead of "the room is full" it was said that the server refuses the page."""
    shown = open_tab().evaluate(
        """async () => {
            const { StatusView } = await import("/shared/status.js");
            const names = ["word", "note", "text", "countdown", "retry"];
            const make = (name) => [name, document.createElement("p")];
            const parts = Object.fromEntries(names.map(make));
            const lost = { state: "waiting", code: 1006, reason: "the server cannot be reached" };
            const link = Object.assign(new EventTarget(), { retryAt: 0 });
            const enter = (facts) => {
                Object.assign(link, facts);
                link.dispatchEvent(new Event("state"));
            };
            const answers = [];
            window.fetch = () => new Promise((answer) => answers.push(answer));
            new StatusView(Object.assign(link, lost), parts);
            enter({ state: "connecting" });
            enter({ state: "waiting", code: 1013, reason: "the room is full" });
            const after = [];
            for (const facts of [{}, lost]) {
                enter(facts);
                answers.shift()(new Response());
                await new Promise((done) => setTimeout(done));
                after.push(parts.text.textContent);
            }
            return after;
        }"""
    )
    refused = "the server is there, but it refuses this page or this room"
    assert shown == [f"No connection: {words}." for words in ("the room is full", refused)]
