"""Where points are evaluated: a family with one interface.

An engine is `run(loss: PlaneLoss, points (N, 2)) -> Iterator[Tile]`: it yields finished tiles in any order, each
point exactly once, and the value at a point does not depend on which points are computed beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from landscape_hooks.errors import ObjectiveError

NAMES = ("local", "ray")


def get(name: str) -> Callable[..., Any]:
    """The engine of that name.

    Raises
    ------
    ObjectiveError
        there is none, or what it needs is not installed.
    """
    if name not in NAMES:
        raise ObjectiveError(f"Found the engine '{name}'", expected=f"one of {', '.join(NAMES)}")
    try:
        return import_module(f"landscape_hooks.engines.{name}").run
    except ModuleNotFoundError as error:
        raise ObjectiveError(
            f"The engine '{name}' needs a package that is not installed ({error.name})",
            mend=f"Install it: pip install 'landscape-hooks[{name}]'",
        ) from error
