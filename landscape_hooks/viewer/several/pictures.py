"""Pictures: the scenes and captions of all panes, drawn with OpenGL into one framebuffer, in the window and in files.

In: a Replay and a framebuffer. Out: pixels. There is one camera, one height and one colour bar for all panes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from imgui_bundle import imgui
from numpy.typing import NDArray

from landscape_hooks.viewer.gl.gpu import Framebuffer
from landscape_hooks.viewer.gl.hud import Hud
from landscape_hooks.viewer.gl.pen import Pen, unit_of
from landscape_hooks.viewer.gl.plot import Plot
from landscape_hooks.viewer.gl.scene import Scene
from landscape_hooks.viewer.replay.replay import Replay
from landscape_hooks.viewer.replay.taken import Box
from landscape_hooks.viewer.several.panes import Pane, columns_of, panes, under


class Pictures:
    """Needs a current OpenGL context. A pane that is shown again finds its buffers still there."""

    def __init__(self) -> None:
        self._scenes: list[Scene] = []
        self._huds: list[Hud] = []

    def draw(
        self,
        replay: Replay,
        target: Framebuffer,
        size: tuple[int, int],
        *,
        scale: float,
        line_scale: float,
        coarse: bool = False,
        still: Framebuffer | None = None,
    ) -> None:
        """Draw all panes of a picture of `size` into `target`, which has `scale` pixels a pixel of the picture.

        `line_scale`, `coarse` and `still` are those of `Scene.draw`.
        """
        shown = replay.panes
        while len(self._scenes) > len(shown):
            self._scenes.pop().delete()
        areas, theme = panes(len(shown), size), replay.look.colors
        if len(shown) % columns_of(len(shown), size) and not replay.look.transparent:  # a cell that stays empty
            target.fill([(a + b) / 2 for a, b in zip(theme.top, theme.bottom, strict=True)])
        for number, (pane, area) in enumerate(zip(shown, areas, strict=True)):
            if number == len(self._scenes):
                self._scenes.append(Scene(pane.landscape, pane.look))
            scene, part = self._scenes[number], _within(area.times(scale), target)
            scene.show(pane.landscape, pane.look)
            scene.draw(
                pane.camera,
                target.part(part),
                pane.timeline.position,
                line_scale=line_scale,
                coarse=coarse,
                still=None if still is None else still.part(part),
            )
        target.bind()

    def caption(
        self,
        replay: Replay,
        font: imgui.ImFont,
        size: tuple[int, int],
        *,
        bottom: float = 0,
        covered: Sequence[Box] = (),
    ) -> None:
        """The captions of all panes; the lowest `bottom` pixels of the picture stay free, and what is `covered`."""
        shown = replay.panes
        areas = panes(len(shown), size)
        del self._huds[len(shown) :]
        self._huds += [Hud() for _ in range(len(shown) - len(self._huds))]
        with_bar = columns_of(len(shown), size) - 1 if all(not pane.landscape.difference for pane in shown) else 0
        for number, (hud, pane, area) in enumerate(zip(self._huds, shown, areas, strict=True)):
            below = bottom if area.y + area.height >= size[1] - 1 else 0
            boxes = [(a - area.x, b - area.y, c - area.x, d - area.y) for a, b, c, d in covered]
            place = (float(area.x), float(area.y))
            bar = number == min(with_bar, len(shown) - 1)
            hud.draw(pane, font, area.size, bottom=below, covered=boxes, origin=place, bar=bar)
        self._lines(replay, font, areas, size)

    def hover(
        self,
        replay: Replay,
        font: imgui.ImFont,
        size: tuple[int, int],
        mouse: tuple[float, float],
        point: NDArray[np.float64],
    ) -> None:
        """What is under the mouse, in a box beside it."""
        number, area = self._pane_under(replay, size, mouse)
        inside = (mouse[0] - area.x, mouse[1] - area.y)
        self._huds[number].hover(replay.panes[number], font, area.size, inside, point, (area.x, area.y))

    def hover_box(
        self,
        replay: Replay,
        font: imgui.ImFont,
        size: tuple[int, int],
        mouse: tuple[float, float],
        point: NDArray[np.float64],
    ) -> Box:
        """Where the box of `hover` lies in the picture."""
        number, area = self._pane_under(replay, size, mouse)
        inside = (mouse[0] - area.x, mouse[1] - area.y)
        a, b, c, d = Hud().hover_box(replay.panes[number], font, area.size, inside, point)
        return a + area.x, b + area.y, c + area.x, d + area.y

    @staticmethod
    def _pane_under(replay: Replay, size: tuple[int, int], mouse: tuple[float, float]) -> tuple[int, Pane]:
        areas = panes(1 + len(replay.beside), size)
        number = under(areas, *mouse)
        return number, areas[number]

    def plots(self, replay: Replay, size: tuple[int, int]) -> list[Plot]:
        """Where the plots of the losses lie in the picture."""
        areas = panes(1 + len(replay.beside), size)
        return [
            (hud.plot[0] + area.x, hud.plot[1] + area.y, hud.plot[2], hud.plot[3])
            for hud, area in zip(self._huds, areas, strict=False)
            if hud.plot is not None
        ]

    @staticmethod
    def _lines(replay: Replay, font: imgui.ImFont, areas: list[Pane], size: tuple[int, int]) -> None:
        """The lines between the panes."""
        pen = Pen(imgui.get_background_draw_list(), font, unit_of(size))
        for area in areas:
            if area.x:
                ends = (area.x, area.y), (area.x, area.y + area.height)
                pen.line(*ends, replay.look.colors.faint, alpha=0.45)
            if area.y:
                ends = (area.x, area.y), (area.x + area.width, area.y)
                pen.line(*ends, replay.look.colors.faint, alpha=0.45)

    def delete(self) -> None:
        """Give everything back to the GPU."""
        for scene in self._scenes:
            scene.delete()
        self._scenes.clear()


def _within(area: Pane, target: Framebuffer) -> Pane:
    """An area that does not reach out of a framebuffer, whose size was rounded."""
    width, height = target.size
    return Pane(area.x, area.y, max(min(area.width, width - area.x), 1), max(min(area.height, height - area.y), 1))
