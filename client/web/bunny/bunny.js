// A bunny: it knows how to hop to a place, how to come and how to go, and how to draw itself.
// It lives at (x, y) in the world; that is where its feet are. It looks right until it turns.

import { calm, clamp, hueOf, label, line, oval } from "../shared/paint.js";

const HOP_LENGTH = 78; // units of the world
const HOP_HEIGHT = 30;
const SLOWEST = 190; // units per second
const FASTEST = 1_100;
const COMING = 0.5; // seconds
const GOING = 0.4;

const NAMES = [
  "Clover", "Hazel", "Poppy", "Basil", "Nutmeg", "Daisy", "Pepper", "Juniper",
  "Maple", "Sorrel", "Biscuit", "Willow", "Thistle", "Olive", "Pumpkin", "Fennel",
];

export function nameOf(id) {
  return `${NAMES[id % NAMES.length]} ${id}`;
}

export class Bunny {
  #phase = 0; // hops done; a whole number is: on the ground
  #lift = 0; // how high it is in its hop
  #age = 0;
  #left = 0; // seconds since it said goodbye
  #leaving = false;
  #facing = 1;
  #turn = 1; // follows #facing smoothly, through zero

  constructor(id, { x, y }) {
    this.id = id;
    this.name = nameOf(id);
    this.hue = hueOf(id);
    this.x = x;
    this.y = y;
    this.target = { x, y };
  }

  get gone() {
    return this.#left > GOING;
  }

  get leaving() {
    return this.#leaving;
  }

  get resting() {
    return this.x === this.target.x && this.y === this.target.y;
  }

  goTo({ x, y }) {
    this.target = { x, y };
    if (Math.abs(x - this.x) > 4) this.#facing = Math.sign(x - this.x);
  }

  leave() {
    this.#leaving = true;
  }

  update(seconds) {
    this.#age += seconds;
    if (this.#leaving) this.#left += seconds;
    this.#turn += (this.#facing - this.#turn) * Math.min(1, seconds * 14);
    this.#move(seconds);
    this.#lift = calm.matches ? 0 : Math.sin(Math.PI * (this.#phase % 1));
  }

  #move(seconds) {
    const dx = this.target.x - this.x;
    const dy = this.target.y - this.y;
    const distance = Math.hypot(dx, dy);
    const speed = clamp(distance * 2.4, SLOWEST, FASTEST);
    const step = speed * seconds;
    if (distance <= step) {
      Object.assign(this, this.target);
      this.#land(seconds);
      return;
    }
    this.x += (dx / distance) * step;
    this.y += (dy / distance) * step;
    // Long ways are made of longer hops, not of frantic ones.
    this.#phase += step / (HOP_LENGTH * Math.sqrt(speed / SLOWEST));
  }

  /** Finish the hop that is under way, and stay on the ground. */
  #land(seconds) {
    const ground = Math.ceil(this.#phase);
    this.#phase = Math.min(ground, this.#phase + seconds * 3.2);
  }

  /** `size` magnifies (small screens), `me` marks the bunny that is yours. */
  draw(context, { size, me, dark }) {
    const here = this.#presence();
    const hop = this.#lift;
    const height = hop * HOP_HEIGHT;
    context.save();
    context.translate(this.x, this.y);
    context.scale(size, size);
    this.#drawGround(context, { here, height, me, dark });
    context.globalAlpha = clamp(here * 3, 0, 1);
    context.save();
    context.translate(0, -height);
    // Stretch on the way up, squash when the feet come down.
    const stretch = 1 + 0.1 * hop + this.#breath();
    context.scale((this.#turnWidth() * here * 1.02) / Math.sqrt(stretch), here * stretch);
    this.#drawBody(context, hop, dark);
    context.restore();
    context.restore();
  }

  /** The name tag is drawn after all bunnies, so that none hides it. */
  drawTag(context, { size, me, dark, unit, edges }) {
    if (this.#leaving) return;
    const top = (100 + this.#lift * HOP_HEIGHT) * size * this.#presence();
    const text = me ? `You · ${this.name}` : this.name;
    const reach = (0.32 * text.length + 0.6) * 12.5 * unit; // about half as wide as it will be
    const x = clamp(this.x, edges.left + reach, edges.right - reach);
    const y = Math.max(this.y - top - 8 * unit, edges.top + 12 * unit);
    const fur = `hsl(${this.hue} 60% ${dark ? 82 : 28}%)`;
    const usual = { ink: fur, paper: dark ? "hsl(220 30% 12% / .72)" : "hsl(0 0% 100% / .82)" };
    const mine = { ink: "hsl(30 80% 12%)", paper: "hsl(45 100% 66%)" };
    label(context, text, x, y, { size: 12.5 * unit, ...(me ? mine : usual) });
  }

  /** 0 is not here, 1 is here; it pops out a little larger than life. */
  #presence() {
    if (this.#leaving) return clamp(1 - this.#left / GOING, 0.001, 1);
    const t = clamp(this.#age / COMING, 0.001, 1);
    return t + Math.sin(Math.PI * t) * 0.35 * t;
  }

  #breath() {
    return calm.matches ? 0 : Math.sin(this.#age * 2.6 + this.id) * 0.012;
  }

  #turnWidth() {
    const least = this.#turn < 0 ? -0.25 : 0.25; // never paper-thin
    return Math.abs(this.#turn) < 0.25 ? least : this.#turn;
  }

  #drawGround(context, { here, height, me, dark }) {
    const coming = !this.#leaving && this.#age < COMING;
    if (coming || this.#leaving) {
      const width = this.#leaving ? 1 - this.#left / GOING : 1 - this.#age / COMING;
      oval(context, 0, 0, 44 * clamp(width * 1.6, 0, 1), 16 * clamp(width * 1.6, 0, 1), "#4b3524");
    }
    const far = 1 - height / 90;
    oval(context, 0, 1, 32 * far * here, 10 * far * here, `rgb(0 10 20 / ${dark ? 0.42 : 0.24})`);
    if (!me) return;
    context.beginPath();
    context.ellipse(0, 1, 43, 15, 0, 0, 2 * Math.PI);
    context.strokeStyle = "hsl(45 100% 66% / .95)";
    context.lineWidth = 3;
    context.setLineDash([9, 6]);
    context.lineDashOffset = calm.matches ? 0 : -this.#age * 14;
    context.stroke();
    context.setLineDash([]);
  }

  #drawBody(context, hop, dark) {
    const fur = this.#coat(dark);
    const swing = hop * 0.45 + this.#twitch();
    oval(context, -33, -23, 11, 10.5, fur.light); // tail
    this.#drawEar(context, 13, -59, -0.42 - swing, fur.shade, fur.inner);
    oval(context, 9, -5, 9, 5.5, fur.shade); // the feet on the far side
    oval(context, -6, -26, 31, 24, fur.coat, -0.12); // body
    oval(context, 15, -21, 13, 17, fur.light, 0.25); // chest
    oval(context, -17, -19, 18, 18, fur.haunch);
    oval(context, -12 - hop * 9, -5, 18, 6.5, fur.coat, hop * 0.5);
    oval(context, 17 + hop * 7, -5, 9.5, 5.5, fur.coat, -hop * 0.4);
    this.#drawHead(context, fur);
    this.#drawEar(context, 20, -60, -0.12 - swing * 0.8, fur.coat, fur.inner);
  }

  #drawHead(context, fur) {
    oval(context, 22, -48, 20, 17.5, fur.coat, 0.08);
    oval(context, 33, -42, 9.5, 8, fur.light); // muzzle
    oval(context, 24, -40, 5.5, 3.8, fur.blush);
    oval(context, 41, -46.5, 3.2, 2.5, fur.nose);
    line(context, [[40.5, -44], [38.5, -40], [35, -39]], fur.line, 1.3);
    line(context, [[34, -42], [25, -38]], fur.whisker, 0.9);
    line(context, [[35, -40], [27, -34.5]], fur.whisker, 0.9);
    if (this.#blinking()) {
      line(context, [[25, -50.5], [28, -49.5], [31, -50.5]], fur.line, 1.8);
      return;
    }
    oval(context, 28, -51, 3.5, 4.6, "#22202a");
    oval(context, 29.3, -52.8, 1.3, 1.6, "#fff");
  }

  #drawEar(context, x, y, tilt, coat, inner) {
    context.save();
    context.translate(x, y);
    context.rotate(tilt);
    oval(context, 0, -19, 8, 23, coat);
    oval(context, 1, -18, 4, 16.5, inner);
    context.restore();
  }

  #coat(dark) {
    const { hue } = this;
    const dim = dark ? 9 : 0; // moonlight
    const vivid = dark ? 42 : 58;
    return {
      coat: `hsl(${hue} ${vivid}% ${74 - dim}%)`,
      haunch: `hsl(${hue} ${vivid - 4}% ${69 - dim}%)`,
      shade: `hsl(${hue} ${vivid - 14}% ${60 - dim}%)`,
      light: `hsl(${hue} ${vivid}% ${93 - dim}%)`,
      inner: `hsl(${(hue + 350) % 360} 70% ${86 - dim}%)`,
      blush: "hsl(350 85% 72% / .55)",
      nose: "hsl(348 70% 58%)",
      line: `hsl(${hue} 35% 30%)`,
      whisker: `hsl(${hue} 30% 45% / .6)`,
    };
  }

  /** Now and then an ear moves, each bunny in its own time. */
  #twitch() {
    if (calm.matches) return 0;
    const beat = (this.#age + this.id * 1.7) % 4.3;
    return beat < 0.35 ? Math.sin((beat / 0.35) * Math.PI * 2) * 0.16 : 0;
  }

  #blinking() {
    return (this.#age + this.id * 2.3) % 3.7 < 0.13;
  }
}
