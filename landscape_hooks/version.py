"""The version, in one place, and those of the packages that the values of a surface depend on."""

from __future__ import annotations

import platform
from importlib import import_module, metadata

__version__ = "0.1.0"

PACKAGES = ("torch", "numpy", "scikit-learn", "zarr")


def versions(*packages: str) -> dict[str, str]:
    """Name -> version of landscape-hooks, Python and some packages (left out: all that a surface depends on)."""
    own = {"landscape_hooks": __version__, "python": platform.python_version()}
    return own | {name: _version(name) for name in packages or PACKAGES}


def _version(package: str) -> str:
    """As the module says it, which names torch's build too. scikit-learn takes seconds to import: from its metadata."""
    return metadata.version(package) if package == "scikit-learn" else str(import_module(package).__version__)
