"""Columns: the numbers of a writer's snapshots tensor by tensor, whichever tensors are asked for, in any order.

In: where the rows of tensors lie (those that moved from the beginning, and late ones), and the tensors that were stored
once. Out: blocks of the matrix of snapshots and chosen tensors. A tensor that does not move in this run has its one
value in every row: so runs in which different tensors move, or a part of a network, are matrices like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LayoutError
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows.fixed import Fixed
from landscape_hooks.trajectory.rows.late import Late

Read = Callable[[str, NDArray[np.intp], slice], NDArray[Any]]
"""(n, c) of a matrix: its name, the rows and the columns."""


@dataclass(frozen=True)
class Stretch:
    """Neighbouring columns that come from one place.

    Attributes
    ----------
    start, stop
        the columns.
    source
        the matrix in which their rows lie; "" for a tensor that was stored once.
    name
        that tensor.
    at
        number of the first of them in that matrix, or in that tensor.
    late
        the late columns that they are of, which count from a step on.
    """

    start: int
    stop: int
    source: str
    name: str
    at: int
    late: Late | None = None

    def joined(self, other: Stretch) -> Stretch | None:
        """Both as one; None where they do not lie side by side in one matrix."""
        beside = self.source == other.source != "" and self.at + self.stop - self.start == other.at
        return Stretch(self.start, other.stop, self.source, self.name, self.at, self.late) if beside else None


class Columns:
    """The matrix of one writer's snapshots (rows) and chosen tensors.

    Parameters
    ----------
    own, late, fixed
        where the numbers of tensors lie.
    layout
        the tensors that are asked for, in this order.
    matrix
        the name of the matrix that has the rows of `own`.

    Raises
    ------
    LayoutError
        the run does not have one of them.
    """

    def __init__(
        self,
        own: ParameterLayout,
        late: Sequence[Late],
        fixed: Fixed,
        layout: ParameterLayout,
        matrix: str = "weights",
    ) -> None:
        places: dict[str, tuple[str, ParameterEntry, Late | None]] = {e.name: (matrix, e, None) for e in own}
        places |= {entry.name: (each.array, entry, each) for each in late for entry in each.layout}
        self._fixed = fixed
        self._stretches: list[Stretch] = []
        for entry in layout:
            source, at, group = "", 0, None
            if entry.name in places:
                source, known, group = places[entry.name]
                at = known.offset
            elif entry.name in fixed:
                known = fixed.entry(entry.name)
            else:
                raise LayoutError(f"The run has no {layout.kind} '{entry.name}'", expected="one that it recorded")
            if known.shape != entry.shape or known.size != entry.size:
                raise LayoutError(
                    f"The {layout.kind} '{entry.name}' has the shape {list(known.shape)}",
                    expected=f"{list(entry.shape)}",
                )
            self._append(Stretch(entry.offset, entry.offset + entry.size, source, entry.name, at, group))
        wide = {"float64", "complex128"}
        self.wide = any(not s.source and fixed.entry(s.name).dtype in wide for s in self._stretches)

    def _append(self, stretch: Stretch) -> None:
        """Add a stretch that comes next; one of no columns is left out."""
        if stretch.start == stretch.stop:
            return
        joined = self._stretches[-1].joined(stretch) if self._stretches else None
        if joined is None:
            self._stretches.append(stretch)
        else:
            self._stretches[-1] = joined

    def read(
        self, matrix: Read, rows: NDArray[np.intp], steps: NDArray[np.int64], columns: slice, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """(n, c) numbers of snapshots: their rows, their steps (n,), and contiguous columns."""
        start, stop = columns.start, columns.stop
        if len(self._stretches) == 1 and self._stretches[0].source and self._stretches[0].late is None:
            at = self._stretches[0].at
            found = matrix(self._stretches[0].source, rows, slice(at + start, at + stop))
            return found.astype(dtype, copy=False)
        found = np.empty((len(rows), max(0, stop - start)), dtype=dtype)
        for stretch in self._stretches:
            first, last = max(start, stretch.start), min(stop, stretch.stop)
            if first < last:
                inside = slice(stretch.at + first - stretch.start, stretch.at + last - stretch.start)
                self._fill(found[:, first - start : last - start], stretch, inside, matrix, rows, steps)
        return found

    def _fill(
        self,
        target: NDArray[Any],
        stretch: Stretch,
        inside: slice,
        matrix: Read,
        rows: NDArray[np.intp],
        steps: NDArray[np.int64],
    ) -> None:
        if not stretch.source:
            target[...] = self._fixed.numbers(stretch.name, inside)
        elif stretch.late is None:
            target[...] = matrix(stretch.source, rows, inside)
        else:
            moving = steps >= stretch.late.from_step
            target[moving] = matrix(stretch.source, rows[moving], inside)
            if not moving.all():
                target[~moving] = self._fixed.row(stretch.late.layout, inside.start, inside.stop, target.dtype)
