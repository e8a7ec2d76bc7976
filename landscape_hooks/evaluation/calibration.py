"""Calibration: the way of computing the loss that suits the model, and the processes that are fastest on this machine.

In: a PlaneLoss. Out: a Plan. The memory format, the samples computed together and the threads of a process change the
last digits. They follow from the model by a rule, and are taken where they give the loss of the plain loop. The
stopwatch chooses only what changes no digit: how many processes, and how many points each is handed at a time. So two
analyses on machines of one kind compute the same numbers, whatever else the machines are busy with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from landscape_hooks.device.memory import TooLittleMemory
from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.machine import cores, forks, threads
from landscape_hooks.objective.kernels import Tuning
from landscape_hooks.objective.objective import Objective

TOLERANCE = 1e-5
"""A way of computing whose loss differs by more than this (relative) from the plain one is not taken."""

ALONE = time.thread_time
"""The clock for one thread: the time it was running, whatever else the machine does meanwhile."""

SPOTS = ((0.0, 0.0), (0.1, 0.1), (-0.1, 0.05))
"""Where a way is compared with the plain loop; at the origin, the end of the path, the loss is lowest."""
IMAGES, OTHERS = 64, 256
"""Samples computed together, where the loss of each is the same in any batch: as many as the cache holds."""
LONG = 1.0
"""Seconds after which a way is not timed again: on a busy machine the search would take minutes."""
STACKS = (1, 4, 16)
"""Points together that are tried on a GPU."""
GPU_TILE = 16
"""Points between two waits for a GPU."""
STACK_BYTES = 2**28
"""Weights of a stack: beyond, a single point has work enough for the GPU."""
FEW_BATCHES = 4
"""Probe batches on which a way is compared with the plain loop."""
LITTLE = 2.0
"""Seconds of work for which no processes are started."""
PROBE_SECONDS = 0.6
"""A timed piece of work is cut down to about this long on the plain way, by taking fewer probe batches."""


def plain(loss: PlaneLoss, *, workers: int = 1, precision: str = "float32") -> Plan:
    """The plain loop over recorded batches with torch's own threads (shared out among the workers)."""
    share = max(1, torch.get_num_threads() // workers)
    chunk = min(loss.objective.batch_size, loss.objective.most)
    return Plan(workers, share, Tuning(chunk=chunk, precision=precision))


def choose(loss: PlaneLoss, points: int, *, workers: int | None = None, precision: str = "float32") -> Plan:
    """The way that suits the model and gives the loss of the plain loop, by as many processes as pay.

    Parameters
    ----------
    loss
        the loss as it is to be computed.
    points
        how many evaluations are ahead: for little work no processes are started.
    workers
        processes; left out, chosen, each with one thread where processes can share memory.
    precision
        as of `Local`.
    """
    base = plain(loss, precision=precision)
    if loss.objective.device.type != "cpu":
        return best_stack(loss, base)
    way = arithmetic(loss, base)
    limit = 1 if not forks() else (workers or min(cores(), max(1, points)))
    way = replace(way, threads=max(1, base.threads // limit) if workers or not forks() else 1)
    short, full = _shortened(loss, way)
    expected = _timed(way.apply(short), way)
    if workers is None and expected * full * points < LITTLE:
        return replace(way, seconds=expected * full)
    found = _best_over_cores(short, base, replace(way, seconds=expected), limit, fixed=workers is not None)
    seconds = found.seconds * full
    return replace(found, seconds=seconds, tile=max(1, min(64, int(0.05 / max(seconds * found.workers, 1e-6)))))


def best_stack(loss: PlaneLoss, base: Plan) -> Plan:
    """The memory format, and how many points together: one point of a small model leaves a GPU idle.

    Many points are timed with one wait for the device at their end, as a tile of them is computed.
    """
    some = np.random.default_rng(0).uniform(-0.1, 0.1, size=(GPU_TILE, 2))
    point_bytes = loss.plane.size * loss.plane.dtype.itemsize
    best, reference = _fitting(loss, replace(base, tile=GPU_TILE, workers=1, stack=STACKS[0]), some)
    images = [replace(best.tuning, layout="channels_last")] if _has_images(loss.objective) else []
    ways: list[dict[str, Any]] = [{"tuning": tuning} for tuning in images]
    ways += [{"stack": stack} for stack in STACKS[1:] if stack * point_bytes <= STACK_BYTES]
    for way in ways:
        trial = replace(best, **way)
        try:
            seconds, found = _timed_together(trial.apply(loss), some)
        except (ObjectiveError, RuntimeError, ValueError, NotImplementedError):  # no vectorized form, or no memory
            continue
        if seconds < best.seconds and _close(found, reference, base.tuning.precision):
            best = replace(trial, seconds=seconds, speedup=best.speedup * best.seconds / seconds)
    return best


def _fitting(loss: PlaneLoss, plan: Plan, some: NDArray[np.float64]) -> tuple[Plan, NDArray[np.float64]]:
    """The plan, timed, with so few samples at a time that the device has room for them; and the losses."""
    while True:
        part = plan.apply(loss)
        try:
            seconds, found = _timed_together(part, some)
            return replace(plan, seconds=seconds), found
        except TooLittleMemory:
            smaller = part.objective.smaller(loss.statistics)
            if smaller is None:
                raise
            tuning = replace(plan.tuning, chunk=smaller.tuning.chunk)
        plan = replace(plan, tuning=tuning)


def _timed_together(loss: PlaneLoss, some: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Seconds a point of a tile (the better of two, after one that warms up), and the losses."""
    best, found = float("inf"), np.empty(0)
    for turn in range(3):
        start = time.perf_counter()
        found = loss.measure_points(some)[:, 0].cpu().numpy()
        best = min(best, time.perf_counter() - start) if turn else best
    return best / len(some), found


def _shortened(loss: PlaneLoss, base: Plan) -> tuple[PlaneLoss, float]:
    """The loss over so few batches that a trial is short, and how many times more the whole is."""
    whole = loss.objective.samples
    objective = loss.objective.head(min(whole, loss.objective.batch_size))
    short = loss.computed(objective, base)
    seconds = _timed(base.apply(short), base)
    batches = int(np.clip(PROBE_SECONDS / 4 / max(seconds, 1e-9), 1, whole / objective.samples))
    if batches > 1:
        short = loss.computed(loss.objective.head(batches * objective.samples), base)
    return short, whole / short.objective.samples


def arithmetic(loss: PlaneLoss, base: Plan) -> Plan:
    """What rounds, by a rule: the memory format and the samples computed together, by one thread.

    Images are computed with their channels last. Where the loss of a sample is the same in any batch, so many samples
    are taken together as the cache holds; else the recorded batches. The first of these ways that gives the losses of
    the plain loop is taken; the plain loop itself is the last of them.
    """
    one = replace(base, threads=1)
    few = loss.computed(loss.objective.head(min(loss.objective.samples, FEW_BATCHES * loss.objective.batch_size)), one)
    images, plainly = _has_images(few.objective), base.tuning
    layout = "channels_last" if images else plainly.layout
    free = few.objective.free and few.statistics != "batch"
    chunk = min(IMAGES if images else OTHERS, few.objective.samples, few.objective.most) if free else plainly.chunk
    best = replace(plainly, layout=layout, chunk=chunk)
    ways = {best, replace(best, chunk=plainly.chunk), replace(plainly, chunk=chunk)} - {plainly}
    if ways:
        with threads(1):
            reference = _values(one.apply(few))
            for way in sorted(ways, key=lambda way: (way.layout == plainly.layout, way.chunk == plainly.chunk)):
                trial = replace(one, tuning=way)
                if _agrees(trial, few, reference):
                    return trial
    return one


def _best_over_cores(short: PlaneLoss, base: Plan, single: Plan, limit: int, *, fixed: bool) -> Plan:
    """One process or several: the throughput, all cores at work. `speedup` is against the plain loop."""
    plain = _timed(base.apply(short), base)
    several, seconds = replace(single, workers=limit), {single: single.seconds}
    if fixed:
        # the number of processes was asked for: it is only timed
        seconds = {several: _throughput(several.apply(short), several)}
    elif limit > 1:
        # compared by CPU time, since wall time depends on the machine's other load
        alone = local.apart(lambda: _timed(several.apply(short), several, ALONE), limit)
        if alone:  # a loss that takes gradients itself: torch cannot do that in a forked process
            seconds[several] = sum(alone) / limit**2
            seconds[single] = _timed(single.apply(short), single, ALONE)
    best = min(seconds, key=seconds.__getitem__)
    return replace(best, seconds=seconds[best], speedup=plain / max(seconds[best], 1e-9))


def _has_images(objective: Objective) -> bool:
    """Whether anything has a memory format to choose."""
    shapes = [e.shape for e in objective.layout.entries]
    shapes += [t.shape for group in objective.probe.groups for t in group.leaves]
    return any(len(shape) in (4, 5) for shape in shapes)


def _throughput(loss: PlaneLoss, plan: Plan) -> float:
    """Seconds a point with all the plan's processes at work."""
    if plan.workers == 1:
        return _timed(loss, plan)
    # the first points of each process warm it up; what counts is the rest
    warm, rounds, stamps = 2, 5, []
    for _ in local.points(loss, np.zeros((rounds * plan.workers, 2))):
        stamps.append(time.perf_counter())
    return (stamps[-1] - stamps[warm * plan.workers - 1]) / (len(stamps) - warm * plan.workers)


def _timed(loss: PlaneLoss, plan: Plan, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds a point in this process: the best of three (of fewer where it takes long), after one that warms up."""
    begun = time.perf_counter()
    with threads(plan.threads):
        loss.at(0.0, 0.0)
        best = float("inf")
        for _ in range(3):
            start = clock()
            loss.at(0.0, 0.0)
            best = min(best, clock() - start)
            if time.perf_counter() - begun > LONG:
                break
    return best


def _values(loss: PlaneLoss) -> list[float]:
    """The losses at `SPOTS`."""
    return [loss.at(alpha, beta).mean for alpha, beta in SPOTS]


def _agrees(plan: Plan, short: PlaneLoss, reference: list[float]) -> bool:
    """Whether this way runs and gives the reference losses."""
    try:
        found = _values(plan.apply(short))
    except (ObjectiveError, RuntimeError, ValueError, TypeError, AttributeError):
        return False
    return _close(found, reference, plan.tuning.precision)


def _close(found: ArrayLike, reference: ArrayLike, precision: str) -> bool:
    tolerance = TOLERANCE if precision == "float32" else 0.1
    return bool(np.allclose(found, reference, rtol=tolerance, atol=1e-9, equal_nan=True))
