"""Style: the look of the figures, independent of the user's matplotlib settings.

In: nothing. Out: a context with these settings, and figures that are saved with them: PDF and PS with their fonts as
TrueType (conferences refuse Type 3), SVG with text as text, PGF in the fonts of the document. Importing this module
imports matplotlib.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from landscape_hooks.errors import LandscapeError
from landscape_hooks.mesh.backend import load_matplotlib
from landscape_hooks.surface.digits import Labels

load_matplotlib()

from matplotlib import rc_context, rcParams, rcParamsDefault  # noqa: E402
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
    "ps.fonttype": 42,
    "pgf.rcfonts": False,
}
"""Type 42 is TrueType. matplotlib's own fonts are TrueType, those of formulas too. `pgf.rcfonts` leaves the fonts of a PGF
file to the document that reads it."""

TEX = ("pdflatex", "xelatex", "lualatex")
"""Programs that measure the text of a PGF file; the first that is installed is used."""


def ours() -> AbstractContextManager[None]:
    """Context with matplotlib's defaults and the settings of this module; restores the user's style afterwards."""
    settings: Any = {key: value for key, value in rcParamsDefault.items() if key.startswith(_DRAWING)}
    settings.update(_OURS)
    return rc_context(settings)


class _Save:
    """A figure's `savefig` in this style: matplotlib reads fonts and hatching when it saves."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def __call__(self, fname: Any, *args: Any, **kwargs: Any) -> None:
        fonts = _fonts_of_pages(fname)
        with ours():
            rcParams.update(fonts)
            if _format(fname, kwargs) == "pgf":
                rcParams["pgf.texsystem"] = _tex()
            Figure.savefig(self.figure, fname, *args, **kwargs)


def _fonts_of_pages(target: object) -> dict[str, Any]:
    """The kind of fonts of a file of several pages. All its pages share them, and it is written after the last one.

    matplotlib 3.11 looks at the kind for PostScript when it writes a PDF.
    """
    module = sys.modules.get("matplotlib.backends.backend_pdf")
    pages = module is not None and isinstance(target, module.PdfPages)
    return {key: rcParams[key] for key in ("pdf.fonttype", "ps.fonttype")} if pages else {}


def _format(target: object, options: dict[str, Any]) -> str:
    """The format in which a figure is saved, as matplotlib finds it."""
    if options.get("format"):
        return str(options["format"]).lower()
    return Path(target).suffix.lstrip(".").lower() if isinstance(target, str | os.PathLike) else ""


def _tex() -> str:
    """The installed program that measures text.

    Raises
    ------
    LandscapeError
        none is installed.
    """
    for name in TEX:
        if shutil.which(name):
            return name
    raise LandscapeError(
        "A PGF file needs LaTeX, which measures its text, and there is none on the PATH",
        expected=f"one of the programs {', '.join(TEX)}",
        mend="Install TeX Live (Debian and Ubuntu: apt install texlive-latex-extra texlive-pictures; macOS: MacTeX), "
        "or write a PDF, which LaTeX includes with its fonts",
    )


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
