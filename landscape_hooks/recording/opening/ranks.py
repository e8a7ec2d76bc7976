"""Ranks: a sharded training, of which every rank writes a trajectory of its own.

In: an Order, on every rank. Out: the run, opened on each of them, with what this rank writes; nothing is gathered.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import zarr

from landscape_hooks.errors import RunError, warn_of_recording
from landscape_hooks.recording.loss.asked import WAY_OUT
from landscape_hooks.recording.opening.order import Opened, Order
from landscape_hooks.recording.opening.writers import (
    as_in,
    begin,
    create_trajectory,
    locked,
    reopen,
    watched,
    watched_beside,
)
from landscape_hooks.store import checked
from landscape_hooks.store.lock import RunLock
from landscape_hooks.store.run import create_run, finish_creation, open_run, prepare
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.sharding import Piece, Ranks, ShardLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import TrajectoryWriter


def open_shard(order: Order) -> Opened:
    """Each rank writes a trajectory of its own below `ranks/`; nothing is gathered, then or later.

    The first rank locks the run for all of them.
    """
    ranks = Ranks(order.model)
    lock = ranks.together(lambda: RunLock() if ranks.rank else locked(order.store, order.if_exists))
    try:
        opened = _open_ranks(order, ranks)
    except BaseException:
        lock.release()
        raise
    return replace(opened, lock=lock)


def _open_ranks(order: Order, ranks: Ranks) -> Opened:
    own_buffers = order.buffers if ranks.rank == 0 else ParameterLayout((), kind="buffer")
    resumed = ranks.all(ranks.together(lambda: ranks.rank == 0 and _prepare_ranks(order, ranks)))[0]
    root = open_run(order.target, mode="r+", creating=True)
    if resumed:
        nothing = ParameterLayout(())
        whole = replace(order, layout=ParameterLayout.of(order.model), still=nothing, others=nothing)
        order = ranks.together(lambda: as_in(root, whole))
    own, still = (ShardLayout.of_rank(order.model, each) for each in (order.layout, order.still))
    if resumed:
        writer = ranks.together(lambda: _reopen_shard(root, own, still, order, ranks))
        own, still = _as_written(own, still, writer)
    else:
        writer = ranks.together(lambda: _create_shard(root, (own, still), own_buffers, order, ranks))
    fixed = watched(order, still, writer.fixed, resumed)
    _, integers = watched_beside(order, writer.fixed, resumed)
    if ranks.rank == 0:
        if not resumed:
            if order.loss.given:
                warn_of_recording(
                    f"The loss of a sharded model is not stored in the run; recording goes on without it. {WAY_OUT}"
                )
            finish_creation(root)
        begin(root, order)
        order.voice.begin(root, order.size, recorded=writer.commit.rows if resumed else None)
    ranks.all(None)
    return Opened(root, writer, own, own_buffers, resumed, ranks, fixed=fixed, integers=integers, voice=order.voice)


def _prepare_ranks(order: Order, ranks: Ranks) -> bool:
    if prepare(order.store, order.if_exists):
        return True
    root = create_run(order.target, order.attributes, finished=False)
    root.update_attributes({"layout": order.layout.to_json(), "buffer_layout": order.buffers.to_json()})
    root.create_group("trajectory", attributes={"ranks": ranks.count})
    root.create_group("ranks")
    if order.still or order.others:
        listed = {"layout": order.still.to_json(), "others": order.others.to_json()}
        root.create_group("fixed", attributes=listed)
    return False


def _create_shard(
    root: zarr.Group,
    own: tuple[ShardLayout, ShardLayout],
    buffers: ParameterLayout,
    order: Order,
    ranks: Ranks,
) -> TrajectoryWriter:
    """`own` are this rank's pieces of what moves and of what stands still; the first one stores whole tensors."""
    pieces, still = ([piece.to_json() for piece in layout.pieces] for layout in own)
    others = order.others if ranks.rank == 0 else ParameterLayout(())
    shard = checked.group(root, "ranks").create_group(str(ranks.rank), attributes={"pieces": pieces})
    writer = create_trajectory(shard, order, own[0], buffers, own[1], others)
    if own[1] or others:
        whole = [Piece(entry.name, (0,) * len(entry.shape), entry.shape).to_json() for entry in others]
        checked.group(shard, "fixed").attrs["pieces"] = [*still, *whole]
    return writer


def _as_written(own: ShardLayout, still: ShardLayout, writer: TrajectoryWriter) -> tuple[ShardLayout, ShardLayout]:
    """A rank's pieces in the order of its rows, those that moved from the beginning, then late ones; and the others."""
    known = {entry.name: entry for entry in own}
    names = [*writer.layout.names, *(name for late in writer.late for name in late.layout.names)]
    rest = [entry for name, entry in known.items() if name not in set(names)]  # began to move on other ranks alone
    return own.picked([known[name] for name in names]), still.picked([*still, *rest])


def _reopen_shard(
    root: zarr.Group, own: ShardLayout, still: ShardLayout, order: Order, ranks: Ranks
) -> TrajectoryWriter:
    found = checked.whole(checked.group(root, "trajectory").attrs.get("ranks", 0), "The number of ranks")
    if found != ranks.count:
        raise RunError(
            f"The run was recorded by {found or 'a training without'} ranks, this training has {ranks.count}",
            expected="the same number when resuming a sharded training",
            mend="Record into another run",
        )
    shard = checked.group(root, f"ranks/{ranks.rank}")
    groups = [shard, *([shard["fixed"]] if checked.has(shard, "fixed") else [])]
    known = [Piece.from_json(piece) for group in groups for piece in checked.attribute(group, "pieces", list, "a rank")]
    whole = set(order.others.names)
    if {p for p in known if p.name not in whole} != {*own.pieces, *still.pieces}:
        raise RunError("The parameters are sharded in another way than in the run", mend="Record into another run")
    writer = reopen(shard, order)
    trajectory = Trajectory(root)
    steps, stride = np.asarray(trajectory.steps).tolist(), trajectory.stride
    ranks.all(None)  # all have read before any of them drops what the others never committed
    writer.retain(steps, stride)
    return writer
