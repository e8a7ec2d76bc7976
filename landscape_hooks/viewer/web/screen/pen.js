// Pen: draws shapes and text into a picture that is 720 high, whatever its real size (viewer/gl/hud.py).

import { css } from "../replay/look.js";

export const FONT = 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif';

/** @typedef {{ size?: number, align?: number, alpha?: number }} TextStyle align 0 starts, 0.5 is centred, 1 ends at x */

export class Pen {
  /** @param {CanvasRenderingContext2D} context @param {number} unit */
  constructor(context, unit) {
    this.context = context;
    this.unit = unit;
  }

  _font(/** @type {number} */ size) {
    const pixels = Math.max(Math.round(size * this.unit), 10);
    this.context.font = `${pixels}px ${FONT}`;
    return pixels;
  }

  /** Width of a text in pixels of the picture. @param {string} text @param {number} size */
  width(text, size) {
    this._font(size);
    return this.context.measureText(text).width;
  }

  /** Text whose top is at `y`. @param {number} x @param {number} y @param {string} text @param {number[]} color */
  text(x, y, text, color, { size = 14, align = 0, alpha = 1 } = /** @type {TextStyle} */ ({})) {
    const pixels = this._font(size);
    this.context.fillStyle = css(color, alpha);
    this.context.textAlign = "left";
    const left = x - align * this.context.measureText(text).width;
    this.context.fillText(text, Math.round(left), Math.round(y + 0.98 * pixels));
  }

  /** A straight line. @param {number[]} a @param {number[]} b @param {number[]} color */
  line(a, b, color, { width = 1, alpha = 1 } = {}) {
    this.polyline([a, b], color, { width, alpha });
  }

  /** A line through points; one that is not finite breaks it. @param {number[][]} points @param {number[]} color */
  polyline(points, color, { width = 1, alpha = 1 } = {}) {
    const { context } = this;
    context.strokeStyle = css(color, alpha);
    context.lineWidth = width * Math.max(this.unit, 0.75);
    context.lineJoin = "round";
    context.beginPath();
    let broken = true;
    for (const [x, y] of points) {
      if (!Number.isFinite(x + y)) broken = true;
      else if (broken) {
        context.moveTo(x, y);
        broken = false;
      } else context.lineTo(x, y);
    }
    context.stroke();
  }

  /** A dashed line through points. @param {number[][]} points @param {number[]} color */
  dashes(points, color, style = {}) {
    this.context.setLineDash([3.5 * this.unit, 3.5 * this.unit]);
    this.polyline(points, color, style);
    this.context.setLineDash([]);
  }

  /** A filled rectangle. @param {number[]} a @param {number[]} b @param {number[]} color */
  box(a, b, color, { alpha = 1, rounding = 0 } = {}) {
    this.context.fillStyle = css(color, alpha);
    this.context.beginPath();
    this.context.roundRect(a[0], a[1], b[0] - a[0], b[1] - a[1], rounding * this.unit);
    this.context.fill();
  }

  /** A colour map from the top down. @param {number[]} a @param {number[]} b @param {Uint8Array} table lowest first */
  gradient(a, b, table) {
    const gradient = this.context.createLinearGradient(0, a[1], 0, b[1]);
    const rows = table.length / 3;
    for (let k = 0; k <= 32; k++) {
      const n = 3 * Math.round(((32 - k) / 32) * (rows - 1));
      gradient.addColorStop(k / 32, `rgb(${table[n]},${table[n + 1]},${table[n + 2]})`);
    }
    this.context.fillStyle = gradient;
    this.context.fillRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
  }
}
