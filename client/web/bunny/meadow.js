// The meadow: sky, hills, a fence around the world, flowers, trees. By day and by night.
// Everything is drawn in the units of the world, from (0, 0) to (width, height).

import { calm, glow, line, oval, seededRandom, verticalGradient } from "../shared/paint.js";

export const MARGIN = { top: 150, right: 40, bottom: 62, left: 40 };

const HORIZON = -58; // where the hills stand

const DAY = {
  sky: ["#8fd0f2", "#c7eafa", "#f6f7e6"],
  hills: ["#a9d2a0", "#8cc382", "#74b26b"],
  grass: ["#8fcd6a", "#74ba55", "#5ea547"],
  spots: ["60 80% 75%", "125 45% 30%"],
  tuft: "#4f9440",
  wood: ["#d9b68a", "#b98f62"],
  trunk: "#9a6f4a",
  leaves: ["#4f9a4d", "#62b058", "#7cc469"],
  petals: ["#fff", "#ffe27a", "#ffb3c7", "#c9b6ff", "#ff9a76"],
  stone: ["#b9beb9", "#d5d9d3"],
  cap: "#e2574c",
  cloud: "rgb(255 255 255 / .85)",
};

const NIGHT = {
  sky: ["#0c1430", "#1c2a55", "#3a4a78"],
  hills: ["#27406a", "#20365a", "#1b3150"],
  grass: ["#265150", "#1f4644", "#183938"],
  spots: ["190 40% 50%", "200 60% 8%"],
  tuft: "#173735",
  wood: ["#6f6a78", "#4d4a5c"],
  trunk: "#4a4150",
  leaves: ["#1d4548", "#255353", "#2f625d"],
  petals: ["#b9c2e8", "#c9b878", "#b98aa8", "#8f86c8", "#b5806f"],
  stone: ["#4f5b70", "#66738a"],
  cap: "#93435a",
  cloud: "rgb(150 170 220 / .16)",
};

export function colours(dark) {
  return dark ? NIGHT : DAY;
}

/** Paint all that never moves; `stage.visible` says how far. */
export function paintMeadow(context, stage, dark) {
  const palette = colours(dark);
  paintSky(context, stage.visible, palette, dark);
  paintHills(context, stage.visible, palette);
  paintGrass(context, stage, palette);
  paintFence(context, stage.world, palette);
  paintPlants(context, stage, palette);
}

function paintSky(context, visible, palette, dark) {
  const { left, top, right } = visible;
  context.fillStyle = verticalGradient(context, Math.min(top, -150), HORIZON, ...palette.sky);
  context.fillRect(left, top, right - left, HORIZON + 60 - top);
  if (dark) paintStars(context, visible);
  paintLamp(context, dark);
}

/** Sun or moon. */
function paintLamp(context, dark) {
  const [x, y] = [1010, -112];
  if (dark) {
    glow(context, x, y, 130, "220 80% 85%", 0.4);
    oval(context, x, y, 25, 25, "#f3efd9");
    oval(context, x - 9, y - 5, 6, 6, "#ded9c2");
    oval(context, x + 7, y + 8, 4, 4, "#ded9c2");
    oval(context, x + 8, y - 10, 3, 3, "#ded9c2");
  } else {
    glow(context, x, y, 170, "48 100% 75%", 0.9);
    oval(context, x, y, 27, 27, "#fff3b8");
  }
}

function paintStars(context, { left, top, right }) {
  const random = seededRandom(11);
  const count = Math.round(((right - left) * (HORIZON - top)) / 2600);
  for (let i = 0; i < count; i += 1) {
    const x = left + random() * (right - left);
    const y = top + random() * (HORIZON - 20 - top);
    const radius = 0.7 + random() * 1.3;
    oval(context, x, y, radius, radius, `rgb(255 255 240 / ${0.35 + random() * 0.6})`);
  }
}

function paintHills(context, { left, right }, palette) {
  palette.hills.forEach((colour, i) => {
    const base = HORIZON - 42 + i * 22;
    context.beginPath();
    context.moveTo(left, HORIZON + 80);
    for (let x = left; x <= right + 20; x += 20) {
      const slow = Math.sin(x / (250 - i * 40) + i * 2.1);
      const quick = Math.sin(x / (97 - i * 13) + i * 5);
      context.lineTo(x, base - slow * (20 - i * 4) - quick * 6);
    }
    context.lineTo(right + 20, HORIZON + 80);
    context.fillStyle = colour;
    context.fill();
  });
}

function paintGrass(context, { visible, world }, palette) {
  const { left, right, bottom } = visible;
  context.fillStyle = verticalGradient(context, HORIZON, world.height, ...palette.grass);
  context.beginPath();
  context.moveTo(left, bottom);
  for (let x = left; x <= right + 20; x += 20) {
    context.lineTo(x, HORIZON + 18 + Math.sin(x / 170) * 5);
  }
  context.lineTo(right + 20, bottom);
  context.fill();
  paintSpots(context, visible, palette);
}

/** Soft light and dark spots, so that the grass is no billiard table. */
function paintSpots(context, { left, right, bottom }, palette) {
  const random = seededRandom(5);
  for (let i = 0; i < 90; i += 1) {
    const x = -1200 + random() * 3600;
    const y = 40 + random() * 1600;
    const size = 90 + random() * 130;
    if (x < left - 2 * size || x > right + 2 * size || y > bottom + size) continue;
    context.save();
    context.translate(x, y);
    context.scale(1.9, 0.62);
    glow(context, 0, 0, size, palette.spots[i % 2], 0.22);
    context.restore();
  }
}

/** The fence says where the world ends. */
function paintFence(context, { width, height }, palette) {
  const [left, right, back, front] = [-28, width + 28, -22, height + 42];
  paintRails(context, left, right, back, palette);
  for (const x of [left, right]) {
    for (const rise of [0, 3]) {
      line(context, [[x + rise, back - 22], [x + rise, front - 22]], palette.wood[1 - rise / 3], 4);
    }
    for (let y = back; y < front; y += (front - back) / 11) paintPost(context, x, y, palette);
  }
  paintRails(context, left, right, front, palette);
}

function paintRails(context, left, right, y, palette) {
  for (const rise of [12, 25]) {
    line(context, [[left, y - rise], [right, y - rise]], palette.wood[1], 5);
    line(context, [[left, y - rise - 1], [right, y - rise - 1]], palette.wood[0], 2.5);
  }
  const step = (right - left) / 18;
  for (let x = left; x <= right + 1; x += step) paintPost(context, x, y, palette);
}

function paintPost(context, x, y, palette) {
  oval(context, x + 3, y, 8, 3, "rgb(0 10 20 / .2)");
  context.fillStyle = palette.wood[1];
  context.beginPath();
  context.roundRect(x - 5, y - 37, 10, 38, [5, 5, 2, 2]);
  context.fill();
  context.fillStyle = palette.wood[0];
  context.beginPath();
  context.roundRect(x - 5, y - 37, 6, 37, [5, 2, 2, 2]);
  context.fill();
}

/** Tufts and flowers, inside the fence and as far as one can see. */
function paintPlants(context, { visible, world }, palette) {
  const random = seededRandom(23);
  const { left, right, bottom } = visible;
  // A fixed frame to scatter in: another window size moves no flower.
  const frame = { left: -2400, right: world.width + 2400, top: -20, bottom: world.height + 1600 };
  for (let i = 0; i < 2600; i += 1) {
    const x = frame.left + random() * (frame.right - frame.left);
    const y = frame.top + random() ** 1.2 * (frame.bottom - frame.top);
    const kind = random();
    const colour = palette.petals[Math.floor(random() * palette.petals.length)];
    if (x < left - 20 || x > right + 20 || y > bottom + 20) continue;
    if (kind < 0.62) paintTuft(context, x, y, palette);
    else paintFlower(context, x, y, colour, palette);
  }
}

function paintTuft(context, x, y, palette) {
  line(context, [[x - 6, y - 8], [x - 2, y], [x, y - 12]], palette.tuft, 2);
  line(context, [[x, y - 12], [x + 2, y], [x + 7, y - 9]], palette.tuft, 2);
}

function paintFlower(context, x, y, colour, palette) {
  line(context, [[x, y], [x, y - 9]], palette.tuft, 2);
  for (let i = 0; i < 5; i += 1) {
    const angle = (i / 5) * 2 * Math.PI + x;
    oval(context, x + Math.cos(angle) * 3.6, y - 11 + Math.sin(angle) * 3.2, 2.9, 2.6, colour);
  }
  oval(context, x, y - 11, 2.2, 2, colour === "#ffe27a" ? "#e08a2e" : "#f3b532");
}

// ---- What stands upright --------------------------------------------------
// Bunnies pass behind and in front of these, so they are drawn with them, sorted by y.

const STANDING = [
  { draw: drawTree, x: 0.85, y: 0.24, size: 1.15 },
  { draw: drawTree, x: 0.11, y: 0.14, size: 0.85 },
  { draw: drawBush, x: 0.93, y: 0.3, size: 1 },
  { draw: drawBush, x: 0.05, y: 0.72, size: 1.2 },
  { draw: drawMushroom, x: 0.18, y: 0.2, size: 1 },
  { draw: drawMushroom, x: 0.2, y: 0.225, size: 0.65 },
  { draw: drawMushroom, x: 0.9, y: 0.83, size: 1.1 },
  { draw: drawStone, x: 0.61, y: 0.09, size: 1 },
  { draw: drawStone, x: 0.34, y: 0.93, size: 1.3 },
];

export function standingThings({ width, height }, dark) {
  const palette = colours(dark);
  return STANDING.map(({ draw, x, y, size }) => ({
    y: y * height,
    draw(context) {
      context.save();
      context.translate(x * width, y * height);
      context.scale(size, size);
      draw(context, palette);
      context.restore();
    },
  }));
}

function drawTree(context, palette) {
  oval(context, 8, 0, 62, 15, "rgb(0 10 20 / .2)");
  context.beginPath();
  context.moveTo(-15, 2);
  context.quadraticCurveTo(-7, -40, -9, -80);
  context.lineTo(10, -80);
  context.quadraticCurveTo(7, -40, 17, 2);
  context.fillStyle = palette.trunk;
  context.fill();
  const [shade, leaf, light] = palette.leaves;
  for (const [x, y, r] of [[-36, -88, 34], [36, -86, 36], [0, -74, 34]]) {
    oval(context, x, y, r, r * 0.88, shade);
  }
  for (const [x, y, r] of [[-28, -112, 36], [29, -112, 36], [0, -134, 38], [0, -100, 36]]) {
    oval(context, x, y, r, r * 0.9, leaf);
  }
  for (const [x, y, r] of [[-20, -130, 18], [16, -146, 20], [34, -122, 14]]) {
    oval(context, x, y, r, r * 0.75, light, -0.3);
  }
  for (const [x, y] of [[-34, -98], [8, -112], [38, -96], [-8, -142], [24, -134]]) {
    oval(context, x, y, 5, 5, palette.cap);
  }
}

function drawBush(context, palette) {
  oval(context, 3, 0, 46, 11, "rgb(0 10 20 / .2)");
  const [shade, leaf, light] = palette.leaves;
  oval(context, -24, -15, 22, 18, shade);
  oval(context, 25, -15, 21, 17, shade);
  oval(context, 0, -21, 29, 24, leaf);
  oval(context, -7, -31, 14, 9, light, -0.3);
  for (const [x, y] of [[-20, -16], [-4, -14], [13, -24], [25, -14], [2, -36]]) {
    oval(context, x, y, 3.2, 3.2, palette.petals[2]);
  }
}

function drawMushroom(context, palette) {
  oval(context, 2, 0, 17, 5, "rgb(0 10 20 / .2)");
  oval(context, 0, -9, 7, 11, palette.stone[1]);
  context.beginPath();
  context.ellipse(0, -17, 20, 17, 0, Math.PI, 0);
  context.quadraticCurveTo(0, -10, -20, -17);
  context.fillStyle = palette.cap;
  context.fill();
  for (const [x, y, r] of [[-9, -22, 3.2], [2, -28, 3.6], [10, -20, 2.6]]) {
    oval(context, x, y, r, r * 0.8, "rgb(255 255 255 / .8)");
  }
}

function drawStone(context, palette) {
  oval(context, 3, 0, 32, 8, "rgb(0 10 20 / .2)");
  oval(context, 0, -9, 28, 15, palette.stone[0]);
  oval(context, -6, -14, 17, 8, palette.stone[1], -0.15);
  oval(context, 25, -3, 10, 6, palette.stone[0]);
}

// ---- What drifts and flutters ---------------------------------------------

const CLOUDS = [
  { x: 90, y: -124, size: 1, speed: 5 },
  { x: 560, y: -108, size: 0.75, speed: 7 },
  { x: 860, y: -138, size: 0.6, speed: 4 },
];

export function drawClouds(context, visible, time, dark) {
  const palette = colours(dark);
  const width = visible.right - visible.left + 320;
  for (const { x, y, size, speed } of CLOUDS) {
    const drift = calm.matches ? 0 : time * speed;
    const at = ((x - visible.left + drift) % width) + visible.left - 100;
    for (const [dx, dy, r] of [[0, 0, 24], [26, 4, 18], [-26, 5, 17], [8, -9, 18]]) {
      oval(context, at + dx * size, y + dy * size, r * 1.3 * size, r * 0.6 * size, palette.cloud);
    }
  }
}

/** Butterflies by day, fireflies by night. */
export function drawInsects(context, world, time, dark) {
  if (calm.matches) return;
  const count = dark ? 16 : 5;
  for (let i = 0; i < count; i += 1) {
    const across = 0.46 * Math.sin(time * 0.11 + i * 2.4) * Math.cos(i + time * 0.05);
    const x = (0.5 + across) * world.width;
    const y = (0.5 + 0.44 * Math.cos(time * 0.13 + i * 1.7)) * world.height;
    if (dark) drawFirefly(context, x, y, time + i * 1.3);
    else drawButterfly(context, x, y, time * 9 + i, [330, 45, 265, 20, 200][i]);
  }
}

function drawFirefly(context, x, y, time) {
  const strength = Math.max(0, Math.sin(time * 1.8)) * 0.8;
  glow(context, x, y - 30, 26, "62 95% 68%", strength * 0.55);
  oval(context, x, y - 30, 2.4, 2.4, `hsl(62 100% 80% / ${strength})`);
}

function drawButterfly(context, x, y, time, hue) {
  const open = 0.25 + 0.75 * Math.abs(Math.sin(time));
  const height = 46 + Math.sin(time / 3) * 9;
  oval(context, x, y, 6, 2, "rgb(0 10 20 / .14)");
  for (const side of [-1, 1]) {
    const wing = `hsl(${hue} 85% 70%)`;
    oval(context, x + side * 5.5 * open, y - height - 3, 6 * open, 7, wing, side * 0.4);
    oval(context, x + side * 4.5 * open, y - height + 5, 4.5 * open, 5, wing, -side * 0.4);
  }
  line(context, [[x, y - height - 6], [x, y - height + 7]], "#4a3b4a", 2);
}

// ---- The carrot -----------------------------------------------------------

/** What you clicked on: your bunny hops to it, and then it is eaten. */
export function drawCarrot(context, { x, y }, { size, eaten, time }) {
  const bob = calm.matches ? 0 : Math.sin(time * 5) * 2;
  context.save();
  context.translate(x, y);
  context.scale(size * (1 - eaten), size * (1 - eaten));
  oval(context, 0, 0, 12, 4, "rgb(0 10 20 / .25)");
  context.translate(0, bob);
  for (const tilt of [-0.5, 0, 0.5]) {
    oval(context, tilt * 12, -34, 3.4, 10, "#58a849", tilt);
  }
  context.beginPath();
  context.moveTo(0, 0);
  context.quadraticCurveTo(-11, -16, -9, -25);
  context.quadraticCurveTo(0, -31, 9, -25);
  context.quadraticCurveTo(11, -16, 0, 0);
  context.fillStyle = "#f58a34";
  context.fill();
  line(context, [[-6, -20], [0, -19]], "#d36d1d", 1.6);
  line(context, [[6, -14], [1, -13]], "#d36d1d", 1.6);
  context.restore();
}
