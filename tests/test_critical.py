"""Critical points: known functions, noise, edges, plateaus, holes, and a search that knows of no tree."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from landscape_hooks import Surface, contour_figure, critical_points, lowest_pass
from landscape_hooks.surface import report
from landscape_hooks.surface.spots import said_of_critical, shown_critical_points
from landscape_hooks.viewer.replay import controls
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay, describe_place
from landscape_hooks.viewer.web.packing import pack_surface

EIGHT, FOUR = np.ones((3, 3)), ndimage.generate_binary_structure(2, 1)


def surface(loss, alpha=None, beta=None, *, stderr=np.nan, **fields):
    loss = np.asarray(loss, dtype=float)
    alpha = np.arange(loss.shape[0], dtype=float) if alpha is None else alpha
    beta = np.arange(loss.shape[1], dtype=float) if beta is None else beta
    error, whole = np.broadcast_to(np.asarray(stderr, dtype=float), loss.shape), np.ones(loss.shape, dtype=bool)
    given = {"loss_stderr": error, "evaluated": whole, "explained_variance_ratio": np.full(2, np.nan)}
    return Surface(**{"alpha": alpha, "beta": beta, "loss": loss, "paths": (), "attrs": {}, **given, **fields})


def of_function(function, alpha, beta, **fields):
    return surface(function(*np.meshgrid(alpha, beta, indexing="ij")), alpha, beta, **fields)


def minima(points):
    return [point for point in points if point.kind == "minimum"]


def saddles(points):
    return [point for point in points if point.kind == "saddle"]


def himmelblau(x, y):
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def muller_brown(x, y):
    a, b, c = (-1, -1, -6.5, 0.7), (0, 0, 11, 0.6), (-10, -10, -6.5, 0.7)
    height, x0, y0 = (-200, -100, -170, 15), (1, 0, -0.5, -1), (0, 0.5, 1.5, 1)
    terms = zip(height, a, b, c, x0, y0, strict=True)
    return sum(h * np.exp(p * (x - u) ** 2 + q * (x - u) * (y - v) + r * (y - v) ** 2) for h, p, q, r, u, v in terms)


# -- known functions -------------------------------------------------------------------------------------------
def near(points, known, step):
    """Each of the known places has one point within a grid step, and there is no other."""
    found = np.array([point.coordinates for point in points])
    assert len(found) == len(known)
    for place in known:
        assert np.abs(found - place).max(axis=1).min() <= step


def test_a_double_well_on_a_plane_and_on_a_line():
    x = np.linspace(-1.6, 1.6, 33)
    for beta in (np.linspace(-1, 1, 21), np.zeros(1)):
        points = critical_points(of_function(lambda a, b: (a**2 - 1) ** 2 + 0.1 * a + b**2, x, beta))
        low, high = minima(points)
        (top,) = saddles(points)
        near(minima(points), [(-1, 0), (1, 0)], 0.11)
        near([top], [(0, 0)], 0.11)
        assert low.persistence == np.inf
        assert low.ends_at is None
        assert high.ends_at == top.place
        assert top.between == (high.place, low.place)
        assert high.persistence == top.loss - high.loss
        assert lowest_pass(points, low, high) == lowest_pass(points, high, low) == top
        assert not any(point.at_edge for point in points)


def test_himmelblau_has_four_minima_and_four_saddles():
    at = np.linspace(-5, 5, 101)
    points = critical_points(of_function(himmelblau, at, at))
    near(minima(points), [(3, 2), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)], 0.1)
    near(saddles(points), [(-3.073026, -0.081353), (-0.127961, -1.953715), (0.086678, 2.884255), (3.385154, 0.073852)],
         0.1)  # fmt: skip
    assert all(point.real and not point.at_edge for point in points)
    by_place = {(round(p.coordinates[0]), round(p.coordinates[1])): p for p in minima(points)}
    way = lowest_pass(points, by_place[4, -2], by_place[-3, 3])
    assert way.loss == pytest.approx(67.72, abs=0.5)  # over the pass at (0.09, 2.88), not the ones at 104 and 178


def test_muller_brown_has_three_minima_and_two_passes():
    x, y = np.linspace(-1.5, 1.2, 109), np.linspace(-0.2, 2.0, 89)
    points = critical_points(of_function(muller_brown, x, y))
    inside = [point for point in points if not point.at_edge]
    near(minima(inside), [(-0.558224, 1.441726), (-0.050011, 0.466694), (0.623499, 0.028038)], 0.025)
    near(saddles(inside), [(-0.822002, 0.624313), (0.212487, 0.292988)], 0.025)
    losses = [round(point.loss) for point in minima(inside)]
    assert losses == [-147, -108, -81]
    assert [round(point.loss) for point in saddles(inside)] == [-72, -41]


def test_a_surface_without_a_second_minimum_has_no_pass():
    at = np.linspace(-2, 2, 9)
    (point,) = critical_points(of_function(lambda x, y: x**2 + y**2, at, at))
    assert point.coordinates == (0, 0)
    assert point.persistence == np.inf
    assert said_of_critical(point) == "lowest point of the grid: loss 0"


# -- what is real ------------------------------------------------------------------------------------------------
def test_noise_makes_false_minima_which_its_standard_error_removes():
    at, rng = np.linspace(-2, 2, 41), np.random.default_rng(3)
    noisy = of_function(lambda x, y: (x**2 - 1) ** 2 + y**2, at, at).loss + 0.05 * rng.standard_normal((41, 41))
    known = critical_points(surface(noisy, at, at, stderr=0.05))
    assert len(minima(known)) > 6
    real = [point for point in known if point.real]
    near(minima(real), [(-1, 0), (1, 0)], 0.25)
    assert len([point for point in saddles(real) if point.between]) == 1
    assert all(point.real for point in critical_points(surface(noisy, at, at)))  # nothing is known of the noise


def test_the_error_is_that_of_both_losses_and_their_rounding():
    error = np.array([[0.3, 0.1, 0.4]]).T
    points = critical_points(surface([[0.0], [4.0], [1.0]], stderr=error))
    second = minima(points)[1]
    assert second.noise == pytest.approx(2 * np.hypot(0.4, 0.1) + 3e-7 * 5)
    assert second.real
    assert second.persistence == 3.0
    flat = critical_points(surface([[0.0], [1.0000001], [1.0]]))
    assert not minima(flat)[1].real


def test_what_a_picture_shows_is_real_and_inside():
    at = np.linspace(-5, 5, 41)
    whole = shown_critical_points(of_function(himmelblau, at, at))
    assert [point.kind for point in whole] == ["minimum"] * 4 + ["saddle"] * 4
    part = shown_critical_points(of_function(himmelblau, at[at >= 3.5], at))
    assert [point.kind for point in part] == []  # its minima are at the edge now
    many = of_function(lambda x, y: np.cos(4 * x) + np.cos(4 * y) + 0.01 * x, at, at)
    shown = shown_critical_points(many)
    assert len(minima(critical_points(many))) > 12 == len(minima(shown))


def test_figures_window_and_page_show_them():
    at = np.linspace(-5, 5, 21)
    whole = replace(of_function(himmelblau, at, at), attrs={"labels": ["a", "b"], "samples": 8})
    drawn = {line.get_label(): len(line.get_xdata()) for line in contour_figure(whole).axes[0].lines}
    assert (drawn["minimum of the grid"], drawn["saddle"]) == (4, 4)
    landscape = load(whole)
    packed = pack_surface(landscape)["critical"]
    assert [one["kind"] for one in packed] == ["minimum"] * 4 + ["saddle"] * 4
    assert packed[0]["said"].startswith("lowest point of the grid")
    replay = Replay.of(landscape, Look())
    above = replay.stage.place(landscape.critical_places)[-1]
    assert any(line.startswith("saddle: ") for line in describe_place(replay, above))
    controls.find("N", False).does(replay, (800, 600))
    assert not replay.look.critical
    assert not any(line.startswith("saddle: ") for line in describe_place(replay, above))


# -- edges, plateaus, holes ---------------------------------------------------------------------------------------
def test_a_minimum_at_the_edge_is_said_to_be_there():
    at = np.linspace(-2, 2, 9)
    slope = of_function(lambda x, y: x + y**2, at, at)
    (point,) = critical_points(slope)
    assert point.at_edge
    assert point.coordinates == (-2, 0)
    assert shown_critical_points(slope) == []
    assert "at the edge" in report._critical(slope)[0]


def test_a_plateau_is_one_minimum():
    loss = np.full((5, 7), 2.0)
    loss[2, 1:3] = loss[1, 3] = 1.0  # touches diagonally
    loss[3, 5] = 1.0
    points = critical_points(surface(loss))
    assert [point.place for point in minima(points)] == [(1, 3), (3, 5)]
    assert not any(point.at_edge for point in minima(points))
    loss[2, 0] = 1.0
    assert minima(critical_points(surface(loss)))[0].at_edge  # since some of it is
    (constant,) = critical_points(surface(np.ones((4, 4))))
    assert constant.place == (0, 0)
    assert constant.at_edge


@pytest.mark.parametrize("hole", [np.nan, -np.inf, None])
def test_a_hole_is_not_crossed_and_what_is_beside_it_is_at_an_edge(hole):
    loss = np.array([[5.0, 1.0, 5.0, 9.0, 5.0, 2.0, 5.0]] * 3)
    loss[1, 1], loss[1, 5] = 0.0, 1.0
    evaluated = np.ones(loss.shape, dtype=bool)
    loss[:, 3], evaluated[:, 3] = (hole, True) if hole is not None else (1.0, False)
    points = critical_points(surface(loss, evaluated=evaluated))
    first, second = minima(points)
    assert first.persistence == np.inf
    assert second.persistence == 4.0
    assert second.ends_at is None
    assert lowest_pass(points, first, second) is None
    assert not first.at_edge
    assert not second.at_edge
    loss[:, 4] = np.nan
    assert minima(critical_points(surface(loss, evaluated=evaluated)))[1].at_edge


def test_a_wall_of_infinite_loss_is_a_wall():
    loss = np.array([[5.0, 1.0, 5.0, np.inf, 5.0, 2.0, 5.0]] * 3)
    loss[1, 1], loss[1, 5] = 0.0, 1.0
    assert [point.persistence for point in minima(critical_points(surface(loss)))] == [np.inf, np.inf]
    around = np.ones((5, 5))
    around[2, 2], around[1, 2], around[0, 0] = np.inf, 2.0, 0.0
    (ring,) = saddles(critical_points(surface(around)))
    assert ring.between is None
    assert ring.persistence == np.inf


def test_nothing_finite_gives_nothing():
    assert critical_points(surface(np.full((3, 3), np.nan))) == ()
    assert critical_points(surface(np.ones((3, 3)), evaluated=np.zeros((3, 3), dtype=bool))) == ()


def test_an_interpolated_loss_does_not_count():
    at = np.linspace(-1.5, 1.5, 25)
    true = of_function(lambda x, y: (x**2 - 1) ** 2 + y**2, at, at)
    evaluated = np.zeros(true.shape, dtype=bool)
    evaluated[::4, ::4] = evaluated[8:17, 8:17] = True
    loss = np.where(evaluated, true.loss, -7.0)  # as bad as an interpolation can be
    points = critical_points(surface(loss, at, at, evaluated=evaluated, interpolated=~evaluated))
    near(minima(points), [(-1, 0), (1, 0)], 0.51)
    near(saddles(points), [(0, 0)], 0.13)
    assert all(evaluated[point.place] for point in points)


# -- a search that knows of no tree ----------------------------------------------------------------------------------
LOSSES = arrays(
    float, st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.nan, np.inf]),
)  # fmt: skip


def part_of(loss, level, place):
    """The part of the points up to a level that a place is in."""
    with np.errstate(invalid="ignore"):
        parts, _ = ndimage.label((loss <= level) & np.isfinite(loss), EIGHT)
    return (parts == parts[place]) & (parts[place] > 0)


def lower(loss, place, part):
    """Whether a part has a point below the place, or an equal one that comes before it in the grid."""
    return min((loss[tuple(p)], tuple(p)) for p in np.argwhere(part)) < (loss[place], place)


@settings(max_examples=40, deadline=None)
@given(LOSSES)
def test_minima_and_passes_are_those_of_a_search_over_levels(loss):
    points = critical_points(surface(loss))
    places = [tuple(place) for place in np.argwhere(np.isfinite(loss)).tolist()]
    parts = {place: part_of(loss, loss[place], place) for place in places}
    flat = {tuple(np.argwhere(part)[0].tolist()) for part in parts.values() if np.ptp(loss[part]) == 0}
    assert {point.place for point in minima(points)} == flat
    levels = np.unique(loss[np.isfinite(loss)])
    for one in minima(points):
        grown = [(level, part_of(loss, level, one.place)) for level in levels if level >= one.loss]
        for other in (point for point in minima(points) if point is not one):
            way = lowest_pass(points, one, other)
            found = next((level for level, part in grown if part[other.place]), None)
            assert (None if way is None else way.loss) == found
        if one.ends_at is not None:
            ends = next(level for level, part in grown if lower(loss, one.place, part))
            assert one.persistence == ends - one.loss
            assert loss[one.ends_at] == ends


@settings(max_examples=40, deadline=None)
@given(LOSSES)
def test_at_each_level_there_are_as_many_rings_as_the_part_below_has_holes(loss):
    loss = np.where(np.isnan(loss), 3.0, loss)
    rings = [point for point in saddles(critical_points(surface(loss))) if point.between is None]
    for level in np.unique(loss[np.isfinite(loss)]):
        _, outside = ndimage.label(np.pad(loss > level, 1, constant_values=True), FOUR)
        assert sum(point.loss <= level < point.loss + point.persistence for point in rings) == outside - 1
