"""The engine of a cluster: Ray actors that make the loss themselves (recipe.py) and are handed tiles as they get free.

In: addresses of the runs, points, snapshots, or work on blocks of parameters. Out: what the engine of this machine
gives, bit for bit. Ray decides where a worker runs; what is here is only who has which tile. A worker that
dies loses its unfinished tiles, which are given out again; a tile that ends one worker after the other is an error.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError, ObjectiveError
from landscape_hooks.evaluation.engines import Ray
from landscape_hooks.evaluation.engines.recipe import LossFactory, Recipe
from landscape_hooks.evaluation.plane_loss import PlaneLoss, SnapshotLoss, Tile
from landscape_hooks.evaluation.sources import Sources
from landscape_hooks.machine import cores
from landscape_hooks.plane.blockwise import BlockWork, Weights, columns_of, map_partition, partitions
from landscape_hooks.plane.gram import weights_of
from landscape_hooks.trajectory.joined import Joined, Only, Recorded
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.version import __version__

AHEAD = 2
"""Jobs in each worker's hands: one being done, one waiting."""

TRIES = 3
"""A job that ended this many workers is not given to another; as many starts in a row may fail."""

ANSWER_SECONDS = 5.0
"""A cluster that does not answer for this long is not there."""

START_SECONDS = 300.0
"""How long no worker at all may be ready, before the cluster is said to have no room."""

LOOK_SECONDS = 5.0
"""How often the cluster is asked what nodes it has."""

HELD_BYTES = 2**31
"""Results of blocks that may wait here for those before them."""

LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)
"""What a worker's end, or its node's, looks like from here."""


# -- on a worker --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Failure:
    """An error of the loss or of the run, in words."""

    words: str


def versions() -> dict[str, str]:
    """What has to be the same everywhere for the values to be."""
    return {"landscape-hooks": __version__, "torch": torch.__version__, "python": platform.python_version()}


class Worker:
    """An actor: holds objective, samples and plane, and computes what it is asked for."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._factory: Any = None

    def begin(self) -> Any:
        """The versions here; Failure where the runs cannot be read."""

        def opened() -> dict[str, str]:
            self._factory = LossFactory(self._sources)
            return versions()

        return _in_words(opened, f"A worker on {socket.gethostname()}: ")

    def points(self, recipe: Recipe, points: NDArray[np.float64]) -> Any:
        """(n, 2) losses and standard errors."""
        return self._losses(recipe, lambda loss: [loss.measure_at(*point) for point in points])

    def snapshots(self, recipe: Recipe, rows: Sequence[int]) -> Any:
        """(n, 2) the same at snapshots themselves, read here."""
        return self._losses(recipe, lambda loss: [self._at_snapshot(loss, row, recipe.part) for row in rows])

    def partition(
        self, shown: tuple[list[Any], Only | None], row: int, work: BlockWork, partition: list[slice], threads: int
    ) -> Any:
        """The result of work on a partition of parameters of the snapshots `shown`: their places, the part."""
        places, part = shown
        return _in_words(
            lambda: map_partition(self._factory.of_part(part).select(places), row, work, partition, threads)
        )

    def _losses(self, recipe: Recipe, measured: Callable[[Any], list[torch.Tensor]]) -> Any:
        def values() -> NDArray[np.float64]:
            torch.set_num_threads(recipe.plan.threads)
            return torch.stack(measured(self._factory.loss(recipe))).cpu().numpy()

        return _in_words(values)

    def _at_snapshot(self, loss: SnapshotLoss, row: int, only: Only | None) -> torch.Tensor:
        joined = self._factory.of_part(only)
        run, place = joined.place(row)
        part = joined.runs[run]
        return loss.measure_snapshot(weights_of(part, place), part.buffers(slice(place, place + 1))[0])


def _in_words(function: Callable[[], Any], where: str = "") -> Any:
    """The function's result, or its error as Failure: the one who asked has no use for a traceback."""
    try:
        return function()
    except LandscapeError as error:
        return Failure(f"{where}{error}")
    except Exception as error:
        return Failure(f"{where}The loss cannot be computed ({type(error).__name__}: {error})")


# -- on the one that hands out the work ---------------------------------------------------------------------
@dataclass
class Job:
    """A call of a worker's method; `number` says which one of those that were asked for together."""

    number: int
    method: str
    arguments: tuple[Any, ...]
    deaths: int = 0


@dataclass
class Handle:
    """A worker as seen from here: what it was asked, in order."""

    actor: Any
    starting: Any
    held: deque[tuple[Any, Job]] = field(default_factory=deque)

    @property
    def awaited(self) -> Any:
        """What it is going to answer next; None if nothing."""
        return self.starting if self.starting is not None else self.held[0][0] if self.held else None


class Engine:
    """Ray for the time of a `with`; workers start when there is work, and end with it."""

    PROCESSES = "Ray workers"

    def __init__(self, cluster: Ray, sources: Sources, joined: Joined) -> None:
        self.THREADS = cluster.cpus
        self._cluster, self._sources, self._joined = cluster, sources, joined
        self._handles: list[Handle] = []
        self._failed_starts = 0
        self._looked, self._room = -math.inf, 0
        self._recipe: tuple[Any, Any] = (None, None)
        self._device = self.device(None)

    def __enter__(self) -> Engine:
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            connect(self._cluster.address)
        self._sent = ray.put(self._sources)
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            ray.kill(handle.actor)
        self._handles = []
        if self._owns_ray:
            ray.shutdown()

    # -- what an engine does -------------------------------------------------------------------------------
    def device(self, name: object) -> torch.device:
        """The device of that name on the workers; left out, the GPU where they have one."""
        self._device = torch.device(str(name or ("cuda" if self._cluster.gpus else "cpu")))
        return self._device

    def points(self, loss: PlaneLoss, points: NDArray[np.float64]) -> Iterator[Tile]:
        """Yield the losses at points (N, 2) of the plane."""
        tile = max(1, min(loss.plan.tile, len(points) // (2 * AHEAD * max(1, self._limit()))))
        tiles = [np.arange(i, min(i + tile, len(points))) for i in range(0, len(points), tile)]
        yield from self._tiles(loss, "points", tiles, [points[index] for index in tiles])

    def snapshots(self, loss: SnapshotLoss, trajectory: Trajectory, numbers: Sequence[int]) -> Iterator[Tile]:
        """Yield the losses at the snapshots `numbers` themselves; the tile's index counts within `numbers`."""
        tiles = [np.array([i]) for i in range(len(numbers))]
        yield from self._tiles(loss, "snapshots", tiles, [[self._row(trajectory, number)] for number in numbers])

    def partitions(self, trajectory: Weights, row: int, work: BlockWork) -> Iterator[tuple[slice, Any]]:
        """As `plane.map_partitions`: in order, and the same bits; every worker reads its partitions from the run."""
        assert not isinstance(trajectory, np.ndarray)  # workers read from a run
        groups, threads = partitions(trajectory)
        runs = trajectory.runs if isinstance(trajectory, Joined) else [trajectory]
        part = trajectory.part if isinstance(trajectory, Joined) else None
        shared, shown = ray.put(work), ray.put(([run.places for run in runs], part))
        threads, row = min(threads, self._cluster.cpus), int(range(len(trajectory))[row])
        jobs = [Job(i, "partition", (shown, row, shared, group, threads)) for i, group in enumerate(groups)]
        widest = max(columns_of(group).stop - columns_of(group).start for group in groups)
        together = max(1, HELD_BYTES // max(1, work.nbytes(len(trajectory), widest)))
        for start in range(0, len(jobs), together):
            waiting: dict[int, Any] = {}
            number = start
            for done, result in self._results(jobs[start : start + together]):
                waiting[done] = result
                while number in waiting:
                    yield columns_of(groups[number]), waiting.pop(number)
                    number += 1

    def _tiles(self, loss: SnapshotLoss, method: str, tiles: list[NDArray[np.intp]], what: list[Any]) -> Iterator[Tile]:
        recipe = self._sent_recipe(loss)
        jobs = [Job(i, method, (recipe, each)) for i, each in enumerate(what)]
        for number, values in self._results(jobs):
            yield Tile(tiles[number], values[:, 0], values[:, 1])

    def _sent_recipe(self, loss: SnapshotLoss) -> Any:
        """Where the workers find the loss's recipe: sent once a loss, not once a tile."""
        if self._recipe[0] is not loss:
            self._recipe = (loss, ray.put(Recipe.of(loss, str(self._device))))
        return self._recipe[1]

    def _row(self, trajectory: Recorded, number: int) -> int:
        """The row of a run's snapshot among those of all runs."""
        if isinstance(trajectory, Joined):
            run, number = trajectory.place(number)
            trajectory = trajectory.runs[run]
        run = next(i for i, part in enumerate(self._joined.runs) if part.root is trajectory.root)
        return self._joined.row(run, int(trajectory.places[number]))

    # -- who has which job ---------------------------------------------------------------------------------
    def _results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Yield (number, result) of the jobs as they are done, whatever becomes of single workers."""
        todo = deque(jobs)
        last_ready = time.monotonic()
        try:
            while todo or any(handle.held for handle in self._handles):
                self._start_workers(len(todo) + sum(len(handle.held) for handle in self._handles))
                self._assign(todo)
                if any(handle.starting is None for handle in self._handles):
                    last_ready = time.monotonic()
                elif time.monotonic() - last_ready > START_SECONDS:
                    raise self._no_room(f"No worker has started for {START_SECONDS:.0f} s")
                for handle in self._ready():
                    if handle.starting is not None:
                        self._check_started(handle)
                    elif (done := self._received(handle, todo)) is not None:
                        yield done
        finally:
            # an error or an interruption: what is being computed is of no use any more
            for handle in [handle for handle in self._handles if handle.held]:
                self._end(handle)

    def _ready(self) -> list[Handle]:
        """Handles that have answered, or are lost; waits a little for the first of them."""
        awaited = {handle.awaited: handle for handle in self._handles if handle.awaited is not None}
        if not awaited:
            time.sleep(0.1)
            return []
        ray.wait(list(awaited), num_returns=1, timeout=1.0)
        done, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        return [awaited[reference] for reference in done]

    def _start_workers(self, unfinished: int) -> None:
        """Ask for as many workers as there is room and work for."""
        limit = self._limit()
        if not limit and not self._handles:
            raise self._no_room("No node of the Ray cluster has room for a worker")
        while len(self._handles) < min(limit, unfinished):
            options = {"num_cpus": self._cluster.cpus, "num_gpus": self._cluster.gpus, "max_restarts": 0}
            actor: Any = ray.remote(Worker).options(**options).remote(self._sent)
            self._handles.append(Handle(actor, actor.begin.remote()))

    def _assign(self, todo: deque[Job]) -> None:
        """Give every worker one job before any worker gets a second one."""
        for depth in range(AHEAD):
            for handle in self._handles:
                if todo and handle.starting is None and len(handle.held) <= depth:
                    job = todo.popleft()
                    handle.held.append((getattr(handle.actor, job.method).remote(*job.arguments), job))

    def _check_started(self, handle: Handle) -> None:
        """A worker has started, or could not."""
        try:
            answer = ray.get(handle.starting)
        except LOST as error:
            self._end(handle)
            self._failed_starts += 1
            if self._failed_starts >= TRIES:
                raise ObjectiveError(
                    f"{TRIES} workers in a row ended while they started ({_last_line(error)})",
                    mend='Install the same on all nodes: pip install "landscape-hooks[ray]"; your own modules as well',
                ) from error
            return
        if isinstance(answer, Failure):
            raise ObjectiveError(answer.words, mend="Every worker reads the runs itself: put them where all nodes can")
        if answer != versions():
            raise ObjectiveError(f"A worker has {answer}", expected=f"{versions()}, as here")
        handle.starting, self._failed_starts = None, 0

    def _received(self, handle: Handle, todo: deque[Job]) -> tuple[int, Any] | None:
        """The result of the job that a worker was on; None if it is lost, and the job back among the others."""
        reference, job = handle.held[0]
        try:
            answer = ray.get(reference)
        except LOST as error:
            job.deaths += 1
            todo.extendleft(job for _, job in reversed(handle.held))
            handle.held.clear()
            self._end(handle)
            self._looked = -math.inf
            if job.deaths >= TRIES:
                raise ObjectiveError(
                    f"{TRIES} workers in a row ended while they computed the same points ({_last_line(error)})",
                    mend="If memory ran out, give each worker more of a node (--worker-cpus 4); it goes on where "
                    "it stopped",
                ) from error
            return None
        except ray.exceptions.RayError as error:
            raise ObjectiveError(
                f"A worker could not take its job ({_last_line(error)})",
                mend="Whatever you give as a live object has to be importable on the workers; or give module:function",
            ) from error
        handle.held.popleft()
        if isinstance(answer, Failure):
            raise ObjectiveError(answer.words)
        return job.number, answer

    def _end(self, handle: Handle) -> None:
        ray.kill(handle.actor)
        self._handles = [other for other in self._handles if other is not handle]

    # -- the cluster ---------------------------------------------------------------------------------------
    def _limit(self) -> int:
        """Workers that there is room for."""
        if self._cluster.workers is not None:
            return self._cluster.workers
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._room = sum(self._room_on(node["Resources"]) for node in ray.nodes() if node["Alive"])
        return self._room

    def _room_on(self, resources: dict[str, float]) -> int:
        room = resources.get("CPU", 0.0) // self._cluster.cpus
        if self._cluster.gpus:
            room = min(room, resources.get("GPU", 0.0) // self._cluster.gpus)
        return int(room)

    def _no_room(self, found: str) -> ObjectiveError:
        has = ray.cluster_resources()
        return ObjectiveError(
            f"{found}; the cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs altogether",
            expected=f"nodes with {self._cluster.cpus} CPUs and {self._cluster.gpus:g} GPUs for a worker",
            mend="Ask for less (--worker-cpus, --worker-gpus) or add nodes; where the cluster adds them when they are "
            "needed, say how many workers you want (--workers)",
        )


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def connect(address: str | None) -> None:
    """Connect to a cluster, or start one on this machine.

    Raises
    ------
    ObjectiveError
        nothing answers there.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own sends no usage statistics
        ray.init(address="local", num_cpus=cores(), include_dashboard=False, **quiet)
        return
    try:
        if address != "auto":
            knock(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise ObjectiveError(
            f"No Ray cluster answers at '{address}' ({' '.join(str(error).split()) or type(error).__name__})",
            expected="HOST:PORT of a running one, as `ray start --head` prints it, or auto on one of its machines",
            mend="Start one, check the address, or leave it out to use this machine alone",
        ) from error


def knock(address: str) -> None:
    """Try whether a gRPC server answers: `ray.init` would wait for it for a minute, or for ever.

    Raises
    ------
    OSError
        nothing does.
    ValueError
        it is no address.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("not of the form HOST:PORT")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        # the opening of HTTP/2 with an empty SETTINGS frame (RFC 9113, section 3.4); a server answers with its own
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        if not connection.recv(1):
            raise OSError("something else listens there")
