"""Style: the look of the figures, independent of the user's matplotlib settings.

In: nothing. Out: a context with these settings, and figures that are saved with them. Importing this module imports
matplotlib.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

from landscape_hooks.mesh.backend import load_matplotlib
from landscape_hooks.surface.digits import Labels

load_matplotlib()

from matplotlib import rc_context, rcParamsDefault  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import Formatter  # noqa: E402

_DRAWING = (
    "axes", "contour", "errorbar", "figure", "font", "grid", "hatch", "hist", "image", "legend", "lines", "markers",
    "mathtext", "patch", "path", "pdf", "pgf", "polaraxes", "ps", "savefig", "scatter", "svg", "text", "xaxis", "xtick",
    "yaxis", "ytick",
)  # fmt: skip
"""Prefixes of the settings of matplotlib that a picture depends on."""

_OURS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#8a93a3",
    "axes.linewidth": 0.8,
    "axes.labelcolor": "#1d2430",
    "xtick.color": "#5a6475",
    "ytick.color": "#5a6475",
    "hatch.linewidth": 0.6,
    "hatch.color": "#9aa3b2",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def ours() -> AbstractContextManager[None]:
    """Context with matplotlib's defaults and the settings of this module; restores the user's style afterwards."""
    settings: Any = {key: value for key, value in rcParamsDefault.items() if key.startswith(_DRAWING)}
    settings.update(_OURS)
    return rc_context(settings)


class _Save:
    """A figure's `savefig` in this style: matplotlib reads fonts and hatching when it saves."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        with ours():
            Figure.savefig(self.figure, *args, **kwargs)


class Digits(Formatter):
    """Labels of the ticks of a linear axis, by the rule of all numbers; an offset stands at the end of the axis."""

    def __init__(self) -> None:
        self._labels = Labels()

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of one number."""
        return self._labels.texts([x])[0]

    def format_ticks(self, values: Any) -> list[str]:
        """The labels of all ticks."""
        finite = [float(value) for value in values if math.isfinite(value)]
        self._labels = Labels.between(min(finite), max(finite)) if finite else Labels()
        return self._labels.texts(values)

    def get_offset(self) -> str:
        """What the labels are above."""
        return self._labels.above


def plain_numbers(axes: Axes) -> None:
    """Write the numbers of the linear axes by the rule of all numbers."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_formatter(Digits())


def blank(size: tuple[float, float]) -> Figure:
    """An empty figure of (width, height) inches outside of pyplot, which is saved in this style.

    It is matplotlib's own class and no subclass: trackers know a figure by the name of its type.
    """
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    figure.savefig = _Save(figure)  # type: ignore[method-assign]
    return figure
