"""VTU: a surface and its paths for ParaView and whatever else reads VTK's files.

In: a Surface. Out: unstructured grids in VTK's XML format (`.vtu`), written by meshio. Format: VTK User's Guide, "VTK
File Formats", https://docs.vtk.org/en/latest/vtk_file_formats/index.html.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.export.outfile import whole_file
from landscape_hooks.export.ply import z_scale
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.surface.surface import Surface


def write_vtu(surface: Surface, path: str | FilePath, *, height: str = "auto") -> list[FilePath]:
    """Write the surface into `path`, and its paths, if it has any, into `NAME_path.vtu` beside it.

    The surface is a quadrangle a cell of the grid, without those that have a corner without a finite loss. Its points
    carry `loss`, `log10_loss`, `loss_stderr`, `evaluated`, `interpolated` where some are, and the metrics. A path is a
    polyline on the surface: its points are the snapshots, and where it crosses an edge of the mesh. They carry the
    columns of the path, between snapshots interpolated, and `snapshot` (-1 between them). x and y are alpha and beta, z
    is the height in the scale of the PLY file.

    Parameters
    ----------
    surface
        a Surface of at least 2×2 points.
    path
        a name that ends in .vtu.
    height
        "auto", "log10" or "linear": what z is of the loss.

    Returns
    -------
    list of Path
        the files that were written.

    Raises
    ------
    SurfaceError
        meshio, the extra `vtk`, is not installed, or there is nothing to draw.
    """
    path = FilePath(path)
    mesh = Mesh.from_surface(surface, height=height)
    scale = z_scale(mesh)
    _write(path, _placed(mesh.vertices[: surface.loss.size], mesh, scale), {"quad": _quads(mesh)}, _of_points(surface))
    if not surface.paths:
        return [path]
    beside = path.with_name(f"{path.stem}_path{path.suffix}")
    points, lines, data = _polylines(surface, mesh)
    _write(beside, _placed(points, mesh, scale), {"line": lines}, data)
    return [path, beside]


def _placed(points: NDArray[np.float64], mesh: Mesh, scale: float) -> NDArray[np.float64]:
    """Points (N, 3) of the mesh with z from 0 on; what lies outside is at the top."""
    z = np.where(np.isfinite(points[:, 2]), points[:, 2], mesh.height.bounds[1])
    return np.column_stack([points[:, :2], (z - mesh.height.bounds[0]) * scale])


def _quads(mesh: Mesh) -> NDArray[np.int64]:
    """(C, 4) corners of the cells that are whole, around each."""
    valid = mesh.valid
    whole = valid[:-1, :-1] & valid[1:, :-1] & valid[:-1, 1:] & valid[1:, 1:]
    number = np.arange(valid.size).reshape(valid.shape)
    corners = (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:])
    return np.stack([corner[whole] for corner in corners], axis=1)


def _of_points(surface: Surface) -> dict[str, NDArray[Any]]:
    """The arrays of the grid's points; masks as bytes, which VTK has no type for."""
    columns = {name: values.ravel() for name, values in surface.grids().items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        columns["log10_loss"] = np.where(columns["loss"] > 0, np.log10(columns["loss"]), np.nan)
    return {name: values.astype(np.uint8) if values.dtype == bool else values for name, values in columns.items()}


def _polylines(surface: Surface, mesh: Mesh) -> tuple[NDArray[np.float64], NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Points, pairs of neighbours, and columns of all paths."""
    points, lines, start = [], [], 0
    data: dict[str, list[NDArray[Any]]] = {}
    columns = surface.path_columns()
    for number, path in enumerate(surface.paths):
        drape = mesh.drape(path.coordinates)
        own = {name: values[columns["run"] == number] for name, values in columns.items() if name != "label"}
        at = np.arange(len(path))
        values = (
            {name: np.interp(drape.position, at, of.astype(float)) for name, of in own.items()} if len(path) else {}
        )
        whole = drape.position == np.round(drape.position)
        values["snapshot"] = np.where(whole, drape.position, -1).astype(np.int32)
        values["run"] = np.full(len(drape.position), number, dtype=np.int32)
        for name, of in values.items():
            data.setdefault(name, []).append(of)
        pairs = np.arange(start, start + max(len(drape.points) - 1, 0))
        points.append(drape.points)
        lines.append(np.stack([pairs, pairs + 1], axis=1))
        start += len(drape.points)
    return np.concatenate(points), np.concatenate(lines), {name: np.concatenate(of) for name, of in data.items()}


def _write(
    path: FilePath, points: NDArray[np.float64], cells: dict[str, NDArray[np.int64]], data: dict[str, NDArray[Any]]
) -> None:
    try:
        import meshio
    except ModuleNotFoundError as error:
        if error.name != "meshio":
            raise
        raise SurfaceError(
            "meshio, which writes VTK's files, is not installed",
            mend='Install it: pip install "landscape-hooks[vtk]"',
        ) from error
    with whole_file(path) as file:
        meshio.Mesh(points, list(cells.items()), point_data=data).write(str(file), file_format="vtu")
