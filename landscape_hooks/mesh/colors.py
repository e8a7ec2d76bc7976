"""Colours: heights to RGB by matplotlib's colour maps, for the PLY writer, the viewer and the figures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError
from landscape_hooks.mesh.backend import load_matplotlib
from landscape_hooks.mesh.mesh import Mesh

PATHS = ("#ff5a36", "#22c7f0", "#f7c531", "#d45cf5", "#57d977", "#ff8fb3", "#a5adff", "#c9a37a")
"""Colours of the paths, first run first; they stand out against the colour maps."""


HYPSOMETRIC = ("#16325c", "#23679a", "#3fa0a5", "#6fbf85", "#b5d17c", "#ecdf9a", "#d6a765", "#a86a42", "#6f3f33")
"""Hypsometric tints, from low to high, as in an atlas."""


@lru_cache(maxsize=32)
def table(name: str) -> NDArray[np.uint8]:
    """(256, 3) the colours of matplotlib's colour map `name`, or the hypsometric tints, lowest first.

    Raises
    ------
    LandscapeError
        there is no such colour map.
    """
    if name == "hypsometric":
        tints = np.array([rgb(tint) for tint in HYPSOMETRIC]) * 255
        place = np.linspace(0, len(tints) - 1, 256)
        return np.stack([np.interp(place, np.arange(len(tints)), tints[:, k]) for k in range(3)], 1).astype(np.uint8)
    load_matplotlib()
    from matplotlib import colormaps

    if not is_known(name):
        raise LandscapeError(
            f"Found the colour map '{name}'", expected="a name that matplotlib knows, such as viridis or magma"
        )
    return np.asarray(colormaps[name](np.arange(256), bytes=True)[:, :3])


def is_known(name: str) -> bool:
    """Whether `table` has the colour map `name`."""
    load_matplotlib()
    from matplotlib import colormaps

    return name == "hypsometric" or name in colormaps


def of_mesh(mesh: Mesh, name: str = "viridis") -> NDArray[np.uint8]:
    """(V, 3) the colour of every vertex by its height; the map spans the bounds of the height."""
    low, high = mesh.height.bounds
    share = (mesh.vertices[:, 2] - low) / (high - low) if high > low else np.zeros(len(mesh.vertices))
    return table(name)[np.clip(share * 256, 0, 255).astype(np.intp)]


def rgb(text: str) -> tuple[float, float, float]:
    """(r, g, b) in 0 … 1 of "#rrggbb"."""
    red, green, blue = (int(text[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return red, green, blue


def path_color(number: int) -> str:
    """The colour "#rrggbb" of run `number`."""
    return PATHS[number % len(PATHS)]
