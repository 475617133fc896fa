"""What there is in the sandbox world: resources, scenery, and things to hold and to build.

Nothing here happens; `game/sandbox_rules.py` has the rules. Lengths are world units, times are
seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WORLD_SIZE = 6000  # length of each side
VIEW = 1000  # what differs by this at most in x and in y is in view
SWING_ARC = math.pi / 2.6  # a swing hits what is up to this far to either side

PLAYER_SCALE = 35  # radius
PLAYER_SPEED = 300  # per second
PLAYER_HEALTH = 100
STARTING_WOOD = 20

SPIKE_PAUSE = 0.5  # until a spike hurts the same player again
INCOME_PAUSE = 1.0  # from one yield of the windmills to the next

MAX_AGE = 20
KILL_POINTS = 50  # and half of what the victim had

WOOD, FOOD, STONE, GOLD = range(4)
RESOURCES = ("wood", "food", "stone", "gold")  # by these indices

Price = tuple[int, int, int, int]  # in the order of `RESOURCES`
FREE: Price = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Item:
    """What a player can hold: to strike with it, to eat it, or to build it.

    Attributes:
        id: its index in `ITEMS`.
        reach: of a weapon, to a target's rim; of a building, to where its centre will be.
        cooldown: from one use of it to the next.
        power: damage of a weapon or a spike, or the health that food gives.
        gather: how much of a resource one hit of a weapon brings.
        scale: radius of a building.
        health: damage that a building stands.
        limit: how many of a building a player may have.
        income: gold that a building yields each `INCOME_PAUSE`.
    """

    id: int
    name: str
    kind: str  # "weapon", "food" or "building"
    reach: int = 0
    cooldown: float = 0.3
    power: int = 0
    gather: int = 0
    scale: int = 0
    health: int = 0
    limit: int = 0
    income: int = 0
    price: Price = FREE


def weapon(id: int, name: str, reach: int, cooldown: float, power: int, gather: int) -> Item:
    """Return an item to strike with."""
    return Item(id, name, "weapon", reach, cooldown, power, gather)


def building(
    id: int,
    name: str,
    scale: int,
    health: int,
    limit: int,
    price: Price,
    *,
    power: int = 0,
    income: int = 0,
) -> Item:
    """Return an item that is built just in front of its owner, with a gap of 5."""
    return Item(
        id,
        name,
        "building",
        reach=PLAYER_SCALE + scale + 5,
        power=power,
        scale=scale,
        health=health,
        limit=limit,
        income=income,
        price=price,
    )


HAMMER = weapon(0, "hammer", 70, 0.3, power=25, gather=1)
AXE = weapon(1, "axe", 75, 0.4, power=30, gather=2)
SWORD = weapon(2, "sword", 110, 0.3, power=35, gather=1)
SPEAR = weapon(3, "spear", 140, 0.7, power=50, gather=1)
APPLE = Item(4, "apple", "food", power=20, price=(0, 10, 0, 0))
WALL = building(5, "wall", 50, 380, 30, (10, 0, 0, 0))
SPIKE = building(6, "spike", 45, 300, 15, (20, 0, 5, 0), power=20)
WINDMILL = building(7, "windmill", 45, 400, 7, (50, 0, 10, 0), income=1)

ITEMS = (HAMMER, AXE, SWORD, SPEAR, APPLE, WALL, SPIKE, WINDMILL)


@dataclass(frozen=True, slots=True)
class Growth:
    """A sort of scenery: what it is hit for, how much of it there is, and how large it is."""

    resource: int
    count: int
    min_scale: int
    max_scale: int


SCENERY = (
    Growth(WOOD, 120, 60, 85),  # trees
    Growth(FOOD, 60, 45, 60),  # bushes
    Growth(STONE, 40, 60, 85),
    Growth(GOLD, 12, 70, 85),
)
MAX_SCALE = 85  # of anything in the world


def age_length(age: int) -> int:
    """Return the points from one age to the next."""
    return 20 + 20 * age
