// What lies over the picture: what one has and can build, who leads, where everybody is.

import { night, oval } from "../shared/paint.js";
import { RESOURCE_COLOURS, artOf, stamp } from "./art.js";
import { WEAPONS } from "./character.js";

const PICTURES = { wood: "wood", food: "apple", stone: "rock", gold: "gold" };
const TOAST = 4_000; // milliseconds
const LEADERS = 10;

const $ = (id) => document.getElementById(id);

export class Hud {
  amounts = {}; // of each resource
  weapons = []; // IDs
  goods = []; // IDs
  counts = {}; // of each building that stands, by ID

  #world;
  #want;
  #shown = "";
  #upgrades = []; // items that may be chosen
  #toastTimer = 0;

  /** `want` is {select(id), upgrade(id)}. */
  constructor(world, want) {
    this.#world = world;
    this.#want = want;
    // A click on a button must not take the keys away from the game.
    $("hud").addEventListener("mousedown", (event) => event.preventDefault());
  }

  /** This is another life: one has nothing. */
  reset() {
    this.amounts = {};
    this.counts = {};
    this.weapons = [];
    this.goods = [];
    this.showUpgrades(0);
  }

  canAfford(item) {
    return this.#world.resources.every((name) => (this.amounts[name] ?? 0) >= item[name]);
  }

  mayBuild(item) {
    return this.canAfford(item) && (this.counts[item.id] ?? 0) < item.limit;
  }

  /** What a key selects: the ID of an item, or undefined. */
  itemForKey(code, own) {
    const slot = this.#slots(own).find(({ key }) => code === `Digit${key}`);
    return slot && this.#choice(slot.id, own);
  }

  /** The first of the weapons that may be chosen now, or undefined. */
  get nextWeapon() {
    return this.#upgrades[0]?.id;
  }

  /** Where a weapon is chosen that is in hand already, it is the next one that is wanted. */
  #choice(id, own) {
    if (this.#world.items[id].kind !== "weapon" || own.build !== null) return id;
    return this.weapons[(this.weapons.indexOf(id) + 1) % this.weapons.length];
  }

  // ---- What one has -------------------------------------------------------

  showResources() {
    const list = this.#world.resources.map((name) => {
      const item = document.createElement("li");
      const count = document.createElement("span");
      count.textContent = this.amounts[name] ?? 0;
      count.dataset.resource = name;
      item.append(this.#picture(PICTURES[name] ?? "rock"), count);
      item.title = name;
      item.setAttribute("aria-label", `${name}: ${count.textContent}`);
      return item;
    });
    $("resources").replaceChildren(...list);
  }

  showAge({ xp, maxXp, age }) {
    $("age").textContent = `Age ${age}`;
    $("progress").style.setProperty("--part", maxXp ? Math.min(1, xp / maxXp) : 0);
  }

  /** The bar of what can be taken into the hand; `own` is the player's row, if alive. */
  showBar(own) {
    const slots = own ? this.#slots(own).map((slot) => {
      const item = this.#world.items[slot.id];
      const may = item.kind === "building" ? this.mayBuild(item) : this.canAfford(item);
      const inHand = (own.build ?? own.weapon) === slot.id;
      return { ...slot, inHand, may, standing: this.counts[slot.id] ?? 0 };
    }) : [];
    const key = JSON.stringify([slots, night.matches]);
    if (key === this.#shown) return;
    this.#shown = key;
    $("bar").replaceChildren(...slots.map((slot) => this.#slot(slot, own)));
  }

  showUpgrades(points) {
    const choice = points ? this.#world.items.filter(({ id, kind }) =>
      kind === "weapon" && !this.weapons.includes(id)) : [];
    this.#upgrades = choice;
    $("upgrades").hidden = choice.length === 0;
    const buttons = choice.map((item) => {
      const button = this.#button(item);
      button.addEventListener("click", () => this.#want.upgrade(item.id));
      return button;
    });
    $("upgrade-choice").replaceChildren(...buttons);
  }

  /** The weapon, food, and buildings: there is one place for all weapons. */
  #slots(own) {
    return [own.weapon, ...this.goods].map((id, i) => ({ id, key: `${i + 1}` }));
  }

  #slot({ id, key, inHand, may, standing }, own) {
    const item = this.#world.items[id];
    const button = this.#button(item);
    button.classList.toggle("poor", !may);
    button.setAttribute("aria-pressed", inHand);
    button.dataset.item = item.name;
    const cap = document.createElement("kbd");
    cap.textContent = key;
    cap.setAttribute("aria-hidden", "true");
    button.setAttribute("aria-keyshortcuts", key);
    button.append(cap);
    const price = this.#price(item);
    if (price) button.append(price);
    if (standing) {
      const count = document.createElement("small");
      count.textContent = `${standing}/${item.limit}`;
      button.append(count);
    }
    button.addEventListener("click", () => this.#want.select(this.#choice(id, own)));
    return button;
  }

  #button(item) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "slot";
    button.title = item.name;
    const label = document.createElement("span");
    label.className = "unseen";
    const costs = this.#world.resources.filter((name) => item[name]);
    const words = costs.map((name) => `${item[name]} ${name}`).join(", ");
    label.textContent = words ? `${item.name}: ${words}` : item.name;
    button.append(label, this.#picture(item.name, item));
    return button;
  }

  #price(item) {
    const costs = this.#world.resources.filter((name) => item[name]);
    if (!costs.length) return null;
    const price = document.createElement("span");
    price.className = "price";
    price.setAttribute("aria-hidden", "true"); // the button's words have it
    for (const name of costs) {
      const part = document.createElement("b");
      part.textContent = item[name];
      part.style.setProperty("--tone", RESOURCE_COLOURS[name]);
      price.append(part);
    }
    return price;
  }

  /** A small picture of a thing, or of a weapon from paw to tip. */
  #picture(name, item) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 72;
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    if (item?.kind === "weapon") {
      const length = Math.max(item.reach, 60);
      context.translate(4, 68);
      context.rotate(-Math.PI / 4);
      context.scale(88 / length, 88 / length);
      context.translate(-14, 0);
      (WEAPONS[name] ?? WEAPONS.hammer)(context, length);
    } else {
      const radius = name === "spike" ? 27 : 29;
      stamp(context, name, { x: 36, y: 36, radius }, false);
      if (name === "windmill") stamp(context, "sails", { x: 36, y: 36, radius, turn: 0.5 }, false);
    }
    return canvas;
  }

  // ---- The others ---------------------------------------------------------

  showLeaders(rows) {
    const lines = rows.slice(0, LEADERS).map(({ sid, name, score }) => {
      const item = document.createElement("li");
      const who = document.createElement("span");
      who.textContent = name; // names come from strangers: text, never markup
      const points = document.createElement("span");
      points.textContent = score;
      item.append(who, points);
      item.classList.toggle("mine", sid === this.#world.me);
      return item;
    });
    $("leaders").replaceChildren(...lines);
  }

  /** Where everybody is, and what one has seen of the world. */
  drawMap() {
    const canvas = $("map");
    const { size, dots, objects, me, last } = this.#world;
    const ratio = window.devicePixelRatio;
    const width = Math.round(canvas.clientWidth * ratio);
    if (canvas.width !== width) canvas.width = canvas.height = width;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, width);
    const zoom = width / size;
    context.scale(zoom, zoom);
    const dot = (canvas.clientWidth > 110 ? 3.2 : 2.6) * ratio / zoom;
    for (const object of objects.values()) {
      const fill = object.type === null ? DOTS[artOf(object, this.#world)] : "#a5713f";
      oval(context, object.x, object.y, object.scale, object.scale, fill);
    }
    for (const { sid, x, y } of dots) {
      if (sid !== me) oval(context, x, y, dot, dot, "#e2574c");
    }
    oval(context, last.x, last.y, dot * 1.5, dot * 1.5, "#3a2500");
    oval(context, last.x, last.y, dot * 1.15, dot * 1.15, "#ffd34d");
  }

  // ---- Words --------------------------------------------------------------

  /** The world says something to all. */
  toast(text) {
    clearTimeout(this.#toastTimer);
    $("toast").textContent = text;
    $("toast").classList.add("shown");
    this.#toastTimer = setTimeout(() => $("toast").classList.remove("shown"), TOAST);
  }

  /** For those who cannot see who says what. */
  log(name, text) {
    const line = document.createElement("p");
    line.textContent = `${name}: ${text}`;
    $("log").append(line);
    while ($("log").childElementCount > 20) $("log").firstElementChild.remove();
  }
}

const DOTS = { tree: "#3f8a48", bush: "#7cc05f", rock: "#98a2aa", gold: "#e3b32c" };
