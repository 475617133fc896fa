// A WebSocket that comes back: after a loss there is a new attempt, with exponential back-off.
// It draws nothing and knows no game, so that any page can use it, also your own: the server has
// it at /shared/connection.js in any --staticdir (client/README.md, "Pages"). Messages are JSON
// both ways, or whatever a codec of the page's own makes of them.
//
//   const connection = new Connection(roomUrl(fromUrl("room", "meadow")));
//   connection.addEventListener("message", (event) => use(event.detail));
//   connection.addEventListener("state", () => show(connection.state, connection.reason));
//   connection.open();
//
// state    what is going on
// connecting  an attempt is under way
// connected   messages flow
// waiting     lost or refused; `retryAt` says when the next attempt starts
// closed      closed by this page, or its seat was taken back in another window (code 4001);
//             nothing will happen until open(), which takes back a seat that outlives a reload
//
// A server that is full opens a connection, too, and closes it at once: "settled" tells of one
// that has lasted for a moment, or over which something has come.
//
// Where the server keeps seats (--resume; it says so in lobby/about.json) this page has one, by
// itself. What it has missed comes after a loss, as if there had been none, and what it says
// meanwhile is sent then: `resumed` tells that the room goes on where it was, and will not
// introduce itself anew. Seats are in seat.js.
//
// A network that is gone says nothing: the browser goes on to call the connection open, and hides
// the server's pings. Where a server tells something all the time, `silence` is the time without
// a message after which it is given up.

import { Seat } from "./seat.js";

const FIRST_DELAY = 500; // milliseconds before the first new attempt
const LONGEST_DELAY = 15_000;
const SETTLED_AFTER = 500; // milliseconds
const STEADY_AFTER = 5_000; // a connection this old was a good one: back-off starts over
const MOST_UNSENT = 2 ** 20; // bytes that may wait in the browser to go out
const LOOK_EVERY = 1_000;
const ASKED_FOR = 5_000; // milliseconds until a server that says nothing of seats cannot be reached
const SEATED_WITHIN = 10_000; // milliseconds from when a connection is open, as in client/seat.py
const ELSEWHERE = 4001; // close code: the seat has been taken back by another connection
const REFUSALS = [401, 403, 429]; // HTTP: for now, as to whoever has to log in anew, or asks too often

const JSON_TEXT = { encode: JSON.stringify, decode: JSON.parse };

export class Connection extends EventTarget {
  state = "closed";
  reason = ""; // why the last connection ended, in words
  code = 0; // the same as a close code
  retryAt = 0; // on the clock of performance.now()
  resumed = false; // since the last loss nothing has been missed, and the room goes on
  lost = 0; // of what this page has said, so many messages had to be given up at the last loss

  #url;
  #protocols;
  #codec;
  #seated; // whether to ask for a seat; undefined: where the server keeps them
  #lasts;
  #seat = null; // once this page knows that it may have one
  #attempt = 0; // number of the latest
  #socket = null;
  #silence;
  #failures = 0;
  #openedAt = 0;
  #timer = 0; // of the next attempt, of a server that is to say which seat this page has, or:
  #settling = false; // connected, and it is not known yet whether that lasts
  #draining = 0; // a timer: much waits to go out
  #silentFor = NaN; // milliseconds, counted once something has come

  /** `protocols` are the subprotocols to offer. `codec.encode(message)` returns what is sent, a
      string or bytes; `codec.decode(data)` makes a message of a string or an ArrayBuffer, or
      throws if it is none. `silence` is in milliseconds. `seat: false` wants none, and `true` one
      also of a server that this page does not come from. With `reload: true` the seat is kept
      when the page is loaded anew; its room has to tell it everything then (`client.restored`,
      #RESTORED). Otherwise a page that goes gives it back. */
  constructor(url, { protocols = [], codec = JSON_TEXT, silence = Infinity, ...more } = {}) {
    super();
    const { seat, reload = false } = more;
    this.#seated = seat;
    this.#lasts = reload;
    this.#url = url;
    this.#protocols = protocols;
    this.#codec = codec;
    this.#silence = silence;
    if (silence < Infinity) setInterval(() => this.#listenFor(LOOK_EVERY), LOOK_EVERY);
    // The network is back: no point in waiting out the delay.
    window.addEventListener("online", () => this.retryNow());
    window.addEventListener("pagehide", () => this.#seat && !reload && this.#socket?.close(1000));
  }

  open() {
    if (this.state === "closed") this.#connect();
  }

  /** Leave where we are and go to another address, as if this page had just been opened. */
  moveTo(url) {
    this.#url = url; // all of it before `close`: whoever is told may open it again
    this.#failures = 0;
    this.reason = "";
    this.code = 0;
    this.close();
    this.open();
  }

  close() {
    this.#attempt += 1;
    this.#giveUpSeat();
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null; // from here on its events are those of a stranger
    // Browsers warn of a socket that is closed before it has opened.
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close(1000);
    else socket?.close(1000);
    this.#enter("closed");
  }

  retryNow() {
    if (this.state !== "waiting") return;
    clearTimeout(this.#timer);
    this.#connect();
  }

  /** Send one message. Returns false, and sends nothing, while there is no connection, also when
      it has begun to close, and while much waits to go out already; "drain" says when that has.
      Who has a seat to come back to may go on: then it is sent when the connection is back. */
  send(message) {
    if (this.state !== "connected" || this.#socket.readyState !== WebSocket.OPEN) {
      return Boolean(this.#seat?.isTaken) && this.#seat.keep(this.#codec.encode(message));
    }
    if (this.#socket.bufferedAmount > MOST_UNSENT) {
      this.#draining ||= setInterval(() => this.#drain(), 50);
      return false;
    }
    const data = this.#codec.encode(message);
    this.#seat?.say(data);
    this.#socket.send(data);
    return true;
  }

  #drain() {
    if (this.#socket?.bufferedAmount > MOST_UNSENT / 2) return;
    if (this.state !== "connected" && this.#seat?.isTaken) return; // when it is back
    clearInterval(this.#draining);
    this.#draining = 0;
    if (this.state === "connected") this.dispatchEvent(new Event("drain"));
  }

  /** Time is counted only while this page runs: one that slept has heard nothing, either. */
  #listenFor(milliseconds) {
    this.#silentFor += milliseconds;
    if (this.state !== "connected" || !(this.#silentFor > this.#silence)) return;
    this.#giveUp("nothing has come any more");
  }

  #giveUp(reason) {
    this.#socket.close(); // it may be minutes before the browser says that it is
    this.#ended({ code: 1006, reason });
  }

  /** Send a message, and return how many milliseconds pass until one comes for which `isAnswer`
      is true. Rejects if there is no connection, or it is lost before. */
  roundTrip(message, isAnswer) {
    return new Promise((resolve, reject) => {
      const sentAt = performance.now();
      const ends = new AbortController();
      const listen = (type, handle) =>
        this.addEventListener(type, handle, { signal: ends.signal });
      listen("message", ({ detail }) => {
        if (!isAnswer(detail)) return;
        ends.abort();
        resolve(performance.now() - sentAt);
      });
      const fail = () => {
        ends.abort();
        reject(new Error("there is no connection"));
      };
      listen("state", fail);
      if (this.state !== "connected" || !this.send(message)) fail();
    });
  }

  #connect() {
    const attempt = (this.#attempt += 1);
    this.#enter("connecting");
    if (attempt !== this.#attempt) return; // who was told has closed, or moved
    const isOwn = this.#url.startsWith(roomUrl("")); // a server that may say whether it keeps seats
    if (this.#seated === undefined && isOwn) this.#askAndOpen(attempt);
    else this.#open(Boolean(this.#seated));
  }

  /** Ask each time: a server that has been started anew may have other options. */
  async #askAndOpen(attempt) {
    const seated = await keepsSeats().catch(() => null);
    if (attempt !== this.#attempt) return; // closed meanwhile, or moved
    if (seated === null && this.#seat) this.#ended({ code: 1006, reason: "" });
    else this.#open(Boolean(seated));
  }

  #open(seated) {
    if (!seated) this.#giveUpSeat();
    else this.#seat ??= new Seat(this.#url, this.#lasts);
    const mark = this.#url.includes("?") ? "&_seat" : "?_seat";
    const socket = new WebSocket(this.#url + (seated ? mark : ""), this.#protocols);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    const ifCurrent = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onopen = ifCurrent(() => (seated ? this.#askForSeat() : this.#opened(false)));
    socket.onmessage = ifCurrent((event) => this.#heard(event.data));
    socket.onclose = ifCurrent((event) => this.#ended(event));
  }

  /** A proxy may open a connection behind which nobody is. */
  #askForSeat() {
    this.#timer = setTimeout(() => this.#giveUp("the server does not answer"), SEATED_WITHIN);
    this.#socket.send(this.#seat.opening);
  }

  #opened(resumed) {
    clearTimeout(this.#timer);
    this.#openedAt = performance.now();
    this.#silentFor = NaN;
    this.#settling = true;
    this.#timer = setTimeout(() => this.#settle(), SETTLED_AFTER);
    this.resumed = resumed;
    this.#enter("connected");
  }

  #settle() {
    clearTimeout(this.#timer);
    this.#settling = false;
    this.dispatchEvent(new Event("settled"));
  }

  #heard(data) {
    if (!this.#seat) this.#received(data);
    else if (this.state === "connected") {
      this.#seat.count();
      this.#received(data);
    } else this.#sit(JSON.parse(data)._seat);
  }

  /** The server has given this page its seat, for the first time or again. */
  #sit(answer) {
    const { again, goesOn, lost } = this.#seat.take(answer);
    this.lost = lost;
    for (const said of again) this.#socket.send(said);
    this.#opened(goesOn);
    if (this.state === "connected") this.#settle();
  }

  #giveUpSeat() {
    this.#seat?.giveUp();
    this.#seat = null;
    this.resumed = false;
  }

  #received(data) {
    this.#silentFor = 0;
    let message;
    try {
      message = this.#codec.decode(data);
    } catch (error) {
      console.warn("ignored, it is no message:", data, error);
      return;
    }
    if (this.#settling) this.#settle();
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  #ended(event) {
    clearTimeout(this.#timer);
    const steady =
      this.state === "connected" && performance.now() - this.#openedAt > STEADY_AFTER;
    this.#failures = steady ? 0 : this.#failures;
    this.#socket = null;
    this.reason = describeClose(event);
    this.code = event.code;
    if (this.#seat && isElsewhere(event)) {
      this.#seat.lose();
      this.resumed = false;
      return this.#enter("closed"); // who came back at once would be thrown out by the other, too
    }
    const delay = backoff(this.#failures);
    this.#failures += 1;
    this.retryAt = performance.now() + delay;
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#enter("waiting");
  }

  #enter(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

/** Double the delay each time, and take a random half off: a thousand pages that lost the same
    server must not all come back in the same instant. */
export function backoff(failures, random = Math.random) {
  const full = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** failures);
  return full * (0.5 + 0.5 * random());
}

/** Whether the server that this page comes from keeps seats. Rejects if it cannot be reached. */
async function keepsSeats() {
  const signal = AbortSignal.timeout(ASKED_FOR);
  const response = await fetch(new URL("lobby/about.json", BASE), { cache: "no-store", signal });
  if (response.status >= 500) throw new Error("a proxy whose server restarts");
  if (REFUSALS.includes(response.status)) throw new Error("it does not say");
  const text = await response.text();
  return response.ok && resumes(text);
}

function resumes(about) {
  try {
    return JSON.parse(about)?.resume > 0;
  } catch {
    return false; // another kind of server
  }
}

/** Where the server begins: the folder above this one, so that it may be below --basepath. */
export const BASE = new URL("../", import.meta.url);

/** What the page's address says of something, as in ?room=pond&name=Ann, or else the usual. */
export function fromUrl(key, usual = "") {
  return new URLSearchParams(location.search).get(key) || usual;
}

/** The address of a room on the server that this page came from. */
export function roomUrl(room) {
  const url = new URL(encodeURIComponent(room), BASE);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

// What the closing handshake says (RFC 6455, 7.4.1). 1006 is the browser's own word for
// "no closing handshake at all": the network broke, or the server refused.
const CLOSE_WORDS = {
  1000: "the room was closed",
  1001: "the server is going away",
  1006: "the server cannot be reached",
  1008: "the server turned us away",
  1009: "a message was too large",
  1011: "the game stopped unexpectedly",
  1012: "the server restarts",
  1013: "the server is full",
};

function isElsewhere({ code, reason }) {
  return code === ELSEWHERE && reason === "resumed elsewhere"; // not a game's own 4001
}

function describeClose({ code, reason }) {
  if (isElsewhere({ code, reason })) return "you go on in another window";
  return reason || CLOSE_WORDS[code] || `close code ${code}`;
}
