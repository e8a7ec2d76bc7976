"""Source: whatever the user points at, as something to draw: a run, a PLY file, or a Surface.

In: a path or a Surface. Out: a Landscape, which is a mesh, its paths, and what a caption says about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.export.ply_reader import read_ply
from landscape_hooks.mesh.contours import Contour, contours
from landscape_hooks.mesh.mesh import Drape, Mesh
from landscape_hooks.mesh.pair import Difference
from landscape_hooks.store.run import RunLike, label_of, open_run
from landscape_hooks.surface.critical import CriticalPoint
from landscape_hooks.surface.measures import curvature as curvatures
from landscape_hooks.surface.measures.curvature import Curvature
from landscape_hooks.surface.spots import Spot, said_of, shown_critical_points, spots
from landscape_hooks.surface.surface import Path, Surface

Floats = NDArray[np.float64]

CLIP = (1.0, 95.0)
"""Percentiles at which the height 'clipped' cuts."""


@dataclass(frozen=True)
class Strip:
    """The sharpness along the first path, for the strip above the losses; all (n,).

    Attributes
    ----------
    share
        shares of the snapshots, 0 … 1, at which it is known.
    value, limit
        the sharpness, and the threshold of the step, NaN where there is none.
    """

    share: Floats
    value: Floats
    limit: Floats

    @property
    def top(self) -> float:
        """The upper end of the axis, which begins at 0: the thresholds show where they are in reach."""
        highest = float(np.nanmax(self.value))
        near = self.limit[self.limit <= REACH * highest]
        return max(highest, float(near.max(initial=0.0))) or 1.0


REACH = 3.0
"""Times the sharpness up to which a threshold is in reach."""


@dataclass(frozen=True)
class Landscape:
    """A mesh with its paths laid on it; `surface` is None for a mesh of another program.

    `curvature` is that of the first run, where it has one. `difference` is what the colours of the mesh say, where they
    compare it with another surface.
    """

    mesh: Mesh
    surface: Surface | None
    title: str
    height: str = "auto"
    curvature: Curvature | None = None
    difference: Difference | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that have a snapshot, first run first."""
        return tuple(path for path in self.surface.paths if len(path)) if self.surface is not None else ()

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What defines the surface."""
        return self.surface.attrs if self.surface is not None else {}

    @cached_property
    def drapes(self) -> tuple[Drape, ...]:
        """The paths on the mesh."""
        return tuple(self.mesh.drape(path.coordinates) for path in self.paths)

    @cached_property
    def spots(self) -> list[Spot]:
        """The points for the marks."""
        return spots(self.surface) if self.surface is not None else []

    @cached_property
    def spot_points(self) -> Floats:
        """(N, 3) the points for the marks on the mesh; the height is NaN in a hole of it."""
        return np.array([self.mesh.on(spot.coordinates) for spot in self.spots]).reshape(-1, 3)

    @cached_property
    def critical(self) -> list[CriticalPoint]:
        """The minima and saddles that are shown."""
        if self.surface is None or "blend" in self.attrs:  # a blend changes with its slider: none are searched in it
            return []
        return shown_critical_points(self.surface)

    @cached_property
    def critical_places(self) -> Floats:
        """(N, 3) these on the mesh."""
        return np.array([self.mesh.on(np.array(point.coordinates)) for point in self.critical]).reshape(-1, 3)

    def said_of(self, spot: Spot) -> list[str]:
        """What a read-out says of a point for marks, a line a mark."""
        return [said_of(mark) for mark in spot.marks]

    @cached_property
    def strip(self) -> Strip | None:
        """The sharpness along the first path; None where there is none that was computed as the surface was."""
        found = self.curvature
        if found is None or self.surface is None or not self.paths or len(self.paths[0]) < 2:
            return None
        if found.attrs.get("batch_norm") != self.surface.definition.batch_norm or found.attrs.get("tensors"):
            return None
        step = self.paths[0].step
        shown = np.isfinite(found.sharpness) & (found.sharpness >= 0)  # the axis begins at 0
        known = shown & (found.step >= step[0]) & (found.step <= step[-1])
        if known.sum() < 2:
            return None
        share = np.interp(found.step[known], step, np.arange(len(step))) / (len(step) - 1)
        return Strip(share, found.sharpness[known], found.threshold[known])

    @cached_property
    def lines(self) -> list[Contour]:
        """The contour lines on the mesh; none for a mesh that is not a grid."""
        return contours(self.mesh) if self.mesh.grid is not None else []

    @cached_property
    def lengths(self) -> tuple[float, ...]:
        """Extent of every path in the plane: what an off-plane distance is compared with."""
        return tuple(
            float(np.linalg.norm(np.ptp(path.coordinates, axis=0))) if len(path) else 0.0 for path in self.paths
        )

    def with_height(self, kind: str) -> Landscape:
        """The same under another height: auto, log10, linear, or clipped (auto within percentiles)."""
        if self.surface is None:
            return self
        return Landscape(_mesh(self.surface, kind), self.surface, self.title, kind, self.curvature)

    def of_surface(self, surface: Surface) -> Landscape:
        """The same for another surface, under the same height; where only the paths differ, on the same mesh."""
        old = self.surface
        same = old is not None and surface.loss is old.loss
        mesh = replace(self.mesh, grid=surface) if same else _mesh(surface, self.height)
        return Landscape(mesh, surface, self.title, self.height, self.curvature)


def _mesh(surface: Surface, kind: str) -> Mesh:
    return Mesh.from_surface(
        surface, height="auto" if kind == "clipped" else kind, clip=CLIP if kind == "clipped" else (0.0, 100.0)
    )


def _title(surface: Surface) -> str:
    """What a surface says of itself: its run and its name."""
    runs = [path.label for path in surface.paths if path.label]
    said = [", ".join(runs) if len(runs) <= 2 else f"{len(runs)} runs"] if runs else []
    return " · ".join([*said, surface.name or "surface"])


Source = RunLike | Surface | Landscape
"""What can be shown: a run, the path of a PLY file, a Surface, or what was opened of them."""


def load(source: Source, *, name: str | None = None, height: str = "auto") -> Landscape:
    """Open a run (its surface `name`, left out: the latest), a PLY file or a Surface.

    Raises
    ------
    RunError, SurfaceError, PlyError
        it is neither, or there is nothing to draw in it.
    """
    if isinstance(source, Landscape):
        return source
    if isinstance(source, Surface):
        source = source.so_far()
        return Landscape(_mesh(source, height), source, _title(source), height)
    path = FilePath(str(source))
    if path.is_file():
        found = read_ply(path)
        if isinstance(found, Mesh):
            return Landscape(found, None, path.name)
        return Landscape(_mesh(found, height), found, path.name, height)
    surface = Surface.open(source, name).so_far()
    root = open_run(source)
    curvature = Curvature.open(root) if curvatures.names(root) else None
    return Landscape(_mesh(surface, height), surface, f"{label_of(source)} · {surface.name}", height, curvature)
