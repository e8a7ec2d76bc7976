"""BackgroundWriter: takes copies of the weights in the training thread, writes them into the run in another.

In: the model's tensors at a due step, copied at once into a ring of staging rows (training may change the
weights as soon as `stage` returns). Out: committed rows of the trajectory. Short rows are written in groups,
at most `GROUP_SECONDS` or `GROUP_BYTES` behind; long ones as soon as they come.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.trajectory.modules import copy_into, real_view
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter

GROUP_SECONDS = 2.0
GROUP_BYTES = 2**22
GROUP_ROWS = 1024
PATIENCE = 0.5
LONG_BYTES = 2**23
PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclass(slots=True)
class Staged:
    """A snapshot that waits in the ring."""

    place: int
    step: int
    loss: float
    epoch: float
    learning_rate: Sequence[float]
    wall_time: float
    tail: bool
    events: Sequence[Any] = ()


@dataclass
class Retain:
    """The thinning schedule keeps only these steps from here on."""

    steps: list[int]
    stride: int


@dataclass
class Amend:
    """What a trainer said about a step only after it."""

    step: int
    loss: float | None
    epoch: float | None


@dataclass
class Request:
    """The training thread waits until everything before this is committed; `stop` ends the thread."""

    stop: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class BackgroundWriter:
    """One thread that owns the `TrajectoryWriter`; the training thread talks to it through a queue."""

    def __init__(
        self,
        writer: TrajectoryWriter,
        layout: ParameterLayout,
        buffer_layout: ParameterLayout,
        *,
        pinned: bool = False,
    ) -> None:
        self._writer = writer
        self._layouts = (layout, buffer_layout)
        row_bytes = max(1, writer.row_bytes)
        self.group = int(min(max(1, GROUP_BYTES // row_bytes), GROUP_ROWS))
        self._room = writer.room(self.group)
        self._long = row_bytes >= LONG_BYTES
        self._writing = False
        depth = max(2, 2 * self.group)
        self._files, values = writer.staging(depth, _pinned if pinned else None)
        kind = getattr(torch, writer.dtypes[1])
        buffers = torch.zeros((depth, buffer_layout.size), dtype=kind, pin_memory=pinned)
        self._weights = values
        self._rings = (_as_torch(values, writer.dtypes[0]), buffers)
        self._streams: dict[torch.device, Any] = {}
        self._views: list[Any] = [None] * depth
        self._free = threading.Semaphore(depth)
        self._head = 0
        self._queue: deque[Any] = deque()
        self._wake = threading.Event()
        self.error: BaseException | None = None
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="landscape-hooks writer", daemon=True)
        self._thread.start()

    # -- in the training thread -------------------------------------------------------------------------
    def stage(
        self, weights: Sequence[torch.Tensor], buffers: Sequence[torch.Tensor], *, wait: bool = True, **facts: Any
    ) -> bool:
        """Copy one snapshot into the ring; False if it is full and `wait` is not wanted. `facts` as in `Staged`."""
        if not self._free.acquire(blocking=False):
            self._wake.set()
            if not wait:
                return False
            while not self._free.acquire(timeout=PATIENCE):
                self._check_alive()
        place, self._head = self._head, (self._head + 1) % len(self._views)
        views = self._views[place]
        if views is None:
            views = [v for part, ring in zip(self._layouts, self._rings, strict=True) for v in part.slots(ring[place])]
            self._views[place] = views
        tensors = [*weights, *buffers]
        events: Sequence[Any] = ()
        if any([tensor.is_cuda for tensor in tensors]):
            events = copy_from_cuda(views, tensors, self._streams)
        elif self._writing and self._long:
            copy_alone(views, tensors)
        else:
            copy_into(views, tensors)
        self._queue.append(Staged(place=place, events=events, **facts))
        # short rows wait for company; waking the thread for each would cost the training more than the copy
        if len(self._queue) >= self._room or facts["tail"]:
            self._wake.set()
        return True

    def retain(self, steps: list[int], stride: int) -> None:
        """Thin out what was staged so far."""
        self._queue.append(Retain(steps, stride))

    def amend(self, step: int, loss: float | None, epoch: float | None) -> None:
        """Complete the snapshot of `step`, staged or already written."""
        self._queue.append(Amend(step, loss, epoch))

    def flush(self) -> None:
        """Wait until everything staged so far is committed (or lost to an error)."""
        self._ask(Request())

    def stop(self) -> None:
        """Write what is left and end the thread."""
        self._ask(Request(stop=True))
        self._thread.join()

    def _ask(self, request: Request) -> None:
        if not self._thread.is_alive():
            return
        self._queue.append(request)
        self._wake.set()
        while not request.done.wait(PATIENCE):
            if not self._thread.is_alive():
                return

    def _check_alive(self) -> None:
        if not self._thread.is_alive():
            raise RuntimeError("the writer thread has ended")

    # -- in the writer thread ----------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            in_time = self._wake.wait(GROUP_SECONDS)
            self._wake.clear()
            waiting: list[Staged] = []
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, Staged):
                    waiting.append(item)
                    if len(waiting) < self._room and not item.tail:
                        continue
                if isinstance(item, Amend) and waiting and waiting[-1].step == item.step:
                    waiting[-1].loss = waiting[-1].loss if item.loss is None else item.loss
                    waiting[-1].epoch = waiting[-1].epoch if item.epoch is None else item.epoch
                    continue
                self._attempt(waiting)
                waiting = []
                if isinstance(item, Retain):
                    self._attempt_update(self._writer.retain, item.steps, item.stride)
                if isinstance(item, Amend):
                    self._attempt_update(self._writer.amend, item.step, loss=item.loss, epoch=item.epoch)
                if isinstance(item, Request):
                    item.done.set()
                    if item.stop:
                        return
            if in_time and self.error is None:
                # a group was complete, or more; what is left begins the next one, unless nothing comes for long
                self._queue.extendleft(reversed(waiting))
            else:
                self._attempt(waiting)

    def _attempt(self, staged: list[Staged]) -> None:
        """Write and commit; after a first error nothing more is tried, only counted."""
        for run in self._contiguous(staged):
            try:
                for event in (event for staged in run for event in staged.events):
                    event.synchronize()
                if self.error is None:
                    self._writing = True
                    self._writer.append(self._rows(run))
                else:
                    self.lost += len(run)
            except BaseException as error:
                self.error = error
                self.lost += len(run)
            finally:
                self._writing = False
                self._room = self._writer.room(self.group)
                self._free.release(len(run))

    def _attempt_update(self, update: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            if self.error is None:
                update(*args, **kwargs)
        except BaseException as error:
            self.error = error

    def _contiguous(self, staged: list[Staged]) -> list[list[Staged]]:
        """Split where the ring wraps around."""
        cut = next((i for i in range(1, len(staged)) if staged[i].place < staged[i - 1].place), len(staged))
        return [part for part in (staged[:cut], staged[cut:]) if part]

    def _rows(self, staged: list[Staged]) -> Rows:
        part = slice(staged[0].place, staged[-1].place + 1)
        groups = max(len(s.learning_rate) for s in staged)
        rates = np.full((len(staged), groups), np.nan)
        for i, s in enumerate(staged):
            rates[i, : len(s.learning_rate)] = s.learning_rate
        return Rows(
            weights=self._weights[part],
            files=self._files[part],
            buffers=self._rings[1][part].numpy(),
            scalars={name: [getattr(s, name) for s in staged] for name in ("step", "epoch", "loss", "wall_time")},
            learning_rate=rates,
            tail=staged[-1].tail,
        )


def copy_alone(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """As `copy_into`, in this thread only.

    torch copies with all of its threads, each waiting for the others after every tensor: while the writer has one
    of two cores, that takes three times as long as copying with the other one alone.
    """
    rest = []
    for target, source in zip(targets, sources, strict=True):
        plain = type(source) in PLAIN and source.device.type == "cpu" and source.is_contiguous()
        if plain and source.dtype == target.dtype:
            np.copyto(_plain(target), _plain(source.detach()))
        else:
            rest.append((target, source))
    copy_into([target for target, _ in rest], [source for _, source in rest])


def _as_torch(values: NDArray[Any], kind: str) -> torch.Tensor:
    """Rows as torch writes into them: the bits of bfloat16, which NumPy lacks, as such numbers."""
    if kind != "bfloat16":
        return torch.from_numpy(values)
    return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)


def _plain(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's memory as NumPy copies it: numbers of types that it lacks as their bits."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def copy_from_cuda(
    targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], streams: dict[torch.device, Any]
) -> list[Any]:
    """Begin to copy tensors from GPUs into pinned memory; returns events after which they have arrived.

    Each is first duplicated on its GPU, in the training's own stream and so in order with its kernels; the duplicate
    travels in a stream of ours while training goes on. Written by the CUDA documentation; no GPU has run it yet.
    """
    devices = {source.device for source in sources if source.is_cuda}
    events = []
    with torch.no_grad():
        for device in devices:
            here = [(t, s) for t, s in zip(targets, sources, strict=True) if s.device == device]
            copies = [real_view(source).clone() for _, source in here]
            stream = streams.setdefault(device, torch.cuda.Stream(device))
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for (target, _), copy in zip(here, copies, strict=True):
                    target.copy_(copy, non_blocking=True)
                    copy.record_stream(stream)
                event = torch.cuda.Event()
                event.record(stream)
            events.append(event)
    rest = [(t, s) for t, s in zip(targets, sources, strict=True) if not s.is_cuda]
    copy_into([t for t, _ in rest], [s for _, s in rest])
    return events


def _pinned(size: int) -> Any:
    """Page-locked memory, which a GPU writes into by itself; zeros."""
    return torch.zeros(size, dtype=torch.uint8, pin_memory=True).numpy()
