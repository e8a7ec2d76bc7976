"""Window: connects pyglet's events and clock to the Replay. It draws on demand: an idle window uses no CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape_hooks.errors import LandscapeError
from landscape_hooks.export.outfile import whole_file
from landscape_hooks.viewer.gl import context
from landscape_hooks.viewer.live import Follower
from landscape_hooks.viewer.replay import controls
from landscape_hooks.viewer.replay.landscape import Source
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay
from landscape_hooks.viewer.replay.start import fitted
from landscape_hooks.viewer.several.opening import Beside, open_replay
from landscape_hooks.viewer.several.panes import panes, under

if TYPE_CHECKING:
    import numpy as np
    from imgui_bundle import imgui
    from numpy.typing import NDArray

    from landscape_hooks.viewer.gl.plot import Plot

DOUBLE_CLICK = 0.35
ORBIT = 0.35
"""Degrees a pixel."""

SAMPLES = 4
"""Samples a pixel, where the driver has them."""

SLOW = 0.030
"""Seconds for a frame above which moving frames are drawn with less quality (`fast`)."""


class ReplayWindow:
    """A window that shows a replay. `run` returns when it is closed."""

    def __init__(self, replay: Replay, *, size: tuple[int, int] = (1280, 760), visible: bool = True) -> None:
        self.window = context.window(
            width=size[0], height=size[1], caption=f"{replay.landscape.title} - landscape-hooks", resizable=True,
            visible=visible, vsync=False,
        )  # fmt: skip
        from pyglet.window import key, mouse

        from landscape_hooks.viewer.gl.overlay import Overlay
        from landscape_hooks.viewer.panels import BAR, Panels
        from landscape_hooks.viewer.several.pictures import Pictures

        self._key, self._mouse, self._bar = key, mouse, BAR
        self.replay = replay
        self.pictures, self.overlay, self.panels = Pictures(), Overlay(), Panels()
        self._shaped = self.pane
        self._follower: Any = None
        self._frame: Any = None
        self._frames: dict[int, Any] = {}
        self._hover: Any = None
        self._hovered: Any = None
        self._plot: Plot | None = None
        self._slow, self._judged, self._awake = False, 0, False
        self._drag = ""
        self._clicked = (0.0, 0, 0)
        self._dirty = 3
        self._drawn = time.perf_counter()
        self.window.set_minimum_size(320, 240)
        self.window.push_handlers(**{name: getattr(self, name) for name in dir(self) if name.startswith("on_")})

    # -- the loop --------------------------------------------------------------------------------------
    def run(self) -> None:
        """Show the window until it is closed."""
        import pyglet

        self.touch()
        pyglet.app.run(interval=None)
        pyglet.clock.unschedule(self._tick)
        if self._follower is not None:
            pyglet.clock.unschedule(self._take)
            self._follower.stop()

    def _tick(self, seconds: float) -> None:
        if self.replay.advance(min(seconds, 0.25)):
            self.touch(1)
        if self._dirty:
            self.window.switch_to()
            self.on_draw()
            self.window.flip()
        elif not (self.replay.moving or self.replay.follow or self._drag):
            self._sleep()

    def touch(self, frames: int = 3) -> None:
        """Request a few frames (imgui needs more than one after a click), and start the clock."""
        self._dirty = max(self._dirty, frames)
        if not self._awake:
            import pyglet

            self._awake = True
            pyglet.clock.schedule_interval(self._tick, 1 / 60)

    def follow(self, follower: Follower) -> None:
        """Show what a follower finds, until the window is closed."""
        import pyglet

        self._follower = follower
        follower.start()
        pyglet.clock.schedule_interval(self._take, 0.25)

    def _take(self, seconds: float) -> None:
        """Take what the follower found."""
        found = self._follower.latest()
        if found is not None:
            self.replay.grow(found)
            self.touch()
        error = self._follower.error
        if error != self.panels.error:
            self.panels.error = error
            self.touch()

    def _sleep(self) -> None:
        """Stop the clock until the next event, since nothing moves."""
        import pyglet

        pyglet.clock.unschedule(self._tick)
        self._awake = False

    def on_draw(self) -> None:
        """Draw one picture into the window."""
        now = time.perf_counter()
        seconds, self._drawn = now - self._drawn, now
        size, pixels = self.window.get_size(), self.window.get_framebuffer_size()
        if min(*size, *pixels) < 1:
            return
        scale = pixels[0] / size[0]
        self._refit()
        fast = self._slow and (bool(self._drag) or self.replay.moving)
        self._dirty = max(self._dirty - 1, int(fast and not self.replay.moving))
        self.draw_scene(pixels, scale, fast=fast)
        self.overlay.frame(size, scale, min(seconds, 0.1))
        seen = (self.replay.camera, self.replay.look, id(self.replay.landscape))
        if self._hover is not None and seen != self._hovered:
            self._hover = None  # the point is not under the mouse any more
        covered = self.panels.areas
        if self._hover is not None:
            covered = [*covered, self.pictures.hover_box(self.replay, self.overlay.font, size, *self._hover)]
        if self.replay.look.captions:
            self.pictures.caption(self.replay, self.overlay.font, size, bottom=self._bar, covered=covered)
        if self._hover is not None and not self._drag:
            self.pictures.hover(self.replay, self.overlay.font, size, *self._hover)
        self.panels.draw(self.replay, size)
        self.overlay.draw()
        self._judge(time.perf_counter() - now, fast)

    def draw_scene(self, pixels: tuple[int, int], scale: float, *, fast: bool) -> None:
        """Draw the scene without panels; `fast` omits smoothing, and uses the coarser of two meshes."""
        frame, still = self._framebuffers(pixels, 0 if fast else SAMPLES)
        coarse = fast and bool(self._drag or self.replay.turntable)
        size = self.window.get_size()
        self.pictures.draw(self.replay, frame, size, scale=scale, line_scale=scale, coarse=coarse, still=still)
        frame.show()

    def _judge(self, seconds: float, fast: bool) -> None:
        """Measure on the first frames whether this driver needs `fast` while something moves."""
        if self._judged < 3 and not fast:
            from pyglet import gl

            start = time.perf_counter()
            gl.glFinish()
            self._judged += 1
            self._slow = seconds + time.perf_counter() - start > SLOW

    def _framebuffers(self, pixels: tuple[int, int], samples: int) -> tuple[Any, Any]:
        """The framebuffer that is shown, and the one that keeps what does not move."""
        from landscape_hooks.viewer.gl.gpu import Framebuffer

        found = self._frames.get(samples)
        if found is None or found[0].size != tuple(pixels):
            for one in found or ():
                one.delete()
            self._frames[samples] = found = tuple(Framebuffer(*pixels, samples=samples) for _ in range(2))
        self._frame = found[0]
        return found

    # -- events ----------------------------------------------------------------------------------------
    @property
    def _io(self) -> imgui.IO:
        from imgui_bundle import imgui

        imgui.set_current_context(self.overlay.context)
        return imgui.get_io()

    def _tell(self, kind: str, *values: float) -> None:
        """Pass an event of the mouse to the panels."""
        from landscape_hooks.viewer.panels import handle

        handle(self._io, kind, *values)
        self.touch()

    def _down(self, y: float) -> float:
        return self.window.height - 1 - y

    def _number(self, button: int) -> int:
        return {self._mouse.LEFT: 0, self._mouse.RIGHT: 1, self._mouse.MIDDLE: 2}.get(button, 0)

    def on_mouse_motion(self, x: int, y: int, dx: int, dy: int) -> None:
        """Over the surface, show the values under the mouse."""
        self._tell("move", x, self._down(y))
        place = (float(x), float(self._down(y)))
        point = None if self.panels.cover(*place) or self._in_plot(*place) else self.pick(*place)
        self._hover = None if point is None else (place, point)
        self._hovered = (self.replay.camera, self.replay.look, id(self.replay.landscape))

    def on_mouse_press(self, x: int, y: int, button: int, modifiers: int) -> None:
        """Begin to orbit, pan or scrub; a double click puts the point into the middle."""
        self._tell("move", x, self._down(y))
        self._tell("press", self._number(button))
        if self.panels.cover(x, self._down(y)):
            return
        if self._in_plot(x, self._down(y)):
            self._drag = "scrub"
            self._scrub(x)
            return
        now, (before, old_x, old_y) = time.perf_counter(), self._clicked
        self._clicked = (now, x, y)
        if button == self._mouse.LEFT and now - before < DOUBLE_CLICK and abs(x - old_x) + abs(y - old_y) < 8:
            point = self.pick(x, self._down(y))
            if point is not None:
                self.replay.camera = self.replay.camera.look_at(point)
        pans = button != self._mouse.LEFT or modifiers & self._key.MOD_SHIFT
        self._drag = "pan" if pans else "orbit"
        self._hover = None

    def on_mouse_drag(self, x: int, y: int, dx: int, dy: int, buttons: int, modifiers: int) -> None:
        """Orbit, pan or scrub."""
        self._tell("move", x, self._down(y))
        if self._drag == "orbit":
            self.replay.camera = self.replay.camera.orbit(-ORBIT * dx, -ORBIT * dy)
        elif self._drag == "pan":
            self.replay.camera = self.replay.camera.pan(dx, -dy, self.window.height)
        elif self._drag == "scrub":
            self._scrub(x)

    def on_mouse_release(self, x: int, y: int, button: int, modifiers: int) -> None:
        """End of a drag: the picture gets its full quality again."""
        self._tell("release", self._number(button))
        self._drag = ""

    def on_mouse_scroll(self, x: int, y: int, scroll_x: float, scroll_y: float) -> None:
        """Zoom to the cursor."""
        self._tell("wheel", scroll_x, scroll_y)
        if self.panels.cover(x, self._down(y)):
            return
        self.replay.camera = self.replay.camera.zoom(1.12**scroll_y, self.pick(x, self._down(y)))

    def on_mouse_leave(self, x: int, y: int) -> None:
        """The mouse has left the window."""
        self._hover = None
        self._tell("move", -1e6, -1e6)

    def on_key_press(self, symbol: int, modifiers: int) -> bool | None:
        """Look the key up in the table."""
        self.touch()
        self.panels.notice = ""
        name = self._key.symbol_string(symbol)
        if name == "ESCAPE":
            if self.panels.help:
                self.panels.help = False
                return True
            self.window.close()
            return True
        if name == "H":
            self.panels.help = not self.panels.help
        elif name == "M":
            self.panels.options = not self.panels.options
        elif name == "V":
            print(f"--view {self.replay.camera.text}", flush=True)
        elif name == "S":
            print(f"saved {self.save()}", flush=True)
        else:
            row = controls.find(name, bool(modifiers & self._key.MOD_SHIFT))
            if row is not None:
                self._act(row)
        return True

    def _act(self, row: controls.Key) -> None:
        """Run the action of a key. If the result cannot be drawn, show the error above the bar."""
        try:
            row.does(self.replay, self.pane)
        except LandscapeError as error:
            self.panels.notice = str(error)

    def on_resize(self, width: int, height: int) -> None:
        """The window has a new size."""
        self._refit()
        self.touch()

    def on_expose(self) -> None:
        """The window is visible again."""
        self.touch()

    def on_close(self) -> None:
        """The desktop closes the window."""
        self.window.close()

    # -- helpers of the events -------------------------------------------------------------------------
    @property
    def pane(self) -> tuple[int, int]:
        """Size of a pane: that of the window, where one surface is shown."""
        return panes(1 + len(self.replay.beside), self.window.get_size())[0].size

    def _refit(self) -> None:
        """If the panes have another shape, a camera that nobody has moved shows the whole again."""
        replay, (width, height) = self.replay, self.pane
        if self._shaped == (width, height) or min(width, height) < 1:
            return
        self._shaped = (width, height)
        home = fitted(replay.home, replay.stage, width / height, replay.look.captions)
        replay.camera = home if replay.camera == replay.home else replay.camera
        replay.home = home

    def pick(self, x: float, y: float) -> NDArray[np.float64] | None:
        """(3,) the scene point at a pixel, counted from the top left; None beside the surface."""
        if self._frame is None:
            return None
        self.window.switch_to()
        size, pixels = self.window.get_size(), self._frame.size
        scale = pixels[0] / size[0]
        depth = self._frame.depth(int(x * scale), int(y * scale))
        if depth >= 0.99999:
            return None
        areas = panes(1 + len(self.replay.beside), size)
        area = areas[under(areas, x, y)]
        return self.replay.camera.unproject(x - area.x, y - area.y, 2 * depth - 1, area.size)

    def _in_plot(self, x: float, y: float) -> bool:
        plots = self.pictures.plots(self.replay, self.window.get_size()) if self.replay.look.captions else []
        inside = [plot for plot in plots if plot[0] <= x <= plot[0] + plot[2] and plot[1] <= y <= plot[1] + plot[3]]
        self._plot = inside[0] if inside else self._plot
        return bool(inside)

    def _scrub(self, x: float) -> None:
        """Go to the moment at a place of the plot that was pressed."""
        if self._plot is not None:
            left, _, width, _ = self._plot
            self.replay.timeline.playing = False
            self.replay.timeline.scrub((x - left) / width)

    def picture(self) -> NDArray[np.uint8]:
        """(height, width, 4) the scene with its captions, without the panels."""
        self.window.switch_to()
        size, pixels = self.window.get_size(), self.window.get_framebuffer_size()
        scale = pixels[0] / size[0]
        self.draw_scene(pixels, scale, fast=False)
        self._frame.bind()
        self.overlay.frame(size, scale)
        if self.replay.look.captions:
            self.pictures.caption(self.replay, self.overlay.font, size)
        self.overlay.draw()
        self.touch()
        return self._frame.pixels()

    def save(self) -> Path:
        """Save the picture in the working folder, under an unused name."""
        from PIL import Image

        number = 1
        while (path := Path(f"landscape-{number:03d}.png")).exists():
            number += 1
        with whole_file(path) as file:
            Image.fromarray(self.picture()).convert("RGB").save(file)
        return path


def view(
    source: Source,
    *,
    name: str | None = None,
    view: str = "",
    look: Look | None = None,
    size: tuple[int, int] = (1280, 760),
    play: bool = True,
    follow: bool = False,
    beside: Beside | None = None,
) -> None:
    """Open a window with the replay of a run, a PLY file or a Surface, and return when it is closed.

    With `follow`, snapshots that a running training adds to the run appear while the window is open. `beside` names
    other surfaces in the same picture.

    Raises
    ------
    RunError, SurfaceError, PlyError
        there is nothing to draw in the source.
    DisplayError
        there is no display, or no OpenGL 3.3.
    """
    look = look or Look()
    if context.is_headless():
        _in_own_process(source, name, view, look, play, follow, beside or Beside())
        return
    replay = open_replay(source, look, name=name, view=view, size=size, beside=beside)
    if play and not follow and len(replay.timeline) > 1:
        replay.timeline.position, replay.timeline.playing = 0.0, True
    shown = ReplayWindow(replay, size=size)
    if follow:
        shown.follow(Follower(source, replay.first))
    shown.run()


def _in_own_process(
    source: Source, name: str | None, view: str, look: Look, play: bool, follow: bool, beside: Beside
) -> None:
    """Open the window in another process: pyglet cannot open one after it has rendered without a display."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        raise context.no_display(RuntimeError("DISPLAY is not set"))
    if not isinstance(source, str | Path):
        raise context.no_display(RuntimeError("this process renders headless"))
    arguments = [str(source), "--colormap", look.colormap, "--theme", look.theme]
    arguments += ["--height", look.height, "--aspect", look.aspect]
    arguments += ["--name", name] if name else []
    arguments += [*(["--view", view] if view else []), *beside.arguments]
    arguments += ["--play" if play else "--no-play", *(["--follow"] if follow else [])]
    done = subprocess.run([sys.executable, "-m", "landscape_hooks", "view", *arguments], capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    if done.returncode:
        raise context.no_display(
            RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed")
        )
