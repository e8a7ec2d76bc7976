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
from dataclasses import dataclass
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
"""Type 42 is TrueType. matplotlib's own fonts are TrueType, those of formulas too. `pgf.rcfonts` leaves the fonts of a
PGF file to the document that reads it."""

TEX = ("pdflatex", "xelatex", "lualatex")
"""Programs that measure the text of a PGF file; the first that is installed is used."""


@dataclass(frozen=True)
class Style:
    """How a figure looks: settings of matplotlib beside ours, sizes of letters in points, and what is left out.

    Attributes
    ----------
    title, notes
        whether the figure has a title, and the caption that says what it shows.
    text, small, tiny
        points of the letters of the axes' names, of legends and captions, and of labels on lines.
    thin
        factor of the widths of lines.
    drop
        points from the axes down to the legend.
    dashes
        whether paths differ by their dashes too, for print in grey.
    """

    name: str
    settings: dict[str, Any]
    title: bool = True
    notes: bool = True
    text: float = 9.0
    small: float = 8.0
    tiny: float = 7.0
    thin: float = 1.0
    dashes: bool = False
    drop: float = 32.0


_PRINT = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # a Times, as most proceedings are set in; matplotlib brings it
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.linewidth": 0.5,
    "axes.edgecolor": "black",
    "axes.labelcolor": "black",
    "xtick.color": "black",
    "ytick.color": "black",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.labelpad": 2,
    "grid.linewidth": 0.4,
    **{
        f"{axis}tick.{key}": value
        for axis in "xy"
        for key, value in (
            ("major.width", 0.5),
            ("minor.width", 0.4),
            ("major.size", 2.5),
            ("minor.size", 1.5),
            ("major.pad", 2),
        )
    },
    "savefig.dpi": 600,
    "figure.constrained_layout.w_pad": 0.02,
    "figure.constrained_layout.h_pad": 0.02,
}

SCREEN = Style("screen", {})
PAPER = Style("paper", _PRINT, title=False, notes=False, text=8, small=7, tiny=6, thin=0.6, dashes=True, drop=26)
STYLES = {"screen": SCREEN, "paper": PAPER}


def style_of(name: str) -> Style:
    """The style of a name.

    Raises
    ------
    LandscapeError
        there is none of that name.
    """
    if name not in STYLES:
        raise LandscapeError(f"Found the style '{name}'", expected=f"one of {', '.join(STYLES)}")
    return STYLES[name]


def users() -> Style:
    """The style for axes of the user's own: letters by the user's settings; title and caption are the user's."""
    size = float(rcParams["font.size"])
    return Style("user's", {}, title=False, notes=False, text=size, small=0.85 * size, tiny=0.75 * size, thin=0.8)


def ours(style: Style = SCREEN) -> AbstractContextManager[None]:
    """Context with matplotlib's defaults and the settings of this module; restores the user's style afterwards."""
    settings: Any = {key: value for key, value in rcParamsDefault.items() if key.startswith(_DRAWING)}
    settings.update(_OURS)
    settings.update(style.settings)
    return rc_context(settings)


class _Save:
    """A figure's `savefig` in this style: matplotlib reads fonts and hatching when it saves."""

    def __init__(self, figure: Figure, style: Style) -> None:
        self.figure = figure
        self.style = style

    def __call__(self, fname: Any, *args: Any, **kwargs: Any) -> None:
        fonts = _fonts_of_pages(fname)
        with ours(self.style):
            rcParams.update(fonts)
            if _format(fname, kwargs) == "pgf":
                rcParams["pgf.texsystem"] = _tex()
            Figure.savefig(self.figure, fname, *args, **kwargs)


def _fonts_of_pages(target: object) -> Any:
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
        return [text.replace("-", "\N{MINUS SIGN}") for text in self._labels.texts(values)]

    def get_offset(self) -> str:
        """What the labels are above."""
        return self._labels.above


def plain_numbers(axes: Axes) -> None:
    """Write the numbers of the linear axes by the rule of all numbers."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_formatter(Digits())


def blank(size: tuple[float, float], style: Style = SCREEN) -> Figure:
    """An empty figure of (width, height) inches outside of pyplot, which is saved in this style.

    It is matplotlib's own class and no subclass: trackers know a figure by the name of its type.
    """
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    figure.savefig = _Save(figure, style)  # type: ignore[method-assign]
    return figure
