"""Two surfaces on one grid: blend, difference and one height, against their definitions."""

from dataclasses import replace

import numpy as np
import pytest

from landscape_hooks.errors import SurfaceError
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.mesh.pair import (
    DIVERGING,
    UNKNOWN,
    Difference,
    blended,
    check_same_grid,
    common_height,
    difference,
)
from tests.landscapes import descent, surface

LINEAR = Height("linear", 0.0, 1.0)
LOG = Height("log10", 0.01, 1.0)


def pair(**second):
    one = replace(surface(7, 6), name="clean")
    return one, replace(one, loss=2 * one.loss + 1, name="attacked", **second)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_blend_is_the_mean_of_both(share):
    one, other = pair(loss_stderr=surface(7, 6).loss_stderr * 3)
    found = blended(one, other, share)
    np.testing.assert_allclose(found.loss, (1 - share) * one.loss + share * other.loss)
    np.testing.assert_allclose(found.loss_stderr, (1 + 2 * share) * one.loss_stderr)
    assert "of clean" in found.name
    assert "of attacked" in found.attrs["blend"]
    np.testing.assert_array_equal(found.path, one.path)


def test_a_blend_begins_with_one_and_ends_with_the_other():
    one, other = pair()
    assert blended(one, other, 0) is one
    assert blended(one, other, 1) is other


def test_a_path_is_blended_where_it_is_the_same_on_both():
    one, other = pair()
    twice = replace(other.paths[0], loss=other.paths[0].loss * 2, plane_loss=other.paths[0].plane_loss * 4)
    found = blended(one, replace(other, paths=(twice,)), 0.5)
    np.testing.assert_allclose(found.path_loss, 1.5 * one.path_loss)
    np.testing.assert_allclose(found.path_plane_loss, 2.5 * one.path_plane_loss)
    elsewhere = replace(other, paths=(descent(9, turn=0.5),))
    assert blended(one, elsewhere, 0.3).paths == one.paths
    assert blended(one, elsewhere, 0.7).paths == elsewhere.paths


def test_a_hole_of_either_is_a_hole_of_both():
    one, other = pair()
    holes, nan = one.evaluated.copy(), other.loss.copy()
    holes[1, 2], nan[3, 3], nan[4, 4] = False, np.nan, np.inf
    one, other = replace(one, evaluated=holes), replace(other, loss=nan)
    mixed = blended(one, other, 0.5)
    assert not mixed.present[1, 2]
    assert mixed.present.sum() == mixed.loss.size - 1
    assert Mesh.from_surface(mixed).missing == {"not computed": 1, "NaN": 1, "infinite": 1}
    assert {tuple(place) for place in np.argwhere(np.isnan(difference(one, other)))} == {(1, 2), (3, 3), (4, 4)}


def test_a_point_that_is_interpolated_in_one_is_so_in_the_blend():
    one, other = pair()
    evaluated = one.evaluated.copy()
    evaluated[2, 2] = False
    guessed = replace(one, evaluated=evaluated, interpolated=~evaluated)
    found = blended(guessed, other, 0.5)
    assert found.interpolated.sum() == 1
    assert found.interpolated[2, 2]
    assert found.complete


def test_the_difference_is_second_minus_first_and_a_factor_on_a_logarithm():
    one, other = pair()
    np.testing.assert_allclose(difference(one, other), one.loss + 1)
    linear, log = Difference.of(one, other, LINEAR, ("A", "B")), Difference.of(one, other, LOG, ("A", "B"))
    np.testing.assert_allclose(linear.values, one.loss + 1)
    np.testing.assert_allclose(log.values, np.log10(2 + 1 / one.loss))
    assert (linear.name, log.name) == ("B - A", "B / A")
    assert linear.limit == pytest.approx(one.loss.max() + 1)


def test_the_difference_paints_the_first_surface():
    one, other = pair()
    loss = one.loss.copy()
    loss[0, 0], loss[5, 5], loss[6, 0] = loss[0, 0] + 3, loss[5, 5] - 3, np.nan
    found = Difference.of(one, replace(other, loss=loss), LINEAR)
    mesh = Mesh.from_surface(one)
    painted = found.paint(mesh)
    table = colors.table(DIVERGING)
    tints = painted.colors[: one.loss.size].reshape(7, 6, 3)
    np.testing.assert_array_equal(tints[0, 0], table[255])
    np.testing.assert_array_equal(tints[5, 5], table[0])
    np.testing.assert_array_equal(tints[3, 3], table[128])
    np.testing.assert_array_equal(tints[6, 0], [UNKNOWN] * 3)
    values = found.at(mesh)
    np.testing.assert_allclose(values[one.loss.size], 3 / 4)  # the centre of the first cell
    assert painted.grid is one
    assert painted.vertices is mesh.vertices
    assert found.said_at(one.alpha[0], one.beta[0], one) == "B - A: +3"
    assert "not known" in found.said_at(one.alpha[6], one.beta[0], one)


@pytest.mark.parametrize("factor", [1e-4, 0.3, 0.9, 1.0, 1.0005, 1.2, 1.7, 40.0, 1e9])
@pytest.mark.parametrize("height", [LINEAR, LOG])
def test_the_labels_of_a_difference_lie_within_its_colours(factor, height):
    one, _ = pair()
    found = Difference.of(one, replace(one, loss=one.loss * factor), height)
    values, labels = found.ticks
    assert len(set(labels)) == len(labels)
    assert 0.0 in values
    assert np.abs(values).max() <= found.limit * (1 + 1e-9)
    read = [float(label.lstrip("×+")) for label in labels]
    np.testing.assert_allclose(10**values if height is LOG else values, read, rtol=1e-2, atol=1e-12)


def test_one_height_spans_all_and_is_logarithmic_where_their_range_is_wide():
    one, other = pair()
    found = common_height([one, other])
    assert (found.low, found.high) == (one.loss.min(), other.loss.max())
    small = replace(one, loss=one.loss / one.loss.max())
    far = replace(one, loss=small.loss + 1e4)
    assert common_height([far]).kind == "linear"
    assert common_height([small, far]).kind == "log10"
    with pytest.raises(SurfaceError, match="logarithm"):
        common_height([one, replace(one, loss=-one.loss)], "log10")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": np.linspace(-6, 3.1, 7)}, "alpha goes from"),
        ({"beta": np.linspace(-2, 3.5, 6)}, "beta goes from"),
        ({"attrs": {"directions": "random"}}, "pca and random"),
    ],
)
def test_another_grid_is_refused(change, said):
    one, other = pair(**change)
    for ask in (check_same_grid, difference, lambda a, b: blended(a, b, 0.5)):
        with pytest.raises(SurfaceError, match=said):
            ask(one, other)


def test_another_size_another_plane_of_the_run_and_another_share_are_refused():
    one, other = pair()
    with pytest.raises(SurfaceError, match="7 x 6 and 9 x 6"):
        check_same_grid(one, surface(9, 6))
    attrs = {**one.attrs, "trajectory_digest": "same"}
    moved = replace(other, attrs=attrs, paths=(descent(turn=0.9),))
    with pytest.raises(SurfaceError, match="two planes"):
        check_same_grid(replace(one, attrs=attrs), moved)
    with pytest.raises(SurfaceError, match="share"):
        blended(one, other, 1.5)
