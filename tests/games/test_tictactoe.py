"""Tic-tac-toe: its board, its table, its hooks, and games over a real server."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalesocket.game import tictactoe
from scalesocket.game.messages import MAX_NAME, RuleError, clean_name, new_name
from scalesocket.game.tictactoe import TicTacToe
from scalesocket.game.tictactoe_rules import Board, Table, other

from tests.fake_room import FakeClient, FakeRoom, arbitrary_messages
from tests.support import ROOT, RawClient, ServerProcess, http_request, serve, wait_until

State = dict[str, Any]

# ==== 1. The board =========================================================

WINS = ("012", "345", "678", "036", "147", "258", "048", "246")


def play(*cells: int) -> Board:
    board = Board()
    for mark, cell in zip(itertools.cycle("XO"), cells, strict=False):
        board.place(mark, cell)
    return board


@pytest.mark.parametrize("line", WINS)
def test_three_in_a_line_win(line: str) -> None:
    mine = [int(digit) for digit in line]
    free = [cell for cell in range(9) if cell not in mine]
    board = play(mine[0], free[0], mine[1], free[1])
    assert board.line is None
    board.place("X", mine[2])
    assert board.line == tuple(mine)


def test_a_full_board_without_a_line_is_a_draw() -> None:
    board = play(0, 4, 8, 1, 7, 6, 2, 5, 3)
    assert board.cells == "XOXXOOOXX"
    assert board.is_full
    assert board.line is None


def test_every_way_to_play_ends_as_the_books_say() -> None:
    """255,168 games: 131,184 are won by X, 77,904 by O, and 46,080 are drawn."""

    @functools.cache
    def explore(cells: str, turn: str) -> Counter[str]:
        counts: Counter[str] = Counter()
        for cell in range(9):
            if cells[cell] == ".":
                board = Board()
                board.cells, board.turn = cells, turn
                board.place(turn, cell)
                result = turn if board.line else "draw" if board.is_full else None
                counts += Counter([result]) if result else explore(board.cells, board.turn)
        return counts

    totals = explore("." * 9, "X")
    assert totals == {"X": 131_184, "O": 77_904, "draw": 46_080}


@pytest.mark.parametrize("cell", [-1, 9, 10**30, 1.0, True, None, "4", [4], {}, math.inf])
def test_only_a_number_from_0_to_8_is_a_cell(cell: object) -> None:
    with pytest.raises(RuleError, match="0 to 8"):
        Board().place("X", cell)


def test_a_cell_is_taken_once() -> None:
    board = play(4)
    with pytest.raises(RuleError, match="cell 4 is taken by X"):
        board.place("O", 4)
    assert board.turn == "O"


def test_nobody_moves_twice() -> None:
    with pytest.raises(RuleError, match="it is O's turn"):
        play(4).place("X", 0)


# ==== 2. The table =========================================================


def table_of(*names: str, grace: float = 15) -> Table:
    table = Table(grace)
    for name in names:
        table.enter(name)
    return table


def finish(table: Table) -> None:
    """Let X win."""
    players = itertools.cycle([table.seats["X"], table.seats["O"]])
    for name, cell in zip(players, (0, 3, 1, 4, 2), strict=False):
        table.move(name, cell)


def test_the_first_two_sit_down_and_the_others_wait() -> None:
    table = table_of("ann", "bob", "cid", "dot")
    assert table.seats == {"X": "ann", "O": "bob"}
    assert table.waiting == ["cid", "dot"]


def test_nobody_moves_without_an_opponent() -> None:
    table = table_of("ann")
    assert table.describe(0)["turn"] is None
    with pytest.raises(RuleError, match="no opponent"):
        table.move("ann", 0)


def test_a_spectator_neither_moves_nor_asks_for_a_rematch() -> None:
    table = table_of("ann", "bob", "cid")
    with pytest.raises(RuleError, match="spectator"):
        table.move("cid", 0)
    with pytest.raises(RuleError, match="spectator"):
        table.ask_rematch("cid")


def test_after_the_end_nobody_moves() -> None:
    table = table_of("ann", "bob")
    finish(table)
    state = table.describe(0)
    assert (state["result"], state["line"], state["turn"]) == ("X", (0, 1, 2), None)
    with pytest.raises(RuleError, match="over"):
        table.move("bob", 8)


def test_a_rematch_begins_when_both_ask_and_swaps_the_marks() -> None:
    table = table_of("ann", "bob")
    finish(table)
    table.ask_rematch("bob")
    assert table.describe(0)["rematch"] == ["O"]
    assert table.result == "X"
    table.ask_rematch("ann")
    state = table.describe(0)
    assert state["players"] == {"X": "bob", "O": "ann"}
    assert (state["board"], state["turn"], state["rematch"]) == ("." * 9, "X", [])


def test_who_asks_for_a_rematch_and_leaves_has_not_asked() -> None:
    table = table_of("ann", "bob")
    finish(table)
    table.ask_rematch("ann")
    table.leave("ann", now=0)
    table.ask_rematch("bob")
    assert table.describe(0)["rematch"] == ["O"]
    assert table.result == "X", "one alone has no rematch"


def test_no_rematch_is_asked_for_before_the_end() -> None:
    with pytest.raises(RuleError, match="not over"):
        table_of("ann", "bob").ask_rematch("ann")


def test_who_leaves_may_come_back_in_time() -> None:
    table = table_of("ann", "bob")
    table.move("ann", 4)
    table.leave("bob", now=100)
    assert (table.describe(100)["away"], table.describe(100)["grace"]) == ("O", 15)
    assert table.describe(114.2)["grace"] == 1
    assert not table.expire(114.9)
    table.come_back("bob")
    assert table.describe(114.9)["away"] is None
    assert not table.expire(200)
    table.move("bob", 0)
    assert table.board.cells == "O...X...."


def test_a_name_alone_is_no_way_back_to_a_seat() -> None:
    table = table_of("ann", "bob")
    table.leave("bob", now=100)
    table.enter("BOB")  # whoever it is
    assert table.describe(100)["away"] == "O"
    assert table.waiting == ["BOB"]


def test_who_stays_away_forfeits_and_the_next_sits_down() -> None:
    table = table_of("ann", "bob", "cid")
    table.leave("ann", now=100)
    assert table.expire(115)
    state = table.describe(115)
    assert (state["result"], state["forfeit"], state["away"], state["grace"]) == (
        "O",
        True,
        None,
        0,
    )
    assert state["players"] == {"X": "cid", "O": "bob"}
    assert state["rematch"] == ["X"], "who sits down wants to play"
    table.ask_rematch("bob")
    assert table.describe(115)["players"] == {"X": "bob", "O": "cid"}
    assert table.is_running and not table.forfeit


def test_a_newcomer_gets_the_seat_of_who_forfeited() -> None:
    table = table_of("ann", "bob")
    table.leave("bob", now=0)
    table.expire(15)
    table.ask_rematch("ann")
    table.enter("bob")
    assert table.is_running, "the name comes back as a newcomer, and both want to play"
    assert table.seats == {"O": "ann", "X": "bob"}


def test_the_one_who_is_there_may_move_while_the_other_is_away() -> None:
    table = table_of("ann", "bob")
    table.leave("bob", now=0)
    table.move("ann", 4)
    with pytest.raises(RuleError, match="O's turn"):
        table.move("ann", 0)


def test_a_win_over_who_is_away_is_no_forfeit_and_frees_the_seat() -> None:
    table = table_of("ann", "bob")
    for name, cell in (("ann", 0), ("bob", 3), ("ann", 1), ("bob", 4)):
        table.move(name, cell)
    table.leave("bob", now=0)
    table.move("ann", 2)
    state = table.describe(0)
    assert (state["result"], state["forfeit"]) == ("X", False)
    assert state["players"] == {"X": "ann", "O": None}
    assert not table.expire(100)


def test_of_two_who_are_away_the_first_to_go_forfeits() -> None:
    table = table_of("ann", "bob", "cid", "dot")
    table.leave("bob", now=0)
    table.leave("ann", now=5)
    assert table.describe(6)["away"] == "O"
    table.expire(15)
    assert table.is_running, "two who waited have sat down, and want to play"
    assert set(table.seats.values()) == {"cid", "dot"}


def test_the_first_to_go_forfeits_even_if_both_graces_are_over() -> None:
    table = table_of("ann", "bob", "cid")
    table.leave("bob", now=0)
    table.leave("ann", now=5)
    table.expire(30)
    assert table.result == "X"


def test_who_leaves_before_or_after_a_game_leaves_an_empty_seat() -> None:
    table = table_of("ann")
    table.leave("ann", now=0)
    table.enter("bob")
    assert table.seats == {"X": "bob"}
    table.enter("cid")
    finish(table)
    table.leave("cid", now=0)
    assert table.describe(0)["players"] == {"X": "bob", "O": None}
    assert table.describe(0)["away"] is None


def test_an_empty_table_has_an_empty_board() -> None:
    table = table_of("ann", "bob")
    finish(table)
    table.leave("ann", now=0)
    assert table.result == "X"
    table.leave("bob", now=0)
    assert table.describe(0) == Table(15).describe(0)


def test_a_spectator_who_leaves_is_not_called() -> None:
    table = table_of("ann", "bob", "cid", "dot")
    table.leave("cid", now=0)
    finish(table)
    table.leave("ann", now=0)
    assert table.seats == {"X": "dot", "O": "bob"}


# ==== 3. Names =============================================================


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("ann", "ann"),
        ("  ann \t lee\n", "ann lee"),
        ("a\x00b\x1b[31m", "a b [31m"),
        ("\u202egnp", "gnp"),
        ("漢字", "漢字"),
        ("\u3164ann\u2800lee\uffa0", "ann lee"),
        ("ａｎｎ", "ann"),
        ("x" * 100, "x" * MAX_NAME),
        ("x" * 15 + " yz", "x" * 15),
        ("👩\u200d🚀 🏳\ufe0f\u200d🌈", "👩\u200d🚀 🏳\ufe0f\u200d🌈"),  # one picture of two
        ("a\u200db \u200d👩\u200d", "a b 👩"),
        ("👩\u200d\u200d🚀 👩\u202e\u200d🚀 \u2800\u200d🚀", "👩 🚀 👩 🚀 🚀"),
        ("x" * 14 + "👩\u200d🚀", "x" * 14 + "👩"),
    ],
)
def test_a_name_is_cleaned(given_name: str, name: str) -> None:
    assert clean_name(given_name) == name


@pytest.mark.parametrize(
    "value",
    ["", "   ", "\x00\u200b\ud800", "\u3164", "\u2800 \u115f", "\ufe0f\u0301",
     None, 5, ["ann"], {"a": 1}, True],
)  # fmt: skip
def test_what_is_no_name_is_refused(value: object) -> None:
    with pytest.raises(RuleError, match="1 to 16"):
        clean_name(value)


@given(st.text() | st.text("👩🚀❤\u200d\ufe0f\u202e\u200b\u2800\u0301 a"))
def test_a_clean_name_can_be_printed_and_is_clean(text: str) -> None:
    try:
        name = clean_name(text)
    except RuleError:
        return
    assert 1 <= len(name) <= MAX_NAME
    assert name.replace("\u200d", "").isprintable() and name == name.strip()
    for joiner in re.finditer("\u200d", name):
        before, behind = name[: joiner.start()].rstrip("\ufe0f")[-1], name[joiner.end()]
        assert unicodedata.category(before)[0] in "SPN" and unicodedata.category(behind)[0] in "SPN"
    assert clean_name(name) == name


def test_names_that_look_the_same_are_one() -> None:
    """Where there is no picture of both, or no font with it, they are seen side by side."""
    taken = ["👩\u200d🚀"]
    with pytest.raises(RuleError, match="the name '👩🚀' is taken"):
        new_name({"name": "👩🚀"}, taken)
    with pytest.raises(RuleError, match="the name '👩\u200d🚀' is taken"):
        new_name({"name": "👩\u200d🚀"}, taken)
    assert new_name({"name": "👩"}, taken) == "👩"


# ==== 4. The hooks =========================================================


@pytest.fixture
def room() -> FakeRoom:
    return FakeRoom(TicTacToe())


def state_of(client: FakeClient) -> State:
    """Return the last state that a client was sent."""
    messages = [message for message in client.take() if message["t"] == "state"]
    assert messages, "no state was sent"
    return messages[-1]


def error_of(client: FakeClient) -> str:
    """Return the only message that a client was sent: an error."""
    (message,) = client.take()
    assert message["t"] == "error"
    return cast(str, message["error"])


def test_the_state_has_the_keys_that_are_documented(room: FakeRoom) -> None:
    text = tictactoe.__doc__ or ""
    for key in state_of(room.join()):
        assert f'"{key}":' in text


def test_everybody_is_told_of_every_change(room: FakeRoom) -> None:
    clients = [room.join("ann"), room.join("bob"), room.join("cid"), room.join()]
    for client in clients:
        client.take()
    room.say(clients[0], {"t": "move", "cell": 4})
    states = [state_of(client) for client in clients]
    assert [state.pop("you") for state in states] == ["X", "O", None, None]
    assert [state.pop("name") for state in states] == ["ann", "bob", "cid", None]
    tokens = [state.pop("token") for state in states]
    assert tokens[3] is None and len(set(tokens)) == 4, "each has a secret of its own"
    assert states.count(states[0]) == 4
    assert states[0] == {
        "t": "state",
        "board": "....X....",
        "turn": "O",
        "players": {"X": "ann", "O": "bob"},
        "spectators": 2,
        "result": None,
        "line": None,
        "forfeit": False,
        "away": None,
        "grace": 0,
        "rematch": [],
    }


def test_the_lobby_sees_how_many_play_and_watch(room: FakeRoom) -> None:
    assert room.metadata == {"players": 0, "spectators": 0}
    ann, _, _ = room.join("ann"), room.join("bob"), room.join()
    assert room.metadata == {"players": 2, "spectators": 1}
    room.leave(ann)
    assert room.metadata == {"players": 1, "spectators": 1}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("{", "not JSON"),
        (b"{}", "not binary"),
        ([], "JSON objects"),
        ({}, "t is name, move or rematch"),
        ({"t": "fly"}, "t is name, move or rematch"),
        ({"t": "move", "cell": 0}, "it is X's turn"),
        ({"t": "move"}, "it is X's turn"),
        ({"t": "rematch"}, "not over"),
        ({"t": "name", "name": "bobby"}, "you are bob already"),
    ],
)
def test_a_mistake_is_told_to_who_made_it_alone(
    room: FakeRoom, message: object, error: str
) -> None:
    ann, bob = room.join("ann"), room.join("bob")
    ann.take(), bob.take()
    room.say(bob, message)
    assert error in error_of(bob)
    assert ann.take() == []


def test_who_asks_again_for_a_rematch_wakes_nobody(room: FakeRoom) -> None:
    """One who asked a thousand times was a thousand messages to everybody."""
    ann, bob = room.join("ann"), room.join("bob")
    for cell in (0, 3, 1, 4, 2):
        room.say(ann if cell < 3 else bob, {"t": "move", "cell": cell})
    room.say(ann, {"t": "rematch"})
    ann.take(), bob.take()
    room.say(ann, {"t": "rematch"})
    assert error_of(ann) == "you have asked for a rematch already"
    assert bob.take() == []


def test_who_has_no_name_is_told_to_give_one(room: FakeRoom) -> None:
    client = room.join()
    for message in ({"t": "move", "cell": 0}, {"t": "rematch"}):
        client.take()
        room.say(client, message)
        assert error_of(client) == "give your name first"


def test_two_with_the_same_name_are_told(room: FakeRoom) -> None:
    room.join("ann")
    second = room.join()
    second.take()
    room.say(second, {"t": "name", "name": " ANN "})
    assert error_of(second) == "the name 'ANN' is taken"
    for unseen in "\u034f\ufe0f\U000e0100":
        room.say(second, {"t": "name", "name": f"an{unseen}n"})
        assert error_of(second) == f"the name 'an{unseen}n' is taken", "they look the same"
    room.say(second, {"t": "name", "name": "bob"})
    assert state_of(second)["you"] == "O"


def token_of(client: FakeClient) -> str:
    """Return the secret that a client was sent last."""
    return cast(str, state_of(client)["token"])


def test_the_name_of_a_player_who_is_away_is_taken(room: FakeRoom) -> None:
    """A spectator who gave the name of X, whose connection was lost, got the seat (case 5)."""
    ann, _, thief = room.join("ann"), room.join("bob"), room.join()
    room.leave(ann)
    for token in ({}, {"token": "guess"}, {"token": None}, {"token": ["x"]}, {"token": ""}):
        thief.take()
        room.say(thief, {"t": "name", "name": "Ann", **token})
        assert error_of(thief) == "the name 'Ann' is taken"
    room.say(thief, {"t": "name", "name": "cid"})
    state = state_of(thief)
    assert (state["you"], state["away"], state["players"]["X"]) == (None, "X", "ann")


def test_a_token_gives_the_seat_back_though_the_old_connection_seems_alive(room: FakeRoom) -> None:
    """X's network changed; until the old connection was given up, 52 s, X was "taken" (case 5)."""
    old, bob = room.join("ann"), room.join("bob")
    token = token_of(old)
    new = room.join()
    room.say(new, {"t": "name", "name": "ann", "token": token})
    state = state_of(new)
    assert (state["you"], state["name"], state["token"]) == ("X", "ann", token)
    told = old.take()
    assert {"t": "moved"} in told
    assert (told[-1]["you"], told[-1]["name"], told[-1]["token"]) == (None, None, None)
    room.say(old, {"t": "move", "cell": 4})
    assert error_of(old) == "give your name first"
    room.leave(old)  # at last
    assert state_of(bob)["away"] is None
    room.say(new, {"t": "move", "cell": 4})
    assert state_of(bob)["board"] == "....X...."


def test_a_token_is_good_for_nothing_once_its_seat_is_given_up(
    room: FakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    ann, bob = room.join("ann"), room.join("bob")
    token = token_of(bob)
    room.leave(bob)
    now = 115.0
    room.calls.pop()[1]()
    cid = room.join("cid")
    again = room.join()
    room.say(again, {"t": "name", "name": "bob", "token": token})
    assert state_of(again)["you"] is None and state_of(cid)["you"] == "O"
    assert token_of(room.join("dot")) != token
    assert state_of(ann)["players"] == {"X": "ann", "O": "cid"}


def test_nobody_is_sent_the_token_of_another(room: FakeRoom) -> None:
    clients = [room.join("ann"), room.join("bob"), room.join("cid"), room.join()]
    sent = [client.sent for client in clients]
    tokens = [token_of(client) for client in clients[:3]]
    for number, token in enumerate(tokens):
        for other_number, texts in enumerate(sent):
            assert any(token in text for text in texts) == (number == other_number)


def test_a_name_may_come_as_in_the_tutorials_of_sockets(room: FakeRoom) -> None:
    client = room.join()
    room.say(client, {"username": "SnakeKing"})
    assert state_of(client)["players"]["X"] == "SnakeKing"


def test_a_forfeit_is_told_when_the_grace_is_over(
    room: FakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    ann, bob = room.join("ann"), room.join("bob")
    room.leave(bob)
    assert state_of(ann)["away"] == "O"
    ((seconds, call),) = room.calls
    assert seconds == 15
    call()
    assert ann.take() == [], "it is not over yet"
    now = 115.0
    call()
    state = state_of(ann)
    assert (state["result"], state["forfeit"]) == ("X", True)


MESSAGES = arbitrary_messages(
    t=st.sampled_from(["name", "move", "rematch"]),
    name=st.sampled_from(["ann", "bob", "ANN", "cid"]),
    token=st.sampled_from(["ann", "bob", "x"]),  # of whom, in the place of what nobody guesses
    username=st.sampled_from(["ann", "dot"]),
    cell=st.integers(0, 8),
)
ACTIONS = ["join", "leave", "drop", "resume", "say", "say", "say", "time"]
EVENTS = st.tuples(st.sampled_from(ACTIONS), MESSAGES)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(EVENTS, min_size=15, max_size=60), st.randoms(use_true_random=False))
def test_whatever_clients_do_no_hook_raises(events: list[tuple[str, Any]], chance: Any) -> None:
    room = FakeRoom(TicTacToe())
    game = cast(TicTacToe, room.game)
    for action, message in events:
        clients = list(room.clients.values())
        if action == "join" or not clients:
            room.join(chance.choice([None, "ann", "bob", "cid"]))
        elif action == "leave":
            room.leave(chance.choice(clients))
        elif action == "drop":
            room.drop(chance.choice(clients))
        elif action == "resume":
            room.resume(chance.choice(clients), restored=chance.choice([False, True]))
        elif action == "say":
            with_token = message
            for name, token in game._tokens.items():
                if isinstance(message, str):
                    with_token = with_token.replace(f'"token": "{name}"', f'"token": "{token}"')
            room.say(chance.choice(clients), with_token)
        elif room.calls:  # a grace is over
            game.table.away = dict.fromkeys(game.table.away, 0.0)
            room.calls.pop(0)[1]()
        assert_is_consistent(room)


def assert_is_consistent(room: FakeRoom) -> None:
    """What the table says agrees with who is in the room, and with itself."""
    table = cast(TicTacToe, room.game).table
    names = {client.data["name"] for client in room.clients.values() if "name" in client.data}
    away = {table.seats[mark] for mark in table.away}
    sitting = set(table.seats.values())
    assert sitting | set(table.waiting) == names | away
    assert sitting.isdisjoint(table.waiting)
    present = set(table.waiting) - table.dropped
    assert not present or len(sitting) == 2, "nobody waits beside an empty seat"
    assert table.dropped <= names
    assert not table.away or table.is_running
    lost = {mark for mark, name in table.seats.items() if name in table.dropped}
    assert not table.is_running or lost <= table.away.keys()
    counts = {mark: table.board.cells.count(mark) for mark in "XO"}
    assert counts["X"] - counts["O"] == (table.board.turn == "O")
    for client in room.clients.values():
        own = next(s for s in map(json.loads, reversed(client.sent)) if s["t"] == "state")
        assert own["name"] == client.data.get("name")
        assert own["you"] == (own["name"] and table.seat_of(own["name"]))


def test_a_player_without_a_connection_has_time_and_the_seat(room: FakeRoom) -> None:
    ann, bob = room.join("ann"), room.join("bob")
    room.say(ann, {"t": "move", "cell": 4})
    room.drop(ann)
    state = bob.take()[-1]
    assert (state["away"], state["grace"], state["players"]["X"]) == ("X", 30, "ann")
    room.say(bob, {"t": "move", "cell": 0})
    room.resume(ann)
    state = ann.take()[-1]
    assert (state["away"], state["you"], state["board"]) == (None, "X", "O...X....")


def test_who_is_away_when_the_game_ends_keeps_the_seat(room: FakeRoom) -> None:
    ann, bob = room.join("ann"), room.join("bob")
    for client, number in ((ann, 4), (bob, 0), (ann, 8), (bob, 1), (ann, 7)):
        room.say(client, {"t": "move", "cell": number})
    room.drop(ann)
    room.say(bob, {"t": "move", "cell": 2})
    state = bob.take()[-1]
    assert (state["result"], state["players"]["X"], state["away"]) == ("O", "ann", None)
    room.resume(ann, restored=True)
    assert ann.take()[-1]["you"] == "X"


def test_who_stays_away_forfeits_and_may_sit_down_again(room: FakeRoom) -> None:
    ann, bob = room.join("ann"), room.join("bob")
    room.drop(ann)
    table = cast(TicTacToe, room.game).table
    table.away = dict.fromkeys(table.away, 0.0)
    room.calls[-1][1]()
    state = bob.take()[-1]
    assert (state["result"], state["forfeit"], state["players"]["X"]) == ("O", True, None)
    room.resume(ann)
    state = ann.take()[-1]
    assert (state["you"], state["rematch"]) == ("X", ["X"])


@pytest.mark.parametrize("rematch", [False, True])
def test_who_has_no_connection_when_a_game_begins_is_away(room: FakeRoom, rematch: bool) -> None:
    """Nobody was told, and there was no end to it: the other waited as long as the seat lasted."""
    ann = room.join("ann")
    bob = room.join("bob") if rematch else None
    if bob is not None:
        for client, number in ((ann, 0), (bob, 3), (ann, 1), (bob, 4), (ann, 2)):
            room.say(client, {"t": "move", "cell": number})
        room.say(ann, {"t": "rematch"})
    room.drop(ann)
    if bob is not None:
        room.say(bob, {"t": "rematch"})
    else:
        bob = room.join("bob")
    state = bob.take()[-1]
    mark = "O" if rematch else "X"
    assert (state["players"][mark], state["away"], state["grace"]) == ("ann", mark, 30)
    table = cast(TicTacToe, room.game).table
    table.away = dict.fromkeys(table.away, 0.0)
    room.calls[-1][1]()
    state = bob.take()[-1]
    assert (state["result"], state["forfeit"]) == (other(mark), True)


@given(st.lists(st.integers(0, 8), max_size=30))
def test_the_winner_is_who_moved_last(cells: list[int]) -> None:
    table = table_of("ann", "bob")
    for cell in cells:
        mover = table.board.turn
        try:
            table.move(table.seats[mover], cell)
        except RuleError:
            continue
        assert table.result in (None, mover, "draw")
        assert (table.result in ("X", "O")) == (table.board.line is not None)
        if table.result == "draw":
            assert "." not in table.board.cells
        assert table.board.turn == other(mover)


# ==== 5. A real server =====================================================


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve("tictactoe") as running:
        yield running


def api(server: ServerProcess, path: str) -> object:
    """Return the value that the rooms API answers."""
    return json.loads(http_request(server, path=f"/api/{path}").body)


def wait_state(client: RawClient, **wanted: object) -> State:
    """Read on to the state in which all these are so."""
    for _ in range(100):
        state = cast(State, client.receive_json())
        if all(state.get(key) == value for key, value in wanted.items()):
            return state
    raise AssertionError(f"no state with {wanted}; the last is {state}")


def join(server: ServerProcess, room: str, name: str, token: str = "") -> RawClient:
    client = RawClient.connect(server, room)
    client.send_json({"t": "name", "name": name, **({"token": token} if token else {})})
    return client


def test_two_play_a_game_and_a_rematch_while_one_watches(server: ServerProcess) -> None:
    with join(server, "game", "ann") as ann:
        wait_state(ann, you="X", turn=None)
        with join(server, "game", "bob") as bob, RawClient.connect(server, "game") as watcher:
            wait_state(bob, you="O", turn="X")
            bob.send_json({"t": "move", "cell": 0})
            wait_state(bob, t="error", error="it is X's turn")
            moves = [(ann, 4, "....X...."), (bob, 0, "O...X...."), (ann, 2, "O.X.X....")]
            moves += [(bob, 1, "OOX.X...."), (ann, 6, "OOX.X.X..")]
            for player, cell, board in moves:
                player.send_json({"t": "move", "cell": cell})
                for client in (ann, bob):
                    wait_state(client, board=board)
            state = wait_state(watcher, result="X")
            assert state["board"] == "OOX.X.X.."
            assert state["line"] == [2, 4, 6]
            ann.send_json({"t": "rematch"})
            wait_state(bob, rematch=["X"])
            bob.send_json({"t": "rematch"})
            wait_state(ann, you="O", turn="X", board="." * 9)
            wait_state(watcher, players={"X": "bob", "O": "ann"}, you=None, turn="X")


def test_the_lobby_sees_a_real_room(server: ServerProcess) -> None:
    with join(server, "seen", "ann") as ann:
        wait_state(ann, you="X")
        assert api(server, "seen/metadata") == {"players": 1, "spectators": 0}


QUICK = """
from scalesocket.game.tictactoe import TicTacToe

class Quick(TicTacToe):
    grace = {grace}
"""


def quick_server(folder: Path, grace: float) -> Any:
    """Serve the game with another grace."""
    (folder / "quick.py").write_text(QUICK.format(grace=grace))
    return serve("quick:Quick", cwd=folder, env={"PYTHONPATH": str(ROOT)})


def test_who_comes_back_with_the_token_plays_on(tmp_path: Path) -> None:
    with quick_server(tmp_path, 100) as server, join(server, "room", "ann") as ann:
        wait_state(ann, you="X")
        with join(server, "room", "bob") as bob:
            wait_state(ann, turn="X")
            ann.send_json({"t": "move", "cell": 4})
            token = cast(str, wait_state(bob, turn="O")["token"])
            bob.reset()
        assert wait_state(ann, away="O")["grace"] >= 99
        with join(server, "room", "bob", token) as bob:
            assert wait_state(bob, you="O", away=None)["board"] == "....X...."
            bob.send_json({"t": "move", "cell": 0})
            wait_state(ann, board="O...X....")


@pytest.mark.slow
def test_who_does_not_come_back_forfeits(tmp_path: Path) -> None:
    with quick_server(tmp_path, 0.2) as server, join(server, "room", "ann") as ann:
        wait_state(ann, you="X")
        with join(server, "room", "bob") as bob:
            wait_state(bob, turn="X")
        wait_state(ann, result="X", forfeit=True, players={"X": "ann", "O": None})
        with join(server, "room", "cid") as cid:
            wait_state(cid, you="O", rematch=["O"])
            ann.send_json({"t": "rematch"})
            wait_state(cid, you="X", turn="X")


@pytest.mark.slow
def test_a_game_survives_that_both_connections_are_lost(server: ServerProcess) -> None:
    with join(server, "both", "ann") as ann:
        wait_state(ann, you="X")
        with join(server, "both", "bob") as bob:
            wait_state(ann, turn="X")
            ann.send_json({"t": "move", "cell": 4})
            token = cast(str, wait_state(bob, turn="O")["token"])
    wait_until(lambda: api(server, "both/metadata") == {"players": 0, "spectators": 0})
    with join(server, "both", "bob", token) as bob:
        assert wait_state(bob, you="O", away="X")["board"] == "....X...."
