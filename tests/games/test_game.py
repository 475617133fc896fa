"""The bundled game: its rules, step by step, and the program with lines in and lines out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable

import pytest
from scalesocket.game.game import HEIGHT, WIDTH, Meadow, Message, parse_json, spawn_place

from tests.support import PATIENCE, ROOT

SCRIPT = ROOT / "game" / "game.py"

# What ScaleSocket's own page about its multiplayer example quotes from its `game.py`.
QUOTED = """
from sys import stdin

def parse_json(data: str):
    with suppress(JSONDecodeError):
        return loads(data)
    return None

stdin_events = map(parse_json, stdin)

for event in stdin_events:

from json import dumps

print(dumps({"t": t, "data": data, "id": to_id}))
"""


def happen(meadow: Meadow, *events: object) -> list[Message]:
    """Apply events one after the other and return the messages of the last."""
    return [list(meadow.handle(event)) for event in events][-1]


def join(who: int) -> dict[str, object]:
    return {"t": "Join", "id": who}


def leave(who: int) -> dict[str, object]:
    return {"t": "Leave", "id": who}


def hop(who: int, x: object, y: object) -> dict[str, object]:
    return {"t": "Input", "data": {"x": x, "y": y}, "id": who}


def play(*lines: str | bytes, environment: dict[str, str] | None = None) -> list[dict[str, object]]:
    """Run the program on lines, and return what it printed; it must end well and complain not."""
    encoded = [line.encode() if isinstance(line, str) else line for line in lines]
    done = subprocess.run(
        [sys.executable, SCRIPT],
        input=b"".join(line + b"\n" for line in encoded),
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, **(environment or {})},
    )
    assert done.stderr == b""
    assert done.returncode == 0
    return [json.loads(line, parse_constant=refuse) for line in done.stdout.splitlines()]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def lines(events: Iterable[object]) -> list[str]:
    return [json.dumps(event) for event in events]


# ==== The rules ============================================================


def test_a_newcomer_is_told_who_it_is_and_the_whole_state_and_the_others_are_told_of_it() -> None:
    meadow = Meadow()
    x1, y1 = spawn_place(1)
    x7, y7 = spawn_place(7)
    first: dict[str, object] = {"id": 1, "x": x1, "y": y1}
    newcomer: dict[str, object] = {"id": 7, "x": x7, "y": y7}
    world = {"width": WIDTH, "height": HEIGHT}
    assert happen(meadow, join(1), join(7)) == [
        Message("Welcome", {"you": 7, "world": world, "players": [first, newcomer]}, to_id=7),
        Message("Player", newcomer, to_id=None),
    ]


def test_input_moves_a_player_and_everybody_is_told() -> None:
    meadow = Meadow()
    assert happen(meadow, join(7), hop(7, 123, 456)) == [
        Message("Player", {"id": 7, "x": 123, "y": 456}, to_id=None)
    ]
    assert meadow.places == {7: (123, 456)}


def test_who_leaves_is_forgotten_and_everybody_is_told() -> None:
    meadow = Meadow()
    assert happen(meadow, join(1), join(7), leave(7)) == [Message("Gone", {"id": 7}, to_id=None)]
    assert list(meadow.places) == [1]


def test_a_newcomer_sees_where_the_others_are_now() -> None:
    welcome, _ = happen(Meadow(), join(1), hop(1, 10, 20), join(2), leave(2), join(3))
    players = welcome.data["players"]
    assert isinstance(players, list)
    assert players[0] == {"id": 1, "x": 10, "y": 20}
    assert [player["id"] for player in players] == [1, 3]


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (-1, -0.4, (0, 0)),
        (WIDTH + 1, HEIGHT + 0.3, (WIDTH, HEIGHT)),
        (1e300, -1e300, (WIDTH, 0)),
        (math.inf, -math.inf, (WIDTH, 0)),
        (10**400, -(10**400), (WIDTH, 0)),  # too large for a float
        (12.6, 0.2, (13, 0)),
        (WIDTH - 1, WIDTH - 1, (WIDTH - 1, HEIGHT)),
    ],
)
def test_coordinates_are_brought_into_the_world(x: float, y: float, place: tuple[int, int]) -> None:
    meadow = Meadow()
    assert len(happen(meadow, join(7), hop(7, x, y))) == 1
    assert meadow.places[7] == place


@pytest.mark.parametrize(
    "event",
    [
        None,
        True,
        7,
        "Join",
        [],
        {},
        {"t": "Join"},
        {"t": "Join", "id": None},
        {"t": "Join", "id": "8"},
        {"t": "Join", "id": 8.5},
        {"t": "Leave", "id": 8},
        {"t": "Leave", "id": [7]},
        {"t": "Dance", "id": 7},
        {"t": ["Input"], "id": 7},
        {"id": 7},
        {"t": "Input", "id": 7},
        {"t": "Input", "id": 7, "data": None},
        {"t": "Input", "id": 7, "data": [1, 2]},
        {"t": "Input", "id": 7, "data": {"x": 1}},
        {"t": "Input", "data": {"x": 1, "y": 2}},
        hop(8, 1, 2),  # nobody with that ID is here
        hop(7, "1", 2),
        hop(7, 1, None),
        hop(7, True, False),
        hop(7, [1], {}),
        hop(7, math.nan, 1),
        hop(7, 1, math.nan),
    ],
)
def test_what_makes_no_sense_changes_nothing(event: object) -> None:
    meadow = Meadow()
    before = {7: spawn_place(7)}
    assert happen(meadow, join(7), event) == []
    assert meadow.places == before


def test_a_forged_join_moves_nobody() -> None:
    meadow = Meadow()
    happen(meadow, join(7), hop(7, 1, 2), join(7))
    assert meadow.places == {7: (1, 2)}


def test_newcomers_appear_well_inside_the_world_and_apart() -> None:
    places = [spawn_place(who) for who in range(200)]
    assert all(0.1 * WIDTH <= x <= 0.9 * WIDTH for x, _ in places)
    assert all(0.1 * HEIGHT <= y <= 0.9 * HEIGHT for _, y in places)
    few = places[1:9]
    assert all(math.dist(a, b) > 100 for a in few for b in few if a != b)
    assert len(set(places)) == len(places)


# ==== The program ==========================================================


def test_lines_in_give_lines_out() -> None:
    said = play(*lines([join(7), hop(7, 123, 456), leave(7)]))
    assert [(message["t"], message["id"]) for message in said] == [
        ("Welcome", 7),
        ("Player", None),
        ("Player", None),
        ("Gone", None),
    ]
    assert said[2]["data"] == {"id": 7, "x": 123, "y": 456}
    assert all(list(message) == ["t", "data", "id"] for message in said)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "Hello",
        '{"t":"Input"',
        '{"t":"Input","data":{"x":NaN,"y":1},"id":7}',
        '{"t":"Input","data":{"x":1,"y":-NaN},"id":7}',
        '{"t":"Input","data":{"x":%s,"y":1},"id":7}' % ("9" * 5_000),  # int() refuses these
        "[" * 200_000,
        '{"t":' * 100_000,
        '{"t":"Input","data":%s,"id":7}' % ("[" * 50_000 + "]" * 50_000),
        '"\\ud800"',
        "null\x00",
        b"\xff\xfe{}",
        b'{"t":"Input","data":{"x":"\x80","y":1},"id":7}',
        "x" * 1_000_000,
    ],
    ids=lambda line: repr(line[:24]),
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_hostile_line_has_no_effect(line: str | bytes, locale: str) -> None:
    environment = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    said = play(*lines([join(7)]), line, *lines([hop(7, 5, 6)]), environment=environment)
    assert [message["t"] for message in said] == ["Welcome", "Player", "Player"]
    assert said[-1]["data"] == {"id": 7, "x": 5, "y": 6}


def test_numbers_beyond_floats_end_at_the_edge() -> None:
    said = play(*lines([join(7)]), '{"t":"Input","data":{"x":1e999,"y":-1e999},"id":7}')
    assert said[-1]["data"] == {"id": 7, "x": WIDTH, "y": 0}


def test_each_message_is_out_before_the_next_line_comes_in() -> None:
    program = subprocess.Popen(
        [sys.executable, "-u", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with program:
        assert program.stdin and program.stdout
        for who in (1, 2):
            program.stdin.write(json.dumps(join(who)) + "\n")
            program.stdin.flush()
            assert json.loads(program.stdout.readline())["id"] == who
            assert json.loads(program.stdout.readline())["id"] is None
        program.stdin.close()
    assert program.returncode == 0


def test_parse_json_is_none_for_what_is_no_json() -> None:
    assert parse_json('{"t": 1}') == {"t": 1}
    assert parse_json("{") is None


# ==== The source ===========================================================


def test_the_quoted_lines_stand_in_the_source_word_for_word() -> None:
    found = [line.strip() for line in SCRIPT.read_text().splitlines()]
    missing = [line for line in QUOTED.splitlines() if line.strip() not in found]
    assert missing == []
    parse = QUOTED[QUOTED.index("def parse_json") : QUOTED.index("stdin_events")].strip()
    assert parse in SCRIPT.read_text()


def test_the_script_carries_its_server_options() -> None:
    head = SCRIPT.read_text().split("# ///\n")[0].removeprefix("# /// script\n")
    metadata = tomllib.loads("".join(line[2:] + "\n" for line in head.splitlines()))
    assert metadata["requires-python"] == ">=3.11"
    options = metadata["tool"]["scalesocket"]
    assert options["frame"] == "json"
    assert options["api"] is True
    assert options["joinmsg"] == '{"t":"Join","id":#ID}'
    assert options["leavemsg"] == '{"t":"Leave","id":#ID}'
    assert (SCRIPT.parent / options["staticdir"] / "index.html").is_file()
