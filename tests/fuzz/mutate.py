"""Inputs without a fuzzer: seeds, mutated by a random generator that is itself seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from tests.fuzz.targets import Check, Target

MAX_SIZE = 4096  # bytes of an input


class Finding(AssertionError):
    """A target that failed, on an input which is as small as was easily done."""

    def __init__(self, name: str, data: bytes, error: BaseException) -> None:
        super().__init__(f"{name} fails on {data!r}: {type(error).__name__}: {error}"[:4000])
        self.data = data


def check_input(target: Target, data: bytes) -> None:
    """Run a target on one input.

    Raises:
        Finding: it fails.
    """
    error = failure(target.check, data)
    if error is not None:
        small = shrink(data, lambda other: type(failure(target.check, other)) is type(error))
        raise Finding(target.name, small, failure(target.check, small) or error) from error


def failure(check: Check, data: bytes) -> Exception | None:
    """Return what a check raises, if it does."""
    try:
        check(data)
    except Exception as error:
        return error
    return None


def inputs(target: Target, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield all that a target begins with, then so many mutations."""
    seeds = target.inputs()
    yield from seeds
    chance = random.Random(f"{target.name} {seed}")
    for _ in range(count):
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 2, 3, 5))):
            data = mutate(chance, data, seeds, target.words)
        yield data[:MAX_SIZE]


def mutate(
    chance: random.Random, data: bytes, seeds: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    """Return data with one change."""
    start = chance.randint(0, len(data))
    stop = min(len(data), start + chance.choice((0, 1, 1, 2, 4, 16)))
    kind = chance.randrange(8)
    if kind == 0:  # left out
        middle = b""
    elif kind == 1:  # said twice
        middle = data[start:stop] * 2
    elif kind == 2:  # random bytes
        middle = chance.randbytes(stop - start)
    elif kind == 3 and start < stop:  # one bit
        middle = bytes((data[start] ^ 1 << chance.randrange(8),)) + data[start + 1 : stop]
    elif kind == 4:  # the end of another
        other = chance.choice(seeds)
        return data[:start] + other[chance.randint(0, len(other)) :]
    elif kind == 5:  # broken off
        return data[:start]
    else:  # a word, in place of something or between
        stop = chance.choice((start, stop))
        middle = chance.choice(words) if words else chance.randbytes(2)
    return data[:start] + middle + data[stop:]


def shrink(data: bytes, fails: Callable[[bytes], bool], tries: int = 2000) -> bytes:
    """Return what is left of a failing input when all that can be left out has been."""
    size = len(data) // 2
    while size and tries > 0:
        start = 0
        while start < len(data) and tries > 0:
            shorter = data[:start] + data[start + size :]
            tries -= 1
            if fails(shorter):
                data = shorter
            else:
                start += size
        size //= 2
    return data
