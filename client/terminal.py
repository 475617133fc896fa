"""What the terminal clients share: a canvas, the screen, the connection, and the main loop.

A game is a `GameView`: it takes messages and keys, and draws on a `Canvas`, which knows nothing
of curses. `main` does the rest: it asks for the server's address and a name, connects, and comes
back when the connection is lost.

                      messages                 keys
    server ──▶ link's thread ──▶ queue ──▶ main loop ◀── terminal
                                             │  game.receive, game.press, game.draw
                                             └──▶ canvas ──▶ screen
"""

from __future__ import annotations

import argparse
import contextlib
import json
import locale
import os
import queue
import re
import signal
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from scalesocket.net.standard_streams import open_standard_streams

from scalesocket import CloseCode, ScaleSocketError

from .reconnecting import Lost, Opened, Received, Reconnecting
from .websocket import (
    DEFAULT_ROOM,
    ConnectionClosed,
    InvalidHandshake,
    InvalidURL,
    WebSocket,
    escaped,
    explain,
    make_url,
    own_command,
)

if TYPE_CHECKING:
    import curses  # imported only when there is something to draw: Windows lacks it

DEFAULT_ADDRESS = "localhost:9000"
DEFAULT_NAME = "player"
FRAME_TIME = 30  # milliseconds for a key to come before messages are looked at
REDRAW_TIME = 0.25  # seconds between two drawings when nothing happens, for what counts down
GOOD_NEWS_STAYS = 4.0  # seconds
MOST_KEYS = 8  # between two drawings that are commands: nobody presses more, so more is pasted
PASTE_TIME = 2.0  # seconds that what is still being pasted is read for, when one leaves
SEND_TIMEOUT = 1.0  # seconds that a key may take to go out, or the connection is lost
MAX_NAMES = 9  # names that are tried when the wanted one is taken: ann, ann2, … ann9

Json = dict[str, Any]  # what the games send; their module docstrings say what is in it

# ==== 1. Canvas ==========================================================================
# Games draw here. The result is plain data, so that tests need no terminal.


class Style(Enum):
    """How a piece of text looks; the screen knows what that means in colours, or without."""

    TEXT = "text"
    DIM = "dim"
    TITLE = "title"
    OWN = "own"  # what belongs to the player
    RIVAL_1 = "rival 1"
    RIVAL_2 = "rival 2"
    RIVAL_3 = "rival 3"
    RIVAL_4 = "rival 4"
    FOOD = "food"
    ERROR = "error"
    CURSOR = "cursor"
    WIN = "win"


RIVALS = (Style.RIVAL_1, Style.RIVAL_2, Style.RIVAL_3, Style.RIVAL_4)

Line = list[tuple[str, Style]]

MOST_MARKS = 3  # on a character: more would cover the lines above
VARIANTS = "\ufe0e\ufe0f"  # left out: in colour or not, terminals differ in how wide that is


def is_mark(character: str) -> bool:
    """Whether a character is drawn on the one before it."""
    return unicodedata.category(character) in ("Mn", "Me")


def character_width(character: str) -> int:
    """Return how many columns a character takes: 0, 1 or 2."""
    if is_mark(character) or not character.isprintable():
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def text_width(text: str) -> int:
    """Return how many columns a text takes."""
    return sum(map(character_width, text))


def fit(text: str, width: int) -> str:
    """Return a text cut or filled up with spaces to just so many columns."""
    left = width
    for at, character in enumerate(text):
        if character_width(character) > left:
            return text[:at] + " " * left
        left -= character_width(character)
    return text + " " * left


def shorten(text: str, width: int, *, unicode: bool) -> str:
    """Return a text, or as much of it as there is room for, and a mark that it is cut."""
    mark = "…" if unicode else "..."
    return text if text_width(text) <= width else fit(text, width - len(mark)).rstrip() + mark


def fit_parts(parts: Iterable[str], width: int, gap: str = "  ") -> str:
    """Return the first parts, as many as there is room for; none is cut."""
    text = ""
    for part in parts:
        longer = f"{text}{gap}{part}" if text else part
        if text_width(longer) > width:
            break
        text = longer
    return text


def fit_hint(hint: str, width: int) -> str:
    """Return of the keys those that there is room for, and the last one in any case."""
    *parts, last = re.split("  +", hint)
    shown = fit_parts(parts, width - text_width(last) - 3, "   ")
    return f"{shown}   {last}" if shown else last


class Canvas:
    """A grid of characters, one for each column of each row of the terminal.

    Args:
        columns, rows: its size.
        unicode: whether the terminal shows more than ASCII.
    """

    def __init__(self, columns: int, rows: int, *, unicode: bool = True) -> None:
        self.columns = columns
        self.rows = rows
        self.unicode = unicode
        self._cells = [[(" ", Style.TEXT)] * columns for _ in range(rows)]

    def put(self, x: int, y: int, text: str, style: Style = Style.TEXT) -> None:
        """Write a text; what is outside the canvas is left out, as is what cannot be printed."""
        if not 0 <= y < self.rows:
            return
        if not self.unicode:
            text = text.encode("ascii", "replace").decode()
        row = self._cells[y]
        marked = None  # the cell that marks are drawn on
        for character in text:
            width = character_width(character)
            if width:
                marked = x if 0 <= x and x + width <= self.columns else None
                if marked is not None:
                    break_wide(row, x)
                    break_wide(row, x + width)
                    row[x : x + width] = [(character, style), ("", style)][:width]
            elif marked is not None and is_mark(character) and character not in VARIANTS:
                cell = row[marked][0] + character
                row[marked] = cell[: 1 + MOST_MARKS], style
            x += width

    def center(self, y: int, text: str, style: Style = Style.TEXT) -> None:
        """Write a text in the middle of a row."""
        self.put(max(0, (self.columns - text_width(text)) // 2), y, text, style)

    def right(self, y: int, text: str, style: Style = Style.TEXT) -> None:
        """Write a text at the end of a row."""
        self.put(self.columns - text_width(text), y, text, style)

    def banner(self, x: int, y: int, texts: Sequence[str], style: Style) -> None:
        """Write lines in a box whose middle is at a place, as far as the canvas allows."""
        width = min(max(map(text_width, texts)) + 4, self.columns)
        left = max(0, min(x - width // 2, self.columns - width))
        top = y - (len(texts) + 2) // 2
        for index, text in enumerate(["", *texts, ""]):
            indent = " " * ((width - text_width(text)) // 2)
            self.put(left, top + index, fit(indent + text, width), style)

    def is_too_small(self, columns: int, rows: int) -> bool:
        """Whether it is smaller than that; it then says what will do."""
        if self.columns >= columns and self.rows >= rows:
            return False
        text = f"Too small; {columns}x{rows + 1} will do."  # its last line is not on the canvas
        for y, line in enumerate(textwrap.wrap(text, max(self.columns, 1))):
            self.put(0, y, line, Style.ERROR)
        return True

    def paste(self, x: int, y: int, other: Canvas) -> None:
        """Copy another canvas, with its top left corner to a place on this one."""
        for above, row in enumerate(other._cells[: max(0, self.rows - y)]):
            row = row[: max(0, self.columns - x)]
            self._cells[y + above][x : x + len(row)] = row

    def lines(self) -> list[Line]:
        """Return the rows as pieces of text of one style each."""
        return [join_cells(row) for row in self._cells]

    def text(self) -> list[str]:
        """Return the rows as text alone."""
        return ["".join(character for character, _ in row).rstrip() for row in self._cells]


def break_wide(row: list[tuple[str, Style]], x: int) -> None:
    """Take away the wide character that a column is the second half of, if it is that."""
    if x < len(row) and not row[x][0]:
        row[x - 1 : x + 1] = [(" ", Style.TEXT)] * 2


def faded(lines: list[Line]) -> list[Line]:
    """Return a drawing as it looks when it is no longer true."""
    return [[(text, Style.DIM) for text, _ in line] for line in lines]


def join_cells(row: list[tuple[str, Style]]) -> Line:
    """Return a row with its neighbours of the same style joined."""
    line: Line = []
    for character, style in row:
        if line and line[-1][1] is style:
            line[-1] = (line[-1][0] + character, style)
        else:
            line.append((character, style))
    return line


# ==== 2. Games ===========================================================================


class GameView:
    """What one player knows of a game, and how it looks. Subclass it.

    Attributes:
        program: its name on the command line.
        hint: the keys, for the last line of the screen.
        letters: keys that it knows beside `LETTERS`, or in their place; each is named by itself.
        subprotocols: to offer to the server.
        usual_room: where nothing is said of it.
        patient: what is sent while there is no connection may wait for it, if there is a seat.
        wanted: the name that the player has asked for.
        notice: the last thing that the server did not like.
        typing: what the player is writing; None while keys are commands.
        done: the player has had enough, in some other way than by the key that quits.
    """

    program: ClassVar[str]
    hint: ClassVar[str]
    letters: ClassVar[str] = ""
    subprotocols: ClassVar[Sequence[str]] = ()
    usual_room: ClassVar[str] = DEFAULT_ROOM
    patient: ClassVar[bool] = False

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted.encode(errors="replace").decode()  # bytes of argv may be no UTF-8
        self.notice = ""
        self.typing: str | None = None
        self.done = False
        self._names = 0  # how many have been tried

    def prepare(self, url: str) -> None:
        """Do what is to be done before there is a connection: here, nothing.

        Args:
            url: of the room.
        """

    def decode(self, message: str | bytes) -> Any:
        """Return what a message of the server holds: here, a JSON object.

        Raises:
            WrongGame, ValueError: the server speaks another language.
        """
        return read_event(message)

    @staticmethod
    def encode(message: Any) -> str | bytes:
        """Return the bytes or the text of a message to the server."""
        return json.dumps(message)

    def opened(self) -> Json | None:
        """Begin anew on an open connection; return what to send first: here, our name."""
        self._names = 1
        self.notice = ""
        return {"t": "name", "name": self.wanted}

    def lost(self) -> None:
        """Take note that there is no connection; `opened` or `resumed` follows when it is back."""

    def unsent(self) -> None:
        """Take note that what was to be sent was not, and is not kept."""

    def resumed(self, lost: int) -> Any:
        """Go on: the connection is back, nothing was missed, and the room knows who this is.

        Args:
            lost: how many of our messages the room has not got.

        Returns:
            What to send, if anything; a list is several.
        """

    def refused(self, error: str, *, named: bool) -> Json | None:
        """Note an error; if it is that our name is taken, return a message that tries another."""
        self.notice = error
        if named or not error.endswith("is taken") or self._names >= MAX_NAMES:
            return None
        self.notice = ""
        self._names += 1
        return {"t": "name", "name": f"{self.wanted[:15]}{self._names}"}

    def receive(self, event: Any, now: float) -> Any:
        """Take what `decode` returned; return what to answer, if anything; a list is several.

        Raises:
            LookupError, TypeError, ValueError, OverflowError: the server speaks another language.
        """
        raise NotImplementedError

    def press(self, key: str) -> Any:
        """Take a key, as `LETTERS` names them; return what to send, if anything.

        While `typing` it is a character, one of `EDITING`, or a key that moves a cursor.
        """
        raise NotImplementedError

    def draw(self, canvas: Canvas, now: float) -> None:
        """Draw everything.

        Args:
            canvas: empty, and as large as the screen but for its last line.
            now: the time on the clock that `receive` got.
        """
        raise NotImplementedError


class WrongGame(Exception):
    """The room plays something else."""


def read_event(message: str | bytes) -> Json:
    """Return the object in a message. Raises WrongGame if there is none."""
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("t"), str):
        raise WrongGame(f"what it sends is {message[:30]!r}")
    return event


# ==== 3. Screen ==========================================================================

# For each style a colour, or none, and the attributes.
LOOKS: dict[Style, tuple[str, tuple[str, ...]]] = {
    Style.TEXT: ("", ()),
    Style.DIM: ("", ("A_DIM",)),
    Style.TITLE: ("", ("A_BOLD",)),
    Style.OWN: ("COLOR_GREEN", ("A_BOLD",)),
    Style.RIVAL_1: ("COLOR_CYAN", ()),
    Style.RIVAL_2: ("COLOR_MAGENTA", ()),
    Style.RIVAL_3: ("COLOR_YELLOW", ()),
    Style.RIVAL_4: ("COLOR_BLUE", ()),
    Style.FOOD: ("COLOR_RED", ("A_BOLD",)),
    Style.ERROR: ("COLOR_RED", ("A_BOLD", "A_REVERSE")),
    Style.CURSOR: ("COLOR_YELLOW", ("A_REVERSE",)),
    Style.WIN: ("COLOR_GREEN", ("A_BOLD", "A_REVERSE")),
}

LETTERS = {"w": "up", "a": "left", "s": "down", "d": "right", " ": "enter", "\n": "enter"}
LETTERS |= {key: key for key in "123456789r"} | {"q": "quit"}
EDITING = {"\n": "enter", "\r": "enter", "\x1b": "escape", "\x7f": "backspace", "\b": "backspace"}
EDITING |= {"\t": " "}  # of what is pasted: nothing else would keep its words apart
EDITING |= {"\x01": "home", "\x05": "end", "\x15": "escape", "\x04": "leave"}  # Ctrl-A, E, U, D


def speaks_unicode() -> bool:
    """Whether the terminal shows more than ASCII, as far as the locale says."""
    return locale.nl_langinfo(locale.CODESET).upper().replace("-", "") == "UTF8"


class Screen:
    """The terminal, by way of curses.

    Args:
        window: the whole of it.
        letters: keys that mean something beside `LETTERS`.
    """

    def __init__(self, window: curses.window, letters: str = "") -> None:
        import curses

        self._window = window
        self._error = curses.error
        self.unicode = speaks_unicode()
        self._attributes = {style: self._look(style) for style in Style}
        self._keys = {
            curses.KEY_UP: "up",
            curses.KEY_DOWN: "down",
            curses.KEY_LEFT: "left",
            curses.KEY_RIGHT: "right",
            curses.KEY_HOME: "home",
            curses.KEY_END: "end",
            curses.KEY_PPAGE: "page up",
            curses.KEY_NPAGE: "page down",
            curses.KEY_ENTER: "enter",
            curses.KEY_BACKSPACE: "backspace",
            curses.KEY_DC: "delete",
        }
        self._letters = LETTERS | {letter: letter for letter in letters}
        window.timeout(FRAME_TIME)
        try:
            curses.curs_set(0)
        except curses.error:  # this terminal cannot hide its cursor
            pass

    @staticmethod
    def _look(style: Style) -> int:
        import curses

        colour, names = LOOKS[style]
        look = 0
        for name in names:
            look |= getattr(curses, name)
        if colour and curses.has_colors() and "NO_COLOR" not in os.environ:
            curses.use_default_colors()
            number = list(Style).index(style) + 1
            curses.init_pair(number, getattr(curses, colour), -1)
            look |= curses.color_pair(number)
        return look

    def canvas(self) -> Canvas:
        """Return an empty canvas of the terminal's size."""
        rows, columns = self._window.getmaxyx()
        return Canvas(columns, rows, unicode=self.unicode)

    def paint(self, lines: list[Line]) -> None:
        """Show a drawing."""
        self._window.erase()
        for y, line in enumerate(lines):
            x = 0
            for text, style in line:
                self._write(x, y, text, self._attributes[style])
                x += text_width(text)
        self._window.refresh()

    def _write(self, x: int, y: int, text: str, attributes: int) -> None:
        try:
            self._window.addstr(y, x, text, attributes)
        except self._error:
            pass  # the cursor cannot go behind the last column of the last row, or it has shrunk

    def read_key(self, *, typing: bool = False) -> str | None:
        """Return the next key; None if it means nothing, or after `FRAME_TIME`.

        Args:
            typing: letters stand for themselves.
        """
        try:
            key = self._window.get_wch()
        except self._error:
            return None
        if isinstance(key, int):
            return self._keys.get(key)
        if typing:
            return EDITING.get(key, key if key.isprintable() else None)
        return self._letters.get(key.lower())

    def drop_keys(self) -> None:
        """Read what waits: of what was pasted into a game, a shell would run the rest."""
        until = time.monotonic() + PASTE_TIME
        with contextlib.suppress(self._error):  # none has come for `FRAME_TIME`
            while time.monotonic() < until:
                self._window.get_wch()


# ==== 4. Connection ======================================================================


class Link:
    """A connection that comes back, run in a thread, for a loop that must not wait for it.

    Args:
        reconnecting: the connection.
        encode: makes text or bytes of what is sent.
        patient: what is sent while there is no connection waits for it, if there is a seat.

    Attributes:
        events: what happens, for the main loop; an exception is the last.

    Raises:
        InvalidHandshake, OSError: the first attempt has failed.
    """

    def __init__(
        self,
        reconnecting: Reconnecting,
        encode: Callable[[Any], str | bytes],
        *,
        patient: bool = False,
    ) -> None:
        self._encode = encode
        self._patient = patient
        self.events: queue.SimpleQueue[Opened | Received | Lost | Exception] = queue.SimpleQueue()
        self._ws: WebSocket | None = None  # while it is open
        self._reconnecting = reconnecting
        happenings = self._reconnecting.events()
        self._note(next(happenings))
        self._thread = threading.Thread(
            target=self._run, args=(happenings,), name="link", daemon=True
        )
        self._thread.start()

    def send(self, message: Any) -> bool:
        """Send a message, or drop it while there is no connection, unless it may wait.

        Return whether it is sent, or waits.
        """
        goes_on = self._patient or self._ws is not None
        return goes_on and self._reconnecting.send(self._encode(message), SEND_TIMEOUT)

    def stop(self) -> None:
        """End the connection."""
        self._reconnecting.stop()
        if (ws := self._ws) is not None:
            ws.close()
        self._thread.join(1.0)  # it may be in the middle of an attempt to connect

    def _run(self, happenings: Iterator[Opened | Received | Lost]) -> None:
        try:
            for event in happenings:
                self._note(event)
        except (ScaleSocketError, OSError) as error:
            self.events.put(error)

    def _note(self, event: Opened | Received | Lost) -> None:
        if isinstance(event, Opened):
            self._ws = event.ws
        elif isinstance(event, Lost):
            self._ws = None  # closed by now
        self.events.put(event)


# ==== 5. The main loop ===================================================================


class App:
    """One player at one terminal.

    Args:
        game: what is played.
        link: open.
        url: for what is said about the connection.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(
        self, game: GameView, link: Link, url: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.game = game
        self._link = link
        self._url = url
        self._clock = clock
        self._lost: Lost | None = None  # while there is no connection
        self._retry_at = 0.0
        self._back_at = -GOOD_NEWS_STAYS  # when the connection came back, and nothing was missed

    def run(self, screen: Screen) -> None:
        """Play until the player has had enough.

        Raises:
            ConnectionClosed, InvalidHandshake, OSError: the server has, for good.
            WrongGame: the room plays something else.
        """
        drawn_at, keys = 0.0, 0
        changed, key = True, None
        while True:
            changed |= self._take_events()
            since = self._clock() - drawn_at
            # What is pasted comes as keys: to draw after each of them would take far too long.
            due = key is None or since > FRAME_TIME / 1000
            if (changed and due) or since > REDRAW_TIME:
                screen.paint(self.draw(screen.canvas()))
                changed, drawn_at, keys = False, self._clock(), 0
            typing = self.game.typing is not None
            key = screen.read_key(typing=typing)
            if key is not None:
                keys, changed = keys + 1, True
            if key is None or (keys > MOST_KEYS and not typing):
                continue
            if key == "quit":
                return
            self._send(self.game.press(key))
            if self.game.done:
                return

    def draw(self, canvas: Canvas) -> list[Line]:
        """Draw the game, and below it what the keys are, or what has become of the connection."""
        now = self._clock()
        view = Canvas(canvas.columns, canvas.rows - 1, unicode=canvas.unicode)
        self.game.draw(view, now)
        if self._lost is None and now - self._back_at < GOOD_NEWS_STAYS:
            canvas.put(0, 0, fit(" Back again, nothing missed.", canvas.columns), Style.OWN)
        elif self._lost is None:
            canvas.put(0, 0, f" {fit_hint(self.game.hint, canvas.columns - 2)}", Style.DIM)
        else:
            canvas.put(
                0,
                0,
                fit(f" {self._say_lost(now, canvas.columns - 1)}", canvas.columns),
                Style.ERROR,
            )
        shown = view.lines() if self._lost is None else faded(view.lines())
        return [*shown, *canvas.lines()[:1]]

    def _say_lost(self, now: float, width: int) -> str:
        """Return that the connection is lost, and as much more as there is room for."""
        assert self._lost is not None
        left = self._retry_at - now
        soon = left < 0.5
        what = f"Connection lost; {'connecting' if soon else f'again in {left:.0f} s'}"
        why = f"({explain(self._lost.error, self._url)})"
        return (
            fit_parts([what, why], width, " ")
            or f"Lost; {'connecting' if soon else f'{left:.0f} s'}"
        )

    def _take_events(self) -> bool:
        """Handle what has come over the connection; tell whether anything has."""
        changed = False
        while not self._link.events.empty():
            self.handle(self._link.events.get())
            changed = True
        return changed

    def handle(self, event: Opened | Received | Lost | Exception) -> None:
        """Handle one thing that has happened. Raises as `run` does."""
        match event:
            case Opened(resumed=True):
                self._lost = None
                self._back_at = self._clock()
                self._send(self.game.resumed(event.lost))
            case Opened():
                self._lost = None
                self._send(self.game.opened())
            case Received():
                try:
                    self._send(self.game.receive(self.game.decode(event.message), self._clock()))
                except (LookupError, TypeError, ValueError, OverflowError) as error:
                    raise WrongGame(f"{error} ({type(error).__name__})") from error
            case Lost():
                self._lost = event
                self.game.lost()
                self._retry_at = self._clock() + event.delay
            case Exception():
                raise event

    def _send(self, message: Any) -> None:
        messages = message if isinstance(message, list) else [message]
        for one in messages:
            if one is not None and not self._link.send(one):
                self.game.unsent()


# ==== 6. Beginning and end ===============================================================


def parse_arguments(game: type[GameView], argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and ask for what it does not say."""
    keys = ", ".join(re.split("  +", game.hint))
    parser = argparse.ArgumentParser(
        prog=own_command(game.program),
        description=f"Join in {game.program} from a terminal.",
        epilog=f"Keys: {keys}. Whatever is not said here is asked for.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        metavar="ADDRESS",
        help=f"such as {DEFAULT_ADDRESS}, a ws:// URL, or a page's link",
    )
    parser.add_argument("--name", help="your name, for the others to see")
    parser.add_argument("--room", default=game.usual_room, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.error("a terminal is needed to play in")
    arguments.address = arguments.address or ask("Server", DEFAULT_ADDRESS)
    arguments.name = arguments.name or ask("Your name", DEFAULT_NAME)
    return arguments


def ask(question: str, default: str) -> str:
    """Ask for a line on the terminal."""
    return input(f"{question} [{default}]: ").strip() or default


def end_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by way of an exception, so that the terminal is put in order."""
    sys.exit(128 + number)


def play(game: GameView, link: Link, url: str) -> None:
    """Run a game on the whole screen. Raises as `App.run`, and `curses.error`."""
    import curses

    locale.setlocale(locale.LC_ALL, "")
    curses.set_escdelay(25)
    curses.setupterm()
    if curses.tigetstr("cup") is None:  # as of `dumb`, where each row would hide the one before
        raise curses.error("it places no cursor; set TERM to what it is")

    def run(window: curses.window) -> None:
        screen = Screen(window, game.letters)
        try:
            App(game, link, url).run(screen)
        finally:
            screen.drop_keys()

    curses.wrapper(run)


def main(make_game: type[GameView], argv: Sequence[str] | None = None) -> int:
    """Run a terminal client; return the exit status.

    Args:
        make_game: what is played.
        argv: the command line, without the program's name.
    """
    open_standard_streams()
    program = make_game.program
    url = ""
    try:
        import curses

        arguments = parse_arguments(make_game, argv)
        url = make_url(arguments.address, arguments.room)
        game = make_game(arguments.name)
        game.prepare(url)
        link = Link(
            Reconnecting.to(url, subprotocols=make_game.subprotocols),
            make_game.encode,
            patient=make_game.patient,
        )
        signal.signal(signal.SIGTERM, end_on_signal)
        try:
            play(game, link, url)
        finally:
            link.stop()
    except (KeyboardInterrupt, EOFError):
        print()
        return 130
    except ImportError:
        message = "Python's curses module is missing (on Windows: pip install windows-curses)"
    except curses.error as error:
        message = f"this terminal cannot be drawn on: {error}"
    except WrongGame as error:
        message = f"{url} does not play {program}: {error}"
    except ConnectionClosed as error:
        message = f"the room has ended: {error.reason or explain(error, url)}"
        if error.code == CloseCode.NORMAL:
            print(escaped(message))
            return 0
    except (InvalidURL, InvalidHandshake, OSError) as error:
        message = explain(error, url)
    else:
        return 0
    print(f"client.{program}: {escaped(message)}", file=sys.stderr)
    return 1
