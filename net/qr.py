"""QR codes for links, in a terminal (`--qr`).

A code is a square of modules, each dark or light (ISO/IEC 18004). Here a text is bytes of UTF-8
with error correction of level M, and versions 1 to 10 are made, which is 213 bytes at the most.
`client/web/shared/qr.js` does the same for pages, and a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

Modules = list[list[bool]]  # rows from the top, columns from the left; true: dark

# For each version: bytes of error correction in a block, blocks, and bytes of data in all.
VERSIONS = (
    (10, 1, 16),
    (16, 1, 28),
    (26, 1, 44),
    (18, 2, 64),
    (24, 2, 86),
    (16, 4, 108),
    (18, 4, 124),
    (22, 4, 154),
    (22, 5, 182),
    (26, 5, 216),
)
FINDERS = 7  # modules across each of the three squares in the corners
MARGIN = 4  # light modules around a code
LEVEL_M = 0b00

# For each mask: whether it turns the module in column x and row y over.
MASKS: tuple[Callable[[int, int], bool], ...] = (
    lambda x, y: (x + y) % 2 == 0,
    lambda x, y: y % 2 == 0,
    lambda x, y: x % 3 == 0,
    lambda x, y: (x + y) % 3 == 0,
    lambda x, y: (y // 2 + x // 3) % 2 == 0,
    lambda x, y: x * y % 2 + x * y % 3 == 0,
    lambda x, y: (x * y % 2 + x * y % 3) % 2 == 0,
    lambda x, y: ((x + y) % 2 + x * y % 3) % 2 == 0,
)


def make_code(text: str, mask: int | None = None) -> Modules:
    """Return the code of a text.

    Args:
        mask: which of `MASKS`; None: the one that can be read best, as the standard says.

    Raises:
        ValueError: the text is too long.
    """
    data = text.encode()
    for version, (_, _, size) in enumerate(VERSIONS, 1):
        if len(data) + (2 if version < 10 else 3) <= size:
            codewords = interleave(pack(data, version), version)
            masks = range(len(MASKS)) if mask is None else (mask,)
            return min((draw(version, codewords, each) for each in masks), key=penalty)
    raise ValueError(f"a text of {len(data)} bytes; 213 is the most")


# ---- The bytes -----------------------------------------------------------


def pack(data: bytes, version: int) -> bytes:
    """Return mode, length, data, the end, and filling."""
    size = VERSIONS[version - 1][2]
    length_bits = 8 if version < 10 else 16
    bits = f"0100{len(data):0{length_bits}b}" + "".join(f"{byte:08b}" for byte in data)
    bits += "0" * min(4, 8 * size - len(bits))
    bits += "0" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return (packed + b"\xec\x11" * size)[:size]


def interleave(data: bytes, version: int) -> bytes:
    """Return data cut into blocks, each with its error correction, and taken in turn."""
    extra, count, size = VERSIONS[version - 1]
    short = size // count
    first_long = count - size % count  # the last ones have a byte more
    blocks, start = [], 0
    for number in range(count):
        end = start + short + (number >= first_long)
        blocks.append(data[start:end])
        start = end
    checks = [reed_solomon(block, extra) for block in blocks]
    return bytes([*take_in_turn(blocks), *take_in_turn(checks)])


def take_in_turn(blocks: Sequence[bytes]) -> Iterator[int]:
    """Yield the first byte of each block, then the second of each that has one, and so on."""
    for at in range(max(map(len, blocks))):
        yield from (block[at] for block in blocks if at < len(block))


# The field of 256 elements: powers of 2, modulo x^8 + x^4 + x^3 + x^2 + 1.
POWERS = [1]
while len(POWERS) < 255:
    POWERS.append(POWERS[-1] << 1 ^ (0x11D if POWERS[-1] > 127 else 0))
LOGARITHMS = {power: exponent for exponent, power in enumerate(POWERS)}


def multiply(a: int, b: int) -> int:
    """Return a product in the field."""
    return POWERS[(LOGARITHMS[a] + LOGARITHMS[b]) % 255] if a and b else 0


def reed_solomon(data: bytes, length: int) -> bytes:
    """Return what is left of the data, divided by (x - 1)(x - 2)(x - 4)…, `length` factors."""
    divisor = [1]
    for power in POWERS[:length]:
        scaled = [0, *(multiply(value, power) for value in divisor)]
        divisor = [a ^ b for a, b in zip([*divisor, 0], scaled, strict=True)]
    rest = [*data, *bytes(length)]
    for at in range(len(data)):
        for offset, value in enumerate(divisor[1:], 1):
            rest[at + offset] ^= multiply(value, rest[at])
    return bytes(rest[len(data) :])


# ---- The picture ---------------------------------------------------------


def draw(version: int, codewords: bytes, mask: int) -> Modules:
    """Return the modules of a code."""
    size = 17 + 4 * version
    fixed: dict[tuple[int, int], bool] = {}  # by column and row
    draw_finders(size, fixed)
    draw_alignment(version, size, fixed)
    draw_timing(size, fixed)
    draw_format(size, mask, fixed)
    if version >= 7:
        draw_version(version, size, fixed)
    bits = (codeword >> shift & 1 for codeword in codewords for shift in range(7, -1, -1))
    for x, y in walk(size):
        if (x, y) not in fixed:
            fixed[x, y] = bool(next(bits, 0)) != MASKS[mask](x, y)
    return [[fixed[x, y] for x in range(size)] for y in range(size)]


def draw_finders(size: int, fixed: dict[tuple[int, int], bool]) -> None:
    """Draw the squares in three corners, with a light margin."""
    for left, top in ((0, 0), (size - FINDERS, 0), (0, size - FINDERS)):
        for y in range(max(0, top - 1), min(size, top + FINDERS + 1)):
            for x in range(max(0, left - 1), min(size, left + FINDERS + 1)):
                ring = max(abs(x - left - 3), abs(y - top - 3))
                fixed[x, y] = ring not in (2, 4)


def draw_alignment(version: int, size: int, fixed: dict[tuple[int, int], bool]) -> None:
    """Draw the small squares."""
    if version == 1:
        return
    middles = {6, size - 7} | ({(size - 1) // 2} if version >= 7 else set())
    for middle_x in middles:
        for middle_y in middles:
            if (middle_x, middle_y) in fixed:
                continue  # one of the three corners
            for x in range(middle_x - 2, middle_x + 3):
                for y in range(middle_y - 2, middle_y + 3):
                    fixed[x, y] = max(abs(x - middle_x), abs(y - middle_y)) != 1


def draw_timing(size: int, fixed: dict[tuple[int, int], bool]) -> None:
    """Draw the dotted lines between the corners."""
    for i in range(8, size - 8):
        fixed[i, 6] = fixed[6, i] = i % 2 == 0


def guard(value: int, bits: int, divisor: int) -> int:
    """Return a number with a remainder of so many bits behind it, so that damage shows."""
    rest = value << bits
    for i in range(rest.bit_length() - 1, bits - 1, -1):
        if rest >> i & 1:
            rest ^= divisor << (i - bits)
    return value << bits | rest


def draw_format(size: int, mask: int, fixed: dict[tuple[int, int], bool]) -> None:
    """Draw level and mask, twice."""
    bits = guard(LEVEL_M << 3 | mask, 10, 0x537) ^ 0x5412
    beside = [(8, y) for y in (0, 1, 2, 3, 4, 5, 7, 8)] + [(x, 8) for x in (7, 5, 4, 3, 2, 1, 0)]
    apart = [(x, 8) for x in range(size - 1, size - 9, -1)]
    apart += [(8, y) for y in range(size - 7, size)]
    for i, (one, other) in enumerate(zip(beside, apart, strict=True)):
        fixed[one] = fixed[other] = bool(bits >> i & 1)
    fixed[8, size - 8] = True


def draw_version(version: int, size: int, fixed: dict[tuple[int, int], bool]) -> None:
    """Draw the version, twice."""
    bits = guard(version, 12, 0x1F25)
    for i in range(18):
        near, far = i // 3, size - 11 + i % 3
        fixed[near, far] = fixed[far, near] = bool(bits >> i & 1)


def walk(size: int) -> Iterator[tuple[int, int]]:
    """Yield where data goes: two columns at a time, from the right, up and down in turn."""
    columns = [*range(size - 1, 6, -2), *range(5, 0, -2)]  # column 6 is dotted
    for turn, right in enumerate(columns):
        for y in range(size) if turn % 2 else range(size - 1, -1, -1):
            yield right, y
            yield right - 1, y


def penalty(modules: Modules) -> int:
    """Return how badly it can be read: runs, squares, what looks like a corner, imbalance."""
    points = 0
    for cells in [*modules, *zip(*modules, strict=True)]:
        line = "".join("01"[cell] for cell in cells)
        points += sum(len(run[0]) - 2 for run in re.finditer("0{5,}|1{5,}", line))
        points += 40 * len(re.findall("(?=10111010000|00001011101)", line))
    for upper, lower in zip(modules, modules[1:], strict=False):
        for square in zip(upper, upper[1:], lower, lower[1:], strict=False):
            points += 3 * (len(set(square)) == 1)
    dark = sum(map(sum, modules)) / len(modules) ** 2
    return points + 10 * int(abs(dark - 0.5) * 20)


# ---- The terminal --------------------------------------------------------

_HALVES = " ▀▄█"  # what is dark: nothing, the upper half, the lower half, all


def is_utf8(encoding: str | None) -> bool:
    """Whether it is UTF-8, in which a character can show two modules."""
    return (encoding or "").lower().replace("-", "") == "utf8"


def width_in_terminal(modules: Modules, encoding: str | None) -> int:
    """Return how many columns `draw_in_terminal` takes."""
    return (len(modules) + 2 * MARGIN) * (1 if is_utf8(encoding) else 2)


def draw_in_terminal(modules: Modules, encoding: str | None) -> str:
    """Return lines that show a code: black on white, whatever the terminal's own colours are.

    Args:
        encoding: the terminal's. In UTF-8 a character is two modules, one above the other;
            otherwise a module is two spaces.
    """
    size = len(modules) + 2 * MARGIN
    light = [[False] * size] * MARGIN
    sides = [False] * MARGIN
    rows = [*light, *([*sides, *row, *sides] for row in modules), *light, [False] * size]
    lines = []
    if is_utf8(encoding):
        for upper, lower in zip(rows[0:size:2], rows[1::2], strict=False):
            text = "".join(_HALVES[a + 2 * b] for a, b in zip(upper, lower, strict=True))
            lines.append(f"\x1b[30;107m{text}\x1b[0m\n")
    else:
        for row in rows[:size]:
            text = "".join(f"\x1b[{40 if cell else 107}m  " for cell in row)
            lines.append(f"{text}\x1b[0m\n")
    return "".join(lines)
