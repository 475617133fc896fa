# /// script
# requires-python = ">=3.11"
# dependencies = ["msgpack"]
#
# [tool.scalesocket]
# game = "Sandbox"
# staticdir = "../client/web"
# api = true
# resume = 30
# ///
"""A world to gather, build and fight in, for hundreds of players in a room: an in-process game.

    pip install msgpack
    python3 scalesocket.py sandbox

`net/sandbox_packets.py` says what crosses the wire, `game/sandbox_rules.py` has the rules. This
file stands between them and a room: it lets the world do what clients ask for, and sends each
client what its player can see, 20 times a second.

The work of a tick is done once wherever it can be: each player's row is packed once, and a
client's `Players` packet is these bytes, joined; what happens is encoded once for all who see it.

A packet that cannot be read closes its sender, and nobody else, with 1008 (text: 1003) and a
reason; so does one too many. What makes no sense now, such as a blow of the dead or an item that
one does not have, is ignored. There are no clans here, no store and no pings on the map: the
world says so to who asks for them.

With `--resume` the player of a client that has lost its connection stands still and cannot be hurt.
When that is back it goes on; one that has kept nothing is told everything, as one that joins.
"""

from __future__ import annotations

import random
from typing import Any

from scalesocket.net import sandbox_packets as packets
from scalesocket.net.sandbox_packets import (
    MAX_NAME,
    SUBPROTOCOL,
    ItemRow,
    Packet,
    PacketError,
    RowPacket,
)

from scalesocket import Client, CloseCode, Game, GameRoom

from .grid import Thing
from .messages import is_seen, printable
from .sandbox_items import (
    ITEMS,
    PLAYER_SCALE,
    PLAYER_SPEED,
    RESOURCES,
    SWING_ARC,
    VIEW,
)
from .sandbox_rules import World
from .sandbox_save import restore_world, save_world
from .sandbox_things import Notice, Player

TICK_RATE = 20  # per second
SUMMARY_PAUSE = 1.0  # seconds between two leaderboards, and two minimaps
CHAT_BURST, CHAT_RATE = 3, 0.5  # lines at once, and then per second
PACKET_BURST, PACKET_RATE = 300, 100  # packets of one client at once, and then per second

PLAYERS = RowPacket(packets.Players)

ABSENT = {  # what other worlds have: decoded strictly, and answered by the world
    packets.Store: "there is no store in this world",
    packets.MapPing: "there are no clans in this world to show the map to",
    packets.ClanCreate: "there are no clans in this world",
    packets.ClanLeave: "there are no clans in this world",
    packets.ClanJoin: "there are no clans in this world",
    packets.ClanAccept: "there are no clans in this world",
    packets.ClanKick: "there are no clans in this world",
}


def clean(text: str) -> str:
    """Return a text without control characters, and without blanks around it."""
    return printable(text).strip()


def item_rows() -> tuple[ItemRow, ...]:
    """Return the items as they are sent."""
    return tuple(
        ItemRow(
            item.id,
            item.name,
            item.kind,
            item.scale,
            item.reach,
            round(item.cooldown * 1000),
            item.power,
            item.gather,
            item.health,
            item.limit,
            *item.price,
        )
        for item in ITEMS
    )


class Allowance:
    """So many of something at once, and then so many per second."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._since = 0.0

    def take(self, now: float) -> bool:
        """Take one, at a time in seconds; return whether there was one."""
        self._left = min(self._burst, self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Viewer:
    """A client, where it looks from, and what it has been told of."""

    def __init__(self, client: Client, x: float, y: float) -> None:
        self.client = client
        self.player: Player | None = None  # while it is alive
        self.x = x
        self.y = y
        self.known: set[Thing] = set()  # players and structures that are not gone
        self.lines = Allowance(CHAT_BURST, CHAT_RATE)
        self.packets = Allowance(PACKET_BURST, PACKET_RATE)

    def send(self, packet: Packet) -> None:
        """Send a packet."""
        self.client.send(packets.encode(packet))

    def follow(self) -> None:
        """Look from where the player is; after its death, from where that was."""
        if self.player is not None:
            self.x, self.y = self.player.x, self.player.y
            if not self.player.alive:
                self.player = None

    def forget(self, gone: tuple[Thing, ...]) -> bool:
        """Forget things that are gone; return whether one of them was known."""
        if self.known.isdisjoint(gone):
            return False
        self.known.difference_update(gone)
        return True


class Sandbox(Game):
    """One world in one room."""

    tick_rate = TICK_RATE
    max_clients = 250  # each of whom may see all others, in the worst of cases
    subprotocols = (SUBPROTOCOL,)

    def on_create(self, room: GameRoom) -> None:
        """Make a world that nobody is in."""
        self.room = room
        self.world = self.make_world()
        self.viewers: dict[int, Viewer] = {}  # by client ID
        self._summary_at = 0.0
        self._leaders: tuple[packets.ScoreRow, ...] = ()
        self._tell_lobby()

    def make_world(self) -> World:
        """Return the world to play in; another game may have another."""
        return World(random.getrandbits(32))

    def on_join(self, client: Client) -> None:
        """Let a client watch the middle of the world."""
        middle = self.world.space.size / 2
        viewer = self.viewers[client.id] = Viewer(client, middle, middle)
        self._introduce(viewer)
        self._tell_lobby()

    def on_drop(self, client: Client) -> None:
        """Keep the client's player from harm until somebody is there again."""
        player = self.viewers[client.id].player
        if player is not None:
            self.world.lull(player)

    def on_resume(self, client: Client) -> None:
        """Let its player go on; a page that was loaded anew knows nothing yet."""
        viewer = self.viewers[client.id]
        player = viewer.player
        if client.restored:
            viewer.known.clear()
            self._introduce(viewer)
        if player is not None:
            self.world.lull(player)  # it may never have been missed
            self.world.wake(player)
            if client.restored:
                viewer.known.add(player)
                self.world.introduce(player)

    def _introduce(self, viewer: Viewer) -> None:
        viewer.send(packets.Hello(viewer.client.id))
        viewer.send(
            packets.Init(
                world=self.world.space.size,
                view=VIEW,
                tick_rate=TICK_RATE,
                player_scale=PLAYER_SCALE,
                speed=PLAYER_SPEED,
                arc=SWING_ARC,
                resources=RESOURCES,
                items=item_rows(),
            )
        )
        viewer.send(packets.Leaderboard(self._leaders))

    def on_message(self, client: Client, message: str | bytes) -> None:
        """Do what a client asks for; one that cannot be understood is closed."""
        viewer = self.viewers[client.id]
        if isinstance(message, str):
            self._refuse(client, CloseCode.UNSUPPORTED_DATA, "a text message; packets are binary")
        elif not viewer.packets.take(self.world.now):
            rule = f"{PACKET_BURST} at once, then {PACKET_RATE} per second are the most"
            self._refuse(client, CloseCode.POLICY_VIOLATION, f"too many packets: {rule}")
        else:
            try:
                self._handle(viewer, packets.decode_from_client(message))
            except PacketError as error:
                self._refuse(client, CloseCode.POLICY_VIOLATION, str(error))

    def on_leave(self, client: Client, code: int) -> None:
        """Take the client's player out of the world."""
        viewer = self.viewers.pop(client.id)
        if viewer.player is not None:
            self.world.leave(viewer.player)
        self._tell_lobby()

    def on_tick(self, dt: float) -> None:
        """Let the world go on, and show everyone what has become of it."""
        living = len(self.world.players)
        self.world.step(dt)
        for viewer in self.viewers.values():
            viewer.follow()
        for notice in self.world.notices.take():
            self._deliver(notice)
        rows = {player: PLAYERS.pack_row(player.row()) for player in self.world.players.values()}
        for viewer in self.viewers.values():
            if not viewer.client.dropped:  # who is away needs what it looks like then, not now
                self._show(viewer, rows)
        if self.world.now >= self._summary_at:
            self._summary_at = self.world.now + SUMMARY_PAUSE
            self._summarise()
        if len(self.world.players) != living:
            self._tell_lobby()

    def on_drain(self, seconds: float) -> None:
        """Tell everyone how long there is to say goodbye."""
        self.room.broadcast(packets.encode(packets.ShutdownNotice(round(seconds))))

    def on_save(self) -> dict[str, Any]:
        """Return the world, and what each client has been told of it."""
        viewers = [
            {
                "id": viewer.client.id,
                "x": viewer.x,
                "y": viewer.y,
                "player": viewer.player.sid if viewer.player else None,
                "known": sorted(thing.sid for thing in viewer.known),
            }
            for viewer in self.viewers.values()
        ]
        return {"world": save_world(self.world), "viewers": viewers}

    def on_restore(self, state: Any) -> None:
        """Go on with that world; the players of those who will not come back leave it."""
        restore_world(self.world, state["world"])
        size = self.world.space.size
        there = {thing.sid: thing for thing in self.world.space.structures.near(0, 0, size)}
        things: dict[int, Thing] = {**there, **self.world.players}
        for facts in state["viewers"]:
            player = self.world.players.get(facts["player"])
            client = self.room.clients.get(facts["id"])
            if client is not None:
                viewer = self.viewers[client.id] = Viewer(client, facts["x"], facts["y"])
                viewer.player = player
                viewer.known = {things[sid] for sid in facts["known"] if sid in things}
            elif player is not None:
                self.world.leave(player)
        self._tell_lobby()

    # -- what clients ask for --

    def _handle(self, viewer: Viewer, packet: Packet) -> None:
        if type(packet) in ABSENT:
            viewer.send(packets.Said(0, ABSENT[type(packet)]))
        elif isinstance(packet, packets.Ping):
            viewer.send(packets.Pong())
        elif isinstance(packet, packets.Spawn):
            self._spawn(viewer, packet.profile)
        elif viewer.player is not None:
            self._obey(viewer, viewer.player, packet)

    def _spawn(self, viewer: Viewer, profile: packets.Profile) -> None:
        if viewer.player is not None:
            return
        name = clean(profile.name)
        if not is_seen(name):
            name = f"player {viewer.client.id}"[:MAX_NAME]
        viewer.player = self.world.spawn(viewer.client.id, name, profile.skin)
        if viewer.player is None:
            viewer.send(packets.Said(0, "the world is full; try again later"))
            return
        viewer.known.add(viewer.player)
        self._tell_lobby()

    def _obey(self, viewer: Viewer, player: Player, packet: Packet) -> None:
        match packet:
            case packets.Move(angle):
                self.world.walk(player, angle)
            case packets.StopMove():
                self.world.walk(player, None)
            case packets.Aim(angle):
                self.world.aim(player, angle)
            case packets.Attack(active, angle):
                if angle is not None:
                    self.world.aim(player, angle)
                self.world.press(player, active)
            case packets.AutoAttack():
                self.world.toggle_auto(player)
            case packets.SelectItem(item_id):
                self.world.select(player, item_id)
            case packets.Upgrade(item_id):
                self.world.upgrade(player, item_id)
            case packets.Chat(text):
                self._chat(viewer, player, clean(text))

    def _chat(self, viewer: Viewer, player: Player, text: str) -> None:
        if not viewer.lines.take(self.world.now):
            rule = f"{CHAT_BURST} lines, then one every {1 / CHAT_RATE:g} s"
            viewer.send(packets.Said(0, f"too fast: {rule}"))
        elif is_seen(text):
            self.world.chat(player, text)

    def _refuse(self, client: Client, code: int, reason: str) -> None:
        client.send(packets.encode(packets.Disconnect(reason[:123])))
        client.close(code, reason)

    # -- what clients are told --

    def _deliver(self, notice: Notice) -> None:
        message = packets.encode(notice.packet)
        for viewer in self._audience(notice):
            viewer.client.send(message)

    def _audience(self, notice: Notice) -> list[Viewer]:
        viewers = self.viewers.values()
        if notice.to is not None:
            viewer = self.viewers.get(notice.to.client_id)
            return [viewer] if viewer else []
        if notice.near is not None:
            x, y = notice.near
            return [v for v in viewers if abs(v.x - x) <= VIEW and abs(v.y - y) <= VIEW]
        if notice.known is not None:
            return [v for v in viewers if notice.known in v.known]
        if notice.gone:
            return [v for v in viewers if v.forget(notice.gone)]
        return list(viewers)

    def _show(self, viewer: Viewer, rows: dict[Player, bytes]) -> None:
        players = self.world.players_in_view(viewer.x, viewer.y)
        structures = self.world.structures_in_view(viewer.x, viewer.y)
        known = viewer.known
        if not known.issuperset(structures):
            new = [thing for thing in structures if thing not in known]
            viewer.send(packets.Objects(tuple(thing.row() for thing in new)))
            known.update(new)
        if not known.issuperset(players):
            for player in players:
                if player not in known:
                    viewer.send(packets.PlayerAdd(player.info(), is_self=False))
            known.update(players)
        viewer.client.send(PLAYERS.join([rows[player] for player in players]))

    def _summarise(self) -> None:
        leaders = self.world.leaderboard()
        if leaders != self._leaders:
            self._leaders = leaders
            self.room.broadcast(packets.encode(packets.Leaderboard(leaders)))
        away = [viewer.client for viewer in self.viewers.values() if viewer.client.dropped]
        self.room.broadcast(packets.encode(packets.Minimap(self.world.minimap())), exclude=away)

    def _tell_lobby(self) -> None:
        """Let the API show how many play and how many watch."""
        players = len(self.world.players)
        self.room.metadata = {"players": players, "spectators": len(self.viewers) - players}
