// Bytes, and the ways in which people write them.

const encoder = new TextEncoder();

export const toBytes = (text) => encoder.encode(text);

/** Decode UTF-8, or return null if it is none. What is `cut` may end within a character. */
export function toText(bytes, cut = false) {
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return decoder.decode(bytes, { stream: cut });
  } catch {
    return null;
  }
}

export const hexOf = (byte) => byte.toString(16).padStart(2, "0");
export const bitsOf = (byte) => byte.toString(2).padStart(8, "0");
export const toHex = (bytes) => Array.from(bytes, hexOf).join(" ");

/** Read hexadecimal digits, two for each byte, but for a byte such as 0x1; spaces, commas, colons
    and 0x may separate them.

    Throws a RangeError that says what is wrong. */
export function parseHex(text) {
  const digits = text
    .replace(/0x([0-9a-f](?![0-9a-f]))?/gi, (_, digit) => (digit ? ` 0${digit}` : " "))
    .replace(/[\s,:]+/g, "");
  const wrong = /[^0-9a-f]/iu.exec(digits);
  if (wrong) throw new RangeError(`“${wrong[0]}” is no hexadecimal digit (0–9, a–f)`);
  if (digits.length % 2) throw new RangeError(`${digits.length} digits: each byte needs two`);
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function joinBytes(parts) {
  const joined = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

export function countBytes(count) {
  return count === 1 ? "1 byte" : `${count.toLocaleString("en")} bytes`;
}
