"""HUD: captions, axes, colour bar, read-out and the plot of the losses, drawn over the scene.

In: a Replay and the size of the picture. Out: shapes and text in the overlay's background list, the same in the
window and in files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from imgui_bundle import imgui
from numpy.typing import NDArray

from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import BETWEEN, axis_labels, caption, in_doubt
from landscape_hooks.surface.digits import text_of, texts_of
from landscape_hooks.surface.surface import Path
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.labels import place_labels
from landscape_hooks.viewer.replay.look import Rgb, Theme
from landscape_hooks.viewer.replay.replay import Replay, describe_moment, describe_place

Floats = NDArray[np.float64]


Spot = Sequence[float] | Floats


class Pen:
    """Draws in pixels of a picture that is 720 high, whatever its real size."""

    def __init__(self, target: imgui.ImDrawList, font: imgui.ImFont, unit: float) -> None:
        self._list, self._font, self.unit = target, font, unit

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
            self._font, self._pixels(size), imgui.ImVec2(round(x), round(y)), self.ink(color, alpha), text
        )

    def line(self, a: Spot, b: Spot, color: Rgb, *, width: float = 1.0, alpha: float = 1.0) -> None:
        """A straight line."""
        self._list.add_line(imgui.ImVec2(*a), imgui.ImVec2(*b), self.ink(color, alpha), width * self.unit)

    def polyline(self, points: Floats, color: Rgb, *, width: float = 1.0, alpha: float = 1.0) -> None:
        """A line through points; a NaN breaks it."""
        sound = np.asarray(np.isfinite(points).all(axis=1))
        for part in np.split(np.arange(len(points)), np.flatnonzero(~sound)):
            part = part[sound[part]]
            if len(part) > 1:
                spots: list[Any] = [imgui.ImVec2(float(x), float(y)) for x, y in points[part]]
                # by name: 1.92 and 1.93 have them in another order
                self._list.add_polyline(points=spots, col=self.ink(color, alpha), thickness=width * self.unit, flags=0)

    def box(self, a: Spot, b: Spot, color: Rgb, *, alpha: float = 1.0, rounding: float = 0.0) -> None:
        """A filled rectangle."""
        self._list.add_rect_filled(imgui.ImVec2(*a), imgui.ImVec2(*b), self.ink(color, alpha), rounding * self.unit)

    def gradient(self, a: Spot, b: Spot, top: Rgb, bottom: Rgb) -> None:
        """A rectangle from one colour to another."""
        self._list.add_rect_filled_multi_color(
            imgui.ImVec2(*a), imgui.ImVec2(*b), self.ink(top), self.ink(top), self.ink(bottom), self.ink(bottom)
        )

    def dot(self, x: float, y: float, radius: float, color: Rgb, alpha: float = 1.0) -> None:
        """A filled circle."""
        self._list.add_circle_filled(imgui.ImVec2(x, y), radius * self.unit, self.ink(color, alpha))


class Hud:
    """Draws the captions of a replay; `plot` is where the inset lies (x, y, width, height), for scrubbing in it."""

    def __init__(self) -> None:
        self.plot: tuple[float, float, float, float] | None = None
        self._corner = (0.0, 0.0)
        self._labelled: tuple[Any, list[tuple[float, float, str]]] = (None, [])

    def draw(self, replay: Replay, font: imgui.ImFont, size: tuple[int, int], *, bottom: float = 0) -> None:
        """Everything, into imgui's background list; the lowest `bottom` pixels stay free for a panel."""
        size = (size[0], size[1] - round(bottom))
        unit = min(max(min(size[1] / 720, size[0] / 1000), 0.55), 4.0)
        pen = Pen(imgui.get_background_draw_list(), font, unit)
        whole = (size[0], size[1] + round(bottom))
        self.plot = None
        if replay.landscape.paths:
            width, height = 240 * unit, 104 * unit
            self.plot = (22 * unit, size[1] - height - 40 * unit, width, height)
            self._corner = _corner(len(_moment_rows(replay)), size, unit)
        self._axes(pen, replay, whole)
        if replay.look.contours != "off":
            self._labels(pen, replay, whole)
        self._title(pen, replay)
        self._color_bar(pen, replay, size)
        if replay.landscape.paths:
            self._inset(pen, replay)
            self._read_out(pen, replay, size)

    # -- words -----------------------------------------------------------------------------------------
    def _title(self, pen: Pen, replay: Replay) -> None:
        landscape, theme = replay.landscape, replay.look.colors
        x, y = 22 * pen.unit, 16 * pen.unit
        pen.text(x, y, landscape.title, theme.ink, size=19)
        y += 27 * pen.unit
        lines = [landscape.mesh.statement]
        if landscape.surface is not None:
            lines = caption(landscape.surface, landscape.mesh.height).split(BETWEEN)
            doubts = in_doubt(landscape.surface)
            shown = [part for part in lines[:-1] if part not in doubts]
            lines = [BETWEEN.join(shown), landscape.mesh.height.statement, *doubts]
        if landscape.mesh.missing:
            counts = ", ".join(f"{count} {name}" for name, count in landscape.mesh.missing.items())
            lines.append(f"hatched: {counts} (grid points)")
        if replay.look.exaggeration != 1:
            lines[0 if len(lines) == 1 else 1] += f", exaggerated x {replay.look.exaggeration:.3g}"
        for line in lines:
            pen.text(x, y, line, theme.faint, size=13)
            y += 18 * pen.unit
        if len(landscape.paths) > 1:
            y += 6 * pen.unit
            for number, path in enumerate(landscape.paths):
                pen.dot(x + 6 * pen.unit, y + 8 * pen.unit, 5, colors.rgb(colors.path_color(number)))
                pen.text(x + 18 * pen.unit, y, path.label or f"run {number + 1}", theme.ink, size=13)
                y += 19 * pen.unit

    def hover(
        self, replay: Replay, font: imgui.ImFont, size: tuple[int, int], mouse: tuple[float, float], point: Floats
    ) -> None:
        """What is under the mouse, in a box beside it."""
        theme = replay.look.colors
        unit = min(max(min(size[1] / 720, size[0] / 1000), 0.55), 4.0)
        pen = Pen(imgui.get_foreground_draw_list(), font, unit)
        lines = describe_place(replay, point)
        width = max(pen.width(line, 12.5) for line in lines) + 20 * unit
        tall = (10 + 18 * len(lines)) * unit
        x = mouse[0] + 18 if mouse[0] + 18 + width < size[0] else mouse[0] - 18 - width
        y = min(mouse[1] + 14, size[1] - tall - 4)
        pen.box((x, y), (x + width, y + tall), theme.panel, alpha=0.90, rounding=5)
        for k, line in enumerate(lines):
            pen.text(x + 10 * unit, y + (5 + 18 * k) * unit, line, theme.ink, size=12.5)

    def _read_out(self, pen: Pen, replay: Replay, size: tuple[int, int]) -> None:
        theme, rows = replay.look.colors, _moment_rows(replay)
        x, y = _corner(len(rows), size, pen.unit)
        for name, text in rows:
            pen.text(x, y, name, theme.faint, size=13)
            pen.text(size[0] - 22 * pen.unit, y, text, theme.ink, size=14, align=1)
            y += 19 * pen.unit

    # -- colour bar ------------------------------------------------------------------------------------
    def _color_bar(self, pen: Pen, replay: Replay, size: tuple[int, int]) -> None:
        mesh, theme, unit = replay.landscape.mesh, replay.look.colors, pen.unit
        if mesh.grid is None or replay.look.colormap == "grey":
            return
        width, height = 12 * unit, min(230 * unit, 0.42 * size[1])
        x, y = size[0] - 96 * unit, 46 * unit
        table = colors.table(replay.look.line_colormap) / 255.0
        bands = 64
        for k in range(bands):
            upper, lower = table[255 - k * 255 // bands], table[255 - (k + 1) * 255 // bands]
            pen.gradient((x, y + height * k / bands), (x + width, y + height * (k + 1) / bands), upper, lower)
        pen.text(x, y - 24 * unit, "loss", theme.ink, size=13)
        low, high = mesh.height.bounds
        values, labels = replay.stage.ticks(2)
        for value, label in zip(values, labels, strict=True):
            if not low <= value <= high:
                continue
            level = y + height * (1 - ((value - low) / (high - low) if high > low else 0.5))
            pen.line((x + width, level), (x + width + 4 * unit, level), theme.faint)
            pen.text(x + width + 8 * unit, level - 7.5 * unit, label, theme.ink, size=12.5)

    # -- axes ------------------------------------------------------------------------------------------
    def _axes(self, pen: Pen, replay: Replay, size: tuple[int, int]) -> None:
        """Ticks along the floor's two near edges and up its outermost corner, labelled in data units."""
        if not replay.look.floor:
            return
        stage, camera, theme = replay.stage, replay.camera, replay.look.colors
        low, high = stage.corners
        z = stage.floor
        towards = -camera.forward
        names = axis_labels(replay.landscape.surface) if replay.landscape.surface is not None else ["x", "y"]
        for axis, other in ((0, 1), (1, 0)):
            edge = high[other] if towards[other] > 0 else low[other]
            outwards = np.zeros(3)
            outwards[other] = np.sign(edge) or 1.0
            values, labels = stage.ticks(axis)
            spots = np.full((len(values), 3), z)
            spots[:, axis] = (values - (stage.low + stage.high)[axis] / 2) * stage.scale[axis]
            spots[:, other] = edge
            self._tick_row(pen, camera, size, spots, labels, outwards, theme)
            middle = np.full(3, z)
            middle[axis], middle[other] = 0.0, edge
            self._axis_name(pen, camera, size, middle, outwards, names[axis], theme)
        self._height_axis(pen, replay, size)

    def _tick(self, pen: Pen, x: float, y: float, label: str, align: float, theme: Theme) -> None:
        """A tick's label, unless the plot of the losses lies there."""
        left = x - align * pen.width(label, 12.5)
        if self.plot is not None:
            (a, b), (c, d) = _panel(self.plot, pen.unit)
            if left < c and left + pen.width(label, 12.5) > a and y < d and y + 15 * pen.unit > b:
                return
        pen.text(x, y, label, theme.faint, size=12.5, align=align)

    def _tick_row(
        self,
        pen: Pen,
        camera: Camera,
        size: tuple[int, int],
        spots: Floats,
        labels: Sequence[str],
        outwards: Floats,
        theme: Theme,
    ) -> None:
        inner, outer = camera.project(spots, size), camera.project(spots + 0.035 * outwards, size)
        for a, b, label in zip(inner, outer, labels, strict=True):
            if np.isfinite([*a, *b]).all():
                pen.line(a[:2], b[:2], theme.faint, alpha=0.8)
                x, y, align = _beside(pen, a, b, 9)
                self._tick(pen, x, y, label, align, theme)

    def _axis_name(
        self, pen: Pen, camera: Camera, size: tuple[int, int], spot: Floats, outwards: Floats, name: str, theme: Theme
    ) -> None:
        a, b = camera.project(np.stack([spot, spot + 0.1 * outwards]), size)
        if np.isfinite([*a, *b]).all():
            x, y, align = _beside(pen, a, b, 46)
            width = pen.width(name, 13.5)
            x = float(np.clip(x - align * width, 8, max(size[0] - width - 8, 8)))
            if self.plot is not None:  # above or beside the plot of the losses
                left, upper, inset, _ = self.plot
                if y > upper + 24 * pen.unit:
                    x = max(x, left + inset + 72 * pen.unit)
                elif x < left + inset + 64 * pen.unit:
                    y = min(y, upper - 52 * pen.unit)
                corner = self._corner  # above the read-out
                if x + width > corner[0] - 10 * pen.unit and y > corner[1] - 24 * pen.unit:
                    y = corner[1] - 28 * pen.unit
            pen.text(x, min(y, size[1] - 22 * pen.unit), name, theme.ink, size=13.5)

    def _height_axis(self, pen: Pen, replay: Replay, size: tuple[int, int]) -> None:
        stage, camera, theme = replay.stage, replay.camera, replay.look.colors
        if replay.landscape.mesh.grid is None or camera.elevation > 75:
            return
        low, high = stage.corners
        corners = np.array([[x, y, low[2]] for x in (low[0], high[0]) for y in (low[1], high[1])])
        seen = camera.project(corners, size)
        if not np.isfinite(seen).all():
            return
        corner = corners[int(np.argmin(seen[:, 0]))]
        top = corner.copy()
        top[2] = high[2]
        bottom = corner.copy()
        bottom[2] = stage.floor
        a, b = camera.project([bottom, top], size)
        pen.line(a[:2], b[:2], theme.faint, alpha=0.55)
        values, labels = stage.ticks(2)
        spots = np.tile(corner, (len(values), 1))
        spots[:, 2] = stage.place(np.column_stack([np.zeros((len(values), 2)), values]))[:, 2]
        for (x, y, _), label in zip(camera.project(spots, size), labels, strict=True):
            if min(a[1], b[1]) - 1 <= y <= max(a[1], b[1]) + 1:
                pen.line((x - 5 * pen.unit, y), (x, y), theme.faint, alpha=0.8)
                self._tick(pen, x - 9 * pen.unit, y - 7.5 * pen.unit, label, 1, theme)

    def _labels(self, pen: Pen, replay: Replay, size: tuple[int, int]) -> None:
        """The loss of the heavier contour lines, where they are seen."""
        landscape, stage = replay.landscape, replay.stage
        if landscape.mesh.grid is None:
            return
        key = (id(landscape), replay.camera, size, replay.look.exaggeration)
        if self._labelled[0] != key:
            path = [replay.camera.project(stage.place(drape.points[::4]), size)[:, :2] for drape in landscape.drapes]
            avoid = np.concatenate(path) if path else np.empty((0, 2))
            places = place_labels(landscape.mesh, landscape.lines, avoid, stage, replay.camera, size)
            self._labelled = (key, places)
        dark = replay.look.colormap == "wireframe" and replay.look.theme == "dark"
        for x, y, text in self._labelled[1]:
            half, high = pen.width(text, 11.5) / 2 + 4 * pen.unit, 8 * pen.unit
            back = replay.look.colors.panel if dark else (0.05, 0.06, 0.09)
            pen.box((x - half, y - high), (x + half, y + high), back, alpha=0.62, rounding=4)
            pen.text(x, y - 7 * pen.unit, text, (1.0, 1.0, 1.0), size=11.5, align=0.5)

    # -- the plot of the losses ------------------------------------------------------------------------
    def _inset(self, pen: Pen, replay: Replay) -> None:
        theme, unit = replay.look.colors, pen.unit
        assert self.plot is not None
        x, y, width, height = self.plot
        pen.box(*_panel(self.plot, unit), theme.panel, alpha=0.0 if replay.look.transparent else 0.55, rounding=6)
        everything = [v for path in replay.landscape.paths for v in (path.loss, path.plane_loss)]
        values = np.concatenate(everything)
        values = values[np.isfinite(values)]
        if not len(values):
            return
        logarithmic = values.min() > 0 and values.max() / values.min() > 10
        change = np.log10 if logarithmic else np.asarray
        low, high = float(change(values.min())), float(change(values.max()))
        high = high if high > low else low + 1

        def place(path: Path, losses: Floats) -> Floats:
            rows = telling(losses, int(width))
            clock = replay.timeline_shares(rows / max(len(path) - 1, 1))
            with np.errstate(divide="ignore", invalid="ignore"):
                share = (change(losses[rows]) - low) / (high - low)
            return np.column_stack([x + width * clock, y + height * (1 - np.where(np.isfinite(share), share, np.nan))])

        for number, path in enumerate(replay.landscape.paths):
            color = colors.rgb(colors.path_color(number))
            pen.polyline(place(path, path.plane_loss), color, width=1.8)
            pen.polyline(place(path, path.loss), theme.ink if number == 0 else color, width=1.2, alpha=0.9)
        cursor = x + width * replay.timeline.fraction
        pen.line((cursor, y - 4 * unit), (cursor, y + height + 4 * unit), theme.ink, alpha=0.75)
        pen.line((x, y + height + 4 * unit), (x + width, y + height + 4 * unit), theme.faint, alpha=0.5)
        pen.text(x, y - 26 * unit, "loss", theme.faint, size=12.5)
        first = colors.rgb(colors.path_color(0))
        pen.line((x + 48 * unit, y - 17 * unit), (x + 66 * unit, y - 17 * unit), theme.ink, width=1.4)
        pen.text(x + 72 * unit, y - 26 * unit, "true", theme.ink, size=12.5)
        pen.line((x + 120 * unit, y - 17 * unit), (x + 138 * unit, y - 17 * unit), first, width=2)
        pen.text(x + 144 * unit, y - 26 * unit, "on the surface", theme.ink, size=12.5)
        steps = replay.landscape.paths[0].step
        clock = "step" if replay.timeline.clock == "step" else f"step, spaced by {replay.timeline.clock}"
        pen.text(x, y + height + 7 * unit, f"{steps[0]}", theme.faint, size=11.5)
        pen.text(x + width, y + height + 7 * unit, f"{steps[-1]}", theme.faint, size=11.5, align=1)
        pen.text(x + width / 2, y + height + 7 * unit, clock, theme.faint, size=11.5, align=0.5)
        pen.text(
            x + width + 54 * unit, y - 26 * unit, "log" if logarithmic else "linear", theme.faint, size=11.5, align=1
        )
        ends = texts_of((values.max(), values.min()))
        for text, level in zip(ends, (y, y + height), strict=True):
            pen.text(x + width + 6 * unit, level - 7 * unit, text, theme.faint, size=11.5)


def _panel(plot: tuple[float, float, float, float], unit: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The corners of what lies behind the plot of the losses and its words."""
    x, y, width, height = plot
    return (x - 10 * unit, y - 30 * unit), (x + width + 62 * unit, y + height + 26 * unit)


def _moment_rows(replay: Replay) -> list[tuple[str, str]]:
    """Names and words of what is known of the moment shown."""
    moment = describe_moment(replay)
    texts = {
        "step": f"{moment['step']}",
        "epoch": f"{moment['epoch']:.2f}",
        "learning rate": f"{moment['learning rate']:.3g}",
        "true loss": text_of(moment["true loss"], replay.resolution),
        "plane loss": text_of(moment["plane loss"], replay.resolution),
        "off-plane": f"{moment['off-plane']:.3g}" if moment["off-plane"] > 1e-9 else "0",
    }
    return [(name, text) for name, text in texts.items() if np.isfinite(moment[name])]


def _corner(rows: int, size: tuple[float, float], unit: float) -> tuple[float, float]:
    """The upper left corner of a read-out of so many rows."""
    return size[0] - 196 * unit, size[1] - (20 + 19 * rows) * unit


def telling(values: Floats, pixels: int) -> NDArray[np.intp]:
    """The rows of a curve that show on so many pixels: the lowest and the highest value on each, and both ends."""
    count = len(values)
    if count <= 4 * pixels:
        return np.arange(count)
    length = -(-count // pixels)
    padded = np.full(length * pixels, np.nan)
    padded[:count] = values
    bins = padded.reshape(pixels, length)
    low = np.argmin(np.where(np.isnan(bins), np.inf, bins), axis=1)
    high = np.argmax(np.where(np.isnan(bins), -np.inf, bins), axis=1)
    starts = np.arange(pixels) * length
    rows = np.concatenate([starts + low, starts + high, [0, count - 1]])
    return np.unique(np.minimum(rows, count - 1))


def _beside(pen: Pen, a: Floats, b: Floats, distance: float) -> tuple[float, float, float]:
    """Place and alignment of a text beyond `b` as seen from `a`, so that it does not lie on the line between them."""
    way = np.asarray(b[:2]) - np.asarray(a[:2])
    way = way / max(float(np.linalg.norm(way)), 1e-9)
    x, y = np.asarray(b[:2]) + distance * pen.unit * way
    return float(x), float(y) - 8 * pen.unit, 0.5 - 0.5 * float(np.clip(1.6 * way[0], -1, 1))
