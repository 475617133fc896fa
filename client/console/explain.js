// What each field of a frame or a handshake means, in words, with the section that says so.
// A field here is {name, title, from, to, bits, value, text, section}; the bits are those of the
// header, counted from its first.

import { bitsOf, countBytes, toHex, toText } from "./bytes.js";
import { CLOSE, isControl, kindOf, parseClose, shortestForm } from "./frames.js";
import { acceptSteps, fieldOf } from "./handshake.js";

const OPCODE_WORDS = {
  0x0: "the message goes on: its kind was said in its first frame",
  0x1: "text: the payload is UTF-8",
  0x2: "binary: the payload is any bytes",
  0x8: "Close: a code and a reason, or nothing",
  0x9: "Ping: to be answered by a Pong with the same payload",
  0xa: "Pong: the answer to a Ping, or a sign of life",
};
const OPCODE_SECTIONS = {
  0x0: "5.4",
  0x1: "5.6",
  0x2: "5.6",
  0x8: "5.5.1",
  0x9: "5.5.2",
  0xa: "5.5.3",
};

const CLOSE_WORDS = {
  1000: "normal: done",
  1001: "going away: the server stops, or the page is left",
  1002: "protocol error: the peer broke the protocol",
  1003: "unsupported data: binary where text is wanted, or the reverse",
  1005: "never sent: stands for a Close with no code",
  1006: "never sent: stands for an end without a Close",
  1007: "invalid data: a text that is not UTF-8",
  1008: "policy violation",
  1009: "message too big",
  1010: "the server did not agree to an extension",
  1011: "internal error: the program behind the server failed",
  1012: "service restart",
  1013: "try again later",
  1014: "bad gateway",
  1015: "never sent: stands for TLS that failed",
};

export function describeCode(code) {
  if (code >= 4000 && code <= 4999) return "for private use";
  if (code >= 3000 && code <= 3999) return "registered by a library or an application";
  return CLOSE_WORDS[code] ?? "not defined";
}

function maySend(code) {
  const ranges = [[1000, 1003], [1007, 1014], [3000, 4999]];
  return ranges.some(([first, last]) => code >= first && code <= last);
}

// ---- Frames -----------------------------------------------------------------

/** The fields of a frame's header, in their order on the wire. */
export function headerFields(frame) {
  const { fin, rsv, opcode, masked, form, key } = frame;
  const lengthEnd = { 7: 16, 16: 32, 64: 80 }[form];
  const fields = [
    {
      name: "fin", title: "FIN", from: 0, to: 1, section: "5.4", value: fin ? "yes" : "no",
      text: fin ? "the last frame of its message" : "more frames of this message follow",
    },
    {
      name: "rsv", title: "RSV1–3", from: 1, to: 4, section: "5.2",
      value: [1, 2, 3].filter((n) => rsv & (8 >> n)).map((n) => `RSV${n}`).join(", ") || "none",
      text: "reserved for extensions, such as compression (RFC 7692 uses RSV1)",
    },
    {
      name: "opcode", title: "opcode", from: 4, to: 8, section: OPCODE_SECTIONS[opcode] ?? "5.2",
      value: `${opcode}`, text: OPCODE_WORDS[opcode] ?? "reserved: it has no meaning yet",
    },
    {
      name: "mask", title: "MASK", from: 8, to: 9, section: "5.3", value: masked ? "yes" : "no",
      text: `${masked ? "" : "not "}masked, as every frame of a ${masked ? "client" : "server"} is`,
    },
    {
      name: "length", title: "length", from: 9, to: lengthEnd, section: "5.2",
      value: frame.length.toLocaleString("en"), text: describeLength(form),
    },
  ];
  if (key) {
    fields.push({
      name: "key", title: "masking key", from: lengthEnd, to: lengthEnd + 32, section: "5.3",
      value: toHex(key), text: "byte i of the payload was XORed with byte i mod 4 of this key",
    });
  }
  return fields.map((field) => ({ ...field, bits: cutBits(frame.header, field) }));
}

/** The bits of a field, byte by byte. */
function cutBits(header, { from, to }) {
  const bytes = Array.from(header, (byte, i) =>
    bitsOf(byte).slice(Math.max(0, from - 8 * i), Math.max(0, to - 8 * i)));
  return bytes.filter(Boolean).join(" ");
}

function describeLength(form) {
  const words = {
    7: "bytes of payload, in 7 bits (0 to 125)",
    16: "bytes of payload: 126 in the 7 bits says that the next 16 bits hold the length",
    64: "bytes of payload: 127 in the 7 bits says that the next 64 bits hold the length",
  };
  return words[form];
}

export function payloadField({ opcode, payload, length }) {
  const field = { name: "payload", title: "payload", bits: "", value: countBytes(length) };
  if (opcode === CLOSE) {
    const { code, reason } = parseClose(payload);
    const text = code === null
      ? "no code: the peer sees 1005"
      : `code ${code} (${describeCode(code)})${reason && `, reason “${reason}”`}`;
    return { ...field, text, section: "7.4.1" };
  }
  const text = length ? "what is carried, unmasked below" : "nothing is carried";
  return { ...field, text, section: isControl(opcode) ? "5.5" : "5.6" };
}

/** Whether RSV1 alone marks a message as compressed (RFC 7692 section 6). */
export const isCompressed = ({ rsv, opcode }) => rsv === 4 && [1, 2].includes(opcode);

/** What RFC 6455 forbids in a frame, as {text, section}.

    `way` is "sent" (we are the client) or "received"; `inMessage` says that a fragmented message
    was under way before it; `compresses` that permessage-deflate was agreed on. */
export function faultsOf(frame, way, inMessage, compresses = false) {
  const { fin, rsv, opcode, masked, form, length, payload } = frame;
  const control = isControl(opcode);
  const compressed = compresses && isCompressed(frame);
  const rules = [
    [rsv && !compressed, "5.2", "A reserved bit is set, with no extension that uses it."],
    [kindOf(opcode).startsWith("opcode"), "5.2", `Opcode ${opcode} is reserved.`],
    [way === "sent" && !masked, "5.1", "A client must mask its frames."],
    [way === "received" && masked, "5.1", "A server must not mask its frames."],
    [control && !fin, "5.5", "A control frame must not be fragmented."],
    [control && length > 125, "5.5", "A control frame carries 125 bytes at the most."],
    [form !== shortestForm(length), "5.2", "The length is not in its shortest form."],
    [opcode === 0 && !inMessage, "5.4", "There is no message that this could continue."],
    [[1, 2].includes(opcode) && inMessage, "5.4", "The message before it is not complete."],
    [opcode === 1 && fin && !compressed && length === payload.length && toText(payload) === null,
      "8.1", "The text is not UTF-8."],
    ...closeRules(frame),
  ];
  return rules.filter(([broken]) => broken).map(([, section, text]) => ({ section, text }));
}

function closeRules({ opcode, payload }) {
  if (opcode !== CLOSE) return [];
  const { code } = parseClose(payload);
  return [
    [payload.length === 1, "5.5.1", "A code takes two bytes."],
    [code !== null && !maySend(code), "7.4", `Code ${code} must not be sent.`],
    [payload.length > 2 && toText(payload.subarray(2)) === null,
      "8.1", "The reason is not UTF-8."],
  ];
}

// ---- The handshake ------------------------------------------------------------

const REQUEST_WORDS = {
  host: ["4.1", "the server as the client calls it"],
  upgrade: ["4.1", "asks to speak another protocol on this connection"],
  connection: ["4.1", "says that Upgrade is meant for the next hop"],
  "sec-websocket-key": ["4.1", "16 random bytes in base64, new for each connection"],
  "sec-websocket-version": ["4.1", "13 is the version of RFC 6455"],
  origin: ["10.2", "the page that connects; a browser always says so"],
  "sec-websocket-protocol": ["1.9", "subprotocols that the client speaks, best first"],
  "sec-websocket-extensions": ["9.1", "extensions that the client offers, such as compression"],
};
const RESPONSE_WORDS = {
  upgrade: ["4.2.2", "agrees to change to WebSocket"],
  connection: ["4.2.2", "agrees to the upgrade of this connection"],
  "sec-websocket-accept": ["4.2.2", "proves that the server has read the key: see below"],
  "sec-websocket-protocol": ["4.2.2", "the subprotocol that the server chose"],
  "sec-websocket-extensions": ["9.1", "the extensions that are in use"],
  "sec-websocket-version": ["4.4", "the version that the server speaks"],
};

/** The lines of a request's head, explained. */
export function requestFields(head) {
  const text = "an HTTP/1.1 request; the path names the room";
  return [
    { title: "GET", value: head.line, section: "4.1", text },
    ...head.fields.map((field) => headField(field, REQUEST_WORDS)),
  ];
}

/** The lines of a response's head, explained; `key` is that of the request. */
export function responseFields(head, key) {
  const accepted = head.status === 101;
  const text = accepted ? "from here on both speak WebSocket" : "refused: there is no WebSocket";
  return [
    { title: "status", value: head.line, section: "4.2.2", text },
    ...head.fields.map((field) => headField(field, RESPONSE_WORDS)),
    ...(accepted ? acceptFields(head, key) : []),
  ];
}

function headField([title, value], words) {
  const [section, text] = words[title.toLowerCase()] ?? ["", ""];
  return { title, value, section, text };
}

function acceptFields(head, key) {
  const { joined, digest, accept } = acceptSteps(key);
  const same = fieldOf(head, "Sec-WebSocket-Accept") === accept;
  return [
    {
      title: "key + GUID", value: joined, section: "1.3",
      text: "the key, and a text that is the same for all",
    },
    { title: "SHA-1 of it", value: digest, section: "4.2.2", text: "20 bytes" },
    {
      title: "in base64", value: accept, section: "4.2.2",
      text: same ? "✓ the same as Sec-WebSocket-Accept" : "✗ Sec-WebSocket-Accept is another",
    },
  ];
}
