"""The mesh against its definition: four triangles a cell, holes left open, paths exactly on it."""

import numpy as np
import pytest

from landscape_hooks.errors import SurfaceError
from landscape_hooks.mesh import contours
from landscape_hooks.mesh.mesh import Height, Mesh
from tests.landscapes import bowl, surface


def inside_triangle(mesh, point):
    """Height of the mesh at a point by search through every triangle: slow, and independent of `height_at`."""
    for face in mesh.faces:
        a, b, c = mesh.vertices[face]
        system = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
        weights = np.linalg.solve(system, [*point, 1])
        if (weights >= -1e-12).all():
            return float(weights @ [a[2], b[2], c[2]])
    return np.nan


def test_four_triangles_a_cell_with_the_mean_of_the_corners_in_the_middle():
    made = surface(5, 4)
    mesh = Mesh.from_surface(made)
    assert mesh.vertices.shape == (5 * 4 + 4 * 3, 3)
    assert mesh.faces.shape == (4 * 4 * 3, 3)
    heights = np.log10(made.loss)
    centre = mesh.vertices[20 + 1 * 3 + 2]
    np.testing.assert_allclose(centre[:2], [made.alpha[1:3].mean(), made.beta[2:4].mean()])
    np.testing.assert_allclose(centre[2], heights[1:3, 2:4].mean())
    a, b, c = (mesh.vertices[mesh.faces[:, k], :2] for k in range(3))
    across = np.cross(np.pad(b - a, ((0, 0), (0, 1))), np.pad(c - a, ((0, 0), (0, 1))))[:, 2]
    assert (across > 0).all(), "every face is counter-clockwise from above"
    np.testing.assert_allclose(across.sum() / 2, 9 * 6.5)


def test_the_height_is_the_logarithm_only_where_the_range_is_large():
    assert Height.choose(np.array([0.1, 4.9])).kind == "linear"
    assert Height.choose(np.array([0.1, 5.1])).kind == "log10"
    assert Height.choose(np.array([-1.0, 500.0])).kind == "linear"
    with pytest.raises(SurfaceError, match="no logarithm"):
        Height.choose(np.array([0.0, 1.0]), "log10")
    with pytest.raises(SurfaceError, match="no finite loss"):
        Height.choose(np.array([np.nan, np.inf]))
    clipped = Height.choose(np.arange(101.0), "linear", (5, 95))
    assert (clipped.low, clipped.high) == (5, 95)
    assert "percentiles 5 and 95" in clipped.statement


def test_no_triangle_touches_a_point_without_a_finite_loss():
    made = surface(holes=True)
    mesh = Mesh.from_surface(made)
    bad = ~(made.evaluated & np.isfinite(made.loss)).ravel()
    assert bad.sum() == 6 + 6 + 1 + 1
    assert not bad[mesh.faces[mesh.faces < bad.size]].any()
    good = ~bad.reshape(made.shape)
    whole = good[:-1, :-1] & good[1:, :-1] & good[:-1, 1:] & good[1:, 1:]
    assert len(mesh.faces) == 4 * whole.sum()
    assert np.isfinite(mesh.vertices).all()


def test_height_at_equals_a_search_through_the_triangles():
    mesh = Mesh.from_surface(surface(6, 5, holes=False))
    points = np.random.default_rng(0).uniform([-6, -3], [3, 3.5], (60, 2))
    expected = [inside_triangle(mesh, point) for point in points]
    np.testing.assert_allclose(mesh.height_at(points), expected, atol=1e-12)
    assert np.isnan(mesh.height_at(np.array([[3.1, 0.0], [0.0, -3.1]]))).all()


def test_the_path_lies_on_the_mesh_everywhere():
    made = surface()
    mesh = Mesh.from_surface(made)
    drape = mesh.drape(made.path)
    whole = np.isin(np.arange(len(made.path)), drape.position)
    assert whole.all(), "every snapshot is a point of the drape"
    shares = np.linspace(0, 1, 7)[:, None, None]
    between = (1 - shares) * drape.points[:-1] + shares * drape.points[1:]
    between = between.reshape(-1, 3)
    np.testing.assert_allclose(mesh.height_at(between[:, :2]), between[:, 2], atol=1e-12)


def test_a_straight_line_through_the_snapshots_alone_would_miss_the_mesh():
    made = surface()
    mesh = Mesh.from_surface(made)
    heights = mesh.height_at(made.path)
    middle = (made.path[1:] + made.path[:-1]) / 2
    assert np.abs(mesh.height_at(middle) - (heights[1:] + heights[:-1]) / 2).max() > 0.005


def test_the_path_is_open_over_holes_and_outside():
    made = surface(holes=True)
    mesh = Mesh.from_surface(made)
    line = np.array([[-7.0, -1.5], [2.0, -1.5]])
    drape = mesh.drape(line)
    lost = np.isnan(drape.points[:, 2])
    assert lost[0]
    assert lost[(drape.points[:, 0] > -4.0) & (drape.points[:, 0] < -3.5)].all()
    assert not lost[drape.points[:, 0] > 0].any()


def test_contours_lie_on_the_mesh_and_have_names():
    mesh = Mesh.from_surface(surface(31, 24))
    found = contours.contours(mesh)
    assert len(found) >= 10
    for contour in found:
        for line in contour.lines:
            np.testing.assert_allclose(mesh.height_at(line[:, :2]), contour.height, atol=1e-9)
    named = [contour.loss for contour in found if contour.index]
    np.testing.assert_allclose(named, [0.05, 0.1, 0.2, 0.5, 1.0, 2.0])


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.4), (0.0, 7.3), (-3.0, 2.0), (1e-6, 1e-6 + 1e-9)])
def test_linear_levels_are_1_2_5(low, high):
    losses, index = contours.levels(Height("linear", low, high))
    assert 8 <= len(losses) <= 45
    step = np.diff(losses)[0]
    mantissa = step / 10 ** np.floor(np.log10(step) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-6
    assert low < losses[0]
    assert losses[-1] < high
    assert index.sum() >= len(losses) // 5 - 1


def test_a_grid_that_cannot_be_drawn_is_refused():
    with pytest.raises(SurfaceError, match="1 x 4"):
        Mesh.from_surface(surface(1, 4))


def test_normals_are_those_of_a_plane():
    made = surface(8, 7)
    alpha, beta = np.meshgrid(made.alpha, made.beta, indexing="ij")
    tilted = type(made)(**{**made.__dict__, "loss": 100 + 0.3 * alpha - 0.2 * beta})
    mesh = Mesh.from_surface(tilted, height="linear")
    expected = np.array([-0.3, 0.2, 1.0]) / np.linalg.norm([-0.3, 0.2, 1.0])
    np.testing.assert_allclose(mesh.normals(np.ones(3)), np.tile(expected, (len(mesh.vertices), 1)), atol=1e-9)


def test_bowl_is_what_the_other_tests_think():
    assert surface().loss.max() / surface().loss.min() > 50
    assert bowl(0.0, 0.0) < 0.06
