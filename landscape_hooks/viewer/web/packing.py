"""Packing: surfaces and the words of the window as the data of a page, which its script unpacks (geometry/data.js).

In: Surfaces. Out: values for JSON. Arrays are base64 of little-endian numbers. Everything that follows from the grid
(mesh, contour lines, draped paths) is made in the page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from landscape_hooks.errors import SurfaceError
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import BETWEEN, axis_labels, caption, in_doubt, short_names
from landscape_hooks.mesh.pair import DIVERGING
from landscape_hooks.surface.digits import text_of
from landscape_hooks.surface.spots import said_of_critical
from landscape_hooks.surface.surface import Path
from landscape_hooks.viewer.replay.controls import KEYS, MOUSE
from landscape_hooks.viewer.replay.landscape import Landscape
from landscape_hooks.viewer.replay.look import COLORMAPS, THEMES, Look

Packed = dict[str, str]
Values = dict[str, Any]
"""What JSON holds; every array in it is a Packed."""

OTHERS = (
    ("M", "options: everything that can be changed"),
    ("H", "this help"),
    ("V", "show the view, as `render --view` takes it"),
    ("S", "save a picture"),
    ("Esc", "close the options or this help"),
)
"""Keys that concern the page itself."""

TOUCH = (("one finger, two fingers", "orbit; pan and zoom"),)

PLAIN = ("grey", "wireframe")
"""Colour maps that have no table of their own."""


def packed(values: ArrayLike, kind: str = "f8") -> Packed:
    """An array as the page unpacks it; `kind` is f4, f8 or u1."""
    data = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    return {"type": kind, "data": base64.b64encode(data.tobytes()).decode()}


def rough(values: ArrayLike) -> Packed:
    """An array of which seven digits are enough, in half the size wherever its range allows it."""
    values = np.asarray(values, dtype=np.float64)
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    narrow = not size.size or (size.min() > 1e-37 and size.max() < 1e38)
    return packed(values, "f4" if narrow else "f8")


def pack_path(path: Path) -> Values:
    """A path; its loss, coordinates and steps are exact."""
    return {
        "label": path.label,
        "coordinates": packed(path.coordinates),
        "step": packed(path.step),
        "epoch": packed(path.epoch),
        "learningRate": packed(path.learning_rate),
        "loss": packed(path.loss),
        "planeLoss": packed(path.plane_loss),
        "distance": rough(path.distance),
    }


def pack_marks(landscape: Landscape) -> list[Values]:
    """The points for the marks of a surface, with what a read-out says of them."""
    return [
        {
            "name": spot.name,
            "path": spot.path,
            "atEnd": spot.at_end,
            "coordinates": packed(spot.coordinates),
            "said": landscape.said_of(spot),
        }
        for spot in landscape.spots
    ]


def pack_critical(landscape: Landscape) -> list[Values]:
    """The minima and saddles that are shown, with what a read-out says of them."""
    return [
        {"kind": point.kind, "coordinates": packed(np.array(point.coordinates)), "said": said_of_critical(point)}
        for point in landscape.critical
    ]


def pack_strip(landscape: Landscape) -> Values | None:
    """The sharpness along the first path, if it is known."""
    strip = landscape.strip
    if strip is None:
        return None
    arrays = {key: packed(getattr(strip, key)) for key in ("share", "value", "limit")}
    return {**arrays, "top": strip.top, "said": text_of(strip.top)}


def pack_surface(landscape: Landscape) -> Values:
    """A surface with its paths and what a caption says of it."""
    surface = landscape.surface
    if surface is None:
        raise SurfaceError(
            f"{landscape.title} is a mesh of another program", expected="a run, a surface, or a PLY file written by us"
        )
    doubts = in_doubt(surface)
    said = [part for part in caption(surface, landscape.mesh.height).split(BETWEEN)[:-1] if part not in doubts]
    state = surface.evaluated.astype(np.uint8)
    if surface.interpolated is not None:
        state = np.where(surface.interpolated & ~surface.evaluated, 2, state)
    error = np.empty(0) if surface.interpolation_error is None else surface.interpolation_error
    return {
        "name": surface.name,
        "title": landscape.title,
        "alpha": packed(surface.alpha),
        "beta": packed(surface.beta),
        "loss": packed(surface.loss),
        "state": packed(state, "u1"),
        "stderr": rough(surface.loss_stderr),
        "error": rough(error),
        "said": said,
        "doubts": doubts,
        "labels": axis_labels(surface),
        "names": short_names(surface),
        "directions": surface.definition.directions,
        "digest": str(surface.attrs.get("trajectory_digest") or ""),
        "paths": [pack_path(path) for path in surface.paths],
        "marks": pack_marks(landscape),
        "critical": pack_critical(landscape),
        "strip": pack_strip(landscape),
    }


def pack(
    landscapes: Sequence[Landscape],
    undrawn: Mapping[str, str],
    shaders: Mapping[str, str],
    *,
    look: Look,
    theme: str,
    view: str,
    follow: int = 0,
) -> Values:
    """Everything that a page needs: the first landscape is shown first.

    `undrawn` says of other surfaces of the run why they have no picture; `follow` is the number of milliseconds
    after which the page asks its server for new snapshots, 0 for never.
    """
    colormaps = [*COLORMAPS, *([] if look.colormap in COLORMAPS else [look.colormap])]
    tables = [*colormaps, *([DIVERGING] if len(landscapes) > 1 and DIVERGING not in colormaps else [])]
    shown = {key: value for key, value in asdict(look).items() if key not in ("transparent", "plain")}
    return {
        "surfaces": [pack_surface(landscape) for landscape in landscapes],
        "undrawn": [{"name": name, "why": why} for name, why in undrawn.items()],
        "tables": {name: packed(colors.table(name), "u1") for name in tables if name not in PLAIN},
        "diverging": DIVERGING,
        "colormaps": colormaps,
        "paths": list(colors.PATHS),
        "themes": {name: {k: v for k, v in asdict(one).items() if k != "name"} for name, one in THEMES.items()},
        "keys": [{"key": row.key, "shift": row.shift, "shown": row.shown, "says": row.says} for row in KEYS],
        "others": [list(row) for row in OTHERS],
        "mouse": [list(row) for row in (*MOUSE, *TOUCH)],
        "look": shown | {"theme": theme},
        "view": view,
        "shaders": dict(shaders),
        "follow": follow,
    }
