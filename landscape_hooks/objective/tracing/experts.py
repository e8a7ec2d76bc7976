"""Experts: products of groups of rows with the weights of their expert, written as operations of torch.

In: a call of `transformers.grouped_mm_fallback`, in which mixtures of experts route tokens where torch's own grouped
product does not serve. Out: calls that give the same at any weights: every row times the weights of every expert,
masked by where the groups end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from landscape_hooks.objective.graph.graph import DEVICE, Node, Ref

NAME = "transformers::grouped_mm_fallback"


def calls(n: torch.fx.Node, args: Sequence[Any]) -> list[Node]:
    """Rows (S, k), sorted by group, times the weights (E, k, m) of their group, which ends at `ends` (E,): (S, m)."""
    rows, weights, ends = args[:3]
    experts = int(n.args[1].meta["val"].shape[0])  # type: ignore[union-attr]
    made: list[Node] = []

    def call(op: str, *given: Any, **options: Any) -> Ref:
        made.append(Node(f"{n.name}_{len(made)}", f"aten.{op}", list(given), options))
        return Ref(made[-1].name)

    places = call("arange.default", call("sym_size.int", rows, 0), device=DEVICE)
    group = call("unsqueeze.default", call("bucketize.Tensor", places, ends, right=True), 1)
    parts = []
    for number in range(experts):
        product = call("mm.default", rows, call("select.int", weights, 0, number))
        parts.append(call("masked_fill.Scalar", product, call("ne.Scalar", group, number), 0))
    total = parts[0]
    for part in parts[1:]:
        total = call("add.Tensor", total, part)
    made.append(Node(n.name, "aten.clone.default", [total], {}))
    return made
