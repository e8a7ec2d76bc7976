"""PLY writer: a surface as a triangle mesh for other programs.

In: a Surface. Out: `F.ply` (the mesh) and `F_path.ply` (the paths on it). `ply_reader.py` inverts both.

The files follow the dialect that trimesh, meshio, VTK, open3d, MeshLab and Blender read: binary, little endian.
Vertices have float `x y z`, uchar `red green blue`, float `quality` and double `loss`: the loss, once for programs that
show a quality and once in full precision. Faces are `list uchar int vertex_indices`. Comments hold what defines the
picture; the last is a line of JSON. A file contains no NaN or inf: no face touches a vertex without a finite loss, and
a property `state` says what was there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.export.outfile import whole_file
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import axis_labels, in_doubt
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.surface.surface import Path, Surface
from landscape_hooks.version import __version__

MARK = "landscape_hooks "
"""Start of the comment that holds the JSON line."""

STATES = ("finite", "not computed", "nan", "inf", "-inf", "interpolated")
"""Meaning of the vertex property `state`, which is written only if some point is not 0 (finite)."""


HEIGHT_SHARE = 0.5
"""Height of the mesh in the file, as a share of its longer side: weights and losses have no common unit."""


def write_ply(
    surface: Surface,
    path: str | FilePath,
    *,
    height: str = "auto",
    clip: tuple[float, float] = (0.0, 100.0),
    colormap: str = "viridis",
) -> list[FilePath]:
    """Write the mesh to `path`, and the surface's paths to `*_path.ply` beside it; return the files written.

    x and y are alpha and beta. z is the height, scaled by the factor that a comment states. The first A·B vertices are
    the grid points, row by row.

    Raises
    ------
    SurfaceError
        there is no finite loss to draw.
    """
    path = FilePath(path)
    mesh = Mesh.from_surface(surface, height=height, clip=clip)
    scale = z_scale(mesh)
    about = _describe(surface, mesh, scale)
    state, finite = _states(surface, mesh)
    columns: dict[str, NDArray[Any]] = {
        **_position(mesh.vertices, mesh.height, scale),
        **_rgb(colors.of_mesh(mesh, colormap)),
        "quality": _single(finite),
        "loss": finite,
    }
    if state.any():
        columns["state"] = state
        about["states"] = STATES
    _write(path, _comments(surface, mesh, scale, about), columns, mesh.faces)
    written = [path]
    if surface.paths:
        written.append(path.with_name(f"{path.stem}_path.ply"))
        _write_paths(written[-1], surface, mesh, scale)
    return written


def z_scale(mesh: Mesh) -> float:
    """By what heights are multiplied in a file, so that the surface is half as high as it is wide."""
    low, high = mesh.bounds
    spread = float(high[2] - low[2])
    return HEIGHT_SHARE * float(max(high[0] - low[0], high[1] - low[1])) / spread if spread > 0 else 1.0


def _position(points: NDArray[Any], height: Height, scale: float) -> dict[str, NDArray[Any]]:
    z = (points[:, 2] - height.bounds[0]) * scale
    return {name: value.astype("<f4") for name, value in zip("xyz", (points[:, 0], points[:, 1], z), strict=True)}


def _single(values: NDArray[Any]) -> NDArray[Any]:
    """`values` as float32, clipped at its largest number, so that no inf is written."""
    largest = float(np.finfo(np.float32).max)
    return np.clip(values, -largest, largest).astype("<f4")


def _rgb(rgb: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    return {name: rgb[:, k] for k, name in enumerate(("red", "green", "blue"))}


def _states(surface: Surface, mesh: Mesh) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """State of every vertex, and its loss; where that is not finite, the loss of the highest point."""
    loss = surface.loss.ravel()
    state = np.zeros(len(mesh.vertices), dtype=np.uint8)
    grid = state[: loss.size]
    if surface.interpolated is not None:
        grid[surface.interpolated.ravel()] = STATES.index("interpolated")
    grid[np.isnan(loss)] = STATES.index("nan")
    grid[np.isposinf(loss)] = STATES.index("inf")
    grid[np.isneginf(loss)] = STATES.index("-inf")
    grid[~surface.present.ravel()] = STATES.index("not computed")
    return state, np.where(np.isfinite(mesh.loss), mesh.loss, mesh.height.high)


def _describe(surface: Surface, mesh: Mesh, scale: float) -> dict[str, Any]:
    """The content of the JSON line: everything of the Surface that is not in the vertices."""
    return {
        "kind": "surface",
        "version": __version__,
        "name": surface.name,
        "alpha": _axis(surface.alpha),
        "beta": _axis(surface.beta),
        "height": {"kind": mesh.height.kind, "low": mesh.height.low, "high": mesh.height.high},
        "z_scale": scale,
        "explained_variance_ratio": [float(v) if np.isfinite(v) else None for v in surface.explained_variance_ratio],
        "attrs": {key: _plain(value) for key, value in surface.attrs.items() if key != "path_count"},
    }


def _plain(value: object) -> Any:
    """`value` as JSON has it; NaN and inf become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def _axis(values: NDArray[np.float64]) -> dict[str, Any] | list[float]:
    even: dict[str, Any] = {"start": float(values[0]), "stop": float(values[-1]), "num": len(values)}
    return even if np.array_equal(np.linspace(**even), values) else [float(v) for v in values]


def _comments(surface: Surface, mesh: Mesh, scale: float, about: dict[str, Any]) -> list[str]:
    labels = axis_labels(surface)
    rows, columns = surface.shape
    transform = "log10(loss)" if mesh.height.kind == "log10" else "loss"
    return [
        f"landscape-hooks {__version__}: a loss surface",
        f"{mesh.height.statement}; z = {scale:.9g} * ({transform} - {mesh.height.bounds[0]:.9g})",
        f"x: {labels[0]}, {rows} rows from {surface.alpha[0]:.6g} to {surface.alpha[-1]:.6g}",
        f"y: {labels[1]}, {columns} columns from {surface.beta[0]:.6g} to {surface.beta[-1]:.6g}",
        "quality: the raw loss (float); loss: the same in double precision",
        *in_doubt(surface),
        MARK + json.dumps(about, allow_nan=False),
    ]


def _write_paths(path: FilePath, surface: Surface, mesh: Mesh, scale: float) -> None:
    parts: list[dict[str, NDArray[Any]]] = []
    edges: list[NDArray[np.int32]] = []
    start = 0
    for number, run in enumerate(surface.paths):
        drape = mesh.drape(run.coordinates)
        points = drape.points.copy()
        lost = ~np.isfinite(points[:, 2])
        points[lost, 2] = mesh.height.bounds[1]
        whole = drape.position == np.round(drape.position)
        column = {
            **_position(points, mesh.height, scale),
            **_rgb(np.tile(np.array(colors.rgb(colors.path_color(number))) * 255, (len(points), 1)).astype(np.uint8)),
            "run": np.full(len(points), number, dtype="<i4"),
            "snapshot": np.where(whole, np.round(drape.position), -1).astype("<i4"),
        }
        values = {"alpha": run.coordinates[:, 0], "beta": run.coordinates[:, 1]}
        values |= {name: np.asarray(getattr(run, name), dtype=np.float64) for name in Path.ARRAYS[1:]}
        for name, value in values.items():
            bad = ~np.isfinite(value)
            clean = np.where(bad, 0.0, value)
            column[name] = np.interp(drape.position, np.arange(len(run)), clean) if len(run) else clean
            codes = np.select([np.isnan(value), value > 0], [2, 3], 4) * bad
            column[f"{name}_state"] = codes[np.floor(drape.position).astype(int)].astype(np.uint8)
        column["quality"] = _single(column["loss"])
        parts.append(column)
        numbers = np.arange(start, start + len(points) - 1, dtype=np.int32)
        edges.append(np.stack([numbers, numbers + 1], axis=1))
        start += len(points)
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    columns = {key: value for key, value in columns.items() if not key.endswith("_state") or value.any()}
    about = {"kind": "path", "version": __version__, "labels": [run.label for run in surface.paths], "states": STATES}
    comments = [
        f"landscape-hooks {__version__}: the paths on the surface",
        "snapshot: its number, or -1 where the line crosses an edge of the mesh (values interpolated)",
        "loss: at the snapshot itself; plane_loss: at its projection; distance: from the plane, in weight space",
        MARK + json.dumps(about),
    ]
    _write(path, comments, columns, edges=np.concatenate(edges))


def _write(
    path: FilePath,
    comments: Sequence[str],
    columns: dict[str, NDArray[Any]],
    faces: NDArray[np.int32] | None = None,
    edges: NDArray[np.int32] | None = None,
) -> None:
    """Write the header and the arrays' bytes; the file appears complete or not at all."""
    names = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int"}
    count = len(next(iter(columns.values())))
    vertex = np.empty(count, dtype=[(name, value.dtype.newbyteorder("<")) for name, value in columns.items()])
    for name, value in columns.items():
        vertex[name] = value
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments)]
    header += [f"element vertex {count}"]
    header += [f"property {names[value.dtype.str[1:]]} {name}" for name, value in columns.items()]
    blocks = [vertex.tobytes()]
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        face = np.empty(len(faces), dtype=[("count", "u1"), ("vertex", "<i4", 3)])
        face["count"], face["vertex"] = 3, faces
        blocks.append(face.tobytes())
    if edges is not None:
        header += [f"element edge {len(edges)}", "property int vertex1", "property int vertex2"]
        blocks.append(edges.astype("<i4").tobytes())
    header = [" ".join(line.splitlines()) for line in header]  # names may have line breaks
    text = "\n".join([*header, "end_header", ""]).encode("ascii", "backslashreplace")
    with whole_file(path) as file:
        file.write_bytes(b"".join([text, *blocks]))
