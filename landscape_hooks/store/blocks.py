"""Blocks: an array as long as the weights, computed block by block while it is stored, and never whole in memory.

In: snapshots of a trajectory. Out: pieces (columns, values), in order, which SurfaceWriter writes into the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class HasBlocks(Protocol):
    """What a block of weights is read of: a Trajectory or a Joined."""

    def block(self, rows: slice = ..., columns: slice = ...) -> NDArray[Any]:
        """(n, c) weights of some snapshots and some parameters."""


@dataclass(frozen=True)
class Blocks:
    """An array (..., D), given by the function that makes its pieces: (columns, values (..., c))."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Callable[[], Iterator[tuple[slice, NDArray[Any]]]]

    @property
    def size(self) -> int:
        """Number of its elements."""
        return int(np.prod(self.shape))

    def whole(self) -> NDArray[Any]:
        """The whole array in memory."""
        found = np.empty(self.shape, self.dtype)
        for columns, values in self.pieces():
            found[..., columns] = values
        return found


def row_of(trajectory: HasBlocks, row: int, size: int, dtype: np.dtype[Any], width: int = 2**20) -> Blocks:
    """(D,) the weights of one snapshot, as blocks of `width` numbers."""

    def pieces() -> Iterator[tuple[slice, NDArray[Any]]]:
        for start in range(0, size, width):
            columns = slice(start, min(start + width, size))
            yield columns, trajectory.block(slice(row, row + 1), columns)[0].astype(dtype, copy=False)

    return Blocks((size,), dtype, pieces)
