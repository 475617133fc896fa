// The garden: a lawn with a hedge around it, and what grows beyond. By day and by night.

import { line, oval, seededRandom } from "../shared/paint.js";

export const HEDGE = 1.1; // cells around the world

export const DAY = {
  outside: "#e9ecd6", lawn: ["#f4f6e4", "#ebf0d6"], hedge: ["#5f9e58", "#4d8a4a", "#76b269"],
  ink: "#22301d", paper: "rgb(255 255 255 / .78)", outline: "rgb(20 40 20 / .55)",
  tuft: "#c3cda0", petals: ["#e9b94f", "#e58fa5", "#fff", "#a99be0"], map: "rgb(255 255 255 / .75)",
};
export const NIGHT = {
  outside: "#101728", lawn: ["#1a2440", "#1d2947"], hedge: ["#2a5a52", "#214a47", "#35695b"],
  ink: "#eef1fa", paper: "rgb(12 18 34 / .72)", outline: "rgb(0 0 0 / .55)",
  tuft: "#1f2c4a", petals: ["#7c6a3c", "#77506a", "#6b7694", "#564f86"], map: "rgb(12 18 34 / .75)",
};

/** Paint all that never moves, of a world that is not known yet the surroundings; the units are
    cells. */
export function paintGarden(context, { width, height }, margin, palette) {
  context.fillStyle = palette.outside;
  context.fillRect(-margin.x, -margin.y, width + 2 * margin.x, height + 2 * margin.y);
  paintTufts(context, { width, height }, margin, palette);
  if (!width) return;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      context.fillStyle = palette.lawn[(x + y) % 2];
      context.fillRect(x, y, 1.02, 1.02);
    }
  }
  paintHedge(context, { width, height }, palette);
}

/** Grass and flowers beyond the hedge. */
function paintTufts(context, { width, height }, margin, palette) {
  const random = seededRandom(3);
  const whole = { width: width + 2 * margin.x, height: height + 2 * margin.y };
  for (let i = 0; i < whole.width * whole.height * 0.12; i += 1) {
    const x = random() * whole.width - margin.x;
    const y = random() * whole.height - margin.y;
    for (const lean of [-0.18, 0, 0.18]) {
      const tip = [x + lean, y - 0.32 + Math.abs(lean)];
      line(context, [[x + lean * 0.4, y], tip], palette.tuft, 0.07);
    }
    const petal = palette.petals[Math.floor(random() * 24)]; // most have no flower
    if (petal) oval(context, x, y - 0.38, 0.13, 0.13, petal);
  }
}

function paintHedge(context, { width, height }, palette) {
  const random = seededRandom(7);
  const leaf = (x, y) => {
    const tone = palette.hedge[Math.floor(random() * palette.hedge.length)];
    oval(context, x + (random() - 0.5) * 0.5, y + (random() - 0.5) * 0.5, 0.36, 0.36, tone);
  };
  for (let pass = 0; pass < 2; pass += 1) {
    for (let x = -0.6; x <= width + 0.6; x += 0.35) {
      leaf(x, -0.62);
      leaf(x, height + 0.62);
    }
    for (let y = -0.6; y <= height + 0.6; y += 0.35) {
      leaf(-0.62, y);
      leaf(width + 0.62, y);
    }
  }
}
