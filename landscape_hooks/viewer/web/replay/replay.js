// Replay: what is shown (landscape, look), from where (camera) and when (timeline) (viewer/replay/replay.py).

import { markOf, surfaceOf, pathOf } from "../geometry/data.js";
import { Landscape } from "../geometry/landscape.js";
import { Mesh, pointOf } from "../geometry/mesh.js";
import { blended, commonHeight, differenceOf } from "../geometry/pair.js";
import { Stage } from "../geometry/stage.js";
import { rgb } from "./look.js";
import { startCamera } from "./start.js";
import { Timeline } from "./timeline.js";

/** @typedef {import("./look.js").Look} Look */
/** @typedef {import("../geometry/data.js").Payload} Payload */

/** Number of the surface that grows while a training is followed: the one that is shown first. */
const FOLLOWED = 0;
/** How a second surface is shown: not at all, beside the first, mixed with it, or by the colours of the first. */
export const KINDS = ["alone", "side by side", "blend", "difference"];
/** Degrees a second of the turntable. */
const TURN = 12;

export class Replay {
  /** @param {Payload} payload @param {string} theme @param {number} aspect */
  constructor(payload, theme, aspect) {
    this.payload = payload;
    this.turntable = false;
    this.follow = false;
    /** @type {Look} */
    this.look = { ...payload.look, theme };
    this.number = 0;
    /** How a second surface is shown, its number (-1 without one), and its share in a blend. */
    this.arrangement = KINDS[0];
    this.other = -1;
    this.share = 0.5;
    /** @type {Replay | null} the pane beside this one */
    this.second = null;
    /** @type {Map<any, import("../geometry/data.js").Surface>} surfaces that are unpacked */
    this._unpacked = new Map();
    const { landscape, timeline, home } = opened(payload, 0, this.look, aspect);
    this.landscape = landscape;
    this.timeline = timeline;
    this.home = home;
    this.camera = home;
    /** @type {{ of: import("../geometry/mesh.js").Mesh, exaggeration: number, aspect: string, stage: Stage } | undefined} */
    this._stage = undefined;
  }

  /** The colours of the theme. */
  get theme() {
    return this.payload.themes[this.look.theme];
  }

  /** The stage of the landscape under the look's exaggeration. */
  get stage() {
    const { mesh } = this.landscape;
    const { exaggeration, aspect } = this.look;
    if (this._stage?.of !== mesh || this._stage.exaggeration !== exaggeration || this._stage.aspect !== aspect) {
      this._stage = { of: mesh, exaggeration, aspect, stage: new Stage(mesh, exaggeration, aspect) };
    }
    return this._stage.stage;
  }

  /** The colour of a run. @param {number} number */
  pathColor(number) {
    return rgb(this.payload.paths[number % this.payload.paths.length]);
  }

  /** Show another surface of the run, from where it shows best. @param {number} number @param {number} aspect */
  choose(number, aspect) {
    let found;
    try {
      found = opened(this.payload, number, this.look, aspect);
    } catch { // a height that this surface cannot have
      this.look = { ...this.look, height: "auto" };
      found = opened(this.payload, number, this.look, aspect);
    }
    const kept = { number: this.number, landscape: this.landscape, timeline: this.timeline, home: this.home };
    const [camera, other, arrangement] = [this.camera, this.other, this.arrangement];
    if (this.other === number) this.other = this.number; // both change places
    Object.assign(this, found, { number, camera: found.home });
    if (arrangement === KINDS[0]) return;
    try {
      this.arrange({});
    } catch (error) {
      Object.assign(this, kept, { camera, other });
      throw error;
    }
  }

  /** A surface of the payload. @param {number} number */
  surface(number) {
    const raw = this.payload.surfaces[number]; // one that has grown is another object
    if (!this._unpacked.has(raw)) this._unpacked.set(raw, surfaceOf(raw));
    return /** @type {import("../geometry/data.js").Surface} */ (this._unpacked.get(raw));
  }

  /**
   * Show a second surface, or show it in another way. Throws where they cannot be shown so; then nothing has changed.
   * @param {{ arrangement?: string, other?: number, share?: number, height?: string }} change
   */
  arrange({ arrangement = this.arrangement, other = this.other, share = this.share, height = this.look.height }) {
    const count = this.payload.surfaces.length;
    if (count < 2 && arrangement !== KINDS[0]) throw new Error("There is no other surface to show.");
    const second = other < 0 || other === this.number ? (this.number + 1) % count : other;
    const { landscape, beside } = this._arranged(arrangement, second, share, height);
    Object.assign(this, { landscape, arrangement, share, other: arrangement === KINDS[0] ? other : second });
    this.second = beside && this._beside(beside);
    this.timeline.take(landscape.paths[0]);
  }

  /** The landscapes of both panes, under one height. */
  _arranged(/** @type {string} */ kind, /** @type {number} */ other, /** @type {number} */ share, /** @type {string} */ height) {
    const first = this.surface(this.number);
    if (kind === KINDS[0]) return { landscape: new Landscape(first, height), beside: null };
    const second = this.surface(other);
    const shared = commonHeight([first, second], height);
    const on = (/** @type {import("../geometry/data.js").Surface} */ surface, difference = /** @type {any} */ (null)) =>
      new Landscape(surface, height, new Mesh(surface, shared), difference);
    if (kind === "blend") return { landscape: on(blended(first, second, share)), beside: null };
    if (kind === "difference") return { landscape: on(first, differenceOf(first, second, shared)), beside: null };
    return { landscape: on(first), beside: on(second) };
  }

  /** The replay of the second pane: everything but its landscape and timeline is that of the first. */
  _beside(/** @type {Landscape} */ landscape) {
    const timeline = new Timeline(landscape.paths[0]);
    return /** @type {Replay} */ (Object.assign(Object.create(this), { landscape, timeline, _stage: undefined, second: null }));
  }

  /** The second pane at the moment that the first one shows; null without one. @returns {Replay | null} */
  get pane() {
    if (!this.second) return null;
    const { timeline } = this.second;
    if (timeline.clocks.has(this.timeline.clock)) timeline.clock = this.timeline.clock;
    timeline.position = (this.timeline.position / Math.max(this.timeline.last, 1)) * timeline.last;
    return this.second;
  }

  /** Compare with the surface of that number. @param {number} other */
  compare(other) {
    this.arrange({ other, arrangement: this.arrangement === KINDS[0] ? KINDS[1] : this.arrangement });
  }

  /** Do the first of some changes that can be drawn. @param {(() => void)[]} changes */
  _first(changes) {
    let found = new Error("There is no other surface to show.");
    for (const change of changes) {
      try {
        return change();
      } catch (error) {
        found = /** @type {Error} */ (error);
      }
    }
    throw found;
  }

  /** Show the next surface, or the one before. @param {number} by @param {number} aspect */
  nextSurface(by, aspect) {
    const count = this.payload.surfaces.length;
    this._first(around(this.number, by, count).map((number) => () => this.choose(number, aspect)));
  }

  /** Compare with the next surface. */
  nextOther() {
    const count = this.payload.surfaces.length;
    const last = this.other < 0 ? this.number : this.other;
    this._first([...around(last, 1, count), last].filter((number) => number !== this.number).map((number) => () => this.compare(number)));
  }

  /** Show the second surface in the next way in which it can be shown. */
  nextArrangement() {
    const places = around(KINDS.indexOf(this.arrangement), 1, KINDS.length);
    this._first(places.map((place) => () => this.arrange({ arrangement: KINDS[place] })));
  }

  /** Change the look; another height makes another mesh. Throws where it cannot be drawn. @param {Look} look */
  setLook(look) {
    if (look.height !== this.look.height && this.arrangement !== KINDS[0]) this.arrange({ height: look.height });
    else if (look.height !== this.look.height) this.landscape = new Landscape(this.landscape.surface, look.height);
    this.look = look;
  }

  /** Take a surface with more snapshots; a replay that stood at its end goes on to the new end. */
  grow(/** @type {{ surface?: any, paths?: any[], marks?: any[] }} */ found) {
    const { surfaces } = this.payload;
    const marks = found.marks ?? surfaces[FOLLOWED].marks;
    surfaces[FOLLOWED] = found.surface ?? { ...surfaces[FOLLOWED], paths: found.paths, marks };
    if (this.arrangement !== KINDS[0] && [this.number, this.other].includes(FOLLOWED)) {
      this._growPair();
      return;
    }
    if (this.number !== FOLLOWED) return;
    const atEnd = this.timeline.position >= this.timeline.last;
    if (found.surface) this.landscape = new Landscape(surfaceOf(found.surface), this.look.height);
    else if (found.paths) {
      const surface = { ...this.landscape.surface, paths: found.paths.map(pathOf), marks: marks.map(markOf) };
      this.landscape = new Landscape(surface, this.look.height, this.landscape.mesh);
    }
    this.timeline.take(this.landscape.paths[0]);
    this.timeline.position = atEnd ? this.timeline.last : Math.min(this.timeline.position, this.timeline.last);
  }

  /** Show both surfaces again after one has grown; alone, if the grid of the longer one is another. */
  _growPair() {
    const atEnd = this.timeline.position >= this.timeline.last;
    this._first([() => this.arrange({}), () => this.arrange({ arrangement: KINDS[0] })]);
    this.timeline.position = atEnd ? this.timeline.last : Math.min(this.timeline.position, this.timeline.last);
  }

  /** Whether the picture changes by itself. */
  get moving() {
    return this.timeline.playing || this.turntable;
  }

  /** Let time pass; returns whether the picture changes. @param {number} seconds */
  advance(seconds) {
    let changed = this.timeline.advance(seconds);
    if (this.turntable) {
      this.camera = this.camera.orbit(TURN * seconds, 0);
      changed = true;
    }
    if (this.follow && this.landscape.paths.length) {
      const point = this.stage.place(pointOf(this.landscape.drapes[0], this.timeline.position));
      if (point.every(Number.isFinite)) {
        const share = 1 - Math.exp(-4 * seconds);
        const target = this.camera.target.map((value, k) => value + share * (point[k] - value));
        const away = Math.hypot(...target.map((value, k) => value - this.camera.target[k]));
        this.camera = this.camera.lookAt(target);
        changed = changed || away > 1e-4;
      }
    }
    return changed;
  }
}

/** The numbers from 0 to count that come after a place, or before it, but not itself. */
function around(/** @type {number} */ place, /** @type {number} */ by, /** @type {number} */ count) {
  return Array.from({ length: count - 1 }, (_, k) => (((place + by * (k + 1)) % count) + count) % count);
}

/** A surface of the payload, its timeline, and the camera to start with. */
function opened(
  /** @type {Payload} */ payload, /** @type {number} */ number, /** @type {Look} */ look, /** @type {number} */ aspect,
) {
  const landscape = new Landscape(surfaceOf(payload.surfaces[number]), look.height);
  const home = startCamera(landscape, aspect, look);
  return { landscape, home, timeline: new Timeline(landscape.paths[0]) };
}
