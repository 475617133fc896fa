// Mouse, finger and keyboard, made into one thing: a place in the world to go to.

const SEND_EVERY = 0.09; // seconds between two inputs while dragging or holding a key
const KEY_SPEED = 520; // units of the world per second
const KEY_LEAD = 70; // how far a tap on a key leads

const KEYS = {
  ArrowLeft: [-1, 0], KeyA: [-1, 0],
  ArrowRight: [1, 0], KeyD: [1, 0],
  ArrowUp: [0, -1], KeyW: [0, -1],
  ArrowDown: [0, 1], KeyS: [0, 1],
};

export class Controls {
  #held = new Set();
  #dragTo = null;
  #wait = 0;

  /** `toWorld(event)`: where a pointer is; `position()`: where you are or go to, or null;
      `go(place, {drop})`: go there; `drop` is true where a pointer pointed. */
  constructor(surface, { toWorld, position, go }) {
    Object.assign(this, { toWorld, position, go });
    surface.addEventListener("pointerdown", (event) => this.#pressed(event, surface));
    surface.addEventListener("pointermove", (event) => this.#dragged(event, surface));
    window.addEventListener("keydown", (event) => this.#keyDown(event));
    window.addEventListener("keyup", (event) => this.#held.delete(event.code));
    window.addEventListener("blur", () => this.#held.clear());
  }

  /** Send what dragging and held keys come to, but not at every frame. */
  update(seconds) {
    this.#wait -= seconds;
    if (this.#wait > 0) return;
    if (this.#dragTo) this.#send(this.#dragTo, true);
    else if (this.#held.size) this.#step(KEY_SPEED * SEND_EVERY);
  }

  #pressed(event, surface) {
    if (event.button !== 0) return;
    surface.setPointerCapture(event.pointerId);
    this.#send(this.toWorld(event), true);
  }

  #dragged(event, surface) {
    if (surface.hasPointerCapture(event.pointerId)) this.#dragTo = this.toWorld(event);
  }

  #keyDown(event) {
    const typing = event.target.closest?.("input");
    const shortcut = event.ctrlKey || event.metaKey || event.altKey;
    if (typing || shortcut || !Object.hasOwn(KEYS, event.code)) return;
    event.preventDefault(); // arrows would scroll the page
    if (event.repeat) return;
    this.#held.add(event.code);
    this.#step(KEY_LEAD);
  }

  #step(distance) {
    const from = this.position();
    if (!from) return;
    let [dx, dy] = [0, 0];
    for (const code of this.#held) {
      dx += KEYS[code][0];
      dy += KEYS[code][1];
    }
    const length = Math.hypot(dx, dy);
    if (!length) return;
    const stride = distance / length; // as long along a diagonal as along an axis
    this.#send({ x: from.x + dx * stride, y: from.y + dy * stride }, false);
  }

  #send(place, drop) {
    this.#dragTo = null;
    this.#wait = SEND_EVERY;
    this.go(place, { drop });
  }
}
