"""Controls: what every key and mouse gesture does, as tables that the window, the help and the documents read.

An action is a function of the Replay (and the size of the window); the window only looks it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from landscape_hooks.viewer.replay.replay import Replay
from landscape_hooks.viewer.replay.start import fitted
from landscape_hooks.viewer.replay.timeline import Timeline

Action = Callable[[Replay, tuple[int, int]], Any]


@dataclass(frozen=True)
class Key:
    """One row: the name of the key as pyglet has it, whether Shift is held, what it says and does."""

    key: str
    says: str
    does: Action
    shift: bool = False
    label: str = ""

    @property
    def shown(self) -> str:
        """How the help writes the key."""
        name = self.label or {"LEFT": "←", "RIGHT": "→", "UP": "↑", "DOWN": "↓"}.get(self.key, self.key.title())
        return f"Shift {name}" if self.shift else name


def _toggle(name: str) -> Action:
    def act(replay: Replay, size: tuple[int, int]) -> None:
        change: dict[str, Any] = {name: not getattr(replay.look, name)}
        replay.set_look(replace(replay.look, **change))

    return act


def _next(name: str, by: int = 1) -> Action:
    def act(replay: Replay, size: tuple[int, int]) -> None:
        replay.set_look(replay.look.next(name, by))

    return act


def _camera(change: Callable[[Any], Any]) -> Action:
    def act(replay: Replay, size: tuple[int, int]) -> None:
        replay.camera = change(replay.camera)

    return act


def _time(change: Callable[[Any], Any]) -> Action:
    def act(replay: Replay, size: tuple[int, int]) -> None:
        change(replay.timeline)

    return act


def reset(replay: Replay, size: tuple[int, int]) -> None:
    """The view at the start."""
    replay.camera = replay.home


def top(replay: Replay, size: tuple[int, int]) -> None:
    """A map that fills the window."""
    replay.camera = fitted(replay.home.top(), replay.stage, size[0] / size[1], replay.look.captions)


def isometric(replay: Replay, size: tuple[int, int]) -> None:
    """The isometric view, fitted."""
    replay.camera = fitted(replay.home.isometric(), replay.stage, size[0] / size[1], replay.look.captions)


def _exaggerate(factor: float) -> Action:
    def act(replay: Replay, size: tuple[int, int]) -> None:
        replay.set_look(replay.look.exaggerated(factor))

    return act


def _switch(name: str) -> Action:
    def act(replay: Replay, size: tuple[int, int]) -> None:
        setattr(replay, name, not getattr(replay, name))

    return act


def _loop(timeline: Timeline) -> None:
    timeline.loop = not timeline.loop


KEYS: tuple[Key, ...] = (
    Key("SPACE", "play or pause", _time(lambda t: t.toggle())),
    Key("LEFT", "one snapshot back", _time(lambda t: t.step(-1))),
    Key("RIGHT", "one snapshot on", _time(lambda t: t.step(1))),
    Key("LEFT", "ten snapshots back", _time(lambda t: t.step(-10)), shift=True),
    Key("RIGHT", "ten snapshots on", _time(lambda t: t.step(10)), shift=True),
    Key("HOME", "to the start", _time(lambda t: t.scrub(0.0))),
    Key("END", "to the end", _time(lambda t: t.scrub(1.0))),
    Key("COMMA", "slower", _time(lambda t: t.faster(-1)), label=","),
    Key("PERIOD", "faster", _time(lambda t: t.faster(1)), label="."),
    Key("L", "loop on or off", _time(_loop)),
    Key("K", "clock: step, epoch, arc length", _time(lambda t: t.next_clock())),
    Key("UP", "tilt up", _camera(lambda c: c.orbit(0, 5))),
    Key("DOWN", "tilt down", _camera(lambda c: c.orbit(0, -5))),
    Key("A", "turn left", _camera(lambda c: c.orbit(-5, 0))),
    Key("D", "turn right", _camera(lambda c: c.orbit(5, 0))),
    Key("PLUS", "closer", _camera(lambda c: c.zoom(1.15)), label="+"),
    Key("EQUAL", "closer", _camera(lambda c: c.zoom(1.15)), label="="),
    Key("MINUS", "farther", _camera(lambda c: c.zoom(1 / 1.15)), label="-"),
    Key("U", "turntable on or off", _switch("turntable")),
    Key("F", "follow the marker", _switch("follow")),
    Key("R", "reset the view", reset),
    Key("T", "map from above", top),
    Key("I", "isometric", isometric),
    Key("P", "perspective", _camera(lambda c: c.perspective())),
    Key("Q", "next surface of the run", lambda replay, size: replay.next_surface()),
    Key("Q", "previous surface", lambda replay, size: replay.next_surface(-1), shift=True),
    Key("W", "two surfaces: side by side, blend, difference", lambda replay, size: replay.next_arrangement()),
    Key("E", "compare with the next surface", lambda replay, size: replay.next_other()),
    Key("C", "next colour map", _next("colormap")),
    Key("C", "previous colour map", _next("colormap", -1), shift=True),
    Key("O", "contours: shader, marching squares, off", _next("contours")),
    Key("B", "dark or light", _next("theme")),
    Key("Z", "height: auto, log, linear, clipped", _next("height")),
    Key("BRACKETRIGHT", "higher relief", _exaggerate(1.25), label="]"),
    Key("BRACKETLEFT", "lower relief", _exaggerate(0.8), label="["),
    Key("G", "floor and axes on or off", _toggle("floor")),
    Key("Y", "true loss on or off", _toggle("true_loss")),
    Key("X", "x-ray on or off", _toggle("xray")),
    Key("J", "captions on or off", _toggle("captions")),
    Key("N", "minima and saddles on or off", _toggle("critical")),
)

OTHERS: tuple[tuple[str, str], ...] = (
    ("M", "options: everything that can be changed"),
    ("H", "this help"),
    ("V", "print the view, as `render --view` takes it"),
    ("S", "save a picture in the working folder"),
    ("Esc", "close"),
)
"""Keys that concern the window itself."""

MOUSE: tuple[tuple[str, str], ...] = (
    ("left drag", "orbit"),
    ("Shift, middle or right drag", "pan"),
    ("wheel", "zoom to the cursor"),
    ("rest on the surface", "coordinates, loss, the nearest step, and a mark, minimum or saddle that is near"),
    ("double click", "put that point into the middle"),
    ("drag in the plot of the losses", "scrub"),
)


def find(symbol: str, shift: bool) -> Key | None:
    """The row of a key; with Shift, the plain row where there is none of its own."""
    rows = [row for row in KEYS if row.key == symbol]
    return next((row for row in rows if row.shift == shift), next((row for row in rows if not row.shift), None))


def table_markdown() -> str:
    """Keys and mouse as a table in Markdown (what docs/viewer.md shows)."""
    rows = [(f"`{row.shown}`", row.says) for row in KEYS if row.key != "EQUAL"] + [
        (f"`{k}`", says) for k, says in OTHERS
    ]
    rows += [(gesture, says) for gesture, says in MOUSE]
    return "\n".join(["| key or mouse | what it does |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]) + "\n"
