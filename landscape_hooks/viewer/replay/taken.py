"""Taken: the parts of a picture that hold words or panels, so that no label lies on another. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle, in pixels from the top left."""


class Taken:
    """Rectangles that are taken; `within` (width, height) is what a label must lie in."""

    def __init__(self, within: tuple[float, float], boxes: Iterable[Box] = ()) -> None:
        self.within = within
        self.boxes = list(boxes)

    def take(self, box: Box) -> None:
        """Add a rectangle."""
        self.boxes.append(box)

    def is_free(self, box: Box) -> bool:
        """Whether a rectangle lies in the picture and on none that is taken."""
        left, top, right, bottom = box
        inside = left >= 0 and top >= 0 and right <= self.within[0] and bottom <= self.within[1]
        return inside and not any(left < c and right > a and top < d and bottom > b for a, b, c, d in self.boxes)

    def are_free(self, centres: ArrayLike, half: tuple[float, float]) -> NDArray[np.bool_]:
        """(N,) `is_free` of rectangles around (N, 2) centres, of half the width and half the height `half`."""
        spots = np.asarray(centres, dtype=np.float64).reshape(-1, 2)
        return np.array(
            [self.is_free((x - half[0], y - half[1], x + half[0], y + half[1])) for x, y in spots], dtype=bool
        )
