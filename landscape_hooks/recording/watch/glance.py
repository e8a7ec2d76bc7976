"""Glance: a few numbers of every tensor, remembered, to tell later whether anything has changed.

In: the model's tensors. Out: whether the numbers looked at are still the same. Version counters do not tell it
(`p.data.clamp_()`, a fused optimizer's step and a swapped `p.data` leave them as they are), so contents are compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from landscape_hooks.errors import LayoutError

NUMBERS = 4096
"""Numbers that are looked at, in all tensors together; at least four of each tensor."""

HELD_BYTES = 2**26
"""Of models up to this size views are kept from one glance to the next (they keep a swapped tensor's memory alive)."""

SHARE, SHARE_WHERE_SLOW, SLOW = 0.05, 0.01, 5e-4
"""Share of the training's time that looking may take where it is not needed for a snapshot; less of it from `SLOW`
seconds on."""

FEW, SOME, SMALL = 16, 64, 2**20
"""Where there is no time for a look, so many tensors are read, in so many numbers from the middle of each; none of them
holds more bytes than that. Steps so short are those of small models: of most, this is every tensor, or all of it."""

ASKS = 8
"""So often it is asked whether the tensors that are read lie elsewhere, which takes a tenth of a microsecond each; from
then on only where they have done so. A loop that edits weights by other memory mostly does so in every iteration."""

ON_DEVICE = 16
"""Tensors that are looked at on a GPU, where each costs several kernels."""

_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class Glance:
    """What the weights were when last looked at.

    Attributes
    ----------
    next
        the time from which on it may look again.

    On the CPU the very bits are compared. On other devices nothing waits for them: `same` answers when asked,
    `compare` only remembers that something differed.
    """

    def __init__(self, tensors: Callable[[], Sequence[torch.Tensor]]) -> None:
        self._tensors = tensors
        self._views: list[Any] = []
        self._of: list[tuple[int, int]] = []
        self._then: Any = None
        self._how: list[Any] = []
        self._types: list[torch.dtype] = []
        self._few: _Few | None = None
        self._few_then: Any = None
        self._restless, self._asks = False, ASKS
        self._differed: Any = False
        self._cost = 0.0
        self.next = 0.0

    def after_step(self, now: float) -> None:
        """Look, and do so again when that has taken no more than its share of the time; `now` is a clock's, in seconds.

        Once something has differed there is nothing more to find out.
        """
        if self._differed is True:
            self.next = math.inf
            self._types = [tensor.dtype for tensor in self._tensors()]
            return
        began = time.perf_counter()
        self.take()
        cost = 2 * (time.perf_counter() - began)  # and once more when the next step begins
        self._cost = min(cost, self._cost or cost)
        self.next = now + self._cost / (SHARE if self._cost < SLOW else SHARE_WHERE_SLOW)

    def take(self) -> None:
        """Look now."""
        tensors = self._tensors()
        if self._views and [(id(t), t.data_ptr()) for t in tensors] == self._of:  # nearly always: as it was last time
            self._then = b"".join([view.tobytes() for view in self._views])
        else:
            self._how, self._types = [_how(tensor) for tensor in tensors], [tensor.dtype for tensor in tensors]
            self._then = self._look(tensors)

    def pass_by(self) -> None:
        """Instead of a look, remember a few numbers, which takes half a microsecond."""
        self._then = self._few_then = None
        few = self._few
        if few is not None and self._differed is not True:
            if self._restless and few.moved():
                few = self._few = _Few(self._tensors(), few.chosen)
            self._few_then = few.read()

    @property
    def waits(self) -> bool:
        """Whether there is something to compare."""
        return self._then is not None or self._few_then is not None

    def forget(self) -> None:
        """Nothing is remembered any more; the next step is looked at, for the tensors may be others by now."""
        self._then = self._few_then = None
        self.next = 0.0

    def same(self) -> bool | None:
        """Whether the numbers are as they were at `take` or `pass_by`; None if nothing is remembered.

        A model that was moved to another device, or is held in another type or memory format, is the same if its
        numbers are.
        """
        if not self.waits:
            return None
        try:
            tensors = [_as(tensor, how) for tensor, how in zip(self._tensors(), self._how, strict=True)]
        except LayoutError:
            return None
        if self._then is None:
            if self._few is None:
                return None
            return bool(self._few_then == _Few(tensors, self._few.chosen).read())
        return not bool(_differ(self._then, self._look(tensors)))

    def retyped(self) -> bool:
        """Whether a tensor has another type now than when all were last looked at (`model.half()`)."""
        return [tensor.dtype for tensor in self._tensors()] != self._types

    def compare(self) -> None:
        """Remember whether something has changed since `take`; on a GPU without waiting for it."""
        if self._then is not None:
            tensors = self._tensors()
            same_places = self._views and [(id(t), t.data_ptr()) for t in tensors] == self._of
            if not same_places and [_how(tensor) for tensor in tensors] != self._how:
                self._differed, self.next = True, 0.0  # they may have another type, which is looked at
            else:
                self._differed = _differ(self._then, self._look(tensors)) | self._differed
            self._then = None
        elif self._few_then is not None:
            few, then, self._few_then = self._few, self._few_then, None
            ask, self._asks = self._restless or self._asks > 0, self._asks - 1
            if few is not None and ((ask and few.moved()) or few.read() != then):
                # what lay there may be another tensor's by now: the tensors as they are decide
                if not self._restless and few.moved():
                    self._restless, self.next = True, 0.0
                self._differed = _Few(self._tensors(), few.chosen).read() != then or self._differed

    @property
    def differed(self) -> bool:
        """Whether any `compare` found a difference."""
        self._differed = bool(self._differed)
        return self._differed

    def know(self, differed: bool) -> None:
        """What was found before the training was interrupted."""
        self._differed = differed or self._differed

    def _look(self, tensors: Sequence[torch.Tensor]) -> Any:
        if not all([type(t) in _PLAIN and t.device.type == "cpu" and not t.is_conj() for t in tensors]):
            self._few = None
            return _on_device(tensors)
        of = [(id(t), t.data_ptr()) for t in tensors]
        if of != self._of:
            # a loop that puts other memory behind its parameters; whether it does is asked at every look
            self._restless = self._restless or [which for which, _ in of] == [which for which, _ in self._of]
            few = _Few(tensors)
            self._few = few if few.chosen else None
            views = [_bits(t, max(4, NUMBERS // max(1, len(tensors)))) for t in tensors]
            if sum(t.numel() * t.element_size() for t in tensors) > HELD_BYTES:
                return b"".join([view.tobytes() for view in views])
            self._views, self._of = views, of
        return b"".join([view.tobytes() for view in self._views])


class _Few:
    """Some of the small tensors, which are kept alive.

    Attributes
    ----------
    chosen
        their places among all tensors.
    read
        gives some numbers of each.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], chosen: Sequence[int] | None = None) -> None:
        self.chosen = _small(tensors) if chosen is None else chosen
        self.tensors = [tensors[place] for place in self.chosen]
        self._places = [tensor.data_ptr() for tensor in self.tensors]
        views = [_middle(tensor) for tensor in self.tensors]
        self.read: Callable[[], bytes] = lambda: b"".join([view.tobytes() for view in views])
        if all(view.flags.c_contiguous for view in views):  # nearly always; a third of the time
            self.read = partial(b"".join, [memoryview(view) for view in views])

    def moved(self) -> bool:
        """Whether the numbers of a tensor lie elsewhere by now."""
        return [tensor.data_ptr() for tensor in self.tensors] != self._places


def _small(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Places of up to `FEW` tensors, spread over all of the small ones."""
    small = [n for n, t in enumerate(tensors) if 0 < t.numel() * t.element_size() <= SMALL and t.device.type == "cpu"]
    return [small[k * (len(small) - 1) // (FEW - 1)] for k in range(FEW)] if len(small) > FEW else small


def _middle(tensor: torch.Tensor) -> Any:
    """A view of the bits of some numbers that lie together in the middle of a tensor."""
    bits = _bits(tensor, max(SOME, tensor.numel()))
    if not bits.flags.c_contiguous:
        return _bits(tensor, SOME)
    start = max(0, (bits.size - SOME) // 2)
    return bits.reshape(-1)[start : start + SOME]


def _how(tensor: torch.Tensor) -> tuple[Any, ...]:
    """How a tensor is held."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _as(tensor: torch.Tensor, how: tuple[Any, ...]) -> torch.Tensor:
    """The tensor as it was held before."""
    if _how(tensor) == how:
        return tensor
    shape, stride, dtype, device = how
    with torch.no_grad():
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).copy_(tensor.detach())


def _bits(tensor: torch.Tensor, most: int) -> Any:
    """A strided view of a CPU tensor's bits, of at most `most` numbers (twice as many of a complex one)."""
    plain = tensor.detach()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[plain.element_size()]
    array = plain.view(kind).numpy().view(_BITS[plain.element_size()])
    if array.size <= most:
        return array
    if array.flags.c_contiguous:
        return array.reshape(-1)[:: -(-array.size // most)]
    return array[_corners(array.shape, most)]


def _corners(shape: Sequence[int], most: int) -> tuple[slice, ...]:
    """Slices that leave about `most` numbers of a shape, spread over all of its axes."""
    each = max(1, int(most ** (1 / max(1, len(shape)))))
    return tuple(slice(None, None, max(1, -(-n // each))) for n in shape)


def _on_device(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """(n,) float32 numbers of each tensor, where it lies; nothing waits for the device."""
    tensors = tensors[:: -(-len(tensors) // ON_DEVICE)] if tensors else tensors
    most = max(4, NUMBERS // max(1, len(tensors)))
    found = []
    with torch.no_grad():
        for tensor in tensors:
            plain = tensor.detach()
            plain = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
            if plain.is_contiguous():
                some = plain.reshape(-1)[:: max(1, -(-plain.numel() // most))]
            else:
                some = plain[_corners(plain.shape, most)].reshape(-1)
            found.append(some.to(torch.float32, copy=True))
    return found


def _differ(then: bytes | list[torch.Tensor], now: bytes | list[torch.Tensor]) -> Any:
    if isinstance(then, bytes) or isinstance(now, bytes):
        return bool(then != now)
    if [t.shape for t in then] != [t.shape for t in now] or [t.device for t in then] != [t.device for t in now]:
        return True
    found: Any = False
    with torch.no_grad():
        for a, b in zip(then, now, strict=True):
            changed = ((a != b) & ~((a != a) & (b != b))).any()
            found = changed if found is False else found.to(changed.device, non_blocking=True) | changed
    return found
