"""BackgroundWriter: takes copies of the weights in the training thread, writes them into the run in another.

In: the model's tensors, copied at once into a place of a ring of rows (training may change them as soon as `copy`
returns). Out: committed rows of the trajectory. Short rows are written in groups,
at most `GROUP_SECONDS` or `GROUP_BYTES` behind; long ones as soon as they come. What comes from a GPU is handed to the
thread once it has arrived (`land`), so that the thread never asks the GPU for anything (device/copies.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.device.copies import Arrival, Copies, pinned
from landscape_hooks.recording.watch.rates import number
from landscape_hooks.trajectory.modules import copy_into, real_view
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.staging import Rows
from landscape_hooks.trajectory.writer import TrajectoryWriter

GROUP_SECONDS = 2.0
GROUP_BYTES = 2**22
GROUP_ROWS = 1024
PATIENCE = 0.5
LONG_BYTES = 2**23
PLAIN = (torch.Tensor, torch.nn.Parameter)

Scalars = dict[str, float | torch.Tensor]
"""Numbers of a snapshot by name; a tensor holds its number once the snapshot has arrived."""


@dataclass(slots=True)
class Staged:
    """A snapshot that waits in the ring: its place, its scalars by name, its numbers of each parameter group."""

    place: int
    scalars: Scalars
    groups: dict[str, Sequence[float]]
    tail: bool
    arrivals: Sequence[Arrival] = ()


@dataclass
class Mark:
    """A named snapshot beside the path: weights (D,) and buffers (B,), copied."""

    name: str
    weights: NDArray[Any]
    buffers: NDArray[Any]
    scalars: dict[str, float]


@dataclass
class Retain:
    """The thinning schedule keeps only these steps from here on."""

    steps: list[int]
    stride: int


@dataclass
class DropLast:
    """The last snapshot is replaced by the one that comes next."""


@dataclass
class Extend:
    """Further tensors begin to move: the next snapshot has them."""

    layout: ParameterLayout


@dataclass
class Amend:
    """What a trainer said about a step only after it."""

    step: int
    scalars: dict[str, float]


@dataclass
class Request:
    """The training thread waits until everything before this is committed; `stop` ends the thread."""

    stop: bool = False
    done: threading.Event = field(default_factory=threading.Event)


Item = Staged | Retain | DropLast | Extend | Amend | Mark | Request


class BackgroundWriter:
    """One thread that owns the `TrajectoryWriter`; the training thread talks to it through a queue."""

    def __init__(
        self,
        writer: TrajectoryWriter,
        *,
        on_gpu: bool = False,
        copies: Copies | None = None,
    ) -> None:
        self._writer, self._copies = writer, copies or Copies()
        row_bytes = max(1, writer.row_bytes)
        self.group = int(min(max(1, GROUP_BYTES // row_bytes), GROUP_ROWS))
        self._room = writer.room(self.group)
        self._long = row_bytes >= LONG_BYTES
        self._writing = False
        depth = max(2, 2 * self.group)
        self._staging = writer.staging(depth, pinned if on_gpu else None)
        self._arrange()
        self._losses = torch.from_numpy(pinned(8 * depth).view(np.float64) if on_gpu else np.zeros(depth))
        self._arrivals: list[list[Arrival]] = [[] for _ in range(depth)]
        self.airborne: deque[Item] = deque()
        self._free = threading.Semaphore(depth)
        self._head = 0
        self._queue: deque[Item] = deque()
        self._wake = threading.Event()
        self.error: BaseException | None = None
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="landscape-hooks writer", daemon=True)
        self._thread.start()

    # -- in the training thread -------------------------------------------------------------------------
    def reserve(self, *, wait: bool = True) -> int | None:
        """A place in the ring for a snapshot; None if the ring is full and `wait` is not wanted.

        It is given to `submit` or to `release` before the next one is reserved.
        """
        if not self._free.acquire(blocking=False):
            self.land(wait=wait)
            self._wake.set()
            if not wait:
                return None
            while not self._free.acquire(timeout=PATIENCE):
                self._check_alive()
        place, self._head = self._head, (self._head + 1) % len(self._views)
        return place

    def copy(
        self,
        place: int,
        *,
        weights: Sequence[torch.Tensor] | None = None,
        buffers: Sequence[torch.Tensor | None] | None = None,
    ) -> None:
        """Copy a model's weights, its buffers or both into a reserved place; what is there is replaced.

        A buffer that is None keeps the value that it has in the snapshot before.
        """
        own, last = self._slots(place), self._slots(place - 1)
        targets: list[torch.Tensor] = []
        sources: list[torch.Tensor] = []
        for slots, before, tensors in zip(own, last, (weights, buffers), strict=True):
            if tensors is not None:
                targets += slots
                sources += [old if new is None else new for old, new in zip(before, tensors, strict=True)]
                if self.airborne and any([new is None for new in tensors]):
                    self.land(wait=True)  # what is taken from the snapshot before has to be there
        if self._copies.owns(sources):
            self._copy_from_gpu(place, targets, sources)
            return
        self._wait_for(place)  # what is still on its way would come later than this
        if self._writing and self._long:
            copy_alone(targets, sources)
        else:
            copy_into(targets, sources)

    def _copy_from_gpu(self, place: int, targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        """Begin to copy; copies from one GPU arrive in order, those from elsewhere are waited for."""
        plain = [real_view(source.detach()) for source in sources]
        if {arrival.device for arrival in self._arrivals[place]} - {source.device for source in plain}:
            self._wait_for(place)
        here = [pair for pair in zip(targets, plain, strict=True) if not self._copies.owns(pair[1:])]
        copy_into([target for target, _ in here], [source for _, source in here])
        self._arrivals[place] += self._copies.begin(targets, plain)

    def loss(self, place: int, value: object) -> float | torch.Tensor:
        """A loss as a number; of one on a GPU a tensor that holds the number once the place has arrived."""
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or not self._copies.owns([value]):
            return number(value)
        slot = self._losses[place]
        self._arrivals[place] += self._copies.begin([slot], [value.detach().reshape(())])
        return slot

    def _wait_for(self, place: int) -> None:
        """Wait for the copies into a place that are on their way."""
        for arrival in self._arrivals[place]:
            arrival.wait()
        self._arrivals[place] = []

    def _arrange(self) -> None:
        """The parts of the ring that hold weights, and buffers: what moved from the beginning, and the late columns."""
        writer, staging = self._writer, self._staging
        self._numbers = [staging.weights], [staging.buffers]
        weights, buffers, *kinds = writer.dtypes
        self._layouts = (
            [(writer.layout, as_torch(staging.weights, weights))],
            [(writer.buffer_layout, as_torch(staging.buffers, buffers))],
        )
        for late, values, kind in zip(writer.late, staging.late, kinds, strict=True):
            self._numbers[late.of_buffers].append(values)
            self._layouts[late.of_buffers].append((late.layout, as_torch(values, kind)))
        self._views: list[Any] = [None] * staging.depth

    def _slots(self, place: int) -> list[list[torch.Tensor]]:
        """Views of a place, shaped as the weights and the buffers are."""
        views = self._views[place]
        if views is None:
            views = self._views[place] = [
                [slot for layout, part in parts for slot in layout.slots(part[place])] for parts in self._layouts
            ]
        return views

    def content(self, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """(D,) weights and (b,) buffers that lie at a place, as numbers, copied: of what moves so far."""
        self._wait_for(place)
        weights, buffers = (
            np.concatenate([bits.numbers_of(values[place]) for values in parts]) for parts in self._numbers
        )
        return weights, buffers

    def submit(self, place: int, scalars: Scalars, groups: dict[str, Sequence[float]], *, tail: bool = False) -> None:
        """Hand a filled place to the writer. `tail` says that it is off the schedule."""
        self._put(Staged(place, scalars, groups, tail, self._arrivals[place]))
        self._arrivals[place] = []

    def land(self, *, wait: bool = False) -> None:
        """Hand on to the thread what has arrived from a GPU; `wait` for all of it.

        Called at every step, while something is on its way. Nothing is done while the training is captured in a graph.
        """
        if not self.airborne or self._copies.capturing():
            return
        while self.airborne:
            item = self.airborne[0]
            for arrival in item.arrivals if isinstance(item, Staged) else ():
                if wait:
                    arrival.wait()
                elif not arrival.here():
                    return
            self._hand_on(self.airborne.popleft())

    def _put(self, item: Item) -> None:
        """Give the thread something to do, after what it was given before and what is still on its way."""
        if self.airborne or (isinstance(item, Staged) and item.arrivals):
            self.airborne.append(item)
        else:
            self._hand_on(item)

    def _hand_on(self, item: Item) -> None:
        self._queue.append(item)
        # short rows wait for company; waking the thread for each would cost the training more than the copy
        if isinstance(item, Mark | Request) or (
            isinstance(item, Staged) and (len(self._queue) >= self._room or item.tail)
        ):
            self._wake.set()

    def release(self, place: int) -> None:
        """Give the place back that was reserved last."""
        assert (place + 1) % len(self._views) == self._head
        self._head = place
        self._free.release()

    def mark(self, name: str, weights: NDArray[Any], buffers: NDArray[Any], scalars: dict[str, float]) -> None:
        """Keep a named snapshot beside the path; of those that wait under one name, only the last is written."""
        self._put(Mark(name, weights, buffers, scalars))

    def extend(self, layout: ParameterLayout) -> None:
        """From the next snapshot on there are further tensors; what waits has the values that were stored once."""
        self._put(Extend(layout))
        self.flush()
        if self.error is not None:
            raise self.error
        self._writer.widen(self._staging, self._writer.late[-1])
        self._arrange()

    def retain(self, steps: list[int], stride: int) -> None:
        """Thin out what was staged so far."""
        self._put(Retain(steps, stride))

    def drop_last(self) -> None:
        """Take the last snapshot out of the run again: another one of the same step replaces it."""
        self._put(DropLast())

    def amend(self, step: int, **scalars: float) -> None:
        """Complete the snapshot of `step`, staged or already written."""
        self._put(Amend(step, scalars))

    def flush(self) -> None:
        """Wait until everything staged so far is committed (or lost to an error)."""
        self._ask(Request())

    def stop(self) -> None:
        """Write what is left and end the thread."""
        self._ask(Request(stop=True))
        self._thread.join()
        self.lost += sum(isinstance(item, Staged) for item in self.airborne)

    def _ask(self, request: Request) -> None:
        self.land(wait=True)
        if not self._thread.is_alive():
            return
        if self.airborne and not request.stop:  # while the training is captured in a graph nothing can be waited for
            return
        self._hand_on(request)
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
                if isinstance(item, Amend) and waiting and waiting[-1].scalars["step"] == item.step:
                    waiting[-1].scalars.update(item.scalars)
                    continue
                self._attempt(waiting)
                waiting = []
                self._attempt_update(item)
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

    def _attempt_update(self, item: Item) -> None:
        """What changes the run beside the rows."""
        writer = self._writer
        try:
            if self.error is not None:
                return
            if isinstance(item, Retain):
                writer.retain(item.steps, item.stride)
            elif isinstance(item, Extend):
                writer.extend(item.layout, writer.steps[-1] + 1 if writer.steps else 0)
            elif isinstance(item, DropLast):
                writer.retain(writer.steps[:-1], writer.commit.stride)
            elif isinstance(item, Amend):
                writer.amend(item.step, **item.scalars)
            elif isinstance(item, Mark) and not any(
                isinstance(q, Mark) and q.name == item.name for q in self._queue.copy()
            ):
                writer.mark(item.name, item.weights, item.buffers, item.scalars)
        except BaseException as error:
            self.error = error

    def _contiguous(self, staged: list[Staged]) -> list[list[Staged]]:
        """Split where the ring wraps around."""
        cut = next((i for i in range(1, len(staged)) if staged[i].place < staged[i - 1].place), len(staged))
        return [part for part in (staged[:cut], staged[cut:]) if part]

    def _rows(self, staged: list[Staged]) -> Rows:
        scalars = {name: [float(s.scalars[name]) for s in staged] for name in staged[0].scalars}
        groups = {name: [s.groups[name] for s in staged] for name in staged[0].groups}
        return self._staging.rows(staged[0].place, scalars, groups, staged[-1].tail)


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


def as_torch(values: NDArray[Any], kind: str) -> torch.Tensor:
    """Rows as torch writes into them: the bits of bfloat16, which NumPy lacks, as such numbers."""
    if kind != bits.BFLOAT16:
        return torch.from_numpy(values)
    return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)


def _plain(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's memory as NumPy copies it: numbers of types that it lacks as their bits."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
