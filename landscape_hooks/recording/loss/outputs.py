"""Outputs: how a tensor that a criterion was given follows from what the model returned.

In: the tensors in what a model returned, each with its place, and a tensor of the criterion's arguments. Out: a Way
from one to the other: a place, and changes of shape after it; or that it is computed in another way. This is read off
autograd's graph, whose nodes say which operation made a tensor. Nothing is guessed from values; they have to agree.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Place = tuple[tuple[str, Any], ...]
"""Where in an output a tensor stands: ("key", k) and ("attribute", name), one after the other."""

Operation = tuple[Any, ...]
"""The name of a method of a tensor, and its arguments."""

DEPTH = 6
"""Containers inside of containers that are looked into."""

NODES = 10_000
"""Nodes of autograd's graph, and parts of an output, that are looked at."""

_AS_IT_IS = ("Clone", "ToCopy", "Alias", "_DDPSink", "Contiguous")
_SHAPED = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Way:
    """From an output to a tensor: its place, then operations that change the shape only, of any number of samples."""

    place: Place = ()
    operations: tuple[Operation, ...] = ()

    def __call__(self, output: object) -> Any:
        found: Any = output
        for kind, name in self.place:
            found = found[name] if kind == "key" else getattr(found, name)
        return applied(found, self.operations)

    @property
    def flattened(self) -> int:
        """How many of the first dimensions are one at the end: (samples, tokens, classes) as (all tokens, classes)."""
        last = self.operations[-1] if self.operations else ()
        return last[2] + 1 if last and last[:2] == ("flatten", 0) else 0


def applied(tensor: Tensor, operations: Sequence[Operation]) -> Tensor:
    """What the operations make of a tensor."""
    for name, *given in operations:
        if name == "slice":
            dim, start, stop, step = given
            tensor = tensor[(slice(None),) * dim + (slice(start, stop, step),)]
        else:
            tensor = getattr(tensor, name)(*given)
    return tensor


def tensors_in(output: object) -> list[tuple[Place, Tensor]]:
    """The tensors of an output, with their places; those of an object's attributes included."""
    found: list[tuple[Place, Tensor]] = []
    waiting: list[tuple[Place, object]] = [((), output)]
    looked = 0
    while waiting and looked < NODES:
        place, value = waiting.pop()
        looked += 1
        if isinstance(value, Tensor):
            found.append((place, value))
        elif len(place) < DEPTH:
            waiting += reversed([((*place, step), part) for step, part in _parts(value)])
    return found


def _parts(value: object) -> list[tuple[tuple[str, Any], object]]:
    """What a container or an object holds; nothing of it is called."""
    if isinstance(value, dict):
        return [(("key", key), part) for key, part in dict.items(value)]
    if isinstance(value, UserDict):
        return [(("key", key), part) for key, part in value.data.items()]
    if isinstance(value, list | tuple):
        return [(("key", number), part) for number, part in enumerate(value)]
    if isinstance(value, type | torch.nn.Module | ModuleType):
        return []
    return [(("attribute", name), part) for name, part in getattr(value, "__dict__", {}).items()]


def operations_to(made: Tensor, source: Tensor) -> tuple[Operation, ...] | None:
    """The changes of shape that make one tensor of another; None where it is made in another way."""
    chain = _chain(made, source)
    if chain is None:
        return None
    shape, found = tuple(source.shape), []
    for number, node in enumerate(chain):
        after = _shape_before(chain[number + 1 :], tuple(made.shape)) if _kind(node) in _SHAPED else ()
        operation = _operation(node, shape, after)
        if operation is None:
            return None
        if operation:
            found.append(operation)
            shape = tuple(applied(torch.empty(shape, device="meta"), [operation]).shape)
    same = applied(source.detach(), found).to(made.dtype)
    with torch.no_grad():
        alike = same.shape == made.shape and bool(torch.isclose(same, made.detach(), 0, 0, equal_nan=True).all())
    return tuple(found) if alike else None


def leads_to(made: Tensor, sources: Sequence[Tensor]) -> bool:
    """Whether a tensor is computed from any of these."""
    wanted = {source.grad_fn for source in sources if source.grad_fn is not None}
    seen: set[Any] = set()
    waiting: list[Any] = [made.grad_fn]
    while waiting and len(seen) < NODES:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node in wanted:
            return True
        seen.add(node)
        waiting += [other for other, _ in node.next_functions]
    return False


def _chain(made: Tensor, source: Tensor) -> list[Any] | None:
    """The nodes between two tensors, from the source on, where each has one input."""
    end, node, number = source.grad_fn, made.grad_fn, made.output_nr
    found: list[Any] = []
    while node is not None and len(found) < 100:
        if node is end and number == source.output_nr:
            return found[::-1]
        found.append(node)
        inputs = [each for each in node.next_functions if each[0] is not None]
        if len(inputs) != 1:
            return None
        node, number = inputs[0]
    return None


def _kind(node: Any) -> str:
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def _shape_before(chain: Sequence[Any], made: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what the first of these nodes is given; of none, of the tensor that is made."""
    for number, node in enumerate(chain):
        if _kind(node) in _AS_IT_IS:
            continue
        sizes = getattr(node, "_saved_self_sym_sizes", None)
        if sizes is not None:
            return tuple(int(n) for n in sizes)
        undone = _operation(node, (), ())
        if undone is None or undone[0] not in ("transpose", "t", "permute"):
            return ()
        after = _shape_before(chain[number + 1 :], made)
        if undone[0] == "permute":
            return tuple(after[undone[1].index(k)] for k in range(len(after)))
        return tuple(applied(torch.empty(after, device="meta"), [undone]).shape)  # a swap is its own inverse
    return made


def _operation(node: Any, shape: tuple[int, ...], after: tuple[int, ...]) -> Operation | None:
    """What a node does as a method of a tensor; an empty one changes nothing, None is none that is known."""
    kind = _kind(node)
    if kind in _AS_IT_IS:
        return ()
    if kind in _SHAPED:
        return _reshaping(shape, after)
    if kind == "T":
        return ("t",)
    if kind == "Transpose":
        return "transpose", _signed(node._saved_dim0), _signed(node._saved_dim1)
    if kind == "Permute":
        return "permute", tuple(_signed(dim) for dim in node._saved_dims)
    if kind not in ("Select", "Slice") or not node._saved_dim:
        return None
    dim = _signed(node._saved_dim) % max(1, len(node._saved_self_sym_sizes))
    if dim == 0:  # some of the samples
        return None
    if kind == "Select":
        return "select", dim, _signed(node._saved_index)
    return "slice", dim, _signed(node._saved_start), _signed(node._saved_end), int(node._saved_step)


def _reshaping(before: tuple[int, ...], after: tuple[int, ...]) -> Operation | None:
    """A change between two shapes that holds for any number of samples, as far as one is known.

    A dimension that goes is looked for from the last one on: the first is that of the samples.
    """
    if before == after:
        return ()
    for dim in range(len(before) - 1, 0, -1):
        if before[dim] == 1 and before[:dim] + before[dim + 1 :] == after:
            return "squeeze", dim
    for dim in range(len(after) - 1, 0, -1):
        if after[dim] == 1 and after[:dim] + after[dim + 1 :] == before:
            return "unsqueeze", dim
    for first in range(len(before)):
        for last in range(first + 1, len(before)):
            size = 1
            for n in before[first : last + 1]:
                size *= n
            if (*before[:first], size, *before[last + 1 :]) == after:
                return "flatten", first, last
    return None


def _signed(number: int) -> int:
    """A number of 64 bits that autograd keeps without its sign."""
    return number - 2**64 if number >= 2**63 else int(number)
