"""Iterations: when one pass through a training loop is over, told from the optimizer steps in it.

In: steps of any optimizer (`steps.listen`). Out: `begins(optimizer)` when the first step of a next iteration begins,
and `stepped(optimizer, first)` when a step has ended. An iteration ends when an optimizer that has stepped in it steps
again: the pair of steps of a GAN is one iteration, and of optimizers that work one after the other each step counts.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from landscape_hooks.recording.watch.steps import running, takes_hooks, within


class Iterations:
    """Hears the steps of the optimizers that move a model.

    Parameters
    ----------
    parameters
        gives the model's parameters as they are now.
    optimizers
        those that `record` was given. What they hold counts as they do, where it steps outside of their own `step`.
    each
        every step is an iteration of its own (a trainer counts them).
    begins, stepped, joined
        called as the module says; `stepped` returns whether it was a step; `joined(optimizer)` for an optimizer that
        was not given but holds parameters of the model.
    """

    def __init__(
        self,
        parameters: Callable[[], Iterable[torch.Tensor]],
        optimizers: Sequence[Any],
        *,
        each: bool,
        begins: Callable[[Optimizer], None],
        stepped: Callable[[Optimizer, bool], bool],
        joined: Callable[[Optimizer], None],
    ) -> None:
        self._parameters, self._each = parameters, each
        self._begins, self._stepped_one, self._joined = begins, stepped, joined
        self._members: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._strangers: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._stepped: set[int] = set()
        self._open: list[tuple[int, int]] = []
        self._count = 0
        for optimizer in optimizers:
            self._add_within(optimizer)
        self._last: tuple[Callable[[], Any], int] = ((lambda: None), -1)

    def _add_within(self, optimizer: object) -> None:
        """Those inside of what was given, in place of it where its own `step` is not heard.

        A wrapper and what it wraps count as one. Those that hold other parameters step beside each other: matrices by
        one and all else by another, in one object that steps both.
        """
        known: list[tuple[set[int], int]] = []
        for inner in within(optimizer):
            if takes_hooks(inner):
                held = {id(parameter) for group in inner.param_groups for parameter in group["params"]}
                number = next((number for others, number in known if others & held), self._count)
                self._count = max(self._count, number + 1)
                known.append((held, number))
                self._members.setdefault(id(inner), (weakref.ref(inner), number))

    # -- what the hooks call --------------------------------------------------------------------------------
    def enter(self, optimizer: Optimizer) -> None:
        """A step begins."""
        member = self._last  # nearly always the one that stepped before
        if member[0]() is not optimizer:
            known = self._members.get(id(optimizer))
            if known is None or known[0]() is not optimizer:
                known = self._judge(optimizer)
                if known is None:
                    return
            self._last = member = known
        thread = get_ident()
        nested = self._is_nested(thread, optimizer) if self._open else False
        self._open.append((thread, id(optimizer)))
        if not nested and (not self._stepped or self._each or member[1] in self._stepped):
            self._stepped.clear()
            self._begins(optimizer)

    def leave(self, optimizer: Optimizer) -> None:
        """A step has ended."""
        member = self._last
        if member[0]() is not optimizer:
            known = self._members.get(id(optimizer))
            if known is None or known[0]() is not optimizer:
                return
            self._last = member = known
        if len(self._open) == 1 and self._open[0][1] == id(optimizer):  # nearly always
            self._open.pop()
        elif not self._is_outermost(get_ident(), id(optimizer)):
            return
        if self._stepped_one(optimizer, self._each or not self._stepped):
            self._stepped.add(member[1])

    def _is_outermost(self, thread: int, optimizer: int) -> bool:
        """Take an end that lies among other steps off those that are open; whether it ends no step inside another."""
        entry = (thread, optimizer)
        if entry not in self._open:  # it began before the watch
            return False
        while self._open[-1] != entry and self._open[-1][0] == thread:  # inner steps that raised
            self._open.pop()
        self._open.reverse()
        self._open.remove(entry)
        self._open.reverse()
        return all(other != thread for other, _ in self._open)

    # -- which optimizers count --------------------------------------------------------------------------------
    def holds_parameters(self) -> bool:
        """Whether any of the optimizers holds a parameter that the model has now."""
        known = {id(parameter) for parameter in self._parameters()}
        alive = [ref() for ref, _ in self._members.values()]
        return any(_holds(optimizer, known) for optimizer in alive if optimizer is not None)

    def _judge(self, optimizer: Optimizer) -> tuple[weakref.ref[Any], int] | None:
        """Whether an optimizer that was not passed moves the model; asked again only where its groups have changed."""
        size = sum(len(group["params"]) for group in getattr(optimizer, "param_groups", ()))
        known = self._strangers.get(id(optimizer))
        if known is not None and known[0]() is optimizer and known[1] == size:
            return None
        parameters = {id(parameter) for parameter in self._parameters()}
        if not _holds(optimizer, parameters):
            self._strangers[id(optimizer)] = (weakref.ref(optimizer), size)
            return None
        # an iteration does not wait for optimizers that are gone, or whose parameters the model has no more
        self._stepped &= {number for ref, number in self._members.values() if _holds(ref(), parameters)}
        member = (weakref.ref(optimizer), self._count)
        self._count += 1
        self._members[id(optimizer)] = member
        self._joined(optimizer)
        return member

    def _is_nested(self, thread: int, optimizer: Optimizer) -> bool:
        """Whether the step that begins lies inside another one; steps that raised are forgotten."""
        frames = {number: running(number) for number in {number for number, _ in self._open}}
        if thread in frames:
            frames[thread][id(optimizer)] -= 1  # the one that begins now
        kept = []
        for number, which in self._open:
            if frames[number][which] > 0:
                frames[number][which] -= 1
                kept.append((number, which))
        self._open = kept
        return any(number == thread for number, _ in kept)


def _holds(optimizer: object, known: set[int]) -> bool:
    groups = getattr(optimizer, "param_groups", ())
    return any(id(parameter) in known for group in groups for parameter in group["params"])
