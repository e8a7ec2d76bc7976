"""Guard: a training survives its recorder.

In: what the recorder is about to do. Out: the same, done; or recording stopped, with one warning (or an exception,
where that was asked for), and training going on. In a forked process nothing is recorded, and while a CUDA graph is
captured: reading a number of a GPU would end the capture with an error, and copies would become part of the graph.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import ParamSpec

from landscape_hooks.device.copies import capturing
from landscape_hooks.errors import RunError, warn_of_recording

P = ParamSpec("P")


class Guard:
    """Runs what the recorder does in the training's thread.

    Attributes
    ----------
    active
        whether recording goes on, in this process.
    why
        the sentence that says why it does not; empty where nothing was in the way.
    """

    def __init__(self, active: bool, on_error: str, step: Callable[[], int]) -> None:
        self.active, self.why = active, ""
        self._on_error, self._step = on_error, step
        _guards.add(self)

    def run(self, action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do it; where it raises, recording stops. While the training is captured in a graph nothing is done."""
        if capturing():
            return
        try:
            action(*args, **kwargs)
        except Exception as error:
            self.stop(error)

    def stop(self, error: BaseException) -> None:
        """Stop recording, and say so once.

        Raises
        ------
        RunError
            with `on_error="raise"`.
        """
        if not self.active:
            return
        self.active = False
        trouble = f"Recording stopped at step {self._step()}, training goes on: {type(error).__name__}: {error}"
        self.why = trouble
        if self._on_error == "raise":
            raise RunError(trouble, mend="What was committed before is intact") from error
        warn_of_recording(f"{trouble} What was committed before is intact.")


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _forked() -> None:
    """The process that was forked records nothing; asking at every step which process this is takes half a µs."""
    for guard in list(_guards):
        guard.active = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
