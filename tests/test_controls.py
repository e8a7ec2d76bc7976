"""The table of keys: every row has a key of pyglet, none is taken twice, and the documents show the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landscape_hooks.surface.digits import text_of
from landscape_hooks.viewer.gl import context
from landscape_hooks.viewer.replay import controls
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay, describe_place
from landscape_hooks.viewer.several.gallery import Gallery
from tests.landscapes import surface

SIZE = (640, 400)


def test_no_key_is_taken_twice():
    taken = [(row.key, row.shift) for row in controls.KEYS] + [(key, False) for key, _ in controls.OTHERS]
    assert len(taken) == len(set(taken))


def test_every_key_exists_in_pyglet():
    context.prepare(headless=True)
    from pyglet.window import key

    for row in controls.KEYS:
        assert hasattr(key, row.key), row.key


@pytest.mark.parametrize("row", controls.KEYS, ids=lambda row: row.shown)
def test_every_key_changes_something_that_is_seen(row):
    replay = Replay.of(load(surface()), Look())
    replay.timeline.position = 15.0
    if row.key == "HOME":
        replay.timeline.position = 3.0
    if row.key == "R":
        replay.camera = replay.camera.orbit(40, 0)
    if row.key == "P":
        replay.camera = replay.camera.top()
    replay.gallery = Gallery(surface(), replay.first)
    for name in ("second", "third"):
        replay.gallery.take(load(replace(surface(), name=name)))
    if row.key == "E":
        replay.compare("second")

    def seen():
        shown = (replay.name, replay.other, replay.arrangement)
        return repr((replay.camera, replay.look, replay.timeline, replay.turntable, replay.follow, shown))

    before = seen()
    row.does(replay, SIZE)
    assert seen() != before


def test_the_read_out_under_the_mouse_says_where_the_value_comes_from():
    made = surface()
    evaluated = np.indices(made.shape).sum(axis=0) % 2 == 0
    error = np.where(evaluated, np.nan, 0.004)
    replay = Replay.of(
        load(replace(made, evaluated=evaluated, interpolated=~evaluated, interpolation_error=error)), Look()
    )
    for row, column, words in ((4, 4, "evaluated, ± "), (4, 5, "interpolated, error about 0.4 %")):
        place = np.array([made.alpha[row], made.beta[column], replay.landscape.mesh.heights[row, column]])
        lines = describe_place(replay, replay.stage.place(place))
        read = lines[0].split()
        assert read[::2] == ["alpha", "beta"]
        assert [float(word) for word in read[1::2]] == pytest.approx([made.alpha[row], made.beta[column]], abs=0.01)
        assert lines[1] == f"loss {text_of(made.loss[row, column])}"
        assert lines[2].startswith(words)
        assert lines[3].startswith("nearest step")


def test_shift_falls_back_to_the_plain_row():
    assert controls.find("RIGHT", True).says == "ten snapshots on"
    assert controls.find("SPACE", True).says == "play or pause"
    assert controls.find("F12", False) is None


def test_the_document_shows_the_table():
    page = (Path(__file__).parents[1] / "docs" / "viewer.md").read_text()
    assert controls.table_markdown() in page, "put controls.table_markdown() between the marks of docs/viewer.md"
