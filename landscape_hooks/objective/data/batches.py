"""Batches: one batch taken apart into what a loss reads, and put together again.

In: a batch, any nesting of tuples, lists, mappings and objects. Out: its leaves as tensors (tensors, numpy arrays,
numbers, lists of numbers), what else it holds as plain values (texts, None, objects), and a template that makes the
batch of them again: the same classes, with the same attributes. While a loss is traced, arrays and numbers come back as
tensors, so that they are inputs of the graph and not constants of it.
"""

from __future__ import annotations

import copy
import enum
import types
from collections import UserDict, UserList
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from landscape_hooks.objective.data.child import portable

_ARRAYS = "biufc"
_NUMBERS = (bool, int, float, complex)
_LARGEST = 2**63
# what is one value, whatever it holds
_WHOLE = (str, bytes, bytearray, type, types.FunctionType, types.MethodType, types.BuiltinFunctionType,
          types.ModuleType, types.GeneratorType, nn.Module, torch.dtype, torch.device, torch.Generator, range,
          slice, enum.Enum)  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    """A tensor of a batch: where it stood, what it was, and its value on the CPU.

    `kind` is "tensor", "array", "scalar" (a numpy number), "number", or the types of nested lists of numbers.
    """

    name: str
    kind: str | tuple[type, ...]
    tensor: Tensor

    @property
    def is_python(self) -> bool:
        """Whether it was a number, or a list of numbers, of Python or numpy."""
        return self.kind not in ("tensor", "array")


@dataclass(frozen=True)
class Lost:
    """Stands for a value that cannot be kept."""

    kind: str


@dataclass(frozen=True)
class Flat:
    """A batch that was taken apart. `plain` are pairs of a name and a value."""

    tree: Any
    leaves: list[Leaf]
    plain: list[tuple[str, Any]]


@dataclass(frozen=True)
class _Spot:
    """Place of a leaf, or of a plain value."""

    number: int
    plain: bool = False


@dataclass(frozen=True)
class _Node:
    """Place of a container: `empty` is a copy of it without what the children are."""

    empty: Any
    entries: list[tuple[Any, Any]]
    attributes: list[tuple[str, Any]] = field(default_factory=list)


_Tree = _Spot | _Node


class Batches(Protocol):
    """Batches that were taken apart: a Probe."""

    @property
    def names(self) -> Sequence[str]:
        """What the leaves are called."""

    def each(self) -> Sequence[HasLeaves]:
        """One batch after the other."""


class HasLeaves(Protocol):
    """One of them."""

    @property
    def leaves(self) -> Sequence[Tensor]:
        """Its tensors."""


def flatten(batch: object) -> Flat:
    """Take a batch apart; its tensors are copied to the CPU."""
    flat = Flat(None, [], [])
    return replace(flat, tree=_take_apart(batch, "", flat, ()))


def copied(batch: object) -> Any:
    """The batch with copies of its tensors, on the CPU and without a gradient; what is no data is the same."""
    flat = flatten(batch)
    leaves = [python_value(leaf.kind, leaf.tensor) for leaf in flat.leaves]
    return _put_together(flat.tree, leaves, [value for _, value in flat.plain])


def flatten_portable(batch: object) -> Flat:
    """The same where the result goes to another process: what cannot be sent is `Lost`."""
    flat = flatten(batch)
    return replace(
        flat,
        plain=[
            (name, v if portable(v) else Lost(f"a {type(v).__name__}, which cannot be copied"))
            for name, v in flat.plain
        ],
    )


def _take_apart(value: object, at: str, flat: Flat, inside: tuple[int, ...]) -> Any:
    leaf = _leaf(value, at)
    if leaf is not None:
        flat.leaves.append(leaf)
        return _Spot(len(flat.leaves) - 1)
    if id(value) not in inside and _holds_leaves(value, 0):
        mark = len(flat.leaves), len(flat.plain)
        try:
            return _node(value, at, flat, (*inside, id(value)))
        except Exception:  # it cannot be copied, or not be changed: then it is one value
            del flat.leaves[mark[0] :], flat.plain[mark[1] :]
    flat.plain.append((at, value))
    return _Spot(len(flat.plain) - 1, plain=True)


def _node(value: object, at: str, flat: Flat, inside: tuple[int, ...]) -> _Node:
    entries, attributes = _entries(value), _attributes(value)
    parts = [(key, _take_apart(child, f"{at}[{key!r}]", flat, inside)) for key, child in entries]
    own = [(key, _take_apart(child, f"{at}.{key}", flat, inside)) for key, child in attributes]
    if _is_exact(value):
        return _Node(type(value), parts)
    empty: Any = copy.copy(value)
    if isinstance(value, UserDict | UserList):
        empty.data = type(value.data)()
    elif isinstance(value, list):
        empty[:] = []
    elif isinstance(value, dict):
        for key, _ in entries:
            dict.__setitem__(empty, key, None)
    for key, _ in attributes:
        object.__setattr__(empty, key, None)
    return _Node(empty, parts, own)


def _entries(value: object) -> list[tuple[Any, Any]]:
    if isinstance(value, UserDict | UserList):
        value = value.data
    if isinstance(value, dict):
        return list(dict.items(value))
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def _attributes(value: object) -> list[tuple[str, Any]]:
    if _is_exact(value):
        return []
    found = dict(getattr(value, "__dict__", {}))
    if isinstance(value, UserDict | UserList):
        found.pop("data", None)
    for base in type(value).__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in [names] if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return list(found.items())


def _is_exact(value: object) -> bool:
    """Whether a container is known by its class and entries alone."""
    return type(value) in (dict, list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields"))


def _holds_leaves(value: object, depth: int, tensors: bool = False) -> bool:
    """Whether a tensor or an array is among what a container or an object holds; in containers a number will do."""
    known = _is_exact(value) or isinstance(value, dict | list | UserDict | UserList)
    if depth > 20 or isinstance(value, _WHOLE) or (isinstance(value, tuple) and not known):
        return False
    if not known and type(value).__module__ in ("builtins", "_io", "_thread", "itertools"):
        return False
    tensors = tensors or not known
    children = [child for _, child in _entries(value) + _attributes(value)]
    return any(
        (_leaf_like(child) and not (tensors and type(child) in _NUMBERS)) or _holds_leaves(child, depth + 1, tensors)
        for child in children
    )


def _leaf_like(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.layout is torch.strided and not value.is_quantized and not value.is_nested
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in _ARRAYS
    return type(value) in _NUMBERS and not (type(value) is int and not -_LARGEST <= value < _LARGEST)


def _leaf(value: object, at: str) -> Leaf | None:
    """The value as a leaf, None where it is none."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return _numbers_leaf(value, at)
    if not _leaf_like(value):
        return None
    if isinstance(value, Tensor):
        # clone: a loader may hand out the same memory again
        return Leaf(at, "tensor", value.detach().as_subclass(Tensor).to("cpu", copy=True).resolve_conj().resolve_neg())
    if isinstance(value, np.ndarray | np.generic):
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        try:
            array = np.array(value, dtype=np.asarray(value).dtype.newbyteorder("="), order="C", copy=True)
            return Leaf(at, kind, torch.from_numpy(array))
        except TypeError:  # a type that torch does not know
            return None
    return Leaf(at, "number", torch.tensor(value, dtype=_dtype_of(type(value))))


def _dtype_of(kind: type) -> torch.dtype:
    return {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}[kind]


def _numbers_leaf(value: Sequence[Any], at: str) -> Leaf | None:
    """Lists of numbers, nested evenly, as one tensor."""
    kinds: list[type] = []
    level: list[Any] = [value]
    while type(level[0]) in (list, tuple):
        if len({(type(part), len(part)) for part in level}) != 1 or not level[0]:
            return None
        kinds.append(type(level[0]))
        level = [item for part in level for item in part]
        if any(type(item) is not type(level[0]) for item in level):
            return None
    if not all(_leaf_like(item) and type(item) in _NUMBERS for item in level):
        return None
    return Leaf(at, tuple(kinds), torch.tensor(value, dtype=_dtype_of(type(level[0]))))


def python_value(kind: str | tuple[type, ...], tensor: Tensor) -> Any:
    """What the leaf was."""
    if kind == "tensor":
        return tensor
    if kind == "array":
        return tensor.cpu().numpy()
    if kind == "scalar":
        return tensor.cpu().numpy()[()]
    return tensor.item() if kind == "number" else _nested(tensor.tolist(), kind)


def _nested(values: Any, kinds: Sequence[Any]) -> Any:
    return kinds[0](_nested(value, kinds[1:]) for value in values) if kinds else values


def _traced_value(kind: str | tuple[type, ...], tensor: Tensor) -> Tensor:
    """What stands for the leaf while a loss is traced: a tensor, of the type that torch makes of such a list."""
    made_of_floats = isinstance(kind, tuple) and tensor.dtype is torch.float64
    return tensor.to(torch.get_default_dtype()) if made_of_floats else tensor


# -- putting together ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Template:
    """How the batches of one make are put together.

    Attributes
    ----------
    tree
        the containers.
    kinds
        what each leaf is.
    places
        the number, among all leaves that batches have, of each leaf.
    plain
        values that are no tensors: pairs of a name and a value.
    """

    tree: Any
    kinds: list[str | tuple[type, ...]]
    places: list[int]
    plain: list[tuple[str, Any]]

    def same_make(self, other: Template) -> bool:
        """Whether the batches differ in values only."""
        mine, theirs = [name for name, _ in self.plain], [name for name, _ in other.plain]
        same = self.kinds == other.kinds and self.places == other.places and mine == theirs
        return same and _same_tree(self.tree, other.tree)

    def differing(self, other: Template) -> set[int]:
        """Numbers of the plain values that differ."""
        pairs = enumerate(zip(self.plain, other.plain, strict=True))
        return {number for number, ((_, a), (_, b)) in pairs if not same_value(a, b)}


def _same_tree(a: _Tree, b: _Tree) -> bool:
    if isinstance(a, _Spot) or isinstance(b, _Spot):
        return a == b
    kinds = [n.empty if isinstance(n.empty, type) else type(n.empty) for n in (a, b)]
    pairs = [[*n.entries, *n.attributes] for n in (a, b)]
    return (
        kinds[0] is kinds[1]
        and [key for key, _ in pairs[0]] == [key for key, _ in pairs[1]]
        and all(_same_tree(x, y) for (_, x), (_, y) in zip(*pairs, strict=True))
    )


def same_value(a: object, b: object) -> bool:
    """Whether two values are interchangeable, as far as comparing them tells."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    try:
        return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else bool(a == b)
    except Exception:
        return False


class Unread:
    """Stands for a value that the loss is thought not to read: almost any use of it raises."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("the value is read")

    def __eq__(self, other: object) -> bool:
        raise TypeError("the value is read")

    def __ne__(self, other: object) -> bool:
        raise TypeError("the value is read")

    def __str__(self) -> str:
        raise TypeError("the value is read")

    __repr__ = __str__


@dataclass(frozen=True)
class Rebuild:
    """Leaves -> batch.

    Attributes
    ----------
    templates
        one for each make of batches; with several, the leaf after all others says which.
    frozen
        values that take the places of leaves, whatever these are.
    hidden
        numbers of plain values for which `Unread` stands.
    only
        the template to use, whatever the last leaf says; None leaves that to it.
    """

    templates: tuple[Template, ...]
    frozen: Mapping[int, Any] = field(default_factory=dict)
    hidden: frozenset[int] = frozenset()
    only: int | None = None

    def __call__(self, leaves: Sequence[Tensor]) -> Any:
        number = self.only
        if number is None:
            number = int(leaves[-1]) if len(self.templates) > 1 else 0
        template = self.templates[number]
        given = _traced_value if torch.compiler.is_exporting() else python_value
        values = [
            self.frozen[place] if place in self.frozen else given(kind, leaves[place])
            for kind, place in zip(template.kinds, template.places, strict=True)
        ]
        plain = [Unread() if k in self.hidden else value for k, (_, value) in enumerate(template.plain)]
        if torch.compiler.is_exporting():
            plain = [_coordinates(value) for value in plain]
        return _put_together(template.tree, values, plain)

    def constants(self, probe: Batches) -> dict[str, set[str]]:
        """The values, as Python prints them, of the numbers and lists of numbers in the batches of a Probe."""
        found: dict[str, set[str]] = {}
        for batch in probe.each():
            template = self.templates[int(batch.leaves[-1]) if len(self.templates) > 1 else 0]
            for kind, place in zip(template.kinds, template.places, strict=True):
                if kind not in ("tensor", "array"):
                    found.setdefault(probe.names[place], set()).add(repr(python_value(kind, batch.leaves[place]))[:200])
        return found


def _coordinates(value: object) -> object:
    """Compressed sparse matrices as coordinates, which can be traced."""
    if not isinstance(value, Tensor) or value.layout not in (torch.sparse_csr, torch.sparse_csc):
        return value
    with _disable_current_modes():  # what traces knows coordinates only
        return value.to_sparse_coo()


def _put_together(tree: _Tree, leaves: list[Any], plain: list[Any]) -> Any:
    if isinstance(tree, _Spot):
        return plain[tree.number] if tree.plain else leaves[tree.number]
    parts = [(key, _put_together(child, leaves, plain)) for key, child in tree.entries]
    if isinstance(tree.empty, type):
        kind: Any = tree.empty
        if issubclass(kind, dict):
            return dict(parts)
        values = [value for _, value in parts]
        return kind(*values) if hasattr(kind, "_fields") else kind(values)
    made = copy.copy(tree.empty)
    if isinstance(made, UserDict):
        made.data = type(tree.empty.data)()
        made.data.update(parts)
    elif isinstance(made, UserList):
        made.data = [value for _, value in parts]
    elif isinstance(made, list):
        list.extend(made, [value for _, value in parts])
    elif isinstance(made, dict):
        for key, value in parts:
            dict.__setitem__(made, key, value)
    for key, child in tree.attributes:
        object.__setattr__(made, key, _put_together(child, leaves, plain))
    return made
