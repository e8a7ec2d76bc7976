"""Trajectory: the recorded snapshots, read back as a sequence.

In: the group `trajectory` of a run. Out: `Snapshot`s, and blocks of the weight matrix. A row counts only once the
commit record says so. No torch here: reading needs none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from itertools import accumulate
from typing import Any, overload

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import RunError
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, label_of, open_run
from landscape_hooks.trajectory.doubts import Doubt, read_doubts
from landscape_hooks.trajectory.marks import Mark, read_marks
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows.checksum import Damage
from landscape_hooks.trajectory.rows.fixed import Base, Chosen, same_values
from landscape_hooks.trajectory.rows.late import joined_layout
from landscape_hooks.trajectory.rows.shards import Gathered, moving_of, row_of_mark, shards_of

SCALARS = ("step", "epoch", "loss", "wall_time")
READ_BYTES = 2**22
"""Snapshots that are wanted one after the other are read so much at a time."""
PIECE = 2**22


@dataclass(frozen=True)
class Snapshot:
    """The optimizer's state of knowledge at one step.

    Attributes
    ----------
    step
        optimizer steps taken.
    weights, buffers
        (D,) and (B,) flattened parameters and floating-point buffers, in the order of the layouts.
    loss, epoch
        as logged by the training loop; NaN where it logged none.
    learning_rate
        (G,) learning rate of each parameter group, as used for this step.
    wall_time
        seconds since 1970-01-01 UTC.
    momentum
        (G,) momentum of each parameter group, or beta 1 of Adam's kind; NaN where there is none or it is unknown.
    """

    step: int
    weights: NDArray[Any]
    buffers: NDArray[Any]
    loss: float
    epoch: float
    learning_rate: NDArray[np.float64]
    wall_time: float
    momentum: NDArray[np.float64]


class Trajectory(Sequence[Snapshot]):
    """The snapshots of a run, in order of their step; only committed ones, as of the moment it was opened.

    Weights stay in the store until a snapshot or a block is asked for.

    Attributes
    ----------
    root
        the run's Zarr group.
    label
        what a legend calls the run.
    layout
        names, shapes and offsets of the parameters in `weights`: those that move.
    steps
        (T,) optimizer steps taken at each snapshot.
    epochs, losses
        (T,) as logged by the training loop, NaN where nothing was.
    learning_rates
        (T, G) learning rate of each parameter group.
    momenta
        (T, G) momentum of each parameter group (beta 1 of Adam's kind), NaN where there is none or it is unknown.
    wall_times
        (T,) seconds since 1970-01-01 UTC.
    places
        (T,) the place of each snapshot in the run, where only some were selected (`select`).
    held
        of a part of the network (`only`), the values (size,) that the other tensors which move have at its origin.
    """

    def __init__(self, root: zarr.Group, label: str = "", base: Base | None = None) -> None:
        self.root = root
        self.label = label
        group = checked.group(root, "trajectory")
        if group is None:
            raise RunError(
                "The run has no trajectory",
                expected="the group 'trajectory'",
                mend="Record with landscape_hooks.record",
            )
        ranks = checked.whole(group.attrs.get("ranks", 0), "The number of ranks")
        self._shards = shards_of(root, ranks, base)
        self._parts = [shard.part for shard in self._shards]
        steps = reduce(np.intersect1d, (part.steps for part in self._parts))
        self._rows = [np.searchsorted(part.steps, steps) for part in self._parts]
        self._fixed = Gathered(root, self._shards) if ranks else self._shards[0].fixed
        self._own, self._late = moving_of(root, self._shards, self._fixed)
        self.held: Mapping[str, NDArray[Any]] = {}
        self._viewed: Trajectory | None = None
        self._widths = tuple(accumulate((late.layout.size for late in self._late), initial=self._own.size))
        self._inside: tuple[NDArray[np.bool_], NDArray[Any]] | None = None
        self._arrange(joined_layout(self._own, self._late))
        self._buffer_widths = self._shards[0].check_buffers(self.buffer_layout)
        self._buffer_columns = self._shards[0].buffers(self.buffer_layout)
        first = {name: column[self._rows[0]] for name, column in self._parts[0].columns.items()}
        self.steps: NDArray[np.int64] = first["step"]
        self.epochs: NDArray[np.float64] = first["epoch"]
        self.losses: NDArray[np.float64] = first["loss"]
        self.learning_rates: NDArray[np.float64] = first["learning_rate"]
        self.wall_times: NDArray[np.float64] = first["wall_time"]
        self.momenta: NDArray[np.float64] = first.get("momentum", np.full_like(self.learning_rates, np.nan))
        self.places: NDArray[np.intp] = np.arange(len(self.steps))

    def _arrange(self, layout: ParameterLayout) -> None:
        """Weights are the numbers of these tensors from here on, in this order."""
        self.layout = layout
        arranged = [shard.arranged(layout) for shard in self._shards]
        self._columns = [columns for columns, _ in arranged]
        self._runs = [runs for _, runs in arranged if runs is not None]

    @classmethod
    def open(cls, store_or_path: RunLike, base: Base | None = None) -> Trajectory:
        """Open the trajectory of a run (path, URL, Zarr store or group).

        `base` gives the values of tensors that the run has by reference (`landscape_hooks.evaluation.base`).

        Raises
        ------
        RunError
            it is not a run, or has no trajectory.
        """
        return cls(open_run(store_or_path), label_of(store_or_path), base)

    def select(self, places: NDArray[np.intp]) -> Trajectory:
        """The same run with some of its snapshots: those at `places` (n,), ascending, as they are counted here."""
        other = copy.copy(self)
        other._rows = [rows[places] for rows in self._rows]
        for name in ("steps", "epochs", "losses", "learning_rates", "momenta", "wall_times", "places"):
            setattr(other, name, getattr(self, name)[places])
        return other

    def view(self, layout: ParameterLayout, known: int | None = None) -> Trajectory:
        """The same run with the weights of these tensors, in this order; one that does not move is a constant.

        `known` are those of its numbers that an older surface knows, where the others had not begun to move.

        Raises
        ------
        LayoutError
            the run does not have one of them.
        """
        other = copy.copy(self)
        other._arrange(layout)
        other._viewed = self.whole
        other._widths = tuple(dict.fromkeys((layout.size if known is None else known, layout.size)))
        return other

    @property
    def whole(self) -> Trajectory:
        """The run with the weights of all that moves in it, where this is a view."""
        return self if self._viewed is None else self._viewed

    def only(self, names: Sequence[str], origin: Snapshot, beside: NDArray[np.bool_]) -> Trajectory:
        """The same run with the weights of some tensors that move; what else moves stays as it is at `origin`.

        `beside` (B,) are the buffers that belong to these tensors: of the others, too, every snapshot has those of
        the origin. `origin` is of a run with the same `layout`.
        """
        chosen = set(names)
        other = self.view(ParameterLayout.in_order([entry for entry in self.layout if entry.name in chosen]))
        other.held = {e.name: origin.weights[e.slice] for e in self.layout if e.name not in chosen}
        other._inside = beside, origin.buffers
        return other

    # -- as a sequence --------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> Snapshot: ...

    @overload
    def __getitem__(self, index: slice) -> list[Snapshot]: ...

    def __getitem__(self, index: int | slice) -> Snapshot | list[Snapshot]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return next(self.snapshots([range(len(self))[index]]))

    def _snapshot(self, place: int, weights: NDArray[Any], buffers: NDArray[Any]) -> Snapshot:
        return Snapshot(
            step=int(self.steps[place]),
            weights=weights,
            buffers=buffers,
            loss=float(self.losses[place]),
            epoch=float(self.epochs[place]),
            learning_rate=self.learning_rates[place],
            wall_time=float(self.wall_times[place]),
            momentum=self.momenta[place],
        )

    def snapshots(self, numbers: Sequence[int]) -> Iterator[Snapshot]:
        """The snapshots of these numbers, in turn; of a small model many are read at a time."""
        row = self.layout.size * self.dtype.itemsize + self.buffer_layout.size * 4
        at_once = max(1, READ_BYTES // max(1, row))
        for start in range(0, len(numbers), at_once):
            # a function of its own lets go of these before the next are read: of a large model, one is in memory
            yield from self._together(np.asarray(numbers[start : start + at_once], dtype=np.intp))

    def _together(self, some: NDArray[np.intp]) -> Iterator[Snapshot]:
        weights, buffers = self._read(some), self._buffers(some)
        for place, own, beside in zip(some, weights, buffers, strict=True):
            yield self._snapshot(int(place), own, beside)

    # -- what is known of every snapshot -----------------------------------------------------------------
    @cached_property
    def buffer_layout(self) -> ParameterLayout:
        """Names, shapes and offsets of the buffers in `buffers`."""
        entries = checked.attribute(self.root, "buffer_layout", list, "the run")
        return ParameterLayout.from_json(entries, kind="buffer")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type that weights are read as: float32 or float64 (halves are widened)."""
        stored = {dtype for shard in self._shards for dtype in shard.dtypes}
        return np.result_type(np.float32, *stored, *(np.float64 for columns in self._columns if columns.wide))

    @property
    def stored_dtype(self) -> str:
        """The data type in which weights are stored, as torch spells it: float32, float64, float16 or bfloat16."""
        return self._parts[0].stored_dtype("weights")

    @property
    def chunk(self) -> int:
        """Neighbouring columns of the weight matrix that are stored, and so best read, together."""
        return max(part.chunk for part in self._parts)

    @property
    def sharded(self) -> bool:
        """Whether every rank of the training recorded its own shards."""
        return self._shards[0].pieces is not None

    @property
    def stride(self) -> int:
        """Steps between neighbours of a thinned trajectory; 0 where nothing is thinned."""
        return max(part.commit.stride for part in self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and buffers of all snapshots as they are stored, before any compression."""
        return sum(part.row_bytes * len(rows) for part, rows in zip(self._parts, self._rows, strict=True))

    # -- the matrix, in pieces ------------------------------------------------------------------------
    def block(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """(n, c) weights of some snapshots and some parameters; only these are read from the store.

        Raises
        ------
        RunError
            a writer has thinned out one of these snapshots since the trajectory was opened.
        """
        return self._read(np.arange(len(self))[rows], columns)

    def _read(self, wanted: NDArray[np.intp], columns: slice = slice(None)) -> NDArray[Any]:
        start, stop, stride = columns.indices(self.layout.size)
        stop = max(start, stop)

        def read(number: int, inside: slice) -> NDArray[Any]:
            part, rows = self._parts[number], self._rows[number][wanted]
            return self._columns[number].read(part.matrix, rows, part.steps[rows], inside, self.dtype)

        if not self._runs:
            return read(0, slice(start, stop))[:, ::stride]
        return self._gathered(len(wanted), [partial(read, n) for n in range(len(self._parts))], columns)

    def _gathered(self, count: int, reads: Sequence[Callable[[slice], NDArray[Any]]], columns: slice) -> NDArray[Any]:
        """(count, c) what `reads`, one for each rank, give of its rows, put together."""
        start, stop, stride = columns.indices(self.layout.size)
        found = np.full((count, max(0, stop - start)), np.nan, dtype=self.dtype)
        for first in range(start, stop, PIECE):  # what is read of a shard is not as large as the shard
            last = min(first + PIECE, stop)
            for read, runs in zip(reads, self._runs, strict=True):
                runs.scatter(found[:, first - start : last - start], first, last, read)
        return found[:, ::stride]

    @property
    def still_buffers(self) -> frozenset[str]:
        """Names of the buffers that were stored once and never moved."""
        shard = self._shards[0]
        return frozenset(shard.fixed.buffers.names).difference(*(late.layout.names for late in shard.late_buffers))

    def buffers(self, rows: slice = slice(None)) -> NDArray[Any]:
        """(n, B) buffers of some snapshots (of a sharded training: those of the first rank)."""
        return self._buffers(np.arange(len(self))[rows])

    def _buffers(self, wanted: NDArray[np.intp]) -> NDArray[Any]:
        part, rows, size = self._parts[0], self._rows[0][wanted], self.buffer_layout.size
        dtype = np.result_type(part.dtype("buffers"), np.dtype(self.buffer_layout.dtype))
        return self._held(self._buffer_columns.read(part.matrix, rows, part.steps[rows], slice(0, size), dtype))

    def _held(self, buffers: NDArray[Any]) -> NDArray[Any]:
        return buffers if self._inside is None else np.where(self._inside[0], buffers, self._inside[1])

    # -- what did not move ---------------------------------------------------------------------------------
    @property
    def fixed(self) -> Chosen:
        """The tensors that never moved, by name, read when asked for; they are no part of `weights` (or `buffers`).

        They have their own shapes, and are numbers: bfloat16 is read as float32, integers of quantized layers as such.
        """
        moving = set(self.layout.names).union(self.held, self._fixed.buffers.names)
        return Chosen(self._fixed, [name for name in self._fixed if name not in moving])

    @property
    def fixed_layout(self) -> ParameterLayout:
        """Names, shapes and types of the parameters that never moved."""
        fixed = self.fixed
        return ParameterLayout.in_order([entry for entry in self._fixed.layout if entry.name in fixed])

    def entry(self, name: str) -> ParameterEntry:
        """What is known of a tensor that moves in the run, whether or not it is among the weights here."""
        late = (entry for each in self._late for entry in each.layout)
        return next(entry for entry in (*self._own, *late, *self._fixed.layout) if entry.name == name)

    def has_same(self, name: str, other: Trajectory) -> bool:
        """Whether a tensor that stands still in both runs has the same values there."""
        return same_values(name, self._fixed, other._fixed)

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers that the weights had at first, and after each time that further parameters began to move."""
        return self._widths

    def before_moving(self, start: int, stop: int) -> NDArray[Any]:
        """(stop - start,) values of late columns before they began to move; `start` is at least `widths[0]`."""
        return self._fixed.row(self.layout, start, stop, self.dtype)

    # -- beside the path --------------------------------------------------------------------------------
    @property
    def marks(self) -> Mapping[str, Snapshot]:
        """Named snapshots beside the path, by name; of a sharded training those that every rank has written.

        Weights are read when asked for. They are no part of the sequence.
        """
        return Marks(self)

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What the run cannot vouch for, as of now; see `landscape_hooks.trajectory.doubts`."""
        return read_doubts(checked.fresh(self.root))

    # -- whether it is still what was recorded ---------------------------------------------------------------
    @property
    def has_checksums(self) -> bool:
        """Whether the run was recorded with checksums (`Storage(checksum=True)`)."""
        return all(part.has_checksums for part in self._parts)

    def verify(self) -> list[Damage]:
        """Read every snapshot and compare it with its checksum; the damaged ones, an empty list if there are none.

        Raises
        ------
        RunError
            the run was recorded without checksums, or a recorder has thinned out snapshots meanwhile.
        """
        if not self.has_checksums:
            raise RunError(
                "The run has no checksums, so nothing says whether its snapshots are still what was recorded",
                mend="Record with storage=Storage(checksum=True)",
            )
        found = []
        for rank, (part, rows) in enumerate(zip(self._parts, self._rows, strict=True)):
            damages = part.damages(rows)
            found += [replace(damage, rank=rank) for damage in damages] if self.sharded else damages
        found += self._fixed.damages()
        return sorted(found, key=lambda damage: (damage.index, damage.rank or 0))


class Marks(Mapping[str, Snapshot]):
    """The named snapshots of a trajectory, each read when it is asked for."""

    def __init__(self, trajectory: Trajectory) -> None:
        self._trajectory = trajectory
        ranks = len(trajectory._shards) if trajectory.sharded else 0
        self._owners = [checked.group(trajectory.root, f"ranks/{rank}") for rank in range(ranks)]
        of_ranks = [read_marks(owner) for owner in self._owners or [trajectory.root]]
        found = {name: [marks[name] for marks in of_ranks if name in marks] for name in of_ranks[0]}
        # a rank may be ahead of the others, or was killed: a mark is what all of them took at the same step
        self._marks = {
            name: parts
            for name, parts in found.items()
            if len(parts) == len(of_ranks) and len({part.step for part in parts}) == 1
        }
        for parts in self._marks.values():
            self._check(parts)

    def __len__(self) -> int:
        return len(self._marks)

    def __iter__(self) -> Iterator[str]:
        return iter(self._marks)

    def __contains__(self, name: object) -> bool:
        return name in self._marks  # without reading it

    def __getitem__(self, name: str) -> Snapshot:
        parts = self._marks[name]
        owner = self._trajectory
        reads = []
        for part, shard in zip(parts, owner._shards, strict=True):
            columns = shard.of_mark(part.size).arranged(owner.layout)[0]
            reads.append(partial(row_of_mark, part, columns, owner.dtype))
        weights = (owner._gathered(1, reads, slice(None)) if owner._runs else reads[0](slice(0, owner.layout.size)))[0]
        unknown = np.full(owner.learning_rates.shape[1], np.nan)
        return Snapshot(
            step=parts[0].step,
            weights=weights,
            buffers=owner._held(owner._shards[0].buffers_of_mark(parts[0], owner.buffer_layout)),
            loss=parts[0].loss,
            epoch=parts[0].epoch,
            learning_rate=unknown,
            wall_time=parts[0].wall_time,
            momentum=unknown,
        )

    def _check(self, parts: list[Mark]) -> None:
        owner = self._trajectory
        sizes = [(part, part.size, "weights", shard.widths) for part, shard in zip(parts, owner._shards, strict=True)]
        for part, size, what, known in [*sizes, (parts[0], parts[0].buffer_size, "buffers", owner._buffer_widths)]:
            if size not in known:
                raise checked.damaged(f"The mark '{part.name}' has {size} {what}", expected=f"one of {known}")


def _checksum_of(group: zarr.Group) -> tuple[str, ...]:
    return ("checksum",) if checked.has(group, "checksum") else ()
