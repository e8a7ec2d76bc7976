"""analyze: the recipe, as a function of options. Trajectory and objective in, a Surface in the run out.

Every step is a room of its own: directions/ -> plane.py -> grid.py -> evaluate.py -> surface.py; report.py says
in words what came out.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks import calibration, engines, gram, report
from landscape_hooks import store as stores
from landscape_hooks.directions import NAMES, Directions
from landscape_hooks.errors import ObjectiveError, PlaneError
from landscape_hooks.evaluate import POLICIES, PlaneLoss, Tile, buffer_directions, evaluate, evaluate_path
from landscape_hooks.grid import Grid, parse_extent, parse_size
from landscape_hooks.plan import Plan
from landscape_hooks.plane import Plane
from landscape_hooks.surface import Path, Surface, SurfaceWriter, check_name, names
from landscape_hooks.version import __version__

COMMIT_SECONDS = 1.0
"""Finished points are committed to the store at least this often: what a kill can cost."""


def analyze(
    store: Any,
    *,
    directions: str = "pca",
    size: int | str | Sequence[int] = 25,
    extent: str | Sequence[float] = "auto",
    batch_norm: str | None = None,
    samples: int | None = None,
    objective: Any = None,
    data: Any = None,
    seed: int = 0,
    name: str | None = None,
    engine: str = "local",
    solver: str = "auto",
    components: Sequence[int] = (0, 1),
    norm: str = "filter",
    device: Any = None,
    progress: bool = True,
    fresh: bool = False,
    workers: int | None = None,
    tune: bool = True,
    precision: str = "float32",
) -> Surface:
    """Draw the loss surface that a recorded run descended; store it in the run and return it.

    Parameters
    ----------
    store
        the run: a path, URL, Zarr store or group.
    directions
        the plane: "pca" (two principal components of the trajectory) or "random" (filter-normalised).
    size
        points of the grid: a number, a pair (A, B), or "AxB".
    extent
        (a0, a1, b0, b1) in multiples of the directions, or "auto": covers the path (`Grid.covering`).
    batch_norm
        "batch", "fixed", "interpolate" or "recalibrate" (see evaluate.PlaneLoss), for grid and path alike. Left out:
        "batch" where the model has running statistics.
    samples
        use only the first so many probe samples.
    objective
        an `Objective`, or "module:function" that returns one; left out, the one stored in the run.
    data
        other probe data, or "module:function" that returns it.
    seed
        of random directions.
    name
        of the surface in the run; left out, named after the directions.
    engine
        where points are computed: "local" or "ray".
    solver, components
        of the principal components: see directions/pca.py.
    norm
        of random directions: see directions/random.py.
    device
        where the loss is computed, as torch spells it; left out, on the GPU where there is one.
    progress
        show a bar with the time left on the standard error stream.
    fresh
        compute anew what a stored surface of the same definition already has.
    workers
        processes; left out, as many as pay.
    tune
        try what is fastest here first (calibration.py); else the plain loop over the recorded batches.
    precision
        "float32" (the model's own types) or "bfloat16" (autocast; faster, and coarser).

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
    size, wanted = parse_size(size), parse_extent(extent)
    _check_names(directions, name)
    run_engine = engines.get(engine)
    root, trajectory = _open(store)
    target = resolve_objective(root, objective, data, samples)
    _check_fits(trajectory, target)
    policy = _policy(batch_norm, target)
    found = _directions(root, trajectory, directions, solver=solver, components=components, norm=norm, seed=seed)
    plane = Plane(found.origin, found.vectors)
    moments = plane.moments(trajectory)
    coordinates, _ = moments.solve()
    scale = np.sqrt(np.diag(moments.gram))
    grid = (
        Grid.spanning(wanted, size)
        if wanted is not None
        else Grid.covering(coordinates, size, scale=scale, least=found.least)
    )
    device = _device(device)
    loss = _plane_loss(target.to(device), plane.to(device), trajectory, policy, found)
    name = name or directions
    attrs = {
        "directions": directions,
        "labels": list(found.labels),
        "normalization": found.normalization,
        "centring": found.centring,
        "origin": "final snapshot",
        "origin_step": int(trajectory.steps[-1]),
        "batch_norm": policy,
        "samples": int(target.samples),
        "data_digest": target.digest,
        "seed": int(seed),
        "extent": grid.extent,
        "extent_rule": "given" if wanted is not None else "covers the path",
        "solver": found.attrs.get("solver", ""),
        "engine": engine,
        "device": str(device),
        "precision": precision,
        "trajectory_digest": _digest_of(trajectory),
        "direction_attrs": found.attrs,
        "versions": _versions(),
    }
    arrays = {
        "origin": found.origin,
        "origin_buffers": np.asarray(trajectory[len(trajectory) - 1].buffers),
        "directions": found.vectors,
        "explained_variance_ratio": moments.explained_variance_ratio(),
        "spectrum": found.spectrum,
    }
    count = grid.alpha.size * grid.beta.size + 2 * len(trajectory)
    writer, plan = _begin(
        root, name, grid, attrs, arrays, fresh=fresh, plan=lambda: _plan(loss, count, workers, tune, precision)
    )
    loss = plan.apply(loss)
    origin_loss = loss.check_repeatable()
    with _bar(progress, count, name) as tick:
        _fill(writer, grid, loss, run_engine, tick)
        path = evaluate_path(loss, trajectory, label=_label(trajectory, store), engine=run_engine, tick=tick)
    writer.write_paths(root, [path])
    surface = _read(root, name)
    _check_not_all_nan(surface)
    writer.finish(root, {"origin_loss": origin_loss, "report": [*report.sentences(surface), plan.sentence()]})
    return _read(root, name)


# -- the run and its objective ------------------------------------------------------------------------------
def _open(store: Any) -> tuple[Any, Any]:
    from landscape_hooks.trajectory import Trajectory

    root = stores.open_run(store, mode="r+")
    return root, Trajectory.open(store)


def resolve_objective(root: Any, objective: Any, data: Any, samples: int | None) -> Any:
    """The Objective to use: given, named by an import string, or the run's own; over other data where given."""
    from landscape_hooks.objective import Objective

    if isinstance(objective, str):
        objective = import_string(objective)
    if objective is None:
        objective = Objective.load(root)
    elif callable(objective) and not isinstance(objective, Objective) and not hasattr(objective, "evaluate"):
        objective = objective()
    if not hasattr(objective, "evaluate"):
        raise ObjectiveError(
            f"Found an objective of type {type(objective).__name__}",
            expected="a landscape_hooks.Objective, or a function without arguments that returns one",
        )
    if data is not None:
        data = import_string(data) if isinstance(data, str) else data
        data = data() if callable(data) and not hasattr(data, "__iter__") else data
        objective = objective.with_data(data, samples or objective.samples)
    elif samples is not None and samples < objective.samples:
        objective = objective.head(samples)
    return objective


def import_string(text: str) -> Any:
    """The object that "module:name" means; modules of the working directory count.

    Raises
    ------
    ObjectiveError
        no such module, no such name in it, or the text is of another form.
    """
    import importlib
    import os
    import sys

    module, _, attribute = text.partition(":")
    if not module or not attribute:
        raise ObjectiveError(f"Found '{text}'", expected="module:function, like train:make_objective")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ObjectiveError(
            f"'{text}' cannot be imported ({error})", mend="Run where the module lies, or put it on PYTHONPATH"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    return found


def _check_fits(trajectory: Any, objective: Any) -> None:
    """The objective's model has the run's parameters and buffers."""
    trajectory.layout.check(objective.layout)
    trajectory.buffer_layout.check(objective.buffer_layout)


def _policy(batch_norm: str | None, objective: Any) -> str:
    """The BatchNorm policy; "none" where there is nothing to choose."""
    if batch_norm is not None and batch_norm not in POLICIES:
        raise ObjectiveError(
            f"Found the BatchNorm policy '{batch_norm}'", expected=f"one of {', '.join(list(POLICIES)[:-1])}"
        )
    return (batch_norm or "batch") if objective.has_running_statistics else "none"


def _check_names(directions: str, name: str | None) -> None:
    if directions not in NAMES:
        raise PlaneError(f"Found the directions '{directions}'", expected=f"one of {', '.join(NAMES)}")
    if name is not None:
        check_name(name)


def _device(device: Any) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ObjectiveError(
            f"The device '{device}' cannot be used ({str(error).splitlines()[0]})",
            expected="a device that torch sees here, like cpu or cuda",
        ) from error


# -- the plane ----------------------------------------------------------------------------------------------
def _directions(
    root: Any, trajectory: Any, kind: str, *, solver: str, components: Sequence[int], norm: str, seed: int
) -> Directions:
    from landscape_hooks.directions import pca, random

    if kind == "pca":
        pca.check(trajectory, components, solver)
        large = solver == "incremental" or (solver == "auto" and len(trajectory) >= pca.LARGE)
        known = None if large else gram.stored(root, trajectory)
        return pca.directions(trajectory, components=components, solver=solver, gram=known)
    if kind == "random":
        return random.directions(gram.last_weights(trajectory), trajectory.layout, seed=seed, norm=norm)
    raise PlaneError(f"Found the directions '{kind}'", expected="pca or random")


def _plane_loss(objective: Any, plane: Plane, trajectory: Any, policy: str, found: Directions) -> PlaneLoss:
    moved = None
    if policy == "interpolate" and found.coefficients is not None:
        moved = buffer_directions(trajectory, found.coefficients)
    return PlaneLoss(objective, plane, trajectory[len(trajectory) - 1].buffers, policy, moved)


# -- the stored surface -------------------------------------------------------------------------------------
def _begin(
    root: Any,
    name: str,
    grid: Grid,
    attrs: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    *,
    fresh: bool,
    plan: Callable[[], Plan],
) -> tuple[SurfaceWriter, Plan]:
    """Start the surface, or go on with one that is defined by exactly the same, in the way it was begun."""
    definition = _definition(grid, attrs, arrays)
    if not fresh and name in names(root):
        stored = dict(root[f"surfaces/{name}"].attrs)
        if stored.get("definition") == definition:
            return SurfaceWriter.resume(root, name), Plan(**stored["plan"])
    chosen = plan()
    attrs = {**attrs, "definition": definition, "plan": chosen.to_json()}
    return SurfaceWriter.create(root, name, grid.alpha, grid.beta, attrs, arrays), chosen


def _plan(loss: PlaneLoss, count: int, workers: int | None, tune: bool, precision: str) -> Plan:
    if workers is not None and workers < 1:
        raise ObjectiveError(f"Found workers={workers}", expected="at least 1")
    if precision not in ("float32", "bfloat16"):
        raise ObjectiveError(f"Found the precision '{precision}'", expected="float32 or bfloat16")
    if not tune:
        return calibration.plain(loss, workers=workers or 1, precision=precision)
    return calibration.choose(loss, count, workers=workers, precision=precision)


def _definition(grid: Grid, attrs: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of everything that the values of a surface depend on."""
    total = hashlib.sha256(json.dumps(attrs, sort_keys=True, default=str).encode())
    for array in (grid.alpha, grid.beta, *arrays.values()):
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _fill(writer: SurfaceWriter, grid: Grid, loss: PlaneLoss, engine: Any, tick: Callable[[int], None]) -> None:
    """Evaluate what the surface lacks, committing as it goes."""
    todo = np.flatnonzero(~writer.evaluated.ravel())
    tick(writer.evaluated.size - len(todo))
    for tile in _committable(evaluate(loss, grid.points(todo), engine=engine), tick):
        writer.write(todo[tile.index], tile.loss, tile.stderr)


def _committable(tiles: Iterable[Tile], tick: Callable[[int], None]) -> Iterator[Tile]:
    """Join finished tiles into one commit every COMMIT_SECONDS; an interruption commits what is there."""
    waiting: list[Tile] = []
    last = time.monotonic()
    try:
        for tile in tiles:
            waiting.append(tile)
            tick(len(tile.index))
            if time.monotonic() - last >= COMMIT_SECONDS:
                ready, waiting = waiting, []
                yield _joined(ready)
                last = time.monotonic()
    except KeyboardInterrupt:
        if waiting:
            yield _joined(waiting)
        raise
    if waiting:
        yield _joined(waiting)


def _joined(tiles: list[Tile]) -> Tile:
    return Tile(
        np.concatenate([t.index for t in tiles]),
        np.concatenate([t.loss for t in tiles]),
        np.concatenate([t.stderr for t in tiles]),
    )


def _read(root: Any, name: str) -> Surface:
    return Surface.open(root, name)


def _check_not_all_nan(surface: Surface) -> None:
    if np.isnan(surface.loss).all() and all(np.isnan(p.loss).all() for p in surface.paths):
        raise ObjectiveError(
            f"The loss is NaN at all {surface.loss.size} points of the grid and at every snapshot",
            expected="a loss that is finite somewhere",
            mend="Check the probe data and the objective for NaN; landscape-hooks info RUN shows the recorded losses",
        )


def _label(trajectory: Any, store: Any) -> str:
    return str(getattr(trajectory, "label", "")) or stores.label_of(store)


def _digest_of(trajectory: Any) -> str:
    """SHA-256 of which snapshots the trajectory has: their steps and times."""
    total = hashlib.sha256(np.ascontiguousarray(trajectory.steps, dtype=np.int64).data)
    total.update(np.ascontiguousarray(trajectory.wall_times, dtype=np.float64).data)
    return total.hexdigest()


def _versions() -> dict[str, str]:
    import sklearn
    import zarr

    return {
        "landscape_hooks": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "zarr": zarr.__version__,
    }


class _bar:
    """A progress bar over evaluations, with the time left; called with the number that is done."""

    def __init__(self, shown: bool, total: int, name: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=f"surface '{name}'", unit="loss", disable=not shown, smoothing=0.05)

    def __enter__(self) -> Callable[[int], Any]:
        return self._bar.update

    def __exit__(self, *error: Any) -> None:
        self._bar.close()


__all__ = ["Path", "analyze"]
