"""Spots: where a picture has a point for the marks of a surface, and what is said of them.

In: a Surface. Out: a `Spot` for each point; sentences. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape_hooks.surface.digits import text_of
from landscape_hooks.surface.marks import Floats, MarkedPoint
from landscape_hooks.surface.surface import Surface

SAME = 1e-6
"""Two points are one if they are less apart than this share of the picture, and their losses than this share."""


# -- what is said of them ---------------------------------------------------------------------------------------
def outside(surface: Surface, mark: MarkedPoint) -> bool:
    """Whether a mark lies beyond the grid."""
    return any(
        not axis[0] <= place <= axis[-1]
        for axis, place in zip((surface.alpha, surface.beta), mark.coordinates, strict=True)
        if len(axis) > 1
    )


def said_of(mark: MarkedPoint) -> str:
    """A mark as text: its name, step and loss, and how that differs from the surface."""
    head = f"{mark.name} (step {mark.step})"
    if not mark.finite:
        return f"{head}: its weights hold NaN or infinite values"
    gap = mark.loss - mark.plane_loss
    if not np.isfinite(gap):
        return f"{head}: loss {text_of(mark.loss)}, {text_of(mark.plane_loss)} on the surface"
    if abs(gap) <= SAME * max(abs(mark.loss), abs(mark.plane_loss)):
        return f"{head}: loss {text_of(mark.loss)}, on the surface"
    where = "above" if gap > 0 else "below"
    return f"{head}: loss {text_of(mark.loss, abs(gap))}, {text_of(abs(gap))} {where} the surface"


# -- where a picture has them -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spot:
    """A point of a picture, and the marks that it stands for.

    Attributes
    ----------
    name
        the marks' names.
    path
        the number of the path that they belong to, among those that have a snapshot: it gives the colour.
    coordinates
        (2,) alpha and beta.
    at_end
        whether it is the end of that path, which a picture has a point for.
    marks
        which they are.
    """

    name: str
    path: int
    coordinates: Floats
    at_end: bool
    marks: tuple[MarkedPoint, ...]


def spots(surface: Surface) -> list[Spot]:
    """The points by which a picture shows the marks: those that are finite and on the grid.

    Marks of a run that are the same point are one spot with all their names. A mark that is the end of its path (as
    "final" is, where nothing was loaded after the last step) names the point that is there, and gets none of its own.
    """
    together: list[list[MarkedPoint]] = []
    for mark in surface.marks:
        if not mark.finite or outside(surface, mark):
            continue
        same = next((some for some in together if some[0].run == mark.run and _same(surface, some[0], mark)), None)
        if same is None:
            together.append([mark])
        else:
            same.append(mark)
    return [
        Spot(
            name=", ".join(mark.name for mark in some),
            path=sum(len(path) > 0 for path in surface.paths[: some[0].run]),
            coordinates=some[0].coordinates,
            at_end=_ends(surface, some[0]),
            marks=tuple(some),
        )
        for some in together
    ]


def _ends(surface: Surface, mark: MarkedPoint) -> bool:
    path = surface.paths[mark.run]
    if not len(path):
        return False
    loss, plane_loss, distance = (float(values[-1]) for values in (path.loss, path.plane_loss, path.distance))
    end = MarkedPoint("", path.coordinates[-1], int(path.step[-1]), loss, plane_loss, distance)
    return _same(surface, end, mark)


def _same(surface: Surface, one: MarkedPoint, other: MarkedPoint) -> bool:
    """Whether two points are the same one of the picture, at the same loss."""
    width = np.array([np.ptp(surface.alpha), np.ptp(surface.beta)])
    near = np.abs(one.coordinates - other.coordinates) <= SAME * width
    return bool(near.all()) and bool(np.isclose(one.loss, other.loss, rtol=SAME, atol=0, equal_nan=True))
