"""PlaneLoss: the loss at points of a plane, and at snapshots, under one BatchNorm policy.

In: an Objective, a Plane and the buffers at its origin. Out: losses and their standard errors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import ObjectiveError, PlaneError
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.objective.objective import Evaluation, Objective, Statistics
from landscape_hooks.plane.plane import Plane
from landscape_hooks.plane.stored_plane import StoredPlane
from landscape_hooks.trajectory.joined import Joined, Only
from landscape_hooks.trajectory.trajectory import Trajectory

Floats = NDArray[np.float64]
Vectors = NDArray[Any] | torch.Tensor

POLICIES: dict[str, Statistics] = {
    "batch": "batch",
    "fixed": "running",
    "interpolate": "running",
    "recalibrate": "recalibrate",
    "none": "running",
}
"""BatchNorm policy -> the statistics the objective normalises with. "none" is a model without running statistics."""


@dataclass(frozen=True)
class Tile:
    """Finished points: indices (n,) into the points asked for, losses (n,) and their standard errors (n,)."""

    index: NDArray[np.intp]
    loss: Floats
    stderr: Floats


class SnapshotLoss:
    """The loss at snapshots, under one BatchNorm policy.

    Parameters
    ----------
    objective
        the Objective.
    buffers
        (B,) buffers at the origin.
    policy
        of the running statistics; other buffers are the origin's on the plane, and at a snapshot its own.
        "batch" (statistics of each probe batch), "fixed" (the origin's running statistics), "interpolate" (running
        statistics move with the weights), "recalibrate" (re-estimated at every point), "none" (a model without running
        statistics).

    Raises
    ------
    ObjectiveError
        a policy that does not exist.
    """

    def __init__(
        self, objective: Objective, buffers: Vectors, policy: str, *, device: torch.device | None = None
    ) -> None:
        if policy not in POLICIES:
            raise ObjectiveError(
                f"Found the BatchNorm policy '{policy}'", expected=f"one of {', '.join(list(POLICIES)[:-1])}"
            )
        self.objective, self.policy = objective, policy
        self.statistics = POLICIES[policy]
        self.plan = Plan()
        self.metric = self.surface = ""
        self.part: Only | None = None
        self.device = torch.device(objective.device) if device is None else device
        self.buffers = torch.as_tensor(buffers).to(self.device)
        self._running = entries_mask(objective, ("mean", "var")).to(self.buffers.device)

    def computed(self, objective: Objective, plan: Plan, *, metric: str | None = None) -> Self:
        """The same loss of another objective (a metric has a name), or by another plan."""
        other = copy.copy(self)
        other.objective, other.plan = objective, plan
        other.metric = self.metric if metric is None else metric
        return other

    def of_snapshot(self, weights: Vectors, buffers: Vectors) -> Evaluation:
        """The Evaluation at a snapshot's own weights (D,) and buffers (B,); see `buffers_of`."""
        mean, stderr = self.measure_snapshot(weights, buffers).tolist()
        return Evaluation(mean, stderr, self.objective.samples)

    def measure_snapshot(self, weights: Vectors, buffers: Vectors) -> torch.Tensor:
        """(2,) loss and standard error of a snapshot itself, left on the device."""
        own = self.buffers_of(torch.as_tensor(buffers).to(self.device))
        return self._measure(torch.as_tensor(weights).to(self.device), own)

    def buffers_of(self, own: torch.Tensor) -> torch.Tensor:
        """(B,) buffers that go with a snapshot whose own are (B,).

        Its own, as spectral norms, codebooks and hand-written normalisations need; but the running statistics are
        those that the policy names: under "fixed" the origin's.
        """
        if self.policy == "interpolate":
            return own
        return torch.where(self._running, self.buffers, own.to(self.buffers))

    def held_at(self, weights: Vectors, buffers: Vectors) -> tuple[torch.Tensor, Statistics]:
        """((B,) buffers, statistics) with which the loss is differentiated at a snapshot.

        Under "recalibrate" the statistics are measured at these weights and then held: only the loss with such
        statistics has derivatives.
        """
        own = self.buffers_of(torch.as_tensor(buffers).to(self.device))
        if self.statistics != "recalibrate":
            return own, self.statistics
        found = own.clone()
        measured = self.objective.measured(torch.as_tensor(weights).to(self.device), own)
        for entry in self.objective.buffer_layout:
            if entry.name in measured:
                found[entry.slice] = measured[entry.name].reshape(-1).to(found)
        return found, "running"

    def _measure(self, weights: torch.Tensor, buffers: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.objective.measure(weights, buffers, statistics=self.statistics)


class PlaneLoss(SnapshotLoss):
    """The loss as a function of plane coordinates, and at snapshots, under one BatchNorm policy.

    Parameters
    ----------
    objective
        the Objective.
    plane
        where alpha and beta lead.
    buffers
        (B,) buffers at the origin.
    policy
        as of `SnapshotLoss`; under "interpolate" running statistics move with the weights' coefficients, variances no
        lower than 0.
    buffer_directions
        (2, B) for "interpolate".
    surface
        the name of the surface in the run that stores the plane, where workers in other processes read it.

    Raises
    ------
    ObjectiveError
        a policy that does not exist.
    PlaneError
        "interpolate" on a plane whose directions are no combinations of snapshots.
    """

    def __init__(
        self,
        objective: Objective,
        plane: Plane | StoredPlane,
        buffers: Vectors,
        policy: str,
        buffer_directions: Vectors | None = None,
        *,
        surface: str = "",
    ) -> None:
        super().__init__(objective, buffers, policy, device=plane.device)
        self.plane, self.surface = plane, surface
        self.buffer_directions = None
        if policy == "interpolate":
            if buffer_directions is None:
                raise no_combinations()
            moved = torch.as_tensor(buffer_directions).to(self.buffers)
            self.buffer_directions = torch.where(self._running, moved, 0.0)
            self._variances = entries_mask(objective, ("var",)).to(self.buffers.device)

    def at(self, alpha: float, beta: float) -> Evaluation:
        """The Evaluation at (alpha, beta)."""
        mean, stderr = self.measure_at(alpha, beta).tolist()
        return Evaluation(mean, stderr, self.objective.samples)

    def measure_at(self, alpha: float, beta: float) -> torch.Tensor:
        """(2,) loss and standard error at (alpha, beta), left on the device."""
        weights = self.plane.point(float(alpha), float(beta))
        return self._measure(weights, self.buffers_at(float(alpha), float(beta)))

    def measure_points(self, points: Vectors) -> torch.Tensor:
        """(N, 2) the same at points (N, 2), as many together as the plan says; nothing waits for the device between.

        The last stack is filled up with its last point, so that every stack goes through the same operations: a
        value does not depend on how many points are left.
        """
        size = self.plan.stack
        if size == 1:
            return torch.stack([self.measure_at(*point) for point in points])
        together = torch.func.vmap(self._measure)
        found = []
        for start in range(0, len(points), size):
            some = [(float(a), float(b)) for a, b in points[start : start + size]]
            full = some + some[-1:] * (size - len(some))
            weights = torch.stack([self.plane.point(*point) for point in full])
            buffers = torch.stack([self.buffers_at(*point) for point in full])
            found.append(together(weights, buffers)[: len(some)])
        return torch.cat(found)

    def buffers_at(self, alpha: float, beta: float) -> torch.Tensor:
        """(B,) buffers that go with the weights at (alpha, beta)."""
        if self.buffer_directions is None:
            return self.buffers
        moved = self.buffers + alpha * self.buffer_directions[0] + beta * self.buffer_directions[1]
        return torch.where(self._variances, moved.clamp_min(0.0), moved)

    def clamped(self, points: Floats) -> NDArray[np.bool_]:
        """(N,) whether at points (N, 2) an interpolated variance lies below 0, and is held there."""
        found = np.zeros(len(points), dtype=bool)
        if self.buffer_directions is not None:
            variances = self.buffers[self._variances].cpu().numpy()
            moves = self.buffer_directions[:, self._variances].cpu().numpy()
            for i in range(0, len(points), 64):
                found[i : i + 64] = (variances + points[i : i + 64] @ moves < 0).any(axis=1)
        return found


def no_combinations() -> PlaneError:
    """The error of a plane on which running statistics cannot be interpolated."""
    return PlaneError(
        "The directions of this plane are no combinations of snapshots",
        expected="--directions pca or points for --batch-norm interpolate",
        mend="Choose --batch-norm fixed, batch or recalibrate",
    )


def buffer_directions(trajectory: Joined, coefficients: Floats, origin: NDArray[Any]) -> Floats:
    """(2, B) the directions' combinations of snapshots, taken of the buffers; `origin` (B,) are those at the origin."""
    total = np.zeros((2, len(origin)))
    at_once = max(1, 2**22 // max(1, len(origin)))
    wanted = np.flatnonzero(coefficients.any(axis=0))
    for first in range(wanted.min(initial=0), wanted.max(initial=-1) + 1, at_once):
        rows = slice(first, min(first + at_once, len(trajectory)))
        with np.errstate(invalid="ignore"):  # a mask that holds -inf, which moves nowhere
            moved = np.asarray(trajectory.buffers(rows), dtype=float) - np.asarray(origin, dtype=float)
        total += coefficients[:, rows] @ moved
    return total


def moving_buffers(objective: Objective, trajectories: Iterable[Trajectory]) -> tuple[str, ...]:
    """Names of the buffers that are no running statistics and that differ between the snapshots of a trajectory."""
    others = [e for e in objective.buffer_layout.entries if e.name not in objective.running_statistics]
    moving: set[str] = set()
    for trajectory in trajectories:
        left = [entry for entry in others if entry.name not in moving.union(trajectory.still_buffers)]
        if not left or not len(trajectory):
            continue
        first = np.asarray(trajectory.buffers(slice(0, 1)))[0]
        for row in range(1, len(trajectory)):
            now = np.asarray(trajectory.buffers(slice(row, row + 1)))[0]
            moving |= {e.name for e in left if not np.array_equal(now[e.slice], first[e.slice], equal_nan=True)}
            left = [entry for entry in left if entry.name not in moving]
            if not left:
                break
    return tuple(entry.name for entry in others if entry.name in moving)


def entries_mask(objective: Objective, kinds: tuple[str, ...]) -> torch.Tensor:
    """(B,) True where a buffer entry is a running statistic of one of the kinds."""
    mask = torch.zeros(objective.buffer_layout.size, dtype=torch.bool)
    for entry in objective.buffer_layout.entries:
        if objective.running_statistics.get(entry.name) in kinds:
            mask[entry.offset : entry.offset + entry.size] = True
    return mask
