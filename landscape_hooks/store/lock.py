"""Lock: one recorder a run at a time.

In: where the run lies (or is going to lie). Out: a lock that the operating system holds on the folder itself until
it is released or the process has ended, however it ended. No file is left behind. Readers and analyses
take no part in it. Where there are no such locks (object stores, some network file systems, Windows) there is none.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path
from types import ModuleType

from landscape_hooks.errors import RunError
from landscape_hooks.store.run import RunLike, local_folder

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RunLock:
    """A lock on a run, or none (`held` says which). Forked children do not inherit it."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            _held.add(self)

    @classmethod
    def take(cls, store: RunLike) -> RunLock:
        """Lock the run at `store`, making its folder if there is none.

        Raises
        ------
        RunError
            a recorder is at work there.
        """
        folder = local_folder(store)
        if folder is None or fcntl is None or (folder.exists() and not folder.is_dir()):
            return cls()
        folder.mkdir(parents=True, exist_ok=True)
        return cls(_lock(folder))

    @property
    def held(self) -> bool:
        """Whether there is a lock, and it is not released."""
        return self._descriptor is not None

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Let others record. Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _lock(folder: Path) -> int | None:
    assert fcntl is not None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        assert descriptor is not None
        os.close(descriptor)
        raise RunError(
            f"{folder} is being recorded by another process, or by a recorder of this one that was not closed",
            expected="one recorder a run at a time",
            mend="Wait until it has ended or end it, or record into another run",
        ) from None
    except OSError:  # a file system without such locks
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _leave_to_parent() -> None:
    """In a forked child: its copies of the descriptors would keep the runs locked after the parent has ended."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
