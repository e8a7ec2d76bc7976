// HUD: axes, contour labels, colour bar and the plot of the losses, drawn over the scene (viewer/gl/hud.py).

import { lineColormap } from "../replay/look.js";
import { clamp, textsOf } from "../geometry/numbers.js";
import { placeLabels } from "./labels.js";
import { Pen } from "./pen.js";

/** @typedef {import("../replay/replay.js").Replay} Replay */
/** @typedef {import("../geometry/data.js").Path} Path */
/** @typedef {{ x: number, y: number, width: number, height: number }} Box */

/** How much larger than one pixel everything is in a picture of this size. @param {number[]} size */
export function unitOf(size) {
  return clamp(Math.min(size[1] / 720, size[0] / 1000), 0.72, 4);
}

export class Hud {
  constructor() {
    /** @type {Box | null} where the plot of the losses lies, for scrubbing in it */
    this.plot = null;
    this._labelled = { key: "", labels: /** @type {import("./labels.js").Label[]} */ ([]) };
    this.corner = [0, 0];
  }

  /**
   * Everything, into a canvas whose context is scaled to pixels of the page.
   * @param {CanvasRenderingContext2D} context @param {Replay} replay @param {number[]} size
   * @param {(name: string) => Uint8Array} tables colours of a colour map
   * @param {number} version number of the landscape shown
   */
  draw(context, replay, size, tables, version) {
    const pen = new Pen(context, unitOf(size));
    const { unit } = pen;
    this.theme = replay.theme;
    this.plot = null;
    if (replay.landscape.paths.length) {
      const [width, height] = [240 * unit, 104 * unit];
      this.plot = { x: 22 * unit, y: size[1] - height - 40 * unit, width, height };
      const rows = replay.landscape.describeMoment(replay.timeline.position).length;
      this.corner = [size[0] - 196 * unit, size[1] - (20 + 19 * rows) * unit];
    }
    if (replay.look.floor) this._axes(pen, replay, size);
    if (replay.look.contours !== "off") this._labels(pen, replay, size, version);
    this._colorBar(pen, replay, size, tables);
    if (this.plot) this._inset(pen, replay, this.plot);
  }

  /** Where the cursor of the plot stands: x, upper end, lower end; null without a plot. @param {Replay} replay */
  cursor(replay) {
    if (!this.plot) return null;
    const { x, y, width, height } = this.plot;
    return [x + width * replay.timeline.fraction, y - 4, y + height + 4];
  }

  // -- colour bar ------------------------------------------------------------------------------------
  _colorBar(
    /** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size,
    /** @type {(name: string) => Uint8Array} */ tables,
  ) {
    if (replay.look.colormap === "grey") return;
    const { unit } = pen;
    const { ink, faint } = replay.theme;
    const { mesh } = replay.landscape;
    const [width, height] = [12 * unit, Math.min(230 * unit, 0.42 * size[1])];
    const [x, y] = [size[0] - 96 * unit, 46 * unit];
    pen.gradient([x, y], [x + width, y + height], tables(lineColormap(replay.look)));
    pen.text(x, y - 24 * unit, "loss", ink, { size: 13 });
    const [low, high] = mesh.height.bounds;
    const { values, labels } = replay.stage.ticks(2);
    values.forEach((value, k) => {
      if (!(low <= value && value <= high)) return;
      const level = y + height * (1 - mesh.height.share(value));
      pen.line([x + width, level], [x + width + 4 * unit, level], faint);
      pen.text(x + width + 8 * unit, level - 7.5 * unit, labels[k], ink, { size: 12.5 });
    });
  }

  // -- axes ------------------------------------------------------------------------------------------
  /** Ticks along the floor's two near edges and up its outermost corner, labelled in data units. */
  _axes(/** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size) {
    const { stage, camera } = replay;
    const [low, high] = stage.corners;
    for (const [axis, other] of [[0, 1], [1, 0]]) {
      const edge = -camera.forward[other] > 0 ? high[other] : low[other];
      const outwards = [0, 0, 0];
      outwards[other] = Math.sign(edge) || 1;
      const spotAt = (/** @type {number} */ place) => {
        const spot = [0, 0, stage.floor];
        spot[axis] = place;
        spot[other] = edge;
        return spot;
      };
      const { values, labels } = stage.ticks(axis);
      values.forEach((value, k) => {
        const spot = spotAt((value - stage.middle[axis]) * stage.scale[axis]);
        const [a, b] = [0, 0.035].map((t) => camera.project(spot.map((v, n) => v + t * outwards[n]), size));
        if (![...a, ...b].every(Number.isFinite)) return;
        pen.line(a, b, replay.theme.faint, { alpha: 0.8 });
        const { x, y, align } = beside(pen, a, b, 9);
        this._tick(pen, x, y, labels[k], align);
      });
      const name = replay.landscape.surface.labels[axis];
      const [a, b] = [0, 0.1].map((t) => camera.project(spotAt(0).map((v, n) => v + t * outwards[n]), size));
      if ([...a, ...b].every(Number.isFinite)) this._axisName(pen, a, b, name, size);
    }
    if (camera.elevation <= 75) this._heightAxis(pen, replay, size);
  }

  /** A tick's label, unless the plot of the losses lies there. */
  _tick(
    /** @type {Pen} */ pen, /** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ label,
    /** @type {number} */ align,
  ) {
    const width = pen.width(label, 12.5);
    const left = x - align * width;
    if (this.plot) {
      const [[a, b], [c, d]] = panelOf(this.plot, pen.unit);
      if (left < c && left + width > a && y < d && y + 15 * pen.unit > b) return;
    }
    pen.text(x, y, label, this.theme?.faint ?? [0.5, 0.5, 0.5], { size: 12.5, align });
  }

  /** Whether a point lies on what is behind the plot of the losses. */
  _isInPlot(/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ unit) {
    if (!this.plot) return false;
    const [[left, top], [right, bottom]] = panelOf(this.plot, unit);
    return x > left && x < right && y > top && y < bottom;
  }

  _axisName(
    /** @type {Pen} */ pen, /** @type {number[]} */ a, /** @type {number[]} */ b, /** @type {string} */ name,
    /** @type {number[]} */ size,
  ) {
    const { unit } = pen;
    let { x, y, align } = beside(pen, a, b, 46);
    const width = pen.width(name, 13.5);
    x = clamp(x - align * width, 8, Math.max(size[0] - width - 8, 8));
    if (this.plot) { // above or beside the plot of the losses, and above the read-out
      if (y > this.plot.y + 24 * unit) x = Math.max(x, this.plot.x + this.plot.width + 72 * unit);
      else if (x < this.plot.x + this.plot.width + 64 * unit) y = Math.min(y, this.plot.y - 52 * unit);
      if (x + width > this.corner[0] - 10 * unit && y > this.corner[1] - 24 * unit) y = this.corner[1] - 28 * unit;
    }
    pen.text(x, Math.min(y, size[1] - 22 * unit), name, this.theme?.ink ?? [0.5, 0.5, 0.5], { size: 13.5 });
  }

  _heightAxis(/** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size) {
    const { stage, camera } = replay;
    const [low, high] = stage.corners;
    const corners = [low[0], high[0]].flatMap((x) => [low[1], high[1]].map((y) => [x, y, low[2]]));
    const seen = corners.map((corner) => camera.project(corner, size)[0]);
    if (!seen.every(Number.isFinite)) return;
    const [cornerX, cornerY] = corners[seen.indexOf(Math.min(...seen))];
    const a = camera.project([cornerX, cornerY, stage.floor], size);
    const b = camera.project([cornerX, cornerY, high[2]], size);
    const { faint } = replay.theme;
    pen.line(a, b, faint, { alpha: 0.55 });
    const { values, labels } = stage.ticks(2);
    values.forEach((value, k) => {
      const height = (value - stage.middle[2]) * stage.scale[2];
      const [x, y] = camera.project([cornerX, cornerY, height], size);
      if (!(Math.min(a[1], b[1]) - 1 <= y && y <= Math.max(a[1], b[1]) + 1)) return;
      pen.line([x - 5 * pen.unit, y], [x, y], faint, { alpha: 0.8 });
      this._tick(pen, x - 9 * pen.unit, y - 7.5 * pen.unit, labels[k], 1);
    });
  }

  /** The loss of the heavier contour lines, where they are seen. */
  _labels(
    /** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size, /** @type {number} */ version,
  ) {
    const { landscape, look, camera } = replay;
    const key = [camera.text, ...size, look.exaggeration, version].join(" ");
    if (this._labelled.key !== key) {
      this._labelled = { key, labels: placeLabels(landscape, replay.stage, camera, size) };
    }
    const dark = look.colormap === "wireframe" && look.theme === "dark";
    const back = dark ? replay.theme.panel : [0.05, 0.06, 0.09];
    for (const { x, y, text } of this._labelled.labels) {
      const [half, high] = [pen.width(text, 11.5) / 2 + 4 * pen.unit, 8 * pen.unit];
      if (this._isInPlot(x - half, y + high, pen.unit)) continue;
      pen.box([x - half, y - high], [x + half, y + high], back, { alpha: 0.62, rounding: 4 });
      pen.text(x, y - 7 * pen.unit, text, [1, 1, 1], { size: 11.5, align: 0.5 });
    }
  }

  // -- the plot of the losses ------------------------------------------------------------------------
  _inset(/** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {Box} */ box) {
    const { unit } = pen;
    const { x, y, width, height } = box;
    const { ink, faint, panel } = replay.theme;
    const { paths } = replay.landscape;
    const [corner, opposite] = panelOf(box, unit);
    pen.box(corner, opposite, panel, { alpha: 0.55, rounding: 6 });
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
      pen.polyline(place(path, path.loss), number ? color : ink, { width: 1.2, alpha: 0.9 });
    });
    pen.line([x, y + height + 4 * unit], [x + width, y + height + 4 * unit], faint, { alpha: 0.5 });
    this._legend(pen, replay, box, logarithmic ? "log" : "linear");
    textsOf([most, least]).forEach((text, k) => {
      pen.text(x + width + 6 * unit, y + k * height - 7 * unit, text, faint, { size: 11.5 });
    });
  }

  /** What the curves are, and the first and last step. */
  _legend(
    /** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {Box} */ { x, y, width, height },
    /** @type {string} */ scale,
  ) {
    const { unit } = pen;
    const { ink, faint } = replay.theme;
    const top = y - 26 * unit;
    pen.text(x, top, "loss", faint, { size: 12.5 });
    const middle = y - 17 * unit;
    pen.line([x + 44 * unit, middle], [x + 62 * unit, middle], ink, { width: 1.4 });
    pen.text(x + 68 * unit, top, "true", ink, { size: 12.5 });
    const second = x + 68 * unit + pen.width("true", 12.5) + 16 * unit;
    pen.line([second, middle], [second + 18 * unit, middle], replay.pathColor(0), { width: 2 });
    pen.text(second + 24 * unit, top, "on the surface", ink, { size: 12.5 });
    pen.text(x + width + 54 * unit, top, scale, faint, { size: 11.5, align: 1 });
    const { step } = replay.landscape.paths[0];
    const below = y + height + 7 * unit;
    const clock = replay.timeline.clock === "step" ? "step" : `step, spaced by ${replay.timeline.clock}`;
    pen.text(x, below, String(step[0]), faint, { size: 11.5 });
    pen.text(x + width, below, String(step[step.length - 1]), faint, { size: 11.5, align: 1 });
    pen.text(x + width / 2, below, clock, faint, { size: 11.5, align: 0.5 });
  }
}

/** The corners of what lies behind the plot of the losses and its words. @param {Box} plot @param {number} unit */
function panelOf({ x, y, width, height }, unit) {
  return [[x - 10 * unit, y - 30 * unit], [x + width + 62 * unit, y + height + 26 * unit]];
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

/** Place and alignment of a text beyond `b` as seen from `a`, so that it does not lie on the line between them. */
function beside(
  /** @type {Pen} */ pen, /** @type {number[]} */ a, /** @type {number[]} */ b, /** @type {number} */ distance,
) {
  const way = [b[0] - a[0], b[1] - a[1]];
  const length = Math.max(Math.hypot(...way), 1e-9);
  const [dx, dy] = way.map((value) => value / length);
  return {
    x: b[0] + distance * pen.unit * dx,
    y: b[1] + distance * pen.unit * dy - 8 * pen.unit,
    align: 0.5 - 0.5 * clamp(1.6 * dx, -1, 1),
  };
}
