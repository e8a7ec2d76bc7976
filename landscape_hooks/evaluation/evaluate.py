"""evaluate: the loss at every point of a grid and at every snapshot of a path, by an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation.engines import Engine
from landscape_hooks.evaluation.plane_loss import Floats, PlaneLoss, Tile
from landscape_hooks.surface.surface import Path
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.trajectory import Trajectory

Advance = Callable[[int], object]
"""Called with the number of evaluations that are done since the last call."""


def evaluate(loss: PlaneLoss, points: Floats, *, engine: Engine) -> Iterator[Tile]:
    """Yield the losses at points (N, 2) in tiles as they finish, in any order.

    A NaN or infinite loss is a result like any other.
    """
    yield from engine.points(loss, np.asarray(points, dtype=float).reshape(-1, 2))


def evaluate_path(
    loss: PlaneLoss,
    trajectory: Trajectory,
    coordinates: Floats,
    distance: Floats,
    *,
    label: str = "",
    engine: Engine,
    advance: Advance = lambda n: None,
) -> Path:
    """A run's trajectory as the plane sees it: its true loss, and the loss the plane shows at its projection.

    `coordinates` (T, 2) and `distance` (T,) come from `Moments.solve`; there are two evaluations a snapshot.
    """
    count = len(trajectory)
    true, stderr, shown = (np.full(count, np.nan) for _ in range(3))
    for tile in engine.snapshots(loss, trajectory, range(count)):
        true[tile.index], stderr[tile.index] = tile.loss, tile.stderr
        advance(len(tile.index))
    for tile in engine.points(loss, coordinates):
        shown[tile.index] = tile.loss
        advance(len(tile.index))
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


def evaluate_paths(
    loss: PlaneLoss, joined: Joined, coordinates: Floats, distance: Floats, *, engine: Engine, advance: Advance
) -> list[Path]:
    """The paths of all runs; `coordinates` (T, 2) and `distance` (T,) are those of `joined`, run after run."""
    return [
        evaluate_path(loss, run, coordinates[a:b], distance[a:b], label=run.label, engine=engine, advance=advance)
        for run, a, b in zip(joined.runs, joined.edges[:-1], joined.edges[1:], strict=True)
    ]


def check_repeatable(loss: PlaneLoss, engine: Engine) -> float:
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
