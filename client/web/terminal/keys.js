// What a terminal sends for the keys of a keyboard and for a mouse, as xterm does it.

const PLAIN_KEYS = { Enter: "\r", Tab: "\t", Escape: "\x1b", Backspace: "\x7f" };
const CURSOR_KEYS = {
  ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F",
};
const EDIT_KEYS = {
  Insert: 2, Delete: 3, PageUp: 5, PageDown: 6, F5: 15, F6: 17, F7: 18, F8: 19, F9: 20, F10: 21,
  F11: 23, F12: 24,
};
const FIRST_KEYS = { F1: "P", F2: "Q", F3: "R", F4: "S" };

const METHODS_OWN = 229; // the number of a key that an input method has taken

/** What was pressed where an input method is at work; null if that was for the input method.

    Safari tells of the Enter that ends a composition only after it. Chromium hides Escape and
    Ctrl-C from pages though the input method does nothing with them: their places tell. */
export function unmasked(event) {
  const { key, code, isComposing, keyCode, shiftKey, altKey, ctrlKey } = event;
  if (isComposing || (keyCode === METHODS_OWN && key === "Enter")) return null;
  if (key !== "Process") return event;
  const letter = ctrlKey && /^Key([A-Z])$/.exec(code)?.[1].toLowerCase();
  return { key: code === "Escape" ? code : letter || key, shiftKey, altKey, ctrlKey };
}

/** The characters for a key, or "" if it has none of its own and only types its letter.

    `event` is a KeyboardEvent, or an object like one; `modes` are the terminal's. With
    `optionTypes` Alt is Apple's Option, without which many keyboards have no @, no | and no {. */
export function bytesFor(event, modes, { optionTypes = false } = {}) {
  const { key, shiftKey, altKey, ctrlKey } = event;
  const modifiers = 1 + (shiftKey ? 1 : 0) + (altKey ? 2 : 0) + (ctrlKey ? 4 : 0);
  const modified = modifiers > 1 ? `;${modifiers}` : "";
  if (Object.hasOwn(CURSOR_KEYS, key)) {
    const opening = !modified && modes.applicationCursor ? "\x1bO" : "\x1b[";
    return `${opening}${modified ? `1${modified}` : ""}${CURSOR_KEYS[key]}`;
  }
  if (Object.hasOwn(EDIT_KEYS, key)) return `\x1b[${EDIT_KEYS[key]}${modified}~`;
  if (Object.hasOwn(FIRST_KEYS, key)) {
    return modified ? `\x1b[1${modified}${FIRST_KEYS[key]}` : `\x1bO${FIRST_KEYS[key]}`;
  }
  if (key === "Tab" && shiftKey) return "\x1b[Z";
  if (key === "Backspace" && ctrlKey) return "\x08";
  if (Object.hasOwn(PLAIN_KEYS, key)) return (altKey ? "\x1b" : "") + PLAIN_KEYS[key];
  const typesACharacter = event.getModifierState?.("AltGraph") || [...key].length !== 1;
  if (typesACharacter || (optionTypes && altKey && !ctrlKey)) return "";
  if (ctrlKey) return (altKey ? "\x1b" : "") + withControl(key);
  return altKey ? `\x1b${key}` : "";
}

/** The control character for a letter, such as ^C for "c"; "" if there is none. */
export function withControl(key) {
  const code = key.toUpperCase().charCodeAt(0);
  if (code >= 0x40 && code <= 0x5f) return String.fromCharCode(code - 0x40);
  return { " ": "\0", 2: "\0", 3: "\x1b", 4: "\x1c", 5: "\x1d", 6: "\x1e", 7: "\x1f", 8: "\x7f",
    "/": "\x1f", "?": "\x7f" }[key] ?? "";
}

/** What is sent for pasted text; in brackets it cannot be taken for keys. */
export function bytesForPaste(text, modes) {
  const plain = text.replace(/\r\n?|\n/g, "\r").replaceAll("\x1b", "");
  return modes.paste ? `\x1b[200~${plain}\x1b[201~` : plain;
}

/** What is sent for the mouse: `button` 0 to 2, 64 and 65 for the wheel, 32 more for a drag;
    `released` for a button let go. Empty if the program does not ask for the mouse. */
export function bytesForMouse({ button, x, y, released = false }, modes) {
  if (!modes.mouse || !modes.mouseFormat) return "";
  return `\x1b[<${button};${x + 1};${y + 1}${released ? "m" : "M"}`;
}
