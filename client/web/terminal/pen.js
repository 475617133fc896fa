// How characters are drawn: a pen has colours and a style, and never changes; "select graphic
// rendition" (SGR) makes another one. A colour is null (the usual one), a number from 0 to 255
// (of the palette), or "#rrggbb".

export const PLAIN = Object.freeze({
  ink: null, paper: null,
  bold: false, faint: false, italic: false, underline: false,
  blink: false, inverse: false, hidden: false, struck: false,
});

const PLAIN_KEY = Object.values(PLAIN).join();
const MOST_PENS = 4_096;

const ON = {
  1: "bold", 2: "faint", 3: "italic", 4: "underline", 5: "blink", 6: "blink", 7: "inverse",
  8: "hidden", 9: "struck", 21: "underline",
};
const OFF = {
  22: ["bold", "faint"], 23: ["italic"], 24: ["underline"], 25: ["blink"], 27: ["inverse"],
  28: ["hidden"], 29: ["struck"],
};

/** The pen that follows from `pen` by the parameters of an SGR sequence. */
export function nextPen(pen, parameters) {
  const next = { ...pen };
  for (let i = 0; i < parameters.length; i += 1) {
    const [code, ...details] = parameters[i];
    if (code === 38 || code === 48 || code === 58) {
      // "38:5:1" keeps it together; "38;5;1" spreads it over the parameters that follow.
      const spread = details.length ? details : parameters.slice(i + 1, i + 5).map(([n]) => n);
      const colour = readColour(spread, details.length > 0);
      if (!details.length) i += { 2: 4, 5: 2 }[spread[0]] ?? 0;
      if (colour !== undefined && code !== 58) next[code === 38 ? "ink" : "paper"] = colour;
    } else {
      change(next, code, details);
    }
  }
  return penOf(next);
}

const pens = new Map(); // what it looks like → the pen; programs use few, again and again

/** The one pen that looks so: equal pens are the same object, while there are not too many. */
export function penOf(look) {
  const key = Object.values(look).join();
  if (key === PLAIN_KEY) return PLAIN;
  if (pens.size > MOST_PENS) pens.clear();
  if (!pens.has(key)) pens.set(key, Object.freeze(look));
  return pens.get(key);
}

function change(pen, code, details) {
  if (code === 0) Object.assign(pen, PLAIN);
  else if (code === 4 && details[0] === 0) pen.underline = false;
  else if (code in ON) pen[ON[code]] = true;
  else if (code in OFF) OFF[code].forEach((name) => (pen[name] = false));
  else if (code >= 30 && code <= 37) pen.ink = code - 30;
  else if (code === 39) pen.ink = null;
  else if (code >= 40 && code <= 47) pen.paper = code - 40;
  else if (code === 49) pen.paper = null;
  else if (code >= 90 && code <= 97) pen.ink = code - 90 + 8;
  else if (code >= 100 && code <= 107) pen.paper = code - 100 + 8;
}

function readColour([kind, ...values], withColons) {
  if (kind === 5) return values[0] <= 255 ? values[0] : undefined;
  if (kind !== 2) return undefined;
  const rgb = withColons && values.length > 3 ? values.slice(1, 4) : values.slice(0, 3);
  if (rgb.length < 3 || rgb.some((value) => value > 255)) return undefined;
  return `#${rgb.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/** What a number of the palette beyond the first sixteen looks like: a cube, then greys. */
export function paletteColour(number) {
  if (number >= 232) return rgb(Array(3).fill(8 + 10 * (number - 232)));
  const cube = number - 16;
  const steps = [Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6];
  return rgb(steps.map((step) => (step ? 55 + 40 * step : 0)));
}

function rgb(values) {
  return `rgb(${values.join(" ")})`;
}
