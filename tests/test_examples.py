"""The examples run, shortened, on real data, and what they record can be analyzed."""

import subprocess
import sys
from pathlib import Path

from landscape_hooks import Trajectory, analyze

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_loop(tmp_path):
    store = tmp_path / "plain.zarr"
    run("plain_loop.py", "--out", str(store), "--epochs", "2")
    trajectory = Trajectory.open(store)
    assert trajectory.steps[0] == 0
    assert trajectory.steps[-1] == 2 * 29
    surface = analyze(store, size=3, progress=False)
    assert surface.complete
    assert surface.path_loss[-1] < surface.path_loss[0]
