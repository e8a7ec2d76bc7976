"""Commits: finished tiles are joined into few commits, so that neither a kill nor a network file system costs much.

In: tiles as an engine finishes them. Out: tiles to be stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from landscape_hooks.evaluation.effort import UsedUp
from landscape_hooks.evaluation.plane_loss import Tile

COMMIT_SECONDS = 1.0
"""Finished points are committed to the store at least this often: what a kill can cost."""

Advance = Callable[[int], object]
"""Called with the number of evaluations that are done since the last call."""


def committable(tiles: Iterable[Tile], advance: Advance) -> Iterator[Tile]:
    """Join finished tiles into one commit every COMMIT_SECONDS; an interruption, or the end of the budget, commits
    what is there.
    """
    waiting: list[Tile] = []
    last = time.monotonic()
    try:
        for tile in tiles:
            waiting.append(tile)
            advance(len(tile.index))
            if time.monotonic() - last >= COMMIT_SECONDS:
                ready, waiting = waiting, []
                yield _one(ready)
                last = time.monotonic()
    except (KeyboardInterrupt, UsedUp):
        if waiting:
            yield _one(waiting)
        raise
    if waiting:
        yield _one(waiting)


def _one(tiles: list[Tile]) -> Tile:
    return Tile(
        np.concatenate([t.index for t in tiles]),
        np.concatenate([t.loss for t in tiles]),
        np.concatenate([t.stderr for t in tiles]),
    )
