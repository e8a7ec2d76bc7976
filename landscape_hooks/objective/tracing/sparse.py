"""Sparse: sparse matrices of a loss, as indices and values in its graph.

In: calls with sparse tensors (adjacency of a graph, attention over its edges). Out: calls on dense tensors that give
the same: a product with a dense matrix takes the rows that the columns of the entries name, times the values, and adds
them up in the rows of the entries. A stored graph holds no sparse tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.graph.graph import Input, Node, Ref
from landscape_hooks.objective.live.copies import WAY_OUT

_SAME = {"coalesce", "detach", "detach_", "alias", "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "to_sparse",
         "to_sparse_csr", "to_sparse_csc", "to", "_to_copy", "_coalesce", "_coalesced_"}  # fmt: skip
_MADE = ("sparse_coo_tensor", "_sparse_coo_tensor_unsafe", "_sparse_coo_tensor_with_dims_and_tensors")
_PRODUCTS = ("mm", "matmul", "_sparse_mm", "mv", "spmm")
_SCALED = {"mul": "mul.Tensor", "div": "div.Tensor", "neg": "neg.default"}


@dataclass(frozen=True)
class Entries:
    """A sparse tensor: `indices` (dimensions, entries), `values` (entries,) and its shape.

    `single` is whether no place has two entries; several of one place add up.
    """

    indices: Ref
    values: Ref
    shape: tuple[int, ...]
    single: bool


class Sparse:
    """The sparse tensors of a graph, by the names that they have in it."""

    def __init__(self) -> None:
        self._known: dict[str, Entries] = {}
        self._nodes: list[Node] = []
        self._count = 0

    def given(self, name: str, key: str, value: Tensor) -> tuple[list[Input], dict[str, Tensor]]:
        """The inputs and constants that stand for a sparse constant.

        Raises
        ------
        ObjectiveError
            it has dense parts, or is no sparse tensor of numbers.
        """
        value = value.detach()
        if value.layout is not torch.sparse_coo:
            value = value.to_sparse_coo()
        value = value.coalesce()
        if value.dense_dim():
            raise ObjectiveError("The loss reads a sparse tensor with dense parts", mend=WAY_OUT)
        parts = {"indices": value.indices().clone(), "values": value.values().clone()}
        self._known[name] = Entries(Ref(f"{name}_indices"), Ref(f"{name}_values"), tuple(value.shape), True)
        inputs = [Input(f"{name}_{part}", "constant", f"{key}_{part}") for part in parts]
        return inputs, {f"{key}_{part}": tensor for part, tensor in parts.items()}

    def calls(self, n: torch.fx.Node, name: str, args: Sequence[Any]) -> list[Node] | None:
        """Calls in place of `n`; None where it has nothing to do with sparse tensors.

        Raises
        ------
        ObjectiveError
            there are none that give the same.
        """
        known = [self._known.get(a.name) if isinstance(a, Ref) else None for a in args]
        self._nodes = []
        if name in _MADE:
            self._known[n.name] = self._made(n, name, args)
            return []
        if not any(known):
            return None
        result = self._result(n, name, args, known)
        if isinstance(result, Entries):
            self._known[n.name] = result
        elif result is not None:
            self._nodes.append(Node(n.name, "aten.alias.default", [result], {}))
        else:
            self._densely(n, name, args, known)
        return self._nodes

    def _made(self, n: torch.fx.Node, name: str, args: Sequence[Any]) -> Entries:
        indices, values = args[3:5] if name.endswith("tensors") else args[:2]
        value = n.meta.get("val")
        shape = tuple(value.shape) if value is not None else tuple(args[2])
        if not all(isinstance(size, int) for size in shape) or len(shape) != 2:
            raise _refused(n)
        return Entries(indices, values, shape, single=False)

    def _result(
        self, n: torch.fx.Node, name: str, args: Sequence[Any], known: Sequence[Entries | None]
    ) -> Entries | Ref | None:
        first = known[0]
        if first is not None and name in _SAME:
            return self._of_type(n, first)
        if first is not None and name in ("t", "transpose", "t_copy") and len(first.shape) == 2:
            return replace(first, indices=self._call("flip.default", first.indices, [0]), shape=first.shape[::-1])
        if name in _SCALED and first is not None and not any(isinstance(a, Ref) for a in args[1:]):
            return replace(first, values=self._call(_SCALED[name], first.values, *args[1:]))
        if name in ("_indices", "indices") and first is not None and (first.single or name[0] == "_"):
            return first.indices
        if name in ("_values", "values") and first is not None and (first.single or name[0] == "_"):
            return first.values
        if name in ("to_dense", "_to_dense") and first is not None:
            return self._dense(first)
        if name in _PRODUCTS and len(args) >= 2 and sum(k is not None for k in known) == 1:
            return self._product(n, args, known)
        if name in ("addmm", "_sparse_addmm") and known[1] is not None and known[0] is None and known[2] is None:
            product = self._times(known[1], args[2], 2)
            beta, alpha = n.kwargs.get("beta", 1), n.kwargs.get("alpha", 1)
            own = self._call("mul.Tensor", args[0], beta)
            return self._call("add.Tensor", own, self._call("mul.Tensor", product, alpha))
        if name in ("_sparse_sum", "sum") and first is not None:
            return self._sum(n, args, first)
        return None

    def _of_type(self, n: torch.fx.Node, entries: Entries) -> Entries:
        before, after = n.args[0].meta.get("val"), n.meta.get("val")  # type: ignore[union-attr]
        if before is None or after is None or before.dtype == after.dtype:
            return entries
        return replace(entries, values=self._call("to.dtype", entries.values, after.dtype))

    def _product(self, n: torch.fx.Node, args: Sequence[Any], known: Sequence[Entries | None]) -> Ref:
        entries = known[0] or known[1]
        assert entries is not None
        dense: Any = n.args[1 if known[0] else 0]
        ndim = dense.meta["val"].ndim
        if len(entries.shape) != 2 or ndim > 2 or (known[0] is None and ndim != 2):
            raise _refused(n)
        if known[0] is not None:
            return self._times(entries, args[1], ndim)
        turned = replace(entries, indices=self._call("flip.default", entries.indices, [0]), shape=entries.shape[::-1])
        return self._call("t.default", self._times(turned, self._call("t.default", args[0]), 2))

    def _times(self, entries: Entries, dense: Any, ndim: int) -> Ref:
        """The product with a dense matrix or vector."""
        rows, columns = (self._call("select.int", entries.indices, 0, k) for k in (0, 1))
        values = entries.values if ndim == 1 else self._call("unsqueeze.default", entries.values, 1)
        parts = self._call("mul.Tensor", self._call("index_select.default", dense, 0, columns), values)
        wide = [self._call("sym_size.int", dense, 1)] if ndim == 2 else []
        empty = self._call("new_zeros.default", parts, [entries.shape[0], *wide])
        return self._call("index_add.default", empty, 0, rows, parts)

    def _dense(self, entries: Entries) -> Ref:
        places = [self._call("select.int", entries.indices, 0, k) for k in range(len(entries.shape))]
        empty = self._call("new_zeros.default", entries.values, list(entries.shape))
        return self._call("index_put.default", empty, places, entries.values, True)

    def _sum(self, n: torch.fx.Node, args: Sequence[Any], entries: Entries) -> Entries | Ref | None:
        dims = args[1] if len(args) > 1 else None
        if not dims:
            return self._call("sum.default", entries.values)
        left = [k for k in range(len(entries.shape)) if k not in [d % len(entries.shape) for d in dims]]
        if n.target.__name__.startswith("sum") or len(left) != 1:  # type: ignore[union-attr]
            return None
        kept = self._call("slice.Tensor", entries.indices, 0, left[0], left[0] + 1)
        return Entries(kept, entries.values, (entries.shape[left[0]],), single=False)

    def _densely(self, n: torch.fx.Node, name: str, args: Sequence[Any], known: Sequence[Entries | None]) -> None:
        """The same operation of dense tensors, where its result is dense."""
        value = n.meta.get("val")
        if not isinstance(value, Tensor) or value.layout is not torch.strided or name.startswith("_sparse"):
            raise _refused(n)
        given = [a if entries is None else self._dense(entries) for a, entries in zip(args, known, strict=True)]
        target: Any = n.target
        kwargs = {key: Ref(v.name) if isinstance(v, torch.fx.Node) else v for key, v in n.kwargs.items()}
        self._nodes.append(Node(n.name, f"aten.{name}.{target._overloadname}", given, kwargs))

    def _call(self, op: str, *args: Any) -> Ref:
        self._count += 1
        self._nodes.append(Node(f"sparse_{self._count}", f"aten.{op}", list(args), {}))
        return Ref(self._nodes[-1].name)


def _refused(n: torch.fx.Node) -> ObjectiveError:
    return ObjectiveError(
        f"The loss computes with a sparse tensor ({n.target})",
        expected="products of sparse matrices with dense ones, sums, or torch.Tensor.to_dense()",
        mend=WAY_OUT,
    )
