"""Adaptive: a fine surface from few evaluations, coarse to fine, checked at held-back points.

In: the values at the points evaluated so far. Out: the points to evaluate next, and when there are none left, the
interpolated values of all others with the error estimated for each. Arithmetic on arrays only: `needed` says
which points to evaluate, so that an interrupted run makes the same decisions again.

The lattice of every s-th point carries a bicubic spline, through the logarithm of the loss where all of it is
positive (loss surfaces are smooth there). A cell is held against the loss itself at its midpoint; where the spline
errs by more than the tolerance, the cell's midpoints join the lattice of stride s/2, and so on down to single
points. What lies beside a hole (NaN, inf) is always evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.surface.lattice import lattice

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

COARSEST = 16
"""Stride of the first lattice at most; small grids begin with a finer one."""

LEAST = 9
"""Points an axis that the first lattice has at least."""

GAIN = 5.0
"""By how much halving the stride is trusted to shrink the error (a cubic spline's shrinks 16 times where smooth)."""

SAMPLED = 3
"""Where the error is expected below the tolerance, one cell in so many is checked (in the first lattice, each)."""


BAD_SHARE = 0.05
"""Of the held-back points so many may err by more than the tolerance."""

JUDGES = 64
"""Points held back at most (one in 300 of a grid, if that is fewer): spread at random, always the same."""


@dataclass(frozen=True)
class Filled:
    """All values of a surface: evaluated ones as they are, the others interpolated, with estimated relative errors."""

    loss: Floats
    error: Floats
    judged: Floats
    """relative errors found at the held-back points"""


@dataclass
class _Level:
    """One lattice: which rows and columns it has, its values (transformed), and the error expected in its cells."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: Floats
    error: Floats
    active: Mask
    expected: Floats


class Refinement:
    """The decisions for one surface.

    Parameters
    ----------
    loss, evaluated
        (A, B) values and where they count; both may grow between calls.
    tolerance
        relative error that interpolated values may have.
    least
        points an axis that the first lattice has at least.
    """

    def __init__(self, loss: Floats, evaluated: Mask, tolerance: float, least: int = LEAST) -> None:
        self.loss, self.evaluated, self.tolerance = loss, evaluated, tolerance
        self.have = evaluated
        self.first = self.coarsest = first_stride(loss.shape, least)

    def needed(self) -> NDArray[np.intp]:
        """Flat indices of the points to evaluate next; none when the surface can be filled."""
        found = self._judged()
        return found if isinstance(found, np.ndarray) else np.empty(0, dtype=np.intp)

    def filled(self) -> Filled:
        """The whole surface; call it when nothing is needed any more."""
        found = self._judged()
        if isinstance(found, np.ndarray):
            raise ValueError(f"{len(found)} points are still needed")
        return found

    def _judged(self) -> NDArray[np.intp] | Filled:
        """Refine; where the held-back points disagree with the result, once more from a finer first lattice."""
        judges = held_back(self.loss.shape)
        self.coarsest = self.first
        while True:
            found = self._blind(judges)
            if isinstance(found, np.ndarray):
                return found
            lacking = judges[~self.evaluated.ravel()[judges]]
            if len(lacking):
                return lacking
            used = self.have.ravel()[judges]
            error = self._errors(found.loss, judges[~used])
            if self.coarsest == 1 or (error > self.tolerance).sum() <= max(1, BAD_SHARE * len(error)):
                loss = np.where(self.evaluated, self.loss, found.loss)
                return Filled(loss, np.where(self.evaluated, 0.0, found.error), error)
            self.coarsest //= 2

    def _blind(self, judges: NDArray[np.intp]) -> NDArray[np.intp] | Filled:
        """Refine without the held-back points, except for those that the refinement itself asks for."""
        self.have = self.evaluated.copy()
        self.have.ravel()[judges] = False
        while True:
            found = self._run()
            if not isinstance(found, np.ndarray):
                return found
            known = self.evaluated.ravel()[found]
            if not known.any():
                return found
            self.have.ravel()[found[known]] = True

    def _run(self) -> NDArray[np.intp] | Filled:
        stride = self.coarsest
        level = self._first(stride)
        if isinstance(level, np.ndarray):
            return level
        while stride > 1:
            following = self._refined(level, stride, first=stride == self.coarsest)
            if isinstance(following, np.ndarray):
                return following
            level, stride = following, stride // 2
        return Filled(np.where(self.have, self.loss, self._back(level.values)), level.error, np.empty(0))

    def _errors(self, filled: Floats, index: NDArray[np.intp]) -> Floats:
        """Relative errors of interpolated values at held-back points (infinite where one of both is a hole)."""
        guess, truth = filled.ravel()[index], self.loss.ravel()[index]
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.abs(guess - truth) / np.maximum(np.abs(truth), 1e-3 * self._scale())
        return np.where(np.isfinite(error), error, np.inf)

    def _first(self, stride: int) -> _Level | NDArray[np.intp]:
        rows, columns = (lattice(n, stride) for n in self.loss.shape)
        lacking = self._lacking(np.ix_(rows, columns))
        if len(lacking):
            return lacking
        values = self._transformed()[np.ix_(rows, columns)]
        cells = (max(len(rows) - 1, 1), max(len(columns) - 1, 1))
        return _Level(rows, columns, values, np.zeros_like(values), np.ones(cells, bool), np.full(cells, np.inf))

    def _refined(self, level: _Level, stride: int, first: bool) -> _Level | NDArray[np.intp]:
        """The lattice of half the stride, or what has to be evaluated for it."""
        rows, columns = (lattice(n, stride // 2) for n in self.loss.shape)
        guess = spline(level, rows, columns)
        truth, have = self._transformed()[np.ix_(rows, columns)], self.have[np.ix_(rows, columns)]
        row_of, column_of = _cell_of(rows, level.rows), _cell_of(columns, level.columns)
        rough = _near(~np.isfinite(level.values), level.active.shape)
        whole = level.active & (rough | (np.isfinite(level.expected) & (level.expected > self.tolerance)))
        checked = level.active & ~whole & (True if first else _sampled(level.active.shape))
        while True:
            wanted = self._wanted(whole, checked, row_of, column_of)
            lacking = self._lacking_at(wanted & ~have, rows, columns)
            if len(lacking):
                return lacking
            gap = np.where(have & wanted, relative(guess, truth, self._scale()), 0.0)
            gap = np.where(np.isnan(gap), np.inf, gap)
            seen = _worst(gap, row_of, column_of, level.active.shape)
            wrong = (seen > self.tolerance) & (whole | checked)
            spread = _grown(wrong & ~whole) & level.active & ~whole
            more_whole = (whole | (wrong & level.active)) if (wrong & ~whole).any() else whole
            more_checked = (checked | spread) & ~more_whole
            if (more_whole == whole).all() and (more_checked == checked).all():
                break
            whole, checked = more_whole, more_checked
        return self._next(level, rows, columns, row_of, column_of, guess, truth, have, whole, checked, seen)

    def _next(
        self, level: _Level, rows: NDArray[np.intp], columns: NDArray[np.intp], row_of: NDArray[np.intp],
        column_of: NDArray[np.intp], guess: Floats, truth: Floats, have: Mask, whole: Mask, checked: Mask, seen: Floats,
    ) -> _Level:  # fmt: skip
        """The finer lattice: evaluated values, the spline's elsewhere; only cells refined as a whole stay active."""
        values = np.where(have, truth, guess)
        known = np.where(whole, seen / GAIN, np.where(checked, seen, 0.0))
        nearby = _grown_values(np.where(np.isfinite(known), known, 0.0))
        old = level.error if level.error.shape == known.shape else np.zeros_like(known)
        cell_error = np.where(level.active, nearby, old)
        inside = np.ix_(np.minimum(row_of, known.shape[0] - 1), np.minimum(column_of, known.shape[1] - 1))
        child_rows, child_columns = _cell_of(rows[:-1], level.rows), _cell_of(columns[:-1], level.columns)
        if len(rows) == 1:
            child_rows = np.zeros(1, dtype=np.intp)
        if len(columns) == 1:
            child_columns = np.zeros(1, dtype=np.intp)
        children = np.ix_(child_rows, child_columns)
        last = len(rows) == self.loss.shape[0] and len(columns) == self.loss.shape[1]
        error = cell_error[inside] if last else cell_error[children]
        return _Level(rows, columns, values, error, whole[children], (_grown_values(seen) / GAIN)[children])

    def _wanted(self, whole: Mask, checked: Mask, row_of: NDArray[np.intp], column_of: NDArray[np.intp]) -> Mask:
        """Points of the finer lattice: all of a whole cell with its edges, the midpoint of a checked one."""
        wanted = np.zeros((len(row_of), len(column_of)), dtype=bool)
        starts_r, starts_c = _starts(row_of, whole.shape[0]), _starts(column_of, whole.shape[1])
        for i, j in np.argwhere(whole):
            wanted[starts_r[i] : starts_r[i + 1] + 1, starts_c[j] : starts_c[j + 1] + 1] = True
        for i, j in np.argwhere(checked):
            wanted[(starts_r[i] + starts_r[i + 1]) // 2, (starts_c[j] + starts_c[j + 1]) // 2] = True
        return wanted

    def _lacking(self, index: tuple[NDArray[np.intp], ...]) -> NDArray[np.intp]:
        mask = np.zeros(self.loss.shape, dtype=bool)
        mask[index] = True
        return np.flatnonzero(mask & ~self.have)

    def _lacking_at(self, wanted: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.intp]:
        i, j = np.nonzero(wanted)
        return np.sort(np.ravel_multi_index((rows[i], columns[j]), self.loss.shape))

    def _logarithmic(self) -> bool:
        """Whether the loss is positive wherever it is finite on the first lattice (which never changes)."""
        rows, columns = (lattice(n, self.first) for n in self.loss.shape)
        coarse = np.where(self.have, self.loss, np.nan)[np.ix_(rows, columns)]
        return bool((coarse[np.isfinite(coarse)] > 0).all())

    def _scale(self) -> float:
        """What errors are relative to: 0 for a logarithm (its differences are relative), else the coarse range."""
        if self._logarithmic():
            return 0.0
        rows, columns = (lattice(n, self.first) for n in self.loss.shape)
        coarse = self.loss[np.ix_(rows, columns)]
        finite = coarse[np.isfinite(coarse)]
        return float(np.ptp(finite)) if finite.size and np.ptp(finite) > 0 else 1.0

    def _transformed(self) -> Floats:
        if not self._logarithmic():
            return np.where(self.have, self.loss, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.have & (self.loss > 0), np.log(np.where(self.loss > 0, self.loss, 1.0)), np.nan)

    def _back(self, values: Floats) -> Floats:
        return np.exp(values) if self._logarithmic() else values


def held_back(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Flat indices of the points that judge the result and take no part in it."""
    size = int(np.prod(shape))
    return np.sort(np.random.default_rng(0).permutation(size)[: min(JUDGES, size // 300)])


def first_stride(shape: tuple[int, ...], least: int = LEAST) -> int:
    """The largest power of two up to COARSEST that leaves `least` points an axis (1 on a small grid)."""
    stride = COARSEST
    while stride > 1 and min(((n - 1) // stride + 1 for n in shape if n > 1), default=1) < least:
        stride //= 2
    return stride


def spline(level: _Level, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Floats:
    """The bicubic spline through a lattice at finer rows and columns; holes are bridged for the sake of the others."""
    from scipy.interpolate import make_interp_spline

    values = bridged(level.values)
    for axis, (coarse, fine) in enumerate(((level.rows, rows), (level.columns, columns))):
        degree = min(3, len(coarse) - 1)
        if degree < 1:
            continue
        values = make_interp_spline(coarse, values, k=degree - (degree == 2), axis=axis)(fine)
    return values


def bridged(values: Floats) -> Floats:
    """Holes take the value of the nearest finite neighbour: a spline is global. None of it is ever stored."""
    hole = ~np.isfinite(values)
    if not hole.any():
        return values
    if hole.all():
        return np.zeros_like(values)
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(hole, return_distances=False, return_indices=True)
    return values[tuple(nearest)]


def relative(guess: Floats, truth: Floats, scale: float) -> Floats:
    """Relative error of the guess: of a logarithm where `scale` is 0, else of the value (or of scale/1000)."""
    if scale == 0.0:
        return np.abs(np.expm1(np.clip(guess - truth, -50, 50)))
    return np.abs(guess - truth) / np.maximum(np.abs(truth), 1e-3 * scale)


def _cell_of(fine: NDArray[np.intp], coarse: NDArray[np.intp]) -> NDArray[np.intp]:
    """The cell (interval between neighbouring coarse positions) that each fine position lies in."""
    return np.clip(np.searchsorted(coarse, fine, side="right") - 1, 0, max(len(coarse) - 2, 0))


def _starts(cell_of: NDArray[np.intp], cells: int) -> NDArray[np.intp]:
    """The first fine position of each cell, and the last position of all."""
    return np.append(np.searchsorted(cell_of, np.arange(cells)), len(cell_of) - 1)


def _worst(gap: Floats, row_of: NDArray[np.intp], column_of: NDArray[np.intp], shape: tuple[int, ...]) -> Floats:
    """The largest gap in each cell."""
    worst = np.zeros(shape)
    np.maximum.at(worst, np.ix_(row_of, column_of), gap)
    return worst


def _near(hole: Mask, cells: tuple[int, ...]) -> Mask:
    """Cells with a hole at a corner or one cell further."""
    corner = np.zeros(cells, dtype=bool)
    for di in (0, 1):
        for dj in (0, 1):
            part = hole[di : di + cells[0], dj : dj + cells[1]]
            corner[: part.shape[0], : part.shape[1]] |= part
    return _grown(corner)


def _grown(mask: Mask) -> Mask:
    """The mask and its eight neighbours."""
    return _grown_values(mask.astype(float)) > 0


def _grown_values(values: Floats) -> Floats:
    """The largest value among each cell and its eight neighbours."""
    from scipy.ndimage import maximum_filter

    return maximum_filter(values, size=3, mode="nearest")


def _sampled(shape: tuple[int, ...]) -> Mask:
    """Cells that are checked: one in SAMPLED, spread evenly, always the same."""
    i, j = np.indices(shape)
    return (i + 2 * j) % SAMPLED == 0
