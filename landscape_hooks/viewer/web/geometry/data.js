// Data: what Python packed for the page, as typed arrays (viewer/web/packing.py). Nothing in it is ever markup.

/** @typedef {{ type: "f4" | "f8" | "u1", data: string }} Packed */
/** @typedef {{ label: string, coordinates: Float64Array, step: Float64Array, epoch: Float64Array,
 *   learningRate: Float64Array, loss: Float64Array, planeLoss: Float64Array, distance: Float64Array }} Path
 *   coordinates are (T, 2), the others (T,) */
/** @typedef {{ name: string, path: number, atEnd: boolean, coordinates: Float64Array, said: string[] }} Mark
 *   a point for marks: path is the number of a path that has a snapshot; atEnd says that its end is this point */
/** @typedef {{ share: Float64Array, value: Float64Array, limit: Float64Array, top: number, said: string }} Strip
 *   the sharpness along the first path and the threshold of the step, at shares of the snapshots; top ends the axis */
/** @typedef {{ kind: "minimum" | "saddle", coordinates: Float64Array, said: string }} Critical
 *   a minimum or a saddle of the grid */
/** @typedef {{ name: string, title: string, alpha: Float64Array, beta: Float64Array, loss: Float64Array,
 *   state: Uint8Array, stderr: Float64Array, error: Float64Array, said: string[], doubts: string[], labels: string[],
 *   names: string[], directions: string, digest: string, paths: Path[], marks: Mark[], critical: Critical[],
 *   strip: Strip | null }} Surface
 *   state is 0 for a grid point that is not computed, 1 for an evaluated and 2 for an interpolated one; error is empty
 *   or the estimated relative error of interpolated points */
/** @typedef {{ key: string, shift: boolean, shown: string, says: string }} KeyRow */
/** @typedef {{ surfaces: any[], undrawn: { name: string, why: string }[], tables: Record<string, Packed>,
 *   colormaps: string[], paths: string[], themes: Record<string, import("../replay/look.js").Theme>, keys: KeyRow[],
 *   others: string[][], mouse: string[][], look: import("../replay/look.js").Look & { theme: string }, view: string,
 *   diverging: string, shaders: Record<string, string>, follow: number, small: boolean }} Payload */

const ARRAYS = { f4: Float32Array, f8: Float64Array, u1: Uint8Array };

/** @param {Packed} packed */
export function unpack(packed) {
  const text = atob(packed.data);
  const bytes = Uint8Array.from({ length: text.length }, (_, k) => text.charCodeAt(k));
  return new ARRAYS[packed.type](bytes.buffer);
}

/** @param {Packed} packed */
const floats = (packed) => Float64Array.from(unpack(packed));

/** @param {any} raw @returns {Surface} */
export function surfaceOf(raw) {
  return {
    ...raw,
    alpha: floats(raw.alpha),
    beta: floats(raw.beta),
    loss: floats(raw.loss),
    state: Uint8Array.from(unpack(raw.state)),
    stderr: floats(raw.stderr),
    error: floats(raw.error),
    paths: raw.paths.map(pathOf),
    marks: raw.marks.map(markOf),
    critical: raw.critical.map((/** @type {any} */ one) => ({ ...one, coordinates: floats(one.coordinates) })),
    strip: raw.strip && {
      ...raw.strip,
      share: floats(raw.strip.share),
      value: floats(raw.strip.value),
      limit: floats(raw.strip.limit),
    },
  };
}

/** @param {any} raw @returns {Mark} */
export function markOf(raw) {
  return { ...raw, coordinates: floats(raw.coordinates) };
}

/** @param {any} raw @returns {Path} */
export function pathOf(raw) {
  const names = ["coordinates", "step", "epoch", "learningRate", "loss", "planeLoss", "distance"];
  return /** @type {Path} */ (
    Object.fromEntries([["label", String(raw.label)], ...names.map((name) => [name, floats(raw[name])])])
  );
}
