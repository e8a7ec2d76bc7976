// Mesh: a surface as triangles, and paths that lie exactly on them (mesh/mesh.py).
// A grid cell becomes four triangles that meet in its centre, at the mean height of the corners.

import { Height } from "./height.js";
import { between, clamp, rankOf } from "./numbers.js";

/** @typedef {import("./data.js").Surface} Surface */
/** @typedef {{ points: Float64Array, position: Float64Array }} Drape points (N, 3), position (N,) in snapshots */

/** Share of a cell by which a point may lie outside the grid because of rounding. */
const EDGE = 1e-9;

export class Mesh {
  /** @param {Surface} surface @param {string | Height} kind of the height: "auto", "log10", "linear", "clipped"; or a height */
  constructor(surface, kind) {
    this.alpha = surface.alpha;
    this.beta = surface.beta;
    this.rows = surface.alpha.length;
    this.columns = surface.beta.length;
    this.height = kind instanceof Height ? kind
      : Height.choose(surface.loss.map((loss, n) => (surface.state[n] ? loss : NaN)), kind);
    const known = surface.loss.map((loss, n) => Number(surface.state[n] > 0 && Number.isFinite(loss)));
    /** (A, B) 1 where the grid point holds a finite loss */
    this.valid = Uint8Array.from(known);
    /** (A, B) heights of the grid, NaN where there is no finite loss */
    this.heights = surface.loss.map((loss, n) => (this.valid[n] ? this.height.of(loss) : NaN));
    this.allValid = !this.valid.includes(0);
    this.missing = missing(surface);
    const { vertices, faces, cells } = this._triangulated();
    this.vertices = vertices;
    this.faces = faces;
    /** Numbers of the grid points at which whole cells begin */
    this.cells = cells;
  }

  /** Vertices (V, 3): the grid points, then the centres of whole cells; faces (F, 3). */
  _triangulated() {
    const { rows, columns, alpha, beta } = this;
    const cells = [];
    for (let i = 0; i < rows - 1; i++) {
      for (let j = 0; j < columns - 1; j++) if (this.isWhole(i, j)) cells.push(i * columns + j);
    }
    const count = rows * columns;
    const vertices = new Float64Array(3 * (count + cells.length));
    const faces = new Uint32Array(12 * cells.length);
    const top = this.height.bounds[1];
    for (let n = 0; n < count; n++) {
      vertices[3 * n] = alpha[Math.floor(n / columns)];
      vertices[3 * n + 1] = beta[n % columns];
      vertices[3 * n + 2] = this.valid[n] ? this.heights[n] : top;
    }
    for (let k = 0; k < cells.length; k++) {
      const corners = [cells[k], cells[k] + columns, cells[k] + columns + 1, cells[k] + 1];
      const centre = count + k;
      for (let side = 0; side < 4; side++) {
        for (let axis = 0; axis < 3; axis++) vertices[3 * centre + axis] += vertices[3 * corners[side] + axis] / 4;
        faces[12 * k + 3 * side] = corners[side];
        faces[12 * k + 3 * side + 1] = corners[(side + 1) % 4];
        faces[12 * k + 3 * side + 2] = centre;
      }
    }
    return { vertices, faces, cells };
  }

  /** Whether all four corners of a cell hold a finite loss. @param {number} i @param {number} j */
  isWhole(i, j) {
    const n = i * this.columns + j;
    const { valid, columns } = this;
    return Boolean(valid[n] && valid[n + 1] && valid[n + columns] && valid[n + columns + 1]);
  }

  /** Lowest and highest alpha, beta, height of all vertices. */
  get bounds() {
    const [low, high] = this.height.bounds;
    const { alpha, beta } = this;
    return { low: [alpha[0], beta[0], low], high: [alpha[this.rows - 1], beta[this.columns - 1], high] };
  }

  /**
   * The height at a point of the plane; NaN outside the grid and in holes.
   * @param {number} a
   * @param {number} b
   * @param {Float64Array} heights
   */
  heightAt(a, b, heights = this.heights) {
    const { alpha, beta, columns } = this;
    const i = cellOf(alpha, a);
    const j = cellOf(beta, b);
    let u = (a - alpha[i]) / (alpha[i + 1] - alpha[i]);
    let v = (b - beta[j]) / (beta[j + 1] - beta[j]);
    if (!(Math.abs(u - 0.5) <= 0.5 + EDGE && Math.abs(v - 0.5) <= 0.5 + EDGE)) return NaN;
    u = clamp(u, 0, 1);
    v = clamp(v, 0, 1);
    const n = i * columns + j;
    const [h00, h10, h01, h11] = [heights[n], heights[n + columns], heights[n + 1], heights[n + columns + 1]];
    // Barycentric weights of the four triangles in one formula: at most two corners and the centre are not zero.
    const edge = 2 * Math.min(u, 1 - u, v, 1 - v);
    return (
      Math.max(1 - u - v, 0) * h00 + Math.max(u - v, 0) * h10 + Math.max(u + v - 1, 0) * h11 +
      Math.max(v - u, 0) * h01 + (edge * (h00 + h10 + h01 + h11)) / 4
    );
  }

  /**
   * (V, 3) unit normals of the mesh scaled by `scale`: from the grid's slopes, or with holes the means of the faces'.
   * @param {number[]} scale
   */
  normals(scale) {
    return this.allValid ? this._gridNormals(scale) : this._faceNormals(scale);
  }

  _gridNormals(/** @type {number[]} */ scale) {
    const { rows, columns, cells } = this;
    const out = new Float64Array(this.vertices.length);
    const x = this.alpha.map((a) => a * scale[0]);
    const y = this.beta.map((b) => b * scale[1]);
    const h = this.heights.map((height) => height * scale[2]);
    for (let n = 0; n < h.length; n++) {
      const i = Math.floor(n / columns);
      const j = n % columns;
      putNormal(out, n, -slope(x, i, h, n, columns), -slope(y, j, h, n, 1), 1);
    }
    for (let k = 0; k < cells.length; k++) {
      const n = cells[k];
      const i = Math.floor(n / columns);
      const j = n % columns;
      const rise = h[n + columns + 1] - h[n];
      const fall = h[n + columns] - h[n + 1];
      const along = (rise + fall) / (2 * (x[i + 1] - x[i]));
      const across = (rise - fall) / (2 * (y[j + 1] - y[j]));
      putNormal(out, rows * columns + k, -along, -across, 1);
    }
    return out;
  }

  _faceNormals(/** @type {number[]} */ scale) {
    const total = new Float64Array(this.vertices.length);
    const { faces, vertices } = this;
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [faces[f], faces[f + 1], faces[f + 2]];
      const edge = (/** @type {number} */ n, /** @type {number} */ axis) =>
        (vertices[3 * n + axis] - vertices[3 * a + axis]) * scale[axis];
      const [p, q] = [[edge(b, 0), edge(b, 1), edge(b, 2)], [edge(c, 0), edge(c, 1), edge(c, 2)]];
      const across = [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
      for (const n of [a, b, c]) for (let axis = 0; axis < 3; axis++) total[3 * n + axis] += across[axis];
    }
    for (let n = 0; n < total.length / 3; n++) putNormal(total, n, total[3 * n], total[3 * n + 1], total[3 * n + 2]);
    return total;
  }

  /**
   * The polyline through `coordinates` (T, 2) on the mesh, cut at every edge of a triangle that it crosses.
   * @param {Float64Array} coordinates
   * @returns {Drape}
   */
  drape(coordinates) {
    const position = this._crossings(coordinates);
    const points = new Float64Array(3 * position.length);
    position.forEach((place, k) => {
      const [a, b] = placeOn(coordinates, place);
      points.set([a, b, this.heightAt(a, b)], 3 * k);
    });
    return { points, position };
  }

  /** Positions of the snapshots and of the crossings with grid lines and diagonals, increasing. */
  _crossings(/** @type {Float64Array} */ coordinates) {
    const count = coordinates.length / 2;
    /** @type {number[]} */
    const found = [];
    for (let n = 0; n < count; n++) {
      found.push(n);
      if (n === count - 1) break;
      [this.alpha, this.beta].forEach((lines, axis) => {
        const start = coordinates[2 * n + axis];
        const delta = coordinates[2 * n + 2 + axis] - start;
        for (let k = rankOf(lines, Math.min(start, start + delta)); k < lines.length; k++) {
          const t = (lines[k] - start) / delta;
          if (!(t > 0 && t < 1)) break;
          found.push(n + t);
        }
      });
    }
    const cuts = distinct(found);
    return distinct([...cuts, ...this._diagonals(coordinates, cuts)]);
  }

  /** Between two cuts the path stays in one cell, and crosses each of the cell's diagonals at most once. */
  _diagonals(/** @type {Float64Array} */ coordinates, /** @type {Float64Array} */ cuts) {
    /** @type {number[]} */
    const found = [];
    const { alpha, beta } = this;
    for (let k = 0; k + 1 < cuts.length; k++) {
      const [a, b] = placeOn(coordinates, (cuts[k] + cuts[k + 1]) / 2);
      const i = cellOf(alpha, a);
      const j = cellOf(beta, b);
      const [start, end] = [cuts[k], cuts[k + 1]].map((cut) => {
        const [x, y] = placeOn(coordinates, cut);
        const u = (x - alpha[i]) / (alpha[i + 1] - alpha[i]);
        const v = (y - beta[j]) / (beta[j + 1] - beta[j]);
        return [u - v, u + v - 1];
      });
      for (let which = 0; which < 2; which++) {
        if (!(start[which] * end[which] < 0)) continue;
        const t = start[which] / (start[which] - end[which]);
        found.push(cuts[k] * (1 - t) + cuts[k + 1] * t);
      }
    }
    return found;
  }
}

/** Grid points without a finite loss, by reason. @param {Surface} surface */
function missing(surface) {
  const counts = { "not computed": 0, NaN: 0, infinite: 0 };
  surface.loss.forEach((loss, n) => {
    if (!surface.state[n]) counts["not computed"] += 1;
    else if (Number.isNaN(loss)) counts.NaN += 1;
    else if (!Number.isFinite(loss)) counts.infinite += 1;
  });
  return Object.entries(counts).filter(([, count]) => count > 0);
}

/** The interval of an axis that contains a value. @param {Float64Array} axis @param {number} value */
export function cellOf(axis, value) {
  return clamp(rankOf(axis, value) - 1, 0, axis.length - 2);
}

/**
 * The slope over x of values at place k, which is number n of them; its neighbours are `next` away. Of second order
 * inside.
 * @param {Float64Array} x @param {number} k @param {Float64Array} values @param {number} n @param {number} next
 */
function slope(x, k, values, n, next) {
  if (k === 0) return (values[n + next] - values[n]) / (x[1] - x[0]);
  if (k === x.length - 1) return (values[n] - values[n - next]) / (x[k] - x[k - 1]);
  const before = x[k] - x[k - 1];
  const after = x[k + 1] - x[k];
  return (
    (-after / (before * (before + after))) * values[n - next] + ((after - before) / (before * after)) * values[n] +
    (before / (after * (before + after))) * values[n + next]
  );
}

/** @param {Float64Array} out @param {number} n @param {number} x @param {number} y @param {number} z */
function putNormal(out, n, x, y, z) {
  const length = Math.sqrt(x * x + y * y + z * z);
  out[3 * n] = length > 0 ? x / length : 0;
  out[3 * n + 1] = length > 0 ? y / length : 0;
  out[3 * n + 2] = length > 0 ? z / length : 1;
}

/** @param {Float64Array} coordinates (T, 2) @param {number} place */
function placeOn(coordinates, place) {
  const k = clamp(Math.floor(place), 0, coordinates.length / 2 - 1);
  const t = place - k;
  const a = coordinates[2 * k];
  const b = coordinates[2 * k + 1];
  if (t <= 0 || 2 * k + 3 >= coordinates.length) return [a, b];
  return [a + t * (coordinates[2 * k + 2] - a), b + t * (coordinates[2 * k + 3] - b)];
}

/** @param {number[]} values */
function distinct(values) {
  const sorted = Float64Array.from(values).sort();
  return sorted.filter((value, k) => k === 0 || value !== sorted[k - 1]);
}

/**
 * The point (3) of a drape at a fractional snapshot number; clamped to the ends.
 * @param {Drape} drape
 * @param {number} position
 */
export function pointOf(drape, position) {
  const k = rankOf(drape.position, position) - 1;
  const last = drape.position.length - 1;
  const place =
    k < 0 ? 0 : k >= last ? last : k + (position - drape.position[k]) / (drape.position[k + 1] - drape.position[k]);
  return [0, 1, 2].map((axis) => {
    const first = Math.floor(place);
    const start = drape.points[3 * first + axis];
    return place === first ? start : between(place - first, [start, drape.points[3 * first + 3 + axis]]);
  });
}
