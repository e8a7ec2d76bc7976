"""An OpenGL 3.3 context: of a window where there is a display, or of EGL where there is none.

pyglet decides once a process whether it opens windows or renders headless, before `pyglet.window` is imported;
`prepare` makes that decision and says so clearly when it came too late.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape_hooks.errors import DisplayError

if TYPE_CHECKING:
    from pyglet import gl
    from pyglet.window import Window

_state: dict[str, Any] = {}


def prepare(*, headless: bool) -> None:
    """Decide how pyglet reaches OpenGL; the first decision of the process holds."""
    import pyglet

    if "headless" not in _state:
        _load_triton()
        if "pyglet.window" in sys.modules:
            headless = bool(pyglet.options.headless)
        _state["headless"] = headless
        pyglet.options.headless = headless
        pyglet.options.debug_gl = False
        pyglet.options.shadow_window = False
        pyglet.options.audio = ("silent",)


def _load_triton() -> None:
    """Load triton's library, if it is installed, before a driver of Mesa's is.

    Mesa's drivers show the symbols of their LLVM to all libraries that are loaded later. triton's, which torch loads
    with the first optimizer, holds an LLVM of its own, would take up theirs, and crash the process. No Python of
    triton's or torch's is run here; and where a driver is there already, loading it would be the crash itself.
    """
    if not sys.platform.startswith("linux") or _is_driver_loaded():
        return
    with contextlib.suppress(OSError, ValueError):  # it cannot be loaded, so it will not crash either
        found = find_spec("triton")
        for folder in (found and found.submodule_search_locations) or ():
            ctypes.CDLL(str(Path(folder, "_C", "libtriton.so")))


def _is_driver_loaded() -> bool:
    """Whether this process has loaded an OpenGL driver, or its LLVM, without us: another program's pyglet, say."""
    try:
        loaded = Path("/proc/self/maps").read_text("utf-8", errors="replace")
    except OSError:
        return True  # unknown: after earlier drawing it could crash now, otherwise it might crash later only
    return any(part in loaded for part in ("libLLVM", "libgallium", "_dri.so"))


def is_headless() -> bool | None:
    """Whether this process renders headless; None while that is open."""
    return _state.get("headless")


def offscreen() -> Window:
    """A current OpenGL context without a visible window: EGL on Linux, a hidden window elsewhere.

    Raises
    ------
    DisplayError
        there is no OpenGL 3.3 by either way.
    """
    prepare(headless=sys.platform.startswith("linux"))
    if "offscreen" not in _state:
        try:
            import pyglet.gl  # noqa: F401  (opens the library)
            from pyglet.window import Window

            Window._enable_event_queue = True  # else a second headless window of a process fails
            _state["offscreen"] = Window(width=16, height=16, visible=False, config=_config(), vsync=False)
        except Exception as error:
            raise DisplayError(
                f"OpenGL 3.3 is not available without a display ({type(error).__name__}: {error})",
                expected="EGL with a driver, such as Mesa's llvmpipe",
                mend="Install it (Debian, Ubuntu: apt install libegl1 libgl1-mesa-dri), or export a figure: "
                "landscape-hooks export RUN --png F.png",
            ) from error
    _state["offscreen"].switch_to()
    return _state["offscreen"]


def window(**options: Any) -> Window:
    """An OpenGL window on the display.

    Raises
    ------
    DisplayError
        there is no display, or no OpenGL 3.3 on it.
    """
    prepare(headless=False)
    if is_headless():
        raise DisplayError(
            "This process has rendered without a display, and cannot open a window any more",
            mend="Open the window from a process of its own: landscape-hooks view RUN",
        )
    try:
        import pyglet.gl  # noqa: F401
        from pyglet.window import Window
    except Exception as error:
        raise no_display(error) from error
    from pyglet.gl import ContextException
    from pyglet.window import NoSuchConfigException

    try:
        return Window(config=_config(), **options)
    except (NoSuchConfigException, ContextException) as error:
        raise DisplayError(
            f"The display has no OpenGL 3.3 ({type(error).__name__}: {error})",
            mend="Update the graphics driver, or render without the display: landscape-hooks render RUN -o F.gif",
        ) from error
    except Exception as error:
        raise no_display(error) from error


def no_display(error: Exception) -> DisplayError:
    """The sentence for a machine without a screen."""
    return DisplayError(
        f"There is no display to open a window on ({type(error).__name__}: {error})",
        mend="Show it in a browser: landscape-hooks serve RUN, or render it: landscape-hooks render RUN -o F.gif",
    )


def _config() -> gl.Config:
    """OpenGL 3.3 core. Smoothing happens in framebuffers of our own, so the window itself needs no multisampling."""
    from pyglet import gl

    make: Any = gl.Config
    return make(major_version=3, minor_version=3, forward_compatible=True, depth_size=24, double_buffer=True)
