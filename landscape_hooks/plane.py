"""Plane: two directions through an origin in weight space; the one place of least squares.

In: an origin (D,) and two directions (2, D), from a file of `directions/`. Out: the weights at a coordinate
pair (for evaluate.py) and the coordinates of weights (the path). Directions need not be orthogonal nor of
unit length; coordinates are multiples of them, found by least squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import PlaneError

Floats = NDArray[np.float64]

BLOCK_BYTES = 96 * 2**20
"""Memory for one block of displacements in float64. A streamed pass holds two or three blocks at a time."""


class Moments:
    """Sums over parameters that determine a projection; displacements are added block by block.

    Holds the Gram matrix of the directions (2, 2), the inner products with N displacements (N, 2), and the
    displacements' squared norms (N,): everything least squares needs, in float64, however large D is.
    """

    def __init__(self, count: int) -> None:
        self.gram: Floats = np.zeros((2, 2))
        self.products: Floats = np.zeros((count, 2))
        self.squares: Floats = np.zeros(count)
        self.mean_square = 0.0

    def add(self, displacements: Floats, directions: Floats) -> None:
        """Add a block: displacements (N, c) and the same parameters of the directions (2, c), float64."""
        self.gram += directions @ directions.T
        self.products += displacements @ directions.T
        self.squares += np.einsum("nc,nc->n", displacements, displacements)
        mean = displacements.mean(axis=0)
        self.mean_square += float(mean @ mean)

    def solve(self) -> tuple[Floats, Floats]:
        """Coordinates (N, 2) of the nearest points of the plane and the distances (N,) to them.

        A direction of length zero (a line has one) gets the coordinate 0.
        """
        coordinates = self.products @ np.linalg.pinv(self.gram, hermitian=True)
        along = np.einsum("nk,kl,nl->n", coordinates, self.gram, coordinates)
        return coordinates, np.sqrt(np.maximum(self.squares - along, 0.0))

    @property
    def total_variance(self) -> float:
        """Mean squared distance of the displacements from their mean."""
        return float(self.squares.mean()) - self.mean_square

    def explained_variance_ratio(self) -> Floats:
        """(2,) share of the displacements' variance along each direction (not a sum where they are oblique)."""
        norms = np.sqrt(np.diag(self.gram))
        spread = self.products.var(axis=0) / np.where(norms > 0, norms, 1.0) ** 2
        total = self.total_variance
        return spread / total if total > 0 else np.zeros(2)


class Plane:
    """The points `origin + alpha·directions[0] + beta·directions[1]`.

    Parameters
    ----------
    origin
        (D,) weights at alpha = beta = 0.
    directions
        (2, D) in the same parameter order; the second may be zero (a line).

    Raises
    ------
    PlaneError
        shapes that do not fit, non-finite entries, a zero first direction, parallel directions.
    """

    def __init__(self, origin: Any, directions: Any) -> None:
        self.origin = torch.as_tensor(origin)
        self.directions = torch.as_tensor(directions).to(self.origin.dtype)
        if self.origin.ndim != 1 or self.directions.shape != (2, len(self.origin)):
            raise PlaneError(
                f"Found an origin of shape {tuple(self.origin.shape)} and directions of shape "
                f"{tuple(self.directions.shape)}",
                expected="(D,) and (2, D)",
            )
        self._check()

    def _check(self) -> None:
        d = self.directions
        gram = np.array([[float(_dot(d[i], d[j])) for j in range(2)] for i in range(2)])
        if not np.isfinite(gram).all():
            raise PlaneError(
                "A direction of the plane holds NaN or inf",
                mend="Look at the run's weights (landscape-hooks info RUN): the training may have diverged",
            )
        if gram[0, 0] == 0:
            raise PlaneError(
                "The plane's first direction is zero", mend="Choose other directions, or snapshots that differ"
            )
        self.is_line = bool(gram[1, 1] == 0)
        if not self.is_line and 1 - gram[0, 1] ** 2 / (gram[0, 0] * gram[1, 1]) < 1e-10:
            raise PlaneError(
                "The plane's two directions are parallel",
                expected="directions that span a plane",
                mend="Choose other directions, or draw a line (--line)",
            )

    @property
    def size(self) -> int:
        """D."""
        return len(self.origin)

    def to(self, device: Any) -> Plane:
        """The same plane on another device."""
        plane = Plane.__new__(Plane)
        plane.origin, plane.directions = self.origin.to(device), self.directions.to(device)
        plane.is_line = self.is_line
        return plane

    def point(self, alpha: float, beta: float, out: torch.Tensor | None = None) -> torch.Tensor:
        """(D,) weights at (alpha, beta), rebuilt from the origin; written into `out` where given."""
        result = torch.add(self.origin, self.directions[0], alpha=alpha, out=out)
        return result if self.is_line else result.add_(self.directions[1], alpha=beta)

    def project(self, weights: Any) -> tuple[Floats, Floats]:
        """Coordinates (N, 2) of the nearest points of the plane to weights (N, D), and distances (N,).

        `weights` is an array, a tensor or a Trajectory (then streamed, never held whole).
        """
        return self.moments(weights).solve()

    def moments(self, weights: Any) -> Moments:
        """The sums that `project` solves, from weights (N, D) or a Trajectory."""
        moments = Moments(len(weights))
        for columns, block in displacement_blocks(weights, self.origin.cpu().numpy()):
            moments.add(block, self.directions[:, columns].cpu().double().numpy())
        return moments


def displacement_blocks(
    weights: Any, origin: NDArray[Any], rows: slice = slice(None)
) -> Iterator[tuple[slice, Floats]]:
    """Yield (columns, displacements (N, c) float64 from `origin`) over all parameters, c as memory allows.

    The next block is read while the caller works on the one before.
    """
    from concurrent.futures import ThreadPoolExecutor

    if isinstance(weights, torch.Tensor):
        weights = weights.detach().cpu().numpy()
    count = len(range(*rows.indices(len(weights))))

    def read(columns: slice) -> Floats:
        values = weights.block(rows, columns) if hasattr(weights, "block") else np.asarray(weights)[rows, columns]
        return np.subtract(values, origin[columns], dtype=np.float64)

    spans = column_spans(len(origin), count, column_chunk(weights))
    with ThreadPoolExecutor(1) as reader:
        pending = [reader.submit(read, span) for span in spans[:1]]
        for number, span in enumerate(spans):
            block = pending.pop().result()
            if number + 1 < len(spans):
                pending.append(reader.submit(read, spans[number + 1]))
            yield span, block


def column_chunk(weights: Any) -> int:
    """Parameters in one stored chunk of a Trajectory (1 for arrays): blocks that respect it are read once."""
    if not hasattr(weights, "root"):
        return 1
    return int(weights.root["trajectory/weights"].chunks[1])


def column_spans(size: int, count: int, chunk: int) -> list[slice]:
    """Cut `size` parameters into spans of whole chunks whose `count` rows in float64 fit BLOCK_BYTES."""
    width = max(1, BLOCK_BYTES // (8 * max(count, 1)))
    width = max(chunk, width // chunk * chunk)
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Inner product in float64, in pieces so that no float64 copy of a whole direction is made."""
    step = 2**22
    return sum(float(a[i : i + step].double() @ b[i : i + step].double()) for i in range(0, len(a), step))
