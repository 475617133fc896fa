"""The rules of snake: a world, stepped tick by tick. No socket, thread or clock.

    world = World(60, 20, random.Random(7))
    world.join(1, "ann")
    world.step()  # a Delta: what has changed
    world.turn(1, "up")
    world.step()

Everything happens in `step`, so that the deltas alone tell all there is to know.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .messages import RuleError

Cell = tuple[int, int]  # x to the right, y down, from (0, 0)

DIRECTIONS: dict[str, Cell] = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
OPPOSITES = {"up": "down", "down": "up", "left": "right", "right": "left"}

LENGTH = 3  # of a snake at birth
CLEARANCE = 4  # cells that are free of snakes in front of one at birth
FOOD = 10  # pieces of food that there are at least, besides one for each player
MAX_TURNS = 3  # turns that wait for their ticks
RESPAWN_TICKS = 16  # between death and the next life
GRACE_TICKS = 80  # that a newborn stands still, unless it is turned before
ATTEMPTS = 50  # to find a place at random, before it waits for the next tick


@dataclass(slots=True)
class Player:
    """Who plays, with the snake of this life."""

    id: int
    name: str
    body: list[Cell] = field(default_factory=list)  # head first; empty while dead
    direction: str = "right"
    score: int = 0  # food eaten in this life, or in the last while dead
    best: int = 0
    respawn: int | None = None  # the earliest tick of the next life, while dead
    waits: int | None = None  # the tick that sets it going, while it is newborn and stands still
    turns: list[str] = field(default_factory=list)  # still to be made

    def describe(self) -> dict[str, object]:
        """Return what everybody may know (see `game/snake.py`)."""
        return {
            "id": self.id,
            "name": self.name,
            "body": [*self.body],
            "dir": self.direction,
            "score": self.score,
            "best": self.best,
            "respawn": self.respawn,
            "waits": self.waits,
        }


@dataclass(slots=True)
class Delta:
    """What has changed in one tick, in the order in which it is to be applied."""

    tick: int
    left: list[int] = field(default_factory=list)
    joined: list[dict[str, object]] = field(default_factory=list)
    halted: list[tuple[int, int]] = field(default_factory=list)
    died: list[dict[str, object]] = field(default_factory=list)
    moved: list[tuple[int, int, int, str]] = field(default_factory=list)
    grew: list[int] = field(default_factory=list)
    eaten: list[Cell] = field(default_factory=list)
    born: list[dict[str, object]] = field(default_factory=list)
    food: list[Cell] = field(default_factory=list)
    scores: list[tuple[int, int, int]] = field(default_factory=list)

    def describe(self) -> dict[str, object]:
        """Return it without its empty lists."""
        pairs = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in pairs if value != []}


class World:
    """Snakes and food on a grid between walls.

    Args:
        width: cells from left to right.
        height: cells from top to bottom.
        rng: the only source of chance; the same seed and the same calls make the same world.
    """

    def __init__(self, width: int, height: int, rng: random.Random) -> None:
        self.width = width
        self.height = height
        self.tick = 0
        self.players: dict[int, Player] = {}
        self.food: set[Cell] = set()
        self._rng = rng
        self._joining: dict[int, str] = {}
        self._leaving: list[int] = []
        self._away: set[int] = set()  # also of those who are still joining
        self._back: list[int] = []

    def save(self) -> dict[str, object]:
        """Return all of it but chance, as JSON can hold it; see `restore`."""
        return {
            "tick": self.tick,
            "players": [asdict(player) for player in self.players.values()],
            "food": sorted(self.food),
            "joining": list(self._joining.items()),
            "leaving": self._leaving,
            "away": sorted(self._away),
            "back": self._back,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as the world was that was saved; JSON has made lists of its cells."""
        self.tick = state["tick"]
        for facts in state["players"]:
            body = [(x, y) for x, y in facts["body"]]
            self.players[facts["id"]] = Player(**facts | {"body": body})
        self.food = {(x, y) for x, y in state["food"]}
        self._joining = {player_id: name for player_id, name in state["joining"]}
        self._leaving = list(state["leaving"])
        self._away = set(state.get("away", ()))  # what older versions have saved lacks both
        self._back = list(state.get("back", ()))

    def names(self) -> dict[int, str]:
        """Return the names of those who play, or will from the next tick on, by ID."""
        known = {player.id: player.name for player in self.players.values()} | self._joining
        return {key: name for key, name in known.items() if key not in self._leaving}

    # -- between ticks --

    def join(self, player_id: int, name: str) -> None:
        """Let someone play from the next tick on."""
        self._joining[player_id] = name

    def leave(self, player_id: int) -> None:
        """Let a player go at the next tick."""
        self._away.discard(player_id)
        if self._joining.pop(player_id, None) is None:
            self._leaving.append(player_id)

    def halt(self, player_id: int) -> None:
        """Let the snake of a player who cannot steer stand still, until `go_on`."""
        self._away.add(player_id)
        if player_id in self.players:
            self.players[player_id].turns.clear()

    def go_on(self, player_id: int) -> None:
        """Let it set out as a newborn does: with its first turn, or when the grace is over."""
        if player_id in self._away:
            self._away.remove(player_id)
            self._back.append(player_id)

    def turn(self, player_id: int, direction: object) -> None:
        """Let a snake turn, after the turns that it has yet to make; a newborn sets out.

        Raises:
            RuleError: there is no such direction.
        """
        if not isinstance(direction, str) or direction not in DIRECTIONS:
            raise RuleError(f"dir is {', '.join(DIRECTIONS)}")
        player = self.players.get(player_id)
        if player is None or not player.body or len(player.turns) >= MAX_TURNS:
            return
        before = player.turns[-1] if player.turns else player.direction
        sets_out = player.waits is not None and not player.turns and direction == before
        if sets_out or direction not in (before, OPPOSITES[before]):
            player.turns.append(direction)

    def describe(self) -> dict[str, object]:
        """Return the whole state after the last tick (see `game/snake.py`)."""
        players = [player.describe() for player in self.players.values()]
        return {"tick": self.tick, "players": players, "food": sorted(self.food)}

    def leaderboard(self) -> list[Player]:
        """Return the players, the best first."""
        return sorted(self.players.values(), key=lambda p: (p.best, p.score), reverse=True)

    # -- a tick --

    def step(self) -> Delta:
        """Let one tick pass."""
        self.tick += 1
        delta = Delta(self.tick)
        remains = self._remove_leavers(delta)
        self._add_newcomers(delta)
        self._let_go_on(delta)
        remains += self._move_snakes(delta)
        solid = {cell for snake in self._snakes() for cell in snake.body}
        self._add_food((cell for cell in remains if cell not in solid), delta)
        self._bear_snakes(solid, delta)
        self._grow_food(solid, delta)
        return delta

    def _snakes(self) -> list[Player]:
        return [player for player in self.players.values() if player.body]

    def _remove_leavers(self, delta: Delta) -> list[Cell]:
        """Remove players; return what remains of their snakes."""
        delta.left, self._leaving = self._leaving, []
        bodies = [self.players.pop(player_id).body for player_id in delta.left]
        return [cell for body in bodies for cell in remains_of(body)]

    def _add_newcomers(self, delta: Delta) -> None:
        for player_id, name in self._joining.items():
            player = Player(player_id, name, respawn=self.tick)
            self.players[player_id] = player
            delta.joined.append(player.describe())
        self._joining.clear()

    def _let_go_on(self, delta: Delta) -> None:
        back, self._back = self._back, []
        for player_id in back:
            player = self.players.get(player_id)
            if player is not None and player.body:
                player.waits = self.tick + GRACE_TICKS
                delta.halted.append((player_id, player.waits))

    def _move_snakes(self, delta: Delta) -> list[Cell]:
        """Move all snakes at the same time; return what remains of those that died of it."""
        snakes = self._snakes()
        moving = [snake for snake in snakes if self._is_moving(snake)]
        heads = {snake.id: self._next_head(snake) for snake in moving}
        deaths = find_deaths(snakes, heads, self)
        remains: list[Cell] = []
        for snake in moving:
            if snake.id in deaths:
                remains += remains_of(snake.body)
                self._kill(snake, *deaths[snake.id], delta)
            else:
                self._move(snake, heads[snake.id], delta)
        return remains

    def _is_moving(self, snake: Player) -> bool:
        """Whether a snake has set out, or does so now."""
        if snake.id in self._away:
            return False
        return snake.waits is None or bool(snake.turns) or snake.waits <= self.tick

    def _next_head(self, snake: Player) -> Cell:
        """Make the next turn; return where the head will be."""
        if snake.turns:
            snake.direction = snake.turns.pop(0)
        return step_from(snake.body[0], snake.direction)

    def _move(self, snake: Player, head: Cell, delta: Delta) -> None:
        snake.waits = None
        snake.body.insert(0, head)
        delta.moved.append((snake.id, *head, snake.direction))
        if head not in self.food:
            snake.body.pop()
            return
        self.food.remove(head)
        snake.score += 1
        snake.best = max(snake.best, snake.score)
        delta.grew.append(snake.id)
        delta.eaten.append(head)
        delta.scores.append((snake.id, snake.score, snake.best))

    def _kill(self, snake: Player, cause: str, by: int | None, delta: Delta) -> None:
        snake.body = []
        snake.waits = None
        snake.turns.clear()
        snake.respawn = self.tick + RESPAWN_TICKS
        death = {"id": snake.id, "dir": snake.direction, "cause": cause, "by": by}
        delta.died.append({**death, "respawn": snake.respawn})

    def _bear_snakes(self, solid: set[Cell], delta: Delta) -> None:
        """Give new lives to those whose time has come, as long as there is a place.

        Who has waited longest is first: in a crowd those who came last would never be born.
        """
        waiting = [p for p in self.players.values() if p.respawn and p.respawn <= self.tick]
        for player in sorted(waiting, key=lambda player: player.respawn or 0):
            lane = self._find_lane(solid)
            if lane is None:
                return
            cells, player.direction = lane
            player.body = cells[LENGTH - 1 :: -1]
            player.respawn = None
            player.waits = self.tick + GRACE_TICKS
            solid.update(cells)  # so that two who are born at the same time do not collide
            born = {"id": player.id, "body": [*player.body], "dir": player.direction}
            delta.born.append({**born, "waits": player.waits})
            if player.score:
                player.score = 0
                delta.scores.append((player.id, 0, player.best))

    def _find_lane(self, solid: set[Cell]) -> tuple[list[Cell], str] | None:
        """Return cells for a newborn from its tail on, the way ahead too, and its direction."""
        for _ in range(ATTEMPTS):
            direction = self._rng.choice([*DIRECTIONS])
            cells = [self._random_cell()]
            while len(cells) < LENGTH + CLEARANCE:
                cells.append(step_from(cells[-1], direction))
            is_free = all(self.contains(cell) and cell not in solid for cell in cells)
            if is_free and self.food.isdisjoint(cells[:LENGTH]):
                return cells, direction
        return None

    def _grow_food(self, solid: set[Cell], delta: Delta) -> None:
        """Let new food grow until there is enough of it."""
        for _ in range(ATTEMPTS):
            if len(self.food) >= FOOD + len(self.players):
                return
            cell = self._random_cell()
            if cell not in solid and cell not in self.food:
                self._add_food([cell], delta)

    def _add_food(self, cells: Iterable[Cell], delta: Delta) -> None:
        for cell in cells:
            self.food.add(cell)
            delta.food.append(cell)

    def _random_cell(self) -> Cell:
        return self._rng.randrange(self.width), self._rng.randrange(self.height)

    def contains(self, cell: Cell) -> bool:
        """Whether a cell is between the walls."""
        return 0 <= cell[0] < self.width and 0 <= cell[1] < self.height


def step_from(cell: Cell, direction: str) -> Cell:
    """Return the cell next to one."""
    x, y = DIRECTIONS[direction]
    return cell[0] + x, cell[1] + y


def remains_of(body: list[Cell]) -> list[Cell]:
    """Return the cells where a dead snake leaves food: every other one of those it had grown by.

    One that never ate leaves none, or players who fell asleep would fill the world with food.
    """
    return body[:-LENGTH:2]


def find_deaths(
    snakes: list[Player], heads: dict[int, Cell], world: World
) -> dict[int, tuple[str, int | None]]:
    """Return who dies of moving to `heads`, of what, and by whom.

    All move at the same time: a tail that goes away is no obstacle, and a snake that dies still
    is one in this tick. A snake without a new head stands still, and all of it is an obstacle.
    """
    owners: dict[Cell, int] = {}
    meetings: dict[Cell, list[int]] = {}
    for snake in snakes:
        head = heads.get(snake.id)
        stays = snake.body
        if head is not None:
            meetings.setdefault(head, []).append(snake.id)
            stays = snake.body if head in world.food else snake.body[:-1]
        owners.update(dict.fromkeys(stays, snake.id))
    deaths: dict[int, tuple[str, int | None]] = {}
    for snake_id, head in heads.items():
        owner = owners.get(head)
        rivals = [rival for rival in meetings[head] if rival != snake_id]
        if not world.contains(head):
            deaths[snake_id] = ("wall", None)
        elif owner is not None:
            deaths[snake_id] = ("self", None) if owner == snake_id else ("snake", owner)
        elif rivals:
            deaths[snake_id] = ("head", rivals[0])
    return deaths
