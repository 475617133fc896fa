// Tic-tac-toe. The game runs on the server (game/tictactoe.py, which describes its messages):
// after every change it sends the whole state, and all that this page shows is made of the
// last one. This page knows no rules: every move is the server's to judge.

import { NamePrompt, apart, read, write } from "../shared/name.js";
import { enterRoom, handleMessages } from "../shared/play.js";

const $ = (id) => document.getElementById(id);

const MARKS = ["X", "O"];
const ROWS = ["top", "middle", "bottom"];
const COLUMNS = ["left", "centre", "right"];
const ARROWS = { ArrowUp: -3, ArrowDown: 3, ArrowLeft: -1, ArrowRight: 1 };

let state = null; // what the game said last
let asked = ""; // the name that was sent, until the game has answered
let graceEnds = 0; // when who is away forfeits, on the clock of performance.now()

// The secret with which this tab comes back to its seat; a name alone takes nobody's.
const TOKEN = `scalesocket.token:${location.pathname}${location.search}`;

const { room, connection } = enterRoom("parlour", { reload: true });
const prompt = new NamePrompt($("join"), sayName);
const cells = Array.from({ length: 9 }, (_, i) => addCell(i));
const line = addLine();
const seats = Object.fromEntries(MARKS.map((mark) => [mark, addSeat(mark)]));

// ---- What the game says ---------------------------------------------------

handleMessages(connection, {
  state(message) {
    state = message;
    graceEnds = performance.now() + message.grace * 1_000;
    asked = message.name ? "" : asked;
    if (message.token) write("sessionStorage", TOKEN, message.token);
    complain("");
    if (message.name) prompt.hide();
    else if (prompt.name && !asked) sayName(prompt.name);
    else if (!asked) prompt.show();
    show();
  },
  moved() {
    write("sessionStorage", TOKEN, "");
    prompt.refuse("You play on in another window.");
  },
  error({ error }) {
    if (asked) {
      asked = "";
      prompt.refuse(sentence(error));
    } else {
      complain(sentence(error));
    }
  },
});

connection.addEventListener("state", () => {
  if (connection.state === "connected") return;
  if (!connection.resumed) asked = "";
  show(); // the last state stays, dimmed
});

// ---- What you do ----------------------------------------------------------

function sayName(name) {
  const token = read("sessionStorage", TOKEN);
  if (connection.send({ t: "name", name, ...(token && { token }) })) asked = name;
}

function move(cell) {
  complain("");
  if (connection.state !== "connected") return;
  if (!state?.you) complain("You are watching. The two with a seat play.");
  else connection.send({ t: "move", cell });
}

$("rematch").addEventListener("click", () => connection.send({ t: "rematch" }));

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(event.key)) move(Number(event.key) - 1);
  if (Object.hasOwn(ARROWS, event.key)) walk(event);
});

/** The arrow keys go from cell to cell, and do not leave the board. */
function walk(event) {
  event.preventDefault();
  const here = cells.indexOf(document.activeElement);
  const step = ARROWS[event.key];
  const there = here < 0 ? 4 : here + step;
  const sameRow = Math.floor(here / 3) === Math.floor(there / 3);
  if (here >= 0 && (there < 0 || there > 8 || (Math.abs(step) === 1 && !sameRow))) return;
  cells.forEach((cell, i) => (cell.tabIndex = i === there ? 0 : -1));
  cells[there].focus();
}

// ---- What is shown --------------------------------------------------------

function show() {
  cells.forEach(showCell);
  MARKS.forEach(showSeat);
  showLine();
  $("verdict").replaceChildren(...verdict());
  $("verdict").dataset.mood = mood();
  $("company").textContent = company();
  showRematch();
  showInvitation();
  $("board").classList.toggle("yours", isYourTurn());
  document.body.dataset.players = state ? seated().length + state.spectators : 0;
}

function isYourTurn() {
  const live = connection.state === "connected";
  return live && state !== null && state.you !== null && state.turn === state.you;
}

function seated() {
  return MARKS.filter((mark) => state.players[mark] !== null);
}

function nameOf(mark) {
  return state.players[mark] ?? mark;
}

function other(mark) {
  return mark === "X" ? "O" : "X";
}

/** In parts. Where there is not room for all, names are cut, and not what is said of them. */
function verdict() {
  if (!state) return [];
  const { result, turn, you } = state;
  if (result === "draw") return ["A draw."];
  if (result) {
    const winner = you === result ? ["You win!"] : [named(result), " wins."];
    return state.forfeit ? [...winner, " ", named(other(result)), " has left."] : winner;
  }
  if (turn === null) return [you ? "Waiting for another player." : "Waiting for players."];
  if (turn === you) return ["Your turn."];
  return [named(turn), nameOf(turn).endsWith("s") ? "’ turn." : "’s turn."];
}

function named(mark) {
  return apart(nameOf(mark));
}

function mood() {
  if (!state?.result || !state.you || state.result === "draw") return isYourTurn() ? "turn" : "";
  return state.result === state.you ? "won" : "lost";
}

function company() {
  if (!state) return "";
  const { spectators, you } = state;
  if (!you && spectators <= 1) return "You are watching.";
  if (!you) return `You are watching, with ${spectators - 1} more.`;
  return spectators ? `${spectators} watching.` : "";
}

function showRematch() {
  const over = Boolean(state?.result && state.you);
  const waiting = over && state.rematch.includes(state.you);
  $("rematch").hidden = !over;
  $("rematch").disabled = waiting || connection.state !== "connected";
  const rival = over && state.players[other(state.you)];
  $("rematch").textContent = waiting ? `Waiting for ${rival ?? "somebody"} …` : "Rematch";
}

function showInvitation() {
  const full = state !== null && seated().length === MARKS.length;
  $("name-label").textContent = `Your name, ${full ? "for the next seat" : "to take a seat"}`;
  $("sit").textContent = full ? "Wait" : "Play";
}

function complain(problem) {
  $("problem").textContent = problem;
}

/** The server's words, as a sentence. */
function sentence(words) {
  const text = String(words);
  return `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
}

// ---- The board ------------------------------------------------------------

function addCell(i) {
  const cell = document.createElement("button");
  cell.type = "button";
  cell.className = "cell";
  cell.tabIndex = i === 4 ? 0 : -1;
  cell.dataset.key = i + 1;
  cell.addEventListener("click", () => move(i));
  cell.addEventListener("focus", () => {
    cells.forEach((each) => (each.tabIndex = each === cell ? 0 : -1));
  });
  $("board").append(cell);
  return cell;
}

function showCell(cell, i) {
  const mark = state?.board[i] ?? ".";
  const [row, column] = [ROWS[Math.floor(i / 3)], COLUMNS[i % 3]];
  const place = row === "middle" && column === "centre" ? "centre" : `${row} ${column}`;
  cell.setAttribute("aria-label", `${place}, ${mark === "." ? "empty" : mark}`);
  cell.classList.toggle("won", Boolean(state?.line?.includes(i)));
  if (cell.dataset.mark === mark) return; // it is drawn once, when it is made
  cell.dataset.mark = mark;
  cell.replaceChildren(...(mark === "." ? [] : [drawMark(mark)]));
}

/** Drawn as with a pen, stroke by stroke. */
function drawMark(mark) {
  const strokes = {
    X: ["M24 23C40 42 58 60 77 77", "M77 24C60 40 41 60 23 76"],
    O: ["M52 20C30 18 19 34 20 51C21 70 34 81 51 80C70 79 81 66 80 49C79 31 68 21 49 20"],
  };
  const picture = svg("svg", { viewBox: "0 0 100 100", class: `mark ${mark}` });
  picture.setAttribute("aria-hidden", "true");
  for (const d of strokes[mark]) picture.append(svg("path", { d, pathLength: 1 }));
  return picture;
}

function addLine() {
  const picture = svg("svg", { viewBox: "0 0 300 300", class: "winning" });
  picture.setAttribute("aria-hidden", "true");
  $("board").append(picture);
  return picture;
}

function showLine() {
  const key = state?.line?.join() ?? "";
  if (line.dataset.cells === key) return;
  line.dataset.cells = key;
  line.replaceChildren();
  if (!key) return;
  const [from, , to] = state.line.map((i) => [50 + (i % 3) * 100, 50 + Math.floor(i / 3) * 100]);
  const reach = (a, b) => a + Math.sign(a - b) * 36; // beyond the middle of the cell
  const start = `${reach(from[0], to[0])} ${reach(from[1], to[1])}`;
  const end = `${reach(to[0], from[0])} ${reach(to[1], from[1])}`;
  line.append(svg("path", { d: `M${start}L${end}`, pathLength: 1, class: state.result }));
}

// ---- The seats ------------------------------------------------------------

function addSeat(mark) {
  const seat = document.createElement("div");
  seat.className = `seat ${mark}`;
  const name = document.createElement("span");
  name.className = "who";
  const note = document.createElement("span");
  note.className = "about";
  const words = document.createElement("p");
  words.append(name, note);
  seat.append(drawMark(mark), words);
  $("seats").append(seat);
  return { seat, name, note };
}

function showSeat(mark) {
  const { seat, name, note } = seats[mark];
  const who = state?.players[mark];
  name.textContent = who ?? "Free seat";
  note.textContent = state ? aboutSeat(mark) : mark;
  seat.classList.toggle("empty", !who);
  seat.classList.toggle("turn", state !== null && state.turn === mark);
  seat.classList.toggle("away", state !== null && state.away === mark);
}

function aboutSeat(mark) {
  if (state.away === mark) {
    const left = Math.max(0, Math.ceil((graceEnds - performance.now()) / 1_000));
    return `${mark} · away, ${left} s`;
  }
  const you = state.you === mark ? "you" : "";
  const again = state.rematch.includes(mark) ? "rematch?" : "";
  return [mark, you, again].filter(Boolean).join(" · ");
}

setInterval(() => {
  if (state?.away) showSeat(state.away);
}, 250);

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// ---- For tests ------------------------------------------------------------

window.game = Object.freeze({
  get state() {
    return connection.state;
  },
  get room() {
    return room;
  },
  /** What the game said last. */
  get table() {
    return structuredClone(state);
  },
});

show();
connection.open();
