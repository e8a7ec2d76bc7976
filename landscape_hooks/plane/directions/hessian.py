"""The plane of steepest curvature: top eigenvectors of the probe loss's Hessian at the final weights.

In: an Objective at the final weights. Out: two orthonormal eigenvectors and their eigenvalues, as curve.py finds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import PlaneError
from landscape_hooks.objective.objective import Objective, Statistics
from landscape_hooks.plane.curve import Curve
from landscape_hooks.plane.directions import Directions

TOLERANCE = 1e-3
"""Relative accuracy asked of an eigenvalue."""


@dataclass(frozen=True)
class Hessian:
    """The plane of the two largest eigenvalues of the loss's Hessian, as `analyze(directions=)` takes it.

    `analyze(seed=)` is the seed of the first Lanczos vector.
    """

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"directions": "hessian"}


def directions(
    objective: Objective,
    weights: NDArray[Any],
    buffers: NDArray[Any],
    *,
    statistics: Statistics,
    rise: float,
    seed: int = 0,
) -> Directions:
    """The two eigenvectors of the largest eigenvalues (algebraically).

    Parameters
    ----------
    objective
        the Objective.
    weights, buffers
        where the Hessian is taken.
    statistics
        of normalisation layers: "running" or "batch".
    rise
        an automatic extent reaches where the quadratic model says that the loss has risen by this.
    seed
        of the first Lanczos vector.

    Raises
    ------
    NotTwice
        the loss cannot be differentiated twice, with none of torch's kernels.
    ObjectiveError
        there is too little memory for it.
    PlaneError
        the iteration does not converge, or there are fewer than three parameters.
    """
    if len(weights) < 3:
        raise PlaneError(f"The model has {len(weights)} parameters", expected="at least 3 for a Hessian plane")
    found = Curve(objective, weights, buffers, statistics).top(2, seed=seed, tolerance=TOLERANCE)
    values = found.values
    if not np.isfinite(values).all():
        raise PlaneError(
            f"The Hessian's eigenvectors did not converge ({np.isfinite(values).sum()} of 2 did)",
            mend="Choose other directions: pca or random",
        )
    reach = tuple(float(np.sqrt(2 * rise / v)) if v > 0 and rise > 0 else 0.0 for v in values)
    return Directions(
        origin=weights,
        vectors=found.vectors.astype(weights.dtype),
        labels=(f"eigenvector of {values[0]:.4g}", f"eigenvector of {values[1]:.4g}"),
        normalization="orthonormal",
        least=(reach[0], reach[1]),
        attrs={
            "eigenvalues": values.tolist(),
            "residual": float(found.residuals[0] / max(abs(values[0]), 1e-30)),
            "statistics": statistics,
        },
    )
