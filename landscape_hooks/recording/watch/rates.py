"""Rates: learning rate and momentum of every parameter group, as an optimizer used them for a step.

In: optimizers. Out: one number a group, in the order in which the optimizers became known; NaN for a group whose
optimizer has none, or is gone.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from landscape_hooks.store.checked import spell


class Rates:
    """The groups of the optimizers of a recording, or numbers that the training loop says itself."""

    def __init__(self, optimizers: Iterable[Any]) -> None:
        self._refs: list[tuple[weakref.ref[Any], int]] = []
        self._only: weakref.ref[Any] | None = None
        self._moment = ""
        self.said: list[float] = []
        for optimizer in optimizers:
            self.add(optimizer)

    def add(self, optimizer: object) -> None:
        """A further optimizer; its groups come after those that are known."""
        groups = getattr(optimizer, "param_groups", ())
        self._refs.append((weakref.ref(optimizer), len(groups)))
        self._only = self._refs[0][0] if len(self._refs) == 1 else None
        self._moment = "momentum" if any("momentum" in group for group in groups) else "betas"

    @property
    def groups(self) -> int:
        """Number of groups that are known now."""
        return sum(count for _, count in self._refs)

    def now(self) -> list[tuple[Any, Any, Any]]:
        """What every group holds now (`read` makes numbers of it); tensors are copied, nothing waits for a GPU."""
        if self._only is not None:  # one optimizer with one group: nearly always, and at every step
            optimizer = self._only()
            if optimizer is not None and len(groups := optimizer.param_groups) == 1:
                group = groups[0]
                try:
                    rate, momentum = group["lr"], group[self._moment]
                    if type(rate) is float:
                        return [(rate, momentum, None) if self._moment == "momentum" else (rate, None, momentum)]
                except KeyError:
                    pass
                return [_held(group)]
        if not self._refs:
            return [(rate, None, None) for rate in self.said]
        found = [[] if (optimizer := ref()) is None else optimizer.param_groups for ref, _ in self._refs]
        # a group that is added later comes after all that were there, so that no column changes its meaning
        columns = [group for own, (_, count) in zip(found, self._refs, strict=True) for group in _filled(own, count)]
        columns += [group for own, (_, count) in zip(found, self._refs, strict=True) for group in own[count:]]
        return [_held(group) for group in columns]


def read(held: Sequence[tuple[Any, Any, Any]]) -> dict[str, Sequence[float]]:
    """Learning rates and momenta as numbers, by the names that they have in a run; here a GPU is waited for."""
    return {
        "learning_rate": [number(rate) for rate, _, _ in held],
        "momentum": [number(_first_moment(momentum, betas)) for _, momentum, betas in held],
    }


def _filled(groups: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return groups[:count] + [{}] * (count - len(groups))


def number(value: object) -> float:
    """A number or a tensor of one element as a float; NaN where it is neither."""
    try:
        plain: Any = value.item() if isinstance(value, torch.Tensor) else value
        return float(plain)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


WRAPPERS = ("accelerate", "lightning", "pytorch_lightning")
"""Packages whose optimizers hand every step on to the one in their attribute `optimizer`."""

CONSTANTS: dict[str, Any] = {"dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
"""What the rule of `torch.optim.SGD` depends on beside learning rate and momentum, and what it is where it is not said.
"""


def described(optimizers: Iterable[object]) -> list[dict[str, Any]]:
    """What a run says of its optimizers: `name`, `rule` ("sgd" where it steps as torch.optim.SGD does, else "other"),
    and of each parameter group the constants of that rule, as they are now.
    """
    found = []
    for optimizer in optimizers:
        try:
            found.append(_described(_inner(optimizer)))
        except Exception:  # whatever an optimizer of another library does when it is looked at
            found.append({"name": type(optimizer).__name__, "rule": "other"})
    return found


def _described(optimizer: object) -> dict[str, Any]:
    step = inspect.unwrap(getattr(type(optimizer), "step", _described))
    found: dict[str, Any] = {"name": type(optimizer).__name__, "rule": "other"}
    if isinstance(optimizer, torch.optim.SGD) and step is inspect.unwrap(torch.optim.SGD.step):
        found["rule"] = "sgd"
        groups = [{key: group.get(key, usual) for key, usual in CONSTANTS.items()} for group in optimizer.param_groups]
        found["groups"] = [
            {key: value if isinstance(value, bool) else spell(number(value)) for key, value in group.items()}
            for group in groups
        ]
    return found


def _inner(optimizer: object) -> object:
    """The optimizer that steps, inside of a trainer's wrappers."""
    for _ in range(8):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or type(optimizer).__module__.partition(".")[0] not in WRAPPERS:
            break
        optimizer = inner
    return optimizer


def _held(group: dict[str, Any]) -> tuple[Any, Any, Any]:
    rate = group.get("lr")
    if isinstance(rate, torch.Tensor):
        rate = rate.detach().clone()
    return rate, group.get("momentum"), group.get("betas")


def _first_moment(momentum: object, betas: Sequence[object] | None) -> Any:
    """Momentum of SGD's kind, or beta 1 of Adam's; None where there is none."""
    return momentum if momentum is not None or not betas else betas[0]
