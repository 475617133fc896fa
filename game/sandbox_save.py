"""How a sandbox world is saved, as JSON can hold it, and is brought back: pure, as its rules."""

from __future__ import annotations

import itertools
from typing import Any

from .sandbox_items import ITEMS, Item
from .sandbox_rules import World
from .sandbox_space import Space
from .sandbox_things import Player, Structure

PLAIN = (  # what of a player JSON holds as it is
    "age", "alive", "asleep", "auto", "clicked", "dir", "health", "points", "pressed",
    "pricked_at", "ready_at", "resources", "upgrades", "xp",
)  # fmt: skip


def save_world(world: World) -> dict[str, Any]:
    """Return all of a world but chance, and what is yet to be told."""
    everything = world.space.structures.near(0, 0, world.space.size)
    return {
        "now": world.now,
        "sid": next(world._sids),
        "income_at": world._income_at,
        "gained": world.ledger.gained,
        "lost": world.ledger.lost,
        "players": [save_player(player) for player in world.players.values()],
        "structures": [save_structure(structure) for structure in everything],
    }


def restore_world(world: World, state: dict[str, Any]) -> None:
    """Make a world the one that was saved."""
    world.now = state["now"]
    world.space = Space(world.space.size)
    world._sids = itertools.count(state["sid"])
    world._income_at = state["income_at"]
    world.ledger.gained, world.ledger.lost = state["gained"], state["lost"]
    for facts in state["players"]:
        player = world.players[facts["sid"]] = make_player(facts)
        world.space.players.add(player)
    for facts in sorted(state["structures"], key=lambda facts: facts["sid"]):
        world.space.structures.add(make_structure(facts, world.players))


def save_player(player: Player) -> dict[str, Any]:
    """Return a player, without what it has built."""
    return {name: getattr(player, name) for name in PLAIN} | {
        "sid": player.sid,
        "x": player.x,
        "y": player.y,
        "client_id": player.client_id,
        "name": player.name,
        "skin": player.skin,
        "walk": player.walk,
        "weapon": player.weapon.id,
        "weapons": [weapon.id for weapon in player.weapons],
        "in_hand": player.in_hand.id if player.in_hand else None,
    }


def make_player(facts: dict[str, Any]) -> Player:
    """Return a player that was saved."""
    player = Player(
        facts["sid"],
        facts["x"],
        facts["y"],
        client_id=facts["client_id"],
        name=facts["name"],
        skin=facts["skin"],
    )
    for name in PLAIN:
        setattr(player, name, facts[name])
    player.walk = tuple(facts["walk"]) if facts["walk"] else None
    player.weapon = ITEMS[facts["weapon"]]
    player.weapons = [ITEMS[item_id] for item_id in facts["weapons"]]
    player.in_hand = find_item(facts["in_hand"])
    return player


def save_structure(structure: Structure) -> dict[str, Any]:
    """Return what stands somewhere."""
    return {
        "sid": structure.sid,
        "x": structure.x,
        "y": structure.y,
        "scale": structure.scale,
        "dir": structure.dir,
        "health": structure.health,
        "resource": structure.resource,
        "item": structure.item.id if structure.item else None,
        "owner": structure.owner.sid if structure.owner else None,
    }


def make_structure(facts: dict[str, Any], players: dict[int, Player]) -> Structure:
    """Return what stood there, which its owner, if it has one, has built."""
    owner = players.get(facts["owner"]) if facts["owner"] is not None else None
    structure = Structure(
        facts["sid"],
        facts["x"],
        facts["y"],
        facts["scale"],
        dir=facts["dir"],
        resource=facts["resource"],
        item=find_item(facts["item"]),
        owner=owner,
    )
    structure.health = facts["health"]
    if owner is not None:
        owner.buildings[structure] = None
    return structure


def find_item(item_id: int | None) -> Item | None:
    """Return an item by its ID."""
    return None if item_id is None else ITEMS[item_id]
