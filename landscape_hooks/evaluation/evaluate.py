"""evaluate: the loss at every point of a grid and at every snapshot of a path, by an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation.plane_loss import Floats, PlaneLoss, Tile
from landscape_hooks.surface.surface import Path


def evaluate(loss: PlaneLoss, points: Floats, *, engine: Any) -> Iterator[Tile]:
    """Yield the losses at points (N, 2) in tiles as they finish, in any order.

    A NaN or infinite loss is a result like any other.
    """
    yield from engine.points(loss, np.asarray(points, dtype=float).reshape(-1, 2))


def evaluate_path(
    loss: PlaneLoss,
    trajectory: Any,
    coordinates: Floats,
    distance: Floats,
    *,
    label: str = "",
    engine: Any,
    tick: Callable[[int], object] = lambda n: None,
) -> Path:
    """A run's trajectory as the plane sees it: its true loss, and the loss the plane shows at its projection.

    `coordinates` (T, 2) and `distance` (T,) come from `Moments.solve`; `tick(n)` is called whenever n evaluations are
    done: there are two a snapshot.
    """
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


def check_repeatable(loss: PlaneLoss, engine: Any) -> float:
    """The loss at the origin, computed twice where the engine computes.

    Raises
    ------
    ObjectiveError
        the two differ: something random or stateful is in the loss, and a surface would show noise.
    """
    first, second = (tile.loss[0] for _ in range(2) for tile in evaluate(loss, np.zeros((1, 2)), engine=engine))
    if first != second and not (np.isnan(first) and np.isnan(second)):
        raise ObjectiveError(
            f"The loss at the same weights was {float(first)!r} and then {float(second)!r}",
            expected="the same value twice",
            mend="Take randomness and state (sampling, augmentation, counters) out of the objective, or seed it",
        )
    return float(first)
