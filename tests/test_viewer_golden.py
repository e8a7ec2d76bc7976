"""Golden images: small, without text, compared by a mean and by the worst block.

The bounds were calibrated: drivers differ by 0.05 in the mean and 4 in the worst block; a path that is two per cent
shorter, missing contour lines or another colour map are far beyond them. `python -m tests.test_viewer_golden` draws
the images anew.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landscape_hooks.viewer.offscreen import Canvas
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay
from tests.landscapes import descent, surface

FOLDER = Path(__file__).parent / "golden"
SIZE = (320, 180)
MEAN, BLOCK = 0.3, 12.0

SCENES = {
    "dark": (Look(captions=False), {}, "", 1.0),
    "light": (Look(captions=False, theme="light", colormap="hypsometric", contours="marching squares"), {}, "", 0.5),
    "wire": (Look(captions=False, colormap="wireframe", floor=False), {}, "az=-40,el=20", 0.7),
    "top": (Look(captions=False, colormap="cividis"), {"holes": True}, "top", 1.0),
    "two": (
        Look(captions=False, colormap="grey", height="linear", exaggeration=1.4),
        {"paths": (descent(), descent(30, "adam", -1.0))},
        "az=60",
        0.8,
    ),
}


def draw(name: str, canvas: Canvas):
    look, options, view, at = SCENES[name]
    landscape = load(surface(**options), height=look.height)
    replay = Replay.of(landscape, look, view=view, aspect=SIZE[0] / SIZE[1])
    replay.timeline.scrub(at)
    return canvas.draw(replay)[..., :3].astype(float)


def differences(one, other):
    """Mean absolute difference, and the largest mean over blocks of 8 x 8 pixels."""
    away = np.abs(one - other).mean(axis=-1)
    rows, columns = (side // 8 * 8 for side in away.shape)
    blocks = away[:rows, :columns].reshape(rows // 8, 8, columns // 8, 8).mean(axis=(1, 3))
    return away.mean(), blocks.max()


@pytest.fixture(scope="module")
def canvas():
    made = Canvas(SIZE, supersample=1, samples=0)
    yield made
    made.close()


def golden(name):
    return np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB")).astype(float)


@pytest.mark.parametrize("name", SCENES)
def test_the_picture_is_the_golden_one(canvas, name, tmp_path):
    drawn = draw(name, canvas)
    mean, block = differences(drawn, golden(name))
    if mean > MEAN or block > BLOCK:
        Image.fromarray(drawn.astype(np.uint8)).save(tmp_path / f"{name}.png")
    assert mean <= MEAN, f"see {tmp_path / name}.png"
    assert block <= BLOCK, f"see {tmp_path / name}.png"


def test_the_bounds_see_a_small_fault(canvas):
    """A marker two per cent of the path away, missing contours and a similar colour map are all found."""
    look, options, _, _ = SCENES["dark"]
    replay = Replay.of(load(surface(**options)), look, aspect=SIZE[0] / SIZE[1])
    for change in ("at", "contours", "colormap"):
        replay.look, replay.timeline.position = look, replay.timeline.last
        if change == "at":
            replay.timeline.scrub(0.9)
        else:
            replay.set_look(look.next(change))
            if change == "contours":
                replay.set_look(look.next(change, 2))
        mean, block = differences(canvas.draw(replay)[..., :3].astype(float), golden("dark"))
        assert mean > MEAN or block > BLOCK, change


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    brush = Canvas(SIZE, supersample=1, samples=0)
    for scene in SCENES:
        Image.fromarray(draw(scene, brush).astype(np.uint8)).save(FOLDER / f"{scene}.png", optimize=True)
