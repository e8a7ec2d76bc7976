"""A real window on a virtual display. Each scene runs in a process of its own: pyglet decides once a process."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from PIL import Image

OPENING = """
    import numpy as np
    from pyglet.window import key, mouse
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.replay.replay import Replay
    from landscape_hooks.viewer.replay.landscape import load
    from landscape_hooks.viewer.window import ReplayWindow
    from tests.landscapes import surface
    replay = Replay.of(load(surface()), Look())
    shown = ReplayWindow(replay, size=(800, 500))
    window = shown.window

    def picture():
        import ctypes
        from pyglet import gl
        window.dispatch_events()
        for _ in range(3):
            shown.on_draw()
        data = np.empty((500, 800, 4), dtype=np.uint8)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, 0)
        gl.glReadPixels(0, 0, 800, 500, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, ctypes.c_void_p(data.ctypes.data))
        window.flip()
        return data[::-1, :, :3].astype(int)

    def event(name, *values):
        window.dispatch_event(name, *values)
        window.dispatch_events()

    def click(name):
        x, y, width, height = shown.panels.places[name]
        at = int(x + width / 2), int(500 - 1 - y - height / 2)
        event("on_mouse_motion", *at, 0, 0)
        picture()
        event("on_mouse_press", *at, mouse.LEFT, 0)
        picture()
        event("on_mouse_release", *at, mouse.LEFT, 0)
        picture()

    first = picture()
"""


def run(display, scene):
    code = textwrap.dedent(OPENING) + textwrap.dedent(scene)
    environment = {**os.environ, "DISPLAY": display, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_window_shows_the_surface_and_a_button_changes_its_colour_map(display):
    run(
        display,
        """
        assert first.std() > 20
        middle = first[150:350, 300:500].reshape(-1, 3)
        assert (middle[:, 1] > middle[:, 0] + 20).mean() > 0.3, "viridis: green and blue"
        click("colormap")
        assert replay.look.colormap == "cividis"
        assert np.abs(picture() - first).mean() > 3
        """,
    )


def test_mouse_and_keys_move_camera_and_time(display):
    run(
        display,
        """
        start = replay.camera
        event("on_mouse_press", 400, 300, mouse.LEFT, 0)
        event("on_mouse_drag", 460, 320, 60, 20, mouse.LEFT, 0)
        event("on_mouse_release", 460, 320, mouse.LEFT, 0)
        assert replay.camera.azimuth != start.azimuth and replay.camera.elevation < start.elevation
        assert np.abs(picture() - first).mean() > 1
        turned = replay.camera
        event("on_mouse_press", 400, 300, mouse.LEFT, key.MOD_SHIFT)
        event("on_mouse_drag", 430, 310, 30, 10, mouse.LEFT, key.MOD_SHIFT)
        event("on_mouse_release", 430, 310, mouse.LEFT, 0)
        assert replay.camera.target != turned.target and replay.camera.azimuth == turned.azimuth
        event("on_mouse_scroll", 400, 300, 0, 2)
        assert replay.camera.distance < turned.distance
        event("on_key_press", key.R, 0)
        assert replay.camera == replay.home
        event("on_key_press", key.HOME, 0)
        assert replay.timeline.position == 0
        event("on_key_press", key.RIGHT, 0)
        event("on_key_press", key.RIGHT, key.MOD_SHIFT)
        assert replay.timeline.position == 11
        event("on_key_press", key.SPACE, 0)
        assert replay.timeline.playing
        shown._tick(0.5)
        assert replay.timeline.position > 11
        click("play")
        assert not replay.timeline.playing
        click("scrub")
        assert 0.4 < replay.timeline.fraction < 0.6
        x, y, width, height = shown.pictures.plots(replay, (800, 500))[0]
        at = int(x + 0.25 * width), int(500 - 1 - y - height / 2)
        event("on_mouse_press", *at, mouse.LEFT, 0)
        event("on_mouse_release", *at, mouse.LEFT, 0)
        assert abs(replay.timeline.fraction - 0.25) < 0.02
        """,
    )


@pytest.mark.more
def test_the_options_change_everything_and_name_what_cannot_be_drawn(display):
    run(
        display,
        """
        event("on_key_press", key.M, 0)
        picture()
        for name in ("floor", "true_loss", "xray", "captions"):
            before = getattr(replay.look, name)
            click("switch " + name)
            assert getattr(replay.look, name) is not before, name
        for owner, name in ((replay.timeline, "loop"), (replay, "turntable"), (replay, "follow")):
            before = getattr(owner, name)
            click("switch " + name)
            assert getattr(owner, name) is not before, name
        replay.turntable = replay.follow = False
        camera = replay.camera
        click("choose colormap")                  # opens a list, whose items lie outside the panel
        x, y, width, height = shown.panels.places["choose colormap"]
        at = int(x + 40), int(500 - 1 - (y + height * 2.6))
        event("on_mouse_motion", *at, 0, 0); picture()
        event("on_mouse_press", *at, mouse.LEFT, 0); picture()
        event("on_mouse_drag", at[0] + 5, at[1], 5, 0, mouse.LEFT, 0)
        event("on_mouse_release", at[0] + 5, at[1], mouse.LEFT, 0); picture()
        assert replay.look.colormap != "viridis", "colormap"
        assert replay.camera == camera, "the list took the mouse"

        from dataclasses import replace
        made = surface()
        replay.arrange(first=load(replace(made, loss=made.loss - 1)))
        event("on_key_press", key.Z, 0)
        assert "no logarithm" in shown.panels.notice, shown.panels.notice
        picture()
        event("on_key_press", key.R, 0)
        assert shown.panels.notice == "", shown.panels.notice
        """,
    )


@pytest.mark.more
def test_a_thousand_random_events_do_no_harm(display):
    run(
        display,
        """
        import random
        from landscape_hooks.viewer.replay.controls import KEYS
        chance = random.Random(20)
        names = [row.key for row in KEYS] + ["H", "M", "V", "F12", "Q", "_1"]
        window.set_size(420, 300)
        x = y = 100
        for number in range(1000):
            kind = chance.choice(["move", "press", "drag", "release", "wheel", "key", "key", "leave", "resize", "tick"])
            x, y = chance.randrange(-20, 440), chance.randrange(-20, 320)
            button, held = chance.choice([1, 2, 4]), chance.choice([0, key.MOD_SHIFT, key.MOD_CTRL])
            dx, dy = chance.randrange(-80, 80), chance.randrange(-80, 80)
            if kind == "move":
                event("on_mouse_motion", x, y, dx, dy)
            elif kind == "press":
                event("on_mouse_press", x, y, button, held)
            elif kind == "drag":
                event("on_mouse_drag", x, y, dx, dy, button, held)
            elif kind == "release":
                event("on_mouse_release", x, y, button, held)
            elif kind == "wheel":
                event("on_mouse_scroll", x, y, chance.uniform(-3, 3), chance.uniform(-9, 9))
            elif kind == "key":
                event("on_key_press", getattr(key, chance.choice(names)), held)
            elif kind == "leave":
                event("on_mouse_leave", x, y)
            elif kind == "resize" and chance.random() < 0.1:
                window.set_size(chance.randrange(320, 500), chance.randrange(240, 360))
            elif kind == "tick":
                shown._tick(chance.choice([0.0, 0.016, 3.0]))
            if number % 10 == 0:
                shown.on_draw()
                window.flip()
            assert np.isfinite(replay.camera.matrix(1.5)).all()
            assert 0 <= replay.timeline.position <= replay.timeline.last
        window.set_size(800, 500)
        event("on_key_press", key.R, 0)
        shown.panels.help = False
        assert picture().std() > 10
        """,
    )


@pytest.mark.more
def test_a_session_with_the_real_mouse_and_keyboard(display, tmp_path):
    """xdotool presses keys and buttons of the X server; nothing of the program is called from here."""
    from tests.landscapes import surface, write_run

    tool = shutil.which("xdotool")
    if tool is None:
        pytest.skip("xdotool, which moves a real mouse, is not installed")
    store = write_run(tmp_path / "run.zarr", surface())
    environment = {**os.environ, "DISPLAY": display}
    session = subprocess.Popen(
        [sys.executable, "-m", "landscape_hooks", "view", str(store), "--no-play"],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def do(*words):
        return subprocess.run([tool, *map(str, words)], env=environment, capture_output=True, text=True, timeout=60)

    lines: list[str] = []
    reader = threading.Thread(target=_collect, args=(session.stdout, lines), daemon=True)
    reader.start()

    def answer(name):
        """Press a key until the program prints a line (a busy machine may not see the first press)."""
        seen = len(lines)
        for _ in range(12):
            do("key", name)
            for _ in range(50):
                if len(lines) > seen:
                    return lines[-1]
                time.sleep(0.1)
        raise AssertionError(f"no answer to the key {name}")

    def picture():
        return np.asarray(Image.open(tmp_path / answer("s").split()[-1])).astype(int)

    try:
        found = do("search", "--sync", "--onlyvisible", "--name", "landscape-hooks").stdout.split()
        assert found, "the window is there"
        do("windowfocus", found[0])
        first = picture()
        assert first.std() > 20
        before = answer("v")
        do("mousemove", 640, 380)
        do("mousedown", 1)
        time.sleep(0.3)
        do("mousemove", 740, 380)
        time.sleep(0.3)
        do("mouseup", 1)
        assert answer("v") != before, "the drag turned the camera"
        do("key", "r")
        time.sleep(0.3)
        assert answer("v") == before, "back again, so that only the button changes the picture"
        assert np.abs(first - picture()).mean() < 1
        for _ in range(6):  # Dear ImGui wants to see the mouse over the button, then down, then up
            do("mousemove", 1090, 735)
            time.sleep(0.5)
            do("mousedown", 1)
            time.sleep(0.5)
            do("mouseup", 1)
            time.sleep(0.5)
            if np.abs(first - picture()).mean() > 1:
                break
        else:
            raise AssertionError("the button changes the colour map")
        do("key", "Escape")
        assert session.wait(timeout=60) == 0, session.stderr.read()
    finally:
        if session.poll() is None:
            session.kill()


def _collect(stream, lines):
    """Read a stream line by line as it comes."""
    for line in stream:
        lines.append(line.strip())


@pytest.mark.more
def test_an_idle_window_takes_no_cpu(display):
    out = run(
        display,
        """
        import resource, time
        import pyglet
        def used():
            got = resource.getrusage(resource.RUSAGE_SELF)
            return got.ru_utime + got.ru_stime
        marks = []
        pyglet.clock.schedule_once(lambda dt: marks.append(used()), 1.0)
        pyglet.clock.schedule_once(lambda dt: (marks.append(used()), window.close()), 3.0)
        shown.run()
        print(marks[1] - marks[0])
        """,
    )
    assert float(out.split()[-1]) < 0.2, "seconds of CPU in two seconds"


def test_without_a_display_view_names_render(tmp_path):
    from tests.landscapes import surface, write_run

    store = write_run(tmp_path / "run.zarr", surface())
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-m", "landscape_hooks", "view", str(store)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "landscape-hooks render" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_opengl_3_3_there_is_a_sentence(display, tmp_path):
    from tests.landscapes import surface, write_run

    store = write_run(tmp_path / "run.zarr", surface())
    old = {**os.environ, "DISPLAY": display, "MESA_GL_VERSION_OVERRIDE": "2.1", "MESA_GLSL_VERSION_OVERRIDE": "120"}
    for words in (["view", str(store)], ["render", str(store), "-o", str(tmp_path / "f.png")]):
        command = [sys.executable, "-m", "landscape_hooks", *words]
        done = subprocess.run(command, env=old, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            pytest.skip("this driver does not pretend to be older than it is")
        assert done.returncode == 2, done.stderr
        assert "OpenGL 3.3" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.more
def test_two_surfaces_side_by_side_blended_and_as_a_difference(display):
    """Keys, list, slider and mouse of the second pane; the options are opened for the slider."""
    run(
        display,
        """
        from dataclasses import replace
        from landscape_hooks.viewer.several.gallery import Gallery
        replay.gallery = Gallery(surface(), replay.first)
        replay.gallery.take(load(replace(surface(), name="high", loss=4 * surface().loss)))
        event("on_key_press", key.W, 0)
        assert replay.arrangement == "side by side" and len(replay.panes) == 2 and shown.pane == (400, 500)
        both = picture()
        assert replay.camera == replay.home, "the camera is fitted to the pane"
        assert both[100:300, 100:300].std() > 15 and both[100:300, 500:700].std() > 15
        assert len(shown.pictures.plots(replay, (800, 500))) == 2
        point = replay.stage.place(replay.landscape.mesh.on([-1.0, 0.0]))
        second = replay.panes[1]
        x, y, _ = replay.camera.project([second.stage.place(second.landscape.mesh.on([-1.0, 0.0]))], (400, 500))[0]
        found = second.stage.data(shown.pick(400 + x, y))
        assert np.abs(found[:2] - [-1.0, 0.0]).max() < 0.1, found
        event("on_mouse_motion", int(400 + x), int(499 - y), 0, 0)
        assert np.abs(picture() - both).max() > 60, "the read-out"
        left, top, width, height = shown.pictures.plots(replay, (800, 500))[1]
        at = int(left + 0.25 * width), int(499 - top - height / 2)
        event("on_mouse_press", *at, mouse.LEFT, 0)
        event("on_mouse_release", *at, mouse.LEFT, 0)
        assert abs(replay.timeline.fraction - 0.25) < 0.03
        event("on_key_press", key.W, 0)
        event("on_key_press", key.M, 0)
        picture()
        assert replay.arrangement == "blend" and "choose surface" in shown.panels.places
        x, y, width, height = shown.panels.places["share"]
        at = int(x + 0.9 * 170), int(499 - y - height / 2)
        event("on_mouse_motion", *at, 0, 0)
        picture()
        event("on_mouse_press", *at, mouse.LEFT, 0)
        picture()
        event("on_mouse_release", *at, mouse.LEFT, 0)
        picture()
        assert 0.8 < replay.share < 1, replay.share
        event("on_key_press", key.W, 0)
        assert replay.landscape.difference is not None
        picture()
        event("on_key_press", key.Q, 0)
        assert replay.name == "high" and replay.other == "pca"
        picture()
        """,
    )
