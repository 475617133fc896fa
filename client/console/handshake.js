// The opening handshake of RFC 6455 section 4, from the client's side, as text.

import { joinBytes, toBytes, toHex } from "./bytes.js";

export const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // section 1.3

const base64 = (bytes) => btoa(String.fromCharCode(...bytes));

/** A key for one handshake: 16 random bytes, in base64 (section 4.1). */
export function newKey() {
  return base64(crypto.getRandomValues(new Uint8Array(16)));
}

/** What a server must make of a key (section 4.2.2), step by step. */
export function acceptSteps(key) {
  const digest = sha1(toBytes(key + GUID));
  return { joined: key + GUID, digest: toHex(digest), accept: base64(digest) };
}

/** The path of a room, percent-encoded, with a query that may hold anything. */
export function roomPath(room, query, base = "/") {
  const path = `${base}${encodeURIComponent(room)}`;
  return query ? `${path}?${query.replace(/[^\x21-\x7e]+|#/gu, encodeURIComponent)}` : path;
}

/** Return the request. `extra` are lines such as `Name: value`: each takes the place of the field
    of that name, or is added; with no value it takes the field away. */
export function buildRequest({ host, origin, path, protocols, key, compress, extra }) {
  const fields = new Map([
    ["Host", host],
    ["Upgrade", "websocket"],
    ["Connection", "Upgrade"],
    ["Sec-WebSocket-Key", key],
    ["Sec-WebSocket-Version", "13"],
    ["Origin", origin],
    ["Sec-WebSocket-Protocol", protocols.join(", ")],
    ["Sec-WebSocket-Extensions", compress ? "permessage-deflate" : ""],
  ]);
  const names = new Map([...fields.keys()].map((name) => [name.toLowerCase(), name]));
  for (const line of extra.split("\n").filter((line) => line.trim())) {
    const [, name, value] = /^([^:]*):?(.*)$/.exec(line);
    fields.set(names.get(name.trim().toLowerCase()) ?? name.trim(), value.trim());
  }
  const given = [...fields].filter(([, value]) => value);
  const lines = given.map(([name, value]) => `${name}: ${value}`);
  return [`GET ${path} HTTP/1.1`, ...lines, "", ""].join("\r\n");
}

/** Parse the head of a request or a response; null: its end has not come yet.

    `size` counts the bytes up to where the body, or the first frame, begins. */
export function parseHead(bytes) {
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [line, ...rest] = text.slice(0, end).split("\r\n");
  const fields = rest.map((field) => {
    const [, name, value] = /^([^:]*):?\s*(.*?)\s*$/.exec(field);
    return [name, value];
  });
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(line)?.[1] ?? 0);
  return { line, status, fields, size: end + 4 };
}

export function fieldOf(head, name) {
  const found = head.fields.find(([known]) => known.toLowerCase() === name.toLowerCase());
  return found?.[1] ?? "";
}

/** Say what is wrong with an answer (section 4.1, what the client must check); "": nothing. */
export function problemWith(head, key, protocols) {
  const tokens = (name) => fieldOf(head, name).toLowerCase().split(/\s*,\s*/);
  if (head.status !== 101) return `the server answers ${head.status || "no HTTP"}, not 101`;
  if (!tokens("Upgrade").includes("websocket")) return "Upgrade is not “websocket”";
  if (!tokens("Connection").includes("upgrade")) return "Connection does not say “Upgrade”";
  if (fieldOf(head, "Sec-WebSocket-Accept") !== acceptSteps(key).accept) {
    return "Sec-WebSocket-Accept does not belong to the key";
  }
  const chosen = fieldOf(head, "Sec-WebSocket-Protocol");
  if (chosen && !protocols.includes(chosen)) return `nobody offered the subprotocol ${chosen}`;
  return "";
}

// ---- SHA-1 (FIPS 180-4, section 6.1) ---------------------------------------
// A browser has its own, but only for pages that came from localhost or over TLS.

export function sha1(message) {
  const hash = Uint32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0);
  const blocks = new DataView(pad(message).buffer);
  for (let at = 0; at < blocks.byteLength; at += 64) mix(hash, blocks, at);
  const digest = new DataView(new ArrayBuffer(20));
  hash.forEach((word, i) => digest.setUint32(i * 4, word));
  return new Uint8Array(digest.buffer);
}

function pad(message) {
  const zeros = new Uint8Array(((119 - (message.length % 64)) % 64) + 8);
  const padded = joinBytes([message, [0x80], zeros]);
  new DataView(padded.buffer).setUint32(padded.length - 4, message.length * 8);
  return padded;
}

const rotate = (word, bits) => (word << bits) | (word >>> (32 - bits));

const ROUNDS = [
  [(b, c, d) => (b & c) | (~b & d), 0x5a827999],
  [(b, c, d) => b ^ c ^ d, 0x6ed9eba1],
  [(b, c, d) => (b & c) | (b & d) | (c & d), 0x8f1bbcdc],
  [(b, c, d) => b ^ c ^ d, 0xca62c1d6],
];

function mix(hash, blocks, at) {
  const words = Array.from({ length: 16 }, (_, i) => blocks.getUint32(at + i * 4));
  for (let i = 16; i < 80; i += 1) {
    words.push(rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1));
  }
  let [a, b, c, d, e] = hash;
  words.forEach((word, i) => {
    const [choose, constant] = ROUNDS[Math.floor(i / 20)];
    const next = (rotate(a, 5) + choose(b, c, d) + e + constant + word) | 0;
    [a, b, c, d, e] = [next, a, rotate(b, 30), c, d];
  });
  [a, b, c, d, e].forEach((word, i) => (hash[i] += word));
}
