"""Learning rate and batch size: where four trainings end, and how sharp it is there.

Two learning rates times two batch sizes, from the same start, each for the same number of epochs. Two views:

- the paths of all four in one joint plane: small steps stop on the way, small batches wander;
- the loss along one random filter-normalised direction around each solution, in one figure. Filter normalisation makes
  these comparable (Li et al. 2018, section 4): without it the larger weights of a network look flatter.

    python examples/learning_rate.py --out runs/learning_rate
    landscape-hooks view runs/learning_rate/rate0.1_batch16.zarr
"""

import argparse
from pathlib import Path

import torch
from digits import accuracy, digits, shuffled
from matplotlib.figure import Figure
from torch import nn

from landscape_hooks import Surface, analyze, contour_figure, record, write_ply

SETTINGS = [(0.1, 16), (0.1, 64), (0.3, 16), (0.3, 64)]  # (learning rate, batch size)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def train(rate: float, batch: int, store: Path, epochs: int) -> float:
    """Train with plain SGD, recorded into `store`; returns the accuracy on the test images."""
    torch.manual_seed(0)
    images, unseen = digits()
    loader, model, criterion = shuffled(images, batch), network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with record(model, optimizer, store, criterion=criterion, data=images, keep=60) as recorder:
        for epoch in range(epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                recorder.log(loss=loss, epoch=epoch)
                optimizer.step()
    return accuracy(model, unseen)


def curves(lines: dict[str, Surface]) -> Figure:
    """The curves in one figure."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, surface in lines.items():
        axes.plot(surface.alpha, surface.loss[:, 0], marker=".", label=name)
    axes.set_yscale("log")
    axes.set_xlabel("alpha: multiples of a random filter-normalised direction")
    axes.set_ylabel("loss on the probe samples")
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/learning_rate"), help="where to write (%(default)s)")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the 1,437 images (%(default)s)")
    parser.add_argument(
        "--size", type=int, default=25, help="points along each axis of the joint surface (%(default)s)"
    )
    arguments = parser.parse_args()

    runs, around = [], {}
    for rate, batch in SETTINGS:
        run = arguments.out / f"rate{rate}_batch{batch}.zarr"
        right = train(rate, batch, run, arguments.epochs)
        runs.append(run)
        line = analyze(run, directions="random", extent=(-1, 1), size=(2 * arguments.size + 1, 1))
        around[f"learning rate {rate}, batch {batch}"] = line
        print(
            f"learning rate {rate}, batch {batch}: {right:.1%} of the test images right, "
            f"loss {line.path_loss[-1]:.4f}; highest on the random line {line.loss.max():.3f}",
            flush=True,
        )
    curves(around).savefig(arguments.out / "curves.png", dpi=150)

    joint = analyze(*runs, size=arguments.size, name="joint")
    print(*joint.attrs["report"], sep="\n")
    write_ply(joint, arguments.out / "joint.ply")
    contour_figure(joint).savefig(arguments.out / "joint.png")


if __name__ == "__main__":
    main()
