"""Smooth: the heights of a grid at finer points, for contour lines without corners.

In: a grid of heights, with NaN where there is none. Out: a finer grid, on bicubic patches with continuous slopes. The
heights at the grid's own points are the same. This is the one place that says what lies between the grid points of a
figure. (The mesh itself, which window, page and PLY show, has flat triangles between them.)

A cell's patch is the bicubic Hermite polynomial (de Boor 1962) of the heights and slopes at its four corners. A slope
is that of the parabola through a point and its neighbours, limited as by Fritsch and Carlson (1980), so that a cliff
does not overshoot. So the patch is local: a hole or a spike changes the cells around it only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh.mesh import Mesh

Floats = NDArray[np.float64]

POINTS = 200
"""Points a side that a finer grid has at least; finer ones are not seen in print."""

SAID = "lines: bicubic between the grid points"
"""What a figure that is drawn from it says."""


def finer(mesh: Mesh) -> tuple[Floats, Floats, Floats]:
    """Alpha (A',), beta (B',) and heights (A', B') of the finer grid of a mesh that was made from a surface.

    A cell with a corner that has no finite loss has NaN inside, as the mesh has no triangles there.
    """
    assert mesh.grid is not None
    alpha, beta, heights = mesh.grid.alpha, mesh.grid.beta, mesh.heights
    parts = [max(1, -(-POINTS // (len(axis) - 1))) for axis in (alpha, beta)]
    if parts == [1, 1]:
        return alpha, beta, heights
    along, across = slopes(heights, alpha, 0), slopes(heights, beta, 1)
    twist = (slopes(along, beta, 1) + slopes(across, alpha, 0)) / 2
    rows, columns = _basis(alpha, parts[0]), _basis(beta, parts[1])
    known, fine = np.isfinite(heights), np.zeros((len(rows[0]), len(columns[0])))
    for value, (row, column) in zip(
        (heights, along, across, twist),
        ((rows[0], columns[0]), (rows[1], columns[0]), (rows[0], columns[1]), (rows[1], columns[1])),
        strict=True,
    ):
        fine += row @ np.where(known, value, 0.0) @ column.T
    fine = np.clip(fine, *mesh.height.bounds)
    fine[_inside(mesh.open_cells, parts)] = np.nan
    fine[:: parts[0], :: parts[1]] = heights
    return _split(alpha, parts[0]), _split(beta, parts[1]), fine


def slopes(heights: Floats, at: Floats, axis: int) -> Floats:
    """Slopes (A, B) of the heights along an axis with the coordinates `at`; NaN where there is no height.

    At an edge, or beside a hole, it is the slope towards the one neighbour; 0 where there is none.
    """
    values = np.moveaxis(heights, axis, 0)
    steps = np.diff(at).reshape(-1, *([1] * (values.ndim - 1)))
    nowhere = np.full((1, *values.shape[1:]), np.nan)
    chords = np.diff(values, axis=0) / steps
    before, after = np.concatenate([nowhere, chords]), np.concatenate([chords, nowhere])
    left, right = np.concatenate([steps[:1], steps]), np.concatenate([steps, steps[-1:]])
    parabola = (before * right + after * left) / (left + right)
    least = np.minimum(np.abs(before), np.abs(after))
    # three times the flatter chord keeps a rise a rise; at a top or a bottom the parabola leans by one at most
    limit = np.where(np.sign(before) * np.sign(after) > 0, 3 * least, least)
    slope = np.clip(parabola, -limit, limit)
    slope = np.where(np.isnan(before), after, np.where(np.isnan(after), before, slope))
    slope = np.where(np.isfinite(values), np.nan_to_num(slope, nan=0.0), np.nan)
    return np.moveaxis(slope, 0, axis)


def _split(axis: Floats, parts: int) -> Floats:
    """An axis with every interval cut into equal parts; its own points are the same numbers."""
    numbers = np.arange((len(axis) - 1) * parts + 1) / parts
    fine = np.interp(numbers, np.arange(len(axis)), axis)
    fine[::parts] = axis
    return np.asarray(fine, dtype=np.float64)


def _basis(axis: Floats, parts: int) -> tuple[Floats, Floats]:
    """Matrices (fine points, points) of cubic Hermite interpolation: of the values, and of the slopes."""
    count = (len(axis) - 1) * parts + 1
    cell = np.minimum(np.arange(count) // parts, len(axis) - 2)
    t = np.arange(count) / parts - cell
    width = np.diff(axis)[cell]
    values, rises = np.zeros((count, len(axis))), np.zeros((count, len(axis)))
    row = np.arange(count)
    values[row, cell], values[row, cell + 1] = (1 + 2 * t) * (1 - t) ** 2, t**2 * (3 - 2 * t)
    rises[row, cell], rises[row, cell + 1] = width * t * (1 - t) ** 2, width * t**2 * (t - 1)
    return values, rises


def _inside(open_cells: NDArray[np.bool_], parts: list[int]) -> NDArray[np.bool_]:
    """Fine points that belong to open cells only: an edge that an open cell shares with a whole one has heights."""
    cells = []
    for count, part in zip(open_cells.shape, parts, strict=True):
        numbers = np.arange(count * part + 1)
        cells.append((np.maximum(numbers - 1, 0) // part, np.minimum(numbers // part, count - 1)))
    rows, columns = cells
    return np.logical_and.reduce([open_cells[np.ix_(row, column)] for row in rows for column in columns])
