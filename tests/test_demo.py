"""The main job, end to end, as a user runs it: shortened, in a process of its own, without a display."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from landscape_hooks import Surface, Trajectory
from tests.forked import COMMAND

pytestmark = pytest.mark.more  # .ci/run runs it, and the demo is a command of the README


@pytest.fixture(scope="module")
def landscape_hooks(server):
    def command(*arguments):
        environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
        return server.run(COMMAND, *arguments, env=environment)

    return command


@pytest.fixture(scope="module")
def demo(tmp_path_factory, landscape_hooks):
    out = tmp_path_factory.mktemp("demo") / "out"
    done = landscape_hooks("demo", "--out", out, "--size", 7, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_demo_writes_what_it_says(demo):
    out, done = demo
    for name in ("digits.zarr", "digits.ply", "digits_path.ply", "digits.png", "digits.gif", "digits.html"):
        assert (out / name).exists()
        assert name in done.stdout
    surface = Surface.open(out / "digits.zarr")
    assert surface.shape == (7, 7)
    assert surface.complete
    assert surface.attrs["batch_norm"] == "batch"
    assert len(Trajectory.open(out / "digits.zarr")) == len(surface.path) == 45
    assert "render" in done.stdout  # no display: it says how to get the picture without one
    assert surface.attrs["report"][0] in done.stdout


def test_the_demos_files_hold_the_surface(demo):
    out, _ = demo
    surface = Surface.open(out / "digits.zarr")
    quality = np.asarray(PlyData.read(out / "digits.ply")["vertex"]["quality"])
    for loss in surface.loss[np.isfinite(surface.loss)]:
        assert np.isclose(quality, loss, rtol=1e-6).any()
    with Image.open(out / "digits.gif") as gif:
        assert gif.n_frames > 10
    with Image.open(out / "digits.png") as png:
        assert np.asarray(png.convert("RGB")).reshape(-1, 3).std(axis=0).min() > 10


def test_info_describes_the_run(demo, landscape_hooks):
    out, _ = demo
    done = landscape_hooks("info", out / "digits.zarr", "--json")
    description = json.loads(done.stdout)
    assert description["snapshots"] == 45
    assert description["surfaces"][0]["complete"]
    words = landscape_hooks("info", out / "digits.zarr").stdout
    assert "45 snapshots" in words
    assert description["surfaces"][0]["report"][0] in words


def test_the_demo_replaces_only_its_own_run(landscape_hooks, tmp_path):
    (tmp_path / "digits.zarr").mkdir()
    (tmp_path / "digits.zarr" / "precious").write_text("mine")
    done = landscape_hooks("demo", "--out", tmp_path, "--no-view")
    assert done.returncode == 2
    assert "--out" in done.stderr
    assert (tmp_path / "digits.zarr" / "precious").read_text() == "mine"
