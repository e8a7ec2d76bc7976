"""The plane of steepest curvature: top eigenvectors of the probe loss's Hessian at the final weights.

In: a PlaneLoss. Out: two orthonormal eigenvectors and their eigenvalues, by Lanczos iteration (ARPACK, through
scipy) with Hessian-vector products H v = ∇(∇L · v) (Pearlmutter 1994, Neural Computation 6), so that H itself
is never formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import ObjectiveError, PlaneError
from landscape_hooks.objective.double_backward import KERNELS, is_out_of_memory, reason
from landscape_hooks.objective.objective import Objective, Statistics
from landscape_hooks.plane.directions import Directions

TOLERANCE = 1e-3
"""Relative accuracy asked of an eigenvalue."""


@dataclass(frozen=True)
class Hessian:
    """The plane of the two largest eigenvalues of the loss's Hessian, as `analyze(directions=)` takes it.

    `analyze(seed=)` is the seed of the first Lanczos vector.
    """

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"directions": "hessian"}


class NotTwice(ObjectiveError):
    """The loss has no second derivative, with the kernels that were in use."""


def directions(
    objective: Objective,
    weights: NDArray[Any],
    buffers: NDArray[Any],
    *,
    statistics: Statistics,
    rise: float,
    seed: int = 0,
) -> Directions:
    """The two eigenvectors of the largest eigenvalues (algebraically).

    Parameters
    ----------
    objective
        the Objective.
    weights, buffers
        where the Hessian is taken.
    statistics
        of normalisation layers: "running" or "batch".
    rise
        an automatic extent reaches where the quadratic model says that the loss has risen by this.
    seed
        of the first Lanczos vector.

    Raises
    ------
    NotTwice
        the loss cannot be differentiated twice, with none of torch's kernels.
    ObjectiveError
        there is too little memory for it.
    PlaneError
        the iteration does not converge, or there are fewer than three parameters.
    """
    theta, state = torch.from_numpy(weights).to(objective.device), torch.from_numpy(buffers).to(objective.device)

    def product(vector: NDArray[Any]) -> NDArray[Any]:
        direction = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(theta)
        return hessian_vector(objective, theta, state, direction, statistics).cpu().double().numpy()

    for number, kernels in enumerate(KERNELS):
        try:
            with kernels():
                values, vectors = _lanczos(product, len(weights), seed)
                start = product(vectors[0])
            break
        except NotTwice:
            if number == len(KERNELS) - 1:
                raise
    residual = float(np.linalg.norm(start - values[0] * vectors[0]) / max(abs(values[0]), 1e-30))
    reach = tuple(float(np.sqrt(2 * rise / v)) if v > 0 and rise > 0 else 0.0 for v in values)
    return Directions(
        origin=weights,
        vectors=vectors.astype(weights.dtype),
        labels=(f"eigenvector of {values[0]:.4g}", f"eigenvector of {values[1]:.4g}"),
        normalization="orthonormal",
        least=(reach[0], reach[1]),
        attrs={"eigenvalues": values.tolist(), "residual": residual, "statistics": statistics},
    )


def hessian_vector(
    objective: Objective, weights: torch.Tensor, buffers: torch.Tensor, vector: torch.Tensor, statistics: Statistics
) -> torch.Tensor:
    """(D,) product of the loss's Hessian at `weights` with `vector`, one probe batch in memory at a time."""
    theta = weights.detach().clone().requires_grad_()
    total = torch.zeros_like(theta)
    for term in objective.terms(theta, buffers, statistics=statistics):
        if not term.requires_grad:
            continue
        try:
            (gradient,) = torch.autograd.grad(term, theta, create_graph=True)
            if gradient.requires_grad:
                (part,) = torch.autograd.grad(gradient @ vector, theta)
                total += part
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise ObjectiveError(
                    f"There is too little memory for second derivatives of a probe batch ({reason(error)})",
                    mend="Take fewer samples, or choose other directions: pca, random or points",
                ) from error
            raise NotTwice(
                f"The loss cannot be differentiated twice: {reason(error)}",
                mend="Choose other directions: pca, random or points",
            ) from error
    return total


def _lanczos(
    product: Callable[[NDArray[Any]], NDArray[Any]], size: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two largest eigenvalues and their unit eigenvectors (2, D), signs fixed by the largest entry."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    if size < 3:
        raise PlaneError(f"The model has {size} parameters", expected="at least 3 for a Hessian plane")
    start = np.random.default_rng(seed).standard_normal(size)
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=2, which="LA", v0=start, tol=TOLERANCE, ncv=min(size, 20))
    except ArpackNoConvergence as error:
        raise PlaneError(
            f"The Hessian's eigenvectors did not converge ({error})", mend="Choose other directions: pca or random"
        ) from error
    order = np.argsort(values)[::-1]
    vectors = vectors[:, order].T
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return values[order], vectors * np.sign(largest)
