"""Fixed: tensors that do not move are stored once; columns of those that begin to move later join the trajectory.

In: the manifest of the tensors that stood still when recording began, and their bits. Out: the groups `fixed` and
`trajectory/late/K`, and from them the values that a snapshot has where no row says otherwise. No torch here.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import DamagedRunError, RunError
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


Base = Callable[[ParameterEntry], Bits]
"""What gives back a tensor that a run knows by reference alone: its bits as they would be stored."""


class Fixed(Mapping[str, NDArray[Any]]):
    """The tensors of a run that were stored once, by name; read when asked for.

    Values have the tensor's shape and are numbers: bfloat16 and 8-bit floats are read as float32, the others as they
    are.

    Parameters
    ----------
    root
        the run, or one rank's group of it.
    base
        gives the values of tensors that are there by reference (`Parameters(frozen="reference")`).

    Attributes
    ----------
    layout
        the parameters: floating-point tensors, which may begin to move.
    others
        tensors of integers, as quantized layers hold them.
    reference
        whether the run has names, shapes and digests in place of values.
    """

    def __init__(self, root: zarr.Group, base: Base | None = None) -> None:
        self._group, self._base = checked.group(root, "fixed"), base
        listed = [] if self._group is None else checked.attribute(self._group, "layout", list, "the fixed tensors")
        others = [] if self._group is None else self._group.attrs.get("others", [])
        self.reference = self._group is not None and self._group.attrs.get("reference") is True
        self._list(listed, others)
        self._given: tuple[int, Bits] = (-1, np.empty(0))
        self._known: set[int] = set()

    def _list(self, layout: Sequence[Any], others: Sequence[Any]) -> None:
        self.layout = ParameterLayout.from_json(layout)
        self.others = ParameterLayout.from_json(others, kind="tensor", types=bits.INTEGERS)
        self._entries = (*self.layout, *self.others)
        self._place = {entry.name: place for place, entry in enumerate(self._entries)}
        if len(self._place) < len(self._entries):
            raise checked.damaged("A tensor is listed twice among those that do not move")

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __contains__(self, name: object) -> bool:
        return name in self._place  # without reading it

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self.entry(name)
        numbers = self.numbers(name)
        if not entry.is_complex:
            return numbers.reshape(entry.shape)
        pairs = numbers if numbers.dtype.itemsize > 2 else numbers.astype(np.float32)  # NumPy has no complex halves
        return pairs.view(np.complex128 if pairs.itemsize == 8 else np.complex64).reshape(entry.shape)

    def entry(self, name: str) -> ParameterEntry:
        """What is known of a tensor."""
        return self._entries[self._place[name]]

    def stored(self, name: str, columns: slice = slice(None)) -> Bits:
        """(c,) numbers of a tensor in C order as they are stored, pairs (real, imaginary) of a complex one.

        Raises
        ------
        RunError
            the run has it by reference, and no base was given, or one with another tensor.
        """
        place = self._place[name]
        if self.reference:
            return self._of_base(place)[columns]
        return checked.select(self._array(place), (columns,), f"fixed/{place}")

    def numbers(self, name: str, columns: slice = slice(None)) -> NDArray[Any]:
        """(c,) the same as numbers: bfloat16 and 8-bit floats as float32."""
        return bits.widened(self.stored(name, columns), self.entry(name).dtype)

    def pieces(self, name: str) -> Iterator[Bits]:
        """The same as `stored`, in pieces of up to `CHUNK` numbers."""
        for start in range(0, self.entry(name).size, CHUNK):
            yield self.stored(name, slice(start, start + CHUNK))

    def checksum(self, name: str) -> int:
        """CRC-32 of the tensor's bytes, as they were when it was stored."""
        place = self._place[name]
        return checked.whole(self._array(place).attrs.get("checksum"), f"The checksum of 'fixed/{place}'", high=2**32)

    @property
    def by_reference(self) -> bool:
        """As `reference`, of whichever rank's."""
        return self.reference

    def known(self, name: str) -> int | str | None:
        """What is stored beside a tensor: its checksum, of a reference its digest; None if there is no such number."""
        return self._digest(self._place[name]) if self.reference else self.checksum(name)

    def holds(self, name: str, pieces: Iterable[Bits]) -> bool:
        """Whether these are the bits of a tensor, as they were when the recording began."""
        return (digest_of(pieces) if self.reference else checksum_of(pieces)) == self.known(name)

    def row(self, layout: ParameterLayout, start: int, stop: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """(stop - start,) numbers of a row of `layout`, whose tensors are among these."""
        found = np.empty(stop - start, dtype=dtype)
        for entry in layout:
            first, last = max(start, entry.offset), min(stop, entry.offset + entry.size)
            if first < last:
                part = self.numbers(entry.name, slice(first - entry.offset, last - entry.offset))
                found[first - start : last - start] = part
        return found

    def damages(self) -> list[Damage]:
        """The tensors that are not what their checksums say, or cannot be read; none where they are not in the run."""
        found: list[Damage] = []
        for name in () if self.reference else self:
            expected = self.checksum(name)
            try:
                value = checksum_of(self.pieces(name))
            except DamagedRunError as error:
                found.append(Damage(-1, -1, expected, None, error.found, tensor=name))
                continue
            if value != expected:
                found.append(Damage(-1, -1, expected, value, tensor=name))
        return found

    def _of_base(self, place: int) -> Bits:
        """A tensor that the run has by reference; it is compared with its digest the first time."""
        entry = self._entries[place]
        if self._base is None:
            more = f" and {len(self) - 1} more tensors" if len(self) > 1 else ""
            raise RunError(
                f"The run has '{entry.name}'{more} by reference (Parameters(frozen='reference')): not the values",
                expected="the base that was trained on",
                mend="Say where it is: --base FILE, FOLDER or module:function; in Python Snapshots(base=...)",
            )
        held, values = self._given
        if held == place:
            return values
        values = self._base(entry)
        if place not in self._known:
            if values.shape != (entry.size,) or digest_of([values]) != self._digest(place):
                raise RunError(
                    f"The base has another '{entry.name}' than the training had (the digests differ)",
                    expected="the base that was trained on, in the same type",
                    mend="Name that one with --base",
                )
            self._known.add(place)
        self._given = place, values
        return values

    def _digest(self, place: int) -> str:
        digests = checked.attribute(self._group, "digests", list, "the fixed tensors")
        if len(digests) != len(self):
            raise checked.damaged(f"The run has {len(digests)} digests of {len(self)} fixed tensors")
        return str(digests[place])

    def _array(self, place: int) -> zarr.Array[Any]:
        entry = self._entries[place]
        array = checked.array(self._group, str(place))
        kind = bits.stored_type(entry.dtype)
        if array.shape != (entry.size,) or array.dtype != kind:
            raise checked.damaged(
                f"The array 'fixed/{place}' has the shape {array.shape} and the type {array.dtype}",
                expected=f"({entry.size},) of {kind}, for '{entry.name}' of {entry.dtype}",
            )
        return array


def same_values(name: str, one: Fixed, other: Fixed) -> bool:
    """Whether two runs have the same values of a tensor; of two references, the same digests."""
    if one.entry(name).dtype != other.entry(name).dtype:
        size = one.entry(name).size
        parts = (slice(start, start + CHUNK) for start in range(0, size, CHUNK))
        return all(np.array_equal(one.numbers(name, c), other.numbers(name, c), equal_nan=True) for c in parts)
    known = [each.known(name) for each in (one, other)]
    if type(known[0]) is type(known[1]) and known[0] is not None:
        return known[0] == known[1]
    told, read = (one, other) if one.reference else (other, one)
    return told.holds(name, read.pieces(name))


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

    def entry(self, name: str) -> ParameterEntry:
        """What is known of a tensor."""
        return self._fixed.entry(name)

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each tensor's bytes, as they were when it was stored."""
        return {name: self._fixed.checksum(name) for name in self}

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in their own types, in the run or (by reference) elsewhere."""
        entries = [self._fixed.entry(name) for name in self]
        return sum(entry.size * bits.stored_type(entry.dtype).itemsize for entry in entries)

    @property
    def by_reference(self) -> bool:
        """Whether the run has names, shapes and digests in place of values."""
        return self._fixed.by_reference

    def stored(self, name: str) -> Bits:
        """(size,) its numbers in C order as they are stored; see `Fixed.stored`."""
        return self._fixed.stored(name)


Pieces = tuple[ParameterEntry, Callable[[], Iterator[Bits]]]
"""A tensor to be stored, and a function that gives its bits in pieces of up to `CHUNK` numbers."""


def put_fixed(
    root: zarr.Group, tensors: Sequence[Pieces], others: Sequence[Pieces] = (), *, reference: bool = False
) -> None:
    """Store tensors once; `others` are those of integers. With `reference`, their digests in place of the values."""
    group = root.create_group("fixed", overwrite=True)
    attributes: dict[str, Any] = {"others": _in_order(others)} if others else {}
    if reference:
        digests = [digest_of(pieces()) for _, pieces in (*tensors, *others)]
        group.update_attributes({**attributes, "reference": True, "digests": digests, "layout": _in_order(tensors)})
        return
    for place, (entry, pieces) in enumerate((*tensors, *others)):
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
    group.update_attributes({**attributes, "layout": _in_order(tensors)})


def _in_order(tensors: Sequence[Pieces]) -> list[dict[str, Any]]:
    return ParameterLayout.in_order([entry for entry, _ in tensors]).to_json()


def checksum_of(pieces: Iterable[Bits], start: int = 0) -> int:
    """CRC-32 of the bytes of some pieces, one after the other, little-endian."""
    for piece in pieces:
        start = zlib.crc32(_bytes_of(piece), start)
    return start


def digest_of(pieces: Iterable[Bits]) -> str:
    """SHA-256 of the same, in hexadecimal."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(_bytes_of(piece))
    return total.hexdigest()


def _bytes_of(piece: Bits) -> memoryview:
    return np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).view(np.uint8).data


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
    parameters = set(fixed.layout.names)
    for number in range(len(names)):
        group = checked.group(trajectory, f"late/{number}")
        if "from_step" not in group.attrs:  # it was only begun; nothing counts on it
            break
        layout = ParameterLayout.from_json(checked.attribute(group, "layout", list, f"the late columns {number}"))
        for entry in layout:
            known = fixed.entry(entry.name) if entry.name in parameters else None
            if known is None or known.shape != entry.shape or known.size != entry.size or entry.name in seen:
                raise checked.damaged(f"'{entry.name}' of the late columns {number} is no fixed tensor")
            seen.add(entry.name)
        found.append(Late(number, layout, checked.whole(group.attrs["from_step"], "A step of late columns")))
    return found


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
