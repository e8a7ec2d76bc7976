// Bar: the colour bar in the upper right corner: of the losses, or of a difference (viewer/gl/bar.py).

import { ticksOf } from "../geometry/pair.js";
import { lineColormap } from "../replay/look.js";
import { Taken } from "./taken.js";

/** @typedef {import("../replay/replay.js").Replay} Replay */
/** @typedef {import("./pen.js").Pen} Pen */
/** @typedef {{ name: string, colormap: string, ticks: [number, string][] }} Scale ticks are at shares of the length */

/** Letters of a name above the bar; of a longer one the caption says what A and B are. */
const LONGEST = 22;

/** What the surface's colours are; null where they say nothing. @param {Replay} replay @returns {Scale | null} */
function scaleOf(replay) {
  const { mesh, difference } = replay.landscape;
  if (difference) {
    const { values, labels } = ticksOf(difference);
    const name = difference.name.length <= LONGEST ? difference.name : difference.short;
    const ticks = values.map((value, k) => /** @type {[number, string]} */ ([(value / difference.limit + 1) / 2, labels[k]]));
    return { name, colormap: replay.payload.diverging, ticks };
  }
  if (replay.look.colormap === "grey") return null;
  const [low, high] = mesh.height.bounds;
  const { values, labels } = replay.stage.ticks(2);
  const all = values.map((value, k) => ({ value, tick: /** @type {[number, string]} */ ([mesh.height.share(value), labels[k]]) }));
  const ticks = all.filter(({ value }) => low <= value && value <= high).map(({ tick }) => tick);
  return { name: mesh.height.labels.name("loss"), colormap: lineColormap(replay.look), ticks };
}

/** What the bar and its labels take: left, top, right, bottom; null where there is none. */
export function barOf(/** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size) {
  const scale = scaleOf(replay);
  if (!scale) return null;
  const { unit } = pen;
  const words = scale.ticks.map(([, label]) => pen.width(label, 12.5) + 34 * unit);
  const wide = Math.max(96 * unit, pen.width(scale.name, 13) + 12 * unit, ...words);
  return [size[0] - wide - 10 * unit, 0, size[0], 58 * unit + Math.min(230 * unit, 0.42 * size[1])];
}

/** The bar, lowest value below, with its name above it. */
export function drawBar(
  /** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {import("./taken.js").Area} */ area,
  /** @type {(name: string) => Uint8Array} */ tables,
) {
  const scale = scaleOf(replay);
  if (!scale) return;
  const { unit } = pen;
  const { ink, faint } = replay.theme;
  const [width, height] = [12 * unit, area[3] - 58 * unit];
  const [x, y] = [area[0] + 10 * unit, 46 * unit];
  pen.gradient([x, y], [x + width, y + height], tables(scale.colormap));
  pen.text(x, y - 24 * unit, scale.name, ink, { size: 13 });
  const free = new Taken([area[2], area[3] + 40 * unit]);
  for (const [share, label] of scale.ticks) {
    const level = y + height * (1 - share);
    const words = [x, level - 7 * unit, x + 1, level + 7 * unit];
    if (!free.isFree(words)) continue;
    free.take(words);
    pen.line([x + width, level], [x + width + 4 * unit, level], faint);
    pen.text(x + width + 8 * unit, level - 7.5 * unit, label, ink, { size: 12.5 });
  }
}
