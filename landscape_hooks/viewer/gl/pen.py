"""Pen: draws shapes and texts into imgui's list, in pixels of a picture that is 720 high, whatever its real size.

In: places, colours, texts. Out: what the overlay draws. HUD and plot use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from imgui_bundle import imgui
from numpy.typing import NDArray

from landscape_hooks.viewer.replay.look import Rgb

Floats = NDArray[np.float64]
Spot = Sequence[float] | Floats


def unit_of(size: tuple[float, float]) -> float:
    """How much larger than one pixel everything is in a picture of this size."""
    return min(max(min(size[1] / 720, size[0] / 1000), 0.55), 4.0)


class Pen:
    """Draws in pixels of a picture that is 720 high, whatever its real size."""

    def __init__(
        self, target: imgui.ImDrawList, font: imgui.ImFont, unit: float, origin: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self._list, self._font, self.unit, self._origin = target, font, unit, origin

    def _at(self, place: Spot) -> imgui.ImVec2:
        """A place of the picture, or of a pane in it that begins at `origin`, as imgui takes it."""
        return imgui.ImVec2(float(place[0]) + self._origin[0], float(place[1]) + self._origin[1])

    @staticmethod
    def ink(color: Sequence[float], alpha: float = 1.0) -> int:
        """A colour as imgui packs it."""
        return int(imgui.color_convert_float4_to_u32(imgui.ImVec4(color[0], color[1], color[2], alpha)))

    def width(self, text: str, size: float = 14.0) -> float:
        """Width of a text in pixels of the picture."""
        return float(imgui.calc_text_size(text).x) * self._pixels(size) / imgui.get_font_size()

    def _pixels(self, size: float) -> int:
        """Size of a font in whole pixels: between them small dots get lost."""
        return max(round(size * self.unit), 9)

    def text(
        self, x: float, y: float, text: str, color: Rgb, *, size: float = 14.0, align: float = 0.0, alpha: float = 1.0
    ) -> None:
        """Text whose top is at `y`; `align` 0 starts, 0.5 is centred, 1 ends at `x`. Drawn on whole pixels."""
        x -= align * self.width(text, size)
        self._list.add_text(
            self._font, self._pixels(size), self._at((round(x), round(y))), self.ink(color, alpha), text
        )

    def line(self, a: Spot, b: Spot, color: Rgb, *, width: float = 1.0, alpha: float = 1.0) -> None:
        """A straight line."""
        self._list.add_line(self._at(a), self._at(b), self.ink(color, alpha), width * self.unit)

    def polyline(self, points: Floats, color: Rgb, *, width: float = 1.0, alpha: float = 1.0) -> None:
        """A line through points; a NaN breaks it."""
        sound = np.asarray(np.isfinite(points).all(axis=1))
        for part in np.split(np.arange(len(points)), np.flatnonzero(~sound)):
            part = part[sound[part]]
            if len(part) > 1:
                spots: list[Any] = [self._at(place) for place in points[part]]
                # by name: 1.92 and 1.93 have them in another order
                self._list.add_polyline(points=spots, col=self.ink(color, alpha), thickness=width * self.unit, flags=0)

    def dashes(self, points: Floats, color: Rgb, *, width: float = 1.0, alpha: float = 1.0) -> None:
        """A dashed line through points, by its length; a NaN breaks it."""
        period = 7 * self.unit
        lengths = np.nan_to_num(np.linalg.norm(np.diff(points, axis=0), axis=1))
        at = np.concatenate([[0.0], np.cumsum(lengths)])
        places = np.union1d(at, np.arange(0, at[-1], period / 2)) if len(at) > 1 else at
        spots = np.column_stack([np.interp(places, at, points[:, axis]) for axis in (0, 1)])
        drawn = np.floor(places / (period / 2) + 1e-9).astype(int) % 2 == 0
        ends = np.flatnonzero(drawn[:-1])
        for k in ends:
            if np.isfinite(spots[k : k + 2]).all():
                self.line(spots[k], spots[k + 1], color, width=width, alpha=alpha)

    def box(self, a: Spot, b: Spot, color: Rgb, *, alpha: float = 1.0, rounding: float = 0.0) -> None:
        """A filled rectangle."""
        self._list.add_rect_filled(self._at(a), self._at(b), self.ink(color, alpha), rounding * self.unit)

    def gradient(self, a: Spot, b: Spot, top: Rgb, bottom: Rgb) -> None:
        """A rectangle from one colour to another."""
        self._list.add_rect_filled_multi_color(
            self._at(a), self._at(b), self.ink(top), self.ink(top), self.ink(bottom), self.ink(bottom)
        )

    def dot(self, x: float, y: float, radius: float, color: Rgb, alpha: float = 1.0) -> None:
        """A filled circle."""
        self._list.add_circle_filled(self._at((x, y)), radius * self.unit, self.ink(color, alpha))
