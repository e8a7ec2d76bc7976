"""Rates: learning rate and momentum of every parameter group, as an optimizer used them for a step.

In: optimizers. Out: one number a group, in the order in which the optimizers became known; NaN for a group whose
optimizer has none, or is gone.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch


class Rates:
    """The groups of the optimizers of a recording, or numbers that the training loop says itself."""

    def __init__(self, optimizers: Iterable[Any]) -> None:
        self._refs: list[tuple[weakref.ref[Any], int]] = []
        self.said: list[float] = []
        for optimizer in optimizers:
            self.add(optimizer)

    def add(self, optimizer: Any) -> None:
        """A further optimizer; its groups come after those that are known."""
        self._refs.append((weakref.ref(optimizer), len(getattr(optimizer, "param_groups", ()))))

    @property
    def groups(self) -> int:
        """Number of groups that are known now."""
        return sum(count for _, count in self._refs)

    def now(self) -> tuple[list[Any], list[Any]]:
        """(learning rates, momenta) as the groups hold them now; tensors are copied, nothing waits for a GPU."""
        if not self._refs:
            return list(self.said), []
        groups = [[] if (optimizer := ref()) is None else optimizer.param_groups for ref, _ in self._refs]
        # a group that is added later comes after all that were there, so that no column changes its meaning
        columns = [group for own, (_, count) in zip(groups, self._refs, strict=True) for group in _filled(own, count)]
        columns += [group for own, (_, count) in zip(groups, self._refs, strict=True) for group in own[count:]]
        return [_held(group.get("lr", math.nan)) for group in columns], [_momentum(group) for group in columns]


def _filled(groups: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return groups[:count] + [{}] * (count - len(groups))


def numbers(values: Sequence[Any]) -> list[float]:
    """As plain numbers; here a GPU is waited for."""
    return [number(value) for value in values]


def number(value: Any) -> float:
    """A number or a tensor of one element as a float; NaN where it is neither."""
    try:
        return float(value.item() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _held(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _momentum(group: dict[str, Any]) -> Any:
    """Momentum of SGD's kind, or beta 1 of Adam's; NaN where the group has none."""
    found = group.get("momentum")
    if found is None:
        betas = group.get("betas")
        found = betas[0] if isinstance(betas, tuple | list) and betas else math.nan
    return _held(found)
