// A grid of cells with a cursor in it, and what can be done to them. It knows no escape
// sequences (vt.js does), and draws nothing (view.js does).
//
// A cell is {text, width, pen} and never changes. A wide character is a cell of width 2 and a
// second one of width 0. A line is moved, never copied, when the screen scrolls, and `version`
// tells who draws it whether it has changed.

import { PLAIN, penOf } from "./pen.js";

const MOST_MARKS = 16; // characters that are written on top of one another in a cell

const BLANK = Object.freeze({ text: " ", width: 1, pen: PLAIN });
export const PADDING = Object.freeze({ ...BLANK }); // where a wide character has no room

/** What is erased has the background of the pen, and nothing else of it. */
function blank(pen) {
  return pen.paper === null ? BLANK : { ...BLANK, pen: penOf({ ...PLAIN, paper: pen.paper }) };
}

const asciiCells = new WeakMap(); // pen → cells by character code, made when they are needed

function cellsOf(pen) {
  if (!asciiCells.has(pen)) asciiCells.set(pen, []);
  return asciiCells.get(pen);
}

class Line {
  version = 0;
  continues = false; // on the next line, for it was too long

  constructor(columns, pen = PLAIN) {
    this.cells = Array(columns).fill(blank(pen));
  }

  /** What is written on it, without the blanks at its end. */
  get text() {
    return this.cells.map(({ text }) => text).join("").trimEnd();
  }

  resize(columns) {
    const kept = this.cells.slice(0, columns);
    if (kept.at(-1)?.width === 2) kept[kept.length - 1] = BLANK;
    this.cells = [...kept, ...Array(columns - kept.length).fill(BLANK)];
    this.version += 1;
  }
}

export class Screen {
  lines;
  x = 0;
  y = 0;
  wraps = false; // the cursor stands behind the last column: the next character wraps first
  top = 0; // of the region that scrolls
  bottom; // its last line

  #leave;

  /** `leave(line)` is given every line that scrolls off the top. */
  constructor(columns, rows, leave = () => {}) {
    this.columns = columns;
    this.rows = rows;
    this.bottom = rows - 1;
    this.#leave = leave;
    this.lines = Array.from({ length: rows }, () => new Line(columns));
  }

  // ---- The cursor

  moveTo(x, y) {
    this.x = within(x, 0, this.columns - 1);
    this.y = within(y, 0, this.rows - 1);
    this.wraps = false;
  }

  /** Up or down, but not across the edge of the region that scrolls. */
  moveDown(distance) {
    const low = this.y >= this.top ? this.top : 0;
    const high = this.y <= this.bottom ? this.bottom : this.rows - 1;
    this.moveTo(this.x, within(this.y + distance, low, high));
  }

  lineFeed(pen) {
    if (this.y === this.bottom) this.scrollUp(1, pen);
    else this.moveTo(this.x, this.y + 1);
    this.wraps = false;
  }

  reverseLineFeed(pen) {
    if (this.y === this.top) this.scrollDown(1, pen);
    else this.moveTo(this.x, this.y - 1);
    this.wraps = false;
  }

  // ---- Writing

  /** Write one character, of width 1 or 2. */
  put(text, width, pen, { wrap, insert }) {
    if (width > this.columns) return;
    if (this.wraps || this.x + width > this.columns) {
      if (wrap) this.#wrap(pen);
      else this.x = this.columns - width;
    }
    if (insert) this.insertCells(width, pen);
    const { cells } = this.#touch(this.y);
    this.#cutWide(cells, this.x);
    this.#cutWide(cells, this.x + width);
    cells[this.x] = { text, width, pen };
    if (width === 2) cells[this.x + 1] = { text: "", width: 0, pen };
    this.x += width;
    this.wraps = this.x >= this.columns;
    if (this.wraps) this.x = this.columns - 1;
  }

  /** Write ASCII and wrap: the same as `put` for each character, but fast. */
  putAscii(text, pen) {
    const known = cellsOf(pen);
    for (let i = 0; i < text.length; ) {
      if (this.wraps) this.#wrap(pen);
      const { cells } = this.#touch(this.y);
      const end = Math.min(text.length, i + this.columns - this.x);
      this.#cutWide(cells, this.x);
      this.#cutWide(cells, this.x + end - i);
      for (; i < end; i += 1) {
        const code = text.charCodeAt(i);
        cells[this.x++] = known[code] ??= { text: text[i], width: 1, pen };
      }
      this.wraps = this.x >= this.columns;
      if (this.wraps) this.x = this.columns - 1;
    }
  }

  /** Put an accent or the like onto the character before the cursor. */
  putMark(mark) {
    const { cells } = this.#touch(this.y);
    let x = this.wraps ? this.x : this.x - 1;
    if (x > 0 && cells[x].width === 0) x -= 1;
    if (x < 0 || cells[x].text.length > MOST_MARKS) return;
    cells[x] = { ...cells[x], text: cells[x].text + mark };
  }

  #wrap(pen) {
    const line = this.#touch(this.y);
    line.continues = true;
    if (!this.wraps && line.cells.at(-1) === BLANK) line.cells[this.columns - 1] = PADDING;
    this.x = 0;
    this.lineFeed(pen);
  }

  // ---- Erasing, inserting, deleting

  /** Erase the cells of a line from one column up to, but not including, another. */
  erase(y, from, to, pen) {
    const { cells } = this.#touch(y);
    const [start, end] = [Math.max(0, from), Math.min(to, this.columns)];
    if (start >= end) return;
    this.#cutWide(cells, start);
    this.#cutWide(cells, end);
    cells.fill(blank(pen), start, end);
    if (end === this.columns) this.lines[y].continues = false;
    this.wraps = false;
  }

  eraseLines(from, to, pen) {
    for (let y = from; y < to; y += 1) this.erase(y, 0, this.columns, pen);
  }

  insertCells(count, pen) {
    const { cells } = this.#touch(this.y);
    const room = Math.min(count, this.columns - this.x);
    this.#cutWide(cells, this.x);
    cells.splice(this.x, 0, ...Array(room).fill(blank(pen)));
    this.#cutWide(cells, this.columns);
    cells.length = this.columns;
    this.wraps = false;
  }

  deleteCells(count, pen) {
    const { cells } = this.#touch(this.y);
    const gone = Math.min(count, this.columns - this.x);
    this.#cutWide(cells, this.x);
    this.#cutWide(cells, this.x + gone);
    cells.splice(this.x, gone);
    cells.push(...Array(gone).fill(blank(pen)));
    this.lines[this.y].continues = false;
    this.wraps = false;
  }

  insertLines(count, pen) {
    if (this.y < this.top || this.y > this.bottom) return;
    this.#shift(this.bottom, this.y, count, pen);
    this.moveTo(0, this.y);
  }

  deleteLines(count, pen) {
    if (this.y < this.top || this.y > this.bottom) return;
    this.#shift(this.y, this.bottom, count, pen);
    this.moveTo(0, this.y);
  }

  scrollUp(count, pen) {
    const gone = this.#shift(this.top, this.bottom, count, pen);
    if (this.top === 0) gone.forEach(this.#leave);
  }

  scrollDown(count, pen) {
    this.#shift(this.bottom, this.top, count, pen);
  }

  setRegion(top, bottom) {
    this.top = top;
    this.bottom = bottom;
  }

  /** Give every cell the same character, for adjusting a screen (and testing one). */
  fill(text) {
    for (const line of this.lines) {
      line.cells.fill({ text, width: 1, pen: PLAIN });
      line.version += 1;
    }
  }

  resize(columns, rows) {
    while (this.lines.length > rows) {
      if (this.y < this.lines.length - 1) {
        this.lines.pop();
      } else {
        this.#leave(this.lines.shift());
        this.y -= 1;
      }
    }
    while (this.lines.length < rows) this.lines.push(new Line(columns));
    if (columns !== this.columns) this.lines.forEach((line) => line.resize(columns));
    this.columns = columns;
    this.rows = rows;
    this.setRegion(0, rows - 1);
    this.moveTo(this.x + Number(this.wraps), this.y); // behind the last column there is room now
  }

  /** Take lines away at one end of a part of the screen, and put blank ones in at the other. */
  #shift(end, otherEnd, count, pen) {
    const room = Math.min(count, Math.abs(otherEnd - end) + 1);
    const gone = [];
    for (let i = 0; i < room; i += 1) {
      gone.push(...this.lines.splice(end, 1));
      this.lines.splice(otherEnd, 0, new Line(this.columns, pen));
    }
    return gone;
  }

  /** No half of a wide character may stay when something begins or ends in its middle. */
  #cutWide(cells, x) {
    if (x <= 0 || cells[x]?.width !== 0) return;
    cells[x - 1] = blank(cells[x - 1].pen);
    cells[x] = blank(cells[x].pen);
  }

  #touch(y) {
    this.lines[y].version += 1;
    return this.lines[y];
  }
}

function within(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
