"""The camera against its definition; no OpenGL."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape_hooks.errors import LandscapeError
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.start import start_camera
from tests.landscapes import surface

SIZE = (640, 360)
cameras = st.builds(
    Camera,
    azimuth=st.floats(-180, 180),
    elevation=st.floats(-20, 90),
    distance=st.floats(0.5, 15),
    target=st.tuples(*[st.floats(-2, 2)] * 3),
    orthographic=st.booleans(),
)


@given(cameras)
def test_the_target_is_in_the_middle_and_axes_are_orthonormal(camera):
    x, y, _ = camera.project([camera.target], SIZE)[0]
    np.testing.assert_allclose([x, y], [320, 180], atol=1e-6)
    axes = np.stack([camera.right, camera.up, -camera.forward])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) > 0


@given(cameras, st.tuples(*[st.floats(-0.3, 0.3)] * 3))
def test_unproject_inverts_project(camera, offset):
    point = np.add(camera.target, offset)
    x, y, depth = camera.project([point], SIZE)[0]
    if np.isfinite(x):
        np.testing.assert_allclose(camera.unproject(x, y, depth, SIZE), point, atol=1e-5)


@given(cameras)
def test_the_text_gives_the_view_back(camera):
    again = Camera.parse(camera.text)
    np.testing.assert_allclose(again.matrix(1.5), camera.matrix(1.5), atol=2e-4)


@given(cameras, st.floats(0.5, 2.0), st.tuples(*[st.floats(-0.3, 0.3)] * 2))
def test_zooming_keeps_what_is_under_the_cursor(camera, factor, offset):
    point = np.asarray(camera.target) + offset[0] * camera.right + offset[1] * camera.up
    before = camera.project([point], SIZE)[0][:2]
    after = camera.zoom(factor, point)
    if np.abs(after.target).max() < 4:
        np.testing.assert_allclose(after.project([point], SIZE)[0][:2], before, atol=1e-5)


def test_panning_moves_the_picture_by_pixels():
    camera = Camera(azimuth=20, elevation=40, distance=3)
    moved = camera.pan(30, -12, SIZE[1])
    x, y, _ = moved.project([camera.target], SIZE)[0]
    np.testing.assert_allclose([x, y], [350, 168], atol=1e-9)


def test_from_above_alpha_goes_right_and_beta_up():
    camera = Camera().top()
    origin, alpha, beta = camera.project([[0, 0, 0], [1, 0, 0], [0, 1, 0]], SIZE)[:, :2]
    assert alpha[0] > origin[0]
    assert alpha[1] == pytest.approx(origin[1])
    assert beta[1] < origin[1]
    assert beta[0] == pytest.approx(origin[0])


def test_the_elevation_is_bounded_and_angles_wrap():
    camera = Camera().orbit(370, 500)
    assert camera.elevation == 90
    assert camera.azimuth == pytest.approx(10)
    assert Camera().orbit(0, -500).elevation == -20


@pytest.mark.parametrize("text", ["nonsense", "az=north", "az", "el=nan", "at=1:2", "d=inf", "az=1;el=2", "d=-1",
                                  "d=1e9", "el=91", "fov=0", "at=0:0:5"])  # fmt: skip
def test_a_view_that_is_not_understood_is_named(text):
    with pytest.raises(LandscapeError, match="in the view"):
        Camera.parse(text)


@pytest.mark.parametrize("text", ["fov=50", "az=179.9999999", "az=180", "az=-190,ortho", "el=90,d=20,at=4:-4:0.1"])
def test_a_text_gives_itself_back(text):
    camera = Camera.parse(text)
    assert Camera.parse(camera.text).text == camera.text
    assert Camera.parse(camera.text).fov == camera.fov


def test_a_view_text_changes_only_what_it_says():
    base = Camera(azimuth=12, elevation=34, distance=5)
    assert Camera.parse("el=10", base) == Camera(azimuth=12, elevation=10, distance=5)
    assert Camera.parse("", base) == base
    assert Camera.parse("top", base).orthographic


@pytest.mark.parametrize("size", [(1280, 720), (200, 900)])
def test_the_view_of_the_whole_is_a_text_that_is_taken(size):
    home = start_camera(load(surface(5, 5)), size[0] / size[1], Look())
    np.testing.assert_allclose(Camera.parse(home.text).matrix(1.5), home.matrix(1.5), atol=2e-4)
