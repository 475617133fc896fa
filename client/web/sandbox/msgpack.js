// MessagePack, as much of it as packets are made of: nil, booleans, whole numbers that
// JavaScript holds exactly, floats, text, bytes, arrays, and maps with text as keys.
// https://github.com/msgpack/msgpack/blob/master/spec.md
//
// Strict both ways: what cannot be told apart afterwards is not sent, and bytes that are not
// exactly one well-formed value raise a RangeError, whatever a stranger has put into them.

const DEEPEST = 16; // arrays within arrays; packets need four
const LARGEST_INT32 = 2 ** 32;

const toBytes = new TextEncoder();
const toText = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes of one value. Throws a RangeError for one that MessagePack cannot hold. */
export function encode(value) {
  const writer = new Writer();
  writer.write(value, 0);
  return writer.bytes();
}

/** The one value that the bytes are, all of them. */
export function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.read(0);
  if (reader.left > 0) throw new RangeError(`${reader.left} bytes after the value`);
  return value;
}

class Writer {
  #view = new DataView(new ArrayBuffer(64));
  #length = 0;

  bytes() {
    return new Uint8Array(this.#view.buffer, 0, this.#length);
  }

  write(value, depth) {
    if (depth > DEEPEST) throw new RangeError(`deeper than ${DEEPEST}`);
    if (value === null) this.#byte(0xc0);
    else if (typeof value === "boolean") this.#byte(value ? 0xc3 : 0xc2);
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "string") this.#text(value);
    else if (value instanceof Uint8Array) this.#sized(BYTES, value.length, value);
    else if (Array.isArray(value)) this.#array(value, depth);
    else if (Object.getPrototypeOf(value ?? 0) === Object.prototype) this.#map(value, depth);
    else throw new RangeError(`cannot be packed: ${typeof value}`);
  }

  #number(value) {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) this.#whole(value);
    else this.#put(0xcb, 8, (view, at) => view.setFloat64(at, value));
  }

  #whole(value) {
    if (value >= 0 && value < 0x80) this.#byte(value);
    else if (value < 0 && value >= -0x20) this.#byte(value + 0x100);
    else if (value >= 0) this.#positive(value);
    else this.#negative(value);
  }

  #positive(value) {
    if (value < 0x100) this.#put(0xcc, 1, (view, at) => view.setUint8(at, value));
    else if (value < 0x10000) this.#put(0xcd, 2, (view, at) => view.setUint16(at, value));
    else if (value < LARGEST_INT32) this.#put(0xce, 4, (view, at) => view.setUint32(at, value));
    else this.#put(0xcf, 8, (view, at) => view.setBigUint64(at, BigInt(value)));
  }

  #negative(value) {
    if (value >= -0x80) this.#put(0xd0, 1, (view, at) => view.setInt8(at, value));
    else if (value >= -0x8000) this.#put(0xd1, 2, (view, at) => view.setInt16(at, value));
    else if (value >= -(2 ** 31)) this.#put(0xd2, 4, (view, at) => view.setInt32(at, value));
    else this.#put(0xd3, 8, (view, at) => view.setBigInt64(at, BigInt(value)));
  }

  #text(text) {
    if (!text.isWellFormed()) throw new RangeError("half a character is no text");
    const bytes = toBytes.encode(text);
    this.#sized(TEXT, bytes.length, bytes);
  }

  #array(values, depth) {
    this.#sized(ARRAY, values.length);
    for (const value of values) this.write(value, depth + 1);
  }

  #map(object, depth) {
    const entries = Object.entries(object);
    this.#sized(MAP, entries.length);
    for (const [key, value] of entries) {
      this.#text(key);
      this.write(value, depth + 1);
    }
  }

  /** A head that tells how long the thing is, in as few bytes as will do, and its bytes. */
  #sized({ fix, most, one, two, four }, length, bytes = new Uint8Array()) {
    if (length <= most) this.#byte(fix + length);
    else if (one && length < 0x100) this.#put(one, 1, (view, at) => view.setUint8(at, length));
    else if (length < 0x10000) this.#put(two, 2, (view, at) => view.setUint16(at, length));
    else this.#put(four, 4, (view, at) => view.setUint32(at, length));
    const at = this.#grow(bytes.length);
    new Uint8Array(this.#view.buffer).set(bytes, at);
  }

  #byte(value) {
    const at = this.#grow(1); // first, for the view may be another one afterwards
    this.#view.setUint8(at, value);
  }

  #put(head, size, store) {
    this.#byte(head);
    const at = this.#grow(size);
    store(this.#view, at);
  }

  /** Make room for more bytes; returns where they go. */
  #grow(size) {
    const at = this.#length;
    this.#length += size;
    if (this.#length > this.#view.byteLength) {
      const larger = new Uint8Array(2 * this.#length);
      larger.set(new Uint8Array(this.#view.buffer, 0, at));
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }
}

// The heads of things that have a length: the short form holds up to `most` in the head
// itself, the others are followed by one, two or four bytes with the length.
const TEXT = { fix: 0xa0, most: 31, one: 0xd9, two: 0xda, four: 0xdb };
const BYTES = { fix: 0, most: -1, one: 0xc4, two: 0xc5, four: 0xc6 };
const ARRAY = { fix: 0x90, most: 15, two: 0xdc, four: 0xdd };
const MAP = { fix: 0x80, most: 15, two: 0xde, four: 0xdf };

class Reader {
  #bytes;
  #view;
  #at = 0;

  constructor(bytes) {
    this.#bytes = new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, bytes.byteLength);
    this.#view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length);
  }

  get left() {
    return this.#bytes.length - this.#at;
  }

  read(depth) {
    if (depth > DEEPEST) throw new RangeError(`deeper than ${DEEPEST}`);
    const head = this.#view.getUint8(this.#take(1));
    if (head < 0x80) return head;
    if (head < 0x90) return this.#map(head - 0x80, depth);
    if (head < 0xa0) return this.#array(head - 0x90, depth);
    if (head < 0xc0) return this.#text(head - 0xa0);
    if (head >= 0xe0) return head - 0x100;
    const read = READERS[head];
    if (!read) throw new RangeError(`0x${head.toString(16)} begins nothing that is used here`);
    return read(this, depth);
  }

  number(method, size) {
    return this.#view[method](this.#take(size));
  }

  /** A number of eight bytes: only those that come out exactly. */
  long(method) {
    const value = Number(this.#view[method](this.#take(8)));
    if (!Number.isSafeInteger(value)) throw new RangeError("a number too large to be exact");
    return value;
  }

  sized(kind, method, size, depth) {
    const length = this.number(method, size);
    if (kind === TEXT) return this.#text(length);
    if (kind === BYTES) return this.#slice(length).slice();
    return kind === ARRAY ? this.#array(length, depth) : this.#map(length, depth);
  }

  #text(length) {
    try {
      return toText.decode(this.#slice(length));
    } catch (error) {
      throw error instanceof TypeError ? new RangeError("text that is not UTF-8") : error;
    }
  }

  #array(length, depth) {
    // Each value takes a byte at least: a short packet cannot ask for a huge array.
    if (length > this.left) throw new RangeError(`an array of ${length}, cut off`);
    return Array.from({ length }, () => this.read(depth + 1));
  }

  #map(length, depth) {
    if (2 * length > this.left) throw new RangeError(`a map of ${length}, cut off`);
    const pairs = Array.from({ length }, () => [this.read(depth + 1), this.read(depth + 1)]);
    if (pairs.some(([key]) => typeof key !== "string")) throw new RangeError("a key is no text");
    return Object.fromEntries(pairs);
  }

  #slice(length) {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  /** Go past some bytes; returns where they start. */
  #take(size) {
    if (size > this.left) throw new RangeError(`cut off: ${this.left} bytes left of ${size}`);
    const at = this.#at;
    this.#at += size;
    return at;
  }
}

const READERS = {
  0xc0: () => null,
  0xc2: () => false,
  0xc3: () => true,
  0xc4: (reader, depth) => reader.sized(BYTES, "getUint8", 1, depth),
  0xc5: (reader, depth) => reader.sized(BYTES, "getUint16", 2, depth),
  0xc6: (reader, depth) => reader.sized(BYTES, "getUint32", 4, depth),
  0xca: (reader) => reader.number("getFloat32", 4),
  0xcb: (reader) => reader.number("getFloat64", 8),
  0xcc: (reader) => reader.number("getUint8", 1),
  0xcd: (reader) => reader.number("getUint16", 2),
  0xce: (reader) => reader.number("getUint32", 4),
  0xcf: (reader) => reader.long("getBigUint64"),
  0xd0: (reader) => reader.number("getInt8", 1),
  0xd1: (reader) => reader.number("getInt16", 2),
  0xd2: (reader) => reader.number("getInt32", 4),
  0xd3: (reader) => reader.long("getBigInt64"),
  0xd9: (reader, depth) => reader.sized(TEXT, "getUint8", 1, depth),
  0xda: (reader, depth) => reader.sized(TEXT, "getUint16", 2, depth),
  0xdb: (reader, depth) => reader.sized(TEXT, "getUint32", 4, depth),
  0xdc: (reader, depth) => reader.sized(ARRAY, "getUint16", 2, depth),
  0xdd: (reader, depth) => reader.sized(ARRAY, "getUint32", 4, depth),
  0xde: (reader, depth) => reader.sized(MAP, "getUint16", 2, depth),
  0xdf: (reader, depth) => reader.sized(MAP, "getUint32", 4, depth),
};
