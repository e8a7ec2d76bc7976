"""Replay: what is shown (landscape, look), from where (camera) and when (timeline). The state that the window, the
files and the tests share; no OpenGL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh.stage import Stage
from landscape_hooks.surface.digits import place_text, text_of
from landscape_hooks.surface.spots import said_of_critical
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.landscape import Landscape
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.start import fitted, start_camera
from landscape_hooks.viewer.replay.timeline import Timeline

Floats = NDArray[np.float64]


@dataclass
class Replay:
    """Everything that changes while somebody looks."""

    landscape: Landscape
    look: Look
    camera: Camera
    timeline: Timeline
    home: Camera
    turntable: bool = False
    follow: bool = False

    TURN = 12.0
    """Degrees a second of the turntable."""

    @classmethod
    def of(cls, landscape: Landscape, look: Look, *, view: str = "", aspect: float = 16 / 9) -> Replay:
        """The replay of a landscape at its end, seen from where its first path shows best (or from `view`)."""
        home = start_camera(landscape, aspect, look)
        camera = Camera.parse(view, home)
        if view and "d=" not in view and "at=" not in view:
            camera = fitted(camera, Stage.of(landscape.mesh, 1.0, look.aspect), aspect, look.captions)
        paths = landscape.paths
        if paths:
            timeline = Timeline.of(paths[0].step.astype(np.float64), paths[0].epoch, paths[0].coordinates)
        else:
            timeline = Timeline({"step": np.zeros(0)})
        timeline.position = timeline.last
        return cls(landscape, look, camera, timeline, home)

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
        self.landscape = landscape if landscape.height == self.look.height else landscape.with_height(self.look.height)
        path = self.landscape.paths[0]
        clocks = Timeline.of(path.step.astype(np.float64), path.epoch, path.coordinates).clocks
        self.timeline.clocks = clocks
        if self.timeline.clock not in clocks:
            self.timeline.clock = "step"
        self.timeline.position = self.timeline.last if at_end else min(self.timeline.position, self.timeline.last)

    def set_look(self, look: Look) -> None:
        """Change the look; another height makes another mesh."""
        if look.height != self.look.height:
            self.landscape = self.landscape.with_height(look.height)
        self.look = look

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
