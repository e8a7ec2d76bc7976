// HUD: axes, contour labels, colour bar and the plot of the losses, drawn over the scene (viewer/gl/hud.py).

import { clamp } from "../geometry/numbers.js";
import { pointOf } from "../geometry/mesh.js";
import { barOf, drawBar } from "./bar.js";
import { isSeen, placeLabels, placeNames } from "./labels.js";
import { Pen } from "./pen.js";
import { drawPlot, panelOf, STRIP } from "./plot.js";
import { Taken } from "./taken.js";

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
    this.taken = new Taken([0, 0]);
    /** @type {import("./taken.js").Area[]} */
    this.covered = [];
  }

  /**
   * Everything, into a canvas whose context is scaled to pixels of the page.
   * @param {CanvasRenderingContext2D} context @param {Replay} replay @param {number[]} size
   * @param {(name: string) => Uint8Array} tables colours of a colour map
   * @param {number} version number of the landscape shown
   * @param {import("./taken.js").Area[]} words areas of the title and the read-out
   * @param {import("./taken.js").Area[]} covered areas under panels: no label lies there
   * @param {boolean} hasBar whether the colour bar is drawn here, and not in another pane
   */
  draw(context, replay, size, tables, version, words = [], covered = [], hasBar = true) {
    const pen = new Pen(context, unitOf(size));
    const { unit } = pen;
    this.theme = replay.theme;
    this.plot = null;
    this.taken = new Taken(size, words);
    const bar = hasBar ? barOf(pen, replay, size) : null;
    if (bar) this.taken.take(bar);
    if (replay.landscape.paths.length) {
      const [width, height] = [240 * unit, 104 * unit];
      this.plot = { x: 22 * unit, y: size[1] - height - 40 * unit, width, height };
      const moment = words[1]; // above a read-out that is too wide to be beside it
      const { strip } = replay.landscape.surface;
      const right = panelOf(this.plot, unit, strip)[2];
      if (moment && moment[0] - 12 * unit < right) {
        if (replay.arrangement === "side by side") this.plot = null; // a narrow pane is for the surface
        else this.plot.y = moment[1] - height - 40 * unit;
      }
      if (this.plot) this.taken.take(panelOf(this.plot, unit, strip));
    }
    this.covered = covered;
    this._names(pen, replay, size);
    const free = new Taken(size, this.taken.areas);
    for (const area of covered) this.taken.take(area);
    if (replay.look.floor) this._axes(pen, replay, size);
    if (replay.look.contours !== "off") this._labels(pen, replay, size, version, free);
    if (bar) drawBar(pen, replay, bar, tables);
    if (this.plot) drawPlot(pen, replay, this.plot);
  }

  /** Where the cursor of the plot stands: x, upper end, lower end; null without a plot. @param {Replay} replay */
  cursor(replay) {
    if (!this.plot) return null;
    const { x, y, width, height } = this.plot;
    const above = replay.landscape.surface.strip ? ((STRIP + 36) * height) / 104 : 4;
    return [x + width * replay.timeline.fraction, y - above, y + height + 4];
  }

  // -- axes ------------------------------------------------------------------------------------------
  /** Ticks along the floor's two near edges and up its outermost corner, labelled in data units. */
  _axes(/** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size) {
    const { stage, camera } = replay;
    const [low, high] = stage.corners;
    /** @type {(() => void)[]} */
    const names = [];
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
      const name = stage.labels(axis).name(replay.landscape.surface.labels[axis]);
      const places = [0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.4, -0.4].map((share) => {
        const spot = spotAt(share * (high[axis] - low[axis]));
        return [0, 0.1].map((t) => camera.project(spot.map((v, n) => v + t * outwards[n]), size));
      });
      names.push(() => this._axisName(pen, places, name, size));
    }
    if (camera.elevation <= 75) this._heightAxis(pen, replay, size);
    for (const draw of names) draw();
  }

  /** A tick's label, unless something else lies there. */
  _tick(
    /** @type {Pen} */ pen, /** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ label,
    /** @type {number} */ align,
  ) {
    const width = pen.width(label, 12.5);
    const left = x - align * width;
    const area = [left - 2, y, left + width + 2, y + 15 * pen.unit];
    if (!this.taken.isFree(area)) return;
    this.taken.take(area);
    pen.text(x, y, label, this.theme?.faint ?? [0.5, 0.5, 0.5], { size: 12.5, align });
  }

  /** The name of an axis beside the middle of its edge, or beside the nearest place where it lies on nothing. */
  _axisName(
    /** @type {Pen} */ pen, /** @type {number[][][]} */ places, /** @type {string} */ whole, /** @type {number[]} */ size,
  ) {
    const name = shortened(pen, whole, 0.45 * size[0]);
    const [width, tall] = [pen.width(name, 13.5), 17 * pen.unit];
    /** @type {number[][]} */
    const tried = [];
    for (const distance of [46, 34, 60, 24, 80]) {
      for (const [a, b] of places) {
        if (![...a, ...b].every(Number.isFinite)) continue;
        const { x, y, align } = beside(pen, a, b, distance);
        tried.push([x - align * width, y]);
      }
    }
    if (!tried.length) return;
    const widest = Math.max(size[0] - width - 8, 8);
    const first = [clamp(tried[0][0], 8, widest), tried[0][1]];
    const inside = [];
    for (let y = size[1] - 2 * tall; y > tall; y -= tall) {
      for (let k = 0; k < 12; k++) inside.push([8 + (k / 11) * (widest - 8), y]);
    }
    const away = (/** @type {number[]} */ [x, y]) => Math.hypot(x - first[0], y - first[1]);
    inside.sort((one, other) => away(one) - away(other));
    const around = (/** @type {number[]} */ [x, y]) => [x - 6, y, x + width + 6, y + tall];
    // under a panel no name stands far from its axis
    const hidden = !new Taken(size, this.covered).isFree(around(first));
    const place = (hidden ? tried : [...tried, ...inside]).find((spot) => this.taken.isFree(around(spot)));
    if (!place) return;
    this.taken.take(around(place));
    pen.text(place[0], place[1], name, this.theme?.ink ?? [0.5, 0.5, 0.5], { size: 13.5 });
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

  /** The names of the marks, beside their points. */
  _names(/** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size) {
    const { landscape, stage, camera, look } = replay;
    if (!landscape.spots.length) return;
    const halfOf = (/** @type {string} */ text) => [pen.width(text, 12.5) / 2 + 5 * pen.unit, 9 * pen.unit];
    const places = landscape.spots.map((spot) => stage.place(spot));
    const points = places.map((place) => camera.project(place, size));
    const shown = [...places.keys()].filter((n) => (look.xray || isSeen(landscape, stage, camera, places[n]))
      && [0, 1].every((axis) => Number.isFinite(points[n][axis])));
    const path = landscape.drapes.flatMap((drape) => Array.from(drape.position,
      (place) => camera.project(stage.place(pointOf(drape, place)), size)));
    const free = new Taken(size, [...this.taken.areas, ...this.covered]);
    const names = shown.map((n) => landscape.surface.marks[n].name);
    const gap = 9 * pen.unit;
    for (const { x, y, text } of placeNames(names, shown.map((n) => points[n]), [...path, ...points], free, halfOf, gap)) {
      const [wide, high] = halfOf(text);
      const area = [x - wide, y - high, x + wide, y + high];
      this.taken.take(area);
      pen.box(area.slice(0, 2), area.slice(2), replay.theme.panel, { alpha: 0.8, rounding: 4 });
      pen.text(x, y - 7.5 * pen.unit, text, replay.theme.ink, { size: 12.5, align: 0.5 });
    }
  }

  /** The loss of the heavier contour lines, where they are seen. */
  _labels(
    /** @type {Pen} */ pen, /** @type {Replay} */ replay, /** @type {number[]} */ size, /** @type {number} */ version,
    /** @type {Taken} */ free,
  ) {
    const { landscape, look, camera } = replay;
    const key = [camera.text, ...size, look.exaggeration, look.aspect, version, free.areas.join(" ")].join(" ");
    if (this._labelled.key !== key) {
      const halfOf = (/** @type {string} */ text) => [pen.width(text, 11.5) / 2 + 4 * pen.unit, 8 * pen.unit];
      this._labelled = { key, labels: placeLabels(landscape, replay.stage, camera, size, free, halfOf) };
    }
    const dark = look.colormap === "wireframe" && look.theme === "dark";
    const back = dark ? replay.theme.panel : [0.05, 0.06, 0.09];
    for (const { x, y, text } of this._labelled.labels) {
      const [half, high] = [pen.width(text, 11.5) / 2 + 4 * pen.unit, 8 * pen.unit];
      if (!this.taken.isFree([x - half, y - high, x + half, y + high])) continue;
      pen.box([x - half, y - high], [x + half, y + high], back, { alpha: 0.62, rounding: 4 });
      pen.text(x, y - 7 * pen.unit, text, [1, 1, 1], { size: 11.5, align: 0.5 });
    }
  }
}

/** A text that is no wider, with an ellipsis where it was longer. */
function shortened(/** @type {Pen} */ pen, /** @type {string} */ text, /** @type {number} */ width) {
  if (pen.width(text, 13.5) <= width) return text;
  let count = text.length;
  while (count > 1 && pen.width(`${text.slice(0, count)}…`, 13.5) > width) count -= 1;
  return `${text.slice(0, count)}…`;
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
