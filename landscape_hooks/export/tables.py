"""Tables: a surface and its paths as CSV. In: a Surface. Out: a file of the grid, and one of the paths."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.export.outfile import whole_file
from landscape_hooks.surface.surface import Surface


def write_csv(surface: Surface, path: str | Path) -> list[Path]:
    """Write the grid into `path`, and the snapshots of its paths, if it has any, into `NAME_path.csv` beside it.

    Numbers have all of their digits; NaN and infinity are written as `nan`, `inf` and `-inf`.

    Returns
    -------
    list of Path
        the files that were written.
    """
    path = Path(path)
    alpha, beta = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
    grid = {"alpha": alpha, "beta": beta, **surface.grids()}
    tables = {path: {name: values.ravel() for name, values in grid.items()}}
    if surface.paths:
        tables[path.with_name(f"{path.stem}_path{path.suffix}")] = surface.path_columns()
    for file, columns in tables.items():
        with whole_file(file) as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows(_rows(columns))
    return list(tables)


def _rows(columns: Mapping[str, NDArray[Any]]) -> Iterator[tuple[Any, ...]]:
    """The rows as Python values: of a number the shortest text that reads back as the same one."""
    return zip(*(values.tolist() for values in columns.values()), strict=True)
