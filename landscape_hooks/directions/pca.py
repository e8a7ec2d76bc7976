"""Principal components of the trajectory, exact, streamed from the store.

In: a Trajectory (T snapshots of D parameters, never held whole). Out: two orthonormal directions.

The T×T Gram matrix K of the displacements from the first snapshot is summed in float64 over blocks of
parameters. With J the centring matrix, the eigenpairs (λ, v) of JKJ are those of the snapshots' scatter, and
d = Σ v_t/√λ · (θ_t - θ_0) is the unit principal direction in weight space (the "snapshot method": Sirovich 1987,
Quarterly of Applied Mathematics 45, part I). Displacements, because the Gram matrix of the weights themselves
would lose the differences of nearby snapshots to cancellation. Where there are very many snapshots of a small model,
the D×D covariance, summed over blocks of snapshots, is the smaller matrix with the same components.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.directions import Directions
from landscape_hooks.errors import PlaneError, RunError
from landscape_hooks.gram import matrix, origin_weights, weights_of
from landscape_hooks.joined import origin_row
from landscape_hooks.plane import map_displacements

Floats = NDArray[np.float64]

SOLVERS = ("auto", "gram", "covariance", "incremental")

LARGE = 8192
"""From this many snapshots on, `auto` leaves the T×T matrix (512 MB here)."""

NARROW = 4096
"""Then, up to this many parameters, it takes the D×D covariance (128 MB here), else scikit-learn's IncrementalPCA."""

ROW_BYTES = 32 * 2**20
"""Displacements in float64 that are summed into the covariance at a time."""

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
        which two, 0 being the one with the largest variance; one alone gives a line.
    solver
        "gram" (exact, from inner products of T snapshots), "covariance" (exact, from those of D parameters),
        "incremental" (scikit-learn's IncrementalPCA; for very many snapshots of a large model), or "auto".
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
    fit = {"gram": _fit_gram, "covariance": _fit_covariance, "incremental": _fit_incremental}
    return fit[chosen_solver(trajectory, solver)](trajectory, list(components), gram)


def chosen_solver(trajectory: Any, solver: str) -> str:
    """What "auto" means for a trajectory; any other solver is itself."""
    if solver != "auto":
        return solver
    if len(trajectory) < LARGE:
        return "gram"
    return "covariance" if len(weights_of(trajectory, 0)) <= NARROW else "incremental"


def _result(
    origin: NDArray[Any],
    vectors: Any,
    coefficients: Floats,
    variance: Floats,
    total: float,
    solver: str,
    chosen: list[int],
) -> Directions:
    spectrum = variance / total
    missing = 2 - len(chosen)  # a line has one component
    return Directions(
        origin=origin,
        vectors=vectors,
        labels=(f"PC {chosen[0] + 1}", "" if missing else f"PC {chosen[1] + 1}"),
        normalization="orthonormal",
        centring="mean of the snapshots",
        coefficients=np.pad(coefficients, ((0, missing), (0, 0))),
        explained_variance_ratio=np.pad(spectrum[chosen], (0, missing)),
        spectrum=spectrum,
        attrs={"solver": solver, "components": chosen, "sign": "first snapshot at coordinates below 0"},
    )


def eigen(gram: Floats) -> tuple[Floats, Floats]:
    """Variances (T,), largest first, and unit eigenvectors (T, T) in columns, of the centred Gram matrix."""
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def check(trajectory: Any, components: Sequence[int], solver: str) -> None:
    """Refuse what no principal components can be had of."""
    if solver not in SOLVERS:
        raise PlaneError(f"Found the solver '{solver}'", expected=f"one of {', '.join(SOLVERS)}")
    if len(components) not in (1, 2) or min(components) < 0 or len(set(components)) != len(components):
        raise PlaneError(f"Found the components {list(components)}", expected="two different ones, counted from 0")
    if len(trajectory) < 2:
        raise RunError(
            f"The run has {len(trajectory)} snapshot{'s' if len(trajectory) != 1 else ''}",
            expected="at least 3 for the plane of two principal components",
            mend="Record more often (every=), or draw a random plane: --directions random",
        )


def _fit_gram(trajectory: Any, chosen: list[int], gram: Floats | None) -> Directions:
    gram = matrix(trajectory) if gram is None else gram
    if not np.isfinite(gram).all():
        bad = np.flatnonzero(~np.isfinite(np.diag(gram)))
        raise _diverged(int(bad[0]) if len(bad) else 0)
    values, vectors = eigen(gram)
    _check_rank(values, chosen)
    coefficients = (vectors[:, chosen] / np.sqrt(values[chosen])).T
    # the coefficients sum to zero: the point that displacements are taken from does not matter
    coefficients *= _signs(coefficients @ (gram[:, 0] - gram[:, origin_row(trajectory)]))
    origin = origin_weights(trajectory)
    found = np.zeros((2, len(origin)), dtype=origin.dtype)

    def combine(columns: slice, block: Floats) -> None:
        found[: len(chosen), columns] = coefficients @ block

    deque(map_displacements(trajectory, origin, combine, held=3 * origin.nbytes), maxlen=0)
    return _result(origin, found, coefficients, values / len(gram), values.sum() / len(gram), "gram", chosen)


def _signs(first: Floats) -> Floats:
    """(2, 1) factors that bring the first snapshot to coordinates below 0: the one place that fixes signs."""
    return np.where(first > 0, -1.0, 1.0)[:, None]


def _diverged(snapshot: int) -> RunError:
    return RunError(
        f"Snapshot {snapshot} of the run holds NaN or inf",
        expected="finite weights",
        mend="The training diverged there: record again, with a smaller learning rate or fewer steps",
    )


def _fit_covariance(trajectory: Any, chosen: list[int], gram: Floats | None) -> Directions:
    origin = origin_weights(trajectory)
    size, count = len(origin), len(trajectory)
    if size > 2 * NARROW:
        raise PlaneError(
            f'Found the solver "covariance" for {size} parameters',
            expected=f"at most {2 * NARROW}: it needs a matrix of parameters by parameters",
            mend="--solver gram, or incremental for more snapshots than fit into a matrix",
        )
    batches = _batches(count, max(1, ROW_BYTES // (8 * size)))
    scatter, total = np.zeros((size, size)), np.zeros(size)
    for rows in batches:
        block = _displacements(trajectory, origin, rows)
        scatter += block.T @ block
        total += block.sum(axis=0)
    mean = total / count
    values, vectors = np.linalg.eigh(scatter - count * np.outer(mean, mean))
    values = np.maximum(values[::-1], 0.0)[:count]
    return _from_vectors(
        trajectory, origin, batches, vectors[:, ::-1].T[chosen], mean, values, float(values.sum()), "covariance", chosen
    )


def _fit_incremental(trajectory: Any, chosen: list[int], gram: Floats | None) -> Directions:
    from sklearn.decomposition import IncrementalPCA

    origin = origin_weights(trajectory)
    kept = min(max(KEPT, max(chosen) + 1), len(trajectory), len(origin))
    fit = IncrementalPCA(n_components=kept)
    batches = _batches(len(trajectory), max(5 * kept, 50))
    for rows in batches:
        fit.partial_fit(_displacements(trajectory, origin, rows))
    values = fit.explained_variance_ * (len(trajectory) - 1)
    total = float(fit.var_.sum()) * len(trajectory)
    return _from_vectors(
        trajectory, origin, batches, fit.components_[chosen], fit.mean_, values, total, "incremental", chosen
    )


def _from_vectors(
    trajectory: Any, origin: NDArray[Any], batches: list[slice], vectors: Floats, mean: Floats, values: Floats,
    total: float, solver: str, chosen: list[int],
) -> Directions:  # fmt: skip
    """The plane of unit vectors; their coefficients follow from the snapshots' scores, in one more pass.

    `mean` (D,) is of the displacements; `values` and `total` are sums of squares over the snapshots.
    """
    _check_rank(values, chosen)
    scores = np.concatenate([(_displacements(trajectory, origin, rows) - mean) @ vectors.T for rows in batches])
    flip = _signs(scores[0] + vectors @ mean)
    coefficients = (scores / np.square(scores).sum(axis=0)).T * flip
    found = np.zeros((2, len(origin)), dtype=origin.dtype)
    found[: len(chosen)] = vectors * flip
    count = len(trajectory)
    return _result(origin, found, coefficients, values / count, total / count, solver, chosen)


def _batches(count: int, size: int) -> list[slice]:
    """Rows in nearly equal batches, none smaller than the first one allows (IncrementalPCA wants ≥ components)."""
    parts = max(1, count // size)
    edges = np.linspace(0, count, parts + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _displacements(trajectory: Any, origin: NDArray[Any], rows: slice) -> Floats:
    block = np.concatenate(list(map_displacements(trajectory, origin, lambda columns, block: block, rows)), axis=1)
    if not np.isfinite(block).all():
        raise _diverged(rows.start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0]))
    return block


def _check_rank(values: Floats, components: Sequence[int]) -> None:
    """The asked-for components must be more than rounding."""
    rank = int((values > values[0] * 1e-13).sum()) if values[0] > 0 else 0
    if max(components) >= rank:
        raise PlaneError(
            f"The trajectory spans {rank} dimension{'s' if rank != 1 else ''}",
            expected=f"at least {max(components) + 1} for the principal components {', '.join(map(str, components))}",
            mend="Record more snapshots, or choose --directions random, or draw a line (--line)",
        )
