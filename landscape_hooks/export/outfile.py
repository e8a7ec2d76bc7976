"""whole_file: writes a file under a temporary name and renames it when it is complete.

In: the path of a picture, an animation or a mesh. Out: the complete file, or what was there before, however the process
ends.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The temporary name to write to, in the same folder and with the same suffix; moved to `path` afterwards.

    A killed process leaves a hidden file, which the next writer of the same file replaces.

    Raises
    ------
    IsADirectoryError
        there is a folder of that name; it is not changed.
    OSError
        the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():  # some folders, such as ".", have no name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename) == str(partial)):
            # a new error with the name that was asked for: the name in PyAV's error cannot be changed
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):
            partial.unlink()
