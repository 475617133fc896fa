// The frames of RFC 6455 section 5.2 as bytes, and back. Wrong ones can be made, and are read.

import { joinBytes } from "./bytes.js";

export const OPCODES = {
  0x0: "continuation",
  0x1: "text",
  0x2: "binary",
  0x8: "close",
  0x9: "ping",
  0xa: "pong",
};
export const CLOSE = 0x8;
export const PING = 0x9;
export const PONG = 0xa;

const MOST = { 7: 125, 16: 0xffff, 64: Number.MAX_SAFE_INTEGER }; // that a form of length can say
const KEPT = 64 * 1024; // bytes of a payload that a reader keeps; the rest is counted

export const isControl = (opcode) => opcode >= CLOSE;
export const kindOf = (opcode) => OPCODES[opcode] ?? `opcode ${opcode}`;

/** Mask or unmask: the same operation (section 5.3). */
export function applyMask(payload, key) {
  return key ? payload.map((byte, i) => byte ^ key[i % 4]) : payload;
}

export function randomKey() {
  return crypto.getRandomValues(new Uint8Array(4)); // 5.3: nobody may be able to predict it
}

/** The fewest bits that can say a length: 7, 16 or 64. */
export function shortestForm(length) {
  return length <= MOST[7] ? 7 : length <= MOST[16] ? 16 : 64;
}

/** Return one frame as bytes.

    `rsv` is a number from 0 to 7, RSV1 highest; `key` is four bytes, or null for an unmasked
    frame; `form` says in how many bits the length stands, 0 for the fewest.

    Throws a RangeError if the length does not fit into that form. */
export function encodeFrame({ fin = true, rsv = 0, opcode, key = null, form = 0, payload }) {
  const { length } = payload;
  const bits = form || shortestForm(length);
  if (length > MOST[bits]) {
    throw new RangeError(`${length} bytes; a length of ${bits} bits says ${MOST[bits]} at most`);
  }
  const extended = { 7: 0, 16: 2, 64: 8 }[bits];
  const header = new Uint8Array(2 + extended);
  const view = new DataView(header.buffer);
  header[0] = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
  header[1] = (key ? 0x80 : 0) | { 7: length, 16: 126, 64: 127 }[bits];
  if (bits === 16) view.setUint16(2, length);
  if (bits === 64) view.setBigUint64(2, BigInt(length));
  return joinBytes([header, key ?? [], applyMask(payload, key)]);
}

/** Cut a payload into the frames of one message (section 5.4): all but the last have FIN 0, all
    but the first are continuations. Text may be cut within a character. */
export function fragment(opcode, payload, count) {
  return Array.from({ length: count }, (_, i) => ({
    fin: i === count - 1,
    opcode: i ? 0x0 : opcode,
    payload: payload.slice(
      Math.floor((i * payload.length) / count),
      Math.floor(((i + 1) * payload.length) / count),
    ),
  }));
}

function decodeHeader(bytes) {
  if (bytes.length < 2) return null;
  const bits = { 126: 16, 127: 64 }[bytes[1] & 0x7f] ?? 7;
  const keyAt = { 7: 2, 16: 4, 64: 10 }[bits];
  const masked = bytes[1] >= 0x80;
  const size = keyAt + (masked ? 4 : 0);
  if (bytes.length < size) return null;
  const header = bytes.slice(0, size);
  const view = new DataView(header.buffer);
  const read = {
    7: () => bytes[1] & 0x7f,
    16: () => view.getUint16(2),
    64: () => Number(view.getBigUint64(2)),
  };
  return {
    header, // all that comes before the payload
    fin: bytes[0] >= 0x80,
    rsv: (bytes[0] >> 4) & 7,
    opcode: bytes[0] & 0xf,
    masked,
    form: bits,
    length: read[bits](),
    key: masked ? header.slice(keyAt) : null,
    payload: new Uint8Array(0), // unmasked; the beginning of it, if it is long
  };
}

/** Cuts a stream of bytes into frames, whatever they are. */
export class FrameReader {
  #kept;
  #rest = new Uint8Array(0); // of a header that is not whole
  #frame = null; // whose payload is arriving
  #parts = []; // of that payload
  #taken = 0; // bytes of it, kept or not

  constructor(kept = KEPT) {
    this.#kept = kept;
  }

  /** Take bytes; return the frames that they complete. */
  feed(bytes) {
    let data = joinBytes([this.#rest, bytes]);
    const frames = [];
    while ((this.#frame ??= decodeHeader(data))) {
      if (!this.#parts.length) data = data.subarray(this.#frame.header.length);
      const piece = data.subarray(0, this.#frame.length - this.#taken);
      this.#take(piece);
      data = data.subarray(piece.length);
      if (this.#taken < this.#frame.length) break;
      frames.push(this.#finish());
    }
    this.#rest = data.slice();
    return frames;
  }

  #take(piece) {
    this.#parts.push(piece.slice(0, Math.max(0, this.#kept - this.#taken)));
    this.#taken += piece.length;
  }

  #finish() {
    const frame = this.#frame;
    frame.payload = applyMask(joinBytes(this.#parts), frame.key);
    this.#frame = null;
    this.#parts = [];
    this.#taken = 0;
    return frame;
  }
}

/** Return code and reason of a Close frame's payload (section 5.5.1); null: there is no code. */
export function parseClose(payload) {
  if (payload.length < 2) return { code: null, reason: "" };
  return {
    code: (payload[0] << 8) | payload[1],
    reason: new TextDecoder().decode(payload.subarray(2)),
  };
}

/** Return the payload of a Close frame; a null code stands for an empty one. */
export function encodeClose(code, reason) {
  if (code === null) return new Uint8Array(0);
  return joinBytes([[code >> 8, code & 0xff], new TextEncoder().encode(reason)]);
}
