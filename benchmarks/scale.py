"""The Ray engine: time of a 25×25 grid with one worker and with two, and against the engine of this machine.

    python benchmarks/scale.py [--size 25] [--milliseconds 40] [--tiles 8] [--seconds 1.0] [--rounds 1] [--knock]

Strong scaling: the same grid by one worker and by two, workers already started. Overhead: a few points that take
`--seconds` each, by one Ray worker and by this process, in alternation; medians. What a point costs is set by the
number of its samples, one thread everywhere. With `--knock`, only how long it takes until an address where no cluster
answers is said to be one, with the knock that the engine begins with and without it. Needs two idle cores, the
driver's share included, and pip install "landscape-hooks[ray]".
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from landscape_hooks import record
from landscape_hooks.analysis.filling import begin
from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation import engines
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.evaluation.sources import Sources
from landscape_hooks.objective.kernels import Tuning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.grid import Grid
from landscape_hooks.plane.stored_plane import stored_plane
from landscape_hooks.store.run import open_run
from landscape_hooks.surface.definition import Definition
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.trajectory import Trajectory

SAMPLES = 65_536


def write_run(path: str) -> None:
    """A short training of a two-layer network, with more probe samples than are needed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 10))
    x, y = torch.randn(SAMPLES, 64), torch.randint(0, 10, (SAMPLES,))
    batches = list(zip(x.split(1024), y.split(1024), strict=True))
    with record(model, None, path, criterion=nn.CrossEntropyLoss(), data=batches, samples=SAMPLES) as recorder:
        for _ in range(3):
            model[0].weight.data += 0.1 * torch.randn(256, 64)
            recorder.step()


def loss_of(path: str, samples: int) -> tuple[PlaneLoss, Joined]:
    """The loss over the first so many samples, on a plane that is stored in the run."""
    root, joined = open_run(path, mode="r+"), Joined([Trajectory.open(path)])
    weights = joined.block().astype(np.float64)
    arrays = {"origin": joined[-1].weights, "directions": (weights[:2] - weights[-1]).astype(np.float32)}
    grid = Grid.spanning((-1.0, 1.0, -1.0, 1.0), (25, 25))
    begin(root, "bench", grid, Definition(), arrays, defining={}, fresh=True, share=None)
    plane, objective = stored_plane(root, "bench", False), Objective.load(root).head(samples)
    loss = PlaneLoss(objective, plane, joined[-1].buffers, "none", surface="bench")
    return Plan(tuning=Tuning(chunk=1024)).apply(loss), joined


def engine_for(path: str, joined: Joined, samples: int, workers: int) -> Any:
    """A Ray engine of so many workers on this machine."""

    def sources() -> Sources:
        return Sources.of([path], joined, None, None, samples)

    return engines.start(engines.Ray(address="local", workers=workers), sources, joined)


def timed(engine: Any, loss: PlaneLoss, points: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds for the points, and their losses."""
    found = np.full(len(points), np.nan)
    start = time.perf_counter()
    for tile in engine.points(loss, points):
        found[tile.index] = tile.loss
    return time.perf_counter() - start, found


def knock(limit: float = 30.0) -> None:
    """Print the seconds until an error: nobody listens there, or somebody who never says anything."""
    for kind in ("nobody", "somebody silent"):
        found = []
        for knocks in (True, False):
            process = multiprocessing.get_context("spawn").Process(target=_connect, args=(kind, knocks))
            start = time.perf_counter()
            process.start()
            process.join(limit)
            found.append(f"{time.perf_counter() - start:.1f} s" if process.exitcode is not None else f"over {limit} s")
            process.kill()
        print(f"{kind} there, start of the process included: with the knock {found[0]}, without {found[1]}", flush=True)


def _connect(kind: str, knocks: bool) -> None:
    """Connect to such an address of this machine."""
    from landscape_hooks.evaluation.engines import ray

    if not knocks:
        ray.knock = lambda address: None
    with socket.socket() as listener, suppress(ObjectiveError):
        listener.bind(("127.0.0.1", 0))
        if kind == "somebody silent":
            listener.listen()
        ray.connect(f"127.0.0.1:{listener.getsockname()[1]}")


def main() -> None:
    """Parse and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=25)
    parser.add_argument("--milliseconds", type=float, default=40.0, help="of a point, in the test of scaling")
    parser.add_argument("--tiles", type=int, default=8, help="points, in the test of overhead")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a point, in the test of overhead")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--knock", action="store_true", help="only the error of an address where no cluster answers")
    options = parser.parse_args()
    if options.knock:
        knock()
        return
    torch.set_num_threads(1)
    from landscape_hooks.evaluation.engines import local

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bench.zarr")
        write_run(path)
        loss, joined = loss_of(path, SAMPLES)
        per_sample = min(timed(local, loss, np.zeros((1, 2)))[0] for _ in range(3)) / SAMPLES

        samples = max(1024, min(SAMPLES, int(options.milliseconds / 1e3 / per_sample)))
        loss, joined = loss_of(path, samples)
        grid = np.random.default_rng(0).uniform(-1, 1, (options.size**2, 2))
        times: dict[int, list[float]] = {1: [], 2: []}
        for workers in times:
            with engine_for(path, joined, samples, workers) as engine:
                timed(engine, loss, grid[: 4 * workers])  # all are there and have made the loss
                for _ in range(options.rounds):
                    times[workers].append(timed(engine, loss, grid)[0])
        one, two = (statistics.median(times[workers]) for workers in (1, 2))
        print(
            f"{options.size}×{options.size} points of {per_sample * samples * 1e3:.0f} ms: "
            f"1 worker {one:.1f} s, 2 workers {two:.1f} s, {one / two:.2f}×",
            flush=True,
        )

        # longer points than all samples make: the same point several times over would be several tiles
        samples = min(SAMPLES, int(options.seconds / per_sample))
        loss, joined = loss_of(path, samples)
        repeats = max(1, round(options.seconds / (per_sample * samples)))
        loss = loss.computed(loss.objective, Plan(tuning=Tuning(chunk=1024), tile=repeats))
        points = np.repeat(np.random.default_rng(1).uniform(-1, 1, (options.tiles, 2)), repeats, axis=0)
        here, there = [], []
        with engine_for(path, joined, samples, 1) as engine:
            timed(engine, loss, points[: 2 * repeats])
            for _ in range(options.rounds):
                seconds, expected = timed(local, loss, points)
                here.append(seconds)
                seconds, found = timed(engine, loss, points)
                there.append(seconds)
                assert (found == expected).all(), "the engines differ"
        mine, theirs = statistics.median(here), statistics.median(there)
        print(
            f"{options.tiles} tiles of {mine / options.tiles:.2f} s: this process {mine:.2f} s, one Ray worker "
            f"{theirs:.2f} s, {100 * (theirs / mine - 1):+.1f} %; the same bits",
            flush=True,
        )


if __name__ == "__main__":
    main()
