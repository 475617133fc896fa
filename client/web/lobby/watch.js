// Keeps an eye on the server: what it runs, and which rooms there are.

import { BASE, backoff } from "../shared/connection.js";

const LOOK_EVERY = 2_500; // milliseconds, while somebody looks at the page
const HIDDEN_EVERY = 20_000;
const PATIENCE = 8_000; // how long an answer may take

export class Watch {
  about = null; // {version, target, kind}, once it is known
  own = null; // what the operator says of it, {page, title, text, picture}, likewise
  rooms = [];
  state = "asking"; // then "listed", "unlisted" (the server has no such list) or "silent"
  retryAt = 0; // when it is asked again after silence, on the clock of performance.now()

  #changed;
  #failures = 0;
  #timer = 0;

  /** `changed()` is called whenever there may be something new to see. */
  constructor(changed) {
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    window.addEventListener("online", () => this.look());
  }

  /** Ask now, and from now on again and again. */
  async look() {
    clearTimeout(this.#timer);
    const turn = (this.#timer = setTimeout(() => this.look(), PATIENCE * 2));
    await this.#ask();
    if (this.#timer !== turn) return; // meanwhile somebody else has begun to look
    clearTimeout(turn);
    const delay = this.#delay();
    this.retryAt = performance.now() + delay;
    this.#timer = setTimeout(() => this.look(), delay);
    this.#changed();
  }

  async #ask() {
    try {
      // After silence it may be another server.
      if (this.state !== "listed") {
        this.about = await fetchJson("api/");
        this.own = await fetchJson("lobby/about.json");
      }
      this.rooms = this.about ? usable(await fetchJson("api/rooms/")) : [];
      this.state = this.about ? "listed" : "unlisted";
      this.#failures = 0;
    } catch {
      this.state = "silent";
      this.#failures += 1;
    }
  }

  #delay() {
    if (this.state === "silent") return LOOK_EVERY + backoff(this.#failures);
    return document.hidden || this.state === "unlisted" ? HIDDEN_EVERY : LOOK_EVERY;
  }
}

/** What the server answers, or null if it has nothing there.

    Throws if it does not answer in time, or not with JSON. */
async function fetchJson(path) {
  const signal = AbortSignal.timeout(PATIENCE);
  const response = await fetch(new URL(path, BASE), { cache: "no-store", signal });
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`${path} answers ${response.status}`);
  return response.json();
}

function usable(rooms) {
  return rooms
    .filter(({ name, connections }) => typeof name === "string" && connections >= 0)
    .sort((a, b) => b.connections - a.connections || a.name.localeCompare(b.name));
}
