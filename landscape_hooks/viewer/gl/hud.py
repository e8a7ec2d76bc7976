"""HUD: captions, axes, colour bar, read-out and the plot of the losses, drawn over the scene.

In: a Replay and the size of the picture. Out: shapes and text in the overlay's background list, the same in the
window and in files. No label lies on another, on the plot, the read-out or a panel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from imgui_bundle import imgui
from numpy.typing import NDArray

from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import BETWEEN, axis_labels, caption, in_doubt, said_of_height
from landscape_hooks.viewer.gl.bar import bar_box, draw_bar
from landscape_hooks.viewer.gl.pen import Pen, unit_of
from landscape_hooks.viewer.gl.plot import Plot, draw_plot, draw_read_out, panel_of, read_out_box
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.labels import place_labels, place_names, visible
from landscape_hooks.viewer.replay.look import Theme
from landscape_hooks.viewer.replay.replay import Replay, describe_place
from landscape_hooks.viewer.replay.taken import Box, Taken

Floats = NDArray[np.float64]


class Hud:
    """Draws the captions of a replay; `plot` is where the inset lies (x, y, width, height), for scrubbing in it."""

    def __init__(self) -> None:
        self.plot: Plot | None = None
        self._taken = Taken((0, 0))
        self._covered: list[Box] = []
        self._labelled: tuple[Any, list[tuple[float, float, str]]] = (None, [])

    def draw(
        self,
        replay: Replay,
        font: imgui.ImFont,
        size: tuple[int, int],
        *,
        bottom: float = 0,
        covered: Iterable[Box] = (),
        origin: tuple[float, float] = (0.0, 0.0),
        bar: bool = True,
    ) -> None:
        """Everything, into imgui's background list; the lowest `bottom` pixels stay free for a panel.

        `covered` are rectangles under panels: no label of an axis or a line lies there. A pane of the picture begins
        at `origin`, from where all places are counted. Without `bar` there is no colour bar: another pane has it.
        """
        whole, size = size, (size[0], size[1] - round(bottom))
        pen = Pen(imgui.get_background_draw_list(), font, unit_of(size), origin)
        unit = pen.unit
        self.plot = None
        self._taken = Taken(size)
        title = self._title_lines(pen, replay, size)
        self._taken.take(self._title_box(pen, replay, title))
        if (box_of_bar := bar_box(pen, replay, size) if bar else None) is not None:
            self._taken.take(box_of_bar)
        box: Box | None = None
        if replay.landscape.paths:
            box = read_out_box(pen, replay, size)
            width, height = 240 * unit, 104 * unit
            self.plot = (22 * unit, size[1] - height - 40 * unit, width, height)
            strip = replay.landscape.strip is not None
            panel = panel_of(self.plot, unit, strip=strip)
            if box[0] - 12 * unit < panel[2] and box[1] < panel[3]:  # above a read-out that is too wide to be beside it
                above = (self.plot[0], box[1] - height - 40 * unit, width, height)
                self.plot = None if replay.arrangement == "side by side" else above  # a narrow pane is for the surface
            if self.plot is not None:
                self._taken.take(panel_of(self.plot, unit, strip=strip))
            self._taken.take((box[0] - 8 * unit, box[1] - 4 * unit, size[0], size[1]))
        self._covered = list(covered)
        self._names(pen, replay, whole, size)
        labels = Taken(size, self._taken.boxes)
        for area in self._covered:
            self._taken.take(area)
        self._axes(pen, replay, whole)
        if replay.look.contours != "off":
            self._labels(pen, replay, whole, labels)
        self._title(pen, replay, title)
        if box_of_bar is not None:
            draw_bar(pen, replay, box_of_bar)
        if self.plot is not None:
            draw_plot(pen, replay, self.plot)
        if box is not None:
            draw_read_out(pen, replay, box)

    # -- words -----------------------------------------------------------------------------------------
    def _title_lines(self, pen: Pen, replay: Replay, size: tuple[int, int]) -> list[str]:
        """The lines under the title, broken where the colour bar begins."""
        landscape = replay.landscape
        lines = [landscape.mesh.statement]
        if landscape.surface is not None:
            lines = caption(landscape.surface, landscape.mesh.height, replay.stage.stretch).split(BETWEEN)
            doubts = in_doubt(landscape.surface)
            shown = [part for part in lines[:-1] if part not in doubts]
            scale = said_of_height(landscape.mesh.height)
            scale += f", {landscape.difference.statement}" if landscape.difference is not None else ""
            lines = [BETWEEN.join(shown), scale, *doubts]
        if landscape.mesh.missing:
            counts = ", ".join(f"{count} {name}" for name, count in landscape.mesh.missing.items())
            lines.append(f"hatched: {counts} (grid points)")
        if replay.look.exaggeration != 1:
            lines[0 if len(lines) == 1 else 1] += f", exaggerated x {replay.look.exaggeration:.3g}"
        return [part for line in lines for part in _broken(pen, line, size[0] - 150 * pen.unit)]

    def _title_box(self, pen: Pen, replay: Replay, lines: list[str]) -> Box:
        """What the title, the lines and the legend of the runs take."""
        paths = replay.landscape.paths
        names = [path.label or f"run {n + 1}" for n, path in enumerate(paths)] if len(paths) > 1 else []
        widths = [pen.width(replay.landscape.title, 19), *(pen.width(line, 13) for line in lines)]
        widths += [pen.width(name, 13) + 18 * pen.unit for name in names]
        tall = 43 + 18 * len(lines) + (6 + 19 * len(names) if names else 0)
        return (0.0, 0.0, max(widths) + 30 * pen.unit, tall * pen.unit)

    def _title(self, pen: Pen, replay: Replay, lines: list[str]) -> None:
        landscape, theme = replay.landscape, replay.look.colors
        x, y = 22 * pen.unit, 16 * pen.unit
        pen.text(x, y, landscape.title, theme.ink, size=19)
        y += 27 * pen.unit
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
        self,
        replay: Replay,
        font: imgui.ImFont,
        size: tuple[int, int],
        mouse: tuple[float, float],
        point: Floats,
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """What is under the mouse, in a box beside it; the mouse is counted from `origin`."""
        theme = replay.look.colors
        pen = Pen(imgui.get_foreground_draw_list(), font, unit_of(size), origin)
        unit = pen.unit
        x, y, right, low = self.hover_box(replay, font, size, mouse, point)
        pen.box((x, y), (right, low), theme.panel, alpha=0.94, rounding=5)
        for k, line in enumerate(describe_place(replay, point)):
            pen.text(x + 10 * unit, y + (5 + 18 * k) * unit, line, theme.ink, size=12.5)

    def hover_box(
        self, replay: Replay, font: imgui.ImFont, size: tuple[int, int], mouse: tuple[float, float], point: Floats
    ) -> Box:
        """Where the box of `hover` lies."""
        pen = Pen(imgui.get_foreground_draw_list(), font, unit_of(size))
        lines = describe_place(replay, point)
        width = max(pen.width(line, 12.5) for line in lines) + 20 * pen.unit
        tall = (10 + 18 * len(lines)) * pen.unit
        x = mouse[0] + 18 if mouse[0] + 18 + width < size[0] else max(mouse[0] - 18 - width, 0.0)
        y = max(min(mouse[1] + 14, size[1] - tall - 4), 0.0)
        return (x, y, x + width, y + tall)

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
        edges = []
        for axis, other in ((0, 1), (1, 0)):
            edge = high[other] if towards[other] > 0 else low[other]
            outwards = np.zeros(3)
            outwards[other] = np.sign(edge) or 1.0
            values, labels = stage.ticks(axis)
            spots = np.full((len(values), 3), z)
            spots[:, axis] = (values - (stage.low + stage.high)[axis] / 2) * stage.scale[axis]
            spots[:, other] = edge
            self._tick_row(pen, camera, size, spots, labels, outwards, theme)
            places = np.full((9, 3), z)
            places[:, other] = edge
            places[:, axis] = np.array([0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.4, -0.4]) * (high - low)[axis]
            edges.append((places, outwards, stage.labels(axis).name(names[axis])))
        self._height_axis(pen, replay, size)
        for places, outwards, name in edges:
            self._axis_name(pen, camera, size, places, outwards, name, theme)

    def _tick(self, pen: Pen, x: float, y: float, label: str, align: float, theme: Theme) -> bool:
        """A tick's label, unless something else lies there."""
        width = pen.width(label, 12.5)
        left = x - align * width
        box = (left - 2, y, left + width + 2, y + 15 * pen.unit)
        if not self._taken.is_free(box):
            return False
        self._taken.take(box)
        pen.text(x, y, label, theme.faint, size=12.5, align=align)
        return True

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
        self, pen: Pen, camera: Camera, size: tuple[int, int], places: Floats, outwards: Floats, name: str, theme: Theme
    ) -> None:
        """The name of an axis beside the middle of its edge, or beside the nearest place where it lies on nothing."""
        name = _shortened(pen, name, 0.45 * size[0])
        width, tall = pen.width(name, 13.5), 17 * pen.unit
        inner, outer = camera.project(places, size), camera.project(places + 0.1 * outwards, size)
        tried: list[tuple[float, float]] = []
        for distance in (46, 34, 60, 24, 80):
            for a, b in zip(inner, outer, strict=True):
                if np.isfinite([*a, *b]).all():
                    x, y, align = _beside(pen, a, b, distance)
                    tried.append((x - align * width, y))
        if not tried:
            return
        first = min(max(tried[0][0], 8.0), max(size[0] - width - 8, 8.0)), tried[0][1]
        levels = np.arange(size[1] - 2 * tall, tall, -tall)
        inside = [(float(x), float(y)) for x in np.linspace(8, max(size[0] - width - 8, 8), 12) for y in levels]
        inside.sort(key=lambda place: float(np.hypot(place[0] - first[0], place[1] - first[1])))
        if any(_meet(_around(first, width, tall), area) for area in self._covered):
            inside = []  # under a panel: no name stands far from its axis
        free = (place for place in [*tried, *inside] if self._taken.is_free(_around(place, width, tall)))
        if (place := next(free, None)) is None:
            return
        x, y = place
        self._taken.take(_around((x, y), width, tall))
        pen.text(x, y, name, theme.ink, size=13.5)

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

    def _names(self, pen: Pen, replay: Replay, size: tuple[int, int], within: tuple[int, int]) -> None:
        """The names of the marks, beside their points."""
        landscape, camera, stage = replay.landscape, replay.camera, replay.stage
        if not landscape.spots:
            return

        def half(text: str) -> tuple[float, float]:
            return pen.width(text, 12.5) / 2 + 5 * pen.unit, 9 * pen.unit

        places = stage.place(landscape.spot_points)
        points = camera.project(places, size)[:, :2]
        seen = visible(landscape.mesh, stage, camera, places) | replay.look.xray
        shown = [k for k in np.flatnonzero(seen) if np.isfinite(points[k]).all()]
        paths = [camera.project(stage.place(drape.points), size)[:, :2] for drape in landscape.drapes]
        free = Taken(within, [*self._taken.boxes, *self._covered])
        names = [landscape.spots[k].name for k in shown]
        theme = replay.look.colors
        for x, y, name in place_names(names, points[shown], np.concatenate([*paths, points]), free, half, 9 * pen.unit):
            wide, high = half(name)
            box = (x - wide, y - high, x + wide, y + high)
            self._taken.take(box)
            pen.box(box[:2], box[2:], theme.panel, alpha=0.8, rounding=4)
            pen.text(x, y - 7.5 * pen.unit, name, theme.ink, size=12.5, align=0.5)

    def _labels(self, pen: Pen, replay: Replay, size: tuple[int, int], free: Taken) -> None:
        """The loss of the heavier contour lines, where they are seen."""
        landscape, stage = replay.landscape, replay.stage
        if landscape.mesh.grid is None:
            return

        def half(text: str) -> tuple[float, float]:
            return pen.width(text, 11.5) / 2 + 4 * pen.unit, 8 * pen.unit

        key = (id(landscape), replay.camera, size, replay.look, tuple(free.boxes))
        if self._labelled[0] != key:
            path = [replay.camera.project(stage.place(drape.points[::4]), size)[:, :2] for drape in landscape.drapes]
            avoid = np.concatenate(path) if path else np.empty((0, 2))
            places = place_labels(landscape.mesh, landscape.lines, avoid, stage, replay.camera, size, free, half)
            self._labelled = (key, places)
        dark = replay.look.colormap == "wireframe" and replay.look.theme == "dark"
        for x, y, text in self._labelled[1]:
            wide, high = half(text)
            if not self._taken.is_free((x - wide, y - high, x + wide, y + high)):
                continue
            back = replay.look.colors.panel if dark else (0.05, 0.06, 0.09)
            pen.box((x - wide, y - high), (x + wide, y + high), back, alpha=0.62, rounding=4)
            pen.text(x, y - 7 * pen.unit, text, (1.0, 1.0, 1.0), size=11.5, align=0.5)


def _around(place: tuple[float, float], width: float, tall: float) -> Box:
    """A text at a place with some space beside it."""
    return (place[0] - 6, place[1], place[0] + width + 6, place[1] + tall)


def _meet(one: Box, other: Box) -> bool:
    """Whether two rectangles have a part in common."""
    return one[0] < other[2] and one[2] > other[0] and one[1] < other[3] and one[3] > other[1]


def _broken(pen: Pen, text: str, width: float) -> list[str]:
    """A line as lines that are no wider, broken between its words."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and pen.width(longer, 13) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _shortened(pen: Pen, text: str, width: float) -> str:
    """A text that is no wider, with an ellipsis where it was longer."""
    if pen.width(text, 13.5) <= width:
        return text
    count = next((n for n in range(len(text), 0, -1) if pen.width(text[:n] + "…", 13.5) <= width), 1)
    return text[:count] + "…"


def _beside(pen: Pen, a: Floats, b: Floats, distance: float) -> tuple[float, float, float]:
    """Place and alignment of a text beyond `b` as seen from `a`, so that it does not lie on the line between them."""
    way = np.asarray(b[:2]) - np.asarray(a[:2])
    way = way / max(float(np.linalg.norm(way)), 1e-9)
    x, y = np.asarray(b[:2]) + distance * pen.unit * way
    return float(x), float(y) - 8 * pen.unit, 0.5 - 0.5 * float(np.clip(1.6 * way[0], -1, 1))
