// Brushes: small helpers for drawing with a canvas, shared by everything that is drawn here.

export const TURN = 2 * Math.PI;

export function oval(context, x, y, radiusX, radiusY, fill, tilt = 0) {
  context.beginPath();
  context.ellipse(x, y, radiusX, radiusY, tilt, 0, TURN);
  context.fillStyle = fill;
  context.fill();
}

export function line(context, points, stroke, width) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.strokeStyle = stroke;
  context.lineWidth = width;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.stroke();
}

export function verticalGradient(context, top, bottom, ...colours) {
  const gradient = context.createLinearGradient(0, top, 0, bottom);
  colours.forEach((colour, i) => gradient.addColorStop(i / (colours.length - 1), colour));
  return gradient;
}

/** Light that fades away from a point. `colour` is "h s% l%"; alpha is added here. */
export function glow(context, x, y, radius, colour, strength) {
  const gradient = context.createRadialGradient(x, y, 0, x, y, radius);
  gradient.addColorStop(0, `hsl(${colour} / ${strength})`);
  gradient.addColorStop(1, `hsl(${colour} / 0)`);
  context.fillStyle = gradient;
  context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
}

/** How wide a label will be. */
export function labelWidth(context, text, size) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  return context.measureText(text).width + size * 0.9;
}

/** Text on a rounded label, centred at x, its middle at y. */
export function label(context, text, x, y, { size, ink, paper }) {
  const width = labelWidth(context, text, size);
  context.textAlign = "center";
  context.textBaseline = "middle";
  const height = size * 1.5;
  context.beginPath();
  context.roundRect(x - width / 2, y - height / 2, width, height, height / 2);
  context.fillStyle = paper;
  context.fill();
  context.fillStyle = ink;
  context.fillText(text, x, y + size * 0.06);
}

/** The lines of a text whose labels are no wider than that. */
export function labelLines(context, text, size, widest) {
  const fits = (part) => labelWidth(context, part, size) <= widest;
  const lines = [];
  let rest = text;
  while (rest && !fits(rest)) {
    const letters = [...rest];
    while (letters.length > 1 && !fits(letters.join(""))) letters.pop();
    const most = letters.join("");
    const space = rest.lastIndexOf(" ", most.length);
    const line = space > 0 ? rest.slice(0, space) : most;
    lines.push(line);
    rest = rest.slice(line.length).trimStart();
  }
  return [...lines, rest];
}

/** A hue for each ID; the golden angle keeps neighbours apart. */
export function hueOf(id) {
  return Math.round((id * 137.508 + 200) % 360);
}

/** Chance that is the same every time: everybody sees the same flowers. (mulberry32) */
export function seededRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** Follow the reader's wish for less movement, also when it changes. */
export const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

export const night = window.matchMedia("(prefers-color-scheme: dark)");
