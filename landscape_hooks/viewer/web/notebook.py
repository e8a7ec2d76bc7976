"""Notebook: a surface in a cell, as the page in a frame of its own.

In: a Surface. Out: HTML for Jupyter, VS Code and Colab, and a picture for where scripts do not run, such as GitHub. The
frame is sandboxed: its script sees neither the notebook nor its cookies. A page makes a WebGL context when its cell
comes into view, and gives it back when the cell leaves, since a browser has sixteen.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from io import BytesIO

from landscape_hooks.errors import LandscapeError
from landscape_hooks.surface.surface import Surface
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.web.html import SYSTEM, landscapes_of, page

HEIGHT = 480
"""Height of a cell in pixels."""

SANDBOX = "allow-scripts allow-downloads"


@dataclass(frozen=True)
class Cell:
    """A page for the output of a cell; a notebook shows it when it is a cell's last value."""

    surface: Surface
    height: int = HEIGHT
    look: Look | None = None
    theme: str = SYSTEM
    view: str = ""

    def _repr_html_(self) -> str:
        """The page in a frame."""
        landscapes, undrawn = landscapes_of(self.surface, None, (self.look or Look()).height)
        text = page(landscapes, undrawn, look=self.look, theme=self.theme, view=self.view)
        title = escape(f"Loss surface {self.surface.name}", quote=True)
        return (
            f'<iframe srcdoc="{escape(text, quote=True)}" sandbox="{SANDBOX}" title="{title}" loading="lazy" '
            f'style="width: 100%; height: {int(self.height)}px; border: 0; border-radius: 6px"></iframe>'
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str | bytes]:
        """The page, a picture, and a line of text; what cannot be drawn is left out."""
        return bundle(self)


def bundle(cell: Cell) -> dict[str, str | bytes]:
    """What a notebook stores of a cell: HTML where there is something to draw, PNG, and text."""
    surface = cell.surface
    rows, columns = surface.shape
    steps = f", {len(surface.paths[0])} snapshots" if surface.paths else ""
    said = f"Surface '{surface.name}': {rows} x {columns} points{steps}"
    found: dict[str, str | bytes] = {}
    try:
        found["image/png"] = picture(surface)
        found["text/html"] = cell._repr_html_()
    except LandscapeError as error:  # a line has a picture and no page; a surface that is only begun has neither
        said = f"{said}. {error}"
    found["text/plain"] = said
    return found


def picture(surface: Surface) -> bytes:
    """The figure with the contour lines and the path (of a line: the curve), as PNG."""
    from landscape_hooks.export.figure import contour_figure

    file = BytesIO()
    contour_figure(surface).savefig(file, format="png", dpi=110)
    return file.getvalue()
