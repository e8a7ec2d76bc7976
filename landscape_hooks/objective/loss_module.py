"""LossModule: a model and its loss as one module, from the tensors of a batch to the loss.

In: the user's model with a criterion or an objective. Out: a module around a private copy in evaluation mode, which
knows by trying whether the loss is known for each sample.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape_hooks.errors import DataError, LandscapeError, ObjectiveError
from landscape_hooks.objective.data.states import seed_all, states_kept, states_of
from landscape_hooks.objective.live.copies import Copies, outside
from landscape_hooks.trajectory.modules import unwrap, walk_tensors
from landscape_hooks.trajectory.parameters import ParameterLayout

Batches = Callable[[], Iterable[tuple[Sequence[Tensor], int]]]
"""Gives the tensors of each batch and how many samples it has."""


@dataclass(frozen=True)
class Unrecorded:
    """A tensor that the loss sends a gradient to, and that is none of the model's parameters.

    `module` is where the user's code has the module that it belongs to, "" where it is of none; `inside` is whether
    the model holds it without having registered it.
    """

    name: str
    module: str = ""
    inside: bool = False


class LossModule(nn.Module):
    """leaves of a batch -> loss, around private copies of the user's model and loss in evaluation mode.

    Attributes
    ----------
    needs_grad
        whether the loss takes derivatives itself, or is another one where autograd is off.
    draws
        whether the loss was seen to draw random numbers. It draws the same ones at every call: those after all
        generators were seeded with 0.
    generators
        private copies of the generators that the model and the loss hold themselves.
    unrecorded
        the parameters that get a gradient from the loss and are not the model's.
    integers
        the tensors of integers that the run stores once, by name.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], rebuild: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss
        self._rebuild = rebuild
        self.needs_grad = self.draws = self._traced = False
        self.generators: list[Any] = []
        self.unrecorded: list[Unrecorded] = []
        self.integers: dict[str, Tensor] = {}
        self._named: dict[int, tuple[str, str]] = {}

    @classmethod
    def of(
        cls,
        model: nn.Module,
        criterion: Callable[..., Any] | None,
        objective: Callable[..., Any] | None,
        rebuild: Callable[..., Any],
        *,
        own: bool = True,
        integers: Collection[str] = (),
    ) -> tuple[LossModule, dict[str, str]]:
        """The module, and the canonical name of each of the model's tensors by its name in the module.

        These are its floating-point tensors, and of the others those whose names are among `integers`.
        """
        loss: Any = criterion if criterion is not None else objective
        assert loss is not None
        copies = Copies(model) if own else None
        model = unwrap(model) if copies is None else copies.model
        loss = loss if copies is None else copies.loss(loss)
        module = cls(model, _Criterion(loss) if criterion is not None else loss, rebuild).eval()
        module._named = {} if copies is None else copies.named
        module.generators = [] if copies is None else copies.generators()
        canonical: dict[int, str] = {}
        for layout in (ParameterLayout.of(model), ParameterLayout.of_buffers(model)):
            canonical |= {id(t): e.name for e, t in zip(layout, layout.tensors(model), strict=True)}
        module.integers = {name: tensor for name, tensor, _ in walk_tensors(model) if name in integers}
        canonical |= {id(tensor): name for name, tensor in module.integers.items()}
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        return module, {name: canonical[id(t)] for name, t in tensors if id(t) in canonical}

    def forward(self, *leaves: Tensor) -> Tensor:
        if self._traced or torch.compiler.is_exporting():  # draws become constants of the graph (tracing/draws.py)
            seed_all(self.generators)
            return self._loss(self.model, self._rebuild(list(leaves)))
        with states_kept():
            seed_all(self.generators)
            before = states_of(self.generators)
            value = self._loss(self.model, self._rebuild(list(leaves)))
            self.draws |= before != states_of(self.generators)
        return value

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Inside, the loss is computed as it is, for what records it."""
        self._traced = True
        try:
            with states_kept():
                yield
        finally:
            self._traced = False

    def choose(self, leaves: Sequence[Tensor], size: int, batches: Batches) -> bool:
        """Decide by trying whether the loss is known for each sample; returns whether it is.

        On the way `needs_grad` and `unrecorded` are found out. `batches` gives all of them, whose labels are looked at.
        """
        try:
            value = self._value(leaves, size, grad=False)
        except Exception:
            value = self._value(leaves, size, grad=True)  # where this fails too, this is what the training would meet
            self.needs_grad = True
        else:
            with suppress(Exception):
                other = self._value(leaves, size, grad=True)
                again = self._value(leaves, size, grad=False)
                self.needs_grad = not _same(value, other) and _same(value, again)
        return self._by_sample(leaves, size, value, batches)

    def _value(self, leaves: Sequence[Tensor], size: int, *, grad: bool) -> Tensor:
        """The loss of a batch; with autograd on, the leaves that it would send gradients to are looked at."""
        with torch.set_grad_enabled(grad):
            value = self(*[t.clone() for t in leaves])
        single = isinstance(self._loss, _Criterion)
        if not isinstance(value, Tensor) or (value.numel() != 1 if single else value.ndim and value.shape != (size,)):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ObjectiveError(
                f"The {'criterion' if single else 'objective'} returned {shape} for a batch of {size} samples",
                expected="a loss: one number" + f", or one a sample, shape ({size},)" * (not single),
            )
        if grad:
            own = {id(t) for t in self.model.parameters()}
            found = list(outside(value, own))
            if any(id(leaf) not in self._named and not _place_in(self.model, leaf) for leaf in found):
                with torch.enable_grad():
                    again = self(*[t.clone() for t in leaves])
                # a tensor that the loss makes anew is another one now
                kept = {id(leaf) for leaf in outside(again, own)}
                found = [leaf for leaf in found if id(leaf) in kept]
            self.unrecorded = sorted(map(self._place, found), key=lambda each: each.name)
        return value.detach()

    def _place(self, leaf: Tensor) -> Unrecorded:
        """Where a tensor stands in the user's code, as far as that is known."""
        if id(leaf) in self._named:
            module, part = self._named[id(leaf)]
            return Unrecorded(f"{module}.{part}".strip("."), module)
        name = _place_in(self.model, leaf)
        return Unrecorded(name or f"a tensor of shape {tuple(leaf.shape)}", inside=bool(name))

    def _by_sample(self, leaves: Sequence[Tensor], size: int, value: Tensor, batches: Batches) -> bool:
        """Whether the loss is known for each sample of every batch, and its mean over samples is the loss."""
        if not isinstance(self._loss, _Criterion):
            return value.ndim == 1
        with torch.set_grad_enabled(self.needs_grad):
            known = self._loss.choose(self.model, self._rebuild([t.clone() for t in leaves]))
        known = known and not any(self._loss.ignores(self._rebuild(list(other))) for other, _ in batches())
        if not known or len({tuple(t.shape[1:] for t in other) for other, _ in batches()}) > 1:
            self._loss.each = None
        return self._loss.each is not None

    def weighing(self, batches: Batches) -> str:
        """By what batches are weighed, found by taking some of them apart: "samples", "batches" (sums) or "unknown"."""
        found = list(batches())
        chosen = {0, len(found) // 3, 2 * len(found) // 3, len(found) - 1} if len(found) > 1 else {0}
        ways = set()
        for leaves, size in (found[i] for i in sorted(chosen)):
            parts = self.parts(leaves, size) if size > 1 else None
            if parts is None:
                continue
            with torch.set_grad_enabled(self.needs_grad):
                whole = self(*[t.clone() for t in leaves]).detach().mean()
            first, rest = (part.mean() for part in parts)
            cut = max(1, size // 3)
            by_samples = (cut * first + (size - cut) * rest) / size
            close = [torch.allclose(whole, way, rtol=1e-4, atol=1e-6) for way in (by_samples, first + rest)]
            ways.add("samples" if close[0] else "batches" if close[1] else "unknown")
        return ways.pop() if len(ways) == 1 else "unknown"

    def weight(self, leaves: Sequence[Tensor]) -> Tensor | None:
        """What the criterion divides by: the labels that count, each with its class's weight. None: another loss."""
        if not isinstance(self._loss, _Criterion) or not self._loss.counts_labels:
            return None
        return self._loss.weight(self._rebuild(list(leaves)))

    def parts(self, leaves: Sequence[Tensor], size: int) -> list[Tensor] | None:
        """The loss of a third of the batch and of the rest; None where a part of a batch has none."""
        cut = max(1, size // 3)
        ranges = (slice(0, cut), slice(cut, size))
        parts = [[t[r].clone() if t.ndim and len(t) == size else t.clone() for t in leaves] for r in ranges]
        try:
            with torch.set_grad_enabled(self.needs_grad):
                return [self(*part).detach() for part in parts]
        except Exception:  # of a part of a graph, of packed sequences, ...: whatever the user's code makes of it
            return None


class _Criterion(nn.Module):
    """`criterion(output, target)`, per sample where its mean over samples is what the criterion gives."""

    def __init__(self, criterion: Callable[..., Any]) -> None:
        super().__init__()
        self.criterion = criterion
        self.each: Callable[..., Any] | None = None

    def forward(self, model: nn.Module, batch: object) -> Tensor:
        output, target = self._output(model, batch)
        if self.each is None:
            return self.criterion(output, target)
        value = self.each(output, target)
        return value.reshape(value.shape[0], -1).mean(dim=1)

    def _output(self, model: nn.Module, batch: object) -> tuple[Any, Any]:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise DataError(f"Found a batch of type {type(batch).__name__}" +
                                 (f" with {len(batch)} entries" if hasattr(batch, "__len__") else ""),
                                 expected="(input, target) for criterion=",
                                 mend="Give objective=lambda model, batch: loss in place of criterion=")  # fmt: skip
        given, target = batch
        if isinstance(given, Mapping):
            return model(**given), target
        return (model(*given) if isinstance(given, list | tuple) else model(given)), target

    @property
    def counts_labels(self) -> bool:
        """Whether the criterion is one of torch's own that divide by the labels' weights."""
        given = self.criterion.func if isinstance(self.criterion, functools.partial) else self.criterion
        known = given in (F.cross_entropy, F.nll_loss) or isinstance(given, nn.CrossEntropyLoss | nn.NLLLoss)
        return known and self._option("reduction", "mean") == "mean"

    def _option(self, name: str, default: str | int | None) -> Any:
        if isinstance(self.criterion, functools.partial):
            return self.criterion.keywords.get(name, default)
        return getattr(self.criterion, name, default)

    def weight(self, batch: Sequence[Tensor]) -> Tensor:
        """What the mean over the batch is divided by."""
        target, weight = batch[1], self._option("weight", None)
        if target.is_floating_point():
            return torch.tensor(float(target.numel()))
        counts = target != self._option("ignore_index", -100)
        return counts.sum() if weight is None else (weight[torch.where(counts, target, 0)] * counts).sum()

    def ignores(self, batch: Sequence[object]) -> bool:
        """Whether a label of the batch is one that the criterion leaves out of its mean."""
        target = batch[1]
        ignored = _ignored(self.criterion)
        return ignored is not None and isinstance(target, Tensor) and bool((target == ignored).any())

    def choose(self, model: nn.Module, batch: object) -> bool:
        output, target = self._output(model, batch)
        whole = self.criterion(output, target)
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


def _ignored(criterion: Callable[..., Any]) -> Any:
    """The label that a criterion ignores; None where it has no such option."""
    if isinstance(criterion, functools.partial) and "ignore_index" in criterion.keywords:
        return criterion.keywords["ignore_index"]
    if isinstance(criterion, nn.Module):
        return getattr(criterion, "ignore_index", None)
    try:
        parameter = inspect.signature(criterion).parameters.get("ignore_index")
    except (TypeError, ValueError):
        return None
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


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


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-6, equal_nan=True)


def _place_in(model: nn.Module, leaf: Tensor) -> str:
    """The attribute of the model that holds a tensor which is none of its parameters, or a module that has it."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            several = isinstance(value, list | tuple | Mapping)
            held = value.values() if isinstance(value, Mapping) else value if several else [value]
            for number, part in enumerate(held):
                where = f"{path}.{name}".lstrip(".") + (f"[{number}]" if part is not value else "")
                if part is leaf:
                    return where
                if isinstance(part, nn.Module):
                    for inner, tensor in part.named_parameters():
                        if tensor is leaf:
                            return f"{where}.{inner}"
    return ""


def check_loss(criterion: object, objective: object) -> None:
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


def state_of(module: LossModule) -> dict[str, Tensor]:
    """The tensors of a module's model, by their canonical names."""
    layouts = ParameterLayout.of(module.model), ParameterLayout.of_buffers(module.model)
    found = {
        e.name: t.detach() for layout in layouts for e, t in zip(layout, layout.tensors(module.model), strict=True)
    }
    return found | module.integers
