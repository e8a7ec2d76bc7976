"""The errors of the package: each says what was found, what was expected, and what mends it.

The command line prints the text of a `LandscapeError` and exits with status 2. In Python, catch the subclass that
matters to you.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress

LONGEST = 2000
"""Number of characters of a text that are shown."""


def printable(text: object) -> str:
    """A text for a terminal, a file header or a figure: one line of limited length, control characters escaped.

    Bytes of a file's name that the locale could not decode are decoded as UTF-8.
    """
    shown = str(text)[:LONGEST]
    with suppress(UnicodeEncodeError):
        shown = shown.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown + "..." * (len(str(text)) > LONGEST)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, as another error quotes it."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:200]


class LandscapeError(Exception):
    """An error that the user can mend.

    Parameters
    ----------
    found
        What was found, as a sentence.
    expected
        What was expected instead (left out if *found* already says it).
    mend
        What the user does about it, as a sentence.
    """

    def __init__(self, found: str, *, expected: str = "", mend: str = "") -> None:
        self.found, self.expected, self.mend = found, expected, mend
        parts = [found.rstrip(".")]
        if expected:
            parts.append(f"Expected {expected.rstrip('.')}")
        if mend:
            parts.append(mend.rstrip("."))
        super().__init__(". ".join(parts) + ".")


class RunError(LandscapeError):
    """A store is not a run, has an unknown format, or has a trajectory that cannot be used for the purpose."""


class DivergedError(RunError):
    """A snapshot holds weights that are NaN or infinite."""


class DamagedRunError(RunError):
    """The content of a run does not match the format."""


class LayoutError(LandscapeError):
    """The parameters of a model, or of a second run, are not those that the run recorded."""


class CheckpointError(LandscapeError):
    """A file or folder is no checkpoint, cannot be read without running code, or does not fit the model."""


class ObjectiveError(LandscapeError):
    """The loss cannot be captured, loaded, or evaluated."""


class DataError(ObjectiveError):
    """The probe data are empty, or do not fit the model and the criterion."""


class PlaneError(LandscapeError):
    """Directions, extent or size do not define a plane or a grid."""


class SurfaceError(LandscapeError):
    """A surface does not exist, is unfinished, or cannot be drawn."""


class PlyError(LandscapeError):
    """A file is not a PLY file with a triangle mesh."""


class DisplayError(LandscapeError):
    """There is no display, or no OpenGL 3.3."""


class RecordingWarning(UserWarning):
    """Recording failed in a way that does not end the training; the message says what is lost and what mends it."""


def warn_of_recording(text: str) -> None:
    """Warn with `text`, as from the line outside of this package that is being executed."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(RecordingWarning(text), stacklevel=level)
