"""The engine of this machine: in this process, or in worker processes that share its weights.

Workers are forked, so that each sees the plane and the probe samples without a copy; weights of snapshots
reach them through an anonymous map, which a container's small /dev/shm does not limit. Each point is computed whole
by one worker with the plan's number of threads: its value depends neither on how many there are nor on who
computed what.

A forked process computes in a thread that it starts itself. GNU's OpenMP (libgomp) keeps a team of helpers for each
thread that has opened a parallel region; a fork copies the team's records, but not the helpers. The thread that forked
would therefore wait for helpers that are not there. A new thread has no team yet, and makes one.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError, ObjectiveError
from landscape_hooks.evaluation.plane_loss import PlaneLoss, SnapshotLoss, Tile
from landscape_hooks.machine import first_device, forks, threads
from landscape_hooks.plane.blockwise import map_partitions
from landscape_hooks.trajectory.trajectory import Snapshot, Trajectory

THREADS = PROCESSES = None

Result = TypeVar("Result")

AHEAD = 2
"""Tiles in each worker's hands: one being computed, one waiting."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _NEVER = -1, -3, 2**30  # of mallopt(3), in bytes


device = first_device
partitions = map_partitions


def points(loss: PlaneLoss, points: NDArray[np.float64]) -> Iterator[Tile]:
    """Yield the losses at points (N, 2) of the plane."""
    tile = loss.plan.tile
    tiles = [np.arange(i, min(i + tile, len(points))) for i in range(0, len(points), tile)]
    if _alone(loss, len(tiles)):
        with threads(loss.plan.threads):
            for index in tiles:
                yield _tile(index, loss.measure_points(points[index]))
        return
    yield from _shared(loss, tiles, lambda slot, index: ("points", points[index]), slots=None)


def snapshots(loss: SnapshotLoss, trajectory: Trajectory, numbers: Sequence[int]) -> Iterator[Tile]:
    """Yield the losses at the snapshots `numbers` themselves; the tile's index counts within `numbers`."""
    upcoming = trajectory.snapshots(numbers)
    if _alone(loss, len(numbers)):
        with threads(loss.plan.threads):
            for i in range(len(numbers)):
                yield _tile(np.array([i]), _of_snapshot(loss, next(upcoming))[None])
        return
    assert isinstance(loss, PlaneLoss)  # a plan for several processes is one for a plane
    slots = _Slots(loss, AHEAD * loss.plan.workers)

    def job(slot: int, index: NDArray[np.intp]) -> tuple[str, Any]:
        slots.fill(slot, next(upcoming))
        return "slot", slot

    yield from _shared(loss, [np.array([i]) for i in range(len(numbers))], job, slots=slots)


def _of_snapshot(loss: SnapshotLoss, snapshot: Snapshot) -> torch.Tensor:
    """Its loss; nothing holds the snapshot when the next one is read."""
    return loss.measure_snapshot(snapshot.weights, snapshot.buffers)


def apart(work: Callable[[], Result], count: int) -> list[Result]:
    """What `work()` returns in each of `count` forked processes of one thread at the same time, as workers are.

    Empty where processes cannot be forked or one of them fails.
    """
    if not forks():
        return []
    started = [forked(_work_apart, work) for _ in range(count)]
    try:
        return [mine.recv() for _, mine in started]
    except (EOFError, OSError):
        return []
    finally:
        for process, mine in started:
            mine.close()
            process.kill()
            process.join()


def _work_apart(connection: Connection, work: Callable[[], Any]) -> None:
    """Send the result, or nothing at all where there is none."""
    torch.set_num_threads(1)
    _keep_memory()
    with suppress(Exception):
        connection.send(work())
    connection.close()


def forked(life: Callable[..., None], *args: object) -> tuple[Any, Any]:
    """A forked process that does life(connection, *args), and this process's end of the connection."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=_in_new_thread, args=(life, theirs, *args), daemon=True)
    with warnings.catch_warnings():
        # Python warns (from 3.12) of forks beside other threads, since a child may wait for them; ours does not
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process.start()
    theirs.close()
    return process, mine


def _in_new_thread(life: Callable[..., None], *args: object) -> None:
    """What a forked process does: everything in a thread without a past (see the top of this file)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    thread = threading.Thread(target=life, args=args)
    thread.start()
    thread.join()


def _shared_memory(count: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """(count, width) zeros that this process and those forked from it see alike.

    The map has no name: `share_memory_` would make a file in /dev/shm, of which a container has 64 MB.
    """
    size = count * width * dtype.itemsize
    if not size:
        return torch.empty(count, width, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(count, width)


class _Slots:
    """Weights and buffers in memory that parent and workers share."""

    def __init__(self, loss: PlaneLoss, count: int) -> None:
        dtype = loss.plane.dtype
        self.weights = _shared_memory(count, loss.plane.size, dtype)
        self.buffers = _shared_memory(count, len(loss.buffers), loss.buffers.dtype)

    def fill(self, slot: int, snapshot: Snapshot) -> None:
        self.weights[slot].copy_(torch.from_numpy(np.ascontiguousarray(snapshot.weights)))
        self.buffers[slot].copy_(torch.from_numpy(np.ascontiguousarray(snapshot.buffers)))


def _alone(loss: SnapshotLoss, tiles: int) -> bool:
    """Whether this process computes; a process that was forked cannot use the GPU that this one uses."""
    return loss.plan.workers <= 1 or tiles <= 1 or not forks() or loss.device.type != "cpu"


def _tile(index: NDArray[np.intp], values: torch.Tensor) -> Tile:
    """One transfer from the device for the whole tile."""
    array = values.cpu().numpy()
    return Tile(index, array[:, 0], array[:, 1])


def _shared(
    loss: PlaneLoss,
    tiles: list[NDArray[np.intp]],
    job: Callable[[int, NDArray[np.intp]], tuple[str, Any]],
    slots: _Slots | None,
) -> Iterator[Tile]:
    """Hand tiles to forked workers as they become free, and yield what comes back."""
    workers = [_Worker(loss, slots) for _ in range(min(loss.plan.workers, len(tiles)))]
    free = {id(w): [AHEAD * n + k for k in range(AHEAD)] for n, w in enumerate(workers)}
    todo = iter(tiles)
    try:
        for _ in range(AHEAD):
            for worker in workers:
                _hand(worker, todo, job, free)
        while any(worker.held for worker in workers):
            ready = wait([w.connection for w in workers if w.held] + [w.process.sentinel for w in workers if w.held])
            for worker in workers:
                if worker.connection in ready:
                    slot, index, values = worker.receive()
                    free[id(worker)].append(slot)
                    _hand(worker, todo, job, free)
                    yield _tile(index, values)
                elif worker.process.sentinel in ready:
                    raise _died(worker)
    finally:
        for worker in workers:
            worker.stop()


def _hand(worker: _Worker, todo: Iterator[NDArray[np.intp]], job: Callable[..., Any], free: dict[int, Any]) -> None:
    index = next(todo, None)
    if index is not None:
        slot = free[id(worker)].pop(0)
        worker.send(slot, index, job(slot, index))


class _Worker:
    """A forked process at the other end of a pipe."""

    def __init__(self, loss: PlaneLoss, slots: _Slots | None) -> None:
        self.process, self.connection = forked(_serve, loss, slots, os.getpid())
        self.held: list[tuple[int, NDArray[np.intp]]] = []

    def send(self, slot: int, index: NDArray[np.intp], job: tuple[str, Any]) -> None:
        self.held.append((slot, index))
        self.connection.send(job)

    def receive(self) -> tuple[int, NDArray[np.intp], torch.Tensor]:
        slot, index = self.held.pop(0)
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise _died(self) from None
        if isinstance(answer, tuple):
            kind, words = answer
            raise ObjectiveError(words if kind == "found" else f"The loss cannot be computed ({kind}: {words})")
        return slot, index, torch.from_numpy(answer)

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def asked(connection: Connection, parent: int) -> Iterator[tuple[str, Any]]:
    """What a worker is asked for, until the process `parent` that asks is gone."""
    while True:
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return
        try:
            question = connection.recv()
        except (EOFError, OSError):
            return
        yield question


def _serve(connection: Connection, loss: PlaneLoss, slots: _Slots | None, parent: int) -> None:
    """A worker's life: compute what comes until the parent is gone."""
    torch.set_num_threads(loss.plan.threads)
    _keep_memory()
    for kind, what in asked(connection, parent):
        try:
            if kind == "points":
                values = loss.measure_points(what)
            else:
                assert slots is not None
                values = loss.measure_snapshot(slots.weights[what], slots.buffers[what])[None]
            connection.send(values.numpy())
        except LandscapeError as error:
            connection.send(("found", str(error)))
        except Exception as error:
            connection.send((type(error).__name__, str(error)))


def _keep_memory() -> None:
    """Tell the C library (glibc) to keep freed memory for what comes next instead of handing it back to the system.

    Each batch needs the same arrays as the one before; fetched anew, the system clears every page again. This is for
    a worker only, for it lasts as long as the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER)


def _died(worker: _Worker) -> ObjectiveError:
    worker.process.join(1)
    return ObjectiveError(
        f"A worker process ended unexpectedly (exit code {worker.process.exitcode})",
        expected="workers that live as long as the analysis",
        mend="If memory ran out, say the same again with fewer processes (--workers 1): it goes on where it stopped",
    )
