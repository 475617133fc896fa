// The packets of the sandbox (net/sandbox_packets.py tells what they mean): [code, [argument, …]] in
// MessagePack on the wire, and here objects with a type and named arguments:
//
//   {t: "move", angle: 1.5}  ⇄  ["33", [1.5]]  ⇄  92 a2 33 33 91 cb 3f f8 00 00 00 00 00 00

import { decode, encode } from "./msgpack.js";

export const SUBPROTOCOL = "moo.v1";

const ITEM = ["id", "name", "kind", "scale", "reach", "cooldown", "power", "gather",
  "health", "limit", "wood", "food", "stone", "gold"];
const INFO = ["id", "sid", "name", "x", "y", "dir", "health", "maxHealth", "scale", "skin"];
const PLAYER = ["sid", "x", "y", "dir", "build", "weapon", "variant", "team", "leader", "skin",
  "tail", "icon", "z"];
const SCORE = ["sid", "name", "score"];
const OBJECT = ["sid", "x", "y", "dir", "scale", "resource", "type", "owner"];
const DOT = ["sid", "x", "y"];

// Type → its code and the names of its arguments.
const TO_SERVER = {
  spawn: ["sp", "profile"],
  move: ["33", "angle"],
  aim: ["2", "angle"],
  attack: ["c", "active", "angle"],
  autoAttack: ["7"],
  selectItem: ["5", "id"],
  upgrade: ["6", "id"],
  chat: ["ch", "text"],
  ping: ["pp"],
};

// Code → its type and its arguments: a name, or a name and the columns of its rows.
const TO_CLIENT = {
  "io-init": ["hello", "id"],
  id: ["init", "world", "view", "tickRate", "playerScale", "speed", "arc", "resources",
    ["items", ITEM]],
  d: ["disconnect", "reason"],
  1: ["spawned", "sid"],
  2: ["playerAdd", ["player", INFO], "isSelf"], // one row
  4: ["playerRemove", "sid"],
  33: ["players", ["rows", PLAYER]],
  5: ["leaderboard", ["rows", SCORE]],
  6: ["objects", ["rows", OBJECT]],
  7: ["swing", "sid", "hit", "index"],
  8: ["objectHit", "dir", "sid"],
  9: ["resourceCount", "name", "value", "show"],
  h: ["health", "sid", "value"],
  11: ["death"],
  12: ["objectRemove", "sid"],
  13: ["objectsRemove", "owner"],
  14: ["itemCount", "item", "count"],
  15: ["age", "xp", "maxXp", "age"],
  16: ["upgrades", "points", "age"],
  17: ["items", "ids", "weapons"],
  ch: ["said", "sid", "text"],
  mm: ["minimap", ["rows", DOT]],
  pp: ["pong"],
  20: ["shutdownNotice", "countdown"],
};

/** What a `Connection` needs to speak in packets. */
export const codec = {
  encode({ t, ...named }) {
    const [code, ...names] = TO_SERVER[t];
    return encode([code, names.map((name) => named[name])]);
  },

  /** Throws a RangeError for bytes that are no packet. */
  decode(bytes) {
    const packet = decode(bytes);
    if (!Array.isArray(packet) || packet.length !== 2 || !Array.isArray(packet[1])) {
      throw new RangeError("a packet is [code, [argument, ...]]");
    }
    const [code, values] = packet;
    const known = typeof code === "string" && Object.hasOwn(TO_CLIENT, code);
    if (!known) throw new RangeError(`there is no packet ${code}`);
    const [t, ...kinds] = TO_CLIENT[code];
    if (values.length !== kinds.length) {
      throw new RangeError(`${t} has ${values.length} arguments; ${kinds.length} are wanted`);
    }
    return { t, ...Object.fromEntries(kinds.map((kind, i) => readArgument(kind, values[i]))) };
  },
};

function readArgument(kind, value) {
  if (typeof kind === "string") return [kind, value];
  const [name, columns] = kind;
  return [name, readRows(columns, value)];
}

/** Rows stand one after another in one flat list. */
function readRows(columns, values) {
  if (!Array.isArray(values) || values.length % columns.length) {
    throw new RangeError(`rows of ${columns.length} are wanted`);
  }
  const rows = [];
  for (let at = 0; at < values.length; at += columns.length) {
    rows.push(Object.fromEntries(columns.map((name, i) => [name, values[at + i]])));
  }
  return rows;
}
