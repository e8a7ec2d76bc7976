"""A fine surface from few evaluations: `adaptive` against the loss itself, on the digits network.

    python benchmarks/adaptive.py [--size 201] [--samples 1024] [--tolerance 0.01] [--check 2000]

Prints the share of the points that was evaluated, and the relative error of the interpolated
ones against the loss computed there.
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

from landscape_hooks import Surface, Trajectory, analyze, record
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.plane import Plane
from landscape_hooks.store.run import open_run


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


def exact(path: Path, policy: str, surface: Surface, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated points chosen at random, and the loss computed there."""
    root, trajectory = open_run(path), Trajectory.open(path)
    group = root[f"surfaces/{policy}"]
    plane = Plane(group["origin"][...], group["directions"][...])
    loss = PlaneLoss(Objective.load(root).head(options.samples), plane, trajectory[-1].buffers, policy)
    left = np.flatnonzero(surface.interpolated)
    where = np.random.default_rng(1).choice(left, min(options.check or len(left), len(left)), replace=False)
    rows, columns = np.unravel_index(where, surface.shape)
    return where, np.array(
        [loss.at(surface.alpha[i], surface.beta[j]).mean for i, j in zip(rows, columns, strict=True)]
    )


def main() -> None:
    """Train, draw the surface under each policy, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=201)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--policies", default="fixed,batch")
    parser.add_argument("--check", type=int, default=0, help="compare at so many points; 0 is all")
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.zarr"
        train(path, options.epochs)
        for policy in options.policies.split(","):
            start = time.perf_counter()
            surface = analyze(
                path, batch_norm=policy, size=options.size, samples=options.samples, adaptive=options.tolerance,
                name=policy, progress=False,
            )  # fmt: skip
            middle = time.perf_counter()
            where, truth = exact(path, policy, surface, options)
            end = time.perf_counter()
            error = np.abs(surface.loss.ravel()[where] / truth - 1)
            share = f"evaluated {surface.evaluated.sum()} of {surface.loss.size} (1/{1 / surface.evaluated.mean():.0f})"
            spread = f"error median {np.median(error):.1e}, 95th percentile {np.quantile(error, 0.95):.1e}"
            whole = (end - middle) / len(where) * surface.loss.size
            times = f"{middle - start:.0f} s against {whole:.0f} s for all points, one by one"
            print(
                f"{policy:12s} {share}; at {len(where)} points: {spread}, largest {error.max():.1e}; {times}",
                flush=True,
            )


if __name__ == "__main__":
    main()
