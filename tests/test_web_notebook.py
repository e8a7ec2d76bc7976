"""A surface in a notebook: what is stored, and what a browser shows of it."""

import html
import re

import numpy as np
import pytest

from tests.browser import Watched, chromium, until
from tests.landscapes import changed, descent, surface, write_run

PICTURE = b"\x89PNG"


def frame_of(text):
    return html.unescape(re.search(r'<iframe srcdoc="([^"]*)"', text)[1])


def test_a_surface_shows_itself_as_a_page_and_as_a_picture():
    found = surface()._repr_mimebundle_()
    assert found["image/png"].startswith(PICTURE)
    assert found["text/plain"] == "Surface 'pca': 21 x 16 points, 40 snapshots"
    assert found["text/html"] == surface()._repr_html_()
    assert len(found["text/html"]) < 400_000
    sandbox = re.search(r' sandbox="([^"]*)"', found["text/html"])[1].split()
    assert set(sandbox) == {"allow-scripts", "allow-downloads"}  # and not allow-same-origin
    assert frame_of(found["text/html"]).startswith("<!doctype html>")


def test_show_takes_height_view_and_theme():
    text = surface().show(height=333, theme="light", view="az=10,el=20")._repr_html_()
    assert "height: 333px" in text
    assert '"view":"az=10,el=20"' in frame_of(text)
    assert '"theme":"light"' in frame_of(text)


def test_what_has_no_page_has_a_picture_or_a_sentence():
    line = changed(beta=np.zeros(1), loss=surface(7, 6).loss[:, :1], evaluated=np.ones((7, 1), bool),
                   loss_stderr=np.zeros((7, 1)), paths=())  # fmt: skip
    found = line._repr_mimebundle_()
    assert set(found) == {"image/png", "text/plain"}
    begun = changed(evaluated=np.zeros((7, 6), bool), paths=(descent(3),))._repr_mimebundle_()
    assert "text/html" not in begun
    assert "no point of it is computed yet" in begun["text/plain"] or "finite" in begun["text/plain"]


def test_a_frame_draws_in_a_browser_and_twenty_do_not_exhaust_it(tmp_path):
    """A browser gives a page sixteen contexts: cells that are out of view hold none."""
    frames = "".join(f"<div>{surface(5, 5).show(height=300)._repr_html_()}</div>" for _ in range(20))
    file = tmp_path / "cells.html"
    file.write_text(f"<!doctype html><meta charset=utf-8><body>{frames}</body>", "utf-8")
    with chromium() as browser:
        watched = Watched(browser, size=(700, 400))
        page = watched.page
        page.goto(file.as_uri())
        inside = [frame.content_frame() for frame in page.query_selector_all("iframe")]
        assert len(inside) == 20
        until(inside[0], "globalThis.landscapePage?.draws > 0")
        for number in (10, 19, 0):
            page.query_selector_all("iframe")[number].scroll_into_view_if_needed()
            until(inside[number], "globalThis.landscapePage?.scene != null && landscapePage.draws > 0")
            pixels = "landscapePage._draw(false, false), landscapePage.canvas.toDataURL().length"
            assert inside[number].evaluate(pixels) > 5000
        held = [frame.evaluate("globalThis.landscapePage?.scene != null") for frame in inside]
        assert sum(held) < 6, "cells out of view hold contexts"
        assert not watched.requested[1:], "a cell requests something"
        watched.close()


def test_a_notebook_that_is_executed_holds_both(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    run = write_run(tmp_path / "run.zarr", surface(7, 6))
    code = f"from landscape_hooks import Surface\nSurface.open({str(run)!r})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert set(output.data) == {"text/html", "image/png", "text/plain"}
    file = tmp_path / "cell.html"
    file.write_text(frame_of(output.data["text/html"]), "utf-8")
    with chromium() as browser:
        watched = Watched(browser)
        page = watched.open(file)
        assert page.inner_text("#title") == "sgd · pca"
        watched.close()
