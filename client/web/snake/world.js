// What the game has told of the world of the snakes (game/snake.py): the full state once, and
// then what each tick has changed. Applied in the order that is written there, the changes give
// the very state that the server has. Nothing is drawn here.

export class World {
  tick = 0;
  width = 0; // not known yet
  height = 0;
  rate = 1; // ticks per second
  players = new Map(); // id → {id, name, body, dir, score, best, respawn, waits}, as they came
  food = []; // [x, y]

  welcome({ width, height, rate }) {
    Object.assign(this, { width, height, rate });
  }

  replace({ tick, players, food }) {
    this.tick = tick;
    this.players = new Map(players.map((player) => [player.id, player]));
    this.food = food;
  }

  /** Returns false, and changes nothing, for any tick but the next one. */
  apply(delta) {
    if (delta.tick !== this.tick + 1) return false;
    const all = { ...NOTHING, ...delta };
    const { left, joined, halted, died, moved, eaten, born, food, scores } = all;
    this.tick = delta.tick;
    for (const id of left) this.players.delete(id);
    for (const player of joined) this.players.set(player.id, player);
    for (const [id, waits] of halted) this.#change(id, { waits });
    for (const { id, dir, respawn } of died) this.#change(id, { body: [], dir, respawn, waits: null });
    const grew = new Set(delta.grew);
    for (const [id, x, y, dir] of moved) this.#move(id, [x, y], dir, grew.has(id));
    const gone = new Set(eaten.map(String));
    if (gone.size) this.food = this.food.filter((place) => !gone.has(String(place)));
    for (const { id, body, dir, waits } of born) {
      this.#change(id, { body, dir, waits, respawn: null });
    }
    this.food.push(...food);
    for (const [id, score, best] of scores) this.#change(id, { score, best });
    return true;
  }

  /** By best, then by score, then by who came first. */
  ranking() {
    const players = [...this.players.values()];
    return players.sort((a, b) => b.best - a.best || b.score - a.score); // sorting is stable
  }

  #move(id, head, dir, grows) {
    const player = this.players.get(id);
    if (!player) return;
    const tail = player.body.slice(0, grows ? undefined : -1);
    this.#change(id, { body: [head, ...tail], dir, waits: null });
  }

  #change(id, what) {
    const player = this.players.get(id);
    if (player) Object.assign(player, what);
  }
}

const NOTHING = Object.freeze({
  left: [], joined: [], halted: [], died: [], moved: [], grew: [], eaten: [], born: [], food: [],
  scores: [],
});
