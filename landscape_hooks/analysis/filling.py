"""Filling: a surface in the run is begun or gone on with, and its missing points are computed and committed.

In: a grid, a PlaneLoss, an engine. Out: the surface's arrays in the run, complete; whatever is interrupted, what was
committed stays, and the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.analysis.adaptive import Refinement
from landscape_hooks.errors import PlaneError
from landscape_hooks.evaluation.engines import Engine
from landscape_hooks.evaluation.evaluate import Advance, evaluate
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss, Tile
from landscape_hooks.plane.grid import Grid
from landscape_hooks.progress import Progress
from landscape_hooks.store import checked
from landscape_hooks.store.run import remove_group
from landscape_hooks.surface.definition import Definition
from landscape_hooks.surface.surface import Surface, names
from landscape_hooks.surface.writer import SurfaceWriter

COMMIT_SECONDS = 1.0
"""Finished points are committed to the store at least this often: what a kill can cost."""

Share = tuple[int, int]
"""(k, n): the k-th of n parts of a surface."""


def begin(
    root: zarr.Group,
    name: str,
    grid: Grid,
    definition: Definition,
    arrays: Mapping[str, Any],
    *,
    defining: Mapping[str, NDArray[Any]],
    fresh: bool,
    share: Share | None,
) -> SurfaceWriter:
    """Start the surface, or go on with one that is defined by exactly the same; its plane is in the run afterwards.

    `defining` are the arrays that, with grid and definition, all values follow from.

    A part is a surface of its own (`NAME.part-k-of-n`) until the whole takes it over.
    """
    digest = _digest(grid, definition, defining)
    stored_name = name if share is None else f"{name}.part-{share[0]}-of-{share[1]}"
    if not fresh and _goes_on(root, stored_name, digest):
        writer = SurfaceWriter.resume(root, stored_name)
    else:
        attrs = {**definition.to_attrs(), "definition": digest}
        writer = SurfaceWriter.create(root, stored_name, grid.alpha, grid.beta, attrs, arrays)
    if share is None and not fresh:
        _take_over_parts(root, name, digest, writer)
    return writer


def _goes_on(root: zarr.Group, name: str, digest: str) -> bool:
    """Whether the stored surface has this definition, and says how what is there was computed."""
    if name not in names(root):
        return False
    attrs = checked.group(root, f"surfaces/{name}").attrs
    if attrs.get("definition") != digest:
        return False
    return Plan.from_json(attrs.get("plan")) is not None or not SurfaceWriter.resume(root, name).evaluated.any()


def settled_plan(writer: SurfaceWriter, choose: Callable[[], Plan]) -> Plan:
    """The plan by which the surface was begun; where none is stored yet, one that is chosen now and stored with it."""
    known = Plan.from_json(writer.attrs.get("plan"))
    if known is None:
        known = choose()
        writer.annotate({"plan": known.to_json()})
    return known


def fill(
    writer: SurfaceWriter,
    grid: Grid,
    loss: PlaneLoss,
    engine: Engine,
    advance: Advance,
    *,
    adaptive: float | None = None,
    share: Share | None = None,
) -> list[str]:
    """Compute what the surface lacks, committing as it goes; returns what is to be said of it."""
    if adaptive is not None:
        return _fill_adaptively(writer, grid, loss, engine, advance, adaptive)
    todo = np.flatnonzero(~writer.evaluated.ravel())
    if share is not None:
        todo = todo[todo % share[1] == share[0] - 1]
    else:
        advance(writer.evaluated.size - len(todo))
    _compute(writer, todo, grid, loss, engine, advance)
    return []


def _fill_adaptively(
    writer: SurfaceWriter, grid: Grid, loss: PlaneLoss, engine: Engine, advance: Advance, tolerance: float
) -> list[str]:
    """Coarse to fine; the decisions follow from what is evaluated, so that a resumed run makes the same ones."""
    while True:
        refinement = Refinement(writer.losses(), writer.evaluated, tolerance)
        todo = refinement.needed()
        if not len(todo):
            break
        _compute(writer, todo, grid, loss, engine, advance)
    done = refinement.filled()
    left = ~writer.evaluated
    writer.write_interpolated(done.loss, left, done.error)
    advance(int(left.sum()))
    share = f"{writer.evaluated.sum()} of {left.size} losses are evaluated, the others interpolated"
    if not len(done.judged):
        return [share + "."]
    median, high = np.median(done.judged), np.quantile(done.judged, 0.95)
    words = (
        f"{len(done.judged)} held-back points err by {median:.1g} at the median and {high:.1g} at the 95th percentile"
    )
    return [f"{share}; {words} (relative)."]


def measure(writer: SurfaceWriter, name: str, grid: Grid, metric: PlaneLoss, engine: Engine) -> None:
    """Compute a metric where the loss was evaluated, and store it."""
    where = np.flatnonzero(writer.evaluated.ravel())
    values = np.full(writer.evaluated.shape, np.nan)
    for tile in evaluate(metric, grid.points(where), engine=engine):
        values.ravel()[where[tile.index]] = tile.loss
    writer.write_metric(name, values)


def _compute(
    writer: SurfaceWriter,
    todo: NDArray[np.intp],
    grid: Grid,
    loss: PlaneLoss,
    engine: Engine,
    advance: Advance,
) -> None:
    for tile in _committable(evaluate(loss, grid.points(todo), engine=engine), advance):
        writer.write(todo[tile.index], tile.loss, tile.stderr)


def _committable(tiles: Iterable[Tile], advance: Advance) -> Iterator[Tile]:
    """Join finished tiles into one commit every COMMIT_SECONDS; an interruption commits what is there."""
    waiting: list[Tile] = []
    last = time.monotonic()
    try:
        for tile in tiles:
            waiting.append(tile)
            advance(len(tile.index))
            if time.monotonic() - last >= COMMIT_SECONDS:
                ready, waiting = waiting, []
                yield _one(ready)
                last = time.monotonic()
    except KeyboardInterrupt:
        if waiting:
            yield _one(waiting)
        raise
    if waiting:
        yield _one(waiting)


def _one(tiles: list[Tile]) -> Tile:
    return Tile(
        np.concatenate([t.index for t in tiles]),
        np.concatenate([t.loss for t in tiles]),
        np.concatenate([t.stderr for t in tiles]),
    )


# -- parts --------------------------------------------------------------------------------------------------
def parse_part(part: str | None) -> Share | None:
    """(k, n) of "k/n".

    Raises
    ------
    PlaneError
        anything else.
    """
    if part is None:
        return None
    try:
        k, n = (int(v) for v in part.split("/"))
        if not 1 <= k <= n <= 2**31:
            raise ValueError
    except ValueError as error:
        raise PlaneError(f"Found the part '{part}'", expected="k/n with 1 ≤ k ≤ n, like 1/4") from error
    return k, n


def _take_over_parts(root: zarr.Group, name: str, definition: str, writer: SurfaceWriter) -> None:
    """Copy what parts of the same definition have computed, and remove them once all of it is committed."""
    for other in names(root):
        group = checked.group(root, f"surfaces/{other}")
        if not other.startswith(f"{name}.part-") or group.attrs.get("definition") != definition:
            continue
        part = Surface.open(root, other)
        found = np.flatnonzero(part.evaluated.ravel() & ~writer.evaluated.ravel())
        if len(found):
            writer.write(found, part.loss.ravel()[found], part.loss_stderr.ravel()[found])
        remove_group(root, f"surfaces/{other}")


# -- what identifies a surface ------------------------------------------------------------------------------
def _digest(grid: Grid, definition: Definition, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of everything that the values of a surface depend on."""
    total = hashlib.sha256(definition.defining().encode())
    for array in (grid.alpha, grid.beta, *arrays.values()):
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


class Bar(Progress):
    """Progress over a surface's evaluations."""

    def __init__(self, shown: bool, total: int, name: str) -> None:
        super().__init__(shown, total, f"surface '{name}'", "loss")
