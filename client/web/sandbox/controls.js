// Keys, mouse and thumbs, made into what a player can want: to walk, to look, to strike.

const STEPS = {
  ArrowLeft: [-1, 0], KeyA: [-1, 0],
  ArrowRight: [1, 0], KeyD: [1, 0],
  ArrowUp: [0, -1], KeyW: [0, -1],
  ArrowDown: [0, 1], KeyS: [0, 1],
  Home: [-1, -1], PageUp: [1, -1], End: [-1, 1], PageDown: [1, 1],
};
const SEND_EVERY = 0.05; // seconds: one tick; more often is of no use
const LEAST_TURN = 0.02; // radians that are worth telling
const DEAD_ZONE = 0.25; // of a stick's radius

export class Controls {
  aim = 0; // where the player looks

  #want;
  #held = new Set();
  #stick = null; // the angle of the left stick
  #told = { walk: null, aim: null };
  #striking = new Set(); // by what: "mouse", "key", "stick"
  #wait = 0;

  /** `want` is {walk(angle or null), aim(angle), strike(active, angle), key(code, key)};
      `centre()` is where on the page the player is, as {clientX, clientY}. */
  constructor({ surface, moveStick, strikeStick, centre, want }) {
    this.#want = want;
    this.#watchKeys();
    this.#watchMouse(surface, centre);
    watchStick(moveStick, (angle) => {
      this.#stick = angle;
      if (angle === null) this.#tellWalk();
      if (angle !== null && !this.#striking.has("stick")) this.aim = angle;
    });
    watchStick(strikeStick, (angle, pressed) => {
      if (angle !== null) this.aim = angle;
      this.#strike("stick", pressed);
    });
  }

  /** Tell what has changed, but not at every frame. */
  update(seconds) {
    this.#wait -= seconds;
    if (this.#wait > 0) return;
    this.#wait = SEND_EVERY;
    if (this.#told.aim === null || Math.abs(this.aim - this.#told.aim) > LEAST_TURN) {
      this.#told.aim = this.aim;
      this.#want.aim(this.aim);
    }
    this.#tellWalk();
  }

  /** Let go of everything, and tell everything anew. */
  reset() {
    this.#held.clear();
    this.#striking.clear();
    this.#told = { walk: null, aim: null };
  }

  #tellWalk() {
    const walk = this.#stick ?? this.#heldAngle();
    const before = this.#told.walk;
    const turned = walk !== null && before !== null && Math.abs(walk - before) > LEAST_TURN;
    if ((walk === null) === (before === null) && !turned) return;
    this.#told.walk = walk;
    this.#want.walk(walk);
  }

  #heldAngle() {
    let [x, y] = [0, 0];
    for (const code of this.#held) {
      x += Math.sign(STEPS[code][0]);
      y += Math.sign(STEPS[code][1]);
    }
    return x || y ? Math.atan2(y, x) : null;
  }

  #strike(by, pressed) {
    const before = this.#striking.size;
    if (pressed) this.#striking.add(by);
    else this.#striking.delete(by);
    const after = this.#striking.size;
    if (Boolean(before) === Boolean(after)) return;
    this.#told.aim = this.aim;
    this.#want.strike(after > 0, this.aim);
  }

  #watchKeys() {
    window.addEventListener("keydown", (event) => {
      const elsewhere = event.target.closest?.("input, button, a");
      if (elsewhere || event.ctrlKey || event.metaKey || event.altKey) return;
      const known = Object.hasOwn(STEPS, event.code) || event.code === "Space";
      if (known) event.preventDefault(); // arrows and space would scroll the page
      if (event.repeat) return;
      if (Object.hasOwn(STEPS, event.code)) this.#hold(event.code);
      else if (event.code === "Space") this.#strike("key", true);
      else if (this.#want.key(event.code, event.key)) event.preventDefault();
    });
    window.addEventListener("keyup", ({ code }) => {
      if (this.#held.delete(code)) this.#tellWalk();
      if (code === "Space") this.#strike("key", false);
    });
    window.addEventListener("blur", () => {
      this.#held.clear();
      this.#tellWalk(); // at once: a hidden page gets no frames, and so no update
      this.#strike("key", false);
      this.#strike("mouse", false);
    });
  }

  #hold(code) {
    this.#held.add(code);
    this.#tellWalk(); // at once: a key may be up again before the next update
  }

  #watchMouse(surface, centre) {
    const look = (event) => {
      const { clientX, clientY } = centre();
      this.aim = Math.atan2(event.clientY - clientY, event.clientX - clientX);
    };
    window.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") look(event); // also over what lies on the picture
    });
    surface.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      surface.setPointerCapture(event.pointerId);
      look(event);
      this.#strike("mouse", true);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      surface.addEventListener(end, () => this.#strike("mouse", false));
    }
    surface.addEventListener("contextmenu", (event) => event.preventDefault());
  }
}

/** A round thing for a thumb. Call `moved(angle or null, pressed)`; near its middle it has no
    angle. Its knob follows through `--x` and `--y`, from -1 to 1. */
function watchStick(stick, moved) {
  const set = (x, y) => {
    stick.style.setProperty("--x", x);
    stick.style.setProperty("--y", y);
  };
  const follow = (event) => {
    const box = stick.getBoundingClientRect();
    const x = (event.clientX - box.left - box.width / 2) / (box.width / 2);
    const y = (event.clientY - box.top - box.height / 2) / (box.height / 2);
    const length = Math.hypot(x, y);
    set(x / Math.max(1, length), y / Math.max(1, length));
    moved(length > DEAD_ZONE ? Math.atan2(y, x) : null, true);
  };
  stick.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    stick.setPointerCapture(event.pointerId);
    follow(event);
  });
  stick.addEventListener("pointermove", (event) => {
    if (stick.hasPointerCapture(event.pointerId)) follow(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stick.addEventListener(end, () => {
      set(0, 0);
      moved(null, false);
    });
  }
}
