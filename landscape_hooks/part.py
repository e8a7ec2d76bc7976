"""Part: the committed rows that one writer has written, as of the moment it was opened.

In: a group with the arrays of a trajectory. Out: rows of its columns and blocks of its matrices. An ordinary run
has one part; a run recorded by several ranks of a sharded training has one for each rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.checksum import Damage, checksums
from landscape_hooks.commit import Commit
from landscape_hooks.errors import RunError
from landscape_hooks.rowfiles import read_rows, reads_directly

COLUMNS = ("step", "epoch", "loss", "learning_rate", "wall_time")
VERIFY_BYTES = 2**26


class Part:
    """Rows of one group `trajectory`; the small columns are read at once, the matrices when asked for."""

    def __init__(self, group: Any) -> None:
        self._group = group
        while True:  # a recorder may thin out between the readings; then all are done again
            self.commit = Commit.read(group)
            self._places = self.commit.places
            self.columns: dict[str, NDArray[Any]] = {name: self._column(name) for name in COLUMNS}
            if Commit.read(group).generation == self.commit.generation:
                break
        self.steps: NDArray[np.int64] = self.columns["step"]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Data type in which a matrix is stored."""
        return self._group[name].dtype

    @property
    def chunk(self) -> int:
        """Neighbouring columns of the weights that are stored, and so best read, together."""
        array = self._group["weights"]
        return 1 if reads_directly(array) else int(array.chunks[1])

    def matrix(self, name: str, rows: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """(n, c) of `weights` or `buffers`; the rows counted as committed, the columns as stored.

        Raises
        ------
        RunError
            a writer has replaced one of these rows since the part was opened.
        """
        array = self._group[name]
        start, stop, stride = columns.indices(array.shape[1])
        places = self._places[rows]
        width = len(range(start, stop, stride))
        if not len(places) or not width:
            return np.empty((len(places), width), dtype=array.dtype)
        direct = read_rows(array, places, start, stop) if stride == 1 else None
        if direct is not None:
            found = direct
        elif (np.diff(places) == 1).all():
            found = array[places[0] : places[-1] + 1, start:stop:stride]
        else:
            found = np.empty((len(places), width), dtype=array.dtype)
            for i, place in enumerate(places):
                found[i] = array[int(place), start:stop:stride]
        self._check_unchanged(rows)
        return found

    @property
    def has_checksums(self) -> bool:
        """Whether the rows have checksums."""
        return "checksum" in self._group

    def damages(self, rows: NDArray[np.intp]) -> list[Damage]:
        """The rows (counted as committed) that are not what their checksums say; `index` counts within `rows`.

        Raises
        ------
        RunError
            a writer has replaced one of these rows since the part was opened.
        """
        expected = self._column("checksum")[rows] if len(rows) else np.empty(0, np.uint32)
        width = sum(self._group[n].shape[1] * self._group[n].dtype.itemsize for n in ("weights", "buffers"))
        together = max(1, VERIFY_BYTES // max(1, width))
        found: list[Damage] = []
        for first in range(0, len(rows), together):
            indices = range(first, min(first + together, len(rows)))
            try:
                found += self._differing(rows, expected, indices)
            except RunError:
                raise
            except Exception:  # one of them cannot be read at all: which?
                for i in indices:
                    found += self._differing_or_unreadable(rows, expected, i)
        return found

    def _differing(self, rows: NDArray[np.intp], expected: NDArray[np.uint32], indices: range) -> list[Damage]:
        these = rows[indices.start : indices.stop]
        weights, buffers = (self.matrix(name, these, slice(None)) for name in ("weights", "buffers"))
        found = checksums(self.steps[these], weights, buffers)
        return [
            Damage(i, int(self.steps[rows[i]]), int(expected[i]), int(value))
            for i, value in zip(indices, found, strict=True)
            if value != expected[i]
        ]

    def _differing_or_unreadable(self, rows: NDArray[np.intp], expected: NDArray[np.uint32], i: int) -> list[Damage]:
        try:
            return self._differing(rows, expected, range(i, i + 1))
        except RunError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return [Damage(i, int(self.steps[rows[i]]), int(expected[i]), None, reason)]

    def _column(self, name: str) -> NDArray[Any]:
        return self._group[name][: int(self._places.max(initial=-1)) + 1][self._places]

    def _check_unchanged(self, rows: NDArray[np.intp]) -> None:
        """Refuse what was read if a writer reused one of the places in the meantime.

        A place is written again only after the generation went up, and joins the order again only after its
        step is written: so one look at the record after the reading decides.
        """
        now = Commit.read(self._group)
        if now.generation == self.commit.generation:
            return
        here = set(now.places.tolist())
        current = self._group["step"][: int(now.places.max(initial=-1)) + 1]
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
