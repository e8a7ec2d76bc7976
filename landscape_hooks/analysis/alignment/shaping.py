"""Shaping: rules for operations that rearrange numbers: reshapes, transposes, concatenations, pieces, tables."""

from __future__ import annotations

from math import prod

from landscape_hooks.analysis.alignment.axes import UNIT, Axis, Product, Sum, cut, free, pin, pinned, regroup, unify
from landscape_hooks.analysis.alignment.axes import size as size_of
from landscape_hooks.analysis.alignment.calls import Axes, Call, NotUnderstoodError, Tensor, broadcast


def reshape(call: Call) -> Tensor:
    """Axes are taken apart and put together; between those that are, others stay as they are."""
    given, wanted = call.first, list(call.result)
    if 0 in wanted:
        raise NotUnderstoodError
    found: Axes = []
    while given or wanted:
        mine, theirs = given[:1], wanted[:1]
        given, wanted = given[1:], wanted[1:]
        while (a := prod(map(size_of, mine))) != (b := prod(theirs)):
            if (a < b and given) or not wanted:
                mine, given = [*mine, *given[:1]], given[1:]
            else:
                theirs, wanted = [*theirs, *wanted[:1]], wanted[1:]
        found += mine if len(mine) == len(theirs) == 1 else regroup(mine, theirs)
    return Tensor(found)


def transpose(call: Call) -> Tensor:
    axes = call.first
    names = [name for name in ("dim0", "dim1", "axis0", "axis1") if name in call.arguments]
    a, b = (int(call[name]) for name in names) if names else (-2, -1)
    if len(axes) > 1:
        axes[a], axes[b] = axes[b], axes[a]
    return Tensor(axes)


def permute(call: Call) -> Tensor:
    axes = call.first
    dims = call.where("dims", len(axes)) if call.get("dims") else list(range(len(axes)))[::-1]
    return Tensor([axes[dim] for dim in dims])


def moved(call: Call) -> Tensor:
    axes = call.first
    count, order = len(axes), {}
    for source, to in zip(call.where("source", count), call.where("destination", count), strict=True):
        order[to] = source
    others = iter([dim for dim in range(count) if dim not in order.values()])
    return Tensor([axes[order[dim] if dim in order else next(others)] for dim in range(count)])


def expanded(call: Call) -> Tensor:
    """An axis of one entry is repeated."""
    return Tensor(broadcast([Tensor(call.first)], call.result))


def repeated(call: Call) -> Tensor:
    """Tiles: copies run slowest."""
    axes, shape = call.first, call.result
    axes = [UNIT] * (len(shape) - len(axes)) + axes
    return Tensor([
        axis if size_of(axis) == count else Product((free(count // size_of(axis)), axis))
        for axis, count in zip(axes, shape, strict=True)
    ])  # fmt: skip


def repeated_entries(call: Call) -> Tensor:
    """Each entry several times: copies run fastest."""
    axes, dim = call.first, call.get("dim")
    if dim is None or not isinstance(call.get("repeats"), int):
        raise NotUnderstoodError
    place = int(dim) % len(axes)
    axes[place] = Product((axes[place], free(call.result[place] // size_of(axes[place]))))
    return Tensor(axes)


def concatenation(call: Call) -> Tensor:
    """The axes of the parts one after the other."""
    parts = [t for t in call.tensors if t.shape != (0,)]
    count = len(parts[0].axes)
    dim = int(call.get("dim", call.get("axis", 0))) % count
    found: Axes = []
    for place in range(count):
        axes = [t.axes[place] for t in parts]
        if place == dim:
            found.append(Sum(tuple(axes)))
            continue
        for other in axes[1:]:
            unify(axes[0], other)
        found.append(axes[0])
    return Tensor(found)


def stack(call: Call) -> Tensor:
    """A new axis that numbers the parts."""
    axes = broadcast(call.tensors, call.tensors[0].shape)
    dim = int(call.get("dim", 0)) % (len(axes) + 1)
    axes.insert(dim, pinned(len(call.tensors)))
    return Tensor(axes)


def split(call: Call) -> list[Tensor]:
    """Pieces along a dimension."""
    axes = call.first
    dim = int(call.get("dim", 0)) % len(axes)
    one = len(call.result[0]) < len(axes)  # unbind drops the dimension
    lengths = [1 if one else shape[dim] for shape in call.result]
    pieces = cut(axes[dim], lengths) if all(lengths) else None
    if pieces is None:
        raise NotUnderstoodError
    return [Tensor([*axes[:dim], *([] if one else [piece]), *axes[dim + 1 :]]) for piece in pieces]


def select(call: Call) -> Tensor:
    """One entry of an axis; the others may still be reordered."""
    axes = call.first
    dim, count = int(call["dim"]) % len(axes), size_of(axes[int(call["dim"])])
    _cut_out(axes[dim], int(call["index"]) % count, 1)
    return Tensor([*axes[:dim], *axes[dim + 1 :]])


def sliced(call: Call) -> Tensor:
    """A range of an axis; with a step, places are read."""
    axes = call.first
    dim = int(call.get("dim", 0)) % len(axes)
    count = size_of(axes[dim])
    if int(call.get("step", 1)) != 1:
        pin(axes[dim])
        axes[dim] = pinned(call.result[dim])
        return Tensor(axes)
    start = call.get("start") or 0
    start = min(max(int(start) + (count if int(start) < 0 else 0), 0), count)
    axes[dim] = _cut_out(axes[dim], start, call.result[dim])
    return Tensor(axes)


def _cut_out(axis: Axis, start: int, length: int) -> Axis:
    """A range of an axis."""
    count = size_of(axis)
    lengths = [n for n in (start, length, count - start - length) if n]
    if not length or sum(lengths) != count:
        raise NotUnderstoodError
    return cut(axis, lengths)[1 if start else 0]


def embedding(call: Call) -> Tensor:
    """Rows of a table by number."""
    table, numbers = call["weight"].axes, call["indices"].axes
    pin(table[0])
    return Tensor([*numbers, *table[1:]])


def index_select(call: Call) -> Tensor:
    axes = call.first
    dim = int(call["dim"]) % len(axes)
    pin(axes[dim], *call["index"].axes)
    axes[dim] = pinned(call.result[dim])
    return Tensor(axes)


def index(call: Call) -> Tensor:
    """Entries of one axis by number."""
    axes = call.first
    given = list(call["indices"]) + [None] * (len(axes) - len(call["indices"]))
    places_given = [place for place, value in enumerate(given) if isinstance(value, Tensor)]
    if len(places_given) != 1 or len(given) != len(axes):
        raise NotUnderstoodError
    (place,) = places_given
    numbers = given[place].axes
    if len(call.result) != len(axes) - 1 + len(numbers):  # a mask
        raise NotUnderstoodError
    pin(axes[place])
    return Tensor([*axes[:place], *numbers, *axes[place + 1 :]])


def triangle(call: Call) -> Tensor:
    axes = call.first
    pin(*axes[-2:])
    return Tensor(axes)
