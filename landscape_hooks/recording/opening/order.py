"""Order and Opened: what record() was asked for, and the run that came of it.

In: a model and the options. Out: which of its tensors are in every snapshot and which are stored once, how large that
is; and the run, ready to be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import zarr

from landscape_hooks.recording.announcement import Size, Voice
from landscape_hooks.recording.loss.asked import Loss
from landscape_hooks.recording.loss.live import LiveLoss
from landscape_hooks.recording.opening.sorting import sort_out
from landscape_hooks.recording.schedule import Schedule
from landscape_hooks.recording.storage import Parameters, Storage
from landscape_hooks.recording.watch.fixed import FixedTensors
from landscape_hooks.store.lock import RunLock
from landscape_hooks.store.run import RunLike, durable_store
from landscape_hooks.store.schema import FORMAT
from landscape_hooks.trajectory.modules import unwrap
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.part import Part, disagreements
from landscape_hooks.trajectory.sharding import Ranks, ShardLayout
from landscape_hooks.trajectory.writer import TrajectoryWriter


@dataclass(frozen=True)
class Opened:
    """A run that is ready to be written.

    Attributes
    ----------
    root
        the run; None on a rank that another one writes for, as `writer` is.
    layout
        what this process writes of the weights: what moves, late columns included.
    buffer_layout
        the same of the buffers.
    live
        the loss that was stored in it now, as the training has it.
    awaited
        the loss that is to be stored later; None where the run has one, or is to have none.
    fixed, fixed_buffers, integers
        what stands still, watched: parameters, buffers, and tensors of integers; None where there are none.
    voice
        says when it begins and how it ends.
    """

    root: zarr.Group | None
    writer: TrajectoryWriter | None
    layout: ParameterLayout
    buffer_layout: ParameterLayout
    resumed: bool
    ranks: Ranks
    lock: RunLock = field(default_factory=RunLock)
    live: LiveLoss | None = None
    awaited: Loss | None = None
    fixed: FixedTensors | None = None
    fixed_buffers: FixedTensors | None = None
    integers: FixedTensors | None = None
    voice: Voice = field(default_factory=Voice)

    @property
    def first_layout(self) -> ParameterLayout:
        """The layout of the weights that moved from the beginning."""
        joined = [] if self.writer is None else [each for each in self.writer.late if not each.of_buffers]
        late = sum(len(each.layout) for each in joined)
        return self.layout.picked(self.layout.entries[:-late]) if late else self.layout

    def disagreements(self) -> list[int]:
        """Steps that this rank recorded and others passed by, or the other way round: there ought to be none.

        Asked of the store, since asking the ranks would wait for one that has died. The first looks at all of them,
        the others at the first.
        """
        if not isinstance(self.layout, ShardLayout):
            return []
        assert self.root is not None  # every rank writes its shard
        others = range(self.ranks.count) if self.ranks.rank == 0 else (0, self.ranks.rank)
        return disagreements([Part(self.root, f"ranks/{rank}/trajectory") for rank in others])


@dataclass(frozen=True)
class Order:
    """What record() was asked for, and the layouts of the model (of a sharded one, of the whole of it).

    Attributes
    ----------
    layout, still
        the parameters that are recorded, and those that are stored once.
    others
        tensors of integers, which are stored once, too.
    buffers, still_buffers
        all floating-point buffers, and those of them that are stored once.
    parameters
        which were asked for.
    voice
        says what it comes to.
    optimizers
        what the run says of them (`rates.described`).
    format
        of the run; one of format 1 goes on as it began.
    """

    model: torch.nn.Module
    store: RunLike
    plan: Schedule
    storage: Storage
    loss: Loss
    groups: int
    if_exists: str
    layout: ParameterLayout
    buffers: ParameterLayout
    still: ParameterLayout = field(default_factory=lambda: ParameterLayout(()))
    others: ParameterLayout = field(default_factory=lambda: ParameterLayout(()))
    still_buffers: ParameterLayout = field(default_factory=lambda: ParameterLayout((), kind="buffer"))
    parameters: Parameters = field(default_factory=Parameters)
    voice: Voice = field(default_factory=Voice)
    optimizers: Sequence[Mapping[str, Any]] = ()
    format: int = FORMAT

    @property
    def size(self) -> Size:
        """How large the run is going to be."""
        return Size(self.layout.size, self.row_bytes, self.fixed_bytes, self.plan.limit or self.plan.count)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the run from the beginning."""
        return {"schedule": self.plan.describe(), "optimizers": [dict(found) for found in self.optimizers]}

    @property
    def target(self) -> RunLike:
        """The store as it is written to."""
        return self.store if self.storage.durability is None else durable_store(self.store)

    @property
    def dtype(self) -> str:
        """The type in which weights are stored."""
        return self.storage.dtype or self.layout.row_dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a snapshot."""
        buffers = (self.buffers.size - self.still_buffers.size) * bits.stored_dtype(self.buffers.dtype).itemsize
        return self.layout.size * bits.stored_dtype(self.dtype).itemsize + buffers

    @property
    def fixed_bytes(self) -> int:
        """Bytes of what is stored once."""
        elsewhere = self.parameters.frozen == "reference"
        once = [*self.still_buffers, *(() if elsewhere else (*self.still, *self.others))]
        return sum(entry.size * bits.stored_type(entry.dtype).itemsize for entry in once)

    def sorted_out(self) -> Order:
        """The same with the model's tensors sorted by how the run has them."""
        found = sort_out(unwrap(self.model), self.layout, self.parameters.patterns)
        return replace(self, layout=found.moving, still=found.still, others=found.others, still_buffers=found.buffers)
