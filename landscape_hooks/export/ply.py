"""PLY: a surface as a triangle mesh that other tools open, and any triangle PLY as something to look at.

In: a Surface. Out: `F.ply` (the mesh) and `F_path.ply` (the paths, laid on it). Reading inverts both: a file of
ours gives back the Surface, any other triangle PLY gives a Mesh.

The dialect is the one that trimesh, meshio, VTK, open3d, MeshLab and Blender all read: binary little endian,
vertices with float `x y z`, uchar `red green blue`, float `quality` and double `loss` (the raw loss, once for tools
that look for a quality and once in full precision), faces as `list uchar int vertex_indices`. What defines the
picture is in comments, last a line of JSON. There is never a NaN or an inf in a file: where the loss is not a finite
number no face touches the vertex, and a property `state` says what was there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import DamagedRunError, PlyError, printable
from landscape_hooks.export.outfile import whole_file
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import axis_labels
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.surface.surface import Path, Surface, check_attributes
from landscape_hooks.version import __version__

MARK = "landscape_hooks "
"""A comment that starts so holds the JSON line."""

STATES = ("finite", "not computed", "nan", "inf", "-inf", "interpolated")
"""Meaning of the vertex property `state`, which is there only when some point is not plainly finite."""

HEADER_BYTES = 2**21
"""A header may be this long: one of ours holds the two axes and the attributes of a surface."""

WIDTHS = {
    **dict.fromkeys((b"char", b"uchar", b"int8", b"uint8"), 1),
    **dict.fromkeys((b"short", b"ushort", b"int16", b"uint16"), 2),
    **dict.fromkeys((b"int", b"uint", b"int32", b"uint32", b"float", b"float32"), 4),
    **dict.fromkeys((b"double", b"float64"), 8),
}
"""Bytes of PLY's types; of a list its length is counted."""

HEIGHT_SHARE = 0.5
"""Height of the written mesh, as a share of its longer side: weights and losses have no common unit."""


def write_ply(
    surface: Surface,
    path: str | FilePath,
    *,
    height: str = "auto",
    clip: tuple[float, float] = (0.0, 100.0),
    colormap: str = "viridis",
) -> list[FilePath]:
    """Write the mesh to `path`, and the surface's paths to the sibling `*_path.ply`; return what was written.

    x and y are alpha and beta, z is the transformed loss stretched as a comment says. The first A·B vertices are the
    grid points, row by row.

    Raises
    ------
    SurfaceError
        there is no finite loss to draw.
    """
    path = FilePath(path)
    mesh = Mesh.from_surface(surface, height=height, clip=clip)
    scale = _z_scale(mesh)
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


def _z_scale(mesh: Mesh) -> float:
    low, high = mesh.bounds
    spread = float(high[2] - low[2])
    return HEIGHT_SHARE * float(max(high[0] - low[0], high[1] - low[1])) / spread if spread > 0 else 1.0


def _position(points: NDArray[Any], height: Height, scale: float) -> dict[str, NDArray[Any]]:
    z = (points[:, 2] - height.bounds[0]) * scale
    return {name: value.astype("<f4") for name, value in zip("xyz", (points[:, 0], points[:, 1], z), strict=True)}


def _single(values: NDArray[Any]) -> NDArray[Any]:
    """As float32, cut off at its largest number: an inf is not for a file."""
    largest = float(np.finfo(np.float32).max)
    return np.clip(values, -largest, largest).astype("<f4")


def _rgb(rgb: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    return {name: rgb[:, k] for k, name in enumerate(("red", "green", "blue"))}


def _states(surface: Surface, mesh: Mesh) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """State of every vertex, and its loss with the value of the highest point where it is not finite."""
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
    """What the JSON line holds: all of the Surface that is not in the vertices."""
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


def _plain(value: Any) -> Any:
    """`value` as JSON knows it; a NaN or inf becomes null."""
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
    """A header and the arrays' bytes; the file appears whole or not at all."""
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
    header = [" ".join(line.splitlines()) for line in header]  # a name with a line break writes no header of its own
    text = "\n".join([*header, "end_header", ""]).encode("ascii", "backslashreplace")
    with whole_file(path) as file:
        file.write_bytes(b"".join([text, *blocks]))


def read_ply(path: str | FilePath) -> Surface | Mesh:
    """Read a PLY: one of ours gives the Surface (with its paths, if the sibling is there), any other a Mesh.

    Raises
    ------
    PlyError
        the file is missing, is no PLY, is cut short, or holds no triangles.
    """
    path = FilePath(path)
    data = _parse(path, {"face": {"vertex_indices": 3}})
    about = _about(data.comments)
    if about.get("kind") == "path":
        raise PlyError(
            f"{path} holds only the paths",
            expected="the mesh of a surface",
            mend=f"Open {path.name.removesuffix('_path.ply')}.ply, which shows them, too",
        )
    if about.get("kind") == "surface":
        return _surface(path, data, about)
    return _foreign(path, data)


def _parse(path: FilePath, lengths: dict[str, Any]) -> Any:
    from plyfile import PlyData, PlyElementParseError, PlyHeaderParseError, PlyParseError

    if not path.is_file():
        raise PlyError(f"There is no file {path}", mend="Check the path")
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:3] != b"ply" or start[3:] not in (b"\n", b"\r"):
        raise PlyError(
            f"{path} is not a PLY file: it starts with {start!r}",
            expected="'ply' alone on the first line",
            mend="Export one: landscape-hooks export RUN --ply F.ply",
        )
    _check_header(path)
    try:
        try:
            # Only a mapped file with lists of a known length is read at once, and not row by row.
            return PlyData.read(str(path), mmap="c", known_list_len=lengths)
        except (PlyElementParseError, ValueError, KeyError):
            return PlyData.read(str(path), mmap=False)
    except PlyHeaderParseError as error:
        raise PlyError(f"The header of {path} cannot be read: {error}", mend="Export the file again") from error
    except (PlyParseError, ValueError, TypeError, OverflowError, EOFError, MemoryError) as error:
        raise PlyError(
            f"{path} breaks off or is damaged: {error}",
            expected=f"more than the {path.stat().st_size} bytes that are there, as its header says",
            mend="Copy or export the file again",
        ) from error


def _check_header(path: FilePath) -> None:
    """Refuse a header that counts more rows than the file has bytes for; the reader would set memory aside for them.

    What is wrong with it besides is for the reader to say.
    """
    with path.open("rb") as stream:
        raw = stream.read(HEADER_BYTES)
    head, end, _ = raw.partition(b"end_header")
    if not end and len(raw) == HEADER_BYTES:
        raise PlyError(f"The header of {path} is longer than {HEADER_BYTES} bytes", mend="Export the file again")
    text = b"ascii" in head[:60]
    least, count, size = 0, 0, 0  # bytes of the elements before, rows of this one, and bytes of one of its rows
    for words in (line.split() for line in head.splitlines()):
        if words[:1] == [b"element"] and len(words) == 3:
            least += count * size
            count, size = _count(words[2]), 1 if text else 0
        elif words[:1] == [b"property"] and len(words) > 2:
            size += 2 if text else WIDTHS.get(words[2 if words[1] == b"list" else 1], 1)
        if count and size == 0 and words[:1] in ([b"property"], [b"element"]) and count > path.stat().st_size:
            least = max(least, count)  # rows of nothing are not written by anybody
    least += count * size
    if least > path.stat().st_size + HEADER_BYTES:
        raise PlyError(
            f"{path} breaks off: its header counts at least {least} bytes",
            expected=f"no more than the {path.stat().st_size} bytes that are there",
            mend="Copy or export the file again",
        )


def _count(word: bytes) -> int:
    return int(word) if word.isdigit() and len(word) < 20 else 0


def _about(comments: Sequence[str]) -> dict[str, Any]:
    for line in comments:
        if line.startswith(MARK):
            try:
                about = json.loads(line[len(MARK) :])
            except (ValueError, RecursionError):
                return {}
            return about if isinstance(about, dict) else {}
    return {}


def _surface(path: FilePath, data: Any, about: dict[str, Any]) -> Surface:
    """The surface of a file of ours."""
    try:
        vertex = data["vertex"].data
        alpha, beta = (_read_axis(about[key], len(vertex)) for key in ("alpha", "beta"))
        _check_numbers(vertex)
        grid = vertex[: len(alpha) * len(beta)]
        loss = np.array(grid["loss"] if "loss" in grid.dtype.names else grid["quality"], dtype=np.float64)
        state = np.array(grid["state"]) if "state" in (grid.dtype.names or ()) else np.zeros(len(grid), np.uint8)
        loss = loss.reshape(len(alpha), len(beta))
        state = state.reshape(loss.shape)
        shares = np.array([np.nan if v is None else v for v in about["explained_variance_ratio"]], dtype=np.float64)
        if shares.shape != (2,):
            raise ValueError("there is not one share of the variance for each axis")
        attrs = check_attributes(about["attrs"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, DamagedRunError) as error:
        raise PlyError(
            f"{path} says that it is ours, but its vertices do not fit its comments ({error})",
            expected="as many vertices as the grid has points, with the property 'loss' or 'quality'",
            mend="Another program changed the file: export it again",
        ) from error
    for code, value in ((2, np.nan), (3, np.inf), (4, -np.inf)):
        loss[state == code] = value
    interpolated = state == STATES.index("interpolated")
    return Surface(
        alpha=alpha,
        beta=beta,
        loss=np.where(state == 1, np.nan, loss),
        loss_stderr=np.full(loss.shape, np.nan),
        evaluated=(state != 1) & ~interpolated,
        explained_variance_ratio=shares,
        paths=_read_paths(path.with_name(f"{path.stem}_path.ply")),
        attrs=attrs,
        name=printable(about.get("name", "")),
        interpolated=interpolated if interpolated.any() else None,
    )


def _read_axis(value: Any, most: int) -> NDArray[np.float64]:
    """An axis of at most `most` increasing numbers."""
    if isinstance(value, dict):
        count = value["num"]
        if type(count) is not int or not 1 <= count <= most:
            raise ValueError(f"an axis has {count} coordinates")
        axis = np.linspace(float(value["start"]), float(value["stop"]), count)
    else:
        axis = np.array(value, dtype=np.float64)
    if axis.ndim != 1 or not len(axis) or not np.isfinite(axis).all() or (np.diff(axis) <= 0).any():
        raise ValueError("the coordinates of an axis do not increase")
    return axis


def _check_numbers(vertex: Any) -> None:
    """Every property of a vertex is a number."""
    lists = [name for name in vertex.dtype.names or () if vertex.dtype[name].kind not in "iuf"]
    if lists:
        raise ValueError(f"the property {lists[0]} is a list")


def _read_paths(path: FilePath) -> tuple[Path, ...]:
    """The paths of the sibling file; none where there is no such file."""
    if not path.is_file():
        return ()
    data = _parse(path, {})
    about = _about(data.comments)
    try:
        vertex = data["vertex"].data
        _check_numbers(vertex)
        if len(about["labels"]) > len(vertex) + 1:
            raise ValueError(f"{len(about['labels'])} labels for {len(vertex)} points")
        runs = []
        for number, label in enumerate(about["labels"]):
            rows = vertex[(vertex["run"] == number) & (vertex["snapshot"] >= 0)]
            runs.append(_read_path(rows, printable(label)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PlyError(
            f"{path} is not a file of paths of ours ({error})",
            expected="the sibling that was written beside the surface",
            mend="Remove it, or export the surface again",
        ) from error
    return tuple(runs)


def _read_path(rows: Any, label: str) -> Path:
    def column(name: str) -> NDArray[np.float64]:
        values = np.array(rows[name], dtype=np.float64)
        if f"{name}_state" in rows.dtype.names:
            for code, value in ((2, np.nan), (3, np.inf), (4, -np.inf)):
                values[rows[f"{name}_state"] == code] = value
        return values

    arrays: dict[str, Any] = {name: column(name) for name in Path.ARRAYS[1:]}
    arrays["step"] = arrays["step"].astype(np.int64)
    return Path(coordinates=np.column_stack([column("alpha"), column("beta")]), label=label, **arrays)


def _foreign(path: FilePath, data: Any) -> Mesh:
    """Any triangle mesh: the height is z, the colour its quality, its own colours, or z."""
    elements = {element.name for element in data.elements}
    if "vertex" not in elements or "face" not in elements or not len(data["face"].data):
        found = ", ".join(f"{element.name} ({element.count})" for element in data.elements) or "nothing"
        raise PlyError(
            f"{path} holds {found}",
            expected="a mesh: the elements 'vertex' and 'face', with at least one face",
            mend="Export the mesh with its faces (a point cloud has no surface)",
        )
    vertex = data["vertex"].data
    names = vertex.dtype.names
    if not {"x", "y", "z"} <= set(names):
        raise PlyError(f"The vertices of {path} have {', '.join(names)}", expected="x, y and z")
    try:
        _check_numbers(vertex)
    except ValueError as error:
        raise PlyError(f"In the vertices of {path} {error}", expected="numbers") from error
    points = np.column_stack([vertex[axis].astype(np.float64) for axis in "xyz"])
    faces = _triangles(path, data["face"])
    if faces.size and (faces.min() < 0 or faces.max() >= len(points)):
        raise PlyError(
            f"A face of {path} names vertex {faces.max() if faces.min() >= 0 else faces.min()}",
            expected=f"numbers from 0 to {len(points) - 1}",
            mend="The file is damaged: export it again",
        )
    sound = np.isfinite(points).all(axis=1)
    faces = faces[sound[faces].all(axis=1)]
    if not len(faces):
        raise PlyError(f"Every face of {path} touches a NaN or inf", expected="finite coordinates")
    points[~sound] = points[sound].mean(axis=0)
    scalar = next((name for name in ("loss", "quality", "scalar", "value") if name in names), None)
    loss = points[:, 2] if scalar is None else vertex[scalar].astype(np.float64)
    colored = {"red", "green", "blue"} <= set(names) and all(vertex[c].dtype == np.uint8 for c in ("red", "green"))
    return Mesh(
        vertices=points,
        faces=faces,
        loss=loss,
        height=Height("linear", float(points[sound, 2].min()), float(points[sound, 2].max())),
        colors=np.column_stack([vertex[c] for c in ("red", "green", "blue")]) if colored else None,
        scalar=scalar or "z",
    )


def _triangles(path: FilePath, face: Any) -> NDArray[np.int32]:
    """Faces as triangles; polygons are cut into fans."""
    from plyfile import PlyListProperty

    found = next((p for p in face.properties if p.name in ("vertex_indices", "vertex_index")), None)
    name = found.name if isinstance(found, PlyListProperty) else None
    if name is None:
        raise PlyError(f"The faces of {path} have no list 'vertex_indices'", mend="Export the mesh as triangles")
    lists = face.data[name]
    if lists.dtype != object:
        return _indices(path, lists).reshape(-1, 3)
    counts = np.array([len(corners) for corners in lists])
    parts = []
    for count in np.unique(counts[counts >= 3]):
        polygons = _indices(path, np.stack(list(lists[counts == count])))
        parts += [polygons[:, [0, k, k + 1]] for k in range(1, count - 1)]
    return np.concatenate(parts) if parts else np.empty((0, 3), dtype=np.int32)


def _indices(path: FilePath, values: Any) -> NDArray[np.int32]:
    """Vertex numbers; one beyond 32 bits is not cut to another, and a fraction is none."""
    whole = np.asarray(values, dtype=np.float64)
    if not (np.abs(whole) < 2**31).all() or (whole != np.trunc(whole)).any():
        raise PlyError(f"A face of {path} names a vertex that is no whole number of 32 bits")
    return whole.astype(np.int32)
