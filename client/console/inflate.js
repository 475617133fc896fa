// Decompresses what permessage-deflate has compressed (RFC 7692 section 7.2.2), one message by
// itself: the server takes no context over from one message to the next.

import { joinBytes } from "./bytes.js";

const TAIL = [0x00, 0x00, 0xff, 0xff]; // the end of every message, which is not sent
const LAST_BLOCK = [0x03, 0x00]; // an empty one, so that the data has an end

/** Return the beginning of a message, about `most` bytes; less if its data is broken. */
export async function inflate(payload, most) {
  const stream = new Blob([payload, Uint8Array.from([...TAIL, ...LAST_BLOCK])]).stream();
  const reader = stream.pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  try {
    for (let size = 0; size < most; size += parts.at(-1).length) {
      const { value, done } = await reader.read();
      if (done) break;
      parts.push(value);
    }
  } catch {
    // What came before the fault is shown.
  }
  reader.cancel().catch(() => {});
  return joinBytes(parts);
}
