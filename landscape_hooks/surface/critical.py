"""Critical points: the minima of a surface, its saddles, and the lowest pass between two minima.

In: a Surface. Out: a `CriticalPoint` for each, with its persistence: how far the loss rises from a minimum to the
lowest pass to a lower one. They follow from the grid, so nothing is stored. No torch here.

Only losses that were evaluated count. Two grid points are neighbours if they touch, diagonally, too. An interpolated
point has no loss of its own here: it belongs to the nearest evaluated point, and what belongs to two evaluated points
that touch makes them neighbours. A point without a loss (not computed, NaN, -inf) is a hole: nothing is said across it.
A loss of +inf is a wall.

Minima and the passes between them are the merge tree of the sublevel sets: grid points are added from the lowest loss
up, and where two parts meet there is a pass, at which the minimum of the higher part ends (Edelsbrunner, Letscher &
Zomorodian 2002, https://doi.org/10.1007/s00454-002-2885-2). The other saddles close a ring around a maximum; they are
the same tree of the superlevel sets, of which points that touch diagonally are no neighbours and all that lies outside
the grid is one part. Equal losses are ordered as the grid is, so that a plateau is one point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.surface.surface import Surface

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Place = tuple[int, int]

ERRORS = 2.0
"""A persistence is real if it is more than so many standard errors of the difference."""

ROUNDING = {"float64": 1e-12, "bfloat16": 1e-2}
OF_FLOAT32 = 3e-7
"""Relative errors of a loss by rounding, by the precision it is computed in."""

TOUCHING = ((0, 1), (1, 0), (1, 1), (1, -1))
SIDES = ((0, 1), (1, 0))
"""Half of the steps to a neighbour: of eight, and of four."""


@dataclass(frozen=True)
class CriticalPoint:
    """A minimum or a saddle of the drawn grid.

    Attributes
    ----------
    kind
        "minimum", or "saddle": of these a pass joins two minima (`between`), the others close a ring.
    place
        row and column of the grid.
    coordinates
        alpha and beta.
    loss, loss_stderr
        the loss there and its standard error.
    persistence
        of a minimum, how far its loss lies below the lowest pass to a lower minimum; inf for the lowest of all. Where
        holes cut it off from the others, how far it lies below the lowest point beside them, which is the least that
        it can be. Of a pass, that of the minimum that ends there; of another saddle, how far it lies below the maximum.
    noise
        twice the standard error of that difference, and the rounding of both losses. The two losses are of the same
        samples; how they go together is not stored. So the error is √(s² + s'²), that of different samples: more than
        the true one wherever a sample that is hard at one point is hard at the other.
    at_edge
        whether it lies on the edge of the grid or of a hole. The loss beyond it may be lower.
    ends_at
        of a minimum, the place of the pass at which it ends; None for the lowest of all, or cut off by holes.
    between
        of a pass, the places of the two minima: the one that ends there, and the lowest of the part that it joins.
    """

    kind: Literal["minimum", "saddle"]
    place: Place
    coordinates: tuple[float, float]
    loss: float
    loss_stderr: float
    persistence: float
    noise: float
    at_edge: bool = False
    ends_at: Place | None = None
    between: tuple[Place, Place] | None = None

    @property
    def real(self) -> bool:
        """Whether its persistence is more than noise."""
        return self.persistence > self.noise


def critical_points(surface: Surface) -> tuple[CriticalPoint, ...]:
    """The minima of a surface, from the lowest up, and its saddles, likewise, whether they are real or not.

    Parameters
    ----------
    surface
        a plane or a line; where it is not complete, what is there of it.

    Returns
    -------
    tuple of CriticalPoint
        empty where no loss is finite. `real` says which of them are more than noise, and `at_edge` which may be no
        critical points of the loss, but of the part of it that was drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from landscape_hooks import Surface, critical_points
    >>> x = np.linspace(-1.5, 1.5, 31)
    >>> loss = np.add.outer((x**2 - 1) ** 2, x**2)
    >>> whole, unknown = np.ones(loss.shape, dtype=bool), np.full(loss.shape, np.nan)
    >>> well = Surface(x, x, loss, unknown, whole, np.full(2, np.nan), (), {})
    >>> [(point.kind, round(point.coordinates[0], 6), point.loss.round(6)) for point in critical_points(well)]
    [('minimum', -1.0, 0.0), ('minimum', 1.0, 0.0), ('saddle', 0.0, 1.0)]
    """
    cells = _Cells(surface)
    if not cells.finite.any():
        return ()
    minima, passes = _minima(cells)
    found = sorted([*passes, *_rings(cells)], key=lambda point: (point.loss, point.place))
    return (*sorted(minima, key=lambda point: (point.loss, point.place)), *found)


def lowest_pass(points: Sequence[CriticalPoint], one: CriticalPoint, other: CriticalPoint) -> CriticalPoint | None:
    """The lowest pass between two minima of `points`: the least height over which a way on the grid leads.

    None where there is no way over points that are known.
    """
    passes = [(point, point.between) for point in points if point.between is not None]
    reached: dict[Place, CriticalPoint | None] = {one.place: None}
    todo = deque([one.place])
    while todo:
        here = todo.popleft()
        for point, ends in passes:
            if here not in ends:
                continue
            there = ends[1] if ends[0] == here else ends[0]
            if there not in reached:
                highest = reached[here]
                reached[there] = point if highest is None or point.loss > highest.loss else highest
                todo.append(there)
    return reached.get(other.place)


# -- the grid as points and neighbours ---------------------------------------------------------------------------
class _Cells:
    """The evaluated points of a surface, and what belongs to each of them. Points are flat indices of the grid."""

    def __init__(self, surface: Surface) -> None:
        self.surface, self.shape = surface, surface.shape
        self.loss = np.where(surface.evaluated, surface.loss, np.nan).ravel()
        self.owner = _owners(surface.evaluated, surface.present)
        value = np.where(self.owner >= 0, self.loss[self.owner], np.nan)
        self.finite, self.wall = np.isfinite(value), value == np.inf
        self.points = np.unique(self.owner[self.finite])
        self.error = surface.loss_stderr.ravel()
        self.rounding = ROUNDING.get(surface.definition.precision, OF_FLOAT32)

    def edges(self, steps: Sequence[Place], inside: NDArray[np.bool_]) -> Indices:
        """(E, 2) neighbouring points of the pixels `inside` (A, B)."""
        pairs = [np.empty((0, 2), dtype=np.intp)]
        for first, second in (_shifted(self.shape, step) for step in steps):
            both = inside[first] & inside[second]
            pairs.append(np.column_stack([self.owner[first][both], self.owner[second][both]]))
        found = np.sort(np.concatenate(pairs), axis=1)
        return np.unique(found[found[:, 0] != found[:, 1]], axis=0)

    @cached_property
    def hole(self) -> NDArray[np.bool_]:
        """(A, B) pixels without a loss."""
        return ~self.finite & ~self.wall

    @cached_property
    def border(self) -> NDArray[np.bool_]:
        """(A, B) pixels at the end of an axis that has more than one."""
        found = np.zeros(self.shape, dtype=bool)
        for axis, count in enumerate(self.shape):
            if count > 1:
                np.moveaxis(found, axis, 0)[[0, -1]] = True
        return found

    def beside_hole(self, steps: Sequence[Place]) -> set[int]:
        """Points of which a pixel is a neighbour of a hole."""
        found: list[int] = []
        for first, second in (_shifted(self.shape, step) for step in steps):
            for here, there in ((first, second), (second, first)):
                found += self.owner[here][self.hole[there] & ~self.hole[here]].tolist()
        return set(found)

    @cached_property
    def at_edge(self) -> set[int]:
        """Points of which a pixel lies on the edge of the grid, or of a hole."""
        return self.beside_hole(TOUCHING) | set(self.owner[self.border & ~self.hole].tolist())

    def place(self, point: int) -> Place:
        """Row and column of a point."""
        row, column = divmod(point, self.shape[1])
        return int(row), int(column)

    def noise(self, one: int, other: int) -> float:
        """What the difference of two losses has to exceed."""
        error = np.hypot(*np.nan_to_num(self.error[[one, other]], nan=0.0, posinf=np.inf))
        size = self.rounding * np.abs(self.loss[[one, other]])
        return float(ERRORS * error + size[np.isfinite(size)].sum())

    def point(self, kind: Literal["minimum", "saddle"], at: int, persistence: float, versus: int) -> CriticalPoint:
        """A critical point whose persistence is measured against the point `versus`."""
        row, column = self.place(at)
        return CriticalPoint(
            kind=kind,
            place=(row, column),
            coordinates=(float(self.surface.alpha[row]), float(self.surface.beta[column])),
            loss=float(self.loss[at]),
            loss_stderr=float(self.error[at]),
            persistence=float(persistence),
            noise=self.noise(at, versus),
            at_edge=at in self.at_edge,
        )


def _shifted(shape: Place, step: Place) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a grid and the same moved by `step` overlap: slices into the one and into the other."""
    (rows, columns), (down, right) = shape, step
    here = slice(0, max(rows - down, 0)), slice(max(-right, 0), columns - max(right, 0))
    there = slice(down, rows), slice(max(right, 0), columns + min(right, 0))
    return here, there


def _owners(evaluated: NDArray[np.bool_], present: NDArray[np.bool_]) -> Indices:
    """(A, B) flat index of the evaluated point that each pixel belongs to; -1 where it is not present."""
    own = np.arange(evaluated.size).reshape(evaluated.shape)
    if not evaluated.any() or not (present & ~evaluated).any():
        return np.where(evaluated, own, -1)
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~evaluated, return_distances=False, return_indices=True)
    return np.where(present, own[rows, columns], -1)


# -- the merge tree --------------------------------------------------------------------------------------------
def _merges(height: Floats, order: Indices, edges: Indices) -> Iterator[tuple[int, int, int]]:
    """The merges of parts that grow from the lowest point up: (who ends, who stays, the point at which they meet).

    `edges` (E, 2) join points 0 ... N - 1 of `height` (N,); `order` (N,) decides between equal ones. A part is named
    by its lowest point, and the lower of two parts stays (the elder rule).
    """
    rank = np.empty(len(height), dtype=np.intp)
    rank[np.lexsort((order, height))] = np.arange(len(height))
    low, high = np.sort(rank[edges], axis=1).T
    point = np.argsort(rank)
    parent = list(range(len(height)))  # of ranks; the lowest rank of a part is its root
    for a, b in sorted(zip(high.tolist(), low.tolist(), strict=True)):
        roots = []
        for start in (a, b):
            root = start
            while parent[root] != root:
                parent[root] = parent[parent[root]]
                root = parent[root]
            roots.append(root)
        stays, ends = sorted(roots)
        if stays != ends:
            parent[ends] = stays
            yield int(point[ends]), int(point[stays]), int(point[a])


def _minima(cells: _Cells) -> tuple[list[CriticalPoint], list[CriticalPoint]]:
    """All minima, and the passes at which all but the lowest of each connected part end."""
    points = cells.points
    height, edges = cells.loss[points], np.searchsorted(points, cells.edges(TOUCHING, cells.finite))
    on_edge = np.isin(points, list(cells.at_edge))
    lowest, minima, passes = set(range(len(points))), [], []
    ended: list[tuple[int, int, int]] = []
    for ends, stays, at in _merges(height, points, edges):
        lowest.discard(ends)
        if height[at] > height[ends]:
            ended.append((ends, stays, at))
        elif height[ends] == height[stays]:  # a plateau: at the edge if any of it is
            on_edge[stays] |= on_edge[ends]
    for ends, stays, at in ended:
        end, stay, meet = (int(points[n]) for n in (ends, stays, at))
        fall = height[at] - height[ends]
        found = cells.point("minimum", end, fall, meet)
        minima.append(replace(found, at_edge=bool(on_edge[ends]), ends_at=cells.place(meet)))
        found = cells.point("saddle", meet, fall, end)
        passes.append(replace(found, between=(cells.place(end), cells.place(stay))))
    for n, (fall, versus) in _cut_off(cells, sorted(lowest), height, edges).items():
        found = cells.point("minimum", int(points[n]), fall, int(points[versus]))
        minima.append(replace(found, at_edge=bool(on_edge[n])))
    return minima, passes


def _cut_off(cells: _Cells, lowest: list[int], height: Floats, edges: Indices) -> dict[int, tuple[float, int]]:
    """The persistence of the lowest points of all connected parts, and which point it is measured against.

    Of the lowest of all it is inf. Across a hole the loss may be anything: the others end where a way leads to one.
    """
    points, outside = cells.points, len(cells.points)
    beside = np.flatnonzero(np.isin(points, list(cells.beside_hole(TOUCHING))))
    ways = np.column_stack([beside, np.full(len(beside), outside)])
    merges = _merges(np.append(height, -np.inf), np.append(points, -1), np.concatenate([edges, ways]))
    reached = {ends: at for ends, _, at in merges}
    first = min(lowest, key=lambda n: (height[n], points[n]))
    known = {n: reached[n] for n in lowest if n in reached and n != first}
    return {n: (height[known[n]] - height[n], known[n]) if n in known else (np.inf, n) for n in lowest}


def _rings(cells: _Cells) -> list[CriticalPoint]:
    """The saddles that close a ring around a maximum."""
    if min(cells.shape) == 1:
        return []
    inside = ~cells.hole
    points = np.unique(cells.owner[inside])
    outside, border = len(points), np.unique(cells.owner[cells.border & inside])
    edge = np.searchsorted(points, sorted({*border.tolist(), *cells.beside_hole(SIDES)}))
    edges = np.concatenate([
        np.searchsorted(points, cells.edges(SIDES, inside)),
        np.column_stack([edge, np.full(len(edge), outside)]),
    ])  # fmt: skip
    height = np.append(-cells.loss[points], -np.inf)
    order = np.append(-points, -cells.loss.size)  # equal losses the other way round than for the minima
    found = []
    for ends, _, at in _merges(height, order, edges):
        if height[at] > height[ends]:
            top, saddle = int(points[ends]), int(points[at])
            found.append(cells.point("saddle", saddle, float(height[at] - height[ends]), top))
    return found
