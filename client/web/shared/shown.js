// Which moment to show of a world that comes in ticks.

/** How many ticks back the moment may be: so much must be known of what has been. */
export const MEMORY = 2;

/** What time to show: a little behind the newest tick, so that the next one is there before it
    is needed, and at an even pace, however unevenly ticks arrive. */
export class ShownTime {
  #now = 0;
  #tick = 0;
  #sinceTick = 0; // seconds

  static BEHIND = 1.3; // ticks

  get now() {
    return this.#now;
  }

  reset(tick) {
    this.#now = tick;
    this.arrived(tick);
  }

  arrived(tick) {
    this.#tick = tick;
    this.#sinceTick = 0;
  }

  /** The seconds for which no frame has come: a page that is hidden has none, a slow one few. */
  missed(rate) {
    const behind = this.#tick - MEMORY - this.#now;
    return behind > MEMORY ? behind / rate : 0;
  }

  /** Go on by some seconds, at `rate` ticks per second. */
  advance(seconds, rate) {
    this.#sinceTick += seconds;
    const wanted = this.#tick + Math.min(this.#sinceTick * rate, 1) - ShownTime.BEHIND;
    this.#now += seconds * rate;
    this.#now += (wanted - this.#now) * Math.min(1, seconds * 4);
    this.#now = Math.min(Math.max(this.#now, this.#tick - MEMORY), this.#tick);
  }
}
