"""Marks in the page: where the window has them, the same names and words."""

import numpy as np
import pytest

from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay, describe_place
from tests.landscapes import marked, surface
from tests.test_web_browser import PICTURE, browser, opened, pixels, settle  # noqa: F401

pytestmark = pytest.mark.timeout(600)
SIZE = (800, 500)


def test_the_page_has_the_marks_where_the_window_has_them(opened):  # noqa: F811
    replay = Replay.of(load(marked()), Look(), aspect=SIZE[0] / SIZE[1])
    page = opened(marked(), size=SIZE)
    settle(page)
    spots = page.evaluate("landscapePage.replay.landscape.spots")
    np.testing.assert_allclose(spots, replay.landscape.spot_points, rtol=1e-12, atol=1e-12)
    assert page.evaluate("landscapePage.replay.landscape.surface.marks.map(({ name, atEnd }) => [name, atEnd])") == [
        [spot.name, spot.at_end] for spot in replay.landscape.spots
    ]
    place = replay.stage.place(replay.landscape.spot_points[0])
    lines = page.evaluate(
        "(p) => landscapePage.replay.landscape.describePlace(landscapePage.replay.stage, p)", place.tolist()
    )
    assert lines == describe_place(replay, place)
    assert lines[-1].startswith("best (step 320)")


def test_a_mark_is_drawn_as_a_ball_and_named(opened):  # noqa: F811
    pictures, areas = [], []
    for made in (marked(), surface()):
        page = opened(made, size=SIZE)
        settle(page)
        pictures.append(pixels(page.evaluate(f"(landscapePage._draw(false, false), {PICTURE})")))
        areas.append(page.evaluate("landscapePage.hud.taken.areas"))
        if made.marks:
            x, y = page.evaluate(
                "(({ landscape, stage, camera }, size) => camera.project(stage.place(landscape.spots[0]), size))"
                "(landscapePage.replay, landscapePage.size).slice(0, 2)"
            )
    rows, columns = np.nonzero(np.abs(pictures[0] - pictures[1]).max(axis=2) > 8)
    assert len(rows)
    assert np.hypot(rows - y, columns - x).max() < 10
    new = [area for area in areas[0] if area not in areas[1]]
    beside = [a for a in new if abs((a[1] + a[3]) / 2 - y) < 30 and min(abs(a[0] - x), abs(a[2] - x)) < 15]
    assert len(beside) == 1
