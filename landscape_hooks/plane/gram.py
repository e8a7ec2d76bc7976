"""Gram: the inner products of a trajectory's displacements, summed over blocks of parameters and kept in the run.

In: a Trajectory. Out: the T×T matrix K[s, t] = (θ_s - θ_0)·(θ_t - θ_0) in float64: all that principal components,
projections and distances need, whatever D is. A run that has grown needs the new rows only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk  # loaded before its threads are limited, so that sums have the same bits everywhere

from landscape_hooks.plane.blockwise import Mapped, Weights, map_partitions
from landscape_hooks.plane.moments import add_up
from landscape_hooks.store import checked, schema
from landscape_hooks.store.run import remove_group, writes
from landscape_hooks.trajectory.joined import Joined, Recorded, origin_row
from landscape_hooks.trajectory.trajectory import Trajectory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Products:
    """Inner products of some snapshots with all of them, over blocks of parameters.

    `new` None means all with all: the matrix is symmetric, and its upper triangle is enough.
    """

    new: NDArray[np.intp] | None = None

    def __call__(self, blocks: Iterator[tuple[slice, Floats]]) -> Floats:
        """(n, T) those of some blocks (T, c), summed up in one matrix."""
        if self.new is None:
            return self._upper(blocks)
        return add_up(block[self.new] @ block.T for _, block in blocks)

    def join(self, parts: Iterator[Floats]) -> Floats:
        """Their sum."""
        return add_up(parts)

    def nbytes(self, rows: int, columns: int) -> int:
        """The size of a result."""
        return 8 * rows * (rows if self.new is None else len(self.new))

    @staticmethod
    def _upper(blocks: Iterator[tuple[slice, Floats]]) -> Floats:
        # a matrix times its own transpose: half the products
        total: Any = None
        for _, block in blocks:
            if total is None:
                total = np.zeros((len(block), len(block)), order="F")
            total = dsyrk(1.0, block.T, beta=1.0, c=total, trans=1, overwrite_c=1)
        return np.asarray(total)


def matrix(
    trajectory: Weights,
    known: Floats | None = None,
    rows: NDArray[np.intp] | None = None,
    *,
    blocks: Mapped = map_partitions,
) -> Floats:
    """(T, T) Gram matrix of the displacements from the first snapshot.

    Parameters
    ----------
    trajectory
        a Trajectory or an array (T, D).
    known
        the matrix of the snapshots `rows` (left out: the first ones); only what it lacks is computed.
    blocks
        what maps work over blocks of parameters: this machine, or the same function of another engine.
    """
    if known is None:
        return _mirrored(add_up(part for _, part in blocks(trajectory, 0, Products())))
    count = len(trajectory)
    old = np.arange(len(known)) if rows is None else rows
    new = np.setdiff1d(np.arange(count), old)
    gram = np.zeros((count, count))
    gram[np.ix_(old, old)] = known
    if len(new):
        gram[new] = add_up(part for _, part in blocks(trajectory, 0, Products(new)))
        gram[:, new] = gram[new].T
    return gram


def _mirrored(upper: Floats) -> Floats:
    """The symmetric matrix of its upper triangle, row by row in place."""
    for row in range(len(upper)):
        upper[row + 1 :, row] = upper[row, row + 1 :]
    return upper.T  # rows first, as it is read from a run: sums over it then have the same last bits


def stored(root: zarr.Group, trajectory: Recorded, *, blocks: Mapped = map_partitions, keep: bool = True) -> Floats:
    """The run's Gram matrix: what is stored of it, completed, and stored again (with `keep`)."""
    known, rows = _read(root, trajectory)
    if known is not None and len(rows) == len(trajectory):
        return known
    gram = matrix(trajectory, known, rows if known is not None else None, blocks=blocks)
    if keep:
        _write(root, trajectory, gram)
    return gram


@checked.guard("gram")
def forget(root: zarr.Group) -> None:
    """Remove the stored matrix."""
    remove_group(root, "gram")


def origin_weights(trajectory: Weights) -> NDArray[Any]:
    """(D,) weights that planes go through (the final ones), at least float32."""
    return weights_of(trajectory, origin_row(trajectory))


def _read(root: zarr.Group, trajectory: Recorded) -> tuple[Floats | None, NDArray[np.intp]]:
    """What the store holds of the matrix, and the snapshots (rows of the trajectory) that it is of.

    A snapshot is known by its step and time; without the first one, from which displacements are taken, nothing is.
    """
    nothing = None, np.empty(0, dtype=np.intp)
    group = checked.group(root, "gram")
    if group is None or not group.attrs.get("complete"):
        return nothing
    sizes, arrays = checked.Sizes(), {}
    for name in ("step", "wall_time", "matrix"):
        arrays[name] = checked.read(root, f"gram/{name}")
        sizes.check(f"gram/{name}", arrays[name].shape)
    keys = list(zip(arrays["step"].tolist(), arrays["wall_time"].tolist(), strict=True))
    place = {key: i for i, key in enumerate(keys)}
    now = list(zip(trajectory.steps.tolist(), trajectory.wall_times.tolist(), strict=True))
    if not keys or now[0] != keys[0]:
        return nothing
    rows = np.array([i for i, key in enumerate(now) if key in place], dtype=np.intp)
    chosen = [place[now[i]] for i in rows]
    return arrays["matrix"][np.ix_(chosen, chosen)], rows


@checked.guard("gram")
@writes
def _write(root: zarr.Group, trajectory: Recorded, gram: Floats) -> None:
    """Store the matrix; the attribute `complete` comes last and makes it count."""
    forget(root)
    group = root.require_group("gram")
    for name, values in (("step", trajectory.steps), ("wall_time", trajectory.wall_times), ("matrix", gram)):
        shape = values.shape
        schema.create(root, f"gram/{name}", shape, chunks=tuple(max(1, n) for n in shape))[...] = values
    group.attrs["complete"] = True


def weights_of(trajectory: Weights, row: int) -> NDArray[Any]:
    """(D,) weights of one snapshot, at least float32."""
    rows = slice(row, row + 1)
    values = trajectory.block(rows)[0] if isinstance(trajectory, Trajectory | Joined) else np.asarray(trajectory)[row]
    return values.astype(np.promote_types(values.dtype, np.float32), copy=False)
