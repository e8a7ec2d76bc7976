"""Much of everything: memory, files and handles stay flat and time grows no faster than the work.

The short forms run every day. The long ones, with the figures of docs/trust.md: `pytest -m slow tests/load -s`.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape_hooks import Surface, Trajectory, analyze, record
from landscape_hooks.analysis import commits, filling
from landscape_hooks.analysis.paths import Paths
from landscape_hooks.cli.description import describe
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.export.figure import contour_figure
from landscape_hooks.export.ply import write_ply
from landscape_hooks.export.ply_reader import read_ply
from landscape_hooks.mesh.contours import contours
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.plane.directions import pca
from landscape_hooks.plane.grid import Grid
from landscape_hooks.plane.plane import Plane
from landscape_hooks.recording.schedule import Thinning
from landscape_hooks.store.run import create_run, free_bytes, open_run
from landscape_hooks.surface.definition import Definition
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.writer import TrajectoryWriter
from landscape_hooks.viewer.gl.plot import telling
from landscape_hooks.viewer.live import Follower
from landscape_hooks.viewer.offscreen import Canvas
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay
from tests import landscapes
from tests.load import synthetic

FILES = 6
"""Files that 1,024 short snapshots take: one an array."""


def drawn(surface: Surface) -> np.ndarray:
    """The pixels of the end of its replay."""
    canvas = Canvas((640, 360), supersample=1)
    pixels = canvas.draw(Replay.of(load(surface), Look()))
    canvas.close()
    return pixels


def files_of(run: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(run))


def train(run: Path, steps: int, **options) -> list[float]:
    """Record so many optimizer steps of a small model; returns MB of memory after every tenth."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    memory = []
    with record(model, optimizer, str(run), **options):
        for step in range(steps):
            optimizer.step()
            if (step + 1) % (steps // 10) == 0:
                memory.append(synthetic.resident())
    return memory


@pytest.mark.more
@pytest.mark.parametrize(
    "steps", [12_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)  # fmt: skip
def test_very_many_snapshots(tmp_path, steps):
    run = tmp_path / "many.zarr"
    start = time.perf_counter()
    memory = train(run, steps, every=1)
    print(
        f"\nrecorded {steps} snapshots in {time.perf_counter() - start:.1f} s, "
        f"memory {memory[0]:.0f} to {memory[-1]:.0f} MB"
    )
    assert memory[-1] - memory[1] < 20 + steps / 5000  # the steps themselves are kept: a number each
    assert files_of(run) <= FILES * (steps // 1024 + 2) + 20
    start = time.perf_counter()
    trajectory, described = Trajectory.open(run), describe(run)
    print(f"opened and described in {time.perf_counter() - start:.2f} s; {files_of(run)} files")
    assert len(trajectory) == described["snapshots"] == steps + 1
    assert trajectory.steps[-1] == trajectory[-1].step == steps
    start = time.perf_counter()
    found = pca.directions(trajectory)
    print(f"principal components in {time.perf_counter() - start:.1f} s")
    assert found.attrs["solver"] == "covariance"
    assert found.explained_variance_ratio[0] == pytest.approx(1.0)  # the gradient never changes: a straight line


@pytest.mark.more
def test_thinning_keeps_a_long_training_small(tmp_path):
    train(tmp_path / "short.zarr", 500, keep=50)
    train(tmp_path / "long.zarr", 20_000, keep=50)
    assert len(Trajectory.open(tmp_path / "long.zarr")) <= 50
    assert Trajectory.open(tmp_path / "long.zarr").steps[-1] == 20_000
    assert files_of(tmp_path / "long.zarr") <= files_of(tmp_path / "short.zarr") + 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_surface_of_very_many_snapshots(tmp_path):
    """Each snapshot is evaluated twice: its own loss, and that of its projection."""
    inputs, targets = torch.randn(16, 8), torch.randn(16, 4)
    train(tmp_path / "many.zarr", 100_000, every=1, criterion=torch.nn.MSELoss(), data=(inputs, targets))
    start, before = time.perf_counter(), synthetic.resident()
    surface = analyze(tmp_path / "many.zarr", size=11, progress=False)
    seconds = time.perf_counter() - start
    print(f"\nanalyzed 100,000 snapshots in {seconds:.0f} s, {synthetic.resident() - before:.0f} MB more")
    assert surface.path.shape == (100_001, 2)
    assert np.isfinite(surface.path_loss).all()
    assert surface.attrs["solver"] == "covariance"


def test_a_replay_of_a_hundred_thousand_snapshots_is_drawn():
    surface = landscapes.surface(paths=(landscapes.descent(100_000),))
    start = time.perf_counter()
    pixels = drawn(surface)
    print(f"\ndrawn in {time.perf_counter() - start:.1f} s")
    other = drawn(landscapes.surface(paths=(landscapes.descent(2000),)))
    scene = (slice(20, 200), slice(150, 500))  # beside the captions, whose numbers differ
    apart = np.abs(pixels[scene].astype(float) - other[scene]).mean()
    assert apart < 1.5, "the same path, recorded more often, is another picture"


def test_the_plot_of_the_losses_shows_every_peak():
    values = np.random.default_rng(0).normal(size=100_001)
    values[77_777], values[5] = 50.0, np.nan
    rows = telling(values, 240)
    assert len(rows) <= 2 * 240 + 2
    assert {0, 77_777, 100_000, int(np.nanargmin(values))} <= set(rows.tolist())
    np.testing.assert_array_equal(telling(values[:300], 240), np.arange(300))


# -- large grids ------------------------------------------------------------------------------------------
def filled(run: Path, side: int, size: int, adaptive: float | None = None) -> tuple[Surface, list[float], list[float]]:
    """A surface of side×side points over `size` parameters; seconds and MB after every tenth of it."""
    root = create_run(run)
    directions = np.zeros((2, size), np.float32)
    directions[0, 0] = directions[1, 1] = 1
    loss = PlaneLoss(synthetic.Sampled(size), Plane(np.zeros(size, np.float32), directions), np.zeros(0), "none")
    loss.plan = Plan(workers=1, threads=1, tile=64)
    grid = Grid.spanning((-6, 3, -3, 3.5), (side, side))
    arrays = {"explained_variance_ratio": np.zeros(2)}
    definition = Definition(directions="random", labels=("a", "b"), samples=1)
    writer = filling.begin(root, "random", grid, definition, arrays, defining=arrays, fresh=True, share=None)
    done, seconds, memory, start = [0], [], [], time.perf_counter()

    def advance(count: int) -> None:
        done[0] += count
        while len(seconds) < done[0] * 10 // side**2:
            seconds.append(time.perf_counter() - start)
            memory.append(synthetic.resident())

    filling.fill(
        writer, grid, loss, local, advance, Paths(root, writer, [], np.empty((0, 2)), np.empty(0)), adaptive=adaptive
    )
    writer.finish(root, {})
    return Surface.open(run), seconds, memory


def assert_drawn(surface: Surface, folder: Path) -> None:
    """Figure, mesh, PLY and a rendered picture of it; each with its seconds."""
    start = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal start
        print(f"{what}: {time.perf_counter() - start:.1f} s, peak {synthetic.peak():.0f} MB")
        start = time.perf_counter()

    mesh = Mesh.from_surface(surface)
    assert contours(mesh)
    lap("mesh and contours")
    write_ply(surface, folder / "large.ply")
    lap("PLY")
    np.testing.assert_allclose(read_ply(folder / "large.ply").loss, surface.loss, rtol=1e-6)
    lap("PLY read")
    contour_figure(surface).savefig(folder / "large.png")
    lap("figure")
    pixels = drawn(surface)
    lap("one rendered picture")
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 500


@pytest.mark.more
def test_a_large_grid(tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "COMMIT_SECONDS", 0.05)  # as many commits as a much larger one has
    surface, _, memory = filled(tmp_path / "grid.zarr", 161, 1000)
    assert surface.complete
    mesh = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
    np.testing.assert_allclose(surface.loss, landscapes.bowl(*mesh), rtol=1e-5)
    assert memory[-1] - memory[1] < 20


def test_a_commit_writes_only_the_chunks_it_touches(tmp_path):
    root = create_run(tmp_path / "run.zarr")
    axis = np.arange(1001.0)
    writer = filling.SurfaceWriter.create(root, "a", axis, axis, {}, {})
    folder = tmp_path / "run.zarr/surfaces/a/loss/c"
    before = {chunk: chunk.stat().st_ino for chunk in folder.glob("*/0")}  # what is written is a new file
    writer.write(np.arange(10), np.arange(10.0), np.zeros(10))
    writer.write(np.arange(1_002_000, 1_002_001), np.array([7.0]), np.zeros(1))
    touched = [chunk.parent.name for chunk, number in before.items() if chunk.stat().st_ino != number]
    assert sorted(touched) == ["0", "7"]
    assert len(before) == 8
    again = filling.SurfaceWriter.resume(root, "a")
    assert again.evaluated.sum() == 11
    assert again.losses()[-1, -1] == 7.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_grid_of_1001_by_1001(tmp_path):
    surface, seconds, memory = filled(tmp_path / "grid.zarr", 1001, 1000)
    print(
        f"\n1001×1001: {seconds[-1]:.0f} s, tenths {np.round(np.diff(seconds), 1).tolist()}, memory {np.round(memory)}"
    )
    assert surface.complete
    assert memory[-1] - memory[1] < 60
    assert_drawn(surface, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_parameters_on_1001_by_1001_adaptively(tmp_path):
    surface, *_ = filled(tmp_path / "grid.zarr", 1001, 1_000_000, adaptive=0.001)
    print(f"\n{surface.evaluated.sum()} of 1001×1001 evaluated, peak {synthetic.peak():.0f} MB")
    mesh = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
    error = np.abs(surface.loss / landscapes.bowl(*mesh) - 1)
    assert np.quantile(error, 0.95) < 0.001
    assert_drawn(surface, tmp_path)


# -- large snapshots ----------------------------------------------------------------------------------------
LARGE = """
import json, sys, time
sys.path.insert(0, {here!r})
import numpy as np, synthetic
from landscape_hooks import Trajectory
from landscape_hooks.plane import gram
from landscape_hooks.plane.directions import pca
from landscape_hooks.plane.plane import Plane
size, count, run = {size}, {count}, {run!r}
writer, rng, said = synthetic.start(run, size), np.random.default_rng(0), {{}}
def lap(name, start):
    said[name] = [round(time.perf_counter() - start, 1), round(synthetic.peak())]
row, start = np.zeros((1, size), np.float32), time.perf_counter()
for step in range(count):
    row[0, step::count] += 1.0  # every snapshot moves other parameters
    row[0, :1000] += rng.normal(size=1000).astype(np.float32)
    synthetic.append(writer, row, step)
writer.close()
del row
lap("record", start)
start = time.perf_counter()
trajectory = Trajectory.open(run)
found = pca.directions(trajectory)
lap("components", start)
start = time.perf_counter()
coordinates, distance = Plane(found.origin, found.vectors).project(trajectory)
lap("project", start)
said["coordinates"] = coordinates.tolist()
said["gram"] = gram.matrix(trajectory).tolist()
print(json.dumps(said))
"""


@pytest.mark.more
@pytest.mark.parametrize(
    ("size", "count"),
    [(3_000_000, 4), pytest.param(250_000_000, 4, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_large_snapshots(tmp_path, size, count):
    """Recorded, decomposed and projected; memory stays at a few snapshots, whatever their number."""
    if free_bytes(str(tmp_path)) < 5 * 4 * size * count:
        pytest.skip("the disk is too small")
    here = str(Path(__file__).parent)
    code = LARGE.format(here=here, size=size, count=count, run=str(tmp_path / "large.zarr"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    print(f"\n{count} snapshots of {size * 4 / 1e9:.2f} GB, seconds and peak MB:", {k: said[k] for k in list(said)[:3]})
    matrix = np.array(said["gram"])
    moved = np.array([size // count * step for step in range(count)])  # squared distance from the first, but for 1000
    np.testing.assert_allclose(np.diag(matrix), moved, atol=1000 * 3 * count + 2000 * count)
    coordinates = np.array(said["coordinates"])
    np.testing.assert_allclose(coordinates[-1], 0, atol=1e-6)
    assert max(said[k][1] for k in ("record", "components", "project")) < 800 + 4 * (4 * size / 2**20) + 832


# -- a day of following -----------------------------------------------------------------------------------
def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.more
@pytest.mark.parametrize(
    "looks", [25, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)  # fmt: skip
def test_a_day_of_following(tmp_path, looks):
    """A fast writer with a thinned run, and after every look a picture: what a window does with --follow."""
    run = tmp_path / "live.zarr"
    keep, size = 100, 500
    surface = landscapes.surface(paths=(landscapes.descent(2),))
    landscapes.write_run(run, surface)
    root = open_run(run, mode="r+")
    writer = TrajectoryWriter.create(
        root, synthetic.layout(size), ParameterLayout([], kind="buffer"), groups=1, slots=keep
    )
    directions = np.zeros((2, size), np.float32)
    directions[0, 0] = directions[1, 1] = 1
    root["surfaces/pca"].create_array("origin", data=np.zeros(size, np.float32))
    root["surfaces/pca"].create_array("directions", data=directions)
    landscape = load(str(run))
    follower = Follower(str(run), landscape)
    plan, step, weights = Thinning(keep), 0, np.zeros((1, size), np.float32)
    seconds, memory, handles, threads = [], [], [], []
    replay, canvas = Replay.of(landscape, Look()), Canvas((320, 180), supersample=1)
    for _ in range(looks):
        for _ in range(40):
            step += 1
            if plan.next(step - 1) == step and plan.admit(step):
                writer.retain(plan.steps[:-1], plan.stride)
                weights[0, :2] = -5 * 0.9997**step, 2 * 0.9995**step
                synthetic.append(writer, weights, step)
        start = time.perf_counter()
        found = follower.look()
        if found is not None:
            replay.grow(found)
        canvas.draw(replay)
        seconds.append(time.perf_counter() - start)
        memory.append(synthetic.resident())
        handles.append(descriptors())
        threads.append(threading.active_count())
    canvas.close()
    landscape = replay.landscape
    third = looks // 3
    print(
        f"\n{looks} looks, {len(landscape.paths[0])} snapshots shown; "
        f"memory {memory[third]:.0f} to {memory[-1]:.0f} MB,"
    )
    print(f"handles {handles[third]} to {handles[-1]}, threads {threads[third]} to {threads[-1]},")
    print(f"a look {np.median(seconds[third : 2 * third]):.3f} s, later {np.median(seconds[-third:]):.3f} s")
    assert memory[-1] - memory[third] < 15
    assert handles[-1] <= handles[third]
    assert threads[-1] <= threads[third]
    # a snapshot that was shown stays in the picture when the run thins it out: half of keep each time the run doubles
    assert len(landscape.paths[0]) <= keep * (1.5 + 0.5 * np.log2(step / keep))
