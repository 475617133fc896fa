"""The rules of my game: they know of no server, so that a test can play any minute of it."""

import math
from dataclasses import dataclass

SPEED = 0.4  # widths of the field in a second
REACH = 0.04  # from how far a player takes the star


@dataclass
class Player:
    name: str
    x: float
    y: float
    goal: tuple[float, float]
    score: int = 0

    def walk(self, way):
        """Go so far towards the goal."""
        left = math.dist((self.x, self.y), self.goal)
        share = min(1, way / left) if left else 0
        self.x += share * (self.goal[0] - self.x)
        self.y += share * (self.goal[1] - self.y)


class World:
    """A square field, from its top left corner at (0, 0) to (1, 1), with players and a star."""

    def __init__(self, rng):
        self.rng = rng
        self.players = {}  # by their IDs
        self.star = self.somewhere()

    def somewhere(self):
        return self.rng.uniform(0.1, 0.9), self.rng.uniform(0.1, 0.9)

    def enter(self, who):
        place = self.somewhere()
        self.players[who] = Player(f"player {who}", *place, goal=place)

    def leave(self, who):
        del self.players[who]

    def rename(self, who, name):
        self.players[who].name = name

    def go(self, who, x, y):
        """Let a player walk to a place from now on."""
        for value in (x, y):
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError("x and y are numbers from 0 to 1")
        self.players[who].goal = (x, y)

    def step(self, seconds):
        """Let time pass."""
        for player in self.players.values():
            player.walk(SPEED * seconds)
            if math.dist((player.x, player.y), self.star) <= REACH:
                player.score += 1
                self.star = self.somewhere()

    def restore(self, state):
        """Be as another world has described itself."""
        self.star = state["star"]["x"], state["star"]["y"]
        for facts in state["players"]:
            place = facts["x"], facts["y"]
            self.players[facts["id"]] = Player(facts["name"], *place, place, facts["score"])

    def describe(self):
        """Return what everybody may see."""
        players = [
            {
                "id": who,
                "name": player.name,
                "x": round(player.x, 4),
                "y": round(player.y, 4),
                "score": player.score,
            }
            for who, player in self.players.items()
        ]
        return {"star": {"x": self.star[0], "y": self.star[1]}, "players": players}
