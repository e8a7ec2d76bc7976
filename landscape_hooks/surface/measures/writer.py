"""CurvatureWriter: writes curvature into a run while it is computed. In: rows of numbers. Out: `curvature/NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.store import checked, schema
from landscape_hooks.store.folder import WHOLE, check_there
from landscape_hooks.store.run import put_array, remove_group, writes
from landscape_hooks.surface.measures.curvature import GROUP, SCALARS, Curvature, names
from landscape_hooks.surface.surface import check_name


class CurvatureWriter:
    """Writes the numbers of one snapshot after the other; the mask `evaluated` counts them, and is written last."""

    def __init__(self, root: zarr.Group, name: str) -> None:
        self._root, self.name = root, name
        self._group = checked.group(root, f"{GROUP}/{name}")
        self._values: dict[str, NDArray[Any]] = {
            key: np.array(checked.read(self._group, key)) for key in ("evaluated", "eigenvalues", "residuals", *SCALARS)
        }

    @property
    def evaluated(self) -> NDArray[np.bool_]:
        """(N,) which snapshots are done."""
        return self._values["evaluated"]

    @classmethod
    @checked.guard(GROUP)
    @writes
    def begin(
        cls,
        root: zarr.Group,
        name: str,
        columns: Mapping[str, NDArray[Any]],
        top: int,
        attrs: Mapping[str, Any],
        *,
        fresh: bool,
    ) -> CurvatureWriter:
        """Start `name`, or go on with one of the same definition (`attrs["definition"]`).

        `columns` (N,) are known beforehand: step, epoch, learning_rate, threshold.

        Raises
        ------
        SurfaceError
            one of another definition is there that is not complete: it is deleted by `fresh` alone.
        """
        check_name(name)
        if name in names(root):
            known = checked.group(root, f"{GROUP}/{name}")
            complete = known.attrs.get("complete") is True
            if not fresh and known.attrs.get("definition") == attrs["definition"]:
                return cls(root, name)
            if not fresh and not complete:
                raise SurfaceError(
                    f"The run has an unfinished curvature '{name}' of another definition",
                    expected="the options that it was begun with, which go on with it",
                    mend="Choose another --name, or delete what is there with --fresh",
                )
        remove_group(root, f"{GROUP}/{name}")
        root.require_group(GROUP)
        group = root.require_group(f"{GROUP}/{name}")
        count = len(columns["step"])
        for key in ("epoch", "learning_rate", "threshold", "step"):
            put_array(root, f"{GROUP}/{name}/{key}", np.asarray(columns[key]))
        for key in ("eigenvalues", "residuals", *SCALARS, "evaluated"):
            if key not in columns:
                shape = (count, top) if key in ("eigenvalues", "residuals") else (count,)
                chunks = tuple(max(1, n) for n in shape)
                array = schema.create(root, f"{GROUP}/{name}/{key}", shape, chunks=chunks, config=WHOLE)
                array[...] = array.fill_value
        group.update_attributes(dict(attrs))
        return cls(root, name)

    @checked.guard(GROUP)
    @writes
    def write(self, row: int, numbers: Mapping[str, Any]) -> None:
        """Commit the numbers of a snapshot; what is not among them stays NaN."""
        check_there(self._root.store)
        for key, value in {**numbers, "evaluated": True}.items():
            self._values[key][row] = value
            array = self._group[key]
            assert isinstance(array, zarr.Array)
            array[...] = self._values[key]

    @checked.guard(GROUP)
    @writes
    def finish(self) -> Curvature:
        """Say that all is there, what it shows, and make this the run's latest."""
        check_there(self._root.store)
        found = Curvature.open(self._root, self.name)
        self._group.update_attributes({"report": found.sentences(), "complete": found.complete})
        parent = self._root[GROUP]
        parent.attrs["latest"] = self.name
        return Curvature.open(self._root, self.name)
