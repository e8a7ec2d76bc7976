"""Metrics: what is drawn beside the loss, at the same points: accuracy, or a loss of the user's own.

In: the analysis's Objective, and names. Out: Objectives again, whose "loss" is the metric. Accuracy is read off the
stored loss graph: the class scores are what its cross-entropy is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.graph.graph import LossGraph, Node, Ref, references
from landscape_hooks.objective.graph.weighing import by_name
from landscape_hooks.objective.kernels import GraphKernel
from landscape_hooks.objective.objective import Objective
from landscape_hooks.objective.variants import VariantKernel

CLASSIFICATION = (
    "aten.cross_entropy_loss.default", "aten.nll_loss.default", "aten.nll_loss_nd.default", "aten.nll_loss2d.default",
    "aten.multi_margin_loss.default",
)  # fmt: skip
"""Losses between scores (N, C, ...) and classes (N, ...), or probabilities of classes (N, C, ...)."""

BINARY = {"aten.binary_cross_entropy_with_logits.default": 0.0, "aten.binary_cross_entropy.default": 0.5}
"""Losses of yes or no, of any shape -> the score from which on the answer is yes."""

BY_HAND = "Give the metric by hand: --metric module:function"


def metric(objective: Objective, name: str, found: object = None) -> Objective:
    """The Objective of a metric: "accuracy", or what `found` (the result of "module:function") is.

    Accuracy is the share of right answers among the labels that count in the loss: of all classes the one with the
    highest score, or of each yes-or-no label whether its probability is above one half.

    Raises
    ------
    ObjectiveError
        the loss is no classification or one with several heads, or what was given is no Objective of the same model.
    """
    if name != "accuracy":
        if not isinstance(found, Objective):
            raise ObjectiveError(f"The metric '{name}' gave a {type(found).__name__}",
                                 expected="a landscape_hooks.Objective whose loss is the metric")  # fmt: skip
        if objective.still or set(found.layout.names) == set(objective.layout.names):
            return found.given(objective.layout, {name: objective.constants[name] for name in objective.still})
        objective.layout.check(found.layout)
        return found
    kernel = objective.kernel
    if isinstance(kernel, VariantKernel):
        several: Any = VariantKernel(tuple(map(_accuracy, kernel.kernels)))
        return objective.with_kernel(several, per_sample=objective.per_sample)
    if not isinstance(kernel, GraphKernel):
        raise ObjectiveError("Accuracy is read off a stored loss graph, and this objective is live code",
                             mend="Give it as --metric module:function")  # fmt: skip
    return objective.with_kernel(_accuracy(kernel), per_sample=objective.per_sample)


def _accuracy(kernel: GraphKernel) -> AccuracyKernel:
    """The accuracy of the classification whose loss a graph computes."""
    graph = kernel.graph
    node = _classification(graph)
    arguments = by_name(node)
    first, target = node.args[:2]
    mask = _mask(graph, node, arguments)
    scores = LossGraph(graph.inputs, graph.copy().nodes, [first, target, arguments.get("weight"), mask])
    return AccuracyKernel(scores, kernel.device, threshold=BINARY.get(node.op), ignored=arguments.get("ignore_index"))


def _classification(graph: LossGraph) -> Node:
    """The one operation that compares scores with classes.

    Raises
    ------
    ObjectiveError
        there is none, or several: of several heads, or of one head and several labels.
    """
    nodes = [n for n in _everywhere(graph) if n.op in CLASSIFICATION or n.op in BINARY]
    here = [n for n in nodes if any(n is own for own in graph.nodes) and isinstance(n.args[0], Ref)]
    if not nodes or not here:
        raise ObjectiveError("The loss is no cross-entropy between class scores and classes", mend=BY_HAND)
    if len({repr(n.args[:2]) for n in nodes}) > 1:
        heads = list(dict.fromkeys(_head(graph, n) for n in nodes))
        several = f"{len(heads)} heads" if len(heads) > 1 else f"{len(nodes)} kinds of labels for one head"
        raise ObjectiveError(f"The loss has {several}: {', '.join(heads)}", expected="one head and its labels",
                             mend=BY_HAND)  # fmt: skip
    return here[-1]


def _everywhere(graph: LossGraph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        if node.scope is not None:
            yield from _everywhere(node.scope)


def _head(graph: LossGraph, node: Node) -> str:
    """The layer that the scores of a classification come from: the parameter next to it, without its last name."""
    parameters = {entry.name: entry.target for entry in graph.inputs if entry.kind == "parameter"}
    by_name = {n.name: n for n in graph.nodes}
    waiting, seen = references(node.args[0]), set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in parameters:
            return parameters[name].rpartition(".")[0] or parameters[name]
        if name in by_name and name not in seen:
            seen.add(name)
            waiting += references((by_name[name].args, by_name[name].kwargs))
    return node.op.split(".")[1]


def _mask(graph: LossGraph, node: Node, arguments: Mapping[str, Any]) -> Any:
    """What each label's loss is multiplied by before it is summed up, where that is given by the batch; else None."""
    if arguments.get("reduction") != 0:
        return None
    computed = {entry.name for entry in graph.inputs if entry.kind == "parameter"}
    for n in graph.nodes:
        if computed.intersection(references((n.args, n.kwargs))):
            computed.add(n.name)
    users = [n for n in graph.nodes if n.op == "aten.mul.Tensor" and Ref(node.name) in n.args]
    masks = [a for n in users for a in n.args if isinstance(a, Ref) and a.name not in computed]
    return masks[0] if len(masks) == 1 else None


@dataclass(frozen=True)
class AccuracyKernel(GraphKernel):
    """Share of right answers in each sample and how many labels of it count, from scores, labels, weights and a mask.

    `threshold` is where a score says yes (None: the highest of several scores counts), `ignored` the label that does
    not count. The results are both (n,), for n samples.
    """

    threshold: float | None = None
    ignored: int | None = None

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Any:
        if statistics == "measure":  # only the running statistics are of interest
            super().__call__(state, leaves, statistics=statistics)
            return torch.zeros(0)
        scores, target, weight, mask = super().__call__(state, leaves, statistics=statistics)
        right, counts = self._answers(scores, target, weight)
        if mask is not None:
            counts = counts & (mask.reshape(counts.shape) if mask.numel() == counts.numel() else mask).ne(0)
        rows = (len(counts) if counts.ndim else 1, -1)
        many = counts.to(torch.float64).reshape(rows).sum(dim=1)
        share = (right & counts).to(torch.float64).reshape(rows).sum(dim=1) / many.clamp_min(1)
        return [share, many]

    def _answers(self, scores: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """For each label whether the answer is right, and whether it counts."""
        if self.threshold is not None:
            right = (scores > self.threshold) == (target > 0.5)
            return right, torch.ones_like(right) if weight is None else weight.ne(0).expand(right.shape)
        axis = 1 if scores.ndim > 1 else 0
        if target.is_floating_point():  # probabilities of classes; none at all where a label is missing
            return scores.argmax(axis) == target.argmax(axis), target.sum(axis) > 0
        counts = torch.ones_like(target, dtype=torch.bool) if self.ignored is None else target != self.ignored
        if weight is not None:  # a class without weight is no part of the loss
            counts = counts & weight[torch.where(counts, target, 0)].ne(0)
        return scores.argmax(axis) == target, counts
