// A place in a room that outlives its connections: what has to be known to take it back, and what
// this page has said, which is said again if the server has not got it (README.md, "Seats that
// outlive connections"). It opens nothing; connection.js does.

import { read, write } from "./name.js";

const MOST_KEPT = 2 ** 20; // bytes of what may be on its way, and as many that wait for a connection

export class Seat {
  #place; // where in the session the token is noted; empty: nowhere
  #token;
  #windows = null; // a channel to those of this browser that have had this seat
  #elsewhere = ""; // the token with which one of these has it
  #seen = null; // messages that have come for it; null: not known, this page is new
  #said = []; // the last of what was said, of which the server may lack something
  #size = 0; // bytes of these
  #first = 0; // number of the first
  #waiting = 0; // bytes of what was said while there is no connection

  /** `url` is the room's. A seat that `lasts` is taken back also by the page that is loaded anew. */
  constructor(url, lasts) {
    this.#place = lasts ? `scalesocket.seat:${url}` : "";
    this.#token = lasts ? read("sessionStorage", this.#place) : "";
  }

  /** Whether there is one to come back to. */
  get isTaken() {
    return this.#token !== "";
  }

  /** What a connection says first. */
  get opening() {
    const token = this.#token || this.#elsewhere;
    if (!token) return JSON.stringify({ _seat: {} });
    const wish = { token };
    if (this.#seen !== null) wish.seen = this.#seen;
    return JSON.stringify({ _seat: wish });
  }

  /** Take what the server answers. Returns what has to be said again, and whether nothing has
      been missed: `lost` is how many of the page's own messages nobody has any more. */
  take({ token, id, taken, seen, resumed }) {
    const goesOn = resumed && this.#seen !== null;
    if (!goesOn) this.#forgetSaid();
    const lost = goesOn ? Math.max(0, this.#first - taken) : 0;
    const again = this.#findLacking(taken);
    this.#waiting = 0;
    this.#seen = seen;
    this.#note(token);
    if (this.#place) this.#tellWindows(`${this.#place}#${id}`);
    return { again, goesOn, lost };
  }

  /** A message has come. */
  count() {
    this.#seen += 1;
  }

  /** Something is said over an open connection. What is older than the last mebibyte has long
      arrived. */
  say(data) {
    this.#add(data);
    while (this.#size > MOST_KEPT && this.#said.length > 1) this.#forgetOldest();
  }

  /** Something is said while there is none. Returns false if there is no more room for it. */
  keep(data) {
    if (this.#waiting + sizeOf(data) > MOST_KEPT) return false;
    this.#waiting += sizeOf(data);
    this.#add(data);
    return true;
  }

  /** It is given back. */
  giveUp() {
    this.#elsewhere = "";
    this.lose();
    this.#windows?.close();
  }

  /** Another page has it now: in the same tab, that keeps its own token; in another window, this
      one learns the token, and can take the seat back, also when it is loaded anew. */
  lose() {
    if (read("sessionStorage", this.#place) === this.#token) this.#note(this.#elsewhere);
    this.#token = "";
    this.#seen = null;
    this.#forgetSaid();
  }

  #note(token) {
    this.#token = token;
    if (this.#place) write("sessionStorage", this.#place, token);
  }

  #learn(token) {
    this.#elsewhere = token;
    if (!this.isTaken) write("sessionStorage", this.#place, token);
  }

  #tellWindows(name) {
    if (this.#windows?.name !== name) {
      this.#windows?.close();
      this.#windows = new BroadcastChannel(name);
      this.#windows.onmessage = ({ data }) => this.#learn(data);
    }
    this.#windows.postMessage(this.#token);
  }

  /** Return what the server lacks. The last of what it has taken is kept, too: a server that
      crashes then, or stops before its program has read it, has taken less after all. */
  #findLacking(taken) {
    const end = this.#first + this.#said.length;
    if (taken < this.#first || taken > end) {
      while (this.#said.length && this.#first < taken) this.#forgetOldest();
      this.#first = taken; // what was before is lost
    }
    while (this.#size > MOST_KEPT && this.#first < taken) this.#forgetOldest();
    return this.#said.slice(taken - this.#first);
  }

  #add(data) {
    this.#said.push(data);
    this.#size += sizeOf(data);
  }

  #forgetOldest() {
    this.#size -= sizeOf(this.#said.shift());
    this.#first += 1;
  }

  #forgetSaid() {
    this.#said = [];
    this.#size = this.#first = this.#waiting = 0;
  }
}

function sizeOf(data) {
  return data.byteLength ?? data.length;
}
