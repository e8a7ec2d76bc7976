// Gestures: what mouse, pen and fingers do in the picture. One finger orbits, two pan, zoom and turn.

/** @typedef {{ orbit: (dx: number, dy: number) => void, pan: (dx: number, dy: number) => void,
 *   zoom: (factor: number, x: number, y: number) => void, scrub: (x: number) => void, centre: (x: number, y: number) => void,
 *   hover: (x: number, y: number) => void, leave: () => void, inPlot: (x: number, y: number) => boolean,
 *   drag: (kind: string) => void }} Does what gestures ask for; x and y are pixels of the picture */

/** Milliseconds between the presses of a double click. */
const DOUBLE_CLICK = 350;

export class Gestures {
  /** @param {HTMLElement} target @param {Does} does */
  constructor(target, does) {
    this.target = target;
    this.does = does;
    /** @type {Map<number, number[]>} where the pointers are that are down */
    this.pointers = new Map();
    this.kind = "";
    this.clicked = { time: -Infinity, x: 0, y: 0 };
    target.addEventListener("pointerdown", (event) => this._down(event));
    target.addEventListener("pointermove", (event) => this._move(event));
    for (const name of /** @type {const} */ (["pointerup", "pointercancel", "lostpointercapture"])) {
      target.addEventListener(name, (event) => this._up(event));
    }
    target.addEventListener("pointerleave", () => this.does.leave());
    target.addEventListener("contextmenu", (event) => {
      if (this._isPicture(event)) event.preventDefault();
    });
    target.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
  }

  /** Whether an event concerns the picture, and not a control on it. */
  _isPicture(/** @type {Event} */ event) {
    return !(event.target instanceof Element && event.target.closest("#options, #notice"));
  }

  /** @returns {[number, number]} */
  _place(/** @type {MouseEvent} */ event) {
    const { left, top } = this.target.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  _begin(/** @type {string} */ kind) {
    this.kind = kind;
    this.does.drag(kind);
  }

  _down(/** @type {PointerEvent} */ event) {
    if (!this._isPicture(event)) return;
    const [x, y] = this._place(event);
    this.target.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [x, y]);
    this.does.leave();
    if (this.pointers.size > 1) this._begin("pan");
    else if (this.does.inPlot(x, y)) {
      this._begin("scrub");
      this.does.scrub(x);
    } else {
      const before = this.clicked;
      this.clicked = { time: event.timeStamp, x, y };
      const soon = event.timeStamp - before.time < DOUBLE_CLICK;
      if (event.button === 0 && soon && Math.hypot(x - before.x, y - before.y) < 12) this.does.centre(x, y);
      this._begin(event.button !== 0 || event.shiftKey ? "pan" : "orbit");
    }
  }

  _move(/** @type {PointerEvent} */ event) {
    const [x, y] = this._place(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "touch") return;
      if (this._isPicture(event) && !this.does.inPlot(x, y)) this.does.hover(x, y);
      else this.does.leave();
      return;
    }
    const [dx, dy] = [x - before[0], y - before[1]];
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.pointers.set(event.pointerId, [x, y]);
    if (others.length) this._two(before, [x, y], others[0]);
    else if (this.kind === "orbit") this.does.orbit(dx, dy);
    else if (this.kind === "pan") this.does.pan(dx, dy);
    else if (this.kind === "scrub") this.does.scrub(x);
  }

  /** One of two fingers moves: their middle pans, their distance zooms. */
  _two(/** @type {number[]} */ before, /** @type {number[]} */ now, /** @type {number[]} */ other) {
    const apart = (/** @type {number[]} */ p) => Math.max(Math.hypot(p[0] - other[0], p[1] - other[1]), 1);
    this.does.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.does.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  _up(/** @type {PointerEvent} */ event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.pointers.size === 1) this._begin("orbit");
    if (!this.pointers.size) this._begin("");
  }

  _wheel(/** @type {WheelEvent} */ event) {
    if (!this._isPicture(event)) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY / 3 : event.deltaY / 100;
    this.does.zoom(1.12 ** -Math.max(-3, Math.min(3, lines)), ...this._place(event));
  }
}
