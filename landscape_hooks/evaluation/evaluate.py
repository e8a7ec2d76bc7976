"""evaluate: the loss at points of a plane, by an engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation.engines import Engine
from landscape_hooks.evaluation.plane_loss import Floats, PlaneLoss, Tile


def evaluate(loss: PlaneLoss, points: Floats, *, engine: Engine) -> Iterator[Tile]:
    """Yield the losses at points (N, 2) in tiles as they finish, in any order.

    A NaN or infinite loss is a result like any other.
    """
    yield from engine.points(loss, np.asarray(points, dtype=float).reshape(-1, 2))


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
