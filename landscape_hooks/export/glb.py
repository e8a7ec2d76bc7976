"""GLB: the scene as one binary glTF file, for browsers, slides and 3-D programs. A marker moves along the path.

In: a Surface. Out: a file by the specification of glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html):
a coloured mesh, a tube along every path, and a ball that is animated along the path. The scene has the coordinates of
the viewer (the longer side is 2 units), with y upwards, as in glTF.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.export.outfile import whole_file
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.stage import Stage
from landscape_hooks.surface.surface import Surface
from landscape_hooks.version import __version__

Floats = NDArray[np.float64]

FLOAT, UINT, UBYTE = 5126, 5125, 5121
ARRAY, ELEMENTS = 34962, 34963
RADIUS = 0.011
"""Radius of the tube, in scene units. The ball's radius is three times as large."""

SECONDS = 8.0


class _Document:
    """The file under construction: one binary buffer, and the JSON that describes its arrays."""

    def __init__(self) -> None:
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": f"landscape-hooks {__version__}"},
            "scene": 0,
            "scenes": [{"nodes": []}],
        }
        for key in ("nodes", "meshes", "materials", "accessors", "bufferViews"):
            self.json[key] = []
        self._data = bytearray()

    def add(self, key: str, value: dict[str, Any]) -> int:
        """Append to a list of the document; returns the number of the entry."""
        self.json[key].append(value)
        return len(self.json[key]) - 1

    def array(self, values: NDArray[Any], kind: str, target: int | None = None, *, bounds: bool = False) -> int:
        """Add `values`, little endian and aligned to four bytes; returns the number of the accessor."""
        component = {"f4": FLOAT, "u4": UINT, "u1": UBYTE}[values.dtype.str[1:]]
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self._data), "byteLength": values.nbytes}
        if target is not None:
            view["target"] = target
        self._data += np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
        self._data += bytes(-len(self._data) % 4)
        accessor: dict[str, Any] = {"bufferView": self.add("bufferViews", view), "componentType": component}
        accessor |= {"count": len(values), "type": kind}
        if component == UBYTE:
            accessor["normalized"] = True
        if bounds:
            flat = values.reshape(len(values), -1)
            accessor |= {"min": flat.min(axis=0).tolist(), "max": flat.max(axis=0).tolist()}
        return self.add("accessors", accessor)

    def mesh(
        self,
        name: str,
        points: Floats,
        normals: Floats,
        faces: NDArray[Any],
        material: int,
        rgb: NDArray[np.uint8] | None = None,
    ) -> int:
        """Add a mesh of triangles; returns its number."""
        attributes = {
            "POSITION": self.array(points.astype("f4"), "VEC3", ARRAY, bounds=True),
            "NORMAL": self.array(normals.astype("f4"), "VEC3", ARRAY),
        }
        if rgb is not None:
            rgba = np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)
            attributes["COLOR_0"] = self.array(rgba, "VEC4", ARRAY)
        indices = self.array(faces.astype("u4").ravel(), "SCALAR", ELEMENTS)
        part = {"attributes": attributes, "indices": indices, "material": material}
        return self.add("meshes", {"name": name, "primitives": [part]})

    def node(self, name: str, mesh: int, **more: object) -> int:
        """Add a node to the scene; returns its number."""
        number = self.add("nodes", {"name": name, "mesh": mesh, **more})
        self.json["scenes"][0]["nodes"].append(number)
        return number

    def material(
        self, name: str, rgb: tuple[float, float, float], roughness: float, *, both_sides: bool = False
    ) -> int:
        """Add a material; returns its number. glTF's colour factors are linear, so sRGB is converted."""
        linear = [float(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in rgb]
        look = {"baseColorFactor": [*linear, 1.0], "metallicFactor": 0.0, "roughnessFactor": roughness}
        return self.add("materials", {"name": name, "pbrMetallicRoughness": look, "doubleSided": both_sides})

    def bytes(self) -> bytes:
        """The content of the file."""
        self.json["buffers"] = [{"byteLength": len(self._data)}]
        text = json.dumps(self.json, allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        size = 12 + 8 + len(text) + 8 + len(self._data)
        return b"".join(
            [
                struct.pack("<4sII", b"glTF", 2, size),
                struct.pack("<I4s", len(text), b"JSON"),
                text,
                struct.pack("<I4s", len(self._data), b"BIN\0"),
                bytes(self._data),
            ]
        )


def write_glb(
    surface: Surface,
    path: str | FilePath,
    *,
    height: str = "auto",
    clip: tuple[float, float] = (0.0, 100.0),
    colormap: str = "viridis",
) -> FilePath:
    """Write the surface, its paths and an animated marker to `path`.

    Raises
    ------
    SurfaceError
        there is no finite loss to draw.
    """
    path = FilePath(path)
    mesh = Mesh.from_surface(surface, height=height, clip=clip)
    stage = Stage.of(mesh)
    document = _Document()
    paper = document.material("surface", (1.0, 1.0, 1.0), 0.75, both_sides=True)
    rgb = colors.of_mesh(mesh, colormap)
    points, normals = _upright(stage.place(mesh.vertices)), _upright(mesh.normals(stage.scale))
    document.node("surface", document.mesh("surface", points, normals, mesh.faces, paper, _linear(rgb)))
    moves = [part for number in range(len(surface.paths)) for part in _add_path(document, surface, mesh, stage, number)]
    if moves:
        samplers = [sampler for sampler, _ in moves]
        channels = [
            {"sampler": k, "target": {"node": node, "path": "translation"}} for k, (_, node) in enumerate(moves)
        ]
        document.json["animations"] = [{"name": "replay", "samplers": samplers, "channels": channels}]
    document.json["extras"] = {
        "height": mesh.height.statement,
        "batch_norm": str(surface.attrs.get("batch_norm", "")),
        "axes": [str(label) for label in surface.attrs.get("labels", ())],
    }
    with whole_file(path) as file:
        file.write_bytes(document.bytes())
    return path


def _upright(points: Floats) -> Floats:
    """Turn points with z upwards into points with y upwards, as in glTF."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], axis=1)


def _linear(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """sRGB colours as linear colours: vertex colours are linear in glTF, but not in PLY."""
    share = rgb / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 255).astype(np.uint8)


def _add_path(document: _Document, surface: Surface, mesh: Mesh, stage: Stage, number: int) -> list[tuple[Any, int]]:
    """Add tube and ball of a path; returns the sampler of the ball's motion and its node, if the path has a length."""
    run = surface.paths[number]
    drape = mesh.drape(run.coordinates)
    points = stage.place(drape.points)
    sound = np.isfinite(points).all(axis=1)
    points, position = points[sound] + np.array([0, 0, RADIUS]), drape.position[sound]
    if len(points) < 2:
        return []
    keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-7])
    points, position = points[keep], position[keep]
    if len(points) < 2:
        return []
    name = run.label or f"run {number + 1}"
    material = document.material(name, colors.rgb(colors.path_color(number)), 0.45)
    tube, normals, faces = _tube(_apart(points, 2 * RADIUS))
    document.node(name, document.mesh(name, _upright(tube), _upright(normals), faces, material))
    sphere, triangles = _ball()
    white = document.material(f"{name}: marker", (1.0, 0.98, 0.92), 0.3)
    ball = document.mesh(f"{name}: marker", sphere * 3 * RADIUS, sphere, triangles, white)
    node = document.node(f"{name}: marker", ball, translation=_upright(points[-1:])[0].tolist())
    times = (position - position[0]) / (position[-1] - position[0]) * SECONDS
    sampler = {
        "input": document.array(times.astype("f4"), "SCALAR", bounds=True),
        "output": document.array(_upright(points).astype("f4"), "VEC3"),
        "interpolation": "LINEAR",
    }
    return [(sampler, node)]


def _apart(points: Floats, distance: float) -> Floats:
    """The points of a polyline that lie at least `distance` from the point before, and the last point.

    With closer points the tube would intersect itself at a bend.
    """
    kept = [0]
    for number in range(1, len(points) - 1):
        if np.linalg.norm(points[number] - points[kept[-1]]) >= distance:
            kept.append(number)
    while len(kept) > 1 and np.linalg.norm(points[-1] - points[kept[-1]]) < distance:
        kept.pop()
    return points[[*kept, len(points) - 1]]


def _tube(points: Floats, sides: int = 8) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Vertices, normals and triangles of a tube around a polyline (N, 3)."""
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    side = np.cross(along, [0.0, 0.0, 1.0])
    length = np.linalg.norm(side, axis=1, keepdims=True)
    side = np.where(length > 1e-9, side / np.maximum(length, 1e-12), [1.0, 0.0, 0.0])
    up = np.cross(side, along)
    angle = np.arange(sides) * 2 * np.pi / sides
    normals = np.cos(angle)[None, :, None] * side[:, None] + np.sin(angle)[None, :, None] * up[:, None]
    vertices = points[:, None] + RADIUS * normals
    ring = np.arange(len(points) - 1)[:, None] * sides
    here, there = np.arange(sides)[None], (np.arange(sides)[None] + 1) % sides
    a, b, c, d = ring + here, ring + there, ring + sides + there, ring + sides + here
    faces = np.stack([np.stack([a, c, b], -1), np.stack([a, d, c], -1)], axis=2).reshape(-1, 3)
    return vertices.reshape(-1, 3), normals.reshape(-1, 3), faces


def _ball(rings: int = 10, sides: int = 16) -> tuple[Floats, NDArray[np.int64]]:
    """Vertices (which are also the normals) and triangles of a ball of radius 1."""
    down, around = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.arange(sides) * 2 * np.pi / sides, indexing="ij")
    points = np.stack([np.sin(down) * np.cos(around), np.cos(down), -np.sin(down) * np.sin(around)], -1).reshape(-1, 3)
    ring = np.arange(rings)[:, None] * sides
    here, there = np.arange(sides)[None], (np.arange(sides)[None] + 1) % sides
    a, b, c, d = ring + here, ring + there, ring + sides + there, ring + sides + here
    return points, np.stack([np.stack([a, d, c], -1), np.stack([a, c, b], -1)], axis=2).reshape(-1, 3)
