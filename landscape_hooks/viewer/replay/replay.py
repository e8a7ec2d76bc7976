"""Replay: what is shown (landscape, look), from where (camera) and when (timeline). The state that the window, the
files and the tests share; no OpenGL.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.mesh.stage import Stage
from landscape_hooks.surface.digits import place_text, text_of
from landscape_hooks.surface.spots import said_of_critical
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.landscape import Landscape
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.start import fitted, start_camera
from landscape_hooks.viewer.replay.timeline import Timeline
from landscape_hooks.viewer.several.arrangement import KINDS, arranged
from landscape_hooks.viewer.several.gallery import Gallery, name_of

Floats = NDArray[np.float64]


@dataclass
class Replay:
    """Everything that changes while somebody looks.

    `landscape` is what the first pane shows and `beside` what the others show, as `arrangement` makes them of the
    surface `first` and the `others`; `share` is that of the second surface in a blend. `growing` is the one to which a
    running training adds.
    """

    landscape: Landscape
    look: Look
    camera: Camera
    timeline: Timeline
    home: Camera
    turntable: bool = False
    follow: bool = False
    gallery: Gallery | None = None
    first: Landscape = field(default=None)  # type: ignore[assignment]
    others: tuple[Landscape, ...] = ()
    arrangement: str = "alone"
    share: float = 0.5
    beside: tuple[Landscape, ...] = ()
    growing: Landscape = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.first = self.landscape if self.first is None else self.first
        self.growing = self.first if self.growing is None else self.growing

    TURN = 12.0
    """Degrees a second of the turntable."""

    @classmethod
    def of(cls, landscape: Landscape, look: Look, *, view: str = "", aspect: float = 16 / 9) -> Replay:
        """The replay of a landscape at its end, seen from where its first path shows best (or from `view`)."""
        home = start_camera(landscape, aspect, look)
        camera = Camera.parse(view, home)
        if view and "d=" not in view and "at=" not in view:
            camera = fitted(camera, Stage.of(landscape.mesh, 1.0, look.aspect), aspect, look.captions)
        return cls(landscape, look, camera, timeline_of(landscape), home)

    @property
    def stage(self) -> Stage:
        """The stage of the landscape under the look's exaggeration."""
        return Stage.of(self.landscape.mesh, self.look.exaggeration, self.look.aspect)

    @property
    def resolution(self) -> float:
        """A difference between losses that the read-outs are to show."""
        return self.landscape.mesh.height.resolution

    def grow(self, landscape: Landscape) -> None:
        """Take a landscape with more snapshots; a replay that stood at its end goes on to the new end."""
        at_end = self.timeline.position >= self.timeline.last
        old, self.growing = self.growing, landscape
        if self.gallery is not None:
            self.gallery.take(landscape)
        first = landscape if self.first is old else self.first
        others = [landscape if other is old else other for other in self.others]
        try:
            self.arrange(first=first, others=others)
        except SurfaceError:  # its grid has become another one
            self.arrange("alone", first=first, others=others)
        self._retime()
        self.timeline.position = self.timeline.last if at_end else min(self.timeline.position, self.timeline.last)

    def _retime(self) -> None:
        """Take the clocks of the landscape that is shown."""
        self.timeline.clocks = timeline_of(self.landscape).clocks
        if self.timeline.clock not in self.timeline.clocks:
            self.timeline.clock = "step"

    def set_look(self, look: Look) -> None:
        """Change the look; another height makes another mesh."""
        if look.height != self.look.height:
            self.arrange(height=look.height)
        self.look = look

    # -- several surfaces --------------------------------------------------------------------------------
    def arrange(
        self,
        kind: str | None = None,
        *,
        first: Landscape | None = None,
        others: Sequence[Landscape] | None = None,
        share: float | None = None,
        height: str | None = None,
    ) -> None:
        """Show other surfaces, or the same ones in another way; what is left out stays as it is.

        Raises
        ------
        LandscapeError
            they cannot be shown so; then nothing has changed.
        """
        kind = self.arrangement if kind is None else kind
        first = self.first if first is None else first
        others = self.others if others is None else tuple(others)
        share = self.share if share is None else share
        shown = arranged(first, others, kind, self.look.height if height is None else height, share=share)
        self.first, self.others, self.arrangement, self.share = first, others, kind, share
        self.landscape, self.beside = shown[0], shown[1:]

    def choose(self, name: str) -> None:
        """Show the surface of that name as the first one, from the same side, at the same moment.

        Raises
        ------
        LandscapeError
            it cannot be drawn; then nothing has changed.
        """
        if self.gallery is None:
            return
        found = self.gallery[name]
        fraction = self.timeline.fraction if self.timeline.position < self.timeline.last else 1.0
        others = [self.first if other is found else other for other in self.others]  # both change places
        self.arrange(first=found, others=others)
        self._retime()
        self.timeline.scrub(fraction)

    def compare(self, name: str, kind: str | None = None) -> None:
        """Show the surface of that name as the second one.

        Raises
        ------
        LandscapeError
            it cannot be shown so; then nothing has changed.
        """
        if self.gallery is not None:
            kind = ("side by side" if self.arrangement == "alone" else self.arrangement) if kind is None else kind
            self.arrange(kind, others=[self.gallery[name]])

    def next_surface(self, by: int = 1) -> None:
        """Show the next surface that can be shown.

        Raises
        ------
        LandscapeError
            there is no other.
        """
        names = self.gallery.names if self.gallery is not None else []
        place = names.index(self.name) if self.name in names else 0
        for step in range(1, len(names)):
            with suppress(LandscapeError):
                self.choose(names[(place + by * step) % len(names)])
                return
        raise _lonely(self)

    def next_other(self) -> None:
        """Compare with the next surface that can be shown so.

        Raises
        ------
        LandscapeError
            there is no other.
        """
        names = self.gallery.others(self.name) if self.gallery is not None else []
        place = names.index(self.other) if self.other in names else -1
        for step in range(1, len(names) + 1):
            with suppress(LandscapeError):
                self.compare(names[(place + step) % len(names)])
                return
        raise _lonely(self)

    def next_arrangement(self) -> None:
        """Show the second surface in the next way in which it can be shown; without one, the next surface.

        Raises
        ------
        LandscapeError
            there is no other.
        """
        if not self.others:
            self.next_other()
            return
        place = KINDS.index(self.arrangement)
        for step in range(1, len(KINDS)):
            with suppress(LandscapeError):
                self.arrange(KINDS[(place + step) % len(KINDS)])
                return

    @property
    def name(self) -> str:
        """What the first surface is called in the gallery."""
        return self.gallery.called(self.first) if self.gallery is not None else name_of(self.first)

    @property
    def other(self) -> str:
        """What the second surface is called in the gallery; "" where there is none."""
        return self.gallery.called(self.others[0]) if self.gallery is not None and self.others else ""

    @property
    def panes(self) -> list[Replay]:
        """The replays of the panes: the same look, camera and share of the replay, each with its landscape."""
        found = [self]
        for landscape in self.beside:
            timeline = timeline_of(landscape)
            if self.timeline.clock in timeline.clocks:
                timeline.clock = self.timeline.clock
            timeline.position = self.timeline.position / max(self.timeline.last, 1.0) * timeline.last
            found.append(replace(self, landscape=landscape, timeline=timeline, beside=()))
        return found

    def advance(self, seconds: float) -> bool:
        """Let time pass; returns whether the picture changes."""
        changed = self.timeline.advance(seconds)
        if self.turntable:
            self.camera = self.camera.orbit(self.TURN * seconds, 0)
            changed = True
        if self.follow and self.landscape.paths:
            point = self.stage.place(self.landscape.drapes[0].at(self.timeline.position))
            if np.isfinite(point).all():
                share = 1 - np.exp(-4 * seconds)
                target = (1 - share) * np.asarray(self.camera.target) + share * point
                changed |= bool(np.linalg.norm(target - self.camera.target) > 1e-4)
                self.camera = self.camera.look_at(target)
        return changed

    @property
    def moving(self) -> bool:
        """Whether the picture changes by itself."""
        return self.timeline.playing or self.turntable

    def timeline_shares(self, shares: Floats) -> Floats:
        """Places on the clock, 0 … 1, of shares of the snapshots."""
        reading = self.timeline.clocks[self.timeline.clock]
        if len(reading) < 2 or reading[-1] <= reading[0]:
            return shares
        now = np.interp(np.asarray(shares) * (len(reading) - 1), np.arange(len(reading)), reading)
        return (now - reading[0]) / (reading[-1] - reading[0])

    def own_index(self, number: int) -> int:
        """Number of the snapshot of run `number` that is shown."""
        paths = self.landscape.paths
        last = max(len(paths[0]) - 1, 1)
        return int(np.floor(self.timeline.position / last * max(len(paths[number]) - 1, 0) + 1e-9))


def timeline_of(landscape: Landscape) -> Timeline:
    """The timeline of a landscape's first path, at its end."""
    if not landscape.paths:
        return Timeline({"step": np.zeros(0)})
    path = landscape.paths[0]
    timeline = Timeline.of(path.step.astype(np.float64), path.epoch, path.coordinates)
    timeline.position = timeline.last
    return timeline


def _lonely(replay: Replay) -> SurfaceError:
    known = len(replay.gallery.names) if replay.gallery is not None else 1
    found = "no other surface can be drawn" if known > 1 else "there is no other surface"
    return SurfaceError(
        f"Beside '{replay.name}' {found}",
        mend="Compute one: landscape-hooks analyze RUN --name NAME, or name another run: --beside RUN",
    )


NEAR = 0.05
"""How near to a mark, in the scene, the read-out of a place says what the mark is; the plane is 2 long."""


def describe_moment(replay: Replay, number: int = 0) -> dict[str, Any]:
    """The read-out of run `number`: what was measured at the snapshot shown."""
    path = replay.landscape.paths[number]
    index = replay.own_index(number)
    return {
        "step": int(path.step[index]),
        "epoch": float(path.epoch[index]),
        "learning rate": float(path.learning_rate[index]),
        "true loss": float(path.loss[index]),
        "plane loss": float(path.plane_loss[index]),
        "off-plane": float(path.distance[index]),
    }


def describe_place(replay: Replay, point: Floats) -> list[str]:
    """What is at a point of the scene: coordinates and loss, where that comes from, the nearest snapshot."""
    mesh = replay.landscape.mesh
    alpha, beta, height = replay.stage.data(point)
    if mesh.grid is None:
        lines = [f"x {alpha:.4g}   y {beta:.4g}   z {height:.4g}"]
    else:
        found = mesh.height_at(np.array([[alpha, beta]]))[0]
        known = np.isfinite(found)
        loss = text_of(float(mesh.height.inverse(found)), replay.resolution) if known else "not known"
        places = [place_text(float(at), side / 500) for at, side in zip((alpha, beta), replay.stage.sides, strict=True)]
        lines = [f"alpha {places[0]}   beta {places[1]}", f"loss {loss}"]
        if replay.landscape.surface is not None:
            lines.append(replay.landscape.surface.said_at(alpha, beta))
            if (compared := replay.landscape.difference) is not None:
                lines.append(compared.said_at(alpha, beta, replay.landscape.surface))
        if replay.landscape.paths:
            path = replay.landscape.paths[0]
            away = np.linalg.norm(path.coordinates - [alpha, beta], axis=1)
            nearest = int(np.nanargmin(away))
            lines.append(f"nearest step {path.step[nearest]}, {away[nearest]:.3g} away")
        landscape = replay.landscape
        beside = np.linalg.norm(replay.stage.place(landscape.spot_points) - point, axis=1) < NEAR
        for number in np.flatnonzero(beside):
            lines += landscape.said_of(landscape.spots[number])
        if replay.look.critical:
            beside = np.linalg.norm(replay.stage.place(landscape.critical_places) - point, axis=1) < NEAR
            lines += [said_of_critical(landscape.critical[number]) for number in np.flatnonzero(beside)]
    return lines
