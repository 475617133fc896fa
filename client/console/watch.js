// Asks the server how it is, once a second, and makes rates of its counters. Nothing is asked
// while nobody looks; after an error it asks less and less often.

const EVERY = 1_000; // milliseconds
const SLOWEST = 15_000;
const PATIENCE = 5_000; // how long an answer may take
const WINDOW = 120; // seconds of history that are kept
const COUNTERS = ["messages_in", "messages_out", "bytes_in", "bytes_out"];

export class Watch {
  facts = null; // what the server said last
  rates = new Map(); // by name of room: {messages_in, …}, a second; of all rooms under null
  history = []; // {time, messages_in, …} of all rooms, on the server's clock
  problem = ""; // why there is no news
  retryAt = 0; // when it asks again after an error, on the clock of performance.now()

  #changed;
  #asking = false;
  #failures = 0;
  #timer = 0;

  /** `changed()` is called after each answer, or error. */
  constructor(changed) {
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  /** Ask now, and from now on again and again. */
  async look() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#asking) return;
    this.#asking = true;
    await this.#ask();
    this.#asking = false;
    const delay = Math.min(SLOWEST, EVERY * 2 ** this.#failures);
    this.retryAt = performance.now() + delay;
    this.#timer = setTimeout(() => this.look(), delay);
    this.#changed();
  }

  async #ask() {
    let facts;
    try {
      facts = await fetchFacts();
    } catch (error) {
      const words = { TypeError: "it cannot be reached", TimeoutError: "it takes too long" };
      this.problem = words[error.name] ?? error.message;
      this.#failures += 1;
      return;
    }
    this.problem = "";
    this.#failures = 0;
    this.#take(facts);
  }

  #take(facts) {
    const before = this.facts;
    this.facts = facts;
    const elapsed = before ? facts.uptime - before.uptime : 0;
    this.rates.clear();
    if (elapsed < 0) this.history = []; // the server has been started again
    if (elapsed <= 0) return;
    const old = new Map(before.rooms.map((room) => [room.name, room]));
    for (const room of facts.rooms) {
      this.rates.set(room.name, ratesOf(room, old.get(room.name), elapsed));
    }
    this.rates.set(null, ratesOf(facts.totals, before.totals, elapsed));
    this.history.push({ time: facts.uptime, ...this.rates.get(null) });
    while (this.history[0].time < facts.uptime - WINDOW) this.history.shift();
  }
}

/** A room that is new, or has begun again since, has counted from 0. */
function ratesOf(now, before, elapsed) {
  const same = before && COUNTERS.every((name) => now[name] >= before[name]);
  const rate = (name) => (now[name] - (same ? before[name] : 0)) / elapsed;
  return Object.fromEntries(COUNTERS.map((name) => [name, rate(name)]));
}

async function fetchFacts() {
  const signal = AbortSignal.timeout(PATIENCE);
  const response = await fetch("api", { cache: "no-store", signal });
  if (!response.ok) throw new Error(await explain(response));
  return response.json();
}

async function explain(response) {
  if (response.status === 404) return "it was started without --console";
  const text = (await response.text()).trim().slice(0, 200);
  return `it answers ${response.status}${text && `: ${text}`}`;
}
