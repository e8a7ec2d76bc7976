"""Opening: a source, and what is to be shown beside it, as a Replay. The window and the files begin here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landscape_hooks.errors import LandscapeError
from landscape_hooks.viewer.replay.landscape import Source, load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay
from landscape_hooks.viewer.several.arrangement import arranged
from landscape_hooks.viewer.several.gallery import opened
from landscape_hooks.viewer.several.panes import panes

MOST = 9
"""Panes of one picture."""


@dataclass(frozen=True)
class Beside:
    """What is shown with a surface: names of surfaces of the run, other runs, or RUN::SURFACE; at most one kind.

    Attributes
    ----------
    beside
        what has a pane of its own each.
    difference
        what the first surface is coloured by the difference to; "" for none.
    blend, share
        what the first surface is mixed with, and its share, 0 to 1.
    """

    beside: Sequence[str] = ()
    difference: str = ""
    blend: str = ""
    share: float = 0.5

    @property
    def kind(self) -> str:
        """The arrangement.

        Raises
        ------
        LandscapeError
            more than one is asked for, or too many panes.
        """
        given = [
            name
            for name, value in (
                ("side by side", self.beside), ("blend", self.blend), ("difference", self.difference)
            ) if value
        ]  # fmt: skip
        if len(given) > 1:
            raise LandscapeError(f"Found {' and '.join(given)} for one picture", expected="one of them")
        if len(self.beside) >= MOST:
            raise LandscapeError(f"Found {1 + len(self.beside)} surfaces", expected=f"at most {MOST} side by side")
        return given[0] if given else "alone"

    @property
    def texts(self) -> list[str]:
        """Everything that is named."""
        return [*self.beside, *filter(None, (self.difference, self.blend))]

    @property
    def arguments(self) -> list[str]:
        """The same for a command line."""
        found = [argument for text in self.beside for argument in ("--beside", text)]
        found += ["--difference", self.difference] if self.difference else []
        return found + (["--blend", self.blend, "--share", str(self.share)] if self.blend else [])


def open_replay(
    source: Source, look: Look, *, name: str | None, view: str, size: tuple[int, int], beside: Beside | None = None
) -> Replay:
    """The replay of a source in a picture of `size`, at its end.

    Raises
    ------
    RunError, SurfaceError, PlyError
        there is nothing to draw in one of the sources, or they cannot be shown so.
    """
    beside = beside or Beside()
    kind = beside.kind
    first = load(source, name=name, height=look.height if kind == "alone" else "auto")
    gallery, names = opened(source, first, beside.texts)
    others = [gallery[text] for text in names]
    shown = arranged(first, others, kind, look.height, share=beside.share)
    area = panes(len(shown), size)[0]
    replay = Replay.of(shown[0], look, view=view, aspect=area.width / area.height)
    replay.gallery, replay.first, replay.growing, replay.others = gallery, first, first, tuple(others)
    replay.arrangement, replay.share, replay.beside = kind, beside.share, shown[1:]
    return replay
