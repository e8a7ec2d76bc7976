"""Backend: matplotlib, whatever windows or notebooks its surroundings ask for.

In: MPLBACKEND, which a notebook's kernel hands on to every command. Out: matplotlib, imported. Nothing here is drawn
into a window, so a backend that does not exist in this environment is no reason to stop.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def load_matplotlib() -> None:
    """Import matplotlib, which otherwise refuses if it does not know the backend that MPLBACKEND names.

    A backend that it does know is set, as its own import does, for whatever the caller draws besides.
    """
    if "matplotlib" in sys.modules:
        return
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[name]  # what an import leaves that was refused; the next one would stumble over it
    wanted = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if wanted is not None:
            os.environ["MPLBACKEND"] = wanted
    if wanted:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = wanted
