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
        )


class LossFactory:
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
            if recipe.surface:
                given = recipe.buffers, recipe.policy, recipe.buffer_directions
                self._latest = (recipe.key, recipe.plan.apply(PlaneLoss(objective, self._plane(recipe), *given)))
            else:
                loss = SnapshotLoss(objective, recipe.buffers, recipe.policy)
                self._latest = (recipe.key, recipe.plan.apply(loss))
        return self._latest[1]

    def _objective(self, name: str, device: str) -> Any:
        if (name, device) not in self._objectives:
            if name:
                made = named_metric(self._objective("", device), name).to(device)
            else:
                own = self.sources
                made = resolve_objective(self.root, own.objective, own.data, own.samples).to(device)
            self._objectives[name, device] = made.without_weights()
        return self._objectives[name, device]

    def _plane(self, recipe: Recipe) -> Any:
        key = (recipe.surface, recipe.stream)
        if key not in self._planes:
            self._planes = {key: stored_plane(self.root, *key).to(recipe.device)}
        return self._planes[key]
