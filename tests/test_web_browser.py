"""The page in a headless Chromium: its geometry against numpy's, its pictures against the window's, its controls."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from landscape_hooks import write_html
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.controls import KEYS
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import COLORMAPS, Look
from landscape_hooks.viewer.replay.replay import Replay, describe_place
from tests.browser import Watched, chromium, until
from tests.landscapes import ODD, changed, descent, path_of, surface
from tests.test_viewer_golden import BLOCK, MEAN, SCENES, SIZE, differences, golden

pytestmark = pytest.mark.timeout(600)
PICTURE = "landscapePage.scene.gl.canvas.toDataURL('image/png')"
DRAWN = {name: made for name, made in ODD.items() if name not in ("no whole cell", "far away")}
"""The surfaces that a page can hold: all of them have a picture."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of surfaces; at the end it must have been silent, and have asked for its own file only."""
    made = []

    def open_page(source, address="", *, size=(800, 500), context=None, **options):
        file = write_html(source, tmp_path / f"{len(made)}.html", **options)
        watched = Watched(browser, size=size, **(context or {}))
        made.append(watched)
        page = watched.open(file, address)
        page.watched = watched
        return page

    yield open_page
    for watched in made:
        assert all(url.startswith(("file:", "blob:")) for url in watched.requested), watched.requested
        assert len([url for url in watched.requested if url.startswith("file:")]) == 1
        watched.close()


def settle(page):
    until(page, "!landscapePage.dirty && !landscapePage.asked")


def pixels(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(float)


# -- the same arithmetic as the window's -----------------------------------------------------------------------
MEASURE = """(height) => {
  const page = landscapePage, { replay } = page, { landscape, stage } = replay;
  const plain = (values) => Array.from(values, (v) => Number.isFinite(v) ? v : String(v));
  return {
    heights: plain(landscape.mesh.heights), vertices: landscape.mesh.vertices.length / 3,
    faces: landscape.mesh.faces.length / 3, normals: plain(landscape.mesh.normals(stage.scale)),
    drapes: landscape.drapes.map(({ points, position }) => [plain(points), plain(position)]),
    lines: landscape.lines.map((line) => [line.loss, line.index, line.lines.reduce((sum, p) => {
      for (let k = 2; k < p.length; k += 2) sum += Math.hypot(p[k] - p[k - 2], p[k + 1] - p[k - 1]);
      return sum;
    }, 0)]),
    home: replay.home.text, matrix: plain(replay.home.matrix(1.5)), resolution: landscape.resolution,
    ticks: [0, 1, 2].map((axis) => stage.ticks(axis).labels), statement: landscape.mesh.height.statement,
    missing: landscape.mesh.missing,
  };
}"""


def numbers(values):
    return np.array([float(value) for value in values])


@pytest.mark.everyday(1)
@pytest.mark.parametrize("height", ["auto", "linear", "clipped"])
def test_the_geometry_is_that_of_numpy(opened, height):
    made = [surface(), surface(holes=True), *(DRAWN.values() if height == "auto" else ())]
    page = opened([replace(one, name=str(n)) for n, one in enumerate(made)], look=Look(height=height))
    for number, one in enumerate(made):
        page.evaluate("(n) => landscapePage.replay.choose(n, 1.5)", number)
        found = page.evaluate(MEASURE, height)
        compare(found, Replay.of(load(one, height=height), Look(height=height), aspect=1.5))


def compare(found, replay):
    mesh, stage = replay.landscape.mesh, replay.stage
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(numbers(found["heights"]), mesh.heights.ravel(), **close)
    assert (found["vertices"], found["faces"]) == (len(mesh.vertices), len(mesh.faces))
    np.testing.assert_allclose(numbers(found["normals"]), mesh.normals(stage.scale).ravel(), rtol=1e-6, atol=1e-9)
    assert len(found["drapes"]) == len(replay.landscape.drapes)
    for (points, position), drape in zip(found["drapes"], replay.landscape.drapes, strict=True):
        size = np.nanmax(np.abs(drape.points), initial=1.0)
        at = numbers(position)  # two crossings of one place may be one number or two neighbours
        for axis in range(3):
            mine, its = (np.interp(drape.position, p, v[axis::3]) for p, v in
                         ((at, numbers(points)), (drape.position, drape.points.ravel())))  # fmt: skip
            sound = np.isfinite(mine) & np.isfinite(its)
            np.testing.assert_allclose(mine[sound], its[sound], rtol=1e-6, atol=1e-9 * size)
    lines = replay.landscape.lines
    assert [index for _, index, _ in found["lines"]] == [line.index for line in lines]
    np.testing.assert_allclose([loss for loss, _, _ in found["lines"]], [line.loss for line in lines], rtol=1e-9)
    lengths = [sum(np.linalg.norm(np.diff(part[:, :2], axis=0), axis=1).sum() for part in line.lines) for line in lines]
    low, high = mesh.height.bounds
    digits = 1e-6 if high - low > 1e-6 * max(abs(low), abs(high)) else 1e-2  # few digits are left of a tiny range
    np.testing.assert_allclose([length for *_, length in found["lines"]], lengths, rtol=digits, atol=1e-12)
    its, mine = Camera.parse(found["home"]), replay.home
    assert (its.azimuth, its.elevation) == (mine.azimuth, mine.elevation)
    np.testing.assert_allclose(its.distance, mine.distance, rtol=1e-4)
    np.testing.assert_allclose(numbers(found["matrix"]), mine.matrix(1.5).T.ravel(), rtol=1e-4, atol=1e-4)
    assert found["ticks"] == [stage.ticks(axis)[1] for axis in range(3)]
    assert found["statement"] == mesh.height.statement
    assert {name: count for name, count in found["missing"]} == mesh.missing
    np.testing.assert_allclose(found["resolution"], replay.resolution, rtol=1e-9)


@pytest.mark.everyday(2)
@pytest.mark.parametrize("name", SCENES)
def test_the_picture_is_that_of_the_window(opened, name):
    """Without text, within the bounds of the window's own golden images."""
    look, options, view, at = SCENES[name]
    page = opened(surface(**options), size=SIZE, look=look, theme=look.theme, view=view)
    page.evaluate("document.getElementById('bar').hidden = true")
    until(page, f"landscapePage.size.join() === '{SIZE[0]},{SIZE[1]}'")
    page.evaluate("([view, at]) => { landscapePage.replay.choose(0, landscapePage.aspect); "
                  "landscapePage.go(`#${view}&moment=${at}`); }", [view, at])  # fmt: skip
    drawn = pixels(
        page.evaluate("""() => {
      const { replay, scene } = landscapePage;
      scene.show(replay.landscape, replay.look);
      scene.draw(replay.camera, replay.timeline.position, { scale: 0.6, fast: true, coarse: false, turns: false });
      return scene.gl.canvas.toDataURL("image/png");
    }""")
    )
    mean, block = differences(drawn, golden(name))
    assert drawn.shape == golden(name).shape
    assert mean <= MEAN
    assert block <= BLOCK


# -- what a reader does ----------------------------------------------------------------------------------------
def test_it_opens_plays_scrubs_orbits_and_comes_to_rest(opened):
    page = opened(surface(paths=(descent(), descent(30, "adam", -1.0))))
    assert page.title() == "sgd, adam · pca - landscape-hooks"
    settle(page)
    draws = page.evaluate("landscapePage.draws")
    page.wait_for_timeout(400)
    assert page.evaluate("landscapePage.draws") == draws, "an idle page draws"

    page.click("#play")
    until(page, "landscapePage.replay.timeline.position > 2")
    assert page.get_attribute("#play", "aria-label") == "Pause"
    page.keyboard.press("Space")
    assert not page.evaluate("landscapePage.replay.timeline.playing")
    page.fill("#scrub", "0")
    settle(page)
    assert "step 0 (1 of 40)" in page.inner_text("#moment-said")
    page.keyboard.press("End")
    page.focus("#picture")
    page.keyboard.press("Shift+ArrowLeft")
    settle(page)
    assert page.evaluate("landscapePage.replay.timeline.index") == 29
    assert re.sub(r"\s+", " ", page.inner_text("#moment")).startswith("step true loss plane loss off-plane sgd 290")

    plot = page.evaluate("landscapePage.hud.plot")
    page.mouse.move(plot["x"] + plot["width"] / 2, plot["y"] + 20)
    page.mouse.down()
    assert page.evaluate("landscapePage.replay.timeline.fraction") == pytest.approx(0.5, abs=0.02)
    page.mouse.move(plot["x"] + plot["width"] / 4, plot["y"] + 20)
    page.mouse.up()
    assert page.evaluate("landscapePage.replay.timeline.fraction") == pytest.approx(0.25, abs=0.02)

    before = Camera.parse(page.evaluate("landscapePage.replay.camera.text"))
    page.mouse.move(400, 100)
    page.mouse.down()
    page.mouse.move(500, 140)
    page.mouse.up()
    after = Camera.parse(page.evaluate("landscapePage.replay.camera.text"))
    turned = before.orbit(-35.0, 14.0)
    assert (after.azimuth, after.elevation) == pytest.approx((turned.azimuth, turned.elevation), abs=1e-3)
    page.mouse.wheel(0, -100)
    settle(page)
    assert page.evaluate("landscapePage.replay.camera.distance") == pytest.approx(after.distance / 1.12, rel=1e-3)
    until(page, "location.hash.startsWith('#az=')")


def test_the_address_shows_what_its_sender_saw(opened):
    made = [surface(), replace(surface(7, 6), name="second")]
    page = opened(made, "#az=30,el=20&surface=second&moment=0.5")
    assert page.inner_text("#title").endswith("second")
    assert page.input_value("#surface") == "1"
    camera = Camera.parse(page.evaluate("landscapePage.replay.camera.text"))
    assert (camera.azimuth, camera.elevation) == (30.0, 20.0)
    assert page.evaluate("landscapePage.replay.timeline.fraction") == pytest.approx(0.5)
    page.keyboard.press("a")
    until(page, "location.hash.includes('az=25,') && location.hash.includes('surface=second')")
    page.evaluate("location.hash = '#top&surface=pca'")
    until(page, "landscapePage.replay.camera.orthographic")
    settle(page)
    assert page.inner_text("#title").endswith("pca")


def test_every_key_and_control_changes_the_picture_as_it_says(opened):
    page = opened([surface(), replace(surface(holes=True), name="holes")], look=Look(true_loss=False))
    state = """(({ look, camera, timeline: { position, clock, speed, loop, playing }, turntable, follow, number,
      arrangement }) => JSON.stringify([look, camera.text, position, clock, speed, loop, playing, turntable, follow,
      number, arrangement]))(landscapePage.replay)"""
    names = {"PLUS": "+", "EQUAL": "=", "MINUS": "-", "COMMA": ",", "PERIOD": ".", "BRACKETLEFT": "[",
             "BRACKETRIGHT": "]", "SPACE": "Space", "HOME": "Home", "END": "End"}  # fmt: skip
    page.focus("#picture")
    page.evaluate("landscapePage.replay.timeline.scrub(0.5)")
    for row in KEYS:
        if row.key == "E":
            page.evaluate("landscapePage.act(() => landscapePage.replay.arrange({ arrangement: 'alone' }))")
        if row.key in ("HOME", "R"):  # both lead to where it is now, if nothing has moved
            page.evaluate("landscapePage.replay.timeline.scrub(0.5)")
        key = names.get(row.key) or (f"Arrow{row.key.title()}" if len(row.key) > 1 else row.key.lower())
        before = page.evaluate(state)
        page.keyboard.press(f"Shift+{key.upper() if len(key) == 1 else key}" if row.shift else key)
        assert page.evaluate(state) != before, row.shown
        if row.key in ("SPACE", "U", "F"):  # what moves by itself would hide what the next key does
            page.keyboard.press(key)
    settle(page)
    for colormap in COLORMAPS:
        page.select_option("#colormap", colormap)
        settle(page)
        assert page.evaluate("landscapePage.replay.look.colormap") == colormap
    page.select_option("#surface", "1")
    settle(page)
    assert "hatched: 6 not computed" in page.inner_text("#captions")
    page.click("#show-options")
    page.select_option("#height", "linear")
    settle(page)
    assert "linear" in page.inner_text("#captions")
    page.uncheck("#switch-captions")
    settle(page)
    assert not page.is_visible("#title")
    page.keyboard.press("Escape")
    assert not page.is_visible("#options")
    page.click("#show-help")
    assert page.is_visible("#help")
    assert page.inner_text("#help-rows").count("\n") > len(KEYS)
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")


def test_the_pixels_show_the_surface_in_its_colours(opened):
    page = opened(surface(), context={"color_scheme": "light"})
    light = pixels(page.evaluate(f"(landscapePage._draw(false, false), {PICTURE})"))
    assert light[2, 400].min() > 225
    middle = light[140:220, 350:450].reshape(-1, 3)
    assert middle.std(axis=0).min() > 5
    page.emulate_media(color_scheme="dark")
    until(page, "landscapePage.replay.look.theme === 'dark'")
    settle(page)
    dark = pixels(page.evaluate(f"(landscapePage._draw(false, false), {PICTURE})"))
    assert dark[2, 400].max() < 70
    assert np.median(np.abs(dark[140:220, 350:450] - light[140:220, 350:450])) < 3, "the surface has another colour"
    page.keyboard.press("b")
    settle(page)
    page.emulate_media(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("landscapePage.replay.look.theme") == "light", "the reader's choice gave way to the system"


def test_the_read_out_under_the_mouse_is_that_of_the_window(opened):
    made = surface(holes=True)
    page = opened(made)
    size = page.evaluate("landscapePage.size")
    replay = Replay.of(load(made), Look(), view=page.evaluate("landscapePage.replay.camera.text"), aspect=1.6)
    spots = [(-5.3, 3.0), (-2.0, 0.4), (1.0, 1.0), (-4.0, -1.7)]  # the last is in a hole
    for alpha, beta in spots:
        mesh = replay.landscape.mesh
        height = mesh.height_at(np.array([[alpha, beta]]))[0]
        point = replay.stage.place(np.array([alpha, beta, np.nan_to_num(height, nan=mesh.height.bounds[1] / 2)]))
        if np.isfinite(height):
            x, y, _ = replay.camera.project(point, tuple(size))[0]
            found = page.evaluate(
                "([x, y]) => { const p = landscapePage, r = p.replay; "
                "return r.landscape.pick(r.stage, r.camera, x, y, p.size); }", [x, y]
            )  # fmt: skip
            assert found is not None
            np.testing.assert_allclose(found, point, atol=2e-2)
        lines = page.evaluate(
            "(p) => landscapePage.replay.landscape.describePlace(landscapePage.replay.stage, p)", point.tolist()
        )
        assert lines == describe_place(replay, point)
    spot = np.array([[-2.0, 0.4]])
    point = replay.stage.place(np.column_stack([spot, mesh.height_at(spot)]))
    x, y, _ = replay.camera.project(point, tuple(size))[0]
    page.mouse.move(x, y)
    assert page.inner_text("#place").startswith("alpha -2   beta 0.4\n")
    assert "nearest step" in page.inner_text("#place")
    page.mouse.move(2, 2)
    assert not page.is_visible("#place")


HOSTILE = [
    "</script><script>window.hit = 1</script>", "<img src=x onerror='window.hit = 1'>", "<!--<script>", "]]>",
    "{{script}}", "${window.hit = 1}", "javascript:window.hit=1", "\u202eright\u202c", "\u2028\u2029", "😀\U0001f9e0 ß",
    "' onmouseover='window.hit = 1", '"><svg onload="window.hit = 1">', "a" * 500, "</title><h1>x", "&lt;b&gt;",
]  # fmt: skip


@pytest.mark.more
def test_what_a_stranger_wrote_stays_text(opened):
    paths = tuple(path_of(label=text) for text in HOSTILE)
    hostile = [
        changed(paths=paths, name=text, attrs={"labels": [text, text], "batch_norm": text, "doubts": [text + "."]})
        for text in HOSTILE
    ]
    page = opened(hostile)
    for number, text in enumerate(HOSTILE):
        page.select_option("#surface", str(number))
        settle(page)
        assert page.text_content("#title").endswith(f"· {text}")
        assert [row.text_content() for row in page.query_selector_all("#legend li")] == HOSTILE
        assert f"BatchNorm: {text}" in page.text_content("#captions")
        assert page.text_content("#captions .doubt").startswith("in doubt: ")
    assert [option.text_content() for option in page.query_selector_all("#surface option")] == HOSTILE
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('img, iframe, object, script, h1').length") == 3


def test_it_fits_any_window_and_saves_a_picture(opened):
    made = surface(paths=(descent(), descent(30, "a long name of a run, with its hyper-parameters", -1.0)))
    page = opened(made, size=(390, 700), context={"device_scale_factor": 2})
    for width, height in ((390, 700), (640, 400), (1280, 720), (320, 240)):
        page.set_viewport_size({"width": width, "height": height})
        until(page, f"landscapePage.canvas.width === 2 * {width}")
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [control.bounding_box() for control in page.query_selector_all("#bar > *") if control.is_visible()]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        assert all(box["y"] + box["height"] <= height for box in boxes)
    page.set_viewport_size({"width": 640, "height": 400})
    settle(page)
    with page.expect_download() as download:
        page.click("#save")
    saved = Image.open(download.value.path())
    assert download.value.suggested_filename == "pca.png"
    assert saved.size == tuple(2 * side for side in page.evaluate("landscapePage.size"))
    corner = np.asarray(saved.convert("RGB")).astype(float)[20:70, 20:300]
    assert corner.std() > 8, "the title is not in the picture"


def test_fingers_orbit_pan_and_zoom(opened):
    page = opened(surface(), context={"has_touch": True})
    before = page.evaluate("landscapePage.replay.camera.text")
    touch = """(moves) => { for (const [kind, pointerId, clientX, clientY] of moves) {
      const options = { pointerId, clientX, clientY, pointerType: 'touch', bubbles: true, button: 0 };
      document.getElementById('picture').dispatchEvent(new PointerEvent(kind, options));
    } }"""
    page.evaluate("HTMLElement.prototype.setPointerCapture = () => {}")
    page.evaluate(touch, [["pointerdown", 1, 300, 200], ["pointermove", 1, 340, 200]])
    turned = Camera.parse(page.evaluate("landscapePage.replay.camera.text"))
    assert turned.azimuth == pytest.approx(Camera.parse(before).orbit(-14, 0).azimuth, abs=1e-3)
    page.evaluate(touch, [["pointerdown", 2, 440, 200], ["pointermove", 2, 540, 200], ["pointerup", 2, 540, 200]])
    zoomed = Camera.parse(page.evaluate("landscapePage.replay.camera.text"))
    assert zoomed.distance == pytest.approx(turned.distance / 2, rel=1e-3)
    assert zoomed.azimuth == pytest.approx(turned.azimuth)


def test_controls_have_names_and_the_keyboard_reaches_them(opened):
    page = opened([surface(), replace(surface(7, 6), name="second")], size=(1000, 500))
    page.keyboard.press("m")
    unnamed = page.evaluate("""[...document.querySelectorAll('button, select, input')].filter((one) =>
      !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.[0]?.textContent.trim()))
      .map((one) => one.outerHTML)""")
    assert not unnamed
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"picture", "play", "scrub", "surface", "colormap", "save", "show-options", "show-help", "height"} <= reached


def test_contexts_are_given_back_out_of_view_and_made_again(opened):
    page = opened(surface())
    page.evaluate("landscapePage._see(false)")
    assert page.evaluate("landscapePage.scene") is None
    still = pixels(page.evaluate("document.getElementById('scene').toDataURL('image/png')"))
    assert still.std() > 20, "no picture stays in its place"
    page.evaluate("landscapePage._see(true)")
    until(page, "landscapePage.scene !== null")
    settle(page)
    again = pixels(page.evaluate(f"(landscapePage._draw(false, false), {PICTURE})"))
    assert np.abs(again - still).mean() < 1
    page.evaluate("landscapePage.scene.gl.getExtension('WEBGL_lose_context').loseContext()")
    until(page, "landscapePage.scene === null")
    page.keyboard.press("a")
    until(page, "landscapePage.scene !== null")
