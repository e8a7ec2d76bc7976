"""record: the one line. A model, an optimizer and a place in, a Recorder at work out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch

from landscape_hooks.errors import LandscapeError
from landscape_hooks.recording import at_exit
from landscape_hooks.recording.hook import unwrap_optimizer
from landscape_hooks.recording.opening import Storage, open_for
from landscape_hooks.recording.recorder import Recorder
from landscape_hooks.recording.schedule import Schedule, make_schedule
from landscape_hooks.trajectory.writer import COMPRESSORS


def record(
    model: torch.nn.Module,
    optimizer: Any,
    store: Any,
    *,
    every: int | None = None,
    keep: int = 200,
    schedule: Schedule | Iterable[int] | int | Callable[[int], bool] | None = None,
    criterion: Any = None,
    objective: Any = None,
    data: Any = None,
    samples: int = 1024,
    if_exists: Literal["error", "resume", "overwrite"] = "error",
    step: int | None = None,
    counter: Callable[[], int] | None = None,
    on_error: Literal["warn", "raise"] = "warn",
    queue: Literal["block", "drop"] = "block",
    dtype: Literal["bfloat16", "float16", "float32", "float64"] | None = None,
    compress: Literal["lz4", "zstd"] | None = None,
    durability: Literal["fsync"] | None = None,
    checksum: bool = False,
) -> Recorder:
    """Record the path of an optimizer into a run, from now until `close()` or the end of the script.

    Parameters
    ----------
    model
        the module whose parameters and floating-point buffers are recorded, wrapped (DDP, compile, ...) or not.
    optimizer
        its torch optimizer, or a trainer's wrapper of one; of several (a list) the last one's steps count, or those
        of all with a `counter`.
        None: the training loop calls `recorder.step()` itself.
    store
        where to: a path, a URL or a Zarr store.
    every
        a snapshot every so many optimizer steps. Left out: at most `keep`, evenly spaced however long the training
        turns out (when the run is full, every second snapshot goes and the distance doubles).
    schedule
        in place of both: a list of steps, a function step -> bool, or a `landscape_hooks.recording.schedule.Schedule`.
    criterion, objective, data, samples
        the loss to draw later: `criterion(output, target)` for batches (input, target), or `objective(model, batch)`,
        on the first `samples` samples of `data` (a DataLoader, an iterable of batches, one batch). Stored in the run.
    if_exists
        what to do where a run is already: refuse, go on with it, or delete it.
    step
        optimizer steps already taken (after a checkpoint was loaded). Left out: 0, and when resuming the step of the
        last snapshot, if the model still holds its weights; otherwise `load_state_dict` has to say.
    counter
        a trainer's own count of optimizer steps, asked after each of them (steps that mixed precision skipped are
        usually in it). Left out: the steps are counted here.
    on_error
        what trouble with writing does to the training: one warning, or an exception.
    queue
        when snapshots come faster than they can be written: wait, or drop (and count) them.
    dtype
        how weights are stored. Left out: as the model has them, exactly (bfloat16 or float16 where all parameters are
        of that type, float64 where any is, otherwise float32). float16 halves a run of float32, at a relative error of
        5e-4 (a weight beyond 65504 becomes inf), bfloat16 at one of 4e-3.
    compress
        lossless, for slow disks: weights shrink by 10 % or so, writing costs more than it saves on fast ones.
    durability
        "fsync": a committed snapshot survives a loss of power, not only the end of the process. Local folders only.
    checksum
        store a checksum of every snapshot, by which `Trajectory.verify()` finds damage later. When resuming, the run
        decides.

    Raises
    ------
    RunError
        there is a run already, or something that is no run; or it cannot be resumed.
    LayoutError
        the run to resume was recorded with another model, or the model has nothing to record.
    """
    plan = make_schedule(schedule, every=every, keep=keep)
    _check_choice("if_exists", if_exists, ("error", "resume", "overwrite"))
    _check_choice("on_error", on_error, ("warn", "raise"))
    _check_choice("queue", queue, ("block", "drop"))
    _check_choice("dtype", dtype, (None, "bfloat16", "float16", "float32", "float64"))
    _check_choice("compress", compress, (None, *COMPRESSORS))
    _check_choice("durability", durability, (None, "fsync"))
    optimizers = _optimizers(optimizer)
    if if_exists != "error":
        at_exit.close_of(store)
    groups = sum(len(o.param_groups) for o in optimizers)
    storage = Storage(groups, dtype, compress, criterion, objective, data, samples, checksum)
    opened = open_for(model, store, plan, storage, if_exists=if_exists, durable=durability is not None)
    recorder = Recorder(model, optimizers, plan, opened, counter=counter, on_error=on_error, wait=queue == "block")
    recorder.store = store
    try:
        recorder._begin(step)
    except BaseException:
        recorder._active = False
        recorder.close()
        raise
    return recorder


def _optimizers(optimizer: Any) -> list[torch.optim.Optimizer]:
    if optimizer is None:
        return []
    return [unwrap_optimizer(o) for o in (optimizer if isinstance(optimizer, (list, tuple)) else [optimizer])]


def _check_choice(name: str, value: Any, choices: Sequence[str | None]) -> None:
    if value not in choices:
        raise LandscapeError(f"Found {name}={value!r}", expected="one of " + ", ".join(map(repr, choices)))
