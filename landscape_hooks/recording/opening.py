"""Opening: the run that a recorder is going to write into, created, resumed, or shared among ranks.

In: what record() was given. Out: a `TrajectoryWriter`, and the layouts of what this process writes through it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import zarr

from landscape_hooks.errors import LandscapeError, RunError, printable, warn_of_recording
from landscape_hooks.recording.live_loss import LiveLoss, Loss
from landscape_hooks.recording.schedule import Schedule
from landscape_hooks.recording.storage import Storage
from landscape_hooks.recording.watch.fixed import FixedTensors, split, to_store
from landscape_hooks.recording.watch.rates import Rates
from landscape_hooks.store import checked
from landscape_hooks.store.lock import RunLock
from landscape_hooks.store.run import (
    RunLike,
    check_no_run,
    clear,
    create_run,
    durable_store,
    finish_creation,
    format_of,
    free_bytes,
    open_run,
    prepare,
    writes,
)
from landscape_hooks.store.schema import FORMAT
from landscape_hooks.trajectory.doubts import drop_doubts, set_closing
from landscape_hooks.trajectory.modules import unwrap
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.fixed import Fixed, moving_layout
from landscape_hooks.trajectory.rows.part import Part, disagreements
from landscape_hooks.trajectory.sharding import Piece, Ranks, ShardLayout, is_sharded
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import TrajectoryWriter

log = logging.getLogger(__name__)
WAY_OUT = "To analyze the run, name the loss: landscape-hooks analyze RUN --objective module:function"
LARGE = 10**9
"""Bytes of a run from which on its size is logged as a warning, which Python shows where nothing else is set up."""


@dataclass(frozen=True)
class Opened:
    """A run that is ready to be written.

    Attributes
    ----------
    root
        the run; None on a rank that another one writes for, as `writer` is.
    layout
        what this process writes of the weights: what moves, late columns included.
    live
        the loss that was stored in it now, as the training has it.
    fixed
        what stands still, watched; None where everything is recorded.
    """

    root: zarr.Group | None
    writer: TrajectoryWriter | None
    layout: ParameterLayout
    buffer_layout: ParameterLayout
    resumed: bool
    ranks: Ranks
    lock: RunLock = field(default_factory=RunLock)
    live: LiveLoss | None = None
    fixed: FixedTensors | None = None

    @property
    def first_layout(self) -> ParameterLayout:
        """The layout of the weights that moved from the beginning."""
        late = 0 if self.writer is None else sum(len(each.layout) for each in self.writer.late)
        return ParameterLayout.in_order(self.layout.entries[:-late]) if late else self.layout

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
    format: int = FORMAT

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
        parts = ((self.layout, self.dtype), (self.buffers, self.buffers.dtype))
        return sum(layout.size * bits.stored_dtype(dtype).itemsize for layout, dtype in parts)

    @property
    def fixed_bytes(self) -> int:
        """Bytes of what is stored once."""
        return sum(entry.size * bits.stored_type(entry.dtype).itemsize for entry in self.still)


def open_for(
    model: torch.nn.Module,
    store: RunLike,
    plan: Schedule,
    storage: Storage,
    loss: Loss,
    optimizers: Sequence[Any],
    *,
    if_exists: str,
) -> Opened:
    """Create or resume the run at `store`.

    A replicated training (DDP) is recorded by its first rank alone. Of a sharded one every rank records its shards.
    """
    _check_loss(loss)
    layouts = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    order = Order(model, store, plan, storage, loss, Rates(optimizers).groups, if_exists, *layouts)
    if is_sharded(model):
        return _open_shard(order)
    ranks = Ranks(communicate=False)
    if ranks.rank:
        return Opened(None, None, *layouts, False, ranks)
    lock = _lock(store, if_exists)
    live = None
    try:
        resumed = prepare(store, if_exists)
        if resumed:
            root = open_run(order.target, mode="r+")
            order = _as_in(root, order)
            writer = _reopen(root, order)
        else:
            moving, still = split(unwrap(model), order.layout)
            order = replace(order, layout=moving, still=still)
            root, writer, live = _create(order)
        fixed = FixedTensors(unwrap(model), order.still, writer.fixed, resumed=resumed) if order.still else None
        _begin(root)
    except BaseException:
        lock.release()
        raise
    return Opened(root, writer, order.layout, order.buffers, resumed, ranks, lock, live, fixed)


@writes
def _lock(store: RunLike, if_exists: str) -> RunLock:
    if if_exists == "error":
        check_no_run(store)  # the plainer thing to say, where both are true
    return RunLock.take(store)


def _begin(root: zarr.Group) -> None:
    """The run is being recorded: it will be compared with the training (anew, if it is resumed) when that ends.

    Where that cannot be written it is said, and the training goes on.
    """
    try:
        drop_doubts(root)
        set_closing(root, "recording")
    except RunError as error:
        warn_of_recording(f"The run could not be marked as one that is being recorded. {error}")


def _create(order: Order) -> tuple[zarr.Group, TrajectoryWriter, LiveLoss | None]:
    _say_size(order)
    root = create_run(order.target, {"schedule": order.plan.describe()}, finished=False)
    try:
        writer = _create_trajectory(root, order, order.layout, order.buffers)
        live = _capture(root, order.model, order.loss)
        finish_creation(root)
    except BaseException:
        with suppress(LandscapeError):  # the store that refused may refuse this as well; the first trouble is the cause
            clear(order.store)
        raise
    return root, writer, live


def _say_size(order: Order) -> None:
    """Log how large the run is going to be; warn where the disk is too small for it."""
    most = order.plan.limit or order.plan.count
    projected = order.row_bytes * (most or 1) + order.fixed_bytes
    text = f"A snapshot is {_bytes(order.row_bytes)}; the run is going to hold "
    if order.still:
        text = f"What does not move is {_bytes(order.fixed_bytes)}, once. {text}"
    text += f"at most {most}, {_bytes(projected)}" if most else "as many as the schedule asks for"
    log.log(logging.WARNING if projected >= LARGE else logging.INFO, "%s: %s", order.store, text)
    free = free_bytes(order.store)
    if free is not None and projected > free:
        mend = "Keep fewer (keep=), take them less often (every=), or store float16 (storage=Storage(dtype='float16'))"
        warn_of_recording(f"{text}, but the disk has {_bytes(free)} left. {mend}.")


def _bytes(count: float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"


def _create_trajectory(
    root: zarr.Group, order: Order, layout: ParameterLayout, buffers: ParameterLayout
) -> TrajectoryWriter:
    """`layout` and `buffers` are those of what this process writes; the type is that of the whole model."""
    return TrajectoryWriter.create(
        root,
        layout,
        buffers,
        groups=order.groups,
        slots=order.plan.limit or 0,
        dtype=order.dtype,
        compress=order.storage.compress,
        checksum=order.storage.checksum,
        fixed=to_store(unwrap(order.model), order.still) if order.still else (),
    )


def _reopen(root: zarr.Group, order: Order) -> TrajectoryWriter:
    writer, slots = TrajectoryWriter(root), order.plan.limit or 0
    dtype = order.dtype if order.format >= 2 else order.storage.dtype or order.layout.dtype
    if writer.slots != slots:
        raise RunError(
            f"The run keeps {writer.slots or 'every snapshot'}, this recorder {slots or 'every snapshot'}",
            expected="the same schedule when resuming",
            mend="Pass the same every=, keep= or schedule= as before",
        )
    if writer.dtypes[0] != dtype:
        raise RunError(
            f"The run stores weights as {writer.dtypes[0]}, this recorder would as {dtype}",
            mend="Pass the dtype of the run (storage=Storage(dtype=...)), and the model as it was",
        )
    if order.storage.checksum and not writer.has_checksums:
        raise RunError(
            "The run has no checksums, this recorder would store them",
            mend="Leave checksum= out to go on with the run, or record into another one",
        )
    return writer


def _as_in(root: zarr.Group, order: Order) -> Order:
    """The order for going on with a run: what moved in it goes on being recorded, what stood still is watched on.

    Raises
    ------
    LayoutError
        the model has other parameters or buffers.
    """
    order = replace(order, format=format_of(root))
    if not checked.has(root, "fixed"):
        _check_same(root, order)
        return order
    fixed, moving = Fixed(root), moving_layout(root)
    still = ParameterLayout.in_order([e for e in fixed.layout if e.name not in moving.names])
    ParameterLayout.in_order([*moving, *still]).check_set(order.layout)
    buffers = checked.attribute(root, "buffer_layout", list, "the run")
    ParameterLayout.from_json(buffers, kind="buffer").check(order.buffers)
    return replace(order, layout=moving, still=still)


def _check_same(root: zarr.Group, order: Order) -> None:
    for key, mine, kind in (("layout", order.layout, "parameter"), ("buffer_layout", order.buffers, "buffer")):
        ParameterLayout.from_json(checked.attribute(root, key, list, "the run"), kind=kind).check(mine)


# -- every rank its own shard -----------------------------------------------------------------------------
def _open_shard(order: Order) -> Opened:
    """Each rank writes a trajectory of its own below `ranks/`; nothing is gathered, then or later.

    The first rank locks the run for all of them.
    """
    ranks = Ranks()
    lock = ranks.together(lambda: RunLock() if ranks.rank else _lock(order.store, order.if_exists))
    try:
        opened = _open_ranks(order, ranks)
    except BaseException:
        lock.release()
        raise
    return replace(opened, lock=lock)


def _open_ranks(order: Order, ranks: Ranks) -> Opened:
    own = ShardLayout.of_rank(order.model, order.layout)
    own_buffers = order.buffers if ranks.rank == 0 else ParameterLayout((), kind="buffer")
    resumed = ranks.all(ranks.together(lambda: ranks.rank == 0 and _prepare_ranks(order, ranks)))[0]
    root = open_run(order.target, mode="r+", creating=True)
    if resumed:
        writer = ranks.together(lambda: _reopen_shard(root, own, replace(order, format=format_of(root)), ranks))
    else:
        writer = ranks.together(lambda: _create_shard(root, own, own_buffers, order, ranks))
    if ranks.rank == 0:
        if not resumed:
            if order.loss.given:
                warn_of_recording(
                    f"The loss of a sharded model is not stored in the run; recording goes on without it. {WAY_OUT}"
                )
            finish_creation(root)
        _begin(root)
    ranks.all(None)
    return Opened(root, writer, own, own_buffers, resumed, ranks)


def _prepare_ranks(order: Order, ranks: Ranks) -> bool:
    if prepare(order.store, order.if_exists):
        return True
    root = create_run(order.target, {"schedule": order.plan.describe()}, finished=False)
    root.attrs.update({"layout": order.layout.to_json(), "buffer_layout": order.buffers.to_json()})
    root.create_group("trajectory", attributes={"ranks": ranks.count})
    root.create_group("ranks")
    return False


def _create_shard(
    root: zarr.Group, own: ShardLayout, buffers: ParameterLayout, order: Order, ranks: Ranks
) -> TrajectoryWriter:
    pieces = [piece.to_json() for piece in own.pieces]
    shard = checked.group(root, "ranks").create_group(str(ranks.rank), attributes={"pieces": pieces})
    return _create_trajectory(shard, order, own, buffers)


def _reopen_shard(root: zarr.Group, own: ShardLayout, order: Order, ranks: Ranks) -> TrajectoryWriter:
    _check_same(root, order)
    found = checked.whole(checked.group(root, "trajectory").attrs.get("ranks", 0), "The number of ranks")
    if found != ranks.count:
        raise RunError(
            f"The run was recorded by {found or 'a training without'} ranks, this training has {ranks.count}",
            expected="the same number when resuming a sharded training",
            mend="Record into another run",
        )
    shard = checked.group(root, f"ranks/{ranks.rank}")
    pieces = checked.attribute(shard, "pieces", list, f"rank {ranks.rank}")
    if [Piece.from_json(piece) for piece in pieces] != own.pieces:
        raise RunError("The parameters are sharded in another way than in the run", mend="Record into another run")
    writer = _reopen(shard, order)
    trajectory = Trajectory(root)
    steps, stride = np.asarray(trajectory.steps).tolist(), trajectory.stride
    ranks.all(None)  # all have read before any of them drops what the others never committed
    writer.retain(steps, stride)
    return writer


# -- the loss ---------------------------------------------------------------------------------------------
def _check_loss(loss: Loss) -> None:
    """A loss and its data come together, and can be what they are to be; nothing of them is run.

    Raises
    ------
    LandscapeError
        one without the other, both kinds of loss, a loss that cannot be called, or data of no kind of batches.
    """
    if not loss.given:
        if loss.data is not None:
            raise LandscapeError(
                "Found data= without criterion= or objective=", expected="the loss that is to be computed on it"
            )
        return
    if loss.data is None:
        raise LandscapeError("Found a criterion or objective without data=", expected="the data to compute the loss on")
    from landscape_hooks.objective.capture import check_arguments

    check_arguments(loss.criterion, loss.objective, loss.data, loss.samples)


def _capture(root: zarr.Group, model: torch.nn.Module, loss: Loss) -> LiveLoss | None:
    """Store the loss and its probe samples, so that the run can be analyzed without the training code.

    Whatever the capture meets is one warning: it runs the user's code, torch's tracing and libraries of any kind.
    """
    if not loss.given or loss.data is None:
        return None
    from landscape_hooks.objective.capture import capture

    try:
        rebuild = capture(
            root, model, criterion=loss.criterion, objective=loss.objective, data=loss.data, samples=loss.samples
        )
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # some extensions raise what is no Exception
        said = str(error) if isinstance(error, LandscapeError) else f"{type(error).__name__}: {error}"
        way = "" if "--objective" in said else f" {WAY_OUT}"
        warn_of_recording(
            f"The loss could not be stored in the run; recording goes on without it. {printable(said)}{way}"
        )
        return None
    return LiveLoss(loss.criterion, loss.objective, rebuild, rebuild.seconds)
