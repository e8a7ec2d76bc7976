// Page: connects the controls, the clock and the scene to the replay. It draws on demand: an idle page does nothing.

import { actionOf, nameOf } from "../replay/keys.js";
import { Replay } from "../replay/replay.js";
import { Hud } from "../screen/hud.js";
import { Scene } from "../screen/scene.js";
import * as address from "./address.js";
import { Gestures } from "./gestures.js";
import { Panels } from "./panels.js";
import { beside, download, flattened } from "./picture.js";
import { lineScale, Second, setUnit } from "./second.js";
import { element } from "./words.js";

/** @typedef {import("../geometry/data.js").Payload} Payload */
/** @typedef {import("../replay/look.js").Look} Look */

/** Degrees a pixel. */
const ORBIT = 0.35;
/** Milliseconds between two moving pictures above which one counts as late. */
const SLOW = 40;
/** Late pictures in a row after which a driver counts as slow. */
const LATE = 3;
/** Milliseconds without a turn of the wheel after which the picture gets its full quality again. */
const REST = 160;
const WORDS = ["heading", "moment", "cursor"];

export class Page {
  /** @param {Payload} payload */
  constructor(payload) {
    this.payload = payload;
    this.frame = element("picture");
    this.pane = element("pane");
    this.second = new Second(payload);
    this.size = this._measure();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    this.followsSystem = !payload.look.theme;
    const theme = payload.look.theme || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    this.replay = new Replay(payload, theme, this.aspect);
    address.look(this.replay, payload.view, this.aspect);
    if (!payload.view) this.replay.camera = this.replay.home;
    address.read(this.replay, location.hash, this.aspect);
    this.hud = new Hud();
    this.panels = new Panels(this.replay, {
      act: (change) => this.act(change),
      look: (change) => this.act(() => this.replay.setLook({ ...this.replay.look, ...change })),
      choose: (number) => this.act(() => this.replay.choose(number, this.aspect)),
      save: () => this.save(),
    });
    /** @type {Scene | null} */
    this.scene = null;
    this.canvas = /** @type {HTMLCanvasElement} */ (element("scene"));
    this.words = /** @type {HTMLCanvasElement} */ (element("hud"));
    this.failed = false;
    /** @type {number | undefined} */
    this.asked = undefined;
    /** @type {number | undefined} */
    this.last = undefined;
    /** @type {number | undefined} */
    this.writing = undefined;
    this.dirty = false;
    this.wasFast = false;
    this.written = "";
    this.draws = 0;
    this.slow = false;
    this.late = 0;
    /** @type {number | undefined} */
    this.drawn = undefined;
    this.drag = "";
    /** What was seen where the mouse is, while a box says what is there. */
    this.hovered = "";
    /** @type {{ x: number, width: number } | null} the plot that the mouse was in last */
    this.plot = null;
    this.wheeled = -Infinity;
    this.seen = true;
    this._listen(dark);
    this.touch();
  }

  _listen(/** @type {MediaQueryList} */ dark) {
    this.gestures = new Gestures(this.frame, this._gestures());
    addEventListener("keydown", (event) => this._key(event));
    addEventListener("hashchange", () => this.go(location.hash));
    dark.addEventListener("change", () => {
      if (this.followsSystem) this.act(() => this.replay.setLook({ ...this.replay.look, theme: dark.matches ? "dark" : "light" }));
    });
    element("options").addEventListener("change", (event) => {
      if (event.target instanceof Element && event.target.id === "theme") this.followsSystem = false;
    });
    new ResizeObserver(() => this._resize()).observe(this.pane);
    new IntersectionObserver((entries) => this._see(entries[entries.length - 1].isIntersecting)).observe(this.frame);
    addEventListener("visibilitychange", () => this.touch());
  }

  // -- the loop --------------------------------------------------------------------------------------
  get aspect() {
    return this.size[0] / this.size[1];
  }

  _measure() {
    return [Math.max(this.pane.clientWidth, 1), Math.max(this.pane.clientHeight, 1)];
  }

  /** Ask for a picture. */
  touch() {
    this.dirty = true;
    this._request();
  }

  _request() {
    this.asked ??= requestAnimationFrame((now) => this._tick(now));
  }

  _tick(/** @type {number} */ now) {
    this.asked = undefined;
    const seconds = Math.min((now - (this.last ?? now)) / 1000, 0.25);
    const { replay } = this;
    if (replay.advance(seconds)) this.dirty = true;
    const busy = this.drag === "orbit" || this.drag === "pan" || now - this.wheeled < REST;
    if (this.seen && this.dirty) this._scene();
    const fast = this.slow && (busy || replay.moving || !this.draws); // the first picture soon, a smooth one after it
    if (this.wasFast && !fast) this.dirty = true;
    if (this.dirty && this.seen) {
      this.dirty = false;
      if (busy || replay.moving) this._judge(now);
      else this.drawn = undefined;
      this._draw(fast, busy);
    }
    const moves = replay.moving || replay.follow || (this.wasFast && !this.drag);
    this.last = moves ? now : undefined;
    if (moves && this.seen) this._request();
    if (!moves) this._writeAddress();
  }

  _draw(/** @type {boolean} */ fast, /** @type {boolean} */ busy) {
    this._divide();
    const { replay, size } = this;
    const scene = this._scene();
    if (!scene) return;
    this.wasFast = fast;
    scene.show(replay.landscape, replay.look);
    const ratio = this.canvas.width / size[0];
    const scale = lineScale(size, ratio);
    const turns = busy || replay.turntable;
    const quality = { scale, fast, coarse: fast && turns, turns };
    scene.draw(replay.camera, replay.timeline.position, quality);
    const other = replay.pane;
    if (other) this.second.draw(other, size, ratio, quality, (names, frame) => this._areas(names, frame));
    if (this.hovered && this.hovered !== this._seen()) this._leave(); // the point is not under the mouse any more
    this.panels.update(replay);
    this._drawWords(scene, ratio);
    this.panels.cursor(this.hud.cursor(replay));
    this.draws += 1;
  }

  /** Show one pane or two. */
  _divide() {
    const { clientWidth, clientHeight } = this.frame;
    const two = Boolean(this.replay.second);
    this.frame.classList.toggle("stacked", clientWidth < clientHeight);
    if (element("beside").hidden !== two) return;
    element("beside").hidden = !two;
    if (!two) this.second.rest();
    this._resize();
  }

  /** The pane at a place of the picture: its replay, where it begins, and its HUD. @param {number} x @param {number} y */
  _at(x, y) {
    const other = this.replay.pane;
    const first = { replay: this.replay, left: 0, top: 0, hud: this.hud };
    if (!other) return first;
    const { offsetLeft: left, offsetTop: top } = element("beside");
    return x >= left && y >= top ? { replay: other, left, top, hud: this.second.hud } : first;
  }

  /** Axes, labels, colour bar and plot, where they have changed: they do not while the replay plays. */
  _drawWords(/** @type {Scene} */ scene, /** @type {number} */ ratio) {
    const { replay, size, hud } = this;
    const { camera, timeline, look } = replay;
    const words = this._areas(["heading", "moment"]);
    const covered = this._areas(["options", "notice", "place"]);
    const state = [ratio, size, camera.text, timeline.clock, timeline.length, words, covered, scene.version, replay.arrangement].join(" ");
    if (state === this.written) return;
    this.written = state;
    // Software is faster at a canvas of its own than at one on a graphics card that it plays as well.
    const options = { willReadFrequently: scene.isSoftware };
    const context = /** @type {CanvasRenderingContext2D} */ (this.words.getContext("2d", options));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, size[0], size[1]);
    const hasBar = !replay.second; // else the second pane has it
    if (look.captions) hud.draw(context, replay, size, (name) => scene.colors(name), scene.version, words, covered, hasBar);
    else hud.plot = null;
  }

  /** The areas of elements that are shown, with some space around them, in a pane. @param {string[]} names */
  _areas(names, frame = this.pane) {
    const { left, top } = frame.getBoundingClientRect();
    return names.map((name) => element(name).getBoundingClientRect()).filter(({ width }) => width).map((area) =>
      [area.left - left - 6, area.top - top - 3, area.right - left + 6, area.bottom - top + 3].map(Math.round));
  }

  /** What the box beside the mouse depends on. */
  _seen() {
    const { camera, look, landscape } = this.replay;
    return [camera.text, JSON.stringify(look), landscape.surface.name, landscape.paths.length, this.replay.arrangement].join(" ");
  }

  /** Hide the box beside the mouse. */
  _leave() {
    if (!this.hovered) return;
    this.hovered = "";
    this.panels.hover([], 0, 0, [this.frame.clientWidth, this.frame.clientHeight]);
    if (this.scene) this._drawWords(this.scene, this.canvas.width / this.size[0]);
  }

  /** Whether this driver needs less quality while something moves: a few pictures in a row have come late. */
  _judge(/** @type {number} */ now) {
    const late = this.drawn !== undefined && now - this.drawn > SLOW && now - this.drawn < 1000;
    this.late = late ? this.late + 1 : 0;
    if (this.late >= LATE) this.slow = true;
    this.drawn = now;
  }

  _writeAddress() {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => {
      if (this.replay.camera !== this.replay.home || location.hash) address.write(this.replay);
    }, 250);
  }

  // -- the canvases ----------------------------------------------------------------------------------
  /** The scene, with a context of its own; a browser gives a page sixteen. */
  _scene() {
    if (this.scene || this.failed) return this.scene;
    const canvas = document.createElement("canvas");
    canvas.id = "scene";
    canvas.setAttribute("aria-hidden", "true");
    this.canvas.replaceWith(canvas);
    this.canvas = canvas;
    this._fit();
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      if (this.canvas === canvas) this._rest();
    });
    try {
      this.scene = new Scene(canvas, this.payload);
      this.written = ""; // another scene counts its versions anew
      this.slow = this.slow || this.scene.isSoftware;
    } catch (error) {
      this.failed = true;
      this._say(String(error instanceof Error ? error.message : error));
      this.panels.update(this.replay);
    }
    return this.scene;
  }

  _fit() {
    const ratio = Math.min(devicePixelRatio || 1, 3);
    for (const canvas of [this.canvas, this.words]) {
      const [width, height] = this.size.map((side) => Math.max(Math.round(side * ratio), 1));
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
    }
    this.written = "";
    setUnit(this.size);
  }

  _resize() {
    const before = this.size;
    this.size = this._measure();
    const { replay } = this;
    if (replay.camera === replay.home && before.join() !== this.size.join()) {
      replay.home = replay.camera = replay.home.fitted(replay.stage, this.aspect, replay.look.captions);
    }
    this._fit();
    this.touch();
  }

  /** The page comes into view, or leaves it. @param {boolean} seen */
  _see(seen) {
    if (seen === this.seen) return;
    this.seen = seen;
    if (seen) this.touch();
    else this._rest();
  }

  /** Give the context back; a picture stays in its place until the page is seen again. */
  _rest() {
    this.second.rest();
    if (!this.scene) return;
    const { gl } = this.scene;
    const still = document.createElement("canvas");
    [still.width, still.height, still.id] = [this.canvas.width, this.canvas.height, "scene"];
    if (!gl.isContextLost()) {
      this.scene.draw(this.replay.camera, this.replay.timeline.position, this.scene.lastOptions);
      still.getContext("2d")?.drawImage(this.canvas, 0, 0);
    }
    this.canvas.replaceWith(still);
    this.scene = null;
    this.canvas = still;
    gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  // -- what is asked for -----------------------------------------------------------------------------
  /** Change the replay. If the result cannot be drawn, say so. @param {() => void} change */
  act(change) {
    this.panels.notice = "";
    try {
      change();
    } catch (error) {
      this.panels.notice = error instanceof Error ? error.message : String(error);
    }
    this.touch();
  }

  /** Go to what an address names. @param {string} hash */
  go(hash) {
    this.act(() => address.read(this.replay, hash, this.aspect));
  }

  _say(/** @type {string} */ notice) {
    this.panels.notice = notice;
    this.touch();
  }

  _gestures() {
    const move = (/** @type {(c: import("../replay/camera.js").Camera) => import("../replay/camera.js").Camera} */ change) =>
      this.act(() => (this.replay.camera = change(this.replay.camera)));
    const pick = (/** @type {number} */ x, /** @type {number} */ y) => {
      const { replay, left, top } = this._at(x, y);
      return replay.landscape.pick(replay.stage, replay.camera, x - left, y - top, this.size);
    };
    const plotAt = (/** @type {number} */ x, /** @type {number} */ y) => {
      const { hud: { plot }, left, top } = this._at(x, y);
      const [a, b] = [x - left, y - top];
      const inside = plot && a >= plot.x && a <= plot.x + plot.width && b >= plot.y && b <= plot.y + plot.height;
      return inside ? { x: left + plot.x, width: plot.width } : null;
    };
    return /** @type {import("./gestures.js").Does} */ ({
      orbit: (dx, dy) => move((camera) => camera.orbit(-ORBIT * dx, ORBIT * dy)),
      pan: (dx, dy) => move((camera) => camera.pan(dx, dy, this.size[1])),
      zoom: (factor, x, y) => {
        this.wheeled = performance.now();
        move((camera) => camera.zoom(factor, pick(x, y)));
      },
      scrub: (x) => this.act(() => this._scrub(x)),
      centre: (x, y) => {
        const point = pick(x, y);
        if (point) move((camera) => camera.lookAt(point));
      },
      hover: (x, y) => {
        const point = pick(x, y);
        const { replay } = this._at(x, y);
        const lines = point ? replay.landscape.describePlace(replay.stage, point, replay.look.critical) : [];
        this.panels.hover(lines, x, y, [this.frame.clientWidth, this.frame.clientHeight]);
        this.hovered = lines.length ? this._seen() : "";
        if (this.scene && !this.dirty) this._drawWords(this.scene, this.canvas.width / this.size[0]);
      },
      leave: () => this._leave(),
      inPlot: (x, y) => {
        const plot = plotAt(x, y);
        this.plot = plot ?? this.plot;
        return Boolean(plot);
      },
      drag: (kind) => {
        this.drag = kind;
        this.frame.classList.toggle("dragging", kind === "orbit" || kind === "pan");
        this.frame.classList.toggle("scrubbing", kind === "scrub");
        this.touch();
      },
    });
  }

  _scrub(/** @type {number} */ x) {
    const { plot } = this;
    if (!plot) return;
    this.replay.timeline.playing = false;
    this.replay.timeline.scrub((x - plot.x) / plot.width);
  }

  _key(/** @type {KeyboardEvent} */ event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const name = nameOf(event);
    if (name === "ESCAPE") return this.act(() => this.panels.showOptions(false));
    const { target } = event;
    if (target instanceof Element && isTaken(target, name)) return;
    const action = actionOf(name, event.shiftKey);
    if (name === "H") this.panels.showHelp();
    else if (name === "M") this.act(() => this.panels.showOptions());
    else if (name === "V") this.act(() => (this.panels.notice = `--view ${this.replay.camera.text}`));
    else if (name === "S") this.save();
    else if (action) {
      if (name === "B") this.followsSystem = false;
      this.act(() => action(this.replay, this.aspect));
    } else return;
    event.preventDefault();
  }

  /** Save the picture with its captions, without the controls. */
  save() {
    const scene = this._scene();
    if (!scene) return;
    this._draw(false, false);
    const first = flattened(this.pane, [this.canvas, this.words], WORDS.map(element));
    const { second, replay } = this;
    const other = replay.second && flattened(element("beside"), [second.canvas, second.words], Second.texts);
    const picture = other ? beside(first, other, this.frame.classList.contains("stacked")) : first;
    download(picture, `${this.payload.surfaces[this.replay.number].name || "landscape"}.png`);
  }
}

/** Whether a control that has the focus uses a key itself. @param {Element} target @param {string} name */
function isTaken(target, name) {
  if (target.closest("dialog")) return name !== "H";
  if (target instanceof HTMLSelectElement) return true;
  const presses = target instanceof HTMLButtonElement || (target instanceof HTMLInputElement && target.type === "checkbox");
  if (presses) return name === "SPACE";
  if (target instanceof HTMLInputElement) return ["LEFT", "RIGHT", "UP", "DOWN", "HOME", "END"].includes(name);
  return false;
}
