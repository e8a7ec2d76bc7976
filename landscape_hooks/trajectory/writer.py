"""TrajectoryWriter: snapshots on their way into a run. Rows in, arrays of `trajectory/` out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCname, BloscCodec, BloscShuffle
from zarr.core.array import CompressorsLike

from landscape_hooks.store import checked, schema
from landscape_hooks.store.folder import check_there, put_files
from landscape_hooks.store.rowfiles import SHARD_BYTES, RowFiles, chunking
from landscape_hooks.store.run import put_attribute, remove_group, writes
from landscape_hooks.trajectory.marks import put_mark
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.checksum import checksums
from landscape_hooks.trajectory.rows.commit import Commit
from landscape_hooks.trajectory.rows.fixed import Fixed, Pieces, put_fixed
from landscape_hooks.trajectory.rows.late import Late, read_late
from landscape_hooks.trajectory.staging import Allocate, Rows, Staging
from landscape_hooks.trajectory.trajectory import SCALARS, _checksum_of

GROWTH = 1024


__all__ = ["COMPRESSORS", "Rows", "TrajectoryWriter"]

OF_GROUPS = ("learning_rate", "momentum")
"""Columns with one number for every parameter group; a run of format 1 has only the first."""


COMPRESSORS: dict[str, Any] = {"lz4": BloscCname.lz4, "zstd": BloscCname.zstd}


class TrajectoryWriter:
    """Writes snapshots into a run: data first, the commit record last, so that a kill leaves whole rows only."""

    def __init__(self, root: zarr.Group) -> None:
        self._root, self._group = root, checked.group(root, "trajectory")
        # write_empty_chunks is not part of what Zarr stores; without it a row of zeros next to a NaN fill
        # is safe, but a row of NaNs (a diverged training) would be left out of the store.
        self._arrays = {
            name: checked.array(self._group, name).with_config({"write_empty_chunks": True})
            for name in ("weights", "buffers", *_of_groups(self._group), *SCALARS, *_checksum_of(self._group))
        }
        self.commit = Commit.read(self._group)
        self.slots = checked.whole(self._group.attrs.get("slots", 0), "The number of slots")
        places = self.commit.places
        steps = checked.select(self._arrays["step"], (slice(int(places.max(initial=-1)) + 1),), "trajectory/step")
        self.steps: list[int] = steps[places].tolist()
        self._files = {name: RowFiles(array, places.tolist()) for name, array in self._arrays.items()}
        self.layout = ParameterLayout.from_json(checked.attribute(root, "layout", list, "the run"))
        self._fixed = Fixed(root)
        every = ParameterLayout.from_json(checked.attribute(root, "buffer_layout", list, "the run"), kind="buffer")
        self.buffer_layout = every.picked([entry for entry in every if entry.name not in self._fixed.buffers.names])
        self.late: list[Late] = []
        for late in read_late(self._group, self._fixed):
            self._adopt(late, places.tolist())

    @classmethod
    @writes
    def create(
        cls,
        root: zarr.Group,
        layout: ParameterLayout,
        buffer_layout: ParameterLayout,
        *,
        groups: int,
        slots: int = 0,
        dtype: str | None = None,
        compress: str | None = None,
        checksum: bool = False,
        fixed: Sequence[Pieces] = (),
        others: Sequence[Pieces] = (),
        fixed_buffers: Sequence[Pieces] = (),
        reference: bool = False,
    ) -> TrajectoryWriter:
        """Start an empty trajectory in a run.

        `slots` is the number of places of the thinning schedule; 0 for a trajectory that grows without limit.
        With `checksum` every row gets one. `fixed`, `others` and `fixed_buffers` are tensors that do not move, as
        `put_fixed` takes them; with `reference` the run has digests alone. `buffer_layout` is of all buffers.
        """
        root.update_attributes({"layout": layout.to_json(), "buffer_layout": buffer_layout.to_json()})
        once = {entry.name for entry, _ in fixed_buffers}
        beside = buffer_layout.picked([entry for entry in buffer_layout if entry.name not in once])
        if fixed or others or fixed_buffers:
            put_fixed(root, fixed, others, fixed_buffers, reference=reference)
        group = root.create_group("trajectory", attributes={"slots": slots})
        rows = slots or GROWTH
        config = {"write_empty_chunks": True}
        kind = bits.stored_dtype(dtype or layout.row_dtype)
        short = not slots and layout.size * kind.itemsize <= SHARD_BYTES // 2
        _create_matrix(root, "trajectory/weights", (rows, layout.size), kind, short, _compressor(compress))
        shape = rows, beside.size
        _create_matrix(root, "trajectory/buffers", shape, np.dtype(beside.dtype), short, None)
        for name in (*SCALARS, *(("checksum",) if checksum else ())):
            schema.create(root, f"trajectory/{name}", (rows,), chunks=(rows,), compressors=None, config=config)
        for name in OF_GROUPS:
            schema.create(
                root,
                f"trajectory/{name}",
                (rows, groups),
                chunks=(rows, max(1, groups)),
                compressors=None,
                config=config,
            )
        Commit(order=() if slots else None).write(group)
        return cls(root)

    @writes
    def extend(self, layout: ParameterLayout, from_step: int) -> None:
        """Snapshots from `from_step` on have these tensors (parameters, or buffers), too, which were fixed until then.

        Their numbers are columns after those that there are: `Rows.late` has one array more. Every snapshot so far is
        of an earlier step.
        """
        check_there(self._group.store)
        late = Late(len(self.late), layout, from_step)
        first = self._arrays["weights"]
        kind = np.dtype(layout.dtype) if late.of_buffers else bits.stored_dtype(self._dtype_of(layout))
        group = self._group.require_group("late").create_group(str(late.number), overwrite=True)
        short = not self.slots and layout.size * kind.itemsize <= SHARD_BYTES // 2
        shape = first.shape[0], layout.size
        compressors = None if late.of_buffers else first.compressors or None
        _create_matrix(self._root, f"trajectory/{late.array}", shape, kind, short, compressors)
        said = {"kind": "buffer"} if late.of_buffers else {}
        group.update_attributes({**said, "layout": layout.to_json(), "from_step": from_step})
        self._adopt(late, ())

    def _adopt(self, late: Late, committed: Sequence[int]) -> None:
        array = checked.array(self._group, late.array).with_config({"write_empty_chunks": True})
        self._arrays[late.array] = array
        self._files[late.array] = RowFiles(array, committed)
        self.late.append(late)

    def _dtype_of(self, layout: ParameterLayout) -> str:
        """The type for late columns: their own, unless the run was asked to store another than the weights' own."""
        stored = self.dtypes[0]
        return layout.row_dtype if stored == self.layout.row_dtype else stored

    @property
    def fixed(self) -> Fixed:
        """The tensors that were stored once."""
        return self._fixed

    @property
    def has_checksums(self) -> bool:
        """Whether every row gets a checksum."""
        return "checksum" in self._arrays

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Data types in which weights, buffers and late columns are stored, as torch spells them."""
        return tuple(bits.name_of(self._arrays[name].dtype) for name in self._matrices)

    @property
    def _kinds(self) -> tuple[str, ...]:
        """Those of weights and late parameters."""
        weights, _, *late = self.dtypes
        return weights, *(kind for kind, each in zip(late, self.late, strict=True) if not each.of_buffers)

    @property
    def row_bytes(self) -> int:
        """Bytes of one snapshot's weights, buffers and late columns."""
        return sum(self._arrays[n].shape[1] * self._arrays[n].dtype.itemsize for n in self._matrices)

    @property
    def _matrices(self) -> tuple[str, ...]:
        return ("weights", "buffers", *(late.array for late in self.late))

    def room(self, most: int) -> int:
        """Snapshots to write together next, at most `most`: such that they do not begin a file without filling it."""
        file = self._files["weights"].rows
        return min(most, file - self.commit.rows % file) if file > 1 else most

    def row(self, number: int) -> NDArray[Any]:
        """(D,) weights of a snapshot, as numbers."""
        place, step = int(self.commit.places[number]), self.steps[number]
        parts = [bits.numbers_of(np.asarray(self._arrays["weights"][place]))]
        parts += [self._late_row(late, place, step, parts[0].dtype) for late in self.late if not late.of_buffers]
        return np.concatenate(parts)

    def _late_row(self, late: Late, place: int, step: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        if step >= late.from_step:
            return bits.numbers_of(np.asarray(self._arrays[late.array][place]))
        return self._before(late, dtype)

    def first_row(self) -> NDArray[Any]:
        """(D,) weights of the first snapshot, as numbers."""
        return self.row(0)

    def last_row(self) -> NDArray[Any]:
        """(D,) weights of the last snapshot, as numbers."""
        return self.row(-1)

    def buffers(self, number: int) -> NDArray[Any]:
        """(b,) buffers of a snapshot that are in its row, and after them those that joined it."""
        place, step = int(self.commit.places[number]), self.steps[number]
        own = np.asarray(self._arrays["buffers"][place])
        late = [self._late_row(each, place, step, own.dtype) for each in self.late if each.of_buffers]
        return np.concatenate([own, *late]) if late else own

    def mark(self, name: str, weights: NDArray[Any], buffers: NDArray[Any], scalars: Mapping[str, float]) -> None:
        """Write a named snapshot beside the path; weights are numbers, late columns included."""
        if set(self._kinds) == {bits.BFLOAT16}:
            weights = bits.bits_of(weights)
        facts = {key: value for key, value in scalars.items() if key != "step"}
        put_mark(self._root, name, weights, buffers, step=int(scalars["step"]), **facts)

    def staging(self, depth: int, allocate: Allocate | None = None) -> Staging:
        """Memory for `depth` snapshots, which is written as it lies."""
        staging = Staging(depth, self._files["weights"], self._arrays["buffers"], allocate)
        for late in self.late:
            self.widen(staging, late)
        return staging

    def widen(self, staging: Staging, late: Late) -> None:
        """Late columns in memory for snapshots; what waits there has the values that were stored once."""
        values = staging.widen(self._files[late.array])
        row = self._before(late, bits.dtype_of(self._arrays[late.array]))
        values[...] = bits.bits_of(row) if values.dtype == bits.STORED else row

    def _before(self, late: Late, dtype: np.dtype[Any]) -> NDArray[Any]:
        """(d,) what tensors were before they began to move; NaN where the run has them by reference."""
        if self._fixed.reference and not late.of_buffers:
            return np.full(late.layout.size, np.nan, dtype=dtype)
        return self._fixed.row(late.layout, 0, late.layout.size, dtype)

    def append(self, rows: Rows) -> None:
        """Write some snapshots and commit them together; weights of a run of bfloat16 are given as their bits."""
        matrices = {"weights": rows.weights} | {
            late.array: values for late, values in zip(self.late, rows.late, strict=True)
        }
        for name, values in matrices.items():
            if (values.dtype == bits.STORED) != bits.holds_bits(self._arrays[name]):
                raise TypeError(f"rows of {values.dtype} for the {self._arrays[name].dtype} of '{name}'")
        places = self._free(len(rows))
        of_groups = {"learning_rate": rows.learning_rate, "momentum": rows.momentum}
        groups = max(self._groups, *(0 if values is None else values.shape[1] for values in of_groups.values()))
        self._grow(max(places) + 1, groups)
        check_there(self._group.store)
        nothing: list[NDArray[np.uint8] | None] = [None] * len(self.late)
        files = [rows.files, *(rows.late_files or nothing)]
        puts = []
        for (name, values), staged in zip(matrices.items(), files, strict=True):
            puts += self._files[name].put(places, values, staged)
        puts += self._files["buffers"].put(places, rows.buffers)
        for name in _of_groups(self._group):
            puts += self._files[name].put(places, _widened(of_groups[name], len(rows), groups))
        for name in SCALARS:
            puts += self._files[name].put(places, np.asarray(rows.scalars[name]))
        if "checksum" in self._files:
            puts += self._files["checksum"].put(places, self._checksums(rows))
        put_files(self._group.store, puts)
        order = None if self.commit.order is None else (*self.commit.order, *places)
        self._set(replace(self.commit, rows=self.commit.rows + len(rows), order=order, tail=rows.tail))
        self.steps += [int(step) for step in rows.scalars["step"]]

    @property
    def _groups(self) -> int:
        """Parameter groups that there is room for."""
        return int(self._arrays["learning_rate"].shape[1])

    def _checksums(self, rows: Rows) -> NDArray[np.uint32]:
        weights, buffers, *columns = (
            values.astype(self._arrays[name].dtype, copy=False)
            for name, values in zip(self._matrices, (rows.weights, rows.buffers, *rows.late), strict=True)
        )
        counted = [(late.from_step, values) for late, values in zip(self.late, columns, strict=True)]
        return checksums(np.asarray(rows.scalars["step"]), weights, buffers, counted)

    def amend(self, step: int, **scalars: float | None) -> None:
        """Fill in scalars of a committed snapshot that became known after it; nothing if it was thinned out."""
        if step in self.steps:
            place = int(self.commit.places[self.steps.index(step)])
            if step != self.steps[-1]:  # perhaps in a file that is no longer in memory
                for files in self._files.values():
                    files.forget(self.commit.places.tolist())
            for name, value in scalars.items():
                if value is not None:
                    put_files(self._group.store, self._files[name].put([place], np.array([value]), counted=True))

    def retain(self, steps: Iterable[int], stride: int) -> None:
        """Keep only the snapshots of these steps; the places of the others become free."""
        wanted = set(steps)
        kept = [i for i, step in enumerate(self.steps) if step in wanted]
        self._keep(kept, stride)

    @writes
    def truncate(self, step: int) -> None:
        """Drop the snapshots after `step`, and one taken off the schedule: resuming takes them again."""
        known = self.steps[:-1] if self.commit.tail else self.steps
        if any(known_step > step for known_step in self.steps):
            # analyses know snapshots by step and time; taken again by a clock that was set back, they may
            # look the same
            remove_group(self._root, "gram")
        self._keep([i for i, known_step in enumerate(known) if known_step <= step], self.commit.stride)
        # from here on every snapshot has all columns, whatever step they began to move at before
        begin = self.steps[-1] + 1 if self.steps else 0
        for number, late in enumerate(self.late):
            if late.from_step > begin:
                self.late[number] = replace(late, from_step=begin)
                put_attribute(self._group[f"late/{number}"], "from_step", begin)

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
        for name in _of_groups(self._group):
            rates = self._arrays[name]
            if groups > rates.shape[1]:
                rates.resize((rates.shape[0], groups))

    def _resize(self, rows: int) -> None:
        check_there(self._group.store)
        for array in self._arrays.values():
            if array.shape[0] != rows:
                array.resize((rows, *array.shape[1:]))

    def _set(self, commit: Commit) -> None:
        check_there(self._group.store)
        commit.write(self._group)
        self.commit = commit


def _create_matrix(
    root: zarr.Group,
    path: str,
    shape: tuple[int, int],
    kind: np.dtype[Any],
    short: bool,
    compressors: CompressorsLike,
) -> None:
    chunks, shards = chunking(shape[1], kind.itemsize, several_rows=short)
    schema.create(
        root,
        path,
        shape,
        dtype=kind,
        attributes=bits.attributes_for(kind),
        chunks=chunks,
        shards=shards if shards != chunks else None,
        compressors=compressors,
        config={"write_empty_chunks": True},
    )


def _compressor(name: str | None) -> BloscCodec | None:
    return None if name is None else BloscCodec(cname=COMPRESSORS[name], clevel=5, shuffle=BloscShuffle.bitshuffle)


def _widened(values: NDArray[np.float64] | None, count: int, groups: int) -> NDArray[np.float64]:
    """(count, groups) numbers, NaN where there are none."""
    wide = np.full((count, groups), np.nan)
    if values is not None:
        wide[:, : values.shape[1]] = values
    return wide


def _of_groups(group: zarr.Group) -> tuple[str, ...]:
    return tuple(name for name in OF_GROUPS if name == "learning_rate" or checked.has(group, name))
