"""The file of the page: its size, its policy, what it holds; without a browser."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape_hooks import write_html
from landscape_hooks.cli import main
from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.viewer.replay.controls import KEYS
from landscape_hooks.viewer.web import html, packing, script
from tests.landscapes import changed, descent, path_of, surface, write_run

LONGEST = 450


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def unpacked(packed):
    return np.frombuffer(base64.b64decode(packed["data"]), dtype=f"<{packed['type']}")


def test_a_page_is_small(tmp_path):
    small = write_html(surface(25, 25, paths=(descent(200),)), tmp_path / "small.html")
    large = write_html(surface(201, 201, paths=(descent(200),)), tmp_path / "large.html")
    assert small.stat().st_size < 300_000
    assert large.stat().st_size < 3_000_000


def test_a_page_holds_the_surface_exactly(tmp_path):
    made = surface(holes=True)
    found = data_of(write_html(made, tmp_path / "F.html").read_text())["surfaces"][0]
    for name in ("alpha", "beta", "loss"):
        np.testing.assert_array_equal(unpacked(found[name]), getattr(made, name).ravel())
    np.testing.assert_array_equal(unpacked(found["state"]), made.evaluated.ravel())
    np.testing.assert_allclose(unpacked(found["stderr"]), made.loss_stderr.ravel(), rtol=1e-6)
    path, packed = made.paths[0], found["paths"][0]
    for name, array in (("coordinates", path.coordinates), ("loss", path.loss), ("step", path.step)):
        np.testing.assert_array_equal(unpacked(packed[name]), array.ravel())


def test_interpolated_points_and_wide_ranges_are_kept():
    interpolated = np.zeros((7, 6), dtype=bool)
    interpolated[2] = True
    error = np.where(interpolated, 0.02, np.nan)
    made = changed(
        evaluated=~interpolated, interpolated=interpolated, interpolation_error=error,
        loss=surface(7, 6).loss * 1e300, loss_stderr=surface(7, 6).loss * 1e298,
    )  # fmt: skip
    found = packing.pack_surface(html.landscapes_of(made, None, "auto")[0][0])
    np.testing.assert_array_equal(unpacked(found["state"]), np.where(interpolated, 2, 1).ravel())
    np.testing.assert_allclose(unpacked(found["error"]), error.ravel(), rtol=1e-6)
    np.testing.assert_array_equal(unpacked(found["stderr"]), made.loss_stderr.ravel())


def test_the_policy_allows_the_pages_own_script_and_style_only(tmp_path):
    text = write_html(surface(), tmp_path / "F.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["connect-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert not re.search(r"\bhttps?://(?!www\.w3\.org/2000/svg)", text), "the page names an address"


HOSTILE = st.text(max_size=40) | st.sampled_from(
    ["</script><script>x()</script>", "<!--<script>", "]]>", "{{script}}", "\u2028", "&lt;", "</SCRIPT >", '"', "\\"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(HOSTILE, min_size=4, max_size=4))
def test_no_name_leaves_its_place_in_the_data(names):
    label, name, axis, doubt = names
    made = changed(
        paths=(path_of(label=label), path_of(label=label)), name=name,
        attrs={"labels": [axis, "b"], "batch_norm": "batch", "doubts": [doubt]},
    )  # fmt: skip
    text = html.page(html.landscapes_of(made, None, "auto")[0], {})
    assert text.count("<script") == 2 + script.script().count("<script")
    found = data_of(text)["surfaces"][0]
    assert found["paths"][0]["label"] == label
    assert found["name"] == name
    assert found["labels"][0].startswith(axis)


def test_every_surface_of_a_run_is_in_its_page(tmp_path):
    run = write_run(tmp_path / "run.zarr", surface())
    from dataclasses import replace

    from landscape_hooks.store.run import open_run
    from landscape_hooks.surface.writer import SurfaceWriter

    root = open_run(run, mode="r+")
    for made in (replace(surface(7, 6), name="other"), replace(surface(7, 6), name="line", beta=np.zeros(1))):
        columns = len(made.beta)
        arrays = {"explained_variance_ratio": made.explained_variance_ratio}
        writer = SurfaceWriter.create(root, made.name, made.alpha, made.beta, made.attrs, arrays)
        loss = made.loss[:, :columns].ravel()
        writer.write(np.arange(loss.size), loss, loss * 0)
        writer.write_paths(root, made.paths)
        writer.finish(root, {})
    found = data_of(write_html(run, tmp_path / "F.html", name="other").read_text())
    assert [one["name"] for one in found["surfaces"]] == ["other", "pca"]
    assert [one["name"] for one in found["undrawn"]] == ["line"]
    assert "at least 2 x 2" in found["undrawn"][0]["why"]


def test_export_writes_the_page(tmp_path, capsys):
    run = write_run(tmp_path / "run.zarr", surface())
    main(["export", str(run), "--html", str(tmp_path / "F.html"), "--height", "linear", "--colormap", "plasma"])
    found = data_of((tmp_path / "F.html").read_text())
    assert found["look"]["height"] == "linear"
    assert found["colormaps"][-1] == "plasma" == found["look"]["colormap"]
    assert "plasma" in found["tables"]
    assert f"wrote {tmp_path / 'F.html'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error"),
    [({"theme": "blue"}, LandscapeError), ({"view": "sideways"}, LandscapeError)],
)
def test_a_page_that_cannot_be_is_refused_before_its_file_is_written(options, error, tmp_path):
    with pytest.raises(error):
        write_html(surface(), tmp_path / "F.html", **options)
    with pytest.raises(SurfaceError):
        write_html([], tmp_path / "F.html")
    assert not list(tmp_path.iterdir())


# -- the script ------------------------------------------------------------------------------------------------
def test_modules_are_joined_after_those_they_import():
    modules = {
        "a/main.js": 'import { one as first, two } from "../b/two.js";\nimport * as all from "./c.js";\nfirst(two);\n',
        "a/c.js": 'import { two } from "../b/two.js";\nexport const three = two + 1;\n',
        "b/two.js": "export function one() {}\nexport const two = 2;\nconst hidden = 1;\n",
    }
    text = script.joined(modules, "a/main.js")
    assert [line for line in text.splitlines() if line.startswith("// ----")] == [
        "// ---- b/two.js", "// ---- a/c.js", "// ---- a/main.js"
    ]  # fmt: skip
    assert "import" not in text
    assert "export" not in text
    assert "const { one: first, two } = $b_two;" in text
    assert "const all = $a_c;" in text
    assert "return { one, two };" in text


@pytest.mark.parametrize("other", ['import { a } from "./main.js";\nexport const b = 1;\n', None])
def test_circles_and_missing_modules_are_refused(other):
    modules = {"a/main.js": 'import { b } from "./other.js";\nexport const a = 1;\n'}
    modules |= {} if other is None else {"a/other.js": other}
    with pytest.raises(ValueError, match=r"a/main\.js imports a/other\.js"):
        script.joined(modules, "a/main.js")


def test_every_module_is_used_and_small():
    modules = script.files()
    text = script.script()
    for path, body in modules.items():
        assert f"// ---- {path}\n" in text, f"{path} is imported by nobody"
        assert len(body.splitlines()) <= LONGEST, path
        assert body.startswith("// "), f"{path} does not say what it is"
    for folder in script.FOLDERS:
        assert 1 < len([path for path in modules if path.startswith(folder)]) <= 10
    assert not re.search(r"^\s*(import|export)\b", text, re.MULTILINE)


def test_text_of_a_run_is_never_markup():
    """The only ways by which a string becomes markup or code are not in the script at all."""
    text = script.script()
    for word in (
        "insertAdjacentHTML",
        "outerHTML =",
        "innerHTML =",
        "document.write",
        "eval(",
        "new Function",
        "onclick=",
    ):
        assert word not in text, word


def test_every_key_of_the_window_does_something_in_the_page():
    text = script.files()["replay/keys.js"]
    for row in KEYS:
        name = f'"Shift {row.key}"' if row.shift else row.key
        assert re.search(rf"^  {re.escape(name)}: ", text, re.MULTILINE), row
