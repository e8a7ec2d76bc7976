"""Recipe: how a process that holds nothing makes the same loss: names, addresses and a few small arrays.

In: what analyze() was given. Out, on a worker of a cluster: the snapshots, and a PlaneLoss that computes the same bits.
The weights, the loss graph and its samples are read from the run there, so no code comes out of a store and
nothing as long as the weights goes through the one that hands out the work.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from landscape_hooks.errors import RunError
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.evaluation.sources import called, import_string, open_runs, resolve_objective
from landscape_hooks.objective.metrics import metric
from landscape_hooks.plane.stored_plane import StoredPlane, stored_plane
from landscape_hooks.store.run import is_local
from landscape_hooks.trajectory.joined import Joined, digest_of


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
    """

    runs: tuple[str, ...]
    objective: Any
    data: Any
    samples: int | None
    digest: str
    folder: str

    @classmethod
    def of(cls, runs: Sequence[Any], joined: Joined, objective: Any, data: Any, samples: int | None) -> Sources:
        """Those of this process.

        Raises
        ------
        RunError
            a run lies in this process's memory.
        """
        return cls(tuple(map(address_of, runs)), objective, data, samples, digest_of(joined), os.getcwd())

    def enter(self) -> None:
        """Look up modules and relative names where the one that hands out the work does, as far as that is here."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
            sys.path.insert(0, self.folder)

    def open(self) -> tuple[Any, Joined]:
        """The first run's group, and the snapshots.

        Raises
        ------
        RunError
            a run is not there, or has other snapshots by now.
        """
        root, joined = open_runs(self.runs, mode="r")
        if digest_of(joined) != self.digest:
            raise RunError(
                "The run has other snapshots here than where the analysis was started",
                expected="a finished run in a folder that all machines share",
                mend="Wait until the training has finished, and analyze again",
            )
        return root, joined


@dataclass(frozen=True)
class Recipe:
    """A PlaneLoss by the names of its parts; `key` tells recipes apart."""

    surface: str
    stream: bool
    policy: str
    metric: str
    plan: Plan
    device: str
    buffers: Any
    buffer_directions: Any
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, loss: PlaneLoss, device: str) -> Recipe:
        """The recipe of a loss, to be computed on `device`."""
        moved = loss.buffer_directions
        return cls(
            surface=loss.surface,
            stream=isinstance(loss.plane, StoredPlane),
            policy=loss.policy,
            metric=loss.metric,
            plan=loss.plan,
            device=device,
            buffers=loss.buffers.cpu().numpy(),
            buffer_directions=None if moved is None else moved.cpu().numpy(),
        )


class Kitchen:
    """The losses that recipes name, made in this process; what they share is made once."""

    def __init__(self, sources: Sources) -> None:
        sources.enter()
        self.sources = sources
        self.root, self.joined = sources.open()
        self._objectives: dict[tuple[str, str], Any] = {}
        self._planes: dict[tuple[str, bool], Any] = {}
        self._latest: tuple[str, Any] = ("", None)

    def loss(self, recipe: Recipe) -> PlaneLoss:
        """The loss that a recipe names."""
        if self._latest[0] != recipe.key:
            self._latest = ("", None)
            objective = self._objective(recipe.metric, recipe.device)
            plane = self._plane(recipe) if recipe.surface else None
            loss = PlaneLoss(objective, plane, recipe.buffers, recipe.policy, recipe.buffer_directions)
            self._latest = (recipe.key, recipe.plan.apply(loss))
        return self._latest[1]

    def _objective(self, name: str, device: str) -> Any:
        if (name, device) not in self._objectives:
            if name:
                made = named_metric(self._objective("", device), name).to(device)
            else:
                own = self.sources
                made = resolve_objective(self.root, own.objective, own.data, own.samples).to(device)
            self._objectives[name, device] = made.hollow() if hasattr(made, "hollow") else made
        return self._objectives[name, device]

    def _plane(self, recipe: Recipe) -> Any:
        key = (recipe.surface, recipe.stream)
        if key not in self._planes:
            self._planes = {key: stored_plane(self.root, *key).to(recipe.device)}
        return self._planes[key]


def named_metric(objective: Any, name: str) -> Any:
    """The Objective of a metric named "accuracy" or "module:function"."""
    return metric(objective, name, called(import_string(name)) if ":" in name else None)


def address_of(run: Any) -> str:
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
