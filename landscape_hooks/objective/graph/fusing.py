"""Fusing: the same loss with fewer passes over memory, for a CPU.

In: a LossGraph. Out: the same graph whose nodes call other functions for the same values: linear layers go to
oneDNN, as convolutions do, together with the activation behind them; an activation overwrites what nothing else
reads; a `view` copies where the memory format asks for it, not before; dropout that is off is left out. The graph
itself stays the checked list of operations that it is: what is called in place of one is written here.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.objective.graph.folding import CONVOLUTIONS
from landscape_hooks.objective.graph.graph import BATCH_NORM, LossGraph, Node, Ref, references

_VIEWS = {"aten.view.default", "aten._unsafe_view.default"}
_RELU = {"aten.relu.default", "aten.relu_.default"}
_DROPOUT = {"aten.dropout.default", "aten.dropout_.default"}
_LINEAR = "aten.linear.default"
# their results are new tensors, which no other name leads to
_FRESH = CONVOLUTIONS | {BATCH_NORM, _LINEAR, "aten.add.Tensor", "aten.mul.Tensor"}


def fuse(graph: LossGraph) -> LossGraph:
    """The graph with other functions in place of its operations."""
    graph = graph.copy()
    by_name = {node.name: node for node in graph.nodes}
    uses = Counter(r for node in graph.nodes for r in references((node.args, node.kwargs)))
    uses.update(references(graph.outputs))
    for node in graph.nodes:
        given = node.args[0] if node.args else None
        before = by_name.get(given.name) if isinstance(given, Ref) and uses[given.name] == 1 else None
        if node.scope is not None:
            node.scope = fuse(node.scope)
        elif replacement := _replacement(node):
            node.function = replacement
        elif before is not None and before.op == _LINEAR and (activation := _activation(node)) is not None:
            before.function = functools.partial(_linear, activation=activation)
            node.function = _itself
        elif before is not None and node.op in _RELU and before.op in _FRESH:
            node.function = _relu
    return graph


def _replacement(node: Node) -> Callable[..., Any] | None:
    """What is called in place of one operation, whatever is around it."""
    if node.op in _VIEWS:
        return torch.reshape
    if node.op == "aten.contiguous.default" and not node.kwargs and len(node.args) == 1:
        return _itself
    if node.op in _DROPOUT and not node.kwargs and node.args[2] is False:
        return _itself
    return _linear if node.op == _LINEAR else None


def _activation(node: Node) -> tuple[str, str] | None:
    """Its name and form for oneDNN, None where the node is no activation that oneDNN knows."""
    if node.op in _RELU:
        return "relu", ""
    if node.op == "aten.gelu.default" and not {*node.kwargs} - {"approximate"}:
        return "gelu", str(node.kwargs.get("approximate", "none"))
    return None


def _itself(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


def _relu(tensor: Tensor) -> Tensor:
    """In place, unless a derivative may need what would be overwritten."""
    return torch.relu(tensor) if torch.is_grad_enabled() else torch.relu_(tensor)


def _linear(
    given: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: tuple[str, str] = ("none", "")
) -> Tensor:
    """A linear layer and its activation by oneDNN, which is faster than the BLAS for the shapes of networks."""
    plain = given.dtype is weight.dtype is torch.float32 and given.device.type == "cpu"
    if plain and not (torch.is_autocast_enabled("cpu") or torch.is_grad_enabled()) and _onednn():
        name, form = activation
        return torch.ops.mkldnn._linear_pointwise.default(given, weight, bias, name, [], form)
    result = torch.nn.functional.linear(given, weight, bias)
    if activation[0] == "gelu":
        return torch.nn.functional.gelu(result, approximate=activation[1])
    return torch.relu(result) if activation[0] == "relu" else result


@functools.cache
def _onednn() -> bool:
    return torch.backends.mkldnn.is_available()
