// A canvas that shows a world of fixed size in a window of any size, sharp on any screen.
// The world is as large as it can be with nothing cut off; what the window has beyond that is
// there to be painted too, so that no bars are left (`visible` says how far it reaches).

export class Stage {
  /** Where the window's edges are, in world coordinates. */
  visible = { left: 0, top: 0, right: 1, bottom: 1 };
  scale = 1; // CSS pixels per unit of the world

  #canvas;
  #context;
  #backdrop = document.createElement("canvas");
  #paintBackdrop;
  #world = { width: 1, height: 1 };
  #margin;
  #ratio = 1; // device pixels per CSS pixel
  #stale = true;

  /** `margin` is what must be seen around the world, in its units: {top, right, bottom, left}.
      `paintBackdrop(context, stage)` paints what does not move; it is called when it must. */
  constructor(canvas, { margin, paintBackdrop }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#margin = margin;
    this.#paintBackdrop = paintBackdrop;
    new ResizeObserver(() => this.refresh()).observe(canvas);
  }

  get world() {
    return this.#world;
  }

  set world({ width, height }) {
    if (width === this.#world.width && height === this.#world.height) return;
    this.#world = { width, height };
    this.refresh();
  }

  /** Paint the backdrop anew before the next frame. */
  refresh() {
    this.#stale = true;
  }

  /** Start a frame: the backdrop is painted, and the context speaks world coordinates. */
  begin() {
    // Zooming a page, or moving it to another screen, changes the ratio and nothing else.
    if (this.#stale || this.#ratio !== window.devicePixelRatio) this.#layOut();
    const context = this.#context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.#backdrop, 0, 0);
    this.#useWorldUnits(context);
    return context;
  }

  /** Where in the world a mouse or finger is. */
  toWorld({ clientX, clientY }) {
    const box = this.#canvas.getBoundingClientRect();
    return {
      x: this.visible.left + (clientX - box.left) / this.scale,
      y: this.visible.top + (clientY - box.top) / this.scale,
    };
  }

  #layOut() {
    this.#stale = false;
    this.#ratio = window.devicePixelRatio;
    const width = Math.max(1, this.#canvas.clientWidth);
    const height = Math.max(1, this.#canvas.clientHeight);
    this.#fit(width, height);
    for (const canvas of [this.#canvas, this.#backdrop]) {
      canvas.width = Math.round(width * this.#ratio);
      canvas.height = Math.round(height * this.#ratio);
    }
    const context = this.#backdrop.getContext("2d", { alpha: false });
    this.#useWorldUnits(context);
    this.#paintBackdrop(context, this);
  }

  #fit(width, height) {
    const { top, right, bottom, left } = this.#margin;
    const whole = {
      width: this.#world.width + left + right,
      height: this.#world.height + top + bottom,
    };
    this.scale = Math.min(width / whole.width, height / whole.height);
    const spareX = width / this.scale - whole.width;
    const spareY = height / this.scale - whole.height;
    this.visible = {
      left: -left - spareX / 2,
      top: -top - spareY / 2,
      right: this.#world.width + right + spareX / 2,
      bottom: this.#world.height + bottom + spareY / 2,
    };
  }

  #useWorldUnits(context) {
    const zoom = this.scale * this.#ratio;
    const { left, top } = this.visible;
    context.setTransform(zoom, 0, 0, zoom, -left * zoom, -top * zoom);
  }
}

/** Call `frame(seconds since the last one, seconds since the start)` for every frame. */
export function animate(frame) {
  const start = performance.now();
  let last = start;
  const step = (now) => {
    // A hidden tab gets no frames: come back with a small step, not with a leap.
    frame(Math.min(0.1, Math.max(0, now - last) / 1_000), (now - start) / 1_000);
    last = now;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}
