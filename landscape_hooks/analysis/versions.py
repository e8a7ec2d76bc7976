"""Versions: of everything that the values of a surface depend on."""

from __future__ import annotations

import platform

from landscape_hooks.version import __version__


def versions() -> dict[str, str]:
    """Name -> version, as a surface's attributes hold it."""
    import numpy
    import sklearn
    import torch
    import zarr

    return {
        "landscape_hooks": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scikit-learn": sklearn.__version__,
        "zarr": zarr.__version__,
    }
