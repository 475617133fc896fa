// QR codes (ISO/IEC 18004) for links: bytes, error correction M, versions 1 to 10, which is 213
// bytes. A code is a square of modules; `qrCode` returns it as rows of booleans, true is dark.

// For each version: bytes of error correction in a block, blocks, and bytes of data in all.
const VERSIONS = [
  [10, 1, 16], [16, 1, 28], [26, 1, 44], [18, 2, 64], [24, 2, 86],
  [16, 4, 108], [18, 4, 124], [22, 4, 154], [22, 5, 182], [26, 5, 216],
];
const ALIGNMENT = [
  [], [6, 18], [6, 22], [6, 26], [6, 30], [6, 34], [6, 22, 38], [6, 24, 42], [6, 26, 46],
  [6, 28, 50],
]; // the middles of the small squares, across and down

const MASKS = [
  (x, y) => (x + y) % 2 === 0,
  (x, y) => y % 2 === 0,
  (x) => x % 3 === 0,
  (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(y / 2) + Math.floor(x / 3)) % 2 === 0,
  (x, y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
];

/** The code of a text, or null if it is too long. `mask` is chosen as the standard says, unless
    one is given. */
export function qrCode(text, mask = null) {
  const data = new TextEncoder().encode(text);
  const version = VERSIONS.findIndex(([, , size], i) => data.length + (i < 9 ? 2 : 3) <= size) + 1;
  if (!version) return null;
  const stream = correct(pack(data, version), version);
  const drawings = MASKS.map((_, i) => i)
    .filter((i) => mask === null || i === mask)
    .map((i) => draw(version, stream, i));
  return drawings.reduce((best, next) => (penalty(next) < penalty(best) ? next : best));
}

// ---- The bytes --------------------------------------------------------------

/** Mode, length, data, the end, and filling. */
function pack(data, version) {
  const bits = [];
  const put = (value, width) => {
    for (let i = width - 1; i >= 0; i -= 1) bits.push((value >> i) & 1);
  };
  put(0b0100, 4); // bytes
  put(data.length, version < 10 ? 8 : 16);
  for (const byte of data) put(byte, 8);
  const size = VERSIONS[version - 1][2];
  put(0, Math.min(4, 8 * size - bits.length));
  put(0, (8 - (bits.length % 8)) % 8);
  for (let i = 0; bits.length < 8 * size; i += 1) put(i % 2 ? 0x11 : 0xec, 8);
  return Array.from({ length: size }, (_, i) =>
    bits.slice(8 * i, 8 * i + 8).reduce((byte, bit) => 2 * byte + bit, 0));
}

/** Cut into blocks, each with its error correction, and take them in turn. */
function correct(data, version) {
  const [extra, count, size] = VERSIONS[version - 1];
  const short = Math.floor(size / count);
  const longFrom = count - (size % count); // the last ones have a byte more
  const blocks = [];
  for (let i = 0, at = 0; i < count; i += 1) {
    const length = short + (i >= longFrom ? 1 : 0);
    blocks.push(data.slice(at, at + length));
    at += length;
  }
  const checks = blocks.map((block) => remainder(block, extra));
  const inTurn = (parts, length) => Array.from({ length }, (_, i) =>
    parts.map((part) => part[i]).filter((byte) => byte !== undefined)).flat();
  return [...inTurn(blocks, short + 1), ...inTurn(checks, extra)];
}

// The field of 256 elements: powers of 2, modulo x^8 + x^4 + x^3 + x^2 + 1.
const POWERS = [1];
while (POWERS.length < 255) {
  const next = POWERS.at(-1) << 1;
  POWERS.push(next > 255 ? next ^ 0x11d : next);
}
const LOGARITHMS = new Map(POWERS.map((power, i) => [power, i]));

function times(a, b) {
  return a && b ? POWERS[(LOGARITHMS.get(a) + LOGARITHMS.get(b)) % 255] : 0;
}

/** Reed-Solomon: what is left of the data, divided by (x - 1)(x - 2)(x - 4)… */
function remainder(data, length) {
  let divisor = [1];
  for (let i = 0; i < length; i += 1) {
    const shifted = [...divisor, 0];
    divisor = shifted.map((value, j) => value ^ times(divisor[j - 1] ?? 0, POWERS[i]));
  }
  const rest = [...data, ...Array(length).fill(0)];
  data.forEach((_, i) => {
    const factor = rest[i];
    divisor.forEach((value, j) => (rest[i + j] ^= times(value, factor)));
  });
  return rest.slice(data.length);
}

// ---- The picture --------------------------------------------------------------

function draw(version, stream, mask) {
  const size = 17 + 4 * version;
  const rows = Array.from({ length: size }, () => Array(size).fill(null)); // null: for data
  const set = (x, y, dark) => (rows[y][x] = dark);
  drawPatterns(version, size, rows, set);
  drawFormat(size, set, mask);
  if (version >= 7) drawVersion(version, size, set);
  drawData(size, rows, stream, mask);
  return rows;
}

function drawPatterns(version, size, rows, set) {
  for (const [left, top] of [[0, 0], [size - 7, 0], [0, size - 7]]) {
    for (let dy = -1; dy < 8; dy += 1) {
      for (let dx = -1; dx < 8; dx += 1) {
        const ring = Math.max(Math.abs(dx - 3), Math.abs(dy - 3));
        const [x, y] = [left + dx, top + dy];
        if (rows[y]?.[x] !== undefined) set(x, y, ring !== 2 && ring !== 4);
      }
    }
  }
  const middles = ALIGNMENT[version - 1];
  for (const y of middles) {
    for (const x of middles) {
      if (rows[y][x] !== null) continue; // one of the three corners
      for (let dy = -2; dy <= 2; dy += 1) {
        for (let dx = -2; dx <= 2; dx += 1) {
          set(x + dx, y + dy, Math.max(Math.abs(dx), Math.abs(dy)) !== 1);
        }
      }
    }
  }
  for (let i = 8; i < size - 8; i += 1) {
    set(i, 6, i % 2 === 0);
    set(6, i, i % 2 === 0);
  }
  set(8, size - 8, true);
}

/** A number with the remainder of its division behind it, so that it can be read when damaged. */
function guarded(value, bits, divisor) {
  let rest = value << bits;
  for (let i = 31 - Math.clz32(rest); i >= bits; i -= 1) {
    if ((rest >> i) & 1) rest ^= divisor << (i - bits);
  }
  return (value << bits) | rest;
}

function drawFormat(size, set, mask) {
  const bits = guarded(mask, 10, 0x537) ^ 0x5412; // level M is 00
  for (let i = 0; i < 15; i += 1) {
    const dark = ((bits >> i) & 1) === 1;
    if (i < 8) set(size - 1 - i, 8, dark);
    else set(8, size - 15 + i, dark);
    if (i < 6) set(8, i, dark);
    else if (i < 8) set(8, i + 1, dark);
    else set(i === 8 ? 7 : 14 - i, 8, dark);
  }
}

function drawVersion(version, size, set) {
  const bits = guarded(version, 12, 0x1f25);
  for (let i = 0; i < 18; i += 1) {
    const dark = ((bits >> i) & 1) === 1;
    const [a, b] = [Math.floor(i / 3), size - 11 + (i % 3)];
    set(a, b, dark);
    set(b, a, dark);
  }
}

/** Two columns at a time, from the right, up and down in turn. */
function drawData(size, rows, stream, mask) {
  let at = 0;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5; // a column of the timing
    const up = ((right + 1) & 2) === 0;
    for (let i = 0; i < size; i += 1) {
      const y = up ? size - 1 - i : i;
      for (const x of [right, right - 1]) {
        if (rows[y][x] !== null) continue;
        const bit = (stream[at >> 3] >> (7 - (at & 7))) & 1; // none behind the end: light
        at += 1;
        rows[y][x] = (bit === 1) !== MASKS[mask](x, y);
      }
    }
  }
}

/** How badly a code can be read: long runs, squares, what looks like a corner, and imbalance. */
function penalty(rows) {
  const size = rows.length;
  const columns = rows.map((_, x) => rows.map((row) => row[x]));
  let sum = 0;
  for (const cells of [...rows, ...columns]) {
    const text = cells.map(Number).join("");
    for (const [run] of text.matchAll(/0{5,}|1{5,}/g)) sum += run.length - 2;
    sum += 40 * [...text.matchAll(/(?=10111010000|00001011101)/g)].length;
  }
  for (let y = 1; y < size; y += 1) {
    for (let x = 1; x < size; x += 1) {
      const same = [rows[y - 1][x], rows[y][x - 1], rows[y - 1][x - 1]];
      if (same.every((cell) => cell === rows[y][x])) sum += 3;
    }
  }
  const dark = rows.flat().filter(Boolean).length / (size * size);
  return sum + 10 * Math.floor(Math.abs(dark - 0.5) * 20);
}
