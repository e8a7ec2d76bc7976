"""TrajectoryWriter: snapshots on their way into a run. Rows in, arrays of `trajectory/` out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BloscCname, BloscCodec, BloscShuffle

from landscape_hooks.store import checked, schema
from landscape_hooks.store.folder import check_there, put_files
from landscape_hooks.store.rowfiles import SHARD_BYTES, RowFiles, chunking
from landscape_hooks.store.run import remove_group, writes
from landscape_hooks.trajectory.marks import put_mark
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows.checksum import checksums
from landscape_hooks.trajectory.rows.commit import Commit
from landscape_hooks.trajectory.staging import Allocate, Rows, Staging
from landscape_hooks.trajectory.trajectory import SCALARS, _checksum_of

GROWTH = 1024


__all__ = ["COMPRESSORS", "Rows", "TrajectoryWriter"]

OF_GROUPS = ("learning_rate", "momentum")
"""Columns with one number for every parameter group; a run of format 1 has only the first."""


COMPRESSORS: dict[str, Any] = {"lz4": BloscCname.lz4, "zstd": BloscCname.zstd}


class TrajectoryWriter:
    """Writes snapshots into a run: data first, the commit record last, so that a kill leaves whole rows only."""

    def __init__(self, root: Any) -> None:
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

    @classmethod
    @writes
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
        for name in OF_GROUPS:
            schema.create(
                root,
                f"trajectory/{name}",
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

    def first_row(self) -> NDArray[Any]:
        """(D,) weights of the first snapshot."""
        return self._arrays["weights"][int(self.commit.places[0])]

    def mark(self, name: str, weights: NDArray[Any], buffers: NDArray[Any], scalars: Mapping[str, float]) -> None:
        """Write a named snapshot beside the path."""
        facts = {key: value for key, value in scalars.items() if key != "step"}
        put_mark(self._root, name, weights, buffers, step=int(scalars["step"]), **facts)

    def staging(self, depth: int, allocate: Allocate | None = None) -> Staging:
        """Memory for `depth` snapshots, which is written as it lies."""
        return Staging(depth, self._files["weights"], self._arrays["buffers"], allocate)

    def append(self, rows: Rows) -> None:
        """Write some snapshots and commit them together."""
        places = self._free(len(rows))
        of_groups = {"learning_rate": rows.learning_rate, "momentum": rows.momentum}
        groups = max(self._groups, *(0 if values is None else values.shape[1] for values in of_groups.values()))
        self._grow(max(places) + 1, groups)
        check_there(self._group.store)
        puts = self._files["weights"].put(places, rows.weights, rows.files)
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


def _widened(values: NDArray[np.float64] | None, count: int, groups: int) -> NDArray[np.float64]:
    """(count, groups) numbers, NaN where there are none."""
    wide = np.full((count, groups), np.nan)
    if values is not None:
        wide[:, : values.shape[1]] = values
    return wide


def _of_groups(group: Any) -> tuple[str, ...]:
    return tuple(name for name in OF_GROUPS if name == "learning_rate" or checked.has(group, name))
