"""Recipe: how a process that holds nothing makes the same loss: names, addresses and a few small arrays.

In: what analyze() was given. Out, on a worker of a cluster: the snapshots, and a PlaneLoss that computes the same bits.
The weights, the loss graph and its samples are read from the run there, so no code comes out of a store and
nothing as long as the weights goes through the one that hands out the work.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss, SnapshotLoss
from landscape_hooks.evaluation.sources import (
    Sources,
    named_metric,
    resolve_objective,
)
from landscape_hooks.plane.stored_plane import StoredPlane, stored_plane
from landscape_hooks.trajectory.joined import Joined, Only


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
    part: Only | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, loss: SnapshotLoss, device: str) -> Recipe:
        """The recipe of a loss, to be computed on `device`."""
        moved = loss.buffer_directions if isinstance(loss, PlaneLoss) else None
        return cls(
            surface=loss.surface,
            stream=isinstance(loss, PlaneLoss) and isinstance(loss.plane, StoredPlane),
            policy=loss.policy,
            metric=loss.metric,
            plan=loss.plan,
            device=device,
            buffers=loss.buffers.cpu().numpy(),
            buffer_directions=None if moved is None else moved.cpu().numpy(),
            part=loss.part,
        )


class LossFactory:
    """The losses that recipes name, made in this process; what they share is made once."""

    def __init__(self, sources: Sources) -> None:
        sources.enter()
        self.sources = sources
        self.root, self.joined = sources.open()
        self._objectives: dict[tuple[str, str, Only | None], Any] = {}
        self._parts: dict[Only, Joined] = {}
        self._planes: dict[tuple[str, bool], Any] = {}
        self._latest: tuple[str, Any] = ("", None)

    def of_part(self, part: Only | None) -> Joined:
        """The snapshots, of a part of the network where one is drawn."""
        if part is None:
            return self.joined
        if part not in self._parts:
            self._parts = {part: self.joined.only(part)}
        return self._parts[part]

    def loss(self, recipe: Recipe) -> PlaneLoss:
        """The loss that a recipe names."""
        if self._latest[0] != recipe.key:
            self._latest = ("", None)
            objective = self._objective(recipe.metric, recipe.device, recipe.part)
            if recipe.surface:
                given = recipe.buffers, recipe.policy, recipe.buffer_directions
                self._latest = (recipe.key, recipe.plan.apply(PlaneLoss(objective, self._plane(recipe), *given)))
            else:
                loss = SnapshotLoss(objective, recipe.buffers, recipe.policy)
                self._latest = (recipe.key, recipe.plan.apply(loss))
        return self._latest[1]

    def _objective(self, name: str, device: str, part: Only | None) -> Any:
        key = name, device, part
        if key not in self._objectives:
            if name:
                made = named_metric(self._objective("", device, part), name).to(device)
            else:
                own, first = self.sources, self.of_part(part).runs[0]
                made = resolve_objective(first, own.objective, own.data, own.samples).to(device)
            self._objectives[key] = made.without_weights()
        return self._objectives[key]

    def _plane(self, recipe: Recipe) -> Any:
        key = (recipe.surface, recipe.stream)
        if key not in self._planes:
            self._planes = {key: stored_plane(self.root, *key).to(recipe.device)}
        return self._planes[key]
