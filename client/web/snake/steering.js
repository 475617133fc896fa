// Keys, swipes and the pad on the screen, made into one thing: a direction.

const KEYS = {
  ArrowUp: "up", KeyW: "up",
  ArrowDown: "down", KeyS: "down",
  ArrowLeft: "left", KeyA: "left",
  ArrowRight: "right", KeyD: "right",
};
const SWIPE = 22; // CSS pixels that make a turn; a finger that goes on makes the next

/** Call `turn(direction)` when one is wanted. */
export function steer({ surface, pad, turn }) {
  window.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input");
    const shortcut = event.ctrlKey || event.metaKey || event.altKey;
    if (typing || shortcut || !Object.hasOwn(KEYS, event.code)) return;
    event.preventDefault(); // arrows would scroll the page
    if (!event.repeat) turn(KEYS[event.code]);
  });
  pad.addEventListener("pointerdown", (event) => {
    const button = event.target.closest("[data-turn]");
    if (!button) return;
    event.preventDefault(); // at once, not when the finger is lifted
    turn(button.dataset.turn);
  });
  pad.addEventListener("click", (event) => {
    const button = event.target.closest("[data-turn]");
    if (button && event.detail === 0) turn(button.dataset.turn); // pressed with a key
  });
  watchSwipes(surface, turn);
}

function watchSwipes(surface, turn) {
  let from = null;
  surface.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY, id: event.pointerId };
  });
  surface.addEventListener("pointermove", (event) => {
    if (from?.id !== event.pointerId || !event.buttons) return;
    const dx = event.clientX - from.x;
    const dy = event.clientY - from.y;
    if (Math.max(Math.abs(dx), Math.abs(dy)) < SWIPE) return;
    const across = Math.abs(dx) > Math.abs(dy);
    if (across) turn(dx > 0 ? "right" : "left");
    else turn(dy > 0 ? "down" : "up");
    from = { x: event.clientX, y: event.clientY, id: event.pointerId };
  });
}
