"""Matching: the permutations of hidden units that bring one network's weights nearest to another's.

In: the weights of two networks, and what may be reordered in them (symmetry.py). Out: a permutation for each group.

Weight matching (Ainsworth, Hayase & Srinivasa 2023, https://arxiv.org/abs/2209.04836, section 3.2 and algorithm 1): the
inner product of A's weights and B's reordered ones is to be as large as it can be, which is the distance as small.
As a function of one group's permutation, the others fixed, it is an assignment problem, which is solved exactly; the
groups take turns in random order until none of them changes. It is done from two starts, and the better end counts:
B as it is, and B with each group's units matched by their weights without regard to the order of the other groups
(sorted), which finds a reordered copy at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.analysis.alignment.axes import Atom, Axis, Indices, every_atom, terms

Floats = NDArray[Any]
Permutations = dict[Atom, Indices]

SWEEPS = 100
"""Turns of all groups at most; some ten are enough."""

WIDE = 2**24
"""Weights from which on their inner products are computed in float32."""


@dataclass(frozen=True)
class Block:
    """A part of a tensor whose dimensions are each one atom: the same of both networks."""

    atoms: tuple[Atom, ...]
    one: Floats
    other: Floats

    def places(self, group: Atom) -> list[int]:
        """The dimensions that a group numbers."""
        return [dim for dim, atom in enumerate(self.atoms) if atom is group]

    def rows(self, group: Atom, dim: int, permutations: Permutations) -> tuple[Floats, Floats]:
        """Both as (n, ...) along a dimension, the other dimensions of the second one reordered."""
        moved = self.other
        for place, atom in enumerate(self.atoms):
            if place != dim and atom in permutations:
                moved = np.take(moved, permutations[atom], axis=place)
        count = group.size
        return np.moveaxis(self.one, dim, 0).reshape(count, -1), np.moveaxis(moved, dim, 0).reshape(count, -1)

    def product(self, permutations: Permutations) -> float:
        """The inner product of the one and the reordered other."""
        moved = self.other
        for place, atom in enumerate(self.atoms):
            if atom in permutations:
                moved = np.take(moved, permutations[atom], axis=place)
        return float(np.vdot(self.one, moved))

    def signatures(self, dim: int) -> tuple[Floats, Floats]:
        """Both as (n, ...) along a dimension, in an order that does not depend on that of other groups."""
        still = [p for p, atom in enumerate(self.atoms) if p != dim and atom.pinned]
        loose = [p for p, atom in enumerate(self.atoms) if p != dim and not atom.pinned]
        shape = (self.atoms[dim].size, int(np.prod([self.atoms[p].size for p in still], dtype=int)), -1)
        made = [np.sort(np.transpose(a, [dim, *still, *loose]).reshape(shape), axis=2) for a in (self.one, self.other)]
        return made[0].reshape(shape[0], -1), made[1].reshape(shape[0], -1)


def blocks(axes: Mapping[str, Sequence[Axis]], one: Mapping[str, Floats], other: Mapping[str, Floats]) -> list[Block]:
    """The tensors of both networks as blocks; those of which nothing may be reordered are left out."""
    found = []
    total = sum(array.size for array in one.values())
    dtype = np.float32 if total >= WIDE else np.float64
    for name, mine in one.items():
        if not every_atom(axes.get(name, ())):
            continue
        parts: list[tuple[tuple[Atom, ...], list[Indices]]] = [((), [])]
        for axis in axes[name]:
            parts = [(atoms + of, [*at, here.ravel()]) for atoms, at in parts for of, here in terms(axis)]
        for atoms, at in parts:
            shape = [atom.size for atom in atoms]
            place = np.ix_(*at)
            pair = [np.asarray(array[place], dtype=dtype).reshape(shape) for array in (mine, other[name])]
            found.append(Block(atoms, pair[0], pair[1]))
    return found


def match(groups: Sequence[Atom], blocks: Sequence[Block], seed: int, tell: Callable[[], object]) -> Permutations:
    """A permutation of each group; `tell` is called after each assignment."""
    of = {group: [block for block in blocks if block.places(group)] for group in groups}
    starts = [{group: np.arange(group.size) for group in groups}, _by_signature(groups, of)]
    ends = [_descended(start, of, np.random.default_rng(seed), tell) for start in starts]
    return max(ends, key=lambda end: sum(block.product(end) for block in blocks))


def _by_signature(groups: Sequence[Atom], of: Mapping[Atom, Sequence[Block]]) -> Permutations:
    found = {}
    for group in groups:
        gram = np.zeros((group.size, group.size))
        for block in of[group]:
            for dim in block.places(group):
                one, other = block.signatures(dim)
                gram += one @ other.T
        found[group] = _assigned(gram)
    return found


def _descended(
    start: Permutations, of: Mapping[Atom, Sequence[Block]], rng: np.random.Generator, tell: Callable[[], object]
) -> Permutations:
    """Permutations from which no single group can be improved."""
    found, groups = dict(start), list(of)
    for _ in range(SWEEPS):
        changed = False
        for number in rng.permutation(len(groups)):
            changed |= _improve(groups[number], of[groups[number]], found)
            tell()
        if not changed:
            break
    return found


def _improve(group: Atom, blocks: Sequence[Block], found: Permutations) -> bool:
    """Give a group the best permutation, the others fixed; whether that is better than the one it had."""
    gram, twice = np.zeros((group.size, group.size)), False
    for block in blocks:
        places = block.places(group)
        twice |= len(places) > 1
        for dim in places:
            one, other = block.rows(group, dim, found)
            gram += one @ other.T
    now, best = found[group], _assigned(gram)
    rows = np.arange(group.size)
    size = float(np.abs(gram[rows, best]).sum())
    gain = float((gram[rows, best] - gram[rows, now]).sum())
    if twice:  # where a group numbers two dimensions of a tensor, the assignment is of one of them at a time
        before, after = (sum(b.product({**found, group: order}) for b in blocks) for order in (now, best))
        gain = after - before
    if not gain > 1e-9 * size:
        return False
    found[group] = best
    return True


def _assigned(gram: NDArray[np.float64]) -> Indices:
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(gram, maximize=True)[1])
