// What is said in a room, as it crosses the wire; nothing here draws.
//
// A chat message is one JSON text, which a program such as `cat` hands to everybody in the room:
//   {"t": "chat", "name": "Ada", "text": "Hello!", "at": 1767225600000, "id": "k3f9…"}
// `at` is the sender's clock in milliseconds, `id` is made up by the sender. With --frame=json
// the server adds `_from`, a number that nobody can forge. Any other text is shown as it is: it
// comes from another kind of client, or from the program itself.

import { isBlank } from "../shared/name.js";

const LONGEST_NAME = 40;
const FAR_FUTURE = 8.64e15; // the last millisecond that a Date can hold
// What a server may repeat are the last messages of its room, as many as --cache says. No page is
// told how many, so this is far beyond what is usual; of a longer history the oldest come again.
const MOST_TALLIED = 50_000; // lines, at the least, of which it is known that they were shown
const MOST_CHARACTERS = 2 ** 23; // of these

/** Make of a received text {kind: "chat" | "news" | "line", …}. */
export function read(raw, now = Date.now()) {
  const message = parseObject(raw);
  const from = message ? whoSent(message) : "";
  if (message?.t === "chat" && typeof message.text === "string") {
    const name = nameOf(message.name);
    const id = typeof message.id === "string" ? message.id : "";
    return { kind: "chat", name, text: message.text, at: timeOf(message.at, now), id, from };
  }
  const news = { Join: "came in", Leave: "left" }[message?.t];
  if (news && from) return { kind: "news", text: `${from} ${news}`, at: now, id: "", from };
  return { kind: "line", text: raw, at: now, id: "", from: "" };
}

/** Make the text of one's own message. */
export function write({ name, text, at, id }) {
  return JSON.stringify({ t: "chat", name, text, at, id });
}

export function newId() {
  // Not crypto.randomUUID: browsers hide it from pages that came over plain http.
  const numbers = crypto.getRandomValues(new Uint32Array(3));
  return Array.from(numbers, (number) => number.toString(36)).join("");
}

function parseObject(raw) {
  try {
    const value = JSON.parse(raw);
    return value && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function whoSent({ _from: from }) {
  return Number.isSafeInteger(from) ? `#${from}` : "";
}

function nameOf(name) {
  const words = typeof name === "string" ? name.trim().replace(/\s+/gu, " ") : "";
  const cut = [...words].slice(0, LONGEST_NAME).join("");
  return isBlank(cut) ? "Somebody" : cut;
}

function timeOf(at, now) {
  const time = typeof at === "string" ? Date.parse(at) : at;
  return Number.isFinite(time) && Math.abs(time) <= FAR_FUTURE ? time : now;
}

/** How often lines were shown lately: the older half of them is forgotten at once. */
class Tally {
  #latest = new Map(); // line → how often
  #before = new Map();
  #size = 0; // characters of the latest

  has(line) {
    return this.#latest.has(line) || this.#before.has(line);
  }

  add(line) {
    if (this.#latest.size >= MOST_TALLIED || this.#size >= MOST_CHARACTERS) {
      this.#before = this.#latest;
      this.#latest = new Map();
      this.#size = 0;
    }
    if (!this.#latest.has(line)) this.#size += line.length;
    this.#latest.set(line, (this.#latest.get(line) ?? 0) + 1);
  }

  /** How often each was shown, as far as that is known. */
  total() {
    const sum = new Map(this.#before);
    for (const [line, count] of this.#latest) sum.set(line, (sum.get(line) ?? 0) + count);
    return sum;
  }
}

/** Tells what has been shown before: after a loss of the connection the server says again what
    it has kept (--cache). Messages with an ID are known by it. Of other lines as many are passed
    over as there were before, and only while the server repeats itself: for a moment after the
    connection was made, and after each sign that it goes on. */
export class Memory {
  #ids = new Tally();
  #lines = new Tally();
  #expected = new Map(); // line → how often it was shown, less what has come again since
  #signs = new Set(); // of `repeats`
  #onSign;

  /** `repeats()` is called as something comes again that had not since the connection was made. A
      program that says the same line all the time repeats only itself: that is no such sign. */
  constructor({ repeats }) {
    this.#onSign = repeats;
  }

  /** The connection was made anew: what comes now may be a repetition. */
  expectRepeats() {
    this.#expected = this.#lines.total();
    this.#signs.clear();
  }

  /** From now on every line is a new one. */
  expectNews() {
    this.#expected.clear();
    this.#signs.clear();
  }

  /** Whether this was shown before; if not, it counts as shown from now on. */
  knows({ id, kind, text }) {
    const key = id ? `id ${id}` : `${kind} ${text}`;
    const known = id ? this.#knowsId(id) : this.#expects(key);
    if (known && this.#expected.size && !this.#signs.has(key)) {
      this.#signs.add(key);
      this.#onSign();
    }
    return known;
  }

  #knowsId(id) {
    const known = this.#ids.has(id);
    this.#ids.add(id);
    return known;
  }

  #expects(line) {
    const due = this.#expected.get(line) ?? 0;
    if (due > 0) this.#expected.set(line, due - 1);
    else this.#lines.add(line);
    return due > 0;
  }
}
