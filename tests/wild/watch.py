"""Watch: the plain log of a training loop, kept with or without the line that records it.

In: a loop that says where its iterations lie. Out: the weights and buffers of every iteration, the sequence of
batches, and what the process looks like afterwards. Nothing here uses a hook; DESIGN.md's definition of a snapshot is
followed literally: the weights of iteration n are those that the next iteration finds, its buffers those that its last
step leaves.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape_hooks import record

State = dict[str, Tensor]


@dataclass(frozen=True)
class Stored:
    """The loss that the line is given, and what is needed for computing it by hand.

    Attributes
    ----------
    loss
        `loss(model, batch)`, one number: what the training computes.
    given
        the arguments of `record` that name it and its data.
    kept
        the batches that the run is to keep.
    weigh
        what the loss of a batch divides by; the loss of all batches is their mean weighted by it.
    """

    loss: Callable[[Any, Any], Tensor]
    given: Mapping[str, Any]
    kept: Sequence[Any]
    weigh: Callable[[Any], float]


@dataclass
class Step:
    """What a loop says of a step: that it was skipped, or that it edits the weights out of any hook's sight."""

    skipped: bool = False
    hidden: bool = False


@dataclass
class Watch:
    """Logs one pass of a loop; with `run`, the line is in it.

    Attributes
    ----------
    found
        weights of iteration n, as the next iteration finds them.
    left
        (weights, buffers) of iteration n when its last step ended.
    closing
        (weights, buffers) when the recording was closed.
    model
        a copy of the recorded model as it was when the recording began.
    cut_after_an_edit
        whether the loop was interrupted when the only edit so far lay behind it: the path in doubt, until it goes on.
    """

    run: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    store_loss: bool = False
    found: list[State] = field(default_factory=list)
    left: list[tuple[State, State]] = field(default_factory=list)
    closing: tuple[State, State] = field(default_factory=lambda: ({}, {}))
    batches: list[str] = field(default_factory=list)
    reloaded: bool = False
    hidden: bool = False
    cut_after_an_edit: bool = False
    before_loading: State | None = None
    loaded_at: set[int] = field(default_factory=set)
    recorder: Any = None
    stored: Stored | None = None
    model: Any = None
    live: Any = None
    after: dict[str, Any] = field(default_factory=dict)

    def record(self, model: Any, optimizer: Any, stored: Stored | None = None, **more: Any) -> Any:
        """Where the line stands."""
        self.live, self.stored = model, stored
        if not self.left:
            self.left.append((weights_of(model), buffers_of(model)))
        if self.model is None:
            self.model = copy.deepcopy(model)
        if self.run is not None:
            loss = stored.given if stored is not None and self.store_loss else {}
            self.recorder = record(model, optimizer, self.run, **self.options, **loss, **more)
        return self.recorder

    @contextmanager
    def step(self, *, further: bool = False) -> Iterator[Step]:
        """Around the optimizer steps of one iteration; `further` ones belong to the iteration before."""
        said = Step()
        self.before_loading = None
        if not further:
            self.found.append(weights_of(self.live))
        yield said
        if said.skipped:
            self.found.pop()
            return
        self.hidden = self.hidden or said.hidden
        if further:
            self.left.pop()
        self.left.append((weights_of(self.live), buffers_of(self.live)))

    def saw(self, batch: Any) -> Any:
        """Log a batch that the loop was given."""
        self.batches.append(digest(batch))
        return batch

    def loads(self) -> None:
        """A state is about to be loaded: should no step follow, the path has ended here."""
        self.reloaded = True
        self.loaded_at.add(len(self.left) - 1)
        if self.before_loading is None:
            self.before_loading = weights_of(self.live)

    def ends(self) -> None:
        """The path ends here: whatever is loaded or swapped from now on is no iterate."""
        if len(self.found) < len(self.left):
            self.found.append(weights_of(self.live) if self.before_loading is None else self.before_loading)

    @property
    def edited(self) -> list[int]:
        """Iterations after whose last step the weights were changed, by no loading."""
        pairs = enumerate(zip(self.found, self.left, strict=True))
        return [n for n, (a, (b, _)) in pairs if n and n not in self.loaded_at and digest(a) != digest(b)]

    def goes_on_from(self, iteration: int) -> None:
        """The loop was interrupted and goes on after this iteration."""
        self.ends()
        last = len(self.left) - 1
        self.cut_after_an_edit = self.cut_after_an_edit or (last in self.edited and 1 not in self.edited[:-1])
        del self.left[iteration + 1 :], self.found[iteration:]

    def close(self) -> None:
        """The loop is over."""
        self.ends()
        self.closing = weights_of(self.live), buffers_of(self.live)
        if self.recorder is not None:
            self.recorder.close()

    def look(self) -> None:
        """Keep what the training leaves in the process."""
        modules = self.live if isinstance(self.live, list) else [self.live]
        self.after = {
            "random": (digest(torch.get_rng_state()), digest(np.random.get_state()), digest(random.getstate())),  # noqa: NPY002
            "modes": [m.training for module in modules for m in module.modules()],
            "gradients": [p.requires_grad for module in modules for p in module.parameters()],
            "state": [digest(t) for module in modules for t in module.state_dict().values()],
            "hooks": [len(m._load_state_dict_pre_hooks) for module in modules for m in module.modules()],
            "directory": os.getcwd(),
            "threads": torch.get_num_threads(),
        }


# -- plain values ------------------------------------------------------------------------------------------------------
def _named(model: Any, kind: str) -> State:
    several = isinstance(model, list | tuple)
    found = {}
    for number, module in enumerate(model if several else [model]):
        for name, tensor in getattr(module, kind)():
            found[f"{number}.{name}" if several else name] = tensor.detach().clone()
    return found


def weights_of(model: Any) -> State:
    """A copy of all parameters, by name."""
    return _named(model, "named_parameters")


def buffers_of(model: Any) -> State:
    """A copy of all buffers, by name."""
    return _named(model, "named_buffers")


def digest(value: Any) -> str:
    """Some characters that tell two values apart, bit for bit."""
    made = hashlib.sha256()
    _add(value, made)
    return made.hexdigest()[:16]


def _add(value: Any, made: Any) -> None:
    if isinstance(value, Tensor):
        made.update(f"{value.dtype}{tuple(value.shape)}".encode())
        plain = value.detach().contiguous().reshape(-1)
        made.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    elif isinstance(value, np.ndarray):
        made.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping) or (hasattr(value, "data") and isinstance(value.data, dict)):
        for key in value:
            made.update(repr(key).encode())
            _add(value[key], made)
    elif isinstance(value, list | tuple):
        for each in value:
            _add(each, made)
    elif hasattr(value, "__dict__"):
        _add(vars(value), made)
    else:
        made.update(pickle.dumps(value))
