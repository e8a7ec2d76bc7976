"""Plot: the losses along the paths, and the read-out of the moment, in the lower corners of the picture.

In: a Pen, a Replay and where they lie. Out: shapes and texts. Every run has its colour in both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh import colors
from landscape_hooks.surface.digits import Labels, text_of
from landscape_hooks.surface.surface import Path
from landscape_hooks.viewer.gl.pen import Pen
from landscape_hooks.viewer.replay.landscape import Strip
from landscape_hooks.viewer.replay.replay import Replay, describe_moment
from landscape_hooks.viewer.replay.taken import Box

Floats = NDArray[np.float64]
Plot = tuple[float, float, float, float]
"""x, y, width and height of the curves."""

MOST = 8
"""Runs that a read-out lists."""


STRIP = 40.0
"""Height of the strip with the sharpness, above the losses."""

SHARP = (0.95, 0.62, 0.28), (0.78, 0.36, 0.08)
"""Colour of the sharpness on a dark and on a light ground."""


def panel_of(plot: Plot, unit: float, *, strip: bool = False) -> Box:
    """What lies behind the plot of the losses and its words, and the strip above it: left, top, right, bottom."""
    x, y, width, height = plot
    above = 30 + (STRIP + 26 if strip else 0)
    return (x - 10 * unit, y - above * unit, x + width + 62 * unit, y + height + 26 * unit)


def draw_plot(pen: Pen, replay: Replay, plot: Plot) -> None:
    """The losses at the snapshots and on the surface. One run has its own colour only on the surface; of several, the
    losses at the snapshots are dashed."""
    theme, unit = replay.look.colors, pen.unit
    x, y, width, height = plot
    paths, alone = replay.landscape.paths, len(replay.landscape.paths) == 1
    left, top, right, bottom = panel_of(plot, unit, strip=replay.landscape.strip is not None)
    pen.box((left, top), (right, bottom), theme.panel, alpha=0.0 if replay.look.transparent else 0.55, rounding=6)
    values = np.concatenate([v for path in paths for v in (path.loss, path.plane_loss)])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    logarithmic = values.min() > 0 and values.max() / values.min() > 10
    change = np.log10 if logarithmic else np.asarray
    low, high = float(change(values.min())), float(change(values.max()))
    high = high if high > low else low + 1

    def place(path: Path, losses: Floats) -> Floats:
        rows = telling(losses, int(width))
        clock = replay.timeline_shares(rows / max(len(path) - 1, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (change(losses[rows]) - low) / (high - low)
        return np.column_stack([x + width * clock, y + height * (1 - np.where(np.isfinite(share), share, np.nan))])

    for number, path in enumerate(paths):
        color = colors.rgb(colors.path_color(number))
        pen.polyline(place(path, path.plane_loss), color, width=1.8)
        if alone:
            pen.polyline(place(path, path.loss), theme.ink, width=1.2, alpha=0.9)
        else:
            pen.dashes(place(path, path.loss), color, width=1.3)
    cursor, above = x + width * replay.timeline.fraction, 4 * unit
    if (strip := replay.landscape.strip) is not None:
        _strip(pen, replay, strip, plot)
        above = (STRIP + 36) * unit
    pen.line((cursor, y - above), (cursor, y + height + 4 * unit), theme.ink, alpha=0.75)
    pen.line((x, y + height + 4 * unit), (x + width, y + height + 4 * unit), theme.faint, alpha=0.5)
    labels = Labels.between(float(values.min()), float(values.max()))
    _legend(pen, replay, plot, labels, "log" if logarithmic else "linear")
    ends = labels.texts((float(values.max()), float(values.min())))
    for text, level in zip(ends, (y, y + height), strict=True):
        pen.text(x + width + 6 * unit, level - 7 * unit, text, theme.faint, size=11.5)


def _strip(pen: Pen, replay: Replay, strip: Strip, plot: Plot) -> None:
    """The sharpness of the first run and the threshold of its steps (dashed), on an axis from 0, above the losses."""
    theme, unit = replay.look.colors, pen.unit
    x, y, width, _ = plot
    high, bottom = STRIP * unit, y - 34 * unit
    color = SHARP[0 if theme.name == "dark" else 1]
    clock = x + width * replay.timeline_shares(strip.share)
    pen.line((x, bottom), (x + width, bottom), theme.faint, alpha=0.5)
    pen.polyline(np.column_stack([clock, bottom - high * strip.value / strip.top]), color, width=1.6)
    limits = np.where(strip.limit <= strip.top, strip.limit, np.nan)
    pen.dashes(np.column_stack([clock, bottom - high * limits / strip.top]), theme.ink, width=1.2, alpha=0.8)
    top, middle = bottom - high - 20 * unit, bottom - high - 11 * unit
    pen.line((x, middle), (x + 18 * unit, middle), color, width=2)
    pen.text(x + 23 * unit, top, "sharpness", theme.ink, size=12.5)
    place = x + 37 * unit + pen.width("sharpness", 12.5)
    if np.isfinite(limits).any():
        pen.dashes(np.array([[place, middle], [place + 18 * unit, middle]]), theme.ink, width=1.4)
        pen.text(place + 23 * unit, top, "threshold of the step", theme.ink, size=12.5)
    pen.text(x + width + 6 * unit, bottom - high - 7 * unit, text_of(strip.top), theme.faint, size=11.5)
    pen.text(x + width + 6 * unit, bottom - 7 * unit, "0", theme.faint, size=11.5)


def _legend(pen: Pen, replay: Replay, plot: Plot, labels: Labels, scale: str) -> None:
    """What the curves are, and the first and last step."""
    theme, unit = replay.look.colors, pen.unit
    x, y, width, height = plot
    alone = len(replay.landscape.paths) == 1
    top, middle = y - 26 * unit, y - 17 * unit
    place = x
    pen.text(place, top, labels.name("loss"), theme.faint, size=12.5)
    place += pen.width(labels.name("loss"), 12.5) + 14 * unit
    if alone:
        pen.line((place, middle), (place + 18 * unit, middle), theme.ink, width=1.4)
    else:
        pen.dashes(np.array([[place, middle], [place + 18 * unit, middle]]), theme.ink, width=1.4)
    pen.text(place + 23 * unit, top, "true", theme.ink, size=12.5)
    place += 23 * unit + pen.width("true", 12.5) + 14 * unit
    first = colors.rgb(colors.path_color(0)) if alone else theme.ink
    pen.line((place, middle), (place + 18 * unit, middle), first, width=2)
    pen.text(place + 23 * unit, top, "on the surface", theme.ink, size=12.5)
    place += 23 * unit + pen.width("on the surface", 12.5)
    if place + 8 * unit + pen.width(scale, 11.5) < x + width + 56 * unit:
        pen.text(x + width + 56 * unit, top, scale, theme.faint, size=11.5, align=1)
    steps = replay.landscape.paths[0].step
    below = y + height + 7 * unit
    clock = "step" if replay.timeline.clock == "step" else f"step, spaced by {replay.timeline.clock}"
    ends = [f"{steps[0]}", f"{steps[-1]}"]
    sides = 2 * max(pen.width(text, 11.5) for text in ends) + 12 * unit
    pen.text(x, below, ends[0], theme.faint, size=11.5)
    pen.text(x + width, below, ends[1], theme.faint, size=11.5, align=1)
    if pen.width(clock, 11.5) + sides < width:
        pen.text(x + width / 2, below, clock, theme.faint, size=11.5, align=0.5)


def read_out(replay: Replay) -> list[list[str]]:
    """What is known of the moment shown, as rows of cells: a name and a value; of several runs a table with a head."""
    runs = replay.landscape.paths
    if len(runs) == 1:
        return [[name, text] for name, text in _texts(replay, 0).items() if text]
    names = ("step", "true loss", "plane loss", "off-plane")
    rows = [["", *names]]
    for number, path in enumerate(runs[:MOST]):
        texts = _texts(replay, number)
        label = path.label or f"run {number + 1}"
        rows.append([label if len(label) <= 14 else f"{label[:13]}…", *(texts[name] or "-" for name in names)])
    return rows + ([[f"and {len(runs) - MOST} more"]] if len(runs) > MOST else [])


def _texts(replay: Replay, number: int) -> dict[str, str]:
    """Names and words of what was measured at the moment of a run; "" where it is not known."""
    moment = describe_moment(replay, number)
    tiny = 1e-9 * max(replay.landscape.lengths[number], 1e-300)
    texts = {
        "step": f"{moment['step']}",
        "epoch": f"{moment['epoch']:.2f}",
        "learning rate": f"{moment['learning rate']:.3g}",
        "true loss": text_of(moment["true loss"], replay.resolution),
        "plane loss": text_of(moment["plane loss"], replay.resolution),
        "off-plane": f"{moment['off-plane']:.3g}" if moment["off-plane"] > tiny else "0",
    }
    return {name: text if np.isfinite(moment[name]) else "" for name, text in texts.items()}


def _widths(pen: Pen, rows: list[list[str]]) -> list[float]:
    """Widths of the columns of a read-out with the space before each."""
    whole = [row for row in rows if len(row) == max(map(len, rows))]
    return [max(pen.width(row[k], 14) for row in whole) + 16 * pen.unit for k in range(len(whole[0]))]


def read_out_box(pen: Pen, replay: Replay, size: tuple[int, int]) -> Box:
    """Where the read-out lies in the picture."""
    rows = read_out(replay)
    widths = _widths(pen, rows)
    width = max(sum(widths), 174 * pen.unit if len(rows[0]) == 2 else 0.0)
    right, bottom = size[0] - 22 * pen.unit, size[1] - 20 * pen.unit
    return (max(right - width, 4.0), bottom - 19 * len(rows) * pen.unit, right, bottom)


def draw_read_out(pen: Pen, replay: Replay, box: Box) -> None:
    """The rows of `read_out`; a run has a dot of its colour."""
    theme, rows = replay.look.colors, read_out(replay)
    left, y, right, _ = box
    several = len(rows[0]) > 2
    widths = _widths(pen, rows)
    for number, row in enumerate(rows):
        if several and 0 < number <= MOST and len(row) > 1:
            color = colors.rgb(colors.path_color(number - 1))
            pen.dot(left - 2 * pen.unit, y + 8 * pen.unit, 4, color)
        pen.text(left + (8 if several else 0) * pen.unit, y, row[0], theme.faint, size=13)
        place = right
        for k in range(len(row) - 1, 0, -1):
            head = several and number == 0
            pen.text(place, y, row[k], theme.faint if head else theme.ink, size=13 if head else 14, align=1)
            place -= widths[k]
        y += 19 * pen.unit


def telling(values: Floats, pixels: int) -> NDArray[np.intp]:
    """The rows of a curve that show on so many pixels: the lowest and the highest value on each, and both ends."""
    count = len(values)
    if count <= 4 * pixels:
        return np.arange(count)
    length = -(-count // pixels)
    padded = np.full(length * pixels, np.nan)
    padded[:count] = values
    bins = padded.reshape(pixels, length)
    low = np.argmin(np.where(np.isnan(bins), np.inf, bins), axis=1)
    high = np.argmax(np.where(np.isnan(bins), -np.inf, bins), axis=1)
    starts = np.arange(pixels) * length
    rows = np.concatenate([starts + low, starts + high, [0, count - 1]])
    return np.unique(np.minimum(rows, count - 1))
