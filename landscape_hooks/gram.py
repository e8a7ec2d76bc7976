"""Gram: the inner products of a trajectory's displacements, summed over blocks of parameters and kept in the run.

In: a Trajectory. Out: the T×T matrix K[s, t] = (θ_s - θ_0)·(θ_t - θ_0) in float64: all that principal components,
projections and distances need, whatever D is. A run that has grown needs the new rows only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks import checked, schema
from landscape_hooks.joined import origin_row
from landscape_hooks.plane import map_displacements

Floats = NDArray[np.float64]


def matrix(trajectory: Any, known: Floats | None = None, rows: NDArray[np.intp] | None = None) -> Floats:
    """(T, T) Gram matrix of the displacements from the first snapshot.

    Parameters
    ----------
    trajectory
        a Trajectory or an array (T, D).
    known
        the matrix of the snapshots `rows` (left out: the first ones); only what it lacks is computed.
    """
    count = len(trajectory)
    gram = np.zeros((count, count))
    old = np.arange(0 if known is None else len(known)) if rows is None else rows
    new = np.setdiff1d(np.arange(count), old)
    if len(new):

        def products(columns: slice, block: Floats) -> Floats:
            # a matrix times its own transpose is BLAS syrk: half the products
            return block[new] @ block.T if len(old) else block @ block.T

        first = first_weights(trajectory)
        for part in map_displacements(trajectory, first, products, held=first.nbytes):
            gram[new] += part
    if len(old):
        gram[:, new] = gram[new].T
        gram[np.ix_(old, old)] = known
    return gram


def stored(root: Any, trajectory: Any) -> Floats:
    """The run's Gram matrix: what is stored of it, completed, and stored again."""
    known, rows = _read(root, trajectory)
    if known is not None and len(rows) == len(trajectory):
        return known
    gram = matrix(trajectory, known, rows if known is not None else None)
    _write(root, trajectory, gram)
    return gram


@checked.guard("gram")
def forget(root: Any) -> None:
    """Remove the stored matrix."""
    if "gram" in root:
        del root["gram"]


def first_weights(trajectory: Any) -> NDArray[Any]:
    """(D,) weights of the first snapshot, at least float32."""
    return weights_of(trajectory, 0)


def origin_weights(trajectory: Any) -> NDArray[Any]:
    """(D,) weights that planes go through (the final ones), at least float32."""
    return weights_of(trajectory, origin_row(trajectory))


def _read(root: Any, trajectory: Any) -> tuple[Floats | None, NDArray[np.intp]]:
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
def _write(root: Any, trajectory: Any, gram: Floats) -> None:
    """Store the matrix; the attribute `complete` comes last and makes it count."""
    forget(root)
    group = root.require_group("gram")
    for name, values in (("step", trajectory.steps), ("wall_time", trajectory.wall_times), ("matrix", gram)):
        values = np.asarray(values)
        schema.create(root, f"gram/{name}", values.shape, chunks=tuple(max(1, n) for n in values.shape))[...] = values
    group.attrs["complete"] = True


def weights_of(trajectory: Any, row: int) -> NDArray[Any]:
    """(D,) weights of one snapshot, at least float32."""
    rows = slice(row, row + 1)
    values = trajectory.block(rows)[0] if hasattr(trajectory, "block") else np.asarray(trajectory)[row]
    return values.astype(np.promote_types(values.dtype, np.float32), copy=False)
