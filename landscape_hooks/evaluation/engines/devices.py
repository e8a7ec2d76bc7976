"""The engine of several devices of this machine: for each a process, which makes the loss itself (recipe.py).

In: the devices, addresses of the runs, points, snapshots. Out: what the engine of one device gives, bit for bit where
the devices are of one kind. The processes are fresh interpreters. A forked one could not use a GPU that this one has
used, and one that `multiprocessing` spawns would run the caller's script once more. What they are told are names,
addresses and small arrays; the process that hands out the tiles is the only one that writes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError, ObjectiveError
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.engines.recipe import LossFactory, Recipe
from landscape_hooks.evaluation.plane_loss import PlaneLoss, SnapshotLoss, Tile
from landscape_hooks.evaluation.sources import Sources
from landscape_hooks.plane.blockwise import map_partitions
from landscape_hooks.plane.gram import weights_of
from landscape_hooks.trajectory.joined import Joined, Recorded
from landscape_hooks.trajectory.trajectory import Trajectory

AHEAD = 2
"""Tiles in each process's hands: one being computed, one waiting."""

Job = tuple[str, NDArray[np.float64] | int]


class Devices:
    """Several devices for the time of a `with`; their processes start when there is work for more than one."""

    THREADS = None

    def __init__(self, devices: Sequence[torch.device], sources: Sources, joined: Joined) -> None:
        self.devices = tuple(devices)
        self.partitions = map_partitions
        self._sources, self._joined = sources, joined
        self._workers: list[Worker] = []

    @property
    def PROCESSES(self) -> str:
        """The processes in words."""
        return f"{len(self.devices)} processes on {', '.join(map(str, dict.fromkeys(self.devices)))}"

    def __enter__(self) -> Devices:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def device(self, name: object) -> torch.device:
        """The first one, where this process computes what is no work for several."""
        return self.devices[0]

    def points(self, loss: PlaneLoss, points: NDArray[np.float64]) -> Iterator[Tile]:
        """Yield the losses at points (N, 2) of the plane."""
        tile = max(1, min(loss.plan.tile, len(points) // (2 * AHEAD * len(self.devices))))
        tiles = [np.arange(i, min(i + tile, len(points))) for i in range(0, len(points), tile)]
        if len(tiles) <= 1:
            yield from local.points(loss, points)
            return
        yield from self._tiles(loss, tiles, [("points", points[index]) for index in tiles])

    def snapshots(self, loss: SnapshotLoss, trajectory: Trajectory, numbers: Sequence[int]) -> Iterator[Tile]:
        """Yield the losses at the snapshots `numbers` themselves; the tile's index counts within `numbers`."""
        if len(numbers) <= 1:
            yield from local.snapshots(loss, trajectory, numbers)
            return
        rows = [row_among(self._joined, trajectory, number) for number in numbers]
        yield from self._tiles(loss, [np.array([i]) for i in range(len(rows))], [("snapshot", row) for row in rows])

    def _tiles(self, loss: SnapshotLoss, tiles: list[NDArray[np.intp]], jobs: Sequence[Job]) -> Iterator[Tile]:
        """Hand the jobs to the processes as they become free."""
        while len(self._workers) < len(self.devices):
            self._workers.append(Worker(self.devices[len(self._workers)], self._sources))
        todo = deque(enumerate(jobs))
        try:
            for _ in range(AHEAD):
                for worker in self._workers:
                    if todo:
                        worker.send(loss, *todo.popleft())
            while held := {worker.connection: worker for worker in self._workers if worker.held}:
                for connection in wait(list(held)):
                    worker = held[connection]  # type: ignore[index]
                    number, values = worker.receive()
                    if todo:
                        worker.send(loss, *todo.popleft())
                    yield Tile(tiles[number], values[:, 0], values[:, 1])
        finally:  # after an error or an interruption, what is being computed is of no use any more
            for worker in [worker for worker in self._workers if worker.held]:
                worker.stop()
                self._workers.remove(worker)


class Worker:
    """The process of a device, at the other end of a pipe."""

    def __init__(self, device: torch.device, sources: Sources) -> None:
        self.device, self.held = device, deque[int]()
        self._loss: SnapshotLoss | None = None
        self.connection, theirs = Pipe()
        told = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=told)
        theirs.close()
        self._waiting: Sources | None = sources

    def send(self, loss: SnapshotLoss, number: int, job: Job) -> None:
        """Ask for a tile, and say of which loss where it is another one than before."""
        try:
            if self._waiting is not None:
                self.connection.send(self._waiting)
                self._waiting = None
            if self._loss is not loss:
                self.connection.send(("loss", Recipe.of(loss, str(self.device))))
                self._loss = loss
            self.connection.send(job)
        except OSError:
            raise self._died() from None
        self.held.append(number)

    def receive(self) -> tuple[int, NDArray[np.float64]]:
        """The number of the first tile that was asked for, and its losses and standard errors (n, 2)."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(answer, str):
            raise ObjectiveError(f"On {self.device}: {answer}")
        return self.held.popleft(), answer

    def stop(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.kill()
        self._process.wait()

    def _died(self) -> ObjectiveError:
        self._process.kill()
        return ObjectiveError(
            f"The process of {self.device} ended unexpectedly (exit code {self._process.wait()})",
            expected="processes that live as long as the analysis",
            mend="Name the devices that work (--device cuda:0). The same command goes on where it stopped",
        )


def row_among(joined: Joined, trajectory: Recorded, number: int) -> int:
    """The row of a run's snapshot among those of all runs."""
    if isinstance(trajectory, Joined):
        run, number = trajectory.place(number)
        trajectory = trajectory.runs[run]
    run = next(i for i, part in enumerate(joined.runs) if part.root is trajectory.root)
    return joined.row(run, int(trajectory.places[number]))


# -- in the process of a device ------------------------------------------------------------------------------
def serve(connection: Connection, parent: int) -> None:
    """Compute what comes until the one who asks is gone; an error is answered as a text."""
    factory: LossFactory | None = None
    recipe: Recipe | None = None
    sources: Sources = connection.recv()
    for kind, what in local.asked(connection, parent):
        if kind == "loss":
            recipe = what
            continue
        try:
            factory = factory or LossFactory(sources)
            assert recipe is not None
            connection.send(computed(factory, recipe, what))
        except LandscapeError as error:
            connection.send(str(error))
        except Exception as error:
            connection.send(f"The loss cannot be computed ({type(error).__name__}: {error})")


def computed(factory: LossFactory, recipe: Recipe, what: NDArray[np.float64] | int) -> NDArray[np.float64]:
    """(n, 2) losses and standard errors at points, or at the snapshot in a row."""
    torch.set_num_threads(recipe.plan.threads)
    loss = factory.loss(recipe)
    if not isinstance(what, int):
        return loss.measure_points(what).cpu().numpy()
    joined = factory.of_part(recipe.part)
    run, place = joined.place(what)
    part = joined.runs[run]
    found = loss.measure_snapshot(weights_of(part, place), part.buffers(slice(place, place + 1))[0])
    return found[None].cpu().numpy()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asks says when it is over
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
