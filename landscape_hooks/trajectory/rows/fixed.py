"""Fixed: tensors that do not move are stored once; columns of those that begin to move later join the trajectory.

In: the manifest of the tensors that stood still when recording began, and their bits. Out: the groups `fixed` and
`trajectory/late/K`, and from them the values that a snapshot has where no row says otherwise. No torch here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import DamagedRunError
from landscape_hooks.store import checked, schema
from landscape_hooks.store.folder import WHOLE
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.checksum import Damage

CHUNK = 2**22
"""Numbers in one stored chunk."""

MOST_LATE = 10_000
"""Groups of late columns that a reader takes from one run."""

Bits = NDArray[Any]
"""(size,) a tensor in C order, in the type it is stored in (`bits.stored_type`)."""


class Fixed(Mapping[str, NDArray[Any]]):
    """The tensors of a run that were stored once, by name; read when asked for.

    Values have the tensor's shape and are numbers: bfloat16 and 8-bit floats are read as float32, the others as they
    are.
    """

    def __init__(self, root: zarr.Group) -> None:
        self._group = checked.group(root, "fixed")
        entries = [] if self._group is None else checked.attribute(self._group, "layout", list, "the fixed tensors")
        self.layout = ParameterLayout.from_json(entries)
        self._place = {entry.name: place for place, entry in enumerate(self.layout)}

    def __len__(self) -> int:
        return len(self.layout)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __contains__(self, name: object) -> bool:
        return name in self._place  # without reading it

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self.layout.entries[self._place[name]]
        numbers = bits.widened(self.stored(name), entry.dtype)
        if not entry.is_complex:
            return numbers.reshape(entry.shape)
        pairs = numbers if numbers.dtype.itemsize > 2 else numbers.astype(np.float32)  # NumPy has no complex halves
        return pairs.view(np.complex128 if pairs.itemsize == 8 else np.complex64).reshape(entry.shape)

    def stored(self, name: str, columns: slice = slice(None)) -> Bits:
        """(c,) numbers of a tensor in C order as they are stored, pairs (real, imaginary) of a complex one."""
        array = self._array(self._place[name])
        return checked.select(array, (columns,), f"fixed/{self._place[name]}")

    def checksum(self, name: str) -> int:
        """CRC-32 of the tensor's bytes, as they were when it was stored."""
        place = self._place[name]
        return checked.whole(self._array(place).attrs.get("checksum"), f"The checksum of 'fixed/{place}'", high=2**32)

    def row(self, layout: ParameterLayout, start: int, stop: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """(stop - start,) numbers of a row of `layout`, whose tensors are among these."""
        found = np.empty(stop - start, dtype=dtype)
        for entry in layout:
            first, last = max(start, entry.offset), min(stop, entry.offset + entry.size)
            if first < last:
                part = self.stored(entry.name, slice(first - entry.offset, last - entry.offset))
                kind = self.layout.entries[self._place[entry.name]].dtype
                found[first - start : last - start] = bits.widened(part, kind)
        return found

    def damages(self) -> list[Damage]:
        """The tensors that are not what their checksums say, or cannot be read."""
        found = []
        for name in self:
            expected = self.checksum(name)
            try:
                value = checksum_of(self.stored(name, slice(i, i + CHUNK)) for i in range(0, self._size(name), CHUNK))
            except DamagedRunError as error:
                found.append(Damage(-1, -1, expected, None, error.found, tensor=name))
                continue
            if value != expected:
                found.append(Damage(-1, -1, expected, value, tensor=name))
        return found

    def _size(self, name: str) -> int:
        return self.layout.entries[self._place[name]].size

    def _array(self, place: int) -> zarr.Array[Any]:
        entry = self.layout.entries[place]
        array = checked.array(self._group, str(place))
        kind = bits.stored_type(entry.dtype)
        if array.shape != (entry.size,) or array.dtype != kind:
            raise checked.damaged(
                f"The array 'fixed/{place}' has the shape {array.shape} and the type {array.dtype}",
                expected=f"({entry.size},) of {kind}, for '{entry.name}' of {entry.dtype}",
            )
        return array


class Chosen(Mapping[str, NDArray[Any]]):
    """Some of the tensors that were stored once."""

    def __init__(self, fixed: Fixed, names: Sequence[str]) -> None:
        self._fixed, self._names = fixed, dict.fromkeys(names)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without reading it

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._fixed[name]

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each tensor's bytes, as they were when it was stored."""
        return {name: self._fixed.checksum(name) for name in self}


def put_fixed(root: zarr.Group, tensors: Sequence[tuple[ParameterEntry, Callable[[], Iterator[Bits]]]]) -> None:
    """Store tensors once: entries, and functions that give the bits of each in pieces of up to `CHUNK` numbers."""
    layout = ParameterLayout.in_order([entry for entry, _ in tensors])
    group = root.create_group("fixed", overwrite=True)
    for place, (entry, pieces) in enumerate(tensors):
        array = schema.create(
            root,
            f"fixed/{place}",
            (entry.size,),
            dtype=bits.stored_type(entry.dtype),
            chunks=(max(1, min(entry.size, CHUNK)),),
            attributes=bits.attributes_of(entry.dtype),
            compressors=None,
            config=WHOLE,
        )
        start, checksum = 0, 0
        for piece in pieces():
            array[start : start + len(piece)] = piece
            start, checksum = start + len(piece), checksum_of([piece], checksum)
        array.attrs["checksum"] = checksum
    group.attrs["layout"] = layout.to_json()


def checksum_of(pieces: Iterable[Bits], start: int = 0) -> int:
    """CRC-32 of the bytes of some pieces, one after the other, little-endian."""
    for piece in pieces:
        start = zlib.crc32(np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).view(np.uint8).data, start)
    return start


# -- columns that begin to move later --------------------------------------------------------------------------
@dataclass(frozen=True)
class Late:
    """Columns that snapshots have from a step on.

    Attributes
    ----------
    number
        K of the group `trajectory/late/K`.
    layout
        the tensors, which are fixed ones until then.
    from_step
        the first step whose snapshot has a row of them.
    """

    number: int
    layout: ParameterLayout
    from_step: int

    @property
    def array(self) -> str:
        """Where its rows lie, below the group `trajectory`."""
        return f"late/{self.number}/weights"


def read_late(trajectory: zarr.Group, fixed: Fixed) -> list[Late]:
    """The late columns of a group `trajectory`, in the order in which they join a row.

    Raises
    ------
    DamagedRunError
        one of them is not what the format says.
    """
    names = checked.names_of(trajectory, "late")
    if not set(names) <= {str(number) for number in range(min(len(names), MOST_LATE))}:
        raise checked.damaged("The groups of late columns are not numbered 0, 1, ...")
    found: list[Late] = []
    seen: set[str] = set()
    for number in range(len(names)):
        group = checked.group(trajectory, f"late/{number}")
        if "from_step" not in group.attrs:  # it was only begun; nothing counts on it
            break
        layout = ParameterLayout.from_json(checked.attribute(group, "layout", list, f"the late columns {number}"))
        for entry in layout:
            known = fixed.layout[entry.name] if entry.name in fixed else None
            if known is None or known.shape != entry.shape or known.size != entry.size or entry.name in seen:
                raise checked.damaged(f"'{entry.name}' of the late columns {number} is no fixed tensor")
            seen.add(entry.name)
        found.append(Late(number, layout, checked.whole(group.attrs["from_step"], "A step of late columns")))
    return found


def moving_layout(root: zarr.Group) -> ParameterLayout:
    """The layout of the weights of a run's snapshots: what moved from the beginning, then the late columns."""
    own = ParameterLayout.from_json(checked.attribute(root, "layout", list, "the run"))
    group = checked.group(root, "trajectory")
    late = read_late(group, Fixed(root)) if group is not None else []
    return joined_layout(own, late)


def joined_layout(own: ParameterLayout, late: Sequence[Late]) -> ParameterLayout:
    """One layout of the first columns and the late ones.

    Raises
    ------
    DamagedRunError
        a tensor is in both.
    """
    if not late:
        return own
    entries = [*own, *(entry for each in late for entry in each.layout)]
    if len({entry.name for entry in entries}) < len(entries):
        raise checked.damaged("A tensor is among the late columns that moved from the beginning")
    return ParameterLayout.in_order(entries)


def still(fixed: Fixed, late: Sequence[Late]) -> list[str]:
    """Names of the fixed tensors that never began to move."""
    moved = {entry.name for each in late for entry in each.layout}
    return [name for name in fixed if name not in moved]
