"""A grid covers the path, has a node at the origin, and says clearly what it cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape_hooks.errors import PlaneError
from landscape_hooks.plane.grid import MARGIN, SLENDER, Grid, parse_extent, parse_size

coordinate = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(
    st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=20),
    st.tuples(st.integers(3, 40), st.integers(3, 40)),
)
@settings(max_examples=200, deadline=None)
def test_covering_grid_holds_path_and_origin(path, size):
    path = np.array(path)
    if np.abs(path).max() < 1e-6:
        return
    grid = Grid.covering(path, size)
    assert grid.shape == size
    for axis, values in zip((grid.alpha, grid.beta), path.T, strict=True):
        low, high = min(values.min(), 0), max(values.max(), 0)
        reach = MARGIN * (high - low)
        assert axis[0] <= low - reach + 1e-9
        assert axis[-1] >= high + reach - 1e-9
        assert (axis == 0).sum() == 1
        np.testing.assert_allclose(np.diff(axis), axis[1] - axis[0], rtol=1e-9)
    spans = np.array([grid.alpha[-1] - grid.alpha[0], grid.beta[-1] - grid.beta[0]])
    assert spans.min() >= SLENDER / 3 * spans.max()


@pytest.mark.parametrize("size", [5, 8, 25, 40])
def test_covering_does_not_blow_up(size):
    path = np.array([[-10.0, 1.0], [-5.0, 4.0], [0.0, 0.0]])
    grid = Grid.covering(path, (size, size))
    assert grid.alpha[-1] - grid.alpha[0] < 10 * (1 + 2 * MARGIN) * (1 + 1.5 / (size - 1)) + 1e-9


def test_axes_are_compared_by_the_lengths_of_their_directions():
    path = np.array([[-1.0, 0.0], [0.0, 0.0]])
    grid = Grid.covering(path, (21, 21), scale=(1.0, 100.0))
    assert 0.9 * SLENDER * 1.5 < 100 * (grid.beta[-1] - grid.beta[0]) < 1.3 * SLENDER * 1.5


def test_natural_unit_is_reached():
    grid = Grid.covering(np.zeros((3, 2)), (5, 4), least=(1.0, 1.0))
    np.testing.assert_allclose(grid.alpha, [-1, -0.5, 0, 0.5, 1])
    assert grid.beta[0] <= -1
    assert grid.beta[-1] >= 1


def test_a_path_that_is_a_dot_asks_for_an_extent():
    with pytest.raises(PlaneError, match="--extent"):
        Grid.covering(np.zeros((3, 2)), (5, 5))


@given(st.integers(2, 30), st.integers(2, 30))
def test_points_follow_rows_and_columns(rows, columns):
    grid = Grid.spanning((-1, 2, 3, 4), (rows, columns))
    alpha, beta = np.meshgrid(grid.alpha, grid.beta, indexing="ij")
    np.testing.assert_array_equal(grid.points(), np.stack([alpha.ravel(), beta.ravel()], axis=1))
    pick = np.array([rows * columns - 1, 0])
    np.testing.assert_array_equal(grid.points(pick), [[2, 4], [-1, 3]])
    assert grid.extent == [-1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given_size", "size"), [(25, (25, 25)), ("25", (25, 25)), ("4x7", (4, 7)), ((3, 9), (3, 9)), ([3, 9], (3, 9))]
)
def test_sizes(given_size, size):
    assert parse_size(given_size) == size


@pytest.mark.parametrize("size", [1, "1x5", "axb", "3x4x5", (2, 3, 4), 0, -3, "", 2.5])
def test_sizes_that_are_none(size):
    with pytest.raises(PlaneError, match="size"):
        parse_size(size)


def test_extents():
    assert parse_extent("auto") is None
    assert parse_extent("-1,1,-2,2.5") == (-1, 1, -2, 2.5)
    assert parse_extent((0, 1, 2, 3)) == (0, 1, 2, 3)
    for wrong in ("1,2,3", "a,b,c,d", 5):
        with pytest.raises(PlaneError, match="extent"):
            parse_extent(wrong)
    for wrong in ((1, 0, 0, 1), (0, 1, 1, 1), (0, np.nan, 0, 1), (0, np.inf, 0, 1)):
        with pytest.raises(PlaneError, match="extent"):
            Grid.spanning(wrong, (3, 3))
