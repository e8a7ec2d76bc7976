"""Count: optimizer steps that were really taken.

In: every end of an optimizer's `step`. Out: how many steps and iterations there were. A fused optimizer under mixed
precision steps over infinite gradients without changing anything: that is no step. Neither is one that
torch.distributed.checkpoint takes before it saves or loads, to give an optimizer its state, nor one that is captured
into a CUDA graph: it is computed when the graph is replayed, which calls no hook.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from landscape_hooks.device.copies import capturing


class StepCount:
    """Counts steps.

    Attributes
    ----------
    step
        optimizer steps taken, from wherever the count began.
    iterations
        iterations heard since the recording began.
    captured
        whether a step was captured into a CUDA graph.
    """

    def __init__(self, counter: Callable[[], int] | None) -> None:
        self.step = self.iterations = 0
        self.captured = False
        self._counter = counter
        self._skips: torch.Tensor | None = None

    def begin(self) -> None:
        """The first step of an iteration has ended."""
        self.iterations += 1
        self.step = self.step + 1 if self._counter is None else self._counter()

    def skips(self, optimizer: object) -> bool:
        """Whether a step that begins is going to be none; a GPU is not waited for."""
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and found_inf.device.type == "cpu" and bool(found_inf.item()):
            return True
        return _only_prepares(optimizer)

    def was_none(self, optimizer: object) -> bool:
        """Whether a step that has ended was none."""
        if capturing():
            self.captured = True
            return True
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and self._overflowed(found_inf):
            return True
        groups = getattr(optimizer, "param_groups", None)
        if groups and type(rate := groups[0].get("lr")) is float and rate != 0:  # nearly always
            return False
        return _only_prepares(optimizer)

    def _overflowed(self, found_inf: torch.Tensor) -> bool:
        """Whether a gradient was infinite.

        Reading the flag from a GPU would stop it, so there overflows are summed up and read when that is needed.
        """
        if found_inf.device.type == "cpu":
            return bool(found_inf.item())
        skipped = (found_inf != 0).sum()
        self._skips = skipped if self._skips is None else self._skips + skipped
        return False

    def settle(self) -> None:
        """Take off the steps that were none, which may wait for a GPU."""
        if self._skips is not None:
            skipped, self._skips = int(self._skips.item()), None
            self.step -= skipped if self._counter is None else 0


def _only_prepares(optimizer: object) -> bool:
    """Whether a step moves nothing, and is taken for the optimizer's state: all rates are 0 and all gradients, too."""
    groups = getattr(optimizer, "param_groups", ())
    for group in groups:
        rate = group.get("lr")
        if type(rate) is not float and not (isinstance(rate, torch.Tensor) and rate.device.type == "cpu"):
            return False
        if rate != 0:
            return False
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    try:
        return bool(gradients) and not any(bool(gradient.any()) for gradient in gradients)
    except (RuntimeError, NotImplementedError):  # of a kind that has no such question
        return False
