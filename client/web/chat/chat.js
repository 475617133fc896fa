// Chat: everybody in the room reads what anybody writes. The program behind it need not know
// about chatting, `cat` will do; with --cache the room remembers what was said last.
//
// A program that is no `cat` and expects lines of text gets them: then only what one types is
// sent, with neither a name nor a time ("plain text" below the field).

import { BASE } from "../shared/connection.js";
import { NamePrompt, apart } from "../shared/name.js";
import { enterRoom, understand } from "../shared/play.js";
import { Log } from "./log.js";
import { Memory, newId, read, write } from "./messages.js";
import { Outbox } from "./outbox.js";

const $ = (id) => document.getElementById(id);

const SENT = "scalesocket.chat.sent"; // where this tab notes what it has said
const LONGEST_TEXT = 8_000; // characters, as in client/chat.py
const MOST_SENT = 200; // of which it is known after the page was loaded anew
const REPEATS_WITHIN = 1_500; // milliseconds after coming back, and between two repetitions
const ECHOES = new Set(["cat", "chat", null]); // programs that say to all what one has said

const asText = {
  encode: (text) => text,
  decode: (data) => (typeof data === "string" ? data : new TextDecoder().decode(data)),
};
const { room, connection } = enterRoom("lounge", { codec: asText, repeats: () => outbox.hasAll });
const log = new Log({ root: $("log"), list: $("messages"), jump: $("jump") });
const memory = new Memory({ repeats: awaitNews });
const mine = new Map(); // id → message, of what this page has sent and the room has not heard yet
const sent = new Set(recall()); // IDs of what this tab has said last
const outbox = new Outbox({
  send: (raw) => connection.state === "connected" && connection.send(raw),
  changed: outboxChanged,
});
const prompt = new NamePrompt($("join"), showComposer);
let repeatsEnd = 0;

// ---- What the room says ---------------------------------------------------

connection.addEventListener("message", ({ detail: raw }) => {
  const message = read(raw);
  if (mine.has(message.id)) outbox.heard(message.id);
  else if (!memory.knows(message)) log.add(message, { mine: sent.has(message.id) });
});

connection.addEventListener("state", () => {
  clearTimeout(repeatsEnd);
  if (connection.state === "waiting") outbox.interrupt();
  if (connection.state !== "connected") return;
  if (!connection.resumed) memory.expectRepeats();
  awaitNews();
  outbox.flush({ resumed: connection.resumed && connection.lost === 0 });
});

function awaitNews() {
  clearTimeout(repeatsEnd);
  repeatsEnd = setTimeout(() => memory.expectNews(), REPEATS_WITHIN);
}

connection.addEventListener("drain", () => outbox.flush());

// ---- What you say ---------------------------------------------------------

function say(text) {
  const message = { kind: "chat", name: prompt.name, text, at: Date.now(), id: newId(), from: "" };
  const plain = $("plain").checked;
  mine.set(message.id, message);
  sent.add(message.id);
  if (sent.size > MOST_SENT) sent.delete(sent.values().next().value);
  note([...sent]);
  log.addPending(message);
  outbox.add(message.id, plain ? text : write(message), { echoed: !plain });
}

function outboxChanged(id, state) {
  if (state === "done") settle(id);
  else log.setState(id, state);
  $("unsent").textContent = outbox.size && connection.state !== "connected"
    ? "Not sent yet. It goes out as soon as the connection is back."
    : "";
}

function settle(id) {
  const message = mine.get(id);
  mine.delete(id);
  memory.knows(message); // the room may say it once more, or only now
  log.confirm(message);
}

$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").focus();
  if (text.length > LONGEST_TEXT) {
    const many = `${text.length} characters; ${LONGEST_TEXT} are the most`;
    $("text-problem").textContent = `Too long: ${many}.`;
    return;
  }
  $("text").value = "";
  if (text) say(text);
});

$("text").addEventListener("input", () => ($("text-problem").textContent = ""));

// The key of a phone says "send", and means it. Some keyboards tell of no key but of a line break.
let newline = false; // the one that Shift and Enter make

$("text").addEventListener("keydown", (event) => {
  newline = event.shiftKey;
  if (event.key !== "Enter" || newline || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});

$("text").addEventListener("beforeinput", (event) => {
  const breaks = ["insertLineBreak", "insertParagraph"].includes(event.inputType);
  if (!breaks || newline || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});

// ---- Who you are, and to whom you talk ------------------------------------

function showComposer() {
  prompt.hide();
  $("compose").hidden = false;
  $("me").textContent = prompt.name;
  $("text").focus();
}

$("rename").addEventListener("click", () => {
  $("compose").hidden = true;
  prompt.show();
});

// A browser may refuse to remember anything; then one's own words look like those of others.

function note(ids) {
  try {
    sessionStorage.setItem(SENT, JSON.stringify(ids));
  } catch {
    console.info("this browser does not remember what was sent");
  }
}

function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(SENT)) ?? [];
  } catch {
    return [];
  }
}

async function findOutWhatIsServed() {
  const response = await fetch(new URL("api/", BASE), { cache: "no-store" });
  if (!response.ok) return; // no --api: a chat, for all that is known
  const { target } = await response.json();
  if (ECHOES.has(target)) return;
  $("plain").checked = true;
  $("plain").closest("label").hidden = false;
  $("heading").textContent = target;
}

log.add({ kind: "news", text: ["This is the room “", apart(room), "”."], at: Date.now() });
$("messages").addEventListener("unread", () => {
  document.title = `${log.unread ? `(${log.unread}) ` : ""}${room} · Chat`;
});
document.title = `${room} · Chat`;
if (prompt.name) showComposer();
else prompt.show();
understand(connection); // any line of text is something that this page can show
connection.open();
findOutWhatIsServed().catch(() => {}); // the connection says what is wrong
