// The list of what went over the wire, newest last, and the one entry that is drawn in full.
// Floods are drawn once per screen refresh, and only the newest entries are kept.

import { countBytes, toText } from "./bytes.js";
import { ARROWS, drawEntry, make, summarize } from "./drawing.js";

const KEPT = 500; // entries
const SEARCHED = 20_000; // bytes of a payload

const ONLY = {
  all: () => true,
  data: ({ kind }) => ["text", "binary", "continuation"].includes(kind),
  sent: ({ way }) => way === "sent",
  received: ({ way }) => way === "received",
  control: ({ kind }) => ["ping", "pong", "close"].includes(kind.toLowerCase()),
  handshake: ({ kind }) => kind === "handshake",
};

export class Log {
  #parts;
  #hint; // what is drawn while there is nothing to draw
  #fresh = []; // entries that are not in the list yet
  #chosen = null; // the entry that is drawn, or null: always the newest
  #newest = null; // of those that somebody else sent, or meant to send
  #passed = 0; // entries that are no longer kept
  #waiting = false; // to be drawn
  #held = null; // entries that came since it was paused; null: it is not

  /** `parts` are elements: {list, title, drawing, follow, passed, pause, only, search}. */
  constructor(parts) {
    this.#parts = parts;
    this.#hint = [...parts.drawing.children];
    parts.pause.addEventListener("click", () => this.#pauseOrGoOn());
    parts.only.addEventListener("change", () => this.#sift());
    parts.search.addEventListener("input", () => this.#sift());
    parts.follow.addEventListener("click", () => this.follow());
    parts.list.addEventListener("keydown", (event) => this.#step(event));
  }

  add(entry) {
    if (this.#held) return this.#hold(entry);
    if (entry.kind !== "note" && !entry.automatic) this.#newest = entry;
    this.#fresh.push(entry);
    if (this.#fresh.length > KEPT) {
      this.#fresh.shift();
      this.#passed += 1;
    }
    this.#drawSoon();
  }

  // ---- Pause, and choose --------------------------------------------------

  #pauseOrGoOn() {
    const held = this.#held;
    this.#held = held ? null : [];
    held?.forEach((entry) => this.add(entry));
    this.#showPause();
  }

  #hold(entry) {
    this.#held.push(entry);
    if (this.#held.length > KEPT) {
      this.#held.shift();
      this.#passed += 1;
    }
    this.#showPause();
  }

  #showPause() {
    const { pause } = this.#parts;
    const count = this.#held?.length ?? 0;
    pause.ariaPressed = `${this.#held !== null}`;
    pause.textContent = !this.#held ? "Pause" : count ? `Go on (${count} more)` : "Go on";
  }

  /** Show only those entries that somebody wants to see. */
  #sift() {
    for (const item of this.#parts.list.children) this.#siftOne(item);
  }

  #siftOne(item) {
    const { only, search } = this.#parts;
    const wanted = search.value.trim().toLowerCase();
    item.hidden = !ONLY[only.value](item.facts) || !item.facts.text.includes(wanted);
  }

  /** Draw an entry that is in the list, or one that could be sent. */
  choose(entry) {
    this.#chosen = entry;
    this.#drawSoon();
  }

  /** Draw the newest entry from now on. */
  follow() {
    this.choose(null);
  }

  clear() {
    this.#parts.list.replaceChildren();
    this.#fresh = [];
    this.#newest = null;
    this.#passed = 0;
    if (this.#held) this.#held = [];
    this.#showPause();
    this.follow();
  }

  /** Up and Down go through the list. */
  #step(event) {
    const { list } = this.#parts;
    const focused = document.activeElement;
    const here = focused === list ? list.querySelector("[aria-current=true]") : focused;
    const way = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[event.key];
    let next = way && here?.parentElement[way];
    while (next?.hidden) next = next[way];
    if (!next) return;
    event.preventDefault();
    next.firstChild.focus();
    this.choose(next.entry);
  }

  #drawSoon() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #draw() {
    const { list, passed } = this.#parts;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(...this.#fresh.map((entry) => this.#item(entry)));
    this.#fresh = [];
    while (list.children.length > KEPT) {
      list.firstChild.remove();
      this.#passed += 1;
    }
    const gone = this.#passed.toLocaleString("en");
    passed.textContent = this.#passed ? `${gone} older ones are gone.` : "";
    if (atEnd) list.scrollTop = list.scrollHeight;
    this.#drawChosen();
  }

  #drawChosen() {
    const { list, title, drawing, follow } = this.#parts;
    const entry = this.#chosen ?? this.#newest;
    follow.hidden = this.#chosen === null;
    for (const item of list.children) item.firstChild.ariaCurrent = `${item.entry === entry}`;
    if (drawing.entry === entry) return;
    drawing.entry = entry;
    title.textContent = entry ? titleOf(entry) : "Nothing yet";
    drawing.replaceChildren(...(entry ? drawEntry(entry) : this.#hint));
  }

  #item(entry) {
    const { kind, size, preview, wrong } = summarize(entry);
    const facts = { type: "button", tabIndex: -1, className: `entry ${entry.way}` };
    const button = make("button", facts,
      make("span", { className: "time", textContent: clock(entry.time) }),
      make("span", { className: "arrow", textContent: ARROWS[entry.way], ariaHidden: "true" }),
      make("span", { className: "unseen", textContent: entry.way }),
      make("span", { className: wrong ? "kind wrong" : "kind", textContent: kind }),
      make("span", { className: "size", title: size === null ? "" : countBytes(size),
        textContent: size?.toLocaleString("en") ?? "" }),
      make("span", { className: "preview", textContent: preview }));
    button.addEventListener("click", () => this.choose(entry));
    const text = `${kind} ${preview} ${searchable(entry)}`.toLowerCase();
    const known = { kind, way: entry.way, text };
    const item = Object.assign(make("li", {}, button), { entry, facts: known });
    this.#siftOne(item);
    return item;
  }
}

function titleOf(entry) {
  if (entry.kind === "note") return "What happened";
  const { kind, size } = summarize(entry);
  const ways = { sent: entry.draft ? "To be sent" : "Sent", received: "Received" };
  const what = { frame: `${kind} frame`, message: `${kind} message` }[entry.kind] ?? entry.kind;
  return `${ways[entry.way]}: ${what}, ${countBytes(size)}`;
}

function searchable(entry) {
  const payload = entry.frame?.payload ?? entry.payload;
  if (!payload) return "";
  return toText(payload.subarray(0, SEARCHED), payload.length > SEARCHED) ?? "";
}

function clock(time) {
  const two = (number) => String(number).padStart(2, "0");
  const parts = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(":");
  return `${parts}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}
