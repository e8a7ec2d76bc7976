"""HTML: the replay as one file that opens in a browser, offline.

In: a run, Surfaces, or a PLY file. Out: one page with its data, style and script. It requests nothing, and its content
security policy allows its own script only. Names and captions go into it as data, and are shown as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path as FilePath

from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.export.outfile import whole_file
from landscape_hooks.store.run import open_run
from landscape_hooks.surface import surface as stored
from landscape_hooks.surface.surface import Surface
from landscape_hooks.version import __version__
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.landscape import Landscape, Source, load
from landscape_hooks.viewer.replay.look import THEMES, Look
from landscape_hooks.viewer.web.packing import pack
from landscape_hooks.viewer.web.script import digest, script

SHADERS = ("surface", "line", "ball", "flat")
SYSTEM = "system"


def write_html(
    source: Source | Sequence[Surface],
    path: str | FilePath,
    *,
    name: str | None = None,
    look: Look | None = None,
    theme: str = SYSTEM,
    view: str = "",
) -> FilePath:
    """Write the replay as one HTML file, which opens offline in a browser with WebGL 2.

    Parameters
    ----------
    source
        a run (path, URL or Zarr store), of which all surfaces are in the page; a PLY file; or Surfaces.
    path
        the file.
    name
        the surface of the run that is shown first; None is the latest.
    look
        the options of the picture. Its theme does not count here.
    theme
        "dark", "light", or "system": as the system of the reader has it.
    view
        the camera, as the window's key V prints it.

    Returns
    -------
    Path
        the file.

    Raises
    ------
    RunError, SurfaceError, PlyError
        there is nothing to draw in the source.
    LandscapeError
        the theme or the view is not known.
    """
    landscapes, undrawn = landscapes_of(source, name, (look or Look()).height)
    text = page(landscapes, undrawn, look=look, theme=theme, view=view)
    with whole_file(path) as file:
        file.write_text(text, "utf-8")
    return FilePath(path)


def landscapes_of(
    source: Source | Sequence[Surface], name: str | None, height: str
) -> tuple[list[Landscape], dict[str, str]]:
    """What a page shows, first what is shown first; and why other surfaces of the run have no picture."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        found = [load(surface, height=height) for surface in source]
        if not found:
            raise SurfaceError("Found no surface", expected="at least one")
        return found, {}
    if isinstance(source, Surface | Landscape) or FilePath(str(source)).is_file():
        return [load(source, height=height)], {}
    first = load(source, name=name, height=height)
    root = open_run(source)
    landscapes, undrawn = [first], {}
    for other in stored.names(root):
        if first.surface is not None and other != first.surface.name:
            try:
                landscapes.append(load(source, name=other))
            except LandscapeError as error:  # a line, or one that is only begun
                undrawn[other] = str(error)
    return landscapes, undrawn


def page(
    landscapes: list[Landscape],
    undrawn: dict[str, str],
    *,
    look: Look | None = None,
    theme: str = SYSTEM,
    view: str = "",
    follow: int = 0,
) -> str:
    """The text of the page."""
    if theme not in (SYSTEM, *THEMES):
        raise LandscapeError(f"Found the theme '{theme}'", expected=f"one of: {', '.join((SYSTEM, *THEMES))}")
    Camera.parse(view)
    data = pack(
        landscapes,
        undrawn,
        shaders(),
        look=look or Look(),
        theme="" if theme == SYSTEM else theme,
        view=view,
        follow=follow,
    )
    parts = {
        "version": __version__,
        "policy": policy(follow=bool(follow)),
        "style": style(),
        "script": script(),
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    text = _file("page.html")
    pieces = text.split("{{")
    return pieces[0] + "".join(parts[rest.partition("}}")[0]] + rest.partition("}}")[2] for rest in pieces[1:])


def policy(*, follow: bool = False) -> str:
    """The content security policy of the page: its own script and style, pictures that it makes, and nothing else."""
    allowed = {
        "default-src": "'none'",
        "script-src": digest(script()),
        "style-src": digest(style()),
        "img-src": "data: blob:",
        "connect-src": "'self'" if follow else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


@lru_cache(maxsize=1)
def style() -> str:
    """The style of the page."""
    return _file("page.css")


@lru_cache(maxsize=1)
def shaders() -> dict[str, str]:
    """The window's shaders, without a header."""
    folder = resources.files("landscape_hooks.viewer.gl") / "shaders"
    names = [f"{name}.{stage}" for name in SHADERS for stage in ("vert", "frag")]
    return {name: (folder / name).read_text("utf-8") for name in names}


def _file(name: str) -> str:
    return (resources.files("landscape_hooks.viewer.web") / name).read_text("utf-8")
