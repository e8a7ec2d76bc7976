"""Gallery: the surfaces that can be shown beside another one, by name; each is opened when it is first asked for.

In: a run, and what a user names beside it: a surface of the run, another run, or RUN::SURFACE. Out: Landscapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.store.run import label_of, open_run
from landscape_hooks.surface import surface as stored
from landscape_hooks.surface.surface import Surface
from landscape_hooks.viewer.replay.landscape import Landscape, Source, load

OF = "::"
"""Between a run and the name of one of its surfaces."""


class Gallery:
    """`names` are those of the surfaces of `source`, then those that were added; the one shown first is among them."""

    def __init__(self, source: Source, first: Landscape) -> None:
        self._source = source
        self._known = {name_of(first): first}
        self._stored = names_in(source)
        self.names = list(dict.fromkeys([*self._stored, *self._known]))

    def __getitem__(self, name: str) -> Landscape:
        """The landscape of a name.

        Raises
        ------
        LandscapeError
            it cannot be drawn, or there is none of that name.
        """
        if name not in self._known:
            self._known[name] = load(self._source, name=name)
        return self._known[name]

    def take(self, landscape: Landscape) -> None:
        """Replace what is known under a landscape's name by what a running training has added to it."""
        self._known[name_of(landscape)] = landscape
        self.names = list(dict.fromkeys([*self.names, name_of(landscape)]))

    def add(self, text: str) -> str:
        """Take what a user names: a surface of the run, a run, a PLY file, or RUN::SURFACE; returns its name here.

        Raises
        ------
        LandscapeError
            it is none of these, or it cannot be drawn.
        """
        if text in self.names:
            self[text]
            return text
        run, _, surface = text.rpartition(OF)
        place = run or text
        if not run and "://" not in text and not Path(text).exists():
            raise SurfaceError(
                f"Found '{text}', which is neither a surface of the run nor another run",
                expected=f"one of: {', '.join(self.names)}, a run, or RUN{OF}SURFACE",
            )
        found = load(place, name=surface if run else None)
        name = name_of(found)
        if name in self.names:
            name = f"{label_of(place)} · {name}" if found.surface is not None else found.title
        self._known[name] = found
        self.names = list(dict.fromkeys([*self.names, name]))
        return name

    def called(self, landscape: Landscape) -> str:
        """The name of a landscape here."""
        return next((name for name, known in self._known.items() if known is landscape), name_of(landscape))

    def others(self, name: str) -> list[str]:
        """All names but one."""
        return [other for other in self.names if other != name]


def names_in(source: Source) -> list[str]:
    """Names of the surfaces of a run; none of what is no run."""
    if isinstance(source, Surface | Landscape) or Path(str(source)).is_file():
        return []
    try:
        return stored.names(open_run(source))
    except LandscapeError:
        return []


def name_of(landscape: Landscape) -> str:
    """What a landscape is called in a list."""
    return (landscape.surface.name if landscape.surface is not None else "") or landscape.title


def opened(source: Source, first: Landscape, texts: Iterable[str]) -> tuple[Gallery, list[str]]:
    """The gallery of a source, and the names in it of what a user names beside it."""
    gallery = Gallery(source, first)
    return gallery, [gallery.add(text) for text in texts]
