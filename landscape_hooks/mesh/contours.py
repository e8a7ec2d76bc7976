"""Contours: lines of equal loss by marching squares (contourpy), at round levels.

In: a Mesh made from a surface. Out: polylines that lie on the mesh, and the levels' losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh.mesh import Height, Mesh

Floats = NDArray[np.float64]

INDEX_EVERY = 5
"""Every fifth line is an index line, which is drawn heavier."""


@dataclass(frozen=True)
class Contour:
    """The lines of one level: `loss`, its `height`, whether it is a heavier index line, and polylines (N, 3)."""

    loss: float
    height: float
    index: bool
    lines: tuple[Floats, ...]


def levels(height: Height, count: int = 20) -> tuple[Floats, NDArray[np.bool_]]:
    """Losses (L,) of about `count` contour lines between the ends of `height`, and which are index lines (L,).

    Linear heights get steps of 1, 2 or 5 times a power of ten. Logarithmic heights get equal ratios: 5 or 10 lines a
    decade if the range is small. Index lines lie at 1, 2 or 5 times a power of ten if possible.
    """
    low, high = height.bounds
    if not high > low:
        return np.empty(0), np.empty(0, dtype=bool)
    if height.kind == "linear":
        step = nice_step((high - low) / count)
        first, last = int(np.floor(low / step)) + 1, int(np.ceil(high / step))
        numbers = np.arange(first, last)
        return numbers.astype(np.float64) * step, np.asarray(numbers % INDEX_EVERY == 0)
    per_decade = count / (high - low)
    divisions = min((1, 2, 5, 10, 20, 50, 100), key=lambda n: abs(np.log(n / per_decade)))
    numbers = np.arange(int(np.floor(low * divisions)) + 1, int(np.ceil(high * divisions)))
    losses: Floats = np.asarray(10.0 ** (numbers / divisions), dtype=np.float64)
    if divisions < 10:
        return losses, np.asarray(numbers % divisions == 0)
    # The index lines are 1, 2 and 5 times a power of ten themselves, not the equal ratios 1.995 and 5.01.
    tenths = numbers * 10 % (divisions * 10) // divisions
    index = (numbers * 10 % divisions == 0) & np.isin(tenths, (0, 3, 7))
    nominal = np.where(tenths == 3, 2.0, np.where(tenths == 7, 5.0, 1.0)) * 10.0 ** np.floor(numbers / divisions)
    return np.asarray(np.where(index, nominal, losses), dtype=np.float64), np.asarray(index, dtype=np.bool_)


def nice_step(raw: float) -> float:
    """The 1-2-5 number nearest to `raw` in ratio."""
    power = 10.0 ** np.floor(np.log10(raw))
    return float(min((1, 2, 5, 10), key=lambda m: abs(np.log(m * power / raw))) * power)


def contours(mesh: Mesh, count: int = 20) -> list[Contour]:
    """Marching squares on the four triangles of every cell; lines end at holes."""
    assert mesh.grid is not None
    losses, index = levels(mesh.height, count)
    heights = np.ma.masked_invalid(mesh.heights)
    generator: Any = contourpy.contour_generator(
        mesh.grid.beta,
        mesh.grid.alpha,
        heights,
        quad_as_tri=True,
        corner_mask=False,  # a cell with an unknown corner has no triangles, so it has no lines either
        line_type=contourpy.LineType.Separate,
    )
    found = []
    for loss, heavy in zip(losses, index, strict=True):
        level = float(mesh.height.of(loss))
        lines = tuple(
            np.column_stack([line[:, 1], line[:, 0], np.full(len(line), level)]) for line in generator.lines(level)
        )
        found.append(Contour(float(loss), level, bool(heavy), lines))
    return found
