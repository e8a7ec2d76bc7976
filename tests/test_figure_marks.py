"""Marks in figures: a point with its name, on no other label, and none where the end of the path is."""

from dataclasses import replace

import pytest

from landscape_hooks.export.figure import contour_figure, line_figure, loss_figure, surface_figure
from tests.landscapes import changed, marked


def diamonds(axes):
    return [[float(values[0]) for values in line.get_data()] for line in axes.lines if line.get_marker() == "D"]


@pytest.fixture(scope="module")
def contours():
    return contour_figure(marked())


def test_a_mark_is_a_point_with_its_name_and_the_end_of_the_path_is_named(contours):
    axes = contours.axes[0]
    assert diamonds(axes) == [[1.2, 1.4]]
    named = {
        text.get_text(): tuple(map(float, text.xy))
        for text in axes.texts
        if text.get_text() in ("best", "final", "far")
    }
    assert named == {"best": (1.2, 1.4), "final": pytest.approx((0, 0))}


def test_names_lie_on_no_other_label(contours):
    contours.draw_without_rendering()
    texts = [text for text in contours.axes[0].texts if text.get_text()]
    for name in ("best", "final"):
        box = next(text for text in texts if text.get_text() == name).get_window_extent()
        assert not box.count_overlaps([text.get_window_extent() for text in texts if text.get_text() != name])


def test_other_figures_have_the_marks_too():
    made = marked()
    best, final = made.marks[0], made.marks[2]
    assert sorted(diamonds(loss_figure(made).axes[0])) == sorted([[320.0, best.loss], [320.0, final.loss]])
    assert len(diamonds(surface_figure(made).axes[0])) == 2
    row = replace(made, **{key: getattr(made, key)[:, 7:8] for key in ("loss", "loss_stderr", "evaluated")})
    line = line_figure(replace(row, beta=made.beta[7:8]))
    assert sorted(diamonds(line.axes[0])) == sorted([[1.2, best.loss], [0.0, final.loss]])


def test_a_surface_without_marks_has_none():
    assert not diamonds(contour_figure(changed()).axes[0])
