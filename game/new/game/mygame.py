# /// script
# requires-python = ">=3.11"
#
# [tool.scalesocket]
# game = "MyGame"
# staticdir = "pages"
# api = true
# maxmsg = "1K"
# resume = 30
# ///
"""My game: players walk to where they point, and who reaches the star has a point.

Every room has a `MyGame` of its own, which lives in the server. This file stands between the room
and the rules, which are in mygame_rules.py. Messages are JSON objects in text.

    from a client                           to a client
    {"t":"name","name":"Ann"}               {"t":"welcome","you":7}, when it comes
    {"t":"go","x":0.5,"y":0.25}             {"t":"state","star":…,"players":[…]}, to everybody
                                            {"t":"error","error":"…"}, to who did something wrong
"""

import random

import mygame_rules as rules

import scalesocket
from scalesocket.game.messages import RuleError, clean_name, read_object


class MyGame(scalesocket.Game):
    tick_rate = 20  # calls of on_tick in a second
    max_clients = 50  # in one room

    def on_create(self, room):
        self.room = room
        self.world = rules.World(random.Random())
        self.told = None  # what everybody knows

    def on_join(self, client):
        self.world.enter(client.id)
        client.send_json({"t": "welcome", "you": client.id})

    def on_leave(self, client, code):
        self.world.leave(client.id)

    def on_message(self, client, message):
        try:
            event = read_object(message)  # a client may send anything
            match event.get("t"):
                case "name":
                    self.world.rename(client.id, clean_name(event.get("name")))
                case "go":
                    self.world.go(client.id, event.get("x"), event.get("y"))
                case kind:
                    raise RuleError(f"nobody knows what {kind!r} is")
        except ValueError as error:
            client.send_json({"t": "error", "error": str(error)})

    def on_save(self):
        return self.world.describe()

    def on_restore(self, state):  # so it goes on with other code (--reload), or later (--store)
        self.world.restore(state)
        for who in self.world.players.keys() - self.room.clients.keys():
            self.world.leave(who)  # nobody comes back for it

    def on_tick(self, dt):
        self.world.step(dt)
        state = self.world.describe()
        if state != self.told:
            self.told = state
            self.room.broadcast_json({"t": "state", **state})
