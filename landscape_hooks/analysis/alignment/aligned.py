"""A run whose hidden units are reordered: every snapshot of it by the same permutations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Marks, Snapshot, Trajectory

Indices = NDArray[np.intp]
Orders = Mapping[str, Indices]
"""Name of a tensor -> (size,) which of its numbers comes at each place. One that is not listed stays as it is."""


def order_in(layout: ParameterLayout, orders: Orders) -> Indices:
    """(D,) the same for the vector of a layout."""
    order = np.arange(layout.size)
    for entry in layout:
        if entry.name in orders:
            order[entry.slice] = entry.offset + orders[entry.name]
    return order


class AlignedTrajectory(Trajectory):
    """A trajectory in which the numbers of some tensors are reordered, in every snapshot and mark alike."""

    _orders: Orders
    _order: Indices

    @classmethod
    def of(cls, run: Trajectory, orders: Orders) -> AlignedTrajectory:
        """The run, reordered."""
        other = cls.__new__(cls)
        other.__dict__.update(copy.copy(run).__dict__)
        other._orders, other._order = orders, order_in(run.layout, orders)
        return other

    def _arrange(self, layout: ParameterLayout) -> None:
        super()._arrange(layout)
        self._order = order_in(layout, self._orders)

    def _read(self, wanted: NDArray[np.intp], columns: slice = slice(None)) -> NDArray[Any]:
        order = self._order[columns]
        if not len(order):
            return super()._read(wanted, columns)
        first = int(order.min())  # the tensors that these columns are of, or a part of one that is not reordered
        return super()._read(wanted, slice(first, int(order.max()) + 1))[:, order - first]

    def _held(self, buffers: NDArray[Any]) -> NDArray[Any]:
        return super()._held(buffers[..., order_in(self.buffer_layout, self._orders)])

    @property
    def marks(self) -> Mapping[str, Snapshot]:
        return _AlignedMarks(self)


class _AlignedMarks(Marks):
    _trajectory: AlignedTrajectory

    def __getitem__(self, name: str) -> Snapshot:
        found = super().__getitem__(name)
        return replace(found, weights=found.weights[self._trajectory._order])


def align_runs(runs: Sequence[Trajectory], orders: Sequence[Orders]) -> list[Trajectory]:
    """The first run as it is, and each further one reordered."""
    return [runs[0], *(AlignedTrajectory.of(run, order) for run, order in zip(runs[1:], orders, strict=True))]
