"""Sheet: what all figures of curves share: the empty figure, the style, the look of axes, and what a function drew.

In: a size and a style, or the caller's axes. Out: a matplotlib Figure to draw on, or a `Drawn`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from landscape_hooks.export.style import Style


@dataclass(frozen=True)
class Drawn:
    """What a figure function drew into the caller's axes.

    Attributes
    ----------
    axes
        the caller's axes, one or two.
    artists
        the artists that were added to them, in the order of drawing.
    mappable
        what `figure.colorbar` takes, or None where nothing is coloured by the loss.
    caption
        what defines the picture, for the text below the figure.
    """

    axes: tuple[Axes, ...]
    artists: tuple[Artist, ...]
    mappable: ScalarMappable | None
    caption: str


def looks(style: str, ax: object | None) -> tuple[Style, AbstractContextManager[None]]:
    """The style, and the context to draw in: the caller's axes keep the caller's settings."""
    from landscape_hooks.export.style import ours, style_of, users

    if ax is not None:
        return users(), nullcontext()
    look = style_of(style)
    return look, ours(look)


def inches_of(size: tuple[float, float] | None, width: float | None, look: Style) -> float:
    """The width of a figure in inches."""
    if size is not None and width is not None:
        raise LandscapeError(f"Found the size {size} and the width {width}", expected="one of both, in inches")
    wide = float(size[0] if size is not None else width if width is not None else 6.4 if look.title else 3.25)
    if size is None and not 1 <= wide <= 100:
        raise LandscapeError(f"Found a width of {wide:g} inches", expected="1 to 100")
    return wide


def children(*axes: Axes) -> list[Artist]:
    """The artists that axes have now."""
    return [child for one in axes for child in one.get_children()]


def added(before: list[Artist], *axes: Axes) -> tuple[Artist, ...]:
    """The artists that the axes have, and had not."""
    known = set(map(id, before))
    return tuple(child for child in children(*axes) if id(child) not in known)


def sheet(size: tuple[float, float] | None, width: float | None, look: Style, ratio: float) -> Figure:
    """An empty figure for curves, whose height is a `ratio` of its width."""
    from landscape_hooks.export.style import blank

    inches = inches_of(size, width, look)
    return blank(size or (inches, ratio * inches), look)


def log_if_wide(axes: Axes, values: NDArray[np.float64]) -> None:
    """A logarithmic axis for losses over more than a decade."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 10:
        axes.set_yscale("log")


def scaled(axes: Axes, values: NDArray[np.float64]) -> None:
    """The same, with labels that do not crowd low axes."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    log_if_wide(axes, values)
    if axes.get_yscale() == "log":
        finite = values[np.isfinite(values)]
        if finite.max() / finite.min() < 1e3:
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=12))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def curves(axes: Axes) -> None:
    """The look of axes with curves."""
    from landscape_hooks.export.style import plain_numbers

    plain_numbers(axes)
    axes.grid(color="#e3e6eb", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
