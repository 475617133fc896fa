// Everything a person does to a terminal: keys, text from a phone's keyboard or an input method,
// paste, mouse, and the buttons for keys that a phone does not have.

import { bytesFor, bytesForMouse, bytesForPaste, unmasked, withControl } from "./keys.js";

const KEPT = "  "; // in the field, so that a phone's keyboard has something to delete

const INPUTS = {
  insertLineBreak: "\r", insertParagraph: "\r", deleteContentBackward: "\x7f",
  deleteWordBackward: "\x17", deleteContentForward: "\x1b[3~",
};

export class Keyboard {
  #terminal;
  #view;
  #input;
  #scroller;
  #send;
  #controlButton;
  #soFar = ""; // what has been sent of the word that is being composed
  #half = ""; // the first half of a character, as Firefox brings those of two halves one by one
  #pressed = null; // the mouse's button, while the program is told about it

  /** `send(text)` is given what is to be sent. `parts` are {input, scroller, keys}. */
  constructor(terminal, view, { input, scroller, keys }, send) {
    this.#terminal = terminal;
    this.#view = view;
    this.#input = input;
    this.#scroller = scroller;
    this.#send = send;
    this.#controlButton = keys.querySelector('[data-key="Control"]');
    document.addEventListener("keydown", (event) => this.#keyDown(event));
    document.addEventListener("paste", (event) => this.#paste(event));
    input.addEventListener("beforeinput", (event) => this.#beforeInput(event));
    input.addEventListener("compositionupdate", (event) => onPhone() && this.#retype(event.data));
    input.addEventListener("compositionend", (event) => this.#composed(event.data));
    input.addEventListener("focus", () => this.#focus("\x1b[I"));
    input.addEventListener("blur", () => this.#focus("\x1b[O"));
    keys.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the focus
    keys.addEventListener("click", (event) => this.#button(event.target.closest("button")));
    this.#listenToMouse();
    this.#empty();
  }

  focus() {
    this.#input.focus({ preventScroll: true });
  }

  // ---- Keys

  #keyDown(event) {
    const elsewhere = ![document.body, this.#input, this.#scroller].includes(event.target);
    const browsers = event.metaKey || (event.ctrlKey && event.shiftKey);
    const pressed = unmasked(event);
    if (elsewhere || browsers || !pressed || this.#wantsCopy(pressed)) return;
    if (event.shiftKey && /^Page(Up|Down)$/.test(event.key) && !this.#terminal.alternate) {
      event.preventDefault();
      this.#view.scrollBy(event.key === "PageUp" ? -0.9 : 0.9);
      return;
    }
    if (pressed.ctrlKey && pressed.key.toLowerCase() === "v") return; // comes as "paste"
    const optionTypes = /^(Mac|iP)/.test(navigator.platform);
    const bytes = bytesFor(pressed, this.#terminal.modes, { optionTypes });
    if (bytes) {
      event.preventDefault();
      this.#emit(bytes);
    }
    this.focus();
  }

  #wantsCopy({ ctrlKey, key }) {
    const wanted = ctrlKey && key.toLowerCase() === "c" && !getSelection().isCollapsed;
    // Once it is copied, the next Ctrl-C is for the program again.
    if (wanted) setTimeout(() => getSelection().removeAllRanges());
    return wanted;
  }

  #beforeInput(event) {
    if (event.isComposing || !event.cancelable) return;
    event.preventDefault();
    const text = event.data ?? event.dataTransfer?.getData("text/plain") ?? "";
    if (Object.hasOwn(INPUTS, event.inputType)) this.#emit(INPUTS[event.inputType]);
    else if (/[\r\n]/.test(text)) this.#emit(bytesForPaste(text, this.#terminal.modes));
    else this.#typed(text);
  }

  #typed(typed) {
    this.#empty();
    const [, text, half] = /^(.*?)([\ud800-\udbff]?)$/s.exec(this.#half + typed);
    this.#half = half;
    if (!text) return;
    const withCtrl = this.#controlButton.getAttribute("aria-pressed") === "true";
    this.#pressControl(false);
    this.#emit((withCtrl && withControl(text)) || text);
  }

  /** Phones compose whole words; a terminal wants every letter when it is typed. */
  #retype(text) {
    const [before, now] = [[...this.#soFar], [...text]]; // whole characters
    let same = 0;
    while (same < now.length && now[same] === before[same]) same += 1;
    const gone = before.length - same;
    this.#soFar = text;
    const bytes = INPUTS.deleteContentBackward.repeat(gone) + now.slice(same).join("");
    if (bytes) this.#emit(bytes);
  }

  #composed(text) {
    if (!onPhone()) return this.#typed(text);
    this.#retype(text);
    this.#soFar = "";
    this.#empty();
  }

  #empty() {
    this.#input.value = KEPT;
  }

  #paste(event) {
    event.preventDefault();
    this.#emit(bytesForPaste(event.clipboardData.getData("text"), this.#terminal.modes));
  }

  #emit(bytes) {
    this.#send(bytes);
    this.#view.scrollToCursor();
  }

  #focus(report) {
    document.body.classList.toggle("focused", report === "\x1b[I");
    if (this.#terminal.modes.focus) this.#send(report);
  }

  // ---- Buttons

  #button(button) {
    if (!button) return;
    const { key } = button.dataset;
    const ctrlKey = this.#controlButton.getAttribute("aria-pressed") === "true";
    if (key === "Control") {
      this.#pressControl(!ctrlKey);
    } else {
      const bytes = bytesFor({ key, ctrlKey }, this.#terminal.modes);
      this.#pressControl(false);
      this.#emit(bytes || key);
    }
    this.focus();
  }

  #pressControl(on) {
    this.#controlButton.setAttribute("aria-pressed", on);
  }

  // ---- Mouse

  #listenToMouse() {
    const scroller = this.#scroller;
    scroller.addEventListener("mousedown", (event) => this.#mouse(event, event.button));
    scroller.addEventListener("mousemove", (event) => this.#dragged(event));
    window.addEventListener("mouseup", (event) => this.#released(event));
    scroller.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    scroller.addEventListener("click", () => getSelection().isCollapsed && this.focus());
  }

  /** Tell the program about the mouse, if it asks for it; with Shift the mouse selects text. */
  #mouse(event, button, released = false) {
    if (event.shiftKey) return false;
    const place = this.#view.cellAt(event);
    const bytes = bytesForMouse({ button, released, ...place }, this.#terminal.modes);
    if (!bytes) return false;
    event.preventDefault();
    this.#pressed = released || button > 2 ? null : { button, ...place };
    this.#send(bytes);
    this.focus();
    return true;
  }

  #dragged(event) {
    if (!this.#pressed || this.#terminal.modes.mouse < 1002) return;
    const { x, y } = this.#view.cellAt(event);
    if (x === this.#pressed.x && y === this.#pressed.y) return;
    Object.assign(this.#pressed, { x, y });
    const button = 32 + this.#pressed.button;
    this.#send(bytesForMouse({ button, x, y }, this.#terminal.modes));
  }

  #released(event) {
    if (this.#pressed) this.#mouse(event, this.#pressed.button, true);
    this.#pressed = null;
  }

  /** Where there is nothing to scroll, the wheel is arrow keys: less and man expect it. */
  #wheel(event) {
    const up = event.deltaY < 0;
    if (this.#mouse(event, up ? 64 : 65) || !this.#terminal.alternate) return;
    event.preventDefault();
    const key = up ? "ArrowUp" : "ArrowDown";
    this.#send(bytesFor({ key }, this.#terminal.modes).repeat(3));
  }
}

function onPhone() {
  return matchMedia("(pointer: coarse)").matches;
}
