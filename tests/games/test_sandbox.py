"""The sandbox over a real server: clients that speak msgpack and know nothing of its code.

The arena is the sandbox with a small world, so that everyone is in view of everyone.
"""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgpack
import pytest
from scalesocket.game.sandbox import CHAT_BURST, Sandbox
from scalesocket.game.sandbox_items import (
    APPLE,
    FOOD,
    PLAYER_HEALTH,
    SWORD,
    VIEW,
    WALL,
    WINDMILL,
    WOOD,
)
from scalesocket.game.sandbox_rules import World
from scalesocket.game.sandbox_things import Structure
from scalesocket.net import sandbox_packets as packets
from scalesocket.net.sandbox_packets import (
    SUBPROTOCOL,
    Attack,
    Chat,
    Direction,
    Move,
    Packet,
    Profile,
    SelectItem,
    Spawn,
    decode_from_server,
    encode,
)

from tests.support import (
    BINARY,
    PATIENCE,
    ROOT,
    SCRIPT,
    RawClient,
    ServerProcess,
    encode_client_frame,
    http_request,
    serve,
    wait_until,
)

pytestmark = pytest.mark.slow

ARENA = '''
# /// script
# [tool.scalesocket]
# game = "Arena"
# api = true
# ///
"""The sandbox in a world so small that everyone sees everyone; its first player is rich."""

from scalesocket.game.sandbox import Sandbox
from scalesocket.game.sandbox_rules import World
from scalesocket.game.sandbox_items import WOOD, Growth


class Arena(Sandbox):
    def make_world(self):
        return World(4, size=SIZE, scenery=(Growth(WOOD, TREES, 60, 60),))

    def _spawn(self, viewer, profile):
        super()._spawn(viewer, profile)
        if profile.name.startswith("rich"):
            for resource in range(4):
                self.world.grant(viewer.player, resource, 500)
'''


def write_arena(folder: Path, size: int = 900, trees: int = 0) -> str:
    """Write a game with a small world; return its path."""
    path = folder / "arena.py"
    path.write_text(ARENA.strip().replace("SIZE", str(size)).replace("TREES", str(trees)))
    return str(path)


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[ServerProcess]:
    """A small world without any scenery."""
    with serve(write_arena(tmp_path)) as server:
        yield server


class Gamer:
    """A client, and what it has been told."""

    def __init__(self, server: ServerProcess, name: str = "", room: str = "arena") -> None:
        self.client = RawClient.connect(server, room, subprotocols=[SUBPROTOCOL])
        self.heard: list[Packet] = []
        self.sid = 0
        self.alive = False
        self.known: dict[int, packets.PlayerInfo] = {}  # players that are not gone
        self.objects: dict[int, packets.ObjectRow] = {}
        self.seen: dict[int, packets.PlayerRow] = {}  # players in view now
        self.health: dict[int, int] = {}
        self.counts: dict[str, int] = {}  # of resources
        if name:
            self.spawn(name)

    def __enter__(self) -> Gamer:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.__exit__(None, None, None)

    def send(self, *wanted: Packet) -> None:
        """Send packets, each as a message of its own."""
        for packet in wanted:
            self.client.send_binary(encode(packet))

    def spawn(self, name: str) -> None:
        """Be born, and wait until one sees oneself."""
        self.send(Spawn(Profile(name, 2)))
        self.until(lambda: self.sid in self.seen)

    def hear(self) -> Packet:
        """Take in the next packet."""
        packet = decode_from_server(self.client.receive_binary())
        self.heard.append(packet)
        match packet:
            case packets.Spawned(sid):
                self.sid, self.alive = sid, True
            case packets.Death():
                self.alive = False
            case packets.PlayerAdd(player):
                assert player.sid not in self.known, "a player is introduced once"
                self.known[player.sid] = player
                self.health[player.sid] = player.health
            case packets.PlayerRemove(sid):
                assert sid in self.known, "only who is known is removed"
                del self.known[sid]
            case packets.Players(rows):
                self.seen = {row.sid: row for row in rows}
                assert set(self.seen) <= set(self.known), "who is listed is known"
            case packets.Objects(rows):
                assert not self.objects.keys() & {row.sid for row in rows}, "sent once"
                self.objects |= {row.sid: row for row in rows}
            case packets.ObjectRemove(sid):
                del self.objects[sid]
            case packets.ObjectsRemove(owner):
                self.objects = {s: o for s, o in self.objects.items() if o.owner != owner}
            case packets.Health(sid, value):
                self.health[sid] = value
            case packets.ResourceCount(name, value):
                self.counts[name] = value
        return packet

    def until(self, condition: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Take packets in until a condition holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"in vain; the last: {self.heard[-20:]}"
            self.hear()

    def expect(self, kind: type[Packet]) -> Packet:
        """Return the next packet of a class."""
        deadline = time.monotonic() + PATIENCE
        while type(packet := self.hear()) is not kind:
            assert time.monotonic() < deadline, f"no {kind.__name__} came"
        return packet

    def catch_up(self) -> None:
        """Take in all that has been sent so far; who has not listened for a while lags behind."""
        self.send(packets.Ping())
        self.expect(packets.Pong)

    def go_to(self, place: Callable[[], tuple[float, float]], distance: float) -> None:
        """Walk until one is near a place, which may move, and look at it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.expect(packets.Players)
            me, (x, y) = self.seen[self.sid], place()
            angle = math.atan2(y - me.y, x - me.x)
            if math.hypot(x - me.x, y - me.y) <= distance:
                self.send(packets.StopMove(), packets.Aim(angle))
                return
            assert time.monotonic() < deadline, f"from {me} one does not get to {x}, {y}"
            self.send(Move(angle))

    def place_of(self, sid: int) -> tuple[float, float]:
        """Return where a player was last seen."""
        row = self.seen[sid]
        return row.x, row.y

    def chase(self, other: Gamer) -> None:
        """Walk to another player and look at it."""
        self.until(lambda: other.sid in self.seen)
        self.go_to(lambda: self.place_of(other.sid), 90)

    def click(self, item: int | None = None) -> None:
        """Press the button and let go; with an item that is taken in hand first."""
        if item is not None:
            self.send(SelectItem(item))
        self.send(Attack(True, None), Attack(False, None))


# ==== 1. Coming and going ===================================================


def test_the_subprotocol_is_negotiated(arena: ServerProcess) -> None:
    with RawClient.connect(arena, "a", subprotocols=["moo.v0", SUBPROTOCOL]) as client:
        assert client.subprotocol == SUBPROTOCOL


def test_a_client_is_greeted_with_its_id_and_the_numbers_of_the_world(arena: ServerProcess) -> None:
    with Gamer(arena) as first, Gamer(arena) as second:
        ids = [gamer.hear() for gamer in (first, second)]
        assert [type(packet) for packet in ids] == [packets.Hello] * 2
        assert ids[0] != ids[1]
        init = first.hear()
        assert isinstance(init, packets.Init)
        assert (init.world, init.view, init.tick_rate) == (900, 1000, 20)
        assert init.resources == ("wood", "food", "stone", "gold")
        wall = init.items[WALL.id]
        assert (wall.id, wall.name, wall.kind, wall.scale) == (5, "wall", "building", 50)
        assert (wall.wood, wall.food, wall.stone, wall.gold) == WALL.price


def test_who_spawns_sees_itself_and_what_it_owns(arena: ServerProcess) -> None:
    with Gamer(arena) as ann:
        ann.send(Spawn(Profile("ann", 2)))
        ann.until(lambda: ann.sid in ann.seen)
        spawned = next(p for p in ann.heard if isinstance(p, packets.Spawned))
        added = next(p for p in ann.heard if isinstance(p, packets.PlayerAdd))
        assert ann.heard.index(spawned) < ann.heard.index(added)
        assert (added.is_self, added.player.sid, added.player.name, added.player.skin) == (
            True,
            ann.sid,
            "ann",
            2,
        )
        assert ann.counts == {"wood": 20, "food": 0, "stone": 0, "gold": 0}
        assert packets.Items((0,), True) in ann.heard
        assert packets.Items((4, 5, 6, 7), False) in ann.heard
        assert packets.Age(0, 40, 1) in ann.heard


def test_players_see_each_other_come_move_and_leave(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann:
        with Gamer(arena, "bob") as bob:
            ann.until(lambda: bob.sid in ann.seen)
            bob.until(lambda: ann.sid in bob.seen)
            assert ann.known[bob.sid].name == "bob"
            assert bob.known[ann.sid].name == "ann"
            start = ann.place_of(bob.sid)
            bob.go_to(lambda: (450, 450), 60)
            ann.until(lambda: math.dist(ann.place_of(bob.sid), (450, 450)) <= 61)
            assert ann.place_of(bob.sid) != start
        ann.until(lambda: bob.sid not in ann.known)
        ann.expect(packets.Players)
        assert set(ann.seen) == {ann.sid}


def test_a_spectator_sees_the_players_and_is_no_player(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena) as watcher:
        watcher.until(lambda: ann.sid in watcher.seen)
        watcher.send(Move(0.0), Attack(True, None), Chat("hello"), packets.Ping())
        watcher.expect(packets.Pong)
        watcher.expect(packets.Players)
        assert set(watcher.seen) == {ann.sid}


def test_a_second_spawn_of_the_living_is_ignored(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann:
        ann.send(Spawn(Profile("eve", 1)), packets.Ping())
        ann.expect(packets.Pong)
        ann.expect(packets.Players)
        assert [info.name for info in ann.known.values()] == ["ann"]


def test_control_characters_are_dropped_from_names_and_an_empty_name_is_replaced(
    arena: ServerProcess,
) -> None:
    with Gamer(arena, "\x1b[31m a\u202enn\n") as ann, Gamer(arena, " \x00\t ") as nobody:
        assert ann.known[ann.sid].name == "[31m ann"
        assert nobody.known[nobody.sid].name == f"player {nobody.known[nobody.sid].id}"


def test_a_picture_that_is_made_of_two_stays_one(arena: ServerProcess) -> None:
    with Gamer(arena, "\u200dann 👩\u200d🚀") as ann:
        assert ann.known[ann.sid].name == "ann 👩\u200d🚀"


@pytest.mark.parametrize("name", ["\u3164", "\u2800 \u115f", "\ufe0f\u0301"])
def test_a_name_that_nobody_could_see_is_replaced(arena: ServerProcess, name: str) -> None:
    with Gamer(arena, name) as nobody:
        assert nobody.known[nobody.sid].name == f"player {nobody.known[nobody.sid].id}"


def test_the_lobby_is_told_how_many_play_and_how_many_watch(arena: ServerProcess) -> None:
    def metadata() -> object:
        return json.loads(http_request(arena, path="/api/arena/metadata").body)

    with Gamer(arena, "ann"), Gamer(arena) as watcher:
        watcher.until(lambda: watcher.seen)
        assert metadata() == {"players": 1, "spectators": 1}
        watcher.spawn("bob")
        assert metadata() == {"players": 2, "spectators": 0}
        with Gamer(arena):
            wait_until(lambda: metadata() == {"players": 2, "spectators": 1})
        wait_until(lambda: metadata() == {"players": 2, "spectators": 0})


def test_rooms_have_worlds_of_their_own(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob", room="elsewhere") as bob:
        ann.expect(packets.Minimap)
        assert set(ann.seen) == {ann.sid}
        assert [info.name for info in bob.known.values()] == ["bob"]


# ==== 2. Playing ============================================================


def test_hitting_a_tree_brings_wood(tmp_path: Path) -> None:
    with serve(write_arena(tmp_path, trees=1)) as server, Gamer(server, "ann") as ann:
        ann.until(lambda: ann.objects)
        (oak,) = ann.objects.values()
        assert (oak.resource, oak.type, oak.owner) == (WOOD, None, 0)
        ann.go_to(lambda: (oak.x, oak.y), oak.scale + 50)
        ann.send(Attack(True, None))
        ann.until(lambda: ann.counts["wood"] == 23)
        hit = next(p for p in ann.heard if isinstance(p, packets.ObjectHit))
        assert hit.sid == oak.sid
        assert packets.Swing(ann.sid, True, 0) in ann.heard
        ann.until(lambda: ann.counts["points"] == 3)


def test_a_building_is_seen_by_all_and_goes_with_its_owner(arena: ServerProcess) -> None:
    with Gamer(arena, "watcher") as watcher:
        with Gamer(arena, "rich") as ann:
            ann.go_to(lambda: (450, 450), 60)
            ann.click(WALL.id)
            ann.until(lambda: ann.objects)
            watcher.until(lambda: watcher.objects)
            assert ann.objects == watcher.objects
            (wall,) = watcher.objects.values()
            assert (wall.type, wall.owner, wall.resource) == (WALL.id, ann.sid, None)
            assert ann.counts["wood"] == 520 - 10
            assert packets.ItemCount(WALL.id, 1) in ann.heard
        watcher.until(lambda: not watcher.objects)
        assert packets.ObjectsRemove(ann.sid) in watcher.heard


def test_a_windmill_brings_gold(arena: ServerProcess) -> None:
    with Gamer(arena, "rich") as ann:
        ann.go_to(lambda: (450, 450), 60)
        ann.click(WINDMILL.id)
        ann.until(lambda: ann.counts["gold"] >= 502)


def test_a_fight_to_the_death_and_another_life(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob") as bob:
        first_life = bob.sid
        ann.chase(bob)
        ann.send(packets.AutoAttack())
        bob.until(lambda: bob.health[bob.sid] < PLAYER_HEALTH)
        bob.until(lambda: not bob.alive)
        ann.until(lambda: first_life not in ann.known)
        assert ann.health[first_life] == 0
        assert packets.Said(0, "ann has beaten bob") in ann.heard
        assert packets.Said(0, "ann has beaten bob") in bob.heard
        ann.until(lambda: ann.counts.get("points") == 50)
        ann.until(
            lambda: ann.heard[-1] == packets.Leaderboard((packets.ScoreRow(ann.sid, "ann", 50),))
        )
        ann.send(packets.AutoAttack())
        bob.expect(packets.Players)
        assert set(bob.seen) == {ann.sid}, "the dead watch on"
        bob.spawn("bob")
        assert bob.sid != first_life
        assert bob.health[bob.sid] == PLAYER_HEALTH
        ann.until(lambda: bob.sid in ann.seen)


def test_an_apple_heals(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "rich bob") as bob:
        ann.chase(bob)
        ann.click()
        bob.until(lambda: bob.health[bob.sid] < PLAYER_HEALTH)
        hurt = bob.health[bob.sid]
        bob.click(APPLE.id)
        bob.until(lambda: bob.health[bob.sid] > hurt)
        assert bob.counts["food"] == 500 - APPLE.price[FOOD]


def test_an_age_brings_a_weapon_to_choose(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob") as bob:
        ann.chase(bob)
        ann.send(packets.AutoAttack())
        ann.until(lambda: packets.Upgrades(1, 2) in ann.heard)
        ann.send(packets.Upgrade(SWORD.id))
        ann.until(lambda: ann.seen[ann.sid].weapon == SWORD.id)
        assert packets.Items((0, SWORD.id), True) in ann.heard


def test_everyone_hears_what_is_said_in_view(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob") as bob:
        ann.send(Chat("hello \x07bob \U0001f44b"))
        assert bob.expect(packets.Said) == packets.Said(ann.sid, "hello bob \U0001f44b")
        assert ann.expect(packets.Said) == packets.Said(ann.sid, "hello bob \U0001f44b")


def test_who_says_too_much_is_told_so_and_the_others_are_spared(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob") as bob:
        ann.send(*(Chat(f"line {n}") for n in range(20)), packets.Ping())
        ann.expect(packets.Pong)
        refusals = [p for p in ann.heard if isinstance(p, packets.Said) and p.sid == 0]
        assert {p.text for p in refusals} == {"too fast: 3 lines, then one every 2 s"}
        bob.catch_up()
        bob.expect(packets.Minimap)  # after a tick, with which lines are told
        lines = [p for p in bob.heard if isinstance(p, packets.Said)]
        assert CHAT_BURST <= len(lines) <= CHAT_BURST + 1
        assert len(lines) + len(refusals) == 20


def test_only_what_is_near_is_told(tmp_path: Path) -> None:
    """In a large world two who are far apart know of each other by the minimap alone."""
    with (
        serve(write_arena(tmp_path, size=4000)) as server,
        Gamer(server, "ann") as ann,
        Gamer(server, "bob") as bob,
    ):
        (a, b) = (next(iter(gamer.seen.values())) for gamer in (ann, bob))
        assert max(abs(a.x - b.x), abs(a.y - b.y)) > VIEW, "this seed put them too near"
        ann.catch_up()
        ann.heard.clear()
        bob.send(Chat("is anybody there?"), Attack(True, None))
        bob.until(lambda: packets.Swing(bob.sid, False, 0) in bob.heard)
        minimap = ann.expect(packets.Minimap)
        assert {row.sid for row in minimap.rows} == {ann.sid, bob.sid}
        assert set(ann.seen) == {ann.sid}
        assert not any(isinstance(p, packets.Said | packets.Swing) for p in ann.heard)


def test_what_this_world_does_not_have_is_answered(arena: ServerProcess) -> None:
    absent = {
        packets.Store(True, 1, 0): "there is no store in this world",
        packets.MapPing(): "there are no clans in this world to show the map to",
        packets.ClanCreate("us"): "there are no clans in this world",
        packets.ClanLeave(): "there are no clans in this world",
        packets.ClanJoin("us"): "there are no clans in this world",
        packets.ClanAccept(1, True): "there are no clans in this world",
        packets.ClanKick(1): "there are no clans in this world",
    }
    with Gamer(arena, "ann") as ann:
        for packet, answer in absent.items():
            ann.send(packet)
            assert ann.expect(packets.Said) == packets.Said(0, answer)


# ==== 3. Faults that small servers of this kind have ========================


def test_many_packets_in_one_piece_and_one_packet_in_many_pieces(arena: ServerProcess) -> None:
    """What one `recv` brings is neither one frame nor a whole one."""
    with Gamer(arena) as ann:
        wanted = [Spawn(Profile("ann", 0)), *([packets.Ping()] * 50), Chat("x" * 60)]
        wire = b"".join(encode_client_frame(BINARY, encode(packet)) for packet in wanted)
        ann.client.send_bytes(wire)
        ann.until(lambda: ann.heard.count(packets.Pong()) == 50)
        ann.until(lambda: packets.Said(ann.sid, "x" * 60) in ann.heard)
        for byte in encode_client_frame(BINARY, encode(packets.Store(True, 0, 0))):
            ann.client.send_bytes(bytes([byte]))
            ann.expect(packets.Players)
        ann.until(lambda: packets.Said(0, "there is no store in this world") in ann.heard)


def test_a_player_who_vanishes_is_gone_and_the_world_goes_on(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann:
        bob = Gamer(arena, "bob")
        ann.until(lambda: bob.sid in ann.seen)
        bob.client.reset()
        ann.until(lambda: bob.sid not in ann.known)
        for _ in range(10):
            ann.expect(packets.Players)


def test_a_ping_of_websocket_is_answered_in_the_midst_of_the_game(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann:
        ann.client.ping(b"still there?")
        while (frame := ann.client.receive()) != (10, b"still there?"):
            assert frame[0] == BINARY


def test_leaving_takes_a_closing_handshake(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann:
        assert ann.client.close(1000, "bye") == (1000, "")


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ("hello", 1003, "a text message; packets are binary"),
        (b"", 1008, "not one msgpack value: Unpack failed: incomplete input"),
        (
            encode(Chat("x" * 61)),
            1008,
            "Chat: text has 61 characters; 60 is the most",
        ),
        (
            msgpack.packb(["33", [math.inf]]),
            1008,
            "Move: angle is inf; an angle from -2 pi to 2 pi is allowed, and null",
        ),
        (b"\x00" * 1025, 1008, "packet of 1025 bytes; 1024 is the most"),
    ],
    ids=["text", "empty", "long", "infinite", "large"],
)
def test_a_bad_packet_closes_its_sender_with_a_reason_and_nobody_else(
    arena: ServerProcess, message: str | bytes, code: int, reason: str
) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob") as bob:
        ann.until(lambda: bob.sid in ann.seen)
        if isinstance(message, str):
            bob.client.send_text(message)
        else:
            bob.client.send_binary(message)
        assert bob.expect(packets.Disconnect) == packets.Disconnect(reason)
        assert bob.client.wait_close() == (code, reason)
        ann.until(lambda: bob.sid not in ann.known)
        ann.expect(packets.Players)


def test_what_comes_after_a_bad_packet_is_not_obeyed(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob") as bob:
        frames = [b"\xc1", encode(Chat("I am still here"))]
        bob.client.send_bytes(b"".join(encode_client_frame(BINARY, frame) for frame in frames))
        ann.until(lambda: bob.sid in ann.known)
        ann.until(lambda: bob.sid not in ann.known)
        assert not any(isinstance(p, packets.Said) for p in ann.heard)


def test_a_flood_of_packets_closes_its_sender(arena: ServerProcess) -> None:
    with Gamer(arena, "ann") as ann, Gamer(arena, "bob") as bob:
        ann.until(lambda: bob.sid in ann.seen)
        flood = encode_client_frame(BINARY, encode(packets.Aim(0.5))) * 1000
        sender = bob.client.send_in_background(flood)
        reason = "too many packets: 300 at once, then 100 per second are the most"
        assert bob.expect(packets.Disconnect) == packets.Disconnect(reason)
        assert bob.client.wait_close() == (1008, reason)
        sender.join()
        ann.until(lambda: bob.sid not in ann.known)


def test_a_crowd_that_comes_at_once_gets_ids_of_its_own_and_whole_frames(
    arena: ServerProcess,
) -> None:
    crowd = [Gamer(arena) for _ in range(15)]
    try:
        for number, gamer in enumerate(crowd):
            gamer.send(Spawn(Profile(f"p{number}", 0)))
        for gamer in crowd:
            gamer.until(lambda gamer=gamer: len(gamer.seen) == 15)  # type: ignore[misc]
        assert len({gamer.sid for gamer in crowd}) == 15
        assert all(set(gamer.seen) == {other.sid for other in crowd} for gamer in crowd)
    finally:
        for gamer in crowd:
            gamer.__exit__()


# ==== 4. The area of interest ===============================================
# Within this process, so that what clients are told can be held against the whole world.


class Listener:
    """Stands in for a client of the server; keeps what it is sent."""

    def __init__(self, client_id: int) -> None:
        self.id = client_id
        self.dropped = False
        self.inbox: list[Packet] = []
        self.known: set[int] = set()  # players
        self.objects: set[int] = set()

    def send(self, message: bytes) -> None:
        """Keep a packet."""
        self.inbox.append(decode_from_server(message))

    def take_in(self) -> None:
        """Check a tick's packets: nothing comes twice, and nothing unknown is removed."""
        for packet in self.inbox:
            match packet:
                case packets.PlayerAdd(player):
                    assert player.sid not in self.known
                    self.known.add(player.sid)
                case packets.PlayerRemove(sid):
                    self.known.remove(sid)
                case packets.Objects(rows):
                    assert not self.objects & {row.sid for row in rows}
                    self.objects |= {row.sid for row in rows}
                case packets.ObjectRemove(sid):
                    self.objects.remove(sid)
        self.rows = [p for p in self.inbox if isinstance(p, packets.Players)]
        self.inbox.clear()


class Seeded(Sandbox):
    """The sandbox without chance."""

    def make_world(self) -> World:
        """Return a world of the usual size."""
        return World(1)


class StandInRoom:
    """Stands in for a room of the server."""

    metadata: object = None

    def broadcast(self, message: bytes, exclude: Sequence[Listener] = ()) -> None:
        """Send to nobody."""


def make_crowd(count: int) -> tuple[Sandbox, list[Listener]]:
    """Return a world of the usual size with a crowd in it."""
    sandbox = Seeded()
    sandbox.on_create(StandInRoom())  # type: ignore[arg-type]
    crowd = [Listener(number) for number in range(1, count + 1)]
    for one in crowd:
        sandbox.on_join(one)  # type: ignore[arg-type]
        say(sandbox, one, Spawn(Profile("x", 0)))
    return sandbox, crowd


def say(sandbox: Sandbox, one: Listener, packet: Packet) -> None:
    """Let a listener send a packet."""
    sandbox.on_message(one, encode(packet))  # type: ignore[arg-type]


def test_each_client_is_shown_at_each_tick_what_looking_at_everything_finds() -> None:
    sandbox, crowd = make_crowd(80)
    chance = random.Random(1)
    everything = sandbox.world.space.structures.near(3000, 3000, 3000)
    most_at_first = 0
    for _ in range(100):
        for one in chance.sample(crowd, 10):
            say(sandbox, one, Move(chance.uniform(-3, 3)))
        sandbox.on_tick(0.1)
        for one in crowd:
            one.take_in()
            me = sandbox.viewers[one.id].player
            assert me is not None
            in_view = [
                p.row()
                for p in sandbox.world.players.values()
                if abs(p.x - me.x) <= VIEW and abs(p.y - me.y) <= VIEW
            ]
            (shown,) = one.rows
            assert set(shown.rows) == set(in_view)
            assert one.known >= {row.sid for row in in_view}
            in_view = [s for s in everything if abs(s.x - me.x) <= VIEW and abs(s.y - me.y) <= VIEW]
            assert one.objects >= {structure.sid for structure in in_view}
        most_at_first = most_at_first or max(len(one.objects) for one in crowd)
    assert max(len(one.objects) for one in crowd) > most_at_first, "nobody has come far"
    assert all(len(one.objects) < len(everything) for one in crowd), "somebody was sent everything"


def test_those_who_leave_are_removed_for_those_who_know_them_and_for_no_one_else() -> None:
    sandbox, crowd = make_crowd(40)
    sandbox.on_tick(0.05)
    for one in crowd:
        one.take_in()
    gone = crowd.pop()
    player = sandbox.viewers[gone.id].player
    assert player is not None
    knew = [one for one in crowd if player.sid in one.known]
    assert 0 < len(knew) < len(crowd)
    sandbox.on_leave(gone, 1000)  # type: ignore[arg-type]
    sandbox.on_tick(0.05)
    told = [one for one in crowd if packets.PlayerRemove(player.sid) in one.inbox]
    assert told == knew
    assert not any(player in viewer.known for viewer in sandbox.viewers.values())


def test_the_health_of_someone_known_is_told_out_of_view_too() -> None:
    sandbox, (ann, bob, eve, dan) = make_crowd(4)
    ann_player, bob_player, eve_player, dan_player = sandbox.world.players.values()
    move = sandbox.world.space.players.move
    move(dan_player, 5500, 5500)  # and never sees any of them
    move(ann_player, 1000, 1000)
    move(bob_player, 1090, 1000)
    move(eve_player, 1000, 1900)
    sandbox.on_tick(0.05)  # eve sees both
    move(eve_player, 1000, 4900)
    for one in (ann, bob, eve, dan):
        one.take_in()
    say(sandbox, ann, Attack(True, 0.0))
    sandbox.on_tick(0.05)
    assert packets.Health(bob_player.sid, bob_player.health) in eve.inbox
    assert not any(isinstance(packet, packets.Swing) for packet in eve.inbox)
    assert not any(isinstance(packet, packets.Health) for packet in dan.inbox)


def test_those_who_know_a_building_hear_that_it_fell_and_others_do_not() -> None:
    sandbox, (ann, bob) = make_crowd(2)
    players = list(sandbox.world.players.values())
    move = sandbox.world.space.players.move
    move(players[0], 500, 500)
    move(players[1], 5500, 5500)
    wall = Structure(99_999, 600, 500, 50, item=WALL, owner=players[1])
    wall.health = 1
    players[1].buildings[wall] = None
    sandbox.world.space.structures.add(wall)
    sandbox.on_tick(0.05)
    for one in (ann, bob):
        one.take_in()
    assert wall.sid in ann.objects
    say(sandbox, ann, Attack(True, 0.0))
    sandbox.on_tick(0.05)
    assert packets.ObjectRemove(wall.sid) in ann.inbox
    assert packets.ObjectRemove(wall.sid) not in bob.inbox
    assert packets.ItemCount(WALL.id, 0) in bob.inbox


# ==== 5. The command ========================================================


def test_the_bundled_sandbox_is_served_by_its_name() -> None:
    with serve("sandbox") as server, Gamer(server, "ann") as ann:
        ann.until(lambda: ann.objects)
        assert ann.seen[ann.sid].skin == 2


def test_the_benchmark_measures_a_small_crowd() -> None:
    """Whether its numbers are good enough is not asked here, only whether it gets them."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.bench.ticks", "--players=3", "--seconds=1", "--fight"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert ended.returncode in (0, 1), ended.stderr
    assert re.search(r"^ticks: \d+, of them \d+\.\d% less than 10 ms late", ended.stdout, re.M)
    shown = re.search(r"surroundings (\S+) to (\S+) times/s, (\S+) players", ended.stdout)
    assert shown
    assert all(float(number) > 0 for number in shown.groups())


def test_without_msgpack_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "msgpack.py").write_text("raise ImportError('it is not there')")
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--addr", "127.0.0.1:0", "sandbox"],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "pip install msgpack" in line


def test_every_packet_to_the_server_is_understood() -> None:
    """A packet in the table that the game forgets would be ignored without a word."""
    source = (ROOT / "game" / "sandbox.py").read_text()
    names = [kind.name for kind in packets.PACKETS if kind.direction == Direction.TO_SERVER]
    assert [name for name in names if f"packets.{name}" not in source] == []
