"""Relabelling: a loss graph over other inputs: constants by other names, the data by other numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from landscape_hooks.objective.graph.graph import LossGraph, references


def renamed(graph: LossGraph, constants: dict[str, Tensor], number: int) -> tuple[LossGraph, dict[str, Tensor]]:
    """With names for its constants that no other graph's have."""
    inputs = [replace(i, target=f"variant{number}_{i.target}") if i.kind == "constant" else i for i in graph.inputs]
    renamed = LossGraph(inputs, graph.nodes, graph.outputs)
    return renamed, {f"variant{number}_{name}": value for name, value in constants.items()}


def data_read(graph: LossGraph) -> set[int]:
    """Numbers of the leaves that a graph reads."""
    read = {name for node in graph.nodes for name in references((node.args, node.kwargs))}
    read |= set(references(graph.outputs))
    return {int(i.target) for i in graph.inputs if i.kind == "data" and i.name in read}


def reading(graph: LossGraph, kept: Sequence[int]) -> LossGraph:
    """The graph over the leaves that are kept, by their new numbers."""
    at = {str(place): str(number) for number, place in enumerate(kept)}
    inputs = [
        replace(i, target=at[i.target]) if i.kind == "data" else i
        for i in graph.inputs
        if i.kind != "data" or i.target in at
    ]
    return LossGraph(inputs, graph.nodes, graph.outputs)
