"""Which snapshots have finite weights, found by reading all of them once, a block of parameters at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.plane.blockwise import spans_of
from landscape_hooks.trajectory.trajectory import Trajectory


def finite_rows(trajectory: Trajectory) -> NDArray[np.bool_]:
    """(T,) True where no weight of a snapshot is NaN or infinite."""
    found = np.ones(len(trajectory), dtype=bool)
    for span in spans_of(trajectory, slice(None))[0]:
        found &= np.isfinite(trajectory.block(slice(None), span)).all(axis=1)
    return found
