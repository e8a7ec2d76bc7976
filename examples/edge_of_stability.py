"""The edge of stability: gradient descent drives the sharpness up to 2/η, and holds it there.

A small network is trained on the whole of scikit-learn's digits at every step (1,000 images, squared error), with
several learning rates η. The largest eigenvalue of the Hessian, the sharpness, rises until it reaches 2/η, the
curvature above which steps of that rate are unstable, and then stays at it, while the loss goes on falling (Cohen et
al. 2021, https://arxiv.org/abs/2103.00065). What the recorder keeps is enough to see it: no line of the training
measures it.

    python examples/edge_of_stability.py --out runs/edge
    landscape-hooks curvature runs/edge/*.zarr --probes 2 --snapshots 60 --png edge.png
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from landscape_hooks import Curvature, curvature, curvature_figure, record


def data(samples: int) -> tuple[Tensor, Tensor]:
    """Images (samples, 64) about their mean, and targets (samples, 10) of ones and zeros."""
    raw = load_digits()
    images = torch.tensor(raw.data[:samples], dtype=torch.float32) / 16
    return images - images.mean(dim=0), nn.functional.one_hot(torch.tensor(raw.target[:samples]), 10).float()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).sum(dim=1).mean() / 2


def train(store: Path, rate: float, steps: int, batch: tuple[Tensor, Tensor]) -> None:
    """Full-batch gradient descent: the probe samples are all samples, so the recorded loss is the one descended."""
    torch.manual_seed(0)
    images, targets = batch
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with record(
        model, optimizer, store, criterion=squared_error, data=batch, samples=len(images), if_exists="overwrite"
    ):
        for _ in range(steps):
            optimizer.zero_grad()
            squared_error(model(images), targets).backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/edge"), help="folder for the runs and the figure")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.2, 0.25, 0.35], help="learning rates")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=1000, help="images to train on")
    parser.add_argument("--snapshots", type=int, default=60, help="at how many the curvature is computed")
    options = parser.parse_args()

    found: list[Curvature] = []
    for rate in options.rates:
        store = options.out / f"{rate:g}.zarr"
        train(store, rate, options.steps, data(options.samples))
        found.append(curvature(store, snapshots=options.snapshots, top=1, probes=2))
        print(f"learning rate {rate:g}:", *found[-1].attrs["report"])
    picture = options.out / "edge_of_stability.png"
    curvature_figure(found).savefig(picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
