"""The displacement matrix, a block of columns at a time: what is computed of it holds a part of it only."""

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

from landscape_hooks.machine import cores
from landscape_hooks.plane.moments import Floats
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.trajectory import Trajectory

READ_BYTES = 256 * 2**20
"""Memory for what is read from the store at a time, over all threads, whatever the number of parameters."""


CHUNK_BYTES = 640 * 2**20
"""The same where only whole chunks can be read (compressed runs, object stores): those of a hundred snapshots."""


SPAN_BYTES = 32 * 2**20
"""What a thread reads at a time where the stored chunks are small."""


BLOCK_BYTES = 8 * 2**20
"""Displacements in float64 that a thread works on at a time: what a cache holds."""


PARTITIONS = 1024
"""Partial results that a sum over all parameters is made of at most: what a cluster sends to the one that adds up."""


Result = TypeVar("Result")

Weights = Trajectory | Joined | NDArray[Any]
"""(T, D) weights: snapshots that are read from the store, or an array."""


class BlockWork(Protocol):
    """What is computed of displacements block by block; plain data, so that it can be sent to where the blocks are."""

    def __call__(self, blocks: Iterator[tuple[slice, Floats]]) -> Any:
        """The result for neighbouring blocks, each (columns, displacements (T, c))."""

    def join(self, parts: Iterator[Any]) -> Any:
        """The result for neighbours from the results for each, in order."""

    def nbytes(self, rows: int, columns: int) -> int:
        """About the size of the result for so many columns of so many snapshots."""


Mapped = Callable[[Weights, int, BlockWork], Iterator[tuple[slice, Any]]]
"""What maps work over blocks of parameters: `map_partitions`, or the same function of an engine."""


def map_displacements(
    weights: Weights | torch.Tensor,
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
    weights = weights if isinstance(weights, Trajectory | Joined) else np.asarray(weights)
    yield from _spans_mapped(weights, origin, work, rows, *spans_of(weights, rows))


def map_partition(weights: Weights, row: int, work: BlockWork, partition: list[slice], workers: int) -> Any:
    """work's result for a partition of neighbouring spans, of displacements from the snapshot `row`."""
    return work.join(_spans_mapped(weights, row, work, slice(None), partition, workers))


def map_partitions(weights: Weights, row: int, work: BlockWork) -> Iterator[tuple[slice, Any]]:
    """Yield (columns, work's result) for all partitions of parameters, in order; see `map_partition`."""
    groups, workers = partitions(weights)
    every = [span for group in groups for span in group]
    results = _spans_mapped(weights, row, work, slice(None), every, workers)
    for group in groups:
        yield columns_of(group), work.join(islice(results, len(group)))


def columns_of(partition: list[slice]) -> slice:
    """The columns of a partition of neighbouring spans."""
    return slice(partition[0].start, partition[-1].stop)


def partitions(weights: Weights) -> tuple[list[list[slice]], int]:
    """All parameters as at most `PARTITIONS` partitions of neighbouring spans, and how many spans fit into memory.

    They follow from the data alone, so a sum over them in order has the same bits for any number of workers.
    """
    spans, workers = spans_of(weights, slice(None))
    count = -(-len(spans) // PARTITIONS)
    return [spans[i : i + count] for i in range(0, len(spans), count)], workers


def spans_of(weights: Weights, rows: slice) -> tuple[list[slice], int]:
    """`column_spans` of a Trajectory or an array, within the memory there is for reading."""
    count, chunk = len(range(*rows.indices(len(weights)))), column_chunk(weights)
    return column_spans(width_of(weights), count, chunk, READ_BYTES if chunk == 1 else CHUNK_BYTES)


def width_of(weights: Weights) -> int:
    """D of a Trajectory or an array (N, D)."""
    return int(weights.layout.size if isinstance(weights, Trajectory | Joined) else weights.shape[1])


def _spans_mapped(
    weights: Weights,
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
        block = weights.block(rows, span) if isinstance(weights, Trajectory | Joined) else weights[rows, span]
        base = block[origin] if isinstance(origin, int) else origin[span]
        width = max(1, BLOCK_BYTES // (8 * max(count, 1)))
        for start in range(0, span.stop - span.start, width):
            part = slice(start, min(start + width, span.stop - span.start))
            columns = slice(span.start + part.start, span.start + part.stop)
            yield columns, np.subtract(block[:, part], base[part], dtype=np.float64)

    def result(span: slice) -> Result:
        with np.errstate(invalid="ignore", over="ignore"):  # of a training that diverged: the result says so
            return work(blocks(span))

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.submit(result, span) for span in spans[:workers])
        for span in [*spans[workers:], *[None] * len(waiting)]:
            yield waiting.popleft().result()
            if span is not None:
                waiting.append(pool.submit(result, span))


def column_chunk(weights: Weights) -> int:
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
