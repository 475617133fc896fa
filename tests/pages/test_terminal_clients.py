"""The terminal clients: what they know, what they draw, and both played in a real terminal."""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.client import snake, terminal, tictactoe
from scalesocket.client.reconnecting import Lost, Opened, Received, Reconnecting
from scalesocket.client.snake import SnakeView
from scalesocket.client.terminal import (
    FRAME_TIME,
    App,
    Canvas,
    GameView,
    Link,
    Style,
    WrongGame,
    character_width,
    fit,
    fit_hint,
    fit_parts,
    text_width,
)
from scalesocket.client.tictactoe import Table, TicTacToeView, detail, headline
from scalesocket.client.websocket import ConnectionClosed, Stream, WebSocket, make_url
from scalesocket.game import snake_rules
from scalesocket.game.tictactoe_rules import Table as ServerTable

from tests.support import PATIENCE, ROOT, ServerProcess, free_port, require_tool, serve, wait_until

# ==== The canvas ==========================================================


@given(st.text(), st.integers(0, 30))
def test_fitted_text_takes_just_so_many_columns(text: str, width: int) -> None:
    assert text_width(fit(text, width)) == width


def test_what_is_too_long_is_not_measured_again_for_each_character_that_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error of 4,000 characters, which any program may send, stopped a client for 8 s."""
    measured = []
    monkeypatch.setattr(terminal, "character_width", lambda c: measured.append(c) or 1)
    assert fit("x" * 1000, 10) == "x" * 10
    assert len(measured) <= 1000


@pytest.mark.parametrize(
    ("width", "parts", "hint"),
    [
        (80, "score 0  best 12", "arrows steer   ? keys   q quits"),
        (16, "score 0  best 12", "q quits"),
        (25, "score 0  best 12", "arrows steer   q quits"),
        (15, "score 0", "q quits"),
        (6, "", "q quits"),
    ],
)
def test_where_there_is_little_room_whole_words_are_left_out(
    width: int, parts: str, hint: str
) -> None:
    """A `wood 20` that was cut said `wood 2`; and how to leave always stands there."""
    assert fit_parts(["score 0", "best 12"], width) == parts
    assert fit_hint("arrows steer  ? keys  q quits", width) == hint


@given(st.lists(st.tuples(st.integers(-5, 15), st.integers(-2, 6), st.text())))
def test_a_canvas_keeps_its_size_whatever_is_written(texts: list[tuple[int, int, str]]) -> None:
    canvas = Canvas(10, 4)
    for x, y, text in texts:
        canvas.put(x, y, text, Style.OWN)
    lines = canvas.lines()
    assert len(lines) == 4
    for line in lines:
        whole = "".join(text for text, _ in line)
        assert sum(map(character_width, whole)) <= 10
        assert all(c.isprintable() for c in whole)


def test_what_steers_a_terminal_is_not_drawn() -> None:
    canvas = Canvas(10, 1)
    canvas.put(0, 0, "a\x1b[2J\nb")
    assert canvas.text() == ["a[2Jb"]


@pytest.mark.parametrize(
    ("text", "shown", "width"),
    [
        ("👩\u200d🚀", "👩🚀", 4),  # a terminal may have a picture of both: one of 2 columns, or 4
        ("🏳\ufe0f\u200d🌈", "🏳🌈", 3),
        ("❤\ufe0f", "❤", 1),  # with the mark a terminal may show it in 2 columns
        ("ที่นี่", "ที่นี่", 2),
        ("e\u0301", "e\u0301", 1),
        ("\u0301日\u0301", "日\u0301", 2),
        ("a" + "\u0301" * 50, "a\u0301\u0301\u0301", 1),
    ],
)
def test_what_follows_marks_and_joined_pictures_stands_in_its_column(
    text: str, shown: str, width: int
) -> None:
    """Marks of Thai, and of emoji, took a column each, where a terminal gives them none."""
    canvas = Canvas(10, 1)
    canvas.put(0, 0, f"{text}|")
    assert canvas.text() == [f"{shown}|"]
    assert text_width(text) == width


def test_a_wide_character_takes_two_columns() -> None:
    canvas = Canvas(6, 1)
    canvas.put(0, 0, "日x")
    canvas.put(5, 0, "本")  # half of it would be outside
    assert canvas.text() == ["日x"]
    assert text_width("日x") == 3


def test_half_of_a_wide_character_is_never_left() -> None:
    for x, text in ((0, "x 本"), (1, " x本"), (2, "日x"), (3, "日 x")):
        canvas = Canvas(4, 1)
        canvas.put(0, 0, "日本")
        canvas.put(x, 0, "x")
        assert canvas.text() == [text]


def test_neighbours_of_one_style_are_one_piece() -> None:
    canvas = Canvas(5, 1)
    canvas.put(1, 0, "ab", Style.OWN)
    assert canvas.lines() == [[(" ", Style.TEXT), ("ab", Style.OWN), ("  ", Style.TEXT)]]


def test_a_canvas_is_pasted_as_far_as_there_is_room() -> None:
    small = Canvas(3, 3)
    for y in range(3):
        small.put(0, y, "abc")
    canvas = Canvas(4, 3)
    canvas.paste(2, 1, small)
    assert canvas.text() == ["", "  ab", "  ab"]


def test_a_banner_stays_on_the_canvas() -> None:
    canvas = Canvas(12, 5)
    canvas.banner(11, 2, ["You bit yourself, and more"], Style.CURSOR)
    assert canvas.text()[2] == "You bit yours"[:12].rstrip()


# ==== Addresses ===========================================================


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("localhost:9000", "ws://localhost:9000/lobby"),
        ("localhost", "ws://localhost:9000/lobby"),
        ("10.0.0.7:81/den", "ws://10.0.0.7:81/den"),
        ("localhost/", "ws://localhost:9000/lobby"),
        ("::1", "ws://[::1]:9000/lobby"),
        ("[::1]", "ws://[::1]:9000/lobby"),
        ("[::1]:81", "ws://[::1]:81/lobby"),
        ("ws://localhost", "ws://localhost/lobby"),
        ("wss://example.com/den", "wss://example.com/den"),
        ("ws://localhost?a=1", "ws://localhost/lobby?a=1"),
        ("http://localhost:9000", "ws://localhost:9000/lobby"),
        ("http://localhost:9000/den", "ws://localhost:9000/den"),
        ("http://localhost:9000/chat/?room=a+b%2F", "ws://localhost:9000/a%20b%2F"),
        ("https://example.com/base/snake/?room=den", "wss://example.com/base/den"),
    ],
)
def test_an_address_is_completed(address: str, url: str) -> None:
    assert make_url(address, "lobby") == url


@pytest.mark.parametrize("address", ["[::1", "http://[::1/chat/?room=den", "ws://[x]/den"])
def test_what_is_no_address_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    arguments = argparse.Namespace(address=address, room="den", name="ann")
    monkeypatch.setattr(terminal, "parse_arguments", lambda *_: arguments)
    assert terminal.main(SnakeView) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"client.snake: {address!r} is no address: ") and "\n" not in error[:-1]


def test_a_room_may_have_any_name() -> None:
    assert make_url("localhost:1", "a/b #1") == "ws://localhost:1/a%2Fb%20%231"
    assert make_url("localhost:1", "\udcff") == "ws://localhost:1/%FF", "a byte of argv"


# ==== The game under the terminal =========================================


class FakeLink:
    """Takes what is sent; nothing comes."""

    takes = True  # what it does not is lost

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.events: SimpleQueue[Any] = SimpleQueue()

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        return self.takes


@pytest.mark.slow
def test_a_server_that_takes_nothing_any_more_is_lost() -> None:
    """Each key held up the screen for a second, and what was written seemed to be said."""
    ours, theirs = socket.socketpair()
    connections = [WebSocket(Stream(ours), close_timeout=0.1)]

    def open_connection() -> WebSocket:
        if not connections:
            raise ConnectionRefusedError
        return connections.pop()

    with theirs:
        link = Link(Reconnecting(open_connection), lambda message: message)
        assert isinstance(link.events.get(timeout=PATIENCE), Opened)
        for _ in range(20):
            link.send(b"x" * 2**20)
        lost = link.events.get(timeout=PATIENCE)
        link.stop()
    assert isinstance(lost, Lost)


def start_app(game: GameView, now: float = 0.0) -> tuple[App, FakeLink]:
    link = FakeLink()
    return App(game, link, "ws://host:9000/lobby", clock=lambda: now), link  # type: ignore[arg-type]


def message(**event: Any) -> Received:
    return Received(json.dumps(event))


@pytest.mark.parametrize(
    "wrong",
    [
        "hello",
        b"\0",
        "[]",
        "{}",
        '{"t": 1}',
        '{"t": "Welcome"}',
        '{"t": "welcome"}',
        '{"t": "state", "board": "XO"}',
        "[" * 200_000,
        '{"t": "welcome", "id": 1e999, "width": 9, "height": 9, "rate": 8}',
        '{"t": "state", "board": ".........", "turn": null, "spectators": 1e999,'
        ' "players": {"X": null, "O": null}, "you": null, "name": null, "result": null}',
    ],
)
@pytest.mark.parametrize("make_game", [SnakeView, TicTacToeView])
def test_a_room_that_plays_something_else_is_noticed(
    make_game: type[GameView], wrong: str | bytes
) -> None:
    app, _ = start_app(make_game("ann"))
    with pytest.raises(WrongGame):
        app.handle(Received(wrong))


@pytest.mark.parametrize("make_game", [SnakeView, TicTacToeView])
def test_a_name_that_is_taken_is_varied(make_game: type[GameView]) -> None:
    app, link = start_app(make_game("ann"))
    link.sent.append(app.game.opened())
    app.handle(message(t="error", error="the name 'ann' is taken"))
    app.handle(message(t="error", error="the name 'ann2' is taken"))
    assert [sent["name"] for sent in link.sent] == ["ann", "ann2", "ann3"]
    for _ in range(20):
        app.handle(message(t="error", error="the name is taken"))
    assert len(link.sent) == 9


def test_a_lost_connection_is_said_and_counted_down() -> None:
    app, _ = start_app(SnakeView("ann"))
    app.handle(Lost(ConnectionClosed(1012, "restarting"), 4.0))
    last = "".join(text for text, _ in app.draw(Canvas(90, 10))[-1])
    assert last.strip() == "Connection lost; again in 4 s (closed with 1012: restarting)"
    # What there is no room for is left out; "… (closed with" was cut off in the middle.
    for columns, said in (
        (61, "Connection lost; again in 4 s (closed with 1012: restarting)"),
        (60, "Connection lost; again in 4 s"),
        (18, "Lost; 4 s"),
    ):
        last = "".join(text for text, _ in app.draw(Canvas(columns, 10))[-1])
        assert last.strip() == said
    app, _ = start_app(SnakeView("ann"), now=100)
    app.handle(Lost(ConnectionRefusedError(), 0.1))
    assert "connecting" in "".join(text for text, _ in app.draw(Canvas(90, 10))[-1])
    assert "Lost; connecting" in "".join(text for text, _ in app.draw(Canvas(18, 10))[-1])


# ==== Snake ===============================================================


def welcome(world: snake_rules.World, own: int) -> dict[str, Any]:
    return {"t": "welcome", "id": own, "width": world.width, "height": world.height, "rate": 8}


def play_snake(seed: int, ticks: int) -> Iterator[tuple[snake_rules.World, snake.World]]:
    """Play at random; give the server's world and the client's after each tick."""
    chance = random.Random(seed)
    theirs = snake_rules.World(12, 8, random.Random(seed))
    ours = snake.World()
    ours.apply(welcome(theirs, 1))
    ours.apply({"t": "full", **copy.deepcopy(theirs.describe())})
    present: set[int] = set()
    for _ in range(ticks):
        player = chance.randrange(1, 6)
        if player not in present:
            theirs.join(player, f"p{player}")
            present.add(player)
        elif player > 1 and chance.random() < 0.1:
            theirs.leave(player)
            present.remove(player)
        else:
            theirs.turn(player, chance.choice(["up", "down", "left", "right"]))
        delta = json.loads(json.dumps({"t": "delta", **theirs.step().describe()}))
        ours.apply(delta)
        yield theirs, ours


def describe(world: snake.World) -> dict[str, Any]:
    """Return a client's world as the server describes its own, as far as it is of use."""
    players = [
        {
            "id": player.id,
            "name": player.name,
            "body": player.body,
            "dir": player.body and player.direction,
            "score": player.score,
            "best": player.best,
            "respawn": player.respawn,
            "waits": player.waits,
        }
        for player in world.players.values()
    ]
    return {"tick": world.tick, "players": players, "food": sorted(world.food)}


@pytest.mark.slow
@given(st.integers(0, 1 << 30))
def test_the_deltas_keep_the_world_the_same_as_the_servers(seed: int) -> None:
    for theirs, ours in play_snake(seed, 60):
        expected: dict[str, Any] = theirs.describe()
        for player in expected["players"]:
            player["dir"] = player["body"] and player["dir"]  # where a dead snake looks is nothing
        assert describe(ours) == {**expected, "food": sorted(expected["food"])}
        assert [p.id for p in ours.leaderboard()] == [p.id for p in theirs.leaderboard()]


@pytest.mark.slow
@given(st.integers(0, 1000), st.integers(0, 140), st.integers(0, 40), st.booleans())
def test_snake_fits_every_terminal(seed: int, columns: int, rows: int, unicode: bool) -> None:
    for _, world in play_snake(seed, 8):
        canvas = Canvas(columns, rows, unicode=unicode)
        snake.draw(world, canvas)
        assert len(canvas.lines()) == rows
        assert unicode or all(line.isascii() for line in canvas.text())


def make_snake_world() -> snake.World:
    """Return a world of 60 by 20 with our snake, a rival and food."""
    world = snake.World()
    world.apply({"t": "welcome", "id": 7, "width": 60, "height": 20, "rate": 8})
    players = [
        {
            "id": 7,
            "name": "ann",
            "body": [[3, 4], [2, 4], [1, 4]],
            "dir": "right",
            "score": 2,
            "best": 5,
            "respawn": None,
        },
        {
            "id": 9,
            "name": "bob",
            "body": [[50, 10], [50, 11]],
            "dir": "up",
            "score": 6,
            "best": 6,
            "respawn": None,
        },
    ]
    world.apply({"t": "full", "tick": 100, "players": players, "food": [[9, 9]]})
    return world


def draw_snake(world: snake.World, columns: int, rows: int, **options: Any) -> list[str]:
    canvas = Canvas(columns, rows, **options)
    snake.draw(world, canvas)
    return canvas.text()


def test_snake_fills_a_terminal_of_80_by_24_with_the_whole_world() -> None:
    lines = draw_snake(make_snake_world(), 80, 23)
    assert lines[0] == " ann" + " " * 46 + "score 2  best 5  place 2 of 2"
    assert lines[1].startswith("┌" + "─" * 60 + "┐")
    assert lines[22] == "└" + "─" * 60 + "┘"
    assert lines[6].startswith("│ ██▶")
    assert lines[12][51] == "▲" and lines[13][51] == "▓"
    assert lines[11][10] == "●"
    assert re.search(r"bob +6 +6$", lines[2]) and re.search(r"ann +2 +5$", lines[3])


def test_our_own_snake_and_name_stand_out() -> None:
    canvas = Canvas(80, 23)
    snake.draw(make_snake_world(), canvas)
    own = [text for line in canvas.lines() for text, style in line if style is Style.OWN]
    assert own == ["ann", "ann        2    5", "██▶"]


def test_a_wide_terminal_shows_cells_as_squares() -> None:
    lines = draw_snake(make_snake_world(), 150, 30)
    assert lines[1].startswith(" ┌" + "──" * 60 + "┐")
    assert lines[6].startswith(" │  ████")
    assert lines[6][8:10] == "█▶"


def test_a_small_terminal_scrolls_with_the_snake() -> None:
    world = make_snake_world()
    assert draw_snake(world, 40, 11)[6].startswith("│ ██▶")
    world.apply({"t": "delta", "tick": 101, "moved": [[7, 59, 19, "right"]]})
    lines = draw_snake(world, 40, 11)
    assert lines[10] == "─" * 39 + "┘"
    assert lines[9].endswith("▶│")


def test_a_tiny_terminal_says_what_it_needs() -> None:
    assert draw_snake(make_snake_world(), 19, 30)[0].startswith("Too small; 20x8")
    assert draw_snake(make_snake_world(), 18, 5)[:2] == ["Too small; 20x8", "will do."]
    assert draw_snake(make_snake_world(), 20, 7)[0] != ""


def test_ascii_is_enough_to_tell_snakes_apart() -> None:
    lines = draw_snake(make_snake_world(), 80, 23, unicode=False)
    assert lines[6].startswith("| OO>")
    assert lines[12][51] == "^" and lines[13][51] == "x"


@pytest.mark.parametrize(
    ("cause", "by", "text"),
    [
        ("wall", None, "You ran into the wall."),
        ("self", None, "You bit yourself."),
        ("snake", 9, "You ran into bob."),
        ("head", 9, "You and bob met head to head."),
        ("head", 12, "You and someone met head to head."),
    ],
)
def test_a_death_is_explained_and_the_next_life_counted_down(
    cause: str, by: int | None, text: str
) -> None:
    world = make_snake_world()
    death = {"id": 7, "cause": cause, "by": by, "respawn": 116}
    world.apply({"t": "delta", "tick": 101, "died": [death]})
    world.apply({"t": "delta", "tick": 104})
    drawn = "\n".join(draw_snake(world, 80, 23))
    assert text in drawn and "You start in 1.5 s" in drawn


@pytest.mark.parametrize("y", [1, 18])
def test_who_is_born_is_told_the_keys_and_when_it_starts(y: int) -> None:
    world = make_snake_world()
    born = {"id": 7, "body": [[30, y], [29, y], [28, y]], "dir": "right", "waits": 180}
    world.apply({"t": "delta", "tick": 101, "born": [born]})
    world.apply({"t": "delta", "tick": 102})
    lines = draw_snake(world, 80, 23)
    assert "Arrows or WASD: off you go!" in "\n".join(lines)
    assert "By itself in 10 s" in "\n".join(lines)
    assert lines[y + 2][28:].startswith(" ██▶"), "the banner is not over the snake"
    world.apply({"t": "delta", "tick": 103, "moved": [[7, 31, y, "right"]]})
    assert "off you go" not in "\n".join(draw_snake(world, 80, 23))


def test_who_is_born_on_a_narrow_terminal_is_told_all_the_same() -> None:
    world = make_snake_world()
    born = {"id": 7, "body": [[30, 1], [29, 1], [28, 1]], "dir": "right", "waits": 180}
    world.apply({"t": "delta", "tick": 101, "born": [born]})
    lines = [line.strip("│ ") for line in draw_snake(world, 20, 23)]
    at = lines.index("Arrows or WASD:")
    assert lines[at + 1 : at + 3] == ["off you go!", "By itself in 10 s"]


def test_what_is_no_longer_true_is_dimmed() -> None:
    game = SnakeView("ann")
    app, _ = start_app(game)
    game.world = make_snake_world()
    live = app.draw(Canvas(90, 24))
    app.handle(Lost(ConnectionClosed(1012, "restarting"), 4.0))
    lost = app.draw(Canvas(90, 24))
    texts = [["".join(text for text, _ in line) for line in lines] for lines in (live, lost)]
    assert texts[0][:-1] == texts[1][:-1], "the last picture stays"
    assert {style for line in lost[:-1] for _, style in line} == {Style.DIM}


def test_a_new_connection_begins_with_a_new_world() -> None:
    game = SnakeView("ann")
    game.world = make_snake_world()
    game.opened()
    canvas = Canvas(80, 23)
    game.draw(canvas, 0)
    assert "".join(canvas.text()).strip() == "Waiting for the world ..."


def test_ticks_before_the_world_is_told_are_passed_over() -> None:
    """After a crash of the server a seat is back before its room has told it everything anew."""
    game = SnakeView("ann")
    tick = {"t": "delta", "tick": 9, "moved": [[7, 4, 4, "right"]]}
    welcome = {"t": "welcome", "id": 7, "width": 60, "height": 20, "rate": 8}
    snake_ = {"id": 7, "name": "ann", "body": [[3, 4]], "dir": "right", "score": 0, "best": 0}
    full = {"t": "full", "tick": 9, "players": [{**snake_, "respawn": None}], "food": []}
    for event in (tick, welcome, tick, full, {**tick, "tick": 10}):
        assert game.receive(event, 0) is None
    assert game.world.own is not None and game.world.own.body == [(4, 4)]
    with pytest.raises(ValueError, match="it begins with state"):
        SnakeView("ann").receive({"t": "state"}, 0)


def test_keys_turn_the_snake() -> None:
    game = SnakeView("ann")
    assert game.press("up") == {"t": "turn", "dir": "up"}
    assert game.press("enter") is None


# ==== Tic-tac-toe =========================================================


TABLE_STATE: dict[str, Any] = {
    "board": "X.O......",
    "turn": "X",
    "players": {"X": "ann", "O": "bob"},
    "you": "X",
    "name": "ann",
    "token": None,
    "spectators": 0,
    "result": None,
    "line": None,
    "forfeit": False,
    "away": None,
    "grace": 0,
    "rematch": [],
}


def make_table(**changes: Any) -> Table:
    return Table.read({**TABLE_STATE, **changes}, 0)


def draw_table(table: Table | None, columns: int = 80, rows: int = 23, **options: Any) -> str:
    canvas = Canvas(columns, rows, unicode=options.pop("unicode", True))
    tictactoe.draw(table, canvas, options.pop("now", 0.0), **options)
    return "\n".join(canvas.text())


def test_a_server_table_can_be_read() -> None:
    """What the rules describe is what the client needs, with what the game adds to it."""
    state = {**ServerTable(15).describe(0), "you": None, "name": None, "spectators": 1}
    assert headline(Table.read(json.loads(json.dumps(state)), 0)) == "Waiting for another player."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Your turn, X."),
        ({"turn": "O"}, "bob's turn."),
        ({"turn": None, "players": {"X": "ann", "O": None}}, "Waiting for another player."),
        ({"turn": None, "result": "draw"}, "A draw."),
        ({"turn": None, "result": "X"}, "You win!"),
        ({"turn": None, "result": "O"}, "bob wins."),
        ({"turn": None, "result": "X", "forfeit": True}, "The other one has left: you win!"),
        ({"turn": None, "result": "O", "you": None, "forfeit": True}, "The other one has left."),
    ],
)
def test_the_headline_says_how_it_stands(changes: dict[str, Any], expected: str) -> None:
    assert headline(make_table(**changes)) == expected
    assert expected in draw_table(make_table(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"away": "O", "grace": 15}, "bob lost the connection: 12 s to come back"),
        ({"you": None}, "You are watching."),
        ({"result": "X"}, "r asks for a rematch"),
        ({"result": "X", "rematch": ["X"]}, "Waiting for bob ..."),
        ({"result": "X", "rematch": ["O"]}, "bob wants a rematch: press r"),
    ],
)
def test_the_second_line_says_what_else_is_to_be_known(
    changes: dict[str, Any], expected: str
) -> None:
    assert detail(make_table(**changes), 3.2) == expected


def test_nobody_is_to_move_while_the_connection_is_lost() -> None:
    game = TicTacToeView("ann")
    app, _ = start_app(game)
    state = {"t": "state", **TABLE_STATE, "turn": "O"}

    def shown() -> str:
        return "\n".join("".join(text for text, _ in line) for line in app.draw(Canvas(80, 24)))

    for opened in (Opened(SimpleNamespace()), Opened(SimpleNamespace(), resumed=True)):
        app.handle(message(**state))
        assert "bob's turn." in shown()
        app.handle(Lost(ConnectionClosed(1012, "restarting"), 4.0))
        assert "turn" not in shown() and "bob" in shown()
        app.handle(opened)
        assert "bob's turn." in shown()


@pytest.mark.parametrize(("unicode", "mark"), [(True, "…"), (False, "...")])
def test_a_name_that_is_cut_says_so(unicode: bool, mark: str) -> None:
    """The end of the second one lay under who watches, and nobody could see that it is longer."""
    players = {"X": "maximilian the 1st"[:16], "O": "christopher robin"[:16]}
    for you in ("X", "O", None):
        table = make_table(players=players, you=you, spectators=2)
        head = draw_table(table, 40, 11, unicode=unicode).split("\n")[0]
        for name, shown in zip(players.values(), (head[:20], head[20:]), strict=True):
            cut = shown[3:].partition(" (you)")[0].rstrip()
            assert cut == name or (cut.endswith(mark) and name.startswith(cut.removesuffix(mark)))
        assert head.count("(you)") == (you is not None)
    bob = draw_table(make_table(spectators=2), 40, 11, unicode=unicode).split("\n")[0]
    assert bob.endswith("O bob   2 watching")


def test_the_board_grows_with_the_terminal() -> None:
    large, small = draw_table(make_table()), draw_table(make_table(), 40, 11, unicode=False)
    assert "██  ██" in large and "██████" in large
    assert re.search(r"^ +X  \|  2  \|  O$", small, re.MULTILINE)
    assert small.isascii()
    assert "28x9 will do" in draw_table(make_table(), 27, 23)


@pytest.mark.parametrize("mark", ["X", "O"])
def test_free_cells_have_numbers_and_taken_ones_marks(mark: str) -> None:
    board = mark + "." * 8
    for rows, unicode in ((23, True), (13, True), (11, True), (23, False), (13, False)):
        text = draw_table(make_table(board=board, turn="O"), 80, rows, unicode=unicode)
        drawn = "\n".join(text.split("\n")[3:])
        assert re.findall(r"\d", drawn) == list("23456789")


@given(st.integers(0, 100), st.integers(0, 40), st.booleans(), st.integers(0, 8))
def test_tic_tac_toe_fits_every_terminal(
    columns: int, rows: int, unicode: bool, cursor: int
) -> None:
    for table in (None, make_table(), make_table(board="XXXOO....", line=[0, 1, 2], result="X")):
        canvas = Canvas(columns, rows, unicode=unicode)
        tictactoe.draw(table, canvas, 0, cursor=cursor, notice="it is O's turn")
        assert len(canvas.lines()) == rows


def test_the_line_that_won_stands_out() -> None:
    canvas = Canvas(40, 11)
    tictactoe.draw(make_table(board="XXXOO....", line=[0, 1, 2], result="X"), canvas, 0)
    won = "".join(text for line in canvas.lines() for text, style in line if style is Style.WIN)
    assert won.replace(" ", "") == "XXX"


def test_who_comes_back_to_tic_tac_toe_proves_that_the_seat_is_its_own() -> None:
    """A name alone gives no seat (case 5): the terminal keeps the secret, until it is moved."""
    game = TicTacToeView("ann")
    assert game.opened() == {"t": "name", "name": "ann"}
    state = {"t": "state", **TABLE_STATE, "token": "secret"}
    game.receive(state, 0)
    game.receive({**state, "name": None, "you": None, "token": None}, 0)
    assert game.opened() == {"t": "name", "name": "ann", "token": "secret"}
    game.receive({"t": "moved"}, 0)
    game.receive({**state, "name": None, "you": None, "token": None}, 0)
    assert game.notice == "You play on elsewhere."
    assert game.opened() == {"t": "name", "name": "ann"}


def test_digits_and_the_cursor_put_marks() -> None:
    game = TicTacToeView("ann")
    assert game.press("9") == {"t": "move", "cell": 8}
    assert game.press("r") == {"t": "rematch"}
    assert [game.press(key) for key in ("up", "left", "left", "up")] == [None] * 4
    assert game.press("enter") == {"t": "move", "cell": 0}
    for key in ("right", "down", "down", "down", "right", "right"):
        game.press(key)
    assert game.press("enter") == {"t": "move", "cell": 8}


class Keyboard:
    """A screen at which these keys come at once, and after each None a moment later."""

    unicode = True

    def __init__(self, clock: list[float], *keys: str | None) -> None:
        self._clock = clock
        self._keys = [*keys]

    def canvas(self) -> Canvas:
        return Canvas(30, 9)

    def paint(self, lines: Any) -> None:
        """Nobody looks."""

    def read_key(self, *, typing: bool) -> str | None:
        key = self._keys.pop(0)
        self._clock[0] += FRAME_TIME / 1000 if key is None else 0.0001
        return key


def test_what_is_pasted_into_a_game_plays_no_game() -> None:
    """1,500 characters of it were 600 packets, for which the sandbox closes who sends them."""

    class Commands(GameView):
        hint = "q quits"

        def press(self, key: str) -> str:
            return key

        def draw(self, canvas: Canvas, now: float) -> None:
            """Nobody looks."""

    clock, link = [100.0], FakeLink()
    app = App(Commands("ann"), link, "ws://host/room", clock=lambda: clock[0])  # type: ignore[arg-type]
    pasted = ["up"] * 2000
    app.run(Keyboard(clock, *pasted, None, "down", None, "left", None, "quit"))  # type: ignore[arg-type]
    assert len(link.sent) < 100
    assert link.sent[:2] == ["up", "up"]
    assert link.sent[-2:] == ["down", "left"], "what is pressed after that counts"


# ==== A real terminal =====================================================


class Terminal:
    """A program in tmux: keys go in, and what a person would see comes out."""

    def __init__(self, tmux: str, folder: str) -> None:
        self._command = [tmux, "-S", f"{folder}/s", "-f", os.devnull, "-u"]

    def start(self, *command: str, size: tuple[int, int] = (80, 24), **env: str) -> None:
        """Start a program in a terminal of this size, and keep what it leaves on the screen."""
        shell = 'trap : INT; env "$@"; echo "exit $?"; exec sleep 1000'
        variables = {"LC_ALL": "C.UTF-8", "TERM": "tmux-256color", **env}
        given = [f"{name}={value}" for name, value in variables.items()]
        columns, rows = map(str, size)
        session = ["new-session", "-d", "-x", columns, "-y", rows, "-c", str(ROOT)]
        self._tmux(*session, "sh", "-c", shell, "sh", *given, *command)

    def _tmux(self, *arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "TMUX"}
        environment["LC_ALL"] = "C.UTF-8"
        done = subprocess.run(
            [*self._command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"tmux {arguments}: {done.stderr}"
        return done.stdout

    def keys(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def screen(self, *options: str) -> list[str]:
        return self._tmux("capture-pane", "-p", *options).split("\n")

    def text(self) -> str:
        return "\n".join(self.screen())

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def wait_for(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until a pattern is on the screen, and return what it has found."""
        expression = re.compile(pattern, re.MULTILINE)
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = expression.search(self.text())
            if match:
                found.append(match)
            return bool(match)

        try:
            wait_until(look, timeout)
        except AssertionError:
            raise AssertionError(f"{pattern!r} is not on the screen:\n{self.text()}") from None
        return found[0]

    def stop(self) -> None:
        with contextlib.suppress(AssertionError):  # it may not have been started
            self._tmux("kill-server")


@pytest.fixture
def open_terminal() -> Iterator[Callable[[], Terminal]]:
    tmux = require_tool("tmux")
    folder = Path(tempfile.mkdtemp(prefix="tmux-"))  # a socket's path must be short
    terminals: list[Terminal] = []

    def make() -> Terminal:
        path = folder / str(len(terminals))
        path.mkdir()
        terminals.append(Terminal(tmux, str(path)))
        return terminals[-1]

    yield make
    for opened in terminals:
        opened.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def snake_server() -> Iterator[ServerProcess]:
    with serve("snake") as server:
        yield server


@pytest.fixture(scope="module")
def tictactoe_server() -> Iterator[ServerProcess]:
    with serve("tictactoe") as server:
        yield server


def client(game: str, server: ServerProcess, name: str, room: str) -> list[str]:
    address = f"{server.host}:{server.port}"
    command = [sys.executable, "-m", f"client.{game}", address]
    return [*command, "--name", name, "--room", room]


HEADS = "▲▼◀▶"
ASCII_HEADS = "^v<>"
slow = pytest.mark.slow


def find(screen: list[str], characters: str) -> list[tuple[int, int, str]]:
    """Return where these characters are on the part of the screen that shows the world."""
    return [
        (x, y, character)
        for y, line in enumerate(screen[1:23])
        for x, character in enumerate(line[:62])
        if character in characters
    ]


@slow
def test_a_snake_is_steered_by_arrows_and_letters(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    screen.start(*client("snake", snake_server, "ann", "steer"))
    screen.wait_for(r"ann .*place 1 of 1")
    for up, left in (("Up", "Left"), ("w", "a"), ("W", "A")):
        turn(screen, up, left, heads=HEADS)


def turn(screen: Terminal, up: str, left: str, *, heads: str) -> None:
    """Press the key for a turn to up or left, and see it made; a death may come in between."""
    for _ in range(10):
        head = screen.wait_for(f"[{re.escape(heads)}]")[0]
        vertical = head in heads[:2]
        screen.keys(left if vertical else up)
        try:
            screen.wait_for(re.escape(heads[2] if vertical else heads[0]), timeout=3)
            return
        except AssertionError:
            continue
    raise AssertionError(f"the keys {up} and {left} turn nothing:\n{screen.text()}")


@slow
def test_a_snake_eats_and_dies_and_lives_again(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    screen.start(*client("snake", snake_server, "ann", "eat"))
    deadline = time.monotonic() + 120
    while not re.search(r"best [1-9]", screen.text()):
        assert time.monotonic() < deadline, screen.text()
        steer_to_food(screen)
    screen.wait_for("You ran into the wall|You bit yourself")
    screen.wait_for(r"You start in \d\.\d s")
    screen.wait_for(f"[{HEADS}]")


def steer_to_food(screen: Terminal) -> None:
    """Press the key that leads to the nearest food, as a person would."""
    shown = screen.screen()
    heads, food = find(shown, HEADS), find(shown, "●")
    if not heads or not food:
        return
    x, y, head = heads[0]
    near_x, near_y, _ = min(food, key=lambda f: abs(f[0] - x) + abs(f[1] - y))
    across = "Right" if near_x > x else "Left"
    down = "Down" if near_y > y else "Up"
    ahead = {"▲": "Up", "▼": "Down", "◀": "Left", "▶": "Right"}[head]
    horizontal = ahead in ("Left", "Right")
    if horizontal and (near_x == x or ahead != across):
        screen.keys(down)
    elif not horizontal and (near_y == y or ahead != down):
        screen.keys(across)


@slow
def test_two_snakes_see_each_other_and_names_do_not_collide(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    ann, other = open_terminal(), open_terminal()
    ann.start(*client("snake", snake_server, "ann", "two"))
    ann.wait_for("place 1 of 1")
    other.start(*client("snake", snake_server, "ann", "two"))
    other.wait_for(r"^ ann2 .*of 2")
    ann.wait_for(r"ann2 +\d+ +\d+$")
    ann.wait_for("▓")


@slow
def test_the_clients_ask_for_address_and_name(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    screen.start(sys.executable, "-m", "client.snake", "--room", "ask")
    screen.wait_for(r"Server \[localhost:9000\]:")
    screen.type(f"127.0.0.1:{snake_server.port}\n")
    screen.wait_for(r"Your name \[player\]:")
    screen.keys("Enter")
    screen.wait_for(r"^ player .*place 1 of 1")
    screen.keys("q")
    screen.wait_for("^exit 0$")


@slow
def test_the_rest_of_what_was_pasted_into_a_game_is_not_left_to_the_shell(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    run = '"$@"; echo over; cat'  # cat in place of a shell, which would run it
    screen.start("sh", "-c", run, "sh", *client("snake", snake_server, "ann", "pasted"))
    screen.wait_for("place 1 of 1")
    screen.type("q\nrm leftover\nrm leftover\n")
    screen.wait_for("^over$")
    screen.type("the end\n")
    screen.wait_for("^the end$\n^the end$")  # of the terminal, and of cat
    assert "leftover" not in screen.text()


@slow
def test_a_terminal_may_be_resized(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    screen.start(*client("snake", snake_server, "ann", "resize"))
    screen.wait_for(r"^┌─{60}┐")
    screen.resize(40, 12)
    screen.wait_for(r"^ ann +score \d+  best \d+  place 1 of 1$")
    screen.resize(15, 5)
    screen.wait_for("^Too small; 20x8")
    screen.resize(150, 30)
    screen.wait_for(r"^ ┌─{120}┐")


@slow
def test_a_terminal_without_colours_and_utf8_is_enough(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    command = client("snake", snake_server, "ann", "plain")
    screen.start(*command, size=(40, 12), TERM="vt100", LC_ALL="C")
    screen.wait_for(r"ann +score")
    turn(screen, "Up", "Left", heads=ASCII_HEADS)
    shown = "\n".join(screen.screen("-e"))
    assert shown.isascii()
    assert not re.search(r"\x1b\[[0-9;]*3[1-7]m", shown), "colours on a vt100"


@slow
def test_colours_are_used_where_there_are_some(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    screen.start(*client("snake", snake_server, "ann", "colours"))
    screen.wait_for(f"[{HEADS}]")
    assert re.search(r"\x1b\[32m[^\x1b]*ann", "\n".join(screen.screen("-e")))


@slow
def test_two_players_play_tic_tac_toe_to_the_end_and_again(
    open_terminal: Callable[[], Terminal], tictactoe_server: ServerProcess
) -> None:
    ann, bob = open_terminal(), open_terminal()
    ann.start(*client("tictactoe", tictactoe_server, "ann", "table"))
    ann.wait_for("Waiting for another player")
    bob.start(*client("tictactoe", tictactoe_server, "bob", "table"), size=(40, 12))
    ann.wait_for("Your turn, X")
    ann.keys("1")
    bob.wait_for("Your turn, O")
    bob.keys("1")
    bob.wait_for(r"cell|taken|free")  # the server says what was wrong
    bob.keys("Left")
    bob.keys("Enter")
    ann.wait_for("Your turn, X")
    ann.keys("2")
    bob.wait_for("Your turn, O")
    bob.keys("5")
    ann.wait_for("Your turn, X")
    ann.keys("3")
    ann.wait_for("You win!")
    bob.wait_for(r"ann wins\.")
    ann.keys("r")
    bob.wait_for("ann wants a rematch: press r")
    bob.keys("r")
    bob.wait_for("Your turn, X")
    ann.wait_for(r"O ann \(you\)")


@slow
def test_a_third_player_watches_tic_tac_toe(
    open_terminal: Callable[[], Terminal], tictactoe_server: ServerProcess
) -> None:
    screens = [open_terminal() for _ in range(3)]
    for screen, name in zip(screens, ("ann", "bob", "cy"), strict=True):
        screen.start(*client("tictactoe", tictactoe_server, name, "crowd"))
        screen.wait_for("Waiting for another player|turn")
    screens[2].wait_for(r"You are watching\.")
    screens[0].wait_for("1 watching")
    screens[1].keys("q")
    screens[1].wait_for("^exit 0$")
    screens[0].wait_for(r"bob lost the connection: \d+ s to come back")


@slow
def test_a_server_that_restarts_is_found_again(open_terminal: Callable[[], Terminal]) -> None:
    screen = open_terminal()
    with serve("snake", addr=f"127.0.0.1:{free_port()}") as first:
        screen.start(*client("snake", first, "ann", "back"))
        screen.wait_for("place 1 of 1")
        first.kill()
        screen.wait_for(r"Connection lost; (again in \d+ s|connecting)")
    with serve("snake", addr=f"127.0.0.1:{first.port}"):
        screen.wait_for("arrows or WASD")
        screen.wait_for(f"[{HEADS}]")
        screen.keys("C-c")
        screen.wait_for("^exit 130$")


@slow
@pytest.mark.parametrize("game", ["snake", "tictactoe"])
def test_nothing_that_listens_is_said_in_one_line(
    open_terminal: Callable[[], Terminal], game: str
) -> None:
    screen = open_terminal()
    screen.start(sys.executable, "-m", f"client.{game}", "127.0.0.1:1", "--name", "ann")
    screen.wait_for("^exit 1$")
    shown = [line for line in screen.screen() if line]
    assert shown == [f"client.{game}: nothing listens at 127.0.0.1:1", "exit 1"]


@slow
def test_a_room_that_plays_something_else_is_said_in_one_line(
    open_terminal: Callable[[], Terminal], tictactoe_server: ServerProcess
) -> None:
    screen = open_terminal()
    screen.start(*client("snake", tictactoe_server, "ann", "wrong"), size=(150, 24))
    screen.wait_for("^exit 1$")
    shown = [line for line in screen.screen() if line]
    assert len(shown) == 2 and "/wrong does not play snake: it begins with state" in shown[0]


@slow
def test_a_terminal_that_is_terminated_is_put_in_order(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    screen = open_terminal()
    room = f"term-{os.getpid()}"  # the whole machine is searched for it
    screen.start(*client("snake", snake_server, "ann", room))
    screen.wait_for("place 1 of 1")
    clients = find_clients("client.snake", room)
    assert len(clients) == 1
    os.kill(clients[0], 15)
    screen.wait_for("^exit 143$")
    assert "place 1 of 1" not in screen.text()


def find_clients(module: str, room: str) -> list[int]:
    """Return the PIDs of terminal clients of a room."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if module.encode() in words and words[-2:-1] == [room.encode()]:
                if Path(os.readlink(folder / "exe")).name.startswith("python"):
                    found.append(int(folder.name))
    return found


@pytest.mark.parametrize("game", ["snake", "tictactoe"])
def test_without_a_terminal_nothing_is_drawn(game: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"client.{game}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("a terminal is needed to play in")


@pytest.mark.slow
@pytest.mark.parametrize("package", ["client", "scalesocket.client"])
@pytest.mark.parametrize("game", ["snake", "tictactoe", "sandbox", "chat", "websocket"])
def test_help_shows_the_command_that_was_used(game: str, package: str) -> None:
    """It named `client.snake` also where that cannot be run, as only `scalesocket` is installed."""
    module = f"{package}.{game}"
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python3 -m {module} [-h]")
    keys = {"snake": "arrows or WASD steer, q quits", "chat": "Ctrl-D leaves"}
    assert keys.get(game, "") in " ".join(done.stdout.split())


@slow
def test_a_terminal_that_places_no_cursor_is_told_so(
    open_terminal: Callable[[], Terminal], snake_server: ServerProcess
) -> None:
    """Of all rows the last was seen, and of a chat nothing of what one typed."""
    screen = open_terminal()
    screen.start(*client("snake", snake_server, "ann", "dumb"), TERM="dumb")
    screen.wait_for("cannot be drawn on: it places no cursor; set TERM")
    screen.wait_for("exit 1")


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed by a POSIX shell")
def test_a_closed_input_is_no_terminal() -> None:
    """It was a traceback (vi/websocat#212: started by a crontab)."""
    client = [sys.executable, "-m", "client.snake", "localhost:1"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *client],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("a terminal is needed to play in")


def test_the_view_of_the_readme_shows_a_leaderboard() -> None:
    text = (ROOT / "client" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "class Scores" in block]
    names: dict[str, Any] = {"__name__": "readme"}
    exec(block, names)
    view: GameView = names["Scores"]("ann")
    app, link = start_app(view)
    assert view.opened() is None
    view.world = make_snake_world()  # type: ignore[attr-defined]
    lines = ["".join(text for text, _ in line).rstrip() for line in app.draw(Canvas(30, 4))]
    assert lines == ["     6 bob", "     5 ann", "", " q quits"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConnectionClosed(1000, "\x1b[2J"), 0), (WrongGame("it begins with \x1b[2J"), 1)],
)
def test_the_last_words_of_a_room_steer_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
) -> None:
    def play(*_: object) -> None:
        raise error

    arguments = argparse.Namespace(address="localhost", room="den", name="ann")
    monkeypatch.setattr(terminal, "parse_arguments", lambda *_: arguments)
    monkeypatch.setattr(terminal, "Link", lambda *_, **__: SimpleNamespace(stop=lambda: None))
    monkeypatch.setattr(terminal, "play", play)
    monkeypatch.setattr(terminal.signal, "signal", lambda *_: None)
    assert terminal.main(SnakeView) == status
    assert "\\x1b[2J" in "".join(capsys.readouterr())
