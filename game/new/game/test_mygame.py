"""python3 -m unittest"""

import random
import unittest

from mygame_rules import SPEED, World


class WorldTest(unittest.TestCase):
    def setUp(self):
        self.world = World(random.Random(7))
        self.world.enter(1)
        self.ann = self.world.players[1]
        self.ann.x, self.ann.y = self.ann.goal = (0.0, 1.0)
        self.world.star = (1.0, 1.0)

    def test_a_player_walks_to_where_it_points(self):
        self.world.go(1, 0.5, 1)
        self.world.step(0.25 / SPEED)
        self.assertAlmostEqual(self.ann.x, 0.25)
        self.world.step(60)
        self.assertEqual((self.ann.x, self.ann.y), (0.5, 1))

    def test_who_reaches_the_star_has_a_point_and_there_is_another_star(self):
        self.world.go(1, 1, 1)
        self.world.step(0.5 / SPEED)
        self.assertEqual(self.ann.score, 0)
        self.world.step(0.5 / SPEED)
        self.assertEqual(self.ann.score, 1)
        self.assertNotEqual(self.world.star, (1.0, 1.0))

    def test_what_is_no_place_is_refused(self):
        for x, y in [(2, 0), (0, -0.1), ("a", 0), (0, None), (float("nan"), 0)]:
            with self.subTest(x=x, y=y), self.assertRaises(ValueError):
                self.world.go(1, x, y)

    def test_a_world_goes_on_as_it_was(self):
        self.ann.name, self.ann.score = "Ann", 3
        later = World(random.Random(8))
        later.restore(self.world.describe())
        self.assertEqual(later.describe(), self.world.describe())

    def test_who_has_left_is_seen_no_longer(self):
        self.world.enter(2)
        self.world.leave(1)
        self.assertEqual([player["id"] for player in self.world.describe()["players"]], [2])


if __name__ == "__main__":
    unittest.main()
