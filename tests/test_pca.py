"""Principal components equal those of scikit-learn's full PCA, however they are streamed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from landscape_hooks.errors import PlaneError, RunError
from landscape_hooks.plane import blockwise, gram
from landscape_hooks.plane.directions import pca
from landscape_hooks.plane.plane import Plane
from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter


def walk(count=12, size=300, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(count, size)) * np.linspace(3, 0.1, count)[:, None]
    return (100 + steps.cumsum(axis=0)).astype(dtype)


def aligned(a, b):
    """b with each row's sign as in a."""
    return b * np.sign(np.einsum("kd,kd->k", a, b))[:, None]


@pytest.mark.parametrize("solver", ["gram", "covariance", "incremental"])
@pytest.mark.parametrize("components", [(0, 1), (2, 0), (1, 3)])
def test_directions_and_shares_equal_full_pca(solver, components):
    weights = walk()
    found = pca.directions(weights, components=components, solver=solver)
    full = PCA().fit(weights)
    wanted = full.components_[list(components)]
    np.testing.assert_allclose(found.vectors, aligned(found.vectors, wanted), atol=1e-7)
    np.testing.assert_allclose(found.explained_variance_ratio, full.explained_variance_ratio_[list(components)])
    count = len(found.spectrum)
    np.testing.assert_allclose(found.spectrum, full.explained_variance_ratio_[:count], atol=1e-12)
    np.testing.assert_array_equal(found.origin, weights[-1])


@given(st.integers(3, 15), st.integers(3, 60), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_shape_equals_full_pca(count, size, seed):
    weights = walk(count, size, seed)
    found = pca.directions(weights, solver="gram")
    full = PCA(svd_solver="full").fit(weights)
    np.testing.assert_allclose(found.vectors, aligned(found.vectors, full.components_[:2]), atol=1e-5)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(2), atol=1e-9)


@pytest.mark.parametrize("far", [1, 1e3])
def test_a_component_of_little_variance_is_orthogonal_to_the_first(far):
    weights = walk(3, 3, 42)  # eigenvalues 1 : 1.3e-5
    weights[:, 0] *= far  # and 1 : 1e-11
    found = pca.directions(weights, solver="gram")
    assert abs(found.coefficients.sum(axis=1)).max() < 1e-13 * abs(found.coefficients).max()
    ratio = np.divide(*found.explained_variance_ratio)
    first, second = found.vectors
    assert abs(first @ second) < 100 * np.finfo(float).eps * np.sqrt(ratio)
    assert abs(second @ second - 1) < 100 * np.finfo(float).eps * ratio


def test_many_batches_of_the_covariance_are_exact(monkeypatch):
    monkeypatch.setattr(pca, "ROW_BYTES", 8 * 60 * 30)
    weights = walk(400, 60)
    found = pca.directions(weights, solver="covariance")
    full = PCA().fit(weights)
    np.testing.assert_allclose(found.vectors, aligned(found.vectors, full.components_[:2]), atol=1e-9)
    np.testing.assert_allclose(found.explained_variance_ratio, full.explained_variance_ratio_[:2], rtol=1e-10)


def test_the_solver_is_chosen_by_the_smaller_matrix(monkeypatch):
    monkeypatch.setattr(pca, "LARGE", 40)
    monkeypatch.setattr(pca, "NARROW", 30)
    monkeypatch.setattr(pca, "SMALL", 40)
    assert pca.directions(walk(39, 30)).attrs["solver"] == "gram"
    assert pca.directions(walk(40, 30)).attrs["solver"] == "covariance"
    assert pca.directions(walk(40, 31)).attrs["solver"] == "incremental"
    assert pca.directions(walk(40, 40)).attrs["solver"] == "gram"  # the memory of IncrementalPCA grows with the model
    with pytest.raises(PlaneError, match="parameters by parameters"):
        pca.directions(walk(5, 61), solver="covariance")


def test_many_batches_of_the_incremental_solver():
    rng = np.random.default_rng(3)
    weights = walk(400, 60) + rng.normal(size=(400, 60))
    found = pca.directions(weights, solver="incremental")
    full = PCA().fit(weights)
    np.testing.assert_allclose(found.vectors, aligned(found.vectors, full.components_[:2]), atol=2e-3)
    np.testing.assert_allclose(found.explained_variance_ratio, full.explained_variance_ratio_[:2], rtol=2e-3)


def test_auto_leaves_many_snapshots_of_a_small_model_to_other_solvers():
    shapes = {(100, 10**6): "gram", (2047, 10): "gram", (2048, 1000): "covariance", (2048, 2049): "incremental"}
    for shape, expected in {**shapes, (3000, 10**6): "gram"}.items():
        weights = np.broadcast_to(np.float32(0), shape)
        assert pca.resolve_solver("auto", weights) == expected
        assert pca.resolve_solver("gram", weights) == "gram"
    found = pca.directions(walk(2048, 20), solver="auto")
    assert found.attrs["solver"] == "covariance"


@pytest.mark.parametrize("solver", ["gram", "covariance", "incremental"])
def test_coefficients_build_the_directions_from_snapshots(solver):
    weights = walk()
    found = pca.directions(weights, solver=solver)
    np.testing.assert_allclose(found.coefficients @ (weights - weights[-1]), found.vectors, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_snapshot_has_negative_coordinates(seed):
    weights = walk(seed=seed)
    found = pca.directions(weights)
    coordinates, _ = Plane(found.origin, found.vectors).project(weights)
    assert (coordinates[0] <= 0).all()
    np.testing.assert_allclose(coordinates[-1], 0, atol=1e-12)


def test_small_displacements_of_large_weights_survive_float32():
    """A Gram matrix of the weights themselves would lose these to cancellation."""
    rng = np.random.default_rng(4)
    base = (1000 * rng.normal(size=5000)).astype(np.float32)
    weights = base + (walk(8, 5000) - 100).astype(np.float32) * np.float32(1e-1)
    found = pca.directions(weights)
    full = PCA().fit(weights.astype(np.float64))
    np.testing.assert_allclose(found.vectors, aligned(found.vectors, full.components_[:2]), atol=1e-6)


def test_new_rows_extend_a_known_gram_matrix(monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 8 * 12 * 50)
    weights = walk()
    whole = gram.matrix(weights)
    first = weights - weights[0]
    np.testing.assert_allclose(whole, first @ first.T)
    np.testing.assert_allclose(gram.matrix(weights, gram.matrix(weights[:7])), whole, rtol=1e-12)
    rows = np.array([0, 3, 4, 9])
    np.testing.assert_allclose(gram.matrix(weights, whole[np.ix_(rows, rows)], rows), whole, rtol=1e-12)
    np.testing.assert_array_equal(gram.matrix(weights, whole), whole)


def test_the_run_keeps_its_gram_matrix_and_computes_new_rows_only(tmp_path, monkeypatch):
    weights = walk().astype(np.float32)
    path = str(tmp_path / "run.zarr")
    layout = ParameterLayout([ParameterEntry("w", (300,), "float32", 0, 300)])
    writer = TrajectoryWriter.create(create_run(path), layout, ParameterLayout([], kind="buffer"), groups=1)

    def append(first, last):
        n = last - first
        scalars = {"step": range(first, last), "epoch": [0.0] * n, "loss": [0.0] * n, "wall_time": range(first, last)}
        writer.append(Rows(weights[first:last], np.empty((n, 0), np.float32), scalars, np.zeros((n, 1))))

    append(0, 8)
    root = open_run(path, mode="r+")
    expected = gram.matrix(weights)
    np.testing.assert_allclose(gram.stored(root, Trajectory.open(path)), expected[:8, :8], rtol=1e-6)
    asked = []
    real = gram.matrix
    monkeypatch.setattr(gram, "matrix", lambda t, known, rows, **more: asked.append(rows) or real(t, known, rows))
    gram.stored(root, Trajectory.open(path))
    assert asked == []
    append(8, 12)
    np.testing.assert_allclose(gram.stored(root, Trajectory.open(path)), expected, rtol=1e-6)
    np.testing.assert_array_equal(asked[0], np.arange(8))
    writer.truncate(5)  # recorded again from there: other weights, other times
    weights[6:] += 1
    n = 4
    scalars = {"step": range(6, 10), "epoch": [0.0] * n, "loss": [0.0] * n, "wall_time": range(106, 110)}
    writer.append(Rows(weights[6:10], np.empty((n, 0), np.float32), scalars, np.zeros((n, 1))))
    np.testing.assert_allclose(gram.stored(root, Trajectory.open(path)), real(weights[:10]), rtol=1e-6)
    assert asked[1] is None  # nothing of the matrix is believed when snapshots were taken anew


def test_what_has_no_components_is_refused():
    with pytest.raises(RunError, match="1 snapshot"):
        pca.directions(walk(1))
    with pytest.raises(PlaneError, match="spans 1 dimension"):
        pca.directions(walk(2))
    with pytest.raises(PlaneError, match="spans 0 dimensions"):
        pca.directions(np.ones((5, 4)))
    with pytest.raises(PlaneError, match="components"):
        pca.directions(walk(), components=(1, 1))
    with pytest.raises(PlaneError, match="solver"):
        pca.directions(walk(), solver="svd")
    broken = walk()
    broken[5, 7] = np.nan
    for solver in pca.SOLVERS:
        with pytest.raises(RunError, match="Snapshot 5 of the run holds NaN"):
            pca.directions(broken, solver=solver)
