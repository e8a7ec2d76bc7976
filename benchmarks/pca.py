"""Time and memory of the trajectory's PCA, from the store, against scikit-learn's and against bare reading.

    python benchmarks/pca.py [--snapshots 100] [--parameters 11200000] [--store DIR] [--only read,gram,again]
    python benchmarks/pca.py --crossing [--snapshots 1024,2048,4096] [--parameters 1000,10000]

Each way runs in a process of its own, so that its peak memory is its own; the store is written once and read into the
page cache before. `zarr` reads every chunk once with zarr itself and does nothing with it; `read` does so the way the
analysis reads. `--crossing` runs the two solvers for each number of snapshots and parameters, with processor times.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WAYS = ("zarr", "read", "gram", "again", "incremental", "memory")


def write_run(path: Path, snapshots: int, parameters: int) -> None:
    """A run with a smooth path: a decaying curve in ten directions and a random walk."""
    from landscape_hooks.store.run import create_run
    from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
    from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter

    layout = ParameterLayout([ParameterEntry("w", (parameters,), "float32", 0, parameters)])
    writer = TrajectoryWriter.create(create_run(str(path)), layout, ParameterLayout([], kind="buffer"), groups=1)
    rng = np.random.default_rng(0)
    together = max(1, min(snapshots, 2**23 // parameters))
    weights = rng.standard_normal(parameters, dtype=np.float32)
    pulls = [rng.standard_normal(parameters, dtype=np.float32) for _ in range(4)]
    waiting: list[np.ndarray] = []
    for t in range(snapshots):
        for k, pull in enumerate(pulls):
            weights += np.float32(0.3 * np.exp(-t / (5 + 20 * k)) / (k + 1)) * pull
        weights += np.float32(0.003) * rng.standard_normal(parameters, dtype=np.float32)
        waiting.append(weights.copy())
        if len(waiting) == together or t == snapshots - 1:
            n, steps = len(waiting), np.arange(t + 1 - len(waiting), t + 1)
            scalars = {"step": steps, "epoch": [np.nan] * n, "loss": [np.nan] * n, "wall_time": 1e9 + steps}
            writer.append(Rows(np.stack(waiting), np.empty((n, 0), np.float32), scalars, np.full((n, 1), 0.1)))
            waiting.clear()


def measure(path: str, way: str) -> None:
    """Run one way in this process and print its figures as JSON."""
    import sklearn.decomposition

    from landscape_hooks.plane import gram
    from landscape_hooks.plane.directions import pca
    from landscape_hooks.store.run import open_run
    from landscape_hooks.trajectory.trajectory import Trajectory

    trajectory = Trajectory.open(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, used = time.perf_counter(), time.process_time()
    ratio = [float("nan")] * 2
    if way == "zarr":
        array = open_run(path)["trajectory/weights"]
        for first in range(0, array.shape[1], array.chunks[1]):
            array[: len(trajectory), first : first + array.chunks[1]]
    elif way == "read":
        width = max(1, 2**25 // (4 * len(trajectory)))
        for first in range(0, trajectory.layout.size, width):
            trajectory.block(columns=slice(first, first + width))
    elif way in ("gram", "again"):
        root = open_run(path, mode="r+")
        if way == "gram":
            gram.forget(root)
        ratio = pca.directions(trajectory, gram=gram.stored(root, trajectory)).explained_variance_ratio.tolist()
    elif way == "solver":  # what `analyze` takes above the crossing
        ratio = pca.directions(trajectory, solver="incremental").explained_variance_ratio.tolist()
    elif way == "incremental":
        fit = sklearn.decomposition.IncrementalPCA(8)
        for first in range(0, len(trajectory), 10):
            fit.partial_fit(trajectory.block(slice(first, first + 10)))
        ratio = fit.explained_variance_ratio_[:2].tolist()
    else:
        ratio = (
            sklearn.decomposition.PCA(2, svd_solver="full").fit(trajectory.block()).explained_variance_ratio_.tolist()
        )
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": processor,
                "memory": peak / 2**20,
                "interpreter": before / 2**20,
                "ratio": ratio,
            }
        )
    )


def measured(path: Path, way: str) -> dict:
    """The figures of one way, taken in a process of its own."""
    command = [sys.executable, __file__, "--measure", way, "--store", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def crossing(snapshots: list[int], parameters: list[int], most: float) -> None:
    """The Gram matrix and IncrementalPCA side by side; a way that took longer than `most` seconds is left out above."""
    for size in parameters:
        late: set[str] = set()
        for count in snapshots:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "bench.zarr"
                write_run(path, count, size)
                words = []
                for way in ("gram", "solver"):
                    if way in late:
                        words.append(f"{way} left out")
                        continue
                    found = measured(path, way)
                    if found["seconds"] > most:
                        late.add(way)
                    above = found["memory"] - found["interpreter"]
                    words.append(f"{way} {found['seconds']:7.2f} s (cpu {found['cpu']:7.2f} s), {above:5.2f} GB")
            print(f"T={count:6d} D={size:8d}  {'   '.join(words)}", flush=True)


def main() -> None:
    """Write the run, and measure every way in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshots", default="")
    parser.add_argument("--parameters", default="")
    parser.add_argument("--store")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--crossing", action="store_true", help="both solvers over T and D")
    parser.add_argument("--most", type=float, default=60, help="seconds that a way of --crossing may take")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.store, options.measure)
        return
    if options.crossing:
        counts, sizes = options.snapshots or "512,1024,2048,4096,8192", options.parameters or "1000,10000,100000"
        crossing([int(n) for n in counts.split(",")], [int(n) for n in sizes.split(",")], options.most)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.store or folder) / "bench.zarr"
        if not path.exists():
            write_run(path, int(options.snapshots or 100), int(options.parameters or 11_200_000))
        shown: dict[str, dict] = {}
        for way in options.only.split(",") * options.rounds:
            shown[way] = found = measured(path, way)
            bare = shown.get("zarr") or shown.get("read")
            against = found["seconds"] / bare["seconds"] if bare else float("nan")
            ratio = " + ".join(f"{r:.6f}" for r in found["ratio"])
            times = f"{found['seconds']:8.2f} s  {against:6.2f}× reading  cpu {found['cpu']:6.1f} s"
            memory = f"peak {found['memory']:5.2f} GB (interpreter {found['interpreter']:.2f} GB)"
            print(f"{way:12s} {times}  {memory}  variance {ratio}", flush=True)


if __name__ == "__main__":
    main()
