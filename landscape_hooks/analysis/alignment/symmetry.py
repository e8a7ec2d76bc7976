"""Symmetry: which axes of a network's tensors may be reordered together without changing its loss.

In: an Objective with a stored loss graph. Out: the axes of every parameter and buffer, read off the graph: the axes of
the batch are pinned, and those of the parameters follow through the operations (rules.py). Where an operation is not
understood, all that goes into it is pinned, and the operation is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from landscape_hooks.analysis.alignment.axes import Atom, Axis, Indices, every_atom, free, order_of, pin, pinned
from landscape_hooks.analysis.alignment.calls import Call, NotUnderstoodError, Tensor, tensors_of
from landscape_hooks.analysis.alignment.rules import ON_SIZES, is_loss, rule_of
from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.graph.graph import LossGraph, Node, Ref
from landscape_hooks.objective.objective import Objective
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout


@dataclass
class Symmetry:
    """What of a network may be reordered.

    Attributes
    ----------
    axes
        name of a parameter or buffer -> its axes. A tensor that is not listed is not reordered.
    not_understood
        operations through which nothing could be followed, in order.
    """

    axes: dict[str, list[Axis]]
    not_understood: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> list[Atom]:
        """What may be reordered, each by a permutation of its own."""
        return every_atom(axis for axes in self.axes.values() for axis in axes)

    def orders(self, name: str, permutations: dict[Atom, Indices]) -> list[Indices] | None:
        """For each axis of a tensor which entry comes at each place; None where the tensor stays as it is."""
        if not set(every_atom(self.axes.get(name, ()))) & permutations.keys():
            return None
        return [order_of(axis, permutations) for axis in self.axes[name]]

    def where(self, group: Atom) -> str:
        """The first tensor and dimension that a group numbers, such as "0.weight, dimension 0"."""
        for name, axes in self.axes.items():
            for dim, axis in enumerate(axes):
                if group in every_atom([axis]):
                    return f"{name}, dimension {dim}"
        raise KeyError(group)


def symmetry_of(objective: Objective, weights: torch.Tensor, buffers: torch.Tensor) -> Symmetry:
    """The symmetry of a stored loss; it is run once, at `weights` (D,) and `buffers` (B,), for the shapes in it.

    Raises
    ------
    ObjectiveError
        the loss is live code, which has no graph.
    """
    graphs = _graphs(objective)
    state = {
        **objective.layout.views(weights), **objective.buffer_layout.views(buffers), **objective.constants
    }  # fmt: skip
    tensors: dict[str, list[Axis]] = {}
    for layout in (objective.layout, objective.buffer_layout):
        for entry in layout:
            make = pinned if entry.is_complex else free
            tensors[entry.name] = [make(count) for count in entry.shape]
    names = {
        name: entry.name for layout in (objective.layout, objective.buffer_layout) for name, entry in _named(layout)
    }
    unknown: dict[str, None] = {}
    for number, graph in enumerate(graphs):
        leaves = _leaves(objective, number if len(graphs) > 1 else None)
        shapes = _shapes(graph, state, leaves, objective.device)
        values: dict[str, Any] = {}
        for taken in graph.inputs:
            given = leaves[int(taken.target)] if taken.kind == "data" else state[taken.target]
            own = names.get(taken.target) if taken.kind in ("parameter", "buffer") else None
            axes = tensors[own] if own is not None else [pinned(count) for count in given.shape]
            values[taken.name] = Tensor(list(axes))
        reading = _Reading(shapes, unknown)
        for found in reading.run(graph, values):
            pin(*(axis for tensor in tensors_of(found) for axis in tensor.axes))
    return Symmetry(tensors, tuple(unknown))


def _named(layout: ParameterLayout) -> Iterator[tuple[str, ParameterEntry]]:
    for entry in layout:
        for name in (entry.name, *entry.aliases):
            yield name, entry


def _graphs(objective: Objective) -> list[LossGraph]:
    kernel: Any = objective.kernel
    kernels = getattr(kernel, "kernels", (kernel,))
    if not all(hasattr(each, "graph") for each in kernels):
        raise ObjectiveError(
            "The loss is live code, in which no axes can be followed",
            expected="a run that carries its loss as a graph",
            mend="Record with criterion= and data=, and leave out --objective",
        )
    return [each.graph for each in kernels]


def _leaves(objective: Objective, variant: int | None) -> list[torch.Tensor]:
    """The tensors of the first batch (that a variant of the graph computes)."""
    for leaves, _ in objective.probe.batches():
        if variant is None:
            return list(leaves)
        if int(leaves[-1]) == variant:
            return list(leaves[:-1])
    raise ObjectiveError(f"No batch is computed by loss graph {variant}")


# -- shapes -------------------------------------------------------------------------------------------------------
Shapes = dict[str, Any]
"""A call -> the shape of its result, a list of several, or the number that it gives."""


def _shapes(
    graph: LossGraph, state: Mapping[str, torch.Tensor], leaves: Sequence[torch.Tensor], device: torch.device
) -> Shapes:
    """Run the graph once, and note the shapes of all results."""
    found: Shapes = {}

    def noting(key: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> Any:
            result = function(*args, **kwargs)
            found[key] = _shape_of(result)
            return result

        return call

    def noted(graph: LossGraph, prefix: str) -> LossGraph:
        copy = graph.copy()
        for node in copy.nodes:
            key = f"{prefix}/{node.name}"
            if node.scope is not None:
                node.scope = noted(node.scope, key)
            elif node.function is not None:
                node.function = noting(key, node.function)
        return copy

    with torch.no_grad():  # a model may change its buffers and its batch
        given = {name: tensor.clone() for name, tensor in state.items()}
        noted(graph, "")(given, [leaf.clone() for leaf in leaves], device=device)
    return found


def _shape_of(result: object) -> Any:
    if isinstance(result, torch.Tensor):
        return tuple(result.shape)
    if isinstance(result, list | tuple):
        return [_shape_of(each) for each in result]
    return result if isinstance(result, int | float) else None


# -- following -----------------------------------------------------------------------------------------------------
@dataclass
class _Reading:
    """The axes of all values of a graph; `unknown` collects operations that are not understood."""

    shapes: Shapes
    unknown: dict[str, None]

    def run(self, graph: LossGraph, values: dict[str, Any], prefix: str = "") -> list[Any]:
        """The axes of the results, from those of the inputs by name."""

        def bind(value: object) -> Any:
            if isinstance(value, Ref):
                return values[value.name]
            return [bind(each) for each in value] if isinstance(value, list | tuple) else value

        for node in graph.nodes:
            key = f"{prefix}/{node.name}"
            if node.scope is not None:
                inner = {e.name: bind(a) for e, a in zip(node.scope.inputs, node.args, strict=True)}
                values[node.name] = self.run(node.scope, inner, key)
            else:
                values[node.name] = self._call(node, bind(node.args), _bound(node.kwargs, bind), self.shapes[key])
        return [bind(each) for each in graph.outputs]

    def _call(self, node: Node, args: list[Any], kwargs: dict[str, Any], result: Any) -> Any:
        if node.op == "operator.getitem" and isinstance(args[0], list):
            return args[0][args[1]]
        given = tensors_of([args, kwargs])
        if not given and not _has_shape(result):
            return result
        if node.op.startswith("aten."):
            if node.op.split(".")[1] in ON_SIZES:
                return result
            rule = rule_of(node.op)
            try:
                if rule is None:
                    raise NotUnderstoodError
                found = rule(Call(_by_name(node, args, kwargs), result))
                if _shapes_in(found) == result:
                    return found
            except (NotUnderstoodError, ValueError, IndexError, KeyError, TypeError, AttributeError, StopIteration):
                pass  # a form of the operation that its rule is not for: nothing moves there
        if pin(*(axis for tensor in given for axis in tensor.axes)) and not is_loss(node.op):
            self.unknown[node.op.removeprefix("aten.").partition(".")[0]] = None
        return _pinned_like(result)


def _bound(mapping: Mapping[str, Any], bind: Callable[[object], Any]) -> dict[str, Any]:
    return {key: bind(value) for key, value in mapping.items()}


def _by_name(node: Node, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by the names of the schema."""
    function = getattr(node.function, "overload", node.function)
    schema = function._schema  # type: ignore[union-attr]
    given = {a.name: v for a, v in zip(schema.arguments, args, strict=False)} | kwargs
    return {a.name: given.get(a.name, a.default_value) for a in schema.arguments}


def _has_shape(result: object) -> bool:
    return isinstance(result, tuple) or (isinstance(result, list) and any(map(_has_shape, result)))


def _shapes_in(value: object) -> Any:
    return [_shapes_in(each) for each in value] if isinstance(value, list) else getattr(value, "shape", value)


def _pinned_like(result: Any) -> Any:
    if isinstance(result, tuple):
        return Tensor([pinned(count) for count in result])
    return [_pinned_like(each) for each in result] if isinstance(result, list) else result
