"""What each technique of computing a grid pays: the best way with it and without it, side by side.

For each network of grid.py, the way that calibration takes with every technique that applies, and the same without one
of them. Two processes of one thread, as workers are, compute the same points by turns, one point each, so that
whatever else the machine does hits both. Printed is the time without over the time with, by the processor's time and
by the clock on the wall: the median of the rounds' ratios and the ratio of the smallest times; then by how much
the losses of the two differ. Processes against threads are timed in whole bursts of points. With `--analyze`, whole
calls of `analyze` in place of points, calibration included.

    python benchmarks/ablation.py [--models digits,resnet18,transformer] [--policies batch,fixed]
                                  [--techniques pool,mallopt,...] [--rounds 9] [--seconds 15] [--analyze]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grid
import numpy as np
import torch
from torch import nn

from landscape_hooks import analyze, record
from landscape_hooks.evaluation import calibration
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.plan import Plan, cores
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.kernels import Tuning

SIZES = {"digits": 15, "resnet18": 6, "transformer": 7}
"""Grids of `--analyze`, so that each takes a few seconds, calibration included."""


@contextmanager
def replaced(place: Any, name: str, other: Any) -> Iterator[None]:
    """Another function under this name for a while."""
    own = getattr(place, name)
    setattr(place, name, other)
    try:
        yield
    finally:
        setattr(place, name, own)


@dataclass(frozen=True)
class Technique:
    """How it is left out: of a plan, or of the whole library; `base` makes the plan that has it."""

    applies: Callable[[PlaneLoss], bool] = lambda loss: True
    base: Callable[[Plan], Plan] = lambda plan: plan
    without: Callable[[Plan], Plan] = lambda plan: plan
    off: Callable[[], AbstractContextManager[None]] = nullcontext
    together: int = 1


def images(loss: PlaneLoss) -> bool:
    return calibration._has_images(loss.objective)


def stacked(count: int) -> Technique:
    """Points together, against the same way for one after the other."""
    return Technique(
        base=lambda plan: Plan(tuning=Tuning(chunk=plan.tuning.chunk), stack=count, tile=16),
        without=lambda plan: replace(plan, stack=1),
        together=16,
    )


TECHNIQUES = {
    "pool": Technique(
        without=lambda plan: replace(plan, workers=1, threads=torch.get_num_threads()),
        off=lambda: replaced(calibration, "forks", lambda: False),
    ),
    "mallopt": Technique(off=lambda: replaced(local, "_keep_memory", lambda: None)),
    "channels last": Technique(
        applies=images,
        without=lambda plan: replace(plan, tuning=replace(plan.tuning, layout="contiguous")),
        off=lambda: replaced(calibration, "_has_images", lambda objective: False),
    ),
    "stack of 4": stacked(4),
    "stack of 16": stacked(16),
}


class Times:
    """Seconds of the processor and on the wall, round by round, of the two sides; and their losses."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
        self.losses: dict[str, list[np.ndarray]] = {"with": [], "without": []}

    def add(self, side: str, processor: float, wall: float, losses: np.ndarray) -> None:
        self.seconds[side].append((processor, wall))
        self.losses[side].append(losses)

    def show(self, label: str) -> None:
        """Print the ratios of "without" over "with"."""
        words = []
        for k, clock in enumerate(("processor", "wall")):
            with_it, without = ([pair[k] for pair in self.seconds[side]] for side in ("with", "without"))
            median = statistics.median(b / a for a, b in zip(with_it, without, strict=True))
            words.append(f"{clock} {median:5.2f}, smallest {min(without) / min(with_it):5.2f}")
        a, b = (np.concatenate(self.losses[side]) for side in ("with", "without"))
        rounds, typical = len(self.seconds["with"]), statistics.median(pair[1] for pair in self.seconds["with"])
        print(
            f"{label} {'  '.join(words)}  ({rounds} rounds of {typical:.3f} s)  "
            f"difference {np.nanmax(np.abs(a / b - 1)):.0e}",
            flush=True,
        )


def by_turns(sides: dict[str, Callable[[int], tuple[float, float, np.ndarray]]], rounds: int, seconds: float) -> Times:
    """Both sides in alternation, after one turn that warms up: at least so many rounds, and for so many seconds."""
    times, number, begun = Times(), -1, time.perf_counter()
    while number < rounds or time.perf_counter() - begun < seconds:
        for side in [*sides][:: 1 if number % 2 else -1]:
            found = sides[side](number)
            if number >= 0:
                times.add(side, *found)
        number += 1
    return times


# -- points ---------------------------------------------------------------------------------------------------
class Side:
    """A worker process that computes what it is asked for and says how long that took."""

    def __init__(self, loss: PlaneLoss, points: np.ndarray) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(loss, points, theirs), daemon=True)
        self._process.start()

    @staticmethod
    def _serve(loss: PlaneLoss, points: np.ndarray, connection: Any) -> None:
        torch.set_num_threads(1)
        local._keep_memory()
        while (number := connection.recv()) is not None:
            start, wall = time.thread_time(), time.perf_counter()
            found = loss.measure_points(points[number])[:, 0].numpy()
            connection.send((time.thread_time() - start, time.perf_counter() - wall, found))

    def __call__(self, number: int) -> tuple[float, float, np.ndarray]:
        self._connection.send(number % 64)
        return self._connection.recv()

    def stop(self) -> None:
        self._connection.send(None)
        self._process.join()


def compare_points(name: str, policy: str, techniques: list[str], rounds: int, seconds: float) -> None:
    """Points of one network under one policy."""
    _, _, objective, plane, buffers, moved, _ = grid.prepared(name)
    if not objective.has_running_statistics:
        policy = "none"
    loss = PlaneLoss(objective, plane, buffers, policy, moved)
    chosen = calibration.choose(loss, 10**9)
    print(f"{name:12s} {policy:6s} {chosen.sentence()}", flush=True)
    layout = "channels_last" if images(loss) else "contiguous"
    best = replace(chosen, workers=cores(), threads=1, layout=layout, tile=1)
    for technique in techniques:
        way = TECHNIQUES[technique]
        if not way.applies(loss):
            continue
        label = f"{name:12s} {policy:6s} {technique:14s}"
        plan = way.base(best)
        if technique == "pool":
            plans = {"with": plan.apply(loss), "without": way.without(plan).apply(loss)}
            bursts = {side: lambda number, one=one: burst(one) for side, one in plans.items()}
            by_turns(bursts, rounds, seconds).show(label)
            continue
        points = np.random.default_rng(0).normal(size=(64, way.together, 2))
        sides = {"with": Side(plan.apply(loss), points)}
        with way.off():
            sides["without"] = Side(way.without(plan).apply(loss), points)
        by_turns(sides, rounds, seconds).show(label)
        for side in sides.values():
            side.stop()


def burst(loss: PlaneLoss) -> tuple[float, float, np.ndarray]:
    """A dozen points by the engine of this machine, start of its workers included."""
    return _counted(lambda: _computed(loss, np.random.default_rng(0).normal(size=(12, 2))))


def _computed(loss: PlaneLoss, where: np.ndarray) -> np.ndarray:
    found = np.empty(len(where))
    for tile in local.points(loss, where):
        found[tile.index] = tile.loss
    return found


def _counted(work: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Seconds of the processors (ended children included), on the wall, and the result."""

    def used() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in both)

    wall, processor = time.perf_counter(), used()
    result = work()
    return used() - processor, time.perf_counter() - wall, result


# -- the whole ------------------------------------------------------------------------------------------------
def compare_analyses(name: str, policy: str, techniques: list[str], rounds: int) -> None:
    """`analyze` on a run of one network under one policy."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model, batches = grid.MODELS[name]()
        run = Path(folder) / "run.zarr"
        samples = sum(len(y) for _, y in batches)
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        with record(model, optimizer, run, every=1, criterion=criterion, data=batches, samples=samples):
            for x, y in (batches * 3)[:6]:
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()
        objective = grid.objective_of(model, batches)
        if not objective.has_running_statistics:
            policy = "none"
        loss = PlaneLoss(objective, None, torch.zeros(objective.buffer_layout.size), policy)

        def whole() -> np.ndarray:
            kind = policy if policy != "none" else None
            return analyze(run, size=SIZES[name], batch_norm=kind, fresh=True, progress=False).loss.ravel()

        for technique in techniques:
            way = TECHNIQUES[technique]
            if not way.applies(loss) or way.off is nullcontext:
                continue

            def without(_: int, way: Technique = way) -> tuple[float, float, np.ndarray]:
                with way.off():
                    return _counted(whole)

            sides = {"with": lambda _: _counted(whole), "without": without}
            by_turns(sides, rounds, 0).show(f"{name:12s} {policy:6s} {technique:14s} analyze")


def main() -> None:
    """Parse and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(grid.MODELS))
    parser.add_argument("--policies", default="batch,fixed")
    parser.add_argument("--techniques", default=",".join(TECHNIQUES))
    parser.add_argument("--rounds", type=int, default=9, help="at least")
    parser.add_argument("--seconds", type=float, default=15, help="for each technique, about")
    parser.add_argument("--analyze", action="store_true", help="whole calls of `analyze`")
    options = parser.parse_args()
    techniques = options.techniques.split(",")
    for name in options.models.split(","):
        for policy in options.policies.split(",") if name != "transformer" else ["none"]:
            if options.analyze:
                compare_analyses(name, policy, techniques, options.rounds)
            else:
                compare_points(name, policy, techniques, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
