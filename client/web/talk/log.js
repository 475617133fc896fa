// What was sent and what has come, as lines: text as it is, JSON indented, bytes in hexadecimal.

const MOST_LINES = 1_000; // that are kept on the page
const MOST_BYTES = 64; // that are shown of a binary message
const MOST_CHARACTERS = 20_000; // … and of a text
const DEEPEST = 40; // lists in lists: each line of them begins with twice as many blanks
const TURNING = /[\u202a-\u202e\u2066-\u2069]/g; // signs that turn around what follows them
const NARROW = 60; // characters: JSON that is longer is shown in several lines
const NEAR_END = 40; // pixels

export class Log {
  #root;
  #list;
  #atEnd = true; // as of the last scroll: a new line must not change that by itself
  #fresh = []; // lines for the next picture: to find the end after each of them lays all out anew
  #due = 0; // that picture

  /** `root` scrolls, `list` in it has the lines. */
  constructor({ root, list }) {
    this.#root = root;
    this.#list = list;
    root.addEventListener("scroll", () => {
      this.#atEnd = root.scrollHeight - root.scrollTop - root.clientHeight < NEAR_END;
    });
    new ResizeObserver(() => this.#settle()).observe(root);
  }

  /** Show a message; `way` is "sent" or "come". */
  add(way, data) {
    const content = document.createElement("pre");
    const { text, kind } = describe(data);
    content.textContent = text; // it comes from strangers: text, never markup
    content.dataset.kind = kind;
    if (kind === "text") content.dir = "auto";
    const who = document.createElement("span");
    who.className = "unseen";
    who.textContent = way === "sent" ? "You sent" : "It says";
    const time = document.createElement("time");
    time.textContent = new Date().toLocaleTimeString();
    this.#append(way, who, content, time);
    if (way !== "sent") return;
    this.#atEnd = true;
    this.#settle();
  }

  /** Show a word of this page's own. */
  tell(...words) {
    const text = document.createElement("p");
    text.append(...words);
    this.#append("news", text);
    this.#settle();
  }

  clear() {
    this.#fresh = [];
    this.#list.replaceChildren();
  }

  #append(name, ...parts) {
    const item = document.createElement("li");
    item.className = name;
    item.append(...parts);
    this.#fresh.push(item);
    if (this.#fresh.length > MOST_LINES) this.#fresh.shift(); // a hidden page has no pictures
    this.#due ||= requestAnimationFrame(() => this.#settle());
  }

  #settle() {
    cancelAnimationFrame(this.#due);
    this.#due = 0;
    this.#list.append(...this.#fresh.splice(0));
    while (this.#list.children.length > MOST_LINES) this.#list.firstChild.remove();
    if (this.#atEnd) this.#root.scrollTop = this.#root.scrollHeight;
  }
}

/** What to show of a message: {text, kind}, and kind is "text", "json" or "bytes". */
export function describe(data) {
  if (typeof data !== "string") return { text: inHex(new Uint8Array(data)), kind: "bytes" };
  const value = data.length <= MOST_CHARACTERS ? parseObject(data) : null;
  if (value === null || isDeep(value)) return { text: cut(data), kind: "text" };
  const flat = data.trim().length <= NARROW;
  const text = (flat ? data.trim() : indent(value)).replace(TURNING, escaped);
  return text.length > 5 * MOST_CHARACTERS ? { text: data, kind: "text" } : { text, kind: "json" };
}

function isDeep(value, left = DEEPEST) {
  if (typeof value !== "object" || value === null) return false;
  return left === 0 || Object.values(value).some((inner) => isDeep(inner, left - 1));
}

/** JSON in several lines; a short list, or object, stays in one. A line break in a string is `\n`
    there, so what is joined is never a string. */
function indent(value) {
  const short = /([[{])\n\s*([^[\]{}]{0,60}?)\n\s*([\]}])/g;
  return JSON.stringify(value, null, 2).replace(short, (_, open, inner, close) =>
    `${open}${inner.replace(/\n\s*/g, " ")}${close}`);
}

function escaped(sign) {
  return `\\u${sign.charCodeAt(0).toString(16)}`;
}

function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

function cut(text) {
  if (text.length <= MOST_CHARACTERS) return text;
  return `${text.slice(0, MOST_CHARACTERS)} … (${text.length} characters)`;
}

function inHex(bytes) {
  const shown = Array.from(bytes.subarray(0, MOST_BYTES), (byte) =>
    byte.toString(16).padStart(2, "0"));
  const rest = bytes.length > MOST_BYTES ? " …" : "";
  return `${bytes.length} ${bytes.length === 1 ? "byte" : "bytes"}: ${shown.join(" ")}${rest}`;
}
