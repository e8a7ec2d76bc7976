"""Replay: what is shown (landscape, look), from where (camera) and when (timeline). The state that the window, the
files and the tests share; no OpenGL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from landscape_hooks.viewer.camera import Camera
from landscape_hooks.viewer.look import Look
from landscape_hooks.viewer.source import Landscape
from landscape_hooks.viewer.stage import Stage
from landscape_hooks.viewer.timeline import Timeline


@dataclass
class Replay:
    """Everything that changes while somebody looks."""

    landscape: Landscape
    look: Look
    camera: Camera
    timeline: Timeline
    home: Camera

    @classmethod
    def of(cls, landscape: Landscape, look: Look, *, view: str = "", aspect: float = 16 / 9) -> Replay:
        """The replay of a landscape at its end, seen from where its first path shows best (or from `view`)."""
        home = start_camera(landscape, aspect, look.captions)
        camera = Camera.parse(view, home)
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
        return Stage.of(self.landscape.mesh, self.look.exaggeration)

    def set_look(self, look: Look) -> None:
        """Change the look; another height makes another mesh."""
        if look.height != self.look.height:
            self.landscape = self.landscape.with_height(look.height)
        self.look = look

    def timeline_share(self, share: float) -> float:
        """Place on the clock, 0 … 1, of a share of the snapshots."""
        reading = self.timeline.clocks[self.timeline.clock]
        if len(reading) < 2 or reading[-1] <= reading[0]:
            return share
        now = float(np.interp(share * (len(reading) - 1), np.arange(len(reading)), reading))
        return float((now - reading[0]) / (reading[-1] - reading[0]))

    def own_index(self, number: int) -> int:
        """Number of the snapshot of run `number` that is shown."""
        paths = self.landscape.paths
        last = max(len(paths[0]) - 1, 1)
        return int(np.floor(self.timeline.position / last * max(len(paths[number]) - 1, 0) + 1e-9))


def start_camera(landscape: Landscape, aspect: float, captions: bool) -> Camera:
    """Look along the path, from beyond its end a little to the side, so that neither hill nor marker hides it."""
    stage = Stage.of(landscape.mesh)
    azimuth = 35.0
    if landscape.paths and len(landscape.paths[0]) > 1:
        points = landscape.drapes[0].points
        points = points[np.isfinite(points[:, 2])]
        if len(points) > 1:
            way = (stage.place(points[0]) - stage.place(points[-1]))[:2]
            if np.linalg.norm(way) > 1e-6:
                # the eye looks towards the start of the path, turned aside by a third of a right angle
                azimuth = float(np.degrees(np.arctan2(-way[0], way[1]))) - 28.0
    camera = Camera(azimuth=(azimuth + 180) % 360 - 180, elevation=33.0)
    return fitted(camera, stage, aspect, captions)


def fitted(camera: Camera, stage: Stage, aspect: float, captions: bool) -> Camera:
    """The camera at the distance at which the whole box, floor and labels included, is in the picture."""
    low, high = stage.corners
    low = np.array([low[0], low[1], stage.floor])
    corners = np.array([[(low, high)[k >> axis & 1][axis] for axis in range(3)] for k in range(8)])
    middle = corners.mean(axis=0)
    camera = camera.look_at(middle)
    across = np.abs((corners - middle) @ camera.right)
    upwards = np.abs((corners - middle) @ camera.up)
    nearer = (corners - middle) @ -camera.forward
    slope = np.tan(np.radians(camera.fov) / 2)
    margin = 0.80 if captions else 0.90
    distance = np.max(np.maximum(across / (slope * aspect), upwards / slope) / margin + nearer)
    return replace(camera, distance=float(distance))


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
