"""Several optimizers on one surface: SGD, momentum, Adam and RMSprop from the same start, in one joint plane.

The four trainings see the same batches in the same order. The plane is that of the main directions of all four paths
together, so the replay shows them descending the same hill at the same time.

    python examples/optimizers.py --out runs/optimizers
    landscape-hooks view runs/optimizers/sgd.zarr
"""

import argparse
from pathlib import Path

import torch
from digits import accuracy, digits, shuffled
from torch import nn

from landscape_hooks import analyze, contour_figure, record, write_ply
from landscape_hooks.export.figure import loss_figure
from landscape_hooks.viewer.offscreen import render

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
}


def network() -> nn.Module:
    """A small convolutional network; without BatchNorm, so that its loss is one function of its weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def train(name: str, store: Path, epochs: int) -> float:
    """Train with one of the optimizers, recorded into `store`; returns the accuracy on the test images."""
    torch.manual_seed(0)  # the same start for each
    images, unseen = digits()
    loader, model, criterion = shuffled(images, 64), network(), nn.CrossEntropyLoss()
    optimizer = OPTIMIZERS[name](model.parameters())
    with record(model, optimizer, store, criterion=criterion, data=images, keep=60) as recorder:
        for epoch in range(epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                recorder.log(loss=loss, epoch=epoch)
                optimizer.step()
    return accuracy(model, unseen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers"), help="where to write (%(default)s)")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the 1,437 images (%(default)s)")
    parser.add_argument("--size", type=int, default=25, help="points along each axis of the surface (%(default)s)")
    parser.add_argument("--frames", type=int, default=72, help="pictures of the replay (%(default)s)")
    arguments = parser.parse_args()

    runs = [arguments.out / f"{name}.zarr" for name in OPTIMIZERS]
    for name, run in zip(OPTIMIZERS, runs, strict=True):
        print(f"{name}: {train(name, run, arguments.epochs):.1%} of the test images right", flush=True)

    surface = analyze(*runs, size=arguments.size, name="optimizers")  # stored in the first run
    print(*surface.attrs["report"], sep="\n")
    stem = arguments.out / "optimizers"
    write_ply(surface, stem.with_suffix(".ply"))
    contour_figure(surface).savefig(f"{stem}_contours.png")
    loss_figure(surface).savefig(f"{stem}_loss.png")
    render(surface, stem.with_suffix(".gif"), size=(800, 500), frames=arguments.frames)


if __name__ == "__main__":
    main()
