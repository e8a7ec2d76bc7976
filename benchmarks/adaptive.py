"""A fine surface from few evaluations: `adaptive` against the full grid, on the digits network.

    python benchmarks/adaptive.py [--size 201] [--samples 1024] [--tolerance 0.01] [--policies fixed,batch]

Prints the share of the points that was evaluated, and the relative error of the interpolated
ones against the full grid.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from grid import digits
from torch import nn

from landscape_hooks import analyze, record


def train(path: Path, epochs: int) -> None:
    """The digits network with SGD and momentum, recorded."""
    torch.manual_seed(0)
    model, batches = digits()
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with record(model, optimizer, path, every=4 if epochs > 1 else 1, criterion=loss, data=batches):
        for _ in range(epochs):
            for x, y in batches:
                for part in range(0, len(y), 64):
                    optimizer.zero_grad()
                    loss(model(x[part : part + 64]), y[part : part + 64]).backward()
                    optimizer.step()


def main() -> None:
    """Train, draw both surfaces under each policy, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=201)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--policies", default="fixed,batch")
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.zarr"
        train(path, options.epochs)
        for policy in options.policies.split(","):
            common = {"batch_norm": policy, "size": options.size, "samples": options.samples, "progress": False}
            start = time.perf_counter()
            sparse = analyze(path, **common, adaptive=options.tolerance, name=f"{policy}-adaptive")
            middle = time.perf_counter()
            full = analyze(path, **common, name=f"{policy}-full")
            end = time.perf_counter()
            error = np.abs(sparse.loss / full.loss - 1)[sparse.interpolated]
            share = f"evaluated {sparse.evaluated.sum()} of {full.loss.size} (1/{1 / sparse.evaluated.mean():.0f})"
            spread = f"error median {np.median(error):.1e}, 95th percentile {np.quantile(error, 0.95):.1e}"
            times = f"{middle - start:.0f} s against {end - middle:.0f} s"
            print(f"{policy:12s} {share}, {spread}, largest {error.max():.1e}; {times}", flush=True)


if __name__ == "__main__":
    main()
