// What one has said and the room has not yet heard.
//
// A message is "waiting" while there is no connection, "sent" when it is on its way, and done
// when the room has said it to everybody, this page included. What was on its way when the
// connection broke is sent again: its ID tells all who have it already that it is the same. Where
// the connection goes on (`resumed`) it has seen to that itself.

const ECHO_WITHIN = 5_000; // milliseconds; a program that has said nothing by then never will

export class Outbox {
  #send;
  #changed;
  #messages = new Map(); // id → {raw, state, timer}
  #hasAll = true;

  /** `send(raw)` returns whether it could be sent; `changed(id, state)` is told of every change:
      "waiting", "sent", or "done". */
  constructor({ send, changed }) {
    this.#send = send;
    this.#changed = changed;
  }

  get size() {
    return this.#messages.size;
  }

  /** Whether nothing was taken for said that the room has not repeated: no loss loses anything. */
  get hasAll() {
    return this.#hasAll;
  }

  /** Whether the room will say this again, if it does as the others do. */
  add(id, raw, { echoed }) {
    this.#messages.set(id, { raw, echoed, state: "", timer: 0, sent: false });
    this.#try(id);
  }

  /** The connection is there again, or takes more again. If it has `resumed`, what it has been
      given is on its way. */
  flush({ resumed = false } = {}) {
    for (const [id, message] of this.#messages) {
      if (message.state !== "waiting") continue;
      if (resumed && message.sent) this.#expect(id);
      else this.#try(id);
    }
  }

  /** The connection is gone, and nobody knows what has arrived. */
  interrupt() {
    for (const id of this.#messages.keys()) this.#enter(id, "waiting");
  }

  /** The room has said it. */
  heard(id) {
    this.#finish(id);
  }

  #try(id) {
    const message = this.#messages.get(id);
    if (!this.#send(message.raw)) return this.#enter(id, "waiting");
    message.sent = true;
    if (!message.echoed) return this.#believe(id);
    this.#expect(id);
  }

  #expect(id) {
    const message = this.#messages.get(id);
    this.#enter(id, "sent");
    message.timer = setTimeout(() => this.#believe(id), ECHO_WITHIN);
  }

  #believe(id) {
    this.#hasAll = false;
    this.#finish(id);
  }

  #enter(id, state) {
    const message = this.#messages.get(id);
    clearTimeout(message.timer);
    if (message.state === state) return;
    message.state = state;
    this.#changed(id, state);
  }

  #finish(id) {
    if (!this.#messages.has(id)) return;
    this.#enter(id, "done");
    this.#messages.delete(id);
  }
}
