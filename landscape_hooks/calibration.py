"""Calibration: try the ways that may pay on this machine, and take the fastest that gives the same loss.

In: a PlaneLoss. Out: a Plan. What pays depends on the model: a small one scales over points (one process a core,
weights shared) and not over threads, images are faster with their channels last, samples are best taken as
many at a time as the cache holds. So it is measured, in a second or two, instead of assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from landscape_hooks.engines import local
from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluate import PlaneLoss
from landscape_hooks.plan import Plan, cores, forks, threads

TOLERANCE = 1e-5
"""A way of computing whose loss differs by more than this (relative) from the plain one is not taken."""

ALONE = time.thread_time
"""The clock for one thread: the time it was running, whatever else the machine does meanwhile."""

CHUNKS = (64, 128, 256)
PROBE_SECONDS = 0.6
"""A timed piece of work is cut down to about this long on the plain way, by taking fewer probe batches."""


def plain(loss: PlaneLoss, *, workers: int = 1, precision: str = "float32") -> Plan:
    """The plain loop over recorded batches with torch's own threads (shared out among the workers)."""
    share = max(1, torch.get_num_threads() // workers)
    return Plan(workers=workers, threads=share, chunk=loss.objective.batch_size, precision=precision)


def choose(loss: PlaneLoss, points: int, *, workers: int | None = None, precision: str = "float32") -> Plan:
    """Try what may pay and take the fastest that gives the same loss.

    Parameters
    ----------
    loss
        the loss as it is to be computed.
    points
        how many evaluations are ahead: little work is not worth a search.
    workers
        processes; left out, chosen.
    precision
        "float32" or "bfloat16".
    """
    base = plain(loss, precision=precision)
    if loss.objective.device.type != "cpu":
        return replace(base, tile=16, workers=1)
    limit = 1 if not forks() else (workers or min(cores(), max(1, points)))
    short, full = _shortened(loss, base)
    expected = _timed(base.apply(short), base)
    if expected * full * points < 2.0:
        return replace(base, workers=1, seconds=expected * full)
    single = _best_single(short, base)
    found = _best_over_cores(short, base, single, limit, fixed=workers is not None)
    seconds = found.seconds * full
    return replace(found, seconds=seconds, tile=max(1, min(64, int(0.05 / max(seconds * found.workers, 1e-6)))))


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


def _best_single(short: PlaneLoss, base: Plan) -> Plan:
    """The fastest way in one process with one thread."""
    one = replace(base, threads=1)
    reference = _values(base.apply(short))
    free = short.objective.per_sample and short.statistics != "batch"
    chunks = sorted({*(CHUNKS if free else ()), base.chunk})
    chunks = [c for c in chunks if c <= short.objective.samples] or [base.chunk]
    folds = (True, False) if short.statistics != "batch" and short.objective.has_running_statistics else (False,)
    best = replace(one, seconds=_timed(one.apply(short), one, ALONE))
    for layout, folded in product(("channels_last", "contiguous"), folds):
        start = replace(one, layout=layout, fold=folded)
        if start == one or not _agrees(start, short, reference):
            continue
        best = min(best, replace(start, seconds=_timed(start.apply(short), start, ALONE)), key=lambda p: p.seconds)
    for chunk in chunks:
        trial = replace(best, chunk=chunk)
        if chunk != best.chunk and _agrees(trial, short, reference):
            best = min(best, replace(trial, seconds=_timed(trial.apply(short), trial, ALONE)), key=lambda p: p.seconds)
    return best


def _best_over_cores(short: PlaneLoss, base: Plan, single: Plan, limit: int, *, fixed: bool) -> Plan:
    """Processes or threads: the throughput of each, all cores at work, against the plain loop and one process."""
    plain_seconds = _timed(base.apply(short), base)
    trials = [replace(single, workers=limit, threads=max(1, base.threads // limit) if fixed else 1)]
    if not fixed and base.threads > 1:
        trials += [replace(single, threads=base.threads), base]
    timed = [] if fixed else [replace(single, seconds=_timed(single.apply(short), single))]
    for trial in trials:
        try:
            timed.append(replace(trial, seconds=_throughput(trial.apply(short), trial)))
        except ObjectiveError:  # a loss that takes gradients itself: torch cannot do that in a forked process
            if fixed:
                raise
    best = min(timed, key=lambda p: p.seconds)
    return replace(best, speedup=plain_seconds / best.seconds)


def _throughput(loss: PlaneLoss, plan: Plan) -> float:
    """Seconds a point with all the plan's processes at work."""
    if plan.workers == 1:
        return _timed(loss, plan)
    # the first points of each process warm it up; what counts is the rest
    rounds, stamps = 4, []
    for _ in local.points(loss, np.zeros((rounds * plan.workers, 2))):
        stamps.append(time.perf_counter())
    return (stamps[-1] - stamps[plan.workers - 1]) / (len(stamps) - plan.workers)


def _timed(loss: PlaneLoss, plan: Plan, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds a point in this process: the best of three, after one that warms up."""
    with threads(plan.threads):
        loss.at(0.0, 0.0)
        best = float("inf")
        for _ in range(3):
            start = clock()
            loss.at(0.0, 0.0)
            best = min(best, clock() - start)
    return best


def _values(loss: PlaneLoss) -> list[float]:
    """The loss at the origin and off it."""
    return [loss.at(0.0, 0.0).mean, loss.at(0.1, 0.1).mean]


def _agrees(plan: Plan, short: PlaneLoss, reference: list[float]) -> bool:
    """Whether this way runs and gives the reference losses."""
    try:
        found = _values(plan.apply(short))
    except (ObjectiveError, RuntimeError, ValueError, TypeError, AttributeError):
        return False
    tolerance = TOLERANCE if plan.precision == "float32" else 0.1
    return bool(np.allclose(found, reference, rtol=tolerance, atol=1e-9, equal_nan=True))
