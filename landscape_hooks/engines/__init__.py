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

NAMES = ("local", "ray")


def get(name: str) -> Any:
    """The engine of that name.

    Raises
    ------
    ObjectiveError
        there is none, or what it needs is not installed.
    """
    if name not in NAMES:
        raise ObjectiveError(f"Found the engine '{name}'", expected=f"one of {', '.join(NAMES)}")
    try:
        return import_module(f"landscape_hooks.engines.{name}")
    except ModuleNotFoundError as error:
        raise ObjectiveError(
            f"The engine '{name}' needs a package that is not installed ({error.name})",
            mend=f"Install it: pip install 'landscape-hooks[{name}]'",
        ) from error
