"""Panels: the widgets of the window, drawn with Dear ImGui. They change the Replay by the same actions as the keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from imgui_bundle import imgui

from landscape_hooks.errors import LandscapeError
from landscape_hooks.viewer.replay.controls import KEYS, MOUSE, OTHERS
from landscape_hooks.viewer.replay.look import ASPECTS, COLORMAPS, CONTOURS, EXAGGERATION, HEIGHTS, THEMES
from landscape_hooks.viewer.replay.replay import Replay
from landscape_hooks.viewer.replay.timeline import CLOCKS
from landscape_hooks.viewer.several.arrangement import KINDS

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
    """Draws the widgets. `places` has the rectangle (x, y, width, height) of each in the last frame, for tests."""

    def __init__(self) -> None:
        self.help = False
        self.options = False
        self.notice = ""
        self.error = ""
        self._popup = False
        self.places: dict[str, tuple[float, float, float, float]] = {}
        self._areas: list[tuple[float, float, float, float]] = []

    def cover(self, x: float, y: float) -> bool:
        """Whether a panel covers a point. (imgui's own answer is one frame late.)"""
        return self._popup or any(
            left <= x <= left + w and upper <= y <= upper + h for left, upper, w, h in self._areas
        )

    @property
    def areas(self) -> list[tuple[float, float, float, float]]:
        """Left, top, right and bottom of every panel in the last frame."""
        return [(left, upper, left + w, upper + h) for left, upper, w, h in self._areas]

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
        if self.options:
            self._options(replay, size)
        if self.notice or self.error:
            self._notice(size)
        if self.help:
            self._help(size)
        flags = imgui.PopupFlags_.any_popup_id.value | imgui.PopupFlags_.any_popup_level.value
        self._popup = imgui.is_popup_open("", flags)

    def change(self, replay: Replay, **options: Any) -> None:
        """Change the look. If it cannot be drawn, show the error instead."""
        self._try(lambda: replay.set_look(replace(replay.look, **options)))

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
        colormap = f"Colours: {replay.look.colormap}"
        right = sum(imgui.calc_text_size(t).x + 16 for t in (colormap, "Options", "Help")) + 28
        imgui.set_next_item_width(max(size[0] - imgui.get_cursor_pos_x() - right, 60))
        changed, value = imgui.slider_float("##scrub", timeline.fraction, 0.0, 1.0, self._moment(replay))
        self._mark("scrub")
        if changed:
            timeline.playing = False
            timeline.scrub(value)
        imgui.same_line()
        if self._button(colormap, "colormap", "next colour map (C)"):
            self.change(replay, colormap=replay.look.next("colormap").colormap)
        if self._button("Options", "options", "everything that can be changed (M)"):
            self.options = not self.options
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

    def _options(self, replay: Replay, size: tuple[int, int]) -> None:
        """A panel with everything that can be changed."""
        _within(size)
        imgui.set_next_window_pos(
            imgui.ImVec2(size[0] - 12, max(size[1] - BAR - 142, min(size[1] - BAR - 8, 348))),
            imgui.Cond_.always.value,
            imgui.ImVec2(1.0, 1.0),
        )
        imgui.begin("options", None, _FIXED | imgui.WindowFlags_.always_auto_resize.value)
        look, timeline = replay.look, replay.timeline
        imgui.push_item_width(170)
        self._surfaces(replay)
        for name, known in (
            ("colormap", COLORMAPS),
            ("contours", CONTOURS),
            ("height", HEIGHTS),
            ("aspect", ASPECTS),
            ("theme", tuple(THEMES)),
        ):
            chosen = self._choice(name, getattr(look, name), known)
            if chosen is not None:
                self.change(replay, **{name: chosen})
        clocks = [clock for clock in CLOCKS if clock in timeline.clocks]
        chosen = self._choice("clock", timeline.clock, clocks)
        if chosen is not None:
            timeline.use(chosen)
        logarithmic = imgui.SliderFlags_.logarithmic.value
        moved, value = imgui.slider_float("relief", replay.look.exaggeration, *EXAGGERATION, "x %.2f", logarithmic)
        if moved:
            self.change(replay, exaggeration=min(max(value, EXAGGERATION[0]), EXAGGERATION[1]))
        moved, value = imgui.slider_float("shading", replay.look.shading, 0.0, 1.0, "%.2f")
        if moved:
            self.change(replay, shading=min(max(value, 0.0), 1.0))
        imgui.pop_item_width()
        self._switches(replay)
        self._end()

    def _surfaces(self, replay: Replay) -> None:
        """Which surface is shown, and how a second one; nothing where there is one only."""
        if replay.gallery is None or len(replay.gallery.names) < 2:
            return
        others = replay.gallery.others(replay.name)
        chosen = self._choice("surface", replay.name, replay.gallery.names)
        if chosen is not None:
            self._try(lambda: replay.choose(chosen))
        kind = self._choice("show", replay.arrangement, KINDS)
        if kind is not None and replay.others:
            self._try(lambda: replay.arrange(kind))
        elif kind not in (None, "alone"):
            self._try(lambda: replay.compare(others[0], kind))
        if replay.arrangement != "alone":
            other = self._choice("with", replay.other, others)
            if other is not None:
                self._try(lambda: replay.compare(other))
        if replay.arrangement == "blend":
            moved, share = imgui.slider_float("share", replay.share, 0.0, 1.0, "%.2f of the second")
            self._mark("share")
            if moved:
                self._try(lambda: replay.arrange(share=min(max(share, 0.0), 1.0)))
        imgui.separator()

    def _try(self, change: Callable[[], None]) -> None:
        """Change the replay. If the result cannot be drawn, show the error instead."""
        self.notice = ""
        try:
            change()
        except LandscapeError as error:
            self.notice = str(error)

    def _choice(self, name: str, now: str, known: Sequence[str]) -> str | None:
        """A list to choose from; returns what was chosen, or None."""
        known = [*known, *([now] if now not in known else [])]
        changed, number = imgui.combo(name, known.index(now), known)
        self._mark(f"choose {name}")
        return known[number] if changed else None

    def _switches(self, replay: Replay) -> None:
        """What is on or off, two in a row."""
        rows: list[tuple[str, Any, str]] = [
            ("floor and axes", None, "floor"),
            ("true loss", None, "true_loss"),
            ("x-ray", None, "xray"),
            ("captions", None, "captions"),
            ("minima, saddles", None, "critical"),
            ("loop", replay.timeline, "loop"),
            ("turntable", replay, "turntable"),
            ("follow the marker", replay, "follow"),
        ]
        for number, (label, owner, name) in enumerate(rows):
            if number % 2:
                imgui.same_line(150)
            changed, value = imgui.checkbox(label, getattr(replay.look if owner is None else owner, name))
            self._mark(f"switch {name}")
            if changed and owner is None:
                self.change(replay, **{name: value})
            elif changed:
                setattr(owner, name, value)

    def _notice(self, size: tuple[int, int]) -> None:
        """One line above the bar: what cannot be drawn so, or why the run cannot be read at the moment."""
        imgui.set_next_window_pos(imgui.ImVec2(size[0] / 2, size[1] - BAR - 8), 0, imgui.ImVec2(0.5, 1.0))
        imgui.begin("notice", None, _FIXED | imgui.WindowFlags_.always_auto_resize.value)
        imgui.text(self.notice or self.error)
        self._end()

    def _help(self, size: tuple[int, int]) -> None:
        _within(size)
        imgui.set_next_window_pos(
            imgui.ImVec2(size[0] / 2, size[1] / 2), imgui.Cond_.always.value, imgui.ImVec2(0.5, 0.5)
        )
        _, opened = imgui.begin(
            "Keys and mouse",
            True,
            imgui.WindowFlags_.always_auto_resize.value
            | imgui.WindowFlags_.horizontal_scrollbar.value
            | imgui.WindowFlags_.no_collapse.value
            | imgui.WindowFlags_.no_saved_settings.value,
        )
        rows: list[tuple[str, str]] = [(row.shown, row.says) for row in KEYS if row.key != "EQUAL"]
        rows += [*OTHERS, *MOUSE]
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


def _within(size: tuple[int, int]) -> None:
    """Keep the next panel within the picture above the bar; a larger one scrolls."""
    most = imgui.ImVec2(max(size[0] - 8, 60), max(size[1] - BAR - 8, 60))
    imgui.set_next_window_size_constraints(imgui.ImVec2(0, 0), most)


def handle(io: imgui.IO, kind: str, *values: float) -> None:
    """Tell imgui of the mouse: "move" x, y; "press" or "release" button; "wheel" x, y."""
    if kind == "move":
        io.add_mouse_pos_event(float(values[0]), float(values[1]))
    elif kind in ("press", "release"):
        io.add_mouse_button_event(int(values[0]), kind == "press")
    elif kind == "wheel":
        io.add_mouse_wheel_event(float(values[0]), float(values[1]))
