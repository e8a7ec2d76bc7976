"""Figures for print: fonts, widths, scales and lines, read back from what is written."""

import io
import re
import zlib
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from landscape_hooks.cli import commands
from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.export import style
from landscape_hooks.export.figure import contour_figure, line_figure, loss_figure, surface_figure
from landscape_hooks.export.panels import contours_figure, letter
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.mesh import Mesh
from tests.landscapes import bowl, descent, surface, write_run


def opened(written: bytes) -> bytes:
    """A PDF with its compressed streams unpacked (the form that matplotlib writes: one deflated stream an object)."""
    parts = [written]
    for found in re.finditer(rb"stream\r?\n(.*?)endstream", written, re.DOTALL):
        try:
            parts.append(zlib.decompressobj().decompress(found[1]))
        except zlib.error:
            continue  # not compressed: it is in the file as it is
    return b"\n".join(parts)


def fonts(written: bytes) -> set[bytes]:
    """The kinds of fonts that a PDF names."""
    return set(re.findall(rb"/Subtype /(Type3|Type0|TrueType|Type1|CIDFontType2)", opened(written)))


def saved(figure: Figure, kind: str) -> bytes:
    """The figure as a user's `savefig` writes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi="figure")  # so that extents are in the figure's own pixels
    return buffer.getvalue()


USERS = {"pdf.fonttype": 3, "ps.fonttype": 3, "svg.fonttype": "path"}
"""matplotlib's defaults, as a user who never heard of them has them."""


@pytest.mark.everyday(3)
@pytest.mark.parametrize("draw", [contour_figure, loss_figure, surface_figure, line_figure])
def test_a_pdf_holds_truetype_only(draw):
    """Losses over decades have formulas for tick labels (10⁻¹), whose fonts count too."""
    figure = draw(surface(9, 1) if draw is line_figure else surface(9, 8))
    with matplotlib.rc_context(USERS):
        written = saved(figure, "pdf")
    assert fonts(written) == {b"Type0", b"CIDFontType2"}
    assert b"/FontFile2" in opened(written)
    assert b"/Type3" not in opened(written)


def test_the_check_of_a_pdf_finds_type_3():
    figure = Figure()
    figure.text(0.5, 0.5, "loss")
    with matplotlib.rc_context(USERS):
        assert b"Type3" in fonts(saved(figure, "pdf"))


@pytest.mark.more
@pytest.mark.parametrize("kind", ["ps", "eps"])
def test_postscript_holds_truetype_only(kind):
    with matplotlib.rc_context(USERS):
        written = saved(loss_figure(surface(9, 8)), kind)
    assert set(re.findall(rb"/FontType (\d+) def", written)) == {b"42"}


def test_pages_of_a_users_pdf_keep_the_fonts_of_the_file():
    """The file writes its fonts when it is closed, by the user's settings: text and font must be of one kind."""
    for kind, expected in ((3, b"Type3"), (42, b"CIDFontType2")):
        buffer = io.BytesIO()
        with matplotlib.rc_context({"pdf.fonttype": kind}), PdfPages(buffer) as pages:
            pages.savefig(loss_figure(surface(9, 8)))
        written = opened(buffer.getvalue())
        assert (b"Type3" in fonts(written)) == (kind == 3)
        assert expected in fonts(written)
        # a Type 3 font has a byte a letter, TrueType has two
        assert (b"(1) Tj" in written, b"(\0001) Tj" in written) == (kind == 3, kind == 42)


def test_text_of_an_svg_is_text_in_a_named_font():
    with matplotlib.rc_context(USERS):
        written = saved(contour_figure(surface(9, 8, paths=(descent(5, "Adam"),))), "svg").decode()
    assert re.search(r"<text[^>]*DejaVu Sans[^>]*>loss on the probe samples</text>", written)
    assert "Loss around Adam" in re.sub("<[^>]*>", "", written)


def test_pgf_without_tex_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(style.shutil, "which", lambda name: None)
    for target, options in ((tmp_path / "f.pgf", {}), (io.BytesIO(), {"format": "pgf"})):
        with pytest.raises(LandscapeError, match="Install TeX Live"):
            loss_figure(surface(9, 8)).savefig(target, **options)
    assert not list(tmp_path.iterdir())


def box(written: bytes) -> list[float]:
    """Width and height of a PDF's page in inches."""
    found = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+) ([0-9.]+) ?\]", opened(written))
    assert found is not None
    return [float(found[1]) / 72, float(found[2]) / 72]


@pytest.mark.everyday(1)
@pytest.mark.parametrize("width", [3.25, 6.75])
@pytest.mark.parametrize("draw", [contour_figure, loss_figure, surface_figure])
def test_paper_has_the_width_of_the_column_and_its_letters(draw, width):
    figure = draw(surface(9, 8), style="paper", width=width)
    written = saved(figure, "pdf")
    assert box(written)[0] == pytest.approx(width)
    assert re.search(rb"/BaseFont /[A-Z+]*STIXGeneral", opened(written))
    assert b"/Type3" not in opened(written)
    assert not any(axes.get_title(loc="left") for axes in figure.axes)
    assert not any("BatchNorm" in text.get_text() for axes in figure.axes for text in axes.texts)


@pytest.mark.parametrize("sides", [(25, 25), (7, 40)])
def test_words_of_a_narrow_figure_are_inside_of_it_and_apart(sides):
    figure = contour_figure(surface(*sides), style="paper", width=3.25)
    saved(figure, "png")
    axes = figure.axes[0]
    words = [axes.xaxis.label, axes.yaxis.label, axes.get_legend(), axes.child_axes[0].yaxis.label]
    boxes = [word.get_window_extent() for word in words]
    for one in boxes:
        assert figure.bbox.x0 <= one.x0
        assert one.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= one.y0
    assert boxes[2].y1 <= boxes[0].y0


def test_lines_of_a_known_function_are_nearer_to_the_true_level_than_straight_ones():
    import contourpy

    made = surface(25, 25)
    mesh = Mesh.from_surface(made)
    drawn = contour_figure(made).axes[0].collections[1:3]
    straight = contourpy.contour_generator(made.alpha, made.beta, mesh.heights.T)
    for lines in drawn:
        ours, theirs, corners = [], [], []
        for level, segments in zip(lines.levels, lines.allsegs, strict=True):
            ours += [np.log10(bowl(*line.T)) - level for line in segments]
            middles = [(line[1:] + line[:-1]) / 2 for line in straight.lines(level)]  # the ends are on the grid's lines
            theirs += [np.log10(bowl(*line.T)) - level for line in middles]
            for line in segments:
                steps = np.diff(line, axis=0)
                steps = steps[np.linalg.norm(steps, axis=1) > 0.01]
                turns = np.abs(np.diff(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))))
                corners.append(turns.max(initial=0))
        error, before = (np.sqrt(np.mean(np.concatenate(each) ** 2)) for each in (ours, theirs))
        assert error < before / 3
        assert np.median(corners) < 0.2, "radians"


def test_the_caption_says_how_lines_are_drawn():
    words = " ".join(text.get_text() for text in contour_figure(surface()).axes[0].texts)
    assert "lines: bicubic between the grid points" in words


def test_labels_of_lines_are_whole_and_beside_the_path():
    figure = contour_figure(surface(25, 25))
    saved(figure, "png")
    axes = figure.axes[0]
    labels = [text for text in axes.texts if re.fullmatch(r"[0-9.]+", text.get_text())]
    assert len(labels) >= 4
    frame, path = axes.get_window_extent(), axes.transData.transform(surface().path)
    for label in labels:
        extent = label.get_window_extent()
        assert frame.x0 < extent.x0 < extent.x1 < frame.x1
        assert frame.y0 < extent.y0 < extent.y1 < frame.y1
        assert not any(extent.contains(*point) for point in path)


def test_lines_of_a_very_flat_picture_have_no_labels_that_would_be_cut():
    flat = replace(surface(9, 8), beta=surface(9, 8).beta * 0.03)
    texts = contour_figure(flat, aspect="equal").axes[0].texts
    assert not any(re.fullmatch(r"[0-9.]+", text.get_text()) for text in texts)


@pytest.mark.parametrize("name", ["viridis", "cividis", "magma", "gray"])
def test_the_maps_that_the_help_calls_safe_rise_in_grey(name):
    red, green, blue = (colors.table(name) / 255.0).T
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    assert np.all(np.diff(luminance) > -0.002)
    assert luminance[-1] - luminance[0] > 0.5


# -- axes of the user ------------------------------------------------------------------------------------------------
def test_axes_of_the_user_get_artists_and_keep_the_users_settings():
    with matplotlib.rc_context({"font.size": 5, "font.family": "DejaVu Serif"}):
        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        size = tuple(figure.get_size_inches())
        drawn = contour_figure(surface(), ax=left)
        curves = loss_figure(surface(), ax=right)
        assert left.xaxis.label.get_fontfamily() == ["DejaVu Serif"]
    assert drawn.axes == (left,)
    assert drawn.mappable in drawn.artists
    assert "512 probe samples" in drawn.caption
    assert set(drawn.artists) <= set(left.get_children())
    assert not left.get_title(loc="left")
    assert tuple(figure.get_size_inches()) == size
    assert "savefig" not in vars(figure)
    assert len(curves.artists) >= 3
    saved(figure, "png")


def test_a_pair_of_axes_has_losses_and_distances_and_space_needs_space():
    figure = Figure()
    upper, lower = figure.subplots(2, 1)
    assert loss_figure(surface(), ax=(upper, lower)).axes == (upper, lower)
    assert lower.get_ylabel().startswith("distance")
    with pytest.raises(LandscapeError, match="projection 'rectilinear'"):
        surface_figure(surface(), ax=upper)
    space = Figure().add_subplot(projection="3d")
    assert surface_figure(surface(7, 6), ax=space).mappable is not None
    line = contour_figure(surface(9, 1), ax=Figure().add_subplot())
    assert line.mappable is None
    assert line.artists


def test_a_figure_has_one_size_and_a_style_that_exists():
    with pytest.raises(LandscapeError, match="one of both"):
        contour_figure(surface(), size=(3, 3), width=3)
    with pytest.raises(LandscapeError, match="style 'dark'"):
        loss_figure(surface(), style="dark")
    with pytest.raises(LandscapeError, match=r"width of 0\.1"):
        surface_figure(surface(), width=0.1)


# -- panels ----------------------------------------------------------------------------------------------------------
def lower(factor=0.1):
    """The bowl, with losses that are lower by a factor."""
    made = surface(9, 8, paths=(descent(9, "adam", -1.0),))
    return replace(made, loss=made.loss * factor)


def test_panels_have_one_scale():
    figure = contours_figure([surface(9, 8), lower()])
    first, second = figure.axes[:2]
    filled = [axes.collections[0] for axes in (first, second)]
    assert filled[0].get_clim() == filled[1].get_clim()
    np.testing.assert_array_equal(filled[0].levels, filled[1].levels)
    assert 10 ** filled[0].levels[0] == pytest.approx(lower().loss.min())
    assert 10 ** filled[0].levels[-1] == pytest.approx(surface(9, 8).loss.max())
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["(a) sgd", "(b) adam"]
    assert len(figure.axes) == 3, "two panels, one colour bar"


def test_panels_that_do_not_fit_are_refused():
    with pytest.raises(LandscapeError, match="grid 1x1 for 2"):
        contours_figure([surface(9, 8), lower()], grid=(1, 1))
    with pytest.raises(SurfaceError, match="is a line"):
        contours_figure([surface(9, 8), surface(9, 1)])
    with pytest.raises(LandscapeError, match="no surface"):
        contours_figure([])
    assert [letter(n) for n in (0, 25, 26, 701, 702)] == ["a", "z", "aa", "zz", "aaa"]


def test_export_writes_panels_and_prints_their_captions(tmp_path):
    runs = [str(write_run(tmp_path / "a.zarr", surface(9, 8))), str(write_run(tmp_path / "b.zarr", lower()))]
    command = ["export", *runs, "--png", str(tmp_path / "f.pdf"), "--grid", "1x2", "--style", "paper"]
    done = CliRunner().invoke(commands, [*command, "--width", "171.45mm"])
    assert done.exit_code == 0, done.output
    assert box((tmp_path / "f.pdf").read_bytes())[0] == pytest.approx(6.75)
    assert "caption: (b) BatchNorm: batch" in done.output
    for wrong, said in (
        (["--grid", "1x1"], "1x1 for 2 surfaces"),
        (["--ply", str(tmp_path / "f.ply")], "--ply for several"),
        (["--figure", "loss"], "--figure loss for several"),
        (["--width", "3.25"], "a number and its unit"),
        (["--grid", "2"], "rows and columns"),
        (["--name", "a", "--name", "b", "--name", "c"], "3 names for 2 runs"),
    ):
        done = CliRunner().invoke(commands, [*command, *wrong])
        assert done.exit_code == 2
        assert said in done.output


def test_names_of_one_run_become_panels(tmp_path):
    run = write_run(tmp_path / "a.zarr", surface(9, 8))
    command = ["export", str(run), "--png", str(tmp_path / "f.svg"), "--name", "pca", "--name", "pca"]
    done = CliRunner().invoke(commands, command)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "f.svg").read_text("utf-8").count(") pca") == 2
