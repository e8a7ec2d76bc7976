"""Versions: of everything that the values of a surface depend on."""

from __future__ import annotations

import platform
from importlib import import_module

from landscape_hooks.version import __version__

MODULES = {"torch": "torch", "numpy": "numpy", "scikit-learn": "sklearn", "zarr": "zarr"}
"""Packages, and the modules that say their version."""


def versions(*packages: str) -> dict[str, str]:
    """Name -> version of landscape-hooks, Python and some packages (left out: all that a surface depends on)."""
    own = {"landscape_hooks": __version__, "python": platform.python_version()}
    return own | {name: import_module(MODULES[name]).__version__ for name in packages or MODULES}
