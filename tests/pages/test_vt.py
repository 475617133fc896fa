"""The terminal of client/web/terminal: what its screen shows for what a program writes.

The emulator is JavaScript with nothing of a browser in it, so it runs in Node here: one process
for all tests, a line of JSON in and a line out. That what it shows is what a terminal shows, a
terminal of other people (tmux) says.
"""

from __future__ import annotations

import base64
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import ROOT, Call, require_tool, run_node, wait_until

SCRIPT = """
import readline from "node:readline";
import { Terminal } from "FOLDER/vt.js";
import * as keys from "FOLDER/keys.js";

function play({ columns, rows, chunks, resize, then }) {
  const terminal = new Terminal(columns, rows, { colours: { ink: "#e8ebf4", paper: "#10151f" } });
  let replies = "", bells = 0;
  terminal.reply = (text) => (replies += text);
  terminal.bell = () => (bells += 1);
  for (const chunk of chunks) terminal.write(Buffer.from(chunk, "base64"));
  if (resize) terminal.resize(...resize);
  terminal.write(then);
  const { x, y, wraps, lines } = terminal.screen;
  const sound = lines.length === terminal.rows && lines.every(({ cells }) =>
    cells.length === terminal.columns && cells.every(({ width }, i) =>
      width === 2 ? cells[i + 1]?.width === 0 : width === 1 || cells[i - 1]?.width === 2));
  return {
    lines: lines.map((line) => line.text), x, y, wraps, replies, bells, sound,
    continued: lines.map((line) => line.continues),
    pens: lines[0].cells.map(({ pen }) => pen),
    history: terminal.history.map((line) => line.text),
    title: terminal.title, modes: terminal.modes, alternate: terminal.alternate,
  };
}

const actions = { play, ...keys };
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  console.log(JSON.stringify(actions[name](...values)));
}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Call]:
    """Call a function of the emulator's modules with JSON values."""
    folder = ROOT / "client" / "web" / "terminal"
    program = SCRIPT.replace("FOLDER", folder.as_posix())
    with run_node(program) as call:
        yield call


@pytest.fixture(scope="module")
def play(node: Call) -> Call:
    """Write to a new terminal, in one piece or several, and tell what it then is like."""

    def write(
        *written: str | bytes,
        columns: int = 10,
        rows: int = 4,
        resize: list[int] | None = None,
        then: str = "",
    ) -> dict[str, Any]:
        raw = [part.encode() if isinstance(part, str) else part for part in written]
        chunks = [base64.b64encode(part).decode() for part in raw]
        size = {"columns": columns, "rows": rows}
        given = {**size, "chunks": chunks, "resize": resize, "then": then}
        return cast("dict[str, Any]", node("play", given))

    return write


# ==== 1. Text ==============================================================


@pytest.mark.parametrize(
    ("written", "lines", "cursor"),
    [
        ("one\r\ntwo", ["one", "two", "", ""], (3, 1)),
        ("0123456789ab", ["0123456789", "ab", "", ""], (2, 1)),
        ("0123456789", ["0123456789", "", "", ""], (9, 0)),  # wraps only when more comes
        ("0123456789\r\nx", ["0123456789", "x", "", ""], (1, 1)),
        ("\x1b[?7l0123456789ab", ["012345678b", "", "", ""], (9, 0)),
        ("a\tb\x1b[Zc", ["a       c", "", "", ""], (9, 0)),
        ("abc\b\bX", ["aXc", "", "", ""], (2, 0)),
        ("1\r\n2\r\n3\r\n4\r\n5", ["2", "3", "4", "5"], (1, 3)),
        ("漢字", ["漢字", "", "", ""], (4, 0)),
        ("123456789漢", ["123456789", "漢", "", ""], (2, 1)),
        ("漢字\r\x1b[Cx", [" x字", "", "", ""], (2, 0)),  # half of a wide one does not stay
        ("e\u0301x", ["e\u0301x", "", "", ""], (2, 0)),
        ("👍🏽!", ["👍🏽!", "", "", ""], (5, 0)),
        ("\x1b(0lqk\x1b(Blqk", ["┌─┐lqk", "", "", ""], (6, 0)),
        ("\x1b)0a\x0eq\x0fb", ["a─b", "", "", ""], (3, 0)),
        ("ab\x1b[3b", ["abbbb", "", "", ""], (5, 0)),
        (b"\xc5\xbc\xff!", ["ż\ufffd!", "", "", ""], (3, 0)),
    ],
)
def test_text_goes_to_the_screen(
    play: Call, written: str, lines: list[str], cursor: tuple[int, int]
) -> None:
    screen = play(written)
    assert screen["lines"] == lines
    assert (screen["x"], screen["y"]) == cursor
    assert screen["sound"]


# ==== 2. Moving, erasing, inserting, scrolling =============================

FULL = "aaaa\r\nbbbb\r\ncccc\r\ndddd"


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (FULL + "\x1b[2;3HX", ["aaaa", "bbXb", "cccc", "dddd"]),
        (FULL + "\x1b[HX\x1b[BY\x1b[2CZ\x1b[4DW", ["Xaaa", "bWbbZ", "cccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b[J", ["aaaa", "b", "", ""]),
        (FULL + "\x1b[2;2H\x1b[1J", ["", "  bb", "cccc", "dddd"]),
        (FULL + "\x1b[2J", ["", "", "", ""]),
        (FULL + "\x1b[2;2H\x1b[K", ["aaaa", "b", "cccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b[1K", ["aaaa", "  bb", "cccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b[2X", ["aaaa", "b  b", "cccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b[2@", ["aaaa", "b  bbb", "cccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b[2P", ["aaaa", "bb", "cccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b[4hxy\x1b[4lz", ["aaaa", "bxyzbb", "cccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b[LX", ["aaaa", "X", "bbbb", "cccc"]),
        (FULL + "\x1b[2;2H\x1b[2MX", ["aaaa", "Xddd", "", ""]),
        (FULL + "\x1b[S", ["bbbb", "cccc", "dddd", ""]),
        (FULL + "\x1b[2T", ["", "", "aaaa", "bbbb"]),
        (FULL + "\x1b[2;3r\x1b[3;1H\nX", ["aaaa", "cccc", "X", "dddd"]),
        (FULL + "\x1b[2;3r\x1b[2;1H\x1bMX", ["aaaa", "X", "bbbb", "dddd"]),
        (FULL + "\x1b[2;3r\x1b[4;1H\n\nX", ["aaaa", "bbbb", "cccc", "Xddd"]),
        (FULL + "\x1b[2;3r\x1b[?6h\x1b[9;1HX", ["aaaa", "bbbb", "Xccc", "dddd"]),
        (FULL + "\x1b[2;2H\x1b7\x1b[4;4H\x1b8X", ["aaaa", "bXbb", "cccc", "dddd"]),
        (FULL + "\x1b#8", ["E" * 10] * 4),
        (FULL + "\x1bc" + "new", ["new", "", "", ""]),
        (FULL + "\x1b[99;99HX", ["aaaa", "bbbb", "cccc", "dddd     X"]),
    ],
)
def test_control_sequences_change_the_screen(play: Call, written: str, lines: list[str]) -> None:
    screen = play(written)
    assert screen["lines"] == lines
    assert screen["sound"]


def test_a_character_cut_in_two_survives_a_reset_before_it(play: Call) -> None:
    assert play(b"\x1bc\xc5", b"\xbc!")["lines"][0] == "ż!"


def test_lines_that_scroll_off_become_history_until_it_is_erased(play: Call) -> None:
    assert play("1\r\n2\r\n3\r\n4\r\n5\r\n6")["history"] == ["1", "2"]
    assert play("1\r\n2\r\n3\r\n4\r\n5\x1b[3J")["history"] == []
    assert play("\x1b[2;4r\x1b[4;1Ha\nb\nc")["history"] == []  # a part of the screen scrolls
    flood = play("".join(f"{i}\r\n" for i in range(3000)))["history"]
    assert len(flood) == 2000 and flood[-1] == "2996"


def test_the_alternate_screen_leaves_the_other_as_it_was(play: Call) -> None:
    inside = play("shell$ vi", "\x1b[?1049h\x1b[H~\r\n~")
    assert inside["alternate"] and inside["lines"][:2] == ["~", "~"]
    after = play("shell$ vi", "\x1b[?1049h\x1b[H~\r\n\n\n\n\n\n~", "\x1b[?1049l!")
    assert not after["alternate"]
    assert after["lines"] == ["shell$ vi!", "", "", ""]
    assert after["history"] == []


@pytest.mark.parametrize(
    ("written", "continued"),
    [
        ("0123456789ab\r\nc", [True, False, False, False]),
        ("0123456789\r\nab", [False, False, False, False]),
        ("0123456789ab\x1b[1;5H\x1b[K", [False, False, False, False]),
        ("0123456789ab\x1b[1;5H\x1b[P", [False, False, False, False]),
        ("123456789漢", [True, False, False, False]),
    ],
)
def test_a_line_knows_whether_the_next_one_is_more_of_it(
    play: Call, written: str, continued: list[bool]
) -> None:
    assert play(written)["continued"] == continued


def test_another_size_keeps_what_there_is_room_for(play: Call) -> None:
    smaller = play("1\r\n2\r\n3\r\n4漢字", resize=[4, 2])
    assert smaller["lines"] == ["3", "4漢"] and smaller["history"] == ["1", "2"]
    assert smaller["sound"] and (smaller["x"], smaller["y"]) == (3, 1)
    larger = play("1\r\n2", resize=[20, 6])
    assert larger["lines"] == ["1", "2", "", "", "", ""] and larger["sound"]
    assert (larger["x"], larger["y"]) == (1, 1)


@pytest.mark.parametrize("then", ["X", "\x1b8X", "\x1b[?1049lX"])
def test_a_full_line_goes_on_where_there_is_room_after_a_resize(play: Call, then: str) -> None:
    """A cursor that was restored wrapped in the middle of the line; one that stayed overwrote."""
    saved = "\x1b7" if then != "\x1b[?1049lX" else "\x1b[?1049h"
    wider = play("0123456789" + saved, resize=[12, 4], then=then)
    assert (wider["lines"][:2], wider["x"], wider["y"]) == (["0123456789X", ""], 11, 0)
    same = play("0123456789" + saved, then=then)
    assert same["lines"][:2] == ["0123456789", "X"]
    assert play("0123456789" + saved, resize=[5, 4], then=then)["sound"]


# ==== 3. Colours and styles ================================================


@pytest.mark.parametrize(
    ("parameters", "look"),
    [
        ("31", {"ink": 1}),
        ("97;104", {"ink": 15, "paper": 12}),
        ("38;5;208", {"ink": 208}),
        ("48;2;1;2;255", {"paper": "#0102ff"}),
        ("38:2::1:2:3", {"ink": "#010203"}),
        ("38:5:9;1", {"ink": 9, "bold": True}),
        ("38;5;9;1", {"ink": 9, "bold": True}),
        ("58;5;1;3", {"italic": True}),
        ("1;2;4;7;9", {"bold": True, "faint": True, "underline": True, "inverse": True}),
        ("4:0", {"underline": False}),
        ("4:3", {"underline": True}),
        ("1;2;31;22", {"bold": False, "faint": False, "ink": 1}),
        ("31;44;1;0", {"ink": None, "paper": None, "bold": False}),
        ("31;", {"ink": None}),
        ("38;5;999;31", {"ink": 1}),
        ("38;2;1", {"ink": None}),
        ("31;39", {"ink": None}),
    ],
)
def test_the_pen_follows_its_parameters(
    play: Call, parameters: str, look: dict[str, object]
) -> None:
    pen = play(f"\x1b[{parameters}mx")["pens"][0]
    assert {name: pen[name] for name in look} == look


def test_what_is_erased_has_the_colour_of_the_paper_and_no_style(play: Call) -> None:
    pen = play("\x1b[1;7;31;44m\x1b[K")["pens"][5]
    assert (pen["paper"], pen["ink"], pen["inverse"], pen["bold"]) == (4, None, False, False)


# ==== 4. Questions, modes, and what is not understood ======================


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("\x1b[c", "\x1b[?62;22c"),
        ("\x1b[>c", "\x1b[>1;10;0c"),
        ("\x1b[5n", "\x1b[0n"),
        ("ab\r\n\x1b[6n", "\x1b[2;1R"),
        ("\x1b[2;3r\x1b[?6h\x1b[2;5H\x1b[6n", "\x1b[2;5R"),
        ("\x1b[18t", "\x1b[8;4;10t"),
        ("\x1b]11;?\x07", "\x1b]11;rgb:10/15/1f\x1b\\"),
        ("\x1b]10;?\x1b\\", "\x1b]10;rgb:e8/eb/f4\x1b\\"),
        (
            "\x1b[?2004h\x1b[?2004$p\x1b[?1049$p\x1b[?77$p",
            "\x1b[?2004;1$y\x1b[?1049;2$y\x1b[?77;0$y",
        ),
        ("\x1b]52;c;?\x07\x1b[?u\x1b[>q\x1bP+q544e\x1b\\", ""),
    ],
)
def test_programs_get_answers(play: Call, question: str, answer: str) -> None:
    screen = play(question)
    assert screen["replies"] == answer


def test_title_bell_and_modes(play: Call) -> None:
    screen = play("\x1b]0;a ż;b\x07\x07\x1b[?1h\x1b[?25l\x1b[?2004h\x1b[?1002;1006h")
    assert screen["title"] == "a ż;b"
    assert screen["bells"] == 1
    assert screen["modes"]["applicationCursor"] and screen["modes"]["paste"]
    assert not screen["modes"]["cursor"]
    assert (screen["modes"]["mouse"], screen["modes"]["mouseFormat"]) == (1002, True)


@pytest.mark.parametrize(
    "written",
    [
        "\x1b[38;5m\x1b[?9999h\x1b[=5u",
        "\x1bP1$r0m\x1b\\\x1b_app\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\",
        "\x1b]8;;https://example.com\x1b\\\x1b]8;;\x1b\\",
        "\x1b[12\x18\x1b[1\x1a\x1b\x1b[m",
        "\x1b[;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;m",
    ],
)
def test_what_is_not_understood_is_not_printed(play: Call, written: str) -> None:
    screen = play(written + "ok")
    assert screen["lines"] == ["ok", "", "", ""]


# ==== 5. Keys, paste, mouse ================================================


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ({"key": "a"}, ""),  # typed, not sent by the key itself
        ({"key": "Enter"}, "\r"),
        ({"key": "Backspace"}, "\x7f"),
        ({"key": "Tab", "shiftKey": True}, "\x1b[Z"),
        ({"key": "ArrowUp"}, "\x1b[A"),
        ({"key": "ArrowLeft", "ctrlKey": True}, "\x1b[1;5D"),
        ({"key": "Home"}, "\x1b[H"),
        ({"key": "Delete"}, "\x1b[3~"),
        ({"key": "F1"}, "\x1bOP"),
        ({"key": "F5", "shiftKey": True}, "\x1b[15;2~"),
        ({"key": "c", "ctrlKey": True}, "\x03"),
        ({"key": "[", "ctrlKey": True}, "\x1b"),
        ({"key": " ", "ctrlKey": True}, "\0"),
        ({"key": "b", "altKey": True}, "\x1bb"),
        ({"key": "Shift"}, ""),
        ({"key": "Dead"}, ""),
    ],
)
def test_keys_are_sent_as_xterm_does(node: Call, key: dict[str, object], sent: str) -> None:
    assert node("bytesFor", key, {"applicationCursor": False}) == sent


def test_option_types_on_a_mac_what_alt_is_a_prefix_for_elsewhere(node: Call) -> None:
    """On a German keyboard of Apple Option-L is @, and Option-7 is |: neither could be typed, as
    an escape was sent in front (elisescu/tty-share#65, Eugeny/tabby#183)."""
    at = {"key": "@", "code": "KeyL", "altKey": True}
    assert node("bytesFor", at, {}) == "\x1b@"
    assert node("bytesFor", at, {}, {"optionTypes": True}) == ""  # the browser types it
    left = {"key": "ArrowLeft", "altKey": True}
    assert node("bytesFor", left, {}, {"optionTypes": True}) == "\x1b[1;3D"


@pytest.mark.parametrize(
    ("event", "sent"),
    [
        ({"key": "Process", "code": "KeyC", "keyCode": 229, "ctrlKey": True}, "\x03"),
        ({"key": "Process", "code": "Escape", "keyCode": 229}, "\x1b"),
        ({"key": "Process", "code": "KeyC", "keyCode": 229}, ""),  # a composition begins
        ({"key": "Escape", "keyCode": 27}, "\x1b"),
    ],
)
def test_an_input_method_does_not_hide_control_keys(
    node: Call, event: dict[str, object], sent: str
) -> None:
    """With a Korean or Chinese input method on, Ctrl-C did not interrupt, and Escape did nothing
    (xtermjs/xterm.js#6067)."""
    assert node("bytesFor", node("unmasked", event), {}) == sent


def test_keys_of_an_input_method_are_not_the_programs(node: Call) -> None:
    assert node("unmasked", {"key": "Escape", "keyCode": 27, "isComposing": True}) is None
    assert node("unmasked", {"key": "Enter", "keyCode": 229}) is None


def test_arrows_change_with_the_mode_of_the_cursor_keys(node: Call) -> None:
    assert node("bytesFor", {"key": "ArrowUp"}, {"applicationCursor": True}) == "\x1bOA"


def test_pasted_text_cannot_leave_its_brackets(node: Call) -> None:
    assert node("bytesForPaste", "a\r\nb\nc", {"paste": False}) == "a\rb\rc"
    pasted = node("bytesForPaste", "x\x1b[201~rm\n", {"paste": True})
    assert pasted == "\x1b[200~x[201~rm\r\x1b[201~"


def test_the_mouse_is_reported_only_to_who_asks(node: Call) -> None:
    press = {"button": 0, "x": 3, "y": 4}
    assert node("bytesForMouse", press, {"mouse": 0, "mouseFormat": True}) == ""
    assert node("bytesForMouse", press, {"mouse": 1000, "mouseFormat": True}) == "\x1b[<0;4;5M"


# ==== 6. Whatever comes, and however it is cut =============================

PIECES = st.one_of(
    st.text("ab ż漢👍\u0301\t\r\n\b\x0e\x0f", min_size=1, max_size=12),
    st.builds(
        "\x1b[{}{}{}".format,
        st.sampled_from(["", "?", ">"]),
        st.lists(st.integers(0, 12).map(str), max_size=3).map(";".join),
        st.sampled_from("@ABCDEFGHIJKLMPSTXZ`abcdefghlmnrsu"),
    ),
    st.sampled_from(["\x1b7", "\x1b8", "\x1bD", "\x1bM", "\x1bE", "\x1bH", "\x1b(0", "\x1b(B"]),
    st.sampled_from(["\x1b[?1049h", "\x1b[?1049l", "\x1b[?7l", "\x1b[?7h", "\x1b#8", "\x1bc"]),
    st.text(max_size=5),
)


@settings(max_examples=150)
@given(st.lists(PIECES, max_size=25).map("".join), st.integers(0, 300), st.integers(1, 12))
def test_any_output_leaves_a_sound_screen_however_it_is_cut(
    play: Call, written: str, cut: int, columns: int
) -> None:
    raw = written.encode()
    whole = play(raw, columns=columns)
    assert whole["sound"]
    assert 0 <= whole["x"] < columns and 0 <= whole["y"] < 4
    assert play(raw[:cut], raw[cut:], columns=columns) == whole
    assert play(raw, columns=columns, resize=[7, 3])["sound"]


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_leave_a_sound_screen(play: Call, raw: bytes) -> None:
    assert play(raw)["sound"]


# ==== 7. The same as somebody else's terminal ==============================


def tmux_shows(folder: Path, raw: bytes, columns: int, rows: int) -> list[str]:
    """Return the lines that tmux shows for what a program writes."""
    folder = Path(mkdtemp(dir=folder))  # a server that ends may hold its socket for a while
    tmux = [require_tool("tmux"), "-S", str(folder / "socket"), "-f", "/dev/null"]
    (folder / "raw").write_bytes(raw)
    done = folder / "done"
    program = f"stty raw; cat '{folder}/raw'; touch '{done}'; sleep 60"
    size = ["-x", str(columns), "-y", str(rows)]
    subprocess.run([*tmux, "new-session", "-d", *size, program], check=True)
    try:
        wait_until(done.exists)
        wait_until(lambda: capture(tmux)[-1] == "the end")
        return capture(tmux)[:-1]
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)


def capture(tmux: list[str]) -> list[str]:
    shown = subprocess.run([*tmux, "capture-pane", "-p"], check=True, capture_output=True)
    return [line.rstrip() for line in shown.stdout.decode().split("\n")[:-1]] or [""]


@pytest.mark.slow
def test_tmux_shows_the_same(play: Call, tmp_path: Path) -> None:
    dice = random.Random(4)
    for _ in range(12):
        raw = "".join(piece(dice) for _ in range(120)).encode()
        raw += b"\x1b[r\x1b[?6l\x1b[?7h\x1b[4l\x1b(B\x0f\x1b[12;1H\x1b[2Kthe end"
        ours = play(raw, columns=40, rows=12)["lines"][:-1]
        assert ours == tmux_shows(tmp_path, raw, 40, 12), raw


def piece(dice: random.Random) -> str:
    """Return something that every terminal takes alike: tmux inserts lines also outside of the
    region that scrolls and stays in its column, and it erases from behind the last column."""
    number = dice.choice(["", "1", "2", "3", "7"])
    goto = f"\x1b[{dice.randint(1, 12)};{dice.randint(1, 40)}H"
    words = ["".join(dice.choices("abcdefgh ", k=dice.randint(1, 30))), "漢字", "x\ty", "\r\n"]
    controls = [f"{goto}\x1b[{number}{final}" for final in "@ABCDEPSTX"]
    lines = [f"\x1b[r{goto}\x1b[{number}{final}{goto}" for final in "LM"]
    erase = [f"{goto}\x1b[{kind}{final}" for kind in "012" for final in "JK"]
    top = dice.randint(1, 6)
    regions = [f"\x1b[{top};{top + dice.randint(1, 6)}r{goto}", "\x1b[r"]
    others = [f"{goto}\x1bM", f"{goto}\x1bD", "\x1b7", "\x1b8", f"{goto}\b", "\x1b[7m", "\x1b[m"]
    return dice.choice(dice.choice([words, words, words, controls, lines, erase, regions, others]))
