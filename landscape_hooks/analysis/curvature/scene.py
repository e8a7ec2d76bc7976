"""Scene: a run opened for its curvature: the snapshots, and the loss under one BatchNorm policy.

In: a run, and what was asked for. Out: a trajectory whose weights the loss is a function of, and the places of the
snapshots that count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from landscape_hooks.analysis.subject import policy_of, source_of
from landscape_hooks.errors import DivergedError, RunError
from landscape_hooks.evaluation.plane_loss import SnapshotLoss, entries_mask
from landscape_hooks.evaluation.sources import DataSource, ObjectiveLike, check_fits, open_runs, resolve_objective
from landscape_hooks.machine import find_device
from landscape_hooks.objective.fixed import of_run
from landscape_hooks.objective.objective import Objective
from landscape_hooks.store.run import RunLike
from landscape_hooks.trajectory.joined import Only
from landscape_hooks.trajectory.selection import Snapshots, names_matching
from landscape_hooks.trajectory.trajectory import Snapshot, Trajectory

USUAL = 20
"""Snapshots that are taken where nothing is said."""


@dataclass(frozen=True)
class Scene:
    """A run whose loss is going to be differentiated.

    Attributes
    ----------
    root
        the run, writable.
    trajectory
        all snapshots.
    loss
        the loss at snapshots; under the policy "fixed" with the running statistics of `last`.
    places
        (N,) the snapshots that count, among those of `trajectory`.
    last
        the place of the last chosen snapshot that is finite.
    attrs
        what defines the loss, as JSON.
    """

    root: zarr.Group
    trajectory: Trajectory
    loss: SnapshotLoss
    places: NDArray[np.intp]
    last: int
    attrs: dict[str, Any]

    @classmethod
    def open(
        cls,
        store: RunLike,
        *,
        snapshots: int | Snapshots | None,
        samples: int | None,
        batch_norm: str | None,
        objective: ObjectiveLike | None,
        data: DataSource | None,
        device: str | int | torch.device | None,
    ) -> Scene:
        """Open the run and its loss.

        Raises
        ------
        LandscapeError
            there is no such run, snapshot, objective or device, or no finite snapshot.
        """
        chosen = (
            snapshots
            if isinstance(snapshots, Snapshots)
            else Snapshots(count=USUAL if snapshots is None else snapshots)
        )
        root, joined = open_runs([store], chosen.base)
        run = joined.runs[0]
        if samples is not None and not (isinstance(samples, int | np.integer) and samples >= 1):
            raise RunError(f"Found samples={samples!r}", expected="a whole number from 1 on")
        places = chosen.places(run.steps, run.label)
        target = resolve_objective(run, objective, data, samples)
        check_fits(run, target)
        last = _last_finite(run, places, entries_mask(target, ("mean", "var")).numpy())
        if chosen.tensors:
            names = names_matching(chosen.tensors, run.layout.names)
            run = joined.only(Only(tuple(names), 0, last)).runs[0]
            target = of_run(target, run)
        target = target.to(find_device(device))
        loss = SnapshotLoss(target, run.buffers(slice(last, last + 1))[0], policy_of(batch_norm, target))
        attrs = {
            "batch_norm": loss.policy, "samples": int(target.samples), "data_digest": target.digest,
            "objective": source_of(objective), "data": source_of(data), "tensors": list(chosen.tensors),
            "parameters": int(run.layout.size),
        }  # fmt: skip
        return cls(root, run, loss, places, last, attrs)

    @property
    def objective(self) -> Objective:
        """The loss over the probe samples."""
        return self.loss.objective

    def neighbours(self, place: int) -> tuple[Snapshot, Snapshot | None]:
        """The snapshot of a place, and the next one of the run."""
        found = list(self.trajectory.snapshots(range(place, min(place + 2, len(self.trajectory)))))
        return found[0], found[1] if len(found) > 1 else None


def _last_finite(run: Trajectory, places: NDArray[np.intp], counted: NDArray[np.bool_]) -> int:
    """The last of these places whose snapshot has finite weights, and running statistics (`counted` of the buffers).

    Raises
    ------
    DivergedError
        there is none.
    """
    for place in places[::-1].tolist():
        found = run[place]
        if np.isfinite(found.weights).all() and np.isfinite(found.buffers[counted]).all():
            return int(place)
    raise DivergedError(
        "None of the chosen snapshots is finite" if len(places) else "The run has no snapshot",
        expected="at least one finite snapshot",
        mend="Choose earlier ones, or record again, with a smaller learning rate if the training diverged",
    )
