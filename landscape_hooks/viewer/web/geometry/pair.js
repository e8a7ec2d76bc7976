// Pair: two surfaces on the same grid, blended or compared, and one height for both (mesh/pair.py).

import { Height, niceStep } from "./height.js";
import { textOf, textsOf } from "./numbers.js";

/** @typedef {import("./data.js").Surface} Surface */
/** @typedef {import("./data.js").Path} Path */
/** @typedef {{ values: Float64Array, limit: number, kind: string, names: string[], short: string, name: string }} Difference
 *   values (A, B) are second minus first, or log10 of second / first where the height is logarithmic; NaN where unknown */

/** Share of an axis by which two coordinates of one grid point may differ. */
const SAME = 1e-9;
const MEND = "Analyze both with the same --directions, --extent and --size.";

/** One height for the losses of all surfaces. @param {Surface[]} surfaces @param {string} kind */
export function commonHeight(surfaces, kind) {
  const losses = surfaces.flatMap(({ loss, state }) => Array.from(loss, (value, n) => (state[n] ? value : NaN)));
  return Height.choose(Float64Array.from(losses), kind);
}

/** Refuse two surfaces whose grid points do not belong together. @param {Surface} first @param {Surface} second */
export function checkSameGrid(first, second) {
  const names = `'${first.name}' and '${second.name}'`;
  const shapes = [first, second].map(({ alpha, beta }) => `${alpha.length} x ${beta.length}`);
  if (shapes[0] !== shapes[1]) throw new Error(`The grids of ${names} have ${shapes.join(" and ")} points. ${MEND}`);
  for (const axis of /** @type {const} */ (["alpha", "beta"])) {
    const [one, other] = [first[axis], second[axis]];
    const most = SAME * Math.max(one[one.length - 1] - one[0], 1e-300);
    if (one.some((value, k) => Math.abs(value - other[k]) > most)) throw new Error(`The grids of ${names} differ. ${MEND}`);
  }
  const kinds = [first.directions, second.directions];
  if (kinds[0] && kinds[1] && kinds[0] !== kinds[1]) {
    throw new Error(`The directions of ${names} are ${kinds.join(" and ")}. ${MEND}`);
  }
  const oneRun = first.digest && first.digest === second.digest;
  if (oneRun && !pairs(first, second).every(([one, other]) => coincide(one, other))) {
    throw new Error(`The paths lie elsewhere on ${names}, so these are two planes. ${MEND}`);
  }
}

/**
 * The surface between two: the loss is (1 - share)·first + share·second where both have one.
 * @param {Surface} first @param {Surface} second @param {number} share
 * @returns {Surface}
 */
export function blended(first, second, share) {
  checkSameGrid(first, second);
  const nearer = share < 0.5 ? first : second;
  if (share === 0 || share === 1) return nearer;
  const mean = (/** @type {Float64Array} */ one, /** @type {Float64Array} */ other) =>
    one.map((value, n) => (1 - share) * value + share * other[n]);
  const both = pairs(first, second);
  const same = first.paths.length === second.paths.length && both.every(([one, other]) => coincide(one, other));
  const said = `${textOf(1 - share)} of ${first.name}, ${textOf(share)} of ${second.name}`;
  return {
    ...nearer,
    name: said,
    title: [nearer.title.split(" · ").slice(0, -1).join(" · "), said].filter(Boolean).join(" · "),
    loss: mean(first.loss, second.loss),
    stderr: mean(first.stderr, second.stderr),
    state: first.state.map((one, n) => (one && second.state[n] ? Math.max(one, second.state[n]) : 0)),
    error: new Float64Array(0),
    said: [
      ...first.said.filter((part) => second.said.includes(part)),
      ...onlyIn(first, second), ...onlyIn(second, first),
    ],
    doubts: [...new Set([...first.doubts, ...second.doubts])],
    marks: [],
    critical: [],
    strip: null,
    paths: same ? both.map(([one, other]) => ({
      ...one, loss: mean(one.loss, other.loss), planeLoss: mean(one.planeLoss, other.planeLoss),
    })) : nearer.paths,
  };
}

/** The difference of two surfaces. @param {Surface} first @param {Surface} second @param {Height} height @returns {Difference} */
export function differenceOf(first, second, height) {
  checkSameGrid(first, second);
  const logarithmic = height.kind === "log10";
  const values = first.loss.map((one, n) => {
    const other = second.loss[n];
    const known = first.state[n] && second.state[n] && Number.isFinite(one) && Number.isFinite(other);
    if (!known) return NaN;
    if (!logarithmic) return other - one;
    return one > 0 && other > 0 ? Math.log10(other / one) : NaN;
  });
  const limit = values.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most), 0) || 1;
  const short = logarithmic ? "B / A" : "B - A";
  const names = first.name === second.name ? ["A", "B"] : [first.name, second.name];
  return { values, limit, kind: height.kind, names, short, name: names[1] + short.slice(1, -1) + names[0] };
}

/**
 * Values for the labels of the colour bar of a difference, and the labels.
 * @param {Difference} difference @returns {{ values: number[], labels: string[] }}
 */
export function ticksOf({ limit, kind }) {
  if (kind !== "log10") {
    const step = niceStep(limit / 2.5);
    const most = Math.floor(limit / step + 1e-9);
    const values = Array.from({ length: 2 * most + 1 }, (_, k) => (k - most) * step);
    return { values, labels: values.map((value) => (value > 0 ? "+" : "") + textOf(value)) };
  }
  const size = 10 ** limit;
  let factors = [0.2, 0.5, 1, 2, 5].filter((f) => f <= size && f >= 1 / size);
  if (limit >= 1) {
    const apart = Math.max(1, Math.round(limit / 3)); // powers of ten between two labels
    const most = Math.floor(limit / apart);
    factors = Array.from({ length: 2 * most + 1 }, (_, k) => 10 ** ((k - most) * apart));
  } else if (size < 2) {
    const step = niceStep((size - 1) / 2.5);
    const half = Array.from({ length: Math.floor((size - 1) / step + 1e-9) }, (_, k) => (k + 1) * step);
    const below = half.filter((value) => value < 1 - 1 / size).reverse();
    factors = [...below.map((value) => 1 - value), 1, ...half.map((value) => 1 + value)];
  }
  return { values: factors.map(Math.log10), labels: textsOf(factors).map((text) => `×${text}`) };
}

/** The difference at a grid point, as text. @param {Difference} difference @param {number} n */
export function saidOfDifference({ values, kind, name }, n) {
  const value = values[n];
  if (!Number.isFinite(value)) return `${name}: not known`;
  return `${name}: ${kind === "log10" ? `×${textOf(10 ** value)}` : (value > 0 ? "+" : "") + textOf(value)}`;
}

/** What is said of one surface and not of the other, after its name. */
function onlyIn(/** @type {Surface} */ one, /** @type {Surface} */ other) {
  const own = one.said.filter((part) => !other.said.includes(part));
  return own.length ? [`${one.name}: ${own.join(", ")}`] : [];
}

/** @returns {[Path, Path][]} */
function pairs(/** @type {Surface} */ first, /** @type {Surface} */ second) {
  return first.paths.slice(0, second.paths.length).map((path, k) => [path, second.paths[k]]);
}

/** Whether two paths have the same snapshots at the same places. */
function coincide(/** @type {Path} */ one, /** @type {Path} */ other) {
  if (one.step.length !== other.step.length || one.step.some((step, k) => step !== other.step[k])) return false;
  const sizes = one.coordinates.filter(Number.isFinite);
  const extent = sizes.reduce((most, value) => Math.max(most, value), -Infinity) - sizes.reduce((least, value) => Math.min(least, value), Infinity);
  const most = 1e-6 * (extent > 0 ? extent : 0) + 1e-12;
  return one.coordinates.every((value, k) => !(Math.abs(value - other.coordinates[k]) > most));
}
