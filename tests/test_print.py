"""Figures for print: fonts, widths, scales and lines, read back from what is written."""

import io
import re
import zlib

import matplotlib
import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from landscape_hooks.errors import LandscapeError
from landscape_hooks.export import style
from landscape_hooks.export.figure import contour_figure, line_figure, loss_figure, surface_figure
from tests.landscapes import descent, surface


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
    figure.savefig(buffer, format=kind)
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
