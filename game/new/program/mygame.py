# /// script
# requires-python = ">=3.11"
#
# [tool.scalesocket]
# json = true
# staticdir = "pages"
# api = true
# maxmsg = "1K"
# resume = 30
# ///
"""My game: players hop towards where they point, and who reaches the star has a point.

Every room has a program of its own. It reads what its players do from stdin, a line of JSON each,
and what it prints goes to them.

    comes in                                    goes out
    {"_from":7,"t":"Join"}                      {"t":"welcome","you":7,"_to":7}, to 7 alone
    {"_from":7,"t":"name","name":"Ann"}         {"t":"state","star":…,"players":[…]}, to everybody
    {"_from":7,"t":"go","x":0.5,"y":0.25}
    {"_from":7,"t":"Leave"}
    {"_restore":…}, first                       {"_save":…}, last, for the next program of this room

The server writes `_from`, so that nobody can play for somebody else; all else is as a client has
sent it, and it may send anything.
"""

import json
import math
import random
from sys import stdin

HOP = 0.1  # of the field, which is from its top left corner at (0, 0) to (1, 1)
REACH = 0.04  # from how far a player takes the star


def somewhere():
    return {"x": random.uniform(0.1, 0.9), "y": random.uniform(0.1, 0.9)}


def hop(player, x, y):
    """Let a player hop towards a place."""
    left = math.dist((player["x"], player["y"]), (x, y))
    share = min(1, HOP / left) if left else 0
    player["x"] += share * (x - player["x"])
    player["y"] += share * (y - player["y"])


def is_place(x, y):
    return all(isinstance(value, int | float) and 0 <= value <= 1 for value in (x, y))


def main():
    players = {}  # by their IDs
    before = {}  # those whom the program before this one had (--reload, --store)
    star = somewhere()
    for line in stdin:
        event = json.loads(line)
        if "_restore" in event:
            star = event["_restore"]["star"]
            before = {player["id"]: player for player in event["_restore"]["players"]}
            continue
        who = event["_from"]
        player = players.get(who)
        match event:
            case {"t": "Join"} if player is None:
                new = {"id": who, "name": f"player {who}", "score": 0, **somewhere()}
                players[who] = before.pop(who, new)
                print(json.dumps({"t": "welcome", "you": who, "_to": who}))
            case {"t": "Leave"}:
                players.pop(who, None)
            case {"t": "name", "name": str(name)} if player and name.strip():
                player["name"] = name.strip()[:16]
            case {"t": "go", "x": x, "y": y} if player and is_place(x, y):
                hop(player, x, y)
                if math.dist((player["x"], player["y"]), (star["x"], star["y"])) <= REACH:
                    player["score"] += 1
                    star = somewhere()
            case _:
                continue  # it is of no use
        print(json.dumps({"t": "state", "star": star, "players": list(players.values())}))
    print(json.dumps({"_save": {"star": star, "players": list(players.values())}}))


if __name__ == "__main__":
    main()
