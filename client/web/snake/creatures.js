// Snakes and what they eat. The units are cells; a place is the middle of its cell.

import { calm, clamp, line, oval } from "../shared/paint.js";

export const BURST = 0.45; // seconds that something eaten flies apart

// Told apart also by those who see few colours (after Okabe and Ito), each with a pattern.
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#d9cc2b"];
const PATTERNS = [[], [0.5, 0.5], [0.12, 0.55], [1.2, 0.5]]; // dashes along the back, in cells

export function colourOf(id) {
  return COLOURS[id % COLOURS.length];
}

function patternOf(id) {
  return PATTERNS[Math.floor(id / COLOURS.length) % PATTERNS.length];
}

/** `path` goes from head to tail. */
export function drawSnake(context, path, { id, mine, dead = false, palette, seconds }) {
  const colour = colourOf(id);
  context.setLineDash([]);
  if (mine) line(context, path, "rgb(255 211 77 / .9)", 1.12);
  line(context, path, palette.outline, 0.92);
  line(context, path, colour, 0.78);
  drawPattern(context, path, patternOf(id));
  drawHead(context, path, { colour, dead, seconds, palette });
}

function drawPattern(context, path, dashes) {
  context.setLineDash(dashes);
  context.lineDashOffset = 0.15;
  line(context, path, "rgb(255 255 255 / .42)", dashes.length ? 0.34 : 0.2);
  context.setLineDash([]);
}

function drawHead(context, path, { colour, dead, seconds, palette }) {
  const [x, y] = path[0];
  const [nextX, nextY] = path.find((place) => Math.hypot(place[0] - x, place[1] - y) > 0.01) ??
    [x - 1, y];
  context.save();
  context.translate(x, y);
  context.rotate(Math.atan2(y - nextY, x - nextX)); // it looks to the right now
  if (!dead && !calm.matches && seconds % 2.1 < 0.35) drawTongue(context);
  oval(context, 0.02, 0, 0.56, 0.5, palette.outline);
  oval(context, 0.02, 0, 0.5, 0.44, colour);
  for (const side of [-1, 1]) {
    if (dead) drawClosedEye(context, side);
    else drawEye(context, side);
  }
  context.restore();
}

function drawEye(context, side) {
  oval(context, 0.17, side * 0.2, 0.16, 0.15, "#fff");
  oval(context, 0.22, side * 0.19, 0.085, 0.09, "#14181f");
}

function drawClosedEye(context, side) {
  const [x, y, r] = [0.17, side * 0.2, 0.1];
  line(context, [[x - r, y - r], [x + r, y + r]], "#14181f", 0.07);
  line(context, [[x + r, y - r], [x - r, y + r]], "#14181f", 0.07);
}

function drawTongue(context) {
  line(context, [[0.4, 0], [0.74, 0], [0.88, -0.1]], "#d8324a", 0.08);
  line(context, [[0.74, 0], [0.88, 0.1]], "#d8324a", 0.08);
}

export function drawBerry(context, { x, y, age }, seconds) {
  const arriving = clamp(age / 0.3, 0, 1);
  const size = arriving + Math.sin(Math.PI * arriving) * 0.3;
  const bob = calm.matches ? 0 : Math.sin(seconds * 3 + x * 1.7 + y) * 0.04;
  context.save();
  context.translate(x, y + bob);
  context.scale(size, size);
  oval(context, 0, 0.36 - bob, 0.28, 0.08, "rgb(0 0 0 / .2)");
  oval(context, 0, 0.04, 0.37, 0.35, "#7d1425");
  oval(context, 0, 0.03, 0.33, 0.31, "#d3283f");
  oval(context, -0.11, -0.07, 0.1, 0.07, "rgb(255 255 255 / .75)", -0.6);
  line(context, [[0, -0.24], [0.05, -0.42]], "#5b3a1e", 0.08);
  oval(context, 0.17, -0.36, 0.15, 0.075, "#4f9a3d", -0.35);
  context.restore();
}

export function drawBurst(context, { x, y, age }) {
  if (calm.matches) return;
  const part = age / BURST;
  for (let i = 0; i < 8; i += 1) {
    const angle = (i / 8) * 2 * Math.PI + 0.3;
    const reach = 0.3 + part * 0.8;
    const radius = 0.12 * (1 - part);
    const at = [x + Math.cos(angle) * reach, y + Math.sin(angle) * reach];
    oval(context, ...at, radius, radius, "#e8465c");
  }
}
