"""Panes: where several pictures lie in one. Arithmetic only.

In: how many, and the size of the whole. Out: rectangles of one size, in rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHAPE = 1.2
"""Width over height of a pane that is best for a surface."""


@dataclass(frozen=True)
class Pane:
    """Left, top, width and height in pixels, from the top left."""

    x: int
    y: int
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in it."""
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height

    def times(self, scale: float) -> Pane:
        """The same in pixels of another size; neighbours still meet."""
        left, top = round(self.x * scale), round(self.y * scale)
        right, bottom = round((self.x + self.width) * scale), round((self.y + self.height) * scale)
        return Pane(left, top, right - left, bottom - top)


def columns_of(count: int, size: tuple[float, float]) -> int:
    """In how many columns so many panes come nearest to their best shape; no cell stays empty but in the last row."""
    tried = range(1, count + 1)

    def badness(columns: int) -> float:
        rows = -(-count // columns)
        return abs(math.log(size[0] / columns / (size[1] / rows) / SHAPE)) + 0.2 * (rows * columns - count)

    return min(tried, key=badness)


def panes(count: int, size: tuple[int, int]) -> list[Pane]:
    """The rectangles of so many panes, row by row; together they fill the whole, but for cells that stay empty."""
    columns = columns_of(count, size)
    rows = -(-count // columns)
    width, height = max(size[0] // columns, 1), max(size[1] // rows, 1)
    return [Pane(k % columns * width, k // columns * height, width, height) for k in range(count)]


def under(found: list[Pane], x: float, y: float) -> int:
    """Number of the pane under a point; the first one where there is none."""
    return next((k for k, pane in enumerate(found) if pane.holds(x, y)), 0)
