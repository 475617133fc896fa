// The sandbox as a camera above the player sees it: ground, scenery, buildings, everybody, and
// over their heads what they are called, how they are and what they say.

import { calm, clamp, line, night, oval } from "../shared/paint.js";
import { label, labelLines, labelWidth } from "../shared/paint.js";
import { artOf, stamp } from "./art.js";
import { drawCharacter } from "./character.js";
import { World } from "./world.js";

const SEEN_AREA = 1.15e6; // square units that a page shows, whatever its shape
const TILE = 200; // units; the ground repeats nothing, but is made up tile by tile
const BEACH = 70;

const DAY = {
  sea: "#7cc4dd", foam: "#a9dcec", beach: "#ecdcaa", grass: "#a9cf7c",
  grid: "rgb(60 100 40 / .13)", tuft: "#8dba62", petals: ["#fff", "#ffe27a", "#f5b3c8"],
  ink: "#fff", shade: "rgb(20 35 15 / .75)", paper: "rgb(255 255 255 / .92)", words: "#26301f",
};
const NIGHT = {
  sea: "#14304f", foam: "#1d4166", beach: "#5d5a55", grass: "#264a44", grid: "rgb(0 0 0 / .2)",
  tuft: "#1f3f3a", petals: ["#8f97b8", "#8d8256", "#86657a"],
  ink: "#f2f5fd", shade: "rgb(5 8 20 / .8)", paper: "rgb(238 241 250 / .93)", words: "#1b2438",
};
const FLOATS = {
  hurt: "#ff6b66", healed: "#6fe287",
  wood: "#ffb877", food: "#ff9fae", stone: "#e4eaee", gold: "#ffe070",
};

export class View {
  plan = null; // what the player is about to build: see World.planned
  aim = 0; // where the player looks; known here before the server knows

  #canvas;
  #context;
  #world;
  #zoom = 1; // CSS pixels per unit
  #ratio = 1;
  #eye = null; // what the camera looks at
  #middle = 0.5; // how far down the page that is; `--middle` of the canvas says it

  constructor(canvas, world) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#world = world;
  }

  /** Where on the page, in CSS pixels from the canvas's corner, a place in the world is. */
  toPage({ x, y }) {
    const { width, height, left, top } = this.#edges();
    return {
      x: ((x - left) / width) * this.#canvas.clientWidth,
      y: ((y - top) / height) * this.#canvas.clientHeight,
    };
  }

  /** Look at the player at once: this is another life. */
  jump() {
    this.#eye = null;
  }

  draw(seconds, time) {
    this.#layOut();
    this.#follow(seconds);
    const dark = night.matches;
    const palette = dark ? NIGHT : DAY;
    const context = this.#context;
    const { left, top } = this.#edges();
    const scale = this.#zoom * this.#ratio;
    context.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
    this.#drawGround(context, palette);
    const isMine = ({ player }) => player.sid === this.#world.me;
    const players = this.#world.inView().sort((a, b) => isMine(a) - isMine(b)); // mine on top
    this.#drawObjects(context, time, dark, (art) => art !== "tree");
    if (this.plan) drawPlan(context, this.plan, dark);
    for (const { player, at } of players) this.#drawPlayer(context, player, at, dark);
    this.#drawObjects(context, time, dark, (art) => art === "tree");
    for (const { player, at } of players) this.#drawTag(context, player, at, palette);
    this.#drawFloats(context, palette);
  }

  #layOut() {
    const width = Math.max(1, this.#canvas.clientWidth);
    const height = Math.max(1, this.#canvas.clientHeight);
    this.#ratio = window.devicePixelRatio;
    this.#middle = parseFloat(getComputedStyle(this.#canvas).getPropertyValue("--middle")) || 0.5;
    // Nothing beyond the view that the server sends may come into sight.
    const least = Math.max(width, height) / (1.84 * this.#world.view);
    this.#zoom = clamp(Math.sqrt((width * height) / SEEN_AREA), Math.max(0.5, least), 2);
    const [w, h] = [Math.round(width * this.#ratio), Math.round(height * this.#ratio)];
    if (this.#canvas.width !== w) this.#canvas.width = w;
    if (this.#canvas.height !== h) this.#canvas.height = h;
  }

  #follow(seconds) {
    const { x, y } = this.#world.last;
    this.#eye ??= { x, y };
    const part = calm.matches ? 1 : 1 - Math.exp(-seconds * 14);
    this.#eye.x += (x - this.#eye.x) * part;
    this.#eye.y += (y - this.#eye.y) * part;
  }

  #edges() {
    const width = this.#canvas.clientWidth / this.#zoom;
    const height = this.#canvas.clientHeight / this.#zoom;
    const { x, y } = this.#eye ?? this.#world.last;
    return { left: x - width / 2, top: y - height * this.#middle, width, height };
  }

  // ---- Ground -------------------------------------------------------------

  #drawGround(context, palette) {
    const { left, top, width, height } = this.#edges();
    const { size } = this.#world;
    context.fillStyle = palette.sea;
    context.fillRect(left, top, width, height);
    const square = (margin, radius, fill) => {
      context.beginPath();
      context.roundRect(-margin, -margin, size + 2 * margin, size + 2 * margin, radius);
      context.fillStyle = fill;
      context.fill();
    };
    square(BEACH + 34, 120, palette.foam);
    square(BEACH, 90, palette.beach);
    square(0, 30, palette.grass);
    this.#drawGrid(context, palette);
    const range = (from, length) => {
      const first = Math.max(0, Math.floor(from / TILE));
      const last = Math.min(Math.ceil(size / TILE) - 1, Math.floor((from + length) / TILE));
      return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
    };
    for (const row of range(top, height)) {
      for (const column of range(left, width)) drawTile(context, column, row, palette);
    }
  }

  #drawGrid(context, palette) {
    const { left, top, width, height } = this.#edges();
    const { size } = this.#world;
    const [right, bottom] = [Math.min(size, left + width), Math.min(size, top + height)];
    context.beginPath();
    for (let x = Math.max(0, Math.ceil(left / 100) * 100); x <= right; x += 100) {
      context.moveTo(x, Math.max(0, top));
      context.lineTo(x, bottom);
    }
    for (let y = Math.max(0, Math.ceil(top / 100) * 100); y <= bottom; y += 100) {
      context.moveTo(Math.max(0, left), y);
      context.lineTo(right, y);
    }
    context.strokeStyle = palette.grid;
    context.lineWidth = 2;
    context.stroke();
  }

  // ---- Things and players -------------------------------------------------

  #drawObjects(context, time, dark, wanted) {
    const { left, top, width, height } = this.#edges();
    for (const object of this.#world.objects.values()) {
      const [x, y, far] = [object.x - left, object.y - top, object.scale * 1.5];
      if (x < -far || y < -far || x > width + far || y > height + far) continue;
      const art = artOf(object, this.#world);
      if (wanted(art)) this.#drawObject(context, object, art, { time, dark });
    }
  }

  #drawObject(context, object, art, { time, dark }) {
    const { sid, dir, owner } = object;
    const [x, y] = shaken(object);
    const radius = object.scale * (calm.matches ? 1 : Math.min(1, 0.6 + object.age * 3));
    oval(context, x + 4, y + 7, radius, radius, `rgb(0 0 0 / ${dark ? 0.3 : 0.14})`);
    if (owner && owner !== this.#world.me) {
      oval(context, x, y, radius + 5, radius + 5, "rgb(200 45 50 / .55)"); // somebody else's
    }
    stamp(context, art, { sid, x, y, radius, turn: dir }, dark);
    if (art === "windmill") {
      const turn = calm.matches ? dir : dir + time * 1.6;
      stamp(context, "sails", { x, y, radius: radius * 1.05, turn }, dark);
    }
  }

  #drawPlayer(context, player, at, dark) {
    const mine = player.sid === this.#world.me;
    const { items } = this.#world;
    drawCharacter(context, player, mine ? { ...at, dir: this.aim } : at, {
      weapon: items[player.weapon], held: items[player.build], dark, mine,
    });
  }

  /** The name, the health and the words of a player. */
  #drawTag(context, player, { x, y }, palette) {
    const mine = player.sid === this.#world.me;
    const unit = 1 / this.#zoom;
    const { scale, name, health, maxHealth } = player;
    const called = this.#inSight(x, labelWidth(context, name, 15 * unit));
    outlinedText(context, name, called, y - scale - 20 * unit, { size: 15 * unit, palette });
    const [width, high] = [Math.max(70, 46 * unit), Math.max(9, 6 * unit)];
    const top = y + scale + 12;
    bar(context, x, top, { width: width + 5, height: high + 5, fill: palette.shade });
    const full = clamp(health / maxHealth, 0, 1);
    bar(context, x, top + 2.5, { width, height: high, fill: mine ? "#59c86b" : "#e2574c", full });
    const said = World.part(player, "speech");
    if (said === null) return;
    context.globalAlpha = clamp((1 - said) * 6, 0, 1);
    const style = { size: 15 * unit, ink: palette.words, paper: palette.paper };
    const widest = this.#edges().width - 2 * style.size;
    const lines = labelLines(context, player.words, style.size, widest);
    let below = lines.length;
    for (const part of lines) {
      below -= 1;
      const at = this.#inSight(x, labelWidth(context, part, style.size));
      label(context, part, at, y - scale - 48 * unit - 1.6 * below * style.size, style);
    }
    context.globalAlpha = 1;
  }

  /** Where the middle of something is that is to be seen whole, though what it belongs to, at x,
      is at the edge of the view; what belongs to somebody out of sight is, too. */
  #inSight(x, width) {
    const { left, width: seen } = this.#edges();
    const within = clamp(x, left + width / 2, left + seen - width / 2);
    return Math.abs(x - within) > width / 2 ? x : within;
  }

  #drawFloats(context, palette) {
    const size = 19 / this.#zoom;
    for (const { x, y, text, kind, age } of this.#world.floats) {
      context.globalAlpha = clamp((1.1 - age) * 3, 0, 1);
      outlinedText(context, text, x, y - age * 55, { size, palette, fill: FLOATS[kind] });
    }
    context.globalAlpha = 1;
  }
}

/** What was hit shakes, along the blow. */
function shaken({ x, y, shake }) {
  if (!shake || calm.matches) return [x, y];
  const push = Math.sin(shake.age * 32) * 9 * Math.exp(-shake.age * 9);
  return [x + Math.cos(shake.dir) * push, y + Math.sin(shake.dir) * push];
}

/** Grass and flowers: the same in every visit, and different in every tile. */
function drawTile(context, column, row, palette) {
  let seed = (column * 7919 + row * 104729 + 17) >>> 0;
  const random = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
  for (let i = 0; i < 3; i += 1) {
    const x = (column + 0.1 + random() * 0.8) * TILE;
    const y = (row + 0.1 + random() * 0.8) * TILE;
    for (const lean of [-1, 0, 1]) {
      const tip = [x + lean * 9, y - 18 + Math.abs(lean) * 5];
      line(context, [[x + lean * 3, y], tip], palette.tuft, 4);
    }
    const petal = palette.petals[Math.floor(random() * 8)]; // most have no flower
    if (petal) oval(context, x, y - 20, 5, 5, petal);
  }
}

function drawPlan(context, { x, y, item, dir, free }, dark) {
  const verdict = free ? "rgb(90 220 110 / .35)" : "rgb(225 60 60 / .45)";
  oval(context, x, y, item.scale, item.scale, verdict);
  context.globalAlpha = 0.6;
  stamp(context, item.name, { x, y, radius: item.scale, turn: dir }, dark);
  context.globalAlpha = 1;
}

function bar(context, x, top, { width, height, fill, full = 1 }) {
  if (full <= 0) return;
  context.beginPath();
  context.roundRect(x - width / 2, top, Math.max(height, width * full), height, height / 2);
  context.fillStyle = fill;
  context.fill();
}

function outlinedText(context, text, x, y, { size, palette, fill = palette.ink }) {
  context.font = `700 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = size * 0.3;
  context.strokeStyle = palette.shade;
  context.strokeText(text, x, y);
  context.fillStyle = fill;
  context.fillText(text, x, y);
}
