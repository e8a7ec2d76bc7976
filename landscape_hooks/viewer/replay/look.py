"""Look: everything about the picture that is neither the data, the camera nor the moment. Values, no OpenGL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from landscape_hooks.errors import LandscapeError
from landscape_hooks.mesh import colors

Rgb = tuple[float, float, float]

TEXTURES = ("viridis", "cividis", "magma", "inferno", "turbo", "hypsometric", "grey", "wireframe")
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
    """The options of the picture; every one has a key, a widget and a command-line option."""

    texture: str = "viridis"
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
    """One colour as the background, for films of 256 colours."""

    def __post_init__(self) -> None:
        for name, known in (("texture", TEXTURES), ("contours", CONTOURS), ("theme", THEMES), ("height", HEIGHTS)):
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
    def colormap(self) -> str:
        """The colour map of the texture, or the one below it."""
        return self.texture if self.texture not in ("grey", "wireframe") else "viridis"

    def next(self, name: str, by: int = 1) -> Look:
        """The same with the next texture, contours, theme or height."""
        known = {"texture": TEXTURES, "contours": CONTOURS, "theme": tuple(THEMES), "height": HEIGHTS}[name]
        change: dict[str, Any] = {name: known[(known.index(getattr(self, name)) + by) % len(known)]}
        return replace(self, **change)

    def exaggerated(self, factor: float) -> Look:
        """The same with a height `factor` times as large."""
        return replace(self, exaggeration=min(max(self.exaggeration * factor, EXAGGERATION[0]), EXAGGERATION[1]))
