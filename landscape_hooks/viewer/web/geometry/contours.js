// Contours: lines of equal loss by marching over the four triangles of every cell (mesh/contours.py).

import { levels } from "./height.js";

/** @typedef {import("./mesh.js").Mesh} Mesh */
/** @typedef {{ loss: number, height: number, index: boolean, lines: Float64Array[] }} Contour lines of (N, 2) */
/** @typedef {{ points: Map<number, number[]>, ends: number[][] }} Cuts points by edge, and pairs of edges */

/**
 * The contour lines of a mesh; lines end at holes.
 * @param {Mesh} mesh
 * @returns {Contour[]}
 */
export function contours(mesh) {
  const { losses, index } = levels(mesh.height);
  const ranges = rangesOf(mesh);
  return losses.map((loss, k) => {
    const height = mesh.height.of(loss);
    return { loss, height, index: index[k], lines: joined(cutsAt(mesh, height, ranges)) };
  });
}

/** Lowest and highest height of every cell, so that those which a level does not cut are passed over quickly. */
function rangesOf(/** @type {Mesh} */ { cells, heights, columns }) {
  const ranges = new Float64Array(2 * cells.length);
  for (let k = 0; k < cells.length; k++) {
    const n = cells[k];
    const [a, b, c, d] = [heights[n], heights[n + 1], heights[n + columns], heights[n + columns + 1]];
    ranges[2 * k] = Math.min(a, b, c, d);
    ranges[2 * k + 1] = Math.max(a, b, c, d);
  }
  return ranges;
}

/**
 * Where a level cuts the edges of triangles. An edge has a number: the kind of edge, then the grid point it begins at.
 * @param {Mesh} mesh
 * @param {number} level
 * @param {Float64Array} ranges
 * @returns {Cuts}
 */
function cutsAt(mesh, level, ranges) {
  const { alpha, beta, columns, heights, cells } = mesh;
  const count = mesh.rows * columns;
  /** @type {Cuts} */
  const cuts = { points: new Map(), ends: [] };
  for (let cell = 0; cell < cells.length; cell++) {
    if (ranges[2 * cell + 1] <= level || ranges[2 * cell] > level) continue;
    const n = cells[cell];
    const z = [heights[n], heights[n + columns], heights[n + columns + 1], heights[n + 1]];
    const i = Math.floor(n / columns);
    const j = n % columns;
    const corners = [[alpha[i], beta[j]], [alpha[i + 1], beta[j]], [alpha[i + 1], beta[j + 1]], [alpha[i], beta[j + 1]]];
    const centre = [(alpha[i] + alpha[i + 1]) / 2, (beta[j] + beta[j + 1]) / 2];
    const middle = (z[0] + z[1] + z[2] + z[3]) / 4;
    const rims = [n, count + n + columns, n + 1, count + n]; // along alpha, beta, alpha, beta
    for (let k = 0; k < 4; k++) {
      const m = (k + 1) % 4;
      const crossed = [
        cut(cuts, rims[k], corners[k], z[k], corners[m], z[m], level),
        cut(cuts, (2 + m) * count + n, corners[m], z[m], centre, middle, level),
        cut(cuts, (2 + k) * count + n, corners[k], z[k], centre, middle, level),
      ].filter((edge) => edge >= 0);
      if (crossed.length === 2) cuts.ends.push(crossed);
    }
  }
  return cuts;
}

/**
 * Note the point at which a level cuts an edge from p to q; gives the edge's number, or -1 where it is not cut.
 * @param {Cuts} cuts @param {number} edge
 * @param {number[]} p @param {number} zp @param {number[]} q @param {number} zq @param {number} level
 */
function cut(cuts, edge, p, zp, q, zq, level) {
  if (zp > level === zq > level) return -1;
  const t = (level - zp) / (zq - zp);
  cuts.points.set(edge, [p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])]);
  return edge;
}

/** Segments joined to polylines, open ones first. @param {Cuts} cuts */
function joined(cuts) {
  /** @type {Map<number, number[]>} segments at every edge, one or two */
  const at = new Map();
  cuts.ends.forEach((pair, segment) => {
    for (const edge of pair) {
      const there = at.get(edge);
      if (there) there.push(segment);
      else at.set(edge, [segment]);
    }
  });
  const used = new Uint8Array(cuts.ends.length);
  /** @type {Float64Array[]} */
  const lines = [];
  const walk = (/** @type {number} */ start) => {
    const line = [...(cuts.points.get(start) ?? [])];
    let edge = start;
    for (;;) {
      const segment = (at.get(edge) ?? []).find((one) => !used[one]);
      if (segment === undefined) break;
      used[segment] = 1;
      const [one, other] = cuts.ends[segment];
      edge = one === edge ? other : one;
      line.push(...(cuts.points.get(edge) ?? []));
    }
    if (line.length > 2) lines.push(Float64Array.from(line));
  };
  for (const [edge, segments] of at) if (segments.length === 1) walk(edge);
  for (const edge of at.keys()) walk(edge);
  return lines;
}
