// Numbers: interpolation and percentiles as numpy has them, and the texts of numbers as surface/digits.py has them.

/** @typedef {Float64Array | Float32Array | number[]} Numbers */

/** Digits beyond which a number in float64 says nothing. */
const MOST_DIGITS = 15;
/** Ratio of a number to the range around it from which labels say what they are above an offset. */
const FAR = 3e5;

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
  const [mantissa, power] = rounded(value, digits).split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= digits) {
    return `${trimmed(mantissa)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  return trimmed(Number(`${mantissa}e${power}`).toFixed(Math.max(digits - 1 - exponent, 0)));
}

/** A number in exponential form; one that is exactly between two goes to the even one, as in Python. */
function rounded(/** @type {number} */ value, /** @type {number} */ digits) {
  const text = value.toExponential(digits - 1);
  const [mantissa, power] = value.toExponential(Math.min(digits + 40, 100)).split("e");
  const sign = mantissa.startsWith("-") ? "-" : "";
  const figures = mantissa.replace(/[-.]/g, "");
  if (!/^50*$/.test(figures.slice(digits)) || Number(figures[digits - 1]) % 2) return text;
  const kept = figures.slice(0, digits);
  return `${sign}${kept[0]}${digits > 1 ? `.${kept.slice(1)}` : ""}e${power}`;
}

/** @param {string} text */
function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/**
 * A number as a short label, with as many digits as tell it from one that is `step` away.
 * @param {number} value
 * @param {number} [step]
 */
export function textOf(value, step = Infinity) {
  const size = Math.abs(value);
  let digits = size >= 1e3 && size < 1e4 ? 4 : (size >= 1e-3 && size < 1e3) || value === 0 ? 3 : 2;
  if (step > 0 && step < size && size < Infinity) {
    digits = Math.min(MOST_DIGITS, Math.max(digits, Math.ceil(Math.log10(size / step)) + 1));
  }
  return general(value, digits);
}

/**
 * Numbers as labels that differ wherever the numbers do.
 * @param {number[]} values
 */
export function textsOf(values) {
  const known = increasing(values);
  const steps = new Map(known.map((value) => [value, Infinity]));
  for (let k = 1; k < known.length; k++) {
    const step = known[k] - known[k - 1];
    steps.set(known[k - 1], Math.min(steps.get(known[k - 1]) ?? Infinity, step));
    steps.set(known[k], step);
  }
  return values.map((value) => textOf(value, steps.get(value) ?? Infinity));
}

/** The finite ones of some numbers, each once. @param {number[]} values */
function increasing(values) {
  return [...new Set(values.filter(Number.isFinite))].sort((a, b) => a - b);
}

/**
 * A coordinate to the digit of `step`, which is how far it is from one that reads differently.
 * @param {number} value
 * @param {number} step
 */
export function placeText(value, step) {
  if (!(Number.isFinite(value) && step > 0 && step < Infinity)) return textOf(value);
  if (Math.abs(value) < step / 2) return "0";
  const digits = Math.floor(Math.log10(Math.abs(value))) - Math.floor(Math.log10(step)) + 1;
  return general(value, clamp(digits, 1, MOST_DIGITS));
}

/** Labels of one scale. They say what is above `offset`, which is 0 for nearly all. */
export class Labels {
  /** @param {number} [offset] */
  constructor(offset = 0) {
    this.offset = offset;
  }

  /** Those of a scale; far from 0 the offset is a short number near the middle. */
  static between(/** @type {number} */ low, /** @type {number} */ high) {
    const span = high - low;
    if (!(span > 0 && span < Infinity) || Math.max(Math.abs(low), Math.abs(high)) < FAR * span) return new Labels();
    const middle = low + span / 2;
    for (let digits = 1; digits <= MOST_DIGITS; digits++) {
      const offset = Number(rounded(middle, digits));
      if (Math.abs(offset - middle) <= 10 * span) return new Labels(offset);
    }
    return new Labels();
  }

  /** Labels of numbers that differ wherever the numbers do. @param {number[]} values */
  texts(values) {
    const above = values.map((value) => value - this.offset);
    if (!this.offset) return textsOf(above);
    const known = increasing(above);
    const steps = known.slice(1).map((value, k) => value - known[k]);
    const step = steps.reduce((a, b) => Math.min(a, b), steps.length ? Infinity : 0);
    return textsOf(above.map((value) => (Math.abs(value) < 1e-3 * step ? 0 : value)));
  }

  /** What the labels say of something: itself, or how far it is above the offset. @param {string} what */
  name(what) {
    if (!this.offset) return what;
    return `${what} ${this.offset > 0 ? "-" : "+"} ${general(Math.abs(this.offset), MOST_DIGITS)}`;
  }
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
