"""Skip connections on and off: what Li et al. (2018, section 5) show, with a network that trains in a minute.

The same deep, narrow convolutional network is trained twice on scikit-learn's digits, with and without the additions
that carry a block's input around it. Then the loss around each solution, in a random filter-normalised plane with
the same extent: with skip connections a bowl, without them rough walls.

    python examples/skip_connections.py --out runs/skip
    landscape-hooks view runs/skip/with.zarr --name random
    landscape-hooks view runs/skip/without.zarr --name random
"""

import argparse
from pathlib import Path

import torch
from digits import accuracy, digits, shuffled
from torch import Tensor, nn

from landscape_hooks import analyze, contour_figure, record, write_ply
from landscape_hooks.viewer.offscreen import render


class Block(nn.Module):
    """Two convolutions with BatchNorm, and the skip connection around them."""

    def __init__(self, channels: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        changed = self.body(features)
        return torch.relu(features + changed if self.skip else changed)


def network(blocks: int, skip: bool, channels: int = 16) -> nn.Module:
    """A network of 2·blocks + 2 layers for 8×8 images."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        *[Block(channels, skip) for _ in range(blocks)],
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10),
    )  # fmt: skip


def train(skip: bool, store: Path, blocks: int, epochs: int, samples: int) -> float:
    """Train the network, recorded into `store`; returns the accuracy on the test images."""
    torch.manual_seed(0)
    images, unseen = digits()
    loader, model, criterion = shuffled(images, 64), network(blocks, skip), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    with record(model, optimizer, store, criterion=criterion, data=images, samples=samples, keep=40) as recorder:
        for epoch in range(epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                recorder.log(loss=loss, epoch=epoch)
                optimizer.step()
            schedule.step()
    return accuracy(model, unseen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/skip"), help="where to write (%(default)s)")
    parser.add_argument("--blocks", type=int, default=14, help="blocks of two convolutions (%(default)s: 30 layers)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the 1,437 images (%(default)s)")
    parser.add_argument("--samples", type=int, default=256, help="images on which the loss is drawn (%(default)s)")
    parser.add_argument("--size", type=int, default=25, help="points along each axis of a surface (%(default)s)")
    arguments = parser.parse_args()

    for name, skip in (("with", True), ("without", False)):
        run = arguments.out / f"{name}.zarr"
        right = train(skip, run, arguments.blocks, arguments.epochs, arguments.samples)
        surface = analyze(run, directions="random", extent=(-1, 1, -1, 1), size=arguments.size, batch_norm="fixed")
        print(f"{name} skip connections: {right:.1%} of the test images right, loss {surface.path_loss[-1]:.4f}, "
              f"highest loss in the plane {surface.loss.max():.3g}", flush=True)  # fmt: skip
        stem = arguments.out / name
        write_ply(surface, stem.with_suffix(".ply"))
        contour_figure(surface).savefig(f"{stem}_contours.png")
        render(surface, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
