"""A plane is origin + alpha·d0 + beta·d1; projections are least squares in multiples of the directions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape_hooks.errors import PlaneError
from landscape_hooks.plane import blockwise
from landscape_hooks.plane.plane import Plane
from landscape_hooks.store.run import create_run
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter


def random_plane(rng, size, dtype=np.float64):
    return Plane(rng.normal(size=size).astype(dtype), rng.normal(size=(2, size)).astype(dtype))


@given(st.integers(2, 40), st.integers(1, 7), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_projection_is_least_squares_also_for_oblique_directions(size, count, seed):
    rng = np.random.default_rng(seed)
    plane = random_plane(rng, size)
    weights = rng.normal(size=(count, size))
    coordinates, distance = plane.project(weights)
    expected, *_ = np.linalg.lstsq(plane.directions.numpy().T, (weights - plane.origin.numpy()).T, rcond=None)
    np.testing.assert_allclose(coordinates, expected.T, rtol=1e-6, atol=1e-8)
    for (alpha, beta), row, gap in zip(coordinates, weights, distance, strict=True):
        np.testing.assert_allclose(np.linalg.norm(row - plane.point(alpha, beta).numpy()), gap, atol=1e-5)


def test_a_point_projects_onto_its_own_coordinates():
    plane = random_plane(np.random.default_rng(0), 1000, np.float32)
    wanted = np.array([[0.3, -2.0], [0.0, 0.0], [5.0, 1.0]])
    coordinates, distance = plane.project(torch.stack([plane.point(*c) for c in wanted]))
    np.testing.assert_allclose(coordinates, wanted, atol=1e-5)
    assert distance.max() < 1e-3
    assert torch.equal(plane.point(0.0, 0.0), plane.origin)


def test_streaming_in_small_blocks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    plane = random_plane(rng, 501)
    weights = rng.normal(size=(4, 501))
    whole = plane.project(weights)
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 8 * 4 * 17)
    monkeypatch.setattr(blockwise, "SPAN_BYTES", 4 * 4 * 100)
    for a, b in zip(plane.project(weights), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    spans = blockwise.map_displacements(weights, plane.origin.numpy(), lambda blocks: [c for c, _ in blocks])
    seen = [columns for span in spans for columns in span]
    assert len(seen) > 30
    assert [c.start for c in seen[1:]] == [c.stop for c in seen[:-1]]
    assert seen[-1].stop == 501


@settings(deadline=None)
@given(st.integers(1, 10**8), st.integers(1, 3000), st.integers(1, 2**20), st.integers(2**24, 2**30))
def test_what_is_read_at_a_time_fits_into_memory(size, count, chunk, memory):
    spans, workers = blockwise.column_spans(size, count, chunk, memory)
    assert spans[0].start == 0
    assert spans[-1].stop == size
    widest = max(s.stop - s.start for s in spans)
    assert 4 * count * widest * workers <= memory
    if 4 * count * chunk <= memory:
        assert all(s.start % chunk == 0 for s in spans)


def test_the_memory_of_reading_a_run_does_not_grow_with_the_model(tmp_path, monkeypatch):
    """Blocks of any width are read from a run, so that what is in memory at a time is a matter of READ_BYTES alone."""
    count, size = 20, 50_000
    layout = ParameterLayout([ParameterEntry("w", (size,), "float32", 0, size)])
    path = str(tmp_path / "run.zarr")
    writer = TrajectoryWriter.create(create_run(path), layout, ParameterLayout([], kind="buffer"), groups=1)
    weights = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
    scalars = {"step": range(count), "epoch": [0.0] * count, "loss": [0.0] * count, "wall_time": range(count)}
    writer.append(Rows(weights, np.empty((count, 0), np.float32), scalars, np.zeros((count, 1))))
    monkeypatch.setattr(blockwise, "READ_BYTES", 2**19)
    trajectory, read = Trajectory.open(path), []
    real = trajectory.block
    monkeypatch.setattr(trajectory, "block", lambda rows, columns: read.append(columns) or real(rows, columns))
    plane = Plane(weights[-1], weights[:2])
    expected = plane.project(weights)
    for found, wanted in zip(plane.project(trajectory), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert max(4 * count * (c.stop - c.start) for c in read) <= 2**19
    assert sum(c.stop - c.start for c in read) == size  # and nothing is read twice


def test_moments_know_variance_shares():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    moments = Plane(np.zeros(6), np.eye(6)[:2] * 7).moments(weights)
    centred = weights - weights.mean(axis=0)
    total = (centred**2).sum() / 50
    np.testing.assert_allclose(moments.total_variance, total)
    np.testing.assert_allclose(moments.explained_variance_ratio(), (centred[:, :2] ** 2).mean(axis=0) / total)


def test_a_line_has_no_second_coordinate():
    plane = Plane(np.zeros(3), np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    coordinates, distance = plane.project(np.array([[3.0, 4.0, 0.0]]))
    np.testing.assert_allclose(coordinates, [[2.0, 0.0]])
    np.testing.assert_allclose(distance, [3.0])
    np.testing.assert_allclose(plane.point(0.5, 99.0), [0, 1, 0])


@pytest.mark.parametrize(
    ("directions", "words"),
    [
        (np.zeros((2, 4)), "zero"),
        (np.ones((2, 4)), "parallel"),
        (np.ones((2, 3)), "shape"),
        (np.full((2, 4), np.nan), "NaN"),
    ],
)
def test_what_is_no_plane_is_refused(directions, words):
    with pytest.raises(PlaneError, match=words):
        Plane(np.zeros(4), directions)
