"""Plane: two directions through an origin in weight space; the one place of least squares.

In: an origin (D,) and two directions (2, D), from a file of `directions/`. Out: the weights at a coordinate
pair (for evaluate.py) and the coordinates of weights (the path). Directions need not be orthogonal nor of
unit length; coordinates are multiples of them, found by least squares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from landscape_hooks.errors import PlaneError
from landscape_hooks.plan import cores

Floats = NDArray[np.float64]

READ_BYTES = 256 * 2**20
"""Memory for what is read from the store at a time, over all threads, whatever the number of parameters."""

CHUNK_BYTES = 640 * 2**20
"""The same where only whole chunks can be read (compressed runs, object stores): those of a hundred snapshots."""

SPAN_BYTES = 32 * 2**20
"""What a thread reads at a time where the stored chunks are small."""

BLOCK_BYTES = 8 * 2**20
"""Displacements in float64 that a thread works on at a time: what a cache holds."""

Result = TypeVar("Result")


class Moments:
    """Sums over parameters that determine a projection; those of blocks add up.

    Holds the Gram matrix of the directions (2, 2), the inner products with N displacements (N, 2), and the
    displacements' squared norms (N,): everything least squares needs, in float64, however large D is.
    """

    def __init__(self, count: int) -> None:
        self.gram: Floats = np.zeros((2, 2))
        self.products: Floats = np.zeros((count, 2))
        self.squares: Floats = np.zeros(count)
        self.mean_square = 0.0

    @classmethod
    def of(cls, displacements: Floats, directions: Floats) -> Moments:
        """Those of one block: displacements (N, c) and the same parameters of the directions (2, c), float64."""
        self = cls(len(displacements))
        self.gram = directions @ directions.T
        self.products = displacements @ directions.T
        self.squares = np.einsum("nc,nc->n", displacements, displacements)
        mean = displacements.mean(axis=0)
        self.mean_square = float(mean @ mean)
        return self

    @classmethod
    def from_gram(cls, gram: Floats, origin: int, coefficients: Floats) -> Moments:
        """Those of a plane through snapshot `origin` whose directions are combinations of displacements from it.

        `gram` (T, T) holds inner products of displacements from any one point, `coefficients` (2, T) the combinations.
        """
        self = cls(len(gram))
        shifted = gram - gram[origin] - gram[:, origin][:, None] + gram[origin, origin]
        self.products = shifted @ coefficients.T
        self.gram = coefficients @ self.products
        self.squares = np.diag(shifted).copy()
        self.mean_square = float(shifted.mean())
        return self

    def __iadd__(self, other: Moments) -> Moments:
        """Add those of other parameters."""
        self.gram += other.gram
        self.products += other.products
        self.squares += other.squares
        self.mean_square += other.mean_square
        return self

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
        directions = self.directions.cpu()

        def add(total: Moments, columns: slice, block: Floats) -> Moments:
            total += Moments.of(block, directions[:, columns].double().numpy())
            return total

        return sum_displacements(weights, self.origin.cpu().numpy(), lambda: Moments(len(weights)), add)


def map_displacements(
    weights: Any, origin: NDArray[Any] | int, work: Callable[[slice, Floats], Result], rows: slice = slice(None)
) -> Iterator[Result]:
    """Yield work(columns, displacements (N, c) float64 from `origin`) for all blocks of parameters, in order.

    `weights` is a Trajectory, an array or a tensor; `origin` (D,) weights, or the number of one of the rows. Memory is
    bounded whatever N and D are: READ_BYTES for what is read (CHUNK_BYTES where only whole chunks can be), and
    BLOCK_BYTES a thread.
    """
    for found in _map_spans(weights, origin, lambda blocks: [work(*block) for block in blocks], rows):
        yield from found


def sum_displacements(
    weights: Any,
    origin: NDArray[Any] | int,
    zero: Callable[[], Result],
    add: Callable[[Result, slice, Floats], Result],
) -> Result:
    """The sum over all blocks of parameters: `add(total, columns, displacements)` is `total` with one block added.

    Totals begin as `zero()`, one a span, and are joined by `+=`, always in the same order, however many threads there
    are.
    """

    def summed(blocks: Iterator[tuple[slice, Floats]]) -> Result:
        total = zero()
        for columns, block in blocks:
            total = add(total, columns, block)
        return total

    spans: Iterator[Any] = _map_spans(weights, origin, summed)
    total = next(spans)
    for other in spans:
        total += other
    return total


def _map_spans(
    weights: Any,
    origin: NDArray[Any] | int,
    work: Callable[[Iterator[tuple[slice, Floats]]], Result],
    rows: slice = slice(None),
) -> Iterator[Result]:
    """Yield work(blocks of a span) for all spans of parameters, in order; a block is (columns, displacements).

    Spans are read and worked on in one thread a core (as far as memory allows), each with a BLAS of one thread:
    reading and arithmetic overlap, and two pools of threads do not wait for each other.
    """
    if isinstance(weights, torch.Tensor):
        weights = weights.detach().cpu().numpy()
    weights = weights if hasattr(weights, "block") else np.asarray(weights)
    count, chunk = len(range(*rows.indices(len(weights)))), column_chunk(weights)
    size = weights.layout.size if hasattr(weights, "layout") else weights.shape[1]
    spans, workers = column_spans(size, count, chunk, READ_BYTES if chunk == 1 else CHUNK_BYTES)

    def blocks(span: slice) -> Iterator[tuple[slice, Floats]]:
        block = weights.block(rows, span) if hasattr(weights, "block") else weights[rows, span]
        base = block[origin] if isinstance(origin, int) else origin[span]
        width = max(1, BLOCK_BYTES // (8 * max(count, 1)))
        for start in range(0, span.stop - span.start, width):
            part = slice(start, min(start + width, span.stop - span.start))
            columns = slice(span.start + part.start, span.start + part.stop)
            yield columns, np.subtract(block[:, part], base[part], dtype=np.float64)

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.submit(lambda span: work(blocks(span)), span) for span in spans[:workers])
        for next_span in [*spans[workers:], *[None] * len(waiting)]:
            yield waiting.popleft().result()
            if next_span is not None:
                waiting.append(pool.submit(lambda span: work(blocks(span)), next_span))


def column_chunk(weights: Any) -> int:
    """Parameters that a Trajectory has to read together (1 for arrays): blocks that respect it are read once."""
    return int(getattr(weights, "chunk", 1))


def column_spans(size: int, count: int, chunk: int, memory: int) -> tuple[list[slice], int]:
    """Cut `size` parameters into spans of `count` rows, and how many of them are in memory at a time.

    Spans are whole stored chunks, except where not even one fits into memory (several hundred snapshots of a
    large model): then a chunk is read more than once. They do not depend on the number of cores, so that sums
    over them do not either.
    """
    row = 4 * max(count, 1)
    most = max(1, memory // row)
    wanted = min(max(1, SPAN_BYTES // row), most)
    width = max(chunk, wanted // chunk * chunk) if chunk <= most else most
    spans = [slice(start, min(start + width, size)) for start in range(0, size, width)]
    return spans, max(1, min(memory // (row * width), cores(), len(spans)))


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Inner product in float64, in pieces so that no float64 copy of a whole direction is made."""
    step = 2**22
    return sum(float(a[i : i + step].double() @ b[i : i + step].double()) for i in range(0, len(a), step))
