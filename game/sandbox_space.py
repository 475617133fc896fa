"""The ground of the sandbox world: nothing on it overlaps anything else, ever."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from .grid import Grid, Thing
from .sandbox_items import MAX_SCALE, PLAYER_SCALE, SWING_ARC
from .sandbox_things import Player, Structure

MARGIN = 0.01  # between things that touch, far above what floats round off
PATH = 2 * PLAYER_SCALE + 10  # between two pieces of scenery: a player gets through
MAX_TRIES = 100  # to find room by chance


class Space:
    """Who and what is where. Everything is round and solid.

    Args:
        size: length of each side.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.players: Grid[Player] = Grid(size)
        self.structures: Grid[Structure] = Grid(size)

    def touching(self, x: float, y: float, scale: float, but: Thing | None = None) -> list[Thing]:
        """Return what something at a place would overlap, `but` itself aside."""
        reach = scale + MAX_SCALE
        return [
            thing
            for thing in self._near(x, y, reach)
            if (thing.x - x) ** 2 + (thing.y - y) ** 2 < (thing.scale + scale) ** 2
            and thing is not but
        ]

    def holds(self, x: float, y: float, scale: float) -> bool:
        """Whether something at a place lies within the world."""
        return scale <= x <= self.size - scale and scale <= y <= self.size - scale

    def find_place(self, chance: random.Random, scale: int, gap: float) -> tuple[int, int] | None:
        """Return a place with so much room around it; None if none was found."""
        for _ in range(MAX_TRIES):
            x = chance.randint(scale, self.size - scale)
            y = chance.randint(scale, self.size - scale)
            if not self.touching(x, y, scale + gap):
                return x, y
        return None

    def walk(self, player: Player, x: float, y: float) -> list[Thing]:
        """Let a player walk to a place, or along what is in the way; return that.

        One who can do neither stays. So nobody ever overlaps anything.
        """
        x, y = self._clamp(x, player.scale), self._clamp(y, player.scale)
        blockers = self.touching(x, y, player.scale, player)
        if blockers:
            x, y = self._push_out(player, blockers[0], x, y)
            if self.touching(x, y, player.scale, player):
                return blockers
        self.players.move(player, x, y)
        return blockers

    def in_arc(self, player: Player, reach: float) -> Iterator[Thing]:
        """Yield what a swing of a player hits, others first, then what stands."""
        for thing in self._near(player.x, player.y, reach + MAX_SCALE):
            dx, dy = thing.x - player.x, thing.y - player.y
            if thing is player or math.hypot(dx, dy) - thing.scale > reach:
                continue
            turn = math.atan2(dy, dx) - player.dir
            if abs((turn + math.pi) % math.tau - math.pi) <= SWING_ARC:
                yield thing

    def _near(self, x: float, y: float, reach: float) -> list[Thing]:
        return [*self.players.near(x, y, reach), *self.structures.near(x, y, reach)]

    def _clamp(self, value: float, scale: float) -> float:
        return min(max(value, scale), self.size - scale)

    def _push_out(self, player: Player, blocker: Thing, x: float, y: float) -> tuple[float, float]:
        """Return the place nearest to (x, y) that only touches the blocker."""
        dx, dy = x - blocker.x, y - blocker.y
        distance = math.hypot(dx, dy)
        if distance == 0:
            return player.x, player.y
        ratio = (player.scale + blocker.scale + MARGIN) / distance
        x, y = blocker.x + dx * ratio, blocker.y + dy * ratio
        return self._clamp(x, player.scale), self._clamp(y, player.scale)
