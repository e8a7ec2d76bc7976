// Height: the map from losses to heights, and the losses at which contour lines lie (mesh/mesh.py, mesh/contours.py).

import { Labels, clamp, percentile } from "./numbers.js";

/** Ratio of the largest to the smallest loss above which the height is logarithmic. */
const LOG_FROM = 50;

/** Percentiles at which the height "clipped" cuts. */
const CLIP = [1, 95];

/** Every fifth line of a linear height is an index line, which is drawn heavier. */
const INDEX_EVERY = 5;

/** log10 or linear, clipped to [low, high] in units of the loss. */
export class Height {
  /** @param {"log10" | "linear"} kind @param {number} low @param {number} high @param {string} clipped */
  constructor(kind, low, high, clipped) {
    this.kind = kind;
    this.low = low;
    this.high = high;
    this.bounds = [this.of(low), this.of(high)];
    const text = kind === "log10" ? "height: log10 of the loss" : "height: the loss, linear";
    /** How the losses between both ends are written, the same in every part of a picture. */
    this.labels = kind === "log10" ? new Labels() : Labels.between(low, high);
    /** A difference between losses that read-outs are to show: a part in 200 of what is shown. */
    this.resolution = (high - low) / 200;
    this.statement = clipped ? `${text}, ${clipped}` : text;
  }

  /**
   * The height for the finite losses.
   * @param {Float64Array} losses
   * @param {string} wanted "auto", "log10", "linear" or "clipped"
   */
  static choose(losses, wanted) {
    const finite = losses.filter(Number.isFinite).sort();
    if (!finite.length) throw new Error("The surface has no finite loss at all, so there is nothing to draw.");
    const clips = wanted === "clipped";
    const low = clips ? percentile(finite, CLIP[0]) : finite[0];
    const high = clips ? percentile(finite, CLIP[1]) : finite[finite.length - 1];
    const logarithmic = wanted === "log10" || (wanted !== "linear" && low > 0 && high / low > LOG_FROM);
    if (logarithmic && low <= 0) throw new Error(`The smallest loss is ${low}, which has no logarithm.`);
    const clipped = clips ? `clipped at percentiles ${CLIP[0]} and ${CLIP[1]}` : "";
    return new Height(logarithmic ? "log10" : "linear", low, high, clipped);
  }

  /** The height of a loss, clipped; NaN stays NaN. @param {number} loss */
  of(loss) {
    if (Number.isNaN(loss)) return NaN;
    const inside = clamp(loss, this.low, this.high);
    return this.kind === "log10" ? Math.log10(inside) : inside;
  }

  /** The loss of a height. @param {number} height */
  inverse(height) {
    return this.kind === "log10" ? 10 ** height : height;
  }

  /** The place of a height in the range, 0 … 1. @param {number} height */
  share(height) {
    const [low, high] = this.bounds;
    return high > low ? (height - low) / (high - low) : 0.5;
  }
}

/**
 * About `count` losses between the ends of a height, and which of them are index lines.
 * @param {Height} height
 * @param {number} count
 * @returns {{ losses: number[], index: boolean[] }}
 */
export function levels(height, count = 20) {
  const [low, high] = height.bounds;
  if (!(high > low)) return { losses: [], index: [] };
  if (height.kind === "linear") {
    const step = niceStep((high - low) / count);
    const numbers = whole(Math.floor(low / step) + 1, Math.ceil(high / step));
    return { losses: numbers.map((n) => n * step), index: numbers.map((n) => n % INDEX_EVERY === 0) };
  }
  const perDecade = count / (high - low);
  const divisions = nearest([1, 2, 5, 10, 20, 50, 100], perDecade);
  const numbers = whole(Math.floor(low * divisions) + 1, Math.ceil(high * divisions));
  if (divisions < 10) {
    return { losses: numbers.map((n) => 10 ** (n / divisions)), index: numbers.map((n) => n % divisions === 0) };
  }
  const found = numbers.map((n) => levelOf(n, divisions));
  return { losses: found.map((one) => one.loss), index: found.map((one) => one.index) };
}

/** Index lines are 1, 2 and 5 times a power of ten themselves, not the equal ratios 1.995 and 5.01. */
function levelOf(/** @type {number} */ number, /** @type {number} */ divisions) {
  const decade = Math.floor(number / divisions);
  const tenths = Math.floor(((number - decade * divisions) * 10) / divisions);
  const index = (number * 10) % divisions === 0 && [0, 3, 7].includes(tenths);
  const nominal = { 0: 1, 3: 2, 7: 5 }[tenths] ?? 1;
  return { index, loss: index ? nominal * 10 ** decade : 10 ** (number / divisions) };
}

/** The 1-2-5 number nearest to `raw` in ratio. @param {number} raw */
export function niceStep(raw) {
  const power = 10 ** Math.floor(Math.log10(raw));
  return nearest([1, 2, 5, 10], raw / power) * power;
}

/** @param {number[]} choices @param {number} wanted */
function nearest(choices, wanted) {
  const away = (/** @type {number} */ n) => Math.abs(Math.log(n / wanted));
  return choices.reduce((best, n) => (away(n) < away(best) ? n : best));
}

/** @param {number} first @param {number} end */
function whole(first, end) {
  return Array.from({ length: Math.max(end - first, 0) }, (_, k) => first + k);
}
