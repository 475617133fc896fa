// The messages on the screen: newest at the bottom, one's own at the right, and a mark where
// those begin that nobody has seen yet.

import { apart } from "../shared/name.js";
import { hueOf } from "../shared/paint.js";

const MOST_MESSAGES = 1_000; // that are kept on the page
const TOGETHER = 5 * 60_000; // milliseconds: what one says within them goes under one name
const NEAR_BOTTOM = 40; // pixels
const FEW_EMOJI = /^(?:\p{RGI_Emoji}\s*){1,3}$/v;
const LINK = /https?:\/\/[^\s<>"']*[^\s<>"'.,;:!?)\]}]/gu;
const STATES = { waiting: "Waiting for the connection", sent: "Sending" };

export class Log {
  #root;
  #list;
  #jump;
  #mark = divider("New", "unread");
  #unread = 0;
  #pending = new Map(); // id → element, at the very bottom
  #last = null; // the latest message that is not pending
  #fresh = document.createDocumentFragment(); // what the next picture shows beside the rest: to
  #due = 0; // find the end after each message would lay out all; and that picture

  /** `root` scrolls, `list` in it has the messages, `jump` is the button that leads to the end. */
  constructor({ root, list, jump }) {
    this.#root = root;
    this.#list = list;
    this.#jump = jump;
    root.addEventListener("scroll", () => this.#looked());
    jump.addEventListener("click", () => this.scrollToEnd());
    document.addEventListener("visibilitychange", () => this.#looked());
    new ResizeObserver(() => this.#atEnd && this.scrollToEnd()).observe(root);
  }

  #atEnd = true; // as of the last scroll: a new message must not change that by itself

  get unread() {
    return this.#unread;
  }

  /** Show what somebody has said, or `mine`. */
  add(message, { mine = false } = {}) {
    const element = draw(message, { mine, continued: this.#continues(message, mine) });
    this.#append(element, message, mine);
    if (!mine && (document.hidden || !this.#atEnd)) this.#markUnread(element);
    this.#showJump();
    this.#due ||= requestAnimationFrame(() => this.#settle());
  }

  /** Show one's own message, which the room has not yet heard. */
  addPending(message) {
    const element = draw(message, { mine: true, continued: false });
    this.#pending.set(message.id, element);
    this.#list.append(element);
    this.#mark.remove();
    this.scrollToEnd();
  }

  setState(id, state) {
    const element = this.#pending.get(id);
    if (!element) return;
    element.dataset.state = state;
    element.querySelector(".state").textContent = STATES[state] ?? "";
  }

  /** The room has heard it: it takes its place among what the others have said. */
  confirm(message) {
    const element = this.#pending.get(message.id);
    if (!element) return;
    const [next] = this.#pending.values();
    this.setState(message.id, "done");
    this.#pending.delete(message.id);
    element.classList.toggle("continued", this.#continues(message, true));
    this.#append(element, message, true, element === next);
    this.#settle();
  }

  scrollToEnd() {
    this.#atEnd = true;
    this.#settle();
    this.#looked();
  }

  #append(element, message, mine, isNext = false) {
    const day = new Date(message.at).toDateString();
    if (day !== this.#last?.day) {
      const words = new Date(message.at).toLocaleDateString(undefined, { dateStyle: "full" });
      this.#fresh.append(divider(words, "day"));
      element.classList.remove("continued");
    }
    // What is moved a screen reader reads out again.
    if (!isNext || this.#fresh.hasChildNodes()) this.#fresh.append(element);
    this.#last = { message, mine, day };
    cut(this.#fresh); // a hidden page has no pictures
  }

  #continues(message, mine) {
    if (this.#last === null || this.#last.mine !== mine || message.kind !== "chat") return false;
    const { kind, name, from, at } = this.#last.message;
    const together = Math.abs(message.at - at) < TOGETHER;
    return kind === "chat" && name === message.name && from === message.from && together;
  }

  #markUnread(element) {
    if (this.#unread === 0) element.before(this.#mark);
    this.#unread += 1;
    element.classList.remove("continued");
  }

  #settle() {
    cancelAnimationFrame(this.#due);
    this.#due = 0;
    const [firstPending = null] = this.#pending.values();
    this.#list.insertBefore(this.#fresh, firstPending);
    cut(this.#list);
    if (this.#atEnd) this.#root.scrollTop = this.#root.scrollHeight;
    this.#showJump();
  }

  #looked() {
    const { scrollTop, clientHeight, scrollHeight } = this.#root;
    this.#atEnd = scrollTop + clientHeight >= scrollHeight - NEAR_BOTTOM;
    if (this.#atEnd && !document.hidden) this.#unread = 0;
    this.#showJump();
  }

  #showJump() {
    this.#jump.hidden = this.#atEnd;
    const count = this.#unread === 1 ? "1 new message" : `${this.#unread} new messages`;
    this.#jump.textContent = this.#unread ? `↓ ${count}` : "↓ Latest";
    this.#list.dispatchEvent(new Event("unread"));
  }
}

// ---- Elements -------------------------------------------------------------
// Everything here came from strangers: it is set as text, never as markup.

function draw(message, { mine, continued }) {
  const item = document.createElement("li");
  item.className = message.kind;
  item.classList.toggle("mine", mine);
  item.classList.toggle("continued", continued);
  if (message.kind === "news") {
    item.append(...[message.text].flat());
    return item;
  }
  const bubble = part("div", "bubble");
  bubble.append(...drawText(message.text));
  bubble.classList.toggle("jumbo", FEW_EMOJI.test(message.text.trim()));
  bubble.dir = "auto";
  if (message.kind === "chat") item.append(drawAuthor(message));
  item.append(bubble, drawFoot(message.at));
  return item;
}

function drawAuthor({ name, from }) {
  const author = part("p", "author");
  author.append(apart(name));
  author.style.setProperty("--hue", hueOf(hash(name)));
  if (from) {
    const number = part("span", "from", from);
    number.title = "The number that the server has given to the sender";
    author.append(" ", number);
  }
  return author;
}

function drawFoot(at) {
  const foot = part("p", "foot");
  const time = part("time", "", new Date(at).toLocaleTimeString(undefined, { timeStyle: "short" }));
  time.dateTime = new Date(at).toISOString();
  time.title = new Date(at).toLocaleString();
  foot.append(time, " ", part("span", "state"));
  return foot;
}

/** Text with its web addresses made into links. */
function* drawText(text) {
  let end = 0;
  for (const { 0: address, index } of text.matchAll(LINK)) {
    if (!URL.canParse(address)) continue;
    yield text.slice(end, index);
    const link = part("a", "", address);
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    yield link;
    end = index + address.length;
  }
  yield text.slice(end);
}

function cut(list) {
  while (list.childElementCount > MOST_MESSAGES) list.firstElementChild.remove();
}

function divider(words, name) {
  const item = part("li", `divider ${name}`);
  item.append(part("span", "", words));
  return item;
}

function part(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function hash(text) {
  let sum = 0;
  for (const character of text) sum = (sum * 31 + character.codePointAt(0)) % 9_973;
  return sum;
}
