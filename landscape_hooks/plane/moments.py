"""Moments: sums over the snapshots from which their projection onto two directions follows. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.store import checked
from landscape_hooks.trajectory.trajectory import Trajectory

Floats = NDArray[np.float64]


class Moments:
    """Sums over parameters that determine a projection; those of blocks add up.

    Holds the Gram matrix of the directions (2, 2), the inner products with N displacements (N, 2), and the
    displacements' squared norms (N,): everything least squares needs, in float64, however large D is.
    """

    def __init__(self, count: int) -> None:
        self.gram: Floats = np.zeros((2, 2))
        self.products: Floats = np.zeros((count, 2))
        self.squares: Floats = np.zeros(count)
        self.mean_square = 0.0

    @classmethod
    def of(cls, displacements: Floats, directions: Floats) -> Moments:
        """Those of one block: displacements (N, c) and the same parameters of the directions (2, c), float64."""
        self = cls(len(displacements))
        self.gram = directions @ directions.T
        self.products = displacements @ directions.T
        self.squares = np.einsum("nc,nc->n", displacements, displacements)
        mean = displacements.mean(axis=0)
        self.mean_square = float(mean @ mean)
        return self

    @classmethod
    def from_gram(cls, gram: Floats, origin: int, coefficients: Floats) -> Moments:
        """Those of a plane through snapshot `origin` whose directions are combinations of displacements from it.

        `gram` (T, T) holds inner products of displacements from any one point, `coefficients` (2, T) the combinations.
        """
        self = cls(len(gram))
        shifted = gram - gram[origin] - gram[:, origin][:, None] + gram[origin, origin]
        self.products = shifted @ coefficients.T
        self.gram = coefficients @ self.products
        self.squares = np.diag(shifted).copy()
        self.mean_square = float(shifted.mean())
        return self

    def __iadd__(self, other: Moments) -> Moments:
        """Add those of other parameters."""
        self.gram += other.gram
        self.products += other.products
        self.squares += other.squares
        self.mean_square += other.mean_square
        return self

    def solve(self) -> tuple[Floats, Floats]:
        """Coordinates (N, 2) of the nearest points of the plane and the distances (N,) to them.

        A direction of length zero (a line has one) gets the coordinate 0.
        """
        coordinates = self.products @ np.linalg.pinv(self.gram, hermitian=True)
        along = np.einsum("nk,kl,nl->n", coordinates, self.gram, coordinates)
        return coordinates, np.sqrt(np.maximum(self.squares - along, 0.0))

    @property
    def total_variance(self) -> float:
        """Mean squared distance of the displacements from their mean."""
        return float(self.squares.mean()) - self.mean_square

    def explained_variance_ratio(self) -> Floats:
        """(2,) share of the displacements' variance along each direction (not a sum where they are oblique)."""
        norms = np.sqrt(np.diag(self.gram))
        spread = self.products.var(axis=0) / np.where(norms > 0, norms, 1.0) ** 2
        total = self.total_variance
        return spread / total if total > 0 else np.zeros(2)


@dataclass(frozen=True)
class Projection:
    """The sums that a projection onto directions (2, D) needs, over blocks of parameters."""

    directions: NDArray[Any]

    def __call__(self, blocks: Iterator[tuple[slice, Floats]]) -> Moments:
        """Those of some blocks."""
        return add_up(Moments.of(block, self.directions[:, columns].astype(np.float64)) for columns, block in blocks)

    def join(self, parts: Iterator[Moments]) -> Moments:
        """Their sum."""
        return add_up(parts)

    def nbytes(self, rows: int, columns: int) -> int:
        """About the size of a result."""
        return 24 * rows


def add_up(parts: Iterator[Any]) -> Any:
    """The sum, in the order given; the first part is overwritten, unless it came read-only from another process."""
    total = next(parts)
    total = np.require(total, requirements="W") if isinstance(total, np.ndarray) else total
    for part in parts:
        total += part
    return total


COLUMNS = 1 << 22
"""Numbers that are read at a time: parameters of one snapshot, or snapshots of few parameters."""


def project(group: zarr.Group, trajectory: Trajectory, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Coordinates (N, 2) of snapshots on a surface's plane, by least squares, and their distances (N,) from it."""
    total = Moments(len(rows))
    origins, axes = checked.array(group, "origin"), checked.array(group, "directions")
    size = trajectory.layout.size
    # a surface may be older than the parameters that began to move last: its plane does not go along them
    known = int(origins.shape[0]) if origins.shape[0] in trajectory.widths else size
    checked.Sizes(parameter=known, direction=2).check("surfaces/*/origin", origins.shape)
    checked.Sizes(parameter=known, direction=2).check("surfaces/*/directions", axes.shape)
    for start, stop in _spans(known, size):
        columns = slice(start, stop)
        if start < known:
            origin = checked.select(origins, (columns,), "origin").astype(np.float64)
            directions = checked.select(axes, (slice(None), columns), "directions").astype(np.float64)
        else:
            origin = trajectory.before_moving(start, stop).astype(np.float64)
            directions = np.zeros((2, stop - start))
        total.gram += directions @ directions.T
        for part in _neighbours(rows, max(1, COLUMNS // max(1, len(origin)))):
            first, last = int(rows[part.start]), int(rows[part.stop - 1])
            away = trajectory.block(slice(first, last + 1), columns).astype(np.float64) - origin
            with np.errstate(invalid="ignore", over="ignore"):  # of a training that diverged
                total.products[part] += away @ directions.T
                total.squares[part] += np.einsum("nc,nc->n", away, away)
    return total.solve()


def project_vector(group: zarr.Group, weights: NDArray[Any]) -> tuple[Floats, float]:
    """(2,) coordinates on a surface's plane of weights (D,) that are no snapshot, and their distance from it."""
    total = Moments(1)
    origins, axes = checked.array(group, "origin"), checked.array(group, "directions")
    sizes = checked.Sizes(parameter=len(weights), direction=2)
    sizes.check("surfaces/*/origin", origins.shape)
    sizes.check("surfaces/*/directions", axes.shape)
    for start in range(0, len(weights), COLUMNS):
        columns = slice(start, min(start + COLUMNS, len(weights)))
        origin = checked.select(origins, (columns,), "origin").astype(np.float64)
        directions = checked.select(axes, (slice(None), columns), "directions").astype(np.float64)
        total += Moments.of((weights[columns].astype(np.float64) - origin)[None], directions)
    coordinates, distance = total.solve()
    return coordinates[0], float(distance[0])


def _spans(known: int, size: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most COLUMNS, of which none goes beyond `known` that begins before it."""
    for begin, end in ((0, known), (known, size)):
        for start in range(begin, end, COLUMNS):
            yield start, min(start + COLUMNS, end)


def _neighbours(rows: NDArray[np.intp], most: int) -> list[slice]:
    """Cut rows into parts of at most `most` that lie side by side in the run, so that a part is one reading."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return [
        slice(first, min(first + most, stop)) for start, stop in pairwise(edges) for first in range(start, stop, most)
    ]
