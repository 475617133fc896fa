// A terminal: text with escape sequences goes in, and there is a screen to look at.
//
// It understands what programs expect of TERM=xterm-256color. It needs no browser, and nothing
// in it draws. References: ECMA-48, the DEC VT100 to VT420 manuals, and xterm's "Control
// Sequences", whose names (CUP, DECSTBM, …) stand in the tables below.

import { Parser } from "./parser.js";
import { PLAIN, nextPen } from "./pen.js";
import { Screen } from "./screen.js";
import { widthOf } from "./width.js";

const MOST_HISTORY = 2_000; // lines that have scrolled off the screen
const LONGEST_TITLE = 200;

const USUAL_MODES = {
  applicationCursor: false, // DECCKM: arrows send ESC O instead of ESC [
  reverse: false, // DECSCNM: ink and paper change places on the whole screen
  origin: false, // DECOM: lines are counted from the top of the region that scrolls
  wrap: true, // DECAWM
  cursor: true, // DECTCEM: the cursor can be seen
  mouse: 0, // 1000, 1002 or 1003: what is reported of the mouse
  mouseFormat: false, // 1006: how
  focus: false, // 1004: going and coming is reported
  paste: false, // 2004: what is pasted comes in brackets
  insert: false, // IRM
  newline: false, // LNM: a line feed also returns
};

const PRIVATE_MODES = {
  1: "applicationCursor", 5: "reverse", 6: "origin", 7: "wrap", 25: "cursor", 1004: "focus",
  1006: "mouseFormat", 2004: "paste",
};
const ANSI_MODES = { 4: "insert", 20: "newline" };
const MOUSE_MODES = new Set([1000, 1002, 1003]);
const ALTERNATE_MODES = new Set([47, 1047, 1049]);

const WHAT_IT_IS = "\x1b[?62;22c"; // a VT220 with colours
const ASCII = /^[ -~]+$/;

// The "special graphics" set: ` to ~ are symbols, corners and lines.
const GRAPHICS = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";

export class Terminal {
  columns;
  rows;
  title = "";
  history = []; // lines that have scrolled off, the oldest first
  departed = 0; // how many have, in all
  cleared = 0; // how often the history was erased
  modes = { ...USUAL_MODES };
  bell = () => {};
  reply = () => {}; // is given what the terminal answers, as text

  #parser = new Parser({
    print: (text) => this.#print(text),
    execute: (character) => this.#execute(character),
    escape: (between, final) => this.#escape(between, final),
    control: (sequence) => this.#control(sequence),
    command: (text) => this.#command(text),
  });
  #decoder = new TextDecoder();
  #main;
  #alternate;
  #screen;
  #pen = PLAIN;
  #charsets = ["B", "B"]; // G0 and G1: "B" is ASCII, "0" the special graphics
  #shift = 0; // which of the two is used
  #saved = new WeakMap(); // screen → where its cursor was
  #tabs;
  #colours;
  #lastPrinted = " ";

  /** `colours` are what to answer when asked for them: {ink, paper}, as "#rrggbb". */
  constructor(columns = 80, rows = 24, { colours = {} } = {}) {
    this.#colours = colours;
    this.columns = columns;
    this.rows = rows;
    this.reset();
  }

  get screen() {
    return this.#screen;
  }

  get alternate() {
    return this.#screen === this.#alternate;
  }

  /** What the screen says, line by line. */
  get text() {
    return this.#screen.lines.map((line) => line.text).join("\n").trimEnd();
  }

  /** Take what a program has written: bytes of UTF-8, or a string. */
  write(data) {
    const text = typeof data === "string" ? data : this.#decoder.decode(data, { stream: true });
    this.#parser.parse(text);
  }

  /** Begin again with the output of another program. */
  restart() {
    this.#decoder = new TextDecoder();
    this.#parser.reset();
    this.reset();
  }

  reset() {
    this.#main = new Screen(this.columns, this.rows, (line) => this.#leave(line));
    this.#alternate = new Screen(this.columns, this.rows);
    this.#screen = this.#main;
    this.#saved = new WeakMap();
    this.#tabs = new Tabs(this.columns);
    this.#softReset();
    this.#clearHistory();
    this.title = "";
  }

  resize(columns, rows) {
    if (columns === this.columns && rows === this.rows) return;
    this.columns = columns;
    this.rows = rows;
    for (const screen of [this.#main, this.#alternate]) screen.resize(columns, rows);
    this.#tabs = new Tabs(columns);
  }

  // ---- What the parser finds

  #print(text) {
    const graphics = this.#charsets[this.#shift] === "0";
    const { wrap, insert } = this.modes;
    if (!graphics && !insert && wrap && ASCII.test(text)) {
      this.#screen.putAscii(text, this.#pen);
      this.#lastPrinted = text.at(-1);
      return;
    }
    for (const character of text) {
      const shown = graphics ? graphic(character) : character;
      const width = widthOf(shown);
      if (width === 0) {
        this.#screen.putMark(shown);
      } else {
        this.#screen.put(shown, width, this.#pen, { wrap, insert });
        this.#lastPrinted = shown;
      }
    }
  }

  #repeat(count) {
    this.#print(this.#lastPrinted.repeat(Math.min(count, this.columns * this.rows)));
  }

  #execute(character) {
    const screen = this.#screen;
    if (character === "\r") screen.moveTo(0, screen.y);
    else if (character === "\n" || character === "\v" || character === "\f") this.#lineFeed();
    else if (character === "\b") screen.moveTo(screen.x - 1, screen.y);
    else if (character === "\t") this.#tab(1);
    else if (character === "\x07") this.bell();
    else if (character === "\x0e") this.#shift = 1;
    else if (character === "\x0f") this.#shift = 0;
  }

  #escape(between, final) {
    const screen = this.#screen;
    if (between === "(" || between === ")") this.#charsets[between === "(" ? 0 : 1] = final;
    else if (between === "#" && final === "8") screen.fill("E"); // DECALN
    else if (between) return;
    else if (final === "7") this.#save(); // DECSC
    else if (final === "8") this.#restore(); // DECRC
    else if (final === "D") screen.lineFeed(this.#pen); // IND
    else if (final === "E") this.#lineFeed(true); // NEL
    else if (final === "H") this.#tabs.set(screen.x); // HTS
    else if (final === "M") screen.reverseLineFeed(this.#pen); // RI
    else if (final === "Z") this.#answer(WHAT_IT_IS); // DECID
    else if (final === "c") this.reset(); // RIS
  }

  #control({ prefix, parameters, between, final }) {
    const first = parameters[0][0];
    const second = parameters[1]?.[0] ?? 0;
    const key = prefix + between + final;
    const facts = { first, pen: this.#pen, columns: this.columns };
    if (key === "J" && first === 3) this.#clearHistory(); // ED
    else if (Object.hasOwn(CONTROLS, key)) CONTROLS[key](this.#screen, first || 1, facts);
    else if (key === "H" || key === "f") this.#goTo((second || 1) - 1, (first || 1) - 1); // CUP
    else if (key === "d") this.#goTo(this.#screen.x, (first || 1) - 1); // VPA
    else if (key === "m") this.#pen = nextPen(this.#pen, parameters); // SGR
    else if (key === "I") this.#tab(first || 1); // CHT
    else if (key === "Z") this.#tab(-(first || 1)); // CBT
    else if (key === "b") this.#repeat(first || 1); // REP
    else if (key === "g") this.#tabs.clear(first === 3 ? null : this.#screen.x); // TBC
    else if (key === "r") this.#setRegion(first, second); // DECSTBM
    else if (key === "s") this.#save(); // SCOSC
    else if (key === "u") this.#restore(); // SCORC
    else if (key === "!p") this.#softReset(); // DECSTR
    else if (final === "h" || final === "l") this.#setModes(prefix, parameters, final === "h");
    else this.#answer(ANSWERS[key]?.(this, first));
  }

  #answer(text) {
    if (text) this.reply(text);
  }

  /** OSC: the title, and questions about colours. */
  #command(text) {
    const [, number, rest] = /^(\d+);(.*)$/su.exec(text) ?? [];
    if (number === "0" || number === "2") this.title = rest.slice(0, LONGEST_TITLE);
    const asked = { 10: "ink", 11: "paper" }[number];
    const [, red, green, blue] = /^#(..)(..)(..)$/.exec(this.#colours[asked]) ?? [];
    if (rest === "?" && blue) this.#answer(`\x1b]${number};rgb:${red}/${green}/${blue}\x1b\\`);
  }

  // ---- Modes

  #setModes(prefix, parameters, on) {
    if (prefix !== "" && prefix !== "?") return;
    for (const [number] of parameters) {
      const name = (prefix ? PRIVATE_MODES : ANSI_MODES)[number];
      if (name) this.modes[name] = on;
      else if (prefix) this.#setSpecialMode(number, on);
      if (name === "origin") this.#goTo(0, 0);
    }
  }

  #setSpecialMode(number, on) {
    if (MOUSE_MODES.has(number)) this.modes.mouse = on ? number : 0;
    else if (ALTERNATE_MODES.has(number)) this.#switchScreen(number, on);
    else if (number === 1048) on ? this.#save() : this.#restore();
  }

  #switchScreen(number, on) {
    if (on === this.alternate) return;
    if (number === 1049 && on) this.#save();
    const { x, y } = this.#screen;
    this.#screen = on ? this.#alternate : this.#main;
    this.#screen.moveTo(x, y);
    if (on) this.#screen.eraseLines(0, this.rows, PLAIN);
    if (number === 1049 && !on) this.#restore();
  }

  #softReset() {
    this.modes = { ...USUAL_MODES };
    this.#pen = PLAIN;
    this.#charsets = ["B", "B"];
    this.#shift = 0;
    this.#saved.delete(this.#screen);
    this.#screen.setRegion(0, this.rows - 1);
  }

  // ---- The cursor

  #goTo(x, y) {
    const { top, bottom } = this.#screen;
    this.#screen.moveTo(x, this.modes.origin ? Math.min(y + top, bottom) : y);
  }

  #save() {
    const { x, y, wraps } = this.#screen;
    const [pen, charsets, shift, { origin }] = [this.#pen, this.#charsets, this.#shift, this.modes];
    this.#saved.set(this.#screen, { x, y, wraps, pen, charsets: [...charsets], shift, origin });
  }

  #restore() {
    const home = { x: 0, y: 0, wraps: false, pen: PLAIN, charsets: ["B", "B"], shift: 0 };
    const saved = this.#saved.get(this.#screen) ?? { ...home, origin: false };
    this.#screen.moveTo(saved.x + Number(saved.wraps), saved.y);
    this.#screen.wraps = saved.wraps && saved.x >= this.columns - 1; // it may be wider now
    this.#pen = saved.pen;
    this.#charsets = [...saved.charsets];
    this.#shift = saved.shift;
    this.modes.origin = saved.origin;
  }

  #lineFeed(returns = this.modes.newline) {
    this.#screen.lineFeed(this.#pen);
    if (returns) this.#screen.moveTo(0, this.#screen.y);
  }

  #setRegion(first, last) {
    const top = (first || 1) - 1;
    const bottom = Math.min(last || this.rows, this.rows) - 1;
    if (top >= bottom) return;
    this.#screen.setRegion(top, bottom);
    this.#goTo(0, 0);
  }

  // ---- Tabs and history

  #tab(count) {
    const { x, y } = this.#screen;
    const next = this.#tabs.from(x, count);
    // In the last column there is no way on, and the next character wraps as it would have.
    if (next !== x) this.#screen.moveTo(next, y);
  }

  #leave(line) {
    this.history.push(line);
    this.departed += 1;
    if (this.history.length > MOST_HISTORY) this.history.shift();
  }

  #clearHistory() {
    this.history = [];
    this.cleared += 1;
  }
}

function graphic(character) {
  const index = character.charCodeAt(0) - 0x60;
  return character.length === 1 && index >= 0 ? (GRAPHICS[index] ?? character) : character;
}

class Tabs {
  #columns;
  #stops = new Set();

  constructor(columns) {
    this.#columns = columns;
    for (let x = 8; x < columns; x += 8) this.#stops.add(x);
  }

  set(x) {
    this.#stops.add(x);
  }

  /** Clear the stop at a column, or all of them. */
  clear(x) {
    if (x === null) this.#stops.clear();
    else this.#stops.delete(x);
  }

  /** The column that is so many stops away from another; a negative number is backwards. */
  from(x, count) {
    const step = Math.sign(count);
    const last = this.#columns - 1;
    for (let left = Math.abs(count); left > 0 && x + step >= 0 && x + step <= last; left -= 1) {
      do x += step;
      while (x > 0 && x < last && !this.#stops.has(x));
    }
    return x;
  }
}

// What programs may ask, and what they are told.
const ANSWERS = {
  c: (_, first) => (first === 0 ? WHAT_IT_IS : ""), // DA
  ">c": (_, first) => (first === 0 ? "\x1b[>1;10;0c" : ""), // secondary DA
  n: (terminal, first) => ({ 5: "\x1b[0n", 6: cursorReport(terminal) })[first], // DSR
  t: ({ rows, columns }, first) => (first === 18 ? `\x1b[8;${rows};${columns}t` : ""),
  "?$p": (terminal, mode) => `\x1b[?${mode};${modeState(terminal, mode)}$y`, // DECRQM
};

function cursorReport({ screen: { x, y, top }, modes: { origin } }) {
  return `\x1b[${1 + (origin ? y - top : y)};${1 + x}R`;
}

/** 1 is: it is on; 2: off; 0: there is no such mode. */
function modeState({ modes, alternate }, number) {
  if (ALTERNATE_MODES.has(number)) return alternate ? 1 : 2;
  if (MOUSE_MODES.has(number)) return modes.mouse === number ? 1 : 2;
  if (!Object.hasOwn(PRIVATE_MODES, number)) return 0;
  return modes[PRIVATE_MODES[number]] ? 1 : 2;
}

// Control sequences that only concern the screen: `count` is the first parameter, at least 1.
const CONTROLS = {
  "@": (screen, count, { pen }) => screen.insertCells(count, pen), // ICH
  A: (screen, count) => screen.moveDown(-count), // CUU
  B: (screen, count) => screen.moveDown(count), // CUD
  C: (screen, count) => screen.moveTo(screen.x + count, screen.y), // CUF
  D: (screen, count) => screen.moveTo(screen.x - count, screen.y), // CUB
  E: (screen, count) => (screen.moveDown(count), screen.moveTo(0, screen.y)), // CNL
  F: (screen, count) => (screen.moveDown(-count), screen.moveTo(0, screen.y)), // CPL
  G: (screen, count) => screen.moveTo(count - 1, screen.y), // CHA
  "`": (screen, count) => screen.moveTo(count - 1, screen.y), // HPA
  a: (screen, count) => screen.moveTo(screen.x + count, screen.y), // HPR
  e: (screen, count) => screen.moveTo(screen.x, screen.y + count), // VPR
  L: (screen, count, { pen }) => screen.insertLines(count, pen), // IL
  M: (screen, count, { pen }) => screen.deleteLines(count, pen), // DL
  P: (screen, count, { pen }) => screen.deleteCells(count, pen), // DCH
  S: (screen, count, { pen }) => screen.scrollUp(count, pen), // SU
  T: (screen, count, { pen }) => screen.scrollDown(count, pen), // SD
  X: (screen, count, { pen }) => screen.erase(screen.y, screen.x, screen.x + count, pen), // ECH
  J: eraseInDisplay, // ED
  K: eraseInLine, // EL
};

function eraseInDisplay(screen, _, { first, pen, columns }) {
  const { x, y, rows } = screen;
  if (first === 0) {
    screen.erase(y, x, columns, pen);
    screen.eraseLines(y + 1, rows, pen);
  } else if (first === 1) {
    screen.eraseLines(0, y, pen);
    screen.erase(y, 0, x + 1, pen);
  } else if (first === 2) {
    screen.eraseLines(0, rows, pen);
  }
}

function eraseInLine(screen, _, { first, pen, columns }) {
  const { x, y } = screen;
  const [from, to] = [[x, columns], [0, x + 1], [0, columns]][first] ?? [0, 0];
  screen.erase(y, from, to, pen);
}
