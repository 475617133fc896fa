"""A grid of cells, to find what is near without looking at everything."""

from __future__ import annotations

from typing import Generic, TypeVar


class Thing:
    """Something round with a place in the world, and an ID of its own."""

    __slots__ = ("cell", "scale", "sid", "x", "y")

    def __init__(self, sid: int, x: float, y: float, scale: int) -> None:
        self.sid = sid
        self.x = x
        self.y = y
        self.scale = scale  # radius
        self.cell: dict[Thing, None] | None = None  # of the grid it is in


ThingT = TypeVar("ThingT", bound=Thing)


class Grid(Generic[ThingT]):
    """Things by where they are.

    Args:
        size: of the world; things lie between 0 and this, in x and in y.
        cell_size: length of a cell; about as long as most searches go far.
    """

    def __init__(self, size: float, cell_size: int = 500) -> None:
        self._cell_size = cell_size
        count = int(size // cell_size) + 1
        # Dicts, not sets: they keep their order, and so every run of a world is the same.
        self._columns: list[list[dict[ThingT, None]]]
        self._columns = [[{} for _ in range(count)] for _ in range(count)]
        # What a block of cells holds, by its left, right, top and bottom: things change their
        # cells far less often than they are looked for.
        self._blocks: dict[tuple[int, int, int, int], list[ThingT]] = {}

    def add(self, thing: ThingT) -> None:
        """Add a thing where it is."""
        cell = self._cell_at(thing.x, thing.y)
        cell[thing] = None
        thing.cell = cell  # type: ignore[assignment]
        self._blocks.clear()

    def remove(self, thing: ThingT) -> None:
        """Remove a thing that is here."""
        assert thing.cell is not None
        del thing.cell[thing]
        thing.cell = None
        self._blocks.clear()

    def move(self, thing: ThingT, x: float, y: float) -> None:
        """Give a thing that is here another place."""
        thing.x, thing.y = x, y
        if self._cell_at(x, y) is not thing.cell:
            self.remove(thing)
            self.add(thing)

    def near(self, x: float, y: float, distance: float) -> list[ThingT]:
        """Return the things whose centres differ by at most `distance` in x and in y."""
        left, right, top, bottom = x - distance, x + distance, y - distance, y + distance
        size = self._cell_size
        block = (int(left // size), int(right // size), int(top // size), int(bottom // size))
        found = self._blocks.get(block)
        if found is None:
            found = self._blocks[block] = self._gather(*block)
        return [t for t in found if left <= t.x <= right and top <= t.y <= bottom]

    def _gather(self, left: int, right: int, top: int, bottom: int) -> list[ThingT]:
        """Return what a block of cells holds; where it sticks out of the world there is nothing."""
        rows = slice(max(0, top), max(0, bottom + 1))
        columns = self._columns[max(0, left) : max(0, right + 1)]
        return [thing for column in columns for cell in column[rows] for thing in cell]

    def _cell_at(self, x: float, y: float) -> dict[ThingT, None]:
        return self._columns[int(x // self._cell_size)][int(y // self._cell_size)]
