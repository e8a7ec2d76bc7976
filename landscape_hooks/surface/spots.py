"""Spots: where a picture has a point for the marks of a surface and for its minima and passes; what is said of them.

In: a Surface. Out: a `Spot` for each point of the marks, the critical points that are shown; sentences. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape_hooks.surface.critical import CriticalPoint, critical_points
from landscape_hooks.surface.digits import text_of
from landscape_hooks.surface.marks import Floats, MarkedPoint
from landscape_hooks.surface.surface import Surface

SAME = 1e-6
"""Two points are one if they are less apart than this share of the picture, and their losses than this share."""

MOST_MINIMA = 12
"""Minima that a picture shows at most: those of the largest persistence."""


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


# -- minima and passes --------------------------------------------------------------------------------------------
def shown_critical_points(surface: Surface) -> list[CriticalPoint]:
    """The critical points that a picture shows: the real minima that are not at the edge, and the real saddles.

    Of many minima those of the largest persistence are shown, and the saddles that are as persistent. A place where
    several passes meet is shown once.
    """
    real = [point for point in critical_points(surface) if point.real]
    ranked = sorted((point.persistence for point in real if point.kind == "minimum"), reverse=True)
    least = ranked[MOST_MINIMA - 1] if len(ranked) > MOST_MINIMA else 0.0
    shown = [point for point in real if not point.at_edge and point.persistence >= least]
    return list({(point.kind, point.place): point for point in reversed(shown)}.values())[::-1]


def said_of_critical(point: CriticalPoint) -> str:
    """A critical point as text: its loss, and how far that is from where it ends."""
    error = f" ± {point.loss_stderr:.2g}" if np.isfinite(point.loss_stderr) else ""
    step = min(point.persistence / 10, point.loss_stderr / 2 if point.loss_stderr > 0 else np.inf)
    head, far = f"loss {text_of(point.loss, step)}{error}", text_of(point.persistence)
    if point.kind == "minimum":
        if point.ends_at is None:
            return f"lowest point of the grid: {head}" if np.isinf(point.persistence) else f"minimum: {head}"
        return f"minimum: {head}, {far} below the lowest pass to a lower one"
    if point.between is None:
        return f"saddle: {head}, {far} below the maximum beside it"
    return f"pass: {head}, {far} above the minimum that it leads out of"
