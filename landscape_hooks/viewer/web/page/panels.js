// Panels: the words and controls of the page, which are real HTML. Text of a run goes into the page as text only.

import { CLOCKS } from "../replay/timeline.js";
import { ASPECTS, CONTOURS, EXAGGERATION, HEIGHTS, SWITCHES, THEMES } from "../replay/look.js";
import { KINDS } from "../replay/replay.js";
import { element, fill, made, set, showWords } from "./words.js";

/** @typedef {import("../replay/replay.js").Replay} Replay */
/** @typedef {import("../replay/look.js").Look} Look */
/** @typedef {{ act: (change: () => void) => void, look: (change: Partial<Look>) => void, choose: (n: number) => void,
 *   save: () => void }} Does what the controls ask for */

export class Panels {
  /** @param {Replay} replay @param {Does} does */
  constructor(replay, does) {
    this.replay = replay;
    this.does = does;
    this.notice = "";
    this._bar();
    this._options();
    this._help();
  }

  // -- the bar ---------------------------------------------------------------------------------------
  _bar() {
    const { timeline } = this.replay;
    const time = (/** @type {(t: typeof timeline) => void} */ change) => () =>
      this.does.act(() => change(this.replay.timeline));
    this.play = this._button("play", "Play", "Space", time((t) => t.toggle()), "play");
    this.back = this._button("back", "One snapshot back", "Left", time((t) => t.step(-1)), "back");
    this.on = this._button("on", "One snapshot on", "Right", time((t) => t.step(1)), "on");
    this.speed = this._button("speed", "Speed", ", and .", time((t) => t.faster(t.speed < 10 ? 1 : -10)));
    this.scrub = made("input", "", { id: "scrub", type: "range", min: "0", max: "1", step: "any", "aria-label": "Moment" });
    this.scrub.addEventListener("input", () => {
      this.does.act(() => {
        this.replay.timeline.playing = false;
        this.replay.timeline.scrub(Number(this.scrub?.value));
      });
    });
    this.said = made("output", "", { id: "moment-said", for: "scrub" });
    const row = made("div", "", { id: "scrub-row" });
    row.append(this.scrub, this.said);
    const save = this._button("save", "Save a picture", "S", this.does.save, "picture");
    this.optionsButton = this._button("show-options", "Options", "M", () => this.does.act(() => this.showOptions()));
    const help = this._button("show-help", "Help", "H", () => this.showHelp());
    help.setAttribute("aria-haspopup", "dialog");
    this.optionsButton.setAttribute("aria-controls", "options");
    const chosen = this._surfaces();
    this.colormap = this._choice("colormap", "Colours", this.replay.payload.colormaps, (colormap) => ({ colormap }));
    element("bar").append(
      this.play, this.back, this.on, this.speed, row, ...chosen, this.colormap, save, this.optionsButton, help,
    );
  }

  _button(
    /** @type {string} */ id, /** @type {string} */ label, /** @type {string} */ key, /** @type {() => void} */ does,
    /** @type {string} */ sign = "",
  ) {
    const button = made("button", sign ? "" : label, { id, type: "button", title: `${label} (${key})` });
    if (sign) {
      button.className = "sign";
      button.setAttribute("aria-label", label);
      button.append(signOf(sign));
    }
    button.addEventListener("click", does);
    return button;
  }

  /** The surfaces of the run to choose from, where there are several. */
  _surfaces() {
    const { surfaces, undrawn } = this.replay.payload;
    if (surfaces.length + undrawn.length < 2) return [];
    const select = made("select", "", { id: "surface", "aria-label": "Surface", title: "Surface of the run" });
    surfaces.forEach((surface, number) => select.append(made("option", surface.name, { value: String(number) })));
    for (const { name, why } of undrawn) select.append(made("option", name, { disabled: "", title: why }));
    select.addEventListener("change", () => this.does.choose(Number(select.value)));
    this.surface = select;
    return [select];
  }

  _choice(
    /** @type {string} */ id, /** @type {string} */ label, /** @type {string[]} */ known,
    /** @type {(value: string) => Partial<Look>} */ change,
  ) {
    const select = made("select", "", { id, "aria-label": label, title: label });
    for (const value of known) select.append(made("option", value, { value }));
    select.addEventListener("change", () => this.does.look(change(select.value)));
    return select;
  }

  // -- options ---------------------------------------------------------------------------------------
  /** Everything that can be changed. */
  _options() {
    const panel = element("options");
    panel.addEventListener("submit", (event) => event.preventDefault());
    const row = (/** @type {string} */ label, /** @type {HTMLElement} */ control) => {
      panel.append(made("label", label, { for: control.id }), control);
      return control;
    };
    this.contours = this._choice("contours", "Contours", CONTOURS, (contours) => ({ contours }));
    this.height = this._choice("height", "Height", HEIGHTS, (height) => ({ height }));
    this.aspect = this._choice("aspect", "Aspect", ASPECTS, (aspect) => ({ aspect }));
    this.themes = this._choice("theme", "Theme", THEMES, (theme) => ({ theme }));
    const chosen = this._pair();
    for (const [label, control] of chosen) row(label, control);
    this.clock = made("select", "", { id: "clock" });
    this.clock.addEventListener("change", () => {
      this.does.act(() => (this.replay.timeline.clock = String(this.clock?.value)));
    });
    this.colours = this._choice("option-colormap", "Colours", this.replay.payload.colormaps, (colormap) => ({ colormap }));
    row("colours", this.colours);
    row("contours", this.contours);
    row("height", this.height);
    row("aspect", this.aspect);
    row("theme", this.themes);
    row("clock", this.clock);
    const [low, high] = EXAGGERATION.map(Math.log);
    this.relief = made("input", "", { id: "relief", type: "range", min: String(low), max: String(high), step: "any" });
    this.relief.addEventListener("input", () => this.does.look({ exaggeration: Math.exp(Number(this.relief?.value)) }));
    this.shading = made("input", "", { id: "shading", type: "range", min: "0", max: "1", step: "any" });
    this.shading.addEventListener("input", () => this.does.look({ shading: Number(this.shading?.value) }));
    row("relief", this.relief);
    row("shading", this.shading);
    panel.append(this._switches());
  }

  /** How a second surface is shown, where there are several. @returns {[string, HTMLElement][]} */
  _pair() {
    const { surfaces } = this.replay.payload;
    if (surfaces.length < 2) return [];
    const show = made("select", "", { id: "arrangement" });
    for (const kind of KINDS) show.append(made("option", kind, { value: kind }));
    show.addEventListener("change", () => this.does.act(() => this.replay.arrange({ arrangement: show.value })));
    const other = made("select", "", { id: "other" });
    surfaces.forEach((surface, number) => other.append(made("option", surface.name, { value: String(number) })));
    other.addEventListener("change", () => this.does.act(() => this.replay.compare(Number(other.value))));
    const share = made("input", "", { id: "share", type: "range", min: "0", max: "1", step: "any" });
    share.addEventListener("input", () => this.does.act(() => this.replay.arrange({ share: Number(share.value) })));
    Object.assign(this, { show, other, share });
    return [["show", show], ["with", other], ["share", share]];
  }

  /** The state of those controls. */
  _updatePair(/** @type {Replay} */ { arrangement, other, number, share }) {
    const { show, other: list, share: slider } = /** @type {any} */ (this);
    if (!show) return;
    set(show, "value", arrangement);
    set(list, "value", String(other));
    list.childNodes.forEach((/** @type {any} */ option, /** @type {number} */ n) => set(option, "disabled", n === number));
    set(slider, "value", String(share));
    set(slider, "disabled", arrangement !== "blend");
    if (slider.getAttribute("aria-valuetext") !== `${share.toFixed(2)} of the second`) {
      slider.setAttribute("aria-valuetext", `${share.toFixed(2)} of the second`);
    }
  }

  /** What is on or off. */
  _switches() {
    const rows = made("fieldset", "", { "aria-label": "Shown" });
    /** @type {Map<string, HTMLInputElement>} */
    this.boxes = new Map();
    const words = {
      floor: "floor and axes", true_loss: "true loss", xray: "x-ray", captions: "captions", critical: "minima, saddles",
    };
    const add = (/** @type {string} */ name, /** @type {string} */ says, /** @type {(on: boolean) => void} */ change) => {
      const box = made("input", "", { type: "checkbox", id: `switch-${name}` });
      const label = made("label");
      label.append(box, made("span", says));
      box.addEventListener("change", () => change(box.checked));
      rows.append(label);
      this.boxes?.set(name, box);
    };
    for (const name of SWITCHES) add(name, words[name], (on) => this.does.look({ [name]: on }));
    add("loop", "loop", (on) => this.does.act(() => (this.replay.timeline.loop = on)));
    add("turntable", "turntable", (on) => this.does.act(() => (this.replay.turntable = on)));
    add("follow", "follow the marker", (on) => this.does.act(() => (this.replay.follow = on)));
    return rows;
  }

  showOptions(shown = Boolean(element("options").hidden)) {
    element("options").hidden = !shown;
  }

  // -- help ------------------------------------------------------------------------------------------
  _help() {
    const { keys, others, mouse } = this.replay.payload;
    const rows = [...keys.filter(({ key }) => key !== "EQUAL").map(({ shown, says }) => [shown, says]), ...others, ...mouse];
    for (const [shown, says] of rows) {
      const line = made("div");
      line.append(made("span", shown), made("span", says));
      element("help-rows").append(line);
    }
  }

  showHelp() {
    const help = /** @type {HTMLDialogElement} */ (element("help"));
    if (help.open) help.close();
    else help.showModal();
  }

  // -- what changes with the moment and the look -------------------------------------------------------
  /** Show the state of the replay. @param {Replay} replay */
  update(replay) {
    this.replay = replay;
    const { look, timeline, landscape } = replay;
    document.documentElement.dataset.theme = look.theme;
    document.title = `${landscape.surface.title} - landscape-hooks`;
    showWords(replay);
    const label = timeline.playing ? "Pause" : "Play";
    if (this.play && this.play.getAttribute("aria-label") !== label) {
      this.play.setAttribute("aria-label", label);
      this.play.title = `${label} (Space)`;
      this.play.replaceChildren(signOf(label.toLowerCase()));
    }
    const index = timeline.index;
    const path = landscape.paths[0];
    const said = path ? `step ${path.step[index]} (${index + 1} of ${timeline.length})` : "no path";
    set(this.said, "textContent", said);
    set(this.speed, "textContent", `${timeline.speed}×`);
    if (this.scrub) {
      set(this.scrub, "value", String(timeline.fraction));
      set(this.scrub, "disabled", timeline.length < 2);
      if (this.scrub.getAttribute("aria-valuetext") !== said) this.scrub.setAttribute("aria-valuetext", said);
    }
    set(this.surface, "value", String(replay.number));
    set(this.colormap, "value", look.colormap);
    this.optionsButton?.setAttribute("aria-expanded", String(!element("options").hidden));
    if (!element("options").hidden) this._updateOptions(replay);
    const notice = element("notice");
    set(notice, "textContent", this.notice);
    set(notice, "hidden", !this.notice);
  }

  _updateOptions(/** @type {Replay} */ replay) {
    const { look, timeline, turntable, follow } = replay;
    this._updatePair(replay);
    set(this.colours, "value", look.colormap);
    set(this.contours, "value", look.contours);
    set(this.height, "value", look.height);
    set(this.aspect, "value", look.aspect);
    set(this.themes, "value", look.theme);
    const clocks = CLOCKS.filter((clock) => timeline.clocks.has(clock));
    if (this.clock) fill(this.clock, clocks.map((clock) => made("option", clock, { value: clock })));
    set(this.clock, "value", timeline.clock);
    set(this.relief, "value", String(Math.log(look.exaggeration)));
    set(this.shading, "value", String(look.shading));
    const states = { ...look, loop: timeline.loop, turntable, follow };
    for (const [name, box] of this.boxes ?? []) set(box, "checked", Boolean(/** @type {any} */ (states)[name]));
  }

  /** The cursor in the plot of the losses. @param {number[] | null} place x, upper end, lower end */
  cursor(place) {
    const cursor = element("cursor");
    set(cursor, "hidden", !place);
    if (!place) return;
    cursor.style.transform = `translate(${place[0] - 0.5}px, ${place[1]}px)`;
    cursor.style.height = `${place[2] - place[1]}px`;
  }

  /** What is under the mouse, in a box beside it; nothing without lines. */
  hover(/** @type {string[]} */ lines, /** @type {number} */ x, /** @type {number} */ y, /** @type {number[]} */ size) {
    const place = element("place");
    place.hidden = !lines.length;
    if (!lines.length) return;
    set(place, "textContent", lines.join("\n"));
    const { width, height } = place.getBoundingClientRect();
    const left = x + 18 + width < size[0] ? x + 18 : Math.max(x - 18 - width, 0);
    place.style.transform = `translate(${left}px, ${Math.max(Math.min(y + 14, size[1] - height - 4), 0)}px)`;
  }
}

/** A sign of the page. @param {string} name */
function signOf(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#sign-${name}`);
  svg.append(use);
  return svg;
}
