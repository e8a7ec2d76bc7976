"""Time and memory of the trajectory's PCA, from the store, against scikit-learn's and against bare reading.

    python benchmarks/pca.py [--snapshots 100] [--parameters 11200000] [--store DIR] [--only read,gram,again]

Each way runs in a process of its own, so that its peak memory is its own; the store is written once and read into the
page cache before. `read` reads every block once and does nothing with it.
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

WAYS = ("read", "gram", "again", "incremental", "memory")


def write_run(path: Path, snapshots: int, parameters: int) -> None:
    """A run with a smooth path: a decaying curve in ten directions and a random walk."""
    from landscape_hooks import store
    from landscape_hooks.parameters import ParameterEntry, ParameterLayout
    from landscape_hooks.trajectory import Rows, TrajectoryWriter

    layout = ParameterLayout([ParameterEntry("w", (parameters,), "float32", 0, parameters)])
    writer = TrajectoryWriter.create(store.create_run(str(path)), layout, ParameterLayout([], kind="buffer"), groups=1)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(parameters, dtype=np.float32)
    pulls = [rng.standard_normal(parameters, dtype=np.float32) for _ in range(4)]
    for t in range(snapshots):
        for k, pull in enumerate(pulls):
            weights += np.float32(0.3 * np.exp(-t / (5 + 20 * k)) / (k + 1)) * pull
        weights += np.float32(0.003) * rng.standard_normal(parameters, dtype=np.float32)
        scalars = {"step": [t], "epoch": [np.nan], "loss": [np.nan], "wall_time": [1e9 + t]}
        writer.append(Rows(weights[None], np.empty((1, 0), np.float32), scalars, np.array([[0.1]])))


def measure(path: str, way: str) -> None:
    """Run one way in this process and print its figures as JSON."""
    import sklearn.decomposition

    from landscape_hooks import gram, store
    from landscape_hooks.directions import pca
    from landscape_hooks.trajectory import Trajectory

    trajectory = Trajectory.open(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, used = time.perf_counter(), time.process_time()
    ratio = [float("nan")] * 2
    if way == "read":
        width = trajectory.chunk
        for first in range(0, trajectory.layout.size, width):
            trajectory.block(columns=slice(first, first + width))
    elif way in ("gram", "again"):
        root = store.open_run(path, mode="r+")
        if way == "gram":
            gram.forget(root)
        ratio = pca.directions(trajectory, gram=gram.stored(root, trajectory)).explained_variance_ratio.tolist()
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


def main() -> None:
    """Write the run, and measure every way in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshots", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=11_200_000)
    parser.add_argument("--store")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.store, options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.store or folder) / "bench.zarr"
        if not path.exists():
            write_run(path, options.snapshots, options.parameters)
        shown = {}
        for way in options.only.split(",") * options.rounds:
            command = [sys.executable, __file__, "--measure", way, "--store", str(path)]
            shown[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found = shown[way]
            against = found["seconds"] / shown["read"]["seconds"] if "read" in shown else float("nan")
            ratio = " + ".join(f"{r:.6f}" for r in found["ratio"])
            times = f"{found['seconds']:8.2f} s  {against:6.2f}× reading  cpu {found['cpu']:6.1f} s"
            memory = f"peak {found['memory']:5.2f} GB (interpreter {found['interpreter']:.2f} GB)"
            print(f"{way:12s} {times}  {memory}  variance {ratio}", flush=True)


if __name__ == "__main__":
    main()
