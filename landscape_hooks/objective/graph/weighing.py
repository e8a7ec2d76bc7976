"""Weighing: by what a loss weighs a batch, read off its graph, so that a mean over batches is the loss of all samples.

In: a LossGraph whose result is one number a batch. Out: the same graph with further results: what the loss divides by.
A cross-entropy divides by the labels that count (each with its class's weight), a mean by its elements, a masked sum
by its mask's; a sum divides by nothing, so that each batch counts once. With weight wᵦ and loss Lᵦ of batch b the loss
of all of them together is Σ wᵦLᵦ / Σ wᵦ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape_hooks.objective.graph.graph import LossGraph, Node, Ref, references

if TYPE_CHECKING:
    from landscape_hooks.objective.probe import Probe

_SAME_VALUE = {
    f"aten.{name}"
    for name in (
        *("view.default", "reshape.default", "squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default"),
        *("clone.default", "contiguous.default", "alias.default", "detach.default", "flatten.using_ints"),
        *("_to_copy.default", "to.dtype", "to.device", "to.dtype_layout", "type_as.default", "neg.default"),
    )
}
_CLASSES = {
    "aten.cross_entropy_loss.default", "aten.nll_loss.default", "aten.nll_loss_nd.default", "aten.nll_loss2d.default",
}  # fmt: skip
# losses with a reduction -> the argument whose elements their mean is over
_COUNTED = {
    **dict.fromkeys(
        ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "soft_margin_loss", "kl_div",
         "binary_cross_entropy_with_logits", "hinge_embedding_loss", "poisson_nll_loss", "triplet_margin_loss"), 0
    ),
    **dict.fromkeys(("multi_margin_loss", "multilabel_margin_loss"), 1),
    **dict.fromkeys(("cosine_embedding_loss", "margin_ranking_loss"), 2),
}  # fmt: skip
_PARTS = ("operator.getitem", "aten.slice.", "aten.select.", "aten.narrow.", "aten.index_select.")
_RANKED = ("aten.topk.", "aten.sort.", "aten.kthvalue.", "aten.median.", "aten.msort.")
_CLAMPS = ("aten.clamp.", "aten.clamp_.", "aten.clamp_min.", "aten.clamp_min_.", "aten.maximum.", "aten.where.")

Found = list[tuple[Any, ...]]
"""Ways in which parts of a loss are weighed: ("each",), ("elements", ref), ("value", ref, what it was before it was
clamped), ("labels", target, weight, ignored). No entry: a part that is the same for every batch."""


class _Unknown(Exception):
    """The loss is no mean or sum that can be read off."""


def weigh(graph: LossGraph, floating: frozenset[str] = frozenset()) -> LossGraph | None:
    """The graph with its weights as further results; None where they cannot be read off.

    `floating` are the names of inputs with floating-point values: such labels are probabilities. Where there are
    several weights, the loss is weighed so only if they are proportional.
    """
    reader = _Reader(graph)
    try:
        found = reader.of(graph.outputs[0])
    except _Unknown:
        return None
    nodes: list[Node] = []
    weights = [_nodes_of(number, way, nodes, floating) for number, way in enumerate(found or [("each",)])]
    return LossGraph(graph.inputs, [*graph.copy().nodes, *nodes], [*graph.outputs, *weights])


def floating(graph: LossGraph, probe: Probe) -> frozenset[str]:
    """Names of the graph's inputs that are floating-point tensors of the batch."""
    leaves = probe.groups[0].leaves
    return frozenset(e.name for e in graph.inputs if e.kind == "data" and leaves[int(e.target)].is_floating_point())


class _Reader:
    def __init__(self, graph: LossGraph) -> None:
        self._nodes = {node.name: node for node in graph.nodes}
        self._moving = {entry.name for entry in graph.inputs if entry.kind == "data"}
        for node in graph.nodes:
            if self._moving.intersection(references((node.args, node.kwargs))):
                self._moving.add(node.name)

    def _moves(self, value: object) -> bool:
        """Whether a value depends on the batch, its size included."""
        return bool(self._moving.intersection(references(value)))

    def of(self, value: object) -> Found:
        """How the scalar `value` is weighed.

        Raises
        ------
        _Unknown
            it cannot be told.
        """
        if not self._moves(value):
            return []
        node = self._nodes.get(value.name) if isinstance(value, Ref) else None
        if node is None or node.scope is not None:
            raise _Unknown
        op, args = node.op, node.args
        if op in _SAME_VALUE:
            return self.of(args[0])
        if op.startswith(("aten.add.", "aten.add_.", "aten.sub.", "operator.add")):
            return _joined(self.of(args[0]), self.of(args[1]))
        if op.startswith(("aten.mul.", "aten.mul_.", "aten.div.", "aten.div_.")):
            return self._of_product(args, op.startswith("aten.div"))
        if op.startswith(("aten.mean.", "aten.sum.")):
            return self._of_reduction(args[0], ("elements", args[0]) if op.startswith("aten.mean.") else ("each",))
        return self._of_loss(node)

    def _of_product(self, args: list[Any], quotient: bool) -> Found:
        if not self._moves(args[1]):
            return self.of(args[0])
        if not quotient and not self._moves(args[0]):
            return self.of(args[1])
        if quotient and self.of(args[0]) == [("each",)]:
            return [("value", args[1], self._before_clamping(args[1]))]
        raise _Unknown

    def _before_clamping(self, value: object) -> Ref | None:
        """What a divisor was before it was kept above zero (`mask.sum().clamp(min=1)`); None where it was not."""
        node = self._nodes.get(value.name) if isinstance(value, Ref) else None
        if node is None:
            return None
        parts = node.args[1:] if node.op.startswith("aten.where.") else node.args
        moving = [part for part in parts if self._moves(part)]
        if node.op.startswith(_CLAMPS):
            return next((part for part in moving if isinstance(part, Ref)), None)
        if len(moving) == 1 and (node.op in _SAME_VALUE or node.op.startswith(("aten.mul.", "aten.div."))):
            return self._before_clamping(moving[0])
        return None

    def _of_reduction(self, given: object, way: tuple[Any, ...]) -> Found:
        """A sum or mean: of the losses of several heads, or of what it is said to be."""
        node = self._nodes.get(given.name) if isinstance(given, Ref) else None
        if node is not None and node.op == "aten.stack.default":
            parts: Found = []
            for part in node.args[0]:
                parts = _joined(parts, self.of(part))
            return parts
        while node is not None and (node.op in _SAME_VALUE or node.op.startswith(_PARTS)):
            node = self._nodes.get(node.args[0].name) if isinstance(node.args[0], Ref) else None
        if node is not None and node.op.startswith(_RANKED):  # the hardest of a batch are not those of all samples
            raise _Unknown
        return [way]

    def _of_loss(self, node: Node) -> Found:
        arguments = by_name(node)
        name = node.op.split(".")[1]
        reduction = arguments.get("reduction")
        if reduction == 2:
            return [("each",)]
        if reduction == 1 and node.op in _CLASSES:
            return [("labels", arguments["target"], arguments.get("weight"), arguments.get("ignore_index", -100))]
        if reduction == 1 and name in _COUNTED:
            return [("elements", node.args[_COUNTED[name]])]
        raise _Unknown


def by_name(node: Node) -> dict[str, Any]:
    """The arguments of an operation by the names of its schema."""
    schema = getattr(node.function, "_schema", None)
    if schema is None:
        return dict(node.kwargs)
    found = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return found | {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)} | node.kwargs


def _joined(a: Found, b: Found) -> Found:
    return a + [way for way in b if way not in a]


def _nodes_of(number: int, way: tuple[Any, ...], nodes: list[Node], floating: frozenset[str]) -> Any:
    """Add the operations that compute a weight; returns the reference to it, or a number."""

    def call(op: str, *args: object) -> Ref:
        nodes.append(Node(f"weighing_{number}_{len(nodes)}", op, list(args), {}))
        return Ref(nodes[-1].name)

    if way[0] == "each":
        return 1
    if way[0] == "elements":
        return call("aten.numel.default", way[1])
    if way[0] == "value":  # a batch of which nothing counts has no weight, though the loss divides by one then
        return way[1] if way[2] is None else call("aten.mul.Tensor", way[1], call("aten.ne.Scalar", way[2], 0))
    _, target, weight, ignored = way
    if weight is None or (isinstance(target, Ref) and target.name in floating):
        return call("aten.sum.default", call("aten.ne.Scalar", target, ignored))
    safe = call("aten.masked_fill.Scalar", target, call("aten.eq.Scalar", target, ignored), 0)
    each = call("aten.index_select.default", weight, 0, call("aten.reshape.default", safe, [-1]))
    counts = call("aten.reshape.default", call("aten.ne.Scalar", target, ignored), [-1])
    return call("aten.sum.default", call("aten.mul.Tensor", each, counts))


def mean_of(values: Tensor, counts: Sequence[int], shares: Sequence[Tensor], *, per_sample: bool) -> Tensor:
    """(2,) the mean of losses (N,) and its standard error.

    They are of samples (`per_sample`), or of batches, weighed by `shares` or else by their `counts` of samples.
    """
    if shares:
        return weighted(values, torch.cat(list(shares)))
    stderr = None
    if per_sample:
        mean, stderr = values.mean(), values.std() / math.sqrt(len(values)) if len(values) > 1 else None
    else:
        share = torch.tensor(counts, dtype=torch.float64, device=values.device) / sum(counts)
        mean, square = (share * values).sum(), float((share**2).sum())
        if len(values) > 1:
            stderr = ((share * (values - mean) ** 2).sum() / (1 - square) * square).sqrt()
    return torch.stack([mean, torch.full_like(mean, math.nan) if stderr is None else stderr])


def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """(2,) the mean of values (N,) by weights (N,), and its standard error; a value without weight does not count."""
    share = weights / weights.sum()
    mean = torch.where(share > 0, share * values, 0.0).sum()
    square = (share**2).sum()
    spread = torch.where(share > 0, share * (values - mean) ** 2, 0.0).sum() / (1 - square)
    return torch.stack([torch.where(weights.sum() > 0, mean, float("nan")), (spread * square).sqrt()])


def said_of_unrecorded(names: Sequence[str]) -> str:
    """The sentence on parameters that the loss has and the run does not record."""
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"The loss has parameters that were not recorded and count as they were at the start: {shown}."


def said_of_weighing(weighing: str, batches: int, weights: Tensor | None, unrecorded: Sequence[str]) -> list[str]:
    """What is in doubt of the mean over batches, and for parameters that the run does not record, in sentences.

    `weights` (batches, ways) are the weights of the batches, one column for each way in which the loss is weighed;
    None where it is not weighed by the loss itself.
    """
    names = [str(name) for name in unrecorded]
    said = [said_of_unrecorded(names)] if names else []
    if batches > 1 and weighing == "batches":
        said.append(f"The loss of a batch is a sum: of {batches} batches the mean is shown.")
    elif batches > 1 and (weighing == "unknown" or not _proportional(weights)):
        said.append(
            f"The loss of a batch is no plain mean over its samples: of {batches} batches the mean weighted by "
            f"{'samples' if weighing == 'unknown' else 'its first part'} is shown, which may differ from the "
            "loss of all samples at once."
        )
    return said


def _proportional(weights: Tensor | None) -> bool:
    """Whether all parts of the loss are weighed in proportion."""
    if weights is None:
        return True
    shares = weights / weights.sum(dim=0)
    return torch.allclose(shares, shares[:, :1].expand_as(shares), rtol=1e-6)
