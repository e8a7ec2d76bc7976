"""Hook: what torch calls of a module that is watched, without anything on the module that keeps it from being copied.

In: modules, listeners, and an action. Out: `action(listener, module, ...)` for each listener of that very module. A
hook is stateless and knows its listeners by the module's weak identity: in a copy of the module it finds none, and a
pickled module loads where this package is not installed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, Generic, TypeVar

import torch

L = TypeVar("L")


class Listeners(Generic[L]):
    """Who listens to which module.

    By the module's identity: some modules (the metrics of torchmetrics) have a hash and an equality that change.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.nn.Module], list[L]]] = {}

    def add(self, module: torch.nn.Module, listener: L) -> None:
        """Let `listener` hear the module."""
        key, table = id(module), self._known
        alive, known = table.get(key, (None, []))
        if alive is None or alive() is not module:
            known = []
            table[key] = weakref.ref(module, lambda _: table.pop(key, None)), known
        known.append(listener)

    def remove(self, listener: L) -> None:
        """Let it hear nothing any more."""
        for key, (_, known) in list(self._known.items()):
            while listener in known:
                known.remove(listener)
            if not known:
                self._known.pop(key, None)

    def of(self, module: torch.nn.Module) -> list[L]:
        """Those of one module; none of a copy of it."""
        alive, known = self._known.get(id(module), (None, []))
        return list(known) if alive is not None and alive() is module else []


class Hook(Generic[L]):
    """A hook that a copy shares and a pickle replaces by one of the standard library that does nothing."""

    def __init__(self, listeners: Listeners[L], action: Callable[Concatenate[L, torch.nn.Module, ...], None]) -> None:
        self._listeners, self._action = listeners, action

    def __call__(self, module: torch.nn.Module, *given: object) -> None:
        if torch.compiler.is_compiling():  # compiled into the model it does nothing, and costs nothing
            return
        listeners = self._listeners.of(module)
        for listener in listeners:
            self._action(listener, module, *given)
        if not listeners:
            self._nobody_listens(module)

    def _nobody_listens(self, module: torch.nn.Module) -> None:
        """What is to be done in a copy of the module."""

    def __deepcopy__(self, memo: dict[int, object]) -> Hook[L]:
        return self

    def __copy__(self) -> Hook[L]:
        return self

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


class CallHook(Hook[L]):
    """A hook of a module's calls. It leaves a copy of the module when that is called: torch goes by a list then."""

    def __init__(
        self,
        listeners: Listeners[L],
        action: Callable[Concatenate[L, torch.nn.Module, ...], None],
        *,
        before: bool = False,
    ) -> None:
        super().__init__(listeners, action)
        self._before = before

    def attach(self, module: torch.nn.Module) -> None:
        """Have it on a module; once, however many listen."""
        if self not in self._hooks(module).values():
            register = module.register_forward_pre_hook if self._before else module.register_forward_hook
            register(self, with_kwargs=True)

    def detach(self, module: torch.nn.Module) -> None:
        """Take it off a module that nobody listens to any more."""
        if self._listeners.of(module):
            return
        hooks = self._hooks(module)
        named = module._forward_pre_hooks_with_kwargs if self._before else module._forward_hooks_with_kwargs
        for key in [key for key, hook in hooks.items() if hook is self]:
            hooks.pop(key)
            named.pop(key, None)

    def _hooks(self, module: torch.nn.Module) -> dict[int, Callable[..., Any]]:
        return module._forward_pre_hooks if self._before else module._forward_hooks

    def _nobody_listens(self, module: torch.nn.Module) -> None:
        self.detach(module)
