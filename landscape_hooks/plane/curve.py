"""Curve: the second derivatives of the probe loss at one point, as products with vectors.

In: an Objective, weights and buffers. Out: Hessian-vector products H v = ∇(∇L · v) (Pearlmutter 1994, Neural
Computation 6), so that H itself is never formed; from them the largest eigenvalues, by Lanczos iteration (ARPACK,
through scipy), and the trace, by Hutchinson's estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.device.arithmetic import arithmetic, wide
from landscape_hooks.device.memory import is_out_of_memory
from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.double_backward import KERNELS, reason
from landscape_hooks.objective.objective import Objective, Statistics

Floats = NDArray[np.float64]

NARROW = 32
"""Up to this many parameters the Hessian is formed: that takes no more products than the iteration, and is exact."""

RESTARTS = 60
"""Restarts of the Lanczos iteration after which what has converged is all there is."""


class NotTwice(ObjectiveError):
    """The loss has no second derivative, with the kernels that were in use."""


class NotFinite(ObjectiveError):
    """A second derivative of the loss is NaN or infinite."""


@dataclass(frozen=True)
class Eigenpairs:
    """The largest eigenvalues of a Hessian, in descending order.

    Attributes
    ----------
    values
        (K,) eigenvalues; NaN for those that have not converged, and beyond the number of parameters.
    vectors
        (k, D) unit eigenvectors of the k that have; the sign is that which makes the largest entry positive.
    residuals
        (K,) |H v - λ v|: within this distance of λ there is an eigenvalue, as the products themselves say.
    """

    values: Floats
    vectors: Floats
    residuals: Floats


class Curve:
    """The loss around one point, to second order.

    Parameters
    ----------
    objective
        the Objective.
    weights, buffers
        (D,) and (B,) where derivatives are taken.
    statistics
        of normalisation layers: "running" or "batch".
    """

    def __init__(
        self,
        objective: Objective,
        weights: NDArray[Any] | torch.Tensor,
        buffers: NDArray[Any] | torch.Tensor,
        statistics: Statistics,
    ) -> None:
        self._objective, self._statistics = objective, statistics
        self._theta = torch.as_tensor(weights).to(objective.device)
        self._buffers = torch.as_tensor(buffers).to(objective.device)
        self._kernels = 0
        self._full: Floats | None = None
        self.size = len(self._theta)
        self.products = 0

    @property
    def dtype(self) -> torch.dtype:
        """The type in which losses are computed: the coarsest of the parameters' own."""
        kinds = {getattr(torch, entry.dtype) for entry in self._objective.layout}
        return max((k.to_real() for k in kinds), key=lambda k: torch.finfo(k).eps, default=self._theta.dtype)

    def loss(self, direction: torch.Tensor, size: float = 1.0) -> float:
        """The loss after a step of `size` times `direction` (D,)."""
        moved = self._theta if size == 0 else wide(self._theta) + size * wide(direction.to(self._theta.device))
        weights = moved.to(self._theta)
        return float(self._objective.measure(weights, self._buffers, statistics=self._statistics)[0])

    def at(self, away: torch.Tensor) -> Curve:
        """The loss around the point that lies (D,) `away`, with the same buffers."""
        moved = (wide(self._theta) + wide(away.to(self._theta.device))).to(self._theta)
        return Curve(self._objective, moved, self._buffers, self._statistics)

    def gradient(self) -> torch.Tensor:
        """(D,) gradient of the loss, one probe batch in memory at a time.

        Raises
        ------
        NotTwice
            the stored loss has another gradient than the training's.
        """
        _check_gradient(self._objective)
        theta = self._theta.detach().clone().requires_grad_()
        total = torch.zeros_like(theta)
        with arithmetic(self._objective.device):
            for term in self._objective.terms(theta, self._buffers, statistics=self._statistics):
                if term.requires_grad:
                    (part,) = torch.autograd.grad(term, theta, allow_unused=True)
                    total += 0 if part is None else part
        return total

    def times(self, vector: torch.Tensor) -> torch.Tensor:
        """(D,) product of the Hessian with a vector (D,).

        Raises
        ------
        NotTwice
            the loss cannot be differentiated twice, with none of torch's kernels.
        NotFinite
            the product holds NaN or inf.
        ObjectiveError
            there is too little memory for it.
        """
        self.products += 1
        vector = vector.to(self._theta)
        while True:
            try:
                with KERNELS[self._kernels]():
                    found = hessian_vector(self._objective, self._theta, self._buffers, vector, self._statistics)
                break
            except NotTwice:
                if self._kernels == len(KERNELS) - 1:
                    raise
                self._kernels += 1
        if not found.isfinite().all():
            raise NotFinite("A second derivative of the loss is NaN or infinite", expected="a smooth loss")
        return found

    def along(self, direction: torch.Tensor) -> float:
        """Curvature d'Hd / d'd along a direction (D,); NaN where that is zero."""
        direction = direction.to(self._theta)
        length = wide(direction).norm()
        if not 0 < length < torch.inf:
            return float("nan")
        unit = (wide(direction) / length).to(self._theta)
        return float(wide(unit) @ wide(self.times(unit)) / (wide(unit) @ wide(unit)))

    def top(self, count: int, *, seed: int, tolerance: float) -> Eigenpairs:
        """The `count` (K) largest eigenvalues, algebraically; those of few parameters are exact.

        `seed` is of the first vector of the iteration, `tolerance` the relative accuracy asked of an eigenvalue.
        """
        full = self.dense() if self.size <= max(NARROW, 2 * count + 1) else None
        values, vectors = (
            self._iterated(min(count, self.size), seed, tolerance) if full is None else _largest(full, count)
        )
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
        vectors = vectors * np.sign(largest)
        residuals = [float(np.linalg.norm(self._product(v) - a * v)) for a, v in zip(values, vectors, strict=True)]
        missing = (0, count - len(values))
        return Eigenpairs(
            np.pad(values, missing, constant_values=np.nan), vectors,
            np.pad(np.array(residuals), missing, constant_values=np.nan),
        )  # fmt: skip

    def trace(self, probes: int, *, seed: int) -> tuple[float, float]:
        """(trace, its standard error), by v'Hv of `probes` Rademacher vectors v (Hutchinson 1990); of up to `NARROW`
        parameters it is exact.
        """
        if self.size <= NARROW or self._full is not None:
            return float(np.trace(self.dense())), 0.0
        found = np.empty(probes)
        for number in range(probes):
            signs = np.random.default_rng([seed, number]).integers(0, 2, self.size, dtype=np.int8)
            vector = torch.from_numpy(signs).to(self._theta.device).to(self._theta.dtype) * 2 - 1
            found[number] = float(wide(vector) @ wide(self.times(vector)))
        return float(found.mean()), float(found.std(ddof=1) / np.sqrt(probes)) if probes > 1 else float("nan")

    def dense(self) -> Floats:
        """(D, D) the Hessian itself, of a small model."""
        if self._full is None:
            found = np.stack([self._product(row) for row in np.eye(self.size)])
            self._full = (found + found.T) / 2
        return self._full

    def _product(self, vector: NDArray[Any]) -> Floats:
        return self.times(torch.from_numpy(np.ascontiguousarray(vector.reshape(-1)))).cpu().double().numpy()

    def _iterated(self, count: int, seed: int, tolerance: float) -> tuple[Floats, Floats]:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        start = np.random.default_rng(seed).standard_normal(self.size)
        if not self._product(start).any():  # a loss without curvature, whose Krylov space is empty
            return np.zeros(count), np.eye(count, self.size)
        operator = LinearOperator((self.size, self.size), matvec=self._product, dtype=np.float64)
        basis = min(self.size, max(2 * count + 1, 20))
        try:
            values, vectors = eigsh(
                operator, k=count, which="LA", v0=start, tol=tolerance, ncv=basis, maxiter=RESTARTS
            )  # fmt: skip
        except ArpackNoConvergence as error:
            values, vectors = error.eigenvalues, error.eigenvectors
        order = np.argsort(values)[::-1]
        return values[order], np.ascontiguousarray(vectors[:, order].T)


def _largest(full: Floats, count: int) -> tuple[Floats, Floats]:
    values, vectors = np.linalg.eigh(full)
    return values[::-1][:count], np.ascontiguousarray(vectors[:, ::-1][:, :count].T)


def _check_gradient(objective: Objective) -> None:
    """A stored loss that was recorded while it ran may have the loss's values, but not its gradient.

    Raises
    ------
    NotTwice
        it has another one.
    """
    if not objective.attrs.get("differentiable", True):
        raise NotTwice(
            "The stored loss has the values of the training's loss, but not its gradient (it takes derivatives itself, "
            "or cuts values off from them)",
            mend="Choose other directions (pca, random or points), or give the loss with --objective module:function",
        )


def hessian_vector(
    objective: Objective, weights: torch.Tensor, buffers: torch.Tensor, vector: torch.Tensor, statistics: Statistics
) -> torch.Tensor:
    """(D,) product of the loss's Hessian at `weights` with `vector`, one probe batch in memory at a time."""
    with arithmetic(objective.device):
        return _hessian_vector(objective, weights, buffers, vector, statistics)


def _hessian_vector(
    objective: Objective, weights: torch.Tensor, buffers: torch.Tensor, vector: torch.Tensor, statistics: Statistics
) -> torch.Tensor:
    _check_gradient(objective)
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
                    mend="Take fewer samples; of planes choose other directions (pca, random or points), of curvature "
                    "the method critical",
                ) from error
            raise NotTwice(
                f"The loss cannot be differentiated twice: {reason(error)}",
                mend="Of planes choose other directions (pca, random or points), of curvature the method critical",
            ) from error
    return total
