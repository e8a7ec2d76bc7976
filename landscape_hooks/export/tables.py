"""Tables: a surface and its paths as CSV, and its heights as the grey levels of a picture.

In: a Surface. Out: CSV files of the grid, the paths and the marks; a PNG of 16 bits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.export.outfile import whole_file
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.smooth import finer
from landscape_hooks.surface.surface import Surface


def write_csv(surface: Surface, path: str | Path) -> list[Path]:
    """Write the grid into `path`; snapshots of its paths, if it has any, into `NAME_path.csv` beside it, and marks into
    `NAME_marks.csv`.

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
    if surface.marks:
        tables[path.with_name(f"{path.stem}_marks{path.suffix}")] = surface.mark_columns()
    for file, columns in tables.items():
        with whole_file(file) as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows(_rows(columns))
    return list(tables)


def write_heightmap(surface: Surface, path: str | Path, *, height: str = "auto") -> Path:
    """Write the heights as a picture of 16 bits a pixel, which Blender takes to displace a plane.

    The lowest height is 0 and the highest 65535. Alpha goes to the right and beta up. Between the grid points the
    heights are bicubic, as in a figure. The picture's text fields hold the height's kind, the losses at both ends, and
    the extent.

    Raises
    ------
    SurfaceError
        a point has no finite loss, for which there is no grey level, or the grid is not even.
    """
    from PIL import Image, PngImagePlugin

    mesh = Mesh.from_surface(surface, height=height)
    if mesh.missing:
        found = ", ".join(f"{name}: {count}" for name, count in mesh.missing.items())
        raise SurfaceError(
            f"The surface has points without a loss ({found}), which a heightmap has no grey level for",
            mend="Write a mesh, which has holes there: --ply F.ply",
        )
    for axis in (surface.alpha, surface.beta):
        if not np.allclose(np.diff(axis), np.ptp(axis) / (len(axis) - 1), rtol=1e-6):
            raise SurfaceError("The grid is not even, and pixels are", mend="Write a mesh: --ply F.ply")
    low, high = mesh.height.bounds
    shares = (finer(mesh)[2] - low) / ((high - low) or 1.0)
    levels = np.rint(shares * 65535).astype(np.uint16)
    about = PngImagePlugin.PngInfo()
    words = {
        "height": mesh.height.statement, "loss at 0": f"{mesh.height.low!r}", "loss at 65535": f"{mesh.height.high!r}",
        "alpha": f"{float(surface.alpha[0])!r} {float(surface.alpha[-1])!r}",
        "beta": f"{float(surface.beta[0])!r} {float(surface.beta[-1])!r}",
    }  # fmt: skip
    for key, text in words.items():
        about.add_text(key, text)
    path = Path(path)
    with whole_file(path) as partial:
        Image.fromarray(np.ascontiguousarray(levels.T[::-1])).save(partial, format="PNG", pnginfo=about)
    return path


def _rows(columns: Mapping[str, NDArray[Any]]) -> Iterator[tuple[Any, ...]]:
    """The rows as Python values: of a number the shortest text that reads back as the same one."""
    return zip(*(values.tolist() for values in columns.values()), strict=True)
