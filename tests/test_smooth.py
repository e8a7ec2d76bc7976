"""The heights between grid points, against the function that the grid was taken from, and against scipy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline

from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.smooth import finer, slopes
from tests.landscapes import bowl, surface


def test_the_grid_s_own_points_keep_their_heights_bit_for_bit():
    for made in (surface(25, 25), surface(7, 31, holes=True), surface(2, 2), surface(300, 3)):
        mesh = Mesh.from_surface(made)
        alpha, beta, heights = finer(mesh)
        rows, columns = np.searchsorted(alpha, made.alpha), np.searchsorted(beta, made.beta)
        np.testing.assert_array_equal(alpha[rows], made.alpha)
        np.testing.assert_array_equal(beta[columns], made.beta)
        np.testing.assert_array_equal(heights[np.ix_(rows, columns)], mesh.heights)
        assert heights.shape == (len(alpha), len(beta))


@pytest.mark.parametrize("uneven", [False, True])
def test_a_row_of_the_grid_is_scipy_s_hermite_spline(uneven):
    made = surface(9, 12)
    if uneven:
        made = replace(made, alpha=made.alpha + 0.2 * np.sin(np.arange(9)), beta=made.beta * np.linspace(1, 1.5, 12))
    mesh = Mesh.from_surface(made)
    alpha, beta, heights = finer(mesh)
    for number in (0, 4, 8):
        spline = CubicHermiteSpline(made.beta, mesh.heights[number], slopes(mesh.heights, made.beta, 1)[number])
        row = heights[np.searchsorted(alpha, made.alpha[number])]
        np.testing.assert_allclose(row, np.clip(spline(beta), *mesh.height.bounds), atol=1e-12)


def test_it_is_nearer_to_the_function_than_the_triangles_are():
    mesh = Mesh.from_surface(surface(25, 25))
    alpha, beta, heights = finer(mesh)
    points = np.stack(np.meshgrid(alpha, beta, indexing="ij"), axis=-1).reshape(-1, 2)
    true = np.log10(bowl(*points.T))
    smooth, flat = np.abs(heights.ravel() - true), np.abs(mesh.height_at(points) - true)
    assert np.sqrt(np.mean(smooth**2)) < np.sqrt(np.mean(flat**2)) / 5
    assert smooth.max() < flat.max()


def test_slopes_are_continuous_across_cells():
    """A parabola and a plane are exact inside; the kink of a finite difference is that of its step."""
    mesh = Mesh.from_surface(surface(25, 25))
    _, _, heights = finer(mesh)
    kinks = np.abs(np.diff(heights, 2, axis=0))
    at_lines = kinks[8::9]  # 216 = 24 · 9 steps: every ninth is a grid line
    assert at_lines.max() < 2 * np.delete(kinks, np.s_[8::9], axis=0).max()


def test_a_cliff_and_a_spike_do_not_overshoot():
    for loss in (np.where(np.arange(12) < 6, 1.0, 9.0), np.where(np.arange(12) == 6, 9.0, 1.0)):
        made = surface(12, 5)
        mesh = Mesh.from_surface(replace(made, loss=np.repeat(loss[:, None], 5, axis=1)), height="linear")
        wide = replace(mesh, height=replace(mesh.height, low=-100.0, high=100.0))  # nothing is clipped
        heights = finer(wide)[2]
        assert heights.min() >= 1.0 - 1e-12
        assert heights.max() <= 9.0 + 1e-12


def test_a_hole_stays_a_hole_and_changes_its_neighbours_only():
    whole, holed = surface(21, 16), surface(21, 16)
    holed.loss[10, 8] = np.nan
    meshes = Mesh.from_surface(whole), Mesh.from_surface(holed)
    (alpha, beta, before), (_, _, after) = map(finer, meshes)
    hole = np.isnan(after)
    a, b = np.meshgrid(alpha, beta, indexing="ij")
    inside = (np.abs(a - whole.alpha[10]) < np.ptp(whole.alpha) / 20 * 0.999) & (
        np.abs(b - whole.beta[8]) < np.ptp(whole.beta) / 15 * 0.999
    )
    np.testing.assert_array_equal(hole, inside)
    far = (np.abs(a - whole.alpha[10]) > 3.01 * np.ptp(whole.alpha) / 20) | (
        np.abs(b - whole.beta[8]) > 3.01 * np.ptp(whole.beta) / 15
    )
    np.testing.assert_allclose(before[far], after[far], atol=1e-12)
