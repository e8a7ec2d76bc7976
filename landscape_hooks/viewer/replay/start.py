"""Start: from where a landscape is first seen, and at which distance it fills the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.stage import Stage
from landscape_hooks.viewer.replay.camera import FAR, Camera
from landscape_hooks.viewer.replay.landscape import Landscape
from landscape_hooks.viewer.replay.look import Look

Floats = NDArray[np.float64]


def start_camera(landscape: Landscape, aspect: float, look: Look) -> Camera:
    """The side from which most of the path and of the surface's upper side is seen, and the box fills the picture.

    Only views over a corner of the box: they show both axes, and leave the corners of the picture to the captions.
    """
    stage = Stage.of(landscape.mesh, 1.0, look.aspect)
    turns = [quarter + turn for quarter in (-180, -90, 0, 90) for turn in (22, 30, 38, 45, 52, 60, 68)]
    candidates = fitted_all([Camera(azimuth=a, elevation=33.0) for a in turns], stage, aspect, look.captions)
    normals = landscape.mesh.normals(stage.scale) if landscape.paths else np.empty((0, 3))
    return max(candidates, key=lambda camera: _shows(landscape, stage, normals, camera, aspect))


def _shows(landscape: Landscape, stage: Stage, normals: Floats, camera: Camera, aspect: float) -> float:
    """How well a camera shows a landscape: length of the path in the picture, and area of the surface that faces it."""
    mesh = landscape.mesh
    some = mesh.faces[:: max(1, len(mesh.faces) // 1000)]
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
    return fitted_all([camera], stage, aspect, captions)[0]


def fitted_all(cameras: Sequence[Camera], stage: Stage, aspect: float, captions: bool) -> list[Camera]:
    """The cameras as `fitted` has them; they share field of view and projection."""
    low, high = stage.corners
    low = np.array([low[0], low[1], stage.floor])
    corners = np.array([[(low, high)[k >> axis & 1][axis] for axis in range(3)] for k in range(8)])
    middle = corners.mean(axis=0)
    axes = np.array([[camera.right, camera.up, -camera.forward] for camera in cameras])
    box = Box(np.einsum("nij,kj->nki", axes, corners - middle), aspect, cameras[0])
    distance = box.distance(captions)
    offset = box.centred(distance) if captions else np.zeros((len(cameras), 2))
    return [
        replace(camera.look_at(middle + offset[k] @ axes[k, :2]), distance=float(distance[k]))
        for k, camera in enumerate(cameras)
    ]


EDGES = np.array([(k, k | 1 << axis) for k in range(8) for axis in range(3) if not k >> axis & 1])
"""Pairs of corners of a box."""


class Box:
    """The eight corners of the stage before N cameras: `corners` (N, 8, 3) to the right, upwards and towards each.

    All cameras are computed at once: a first view tries many of them.
    """

    def __init__(self, corners: Floats, aspect: float, camera: Camera) -> None:
        self._corners, self._aspect = corners, aspect
        self._slope, self._flat = np.tan(np.radians(camera.fov) / 2), camera.orthographic
        self._unit = min(1 / 720, aspect / 1000)
        left, above, right, below = (self._unit * margin for margin in MARGINS)
        self._low, self._high = np.array([left, above]), np.array([aspect - right, 1 - below])
        one, other = corners[:, EDGES[:, :1]], corners[:, EDGES[:, 1:]]
        self._edges = (one + np.linspace(0, 1, 13)[:, None] * (other - one)).reshape(len(corners), -1, 3)

    def distance(self, captions: bool) -> Floats:
        """(N,) the least distance at which the box is seen whole; with captions, and is clear of them."""
        if not captions:
            return np.minimum(self._at(0.90), FAR)
        near, far = self._at(1.3), self._at(0.5)
        for _ in range(24):
            tried = (near + far) / 2
            clear = self._is_clear(tried, self.centred(tried))
            near, far = np.where(clear, near, tried), np.where(clear, tried, far)
        return np.minimum(far, FAR)

    def _at(self, margin: float) -> Floats:
        across, upwards = np.abs(self._corners[..., 0]), np.abs(self._corners[..., 1])
        nearer = 0.0 if self._flat else self._corners[..., 2]
        wanted = np.maximum(across / (self._slope * self._aspect), upwards / self._slope) / margin + nearer
        return np.asarray(wanted.max(axis=1))

    def _seen(self, points: Floats, distance: Floats, offset: Floats) -> Floats:
        """(N, P, 2) where points are seen, in heights of the picture from its top left; NaN behind the eye."""
        away = distance[:, None] - (0.0 if self._flat else points[..., 2])
        with np.errstate(divide="ignore", invalid="ignore"):
            place = (points[..., :2] - offset[:, None]) / (2 * self._slope * np.where(away > 1e-9, away, np.nan))[
                ..., None
            ]
        return place * (1, -1) + (self._aspect / 2, 0.5)

    def centred(self, distance: Floats) -> Floats:
        """(N, 2) by how much the cameras move to the right and upwards for the corners to lie amid the frame."""
        offset = np.zeros((len(distance), 2))
        for _ in range(3):
            seen = self._seen(self._corners, distance, offset)
            away = (seen.min(axis=1) + seen.max(axis=1) - self._low - self._high) / 2
            offset += np.nan_to_num(2 * self._slope * distance[:, None] * away * (1, -1))
        return offset

    def _is_clear(self, distance: Floats, offset: Floats) -> NDArray[np.bool_]:
        """(N,) whether the edges of the box lie in the frame, and on nothing in the corners of the picture."""
        seen = self._seen(self._edges, distance, offset)
        inside = ((seen >= self._low) & (seen <= self._high)).all(axis=(1, 2))  # NaN is not
        x, y = seen[..., 0], seen[..., 1]
        (a, b), (c, d), (e, f), (g, h) = ((self._unit * wide, self._unit * high) for wide, high in CORNERS)
        right, bottom = self._aspect, 1.0
        taken = (x < a) & (y < b) | (x > right - c) & (y < d) | (x < e) & (y > bottom - f)
        taken |= (x > right - g) & (y > bottom - h)
        return np.asarray(inside & ~taken.any(axis=1))
