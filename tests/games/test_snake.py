"""Snake: its rules, its deltas, its hooks, and games over a real server."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalesocket.game import snake
from scalesocket.game.messages import RuleError
from scalesocket.game.snake import HEIGHT, RATE, WIDTH, Snake
from scalesocket.game.snake_rules import (
    CLEARANCE,
    DIRECTIONS,
    FOOD,
    GRACE_TICKS,
    LENGTH,
    MAX_TURNS,
    RESPAWN_TICKS,
    Cell,
    Delta,
    Player,
    World,
)

from scalesocket import write_json
from tests.fake_room import FakeClient, FakeRoom, arbitrary_messages
from tests.support import PATIENCE, RawClient, ServerProcess, http_request, serve, wait_until

Message = dict[str, Any]

# ==== 1. A snake ===========================================================


class Barren(World):
    """A world in which no food grows and nobody is born: a test puts everything there."""

    def __init__(self, width: int = 12, height: int = 8) -> None:
        super().__init__(width, height, random.Random(0))

    def _grow_food(self, solid: set[Cell], delta: Delta) -> None:
        pass

    def put(self, player_id: int, direction: str, *body: Cell) -> Player:
        """Put a snake there, head first."""
        player = Player(player_id, f"p{player_id}", body=[*body], direction=direction)
        self.players[player_id] = player
        return player


@pytest.fixture
def world() -> Barren:
    return Barren()


def test_a_snake_moves_one_cell_at_each_tick(world: Barren) -> None:
    player = world.put(1, "right", (3, 4), (2, 4), (1, 4))
    delta = world.step()
    assert player.body == [(4, 4), (3, 4), (2, 4)]
    assert delta.describe() == {"tick": 1, "moved": [(1, 4, 4, "right")]}


@pytest.mark.parametrize(("direction", "head"), [("up", (3, 3)), ("down", (3, 5))])
def test_a_snake_turns(world: Barren, direction: str, head: Cell) -> None:
    player = world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.turn(1, direction)
    assert world.step().moved == [(1, *head, direction)]
    assert player.body == [head, (3, 4), (2, 4)]


def test_one_turn_is_made_at_each_tick(world: Barren) -> None:
    player = world.put(1, "right", (3, 4), (2, 4), (1, 4))
    for direction in ("up", "left"):
        world.turn(1, direction)
    world.step()
    world.step()
    assert player.body == [(2, 3), (3, 3), (3, 4)]


def test_turns_beyond_the_first_three_of_a_burst_are_dropped(world: Barren) -> None:
    player = world.put(1, "right", (3, 4), (2, 4), (1, 4))
    for direction in ("up", "right", "down", "right", "up"):
        world.turn(1, direction)
    heads = [world.step().moved[0][1:3] for _ in range(5)]
    assert heads == [(3, 3), (4, 3), (4, 4), (4, 5), (4, 6)]
    assert MAX_TURNS == 3
    assert player.turns == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_back_and_straight_on_are_no_turns(world: Barren, direction: str) -> None:
    x, y = DIRECTIONS[direction]
    player = world.put(1, direction, (5, 4), (5 - x, 4 - y), (5 - 2 * x, 4 - 2 * y))
    for other in DIRECTIONS:
        if (abs(DIRECTIONS[other][0]), abs(DIRECTIONS[other][1])) == (abs(x), abs(y)):
            world.turn(1, other)
    assert player.turns == []
    world.step()
    assert player.body[0] == (5 + x, 4 + y)


def test_back_is_judged_by_the_turn_before_it(world: Barren) -> None:
    player = world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.turn(1, "up")
    world.turn(1, "down")
    assert player.turns == ["up"]
    world.turn(1, "left")
    assert player.turns == ["up", "left"], "left is no way back from up"


@pytest.mark.parametrize("direction", ["north", "", "UP", None, 1, ["up"], {}])
def test_there_are_four_directions(world: Barren, direction: object) -> None:
    with pytest.raises(RuleError, match="up, down, left, right"):
        world.turn(1, direction)


def test_who_eats_grows_and_scores(world: Barren) -> None:
    player = world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.food = {(4, 4)}
    delta = world.step()
    assert player.body == [(4, 4), (3, 4), (2, 4), (1, 4)]
    assert (delta.grew, delta.eaten, delta.scores) == ([1], [(4, 4)], [(1, 1, 1)])
    assert world.food == set()


# ==== 2. Deaths ============================================================


def deaths(delta: Delta) -> dict[int, tuple[object, object]]:
    """Return cause and killer by who died."""
    return {cast(int, d["id"]): (d["cause"], d["by"]) for d in delta.died}


@pytest.mark.parametrize(
    ("direction", "body"),
    [
        ("right", [(11, 4), (10, 4), (9, 4)]),
        ("left", [(0, 4), (1, 4), (2, 4)]),
        ("up", [(4, 0), (4, 1), (4, 2)]),
        ("down", [(4, 7), (4, 6), (4, 5)]),
    ],
)
def test_a_wall_kills(world: Barren, direction: str, body: list[Cell]) -> None:
    player = world.put(1, direction, *body)
    delta = world.step()
    assert deaths(delta) == {1: ("wall", None)}
    assert delta.moved == []
    assert player.body == []


def test_a_snake_that_bites_itself_dies(world: Barren) -> None:
    world.put(1, "up", (3, 3), (3, 4), (4, 4), (4, 3), (4, 2))
    world.turn(1, "right")
    assert deaths(world.step()) == {1: ("self", None)}


def test_the_own_tail_makes_way(world: Barren) -> None:
    player = world.put(1, "up", (3, 3), (3, 4), (4, 4), (4, 3))
    world.turn(1, "right")
    assert deaths(world.step()) == {}
    assert player.body[0] == (4, 3)


def test_who_runs_into_another_dies_of_it(world: Barren) -> None:
    world.put(1, "right", (3, 4), (2, 4), (1, 4))
    other = world.put(2, "down", (4, 5), (4, 4), (4, 3))
    assert deaths(world.step()) == {1: ("snake", 2)}
    assert other.body[0] == (4, 6)


def test_a_tail_that_goes_away_is_no_obstacle(world: Barren) -> None:
    player = world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.put(2, "down", (4, 6), (4, 5), (4, 4))
    assert deaths(world.step()) == {}
    assert player.body[0] == (4, 4)


def test_the_tail_of_who_eats_is_an_obstacle(world: Barren) -> None:
    world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.put(2, "up", (4, 2), (4, 3), (4, 4))
    world.food = {(4, 1)}
    assert deaths(world.step()) == {1: ("snake", 2)}


@pytest.mark.parametrize("gap", [0, 1])
def test_two_that_meet_head_on_both_die(world: Barren, gap: int) -> None:
    world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.put(2, "left", (4 + gap, 4), (5 + gap, 4), (6 + gap, 4))
    cause = "head" if gap else "snake"
    assert deaths(world.step()) == {1: (cause, 2), 2: (cause, 1)}


def test_nobody_gets_the_food_that_two_heads_meet_on(world: Barren) -> None:
    world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.put(2, "left", (5, 4), (6, 4), (7, 4))
    world.food = {(4, 4)}
    delta = world.step()
    assert set(deaths(delta)) == {1, 2}
    assert delta.eaten == [] and (4, 4) in world.food


def test_who_dies_in_this_tick_is_still_in_the_way(world: Barren) -> None:
    world.put(1, "right", (10, 4), (9, 4), (8, 4))
    world.put(2, "up", (10, 5), (10, 6), (10, 7))
    world.put(3, "right", (11, 4), (11, 3), (11, 2))
    assert deaths(world.step()) == {1: ("snake", 3), 2: ("snake", 1), 3: ("wall", None)}


def test_of_three_heads_in_one_cell_all_die(world: Barren) -> None:
    world.put(1, "right", (3, 4), (2, 4), (1, 4))
    world.put(2, "left", (5, 4), (6, 4), (7, 4))
    world.put(3, "down", (4, 3), (4, 2), (4, 1))
    assert {i: cause for i, (cause, _) in deaths(world.step()).items()} == dict.fromkeys(
        (1, 2, 3), "head"
    )


def row(head: int, length: int) -> list[Cell]:
    """Return a body that goes right in row 4, head first."""
    return [(head - n, 4) for n in range(length)]


def test_every_other_cell_that_the_dead_had_grown_by_becomes_food(world: Barren) -> None:
    world.put(1, "right", *row(11, LENGTH + 4))
    delta = world.step()
    assert world.food == {(11, 4), (9, 4)}
    assert set(delta.food) == world.food


def test_who_never_ate_leaves_no_food(world: Barren) -> None:
    world.put(1, "right", *row(11, LENGTH))
    assert world.step().food == []


def test_players_who_fell_asleep_do_not_fill_the_world_with_food() -> None:
    world = World(20, 10, random.Random(0))
    for number in range(5):
        world.join(number, f"p{number}")
    deaths_seen = 0
    for _ in range(3000):
        deaths_seen += len(world.step().died)
    assert deaths_seen > 100
    assert len(world.food) < 3 * FOOD


def test_no_food_falls_where_a_snake_has_just_come(world: Barren) -> None:
    world.put(1, "right", *row(8, LENGTH + 3))
    player = world.put(2, "up", (6, 5), (6, 6), (6, 7))
    world.leave(1)
    assert world.step().food == [(8, 4)]
    assert player.body[0] == (6, 4)
    assert world.food == {(8, 4)}


def test_the_dead_come_back_with_a_new_score_and_the_best_of_before(world: Barren) -> None:
    player = world.put(1, "right", (11, 4), (10, 4), (9, 4))
    player.score = player.best = 5
    (death,) = world.step().died
    assert death["respawn"] == 1 + RESPAWN_TICKS
    world.turn(1, "up")
    for _ in range(RESPAWN_TICKS - 1):
        assert world.step().born == []
        assert (player.score, player.body) == (5, [])
    delta = world.step()
    assert [born["id"] for born in delta.born] == [1]
    assert delta.scores == [(1, 0, 5)]
    assert len(player.body) == LENGTH
    assert player.turns == [], "turns of the dead have no effect"


def test_turns_that_were_still_to_be_made_die_with_the_snake(world: Barren) -> None:
    player = world.put(1, "right", (11, 4), (10, 4), (9, 4))
    player.turns = ["right", "up"]
    assert set(deaths(world.step())) == {1}
    assert player.turns == []


def test_who_leaves_leaves_food_and_nothing_else(world: Barren) -> None:
    world.put(1, "right", *row(6, LENGTH + 3))
    world.leave(1)
    assert 1 in world.players, "until the next tick, or the deltas would not tell"
    assert world.step().describe() == {"tick": 1, "left": [1], "food": [(6, 4), (4, 4)]}
    assert world.players == {}


def test_who_leaves_before_the_first_tick_was_never_there(world: Barren) -> None:
    world.join(1, "ann")
    world.leave(1)
    assert world.step().describe() == {"tick": 1}


def test_the_leaderboard_is_by_best_then_score_then_age(world: Barren) -> None:
    for number, (best, score) in enumerate([(1, 1), (3, 0), (3, 2), (1, 1)], 1):
        player = world.put(number, "up")
        player.best, player.score = best, score
    assert [player.id for player in world.leaderboard()] == [3, 2, 1, 4]


def test_in_a_full_world_one_waits_for_a_place() -> None:
    tiny = World(2, 2, random.Random(1))
    tiny.join(1, "ann")
    for _ in range(5):
        assert tiny.step().born == []
    assert tiny.describe()["food"] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_in_a_crowd_who_has_waited_longest_is_born_first() -> None:
    """Who came first was first again after each death: the last ones were never born."""
    narrow = Barren(LENGTH + CLEARANCE, 1)  # room for one
    for number, respawn in enumerate((9, 7, 8), 1):
        narrow.put(number, "up").respawn = respawn
    narrow.tick = 9
    order: list[int] = []
    for _ in range(100):  # a place is looked for by chance
        order += [born["id"] for born in narrow.step().born]
        for number in order:
            narrow.players[number].body = []  # it makes room for the next
    assert order == [2, 3, 1]


def test_a_newborn_has_room_to_move() -> None:
    for seed in range(50):
        crowd = World(30, 15, random.Random(seed))
        for number in range(8):
            crowd.join(number, f"p{number}")
        assert len(crowd.step().born) == 8
        for _ in range(GRACE_TICKS - 1):
            assert crowd.step().moved == [], "they stand still at first"
        for _ in range(CLEARANCE):
            assert deaths(crowd.step()) == {}
        assert all(len(p.body) == LENGTH + p.score for p in crowd.players.values())


def bear(world: World) -> Player:
    """Let a player join and be born."""
    world.join(1, "ann")
    world.step()
    return world.players[1]


def test_a_newborn_stands_still_until_it_is_turned() -> None:
    """Six newcomers who knew no key yet were dead after 1 to 8 seconds."""
    for seed in range(20):
        player = bear(world := World(30, 15, random.Random(seed)))
        for _ in range(GRACE_TICKS // 2):
            assert world.step().moved == []
        (x, y), across = player.body[0], player.direction in ("left", "right")
        inwards = ("up" if y > 7 else "down") if across else ("left" if x > 15 else "right")
        world.turn(1, inwards)
        assert [move[0] for move in world.step().moved] == [1]
        assert player.waits is None


@pytest.mark.parametrize("seed", range(8))
def test_a_newborn_sets_out_straight_on_but_not_back(seed: int) -> None:
    player = bear(world := World(30, 15, random.Random(seed)))
    world.turn(1, {"up": "down", "down": "up", "left": "right", "right": "left"}[player.direction])
    assert world.step().moved == []
    world.turn(1, player.direction)
    assert len(world.step().moved) == 1
    world.turn(1, player.direction)
    assert player.turns == [], "once it has set out, that is no turn"


def test_a_newborn_that_nobody_turns_sets_out_by_itself() -> None:
    player = bear(world := World(30, 15, random.Random(0)))
    assert player.waits == 1 + GRACE_TICKS
    assert [len(world.step().moved) for _ in range(GRACE_TICKS)][-2:] == [0, 1]


def test_who_stands_still_is_in_the_way_to_the_end_of_its_tail(world: Barren) -> None:
    world.put(1, "right", (3, 4), (2, 4), (1, 4))
    newborn = world.put(2, "up", (4, 2), (4, 3), (4, 4))
    newborn.waits = 99
    assert deaths(world.step()) == {1: ("snake", 2)}
    assert newborn.body == [(4, 2), (4, 3), (4, 4)]


# ==== 3. Deltas, and all the rest whatever happens =========================


class View:
    """The world as a client knows it, from the messages that are documented and nothing else."""

    def __init__(self, full: Message) -> None:
        self.tick = full["tick"]
        self.players = {player["id"]: player for player in full["players"]}
        self.food = {tuple(cell) for cell in full["food"]}

    def apply(self, delta: Message) -> None:
        assert delta["tick"] == self.tick + 1
        self.tick = delta["tick"]
        for player_id in delta.get("left", ()):
            del self.players[player_id]
        for player in delta.get("joined", ()):
            assert player["id"] not in self.players
            self.players[player["id"]] = player
        for player_id, waits in delta.get("halted", ()):
            self.players[player_id]["waits"] = waits
        for death in delta.get("died", ()):
            changed = {"body": [], "dir": death["dir"], "respawn": death["respawn"]}
            self.players[death["id"]].update(changed, waits=None)
        for player_id, x, y, direction in delta.get("moved", ()):
            player = self.players[player_id]
            player["body"].insert(0, [x, y])
            player["dir"], player["waits"] = direction, None
            if player_id not in delta.get("grew", ()):
                player["body"].pop()
        for cell in delta.get("eaten", ()):
            self.food.remove(tuple(cell))
        for born in delta.get("born", ()):
            self.players[born["id"]].update(born, respawn=None)
        for cell in delta.get("food", ()):
            assert tuple(cell) not in self.food
            self.food.add(tuple(cell))
        for player_id, score, best in delta.get("scores", ()):
            self.players[player_id].update(score=score, best=best)

    def describe(self) -> Message:
        players = list(self.players.values())
        return {"tick": self.tick, "players": players, "food": sorted(map(list, self.food))}


def over_the_wire(value: object) -> Message:
    return cast(Message, json.loads(write_json(value)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "turn", "turn", "turn", "tick", "tick", "tick"]),
        st.integers(1, 6),
        st.sampled_from([*DIRECTIONS]),
    ),
    min_size=40,
    max_size=120,
)
SIZES = st.sampled_from([(20, 8), (9, 9), (12, 5), (7, 3), (1, 1)])


def run(world: World, steps: list[tuple[str, int, str]]) -> Iterator[tuple[Delta, World]]:
    """Do what the steps say; yield after every tick. A number that is in use joins as another."""
    present: dict[int, int] = {}
    for last, (action, number, direction) in enumerate(steps):
        if action == "join" and number not in present:
            present[number] = last
            world.join(last, f"p{last}")
        elif action == "leave" and number in present:
            world.leave(present.pop(number))
        elif action == "turn":
            world.turn(present.get(number, -1), direction)
        elif action == "tick":
            yield world.step(), world


@pytest.mark.slow
@settings(max_examples=40)
@given(SIZES, STEPS, st.integers(0, 9))
def test_deltas_applied_to_the_full_state_give_the_full_state(
    size: tuple[int, int], steps: list[tuple[str, int, str]], seed: int
) -> None:
    world = World(*size, random.Random(seed))
    views = [View(over_the_wire(world.describe()))]
    for delta, _ in run(world, steps):
        message = write_json(delta.describe())
        for view in views:
            view.apply(json.loads(message))
            assert view.describe() == over_the_wire(world.describe())
        if len(views) < 3:  # one more who comes later
            views.append(View(over_the_wire(world.describe())))


@pytest.mark.slow
@settings(max_examples=40)
@given(SIZES, STEPS, st.integers(0, 9))
def test_a_world_is_sound_after_every_tick(
    size: tuple[int, int], steps: list[tuple[str, int, str]], seed: int
) -> None:
    best: dict[int, int] = {}
    for _, world in run(World(*size, random.Random(seed)), steps):
        cells = [cell for player in world.players.values() for cell in player.body]
        assert len(set(cells)) == len(cells), "no two snakes are in one place"
        assert all(map(world.contains, [*cells, *world.food]))
        assert world.food.isdisjoint(cells)
        for player in world.players.values():
            assert (player.body == []) == (player.respawn is not None)
            assert player.waits is None or (player.body and player.waits > world.tick)
            assert not player.body or len(player.body) == LENGTH + player.score
            assert player.best >= max(player.score, best.get(player.id, 0))
            best[player.id] = player.best
            for (x, y), (u, v) in pairwise(player.body):
                assert abs(x - u) + abs(y - v) == 1, "a body hangs together"


@settings(max_examples=20)
@given(STEPS, st.integers(0, 9))
def test_the_same_seed_and_the_same_calls_make_the_same_world(
    steps: list[tuple[str, int, str]], seed: int
) -> None:
    twins = [World(20, 8, random.Random(seed)) for _ in range(2)]
    histories = [[delta.describe() for delta, _ in run(twin, steps)] for twin in twins]
    assert histories[0] == histories[1]
    assert twins[0].describe() == twins[1].describe()


@pytest.mark.parametrize("players", [1, 4, 60])
def test_a_long_game_of_many_keeps_everyone_fed_and_alive(players: int) -> None:
    """Snakes that steer by chance die all the time, and the world goes on."""
    chance = random.Random(players)
    world = World(WIDTH, HEIGHT, random.Random(0))
    view = View(over_the_wire(world.describe()))
    for number in range(players):
        world.join(number, f"p{number}")
    lives = 0
    for _ in range(400):
        for number in range(players):
            if chance.random() < 0.2:
                world.turn(number, chance.choice([*DIRECTIONS]))
        delta = world.step()
        lives += len(delta.born)
        view.apply(over_the_wire(delta.describe()))
    assert view.describe() == over_the_wire(world.describe())
    assert lives > 3 * players
    assert len(world.food) >= FOOD + players


def test_a_tick_of_a_few_snakes_is_a_small_message() -> None:
    world = World(WIDTH, HEIGHT, random.Random(0))
    for number in range(4):
        world.join(number, f"p{number}")
    world.step()
    full, delta = (len(write_json(x)) for x in (world.describe(), world.step().describe()))
    assert delta < 120 < full


# ==== 4. The hooks =========================================================


@pytest.fixture
def room() -> FakeRoom:
    chamber = FakeRoom(Snake())
    game_of(chamber).world = World(WIDTH, HEIGHT, random.Random(3))
    return chamber


def game_of(room: FakeRoom) -> Snake:
    return cast(Snake, room.game)


def error_of(client: FakeClient) -> str:
    """Return the only message that a client was sent: an error."""
    (message,) = client.take()
    assert message["t"] == "error"
    return cast(str, message["error"])


def test_who_joins_is_welcomed_with_the_whole_world(room: FakeRoom) -> None:
    room.join("ann")
    for _ in range(5):
        room.game.on_tick(0.1)
    watcher = room.join()
    welcome, full = watcher.take()
    own = {"id": 2, "name": None}
    assert welcome == {"t": "welcome", **own, "width": WIDTH, "height": HEIGHT, "rate": RATE}
    assert full == {"t": "full", **over_the_wire(game_of(room).world.describe())}
    assert full["players"][0]["name"] == "ann"


def test_all_messages_have_the_keys_that_are_documented(room: FakeRoom) -> None:
    text = snake.__doc__ or ""
    client = room.join("ann")
    seen: set[str] = set()
    for tick in range(200):
        if tick == 150:
            room.leave(room.join("bob"))
            room.join("cid")
        if tick == 160:
            room.drop(client)
        if tick == 170:
            room.resume(client)
        if tick == 180:
            room.leave(room.clients[max(room.clients)])
        room.game.on_tick(0.1)
        (delta,) = client.take()[-1:]
        seen |= delta.keys()
        for entry in (*delta.get("died", ()), *delta.get("born", ()), *delta.get("joined", ())):
            assert all(f'"{key}":' in text for key in entry)
    assert seen >= {"t", "tick", "left", "joined", "halted", "died", "moved", "born", "food"}
    assert all(f'"{key}":' in text for key in seen)


def test_a_snake_whose_player_is_away_stands_still_and_waits_for_the_first_turn(
    room: FakeRoom,
) -> None:
    client, watcher = room.join("ann"), room.join()
    world = game_of(room).world
    room.game.on_tick(0.1)
    room.say(client, {"t": "turn", "dir": world.players[1].direction})
    room.game.on_tick(0.1)
    body = [*world.players[1].body]
    room.drop(client)
    for _ in range(200):
        room.game.on_tick(0.1)
    assert world.players[1].body == body
    room.resume(client)
    client.take()
    watcher.take()
    room.game.on_tick(0.1)
    (delta,) = watcher.take()
    assert delta["halted"] == [[1, world.tick + 80]]
    assert world.players[1].waits == world.tick + 80
    room.game.on_tick(0.1)
    assert world.players[1].body == body
    room.say(client, {"t": "turn", "dir": world.players[1].direction})
    room.game.on_tick(0.1)
    assert world.players[1].body != body


def test_a_page_that_was_loaded_anew_is_told_who_it_is(room: FakeRoom) -> None:
    client = room.join("ann")
    room.game.on_tick(0.1)
    client.take()
    room.resume(client, restored=True)
    welcome, full = client.take()
    assert (welcome["id"], welcome["name"]) == (1, "ann")
    assert [player["name"] for player in full["players"]] == ["ann"]


def test_a_client_without_a_name_watches(room: FakeRoom) -> None:
    watcher = room.join()
    room.game.on_tick(0.1)
    assert [message["t"] for message in watcher.take()] == ["welcome", "full", "delta"]
    assert game_of(room).world.players == {}
    room.say(watcher, {"t": "turn", "dir": "up"})
    assert error_of(watcher) == "give your name first"
    room.say(watcher, {"username": "SnakeKing"})
    room.game.on_tick(0.1)
    (delta,) = watcher.take()
    assert [player["name"] for player in delta["joined"]] == ["SnakeKing"]
    assert [born["id"] for born in delta["born"]] == [watcher.id]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("{", "not JSON"),
        (b"\x00", "not binary"),
        ("[]", "JSON objects"),
        ({}, "t is name or turn"),
        ({"t": ["turn"]}, "t is name or turn"),
        ({"t": "turn"}, "dir is up, down, left, right"),
        ({"t": "turn", "dir": ["up"]}, "dir is up, down, left, right"),
        ({"t": "name", "name": "eve"}, "you are bob already"),
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


def test_two_with_the_same_name_are_told(room: FakeRoom) -> None:
    room.join("ann")
    second = room.join()
    second.take()
    room.say(second, {"t": "name", "name": "Ann"})
    assert error_of(second) == "the name 'Ann' is taken"


def test_the_lobby_sees_how_many_play_and_watch_and_the_best(room: FakeRoom) -> None:
    assert room.metadata is None
    room.join()
    ann = room.join("ann")
    room.game.on_tick(0.1)
    assert room.metadata == {
        "players": 1,
        "spectators": 1,
        "best": {"name": "ann", "score": 0},
    }
    player = game_of(room).world.players[ann.id]
    player.body, player.direction, player.waits = [(5, 5), (4, 5), (3, 5)], "right", None
    game_of(room).world.food = {(6, 5)}
    room.game.on_tick(0.1)
    assert room.metadata["best"] == {"name": "ann", "score": 1}
    room.leave(ann)
    room.game.on_tick(0.1)
    assert room.metadata == {"players": 0, "spectators": 1, "best": None}


MESSAGES = arbitrary_messages(
    t=st.sampled_from(["name", "turn"]),
    name=st.sampled_from(["ann", "bob", "ANN"]),
    username=st.sampled_from(["ann", "cid"]),
    dir=st.sampled_from([*DIRECTIONS]),
)
EVENTS = st.tuples(st.sampled_from(["join", "leave", "say", "say", "tick", "tick"]), MESSAGES)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(EVENTS, min_size=15, max_size=60), st.randoms(use_true_random=False))
def test_whatever_clients_do_no_hook_raises(events: list[tuple[str, Any]], chance: Any) -> None:
    room = FakeRoom(Snake())
    game_of(room).world = World(16, 6, random.Random(0))
    views: dict[int, View] = {}
    for action, message in events:
        clients = list(room.clients.values())
        if action == "join" or not clients:
            client = room.join(chance.choice([None, "ann", "bob", "cid"]))
            views[client.id] = View(client.take()[1])
        elif action == "leave":
            room.leave(chance.choice(clients))
        elif action == "say":
            room.say(chance.choice(clients), message)
        else:
            room.game.on_tick(0.1)
        for client in room.clients.values():
            for sent in client.take():
                if sent["t"] == "delta":
                    views[client.id].apply(sent)
    room.game.on_tick(0.1)
    names = [client.data["name"] for client in room.clients.values() if "name" in client.data]
    assert sorted(player.name for player in game_of(room).world.players.values()) == sorted(names)
    for client in room.clients.values():
        views[client.id].apply(client.take()[-1])
        assert views[client.id].describe() == over_the_wire(game_of(room).world.describe())


# ==== 5. A real server =====================================================


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve("--tcplisten", "127.0.0.1:0", "snake") as running:
        yield running


class Follower:
    """A client that follows the world by what it is told."""

    def __init__(self, server: ServerProcess, room: str, name: str | None = None) -> None:
        self.client = RawClient.connect(server, room)
        self.welcome = self.receive()
        self.view = View(self.receive())
        self.errors: list[str] = []
        if name is not None:
            self.client.send_json({"t": "name", "name": name})

    @property
    def id(self) -> int:
        return cast(int, self.welcome["id"])

    @property
    def me(self) -> Message:
        return cast(Message, self.view.players[self.id])

    def receive(self) -> Message:
        return cast(Message, self.client.receive_json())

    def follow(self) -> Message:
        """Take the next delta."""
        while (message := self.receive())["t"] == "error":
            self.errors.append(message["error"])
        self.view.apply(message)
        return message

    def follow_until(self, condition: Callable[[Message], object], ticks: int = 400) -> Message:
        """Follow the world up to the delta that the condition is true of."""
        for _ in range(ticks):
            delta = self.follow()
            if condition(delta):
                return delta
        raise AssertionError(f"not within {ticks} ticks: {condition}")

    def turn(self, direction: str) -> None:
        self.client.send_json({"t": "turn", "dir": direction})

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.sock.close()


@pytest.mark.slow
def test_two_play_in_one_world_and_a_third_sees_the_same(server: ServerProcess) -> None:
    with (
        Follower(server, "world", "ann") as ann,
        Follower(server, "world", "bob") as bob,
        Follower(server, "world") as watcher,
    ):
        for follower in (ann, bob, watcher):
            follower.follow_until(lambda _, f=follower: len(f.view.players) == 2)
        names = {player["name"] for player in watcher.view.players.values()}
        assert names == {"ann", "bob"}
        last = max(follower.view.tick for follower in (ann, bob, watcher)) + 5
        for follower in (ann, bob, watcher):
            follower.follow_until(lambda delta: delta["tick"] == last)
        assert ann.view.describe() == bob.view.describe() == watcher.view.describe()


def test_a_snake_goes_where_its_player_steers_it(server: ServerProcess) -> None:
    with Follower(server, "steer", "ann") as ann:
        way = ""

        def has_turned(_: Message) -> bool:
            nonlocal way
            if ann.id not in ann.view.players or not ann.me["body"]:
                way = ""  # on a busy machine it may run into a wall first: its next life counts
            elif not way:
                way = "left" if ann.me["dir"] in ("up", "down") else "up"
                ann.turn(way)
            return bool(way) and str(ann.me["dir"]) == way

        ann.follow_until(has_turned)
        (x, y), (u, v) = ann.me["body"][:2]
        assert (x - u, y - v) == DIRECTIONS[way]


@pytest.mark.slow
def test_who_runs_into_a_wall_comes_back(server: ServerProcess) -> None:
    with Follower(server, "wall", "ann") as ann:
        ann.follow_until(lambda _: ann.id in ann.view.players and ann.me["body"])
        ann.turn(ann.me["dir"])
        died = ann.follow_until(lambda delta: "died" in delta)["died"][0]
        assert (died["id"], died["cause"], died["by"]) == (ann.id, "wall", None)
        born = ann.follow_until(lambda delta: "born" in delta)
        assert born["tick"] == died["respawn"]


def test_a_player_that_goes_away_is_taken_out_of_the_world(server: ServerProcess) -> None:
    with Follower(server, "away") as watcher, Follower(server, "away", "ann") as ann:
        watcher.follow_until(lambda _: ann.id in watcher.view.players)
        ann.client.reset()
        assert watcher.follow_until(lambda delta: "left" in delta)["left"] == [ann.id]
        with Follower(server, "away", "ann") as again:
            watcher.follow_until(lambda _: again.id in watcher.view.players)


def test_a_wrong_message_is_answered_and_the_game_goes_on(server: ServerProcess) -> None:
    with Follower(server, "wrong", "ann") as ann:
        ann.client.send_text("up!")
        ann.follow_until(lambda _: ann.errors)
        assert ann.errors == ["that is not JSON"]
        ann.follow()


def test_the_lobby_sees_a_real_room(server: ServerProcess) -> None:
    def lobby() -> object:
        return json.loads(http_request(server, path="/api/lobby/metadata").body)

    with Follower(server, "lobby", "ann") as ann:
        ann.follow_until(lambda _: ann.id in ann.view.players)
        best = {"name": "ann", "score": ann.me["best"]}
        wait_until(lambda: lobby() == {"players": 1, "spectators": 0, "best": best})


def test_a_player_may_come_with_a_socket_alone(server: ServerProcess) -> None:
    """As in a tutorial about sockets: lines of JSON, the username first."""
    port = int(server.wait_log(r"lines of text at \S+ on port (\d+)")[1])
    with (
        Follower(server, "plain") as watcher,
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock,
        sock.makefile("r", encoding="utf-8") as lines,
    ):
        sock.sendall(b'plain\n{"username": "SnakeKing"}\n')
        welcome, full = json.loads(lines.readline()), json.loads(lines.readline())
        view = View(full)
        while not view.players.get(welcome["id"], {}).get("body"):
            view.apply(json.loads(lines.readline()))
        assert view.players[welcome["id"]]["name"] == "SnakeKing"
        watcher.follow_until(lambda delta: delta["tick"] == view.tick)
        assert watcher.view.describe() == view.describe()
