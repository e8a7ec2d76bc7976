"""Draw the pictures of the README with the project itself.

    landscape-hooks demo --out DEMO --no-view
    landscape-hooks analyze DEMO/digits.zarr --size 49 --samples 256 --extent=-9.5,8.5,-5.5,5.5
    python docs/make_images.py DEMO/digits.zarr

The picture of the window needs a display, such as Xvfb's; it is drawn in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "images"


def files(run: str) -> None:
    """The film, the picture and the figure; no display is needed."""
    from landscape_hooks import Surface, contour_figure
    from landscape_hooks.viewer.offscreen import render
    from landscape_hooks.viewer.replay.look import Look

    FOLDER.mkdir(exist_ok=True)
    render(run, FOLDER / "hero.gif", size=(640, 360), frames=54, fps=15, turn=24, clock="arc length", progress=True)
    look = Look(theme="light", colormap="hypsometric")
    render(run, FOLDER / "render.png", size=(1000, 562), look=look, at=0.55, clock="arc length")
    contour_figure(Surface.open(run)).savefig(FOLDER / "contours.png")


def window(run: str) -> None:
    """The window with its panels, the mouse resting beside the marker."""
    import ctypes

    import numpy as np
    from PIL import Image

    from landscape_hooks.viewer.replay.landscape import load
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.replay.replay import Replay
    from landscape_hooks.viewer.window import ReplayWindow

    size = (1100, 680)
    replay = Replay.of(load(run), Look(), aspect=size[0] / size[1])
    shown = ReplayWindow(replay, size=size)
    from pyglet import gl

    replay.timeline.use("arc length")
    replay.timeline.scrub(0.72)

    def draw() -> None:
        for _ in range(4):
            shown.window.dispatch_events()
            shown.on_draw()

    draw()
    marker = replay.stage.place(replay.landscape.drapes[0].at(replay.timeline.position))
    x, y, _ = replay.camera.project([marker], size)[0]
    shown.window.dispatch_event("on_mouse_motion", int(x) - 150, int(size[1] - 1 - y) - 10, 0, 0)
    draw()
    pixels = np.empty((size[1], size[0], 4), np.uint8)
    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, 0)
    gl.glReadPixels(0, 0, *size, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, ctypes.c_void_p(pixels.ctypes.data))
    Image.fromarray(pixels[::-1]).convert("RGB").save(FOLDER / "window.png", optimize=True)


if __name__ == "__main__":
    if sys.argv[2:] == ["window"]:
        window(sys.argv[1])
    else:
        files(sys.argv[1])
        if os.environ.get("DISPLAY"):
            subprocess.run([sys.executable, __file__, sys.argv[1], "window"], check=True)
        else:
            print("window.png was left out: there is no display")
