// The way that one snake has gone, a little longer than the snake: so it can be drawn where it
// was a moment ago, between two ticks, and glide from cell to cell along its own way.

import { MEMORY } from "../shared/shown.js";

export class Trail {
  #lengths; // of the last ticks, the newest first

  /** `tick` is that of the newest place. */
  constructor({ body, tick }) {
    this.points = body.map((place) => [...place]);
    this.tick = tick;
    this.diesAt = Infinity; // the tick at which it is gone
    this.#lengths = [body.length];
  }

  get head() {
    return this.points[0];
  }

  /** Take over what the game says of it; false: this is another life. */
  follow({ body, tick }) {
    const [x, y] = this.head;
    const [newX, newY] = body[0];
    const steps = Math.abs(newX - x) + Math.abs(newY - y);
    if (steps > 1) return false;
    if (steps === 1) {
      this.points = [[newX, newY], ...this.points].slice(0, body.length + MEMORY);
      this.#lengths = [body.length, ...this.#lengths].slice(0, MEMORY + 1);
      this.tick = tick;
    }
    return true;
  }

  /** The places from head to tail at a time, which is a tick and a fraction. */
  at(time) {
    const back = Math.min(Math.max(this.tick - time, 0), this.#lengths.length - 1);
    const newer = Math.floor(back);
    const older = Math.ceil(back);
    const length = mix(this.#lengths[newer], this.#lengths[older], back - newer);
    return this.#section(back, back + length - 1);
  }

  /** The part of the way between two distances from its newest place. */
  #section(from, to) {
    const inner = this.points.slice(Math.floor(from) + 1, Math.ceil(to));
    return [this.#pointAt(from), ...inner, this.#pointAt(to)];
  }

  #pointAt(distance) {
    const last = this.points.length - 1;
    const before = this.points[Math.min(Math.floor(distance), last)];
    const after = this.points[Math.min(Math.ceil(distance), last)];
    const part = distance % 1;
    return [mix(before[0], after[0], part), mix(before[1], after[1], part)];
  }
}

function mix(a, b, part) {
  return a + (b - a) * part;
}
