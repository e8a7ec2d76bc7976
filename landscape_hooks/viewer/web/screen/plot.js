// Plot: the losses along the paths, in the lower left corner of the picture (viewer/gl/plot.py).

import { Labels } from "../geometry/numbers.js";

/** @typedef {import("../replay/replay.js").Replay} Replay */
/** @typedef {import("../geometry/data.js").Path} Path */
/** @typedef {import("./pen.js").Pen} Pen */
/** @typedef {{ x: number, y: number, width: number, height: number }} Box */

/** @typedef {import("../geometry/data.js").Strip} Strip */

/** Height of the strip with the sharpness, above the losses. */
export const STRIP = 40;
/** Colour of the sharpness on a dark and on a light ground. */
const SHARP = { dark: [0.95, 0.62, 0.28], light: [0.78, 0.36, 0.08] };

/**
 * What lies behind the plot of the losses and its words, and the strip above it.
 * @param {Box} plot @param {number} unit @param {Strip | null} strip
 */
export function panelOf({ x, y, width, height }, unit, strip) {
  const above = 30 + (strip ? STRIP + 26 : 0);
  return [x - 10 * unit, y - above * unit, x + width + 62 * unit, y + height + 26 * unit];
}

/**
 * The losses at the snapshots and on the surface. One run has its own colour only on the surface; of several, the
 * losses at the snapshots are dashed.
 * @param {Pen} pen @param {Replay} replay @param {Box} box
 */
export function drawPlot(pen, replay, box) {
  const { unit } = pen;
  const { x, y, width, height } = box;
  const { ink, faint, panel } = replay.theme;
  const { paths } = replay.landscape;
  const { strip } = replay.landscape.surface;
  const [left, top, right, bottom] = panelOf(box, unit, strip);
  pen.box([left, top], [right, bottom], panel, { alpha: 0.55, rounding: 6 });
  const values = paths.flatMap((path) => [...path.loss, ...path.planeLoss]).filter(Number.isFinite);
  if (!values.length) return;
  const least = values.reduce((a, b) => Math.min(a, b));
  const most = values.reduce((a, b) => Math.max(a, b));
  const logarithmic = least > 0 && most / least > 10;
  const change = (/** @type {number} */ loss) => (logarithmic ? Math.log10(loss) : loss);
  const low = change(least);
  const high = change(most) > low ? change(most) : low + 1;
  const place = (/** @type {Path} */ path, /** @type {Float64Array} */ losses) =>
    telling(losses, Math.floor(width)).map((n) => {
      const share = (n / Math.max(path.step.length - 1, 1)) * replay.timeline.last;
      return [x + width * replay.timeline.shareOf(share), y + height * (1 - (change(losses[n]) - low) / (high - low))];
    });
  paths.forEach((path, number) => {
    const color = replay.pathColor(number);
    pen.polyline(place(path, path.planeLoss), color, { width: 1.8 });
    if (paths.length === 1) pen.polyline(place(path, path.loss), ink, { width: 1.2, alpha: 0.9 });
    else pen.dashes(place(path, path.loss), color, { width: 1.3 });
  });
  if (strip) drawStrip(pen, replay, strip, box);
  pen.line([x, y + height + 4 * unit], [x + width, y + height + 4 * unit], faint, { alpha: 0.5 });
  const labels = Labels.between(least, most);
  legend(pen, replay, box, labels.name("loss"), logarithmic ? "log" : "linear");
  labels.texts([most, least]).forEach((text, k) => {
    pen.text(x + width + 6 * unit, y + k * height - 7 * unit, text, faint, { size: 11.5 });
  });
}

/** The sharpness of the first run and the threshold of its steps (dashed), on an axis from 0, above the losses. */
function drawStrip(
  /** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {Strip} */ strip, /** @type {Box} */ { x, y, width },
) {
  const { unit } = pen;
  const { ink, faint } = replay.theme;
  const [high, bottom] = [STRIP * unit, y - 34 * unit];
  const color = replay.look.theme === "light" ? SHARP.light : SHARP.dark;
  const clock = Array.from(strip.share, (share) => x + width * replay.timeline.shareOf(share * replay.timeline.last));
  const points = (/** @type {(n: number) => number} */ value) =>
    clock.map((place, n) => [place, bottom - (high * value(n)) / strip.top]);
  pen.line([x, bottom], [x + width, bottom], faint, { alpha: 0.5 });
  pen.polyline(points((n) => strip.value[n]), color, { width: 1.6 });
  const limit = (/** @type {number} */ n) => (strip.limit[n] <= strip.top ? strip.limit[n] : NaN);
  pen.dashes(points(limit), ink, { width: 1.2, alpha: 0.8 });
  const [top, middle] = [bottom - high - 20 * unit, bottom - high - 11 * unit];
  pen.line([x, middle], [x + 18 * unit, middle], color, { width: 2 });
  pen.text(x + 23 * unit, top, "sharpness", ink, { size: 12.5 });
  const place = x + 37 * unit + pen.width("sharpness", 12.5);
  if (clock.some((_, n) => Number.isFinite(limit(n)))) {
    pen.dashes([[place, middle], [place + 18 * unit, middle]], ink, { width: 1.4 });
    pen.text(place + 23 * unit, top, "threshold of the step", ink, { size: 12.5 });
  }
  pen.text(x + width + 6 * unit, bottom - high - 7 * unit, strip.said, faint, { size: 11.5 });
  pen.text(x + width + 6 * unit, bottom - 7 * unit, "0", faint, { size: 11.5 });
}

/** What the curves are, and the first and last step. */
function legend(
  /** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {Box} */ { x, y, width, height },
  /** @type {string} */ what, /** @type {string} */ scale,
) {
  const { unit } = pen;
  const { ink, faint } = replay.theme;
  const alone = replay.landscape.paths.length === 1;
  const [top, middle] = [y - 26 * unit, y - 17 * unit];
  let place = x;
  pen.text(place, top, what, faint, { size: 12.5 });
  place += pen.width(what, 12.5) + 14 * unit;
  const sample = [[place, middle], [place + 18 * unit, middle]];
  if (alone) pen.polyline(sample, ink, { width: 1.4 });
  else pen.dashes(sample, ink, { width: 1.4 });
  pen.text(place + 23 * unit, top, "true", ink, { size: 12.5 });
  place += 23 * unit + pen.width("true", 12.5) + 14 * unit;
  pen.line([place, middle], [place + 18 * unit, middle], alone ? replay.pathColor(0) : ink, { width: 2 });
  pen.text(place + 23 * unit, top, "on the surface", ink, { size: 12.5 });
  place += 23 * unit + pen.width("on the surface", 12.5);
  if (place + 8 * unit + pen.width(scale, 11.5) < x + width + 56 * unit) {
    pen.text(x + width + 56 * unit, top, scale, faint, { size: 11.5, align: 1 });
  }
  const { step } = replay.landscape.paths[0];
  const below = y + height + 7 * unit;
  const clock = replay.timeline.clock === "step" ? "step" : `step, spaced by ${replay.timeline.clock}`;
  const ends = [step[0], step[step.length - 1]].map(String);
  const sides = 2 * Math.max(...ends.map((text) => pen.width(text, 11.5))) + 12 * unit;
  pen.text(x, below, ends[0], faint, { size: 11.5 });
  pen.text(x + width, below, ends[1], faint, { size: 11.5, align: 1 });
  if (pen.width(clock, 11.5) + sides < width) {
    pen.text(x + width / 2, below, clock, faint, { size: 11.5, align: 0.5 });
  }
}

/** The rows of a curve that show on so many pixels: the lowest and highest value on each, and both ends. */
function telling(/** @type {Float64Array} */ values, /** @type {number} */ pixels) {
  const count = values.length;
  if (count <= 4 * pixels) return Array.from(values, (_, n) => n);
  const length = Math.ceil(count / pixels);
  const rows = new Set([0, count - 1]);
  for (let start = 0; start < count; start += length) {
    let [low, high] = [start, start];
    for (let n = start; n < Math.min(start + length, count); n++) {
      if (values[n] < values[low] || Number.isNaN(values[low])) low = n;
      if (values[n] > values[high] || Number.isNaN(values[high])) high = n;
    }
    rows.add(low).add(high);
  }
  return [...rows].sort((a, b) => a - b);
}
