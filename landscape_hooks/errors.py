"""What goes wrong, said in one sentence each: what was found, what was expected, what mends it.

The command line turns every `LandscapeError` into that sentence and exit status 2; a library caller
catches the leaf it cares about.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress

LONGEST = 2000
"""Characters of a text that are shown."""


def printable(text: object) -> str:
    """A text as a terminal, a header or a figure can take it: one line, control characters written out, not endless.

    Bytes of a file's name that the locale could not decode are taken for UTF-8.
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
    """Something the user can mend.

    Parameters
    ----------
    found
        What was found, as a sentence.
    expected
        What was expected in its place (left out where *found* already says it).
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
    """A store is not a run, is of an unknown format, or its trajectory cannot serve the purpose."""


class DivergedError(RunError):
    """A snapshot holds weights that are NaN or infinite."""


class DamagedRunError(RunError):
    """What a run holds is not what the format says."""


class LayoutError(LandscapeError):
    """A model (or a second run) does not have the parameters that the run recorded."""


class ObjectiveError(LandscapeError):
    """The loss cannot be captured, loaded, or evaluated."""


class DataError(ObjectiveError):
    """The probe data is empty, or is not what the model and the criterion take."""


class PlaneError(LandscapeError):
    """Directions, extent or size do not make a plane or a grid."""


class SurfaceError(LandscapeError):
    """A surface does not exist, is unfinished, or cannot be drawn."""


class PlyError(LandscapeError):
    """A file is not a PLY that holds a triangle surface."""


class DisplayError(LandscapeError):
    """There is no display, or no OpenGL 3.3, to open a window on."""


class RecordingWarning(UserWarning):
    """Recording met trouble that training survives; the message says what is lost and what mends it."""


def warn_of_recording(text: str) -> None:
    """Warn with `text`, as from the line outside of this package that is being executed."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(RecordingWarning(text), stacklevel=level - 1)
