"""The scripts of examples/trainers run, shortened, and what they record is analyzed without a flag."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from landscape_hooks import Trajectory, analyze

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "trainers").glob("*_digits.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_recorded_and_analyzed(script, tmp_path):
    framework = script.stem.removesuffix("_digits")
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "run.zarr"), "--epochs", "1"],
        capture_output=True, text=True, timeout=240, cwd=tmp_path, env={**os.environ, "KERAS_BACKEND": "torch"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "could not be stored" not in done.stderr
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps[0] == 0
    assert len(trajectory) > 10
    surface = analyze(tmp_path / "run.zarr", size=3, progress=False)
    assert surface.complete
    assert surface.path_loss[-1] < surface.path_loss[0]
