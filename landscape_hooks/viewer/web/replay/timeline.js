// Timeline: which moment of the replay is shown (viewer/replay/timeline.py). Time comes in as seconds passed; a
// position is a fractional number of a snapshot.

import { between, clamp, rankOf } from "../geometry/numbers.js";

/** @typedef {import("../geometry/data.js").Path} Path */

export const SPEEDS = [0.25, 0.5, 1, 2, 4, 10];
export const CLOCKS = ["step", "epoch", "arc length"];

/** Seconds that a whole replay takes at speed 1. */
const DURATION = 8;
/** Seconds that a looping replay shows its end before it starts again. */
const HOLD = 1;

export class Timeline {
  /** @param {Path | undefined} path */
  constructor(path) {
    this.clock = "step";
    this.position = 0;
    this.playing = false;
    this.speed = 1;
    this.loop = true;
    this._wait = 0;
    /** For every clock its reading at the snapshots */
    this.clocks = clocksOf(path);
    this.position = this.last;
  }

  /** Take the clocks of a path. @param {Path | undefined} path */
  take(path) {
    this.clocks = clocksOf(path);
    if (!this.clocks.has(this.clock)) this.clock = "step";
  }

  get length() {
    return (this.clocks.get("step") ?? []).length;
  }

  get last() {
    return Math.max(this.length - 1, 0);
  }

  /** Number of the snapshot that is shown: the last one reached. */
  get index() {
    return Math.floor(this.position + 1e-9);
  }

  get _reading() {
    return /** @type {Float64Array} */ (this.clocks.get(this.clock));
  }

  /** The place on the clock, 0 … 1, of a position. @param {number} position */
  shareOf(position) {
    const reading = this._reading;
    const span = reading[reading.length - 1] - reading[0];
    return reading.length > 1 && span > 0 ? (between(position, reading) - reading[0]) / span : 0;
  }

  /** Share of the replay that has passed, by the clock. */
  get fraction() {
    return this.shareOf(this.position);
  }

  /** The position at a share of the replay. @param {number} fraction */
  at(fraction) {
    const reading = this._reading;
    const span = reading[reading.length - 1] - reading[0];
    if (reading.length < 2 || !(span > 0)) return 0;
    const now = reading[0] + clamp(fraction, 0, 1) * span;
    let right = rankOf(reading, now);
    while (right > 0 && reading[right - 1] >= now) right--;
    right = clamp(right, 1, reading.length - 1);
    const width = reading[right] - reading[right - 1];
    return right - 1 + (width > 0 ? (now - reading[right - 1]) / width : 1);
  }

  /** Let time pass while playing; returns whether the picture changes. @param {number} seconds */
  advance(seconds) {
    if (!this.playing || this.length < 2) return false;
    if (this.position >= this.last) {
      if (!this.loop) {
        this.playing = false;
        return true; // the button changes its name
      }
      this._wait += seconds;
      if (this._wait < HOLD) return false;
      this._wait = 0;
      this.position = 0;
      return true;
    }
    this.scrub(this.fraction + (seconds * this.speed) / DURATION);
    return true;
  }

  /** Go to a share of the replay. @param {number} fraction */
  scrub(fraction) {
    this.position = fraction >= 1 ? this.last : this.at(fraction);
  }

  /** Play or pause; at the end, play again from the start. */
  toggle() {
    this.playing = !this.playing;
    if (this.playing && this.position >= this.last) this.position = 0;
  }

  /** Pause, and go some snapshots on or back. @param {number} count */
  step(count) {
    this.playing = false;
    const start = count > 0 ? this.index : Math.ceil(this.position - 1e-9);
    this.position = clamp(start + count, 0, this.last);
  }

  /** Take the next higher or lower speed. @param {number} by */
  faster(by) {
    this.speed = SPEEDS[clamp(SPEEDS.indexOf(this.speed) + by, 0, SPEEDS.length - 1)];
  }

  /** Change the clock; the moment shown stays. */
  nextClock() {
    const names = CLOCKS.filter((name) => this.clocks.has(name));
    this.clock = names[(names.indexOf(this.clock) + 1) % names.length];
  }
}

/** For every clock that a path has its reading at the snapshots. @param {Path | undefined} path */
function clocksOf(path) {
  const clocks = new Map([["step", path ? path.step : new Float64Array(0)]]);
  if (path && rises(path.epoch)) clocks.set("epoch", path.epoch);
  const arc = path ? arcOf(path.coordinates) : new Float64Array(0);
  if (arc.length && arc[arc.length - 1] > 0) clocks.set("arc length", arc);
  return clocks;
}

/** Whether a reading is finite, never falls, and rises. @param {Float64Array} values */
function rises(values) {
  if (!values.length || !values.every(Number.isFinite)) return false;
  return values.every((value, k) => k === 0 || value >= values[k - 1]) && values[values.length - 1] > values[0];
}

/** Length of the path up to each snapshot. @param {Float64Array} coordinates (T, 2) */
function arcOf(coordinates) {
  const arc = new Float64Array(coordinates.length / 2);
  for (let n = 1; n < arc.length; n++) {
    const jump = Math.hypot(coordinates[2 * n] - coordinates[2 * n - 2], coordinates[2 * n + 1] - coordinates[2 * n - 1]);
    arc[n] = arc[n - 1] + (Number.isNaN(jump) ? 0 : jump);
  }
  return arc;
}
