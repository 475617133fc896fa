// A link that another device can open. A page that was opened at localhost does not know what
// others call this machine; the server does, and tells a page on its own machine (--api).

import { BASE } from "./connection.js";
import { qrCode } from "./qr.js";

let asked = null; // the answer, or the wait for it

/** What the server says of itself, or null if it does not say (no --api). */
export function askWhatIsServed() {
  return (asked ??= ask());
}

async function ask() {
  try {
    const response = await fetch(new URL("api/", BASE), { cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    asked = null; // ask again; what is wrong, the connection says
    return null;
  }
}

function isLocal(url) {
  return /^(localhost|127\.[\d.]+|\[::1\])$/.test(new URL(url).hostname);
}

/** The same link, by the name that other devices have for this machine. */
export function forOthers(link, about) {
  const address = about?.addresses?.[0];
  const url = new URL(link);
  if (!address || !isLocal(link)) return link;
  url.hostname = address.includes(":") ? `[${address}]` : address;
  return url.href;
}

/** Whether a link is of use on this machine alone, as far as the server tells. */
export function isNearOnly(link, about) {
  return isLocal(link) && Array.isArray(about?.addresses);
}

/** Draw a link as a QR code; the element is hidden where there is nothing to draw. */
export function showCode(svg, link) {
  const rows = link ? qrCode(link) : null;
  svg.toggleAttribute("hidden", rows === null);
  if (!rows) return;
  const edge = 4; // modules that are light around it
  svg.setAttribute("viewBox", `0 0 ${rows.length + 2 * edge} ${rows.length + 2 * edge}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const squares = rows.flatMap((row, y) =>
    row.map((dark, x) => (dark ? `M${x + edge} ${y + edge}h1v1h-1z` : "")));
  path.setAttribute("d", squares.join(""));
  svg.replaceChildren(path);
}
