"""Look: the options of the picture apart from the data, the camera and the moment shown. Values, no OpenGL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from landscape_hooks.errors import LandscapeError
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.stage import ASPECTS

Rgb = tuple[float, float, float]

COLORMAPS = ("viridis", "cividis", "magma", "inferno", "turbo", "hypsometric", "grey", "wireframe")
"""What the key C goes through; any other colour map of matplotlib can be named as well."""

CONTOURS = ("shader", "marching squares", "off")
HEIGHTS = ("auto", "log10", "linear", "clipped")
EXAGGERATION = (0.2, 5.0)


@dataclass(frozen=True)
class Theme:
    """Colours of everything that is not data."""

    name: str
    top: Rgb
    bottom: Rgb
    ink: Rgb
    faint: Rgb
    casing: Rgb
    panel: Rgb


THEMES = {
    "dark": Theme(
        "dark",
        colors.rgb("#2b3242"),
        colors.rgb("#10131a"),
        colors.rgb("#e8ecf4"),
        colors.rgb("#8e99ad"),
        colors.rgb("#0b0e14"),
        colors.rgb("#161b25"),
    ),
    "light": Theme(
        "light",
        colors.rgb("#ffffff"),
        colors.rgb("#e9edf3"),
        colors.rgb("#1d2430"),
        colors.rgb("#7d8798"),
        colors.rgb("#ffffff"),
        colors.rgb("#ffffff"),
    ),
}


@dataclass(frozen=True)
class Look:
    """The options of the picture.

    Attributes
    ----------
    colormap
        one of `COLORMAPS`, or any colour map of matplotlib. "hypsometric" has the tints of an atlas, one a contour
        interval; "grey" shades the surface in one colour; "wireframe" draws the grid's lines only.
    contours
        "shader" (lines by the graphics card), "marching squares" (lines as geometry) or "off".
    theme
        "dark" or "light": the background and everything that is not data.
    height
        "auto", "log10", "linear", or "clipped" (at the 1st and 95th percentile of the loss).
    exaggeration
        factor on the height, 0.2 to 5.
    aspect
        "auto" (the shorter side of a narrow plane is stretched) or "equal" (both sides have the same scale).
    shading
        strength of the light, 0 (none) to 1.
    floor, true_loss, xray, captions, critical
        whether the floor with its axes, the loss at the snapshots themselves, the path behind hills, the captions, and
        the minima and saddles of the grid are drawn.
    transparent
        whether a picture has no background.
    plain
        whether the background has one colour, as an animation of 256 colours needs it.

    Raises
    ------
    LandscapeError
        a value is not one of these.
    """

    colormap: str = "viridis"
    contours: str = "shader"
    theme: str = "dark"
    height: str = "auto"
    exaggeration: float = 1.0
    shading: float = 1.0
    floor: bool = True
    true_loss: bool = True
    xray: bool = True
    captions: bool = True
    transparent: bool = False
    plain: bool = False
    aspect: str = "auto"
    critical: bool = True

    def __post_init__(self) -> None:
        if self.colormap not in COLORMAPS and not colors.is_known(self.colormap):
            raise LandscapeError(
                f"Found the colour map '{self.colormap}'",
                expected=f"one of {', '.join(COLORMAPS)}, or another colour map of matplotlib",
            )
        for name, known in (("contours", CONTOURS), ("theme", THEMES), ("height", HEIGHTS), ("aspect", ASPECTS)):
            if getattr(self, name) not in known:
                raise LandscapeError(
                    f"Found the {name} '{getattr(self, name)}'", expected=f"one of: {', '.join(known)}"
                )

        for name, (low, high) in (("exaggeration", EXAGGERATION), ("shading", (0.0, 1.0))):
            if not low <= getattr(self, name) <= high:
                raise LandscapeError(f"Found the {name} {getattr(self, name):g}", expected=f"{low:g} to {high:g}")

    @property
    def colors(self) -> Theme:
        """The theme's colours."""
        return THEMES[self.theme]

    @property
    def line_colormap(self) -> str:
        """The colour map of lines and of the colour bar: `colormap`, or viridis where the surface itself has none."""
        return self.colormap if self.colormap not in ("grey", "wireframe") else "viridis"

    def next(self, name: str, by: int = 1) -> Look:
        """The same with the next colormap, contours, theme or height; after one that is not listed comes the first."""
        known = {"colormap": COLORMAPS, "contours": CONTOURS, "theme": tuple(THEMES), "height": HEIGHTS}[name]
        now = getattr(self, name)
        place = known.index(now) if now in known else min(-by, 0)
        change: dict[str, Any] = {name: known[(place + by) % len(known)]}
        return replace(self, **change)

    def exaggerated(self, factor: float) -> Look:
        """The same with a height `factor` times as large."""
        return replace(self, exaggeration=min(max(self.exaggeration * factor, EXAGGERATION[0]), EXAGGERATION[1]))
