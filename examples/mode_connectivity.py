"""Mode connectivity: two solutions with a wall between them, and the curve that goes around it.

Two networks are trained from different starts. On the straight line between them the loss is high. Then a third point
is trained such that the loss is low all along a curve that it bends (Garipov et al. 2018,
https://arxiv.org/abs/1802.10026): the quadratic Bézier curve from the one solution to the other. The surface is drawn
in the plane through the three points, in which the whole curve lies.

    python examples/mode_connectivity.py --out runs/connected
    landscape-hooks view runs/connected/first.zarr
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from digits import accuracy, digits, shuffled
from torch import Tensor, nn
from torch.func import functional_call

from landscape_hooks import analyze, contour_figure, record, write_ply
from landscape_hooks.viewer.offscreen import render

Weights = dict[str, Tensor]
CRITERION = nn.CrossEntropyLoss()


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def train(seed: int, store: Path, epochs: int) -> nn.Module:
    """A solution: a network trained from the start that the seed gives, recorded into `store`."""
    torch.manual_seed(seed)
    images, unseen = digits()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with record(model, optimizer, store, criterion=CRITERION, data=images, keep=40):
        for epoch in range(epochs):
            for inputs, targets in shuffled(images, 64, seed=epoch):
                optimizer.zero_grad()
                CRITERION(model(inputs), targets).backward()
                optimizer.step()
    print(f"{store.stem}: {accuracy(model, unseen):.1%} of the test images right", flush=True)
    return model


def weights(model: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def bezier(first: Weights, bend: Weights, second: Weights, t: float) -> Weights:
    """The weights at t of the curve from first (t = 0) to second (t = 1) (Garipov et al., equation 4)."""
    return {name: (1 - t) ** 2 * first[name] + 2 * t * (1 - t) * bend[name] + t**2 * second[name] for name in first}


def train_bend(first: Weights, second: Weights, store: Path, epochs: int) -> nn.Module:
    """The point that bends the curve: trained at random places of the curve, from the middle of the straight line."""
    torch.manual_seed(0)
    images, _ = digits()
    bend = network()
    bend.load_state_dict({name: (first[name] + second[name]) / 2 for name in first})
    optimizer = torch.optim.Adam(bend.parameters(), lr=3e-3)
    with record(bend, optimizer, store, criterion=CRITERION, data=images, keep=40):
        for epoch in range(epochs):
            for inputs, targets in shuffled(images, 64, seed=epoch):
                optimizer.zero_grad()
                somewhere = bezier(first, dict(bend.named_parameters()), second, torch.rand(()).item())
                CRITERION(functional_call(bend, somewhere, (inputs,)), targets).backward()
                optimizer.step()
    return bend


def highest_loss(first: Weights, bend: Weights, second: Weights) -> float:
    """The highest training loss at 21 points of the curve."""
    images, targets = digits()[0].tensors
    model = network()
    with torch.no_grad():
        curve = (bezier(first, bend, second, t) for t in np.linspace(0, 1, 21))
        return max(CRITERION(functional_call(model, place, (images,)), targets).item() for place in curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/connected"), help="where to write (%(default)s)")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the 1,437 images (%(default)s)")
    parser.add_argument("--size", type=int, default=25, help="points along each axis of the surface (%(default)s)")
    arguments = parser.parse_args()

    runs = [arguments.out / f"{name}.zarr" for name in ("first", "second", "bend")]
    first = weights(train(1, runs[0], arguments.epochs))
    second = weights(train(2, runs[1], arguments.epochs))
    bend = weights(train_bend(first, second, runs[2], arguments.epochs))
    middle = {name: (first[name] + second[name]) / 2 for name in first}
    print(f"highest loss on the straight line {highest_loss(first, middle, second):.4f}, "
          f"on the curve {highest_loss(first, bend, second):.4f}")  # fmt: skip

    surface = analyze(*runs, directions="points", size=arguments.size)  # through the three final snapshots
    print(*surface.attrs["report"], sep="\n")
    stem = arguments.out / "connected"
    write_ply(surface, stem.with_suffix(".ply"))
    render(surface, stem.with_suffix(".png"))

    figure = contour_figure(surface)
    a, b, c = (path.coordinates[-1] for path in surface.paths)
    t = np.linspace(0, 1, 101)[:, None]
    curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b
    figure.axes[0].plot(*curve.T, color="white", linewidth=2.5, linestyle="--")
    figure.savefig(f"{stem}_contours.png")


if __name__ == "__main__":
    main()
