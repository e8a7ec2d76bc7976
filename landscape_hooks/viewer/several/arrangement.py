"""Arrangement: several surfaces as the landscapes of one picture: side by side, blended, or as a difference.

In: Landscapes. Out: Landscapes under one height, one for each pane of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.mesh.pair import Difference, blended, common_height
from landscape_hooks.surface.surface import Surface
from landscape_hooks.viewer.replay.landscape import CLIP, Landscape

KINDS = ("alone", "side by side", "blend", "difference")
"""How a second surface is shown: not at all, beside the first, mixed with it, or by the colours of the first."""


def arranged(
    first: Landscape, others: Sequence[Landscape], kind: str, height: str, *, share: float = 0.5
) -> tuple[Landscape, ...]:
    """The landscapes of the panes, all under one height.

    Parameters
    ----------
    first, others
        what is shown; "blend" and "difference" take the first of `others`.
    kind
        one of `KINDS`.
    height
        "auto", "log10", "linear" or "clipped", chosen for the losses of all surfaces together.
    share
        of the second surface in a blend, 0 to 1.

    Raises
    ------
    SurfaceError
        the grids of a blend or a difference are not the same, or a height cannot be drawn.
    LandscapeError
        the kind is not known, or something is no surface.
    """
    if kind not in KINDS:
        raise LandscapeError(f"Found the arrangement '{kind}'", expected=f"one of: {', '.join(KINDS)}")
    if kind == "alone" or not others:
        return (first if first.height == height else first.with_height(height),)
    surfaces = [_surface(landscape) for landscape in (first, *others)]
    shared = _shared(surfaces, height)
    if kind == "side by side":
        pairs = zip((first, *others), surfaces, strict=True)
        return tuple(_on(landscape, surface, shared, height) for landscape, surface in pairs)
    one, other = surfaces[:2]
    names = names_of(first, others[0])
    if kind == "blend":
        mixed = blended(replace(one, name=names[0]), replace(other, name=names[1]), share)
        nearer = first if share < 0.5 else others[0]
        run = nearer.title.rpartition(" · ")[0]
        title = nearer.title if share in (0, 1) else " · ".join(part for part in (run, mixed.name) if part)
        return (replace(_on(nearer, mixed, shared, height), title=title),)
    found = Difference.of(one, other, shared, names)
    painted = found.paint(Mesh.from_surface(one, height=shared))
    return (replace(first, mesh=painted, height=height, difference=found),)


def names_of(first: Landscape, second: Landscape) -> tuple[str, str]:
    """What both are called: the names of their surfaces, or their titles where those are the same."""
    short = tuple(landscape.surface.name if landscape.surface else "" for landscape in (first, second))
    if all(short) and short[0] != short[1]:
        return short[0], short[1]
    if first.title != second.title:
        return first.title, second.title
    return "A", "B"


def _surface(landscape: Landscape) -> Surface:
    if landscape.surface is None:
        raise SurfaceError(
            f"{landscape.title} is a mesh of another program, which has no losses to compare",
            expected="a run, a surface, or a PLY file written by us",
        )
    return landscape.surface


def _shared(surfaces: Sequence[Surface], height: str) -> Height:
    clips = height == "clipped"
    return common_height(surfaces, "auto" if clips else height, CLIP if clips else (0.0, 100.0))


def _on(landscape: Landscape, surface: Surface, shared: Height, height: str) -> Landscape:
    return replace(
        landscape, mesh=Mesh.from_surface(surface, height=shared), surface=surface, height=height, difference=None
    )
