// Picture: the scene with its captions as one PNG file.

/**
 * The canvases and the words over them, in one canvas.
 * @param {HTMLElement} frame the element that holds them @param {HTMLCanvasElement[]} canvases
 * @param {HTMLElement[]} words elements whose text is drawn as it is laid out
 */
export function flattened(frame, canvases, words) {
  const out = document.createElement("canvas");
  [out.width, out.height] = [canvases[0].width, canvases[0].height];
  const context = /** @type {CanvasRenderingContext2D} */ (out.getContext("2d"));
  for (const canvas of canvases) context.drawImage(canvas, 0, 0, out.width, out.height);
  const corner = frame.getBoundingClientRect();
  context.scale(out.width / corner.width, out.height / corner.height);
  context.translate(-corner.left, -corner.top);
  for (const word of words) if (!word.hidden) paint(context, word);
  return out;
}

/** Two pictures of one size side by side, or one above the other. */
export function beside(
  /** @type {HTMLCanvasElement} */ first, /** @type {HTMLCanvasElement} */ second, /** @type {boolean} */ stacked,
) {
  const out = document.createElement("canvas");
  out.width = first.width + (stacked ? 0 : second.width);
  out.height = first.height + (stacked ? second.height : 0);
  const context = /** @type {CanvasRenderingContext2D} */ (out.getContext("2d"));
  context.drawImage(first, 0, 0);
  context.drawImage(second, stacked ? 0 : first.width, stacked ? first.height : 0);
  return out;
}

/** Draw the text of an element, word for word where the browser has laid it out, and its coloured dots. */
function paint(/** @type {CanvasRenderingContext2D} */ context, /** @type {HTMLElement} */ root) {
  if (!root.firstChild) { // a line, such as the cursor of the plot
    const { left, top, width, height } = root.getBoundingClientRect();
    context.fillStyle = getComputedStyle(root).backgroundColor;
    context.fillRect(left, top, width, height);
  }
  for (const dot of root.querySelectorAll(".dot")) {
    const { left, top, width, height } = dot.getBoundingClientRect();
    context.fillStyle = getComputedStyle(dot).backgroundColor;
    context.beginPath();
    context.arc(left + width / 2, top + height / 2, width / 2, 0, 7);
    context.fill();
  }
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  context.textBaseline = "middle";
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const style = getComputedStyle(/** @type {Element} */ (node.parentElement));
    context.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    context.fillStyle = style.color;
    for (const match of (node.textContent ?? "").matchAll(/\S+/g)) {
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const { left, top, height } = range.getBoundingClientRect();
      context.fillText(match[0], left, top + height / 2);
    }
  }
}

/** Offer a canvas as a PNG file. @param {HTMLCanvasElement} canvas @param {string} name */
export function download(canvas, name) {
  canvas.toBlob((blob) => {
    if (!blob) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
}
