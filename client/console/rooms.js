// The server's rooms, as they are now: totals, charts, a table of rooms, the clients of one.

import { drawChart, shorten } from "./chart.js";
import { make } from "./drawing.js";
import { Watch } from "./watch.js";

const $ = (id) => document.getElementById(id);

const MOST_ROWS = 100; // rooms, and clients of a room, that are listed
const MESSAGES = ["messages_in", "messages_out"];
const BYTES = ["bytes_in", "bytes_out"];
const NO_RATES = { messages_in: 0, messages_out: 0, bytes_in: 0, bytes_out: 0 };

export class RoomsView {
  #watch = new Watch(() => this.draw());
  #chosen = null; // the name of the room whose clients are shown
  #isPressed = false; // a row is, and a moment later let go of: till then it must stay

  /** `join(name)` is called to connect to a room. */
  constructor(join) {
    $("join").addEventListener("click", () => join(this.#chosen));
    $("room-rows").addEventListener("pointerdown", ({ button }) => {
      this.#isPressed = button === 0; // no other one is a click
    });
    for (const end of ["pointerup", "pointercancel"]) {
      window.addEventListener(end, () => (this.#isPressed = false));
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    window.addEventListener("resize", () => this.draw());
    setInterval(() => this.#showProblem(), 500); // it counts down
  }

  look() {
    this.#watch.look();
  }

  draw() {
    this.#showProblem();
    const { facts } = this.#watch;
    if (!facts) return;
    $("served").textContent = `ScaleSocket ${facts.version} serves ${facts.target}`;
    const old = facts.problem && `The old code goes on: ${facts.problem}`; // --reload
    $("old-code").hidden = !old;
    if ($("old-code").textContent !== old) $("old-code").textContent = old;
    if ($("rooms-view").hidden) return;
    this.#showTotals(facts);
    this.#showCharts();
    this.#showRooms(facts.rooms);
    this.#showDetail(facts.rooms.find(({ name }) => name === this.#chosen));
  }

  #showProblem() {
    const { problem, retryAt, facts } = this.#watch;
    document.body.dataset.server = problem ? "silent" : facts ? "live" : "asking";
    $("silence").hidden = !problem;
    const words = problem && `The server does not tell: ${problem}.`;
    if ($("reason-of-silence").textContent !== words) $("reason-of-silence").textContent = words;
    // Apart from the text: a screen reader should not read out each second.
    const left = Math.max(0, Math.ceil((retryAt - performance.now()) / 1_000));
    $("countdown").textContent = `Next try in ${left} s.`;
  }

  #showTotals({ uptime, threads, kind, rooms, totals }) {
    const values = {
      Up: duration(uptime),
      Kind: kind,
      Rooms: rooms.length,
      Connections: totals.connections,
      Threads: threads,
      "Messages in": totals.messages_in.toLocaleString("en"),
      "Messages out": totals.messages_out.toLocaleString("en"),
      Dropped: totals.dropped,
      "Closed as slow": totals.slow_closed,
    };
    const items = Object.entries(values).map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
    $("totals").replaceChildren(...items);
  }

  #showCharts() {
    const { history, rates } = this.#watch;
    const now = rates.get(null) ?? NO_RATES;
    for (const [names, id] of [[MESSAGES, "messages"], [BYTES, "bytes"]]) {
      drawChart($(`${id}-chart`), history, names);
      $(`${id}-now`).replaceChildren(
        make("span", { className: "in", textContent: `in ${shorten(now[names[0]])}` }),
        make("span", { className: "out", textContent: `out ${shorten(now[names[1]])}` }));
    }
  }

  #showRooms(rooms) {
    if (this.#isPressed) return;
    const sorted = rooms.toSorted(
      (a, b) => b.clients.length - a.clients.length || a.name.localeCompare(b.name));
    const focused = document.activeElement?.dataset.room;
    $("room-rows").replaceChildren(...sorted.slice(0, MOST_ROWS).map((room) => this.#row(room)));
    if (focused !== undefined) {
      const button = $("room-rows").querySelector(`[data-room="${CSS.escape(focused)}"]`);
      button?.focus({ preventScroll: true }); // its reader may be looking at another part
    }
    $("room-note").textContent = describeList(rooms.length);
  }

  #row(room) {
    const rates = this.#watch.rates.get(room.name) ?? NO_RATES;
    const button = make("button", { type: "button", className: "link", textContent: room.name });
    button.dataset.room = room.name;
    button.ariaExpanded = `${room.name === this.#chosen}`;
    const backlog = room.clients.reduce((sum, client) => sum + client.backlog, 0);
    const name = make("th", { scope: "row" }, button);
    const row = make("tr", { className: "choosable" }, name, ...cells([
      room.clients.length,
      ...[...MESSAGES, ...BYTES].map((name) => shorten(rates[name])),
      shorten(room.inbox), shorten(backlog), room.dropped, room.slow_closed, duration(room.age),
    ]));
    row.addEventListener("click", () => { // anywhere on it; from the keyboard it is the name
      this.#chosen = this.#chosen === room.name ? null : room.name;
      this.draw();
      if (this.#chosen !== null) $("room-detail").scrollIntoView({ block: "nearest" });
    });
    return row;
  }

  #showDetail(room) {
    $("room-detail").hidden = !room;
    if (!room) return;
    $("detail-title").textContent = `Clients of ${room.name}`;
    const rows = room.clients.slice(0, MOST_ROWS).map((client) =>
      make("tr", {}, make("th", { scope: "row", textContent: `#${client.id}` }), ...cells([
        endpoint(client), duration(client.age), shorten(client.backlog), client.coding,
      ])));
    $("client-rows").replaceChildren(...rows);
    const { length } = room.clients;
    $("client-note").textContent = length > MOST_ROWS ? `The first ${MOST_ROWS} of ${length}.` : "";
    $("metadata").hidden = room.metadata === null;
    $("metadata").textContent = `metadata: ${JSON.stringify(room.metadata, null, 2)}`;
  }
}

function describeList(count) {
  if (!count) return "There is no room: a room begins when a client joins it.";
  return count > MOST_ROWS ? `The ${MOST_ROWS} fullest of ${count} rooms.` : "";
}

const cells = (values) => values.map((value) => make("td", { textContent: value }));

function endpoint({ address, port }) {
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Seconds in the two largest units: 42 s, 3 min 20 s, 5 h 2 min, 2 d 4 h. */
function duration(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}
