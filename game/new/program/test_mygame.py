"""python3 -m unittest"""

import json
import subprocess
import sys
import unittest
from pathlib import Path

PROGRAM = Path(__file__).with_name("mygame.py")
JOIN = {"_from": 1, "t": "Join"}


def run(*events):
    """Return what the program prints when this happens; last is what it saves."""
    lines = "".join(json.dumps(event) + "\n" for event in events)
    done = subprocess.run(
        [sys.executable, PROGRAM], input=lines, stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def play(*events):
    """Return what it prints for its players."""
    return run(*events)[:-1]


class ProgramTest(unittest.TestCase):
    def test_who_comes_is_welcomed_alone_and_seen_by_all(self):
        welcome, state = play(JOIN)
        self.assertEqual(welcome, {"t": "welcome", "you": 1, "_to": 1})
        self.assertEqual([player["id"] for player in state["players"]], [1])

    def test_a_player_hops_towards_where_it_points(self):
        corner = [{"_from": 1, "t": "go", "x": 0, "y": 0}] * 20
        *_, before, after = play(JOIN, *corner, {"_from": 1, "t": "go", "x": 1, "y": 0})
        self.assertEqual((before["players"][0]["x"], before["players"][0]["y"]), (0, 0))
        self.assertAlmostEqual(after["players"][0]["x"], 0.1)

    def test_who_reaches_the_star_has_a_point(self):
        everywhere = [{"_from": 1, "t": "go", "x": 0, "y": 0}] * 20
        everywhere += [
            {"_from": 1, "t": "go", "x": x / 20, "y": y / 20}
            for x in range(21)
            for y in (range(21) if x % 2 else range(20, -1, -1))
        ]
        first, *_, last = play(JOIN, *everywhere)[1:]
        self.assertGreater(last["players"][0]["score"], 0)
        self.assertNotEqual(last["star"], first["star"])

    def test_what_is_of_no_use_changes_nothing(self):
        useless = [{"t": "go", "x": 2, "y": 0}, {"t": "go", "x": "a", "y": 0}, {"t": "name"}, {}]
        said = play(JOIN, *({"_from": 1, **event} for event in useless))
        self.assertEqual(len(said), 2)

    def test_the_next_program_goes_on_with_those_who_come_back(self):
        name = {"_from": 1, "t": "name", "name": "Ann"}
        *_, before, saved = run(JOIN, {"_from": 2, "t": "Join"}, name)
        _, after = play({"_restore": saved["_save"]}, JOIN)
        self.assertEqual(after, {**before, "players": before["players"][:1]})

    def test_who_has_left_is_seen_no_longer(self):
        said = play(JOIN, {"_from": 2, "t": "Join"}, {"_from": 1, "t": "Leave"})
        self.assertEqual([player["id"] for player in said[-1]["players"]], [2])


if __name__ == "__main__":
    unittest.main()
