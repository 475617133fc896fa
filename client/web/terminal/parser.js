// Takes a stream of characters apart: what is to be printed, and what is an instruction.
//
// The states are those of every terminal since the VT100 (ECMA-48 says what the sequences look
// like). A sequence may be cut anywhere between two calls of `parse`; what is malformed is
// swallowed, never printed, and whatever is nested without end is bounded.

const MOST_PARAMETERS = 32;
const LARGEST_PARAMETER = 65_535;
const LONGEST_STRING = 4_096;

const ESC = "\x1b";
const PRINTABLE = /[^\0-\x1f\x7f-\x9f]+/y;

export class Parser {
  #handler;
  #state = "ground";
  #prefix = ""; // "?", ">" and the like, first in a control sequence
  #between = ""; // intermediate characters, just before the last
  #digits = "";
  #string = "";

  /** `handler` has the methods print(text), execute(character), escape(between, final),
      control({prefix, parameters, between, final}) and command(text). `parameters` are lists:
      "38:5:1;4" is [[38, 5, 1], [4]], and what is left out is 0. */
  constructor(handler) {
    this.#handler = handler;
  }

  parse(text) {
    for (let i = 0; i < text.length; i += 1) {
      if (this.#state === "ground") {
        PRINTABLE.lastIndex = i;
        const run = PRINTABLE.exec(text);
        if (run) {
          this.#handler.print(run[0]);
          i += run[0].length;
          if (i === text.length) return;
        }
      }
      this.#step(text[i]);
    }
  }

  reset() {
    this.#state = "ground";
  }

  #step(character) {
    if (character === "\x18" || character === "\x1a") return this.reset(); // cancelled
    if (character === ESC) return this.#begin();
    if (this.#state === "command" || this.#state === "ignored") return this.#inString(character);
    if (character < " ") return this.#handler.execute(character); // also within a sequence
    if (character >= "\x7f" && character <= "\x9f") return; // C1 controls are not used with UTF-8
    if (this.#state === "escape") this.#inEscape(character);
    else if (this.#state === "control") this.#inControl(character);
  }

  /** ESC begins a sequence, whatever came before; it also ends a string. */
  #begin() {
    if (this.#state === "command") this.#handler.command(this.#string);
    this.#state = "escape";
    this.#prefix = this.#between = this.#digits = this.#string = "";
  }

  #inEscape(character) {
    if (character < "0") {
      this.#between = (this.#between + character).slice(0, 4);
      return;
    }
    const opens = { "[": "control", "]": "command", P: "ignored", X: "ignored" };
    Object.assign(opens, { "^": "ignored", _: "ignored" });
    if (!this.#between && Object.hasOwn(opens, character)) {
      this.#state = opens[character];
      return;
    }
    this.#state = "ground";
    this.#handler.escape(this.#between, character);
  }

  #inControl(character) {
    if (character < "0") this.#between = (this.#between + character).slice(0, 4);
    else if (character <= ";") this.#digits += this.#digits.length < 512 ? character : "";
    else if (character <= "?") this.#prefix = (this.#prefix + character).slice(0, 4);
    else this.#finish(character);
  }

  #finish(final) {
    this.#state = "ground";
    const parameters = this.#digits.split(";", MOST_PARAMETERS).map(numbers);
    this.#handler.control({ prefix: this.#prefix, parameters, between: this.#between, final });
  }

  #inString(character) {
    if (character === "\x07") {
      if (this.#state === "command") this.#handler.command(this.#string);
      this.#state = "ground";
    } else if (this.#string.length < LONGEST_STRING) {
      this.#string += character;
    }
  }
}

function numbers(parameter) {
  const parts = parameter.split(":", MOST_PARAMETERS);
  return parts.map((digits) => Math.min(Number(digits) || 0, LARGEST_PARAMETER));
}
