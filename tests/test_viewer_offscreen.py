"""The picture by its pixels, drawn through EGL without a display."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landscape_hooks.errors import LandscapeError
from landscape_hooks.export.ply import write_ply
from landscape_hooks.mesh import colors
from landscape_hooks.surface.surface import Surface
from landscape_hooks.viewer.offscreen import Canvas, _smaller, render
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import COLORMAPS, Look
from landscape_hooks.viewer.replay.replay import Replay
from tests.landscapes import ODD, surface, write_run

SIZE = (480, 320)
PLAIN = Look(captions=False)


@pytest.fixture(scope="module")
def canvas():
    made = Canvas(SIZE, supersample=1)
    yield made
    made.close()


def replay(look=PLAIN, **options):
    return Replay.of(load(surface(**options)), look, aspect=SIZE[0] / SIZE[1])


def spot(pixels, x, y, reach=2):
    """Mean colour around a pixel."""
    return pixels[round(y) - reach : round(y) + reach + 1, round(x) - reach : round(x) + reach + 1, :3].mean(
        axis=(0, 1)
    )


def near(color, pixels, x, y, reach=4):
    """Distance of the most similar pixel around a place from a colour."""
    area = pixels[round(y) - reach : round(y) + reach + 1, round(x) - reach : round(x) + reach + 1, :3].astype(float)
    return np.abs(area - np.array(color) * 255).max(axis=-1).min()


def test_the_marker_is_where_the_camera_projects_it(canvas):
    made = replay()
    for share in (0.0, 0.5, 1.0):
        made.timeline.scrub(share)
        pixels = canvas.draw(made)
        point = made.stage.place(made.landscape.drapes[0].at(made.timeline.position))
        x, y, _ = made.camera.project([point], SIZE)[0]
        assert spot(pixels, x, y, 1).min() > 150, f"a white ball at {share}"


def test_the_path_is_drawn_up_to_the_marker_and_faint_beyond(canvas):
    made = replay()
    made.timeline.scrub(0.6)
    pixels = canvas.draw(made)
    color = np.array(colors.rgb(colors.path_color(0)))
    places = [made.landscape.drapes[0].at(k) for k in (6.0, 10.0)]
    for x, y, _ in made.camera.project(made.stage.place(places), SIZE):
        assert near(color, pixels, x, y) < 40
    beyond = made.camera.project(made.stage.place([made.landscape.drapes[0].at(27.0)]), SIZE)[0]
    assert near(color, pixels, *beyond[:2]) > 40


def test_colours_follow_the_loss(canvas):
    made = replay(replace(PLAIN, shading=0.0, contours="off"))
    made.camera = Camera(distance=4).top()
    pixels = canvas.draw(made)
    stage, mesh = made.stage, made.landscape.mesh
    table = colors.table("viridis").astype(float)
    low, high = mesh.height.bounds
    grid = [(-5.0, -2.5), (2.0, 2.0), (2.0, -2.0), (-3.0, -2.0)]
    heights = mesh.height_at(np.array(grid))
    places = made.camera.project(stage.place(np.column_stack([grid, heights])), SIZE)
    for (x, y, _), height in zip(places, heights, strict=True):
        expected = table[int((height - low) / (high - low) * 255)] * 0.95
        np.testing.assert_allclose(spot(pixels, x, y), expected, atol=8)


@pytest.mark.everyday(3)
@pytest.mark.parametrize("colormap", [*COLORMAPS, "plasma"])
def test_every_colormap_gives_another_picture(canvas, colormap):
    first = canvas.draw(replay(replace(PLAIN, colormap="viridis")))
    other = canvas.draw(replay(replace(PLAIN, colormap=colormap)))
    difference = np.abs(first.astype(int) - other).mean()
    assert (difference < 0.01) == (colormap == "viridis")


def test_contours_of_the_shader_and_by_marching_squares_lie_on_the_same_places(canvas):
    bare = canvas.draw(replay(replace(PLAIN, contours="off"))).astype(int)
    masks = []
    for mode in ("shader", "marching squares"):
        drawn = canvas.draw(replay(replace(PLAIN, contours=mode))).astype(int)
        masks.append(np.abs(drawn - bare).max(axis=-1) > 40)
    shader, marching = masks
    assert shader.mean() > 0.004
    grown = np.zeros_like(marching)
    for dx in (-2, -1, 0, 1, 2):
        for dy in (-2, -1, 0, 1, 2):
            grown |= np.roll(marching, (dy, dx), axis=(0, 1))
    assert (shader & grown).sum() > 0.9 * shader.sum()


def test_a_transparent_background_has_no_alpha_and_the_surface_has(canvas):
    made = replay(replace(PLAIN, transparent=True, floor=False))
    pixels = canvas.draw(made)
    assert pixels[:10, :10, 3].max() == 0
    x, y, _ = made.camera.project([[0.0, 0.0, 0.0]], SIZE)[0]
    assert pixels[round(y), round(x), 3] == 255


def test_a_hole_shows_what_is_behind_it(canvas):
    whole, open_ = (replay(replace(PLAIN, floor=False, contours="off"), holes=h) for h in (False, True))
    for made in (whole, open_):
        made.camera = Camera(distance=4).top()
    stage = whole.stage
    x, y, _ = whole.camera.project(stage.place([[-3.75, -1.5, -1.0]]), SIZE)[0]
    assert np.abs(spot(canvas.draw(whole), x, y) - spot(canvas.draw(open_), x, y)).max() > 30


def test_the_title_names_the_run_and_the_surface_wherever_they_come_from(tmp_path):
    made, other = surface(), surface().paths[0]
    run = write_run(tmp_path / "sgd.zarr", made)
    assert load(run).title == load(made).title == load(Surface.open(run)).title == "sgd · pca"
    paths = {n: tuple(replace(other, label=str(k)) for k in range(n)) for n in (2, 3)}
    assert [load(replace(made, paths=paths[n])).title for n in (2, 3)] == ["0, 1 · pca", "3 runs · pca"]
    assert load(replace(made, paths=(), name="")).title == "surface"


def test_captions_are_text_over_the_picture(canvas):
    bare, words = canvas.draw(replay()), canvas.draw(replay(Look()))
    changed = np.abs(bare[..., :3].astype(int) - words[..., :3]).max(axis=-1) > 60
    assert changed[:40, :150].sum() > 60, "the title"
    assert changed[-60:, -120:].sum() > 60, "the read-out"


def test_pictures_repeat_to_the_bit(canvas):
    first, again = canvas.draw(replay(Look())), canvas.draw(replay(Look()))
    np.testing.assert_array_equal(first, again)


@pytest.mark.more
def test_a_training_may_begin_after_a_picture(tmp_path):
    """torch loads triton with the first optimizer, whose LLVM must not meet that of Mesa's driver."""
    code = """
import sys
from landscape_hooks.viewer.offscreen import render
from tests.landscapes import surface
render(surface(), sys.argv[1], size=(64, 64))
assert "torch" not in sys.modules
import torch
torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
print("trained")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "f.png")], capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


def test_a_picture_may_be_drawn_where_the_driver_was_loaded_by_somebody_else(tmp_path):
    """Their LLVM is there, so triton's must not be loaded: that would be the crash."""
    code = """
import sys
import pyglet
pyglet.options.headless = True
import pyglet.window
pyglet.window.Window(visible=False)
from landscape_hooks.viewer.offscreen import render
from tests.landscapes import surface
render(surface(), sys.argv[1], size=(64, 64))
print("drawn")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "f.png")], capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "drawn\n"), done.stderr


def test_render_writes_a_picture_of_a_run_and_of_a_ply(tmp_path):
    made = surface()
    run = write_run(tmp_path / "run.zarr", made)
    ply = write_ply(made, tmp_path / "f.ply")[0]
    for source, name in ((run, "run.png"), (ply, "ply.png"), (made, "surface.webp")):
        image = Image.open(render(source, tmp_path / name, size=(320, 180), frames=1))
        assert image.size == (320, 180)
        assert np.asarray(image.convert("RGB")).std() > 10


def test_a_gif_replays_the_path(tmp_path):
    path = render(surface(), tmp_path / "f.gif", size=(200, 120), frames=6, supersample=1, turn=0)
    film = Image.open(path)
    assert film.n_frames >= 5
    pictures = []
    for k in range(film.n_frames):
        film.seek(k)
        pictures.append(np.asarray(film.convert("RGB")).astype(int))
    assert np.abs(pictures[0] - pictures[2]).max() > 60


def test_what_cannot_be_rendered_is_named(tmp_path):
    with pytest.raises(LandscapeError, match=r"f\.bmp"):
        render(surface(), tmp_path / "f.bmp")
    with pytest.raises(LandscapeError, match="size 5x5"):
        render(surface(), tmp_path / "f.png", size=(5, 5))
    with pytest.raises(LandscapeError, match="plaid"):
        Look(colormap="plaid")
    for options in ({"exaggeration": 0.0}, {"exaggeration": float("nan")}, {"shading": 2.0}):
        with pytest.raises(LandscapeError, match=next(iter(options))):
            Look(**options)
    for options in ({"at": float("nan")}, {"at": 2.0}, {"turn": float("inf")}, {"frames": 0}, {"fps": 0}):
        with pytest.raises(LandscapeError, match="Found"):
            render(surface(), tmp_path / "f.gif", **options)
    with pytest.raises(LandscapeError, match="clock 'moon'"):
        render(surface(), tmp_path / "f.gif", clock="moon")


def test_the_key_goes_on_from_a_colour_map_that_is_not_in_its_list():
    assert Look(colormap="plasma").next("colormap").colormap == COLORMAPS[0]
    assert Look(colormap="plasma").next("colormap", -1).colormap == COLORMAPS[-1]


def test_webp_and_mp4_hold_every_picture(tmp_path):
    webp = Image.open(render(surface(), tmp_path / "f.webp", size=(160, 100), frames=5, supersample=1))
    assert webp.n_frames == 5
    av = pytest.importorskip("av", reason="PyAV, the extra 'video', is not installed")
    with av.open(str(render(surface(), tmp_path / "f.mp4", size=(160, 100), frames=5, supersample=1))) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(pictures) == 5
    assert pictures[0].shape == (100, 160, 3)
    assert pictures[0].std() > 10
    with pytest.raises(LandscapeError, match="even numbers"):
        render(surface(), tmp_path / "odd.mp4", size=(161, 100))


def test_an_interrupted_film_leaves_no_file(tmp_path, monkeypatch):
    from landscape_hooks.viewer import offscreen

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(offscreen.Canvas, "draw", broken)
    with pytest.raises(KeyboardInterrupt):
        render(surface(), tmp_path / "f.gif", size=(160, 100))
    assert list(tmp_path.iterdir()) == []


def test_supersampling_smooths_and_keeps_the_picture():
    pictures = []
    for factor in (1, 2):
        canvas = Canvas((240, 160), supersample=factor, samples=0)
        pictures.append(canvas.draw(replay()).astype(float)[..., :3])
        canvas.close()
    rough, smooth = pictures
    assert np.abs(rough - smooth).mean() < 6
    edges = [np.abs(np.diff(picture, axis=0)).max(axis=-1) for picture in pictures]
    assert (edges[1] > 120).sum() < (edges[0] > 120).sum()


@pytest.mark.everyday(8)
@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("error")
def test_odd_surfaces_are_drawn(canvas, name):
    for look in (Look(), Look(contours="marching squares", colormap="wireframe", theme="light")):
        made = Replay.of(load(ODD[name]), look, aspect=SIZE[0] / SIZE[1])
        for share in (0.4, 1.0):
            made.timeline.scrub(share)
            assert canvas.draw(made).std() > 5


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("error")
def test_odd_surfaces_go_through_files(tmp_path, name):
    from landscape_hooks.export.glb import write_glb
    from landscape_hooks.export.ply_reader import read_ply

    write_ply(ODD[name], tmp_path / "f.ply")
    back = read_ply(tmp_path / "f.ply")
    np.testing.assert_array_equal(back.loss[back.present], ODD[name].loss[ODD[name].present])
    assert [len(path) for path in back.paths] == [len(path) for path in ODD[name].paths]
    write_glb(ODD[name], tmp_path / "f.glb")


def torus(path, colored):
    """A mesh that no program of ours wrote: quads, a scalar of its own, perhaps colours."""
    import plyfile

    u, v = np.meshgrid(np.arange(24) * np.pi / 12, np.arange(12) * np.pi / 6, indexing="ij")
    reach = 1 + 0.4 * np.cos(v)
    names = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("quality", "f4")]
    names += [(c, "u1") for c in ("red", "green", "blue")] if colored else []
    vertex = np.zeros(u.size, dtype=names)
    for name, values in zip("xyz", (reach * np.cos(u), reach * np.sin(u), 0.4 * np.sin(v)), strict=True):
        vertex[name] = values.ravel()
    vertex["quality"] = np.sin(3 * u).ravel()
    if colored:
        vertex["red"] = 255
    i, j = np.indices((24, 12)).reshape(2, -1)
    corner = [(i + a) % 24 * 12 + (j + b) % 12 for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    face = np.zeros(len(i), dtype=[("vertex_indices", "i4", 4)])
    face["vertex_indices"] = np.stack(corner, axis=1)
    elements = [plyfile.PlyElement.describe(vertex, "vertex"), plyfile.PlyElement.describe(face, "face")]
    plyfile.PlyData(elements).write(path)
    return path


@pytest.mark.parametrize("colored", [False, True])
def test_a_mesh_of_another_program_is_drawn_by_its_own_values(canvas, tmp_path, colored):
    landscape = load(torus(tmp_path / "torus.ply", colored))
    made = Replay.of(landscape, PLAIN, aspect=SIZE[0] / SIZE[1])
    assert "576 triangles" in landscape.mesh.statement
    pixels = canvas.draw(made)
    red, green, _ = spot(pixels, *made.camera.project(made.stage.place([[1.0, 0.0, 0.4]]), SIZE)[0][:2])
    assert (red > 2 * green) == colored
    for colormap in COLORMAPS:
        made.set_look(replace(Look(), colormap=colormap))
        assert canvas.draw(made).std() > 10


@pytest.mark.everyday(1)
@pytest.mark.parametrize("width", [420, 560, 700, 790, 1000])
def test_no_axis_name_lies_on_the_read_out(width, monkeypatch):
    from landscape_hooks.viewer.gl.hud import Pen

    written = []
    real = Pen.text

    def text(self, x, y, words, color, *, size=14.0, align=0.0, alpha=1.0):
        left = x - align * self.width(words, size)
        written.append((words, left, y, left + self.width(words, size), y + self._pixels(size)))
        real(self, x, y, words, color, size=size, align=align, alpha=alpha)

    monkeypatch.setattr(Pen, "text", text)
    canvas = Canvas((width, round(width * 0.7)), supersample=1)
    for azimuth in range(-180, 180, 30):
        written.clear()
        replay = Replay.of(load(surface()), Look(), view=f"az={azimuth}", aspect=1 / 0.7)
        canvas.draw(replay)
        names = [box for box in written if box[0].startswith("PC ")]
        rows = [box for box in written if box[0] in ("step", "epoch", "learning rate", "true loss", "off-plane")]
        rows = [box for box in rows if box[1] > width / 2]
        assert len(names) == 2
        assert len(rows) == 5
        for _, x0, y0, x1, y1 in names:
            for word, a0, b0, _, b1 in rows:
                assert x1 < a0 or y1 < b0 or y0 > b1, f"az={azimuth}: an axis name lies on '{word}'"
                assert x0 >= 0
    canvas.close()


def test_pictures_are_made_smaller_by_the_mean_and_have_straight_alpha():
    rng = np.random.default_rng(0)
    for alpha in (255, None):
        pixels = rng.integers(0, 256, (12, 18, 4), dtype=np.uint8)
        pixels[..., 3] = pixels[..., 3] if alpha is None else alpha
        for factor in (1, 2, 3):
            found = _smaller(pixels, factor)
            for row, column in ((0, 0), (1, 2), (3, 5)):
                block = pixels[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor].reshape(
                    -1, 4
                )
                mean = block.astype(float).mean(axis=0)
                expected = [*(mean[:3] * 255 / max(mean[3], 1e-9)), mean[3]]
                np.testing.assert_array_equal(found[row, column], np.clip(np.round(expected), 0, 255).astype(np.uint8))


def test_the_default_colours_are_those_of_matplotlib():
    from matplotlib import colormaps

    np.testing.assert_array_equal(colors.table("viridis"), colormaps["viridis"](np.arange(256), bytes=True)[:, :3])
