"""Rows of an import: the tensors of one checkpoint at a time, copied into a row of the run and committed.

In: tensors found in a checkpoint. Out: a committed snapshot. What stood still is compared with what was stored once;
where it has moved, it has late columns from then on, as in a recording.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.recording.background import as_torch
from landscape_hooks.recording.importing.layouts import Found, Layouts
from landscape_hooks.recording.watch.fixed import pieces
from landscape_hooks.store.run import writes
from landscape_hooks.trajectory.checkpoints.checkpoint import Facts
from landscape_hooks.trajectory.modules import copy_into
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.fixed import Bits, Pieces
from landscape_hooks.trajectory.writer import TrajectoryWriter


def value_of(entry: ParameterEntry, found: Found, own: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A tensor of a checkpoint in the run's type, as loading it into the model would leave it; else the model's own."""
    stored = found.stored.get(entry.name)
    tensor = own[entry.name].detach().cpu() if stored is None else stored.read()
    return tensor.to(getattr(torch, entry.dtype))


def to_store(layout: ParameterLayout, found: Found, own: Mapping[str, torch.Tensor]) -> list[Pieces]:
    """What stands still as `TrajectoryWriter.create(fixed=)` takes it."""
    return [(entry, partial(_pieces, entry, found, own)) for entry in layout]


def _pieces(entry: ParameterEntry, found: Found, own: Mapping[str, torch.Tensor]) -> Iterator[Bits]:
    return pieces(value_of(entry, found, own))


@contextmanager
def loaded(layouts: Layouts, found: Found) -> Iterator[None]:
    """The model holds the tensors of a checkpoint; afterwards its own again, the same objects at the same addresses."""
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for entry in layouts.entries:
            if entry.name in found.stored and entry.name in layouts.own:
                tensor = layouts.own[entry.name]
                value = value_of(entry, found, layouts.own).to(tensor.device)
                with suppress(RuntimeError, TypeError):  # a kind of tensor whose numbers are not its own
                    held = tensor.data
                    tensor.data = value
                    before.append((tensor, held))
        yield
    finally:
        for tensor, held in before:
            tensor.data = held


class RowsOut:
    """Writes snapshots into a run, one at a time.

    Attributes
    ----------
    bad
        names of the tensors that hold NaN or inf, by step.
    changed
        names of the tensors of integers that are not in every checkpoint what they were in the first.
    """

    def __init__(self, writer: TrajectoryWriter, layouts: Layouts) -> None:
        self._writer, self._layouts = writer, layouts
        self._staging = writer.staging(1)
        self.bad: dict[int, list[str]] = {}
        self.changed: dict[str, None] = {}

    @property
    def _parts(self) -> list[tuple[ParameterLayout, NDArray[Any], str]]:
        """Layout, memory and type of each array that a row has a part in."""
        weights, buffers, *late = self._writer.dtypes
        own = [(self._writer.layout, self._staging.weights, weights),
               (self._writer.buffer_layout, self._staging.buffers, buffers)]  # fmt: skip
        columns = zip(self._writer.late, self._staging.late, late, strict=True)
        return [*own, *((each.layout, values, kind) for each, values, kind in columns)]

    def write(self, found: Found, step: int, facts: Facts, wall_time: float) -> None:
        """Commit the snapshot of a checkpoint, which is of a later step than all before."""
        for kind, begun in self._begun(found).items():
            if begun:
                self._writer.extend(ParameterLayout.in_order(begun, kind=kind), self._writer.steps[-1] + 1)
                self._writer.widen(self._staging, self._writer.late[-1])
        bad = self._fill(found)
        if bad:
            self.bad[step] = bad
        others = [entry for entry in self._layouts.others if entry.name in found.stored]
        self.changed |= {entry.name: None for entry in others if not self._holds(entry, found)}
        scalars: dict[str, Sequence[float]] = {
            "step": [step],
            "epoch": [facts.epoch],
            "loss": [facts.loss],
            "wall_time": [wall_time],
        }
        groups = {"learning_rate": [facts.learning_rate], "momentum": [facts.momentum]}
        writes(self._writer.append)(self._staging.rows(0, scalars, groups, False))

    def differs(self, found: Found, number: int) -> str | None:
        """Name of a tensor of a checkpoint that the snapshot of this number in the run has otherwise; None if none."""
        self._fill(found)
        rows = {"parameter": self._writer.row(number), "buffer": self._writer.buffers(number)}
        for layout, values, _kind in self._parts:
            mine = bits.numbers_of(values[0])
            known, rows[layout.kind] = np.split(rows[layout.kind], [layout.size])
            differing = np.flatnonzero(_as_bits(mine) != _as_bits(known.astype(mine.dtype, copy=False)))
            if len(differing):
                return next(e.name for e in layout if e.offset + e.size > differing[0])
        return next((entry.name for begun in self._begun(found).values() for entry in begun), None)

    def _fill(self, found: Found) -> list[str]:
        """Copy the tensors into the memory of a row; names of those that hold NaN or inf."""
        bad = []
        for layout, values, kind in self._parts:
            slots = layout.slots(as_torch(values, kind)[0])
            for entry, slot in zip(layout, slots, strict=True):
                copy_into([slot], [value_of(entry, found, self._layouts.own)])
                if not torch.isfinite(slot).all():
                    bad.append(entry.name)
        return bad

    def _begun(self, found: Found) -> dict[str, list[ParameterEntry]]:
        """What stood still so far and has other numbers in this checkpoint, parameters and buffers."""
        late = {entry.name for each in self._writer.late for entry in each.layout}
        return {
            layout.kind: [
                replace(entry, trainable=True)
                for entry in layout
                if entry.name in found.stored and entry.name not in late
                and not self._holds(entry, found)
            ]
            for layout in (self._layouts.still, self._layouts.still_buffers)
        }  # fmt: skip

    def _holds(self, entry: ParameterEntry, found: Found) -> bool:
        return self._writer.fixed.holds(entry.name, _pieces(entry, found, self._layouts.own))


def _as_bits(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers as integers, so that NaNs compare."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def padded(facts: Facts, groups: int) -> Facts:
    """Facts with numbers for so many parameter groups, NaN where there are none."""

    def wide(values: Sequence[float]) -> tuple[float, ...]:
        return (*values, *(math.nan,) * (groups - len(values)))

    return replace(facts, learning_rate=wide(facts.learning_rate), momentum=wide(facts.momentum))
