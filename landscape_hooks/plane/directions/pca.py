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

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from landscape_hooks.errors import DivergedError, PlaneError, RunError
from landscape_hooks.plane.blockwise import Mapped, Weights, map_displacements, map_partitions, width_of
from landscape_hooks.plane.directions import Directions
from landscape_hooks.plane.gram import matrix, origin_weights
from landscape_hooks.store.blocks import Blocks, row_of
from landscape_hooks.trajectory.joined import origin_row

Floats = NDArray[np.float64]

SOLVERS = ("auto", "gram", "covariance", "incremental")

LARGE = 2048
"""From this many snapshots on scikit-learn's IncrementalPCA is about as fast where the model is small, and at 4,096
snapshots it is twice as fast (`benchmarks/pca.py --crossing`, 1,000 parameters). Below, the Gram matrix is faster;
exact it is anyway."""

SMALL = 200
"""IncrementalPCA takes less memory up to T²/200 parameters (measured: about 5 kB a parameter, against 24 bytes times T²
for the Gram matrix and its eigenvectors). In a larger model even many snapshots are left to the Gram matrix."""

NARROW = 4096
"""Up to this many parameters, and where they are fewer than the snapshots, the D×D covariance (128 MB here) is the
smaller matrix, and as exact."""

ROW_BYTES = 32 * 2**20
"""Displacements in float64 that are summed into the covariance at a time."""

KEPT = 12
"""Components IncrementalPCA keeps: fewer than 8 turn the first two (its error is what it throws away)."""


@dataclass(frozen=True)
class PCA:
    """The plane of two principal components of the snapshots, as `analyze(directions=)` takes it.

    Parameters
    ----------
    components
        two different numbers of principal components, 0 being the one with the largest variance; a line (`size=(n, 1)`)
        goes along the first of them, and may be given just that one.
    solver
        "gram" (exact, from inner products of T snapshots), "covariance" (exact, from those of D parameters),
        "incremental" (scikit-learn's IncrementalPCA, for very many snapshots of a large model), or "auto": one of these
        by T and D.

    Raises
    ------
    PlaneError
        an unknown solver, or components that are not one or two different whole numbers from 0 on.
    """

    components: Sequence[int] = (0, 1)
    solver: str = "auto"

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise PlaneError(f"Found the solver '{self.solver}'", expected=f"one of {', '.join(SOLVERS)}")
        try:
            chosen = tuple(operator.index(number) for number in self.components)
        except TypeError:
            chosen = ()
        if len(chosen) not in (1, 2) or min(chosen) < 0 or len(set(chosen)) != len(chosen):
            raise PlaneError(f"Found the components {self.components!r}", expected="two different ones, counted from 0")
        object.__setattr__(self, "components", chosen)

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"directions": "pca", "components": list(self.components), "solver": self.solver}


def directions(
    trajectory: Weights,
    *,
    components: Sequence[int] = (0, 1),
    solver: str = "auto",
    gram: Floats | None = None,
    blocks: Mapped = map_partitions,
    stream: bool = False,
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
    blocks
        what maps work over blocks of parameters: this machine, or the same function of another engine.
    stream
        leave origin and directions to be made while they are stored (`Blocks`), as far as the solver can.

    Raises
    ------
    RunError
        one snapshot only, or snapshots with NaN or inf.
    PlaneError
        the trajectory has fewer dimensions than the components ask for; an unknown solver.
    """
    check(trajectory, components, solver)
    found = resolve_solver(solver, trajectory)
    if found == "gram":
        return _fit_gram(trajectory, list(components), gram, blocks, stream)
    return (_fit_covariance if found == "covariance" else _fit_incremental)(trajectory, list(components))


def resolve_solver(solver: str, trajectory: Weights) -> str:
    """What "auto" means for a trajectory."""
    count, size = len(trajectory), width_of(trajectory)
    if solver != "auto":
        return solver
    if count < LARGE:
        return "gram"
    if size <= min(NARROW, count):
        return "covariance"
    return "incremental" if size < count**2 / SMALL else "gram"


def _result(
    origin: NDArray[Any] | Blocks,
    vectors: NDArray[Any] | Blocks,
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


def eigen(gram: Floats, chosen: Sequence[int]) -> tuple[Floats, Floats]:
    """Variances (T,), largest first, and the chosen unit eigenvectors (T, k) in columns, of the centred Gram matrix.

    All values, but no more vectors than are asked for: the memory for all of them is what many snapshots cost.
    """
    from scipy.linalg import eigh

    centred = gram - gram.mean(axis=0)
    centred -= gram.mean(axis=1)[:, None]
    centred += gram.mean()
    last, options = len(gram) - 1, {"driver": "evr", "check_finite": False}
    lowest = last - min(max(chosen), last)
    with threadpool_limits(1, user_api="blas"):  # the same bits on any number of cores
        vectors = eigh(centred, subset_by_index=[lowest, last], **options)[1][:, ::-1]
        values = np.linalg.eigvalsh(centred)
    # The constant vector has the eigenvalue 0, which a small component (λ) mixes with by rounding·λ₁/λ; times the
    # length of the displacements over √λ, that would tilt its direction by far more than rounding.
    vectors -= vectors.mean(axis=0)
    return np.maximum(values[::-1], 0.0), vectors[:, [min(c, last) for c in chosen]]


def check(trajectory: Weights, components: Sequence[int], solver: str) -> None:
    """Refuse what no principal components can be had of."""
    PCA(components, solver)
    if len(trajectory) < 2:
        raise RunError(
            f"The run has {len(trajectory)} snapshot{'s' if len(trajectory) != 1 else ''}",
            expected="at least 3 for the plane of two principal components",
            mend="Record more often (every=), or draw a random plane: --directions random",
        )


@dataclass(frozen=True)
class Combination:
    """Linear combinations of displacements, coefficients (2, T), over blocks of parameters."""

    coefficients: Floats
    dtype: np.dtype[Any]

    def __call__(self, blocks: Iterator[tuple[slice, Floats]]) -> NDArray[Any]:
        """(2, c) those of some blocks (T, c), side by side."""
        return self.join((self.coefficients @ block).astype(self.dtype) for _, block in blocks)

    def join(self, parts: Iterator[NDArray[Any]]) -> NDArray[Any]:
        """(2, c) side by side."""
        return np.concatenate(list(parts), axis=1)

    def nbytes(self, rows: int, columns: int) -> int:
        """The size of a result."""
        return 2 * columns * self.dtype.itemsize


def _fit_gram(trajectory: Weights, chosen: list[int], gram: Floats | None, blocks: Mapped, stream: bool) -> Directions:
    gram = matrix(trajectory, blocks=blocks) if gram is None else gram
    if not np.isfinite(gram).all():
        bad = np.flatnonzero(~np.isfinite(np.diag(gram)))
        raise _diverged(int(bad[0]) if len(bad) else 0)
    values, vectors = eigen(gram, chosen)
    _check_rank(values, chosen)
    coefficients = (vectors / np.sqrt(values[chosen])).T
    # the coefficients sum to zero: the point that displacements are taken from does not matter
    row = origin_row(trajectory)
    coefficients *= _signs(coefficients @ (gram[:, 0] - gram[:, row]))
    size, dtype = width_of(trajectory), np.promote_types(trajectory.dtype, np.float32)
    origin = (
        row_of(trajectory, row, size, dtype)
        if stream and not isinstance(trajectory, np.ndarray)
        else origin_weights(trajectory)
    )
    work = Combination(np.pad(coefficients, ((0, 2 - len(chosen)), (0, 0))), dtype)  # a line has one component
    made = Blocks((2, size), dtype, lambda: blocks(trajectory, row, work))
    found = made if stream else made.whole()
    return _result(origin, found, coefficients, values / len(gram), values.sum() / len(gram), "gram", chosen)


def _signs(first: Floats) -> Floats:
    """(2, 1) factors that bring the first snapshot to coordinates below 0: the one place that fixes signs."""
    return np.where(first > 0, -1.0, 1.0)[:, None]


def _diverged(snapshot: int) -> DivergedError:
    return DivergedError(
        f"Snapshot {snapshot} of the run holds NaN or inf",
        expected="finite weights",
        mend="The training diverged there: record again, with a smaller learning rate or fewer steps",
    )


def _fit_covariance(trajectory: Weights, chosen: list[int]) -> Directions:
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


def _fit_incremental(trajectory: Weights, chosen: list[int]) -> Directions:
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
    trajectory: Weights, origin: NDArray[Any], batches: list[slice], vectors: Floats, mean: Floats, values: Floats,
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


def _displacements(trajectory: Weights, origin: NDArray[Any], rows: slice) -> Floats:
    def whole(blocks: Iterator[tuple[slice, Floats]]) -> Floats:
        return np.concatenate([block for _, block in blocks], axis=1)

    found = np.concatenate(list(map_displacements(trajectory, origin, whole, rows)), axis=1)
    if not np.isfinite(found).all():
        raise _diverged(rows.start + int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0]))
    return found


def _check_rank(values: Floats, components: Sequence[int]) -> None:
    """The asked-for components must be more than rounding."""
    rank = int((values > values[0] * 1e-13).sum()) if values[0] > 0 else 0
    if max(components) >= rank:
        raise PlaneError(
            f"The trajectory spans {rank} dimension{'s' if rank != 1 else ''}",
            expected=f"at least {max(components) + 1} for the principal components {', '.join(map(str, components))}",
            mend="Record more snapshots, or choose --directions random, or draw a line (--line)",
        )
