"""The walls between the rooms: read off `sys.modules` in a fresh process for each room, and off the imports."""

import ast
import json
import subprocess
import sys
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LOOKING = {"torch", "torchvision"}
RECORDING = {"sklearn", "matplotlib", "pyglet", "imgui_bundle", "contourpy", "plyfile"}
HEAVY = {"torch", "zarr", "numpy", "sklearn", "matplotlib", "pyglet", "imgui_bundle", "plyfile", "PIL"}


def imported(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.everyday(4)
@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import landscape_hooks", HEAVY),
        ("import landscape_hooks.cli", HEAVY),
        ("import landscape_hooks.errors, landscape_hooks.store.schema", HEAVY),
        ("from landscape_hooks import Trajectory, Surface", LOOKING | RECORDING),
        ("from landscape_hooks import record; from landscape_hooks.objective import capture, objective", RECORDING),
        ("from landscape_hooks import write_ply, contour_figure", LOOKING),
        ("import landscape_hooks.cli.description", LOOKING | RECORDING),
        ("import landscape_hooks.mesh.mesh", LOOKING),
        ("import pyglet; pyglet.options.headless = True; import landscape_hooks.viewer.offscreen", LOOKING),
        ("import landscape_hooks.viewer.live", LOOKING | {"pyglet"}),
        ("import landscape_hooks.viewer.web.server", LOOKING | {"pyglet", "imgui_bundle", "matplotlib"}),
        ("import landscape_hooks.viewer.replay.camera, landscape_hooks.viewer.replay.timeline", LOOKING | {"pyglet"}),
    ],
)
def test_a_room_imports_only_what_it_may(statement, forbidden):
    assert not imported(statement) & forbidden


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["analyze", "--help"], ["view", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    statement = f"from landscape_hooks.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit: pass"
    assert not imported(statement) & HEAVY


# -- the house: what may import what, and how large a room is ------------------------------------------------
ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "landscape_hooks"
FAMILIES = (
    "root", "device", "store", "trajectory", "surface", "objective", "plane", "mesh", "recording", "evaluation",
    "export", "analysis", "viewer", "integrations", "cli",
)  # fmt: skip
"""From the ground up: a family imports from those before it only."""


NOTEBOOK = "landscape_hooks.surface.surface"
UPWARDS = {"landscape_hooks.viewer.web.notebook", "landscape_hooks.viewer.replay.look"}
"""The one import upwards: how a Surface shows itself in a notebook, inside the method, and the type of its options."""


def sources() -> dict[str, Path]:
    """Module name -> file, of everything that is installed."""
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]:
        inside = path.relative_to(ROOT).with_suffix("")
        parts = inside.parts if inside.parts[0] == "landscape_hooks" else ("landscape_hooks", *inside.parts)
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """Modules of the package that a module imports, at its top or inside a function; `import a.b` means a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("landscape_hooks"):
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name in known}
    return found - {name}


def family(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FAMILIES else "root"


ARROWS = {name: imports(name, path, set(sources())) for name, path in sources().items()}
assert ARROWS[NOTEBOOK] >= UPWARDS
ARROWS[NOTEBOOK] -= UPWARDS


def test_families_import_downwards_only():
    upwards = [
        f"{name} ({family(name)}) imports {other} ({family(other)})"
        for name, others in ARROWS.items()
        for other in others
        # the map of the public names and `python -m` name rooms of every family
        if name not in ("landscape_hooks", "landscape_hooks.__main__")
        and FAMILIES.index(family(other)) > FAMILIES.index(family(name))
    ]
    assert not upwards


def test_no_module_imports_itself_by_way_of_others():
    arrows = {name: others for name, others in ARROWS.items() if name != "landscape_hooks"}
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_rooms_are_small():
    files = [path for path in sources().values()]
    assert len([path for path in files if path.parent == PACKAGE]) <= 8
    folders = Counter(path.parent for path in files if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in folders.items() if count > 10}
    pages = [path for kind in ("*.js", "*.css", "*.html") for path in PACKAGE.rglob(kind)]
    scripts = Counter(path.parent for path in pages if path.suffix == ".js")
    assert not {str(folder): count for folder, count in scripts.items() if count > 10}
    lines = {str(path): len(path.read_text().splitlines()) for path in [*files, *pages]}
    assert not {path: count for path, count in lines.items() if count > 450}


def test_every_folder_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert folders | {"landscape_hooks.integrations"} == set(packages)


def test_parameters_have_types():
    bare = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                bare += [
                    f"{path.relative_to(ROOT)}:{node.lineno} {node.name}({a.arg})"
                    for a in every
                    if a is not None and isinstance(a.annotation, ast.Name) and a.annotation.id == "Any"
                ]
    assert len(bare) <= 80, bare
