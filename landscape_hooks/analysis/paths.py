"""Paths: the trajectories as a surface's plane sees them; their losses are computed and committed as those of the grid.

In: projected snapshots, a PlaneLoss, an engine. Out: the paths of a stored surface: at each snapshot its true loss, and
the loss that the plane shows at its projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.analysis.commits import Advance, committable
from landscape_hooks.evaluation.engines import Engine
from landscape_hooks.evaluation.evaluate import evaluate
from landscape_hooks.evaluation.plane_loss import Floats, PlaneLoss
from landscape_hooks.surface.surface import Path, Surface
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.trajectory.trajectory import Trajectory


class Paths:
    """The paths of a surface that is being computed.

    Parameters
    ----------
    root, writer
        the run, and the surface in it. What the surface has of these paths already is gone on with.
    runs
        the trajectories.
    coordinates, distance
        (T, 2) and (T,) of their snapshots, run after run.
    """

    def __init__(
        self, root: zarr.Group, writer: SurfaceWriter, runs: Sequence[Trajectory], coordinates: Floats, distance: Floats
    ) -> None:
        self._writer, self._runs = writer, runs
        ends = np.cumsum([len(run) for run in runs], dtype=int)
        self._paths = [
            _projected(run, coordinates[end - len(run) : end], distance[end - len(run) : end])
            for run, end in zip(runs, ends, strict=True)
        ]
        stored = Surface.open(root, writer.name).paths if writer.attrs.get("path_count") else ()
        for number, (path, known) in enumerate(zip(self._paths, stored, strict=False)):
            if _same(path, known):
                self._paths[number] = known
        writer.write_paths(root, self._paths)

    def __len__(self) -> int:
        """Number of snapshots of the longest path."""
        return max(map(len, self._paths), default=0)

    @property
    def done(self) -> int:
        """Number of evaluations that are stored."""
        both = [path.evaluated for path in self._paths if path.evaluated is not None]
        one = [path.loss[~path.evaluated] for path in self._paths if path.evaluated is not None]
        return sum(2 * int(each.sum()) for each in both) + sum(int((~np.isnan(each)).sum()) for each in one)

    def compute(self, loss: PlaneLoss, engine: Engine, advance: Advance, *, every: int = 1) -> None:
        """Compute and commit the losses of every `every`-th snapshot and of the last one, where they are lacking."""
        for number, (path, run) in enumerate(zip(self._paths, self._runs, strict=True)):
            wanted = np.zeros(len(path), dtype=bool)
            wanted[::every] = wanted[-1:] = True
            assert path.evaluated is not None
            if (rows := np.flatnonzero(wanted & ~path.evaluated)).size:
                self._compute(number, run, rows, loss, engine, advance)

    def _compute(
        self, number: int, run: Trajectory, rows: NDArray[np.intp], loss: PlaneLoss, engine: Engine, advance: Advance
    ) -> None:
        """Both losses of the snapshots `rows` of a path."""
        path = self._paths[number]
        assert path.evaluated is not None
        lacking = rows[np.isnan(path.loss[rows])]  # an interrupted analysis has some of them; NaN is computed again
        for tile in committable(engine.snapshots(loss, run, lacking.tolist()), advance):
            where = lacking[tile.index]
            path.loss[where], path.loss_stderr[where] = tile.loss, tile.stderr
            self._writer.write_path(number, path, "loss", "loss_stderr")
        for tile in committable(evaluate(loss, path.coordinates[rows], engine=engine), advance):
            path.plane_loss[rows[tile.index]], path.evaluated[rows[tile.index]] = tile.loss, True
            self._writer.write_path(number, path, "plane_loss", "evaluated")


def _projected(run: Trajectory, coordinates: Floats, distance: Floats) -> Path:
    """The path of a run before its losses are known."""
    count = len(run)
    rates = np.asarray(run.learning_rates, dtype=float).reshape(count, -1)
    loss, plane_loss, stderr = (np.full(count, np.nan) for _ in range(3))
    return Path(
        coordinates=coordinates,
        step=np.asarray(run.steps),
        loss=loss,
        plane_loss=plane_loss,
        distance=distance,
        epoch=np.asarray(run.epochs, dtype=float),
        learning_rate=rates[:, 0] if rates.shape[1] else np.full(count, np.nan),
        loss_stderr=stderr,
        label=run.label,
        evaluated=np.zeros(count, dtype=bool),
    )


def _same(path: Path, known: Path) -> bool:
    """Whether a stored path is of the same snapshots at the same places, and says which losses it has."""
    return known.evaluated is not None and all(
        np.array_equal(getattr(path, key), getattr(known, key)) for key in ("step", "coordinates", "distance")
    )
