"""Backend: imports matplotlib, whatever the environment variable MPLBACKEND says.

In: MPLBACKEND, which a notebook's kernel sets for every command. Out: matplotlib, imported. The package opens no window
of matplotlib, so a backend that is missing in this environment is no error.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def load_matplotlib() -> None:
    """Import matplotlib. Its own import fails if it does not know the backend that MPLBACKEND names.

    A backend that it knows is set, as its own import does, for other figures of the caller.
    """
    if "matplotlib" in sys.modules:
        return
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[name]  # left by an import that failed; the next import would fail because of it
    wanted = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if wanted is not None:
            os.environ["MPLBACKEND"] = wanted
    if wanted:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = wanted
