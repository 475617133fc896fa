// The console: a WebSocket by hand on the one side, the server's rooms on the other.

import { parseHex, toBytes, toHex } from "./bytes.js";
import { make } from "./drawing.js";
import { EXAMPLES } from "./examples.js";
import { FrameReader, OPCODES, encodeFrame, randomKey } from "./frames.js";
import { Log } from "./log.js";
import { RoomsView } from "./rooms.js";
import { Browser, Wire } from "./wire.js";

const $ = (id) => document.getElementById(id);

const MOST_REASON = 123; // bytes: with the code they are the 125 of a control frame
const WORDS = { closed: "Closed", connecting: "Connecting…", open: "Open", closing: "Closing…" };

const log = new Log({
  list: $("log"), title: $("drawn-title"), drawing: $("drawing"), follow: $("follow"),
  passed: $("passed"), pause: $("pause"), only: $("only"), search: $("search"),
});
let link = null; // the connection, if there has been one
let proposed = ""; // the address of the room that was typed, until somebody types an address

/** Do something that may fail by what was typed, and say so beside it. */
function attempt(problem, act) {
  try {
    problem.textContent = "";
    act();
  } catch (error) {
    problem.textContent = error.message;
  }
}

/** Let `act` answer a form in place of the browser. */
function onSubmit(form, problem, act) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt($(problem), act);
  });
}

// ---- Connecting -------------------------------------------------------------------

function connect() {
  const browser = $("how").value === "browser";
  const protocols = $("protocols").value.split(/[\s,]+/).filter(Boolean);
  const made = browser
    ? new Browser({ address: fullAddress(), protocols })
    : new Wire({
      room: roomName(), query: $("query").value.trim(), protocols,
      compress: $("compress").checked, extra: $("extra").value,
    });
  link?.drop();
  link = made;
  made.answers = $("answers").checked;
  made.addEventListener("entry", ({ detail }) => link === made && log.add(detail));
  made.addEventListener("state", () => link === made && showState());
  log.follow();
  showState();
}

function roomName() {
  const name = $("room").value.trim();
  if (!name) throw new RangeError("A room needs a name.");
  return name;
}

/** A browser would take what has no scheme as a part of this page's own address. */
function fullAddress() {
  const address = $("address").value.trim();
  if (/^[a-z][a-z\d+.-]*:/iu.test(address)) return address;
  throw new RangeError("An address begins with ws:// or wss://.");
}

function showState() {
  const state = link?.state ?? "closed";
  document.body.dataset.state = state;
  $("state").textContent = WORDS[state];
  $("drop").disabled = state === "closed";
  $("drop").title = link?.canSendFrames === false
    ? "The browser's own WebSocket can only close, with no code"
    : "End the TCP connection with no Close";
  $("open").textContent = state === "closed" ? "Connect" : "Connect again";
  const open = state === "open" || state === "closing";
  for (const button of document.querySelectorAll(".needs-open")) {
    const unable = button.classList.contains("needs-frames") && link && !link.canSendFrames;
    button.disabled = !open || unable;
    button.title = unable ? "The browser's own WebSocket cannot send this." : "";
  }
  $("pieces").disabled = link?.canSendFrames === false;
}

function showWay() {
  const browser = $("how").value === "browser";
  for (const element of document.querySelectorAll(".of-browser")) element.hidden = !browser;
  for (const element of document.querySelectorAll(".of-wire")) element.hidden = browser;
  $("room").disabled = browser;
  if (!browser || !["", proposed].includes($("address").value)) return;
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const base = new URL("../", location.href).pathname;
  const room = encodeURIComponent($("room").value.trim());
  $("address").value = proposed = `${scheme}//${location.host}${base}${room}`;
}

onSubmit("connect", "connect-problem", connect);
$("how").addEventListener("change", showWay);
$("drop").addEventListener("click", () => link.drop());
$("answers").addEventListener("change", () => link && (link.answers = $("answers").checked));
$("clear").addEventListener("click", () => log.clear());

// ---- A message ------------------------------------------------------------------

function count(id, what) {
  const { value, min, max } = $(id);
  const number = Number(value);
  if (Number.isInteger(number) && number >= min && number <= max) return number;
  throw new RangeError(`${what}: a number from ${min} to ${max}`);
}

function sendMessage() {
  const hex = $("type").value === "hex";
  const payload = hex ? parseHex($("text").value) : toBytes($("text").value);
  const pieces = count("pieces", "Frames");
  const times = count("times", "Times");
  for (let i = 0; i < times; i += 1) link.sendMessage(hex ? 2 : 1, payload, pieces);
  log.follow();
}

function ping() {
  const payload = toBytes($("ping-text").value);
  if (payload.length > 125) throw new RangeError(`${payload.length} bytes; 125 is the most`);
  link.ping(payload);
  log.follow();
}

function close() {
  const code = $("code").value.trim();
  const reason = $("reason").value;
  if (code && !/^\d{1,5}$/.test(code)) throw new RangeError("A code is a number from 0 to 65535.");
  if (code > 65535) throw new RangeError(`Code ${code}; 65535 is the most`);
  if (reason && !code) throw new RangeError("A reason needs a code.");
  const { length } = toBytes(reason);
  if (length > MOST_REASON) throw new RangeError(`${length} bytes; ${MOST_REASON} is the most`);
  link.close(code ? Number(code) : null, reason);
  log.follow();
}

onSubmit("message", "message-problem", sendMessage);
onSubmit("ping", "ping-problem", ping);
onSubmit("close", "close-problem", close);
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!$("message").querySelector("button").disabled) $("message").requestSubmit();
});

// ---- A frame, bit by bit -----------------------------------------------------------

function showTab(frame) {
  $("as-frame").ariaPressed = `${frame}`;
  $("as-message").ariaPressed = `${!frame}`;
  $("editor").hidden = !frame;
  for (const id of ["message", "ping", "close"]) $(id).hidden = frame;
  if (frame) showDraft();
  else log.follow();
}

function loadExample() {
  const example = EXAMPLES[$("example").selectedIndex];
  $("answer").textContent = example.answer;
  $("fin").checked = example.fin;
  for (const n of [1, 2, 3]) $(`rsv${n}`).checked = (example.rsv & (8 >> n)) > 0;
  $("opcode").value = example.opcode;
  $("mask").checked = example.masked;
  $("key").value = example.key ?? toHex(randomKey());
  $("form").value = example.form;
  $("payload").value = example.hex || example.text;
  $("payload-type").value = example.hex ? "hex" : "text";
}

function editedFrame() {
  const key = parseHex($("key").value);
  if (key.length !== 4) throw new RangeError(`Masking key of ${key.length} bytes; it has 4`);
  const hex = $("payload-type").value === "hex";
  return {
    fin: $("fin").checked,
    rsv: [1, 2, 3].reduce((sum, n) => sum + ($(`rsv${n}`).checked ? 8 >> n : 0), 0),
    opcode: Number($("opcode").value),
    key: $("mask").checked ? key : null,
    form: Number($("form").value),
    payload: hex ? parseHex($("payload").value) : toBytes($("payload").value),
  };
}

/** Draw the frame as it would be sent. */
function showDraft() {
  $("key").disabled = $("new-key").disabled = !$("mask").checked;
  attempt($("editor-problem"), () => {
    const spec = editedFrame();
    const [frame] = new FrameReader().feed(encodeFrame(spec));
    // Whether a continuation has something to continue shows when it is sent.
    const inMessage = spec.opcode === 0;
    log.choose({ kind: "frame", way: "sent", draft: true, frame, inMessage });
  });
}

function makeEditor() {
  $("example").append(...EXAMPLES.map(({ title }) => make("option", { textContent: title })));
  const names = Array.from({ length: 16 }, (_, opcode) => {
    const textContent = `${opcode} ${OPCODES[opcode] ?? "(reserved)"}`;
    return make("option", { value: opcode, textContent });
  });
  $("opcode").append(...names);
  loadExample();
}

onSubmit("editor", "editor-problem", () => {
  link.sendFrame(editedFrame());
  log.follow();
});
$("editor").addEventListener("input", (event) => {
  if (event.target === $("example")) loadExample();
  showDraft();
});
$("new-key").addEventListener("click", () => {
  $("key").value = toHex(randomKey());
  showDraft();
});
$("as-frame").addEventListener("click", () => showTab(true));
$("as-message").addEventListener("click", () => showTab(false));

// ---- The two views ------------------------------------------------------------------

const rooms = new RoomsView((room) => {
  $("room").value = room;
  $("how").value = "wire";
  showWay();
  location.hash = "#frames";
  attempt($("connect-problem"), connect);
});

function showView() {
  const shown = location.hash === "#rooms" ? "rooms" : "frames";
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `${shown}-view`;
  for (const anchor of document.querySelectorAll("nav a")) {
    anchor.ariaCurrent = anchor.hash === `#${shown}` ? "page" : null;
  }
  rooms.draw();
}

const wanted = new URLSearchParams(location.search).get("room");
const untouched = $("room").value === $("room").defaultValue; // nobody has typed while we came
if (wanted && untouched) $("room").value = wanted;
window.addEventListener("hashchange", showView);
if ($("style").sheet?.cssRules.length) $("unloaded").remove(); // all of the page has come
makeEditor();
showState();
showWay();
showView();
rooms.look();
