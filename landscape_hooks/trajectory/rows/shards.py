"""Shards: what one writer of a run has written, and the pieces of all of them put together.

In: the group of a run, or of each rank of a sharded training. Out: which tensors it has, where their numbers lie, and
the tensors that did not move as whole ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.store import checked
from landscape_hooks.trajectory.marks import Mark
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.checksum import Damage
from landscape_hooks.trajectory.rows.columns import Columns
from landscape_hooks.trajectory.rows.fixed import Base, Bits, Fixed, digest_of
from landscape_hooks.trajectory.rows.late import Late, read_late
from landscape_hooks.trajectory.rows.part import Part
from landscape_hooks.trajectory.sharding import Piece, Runs


@dataclass(frozen=True)
class Shard:
    """What one writer has written.

    Attributes
    ----------
    part
        its rows.
    own, late, fixed
        the parameters that moved from the beginning, those that joined them, and the tensors that were stored once; of
        a sharded training, pieces of tensors.
    late_buffers
        buffers that were stored once, and have begun to move.
    pieces
        which part of each tensor it has; None where it has whole ones.
    """

    part: Part
    own: ParameterLayout
    late: Sequence[Late]
    fixed: Fixed
    pieces: dict[str, Piece] | None = None
    late_buffers: Sequence[Late] = ()

    @classmethod
    def of(cls, root: zarr.Group, path: str, base: Base | None, whole: ParameterLayout | None = None) -> Shard:
        """The one below `path` ("" for a run of one writer); `whole` are the tensors that there are pieces of."""
        part = Part(root, f"{path}trajectory")
        # after the commit record: a row that it counts has no columns that are not known here
        group = root if not path else checked.group(root, path.rstrip("/"))
        own = ParameterLayout.from_json(checked.attribute(group, "layout", list, path.rstrip("/") or "the run"))
        pieces = None if whole is None else _pieces(group, own, "pieces")
        entries = {} if whole is None else {entry.name: entry for entry in whole}
        fixed = Fixed(group, base)
        if pieces is not None and len(fixed):
            listed = ParameterLayout([*fixed.layout, *fixed.others])
            pieces |= _pieces(checked.group(group, "fixed"), listed, "pieces")
            if base is not None:
                fixed = Fixed(group, _cut(base, entries, pieces))
        joined = read_late(checked.group(root, f"{path}trajectory"), fixed)
        for each in joined:
            part.late[each.array] = each.from_step
        late, buffers = ([each for each in joined if each.of_buffers is kind] for kind in (False, True))
        found = cls(part, own, late, fixed, pieces, buffers)
        part.check_width("weights", own.size, own.size)
        for each in joined:
            part.check_width(each.array, each.layout.size, each.layout.size)
        return found

    def arranged(self, layout: ParameterLayout) -> tuple[Columns, Runs | None]:
        """Its columns of the tensors of `layout`, and where they belong in these if it has pieces of them."""
        if self.pieces is None:
            return Columns(self.own, self.late, self.fixed, layout), None
        mine = [self.pieces[entry.name] for entry in layout if entry.name in self.pieces]
        runs = Runs(layout, mine)
        entries = {entry.name: entry for entry in layout}
        held = [_cut_entry(entries[piece.name], piece) for piece in mine]
        return Columns(self.own, self.late, self.fixed, ParameterLayout.in_order(held)), runs

    def of_mark(self, size: int) -> Shard:
        """The same with one row of `size` numbers: what moved when it was taken; what moved later had not begun."""
        return replace(self, own=moved_first(self.own, self.late, size), late=())

    def buffers(self, layout: ParameterLayout, of_mark: int | None = None) -> Columns:
        """The columns of all buffers of the model; of a mark, which has so many numbers of them."""
        once = set(self.fixed.buffers.names)
        own = ParameterLayout.in_order([entry for entry in layout if entry.name not in once], kind="buffer")
        if of_mark is None:
            return Columns(own, self.late_buffers, self.fixed, layout, "buffers")
        return Columns(moved_first(own, self.late_buffers, of_mark), (), self.fixed, layout, "buffers")

    def buffers_of_mark(self, mark: Mark, layout: ParameterLayout) -> NDArray[Any]:
        """(B,) all buffers of the model in a mark."""
        columns = self.buffers(layout, mark.buffer_size)
        return row_of_mark(mark, columns, np.dtype(layout.dtype), slice(0, layout.size))[0]

    def check_buffers(self, layout: ParameterLayout) -> tuple[int, ...]:
        """Numbers of buffers in its rows at first, and after each time that further ones began to move.

        Raises
        ------
        DamagedRunError
            what is stored once is none of the model's buffers, or the rows have another width.
        """
        known = {entry.name: entry for entry in layout}
        for entry in self.fixed.buffers:
            own = known.get(entry.name)
            if own is None or own.shape != entry.shape or own.size != entry.size:
                raise checked.damaged(f"The buffer '{entry.name}', which is stored once, is none of the model's")
        sizes = [layout.size - self.fixed.buffers.size, *(each.layout.size for each in self.late_buffers)]
        self.part.check_width("buffers", sizes[0], sizes[0])
        return tuple(int(size) for size in np.cumsum(sizes))

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers in its rows at first, and after each time that further parameters began to move."""
        sizes = [self.own.size, *(each.layout.size for each in self.late)]
        return tuple(int(size) for size in np.cumsum(sizes))

    @property
    def dtypes(self) -> list[np.dtype[Any]]:
        """The types that its rows are read as."""
        return [self.part.dtype(name) for name in ("weights", *(each.array for each in self.late))]


def row_of_mark(mark: Mark, columns: Columns, dtype: np.dtype[Any], part: slice) -> NDArray[Any]:
    """(1, c) some columns of a mark."""
    row = np.zeros(1, dtype=np.int64)
    return columns.read(lambda name, _, inside: mark.matrix(name, inside)[None], row, row, part, dtype)


def moved_first(own: ParameterLayout, late: Sequence[Late], size: int) -> ParameterLayout:
    """The first tensors of a row with late columns, `size` numbers in all."""
    entries, found = [*own, *(entry for each in late for entry in each.layout)], []
    while entries and size > 0:
        found.append(entries.pop(0))
        size -= found[-1].size
    return ParameterLayout.in_order(found, kind=own.kind)


class Gathered(Fixed):
    """The tensors that a sharded training stored once, whole: each rank has pieces of them."""

    def __init__(self, root: zarr.Group, shards: Sequence[Shard]) -> None:
        super().__init__(root)
        self._shards = shards

    def stored(self, name: str, columns: slice = slice(None)) -> Bits:
        """As of `Fixed`."""
        entry = replace(self.entry(name), offset=0)
        start, stop, _ = columns.indices(entry.size)
        found = np.empty((1, max(0, stop - start)), dtype=bits.stored_type(entry.dtype))
        for shard in self._shards:
            piece = (shard.pieces or {}).get(name)
            if piece is not None:
                runs = Runs(ParameterLayout([entry]), [piece])
                runs.scatter(found, start, stop, partial(_as_row, shard.fixed, name))
        return found[0]

    @property
    def by_reference(self) -> bool:
        """As of `Fixed`."""
        return any(shard.fixed.reference for shard in self._shards)

    def known(self, name: str) -> None:
        """Nothing is stored of a whole tensor."""

    def holds(self, name: str, pieces: Iterable[Bits]) -> bool:
        """As of `Fixed`."""
        return digest_of(pieces) == digest_of(self.pieces(name))

    def damages(self) -> list[Damage]:
        """As of `Fixed`, each with its rank."""
        return [replace(d, rank=rank) for rank, shard in enumerate(self._shards) for d in shard.fixed.damages()]


def _as_row(fixed: Fixed, name: str, columns: slice) -> NDArray[Any]:
    return fixed.stored(name, columns)[None]


def shards_of(root: zarr.Group, ranks: int, base: Base | None) -> list[Shard]:
    """What each rank of a sharded training has written, or the one writer of another one."""
    if not ranks:
        return [Shard.of(root, "", base)]
    own = ParameterLayout.from_json(checked.attribute(root, "layout", list, "the run"))
    whole = ParameterLayout([*own, *Fixed(root).layout, *Fixed(root).others])
    found = [Shard.of(root, f"ranks/{rank}/", base, whole) for rank in range(ranks)]
    if sum(shard.own.size for shard in found) != own.size:
        raise checked.damaged("The pieces of the ranks do not cover the parameters", expected=f"{own.size} numbers")
    return found


def moving_of(root: zarr.Group, shards: Sequence[Shard], fixed: Fixed) -> tuple[ParameterLayout, list[Late]]:
    """What moved from the beginning, and what joined it, as whole tensors."""
    if shards[0].pieces is None:
        return shards[0].own, list(shards[0].late)
    own = ParameterLayout.from_json(checked.attribute(root, "layout", list, "the run"))
    begun: dict[str, int] = {}
    for shard in shards:
        for late in shard.late:
            begun |= {e.name: min(late.from_step, begun.get(e.name, late.from_step)) for e in late.layout}
    found = []
    for number, step in enumerate(sorted(set(begun.values()))):
        joined = [entry for entry in fixed.layout if begun.get(entry.name) == step]
        found.append(Late(number, ParameterLayout.in_order(joined), step))
    return own, found


def _pieces(group: Any, layout: ParameterLayout, key: str) -> dict[str, Piece]:
    """The pieces that a rank lists, of which it has these tensors."""
    found = [Piece.from_json(piece) for piece in checked.attribute(group, key, list, "a rank")]
    shapes = [(entry.name, entry.shape) for entry in layout]
    if [(piece.name, piece.shape) for piece in found] != shapes:
        raise checked.damaged("The pieces of a rank are not those of its manifest")
    return {piece.name: piece for piece in found}


def _cut_entry(entry: ParameterEntry, piece: Piece) -> ParameterEntry:
    size = int(np.prod(piece.shape, dtype=np.int64)) * (2 if entry.is_complex else 1)
    return replace(entry, shape=piece.shape, size=size)


def _cut(base: Base, entries: dict[str, ParameterEntry], pieces: dict[str, Piece]) -> Base:
    """A base that gives a rank's pieces."""

    def piece_of(entry: ParameterEntry) -> NDArray[Any]:
        whole, piece = entries[entry.name], pieces[entry.name]
        pairs = (2,) if entry.is_complex else ()
        box = tuple(slice(c, c + n) for c, n in zip(piece.corner, piece.shape, strict=True))
        return np.ascontiguousarray(base(whole).reshape(*whole.shape, *pairs)[box]).reshape(-1)

    return piece_of
