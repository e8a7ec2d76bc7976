"""Axes: what numbers the entries of a tensor along an axis, as far as it may be reordered.

An axis is an `Atom`, a `Product` (the axis of a reshaped tensor, the last part running fastest: channels by rows by
columns) or a `Sum` (the axis of a concatenated tensor). All axes that show the same atom are reordered by the same
permutation. A pinned atom is never reordered. Whatever two axes have in common is found by `unify`, which splits atoms
where it must; what cannot be split is pinned, which is always right, for nothing moves then.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


class Atom:
    """`size` entries that are reordered together; `bound` is what it turned out to be, None where it is itself."""

    __slots__ = ("bound", "pinned", "size")

    def __init__(self, size: int, *, pinned: bool = False) -> None:
        self.size, self.pinned, self.bound = size, pinned, None  # type: int, bool, Axis | None


@dataclass(frozen=True, eq=False)
class Product:
    """Parts of which the last runs fastest."""

    parts: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """Parts one after the other."""

    parts: tuple[Axis, ...]


Axis: TypeAlias = Atom | Product | Sum

UNIT = Product(())
"""The axis of one entry."""


def size(axis: Axis) -> int:
    """Number of entries."""
    if isinstance(axis, Atom):
        return axis.size
    sizes = map(size, axis.parts)
    return prod(sizes) if isinstance(axis, Product) else sum(sizes)


def known(axis: Axis) -> Axis:
    """The axis as it is known by now: no atom in it is bound, no part of a product is a product or a unit."""
    if isinstance(axis, Atom):
        while isinstance(axis, Atom) and axis.bound is not None:
            axis = axis.bound
        return axis if isinstance(axis, Atom) else known(axis)
    found: list[Axis] = []
    for part in map(known, axis.parts):
        if isinstance(part, type(axis)):
            found += part.parts
        elif isinstance(axis, Sum) or size(part) != 1:
            found.append(part)
    return found[0] if len(found) == 1 else type(axis)(tuple(found))


def atoms(axis: Axis) -> list[Atom]:
    """Its atoms, in order."""
    axis = known(axis)
    return [axis] if isinstance(axis, Atom) else [atom for part in axis.parts for atom in atoms(part)]


def pin(*axes: Axis) -> bool:
    """Nothing of these axes is reordered; whether something of them might have been."""
    free = [atom for axis in axes for atom in atoms(axis) if not atom.pinned and atom.size > 1]
    for atom in free:
        atom.pinned = True
    return bool(free)


def pinned(count: int) -> Axis:
    """An axis that is not reordered."""
    return Atom(count, pinned=True) if count != 1 else UNIT


def free(count: int) -> Axis:
    """An axis of which nothing is known."""
    return Atom(count) if count != 1 else UNIT


# -- taking axes apart -----------------------------------------------------------------------------------------
def regroup(parts: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """The product of `parts` as axes of these sizes, whose product is the same: what a reshape does."""
    queue = deque(parts)
    found: list[Axis] = []
    for count in sizes:
        got: list[Axis] = []
        left = count
        while left > 1:
            part = known(queue.popleft()) if queue else None
            if isinstance(part, Product):
                queue.extendleft(reversed(part.parts))
            elif part is not None and left % size(part) == 0:
                got.append(part)
                left //= size(part)
            elif isinstance(part, Atom) and part.size % left == 0:
                first, rest = _halved(part, left)
                got.append(first)
                queue.appendleft(rest)
                left = 1
            else:
                pin(*parts)
                return [pinned(count) for count in sizes]
        found.append(known(Product(tuple(got))))
    return found


def _halved(atom: Atom, major: int) -> tuple[Atom, Atom]:
    """An atom as a product of two, of which the first has `major` entries."""
    halves = Atom(major, pinned=atom.pinned), Atom(atom.size // major, pinned=atom.pinned)
    atom.bound = Product(halves)
    return halves


def cut(axis: Axis, lengths: Sequence[int]) -> list[Axis]:
    """Pieces of these lengths, one after the other, that make up the axis."""
    axis = known(axis)
    if len(lengths) == 1:
        return [axis]
    if isinstance(axis, Atom):
        pieces = [Atom(length, pinned=axis.pinned) for length in lengths]
        axis.bound = Sum(tuple(pieces))
        return list(pieces)
    if isinstance(axis, Sum):
        return _cut_sum(axis, lengths)
    if axis.parts:
        inner = prod(map(size, axis.parts[1:]))
        if all(length % inner == 0 for length in lengths):
            majors = cut(axis.parts[0], [length // inner for length in lengths])
            return [known(Product((major, *axis.parts[1:]))) for major in majors]
    pin(axis)
    return [pinned(length) for length in lengths]


def _cut_sum(axis: Sum, lengths: Sequence[int]) -> list[Axis]:
    ends = set(np.cumsum(lengths).tolist())
    pieces: list[Axis] = []
    start = 0
    for part in axis.parts:
        stop = start + size(part)
        inside = sorted({start, stop, *(end for end in ends if start < end < stop)})
        pieces += cut(part, [b - a for a, b in itertools.pairwise(inside)]) if stop > start else []
        start = stop
    queue, found = deque(pieces), []
    for length in lengths:
        got: list[Axis] = []
        while sum(map(size, got)) < length:
            got.append(queue.popleft())
        found.append(known(Sum(tuple(got))))
    return found


# -- putting them together ------------------------------------------------------------------------------------
def unify(one: Axis, other: Axis) -> Axis:
    """Both axes are numbered alike from now on; returns the axis that they are.

    Raises
    ------
    ValueError
        they have different sizes.
    """
    one, other = known(one), known(other)
    if size(one) != size(other):
        raise ValueError(f"axes of {size(one)} and {size(other)} entries")
    if one is other or size(one) <= 1:
        return one
    if isinstance(other, Atom):
        one, other = other, one
    if isinstance(one, Atom):
        one.bound = other
        if one.pinned:
            pin(other)
    elif isinstance(one, Product) and isinstance(other, Product):
        _unify_products(one, other)
    else:
        _unify_sums(one, other)
    return known(one)


def _unify_products(one: Product, other: Product) -> None:
    left, right = deque(one.parts), deque(other.parts)
    while left and right:
        a, b = known(left.popleft()), known(right.popleft())
        if isinstance(a, Product) or isinstance(b, Product):
            left.extendleft(reversed(a.parts if isinstance(a, Product) else (a,)))
            right.extendleft(reversed(b.parts if isinstance(b, Product) else (b,)))
            continue
        large, small, queue = (a, b, left) if size(a) >= size(b) else (b, a, right)
        if size(a) != size(b):
            if not isinstance(large, Atom) or large.size % size(small):
                pin(one, other)
                return
            large, rest = _halved(large, size(small))
            queue.appendleft(rest)
        unify(large, small)


def _unify_sums(one: Axis, other: Axis) -> None:
    """Of which one at least is a sum."""
    ends: set[int] = set()
    for axis in (one, other):
        if isinstance(axis, Sum):
            ends |= set(np.cumsum([size(part) for part in axis.parts]).tolist())
    edges = sorted({0, *ends})
    lengths = [b - a for a, b in itertools.pairwise(edges)]
    if len(lengths) == 1:  # a sum of one piece and empty ones
        pin(one, other)
        return
    for a, b in zip(cut(one, lengths), cut(other, lengths), strict=True):
        unify(a, b)


# -- what they say of an array ---------------------------------------------------------------------------------
Terms = list[tuple[tuple[Atom, ...], Indices]]
"""An axis as a sum of products of atoms: the atoms of each, and the positions (sizes of the atoms) along the axis."""


def terms(axis: Axis) -> Terms:
    """The axis as a sum of products of atoms."""
    axis = known(axis)
    if isinstance(axis, Atom):
        return [((axis,), np.arange(axis.size))]
    found: Terms = []
    if isinstance(axis, Sum):
        start = 0
        for part in axis.parts:
            found += [(of, start + at) for of, at in terms(part)]
            start += size(part)
        return found
    found = [((), np.zeros((), dtype=np.intp))]
    for part in axis.parts:
        count = size(part)
        found = [
            (mine + theirs, here.reshape(here.shape + (1,) * there.ndim) * count + there)
            for mine, here in found
            for theirs, there in terms(part)
        ]
    return found


def order_of(axis: Axis, permutations: dict[Atom, Indices]) -> Indices:
    """(n,) which entry comes at each place of the axis, under the permutation of each atom."""
    order = np.empty(size(axis), dtype=np.intp)
    for of, at in terms(axis):
        moved = [permutations.get(atom, np.arange(atom.size)) for atom in of]
        order[at] = at[np.ix_(*moved)] if of else at
    return order


def every_atom(axes: Iterable[Axis]) -> list[Atom]:
    """The atoms of several axes that may be reordered, each once, in order."""
    return list(dict.fromkeys(atom for axis in axes for atom in atoms(axis) if not atom.pinned and atom.size > 1))
