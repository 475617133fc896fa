"""What players of the sandbox world own and have earned, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable

from scalesocket.net.sandbox_packets import Age, ResourceCount, Upgrades

from .sandbox_items import GOLD, MAX_AGE, RESOURCES, Item
from .sandbox_things import WEAPONS, Notices, Player


class Ledger:
    """Keeps the accounts: what was gained less what was lost is what all players have together.

    Attributes:
        gained: of each resource, what has ever been given to a player.
        lost: of each resource, what was paid, and what the dead had.
    """

    def __init__(self, notices: Notices) -> None:
        self.gained = [0] * len(RESOURCES)
        self.lost = [0] * len(RESOURCES)
        self._notices = notices

    def grant(self, player: Player, resource: int, amount: int) -> None:
        """Give a player some of a resource, out of nothing."""
        self.gained[resource] += amount
        self._change(player, resource, amount)

    def earn(self, player: Player, resource: int, amount: int) -> None:
        """Give a player some of a resource, and as many points."""
        self.grant(player, resource, amount)
        self.score(player, amount)

    def yield_income(self, players: Iterable[Player]) -> None:
        """Give players what their windmills have made."""
        for player in players:
            income = sum(b.item.income for b in player.buildings if b.item)
            if income:
                self.earn(player, GOLD, income)

    def pay(self, player: Player, item: Item) -> bool:
        """Take the price of an item, if the player has it; return whether it was paid."""
        if any(have < price for have, price in zip(player.resources, item.price, strict=True)):
            return False
        for resource, price in enumerate(item.price):
            if price:
                self.lost[resource] += price
                self._change(player, resource, -price)
        return True

    def tell(self, player: Player) -> None:
        """Tell a player everything in the accounts."""
        for name, amount in zip(RESOURCES, player.resources, strict=True):
            self._notices.to(player, ResourceCount(name, amount, False))
        self._notices.to(player, ResourceCount("points", player.points, False))
        self._notices.to(player, Age(player.xp, player.max_xp, player.age))
        self._notices.to(player, Upgrades(player.upgrades, player.age))

    def forfeit(self, player: Player) -> None:
        """Take all that a player has who is gone."""
        for resource, amount in enumerate(player.resources):
            self.lost[resource] += amount
        player.resources = [0] * len(RESOURCES)

    def score(self, player: Player, points: int) -> None:
        """Give points, and what comes with them: an age, and with it a weapon to choose."""
        player.points += points
        player.xp += points
        while player.age < MAX_AGE and player.xp >= player.max_xp:
            player.xp -= player.max_xp
            player.age += 1
            player.upgrades = min(player.upgrades + 1, len(WEAPONS) - len(player.weapons))
            self._notices.to(player, Upgrades(player.upgrades, player.age))
        self._notices.to(player, ResourceCount("points", player.points, True))
        self._notices.to(player, Age(player.xp, player.max_xp, player.age))

    def _change(self, player: Player, resource: int, amount: int) -> None:
        player.resources[resource] += amount
        value = player.resources[resource]
        self._notices.to(player, ResourceCount(RESOURCES[resource], value, amount > 0))
