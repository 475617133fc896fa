// What the game has told of its world, and what of it is to be seen right now. Nothing is drawn
// here; positions are given for any moment of the last ticks, so that motion is smooth.

import { MEMORY, ShownTime } from "../shared/shown.js";

const SWING = 0.28; // seconds that a swing takes to be seen
const SHAKE = 0.3; // seconds that what was hit shakes
const HURT = 0.35; // seconds that a player who was hurt is flushed
const SPEECH = 4.5; // seconds that words are to be seen
const FLOAT = 1.1; // seconds that a number floats up

export class World {
  size = 1;
  view = 1000;
  playerScale = 35;
  items = []; // by ID
  resources = []; // names, by index
  known = new Map(); // sid → everybody that has been introduced
  objects = new Map(); // sid → what stands
  dots = []; // of the minimap
  floats = []; // {x, y, text, kind, age}
  me = null; // sid; null while not alive
  last = { x: 0, y: 0 }; // where this player is, or has been
  time = new ShownTime();

  #tick = 0;
  #rate = 20;

  init({ world, view, tickRate, playerScale, resources, items }) {
    Object.assign(this, { size: world, view, playerScale, resources, items });
    this.#rate = tickRate;
    this.last = { x: world / 2, y: world / 2 };
  }

  forget() {
    this.known.clear();
    this.objects.clear();
    this.dots = [];
    this.floats = [];
    this.me = null;
  }

  introduce(player) {
    this.known.set(player.sid, {
      ...player, samples: [], since: {}, words: "", build: null, weapon: 0,
    });
  }

  /** Everybody in view, at one more tick. Who is not among them is out of view. */
  place(rows) {
    this.#tick += 1;
    this.time.arrived(this.#tick);
    for (const { sid, x, y, dir, ...rest } of rows) {
      const player = this.known.get(sid);
      if (!player) continue;
      const seenLast = player.samples.at(-1)?.tick === this.#tick - 1;
      const before = seenLast ? player.samples.slice(-MEMORY) : [];
      player.samples = [...before, { tick: this.#tick, x, y, dir }];
      Object.assign(player, rest);
    }
    const missed = this.time.missed(this.#rate);
    if (missed) this.advance(missed); // what is seen for a while passes also where nobody looks
  }

  addObjects(rows) {
    for (const row of rows) {
      this.objects.set(row.sid, { ...row, age: this.#tick ? 0 : 1, shake: null });
    }
  }

  removeObjectsOf(owner) {
    for (const [sid, object] of this.objects) {
      if (object.owner === owner) this.objects.delete(sid);
    }
  }

  /** Something begins that is to be seen for a while: "swing", "hurt" or "speech". */
  begin(sid, what, more = {}) {
    const player = this.known.get(sid);
    if (player) Object.assign(player, more).since[what] = 0;
  }

  hitObject({ sid, dir }) {
    const object = this.objects.get(sid);
    if (object) object.shake = { dir, age: 0 };
  }

  changeHealth({ sid, value }) {
    const player = this.known.get(sid);
    if (!player) return;
    const change = value - player.health;
    player.health = value;
    if (change < 0) this.begin(sid, "hurt");
    const at = this.whereIs(player);
    if (change && at) this.float(at, String(change), change < 0 ? "hurt" : "healed");
  }

  float({ x, y }, text, kind) {
    const aside = this.floats.length % 2 ? 62 : -62; // past the name, now left, now right
    this.floats.push({ x: x + aside, y: y - 20, text, kind, age: 0 });
  }

  advance(seconds) {
    this.time.advance(seconds, this.#rate);
    for (const player of this.known.values()) {
      for (const what of Object.keys(player.since)) {
        player.since[what] += seconds;
        if (player.since[what] > LASTS[what]) delete player.since[what];
      }
    }
    for (const object of this.objects.values()) {
      object.age += seconds;
      if (object.shake && (object.shake.age += seconds) > SHAKE) object.shake = null;
    }
    for (const float of this.floats) float.age += seconds;
    this.floats = this.floats.filter(({ age }) => age < FLOAT);
    const here = this.whereIs(this.known.get(this.me));
    if (here) this.last = { x: here.x, y: here.y };
  }

  /** {x, y, dir} at the moment that is shown; null for who is out of view. */
  whereIs(player) {
    const samples = player?.samples ?? [];
    if (!samples.length || samples.at(-1).tick < this.#tick) return null;
    const after = samples.find(({ tick }) => tick >= this.time.now) ?? samples.at(-1);
    const before = samples.findLast(({ tick }) => tick <= this.time.now) ?? samples[0];
    if (before === after) return { x: after.x, y: after.y, dir: after.dir };
    const part = (this.time.now - before.tick) / (after.tick - before.tick);
    return {
      x: before.x + (after.x - before.x) * part,
      y: before.y + (after.y - before.y) * part,
      dir: before.dir + shortWay(after.dir - before.dir) * part,
    };
  }

  /** Everybody who is to be seen, with the place. */
  inView() {
    const all = [...this.known.values()].map((player) => ({ player, at: this.whereIs(player) }));
    return all.filter(({ at }) => at !== null);
  }

  /** How far something has come that was begun, from 0 to 1; null if it is over. */
  static part(player, what) {
    const since = player.since[what];
    return since === undefined ? null : since / LASTS[what];
  }

  /** What would be built where, and whether there is room: {x, y, item, free}. */
  planned(item, { x, y }, dir) {
    const place = { x: x + Math.cos(dir) * item.reach, y: y + Math.sin(dir) * item.reach };
    const touches = (other, scale) =>
      Math.hypot(other.x - place.x, other.y - place.y) < scale + item.scale;
    const last = this.size - item.scale;
    const inside = [place.x, place.y].every((at) => at >= item.scale && at <= last);
    const blocked =
      [...this.objects.values()].some((object) => touches(object, object.scale)) ||
      this.inView().some(({ at }) => touches(at, this.playerScale));
    return { ...place, item, dir, free: inside && !blocked };
  }
}

const LASTS = { swing: SWING, hurt: HURT, speech: SPEECH };

/** The same turn, by at most half a circle. */
export function shortWay(angle) {
  return Math.atan2(Math.sin(angle), Math.cos(angle));
}
