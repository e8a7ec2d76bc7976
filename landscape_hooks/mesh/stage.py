"""Stage: the map from (alpha, beta, height) to coordinates of the 3-D scene, and back. Arithmetic only.

The longer side of the plane becomes 2 scene units. Both sides have the same scale, unless the plane is very narrow.
Weights and losses have no common unit, so the height has its own scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landscape_hooks.mesh.contours import levels, nice_step
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.surface.digits import Labels, text_of

Floats = NDArray[np.float64]

ASPECTS = ("auto", "equal")
"""Whether the shorter side of a narrow plane is stretched, or both sides have the same scale."""

NARROWEST = 0.7
TALL = 0.8
GAP = 0.12
"""Height of the surface, and its distance from the floor, in scene units."""


@dataclass(frozen=True)
class Stage:
    """`low` and `high` (3,) are the corners of the data; a scene point is (data - middle) · scale."""

    low: Floats
    high: Floats
    scale: Floats
    height: Height

    @classmethod
    def of(cls, mesh: Mesh, exaggeration: float = 1.0, aspect: str = "auto") -> Stage:
        """The stage of a mesh; with the aspect "equal" both sides of a narrow plane have the same scale, too."""
        low, high = (end.copy() for end in mesh.bounds)
        if mesh.grid is not None:
            low[2], high[2] = mesh.height.bounds
        extent = np.where(high > low, high - low, 1.0)
        longer = max(extent[0], extent[1])
        sides = np.maximum(extent[:2] / longer, 0.0 if aspect == "equal" else NARROWEST) * 2
        tall = TALL if mesh.grid is not None else float(np.clip(2 * extent[2] / longer, 0.15, 2.2))
        scale = np.array([*(sides / extent[:2]), tall * exaggeration / extent[2]])
        return cls(low, high, scale, mesh.height)

    @property
    def sides(self) -> tuple[float, float]:
        """Lengths of the plane's sides, in its own units."""
        return float(self.high[0] - self.low[0]), float(self.high[1] - self.low[1])

    def place(self, points: ArrayLike) -> Floats:
        """(N, 3) scene points of (N, 3) alpha, beta, height."""
        return (np.asarray(points, dtype=np.float64) - (self.low + self.high) / 2) * self.scale

    def data(self, points: ArrayLike) -> Floats:
        """(N, 3) alpha, beta, height of scene points: the inverse of `place`."""
        return np.asarray(points, dtype=np.float64) / self.scale + (self.low + self.high) / 2

    @property
    def corners(self) -> tuple[Floats, Floats]:
        """Lowest and highest corner of the surface in the scene."""
        return self.place(self.low), self.place(self.high)

    @property
    def floor(self) -> float:
        """Height of the floor in the scene."""
        return float(self.corners[0][2]) - GAP

    @property
    def stretch(self) -> float:
        """How many times as long a unit along beta is drawn as one along alpha."""
        return float(self.scale[1] / self.scale[0])

    def labels(self, axis: int) -> Labels:
        """How the numbers on an axis are written."""
        return self.height.labels if axis == 2 else Labels.between(float(self.low[axis]), float(self.high[axis]))

    def ticks(self, axis: int, count: int = 5) -> tuple[Floats, list[str]]:
        """Round values on an axis (in the plane's units, or as heights) and their labels in data units.

        Where `labels` has an offset, the labels say what is above it.
        """
        low, high = float(self.low[axis]), float(self.high[axis])
        if axis == 2 and self.height.kind == "log10":
            losses, index = levels(self.height, 20)
            chosen = losses[index]
            if len(chosen) > 2 * count:
                chosen = chosen[np.isclose(np.log10(chosen) % 1, 0)]
            if len(chosen) < 2:
                chosen = losses[:: max(1, len(losses) // count)]
            return self.height.of(chosen), self.labels(axis).texts(chosen)
        if not high > low:
            return np.array([low]), [text_of(low)]
        step = nice_step((high - low) / count)
        numbers = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) + 0.0  # no label says -0
        return numbers * step, self.labels(axis).texts(numbers * step)
