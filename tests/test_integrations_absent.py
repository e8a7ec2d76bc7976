"""Adapters import without their framework, and say on use what to install."""

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
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from landscape_hooks.errors import LandscapeError
from landscape_hooks.integrations.%s import *
try:
    %s
except LandscapeError as error:
    print(error)
"""


@pytest.mark.parametrize(("adapter", "framework", "use"), ADAPTERS, ids=[name for name, *_ in ADAPTERS])
def test_an_adapter_without_its_framework_says_what_to_install(adapter, framework, use, tmp_path):
    code = ABSENT % (adapter, use)
    done = subprocess.run([sys.executable, "-c", code, framework], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"pip install 'landscape-hooks[{adapter}]'" in done.stdout


def test_an_engine_that_is_not_installed_says_what_to_install(tmp_path):
    code = (
        ABSENT.partition("from landscape_hooks.errors")[0]
        + """
from landscape_hooks.evaluation import engines
from landscape_hooks.errors import ObjectiveError
try:
    engines.start(engines.Ray(), None, None)
except ObjectiveError as error:
    print(error)
"""
    )
    done = subprocess.run([sys.executable, "-c", code, "ray"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'pip install "landscape-hooks[ray]"' in done.stdout


def test_a_checkout_is_not_imported_by_another_name():
    with pytest.raises(ImportError, match=r"landscape_hooks\.integrations"):
        exec("import runpy; runpy.run_path('integrations/__init__.py', run_name='integrations')")
