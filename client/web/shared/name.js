// The name that a player goes by: asked for once, remembered for the next time.

import { fromUrl } from "./connection.js";

const KEY = "scalesocket.name";
const SEEN = /[^\s\p{Cc}\p{Cf}\p{M}\p{DI}\u2800]/u; // some letters look like nothing: they are in DI

/** Whether nothing of a text can be seen. */
export function isBlank(text) {
  return !SEEN.test(text);
}

/** The words of strangers in a row with others, which they do not turn around. */
export function apart(text) {
  const part = document.createElement("bdi");
  part.textContent = text; // never as markup
  return part;
}

/** The form that asks who wants to play. It calls `join(name)`, and stays until hidden.

    Who has joined once has a `name`, and need not be asked again: not after the connection was
    lost, and not when this tab loads the page anew, for then it is the same player. */
export class NamePrompt {
  #form;
  #input;
  #problem;
  #place; // where in the session it is noted that this tab plays here
  #name = "";

  constructor(form, join) {
    this.#form = form;
    this.#input = form.querySelector("input");
    this.#problem = form.querySelector("[data-problem]");
    this.#place = `${KEY}:${location.pathname}${location.search}`;
    this.#name = this.#cut(read("sessionStorage", this.#place));
    // What the link says, or else the name of last time.
    this.#input.value = this.#name || this.#cut(fromUrl("name", read("localStorage", KEY)));
    this.#input.addEventListener("input", () => (this.#problem.textContent = ""));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submitted(join);
    });
  }

  /** Who plays in this tab; empty until somebody has said so. */
  get name() {
    return this.#name;
  }

  show(problem = "") {
    const appears = this.#form.hidden;
    if (!appears && !problem) return; // it says already why it asks
    this.#form.hidden = false;
    this.#problem.textContent = problem;
    // Who has played is still pressing keys that are not meant for this field; and on a phone
    // the keyboard would cover the page before it has been seen.
    const wanted = appears && !this.#name && matchMedia("(pointer: fine)").matches;
    if (wanted) this.#input.select();
  }

  hide() {
    const hadFocus = this.#form.contains(document.activeElement);
    this.#form.hidden = true;
    if (hadFocus) document.activeElement.blur();
  }

  /** Ask anew: the game would not have this name, and says why. */
  refuse(problem) {
    this.#name = "";
    write("sessionStorage", this.#place, "");
    this.show(problem);
  }

  /** A field bounds only what is typed into it; a link, or a page that takes longer names, does not
      know how long one may be here. */
  #cut(name) {
    const most = this.#input.maxLength;
    return most < 0 ? name : [...name].slice(0, most).join("").trim();
  }

  #submitted(join) {
    const name = this.#input.value.trim().replace(/\s+/g, " ");
    if (isBlank(name)) {
      this.#problem.textContent = "Please give a name.";
      this.#input.focus();
      return;
    }
    this.#name = name;
    write("localStorage", KEY, name);
    write("sessionStorage", this.#place, name);
    join(name);
  }
}

// A browser may refuse to remember anything; then it asks each time.

export function read(storage, key) {
  try {
    return window[storage].getItem(key) ?? "";
  } catch {
    return "";
  }
}

export function write(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // Nothing is lost but a convenience.
  }
}
