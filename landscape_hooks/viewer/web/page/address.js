// Address: the view in the part of the address after #, such as #az=-60,el=33&surface=pca&at=0.5, so that a link shows
// what its sender saw.

import { Stage } from "../geometry/stage.js";
import { KINDS } from "../replay/replay.js";

/** @typedef {import("../replay/replay.js").Replay} Replay */

/**
 * Go to what the address names; parts that are not understood are left out.
 * @param {Replay} replay @param {string} hash @param {number} aspect
 */
export function read(replay, hash, aspect) {
  let view = "";
  let moment = NaN;
  for (const part of decoded(hash.replace(/^#/, "")).split("&")) {
    if (part.startsWith("surface=")) {
      const number = replay.payload.surfaces.findIndex((surface) => surface.name === part.slice(8));
      if (number >= 0 && number !== replay.number) replay.choose(number, aspect);
    } else if (part.startsWith("show=")) {
      const [arrangement, name, share] = part.slice(5).split(":");
      const other = replay.payload.surfaces.findIndex((surface) => surface.name === name);
      if (KINDS.includes(arrangement) && other >= 0 && Number(share) >= 0 && Number(share) <= 1) {
        replay.arrange({ arrangement, other, share: Number(share) });
      }
    } else if (part.startsWith("moment=")) moment = Number(part.slice(7) || NaN);
    else view = part;
  }
  if (moment >= 0 && moment <= 1) replay.timeline.scrub(moment);
  if (view) look(replay, view, aspect);
}

/** See the landscape as a view string says; its distance is fitted where the string has none. */
export function look(/** @type {Replay} */ replay, /** @type {string} */ view, /** @type {number} */ aspect) {
  const camera = replay.home.parse(view);
  const fixed = /(^|,)\s*(d|at)=/.test(view);
  replay.camera = fixed ? camera : camera.fitted(new Stage(replay.landscape.mesh, 1, replay.look.aspect), aspect, replay.look.captions);
}

/** Write what is seen into the address. @param {Replay} replay */
export function write(replay) {
  const { timeline, payload, number, arrangement, other, share } = replay;
  const parts = [replay.camera.text];
  if (payload.surfaces.length > 1) parts.push(`surface=${encodeURIComponent(payload.surfaces[number].name)}`);
  if (arrangement !== KINDS[0]) {
    parts.push(`show=${[arrangement, payload.surfaces[other].name, share.toFixed(3)].map(encodeURIComponent).join(":")}`);
  }
  if (timeline.position < timeline.last) parts.push(`moment=${timeline.fraction.toFixed(4)}`);
  const hash = `#${parts.join("&")}`;
  try {
    if (hash !== location.hash) history.replaceState(history.state, "", hash);
  } catch { // a page in a frame of a notebook has no address
  }
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
