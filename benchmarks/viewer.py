"""How fast the replay is: first frame, turning, replaying, idling. Prints medians; run it on a quiet machine.

    python benchmarks/viewer.py [--size 1280x720]

Frames are drawn without a display, by EGL. The first frame of the window is measured from the start of the command,
where there is a display (DISPLAY) or Xvfb.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from landscape_hooks.store.run import create_run
from landscape_hooks.surface.surface import Path as Track
from landscape_hooks.surface.surface import Surface
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.viewer.gl import context
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay

FIRST = """
import sys, time
from landscape_hooks.viewer import window
def once(self):
    self.window.switch_to(); self.on_draw(); self.window.flip()
    from pyglet import gl
    gl.glFinish()
    print(time.time())
    if "idle" in sys.argv:
        import resource
        import pyglet
        used, marks = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), []
        pyglet.clock.schedule_once(lambda dt: marks.append(used()), 1.0)
        pyglet.clock.schedule_once(lambda dt: (marks.append(used()), self.window.close()), 4.0)
        self.touch()
        pyglet.app.run(interval=None)
        print((marks[1] - marks[0]) / 3)
window.ReplayWindow.run = once
from landscape_hooks.cli import main
main(["view", sys.argv[1], "--no-play"])
"""


def bowl(points: int) -> Surface:
    """A rippled bowl on points x points, with a path of 200 snapshots."""
    axis = np.linspace(-3, 3, points)
    alpha, beta = np.meshgrid(axis, axis, indexing="ij")

    def loss(a: Any, b: Any) -> Any:
        return 0.01 + 0.3 * (a**2 + 0.5 * b**2) * (1.3 + np.sin(3 * a) * np.cos(2 * b))

    t = np.linspace(0, 1, 200)
    way = np.stack([-2.5 * (1 - t) ** 2, 2.2 * (1 - t) * np.cos(4 * t)], axis=1)
    unknown = np.full(len(t), np.nan)
    track = Track(way, np.arange(200) * 5, loss(*way.T), loss(*way.T), t * 0.1, unknown, unknown, unknown, "run")
    attrs = {"directions": "pca", "labels": ["PC 1", "PC 2"], "batch_norm": "batch", "samples": 512}
    values = loss(alpha, beta)
    every = np.ones(values.shape, dtype=bool)
    return Surface(axis, axis, values, values * 0, every, np.array([0.8, 0.1]), (track,), attrs, "pca")


def write(folder: Path, made: Surface) -> Path:
    """The surface as a run."""
    root = create_run(folder)
    arrays = {"explained_variance_ratio": made.explained_variance_ratio}
    writer = SurfaceWriter.create(root, "pca", made.alpha, made.beta, made.attrs, arrays)
    writer.write(np.arange(made.loss.size), made.loss.ravel(), made.loss_stderr.ravel())
    writer.write_paths(root, made.paths)
    writer.finish(root, {})
    return folder


def median(action: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Wall and CPU milliseconds of an action."""
    wall, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        action()
        wall.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (time.process_time() - used))
    return statistics.median(wall), statistics.median(cpu)


def frames(points: int, size: tuple[int, int], repeats: int) -> None:
    """Turning and replaying a grid of points x points."""
    from pyglet import gl

    context.offscreen()
    from landscape_hooks.viewer.gl.gpu import Framebuffer
    from landscape_hooks.viewer.gl.scene import Scene

    start = time.perf_counter()
    replay = Replay.of(load(bowl(points)), Look(captions=False))
    scene = Scene(replay.landscape, replay.look)
    gl.glFinish()
    print(f"\n{points} x {points} ({len(replay.landscape.mesh.faces):,} triangles), "
          f"ready after {1e3 * (time.perf_counter() - start):.0f} ms")  # fmt: skip
    for label, samples, coarse, turning in (
        ("turning, full mesh", 0, False, True),
        ("turning, as while dragging", 0, True, True),
        ("turning, full mesh, 4 samples", 4, False, True),
        ("replaying", 0, False, False),
        ("replaying, 4 samples", 4, False, False),
    ):
        target, still = (Framebuffer(*size, samples=samples) for _ in range(2))
        view = [replay.camera]

        def frame(
            target: Any = target, still: Any = still, view: Any = view, coarse: bool = coarse, turning: bool = turning
        ) -> None:
            if turning:
                view[0] = replace(view[0], azimuth=view[0].azimuth + 3)
            scene.draw(view[0], target, 100.5, coarse=coarse, still=still)
            target.resolve()
            gl.glFinish()

        frame()
        wall, cpu = median(frame, repeats)
        print(f"  {label:32} {wall:8.1f} ms wall {cpu:8.1f} ms CPU {1e3 / wall:8.1f} frames/s")
        target.delete()
        still.delete()
    scene.delete()


def first_frame(points: int) -> None:
    """From the start of the command to the first picture of the window, and what the window takes at rest."""
    server = None
    environment = dict(os.environ)
    if not environment.get("DISPLAY"):
        if shutil.which("Xvfb") is None:
            print("first frame: no display and no Xvfb")
            return
        reader, writer = os.pipe()
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1400x900x24"],
            pass_fds=(writer,),
            stderr=subprocess.DEVNULL,
        )
        os.close(writer)
        with os.fdopen(reader) as stream:
            environment["DISPLAY"] = f":{stream.readline().strip()}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = write(Path(folder) / "run.zarr", bowl(points))
            times = []
            for _ in range(5):
                start = time.time()
                command = [sys.executable, "-c", FIRST, str(run)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                times.append(float(done.stdout.split()[-1]) - start)
            idle = subprocess.run([*command, "idle"], env=environment, capture_output=True, text=True, check=True)
        print(f"an idle window takes {100 * float(idle.stdout.split()[-1]):.2f} % of one core")
        print(f"first frame of a {points} x {points} run: {statistics.median(times):.2f} s after the command")
    finally:
        if server is not None:
            server.terminate()
            server.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--points", type=int, nargs="*", default=[51, 201, 1001])
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    first_frame(51)
    for points in options.points:
        frames(points, (width, height), options.repeats)


if __name__ == "__main__":
    main()
