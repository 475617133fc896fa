// A page for any program: choose a room and a name, send text or JSON, and see what comes.
//
// The program learns the name, and whatever else stands in this page's address, from the query of
// the WebSocket (#JSON_NAME in --joinmsg, client.name in a Game).

import "../shared/loaded.js";
import { BASE, Connection, roomUrl } from "../shared/connection.js";
import { apart } from "../shared/name.js";
import { copyText, currentRoom, flash, problemWith, problemWithLink } from "../shared/rooms.js";
import { askWhatIsServed, forOthers, isNearOnly, showCode } from "../shared/share.js";
import { StatusView } from "../shared/status.js";
import { Log } from "./log.js";

const $ = (id) => document.getElementById(id);

const USUAL_ROOM = "lobby";
const MOST_SENT = 100; // that the arrow brings back
const UNSENT = "Not sent: there is no connection.";

const asIs = { encode: (data) => data, decode: (data) => data };
const log = new Log({ root: $("log"), list: $("messages") });
const sent = []; // by this page, the oldest first
let recalled = 0; // where in it the field is
let draft = ""; // what the field had before that
let ending = ""; // why the connection has ended, once that is told
let waits = false; // something was said while there is no connection
let about = {}; // what the server says of itself
let room = currentRoom(USUAL_ROOM);

const connection = new Connection(address(), { codec: asIs });
new StatusView(connection, {
  word: $("status"),
  note: $("note"),
  text: $("note-text"),
  countdown: $("countdown"),
  retry: $("retry"),
});

// ---- Where we are ---------------------------------------------------------

/** What the page's address says beside the room, which is the program's to read. */
function query() {
  const parameters = new URLSearchParams(location.search);
  parameters.delete("room");
  return parameters;
}

function address() {
  const url = new URL(roomUrl(room));
  url.search = query();
  return url.href;
}

function linkTo(name) {
  const url = new URL(location.href);
  const parameters = query();
  parameters.delete("name"); // a friend has another one
  url.search = new URLSearchParams([["room", name], ...parameters]);
  url.hash = "";
  return url.href;
}

function show() {
  const link = forOthers(linkTo(room), about);
  const near = isNearOnly(link, about);
  $("room-name").textContent = room; // it comes from a stranger: text, never markup
  $("link").textContent = link;
  $("near").hidden = !near;
  showCode($("qr"), near ? "" : link);
  $("socket").textContent = roomUrl(room);
  document.title = `${room} · ${$("heading").textContent}`;
  document.body.dataset.room = room;
}

/** Fill the fields in: their `value`, or their `defaultValue`, which leaves alone what somebody has
    typed already. */
function fillIn(property) {
  $("room")[property] = room;
  $("name")[property] = query().get("name") ?? "";
  $("room-problem").textContent = problemWithLink();
}

function arrive() {
  room = currentRoom(USUAL_ROOM);
  log.clear();
  fillIn("value");
  show();
  connection.moveTo(address());
}

$("where").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = $("room").value.trim();
  $("room-problem").textContent = problemWith(wanted);
  if ($("room-problem").textContent) return $("room").focus();
  const parameters = query();
  parameters.delete("name");
  const name = $("name").value.trim();
  if (name) parameters.set("name", name);
  const url = new URL(location.href);
  url.search = new URLSearchParams([["room", wanted], ...parameters]);
  history.pushState(null, "", url);
  arrive();
  $("text").focus();
});

$("room").addEventListener("input", () => ($("room-problem").textContent = ""));
window.addEventListener("popstate", arrive);
$("copy").addEventListener("click", async () => {
  await copyText($("link").textContent);
  flash($("copy"), "Copied!");
});

// ---- What is said ---------------------------------------------------------

connection.addEventListener("message", ({ detail }) => log.add("come", detail));
connection.addEventListener("state", () => {
  const { state, reason } = connection;
  if (state === "connected" && $("text-problem").textContent === UNSENT) {
    $("text-problem").textContent = "";
  }
  if (state === "closed") [ending, waits] = ["", false];
  if (state !== "waiting" || reason === ending) return; // one more attempt is no news
  ending = reason;
  log.tell(`The connection has ended: ${reason.replace(/\.$/, "")}.`);
});

connection.addEventListener("settled", () => {
  const { resumed, lost } = connection;
  if (resumed) log.tell("You are back, and have missed nothing.");
  else log.tell("You are in “", apart(room), "”.");
  if (resumed ? lost : waits) log.tell("Not all that you have said has arrived.");
  [ending, waits] = ["", false];
});

/** What is to be sent; an empty string, and a word about it, if it is no JSON. */
function read() {
  const text = $("text").value;
  if (!sendsJson()) return text;
  try {
    return JSON.stringify(JSON.parse(text)); // one line
  } catch (error) {
    $("text-problem").textContent = `That is no JSON: ${error.message}`;
    return "";
  }
}

function sendsJson() {
  return $("compose").elements.as.value === "json";
}

$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  $("text").focus();
  if (!$("text").value.trim()) return;
  const message = read();
  if (!message) return;
  if (!connection.send(message)) {
    $("text-problem").textContent = UNSENT;
    return;
  }
  waits ||= connection.state !== "connected";
  log.add("sent", message);
  sent.push($("text").value);
  sent.splice(0, sent.length - MOST_SENT);
  recalled = sent.length;
  $("text").value = "";
});

$("compose").addEventListener("input", () => {
  $("text-problem").textContent = "";
  showExample();
});

// A choice, too, though nothing changes: what the server says later leaves it alone.
$("plain").addEventListener("click", () => ($("json").checked = false));

function showExample() {
  $("text").placeholder = sendsJson() ? '{"t": "hello"}' : "A line of text";
}

$("text").addEventListener("keydown", (event) => {
  if (event.isComposing || event.shiftKey) return;
  if (event.key === "Enter") {
    event.preventDefault();
    $("compose").requestSubmit();
  }
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const { value, selectionStart, selectionEnd } = $("text");
  const onTheWay = step < 0 ? value.slice(0, selectionStart) : value.slice(selectionEnd);
  const wanted = recalled + step;
  if (!step || onTheWay.includes("\n") || wanted < 0 || wanted > sent.length) return;
  event.preventDefault();
  if (recalled === sent.length) draft = value;
  recalled = wanted;
  $("text").value = sent[wanted] ?? draft;
  $("text-problem").textContent = "";
});

// ---- What is served -------------------------------------------------------

async function findOutWhatIsServed() {
  const response = await fetch(new URL("lobby/about.json", BASE), { cache: "no-store" });
  const own = response.ok ? await response.json() : {};
  const told = own.api ? await askWhatIsServed() : null;
  about = { ...own, ...told };
  const title = about.title ?? about.target;
  if (title) $("heading").textContent = title;
  if (about.json) $("json").defaultChecked = true; // where nobody has chosen yet
  showExample();
  document.querySelector(".home").hidden = told === null; // without --api there is no list
  show();
}

fillIn("defaultValue"); // this page may have been seen long before this script came
show();
connection.open();
findOutWhatIsServed().catch(() => {}); // the connection says what is wrong
