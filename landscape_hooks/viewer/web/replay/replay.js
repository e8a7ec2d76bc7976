// Replay: what is shown (landscape, look), from where (camera) and when (timeline) (viewer/replay/replay.py).

import { markOf, surfaceOf, pathOf } from "../geometry/data.js";
import { Landscape } from "../geometry/landscape.js";
import { pointOf } from "../geometry/mesh.js";
import { Stage } from "../geometry/stage.js";
import { rgb } from "./look.js";
import { startCamera } from "./start.js";
import { Timeline } from "./timeline.js";

/** @typedef {import("./look.js").Look} Look */
/** @typedef {import("../geometry/data.js").Payload} Payload */

/** Number of the surface that grows while a training is followed: the one that is shown first. */
const FOLLOWED = 0;
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
    Object.assign(this, found, { number, camera: found.home });
  }

  /** Change the look; another height makes another mesh. Throws where it cannot be drawn. @param {Look} look */
  setLook(look) {
    if (look.height !== this.look.height) this.landscape = new Landscape(this.landscape.surface, look.height);
    this.look = look;
  }

  /** Take a surface with more snapshots; a replay that stood at its end goes on to the new end. */
  grow(/** @type {{ surface?: any, paths?: any[], marks?: any[] }} */ found) {
    const { surfaces } = this.payload;
    const marks = found.marks ?? surfaces[FOLLOWED].marks;
    surfaces[FOLLOWED] = found.surface ?? { ...surfaces[FOLLOWED], paths: found.paths, marks };
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

/** A surface of the payload, its timeline, and the camera to start with. */
function opened(
  /** @type {Payload} */ payload, /** @type {number} */ number, /** @type {Look} */ look, /** @type {number} */ aspect,
) {
  const landscape = new Landscape(surfaceOf(payload.surfaces[number]), look.height);
  const home = startCamera(landscape, aspect, look);
  return { landscape, home, timeline: new Timeline(landscape.paths[0]) };
}
