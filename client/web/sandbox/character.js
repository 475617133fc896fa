// A player, seen from above: a bunny with something in its paws. It looks to where it aims.

import { line, oval } from "../shared/paint.js";
import { stamp } from "./art.js";
import { World } from "./world.js";

// Skins as light and coat, for eyes that see few colours too.
export const SKINS = [
  ["#fbf3e4", "#e8d3b0"], ["#ffc987", "#ee9b3c"], ["#a9d8f5", "#56a8dc"], ["#a8e0c4", "#2f9e78"],
  ["#f6c1d9", "#cf78a5"], ["#c9bcf0", "#8a74cf"], ["#f3e58a", "#d5b92b"], ["#c2c7ce", "#7b848f"],
];
const EDGE = "rgb(38 26 20 / .75)";
const R = 35; // the radius that it is drawn for

/** `weapon` and `held` are items, or undefined. */
export function drawCharacter(context, player, { x, y, dir }, { weapon, held, dark, mine }) {
  const [light, coat] = SKINS[player.skin % SKINS.length];
  context.save();
  context.translate(x, y);
  if (mine) drawRing(context);
  oval(context, 2, 5, R, R, `rgb(0 0 0 / ${dark ? 0.35 : 0.18})`);
  const size = player.scale / R;
  context.scale(size, size);
  context.rotate(dir);
  drawEars(context, light, coat);
  drawArms(context, player, { weapon, held, dark, coat });
  drawHead(context, light, coat);
  drawFlush(context, player);
  context.restore();
}

function drawRing(context) {
  context.beginPath();
  context.arc(0, 0, R + 7, 0, 2 * Math.PI);
  context.strokeStyle = "rgb(255 211 77 / .8)";
  context.lineWidth = 3;
  context.setLineDash([9, 7]);
  context.stroke();
  context.setLineDash([]);
}

function drawEars(context, light, coat) {
  for (const side of [-1, 1]) {
    const tilt = side * -0.32;
    outlined(context, -38, side * 17, 22, 9, coat, tilt);
    oval(context, -39, side * 17, 15, 4.5, light, tilt);
  }
}

function drawHead(context, light, coat) {
  outlined(context, 0, 0, R, R, coat);
  oval(context, 7, 0, R - 11, R - 9, light);
  for (const side of [-1, 1]) {
    oval(context, 16, side * 13, 4.6, 5.2, "#231d22");
    oval(context, 17.6, side * 13 - 1.6, 1.6, 1.7, "#fff");
    oval(context, 21, side * 19, 4, 3, "rgb(235 110 120 / .4)");
  }
  oval(context, 27, 0, 3.2, 4.2, "#d9566f");
}

/** A swing takes the paw and what it holds from one side to the other. */
function drawArms(context, player, { weapon, held, dark, coat }) {
  const part = World.part(player, "swing");
  const swing = part === null ? 0 : Math.sin(Math.PI * Math.min(1, part * 1.15)) * 1.5;
  if (held) {
    const size = held.kind === "food" ? 15 : 18;
    stamp(context, held.name, { x: R + 12, y: 0, radius: size }, dark);
    for (const side of [-1, 1]) outlined(context, R - 4, side * 17, 9.5, 9.5, coat);
    return;
  }
  context.save();
  context.rotate(0.75 - swing);
  if (weapon) drawWeapon(context, weapon);
  outlined(context, R + 1, 0, 9.5, 9.5, coat);
  context.restore();
  context.save();
  context.rotate(-0.75 - swing * 0.3);
  outlined(context, R - 1, 0, 9.5, 9.5, coat);
  context.restore();
}

/** As long as it reaches, from the paw on. */
function drawWeapon(context, { name, reach }) {
  const tip = Math.max(reach - 4, R + 24);
  const handle = WEAPONS[name] ?? WEAPONS.hammer;
  context.save();
  context.rotate(-0.35);
  handle(context, tip);
  context.restore();
}

export const WEAPONS = {
  hammer(context, tip) {
    stick(context, tip);
    context.beginPath();
    context.roundRect(tip - 15, -15, 17, 30, 4);
    filled(context, "#98a2aa");
  },
  axe(context, tip) {
    stick(context, tip);
    context.beginPath();
    context.moveTo(tip - 20, 2);
    context.quadraticCurveTo(tip - 24, -16, tip - 14, -25);
    context.quadraticCurveTo(tip, -18, tip + 4, -2);
    context.closePath();
    filled(context, "#b9c2c8");
  },
  sword(context, tip) {
    stick(context, R + 16);
    context.beginPath();
    context.moveTo(R + 14, -5);
    context.lineTo(tip - 10, -5);
    context.lineTo(tip + 2, 0);
    context.lineTo(tip - 10, 5);
    context.lineTo(R + 14, 5);
    context.closePath();
    filled(context, "#dde4e8");
    line(context, [[R + 14, -12], [R + 14, 12]], "#7a5a2e", 6);
  },
  spear(context, tip) {
    stick(context, tip - 14);
    context.beginPath();
    context.moveTo(tip - 20, -8);
    context.lineTo(tip + 2, 0);
    context.lineTo(tip - 20, 8);
    context.closePath();
    filled(context, "#c9d1d6");
  },
};

function stick(context, tip) {
  line(context, [[R - 18, 0], [tip, 0]], EDGE, 10);
  line(context, [[R - 18, 0], [tip, 0]], "#8a5d35", 6.5);
}

function filled(context, fill) {
  context.fillStyle = fill;
  context.fill();
  context.strokeStyle = EDGE;
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.stroke();
}

function drawFlush(context, player) {
  const part = World.part(player, "hurt");
  if (part !== null) oval(context, 0, 0, R, R, `rgb(220 40 50 / ${0.55 * (1 - part)})`);
}

function outlined(context, x, y, radiusX, radiusY, fill, tilt = 0) {
  oval(context, x, y, radiusX, radiusY, fill, tilt);
  context.strokeStyle = EDGE;
  context.lineWidth = 3;
  context.stroke();
}
