"""The chat in a terminal: what it keeps, what it draws, and two people who talk."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.client.chat import (
    ECHO_WITHIN,
    MOST_CHARACTERS,
    MOST_MESSAGES,
    MOST_TALLIED,
    REPEATS_WITHIN,
    Chat,
    ChatView,
    Field,
    Message,
    lay_out,
    read_message,
    wrap,
)
from scalesocket.client.reconnecting import Lost, Opened, Received
from scalesocket.client.terminal import EDITING, FRAME_TIME, App, Canvas, Style, main, text_width
from scalesocket.client.websocket import ConnectionClosed

from tests.browser import PAGES
from tests.pages import test_terminal_clients as in_terminal
from tests.pages.test_terminal_clients import Terminal, client, start_app
from tests.support import RawClient, ServerProcess, serve

open_terminal = in_terminal.open_terminal

# ==== What is said =========================================================


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain words", ("", "plain words")),
        ('{"t":"chat","text":7}', ("", '{"t":"chat","text":7}')),
        ('{"t":"chat","text":"hi"}', ("Somebody", "hi")),
        ('{"t":"chat","name":" A\\n B ","text":"hi","at":"never","id":{}}', ("A B", "hi")),
        ('{"t":"chat","name":"\u3164 \u200b","text":"hi"}', ("Somebody", "hi")),
        ("[1,2", ("", "[1,2")),
        ("null", ("", "null")),
        ('{"t":"Join","_from":2}', ("", "#2 came in")),
        ('{"t":"Leave","_from":2}', ("", "#2 left")),
        ('{"t":"Leave"}', ("", '{"t":"Leave"}')),
    ],
)
def test_any_text_can_be_read(raw: str, shown: tuple[str, str]) -> None:
    message = read_message(raw, 0.0)
    assert (message.name, message.text) == shown


def test_who_sent_it_is_what_the_server_says() -> None:
    message = read_message('{"_from":7,"t":"chat","name":"Ada","text":"hi"}', 0.0)
    assert (message.name, message.number) == ("Ada", "#7")


def test_our_own_message_reads_as_the_page_writes_it() -> None:
    event = json.loads(Message("hi", "Ada", 1.5, "x1").write())
    assert event == {"t": "chat", "name": "Ada", "text": "hi", "at": 1500, "id": "x1"}


def test_what_the_server_repeats_after_a_loss_is_shown_once() -> None:
    chat = Chat()
    chat.opened(0.0)
    said = [Message("a", id="1"), Message("same"), Message("same")]
    assert [chat.hear(message, 1.0 + REPEATS_WITHIN) for message in said] == [True, True, True]
    chat.opened(10.0)
    again = [*said, Message("same"), Message("b", id="2")]
    assert [chat.hear(message, 10.1) for message in again] == [False, False, False, True, True]
    assert chat.hear(Message("same"), 11.0 + REPEATS_WITHIN), "later it is said anew"


def test_a_history_that_takes_long_to_come_is_shown_once() -> None:
    """What had no ID, and came over 1.5 s after the connection, was shown once more."""
    chat, now = Chat(), 10.0
    chat.opened(0.0)
    said = [Message("a"), Message("hi", id="1"), Message("b"), Message("same"), Message("same")]
    assert all(chat.hear(message, now) for message in said)
    chat.opened(now)
    for message in said[:-1]:
        now += 0.9 * REPEATS_WITHIN
        assert not chat.hear(message, now)
    assert not chat.hear(Message("same"), now + 0.9 * REPEATS_WITHIN)
    assert chat.hear(Message("a"), now + 1.1 * REPEATS_WITHIN), "the same line alone is no sign"


def test_a_history_in_which_the_connection_is_lost_is_shown_once() -> None:
    """What was left of it, and came once the seat was taken back, was shown once more."""
    chat = Chat()
    chat.opened(0.0)
    assert all(chat.hear(Message(text), 10.0) for text in "abc")
    chat.opened(20.0)
    assert not chat.hear(Message("a"), 20.0)
    for again in (30.0, 40.0):  # it may be lost twice
        chat.lost(20.1)
        chat.resumed(again, 0)
    assert not chat.hear(Message("b"), 40.1)
    assert chat.hear(Message("a"), 40.2 + REPEATS_WITHIN), "it is not awaited for ever"
    chat.lost(50.0)
    chat.resumed(60.0, 0)
    assert chat.hear(Message("c"), 60.1), "nor again, once nothing has been repeated for long"
    view = ChatView("Ada")
    view.chat = Mock()
    view.lost()
    view.chat.lost.assert_called_once()


@pytest.mark.slow
def test_what_no_server_repeats_any_more_is_forgotten() -> None:
    """The IDs and texts of all that was ever shown were kept, for weeks."""
    chat = Chat()
    chat.opened(0.0)
    later = REPEATS_WITHIN
    said = [[Message("", id=str(n)), Message(str(n))] for n in range(2 * MOST_TALLIED + 1)]
    assert all(chat.hear(message, later) for pair in said for message in pair)
    chat.opened(later)
    assert not any(chat.hear(message, later) for pair in said[-MOST_TALLIED:] for message in pair)
    assert [chat.hear(message, later) for message in said[0]] == [True, True]


def test_long_lines_are_not_remembered_without_end_either() -> None:
    chat = Chat()
    said = [Message(str(n) * (MOST_CHARACTERS // 2), at=n) for n in range(9)]
    said += [Message("", id=message.text) for message in said]
    assert all(chat.hear(message, 0.0) for message in said)
    chat.opened(0.0)
    heard = [chat.hear(message, 0.0) for message in (said[0], said[9], said[8], said[17])]
    assert heard == [True, True, False, False]


def test_what_nobody_repeats_counts_as_said_after_a_while() -> None:
    chat = Chat()
    chat.say(Message("hi", "Ada", id="1"), 0.0)
    chat.give_up(ECHO_WITHIN)
    assert not chat.log
    chat.give_up(ECHO_WITHIN + 0.1)
    assert [message.text for message in chat.log] == ["hi"] and not chat.pending


# ==== What is written ======================================================


def test_a_line_is_edited_at_its_cursor() -> None:
    field = Field()
    for key in ("w", "r", "d", "left", "left", "o", "end", "s", "!", "backspace"):
        field.press(key)
    assert field.text == "words"
    for key in ("home", "delete", "W", "page up"):
        field.press(key)
    assert (field.clear(), field.text, field.cursor) == ("Words", "", 0)


KEYS = st.sampled_from(["a", "日", " ", "left", "right", "home", "end", "backspace", "delete"])


@given(st.lists(KEYS, max_size=60), st.integers(20, 40))
def test_the_cursor_is_never_out_of_sight(keys: list[str], columns: int) -> None:
    field, canvas = Field(), Canvas(columns, 1)
    for key in keys:
        field.press(key)
    field.draw(canvas, 5, 0)
    assert any(style is Style.CURSOR for _, style in canvas.lines()[0])


@given(st.text(), st.integers(2, 30))
def test_a_wrapped_text_fits_and_loses_no_word(text: str, width: int) -> None:
    lines = list(wrap(text, width))
    assert all(text_width(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


# ==== What is shown ========================================================


def chatting(*said: str) -> ChatView:
    view = ChatView("Ada")
    view.room = "attic"
    view.opened()
    for raw in said:
        view.receive(raw, 0.0)
    return view


def drawn(view: ChatView, columns: int = 60, rows: int = 10) -> list[str]:
    canvas = Canvas(columns, rows)
    view.draw(canvas, time.monotonic())
    return canvas.text()


def press(view: ChatView, text: str, *keys: str) -> list[Any]:
    return [sent for key in (*text, *keys) if (sent := view.press(key)) is not None]


def test_what_comes_does_not_tear_what_is_typed() -> None:
    view = chatting()
    press(view, "half a sent")
    view.receive('{"t":"chat","name":"Bob","text":"hello","at":0,"id":"b1"}', 0.0)
    lines = drawn(view)
    assert lines[-1] == "Ada> half a sent"
    assert lines[-3].endswith("Bob: hello")
    (sent,) = press(view, "ence", "enter")
    assert json.loads(sent)["text"] == "half a sentence" and json.loads(sent)["name"] == "Ada"
    assert drawn(view)[-1] == "Ada>"


def test_what_strangers_send_steers_no_terminal() -> None:
    view = chatting("\x1b[2J\x07evil", json.dumps({"t": "chat", "name": "\x1b]0;x", "text": "\r!"}))
    assert "\x1b" not in "".join(drawn(view)) and "\r" not in "".join(drawn(view))


@pytest.mark.parametrize("at", ["1e999", "NaN", "-Infinity", f"1{'0' * 400}", "1e30", "-1e17"])
def test_a_time_that_no_clock_can_show_ends_no_terminal(at: str) -> None:
    """One such message, from anybody, ended the chat of everyone at a terminal."""
    view = chatting(f'{{"t":"chat","name":"Bob","text":"hello","at":{at}}}')
    assert "Bob: hello" in drawn(view)[-3]


def test_a_tab_keeps_words_apart_and_indents() -> None:
    """What comes with tabs, such as a table or a program, ran together; so did what was pasted."""
    view = chatting("a\tb\n\tc")
    assert [line[6:] for line in drawn(view)[-4:-2]] == ["a   b", "    c"]
    assert json.loads(press(view, "a", EDITING["\t"], "b", "enter")[0])["text"] == "a b"


def test_half_a_character_in_a_name_ends_no_terminal() -> None:
    """A name with a lone surrogate, which JSON can hold, ended the chat of everyone."""
    view = chatting('{"t":"chat","name":"B\\ud800b","text":"hell\\udc00o"}')
    assert "B?b: hello" in drawn(view)[-3]


@pytest.mark.parametrize("text", ["ab " * 300_000, "\u0301" * 100_000 + "a" * 200, "\n" * 100_000])
def test_a_huge_text_is_cut_and_does_not_hold_up_the_terminal(text: str) -> None:
    """Text was laid out in square time, and all of it: 60 KB took 12 seconds at each drawing."""
    view = chatting(json.dumps({"t": "chat", "text": text}), text.replace("\n", "x"))
    assert f"({len(text)} characters)" in " ".join(drawn(view))


def test_a_long_line_can_be_written() -> None:
    field = Field()
    field.text, field.cursor = "x" * 8000, 8000
    canvas = Canvas(20, 1)
    for _ in range(20):
        field.draw(canvas, 5, 0)
    assert canvas.text() == ["     " + "x" * 13]


@given(
    st.lists(st.text(max_size=200), max_size=6),
    st.text(max_size=30),
    st.integers(0, 100),
    st.integers(0, 30),
)
def test_any_chat_fits_any_terminal(said: list[str], name: str, columns: int, rows: int) -> None:
    view = chatting(*said, *(Message(text, name, id=text).write() for text in said))
    canvas = Canvas(columns, rows)
    view.draw(canvas, 0.0)
    assert len(canvas.lines()) == rows


def test_who_reads_further_up_is_left_there_and_told_of_news() -> None:
    view = chatting(*(f"line {n}" for n in range(40)))
    press(view, "", "page up")
    before = drawn(view)[1:-2]
    view.receive("news", 0.0)
    assert drawn(view)[1:-2] == before
    assert "1 new below: Page Down" in drawn(view)[-2]
    press(view, "", "page down", "page down")
    assert drawn(view)[-3].endswith("news") and "below" not in drawn(view)[-2]


class Typist:
    """A screen at which somebody types so many keys at once, looks on for a moment, and leaves."""

    unicode = True

    def __init__(self, keys: str, clock: list[float]) -> None:
        self._keys: list[str | None] = [*keys, *[None] * 20, "enter"]
        self._clock = clock
        self.painted: list[str] = []

    def canvas(self) -> Canvas:
        return Canvas(60, 8)

    def paint(self, lines: Any) -> None:
        self.painted.append("".join(text for text, _ in lines[-2]).rstrip())

    def read_key(self, *, typing: bool) -> str | None:
        key = self._keys.pop(0)
        self._clock[0] += FRAME_TIME / 1000 if key is None else 0.0001
        return key


def test_what_is_pasted_is_not_drawn_character_by_character() -> None:
    """Each of 8,000 characters cost a drawing, and all together half a minute."""
    view, clock = chatting(), [100.0]
    link = SimpleNamespace(events=SimpleQueue(), send=lambda message: setattr(view, "done", True))
    app = App(view, link, "ws://host/room", clock=lambda: clock[0])  # type: ignore[arg-type]
    screen = Typist("x" * 3000 + "end", clock)
    app.run(screen)  # type: ignore[arg-type]
    assert any(line.endswith("end") for line in screen.painted), "it is seen before it is sent"
    assert 5 < len(screen.painted) < 40


def test_who_reads_what_is_forgotten_meanwhile_sees_the_oldest_that_is_left() -> None:
    view = chatting(*(f"line {n}" for n in range(MOST_MESSAGES)))
    press(view, "", "up")
    for number in range(MOST_MESSAGES + 100):
        view.receive(f"news {number}", 0.0)
    assert drawn(view)[-3].endswith("news 100")
    press(view, "", "down")
    assert drawn(view)[-3].endswith("news 101")


def test_what_is_written_without_a_connection_goes_out_when_it_is_back() -> None:
    view = chatting()
    app, link = start_app(view)
    app.handle(Lost(ConnectionClosed(1006, "gone"), 1.0))
    press(view, "still here", "enter")
    assert drawn(view)[-3].endswith("Ada: still here  (not sent yet)")
    app.handle(Opened(None))  # type: ignore[arg-type]
    (sent,) = link.sent
    assert json.loads(sent)["text"] == "still here"
    app.handle(Received(sent))
    app.handle(Received(sent))  # the room's history has it, too
    assert [line for line in drawn(view) if "still here" in line] == [drawn(view)[-3]]
    assert "not sent" not in drawn(view)[-3]


def test_what_is_not_sent_yet_is_said_also_where_a_line_ends_at_the_edge() -> None:
    """Half of it was cut off, or all."""
    message = Message("x" * 12, "Ada", 0.0, id="1")
    for columns in range(20, 50):
        rows = lay_out(message, columns, own=True, state="not sent yet")
        lines = ["".join(text for text, _ in row) for row in rows]
        assert lines[-1].endswith("  (not sent yet)")
        assert max(map(text_width, lines)) <= columns


def test_what_a_seat_would_not_keep_is_said_when_the_connection_is_back() -> None:
    """More than a mebibyte, written or on its way, was shown as said, and nobody had it."""
    view = chatting()
    app, link = start_app(view)
    app.handle(Lost(ConnectionClosed(1006, "gone"), 1.0))
    for text, link.takes in (("one", True), ("two", False)):
        app._send(press(view, text, "enter"))
    one, two = link.sent
    link.takes = True
    app.handle(Opened(None, resumed=True))  # type: ignore[arg-type]
    assert link.sent == [one, two, two], "the seat has kept the first"
    app.handle(Opened(None, resumed=True, lost=1))  # type: ignore[arg-type]
    assert link.sent[3:] == [one, two]


def test_a_line_for_a_program_is_said_once_also_when_older_ones_were_given_up() -> None:
    """The seat had kept it and said it, and the chat said it once more."""
    view = chatting()
    view.plain = True
    app, link = start_app(view)
    app.handle(Lost(ConnectionClosed(1006, "gone"), 1.0))
    for text, link.takes in (("one", True), ("two", False)):
        app._send(press(view, text, "enter"))
    link.takes = True
    app.handle(Opened(None, resumed=True, lost=1))  # type: ignore[arg-type]
    assert link.sent == ["one", "two", "two"], "the seat has kept the first"


def test_a_name_can_be_changed_and_one_leaves_by_word_or_key() -> None:
    view = chatting()
    assert press(view, "/name  Ada  Lovelace", "enter") == []
    assert "You are Ada Lovelace." in drawn(view)[-2]
    assert json.loads(press(view, "hi", "enter")[0])["name"] == "Ada Lovelace"
    (sent,) = press(view, "/named pipes are in /tmp", "enter")  # it was a new name, and not said
    assert json.loads(sent)["text"] == "/named pipes are in /tmp"
    assert json.loads(sent)["name"] == "Ada Lovelace"
    press(view, "x", "leave")
    assert not view.done, "something is written"
    press(view, "", "backspace", "leave")
    assert view.done
    assert press(view := chatting(), "/quit", "enter") == [] and view.done


# ==== In a real terminal ===================================================


@pytest.mark.slow
def test_who_says_nothing_of_a_room_meets_whoever_opens_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (PAGES / "chat" / "chat.js").read_text()
    room = re.findall(r'enterRoom\("(\w+)"', page)
    with pytest.raises(SystemExit):
        main(ChatView, ["--help"])
    assert [f"default: {room[0]}"] == re.findall(r"default: \w+", capsys.readouterr().out)


@pytest.mark.slow
def test_two_people_talk_and_the_room_comes_back(open_terminal: Callable[[], Terminal]) -> None:
    ada, bob = open_terminal(), open_terminal()
    with serve("chat") as server:
        ada.start(*client("chat", server, "Ada", "attic"))
        bob.start(*client("chat", server, "Bob", "attic"), size=(40, 15))
        for screen, name in ((ada, "Ada"), (bob, "Bob")):
            screen.wait_for(f"^{name}>")
        ada.type("quiet, I am typ")
        bob.type("hello Ada, do you read me on this small screen?")
        bob.keys("Enter")
        ada.wait_for(r"Bob: hello Ada, do you read me on this small screen\?$")
        ada.wait_for("^Ada> quiet, I am typ")
        ada.keys("End")
        ada.type("ing")
        ada.keys("Enter")
        bob.wait_for("Ada: quiet, I am typing$")
        server.kill()
    ada.wait_for("Connection lost")
    ada.type("anybody?")
    ada.keys("Enter")
    ada.wait_for(r"anybody\?  \(not sent yet\)$")
    with serve("chat", addr=f"127.0.0.1:{server.port}"):
        bob.wait_for(r"Ada: anybody\?$")
        ada.wait_for(r"Ada: anybody\?$")
        ada.keys("C-d")
        ada.wait_for("^exit 0$")


@pytest.mark.slow
def test_a_program_that_reads_lines_gets_lines(open_terminal: Callable[[], Terminal]) -> None:
    screen = open_terminal()
    with serve("--api", "--linebuffer", "on", "tr", "--", "a-z", "A-Z") as server:
        screen.start(*client("chat", server, "Ada", "shout"))
        screen.wait_for("^Ada>")
        screen.type("hello")
        screen.keys("Enter")
        screen.wait_for(r"\d\d:\d\d HELLO$")
        screen.wait_for(r"Ada: hello$")


@pytest.mark.slow
def test_page_and_terminal_speak_the_same_chat(open_terminal: Callable[[], Terminal]) -> None:
    """What the page sends is read (test_pages.py holds its form), and the other way round."""
    screen = open_terminal()

    def attic(server: ServerProcess) -> RawClient:
        return RawClient.connect(server, "attic")

    with serve("chat") as server, attic(server) as page:
        screen.start(*client("chat", server, "Ada", "attic"))
        screen.wait_for("^Ada>")
        page.send_json({"t": "chat", "name": "Zoë", "text": "a\nb", "at": 0, "id": "k3f9"})
        screen.wait_for(r"Zoë: a$\n +b$")
        page.receive_json()
        screen.type("hi")
        screen.keys("Enter")
        event = page.receive_json()
        assert isinstance(event, dict)
        assert {key: event[key] for key in ("t", "name", "text")} == {
            "t": "chat",
            "name": "Ada",
            "text": "hi",
        }
