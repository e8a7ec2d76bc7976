"""Loading: when another state is loaded into a model, or into a part of it.

In: a model. Out: `before()` just before the first of its tensors is replaced by a `load_state_dict`, and `after()`
when all of them are. torch calls the hooks of the module that is loaded and of those inside it, not of those around
it, so every module has them. They are stateless and know their listeners by the module's weak identity: in a copy
of the model they find none, and a pickled model loads where this package is not installed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch


class Loading:
    """Hears what is loaded into a model, until `remove`."""

    def __init__(self, model: torch.nn.Module, *, before: Callable[[], None], after: Callable[[], None]) -> None:
        self.before, self.after = before, after
        self._outermost: weakref.ref[torch.nn.Module] | None = None
        self._handles: list[Any] = []
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no such hooks
                continue
            _listeners_of(module).append(self)
            self._handles.append(module.register_load_state_dict_pre_hook(_BEFORE))
            self._handles.append(module.register_load_state_dict_post_hook(_AFTER))

    def remove(self) -> None:
        """Hear nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for key, (_, known) in list(_listeners.items()):
            if self in known:
                known.remove(self)
            if not known:
                _listeners.pop(key, None)

    def begin(self, module: torch.nn.Module) -> None:
        """A module's own tensors are about to be replaced."""
        if self._outermost is None or self._outermost() is None or self._outermost() is module:
            self._outermost = weakref.ref(module)
            self.before()

    def end(self, module: torch.nn.Module) -> None:
        """A module and those inside it have their new tensors."""
        if self._outermost is not None and self._outermost() is module:
            self._outermost = None
            self.after()


_listeners: dict[int, tuple[weakref.ref[torch.nn.Module], list[Loading]]] = {}
"""By the module's identity: some modules (the metrics of torchmetrics) have a hash and an equality that change."""


def _listeners_of(module: torch.nn.Module) -> list[Loading]:
    key = id(module)
    alive, known = _listeners.get(key, (None, []))
    if alive is None or alive() is not module:
        known = []
        _listeners[key] = weakref.ref(module, lambda _: _listeners.pop(key, None)), known
    return known


class _Hook:
    """A hook that a copy shares and a pickle replaces by one of the standard library that does nothing."""

    def __init__(self, action: Callable[[Loading, torch.nn.Module], None]) -> None:
        self._action = action

    def __call__(self, module: torch.nn.Module, *_: object) -> None:
        alive, known = _listeners.get(id(module), (None, ()))
        if alive is not None and alive() is module:
            for loading in list(known):
                self._action(loading, module)

    def __deepcopy__(self, memo: dict[int, object]) -> _Hook:
        return self

    def __copy__(self) -> _Hook:
        return self

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


_BEFORE = _Hook(Loading.begin)
_AFTER = _Hook(Loading.end)
