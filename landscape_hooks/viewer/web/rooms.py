"""Rooms: the runs that a server shows, each with its page, its thumbnail and what is new in it.

In: the paths of runs, or of folders that hold some. Out: pages, PNG files, and the values that a page asks for while a
training is still running. A run is read only when somebody asks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from landscape_hooks.errors import LandscapeError, RunError, printable
from landscape_hooks.store.run import is_local, label_of, open_run
from landscape_hooks.surface.surface import Surface
from landscape_hooks.viewer.live import Follower
from landscape_hooks.viewer.replay.landscape import Landscape
from landscape_hooks.viewer.web.html import landscapes_of, page
from landscape_hooks.viewer.web.notebook import picture
from landscape_hooks.viewer.web.packing import Values, pack_marks, pack_path, pack_surface

ASK = 800
"""Milliseconds between two questions of a page that follows a training."""

REST = 0.3
"""Seconds in which a run is read once at most, however many pages ask."""

DEPTH = 3
"""How many folders deep runs are looked for."""


DRAWING = threading.Lock()
"""Held while a figure is drawn: matplotlib's settings are those of the whole process."""


@dataclass
class Room:
    """One run. Its methods may be called from several threads."""

    run: str
    follow: bool = False
    version: int = 0
    _of_surface: int = 0
    _follower: Follower | None = None
    _landscape: Landscape | None = None
    _read: float = 0.0
    _drawn: tuple[object, bytes] = (None, b"")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def label(self) -> str:
        """What the run is called."""
        return label_of(self.run)

    def page(self) -> str:
        """The page of the run as it is now.

        Raises
        ------
        RunError, SurfaceError
            there is nothing to draw in it.
        """
        landscapes, undrawn = landscapes_of(self.run, None, "auto")
        if self.follow:
            with self._lock:
                if self._follower is None:
                    self._follower = Follower(self.run, landscapes[0])
        return page(landscapes, undrawn, follow=ASK if self.follow else 0)

    def news(self, version: int) -> Values | None:
        """What a page that has seen `version` does not know yet; None is nothing."""
        with self._lock:
            error = self._look()
            if error:
                return {"version": version, "error": error}
            if version == self.version or self._landscape is None or self._landscape.surface is None:
                return None
            found: Values = {"version": self.version, "name": self._landscape.surface.name}
            if version < self._of_surface:
                return found | {"surface": pack_surface(self._landscape)}
            paths = [pack_path(path) for path in self._landscape.surface.paths]
            return found | {"paths": paths, "marks": pack_marks(self._landscape)}

    def _look(self) -> str:
        """Read the run, unless that was a moment ago; returns why it cannot be read."""
        if self._follower is None or time.monotonic() - self._read < REST:
            return ""
        try:
            found = self._follower.look()
        except (LandscapeError, OSError, KeyError, ValueError) as error:
            return str(error)
        finally:
            self._read = time.monotonic()
        if found is not None:
            self.version += 1
            if self._landscape is None or found.mesh.faces is not self._landscape.mesh.faces:
                self._of_surface = self.version
            self._landscape = found
        return ""

    def thumbnail(self) -> bytes:
        """The figure of the latest surface, as PNG; it is drawn anew when the surface has changed.

        Raises
        ------
        RunError, SurfaceError
            there is nothing to draw in it.
        """
        surface = Surface.open(self.run)
        key = (surface.name, surface.attrs.get("trajectory_digest"), int(surface.present.sum()))
        with DRAWING:
            if self._drawn[0] != key:
                self._drawn = (key, picture(surface))
            return self._drawn[1]

    def said(self) -> str:
        """What the list says below the name."""
        try:
            surface = Surface.open(self.run)
        except LandscapeError as error:
            return str(error)
        rows, columns = surface.shape
        path = f", {len(surface.paths[0])} snapshots" if surface.paths else ""
        return f"{surface.name}: {rows} × {columns} points{path}"


def rooms_of(places: Sequence[str], *, follow: bool = False) -> list[Room]:
    """A room for every run that is named, or is in a folder that is named.

    Raises
    ------
    RunError
        a place is neither a run nor a folder that holds one.
    """
    rooms: dict[str, Room] = {}
    for place in places:
        try:
            open_run(place)
            found = [place]
        except RunError:
            found = [str(path) for path in runs_in(Path(place), DEPTH)] if is_local(place) else []
            if not found:
                raise
        rooms |= {run: Room(run, follow) for run in found}
    return list(rooms.values())


def runs_in(folder: Path, depth: int) -> Iterator[Path]:
    """The runs in a folder and its sub-folders, by name."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if (path / "zarr.json").is_file():
            try:
                open_run(path)
            except LandscapeError:
                continue
            yield path
        elif depth > 1:
            yield from runs_in(path, depth - 1)


STYLE = """
* { box-sizing: border-box; }
:root { color-scheme: light dark; --quiet: #6b7588; }
body { margin: 0 auto; padding: 24px; max-width: 1180px; font: 15px/1.4 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 20px; font-weight: 500; }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: 18px;
     grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
a { color: inherit; text-decoration: none; display: block; border: 1px solid #8884; border-radius: 8px; padding: 12px;
    height: 100%; }
a:hover, a:focus-visible { border-color: #4a80db; outline: none; box-shadow: 0 0 0 2px #4a80db66; }
img { width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: #fff; border-radius: 4px; }
span { color: var(--quiet); font-size: 13px; display: block; overflow-wrap: anywhere; }
b { font-weight: 500; overflow-wrap: anywhere; }
"""


def index(rooms: Sequence[Room]) -> str:
    """The list of the runs, each with its thumbnail."""
    rows = []
    for number, room in enumerate(rooms):
        label, said, run = escape(room.label), escape(room.said()), escape(printable(room.run))
        rows.append(
            f'<li><a href="{number}/"><img src="{number}/thumbnail.png" alt="" loading="lazy"><b>{label}</b>'
            f"<span>{said}</span><span>{run}</span></a></li>"
        )
    return document("Runs", f"<h1>{len(rooms)} runs</h1><ul>{''.join(rows)}</ul>")


def sorry(label: str, error: Exception) -> str:
    """The page of a run that has no picture."""
    return document(label, f"<h1>{escape(label)}</h1><p>{escape(str(error))}</p>")


def document(title: str, body: str) -> str:
    """A page without a script; `body` is markup."""
    head = (
        f'<meta charset="utf-8"><title>{escape(title)} - landscape-hooks</title><link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
