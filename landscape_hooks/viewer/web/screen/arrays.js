// Geometry: a landscape on its stage as the records that the shaders take (viewer/gl/arrays.py).

import { clamp, interpolate } from "../geometry/numbers.js";
import { Records } from "./gpu.js";

/** @typedef {import("../geometry/mesh.js").Mesh} Mesh */
/** @typedef {import("../geometry/mesh.js").Drape} Drape */
/** @typedef {import("../geometry/stage.js").Stage} Stage */
/** @typedef {import("../geometry/contours.js").Contour} Contour */
/** @typedef {import("../geometry/data.js").Path} Path */

const SURFACE = [
  { name: "position", size: 3 }, { name: "normal", size: 3 }, { name: "share", size: 1 },
  { name: "occlusion", size: 1 }, { name: "cell", size: 2 }, { name: "tint", size: 4, byte: true },
];
const LINE = [
  { name: "a", size: 3 }, { name: "b", size: 3 }, { name: "color_a", size: 4, byte: true },
  { name: "color_b", size: 4, byte: true }, { name: "along", size: 2 }, { name: "width", size: 1 },
];
const BALL = [
  { name: "centre", size: 3 }, { name: "fill", size: 4, byte: true }, { name: "ring", size: 4, byte: true },
  { name: "radius", size: 1 },
];

/** Points of the contour lines on the floor: of a fine grid not every one is taken. */
const SHADOW = 8000;
/** Segments of a path that are drawn: of a longer one not every snapshot is a corner of the line. */
const PATH = 20000;

/** The grey where a difference is not known. */
const UNKNOWN = 128 / 255;

/** The colour of a difference at a vertex. @param {number} value @param {number} limit @param {Uint8Array} table */
function tintOf(value, limit, table) {
  if (!Number.isFinite(value)) return [UNKNOWN, UNKNOWN, UNKNOWN];
  const place = Math.floor(clamp(((value / limit + 1) / 2) * 256, 0, 255));
  return [0, 1, 2].map((k) => table[3 * place + k] / 255);
}

/**
 * Every vertex of the mesh in the scene; `table` has the colours of a difference.
 * @param {Mesh} mesh @param {Stage} stage @param {import("../geometry/pair.js").Difference | null} difference
 * @param {Uint8Array} table
 */
export function surfaceRecords(mesh, stage, difference = null, table = new Uint8Array(0)) {
  const { vertices, rows, columns, cells } = mesh;
  const count = rows * columns;
  const normals = mesh.normals(stage.scale);
  const light = occlusion(mesh, stage);
  const points = stage.placeAll(vertices);
  const records = new Records(SURFACE, vertices.length / 3);
  const row = new Array(14).fill(1);
  for (let v = 0; v < vertices.length / 3; v++) {
    const centre = v >= count;
    const n = centre ? cells[v - count] : v;
    const half = centre ? 0.5 : 0;
    for (let axis = 0; axis < 3; axis++) {
      row[axis] = points[3 * v + axis];
      row[3 + axis] = normals[3 * v + axis];
    }
    row[6] = mesh.height.share(vertices[3 * v + 2]);
    row[7] = centre ? (light[n] + light[n + 1] + light[n + columns] + light[n + columns + 1]) / 4 : light[n];
    row[8] = Math.floor(n / columns) + half;
    row[9] = (n % columns) + half;
    if (difference) {
      const { values, limit } = difference;
      const corners = [n, n + 1, n + columns, n + columns + 1];
      const value = centre ? corners.reduce((sum, corner) => sum + values[corner], 0) / 4 : values[n];
      tintOf(value, limit, table).forEach((part, k) => (row[10 + k] = part));
    }
    records.add(row);
  }
  return records;
}

/** (A, B) light from the sky at each grid point: 1, or less where it lies below its surroundings. */
function occlusion(/** @type {Mesh} */ mesh, /** @type {Stage} */ stage) {
  const { rows, columns } = mesh;
  const top = mesh.height.bounds[1];
  const heights = mesh.heights.map((height) => (Number.isNaN(height) ? top : height) * stage.scale[2]);
  const below = new Float64Array(heights.length);
  for (const share of [0.04, 0.1, 0.22]) {
    const radius = Math.max(1, evenly(share * Math.max(rows, columns)));
    const mean = boxMean(boxMean(heights, rows, columns, radius, true), rows, columns, radius, false);
    mean.forEach((value, n) => (below[n] += Math.max(value - heights[n], 0) / (2 * share)));
  }
  return below.map((value) => 1 / (1 + ((1.5 * value) / 3) * 2));
}

/** Rounded as Python rounds: a half to the even number. @param {number} value */
function evenly(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/** Mean over 2 radius + 1 points along rows (or columns), with the edge repeated. */
function boxMean(
  /** @type {Float64Array} */ values, /** @type {number} */ rows, /** @type {number} */ columns,
  /** @type {number} */ radius, /** @type {boolean} */ alongRows,
) {
  const out = new Float64Array(values.length);
  const [length, others] = alongRows ? [rows, columns] : [columns, rows];
  for (let other = 0; other < others; other++) {
    const at = (/** @type {number} */ k) => (alongRows ? k * columns + other : other * columns + k);
    let sum = 0;
    for (let k = -radius; k <= radius; k++) sum += values[at(clamp(k, 0, length - 1))];
    for (let k = 0; k < length; k++) {
      out[at(k)] = sum / (2 * radius + 1);
      sum += values[at(clamp(k + radius + 1, 0, length - 1))] - values[at(clamp(k - radius, 0, length - 1))];
    }
  }
  return out;
}

/** Lists of triangles: all, then, if there are more than `limit`, fewer for dragging. */
export function triangles(/** @type {Mesh} */ mesh, /** @type {number} */ limit) {
  if (mesh.faces.length / 3 <= limit) return [mesh.faces];
  const { rows, columns, valid } = mesh;
  const step = Math.ceil(Math.sqrt((2 * rows * columns) / limit));
  const places = (/** @type {number} */ count) => {
    const found = [];
    for (let k = 0; k < count - 1; k += step) found.push(k);
    return [...found, count - 1];
  };
  const [is, js] = [places(rows), places(columns)];
  const coarse = [];
  for (let p = 0; p + 1 < is.length; p++) {
    for (let q = 0; q + 1 < js.length; q++) {
      const [a, b, c, d] = [[p, q], [p + 1, q], [p + 1, q + 1], [p, q + 1]].map(([k, m]) => is[k] * columns + js[m]);
      if (valid[a] && valid[b] && valid[c] && valid[d]) coarse.push(a, b, c, a, c, d);
    }
  }
  return [mesh.faces, Uint32Array.from(coarse)];
}

/**
 * A lid over the open cells, which is drawn hatched: it says that nothing is known there. Null where there is none.
 * @param {import("../geometry/landscape.js").Landscape} landscape @param {Stage} stage
 */
export function lidRecords(landscape, stage) {
  const { mesh } = landscape;
  if (mesh.allValid || !mesh.valid.includes(1)) return null;
  const records = new Records(SURFACE, mesh.heights.length);
  landscape.lid.forEach((height, n) => {
    const point = [mesh.alpha[Math.floor(n / mesh.columns)], mesh.beta[n % mesh.columns], height];
    records.add([...stage.place(point), 0, 0, 1, 0, 0, 0, 0]);
  });
  const open = [];
  for (let i = 0; i + 1 < mesh.rows; i++) {
    for (let j = 0; j + 1 < mesh.columns; j++) {
      const n = i * mesh.columns + j;
      const opposite = n + mesh.columns + 1;
      if (!mesh.isWhole(i, j)) open.push(n, n + mesh.columns, opposite, n, opposite, n + 1);
    }
  }
  return { records, indices: [Uint32Array.from(open)] };
}

/** Add one segment; one with an end that is not finite is left out. */
function addSegment(
  /** @type {Records} */ records, /** @type {number[]} */ a, /** @type {number[]} */ b, /** @type {number[]} */ color,
  /** @type {number} */ width, /** @type {number[]} */ [alphaA, alphaB] = [1, 1],
  /** @type {number[]} */ [alongA, alongB] = [0, 0],
) {
  if (!Number.isFinite(a[0] + a[1] + a[2] + b[0] + b[1] + b[2])) return;
  const [red, green, blue] = color;
  const colors = [red, green, blue, alphaA, red, green, blue, alphaB];
  records.add([a[0], a[1], a[2], b[0], b[1], b[2], ...colors, alongA, alongB, width]);
}

/**
 * The contour lines on the mesh, or on the floor in the colours of their losses.
 * @param {Contour[]} lines @param {Mesh} mesh @param {Stage} stage
 * @param {{ color?: number[], table?: Uint8Array }} ink
 */
export function contourRecords(lines, mesh, stage, { color, table }) {
  const total = lines.reduce((sum, contour) => sum + contour.lines.reduce((n, line) => n + line.length / 2, 0), 0);
  const every = table ? Math.max(1, Math.floor(total / SHADOW)) : 1;
  const records = new Records(LINE, total / every);
  for (const contour of lines) {
    const row = 3 * Math.trunc(mesh.height.share(contour.height) * 255);
    const ink = color ?? Array.from((table ?? new Uint8Array(3)).subarray(row, row + 3), (value) => value / 255);
    const alpha = contour.index ? 0.9 : 0.55;
    for (const line of contour.lines) {
      const last = line.length / 2 - 1;
      const point = (/** @type {number} */ n) => {
        const [x, y, z] = stage.place([line[2 * n], line[2 * n + 1], contour.height]);
        return [x, y, table ? stage.floor : z];
      };
      for (let n = 0; n < last; n += every) {
        const end = Math.min(n + every, last);
        addSegment(records, point(n), point(end), ink, contour.index ? 1.9 : 0.9, [alpha, alpha]);
      }
    }
  }
  return records;
}

/** Evenly spaced numbers of at most PATH of `count` points, with the first and the last. @param {number} count */
function corners(count) {
  const every = Math.max(1, Math.ceil(count / PATH));
  const found = [];
  for (let n = 0; n < count; n += every) found.push(n);
  if (count && found[found.length - 1] !== count - 1) found.push(count - 1);
  return found;
}

/** A draped path; it fades where the snapshot is far off the plane, compared with the path's extent. */
export function pathRecords(
  /** @type {Drape} */ drape, /** @type {Path} */ path, /** @type {Stage} */ stage, /** @type {number[]} */ color,
  /** @type {number} */ reach,
) {
  const fade = path.distance.map((away) => {
    if (!(reach > 0)) return 1;
    return 1 - 0.65 * clamp((Number.isNaN(away) ? reach : away) / reach, 0, 1);
  });
  const points = stage.placeAll(drape.points);
  const numbers = path.step.map((_, n) => n);
  const alpha = (/** @type {number} */ position) => interpolate(position, numbers, (n) => fade[n]);
  const rows = corners(drape.position.length);
  const records = new Records(LINE, rows.length);
  for (let k = 0; k + 1 < rows.length; k++) {
    const [n, m] = [rows[k], rows[k + 1]];
    const [a, b] = [points.subarray(3 * n, 3 * n + 3), points.subarray(3 * m, 3 * m + 3)];
    const places = [drape.position[n], drape.position[m]];
    addSegment(records, [...a], [...b], color, 3.2, places.map(alpha), places);
  }
  return records;
}

/** The true loss, and the stems that join it to the surface. */
export function trueLossRecords(
  /** @type {Path} */ path, /** @type {Mesh} */ mesh, /** @type {Stage} */ stage, /** @type {number[]} */ color,
) {
  const at = (/** @type {number} */ n) => [path.coordinates[2 * n], path.coordinates[2 * n + 1]];
  const upper = (/** @type {number} */ n) => {
    return stage.place([...at(n), Number.isFinite(path.loss[n]) ? mesh.height.of(path.loss[n]) : NaN]);
  };
  const lower = (/** @type {number} */ n) => stage.place([...at(n), mesh.heightAt(at(n)[0], at(n)[1])]);
  const count = path.step.length;
  const [line, stems] = [new Records(LINE, count), new Records(LINE, 64)];
  const rows = corners(count);
  for (let k = 0; k + 1 < rows.length; k++) {
    addSegment(line, upper(rows[k]), upper(rows[k + 1]), color, 1.3, [1, 1], [rows[k], rows[k + 1]]);
  }
  const every = Math.max(1, Math.floor(count / 60));
  for (let n = 0; n < count; n += every) addSegment(stems, lower(n), upper(n), color, 0.9, [0.5, 0.5], [n, n]);
  return { line, stems };
}

/** Balls at scene points. @param {{ centre: number[], fill: number[], ring: number[], radius: number }[]} balls */
export function ballRecords(balls) {
  const records = new Records(BALL, balls.length);
  for (const { centre, fill, ring, radius } of balls) {
    if (centre.every(Number.isFinite)) records.add([...centre, ...fill, 1, ...ring, 1, radius]);
  }
  return records;
}

/** The floor: a frame, and a grid at the ticks. @param {Stage} stage @param {number[]} ink */
export function floorRecords(stage, ink) {
  const records = new Records(LINE);
  const [low, high] = stage.corners;
  for (const [axis, other] of [[0, 1], [1, 0]]) {
    const spots = stage.ticks(axis).values.map((value) => [(value - stage.middle[axis]) * stage.scale[axis], 0.8]);
    for (const [spot, width] of [...spots, [low[axis], 1.4], [high[axis], 1.4]]) {
      const [a, b] = [[0, 0, stage.floor], [0, 0, stage.floor]];
      a[axis] = b[axis] = spot;
      [a[other], b[other]] = [low[other], high[other]];
      addSegment(records, a, b, ink, width, [0.3, 0.3]);
    }
  }
  return records;
}

/** (4096) share of the height range -> number of the contour line, whole on a line, for the shader. */
export function levelTable(/** @type {Mesh} */ mesh, /** @type {number[]} */ losses) {
  const [low, high] = mesh.height.bounds;
  let knots = losses.map((loss) => (mesh.height.of(loss) - low) / (high - low));
  let numbers = losses.map((_, k) => k + 1);
  const last = knots.length - 1;
  if (last > 0) {
    knots = [2 * knots[0] - knots[1], ...knots, 2 * knots[last] - knots[last - 1]];
    numbers = [0, ...numbers, last + 2];
  } else {
    knots = [knots[0] - 1, knots[0], knots[0] + 1];
    numbers = [0, 1, 2];
  }
  return Float32Array.from({ length: 4096 }, (_, k) => interpolate(k / 4095, knots, (n) => numbers[n]));
}
