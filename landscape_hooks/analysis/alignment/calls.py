"""Calls: an operation with its arguments and the shape of its result, a tensor being the list of its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from landscape_hooks.analysis.alignment.axes import Axis, free, unify
from landscape_hooks.analysis.alignment.axes import size as size_of

Axes: TypeAlias = list[Axis]
Shape: TypeAlias = tuple[int, ...]


class NotUnderstoodError(Exception):
    """A form of an operation for which its rule does not hold."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a graph: its axes."""

    axes: Axes

    @property
    def shape(self) -> Shape:
        return tuple(map(size_of, self.axes))


@dataclass(frozen=True)
class Call:
    """A call: arguments by the names of the operation's schema, and the shape of its result, or of each of several."""

    arguments: Mapping[str, Any]
    result: Any

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: object = None) -> Any:
        """An argument, or the default where the operation has none of that name."""
        return self.arguments.get(name, default)

    @property
    def first(self) -> Axes:
        """The axes of the first tensor."""
        found = next(value for value in self.arguments.values() if isinstance(value, Tensor))
        return list(found.axes)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, those in lists, too."""
        return [t for value in self.arguments.values() for t in tensors_of(value)]

    def where(self, name: str, ndim: int) -> list[int]:
        """An argument that names dimensions, counted from the front; all of them where it names none."""
        given = self.get(name)
        if given is None or given == []:
            return list(range(ndim))
        return [int(dim) % ndim for dim in (given if isinstance(given, list | tuple) else [given])] if ndim else []


Rule = Callable[[Call], Any]


def tensors_of(value: object) -> list[Tensor]:
    """The tensors in a value, nested or not."""
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value for t in tensors_of(item)] if isinstance(value, list | tuple) else []


def broadcast(tensors: Sequence[Tensor], shape: Shape) -> Axes:
    """The axes of tensors of which one has each axis of the shape, and the others it or one entry."""
    found: Axes = []
    for place, count in enumerate(shape):
        met = [t.axes[place - len(shape)] for t in tensors if len(t.axes) >= len(shape) - place]
        met = [axis for axis in met if size_of(axis) == count]
        axis = met[0] if met else free(count)
        for other in met[1:]:
            axis = unify(axis, other)
        found.append(axis)
    return found
