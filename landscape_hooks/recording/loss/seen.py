"""Seen: the first batches that a training itself puts through its model and its criterion.

In: a model and a criterion, heard through hooks that change nothing. Out: copies of the batches, on the CPU. A batch is
what the model was given in training mode, and what the criterion was given beside the model's output, once a backward
pass went through the criterion's value: evaluation, logging and warm-ups are none. Code that is compiled around the
model or the criterion, traced or captured is left alone, and not heard.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape_hooks.errors import first_line
from landscape_hooks.objective.data.batches import copied, flatten_portable
from landscape_hooks.objective.probe import samples_of
from landscape_hooks.recording.hook import CallHook, Listeners
from landscape_hooks.recording.loss.form import Call, Kept, Unfit, kept_of, loss_of
from landscape_hooks.recording.loss.outputs import tensors_in

MOST_CALLS = 3
"""Calls of the model that a criterion may still be called for; each holds a copy of its input, and its output."""

MOST_PENDING = 64
"""Values of the criterion that a backward pass may still go through; each holds a copy of its batch."""

STEPS = 100
"""Steps of an optimizer without a call of the model after which nothing more is waited for."""

PATIENCE = 1000
"""Calls of the model without a batch, or without a new one, after which nothing more is waited for."""


class Seen:
    """Keeps batches until there are `samples` samples, or `remove`.

    Attributes
    ----------
    kept
        what has been kept.
    enough
        whether nothing more is waited for.
    unfit
        why the training's loss cannot be kept; empty where nothing was found.
    """

    def __init__(self, models: Sequence[nn.Module], criterion: nn.Module, samples: int) -> None:
        self._criterion, self._samples = criterion, samples
        self.kept: list[Kept] = []
        self.enough, self.unfit = False, ""
        self._keys: set[bytes] = set()
        self._calls: deque[Call] = deque(maxlen=MOST_CALLS)
        self._open: dict[tuple[int, int], Call] = {}
        self._pending: dict[int, Kept] = {}
        self._fired: list[int] = []
        self._numbers = itertools.count()
        self._heard, self._steps, self._since = False, 0, 0
        self._outer = id(models[0])
        self._modules = [weakref.ref(each) for each in models], weakref.ref(criterion)
        try:
            for model in {id(each): each for each in models}.values():
                _listeners.add(model, self)
                _GIVEN.attach(model)
                _RETURNED.attach(model)
            _criteria.add(criterion, self)
            _VALUED.attach(criterion)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Hear nothing any more."""
        self.run(self.settle)
        _listeners.remove(self)
        _criteria.remove(self)
        models, criterion = self._modules
        for model in [found for each in models if (found := each()) is not None]:
            _GIVEN.detach(model)
            _RETURNED.detach(model)
        if (known := criterion()) is not None:
            _VALUED.detach(known)
        self._calls.clear()
        self._open.clear()
        self._pending.clear()

    def loss(self) -> tuple[dict[str, Any], list[Any]]:
        """(criterion= or objective=, batches), as `record` takes them."""
        return loss_of(self._criterion, self.kept)

    # -- what the hooks call ------------------------------------------------------------------------------------
    def given(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model is called."""
        if not model.training or _aside():
            return
        self.settle()
        thread = threading.get_ident()
        if (thread, self._outer) in self._open and id(model) != self._outer:  # from within the module around it
            return
        inputs = [tensor for value in (args, kwargs) for _, tensor in tensors_in(value)]
        self._heard = True
        self._since += 1
        call = Call(copied(args), copied(kwargs), foreign=any(t.requires_grad and not t.is_leaf for t in inputs))
        self._open[thread, id(model)] = call
        if self._since > PATIENCE:
            self.enough = True

    def returned(self, model: nn.Module, _: object, __: object, output: object) -> None:
        """The model has returned."""
        call = self._open.pop((threading.get_ident(), id(model)), None)
        if call is not None:
            call.hold(output)
            self._calls.append(call)

    def valued(self, criterion: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], value: object) -> None:
        """The criterion has returned a value."""
        if not isinstance(value, Tensor) or value.grad_fn is None or _aside():
            return
        self.settle()
        kept = kept_of(list(self._calls), args, kwargs)
        if kept is None:
            return
        number = next(self._numbers)
        if len(self._pending) >= MOST_PENDING:
            self._pending.clear()
        self._pending[number] = kept
        known = weakref.ref(self)

        def passed(*_: object) -> None:
            seen = known()
            if seen is not None and number not in seen._fired and seen._pending.get(number) is kept:
                seen._fired.append(number)

        value.grad_fn.register_prehook(passed)

    # -- what becomes of it ---------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Keep the batch that a backward pass went through since the last time.

        Raises
        ------
        Unfit
            it went through several values of the criterion: terms of a loss whose weights are not known.
        """
        if not self._fired:
            return
        fired, self._fired = self._fired, []
        if len(fired) > 1:
            raise Unfit(
                f"a backward pass goes through {len(fired)} values of the criterion, the terms of a larger loss"
            )
        kept = self._pending.get(fired[0])
        if kept is None:
            return
        self._pending.clear()
        self._calls.clear()
        if self.kept and kept.form != self.kept[0].form:
            raise Unfit("the criterion is not called in the same way for every batch")
        key = kept.key
        if key in self._keys:  # the same batch again: all data in one batch, closures, several steps for a batch
            self.enough = self.enough or self._since > max(20, 2 * len(self.kept))
            return
        self._keys.add(key)
        self.kept.append(kept)
        self._since = 0
        self._samples -= samples_of(flatten_portable(kept.content).leaves)
        self.enough = self.enough or self._samples <= 0

    def iteration_ended(self) -> None:
        """An optimizer has stepped: what was not passed backward by now is no batch."""
        self.run(self.settle)
        self._pending.clear()
        self._calls.clear()
        self._steps += 1
        if self._steps >= STEPS and not self._heard:
            self.enough = True

    def run(self, action: Callable[..., object], *given: object) -> None:
        """Do it in the training's thread; whatever is in the way, the training goes on, and nothing more is kept."""
        if self.enough:
            return
        try:
            action(*given)
        except Unfit as error:
            self._give_up(str(error))
        except Exception as error:  # containers and tensors of any make
            self._give_up(f"a batch could not be kept ({type(error).__name__}: {first_line(error)})")

    def _give_up(self, why: str) -> None:
        self.unfit, self.enough = why, True
        self.kept.clear()
        self._calls.clear()
        self._pending.clear()


def _aside() -> bool:
    """Whether this call is none of the training's: without gradients, compiled, traced, transformed or captured."""
    return (
        not torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch._C._functorch.maybe_current_level() is not None
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
    )


def _given(seen: Seen, module: nn.Module, *given: object) -> None:
    seen.run(seen.given, module, *given)


def _returned(seen: Seen, module: nn.Module, *given: object) -> None:
    seen.run(seen.returned, module, *given)


def _valued(seen: Seen, module: nn.Module, *given: object) -> None:
    seen.run(seen.valued, module, *given)


_listeners: Listeners[Seen] = Listeners()
_criteria: Listeners[Seen] = Listeners()
_GIVEN, _RETURNED = CallHook(_listeners, _given, before=True), CallHook(_listeners, _returned)
_VALUED = CallHook(_criteria, _valued)
