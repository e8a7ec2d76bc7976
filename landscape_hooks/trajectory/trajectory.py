"""Trajectory: the recorded snapshots, read back as a sequence. TrajectoryWriter: how they get into the run.

In: rows of flattened weights and buffers with their step (from the recorder). Out: the group `trajectory`
of the run, and from it `Snapshot`s and blocks of the weight matrix for whoever analyzes it. A row counts only
once the commit record, one attribute written last, says so. No torch here: reading needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BloscCname, BloscCodec, BloscShuffle

from landscape_hooks.errors import RunError
from landscape_hooks.store import checked, schema
from landscape_hooks.store import run as store
from landscape_hooks.store.rowfiles import SHARD_BYTES, RowFiles, chunking
from landscape_hooks.trajectory.checksum import Damage, checksums
from landscape_hooks.trajectory.commit import Commit
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.part import Part
from landscape_hooks.trajectory.sharding import Piece, Runs

SCALARS = ("step", "epoch", "loss", "wall_time")
GROWTH = 1024
READ_BYTES = 2**22
"""Snapshots that are wanted one after the other are read so much at a time."""
PIECE = 2**22
COMPRESSORS: dict[str, Any] = {"lz4": BloscCname.lz4, "zstd": BloscCname.zstd}


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
    """

    step: int
    weights: NDArray[Any]
    buffers: NDArray[Any]
    loss: float
    epoch: float
    learning_rate: NDArray[np.float64]
    wall_time: float


class Trajectory(Sequence[Snapshot]):
    """The snapshots of a run, in order of their step; only committed ones, as of the moment it was opened.

    Weights stay in the store until a snapshot or a block is asked for.

    Attributes
    ----------
    root
        the run's Zarr group.
    label
        what a legend calls the run.
    steps
        (T,) optimizer steps taken at each snapshot.
    epochs, losses
        (T,) as logged by the training loop, NaN where nothing was.
    learning_rates
        (T, G) learning rate of each parameter group.
    wall_times
        (T,) seconds since 1970-01-01 UTC.
    """

    def __init__(self, root: Any, label: str = "") -> None:
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
        self._parts = [Part(root, f"ranks/{rank}/trajectory") for rank in range(ranks)] or [Part(root)]
        steps = reduce(np.intersect1d, (part.steps for part in self._parts))
        self._rows = [np.searchsorted(part.steps, steps) for part in self._parts]
        self._runs = [_runs(root, rank, self.layout) for rank in range(ranks)]
        widths = [runs.size for runs in self._runs] or [self.layout.size]
        for part, width in zip(self._parts, widths, strict=True):
            part.check_width("weights", width, self.layout.size)
        self._parts[0].check_width("buffers", self.buffer_layout.size, self.buffer_layout.size)
        first = {name: column[self._rows[0]] for name, column in self._parts[0].columns.items()}
        self.steps: NDArray[np.int64] = first["step"]
        self.epochs: NDArray[np.float64] = first["epoch"]
        self.losses: NDArray[np.float64] = first["loss"]
        self.learning_rates: NDArray[np.float64] = first["learning_rate"]
        self.wall_times: NDArray[np.float64] = first["wall_time"]

    @classmethod
    def open(cls, store_or_path: Any) -> Trajectory:
        """Open the trajectory of a run (path, URL, Zarr store or group).

        Raises
        ------
        RunError
            it is not a run, or has no trajectory.
        """
        return cls(store.open_run(store_or_path), store.label_of(store_or_path))

    # -- as a sequence --------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: Any) -> Any:
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
        )

    def snapshots(self, numbers: Sequence[int]) -> Iterator[Snapshot]:
        """The snapshots of these numbers, in turn; of a small model many are read at a time."""
        row = self.layout.size * self.dtype.itemsize + self.buffer_layout.size * 4
        at_once = max(1, READ_BYTES // max(1, row))
        for start in range(0, len(numbers), at_once):
            # a function of its own lets go of these before the next are read: of a large model, one is in memory
            yield from self._together(np.asarray(numbers[start : start + at_once], dtype=np.intp))

    def _together(self, some: NDArray[np.intp]) -> Iterator[Snapshot]:
        weights, buffers = self._read(some), self._parts[0].matrix("buffers", self._rows[0][some], slice(None))
        for place, own, beside in zip(some, weights, buffers, strict=True):
            yield self._snapshot(int(place), own, beside)

    # -- what is known of every snapshot -----------------------------------------------------------------
    @cached_property
    def layout(self) -> ParameterLayout:
        """Names, shapes and offsets of the parameters in `weights`."""
        return ParameterLayout.from_json(checked.attribute(self.root, "layout", list, "the run"))

    @cached_property
    def buffer_layout(self) -> ParameterLayout:
        """Names, shapes and offsets of the buffers in `buffers`."""
        entries = checked.attribute(self.root, "buffer_layout", list, "the run")
        return ParameterLayout.from_json(entries, kind="buffer")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type that weights are read as: float32 or float64 (weights stored as float16 are widened)."""
        return np.promote_types(self._parts[0].dtype("weights"), np.float32)

    @property
    def chunk(self) -> int:
        """Neighbouring columns of the weight matrix that are stored, and so best read, together."""
        return max(part.chunk for part in self._parts)

    @property
    def sharded(self) -> bool:
        """Whether every rank of the training recorded its own shards."""
        return bool(self._runs)

    @property
    def stride(self) -> int:
        """Steps between neighbours of a thinned trajectory; 0 where nothing is thinned."""
        return max(part.commit.stride for part in self._parts)

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
        if not self._runs:
            found = self._parts[0].matrix("weights", self._rows[0][wanted], columns)
            return found.astype(self.dtype, copy=False)
        start, stop, stride = columns.indices(self.layout.size)
        found = np.full((len(wanted), max(0, stop - start)), np.nan, dtype=self.dtype)
        for first in range(start, stop, PIECE):  # what is read of a shard is not as large as the shard
            last = min(first + PIECE, stop)
            for part, own, runs in zip(self._parts, self._rows, self._runs, strict=True):
                read = partial(part.matrix, "weights", own[wanted])
                runs.scatter(found[:, first - start : last - start], first, last, read)
        return found[:, ::stride]

    def buffers(self, rows: slice = slice(None)) -> NDArray[Any]:
        """(n, B) buffers of some snapshots (of a sharded training: those of the first rank)."""
        return self._parts[0].matrix("buffers", self._rows[0][np.arange(len(self))[rows]], slice(None))

    # -- whether it is still what was recorded ---------------------------------------------------------------
    @property
    def has_checksums(self) -> bool:
        """Whether the run was recorded with `checksum=True`."""
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
                mend="Record with checksum=True",
            )
        found = []
        for rank, (part, rows) in enumerate(zip(self._parts, self._rows, strict=True)):
            damages = part.damages(rows)
            found += [replace(damage, rank=rank) for damage in damages] if self._runs else damages
        return sorted(found, key=lambda damage: (damage.index, damage.rank or 0))


def _checksum_of(group: Any) -> tuple[str, ...]:
    return ("checksum",) if checked.has(group, "checksum") else ()


def _runs(root: Any, rank: int, layout: ParameterLayout) -> Runs:
    shard = checked.group(root, f"ranks/{rank}")
    pieces = checked.attribute(shard, "pieces", list, f"rank {rank}")
    return Runs(layout, [Piece.from_json(piece) for piece in pieces])


# -- writing --------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """Snapshots to be written together: weights (n, D), buffers (n, B), and the scalars of each.

    `tail` says that the last of them is off the schedule; `files` is the staging memory of `weights`, if they
    lie in such memory (`TrajectoryWriter.staging`).
    """

    weights: NDArray[Any]
    buffers: NDArray[Any]
    scalars: Mapping[str, Sequence[float]]
    learning_rate: NDArray[np.float64]
    tail: bool = False
    files: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.weights)


class TrajectoryWriter:
    """Writes snapshots into a run: data first, the commit record last, so that a kill leaves whole rows only."""

    def __init__(self, root: Any) -> None:
        self._root, self._group = root, checked.group(root, "trajectory")
        # write_empty_chunks is not part of what Zarr stores; without it a row of zeros next to a NaN fill
        # is safe, but a row of NaNs (a diverged training) would be left out of the store.
        self._arrays = {
            name: checked.array(self._group, name).with_config({"write_empty_chunks": True})
            for name in ("weights", "buffers", "learning_rate", *SCALARS, *_checksum_of(self._group))
        }
        self.commit = Commit.read(self._group)
        self.slots = checked.whole(self._group.attrs.get("slots", 0), "The number of slots")
        places = self.commit.places
        steps = checked.select(self._arrays["step"], (slice(int(places.max(initial=-1)) + 1),), "trajectory/step")
        self.steps: list[int] = steps[places].tolist()
        self._files = {name: RowFiles(array, places.tolist()) for name, array in self._arrays.items()}

    @classmethod
    @store.writes
    def create(
        cls,
        root: Any,
        layout: ParameterLayout,
        buffer_layout: ParameterLayout,
        *,
        groups: int,
        slots: int = 0,
        dtype: str | None = None,
        compress: str | None = None,
        checksum: bool = False,
    ) -> TrajectoryWriter:
        """Start an empty trajectory in a run.

        `slots` is the number of places of the thinning schedule; 0 for a trajectory that grows without limit.
        With `checksum` every row gets one.
        """
        root.attrs.update({"layout": layout.to_json(), "buffer_layout": buffer_layout.to_json()})
        root.create_group("trajectory", attributes={"slots": slots})
        rows = slots or GROWTH
        compressors = None
        if compress is not None:
            compressors = BloscCodec(cname=COMPRESSORS[compress], clevel=5, shuffle=BloscShuffle.bitshuffle)
        config = {"write_empty_chunks": True}
        kind = np.dtype(dtype or layout.dtype)
        short = not slots and layout.size * kind.itemsize <= SHARD_BYTES // 2
        for name, size, stored in (
            ("weights", layout.size, kind),
            ("buffers", buffer_layout.size, np.dtype(buffer_layout.dtype)),
        ):
            chunks, shards = chunking(size, stored.itemsize, several_rows=short)
            schema.create(
                root,
                f"trajectory/{name}",
                (rows, size),
                dtype=stored,
                chunks=chunks,
                shards=shards if shards != chunks else None,
                compressors=compressors if name == "weights" else None,
                config=config,
            )
        for name in (*SCALARS, *(("checksum",) if checksum else ())):
            schema.create(root, f"trajectory/{name}", (rows,), chunks=(rows,), compressors=None, config=config)
        schema.create(
            root,
            "trajectory/learning_rate",
            (rows, groups),
            chunks=(rows, max(1, groups)),
            compressors=None,
            config=config,
        )
        Commit(order=() if slots else None).write(root["trajectory"])
        return cls(root)

    @property
    def has_checksums(self) -> bool:
        """Whether every row gets a checksum."""
        return "checksum" in self._arrays

    @property
    def dtypes(self) -> tuple[str, str]:
        """Data types in which weights and buffers are stored."""
        return str(self._arrays["weights"].dtype), str(self._arrays["buffers"].dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of one snapshot's weights and buffers."""
        return sum(self._arrays[n].shape[1] * self._arrays[n].dtype.itemsize for n in ("weights", "buffers"))

    def room(self, most: int) -> int:
        """Snapshots to write together next, at most `most`: such that they do not begin a file without filling it."""
        file = self._files["weights"].rows
        return min(most, file - self.commit.rows % file) if file > 1 else most

    def last_row(self) -> NDArray[Any]:
        """(D,) weights of the last snapshot."""
        return self._arrays["weights"][int(self.commit.places[-1])]

    def staging(
        self, depth: int, allocate: Callable[[int], NDArray[np.uint8]] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Memory for `depth` rows of weights that is written as it lies: (files, values); see `RowFiles.staging`."""
        return self._files["weights"].staging(depth, allocate)

    def append(self, rows: Rows) -> None:
        """Write some snapshots and commit them together."""
        places = self._free(len(rows))
        self._grow(max(places) + 1, rows.learning_rate.shape[1])
        store.check_there(self._group.store)
        puts = self._files["weights"].put(places, rows.weights, rows.files)
        puts += self._files["buffers"].put(places, rows.buffers)
        puts += self._files["learning_rate"].put(places, rows.learning_rate)
        for name in SCALARS:
            puts += self._files[name].put(places, np.asarray(rows.scalars[name]))
        if "checksum" in self._files:
            puts += self._files["checksum"].put(places, self._checksums(rows))
        store.put_files(self._group.store, puts)
        order = None if self.commit.order is None else (*self.commit.order, *places)
        self._set(replace(self.commit, rows=self.commit.rows + len(rows), order=order, tail=rows.tail))
        self.steps += [int(step) for step in rows.scalars["step"]]

    def _checksums(self, rows: Rows) -> NDArray[np.uint32]:
        weights = rows.weights.astype(self._arrays["weights"].dtype, copy=False)
        buffers = rows.buffers.astype(self._arrays["buffers"].dtype, copy=False)
        return checksums(np.asarray(rows.scalars["step"]), weights, buffers)

    def amend(self, step: int, **scalars: float | None) -> None:
        """Fill in scalars of a committed snapshot that became known after it; nothing if it was thinned out."""
        if step in self.steps:
            place = int(self.commit.places[self.steps.index(step)])
            if step != self.steps[-1]:  # perhaps in a file that is no longer in memory
                for files in self._files.values():
                    files.forget(self.commit.places.tolist())
            for name, value in scalars.items():
                if value is not None:
                    store.put_files(self._group.store, self._files[name].put([place], np.array([value]), counted=True))

    def retain(self, steps: Iterable[int], stride: int) -> None:
        """Keep only the snapshots of these steps; the places of the others become free."""
        wanted = set(steps)
        kept = [i for i, step in enumerate(self.steps) if step in wanted]
        self._keep(kept, stride)

    @store.writes
    def truncate(self, step: int) -> None:
        """Drop the snapshots after `step`, and one taken off the schedule: resuming takes them again."""
        known = self.steps[:-1] if self.commit.tail else self.steps
        if any(known_step > step for known_step in self.steps):
            # analyses know snapshots by step and time; taken again by a clock that was set back, they may
            # look the same
            store.remove_group(self._root, "gram")
        self._keep([i for i, known_step in enumerate(known) if known_step <= step], self.commit.stride)

    def close(self) -> None:
        """Nothing more is coming: give back the places that were never used."""
        if self.commit.order is None:
            self._resize(max(1, self.commit.rows))

    def _keep(self, kept: list[int], stride: int) -> None:
        dropped = len(kept) < self.commit.rows
        order = None if self.commit.order is None else tuple(self.commit.order[i] for i in kept)
        generation = self.commit.generation + int(dropped)
        tail = self.commit.tail and self.commit.rows - 1 in kept
        commit = Commit(rows=len(kept), order=order, generation=generation, stride=stride, tail=tail)
        if commit != self.commit:
            self._set(commit)
        self.steps = [self.steps[i] for i in kept]
        if dropped:
            for files in self._files.values():
                files.forget(commit.places.tolist())

    def _free(self, count: int) -> list[int]:
        if self.commit.order is None:
            return list(range(self.commit.rows, self.commit.rows + count))
        used = set(self.commit.order)
        free = [place for place in range(self.slots) if place not in used][:count]
        if len(free) < count:
            raise RuntimeError(f"{count} snapshots for {len(free)} free places of {self.slots}")
        return free

    def _grow(self, rows: int, groups: int) -> None:
        have = min(array.shape[0] for array in self._arrays.values())  # a kill may have come between two of them
        if rows > have:
            self._resize(max(rows, 2 * have))
        rates = self._arrays["learning_rate"]
        if groups > rates.shape[1]:
            rates.resize((rates.shape[0], groups))

    def _resize(self, rows: int) -> None:
        store.check_there(self._group.store)
        for array in self._arrays.values():
            if array.shape[0] != rows:
                array.resize((rows, *array.shape[1:]))

    def _set(self, commit: Commit) -> None:
        store.check_there(self._group.store)
        commit.write(self._group)
        self.commit = commit
