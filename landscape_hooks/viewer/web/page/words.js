// Words: the title, captions and read-out of a pane, which are real HTML. Text of a run goes into the page as text only.

import { general, textOf } from "../geometry/numbers.js";
import { css } from "../replay/look.js";

/** @typedef {import("../replay/replay.js").Replay} Replay */

export const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * An element with a text.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {string} text @param {Record<string, string>} attributes
 */
export function made(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** Replace the children of an element only where they are others, so that readers are not told the same again. */
export function fill(/** @type {HTMLElement} */ parent, /** @type {HTMLElement[]} */ children) {
  if (children.map((child) => child.outerHTML).join("") !== parent.innerHTML) parent.replaceChildren(...children);
}

/** Set a property where it differs. @param {any} node @param {string} name @param {unknown} value */
export function set(node, name, value) {
  if (node && node[name] !== value) node[name] = value;
}

/** Title, captions, doubts, runs, and the read-out of the moment, into the elements whose ids end in `suffix`. */
export function showWords(/** @type {Replay} */ replay, suffix = "") {
  const inPane = (/** @type {string} */ id) => element(id + suffix);
  const { look, landscape } = replay;
  const { surface, mesh } = landscape;
  for (const id of ["heading", "moment"]) inPane(id).hidden = !look.captions;
  set(inPane("title"), "textContent", surface.title);
  const raised = look.exaggeration === 1 ? "" : `, exaggerated x ${general(look.exaggeration, 3)}`;
  const stretched = saidOfStretch(surface.names, replay.stage.stretch);
  const said = [...surface.said, ...(stretched ? [stretched] : [])];
  const { labels, statement } = mesh.height;
  const above = labels.offset ? `; labels: ${labels.name("loss")}` : "";
  const { difference } = landscape;
  const letters = difference ? `A = ${difference.names[0]}, B = ${difference.names[1]}` : "";
  const compared = difference ? `, colours: ${difference.short}, ${letters}` : "";
  const lines = [made("p", said.join("  ·  ")), made("p", statement + above + compared + raised)];
  lines.push(...surface.doubts.map((doubt) => made("p", doubt, { class: "doubt" })));
  if (mesh.missing.length) {
    const counts = mesh.missing.map(([name, count]) => `${count} ${name}`).join(", ");
    lines.push(made("p", `hatched: ${counts} (grid points)`));
  }
  fill(inPane("captions"), lines);
  fill(inPane("legend"), landscape.paths.length > 1 ? landscape.paths.map(({ label }, number) => {
    const row = made("li");
    const dot = made("span", "", { class: "dot" });
    dot.style.backgroundColor = css(replay.pathColor(number));
    row.append(dot, made("span", label || `run ${number + 1}`));
    return row;
  }) : []);
  const rows = landscape.paths.length ? landscape.readOut(replay.timeline.position) : [];
  const several = landscape.paths.length > 1;
  inPane("moment").classList.toggle("several", several);
  fill(inPane("moment"), rows.flatMap((row, number) => row.map((text, k) => {
    const cell = made(k && (number || !several) ? "dd" : "dt", text);
    if (row.length === 1) cell.style.gridColumn = "1 / -1";
    if (several && number && !k && row.length > 1) {
      const dot = made("span", "", { class: "dot" });
      dot.style.backgroundColor = css(replay.pathColor(number - 1));
      cell.prepend(dot);
    }
    return cell;
  })));
}

/** Which axis is stretched against the other, and by how much. @param {string[]} names @param {number} stretch */
function saidOfStretch(names, stretch) {
  if (!(stretch > 0 && stretch < Infinity) || Math.abs(stretch - 1) < 0.01) return "";
  const [axis, factor] = stretch > 1 ? [1, stretch] : [0, 1 / stretch];
  return `${names[axis]} stretched ${textOf(factor)}× against ${names[1 - axis]}`;
}
