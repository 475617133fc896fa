// Frames to begin with, right and wrong ones, and what a server makes of them.

const RIGHT = { fin: true, rsv: 0, opcode: 1, masked: true, form: 0, text: "", hex: "" };

/** {title, answer, …}: what the editor shows; `key` is left out where any will do. */
export const EXAMPLES = [
  {
    title: "“Hello”, as in § 5.7", answer: "A whole text message, with the RFC's own masking key.",
    text: "Hello", key: "37 fa 21 3d",
  },
  {
    title: "The first half of a text", answer: "Nothing happens until a frame with FIN comes.",
    fin: false, text: "Hel",
  },
  {
    title: "… and its other half", answer: "The message is complete: the room gets one text.",
    opcode: 0, text: "lo",
  },
  {
    title: "A Ping", answer: "Comes back as a Pong with the same payload.",
    opcode: 9, text: "are you there?",
  },
  {
    title: "A Pong that nobody asked for", answer: "A sign of life; there is no answer (§ 5.5.3).",
    opcode: 10,
  },
  { title: "An empty Close", answer: "A Close with no code comes back.", opcode: 8 },
  { title: "Wrong: not masked", answer: "Close 1002 (§ 5.1).", masked: false, text: "Hello" },
  { title: "Wrong: a reserved opcode", answer: "Close 1002 (§ 5.2).", opcode: 3, text: "?" },
  { title: "Wrong: RSV1, with no extension", answer: "Close 1002 (§ 5.2).", rsv: 4, text: "Hello" },
  {
    title: "Wrong: a Ping of 126 bytes", answer: "Close 1002 (§ 5.5).",
    opcode: 9, text: "x".repeat(126),
  },
  { title: "Wrong: half a Ping", answer: "Close 1002 (§ 5.5).", fin: false, opcode: 9, text: "pi" },
  {
    title: "Wrong: 5 bytes, length in 16 bits", answer: "Close 1002 (§ 5.2).",
    form: 16, text: "Hello",
  },
  { title: "Wrong: continues nothing", answer: "Close 1002 (§ 5.4).", opcode: 0, text: "lo" },
  { title: "Wrong: text that is not UTF-8", answer: "Close 1007 (§ 8.1).", hex: "48 69 ff" },
  { title: "Wrong: Close with code 1005", answer: "Close 1002 (§ 7.4).", opcode: 8, hex: "03 ed" },
].map((example) => ({ ...RIGHT, ...example }));
