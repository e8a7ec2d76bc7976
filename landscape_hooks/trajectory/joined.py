"""Joined: the snapshots of several runs as one trajectory, so that they share a plane.

In: the runs' Trajectories, of the same parameters. Out: what a Trajectory gives, run after run; the origin of the
plane is the final snapshot of the first run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Sized
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LayoutError
from landscape_hooks.trajectory.trajectory import Snapshot, Trajectory


class Joined:
    """Several trajectories, one after the other.

    Raises
    ------
    LayoutError
        a run has other parameters or buffers than the first one; the error names the tensor.
    """

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self.runs = list(trajectories)
        first = self.runs[0]
        for other in self.runs[1:]:
            _check_fixed(first, other)
            first.layout.check(other.layout)
            first.buffer_layout.check(other.buffer_layout)
        self.layout, self.buffer_layout = first.layout, first.buffer_layout
        self.chunk = max(run.chunk for run in self.runs)
        self.edges = np.cumsum([0, *(len(run) for run in self.runs)])

    def __len__(self) -> int:
        return int(self.edges[-1])

    def __getitem__(self, row: int) -> Snapshot:
        run, place = self.place(row)
        return self.runs[run][place]

    def place(self, row: int) -> tuple[int, int]:
        """(run, snapshot in it) of a row."""
        row = range(len(self))[row]
        run = int(np.searchsorted(self.edges, row, side="right") - 1)
        return run, int(row - self.edges[run])

    def row(self, run: int, place: int) -> int:
        """The inverse of `place`; a negative place counts from the run's end."""
        return int(self.edges[run] + range(len(self.runs[run]))[place])

    def select(self, places: Sequence[NDArray[np.intp]]) -> Joined:
        """The same runs with some of their snapshots: for each run the places (n,) of those that stay."""
        return Joined([run.select(chosen) for run, chosen in zip(self.runs, places, strict=True)])

    @property
    def origin_row(self) -> int:
        """The final snapshot of the first run."""
        return int(self.edges[1] - 1)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """(T,) optimizer steps, run after run."""
        return np.concatenate([run.steps for run in self.runs])

    @cached_property
    def wall_times(self) -> NDArray[np.float64]:
        """(T,) times, run after run."""
        return np.concatenate([run.wall_times for run in self.runs])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type that weights are read as."""
        return np.result_type(*(run.dtype for run in self.runs))

    def block(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """(n, c) weights of some rows and some parameters."""
        start, stop, _ = rows.indices(len(self))
        found = []
        for run, first, last in zip(self.runs, self.edges[:-1], self.edges[1:], strict=True):
            a, b = max(start, first) - first, min(stop, last) - first
            if a < b:
                found.append(run.block(slice(int(a), int(b)), columns))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def buffers(self, rows: slice = slice(None)) -> NDArray[Any]:
        """(n, B) buffers of some rows."""
        start, stop, _ = rows.indices(len(self))
        found = []
        for run, first, last in zip(self.runs, self.edges[:-1], self.edges[1:], strict=True):
            a, b = max(start, first) - first, min(stop, last) - first
            if a < b:
                found.append(run.buffers(slice(int(a), int(b))))
        return found[0] if len(found) == 1 else np.concatenate(found)


Recorded = Trajectory | Joined
"""The snapshots of one run, or of several."""


def _check_fixed(first: Trajectory, other: Trajectory) -> None:
    """What does not move in two runs are the same tensors, of the same values.

    Raises
    ------
    LayoutError
        a tensor is not.
    """
    mine, theirs = first.fixed.checksums(), other.fixed.checksums()
    for still, run, moving in ((mine, first, other), (theirs, other, first)):
        for name in still:
            if name in moving.layout.names:
                raise LayoutError(
                    f"The parameter '{name}' moves in '{moving.label}' and stands still in '{run.label}'",
                    expected="runs in which the same parameters move",
                    mend="Analyze them one by one, or record both with the same parameters trained",
                )
    for name in sorted(mine.keys() & theirs.keys()):
        if mine[name] != theirs[name]:
            raise LayoutError(
                f"The parameter '{name}' stands still in '{other.label}', at other values than in '{first.label}'",
                expected="runs that differ only in what moves",
                mend="Analyze them one by one",
            )


def origin_row(trajectory: Sized) -> int:
    """The row of the snapshot that planes go through: the final one (of the first run)."""
    return int(getattr(trajectory, "origin_row", len(trajectory) - 1))


def digest_of(trajectory: Recorded) -> str:
    """SHA-256 of which snapshots a trajectory has: their steps and times."""
    total = hashlib.sha256(np.ascontiguousarray(trajectory.steps, dtype=np.int64).data)
    total.update(np.ascontiguousarray(trajectory.wall_times, dtype=np.float64).data)
    return total.hexdigest()
