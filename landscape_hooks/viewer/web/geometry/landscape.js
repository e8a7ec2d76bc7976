// Landscape: a mesh with its paths laid on it, and what can be said of a place and of a moment
// (viewer/replay/landscape.py, viewer/replay/replay.py).

import { contours } from "./contours.js";
import { Mesh } from "./mesh.js";
import { general, placeText, textOf } from "./numbers.js";
import { saidOfDifference } from "./pair.js";

/** @typedef {import("./data.js").Surface} Surface */
/** @typedef {import("./data.js").Path} Path */
/** @typedef {import("./contours.js").Contour} Contour */
/** @typedef {import("./stage.js").Stage} Stage */

/** Steps of a line of sight through the box of the surface. */
const STRIDES = 500;
/** How near to a mark, in the scene, the read-out of a place says what the mark is; the plane is 2 long. */
const NEAR = 0.05;
/** Runs that a read-out lists. */
const MOST = 8;

export class Landscape {
  /**
   * @param {Surface} surface
   * @param {string} kind of the height
   * @param {Mesh} [mesh] of the same surface, where only its paths are others, or under a height that several share
   * @param {import("./pair.js").Difference | null} [difference] that its colours say
   */
  constructor(surface, kind, mesh, difference = null) {
    this.difference = difference;
    this.surface = surface;
    this.kind = kind;
    this.mesh = mesh ?? new Mesh(surface, kind);
    this.paths = surface.paths.filter((path) => path.step.length);
    this.drapes = this.paths.map((path) => this.mesh.drape(path.coordinates));
    /** The points for the marks on the mesh: alpha, beta and height. */
    this.spots = surface.marks.map(({ coordinates: [a, b] }) => [a, b, this.mesh.heightAt(a, b)]);
    /** The minima and saddles on the mesh: alpha, beta and height. */
    this.critical = surface.critical.map(({ coordinates: [a, b] }) => [a, b, this.mesh.heightAt(a, b)]);
    /** Extent of every path in the plane: what an off-plane distance is compared with. */
    this.lengths = this.paths.map((path) => Math.hypot(spread(path.coordinates, 0), spread(path.coordinates, 1)));
    /** A difference between losses that the read-outs are to show: a part in 200 of what is shown. */
    this.resolution = this.mesh.height.resolution;
    /** @type {Contour[] | null} */
    this._lines = null;
    /** @type {Float64Array | null} */
    this._lid = null;
  }

  /** The contour lines. */
  get lines() {
    this._lines ??= contours(this.mesh);
    return this._lines;
  }

  /** (A, B) heights in which a point without a loss has the height of the nearest points that have one. */
  get lid() {
    this._lid ??= filled(this.mesh);
    return this._lid;
  }

  /** The position of a run at the share of the replay at which the first run is at `position`. */
  ownPosition(/** @type {number} */ position, /** @type {number} */ number) {
    const last = Math.max(this.paths[0].step.length - 1, 1);
    return (position / last) * Math.max(this.paths[number].step.length - 1, 0);
  }

  /**
   * The scene point of the surface that is seen at a pixel (from the top left), or null.
   * @param {Stage} stage @param {import("../replay/camera.js").Camera} camera @param {number} x @param {number} y @param {number[]} size
   */
  pick(stage, camera, x, y, size) {
    const { start, way } = camera.ray(x, y, size);
    const range = within(start, way, stage.corners);
    if (!range) return null;
    const at = (/** @type {number} */ t) => start.map((value, k) => value + t * way[k]);
    const above = (/** @type {number} */ t) => {
      const [a, b, z] = stage.data(at(t));
      return z - this.mesh.heightAt(a, b, this.lid);
    };
    const stride = (range[1] - range[0]) / STRIDES;
    let before = above(range[0]);
    for (let k = 1; k <= STRIDES; k++) {
      let [near, far] = [range[0] + (k - 1) * stride, range[0] + k * stride];
      const now = above(far);
      if (Number.isFinite(before) && Number.isFinite(now) && before >= 0 !== now >= 0) {
        for (let turn = 0; turn < 40; turn++) {
          const middle = (near + far) / 2;
          if (above(middle) >= 0 === before >= 0) near = middle;
          else far = middle;
        }
        return at((near + far) / 2);
      }
      before = now;
    }
    return null;
  }

  /**
   * What is at a point of the scene; of minima and saddles where those are shown.
   * @param {Stage} stage @param {number[]} point @param {boolean} critical
   */
  describePlace(stage, point, critical) {
    const [alpha, beta] = stage.data(point);
    const found = this.mesh.heightAt(alpha, beta);
    const loss = Number.isFinite(found) ? textOf(this.mesh.height.inverse(found), this.resolution) : "not known";
    const [a, b] = [alpha, beta].map((at, axis) => placeText(at, (stage.high[axis] - stage.low[axis]) / 500));
    const lines = [`alpha ${a}   beta ${b}`, `loss ${loss}`, this.saidAt(alpha, beta)];
    if (this.difference) lines.push(saidOfDifference(this.difference, this.nearest(alpha, beta)));
    if (this.paths.length) {
      const { step, coordinates } = this.paths[0];
      let [nearest, least] = [0, Infinity];
      step.forEach((_, n) => {
        const away = Math.hypot(coordinates[2 * n] - alpha, coordinates[2 * n + 1] - beta);
        if (away < least) [nearest, least] = [n, away];
      });
      lines.push(`nearest step ${step[nearest]}, ${general(least, 3)} away`);
    }
    const isNear = (/** @type {number[]} */ spot) =>
      Math.hypot(...stage.place(spot).map((value, k) => value - point[k])) < NEAR;
    this.spots.forEach((spot, n) => isNear(spot) && lines.push(...this.surface.marks[n].said));
    if (critical) this.critical.forEach((spot, n) => isNear(spot) && lines.push(this.surface.critical[n].said));
    return lines;
  }

  /** Number of the nearest grid point. @param {number} alpha @param {number} beta */
  nearest(alpha, beta) {
    const { surface } = this;
    return closest(surface.alpha, alpha) * surface.beta.length + closest(surface.beta, beta);
  }

  /** Whether the nearest grid point was evaluated or interpolated, and its error. */
  saidAt(/** @type {number} */ alpha, /** @type {number} */ beta) {
    const { surface } = this;
    const n = this.nearest(alpha, beta);
    if (surface.state[n] === 0) return "not computed";
    if (surface.state[n] === 1) {
      return Number.isFinite(surface.stderr[n]) ? `evaluated, ± ${general(surface.stderr[n], 2)}` : "evaluated";
    }
    const error = surface.error.length ? surface.error[n] : NaN;
    return Number.isFinite(error) ? `interpolated, error about ${general(100 * error, 1)} %` : "interpolated";
  }

  /**
   * Names and words of what was measured at the moment of a run; "" where it is not known.
   * @param {number} position of the first run @param {number} [number]
   * @returns {[string, string][]}
   */
  describeMoment(position, number = 0) {
    const path = this.paths[number];
    const n = Math.floor(this.ownPosition(position, number) + 1e-9);
    const tiny = 1e-9 * Math.max(this.lengths[number], 1e-300);
    /** @type {[string, number, (value: number) => string][]} */
    const rows = [
      ["step", path.step[n], String],
      ["epoch", path.epoch[n], (value) => value.toFixed(2)],
      ["learning rate", path.learningRate[n], (value) => general(value, 3)],
      ["true loss", path.loss[n], (value) => textOf(value, this.resolution)],
      ["plane loss", path.planeLoss[n], (value) => textOf(value, this.resolution)],
      ["off-plane", path.distance[n], (value) => (value > tiny ? general(value, 3) : "0")],
    ];
    return rows.map(([name, value, text]) => [name, Number.isFinite(value) ? text(value) : ""]);
  }

  /** What is known of the moment, as rows of cells: a name and a value; of several runs a table with a head. */
  readOut(/** @type {number} */ position) {
    if (this.paths.length === 1) return this.describeMoment(position).filter(([, text]) => text);
    const names = ["step", "true loss", "plane loss", "off-plane"];
    const rows = [["", ...names]];
    this.paths.slice(0, MOST).forEach(({ label }, number) => {
      const texts = new Map(this.describeMoment(position, number));
      const name = label || `run ${number + 1}`;
      rows.push([name.length <= 14 ? name : `${name.slice(0, 13)}…`, ...names.map((one) => texts.get(one) || "-")]);
    });
    if (this.paths.length > MOST) rows.push([`and ${this.paths.length - MOST} more`]);
    return rows;
  }
}

/** The extent of one coordinate of a path. @param {Float64Array} coordinates @param {number} axis */
function spread(coordinates, axis) {
  const values = coordinates.filter((_, k) => k % 2 === axis);
  return values.reduce((most, v) => Math.max(most, v), -Infinity) - values.reduce((least, v) => Math.min(least, v), Infinity);
}

/** @param {Float64Array} axis @param {number} value */
export function closest(axis, value) {
  let best = 0;
  axis.forEach((at, k) => {
    if (Math.abs(at - value) < Math.abs(axis[best] - value)) best = k;
  });
  return best;
}

/** Heights whose unknown points take the mean of their known neighbours, again and again. @param {Mesh} mesh */
function filled(mesh) {
  const { rows, columns } = mesh;
  let heights = mesh.heights;
  while (heights.some(Number.isNaN) && heights.some(Number.isFinite)) {
    const old = heights;
    heights = old.map((height, n) => {
      if (!Number.isNaN(height)) return height;
      const [i, j] = [Math.floor(n / columns), n % columns];
      const around = [];
      if (i > 0) around.push(old[n - columns]);
      if (i < rows - 1) around.push(old[n + columns]);
      if (j > 0) around.push(old[n - 1]);
      if (j < columns - 1) around.push(old[n + 1]);
      const known = around.filter(Number.isFinite);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : NaN;
    });
  }
  return heights;
}

/**
 * The part of a ray that lies in a box, or null.
 * @param {number[]} start @param {number[]} way @param {number[][]} corners
 * @returns {[number, number] | null}
 */
function within(start, way, corners) {
  let [near, far] = [0, Infinity];
  for (let axis = 0; axis < 3; axis++) {
    // a little more than the box, so that a flat surface is in it
    const one = (corners[0][axis] - 1e-3 - start[axis]) / way[axis];
    const other = (corners[1][axis] + 1e-3 - start[axis]) / way[axis];
    near = Math.max(near, Math.min(one, other));
    far = Math.min(far, Math.max(one, other));
  }
  return far > near ? [near, far] : null;
}

