"""evaluate: the loss at every point of a grid and at every snapshot of a path, by an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from landscape_hooks.evaluation.plane_loss import Floats, PlaneLoss, Tile
from landscape_hooks.surface.surface import Path


def evaluate(loss: PlaneLoss, points: Floats, *, engine: Any = None) -> Iterator[Tile]:
    """Yield the losses at points (N, 2) in tiles as they finish, in any order.

    `engine` is a module of engines/; left out, the one of this machine. A NaN or infinite loss is a result like
    any other.
    """
    yield from (engine or _local()).points(loss, np.asarray(points, dtype=float).reshape(-1, 2))


def evaluate_path(
    loss: PlaneLoss,
    trajectory: Any,
    coordinates: Floats,
    distance: Floats,
    *,
    label: str = "",
    engine: Any = None,
    tick: Callable[[int], object] = lambda n: None,
) -> Path:
    """A run's trajectory as the plane sees it: its true loss, and the loss the plane shows at its projection.

    `coordinates` (T, 2) and `distance` (T,) come from `Moments.solve`; `tick(n)` is called whenever n evaluations are
    done: there are two a snapshot.
    """
    engine = engine or _local()
    count = len(trajectory)
    true, stderr, shown = (np.full(count, np.nan) for _ in range(3))
    for tile in engine.snapshots(loss, trajectory, range(count)):
        true[tile.index], stderr[tile.index] = tile.loss, tile.stderr
        tick(len(tile.index))
    for tile in engine.points(loss, coordinates):
        shown[tile.index] = tile.loss
        tick(len(tile.index))
    rates = np.asarray(trajectory.learning_rates, dtype=float).reshape(count, -1)
    return Path(
        coordinates=coordinates,
        step=np.asarray(trajectory.steps),
        loss=true,
        plane_loss=shown,
        distance=distance,
        epoch=np.asarray(trajectory.epochs, dtype=float),
        learning_rate=rates[:, 0] if rates.shape[1] else np.full(count, np.nan),
        loss_stderr=stderr,
        label=label,
    )


def _local() -> Any:
    from landscape_hooks.evaluation.engines import local

    return local
