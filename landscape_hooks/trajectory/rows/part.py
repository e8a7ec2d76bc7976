"""Part: the committed rows that one writer has written, as of the moment it was opened.

In: a run, and where in it the arrays of a trajectory are. Out: rows of its columns and blocks of its matrices. An
ordinary run has one part; a run recorded by several ranks of a sharded training has one for each rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import DamagedRunError, RunError
from landscape_hooks.store import checked
from landscape_hooks.store.rowfiles import read_rows, reads_directly
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.checksum import Damage, checksums
from landscape_hooks.trajectory.rows.commit import Commit

COLUMNS = ("step", "epoch", "loss", "learning_rate", "wall_time")
ADDED = ("momentum",)
"""Columns that runs of format 1 do not have."""
VERIFY_BYTES = 2**26


class Part:
    """Rows of one group `trajectory`; the small columns are read at once, the matrices when asked for."""

    def __init__(self, root: zarr.Group, path: str = "trajectory") -> None:
        group = checked.group(root, path)
        if group is None:
            raise checked.damaged(f"The run has no '{path}'", expected="a trajectory")
        self._group = group
        while True:  # a recorder may thin out between the readings; then all are done again
            self.commit = Commit.read(group)
            self._places = self.commit.places
            known = (*COLUMNS, *(name for name in ADDED if checked.has(group, name)))
            self.columns: dict[str, NDArray[Any]] = {name: self._column(name) for name in known}
            if Commit.read(group).generation == self.commit.generation:
                break
        self.steps: NDArray[np.int64] = self.columns["step"]
        self.late: dict[str, int] = {}
        """Matrices of columns that begin to move later, and the steps from which they count."""
        if (np.diff(self.steps) <= 0).any():
            raise checked.damaged("The steps of the snapshots do not ascend")

    def dtype(self, name: str) -> np.dtype[Any]:
        """Data type of the numbers that a matrix is read as."""
        return bits.dtype_of(checked.array(self._group, name))

    def stored_dtype(self, name: str) -> str:
        """Data type in which a matrix is stored, as torch spells it."""
        return bits.name_of(checked.array(self._group, name).dtype)

    @property
    def chunk(self) -> int:
        """Neighbouring columns of the weights that are stored, and so best read, together."""
        array = checked.array(self._group, "weights")
        return 1 if reads_directly(array) else int(array.chunks[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one snapshot's weights and buffers, all late columns included."""
        arrays = [checked.array(self._group, name) for name in self._matrices]
        return sum(array.shape[1] * np.dtype(array.dtype).itemsize for array in arrays)

    @property
    def _matrices(self) -> tuple[str, ...]:
        return ("weights", "buffers", *self.late)

    def check_width(self, name: str, width: int, whole: int) -> None:
        """A row of a matrix has `width` numbers, and the files account for a vector of `whole` of them.

        Raises
        ------
        RunError
            they do not.
        """
        array = checked.array(self._group, name)
        if array.shape[1] != width:
            raise checked.damaged(f"The rows of '{name}' have {array.shape[1]} numbers", expected=f"{width}, as listed")
        checked.afford(array, whole * bits.dtype_of(array).itemsize, name)

    def matrix(self, name: str, rows: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """(n, c) of `weights` or `buffers`; the rows counted as committed, the columns as stored.

        Raises
        ------
        RunError
            a writer has replaced one of these rows since the part was opened.
        """
        return bits.numbers_of(self._stored(name, rows, columns))

    def _stored(self, name: str, rows: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """As `matrix`, in the type in which it is stored."""
        array = self._array(name)
        start, stop, stride = columns.indices(array.shape[1])
        places = self._places[rows]
        width = len(range(start, stop, stride))
        if not len(places) or not width:
            return np.empty((len(places), width), dtype=array.dtype)
        checked.afford(array, len(places) * width * array.dtype.itemsize, name)
        direct = read_rows(array, places, start, stop) if stride == 1 else None
        if direct is not None:
            found = direct
        elif (np.diff(places) == 1).all():
            found = checked.select(array, (slice(places[0], places[-1] + 1), slice(start, stop, stride)), name)
        else:
            found = np.empty((len(places), width), dtype=array.dtype)
            for i, place in enumerate(places):
                found[i] = checked.select(array, (slice(place, place + 1), slice(start, stop, stride)), name)[0]
        self._check_unchanged(rows)
        return found

    @property
    def has_checksums(self) -> bool:
        """Whether the rows have checksums."""
        return checked.has(self._group, "checksum")

    def damages(self, rows: NDArray[np.intp]) -> list[Damage]:
        """The rows (counted as committed) that are not what their checksums say; `index` counts within `rows`.

        Raises
        ------
        RunError
            a writer has replaced one of these rows since the part was opened.
        """
        expected = self._column("checksum")[rows] if len(rows) else np.empty(0, np.uint32)
        arrays = [self._array(name) for name in self._matrices]
        width = sum(array.shape[1] * array.dtype.itemsize for array in arrays)
        together = max(1, VERIFY_BYTES // max(1, width))
        found: list[Damage] = []
        for first in range(0, len(rows), together):
            indices = range(first, min(first + together, len(rows)))
            try:
                found += self._differing(rows, expected, indices)
            except DamagedRunError:  # one of them cannot be read at all: which?
                for i in indices:
                    found += self._differing_or_unreadable(rows, expected, i)
        return found

    def _differing(self, rows: NDArray[np.intp], expected: NDArray[np.uint32], indices: range) -> list[Damage]:
        these = rows[indices.start : indices.stop]
        weights, buffers, *late = (self._stored(name, these, slice(None)) for name in self._matrices)
        found = checksums(self.steps[these], weights, buffers, list(zip(self.late.values(), late, strict=True)))
        return [
            Damage(i, int(self.steps[rows[i]]), int(expected[i]), int(value))
            for i, value in zip(indices, found, strict=True)
            if value != expected[i]
        ]

    def _differing_or_unreadable(self, rows: NDArray[np.intp], expected: NDArray[np.uint32], i: int) -> list[Damage]:
        try:
            return self._differing(rows, expected, range(i, i + 1))
        except DamagedRunError as error:
            return [Damage(i, int(self.steps[rows[i]]), int(expected[i]), None, error.found)]

    def _column(self, name: str) -> NDArray[Any]:
        array = self._array(name)
        selection = (slice(0, int(self._places.max(initial=-1)) + 1), *(slice(None) for _ in array.shape[1:]))
        return checked.select(array, selection, name)[self._places]

    def _array(self, name: str) -> Any:
        """An array of the group that has the committed rows."""
        array = checked.array(self._group, name)
        last = int(self._places.max(initial=-1))
        if array.shape[0] <= last:
            raise checked.damaged(f"The commit record counts row {last}, the array '{name}' has {array.shape[0]} rows")
        return array

    def _check_unchanged(self, rows: NDArray[np.intp]) -> None:
        """Refuse what was read if a writer reused one of the places in the meantime.

        A place is written again only after the generation went up, and joins the order again only after its
        step is written: so one look at the record after the reading decides.
        """
        now = Commit.read(self._group)
        if now.generation == self.commit.generation:
            return
        here = set(now.places.tolist())
        current = checked.select(self._array("step"), (slice(0, int(now.places.max(initial=-1)) + 1),), "step")
        for i in rows:
            place = int(self._places[i])
            if place not in here or current[place] != self.steps[i]:
                raise RunError(
                    f"While it was being read, a recorder went on and replaced the snapshot of step {self.steps[i]}",
                    mend="Open the trajectory again, or wait until the training has finished",
                )


def disagreements(parts: Sequence[Part]) -> list[int]:
    """Steps that some ranks of a sharded training recorded and others passed by.

    Ranks may be ahead of each other, with recording as with thinning: what one of them has not come to yet is no
    disagreement, nor are snapshots taken because recording ended there.
    """
    if not all(len(part.steps) for part in parts):
        return []
    last = min(int(part.steps[-1]) for part in parts)
    first = min(int(part.steps[0]) for part in parts)
    stride = max(1, *(part.commit.stride for part in parts))
    tails = {int(part.steps[-1]) for part in parts if part.commit.tail}
    taken = [
        {step for step in part.steps.tolist() if step <= last and (step - first) % stride == 0} - tails
        for part in parts
    ]
    return sorted(set().union(*taken) - set.intersection(*taken))
