// What the pages of the games have in common: which room they are in, the connection to it, how
// that is, and a link for others to follow.

import { Connection, roomUrl } from "./connection.js";
import "./loaded.js";
import { copyLink, currentRoom, problemWithLink } from "./rooms.js";
import { checkServed } from "./served.js";
import { StatusView } from "./status.js";

const $ = (id) => document.getElementById(id);
const understanding = new WeakSet(); // connections over which something usable has come

/** The room that the address names, or else the usual one, and a connection yet to be opened.
    `repeats()` tells whether the page itself says again what was lost on the way. */
export function enterRoom(usual, { repeats, ...options } = {}) {
  const room = currentRoom(usual);
  const connection = new Connection(roomUrl(room), options);
  const status = new StatusView(connection, {
    word: $("status"),
    note: $("note"),
    text: $("note-text"),
    countdown: $("countdown"),
    retry: $("retry"),
  }, repeats);
  $("room-name").textContent = room; // it comes from a stranger: text, never markup
  $("copy").addEventListener("click", () => copyLink($("copy"), room));
  document.body.dataset.room = room;
  const problem = problemWithLink();
  const tell = () => status.tell(`${problem} This is the room “${room}”.`);
  if (problem) connection.addEventListener("settled", tell, { once: true });
  checkServed({ room, connection, understood: () => understanding.has(connection) });
  return { room, connection };
}

/** Say that this page can show whatever the room says, whoever says it. */
export function understand(connection) {
  understanding.add(connection);
}

/** Call the handler for a message's type; what is not known is ignored. */
export function handleMessages(connection, handlers, afterwards) {
  connection.addEventListener("message", ({ detail: message }) => {
    const handle = Object.hasOwn(handlers, message?.t) ? handlers[message.t] : null;
    if (handle) understand(connection);
    handle?.(message);
    afterwards?.();
  });
}
