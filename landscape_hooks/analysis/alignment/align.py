"""align: the permutation of hidden units that brings one run's end nearest to another's.

A network computes the same if the hidden units of a layer are reordered and the weights that lead to and from them
with them. Two trained networks may so be nearer to each other than their weights look. In: two runs. Out: an
`Alignment`: what was reordered, how near the ends are now, and that the loss is still the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.analysis.alignment.aligned import AlignedTrajectory, Orders
from landscape_hooks.analysis.alignment.axes import Indices
from landscape_hooks.analysis.alignment.losses import Losses
from landscape_hooks.analysis.alignment.matching import blocks, match
from landscape_hooks.analysis.alignment.symmetry import symmetry_of
from landscape_hooks.errors import LandscapeError, ObjectiveError
from landscape_hooks.evaluation.base import BaseLike
from landscape_hooks.evaluation.sources import (
    DataSource,
    check_fits,
    check_same_objective,
    open_runs,
    resolve_objective,
)
from landscape_hooks.objective.objective import Objective, Statistics
from landscape_hooks.progress import Progress
from landscape_hooks.store.run import RunLike
from landscape_hooks.surface.digits import text_of
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.trajectory import Snapshot, Trajectory

ROUNDING = {"float64": 1e-9, "bfloat16": 5e-2, "float16": 5e-2}
OF_FLOAT32 = 1e-3
"""How much the loss of a sample may change, relative to it and to the mean, by the coarsest type of the weights."""

SHOWN = 4
"""Operations that a sentence names."""


@dataclass(frozen=True)
class Group:
    """Units that are reordered together: the first tensor and dimension they number, how many, how many moved."""

    name: str
    size: int
    moved: int


@dataclass(frozen=True)
class Alignment:
    """How a run's hidden units are reordered.

    Attributes
    ----------
    label, to
        the run that is reordered, and the one it is brought near to.
    groups
        what may be reordered in this network, and how much of it was.
    distance, distance_before
        between the two ends, as they are now and as they were.
    loss, loss_before
        of the reordered end and of the end as recorded; the same up to rounding, or there is no `Alignment`.
    not_understood
        operations of the loss through which axes could not be followed: what goes into them stays in its order.
    weights, buffers
        (D,) and (B,) of the reordered end.
    orders
        name of a tensor -> (size,) which of its numbers comes at each place.
    """

    label: str
    to: str
    groups: tuple[Group, ...]
    distance: float
    distance_before: float
    loss: float
    loss_before: float
    not_understood: tuple[str, ...]
    weights: NDArray[np.floating] = field(repr=False, compare=False)
    buffers: NDArray[np.floating] = field(repr=False, compare=False)
    orders: Orders = field(repr=False, compare=False)

    @property
    def moved(self) -> int:
        """How many units have another place."""
        return sum(group.moved for group in self.groups)

    @property
    def digest(self) -> str:
        """SHA-256 of the permutations."""
        total = hashlib.sha256()
        for name in sorted(self.orders):
            total.update(name.encode() + np.ascontiguousarray(self.orders[name], dtype=np.int64).tobytes())
        return total.hexdigest()

    @property
    def said(self) -> list[str]:
        """In sentences."""
        units = sum(group.size for group in self.groups)
        before = f"before {text_of(self.distance_before, abs(self.distance_before - self.distance) / 10)}"
        said = [
            f"{self.label}: {self.moved} of {units} hidden units in {len(self.groups)} groups are reordered, so that "
            f"its end lies nearest to that of {self.to}: distance {text_of(self.distance)}, {before}. Its loss is "
            f"unchanged by that ({text_of(self.loss_before)})."
        ] if self.groups else [f"{self.label}: nothing in this network can be reordered."]  # fmt: skip
        if self.not_understood:
            names, more = ", ".join(self.not_understood[:SHOWN]), len(self.not_understood) - SHOWN
            said.append(
                f"What goes into {names}{f' and {more} more' if more > 0 else ''} stays in its order: the permutations "
                "that these operations allow are not known."
            )
        return said


def align(
    a: RunLike,
    b: RunLike,
    *,
    data: DataSource | None = None,
    samples: int | None = None,
    base: BaseLike | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Alignment:
    """Reorder the hidden units of run `b` so that its end is as near to that of run `a` as weight matching brings it.

    Which axes of the tensors may be reordered together is read off the loss graph that run `a` carries; the
    permutations are those of weight matching (Ainsworth et al. 2023, https://arxiv.org/abs/2209.04836). Nothing is
    written.

    Parameters
    ----------
    a, b
        two runs of one model: paths, URLs, Zarr stores or groups.
    data, samples, base
        as for `analyze`, to check that the loss is the same.
    seed
        of the order in which the groups take turns.
    progress
        say on the standard error stream how far it is.

    Returns
    -------
    Alignment
        with the reordered `weights` and `buffers`. `Snapshots(align=True)` draws a surface with them.

    Raises
    ------
    LandscapeError
        the runs are not of one model, run `a` carries no loss graph, an end is not finite, or the reordered network has
        another loss.
    """
    _, joined = open_runs([a, b], base, mode="r")
    objective = resolve_objective(joined.runs[0], None, data, samples)
    check_fits(joined, objective)
    if data is None and samples is None:
        check_same_objective(joined, objective.digest)
    return alignments(joined, objective, "batch", seed=seed, progress=progress)[0]


def alignments(
    joined: Joined, objective: Objective, statistics: Statistics, *, seed: int, progress: bool
) -> list[Alignment]:
    """The alignment of each run but the first to the first one."""
    objective = objective.to("cpu")
    first = joined.runs[0]
    one = _end(first)
    symmetry = symmetry_of(objective, *_tensors(one))
    mine = _by_name(objective, one.weights)
    found = []
    for run in joined.runs[1:]:
        other = _end(run)
        made = blocks(symmetry.axes, mine, _by_name(objective, other.weights))
        groups = [group for group in symmetry.groups if any(block.places(group) for block in made)]
        with Progress(progress, 0, f"matching {run.label}", "assignment") as tick:
            permutations = match(groups, made, seed, lambda: tick(1))
        orders: dict[str, Indices] = {}
        for layout in (objective.layout, objective.buffer_layout):
            for entry in layout:
                axes = symmetry.orders(entry.name, permutations)
                if axes is not None:
                    orders[entry.name] = np.arange(entry.size).reshape(entry.shape)[np.ix_(*axes)].ravel()
        found.append(_Check(objective, statistics).checked(
            run, first, orders,
            groups=tuple(
                Group(symmetry.where(g), g.size, int((p != np.arange(g.size)).sum())) for g, p in permutations.items()
            ),
            not_understood=symmetry.not_understood,
        ))  # fmt: skip
    return found


@dataclass(frozen=True)
class _Check:
    """Sees that a network is the same when it is reordered."""

    objective: Objective
    statistics: Statistics

    def checked(
        self, run: Trajectory, to: Trajectory, orders: Orders, *, groups: tuple[Group, ...],
        not_understood: tuple[str, ...],
    ) -> Alignment:  # fmt: skip
        """The alignment, if the loss of the run's first and last snapshot is unchanged by it."""
        moved, losses = AlignedTrajectory.of(run, orders), (0.0, 0.0)
        for place in sorted({0, len(run) - 1}):
            before, after = (
                Losses.at(self.objective, *_tensors(each[place]), self.statistics) for each in (run, moved)
            )
            losses = before.mean()[0], after.mean()[0]
            if not self._same(before, after):
                raise LandscapeError(
                    f"With its hidden units reordered, the network of {run.label} has another loss at step "
                    f"{int(run.steps[place])}: {losses[1]:.8g}, before {losses[0]:.8g}",
                    expected="the same up to rounding",
                    mend="Analyze without --align; the axes of an operation of this loss were followed wrongly",
                )
        one, end, now = to[len(to) - 1].weights, run[len(run) - 1].weights, moved[len(run) - 1]
        return Alignment(
            label=run.label or "the run", to=to.label or "the first run", groups=groups,
            distance=_distance(one, now.weights), distance_before=_distance(one, end),
            loss=losses[1], loss_before=losses[0], not_understood=not_understood,
            weights=now.weights, buffers=now.buffers, orders=orders,
        )  # fmt: skip

    def _same(self, before: Losses, after: Losses) -> bool:
        kinds = {entry.dtype for entry in self.objective.layout}
        bound = max(ROUNDING.get(kind, OF_FLOAT32) for kind in kinds)
        one, other = before.values.numpy(), after.values.numpy()
        finite = np.isfinite(one)
        size = np.abs(one[finite])
        near = np.abs(one[finite] - other[finite]) <= bound * (size + size.mean() if size.size else 0.0) + 1e-9
        return bool(near.all()) and bool(np.array_equal(one[~finite], other[~finite], equal_nan=True))


def _end(run: Trajectory) -> Snapshot:
    """The last snapshot, whose weights are finite."""
    if not len(run):
        raise ObjectiveError(f"{run.label} has no snapshot", expected="one at least")
    end = run[len(run) - 1]
    if not np.isfinite(end.weights).all():
        raise ObjectiveError(
            f"The last snapshot of {run.label} (step {end.step}) holds NaN or infinite weights",
            expected="finite ends of the runs that are compared",
            mend="Leave out the snapshots after the training diverged (--to STEP)",
        )
    return end


def _tensors(snapshot: Snapshot) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(snapshot.weights)), torch.from_numpy(
        np.ascontiguousarray(snapshot.buffers)
    )


def _by_name(objective: Objective, weights: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
    return {e.name: weights[e.slice].reshape(e.shape) for e in objective.layout if not e.is_complex}


def _distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - other))


def in_words(found: Sequence[Alignment]) -> str:
    """What a surface is defined by; "" where nothing was reordered."""
    digests = ", ".join(f"{each.label} {each.digest[:16]}" for each in found)
    return f"weight matching to {found[0].to} ({digests})" if found else ""
