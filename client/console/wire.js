// The connection to a room. Two of them, which look alike from outside:
//
//   Wire     speaks WebSocket itself, frame by frame. A page cannot open a TCP connection, so its
//            bytes go through a tunnel: the binary messages of a WebSocket to /console/tunnel are
//            the bytes of a connection that the server opens to itself.
//   Browser  is the browser's own WebSocket, to any address. It shows messages, never frames.
//
// Both tell of what happens by "entry" events, whose detail is
//   {kind: "request" | "response" | "frame" | "message" | "note", way: "sent" | "received" | "",
//    time, …}, and by "state" events: "closed", "connecting", "open" or "closing". A frame that was
// sent as an answer is `automatic`.

import { joinBytes, toBytes, toText } from "./bytes.js";
import {
  CLOSE, FrameReader, PING, PONG, encodeClose, encodeFrame, fragment, isControl,
  randomKey,
} from "./frames.js";
import { buildRequest, fieldOf, newKey, parseHead, problemWith, roomPath } from "./handshake.js";

const PIECE = 16 * 1024; // bytes of a message of the tunnel
const NOT_SENT = "It closes: the browser's own WebSocket sends nothing more.";
const MOST_HEAD = 64 * 1024; // bytes of an answer to the handshake

class Link extends EventTarget {
  state = "closed";

  enter(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  report(kind, way, facts) {
    const detail = { kind, way, time: new Date(), ...facts };
    this.dispatchEvent(new CustomEvent("entry", { detail }));
  }

  note(text) {
    this.report("note", "", { text });
  }
}

export class Wire extends Link {
  canSendFrames = true;
  answers = true; // Pings and Close frames are answered as RFC 6455 asks

  #tunnel;
  #request;
  #key = "";
  #protocols;
  #head = new Uint8Array(0); // of the answer, until it is whole
  #reader = null;
  #inMessage = { sent: false, received: false }; // a fragmented message is under way
  #asked = false; // the request has been sent
  #dropped = false; // by whoever uses it
  #refusal = "";
  #compresses = false; // permessage-deflate was agreed on
  #closeSent = false;
  #closeSeen = false;

  /** `extra` are lines of header fields, see buildRequest. */
  constructor({ room, query = "", protocols = [], compress = false, extra = "" }) {
    super();
    this.#protocols = protocols;
    this.#request = buildRequest({
      host: location.host,
      origin: location.origin,
      path: roomPath(room, query, new URL("../", location.href).pathname),
      key: newKey(),
      protocols,
      compress,
      extra,
    });
    this.#key = fieldOf(parseHead(toBytes(this.#request)), "Sec-WebSocket-Key");
    const url = new URL("tunnel", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.#tunnel = new WebSocket(url);
    this.#tunnel.binaryType = "arraybuffer";
    this.#tunnel.onopen = () => this.#askForUpgrade();
    this.#tunnel.onmessage = ({ data }) => this.#receive(new Uint8Array(data));
    this.#tunnel.onclose = (event) => this.#ended(event);
    this.enter("connecting");
  }

  /** Send one frame, whatever it is. Throws a RangeError if it cannot be written at all. */
  sendFrame(spec) {
    this.#send(spec);
  }

  /** Send a message, masked as it should be, in so many frames. */
  sendMessage(opcode, payload, pieces = 1) {
    for (const spec of fragment(opcode, payload, pieces)) {
      this.sendFrame({ ...spec, key: randomKey() });
    }
  }

  ping(payload) {
    this.sendFrame({ opcode: PING, payload, key: randomKey() });
  }

  /** Begin the closing handshake; a null code is none. */
  close(code, reason) {
    this.sendFrame({ opcode: CLOSE, payload: encodeClose(code, reason), key: randomKey() });
  }

  /** End the TCP connection with no closing handshake. */
  drop() {
    this.#dropped = true;
    this.#tunnel.close();
  }

  #askForUpgrade() {
    const bytes = toBytes(this.#request);
    this.report("request", "sent", { head: parseHead(bytes), bytes });
    this.#write(bytes);
    this.#asked = true;
  }

  #receive(bytes) {
    if (this.#refusal) return;
    if (this.#reader) return this.#read(bytes);
    this.#head = joinBytes([this.#head, bytes]);
    const head = parseHead(this.#head);
    if (!head && this.#head.length > MOST_HEAD) return this.#refuse("the answer has no end");
    if (head && hasBody(head, this.#head)) this.#judge(head);
  }

  /** Look at the whole answer to the handshake. */
  #judge(head) {
    const bytes = this.#head;
    const body = head.status === 101 ? null : toText(bytes.subarray(head.size));
    this.report("response", "received", { head, key: this.#key, bytes, body });
    const problem = problemWith(head, this.#key, this.#protocols);
    if (problem) return this.#refuse(problem);
    const extensions = fieldOf(head, "Sec-WebSocket-Extensions");
    this.#compresses = extensions.includes("permessage-deflate");
    this.#reader = new FrameReader();
    this.enter("open");
    this.#read(bytes.subarray(head.size));
  }

  #refuse(problem) {
    this.#refusal = problem;
    this.drop();
  }

  #read(bytes) {
    for (const frame of this.#reader.feed(bytes)) {
      this.#report(frame, "received");
      this.#answer(frame);
    }
  }

  #answer({ opcode, payload }) {
    if (opcode === CLOSE) this.#closeSeen = true;
    if (!this.answers || this.state !== "open") return;
    const key = randomKey();
    if (opcode === PING) this.#send({ opcode: PONG, payload, key }, true);
    if (opcode === CLOSE) this.#send({ opcode: CLOSE, payload: payload.slice(0, 2), key }, true);
  }

  #send(spec, automatic = false) {
    const bytes = encodeFrame(spec);
    const [frame] = new FrameReader().feed(bytes);
    this.#report(frame, "sent", automatic);
    this.#write(bytes);
    if (frame.opcode !== CLOSE) return;
    this.#closeSent = true;
    this.enter("closing");
  }

  #report(frame, way, automatic = false) {
    const inMessage = this.#inMessage[way];
    if (!isControl(frame.opcode)) this.#inMessage[way] = !frame.fin;
    this.report("frame", way, { frame, inMessage, automatic, compresses: this.#compresses });
  }

  #write(bytes) {
    for (let at = 0; at < bytes.length; at += PIECE) {
      this.#tunnel.send(bytes.subarray(at, at + PIECE));
    }
  }

  #ended(event) {
    this.enter("closed");
    this.note(this.#describeEnd(event));
  }

  #describeEnd({ code, reason }) {
    if (this.#refusal) return `Handshake failed: ${this.#refusal}.`;
    if (!this.#asked) {
      return this.#dropped
        ? "Given up: the request had not been sent yet."
        : "No connection: the server lends this page no tunnel.";
    }
    if (this.#closeSent && this.#closeSeen) {
      return "The TCP connection has ended, after a closing handshake.";
    }
    const how = {
      1000: "The TCP connection has ended",
      1005: "This page has ended the TCP connection",
    };
    const who = how[code] ?? `The tunnel broke (${code}${reason && `, ${reason}`})`;
    return `${who}, with no closing handshake: a browser would say 1006.`;
  }
}

/** Whether all of an answer is there. */
function hasBody(head, bytes) {
  return head.status === 101 || bytes.length - head.size >= Number(fieldOf(head, "Content-Length"));
}

export class Browser extends Link {
  canSendFrames = false;

  #socket;

  /** Throws a SyntaxError if it is no address of a WebSocket, or no subprotocol. */
  constructor({ address, protocols = [] }) {
    super();
    this.#socket = new WebSocket(address, protocols);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#opened();
    this.#socket.onmessage = ({ data }) => this.#reportMessage(data, "received");
    this.#socket.onclose = (event) => this.#ended(event);
    this.enter("connecting");
  }

  /** Throws an Error once either side has begun to close: the browser would send nothing more,
      and say nothing of it. */
  sendMessage(opcode, payload) {
    if (this.#socket.readyState !== WebSocket.OPEN) throw new Error(NOT_SENT);
    const data = opcode === 1 ? toText(payload) : payload;
    this.#reportMessage(data, "sent");
    this.#socket.send(data);
  }

  close(code, reason) {
    if (code === null) this.#socket.close();
    else this.#socket.close(code, reason);
    this.enter("closing");
  }

  /** Close, with no code: a browser has no way to just end the TCP connection. */
  drop() {
    this.close(null);
  }

  #opened() {
    const { protocol } = this.#socket;
    this.note(`Connected${protocol && `, subprotocol ${protocol}`}.`);
    this.enter("open");
  }

  #reportMessage(data, way) {
    const text = typeof data === "string";
    const payload = text ? toBytes(data) : new Uint8Array(data);
    this.report("message", way, { opcode: text ? 1 : 2, payload });
  }

  #ended({ code, reason, wasClean }) {
    this.enter("closed");
    const how = wasClean ? "" : ", not cleanly";
    this.note(`Closed${how}: code ${code}${reason && `, reason “${reason}”`}.`);
  }
}
