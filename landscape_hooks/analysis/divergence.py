"""Divergence: which snapshots of a diverged training can be drawn, and what is said of the others.

In: the runs' snapshots and their loss. Out: the same runs up to their last finite snapshot, without those before it
whose weights are not finite. A training that did not diverge costs one evaluation a run, that of its final snapshot.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import DivergedError
from landscape_hooks.plane.finite import finite_rows
from landscape_hooks.surface.definition import Divergence
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.trajectory import Trajectory

Mask = NDArray[np.bool_]


def finite_part(
    joined: Joined,
    losses: Callable[[Trajectory, int], float],
    *,
    scan: bool,
    counted: Mask | None = None,
) -> tuple[Joined, tuple[Divergence, ...]]:
    """The runs up to their last finite snapshots.

    Parameters
    ----------
    joined
        the snapshots that were chosen.
    losses
        the loss at a run's snapshot of that place.
    scan
        look at the weights of every snapshot. Without it only the end of a run is looked at, and the rest once that
        is not finite.
    counted
        (B,) the buffers that have to be finite, too.

    Raises
    ------
    DivergedError
        a run has no finite snapshot.
    """
    kept, found = [], []
    for number, run in enumerate(joined.runs):
        name = run.label or f"run {number}"
        places, divergence = _of_run(run, name, losses, scan, counted)
        kept.append(places)
        found += [divergence] if divergence is not None else []
    return (joined.select(kept) if found else joined), tuple(found)


def _of_run(
    run: Trajectory, name: str, losses: Callable[[Trajectory, int], float], scan: bool, counted: Mask | None
) -> tuple[NDArray[np.intp], Divergence | None]:
    every = np.arange(len(run))
    if not len(run):
        return every, None
    weights = buffers = np.ones(len(run), dtype=bool)
    if scan or not np.isfinite(run.block(slice(len(run) - 1, None))).all():
        weights = finite_rows(run)
    if counted is not None and counted.any():
        buffers = np.isfinite(run.buffers()[:, counted]).all(axis=1)
    sound = np.flatnonzero(weights & buffers)
    if not len(sound):
        what = "weights" if not weights.any() else "weights and running statistics"
        raise DivergedError(
            f"None of the {len(run)} snapshots of {name} has finite {what}",
            expected="a training that had not diverged when recording began",
            mend="Record again, with a smaller learning rate; of several runs, leave this one out",
        )
    last = _last_finite_loss(run, sound, losses)
    places = sound[sound <= last]
    after, holes = every[every > last], np.setdiff1d(every[:last], sound)
    if not len(after) and not len(holes):
        return every, None
    first = int(after[0]) if len(after) else None
    what = "" if first is None else "weights" if not weights[first] else "buffers" if not buffers[first] else "loss"
    steps = run.steps
    return places, Divergence(
        run=name,
        last_finite_step=int(steps[last]),
        left_out=len(after),
        first_step=None if first is None else int(steps[first]),
        what=what,
        holes=tuple(int(step) for step in steps[holes]),
    )


def _last_finite_loss(run: Trajectory, sound: NDArray[np.intp], losses: Callable[[Trajectory, int], float]) -> int:
    """The last of these snapshots with a finite loss; the last one where none has: then the loss is what is wrong."""
    for place in sound[::-1]:
        if np.isfinite(losses(run, int(place))):
            return int(place)
    return int(sound[-1])
