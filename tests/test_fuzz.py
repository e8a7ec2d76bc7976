"""Coverage-guided fuzzing finds nothing in a minute; the long form is one command (tests/fuzz/fuzz.py all)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
SCRIPT = Path(__file__).with_name("fuzz") / "fuzz.py"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ply", "graph", "view", "options", "run"])
def test_a_short_fuzz_finds_nothing(tmp_path, target):
    command = [sys.executable, str(SCRIPT), target, "--seconds", "12"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Done " in done.stderr
    assert not list(tmp_path.glob("crash-*"))
