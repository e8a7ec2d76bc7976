// Look: the options of the picture apart from the data, the camera and the moment (viewer/replay/look.py).

import { clamp } from "../geometry/numbers.js";

/** @typedef {{ colormap: string, contours: string, theme: string, height: string, exaggeration: number,
 *   shading: number, floor: boolean, true_loss: boolean, xray: boolean, captions: boolean,
 *   critical: boolean, aspect: string }} Look */
/** @typedef {{ top: number[], bottom: number[], ink: number[], faint: number[], casing: number[],
 *   panel: number[] }} Theme */

export const CONTOURS = ["shader", "marching squares", "off"];
export const ASPECTS = ["auto", "equal"];
export const HEIGHTS = ["auto", "log10", "linear", "clipped"];
export const THEMES = ["dark", "light"];
export const EXAGGERATION = [0.2, 5];
export const SWITCHES = /** @type {const} */ (["floor", "true_loss", "xray", "captions", "critical"]);

/** The colour map of lines and of the colour bar. @param {Look} look */
export function lineColormap(look) {
  return look.colormap === "grey" || look.colormap === "wireframe" ? "viridis" : look.colormap;
}

/**
 * The same with the next of a list; after one that is not listed comes the first.
 * @param {Look} look
 * @param {"colormap" | "contours" | "theme" | "height"} name
 * @param {string[]} known
 * @param {number} by
 */
export function next(look, name, known, by = 1) {
  const place = known.includes(look[name]) ? known.indexOf(look[name]) : Math.min(-by, 0);
  return { ...look, [name]: known[(place + by + known.length) % known.length] };
}

/** The same with a height `factor` times as large. @param {Look} look @param {number} factor */
export function exaggerated(look, factor) {
  return { ...look, exaggeration: clamp(look.exaggeration * factor, EXAGGERATION[0], EXAGGERATION[1]) };
}

/** (r, g, b) in 0 … 1 of "#rrggbb". @param {string} text */
export function rgb(text) {
  return [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16) / 255);
}

/** A colour as CSS writes it. @param {number[]} color @param {number} alpha */
export function css(color, alpha = 1) {
  return `rgba(${color.map((value) => Math.round(value * 255)).join(",")},${alpha})`;
}
