// A terminal that everybody in the room shares: what the program draws is seen by all, and
// whoever types, types into the same program. It wants `scalesocket.py --pty PROGRAM`.
//
// Bytes go both ways as binary messages. A text message {"resize":[columns,rows]} sets the size
// of the terminal; where the server says such a thing itself, the size is what somebody else has
// set, and this page shows it in letters small enough.

import { enterRoom } from "../shared/play.js";
import { Keyboard } from "./keyboard.js";
import { TerminalView } from "./view.js";
import { Terminal } from "./vt.js";

const $ = (id) => document.getElementById(id);

const SIZE_WITHIN = 300; // milliseconds in which the server says which size there is, if any
const REDRAWN_WITHIN = 2_000; // and in which a program draws everything anew, if it ever does
const QUIET_AFTER = 100; // a redraw has ended when nothing came for so long
const ANSWERS_FOR = 5_000;
const BELL_LASTS = 150;
const MOST_AT_ONCE = 4_096; // bytes of what is pasted: a server closes on a long message (1009)
const ENDED = /^the program has ended(?: with (?:status 0|(.*)))?$/; // what its Close says
const COLOURS = { ink: "#e8ebf4", paper: "#10151f" }; // as in terminal.css

const encoder = new TextEncoder();
const raw = { encode: (data) => data, decode: (data) => data };
const { room, connection } = enterRoom("workshop", { codec: raw });
const terminal = new Terminal(80, 24, { colours: COLOURS });
const ids = ["box", "scroller", "history", "grid", "cursor", "probe", "input", "keys"];
const parts = Object.fromEntries(ids.map((id) => [id, $(id)]));
const view = new TerminalView(terminal, parts);
const keyboard = new Keyboard(terminal, view, parts, type);
let sized = ""; // the size that the terminal has, as far as is known
let held = []; // what was printed for a size that is not known yet
let claimed = ""; // the size that this page has asked for, to have its window filled
let passing = []; // the size that it has asked for to have everything drawn anew
let passesAt = Infinity; // when that one ends at the latest, on the clock of performance.now()
let lasting = []; // the size that somebody wants to last
let drawn = false; // whether anything has been, since this page came
let typedAt = -Infinity; // on the clock of performance.now()
let startedAt = -Infinity; // when this page came into the room as the first, and still is alone
let ended = false;
let timer = 0;
let described = ""; // what the page tells of the terminal

// ---- What the program says ------------------------------------------------

connection.addEventListener("message", ({ detail: data }) => {
  if (typeof data === "string" && obeySize(data)) return;
  held.push(typeof data === "string" ? data : new Uint8Array(data));
  if (sized) show();
});

function show() {
  if (!held.length) return;
  for (const data of held.splice(0)) terminal.write(data);
  drawn = true;
  noticeRedraw();
  describe();
}

connection.addEventListener("state", () => {
  clearTimeout(timer);
  if (connection.state === "connected" && connection.resumed) describe();
  else if (connection.state === "connected") begin();
  else if (connection.state === "waiting" && hasEnded()) end();
});

function begin() {
  terminal.restart();
  held = [];
  sized = claimed = "";
  unsent = [];
  passing = [];
  drawn = false;
  typedAt = startedAt = -Infinity;
  ended = false;
  timer = setTimeout(settleSize, SIZE_WITHIN);
  describe();
}

/** The program has come to its end by itself, well or not: only a person can want another one. */
function hasEnded() {
  return connection.code === 1000 || ENDED.test(connection.reason);
}

function end() {
  const how = ENDED.exec(connection.reason)?.[1];
  connection.close();
  ended = true;
  show();
  const what = `The program has ended${how ? ` with ${how}` : ""}.`;
  terminal.write(`\r\n\x1b[0m\x1b[2m${what} Press Enter to start it again.\x1b[0m`);
  describe();
}

// Everybody's page sees the program's questions (where is the cursor? what are you?), but it
// must get one answer: that of the page whose person has just started something.
terminal.reply = (answer) => {
  if (performance.now() - Math.max(typedAt, startedAt) < ANSWERS_FOR) send(answer);
};

terminal.bell = () => {
  $("box").classList.add("bell");
  setTimeout(() => $("box").classList.remove("bell"), BELL_LASTS);
};

// ---- What you type --------------------------------------------------------

function type(text) {
  if (ended && text.includes("\r")) return connection.open();
  typedAt = performance.now();
  send(text);
}

let unsent = []; // of what is pasted, in pieces

function send(text) {
  const bytes = encoder.encode(text);
  for (let start = 0; start < bytes.length; start += MOST_AT_ONCE) {
    unsent.push(bytes.subarray(start, start + MOST_AT_ONCE));
  }
  sendRest();
}

function sendRest() {
  const taken = unsent.findIndex((piece) => !connection.send(piece));
  unsent = taken < 0 || connection.state !== "connected" ? [] : unsent.slice(taken);
}

connection.addEventListener("drain", sendRest);

// ---- The size -------------------------------------------------------------

function obeySize(text) {
  let size;
  try {
    size = JSON.parse(text).resize;
  } catch {
    return false;
  }
  if (!Array.isArray(size) || !size.every((number) => number >= 1 && number <= 1_000)) return false;
  const late = sized === "";
  if (String(size) !== String(passing)) lasting = size;
  if (String(size) !== claimed) startedAt = -Infinity; // it was somebody else
  applySize(size);
  // Who comes late has seen nothing yet: a change of size makes programs draw everything anew.
  if (late) redraw();
  return true;
}

/** Nobody has set a size: this page is the first, and it does. */
function settleSize() {
  if (sized) return;
  startedAt = performance.now();
  claimSize();
  timer = setTimeout(redrawIfEmpty, REDRAWN_WITHIN);
}

/** The server was slow to say the size, which was this window's: nothing has changed for anyone. */
function redrawIfEmpty() {
  if (!drawn && lasting.length) redraw();
}

/** Give the terminal the size of this window. */
function claimSize() {
  const { columns, rows } = view.room;
  claimed = String([columns, rows]);
  if (claimed !== sized) askForSize(columns, rows);
  applySize([columns, rows]);
}

function redraw() {
  const [columns, rows] = lasting;
  passing = [columns, Math.max(1, rows - 1)];
  passesAt = performance.now() + REDRAWN_WITHIN;
  askForSize(...passing);
  restoreSizeIn(REDRAWN_WITHIN);
}

/** The program has seen the passing size, for it draws. While it does, another change may be
    lost on it: less, for one, shows a line too few then. */
function noticeRedraw() {
  if (passing.length) restoreSizeIn(Math.min(QUIET_AFTER, passesAt - performance.now()));
}

function restoreSizeIn(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(restoreSize, milliseconds);
}

function restoreSize() {
  passing = [];
  askForSize(...lasting);
}

function askForSize(...size) {
  if (connection.state === "connected") connection.send(JSON.stringify({ resize: size }));
}

function applySize(size) {
  sized = String(size);
  terminal.resize(...size);
  view.fit(isOwnSize());
  show();
  describe();
}

function isOwnSize() {
  return sized !== "" && sized === claimed;
}

new ResizeObserver(() => {
  if (isOwnSize() && connection.state === "connected") claimSize();
  else view.fit(false);
}).observe($("box"));
$("claim").addEventListener("click", () => {
  claimSize();
  keyboard.focus();
});

// ---- What is told besides -------------------------------------------------

function describe() {
  view.draw();
  const { columns, rows } = terminal;
  const title = terminal.title || "Terminal";
  const facts = [title, columns, rows, connection.state, isOwnSize()].join();
  if (facts === described) return; // a program that prints much asks for this at each message
  described = facts;
  $("heading").textContent = title;
  document.title = `${title} · ${room}`;
  $("size").textContent = `${columns} × ${rows}`;
  $("claim").disabled = connection.state !== "connected" || isOwnSize();
}

window.vt = Object.freeze({
  get text() {
    return terminal.text;
  },
  get size() {
    return [terminal.columns, terminal.rows];
  },
  get state() {
    return connection.state;
  },
  terminal,
});

describe();
keyboard.focus();
connection.open();
