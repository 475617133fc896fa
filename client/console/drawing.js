// Draws a frame as RFC 6455 section 5.2 does, bit by bit, and below it what each field means.
// What comes over the wire is only ever set as text.

import { bitsOf, countBytes, hexOf, toHex, toText } from "./bytes.js";
import { CLOSE, applyMask, isControl, kindOf, parseClose } from "./frames.js";
import {
  faultsOf, headerFields, isCompressed, payloadField, requestFields, responseFields,
} from "./explain.js";
import { inflate } from "./inflate.js";

const DRAWN_BYTES = 64; // of a payload; control frames are drawn to their end
const SHOWN_TEXT = 4_000; // characters of a payload
const PREVIEW = 120; // characters in the list

/** Make an element; `facts` are its properties, `children` elements or texts. */
export function make(tag, facts = {}, ...children) {
  const element = Object.assign(document.createElement(tag), facts);
  element.append(...children);
  return element;
}

export const ARROWS = { sent: "→", received: "←", "": "·" };

// ---- One line for the list -----------------------------------------------------

/** What an entry is, and what is in it: {kind, size, preview}. */
export function summarize(entry) {
  const lines = {
    request: () => ({ kind: "handshake", size: entry.bytes.length, preview: entry.head.line }),
    response: () => ({ kind: "handshake", size: entry.bytes.length, preview: entry.head.line }),
    note: () => ({ kind: "", size: null, preview: entry.text }),
    message: () => ({
      kind: kindOf(entry.opcode),
      size: entry.payload.length,
      preview: preview(entry.opcode, entry.payload),
    }),
    frame: () => summarizeFrame(entry),
  };
  return lines[entry.kind]();
}

function summarizeFrame({ frame, way, inMessage, compresses }) {
  const { opcode, fin, payload, length } = frame;
  const packed = compresses && isCompressed(frame);
  return {
    kind: kindOf(opcode),
    size: length,
    preview: `${preview(packed ? 2 : opcode, payload)}${fin || isControl(opcode) ? "" : " …"}`,
    wrong: faultsOf(frame, way, inMessage, compresses).length > 0,
  };
}

function preview(opcode, payload) {
  if (opcode === CLOSE) {
    const { code, reason } = parseClose(payload);
    return code === null ? "no code" : `${code} ${reason}`;
  }
  const start = payload.subarray(0, PREVIEW * 4);
  const text = opcode === 2 ? null : toText(start, start.length < payload.length);
  return (text ?? toHex(start.subarray(0, PREVIEW / 3))).slice(0, PREVIEW);
}

// ---- The whole of it --------------------------------------------------------------

/** Return the elements that show an entry in full. */
export function drawEntry(entry) {
  const drawn = {
    request: () => [
      drawFields(requestFields(entry.head)),
      drawBytes("As it was sent", entry.bytes),
    ],
    response: () => drawResponse(entry),
    note: () => [make("p", { className: "said", textContent: entry.text })],
    message: () => drawMessage(entry),
    frame: () => drawFrame(entry),
  };
  return drawn[entry.kind]();
}

function drawResponse({ head, key, bytes, body }) {
  const parts = [drawFields(responseFields(head, key))];
  if (body) parts.push(make("h3", { textContent: "Body" }), drawText(body));
  return [...parts, drawBytes("As it came", bytes.subarray(0, head.size))];
}

function drawMessage({ opcode, payload }) {
  const words = `The browser shows messages only: their frames, how they were masked, and every Ping
    stay hidden.`;
  const text = opcode === 1 ? toText(payload) : toHex(payload.subarray(0, SHOWN_TEXT / 3));
  return [make("p", { className: "quiet", textContent: words }), drawText(text)];
}

function drawFrame({ frame, way, inMessage, compresses }) {
  const fields = headerFields(frame);
  const faults = faultsOf(frame, way, inMessage, compresses).map(({ text, section }) =>
    make("li", {}, `${text} `, linkTo(section)));
  const packed = compresses && isCompressed(frame);
  // What is said comes first: that it is in view, and how it was said below it.
  return [
    ...(faults.length ? [make("ul", { className: "faults" }, ...faults)] : []),
    ...(!frame.length ? [] : packed ? drawInflated(frame) : drawWhole(frame)),
    drawHeader(frame.header, fields),
    drawFields([...fields, payloadField(frame)]),
    ...(frame.length ? drawPayload(frame) : []),
  ];
}

/** The bytes of a header, four in a row where there is space, each with its bits. */
function drawHeader(header, fields) {
  const bytes = Array.from(header, (byte, i) => {
    const here = fields.filter(({ from, to }) => from < 8 * i + 8 && to > 8 * i);
    const labels = here.map((field) => {
      const width = Math.min(field.to, 8 * i + 8) - Math.max(field.from, 8 * i);
      const goesOn = field.from < 8 * i;
      return make("span", {
        className: `label f-${field.name} w${width}`,
        textContent: goesOn ? "…" : field.title,
      });
    });
    const bits = [...bitsOf(byte)].map((bit, j) => {
      const { name } = here.find(({ to }) => to > 8 * i + j);
      return make("span", { className: `bit f-${name}`, textContent: bit });
    });
    return make("div", { className: "byte" }, ...labels, ...bits,
      make("span", { className: "hex", textContent: hexOf(byte) }));
  });
  const drawn = make("div", { className: "bits" }, ...bytes);
  drawn.role = "img";
  drawn.ariaLabel = `The header, bit by bit: ${Array.from(header, bitsOf).join(" ")}`;
  return drawn;
}

/** A table of fields; the bits, the value, what they mean, where it stands. */
function drawFields(fields) {
  const rows = fields.map(({ name = "line", title, bits, value, text, section }) => {
    const row = make("tr", { className: `f-${name}` },
      make("th", { scope: "row", textContent: title }),
      make("td", { className: "value" },
        ...(bits ? [make("code", { textContent: bits })] : []),
        make("span", { textContent: value })),
      make("td", { className: "meaning" }, `${text} `, ...(section ? [linkTo(section)] : [])));
    row.dataset.field = name;
    return row;
  });
  return make("table", { className: "fields" }, make("tbody", {}, ...rows));
}

function linkTo(section) {
  return make("a", {
    href: `https://www.rfc-editor.org/rfc/rfc6455#section-${section}`,
    textContent: `§ ${section}`,
    title: `RFC 6455, section ${section}`,
    target: "_blank",
    rel: "noreferrer",
  });
}

/** Each byte as it is on the wire, the byte of the key that masks it, and what it means. */
function drawPayload({ payload, key, length, opcode }) {
  const drawn = isControl(opcode) ? payload : payload.subarray(0, DRAWN_BYTES);
  const wire = applyMask(drawn, key);
  const columns = Array.from(drawn, (byte, i) => {
    const unmasking = key ? [hexOf(key[i % 4]), hexOf(byte)] : [];
    return drawColumn("column", [hexOf(wire[i]), ...unmasking, character(byte)]);
  });
  const names = key ? ["wire", "⊕ key", "= byte", "text"] : ["wire", "text"];
  const parts = [
    make("h3", { textContent: key ? "Payload, masked and unmasked" : "Payload" }),
    make("div", { className: key ? "payload masked" : "payload" },
      drawColumn("column names", names), ...columns),
  ];
  if (length > drawn.length) {
    const textContent = `… and ${countBytes(length - drawn.length)} more`;
    parts.push(make("p", { className: "quiet", textContent }));
  }
  return parts;
}

function drawColumn(className, rows) {
  return make("span", { className }, ...rows.map((textContent) => make("span", { textContent })));
}

function drawWhole({ payload, length, opcode }) {
  const isText = opcode !== 2 && opcode !== CLOSE;
  const text = isText ? toText(payload, payload.length < length) : null;
  return text ? drawAs("text", text) : [];
}

function drawAs(kind, text) {
  const json = indent(text);
  const title = json === null ? `As ${kind}` : "As JSON";
  return [make("h3", { textContent: title }), drawText(json ?? text)];
}

/** JSON of an object or a list with a line for each member, every number and text as it was
    written; null if it is none. */
export function indent(text) {
  try {
    const value = JSON.parse(text);
    if (value === null || typeof value !== "object") return null;
  } catch {
    return null;
  }
  const token = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gu;
  const tokens = text.match(token);
  let [depth, written] = [0, ""];
  const line = () => `\n${"  ".repeat(depth)}`;
  tokens.forEach((part, i) => {
    const empty = /^[}\]]$/.test(part) && /^[{[]$/.test(tokens[i - 1]);
    if (/^[}\]]$/.test(part)) {
      depth -= 1;
      written += empty ? part : line() + part;
    } else if (/^[{[]$/.test(part)) {
      depth += 1;
      written += /^[}\]]$/.test(tokens[i + 1]) ? part : part + line();
    } else {
      written += part === "," ? part + line() : part === ":" ? ": " : part;
    }
  });
  return written;
}

/** The message in a compressed frame, which is there a moment later. */
function drawInflated({ payload, opcode, fin }) {
  if (!fin) return [];
  const shown = drawText("…");
  inflate(payload, SHOWN_TEXT).then((data) => {
    const text = opcode === 1 ? new TextDecoder().decode(data) : toHex(data);
    shown.textContent = text.slice(0, SHOWN_TEXT);
  });
  return [make("h3", { textContent: "Decompressed, as RFC 7692 says" }), shown];
}

function character(byte) {
  return byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : byte === 0x20 ? "␣" : "·";
}

function drawText(text) {
  const cut = text.length > SHOWN_TEXT ? `${text.slice(0, SHOWN_TEXT)}…` : text;
  return make("pre", { className: "text", textContent: cut, tabIndex: 0 });
}

function drawBytes(title, bytes) {
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const shown = text.replaceAll("\r\n", "␍␊\n").slice(0, SHOWN_TEXT);
  return make("details", {}, make("summary", { textContent: title }), drawText(shown));
}
