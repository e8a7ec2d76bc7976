"""Bar: the colour bar in the upper right corner of the picture: of the losses, or of a difference.

In: a Pen, a Replay and the size of the picture. Out: shapes and texts.
"""

from __future__ import annotations

from dataclasses import dataclass

from landscape_hooks.mesh import colors
from landscape_hooks.mesh.pair import DIVERGING
from landscape_hooks.viewer.gl.pen import Pen
from landscape_hooks.viewer.replay.replay import Replay
from landscape_hooks.viewer.replay.taken import Box, Taken

BANDS = 64
LONGEST = 22
"""Letters of a name above the bar; of a longer one the caption says what A and B are."""


@dataclass(frozen=True)
class Scale:
    """What a bar says: its name, its colour map, and labels at shares of its length, from the lower end."""

    name: str
    colormap: str
    ticks: list[tuple[float, str]]


def scale_of(replay: Replay) -> Scale | None:
    """The scale of what the surface's colours are; None where they say nothing."""
    mesh, compared = replay.landscape.mesh, replay.landscape.difference
    if compared is not None:
        values, labels = compared.ticks
        shares = (values / compared.limit + 1) / 2
        name = compared.name if len(compared.name) <= LONGEST else compared.short_name
        return Scale(name, DIVERGING, list(zip(shares.tolist(), labels, strict=True)))
    if mesh.grid is None or replay.look.colormap == "grey":
        return None
    low, high = mesh.height.bounds
    heights, labels = replay.stage.ticks(2)
    ticks = [
        ((height - low) / (high - low) if high > low else 0.5, label)
        for height, label in zip(heights.tolist(), labels, strict=True)
        if low <= height <= high
    ]
    return Scale(mesh.height.labels.name("loss"), replay.look.line_colormap, ticks)


def bar_box(pen: Pen, replay: Replay, size: tuple[int, int]) -> Box | None:
    """What the bar and its labels take; None where there is none."""
    scale, unit = scale_of(replay), pen.unit
    if scale is None:
        return None
    words = max((pen.width(label, 12.5) for _, label in scale.ticks), default=0.0)
    wide = max(96 * unit, words + 34 * unit, pen.width(scale.name, 13) + 12 * unit)
    return (size[0] - wide - 10 * unit, 0.0, float(size[0]), 58 * unit + min(230 * unit, 0.42 * size[1]))


def draw_bar(pen: Pen, replay: Replay, box: Box) -> None:
    """The bar, lowest value below, with its name above it."""
    scale, theme, unit = scale_of(replay), replay.look.colors, pen.unit
    if scale is None:
        return
    x, y, width = box[0] + 10 * unit, 46 * unit, 12 * unit
    height = box[3] - 58 * unit
    table = colors.table(scale.colormap) / 255.0
    for k in range(BANDS):
        upper, lower = table[255 - k * 255 // BANDS], table[255 - (k + 1) * 255 // BANDS]
        pen.gradient((x, y + height * k / BANDS), (x + width, y + height * (k + 1) / BANDS), upper, lower)
    pen.text(x, y - 24 * unit, scale.name, theme.ink, size=13)
    free = Taken((box[2], box[3] + 40 * unit))
    for share, label in scale.ticks:
        level = y + height * (1 - share)
        words = (x, level - 7 * unit, x + 1, level + 7 * unit)
        if free.is_free(words):
            free.take(words)
            pen.line((x + width, level), (x + width + 4 * unit, level), theme.faint)
            pen.text(x + width + 8 * unit, level - 7.5 * unit, label, theme.ink, size=12.5)
