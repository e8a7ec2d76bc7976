"""The engine of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.evaluate import PlaneLoss, Tile


def run(loss: PlaneLoss, points: NDArray[np.float64]) -> Iterator[Tile]:
    """Yield one point after the other."""
    for number, (alpha, beta) in enumerate(points):
        value = loss.at(float(alpha), float(beta))
        yield Tile(np.array([number]), np.array([value.mean]), np.array([value.stderr]))
