"""Panels: the widgets of the window, by Dear ImGui. They change the Replay by the same actions as the keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from imgui_bundle import imgui

from landscape_hooks.viewer.controls import KEYS, MOUSE
from landscape_hooks.viewer.look import TEXTURES
from landscape_hooks.viewer.replay import Replay

BAR = 44.0
"""Height of the bar with the timeline, at the bottom of the window."""

_FIXED = (
    imgui.WindowFlags_.no_decoration.value
    | imgui.WindowFlags_.no_move.value
    | imgui.WindowFlags_.no_saved_settings.value
    | imgui.WindowFlags_.no_focus_on_appearing.value
    | imgui.WindowFlags_.no_nav.value
)


class Panels:
    """Draws the widgets; `places` tells where the last frame put each one (x, y, width, height), for tests."""

    def __init__(self) -> None:
        self.help = False
        self.notice = ""
        self.places: dict[str, tuple[float, float, float, float]] = {}
        self._areas: list[tuple[float, float, float, float]] = []

    def cover(self, x: float, y: float) -> bool:
        """Whether a panel lies over a point. (imgui's own answer is that of the picture before.)"""
        return any(left <= x <= left + w and upper <= y <= upper + h for left, upper, w, h in self._areas)

    def _end(self) -> None:
        place, extent = imgui.get_window_pos(), imgui.get_window_size()
        self._areas.append((place.x, place.y, extent.x, extent.y))
        imgui.end()

    def draw(self, replay: Replay, size: tuple[int, int]) -> None:
        """All panels, into the current imgui frame."""
        self._style(replay)
        self.places.clear()
        self._areas.clear()
        self._bar(replay, size)
        if self.notice:
            self._notice(size)
        if self.help:
            self._help(size)

    def _style(self, replay: Replay) -> None:
        theme = replay.look.colors
        (imgui.style_colors_dark if theme.name == "dark" else imgui.style_colors_light)()
        style = imgui.get_style()
        style.window_rounding = style.frame_rounding = style.grab_rounding = 5
        style.window_border_size = 0
        accent = (0.27, 0.49, 0.86)
        quiet = tuple(0.86 * p + 0.14 * i for p, i in zip(theme.panel, theme.ink, strict=True))
        for which, color, alpha in (
            ("window_bg", theme.panel, 0.94),
            ("text", theme.ink, 1.0),
            ("text_disabled", theme.faint, 1.0),
            ("button", quiet, 1.0),
            ("button_hovered", accent, 0.75),
            ("button_active", accent, 1.0),
            ("frame_bg", quiet, 0.8),
            ("frame_bg_hovered", quiet, 1.0),
            ("frame_bg_active", quiet, 1.0),
            ("slider_grab", accent, 1.0),
            ("slider_grab_active", accent, 1.0),
            ("title_bg", quiet, 1.0),
            ("title_bg_active", quiet, 1.0),
            ("popup_bg", theme.panel, 0.97),
        ):
            style.set_color_(getattr(imgui.Col_, which).value, imgui.ImVec4(color[0], color[1], color[2], alpha))

    def _mark(self, name: str) -> None:
        low, high = imgui.get_item_rect_min(), imgui.get_item_rect_max()
        self.places[name] = (low.x, low.y, high.x - low.x, high.y - low.y)

    def _button(self, label: str, name: str, tip: str) -> bool:
        pressed = imgui.button(f"{label}##{name}")
        self._mark(name)
        imgui.set_item_tooltip(tip)
        imgui.same_line()
        return bool(pressed)

    def _bar(self, replay: Replay, size: tuple[int, int]) -> None:
        timeline = replay.timeline
        imgui.set_next_window_pos(imgui.ImVec2(0, size[1] - BAR))
        imgui.set_next_window_size(imgui.ImVec2(size[0], BAR))
        imgui.begin("bar", None, _FIXED)
        if self._button("Pause" if timeline.playing else "Play", "play", "Space"):
            timeline.toggle()
        if self._button("<", "back", "one snapshot back (Left)"):
            timeline.step(-1)
        if self._button(">", "on", "one snapshot on (Right)"):
            timeline.step(1)
        if self._button(f"{timeline.speed:g}x", "speed", "speed (, and .)"):
            timeline.faster(1 if timeline.speed < 10 else -10)
        texture = f"Texture: {replay.look.texture}"
        right = sum(imgui.calc_text_size(t).x + 16 for t in (texture, "Help")) + 28
        imgui.set_next_item_width(max(size[0] - imgui.get_cursor_pos_x() - right, 60))
        changed, value = imgui.slider_float("##scrub", timeline.fraction, 0.0, 1.0, self._moment(replay))
        self._mark("scrub")
        if changed:
            timeline.playing = False
            timeline.scrub(value)
        imgui.same_line()
        if self._button(texture, "texture", "next texture (C)"):
            at = (TEXTURES.index(replay.look.texture) + 1) % len(TEXTURES)
            replay.set_look(replace(replay.look, texture=TEXTURES[at]))
        if self._button("Help", "help", "keys and mouse (H)"):
            self.help = not self.help
        self._end()

    @staticmethod
    def _moment(replay: Replay) -> str:
        paths = replay.landscape.paths
        if not paths:
            return "no path"
        index = replay.timeline.index
        return f"step {paths[0].step[index]}  ({index + 1} of {len(paths[0])})"

    def _notice(self, size: tuple[int, int]) -> None:
        """One line of trouble above the bar: the run cannot be read at the moment."""
        imgui.set_next_window_pos(imgui.ImVec2(size[0] / 2, size[1] - BAR - 8), 0, imgui.ImVec2(0.5, 1.0))
        imgui.begin("notice", None, _FIXED | imgui.WindowFlags_.always_auto_resize.value)
        imgui.text(self.notice)
        self._end()

    def _help(self, size: tuple[int, int]) -> None:
        imgui.set_next_window_pos(
            imgui.ImVec2(size[0] / 2, size[1] / 2), imgui.Cond_.always.value, imgui.ImVec2(0.5, 0.5)
        )
        _, opened = imgui.begin(
            "Keys and mouse",
            True,
            imgui.WindowFlags_.always_auto_resize.value
            | imgui.WindowFlags_.no_collapse.value
            | imgui.WindowFlags_.no_saved_settings.value,
        )
        rows: list[tuple[str, str]] = [(row.shown, row.says) for row in KEYS if row.key != "EQUAL"]
        rows += [("H", "this help"), ("V", "print the view"), ("S", "save a picture"), ("Esc", "close"), *MOUSE]
        half = (len(rows) + 1) // 2
        if imgui.begin_table("keys", 4, imgui.TableFlags_.sizing_fixed_fit.value):
            for k in range(half):
                imgui.table_next_row()
                for row in rows[k::half][:2]:
                    imgui.table_next_column()
                    imgui.text_disabled(row[0])
                    imgui.table_next_column()
                    imgui.text(row[1])
            imgui.end_table()
        self._end()
        if opened is False:
            self.help = False


def handle(io: Any, kind: str, *values: Any) -> None:
    """Tell imgui of the mouse: "move" x, y; "press" or "release" button; "wheel" x, y."""
    if kind == "move":
        io.add_mouse_pos_event(float(values[0]), float(values[1]))
    elif kind in ("press", "release"):
        io.add_mouse_button_event(int(values[0]), kind == "press")
    elif kind == "wheel":
        io.add_mouse_wheel_event(float(values[0]), float(values[1]))
