"""Replay: what is shown (landscape, look), from where (camera) and when (timeline). The state that the window, the
files and the tests share; no OpenGL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.stage import Stage
from landscape_hooks.surface.digits import place_text, text_of
from landscape_hooks.viewer.replay.camera import FAR, Camera
from landscape_hooks.viewer.replay.landscape import Landscape
from landscape_hooks.viewer.replay.look import Look
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


def start_camera(landscape: Landscape, aspect: float, look: Look) -> Camera:
    """The side from which most of the path and of the surface's upper side is seen, and the box fills the picture.

    Only views over a corner of the box: they show both axes, and leave the corners of the picture to the captions.
    """
    stage = Stage.of(landscape.mesh, 1.0, look.aspect)
    turns = [quarter + turn for quarter in (-180, -90, 0, 90) for turn in (22, 30, 38, 45, 52, 60, 68)]
    candidates = [fitted(Camera(azimuth=a, elevation=33.0), stage, aspect, look.captions) for a in turns]
    normals = landscape.mesh.normals(stage.scale) if landscape.paths else np.empty((0, 3))
    return max(candidates, key=lambda camera: _shows(landscape, stage, normals, camera, aspect))


def _shows(landscape: Landscape, stage: Stage, normals: Floats, camera: Camera, aspect: float) -> float:
    """How well a camera shows a landscape: length of the path in the picture, and area of the surface that faces it."""
    mesh = landscape.mesh
    some = mesh.faces[:: max(1, len(mesh.faces) // 4000)]
    corners = stage.place(mesh.vertices[some])
    seen = camera.project(corners.reshape(-1, 3), (aspect, 1.0))[:, :2].reshape(-1, 3, 2)
    one, two = seen[:, 1] - seen[:, 0], seen[:, 2] - seen[:, 0]
    area = (one[:, 1] * two[:, 0] - one[:, 0] * two[:, 1]) / 2  # positive where the upper side is seen
    area *= len(mesh.faces) / max(len(some), 1)
    score = float(np.nansum(np.maximum(area, 0)) - 0.5 * np.nansum(np.maximum(-area, 0))) / aspect
    if not landscape.paths:
        return score
    points = [stage.place(drape.points) for drape in landscape.drapes]
    length = 0.0
    for drape, place in zip(landscape.drapes, points, strict=True):
        if len(place) < 2:
            continue
        every = max(1, len(place) // 200)
        place = place[::every]
        spots = camera.project(place, (aspect, 1.0))[:, :2]
        nearest = _nearest(mesh, drape.points[::every][:-1])
        facing = np.maximum(normals[nearest] @ -camera.forward, 0.0)
        steps = np.linalg.norm(np.diff(spots, axis=0), axis=1)
        length += float(np.nansum(steps * np.minimum(facing * 2, 1)))
    return score + 0.35 * length / len(points)


def _nearest(mesh: Mesh, points: Floats) -> NDArray[np.intp]:
    """Numbers of the grid points next to (N, 3) points of the plane."""
    grid = mesh.grid
    assert grid is not None
    rows = np.abs(points[:, :1] - grid.alpha).argmin(axis=1)
    columns = np.abs(points[:, 1:2] - grid.beta).argmin(axis=1)
    return rows * len(grid.beta) + columns


MARGINS = (70.0, 50.0, 70.0, 96.0)
"""Pixels left, above, right and below of the box in a picture 720 high: ticks and names of the axes, and a bar."""

CORNERS = ((340.0, 90.0), (120.0, 290.0), (350.0, 240.0), (220.0, 200.0))
"""Width and height of what lies in the corners: title, colour bar, plot of the losses, read-out."""


def fitted(camera: Camera, stage: Stage, aspect: float, captions: bool) -> Camera:
    """The camera at the distance at which the whole box, floor and labels included, fills the picture.

    With captions the box lies on none of the words in the corners.
    """
    low, high = stage.corners
    low = np.array([low[0], low[1], stage.floor])
    corners = np.array([[(low, high)[k >> axis & 1][axis] for axis in range(3)] for k in range(8)])
    middle = corners.mean(axis=0)
    camera = camera.look_at(middle)
    across = np.abs((corners - middle) @ camera.right)
    upwards = np.abs((corners - middle) @ camera.up)
    nearer = (corners - middle) @ -camera.forward
    slope = np.tan(np.radians(camera.fov) / 2)
    nearer = nearer if not camera.orthographic else 0 * nearer

    def at(margin: float) -> float:
        return float(np.max(np.maximum(across / (slope * aspect), upwards / slope) / margin + nearer))

    if not captions:
        return replace(camera, distance=min(at(0.90), FAR))
    near, far = at(1.3), at(0.5)
    for _ in range(24):
        distance = (near + far) / 2
        tried = _centred(replace(camera, distance=distance), corners, aspect)
        near, far = (near, distance) if _is_clear(tried, corners, aspect) else (distance, far)
    return _centred(replace(camera, distance=min(far, FAR)), corners, aspect)


def _frame(aspect: float) -> tuple[float, float, float, float, float]:
    """What is inside of MARGINS, in heights of the picture: left, top, right, bottom; and a pixel of 720 a height."""
    unit = min(1 / 720, aspect / 1000)
    left, above, right, below = (unit * margin for margin in MARGINS)
    return left, above, aspect - right, 1 - below, unit


def _centred(camera: Camera, corners: Floats, aspect: float) -> Camera:
    """The camera that looks so that the corners lie in the middle of the frame."""
    left, top, right, bottom, _ = _frame(aspect)
    for _ in range(3):
        seen = camera.project(corners, (aspect, 1.0))[:, :2]
        if not np.isfinite(seen).all():
            return camera
        away = (seen.min(axis=0) + seen.max(axis=0)) / 2 - np.array([left + right, top + bottom]) / 2
        unit = 2 * camera.distance * np.tan(np.radians(camera.fov) / 2)
        camera = camera.look_at(np.asarray(camera.target) + unit * (away[0] * camera.right - away[1] * camera.up))
    return camera


def _is_clear(camera: Camera, corners: Floats, aspect: float) -> bool:
    """Whether the edges of the box lie in the frame, and on nothing in the corners of the picture."""
    left, top, right, bottom, unit = _frame(aspect)
    pairs = [(k, k | 1 << axis) for k in range(8) for axis in range(3) if not k >> axis & 1]
    shares = np.linspace(0, 1, 13)[:, None]
    points = np.concatenate([corners[a] + shares * (corners[b] - corners[a]) for a, b in pairs])
    x, y = camera.project(points, (aspect, 1.0))[:, :2].T
    if not (np.isfinite(x).all() and x.min() >= left and x.max() <= right and y.min() >= top and y.max() <= bottom):
        return False
    (a, b), (c, d), (e, f), (g, h) = ((unit * wide, unit * high) for wide, high in CORNERS)
    taken = (x < a) & (y < b) | (x > aspect - c) & (y < d) | (x < e) & (y > 1 - f) | (x > aspect - g) & (y > 1 - h)
    return not taken.any()


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
    return lines
