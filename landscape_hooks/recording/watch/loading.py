"""Loading: when another state is loaded into a model, or into a part of it.

In: a model. Out: `before()` just before the first of its tensors is replaced by a `load_state_dict`, and `after()`
when all of them are. torch calls the hooks of the module that is loaded and of those inside it, not of those around
it, so every module has them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from landscape_hooks.recording.hook import Hook, Listeners


class Loading:
    """Hears what is loaded into a model, until `remove`."""

    def __init__(self, model: torch.nn.Module, *, before: Callable[[], None], after: Callable[[], None]) -> None:
        self.before, self.after = before, after
        self._outermost: weakref.ref[torch.nn.Module] | None = None
        self._handles: list[Any] = []
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no such hooks
                continue
            _listeners.add(module, self)
            self._handles.append(module.register_load_state_dict_pre_hook(_BEFORE))
            self._handles.append(module.register_load_state_dict_post_hook(_AFTER))

    def remove(self) -> None:
        """Hear nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _listeners.remove(self)

    def begin(self, module: torch.nn.Module, *_: object) -> None:
        """A module's own tensors are about to be replaced."""
        if self._outermost is None or self._outermost() is None or self._outermost() is module:
            self._outermost = weakref.ref(module)
            self.before()

    def end(self, module: torch.nn.Module, *_: object) -> None:
        """A module and those inside it have their new tensors."""
        if self._outermost is not None and self._outermost() is module:
            self._outermost = None
            self.after()


_listeners: Listeners[Loading] = Listeners()
_BEFORE = Hook(_listeners, Loading.begin)
_AFTER = Hook(_listeners, Loading.end)
