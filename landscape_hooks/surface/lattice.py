"""Lattice: the nested lattices of a grid, coarse to fine. Arithmetic on indices only.

The lattice of stride s has every s-th position of an axis and the last one. That of stride 2·s is a part of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]

FIRST = 4
"""Positions that the coarsest lattice has at least on each axis, where the grid has as many."""


def lattice(count: int, stride: int) -> Indices:
    """Every stride-th of `count` positions, and the last one."""
    return np.unique(np.append(np.arange(0, count, stride), count - 1))


def strides(shape: tuple[int, int]) -> list[int]:
    """Powers of two from the coarsest lattice, which has FIRST positions on the shorter axis, down to 1."""
    found = [1]
    while all(n == 1 or (n - 1) // (2 * found[-1]) + 1 >= FIRST for n in shape) and max(shape) > 1:
        found.append(2 * found[-1])
    return found[::-1]


def levels(shape: tuple[int, int]) -> list[Indices]:
    """Flat indices of the grid's points in the order coarse to fine: what each lattice adds to those before it."""
    new, found = np.ones(shape, dtype=bool), []
    for stride in strides(shape):
        here = np.zeros(shape, dtype=bool)
        here[np.ix_(lattice(shape[0], stride), lattice(shape[1], stride))] = True
        found.append(np.flatnonzero(here & new))
        new &= ~here
    return found


def finest_whole(present: NDArray[np.bool_]) -> tuple[Indices, Indices] | None:
    """Rows and columns of the finest lattice whose points are all `present` (A, B); None if there is none."""
    rows, columns = present.shape
    for stride in reversed(strides((rows, columns))):
        where = lattice(rows, stride), lattice(columns, stride)
        if present[np.ix_(*where)].all():
            return where
    return None
