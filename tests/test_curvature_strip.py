"""The sharpness in the plot of the window and of the page: where it lies, and when it is shown."""

from dataclasses import replace

import numpy as np
import pytest

from landscape_hooks.surface.measures.curvature import SCALARS, Curvature
from landscape_hooks.viewer.gl.plot import panel_of
from landscape_hooks.viewer.replay.landscape import Landscape, load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.web.packing import pack_surface
from tests.landscapes import surface
from tests.test_web_browser import browser, opened, settle  # noqa: F401


def made(sharpness=(1.0, 4.0, 8.5, 8.0), step=(0, 100, 200, 390), limit=8.0, **attrs):
    sharpness, count = np.array(sharpness), len(step)
    scalars = {key: np.full(count, np.nan) for key in SCALARS} | {"threshold": np.full(count, limit)}
    return Curvature(
        step=np.array(step), epoch=np.full(count, np.nan), evaluated=np.ones(count, dtype=bool),
        eigenvalues=sharpness[:, None], residuals=0 * sharpness[:, None],
        attrs={"batch_norm": "batch", **attrs}, **scalars,
    )  # fmt: skip


def landscape(curvature):
    return replace(load(surface()), curvature=curvature)


def test_the_strip_lies_where_the_steps_of_the_path_do():
    strip = landscape(made()).strip  # a path of 40 snapshots, every 10 steps
    assert np.allclose(strip.share, np.array([0, 10, 20, 39]) / 39)
    assert strip.value.tolist() == [1, 4, 8.5, 8]
    assert strip.top == 8.5
    assert landscape(made(limit=12.0)).strip.top == 12
    assert landscape(made(limit=100.0)).strip.top == 8.5, "out of reach"
    assert landscape(made(limit=np.nan)).strip.top == 8.5
    assert landscape(made(sharpness=[0.0, 0.0, 0.0, -1.0])).strip.top == 1
    inside = landscape(made(step=(-10, 100, 200, 500))).strip
    assert inside.value.tolist() == [4, 8.5]


@pytest.mark.parametrize(
    "curvature",
    [None, made(batch_norm="fixed"), made(tensors=["head.*"]), made(sharpness=[np.nan, np.nan, 1.0, np.nan])],
)
def test_no_strip_where_it_would_mislead(curvature):
    assert landscape(curvature).strip is None
    assert pack_surface(landscape(curvature))["strip"] is None


def test_it_stays_under_another_height_and_the_panel_makes_room():
    shown = landscape(made())
    assert shown.with_height("log10").strip is not None
    assert shown.of_surface(surface()).strip is not None
    plot = (20.0, 500.0, 240.0, 104.0)
    low, high = panel_of(plot, 1.0), panel_of(plot, 1.0, strip=True)
    assert high[1] < low[1]
    assert high[2:] == low[2:]


@pytest.mark.timeout(600)
def test_the_page_has_it_as_the_window_has(opened, monkeypatch):  # noqa: F811
    shown: Landscape = landscape(made())
    page = opened(shown, size=(800, 500))
    settle(page)
    strip = page.evaluate("(({ share, value, limit, top, said }) => [[...share], [...value], [...limit], top, said])"
                          "(landscapePage.replay.landscape.surface.strip)")  # fmt: skip
    assert np.allclose(strip[0], shown.strip.share)
    assert strip[1:] == [shown.strip.value.tolist(), shown.strip.limit.tolist(), 8.5, "8.5"]
    top = page.evaluate("landscapePage.hud.cursor(landscapePage.replay)[1] - landscapePage.hud.plot.y")
    assert top < -40


def test_the_window_draws_it(tmp_path):
    from landscape_hooks.viewer.offscreen import render

    pictures = []
    for number, curvature in enumerate((None, made())):
        file = tmp_path / f"{number}.png"
        render(landscape(curvature), file, size=(800, 450), look=Look(theme="light"))
        pictures.append(file.read_bytes())
    assert pictures[0] != pictures[1]
