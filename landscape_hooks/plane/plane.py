"""Plane: two directions through an origin in weight space; the one place of least squares.

In: an origin (D,) and two directions (2, D), from a file of `directions/`. Out: the weights at a coordinate
pair (for evaluate.py) and the coordinates of weights (the path). Directions need not be orthogonal nor of
unit length; coordinates are multiples of them, found by least squares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from landscape_hooks.errors import PlaneError
from landscape_hooks.machine import cores
from landscape_hooks.plane.moments import Floats, Moments, Projection, _dot

READ_BYTES = 256 * 2**20
"""Memory for what is read from the store at a time, over all threads, whatever the number of parameters."""

CHUNK_BYTES = 640 * 2**20
"""The same where only whole chunks can be read (compressed runs, object stores): those of a hundred snapshots."""

SPAN_BYTES = 32 * 2**20
"""What a thread reads at a time where the stored chunks are small."""

BLOCK_BYTES = 8 * 2**20
"""Displacements in float64 that a thread works on at a time: what a cache holds."""

STRETCHES = 1024
"""Partial results that a sum over all parameters is made of at most: what a cluster sends to the one that adds up."""

Result = TypeVar("Result")


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

    @property
    def dtype(self) -> torch.dtype:
        """Of its points."""
        return self.origin.dtype

    @property
    def device(self) -> torch.device:
        """Where its points are made."""
        return self.origin.device

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
        total = Moments(len(weights))
        for part in map_displacements(weights, self.origin.cpu().numpy(), Projection(self.directions.cpu().numpy())):
            total += part
        return total


class BlockWork(Protocol):
    """What is computed of displacements block by block; plain data, so that it can be sent to where the blocks are."""

    def __call__(self, blocks: Iterator[tuple[slice, Floats]]) -> Any:
        """The result for neighbouring blocks, each (columns, displacements (T, c))."""

    def join(self, parts: Iterator[Any]) -> Any:
        """The result for neighbours from the results for each, in order."""

    def nbytes(self, rows: int, columns: int) -> int:
        """About the size of the result for so many columns of so many snapshots."""


def map_displacements(
    weights: Any,
    origin: NDArray[Any] | int,
    work: Callable[[Iterator[tuple[slice, Floats]]], Result],
    rows: slice = slice(None),
) -> Iterator[Result]:
    """Yield work(blocks of a span) for all spans of parameters, in order.

    A block is (columns, displacements (N, c) float64 from `origin`). `weights` is a Trajectory, an array or a tensor;
    `origin` a vector (D,), or the number of one of the `rows` read. Memory is bounded whatever N and D are: READ_BYTES
    for what is read (CHUNK_BYTES where only whole chunks can be), and BLOCK_BYTES a thread.
    """
    if isinstance(weights, torch.Tensor):
        weights = weights.detach().cpu().numpy()
    weights = weights if hasattr(weights, "block") else np.asarray(weights)
    yield from _spans_mapped(weights, origin, work, rows, *spans_of(weights, rows))


def map_stretch(weights: Any, row: int, work: BlockWork, stretch: list[slice], workers: int) -> Any:
    """work's result for a stretch of neighbouring spans, of displacements from the snapshot `row`."""
    return work.join(_spans_mapped(weights, row, work, slice(None), stretch, workers))


def map_stretches(weights: Any, row: int, work: BlockWork) -> Iterator[tuple[slice, Any]]:
    """Yield (columns, work's result) for all stretches of parameters, in order; see `map_stretch`."""
    groups, workers = stretches(weights)
    every = [span for group in groups for span in group]
    results = _spans_mapped(weights, row, work, slice(None), every, workers)
    for group in groups:
        yield columns_of(group), work.join(islice(results, len(group)))


def columns_of(stretch: list[slice]) -> slice:
    """The columns of a stretch of neighbouring spans."""
    return slice(stretch[0].start, stretch[-1].stop)


def stretches(weights: Any) -> tuple[list[list[slice]], int]:
    """All parameters as at most `STRETCHES` stretches of neighbouring spans, and how many spans fit into memory.

    They follow from the data alone: whoever computes them, a sum over stretches in their order is the same to the bit.
    """
    spans, workers = spans_of(weights, slice(None))
    count = -(-len(spans) // STRETCHES)
    return [spans[i : i + count] for i in range(0, len(spans), count)], workers


def spans_of(weights: Any, rows: slice) -> tuple[list[slice], int]:
    """`column_spans` of a Trajectory or an array, within the memory there is for reading."""
    count, chunk = len(range(*rows.indices(len(weights)))), column_chunk(weights)
    return column_spans(width_of(weights), count, chunk, READ_BYTES if chunk == 1 else CHUNK_BYTES)


def width_of(weights: Any) -> int:
    """D of a Trajectory or an array (N, D)."""
    return int(weights.layout.size if hasattr(weights, "block") else weights.shape[1])


def _spans_mapped(
    weights: Any,
    origin: NDArray[Any] | int,
    work: Callable[[Iterator[tuple[slice, Floats]]], Result],
    rows: slice,
    spans: list[slice],
    workers: int,
) -> Iterator[Result]:
    """The results for the blocks of each span, in order.

    Spans are read and worked on in one thread a core (as far as memory allows), each with a BLAS of one thread:
    reading and arithmetic overlap, and two pools of threads do not wait for each other.
    """
    count = len(range(*rows.indices(len(weights))))

    def blocks(span: slice) -> Iterator[tuple[slice, Floats]]:
        block = weights.block(rows, span) if hasattr(weights, "block") else weights[rows, span]
        base = block[origin] if isinstance(origin, int) else origin[span]
        width = max(1, BLOCK_BYTES // (8 * max(count, 1)))
        for start in range(0, span.stop - span.start, width):
            part = slice(start, min(start + width, span.stop - span.start))
            columns = slice(span.start + part.start, span.start + part.stop)
            yield columns, np.subtract(block[:, part], base[part], dtype=np.float64)

    def result(span: slice) -> Result:
        return work(blocks(span))

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.submit(result, span) for span in spans[:workers])
        for span in [*spans[workers:], *[None] * len(waiting)]:
            yield waiting.popleft().result()
            if span is not None:
                waiting.append(pool.submit(result, span))


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
