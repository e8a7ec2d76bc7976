// Taken: the parts of a picture that hold words or panels, so that no label lies on another (viewer/replay/taken.py).

/** @typedef {number[]} Area left, top, right and bottom of a rectangle, in pixels from the top left */

export class Taken {
  /** @param {number[]} within width and height that a label must lie in @param {Area[]} areas */
  constructor(within, areas = []) {
    this.within = within;
    this.areas = [...areas];
  }

  /** Add a rectangle. @param {Area} area */
  take(area) {
    this.areas.push(area);
  }

  /** Whether a rectangle lies in the picture and on none that is taken. @param {Area} area */
  isFree([left, top, right, bottom]) {
    if (!(left >= 0 && top >= 0 && right <= this.within[0] && bottom <= this.within[1])) return false;
    return !this.areas.some(([a, b, c, d]) => left < c && right > a && top < d && bottom > b);
  }
}
