"""Subject: what a surface is drawn of: the snapshots that count, and the loss under one BatchNorm policy.

In: opened runs, and what analyze() was asked for. Out: trajectories and an Objective that fit together, up to the last
finite snapshots, and the devices on which the loss is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import zarr

from landscape_hooks.analysis.alignment.align import Alignment, alignments
from landscape_hooks.analysis.alignment.aligned import align_runs
from landscape_hooks.analysis.divergence import finite_part
from landscape_hooks.device.memory import TooLittleMemory
from landscape_hooks.errors import LandscapeError, ObjectiveError, first_line
from landscape_hooks.evaluation.engines import Engine, Local, Ray
from landscape_hooks.evaluation.plane_loss import POLICIES, SnapshotLoss, entries_mask
from landscape_hooks.evaluation.sampling import PLACES, Drawn, Measured, choose
from landscape_hooks.evaluation.sources import (
    DataSource,
    ObjectiveLike,
    check_fits,
    check_same_objective,
    named_metric,
    resolve_objective,
)
from landscape_hooks.objective.fixed import of_run
from landscape_hooks.objective.objective import Objective, Statistics
from landscape_hooks.surface.definition import OF_THE_RUN, Divergence
from landscape_hooks.trajectory.joined import Joined, Only
from landscape_hooks.trajectory.selection import Snapshots, names_matching
from landscape_hooks.trajectory.trajectory import Trajectory


@dataclass(frozen=True)
class Subject:
    """What a surface is drawn of.

    Attributes
    ----------
    root
        the group of the first run, in which the surface is stored.
    joined
        the snapshots of all runs that count.
    chosen
        the same and those that are not finite.
    objective
        the loss, on the device where this process computes.
    objective_source, data_source
        where the objective and its data come from, for a later verification.
    policy
        the BatchNorm policy; "none" where there is nothing to choose.
    metrics
        label -> (name, Objective) of what else is computed.
    device
        where the engine's workers compute.
    streamed
        whether origin and directions stay in the run.
    snapshots
        what was chosen of the runs.
    last_step
        the last step of the first run, chosen or not; None where it has none.
    divergence
        what was left out of runs that diverged.
    drawn, every_sample
        which samples the loss is over, and of how many; None where it is over all that were asked for.
    samples_said
        why they are so many.
    alignments
        how the hidden units of each further run are reordered; () where they are not.
    """

    root: zarr.Group
    joined: Joined
    chosen: Joined
    objective: Objective
    objective_source: str
    data_source: str
    policy: str
    metrics: Mapping[str, tuple[str, Objective]]
    device: torch.device
    streamed: bool
    snapshots: Snapshots
    last_step: int | None
    divergence: tuple[Divergence, ...] = field(default=())
    drawn: Drawn | None = None
    every_sample: int | None = None
    samples_said: str = ""
    alignments: tuple[Alignment, ...] = ()

    @classmethod
    def open(
        cls,
        root: zarr.Group,
        joined: Joined,
        engine: Engine,
        options: Local | Ray,
        *,
        snapshots: Snapshots,
        objective: ObjectiveLike | None,
        data: DataSource | None,
        samples: int | None,
        batch_norm: str | None,
        metrics: Sequence[str],
    ) -> Subject:
        """Choose the snapshots, make the loss, and see that they fit together.

        Raises
        ------
        LandscapeError
            they do not, the loss cannot be computed, or there is no finite snapshot.
        """
        first = joined.runs[0].steps
        joined = joined.select([snapshots.places(run.steps, run.label) for run in joined.runs])
        streamed = any(run.sharded for run in joined.runs) if options.stream is None else options.stream
        target = resolve_objective(joined.runs[0], objective, data, samples)
        target = target.without_weights() if streamed else target
        check_fits(joined, target)
        asked = {name.rpartition(":")[2]: (name, named_metric(target, name)) for name in metrics}
        if objective is None and data is None and samples is None:
            check_same_objective(joined, target.digest)
        device = engine.device(options.device)
        here = device if engine.THREADS is None else torch.device("cpu")
        subject = cls(
            root=root,
            joined=joined,
            chosen=joined,
            objective=target.to(here),
            objective_source=source_of(objective),
            data_source=source_of(data),
            policy=policy_of(batch_norm, target),
            metrics=asked,
            device=device,
            streamed=streamed,
            snapshots=snapshots,
            last_step=int(first[-1]) if len(first) else None,
        )
        while True:
            try:
                subject = subject.finite(engine, scan=False)
            except TooLittleMemory:
                smaller = subject.objective.smaller(subject.statistics)
                if smaller is None:
                    raise
                subject = replace(subject, objective=smaller)
            else:
                return subject.aligned(engine) if snapshots.align else subject

    def finite(self, engine: Engine, *, scan: bool) -> Subject:
        """The same up to the last finite snapshots; with `scan` the weights of each of them are looked at."""

        def loss(run: Trajectory, place: int) -> float:
            buffers = run.buffers(slice(place, place + 1))[0]
            return _computed(SnapshotLoss(self.objective, buffers, self.policy), run, place, engine)

        moving = entries_mask(self.objective, ("mean", "var")).numpy() if self.policy == "interpolate" else None
        joined, found = finite_part(self.chosen, loss, scan=scan, counted=moving)
        return replace(self, joined=joined, divergence=found)

    def aligned(self, engine: Engine) -> Subject:
        """The same with each further run's hidden units reordered, so that its end is nearest to the first run's.

        Raises
        ------
        LandscapeError
            there is one run only, workers read the runs themselves, or the loss is not the same then.
        """
        if len(self.joined.runs) < 2:
            raise LandscapeError(
                "Found one run to align", expected="two or more", mend="Name them: landscape-hooks analyze A B --align"
            )
        if engine.PROCESSES is not None:
            raise LandscapeError(
                "The workers of a cluster read the runs as they were recorded, and cannot align them",
                mend="Align on one machine: --engine local",
            )
        found = alignments(self.joined, self.objective, self.statistics, seed=0, progress=False)
        orders = [each.orders for each in found]
        return replace(
            self,
            joined=self.joined.replaced(align_runs(self.joined.runs, orders)),
            chosen=self.chosen.replaced(align_runs(self.chosen.runs, orders)),
            alignments=tuple(found),
        )

    def part(self, origin: int) -> Subject:
        """The same of the tensors that were asked for alone, what else moves being as it is in the row `origin`.

        Raises
        ------
        LayoutError
            none of these tensors moves.
        """
        if not self.snapshots.tensors:
            return self
        run, place = self.joined.place(origin)
        names = names_matching(self.snapshots.tensors, self.joined.layout.names)
        only = Only(tuple(names), run, int(self.joined.runs[run].places[place]))
        joined = self.joined.only(only)
        first = joined.runs[0]
        metrics = {label: (name, of_run(metric, first)) for label, (name, metric) in self.metrics.items()}
        return replace(self, joined=joined, objective=of_run(self.objective, first), metrics=metrics)

    def with_fewer_samples(self, engine: Engine, origin: int, seed: int) -> Subject:
        """The same over as many samples, drawn by `seed`, as the contrast along the first run's path needs.

        `origin` is the row of the snapshot whose running statistics count.
        """
        run, place = self.joined.place(origin)
        buffers = self.joined.runs[run].buffers(slice(place, place + 1))[0]
        first = self.joined.runs[0]
        places = np.unique(np.linspace(0, len(first) - 1, PLACES).round().astype(int)).tolist()

        def measure(part: Objective) -> Measured:
            found = np.full((2, len(places)), np.nan)
            for tile in engine.snapshots(SnapshotLoss(part, buffers, self.policy), first, places):
                found[:, tile.index] = tile.loss, tile.stderr
            return found[0], found[1]

        chosen = choose(self.objective, measure, seed)
        if chosen.drawn is None:
            return replace(self, samples_said=chosen.said)
        metrics = {label: (name, chosen.drawn.of(metric)) for label, (name, metric) in self.metrics.items()}
        return replace(
            self, objective=chosen.drawn.of(self.objective), metrics=metrics, drawn=chosen.drawn,
            every_sample=self.objective.samples, samples_said=chosen.said,
        )  # fmt: skip

    @property
    def statistics(self) -> Statistics:
        """What the objective normalises with under the policy."""
        return POLICIES[self.policy]


def _computed(loss: SnapshotLoss, run: Trajectory, place: int, engine: Engine) -> float:
    """The loss at a snapshot; this is also where a loss that cannot be computed is found, before anything is stored."""
    try:
        (tile,) = engine.snapshots(loss, run, [place])
    except LandscapeError:
        raise
    except Exception as error:
        raise ObjectiveError(
            f"The loss cannot be computed on the probe samples ({type(error).__name__}: {first_line(error)})",
            expected="samples that the model and the criterion take",
            mend="Check --data, or the data and the criterion of --objective",
        ) from error
    return float(tile.loss[0])


def source_of(given: object) -> str:
    """Where an objective or data come from, for a later verification."""
    return OF_THE_RUN if given is None else given if isinstance(given, str) else "given in the call"


def policy_of(batch_norm: str | None, objective: Objective) -> str:
    """The BatchNorm policy that was asked for; "none" for a model without running statistics.

    Raises
    ------
    ObjectiveError
        there is no such policy.
    """
    if batch_norm is not None and batch_norm not in POLICIES:
        raise ObjectiveError(
            f"Found the BatchNorm policy '{batch_norm}'", expected=f"one of {', '.join(list(POLICIES)[:-1])}"
        )
    return (batch_norm or "batch") if objective.has_running_statistics else "none"
