"""Adapters import without their framework, and say on use what to install."""

import json
import subprocess
import sys

import pytest

ADAPTERS = [
    ("lightning", "lightning", "LandscapeCallback('runs/a.zarr')"),
    ("transformers", "transformers", "LandscapeCallback('runs/a.zarr')"),
    ("accelerate", "accelerate", "record(None, None, None, 'runs/a.zarr')"),
    ("ignite", "ignite", "LandscapeHandler(None, None, 'runs/a.zarr')"),
    ("fastai", "fastai", "LandscapeCallback('runs/a.zarr')"),
    ("skorch", "skorch", "LandscapeCallback('runs/a.zarr')"),
    ("keras", "keras", "LandscapeCallback('runs/a.zarr')"),
]
ABSENT = """
import json, sys
absent, uses = json.loads(sys.argv[1])
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from landscape_hooks.errors import LandscapeError
said = []
for lines in uses:
    space = {}
    exec(lines[0], space)
    try:
        exec(lines[1], space)
        said.append("nothing")
    except LandscapeError as error:
        said.append(str(error))
print(json.dumps(said))
"""
"""Takes the names of modules that are absent, and pairs of an import and a use; prints what each use says."""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each adapter, and the engine Ray, says where nothing of all that is installed."""
    uses = [(f"from landscape_hooks.integrations.{name} import *", use) for name, _, use in ADAPTERS]
    uses.append(("from landscape_hooks.evaluation import engines", "engines.start(engines.Ray(), None, None)"))
    given = json.dumps([[framework for _, framework, _ in ADAPTERS] + ["ray"], uses])
    done = subprocess.run(
        [sys.executable, "-c", ABSENT, given], capture_output=True, text=True, cwd=tmp_path_factory.mktemp("elsewhere")
    )
    assert done.returncode == 0, done.stderr
    return dict(zip([name for name, *_ in ADAPTERS] + ["ray"], json.loads(done.stdout), strict=True))


@pytest.mark.more
@pytest.mark.parametrize("adapter", [name for name, *_ in ADAPTERS])
def test_an_adapter_without_its_framework_says_what_to_install(adapter, said):
    assert f"pip install 'landscape-hooks[{adapter}]'" in said[adapter]


@pytest.mark.more
def test_an_engine_that_is_not_installed_says_what_to_install(said):
    assert 'pip install "landscape-hooks[ray]"' in said["ray"]


def test_a_checkout_is_not_imported_by_another_name():
    with pytest.raises(ImportError, match=r"landscape_hooks\.integrations"):
        exec("import runpy; runpy.run_path('integrations/__init__.py', run_name='integrations')")
