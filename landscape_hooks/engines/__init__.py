"""Where points are evaluated: a family with one interface.

An engine is a module with two functions that yield finished tiles in any order, each point exactly once; the value
at a point does not depend on which points are computed beside it:

- `points(loss: PlaneLoss, points (N, 2)) -> Iterator[Tile]`: losses at points of the plane;
- `snapshots(loss: PlaneLoss, trajectory, numbers) -> Iterator[Tile]`: losses at snapshots themselves.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from landscape_hooks.errors import ObjectiveError

NAMES = ("local",)


def get(name: str) -> Any:
    """The engine of that name.

    Raises
    ------
    ObjectiveError
        there is none.
    """
    if name not in NAMES:
        raise ObjectiveError(f"Found the engine '{name}'", expected=f"one of {', '.join(NAMES)}")
    return import_module(f"landscape_hooks.engines.{name}")
