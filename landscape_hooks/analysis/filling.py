"""Filling: a surface in the run is begun or gone on with, and its missing points are computed and committed.

In: a grid, a PlaneLoss, an engine. Out: the surface's arrays in the run, complete; whatever is interrupted, what was
committed stays, and the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.analysis.adaptive import LEAST, Refinement
from landscape_hooks.analysis.commits import Advance, committable
from landscape_hooks.analysis.paths import Paths
from landscape_hooks.errors import PlaneError
from landscape_hooks.evaluation.engines import Engine
from landscape_hooks.evaluation.evaluate import evaluate
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.plane.grid import Grid
from landscape_hooks.plane.stored_plane import StoredPlane
from landscape_hooks.progress import Progress, in_words, say, text_of_bytes
from landscape_hooks.store import checked
from landscape_hooks.store.run import remove_group
from landscape_hooks.surface.definition import Definition
from landscape_hooks.surface.lattice import FIRST, levels
from landscape_hooks.surface.surface import Surface, names
from landscape_hooks.surface.writer import SurfaceWriter

LONG = 20.0
"""Seconds of work from which on it is said how to look on meanwhile."""

SOON = 5.0
"""Seconds that a grid may take to be computed in one go, and not coarse to fine."""

EVERY = (1, 4, 16)
"""Every how many-th snapshot is computed after the finest lattice, the second finest, and those before it."""

FEW = 12
"""Snapshots between the ends of a path whose losses a rough surface has, more or less."""

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
        if writer.attrs.get("report") and not writer.evaluated.all():
            writer.annotate({"report": []})  # it was of a part
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
    attrs = writer.attrs
    known = Plan.from_json(attrs.get("plan"))
    if known is None:
        known = choose()
        told = {} if math.isnan(known.seconds) else {"seconds_per_loss": known.seconds}
        writer.annotate({"plan": known.to_json(), **told})
        return known
    seconds = attrs.get("seconds_per_loss")
    return replace(known, seconds=float(seconds)) if isinstance(seconds, int | float) else known


@contextmanager
def nothing_left_behind(root: zarr.Group, writer: SurfaceWriter) -> Iterator[None]:
    """Where the work fails before a point of the grid is there, or is interrupted before any loss, the surface goes.

    So does one whose losses are all there and none of them finite: asked for again, it would fail again. Any other is
    gone on with by the same call.
    """
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the disk that refused may refuse this as well; the first trouble is the cause
            useless = writer.evaluated.all() and not np.isfinite(writer.losses()).any()
            interrupted = not isinstance(error, Exception) and _has_path(root, writer.name)
            if useless or not (writer.evaluated.any() or interrupted):
                remove_group(root, f"surfaces/{writer.name}")
        raise


def _has_path(root: zarr.Group, name: str) -> bool:
    """Whether a loss of a path of the surface is stored."""
    return any(np.isfinite(path.loss).any() for path in Surface.open(root, name).paths)


def fill(
    writer: SurfaceWriter,
    grid: Grid,
    loss: PlaneLoss,
    engine: Engine,
    advance: Advance,
    paths: Paths,
    *,
    adaptive: float | None = None,
    rough: bool = False,
) -> list[str]:
    """Compute what the surface lacks, committing as it goes; returns what is to be said of it.

    Coarse to fine, so that soon there is a picture: the paths' ends come first, then the lattices of the grid
    (lattice.py), with ever more of the snapshots between them. A `rough` adaptive surface begins with the coarsest of
    these lattices, and has the losses of a few snapshots only.
    """
    shape = writer.evaluated.shape
    in_one_go = loss.plan.seconds * writer.evaluated.size < SOON
    if not in_one_go:
        paths.compute(loss, engine, advance, every=max(len(paths), 1))
    if adaptive is not None:
        told = _fill_adaptively(writer, grid, loss, engine, advance, adaptive, FIRST if rough else LEAST)
        paths.compute(loss, engine, advance, every=max(1, len(paths) // FEW) if rough else 1)
        return told
    for points, every in [(np.arange(writer.evaluated.size), 1)] if in_one_go else coarse_to_fine(shape):
        _compute(writer, points[~writer.evaluated.ravel()[points]], grid, loss, engine, advance)
        paths.compute(loss, engine, advance, every=every)
    return []


def fill_part(
    writer: SurfaceWriter, grid: Grid, loss: PlaneLoss, engine: Engine, advance: Advance, share: Share
) -> None:
    """Compute a part of the grid."""
    mine = of_part(writer.evaluated.size, share)
    _compute(writer, mine[~writer.evaluated.ravel()[mine]], grid, loss, engine, advance)


def of_part(count: int, share: Share) -> NDArray[np.intp]:
    """Flat indices of the points of a part, of `count` points."""
    return np.arange(share[0] - 1, count, share[1])


def coarse_to_fine(shape: tuple[int, int]) -> list[tuple[NDArray[np.intp], int]]:
    """What is computed one after the other: flat indices of grid points, and then every how many-th snapshot."""
    lattices = levels(shape)
    every = [EVERY[min(left, len(EVERY) - 1)] for left in reversed(range(len(lattices)))]
    return [
        (np.concatenate([points for points, one in zip(lattices, every, strict=True) if one == stride]), stride)
        for stride in sorted(set(every), reverse=True)
    ]


def _fill_adaptively(
    writer: SurfaceWriter,
    grid: Grid,
    loss: PlaneLoss,
    engine: Engine,
    advance: Advance,
    tolerance: float,
    least: int,
) -> list[str]:
    """Coarse to fine; the decisions follow from what is evaluated, so that a resumed run makes the same ones."""
    while True:
        refinement = Refinement(writer.losses(), writer.evaluated, tolerance, least)
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
    for tile in committable(evaluate(loss, grid.points(todo), engine=engine), advance):
        writer.write(todo[tile.index], tile.loss, tile.stderr)


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
    """Progress over a surface's evaluations; before it, how much there is to do.

    Parameters
    ----------
    shown
        False says nothing.
    total, done
        number of evaluations, and how many of them are stored.
    writer
        of the surface.
    loss
        as it is computed.
    **said
        what `estimate` takes.
    """

    def __init__(
        self, shown: bool, total: int, done: int, writer: SurfaceWriter, loss: PlaneLoss, **said: Unpack[Said]
    ) -> None:
        if total > done:
            say(shown, estimate(total - done, loss, **said))
        super().__init__(shown, total, f"surface '{writer.name}'", "loss", done)


class Said(TypedDict):
    """What is known of the losses that are to be computed.

    Attributes
    ----------
    most
        whether fewer may be enough (an adaptive surface).
    beside
        values of metrics that are computed besides.
    cluster
        whether they are shared out among workers that the calibration does not know.
    """

    most: bool
    beside: int
    cluster: bool


def estimate(count: int, loss: PlaneLoss, *, most: bool, beside: int, cluster: bool) -> str:
    """What computing `count` losses takes, as text: seconds by the calibration, and memory of the weights."""
    plan, word = loss.plan, "Up to " if most else ""
    metrics = f" and {beside:,} values of metrics" if beside else ""
    said = f"{word}{count:,} losses{metrics} to compute over {loss.objective.samples:,} samples"
    seconds = plan.seconds * (count + beside)
    if not math.isnan(seconds):
        said += f", about {in_words(seconds)}" if seconds >= 1 else ", less than a second"
        said += " of one worker" if cluster else ""
    said += f"; {_memory(loss)}"
    if seconds > LONG:
        said += ". It is computed coarse to fine: `landscape-hooks view RUN --follow` shows what is there"
    return said + "."


def _memory(loss: PlaneLoss) -> str:
    """What is known of the memory: of the weights. What a network makes of its samples is not."""
    plan, plane = loss.plan, loss.plane
    weights = plane.size * plane.dtype.itemsize
    shared = 0 if isinstance(plane, StoredPlane) else 3 * weights
    total = text_of_bytes(shared + plan.workers * plan.stack * weights)
    who = "the process" if plan.workers == 1 else f"each of {plan.workers} processes"
    chunk = min(plan.tuning.chunk, loss.objective.samples)
    return f"{total} of memory for weights, and in {who} what the network makes of {chunk:,} samples at a time"
