// How many columns a character takes: 0, 1 or 2. Programs ask their C library the same
// (wcwidth), character by character; a terminal that disagrees shows everything displaced.

// East Asian Wide and Fullwidth (Unicode Standard Annex 11), in hexadecimal, first and last.
const WIDE = [
  [0x1100, 0x115f], [0x231a, 0x231b], [0x2329, 0x232a], [0x2e80, 0x303e], [0x3041, 0x33ff],
  [0x3400, 0x4dbf], [0x4e00, 0xa4cf], [0xa960, 0xa97c], [0xac00, 0xd7a3], [0xf900, 0xfaff],
  [0xfe10, 0xfe19], [0xfe30, 0xfe6b], [0xff01, 0xff60], [0xffe0, 0xffe6], [0x16fe0, 0x18df2],
  [0x1aff0, 0x1b2fb], [0x1f200, 0x1f265], [0x20000, 0x2fffd], [0x30000, 0x3fffd],
];
const EMOJI = /^\p{Emoji_Presentation}$/u;
const MARK = /^[\p{Mn}\p{Me}\p{Cf}\u1160-\u11ff]$/u;

export function widthOf(character) {
  const code = character.codePointAt(0);
  if (code < 0x300) return 1;
  if (MARK.test(character)) return 0;
  if (WIDE.some(([first, last]) => code >= first && code <= last)) return 2;
  const flag = code >= 0x1f1e6 && code <= 0x1f1ff; // half of one, a letter
  return EMOJI.test(character) && !flag ? 2 : 1;
}
