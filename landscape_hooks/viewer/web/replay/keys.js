// Keys: what every key does (viewer/replay/controls.py has the table with the words; here are the actions).

import { exaggerated, next, CONTOURS, HEIGHTS, THEMES } from "./look.js";

/** @typedef {import("./replay.js").Replay} Replay */
/** @typedef {(replay: Replay, aspect: number) => void} Action */

const time = (/** @type {(timeline: import("./timeline.js").Timeline) => void} */ change) =>
  /** @type {Action} */ ((replay) => change(replay.timeline));
const camera = (/** @type {(camera: import("./camera.js").Camera) => import("./camera.js").Camera} */ change) =>
  /** @type {Action} */ ((replay) => (replay.camera = change(replay.camera)));
const toggle = (/** @type {"floor" | "true_loss" | "xray" | "captions" | "critical"} */ name) =>
  /** @type {Action} */ ((replay) => replay.setLook({ ...replay.look, [name]: !replay.look[name] }));
const relief = (/** @type {number} */ factor) =>
  /** @type {Action} */ ((replay) => replay.setLook(exaggerated(replay.look, factor)));
const following = (/** @type {"colormap" | "contours" | "theme" | "height"} */ name, by = 1) =>
  /** @type {Action} */ ((replay) => {
    const known = { colormap: replay.payload.colormaps, contours: CONTOURS, theme: THEMES, height: HEIGHTS }[name];
    replay.setLook(next(replay.look, name, known, by));
  });

/** Actions by the names of the keys in the window's table; with Shift where that is a row of its own. */
export const ACTIONS = /** @type {Record<string, Action>} */ ({
  SPACE: time((t) => t.toggle()),
  LEFT: time((t) => t.step(-1)),
  RIGHT: time((t) => t.step(1)),
  "Shift LEFT": time((t) => t.step(-10)),
  "Shift RIGHT": time((t) => t.step(10)),
  HOME: time((t) => t.scrub(0)),
  END: time((t) => t.scrub(1)),
  COMMA: time((t) => t.faster(-1)),
  PERIOD: time((t) => t.faster(1)),
  L: time((t) => (t.loop = !t.loop)),
  K: time((t) => t.nextClock()),
  UP: camera((c) => c.orbit(0, 5)),
  DOWN: camera((c) => c.orbit(0, -5)),
  A: camera((c) => c.orbit(-5, 0)),
  D: camera((c) => c.orbit(5, 0)),
  PLUS: camera((c) => c.zoom(1.15)),
  EQUAL: camera((c) => c.zoom(1.15)),
  MINUS: camera((c) => c.zoom(1 / 1.15)),
  U: (replay) => (replay.turntable = !replay.turntable),
  F: (replay) => (replay.follow = !replay.follow),
  R: (replay) => (replay.camera = replay.home),
  T: (replay, aspect) => (replay.camera = replay.home.top().fitted(replay.stage, aspect, replay.look.captions)),
  I: (replay, aspect) => (replay.camera = replay.home.isometric().fitted(replay.stage, aspect, replay.look.captions)),
  P: camera((c) => c.perspective()),
  Q: (replay, aspect) => replay.nextSurface(1, aspect),
  "Shift Q": (replay, aspect) => replay.nextSurface(-1, aspect),
  W: (replay) => replay.nextArrangement(),
  E: (replay) => replay.nextOther(),
  C: following("colormap"),
  "Shift C": following("colormap", -1),
  O: following("contours"),
  B: following("theme"),
  Z: following("height"),
  BRACKETRIGHT: relief(1.25),
  BRACKETLEFT: relief(0.8),
  G: toggle("floor"),
  Y: toggle("true_loss"),
  X: toggle("xray"),
  J: toggle("captions"),
  N: toggle("critical"),
});

const NAMES = /** @type {Record<string, string>} */ ({
  " ": "SPACE", ArrowLeft: "LEFT", ArrowRight: "RIGHT", ArrowUp: "UP", ArrowDown: "DOWN", Home: "HOME", End: "END",
  ",": "COMMA", ".": "PERIOD", "+": "PLUS", "=": "EQUAL", "-": "MINUS", "]": "BRACKETRIGHT", "[": "BRACKETLEFT",
  Escape: "ESCAPE",
});

/** The name of the key of an event, as the window's table has it. @param {KeyboardEvent} event */
export function nameOf(event) {
  return NAMES[event.key] ?? (event.key.length === 1 ? event.key.toUpperCase() : "");
}

/** The action of a key; with Shift, the plain one where there is none of its own. */
export function actionOf(/** @type {string} */ name, /** @type {boolean} */ shift) {
  return (shift ? ACTIONS[`Shift ${name}`] : undefined) ?? ACTIONS[name];
}
