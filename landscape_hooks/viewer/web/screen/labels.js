// Labels: where the index contour lines carry their loss, so that each is seen and none lies on another
// (viewer/replay/labels.py).

import { pointOf } from "../geometry/mesh.js";
import { clamp } from "../geometry/numbers.js";

/** @typedef {import("../geometry/landscape.js").Landscape} Landscape */
/** @typedef {import("../geometry/stage.js").Stage} Stage */
/** @typedef {import("../replay/camera.js").Camera} Camera */
/** @typedef {{ x: number, y: number, text: string }} Label */

/** Places that are tried on each line. */
const CANDIDATES = 24;
/** Pixels between two labels, or a label and the path, at a height of 720. */
const APART = 70;

/**
 * Pixels (from the top left) and text of every index line that has a free place in the picture.
 * @param {Landscape} landscape @param {Stage} stage @param {Camera} camera @param {number[]} size
 * @param {import("./taken.js").Taken} free where labels may lie
 * @param {(text: string) => number[]} halfOf half the width and half the height of a label
 * @returns {Label[]}
 */
export function placeLabels(landscape, stage, camera, size, free, halfOf) {
  const words = landscape.mesh.height.labels.texts(landscape.lines.map((line) => (line.index ? line.loss : NaN)));
  const apart = (APART * size[1]) / 720;
  const margin = 0.06 * Math.min(...size);
  /** @type {number[][]} */
  const taken = landscape.drapes.flatMap((drape) => {
    const every = Math.max(4, Math.ceil(drape.position.length / 300));
    const places = drape.position.filter((_, k) => k % every === 0);
    return Array.from(places, (place) => camera.project(stage.place(pointOf(drape, place)), size));
  });
  /** @type {Label[]} */
  const placed = [];
  landscape.lines.forEach((contour, number) => {
    if (!contour.index || !contour.lines.length) return;
    const line = contour.lines.reduce((best, one) => (one.length > best.length ? one : best));
    const count = line.length / 2;
    if (count < 6) return;
    let [best, most] = [/** @type {number[] | null} */ (null), -Infinity];
    const [wide, high] = halfOf(words[number]);
    const tries = Math.min(CANDIDATES, count);
    for (let k = 0; k < tries; k++) {
      const n = Math.floor(count * (0.12 + (0.76 * k) / Math.max(tries - 1, 1)));
      const spot = stage.place([line[2 * n], line[2 * n + 1], contour.height]);
      const pixel = camera.project(spot, size);
      const inside = [0, 1].every((axis) => pixel[axis] > margin && pixel[axis] < size[axis] - margin);
      const [x, y] = pixel;
      if (!inside || !free.isFree([x - wide, y - high, x + wide, y + high]) || !isSeen(landscape, stage, camera, spot)) continue;
      const others = [...taken, ...placed.map(({ x, y }) => [x, y])];
      const away = others.reduce((least, [otherX, otherY]) => {
        const distance = Math.hypot(otherX - x, otherY - y);
        return distance < least ? distance : least;
      }, Infinity);
      if (away <= apart * 0.6) continue;
      const middle = Math.hypot(pixel[0] - size[0] / 2, pixel[1] - size[1] / 2);
      const score = Math.min(away, 3 * apart) - 0.25 * middle;
      if (score > most) [best, most] = [pixel, score];
    }
    if (best) placed.push({ x: best[0], y: best[1], text: words[number] });
  });
  return placed;
}

/** Directions from a point in which its name may lie, the best first. */
const WAYS = [[1, -1], [-1, -1], [1, 1], [-1, 1], [0, -1.6], [0, 1.6]];

/**
 * The middle and the text of every name that has a free place beside its point of the picture; it takes that place.
 * @param {string[]} names @param {number[][]} points @param {number[][]} avoid pixels of the path
 * @param {import("./taken.js").Taken} free @param {(text: string) => number[]} halfOf @param {number} gap
 * @returns {Label[]}
 */
export function placeNames(names, points, avoid, free, halfOf, gap) {
  /** @type {Label[]} */
  const placed = [];
  names.forEach((text, n) => {
    const [wide, high] = halfOf(text);
    let [best, least] = [/** @type {number[] | null} */ (null), Infinity];
    for (const [right, down] of WAYS) {
      const [x, y] = [points[n][0] + right * (gap + wide), points[n][1] + down * (0.5 * gap + high)];
      const [left, top, end, low] = [x - wide, y - high, x + wide, y + high];
      if (!Number.isFinite(x + y) || !free.isFree([left, top, end, low])) continue;
      const crossed = avoid.filter(([a, b]) => a >= left && a <= end && b >= top && b <= low).length;
      if (crossed < least) [best, least] = [[x, y], crossed];
    }
    if (!best) return;
    const [x, y] = best;
    free.take([x - wide, y - high, x + wide, y + high]);
    placed.push({ x, y, text });
  });
  return placed;
}

/** Whether nothing of the surface is between a scene point on it and the eye. */
export function isSeen(
  /** @type {Landscape} */ { mesh }, /** @type {Stage} */ stage, /** @type {Camera} */ camera, /** @type {number[]} */ spot,
) {
  const samples = 48;
  const towards = [0, 1, 2].map((k) => (camera.orthographic ? -4 * camera.forward[k] : camera.eye[k] - spot[k]));
  const high = stage.corners[1][2];
  const rise = Math.abs(towards[2]) > 1e-9 ? (high - spot[2]) / towards[2] : Infinity;
  const reach = clamp(rise > 0 ? rise : 1, 0, 1);
  const [low, top] = mesh.height.bounds;
  for (let k = 0; k < samples; k++) {
    const share = (0.02 + (0.98 * k) / (samples - 1)) * reach;
    const [a, b, height] = stage.data(spot.map((value, axis) => value + share * towards[axis]));
    if (mesh.heightAt(a, b) > height + 0.004 * (top - low)) return false;
  }
  return true;
}
