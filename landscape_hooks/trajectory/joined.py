"""Joined: the snapshots of several runs as one trajectory, so that they share a plane.

In: the runs' Trajectories, of the same parameters. Out: what a Trajectory gives, run after run, of what moves in any of
them; the origin of the plane is the final snapshot of the first run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LayoutError
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Snapshot, Trajectory


@dataclass(frozen=True)
class Only:
    """A part of the network, about one snapshot: what else moves keeps the values that it has there.

    Attributes
    ----------
    names
        the tensors of the part.
    run, place
        the snapshot: number of the run, and place in the whole of it (`Trajectory.places`).
    """

    names: tuple[str, ...]
    run: int
    place: int


class Joined:
    """Several trajectories, one after the other: of what moves in any of them.

    Raises
    ------
    LayoutError
        a run has other parameters or buffers than the first one, or other values of what moves in none of them; the
        error names the tensor.
    """

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        runs = list(trajectories)
        runs = _in_one_layout(runs) if len(runs) > 1 else runs
        for other in runs[1:]:
            runs[0].buffer_layout.check(other.buffer_layout)
        self._set(runs, None)

    @classmethod
    def _of(cls, runs: Sequence[Trajectory], part: Only | None) -> Joined:
        """Of runs that have the same layouts."""
        other = cls.__new__(cls)
        other._set(list(runs), part)
        return other

    def _set(self, runs: list[Trajectory], part: Only | None) -> None:
        self.runs, self.part = runs, part
        first = runs[0]
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
        return self._of([run.select(chosen) for run, chosen in zip(self.runs, places, strict=True)], self.part)

    def replaced(self, runs: Sequence[Trajectory]) -> Joined:
        """Other runs of the same layouts, in the place of these."""
        return self._of(runs, self.part)

    def only(self, part: Only) -> Joined:
        """The same snapshots of a part of the network; the snapshot that it is about is among them."""
        origin = self.runs[part.run]
        snapshot = origin[int(np.flatnonzero(origin.places == part.place)[0])]
        modules = {module_of(name) for name in part.names}
        beside = np.zeros(self.buffer_layout.size, dtype=bool)
        for entry in self.buffer_layout:
            beside[entry.slice] = module_of(entry.name) in modules
        return self._of([run.only(part.names, snapshot, beside) for run in self.runs], part)

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


def module_of(name: str) -> str:
    """The module that a tensor is of; of a parametrized one (weight norm, spectral norm), the module itself."""
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def _in_one_layout(runs: Sequence[Trajectory]) -> list[Trajectory]:
    """The runs as ones of the same tensors: of what moves in any of them; where one does not, it is a constant.

    Raises
    ------
    LayoutError
        a run has other parameters, or other values of what moves in none of them.
    """
    first = runs[0]
    moving = {name for run in runs for name in run.layout.names}
    every = [*first.layout, *(replace(e, trainable=True) for e in first.fixed_layout)]
    layout = ParameterLayout.in_order([entry for entry in every if entry.name in moving])
    whole = ParameterLayout.in_order(every)
    for other in runs[1:]:
        whole.check_set(ParameterLayout.in_order([*other.layout, *other.fixed_layout]))
        mine, theirs = set(first.fixed), set(other.fixed)
        for name in sorted((mine | theirs) - moving):
            if name not in mine & theirs or not first.has_same(name, other):
                raise LayoutError(
                    f"The tensor '{name}' stands still in '{other.label}', at other values than in '{first.label}'",
                    expected="runs that differ only in what moves",
                    mend="Analyze them one by one",
                )
    return [run if run.layout.names == layout.names else run.view(layout) for run in runs]


def origin_row(trajectory: Sized) -> int:
    """The row of the snapshot that planes go through: the final one (of the first run)."""
    return int(getattr(trajectory, "origin_row", len(trajectory) - 1))


def digest_of(trajectory: Recorded) -> str:
    """SHA-256 of which snapshots a trajectory has: their steps and times."""
    total = hashlib.sha256(np.ascontiguousarray(trajectory.steps, dtype=np.int64).data)
    total.update(np.ascontiguousarray(trajectory.wall_times, dtype=np.float64).data)
    return total.hexdigest()
