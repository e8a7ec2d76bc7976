"""SurfaceWriter: writes a surface into a run. In: losses. Out: the arrays of `surfaces/NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.store import checked, schema
from landscape_hooks.store.blocks import Blocks
from landscape_hooks.store.folder import WHOLE, check_there
from landscape_hooks.store.rowfiles import CHUNK_NUMBERS
from landscape_hooks.store.run import put_array, remove_group, writes
from landscape_hooks.surface.marks import MarkedPoint, attributes_of
from landscape_hooks.surface.surface import Floats, Path, _read, check_name

CHUNK_POINTS = 2**17
"""Grid points in one chunk: 1 MB of losses, the most that a commit of neighbouring points writes."""


def _chunk(shape: tuple[int, int]) -> tuple[int, int]:
    """Shape of a chunk: whole rows, up to CHUNK_POINTS points."""
    return min(shape[0], max(1, CHUNK_POINTS // shape[1])), shape[1]


def _array(group: zarr.Group, key: str) -> zarr.Array[Any]:
    """An array of the surface that this writer has created."""
    found = group[key]
    assert isinstance(found, zarr.Array)
    return found


class SurfaceWriter:
    """Writes a surface into a run while it is computed. What is committed survives the end of the process.

    Losses are written before the mask `evaluated` that counts them, so a killed analysis continues where the mask ends
    (`SurfaceWriter.resume`).
    """

    def __init__(self, root: zarr.Group, group: zarr.Group, evaluated: NDArray[np.bool_]) -> None:
        self._root, self._group = root, group
        self.evaluated = evaluated
        self._arrays = {key: _array(group, key).with_config(WHOLE) for key in ("loss", "loss_stderr", "evaluated")}
        self._values = {key: np.asarray(array[...]) for key, array in self._arrays.items()} | {"evaluated": evaluated}

    @classmethod
    @checked.guard("surfaces")
    @writes
    def create(
        cls,
        root: zarr.Group,
        name: str,
        alpha: Floats,
        beta: Floats,
        attrs: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> SurfaceWriter:
        """Start the surface `name`; an earlier one of that name is deleted.

        `arrays` are written as they are; `Blocks` are computed while they are written.
        """
        check_name(name)
        surfaces = root.require_group("surfaces")
        remove_group(root, f"surfaces/{name}")
        group = surfaces.create_group(name, overwrite=True)
        shape = (len(alpha), len(beta))
        for key, value in {"alpha": alpha, "beta": beta, **arrays}.items():
            value = value if isinstance(value, Blocks) else np.asarray(value)
            # long vectors in chunks, so that a part can be read alone; weights do not compress
            target = schema.create(
                root,
                f"surfaces/{name}/{key}",
                value.shape,
                dtype=value.dtype,
                chunks=tuple(max(1, min(n, CHUNK_NUMBERS)) for n in value.shape),
                **({"compressors": None} if max(value.shape, default=0) > CHUNK_NUMBERS else {}),
            )
            if isinstance(value, Blocks):
                for columns, part in value.pieces():
                    target[..., columns] = part
            elif value.size:
                target[...] = value
        for key in ("loss", "loss_stderr", "evaluated"):
            target = schema.create(root, f"surfaces/{name}/{key}", shape, chunks=_chunk(shape), config=WHOLE)
            target[...] = target.fill_value  # from now on a chunk is only replaced, and never partly there
        group.update_attributes({**attrs, "path_count": 0})
        return cls(root, group, np.zeros(shape, dtype=bool))

    @classmethod
    def resume(cls, root: zarr.Group, name: str) -> SurfaceWriter:
        """Continue a surface that was begun."""
        group = checked.group(root, f"surfaces/{name}")
        sizes = checked.Sizes()
        evaluated = [_read(group, sizes, key) for key in ("alpha", "beta", "loss", "loss_stderr", "evaluated")][-1]
        return cls(root, group, evaluated)

    @checked.guard("surfaces")
    @writes
    def write(self, index: NDArray[np.intp], loss: Floats, stderr: Floats) -> None:
        """Commit the losses (N,) of the grid points with flat indices `index` (N,)."""
        check_there(self._root.store)
        rows, columns = np.unravel_index(index, self.evaluated.shape)
        for key, values in (("loss", loss), ("loss_stderr", stderr), ("evaluated", True)):
            whole, array = self._values[key], self._arrays[key]
            whole[rows, columns] = values
            high = array.chunks[0]
            for number in np.unique(rows // high).tolist():
                part = slice(number * high, (number + 1) * high)
                array[part] = whole[part]

    @property
    def name(self) -> str:
        """Name of the surface."""
        return str(self._group.basename)

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes as they are stored."""
        return dict(self._group.attrs)

    @checked.guard("surfaces")
    @writes
    def annotate(self, attrs: Mapping[str, Any]) -> None:
        """Add attributes."""
        check_there(self._root.store)
        self._group.update_attributes(dict(attrs))

    @checked.guard("surfaces")
    def losses(self) -> Floats:
        """(A, B) the stored losses; they count where `evaluated`."""
        return self._values["loss"].copy()

    @checked.guard("surfaces")
    @writes
    def write_interpolated(self, loss: Floats, where: NDArray[np.bool_], error: Floats) -> None:
        """Store the interpolated losses at the points `where` and their estimated relative errors, all (A, B)."""
        check_there(self._root.store)
        self._values["loss"][where] = loss[where]
        self._arrays["loss"][...] = self._values["loss"]
        for key, values in (("interpolation_error", np.where(where, error, np.nan)), ("interpolated", where)):
            self._put(key, values)

    @checked.guard("surfaces")
    @writes
    def write_metric(self, name: str, values: Floats) -> None:
        """Store a metric (A, B), NaN where the surface is not evaluated."""
        self._put(f"metrics/{name}", values)

    @checked.guard("surfaces")
    @writes
    def write_paths(self, root: zarr.Group, paths: Sequence[Path]) -> None:
        """Store the paths of the surface."""
        for number, path in enumerate(paths):
            root.require_group(f"surfaces/{self.name}/paths/{number}").attrs["label"] = path.label
            for key in (*Path.ARRAYS, *(() if path.evaluated is None else ("evaluated",))):
                self._put(f"paths/{number}/{key}", np.asarray(getattr(path, key)))
        self._group.attrs["path_count"] = len(paths)

    @checked.guard("surfaces")
    @writes
    def write_path(self, number: int, path: Path, *keys: str) -> None:
        """Store some arrays of a path again; the mask that counts the losses comes last."""
        for key in keys:
            self._put(f"paths/{number}/{key}", np.asarray(getattr(path, key)))

    @checked.guard("surfaces")
    @writes
    def write_mark(self, mark: MarkedPoint) -> None:
        """Store a mark in place of one of its name; it counts from its last attribute on."""
        base = f"marks/{mark.run}/{mark.name}"
        self.remove_mark(mark)
        group = self._group.require_group(base)
        self._put(f"{base}/coordinates", mark.coordinates)
        group.update_attributes(attributes_of(mark))

    @checked.guard("surfaces")
    @writes
    def remove_mark(self, mark: MarkedPoint) -> None:
        """Delete a mark that is stored, if it is."""
        check_there(self._root.store)
        remove_group(self._group, f"marks/{mark.run}/{mark.name}")

    def _put(self, key: str, values: NDArray[Any]) -> None:
        """Store a small array of the surface in one step, since it may be read meanwhile."""
        check_there(self._root.store)
        if key in self._group:
            _array(self._group, key)[...] = values
        else:
            put_array(self._root, f"surfaces/{self.name}/{key}", values)

    @checked.guard("surfaces")
    @writes
    def finish(self, root: zarr.Group, attrs: Mapping[str, Any]) -> None:
        """Add the closing attributes and make this the run's latest surface."""
        check_there(self._root.store)
        self._group.update_attributes(dict(attrs))
        root["surfaces"].attrs["latest"] = self._group.basename
