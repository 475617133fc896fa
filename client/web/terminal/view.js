// Draws a terminal as rows of spans, so that a browser's own selection, copying and searching
// work. Only lines that have changed are drawn again; a line that scrolls takes its element along.

import { PLAIN, paletteColour } from "./pen.js";
import { PADDING } from "./screen.js";

const NARROW_AND_SAFE = /^[ -~\u00a0-\u024f]*$/; // letters that surely are one column wide
const USUAL_SIZE = 15; // pixels
const SIZE_ON_PHONES = 13;
const LARGEST_SIZE = 22;
const SMALLEST_SIZE = 7; // smaller cannot be read: then there is something to scroll
const LEAST = { columns: 20, rows: 5 };
const MOST = { columns: 400, rows: 150 };
const FLOOD = 200; // lines at once: more than anybody reads
const FLOOD_DRAWN_EACH = 1_000; // milliseconds: to draw them all would leave no time to read on

export class TerminalView {
  #terminal;
  #parts;
  #drawn = new WeakMap(); // line → {element, version}
  #cell = { width: 8, height: 16 };
  #shownHistory = 0; // how many lines that have departed are drawn
  #cleared = 0;
  #historyAt = -Infinity; // when it was drawn last, on the clock of performance.now()
  #historyTimer = 0; // for what of it has been put off
  #asked = false;

  /** `parts` are elements: {box, scroller, history, grid, cursor, probe, input}. */
  constructor(terminal, parts) {
    this.#terminal = terminal;
    this.#parts = parts;
    this.#measure(this.usualSize);
    document.addEventListener("copy", (event) => this.#copy(event));
  }

  get usualSize() {
    return matchMedia("(max-width: 34rem)").matches ? SIZE_ON_PHONES : USUAL_SIZE;
  }

  /** How many columns and rows the window has room for, in letters of the usual size. */
  get room() {
    this.#measure(this.usualSize);
    const { clientWidth, clientHeight } = this.#parts.box;
    return {
      columns: bounded(clientWidth / this.#cell.width, LEAST.columns, MOST.columns),
      rows: bounded(clientHeight / this.#cell.height, LEAST.rows, MOST.rows),
    };
  }

  /** Let the letters be as large as usual, if the terminal was made for this window; else so
      large, or small, that the whole of it fills the window. */
  fit(own) {
    const { columns, rows } = this.#terminal;
    const { clientWidth, clientHeight } = this.#parts.box;
    let size = own ? this.usualSize : LARGEST_SIZE;
    const fits = () => {
      this.#measure(size);
      const { width, height } = this.#cell;
      return columns * width <= clientWidth && Math.floor(clientHeight / height) >= rows;
    };
    while (!fits() && size > SMALLEST_SIZE) size -= 0.5;
    const { style } = this.#parts.scroller;
    style.width = `${Math.ceil(columns * this.#cell.width)}px`;
    style.height = `${Math.min(rows * this.#cell.height, clientHeight)}px`;
    this.draw();
  }

  /** Draw before the next frame, however often this is called until then. */
  draw() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#drawNow();
    });
  }

  /** Bring the cursor into view; in a window that is too small, that is not all there is. */
  scrollToCursor() {
    const { scroller, box } = this.#parts;
    scroller.scrollTop = scroller.scrollHeight;
    const x = this.#terminal.screen.x * this.#cell.width;
    if (x < box.scrollLeft || x > box.scrollLeft + box.clientWidth - this.#cell.width) {
      box.scrollLeft = x - box.clientWidth / 2;
    }
  }

  /** Scroll through the history by some screens. */
  scrollBy(screens) {
    this.#parts.scroller.scrollTop += screens * this.#parts.scroller.clientHeight;
  }

  /** Which cell a mouse is over. */
  cellAt({ clientX, clientY }) {
    const box = this.#parts.grid.getBoundingClientRect();
    const { columns, rows } = this.#terminal;
    return {
      x: bounded((clientX - box.left) / this.#cell.width, 0, columns - 1),
      y: bounded((clientY - box.top) / this.#cell.height, 0, rows - 1),
    };
  }

  /** Copy lines as the program wrote them: one that was too long for the screen is one line. */
  #copy(event) {
    const selection = getSelection();
    if (!selection.rangeCount || !this.#parts.scroller.contains(selection.anchorNode)) return;
    const lines = selection.getRangeAt(0).cloneContents().querySelectorAll(".line");
    if (lines.length < 2) return; // the browser knows how
    const texts = [...lines].map((line) => line.textContent.replace(/\n$/, ""));
    const ends = [...lines].map((line) => (line.classList.contains("continues") ? "" : "\n"));
    const text = texts.map((text, i) => text + ends[i]).join("");
    event.clipboardData.setData("text/plain", text.replace(/\n$/, ""));
    event.preventDefault();
  }

  #measure(size) {
    const { box, probe } = this.#parts;
    box.style.fontSize = `${size}px`;
    const { width, height } = probe.getBoundingClientRect();
    this.#cell = { width: width / probe.textContent.length, height };
    box.style.setProperty("--column", `${this.#cell.width}px`);
  }

  #drawNow() {
    const { scroller, history, grid } = this.#parts;
    const terminal = this.#terminal;
    const atEnd = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 4;
    this.#drawHistory();
    history.hidden = terminal.alternate;
    const rows = terminal.screen.lines.map((line) => this.#elementFor(line));
    if (rows.some((row, y) => grid.children[y] !== row) || grid.childElementCount !== rows.length) {
      grid.replaceChildren(...rows);
    }
    grid.classList.toggle("reverse", terminal.modes.reverse);
    this.#drawCursor();
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
  }

  #drawHistory() {
    const { history } = this.#parts;
    const { history: lines, departed, cleared } = this.#terminal;
    if (cleared !== this.#cleared) history.replaceChildren();
    const fresh = Math.min(departed - this.#shownHistory, lines.length);
    const since = performance.now() - this.#historyAt;
    if (fresh > FLOOD && since < FLOOD_DRAWN_EACH) {
      clearTimeout(this.#historyTimer);
      this.#historyTimer = setTimeout(() => this.draw(), FLOOD_DRAWN_EACH - since);
      return;
    }
    if (fresh > 0) this.#historyAt = performance.now();
    if (fresh > 0) history.append(...lines.slice(-fresh).map((line) => this.#elementFor(line)));
    while (history.childElementCount > lines.length) history.firstElementChild.remove();
    this.#shownHistory = departed;
    this.#cleared = cleared;
  }

  #drawCursor() {
    const { cursor, input } = this.#parts;
    const { x, y, lines } = this.#terminal.screen;
    const { text, width } = lines[y].cells[x];
    cursor.hidden = !this.#terminal.modes.cursor;
    cursor.textContent = width === 2 ? text : text.slice(0, 1) || " ";
    const place = `translate(${x * this.#cell.width}px, ${y * this.#cell.height}px)`;
    cursor.style.transform = input.style.transform = place;
    cursor.style.width = `${Math.max(1, width) * this.#cell.width}px`;
  }

  #elementFor(line) {
    const known = this.#drawn.get(line);
    if (known?.version === line.version) return known.element;
    const element = known?.element ?? document.createElement("div");
    element.replaceChildren(...drawLine(line));
    element.className = line.continues ? "line continues" : "line";
    this.#drawn.set(line, { element, version: line.version });
    return element;
  }
}

// ---- A line ---------------------------------------------------------------

function* drawLine({ cells, continues }) {
  let end = cells.length - (cells.at(-1) === PADDING ? 1 : 0);
  while (!continues && end > 0 && cells[end - 1].text === " " && cells[end - 1].pen === PLAIN) end -= 1;
  for (let x = 0; x < end; ) {
    const { pen } = cells[x];
    let text = "";
    const start = x;
    while (x < end && cells[x].pen === pen && isSafe(cells[x])) text += cells[x++].text;
    if (x > start) {
      yield drawRun(text, pen);
    } else {
      yield drawSpecial(cells[x]);
      x += Math.max(1, cells[x].width);
    }
  }
  if (end === 0) yield "\n"; // an empty line is a line, also when it is copied
}

function isSafe({ text, width }) {
  return width === 1 && NARROW_AND_SAFE.test(text);
}

function drawRun(text, pen) {
  return pen === PLAIN ? text : dress(document.createElement("span"), text, pen);
}

/** A character that a font may draw with any width is kept to its columns. */
function drawSpecial({ text, width, pen }) {
  const element = dress(document.createElement("span"), text, pen);
  element.classList.add(width === 2 ? "wide" : "narrow");
  return element;
}

function dress(element, text, pen) {
  let [ink, paper] = [colour(pen.ink, "--ink"), colour(pen.paper, "--paper")];
  if (pen.inverse) [ink, paper] = [paper, ink];
  if (ink !== "var(--ink)") element.style.color = ink;
  if (paper !== "var(--paper)") element.style.backgroundColor = paper;
  for (const style of ["bold", "faint", "italic", "underline", "blink", "hidden", "struck"]) {
    if (pen[style]) element.classList.add(style === "hidden" ? "concealed" : style);
  }
  element.textContent = text;
  return element;
}

function colour(value, usual) {
  if (value === null) return `var(${usual})`;
  if (typeof value === "string") return value;
  return value < 16 ? `var(--c${value})` : paletteColour(value);
}

function bounded(value, low, high) {
  return Math.min(Math.max(Math.floor(value), low), high);
}
