"""Ending: the last snapshot so far, and with it the end of the path.

In: ends of steps, beginnings of iterations, loaded states. Out: snapshots in the background writer's ring. A
snapshot's buffers and scalars are taken when its step ends, its weights when the next iteration begins, since a loop
may change them in between (clamping, averages, copies from masters, the other network's step). Before another state is
loaded into the model the weights are copied provisionally: if no further step follows, the path ends with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from landscape_hooks.errors import LayoutError
from landscape_hooks.recording.background import BackgroundWriter, Scalars
from landscape_hooks.recording.watch.fixed import Moving
from landscape_hooks.recording.watch.rates import number, read

Some = Callable[[], Sequence[torch.Tensor | None]]


@dataclass(slots=True)
class Facts:
    """What is known of a step when it ends; `rates` as the optimizers hold them (`Rates.now`)."""

    wall_time: float
    loss: Any
    epoch: Any
    rates: Sequence[tuple[Any, Any, Any]]

    def scalars(self, step: int) -> dict[str, float]:
        """As a row of the trajectory has them; of a loss on a GPU this waits for the number."""
        return {"step": step, "epoch": number(self.epoch), "loss": number(self.loss), "wall_time": self.wall_time}

    def groups(self) -> dict[str, Sequence[float]]:
        """As a row of the trajectory has them, one number a parameter group."""
        return read(self.rates)


@dataclass(slots=True)
class Pending:
    """A snapshot whose weights are not final yet.

    `due` is whether the schedule wants it; otherwise it counts only if the path ends here. `held` is whether weights
    were copied provisionally.
    """

    place: int
    step: int
    scalars: Scalars
    groups: dict[str, Sequence[float]]
    due: bool
    held: bool = False


class PathEnd:
    """The last snapshot so far.

    Attributes
    ----------
    taken
        step of the last snapshot that was begun or handed on; -1 before the first.
    loaded
        whether another state was loaded into the model since the last step.
    """

    def __init__(self, background: BackgroundWriter, weights: Moving, buffers: Some) -> None:
        self._background, self._weights, self._buffers = background, weights, buffers
        self.pending: Pending | None = None
        self.taken = -1
        self.loaded = False
        self._reloaded: list[torch.Tensor | None] | None = None
        self._anew: tuple[list[torch.Tensor], list[torch.Tensor | None]] | None = None

    # -- while training -------------------------------------------------------------------------------------
    def begin(self, step: int, facts: Facts, *, due: bool = True, wait: bool = True) -> bool:
        """A step has ended whose snapshot is wanted; False if the ring is full and `wait` is not wanted."""
        if self.pending is not None:  # nothing told that an iteration had ended
            self.next(read=False)
        place = self._background.reserve(wait=wait)
        if place is None:
            return False
        scalars: Scalars = {**replace(facts, loss=None).scalars(step)}
        self.pending = Pending(place, step, scalars, facts.groups(), due)
        try:
            scalars["loss"] = self._background.loss(place, facts.loss)
            self._background.copy(place, buffers=self._buffers())
        except BaseException:
            self._drop()
            raise
        if due:
            self.taken = step
        return True

    def again(self, facts: Facts) -> None:
        """A further step of the same iteration has ended; what was held before it is no end."""
        pending, self.loaded = self.pending, False
        if pending is not None:
            pending.held = False
            scalars = facts.scalars(pending.step)
            pending.scalars.update({name: value for name, value in scalars.items() if value == value})
            pending.groups = facts.groups()
            self._background.copy(pending.place, buffers=self._buffers())

    def amend(self, **scalars: float) -> None:
        """What is said of the last snapshot after its step."""
        if self.pending is not None:
            self.pending.scalars.update(scalars)
        else:
            self._background.amend(self.taken, **scalars)

    @property
    def waits(self) -> bool:
        """Whether a snapshot, or a copy held, waits for the next iteration."""
        return self.pending is not None or self.loaded

    def hold_first(self) -> None:
        """Keep the weights as they are before the first step, in case no step is ever heard."""
        if self.pending is not None:
            self._background.copy(self.pending.place, weights=self._weights())
            self.pending.held = True

    def next(self, read: bool = True) -> None:
        """The next iteration begins: what the weights are now is the snapshot (unless not `read`: they are held)."""
        pending, self.loaded = self.pending, False
        if pending is None:
            return
        if self._anew is not None:
            if not all(map(_same, self._anew[0], self._weights())):
                self._begin_anew()
            self._anew = None
        if pending.due:
            if read or not pending.held:
                self._background.copy(pending.place, weights=self._weights(), buffers=self._loaded_buffers())
            self._submit()
        else:
            self._drop()

    def hold(self, step: int, facts: Facts) -> None:
        """Another state is about to be loaded: the weights until now are the end, unless a step follows."""
        if not self.loaded:
            self.loaded = True
            if self.pending is None and self.taken != step and not self.begin(step, facts, due=False):
                return
            if self.pending is not None and (self.pending.step == step or not self.pending.due):
                self._background.copy(self.pending.place, weights=self._weights())
                self.pending.held = True

    def reloaded(self, anew: bool = False) -> None:
        """Another state has been loaded: if a step follows, the snapshot has the buffers that came with it.

        With `anew` the snapshot is that state: before the first step, where the loop says its steps itself. But if that
        step is said and the weights are still those, the loading was the step (averages of what others have trained).
        """
        if self.pending is None or not self.pending.due:
            return
        if anew:
            self.loaded = False
            self._begin_anew()
            self._anew = [t.detach().clone() for t in self._weights()], _cloned(self._buffers())
        else:
            self._reloaded = _cloned(self._buffers())

    def _begin_anew(self) -> None:
        """The state that was loaded before the first step is the snapshot."""
        if self._anew is not None and self.pending is not None:
            weights, buffers = self._anew
            self._background.copy(self.pending.place, weights=weights, buffers=buffers)
        self._anew = None

    def settle(self) -> None:
        """Hand on the last snapshot with the weights as they are: it is to be committed now."""
        pending = self.pending
        if pending is not None and pending.due:
            if not (pending.held and self.loaded):
                self._background.copy(pending.place, weights=self._weights(), buffers=self._loaded_buffers())
            self._submit()

    def forget(self) -> None:
        """The snapshot that was begun is not wanted."""
        self.loaded = False
        if self.pending is not None:
            self._drop()

    # -- when the recording ends ----------------------------------------------------------------------------
    def close(self, step: int, facts: Facts) -> None:
        """Hand on the end of the path: what was held, else the weights as they are now."""
        if self.pending is None and self.taken != step:
            self.begin(step, facts, due=False)
        pending = self.pending
        if pending is not None:
            self._begin_anew()
            if not pending.held:
                self._background.copy(pending.place, weights=self._last_weights())
            self.taken = pending.step
            self._submit(tail=not pending.due)

    def replace(self, step: int, facts: Facts) -> None:
        """Put the weights as they are now in the place of the last snapshot, or after it if it is of another step."""
        if self.taken == step:
            self._background.drop_last()
        self.begin(step, facts, due=False)
        assert self.pending is not None
        self._background.copy(self.pending.place, weights=self._weights())
        self.taken = step
        self._submit(tail=True)

    def wider(self) -> str:
        """The type of a tensor of the model that is wider now than it was recorded; empty if there is none."""
        return self._weights.wider()

    def content(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """(D,) weights and (B,) buffers of the model as they are now, as a row has them; None where it lacks them."""
        place = self._background.reserve()
        assert place is not None
        try:
            self._background.copy(place, weights=self._weights(), buffers=self._buffers())
            return self._background.content(place)
        except LayoutError:
            return None
        finally:
            self._background.release(place)

    def _loaded_buffers(self) -> list[torch.Tensor | None] | None:
        """The buffers of a state that was loaded since, with those that have joined them; None if there was none."""
        if self._reloaded is None:
            return None
        return [*self._reloaded, *list(self._buffers())[len(self._reloaded) :]]

    def _last_weights(self) -> Sequence[torch.Tensor]:
        """The model's weights, or where it has lost some (merged, fused), those that it had."""
        try:
            return self._weights()
        except LayoutError:
            found = self._weights.as_known()
            if found is None:
                raise
            return found

    def _submit(self, *, tail: bool = False) -> None:
        pending, self.pending, self._reloaded, self._anew = self.pending, None, None, None
        assert pending is not None
        self._background.submit(pending.place, pending.scalars, pending.groups, tail=tail)

    def _drop(self) -> None:
        pending, self.pending, self._reloaded, self._anew = self.pending, None, None, None
        assert pending is not None
        self._background.release(pending.place)


def _cloned(tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [None if tensor is None else tensor.detach().clone() for tensor in tensors]


def _same(then: torch.Tensor, now: torch.Tensor) -> bool:
    return (then.device, then.dtype) == (now.device, now.dtype) and torch.equal(then, now)
