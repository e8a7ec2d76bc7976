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
        for listener in self._listeners.of(module):
            self._action(listener, module, *given)

    def __deepcopy__(self, memo: dict[int, object]) -> Hook[L]:
        return self

    def __copy__(self) -> Hook[L]:
        return self

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")
