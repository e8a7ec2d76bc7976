"""Several surfaces in one picture: their arrangement, the files, and the panes, without a window."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from landscape_hooks.cli.render import render as command
from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.store.run import open_run
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.viewer.offscreen import Canvas, render
from landscape_hooks.viewer.replay.landscape import Landscape, load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay, describe_place
from landscape_hooks.viewer.several.arrangement import arranged
from landscape_hooks.viewer.several.opening import Beside, open_replay
from landscape_hooks.viewer.several.panes import panes, under
from tests.landscapes import descent, surface, write_run

SIZE = (640, 320)
PLAIN = Look(captions=False)


def put(run, made):
    root = open_run(run, mode="r+")
    arrays = {"explained_variance_ratio": made.explained_variance_ratio}
    writer = SurfaceWriter.create(root, made.name, made.alpha, made.beta, made.attrs, arrays)
    writer.write(np.arange(made.loss.size), made.loss.ravel(), made.loss_stderr.ravel())
    writer.write_paths(root, made.paths)
    writer.finish(root, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the surfaces clean, high (ten times the loss) and other (another grid)."""
    clean = replace(surface(), name="clean")
    folder = write_run(tmp_path_factory.mktemp("several") / "run", clean)
    path = clean.paths[0].at(slice(0, 20))
    put(folder, replace(clean, name="high", loss=10 * clean.loss, paths=(path,)))
    put(folder, replace(surface(9, 8), name="other"))
    return folder


def opened(run, **beside):
    return open_replay(str(run), PLAIN, name="clean", view="", size=SIZE, beside=Beside(**beside))


def test_all_panes_have_one_height_and_one_camera(run):
    made = opened(run, beside=["high", "other"])
    heights = {pane.landscape.mesh.height for pane in made.panes}
    clean, high = (load(str(run), name=name) for name in ("clean", "high"))
    (shared,) = heights
    assert (shared.low, shared.high) == (clean.surface.loss.min(), high.surface.loss.max())
    assert {id(pane.camera) for pane in made.panes} == {id(made.camera)}
    assert [pane.landscape.surface.name for pane in made.panes] == ["clean", "high", "other"]
    made.set_look(replace(PLAIN, height="linear"))
    assert {pane.landscape.mesh.height.kind for pane in made.panes} == {"linear"}


def test_a_shorter_path_is_at_the_same_share_of_its_replay(run):
    made = opened(run, beside=["high"])
    made.timeline.position = 19.5
    assert made.panes[1].timeline.position == pytest.approx(9.5)


def test_surfaces_change_places_and_the_moment_stays(run):
    made = opened(run, difference="high")
    made.timeline.scrub(0.5)
    made.choose("high")
    assert (made.name, made.other, made.arrangement) == ("high", "clean", "difference")
    assert made.landscape.difference.names == ("high", "clean")
    assert made.timeline.fraction == pytest.approx(0.5)
    assert made.timeline.last == 19
    before = made.landscape
    with pytest.raises(SurfaceError, match="same grid"):
        made.compare("other")
    assert made.landscape is before
    assert made.other == "clean"


def test_keys_go_through_what_can_be_shown(run):
    made = opened(run)
    made.next_arrangement()
    assert (made.arrangement, made.other) == ("side by side", "high")
    made.next_arrangement()
    assert made.arrangement == "blend"
    assert made.share == 0.5
    made.next_surface()
    assert (made.name, made.other) == ("high", "clean"), "other has another grid, and is passed over"
    made.next_arrangement()
    made.next_arrangement()
    assert made.arrangement == "alone"
    assert made.landscape is made.first
    made.next_surface()
    assert made.name == "other"
    alone = open_replay(surface(), PLAIN, name=None, view="", size=SIZE)
    for act in (alone.next_surface, alone.next_other, alone.next_arrangement):
        with pytest.raises(SurfaceError, match="no other surface"):
            act()


def test_a_blend_follows_its_share_and_the_read_out_of_a_difference_says_it(run):
    made = opened(run, blend="high", share=0.25)
    np.testing.assert_allclose(made.landscape.surface.loss, 3.25 * surface().loss)
    assert "0.75 of clean, 0.25 of high" in made.landscape.title
    assert not made.landscape.critical
    made.arrange("difference")
    point = made.stage.place(made.landscape.mesh.on(made.first.surface.path[5]))
    assert "high / clean: ×10" in describe_place(made, point)


def test_a_run_that_grows_stays_beside_the_other(run):
    made = opened(run, beside=["high"])
    longer = replace(made.first.surface, paths=(descent(60),))
    made.grow(made.first.of_surface(longer))
    assert len(made.timeline) == 60
    assert made.timeline.position == made.timeline.last
    assert made.arrangement == "side by side"
    assert len(made.panes) == 2
    made.arrange("difference")
    made.grow(made.first.of_surface(replace(surface(5, 5), name="clean")))
    assert made.arrangement == "alone", "the new grid has no difference to the old one"


def test_another_run_is_named_by_its_path(run, tmp_path):
    second = write_run(tmp_path / "second", replace(surface(), name="clean"))
    made = opened(run, beside=[str(second), f"{run}::high"])
    assert [made.gallery.called(landscape) for landscape in made.others] == ["second · clean", "run · high"]
    assert [pane.landscape.title for pane in made.panes] == ["run · clean", "second · clean", "run · high"]
    with pytest.raises(SurfaceError, match="neither a surface of the run nor another run"):
        opened(run, beside=["missing"])
    with pytest.raises(SurfaceError, match="no surface named 'missing'"):
        opened(run, beside=[f"{run}::missing"])
    with pytest.raises(LandscapeError, match="side by side and difference"):
        opened(run, beside=["high"], difference="high")
    with pytest.raises(LandscapeError, match="at most 9"):
        opened(run, beside=["high"] * 9)


def test_a_mesh_of_another_program_has_nothing_to_compare():
    made = load(surface())
    foreign = Landscape(replace(Mesh.from_surface(surface()), grid=None), None, "bunny.ply")
    with pytest.raises(SurfaceError, match=r"bunny\.ply is a mesh of another program"):
        arranged(made, [foreign], "difference", "auto")


@pytest.mark.parametrize("count", range(1, 10))
@pytest.mark.parametrize("size", [(1280, 720), (640, 400), (401, 999), (3, 2)])
def test_panes_have_one_size_and_do_not_overlap(count, size):
    found = panes(count, size)
    assert len({pane.size for pane in found}) == 1
    for k, pane in enumerate(found):
        assert under(found, pane.x, pane.y) == (
            k if len({(p.x, p.y) for p in found}) == count else under(found, pane.x, pane.y)
        )
        if min(size) > 9:
            assert pane.x + pane.width <= size[0]
            assert pane.y + pane.height <= size[1]


@pytest.fixture(scope="module")
def canvas():
    made = Canvas(SIZE, supersample=1)
    yield made
    made.close()


def test_a_pane_is_the_picture_of_its_surface_alone(run, canvas):
    """Each half equals what a canvas of that size draws: lines, markers and background too."""
    made = opened(run, beside=["high"])
    made.timeline.scrub(0.4)
    whole = canvas.draw(made)
    half = Canvas((320, 320), supersample=1)
    for number, pane in enumerate(made.panes):
        pane.gallery, pane.beside = None, ()
        alone = half.draw(pane)
        part = whole[:, 320 * number : 320 * number + 320]
        assert np.abs(part.astype(int) - alone).mean() < 0.6, "the grain of the background is another one"
        assert (np.abs(part.astype(int) - alone).max(axis=-1) > 12).mean() < 0.001
    half.close()


def test_a_difference_is_red_where_the_second_is_higher_and_blue_where_it_is_lower(run, canvas):
    one = surface()
    higher = np.where(one.alpha[:, None] > -1.5, 2.0, 0.5) * one.loss
    first, second = load(one), load(replace(one, loss=higher))
    (shown,) = arranged(first, [second], "difference", "auto")
    made = Replay.of(shown, PLAIN, aspect=2)
    pixels = canvas.draw(made).astype(int)
    for alpha, channel in ((1.5, 0), (-4.5, 2)):
        x, y, _ = made.camera.project(made.stage.place([made.landscape.mesh.on([alpha, -2.0])]), SIZE)[0]
        seen = pixels[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3, :3].mean(axis=(0, 1))
        assert seen[channel] > seen[2 - channel] + 30


def test_render_draws_them_and_says_what_it_cannot(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, arguments in {
        "a.png": ["--beside", "high", "--beside", "other"],
        "b.png": ["--difference", "high"],
        "c.png": ["--blend", "high", "--share", "0.3"],
    }.items():
        done = CliRunner().invoke(command, [str(run), "--name", "clean", "-o", name, "--size", "400x240", *arguments])
        assert done.exit_code == 0, done.output
        assert Image.open(name).size == (400, 240)
    with pytest.raises(SurfaceError, match="same grid"):
        render(str(run), "d.png", name="clean", beside=Beside(difference="other"))


def test_an_animation_moves_in_every_pane(run, tmp_path):
    file = render(
        str(run), tmp_path / "a.gif", name="clean", size=SIZE, look=PLAIN, frames=2, turn=0, supersample=1,
        beside=Beside(["high"]),
    )  # fmt: skip
    with Image.open(file) as image:
        first = np.asarray(image.convert("RGB"), dtype=int)
        image.seek(1)
        moved = np.abs(np.asarray(image.convert("RGB"), dtype=int) - first).max(axis=-1) > 60
    assert moved[:, :320].any()
    assert moved[:, 320:].any()
