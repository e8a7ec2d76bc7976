"""The plane through three snapshots, of one run or of several (Garipov et al. 2018,
https://arxiv.org/abs/1802.10026, section 3 and its appendix: the planes that show mode connectivity).

In: three rows of a trajectory. Out: two orthonormal directions by Gram-Schmidt: with u = w2 - w1 and
v = (w3 - w1) - <w3 - w1, u>/|u|² u, d0 = u/|u| and d1 = v/|v|.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import PlaneError
from landscape_hooks.plane.blockwise import Weights
from landscape_hooks.plane.directions import Directions
from landscape_hooks.plane.gram import weights_of
from landscape_hooks.trajectory.joined import Joined

FORM = re.compile(r"[0-9]+|[0-9]+:[0-9]*")
"""A point: STEP, RUN:STEP or RUN:."""


@dataclass(frozen=True)
class Points:
    """The plane through three snapshots (a line: through two), as `analyze(directions=)` takes it.

    Parameters
    ----------
    points
        "STEP" (a step of the first run), "RUN:STEP" or "RUN:" (that run's final snapshot), runs counted from 0: a list,
        or one text with commas. The first is the origin. Left out: the final snapshots of the first three runs.

    Raises
    ------
    PlaneError
        a point of another form.

    Examples
    --------
    >>> Points("0:, 1:, 250").points
    ('0:', '1:', '250')
    """

    points: str | Sequence[str | int] = ()

    def __post_init__(self) -> None:
        given: Any = self.points
        texts = given.split(",") if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
        points = tuple(str(text).strip() for text in texts)
        points = () if points == ("",) else points
        for point in points:
            if FORM.fullmatch(point) is None:
                raise PlaneError(f"Found the point '{point}'", expected="STEP, RUN:STEP or RUN: (final), like 0:250")
        object.__setattr__(self, "points", points)

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"directions": "points", "points": list(self.points)}


@dataclass(frozen=True)
class Place:
    """A snapshot that a plane goes through: its row among those of all runs, its run and step, and its name."""

    row: int
    run: int
    step: int
    name: str


def directions(trajectory: Weights, places: Sequence[Place], *, line: bool = False) -> Directions:
    """The plane through three snapshots (the line through two of them); the first of them is its origin.

    Raises
    ------
    PlaneError
        the snapshots do not span a plane, or their number is another.
    """
    wanted, rows = 2 if line else 3, [place.row for place in places]
    if len(rows) != wanted or len(set(rows)) != wanted:
        raise PlaneError(
            f"Found {len(set(rows))} different points",
            expected=f"{wanted}: a {'line' if line else 'plane'} needs these",
        )
    weights = [weights_of(trajectory, row).astype(np.float64) for row in rows]
    origin, base = weights_of(trajectory, rows[0]), rows[0]
    combos = np.zeros((2, len(trajectory)))
    vectors = np.zeros((2, len(origin)))
    for k in range(wanted - 1):
        v, c = weights[k + 1] - weights[0], np.zeros(len(trajectory))
        c[rows[k + 1]], c[base] = 1.0, -1.0
        length = np.linalg.norm(v)
        for j in range(k):
            overlap = v @ vectors[j]
            v, c = v - overlap * vectors[j], c - overlap * combos[j]
        norm = np.linalg.norm(v)
        if not norm > 1e-6 * length:
            raise PlaneError("The points lie on one line", expected="three snapshots that span a plane",
                             mend="Choose another --points, or draw a line (--line)")  # fmt: skip
        vectors[k], combos[k] = v / norm, c / norm
    marks = np.array([[(w - origin) @ d for d in vectors] for w in weights])
    return Directions(
        origin=origin,
        vectors=vectors.astype(origin.dtype),
        labels=(f"towards {places[1].name}", "" if line else f"towards {places[2].name}"),
        normalization="orthonormal",
        centring=f"through {', '.join(place.name for place in places)}",
        coefficients=combos,
        marks=marks,
        origin_row=base,
        attrs={"points": [_attrs(place, mark) for place, mark in zip(places, marks, strict=True)]},
    )


def _attrs(place: Place, mark: NDArray[np.float64]) -> dict[str, Any]:
    return {"name": place.name, "run": place.run, "step": place.step, "coordinates": mark.tolist()}


def places_of(given: Points, joined: Joined) -> list[Place]:
    """The points among the snapshots of several runs; none given means the final snapshots of the first three runs.

    Raises
    ------
    PlaneError
        a run or a step that is not there.
    """
    items = [str(point) for point in given.points] or [f"{run}:" for run in range(len(joined.runs))][:3]
    found = []
    for item in items:
        run, _, step = item.rpartition(":") if ":" in item else ("0", "", item)
        try:
            trajectory = joined.runs[int(run)]
            steps = trajectory.steps
            place = len(trajectory) - 1 if step == "" else int(np.flatnonzero(steps == int(step))[0])
        except (ValueError, IndexError) as error:
            raise PlaneError(
                f"Found the point '{item}'",
                expected="STEP, RUN:STEP or RUN: (final), with a recorded step and runs counted from 0",
                mend="landscape-hooks info RUN lists what is recorded. Steps that are not finite do not count, nor do "
                "those that --from, --to and the like leave out",
            ) from error
        name = f"step {steps[place]}"
        if len(joined.runs) > 1:
            name = f"{trajectory.label or f'run {run}'} {name}"
        found.append(Place(joined.row(int(run), place), int(run), int(steps[place]), name))
    return found
