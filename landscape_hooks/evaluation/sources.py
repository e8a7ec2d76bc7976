"""Sources: what an analysis starts from: the runs, the objective, the probe data, the device.

In: paths, import strings, objects. Out: Trajectories and an Objective that fit together, or an error that says
what does not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr
from zarr.storage import LocalStore

from landscape_hooks.errors import ObjectiveError, RunError
from landscape_hooks.evaluation.base import BaseLike, open_base
from landscape_hooks.evaluation.imports import called, import_string
from landscape_hooks.evaluation.sampling import Drawn
from landscape_hooks.evaluation.trial import try_apart
from landscape_hooks.objective.data.samples import DataLike
from landscape_hooks.objective.fixed import of_run
from landscape_hooks.objective.metrics import metric
from landscape_hooks.objective.objective import Objective
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, is_local, open_run
from landscape_hooks.trajectory.joined import Joined, digest_of
from landscape_hooks.trajectory.trajectory import Trajectory

ObjectiveLike = Objective | Callable[[], object] | str
"""An Objective, a function without arguments that returns one, or "module:function"."""

DataSource = DataLike | Callable[[], object] | str
"""Data as `record` takes it, a function without arguments that returns such, or "module:function"."""


def open_runs(
    runs: Sequence[RunLike], base: BaseLike | None = None, *, mode: Literal["r", "r+"] = "r+"
) -> tuple[zarr.Group, Joined]:
    """The first run's group, writable if not said otherwise, and the snapshots of all runs.

    `base` gives the tensors that they have by reference, see `landscape_hooks.evaluation.base`.

    Raises
    ------
    RunError
        one of them is no run, or was named twice.
    LayoutError
        they are not of the same parameters.
    """
    root = open_run(runs[0], mode=mode)
    if len({str(run) for run in runs}) < len(runs):
        raise RunError("A run was named twice", expected="different runs")
    tensors = None if base is None else open_base(base)
    return root, Joined([Trajectory.open(run, tensors) for run in runs])


def check_same_objective(joined: Joined, digest: str) -> None:
    """Runs on one surface were recorded with the same probe samples (a run without an objective is let pass).

    Raises
    ------
    ObjectiveError
        they were not.
    """
    for part in joined.runs[1:]:
        theirs = checked.group(part.root, "objective/data")
        stored = theirs.attrs.get("digest") if theirs is not None else digest
        if stored != digest:
            raise ObjectiveError(
                f"The run '{part.label}' was recorded with other probe samples than '{joined.runs[0].label}'",
                expected="the same objective for all runs on one surface",
                mend="Say which one counts: --objective module:function, or --data module:function",
            )


def resolve_objective(
    trajectory: Trajectory, objective: ObjectiveLike | None, data: DataSource | None, samples: int | Drawn | None
) -> Objective:
    """The Objective to use: given, named by an import string, or the run's own; over other data where given.

    It is a function of the weights of `trajectory`, the (first) run that is drawn.
    """
    given: object = import_string(objective) if isinstance(objective, str) else objective
    if given is None:
        given = Objective.load(trajectory.root, trajectory.whole)
        try_apart(given, trajectory.whole)
    elif callable(given) and not isinstance(given, Objective):
        given = called(given)
    if not isinstance(given, Objective):
        raise ObjectiveError(
            f"Found an objective of type {type(given).__name__}",
            expected="a landscape_hooks.Objective, or a function without arguments that returns one",
        )
    found = of_run(given, trajectory)
    drawn, count = (samples, None) if isinstance(samples, Drawn) else (None, samples)
    if data is not None:
        found = found.with_data(_resolve_data(data), count or found.samples)
    elif count is not None and count < found.samples:
        found = found.head(count)
    return found if drawn is None else drawn.of(found)


def _resolve_data(data: DataSource) -> DataLike:
    found: Any = import_string(data) if isinstance(data, str) else data
    return called(found) if callable(found) and not hasattr(found, "__iter__") else found


def check_fits(trajectory: Trajectory | Joined, objective: Objective) -> None:
    """The objective's model has the run's parameters and buffers."""
    trajectory.layout.check(objective.layout)
    trajectory.buffer_layout.check(objective.buffer_layout)


@dataclass(frozen=True)
class Sources:
    """What an analysis starts from, as another process finds it.

    Attributes
    ----------
    runs
        paths or URLs.
    objective, data, samples
        as analyze() takes them; a live object is sent as it is.
    digest
        which snapshots the runs have (`filling.digest_of`).
    folder
        where relative names and modules are looked up.
    base
        what gives the tensors that the runs have by reference.
    """

    runs: tuple[str, ...]
    objective: ObjectiveLike | None
    data: DataSource | None
    samples: int | None
    digest: str
    folder: str
    base: BaseLike | None = None

    @classmethod
    def of(
        cls,
        runs: Sequence[RunLike],
        joined: Joined,
        objective: ObjectiveLike | None,
        data: DataSource | None,
        samples: int | None,
        base: BaseLike | None = None,
    ) -> Sources:
        """Those of this process.

        Raises
        ------
        RunError
            a run lies in this process's memory.
        """
        return cls(tuple(map(address_of, runs)), objective, data, samples, digest_of(joined), os.getcwd(), base)

    def enter(self) -> None:
        """Look up modules and relative names where the one that hands out the work does, as far as that is here."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
            sys.path.insert(0, self.folder)

    def open(self) -> tuple[zarr.Group, Joined]:
        """The first run's group, and the snapshots.

        Raises
        ------
        RunError
            a run is not there, or has other snapshots by now.
        """
        root, joined = open_runs(self.runs, self.base, mode="r")
        if digest_of(joined) != self.digest:
            raise RunError(
                "The run has other snapshots here than where the analysis was started",
                expected="a finished run in a folder that all machines share",
                mend="Wait until the training has finished, and analyze again",
            )
        return root, joined


def named_metric(objective: Objective, name: str) -> Objective:
    """The Objective of a metric named "accuracy" or "module:function"."""
    return metric(objective, name, called(import_string(name)) if ":" in name else None)


def address_of(run: RunLike) -> str:
    """A path or URL under which other processes find the run.

    Raises
    ------
    RunError
        it lies in this process's memory.
    """
    if isinstance(run, zarr.Group) and isinstance(run.store, LocalStore):
        return str(Path(run.store.root, run.path).absolute())
    if isinstance(run, LocalStore):
        return str(Path(run.root).absolute())
    if isinstance(run, str | os.PathLike):
        address = str(run)
        if is_local(address):
            return str(Path(address).absolute())
        if not address.startswith("memory:"):
            return address
    raise RunError(
        f"Workers in other processes cannot read {run}",
        expected="a path in a folder that all machines share, or the URL of an object store",
        mend="Record into such a store, or analyze with --engine local",
    )
