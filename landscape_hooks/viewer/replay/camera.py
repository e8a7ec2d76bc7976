"""Camera: an orbit around a target, as pure arithmetic. No OpenGL, no clock, no window.

The scene is a box around the origin, x along alpha, y along beta, z up; its longer side is 2. Matrices are 4 x 4
numpy arrays that act on column vectors, with OpenGL's clip space (x, y, z in -w … w).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landscape_hooks.errors import LandscapeError

Floats = NDArray[np.float64]

NEAR, FAR = 0.02, 60.0
ELEVATION = (-20.0, 90.0)
DISTANCE = (0.3, 20.0)
"""How far the mouse leads; a narrow picture of the whole may be seen from farther away."""
FOV = (5.0, 100.0)
TARGET = (-4.0, 4.0)


@dataclass(frozen=True)
class Camera:
    """Where the eye is: angles in degrees, distance and target in scene units.

    `azimuth` 0 looks along +y (alpha to the right), growing counter-clockwise seen from above; `elevation` 90 looks
    straight down. `text` and `parse` are each other's inverse: what `render --view` takes.
    """

    azimuth: float = 0.0
    elevation: float = 30.0
    distance: float = 4.0
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fov: float = 32.0
    orthographic: bool = False

    # -- matrices --------------------------------------------------------------------------------------
    @cached_property
    def forward(self) -> Floats:
        """(3,) unit vector from the eye to the target."""
        a, e = np.radians(self.azimuth), np.radians(self.elevation)
        return np.array([np.sin(a) * -np.cos(e), np.cos(a) * np.cos(e), -np.sin(e)])

    @cached_property
    def right(self) -> Floats:
        """(3,) unit vector to the right in the picture; horizontal, so it exists looking straight down, too."""
        a = np.radians(self.azimuth)
        return np.array([np.cos(a), np.sin(a), 0.0])

    @cached_property
    def up(self) -> Floats:
        """(3,) unit vector upwards in the picture."""
        return np.cross(self.right, self.forward)

    @cached_property
    def eye(self) -> Floats:
        """(3,) position of the eye."""
        return np.asarray(self.target) - self.distance * self.forward

    @cached_property
    def view(self) -> Floats:
        """(4, 4) from the scene to the eye."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([self.right, self.up, -self.forward])
        matrix[:3, 3] = -matrix[:3, :3] @ self.eye
        return matrix

    def projection(self, aspect: float) -> Floats:
        """(4, 4) from the eye to clip space, for a picture `aspect` times as wide as it is high."""
        top = np.tan(np.radians(self.fov) / 2)
        matrix = np.zeros((4, 4))
        if self.orthographic:
            half = top * self.distance
            matrix[0, 0], matrix[1, 1] = 1 / (half * aspect), 1 / half
            matrix[2, 2], matrix[2, 3] = -2 / (2 * FAR), 0.0
            matrix[3, 3] = 1.0
            return matrix
        matrix[0, 0], matrix[1, 1] = 1 / (top * aspect), 1 / top
        matrix[2, 2], matrix[2, 3] = -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
        matrix[3, 2] = -1.0
        return matrix

    def matrix(self, aspect: float) -> Floats:
        """(4, 4) from the scene to clip space."""
        return self.projection(aspect) @ self.view

    def project(self, points: ArrayLike, size: tuple[float, float]) -> Floats:
        """(N, 3) pixel x, pixel y (from the top left) and depth in -1 … 1; NaN for points behind the eye."""
        points = np.atleast_2d(np.asarray(points, dtype=np.float64))
        clip = np.column_stack([points, np.ones(len(points))]) @ self.matrix(size[0] / size[1]).T
        with np.errstate(divide="ignore", invalid="ignore"):
            ndc = np.where(clip[:, 3:] > 1e-9, clip[:, :3] / clip[:, 3:], np.nan)
        return np.column_stack([(ndc[:, 0] + 1) / 2 * size[0], (1 - ndc[:, 1]) / 2 * size[1], ndc[:, 2]])

    def unproject(self, x: float, y: float, depth: float, size: tuple[float, float]) -> Floats:
        """(3,) the scene point at a pixel (from the top left) and depth in -1 … 1: the inverse of `project`."""
        ndc = np.array([2 * x / size[0] - 1, 1 - 2 * y / size[1], depth, 1.0])
        point = np.linalg.solve(self.matrix(size[0] / size[1]), ndc)
        return point[:3] / point[3]

    # -- moves -----------------------------------------------------------------------------------------
    def orbit(self, azimuth: float, elevation: float) -> Camera:
        """Turn by degrees; the elevation stays between a look from slightly below and straight down."""
        return replace(
            self,
            azimuth=(self.azimuth + azimuth + 180) % 360 - 180,
            elevation=float(np.clip(self.elevation + elevation, *ELEVATION)),
        )

    def pan(self, dx: float, dy: float, height: float) -> Camera:
        """Move the scene by pixels of a picture `height` pixels high, in the plane of the picture."""
        unit = 2 * self.distance * np.tan(np.radians(self.fov) / 2) / height
        return self.look_at(np.asarray(self.target) - unit * (dx * self.right - dy * self.up))

    def zoom(self, factor: float, towards: Floats | None = None) -> Camera:
        """Come closer by `factor` (> 1); the scene point `towards` keeps its place in the picture."""
        distance = float(np.clip(self.distance / factor, *DISTANCE))
        camera = replace(self, distance=distance)
        if towards is None:
            return camera
        share = 1 - distance / self.distance
        offset = np.asarray(towards) - np.asarray(self.target)
        across = offset - (offset @ self.forward) * self.forward
        return camera.look_at(np.asarray(self.target) + share * across)

    def look_at(self, target: ArrayLike) -> Camera:
        """Put `target` (3,) into the middle of the picture; it stays near the scene."""
        x, y, z = (float(v) for v in np.clip(np.asarray(target, dtype=np.float64), *TARGET))
        return replace(self, target=(x, y, z))

    def top(self) -> Camera:
        """Straight down without perspective: a map, alpha to the right and beta upwards."""
        return replace(self, azimuth=0.0, elevation=90.0, orthographic=True)

    def isometric(self) -> Camera:
        """The classical isometric view."""
        return replace(self, azimuth=45.0, elevation=float(np.degrees(np.arctan(np.sqrt(0.5)))), orthographic=True)

    def perspective(self) -> Camera:
        """The same view with perspective; from a map's height it comes down to where relief shows."""
        return replace(self, orthographic=False, elevation=min(self.elevation, 80.0))

    # -- text ------------------------------------------------------------------------------------------
    @property
    def text(self) -> str:
        """The view as a string, for a caption or `render --view`."""
        x, y, z = self.target
        kind = (f",fov={self.fov:.6g}" if self.fov != Camera.fov else "") + (",ortho" if self.orthographic else "")
        return f"az={self.azimuth:.6g},el={self.elevation:.6g},d={self.distance:.6g},at={x:.6g}:{y:.6g}:{z:.6g}{kind}"

    @classmethod
    def parse(cls, text: str, base: Camera | None = None) -> Camera:
        """Read a view string; what it leaves out is as in `base`. `top` and `iso` are names for whole views.

        Raises
        ------
        LandscapeError
            a part is not understood, or its number is out of the range that the window's camera keeps to.
        """
        camera = base or cls()
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            key, _, value = part.partition("=")
            try:
                camera = camera._with(key, value)
            except (KeyError, ValueError) as error:
                raise LandscapeError(
                    f"Found '{part}' in the view '{text}'",
                    expected=f"az=DEGREES, el=DEGREES ({ELEVATION[0]:g} to {ELEVATION[1]:g}), d=DISTANCE "
                    f"({DISTANCE[0]:g} to {FAR:g}), at=X:Y:Z (each {TARGET[0]:g} to {TARGET[1]:g}), "
                    f"fov=DEGREES ({FOV[0]:g} to {FOV[1]:g}), ortho, top or iso, separated by commas",
                    mend="Press V in the window: it prints the view as such a string",
                ) from error
        return camera

    def _with(self, key: str, value: str) -> Camera:
        if key in ("top", "iso", "ortho") and not value:
            return {"top": self.top, "iso": self.isometric, "ortho": lambda: replace(self, orthographic=True)}[key]()
        if key == "at":
            x, y, z = (_number(v, TARGET) for v in value.split(":"))
            return replace(self, target=(x, y, z))
        if key == "az":
            number = _number(value)  # 180 stays what it is, so that a text gives itself back
            return replace(self, azimuth=number if -180 <= number <= 180 else (number + 180) % 360 - 180)
        if key == "el":
            return replace(self, elevation=_number(value, ELEVATION))
        if key == "d":
            return replace(self, distance=_number(value, (DISTANCE[0], FAR)))
        if key == "fov":
            return replace(self, fov=_number(value, FOV))
        raise KeyError(key)


def _number(text: str, within: tuple[float, float] = (-1e6, 1e6)) -> float:
    number = float(text)
    if not within[0] <= number <= within[1]:  # which a NaN is not, either
        raise ValueError(text)
    return number
