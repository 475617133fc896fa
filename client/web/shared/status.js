// Says in words how the connection is: a short word in the header that is always there, and a
// note over the game when something is amiss, with the reason and what happens next.

import { BASE } from "./connection.js";

const GOOD_NEWS_STAYS = 4_000; // milliseconds
const WORDS_STAY = 10_000;
const SLOW_AFTER = 1_000; // a connection attempt that takes this long is worth a note

const LOST = 1006; // no closing handshake at all
const ELSEWHERE = 4001; // another window has taken the seat back

const WORDS = {
  connecting: "Connecting…",
  connected: "Connected",
  waiting: "Offline",
  closed: "Closed",
};

export class StatusView {
  #connection;
  #parts;
  #repeats;
  #timer = 0;

  /** `parts` are elements: {word, note, text, countdown, retry}; `repeats()` tells whether the
      page says again what was lost on the way. */
  constructor(connection, parts, repeats = () => false) {
    this.#connection = connection;
    this.#parts = parts;
    this.#repeats = repeats;
    parts.retry.addEventListener("click", () => {
      connection.retryNow();
      connection.open(); // it does nothing but where it is closed
    });
    connection.addEventListener("state", () => this.#update());
    connection.addEventListener("settled", () => this.#showSettled());
    this.#update();
  }

  /** Say something else for a while, or until the connection has news. */
  tell(words) {
    this.#say(words);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#hide(), WORDS_STAY);
  }

  #update() {
    const { state } = this.#connection;
    clearTimeout(this.#timer);
    document.body.dataset.status = state;
    this.#parts.word.textContent = WORDS[state];
    this.#parts.countdown.textContent = "";
    const elsewhere = state === "closed" && this.#connection.code === ELSEWHERE;
    this.#parts.retry.hidden = state !== "waiting" && !elsewhere;
    this.#parts.retry.textContent = elsewhere ? "Go on here" : "Try now";
    const show = {
      connecting: () => this.#showConnecting(),
      connected: () => this.#showConnected(),
      waiting: () => this.#showWaiting(),
      closed: () => (elsewhere ? this.#say("You go on in another window.") : this.#hide()),
    };
    show[state]();
  }

  #showConnecting() {
    if (this.#connection.reason) this.#say("Trying again now …");
    else this.#timer = setTimeout(() => this.#say("Still connecting …"), SLOW_AFTER);
  }

  /** What is said of a loss stays until it is known that this connection lasts. */
  #showConnected() {
    if (!this.#connection.reason) this.#hide();
  }

  #showSettled() {
    const { reason, resumed, lost } = this.#connection;
    if (!reason) return;
    const missed = lost && !this.#repeats() ? "but not all that you did has arrived" : "nothing missed";
    this.#say(resumed ? `Back again, ${missed}.` : "Connected again.");
    this.#timer = setTimeout(() => this.#hide(), GOOD_NEWS_STAYS);
  }

  #showWaiting() {
    const reason = this.#connection.reason.replace(/\.$/, "");
    this.#say(`No connection: ${reason}.`);
    this.#countDown();
    if (this.#connection.code === LOST) this.#lookWhetherItIsThere();
  }

  /** A browser hides why there is no WebSocket: the server may be there, and refuse this one. */
  async #lookWhetherItIsThere() {
    const answer = await fetch(new URL("health", BASE), { cache: "no-store" }).catch(() => null);
    const { state, code } = this.#connection; // where the answer is late, another loss may be told
    if (!answer?.ok || state !== "waiting" || code !== LOST) return;
    this.#say("No connection: the server is there, but it refuses this page or this room.");
  }

  /** The seconds are kept apart from the text: a screen reader should not read out each one. */
  #countDown() {
    const left = Math.max(0, this.#connection.retryAt - performance.now());
    this.#parts.countdown.textContent = `Next try in ${Math.ceil(left / 1_000)} s.`;
    this.#timer = setTimeout(() => this.#countDown(), 250);
  }

  #say(words) {
    this.#parts.text.textContent = words;
    this.#parts.note.classList.add("shown");
  }

  #hide() {
    this.#parts.note.classList.remove("shown");
  }
}
