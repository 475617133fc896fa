"""A chat in a terminal, for `python3 scalesocket.py chat`, or any program that says to all what
one has said, such as `cat`.

    python3 -m client.chat [ADDRESS] [--name NAME] [--room ROOM]

It speaks as the page does (client/web/chat/messages.js): a message is one JSON text with `t`,
`name`, `text`, `at` and `id`. What others send is shown above the line that one writes, and what
is written while there is no connection goes out when it is back. A program that is no chat gets
lines of text. `Chat` keeps what was said, `Field` what is being written, `ChatView` draws them.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scalesocket import clean_name

from .terminal import RIVALS, Canvas, GameView, Style, character_width, fit, main, text_width

ECHOES = ("cat", "chat")  # programs that say to all what one has said
ECHO_WITHIN = 5.0  # seconds; a program that has said nothing by then never will
REPEATS_WITHIN = 1.5  # seconds until the server repeats itself (--cache), or does so once more
MOST_MESSAGES = 1000  # that are kept
# What a server may repeat are the last messages of its room, as many as --cache says. No client is
# told how many, so this is far beyond what is usual; of a longer history the oldest come again.
MOST_TALLIED = 50_000  # lines, at the least, of which it is known that they were shown
MOST_CHARACTERS = 1 << 23  # of these
LONGEST_NAME = 40  # characters
LONGEST_TEXT = 8000  # to be written; of a longer one that comes, so much is shown
LAST_TIME = 3e13  # milliseconds: the year 2920, and some systems tell no time after 3000
MIN_COLUMNS, MIN_ROWS = 20, 4  # below there is one row more
TAB = 4  # columns from one stop to the next
INDENT = 18  # columns before the second line of a message, at the most


# ==== 1. What is said ====================================================================


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody has said, what the program has printed, or who has come and gone."""

    text: str
    name: str = ""  # of who says it; "" for news and for lines of a program
    at: float = 0.0  # seconds since 1970, by the clock of who says it
    id: str = ""  # made up by who says it
    number: str = ""  # `#7`: the sender's ID, if the server tells it (--frame=json)
    is_news: bool = False

    def write(self) -> str:
        """Return our own message as it crosses the wire."""
        at = round(1000 * self.at)
        return json.dumps(
            {"t": "chat", "name": self.name, "text": self.text, "at": at, "id": self.id},
            ensure_ascii=False,
        )


def read_message(raw: str, now: float) -> Message:
    """Make a message of any text; what is no chat is a line of some program."""
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        return Message(raw, at=now)
    sender = event.get("_from")
    number = f"#{sender}" if isinstance(sender, int) else ""
    news = {"Join": "came in", "Leave": "left"}.get(str(event.get("t")))
    if news and number:
        return Message(f"{number} {news}", at=now, is_news=True)
    if event.get("t") != "chat" or not isinstance(event.get("text"), str):
        return Message(raw, at=now)
    name, made_up = event.get("name"), event.get("id")
    return Message(
        event["text"],
        clean(name) if isinstance(name, str) else "Somebody",
        read_time(event.get("at"), now),
        made_up if isinstance(made_up, str) else "",
        number,
    )


def read_time(at: object, now: float) -> float:
    """Return the seconds in a time in milliseconds, or `now` if a clock cannot show it."""
    return at / 1000 if isinstance(at, int | float) and 0 <= at <= LAST_TIME else now


def clean(name: str) -> str:
    """Return a name in one line that can be seen, and not too long."""
    words = clean_name(name).split()
    return " ".join(words)[:LONGEST_NAME] or "Somebody"


class Tally:
    """How often lines were shown lately: the older half of them is forgotten at once."""

    def __init__(self) -> None:
        self._latest: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._size = 0  # characters of the latest

    def __contains__(self, line: str) -> bool:
        return line in self._latest or line in self._before

    def add(self, line: str) -> None:
        """Note that a line is shown."""
        if len(self._latest) >= MOST_TALLIED or self._size >= MOST_CHARACTERS:
            self._before, self._latest, self._size = self._latest, Counter(), 0
        if line not in self._latest:
            self._size += len(line)
        self._latest[line] += 1

    def total(self) -> Counter[str]:
        """Return how often each was shown, as far as that is known."""
        return self._before + self._latest


class Chat:
    """What was said, each message once, and what of ours the room has not heard yet."""

    def __init__(self) -> None:
        self.log: deque[Message] = deque(maxlen=MOST_MESSAGES)
        # By ID, with the time it was sent; infinity: it could not be.
        self.pending: dict[str, tuple[Message, float]] = {}
        self._ids = Tally()
        self._lines = Tally()  # without an ID
        self._expected: Counter[str] = Counter()  # these, less what has come again
        self._repeated: set[str] = set()  # IDs and lines that have come again
        self._repeats_end = 0.0

    def opened(self, now: float) -> list[Message]:
        """The connection is there again; return what has to be said once more."""
        self._expected = self._lines.total()
        self._repeated.clear()
        self._repeats_end = now + REPEATS_WITHIN
        self.pending = {key: (message, now) for key, (message, _) in self.pending.items()}
        return [message for message, _ in self.pending.values()]

    def lost(self, now: float) -> None:
        """The connection is lost; the rest of what the server repeats comes when it is back."""
        if now < self._repeats_end:
            self._repeats_end = math.inf

    def resumed(self, now: float, lost: int) -> list[Message]:
        """The connection is there again, with what was sent but for `lost` messages.

        Return what has to be said: who has heard it already knows its ID.
        """
        self._repeats_end = min(self._repeats_end, now + REPEATS_WITHIN)
        unsaid = [one for one, sent in self.pending.values() if lost or sent == math.inf]
        self.pending = {key: (message, now) for key, (message, _) in self.pending.items()}
        return unsaid

    def say(self, message: Message, now: float) -> None:
        """Note what is on its way."""
        self.pending[message.id] = (message, now)

    def unsent(self) -> None:
        """Note that what was said last is not on its way."""
        if self.pending:
            key, (message, _) = self.pending.popitem()
            self.pending[key] = (message, math.inf)

    def hear(self, message: Message, now: float) -> bool:
        """Take what the room says; return whether it is new."""
        self.pending.pop(message.id, None)
        if self._knows(message, now):
            return False
        self.log.append(message)
        return True

    def give_up(self, now: float) -> None:
        """Take for said what no program has repeated; only while there is a connection."""
        for message, sent in [*self.pending.values()]:
            if now - sent > ECHO_WITHIN:
                self.hear(message, now)

    def _knows(self, message: Message, now: float) -> bool:
        """Return whether it was shown before; the server may go on to repeat itself then.

        A program that says the same line all the time repeats only itself: that is no sign of it.
        """
        known = self._knows_id(message.id) if message.id else self._expects(message.text, now)
        key = message.id or message.text
        if known and now < self._repeats_end and key not in self._repeated:
            self._repeated.add(key)
            self._repeats_end = now + REPEATS_WITHIN
        return known

    def _knows_id(self, id: str) -> bool:
        known = id in self._ids
        self._ids.add(id)
        return known

    def _expects(self, line: str, now: float) -> bool:
        is_due = now < self._repeats_end and self._expected[line] > 0
        if is_due:
            self._expected[line] -= 1
        else:
            self._lines.add(line)
        return is_due


# ==== 2. What is being written ===========================================================


class Field:
    """A line of text with a cursor."""

    def __init__(self) -> None:
        self.text = ""
        self.cursor = 0  # the character that it stands before

    def press(self, key: str) -> None:
        """Take a key, as `GameView.press` gets it while somebody types."""
        before, after = self.text[: self.cursor], self.text[self.cursor :]
        match key:
            case "left" | "right":
                step = 1 if key == "right" else -1
                self.cursor = max(0, min(self.cursor + step, len(self.text)))
            case "home" | "end":
                self.cursor = 0 if key == "home" else len(self.text)
            case "escape":
                self.clear()
            case "backspace":
                self.text, self.cursor = before[:-1] + after, max(0, self.cursor - 1)
            case "delete":
                self.text = before + after[1:]
            case _ if len(key) == 1 and len(self.text) < LONGEST_TEXT:
                self.text, self.cursor = before + key + after, self.cursor + 1

    def clear(self) -> str:
        """Begin a new line; return the one that was."""
        text, self.text, self.cursor = self.text, "", 0
        return text

    def draw(self, canvas: Canvas, x: int, y: int) -> None:
        """Draw the part around the cursor; it is never out of sight."""
        left = canvas.columns - x - 2
        start = self.cursor
        while start > 0 and (left := left - character_width(self.text[start - 1])) >= 0:
            start -= 1
        canvas.put(x, y, self.text[start:])
        at = x + text_width(self.text[start : self.cursor])
        canvas.put(at, y, self.text[self.cursor : self.cursor + 1] or " ", Style.CURSOR)


# ==== 3. How it looks ====================================================================

Row = list[tuple[str, Style]]


def wrap(text: str, width: int) -> Iterator[str]:
    """Give out a text in lines of so many columns at the most, broken between words if possible."""
    for line in text.split("\n"):
        start = 0
        while (end := find_end(line, start, width)) < len(line):
            space = line.rfind(" ", start + 1, end + 1)
            yield line[start : space if space > 0 else end]
            start = space + 1 if space > 0 else end
        yield line[start:]


def find_end(text: str, start: int, width: int) -> int:
    """Return where the part of a text ends that fits into a row; it has one character at least."""
    for end in range(start, len(text)):
        width -= character_width(text[end])
        if width < 0 and end > start:
            return end
    return len(text)


def shorten(text: str) -> str:
    """Return what is shown of a text: to lay out a mebibyte, which anybody may send, takes long."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} ... ({len(text)} characters)"


def lay_out(message: Message, columns: int, *, own: bool, state: str = "") -> list[Row]:
    """Return the rows of one message."""
    if message.is_news:
        return [[(line, Style.DIM)] for line in wrap(f"* {message.text}", columns)]
    clock = time.strftime("%H:%M ", time.localtime(message.at))
    style = Style.OWN if own else RIVALS[sum(message.name.encode()) % len(RIVALS)]
    name = " ".join(filter(None, (fit(message.name, 24).rstrip(), message.number)))
    head = [(clock, Style.DIM), (f"{name}: " if message.name else "", style)]
    indent = min(sum(text_width(text) for text, _ in head), INDENT, columns // 2)
    text_style = Style.DIM if state else Style.TEXT
    first_width = max(columns - sum(text_width(text) for text, _ in head), columns - INDENT - 24, 8)
    whole = shorten(message.text).expandtabs(TAB)
    first = next(wrap(whole, first_width))
    rest = whole[len(first) :]
    rest = rest[1:] if rest[:1] in ("\n", " ") else rest
    rows: list[Row] = [[*head, (first, text_style)]]
    if rest:
        more = wrap(rest, columns - indent)
        rows += [[(" " * indent, Style.TEXT), (line, text_style)] for line in more]
    if state:
        mark = f"  ({state})"
        if sum(text_width(text) for text, _ in rows[-1]) + len(mark) > columns:
            rows.append([])
            mark = mark.strip().rjust(columns)
        rows[-1].append((mark, Style.DIM))
    return rows


class ChatView(GameView):
    """A chat at one terminal."""

    program = "chat"
    usual_room = "lounge"  # as of the page
    patient = True
    hint = "Enter sends   Page Up scrolls   /name NAME   Ctrl-D leaves"

    def __init__(self, wanted: str) -> None:
        super().__init__(clean(wanted))
        self.typing = ""  # all the time
        self.chat = Chat()
        self.field = Field()
        self.plain = False  # the program wants lines of text
        self.room = ""
        self._mine = Tally()  # IDs
        self._below = 0  # messages below those that are seen
        self._online = False
        self._news = 0  # of them, those that have come since

    def prepare(self, url: str) -> None:
        """Find out whether the program is a chat, if the server tells (--api)."""
        self.room = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        base = "http" + url.removeprefix("ws").rpartition("/")[0]
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            with urllib.request.urlopen(f"{base}/api/", timeout=3) as response:
                target = json.load(response)["target"]
            self.plain = target is not None and target not in ECHOES

    def decode(self, message: str | bytes) -> str:
        """Return the text of a message."""
        return message if isinstance(message, str) else message.decode(errors="replace")

    @staticmethod
    def encode(message: Any) -> str:
        """Return what is sent: a text as it is."""
        return str(message)

    def opened(self) -> Any:
        """Say what the room has not heard yet."""
        self._online = True
        return [self._write(message) for message in self.chat.opened(time.monotonic())]

    def lost(self) -> None:
        """Keep what is written from now on."""
        self._online = False
        self.chat.lost(time.monotonic())

    def unsent(self) -> None:
        """Say it when the connection is back."""
        self.chat.unsent()

    def resumed(self, lost: int) -> Any:
        """Go on; what was written meanwhile is on its way, or is said now."""
        self._online = True
        again = 0 if self.plain else lost  # no ID tells a line that is said twice
        return [self._write(message) for message in self.chat.resumed(time.monotonic(), again)]

    def receive(self, event: str, now: float) -> None:
        """Take what the room says."""
        if self.chat.hear(read_message(event, time.time()), now) and self._below:
            # The oldest are forgotten, also under the eyes of who reads them: one stays to be seen.
            self._below = min(self._below + 1, len(self.chat.log) - 1)
            self._news = min(self._news + 1, self._below)

    def press(self, key: str) -> Any:
        """Write, send, scroll."""
        self.notice = ""
        page = {"page up": 8, "page down": -8, "up": 1, "down": -1}.get(key)
        if page is not None:
            self._scroll(page)
        elif key == "leave":
            self.done = not self.field.text
        elif key == "enter":
            return self._enter(self.field.clear().strip())
        else:
            self.field.press(key)
        return None

    def _scroll(self, messages: int) -> None:
        self._below = max(0, min(self._below + messages, len(self.chat.log) - 1))
        if self._below < self._news:
            self._news = self._below

    def _enter(self, text: str) -> str | None:
        if text in ("/quit", "/q"):
            self.done = True
        elif text.split(maxsplit=1)[:1] == ["/name"]:
            self._rename(text.removeprefix("/name"))
        elif text:
            self._below = self._news = 0
            message = Message(text, self.wanted, time.time(), secrets.token_hex(8))
            self._mine.add(message.id)
            if not self.plain or not self._online:
                self.chat.say(message, time.monotonic())
            if self.plain and self._online:
                self.chat.hear(message, time.monotonic())
            return self._write(message)
        return None

    def _rename(self, name: str) -> None:
        if name.strip():
            self.wanted = clean(name)
        self.notice = f"You are {self.wanted}." if name.strip() else "/name and your name"

    def _write(self, message: Message) -> str:
        return message.text if self.plain else message.write()

    def draw(self, canvas: Canvas, now: float) -> None:
        """Draw what was said, the newest at the bottom, and the line that is written."""
        if canvas.is_too_small(MIN_COLUMNS, MIN_ROWS):
            return
        if self._online:
            self.chat.give_up(now)
        rows = self._rows(canvas.columns, canvas.rows - 3)
        for y, row in enumerate(rows, 1 + canvas.rows - 3 - len(rows)):
            x = 0
            for text, style in row:
                canvas.put(x, y, text, style)
                x += text_width(text)
        canvas.put(0, 0, fit(f" {self.room}", canvas.columns), Style.TITLE)
        self._draw_edge(canvas)
        prompt = f"{fit(self.wanted, 12).rstrip()}> "
        canvas.put(0, canvas.rows - 1, prompt, Style.OWN)
        self.field.draw(canvas, text_width(prompt), canvas.rows - 1)

    def _rows(self, columns: int, most: int) -> list[Row]:
        """Return the last rows that fit."""
        pending = [message for message, _ in self.chat.pending.values()] if not self._below else []
        heard = [*self.chat.log][: len(self.chat.log) - self._below]
        rows: list[Row] = []
        for message in reversed([*heard, *pending]):
            if len(rows) >= most:
                break
            waits = message.id in self.chat.pending
            state = "" if not waits else "sending" if self._online else "not sent yet"
            own = message.id in self._mine
            rows = [*lay_out(message, columns, own=own, state=state), *rows]
        return rows[-most:]

    def _draw_edge(self, canvas: Canvas) -> None:
        """Draw the line between what was said and what is written."""
        y = canvas.rows - 2
        canvas.put(0, y, ("─" if canvas.unicode else "-") * canvas.columns, Style.DIM)
        if self._news:
            text = f" {self._news} new below: Page Down "
        elif self._below:
            text = " more below: Page Down "
        else:
            text = f" {self.notice} " if self.notice else ""
        canvas.put(2, y, text, Style.CURSOR)


if __name__ == "__main__":
    sys.exit(main(ChatView))
