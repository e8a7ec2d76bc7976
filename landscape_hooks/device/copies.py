"""Copies: tensors on their way from a GPU into memory of the host, while the GPU goes on with the training.

In: parts of a row in page-locked memory, and the tensors that they are to hold. Out: Arrivals, which say when the
numbers are there. The host never waits for the GPU here, and nothing of it is called from another thread than the
training's: while a CUDA graph is captured, one question about an event in any thread of the process ends the capture
with an error, and with it the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Event(Protocol):
    """A moment in a stream."""

    def record(self, stream: Any) -> None:
        """The moment is when all is done that is in `stream` now."""

    def query(self) -> bool:
        """Whether it has passed."""

    def synchronize(self) -> None:
        """Wait for it."""


class Stream(Protocol):
    """Operations of a GPU, one after the other."""

    def wait_stream(self, stream: Any) -> None:
        """What comes from now on waits for what is in the other one now."""


class Driver(Protocol):
    """What copying from a GPU takes of torch; a test puts a double in its place that notes the order."""

    def owns(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on a GPU of this kind."""

    def capturing(self) -> bool:
        """Whether the stream in use is being captured into a graph: then nothing may be asked or copied."""

    def on(self, device: torch.device) -> AbstractContextManager[Any]:
        """A context in which `device` is the current one."""

    def stream(self, device: torch.device) -> Stream:
        """A further stream of a device."""

    def current(self, device: torch.device) -> Stream:
        """The stream of a device that the training uses."""

    def using(self, stream: Stream) -> AbstractContextManager[Any]:
        """A context in which operations go to `stream`."""

    def empty(self, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """(count,) numbers on a device."""

    def event(self) -> Event:
        """An event, which lets a thread that waits for it sleep."""

    def keep(self, tensor: torch.Tensor, stream: Stream) -> None:
        """The tensor's memory is given to nobody else before `stream` has done what is in it now."""


class Cuda:
    """The driver of NVIDIA's and AMD's GPUs (`torch.cuda`)."""

    def owns(self, tensor: torch.Tensor) -> bool:
        return tensor.is_cuda

    def capturing(self) -> bool:
        return capturing()

    def on(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.cuda.device(device)

    def stream(self, device: torch.device) -> Stream:
        return torch.cuda.Stream(device)

    def current(self, device: torch.device) -> Stream:
        return torch.cuda.current_stream(device)

    def using(self, stream: Stream) -> AbstractContextManager[Any]:
        made: Any = stream
        return torch.cuda.stream(made)

    def empty(self, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=device)

    def event(self) -> Event:
        return torch.cuda.Event(blocking=True)

    def keep(self, tensor: torch.Tensor, stream: Stream) -> None:
        made: Any = stream
        tensor.record_stream(made)


def capturing() -> bool:
    """Whether operations of this thread are captured into a CUDA graph now, and not computed."""
    # `is_current_stream_capturing` raises where there is no driver
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class Arrival:
    """The end of a copy."""

    def __init__(self, event: Event, device: torch.device, driver: Driver) -> None:
        self.device = device
        self._event, self._driver, self._there = event, driver, False

    def here(self) -> bool:
        """Whether the numbers are there; nothing is waited for."""
        if not self._there:
            with self._driver.on(self.device):  # otherwise a thread that never used it would open the first GPU
                self._there = bool(self._event.query())
        return self._there

    def wait(self) -> None:
        """Return when the numbers are there."""
        if not self._there:
            with self._driver.on(self.device):
                self._event.synchronize()
            self._there = True


class Copies:
    """Copies from GPUs that are on their way.

    Each tensor is first duplicated on its GPU, in the stream of the training and so in order with its operations; the
    duplicate travels in a stream of its own. Where the GPU has no memory for duplicates, the host waits for copies of
    the tensors themselves, then and for every later snapshot.
    """

    def __init__(self, driver: Driver | None = None) -> None:
        self._driver: Driver = driver or Cuda()
        self._streams: dict[torch.device, Stream] = {}
        self.waits = False
        """Whether there was too little memory for duplicates."""

    def owns(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether any of the tensors lies on a GPU."""
        owns = self._driver.owns
        return any([owns(tensor) for tensor in tensors])

    def capturing(self) -> bool:
        """Whether the training is being captured into a graph."""
        return self._driver.capturing()

    def begin(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> list[Arrival]:
        """Begin to copy tensors on GPUs into memory of the host; the others are left to the caller."""
        found = []
        with torch.no_grad():
            for device in dict.fromkeys(source.device for source in sources if self._driver.owns(source)):
                pairs = [(t, s) for t, s in zip(targets, sources, strict=True) if s.device == device]
                with self._driver.on(device):
                    found += self._from(device, pairs)
        return found

    def _from(self, device: torch.device, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[Arrival]:
        """The copies from one GPU, as few transfers as the targets allow."""
        duplicates: list[tuple[torch.Tensor, torch.Tensor]] = []
        if not self.waits:
            try:
                duplicates = [self._duplicate(device, part) for part in neighbours(pairs)]
            except torch.OutOfMemoryError:
                self.waits, duplicates = True, []
        if self.waits:
            for target, source in pairs:
                target.copy_(source.cpu())
            return []
        driver = self._driver
        if device not in self._streams:
            self._streams[device] = driver.stream(device)
        stream = self._streams[device]
        stream.wait_stream(driver.current(device))
        event = driver.event()
        with driver.using(stream):
            for target, duplicate in duplicates:
                target.copy_(duplicate, non_blocking=True)
                driver.keep(duplicate, stream)
            event.record(stream)
        return [Arrival(event, device, driver)]

    def _duplicate(
        self, device: torch.device, part: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A stretch of a row, and its numbers in one tensor on the GPU, in the type of the row."""
        first = part[0][0]
        count = sum(target.numel() for target, _ in part)
        flat = self._driver.empty(count, first.dtype, device)
        views, start = [], 0
        for target, _ in part:
            views.append(flat[start : start + target.numel()].view(target.shape))
            start += target.numel()
        torch._foreach_copy_(views, [source for _, source in part])
        return first.as_strided((count,), (1,), first.storage_offset()), flat


def neighbours(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Pairs whose targets lie one after the other in the same memory, in C order, together."""
    part: list[tuple[torch.Tensor, torch.Tensor]] = []
    end: tuple[Any, ...] = ()
    for target, source in pairs:
        if not math.prod(target.shape):
            continue
        begin = target.untyped_storage().data_ptr(), target.dtype, target.storage_offset()
        if part and begin != end:
            yield part
            part = []
        part.append((target, source))
        end = (*begin[:2], target.storage_offset() + target.numel())
    if part:
        yield part


def pinned(size: int) -> NDArray[np.uint8]:
    """Zeros in page-locked memory, into which a GPU writes by itself; in other memory where that is refused."""
    try:
        return torch.zeros(size, dtype=torch.uint8, pin_memory=True).numpy()
    except RuntimeError:  # a limit of the system, of a container or of WSL
        return np.zeros(size, dtype=np.uint8)


def current(device: torch.device | None) -> AbstractContextManager[Any]:
    """A context in which a GPU is the current one; for other devices, nothing."""
    return torch.cuda.device(device) if device is not None and device.type == "cuda" else nullcontext()
