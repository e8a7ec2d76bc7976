"""LossModule: a model and its loss as one module, from the tensors of a batch to the loss.

In: the user's model with a criterion or an objective. Out: a module around a private copy in evaluation mode, which
knows by trying whether the loss is known for each sample.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape_hooks.errors import DataError, LandscapeError, ObjectiveError
from landscape_hooks.trajectory.modules import unwrap
from landscape_hooks.trajectory.parameters import ParameterLayout

WAY_OUT = (
    "Analyze it with the loss from your own code: landscape-hooks analyze RUN --objective module:function, "
    "where function() returns landscape_hooks.Objective(model, criterion=..., data=...)"
)


class LossModule(nn.Module):
    """leaves of a batch -> loss, around a private copy of the user's model in evaluation mode."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], rebuild: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss
        self._rebuild = rebuild

    @classmethod
    def of(
        cls,
        model: nn.Module,
        criterion: Callable[..., Any] | None,
        objective: Callable[..., Any] | None,
        rebuild: Callable[..., Any],
        *,
        own: bool = True,
    ) -> tuple[LossModule, dict[str, str]]:
        """The module, and the canonical name of each of the model's tensors by its name in the module."""
        model = private_copy(model) if own else unwrap(model)
        loss = _Criterion(criterion) if criterion is not None else objective
        assert loss is not None
        module = cls(model, loss, rebuild).eval()
        canonical: dict[int, str] = {}
        for layout in (ParameterLayout.of(model), ParameterLayout.of_buffers(model)):
            canonical |= {id(t): e.name for e, t in zip(layout, layout.tensors(model), strict=True)}
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        names = {name: canonical[id(t)] for name, t in tensors if id(t) in canonical and name.startswith("model.")}
        return module, names

    def forward(self, *leaves: Tensor) -> Tensor:
        return self._loss(self.model, self._rebuild(list(leaves)))

    def choose(self, leaves: Sequence[Tensor], size: int) -> bool:
        """Decide by trying whether the loss is known for each sample; returns whether it is."""
        with torch.no_grad():
            if isinstance(self._loss, _Criterion):
                return self._loss.choose(self.model, self._rebuild([t.clone() for t in leaves]))
            value = self(*[t.clone() for t in leaves])
        if not isinstance(value, Tensor) or (value.ndim and value.shape != (size,)):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ObjectiveError(f"The objective returned {shape} for a batch of {size} samples",
                                 expected=f"a loss: one number, or one a sample, shape ({size},)")  # fmt: skip
        return value.ndim == 1


class _Criterion(nn.Module):
    """`criterion(output, target)`, per sample where its mean over samples is what the criterion gives."""

    def __init__(self, criterion: Callable[..., Any]) -> None:
        super().__init__()
        self.criterion = copy.deepcopy(criterion).cpu() if isinstance(criterion, nn.Module) else criterion
        self.each: Callable[..., Any] | None = None

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        output, target = self._output(model, batch)
        if self.each is None:
            return self.criterion(output, target)
        value = self.each(output, target)
        return value.reshape(value.shape[0], -1).mean(dim=1)

    def _output(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise DataError(f"Found a batch of type {type(batch).__name__}" +
                                 (f" with {len(batch)} entries" if hasattr(batch, "__len__") else ""),
                                 expected="(input, target) for criterion=",
                                 mend="Give objective=lambda model, batch: loss in place of criterion=")  # fmt: skip
        given, target = batch
        if isinstance(given, Mapping):
            return model(**given), target
        return (model(*given) if isinstance(given, list | tuple) else model(given)), target

    def choose(self, model: nn.Module, batch: Any) -> bool:
        output, target = self._output(model, batch)
        whole = self.criterion(output, target)
        if not isinstance(whole, Tensor) or whole.numel() != 1:
            raise ObjectiveError("The criterion returned no single number", expected="a loss: one number a batch")
        each = _unreduced(self.criterion)
        if each is None:
            return False
        try:
            value = each(output, target)
            value = value.reshape(value.shape[0], -1).mean(dim=1)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            return False
        # class weights, ignored targets and sums make the two differ: then only the batch's own value is right
        if not torch.allclose(value.mean(), whole.reshape(()), rtol=1e-5, atol=1e-8, equal_nan=True):
            return False
        self.each = each
        return True


def _unreduced(criterion: Callable[..., Any]) -> Callable[..., Any] | None:
    """The criterion with `reduction="none"`, None where it has no such option."""
    if isinstance(criterion, nn.Module):
        if getattr(criterion, "reduction", None) != "mean":
            return None
        each = copy.deepcopy(criterion)
        each.reduction = "none"  # type: ignore[assignment]
        return each
    try:
        known = "reduction" in inspect.signature(criterion).parameters
    except (TypeError, ValueError):
        return None
    return functools.partial(criterion, reduction="none") if known else None


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of the unwrapped model on the CPU in evaluation mode, with its own tensors."""
    inner = unwrap(model)
    memo: dict[int, Any] = {}
    for tensor in [*inner.parameters(), *inner.buffers()]:
        if hasattr(tensor, "full_tensor"):
            raise ObjectiveError("The model's parameters are sharded over processes", mend=WAY_OUT)
        if type(tensor) in (nn.Parameter, Tensor):
            value = tensor.detach().to("cpu", copy=True)
            memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if type(tensor) is nn.Parameter else value
    try:
        private = copy.deepcopy(inner, memo).eval()
        for module in private.modules():
            if "_original_forward" in module.__dict__:  # accelerate's autocast, around the forward of its class
                module.__dict__.pop("forward", None)
        return private
    except Exception as error:
        raise ObjectiveError(f"The model cannot be copied ({type(error).__name__}: {error})", mend=WAY_OUT) from error


def check_loss(criterion: Any, objective: Any) -> None:
    """One of both, and callable.

    Raises
    ------
    LandscapeError
        none, both, or something that cannot be called.
    """
    if (criterion is None) == (objective is None):
        raise LandscapeError("Found neither criterion nor objective" if criterion is None else
                             "Found both criterion and objective",
                             expected="criterion(output, target), or objective(model, batch)")  # fmt: skip
    if not callable(criterion if criterion is not None else objective):
        raise LandscapeError("The criterion or objective cannot be called", expected="a function or a module")
