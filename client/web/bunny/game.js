// The multiplayer example: everybody in the room is a bunny in the same meadow.
//
// The game itself runs on the server (game/game.py). This page sends where you want to go,
//   {"t": "Input", "data": {"x": 123, "y": 456}}
// and shows what the game says:
//   Welcome  {you, world: {width, height}, players: [{id, x, y}, …]}   on arrival, to you alone
//   Player   {id, x, y}    somebody came, or wants to be at (x, y)
//   Gone     {id}          somebody left
//
// `players` is what the game said. `bunnies` is what is drawn: they hop to where they should be.

import "../shared/loaded.js";
import { Bunny, nameOf } from "./bunny.js";
import { Connection, roomUrl } from "../shared/connection.js";
import { Controls } from "../shared/controls.js";
import { MARGIN, paintMeadow, standingThings } from "./meadow.js";
import { drawCarrot, drawClouds, drawInsects } from "./meadow.js";
import { clamp, night } from "../shared/paint.js";
import { RoomChooser } from "../shared/rooms.js";
import { checkServed } from "../shared/served.js";
import { Stage, animate } from "../shared/stage.js";
import { StatusView } from "../shared/status.js";

const $ = (id) => document.getElementById(id);

const players = new Map(); // id → {x, y}
const bunnies = new Map(); // id → Bunny
let leaving = []; // bunnies on their way out, which nobody can address any more
let me = null;
let carrot = null;
const painted = { dark: night.matches }; // what the backdrop shows: day or night

const stage = new Stage($("stage"), {
  margin: MARGIN,
  paintBackdrop(context, theStage) {
    painted.dark = night.matches;
    paintMeadow(context, theStage, painted.dark);
  },
});
stage.world = { width: 1200, height: 800 }; // until the game says what it is

const rooms = new RoomChooser($("rooms"), enterRoom);
const connection = new Connection(roomUrl(rooms.room));
new StatusView(connection, {
  word: $("status"),
  note: $("note"),
  text: $("note-text"),
  countdown: $("countdown"),
  retry: $("retry"),
});
checkServed({ room: rooms.room, connection, understood: () => me !== null });
const controls = new Controls($("stage"), {
  toWorld: (event) => stage.toWorld(event),
  position: () => players.get(me) ?? null,
  go: sendInput,
});

// ---- What the game says ---------------------------------------------------

const handlers = {
  Welcome({ you, world, players: everybody }) {
    me = you;
    stage.world = world;
    forgetEverybody();
    everybody.forEach(place);
  },
  Player: place,
  Gone({ id }) {
    remove(id);
    rooms.refreshSoon();
  },
};

connection.addEventListener("message", ({ detail: message }) => {
  const handle = Object.hasOwn(handlers, message?.t) ? handlers[message.t] : null;
  handle?.(message.data);
  describe();
});

connection.addEventListener("state", () => {
  const { state, resumed } = connection;
  if (state === "closed" || (state === "connected" && !resumed)) me = carrot = null;
  // On the way to another room nobody is there; without a connection the last picture stays.
  if (connection.state === "closed") forgetEverybody();
  if (state === "connected") rooms.refreshSoon(); // it was not known while there was none
  describe();
});

function place({ id, x, y }) {
  const isNew = !players.has(id);
  players.set(id, { x, y });
  if (isNew) bunnies.set(id, new Bunny(id, { x, y }));
  bunnies.get(id).goTo({ x, y });
  if (isNew) rooms.refreshSoon();
}

function remove(id) {
  if (!players.delete(id)) return;
  const bunny = bunnies.get(id);
  bunnies.delete(id);
  bunny.leave();
  leaving.push(bunny);
}

function forgetEverybody() {
  for (const id of [...players.keys()]) remove(id);
}

// ---- What you do ----------------------------------------------------------

function sendInput({ x, y }, { drop }) {
  const { width, height } = stage.world;
  const data = { x: Math.round(clamp(x, 0, width)), y: Math.round(clamp(y, 0, height)) };
  if (!connection.send({ t: "Input", data })) return;
  carrot = drop ? { ...data, eaten: 0 } : null;
  $("hint").classList.add("done");
}

function enterRoom(room) {
  connection.moveTo(roomUrl(room));
  describe();
}

// ---- What is drawn --------------------------------------------------------

animate((seconds, time) => {
  controls.update(seconds);
  update(seconds);
  draw(time);
});

function update(seconds) {
  for (const bunny of bunnies.values()) bunny.update(seconds);
  for (const bunny of leaving) bunny.update(seconds);
  leaving = leaving.filter((bunny) => !bunny.gone);
  updateCarrot(seconds);
}

function updateCarrot(seconds) {
  if (!carrot) return;
  const bunny = bunnies.get(me);
  const near = bunny && Math.hypot(bunny.x - carrot.x, bunny.y - carrot.y) < 6;
  if (near) carrot.eaten += seconds * 2.5;
  if (carrot.eaten >= 1) carrot = null;
}

function draw(time) {
  const dark = noticeNightfall();
  const context = stage.begin();
  // On a small screen the world shrinks, but a bunny stays large enough to be one.
  const unit = Math.max(0.9, 1 / stage.scale); // one CSS pixel, in units of the world
  const size = clamp(0.5 / stage.scale, 1, 2);
  const everybody = [...bunnies.values(), ...leaving];
  const edges = stage.visible;
  drawClouds(context, stage.visible, time, dark);
  for (const thing of byDepth(everybody, dark)) {
    const me = isMine(thing);
    thing.draw(context, { size: size * depth(thing.y), me, dark });
  }
  if (carrot) drawCarrot(context, carrot, { size, eaten: carrot.eaten, time });
  drawInsects(context, stage.world, time, dark);
  // Yours comes last, so that no other tag covers it.
  everybody.sort((a, b) => isMine(a) - isMine(b));
  for (const bunny of everybody) {
    const me = isMine(bunny);
    bunny.drawTag(context, { size: size * depth(bunny.y), me, dark, unit, edges });
  }
}

/** Looked up at each frame: browsers send no "change" event to who has already seen it. */
function noticeNightfall() {
  if (night.matches !== painted.dark) stage.refresh();
  return night.matches;
}

function byDepth(everybody, dark) {
  return [...everybody, ...standingThings(stage.world, dark)].sort((a, b) => a.y - b.y);
}

/** What is further up is further away. */
function depth(y) {
  return 0.86 + 0.24 * (y / stage.world.height);
}

function isMine(thing) {
  return me !== null && thing.id === me;
}

// ---- What is told in words, and to tests ----------------------------------

/** For those who cannot see the picture, and for tests that wait for something to happen. */
function describe() {
  const count = players.size;
  const others = count === 1 ? "all alone." : `with ${count - 1} more.`;
  $("whoami").textContent = me === null ? "" : `You are ${nameOf(me)},`;
  $("headcount").textContent = me === null ? "" : others;
  document.body.dataset.players = count;
  document.body.dataset.room = rooms.room;
  document.body.dataset.me = me ?? "";
}

window.game = Object.freeze({
  get state() {
    return connection.state;
  },
  get room() {
    return rooms.room;
  },
  get me() {
    return me;
  },
  get world() {
    return { ...stage.world };
  },
  /** What the game said: {id: {x, y}}. */
  get players() {
    return Object.fromEntries([...players].map(([id, at]) => [id, { ...at }]));
  },
  /** Where each bunny is drawn right now; one that is leaving is still drawn for a moment. */
  get sprites() {
    const drawn = [...bunnies.values(), ...leaving];
    return drawn.map(({ id, x, y, leaving: goes }) => ({ id, x, y, leaving: goes }));
  },
});

describe();
connection.open();
