"""Staging: memory for snapshots on their way into a run, laid out as the run's files are.

In: how many snapshots may wait. Out: arrays to fill, one row a snapshot, and `Rows` of them for the writer. Where a
snapshot has a file of its own, the memory of a row is that file, so that nothing is copied on the way to the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.store.rowfiles import RowFiles

Allocate = Callable[[int], NDArray[np.uint8]]
"""Gives that many bytes of zeros, where memory has to be of a kind (page-locked)."""


@dataclass
class Rows:
    """Snapshots to be written together: weights (n, D), buffers (n, B), and the scalars of each.

    `momentum` (n, groups) is NaN where it is left out. `tail` says that the last of them is off the schedule; `files`
    is the memory of `weights` as the files that they will be, if they lie in such memory (`Staging`). `late` are the
    columns that began to move later, one array (n, d) for each of the writer's `late`, `late_files` their memory.
    """

    weights: NDArray[Any]
    buffers: NDArray[Any]
    scalars: Mapping[str, Sequence[float]]
    learning_rate: NDArray[np.float64]
    tail: bool = False
    files: NDArray[np.uint8] | None = None
    momentum: NDArray[np.float64] | None = None
    late: Sequence[NDArray[Any]] = ()
    late_files: Sequence[NDArray[np.uint8]] = ()

    def __len__(self) -> int:
        return len(self.weights)


class Staging:
    """Memory for some snapshots.

    Attributes
    ----------
    depth
        how many.
    weights, buffers
        (depth, D) and (depth, B) arrays, in the types in which the run stores them; of bfloat16 their bits.
    late
        (depth, d) arrays of the columns that began to move later.
    """

    def __init__(
        self, depth: int, weights: RowFiles, buffers: zarr.Array[Any], allocate: Allocate | None = None
    ) -> None:
        self.depth, self._allocate = depth, allocate
        self.late: list[NDArray[Any]] = []
        self._late_files: list[NDArray[np.uint8]] = []
        self._files, self.weights = weights.staging(depth, allocate)
        width, kind = buffers.shape[1], np.dtype(buffers.dtype)
        memory = (allocate or _zeros)(max(1, depth * width * kind.itemsize))
        self.buffers: NDArray[Any] = memory[: depth * width * kind.itemsize].view(kind).reshape(depth, width)

    def widen(self, columns: RowFiles) -> NDArray[Any]:
        """Memory for further columns of the same snapshots, (depth, d)."""
        files, values = columns.staging(self.depth, self._allocate)
        self.late.append(values)
        self._late_files.append(files)
        return values

    def rows(
        self,
        first: int,
        scalars: Mapping[str, Sequence[float]],
        groups: Mapping[str, Sequence[Sequence[float]]],
        tail: bool,
    ) -> Rows:
        """The snapshots from place `first` on, as many as there are scalars, as rows to be written."""
        count = len(next(iter(scalars.values())))
        part = slice(first, first + count)
        return Rows(
            self.weights[part],
            self.buffers[part],
            scalars,
            **{name: _table(values) for name, values in groups.items()},
            tail=tail,
            files=self._files[part],
            late=[values[part] for values in self.late],
            late_files=[files[part] for files in self._late_files],
        )


def _table(values: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(n, groups) numbers; NaN where a row has fewer groups than another."""
    table = np.full((len(values), max(map(len, values))), np.nan)
    for row, found in zip(table, values, strict=True):
        row[: len(found)] = found
    return table


def _zeros(size: int) -> NDArray[np.uint8]:
    return np.zeros(size, dtype=np.uint8)
