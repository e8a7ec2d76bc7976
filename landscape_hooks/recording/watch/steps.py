"""Steps: every optimizer step of this process, heard through the two hooks that torch runs for all optimizers.

In: listeners. Out: `enter(optimizer)` before and `leave(optimizer)` after each call of a torch optimizer's `step`,
the inner calls of a nested one included. Nothing is put on an optimizer, so copying and pickling one is as before.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from landscape_hooks.errors import LandscapeError

_WRAPPER_CODE = Optimizer.profile_hook_step(lambda self: None).__code__
"""The frame in which torch runs the hooks around `step`; one code object for all optimizers."""

_DEPTH = 8
"""Wrappers around an optimizer that are looked through."""


class Listener(Protocol):
    """What hears steps."""

    def enter(self, optimizer: Optimizer) -> None:
        """A call of `optimizer.step` begins."""

    def leave(self, optimizer: Optimizer) -> None:
        """It has returned (it does not leave where it raised)."""


_listeners: tuple[Listener, ...] = ()
_is_traced = torch.compiler.is_dynamo_compiling
_compiler: Callable[[], object] = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: None)
"""What compiles the frames of this thread that run now; None where nothing does."""
_handles: list[Any] = []


def listen(listener: Listener) -> None:
    """Let `listener` hear all optimizer steps from now on."""
    global _listeners
    _listeners = (*_listeners, listener)
    if not _handles:
        _handles.append(register_optimizer_step_pre_hook(_before))
        _handles.append(register_optimizer_step_post_hook(_after))


def silence(listener: Listener) -> None:
    """The listener hears nothing any more; after the last one torch's hooks are as they were."""
    global _listeners
    _listeners = tuple(known for known in _listeners if known is not listener)
    if not _listeners:
        while _handles:
            _handles.pop().remove()


def _enter(optimizer: Optimizer) -> None:
    for listener in _listeners:
        listener.enter(optimizer)


def _leave(optimizer: Optimizer) -> None:
    for listener in _listeners:
        listener.leave(optimizer)


# A compiled step traces the hooks; there they leave the graph through these two. torch calls hooks in a loop, which it
# does not compile around such a function, so that they run as they are, and each function that they call is compiled
# (seconds, and again for every number that has changed) unless they do the same there. Registering the disabled
# functions themselves would cost 2 µs on every eager step.
_traced_enter = torch._dynamo.disable(_enter)
_traced_leave = torch._dynamo.disable(_leave)


def _before(optimizer: Optimizer, args: object, kwargs: object) -> None:
    if _is_traced() or _compiler() is not None:
        _traced_enter(optimizer)
    else:
        for listener in _listeners:
            listener.enter(optimizer)


def _after(optimizer: Optimizer, args: object, kwargs: object) -> None:
    if _is_traced() or _compiler() is not None:
        _traced_leave(optimizer)
    else:
        for listener in _listeners:
            listener.leave(optimizer)


def running(thread: int) -> Counter[int]:
    """How often each optimizer (by id) is in its `step` on the stack of a thread, as the frames really are.

    A step that raised never leaves; the frames tell what is still open.
    """
    found: Counter[int] = Counter()
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code is _WRAPPER_CODE:
            found[id(frame.f_locals.get("self"))] += 1
        frame = frame.f_back
    return found


# -- what was passed to record() -----------------------------------------------------------------------------
def optimizers_of(given: object) -> list[Any]:
    """The optimizers that `record` was given: none, one, or several (a list, a mapping, any iterable).

    Raises
    ------
    LandscapeError
        one of them is no torch optimizer and holds none: no hook would hear its steps.
    """
    if given is None:
        return []
    if isinstance(given, Mapping):
        given = list(given.values())
    one = hasattr(given, "step") or hasattr(given, "param_groups")
    found = list(given) if isinstance(given, Iterable) and not one else [given]
    for optimizer in found:
        if not any(takes_hooks(inner) for inner in within(optimizer)):
            kind = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
            raise LandscapeError(
                f"The optimizer is a {kind}, which takes no step hooks",
                expected="a torch.optim.Optimizer",
                mend="Pass optimizer=None and call recorder.step() after every step",
            )
    return found


def within(optimizer: object) -> Iterator[Any]:
    """An optimizer and those that it holds as attributes (or in lists of them), wrappers of wrappers included."""
    seen, waiting = set(), [(optimizer, 0)]
    while waiting:
        found, depth = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if depth == _DEPTH:
            continue
        named = [getattr(found, name, None) for name in ("optimizer", "opt")]  # where they are properties
        for value in [*getattr(found, "__dict__", {}).values(), *named]:
            for one in value if isinstance(value, list | tuple) else (value,):
                if isinstance(one, Optimizer) or (depth == 0 and _is_wrapper(one)):
                    waiting.append((one, depth + 1))


def _is_wrapper(value: object) -> bool:
    """Something that is no optimizer, but holds one and its groups as one would (fastai's, DeepSpeed's)."""
    return not isinstance(value, torch.nn.Module) and "param_groups" in getattr(value, "__dict__", {})


def takes_hooks(optimizer: object) -> bool:
    """Whether the steps of an optimizer are heard (not of one that skips `super().__init__`)."""
    return isinstance(optimizer, Optimizer) and hasattr(optimizer, "_optimizer_step_post_hooks")
