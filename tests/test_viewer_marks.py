"""Marks in the window and in pictures: a ball where the camera projects it, a name on nothing else, a read-out."""

from dataclasses import replace

import numpy as np
import pytest

from landscape_hooks.mesh import colors
from landscape_hooks.surface.spots import said_of
from landscape_hooks.viewer.offscreen import Canvas
from landscape_hooks.viewer.replay.labels import place_names
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay, describe_place
from landscape_hooks.viewer.replay.taken import Taken
from tests.landscapes import marked, surface

SIZE = (480, 320)


@pytest.fixture(scope="module")
def canvas():
    made = Canvas(SIZE, supersample=1)
    yield made
    made.close()


def shown(made, *, captions=False):
    return Replay.of(load(made), Look(captions=captions), aspect=SIZE[0] / SIZE[1])


def place_of(replay):
    """The scene point of "best", and its pixel."""
    (point,) = [
        p for p, s in zip(replay.landscape.spot_points, replay.landscape.spots, strict=True) if s.name == "best"
    ]
    place = replay.stage.place(point)
    return place, replay.camera.project([place], SIZE)[0]


def test_a_mark_is_a_ball_where_the_camera_projects_it_and_the_end_has_no_second_one(canvas):
    replay = shown(marked())
    _, (x, y, _) = place_of(replay)
    pixels, without = canvas.draw(replay).astype(int), canvas.draw(shown(surface())).astype(int)
    assert pixels[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2, :3].mean() > 200
    rows, columns = np.nonzero(np.abs(pixels - without).max(axis=2) > 8)
    assert len(rows)
    assert np.hypot(rows - y, columns - x).max() < 9
    ring = np.array(colors.rgb(colors.path_color(0))) * 255
    assert np.abs(pixels[rows, columns, :3] - ring).max(axis=1).min() < 40


def test_the_names_are_written_over_the_picture(canvas):
    drawn = [canvas.draw(shown(made, captions=True)).astype(int) for made in (marked(), marked())]
    assert (drawn[0] == drawn[1]).all()
    unnamed = replace(marked(), marks=tuple(replace(mark, name=" ") for mark in marked().marks))
    assert (np.abs(drawn[0] - canvas.draw(shown(unnamed, captions=True))).max(axis=2) > 8).sum() > 60


def test_the_read_out_says_a_mark_that_is_near(canvas):
    replay = shown(marked())
    place, _ = place_of(replay)
    assert describe_place(replay, place)[-1] == said_of(marked().marks[0])
    assert "best (step 320): loss 0.109, 0.0109 above" in describe_place(replay, place)[-1]
    assert not any("best" in line for line in describe_place(replay, place + 0.1))


def test_names_lie_on_nothing_and_off_the_path_where_they_can():
    path = np.column_stack([np.linspace(50, 150, 200), np.linspace(100, 50, 200)])  # up to the right
    points = np.array([[50.0, 100.0], [50.0, 100.0], [np.nan, 0.0]])
    free = Taken((200, 200))
    placed = place_names(["one", "two", "three"], points, path, free, lambda text: (15.0, 8.0), 9.0)
    assert [name for _, _, name in placed] == ["one", "two"]
    assert len(free.boxes) == 2
    for left, top, right, bottom in free.boxes:
        assert not ((path > (left, top)) & (path < (right, bottom))).all(axis=1).any()
    assert not Taken((200, 200), free.boxes[:1]).is_free(free.boxes[0])
    assert Taken((200, 200), free.boxes[:1]).is_free(free.boxes[1])
