"""Labels: where the index contour lines carry their loss, so that each is seen and none lies on another. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.mesh.contours import Contour
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.stage import Stage
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.taken import Taken

Floats = NDArray[np.float64]

CANDIDATES = 24
"""Places that are tried on each line."""

APART = 70.0
"""Pixels between two labels, or a label and the path, at a height of 720."""


def place_labels(
    mesh: Mesh,
    lines: list[Contour],
    avoid: Floats,
    stage: Stage,
    camera: Camera,
    size: tuple[int, int],
    free: Taken,
    half: Callable[[str], tuple[float, float]],
) -> list[tuple[float, float, str]]:
    """Pixel x, y (from the top left) and text of every index line that has a free place in the picture.

    `avoid` (N, 2) are pixels that labels keep away from: the path. A label is `half` as wide and as high on each side
    of its place, and lies where that is `free`.
    """
    placed: list[tuple[float, float, str]] = []
    words = mesh.height.labels.texts(line.loss if line.index else np.nan for line in lines)
    apart = APART * size[1] / 720
    taken = avoid[np.isfinite(avoid).all(axis=1)]
    for contour, word in zip(lines, words, strict=True):
        if not contour.index or not contour.lines:
            continue
        line = max(contour.lines, key=len)
        if len(line) < 6:
            continue
        some = line[np.linspace(0.12 * len(line), 0.88 * len(line), min(CANDIDATES, len(line))).astype(int)]
        spots = stage.place(some)
        pixels = camera.project(spots, size)[:, :2]
        seen = visible(mesh, stage, camera, spots)
        margin = 0.06 * min(size)
        seen &= ((pixels > margin) & (pixels < np.array(size) - margin)).all(axis=1)
        seen &= free.are_free(np.nan_to_num(pixels, nan=-1e9), half(word))
        if not seen.any():
            continue
        away = np.full(len(pixels), np.inf)
        for other in (taken, np.array([p[:2] for p in placed]).reshape(-1, 2)):
            if len(other):
                away = np.minimum(away, np.linalg.norm(pixels[:, None] - other[None], axis=2).min(axis=1))
        middle = np.linalg.norm(pixels - np.array(size) / 2, axis=1)
        score = np.where(seen & (away > apart * 0.6), np.minimum(away, 3 * apart) - 0.25 * middle, -np.inf)
        best = int(np.argmax(score))
        if np.isfinite(score[best]):
            placed.append((float(pixels[best, 0]), float(pixels[best, 1]), word))
    return placed


def visible(mesh: Mesh, stage: Stage, camera: Camera, spots: Floats, samples: int = 48) -> NDArray[np.bool_]:
    """(N,) whether nothing of the surface is between scene points on it and the eye; it is seen from above, too."""
    towards = camera.eye - spots if not camera.orthographic else np.broadcast_to(-camera.forward * 4, spots.shape)
    _, high = stage.corners
    rise = np.where(np.abs(towards[:, 2]) > 1e-9, (high[2] - spots[:, 2]) / towards[:, 2], np.inf)
    reach = np.clip(np.where(rise > 0, rise, 1.0), 0.0, 1.0)
    shares = np.linspace(0.02, 1, samples)[None, :, None]
    between = spots[:, None] + shares * (reach[:, None, None] * towards[:, None])
    ground = mesh.height_at(stage.data(between.reshape(-1, 3))[:, :2])
    height = stage.data(between.reshape(-1, 3))[:, 2]
    hidden = np.where(np.isfinite(ground), ground > height + 0.004 * np.ptp(mesh.height.bounds), False)
    return np.asarray(~hidden.reshape(len(spots), samples).any(axis=1))


WAYS = ((1.0, -1.0), (-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (0.0, -1.6), (0.0, 1.6))
"""Directions from a point in which its name may lie, the best first."""


def place_names(
    names: list[str],
    points: Floats,
    avoid: Floats,
    free: Taken,
    half: Callable[[str], tuple[float, float]],
    gap: float,
) -> list[tuple[float, float, str]]:
    """Pixel x, y of the middle and text of every name that has a free place beside its point (N, 2) of the picture.

    Of the free places the one with the fewest of the pixels `avoid` (N, 2) in it: the path. A name keeps `gap` pixels
    from its point, is `half` as wide and as high on each side of its middle, and takes that place of `free`.
    """
    placed = []
    for name, (x, y) in zip(names, points, strict=True):
        wide, high = half(name)
        best, least = None, np.inf
        for right, down in WAYS:
            middle = x + right * (gap + wide), y + down * (0.5 * gap + high)
            box = (middle[0] - wide, middle[1] - high, middle[0] + wide, middle[1] + high)
            if not np.isfinite(box).all() or not free.is_free(box):
                continue
            crossed = int(((avoid >= box[:2]) & (avoid <= box[2:])).all(axis=1).sum())
            if crossed < least:
                best, least = (middle, box), crossed
        if best is not None:
            free.take(best[1])
            placed.append((float(best[0][0]), float(best[0][1]), name))
    return placed
