"""at_exit: recorders are held until they are closed, and closed when the script ends, whoever kept them or not.

In: recorders as they begin. Out: their `close()`, at the end of the script or when their optimizer is gone.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from typing import Any, Protocol

from landscape_hooks.errors import LandscapeError, RecordingWarning


class Closable(Protocol):
    """What is held here: a Recorder."""

    store: Any

    def close(self) -> None:
        """Commit everything."""


_live: set[Closable] = set()
_closing: list[threading.Thread] = []
_registered_in = 0


def hold(recorder: Closable) -> None:
    """Hold the recorder though nobody assigned it, and close it when the script ends.

    Zarr writes through asyncio.to_thread, whose executor refuses work once threading's own exit callbacks
    have run (long before `atexit`); a callback registered later than the executor's runs before it.
    """
    global _registered_in
    if not _registered_in:
        import concurrent.futures.thread  # noqa: F401  (registers its callback now, so that ours runs first)

        getattr(threading, "_register_atexit", atexit.register)(_close_all)
        _registered_in = os.getpid()
    _live.add(recorder)


def let_go(recorder: Closable) -> None:
    """The recorder is closed."""
    _live.discard(recorder)


def close_of(store: Any) -> None:
    """One writer a run: where a fit was interrupted and nobody closed its recorder, going on with the run does."""
    for recorder in list(_live):
        if _address(recorder.store) == _address(store):
            recorder.close()
    _wait()


def close_soon(recorder: Closable) -> None:
    """Close it in a thread of its own: for a finalizer, which may run in the midst of anything."""
    thread = threading.Thread(target=recorder.close, name="landscape-hooks close")
    _closing.append(thread)
    thread.start()


def _address(store: Any) -> Any:
    local = isinstance(store, str | os.PathLike) and "://" not in str(store)
    return os.path.realpath(store) if local else store


def _close_all() -> None:
    for recorder in list(_live):
        try:
            recorder.close()
        except LandscapeError as error:
            warnings.warn(RecordingWarning(str(error)))
    _wait()  # the optimizer was local to a function that returned as the script's last act


def _wait() -> None:
    """Until recorders whose optimizers are gone are closed."""
    for thread in list(_closing):
        if thread.is_alive() and os.getpid() == _registered_in:
            thread.join()
