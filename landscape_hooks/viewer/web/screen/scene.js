// Scene: a landscape drawn with WebGL 2 (viewer/gl/scene.py). It keeps buffers on the graphics card, and rebuilds only
// what a changed option touches.

import { unpack } from "../geometry/data.js";
import { levels } from "../geometry/height.js";
import { lineColormap, rgb } from "../replay/look.js";
import { Stage } from "../geometry/stage.js";
import { pointOf } from "../geometry/mesh.js";
import * as geometry from "./arrays.js";
import { Frame, Program, Table, Vertices } from "./gpu.js";

/** @typedef {import("../geometry/landscape.js").Landscape} Landscape */
/** @typedef {import("../replay/look.js").Look} Look */
/** @typedef {import("../replay/camera.js").Camera} Camera */
/** @typedef {import("../geometry/data.js").Payload} Payload */
/** @typedef {import("./gpu.js").Uniform} Uniform */
/** @typedef {{ scale: number, fast: boolean, coarse: boolean, turns: boolean }} Quality pixels of the canvas a pixel of
 *   the picture; whether smoothing is left out; whether the mesh is the coarser one; whether the camera is moving */

/** Triangles of the mesh that is drawn while the camera moves on a slow driver. */
const COARSE = 20000;
const LIFT = 0.004;
const WHOLE = 1e9;
const SAMPLES = 4;
/** Pixels of the picture a pixel of the canvas, along a side, while the camera moves on a slow driver. */
const TURNING = 0.6;
const MODES = /** @type {Record<string, number>} */ ({ hypsometric: 1, grey: 2, wireframe: 3 });

export class Scene {
  /** @param {HTMLCanvasElement} canvas @param {Payload} payload */
  constructor(canvas, payload) {
    const options = { alpha: false, antialias: false, depth: false, stencil: false, powerPreference: "high-performance" };
    const gl = /** @type {WebGL2RenderingContext | null} */ (canvas.getContext("webgl2", options));
    if (!gl) throw new Error("This browser has no WebGL 2, which the picture needs.");
    this.gl = gl;
    this.payload = payload;
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    const renderer = String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    /** Whether a processor plays the graphics card. */
    this.isSoftware = /swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
    /** @type {Record<string, Program>} */
    this.programs = {};
    for (const name of ["surface", "line", "ball", "flat"]) {
      this.programs[name] = new Program(gl, payload.shaders[`${name}.vert`], payload.shaders[`${name}.frag`]);
    }
    /** @type {Map<string, Vertices>} */
    this.parts = new Map();
    /** @type {Map<string, Table>} */
    this.tables = new Map();
    this.blank = new Vertices(gl, this.programs.flat, null, []);
    /** @type {Landscape | null} */
    this.landscape = null;
    /** @type {Map<string, Frame>} */
    this.frames = new Map();
    this.kept = "";
    this.version = 0;
    /** @type {Camera | null} what was drawn last */
    this.camera = null;
    this.position = 0;
    /** @type {Quality} */
    this.lastOptions = { scale: 1, fast: false, coarse: false, turns: false };
  }

  /** The colours of the theme. */
  get theme() {
    return this.payload.themes[/** @type {Look} */ (this.look).theme];
  }

  /** Take another landscape or look. @param {Landscape} landscape @param {Look} look */
  show(landscape, look) {
    const [before, old] = [this.landscape, this.look];
    if (before === landscape && old === look) return;
    this.landscape = landscape;
    this.look = look;
    this.version += 1;
    if (!before || !old || before.mesh !== landscape.mesh || old.exaggeration !== look.exaggeration
        || old.aspect !== look.aspect) this._buildAll();
    else {
      if (old.colormap !== look.colormap || old.theme !== look.theme) this._buildColors();
      const lines = /** @type {const} */ (["colormap", "theme", "contours"]);
      if (lines.some((name) => old[name] !== look[name])) this._buildLines();
      if (before !== landscape) this._buildPaths();
    }
  }

  _buildAll() {
    const { mesh } = /** @type {Landscape} */ (this.landscape);
    const look = /** @type {Look} */ (this.look);
    this.stage = new Stage(mesh, look.exaggeration, look.aspect);
    const { difference } = /** @type {Landscape} */ (this.landscape);
    const diverging = difference ? this.colors(this.payload.diverging) : undefined;
    const records = geometry.surfaceRecords(mesh, this.stage, difference, diverging);
    this._part("surface", "surface", records, geometry.triangles(mesh, COARSE));
    this._drop("lid");
    const lid = geometry.lidRecords(/** @type {Landscape} */ (this.landscape), this.stage);
    if (lid) this._part("lid", "surface", lid.records, lid.indices);
    this._buildColors();
    this._buildLines();
    this._buildPaths();
  }

  /** The colours of a colour map, lowest first. @param {string} name */
  colors(name) {
    return Uint8Array.from(unpack(this.payload.tables[name]));
  }

  _buildColors() {
    this._table("colors", this.colors(lineColormap(/** @type {Look} */ (this.look))));
    const { mesh } = /** @type {Landscape} */ (this.landscape);
    const { losses, index } = levels(mesh.height);
    this.levelCount = losses.length;
    if (!losses.length) return;
    this._table("level_of", geometry.levelTable(mesh, losses));
    this._table("index_lines", Float32Array.from(index, Number));
  }

  _buildLines() {
    const [landscape, look] = [/** @type {Landscape} */ (this.landscape), /** @type {Look} */ (this.look)];
    const stage = /** @type {Stage} */ (this.stage);
    const ink = look.colormap === "wireframe" ? this.theme.ink : [0.02, 0.03, 0.05];
    const table = this.colors(lineColormap(look));
    const { lines, mesh } = landscape;
    this._part("floor", "line", geometry.floorRecords(stage, this.theme.faint));
    this._drop("contours");
    if (look.contours === "marching squares") {
      this._part("contours", "line", geometry.contourRecords(lines, mesh, stage, { color: ink }));
    }
    const faint = this.theme.faint.map((value) => value * 255); // the colours of a difference say something else
    const shades = landscape.difference ? Uint8Array.from({ length: 768 }, (_, k) => faint[k % 3]) : table;
    this._part("shadow", "line", geometry.contourRecords(lines, mesh, stage, { table: shades }));
  }

  _buildPaths() {
    for (const name of [...this.parts.keys()]) if (/^(path|true|stems|ends|marks|critical) /.test(name)) this._drop(name);
    const landscape = /** @type {Landscape} */ (this.landscape);
    const stage = /** @type {Stage} */ (this.stage);
    landscape.paths.forEach((path, number) => {
      const drape = landscape.drapes[number];
      const color = this.pathColor(number);
      const reach = landscape.lengths[number];
      this._part(`path ${number}`, "line", geometry.pathRecords(drape, path, stage, color, reach));
      const { line, stems } = geometry.trueLossRecords(path, landscape.mesh, stage, [1, 1, 1]);
      this._part(`true ${number}`, "line", line);
      this._part(`stems ${number}`, "line", stems);
      const [start, end] = [0, path.step.length - 1].map((n) => stage.place(pointOf(drape, n)));
      const white = [1, 1, 1];
      const ends = [
        { centre: start, fill: white, ring: color, radius: 5 },
        { centre: end, fill: color, ring: white, radius: 5 },
      ];
      this._part(`ends ${number}`, "ball", geometry.ballRecords(ends));
    });
    const balls = landscape.surface.marks.flatMap(({ path, atEnd }, n) => {
      const centre = stage.place(landscape.spots[n]); // the end of a path has a ball already
      return atEnd ? [] : [{ centre, fill: [1, 1, 1], ring: this.pathColor(path), radius: 6.5 }];
    });
    if (balls.length) this._part("marks 0", "ball", geometry.ballRecords(balls));
    const [dark, light] = [[0.1, 0.12, 0.16], [0.97, 0.97, 0.97]];
    const points = landscape.surface.critical.map(({ kind }, n) => {
      const [fill, ring] = kind === "minimum" ? [dark, light] : [light, dark];
      return { centre: stage.place(landscape.critical[n]), fill, ring, radius: 4 };
    });
    if (points.length) this._part("critical 0", "ball", geometry.ballRecords(points));
  }

  /** The colour of a run. @param {number} number */
  pathColor(number) {
    return rgb(this.payload.paths[number % this.payload.paths.length]);
  }

  _part(
    /** @type {string} */ name, /** @type {string} */ kind, /** @type {import("./gpu.js").Records} */ records,
    /** @type {Uint32Array[] | null} */ triangles = null,
  ) {
    this._drop(name);
    this.parts.set(name, new Vertices(this.gl, this.programs[kind], records, triangles));
  }

  _drop(/** @type {string} */ name) {
    this.parts.get(name)?.delete();
    this.parts.delete(name);
  }

  _table(/** @type {string} */ name, /** @type {Uint8Array | Float32Array} */ data) {
    this.tables.get(name)?.delete();
    this.tables.set(name, new Table(this.gl, data));
  }

  /** The scene point of the marker of a run. @param {number} position @param {number} number */
  marker(position, number = 0) {
    const landscape = /** @type {Landscape} */ (this.landscape);
    return /** @type {Stage} */ (this.stage).place(
      pointOf(landscape.drapes[number], landscape.ownPosition(position, number)),
    );
  }

  /**
   * Draw into the canvas. What the replay does not move is kept, and drawn again only if camera, look or size change.
   * @param {Camera} camera @param {number} position @param {Quality} options
   */
  draw(camera, position, options) {
    const { scale, fast, coarse, turns } = options;
    const { width, height } = this.gl.canvas;
    this.lastOptions = options;
    [this.camera, this.position] = [camera, position];
    const { still, shown, smooth } = this._framesOf([width, height], fast, turns);
    const size = shown.size;
    const unit = (scale * size[0]) / width;
    const view = [camera.azimuth, camera.elevation, camera.distance, ...camera.target, camera.fov, camera.orthographic];
    const key = [...view, this.version, scale, fast, coarse, width, height].join(" ");
    if (turns || this.kept !== key) {
      const drawn = turns ? shown : still; // while the camera moves, there is nothing to keep
      (smooth ?? drawn).bind();
      this._drawStill(camera, size, unit, coarse);
      smooth?.copyTo(drawn);
      this.kept = turns ? "" : key;
    }
    if (!turns) still.copyTo(shown);
    shown.bind();
    this._common(camera, size, unit);
    this._blend(true);
    this._drawMarks();
    this._drawPaths(position);
    this._blend(false);
    shown.copyTo(null);
  }

  /** The frames to draw into: what is kept, what is shown, and one with several samples a pixel unless it is to be fast. */
  _framesOf(/** @type {number[]} */ size, /** @type {boolean} */ fast, /** @type {boolean} */ turns) {
    const small = size.map((side) => Math.max(Math.round(side * TURNING), 1));
    const still = this._frame("still", size, 0);
    const shown = fast && turns ? this._frame("turning", small, 0) : this._frame("shown", size, 0);
    return { still, shown, smooth: fast ? null : this._frame("smooth", size, SAMPLES) };
  }

  /** A frame of a size; made where it is needed. */
  _frame(/** @type {string} */ name, /** @type {number[]} */ [width, height], /** @type {number} */ samples) {
    const known = this.frames.get(name);
    if (known && known.size[0] === width && known.size[1] === height) return known;
    known?.delete();
    if (name === "still") this.kept = "";
    const frame = new Frame(this.gl, width, height, samples);
    this.frames.set(name, frame);
    return frame;
  }

  /** Background, surface, floor and contour lines. */
  _drawStill(
    /** @type {Camera} */ camera, /** @type {number[]} */ size, /** @type {number} */ scale, /** @type {boolean} */ coarse,
  ) {
    const { gl } = this;
    const look = /** @type {Look} */ (this.look);
    gl.depthMask(true);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this._common(camera, size, scale);
    gl.disable(gl.DEPTH_TEST);
    this.programs.flat.use({ top: this.theme.top, bottom: this.theme.bottom });
    this.blank.draw();
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    this._drawSurface(camera, coarse);
    this._blend(true);
    if (look.floor) {
      this._lines("floor", { lift: 0 });
      this._lines("shadow", { lift: 0 });
    }
    if (look.contours === "marching squares") this._lines("contours", {});
    this._blend(false);
  }

  _common(/** @type {Camera} */ camera, /** @type {number[]} */ size, /** @type {number} */ scale) {
    const far = camera.target.map((value, k) => value - 50 * camera.forward[k]);
    const common = {
      matrix: camera.matrix(size[0] / size[1]), viewport: size, eye: camera.orthographic ? far : camera.eye,
      forward: camera.forward, orthographic: camera.orthographic, line_scale: scale, dash: 0,
    };
    for (const program of Object.values(this.programs)) program.use(common);
  }

  /** Blending of colours that are multiplied by their alpha, over a depth that stays as it is. */
  _blend(/** @type {boolean} */ on) {
    const { gl } = this;
    if (on) {
      gl.enable(gl.DEPTH_TEST);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    } else gl.disable(gl.BLEND);
    gl.depthMask(!on);
  }

  _drawSurface(/** @type {Camera} */ camera, /** @type {boolean} */ coarse) {
    const { gl } = this;
    const look = /** @type {Look} */ (this.look);
    const { up, right, forward } = camera;
    const light = [0, 1, 2].map((k) => 0.75 * up[k] - 0.55 * right[k] - 0.35 * forward[k] + (k === 2 ? 0.55 : 0));
    const length = Math.hypot(...light);
    /** @type {Record<string, Uniform>} */
    const uniforms = {
      color_mode: this.landscape?.difference ? 4 : MODES[look.colormap] ?? 0, contour_mode: look.contours === "shader", has_grid: true,
      shading: look.shading, light: light.map((value) => value / length), paper: this.theme.bottom, table_size: 256,
      contour_ink: look.colormap === "wireframe" ? 1 : -1, level_count: this.levelCount ?? 0,
      colors: 0, level_of: 1, index_lines: 2, hatch: this.theme.faint,
    };
    this.programs.surface.use(uniforms);
    ["colors", "level_of", "index_lines"].forEach((name, unit) => this.tables.get(name)?.bind(unit));
    gl.enable(gl.POLYGON_OFFSET_FILL);
    gl.polygonOffset(1, 1);
    this.parts.get("surface")?.draw(Number(coarse));
    this.programs.surface.use({ color_mode: 5 });
    this.parts.get("lid")?.draw();
    gl.disable(gl.POLYGON_OFFSET_FILL);
  }

  _lines(/** @type {string} */ name, /** @type {Record<string, Uniform>} */ uniforms) {
    const settings = { opacity: 1, grow: 0, paint: [0, 0, 0, 0], tail: -1, head: WHOLE, lift: LIFT };
    this.programs.line.use({ ...settings, ...uniforms });
    this.parts.get(name)?.draw();
  }

  _balls(/** @type {Vertices} */ part, /** @type {Record<string, Uniform>} */ uniforms) {
    this.programs.ball.use({ opacity: 1, lift: 3 * LIFT, ...uniforms });
    part.draw();
  }

  _drawPaths(/** @type {number} */ position) {
    const { gl } = this;
    const look = /** @type {Look} */ (this.look);
    const landscape = /** @type {Landscape} */ (this.landscape);
    landscape.paths.forEach((_, number) => {
      const head = landscape.ownPosition(position, number);
      const [path, line, stems] = [`path ${number}`, `true ${number}`, `stems ${number}`];
      if (look.xray) { // what a hill hides shines through
        gl.depthFunc(gl.GREATER);
        this._lines(path, { opacity: 0.3, head });
        gl.depthFunc(gl.LEQUAL);
      }
      this._lines(path, { opacity: 0.28, tail: head });
      if (look.true_loss) {
        gl.depthFunc(gl.GREATER); // it may lie below the surface: the plane then shows too high a loss
        this._lines(stems, { opacity: 0.35, head });
        this._lines(line, { opacity: 0.55, head, lift: 0 });
        gl.depthFunc(gl.LEQUAL);
        this._lines(stems, { opacity: 0.8, head });
        this._lines(line, { head, lift: 1.5 * LIFT });
      }
      this._lines(path, { grow: 2.6, paint: [...this.theme.casing, 1], opacity: 0.85, head, lift: 2 * LIFT });
      this._lines(path, { head, lift: 2.2 * LIFT });
      const ends = this.parts.get(`ends ${number}`);
      if (ends) this._balls(ends, {});
      this._drawMarker(position, number);
    });
  }

  _drawMarks() {
    const { gl } = this;
    const look = /** @type {Look} */ (this.look);
    for (const name of [...(look.critical ? ["critical 0"] : []), "marks 0"]) {
      const part = this.parts.get(name);
      if (!part) continue;
      if (look.xray) {
        gl.depthFunc(gl.GREATER);
        this._balls(part, { opacity: 0.35 });
        gl.depthFunc(gl.LEQUAL);
      }
      this._balls(part, {});
    }
  }

  _drawMarker(/** @type {number} */ position, /** @type {number} */ number) {
    const { gl } = this;
    const centre = this.marker(position, number);
    if (!centre.every(Number.isFinite)) return;
    const ball = { centre, fill: [1, 0.98, 0.9], ring: this.pathColor(number), radius: 8.5 };
    const part = new Vertices(gl, this.programs.ball, geometry.ballRecords([ball]), null);
    if (/** @type {Look} */ (this.look).xray) {
      gl.depthFunc(gl.GREATER);
      this._balls(part, { opacity: 0.35 });
      gl.depthFunc(gl.LEQUAL);
    }
    this._balls(part, { lift: 4 * LIFT });
    part.delete();
  }
}
