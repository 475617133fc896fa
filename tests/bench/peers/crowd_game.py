"""The crowd's room as an in-process game; the peers beside it do the same.

At each tick everyone gets a state: its number, how many inputs the room has had, and padding.
"""

import os

from scalesocket import Game

RATE = float(os.environ.get("CROWD_RATE", "20"))  # ticks per second
SIZE = int(os.environ.get("CROWD_SIZE", "400"))  # bytes of a state
SAVED = int(os.environ.get("CROWD_SAVED", "10000"))  # bytes of what is saved, with --store


def make_state(tick: int, heard: int) -> str:
    """Return a state, SIZE characters long."""
    head = f'{{"t":"state","tick":{tick},"heard":{heard},"pad":"'
    return f'{head:.<{SIZE - 2}}"}}'


class Crowd(Game):
    tick_rate = RATE

    def on_create(self, room):
        self.room = room
        self.tick = self.heard = 0

    def on_message(self, client, message):
        self.heard += 1

    def on_tick(self, dt):
        self.tick += 1
        self.room.broadcast(make_state(self.tick, self.heard))

    def on_save(self):
        return f"{self.heard} {self.tick}".ljust(SAVED, ".").encode()
