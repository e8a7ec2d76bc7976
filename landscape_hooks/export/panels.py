"""Panels: the contours of several surfaces in one figure, on one scale of the loss.

In: Surfaces, of one run or of several. Out: a matplotlib Figure with a panel a surface and one colour bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.export import drawing
from landscape_hooks.mesh.captions import BETWEEN
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.surface.surface import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NARROW = 2.2
"""Inches of a panel below which lines have no labels (the colour bar has), and axes short names."""


def contours_figure(
    surfaces: Sequence[Surface],
    *,
    grid: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    height: str = "auto",
    clip: tuple[float, float] = (0.0, 100.0),
    colormap: str = "viridis",
    width: float | None = None,
    aspect: str = "auto",
    style: str = "screen",
) -> Figure:
    """The contours of several surfaces, with the same colours and lines for the same losses, and one colour bar.

    Every panel has its own axes, in the units of its own plane.

    Parameters
    ----------
    surfaces
        in the order of the panels, row by row.
    grid
        rows and columns; by default one row of up to three, else as square as possible.
    names
        of the panels; by default the labels of the paths, or the surface's name.
    width
        of the figure in inches; by default 6.75 in the style "paper" and 4.2 a column, at most 12.6, else.
    height, clip, colormap, aspect, style
        as in `contour_figure`; `clip` means percentiles of all losses together.

    Raises
    ------
    SurfaceError
        a surface is a line, or there is no finite loss to draw.
    LandscapeError
        the grid has too few places, or the aspect, the style or the number of names does not fit.
    """
    drawing.check_aspect(aspect)
    surfaces = [surface.so_far() for surface in surfaces]
    rows, columns = _places(len(surfaces), grid)
    if names is not None and len(names) != len(surfaces):
        raise LandscapeError(f"Found {len(names)} names", expected=f"{len(surfaces)}, one a surface")
    lines = [surface.name for surface in surfaces if min(surface.shape) == 1]
    if lines:
        raise SurfaceError(f"The surface '{lines[0]}' is a line", expected="planes, to draw contours side by side")
    from landscape_hooks.export.style import blank, ours, style_of

    look = style_of(style)
    wide = float(width if width is not None else min(4.2 * columns, 12.6) if look.title else 6.75)
    if not 1 <= wide <= 100:
        raise LandscapeError(f"Found a width of {wide:g} inches", expected="1 to 100")
    with ours(look):
        common = common_height(surfaces, height, clip)
        meshes = [Mesh.from_surface(surface, height=common) for surface in surfaces]
        sides = [drawing.sides_of(surface, aspect) for surface in surfaces]
        extra = 0.85 if look.title else 0.6
        tall = rows * ((wide - 0.7) / columns - 0.6) * max(sides) + rows * extra + (0.6 if look.title else 0.1)
        figure = blank((wide, float(np.clip(tall, 1.2, 20))), look)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        narrow = (wide - 0.7) / columns < NARROW
        filled = None
        for number, (surface, mesh) in enumerate(zip(surfaces, meshes, strict=True)):
            filled = drawing.contours(axes[number], mesh, colormap, look, labels=not narrow) or filled
            drawing.over(axes[number], surface, mesh, sides[number], look)
            if narrow:
                _shorten(axes[number])
            name = names[number] if names is not None else name_of(surface)
            title = f"({letter(number)}) {drawing.plain_text(name)}"
            axes[number].set_title(title, loc="left", fontsize=look.text, color=drawing.INK)
        for empty in axes[len(surfaces) :]:
            empty.set_axis_off()
        if filled is not None:
            drawing.bar(figure, filled, meshes[0], look, beside=list(axes), sides=None)
        if look.notes:
            words = [_words(surface, mesh, aspect) for surface, mesh in zip(surfaces, meshes, strict=True)]
            figure.supxlabel(_together(words, wide), fontsize=drawing.SMALL, color=drawing.QUIET, x=0.01, ha="left")
    return figure


def common_height(surfaces: Sequence[Surface], height: str, clip: tuple[float, float]) -> Height:
    """The height that fits the losses of all surfaces."""
    losses = [np.where(surface.present, surface.loss, np.nan).ravel() for surface in surfaces]
    return Height.choose(np.concatenate(losses), height, clip)


def captions_of(surfaces: Sequence[Surface], height: str, aspect: str) -> list[str]:
    """What defines each panel, for the text below the figure; their `height` is the common one."""
    surfaces = [surface.so_far() for surface in surfaces]
    common = common_height(surfaces, height, (0.0, 100.0))
    return [_words(surface, Mesh.from_surface(surface, height=common), aspect) for surface in surfaces]


def _words(surface: Surface, mesh: Mesh, aspect: str) -> str:
    """The caption of a panel, with what is hatched: a narrow panel has no place for it."""
    hatched = [f"{name}: {count}" for name, count in mesh.missing.items()]
    words = drawing.caption_of(surface, mesh.height, drawing.sides_of(surface, aspect))
    return words + (f"{BETWEEN}hatched points: {', '.join(hatched)}" if hatched else "")


def name_of(surface: Surface) -> str:
    """What a panel is called: its runs, or the name of the surface."""
    return ", ".join(path.label for path in surface.paths if path.label) or surface.name


def letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    first, last = divmod(number, 26)
    return (letter(first - 1) if first else "") + chr(ord("a") + last)


def _shorten(axes: Axes) -> None:
    """Leave words that fit a narrow panel: short names of the axes. The caption says what is hatched."""
    axes.set_xlabel(axes.get_xlabel().partition(" (")[0])
    axes.set_ylabel(axes.get_ylabel().partition(" (")[0])
    for text in list(axes.texts):
        if text.get_text().startswith("hatched"):
            text.remove()


def _places(count: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns for so many panels."""
    if not count:
        raise LandscapeError("There is no surface to draw", expected="at least one")
    if grid is None:
        columns = count if count <= 3 else int(np.ceil(np.sqrt(count)))
        return -(-count // columns), columns
    if min(grid) < 1 or grid[0] * grid[1] < count:
        raise LandscapeError(f"Found the grid {grid[0]}x{grid[1]} for {count} surfaces", expected="a place a surface")
    return grid


def _together(words: list[str], inches: float) -> str:
    """The captions as one text: once where they are equal, else one a panel."""
    texts = words[:1] if len(set(words)) == 1 else [f"({letter(n)}) {text}" for n, text in enumerate(words)]
    texts[-1] += BETWEEN + "one scale of the loss"
    return "\n".join(line for text in texts for line in drawing.lines_of(text, inches - 0.3))
