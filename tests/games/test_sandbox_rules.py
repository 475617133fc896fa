"""The rules of the sandbox world, played step by step with neither socket nor clock."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalesocket.game.grid import Grid, Thing
from scalesocket.game.sandbox_items import (
    APPLE,
    AXE,
    FOOD,
    GOLD,
    HAMMER,
    ITEMS,
    KILL_POINTS,
    MAX_SCALE,
    PLAYER_HEALTH,
    PLAYER_SCALE,
    PLAYER_SPEED,
    RESOURCES,
    SCENERY,
    SPIKE,
    STONE,
    SWING_ARC,
    SWORD,
    VIEW,
    WALL,
    WINDMILL,
    WOOD,
    Growth,
    Item,
)
from scalesocket.game.sandbox_rules import World
from scalesocket.game.sandbox_things import Player, Structure
from scalesocket.net import sandbox_packets as packets
from scalesocket.net.sandbox_packets import Packet

DT = 0.05  # seconds


# ==== 1. Helpers ============================================================


def empty_world(size: int = 3000) -> World:
    """Return a world in which nothing grows."""
    return World(0, size=size, scenery=())


def born(world: World, x: float, y: float, *, client_id: int = 1, name: str = "ann") -> Player:
    """Return a player at a place of our choice."""
    player = world.spawn(client_id, name, 0)
    assert player is not None
    world.space.players.move(player, x, y)
    world.notices.take()
    return player


def tree(world: World, x: float, y: float, resource: int = WOOD, scale: int = 60) -> Structure:
    """Return scenery at a place of our choice."""
    structure = Structure(10_000, x, y, scale, resource=resource)
    world.space.structures.add(structure)
    return structure


def steps(world: World, seconds: float) -> None:
    """Let time pass."""
    for _ in range(round(seconds / DT)):
        world.step(DT)


def click(world: World, player: Player, item: Item | None = None) -> None:
    """Press the button and let go; with an item that is taken in hand first."""
    if item is not None:
        world.select(player, item.id)
    world.press(player, True)
    world.press(player, False)
    steps(world, 1.0)  # longer than any cooldown


def rich(world: World, player: Player) -> None:
    """Give a player plenty of everything."""
    for resource in range(len(RESOURCES)):
        world.grant(player, resource, 1000)


def told(world: World, kind: type[Packet], to: Player | None = None) -> list[Packet]:
    """Return the packets of a class in the notices (to a player), and forget all notices."""
    notices = world.notices.take()
    return [n.packet for n in notices if type(n.packet) is kind and (to is None or n.to is to)]


# ==== 2. Walking ============================================================


@pytest.mark.parametrize("eighth", range(8))
def test_a_player_walks_in_each_of_eight_directions_at_the_same_speed(eighth: int) -> None:
    world = empty_world()
    ann = born(world, 1500, 1500)
    angle = eighth * math.pi / 4
    world.walk(ann, angle)
    steps(world, 1.0)
    assert ann.x == pytest.approx(1500 + PLAYER_SPEED * math.cos(angle))
    assert ann.y == pytest.approx(1500 + PLAYER_SPEED * math.sin(angle))


def test_a_player_who_is_told_to_stand_still_does() -> None:
    world = empty_world()
    ann = born(world, 1500, 1500)
    world.walk(ann, 0.3)
    world.walk(ann, None)
    steps(world, 0.5)
    assert (ann.x, ann.y) == (1500, 1500)


def test_the_edge_of_the_world_stops_a_player_and_lets_it_slide_along() -> None:
    world = empty_world()
    ann = born(world, 100, 1500)
    world.walk(ann, math.pi * 3 / 4)  # left and down
    steps(world, 1.0)
    assert ann.x == PLAYER_SCALE
    assert ann.y > 1600


def test_a_tree_in_the_way_is_walked_around() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    tree(world, 1200, 1010)
    world.walk(ann, 0.0)
    steps(world, 2.0)
    assert ann.x > 1300


def test_a_player_in_the_way_stops_one_who_comes_straight_on() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    bob = born(world, 1200, 1000, client_id=2)
    world.walk(ann, 0.0)
    steps(world, 2.0)
    assert ann.x == pytest.approx(1200 - 2 * PLAYER_SCALE, abs=0.1)
    assert (bob.x, bob.y) == (1200, 1000)


# ==== 3. Swinging ===========================================================


def test_hitting_a_tree_brings_wood_and_as_many_points() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    before = ann.resources[WOOD]
    oak = tree(world, 1120, 1000)
    click(world, ann)
    assert ann.resources[WOOD] == before + HAMMER.gather
    assert ann.points == HAMMER.gather
    notices = world.notices.take()
    assert packets.Swing(ann.sid, True, HAMMER.id) in [n.packet for n in notices]
    assert packets.ObjectHit(0.0, oak.sid) in [n.packet for n in notices]


@pytest.mark.parametrize("resource", range(len(RESOURCES)))
def test_each_sort_of_scenery_brings_its_own_resource(resource: int) -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    before = list(ann.resources)
    tree(world, 1120, 1000, resource)
    click(world, ann)
    before[resource] += HAMMER.gather
    assert ann.resources == before


def test_an_axe_gathers_more_than_a_hammer() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    ann.weapons.append(AXE)
    tree(world, 1120, 1000, GOLD)
    click(world, ann, AXE)
    assert ann.resources[GOLD] == AXE.gather > HAMMER.gather


@pytest.mark.parametrize(("beyond", "hit"), [(-1, True), (1, False)])
def test_a_swing_reaches_to_the_rim_of_its_target(beyond: int, hit: bool) -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    bob = born(world, 1000 + HAMMER.reach + PLAYER_SCALE + beyond, 1000, client_id=2)
    click(world, ann)
    assert bob.health == PLAYER_HEALTH - HAMMER.power * hit


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize(("beyond", "hit"), [(-0.02, True), (0.02, False)])
@pytest.mark.parametrize("facing", [0.0, 3.0, -3.0])
def test_a_swing_hits_what_is_in_its_arc(
    facing: float, side: int, beyond: float, hit: bool
) -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    angle = facing + side * (SWING_ARC + beyond)
    bob = born(world, 1000 + 80 * math.cos(angle), 1000 + 80 * math.sin(angle), client_id=2)
    world.aim(ann, facing)
    click(world, ann)
    assert (bob.health < PLAYER_HEALTH) == hit


def test_a_pressed_button_swings_as_often_as_the_cooldown_allows() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.press(ann, True)
    steps(world, 3.0)
    swings = len(told(world, packets.Swing))
    assert swings == pytest.approx(3.0 / HAMMER.cooldown, abs=1)


def test_a_click_between_two_steps_is_one_swing() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.press(ann, True)
    world.press(ann, False)
    steps(world, 2.0)
    assert len(told(world, packets.Swing)) == 1


def test_auto_attack_swings_until_it_is_switched_off() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.toggle_auto(ann)
    steps(world, 1.0)
    assert len(told(world, packets.Swing)) > 1
    world.toggle_auto(ann)
    steps(world, 1.0)
    assert told(world, packets.Swing) == []


# ==== 4. Death ==============================================================


def beat(world: World, by: Player, victim: Player) -> None:
    """Let a player strike until another is dead."""
    for _ in range(20):
        if victim.alive:
            click(world, by)
    assert not victim.alive


def test_a_player_without_health_is_dead_and_gone() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 1090, 1000, client_id=2)
    beat(world, ann, bob)
    notices = world.notices.take()
    assert bob.health == 0
    assert bob.sid not in world.players
    assert world.players_in_view(1000, 1000) == [ann]
    assert [n.to for n in notices if n.packet == packets.Death()] == [bob]
    assert [n.gone for n in notices if n.packet == packets.PlayerRemove(bob.sid)] == [(bob,)]


def test_the_winner_gets_points_and_half_of_those_of_the_loser() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 1090, 1000, client_id=2)
    bob.points = 41
    beat(world, ann, bob)
    assert ann.points == KILL_POINTS + 20


def test_buildings_go_with_their_owner() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 1090, 1000, client_id=2)
    rich(world, bob)
    click(world, bob, WALL)
    beat(world, ann, bob)
    assert world.structures_in_view(1000, 1000) == []
    assert told(world, packets.ObjectsRemove) == [packets.ObjectsRemove(bob.sid)]


def test_one_swing_may_end_a_player_and_hit_what_went_with_it() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 1090, 1000, client_id=2)
    rich(world, bob)
    world.aim(bob, math.pi / 2)
    click(world, bob, WALL)  # in ann's reach too
    bob.health = 1
    (wall,) = bob.buildings
    wall.health = 1
    ann.weapons.append(SWORD)
    click(world, ann, SWORD)
    assert not bob.alive
    assert world.structures_in_view(1000, 1000) == []


def test_a_second_life_has_a_sid_of_its_own_and_nothing_of_the_first() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 1090, 1000, client_id=2)
    rich(world, bob)
    beat(world, ann, bob)
    again = world.spawn(2, "bob", 0)
    assert again is not None
    assert again.sid not in (ann.sid, bob.sid)
    assert again.health == PLAYER_HEALTH
    assert again.resources[STONE] == 0


def test_what_the_dead_want_is_of_no_effect() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.leave(ann)
    world.walk(ann, 0.0)
    world.press(ann, True)
    world.leave(ann)
    world.notices.take()
    steps(world, 0.5)
    assert world.notices.take() == []
    assert ann.x == 1000


def test_a_world_without_room_lets_nobody_be_born() -> None:
    world = empty_world(size=300)
    born_players = [world.spawn(n, "x", 0) for n in range(50)]
    assert born_players[0] is not None
    assert born_players[-1] is None


# ==== 5. Building and eating ================================================


@pytest.mark.parametrize("item", [WALL, SPIKE, WINDMILL], ids=lambda item: item.name)
def test_a_building_costs_its_price_and_stands_in_front_of_its_owner(item: Item) -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    rich(world, ann)
    before = list(ann.resources)
    world.aim(ann, math.pi / 2)
    click(world, ann, item)
    (building,) = world.structures_in_view(1000, 1000)
    assert building.row() == packets.ObjectRow(
        building.sid, 1000, 1000 + item.reach, 1.57, item.scale, None, item.id, ann.sid
    )
    income = item.income  # of the one second that has passed
    paid = [b - a for a, b in zip(ann.resources, before, strict=True)]
    assert paid[:GOLD] == list(item.price[:GOLD])
    assert paid[GOLD] in (item.price[GOLD], item.price[GOLD] - income)
    assert packets.ItemCount(item.id, 1) in told(world, packets.ItemCount, ann)


def test_one_press_builds_once_and_then_the_weapon_is_in_hand_again() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    rich(world, ann)
    world.select(ann, WALL.id)
    assert ann.in_hand is WALL
    world.press(ann, True)
    steps(world, 2.0)
    assert ann.count(WALL) == 1
    assert ann.in_hand is None
    assert told(world, packets.Swing) == []


def test_who_cannot_pay_does_not_build() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    before = list(ann.resources)
    click(world, ann, WINDMILL)
    assert ann.count(WINDMILL) == 0
    assert ann.resources == before


def test_nothing_is_built_on_what_is_there() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    born(world, 1090, 1000, client_id=2)
    rich(world, ann)
    before = list(ann.resources)
    click(world, ann, WALL)
    assert ann.count(WALL) == 0
    assert ann.resources == before


def test_nothing_is_built_outside_the_world() -> None:
    world = empty_world()
    ann = born(world, PLAYER_SCALE, 1000)
    rich(world, ann)
    world.aim(ann, math.pi)
    click(world, ann, WALL)
    assert ann.count(WALL) == 0


def test_nobody_has_more_of_a_building_than_its_limit() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    rich(world, ann)
    for turn in range(WINDMILL.limit + 3):
        world.space.players.move(ann, 200 + 250 * turn, 1000)
        click(world, ann, WINDMILL)
    assert ann.count(WINDMILL) == WINDMILL.limit


def test_a_wall_falls_after_enough_blows_of_another_and_its_owner_is_told() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 1190, 1000, client_id=2)
    rich(world, ann)
    click(world, ann, WALL)
    (wall,) = ann.buildings
    world.aim(bob, math.pi)
    for _ in range(math.ceil(WALL.health / HAMMER.power) - 1):
        click(world, bob)
    assert ann.count(WALL) == 1
    world.notices.take()
    click(world, bob)
    assert ann.count(WALL) == 0
    notices = world.notices.take()
    assert [n.gone for n in notices if n.packet == packets.ObjectRemove(wall.sid)] == [(wall,)]
    assert [n.to for n in notices if n.packet == packets.ItemCount(WALL.id, 0)] == [ann]


def test_a_wall_stands_the_blows_of_its_owner() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    rich(world, ann)
    click(world, ann, WALL)
    for _ in range(20):
        click(world, ann)
    assert ann.count(WALL) == 1


def test_a_spike_hurts_another_who_walks_into_it_but_not_in_every_step() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 1300, 1000, client_id=2)
    rich(world, ann)
    click(world, ann, SPIKE)
    world.walk(bob, math.pi)
    steps(world, 0.9)
    assert PLAYER_HEALTH - 2 * SPIKE.power <= bob.health < PLAYER_HEALTH


def test_a_spike_does_not_hurt_its_owner() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    rich(world, ann)
    click(world, ann, SPIKE)
    world.walk(ann, 0.0)
    steps(world, 1.0)
    assert ann.health == PLAYER_HEALTH


def test_a_windmill_yields_gold_and_points_every_second() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    for resource in (WOOD, STONE):
        world.grant(ann, resource, 100)
    click(world, ann, WINDMILL)
    gold, points = ann.resources[GOLD], ann.points
    steps(world, 10.0)
    assert ann.resources[GOLD] - gold == ann.points - points == 10 * WINDMILL.income


def test_an_apple_heals_and_costs_food() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.grant(ann, FOOD, 25)
    ann.health = 50
    click(world, ann, APPLE)
    assert ann.health == 50 + APPLE.power
    assert ann.resources[FOOD] == 15
    assert told(world, packets.Health) == [packets.Health(ann.sid, 70)]


def test_nobody_gets_healthier_than_healthy() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.grant(ann, FOOD, 25)
    ann.health = PLAYER_HEALTH - 1
    click(world, ann, APPLE)
    assert ann.health == PLAYER_HEALTH


def test_who_is_well_does_not_eat() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.grant(ann, FOOD, 25)
    click(world, ann, APPLE)
    assert ann.resources[FOOD] == 25


def test_an_item_that_is_selected_twice_is_put_away() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.select(ann, WALL.id)
    world.select(ann, WALL.id)
    assert ann.in_hand is None


@pytest.mark.parametrize("item_id", [SWORD.id, len(ITEMS), 255])
def test_an_item_that_one_does_not_have_is_not_taken(item_id: int) -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.select(ann, item_id)
    assert ann.weapon is HAMMER
    assert ann.in_hand is None


# ==== 6. Growing older ======================================================


def test_points_bring_an_age_and_a_weapon_of_ones_choice() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.ledger.earn(ann, WOOD, ann.max_xp)
    assert (ann.age, ann.upgrades) == (2, 1)
    assert told(world, packets.Upgrades, ann) == [packets.Upgrades(1, 2)]
    world.upgrade(ann, SWORD.id)
    assert ann.weapon is SWORD
    assert told(world, packets.Items, ann)[0] == packets.Items((HAMMER.id, SWORD.id), True)


@pytest.mark.parametrize("item_id", [HAMMER.id, WALL.id, 255])
def test_no_upgrade_is_spent_on_what_is_no_new_weapon(item_id: int) -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    ann.upgrades = 1
    world.upgrade(ann, item_id)
    assert ann.upgrades == 1
    assert ann.weapons == [HAMMER]


def test_a_weapon_is_not_to_be_had_without_an_upgrade() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.upgrade(ann, SWORD.id)
    assert ann.weapons == [HAMMER]


def test_there_are_never_more_upgrades_than_weapons_to_choose() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.ledger.earn(ann, WOOD, 100_000)
    assert ann.upgrades == 3


def test_the_leaderboard_has_the_ten_best_and_of_equals_the_older_first() -> None:
    world = empty_world()
    players = [born(world, 100 + 100 * n, 100, client_id=n, name=f"p{n}") for n in range(12)]
    for player in players:
        player.points = player.client_id // 2
    rows = world.leaderboard()
    assert [row.name for row in rows] == "p10 p11 p8 p9 p6 p7 p4 p5 p2 p3".split()
    assert [row.score for row in rows] == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]


def test_the_minimap_has_everyone_wherever_they_are() -> None:
    world = empty_world()
    ann, bob = born(world, 100, 100), born(world, 2900, 2900, client_id=2)
    assert world.minimap() == (
        packets.MapRow(ann.sid, 100, 100),
        packets.MapRow(bob.sid, 2900, 2900),
    )


def test_an_announcement_is_for_everyone_and_chat_for_those_near() -> None:
    world = empty_world()
    ann = born(world, 1000, 1000)
    world.announce("a storm is coming")
    world.chat(ann, "run")
    storm, run = world.notices.take()
    assert (storm.packet, storm.to, storm.near) == (
        packets.Said(0, "a storm is coming"),
        None,
        None,
    )
    assert (run.packet, run.near) == (packets.Said(ann.sid, "run"), (1000, 1000))


# ==== 7. The whole world ====================================================


def test_every_object_has_an_id_of_its_own() -> None:
    world = World(3)
    players = [world.spawn(n, "x", 0) for n in range(20)]
    structures = world.space.structures.near(3000, 3000, 3000)
    sids = [thing.sid for thing in [*structures, *filter(None, players)]]
    assert len(set(sids)) == len(sids) > 200


def test_no_player_shares_a_list_with_another() -> None:
    world = empty_world()
    ann, bob = born(world, 1000, 1000), born(world, 2000, 1000, client_id=2)
    world.grant(ann, GOLD, 5)
    ann.weapons.append(SWORD)
    assert bob.resources[GOLD] == 0
    assert bob.weapons == [HAMMER]


def test_the_scenery_is_what_was_asked_for() -> None:
    structures = World(5).space.structures.near(3000, 3000, 3000)
    for growth in SCENERY:
        of_it = [s for s in structures if s.resource == growth.resource]
        assert len(of_it) == growth.count
        assert all(growth.min_scale <= s.scale <= growth.max_scale <= MAX_SCALE for s in of_it)


def test_another_seed_makes_another_world() -> None:
    first, second = (World(seed).structures_in_view(3000, 3000) for seed in (1, 2))
    assert [s.row() for s in first] != [s.row() for s in second]


def test_a_player_can_walk_between_any_two_pieces_of_scenery() -> None:
    structures = World(7).space.structures.near(3000, 3000, 3000)
    for a, b in itertools.combinations(structures, 2):
        gap = math.hypot(a.x - b.x, a.y - b.y) - a.scale - b.scale
        assert gap > 2 * PLAYER_SCALE


# ==== 8. What always holds ==================================================
# A few players in a small world do whatever they like, and much of it close together.

SMALL = (Growth(WOOD, 3, 60, 85), Growth(FOOD, 2, 45, 60), Growth(GOLD, 1, 70, 85))
ANGLES = st.floats(-math.pi, math.pi)
COMMANDS = st.one_of(
    st.tuples(st.just("walk"), st.none() | ANGLES),
    st.tuples(st.just("aim"), ANGLES),
    st.tuples(st.just("press"), st.booleans()),
    st.tuples(st.just("toggle_auto")),
    st.tuples(st.just("select"), st.integers(0, 255) | st.integers(0, len(ITEMS) - 1)),
    st.tuples(st.just("upgrade"), st.integers(0, len(ITEMS) - 1)),
    st.tuples(st.just("grant"), st.integers(0, 3), st.integers(0, 100)),
    st.tuples(st.just("build"), st.sampled_from([WALL, SPIKE, WINDMILL]), ANGLES),
    st.tuples(st.just("leave")),
)
SCRIPTS = st.lists(st.tuples(st.integers(0, 4), COMMANDS, st.integers(0, 12)), max_size=40)
SEEDS = st.integers(0, 2**32)


class Play:
    """A world, and five who follow a script in it."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed, size=900, scenery=SMALL)
        self.actors: list[Player | None] = [None] * 5

    def do(self, number: int, command: tuple[object, ...]) -> None:
        """Let someone do something, who is born first where necessary."""
        actor = self.actors[number]
        if actor is None or not actor.alive:
            actor = self.actors[number] = self.world.spawn(number, f"p{number}", 0)
            if actor is None:
                return
        name, *arguments = command
        if name == "build":
            item, angle = arguments
            assert isinstance(item, Item) and isinstance(angle, float)
            rich(self.world, actor)
            self.world.aim(actor, angle)
            self.world.select(actor, item.id)
            self.world.press(actor, True)
        else:
            getattr(self.world, str(name))(actor, *arguments)

    def run(self, script: list[tuple[int, tuple[object, ...], int]]) -> list[object]:
        """Follow a script; return all that can be seen of the world afterwards."""
        for number, command, pause in script:
            self.do(number, command)
            for _ in range(pause):
                self.world.step(DT)
                check(self.world)
        world = self.world
        players = [(p.row(), p.info(), p.resources, p.points) for p in world.players.values()]
        structures = [s.row() for s in world.structures_in_view(450, 450)]
        packets_told = [notice.packet for notice in world.notices.take()]
        return [players, structures, packets_told, world.ledger.gained, world.ledger.lost]


def check(world: World) -> None:
    """Assert what holds in every world at any time."""
    size = world.space.size
    players, structures = world.players_in_view(450, 450), world.structures_in_view(450, 450)
    assert set(players) == set(world.players.values())
    things: list[Thing] = [*players, *structures]
    assert len({thing.sid for thing in things}) == len(things)
    for thing in things:
        assert thing.scale <= thing.x <= size - thing.scale
        assert thing.scale <= thing.y <= size - thing.scale
    for a, b in itertools.combinations(things, 2):
        assert math.hypot(a.x - b.x, a.y - b.y) >= a.scale + b.scale
    for player in players:
        assert 0 < player.health <= PLAYER_HEALTH
        assert all(amount >= 0 for amount in player.resources)
        assert all(player.count(item) <= item.limit for item in (WALL, SPIKE, WINDMILL))
    for resource in range(len(RESOURCES)):
        held = sum(player.resources[resource] for player in players)
        assert held == world.ledger.gained[resource] - world.ledger.lost[resource]
    owned = [b for player in players for b in player.buildings]
    assert set(owned) == {s for s in structures if s.item is not None}
    assert all(building.health > 0 for building in owned)


@settings(max_examples=150)
@given(SEEDS, SCRIPTS)
def test_whatever_players_do_the_world_stays_in_order(
    seed: int, script: list[tuple[int, tuple[object, ...], int]]
) -> None:
    Play(seed).run(script)


@settings(max_examples=50)
@given(SEEDS, SCRIPTS)
def test_the_same_seed_and_the_same_script_make_the_same_world(
    seed: int, script: list[tuple[int, tuple[object, ...], int]]
) -> None:
    assert Play(seed).run(script) == Play(seed).run(script)


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_that_fights_for_a_minute_keeps_the_world_in_order(seed: int) -> None:
    chance = random.Random(seed)
    play = Play(seed)
    for _ in range(1200):
        number = chance.randrange(5)
        command = chance.choice(
            [
                ("walk", chance.uniform(-math.pi, math.pi)),
                ("aim", chance.uniform(-math.pi, math.pi)),
                ("press", chance.random() < 0.7),
                ("build", chance.choice([WALL, SPIKE, WINDMILL]), chance.uniform(-3, 3)),
            ]
        )
        play.do(number, command)
        play.world.step(DT)
        check(play.world)
    deaths = [n for n in play.world.notices.take() if n.packet == packets.Death()]
    assert deaths, "nobody was beaten, so little was tried"


PLACES = st.tuples(st.floats(0, 3000), st.floats(0, 3000))


@given(st.lists(PLACES, max_size=40), PLACES, st.floats(0, 2000))
def test_a_grid_finds_exactly_what_is_near(
    places: list[tuple[float, float]], centre: tuple[float, float], distance: float
) -> None:
    grid: Grid[Thing] = Grid(3000)
    things = [Thing(n, *place, 10) for n, place in enumerate(places)]
    for thing in things:
        grid.add(thing)
    x, y = centre
    wanted = {
        t
        for t in things
        if x - distance <= t.x <= x + distance and y - distance <= t.y <= y + distance
    }
    found = grid.near(x, y, distance)
    assert set(found) == wanted
    assert len(found) == len(wanted)


@given(st.lists(st.tuples(st.integers(0, 9), PLACES), max_size=60))
def test_a_grid_knows_where_things_have_moved(moves: list[tuple[int, tuple[float, float]]]) -> None:
    grid: Grid[Thing] = Grid(3000)
    things = [Thing(n, 0, 0, 10) for n in range(10)]
    for thing in things:
        grid.add(thing)
    for number, place in moves:
        grid.move(things[number], *place)
        assert grid.near(*place, 0).count(things[number]) == 1
    assert len(grid.near(1500, 1500, 1500)) == 10
    for thing in things:
        grid.remove(thing)
    assert grid.near(1500, 1500, 1500) == []


@pytest.mark.parametrize("seed", range(3))
def test_what_is_in_view_is_what_looking_at_everything_finds(seed: int) -> None:
    world = World(seed)
    for n in range(60):
        world.spawn(n, "x", 0)
    for viewer in world.players.values():
        near = [
            p
            for p in world.players.values()
            if abs(p.x - viewer.x) <= VIEW and abs(p.y - viewer.y) <= VIEW
        ]
        assert set(world.players_in_view(viewer.x, viewer.y)) == set(near)
