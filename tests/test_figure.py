"""The figures by what they contain, and by what they look like."""

import io
import pickle
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from landscape_hooks.errors import LandscapeError
from landscape_hooks.export.figure import contour_figure, loss_figure, surface_figure
from tests.landscapes import ODD, descent, surface


def test_the_contour_figure_states_policy_height_and_variance_and_draws_the_path():
    made = surface()
    axes = contour_figure(made).axes[0]
    words = " ".join(text.get_text() for text in axes.texts)
    assert "BatchNorm: batch" in words
    assert "log10" in words
    assert "512 probe samples" in words
    assert "83.0%" in axes.get_xlabel()
    assert "11.0%" in axes.get_ylabel()
    np.testing.assert_array_equal(np.column_stack(axes.lines[0].get_data()), made.path)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any("start: step 0" in text for text in legend)
    assert any("end: step 390" in text for text in legend)


def test_lines_are_labelled_in_units_of_the_loss():
    words = {text.get_text() for text in contour_figure(surface()).axes[0].texts}
    assert {"0.1", "0.5", "1"} <= words


def test_what_is_missing_is_hatched_and_counted():
    axes = contour_figure(surface(holes=True)).axes[0]
    words = " ".join(text.get_text() for text in axes.texts)
    assert "not computed: 6" in words
    assert "NaN: 1" in words
    assert "infinite: 7" in words
    assert axes.patch.get_hatch()


def interpolated(rows=21, columns=16):
    """The bowl, evaluated at every second point only."""
    made = surface(rows, columns)
    evaluated = np.indices(made.shape).sum(axis=0) % 2 == 0
    error = np.where(evaluated, np.nan, 0.002)
    error[0, 1] = 0.03
    return replace(made, evaluated=evaluated, interpolated=~evaluated, interpolation_error=error)


def test_what_is_interpolated_is_said_and_the_evaluated_points_are_marked():
    made = interpolated()
    axes = contour_figure(made).axes[0]
    words = " ".join(text.get_text() for text in axes.texts)
    assert "50.0% interpolated, error about 0.2 % (at most 3 %)" in words
    dots = next(line for line in axes.lines if line.get_marker() == "." and len(line.get_xdata()))
    assert len(dots.get_xdata()) == made.evaluated.sum()
    key = next(line for line in axes.get_legend().get_lines() if line.get_label() == "evaluated points")
    assert key.get_color() != "white", "it would not be seen on paper"
    assert made.said_at(made.alpha[0], made.beta[1]) == "interpolated, error about 3 %"
    assert made.said_at(made.alpha[0], made.beta[0]) == f"evaluated, ± {made.loss_stderr[0, 0]:.2g}"
    assert surface(holes=True).said_at(surface().alpha[5], surface().beta[4]) == "not computed"


def test_an_interpolated_line_shows_its_estimated_error():
    made = interpolated(21, 2)
    line = replace(
        made, beta=np.zeros(1), loss=made.loss[:, :1], loss_stderr=made.loss_stderr[:, :1], paths=(),
        evaluated=made.evaluated[:, :1], interpolated=made.interpolated[:, :1],
        interpolation_error=made.interpolation_error[:, :1],
    )  # fmt: skip
    axes = contour_figure(line).axes[0]
    labels = {drawn.get_label(): drawn for drawn in axes.lines}
    assert len(labels["evaluated"].get_xdata()) == line.evaluated.sum()
    assert any("interpolated, error about 0.2 %" in label for label in labels)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("draw", [contour_figure, surface_figure])
def test_a_long_caption_is_broken_and_takes_nothing_from_the_picture(draw):
    """As long as a quick analysis' is: the axes had shrunk for it, and it was cut off all the same."""
    figures = draw(surface(21, 21)), draw(interpolated(21, 21))
    for figure in figures:
        figure.savefig(io.BytesIO())  # lays it out
    short, long = (figure.axes[0] for figure in figures)
    said = next(text for text in long.texts if text.get_text().startswith("BatchNorm"))
    assert "\n" in said.get_text()
    assert said.get_window_extent().x1 <= figures[1].bbox.x1
    assert said.get_window_extent().y1 <= long._left_title.get_window_extent().y0
    assert long.get_window_extent().width > 0.95 * short.get_window_extent().width


@pytest.mark.everyday(4)
@pytest.mark.parametrize("draw", [contour_figure, surface_figure, loss_figure])
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_every_figure_is_written_in_every_format(tmp_path, draw, suffix):
    draw(surface(12, 9, paths=(descent(), descent(9, "adam", -1.0)))).savefig(tmp_path / f"f.{suffix}")
    assert (tmp_path / f"f.{suffix}").stat().st_size > 5000


def test_a_constant_loss_and_no_path_are_still_a_figure(tmp_path):
    made = surface(6, 5, paths=())
    flat = type(made)(**{**made.__dict__, "loss": np.full(made.shape, 2.0)})
    contour_figure(flat).savefig(tmp_path / "flat.png")
    loss_figure(flat).savefig(tmp_path / "loss.png")


@pytest.mark.everyday(4)
@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:Glyph")  # the font of matplotlib has no such letter, and draws a box
def test_odd_surfaces_are_figures(tmp_path, name):
    contour_figure(ODD[name]).savefig(tmp_path / "f.png", dpi=40)
    assert (tmp_path / "f.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("draw", [surface_figure, loss_figure])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_odd_surfaces_are_the_other_figures(tmp_path, name, draw):
    draw(ODD[name]).savefig(tmp_path / "f.png", dpi=40)
    assert (tmp_path / "f.png").stat().st_size > 1000


@pytest.mark.everyday(2)
@pytest.mark.parametrize("runs", [1, 2, 6])
@pytest.mark.parametrize("name", ["sgd", "vgg11-momentum-0.9-no-weight-decay"])
def test_nothing_lies_over_the_picture_and_nothing_is_cut_off(runs, name):
    """The path of a random plane is a dot in the middle: a legend over it would hide all there is."""
    paths = tuple(descent(9, f"{name} {k}" if runs > 1 else name, 0.1) for k in range(runs))
    made = surface(paths=paths)
    figure = contour_figure(replace(made, attrs={**made.attrs, "directions": "random"}))
    figure.savefig(io.BytesIO())  # lays it out
    axes = figure.axes[0]
    below = axes.get_legend().get_window_extent()
    assert below.y1 <= axes.xaxis.label.get_window_extent().y0
    assert figure.bbox.contains(below.x0, below.y0)
    assert figure.bbox.contains(below.x1, below.y1)
    head = next(text for text in [*axes.texts, axes._left_title] if text.get_text().startswith("Loss around"))
    assert head.get_window_extent().x1 <= figure.bbox.x1


def test_a_figure_is_matplotlibs_own_class_and_keeps_its_style_when_copied():
    """Weights & Biases takes for a figure what its type's name says is matplotlib's."""
    figure = contour_figure(surface())
    assert type(figure) is Figure
    images = []
    for one in (figure, pickle.loads(pickle.dumps(figure))):
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.fonttype": "path"}):
            one.savefig(buffer, format="svg", metadata={"Date": None})
        images.append(b"<text" in buffer.getvalue())  # the user's setting would make paths of the text
    assert images == [True, True]


def test_a_stretched_plane_says_by_how_much_and_an_equal_one_is_to_scale():
    narrow = replace(surface(), beta=surface().beta * 0.1)
    ratio = float(np.ptp(narrow.beta) / np.ptp(narrow.alpha))
    for aspect, sides in (("auto", 0.7), ("equal", ratio)):
        axes = contour_figure(narrow, aspect=aspect).axes[0]
        said = " ".join(text.get_text() for text in axes.texts)
        assert axes.get_box_aspect() == pytest.approx(sides)
        assert (f"PC 2 stretched {0.7 / ratio:.3g}× against PC 1" in said) == (aspect == "auto")
    with pytest.raises(LandscapeError, match="aspect 'wide'"):
        contour_figure(narrow, aspect="wide")


def test_labels_far_from_zero_have_an_offset():
    near = replace(surface(), loss=5.07 + 1e-10 * surface().loss)
    figure = contour_figure(near)
    figure.canvas.draw()
    bar = next(axes for axes in figure.axes[0].child_axes)
    assert bar.get_ylabel() == "loss on the probe samples - 5.07"
    shown = [label.get_text() for label in bar.get_yticklabels()]
    assert len(set(shown)) == len(shown) > 2
    assert all(0 < float(text) < 1e-8 for text in shown)
