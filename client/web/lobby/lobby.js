// The lobby: what is served here, the rooms that there are, and a way into each of them.
// An address with a room in it (/?room=name) leads on to that room at once.

import { qrCode } from "../shared/qr.js";
import { copyText, flash, problemWith } from "../shared/rooms.js";
import { forOthers, isNearOnly } from "../shared/share.js";
import { PAGES, USUAL_PAGE, describeCrowd, pageFor, pageNamed } from "./catalogue.js";
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
  const found = !known ? page : watch.about ? pageFor(watch.about) : pageNamed($("page").value);
  if (!found || found.title === page?.title) return;
  page = found;
  document.body.dataset.page = page.name;
  document.title = `${page.title} · ScaleSocket`;
  $("title").textContent = page.title;
  $("sentence").textContent = page.sentence;
  $("picture").src = `${page.name}/${page.name}.svg`;
  $("choose").hidden = watch.about !== null;
  $("version").textContent = watch.about ? `ScaleSocket ${watch.about.version}` : "ScaleSocket";
  $("others").replaceChildren(...PAGES.filter(({ name }) => name !== page.name).map(otherPage));
  showLink();
}

function otherPage({ name, title, command = name }) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  const code = document.createElement("code");
  link.href = `${name}/`;
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
  $("state").textContent = words[watch.state];
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

function linkTo(room) {
  const url = new URL(`${(page ?? USUAL_PAGE).name}/`, location.href);
  url.search = new URLSearchParams({ room });
  return url.href;
}

function typed() {
  return $("room").value.trim();
}

function showLink() {
  const problem = problemWith(typed());
  const link = problem ? "" : forOthers(linkTo(typed()), watch.about);
  $("link").textContent = link;
  const near = link !== "" && isNearOnly(link, watch.about);
  $("near").hidden = !near;
  showCode(near ? "" : link);
  $("share").classList.toggle("faded", problem !== "");
  $("copy").disabled = problem !== "";
}

function showCode(link) {
  const rows = link ? qrCode(link) : null;
  $("qr").toggleAttribute("hidden", rows === null);
  if (!rows) return;
  const edge = 4; // modules that are light around it
  $("qr").setAttribute("viewBox", `0 0 ${rows.length + 2 * edge} ${rows.length + 2 * edge}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const squares = rows.flatMap((row, y) =>
    row.map((dark, x) => (dark ? `M${x + edge} ${y + edge}h1v1h-1z` : "")));
  path.setAttribute("d", squares.join(""));
  $("qr").replaceChildren(path);
}

function suggest() {
  $("room").value = suggestName();
  $("problem").textContent = "";
  showLink();
}

$("room").addEventListener("input", () => {
  $("problem").textContent = typed() && problemWith(typed());
  showLink();
});

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  $("problem").textContent = problemWith(typed());
  if ($("problem").textContent) $("room").focus();
  else location.assign(linkTo(typed()));
});

$("suggest").addEventListener("click", suggest);
$("copy").addEventListener("click", async () => {
  await copyText(forOthers(linkTo(typed()), watch.about));
  flash($("copy"), "Copied!");
});
$("page").addEventListener("change", () => (showPage(), showRooms()));
$("retry").addEventListener("click", () => watch.look());

for (const { name, title } of PAGES) $("page").append(new Option(title, name));
suggest();
if (wanted) {
  $("room").value = wanted;
  $("problem").textContent = problemWith(wanted);
  showLink();
}
setInterval(countDown, 500);
watch.look();
