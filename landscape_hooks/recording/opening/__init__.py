"""Opening: the run that a recorder is going to write into, created, resumed, or shared among ranks.

In: what record() was given. Out: a `TrajectoryWriter`, and the layouts of what this process writes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
import zarr
from zarr.core.sync import sync

from landscape_hooks.errors import DamagedRunError, LandscapeError
from landscape_hooks.recording.announcement import Voice
from landscape_hooks.recording.loss.asked import WAY_OUT, Loss
from landscape_hooks.recording.loss.live import LiveLoss
from landscape_hooks.recording.loss.taking import has_loss, take_or_warn
from landscape_hooks.recording.opening.order import Opened, Order
from landscape_hooks.recording.opening.ranks import open_shard
from landscape_hooks.recording.opening.writers import (
    as_in,
    begin,
    create_trajectory,
    locked,
    reopen,
    watched,
    watched_beside,
)
from landscape_hooks.recording.schedule import Schedule
from landscape_hooks.recording.storage import Parameters, Storage
from landscape_hooks.recording.watch.rates import Rates, described
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, clear, create_run, finish_creation, open_run, prepare
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.sharding import Ranks, is_sharded
from landscape_hooks.trajectory.writer import TrajectoryWriter

__all__ = ["WAY_OUT", "Opened", "open_for"]


def open_for(
    model: torch.nn.Module,
    store: RunLike,
    plan: Schedule,
    storage: Storage,
    loss: Loss,
    optimizers: Sequence[Any],
    parameters: Parameters,
    *,
    if_exists: str,
    voice: Voice,
) -> Opened:
    """Create or resume the run at `store`.

    A replicated training (DDP) is recorded by its first rank alone. Of a sharded one every rank records its shards.
    """
    loss.check()
    layouts = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    groups = Rates(optimizers).groups
    order = Order(
        model, store, plan, storage, loss, groups, if_exists, *layouts, parameters=parameters, voice=voice,
        optimizers=described(optimizers),
    )  # fmt: skip
    sorted_order = order.sorted_out()  # where a pattern means nothing, this says so before anything is written
    if is_sharded(model):
        return open_shard(replace(sorted_order, still_buffers=layouts[1].picked(())))
    ranks = Ranks(communicate=False)
    if ranks.rank:
        return Opened(None, None, *layouts, False, ranks)
    lock = locked(store, if_exists)
    live = None
    try:
        resumed = prepare(store, if_exists)
        if resumed:
            root = open_run(order.target, mode="r+")
            order = as_in(root, order)
            writer = reopen(root, order)
            live = _capture_again(root, order)
        else:
            order = sorted_order
            root, writer, live = _create(order)
        fixed = watched(order, order.still, writer.fixed, resumed)
        fixed_buffers, integers = watched_beside(order, writer.fixed, resumed)
        begin(root, order)
        voice.begin(root, order.size, recorded=writer.commit.rows if resumed else None, awaited=loss.said)
        awaited = loss if loss.said and not has_loss(root) else None
    except BaseException:
        lock.release()
        raise
    joined = [entry for late in writer.late if late.of_buffers for entry in late.layout]
    buffers = writer.buffer_layout.picked([*writer.buffer_layout, *joined])
    return Opened(
        root, writer, order.layout, buffers, resumed, ranks, lock, live, awaited, fixed, fixed_buffers, integers, voice
    )


def _create(order: Order) -> tuple[zarr.Group, TrajectoryWriter, LiveLoss | None]:
    root = create_run(order.target, order.attributes, finished=False)
    try:
        with order.voice.patience("Storing what does not move"):
            writer = create_trajectory(root, order, order.layout, order.buffers, order.still, order.others)
        live = _capture(root, order)
        finish_creation(root)
    except BaseException:
        with suppress(LandscapeError):  # the store that refused may refuse this as well; the first trouble is the cause
            clear(order.store)
        raise
    return root, writer, live


def _capture(root: zarr.Group, order: Order) -> LiveLoss | None:
    """Store the loss and its samples, if they are there, so that the run can be analyzed without the training code."""
    if not order.loss.given or order.loss.when != "now":
        return None
    return take_or_warn(root, order.model, order.loss, order.voice)


def _capture_again(root: zarr.Group, order: Order) -> LiveLoss | None:
    """Store the loss of a resumed run that has none, whose capture failed or was interrupted."""
    if not order.loss.given:
        return None
    try:
        stored = checked.group(root, "objective")
    except DamagedRunError:  # its metadata were cut off
        sync(root.store.delete_dir(f"{root.path}/objective".lstrip("/")))
    else:
        if stored is not None and stored.attrs.get("complete"):
            return None
    return _capture(root, order)
