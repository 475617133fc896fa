// Which room this page is in, and how to get to another one.
// The room is in the page's address (?room=name), so that a link leads to it and "back" goes back.

import { BASE } from "./connection.js";
import { askWhatIsServed, forOthers } from "./share.js";

const DEFAULT_ROOM = "meadow";
const POLL_EVERY = 3_000; // milliseconds between looks at the list of rooms
const SOON = 200;
const LONGEST_NAME = 128;

const LINE_BREAKING = /[\p{Cc}\p{Zl}\p{Zp}]/u;

// Paths on which the server answers something else, and names that browsers take for folders.
const RESERVED = new Set(
  ["api", "metrics", "health", "static", "upload", "robots.txt", "favicon.ico", ".", ".."],
);

/** The room that the page's address names, or the usual one if it names none that can be. */
export function currentRoom(usual = DEFAULT_ROOM) {
  const room = askedFor();
  return problemWith(room) ? usual : room;
}

function askedFor() {
  return new URLSearchParams(location.search).get("room") ?? "";
}

/** Say what is wrong with a room's name; an empty string is: nothing. */
export function problemWith(room) {
  if (!room) return "A room needs a name.";
  if ([...room].length > LONGEST_NAME) return `At most ${LONGEST_NAME} characters, please.`;
  if (room.includes("/")) return "A room’s name has no slash in it.";
  if (LINE_BREAKING.test(room)) return "That name has a control character in it.";
  if (RESERVED.has(room)) return `“${room}” is taken by the server itself.`;
  return "";
}

/** The same of the room that the page's address names, if it names one. */
export function problemWithLink() {
  return askedFor() && problemWith(askedFor());
}

export function linkTo(room) {
  const url = new URL(location.href);
  url.search = new URLSearchParams({ room });
  url.hash = "";
  return url.href;
}

/** The part of the page where people see which room they are in, and choose another.
    Calls `enter(room)` when they do. */
export class RoomChooser {
  #room = currentRoom();
  #rooms = [];
  #shown = ""; // what the list says
  #timer = 0;
  #soon = false; // a look is due shortly
  #unlisted = false; // this server has no list, and will not have one

  constructor(root, enter) {
    this.enter = enter;
    this.name = root.querySelector("[data-room-name]");
    this.form = root.querySelector("form");
    this.input = root.querySelector("input");
    this.problem = root.querySelector("[data-problem]");
    this.list = root.querySelector("[data-rooms]");
    this.note = root.querySelector("[data-rooms-note]");
    this.copyButton = root.querySelector("[data-copy]");

    this.form.addEventListener("submit", (event) => this.#submitted(event));
    this.input.addEventListener("input", () => (this.problem.textContent = ""));
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.copyButton.addEventListener("click", () => copyLink(this.copyButton, this.#room));
    window.addEventListener("popstate", () => this.#arrive(currentRoom()));
    document.addEventListener("visibilitychange", () => this.refresh());
    window.addEventListener("online", () => this.refreshSoon());
    this.problem.textContent = problemWithLink();
    this.#show();
    this.refresh();
  }

  get room() {
    return this.#room;
  }

  goTo(room) {
    this.problem.textContent = problemWith(room);
    if (this.problem.textContent) return;
    this.input.value = "";
    if (room === this.#room) return;
    history.pushState(null, "", linkTo(room));
    this.#arrive(room);
  }

  /** Ask the server which rooms there are; again and again, while somebody looks at the page. */
  async refresh() {
    clearTimeout(this.#timer);
    this.#soon = false;
    if (document.hidden || this.#unlisted) return;
    await this.#fetchRooms();
    if (!this.#soon) this.#lookIn(POLL_EVERY);
  }

  /** Somebody came or went. However many do so at once, it is one more look. */
  refreshSoon() {
    if (this.#soon) return;
    this.#soon = true;
    this.#lookIn(SOON);
  }

  #lookIn(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), delay);
  }

  async #fetchRooms() {
    try {
      const response = await fetch(new URL("api/rooms/", BASE), { cache: "no-store" });
      if (response.status === 404) {
        this.#unlisted = true;
        this.#showRooms([], "This server keeps its list of rooms to itself.");
        return;
      }
      this.#showRooms(await response.json(), "None yet.");
    } catch {
      // No answer, or not JSON. What is wrong, the connection says.
      this.#showRooms([], "Not known right now.");
    }
  }

  #arrive(room) {
    if (room === this.#room) return;
    this.#room = room;
    this.#show();
    this.enter(room);
  }

  #show() {
    this.name.textContent = this.#room;
    this.name.title = this.#room;
    this.#showRooms(this.#rooms, this.note.textContent);
  }

  #showRooms(rooms, ifNone) {
    this.#rooms = rooms;
    const live = rooms
      .filter(({ name, connections }) => typeof name === "string" && connections > 0)
      .sort((a, b) => b.connections - a.connections || a.name.localeCompare(b.name));
    this.note.textContent = live.length ? "" : ifNone;
    // A link that is pressed is let go of a moment later: what has not changed must stay.
    const shown = JSON.stringify([this.#room, ...live.map((room) => [room.name, room.connections])]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const items = live.map(({ name, connections }) => this.#item(name, connections));
    const focused = this.list.contains(document.activeElement)
      ? document.activeElement.dataset.room
      : undefined;
    this.list.replaceChildren(...items);
    if (focused !== undefined) {
      this.list.querySelector(`[data-room="${CSS.escape(focused)}"]`)?.focus();
    }
  }

  #item(name, connections) {
    const link = document.createElement("a");
    link.href = linkTo(name);
    link.dataset.room = name;
    const label = document.createElement("span");
    label.textContent = name; // names come from strangers: text, never markup
    const count = document.createElement("span");
    count.className = "count";
    count.textContent = connections;
    count.setAttribute("aria-hidden", "true");
    const players = document.createElement("span");
    players.className = "unseen";
    players.textContent = connections === 1 ? "1 player" : `${connections} players`;
    link.append(label, count, players);
    if (name === this.#room) link.setAttribute("aria-current", "page");
    const item = document.createElement("li");
    item.append(link);
    return item;
  }

  #submitted(event) {
    event.preventDefault();
    this.goTo(this.input.value.trim());
  }

  #clicked(event) {
    const link = event.target.closest("a");
    const newTab = event.ctrlKey || event.metaKey || event.shiftKey;
    if (!link || newTab) return;
    event.preventDefault();
    this.goTo(link.dataset.room);
  }
}

/** Put the link to a room on the clipboard; the button that asked for it says so. */
export async function copyLink(button, room) {
  await copyText(forOthers(linkTo(room), await askWhatIsServed()));
  flash(button, "Copied!");
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyTheOldWay(text); // the new way works on https and localhost only
  }
}

/** Let a button say something else for a moment. */
export function flash(button, words) {
  const usual = (button.dataset.usual ??= button.textContent);
  button.textContent = words;
  setTimeout(() => (button.textContent = usual), 1_500);
}

function copyTheOldWay(text) {
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
