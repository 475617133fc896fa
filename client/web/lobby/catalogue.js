// The pages that there are, and which of them shows what a server runs.

/** `name` is the page's folder and, unless `targets` says otherwise, what is served to it. */
export const PAGES = [
  {
    name: "bunny",
    title: "Meadow",
    sentence: "Everybody is a bunny, and all of them hop about in the same meadow.",
    targets: ["game"],
    command: "game.py",
  },
  {
    name: "snake",
    title: "Snake",
    sentence: "One field full of snakes. Eat, grow, and let the others run into you.",
  },
  {
    name: "tictactoe",
    title: "Tic-tac-toe",
    sentence: "Three in a row, for two players and as many spectators as like to watch.",
  },
  {
    name: "sandbox",
    title: "Sandbox",
    sentence: "Gather wood and stone, build walls and windmills, and mind the spikes.",
  },
  {
    name: "chat",
    title: "Chat",
    sentence: "Talk with whoever is in the room. What was said last is there when you come in.",
    targets: ["chat", "cat"],
    command: "chat",
    people: ["person", "people"],
  },
  {
    name: "terminal",
    title: "Terminal",
    sentence: "One terminal for everybody in the room: what one types, all see.",
    targets: [],
    command: "--staticdir client/web --api --cache 1000 --pty bash",
    people: ["person", "people"],
  },
  {
    name: "talk",
    title: "Any program",
    sentence: "Send it text or JSON: it answers you, and everybody in the room.",
    targets: [],
    command: "./example.py",
    people: ["person", "people"],
  },
];

const byName = new Map(PAGES.map((page) => [page.name, page]));

/** The page for what `/api/` says is served. Any program can be talked to. */
export function pageFor({ target, kind }) {
  if (kind === "terminal") return byName.get("terminal");
  const found = PAGES.find(({ name, targets = [name] }) => targets.includes(target));
  if (found) return found;
  return { ...byName.get("talk"), title: String(target) };
}

export function pageNamed(name) {
  return byName.get(name);
}

/** How many are in a room, in words: a game may tell players from spectators. */
export function describeCrowd({ connections, metadata }, [one, many] = ["player", "players"]) {
  const players = count(metadata?.players) ?? connections;
  const watching = count(metadata?.spectators) ?? Math.max(0, connections - players);
  if (!players && !watching) return "empty";
  const words = [];
  if (players) words.push(`${players} ${players === 1 ? one : many}`);
  if (watching) words.push(`${watching} watching`);
  return words.join(", ");
}

function count(value) {
  return Number.isSafeInteger(value) && value >= 0 ? value : null;
}
