"""PLY reader: a file of `ply.py` as a Surface, any other triangle mesh as a Mesh.

In: a file of any origin. Out: what `ply.py` wrote, or an error that names the fault.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landscape_hooks.errors import DamagedRunError, PlyError, printable
from landscape_hooks.export.ply import MARK, STATES
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.surface.surface import Path, Surface, check_attributes

if TYPE_CHECKING:
    from plyfile import PlyData, PlyElement

HEADER_BYTES = 2**21
"""Largest header: one written by `ply.py` holds the two axes and the attributes of a surface."""


WIDTHS = {
    **dict.fromkeys((b"char", b"uchar", b"int8", b"uint8"), 1),
    **dict.fromkeys((b"short", b"ushort", b"int16", b"uint16"), 2),
    **dict.fromkeys((b"int", b"uint", b"int32", b"uint32", b"float", b"float32"), 4),
    **dict.fromkeys((b"double", b"float64"), 8),
}
"""Bytes of PLY's types; a list counts with its length."""


def read_ply(path: str | FilePath) -> Surface | Mesh:
    """Read a PLY file: a Surface if `write_ply` wrote it (with its paths, if `*_path.ply` is there), else a Mesh.

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


def _parse(path: FilePath, lengths: dict[str, Any]) -> PlyData:
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
            # A mapped file with lists of known length is read at once; others are read row by row.
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
    """Refuse a header that counts more rows than the file has bytes for: the reader would allocate memory for them.

    The reader reports other faults.
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
            least = max(least, count)  # no program writes rows of no bytes
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


def _surface(path: FilePath, data: PlyData, about: dict[str, Any]) -> Surface:
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


def _read_axis(value: object, most: int) -> NDArray[np.float64]:
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


def _check_numbers(vertex: NDArray[np.void]) -> None:
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


def _read_path(rows: NDArray[np.void], label: str) -> Path:
    def column(name: str) -> NDArray[np.float64]:
        values = np.array(rows[name], dtype=np.float64)
        if f"{name}_state" in (rows.dtype.names or ()):
            for code, value in ((2, np.nan), (3, np.inf), (4, -np.inf)):
                values[rows[f"{name}_state"] == code] = value
        return values

    arrays: dict[str, Any] = {name: column(name) for name in Path.ARRAYS[1:]}
    arrays["step"] = arrays["step"].astype(np.int64)
    return Path(coordinates=np.column_stack([column("alpha"), column("beta")]), label=label, **arrays)


def _foreign(path: FilePath, data: PlyData) -> Mesh:
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


def _triangles(path: FilePath, face: PlyElement) -> NDArray[np.int32]:
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


def _indices(path: FilePath, values: ArrayLike) -> NDArray[np.int32]:
    """Vertex numbers; one beyond 32 bits is not cut to another, and a fraction is none."""
    whole = np.asarray(values, dtype=np.float64)
    if not (np.abs(whole) < 2**31).all() or (whole != np.trunc(whole)).any():
        raise PlyError(f"A face of {path} names a vertex that is no whole number of 32 bits")
    return whole.astype(np.int32)
