// The lobby: what is served here, the rooms that there are, and a way into each of them.
// An address with a room in it (/?room=name) leads on to that room at once.

import "../shared/loaded.js";
import { BASE } from "../shared/connection.js";
import { copyText, flash, problemWith } from "../shared/rooms.js";
import { forOthers, isNearOnly, showCode } from "../shared/share.js";
import { PAGES, describeCrowd, pageFor, pageNamed } from "./catalogue.js";
import { suggestName } from "./names.js";
import { Watch } from "./watch.js";

const $ = (id) => document.getElementById(id);

const MOST_ROOMS = 60; // that are listed

const wanted = new URLSearchParams(location.search).get("room") ?? "";
const watch = new Watch(update);
let page = null; // the one that shows what is served
let shown = ""; // the list of rooms as it is shown, to leave it alone while it stays the same

// ---- What the server says -------------------------------------------------

function update() {
  showPage();
  if (page && wanted && !problemWith(wanted)) return location.replace(linkTo(wanted));
  showRooms();
  showState();
}

function showPage() {
  const known = watch.state === "listed" || watch.state === "unlisted";
  const found = !known ? page : withOwn(watch.about && pageFor(watch.about), watch.own);
  if (!found || found.title === page?.title) return;
  page = found;
  document.body.dataset.page = page.name;
  document.title = `${page.title} · ScaleSocket`;
  $("title").textContent = page.title;
  $("sentence").textContent = page.sentence;
  $("picture").src = new URL(page.picture ?? `${page.name}/${page.name}.svg`, BASE);
  $("choose").hidden = watch.about !== null || page.path !== undefined;
  $("version").textContent = watch.about ? `ScaleSocket ${watch.about.version}` : "ScaleSocket";
  document.querySelector("nav").hidden = page.path !== undefined; // a server of one's own
  $("others").replaceChildren(...PAGES.filter(({ name }) => name !== page.name).map(otherPage));
  showLink();
}

/** What the operator says of the page goes before what is known of the program. */
function withOwn(known, own) {
  const { page: path, title, text, picture } = own ?? {};
  const usual = known ?? (path === undefined ? pageNamed($("page").value) : pageNamed("talk"));
  const found = { ...usual };
  if (title) found.title = title;
  if (text) found.sentence = text;
  if (picture) found.picture = picture;
  if (path !== undefined && usual.name !== "terminal") found.path = path;
  return found;
}

function otherPage({ name, title, command = name }) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  const code = document.createElement("code");
  link.href = new URL(`${name}/`, BASE);
  link.textContent = title;
  for (const word of ["scalesocket.py", ...command.split(" ")]) {
    const part = document.createElement("span"); // lines break between words, not behind hyphens
    part.textContent = word;
    code.append(part, " ");
  }
  item.append(link, code);
  return item;
}

function showState() {
  document.body.dataset.state = watch.state;
  const words = { asking: "Looking …", listed: "Live", unlisted: "No list", silent: "Offline" };
  const word = words[watch.state];
  if ($("state").textContent !== word) $("state").textContent = word; // else it is read out anew
  $("unlisted").hidden = watch.state !== "unlisted";
  countDown();
}

function countDown() {
  const silent = watch.state === "silent";
  $("silence").hidden = !silent;
  const left = Math.max(0, Math.ceil((watch.retryAt - performance.now()) / 1_000));
  $("countdown").textContent = silent ? `Next try in ${left} s.` : "";
}

// ---- The rooms ------------------------------------------------------------

function showRooms() {
  const { rooms } = watch;
  $("none").hidden = watch.state !== "listed" || rooms.length > 0;
  $("live").hidden = watch.state !== "listed" && rooms.length === 0;
  const state = JSON.stringify([page?.name, rooms]);
  if (state === shown) return;
  shown = state;
  const focused = $("rooms").contains(document.activeElement)
    ? document.activeElement.dataset.room
    : undefined;
  $("rooms").replaceChildren(...rooms.slice(0, MOST_ROOMS).map(roomItem));
  if (focused !== undefined) {
    $("rooms").querySelector(`[data-room="${CSS.escape(focused)}"]`)?.focus();
  }
  $("summary").textContent = summarize(rooms);
}

function summarize(rooms) {
  if (!rooms.length) return "";
  const people = rooms.reduce((sum, { connections }) => sum + connections, 0);
  const beyond = rooms.length > MOST_ROOMS ? `, the ${MOST_ROOMS} fullest are shown` : "";
  const words = describeCrowd({ connections: people }, page?.people);
  return `${rooms.length === 1 ? "1 room" : `${rooms.length} rooms`}, ${words}${beyond}`;
}

function roomItem(room) {
  const link = document.createElement("a");
  const name = document.createElement("span");
  const crowd = document.createElement("span");
  name.className = "name";
  name.textContent = room.name; // names come from strangers: text, never markup
  crowd.className = "crowd";
  crowd.textContent = describeCrowd(room, page?.people);
  link.href = linkTo(room.name);
  link.dataset.room = room.name;
  link.title = room.name;
  link.append(name, crowd);
  const item = document.createElement("li");
  item.append(link);
  return item;
}

// ---- A room of one's own --------------------------------------------------

/** Before it is known which page shows what is served, this is the lobby's own: it leads on. */
function linkTo(room) {
  const { name, path = `${name}/` } = page ?? { path: location.pathname };
  const url = new URL(path, BASE);
  url.search = new URLSearchParams({ room });
  return url.href;
}

function typed() {
  return $("room").value.trim();
}

function showLink() {
  const problem = problemWith(typed());
  const link = problem ? "" : forOthers(linkTo(typed()), watch.about ?? watch.own);
  $("link").textContent = link;
  const near = link !== "" && isNearOnly(link, watch.about ?? watch.own);
  $("near").hidden = !near;
  showCode($("qr"), near ? "" : link);
  $("share").classList.toggle("faded", problem !== "");
  $("copy").disabled = problem !== "";
}

function suggest() {
  $("room").value = suggestName();
  showRoom();
}

function showRoom() {
  $("problem").textContent = typed() && problemWith(typed());
  showLink();
}

$("room").addEventListener("input", showRoom);

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  $("problem").textContent = problemWith(typed());
  if ($("problem").textContent) return $("room").focus();
  history.replaceState({ room: typed() }, ""); // who comes back finds it here
  location.assign(linkTo(typed()));
});

$("suggest").addEventListener("click", suggest);
$("copy").addEventListener("click", async () => {
  await copyText(forOthers(linkTo(typed()), watch.about ?? watch.own));
  flash($("copy"), "Copied!");
});
$("page").addEventListener("change", () => (showPage(), showRooms()));
$("retry").addEventListener("click", () => watch.look());

for (const { name, title } of PAGES) $("page").append(new Option(title, name));
// Not its `value`: whoever has typed one before this script came, keeps it.
$("room").defaultValue = wanted || history.state?.room || suggestName();
showRoom();
setInterval(countDown, 500);
watch.look();
