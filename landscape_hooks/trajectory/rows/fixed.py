"""Fixed: tensors that do not move are stored once.

In: the manifest of the tensors that stood still when recording began, and their bits. Out: the group `fixed`, and from
it the values that a snapshot has where no row says otherwise. No torch here.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    buffers
        floating-point buffers, which may begin to move.
    reference
        whether the run has names, shapes and digests in place of the values of `layout` and `others`.
    """

    def __init__(self, root: zarr.Group, base: Base | None = None) -> None:
        self._group, self._base = checked.group(root, "fixed"), base
        listed = [] if self._group is None else checked.attribute(self._group, "layout", list, "the fixed tensors")
        others = [] if self._group is None else self._group.attrs.get("others", [])
        buffers = [] if self._group is None else self._group.attrs.get("buffers", [])
        self.reference = self._group is not None and self._group.attrs.get("reference") is True
        self._list(listed, others, buffers)
        self._given: tuple[int, Bits] = (-1, np.empty(0))
        self._known: set[int] = set()

    def _list(self, layout: Sequence[Any], others: Sequence[Any], buffers: Any) -> None:
        self.layout = ParameterLayout.from_json(layout)
        self.others = ParameterLayout.from_json(others, kind="tensor", types=bits.INTEGERS)
        self.buffers = ParameterLayout.from_json(buffers, kind="buffer")
        self._entries = (*self.layout, *self.others, *self.buffers)
        self._elsewhere = len(self.layout) + len(self.others) if self.reference else 0
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
        if place < self._elsewhere:
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
        return self._digest(self._place[name]) if self.is_elsewhere(name) else self.checksum(name)

    def is_elsewhere(self, name: str) -> bool:
        """Whether the run has a digest in place of a tensor's values."""
        return self._place[name] < self._elsewhere

    def holds(self, name: str, pieces: Iterable[Bits]) -> bool:
        """Whether these are the bits of a tensor, as they were when the recording began."""
        return (digest_of(pieces) if self.is_elsewhere(name) else checksum_of(pieces)) == self.known(name)

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
        for name in [entry.name for entry in self._entries[self._elsewhere :]]:
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
            more = f" and {self._elsewhere - 1} more tensors" if self._elsewhere > 1 else ""
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
        if len(digests) != self._elsewhere:
            raise checked.damaged(f"The run has {len(digests)} digests of {self._elsewhere} fixed tensors")
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
    root: zarr.Group,
    tensors: Sequence[Pieces],
    others: Sequence[Pieces] = (),
    buffers: Sequence[Pieces] = (),
    *,
    reference: bool = False,
) -> None:
    """Store tensors once; `others` are those of integers, `buffers` floating-point buffers.

    With `reference`, digests of tensors and integers in place of their values.
    """
    group = root.create_group("fixed", overwrite=True)
    attributes: dict[str, Any] = {"others": _in_order(others)} if others else {}
    attributes |= {"buffers": _in_order(buffers)} if buffers else {}
    elsewhere = [*tensors, *others] if reference else []
    if reference:
        attributes |= {"reference": True, "digests": [digest_of(pieces()) for _, pieces in elsewhere]}
    for place, (entry, pieces) in enumerate((*tensors, *others, *buffers)):
        if place >= len(elsewhere):
            _put(root, place, entry, pieces())
    group.update_attributes({**attributes, "layout": _in_order(tensors)})


def _put(root: zarr.Group, place: int, entry: ParameterEntry, pieces: Iterator[Bits]) -> None:
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
    for piece in pieces:
        array[start : start + len(piece)] = piece.copy()  # a store in memory keeps what it is given, and that may move
        start, checksum = start + len(piece), checksum_of([piece], checksum)
    array.attrs["checksum"] = checksum


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
