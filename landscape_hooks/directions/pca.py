"""Principal components of the trajectory, exact, streamed from the store.

In: a Trajectory (T snapshots of D parameters, never held whole). Out: two orthonormal directions.

The T×T Gram matrix K of the displacements from the first snapshot is summed in float64 over blocks of
parameters. With J the centring matrix, the eigenpairs (λ, v) of JKJ are those of the snapshots' scatter, and
d = Σ v_t/√λ · (θ_t - θ_0) is the unit principal direction in weight space (the "snapshot method": Sirovich 1987,
Quarterly of Applied Mathematics 45, part I). Displacements, because the Gram matrix of the weights themselves
would lose the differences of nearby snapshots to cancellation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.directions import Directions
from landscape_hooks.errors import PlaneError, RunError
from landscape_hooks.plane import displacement_blocks

Floats = NDArray[np.float64]

SOLVERS = ("auto", "gram", "incremental")

LARGE = 8192
"""From this many snapshots on, `auto` leaves the T×T matrix (512 MB here) for scikit-learn's IncrementalPCA."""

KEPT = 12
"""Components IncrementalPCA keeps: fewer than 8 turn the first two (its error is what it throws away)."""


def directions(
    trajectory: Any, *, components: Sequence[int] = (0, 1), solver: str = "auto", gram: Floats | None = None
) -> Directions:
    """The plane of two principal components of a trajectory, through its last snapshot.

    Parameters
    ----------
    trajectory
        a Trajectory, or an array (T, D).
    components
        which two, 0 being the one with the largest variance.
    solver
        "gram" (exact), "incremental" (scikit-learn's IncrementalPCA; for very many snapshots), or "auto".
    gram
        (T, T) Gram matrix of the displacements from the first snapshot, where it is known already.

    Raises
    ------
    RunError
        one snapshot only, or snapshots with NaN or inf.
    PlaneError
        the trajectory has fewer dimensions than the components ask for; an unknown solver.
    """
    check(trajectory, components, solver)
    if solver == "auto":
        solver = "gram" if len(trajectory) < LARGE else "incremental"
    fit = _fit_gram if solver == "gram" else _fit_incremental
    origin, vectors, coefficients, variance, total = fit(trajectory, components, gram)
    flip = np.where(first_coordinates(trajectory, origin, vectors) > 0, -1.0, 1.0)
    spectrum = variance / total
    return Directions(
        origin=origin,
        vectors=(vectors * flip[:, None]).astype(origin.dtype),
        labels=tuple(f"PC {c + 1}" for c in components),  # type: ignore[arg-type]
        normalization="orthonormal",
        centring="mean of the snapshots",
        coefficients=coefficients * flip[:, None],
        explained_variance_ratio=spectrum[list(components)],
        spectrum=spectrum,
        attrs={
            "solver": solver,
            "components": [int(c) for c in components],
            "sign": "first snapshot at negative coordinates",
        },
    )


def gram_matrix(trajectory: Any, known: Floats | None = None) -> Floats:
    """(T, T) Gram matrix of the displacements from the first snapshot, in float64.

    Where the first `len(known)` rows are `known`, only the others are computed.
    """
    count, old = len(trajectory), 0 if known is None else len(known)
    gram = np.zeros((count, count))
    for _, block in displacement_blocks(trajectory, first_weights(trajectory)):
        if old:
            gram[old:] += block[old:] @ block.T
        else:
            gram += block @ block.T  # BLAS syrk: half the products
    if old:
        gram[:old, :old], gram[:old, old:] = known, gram[old:, :old].T
    return gram


def first_weights(trajectory: Any) -> NDArray[Any]:
    """(D,) weights of the first snapshot, at least float32."""
    return _row(trajectory, 0)


def last_weights(trajectory: Any) -> NDArray[Any]:
    """(D,) weights of the last snapshot, at least float32."""
    return _row(trajectory, len(trajectory) - 1)


def first_coordinates(trajectory: Any, origin: NDArray[Any], vectors: NDArray[Any]) -> Floats:
    """(2,) inner products of the first snapshot's displacement with the directions: what fixes their signs."""
    start = np.subtract(first_weights(trajectory), origin, dtype=np.float64)
    return np.array([float(np.dot(v.astype(np.float64), start)) for v in vectors])


def eigen(gram: Floats) -> tuple[Floats, Floats]:
    """Variances (T,), largest first, and unit eigenvectors (T, T) in columns, of the centred Gram matrix."""
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def check(trajectory: Any, components: Sequence[int], solver: str) -> None:
    """Refuse what no principal components can be had of."""
    if solver not in SOLVERS:
        raise PlaneError(f"Found the solver '{solver}'", expected=f"one of {', '.join(SOLVERS)}")
    if len(components) != 2 or min(components) < 0 or components[0] == components[1]:
        raise PlaneError(f"Found the components {list(components)}", expected="two different ones, counted from 0")
    if len(trajectory) < 2:
        raise RunError(
            f"The run has {len(trajectory)} snapshot{'s' if len(trajectory) != 1 else ''}",
            expected="at least 3 for the plane of two principal components",
            mend="Record more often (every=), or draw a random plane: --directions random",
        )


def _fit_gram(trajectory: Any, components: Sequence[int], gram: Floats | None) -> tuple[Any, ...]:
    gram = gram_matrix(trajectory) if gram is None else gram
    if not np.isfinite(gram).all():
        bad = np.flatnonzero(~np.isfinite(np.diag(gram)))
        raise RunError(
            f"Snapshot {bad[0] if len(bad) else 0} of the run holds NaN or inf",
            expected="finite weights",
            mend="The training diverged there: analyze the steps before it (--until STEP)",
        )
    values, vectors = eigen(gram)
    _check_rank(values, components)
    chosen = list(components)
    coefficients = (vectors[:, chosen] / np.sqrt(values[chosen])).T
    origin = last_weights(trajectory)
    found = np.empty((2, len(origin)), dtype=origin.dtype)
    for columns, block in displacement_blocks(trajectory, origin):
        found[:, columns] = coefficients @ block
    return origin, found, coefficients, values / len(gram), values.sum() / len(gram)


def _fit_incremental(trajectory: Any, components: Sequence[int], gram: Floats | None) -> tuple[Any, ...]:
    from sklearn.decomposition import IncrementalPCA

    kept = min(max(KEPT, max(components) + 1), len(trajectory), len(first_weights(trajectory)))
    fit = IncrementalPCA(n_components=kept)
    origin = last_weights(trajectory)
    batches = _batches(len(trajectory), max(5 * kept, 50))
    for rows in batches:
        fit.partial_fit(_displacements(trajectory, origin, rows))
    values = fit.explained_variance_ * (len(trajectory) - 1)
    _check_rank(values, components)
    vectors = fit.components_[list(components)]
    scores = np.concatenate([(_displacements(trajectory, origin, rows) - fit.mean_) @ vectors.T for rows in batches])
    total = float(fit.var_.sum()) * len(trajectory)
    coefficients = (scores / np.square(scores).sum(axis=0)).T
    return origin, vectors, coefficients, values / len(trajectory), total / len(trajectory)


def _batches(count: int, size: int) -> list[slice]:
    """Rows in nearly equal batches, none smaller than the first one allows (IncrementalPCA wants ≥ components)."""
    parts = max(1, count // size)
    edges = np.linspace(0, count, parts + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _displacements(trajectory: Any, origin: NDArray[Any], rows: slice) -> Floats:
    return np.concatenate([block for _, block in displacement_blocks(trajectory, origin, rows)], axis=1)


def _check_rank(values: Floats, components: Sequence[int]) -> None:
    """The asked-for components must be more than rounding."""
    rank = int((values > values[0] * 1e-13).sum()) if values[0] > 0 else 0
    if max(components) >= rank:
        raise PlaneError(
            f"The trajectory spans {rank} dimension{'s' if rank != 1 else ''}",
            expected=f"at least {max(components) + 1} for the principal components {components[0]} and {components[1]}",
            mend="Record more snapshots, or choose --directions random, or draw a line (--line)",
        )


def _row(trajectory: Any, row: int) -> NDArray[Any]:
    values = (
        trajectory.block(slice(row, row + 1), slice(None))[0]
        if hasattr(trajectory, "block")
        else np.asarray(trajectory)[row]
    )
    return values.astype(np.promote_types(values.dtype, np.float32), copy=False)
