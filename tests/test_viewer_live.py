"""Following a training that is still running: the recorder's own writer appends, the viewer reads along."""

import time

import numpy as np
import pytest

from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.trajectory import SCALARS
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter
from landscape_hooks.viewer.live import Follower
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay
from tests.landscapes import descent, surface

SIZE = 7
RNG = np.random.default_rng(3)
DIRECTIONS = RNG.normal(size=(2, SIZE))  # neither orthogonal nor of unit length
ORIGIN = RNG.normal(size=SIZE).astype("f4")
ACROSS = np.linalg.svd(DIRECTIONS)[2][-1]  # a unit vector that is orthogonal to the plane


def append(writer, steps, coordinates, distance):
    weights = ORIGIN + coordinates @ DIRECTIONS + np.outer(distance, ACROSS)
    scalars = {name: np.full(len(steps), np.nan) for name in SCALARS}
    scalars |= {"step": np.asarray(steps), "epoch": np.asarray(steps) / 50, "wall_time": np.zeros(len(steps))}
    writer.append(Rows(weights.astype("f4"), np.zeros((len(steps), 0), "f4"), scalars, np.full((len(steps), 1), 0.01)))


@pytest.fixture
def training(tmp_path):
    """A run with ten snapshots, all of them analyzed, whose training goes on."""
    root = create_run(tmp_path / "run.zarr")
    layout = ParameterLayout([ParameterEntry("weight", (SIZE,), "float32", 0, SIZE)])
    writer = TrajectoryWriter.create(root, layout, ParameterLayout([], kind="buffer"), groups=1)
    path = descent(10)
    append(writer, path.step, path.coordinates, path.distance)
    made = surface(paths=(path,))
    arrays = {
        "explained_variance_ratio": made.explained_variance_ratio,
        "origin": ORIGIN,
        "directions": DIRECTIONS.astype("f4"),
    }
    filled = SurfaceWriter.create(root, "pca", made.alpha, made.beta, made.attrs, arrays)
    filled.write(np.arange(made.loss.size), made.loss.ravel(), made.loss_stderr.ravel())
    filled.write_paths(root, made.paths)
    filled.finish(root, {})
    return tmp_path / "run.zarr", writer


def test_new_snapshots_are_projected_by_least_squares(training):
    run, writer = training
    follower = Follower(run, load(run))
    assert follower.look() is None
    added = np.array([[0.5, -1.0], [1.5, 2.0]])
    append(writer, [110, 130], added, [0.7, 0.0])
    found = follower.look()
    path = found.paths[0]
    assert path.step.tolist() == [*range(0, 100, 10), 110, 130]
    np.testing.assert_allclose(path.coordinates[-2:], added, atol=1e-5)
    np.testing.assert_allclose(path.distance[-2:], [0.7, 0.0], atol=2e-3)
    np.testing.assert_array_equal(path.loss[:10], descent(10).loss)
    assert np.isnan(path.loss[-2:]).all(), "what was not evaluated is not invented"
    assert np.isnan(path.plane_loss[-2:]).all()
    assert follower.look() is None


def test_a_snapshot_appears_within_two_seconds_and_the_replay_goes_on(training):
    run, writer = training
    replay = Replay.of(load(run), Look())
    follower = Follower(run, replay.landscape)
    follower.start()
    try:
        append(writer, [110], np.array([[0.5, -1.0]]), [0.0])
        start = time.monotonic()
        found = None
        while found is None and time.monotonic() - start < 2:
            time.sleep(0.02)
            found = follower.latest()
        assert found is not None
    finally:
        follower.stop()
    faces = replay.landscape.mesh.faces
    replay.grow(found)
    assert replay.landscape.mesh.faces is faces, "the surface is not built again"
    assert replay.timeline.position == replay.timeline.last == 10


def test_a_newer_analysis_takes_over(training):
    run, _ = training
    follower = Follower(run, load(run))
    root = open_run(run, mode="r+")
    made = surface(9, 8, paths=(descent(10),))
    arrays = {"origin": ORIGIN, "directions": DIRECTIONS.astype("f4"), "explained_variance_ratio": np.ones(2)}
    filled = SurfaceWriter.create(root, "second", made.alpha, made.beta, made.attrs, arrays)
    filled.write(np.arange(made.loss.size), made.loss.ravel(), made.loss_stderr.ravel())
    filled.write_paths(root, made.paths)
    filled.finish(root, {})
    assert follower.look().surface.shape == (9, 8)


def test_a_run_that_vanishes_leaves_the_picture_and_a_sentence(training):
    import shutil

    run, _ = training
    follower = Follower(run, load(run))
    follower.start()
    try:
        shutil.rmtree(run)
        start = time.monotonic()
        while not follower.error and time.monotonic() - start < 5:
            time.sleep(0.02)
        assert str(run) in follower.error
        assert follower.latest() is None
    finally:
        follower.stop()
