// Numbers: interpolation and percentiles as numpy has them, and the digits of a loss as surface/digits.py has them.

/** @typedef {Float64Array | Float32Array | number[]} Numbers */

/** Digits beyond which a loss in float32, and its mean in float64, says nothing. */
const MOST_DIGITS = 12;

/** @param {number} value @param {number} low @param {number} high */
export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/**
 * A number as Python's format ".Ng" writes it.
 * @param {number} value
 * @param {number} digits
 */
export function general(value, digits) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (value === 0) return "0";
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= digits) {
    return `${trimmed(mantissa)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  return trimmed(value.toFixed(Math.max(digits - 1 - exponent, 0)));
}

/** @param {string} text */
function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/**
 * A loss as a short label, with as many digits as tell it from one that is `step` away.
 * @param {number} loss
 * @param {number} [step]
 */
export function textOf(loss, step = Infinity) {
  const size = Math.abs(loss);
  let digits = (size >= 1e-3 && size < 1e4) || loss === 0 ? 3 : 2;
  if (step > 0 && step < size && size < Infinity) {
    digits = Math.min(MOST_DIGITS, Math.max(digits, Math.ceil(Math.log10(size / step)) + 1));
  }
  return general(loss, digits);
}

/**
 * Losses as labels that differ wherever the losses do.
 * @param {number[]} losses
 */
export function textsOf(losses) {
  const known = [...new Set(losses.filter(Number.isFinite))].sort((a, b) => a - b);
  const steps = new Map(known.map((loss) => [loss, Infinity]));
  for (let k = 1; k < known.length; k++) {
    const step = known[k] - known[k - 1];
    steps.set(known[k - 1], Math.min(steps.get(known[k - 1]) ?? Infinity, step));
    steps.set(known[k], step);
  }
  return losses.map((loss) => textOf(loss, steps.get(loss) ?? Infinity));
}

/**
 * The first place in increasing `values` that is larger than `x` (as numpy's searchsorted, side "right").
 * @param {Numbers} values
 * @param {number} x
 */
export function rankOf(values, x) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * The value at `x` of the line through (xs, ys); constant beyond its ends.
 * @param {number} x
 * @param {Numbers} xs
 * @param {(k: number) => number} y
 */
export function interpolate(x, xs, y) {
  if (Number.isNaN(x) || !xs.length) return NaN;
  const k = rankOf(xs, x) - 1;
  if (k < 0) return y(0);
  if (k >= xs.length - 1 || xs[k] === x) return y(Math.min(k, xs.length - 1));
  const share = (x - xs[k]) / (xs[k + 1] - xs[k]);
  return y(k) + share * (y(k + 1) - y(k));
}

/**
 * The value at a fractional place of a list.
 * @param {number} place
 * @param {Numbers} values
 */
export function between(place, values) {
  const k = clamp(Math.floor(place), 0, values.length - 1);
  if (k === place || k >= values.length - 1) return values[k];
  return values[k] + (place - k) * (values[k + 1] - values[k]);
}

/**
 * A percentile of sorted values, linear between two of them.
 * @param {Numbers} sorted
 * @param {number} percent
 */
export function percentile(sorted, percent) {
  return between((percent / 100) * (sorted.length - 1), sorted);
}
