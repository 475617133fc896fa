// Whether this page shows what the server runs. If not, it says what does, with the way there:
// a page of snake that is connected to a meadow would be empty for ever.

import { PAGES, pageFor } from "../lobby/catalogue.js";
import { BASE } from "./connection.js";
import { askWhatIsServed } from "./share.js";

const PATIENCE = 2_500; // milliseconds of a connection, for something that this page understands

/** `understood()` tells whether the room has said anything that this page can show. Programs that
    nobody here knows get the benefit of the doubt: they may speak the language of this page. */
export async function checkServed({ room, connection, understood }) {
  const about = await askWhatIsServed();
  if (!about) return; // no --api: nobody knows
  const page = pageFor(about);
  if (new URL(`${page.name}/`, BASE).pathname === new URL(".", location.href).pathname) return;
  const known = PAGES.some(({ title }) => title === page.title);
  const tell = () => {
    connection.close();
    sayWhere(page, room);
  };
  if (known) tell();
  else onceHeard(connection, () => understood() || tell());
}

/** Call `judge` when a connection has lasted for long enough to have heard something. Where the
    network is slow, or the room full, that is long after this page was there. */
function onceHeard(connection, judge) {
  let timer = 0;
  const ends = new AbortController();
  const count = () => {
    clearTimeout(timer);
    if (connection.state === "connected") timer = setTimeout(heard, PATIENCE);
  };
  const heard = () => {
    ends.abort();
    judge();
  };
  connection.addEventListener("state", count, { signal: ends.signal });
  count();
}

function sayWhere(page, room) {
  const link = document.createElement("a");
  const url = new URL(`${page.name}/`, BASE);
  url.search = new URLSearchParams({ room });
  link.href = url;
  link.className = "way";
  link.textContent = `Go to ${page.title}`;
  const words = document.createElement("p");
  const title = document.querySelector("h1").textContent;
  words.textContent = `This server runs ${page.title}, not what this page shows (${title}).`;
  const card = document.createElement("div");
  card.className = "elsewhere";
  card.setAttribute("role", "alert");
  card.append(words, link);
  document.body.classList.add("is-elsewhere");
  document.querySelector("main").append(card);
}
