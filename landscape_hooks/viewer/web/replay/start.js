// Start: the side from which a landscape is first seen (viewer/replay/start.py).

import { closest } from "../geometry/landscape.js";
import { Stage } from "../geometry/stage.js";
import { Camera } from "./camera.js";

/** @typedef {import("../geometry/landscape.js").Landscape} Landscape */

/**
 * The side from which most of the path and of the surface's upper side is seen, and the box fills the picture.
 * @param {Landscape} landscape @param {number} aspect @param {import("./look.js").Look} look
 */
export function startCamera(landscape, aspect, look) {
  const stage = new Stage(landscape.mesh, 1, look.aspect);
  const scenery = sceneryOf(landscape, stage);
  const turns = [-180, -90, 0, 90].flatMap((quarter) => [22, 30, 38, 45, 52, 60, 68].map((turn) => quarter + turn));
  let best = new Camera({});
  let most = -Infinity;
  for (const azimuth of turns) {
    const camera = new Camera({ azimuth, elevation: 33 }).fitted(stage, aspect, look.captions);
    const score = areaShown(scenery, camera, aspect) + 0.35 * pathShown(scenery, camera);
    if (score > most) [best, most] = [camera, score];
  }
  return best;
}

/** @typedef {{ corners: Float64Array, share: number, spots: Float64Array[], normals: Float64Array[] }} Scenery
 *   corners (3 F, 3) of some triangles, and how many each stands for; places of each path with the normals below them */

/** Some triangles and path points in the scene, which are the same for every camera. @returns {Scenery} */
function sceneryOf(/** @type {Landscape} */ { mesh, drapes }, /** @type {Stage} */ stage) {
  const { faces, vertices } = mesh;
  const count = faces.length / 3;
  const every = Math.max(1, Math.floor(count / 1000));
  const chosen = [];
  for (let f = 0; f < count; f += every) chosen.push(faces[3 * f], faces[3 * f + 1], faces[3 * f + 2]);
  const corners = Float64Array.from(chosen.flatMap((n) => [vertices[3 * n], vertices[3 * n + 1], vertices[3 * n + 2]]));
  const all = drapes.length ? mesh.normals(stage.scale) : new Float64Array(0);
  /** @type {Float64Array[]} */
  const spots = [];
  /** @type {Float64Array[]} */
  const normals = [];
  for (const { points } of drapes) {
    const step = 3 * Math.max(1, Math.floor(points.length / 3 / 200));
    const some = points.filter((_, k) => Math.floor(k / 3) % (step / 3) === 0);
    spots.push(stage.placeAll(some));
    normals.push(Float64Array.from({ length: some.length }, (_, k) => {
      const n = k - (k % 3);
      const at = closest(mesh.alpha, some[n]) * mesh.columns + closest(mesh.beta, some[n + 1]);
      return all[3 * at + (k % 3)];
    }));
  }
  return { corners: stage.placeAll(corners), share: every, spots, normals };
}

/** Where points (N, 3) are seen, in a picture of height 1: (N, 2). */
function seenAt(/** @type {Float64Array} */ points, /** @type {Camera} */ { eye, right, up, forward, slope }) {
  const out = new Float64Array((points.length / 3) * 2);
  for (let n = 0; n < points.length / 3; n++) {
    const x = points[3 * n] - eye[0];
    const y = points[3 * n + 1] - eye[1];
    const z = points[3 * n + 2] - eye[2];
    const half = 2 * slope * (x * forward[0] + y * forward[1] + z * forward[2]);
    out[2 * n] = half > 1e-9 ? (x * right[0] + y * right[1] + z * right[2]) / half : NaN;
    out[2 * n + 1] = -(x * up[0] + y * up[1] + z * up[2]) / half;
  }
  return out;
}

/** Area of the surface that faces a camera, less half of what turns away. */
function areaShown(/** @type {Scenery} */ { corners, share }, /** @type {Camera} */ camera, /** @type {number} */ aspect) {
  const seen = seenAt(corners, camera);
  let total = 0;
  for (let k = 0; k < seen.length; k += 6) {
    const [ax, ay] = [seen[k + 2] - seen[k], seen[k + 3] - seen[k + 1]];
    const [bx, by] = [seen[k + 4] - seen[k], seen[k + 5] - seen[k + 1]];
    const area = (ay * bx - ax * by) / 2;
    if (Number.isFinite(area)) total += area > 0 ? area : 0.5 * area;
  }
  return (total * share) / aspect;
}

/** Length of the paths in the picture, where the surface under them faces the camera. */
function pathShown(/** @type {Scenery} */ { spots, normals }, /** @type {Camera} */ camera) {
  let length = 0;
  spots.forEach((points, number) => {
    const seen = seenAt(points, camera);
    const normal = normals[number];
    for (let n = 0; n + 1 < points.length / 3; n++) {
      const jump = Math.hypot(seen[2 * n + 2] - seen[2 * n], seen[2 * n + 3] - seen[2 * n + 1]);
      const [a, b, c] = camera.forward;
      const facing = -(normal[3 * n] * a + normal[3 * n + 1] * b + normal[3 * n + 2] * c);
      if (Number.isFinite(jump)) length += jump * Math.min(Math.max(facing, 0) * 2, 1);
    }
  });
  return spots.length ? length / spots.length : 0;
}
