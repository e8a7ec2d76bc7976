"""Disk: what this process does to the files below a folder, counted, and a disk that breaks at a chosen moment.

In: a folder, what goes wrong, and at which operation. It sits below every way of writing that Python has (its audit
events: open to write, rename, remove, mkdir, ...), so that it needs to know nothing of how a run is written.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from types import TracebackType
from typing import Any

KINDS = {
    "full": "from here on no file is opened for writing and no folder made (ENOSPC); all else works",
    "fails": "this file is not opened, or not renamed (EIO); all else works",
    "torn": "the first file from here on that is longer is cut after 16 bytes, by the kernel's limit; all others work",
    "ended": "neither this operation nor any after it is done, as if the process had ended here",
    "killed": "the process is killed (SIGKILL) before this operation",
}
PLACES = {"open": 1, "os.rename": 2, "os.link": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1}
"""Audit events, and how many of their arguments are paths."""

SIZE = 16


class Disk:
    """A `with` block in which the disk below `folder` breaks at operation number `at`; kind "" only counts."""

    current: Disk | None = None
    installed = False

    def __init__(self, folder: Any, kind: str = "", at: int = 0) -> None:
        assert not kind or kind in KINDS
        self.folder, self.kind, self.at = str(folder).rstrip("/"), kind, at
        self.calls: list[tuple[str, str]] = []
        self.hit = False
        self._limited: tuple[int, int] | None = None
        self._answer: Any = None

    def __enter__(self) -> Disk:
        if self.kind == "torn":  # not every file that is opened is written beyond the limit: the kernel says which was
            self._answer = signal.signal(signal.SIGXFSZ, self._torn)
        if not Disk.installed:  # an audit hook stays for good
            sys.addaudithook(_audit)
            Disk.installed = True
        Disk.current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Disk.current = None
        self._unlimited()
        if self.kind == "torn":
            signal.signal(signal.SIGXFSZ, self._answer)

    def _torn(self, *_: Any) -> None:
        self.hit = True

    def meet(self, event: str, path: str) -> None:
        """One operation."""
        self._unlimited()
        self.calls.append((event, path))
        number = len(self.calls) - 1
        if self.kind == "ended" and number >= self.at:
            self.hit = True
            raise OSError(errno.EIO, "the process has ended", path)
        if self.kind == "full" and number >= self.at and event in ("open", "os.mkdir"):
            self.hit = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self.kind == "fails" and not self.hit and number >= self.at and event in ("open", "os.rename"):
            self.hit = True
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        if self.kind == "torn" and not self.hit and number >= self.at and event == "open":
            self._limited = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, self._limited[1]))
        if self.kind == "killed" and number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _unlimited(self) -> None:
        if self._limited is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limited)
            self._limited = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    disk = Disk.current
    if disk is None or event not in PLACES:
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    folder_fd = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    for path in arguments[: PLACES[event]]:
        if not isinstance(path, str | os.PathLike):
            continue
        path = os.fspath(path)
        if isinstance(folder_fd, int) and folder_fd >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder_fd}"), path)
        if os.path.abspath(path).startswith(disk.folder):
            disk.meet(event, path)
            return
