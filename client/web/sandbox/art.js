// What stands in the sandbox, drawn once and then stamped: scenery and buildings, seen from
// above. Everything is drawn in a circle of radius 1, which is how large it is for the rules.

import { TURN, line, oval, seededRandom } from "../shared/paint.js";

const REACH = 1.4; // leaves and points stand out a little from the circle
const PIXELS = 224; // of a stamp
const VARIANTS = 3;
const MOONLIGHT = "rgb(14 22 62 / .4)";

export const RESOURCE_COLOURS = {
  wood: "#a9703c", food: "#d8435a", stone: "#8f9aa3", gold: "#e3b32c",
};

const stamps = new Map();

/** Stamp a thing, `art` being a name of `PAINTERS`, at (x, y) with its radius and its turn. */
export function stamp(context, art, { sid = 0, x, y, radius, turn = 0 }, dark) {
  const picture = stampOf(art, sid % VARIANTS, dark);
  const half = radius * REACH;
  context.save();
  context.translate(x, y);
  context.rotate(turn);
  context.drawImage(picture, -half, -half, 2 * half, 2 * half);
  context.restore();
}

/** The art of something that stands: scenery by its resource, a building by its item. */
export function artOf(object, world) {
  if (object.resource !== null) return SCENERY[world.resources[object.resource]] ?? "rock";
  const name = world.items[object.type]?.name;
  return Object.hasOwn(PAINTERS, name) ? name : "wall";
}

const SCENERY = { wood: "tree", food: "bush", stone: "rock", gold: "gold" };

function stampOf(art, variant, dark) {
  const key = `${art} ${variant} ${dark}`;
  if (!stamps.has(key)) stamps.set(key, paint(art, variant, dark));
  return stamps.get(key);
}

function paint(art, variant, dark) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = PIXELS;
  const context = canvas.getContext("2d");
  const unit = PIXELS / 2 / REACH;
  context.setTransform(unit, 0, 0, unit, PIXELS / 2, PIXELS / 2);
  PAINTERS[art](context, seededRandom(variant * 31 + 5));
  if (!dark) return canvas;
  context.globalCompositeOperation = "source-atop"; // only where something has been painted
  context.fillStyle = MOONLIGHT;
  context.fillRect(-REACH, -REACH, 2 * REACH, 2 * REACH);
  return canvas;
}

const PAINTERS = {
  tree(context, random) {
    const edge = "#234f2c";
    blob(context, { radius: 1.06, lobes: 11, depth: 0.09, random, fill: "#2f6b3a", edge });
    blob(context, { radius: 0.82, lobes: 9, depth: 0.1, random, fill: "#3f8a48" });
    blob(context, { radius: 0.52, lobes: 7, depth: 0.12, random, fill: "#56a657" });
    for (let i = 0; i < 7; i += 1) {
      const [x, y] = polar(random() * TURN, 0.25 + random() * 0.65);
      oval(context, x, y, 0.1, 0.06, "rgb(255 255 255 / .14)", random() * 3);
    }
  },

  bush(context, random) {
    blob(context, { radius: 1, lobes: 8, depth: 0.12, random, fill: "#4c9a3f", edge: "#35702d" });
    blob(context, { radius: 0.7, lobes: 7, depth: 0.12, random, fill: "#67b552" });
    for (let i = 0; i < 8; i += 1) {
      const [x, y] = polar((i / 8) * TURN + random() * 0.5, 0.35 + random() * 0.4);
      oval(context, x, y, 0.14, 0.14, "#8e1f37");
      oval(context, x, y, 0.11, 0.11, "#d8435a");
      oval(context, x - 0.03, y - 0.04, 0.03, 0.03, "#fff");
    }
  },

  rock(context, random) {
    facets(context, random, ["#6f7a84", "#8f9aa3", "#aab4bb", "#c3cbd0"], "#59626b");
  },

  gold(context, random) {
    facets(context, random, ["#b98516", "#dca628", "#f0c548", "#ffe182"], "#8a610c");
    for (const [x, y] of [[-0.42, -0.1], [0.2, 0.38], [0.34, -0.36]]) sparkle(context, x, y, 0.14);
  },

  wall(context) {
    oval(context, 0, 0, 1, 1, "#5a3a1e");
    for (let i = 0; i < 10; i += 1) logEnd(context, ...polar((i / 10) * TURN, 0.75), 0.235);
    for (let i = 0; i < 4; i += 1) logEnd(context, ...polar((i / 4) * TURN + 0.4, 0.31), 0.235);
  },

  spike(context) {
    for (let i = 0; i < 8; i += 1) thorn(context, (i / 8) * TURN);
    oval(context, 0, 0, 0.62, 0.62, "#4d331c");
    oval(context, 0, 0, 0.54, 0.54, "#7d5530");
    oval(context, 0, 0, 0.2, 0.2, "#9a6f45");
  },

  windmill(context) {
    oval(context, 0, 0, 1, 1, "#6b4a2c");
    oval(context, 0, 0, 0.9, 0.9, "#b58a5b");
    for (let i = 0; i < 8; i += 1) {
      line(context, [[0, 0], polar((i / 8) * TURN, 0.86)], "rgb(80 50 20 / .3)", 0.05);
    }
    oval(context, 0, 0, 0.42, 0.42, "#8a633b");
  },

  sails(context) {
    for (let i = 0; i < 4; i += 1) {
      context.save();
      context.rotate((i / 4) * TURN);
      context.fillStyle = "#f4efe2";
      context.strokeStyle = "#7c6a4f";
      context.lineWidth = 0.06;
      context.beginPath();
      context.roundRect(0.16, -0.04, 0.98, 0.34, 0.08);
      context.fill();
      context.stroke();
      line(context, [[0, 0], [1.14, 0]], "#5e432a", 0.1);
      context.restore();
    }
    oval(context, 0, 0, 0.16, 0.16, "#5e432a");
  },

  apple(context) {
    oval(context, 0, 0.1, 0.8, 0.76, "#8e1f2f");
    oval(context, 0, 0.08, 0.72, 0.68, "#dd3a4e");
    oval(context, -0.26, -0.16, 0.2, 0.13, "rgb(255 255 255 / .7)", -0.6);
    line(context, [[0, -0.5], [0.1, -0.9]], "#5b3a1e", 0.15);
    oval(context, 0.38, -0.76, 0.32, 0.15, "#57a345", -0.35);
  },

  wood(context) {
    for (const y of [-0.42, 0.42]) log(context, 0, y);
    log(context, 0.05, 0);
  },
};

// ---- Brushes --------------------------------------------------------------

function polar(angle, radius) {
  return [Math.cos(angle) * radius, Math.sin(angle) * radius];
}

/** A round thing with bulges, such as leaves make. */
function blob(context, { radius, lobes, depth, random, fill, edge }) {
  const start = random() * TURN;
  context.beginPath();
  for (let i = 0; i < lobes; i += 1) {
    const [from, to] = [i, i + 1].map((n) => start + (n / lobes) * TURN);
    const bulge = radius * (1 + depth + random() * depth);
    if (i === 0) context.moveTo(...polar(from, radius * (1 - depth)));
    const control = polar((from + to) / 2, bulge * 1.12);
    context.quadraticCurveTo(...control, ...polar(to, radius * (1 - depth)));
  }
  context.closePath();
  context.fillStyle = fill;
  context.fill();
  if (!edge) return;
  context.strokeStyle = edge;
  context.lineWidth = 0.07;
  context.stroke();
}

/** A stone: the same polygon in ever smaller sizes, each lighter and nearer to the light. */
function facets(context, random, tones, edge) {
  const corners = Array.from({ length: 9 }, (_, i) =>
    polar(((i + random() * 0.5) / 9) * TURN, 0.94 + random() * 0.14));
  tones.forEach((tone, i) => {
    const size = 1 - i * 0.24;
    context.beginPath();
    for (const [x, y] of corners) context.lineTo(x * size - i * 0.05, y * size - i * 0.06);
    context.closePath();
    context.fillStyle = tone;
    context.fill();
    if (i > 0) return;
    context.strokeStyle = edge;
    context.lineWidth = 0.09;
    context.lineJoin = "round";
    context.stroke();
  });
}

function sparkle(context, x, y, size) {
  line(context, [[x - size, y], [x + size, y]], "#fffbe0", 0.05);
  line(context, [[x, y - size], [x, y + size]], "#fffbe0", 0.05);
}

function logEnd(context, x, y, radius) {
  oval(context, x, y, radius, radius, "#6e4726");
  oval(context, x, y, radius * 0.82, radius * 0.82, "#b98550");
  oval(context, x, y, radius * 0.5, radius * 0.5, "#9c6b3b");
  oval(context, x, y, radius * 0.26, radius * 0.26, "#b98550");
}

function thorn(context, angle) {
  context.beginPath();
  context.moveTo(...polar(angle - 0.3, 0.55));
  context.lineTo(...polar(angle, 1.16));
  context.lineTo(...polar(angle + 0.3, 0.55));
  context.fillStyle = "#c7ced3";
  context.fill();
  context.strokeStyle = "#5b646b";
  context.lineWidth = 0.06;
  context.lineJoin = "round";
  context.stroke();
}

function log(context, x, y) {
  line(context, [[x - 0.75, y], [x + 0.6, y]], "#6e4726", 0.42);
  line(context, [[x - 0.75, y], [x + 0.6, y]], "#a9703c", 0.32);
  oval(context, x + 0.64, y, 0.15, 0.2, "#dcb283");
}
