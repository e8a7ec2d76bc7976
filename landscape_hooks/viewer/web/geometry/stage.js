// Stage: the map from (alpha, beta, height) to coordinates of the scene, and back (mesh/stage.py).

import { levels, niceStep } from "./height.js";
import { Labels, textOf } from "./numbers.js";

/** @typedef {import("./mesh.js").Mesh} Mesh */

const NARROWEST = 0.7;
const TALL = 0.8;
/** Distance of the surface from the floor, in scene units. */
const GAP = 0.12;

/** `low` and `high` (3) are the corners of the data; a scene point is (data - middle) · scale. */
export class Stage {
  /** @param {Mesh} mesh @param {number} exaggeration @param {string} aspect */
  constructor(mesh, exaggeration, aspect) {
    const { low, high } = mesh.bounds;
    this.low = low;
    this.high = high;
    this.height = mesh.height;
    this.middle = low.map((value, axis) => (value + high[axis]) / 2);
    const extent = low.map((value, axis) => (high[axis] > value ? high[axis] - value : 1));
    const narrowest = aspect === "equal" ? 0 : NARROWEST;
    const longer = Math.max(extent[0], extent[1]);
    const sides = [0, 1].map((axis) => (Math.max(extent[axis] / longer, narrowest) * 2) / extent[axis]);
    this.scale = [...sides, (TALL * exaggeration) / extent[2]];
    this.corners = [this.place(low), this.place(high)];
    this.floor = this.corners[0][2] - GAP;
  }

  /** The scene point of alpha, beta, height. @param {ArrayLike<number>} point */
  place(point) {
    return [0, 1, 2].map((axis) => (point[axis] - this.middle[axis]) * this.scale[axis]);
  }

  /** Scene points (N, 3) of alpha, beta, height (N, 3). @param {Float64Array} points */
  placeAll(points) {
    const out = new Float64Array(points.length);
    for (let axis = 0; axis < 3; axis++) {
      const [middle, scale] = [this.middle[axis], this.scale[axis]];
      for (let k = axis; k < points.length; k += 3) out[k] = (points[k] - middle) * scale;
    }
    return out;
  }

  /** Alpha, beta, height of a scene point. @param {ArrayLike<number>} point */
  data(point) {
    return [0, 1, 2].map((axis) => point[axis] / this.scale[axis] + this.middle[axis]);
  }

  /** How many times as long a unit along beta is drawn as one along alpha. */
  get stretch() {
    return this.scale[1] / this.scale[0];
  }

  /** How the numbers on an axis are written. @param {number} axis */
  labels(axis) {
    return axis === 2 ? this.height.labels : Labels.between(this.low[axis], this.high[axis]);
  }

  /**
   * Round values on an axis, and their labels in data units: what is above the offset of `labels`, where it has one.
   * @param {number} axis
   * @param {number} count
   * @returns {{ values: number[], labels: string[] }}
   */
  ticks(axis, count = 5) {
    const low = this.low[axis];
    const high = this.high[axis];
    if (axis === 2 && this.height.kind === "log10") return this._logTicks(count);
    if (!(high > low)) return { values: [low], labels: [textOf(low)] };
    const step = niceStep((high - low) / count);
    const values = [];
    for (let n = Math.ceil(low / step - 1e-9); n <= Math.floor(high / step + 1e-9); n++) values.push(n * step);
    return { values, labels: this.labels(axis).texts(values) };
  }

  _logTicks(/** @type {number} */ count) {
    const { losses, index } = levels(this.height, 20);
    let chosen = losses.filter((_, k) => index[k]);
    if (chosen.length > 2 * count) {
      chosen = chosen.filter((loss) => Math.abs(Math.log10(loss) - Math.round(Math.log10(loss))) < 1e-6);
    }
    if (chosen.length < 2) {
      const every = Math.max(1, Math.floor(losses.length / count));
      chosen = losses.filter((_, k) => k % every === 0);
    }
    return { values: chosen.map((loss) => this.height.of(loss)), labels: this.labels(2).texts(chosen) };
  }
}
