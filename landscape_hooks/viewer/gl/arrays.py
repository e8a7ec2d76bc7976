"""Geometry: a landscape on its stage as the arrays that OpenGL takes. Pure numpy.

In: Landscape, Stage, Look. Out: structured arrays whose fields are the attributes of the shaders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh import colors
from landscape_hooks.mesh.contours import Contour
from landscape_hooks.mesh.mesh import Drape, Mesh
from landscape_hooks.mesh.stage import Stage
from landscape_hooks.surface.surface import Path
from landscape_hooks.viewer.replay.look import Rgb

Floats = NDArray[np.float64]
Triangles = NDArray[np.uint32]

SURFACE = np.dtype(
    [
        ("position", "f4", 3),
        ("normal", "f4", 3),
        ("share", "f4"),
        ("occlusion", "f4"),
        ("cell", "f4", 2),
        ("tint", "u1", 3),
        ("pad", "u1"),
    ]
)
SHADOW = 8000
"""Points of the contour lines on the floor: of a fine grid not every one is taken."""

PATH = 20_000
"""Segments of a path that are drawn: of a longer one not every snapshot is a corner of the line."""

LINE = np.dtype(
    [("a", "f4", 3), ("b", "f4", 3), ("color_a", "u1", 4), ("color_b", "u1", 4), ("along", "f4", 2), ("width", "f4")]
)
BALL = np.dtype([("centre", "f4", 3), ("fill", "u1", 4), ("ring", "u1", 4), ("radius", "f4")])


def surface_array(mesh: Mesh, stage: Stage) -> NDArray[Any]:
    """(V,) SURFACE: every vertex of the mesh in the scene."""
    out = np.zeros(len(mesh.vertices), dtype=SURFACE)
    out["position"] = stage.place(mesh.vertices)
    out["normal"] = mesh.normals(stage.scale)
    out["share"] = shares(mesh)
    out["occlusion"] = occlusion(mesh, stage)
    if mesh.grid is not None:
        rows, columns = mesh.grid.shape
        alpha, beta = np.arange(rows), np.arange(columns)
        out["cell"][:, 0] = np.interp(mesh.vertices[:, 0], mesh.grid.alpha, alpha)
        out["cell"][:, 1] = np.interp(mesh.vertices[:, 1], mesh.grid.beta, beta)
    if mesh.colors is not None:
        out["tint"] = mesh.colors
    return out


def shares(mesh: Mesh) -> Floats:
    """(V,) place of every vertex in the range that is coloured, 0 … 1: the height, or another mesh's quality."""
    if mesh.grid is None:
        low, high = float(np.nanmin(mesh.loss)), float(np.nanmax(mesh.loss))
        value = np.nan_to_num(mesh.loss, nan=low)
    else:
        (low, high), value = mesh.height.bounds, mesh.vertices[:, 2]
    return (value - low) / (high - low) if high > low else np.full(len(value), 0.5)


def occlusion(mesh: Mesh, stage: Stage) -> Floats:
    """(V,) light from the sky at each vertex: 1, or less where it lies below its surroundings."""
    if mesh.grid is None:
        return np.ones(len(mesh.vertices))
    heights = np.where(mesh.valid, mesh.heights, mesh.height.bounds[1]) * stage.scale[2]
    below = np.zeros_like(heights)
    longest = max(heights.shape)
    for share in (0.04, 0.1, 0.22):
        radius = max(1, round(share * longest))
        below += np.maximum(_box_mean(heights, radius) - heights, 0) / (2 * share)
    sky = 1 / (1 + 1.5 * below / 3 * 2)
    values = np.ones(len(mesh.vertices))
    values[: sky.size] = sky.ravel()
    if len(values) > sky.size:  # a centre has the mean of its corners
        centres = mesh.faces[:, 2].reshape(-1, 4)[:, 0]
        corners = mesh.faces[:, 0].reshape(-1, 4)
        values[centres] = values[corners].mean(axis=1)
    return values


def _box_mean(values: Floats, radius: int) -> Floats:
    """Mean over a square window, with the edge repeated."""
    for axis in (0, 1):
        padded = np.pad(values, [(radius + 1, radius) if k == axis else (0, 0) for k in (0, 1)], mode="edge")
        total = np.cumsum(padded, axis=axis)
        width = 2 * radius + 1
        upper = np.take(total, np.arange(width, total.shape[axis]), axis=axis)
        lower = np.take(total, np.arange(total.shape[axis] - width), axis=axis)
        values = (upper - lower) / width
    return values


def coarser(mesh: Mesh, limit: int) -> list[Triangles]:
    """Index arrays of the mesh: all of it, then, if it has more than `limit` triangles, a coarser one for dragging."""
    full = mesh.faces.astype(np.uint32)
    if mesh.grid is None or len(full) <= limit:
        return [full]
    rows, columns = mesh.grid.shape
    step = int(np.ceil(np.sqrt(2 * rows * columns / limit)))
    i = np.unique(np.append(np.arange(0, rows, step), rows - 1))
    j = np.unique(np.append(np.arange(0, columns, step), columns - 1))
    number = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)[np.ix_(i, j)]
    valid = mesh.valid[np.ix_(i, j)]
    whole = valid[:-1, :-1] & valid[1:, :-1] & valid[:-1, 1:] & valid[1:, 1:]
    a, b, c, d = number[:-1, :-1][whole], number[1:, :-1][whole], number[1:, 1:][whole], number[:-1, 1:][whole]
    return [full, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])]


def lid_array(mesh: Mesh, stage: Stage) -> tuple[NDArray[Any], Triangles] | None:
    """SURFACE and triangles of a lid over the open cells, which is drawn hatched: it says that nothing is known there.

    Its rim lies on the surface; in between it takes the height of the nearest grid points that have one.
    """
    if mesh.grid is None or not mesh.open_cells.any() or not mesh.valid.any():
        return None
    heights = mesh.heights.copy()
    while np.isnan(heights).any():
        padded = np.pad(heights, 1, constant_values=np.nan)
        around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        known = np.isfinite(around)
        mean = np.where(known, around, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        heights = np.where(np.isnan(heights) & known.any(axis=0), mean, heights)
    alpha, beta = np.meshgrid(mesh.grid.alpha, mesh.grid.beta, indexing="ij")
    out = np.zeros(heights.size, dtype=SURFACE)
    out["position"] = stage.place(np.column_stack([alpha.ravel(), beta.ravel(), heights.ravel()]))
    out["normal"] = (0.0, 0.0, 1.0)
    number = np.arange(heights.size, dtype=np.uint32).reshape(heights.shape)
    cells = mesh.open_cells
    a, b, c, d = number[:-1, :-1][cells], number[1:, :-1][cells], number[1:, 1:][cells], number[:-1, 1:][cells]
    return out, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


Ink = Rgb | Floats


# -- lines --------------------------------------------------------------------------------------------------
def line_array(
    points: Floats, color: Ink, width: float, *, along: Floats | None = None, alpha: Floats | float = 1.0
) -> NDArray[Any]:
    """(N - 1,) LINE of a polyline (N, 3) in the scene; segments with a NaN end are left out."""
    points = np.asarray(points, dtype=np.float64)
    along = np.zeros(len(points)) if along is None else along
    rgba = np.empty((len(points), 4))
    rgba[:, :3], rgba[:, 3] = color, alpha
    out = np.zeros(max(len(points) - 1, 0), dtype=LINE)
    out["a"], out["b"] = points[:-1], points[1:]
    out["color_a"], out["color_b"] = np.round(rgba[:-1] * 255), np.round(rgba[1:] * 255)
    out["along"] = np.stack([along[:-1], along[1:]], axis=1)
    out["width"] = width
    return out[np.isfinite(points[:-1]).all(axis=1) & np.isfinite(points[1:]).all(axis=1)]


def segments_array(
    pairs: Floats, color: Ink, width: float, *, along: Floats | float = 0.0, alpha: Floats | float = 1.0
) -> NDArray[Any]:
    """(N,) LINE of single segments (N, 2, 3)."""
    pairs = np.asarray(pairs, dtype=np.float64).reshape(-1, 2, 3)
    out = np.zeros(len(pairs), dtype=LINE)
    out["a"], out["b"] = pairs[:, 0], pairs[:, 1]
    rgba = np.empty((len(pairs), 4))
    rgba[:, :3], rgba[:, 3] = color, alpha
    out["color_a"] = out["color_b"] = np.round(rgba * 255)
    out["along"] = np.asarray(along, dtype=np.float64).reshape(-1, 1)
    out["width"] = width
    return out[np.isfinite(pairs).all(axis=(1, 2))]


def contour_array(
    lines: list[Contour], mesh: Mesh, stage: Stage, *, color: Rgb | None = None, colormap: str = "viridis", floor: bool
) -> NDArray[Any]:
    """LINE of the marching-squares contours, on the mesh or projected onto the floor; without `color` by their loss."""
    parts = []
    table = colors.table(colormap) / 255.0
    total = sum(len(line) for contour in lines for line in contour.lines)
    every = max(1, total // SHADOW) if floor else 1
    low, high = mesh.height.bounds
    for contour in lines:
        share = (contour.height - low) / (high - low) if high > low else 0.5
        ink = table[int(share * 255)] if color is None else color
        for line in contour.lines:
            points = stage.place(np.concatenate([line[:-1:every], line[-1:]]) if every > 1 else line)
            if floor:
                points[:, 2] = stage.floor
            parts.append(line_array(points, ink, 1.9 if contour.index else 0.9, alpha=0.9 if contour.index else 0.55))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=LINE)


def path_array(drape: Drape, path: Path, stage: Stage, color: Ink, reach: float) -> NDArray[Any]:
    """LINE of a draped path; it fades where the snapshot is far off the plane, compared with the path's extent."""
    fade = fading(path, reach)
    rows = corners(len(drape.points))
    alpha = np.interp(drape.position[rows], np.arange(len(path)), fade)
    return line_array(stage.place(drape.points[rows]), color, 3.2, along=drape.position[rows], alpha=alpha)


def corners(count: int) -> NDArray[np.intp]:
    """Evenly spaced numbers of at most PATH of `count` points, with the first and the last."""
    every = max(1, -(-count // PATH))
    return np.unique(np.append(np.arange(0, count, every), max(count - 1, 0)))[:count]


def fading(path: Path, reach: float) -> Floats:
    """(T,) opacity of the draped path: 1 on the plane, 0.35 where it is as far off as the whole path is long."""
    if not reach > 0:
        return np.ones(len(path))
    return 1 - 0.65 * np.clip(np.nan_to_num(path.distance, nan=reach) / reach, 0, 1)


def true_points(path: Path, mesh: Mesh, stage: Stage) -> Floats:
    """(T, 3) scene points above the projections, at the height of the loss at the snapshots themselves."""
    heights = mesh.height.of(np.where(np.isfinite(path.loss), path.loss, np.nan))
    return stage.place(np.column_stack([path.coordinates, heights]))


def true_loss_arrays(path: Path, mesh: Mesh, stage: Stage, color: Ink) -> tuple[NDArray[Any], NDArray[Any]]:
    """LINE of the true loss, and of the stems that join it to the surface."""
    upper = true_points(path, mesh, stage)
    lower = stage.place(np.column_stack([path.coordinates, mesh.height_at(path.coordinates)]))
    place = np.arange(float(len(path)))
    rows = corners(len(path))
    line = line_array(upper[rows], color, 1.3, along=place[rows])
    every = max(1, len(path) // 60)
    stems = segments_array(
        np.stack([lower, upper], axis=1)[::every], color, 0.9, along=place[::every][: len(place)], alpha=0.5
    )
    return line, stems


def ball_array(centres: Sequence[Any], fill: Rgb, ring: Rgb, radius: float) -> NDArray[Any]:
    """(N,) BALL at scene points."""
    points = np.asarray(centres, dtype=np.float64).reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    out = np.zeros(len(points), dtype=BALL)
    out["centre"] = points
    out["fill"] = np.round(np.array([*fill, 1.0]) * 255)
    out["ring"] = np.round(np.array([*ring, 1.0]) * 255)
    out["radius"] = radius
    return out


def floor_array(stage: Stage, ink: Ink) -> NDArray[Any]:
    """LINE of the floor: a frame, and a grid at the ticks."""
    low, high = stage.corners
    z = stage.floor
    pairs, widths = [], []
    for axis, other in ((0, 1), (1, 0)):
        values = stage.ticks(axis)[0]
        spots = (values - (stage.low + stage.high)[axis] / 2) * stage.scale[axis]
        for spot, width in [(float(s), 0.8) for s in spots] + [(low[axis], 1.4), (high[axis], 1.4)]:
            a, b = np.full(3, z), np.full(3, z)
            a[axis] = b[axis] = spot
            a[other], b[other] = low[other], high[other]
            pairs.append([a, b])
            widths.append(width)
    out = segments_array(np.array(pairs), ink, 1.0, alpha=0.30)
    out["width"] = widths
    return out


def level_tables(mesh: Mesh, losses: Floats) -> NDArray[np.float32]:
    """(4096,) share of the height range -> number of the contour line, whole on a line, for the shader."""
    low, high = mesh.height.bounds
    knots = (mesh.height.of(losses) - low) / (high - low)
    numbers = np.arange(1.0, len(losses) + 1)
    if len(knots) > 1:
        first, last = knots[1] - knots[0], knots[-1] - knots[-2]
        knots = np.concatenate([[knots[0] - first], knots, [knots[-1] + last]])
        numbers = np.concatenate([[0.0], numbers, [len(losses) + 1.0]])
    else:
        knots, numbers = np.array([knots[0] - 1, knots[0], knots[0] + 1]), np.array([0.0, 1.0, 2.0])
    return np.interp(np.linspace(0, 1, 4096), knots, numbers).astype(np.float32)
