"""The frame of a surface: directions, projected paths, grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from landscape_hooks.errors import PlaneError
from landscape_hooks.evaluation.plane_loss import POLICIES
from landscape_hooks.plane import gram
from landscape_hooks.plane.directions import Directions, hessian, pca, points, random
from landscape_hooks.plane.directions.hessian import Hessian
from landscape_hooks.plane.directions.pca import PCA
from landscape_hooks.plane.directions.points import Points
from landscape_hooks.plane.directions.random import Random
from landscape_hooks.plane.grid import Grid
from landscape_hooks.plane.moments import Moments, Projection
from landscape_hooks.trajectory.joined import Joined, origin_row

NAMES: dict[str, type[PCA] | type[Random] | type[Hessian] | type[Points]] = {
    "pca": PCA,
    "random": Random,
    "hessian": Hessian,
    "points": Points,
}


def parse_directions(directions: str | PCA | Random | Hessian | Points) -> PCA | Random | Hessian | Points:
    """The directions' options; a name means the defaults.

    Raises
    ------
    PlaneError
        there are none of that name.
    """
    if isinstance(directions, PCA | Random | Hessian | Points):
        return directions
    if not isinstance(directions, str) or directions not in NAMES:
        raise PlaneError(
            f"Found the directions {directions!r}",
            expected=f"one of {', '.join(NAMES)}, or a PCA(...), Random(...), Hessian() or Points(...)",
        )
    return NAMES[directions]()


def _directions(
    root: Any, joined: Joined, objective: Any, chosen: PCA | Random | Hessian | Points, policy: str, *, seed: int,
    line: bool, keep: bool, blocks: Any, stream: bool,
) -> tuple[Directions, Any]:  # fmt: skip
    """The directions, and the trajectory's Gram matrix where it is known."""
    if isinstance(chosen, PCA):
        return _principal(root, joined, chosen, line=line, keep=keep, blocks=blocks, stream=stream)
    if isinstance(chosen, Points):
        rows, names = points.rows_of(chosen, joined)
        return points.directions(joined, rows, names, line=line), None
    if isinstance(chosen, Random):
        found = random.directions(gram.origin_weights(joined), joined.layout, seed=seed, norm=chosen.norm)
    else:
        found = _hessian(joined, objective, policy, seed)
    if line:
        found.vectors[1] = 0
    return found, None


def _principal(
    root: Any, joined: Joined, chosen: PCA, *, line: bool, keep: bool, blocks: Any, stream: bool
) -> tuple[Directions, Any]:
    components = tuple(chosen.components)[: 1 if line else 2]
    if len(components) < 2 and not line:
        raise PlaneError(
            f"Found the component {components[0]} alone", expected="two for a plane", mend="Draw a line (--line)"
        )
    pca.check(joined, components, chosen.solver)
    known = None
    if pca.resolve_solver(chosen.solver, joined) == "gram":
        single = joined.parts[0] if len(joined.parts) == 1 else None
        if single is not None:
            known = gram.stored(root, single, blocks=blocks, keep=keep)
        else:
            known = gram.matrix(joined, blocks=blocks)
    options = {"solver": chosen.solver, "gram": known, "blocks": blocks, "stream": stream}
    return pca.directions(joined, components=components, **options), known


def _hessian(joined: Joined, objective: Any, policy: str, seed: int) -> Directions:
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
