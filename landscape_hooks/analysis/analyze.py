"""analyze: the recipe, as a function of options. Trajectory and objective in, a Surface in the run out.

open (subject.py) -> frame (frame.py: directions, projected paths, grid) -> fill (filling.py: the plane is stored, the
loss on it and along the paths (paths.py) is computed) -> report (report.py: what came out, in words).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import zarr

from landscape_hooks.analysis import filling
from landscape_hooks.analysis.alignment.barrier import PLACES, measured
from landscape_hooks.analysis.frame import Frame, parse_directions
from landscape_hooks.analysis.paths import Marks, Paths
from landscape_hooks.analysis.subject import Subject
from landscape_hooks.errors import ObjectiveError, PlaneError, RunError
from landscape_hooks.evaluation import calibration, engines
from landscape_hooks.evaluation.effort import Budget, Effort, UsedUp, parse_effort
from landscape_hooks.evaluation.engines import Engine, Local, Ray
from landscape_hooks.evaluation.evaluate import check_repeatable, evaluate
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.evaluation.sources import DataSource, ObjectiveLike, Sources, open_runs
from landscape_hooks.machine import threads
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.directions.hessian import Hessian
from landscape_hooks.plane.directions.pca import PCA
from landscape_hooks.plane.directions.points import Points
from landscape_hooks.plane.directions.random import Random
from landscape_hooks.plane.grid import Grid, parse_extent, parse_size
from landscape_hooks.plane.stored_plane import StoredPlane
from landscape_hooks.store.run import RunLike
from landscape_hooks.surface import report
from landscape_hooks.surface.surface import Surface, check_name
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.trajectory.selection import Snapshots


def analyze(
    *stores: RunLike,
    directions: str | PCA | Random | Hessian | Points = "pca",
    size: int | str | Sequence[int] = 25,
    extent: str | Sequence[float] = "auto",
    batch_norm: str | None = None,
    objective: ObjectiveLike | None = None,
    data: DataSource | None = None,
    samples: int | Literal["auto"] | None = None,
    seed: int = 0,
    name: str | None = None,
    engine: str | Local | Ray = "local",
    metrics: Sequence[str] = (),
    adaptive: float | None = None,
    part: str | None = None,
    fresh: bool = False,
    progress: bool = True,
    snapshots: Snapshots | None = None,
    effort: str | Effort | None = None,
) -> Surface:
    """Draw the loss surface that a recorded run descended; store it in the run and return it.

    Parameters
    ----------
    stores
        the run: a path, URL, Zarr store or group. Further runs of the same model and objective are shown on the same
        plane. The surface is stored in the first run, whose final snapshot is the origin.
    directions
        the plane: "pca" (two principal components of the trajectory, of all runs together), "random"
        (filter-normalised), "hessian" (top eigenvectors of the loss's Hessian), "points" (through three snapshots); or
        `PCA(components, solver)`, `Random(norm)`, `Hessian()`, `Points(points)`.
    size
        points of the grid: a number, a pair (A, B), or "AxB". (A, 1) is a line along the first direction.
    extent
        (a0, a1, b0, b1) in multiples of the directions, or "auto": covers the path (`Grid.covering`).
    batch_norm
        "batch", "fixed", "interpolate" or "recalibrate" (see evaluate.PlaneLoss), for grid and path alike. Left out:
        "batch" where the model has running statistics.
    objective
        an `Objective`, or "module:function" that returns one; left out, the one stored in the run.
    data
        other probe data, or "module:function" that returns it.
    samples
        use only the first so many probe samples. "auto": as many, drawn by `seed`, as the standard error needs for the
        contrast of the picture (evaluation/sampling.py). Left out: all of them.
    seed
        of random directions, and of the Hessian's first vector.
    name
        of the surface in the run; left out, named after the directions.
    engine
        where points are computed: "local" (this machine), or "ray" (a cluster; docs/scaling.md); or
        `Local(workers, device, precision, tune, stream)`, `Ray(address, workers, cpus, gpus, ...)`.
    metrics
        what else to compute at the evaluated points: "accuracy", or "module:function" that returns an Objective whose
        loss is the metric.
    adaptive
        evaluate only where interpolation errs by more than this (relative); see adaptive.py. Left out: as `effort`
        says.
    part
        "k/n": compute the k-th of n parts and stop. The same call without it joins the parts that are there and
        computes the rest.
    fresh
        compute anew what a stored surface of the same definition already has.
    progress
        say on the standard error stream how much there is to do, and how far it is: a bar, or lines in a file.
    snapshots
        which snapshots count for the plane, the path and the extent, and which tensors of them, as
        `Snapshots(start, stop, last, every, only, tensors, base)`; left out, all of them.
    effort
        "draft", "normal" or "fine", or `Effort(quality, budget)`: how much is computed, and how long that may take.

    Returns
    -------
    Surface
        as stored. An analysis that was interrupted, or whose budget was used up, goes on where it stopped when it is
        asked for again, and its result is the same bit for bit.

    Raises
    ------
    LandscapeError
        what the run, the objective or the options lack, and what mends it.
    """
    worth = parse_effort(effort)
    budget = Budget(worth.seconds)
    adaptive = worth.tolerance if adaptive is None else adaptive
    shape, extent_given, share = worth.shape(parse_size(size)), parse_extent(extent), filling.parse_part(part)
    chosen, options, snapshots = parse_directions(directions), engines.parse_engine(engine), snapshots or Snapshots()
    _check(name, adaptive, share, samples, seed, snapshots)
    alone = isinstance(options, Local) and len(options.devices()) == 1
    samples = worth.samples if samples is None and alone else samples
    if samples == "auto" and not alone:
        raise ObjectiveError(
            'Found samples="auto" on a cluster or several devices',
            expected="a number, which all workers know beforehand",
        )
    fixed = None if samples == "auto" else samples
    root, joined = open_runs(_given(stores), snapshots.base)
    sources = partial(Sources.of, stores, joined, objective, data, fixed, snapshots.base)
    with engines.start(options, sources, joined) as running:
        subject = Subject.open(
            root, joined, running, options, snapshots=snapshots, objective=objective, data=data, samples=fixed,
            batch_norm=batch_norm, metrics=metrics,
        )  # fmt: skip
        keep = share is None and not snapshots.attrs
        frame = Frame.of(subject, running, chosen, seed=seed, shape=shape, extent=extent_given, keep=keep)
        if samples == "auto":
            frame.subject = frame.subject.with_fewer_samples(running, frame.origin, seed)
        definition = frame.definition(str(options.attrs["engine"]), options.precision, seed, adaptive)
        arrays, defining = frame.arrays()
        name = name or ("line" if definition.line else definition.directions)
        writer = filling.begin(root, name, frame.grid, definition, arrays, defining=defining, fresh=fresh, share=share)
        del arrays, defining
        frame.release()
        with filling.nothing_left_behind(root, writer):
            work = _Work(root, writer, frame, running, options, budget, progress=progress, adaptive=adaptive,
                         rough=worth.rough)  # fmt: skip
            work.part(share) if share is not None else work.whole()
    return Surface.open(root, writer.name)


class _Work:
    """What is computed of a surface that was begun, and what is said of it."""

    def __init__(
        self, root: zarr.Group, writer: SurfaceWriter, frame: Frame, engine: Engine, options: Local | Ray,
        budget: Budget, *, progress: bool, adaptive: float | None, rough: bool,
    ) -> None:  # fmt: skip
        self._root, self._writer, self._frame, self._engine = root, writer, frame, engine
        self._budget, self._progress, self._adaptive, self._rough = budget, progress, adaptive, rough
        loss, count = frame.loss(writer.name), writer.evaluated.size + 2 * len(frame.subject.joined)
        self._plan = filling.settled_plan(writer, lambda: _plan(loss, count, options, engine, frame.subject.device))
        self._loss, self._count = self._plan.apply(loss), count
        self._origin_loss = check_repeatable(self._loss, engine)

    def part(self, share: filling.Share) -> None:
        """Compute a part of the grid, as far as the budget goes."""
        mine, done = filling.of_part(self._writer.evaluated.size, share), self._writer.evaluated.ravel()
        with self._bar(len(mine), int(done[mine].sum())) as tell, suppress(UsedUp):
            filling.fill_part(
                self._writer, self._frame.grid, self._loss, self._engine, self._budget.counting(tell), share
            )

    def whole(self) -> None:
        """Compute the surface, and finish it; where the budget is used up before, say how far it came."""
        writer, frame, loss, engine = self._writer, self._frame, self._loss, self._engine
        joined, objective = frame.subject.joined, frame.subject.objective
        paths = Paths(self._root, writer, joined.runs, frame.coordinates, frame.distance)
        marks = Marks(self._root, writer, joined.runs)
        try:
            done = int(writer.evaluated.sum()) + paths.done + marks.done
            with self._bar(self._count + len(marks), done) as tell:
                counting = self._budget.counting(tell)
                told = filling.fill(
                    writer, frame.grid, loss, engine, counting, paths, adaptive=self._adaptive, rough=self._rough
                )
                marks.compute(loss, engine, counting)
        except UsedUp:
            so_far = Surface.open(self._root, writer.name).so_far()
            if "so_far" in so_far.attrs or frame.subject.metrics or marks.lacking:
                writer.finish(self._root, {"origin_loss": self._origin_loss, "report": [report.used_up(so_far)]})
                return
            told = []  # it was the last loss
        for label, (metric, other) in frame.subject.metrics.items():
            measured = loss.computed(self._plan.tune(other.to(objective.device)), self._plan, metric=metric)
            filling.measure(writer, label, frame.grid, measured, engine)
        told += _precision_cost(loss, objective, frame.grid, engine)
        beside = [f"{run.label}: {doubt.said}" for run in joined.runs[1:] for doubt in run.doubts]
        doubts = [*beside, *_doubts_of_loss(frame)]
        surface = Surface.open(self._root, writer.name)
        said = _report(surface, frame, loss, doubts)
        if computed := surface.so_far().attrs.get("so_far"):
            said.append(f"This is a draft: the losses of the path are those of {computed}.")
        said += [*told, self._plan.sentence(engine.PROCESSES)]
        closing = {"origin_loss": self._origin_loss, "report": said, **({"doubts": doubts} if doubts else {})}
        writer.finish(self._root, closing)

    def _bar(self, total: int, done: int) -> filling.Bar:
        metrics = 0 if total < self._count else len(self._frame.subject.metrics)
        return filling.Bar(
            self._progress, total, done, self._writer, self._loss, most=self._adaptive is not None,
            beside=metrics * self._writer.evaluated.size, cluster=self._engine.PROCESSES is not None,
        )  # fmt: skip


# -- options ------------------------------------------------------------------------------------------------
def _given(stores: Sequence[RunLike]) -> Sequence[RunLike]:
    """The runs, of which there is one at least."""
    if not stores:
        raise RunError("Found no run", expected='the path of one, as in analyze("runs/sgd.zarr")')
    return stores


def _check(
    name: str | None,
    adaptive: float | None,
    share: filling.Share | None,
    samples: object,
    seed: int,
    snapshots: Snapshots,
) -> None:
    """The options that are no objects, which check themselves."""
    if name is not None:
        check_name(name)
    if adaptive is not None and not 0 < adaptive < 1:
        raise PlaneError(f"Found adaptive={adaptive:g}", expected="a relative error between 0 and 1, like 0.01")
    if adaptive is not None and share is not None:
        raise PlaneError(
            f"Found the part {share[0]}/{share[1]} of an adaptive surface",
            expected="one or the other: which points an adaptive surface evaluates follows from all before",
            mend="Leave out --part, or --adaptive and --quality",
        )
    if not (samples in (None, "auto") or (isinstance(samples, int | np.integer) and samples >= 1)):
        raise ObjectiveError(f"Found samples={samples}", expected='at least 1, or "auto"')
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise PlaneError(f"Found seed={seed!r}", expected="a whole number from 0 to 2⁶³ - 1")
    if not isinstance(snapshots, Snapshots):
        raise PlaneError(f"Found snapshots={snapshots!r}", expected="Snapshots(start, stop, last, every, ...)")


def _plan(loss: PlaneLoss, count: int, options: Local | Ray, engine: Engine, where: torch.device) -> Plan:
    """What is tried out is tried here: on a cluster, a worker with its number of threads."""
    with threads(engine.THREADS or torch.get_num_threads()):
        workers = options.workers if engine.THREADS is None else 1
        if not options.tune or isinstance(loss.plane, StoredPlane) or where.type != loss.device.type:
            plain = calibration.plain(loss, workers=workers or 1, precision=options.precision)
            return plain if where.type == "cpu" or not options.tune else replace(plain, tile=calibration.GPU_TILE)
        return calibration.choose(loss, count, workers=workers, precision=options.precision)


# -- what is said of it -------------------------------------------------------------------------------------
def _report(surface: Surface, frame: Frame, loss: PlaneLoss, doubts: Sequence[str]) -> list[str]:
    """The sentences on what the surface shows, what it hides and where it must not be trusted."""
    _check_not_all_nan(surface)
    clamped = report.clamped(loss.clamped(frame.grid.points()), loss.clamped(frame.coordinates))
    notes = frame.subject.objective.attrs.get("notes", [])  # batches that were left out, batches that are large
    said = [*report.sentences(surface, doubts), *clamped, *notes]
    return said + [sentence for each in frame.subject.alignments for sentence in each.said] + _barrier(frame)


def _barrier(frame: Frame) -> list[str]:
    """The barrier between the ends of two runs: on a line through them, and what is left where they are aligned.

    The statistics of one end are not those of the other: under the policy "fixed" nothing is said.
    """
    subject, points = frame.subject, frame.directions.attrs.get("points", [])
    runs = [(point["run"], point["step"]) for point in points]
    ends = [(number, int(run.steps[-1])) for number, run in enumerate(subject.joined.runs[:2])]
    through = frame.shape[1] == 1 and runs == ends and len(runs) == 2
    if subject.policy == "fixed" or not (through or subject.alignments):
        return []
    places, aligned = max(PLACES, frame.shape[0]) if through else PLACES, bool(subject.alignments)
    found = measured(
        subject.joined, subject.objective, subject.policy, points=places, progress=False, aligned=aligned
    )  # fmt: skip
    return [found.said]


def _doubts_of_loss(frame: Frame) -> list[str]:
    """What is in doubt of the mean over batches, and for parameters that the loss has beside the recorded ones."""
    objective, snapshot = frame.subject.objective, frame.subject.joined[frame.origin]
    state = [torch.as_tensor(array).to(objective.device) for array in (snapshot.weights, snapshot.buffers)]
    return objective.doubts(*state)


def _precision_cost(loss: PlaneLoss, objective: Objective, grid: Grid, engine: Engine) -> list[str]:
    """What a coarser precision costs, measured at a few points."""
    if loss.plan.tuning.precision == "float32":
        return []
    exact = loss.computed(objective, Plan())
    spots = grid.points()[:: max(1, grid.alpha.size * grid.beta.size // 5)][:5]
    found = np.empty((2, len(spots)))
    for row, each in zip(found, (loss, exact), strict=True):
        for tile in evaluate(each, spots, engine=engine):
            row[tile.index] = tile.loss
    coarse, true = found[:, np.isfinite(found).all(axis=0) & (found[1] != 0)]
    if not len(true):
        return [f"What {loss.plan.tuning.precision} changes could not be measured: no loss was finite and above 0."]
    error = np.abs(coarse / true - 1).max()
    return [f"{loss.plan.tuning.precision} changes the loss by up to {error:.1%} at {len(true)} points tried."]


def _check_not_all_nan(surface: Surface) -> None:
    if np.isnan(surface.loss).all() and all(np.isnan(p.loss).all() for p in surface.paths):
        raise ObjectiveError(
            f"The loss is NaN at all {surface.loss.size} points of the grid and at every snapshot",
            expected="a loss that is finite somewhere",
            mend="Check the probe data and the objective for NaN",
        )
