"""analyze: the recipe, as a function of options. Trajectory and objective in, a Surface in the run out.

Every step is a room of its own: sources.py -> directions/ -> plane.py -> grid.py -> calibration.py -> evaluate.py ->
surface.py; report.py says in words what came out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from landscape_hooks.analysis import filling
from landscape_hooks.analysis.frame import _directions, _grid, _moments, parse_directions
from landscape_hooks.analysis.versions import versions
from landscape_hooks.errors import LandscapeError, ObjectiveError, PlaneError
from landscape_hooks.evaluation import calibration, engines
from landscape_hooks.evaluation.engines import Local, Ray
from landscape_hooks.evaluation.evaluate import check_repeatable, evaluate, evaluate_path
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import POLICIES, PlaneLoss, buffer_directions, moving_buffers
from landscape_hooks.evaluation.sources import (
    Sources,
    check_fits,
    check_same_objective,
    named_metric,
    open_runs,
    resolve_objective,
)
from landscape_hooks.machine import threads
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.directions import Directions
from landscape_hooks.plane.directions.hessian import Hessian
from landscape_hooks.plane.directions.pca import PCA
from landscape_hooks.plane.directions.points import Points
from landscape_hooks.plane.directions.random import Random
from landscape_hooks.plane.grid import Grid, parse_extent, parse_size
from landscape_hooks.plane.plane import Plane
from landscape_hooks.plane.stored_plane import stored_plane
from landscape_hooks.store.blocks import Blocks
from landscape_hooks.surface import report
from landscape_hooks.surface.surface import Surface, check_name
from landscape_hooks.trajectory.joined import Joined, digest_of, origin_row
from landscape_hooks.trajectory.selection import Snapshots


def analyze(
    store: Any,
    *more: Any,
    directions: str | PCA | Random | Hessian | Points = "pca",
    size: int | str | Sequence[int] = 25,
    extent: str | Sequence[float] = "auto",
    batch_norm: str | None = None,
    objective: Any = None,
    data: Any = None,
    samples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    engine: str | Local | Ray = "local",
    metrics: Sequence[str] = (),
    adaptive: float | None = None,
    part: str | None = None,
    fresh: bool = False,
    progress: bool = True,
    snapshots: Snapshots | None = None,
) -> Surface:
    """Draw the loss surface that a recorded run descended; store it in the run and return it.

    Parameters
    ----------
    store
        the run: a path, URL, Zarr store or group.
    more
        further runs of the same model and objective: their paths are shown on the same plane. The surface is stored
        in the first run, whose final snapshot is the origin.
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
        use only the first so many probe samples.
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
        evaluate only where interpolation errs by more than this (relative); see adaptive.py.
    part
        "k/n": compute the k-th of n parts and stop. The same call without it joins the parts that are there and
        computes the rest.
    fresh
        compute anew what a stored surface of the same definition already has.
    progress
        show a bar with the time left on the standard error stream.
    snapshots
        which snapshots count for the plane, the path and the extent, as `Snapshots(start, stop, last, every, only)`;
        left out, all of them.

    Returns
    -------
    Surface
        as stored. An interrupted analysis goes on where it stopped when it is asked for again, and its result is
        the same bit for bit.

    Raises
    ------
    LandscapeError
        what the run, the objective or the options lack, and what mends it.
    """
    shape, wanted = parse_size(size), parse_extent(extent)
    share, line = filling.parse_part(part), shape[1] == 1
    chosen, options, snapshots = parse_directions(directions), engines.parse_engine(engine), snapshots or Snapshots()
    kind = str(chosen.attrs["directions"])
    _check(name, adaptive, share, samples, seed, snapshots)
    root, joined = open_runs([store, *more])
    sources = partial(Sources.of, [store, *more], joined, objective, data, samples)
    with engines.start(options, sources, joined) as run_engine:
        joined = joined.select([snapshots.places(run.steps, run.label) for run in joined.parts])
        streamed = any(run.sharded for run in joined.parts) if options.stream is None else options.stream
        target = resolve_objective(root, objective, data, samples)
        target = target.hollow() if streamed and hasattr(target, "hollow") else target
        check_fits(joined, target)
        asked = {m.rpartition(":")[2]: (m, named_metric(target, m)) for m in metrics}
        if objective is None and data is None and samples is None:
            check_same_objective(joined, target.digest)
        policy = _policy(batch_norm, target)
        where = run_engine.device(options.device)
        here = where if run_engine.THREADS is None else torch.device("cpu")
        found, known = _directions(
            root, joined, target, chosen, policy, seed=seed, line=line, keep=share is None and not snapshots.attrs,
            blocks=run_engine.stretches, stream=streamed,
        )  # fmt: skip
        origin = origin_row(joined) if found.origin_row is None else found.origin_row
        plane: Any = None if isinstance(found.vectors, Blocks) else Plane(found.origin, found.vectors)
        moments = _moments(joined, plane, found, known, origin, run_engine.stretches)
        coordinates, distance = moments.solve()
        grid = _grid(wanted, shape, np.concatenate([coordinates, found.marks]), moments, found)
        loss = _plane_loss(target.to(here), None if streamed else plane.to(here), joined, policy, found, origin)
        attrs = {
            **_definition(kind, found, joined, origin, target, policy, grid),
            "extent_rule": "given" if wanted is not None else "covers the path",
            "objective": _source(objective),
            "data": _source(data),
            "seed": int(seed),
            **options.attrs,
            "device": str(where),
            "line": line,
            "snapshots": snapshots.attrs,
            "adaptive": adaptive,
            "moving_buffers": moving_buffers(target, joined.parts),
        }
        vectors = {"origin": found.origin, "directions": found.vectors}
        others = {
            "origin_buffers": loss.buffers.cpu().numpy(),
            "explained_variance_ratio": moments.explained_variance_ratio(),
            "spectrum": found.spectrum,
        }
        _check_computable(loss, joined, origin, run_engine)
        count = grid.alpha.size * grid.beta.size + 2 * len(joined)
        writer, plan, resumed = filling.begin(
            root,
            name or ("line" if line else kind),
            grid,
            attrs,
            {**vectors, **others},
            # combinations of snapshots are defined by their coefficients: the last bits of the vectors depend on the
            # processor that computed them, and those that are stored count
            defining={**others, **(vectors if found.coefficients is None else {"coefficients": found.coefficients})},
            fresh=fresh,
            part=share,
            plan=lambda: _plan(loss, count, options, run_engine, where),
        )
        if streamed or resumed:
            plane = stored_plane(root, writer.name, streamed)
        loss = plan.apply(loss.on(plane.to(here), writer.name))
        origin_loss = check_repeatable(loss, run_engine)
        doubts = _doubts(target, joined, origin)
        with filling.Bar(progress, count, writer.name) as tick:
            told = filling.fill(writer, grid, loss, run_engine, tick, adaptive=adaptive, part=share)
            if share is not None:
                return Surface.open(root, writer.name)
            for label, (m, other) in asked.items():
                beside = loss.computed(plan.tune(other.to(here)), plan, metric=m)
                filling.measure(writer, label, grid, beside, run_engine)
            paths = [
                evaluate_path(loss, run, coordinates[a:b], distance[a:b], label=run.label, engine=run_engine, tick=tick)
                for run, a, b in zip(joined.parts, joined.edges[:-1], joined.edges[1:], strict=True)
            ]
        coarser = _precision_cost(loss, target, grid, run_engine)
    writer.write_paths(root, paths)
    surface = Surface.open(root, writer.name)
    _check_not_all_nan(surface)
    beside = [f"{run.label}: {doubt.said}" for run in joined.parts[1:] for doubt in run.doubts]
    said = report.sentences(surface, beside) + report.clamped(loss.clamped(grid.points()), loss.clamped(coordinates))
    said += getattr(target, "attrs", {}).get("notes", [])  # batches that were left out, batches that are large
    said += doubts + told + coarser + [plan.sentence(run_engine.PROCESSES)]
    writer.finish(root, {"origin_loss": origin_loss, "report": said, **({"doubts": beside} if beside else {})})
    surface = Surface.open(root, writer.name)
    return surface


# -- options ------------------------------------------------------------------------------------------------
def _check(
    name: str | None,
    adaptive: float | None,
    share: filling.Part | None,
    samples: int | None,
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
            mend="Leave out --part, or --adaptive",
        )
    if samples is not None and samples < 1:
        raise ObjectiveError(f"Found samples={samples}", expected="at least 1")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise PlaneError(f"Found seed={seed!r}", expected="a whole number from 0 to 2⁶³ - 1")
    if not isinstance(snapshots, Snapshots):
        raise PlaneError(f"Found snapshots={snapshots!r}", expected="Snapshots(start, stop, last, every, only)")


def _check_computable(loss: PlaneLoss, joined: Joined, origin: int, engine: Any) -> None:
    """The loss can be computed at the origin, before anything stored is replaced."""
    run, place = joined.place(origin)
    try:
        list(engine.snapshots(loss, joined.parts[run], [place]))
    except LandscapeError:
        raise
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        raise ObjectiveError(
            f"The loss cannot be computed on the probe samples ({type(error).__name__}: {first})",
            expected="samples that the model and the criterion take",
            mend="Check --data, or the data and the criterion of --objective",
        ) from error


def _source(given: Any) -> str:
    """Where the objective or the data came from, for whoever verifies the surface."""
    return "of the run" if given is None else given if isinstance(given, str) else "given in the call"


def _policy(batch_norm: str | None, objective: Any) -> str:
    """The BatchNorm policy; "none" where there is nothing to choose."""
    if batch_norm is not None and batch_norm not in POLICIES:
        raise ObjectiveError(
            f"Found the BatchNorm policy '{batch_norm}'", expected=f"one of {', '.join(list(POLICIES)[:-1])}"
        )
    return (batch_norm or "batch") if objective.has_running_statistics else "none"


def _plan(loss: PlaneLoss, count: int, options: Local | Ray, engine: engines.Engine, where: torch.device) -> Plan:
    """What is tried out is tried here: on a cluster, a worker with its number of threads."""
    with threads(engine.THREADS or torch.get_num_threads()):
        workers = options.workers if engine.THREADS is None else 1
        if not options.tune or loss.plane is None or where.type != loss.device.type:
            plain = calibration.plain(loss, workers=workers or 1, precision=options.precision)
            return plain if where.type == "cpu" or not options.tune else replace(plain, tile=calibration.GPU_TILE)
        return calibration.choose(loss, count, workers=workers, precision=options.precision)


# -- the plane ----------------------------------------------------------------------------------------------


def _plane_loss(objective: Any, plane: Any, joined: Joined, policy: str, found: Directions, origin: int) -> PlaneLoss:
    run, place = joined.place(origin)
    buffers = joined.parts[run].buffers(slice(place, place + 1))[0]
    moved = None
    if policy == "interpolate" and found.coefficients is not None:
        moved = buffer_directions(joined, found.coefficients, buffers)
    return PlaneLoss(objective, plane, buffers, policy, moved)


# -- what is said of it -------------------------------------------------------------------------------------
def _definition(
    directions: str, found: Directions, joined: Joined, origin: int, objective: Any, policy: str, grid: Grid
) -> dict[str, Any]:
    """The attributes that define the picture."""
    run, place = joined.place(origin)
    label = joined.parts[run].label
    final = place == len(joined.parts[run]) - 1
    return {
        "directions": directions,
        "labels": list(found.labels),
        "normalization": found.normalization,
        "centring": found.centring,
        "direction_attrs": found.attrs,
        "solver": found.attrs.get("solver", ""),
        "origin": f"{'final snapshot' if final else f'snapshot {place}'} of {label or f'run {run}'}",
        "origin_step": int(joined.steps[origin]),
        "batch_norm": policy,
        "samples": int(objective.samples),
        "data_digest": objective.digest,
        "extent": grid.extent,
        "trajectory_digest": digest_of(joined),
        "versions": versions(),
    }


def _doubts(objective: Any, joined: Joined, origin: int) -> list[str]:
    """What the objective says of itself, at the weights of the origin."""
    if not isinstance(objective, Objective):
        return []
    run, place = joined.place(origin)
    snapshot = joined.parts[run][place]
    state = (torch.as_tensor(snapshot.weights), torch.as_tensor(snapshot.buffers))
    return objective.doubts(*(tensor.to(objective.device) for tensor in state))


def _precision_cost(loss: PlaneLoss, objective: Any, grid: Grid, engine: Any) -> list[str]:
    """What a coarser precision costs, measured at a few points."""
    if loss.plan.precision == "float32":
        return []
    exact = loss.computed(objective.to(loss.device), Plan())
    spots = grid.points()[:: max(1, grid.alpha.size * grid.beta.size // 5)][:5]
    found = np.empty((2, len(spots)))
    for row, each in zip(found, (loss, exact), strict=True):
        for tile in evaluate(each, spots, engine=engine):
            row[tile.index] = tile.loss
    coarse, true = found[:, np.isfinite(found).all(axis=0) & (found[1] != 0)]
    if not len(true):
        return [f"What {loss.plan.precision} changes could not be measured: no loss was finite and above 0."]
    error = np.abs(coarse / true - 1).max()
    return [f"{loss.plan.precision} changes the loss by up to {error:.1%} at {len(true)} points tried."]


def _check_not_all_nan(surface: Surface) -> None:
    if np.isnan(surface.loss).all() and all(np.isnan(p.loss).all() for p in surface.paths):
        raise ObjectiveError(
            f"The loss is NaN at all {surface.loss.size} points of the grid and at every snapshot",
            expected="a loss that is finite somewhere",
            mend="Check the probe data and the objective for NaN; landscape-hooks info RUN shows the recorded losses",
        )
