"""Opening: the run that a recorder is going to write into, created, resumed, or shared among ranks.

In: what record() was given. Out: a `TrajectoryWriter`, and the layouts of what this process writes through it.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from landscape_hooks.errors import DataError, LandscapeError, ObjectiveError, RecordingWarning, RunError
from landscape_hooks.recording.live_loss import LiveLoss, Loss
from landscape_hooks.recording.schedule import Schedule
from landscape_hooks.recording.storage import Storage
from landscape_hooks.recording.watch.rates import Rates
from landscape_hooks.store import checked
from landscape_hooks.store.lock import RunLock
from landscape_hooks.store.run import (
    check_no_run,
    clear,
    create_run,
    durable_store,
    finish_creation,
    free_bytes,
    open_run,
    prepare,
    writes,
)
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.part import Part, disagreements
from landscape_hooks.trajectory.sharding import Piece, Ranks, ShardLayout, is_sharded
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import TrajectoryWriter

log = logging.getLogger(__name__)
WAY_OUT = "To analyze the run, name the loss: landscape-hooks analyze RUN --objective module:function"


@dataclass(frozen=True)
class Opened:
    """A run that is ready to be written. `writer` is None on a rank that another one writes for."""

    root: Any
    writer: TrajectoryWriter | None
    layout: ParameterLayout
    buffer_layout: ParameterLayout
    resumed: bool
    ranks: Ranks
    lock: RunLock = field(default_factory=RunLock)

    def disagreements(self) -> list[int]:
        """Steps that this rank recorded and others passed by, or the other way round: there ought to be none.

        Asked of the store, since asking the ranks would wait for one that has died. The first looks at all of them,
        the others at the first.
        """
        if not isinstance(self.layout, ShardLayout):
            return []
        others = range(self.ranks.count) if self.ranks.rank == 0 else (0, self.ranks.rank)
        return disagreements([Part(self.root, f"ranks/{rank}/trajectory") for rank in others])


def open_for(
    model: torch.nn.Module, store: Any, plan: Schedule, storage: Storage, *, if_exists: str, durable: bool
) -> Opened:
    """Create or resume the run at `store`.

    A replicated training (DDP) is recorded by its first rank alone. Of a sharded one every rank records its shards.
    """
    layout, buffer_layout = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    target = durable_store(store) if durable else store
    if is_sharded(model):
        return _open_shard(model, store, target, layout, buffer_layout, plan, storage, if_exists)
    ranks = Ranks(communicate=False)
    if ranks.rank:
        return Opened(None, None, layout, buffer_layout, False, ranks)
    lock = _lock(store, if_exists)
    try:
        resumed = prepare(store, if_exists)
        if resumed:
            root = open_run(target, mode="r+")
            _check_same(root, layout, buffer_layout)
            writer = _reopen(root, plan, storage, storage.dtype or layout.dtype)
        else:
            root, writer = _create(model, store, target, layout, buffer_layout, plan, storage)
    except BaseException:
        lock.release()
        raise
    return Opened(root, writer, layout, buffer_layout, resumed, ranks, lock)


@writes
def _lock(store: Any, if_exists: str) -> RunLock:
    if if_exists == "error":
        check_no_run(store)  # the plainer thing to say, where both are true
    return RunLock.take(store)


def _create(
    model: torch.nn.Module, store: Any, target: Any, layout: Any, buffer_layout: Any, plan: Schedule, storage: Storage
) -> tuple[Any, TrajectoryWriter]:
    _say_size(store, plan, layout, buffer_layout, storage)
    root = create_run(target, {"schedule": plan.describe()}, finished=False)
    try:
        writer = _create_trajectory(root, layout, buffer_layout, plan, storage)
        _capture(root, model, storage)
        finish_creation(root)
    except BaseException:
        with suppress(LandscapeError):  # the store that refused may refuse this as well; the first trouble is the cause
            clear(store)
        raise
    return root, writer


def _say_size(store: Any, plan: Schedule, layout: Any, buffer_layout: Any, storage: Storage) -> None:
    """Log how large the run is going to be; warn where the disk is too small for it."""
    width = np.dtype(storage.dtype or layout.dtype).itemsize
    snapshot = layout.size * width + buffer_layout.size * np.dtype(buffer_layout.dtype).itemsize
    most = plan.limit or plan.count
    projected = snapshot * (most or 1)
    text = f"A snapshot is {_bytes(snapshot)}; the run is going to hold "
    text += f"at most {most}, {_bytes(projected)}" if most else "as many as the schedule asks for"
    log.info("%s: %s", store, text)
    free = free_bytes(store)
    if free is not None and projected > free:
        mend = "Keep fewer (keep=), take them less often (every=), or store float16 (dtype=)"
        warnings.warn(RecordingWarning(f"{text}, but the disk has {_bytes(free)} left. {mend}."), stacklevel=5)


def _bytes(count: float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"


def _create_trajectory(
    root: Any, layout: Any, buffer_layout: Any, plan: Schedule, storage: Storage
) -> TrajectoryWriter:
    return TrajectoryWriter.create(
        root,
        layout,
        buffer_layout,
        groups=storage.groups,
        slots=plan.limit or 0,
        dtype=storage.dtype,
        compress=storage.compress,
        checksum=storage.checksum,
    )


def _reopen(root: Any, plan: Schedule, storage: Storage, dtype: str) -> TrajectoryWriter:
    writer = TrajectoryWriter(root)
    if writer.slots != (plan.limit or 0):
        raise RunError(
            f"The run keeps {writer.slots or 'every snapshot'}, this recorder {plan.limit or 'every snapshot'}",
            expected="the same schedule when resuming",
            mend="Pass the same every=, keep= or schedule= as before",
        )
    if writer.dtypes[0] != dtype:
        raise RunError(
            f"The run stores weights as {writer.dtypes[0]}, this recorder would as {dtype}",
            mend="Pass the dtype= of the run, and the model as it was",
        )
    if storage.checksum and not writer.has_checksums:
        raise RunError(
            "The run has no checksums, this recorder would store them",
            mend="Leave checksum= out to go on with the run, or record into another one",
        )
    return writer


def _check_same(root: Any, layout: ParameterLayout, buffer_layout: ParameterLayout) -> None:
    for key, mine, kind in (("layout", layout, "parameter"), ("buffer_layout", buffer_layout, "buffer")):
        ParameterLayout.from_json(checked.attribute(root, key, list, "the run"), kind=kind).check(mine)


# -- every rank its own shard -----------------------------------------------------------------------------
def _open_shard(
    model: torch.nn.Module,
    store: Any,
    target: Any,
    whole: ParameterLayout,
    buffers: ParameterLayout,
    plan: Schedule,
    storage: Storage,
    if_exists: str,
) -> Opened:
    """Each rank writes a trajectory of its own below `ranks/`; nothing is gathered, then or later.

    The first rank locks the run for all of them.
    """
    ranks = Ranks()
    lock = ranks.together(lambda: RunLock() if ranks.rank else _lock(store, if_exists))
    try:
        opened = _open_ranks(model, store, target, whole, buffers, plan, storage, if_exists, ranks)
    except BaseException:
        lock.release()
        raise
    return replace(opened, lock=lock)


def _open_ranks(
    model: torch.nn.Module,
    store: Any,
    target: Any,
    whole: ParameterLayout,
    buffers: ParameterLayout,
    plan: Schedule,
    storage: Storage,
    if_exists: str,
    ranks: Ranks,
) -> Opened:
    own = ShardLayout.of_rank(model, whole)
    own_buffers = buffers if ranks.rank == 0 else ParameterLayout((), kind="buffer")
    dtype = storage.dtype or whole.dtype
    resumed = ranks.all(
        ranks.together(
            lambda: ranks.rank == 0 and _prepare_ranks(store, target, whole, buffers, plan, ranks, if_exists)
        )
    )[0]
    root = open_run(target, mode="r+", creating=True)
    if resumed:
        writer = ranks.together(lambda: _reopen_shard(root, own, whole, buffers, plan, storage, dtype, ranks))
    else:
        writer = ranks.together(lambda: _create_shard(root, own, own_buffers, plan, storage, dtype, ranks))
        if ranks.rank == 0:
            if storage.criterion is not None or storage.objective is not None:
                text = f"The loss of a sharded model is not stored in the run; recording goes on without it. {WAY_OUT}"
                warnings.warn(RecordingWarning(text), stacklevel=4)
            finish_creation(root)
        ranks.all(None)
    return Opened(root, writer, own, own_buffers, resumed, ranks)


def _prepare_ranks(
    store: Any, target: Any, whole: Any, buffers: Any, plan: Schedule, ranks: Ranks, if_exists: str
) -> bool:
    if prepare(store, if_exists):
        return True
    root = create_run(target, {"schedule": plan.describe()}, finished=False)
    root.attrs.update({"layout": whole.to_json(), "buffer_layout": buffers.to_json()})
    root.create_group("trajectory", attributes={"ranks": ranks.count})
    root.create_group("ranks")
    return False


def _create_shard(
    root: Any, own: ShardLayout, buffers: Any, plan: Schedule, storage: Storage, dtype: str, ranks: Ranks
) -> TrajectoryWriter:
    pieces = [piece.to_json() for piece in own.pieces]
    shard = root["ranks"].create_group(str(ranks.rank), attributes={"pieces": pieces})
    # the type of the whole model, also where this rank holds no float64 parameter
    whole = Storage(groups=storage.groups, dtype=dtype, compress=storage.compress, checksum=storage.checksum)
    return _create_trajectory(shard, own, buffers, plan, whole)


def _reopen_shard(
    root: Any,
    own: ShardLayout,
    whole: Any,
    buffers: Any,
    plan: Schedule,
    storage: Storage,
    dtype: str,
    ranks: Ranks,
) -> TrajectoryWriter:
    _check_same(root, whole, buffers)
    found = checked.whole(checked.group(root, "trajectory").attrs.get("ranks", 0), "The number of ranks")
    if found != ranks.count:
        raise RunError(
            f"The run was recorded by {found or 'a training without'} ranks, this training has {ranks.count}",
            expected="the same number when resuming a sharded training",
            mend="Record into another run",
        )
    shard = root[f"ranks/{ranks.rank}"]
    pieces = checked.attribute(shard, "pieces", list, f"rank {ranks.rank}")
    if [Piece.from_json(piece) for piece in pieces] != own.pieces:
        raise RunError("The parameters are sharded in another way than in the run", mend="Record into another run")
    writer = _reopen(shard, plan, storage, dtype)
    trajectory = Trajectory(root)
    steps, stride = np.asarray(trajectory.steps).tolist(), trajectory.stride
    ranks.all(None)  # all have read before any of them drops what the others never committed
    writer.retain(steps, stride)
    return writer


# -- the loss ---------------------------------------------------------------------------------------------
def _capture(root: Any, model: torch.nn.Module, storage: Storage) -> None:
    """Store the loss and its probe samples, so that the run can be analyzed without the training code."""
    if storage.criterion is None and storage.objective is None:
        if storage.data is not None:
            raise LandscapeError(
                "Found data= without criterion= or objective=", expected="the loss that is to be computed on it"
            )
        return
    if storage.data is None:
        raise LandscapeError("Found a criterion or objective without data=", expected="the data to compute the loss on")
    from landscape_hooks.objective.capture import capture

    try:
        capture(
            root,
            model,
            criterion=storage.criterion,
            objective=storage.objective,
            data=storage.data,
            samples=storage.samples,
        )
    except DataError:
        raise
    except ObjectiveError as error:
        text = f"The loss could not be stored in the run; recording goes on without it. {error} {WAY_OUT}"
        warnings.warn(RecordingWarning(text), stacklevel=5)
