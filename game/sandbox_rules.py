"""The rules of the sandbox world: pure, with no socket, thread or clock in them.

    world = World(seed=1)
    ann = world.spawn(client_id=7, name="ann", skin=0)
    world.walk(ann, 0.0)
    world.step(0.05)                  # seconds
    notices = world.notices.take()    # packets, and whom they are for

Players say what they want (`walk`, `aim`, `press` ...), and it happens in the next `step`. The
same seed and the same calls make the same world.

Resources come from hitting scenery, from windmills and from `grant`, and they go into what is
built and eaten, or are lost in death; `ledger` keeps the accounts.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from scalesocket.net.sandbox_packets import (
    Age,
    Death,
    Health,
    ItemCount,
    Items,
    MapRow,
    ObjectHit,
    ObjectRemove,
    ObjectsRemove,
    PlayerAdd,
    PlayerRemove,
    Said,
    ScoreRow,
    Spawned,
    Swing,
    Upgrades,
)

from .sandbox_items import (
    INCOME_PAUSE,
    ITEMS,
    KILL_POINTS,
    PLAYER_HEALTH,
    PLAYER_SCALE,
    PLAYER_SPEED,
    RESOURCES,
    SCENERY,
    SPIKE_PAUSE,
    STARTING_WOOD,
    VIEW,
    WOOD,
    WORLD_SIZE,
    Growth,
    Item,
)
from .sandbox_ledger import Ledger
from .sandbox_space import PATH, Space
from .sandbox_things import GOODS, WEAPONS, Notices, Player, Structure


class World:
    """Everything that is, and what may happen to it.

    Args:
        seed: of all chance.
        size: length of each side.
        scenery: what grows in it; as much as finds room.
    """

    def __init__(
        self, seed: int, *, size: int = WORLD_SIZE, scenery: Sequence[Growth] = SCENERY
    ) -> None:
        self.now = 0.0  # seconds since the beginning
        self.space = Space(size)
        self.players: dict[int, Player] = {}  # the living, by sid
        self.notices = Notices()
        self.ledger = Ledger(self.notices)
        self._chance = random.Random(seed)
        self._sids = itertools.count(1)
        self._income_at = INCOME_PAUSE
        for growth in scenery:
            for _ in range(growth.count):
                self._grow(growth)

    # -- what players want --

    def spawn(self, client_id: int, name: str, skin: int) -> Player | None:
        """Let someone be born at a random place; None if the world is too full."""
        place = self.space.find_place(self._chance, PLAYER_SCALE, PLAYER_SCALE)
        if place is None:
            return None
        player = Player(next(self._sids), *place, client_id=client_id, name=name, skin=skin)
        self.players[player.sid] = player
        self.space.players.add(player)
        self.notices.to(player, Spawned(player.sid), PlayerAdd(player.info(), is_self=True))
        for index in range(len(RESOURCES)):
            self.ledger.grant(player, index, STARTING_WOOD if index == WOOD else 0)
        self._tell_items(player)
        self.notices.to(player, Age(player.xp, player.max_xp, player.age))
        return player

    def leave(self, player: Player) -> None:
        """Let a player go."""
        if player.alive:
            self._remove(player)

    def lull(self, player: Player) -> None:
        """Let a player whose client has lost its connection stand still, safe from harm."""
        player.asleep = True
        player.walk = None
        player.pressed = player.clicked = player.auto = False

    def wake(self, player: Player) -> None:
        """Let a player go on; whoever is asleep does nothing."""
        player.asleep = False

    def introduce(self, player: Player) -> None:
        """Tell a client that has forgotten everything about its own player."""
        self.notices.to(player, Spawned(player.sid), PlayerAdd(player.info(), is_self=True))
        self.ledger.tell(player)
        self._tell_items(player)
        for item in GOODS:
            if player.count(item):
                self.notices.to(player, ItemCount(item.id, player.count(item)))

    def walk(self, player: Player, angle: float | None) -> None:
        """Walk in a direction from now on; None: stand still."""
        player.walk = None if angle is None else (math.cos(angle), math.sin(angle))

    def aim(self, player: Player, angle: float) -> None:
        """Look in a direction."""
        player.dir = round(angle, 2)

    def press(self, player: Player, active: bool) -> None:
        """Press the attack button, or let go of it."""
        player.pressed = active
        player.clicked |= active

    def toggle_auto(self, player: Player) -> None:
        """Begin to attack without the button, or stop doing so."""
        player.auto = not player.auto

    def select(self, player: Player, item_id: int) -> None:
        """Take an item in hand; put food or a building away that is in hand. Others: ignored."""
        item = ITEMS[item_id] if item_id < len(ITEMS) else None
        if item in player.weapons:
            player.weapon, player.in_hand = item, None
        elif item in GOODS:
            player.in_hand = None if player.in_hand is item else item

    def upgrade(self, player: Player, item_id: int) -> None:
        """Choose a new weapon, if there is a choice to make."""
        item = ITEMS[item_id] if item_id < len(ITEMS) else None
        if player.upgrades and item in WEAPONS and item not in player.weapons:
            player.upgrades -= 1
            player.weapons.append(item)
            player.weapon, player.in_hand = item, None
            self._tell_items(player)
            self.notices.to(player, Upgrades(player.upgrades, player.age))

    def chat(self, player: Player, text: str) -> None:
        """Say something to all who have the player in view."""
        self.notices.near(player, Said(player.sid, text))

    # -- what the world does --

    def grant(self, player: Player, resource: int, amount: int) -> None:
        """Give a player some of a resource, out of nothing."""
        self.ledger.grant(player, resource, amount)

    def announce(self, text: str) -> None:
        """Tell everyone something."""
        self.notices.everyone(Said(0, text))

    def step(self, dt: float) -> None:
        """Let time pass: all walk, then all use what they hold, then the windmills yield.

        Args:
            dt: seconds; so few that nobody walks through anything.
        """
        self.now += dt
        for player in list(self.players.values()):
            if player.walk is not None and player.alive:
                self._walk(player, player.walk, dt)
        for player in list(self.players.values()):
            if (player.pressed or player.clicked or player.auto) and player.alive:
                self._act(player)
        if self.now >= self._income_at:
            self._income_at += INCOME_PAUSE
            self.ledger.yield_income(self.players.values())

    # -- what is to be seen --

    def players_in_view(self, x: float, y: float) -> list[Player]:
        """Return who can be seen from a place."""
        return self.space.players.near(x, y, VIEW)

    def structures_in_view(self, x: float, y: float) -> list[Structure]:
        """Return what stands and can be seen from a place."""
        return self.space.structures.near(x, y, VIEW)

    def leaderboard(self) -> tuple[ScoreRow, ...]:
        """Return the ten best; of two that are equal the older one leads."""
        best = sorted(self.players.values(), key=lambda player: (-player.points, player.sid))
        return tuple(ScoreRow(p.sid, p.name, p.points) for p in best[:10])

    def minimap(self) -> tuple[MapRow, ...]:
        """Return where everyone is."""
        return tuple(MapRow(p.sid, round(p.x), round(p.y)) for p in self.players.values())

    # -- rules --

    def _grow(self, growth: Growth) -> None:
        scale = self._chance.randint(growth.min_scale, growth.max_scale)
        place = self.space.find_place(self._chance, scale, PATH)
        if place is not None:
            turn = round(self._chance.uniform(-math.pi, math.pi), 2)
            scenery = Structure(next(self._sids), *place, scale, dir=turn, resource=growth.resource)
            self.space.structures.add(scenery)

    def _walk(self, player: Player, direction: tuple[float, float], dt: float) -> None:
        length = PLAYER_SPEED * dt
        x, y = player.x + direction[0] * length, player.y + direction[1] * length
        for thing in self.space.walk(player, x, y):
            if isinstance(thing, Structure) and thing.item and thing.item.power:
                self._prick(player, thing, thing.item.power)

    def _prick(self, player: Player, spike: Structure, power: int) -> None:
        owner = spike.owner
        ready = self.now >= player.pricked_at + SPIKE_PAUSE
        if owner is not None and owner is not player and player.alive and ready:
            player.pricked_at = self.now
            self._hurt(player, power, owner)

    def _act(self, player: Player) -> None:
        if self.now < player.ready_at:
            return
        clicked, player.clicked = player.clicked, False
        item = player.in_hand
        if item is None:
            player.ready_at = self.now + player.weapon.cooldown
            self._swing(player, player.weapon)
        elif clicked:
            player.ready_at = self.now + item.cooldown
            player.pressed = False
            if self._eat(player, item) if item.kind == "food" else self._build(player, item):
                player.in_hand = None

    def _swing(self, player: Player, weapon: Item) -> None:
        targets = list(self.space.in_arc(player, weapon.reach))
        self.notices.near(player, Swing(player.sid, bool(targets), weapon.id))
        for target in targets:
            if target.cell is None:  # it went with its owner, a moment ago
                continue
            if isinstance(target, Player):
                self._hurt(target, weapon.power, player)
            elif isinstance(target, Structure):
                self._hit(target, weapon, player)

    def _hit(self, structure: Structure, weapon: Item, player: Player) -> None:
        if structure.owner is player:
            return
        self.notices.near(structure, ObjectHit(player.dir, structure.sid))
        if structure.resource is not None:
            self.ledger.earn(player, structure.resource, weapon.gather)
            return
        structure.health -= weapon.power
        if structure.health <= 0:
            self._tear_down(structure)

    def _hurt(self, victim: Player, power: int, by: Player) -> None:
        if victim.asleep:
            return
        victim.health = max(0, victim.health - power)
        self.notices.known(victim, Health(victim.sid, victim.health))
        if victim.health == 0:
            self.announce(f"{by.name} has beaten {victim.name}")
            self.ledger.score(by, KILL_POINTS + victim.points // 2)
            self._remove(victim)
            self.notices.to(victim, Death())

    def _eat(self, player: Player, item: Item) -> bool:
        if player.health == PLAYER_HEALTH or not self.ledger.pay(player, item):
            return False
        player.health = min(PLAYER_HEALTH, player.health + item.power)
        self.notices.known(player, Health(player.sid, player.health))
        return True

    def _build(self, player: Player, item: Item) -> bool:
        x = player.x + math.cos(player.dir) * item.reach
        y = player.y + math.sin(player.dir) * item.reach
        if not self.space.holds(x, y, item.scale) or self.space.touching(x, y, item.scale):
            return False
        if player.count(item) >= item.limit or not self.ledger.pay(player, item):
            return False
        building = Structure(
            next(self._sids), x, y, item.scale, dir=player.dir, item=item, owner=player
        )
        player.buildings[building] = None
        self.space.structures.add(building)
        self.notices.to(player, ItemCount(item.id, player.count(item)))
        return True

    def _tear_down(self, building: Structure) -> None:
        assert building.owner is not None and building.item is not None
        del building.owner.buildings[building]
        self.space.structures.remove(building)
        self.notices.gone(ObjectRemove(building.sid), building)
        count = building.owner.count(building.item)
        self.notices.to(building.owner, ItemCount(building.item.id, count))

    def _remove(self, player: Player) -> None:
        """Take a player, and all that belongs to one, out of the world."""
        player.alive = False
        del self.players[player.sid]
        self.space.players.remove(player)
        for building in player.buildings:
            self.space.structures.remove(building)
        self.ledger.forfeit(player)
        self.notices.gone(PlayerRemove(player.sid), player)
        if player.buildings:
            self.notices.gone(ObjectsRemove(player.sid), *player.buildings)
        player.buildings.clear()

    def _tell_items(self, player: Player) -> None:
        self.notices.to(player, Items(tuple(item.id for item in player.weapons), weapons=True))
        self.notices.to(player, Items(tuple(item.id for item in GOODS), weapons=False))
