"""Where the two directions of a plane come from: a family with one interface.

Each file has one function that takes a Trajectory (or several) and returns `Directions`: pca.py, random.py,
hessian.py, points.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Directions:
    """Two directions in weight space and what is known about them.

    Attributes
    ----------
    origin
        (D,) where alpha = beta = 0; an array, or `Blocks` of one.
    vectors
        (2, D) the directions, in the origin's data type; likewise.
    kind
        "pca", "random", "hessian" or "points".
    labels
        what the two axes are called.
    normalization
        how long the directions are, in words.
    centring
        what the directions were fitted about, in words.
    coefficients
        (2, T) where the directions are linear combinations of the snapshots' displacements from the origin
        (BatchNorm's `interpolate` moves the running statistics with the same coefficients); else None.
    least
        (2,) half-widths an automatic extent reaches at least, in multiples of the directions.
    origin_row
        the snapshot that is the origin; None for the trajectory's own (the final one).
    marks
        (M, 2) coordinates of points that an automatic extent covers besides the path.
    explained_variance_ratio
        (2,) share of the trajectory's variance along each direction.
    spectrum
        (C,) the same for every principal component, where it was computed.
    attrs
        what else defines the directions (solver, seed, eigenvalues ...), as JSON.
    """

    origin: Any
    vectors: Any
    labels: tuple[str, str]
    normalization: str
    centring: str = "none"
    coefficients: NDArray[np.float64] | None = None
    least: tuple[float, float] = (0.0, 0.0)
    origin_row: int | None = None
    marks: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    explained_variance_ratio: NDArray[np.float64] = field(default_factory=lambda: np.full(2, np.nan))
    spectrum: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    attrs: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
