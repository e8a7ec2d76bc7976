"""Two surfaces in the page: the same numbers as in Python, both panes, and the controls."""

from dataclasses import replace

import numpy as np
import pytest

from landscape_hooks.mesh.pair import Difference, blended, common_height
from tests.landscapes import surface
from tests.test_web_browser import browser, opened, settle  # noqa: F401

pytestmark = pytest.mark.timeout(600)

STATE = """(() => {
  const { replay } = landscapePage, { landscape } = replay, { difference, mesh } = landscape;
  const plain = (values) => Array.from(values, (v) => Number.isFinite(v) ? v : null);
  return { loss: plain(landscape.surface.loss), state: Array.from(landscape.surface.state),
           title: landscape.surface.title,
           height: [mesh.height.kind, mesh.height.low, mesh.height.high], arrangement: replay.arrangement,
           difference: difference && { values: plain(difference.values), name: difference.name },
           said: landscape.describePlace(replay.stage, replay.stage.place([-1, 0, 0]), true) };
})()"""


def nan(values):
    return np.array([np.nan if value is None else value for value in values])


def test_blend_and_difference_are_those_of_python_and_both_panes_are_drawn(opened):  # noqa: F811
    first = replace(surface(holes=True), name="first")
    second = replace(surface(), name="second", loss=3 * surface().loss + 0.1)
    third = replace(surface(7, 6), name="third")
    page = opened([first, second, third], "#show=blend:second:0.25")
    shared = common_height([first, second])
    found = page.evaluate(STATE)
    mixed = blended(first, second, 0.25)
    finite = mixed.present & np.isfinite(mixed.loss)
    np.testing.assert_allclose(nan(found["loss"]).reshape(finite.shape)[finite], mixed.loss[finite], rtol=1e-12)
    np.testing.assert_array_equal(np.array(found["state"]).reshape(finite.shape) > 0, mixed.present)
    assert found["title"].endswith("0.75 of first, 0.25 of second")
    assert found["height"] == [shared.kind, pytest.approx(shared.low), pytest.approx(shared.high)]

    page.focus("#picture")
    page.keyboard.press("w")
    settle(page)
    found, compared = page.evaluate(STATE), Difference.of(first, second, shared, ("first", "second"))
    assert found["arrangement"] == "difference"
    np.testing.assert_allclose(nan(found["difference"]["values"]), compared.values.ravel(), rtol=1e-9, atol=1e-12)
    assert found["difference"]["name"] == compared.name
    assert any(line.startswith("second / first: ×5.") for line in found["said"]), found["said"]
    assert "colours: B / A, A = first, B = second" in page.inner_text("#captions")

    page.keyboard.press("w")
    page.keyboard.press("w")
    settle(page)
    assert page.evaluate(STATE)["arrangement"] == "side by side"
    assert page.inner_text("#title-2").endswith("second")
    assert page.evaluate("landscapePage.replay.second.landscape.mesh.height.high") == pytest.approx(shared.high)
    assert page.evaluate("landscapePage.second.scene !== null")
    box = page.query_selector("#beside").bounding_box()
    assert box["x"] == pytest.approx(400, abs=1)

    page.keyboard.press("m")
    settle(page)
    page.select_option("#other", "2")
    settle(page)
    assert page.inner_text("#title-2").endswith("third")
    page.select_option("#arrangement", "difference")
    settle(page)
    assert "points" in page.inner_text("#notice"), "two grids have no difference"
    assert page.evaluate(STATE)["arrangement"] == "side by side"
    page.select_option("#other", "1")
    page.select_option("#arrangement", "blend")
    settle(page)
    page.focus("#share")
    page.keyboard.press("End")
    settle(page)
    assert page.evaluate("landscapePage.replay.share") == 1
    assert page.evaluate(STATE)["title"].endswith("second")
    assert not page.is_visible("#beside")
    assert page.evaluate("landscapePage.second.scene === null"), "its context is given back"
