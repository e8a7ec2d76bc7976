"""whole_file: a file that is written under another name and takes its own when it is whole.

In: where a picture, film or mesh is wanted. Out: that file, or whatever was there before; never half of one, however
the process ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The name to write to (of the same suffix, in the same folder); afterwards the file is moved to `path`.

    What a killed process leaves is hidden, and the next one that writes the same file takes its place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(partial):
            error.filename = str(path)  # the name that was asked for
        raise
    finally:
        with suppress(OSError):
            partial.unlink()
