"""Pictures where others are used to: a notebook's backend, a user's style, no HOME, no display, an ASCII locale."""

import os
import pickle
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from landscape_hooks.errors import printable
from landscape_hooks.export.figure import contour_figure, line_figure, loss_figure, surface_figure
from landscape_hooks.store.run import label_of
from tests.landscapes import surface, write_run

DRAWN = """
import os, sys
try:
    import matplotlib
except ValueError:
    pass  # as in a script that goes on without it
from landscape_hooks.mesh.colors import table
from landscape_hooks.export.figure import contour_figure
from tests.landscapes import surface
contour_figure(surface()).savefig(sys.argv[1])
import matplotlib
print(os.environ["MPLBACKEND"], matplotlib.rcParams._get("backend"), "matplotlib.pyplot" in sys.modules, sep="|")
"""


@pytest.mark.everyday(1)
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("module://matplotlib_inline.no_such", "module://matplotlib_inline.no_such"),
        ("nonsense", None),
        ("TkAgg", "tkagg"),
    ],
)
def test_a_figure_needs_no_backend(wanted, found, tmp_path):
    """One that matplotlib knows stays set for the user's own figures."""
    environment = {**os.environ, "MPLBACKEND": wanted}
    command = [sys.executable, "-c", DRAWN, str(tmp_path / "a.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked, backend, pyplot = done.stdout.strip().split("|")
    assert asked == wanted
    assert pyplot == "False"
    assert found is None or backend.lower() == found


COMMANDS = """
import sys
from landscape_hooks.cli import main
run, out = sys.argv[1:]
main(["export", run, "--png", out + "/a.png", "--ply", out + "/a.ply"])
main(["render", run, "-o", out + "/b.png", "--size", "160x100"])
"""


@pytest.mark.more
def test_the_commands_work_where_nothing_is_as_usual(tmp_path):
    """One interpreter for all commands; the run's name is none that the locale can decode."""
    run = write_run(tmp_path / "läuft.zarr", surface())
    nowhere = tmp_path / "read-only"
    nowhere.mkdir(mode=0o555)
    environment = {
        **{"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "HOME": "/nonexistent", "MPLCONFIGDIR": "/proc/nope"},
        **{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
        **{"DISPLAY": ":99", "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    }
    command = [sys.executable, "-c", COMMANDS, str(run), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=nowhere, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    for name in ("a.png", "b.png"):
        assert Image.open(tmp_path / name).size[0] >= 160
    assert (tmp_path / "a.ply").stat().st_size


def pixels(figure, path):
    figure.savefig(path)
    return np.asarray(Image.open(path))


@pytest.mark.everyday(1)
@pytest.mark.parametrize("draw", [contour_figure, loss_figure, surface_figure])
def test_a_figure_is_the_same_under_another_style(draw, tmp_path):
    """Dark, in another font, and typeset by a LaTeX that is not installed: when it is drawn and when it is saved."""
    plain = pixels(draw(surface()), tmp_path / "plain.png")
    style = {
        **{"text.usetex": True, "font.family": "serif", "figure.facecolor": "black", "savefig.facecolor": "black"},
        **{"axes.facecolor": "black", "axes.grid": True, "savefig.dpi": 40, "lines.linewidth": 9.0},
    }
    with matplotlib.rc_context(style):
        before = dict(matplotlib.rcParams.copy())
        figure = draw(surface())
        styled = pixels(figure, tmp_path / "styled.png")
        assert dict(matplotlib.rcParams.copy()) == before
    np.testing.assert_array_equal(styled, plain)


def test_a_line_s_figure_can_be_pickled_and_its_text_stays_text(tmp_path):
    copy = pickle.loads(pickle.dumps(line_figure(surface(9, 1))))
    copy.savefig(tmp_path / "a.svg")
    assert "loss on the probe samples</text>" in (tmp_path / "a.svg").read_text("utf-8")


def test_a_name_that_the_locale_cannot_decode_is_shown_as_it_is():
    """As Python hands on a file's name in an ASCII locale."""
    name = "läuft".encode().decode("ascii", "surrogateescape")
    assert printable(name) == "läuft"
    assert label_of(f"runs/{name}.zarr") == "läuft"
    assert printable("\ud800") == "\\ud800"
    assert printable("a\x1b\udcff") == "a\\x1b\N{REPLACEMENT CHARACTER}"
