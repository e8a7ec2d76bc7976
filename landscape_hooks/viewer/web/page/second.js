// Second: the pane beside the first one: the same camera, look and share of the replay, with another landscape.

import { clamp } from "../geometry/numbers.js";
import { Hud, unitOf } from "../screen/hud.js";
import { Scene } from "../screen/scene.js";
import { element, showWords } from "./words.js";

/** @typedef {import("../replay/replay.js").Replay} Replay */
/** @typedef {import("../screen/scene.js").Quality} Quality */

const SUFFIX = "-2";

export class Second {
  /** @param {import("../geometry/data.js").Payload} payload */
  constructor(payload) {
    this.payload = payload;
    this.hud = new Hud();
    /** @type {Scene | null} */
    this.scene = null;
    this.canvas = /** @type {HTMLCanvasElement} */ (element(`scene${SUFFIX}`));
    this.words = /** @type {HTMLCanvasElement} */ (element(`hud${SUFFIX}`));
    this.written = "";
  }

  /** Elements whose text is drawn into a saved picture. */
  static get texts() {
    return ["heading", "moment", "cursor"].map((name) => element(name + SUFFIX));
  }

  /**
   * Draw the pane.
   * @param {Replay} replay of this pane @param {number[]} size of a pane @param {number} ratio @param {Quality} quality
   * @param {(names: string[], frame: HTMLElement) => number[][]} areas of elements that are shown
   */
  draw(replay, size, ratio, quality, areas) {
    const scene = this._scene();
    const { camera, look, timeline } = replay;
    for (const canvas of [this.canvas, this.words]) {
      const [width, height] = size.map((side) => Math.max(Math.round(side * ratio), 1));
      if (canvas.width !== width || canvas.height !== height) {
        [canvas.width, canvas.height] = [width, height];
        this.written = "";
      }
    }
    scene.show(replay.landscape, look);
    scene.draw(camera, timeline.position, quality);
    showWords(replay, SUFFIX);
    const words = areas([`heading${SUFFIX}`, `moment${SUFFIX}`], element("beside"));
    const covered = areas(["options", "notice", "place"], element("beside"));
    const state = [ratio, size, camera.text, timeline.clock, timeline.length, words, covered, scene.version].join(" ");
    if (state !== this.written) {
      this.written = state;
      const context = /** @type {CanvasRenderingContext2D} */ (this.words.getContext("2d"));
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, size[0], size[1]);
      if (look.captions) this.hud.draw(context, replay, size, (name) => scene.colors(name), scene.version, words, covered);
      else this.hud.plot = null;
    }
    const place = this.hud.cursor(replay);
    const cursor = element(`cursor${SUFFIX}`);
    cursor.hidden = !place;
    if (!place) return;
    cursor.style.transform = `translate(${place[0] - 0.5}px, ${place[1]}px)`;
    cursor.style.height = `${place[2] - place[1]}px`;
  }

  _scene() {
    if (this.scene) return this.scene;
    const canvas = document.createElement("canvas");
    canvas.id = `scene${SUFFIX}`;
    canvas.setAttribute("aria-hidden", "true");
    this.canvas.replaceWith(canvas);
    this.canvas = canvas;
    [canvas.width, canvas.height] = [this.words.width, this.words.height];
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      if (this.canvas === canvas) this.scene = null;
    });
    this.scene = new Scene(canvas, this.payload);
    this.written = "";
    return this.scene;
  }

  /** Give the context back; a picture stays in its place until the pane is drawn again. */
  rest() {
    if (!this.scene) return;
    const { scene } = this;
    const still = document.createElement("canvas");
    [still.width, still.height, still.id] = [this.canvas.width, this.canvas.height, `scene${SUFFIX}`];
    if (scene.camera && !scene.gl.isContextLost()) {
      scene.draw(scene.camera, scene.position, scene.lastOptions);
      still.getContext("2d")?.drawImage(this.canvas, 0, 0);
    }
    this.canvas.replaceWith(still);
    this.scene = null;
    this.canvas = still;
    scene.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

/** Pixels of a canvas a pixel of a line, for a pane of a size. @param {number[]} size @param {number} ratio */
export function lineScale(size, ratio) {
  return ratio * clamp(Math.min(size[1] / 720, size[0] / 1000), 0.6, 8);
}

/** Tell the style sheet how large words are in a pane. @param {number[]} size */
export function setUnit(size) {
  element("picture").style.setProperty("--unit", unitOf(size).toFixed(3));
}
