# /// script
# requires-python = ">=3.11"
#
# [tool.scalesocket]
# staticdir = "../client/web"
# api = true
# frame = "json"
# resume = 30
# joinmsg = '{"t":"Join","id":#ID}'
# leavemsg = '{"t":"Leave","id":#ID}'
# ///
# mypy: disable-error-code="no-untyped-def"
"""A meadow full of bunnies: a multiplayer game that only reads stdin and prints to stdout.

    python3 scalesocket.py game.py        then open http://localhost:9000/ in two windows

The server starts one of these programs per room and turns its lines into WebSocket messages.

    comes in                                            goes out
    {"t":"Join","id":7}                                 Welcome to 7, Player to everybody
    {"t":"Input","data":{"x":123,"y":456},"id":7}       Player to everybody
    {"t":"Leave","id":7}                                Gone to everybody

The server writes the "id" of each line that comes in, so nobody can play for somebody else: a
client that sends a Leave of its own makes only itself disappear. An "id" on a line that goes out
is the one client who gets it; null is everybody in the room.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from json import dumps
from json.decoder import JSONDecodeError
from sys import stdin
from typing import NamedTuple

WIDTH, HEIGHT = 1200, 800  # of the meadow; (0, 0) is its top left corner


# ==== The rules ==============================================================
# What happens in the meadow, without a word about where events come from or
# where messages go. That is why a test can play it step by step.


class Message(NamedTuple):
    t: str
    data: dict[str, object]
    to_id: int | None = None  # None: everybody in the room


class Meadow:
    """Who is here, and where each one is or hops to."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[int, int]] = {}

    def handle(self, event: object) -> Iterator[Message]:
        """Apply one event, and yield the messages that follow from it.

        A client may send any JSON there is: what fits no pattern has no effect.
        """
        match event:
            case {"t": "Join", "id": int(who)}:
                self.places.setdefault(who, spawn_place(who))
                yield Message("Welcome", self.describe(who), to_id=who)
                yield Message("Player", self.player(who))
            case {"t": "Input", "id": int(who), "data": {"x": x, "y": y}} if who in self.places:
                if is_number(x) and is_number(y):
                    self.places[who] = clamp(x, WIDTH), clamp(y, HEIGHT)
                    yield Message("Player", self.player(who))
            case {"t": "Leave", "id": int(who)} if who in self.places:
                del self.places[who]
                yield Message("Gone", {"id": who})

    def player(self, who: int) -> dict[str, object]:
        x, y = self.places[who]
        return {"id": who, "x": x, "y": y}

    def describe(self, who: int) -> dict[str, object]:
        """Everything that a newcomer has to know."""
        world = {"width": WIDTH, "height": HEIGHT}
        return {"you": who, "world": world, "players": [self.player(p) for p in self.places]}


def spawn_place(who: int) -> tuple[int, int]:
    """Spread newcomers evenly, with no dice: neighbouring IDs land far apart."""
    across, down = who * 7549 % 10000 / 10000, who * 5698 % 10000 / 10000
    return round((0.1 + 0.8 * across) * WIDTH), round((0.1 + 0.8 * down) * HEIGHT)


def is_number(value: object) -> bool:
    """Whether it can be a coordinate: true and false cannot, nor can NaN, unequal to itself."""
    return type(value) in (int, float) and value == value


def clamp(value: float, limit: int) -> int:
    return round(min(max(value, 0), limit))


# ==== The loop ===============================================================
# A line in is an event, a line out is a message. There is nothing else to it.


def loads(text: str) -> object:
    """Parse JSON; a hostile line fails like any other that is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; 100,000 brackets
        raise JSONDecodeError(str(error), text, 0) from error


def parse_json(data: str):
    with suppress(JSONDecodeError):
        return loads(data)
    return None


def main() -> None:
    if isinstance(stdin, TextIOWrapper):
        stdin.reconfigure(errors="replace")  # bytes that are no text are bad JSON, not the end
    meadow = Meadow()
    stdin_events = map(parse_json, stdin)

    for event in stdin_events:
        for t, data, to_id in meadow.handle(event):
            print(dumps({"t": t, "data": data, "id": to_id}))


if __name__ == "__main__":
    main()
