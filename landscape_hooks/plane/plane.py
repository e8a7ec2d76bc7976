"""Plane: two directions through an origin in weight space.

In: an origin (D,) and two directions (2, D), from a file of `directions/`. Out: the weights at a pair of coordinates.
Directions need not be orthogonal nor of unit length; coordinates are multiples of them (`moments.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import PlaneError
from landscape_hooks.plane.blockwise import Weights, map_displacements
from landscape_hooks.plane.moments import Floats, Moments, Projection


class Plane:
    """The points `origin + alpha·directions[0] + beta·directions[1]`.

    Parameters
    ----------
    origin
        (D,) weights at alpha = beta = 0.
    directions
        (2, D) in the same parameter order; the second may be zero (a line).

    Raises
    ------
    PlaneError
        shapes that do not fit, non-finite entries, a zero first direction, parallel directions.
    """

    def __init__(self, origin: NDArray[Any] | torch.Tensor, directions: NDArray[Any] | torch.Tensor) -> None:
        self.origin = torch.as_tensor(origin)
        self.directions = torch.as_tensor(directions).to(self.origin.dtype)
        if self.origin.ndim != 1 or self.directions.shape != (2, len(self.origin)):
            raise PlaneError(
                f"Found an origin of shape {tuple(self.origin.shape)} and directions of shape "
                f"{tuple(self.directions.shape)}",
                expected="(D,) and (2, D)",
            )
        self._check()

    def _check(self) -> None:
        d = self.directions
        gram = np.array([[float(_dot(d[i], d[j])) for j in range(2)] for i in range(2)])
        if not np.isfinite(gram).all():
            raise PlaneError(
                "A direction of the plane holds NaN or inf",
                mend="Leave out the snapshots after the training diverged (--to STEP)",
            )
        if gram[0, 0] == 0:
            raise PlaneError(
                "The plane's first direction is zero", mend="Choose other directions, or snapshots that differ"
            )
        self.is_line = bool(gram[1, 1] == 0)
        if not self.is_line and 1 - gram[0, 1] ** 2 / (gram[0, 0] * gram[1, 1]) < 1e-10:
            raise PlaneError(
                "The plane's two directions are parallel",
                expected="directions that span a plane",
                mend="Choose other directions, or draw a line (--line)",
            )

    @property
    def size(self) -> int:
        """D."""
        return len(self.origin)

    @property
    def dtype(self) -> torch.dtype:
        """Of its points."""
        return self.origin.dtype

    @property
    def device(self) -> torch.device:
        """Where its points are made."""
        return self.origin.device

    def to(self, device: torch.device | str) -> Plane:
        """The same plane on another device."""
        plane = Plane.__new__(Plane)
        plane.origin, plane.directions = self.origin.to(device), self.directions.to(device)
        plane.is_line = self.is_line
        return plane

    def point(self, alpha: float, beta: float, out: torch.Tensor | None = None) -> torch.Tensor:
        """(D,) weights at (alpha, beta), rebuilt from the origin; written into `out` where given."""
        result = torch.add(self.origin, self.directions[0], alpha=alpha, out=out)
        return result if self.is_line else result.add_(self.directions[1], alpha=beta)

    def project(self, weights: Weights | torch.Tensor) -> tuple[Floats, Floats]:
        """Coordinates (N, 2) of the nearest points of the plane to weights (N, D), and distances (N,).

        `weights` is an array, a tensor or a Trajectory (then streamed, never held whole).
        """
        return self.moments(weights).solve()

    def moments(self, weights: Weights | torch.Tensor) -> Moments:
        """The sums that `project` solves, from weights (N, D) or a Trajectory."""
        total = Moments(len(weights))
        for part in map_displacements(weights, self.origin.cpu().numpy(), Projection(self.directions.cpu().numpy())):
            total += part
        return total


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Inner product in float64, in pieces so that no float64 copy of a whole direction is made."""
    step = 2**22
    return sum(float(a[i : i + step].double() @ b[i : i + step].double()) for i in range(0, len(a), step))
