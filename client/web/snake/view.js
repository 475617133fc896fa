// The garden and its snakes, drawn. It shows the world as it was about one tick ago, in motion.

import { calm, clamp, label, labelWidth, night, oval } from "../shared/paint.js";
import { ShownTime } from "../shared/shown.js";
import { BURST, colourOf, drawBerry, drawBurst, drawSnake } from "./creatures.js";
import { DAY, HEDGE, NIGHT, paintGarden } from "./garden.js";
import { Trail } from "./trail.js";

const SMALLEST_CELL = 15; // CSS pixels; where the world does not fit, the view follows your head
const ROOMY_CELL = 18; // the same, where there is height to spare
const LARGEST_CELL = 34;
const FADING = 0.7; // seconds that a dead snake is still to be seen

const MINE = { ink: "#3a2500", paper: "rgb(255 211 77 / .88)" };
const MAP = { least: 120, most: 360, edge: 8 }; // CSS pixels

export class View {
  me = null;
  camera = { x: 0, y: 0 }; // the middle of what is seen, in cells

  #canvas;
  #context;
  #world;
  #lawn = document.createElement("canvas");
  #time = new ShownTime();
  #trails = new Map(); // id → Trail
  #ghosts = []; // {id, path, age}
  #food = new Map(); // "x,y" → {x, y, age, goneAt}
  #bursts = []; // {x, y, age}
  #box = { width: 1, height: 1, top: 0, bottom: 0, cell: 1, ratio: 1, map: 0 };
  #painted = "";

  constructor(canvas, world) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#world = world;
  }

  /** Where heads are drawn right now; for tests. */
  get heads() {
    const at = (trail) => trail.at(this.#time.now)[0];
    return Object.fromEntries([...this.#trails].map(([id, trail]) => [id, at(trail)]));
  }

  /** The world is another one. */
  reset() {
    this.#trails.clear();
    this.#food.clear();
    this.#ghosts = [];
    this.#bursts = [];
    this.#time.reset(this.#world.tick);
    this.#adopt();
    for (const food of this.#food.values()) food.age = 1;
    this.#aim(1);
  }

  /** The world is one tick older. */
  ticked() {
    this.#time.arrived(this.#world.tick);
    const missed = this.#time.missed(this.#world.rate);
    if (missed) this.update(missed); // what is seen for a while passes also where nobody looks
    this.#adopt();
  }

  #adopt() {
    const { tick, players, food } = this.#world;
    for (const [id, trail] of this.#trails) {
      if (!players.get(id)?.body.length) trail.diesAt = Math.min(trail.diesAt, tick);
    }
    for (const { id, body } of players.values()) {
      if (body.length) this.#adoptSnake(id, { body, tick });
    }
    const places = new Set(food.map(String));
    for (const [place, item] of this.#food) {
      if (!places.has(place)) item.goneAt = Math.min(item.goneAt, tick);
    }
    for (const [x, y] of food) {
      const known = this.#food.get(`${x},${y}`);
      if (!known || known.goneAt <= tick) {
        this.#food.set(`${x},${y}`, { x, y, age: 0, goneAt: Infinity });
      }
    }
  }

  #adoptSnake(id, news) {
    const trail = this.#trails.get(id);
    if (trail?.diesAt === Infinity && trail.follow(news)) return;
    if (trail) this.#bury(id, trail);
    this.#trails.set(id, new Trail(news));
  }

  #bury(id, trail) {
    this.#ghosts.push({ id, path: trail.at(this.#time.now), age: 0 });
    this.#trails.delete(id);
  }

  update(seconds) {
    this.#time.advance(seconds, this.#world.rate);
    for (const [id, trail] of this.#trails) {
      if (this.#time.now >= trail.diesAt - 0.5) this.#bury(id, trail);
    }
    for (const [place, item] of this.#food) {
      item.age += seconds;
      if (this.#time.now < item.goneAt - 0.4) continue;
      this.#food.delete(place);
      this.#bursts.push({ x: item.x, y: item.y, age: 0 });
    }
    for (const thing of [...this.#ghosts, ...this.#bursts]) thing.age += seconds;
    this.#ghosts = this.#ghosts.filter(({ age }) => age < FADING);
    this.#bursts = this.#bursts.filter(({ age }) => age < BURST);
    this.#aim(1 - Math.exp(-seconds * 6));
  }

  /** Move the camera, a part of the way, to where it should be. */
  #aim(part) {
    this.#layOut();
    const { width, height } = this.#world;
    const trail = this.#trails.get(this.me) ?? this.#trails.get(this.#world.ranking()[0]?.id);
    const [x, y] = trail?.at(this.#time.now)[0] ?? [this.camera.x - 0.5, this.camera.y - 0.5];
    const seen = this.#seen();
    const keep = (middle, half, size) =>
      2 * half >= size + 2 * HEDGE ? size / 2 : clamp(middle, half - HEDGE, size + HEDGE - half);
    const target = {
      x: keep(x + 0.5, seen.width / 2, width),
      y: keep(y + 0.5, seen.height / 2, height),
    };
    this.camera.x += (target.x - this.camera.x) * part;
    this.camera.y += (target.y - this.camera.y) * part;
  }

  #seen() {
    const { width, height, top, bottom, cell } = this.#box;
    return { width: width / cell, height: (height - top - bottom) / cell };
  }

  /** `--top` of the canvas says how much of it lies under the scores; `--map` is told to what is
      laid over it: how much the map takes at the bottom. */
  #layOut() {
    const width = Math.max(1, this.#canvas.clientWidth);
    const height = Math.max(1, this.#canvas.clientHeight);
    const ratio = window.devicePixelRatio;
    const top = parseFloat(getComputedStyle(this.#canvas).getPropertyValue("--top")) || 0;
    const fit = Math.min(
      width / (this.#world.width + 2 * HEDGE),
      (height - top) / (this.#world.height + 2 * HEDGE),
    );
    const cell = clamp(fit, SMALLEST_CELL, LARGEST_CELL);
    this.#box = { width, height, top, bottom: 0, cell, ratio, map: 0 };
    if (this.#seen().width < this.#world.width) this.#makeRoomForMap();
    const { map } = this.#box;
    const taken = map ? `${Math.ceil(this.#mapHeight(map) + 2 * MAP.edge)}px` : "0px";
    this.#canvas.parentElement.style.setProperty("--map", taken);
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.#canvas.width !== w) this.#canvas.width = w;
    if (this.#canvas.height !== h) this.#canvas.height = h;
    this.#paintLawn();
  }

  /** Below the garden if there is height to spare, as wide as may be; else small, on top of it. */
  #makeRoomForMap() {
    const { width, height, top } = this.#box;
    const tall = this.#world.height + 2 * HEDGE;
    const wide = Math.min(width - 4 * MAP.edge, MAP.most);
    const below = this.#mapHeight(wide) + 2 * MAP.edge;
    const cell = (height - top - below) / tall;
    if (cell < SMALLEST_CELL) {
      this.#box.map = MAP.least;
      return;
    }
    Object.assign(this.#box, { map: wide, bottom: below, cell: Math.min(cell, ROOMY_CELL) });
  }

  #mapHeight(width) {
    return (width * this.#world.height) / this.#world.width;
  }

  // ---- Drawing ------------------------------------------------------------

  draw(seconds) {
    const palette = night.matches ? NIGHT : DAY;
    const { width, height, top, bottom, cell, ratio } = this.#box;
    const context = this.#context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = palette.outside;
    context.fillRect(0, 0, width, height);
    const left = width / 2 - this.camera.x * cell;
    const upper = top + (height - top - bottom) / 2 - this.camera.y * cell;
    context.translate(left, upper);
    const margin = this.#margin();
    const size = [this.#lawn.width / ratio, this.#lawn.height / ratio];
    context.drawImage(this.#lawn, -margin.x * cell, -margin.y * cell, ...size);
    context.scale(cell, cell);
    context.translate(0.5, 0.5); // places are the middles of cells
    this.#drawThings(context, palette, seconds);
    this.#drawNames(context, palette);
    this.#drawMap(context, palette);
  }

  #drawThings(context, palette, seconds) {
    for (const item of this.#food.values()) drawBerry(context, item, seconds);
    for (const ghost of this.#ghosts) this.#drawGhost(context, ghost, palette);
    for (const [id, trail] of this.#mineLast()) {
      drawSnake(context, trail.at(this.#time.now), { id, mine: id === this.me, palette, seconds });
    }
    for (const burst of this.#bursts) drawBurst(context, burst);
  }

  #drawGhost(context, { id, path, age }, palette) {
    context.save();
    const blink = calm.matches || age % 0.2 < 0.1 ? 0.8 : 0.4;
    context.globalAlpha = clamp(1 - age / FADING, 0, 1) * blink;
    drawSnake(context, path, { id, mine: false, dead: true, palette, seconds: 0 });
    context.restore();
  }

  /** The snakes in the order in which they are drawn: one's own lies on top. */
  #mineLast() {
    return [...this.#trails].sort(([a], [b]) => (a === this.me) - (b === this.me));
  }

  #drawNames(context, palette) {
    const size = 12 / this.#box.cell;
    for (const [id, trail] of this.#mineLast()) {
      const name = this.#world.players.get(id)?.name;
      if (!name) continue;
      const [x, y] = trail.at(this.#time.now)[0];
      const half = labelWidth(context, name, size) / 2;
      const reach = Math.max(0, this.#seen().width / 2 - half);
      const within = clamp(x, this.camera.x - 0.5 - reach, this.camera.x - 0.5 + reach);
      const style = id === this.me ? MINE : palette;
      if (Math.abs(x - within) < 2 * half) {
        label(context, name, within, y - 0.75 - size, { size, ...style });
      }
    }
  }

  /** Where the view follows your head, a small map shows the rest. */
  #drawMap(context, palette) {
    const { width, height, ratio, map } = this.#box;
    const world = this.#world;
    if (!map) return;
    const zoom = map / world.width;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.translate((width - map) / 2, height - this.#mapHeight(map) - MAP.edge);
    context.fillStyle = palette.map;
    context.beginPath();
    context.roundRect(-3, -3, map + 6, this.#mapHeight(map) + 6, 5);
    context.fill();
    context.scale(zoom, zoom);
    for (const { id, body } of world.players.values()) {
      context.fillStyle = colourOf(id);
      for (const [x, y] of body) context.fillRect(x, y, 1, 1);
      if (id === this.me && body.length) oval(context, ...body[0], 2.6, 2.6, MINE.paper);
    }
    context.fillStyle = "#d3283f";
    for (const [x, y] of world.food) context.fillRect(x, y, 0.8, 0.8);
  }

  /** How far the picture of the garden reaches beyond the world, in cells. */
  #margin() {
    const { width, height } = this.#world;
    const seen = this.#seen();
    const { top, bottom, cell } = this.#box;
    const least = HEDGE * 1.5;
    return {
      x: Math.max(least, (seen.width - width) / 2 + 1),
      y: Math.max(least, (seen.height - height) / 2 + Math.max(top, bottom) / cell + 1),
    };
  }

  /** The garden never changes: it is painted once for each size and theme. */
  #paintLawn() {
    const { cell, ratio } = this.#box;
    const { width, height } = this.#world;
    const margin = this.#margin();
    const wanted = [cell, ratio, width, height, margin.x, margin.y, night.matches].join();
    if (this.#painted === wanted) return;
    this.#painted = wanted;
    this.#lawn.width = Math.ceil((width + 2 * margin.x) * cell * ratio);
    this.#lawn.height = Math.ceil((height + 2 * margin.y) * cell * ratio);
    const context = this.#lawn.getContext("2d");
    context.scale(cell * ratio, cell * ratio);
    context.translate(margin.x, margin.y);
    paintGarden(context, this.#world, margin, night.matches ? NIGHT : DAY);
  }
}
