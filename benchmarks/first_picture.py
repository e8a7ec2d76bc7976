"""What a user waits for: the first picture of `analyze`, a draft, and the full grid, each as the command is given.

Each is a process of its own, started on the same run in turn; its seconds are counted from the start of the process.
The first picture is there when the run holds a lattice of 4×4 points or more, as `view --follow` would show it. The
draft (`--quality draft`) is compared with the full grid: its differences are shares of what the loss of the full grid
changes along the path.

    python benchmarks/first_picture.py [--models mnist,resnet18,transformer] [--size 25] [--samples 1024] [--steps 60]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from grid import resnet18, transformer
from torch import nn

from landscape_hooks import LandscapeError, Surface, record

FIRST = 16
"""Points of the first picture."""


def mnist() -> tuple[nn.Module, list]:
    """1,199,882 parameters, as of PyTorch's MNIST example; images of 28×28 with a pattern for each class."""
    body = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10))
    y = torch.randint(0, 10, (1024,))
    x = torch.randn(10, 1, 28, 28)[y] + 2 * torch.randn(1024, 1, 28, 28)
    return model, list(zip(x.split(64), y.split(64), strict=True))


MODELS = {"mnist": mnist, "resnet18": resnet18, "transformer": transformer}


def trained(name: str, run: Path, steps: int, samples: int) -> None:
    """A run of `steps` steps over the probe's batches."""
    torch.manual_seed(0)
    model, batches = MODELS[name]()
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    with record(model, optimizer, run, criterion=loss, data=batches, samples=samples, verbose=False):
        for step in range(steps):
            x, y = batches[step % len(batches)]
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()


def timed(run: Path, name: str, *options: str) -> tuple[float, float]:
    """Seconds until the first picture of the surface `name`, and until the command is done."""
    command = [sys.executable, "-m", "landscape_hooks", "analyze", str(run), "--name", name, *options]
    start, first = time.perf_counter(), float("nan")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if not first < float("inf") and (points(run, name) >= FIRST):
            first = time.perf_counter() - start
        time.sleep(0.1)
    whole = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    return (first if first < float("inf") else whole), whole


def points(run: Path, name: str) -> int:
    """Number of grid points of a surface that are there."""
    try:
        return int(Surface.open(run, name).present.sum())
    except (LandscapeError, OSError):  # not yet
        return 0


def compare(name: str, arguments: argparse.Namespace) -> None:
    """Print one line."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run.zarr")
        trained(name, run, arguments.steps, arguments.samples)
        size = ["--size", str(arguments.size)]
        first, full = timed(run, "full", *size)
        _, draft = timed(run, "draft", *size, "--quality", "draft")
        exact, rough = Surface.open(run, "full"), Surface.open(run, "draft")
        contrast = np.ptp(exact.path_loss)
        error = np.abs(rough.loss - exact.loss) / contrast
        print(
            f"{name:12s} first picture {first:6.1f} s   draft {draft:6.1f} s   full grid {full:6.1f} s   "
            f"draft/full {draft / full:.2f}   error of the draft: median {np.median(error):.2%}, "
            f"95th percentile {np.quantile(error, 0.95):.2%}; {rough.evaluated.sum()} of {rough.loss.size} points, "
            f"{rough.attrs['samples']} of {exact.attrs['samples']} samples",
            flush=True,
        )


def main() -> None:
    """Compare on each of the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="mnist,resnet18,transformer")
    parser.add_argument("--size", type=int, default=25)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    for name in arguments.models.split(","):
        compare(name, arguments)


if __name__ == "__main__":
    main()
