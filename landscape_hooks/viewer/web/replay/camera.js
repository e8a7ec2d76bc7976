// Camera: an orbit around a target, as arithmetic (viewer/replay/camera.py). A camera does not change; a move makes
// another one.

import { clamp, general } from "../geometry/numbers.js";

/** @typedef {{ azimuth: number, elevation: number, distance: number, target: number[], fov: number,
 *   orthographic: boolean }} View */

const NEAR = 0.02;
const FAR = 60;
const ELEVATION = [-20, 90];
const DISTANCE = [0.3, 20];
const FOV = [5, 100];
const TARGET = [-4, 4];
const USUAL_FOV = 32;

const radians = (/** @type {number} */ degrees) => (degrees * Math.PI) / 180;
export const dot = (/** @type {number[]} */ a, /** @type {number[]} */ b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const along = (/** @type {number[]} */ p, /** @type {number} */ t, /** @type {number[]} */ way) =>
  p.map((value, k) => value + t * way[k]);

/** Pixels left, above, right and below of the box in a picture 720 high: ticks and names of the axes, and a bar. */
const MARGINS = [70, 50, 70, 96];
/** Width and height of what lies in the corners: title, colour bar, plot of the losses, read-out. */
const CORNERS = [[340, 90], [120, 290], [350, 240], [220, 200]];

/** What is inside of MARGINS, in heights of the picture, and a pixel of a height of 720. @param {number} aspect */
function frameOf(aspect) {
  const unit = Math.min(1 / 720, aspect / 1000);
  const [left, above, right, below] = MARGINS.map((margin) => unit * margin);
  return { left, top: above, right: aspect - right, bottom: 1 - below, unit };
}

/** Points on each edge of a box that are tried. */
const ON_EDGE = 13;

/** (12 · ON_EDGE, 3) points on the edges of a box with eight corners. @param {number[][]} corners */
function edgesOf(corners) {
  const out = new Float64Array(12 * ON_EDGE * 3);
  let place = 0;
  for (let k = 0; k < 8; k++) {
    for (let axis = 0; axis < 3; axis++) {
      if ((k >> axis) & 1) continue;
      const other = corners[k | (1 << axis)];
      for (let n = 0; n < ON_EDGE; n++) {
        for (let m = 0; m < 3; m++) out[place++] = corners[k][m] + (n / (ON_EDGE - 1)) * (other[m] - corners[k][m]);
      }
    }
  }
  return out;
}

/** The camera that looks so that the corners of a box lie in the middle of the frame. */
function centred(/** @type {Camera} */ camera, /** @type {number[][]} */ corners, /** @type {number} */ aspect) {
  const { left, top, right, bottom } = frameOf(aspect);
  for (let turn = 0; turn < 3; turn++) {
    let [lowX, highX, lowY, highY] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [x, y, z] of corners) {
      camera.see(x, y, z, aspect);
      if (!Number.isFinite(SEEN[0] + SEEN[1])) return camera;
      lowX = Math.min(lowX, SEEN[0]);
      highX = Math.max(highX, SEEN[0]);
      lowY = Math.min(lowY, SEEN[1]);
      highY = Math.max(highY, SEEN[1]);
    }
    const unit = 2 * camera.distance * camera.slope;
    const sideways = along(camera.target, unit * ((lowX + highX) / 2 - (left + right) / 2), camera.right);
    camera = camera.lookAt(along(sideways, -unit * ((lowY + highY) / 2 - (top + bottom) / 2), camera.up));
  }
  return camera;
}

/** Whether the edges of a box lie in the frame, and on nothing in the corners of the picture. */
function isClear(/** @type {Camera} */ camera, /** @type {Float64Array} */ edges, /** @type {number} */ aspect) {
  const { left, top, right, bottom, unit } = frameOf(aspect);
  const [title, bar, plot, moment] = CORNERS.map((sides) => sides.map((side) => side * unit));
  for (let n = 0; n < edges.length; n += 3) {
    camera.see(edges[n], edges[n + 1], edges[n + 2], aspect);
    const x = SEEN[0];
    const y = SEEN[1];
    if (!(x >= left && x <= right && y >= top && y <= bottom)) return false;
    if ((x < title[0] && y < title[1]) || (x > aspect - bar[0] && y < bar[1])) return false;
    if ((x < plot[0] && y > 1 - plot[1]) || (x > aspect - moment[0] && y > 1 - moment[1])) return false;
  }
  return true;
}

/** What `Camera.see` found last: thousands of places are asked for before the first picture. */
const SEEN = new Float64Array(3);

export class Camera {
  /** @param {Partial<View>} view */
  constructor(view) {
    this.azimuth = view.azimuth ?? 0;
    this.elevation = view.elevation ?? 30;
    this.distance = view.distance ?? 4;
    this.target = view.target ?? [0, 0, 0];
    this.fov = view.fov ?? USUAL_FOV;
    this.orthographic = view.orthographic ?? false;
    const a = radians(this.azimuth);
    const e = radians(this.elevation);
    this.forward = [-Math.sin(a) * Math.cos(e), Math.cos(a) * Math.cos(e), -Math.sin(e)];
    this.right = [Math.cos(a), Math.sin(a), 0];
    const [r, f] = [this.right, this.forward];
    this.up = [r[1] * f[2] - r[2] * f[1], r[2] * f[0] - r[0] * f[2], r[0] * f[1] - r[1] * f[0]];
    this.eye = along(this.target, -this.distance, this.forward);
    /** Half the height of the picture at distance 1. */
    this.slope = Math.tan(radians(this.fov) / 2);
  }

  /** The same with some parts of the view changed. @param {Partial<View>} change */
  with(change) {
    return new Camera({ ...this, ...change });
  }

  /** (16) from the scene to clip space, column by column. @param {number} aspect */
  matrix(aspect) {
    const axes = [this.right, this.up, this.forward.map((value) => -value)];
    const view = axes.map((axis) => [...axis, -dot(axis, this.eye)]);
    const half = this.slope * (this.orthographic ? this.distance : 1);
    const [x, y] = [1 / (half * aspect), 1 / half];
    const deep = this.orthographic ? [0, 0, -1 / FAR, 0] : null;
    const third = deep
      ? [...view[2].slice(0, 3).map((value) => value * deep[2]), view[2][3] * deep[2]]
      : view[2].map((value, k) => (-(FAR + NEAR) / (FAR - NEAR)) * value + (k === 3 ? (-2 * FAR * NEAR) / (FAR - NEAR) : 0));
    const rows = [
      view[0].map((value) => value * x),
      view[1].map((value) => value * y),
      third,
      this.orthographic ? [0, 0, 0, 1] : view[2].map((value) => -value),
    ];
    return Float32Array.from({ length: 16 }, (_, k) => rows[k % 4][Math.floor(k / 4)]);
  }

  /**
   * Pixel x, pixel y (from the top left) and distance along the view; NaN for points behind the eye.
   * @param {ArrayLike<number>} point
   * @param {number[]} size
   */
  project(point, size) {
    const [width, height] = size;
    this.see(point[0], point[1], point[2], width / height);
    return [SEEN[0] * height, SEEN[1] * height, SEEN[2]];
  }

  /** Put into SEEN where a point lies in a picture of height 1, from the top left, and its distance along the view. */
  see(/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ z, /** @type {number} */ aspect) {
    const { eye, forward, right, up } = this;
    const dx = x - eye[0];
    const dy = y - eye[1];
    const dz = z - eye[2];
    const depth = dx * forward[0] + dy * forward[1] + dz * forward[2];
    const half = this.slope * (this.orthographic ? this.distance : depth);
    const seen = half > 1e-9;
    SEEN[0] = seen ? ((dx * right[0] + dy * right[1] + dz * right[2]) / half + aspect) / 2 : NaN;
    SEEN[1] = seen ? (1 - (dx * up[0] + dy * up[1] + dz * up[2]) / half) / 2 : NaN;
    SEEN[2] = seen ? depth : NaN;
  }

  /**
   * The line of sight through a pixel (from the top left): where it begins and where it leads.
   * @param {number} x
   * @param {number} y
   * @param {number[]} size
   */
  ray(x, y, size) {
    const half = this.slope * (this.orthographic ? this.distance : 1);
    const sideways = ((2 * x) / size[0] - 1) * half * (size[0] / size[1]);
    const upwards = (1 - (2 * y) / size[1]) * half;
    const offset = (/** @type {number[]} */ start) => along(along(start, sideways, this.right), upwards, this.up);
    if (this.orthographic) return { start: offset(along(this.target, -50, this.forward)), way: this.forward };
    return { start: this.eye, way: offset(this.forward) };
  }

  /** Turn by degrees. @param {number} azimuth @param {number} elevation */
  orbit(azimuth, elevation) {
    const turned = (((this.azimuth + azimuth + 180) % 360) + 360) % 360;
    return this.with({
      azimuth: turned - 180,
      elevation: clamp(this.elevation + elevation, ELEVATION[0], ELEVATION[1]),
    });
  }

  /** Move the scene by pixels of a picture that is `height` high. */
  pan(/** @type {number} */ dx, /** @type {number} */ dy, /** @type {number} */ height) {
    const unit = (2 * this.distance * this.slope) / height;
    return this.lookAt(along(along(this.target, -unit * dx, this.right), unit * dy, this.up));
  }

  /** Come closer by a factor; the scene point `towards` keeps its place in the picture. */
  zoom(/** @type {number} */ factor, /** @type {number[] | null} */ towards = null) {
    const distance = clamp(this.distance / factor, DISTANCE[0], DISTANCE[1]);
    const camera = this.with({ distance });
    if (!towards) return camera;
    const offset = towards.map((value, k) => value - this.target[k]);
    const across = along(offset, -dot(offset, this.forward), this.forward);
    return camera.lookAt(along(this.target, 1 - distance / this.distance, across));
  }

  /** Put a scene point into the middle of the picture; it stays near the scene. @param {number[]} target */
  lookAt(target) {
    return this.with({ target: target.map((value) => clamp(value, TARGET[0], TARGET[1])) });
  }

  /** Straight down without perspective: a map. */
  top() {
    return this.with({ azimuth: 0, elevation: 90, orthographic: true });
  }

  isometric() {
    return this.with({ azimuth: 45, elevation: (Math.atan(Math.SQRT1_2) * 180) / Math.PI, orthographic: true });
  }

  /** The same view with perspective; from a map's height it comes down to where relief shows. */
  perspective() {
    return this.with({ orthographic: false, elevation: Math.min(this.elevation, 80) });
  }

  /**
   * The camera at the distance at which the whole box fills the picture; with captions it lies on none of the words in
   * the corners.
   * @param {import("../geometry/stage.js").Stage} stage @param {number} aspect @param {boolean} captions
   */
  fitted(stage, aspect, captions) {
    const low = [stage.corners[0][0], stage.corners[0][1], stage.floor];
    const high = stage.corners[1];
    const middle = low.map((value, axis) => (value + high[axis]) / 2);
    const camera = this.lookAt(middle);
    const corners = Array.from({ length: 8 }, (_, k) => [0, 1, 2].map((axis) => ((k >> axis) & 1 ? high : low)[axis]));
    const at = (/** @type {number} */ margin) => {
      let distance = 0;
      for (const corner of corners) {
        const from = corner.map((value, axis) => value - middle[axis]);
        const across = Math.abs(dot(from, camera.right)) / (camera.slope * aspect);
        const upwards = Math.abs(dot(from, camera.up)) / camera.slope;
        const nearer = camera.orthographic ? 0 : -dot(from, camera.forward);
        distance = Math.max(distance, Math.max(across, upwards) / margin + nearer);
      }
      return distance;
    };
    if (!captions) return camera.with({ distance: Math.min(at(0.9), FAR) });
    const edges = edgesOf(corners);
    let [near, far] = [at(1.3), at(0.5)];
    for (let turn = 0; turn < 24; turn++) {
      const distance = (near + far) / 2;
      if (isClear(centred(camera.with({ distance }), corners, aspect), edges, aspect)) far = distance;
      else near = distance;
    }
    return centred(camera.with({ distance: Math.min(far, FAR) }), corners, aspect);
  }

  /** The view as a string, as the window's key V prints it and `render --view` takes it. */
  get text() {
    const six = (/** @type {number} */ value) => general(value, 6);
    const kind = (this.fov === USUAL_FOV ? "" : `,fov=${six(this.fov)}`) + (this.orthographic ? ",ortho" : "");
    const at = this.target.map(six).join(":");
    return `az=${six(this.azimuth)},el=${six(this.elevation)},d=${six(this.distance)},at=${at}${kind}`;
  }

  /** Read a view string; parts that are not understood, or out of range, are left out. @param {string} text */
  parse(text) {
    /** @type {Camera} */
    let camera = this;
    for (const part of text.split(",")) {
      const [key, value = ""] = part.trim().split("=");
      const number = value.trim() === "" ? NaN : Number(value);
      const inside = (/** @type {number[]} */ range) => number >= range[0] && number <= range[1];
      const at = value.split(":").map(Number);
      if (key === "top") camera = camera.top();
      else if (key === "iso") camera = camera.isometric();
      else if (key === "ortho") camera = camera.with({ orthographic: true });
      else if (key === "az" && Math.abs(number) <= 1e6) {
        camera = Math.abs(number) <= 180 ? camera.with({ azimuth: number }) : camera.orbit(number - camera.azimuth, 0);
      } else if (key === "el" && inside(ELEVATION)) camera = camera.with({ elevation: number });
      else if (key === "d" && inside([DISTANCE[0], FAR])) camera = camera.with({ distance: number });
      else if (key === "fov" && inside(FOV)) camera = camera.with({ fov: number });
      else if (key === "at" && at.length === 3 && at.every((v) => v >= TARGET[0] && v <= TARGET[1])) {
        camera = camera.with({ target: at });
      }
    }
    return camera;
  }
}
