"""Grid: the coordinates at which the surface is computed. Pure arithmetic.

In: the path's coordinates (T, 2). Out: alpha (A,) and beta (B,), increasing, in multiples of the directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landscape_hooks.errors import PlaneError

Floats = NDArray[np.float64]

MARGIN = 0.25
"""What an automatic extent adds on each side, as a share of the path's range on that axis."""

SLENDER = 0.2
"""An automatic extent is at least this share of the other axis' extent: a picture no thinner than 1:5."""


MOST_POINTS = 2**25
"""Points of a grid at most; as many take an hour at ten thousand losses a second."""


@dataclass(frozen=True)
class Grid:
    """Coordinates of the rows (A,) and columns (B,) of a surface; a line has the one column 0."""

    alpha: Floats
    beta: Floats

    @classmethod
    def spanning(cls, extent: Sequence[float], size: tuple[int, int]) -> Grid:
        """Evenly spaced from a0 to a1 and b0 to b1, both ends included."""
        a0, a1, b0, b1 = (float(v) for v in extent)
        check_extent((a0, a1, b0, b1), size)
        return cls(np.linspace(a0, a1, size[0]), np.linspace(b0, b1, size[1]) if size[1] > 1 else np.zeros(1))

    @classmethod
    def covering(
        cls,
        path: ArrayLike,
        size: tuple[int, int],
        *,
        margin: float = MARGIN,
        scale: Sequence[float] | Floats = (1.0, 1.0),
        least: Sequence[float] | Floats = (0.0, 0.0),
    ) -> Grid:
        """The smallest even grid that covers the path with a margin and has a node exactly at the origin.

        On each axis the extent runs from the least to the greatest coordinate of the path and the origin,
        widened by `margin` times that range on both sides; it reaches at least ±`least` (the natural unit
        of directions that the path hardly follows), and the shorter axis is widened about its middle to
        SLENDER times the longer one. It goes no further, for the loss far from the path is another story
        (usually a steep wall that flattens everything else). The spacing is then the least one that puts
        a node on the origin (from three points an axis on), so that the surface holds the final snapshot's own loss.

        Parameters
        ----------
        path
            (T, 2) coordinates.
        size
            (A, B) points.
        margin
            share of the range added on each side.
        scale
            (2,) lengths of the directions, which make the axes comparable.
        least
            (2,) half-widths that the extent reaches in any case.
        """
        path = np.concatenate([np.asarray(path, dtype=float).reshape(-1, 2), np.zeros((1, 2))])
        low, high = path.min(axis=0), path.max(axis=0)
        reach = margin * (high - low)
        low, high = np.minimum(low - reach, -np.asarray(least)), np.maximum(high + reach, np.asarray(least))
        width = (high - low) * scale
        wanted = np.where(np.asarray(scale) > 0, SLENDER * width.max() / np.where(np.asarray(scale) > 0, scale, 1), 0)
        widen = np.maximum(wanted - (high - low), 0) / 2
        low, high = low - widen, high + widen
        flat = [n > 1 and not b > a for n, a, b in zip(size, low, high, strict=True)]
        if any(flat) or not np.isfinite([low, high]).all():
            raise PlaneError(
                f"The path covers alpha {low[0]:g} to {high[0]:g} and beta {low[1]:g} to {high[1]:g}",
                expected="a path with an extent",
                mend="Give one: --extent a0,a1,b0,b1",
            )
        return cls(*(_axis_through_zero(a, b, n) for a, b, n in zip(low, high, size, strict=True)))

    @property
    def shape(self) -> tuple[int, int]:
        """(A, B)."""
        return len(self.alpha), len(self.beta)

    @property
    def extent(self) -> list[float]:
        """[a0, a1, b0, b1]."""
        return [float(v) for v in (self.alpha[0], self.alpha[-1], self.beta[0], self.beta[-1])]

    def points(self, index: NDArray[np.intp] | None = None) -> Floats:
        """(N, 2) coordinates of the points with flat indices `index` (left out: all, row by row)."""
        rows, columns = np.unravel_index(
            np.arange(self.alpha.size * self.beta.size) if index is None else index, self.shape
        )
        return np.stack([self.alpha[rows], self.beta[columns]], axis=1)


def parse_size(size: int | str | Sequence[int]) -> tuple[int, int]:
    """(A, B) of 25, (25, 40), "25" or "25x40"; B is 1 for a line.

    Raises
    ------
    PlaneError
        anything else, or fewer than two points on an axis.
    """
    try:
        parts = [int(p) for p in size.lower().split("x")] if isinstance(size, str) else np.ravel(size).tolist()
        rows, columns = parts if len(parts) == 2 else (parts[0], parts[0])
        if len(parts) > 2 or rows * columns > MOST_POINTS:
            raise ValueError
        if rows != int(rows) or columns != int(columns) or rows < 2 or columns < 1:
            raise ValueError
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise PlaneError(
            f"Found the size {size!r}",
            expected=f"a number of points like 25, or two like 25x40 (25x1 is a line), each at least 2, "
            f"{MOST_POINTS:,} points in all",
        ) from error
    return int(rows), int(columns)


def parse_extent(extent: str | Sequence[float]) -> tuple[float, ...] | None:
    """(a0, a1, b0, b1) of a sequence or of "a0,a1,b0,b1"; None of "auto"."""
    if isinstance(extent, str) and extent == "auto":
        return None
    try:
        values = tuple(float(v) for v in (extent.split(",") if isinstance(extent, str) else extent))
        if len(values) not in (2, 4):
            raise ValueError
    except (ValueError, TypeError) as error:
        raise PlaneError(f"Found the extent {extent!r}", expected="auto, or four numbers a0,a1,b0,b1") from error
    return values if len(values) == 4 else (*values, 0.0, 0.0)


def check_extent(extent: tuple[float, ...], size: tuple[int, int]) -> None:
    """An extent is finite and increasing on each axis that has more than one point."""
    a0, a1, b0, b1 = extent
    if not np.isfinite(extent).all() or not a0 < a1 or (size[1] > 1 and not b0 < b1):
        raise PlaneError(
            f"Found the extent {a0:g},{a1:g},{b0:g},{b1:g}", expected="finite numbers with a0 < a1 and b0 < b1"
        )


def _axis_through_zero(low: float, high: float, size: int) -> Floats:
    """`size` even coordinates that cover [low, high] and hit 0 exactly, with the least spacing (low ≤ 0 ≤ high)."""
    if size == 1:
        return np.zeros(1)
    below = np.arange(size)
    with np.errstate(divide="ignore", invalid="ignore"):
        need_below = np.where(low < 0, -low / below, 0.0)
        need_above = np.where(high > 0, high / (size - 1 - below), 0.0)
    spacing = np.maximum(need_below, need_above)
    best = int(np.argmin(spacing))
    if not np.isfinite(spacing[best]):  # two points on both sides of the origin cannot hold it, too
        return np.linspace(low, high, size)
    return (below - best) * spacing[best]
