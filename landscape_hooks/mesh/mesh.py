"""Mesh: a surface as triangles, and paths that lie exactly on them.

In: a Surface, or the vertices and faces of any triangle mesh. Out: numpy arrays for the PLY writer, the viewer and the
contour lines. This module uses no OpenGL and no files.

A grid cell becomes four triangles that meet in the cell's centre. The centre has the mean height of the corners, so
neither diagonal is preferred. `contourpy` cuts the same triangles with `quad_as_tri=True`, so contour lines lie on the
mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.surface.digits import Labels
from landscape_hooks.surface.surface import Surface

Floats = NDArray[np.float64]

LOG_FROM = 50.0
"""Ratio of the largest to the smallest loss above which the height is logarithmic."""

EDGE = 1e-9
"""Share of a cell by which a point may lie outside the grid because of rounding."""

KINDS = ("auto", "log10", "linear")


@dataclass(frozen=True)
class Height:
    """The map from losses to heights: log10 or linear, clipped to [low, high] (in units of the loss).

    >>> Height("log10", 0.01, 100.0).of(np.array([0.001, 1.0]))
    array([-2.,  0.])
    """

    kind: str
    low: float
    high: float
    clipped: str = ""

    @classmethod
    def choose(cls, loss: Floats, kind: str = "auto", clip: tuple[float, float] = (0.0, 100.0)) -> Height:
        """Choose the height for the finite values of `loss`; `clip` gives the percentiles at which it is clipped.

        Raises
        ------
        SurfaceError
            no value is finite, the kind is unknown, or a logarithm is asked of a loss that is not positive.
        """
        if kind not in KINDS:
            raise SurfaceError(f"Found the height '{kind}'", expected=f"one of {', '.join(KINDS)}")
        finite = loss[np.isfinite(loss)]
        if not finite.size:
            raise SurfaceError(
                "The surface has no finite loss at all, so there is nothing to draw",
                mend="Choose a smaller --extent, or look at the training: its loss is NaN or inf everywhere",
            )
        low, high = (float(v) for v in np.percentile(finite, clip))
        clipped = "" if clip == (0.0, 100.0) else f"clipped at percentiles {clip[0]:g} and {clip[1]:g}"
        if kind == "auto":
            kind = "log10" if low > 0 and high / low > LOG_FROM else "linear"
        if kind == "log10" and low <= 0:
            raise SurfaceError(
                f"The smallest loss is {low:g}, which has no logarithm", mend="Choose a linear height for this surface"
            )
        return cls(kind, low, high, clipped)

    def of(self, loss: ArrayLike) -> Floats:
        """Heights of losses, clipped; NaN stays NaN."""
        clipped = np.clip(np.asarray(loss, dtype=np.float64), self.low, self.high)
        return np.log10(clipped) if self.kind == "log10" else clipped

    def inverse(self, height: ArrayLike) -> Floats:
        """Losses of heights."""
        height = np.asarray(height, dtype=np.float64)
        return 10.0**height if self.kind == "log10" else height

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest height."""
        low, high = self.of([self.low, self.high])
        return float(low), float(high)

    @property
    def labels(self) -> Labels:
        """How the losses between both ends are written, the same in every part of a picture."""
        return Labels() if self.kind == "log10" else Labels.between(self.low, self.high)

    @property
    def resolution(self) -> float:
        """A difference between losses that read-outs are to show: a part in 200 of what is shown."""
        return (self.high - self.low) / 200

    @property
    def statement(self) -> str:
        """The height, for a caption."""
        text = "height: log10 of the loss" if self.kind == "log10" else "height: the loss, linear"
        return f"{text}, {self.clipped}" if self.clipped else text


@dataclass(frozen=True)
class Drape:
    """A path that lies on a mesh.

    Attributes
    ----------
    points
        (N, 3) alpha, beta, height: the snapshots and every point where the path crosses an edge of a triangle.
        Height is NaN in a hole of the mesh and outside of it.
    position
        (N,) position along the path, in snapshots: snapshot n has the number n.
    """

    points: Floats
    position: Floats

    def at(self, position: float) -> Floats:
        """(3,) the point at a fractional snapshot number; clamped to the ends."""
        return np.array([np.interp(position, self.position, self.points[:, axis]) for axis in range(3)])


@dataclass(frozen=True)
class Mesh:
    """Triangles with a loss at each vertex.

    Attributes
    ----------
    vertices
        (V, 3) alpha, beta, height. For a mesh made from a surface the first A·B are the grid points, row by row,
        then the centres of the cells that have all four corners.
    faces
        (F, 3) vertex numbers, counter-clockwise seen from above.
    loss
        (V,) raw loss (a centre has the loss of its height); NaN or inf at points that no face touches.
    colors
        (V, 3) uint8 colours that came with a file, or None.
    grid
        the surface that the mesh was made from, or None for a mesh that is not a grid.
    scalar
        what `loss` is in a mesh of another program: the name of a vertex property, or "z".
    """

    vertices: Floats
    faces: NDArray[np.int32]
    loss: Floats
    height: Height
    colors: NDArray[np.uint8] | None = None
    grid: Surface | None = None
    scalar: str = "loss"

    @property
    def statement(self) -> str:
        """The height, or the origin of a mesh from another program, for a caption."""
        if self.grid is not None:
            return self.height.statement
        by = "its own colours" if self.colors is not None else self.scalar
        return f"a mesh of another program: {len(self.faces):,} triangles, coloured by {by}"

    @classmethod
    def from_surface(
        cls, surface: Surface, *, height: str | Height = "auto", clip: tuple[float, float] = (0.0, 100.0)
    ) -> Mesh:
        """The mesh of a surface: four triangles a cell. A cell with a corner that is not computed, NaN or inf has none.

        `height` is the kind of height, or one that several surfaces share.

        Raises
        ------
        SurfaceError
            the grid is smaller than 2 x 2, its axes do not increase, or no loss is computed yet or finite.
        """
        rows, columns = surface.shape
        if rows < 2 or columns < 2:
            raise SurfaceError(
                f"The surface has {rows} x {columns} points",
                expected="at least 2 x 2 to draw in space",
                mend="A line is drawn as a figure: landscape-hooks export RUN --png F.png",
            )
        if not all(np.isfinite(axis).all() and (np.diff(axis) > 0).all() for axis in (surface.alpha, surface.beta)):
            raise SurfaceError("The coordinates of the grid do not increase", expected="increasing alpha and beta")
        if not surface.present.any():
            raise SurfaceError(
                f"The surface '{surface.name}' is begun, but no point of it is computed yet",
                mend="Wait for the analysis, or go on with it: landscape-hooks analyze RUN",
            )
        loss = np.where(surface.present, surface.loss, np.nan)
        transform = height if isinstance(height, Height) else Height.choose(loss, height, clip)
        valid = np.isfinite(loss)
        heights = np.where(valid, transform.of(np.where(valid, loss, transform.high)), transform.bounds[1])

        whole = valid[:-1, :-1] & valid[1:, :-1] & valid[:-1, 1:] & valid[1:, 1:]
        corner = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
        c00, c10, c01, c11 = (
            corner[a, b][whole]
            for a, b in (
                (slice(None, -1), slice(None, -1)),
                (slice(1, None), slice(None, -1)),
                (slice(None, -1), slice(1, None)),
                (slice(1, None), slice(1, None)),
            )
        )
        alpha, beta = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
        points = np.stack([alpha.ravel(), beta.ravel(), heights.ravel()], axis=1)
        centres = (points[c00] + points[c10] + points[c01] + points[c11]) / 4
        centre = np.arange(len(centres), dtype=np.int32) + rows * columns
        faces = np.stack([np.stack(triangle, axis=1) for triangle in _fan(c00, c10, c01, c11, centre)], axis=1).reshape(
            -1, 3
        )
        return cls(
            vertices=np.concatenate([points, centres]),
            faces=faces.astype(np.int32),
            loss=np.concatenate([loss.ravel(), transform.inverse(centres[:, 2])]),
            height=transform,
            grid=surface,
        )

    @cached_property
    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest alpha, beta, height."""
        used = self.vertices if self.grid is not None else self.vertices[np.unique(self.faces)]
        return used.min(axis=0), used.max(axis=0)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(A, B) grid points that hold a finite loss."""
        assert self.grid is not None
        return np.isfinite(self.loss[: self.grid.loss.size]).reshape(self.grid.shape)

    @cached_property
    def missing(self) -> dict[str, int]:
        """Number of grid points without a finite loss, by reason; empty if all have one."""
        if self.grid is None:
            return {}
        present, loss = self.grid.present, self.grid.loss
        reasons = {"not computed": ~present, "NaN": present & np.isnan(loss), "infinite": present & np.isinf(loss)}
        return {name: int(mask.sum()) for name, mask in reasons.items() if mask.any()}

    @property
    def open_cells(self) -> NDArray[np.bool_]:
        """(A - 1, B - 1) cells that have no triangles, because a corner has no finite loss."""
        valid = self.valid
        return ~(valid[:-1, :-1] & valid[1:, :-1] & valid[:-1, 1:] & valid[1:, 1:])

    @cached_property
    def heights(self) -> Floats:
        """(A, B) heights of the grid, NaN where there is no finite loss."""
        assert self.grid is not None
        heights = self.vertices[: self.grid.loss.size, 2].reshape(self.grid.shape)
        return np.where(self.valid, heights, np.nan)

    def normals(self, scale: Floats) -> Floats:
        """(V, 3) unit normals of the mesh scaled by `scale` (3,).

        They come from the gradient of the grid. With holes, or without a grid, they are means of the faces' normals,
        weighted by area.
        """
        if self.grid is not None and self.valid.all():
            return self._grid_normals(scale)
        points = self.vertices * scale
        a, b, c = (points[self.faces[:, k]] for k in range(3))
        across = np.cross(b - a, c - a)
        total = np.empty_like(points)
        for axis in range(3):
            weights = np.repeat(across[:, axis], 3)
            total[:, axis] = np.bincount(self.faces.ravel(), weights=weights, minlength=len(points))
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return np.where(length > 0, total / np.where(length > 0, length, 1), [0.0, 0.0, 1.0])

    def _grid_normals(self, scale: Floats) -> Floats:
        """Normals from slopes: of the grid at its points, of the four corners at a cell's centre."""
        grid = self._grid()
        h = self.heights * scale[2]
        width, depth = np.diff(grid.alpha)[:, None] * scale[0], np.diff(grid.beta)[None, :] * scale[1]
        slopes = np.gradient(h, grid.alpha * scale[0], grid.beta * scale[1])
        rise, fall = h[1:, 1:] - h[:-1, :-1], h[1:, :-1] - h[:-1, 1:]
        centres = [(rise + fall) / (2 * width), (rise - fall) / (2 * depth)]
        out = np.ones((len(self.vertices), 3))
        for axis in (0, 1):
            out[:, axis] = -np.concatenate([slopes[axis].ravel(), centres[axis].ravel()])
        return out / np.sqrt(np.einsum("vk,vk->v", out, out))[:, None]

    def height_at(self, points: Floats) -> Floats:
        """(N,) height of the mesh at (N, 2) alpha, beta; NaN outside the grid and in holes."""
        grid = self._grid()
        i, u = _cell(grid.alpha, points[:, 0])
        j, v = _cell(grid.beta, points[:, 1])
        h = self.heights
        h00, h10, h01, h11 = h[i, j], h[i + 1, j], h[i, j + 1], h[i + 1, j + 1]
        inside = (np.abs(u - 0.5) <= 0.5 + EDGE) & (np.abs(v - 0.5) <= 0.5 + EDGE)
        u, v = np.clip(u, 0, 1), np.clip(v, 0, 1)
        # Barycentric weights of the four triangles in one formula: at most two corners and the centre are not zero.
        edge = 2 * np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
        value = (
            np.maximum(1 - u - v, 0) * h00
            + np.maximum(u - v, 0) * h10
            + np.maximum(u + v - 1, 0) * h11
            + np.maximum(v - u, 0) * h01
            + edge * (h00 + h10 + h01 + h11) / 4
        )
        return np.where(inside, value, np.nan)

    def on(self, place: ArrayLike) -> Floats:
        """(3,) alpha, beta and height of a place (2,) on the mesh."""
        at = np.asarray(place, dtype=np.float64)
        return np.array([*at, self.height_at(at[None])[0]])

    def drape(self, coordinates: Floats) -> Drape:
        """The polyline through `coordinates` (T, 2) on the mesh, cut at every edge of a triangle that it crosses.

        A line through the snapshots' heights alone would lie under the surface for a third of its length.
        """
        coordinates = np.asarray(coordinates, dtype=np.float64)
        if len(coordinates) < 2:
            return Drape(
                np.column_stack([coordinates, self.height_at(coordinates)]), np.arange(float(len(coordinates)))
            )
        position = np.unique(np.concatenate([self._crossings(coordinates), np.arange(float(len(coordinates)))]))
        points = np.column_stack([np.interp(position, np.arange(len(coordinates)), coordinates[:, k]) for k in (0, 1)])
        return Drape(np.column_stack([points, self.height_at(points)]), position)

    def _crossings(self, coordinates: Floats) -> Floats:
        """Positions at which the polyline crosses grid lines and the diagonals of cells."""
        grid = self._grid()
        start, delta = coordinates[:-1], np.diff(coordinates, axis=0)
        numbers = np.arange(float(len(start)))
        found = [np.arange(float(len(coordinates)))]
        for axis, lines in enumerate((grid.alpha, grid.beta)):
            with np.errstate(divide="ignore", invalid="ignore"):
                t = (lines[None, :] - start[:, axis, None]) / delta[:, axis, None]
            hit = (t > 0) & (t < 1)
            found.append((numbers[:, None] + t)[hit])
        cuts = np.unique(np.concatenate(found))

        # Between two cuts the path stays in one cell, and crosses each of the cell's diagonals at most once.
        def place(position: Floats) -> tuple[Floats, Floats]:
            index = np.arange(len(coordinates))
            return np.interp(position, index, coordinates[:, 0]), np.interp(position, index, coordinates[:, 1])

        middle = place((cuts[:-1] + cuts[1:]) / 2)
        i, _ = _cell(grid.alpha, middle[0])
        j, _ = _cell(grid.beta, middle[1])
        width, depth = np.diff(grid.alpha)[i], np.diff(grid.beta)[j]
        (a0, b0), (a1, b1) = place(cuts[:-1]), place(cuts[1:])
        u0, u1 = (a0 - grid.alpha[i]) / width, (a1 - grid.alpha[i]) / width
        v0, v1 = (b0 - grid.beta[j]) / depth, (b1 - grid.beta[j]) / depth
        diagonals = []
        for first, last in ((u0 - v0, u1 - v1), (u0 + v0 - 1, u1 + v1 - 1)):
            crosses = first * last < 0
            t = first[crosses] / (first[crosses] - last[crosses])
            diagonals.append(cuts[:-1][crosses] * (1 - t) + cuts[1:][crosses] * t)
        return np.concatenate([cuts, *diagonals])

    def _grid(self) -> Surface:
        if self.grid is None:
            raise SurfaceError("This mesh is not a grid", expected="a surface of a run or a PLY file written by us")
        return self.grid


Index = NDArray[np.int32]


def _fan(c00: Index, c10: Index, c01: Index, c11: Index, centre: Index) -> tuple[tuple[Index, Index, Index], ...]:
    return (c00, c10, centre), (c10, c11, centre), (c11, c01, centre), (c01, c00, centre)


def _cell(axis: Floats, values: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The interval of `axis` that contains each value, and the position in it (0 … 1 inside)."""
    index = np.clip(np.searchsorted(axis, values, side="right") - 1, 0, len(axis) - 2)
    return index, (values - axis[index]) / (axis[index + 1] - axis[index])
