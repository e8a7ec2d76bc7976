"""RowFiles: the files (chunks or shards) of the rows of one array, written and read directly.

In: rows for places of an array. Out: files (`Put`) for the store, and parts of rows (`read_rows`).
zarr-python writes a row of 47 MB at a fifth of the speed of a plain file, because it copies it chunk by chunk. The file
consists of the row's bytes and a constant index (Zarr v3 sharding codec,
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/), so memory in that layout is written without a
copy. A file is replaced as a whole; only rows that do not count yet may be written in place. Compressed arrays are
written by zarr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from io import RawIOBase
from itertools import groupby
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore

from landscape_hooks.store.folder import DurableStore, Put, RunFolder

CHUNK_NUMBERS = 2**20
SHARD_BYTES = 2**22
ROWS = 1024
_MISSING = np.uint64(2**64 - 1)
_ALIGNMENT = 64


def chunking(size: int, itemsize: int, *, several_rows: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """(chunk, shard) of a (row, size) array.

    A row is divided into equal chunks of about a million numbers, so that a part of it can be read alone. A row is one
    file, so that it appears at once. Several short rows share a file if rows are only appended.
    """
    size = max(1, size)
    pieces = max(1, round(size / CHUNK_NUMBERS))
    width = -(-size // pieces)
    rows = max(1, min(ROWS, SHARD_BYTES // (size * itemsize))) if several_rows and pieces == 1 else 1
    return (1, width), (rows, pieces * width)


class RowFiles:
    """Files of `rows` rows each. The file that is being filled is in memory, all others are in the store.

    Parameters
    ----------
    array
        the Zarr array, (row,) or (row, number).
    committed
        rows that are in the store and count. They are kept when their file is filled further.
    """

    def __init__(self, array: zarr.Array[Any], committed: Sequence[int] = ()) -> None:
        self._array = array
        sharded = array.shards is not None
        file_shape = array.shards or array.chunks
        chunk = array.chunks
        self._dtype = array.dtype
        self._numbers = array.shape[1] if array.ndim == 2 else 1
        self._file_numbers = file_shape[1] if array.ndim == 2 else 1
        self.rows = file_shape[0]
        self._entries = file_shape[0] // chunk[0] * (self._file_numbers // chunk[-1] if array.ndim == 2 else 1)
        self._chunk_bytes = int(np.prod(chunk)) * self._dtype.itemsize
        self._index_bytes = 16 * self._entries + 4 if sharded else 0
        self._data_bytes = self.rows * self._file_numbers * self._dtype.itemsize
        self.file_bytes = self._data_bytes + self._index_bytes
        self.direct = sys.byteorder == "little" and not array.compressors and self._numbers <= self._file_numbers
        self._open = -1
        self._memory: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._lent: list[NDArray[np.uint8]] = []
        self._spare: list[NDArray[np.uint8]] = []
        self._present: NDArray[np.bool_] = np.empty(0, dtype=bool)
        self._committed = np.asarray(committed, dtype=np.int64)

    # -- memory that is laid out as a file -----------------------------------------------------------------
    def staging(
        self, depth: int, allocate: Callable[[int], NDArray[np.uint8]] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Memory for `depth` rows: (files (depth, bytes), values (depth, numbers)), the second a view of the first.

        If every row is a file of its own, a filled row of `files` is the content of that file. Otherwise only `values`
        is used. `allocate` returns a number of bytes of zeros, for memory of a special kind (page-locked).
        """
        if not self.direct or self.rows > 1:
            memory = (allocate or _zeros)(max(1, depth * self._numbers * self._dtype.itemsize))
            values = memory[: depth * self._numbers * self._dtype.itemsize].view(self._dtype)
            return np.empty((depth, 0), dtype=np.uint8), values.reshape(depth, self._numbers)
        files = self._blank(depth, allocate)
        files[:, self._data_bytes :] = self._index(np.ones(1, dtype=bool))
        return files, files[:, : self._numbers * self._dtype.itemsize].view(self._dtype)

    def _blank(self, depth: int, allocate: Callable[[int], NDArray[np.uint8]] | None = None) -> NDArray[np.uint8]:
        stride = -(-self.file_bytes // _ALIGNMENT) * _ALIGNMENT
        memory = (allocate or _zeros)(depth * stride).reshape(depth, stride)[:, : self.file_bytes]
        memory[:, : self._data_bytes].view(self._dtype)[...] = self._array.fill_value
        return memory

    def _index(self, present: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The shard's index: (offset, length) of every chunk, all bits set for an absent chunk, and the CRC-32C."""
        if not self._index_bytes:
            return np.empty(0, dtype=np.uint8)
        entries = np.full((self._entries, 2), _MISSING, dtype="<u8")
        here = np.repeat(present, self._entries // self.rows)
        entries[here, 0] = (np.arange(self._entries, dtype=np.uint64) * np.uint64(self._chunk_bytes))[here]
        entries[here, 1] = self._chunk_bytes
        raw = entries.tobytes()
        return np.frombuffer(raw + google_crc32c.value(raw).to_bytes(4, "little"), dtype=np.uint8)

    # -- what is to be put where -----------------------------------------------------------------------------
    def put(
        self,
        places: Sequence[int],
        values: NDArray[Any],
        files: NDArray[np.uint8] | None = None,
        *,
        counted: bool = False,
    ) -> list[Put]:
        """The files to put so that `values` (n, numbers) or (n,) lie at `places`; `files` is their staging memory.

        They must be in the store before the next call, which reuses their memory. `counted` says that these rows are
        committed already, so that a reader must not see them partly written.
        """
        if not values.size:
            return []
        if not self.direct or (values.ndim == 2 and values.shape[1] > self._file_numbers):
            self._through_zarr(places, values)
            return []
        if self.rows == 1:
            if files is None or not files.shape[1]:
                files, target = self.staging(len(places))
                target[...] = values.reshape(target.shape)
            whole = None if counted else slice(0, self.file_bytes)
            return [Put(self._key(place), file, whole) for place, file in zip(places, files, strict=True)]
        self._spare, self._lent = self._spare + self._lent, []
        numbers, rows = np.divmod(np.asarray(places), self.rows)
        done = []
        for number in dict.fromkeys(numbers.tolist()):
            if number != self._open:
                self._load(number)
            here = np.flatnonzero(numbers == number)
            part = values[_as_slice(here)].reshape(len(here), -1)
            into = rows[here]
            self._values[_as_slice(into), : part.shape[1]] = part
            self._present[into] = True
            done.append(self._finished(slice(int(into.min()), int(into.max()) + 1), counted))
        return done

    def _load(self, number: int) -> None:
        """Begin to fill another file, starting with its committed rows."""
        if len(self._memory):
            self._lent.append(self._memory)
        self._memory = self._blank(1)[0] if not self._spare else self._spare.pop()
        self._values[...] = self._array.fill_value
        self._present = np.zeros(self.rows, dtype=bool)
        self._open = number
        first = number * self.rows
        here = self._committed[(self._committed >= first) & (self._committed < first + self.rows)]
        if len(here):
            stored = np.asarray(self._array[first : min(first + self.rows, self._array.shape[0])])
            self._values[here - first, : self._numbers] = stored.reshape(len(stored), -1)[here - first]
            self._present[here - first] = True

    @property
    def _values(self) -> NDArray[Any]:
        """(rows, numbers) of the file in memory."""
        return self._memory[: self._data_bytes].view(self._dtype).reshape(self.rows, -1)

    def _finished(self, fresh: slice, counted: bool) -> Put:
        """The file in memory, ready to put. With an index, it ends after its last row."""
        row_bytes = self._data_bytes // self.rows
        if not self._index_bytes:
            span = None if counted else slice(fresh.start * row_bytes, fresh.stop * row_bytes)
            return Put(self._key(self._open), self._memory[: self._data_bytes], span)
        end = (int(np.flatnonzero(self._present)[-1]) + 1) * row_bytes
        self._memory[end : end + self._index_bytes] = self._index(self._present)
        return Put(self._key(self._open), self._memory[: end + self._index_bytes])

    def forget(self, committed: Sequence[int]) -> None:
        """Keep these rows only; discard other rows in memory."""
        self._committed = np.asarray(committed, dtype=np.int64)
        self._open = -1

    def _through_zarr(self, places: Sequence[int], values: NDArray[Any]) -> None:
        for i, place in enumerate(places):
            if values.ndim == 2:
                self._array[place, : values.shape[1]] = values[i]
            else:
                self._array[place] = values[i]

    def _key(self, number: int) -> str:
        index = (number, 0)[: self._array.ndim]
        return f"{self._array.path}/{self._array.metadata.encode_chunk_key(index)}"


def _as_slice(indices: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Ascending indices as a slice if they have no gaps, so that numpy makes no extra copy."""
    first, last = int(indices[0]), int(indices[-1])
    return slice(first, last + 1) if last - first + 1 == len(indices) and (np.diff(indices) == 1).all() else indices


def _zeros(size: int) -> NDArray[np.uint8]:
    return np.zeros(size, dtype=np.uint8)


# -- reading ----------------------------------------------------------------------------------------------------
def reads_directly(array: zarr.Array[Any]) -> bool:
    """Whether a part of a row can be read from its file without the rest: for local, uncompressed arrays (row, number).

    zarr-python reads and copies whole chunks, and one chunk of several hundred rows may not fit into memory.
    """
    codecs: Any = array.metadata.codecs  # type: ignore[union-attr]
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        ends = codecs[0].index_location.value == "end"
        kinds = [type(codec) for codec in codecs[0].index_codecs]
        codecs = codecs[0].codecs if ends and kinds == [BytesCodec, Crc32cCodec] else ()
    plain = len(codecs) == 1 and isinstance(codecs[0], BytesCodec) and codecs[0] == BytesCodec(endian="little")
    whole_rows = array.ndim == 2 and array.chunks[0] == 1 and (array.shards or array.chunks)[1] >= array.shape[1]
    # exactly these stores: a subclass or wrapper may need to see every read
    return (
        plain
        and whole_rows
        and sys.byteorder == "little"
        and type(array.store) in (LocalStore, RunFolder, DurableStore)
    )


def read_rows(array: zarr.Array[Any], places: NDArray[np.intp], start: int, stop: int) -> NDArray[Any] | None:
    """(n, stop - start) numbers of the rows at `places`, read directly from the files.

    None if zarr has to read them: another kind of store or codec, or a file that is absent or not as expected.
    """
    if not reads_directly(array):
        return None
    rows, width = (array.shards or array.chunks)[0], array.chunks[1]
    pieces = (array.shards or array.chunks)[1] // width
    found = np.empty((len(places), stop - start), dtype=array.dtype)
    root: Path = array.store.root  # type: ignore[attr-defined]  # reads_directly takes local stores only
    try:
        for number, group in groupby(enumerate(places.tolist()), key=lambda item: item[1] // rows):
            key = f"{array.path}/{array.metadata.encode_chunk_key((number, 0))}"
            if isinstance(array.store, RunFolder):
                array.store.check(key)
            with open(root / key, "rb", buffering=0) as file:
                index = _read_index(file, rows, pieces) if array.shards else np.zeros((1, 1), dtype=np.int64)
                for i, place in group:
                    if not _read_row(file, index[place % rows], width, found[i], start):
                        return None
    except (OSError, ValueError):
        return None
    return found


def _read_row(file: RawIOBase, offsets: NDArray[np.int64], width: int, out: NDArray[Any], start: int) -> bool:
    """Fill `out` with the numbers of one row from `start` on; its chunks of `width` numbers begin at `offsets`."""
    stop = start + len(out)
    for piece in range(start // width, -(-stop // width)):
        a, b = max(start, piece * width), min(stop, (piece + 1) * width)
        target = out[a - start : b - start].view(np.uint8)
        if offsets[piece] < 0:
            return False
        file.seek(int(offsets[piece]) + (a - piece * width) * out.dtype.itemsize)
        if file.readinto(target) != len(target):  # type: ignore[arg-type]
            return False
    return True


def _read_index(file: RawIOBase, rows: int, pieces: int) -> NDArray[np.int64]:
    """(rows, pieces) offsets of a shard's chunks, negative for absent chunks; ValueError if the index is damaged."""
    size = 16 * rows * pieces + 4
    file.seek(-size, 2)
    raw = file.read(size)
    if google_crc32c.value(raw[:-4]).to_bytes(4, "little") != raw[-4:]:
        raise ValueError("damaged index")
    return np.frombuffer(raw[:-4], dtype="<i8").reshape(rows, pieces, 2)[..., 0]
