"""Traceable: operations that torch computes by looking at numbers, written so that a loss with them can be traced.

In: a loss that is traced inside of `traceable()`. Out: the same numbers. torch's own `cov` and `corrcoef` look at their
divisor, `gaussian_nll_loss` at its variances, and distributions at their parameters, to raise; a graph has no values to
look at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def traceable() -> Iterator[None]:
    """Inside, the operations of this module take the places of torch's, and distributions look at no parameters."""
    looks = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with _InPlaceOfTorchs():
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(looks)


class _InPlaceOfTorchs(TorchFunctionMode):
    def __torch_function__(self, function: Callable[..., Any], _: object, args: Any = (), kwargs: Any = None) -> Any:
        return _OURS.get(function, function)(*args, **(kwargs or {}))


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """As `torch.cov`: (n, n) covariances of n variables, the rows of (n, samples)."""
    rows = input.reshape(1, -1) if input.ndim < 2 else input
    if fweights is None and aweights is None:
        weights: Any = 1
        total: Any = rows.shape[1]
        squares = total
        centred = rows - rows.mean(1, keepdim=True)
    else:
        weights = 1 if fweights is None else fweights
        each = weights if aweights is None else weights * aweights
        total = each.sum()
        squares = total if aweights is None else (each * aweights).sum()
        centred = rows - (rows * each).sum(1, keepdim=True) / total
        weights = each
    return (weights * centred @ centred.mT.conj() / (total - correction * squares / total)).squeeze()


def corrcoef(input: Tensor) -> Tensor:
    """As `torch.corrcoef`: (n, n) correlations of n variables, the rows of (n, samples)."""
    found = cov(input)
    if found.ndim == 0:
        return found / found
    deviations = found.diagonal().real.sqrt()
    found = found / deviations[:, None] / deviations
    return torch.complex(found.real.clamp(-1, 1), found.imag.clamp(-1, 1)) if found.is_complex() else found.clamp(-1, 1)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """As `torch.nn.functional.gaussian_nll_loss`; where that raises for a negative variance, the loss is NaN."""
    variance = var * torch.ones_like(input) if isinstance(var, float) else var
    if variance.size() != input.size() and input.size()[:-1] == variance.size():
        variance = variance.unsqueeze(-1)
    # the gradient goes through the clamped variance as if it were not clamped
    clamped = variance + (variance.detach().clamp(min=eps) - variance.detach())
    loss = 0.5 * (clamped.log() + (input - target) ** 2 / clamped)
    loss = torch.where((variance < 0).any(), math.nan, loss)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


_OURS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.cov: cov,
    Tensor.cov: cov,
    torch.corrcoef: corrcoef,
    Tensor.corrcoef: corrcoef,
    torch.nn.functional.gaussian_nll_loss: gaussian_nll_loss,
}
