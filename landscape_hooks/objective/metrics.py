"""Metrics: what is drawn beside the loss, at the same points: accuracy, or a loss of the user's own.

In: the analysis's Objective, and names. Out: Objectives again, whose "loss" is the metric. Accuracy is read off the
stored loss graph: the class scores are what its cross-entropy is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.graph.graph import LossGraph, Ref
from landscape_hooks.objective.kernels import GraphKernel
from landscape_hooks.objective.objective import Objective

CLASSIFICATION = ("aten.cross_entropy_loss.default", "aten.nll_loss.default", "aten.nll_loss_nd.default")
IGNORED = -100
"""Torch's default for targets that do not count."""


def metric(objective: Objective, name: str, found: Any = None) -> Objective:
    """The Objective of a metric: "accuracy", or what `found` (the result of "module:function") is.

    Raises
    ------
    ObjectiveError
        the loss is no classification, or what was given is no Objective of the same model.
    """
    if name != "accuracy":
        if not isinstance(found, Objective):
            raise ObjectiveError(f"The metric '{name}' gave a {type(found).__name__}",
                                 expected="a landscape_hooks.Objective whose loss is the metric")  # fmt: skip
        if objective.still or set(found.layout.names) == set(objective.layout.names):
            return found.given(objective.layout, {name: objective.constants[name] for name in objective.still})
        objective.layout.check(found.layout)
        return found
    if not isinstance(objective.kernel, GraphKernel):
        raise ObjectiveError("Accuracy is read off a stored loss graph, and this objective is live code",
                             mend="Give it as --metric module:function")  # fmt: skip
    graph = objective.kernel.graph
    node = next((n for n in reversed(graph.nodes) if n.op in CLASSIFICATION), None)
    if node is None or not all(isinstance(a, Ref) for a in node.args[:2]):
        raise ObjectiveError("The loss is no cross-entropy between class scores and classes",
                             mend="Give the metric by hand: --metric module:function")  # fmt: skip
    scores = LossGraph(graph.inputs, [replace(n) for n in graph.nodes], list(node.args[:2]))
    return objective.with_kernel(AccuracyKernel(scores, objective.kernel.device), per_sample=True)


@dataclass(frozen=True)
class AccuracyKernel(GraphKernel):
    """Share of right answers per sample, from a graph whose results are class scores and targets."""

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Tensor:
        if statistics == "measure":  # only the running statistics are of interest
            super().__call__(state, leaves, statistics=statistics)
            return torch.zeros(0)
        scores, target = super().__call__(state, leaves, statistics=statistics)
        classes = target.argmax(dim=1) if target.is_floating_point() else target
        counts = (classes != IGNORED).to(torch.float64).reshape(len(classes), -1)
        right = (scores.argmax(dim=1 if scores.ndim > 1 else 0) == classes).to(torch.float64).reshape(len(classes), -1)
        return (right * counts).sum(dim=1) / counts.sum(dim=1).clamp_min(1)
