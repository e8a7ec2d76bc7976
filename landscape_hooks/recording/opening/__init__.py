"""Opening: the run that a recorder is going to write into, created, resumed, or shared among ranks.

In: what record() was given. Out: a `TrajectoryWriter`, and the layouts of what this process writes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import zarr
from zarr.core.sync import sync

from landscape_hooks.errors import DamagedRunError, LandscapeError, printable, warn_of_recording
from landscape_hooks.recording.announcement import Voice
from landscape_hooks.recording.live_loss import LiveLoss, Loss
from landscape_hooks.recording.opening.order import Opened, Order
from landscape_hooks.recording.opening.ranks import WAY_OUT, open_shard
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
    _check_loss(loss)
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
        voice.begin(root, order.size, recorded=writer.commit.rows if resumed else None)
    except BaseException:
        lock.release()
        raise
    joined = [entry for late in writer.late if late.of_buffers for entry in late.layout]
    buffers = writer.buffer_layout.picked([*writer.buffer_layout, *joined])
    return Opened(
        root, writer, order.layout, buffers, resumed, ranks, lock, live, fixed, fixed_buffers, integers, voice
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


def _capture(root: zarr.Group, order: Order) -> LiveLoss | None:
    """Store the loss and its probe samples, so that the run can be analyzed without the training code.

    Whatever the capture meets is one warning: it runs the user's code, torch's tracing and libraries of any kind.
    """
    loss, data = order.loss, order.loss.data
    if not loss.given or data is None:
        return None
    from landscape_hooks.objective.capture import capture

    take = partial(capture, criterion=loss.criterion, objective=loss.objective, data=data, samples=loss.samples)
    try:
        rebuild = order.voice.storing(partial(take, root, order.model))
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
