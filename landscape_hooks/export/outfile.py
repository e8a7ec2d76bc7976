"""whole_file: a file that is written under another name and takes its own when it is whole.

In: where a picture, film or mesh is wanted. Out: that file, or whatever was there before; never half of one, however
the process ends.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The name to write to (of the same suffix, in the same folder); afterwards the file is moved to `path`.

    What a killed process leaves is hidden, and the next one that writes the same file takes its place.

    Raises
    ------
    IsADirectoryError
        there is a folder of that name, which stays as it is.
    OSError
        the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():  # some of them, such as ".", have no name to write beside
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename) == str(partial)):
            # the name that was asked for, in an error of its own: that of PyAV's cannot be changed
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):
            partial.unlink()
