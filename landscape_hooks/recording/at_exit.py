"""at_exit: keeps a reference to every recorder, and closes each when the script ends, whether assigned or not.

In: recorders as they begin. Out: their end, when the script ends, or when their model and its optimizers are gone.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from landscape_hooks.errors import LandscapeError, RecordingWarning
from landscape_hooks.store.run import RunLike


class Waiting(Protocol):
    """What may wait for the end of a training: a StoredLoss."""

    @property
    def forgotten(self) -> bool:
        """Whether it does, and nobody else holds the model any more: that end has come."""


class Closable(Protocol):
    """What is held here: a Recorder."""

    @property
    def store(self) -> RunLike:
        """The run, as `record` was given it."""

    @property
    def stored_loss(self) -> Waiting:
        """Its loss."""

    def finish(self, unchecked: str = "") -> None:
        """Commit everything; `unchecked` is why it is not compared with the training."""


_live: set[Closable] = set()
_closing: list[threading.Thread] = []
_registered_in = 0
_error_before: Any = None
"""What a session (a notebook) raised before anything was recorded."""


def hold(recorder: Closable) -> None:
    """Keep a reference to the recorder, which need not be assigned, and close it when the script ends.

    Zarr writes through asyncio.to_thread, whose executor refuses work once threading's own exit callbacks
    have run (long before `atexit`); a callback registered later than the executor's runs before it.
    """
    global _registered_in, _error_before
    _error_before = getattr(sys, "last_value", None)
    if not _registered_in:
        import concurrent.futures.thread  # noqa: F401  (registers its callback now, so that ours runs first)

        getattr(threading, "_register_atexit", atexit.register)(_close_all)
        _registered_in = os.getpid()
    _live.add(recorder)


def let_go(recorder: Closable) -> None:
    """The recorder is closed."""
    _live.discard(recorder)


def close_of(store: RunLike) -> None:
    """Close an open recorder of this run, such as that of an interrupted fit: a run has one writer at a time."""
    for recorder in list(_live):
        if _address(recorder.store) == _address(store):
            recorder.finish("Another recording of the same run began before this one was closed")
    _wait()


def close_forgotten() -> None:
    """Close recorders that keep a model alive which nobody else holds: of several trainings in one script, those that
    are over. It is done where the next one begins, for it may run code of the user's."""
    _close([recorder for recorder in list(_live) if recorder.stored_loss.forgotten], "")


def close_after(recorder: Closable, things: Iterable[Any]) -> None:
    """Close the recorder when all of these are collected: the model and its optimizers, so nothing steps any more."""
    known = weakref.ref(recorder)
    left = {id(thing) for thing in things}
    process = os.getpid()

    def gone(which: int) -> None:
        left.discard(which)
        recorder = known()
        if not left and recorder in _live and os.getpid() == process:
            _close_soon(recorder)

    for thing in things:
        weakref.finalize(thing, gone, id(thing)).atexit = False


def _close_soon(recorder: Closable) -> None:
    """Close it in a thread of its own: a finalizer may run in the midst of anything."""
    why = "The model was gone when the recording ended, so the stored loss was not compared"
    thread = threading.Thread(target=recorder.finish, args=(why,), name="landscape-hooks close")
    _closing.append(thread)
    thread.start()


def _address(store: RunLike) -> object:
    if isinstance(store, str | os.PathLike) and "://" not in str(store):
        return os.path.realpath(store)
    return store


def _close_all() -> None:
    error = getattr(sys, "last_value", None)
    why = (
        ""
        if error is None or error is _error_before
        else f"The script ended with an exception ({type(error).__name__})"
    )
    _close(list(_live), why)
    _wait()  # the optimizer was local to a function that returned as the script's last act


def _close(recorders: Iterable[Closable], why: str) -> None:
    for recorder in recorders:
        try:
            recorder.finish(why)
        except LandscapeError as error:
            warnings.warn(RecordingWarning(str(error)))


def _wait() -> None:
    """Until recorders whose optimizers are gone are closed."""
    for thread in list(_closing):
        if thread.is_alive() and os.getpid() == _registered_in:
            thread.join()
