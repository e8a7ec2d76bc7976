"""The frame of a surface: directions, projected paths, grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from landscape_hooks.evaluation.plane_loss import POLICIES
from landscape_hooks.plane import gram
from landscape_hooks.plane.directions import Directions
from landscape_hooks.plane.grid import Grid
from landscape_hooks.plane.moments import Moments, Projection
from landscape_hooks.trajectory.joined import Joined, origin_row


def _directions(
    root: Any, joined: Joined, objective: Any, kind: str, policy: str, *, solver: str, components: Sequence[int],
    norm: str, seed: int, points: str | Sequence[Any], line: bool, keep: bool, blocks: Any, stream: bool,
) -> tuple[Directions, Any]:  # fmt: skip
    """The directions, and the trajectory's Gram matrix where it is known."""
    known = None
    if kind == "pca":
        from landscape_hooks.plane.directions import pca

        chosen = tuple(components)[:1] if line else tuple(components)
        pca.check(joined, chosen, solver)
        if pca.resolve_solver(solver, joined) == "gram":
            single = joined.parts[0] if len(joined.parts) == 1 else None
            if single is not None:
                known = gram.stored(root, single, blocks=blocks, keep=keep)
            else:
                known = gram.matrix(joined, blocks=blocks)
        options = {"solver": solver, "gram": known, "blocks": blocks, "stream": stream}
        return pca.directions(joined, components=chosen, **options), known
    if kind == "points":
        from landscape_hooks.plane.directions import points as through

        rows, names = through.rows_of(points, joined)
        return through.directions(joined, rows, names, line=line), None
    if kind == "random":
        from landscape_hooks.plane.directions import random

        found = random.directions(gram.origin_weights(joined), joined.layout, seed=seed, norm=norm)
    else:
        found = _hessian(joined, objective, policy, seed)
    if line:
        found.vectors[1] = 0
    return found, None


def _hessian(joined: Joined, objective: Any, policy: str, seed: int) -> Directions:
    from landscape_hooks.plane.directions import hessian

    statistics = "batch" if POLICIES[policy] == "batch" else "running"
    first, last = joined[0], joined[origin_row(joined)]
    start, end = (
        objective.evaluate(torch.from_numpy(s.weights), torch.from_numpy(s.buffers), statistics=statistics).mean
        for s in (first, last)
    )
    rise = start - end if np.isfinite(start) and start > end else abs(end)
    return hessian.directions(objective, last.weights, last.buffers, statistics=statistics, rise=rise, seed=seed)


def _moments(joined: Joined, plane: Any, found: Directions, known: Any, origin: int, blocks: Any) -> Moments:
    """From the Gram matrix where the directions are combinations of snapshots, else by one more look at all weights."""
    if known is not None and found.coefficients is not None:
        return Moments.from_gram(known, origin, found.coefficients)
    total = Moments(len(joined))
    for _, part in blocks(joined, origin, Projection(plane.directions.numpy())):
        total += part
    return total


def _grid(wanted: Any, shape: tuple[int, int], path: Any, moments: Moments, found: Directions) -> Grid:
    if wanted is not None:
        return Grid.spanning(wanted, shape)
    scale = np.sqrt(np.maximum(np.diag(moments.gram), 0.0))
    return Grid.covering(path, shape, scale=scale, least=found.least)
