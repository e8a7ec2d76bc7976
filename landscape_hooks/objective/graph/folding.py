"""Folding: batch normalisation with known statistics merged into the convolution before it.

In: a LossGraph. Out: the same graph with fewer operations, and the rule that computes the merged weights from
the state at each point of a plane: w' = w·γ/√(σ²+ε), b' = (b-μ)·γ/√(σ²+ε) + β. Exact up to rounding, and valid only
where the statistics are given (running, interpolated or re-estimated), not where they are those of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.objective.graph.graph import BATCH_NORM, Input, LossGraph, Node, Ref, references

CONVOLUTIONS = {f"aten.conv{n}d.{form}" for n in (1, 2, 3) for form in ("default", "padding")}


@dataclass(frozen=True)
class Fold:
    """One merged pair; the fields are names in the state, None where the layer has no such tensor."""

    key: str
    weight: str
    bias: str | None
    gamma: str | None
    beta: str | None
    mean: str
    var: str
    eps: float

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The merged weight and bias."""
        weight, mean = state[self.weight], state[self.mean]
        scale = torch.rsqrt(state[self.var] + self.eps)
        if self.gamma is not None:
            scale = scale * state[self.gamma]
        shift = -mean if self.bias is None else state[self.bias] - mean
        shift = shift * scale
        if self.beta is not None:
            shift = shift + state[self.beta]
        merged = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        return {f"{self.key}.weight": merged, f"{self.key}.bias": shift}


def fold(graph: LossGraph) -> tuple[LossGraph, list[Fold]]:
    """Merge every batch normalisation that follows a convolution whose result nothing else uses."""
    inputs = {entry.name: entry for entry in graph.inputs}
    by_name = {node.name: node for node in graph.nodes}
    uses = Counter(r for node in graph.nodes for r in references((node.args, node.kwargs)))
    uses.update(references(graph.outputs))
    folds: list[Fold] = []
    changed: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        before = by_name.get(node.args[0].name) if node.op == BATCH_NORM and isinstance(node.args[0], Ref) else None
        if before is None or before.op not in CONVOLUTIONS or uses[before.name] != 1:
            continue
        found = _fold_of(f"fold{len(folds)}", before, node, inputs)
        if found is None:
            continue
        folds.append(found)
        args = [before.args[0], Ref(f"{found.key}_weight"), Ref(f"{found.key}_bias"), *before.args[3:]]
        changed[before.name] = replace(before, args=args, function=None)
        renamed[node.name] = before.name
    nodes = [_rename(changed.get(n.name, n), renamed) for n in graph.nodes if n.name not in renamed]
    extra = [Input(f"{f.key}_{part}", "folded", f"{f.key}.{part}") for f in folds for part in ("weight", "bias")]
    return LossGraph([*graph.inputs, *extra], nodes, _renamed(graph.outputs, renamed)), folds


def _fold_of(key: str, convolution: Node, norm: Node, inputs: Mapping[str, Input]) -> Fold | None:
    """The pair as a Fold, None where one of its tensors is computed in the graph."""
    bias = convolution.args[2] if len(convolution.args) > 2 else None
    if convolution.kwargs or norm.kwargs or len(norm.args) < 8:
        return None
    names: list[str | None] = []
    for value in (convolution.args[1], bias, norm.args[1], norm.args[2], norm.args[3], norm.args[4]):
        if value is None:
            names.append(None)
        elif isinstance(value, Ref) and value.name in inputs and inputs[value.name].kind != "data":
            names.append(inputs[value.name].target)
        else:
            return None
    weight, bias_name, gamma, beta, mean, var = names
    if weight is None or mean is None or var is None or norm.args[5]:
        return None
    return Fold(key, weight, bias_name, gamma, beta, mean, var, float(norm.args[7]))


def _rename(node: Node, renamed: Mapping[str, str]) -> Node:
    if not any(r in renamed for r in references((node.args, node.kwargs))):
        return node
    return replace(
        node,
        args=_renamed(node.args, renamed),
        kwargs={k: _renamed(v, renamed) for k, v in node.kwargs.items()},
        function=None,
    )


def _renamed(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, Ref):
        return Ref(renamed.get(value.name, value.name))
    if isinstance(value, list):
        return [_renamed(v, renamed) for v in value]
    return value
