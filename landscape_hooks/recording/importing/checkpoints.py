"""import_checkpoints: a run from checkpoints of a training that is over.

In: a store, a model or none, and checkpoints in any order. Out: the run that a recording at the same steps would have
made. All checkpoints are looked at before anything is written; then one at a time is read, copied into a row and
committed, so that an import that was interrupted goes on where it stopped, and ends with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import zarr

from landscape_hooks.errors import CheckpointError, LandscapeError, RunError, warn_of_recording
from landscape_hooks.progress import counted
from landscape_hooks.recording.closing import integers_in_doubt
from landscape_hooks.recording.importing.layouts import Found, Layouts, find, is_wider, listed
from landscape_hooks.recording.importing.rows import RowsOut, loaded, padded, to_store
from landscape_hooks.recording.loss.asked import Loss
from landscape_hooks.store import checked
from landscape_hooks.store.lock import RunLock
from landscape_hooks.store.run import (
    RunLike,
    absolute,
    clear,
    create_run,
    finish_creation,
    local_folder,
    open_run,
    prepare,
    put_attribute,
    writes,
)
from landscape_hooks.trajectory.checkpoints.checkpoint import Facts
from landscape_hooks.trajectory.checkpoints.folders import CheckpointLike, Source, sources
from landscape_hooks.trajectory.checkpoints.steps import steps_of
from landscape_hooks.trajectory.doubts import add_doubt, closing_state, set_closing
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import TrajectoryWriter

if TYPE_CHECKING:
    from landscape_hooks.objective.data.samples import DataLike
    from landscape_hooks.objective.objective import Objective

KEY = "imported"
"""Attribute of the run: which checkpoints it was made of, by step."""


def import_checkpoints(
    store: RunLike,
    model: torch.nn.Module | None,
    checkpoints: CheckpointLike | Iterable[CheckpointLike],
    *,
    steps: Sequence[int] | None = None,
    criterion: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | Objective | None = None,
    data: DataLike | None = None,
    samples: int = 1024,
    progress: bool = True,
) -> Trajectory:
    """Make a run of checkpoints, as `record` would have made it in the training; `analyze` takes it from there.

    No checkpoint is changed, and reading one runs none of its code. The model is left as it was.

    Parameters
    ----------
    store
        where to: a path, a URL or a Zarr store. An import that was interrupted goes on; further checkpoints of later
        steps are added to a run that was imported.
    model
        the module that was trained, wrapped or not, with any values: its `requires_grad` says what is recorded at each
        snapshot and what once. Of adapters (PEFT) it is the model with its adapters, and has the values of the base.
        None: names and shapes say it, which is enough for the path.
    checkpoints
        files and folders, in any order: of `torch.save` (state dicts, and dictionaries that hold one), safetensors (one
        file, or several with an index), folders `checkpoint-N` of transformers and PEFT, Lightning's `.ckpt`, folders
        of `torch.distributed.checkpoint`; a folder of such; or state dicts, or functions that return one.
    steps
        the step of each checkpoint, in their order. Left out: what they say themselves (`global_step`, `step`,
        `epoch`), or the numbers in their names.
    criterion, objective, data, samples
        the loss to draw, as for `record`; it needs the model. Without a model `objective` may be an `Objective`: the
        run has its layout, and `analyze(objective=)` needs it again.
    progress
        show a bar on the standard error stream.

    Returns
    -------
    Trajectory
        of the run, in order of steps.

    Raises
    ------
    CheckpointError
        one is no checkpoint, needs code to be read, lacks a tensor or has one of another shape, or nothing says of
        which step it is. Nothing is written then.
    RunError
        there is another run, or one that was made of other checkpoints.
    LandscapeError
        the loss cannot be stored.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> states = [{"weight": torch.full((1, 2), float(n)), "bias": torch.zeros(1)} for n in range(3)]
    >>> run = import_checkpoints({}, model, states, steps=[0, 10, 20], progress=False)
    >>> run.steps.tolist(), run[2].weights.tolist()
    ([0, 10, 20], [2.0, 2.0, 0.0])
    """
    named = sources(checkpoints)
    order = _Order(model, objective, criterion, data, samples)
    order.check()
    store = absolute(store)
    folder = local_folder(store)
    new = folder is not None and not folder.exists()
    lock = RunLock.take(store)
    try:
        _import(store, named, steps, order, progress)
    except BaseException:
        if new and folder is not None:
            with suppress(OSError):  # it holds a run by now
                folder.rmdir()
        raise
    finally:
        lock.release()
    return Trajectory.open(store)


@dataclass(frozen=True)
class _Order:
    """What the run is to be of, beside the checkpoints."""

    model: torch.nn.Module | None
    objective: Callable[..., Any] | Objective | None
    criterion: Callable[..., Any] | None
    data: DataLike | None
    samples: int

    @property
    def loss(self) -> Loss:
        """What is to be stored of the loss."""
        return Loss() if self.layouts_only else Loss(self.criterion, self.objective, self.data, self.samples)  # type: ignore[arg-type]

    @property
    def layouts_only(self) -> bool:
        """Whether the objective says names and shapes and is not stored."""
        from landscape_hooks.objective.objective import Objective

        return isinstance(self.objective, Objective)

    def check(self) -> None:
        """Model and loss go together; nothing of them is run."""
        if self.model is not None and not isinstance(self.model, torch.nn.Module):
            raise LandscapeError(
                f"Found a model of type {type(self.model).__name__}", expected="a torch.nn.Module, or None"
            )
        if self.layouts_only:
            if self.model is not None or self.criterion is not None or self.data is not None:
                raise LandscapeError(
                    "Found an Objective with model=, criterion= or data=",
                    expected="an Objective alone, which has its own; or a model with objective(model, batch)",
                )
            return
        loss = self.loss
        if not loss.given:
            if loss.data is not None:
                raise LandscapeError("Found data= without criterion= or objective=", expected="the loss on it")
            return
        if self.model is None:
            raise LandscapeError(
                "Found a loss without the model that it is of",
                expected="model=, or an Objective as objective=",
                mend="On the command line: --model module:function",
            )
        if loss.data is None:
            raise LandscapeError("Found a criterion or objective without data=", expected="the data to compute it on")
        from landscape_hooks.objective.capture import check_arguments

        check_arguments(loss.criterion, loss.objective, loss.data, loss.samples)

    def layouts(self) -> Layouts | None:
        """What model or Objective say; None where there is neither."""
        if self.model is not None:
            return Layouts.of_model(self.model)
        if self.layouts_only:
            from landscape_hooks.objective.kernels import ModuleKernel

            found: Any = self.objective
            if isinstance(found.kernel, ModuleKernel):
                return Layouts.of_model(found.kernel.module.model)
            return Layouts(found.layout, ParameterLayout(()), found.buffer_layout)
        return None


@dataclass(frozen=True)
class _Surveyed:
    """A checkpoint that was looked at."""

    source: Source
    step: int
    facts: Facts


def _import(
    store: RunLike, named: Sequence[Source], steps: Sequence[int] | None, order: _Order, progress: bool
) -> None:
    resumed = prepare(store, "resume")
    root = open_run(store, mode="r+") if resumed else None
    layouts = order.layouts()
    if root is not None:
        _check_imported(root)
        layouts = Layouts.of_run(root) if layouts is None else layouts.as_in(root)
    surveyed, layouts = _survey(named, steps, layouts)
    if root is None:
        root = _create(store, surveyed, layouts, order)
    elif order.loss.given and not _complete(root):
        found = find(surveyed[0].source.open(), layouts)
        _capture(root, layouts, found, order)
    _write(root, surveyed, layouts, progress)


def _check_imported(root: zarr.Group) -> None:
    if not isinstance(root.attrs.get(KEY), dict):
        raise RunError(
            "There is a run already, which was recorded and not imported",
            mend="Choose another path for the checkpoints",
        )


def _complete(root: zarr.Group) -> bool:
    group = checked.group(root, "objective")
    return group is not None and group.attrs.get("complete") is True


# -- looking at all of them ------------------------------------------------------------------------------------------
def _survey(
    named: Sequence[Source], steps: Sequence[int] | None, layouts: Layouts | None
) -> tuple[list[_Surveyed], Layouts]:
    """The checkpoints in order of their steps, all of which fit the layouts; what is odd about them is a warning.

    Raises
    ------
    CheckpointError
        one does not fit, or steps are not known.
    """
    facts, odd = [], _Odd()
    for source in named:
        checkpoint = source.open()
        facts.append(checkpoint.facts)
        if layouts is not None:
            odd.add(find(checkpoint, layouts))
        del checkpoint  # and with it what was read of a file that is no archive
    numbers = steps_of([s.name for s in named], [s.labels for s in named], facts, steps)
    groups = max(max(len(fact.learning_rate), len(fact.momentum)) for fact in facts)
    looked = [_Surveyed(s, n, padded(f, groups)) for s, n, f in zip(named, numbers, facts, strict=True)]
    found = sorted(looked, key=lambda each: each.step)
    if layouts is None:
        layouts = Layouts.of_checkpoint(found[0].source.open())
        for each in found:
            odd.add(find(each.source.open(), layouts))
        layouts = layouts.widened(odd.kinds)
    odd.tell(layouts)
    return found, layouts


class _Odd:
    """What is odd about checkpoints that fit, gathered without keeping them.

    Attributes
    ----------
    kinds
        the type that holds a tensor in every checkpoint, by name.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self._unexpected: dict[str, None] = {}
        self._lacking: set[tuple[str, ...]] = set()

    def add(self, found: Found) -> None:
        """One more."""
        self._unexpected |= dict.fromkeys(found.unexpected)
        self._lacking.add(found.lacking)
        for name, stored in found.stored.items():
            known = self.kinds.setdefault(name, stored.dtype)
            if known != stored.dtype:
                with suppress(RuntimeError, AttributeError):  # types that are not promoted to one another
                    both = torch.promote_types(getattr(torch, known), getattr(torch, stored.dtype))
                    self.kinds[name] = str(both).removeprefix("torch.")

    def tell(self, layouts: Layouts) -> None:
        """Warn of tensors that are left out, of numbers that are rounded, and of tensors that only some have."""
        if self._unexpected:
            warn_of_recording(
                f"The model lacks {len(self._unexpected)} of the checkpoints' tensors, which are left out: "
                f"{listed(list(self._unexpected))}"
            )
        known = {entry.name: entry.dtype for entry in layouts.entries}
        if rounded := [name for name, kind in self.kinds.items() if is_wider(kind, known[name])]:
            warn_of_recording(
                f"The checkpoints hold {listed(rounded)} in a wider type than the model, which rounds the numbers. "
                "Pass the model in the type of the checkpoints to keep them"
            )
        if len(self._lacking) > 1:
            most = max(self._lacking, key=len)
            warn_of_recording(
                f"Some checkpoints lack tensors that others have: {listed(most)}. The model's own are taken"
            )


# -- the run -----------------------------------------------------------------------------------------------------------
def _create(store: RunLike, surveyed: Sequence[_Surveyed], layouts: Layouts, order: _Order) -> zarr.Group:
    first = find(surveyed[0].source.open(), layouts)
    root = create_run(store, {"schedule": {"kind": "imported"}, KEY: {}}, finished=False)
    try:
        TrajectoryWriter.create(
            root,
            layouts.moving,
            layouts.buffers,
            groups=len(surveyed[0].facts.learning_rate),
            checksum=True,
            fixed=to_store(layouts.still, first, layouts.own),
            others=to_store(layouts.others, first, layouts.own),
            fixed_buffers=to_store(layouts.still_buffers, first, layouts.own),
        )
        if order.loss.given:
            _capture(root, layouts, first, order)
        finish_creation(root)
    except BaseException:
        with suppress(LandscapeError):  # the store that refused may refuse this as well; the first trouble is the cause
            clear(store)
        raise
    return root


def _capture(root: zarr.Group, layouts: Layouts, found: Found, order: _Order) -> None:
    """Store the loss, traced with the values of the first checkpoint, as `record` would at the first step."""
    from landscape_hooks.objective.capture import capture

    loss = order.loss
    assert order.model is not None
    data: Any = loss.data
    with loaded(layouts, found):
        capture(root, order.model, criterion=loss.criterion, objective=loss.objective, data=data, samples=loss.samples)


def _write(root: zarr.Group, surveyed: Sequence[_Surveyed], layouts: Layouts, progress: bool) -> None:
    writer = TrajectoryWriter(root)
    out = RowsOut(writer, layouts)
    stored: Any = root.attrs[KEY]
    known = dict(stored)
    todo = [each for each in surveyed if each.step not in writer.steps]
    for each in surveyed:
        if each.step in writer.steps:
            _check_same(each, known.get(str(each.step)), out, writer, layouts)
    if todo and writer.steps and todo[0].step < writer.steps[-1]:
        raise RunError(
            f"{todo[0].source.name} is of step {todo[0].step}, and the run goes to step {writer.steps[-1]} already",
            expected="further checkpoints to be of later steps",
            mend="Import all of them into another run",
        )
    if todo:
        set_closing(root, "recording")
    for each in counted(todo, len(todo), shown=progress and bool(todo), what="import", unit="checkpoint"):
        identity = each.source.identity
        known[str(each.step)] = {"name": each.source.name, **(identity or {})}
        _put(root, known)
        modified = math.nan if identity is None else identity["modified"] / 1e9
        out.write(find(each.source.open(), layouts), each.step, each.facts, modified)
    writer.close()
    if closing_state(checked.fresh(root))[0] == "recording":
        set_closing(root, "unchecked")
    _tell_bad(out.bad)
    if out.changed:
        doubt = integers_in_doubt(list(out.changed))
        add_doubt(root, doubt)
        warn_of_recording(doubt.said)


@writes
def _put(root: zarr.Group, known: dict[str, Any]) -> None:
    root.metadata.attributes.update(checked.fresh(root).attrs)
    put_attribute(root, KEY, known)


def _check_same(each: _Surveyed, known: Any, out: RowsOut, writer: TrajectoryWriter, layouts: Layouts) -> None:
    """A checkpoint that is in the run already is the one that it was: by its files' time and size, or its numbers.

    Raises
    ------
    RunError
        it is another one.
    """
    identity = each.source.identity
    if identity is not None and isinstance(known, Mapping) and all(known.get(k) == v for k, v in identity.items()):
        return
    name = out.differs(find(each.source.open(), layouts), writer.steps.index(each.step))
    if name is not None:
        raise RunError(
            f"The run has a snapshot of step {each.step} already, in which '{name}' differs from {each.source.name}",
            expected="the same checkpoints as before, or further ones",
            mend="Import them into another run",
        )


def _tell_bad(bad: Mapping[int, Sequence[str]]) -> None:
    if bad:
        names = list(dict.fromkeys(name for each in bad.values() for name in each))
        steps = ", ".join(map(str, list(bad)[:4])) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")
        warn_of_recording(
            f"The checkpoint{'s' if len(bad) > 1 else ''} of step {steps} hold{'s' * (len(bad) == 1)} NaN or inf in "
            f"{listed(names)}. The numbers are kept as they are"
        )


__all__ = ["CheckpointError", "import_checkpoints"]
