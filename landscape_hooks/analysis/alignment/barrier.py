"""barrier: how far the loss rises on the straight line between the ends of two runs.

B = max over t in [0, 1] of L((1 - t) a + t b) - ((1 - t) L(a) + t L(b))

the error barrier of Frankle et al. 2020 (https://arxiv.org/abs/1912.05671, section 2) in the form of Entezari et al.
2022 (https://arxiv.org/abs/2110.06296, equation 1), of the loss on the probe samples. Two networks are linearly
connected if it is 0 within its error. L is taken with one BatchNorm policy on all of the line, its ends too: running
statistics of one end do not fit the weights between (Jordan et al. 2023, https://arxiv.org/abs/2211.08403), so
"batch" and "recalibrate" are the policies that compare networks; with "interpolate" what is high may be the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.analysis.alignment.align import Alignment, alignments
from landscape_hooks.analysis.alignment.losses import Losses
from landscape_hooks.errors import ObjectiveError, PlaneError
from landscape_hooks.evaluation.base import BaseLike
from landscape_hooks.evaluation.plane_loss import POLICIES, PlaneLoss
from landscape_hooks.evaluation.sources import (
    DataSource,
    ObjectiveLike,
    check_fits,
    check_same_objective,
    open_runs,
    resolve_objective,
)
from landscape_hooks.machine import find_device
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.plane import Plane
from landscape_hooks.progress import Progress
from landscape_hooks.store.run import RunLike
from landscape_hooks.surface.digits import text_of
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.trajectory import Trajectory

Floats = NDArray[np.float64]
Vector = NDArray[np.floating]


PLACES = 25
"""Places on a line, its ends among them."""


@dataclass(frozen=True)
class Barrier:
    """The loss on the line between the ends of two runs.

    Attributes
    ----------
    labels
        the runs.
    t
        (n,) places on the line: 0 is the end of the first run, 1 that of the second.
    loss, loss_stderr
        (n,) the loss there and its standard error.
    excess, excess_stderr
        (n,) how far it lies above the straight line between the losses of the ends, and the standard error of that: of
        the mean of each sample's own difference (NaN where the loss is not known sample by sample or batch by batch).
    batch_norm
        the BatchNorm policy; "none" for a model without running statistics.
    samples
        probe samples.
    aligned, alignment
        whether the second run was reordered, and how (None where that is not known here).
    """

    labels: tuple[str, str]
    t: Floats
    loss: Floats
    loss_stderr: Floats
    excess: Floats
    excess_stderr: Floats
    batch_norm: str
    samples: int
    alignment: Alignment | None = field(default=None)
    aligned: bool = False

    @property
    def highest(self) -> int:
        """Which of the places is the highest; one without a number counts as such."""
        return int(np.argmax(self.excess))

    @property
    def height(self) -> float:
        """The barrier: the largest excess; NaN or inf where the loss is that on the line."""
        return float(self.excess[self.highest])

    @property
    def stderr(self) -> float:
        """The standard error of `height`. That the largest of many was taken is not in it."""
        return float(self.excess_stderr[self.highest])

    @property
    def at(self) -> float:
        """The place of the highest point."""
        return float(self.t[self.highest])

    @property
    def said(self) -> str:
        """In a sentence."""
        error = f" ± {self.stderr:.2g}" if np.isfinite(self.stderr) else ""
        how = ", its hidden units reordered" if self.aligned else ""
        step = self.stderr / 2 if self.stderr > 0 else np.inf
        ends = f"from {text_of(float(self.loss[0]))} to {text_of(float(self.loss[-1]))}"
        rounding = 1e-6 * float(np.abs(self.loss[[0, -1]]).max())
        none = self.height <= rounding + 2 * (self.stderr if np.isfinite(self.stderr) else 0.0)
        return (
            f"Barrier between the ends of {self.labels[0]} and {self.labels[1]}{how}: {text_of(self.height, step)}"
            f"{error} above the straight line between their losses ({ends}), highest at t = {self.at:.3g} of "
            f"{len(self.t)} places{'; that is none within its error' if none else ''}."
        )


def barrier(
    a: RunLike,
    b: RunLike,
    *,
    points: int = PLACES,
    align: bool = False,
    batch_norm: str | None = None,
    objective: ObjectiveLike | None = None,
    data: DataSource | None = None,
    samples: int | None = None,
    base: BaseLike | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Barrier:
    """The loss barrier on the line between the final snapshots of two runs. Nothing is written.

    Parameters
    ----------
    a, b
        two runs of one model: paths, URLs, Zarr stores or groups.
    points
        places on the line, the two ends among them.
    align
        reorder the hidden units of `b` first, so that it lies nearest to `a` (`landscape_hooks.align`).
    batch_norm
        "batch", "recalibrate" or "interpolate". Left out: "batch" where the model has running statistics.
    objective, data, samples, base
        as for `analyze`.
    device
        where the loss is computed; None is the GPU where there is one.
    seed
        of the alignment.
    progress
        say on the standard error stream how far it is.

    Raises
    ------
    LandscapeError
        the runs are not of one model, the loss cannot be computed, or they cannot be aligned.
    """
    _, joined = open_runs([a, b], base, mode="r")
    loss = resolve_objective(joined.runs[0], objective, data, samples)
    check_fits(joined, loss)
    if objective is None and data is None and samples is None:
        check_same_objective(joined, loss.digest)
    policy = _policy(batch_norm, loss)
    found = alignments(joined, loss, POLICIES[policy], seed=seed, progress=progress)[0] if align else None
    return measured(joined, loss.to(find_device(device)), policy, points=points, progress=progress, alignment=found)


def measured(
    joined: Joined,
    objective: Objective,
    policy: str,
    *,
    points: int,
    progress: bool,
    alignment: Alignment | None = None,
    aligned: bool = False,
) -> Barrier:
    """The barrier between the ends of the first two runs; with an alignment, the second one's reordered end.

    `aligned` says that the runs are reordered as they are given.
    """
    if not isinstance(points, int) or points < 3:
        raise PlaneError(f"Found points={points!r}", expected="a whole number from 3 on: the ends and a place between")
    one, other = (run[len(run) - 1] for run in joined.runs[:2])
    ends = [(one.weights, one.buffers), (other.weights, other.buffers)]
    if alignment is not None:
        ends[1] = alignment.weights, alignment.buffers
    line = _Line(objective, policy, *ends)
    t = np.linspace(0, 1, points)
    with Progress(progress, points, "barrier", "loss") as tick:
        losses = []
        for share in t:
            losses.append(line.at(float(share)))
            tick(1)
    above = np.array([each.above(losses[0], losses[-1], float(share)) for each, share in zip(losses, t, strict=True)])
    above[[0, -1], 0] = np.where(np.isfinite(above[[0, -1], 0]), 0.0, above[[0, -1], 0])  # by definition, not by sums
    means = np.array([each.mean() for each in losses])
    return Barrier(
        labels=(_label(joined.runs[0], 0), _label(joined.runs[1], 1)), t=t, loss=means[:, 0], loss_stderr=means[:, 1],
        excess=above[:, 0], excess_stderr=above[:, 1], batch_norm=policy, samples=objective.samples,
        alignment=alignment, aligned=aligned or alignment is not None,
    )  # fmt: skip


class _Line:
    """The losses on the line between two networks under one BatchNorm policy."""

    def __init__(
        self, objective: Objective, policy: str, one: tuple[Vector, Vector], other: tuple[Vector, Vector]
    ) -> None:
        self._objective, self._policy = objective, policy
        difference = [b - a for a, b in zip(one, other, strict=True)]
        if not np.isfinite(difference[0]).all():
            raise PlaneError(
                "An end of the line holds NaN or infinite weights",
                expected="finite ends",
                mend="Compare runs that did not diverge",
            )
        self._still = not difference[0].any()  # the same network twice makes no plane
        moves = np.stack([difference[0], np.zeros_like(difference[0])])
        plane = Plane(one[0], moves if not self._still else np.stack([np.ones_like(one[0]), np.zeros_like(one[0])]))
        moved = np.stack([difference[1], np.zeros_like(difference[1])]) if policy == "interpolate" else None
        self._loss = PlaneLoss(objective, plane.to(objective.device), one[1], policy, moved)

    def at(self, share: float) -> Losses:
        """Those at t = `share`."""
        place = 0.0 if self._still else share
        weights = self._loss.plane.point(place, 0.0)
        return Losses.at(self._objective, weights, self._loss.buffers_at(share, 0.0), POLICIES[self._policy])


def _label(run: Trajectory, number: int) -> str:
    return run.label or f"run {number}"


def _policy(batch_norm: str | None, objective: Objective) -> str:
    known = ("batch", "recalibrate", "interpolate")
    if batch_norm is not None and batch_norm not in known:
        raise ObjectiveError(
            f"Found the BatchNorm policy '{batch_norm}' on the line between two networks",
            expected=f"one of {', '.join(known)}",
            mend="The running statistics of one end are not those of the other" if batch_norm == "fixed" else "",
        )
    return (batch_norm or "batch") if objective.has_running_statistics else "none"
