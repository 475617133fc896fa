// The sandbox: gather, build, fight. The game runs on the server (game/sandbox.py), and speaks in
// packets (net/sandbox_packets.py, and packets.js here). world.js keeps what it tells, view.js and hud.js
// show it, controls.js says what the player wants. Here they meet.

import { NamePrompt, read, write } from "../shared/name.js";
import { enterRoom, handleMessages } from "../shared/play.js";
import { animate } from "../shared/stage.js";
import { SKINS } from "./character.js";
import { Controls } from "./controls.js";
import { Hud } from "./hud.js";
import { SUBPROTOCOL, codec } from "./packets.js";
import { View } from "./view.js";
import { World } from "./world.js";

const $ = (id) => document.getElementById(id);

const PING_EVERY = 2_000; // milliseconds
const MAP_EVERY = 250;
const SKIN = "scalesocket.skin"; // where the chosen colour is remembered
const KNOWN = "scalesocket.sandbox.keys"; // and that the keys have been shown

const { room, connection } = enterRoom("island", {
  protocols: [SUBPROTOCOL],
  codec,
  silence: 10_000, // it ticks, and answers pings
  reload: true,
});
const world = new World();
const view = new View($("stage"), world);
const prompt = new NamePrompt($("join"), spawn);
const hud = new Hud(world, {
  select: (id) => connection.send({ t: "selectItem", id }),
  upgrade: (id) => connection.send({ t: "upgrade", id }),
});
const controls = new Controls({
  surface: $("stage"),
  moveStick: $("move-stick"),
  strikeStick: $("strike-stick"),
  centre: myPlace,
  want: {
    walk: (angle) => acts() && connection.send({ t: "move", angle }),
    aim: (angle) => acts() && connection.send({ t: "aim", angle }),
    strike: (active, angle) =>
      acts() && connection.send({ t: "attack", active: Number(active), angle }),
    key: pressKey,
  },
});

let auto = false; // strikes without a button
let pingSent = 0; // on the clock of performance.now(); 0: no answer is due
let leaders = [];

// ---- What the game says ---------------------------------------------------

handleMessages(connection, {
  init(message) {
    world.forget();
    world.init(message);
    hud.showResources();
    if (prompt.name) spawn(prompt.name); // of no effect if this player is still alive
    else prompt.show();
  },
  spawned({ sid }) {
    world.me = sid;
    auto = false;
    hud.reset();
    controls.reset();
    view.jump();
    prompt.hide();
    if (!read("localStorage", KNOWN)) showHelp(true);
  },
  playerAdd({ player: [player] }) {
    world.introduce(player);
    if (player.sid === world.me) world.last = { x: player.x, y: player.y };
  },
  playerRemove({ sid }) {
    world.known.delete(sid);
  },
  players({ rows }) {
    world.place(rows);
    hud.showBar(own());
  },
  objects({ rows }) {
    world.addObjects(rows);
  },
  objectRemove({ sid }) {
    world.objects.delete(sid);
  },
  objectsRemove({ owner }) {
    world.removeObjectsOf(owner);
  },
  objectHit(message) {
    world.hitObject(message);
  },
  swing({ sid }) {
    world.begin(sid, "swing");
  },
  health(message) {
    world.changeHealth(message);
  },
  resourceCount({ name, value, show }) {
    const gained = value - (hud.amounts[name] ?? 0);
    hud.amounts[name] = value;
    const worthShowing = show && gained > 0 && world.resources.includes(name);
    if (worthShowing && own()?.samples.length) world.float(world.last, `+${gained}`, name);
    hud.showResources();
  },
  items({ ids, weapons }) {
    if (weapons) hud.weapons = ids;
    else hud.goods = ids;
  },
  itemCount({ item, count }) {
    hud.counts[item] = count;
  },
  age(message) {
    hud.showAge(message);
  },
  upgrades({ points }) {
    hud.showUpgrades(points);
  },
  leaderboard({ rows }) {
    leaders = rows;
    hud.showLeaders(rows);
  },
  minimap({ rows }) {
    world.dots = rows;
  },
  said({ sid, text }) {
    if (sid === 0) return hud.toast(text);
    world.begin(sid, "speech", { words: text });
    hud.log(world.known.get(sid)?.name ?? "somebody", text);
  },
  death() {
    const { points = 0 } = hud.amounts;
    world.me = null;
    view.plan = null;
    hud.showBar(null);
    $("join-title").textContent = "You have died";
    $("join-about").textContent = `with ${points} ${points === 1 ? "point" : "points"}.`;
    $("join-button").textContent = "Play again";
    prompt.show();
  },
  pong() {
    if (!pingSent) return; // of a ping before a loss
    $("ping").textContent = `${Math.round(performance.now() - pingSent)} ms`;
    pingSent = 0;
  },
  shutdownNotice({ countdown }) {
    hud.toast(`The server ends in ${countdown} s.`);
  },
}, describe);

connection.addEventListener("state", () => {
  pingSent = 0;
  if (connection.state !== "connected") return describe(); // the last picture stays, dimmed
  if (connection.resumed) {
    controls.reset(); // the player stands still, and hears what is held down now
    auto = false;
    return describe();
  }
  world.me = null;
  hud.reset();
  hud.showBar(null);
  view.plan = null;
  leaders = [];
  $("ping").textContent = "";
  describe();
});

function own() {
  return world.known.get(world.me);
}

function alive() {
  return world.me !== null;
}

/** Whether it is of use to say at each moment what the player does. */
function acts() {
  return alive() && connection.state === "connected";
}

// ---- What you do ----------------------------------------------------------

function spawn(name) {
  const skin = Number(document.querySelector("[name=skin]:checked")?.value ?? 0);
  remember(skin);
  connection.send({ t: "spawn", profile: { name, skin } });
}

/** Returns whether the key means something. The keys are those of the terminal, too
    (client/sandbox.py); letters but those of W A S D do nothing that one would regret. */
function pressKey(code, key) {
  if (key === "?") return showHelp($("help").hidden);
  if (code === "Escape") return showHelp(false);
  if (code === "Enter" || code === "NumpadEnter") return alive() ? openChat() : playAgain();
  if (!alive()) return false;
  if (code === "KeyT") return openChat();
  if (code === "Digit0") return toggleAuto();
  const weapon = key === "+" ? hud.nextWeapon : undefined;
  if (weapon !== undefined) return connection.send({ t: "upgrade", id: weapon });
  const id = own() && hud.itemForKey(code, own());
  if (id !== undefined) return connection.send({ t: "selectItem", id });
  if (/^\p{L}$/u.test(key)) hud.toast("Enter to talk, ? for the keys.");
  return false;
}

function showHelp(shown) {
  $("help").hidden = !shown;
  $("help-open").setAttribute("aria-expanded", shown);
  if (!shown) write("localStorage", KNOWN, "yes");
  return true;
}

// Who has clicked goes on with the keys of the game; who has pressed a key is where they were.
function helpClicked(shown, event) {
  showHelp(shown);
  if (event.detail > 0 || !shown) $("stage").focus();
}

$("help-open").addEventListener("click", (event) => helpClicked($("help").hidden, event));
$("help-close").addEventListener("click", (event) => helpClicked(false, event));

function playAgain() {
  if ($("join").hidden) return false;
  $("join").requestSubmit();
  return true;
}

function toggleAuto() {
  if (!connection.send({ t: "autoAttack" })) return false;
  auto = !auto;
  $("auto").setAttribute("aria-pressed", auto);
  return true;
}

function openChat() {
  if (!alive()) return false;
  $("chat").hidden = false;
  $("chat-text").focus();
  return true;
}

function closeChat() {
  $("chat").hidden = true;
  $("chat-text").value = "";
  $("chat-text").blur(); // the keys belong to the game again
}

$("chat").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("chat-text").value.trim();
  if (text && alive()) connection.send({ t: "chat", text });
  closeChat();
});
$("chat-text").addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeChat();
});
$("chat-text").addEventListener("blur", () => ($("chat").hidden = true));
$("talk").addEventListener("click", openChat);
$("auto").addEventListener("click", toggleAuto);

function myPlace() {
  const box = $("stage").getBoundingClientRect();
  const { x, y } = view.toPage(world.last);
  return { clientX: box.left + x, clientY: box.top + y };
}

// ---- The choice of a colour -----------------------------------------------

const usual = remembered();
SKINS.forEach(([, coat], skin) => {
  const choice = document.createElement("input");
  choice.type = "radio";
  choice.name = "skin";
  choice.value = skin;
  choice.checked = skin === usual;
  choice.style.setProperty("--coat", coat);
  choice.setAttribute("aria-label", `Colour ${skin + 1}`);
  $("skins").append(choice);
});

function remembered() {
  try {
    return Number(localStorage.getItem(SKIN) ?? Math.floor(Math.random() * SKINS.length));
  } catch {
    return 0;
  }
}

function remember(skin) {
  try {
    localStorage.setItem(SKIN, skin);
  } catch {
    // Nothing is lost but a convenience.
  }
}

// ---- What is shown --------------------------------------------------------

animate((seconds, time) => {
  controls.update(seconds);
  world.advance(seconds);
  view.aim = controls.aim;
  view.plan = plan();
  view.draw(seconds, time);
});

function plan() {
  const item = world.items[own()?.build];
  const here = world.whereIs(own());
  if (item?.kind !== "building" || !here) return null;
  const planned = world.planned(item, here, controls.aim);
  return { ...planned, free: planned.free && hud.mayBuild(item) };
}

setInterval(() => hud.drawMap(), MAP_EVERY);

setInterval(() => {
  if (pingSent || connection.state !== "connected" || !connection.send({ t: "ping" })) return;
  pingSent = performance.now();
}, PING_EVERY);

function describe() {
  document.body.dataset.players = world.dots.length;
  document.body.dataset.me = world.me ?? "";
  document.body.classList.toggle("alive", alive());
  $("auto").setAttribute("aria-pressed", auto && alive());
}

// ---- For tests ------------------------------------------------------------

window.game = Object.freeze({
  get state() {
    return connection.state;
  },
  get room() {
    return room;
  },
  get me() {
    return world.me;
  },
  get size() {
    return world.size;
  },
  /** Everybody in view: {sid: {name, x, y, dir, health, build, weapon, words}}. */
  get players() {
    const tell = ({ player, at }) => {
      const { sid, name, health, build, weapon, skin, words } = player;
      const { x, y, dir } = player.samples.at(-1);
      return [sid, { name, health, build, weapon, skin, words, x, y, dir, at }];
    };
    return Object.fromEntries(world.inView().map(tell));
  },
  get objects() {
    return [...world.objects.values()].map(({ sid, x, y, scale, resource, type, owner }) => {
      return { sid, x, y, scale, resource, type, owner };
    });
  },
  get amounts() {
    return { ...hud.amounts };
  },
  get leaders() {
    return structuredClone(leaders);
  },
  get plan() {
    return view.plan && structuredClone(view.plan);
  },
  /** Where on the page a place in the world is drawn. */
  toPage: (place) => view.toPage(place),
});

describe();
connection.open();
