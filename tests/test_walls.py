"""The walls between the rooms, read off `sys.modules` in a fresh process for each room."""

import json
import subprocess
import sys

import pytest

LOOKING = {"torch", "torchvision"}
RECORDING = {"sklearn", "matplotlib", "pyglet", "imgui_bundle", "contourpy", "plyfile"}
HEAVY = {"torch", "zarr", "numpy", "sklearn", "matplotlib", "pyglet", "imgui_bundle", "plyfile", "PIL"}


def imported(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import landscape_hooks", HEAVY),
        ("import landscape_hooks.cli", HEAVY),
        ("import landscape_hooks.errors, landscape_hooks.store.schema", HEAVY),
        ("from landscape_hooks import Trajectory, Surface", LOOKING | RECORDING),
        ("from landscape_hooks import record", RECORDING),
        (
            "import landscape_hooks.recording.recorder, landscape_hooks.objective.capture, landscape_hooks.objective.objective",
            RECORDING,
        ),
        ("from landscape_hooks import write_ply, contour_figure", LOOKING),
        ("import landscape_hooks.cli.description", LOOKING | RECORDING),
        ("import landscape_hooks.mesh.mesh", LOOKING),
        ("import pyglet; pyglet.options.headless = True; import landscape_hooks.viewer.offscreen", LOOKING),
        ("import landscape_hooks.viewer.replay.camera, landscape_hooks.viewer.replay.timeline", LOOKING | {"pyglet"}),
    ],
)
def test_a_room_imports_only_what_it_may(statement, forbidden):
    assert not imported(statement) & forbidden


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["analyze", "--help"], ["view", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    statement = f"from landscape_hooks.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit: pass"
    assert not imported(statement) & HEAVY
