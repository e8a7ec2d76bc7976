"""Draw the pictures of the README and of docs/reading.md with the project itself.

    landscape-hooks demo --out DEMO --no-view
    landscape-hooks analyze DEMO/digits.zarr --size 49 --samples 256 --extent=-9.5,8.5,-5.5,5.5
    python docs/make_images.py DEMO/digits.zarr            # the README's
    python docs/make_images.py DEMO/digits.zarr page       # the page in a browser
    python docs/make_images.py DEMO/digits.zarr reading    # those of docs/reading.md, with their analyses
    python docs/make_images.py comparing                   # that of docs/comparing.md, with its trainings

The picture of the page in a browser (docs/viewer.md) needs Chromium and playwright. The picture of the window needs a display, such as Xvfb's; it is drawn in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape_hooks import Surface

FOLDER = Path(__file__).parent / "images"


def files(run: str) -> None:
    """The animation, the picture and the figure; no display is needed."""
    from landscape_hooks import Surface, contour_figure
    from landscape_hooks.viewer.offscreen import render
    from landscape_hooks.viewer.replay.look import Look

    FOLDER.mkdir(exist_ok=True)
    render(
        run,
        FOLDER / "hero.gif",
        size=(640, 360),
        frames=54,
        fps=15,
        turn=24,
        clock="arc length",
        progress=True,
    )
    look = Look(theme="light", colormap="hypsometric")
    render(
        run,
        FOLDER / "render.png",
        size=(1000, 562),
        look=look,
        at=0.55,
        clock="arc length",
    )
    contour_figure(Surface.open(run)).savefig(FOLDER / "contours.png")


POLICIES = ("batch", "fixed", "interpolate", "recalibrate")


def reading(run: str) -> None:
    """The pictures of docs/reading.md: five surfaces of the demo's run, of 25×25 points and 256 samples each."""
    from landscape_hooks import Local, analyze

    options = {"size": 25, "samples": 256, "engine": Local(workers=1)}
    surfaces = {
        policy: analyze(run, batch_norm=policy, name=policy, **options)
        for policy in POLICIES
    }
    random = analyze(run, directions="random", name="random", **options)
    several(run)
    FOLDER.mkdir(exist_ok=True)
    planes(surfaces["batch"], random)
    policies(surfaces)
    heights(surfaces["batch"])
    off_the_plane(surfaces["batch"])


def several(run: str) -> None:
    """The pictures of several surfaces in docs/viewer.md: two policies on one plane."""
    from landscape_hooks.viewer.offscreen import render
    from landscape_hooks.viewer.several.opening import Beside

    for name, beside in (
        ("beside", Beside(["fixed"])),
        ("difference", Beside(difference="fixed")),
    ):
        path = FOLDER / f"{name}.png"
        render(run, path, name="batch", size=(1000, 500), beside=beside)


def planes(principal: Surface, random: Surface) -> None:
    """One run on its principal plane and on a random one."""
    from landscape_hooks import contour_figure

    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(2)]
        for file, surface, title in zip(
            files, (principal, random), ("Principal plane", "Random plane"), strict=True
        ):
            figure = contour_figure(surface, size=(5.2, 4.4))
            figure.axes[0].set_title(
                title, loc="left", fontsize=11, fontweight="bold", pad=8
            )
            figure.axes[0].texts[-1].set_visible(False)
            figure.savefig(file, dpi=120)
        beside(files, FOLDER / "reading-planes.png")


def policies(surfaces: dict[str, Surface]) -> None:
    """Above, the four surfaces with the path on one scale of colours; below, the losses along the path."""
    import numpy as np

    from landscape_hooks.export.style import blank, ours

    with ours():
        figure = blank((11, 5.2))
        upper, lower = figure.subplots(2, 4, height_ratios=(3, 2), sharey="row")
        levels = np.linspace(-3, 1, 25)
        for policy, top, below in zip(POLICIES, upper, lower, strict=True):
            surface = surfaces[policy]
            loss = np.clip(np.log10(surface.loss.T), levels[0], levels[-1])
            filled = top.contourf(surface.alpha, surface.beta, loss, levels=levels)
            top.contour(
                surface.alpha,
                surface.beta,
                loss,
                levels=levels[::3],
                colors="white",
                linestyles="solid",
                linewidths=0.4,
            )
            top.plot(*surface.path.T, color="#ff5a36", linewidth=1.5)
            top.set_title(policy, loc="left", fontsize=11, fontweight="bold")
            top.set_xlabel("alpha")
            path = surface.paths[0]
            below.semilogy(
                path.step,
                path.loss,
                color="#1d2430",
                linewidth=1.6,
                label="at the snapshot",
            )
            below.semilogy(
                path.step,
                path.plane_loss,
                "--",
                color="#ff5a36",
                linewidth=1.3,
                label="on the surface",
            )
            below.set_ylim(1e-3, 1e3)
            below.set_xlabel("optimizer step")
            below.grid(color="#e3e6eb", linewidth=0.6)
        upper[0].set_ylabel("beta")
        lower[0].set_ylabel("loss")
        lower[0].legend(fontsize=8, frameon=False)
        bar = figure.colorbar(
            filled, ax=upper.tolist(), ticks=[-3, -2, -1, 0, 1], pad=0.01
        )
        bar.ax.set_yticklabels(["0.001", "0.01", "0.1", "1", "≥ 10"])
        bar.set_label("loss")
        figure.savefig(FOLDER / "reading-policies.png", dpi=105)


def heights(surface: Surface) -> None:
    """The same surface with a linear and with a logarithmic height."""
    from landscape_hooks.viewer.offscreen import render
    from landscape_hooks.viewer.replay.look import Look

    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{kind}.png" for kind in ("linear", "log10")]
        for file in files:
            look = Look(theme="light", height=file.stem, true_loss=False)
            render(
                surface,
                file,
                size=(640, 500),
                look=look,
                view="az=35,el=24,d=4.3",
                clock="arc length",
            )
        beside(files, FOLDER / "reading-heights.png")


def off_the_plane(surface: Surface) -> None:
    """The loss at the snapshots over the surface, and both losses and the distance against the step."""
    from landscape_hooks import loss_figure
    from landscape_hooks.viewer.offscreen import render
    from landscape_hooks.viewer.replay.look import Look

    with TemporaryDirectory() as folder:
        files = [Path(folder) / "scene.png", Path(folder) / "losses.png"]
        look = Look(theme="light", height="linear")
        render(
            surface,
            files[0],
            size=(660, 540),
            look=look,
            view="az=18,el=10,d=4.5",
            clock="arc length",
        )
        loss_figure(surface, size=(5.4, 4.5)).savefig(files[1], dpi=120)
        beside(files, FOLDER / "reading-distance.png")


def beside(files: list[Path], path: Path) -> None:
    """Pictures side by side, in 256 colours: a page loads quickly."""
    from PIL import Image

    images = [Image.open(file).convert("RGB") for file in files]
    height = max(image.height for image in images)
    whole = Image.new("RGB", (sum(image.width for image in images), height), "white")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width
    whole.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


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
    shown.window.dispatch_event(
        "on_mouse_motion", int(x) - 150, int(size[1] - 1 - y) - 10, 0, 0
    )
    draw()
    pixels = np.empty((size[1], size[0], 4), np.uint8)
    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, 0)
    gl.glReadPixels(
        0,
        0,
        *size,
        gl.GL_RGBA,
        gl.GL_UNSIGNED_BYTE,
        ctypes.c_void_p(pixels.ctypes.data),
    )
    Image.fromarray(pixels[::-1]).convert("RGB").save(
        FOLDER / "window.png", optimize=True
    )


def page(run: str) -> None:
    """The page that docs/viewer.md embeds, and its picture at the window's moment."""
    from shutil import which

    from playwright.sync_api import sync_playwright

    from landscape_hooks import write_html

    options = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
    file = write_html(run, FOLDER.parent / "replay.html")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=which("chromium"), args=options
        )
        size = {"width": 1100, "height": 680}
        shown = browser.new_page(viewport=size, color_scheme="dark")
        shown.goto(file.as_uri())
        shown.wait_for_selector("#title:not(:empty)")
        x, y = shown.evaluate(
            """() => {
              const { replay } = landscapePage;
              landscapePage.act(() => {
                replay.timeline.clock = "arc length";
                replay.timeline.scrub(0.72);
              });
              const marker = landscapePage.scene.marker(replay.timeline.position);
              return replay.camera.project(marker, landscapePage.size);
            }"""
        )[:2]
        shown.mouse.move(x - 150, y + 10)
        shown.wait_for_timeout(1500)
        shown.screenshot(path=FOLDER / "page.png")
        browser.close()


def comparing() -> None:
    """Three trainings on digits: the plane through their ends, and the barrier between two, aligned and not."""
    import numpy as np
    from matplotlib.figure import Figure

    from landscape_hooks import analyze, barrier, contour_figure
    from landscape_hooks.surface import report

    with TemporaryDirectory() as folder:
        runs = [_trained(Path(folder, f"seed{seed}.zarr"), seed) for seed in range(3)]
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        surface = analyze(*runs, directions="points", size=33, name="ends")
        contour_figure(surface, ax=left)
        print(*report.sentences(surface), sep="\n")
        for align, color, word in (
            (False, "#c2410c", "as trained"),
            (True, "#0f766e", "hidden units reordered"),
        ):
            found = barrier(runs[0], runs[1], align=align, points=41)
            error = np.nan_to_num(found.excess_stderr)
            low, high = found.loss - error, found.loss + error
            right.fill_between(found.t, low, high, color=color, alpha=0.2, lw=0)
            label = f"{word}: {found.height:.2g} ± {found.stderr:.1g}"
            right.plot(found.t, found.loss, color=color, label=label)
            print(found.said, *(found.alignment.said if found.alignment else []))
        right.set(xlabel="t, from seed0 to seed1", ylabel="loss on the probe samples")
        right.set_ylim(0, 1.35 * right.get_ylim()[1])
        right.legend(frameon=False, title="barrier", loc="upper left")
        figure.savefig(FOLDER / "comparing.png", dpi=80)


def _trained(run: Path, seed: int) -> str:
    """A training of a small network on digits from its own weights, in its own order."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    from landscape_hooks import record

    pixels, labels = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(pixels / 16).float(), torch.tensor(labels)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = (inputs[:512], labels[:512])
    with record(model, optimizer, run, criterion=criterion, data=data):
        for _ in range(300):
            some = torch.randint(len(inputs), (128,))
            optimizer.zero_grad()
            criterion(model(inputs[some]), labels[some]).backward()
            optimizer.step()
    return str(run)


if __name__ == "__main__":
    if sys.argv[1:] == ["comparing"]:
        comparing()
    elif sys.argv[2:] == ["window"]:
        window(sys.argv[1])
    elif sys.argv[2:] == ["page"]:
        page(sys.argv[1])
    elif sys.argv[2:] == ["reading"]:
        reading(sys.argv[1])
    else:
        files(sys.argv[1])
        if os.environ.get("DISPLAY"):
            subprocess.run(
                [sys.executable, __file__, sys.argv[1], "window"], check=True
            )
        else:
            print("window.png was left out: there is no display")
