"""StepHook: one call after every real step of an optimizer, however its `step` is wrapped.

In: a torch optimizer, or something that wraps one. Out: a call of `after_step` once per step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from landscape_hooks.errors import LandscapeError

_WRAPPER_CODE = torch.optim.Optimizer.profile_hook_step(lambda self: None).__code__
"""The frame in which torch runs the hooks around `step`; one code object for all optimizers."""


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside a trainer's wrapper (`.optimizer`, as accelerate and Lightning have it, or `.opt`).

    Raises
    ------
    LandscapeError
        there is none, or one without step hooks.
    """
    found = optimizer
    for _ in range(8):
        inner = next((i for i in (getattr(found, a, None) for a in ("optimizer", "opt")) if _is_optimizer(i)), None)
        if inner is None or inner is found:
            break
        found = inner
    if not _is_optimizer(found) or not hasattr(found, "_optimizer_step_post_hooks"):
        raise LandscapeError(
            f"The optimizer is a {type(optimizer).__module__}.{type(optimizer).__name__}, which takes no step hooks",
            expected="a torch.optim.Optimizer",
            mend="Pass optimizer=None and call recorder.step() after every step",
        )
    return found


class StepHook:
    """Calls `after_step(optimizer)` after each step, once, also where `step` calls `super().step()`."""

    def __init__(self, optimizer: torch.optim.Optimizer, after_step: Callable[[torch.optim.Optimizer], None]) -> None:
        self._depth = 0
        self._after_step = after_step
        # A compiled step traces the hooks; there they leave the graph through these two. Registering the disabled
        # functions themselves would cost 2 µs on every eager step.
        self._traced_before = torch._dynamo.disable(self._enter)
        self._traced_after = torch._dynamo.disable(self._leave)
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            self._traced_before(optimizer)
        else:
            self._enter(optimizer)

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            self._traced_after(optimizer)
        else:
            self._leave(optimizer)

    def _enter(self, optimizer: Any) -> None:
        if self._depth:  # inside another step, or an earlier one raised and never came to its post hook
            self._depth = _open_steps(optimizer) - 1
        self._depth += 1

    def _leave(self, optimizer: Any) -> None:
        self._depth -= 1
        if self._depth <= 0:
            self._depth = 0
            self._after_step(optimizer)


def _open_steps(optimizer: Any) -> int:
    """How many calls of this optimizer's `step` the stack really holds."""
    frame, count = sys._getframe(1), 0
    found: Any = frame
    while found is not None:
        if found.f_code is _WRAPPER_CODE and found.f_locals.get("self") is optimizer:
            count += 1
        found = found.f_back
    return max(1, count)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, torch.optim.Optimizer)
