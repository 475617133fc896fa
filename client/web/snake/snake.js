// Snake. The game runs on the server (game/snake.py, which describes its messages); world.js keeps
// what it has told, view.js draws it, steering.js says where you want to go. Here they meet.

import { roomUrl } from "../shared/connection.js";
import { NamePrompt } from "../shared/name.js";
import { enterRoom, handleMessages } from "../shared/play.js";
import { animate } from "../shared/stage.js";
import { colourOf } from "./creatures.js";
import { steer } from "./steering.js";
import { View } from "./view.js";
import { World } from "./world.js";

const $ = (id) => document.getElementById(id);

const BOARD = 8; // lines of the leaderboard; a narrow page shows as many as it has room for

const world = new World();
const view = new View($("stage"), world);
const { room, connection } = enterRoom("garden", { silence: 10_000, reload: true }); // it ticks
const prompt = new NamePrompt($("join"), sayName);

let me = null; // until the game has said who this is
let known = false; // the game has this player already: its seat has outlived a reload
let asked = ""; // the name that was sent, until the game has answered
let fate = ""; // how the last life ended, in words
let steered = false; // whoever has steered knows how
let out = true; // the state is not known: none has come yet, or too much was missed

// ---- What the game says ---------------------------------------------------

handleMessages(connection, {
  welcome(message) {
    me = view.me = message.id;
    known = Boolean(message.name);
    world.welcome(message);
  },
  full(message) {
    world.replace(message);
    view.reset();
    out = false;
    if (known) prompt.hide();
    else if (prompt.name) sayName(prompt.name);
    else prompt.show();
  },
  delta(message) {
    if (out) return;
    out = !world.apply(message);
    if (out) return connection.moveTo(roomUrl(room)); // only a full state can help
    noteFate(message);
    view.ticked();
  },
  error({ error }) {
    const words = `${String(error).charAt(0).toUpperCase()}${String(error).slice(1)}.`;
    if (asked) prompt.refuse(words);
    else $("problem").textContent = words;
    asked = "";
  },
}, show);

connection.addEventListener("state", () => {
  if (connection.state === "connected" && !connection.resumed) {
    out = true; // a tick may be told before that: a seat that was taken back has been there
    me = null; // the last picture stays, and whose snake is whose in it
    asked = fate = "";
  }
  show();
});

function noteFate({ died = [], born = [], joined = [] }) {
  if (joined.some(({ id }) => id === me)) {
    asked = "";
    prompt.hide();
  }
  if (born.some(({ id }) => id === me)) fate = "";
  const mine = died.find(({ id }) => id === me);
  if (mine) fate = FATES[mine.cause]?.(nameOf(mine.by)) ?? "You have died.";
}

const FATES = {
  wall: () => "You ran into the hedge.",
  self: () => "You bit yourself.",
  snake: (name) => `You ran into ${name}.`,
  head: (name) => `You and ${name} bumped heads.`,
};

function nameOf(id) {
  return world.players.get(id)?.name ?? "somebody who has left";
}

// ---- What you do ----------------------------------------------------------

function sayName(name) {
  if (connection.send({ t: "name", name })) asked = name;
}

steer({
  surface: $("stage"),
  pad: $("pad"),
  turn(dir) {
    if (!world.players.has(me) || connection.state !== "connected") return; // it would be too late
    connection.send({ t: "turn", dir });
    steered = true;
    show();
  },
});

// ---- What is shown --------------------------------------------------------

animate((seconds, time) => {
  view.update(seconds);
  view.draw(time);
});

function show() {
  showScores();
  showFate();
  const own = world.players.get(me);
  document.body.dataset.players = world.players.size;
  document.body.dataset.me = me ?? "";
  document.body.classList.toggle("alive", Boolean(own?.body.length));
  showHint(own);
}

/** The keys, until they are known; and at the start of each life, while the snake stands still. */
function showHint(own) {
  const stands = typeof own?.waits === "number";
  const left = stands ? Math.max(0, Math.ceil((own.waits - world.tick) / world.rate)) : 0;
  $("hint").classList.toggle("done", steered && !stands);
  $("hint").classList.toggle("high", own?.body[0]?.[1] >= world.height / 2); // not over the snake
  $("grace").textContent = stands ? `– off you go! (or by itself in ${left} s)` : "";
}

let shownScores = "";

function showScores() {
  const ranking = world.ranking().map(({ id, name, score, best }, i) => {
    return { rank: i + 1, id, name, score, best };
  });
  const own = ranking.findIndex(({ id }) => id === me);
  const best = ranking.slice(0, BOARD);
  if (own >= BOARD) best.splice(BOARD - 1, 1, ranking[own]);
  const key = JSON.stringify(best) + me;
  if (key === shownScores) return; // nothing to do at most ticks
  shownScores = key;
  $("scores").replaceChildren(...best.map(scoreLine));
}

function scoreLine({ rank, id, name, score, best }) {
  const item = document.createElement("li");
  item.value = rank;
  item.classList.toggle("mine", id === me);
  const colour = document.createElement("i");
  colour.style.background = colourOf(id);
  const parts = [["rank", `${rank}`], ["name", name], ["score", score], ["best", `best ${best}`]];
  const spans = parts.map(([kind, text]) => {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text; // names come from strangers: text, never markup
    return span;
  });
  item.append(spans[0], colour, ...spans.slice(1));
  return item;
}

function showFate() {
  const own = world.players.get(me);
  const dead = own !== undefined && own.body.length === 0;
  $("fate").classList.toggle("shown", dead);
  if (!dead) return;
  const left = Math.ceil(((own.respawn ?? world.tick) - world.tick) / world.rate);
  $("fate-text").textContent = fate || "Here you come!";
  $("fate-score").textContent = fate ? `${own.score} eaten in that life.` : "";
  $("fate-next").textContent = left > 0 ? `Next life in ${left} s` : "Any moment now …";
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
    return me;
  },
  /** What the game has told: {tick, width, height, players: [...], food: [[x, y], ...]}. */
  get world() {
    const { tick, width, height, players, food } = world;
    return structuredClone({ tick, width, height, players: [...players.values()], food });
  },
  /** Where each head is drawn right now: {id: [x, y]}. */
  get heads() {
    return view.heads;
  },
});

show();
connection.open();
