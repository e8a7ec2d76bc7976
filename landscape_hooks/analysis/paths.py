"""Paths: the trajectories as a surface's plane sees them; their losses are computed and committed as those of the grid.

In: projected snapshots, a PlaneLoss, an engine. Out: the paths of a stored surface: at each snapshot its true loss, and
the loss that the plane shows at its projection. The same of the marks, the named snapshots beside the paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.analysis.commits import Advance, committable
from landscape_hooks.evaluation.engines import Engine
from landscape_hooks.evaluation.evaluate import evaluate
from landscape_hooks.evaluation.plane_loss import Floats, PlaneLoss
from landscape_hooks.machine import threads
from landscape_hooks.plane.moments import project_vector
from landscape_hooks.store import checked
from landscape_hooks.surface.marks import MarkedPoint, read_points
from landscape_hooks.surface.surface import Path, Surface
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.trajectory.trajectory import Snapshot, Trajectory


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


class Marks:
    """The marks of the runs of a surface that is being computed. They move neither the plane nor the grid.

    Parameters
    ----------
    root, writer
        the run, and the surface in it, which has its plane and its paths. A mark that it has already stays; one that
        the runs do not have any more goes.
    runs
        the trajectories.

    Attributes
    ----------
    done
        number of evaluations that were stored before.
    lacking
        number of marks that are not stored yet.
    """

    def __init__(self, root: zarr.Group, writer: SurfaceWriter, runs: Sequence[Trajectory]) -> None:
        self._writer, self._runs = writer, [run.marks for run in runs]
        group = checked.group(root, f"surfaces/{writer.name}")
        stored = {(mark.run, mark.name): mark for mark in read_points(group, len(runs))}
        lacking, self.done = [], 0
        for place, snapshot in self._snapshots():
            known = stored.pop(place, None)
            if known is not None and (known.step, known.wall_time) == (snapshot.step, snapshot.wall_time):
                self.done += 2 if known.finite else 0
            else:
                lacking.append(_placed(group, *place, snapshot))
        for gone in stored.values():
            writer.remove_mark(gone)
        for mark in lacking:
            if not mark.finite:
                writer.write_mark(mark)
        self._lacking = [mark for mark in lacking if mark.finite]
        self.lacking = len(self._lacking)

    def __len__(self) -> int:
        """Number of evaluations that the marks take together."""
        return self.done + 2 * len(self._lacking)

    def _snapshots(self) -> Iterator[tuple[tuple[int, str], Snapshot]]:
        for run, marks in enumerate(self._runs):
            for name in marks:
                yield (run, name), marks[name]

    def compute(self, loss: PlaneLoss, engine: Engine, advance: Advance) -> None:
        """Compute and commit both losses of the marks, where they are lacking.

        The loss of a mark itself is computed here: workers of the engine know the snapshots of the path only.
        """
        where = np.array([mark.coordinates for mark in self._lacking]).reshape(-1, 2)
        if not len(where):
            return
        for tile in committable(evaluate(loss, where, engine=engine), advance):
            for index, plane_loss in zip(tile.index, tile.loss, strict=True):
                mark = self._lacking[index]
                snapshot = self._runs[mark.run][mark.name]
                with threads(loss.plan.threads):
                    own = loss.of_snapshot(snapshot.weights, snapshot.buffers)
                mark = replace(mark, loss=own.mean, loss_stderr=own.stderr, plane_loss=float(plane_loss))
                self._writer.write_mark(mark)
                self.lacking -= 1
                advance(1)


def _placed(group: zarr.Group, run: int, name: str, snapshot: Snapshot) -> MarkedPoint:
    """A mark before its losses are known."""
    coordinates, distance = np.full(2, np.nan), np.nan
    if np.isfinite(snapshot.weights).all():
        coordinates, distance = project_vector(group, snapshot.weights)
    return MarkedPoint(
        name=name, run=run, coordinates=coordinates, distance=distance, loss=np.nan, plane_loss=np.nan,
        step=snapshot.step, epoch=snapshot.epoch, wall_time=snapshot.wall_time,
    )  # fmt: skip
