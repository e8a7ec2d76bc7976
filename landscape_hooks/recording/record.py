"""record: the one line. A model, an optimizer and a place in, a Recorder at work out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from landscape_hooks.errors import LandscapeError, LayoutError, RunError
from landscape_hooks.recording import at_exit
from landscape_hooks.recording.announcement import Voice
from landscape_hooks.recording.loss.asked import Loss
from landscape_hooks.recording.opening import open_for
from landscape_hooks.recording.opening.sorting import sort_out
from landscape_hooks.recording.recorder import Recorder
from landscape_hooks.recording.schedule import Schedule, make_schedule
from landscape_hooks.recording.storage import Parameters, Storage, check_choice
from landscape_hooks.recording.watch.steps import optimizers_of
from landscape_hooks.store.run import RunLike, absolute, open_run
from landscape_hooks.trajectory.modules import is_lazy, unwrap, walk_parameters
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows import bits

if TYPE_CHECKING:
    from landscape_hooks.objective.data.samples import DataLike


def record(
    model: torch.nn.Module | Sequence[torch.nn.Module],
    optimizer: torch.optim.Optimizer | Iterable[Any] | Mapping[Any, Any] | Any,
    store: RunLike,
    *,
    every: int | None = None,
    keep: int | None = None,
    schedule: Schedule | Iterable[int] | int | Callable[[int], bool] | None = None,
    criterion: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    data: DataLike | Callable[[], DataLike] | Literal["train"] | None = None,
    samples: int = 1024,
    if_exists: Literal["error", "resume", "overwrite"] = "error",
    step: int | None = None,
    counter: Callable[[], int] | None = None,
    storage: Storage = Storage(),  # noqa: B008  (frozen)
    parameters: Parameters = Parameters(),  # noqa: B008  (frozen)
    verbose: bool = True,
) -> Recorder:
    """Record the path of an optimizer into a run, from now until `close()` or the end of the script.

    The weights of a snapshot are read when the next iteration begins, so what the loop does to them after
    `optimizer.step()` (clamping, averaging) is in it. An iteration ends when an optimizer that has stepped in it steps
    again: the two steps of a GAN are one iteration.

    Parameters
    ----------
    model
        the module whose parameters and floating-point buffers are recorded, wrapped (DDP, compile, ...) or not. Of
        several modules (a list) the names begin with `0.`, `1.`, ...
    optimizer
        its torch optimizer, or a trainer's wrapper of one, or several (a list or a mapping). Any other optimizer that
        steps this model's parameters is noticed as well, and its steps count.
        None: the training loop calls `recorder.step()` itself.
    store
        where to: a path, a URL or a Zarr store.
    every
        a snapshot every so many optimizer steps. Left out: at most `keep`, evenly spaced however long the training
        turns out (when the run is full, every second snapshot goes and the distance doubles).
    keep
        the most snapshots to keep, without `every`. Left out: as many as take 2 GB, between 20 and 200.
    schedule
        in place of both: a list of steps, a function step -> bool, or a schedule (`landscape_hooks.LogSpaced`, ...).
    criterion, objective, data, samples
        the loss to draw later: `criterion(output, target)` for batches (input, target), or `objective(model, batch)`
        (of several modules: `objective(models, batch)`), on batches of `data` (a DataLoader, an iterable of batches,
        one batch, a dataset) until there are `samples` samples. Stored in the run. The data is not iterated itself: its
        batches are made again from the loader's dataset, samplers and collate function, elsewhere where that would
        leave traces; an iterator is left alone. `data` may also be a function without arguments that returns it: it is
        called when the recording ends without an exception, and the model is kept alive until then. "train" keeps the
        first batches that the training itself puts through the model and the criterion, which is a module then.
    if_exists
        what to do where a run is already: refuse, go on with it, or delete it.
    step
        optimizer steps already taken (after a checkpoint was loaded). Left out: 0, and when resuming the step of the
        last snapshot, if the model still holds its weights; otherwise `load_state_dict` has to say.
    counter
        a trainer's own count of optimizer steps, asked after each of them (steps that mixed precision skipped are
        usually in it); each step is an iteration of its own. Left out: the steps are counted here.
    storage
        how snapshots are stored, and what happens where that fails or is too slow: `landscape_hooks.Storage`.
    parameters
        which parameters the snapshots have, and how the run keeps the others: `Parameters("lora_*", "head.*")`,
        `Parameters(frozen="reference")`. Left out: what requires a gradient is in every snapshot, the rest is stored
        once and watched for beginning to move.
    verbose
        say one line now (where to, at most how large, what loss is stored) and one when the recording ends (how large
        it is, what comes next): to the logger `landscape_hooks`, and to the standard error stream if that logger shows
        it on no console. Of several processes the first one speaks.

    Raises
    ------
    LandscapeError
        an argument is not what it should be; nothing is written then.
    RunError
        there is a run already, or something that is no run; or it cannot be resumed.
    LayoutError
        the run to resume was recorded with another model, or the model has nothing to record.
    """
    check_choice("if_exists", if_exists, ("error", "resume", "overwrite"))
    check_choice("verbose", verbose, (True, False))
    module = models_of(model)
    if not isinstance(parameters, Parameters):
        raise LandscapeError(f"Found parameters={parameters!r}", expected="Parameters('lora_*', ..., frozen=...)")
    _check_sizes(module)
    optimizers = optimizers_of(optimizer)
    store = absolute(store)  # the training may change its working directory
    if keep is None and if_exists == "resume":
        keep = _kept_so_far(store)
    plan = make_schedule(schedule, every=every, keep=keep, row_bytes=_row_bytes(module, storage, parameters))
    loss = Loss(criterion, objective, data, samples)
    at_exit.close_forgotten()
    if if_exists != "error":
        at_exit.close_of(store)
    voice = Voice(verbose, store)
    opened = open_for(module, store, plan, storage, loss, optimizers, parameters, if_exists=if_exists, voice=voice)
    recorder = Recorder(
        module, optimizers, plan, opened,
        counter=counter, storage=storage, address=store, keep_model=module is not model or not optimizers,
    )  # fmt: skip
    try:
        recorder.begin(step)
    except BaseException:
        voice.silence()
        recorder.abandon()
        raise
    return recorder


class Models(torch.nn.ModuleList):
    """Several modules as one, their tensors named `0.`, `1.`, ...; called, it is the first of them."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self[0](*args, **kwargs)


def models_of(given: torch.nn.Module | Sequence[torch.nn.Module]) -> torch.nn.Module:
    """What `record` was given as one module; the modules themselves are not changed.

    Raises
    ------
    LandscapeError
        it is no module and no list of modules.
    """
    if isinstance(given, torch.nn.Module):
        return given
    several = list(given) if isinstance(given, list | tuple) else []
    if not several or not all(isinstance(one, torch.nn.Module) for one in several):
        raise LandscapeError(
            f"Found a model of type {type(given).__name__}", expected="a torch.nn.Module, or a list of them"
        )
    return Models(several)


def _check_sizes(model: torch.nn.Module) -> None:
    """Parameters hold their values here.

    Raises
    ------
    LayoutError
        the values of one are on other processes (DeepSpeed ZeRO stage 3, FullyShardedDataParallel).
    """
    for name, tensor, _ in walk_parameters(model):
        if is_lazy(tensor):
            continue
        if tuple(tensor.shape) == (0,) or (hasattr(tensor, "ds_id") and not tensor.numel()):
            raise LayoutError(
                f"The parameter '{name}' has no elements here",
                expected="parameters that hold their values (ZeRO stage 3 and FSDP 1 keep them on other processes)",
                mend="Use ZeRO stage 2, or FSDP 2 (fully_shard), whose shards every rank records",
            )


def _kept_so_far(store: RunLike) -> int | None:
    """How many snapshots a run keeps that is to be resumed: what has begun to move since makes its rows larger."""
    try:
        said = open_run(store).attrs.get("schedule")
    except RunError:
        return None  # there is none yet, or opening it says why
    kept = said.get("keep") if isinstance(said, dict) else None
    return kept if type(kept) is int else None


def _row_bytes(model: torch.nn.Module, storage: Storage, parameters: Parameters) -> int:
    """Bytes of a snapshot's weights, for choosing how many to keep."""
    try:
        layout = sort_out(unwrap(model), ParameterLayout.of(model), parameters.patterns).moving
    except LayoutError:
        return 0  # opening the run says why
    return layout.size * bits.stored_dtype(storage.dtype or layout.row_dtype).itemsize
